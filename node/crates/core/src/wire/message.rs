//! Control messages: CBOR, additive, one type per question.
//!
//! A new field needs `#[serde(default)]`; a field is never renamed or given another meaning. A
//! request that a node does not know is answered with [`ErrorCode::Unsupported`].
//!
//! [`ErrorCode::Unsupported`]: super::ErrorCode::Unsupported

use super::deployments::{DeploymentInfo, DeploymentStatus, ModuleLine};
use crate::deploy::{DeploymentSpec, Version};
use crate::ids::{LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use crate::module::Module;
use crate::module::name::ModuleRef;
use crate::topic::{TopicChange, TopicConfig};
use crate::wire::cluster::{ClusterChangeAsk, ClusterChanged, ClusterStatus};
use crate::wire::join::{JoinAsk, Joined};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First message on a connection, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol version that the client speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// Program and version, for logs.
    #[serde(default)]
    pub client: String,
}

/// Answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The version that both will speak.
    pub version: u16,
    /// The node's name.
    pub node: String,
    /// The cluster that the node belongs to: stable for the life of its data.
    pub cluster: String,
    /// The node's program version.
    #[serde(default)]
    pub software: String,
    /// The principal that the node takes the client for; `None`: anonymous.
    #[serde(default)]
    pub principal: Option<String>,
    /// The node's wall clock.
    #[serde(default)]
    pub node_time: TimestampMs,
    /// Largest record batch that the node takes, in bytes.
    pub batch_bytes_max: u32,
}

/// First message on a produce stream. There is nothing to say yet but that it is one; batches of
/// any topics and partitions follow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceOpen {}

/// Where a subscription, or a consumer without a stored position, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// At the log start.
    Earliest,
    /// At the high watermark: only what comes after.
    Latest,
    /// At this offset, which must be retained or the log end.
    Offset(Offset),
    /// At the first record whose timestamp is this or later, in log order; if there is none, at
    /// the high watermark.
    Time(TimestampMs),
}

/// First message on a subscription stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// Where to begin.
    pub start: StartAt,
    /// Most bytes of batches in one data frame; one batch always fits. 0: the node's default.
    #[serde(default)]
    pub frame_bytes_max: u32,
    /// End the stream at the high watermark of this moment instead of going on for ever.
    #[serde(default)]
    pub until_end: bool,
    /// Send only what a module keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterSpec>,
}

/// A filter on a subscription: a module that says of each record whether it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterSpec {
    /// Which version of which module.
    pub module: ModuleRef,
    /// What the module is told at its start.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// What happens to a record that it cannot judge.
    #[serde(default)]
    pub on_error: FilterOnError,
}

/// What happens to a record that a filter cannot judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterOnError {
    /// The subscription ends with [`ErrorCode::ModuleFailed`](super::ErrorCode::ModuleFailed),
    /// which names its offset.
    #[default]
    Fail,
    /// It is left out and counted.
    Drop,
    /// It is sent and counted.
    Keep,
}

/// Answer to [`Subscribe`]; data follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The offset that the subscription begins at.
    pub start: Offset,
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what consumers may see.
    pub high_watermark: Offset,
    /// The leader epoch.
    #[serde(default)]
    pub epoch: LeaderEpoch,
}

/// A question, alone on its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Describe these topics, or all.
    Topics {
        /// Names; `None`: all that the principal may see.
        #[serde(default)]
        names: Option<Vec<String>>,
    },
    /// Create a topic.
    CreateTopic {
        /// Its name.
        name: String,
        /// Its settings.
        config: TopicConfig,
    },
    /// Change a topic's settings.
    AlterTopic {
        /// Its name.
        name: String,
        /// What to change.
        change: TopicChange,
    },
    /// Delete a topic and all its records.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Drop all records of a partition below an offset.
    TrimPartition {
        /// The topic's name.
        topic: String,
        /// Which of its partitions.
        partition: PartitionIndex,
        /// The new log start; at most the high watermark.
        before: Offset,
    },
    /// A fresh producer id.
    InitProducer {},
    /// Resolve positions to offsets.
    Offsets {
        /// The topic.
        topic: TopicId,
        /// Partition and position of each.
        positions: Vec<(PartitionIndex, StartAt)>,
    },
    /// Store positions of a consumer group.
    CommitPositions {
        /// The group.
        group: String,
        /// The positions.
        positions: Vec<GroupPosition>,
    },
    /// The stored positions of a consumer group.
    FetchPositions {
        /// The group.
        group: String,
    },
    /// All consumer groups that have stored positions.
    ListGroups {},
    /// Forget a consumer group, or only its positions in these topics.
    DeleteGroup {
        /// The group.
        group: String,
        /// `None`: all.
        #[serde(default)]
        topics: Option<Vec<TopicId>>,
    },
    /// All modules.
    Modules {},
    /// How much of an upload the node has: uploads go on where they were cut off.
    BeginUpload {
        /// SHA-256 of the whole, in hex.
        sha256: String,
        /// Its size.
        bytes: u64,
    },
    /// The next part of an upload.
    Upload {
        /// SHA-256 of the whole, in hex.
        sha256: String,
        /// Where the part begins: what the node has so far.
        at: u64,
        /// The part, at most
        /// [`limits::UPLOAD_PART_BYTES_MAX`](crate::limits::UPLOAD_PART_BYTES_MAX).
        data: Bytes,
    },
    /// Check what was uploaded, and make it known under a name and version.
    PushModule {
        /// The name and version.
        id: ModuleRef,
        /// SHA-256 of the whole, in hex.
        sha256: String,
    },
    /// Forget a module version.
    DeleteModule {
        /// Which.
        id: ModuleRef,
    },
    /// Deployments and how they go.
    Deployments {
        /// Names; `None`: all.
        #[serde(default)]
        names: Option<Vec<String>>,
    },
    /// Create a deployment.
    CreateDeployment {
        /// Its name.
        name: String,
        /// What it is to do.
        spec: DeploymentSpec,
    },
    /// Pause or resume a deployment. Resuming one that runs has stopped partitions try again.
    PauseDeployment {
        /// Its name.
        name: String,
        /// Whether it is to stand still.
        paused: bool,
    },
    /// Run another version in a deployment.
    ReplaceDeployment {
        /// Its name.
        name: String,
        /// Which; `None`: the one before.
        #[serde(default)]
        version: Option<Version>,
        /// Partitions whose state and position go back to the snapshot of this offset.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        restore: Vec<(PartitionIndex, Offset)>,
    },
    /// Delete a deployment. Its outputs and dead letters stay.
    DeleteDeployment {
        /// Its name.
        name: String,
    },
    /// Lines that a deployment's module logged since the node's start, as far as they are kept.
    DeploymentLog {
        /// Its name.
        name: String,
        /// Lines from this number on; `None`: the last ones.
        #[serde(default)]
        from: Option<u64>,
        /// How many, at most.
        lines: u32,
    },
    /// The node and its partitions.
    Status {},
    /// How the cluster is, of which the node is part.
    Cluster {},
    /// A new node wants to be let into the cluster.
    Join(Box<JoinAsk>),
    /// Change the cluster.
    ChangeCluster {
        /// What is asked.
        ask: ClusterChangeAsk,
    },
    /// The operator confirms that the wall clock is right: age retention may go on.
    ConfirmTime {},
}

/// A stored position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPosition {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The offset of the next record that the group wants.
    pub offset: Offset,
    /// When it was stored. Set by the node.
    #[serde(default)]
    pub committed_at: TimestampMs,
}

/// Answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It did not happen, or its fate is unknown.
    Error(super::WireError),
    /// Done; nothing more to say.
    Done {},
    /// To `Topics`, `CreateTopic` and `AlterTopic`.
    Topics {
        /// In order of their names.
        topics: Vec<TopicInfo>,
    },
    /// To `InitProducer`.
    Producer {
        /// The fresh id.
        id: ProducerId,
    },
    /// To `Offsets`, in the order asked.
    Offsets {
        /// Each partition's bounds and the offset resolved.
        offsets: Vec<ResolvedOffset>,
    },
    /// To `FetchPositions`.
    Positions {
        /// The group's stored positions; empty for an unknown group.
        positions: Vec<GroupPosition>,
    },
    /// To `ListGroups`.
    Groups {
        /// Names and how many positions each has stored.
        groups: Vec<GroupInfo>,
    },
    /// To `Modules` and `PushModule`.
    Modules {
        /// By name and version.
        modules: Vec<Module>,
    },
    /// To `BeginUpload` and `Upload`.
    Upload {
        /// How many bytes the node has, from the start.
        have: u64,
    },
    /// To `Deployments`, and to what creates or changes one.
    Deployments {
        /// By name.
        deployments: Vec<DeploymentInfo>,
    },
    /// To `DeploymentLog`.
    DeploymentLog {
        /// In order of their numbers.
        lines: Vec<ModuleLine>,
        /// The number of the line that comes next.
        next: u64,
    },
    /// To `Status`.
    Status(Box<NodeStatus>),
    /// Answer to `Cluster`.
    Cluster(Box<ClusterStatus>),
    /// To `Join`.
    Joined(Box<Joined>),
    /// To `ChangeCluster`, where there is more to say than that it is done.
    ClusterChanged(Box<ClusterChanged>),
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: TopicConfig,
    /// When it was created.
    #[serde(default)]
    pub created_at: TimestampMs,
}

/// A position resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedOffset {
    /// The partition.
    pub partition: PartitionIndex,
    /// The offset that the position names.
    pub offset: Offset,
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what consumers may see.
    pub high_watermark: Offset,
}

/// One consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// How many positions it has stored.
    pub positions: u32,
    /// When it last stored one.
    #[serde(default)]
    pub committed_at: TimestampMs,
}

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
fn is_zero<T: Default + PartialEq>(figure: &T) -> bool {
    *figure == T::default()
}
