//! What openraft is told about our types, and its settings.

use crate::config::{Config, Timing};
use openraft::{EmptyNode, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use weir_core::controller::{Command, Done, Refused};
use weir_core::ids::NodeId;
use weir_core::limits;

openraft::declare_raft_types!(
    /// The types of our log.
    pub Types:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = EmptyNode,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// What became of an entry; `None` of one that holds no command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome(pub Option<Result<Done, Refused>>);

pub type Raft = openraft::Raft<Types>;
pub type Entry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Membership = openraft::StoredMembership<u64, EmptyNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, EmptyNode>;
pub type StorageError = openraft::StorageError<u64>;
pub type Metrics = openraft::RaftMetrics<u64, EmptyNode>;

/// openraft's number of a node.
pub fn number(node: NodeId) -> u64 {
    u64::from(node.0)
}

/// The node of openraft's number; `None` if it cannot be one.
pub fn node(number: u64) -> Option<NodeId> {
    u32::try_from(number).ok().map(NodeId)
}

/// openraft's settings. It looks at its clock every one and a half heartbeats. A follower elects
/// after `election_timeout_max`, for which it does not vote either, and a time that it drew between
/// the two numbers at its start.
pub fn settings(config: &Config) -> openraft::Config {
    let Timing { heartbeat, election, .. } = config.timing;
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    let heartbeat = ms(heartbeat);
    openraft::Config {
        cluster_name: "weir".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: (ms(election) * 3 / 10).max(heartbeat + 1),
        election_timeout_max: (ms(election) * 6 / 10).max(heartbeat + 2),
        install_snapshot_timeout: ms(config.timing.session) * 4,
        max_payload_entries: 64,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits::SNAPSHOT_COMMANDS),
        snapshot_max_chunk_size: limits::SNAPSHOT_PART_BYTES as u64,
        max_in_snapshot_log_to_keep: limits::SNAPSHOT_COMMANDS,
        replication_lag_threshold: limits::SNAPSHOT_COMMANDS * 2,
        // Until it is known that this disk may speak for the node.
        enable_elect: false,
        ..openraft::Config::default()
    }
}
