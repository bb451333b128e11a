//! What the log tells its owner.

use std::collections::HashMap;
use weir_core::partition::view::PartitionView;
use weir_core::{Offset, PartitionId};

/// Receives the log's news. Called from the log's own threads: an implementation must return
/// quickly and must not call back into the log in a way that blocks.
///
/// Between `failed` and `recovered` the owner must not append to the shard, and `failed` must not
/// return while an append that was decided before it is still on its way into the log: such an
/// append could arrive after the recovery, be accepted, and not be in the views of `recovered`. A
/// lock per partition that is held while deciding and appending, and taken by `failed`, does it.
pub trait LogEvents: Send + Sync {
    /// One commit is on disk: the new durable end of every partition that it touched.
    fn durable(&self, shard: u16, ends: &[(PartitionId, Offset)]);

    /// A write failed. Every append of this shard that was accepted but not reported durable has an
    /// unknown fate. The shard refuses appends until `recovered`.
    fn failed(&self, shard: u16, reason: &str);

    /// The shard takes appends again; `views` says what its log holds. An append whose fate was
    /// unknown is in there or will never be.
    fn recovered(&self, shard: u16, views: &HashMap<PartitionId, PartitionView>);

    /// A partition's log start moved, durably.
    fn log_start(&self, partition: PartitionId, start: Offset);
}
