//! The pure core of Weir: identifiers, limits, the record batch codec, log entries, the partition
//! state machines and the wire protocol.
//!
//! Nothing in this crate reads a clock, opens a file or a socket, or awaits. Time and randomness
//! are arguments. The same code therefore runs in the node, in the client SDK and in tests.

pub mod access;

pub mod cluster;
pub mod controller;
pub mod deploy;
pub mod entry;
pub mod group;
pub mod ids;
pub mod limits;
pub mod metadata;
pub mod module;
pub mod partition;
pub mod partitioner;
pub mod record;
pub mod topic;
pub mod wire;

pub use ids::{LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerId, TimestampMs, TopicId};
