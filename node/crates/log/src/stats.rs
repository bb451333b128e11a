//! Figures about the log, for status and metrics.

use std::time::Duration;
use weir_core::{Offset, TimestampMs};

/// One partition's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// The first retained offset.
    pub log_start: Offset,
    /// The durable end.
    pub end: Offset,
    /// Bytes of retained entries, envelopes included; exact to one index run.
    pub bytes: u64,
    /// Files that hold some of it.
    pub files: usize,
    /// Index runs held in memory for it.
    pub runs: usize,
    /// The newest append time.
    pub append_time: TimestampMs,
}

/// Whether a shard takes appends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ShardState {
    /// Appends are taken.
    #[default]
    Online,
    /// A write failed and the shard recovers, retrying by itself.
    Offline {
        /// What failed.
        reason: String,
    },
    /// Free space is below the reserve; comes back by itself.
    DiskFull,
}

/// Percentiles of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencySummary {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// One shard's figures. Counters run from the opening of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// The shard's number.
    pub shard: u16,
    /// Whether it takes appends.
    pub state: ShardState,
    /// Log files on disk.
    pub files: usize,
    /// Bytes of those files.
    pub bytes_on_disk: u64,
    /// Bytes handed to the disk for writing, metadata included.
    pub bytes_written: u64,
    /// Bytes read from the disk.
    pub bytes_read: u64,
    /// Bytes of entries committed.
    pub payload_bytes: u64,
    /// Entries committed.
    pub entries: u64,
    /// Commits of the writer.
    pub commits: u64,
    /// Times the disk was told to sync.
    pub syncs: u64,
    /// Appends that wait for the writer.
    pub queued: usize,
    /// How long commits took, sync included.
    pub commit_latency: LatencySummary,
    /// Age retention is suspended because the wall clock jumped forward.
    pub clock_suspended: bool,
    /// Checksums of sealed files that the scrub computed or found right.
    pub files_verified: u64,
    /// Sealed files that cannot be read, by name.
    pub quarantined: Vec<String>,
}
