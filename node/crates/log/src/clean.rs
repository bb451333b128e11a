//! Letting go of what is not retained: dead files are removed, mostly dead ones are copied forward
//! without their dead, in partition order. And the scrub, which reads sealed files to find rot
//! before a reader does.
//!
//! A file that the cleaner writes stands for the range of file numbers of those that it replaces.
//! It gets its name only once it is complete, and the old ones go after that; what a crash leaves
//! of either is sorted out at the next start.

use crate::backend::Overlay;
use crate::background::Background;
use crate::copy::{Copier, Held};
use crate::db::{DbError, FileDb};
use crate::file::LogFile;
use crate::index::{Run, Segment, Summary};
use crate::manifest::Note;
use crate::rescue::remove_file;
use crate::shard::{FileError, Shard, drop_contained};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use weir_core::{PartitionId, TimestampMs};

/// Bytes copied or read between two looks at urgent work.
const STEP_BYTES: usize = 2 * 1024 * 1024;
/// So many small files next to each other are worth being joined.
const SMALL_FILES: usize = 4;

/// A sealed file as the cleaner sees it.
struct Candidate {
    file: Arc<LogFile>,
    live: u64,
    size: u64,
}

impl Shard {
    /// Removes sealed files that hold nothing that is retained.
    pub(crate) fn remove_dead_files(&self) {
        if !self.is_active_begun() {
            // The newest sealed file still has the only snapshot of the views.
            return;
        }
        let layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live_files();
        let mut files = self.lock_files();
        let dead = |file: &&Arc<LogFile>| {
            file.is_sealed() && file.quarantined().is_none() && !live.contains(&file.uid)
        };
        let dead: Vec<_> = files.values().filter(dead).cloned().collect();
        for file in &dead {
            files.remove(&file.identity.first_seq);
        }
        drop(files);
        drop(layout);
        self.remove_files(&dead);
    }

    fn live_files(&self) -> HashSet<u64> {
        let index = self.read_index();
        let segments = index.values().flat_map(|places| &places.segments);
        segments.map(|segment| segment.file.uid).collect()
    }

    /// Removes files that are no longer listed.
    fn remove_files(&self, files: &[Arc<LogFile>]) {
        if files.is_empty() {
            return;
        }
        for file in files {
            if let Some(db) = file.take() {
                drop_contained(db);
            }
            remove_file(&*self.disk, &file.path);
        }
        let names: Vec<String> = files.iter().map(|file| file.name()).collect();
        self.manifest.remove(&names);
        tracing::info!(shard = self.id, ?names, "removed log files");
    }

    /// Copies one group of mostly dead files forward, if there is one.
    pub(crate) fn clean(&self, background: &Background) {
        let Some(group) = self.pick_group() else {
            return;
        };
        let names: Vec<String> = group.iter().map(|file| file.name()).collect();
        // Somebody may have found one of them damaged since, and be at work on it.
        let claimed = group.iter().take_while(|file| file.claim()).count();
        let cleaned = match claimed == group.len() {
            true => self.rewrite(&group, background),
            false => Err(CleanError::Stopped),
        };
        if cleaned.is_err() {
            group[..claimed].iter().for_each(|file| file.disclaim());
        }
        match cleaned {
            Ok(()) => tracing::info!(shard = self.id, ?names, "cleaned log files"),
            Err(CleanError::Stopped) => {}
            Err(CleanError::Failed(error)) => {
                tracing::warn!(shard = self.id, ?names, %error, "cleaning failed");
            }
        }
    }

    /// Neighbouring files that are worth rewriting into one.
    fn pick_group(&self) -> Option<Vec<Arc<LogFile>>> {
        let mut best: Vec<Candidate> = Vec::new();
        let mut group: Vec<Candidate> = Vec::new();
        let (percent, full) = (u64::from(self.config.clean_below_percent), self.config.file_bytes);
        let sparse = |c: &Candidate| c.live * 100 < c.size * percent;
        let worth = |group: &[Candidate]| group.iter().any(sparse) || group.len() >= SMALL_FILES;
        let gain = |group: &[Candidate]| group.iter().map(|c| c.size - c.live.min(c.size)).sum();
        let mut keep = |group: Vec<Candidate>| {
            let gains: (u64, u64) = (gain(&group), gain(&best));
            if worth(&group) && (best.is_empty() || gains.0 > gains.1) {
                best = group;
            }
        };
        for candidate in self.candidates() {
            let Some(candidate) = candidate else {
                keep(std::mem::take(&mut group));
                continue;
            };
            let eligible = sparse(&candidate) || candidate.size < full / 4;
            let live: u64 = group.iter().map(|c| c.live).sum();
            if !eligible || live + candidate.live > full {
                keep(std::mem::take(&mut group));
            }
            if eligible {
                group.push(candidate);
            }
        }
        keep(group);
        (!best.is_empty()).then(|| best.into_iter().map(|c| c.file).collect())
    }

    /// Sealed files in order; `None` where one cannot be touched. The newest is left alone: should
    /// the active file be lost, it has the newest snapshot of the views.
    fn candidates(&self) -> Vec<Option<Candidate>> {
        let mut live: HashMap<u64, u64> = HashMap::new();
        for places in self.read_index().values() {
            for segment in &places.segments {
                let bytes = segment.summary.bytes_from(places.log_start);
                *live.entry(segment.file.uid).or_default() += bytes;
            }
        }
        let files = self.lock_files();
        let mut sealed: Vec<_> = files.values().filter(|file| file.is_sealed()).cloned().collect();
        drop(files);
        sealed.pop();
        let candidate = |file: Arc<LogFile>| {
            let usable = file.quarantined().is_none() && !file.is_rotten();
            let size = self.disk.allocated_bytes(&file.path).ok().filter(|_| usable)?;
            let live = live.get(&file.uid).copied().unwrap_or(0);
            Some(Candidate { file, live, size })
        };
        sealed.into_iter().map(candidate).collect()
    }

    fn rewrite(&self, group: &[Arc<LogFile>], background: &Background) -> Result<(), CleanError> {
        let copier = Copier::begin(self, group)?;
        let mut copy = Copy { shard: self, background, copier };
        let held = copy.partitions(group)?;
        copy.flush()?;
        self.replace(group, copy.copier, &held)?;
        Ok(())
    }

    /// Has a file that was written take the place of others, whose live entries it holds.
    pub(crate) fn replace(
        &self,
        group: &[Arc<LogFile>],
        copier: Copier,
        held: &[Held],
    ) -> Result<(), DbError> {
        let file = copier.finish(self, held)?;
        let notes: Vec<_> = held.iter().map(|row| (row.0, row.1)).collect();
        self.replace_group(group, &file, &notes);
        self.note_sealed(&file, notes);
        self.remove_files(group);
        Ok(())
    }

    /// Points the index at the new file instead of those that it replaces.
    fn replace_group(
        &self,
        group: &[Arc<LogFile>],
        new: &Arc<LogFile>,
        held: &[(PartitionId, Summary)],
    ) {
        let held: HashMap<PartitionId, Summary> = held.iter().copied().collect();
        let replaced = |s: &Segment| group.iter().any(|file| Arc::ptr_eq(file, &s.file));
        let _layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = self.lock_files();
        for file in group {
            files.remove(&file.identity.first_seq);
        }
        files.insert(new.identity.first_seq, new.clone());
        drop(files);
        for (partition, places) in self.write_index().iter_mut() {
            let Some(at) = places.segments.iter().position(replaced) else {
                continue;
            };
            // Cut back while it was copied: the end in memory is right.
            let ends = places.segments.iter().filter(|s| replaced(s)).map(|s| s.summary.end);
            let end = ends.max().unwrap_or_default();
            places.segments.retain(|segment| !replaced(segment));
            let Some(mut summary) = held.get(partition).copied() else {
                continue;
            };
            summary.end = summary.end.min(end);
            if summary.end > places.log_start && summary.start < summary.end {
                let segment = Segment { file: new.clone(), summary, runs: None };
                places.segments.insert(at, segment);
            }
        }
    }

    /// Writes down what a sealed and closed file holds, with its checksum.
    pub(crate) fn note_sealed(&self, file: &LogFile, summaries: Vec<(PartitionId, Summary)>) {
        let open = self.disk.open(&file.path);
        let len = match open.and_then(|open| open.len()) {
            Ok(len) => len,
            Err(error) => {
                tracing::warn!(file = %file.path.display(), %error, "cannot note a sealed file");
                return;
            }
        };
        let note = Note { identity: file.identity, len, checksum: None, summaries };
        self.manifest.put(&file.name(), &note);
    }

    /// Verifies the sealed file that was not verified for the longest time, if that is long enough.
    pub(crate) fn scrub(&self, background: &Background) {
        let now = self.clock.now();
        let period = self.config.scrub_period.as_millis() as i64;
        let notes = self.manifest.notes(self.id, self.shards);
        let files = self.lock_files();
        let sealed: Vec<_> = files.values().filter(|file| file.is_sealed()).cloned().collect();
        drop(files);
        for file in &sealed {
            self.reconsider(file, notes.get(&file.name()), background);
        }
        let usable = sealed.iter().filter(|file| file.quarantined().is_none());
        let noted = usable.filter_map(|file| Some((file, notes.get(&file.name())?)));
        let verified = |note: &Note| note.checksum.map(|(_, at)| at);
        let oldest = noted.min_by_key(|(_, note)| verified(note).unwrap_or(TimestampMs(i64::MIN)));
        let Some((file, note)) = oldest else {
            return;
        };
        // A clock that was set back must not stop the scrub for years.
        let age = |at: TimestampMs| now.0.abs_diff(at.0);
        if verified(note).is_some_and(|at| age(at) < period as u64) {
            return;
        }
        let checksum = match self.checksum(file, note.len, background) {
            Ok(checksum) => checksum,
            Err(CleanError::Stopped) => return,
            Err(CleanError::Failed(error)) => {
                file.quarantine(&error);
                return;
            }
        };
        if note.checksum.is_some_and(|(known, _)| known != checksum) {
            file.quarantine(&DbError::Malformed("the file's checksum is another"));
            return;
        }
        let note = Note { checksum: Some((checksum, now)), ..note.clone() };
        self.manifest.put(&file.name(), &note);
        self.metrics.files_verified.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a file to use again that the disk failed to read, once all of it reads as it was
    /// written. One whose content was found to be wrong stays out of use until it is written anew,
    /// or for good.
    fn reconsider(&self, file: &LogFile, note: Option<&Note>, background: &Background) {
        if !matches!(file.quarantined(), Some(DbError::Failed(_))) {
            return;
        }
        let sound = match note.and_then(|note| Some((note.len, note.checksum?.0))) {
            Some((len, known)) => match self.checksum(file, len, background) {
                Ok(checksum) => checksum == known,
                // It still cannot be read, or there is no time to.
                Err(_) => return,
            },
            None => match self.verify(file) {
                Err(DbError::Failed(_)) => return,
                verified => verified.is_ok(),
            },
        };
        if sound {
            tracing::info!(file = %file.path.display(), "the log file reads again");
            file.release();
        } else if !file.is_rotten() {
            tracing::error!(file = %file.path.display(), "the log file is not what was written");
            file.mark_rotten();
        }
    }

    /// Has redb check every page of a sealed file, without a write to it.
    fn verify(&self, file: &LogFile) -> Result<(), DbError> {
        let open = self.disk.open(&file.path).map_err(crate::db::failed)?;
        open.drop_cached().map_err(crate::db::failed)?;
        let overlay = Overlay::new(open).map_err(crate::db::failed)?;
        FileDb::open_verified(Box::new(overlay), &self.counters, self.config.sealed_cache_bytes)
    }

    fn checksum(
        &self,
        file: &LogFile,
        len: u64,
        background: &Background,
    ) -> Result<u32, CleanError> {
        let open = self.disk.open(&file.path).map_err(crate::db::failed)?;
        let mut buffer = vec![0; STEP_BYTES];
        let (mut at, mut checksum) = (0, 0);
        while at < len {
            let part = (len - at).min(STEP_BYTES as u64) as usize;
            open.read_at(at, &mut buffer[..part]).map_err(crate::db::failed)?;
            checksum = crc32c::crc32c_append(checksum, &buffer[..part]);
            at += part as u64;
            self.throttle(part, background)?;
        }
        Ok(checksum)
    }

    /// Waits as long as `bytes` take at the configured speed, doing urgent work meanwhile.
    fn throttle(&self, bytes: usize, background: &Background) -> Result<(), CleanError> {
        let wait = match self.config.background_bytes_per_s {
            0 => Duration::ZERO,
            speed => Duration::from_secs_f64(bytes as f64 / speed as f64),
        };
        match background.pause(wait) {
            true => Err(CleanError::Stopped),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
enum CleanError {
    /// The log closes.
    Stopped,
    Failed(DbError),
}

impl From<DbError> for CleanError {
    fn from(error: DbError) -> CleanError {
        CleanError::Failed(error)
    }
}

/// A copy on its way.
struct Copy<'a> {
    shard: &'a Shard,
    background: &'a Background,
    copier: Copier,
}

impl Copy<'_> {
    /// Copies what lives in the files of `group`, partition by partition.
    fn partitions(&mut self, group: &[Arc<LogFile>]) -> Result<Vec<Held>, CleanError> {
        let mut live: Vec<PartitionId> = {
            let index = self.shard.read_index();
            let held = index.iter().filter(|(_, places)| {
                let mut segments = places.segments.iter();
                segments.any(|s| group.iter().any(|file| Arc::ptr_eq(file, &s.file)))
            });
            held.map(|(partition, _)| *partition).collect()
        };
        live.sort_unstable();
        let mut all = Vec::new();
        for partition in live {
            let mut runs = Vec::new();
            for file in group {
                self.file(partition, file, &mut runs)?;
            }
            if let Some(summary) = Summary::of(&runs) {
                all.push((partition, summary, runs));
            }
        }
        Ok(all)
    }

    fn file(
        &mut self,
        partition: PartitionId,
        file: &Arc<LogFile>,
        copied: &mut Vec<Run>,
    ) -> Result<(), CleanError> {
        let segment = {
            let index = self.shard.read_index();
            index.get(&partition).and_then(|places| {
                let segment = places.segments.iter().find(|s| Arc::ptr_eq(&s.file, file))?;
                Some((segment.clone(), places.log_start))
            })
        };
        let Some((segment, log_start)) = segment else {
            return Ok(());
        };
        let failed = |error| match error {
            FileError::Away => CleanError::Stopped,
            FileError::Unusable(error) => CleanError::Failed(error),
        };
        let runs = self.shard.runs_of(partition, &segment).map_err(failed)?;
        for run in runs.iter().filter(|run| run.end > log_start) {
            let bytes = self.shard.with_file(file, |db| {
                let mut bytes = Vec::with_capacity(run.bytes as usize);
                db.read_stream(run.position, run.position_end(), &mut bytes)?;
                Ok(bytes)
            });
            let bytes = Bytes::from(bytes.map_err(failed)?);
            let taken = self.copier.take(partition, run.base..run.end, &bytes, copied);
            // Rot must not be copied under a new checksum.
            if taken < run.end {
                file.mark_rotten();
                return Err(CleanError::Failed(DbError::Malformed("an entry is damaged")));
            }
            if self.copier.waiting() >= STEP_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), CleanError> {
        match self.copier.flush()? {
            0 => Ok(()),
            bytes => self.shard.throttle(bytes, self.background),
        }
    }
}
