//! Newtypes for everything that is counted or named by a number.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The position of a record (or of an entry without records) in a partition. Never negative in a
/// valid log; `Offset(0)` is the first. Every name that ends in `_end` is exclusive.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset `count` places further on. Saturates at `i64::MAX`, which no log reaches.
    #[must_use]
    pub fn plus(self, count: u32) -> Offset {
        Offset(self.0.saturating_add(i64::from(count)))
    }

    /// How many offsets lie between `earlier` and this one; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Offset) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

/// Milliseconds since the Unix epoch (UTC). Signed, since event times before 1970 are legal.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TimestampMs(pub i64);

/// Identifies a topic for the life of a cluster. Never reused, not even after deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub u32);

/// The number of a partition within its topic, from 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionIndex(pub u32);

/// Identifies one partition of one topic in the storage of a node. Never reused, so that bytes of
/// a deleted partition that are still on disk can never be taken for those of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

/// The term of a partition's leadership. An (epoch, offset) pair names one entry, for ever.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LeaderEpoch(pub i32);

/// How often a partition's in-sync set, leader or replicas changed. Only the controller counts it;
/// a leader's proposal names the one that it knows, and is refused if another is current.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionEpoch(pub u32);

/// Identifies a node of a cluster, for the cluster's life.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// One life of a node: the controller gives a higher one at each registration. 0 is none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Identifies a data folder; drawn at random when it is created. A node that comes back with
/// another disk holds nothing of what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskId(pub u64);

/// Identifies an idempotent producer. [`ProducerId::NONE`] marks a batch of a plain producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// What a batch carries that was not produced idempotently.
    pub const NONE: ProducerId = ProducerId(-1);

    /// Whether this names a producer whose sequences are checked.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

macro_rules! display_number {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )* };
}
display_number!(
    Offset,
    TimestampMs,
    TopicId,
    PartitionIndex,
    PartitionId,
    LeaderEpoch,
    PartitionEpoch,
    NodeId,
    Incarnation,
    DiskId,
    ProducerId
);
