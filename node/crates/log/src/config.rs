//! What can be set about the log.

use std::path::PathBuf;
use std::time::Duration;
use weir_core::limits;

/// Settings of the log. [`LogConfig::new`] fills in everything but the folder.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The folder that everything is kept in. Created if it is missing.
    pub dir: PathBuf,
    /// How many shards a new folder gets: one writer thread each, at least 1. An existing folder
    /// keeps the number that it was created with.
    pub shards: u16,
    /// A shard's active file is closed and the next one begun once it holds this many bytes.
    pub file_bytes: u64,
    /// Recent batches kept in memory for readers at the tail, all partitions together, in bytes.
    pub tail_cache_bytes: usize,
    /// Most bytes of entries that one commit takes; one entry always fits.
    pub commit_bytes_max: usize,
    /// Most appends that wait for one shard's writer.
    pub append_queue_max: usize,
    /// Most bytes of appends that wait for one shard's writer; one append always fits.
    pub append_queue_bytes_max: usize,
    /// redb's cache of a shard's active file, in bytes. Half of it buffers writes, so a commit must
    /// fit in that; more only spoils the processor's caches, since the tail serves recent batches.
    pub active_cache_bytes: usize,
    /// redb's cache of one sealed file, in bytes.
    pub sealed_cache_bytes: usize,
    /// Most sealed files that are kept open, per shard.
    pub sealed_files_open: usize,
    /// Sealed files' indexes kept in memory, per shard, in bytes.
    pub index_cache_bytes: usize,
    /// With less free space than this, in bytes, appends are refused.
    pub reserve_bytes: u64,
    /// How often retention and the cleaner look for something to do.
    pub retention_interval: Duration,
    /// How often the scrub looks for a sealed file whose checksum was not verified for
    /// `scrub_period`. One file is read at a time.
    pub scrub_interval: Duration,
    /// How long a verified checksum counts as fresh.
    pub scrub_period: Duration,
    /// The cleaner rewrites a sealed file once less than this share of it is live, in percent.
    pub clean_below_percent: u8,
    /// Most bytes per second that cleaner and scrub read, together; 0 for no bound.
    pub background_bytes_per_s: u64,
}

impl LogConfig {
    /// The defaults, for the folder `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> LogConfig {
        let file_bytes = 128 * limits::MIB as u64;
        LogConfig {
            dir: dir.into(),
            shards: default_shards(),
            file_bytes,
            tail_cache_bytes: limits::TAIL_CACHE_BYTES,
            commit_bytes_max: limits::COMMIT_BYTES_MAX,
            append_queue_max: limits::APPEND_QUEUE_MAX,
            append_queue_bytes_max: limits::PRODUCE_BUDGET_BYTES,
            active_cache_bytes: 2 * limits::COMMIT_BYTES_MAX + 2 * limits::MIB,
            sealed_cache_bytes: 4 * limits::MIB,
            sealed_files_open: 8,
            index_cache_bytes: 8 * limits::MIB,
            reserve_bytes: 64 * limits::MIB as u64,
            retention_interval: Duration::from_secs(30),
            scrub_interval: Duration::from_secs(60),
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            clean_below_percent: 50,
            background_bytes_per_s: 32 * limits::MIB as u64,
        }
    }
}

/// One writer thread below four cores; a second one overlaps redb's CPU time with the other's sync
/// where there are cores left for it.
fn default_shards() -> u16 {
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() >= 4 => 2,
        _ => 1,
    }
}

/// How long a partition's records are kept. The first bound reached counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records appended longer ago than this, in ms, may go. `None`: no bound.
    pub age_ms: Option<i64>,
    /// The oldest records may go while more bytes than this are kept. `None`: no bound.
    pub bytes: Option<u64>,
    /// Age alone leaves a partition at least this much, in bytes.
    pub min_bytes: u64,
}
