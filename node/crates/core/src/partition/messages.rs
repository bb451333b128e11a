//! What leader and follower of one partition tell each other. Record batches travel beside these,
//! as the stored bytes of their entries.
//!
//! Every message names the leader epoch; one of another epoch is refused or dropped, never
//! interpreted. Those of a follower name its life, and the attempt that it makes in that life, so
//! that nothing said before a restart or a truncation is taken for a word on the log after it.

use crate::ids::{Incarnation, LeaderEpoch, NodeId, Offset};
use serde::{Deserialize, Serialize};

/// Where a leader epoch began in a log.
pub type EpochStart = (LeaderEpoch, Offset);

/// A follower's question: do our logs agree so far? It is what opens a replica's subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// The leader epoch that the follower knows.
    pub epoch: LeaderEpoch,
    /// The follower.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Counts the questions of this life, from 1.
    pub attempt: u64,
    /// Where its log begins.
    pub log_start: Offset,
    /// What of its log is on its disk.
    pub durable_end: Offset,
    /// Where its log ends.
    pub log_end: Offset,
    /// The newest rows of its epoch history, ascending; at most
    /// [`crate::limits::FOLLOW_EPOCHS_MAX`].
    pub epochs: Vec<EpochStart>,
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowAnswer {
    /// The leader's epoch, which is the question's.
    pub epoch: LeaderEpoch,
    /// The life that asked.
    pub incarnation: Incarnation,
    /// The attempt that asked.
    pub attempt: u64,
    /// What the leader found.
    pub verdict: Verdict,
}

/// What comparing two logs says to the follower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The follower's whole log is a beginning of the leader's: entries follow from its end on.
    Agreed,
    /// Cut the log so that it ends here, and ask again.
    Truncate {
        /// The new end.
        end: Offset,
    },
    /// The leader no longer has what comes next. Drop everything and begin here.
    Reset {
        /// The leader's log start.
        start: Offset,
        /// The leader's epoch history up to there.
        epochs: Vec<EpochStart>,
    },
}

/// What a leader says with every entry it pushes, and alone when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The follower's life that is meant.
    pub incarnation: Incarnation,
    /// The follower's attempt that this answers.
    pub attempt: u64,
    /// The end of what is committed, as the leader knows it.
    pub high_watermark: Offset,
    /// Where the leader's log begins.
    pub log_start: Offset,
}

/// A follower's word on how much of the leader's log is on its disk: its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The leader epoch in which the logs agreed.
    pub epoch: LeaderEpoch,
    /// The follower.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// The end of what is on its disk.
    pub durable_end: Offset,
}
