//! What nodes say on the streams of their replicas.

use weir_core::deploy::DeploymentId;
use weir_core::deploy::keys::Lane;
use weir_core::ids::{
    Incarnation, LeaderEpoch, NodeId, Offset, PartitionId, PartitionIndex, TopicId,
};
use weir_core::partition::messages::{Follow, FollowAnswer, Push, Report, Verdict};
use weir_core::wire::replica::{DeliverHeader, FetchEntries, FollowOpen};

const LIFE: Incarnation = Incarnation(6);

/// A follower's question.
pub fn follow() -> FollowOpen {
    let follow = Follow {
        epoch: LeaderEpoch(4),
        node: NodeId(2),
        incarnation: LIFE,
        attempt: 3,
        log_start: Offset(5),
        durable_end: Offset(40),
        log_end: Offset(45),
        epochs: vec![(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(20))],
    };
    FollowOpen { partition: PartitionId(7), follow }
}

/// A question for entries.
pub fn fetch() -> FetchEntries {
    FetchEntries { partition: PartitionId(7), from: Offset(41) }
}

/// Every kind of answer.
pub fn answers() -> Vec<FollowAnswer> {
    let reset = Verdict::Reset { start: Offset(9), epochs: vec![(LeaderEpoch(2), Offset(0))] };
    [Verdict::Agreed, Verdict::Truncate { end: Offset(20) }, reset]
        .into_iter()
        .map(|verdict| FollowAnswer {
            epoch: LeaderEpoch(4),
            incarnation: LIFE,
            attempt: 3,
            verdict,
        })
        .collect()
}

/// What stands before entries.
pub fn push() -> Push {
    Push {
        epoch: LeaderEpoch(4),
        incarnation: LIFE,
        attempt: 3,
        high_watermark: Offset(40),
        log_start: Offset(5),
    }
}

/// What stands before a part of an outbox.
pub fn deliver() -> DeliverHeader {
    DeliverHeader {
        lane: Lane { deployment: DeploymentId(14), input: PartitionId(7) },
        offset: Offset(40),
        topic: TopicId(9),
        partition: PartitionIndex(2),
    }
}

/// A follower's word.
pub fn report() -> Report {
    let epoch = LeaderEpoch(4);
    Report { epoch, node: NodeId(2), incarnation: LIFE, durable_end: Offset(45) }
}
