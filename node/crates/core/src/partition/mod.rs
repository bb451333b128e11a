//! Partition state machines. Pure: no clock, no I/O.
//!
//! [`view::PartitionView`] is what the durable log says of a partition: its bounds, its epoch
//! history, its producers and its keyed state. The log crate rebuilds it by replay.
//! [`leader::Leader`] decides what may be appended, ahead of the disk.
//!
//! With several replicas, [`replica::Replica`] is one node's copy of a partition, whatever its role
//! is just now: it holds a leader or a [`follower::Follower`], and changes between them as the
//! [`assignment::Assignment`]s of the controller say. [`insync::InSync`] has the commit rule,
//! [`epochs`] finds where two logs part, [`messages`] is what leader and follower tell each other.

pub mod assignment;
pub mod epochs;
pub mod follower;
pub mod insync;
pub mod leader;
pub mod messages;
pub mod producers;
pub mod replica;
pub mod view;
