//! One log file: everything that is asked of redb for it, each call contained.
//!
//! redb can panic on a rotten page, so every call runs behind `catch_unwind`; an error or a panic
//! comes out as a [`DbError`], and whoever gets one stops using the file.
//!
//! # Tables
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `u64`: see [`Identity`] |
//! | `stream` | position of the row's first byte | bytes of the stream |
//! | `snapshot` | partition | its view at the beginning of the file |
//! | `summary` | partition | what the file holds of it (once sealed) |
//! | `index` | partition | its runs (once sealed) |
//! | `cuts` | partition, position | the view from there on: see [`crate::cut_rows`] |
//! | `checkpoint_views` | partition | its view at the last orderly close |
//! | `checkpoint_runs` | partition | its runs then |

use crate::backend::{Backend, Fence, IoCounters};
use crate::cut_rows::{CutRow, FORMAT_WITH_CUTS, put_cuts};
use crate::disk::DiskFile;
use crate::syncing::{FileSync, Owed};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase,
    ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction,
};
use std::cell::Cell;
use std::fmt;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// The newest format of log files that this code knows.
pub(crate) const FORMAT_VERSION: u64 = FORMAT_WITH_CUTS;
/// The format of a file that has nothing which only a later one knows.
const FORMAT_FIRST: u64 = 1;

pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const STREAM: TableDefinition<u64, &[u8]> = TableDefinition::new("stream");
const SNAPSHOT: TableDefinition<u32, &[u8]> = TableDefinition::new("snapshot");
const SUMMARY: TableDefinition<u32, &[u8]> = TableDefinition::new("summary");
const INDEX: TableDefinition<u32, &[u8]> = TableDefinition::new("index");
const CHECKPOINT_VIEWS: TableDefinition<u32, &[u8]> = TableDefinition::new("checkpoint_views");
const CHECKPOINT_RUNS: TableDefinition<u32, &[u8]> = TableDefinition::new("checkpoint_runs");

/// Bytes of a redb page that a single row with a `u64` key leaves no room for: a 4-byte header, a
/// 4-byte value end and the key.
const ROW_OVERHEAD: usize = 16;
const PAGE: usize = 4096;
/// The largest row: one redb page of 256 KiB.
pub(crate) const ROW_MAX: usize = 64 * PAGE - ROW_OVERHEAD;

/// The largest row of a commit whose runs are `run_bytes` long on average: one page about as long
/// as a run, from 16 to 256 KiB, so that reading one run does not drag much more in.
pub(crate) fn row_max(run_bytes: usize) -> usize {
    match run_bytes / (16 * PAGE) {
        0 if run_bytes < 4 * PAGE => 4 * PAGE - ROW_OVERHEAD,
        0 => 16 * PAGE - ROW_OVERHEAD,
        _ => ROW_MAX,
    }
}

/// What a log file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The shard that it belongs to.
    pub(crate) shard: u16,
    /// How many shards the folder has.
    pub(crate) shards: u16,
    /// The first file number that it stands for: its own, unless the cleaner wrote it.
    pub(crate) first_seq: u64,
    /// The last file number that it stands for.
    pub(crate) last_seq: u64,
    /// How many times the cleaner rewrote its content; 0 for a file as the writer left it.
    pub(crate) generation: u64,
    /// When it was made, ms since the Unix epoch.
    pub(crate) created_ms: u64,
}

/// Why a file gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DbError {
    /// The disk or redb refused.
    #[error("{0}")]
    Failed(String),
    /// redb panicked.
    #[error("redb panicked: {0}")]
    Panicked(String),
    /// A newer version wrote the file.
    #[error("format version {0} is newer than this version of weir knows")]
    NewerVersion(u64),
    /// The file is not a log file, or lacks what one has.
    #[error("not a log file: {0}")]
    Malformed(&'static str),
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether the present thread is inside a call whose panic the log contains. A panic hook that ends
/// the process must let these pass.
#[must_use]
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs a call into redb; a panic becomes an error.
pub(crate) fn contain<T>(call: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    let outer = CONTAINED.replace(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(DbError::Panicked(text.unwrap_or_default()))
    })
}

pub(crate) fn failed(error: impl fmt::Display) -> DbError {
    DbError::Failed(error.to_string())
}

/// Why redb did not open a file: what the disk refuses may work later, what is damaged will not.
fn not_opened(error: DatabaseError) -> DbError {
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_)) => {
            DbError::Malformed("redb finds it damaged")
        }
        DatabaseError::Storage(StorageError::Io(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            DbError::Malformed("redb does not know it for a database")
        }
        error => failed(error),
    }
}

enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

/// An open log file.
pub(crate) struct FileDb {
    handle: Handle,
    fence: Fence,
    sync: Arc<FileSync>,
}

impl fmt::Debug for FileDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDb").finish_non_exhaustive()
    }
}

/// What a commit writes.
pub(crate) struct Commit<'a> {
    /// Where in the stream `parts` begin: at its end.
    pub(crate) position: u64,
    /// The bytes to append, in pieces.
    pub(crate) parts: &'a [&'a [u8]],
    /// The largest row to cut.
    pub(crate) row_max: usize,
    /// Snapshots of views, for the first commit of a file.
    pub(crate) snapshot: Option<&'a [(u32, Vec<u8>)]>,
    /// The views from the cuts among the items on.
    pub(crate) cuts: &'a [CutRow],
}

/// What the stream up to a position amounts to, written at an orderly close.
pub(crate) struct Checkpoint {
    pub(crate) position: u64,
    pub(crate) views: Vec<Row>,
    pub(crate) runs: Vec<Row>,
}

/// A partition's row: its number and its bytes.
pub(crate) type Row = (u32, Vec<u8>);

impl FileDb {
    /// Makes a new file of an empty one. Durable when this returns, apart from its name.
    pub(crate) fn create(
        file: Box<dyn DiskFile>,
        counters: &Arc<IoCounters>,
        cache_bytes: usize,
        identity: &Identity,
    ) -> Result<FileDb, DbError> {
        let db = FileDb::open_writable(file, counters, cache_bytes)?;
        contain(|| {
            let txn = begin(&db)?;
            {
                let mut meta = txn.open_table(META).map_err(failed)?;
                for (name, value) in [
                    ("format", FORMAT_FIRST),
                    ("shard", u64::from(identity.shard)),
                    ("shards", u64::from(identity.shards)),
                    ("first_seq", identity.first_seq),
                    ("last_seq", identity.last_seq),
                    ("generation", identity.generation),
                    ("created_ms", identity.created_ms),
                ] {
                    meta.insert(name, value).map_err(failed)?;
                }
                txn.open_table(STREAM).map_err(failed)?;
                txn.open_table(SNAPSHOT).map_err(failed)?;
            }
            txn.commit().map_err(failed)
        })?;
        Ok(db)
    }

    /// Opens a file for writing. Repairs it first if it was not closed, which reads all of it.
    pub(crate) fn open_writable(
        file: Box<dyn DiskFile>,
        counters: &Arc<IoCounters>,
        cache_bytes: usize,
    ) -> Result<FileDb, DbError> {
        let fence = Fence::default();
        let backend = Backend::new(file, counters, &fence);
        let sync = backend.sync();
        contain(|| {
            let mut builder = Builder::new();
            let db = builder
                .set_cache_size(cache_bytes)
                .create_with_backend(backend)
                .map_err(not_opened)?;
            Ok(FileDb { handle: Handle::Writable(db), fence, sync })
        })
    }

    /// Reads all of a file and checks every page, then closes it.
    pub(crate) fn open_verified(
        file: Box<dyn DiskFile>,
        counters: &Arc<IoCounters>,
        cache_bytes: usize,
    ) -> Result<(), DbError> {
        let backend = Backend::new(file, counters, &Fence::default());
        contain(|| {
            let mut builder = Builder::new();
            let builder = builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
            let db = builder.create_with_backend(backend).map_err(failed)?;
            db.close().map_err(failed)
        })
    }

    /// Opens a file that was closed cleanly, without writing to it.
    pub(crate) fn open_read_only(
        file: Box<dyn DiskFile>,
        counters: &Arc<IoCounters>,
        cache_bytes: usize,
    ) -> Result<FileDb, DbError> {
        let fence = Fence::default();
        fence.shut();
        let backend = Backend::new(file, counters, &fence);
        let sync = backend.sync();
        contain(|| {
            let mut builder = Builder::new();
            let db = builder
                .set_cache_size(cache_bytes)
                .open_read_only_with_backend(backend)
                .map_err(not_opened)?;
            Ok(FileDb { handle: Handle::ReadOnly(db), fence, sync })
        })
    }

    /// Nothing is written to the file any more, not even by closing it.
    pub(crate) fn fence(&self) {
        self.fence.shut();
    }

    /// Closes the file so that it opens without repair.
    pub(crate) fn close(self) -> Result<(), DbError> {
        contain(|| match self.handle {
            Handle::Writable(db) => db.close().map_err(failed),
            Handle::ReadOnly(db) => db.close().map_err(failed),
        })
    }

    /// Reads what the file says of itself. `None` for a file whose creation was cut short.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, DbError> {
        let Some(format) = self.meta("format")? else {
            return Ok(None);
        };
        if format > FORMAT_VERSION {
            return Err(DbError::NewerVersion(format));
        }
        let field = |name| self.meta(name)?.ok_or(DbError::Malformed("meta row missing"));
        let small = |name| {
            let value = u16::try_from(field(name)?);
            value.map_err(|_| DbError::Malformed("shard out of range"))
        };
        Ok(Some(Identity {
            shard: small("shard")?,
            shards: small("shards")?,
            first_seq: field("first_seq")?,
            last_seq: field("last_seq")?,
            generation: field("generation")?,
            created_ms: field("created_ms")?,
        }))
    }

    /// Whether the file was sealed: it then has its index and will not change.
    pub(crate) fn is_sealed(&self) -> Result<bool, DbError> {
        Ok(self.meta("sealed")? == Some(1))
    }

    /// Whether the stream is as the writer wrote it, and can be replayed into views: not if the
    /// cleaner made the file.
    pub(crate) fn is_replayable(&self) -> Result<bool, DbError> {
        Ok(self.meta("snapshot_crc")?.is_some())
    }

    /// Whether anything was committed to the file after its creation.
    pub(crate) fn is_begun(&self) -> Result<bool, DbError> {
        Ok(self.meta("begun")? == Some(1))
    }

    fn meta(&self, name: &str) -> Result<Option<u64>, DbError> {
        self.read(|txn| {
            let table = match txn.open_table(META) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other.map_err(failed)?,
            };
            Ok(table.get(name).map_err(failed)?.map(|value| value.value()))
        })
    }

    /// Commits durably. On an error whether it was committed is unknown.
    pub(crate) fn commit(&self, commit: &Commit<'_>) -> Result<(), DbError> {
        self.commit_unsynced(commit)?.settle().map_err(failed)
    }

    /// Commits, but leaves writing and syncing it to whoever settles what is owed. What was
    /// committed is not durable before that.
    pub(crate) fn commit_unsynced(&self, commit: &Commit<'_>) -> Result<Owed, DbError> {
        contain(|| {
            let mut txn = begin(self)?;
            txn.set_durability(Durability::Immediate).map_err(failed)?;
            if let Some(snapshot) = commit.snapshot {
                put_rows(&txn, SNAPSHOT, snapshot)?;
                let mut meta = txn.open_table(META).map_err(failed)?;
                meta.insert("begun", 1).map_err(failed)?;
                meta.insert("snapshot_crc", rows_crc(0u32, snapshot)).map_err(failed)?;
            }
            {
                let mut stream = txn.open_table(STREAM).map_err(failed)?;
                put_stream(&mut stream, commit)?;
            }
            put_cuts(&txn, commit.cuts)?;
            self.sync.deferred(|| txn.commit()).map_err(failed)?;
            Ok(self.sync.owed())
        })
    }

    /// Writes index and summaries: the file will not change after this.
    pub(crate) fn seal(&self, summaries: &[Row], index: &[Row]) -> Result<(), DbError> {
        contain(|| {
            let txn = begin(self)?;
            put_rows(&txn, SUMMARY, summaries)?;
            put_rows(&txn, INDEX, index)?;
            {
                let mut meta = txn.open_table(META).map_err(failed)?;
                meta.insert("begun", 1).map_err(failed)?;
                meta.insert("sealed", 1).map_err(failed)?;
            }
            txn.commit().map_err(failed)
        })
    }

    /// Saves the next start the replay of what lies before the checkpoint.
    pub(crate) fn put_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), DbError> {
        contain(|| {
            let txn = begin(self)?;
            txn.delete_table(CHECKPOINT_VIEWS).map_err(failed)?;
            txn.delete_table(CHECKPOINT_RUNS).map_err(failed)?;
            put_rows(&txn, CHECKPOINT_VIEWS, &checkpoint.views)?;
            put_rows(&txn, CHECKPOINT_RUNS, &checkpoint.runs)?;
            {
                let mut meta = txn.open_table(META).map_err(failed)?;
                meta.insert("checkpoint", checkpoint.position).map_err(failed)?;
                meta.insert("checkpoint_crc", checkpoint.crc()).map_err(failed)?;
            }
            txn.commit().map_err(failed)
        })
    }

    /// The last checkpoint, if there is one.
    pub(crate) fn checkpoint(&self) -> Result<Option<Checkpoint>, DbError> {
        let Some(position) = self.meta("checkpoint")? else {
            return Ok(None);
        };
        let (views, runs) = (self.rows(CHECKPOINT_VIEWS)?, self.rows(CHECKPOINT_RUNS)?);
        let checkpoint = Checkpoint { position, views, runs };
        // redb checks its pages only after an unclean end: rot must not pass for fewer rows.
        match self.meta("checkpoint_crc")? == Some(checkpoint.crc()) {
            true => Ok(Some(checkpoint)),
            false => Err(DbError::Malformed("the checkpoint is damaged")),
        }
    }

    /// The stream's end: the position after its last byte.
    pub(crate) fn stream_end(&self) -> Result<u64, DbError> {
        self.read(|txn| {
            let table = txn.open_table(STREAM).map_err(failed)?;
            let last = table.last().map_err(failed)?;
            Ok(last.map_or(0, |(key, value)| key.value() + value.value().len() as u64))
        })
    }

    /// Appends the stream's bytes from `from` to before `to` to `out`.
    pub(crate) fn read_stream(&self, from: u64, to: u64, out: &mut Vec<u8>) -> Result<(), DbError> {
        self.read(|txn| {
            let table = txn.open_table(STREAM).map_err(failed)?;
            let first = table.range(..=from).map_err(failed)?.next_back();
            let first = match first {
                Some(row) => row.map_err(failed)?.0.value(),
                None => return Err(DbError::Malformed("the stream has a hole")),
            };
            let mut at = from;
            for row in table.range(first..to).map_err(failed)? {
                let (key, value) = row.map_err(failed)?;
                let (key, value) = (key.value(), value.value());
                let skip = at
                    .checked_sub(key)
                    .filter(|&skip| skip < value.len() as u64)
                    .ok_or(DbError::Malformed("the stream has a hole"))?;
                let take = (to - at).min(value.len() as u64 - skip) as usize;
                out.extend_from_slice(&value[skip as usize..skip as usize + take]);
                at += take as u64;
            }
            match at == to {
                true => Ok(()),
                false => Err(DbError::Malformed("the stream is cut short")),
            }
        })
    }

    /// Snapshots of the views at the beginning of the file.
    pub(crate) fn snapshot(&self) -> Result<Vec<Row>, DbError> {
        let rows = self.rows(SNAPSHOT)?;
        match self.meta("snapshot_crc")? == Some(rows_crc(0u32, &rows)) {
            true => Ok(rows),
            false => Err(DbError::Malformed("the snapshot is damaged")),
        }
    }

    /// Summaries of what the file holds, once it is sealed.
    pub(crate) fn summaries(&self) -> Result<Vec<Row>, DbError> {
        self.rows(SUMMARY)
    }

    /// The runs of one partition, once the file is sealed.
    pub(crate) fn index(&self, partition: u32) -> Result<Option<Vec<u8>>, DbError> {
        self.read(|txn| {
            let table = txn.open_table(INDEX).map_err(failed)?;
            let row = table.get(partition).map_err(failed)?;
            Ok(row.map(|value| value.value().to_vec()))
        })
    }

    fn rows(&self, table: TableDefinition<u32, &[u8]>) -> Result<Vec<Row>, DbError> {
        self.read(|txn| {
            let table = match txn.open_table(table) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other.map_err(failed)?,
            };
            let rows = table.iter().map_err(failed)?.map(|row| {
                let (key, value) = row.map_err(failed)?;
                Ok((key.value(), value.value().to_vec()))
            });
            rows.collect()
        })
    }

    pub(crate) fn read<T>(
        &self,
        body: impl FnOnce(&redb::ReadTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        contain(|| {
            let txn = match &self.handle {
                Handle::Writable(db) => db.begin_read(),
                Handle::ReadOnly(db) => db.begin_read(),
            };
            body(&txn.map_err(failed)?)
        })
    }
}

fn begin(db: &FileDb) -> Result<WriteTransaction, DbError> {
    match &db.handle {
        Handle::Writable(db) => db.begin_write().map_err(failed),
        Handle::ReadOnly(_) => Err(DbError::Failed("the file is open for reading only".into())),
    }
}

impl Checkpoint {
    fn crc(&self) -> u64 {
        rows_crc(rows_crc(self.position as u32, &self.views), &self.runs)
    }
}

/// A CRC-32C over keys, lengths and values, going on from `crc`.
fn rows_crc(crc: impl Into<u64>, rows: &[Row]) -> u64 {
    let mut crc = crc.into() as u32;
    for (key, value) in rows {
        crc = crc32c::crc32c_append(crc, &key.to_le_bytes());
        crc = crc32c::crc32c_append(crc, &(value.len() as u32).to_le_bytes());
        crc = crc32c::crc32c_append(crc, value);
    }
    u64::from(crc)
}

fn put_rows(
    txn: &WriteTransaction,
    table: TableDefinition<u32, &[u8]>,
    rows: &[Row],
) -> Result<(), DbError> {
    let mut table = txn.open_table(table).map_err(failed)?;
    for (key, value) in rows {
        table.insert(key, value.as_slice()).map_err(failed)?;
    }
    Ok(())
}

/// Cuts the commit's bytes into rows that fill redb's pages. A row that lies inside one part goes
/// straight from there into the page.
fn put_stream(table: &mut redb::Table<'_, u64, &[u8]>, commit: &Commit<'_>) -> Result<(), DbError> {
    let mut left: usize = commit.parts.iter().map(|part| part.len()).sum();
    let mut parts = commit.parts.iter().copied().filter(|part| !part.is_empty());
    let mut part: &[u8] = &[];
    let mut position = commit.position;
    let mut scratch = Vec::new();
    while left > 0 {
        let len = row_len(left, commit.row_max);
        if part.is_empty() {
            part = parts.next().unwrap_or_default();
        }
        if part.len() >= len {
            let (row, rest) = part.split_at(len);
            table.insert(position, row).map_err(failed)?;
            part = rest;
        } else {
            scratch.clear();
            while scratch.len() < len {
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let (taken, rest) = part.split_at(part.len().min(len - scratch.len()));
                scratch.extend_from_slice(taken);
                part = rest;
            }
            table.insert(position, scratch.as_slice()).map_err(failed)?;
        }
        position += len as u64;
        left -= len;
    }
    Ok(())
}

/// The next row's length: the most that fills a page exactly, or what is left below one page.
fn row_len(left: usize, row_max: usize) -> usize {
    if left < PAGE - ROW_OVERHEAD {
        return left;
    }
    let pages = (left.min(row_max) + ROW_OVERHEAD) / PAGE;
    let pages = 1 << pages.ilog2();
    pages * PAGE - ROW_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: rows fill pages exactly, largest first, and never exceed the bound.
    #[test]
    fn rows_fill_pages() {
        assert_eq!(row_len(1, ROW_MAX), 1);
        assert_eq!(row_len(4079, ROW_MAX), 4079);
        assert_eq!(row_len(4080, ROW_MAX), 4080);
        assert_eq!(row_len(8175, ROW_MAX), 4080);
        assert_eq!(row_len(8176, ROW_MAX), 8176);
        assert_eq!(row_len(65_520, ROW_MAX), 65_520);
        assert_eq!(row_len(10_000_000, row_max(1_000_000)), 262_128);
        assert_eq!(row_len(10_000_000, row_max(1_000)), 16_368);
        assert_eq!(row_len(10_000_000, row_max(20_000)), 65_520);
    }
}
