//! Partition state machines. Pure: no clock, no I/O.
//!
//! [`view::PartitionView`] is what the durable log says of a partition: its bounds, its epoch
//! history, its producers and its keyed state. The log crate rebuilds it by replay.
//! [`leader::Leader`] decides what may be appended, ahead of the disk.

pub mod leader;
pub mod producers;
pub mod view;
