//! The log of a node.

use crate::api::{AppendError, AppendRequest, OpenError, ReadChunk, ReadError};
use crate::clock::Clock;
use crate::config::{LogConfig, Retention};
use crate::disk::Disk;
use crate::events::LogEvents;
use crate::stats::{PartitionStats, ShardStats};
use std::collections::HashMap;
use std::sync::Arc;
use weir_core::partition::view::PartitionView;
use weir_core::{Offset, PartitionId, TimestampMs};

/// The log of a node. Cheap to share behind an [`Arc`].
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens the folder, creating it if there is none, and replays what recovery needs: the newest
    /// file of each shard. Starts no threads; appends are refused until [`Log::start`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        _config: LogConfig,
        _disk: Arc<dyn Disk>,
        _clock: Arc<dyn Clock>,
    ) -> Result<(Log, HashMap<PartitionId, PartitionView>), OpenError> {
        Ok((Log {}, HashMap::new()))
    }

    /// Starts the writer and background threads. To be called once.
    pub fn start(&self, _events: Arc<dyn LogEvents>) {}

    /// Hands an entry to its shard's writer. Never blocks. The order of calls for a partition is
    /// the order in its log.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was or will be written.
    pub fn append(&self, _request: AppendRequest) -> Result<(), AppendError> {
        Err(AppendError::Closed)
    }

    /// Reads from memory only: never blocks on the disk. `None` if `from` is not in memory.
    #[must_use]
    pub fn read_cached(
        &self,
        _partition: PartitionId,
        _from: Offset,
        _max_bytes: usize,
        _below: Offset,
    ) -> Option<ReadChunk> {
        None
    }

    /// Reads whole batches from the one that holds `from` on, up to about `max_bytes` (at least
    /// one batch) and not beyond `below` or the durable end. May block on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(
        &self,
        partition: PartitionId,
        _from: Offset,
        _max_bytes: usize,
        _below: Offset,
    ) -> Result<ReadChunk, ReadError> {
        Err(ReadError::UnknownPartition(partition))
    }

    /// The first offset, in log order, whose record has a timestamp of `at` or later.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_time(
        &self,
        partition: PartitionId,
        _at: TimestampMs,
    ) -> Result<Option<Offset>, ReadError> {
        Err(ReadError::UnknownPartition(partition))
    }

    /// Sets how long a partition's records are kept. Not remembered across [`Log::open`].
    pub fn set_retention(&self, _partition: PartitionId, _retention: Retention) {}

    /// Deletes a partition: its offsets start anew. Ordered after the appends made before.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn delete_partition(&self, _partition: PartitionId) -> Result<(), AppendError> {
        Err(AppendError::Closed)
    }

    /// Moves a partition's log start up to `start`, or to its end if that is lower.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn trim(&self, _partition: PartitionId, _start: Offset) -> Result<(), AppendError> {
        Err(AppendError::Closed)
    }

    /// The wall clock is right: retention by age goes on after a jump of the clock.
    pub fn confirm_time(&self) {}

    /// One partition's figures; `None` for one that the log does not know.
    #[must_use]
    pub fn stats(&self, _partition: PartitionId) -> Option<PartitionStats> {
        None
    }

    /// Every shard's figures.
    #[must_use]
    pub fn shard_stats(&self) -> Vec<ShardStats> {
        Vec::new()
    }

    /// Commits what waits, ends the threads and closes all files. Appends are refused from then
    /// on. Blocks until done; a second call does nothing.
    pub fn shutdown(&self) {}
}
