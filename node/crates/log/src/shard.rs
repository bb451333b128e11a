//! What a shard's writer, its readers and the background work share.
//!
//! Lock order: `layout` before `files` before `index`; none is held across I/O.

use crate::api::ReadError;
use crate::backend::IoCounters;
use crate::clock::Clock;
use crate::config::{LogConfig, Retention};
use crate::db::{DbError, FileDb, Row};
use crate::disk::Disk;
use crate::file::LogFile;
use crate::index::{Index, Run, Segment, decode_runs, encode_runs};
use crate::index_cache::IndexCache;
use crate::manifest::Manifest;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::stats::ShardStats;
use crate::tail::TailCache;
use crate::witness::Witness;
use crate::writer::Active;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use weir_core::{Offset, PartitionId};

pub(crate) struct Shard {
    pub(crate) id: u16,
    /// How many shards there are.
    pub(crate) shards: u16,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The folder of the shard's files.
    pub(crate) dir: PathBuf,
    pub(crate) counters: Arc<IoCounters>,
    pub(crate) queue: Queue,
    pub(crate) index: RwLock<Index>,
    /// Held by whoever takes files off the list, while they compare it with the index: the
    /// background thread, or who writes a damaged file anew.
    pub(crate) layout: Mutex<()>,
    /// All files but the one prepared, by the first number that they stand for.
    pub(crate) files: Mutex<BTreeMap<u64, Arc<LogFile>>>,
    /// The next active file, prepared by the background thread.
    pub(crate) next: Mutex<Option<Arc<LogFile>>>,
    pub(crate) tail: Arc<TailCache>,
    pub(crate) index_cache: IndexCache,
    pub(crate) metrics: Metrics,
    pub(crate) retention: Mutex<HashMap<PartitionId, Retention>>,
    pub(crate) manifest: Manifest,
    pub(crate) witness: Witness,
    /// Why the newest file is of no use, as long as it is: nothing of what it held can be read.
    damage: Mutex<Option<String>>,
    /// The active file's unique number.
    active_uid: AtomicU64,
    /// Whether the active file has its snapshot: the views depend on no other file then.
    active_begun: AtomicBool,
    ticks: AtomicU64,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("id", &self.id)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// With so many bytes waiting, a commit is prepared while the one before it is under way: that
/// takes longer than waking the threads which it is left to.
const AHEAD_BYTES_MIN: usize = 256 * 1024;

/// What a shard is made of.
pub(crate) struct ShardParts {
    pub(crate) id: u16,
    pub(crate) shards: u16,
    pub(crate) config: Arc<LogConfig>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) counters: Arc<IoCounters>,
    pub(crate) tail: Arc<TailCache>,
    pub(crate) manifest: Manifest,
}

impl Shard {
    pub(crate) fn new(
        parts: ShardParts,
        index: Index,
        files: BTreeMap<u64, Arc<LogFile>>,
    ) -> Shard {
        let limits = crate::queue::QueueLimits {
            appends_max: parts.config.append_queue_max,
            bytes_max: parts.config.append_queue_bytes_max,
            commit_bytes_max: parts.config.commit_bytes_max,
            ahead_bytes_min: AHEAD_BYTES_MIN.min(parts.config.commit_bytes_max),
        };
        let witness = Witness::open(&*parts.disk, &parts.dir);
        Shard {
            id: parts.id,
            shards: parts.shards,
            disk: parts.disk,
            clock: parts.clock,
            dir: parts.dir,
            counters: parts.counters,
            queue: Queue::new(limits),
            index: RwLock::new(index),
            layout: Mutex::default(),
            files: Mutex::new(files),
            next: Mutex::new(None),
            tail: parts.tail,
            index_cache: IndexCache::new(parts.config.index_cache_bytes),
            metrics: Metrics::default(),
            retention: Mutex::default(),
            manifest: parts.manifest,
            witness,
            damage: Mutex::default(),
            active_uid: AtomicU64::new(0),
            active_begun: AtomicBool::new(false),
            ticks: AtomicU64::new(1),
            config: parts.config,
        }
    }

    pub(crate) fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_files(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<LogFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why what the newest file held cannot be read, if it cannot.
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_damage(&self, damage: Option<String>) {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = damage;
    }

    /// Uses a file, opening it if need be. A failure takes the file out of use: a sealed one is
    /// quarantined, the active one is left to the writer to rescue.
    pub(crate) fn with_file<T>(
        &self,
        file: &LogFile,
        body: impl Fn(&FileDb) -> Result<T, DbError>,
    ) -> Result<T, FileError> {
        if let Some(error) = file.quarantined() {
            return Err(FileError::Unusable(error));
        }
        let tick = self.ticks.fetch_add(1, Ordering::Relaxed);
        file.last_used.store(tick, Ordering::Relaxed);
        loop {
            match file.try_with(&body) {
                Some(Ok(value)) => return Ok(value),
                Some(Err(error)) => {
                    self.take_out_of_use(file, &error);
                    return Err(FileError::Unusable(error));
                }
                None if !file.is_sealed() => return Err(FileError::Away),
                None => self.open_sealed(file)?,
            }
        }
    }

    fn open_sealed(&self, file: &LogFile) -> Result<(), FileError> {
        let cache = self.config.sealed_cache_bytes;
        match file.open_read_only(&*self.disk, &self.counters, cache) {
            Ok(true) => self.close_least_used(file.uid),
            Ok(false) => {}
            Err(error) if !self.is_listed(file) => {
                // The cleaner removed it between lookup and here.
                tracing::debug!(file = %file.path.display(), %error, "the file is gone");
                return Err(FileError::Away);
            }
            Err(error) => {
                file.quarantine(&error);
                return Err(FileError::Unusable(error));
            }
        }
        Ok(())
    }

    pub(crate) fn is_listed(&self, file: &LogFile) -> bool {
        let files = self.lock_files();
        files.values().any(|listed| listed.uid == file.uid)
    }

    fn take_out_of_use(&self, file: &LogFile, error: &DbError) {
        if file.is_sealed() {
            file.quarantine(error);
            if let Some(db) = file.take() {
                drop_contained(db);
            }
        } else if file.uid == self.active_uid.load(Ordering::Acquire) {
            self.queue.report_failure(error.to_string());
        } else if let Some(db) = file.take() {
            // Full and about to be sealed: that will find it closed, and copy it.
            tracing::error!(file = %file.path.display(), %error, "a full log file failed");
            db.fence();
            drop_contained(db);
        }
    }

    /// Remembers which file is active.
    pub(crate) fn note_active(&self, active: &Active) {
        self.active_uid.store(active.file.uid, Ordering::Release);
        self.active_begun.store(active.begun, Ordering::Release);
    }

    /// Whether the views depend on no file but the active one.
    pub(crate) fn is_active_begun(&self) -> bool {
        self.active_begun.load(Ordering::Acquire)
    }

    /// Closes open sealed files beyond the bound, the least recently used first.
    fn close_least_used(&self, keep: u64) {
        let files = self.lock_files();
        let open = files.values().filter(|file| file.is_sealed() && file.is_open());
        let mut open: Vec<_> = open.cloned().collect();
        drop(files);
        let excess = open.len().saturating_sub(self.config.sealed_files_open.max(1));
        open.retain(|file| file.uid != keep);
        open.sort_unstable_by_key(|file| file.last_used.load(Ordering::Relaxed));
        for file in open.iter().take(excess) {
            if let Some(db) = file.take() {
                drop_contained(db);
            }
        }
    }

    /// The runs of a segment: from memory, or from its sealed file.
    pub(crate) fn runs_of(
        &self,
        partition: PartitionId,
        segment: &Segment,
    ) -> Result<Arc<[Run]>, FileError> {
        if let Some(runs) = &segment.runs {
            return Ok(runs.as_slice().into());
        }
        let key = (segment.file.uid, partition);
        let cached = self.index_cache.get(key);
        let runs = match cached {
            Some(runs) => runs,
            None => {
                let runs = self.with_file(&segment.file, |db| {
                    let bytes = db.index(partition.0)?.unwrap_or_default();
                    decode_runs(&bytes).ok_or(DbError::Malformed("an index row does not decode"))
                })?;
                self.index_cache.put(key, runs)
            }
        };
        let end = segment.summary.end;
        if runs.last().is_some_and(|run| run.end > end) {
            // Cut back since the file was sealed.
            let mut runs = runs.to_vec();
            crate::index::truncate_runs(&mut runs, end);
            return Ok(runs.into());
        }
        Ok(runs)
    }

    /// The runs of all partitions in an unsealed file, by partition.
    pub(crate) fn unsealed_runs(&self, file: &Arc<LogFile>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (partition, places) in self.read_index().iter() {
            let segment = places.segments.iter().find(|s| Arc::ptr_eq(&s.file, file));
            if let Some(runs) = segment.and_then(|segment| segment.runs.as_ref()) {
                rows.push((partition.0, encode_runs(runs)));
            }
        }
        rows.sort_unstable_by_key(|row| row.0);
        rows
    }

    /// Closes every file that is still open.
    pub(crate) fn close_files(&self) {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(db) = next.and_then(|next| next.take()) {
            // It holds nothing, and the next start removes it.
            db.fence();
            drop_contained(db);
        }
        let files: Vec<_> = self.lock_files().values().cloned().collect();
        for db in files.iter().filter_map(|file| file.take()) {
            if let Err(error) = db.close() {
                tracing::warn!(shard = self.id, %error, "closing a log file failed");
            }
        }
    }

    pub(crate) fn stats(&self) -> ShardStats {
        let files = self.lock_files();
        let files: Vec<_> = files.values().cloned().collect();
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let allocated = files.iter().chain(&next);
        let allocated = allocated.map(|file| self.disk.allocated_bytes(&file.path).unwrap_or(0));
        let (queued, state) = self.queue.stats();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let quarantined = files.iter().filter(|file| file.quarantined().is_some());
        ShardStats {
            shard: self.id,
            state,
            files: files.len(),
            bytes_on_disk: allocated.sum(),
            bytes_written: load(&self.counters.bytes_written),
            bytes_read: load(&self.counters.bytes_read),
            payload_bytes: load(&self.metrics.payload_bytes),
            entries: load(&self.metrics.entries),
            commits: load(&self.metrics.commits),
            syncs: load(&self.counters.syncs),
            queued,
            commit_latency: self.metrics.commit_latency(),
            clock_suspended: self.metrics.clock_suspended.load(Ordering::Relaxed),
            files_verified: load(&self.metrics.files_verified),
            quarantined: quarantined.map(|file| file.name()).collect(),
        }
    }
}

/// Why a file's content cannot be had.
#[derive(Debug)]
pub(crate) enum FileError {
    /// The file is being replaced: look again.
    Away,
    /// The file is out of use.
    Unusable(DbError),
}

impl FileError {
    /// What a reader of `from..to` is told.
    pub(crate) fn for_reader(&self, file: &LogFile, from: Offset, to: Offset) -> ReadError {
        match self {
            FileError::Unusable(DbError::Malformed(_) | DbError::Panicked(_)) => {
                ReadError::Corrupt { from, to, file: file.name() }
            }
            FileError::Unusable(error) => {
                ReadError::Unavailable { from, to, reason: error.to_string() }
            }
            FileError::Away => {
                ReadError::Unavailable { from, to, reason: "the file is being replaced".to_owned() }
            }
        }
    }
}

/// Lets go of a file that may be broken: dropping it may panic in turn.
pub(crate) fn drop_contained(db: FileDb) {
    let dropped = crate::db::contain(|| {
        drop(db);
        Ok(())
    });
    if let Err(error) = dropped {
        tracing::warn!(%error, "letting go of a log file failed");
    }
}
