//! Control messages: CBOR, additive, one type per question.
//!
//! A new field needs `#[serde(default)]`; a field is never renamed or given another meaning. A
//! request that a node does not know is answered with [`ErrorCode::Unsupported`].
//!
//! [`ErrorCode::Unsupported`]: super::ErrorCode::Unsupported

use super::deployments::{DeploymentInfo, LaneOutput, ModuleLine, SnapshotPage};
use crate::deploy::{DeploymentSpec, Version};
use crate::group::{Generation, MemberId};
use crate::ids::{LeaderEpoch, Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use crate::module::Module;
use crate::module::name::ModuleRef;
use crate::topic::{TopicChange, TopicConfig};
use crate::wire::cluster::{ClusterChangeAsk, ClusterChanged, ClusterStatus};
use crate::wire::join::{JoinAsk, Joined};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use super::groups::{
    AssignedPartition, Assignment, GroupInfo, GroupMember, GroupMembers, GroupPosition,
};
pub use super::status::{CheckStatus, FilterStatus, NodeStatus, PartitionStatus, ShardStatus};

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
    /// The node does not reach a majority of its cluster: another node, if one answers, does
    /// better.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
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
    /// The node that is asked may serve it from a copy that it follows with, if that is in sync:
    /// what is committed comes from nearby, a moment later than from the leader.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nearest: bool,
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
    /// Store positions of a consumer group: all of them or, if one is refused, none.
    CommitPositions {
        /// The group.
        group: String,
        /// The positions.
        positions: Vec<GroupPosition>,
        /// Whose they are; `None`: nobody's, which is refused while the group has members.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member: Option<MemberId>,
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
    /// A snapshot of the state of one partition of a deployment, in pages.
    LaneSnapshot {
        /// The deployment's name.
        name: String,
        /// The input partition.
        partition: PartitionIndex,
        /// Where it was taken: see
        /// [`LaneInfo::snapshots`](super::deployments::LaneInfo::snapshots).
        offset: Offset,
        /// How many keys and timers come before the page.
        skip: u64,
    },
    /// Which records of an output partition one partition of a deployment wrote.
    LaneOutputs {
        /// The deployment's name.
        name: String,
        /// The input partition.
        lane: PartitionIndex,
        /// The output topic.
        topic: TopicId,
        /// Which of its partitions.
        partition: PartitionIndex,
        /// Entries from the one that holds this offset on.
        from: Offset,
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
    /// Become a member of a consumer group, or subscribe to other topics.
    JoinGroup {
        /// The group.
        group: String,
        /// The member, which draws its id at random and keeps it as long as it lives.
        member: MemberId,
        /// A name that survives restarts: a member that joins under it takes over from the one
        /// before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<String>,
        /// How long it may be silent, in milliseconds.
        session_ms: u32,
        /// The topics that it subscribes to, by name.
        topics: Vec<String>,
    },
    /// A member lives. Grants it what is free of what it shall own, and takes back what it shall
    /// not and does not hold.
    GroupHeartbeat {
        /// The group.
        group: String,
        /// The member.
        member: MemberId,
        /// Its instance name, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<String>,
        /// The generation of the last answer that it acted on.
        generation: Generation,
        /// What it works on, or has not finished yet.
        #[serde(default)]
        holds: Vec<(TopicId, PartitionIndex)>,
    },
    /// A member ends. What it owned is free at once.
    LeaveGroup {
        /// The group.
        group: String,
        /// The member.
        member: MemberId,
    },
    /// The members of a consumer group.
    GroupMembers {
        /// The group.
        group: String,
    },
    /// From another node of the cluster: answer once this node knows what the controllers decided
    /// up to this version, or after a moment.
    Informed {
        /// The version: see [`crate::controller::State::version`].
        version: u64,
    },
    /// From another node of the cluster: get the bytes of a module, from that node or another, and
    /// answer once they are on this disk.
    HoldModule {
        /// SHA-256 of the whole, in hex.
        sha256: String,
        /// Its size.
        bytes: u64,
    },
    /// Some bytes of a module, for administrators and other nodes of the cluster.
    ModulePart {
        /// SHA-256 of the whole, in hex.
        sha256: String,
        /// Where the part begins.
        at: u64,
    },
    /// From another node of the cluster: whether a version could take over those lanes of a
    /// deployment that this node leads.
    CheckDeployment {
        /// Its name.
        name: String,
        /// Which version.
        version: Version,
        /// Partitions whose state and position would go back to the snapshot of this offset.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        restore: Vec<(PartitionIndex, Offset)>,
        /// Whether it is the version before.
        #[serde(default)]
        rollback: bool,
    },
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
    /// To `LaneSnapshot`.
    LaneSnapshot(Box<SnapshotPage>),
    /// To `LaneOutputs`.
    LaneOutputs {
        /// In log order. The first may begin before the offset that was asked for.
        entries: Vec<LaneOutput>,
        /// Where to go on; that offset again at the end of what is committed.
        next: Offset,
    },
    /// To `Status`.
    Status(Box<NodeStatus>),
    /// Answer to `Cluster`.
    Cluster(Box<ClusterStatus>),
    /// To `JoinGroup` and `GroupHeartbeat`.
    Assigned(Box<Assignment>),
    /// To `GroupMembers`; without members for an unknown group.
    Members(Box<GroupMembers>),
    /// To `ModulePart`.
    ModulePart {
        /// The part; empty at the end.
        data: Bytes,
    },
    /// To a part of an outbox ([`FrameKind::Deliver`](super::FrameKind::Deliver)).
    Delivered {
        /// The destination has all parts of the lane below this offset of its outbox.
        next: Offset,
    },
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
