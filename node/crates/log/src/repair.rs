//! Going on without an active file that cannot be read.
//!
//! What a log acknowledged is not given up by itself: a shard whose newest file is damaged stays
//! offline, with the views of the file before. Where no replica has the rest, only an operator can
//! decide to go on. That begins a new file, whose snapshot has every partition's log go on at an
//! offset that no entry of the lost file can have had; the file itself is kept aside.

use crate::api::OpenError;
use crate::clock::Clock;
use crate::config::LogConfig;
use crate::db::{Commit, DbError, Identity, ROW_MAX};
use crate::disk::Disk;
use crate::log::{count_shards, prepare_dir, recover_shard, shard_parts};
use crate::rescue::{create_file, finish_file};
use crate::shard::ShardParts;
use crate::tail::TailCache;
use crate::writer::{Views, snapshot_of};
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use weir_core::entry::{ENTRY_HEADER_BYTES, ENTRY_VERSION, EntryHeader, EntryKind};
use weir_core::{Offset, PartitionId, limits};

/// What the name of a file ends with once its loss was accepted. Such files are left alone.
pub(crate) const LOST: &str = ".lost";
/// Bytes of a damaged file that are looked through at once.
const WINDOW: usize = 1024 * 1024;
/// Offsets go on at a multiple of this, so that a gap can be told from records.
const ROUND: i64 = 1_000_000_000;

/// A shard that cannot take appends, because its newest file is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The shard.
    pub shard: u16,
    /// The damaged file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// What every partition of the shard loses, by partition.
    pub partitions: Vec<PartitionLoss>,
}

/// What one partition loses: everything from `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionLoss {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that is lost, if the file held anything of the partition.
    pub from: Offset,
    /// The end of the newest entry that can still be made out in the file. There may have been
    /// later ones. `None`: nothing of the partition can be made out.
    pub seen_end: Option<Offset>,
    /// Where the partition's log would go on: no lost entry can have had this offset.
    pub resume: Offset,
}

/// A log folder that is looked through for losses. Holds the folder's lock.
pub struct Repair {
    config: Arc<LogConfig>,
    disk: Arc<dyn Disk>,
    damaged: Vec<Damaged>,
    _lock: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repair").field("dir", &self.config.dir).finish_non_exhaustive()
    }
}

struct Damaged {
    parts: ShardParts,
    file: PathBuf,
    /// The number of the file that will take its place.
    next_seq: u64,
    /// As the shard is to go on.
    views: Views,
}

impl Repair {
    /// Locks the folder, so that nobody else opens the log.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: LogConfig, disk: Arc<dyn Disk>) -> Result<Repair, OpenError> {
        let config = Arc::new(config);
        let lock = prepare_dir(&config, &*disk)?;
        Ok(Repair { config, disk, damaged: Vec::new(), _lock: lock })
    }

    /// Opens the shards as [`crate::Log::open`] does, and says what going on would lose of those
    /// that would stay offline. `partitions` are all that are known to exist: one whose first
    /// entries were lost is in no view. Changes nothing that opening the log would not change.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn find(
        &mut self,
        clock: &Arc<dyn Clock>,
        partitions: &[PartitionId],
    ) -> Result<Vec<Loss>, OpenError> {
        self.damaged.clear();
        let shards = count_shards(&self.config, &*self.disk)?;
        let tail = Arc::new(TailCache::new(0));
        let mut losses = Vec::new();
        for id in 0..shards {
            let parts = shard_parts(&self.config, &self.disk, clock, &tail, (id, shards))?;
            let recovered = recover_shard(&parts)?;
            let Some(reason) = recovered.damage else {
                continue;
            };
            let last = recovered.files.values().map(|file| file.identity.last_seq).max();
            let mut damaged = Damaged {
                file: recovered.active.file.path.clone(),
                next_seq: last.unwrap_or(0) + 1,
                views: recovered.views,
                parts,
            };
            let there = partitions.iter().filter(|p| p.0 % u32::from(shards) == u32::from(id));
            for &partition in there {
                damaged.views.entry(partition).or_default();
            }
            let (file, partitions) = (damaged.file.clone(), damaged.resume()?);
            losses.push(Loss { shard: id, file, reason, partitions });
            self.damaged.push(damaged);
        }
        Ok(losses)
    }

    /// Goes on without what [`Repair::find`] named. Durable when it returns, and nothing or all of
    /// a shard if it is interrupted. Returns where each damaged file was put.
    ///
    /// # Errors
    /// [`OpenError`]; shards before the one that failed are repaired.
    pub fn accept(self) -> Result<Vec<PathBuf>, OpenError> {
        self.damaged.iter().map(|damaged| damaged.accept(&self.config)).collect()
    }
}

impl Damaged {
    /// Has every view go on behind what may have been in the file.
    fn resume(&mut self) -> Result<Vec<PartitionLoss>, OpenError> {
        let io = |error| OpenError::Io { path: self.file.clone(), error };
        let (len, seen) = self.look_through().map_err(io)?;
        // No more entries than that fit into the file, and none takes more offsets.
        let entries = (len / ENTRY_HEADER_BYTES as u64 + 1).min(i64::MAX as u64) as i64;
        let most = entries.saturating_mul(limits::BATCH_RECORDS_MAX as i64);
        let mut losses = Vec::new();
        for (&partition, view) in &mut self.views {
            let from = view.log_end;
            let seen_end = seen.get(&partition).copied().filter(|&end| end > from);
            let behind = from.0.saturating_add(most).max(seen_end.unwrap_or(from).0);
            let resume = Offset((behind / ROUND).saturating_add(1).saturating_mul(ROUND));
            if view.log_start == view.log_end {
                view.log_start = resume;
            }
            view.log_end = resume;
            losses.push(PartitionLoss { partition, from, seen_end, resume });
        }
        losses.sort_unstable_by_key(|loss| loss.partition);
        Ok(losses)
    }

    /// The file's length, and per partition the end of the newest entry whose envelope lies whole
    /// somewhere in it.
    fn look_through(&self) -> io::Result<(u64, HashMap<PartitionId, Offset>)> {
        let file = self.parts.disk.open(&self.file)?;
        let len = file.len()?;
        let mut seen: HashMap<PartitionId, Offset> = HashMap::new();
        let mut window = vec![0; WINDOW];
        let mut at = 0;
        while at < len {
            let part = (len - at).min(WINDOW as u64) as usize;
            let bytes = &mut window[..part];
            // A place that cannot be read holds nothing that can be made out.
            if file.read_at(at, bytes).is_ok() {
                for start in 0..part.saturating_sub(ENTRY_HEADER_BYTES - 1) {
                    if bytes[start] != ENTRY_VERSION || bytes[start + 1] != 1 {
                        continue;
                    }
                    if let Ok(header) = EntryHeader::decode(&bytes[start..])
                        && header.kind == EntryKind::Entry
                    {
                        let end = seen.entry(header.partition).or_default();
                        *end = header.end_offset().max(*end);
                    }
                }
            }
            if at + part as u64 == len {
                break;
            }
            // Envelopes that lie across the border are met at the beginning of the next window.
            at += (part - ENTRY_HEADER_BYTES) as u64;
        }
        Ok((len, seen))
    }

    fn accept(&self, config: &LogConfig) -> Result<PathBuf, OpenError> {
        let parts = &self.parts;
        let identity = Identity {
            shard: parts.id,
            shards: parts.shards,
            first_seq: self.next_seq,
            last_seq: self.next_seq,
            generation: 0,
            created_ms: parts.clock.now().0.max(0) as u64,
        };
        let path = parts.dir.join(crate::file::file_name(self.next_seq, 0));
        let made = || -> Result<(), DbError> {
            let disk = &*parts.disk;
            let cache = config.active_cache_bytes;
            let db = create_file(disk, &path, &parts.counters, cache, &identity)?;
            let snapshot = snapshot_of(&self.views);
            db.commit(&Commit {
                position: 0,
                parts: &[],
                row_max: ROW_MAX,
                snapshot: Some(&snapshot),
                cuts: &[],
            })?;
            db.close()?;
            // From here on the shard goes on with the new file, whatever happens to the old one.
            finish_file(disk, &path)
        };
        made().map_err(|error| OpenError::Io {
            path: path.clone(),
            error: io::Error::other(error.to_string()),
        })?;
        let mut aside = self.file.clone().into_os_string();
        aside.push(LOST);
        let aside = PathBuf::from(aside);
        let moved = parts.disk.rename(&self.file, &aside);
        moved
            .and_then(|()| parts.disk.sync_dir(&parts.dir))
            .map_err(|error| OpenError::Io { path: self.file.clone(), error })?;
        Ok(aside)
    }
}
