//! Writing a damaged file anew, from what can still be read of it and from what others have.
//!
//! What a sealed file holds is committed, so any replica of a partition has the same entries at the
//! same offsets. The new file takes what still reads as it was written from the old one, entry by
//! entry, and the rest from wherever its user gets it. It takes the old one's place only once it
//! holds everything; until then, and if it never does, the old file stays as it is.

use crate::copy::{Copier, Held};
use crate::db::{DbError, FileDb, contain};
use crate::file::LogFile;
use crate::index::{Run, Summary, decode_runs};
use crate::log::Log;
use crate::shard::{Shard, drop_contained};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use weir_core::entry::EntryHeader;
use weir_core::partition::epochs;
use weir_core::{Offset, PartitionId};

/// Bytes that are written at once.
const STEP_BYTES: usize = 2 * 1024 * 1024;

/// A sealed file in which something is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// The shard.
    pub shard: u16,
    /// The file's name.
    pub file: String,
    /// What it holds, by partition.
    pub holds: Vec<(PartitionId, Range<Offset>)>,
    uid: u64,
}

/// What a damaged file cannot tell any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The partition.
    pub partition: PartitionId,
    /// The first entry that is missing begins here.
    pub from: Offset,
    /// The file held entries up to here. Perhaps not all of them are missing.
    pub until: Offset,
}

/// Why a file was not written anew.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// It is not there any more, or not damaged: look again.
    #[error("the file is not there any more, or is being written anew already")]
    Gone,
    /// What was given is not what is missing.
    #[error("partition {partition}: what was given for offset {at} is not an entry of its log")]
    Foreign {
        /// The partition.
        partition: PartitionId,
        /// The offset that was missing.
        at: Offset,
    },
    /// The disk failed.
    #[error("writing the file anew failed: {0}")]
    Disk(String),
}

impl From<DbError> for MendError {
    fn from(error: DbError) -> MendError {
        MendError::Disk(error.to_string())
    }
}

impl Log {
    /// Sealed files in which readers, the cleaner or the scrub found something that is not what was
    /// written. Not the newest sealed file of a shard: should the active one be lost, it says what
    /// was there, so it is left alone until another one is sealed.
    #[must_use]
    pub fn damaged_files(&self) -> Vec<DamagedFile> {
        self.shards().iter().flat_map(|shard| shard.damaged_files()).collect()
    }

    /// Begins to write a damaged file anew. Blocks on the disk, as all that [`Mend`] does.
    ///
    /// # Errors
    /// [`MendError::Gone`] or [`MendError::Disk`].
    pub fn mend(&self, damaged: &DamagedFile) -> Result<Mend, MendError> {
        let shard = self.shards().get(usize::from(damaged.shard)).ok_or(MendError::Gone)?;
        Mend::begin(shard.clone(), damaged)
    }
}

impl Shard {
    fn damaged_files(&self) -> Vec<DamagedFile> {
        let mut sealed: Vec<Arc<LogFile>> = {
            let files = self.lock_files();
            files.values().filter(|file| file.is_sealed()).cloned().collect()
        };
        sealed.pop();
        sealed.retain(|file| file.is_damaged());
        if sealed.is_empty() {
            return Vec::new();
        }
        let index = self.read_index();
        let holds = |file: &Arc<LogFile>| {
            let of = |(&partition, places): (&PartitionId, &crate::index::PartitionIndex)| {
                let segment = places.segments.iter().find(|s| Arc::ptr_eq(&s.file, file))?;
                let Summary { start, end, .. } = segment.summary;
                let start = start.max(places.log_start);
                (start < end).then_some((partition, start..end))
            };
            let mut holds: Vec<_> = index.iter().filter_map(of).collect();
            holds.sort_unstable_by_key(|(partition, _)| *partition);
            holds
        };
        let damaged = sealed.iter().map(|file| DamagedFile {
            shard: self.id,
            file: file.name(),
            holds: holds(file),
            uid: file.uid,
        });
        damaged.collect()
    }
}

/// A damaged file that is being written anew. Given up when dropped: the old one stays.
pub struct Mend {
    shard: Arc<Shard>,
    old: Arc<LogFile>,
    /// The old file, as far as it can be opened.
    source: Option<FileDb>,
    copier: Option<Copier>,
    /// What is to be copied yet, the partition at work first.
    left: VecDeque<(PartitionId, Range<Offset>)>,
    /// Of the partition at work.
    runs: Vec<Run>,
    held: Vec<Held>,
    /// Entries that came from elsewhere.
    given: u64,
}

impl std::fmt::Debug for Mend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mend").field("file", &self.old.path).finish_non_exhaustive()
    }
}

impl Mend {
    fn begin(shard: Arc<Shard>, damaged: &DamagedFile) -> Result<Mend, MendError> {
        let old = {
            let files = shard.lock_files();
            files.values().find(|file| file.uid == damaged.uid).cloned()
        };
        let old = old.filter(|old| old.is_damaged() && old.claim());
        let old = old.ok_or(MendError::Gone)?;
        // From here on dropping it ends the claim.
        let mut mend = Mend {
            shard,
            old,
            source: None,
            copier: None,
            left: damaged.holds.iter().cloned().collect(),
            runs: Vec::new(),
            held: Vec::new(),
            given: 0,
        };
        mend.copier = Some(Copier::begin(&mend.shard, std::slice::from_ref(&mend.old))?);
        mend.source = mend.open_source();
        Ok(mend)
    }

    fn open_source(&self) -> Option<FileDb> {
        let shard = &self.shard;
        let opened = contain(|| {
            let file = shard.disk.open(&self.old.path).map_err(crate::db::failed)?;
            file.drop_cached().map_err(crate::db::failed)?;
            FileDb::open_read_only(file, &shard.counters, shard.config.sealed_cache_bytes)
        });
        opened.inspect_err(|error| tracing::debug!(%error, "nothing of the file can be read")).ok()
    }

    /// Takes what the old file still tells, up to the first entry that it does not. `None` once
    /// nothing is missing: then comes [`Mend::finish`].
    ///
    /// # Errors
    /// [`MendError::Disk`].
    pub fn missing(&mut self) -> Result<Option<Missing>, MendError> {
        while let Some((partition, range)) = self.left.front().cloned() {
            let from = self.salvage(partition, range.clone())?;
            if from < range.end {
                self.left[0].1.start = from;
                return Ok(Some(Missing { partition, from, until: range.end }));
            }
            self.left.pop_front();
            let runs = std::mem::take(&mut self.runs);
            if let Some(summary) = Summary::of(&runs) {
                self.held.push((partition, summary, runs));
            }
        }
        Ok(None)
    }

    /// Gives what is missing, from another copy of the partition: whole entries one after another,
    /// of which the first holds the missing offset and the last may lie anywhere behind it.
    ///
    /// # Errors
    /// [`MendError::Foreign`] if the first is none or not sound; [`MendError::Disk`].
    pub fn give(&mut self, bytes: &Bytes) -> Result<(), MendError> {
        let (Some((partition, range)), Some(copier)) =
            (self.left.front_mut(), self.copier.as_mut())
        else {
            return Ok(());
        };
        let (partition, at) = (*partition, range.start);
        let foreign = MendError::Foreign { partition, at };
        if !is_of_log(&self.shard, partition, bytes) {
            return Err(foreign);
        }
        let taken = copier.take(partition, range.clone(), bytes, &mut self.runs);
        if taken <= at {
            return Err(foreign);
        }
        range.start = taken;
        self.given += taken.since(at);
        write_out(&self.shard, copier)
    }

    /// Puts the new file in the old one's place. Returns how many offsets came from elsewhere.
    ///
    /// # Errors
    /// [`MendError::Gone`] if something is missing or the old file is not there any more;
    /// [`MendError::Disk`].
    pub fn finish(mut self) -> Result<u64, MendError> {
        if !self.left.is_empty() || !self.shard.is_listed(&self.old) {
            return Err(MendError::Gone);
        }
        let copier = self.copier.take().ok_or(MendError::Gone)?;
        self.shard.replace(std::slice::from_ref(&self.old), copier, &self.held)?;
        tracing::info!(file = %self.old.path.display(), given = self.given,
            "a damaged log file was written anew");
        Ok(self.given)
    }

    /// Copies from the old file, from the beginning of a range on. Returns how far that went.
    fn salvage(
        &mut self,
        partition: PartitionId,
        range: Range<Offset>,
    ) -> Result<Offset, MendError> {
        let mut from = range.start;
        let (Some(source), Some(copier)) = (&self.source, self.copier.as_mut()) else {
            return Ok(from);
        };
        let runs = contain(|| {
            let row = source.index(partition.0)?.unwrap_or_default();
            decode_runs(&row).ok_or(DbError::Malformed("an index row does not decode"))
        });
        for run in runs.unwrap_or_default() {
            if run.end <= from {
                continue;
            }
            if run.base > from || from >= range.end {
                break;
            }
            let bytes = contain(|| {
                let mut bytes = Vec::with_capacity(run.bytes as usize);
                source.read_stream(run.position, run.position_end(), &mut bytes)?;
                Ok(Bytes::from(bytes))
            });
            let Ok(bytes) = bytes else { break };
            let end = run.end.min(range.end);
            from = copier.take(partition, from..end, &bytes, &mut self.runs);
            write_out(&self.shard, copier)?;
            if from < end {
                break;
            }
        }
        Ok(from)
    }
}

impl Drop for Mend {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            drop_contained(source);
        }
        if let Some(copier) = self.copier.take() {
            copier.give_up(&self.shard);
        }
        self.old.disclaim();
    }
}

/// Writes what was taken once it is much, no quicker than background work may be.
fn write_out(shard: &Shard, copier: &mut Copier) -> Result<(), MendError> {
    if copier.waiting() < STEP_BYTES {
        return Ok(());
    }
    let bytes = copier.flush()?;
    if shard.config.background_bytes_per_s > 0 {
        let speed = shard.config.background_bytes_per_s as f64;
        // sleep: the disk is left to others meanwhile.
        std::thread::sleep(Duration::from_secs_f64(bytes as f64 / speed));
    }
    Ok(())
}

/// Whether the first of some entries was written in the epoch that the log says for its offset.
fn is_of_log(shard: &Shard, partition: PartitionId, bytes: &Bytes) -> bool {
    let index = shard.read_index();
    let Some(places) = index.get(&partition) else { return false };
    let header = EntryHeader::decode(bytes);
    header.is_ok_and(|h| epochs::at(&places.epochs, h.base_offset) == Some(h.epoch))
}
