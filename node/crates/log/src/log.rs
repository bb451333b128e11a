//! The log of a node.

use crate::api::{AppendError, AppendRequest, OpenError, ReadChunk, ReadError};
use crate::backend::IoCounters;
use crate::background::{Background, Task};
use crate::clock::Clock;
use crate::config::{LogConfig, Retention};
use crate::disk::Disk;
use crate::events::LogEvents;
use crate::manifest::Manifest;
use crate::recover::{Recovered, Recovery};
use crate::shard::{Shard, ShardParts};
use crate::space::SpaceWatch;
use crate::stats::{PartitionStats, ShardStats};
use crate::tail::TailCache;
use crate::witness::Witness;
use crate::writer::{Views, Writer, ends_of};
use bytes::Bytes;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId, TimestampMs};

/// The log of a node. Share it behind an [`Arc`].
pub struct Log {
    shards: Vec<Arc<Shard>>,
    pub(crate) tail: Arc<TailCache>,
    background: Arc<Background>,
    threads: Mutex<Threads>,
    /// Keeps other processes out of the folder.
    _lock: Box<dyn Any + Send + Sync>,
}

/// The log's threads, and what they will be given when they start.
#[derive(Default)]
struct Threads {
    pending: Vec<Pending>,
    writers: Vec<JoinHandle<()>>,
    background: Option<JoinHandle<()>>,
}

/// A shard that was opened and not started.
struct Pending {
    shard: Arc<Shard>,
    active: crate::writer::Active,
    views: Views,
    unsealed: Vec<Arc<crate::file::LogFile>>,
    damage: Option<String>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl Log {
    /// Opens the folder, creating it if there is none, and replays what recovery needs: the newest
    /// file of each shard. Starts no threads; appends are refused until [`Log::start`].
    ///
    /// Also returns what the log says of each partition. A shard whose newest file is damaged does
    /// not prevent opening: its views are those of the file before, and it stays offline.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: LogConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Log, HashMap<PartitionId, PartitionView>), OpenError> {
        let config = Arc::new(config);
        let lock = prepare_dir(&config, &*disk)?;
        let shards = count_shards(&config, &*disk)?;
        let tail = Arc::new(TailCache::new(config.tail_cache_bytes));
        let mut views = HashMap::new();
        let mut pending = Vec::new();
        for id in 0..shards {
            let opened = open_shard(shard_parts(&config, &disk, &clock, &tail, (id, shards))?)?;
            views.extend(opened.views.iter().map(|(&p, view)| (p, view.clone())));
            pending.push(opened);
        }
        let log = Log {
            shards: pending.iter().map(|opened| opened.shard.clone()).collect(),
            tail,
            background: Arc::default(),
            threads: Mutex::new(Threads { pending, ..Threads::default() }),
            _lock: lock,
        };
        Ok((log, views))
    }

    /// Starts the writer and background threads. A second call does nothing.
    ///
    /// # Panics
    /// If the system refuses to start a thread.
    pub fn start(&self, events: Arc<dyn LogEvents>) {
        let mut threads = self.threads();
        for opened in std::mem::take(&mut threads.pending) {
            let shard = opened.shard;
            let seal = opened.unsealed.into_iter();
            for task in seal.map(|file| Task::Seal(shard.clone(), file)) {
                self.background.push(task);
            }
            shard.set_damage(opened.damage.clone());
            match &opened.damage {
                None => shard.queue.open(ends_of(&opened.views)),
                Some(reason) => shard.queue.go_offline(reason),
            }
            let name = format!("log-writer-{}", shard.id);
            let writer = Writer {
                shard,
                events: events.clone(),
                background: self.background.clone(),
                active: opened.active,
                views: opened.views,
                damage: opened.damage,
                space: SpaceWatch::default(),
                lander: None,
                next_asked: false,
            };
            threads.writers.push(spawn(name, move || writer.run()));
        }
        if threads.background.is_none() {
            let (background, shards) = (self.background.clone(), self.shards.clone());
            let body = move || background.run(&shards);
            threads.background = Some(spawn("log-background".to_owned(), body));
        }
    }

    /// Hands an entry to its shard's writer. Never blocks. The order of calls for a partition is
    /// the order in its log.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was or will be written. [`AppendError::Malformed`] for an item of
    /// another kind than [`EntryKind::Entry`].
    pub fn append(&self, request: AppendRequest) -> Result<(), AppendError> {
        if request.header.kind != EntryKind::Entry {
            return Err(AppendError::Malformed);
        }
        self.shard_of(request.header.partition).queue.push(request)
    }

    /// Reads from memory only: never blocks on the disk. `None` if `from` is not in memory.
    #[must_use]
    pub fn read_cached(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Option<ReadChunk> {
        self.tail.read(partition, from, max_bytes, below)
    }

    /// Reads whole batches from the one that holds `from` on, up to about `max_bytes` (at least
    /// one batch) and not beyond `below` or the durable end. May block on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<ReadChunk, ReadError> {
        self.shard_of(partition).read(partition, from, max_bytes, below)
    }

    /// The first offset, in log order, whose record has a timestamp of `at` or later.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn find_time(
        &self,
        partition: PartitionId,
        at: TimestampMs,
    ) -> Result<Option<Offset>, ReadError> {
        self.shard_of(partition).find_time(partition, at)
    }

    /// Why what was written to a partition last cannot be read, if it cannot: the newest file of
    /// its shard was found damaged at the start. What is told of the partition is as of the file
    /// before.
    #[must_use]
    pub fn damage(&self, partition: PartitionId) -> Option<String> {
        self.shard_of(partition).damage()
    }

    /// Sets how long a partition's records are kept. Not remembered across [`Log::open`].
    pub fn set_retention(&self, partition: PartitionId, retention: Retention) {
        let shard = self.shard_of(partition);
        let mut all = shard.retention.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(partition, retention);
    }

    /// Deletes a partition. Ordered after the appends made before; its id must not be used again.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn delete_partition(&self, partition: PartitionId) -> Result<(), AppendError> {
        let shard = self.shard_of(partition);
        let mut all = shard.retention.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&partition);
        drop(all);
        shard.queue.push(control(EntryKind::Delete, partition, Offset::ZERO))
    }

    /// Moves a partition's log start up to `start`, or to its durable end if that is lower. A start
    /// at or below the present one changes nothing.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::QueueFull`] while the partition's log is being cut.
    pub fn trim(&self, partition: PartitionId, start: Offset) -> Result<(), AppendError> {
        let shard = self.shard_of(partition);
        // Held until the item is in the queue: what it says must be of the log that it joins.
        let index = shard.read_index();
        match index.get(&partition).map(|places| (places.log_start, places.end)) {
            Some((log_start, end)) if log_start < start.min(end) => {
                let start = start.min(end);
                shard.queue.push(control(EntryKind::LogStart, partition, start))
            }
            _ => Ok(()),
        }
    }

    /// The wall clock is right: retention by age goes on after a jump of the clock.
    pub fn confirm_time(&self) {
        self.background.confirm_time();
    }

    /// One partition's figures; `None` for one that the log does not know.
    #[must_use]
    pub fn stats(&self, partition: PartitionId) -> Option<PartitionStats> {
        let index = self.shard_of(partition).read_index();
        let places = index.get(&partition)?;
        let runs = places.segments.iter();
        Some(PartitionStats {
            log_start: places.log_start,
            end: places.end,
            bytes: places.bytes(),
            files: places.segments.len(),
            runs: runs.filter_map(|s| s.runs.as_ref()).map(Vec::len).sum(),
            append_time: places.append_time,
        })
    }

    /// Bytes that a partition retains from `start` on, taking the entries of a file as equally
    /// long; 0 for one that the log does not know.
    #[must_use]
    pub fn bytes_from(&self, partition: PartitionId, start: Offset) -> u64 {
        let index = self.shard_of(partition).read_index();
        index.get(&partition).map_or(0, |places| places.bytes_from(start))
    }

    /// Every shard's figures.
    #[must_use]
    pub fn shard_stats(&self) -> Vec<ShardStats> {
        self.shards.iter().map(|shard| shard.stats()).collect()
    }

    /// Commits what waits, ends the threads and closes all files. Appends are refused from then
    /// on. Blocks until done; a second call does nothing.
    pub fn shutdown(&self) {
        for shard in &self.shards {
            shard.queue.close();
        }
        let mut threads = self.threads();
        for writer in threads.writers.drain(..) {
            join(writer);
        }
        self.background.close();
        if let Some(background) = threads.background.take() {
            join(background);
        }
        threads.pending.clear();
        for shard in &self.shards {
            shard.close_files();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    pub(crate) fn shard_of(&self, partition: PartitionId) -> &Shard {
        &self.shards[partition.0 as usize % self.shards.len()]
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name).spawn(body);
    thread.expect("the system starts a thread")
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the log panicked");
    }
}

/// An item that carries nothing but its offset.
pub(crate) fn control(kind: EntryKind, partition: PartitionId, offset: Offset) -> AppendRequest {
    AppendRequest {
        header: EntryHeader {
            kind,
            partition,
            base_offset: offset,
            offset_count: 0,
            epoch: LeaderEpoch::default(),
            append_time: TimestampMs::default(),
            state_len: 0,
            source_len: 0,
            batch_len: 0,
        },
        state: Bytes::new(),
        source: Bytes::new(),
        batch: Bytes::new(),
        linger: Duration::ZERO,
        hold: None,
    }
}

pub(crate) fn prepare_dir(
    config: &LogConfig,
    disk: &dyn Disk,
) -> Result<Box<dyn Any + Send + Sync>, OpenError> {
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |error| OpenError::Io { path, error }
    };
    disk.create_dir(&config.dir).map_err(io(&config.dir))?;
    let path = config.dir.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::InUse(config.dir.clone()),
        _ => io(&path)(error),
    })
}

fn shard_dir(config: &LogConfig, shard: u16) -> std::path::PathBuf {
    config.dir.join("log").join(format!("shard-{shard}"))
}

/// How many shards the folder has, or is to have.
pub(crate) fn count_shards(config: &LogConfig, disk: &dyn Disk) -> Result<u16, OpenError> {
    let dir = config.dir.join("log");
    let io = |error| OpenError::Io { path: dir.clone(), error };
    disk.create_dir(&dir).map_err(io)?;
    let names = disk.list(&dir).map_err(io)?;
    let there = names.iter().filter(|name| name.starts_with("shard-")).count();
    if there > 0 {
        return Ok(u16::try_from(there).unwrap_or(u16::MAX));
    }
    let shards = config.shards.max(1);
    // A folder cut short here holds nothing yet: fewer shards are then as good.
    for id in 0..shards {
        disk.create_dir(&shard_dir(config, id)).map_err(io)?;
    }
    Ok(shards)
}

fn open_manifest(disk: &Arc<dyn Disk>, dir: &std::path::Path) -> Result<Manifest, OpenError> {
    Manifest::open(disk, dir)
        .map_err(|error| OpenError::Io { path: dir.to_owned(), error: io::Error::other(error) })
}

/// What a shard is made of: the one of these numbers (its own, and how many there are).
pub(crate) fn shard_parts(
    config: &Arc<LogConfig>,
    disk: &Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
    tail: &Arc<TailCache>,
    (id, shards): (u16, u16),
) -> Result<ShardParts, OpenError> {
    let dir = shard_dir(config, id);
    let create = disk.create_dir(&dir);
    create.map_err(|error| OpenError::Io { path: dir.clone(), error })?;
    Ok(ShardParts {
        manifest: open_manifest(disk, &dir)?,
        id,
        shards,
        config: config.clone(),
        disk: disk.clone(),
        clock: clock.clone(),
        dir,
        counters: Arc::new(IoCounters::default()),
        tail: tail.clone(),
    })
}

/// Opens and replays a shard's files.
pub(crate) fn recover_shard(parts: &ShardParts) -> Result<Recovered, OpenError> {
    let recovery = Recovery {
        shard: parts.id,
        shards: parts.shards,
        dir: &parts.dir,
        disk: &*parts.disk,
        counters: &parts.counters,
        config: &parts.config,
        notes: parts.manifest.notes(parts.id, parts.shards),
        now_ms: parts.clock.now().0.max(0) as u64,
        acknowledged: Witness::read(&*parts.disk, &parts.dir),
    };
    recovery.run()
}

fn open_shard(parts: ShardParts) -> Result<Pending, OpenError> {
    let recovered = recover_shard(&parts)?;
    if !recovered.stale_notes.is_empty() {
        parts.manifest.remove(&recovered.stale_notes);
    }
    let shard = Shard::new(parts, recovered.index, recovered.files);
    shard.note_active(&recovered.active);
    Ok(Pending {
        shard: Arc::new(shard),
        active: recovered.active,
        views: recovered.views,
        unsealed: recovered.unsealed,
        damage: recovered.damage,
    })
}
