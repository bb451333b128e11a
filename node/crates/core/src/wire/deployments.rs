//! What a node says of its deployments.

use crate::deploy::Deployment;
use crate::ids::{Offset, PartitionIndex, TimestampMs};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One deployment and how it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentInfo {
    /// What it is to do.
    pub deployment: Deployment,
    /// Per input partition.
    #[serde(default)]
    pub partitions: Vec<LaneInfo>,
}

/// How one deployment goes, as a node's status has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// Its name.
    pub name: String,
    /// Per input partition.
    #[serde(default)]
    pub partitions: Vec<LaneInfo>,
}

/// What a deployment does in one input partition. Counts are since the node's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneInfo {
    /// The input partition.
    pub partition: PartitionIndex,
    /// What it is at.
    pub state: LaneCondition,
    /// The offset of the next input; absent before the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Offset>,
    /// Records between there and the high watermark.
    pub lag: u64,
    /// Offsets of the outbox that are not delivered yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub undelivered: u64,
    /// Records read.
    pub records_in: u64,
    /// Records written, dead letters not counted.
    pub records_out: u64,
    /// Records that the module could not work on.
    pub errors: u64,
    /// Those of them that went to the dead-letter topic.
    pub dead_letters: u64,
    /// Keyed state, in bytes.
    pub state_bytes: u64,
    /// Keys of it.
    pub state_keys: u64,
    /// CPU time of the module, in microseconds.
    pub cpu_us: u64,
    /// Memory of the module's instance, in bytes.
    pub memory_bytes: u64,
    /// Requests that the module sent over HTTP, refused ones included.
    #[serde(skip_serializing_if = "is_zero")]
    pub http_requests: u64,
    /// Those of them without a response.
    #[serde(skip_serializing_if = "is_zero")]
    pub http_failures: u64,
    /// How long the module waited for responses, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub http_wait_us: u64,
    /// How long it stood still because the module had used its CPU budget, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_us: u64,
    /// Lines of the module that did not get to the log topic.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_lines_lost: u64,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LaneError>,
    /// Snapshots of the state from before other versions took over, by offset.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<LaneSnapshot>,
}

/// A snapshot of the state of a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSnapshot {
    /// The offset of the next input when it was taken.
    pub offset: Offset,
    /// The version that had left the state so, as `NAME@VERSION`.
    pub module: String,
    /// The number of the state's layout.
    #[serde(default)]
    pub schema: u32,
    /// How many keys and timers it has.
    #[serde(default)]
    pub keys: u64,
}

/// A page of a snapshot of a lane's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPage {
    /// The version that had left the state so, as `NAME@VERSION`.
    pub module: String,
    /// The number of the state's layout.
    pub schema: u32,
    /// The number of the takeover in which that version came: with the offset, it names the
    /// snapshot.
    pub takeover: u32,
    /// Where the watermark stood.
    pub watermark: TimestampMs,
    /// Keys and values of the module's, in key order.
    #[serde(default)]
    pub entries: Vec<(Bytes, Bytes)>,
    /// Its timers, by key.
    #[serde(default)]
    pub timers: Vec<(Bytes, TimestampMs)>,
    /// How many of both come before the next page; `None`: this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Records that a lane wrote to a partition, one entry of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOutput {
    /// The offset of the first.
    pub offset: Offset,
    /// The offset behind the last.
    pub end: Offset,
    /// Where the lane's input went on behind what they were made of; `None` where they came by way
    /// of an outbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Offset>,
}

impl Default for LaneInfo {
    fn default() -> LaneInfo {
        LaneInfo {
            partition: PartitionIndex(0),
            state: LaneCondition::Starting,
            position: None,
            lag: 0,
            undelivered: 0,
            records_in: 0,
            records_out: 0,
            errors: 0,
            dead_letters: 0,
            state_bytes: 0,
            state_keys: 0,
            cpu_us: 0,
            memory_bytes: 0,
            http_requests: 0,
            http_failures: 0,
            http_wait_us: 0,
            throttled_us: 0,
            log_lines_lost: 0,
            last_error: None,
            snapshots: Vec::new(),
        }
    }
}

/// What a lane is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneCondition {
    /// It gets its module ready.
    #[default]
    Starting,
    /// It works, or waits for input.
    Running,
    /// An operator paused it.
    Paused,
    /// Something failed; it tries again after a pause.
    Retrying,
    /// A record failed, and the policy is to stop: `resume` tries again.
    Stopped,
    /// The deployment is being deleted: no more is read.
    Ended,
    /// No node leads the partition that it would write to.
    Waiting,
}

impl LaneCondition {
    /// As the command line and the wire write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LaneCondition::Starting => "starting",
            LaneCondition::Running => "running",
            LaneCondition::Paused => "paused",
            LaneCondition::Retrying => "retrying",
            LaneCondition::Stopped => "stopped",
            LaneCondition::Ended => "ended",
            LaneCondition::Waiting => "waiting",
        }
    }
}

/// A line that a module logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleLine {
    /// Rises from line to line of a deployment; by one, from 0 at the node's start, unless the node
    /// is one of a cluster.
    pub number: u64,
    /// When it was logged.
    pub at: TimestampMs,
    /// The input partition.
    pub partition: PartitionIndex,
    /// How bad it is.
    pub level: ModuleLevel,
    /// What.
    pub message: String,
}

/// How bad a module says that something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleLevel {
    /// A person must look.
    Error,
    /// Odd, but it goes on.
    Warn,
    /// A change of state.
    Info,
    /// For whoever works on the module.
    Debug,
}

impl ModuleLevel {
    /// As the command line and the wire write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModuleLevel::Error => "error",
            ModuleLevel::Warn => "warn",
            ModuleLevel::Info => "info",
            ModuleLevel::Debug => "debug",
        }
    }
}

/// What went wrong in a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneError {
    /// The record, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Offset>,
    /// What happened and what to do.
    pub message: String,
    /// When.
    #[serde(default)]
    pub at: TimestampMs,
}

fn is_zero(figure: &u64) -> bool {
    *figure == 0
}
