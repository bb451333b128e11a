//! What a node says of itself: figures, by shard, partition, module and deployment.

use super::cluster::ReplicasInfo;
use super::deployments::DeploymentStatus;
use crate::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, TimestampMs};
use serde::{Deserialize, Serialize};

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Its program version.
    pub software: String,
    /// The cluster it belongs to.
    pub cluster: String,
    /// Milliseconds since it began to serve.
    #[serde(default)]
    pub uptime_ms: u64,
    /// Its wall clock.
    #[serde(default)]
    pub node_time: TimestampMs,
    /// Conditions that a person should know of, in words; empty if all is well.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Open connections.
    #[serde(default)]
    pub connections: u32,
    /// Open subscriptions.
    #[serde(default)]
    pub subscriptions: u32,
    /// Subscriptions whose subscribers do not read, and that hold nothing in memory therefore.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub subscriptions_parked: u32,
    /// Bytes of batches that wait in memory for subscribers that do not read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slow_bytes: u64,
    /// Open produce streams.
    #[serde(default)]
    pub producers: u32,
    /// Appends since start that waited for others to share their commit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub appends_held: u64,
    /// Bytes resident in memory.
    #[serde(default)]
    pub rss_bytes: u64,
    /// Per shard.
    #[serde(default)]
    pub shards: Vec<ShardStatus>,
    /// Per partition that the principal may see, ordered by topic name and index.
    #[serde(default)]
    pub partitions: Vec<PartitionStatus>,
    /// Per module version that filtered subscriptions since start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterStatus>,
    /// Per deployment, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<DeploymentStatus>,
    /// Per topic and module version that checked what was produced since start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    /// In a cluster: the copies of the partitions that this node leads and the principal may see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicasInfo>,
}

/// What one module version did since the node's start as the check of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// The topic's name.
    pub topic: String,
    /// `NAME@VERSION`.
    pub module: String,
    /// Records of the batches that it judged.
    #[serde(default)]
    pub records: u64,
    /// Records that it rejected.
    #[serde(default)]
    pub rejected: u64,
    /// Records of batches that it rewrote.
    #[serde(default)]
    pub rewritten: u64,
    /// Batches that it judged or failed on.
    #[serde(default)]
    pub batches: u64,
    /// Batches that were refused because of records that it rejected.
    #[serde(default)]
    pub refused: u64,
    /// Batches that were refused because it failed.
    #[serde(default)]
    pub failed: u64,
    /// CPU time of its calls, in microseconds.
    #[serde(default)]
    pub cpu_us: u64,
}

/// What the filters of one module version did since the node's start, on all subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterStatus {
    /// `NAME@VERSION`.
    pub module: String,
    /// Records that it was asked about.
    #[serde(default)]
    pub records: u64,
    /// Records that it kept.
    #[serde(default)]
    pub kept: u64,
    /// Records that it could not judge.
    #[serde(default)]
    pub failed: u64,
    /// CPU time of its calls, in microseconds.
    #[serde(default)]
    pub cpu_us: u64,
}

/// One shard of a node's storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// `online`, or why not.
    pub state: String,
    /// Files on disk.
    #[serde(default)]
    pub files: u32,
    /// Bytes of those files.
    #[serde(default)]
    pub disk_bytes: u64,
    /// Bytes written to disk since start.
    #[serde(default)]
    pub written_bytes: u64,
    /// Bytes of entries appended since start.
    #[serde(default)]
    pub appended_bytes: u64,
    /// Commits since start.
    #[serde(default)]
    pub commits: u64,
    /// Median commit time of late, in microseconds.
    #[serde(default)]
    pub commit_p50_us: u64,
    /// 99th percentile commit time of late, in microseconds.
    #[serde(default)]
    pub commit_p99_us: u64,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The topic's name.
    pub topic: String,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// Whether it takes appends.
    pub online: bool,
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what consumers may see.
    pub high_watermark: Offset,
    /// The end of the log.
    pub log_end: Offset,
    /// Bytes retained.
    #[serde(default)]
    pub bytes: u64,
    /// Records appended since the node started.
    #[serde(default)]
    pub records_in: u64,
    /// Bytes of batches appended since the node started.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes of batches sent to subscriptions since the node started.
    #[serde(default)]
    pub bytes_out: u64,
    /// Records appended per second, over the last seconds.
    #[serde(default)]
    pub records_in_per_s: u64,
    /// Bytes appended per second, over the last seconds.
    #[serde(default)]
    pub bytes_in_per_s: u64,
    /// Bytes sent per second, over the last seconds.
    #[serde(default)]
    pub bytes_out_per_s: u64,
    /// Open subscriptions.
    #[serde(default)]
    pub subscriptions: u32,
    /// Which other node of the cluster leads it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub led_by: Option<NodeId>,
}

/// A figure that came later is left out where there is nothing to say: older readers see what they
/// always saw.
pub(super) fn is_zero<T: Default + PartialEq>(figure: &T) -> bool {
    *figure == T::default()
}
