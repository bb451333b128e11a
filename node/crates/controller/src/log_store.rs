//! The log as openraft wants it: entries, vote and pointers. All of it is in memory, too, since it
//! is short ([`limits::SNAPSHOT_COMMANDS`], [`limits::CONTROLLER_LOG_BYTES`]); the disk is only
//! written to.
//!
//! The committed pointer says from where a start need not ask others, so it may lag: it is
//! written with the next row, or when the node stops in good order.

#![expect(clippy::result_large_err, reason = "the error is openraft's, and so are the traits")]

use crate::error::StartError;
use crate::raft::{Entry, LogId, StorageError, Types, Vote};
use crate::store::{self, Pointers, Rows, Store, encode, log_key};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogId, RaftLogReader};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_core::limits;

/// The log. Clones are readers of the same.
#[derive(Clone, Debug)]
pub struct LogStore {
    store: Store,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Entries in CBOR, by index.
    entries: BTreeMap<u64, (LogId, Arc<[u8]>)>,
    bytes: u64,
    pointers: Pointers,
    /// The committed pointer on disk is older than the one in memory.
    lags: bool,
}

impl Shared {
    fn insert(&mut self, id: LogId, bytes: Arc<[u8]>) {
        self.bytes += bytes.len() as u64;
        if let Some((_, before)) = self.entries.insert(id.index, (id, bytes)) {
            self.bytes -= before.len() as u64;
        }
    }

    fn remove(&mut self, range: impl RangeBounds<u64>) {
        let gone: Vec<u64> = self.entries.range(range).map(|(&index, _)| index).collect();
        for index in gone {
            let bytes = self.entries.remove(&index).map_or(0, |(_, bytes)| bytes.len());
            self.bytes -= bytes as u64;
        }
    }
}

impl LogStore {
    /// Reads the log. Blocks.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be read, or has a hole.
    pub fn open(store: Store) -> Result<LogStore, StartError> {
        let pointers = Pointers::read(&store)?;
        let mut shared = Shared { pointers, ..Shared::default() };
        let mut next = shared.pointers.purged.map(|purged| purged.index + 1);
        for (key, value) in store.read_log()? {
            let row = format!("the log's row {:?}", &key[store::LOG.len()..]);
            let wrong = |reason: String| StartError::Row { row: row.clone(), reason };
            let entry: Entry =
                ciborium::from_reader(&value[..]).map_err(|error| wrong(error.to_string()))?;
            let index = entry.log_id.index;
            if key != log_key(index) || next.is_some_and(|next| next != index) {
                return Err(wrong(format!("it holds entry {index}, after {next:?} were expected")));
            }
            next = Some(index + 1);
            shared.insert(entry.log_id, value.into());
        }
        Ok(LogStore { store, shared: Arc::new(Mutex::new(shared)) })
    }

    /// Bytes that the log takes.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The newest entry.
    pub fn last(&self) -> Option<LogId> {
        let shared = self.lock();
        let last = shared.entries.last_key_value().map(|(_, (id, _))| *id);
        last.or(shared.pointers.purged)
    }

    /// Writes the committed pointer, if it lags.
    pub async fn flush(&mut self) -> Result<(), StorageError> {
        let row = self.lagging();
        if row.is_empty() { Ok(()) } else { self.store.write(row).await }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed pointer's row, if it lags. Whoever asks writes it.
    fn lagging(&self) -> Rows {
        let mut shared = self.lock();
        match shared.pointers.committed.filter(|_| std::mem::take(&mut shared.lags)) {
            Some(committed) => vec![(store::COMMITTED.to_vec(), Some(encode(&committed)))],
            None => Vec::new(),
        }
    }

    fn read<T>(&self, entries: impl Iterator<Item = T>) -> Result<Vec<Entry>, StorageError>
    where
        T: AsRef<[u8]>,
    {
        let read = |bytes: T| {
            ciborium::from_reader(bytes.as_ref())
                .map_err(|error| store::io(std::io::Error::other(error.to_string())))
        };
        entries.map(read).collect()
    }

    fn range(&self, range: impl RangeBounds<u64>) -> Vec<Arc<[u8]>> {
        let is_empty = match (range.start_bound(), range.end_bound()) {
            (Bound::Included(start), Bound::Excluded(end)) => start >= end,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            _ => false,
        };
        if is_empty {
            return Vec::new();
        }
        self.lock().entries.range(range).map(|(_, (_, bytes))| bytes.clone()).collect()
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(self.range(range).into_iter())
    }

    /// As many as fit a message, at least one.
    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut left = limits::CONTROLLER_BATCH_BYTES;
        let mut first = true;
        let fit = self.range(start..end).into_iter().take_while(|bytes| {
            let fits = std::mem::take(&mut first) || bytes.len() <= left;
            left = left.saturating_sub(bytes.len());
            fits
        });
        self.read(fit.collect::<Vec<_>>().into_iter())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last_purged_log_id = self.lock().pointers.purged;
        Ok(LogState { last_purged_log_id, last_log_id: self.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut rows = self.lagging();
        rows.push((store::VOTE.to_vec(), Some(encode(vote))));
        self.store.write(rows).await?;
        self.lock().pointers.vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.lock().pointers.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut shared = self.lock();
        shared.pointers.committed = committed;
        shared.lags = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.lock().pointers.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut rows = self.lagging();
        let mut fresh = Vec::new();
        for entry in entries {
            let bytes = encode(&entry);
            fresh.push((*entry.get_log_id(), Arc::<[u8]>::from(&bytes[..])));
            rows.push((log_key(entry.log_id.index), Some(bytes)));
        }
        self.store.write(rows).await?;
        {
            let mut shared = self.lock();
            fresh.into_iter().for_each(|(id, bytes)| shared.insert(id, bytes));
        }
        flushed.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let gone = self.indexes(from.index..);
        let rows = gone.iter().map(|&index| (log_key(index), None)).collect();
        self.store.write(rows).await?;
        self.lock().remove(from.index..);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let mut rows = self.lagging();
        rows.extend(self.indexes(..=upto.index).iter().map(|&index| (log_key(index), None)));
        rows.push((store::PURGED.to_vec(), Some(encode(&upto))));
        self.store.write(rows).await?;
        let mut shared = self.lock();
        shared.remove(..=upto.index);
        shared.pointers.purged = Some(upto);
        Ok(())
    }
}

impl LogStore {
    fn indexes(&self, range: impl RangeBounds<u64>) -> Vec<u64> {
        self.lock().entries.range(range).map(|(&index, _)| index).collect()
    }
}
