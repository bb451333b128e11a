//! A log file's life: writable while active, then sealed, then opened for reading when needed.

use crate::backend::{IoCounters, Overlay};
use crate::db::{DbError, FileDb, Identity};
use crate::disk::Disk;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

static NEXT_UID: AtomicU64 = AtomicU64::new(1);

/// A log file, open or not.
#[derive(Debug)]
pub(crate) struct LogFile {
    /// Unique in this process: two files never share one, not even by the same name.
    pub(crate) uid: u64,
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    sealed: AtomicBool,
    db: RwLock<Option<FileDb>>,
    /// Why the file may not be used, if so.
    quarantine: Mutex<Option<DbError>>,
    /// It holds an entry that is not what was written, which the cleaner must leave where it is.
    rotten: AtomicBool,
    /// A file that takes its place is being written.
    claimed: AtomicBool,
    /// When it was last read, in ticks of the shard.
    pub(crate) last_used: AtomicU64,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf, identity: Identity, sealed: bool) -> LogFile {
        LogFile {
            uid: NEXT_UID.fetch_add(1, Ordering::Relaxed),
            path,
            identity,
            sealed: AtomicBool::new(sealed),
            db: RwLock::new(None),
            quarantine: Mutex::new(None),
            rotten: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
        }
    }

    pub(crate) fn with_db(self, db: FileDb) -> LogFile {
        LogFile { db: RwLock::new(Some(db)), ..self }
    }

    pub(crate) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub(crate) fn is_open(&self) -> bool {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.is_some()
    }

    /// Nobody uses the file any more.
    pub(crate) fn quarantine(&self, error: &DbError) {
        let mut quarantine = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        if quarantine.is_none() {
            tracing::error!(file = %self.path.display(), %error, "log file taken out of use");
            *quarantine = Some(error.clone());
        }
    }

    /// The file may be used again.
    pub(crate) fn release(&self) {
        *self.quarantine.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn quarantined(&self) -> Option<DbError> {
        let quarantine = self.quarantine.lock().unwrap_or_else(PoisonError::into_inner);
        quarantine.clone()
    }

    /// Uses the file if it is open.
    pub(crate) fn try_with<T>(
        &self,
        body: impl FnOnce(&FileDb) -> Result<T, DbError>,
    ) -> Option<Result<T, DbError>> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        db.as_ref().map(body)
    }

    /// Opens the file for reading if it is closed. Returns whether it was.
    pub(crate) fn open_read_only(
        &self,
        disk: &dyn Disk,
        counters: &Arc<IoCounters>,
        cache_bytes: usize,
    ) -> Result<bool, DbError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if db.is_some() {
            return Ok(false);
        }
        let file = disk.open(&self.path).map_err(crate::db::failed)?;
        *db = Some(FileDb::open_read_only(file, counters, cache_bytes)?);
        Ok(true)
    }

    /// Closes a file whose index was written: from here on it is read only. Readers wait meanwhile.
    /// If closing fails the file stays closed and counts as full, but not as sealed.
    pub(crate) fn close_sealed(&self) -> Result<(), DbError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        let open = db.take().ok_or(DbError::Malformed("the file is not open"))?;
        open.close()?;
        self.sealed.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes the open file out. Waits for those that use it.
    pub(crate) fn take(&self) -> Option<FileDb> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        db.take()
    }

    pub(crate) fn mark_rotten(&self) {
        self.rotten.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_rotten(&self) -> bool {
        self.rotten.load(Ordering::Relaxed)
    }

    /// Whether something in the file is not what was written; the disk may read well.
    pub(crate) fn is_damaged(&self) -> bool {
        let content = |error| matches!(error, DbError::Malformed(_) | DbError::Panicked(_));
        self.is_rotten() || self.quarantined().is_some_and(content)
    }

    /// Claims the file for writing another one in its place, whose name would be the same whoever
    /// writes it; `false` if somebody did before.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Gives the claim back: the file stays.
    pub(crate) fn disclaim(&self) {
        self.claimed.store(false, Ordering::Release);
    }
}

/// Opens a file that may be half written or lie about what is on disk: drops what the system
/// caches of it, and keeps every write in memory.
pub(crate) fn open_untouched(
    disk: &dyn Disk,
    path: &Path,
    counters: &Arc<IoCounters>,
    cache_bytes: usize,
) -> Result<FileDb, DbError> {
    let file = disk.open(path).map_err(crate::db::failed)?;
    file.drop_cached().map_err(crate::db::failed)?;
    let overlay = Overlay::new(file).map_err(crate::db::failed)?;
    FileDb::open_writable(Box::new(overlay), counters, cache_bytes)
}

/// The name of a file: its first number, and the cleaner's generation if it is not 0.
pub(crate) fn file_name(first_seq: u64, generation: u64) -> String {
    match generation {
        0 => format!("{first_seq:010}.redb"),
        _ => format!("{first_seq:010}.c{generation}.redb"),
    }
}

/// Reads what [`file_name`] wrote: first number and generation.
pub(crate) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let stem = name.strip_suffix(".redb")?;
    let (seq, generation) = match stem.split_once(".c") {
        Some((seq, generation)) => (seq, generation.parse().ok().filter(|&g| g > 0)?),
        None => (stem, 0),
    };
    let seq = seq.parse().ok()?;
    (name == file_name(seq, generation)).then_some((seq, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: names read back, and nothing else is taken for one.
    #[test]
    fn names() {
        for (seq, generation) in [(0, 0), (17, 0), (17, 3), (12_345_678_901, 1)] {
            let name = file_name(seq, generation);
            assert_eq!(parse_file_name(&name), Some((seq, generation)), "{name}");
        }
        for name in ["manifest.redb", "1.redb", "0000000001.c0.redb", "0000000001.redb.tmp"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
