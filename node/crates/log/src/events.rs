//! What the log tells its owner.

use crate::cut::CutError;
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
/// Views and cuts that were asked for and not answered before `failed` never will be.
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

    /// What was asked for with [`crate::Log::ask_view`]: what the log says of the partition, the
    /// default view of one that it does not know. All of it is durable, and everything that was
    /// handed in before was reported.
    fn view(&self, partition: PartitionId, view: &PartitionView);

    /// What was asked for with [`crate::Log::ask_view_at`]: what the log said of the partition when
    /// it ended at `end`, or why that cannot be told.
    fn view_at(&self, partition: PartitionId, end: Offset, view: Result<&PartitionView, &CutError>);

    /// What was asked for with [`crate::Log::truncate`] or [`crate::Log::reset`] is done, durably;
    /// `view` is what the log holds now. What was handed in before was reported before, and is gone
    /// as far as it lay beyond the cut.
    fn cut(&self, partition: PartitionId, view: &PartitionView);

    /// [`crate::Log::truncate`] cannot be done. The log is as it was, and ends where it ended
    /// before; what was handed in behind the cut was dropped, with its permits.
    fn cut_failed(&self, partition: PartitionId, error: &CutError);
}
