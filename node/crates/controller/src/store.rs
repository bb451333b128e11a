//! Rows of `controller.redb` (`docs/on-disk.md`), and writing them off the network's thread.
//!
//! A write that fails is tried again until it works or the node stops: its outcome is unknown, and
//! writing the same rows once more settles it. Meanwhile this controller neither votes nor answers,
//! so the others go on without it.

use crate::error::StartError;
use crate::raft::{LogId, SnapshotMeta, StorageError, Vote};
use openraft::StorageIOError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use weir_core::limits;
use weir_log::KvStore;

/// Rows to write: keys with their new values, or `None` to remove them.
pub type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Rows that were read.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The key of the vote.
pub const VOTE: &[u8] = b"vote";
/// The key of the newest entry that is known to be committed.
pub const COMMITTED: &[u8] = b"committed";
/// The key of the newest entry that was dropped from the log, as a snapshot holds it.
pub const PURGED: &[u8] = b"purged";
/// The key that is there once this disk may speak for the node.
pub const JOINED: &[u8] = b"joined";
/// The key of what the snapshot is of.
pub const SNAPSHOT: &[u8] = b"snapshot";
/// What keys of the snapshot's parts begin with.
const PART: &[u8] = b"snapshot/";
/// What keys of the log's entries begin with.
pub const LOG: &[u8] = b"log/";

/// Longest and shortest pause before a failed write is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What a snapshot is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// As openraft knows it.
    pub meta: SnapshotMeta,
    /// How many parts it has.
    pub parts: u32,
    /// How many bytes.
    pub bytes: u64,
}

/// The key of the log's entry at `index`.
pub fn log_key(index: u64) -> Vec<u8> {
    [LOG, &index.to_be_bytes()].concat()
}

fn part_key(part: u32) -> Vec<u8> {
    [PART, &part.to_be_bytes()].concat()
}

/// Plain data as CBOR.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing plain data to memory fails only for types that CBOR cannot hold; these it can.
    ciborium::into_writer(value, &mut bytes).expect("rows are plain data");
    bytes
}

/// The file, shared by log, state machine and controller.
#[derive(Clone, Debug)]
pub struct Store {
    kv: Arc<KvStore>,
    stopping: watch::Receiver<bool>,
}

impl Store {
    /// The file, used until `stopping` says true.
    pub fn new(kv: KvStore, stopping: watch::Receiver<bool>) -> Store {
        Store { kv: Arc::new(kv), stopping }
    }

    /// Reads a row. Blocks; for the start.
    pub fn read<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StartError> {
        self.kv.get(key)?.map(|value| decode(key, &value)).transpose()
    }

    /// Reads the log's rows. Blocks; for the start.
    pub fn read_log(&self) -> Result<Pairs, StartError> {
        Ok(self.kv.range(LOG)?)
    }

    /// Reads the snapshot that `row` tells of. Blocks; for the start.
    pub fn read_snapshot(&self, row: &SnapshotRow) -> Result<Vec<u8>, StartError> {
        join_parts(&self.kv, row)
    }

    /// Writes rows. On stable storage when it returns.
    ///
    /// # Errors
    /// That the node stops.
    pub async fn write(&mut self, rows: Rows) -> Result<(), StorageError> {
        let rows = Arc::new(rows);
        self.retry("write", move |kv| {
            let changes = rows.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
            kv.write(&changes.collect::<Vec<_>>()).map_err(StartError::from)
        })
        .await
    }

    /// Writes a snapshot in place of the one before, which had `parts_before`.
    pub async fn write_snapshot(
        &mut self,
        meta: SnapshotMeta,
        bytes: &[u8],
        parts_before: u32,
    ) -> Result<SnapshotRow, StorageError> {
        let mut rows: Rows = Vec::new();
        for (part, chunk) in bytes.chunks(limits::SNAPSHOT_PART_BYTES).enumerate() {
            rows.push((part_key(part as u32), Some(chunk.to_vec())));
        }
        let row = SnapshotRow { meta, parts: rows.len() as u32, bytes: bytes.len() as u64 };
        rows.extend((row.parts..parts_before).map(|part| (part_key(part), None)));
        rows.push((SNAPSHOT.to_vec(), Some(encode(&row))));
        self.write(rows).await?;
        Ok(row)
    }

    /// Reads a snapshot while the node runs.
    pub async fn load_snapshot(&mut self, row: SnapshotRow) -> Result<Vec<u8>, StorageError> {
        self.retry("read", move |kv| join_parts(kv, &row)).await
    }

    async fn retry<T: Send + 'static>(
        &mut self,
        what: &'static str,
        work: impl Fn(&KvStore) -> Result<T, StartError> + Clone + Send + 'static,
    ) -> Result<T, StorageError> {
        let mut pause = RETRY.0;
        let mut failing = false;
        loop {
            let (kv, work) = (self.kv.clone(), work.clone());
            let error = match tokio::task::spawn_blocking(move || work(&kv)).await {
                Ok(Ok(value)) => {
                    if failing {
                        tracing::info!("controller.redb works again");
                    }
                    return Ok(value);
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if !failing {
                tracing::error!(error, "cannot {what} controller.redb: this controller waits");
            }
            failing = true;
            let stopped = tokio::time::timeout(pause, self.stopping.wait_for(|stop| *stop)).await;
            if stopped.is_ok() {
                return Err(io(std::io::Error::other(error)));
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

/// An error in openraft's words.
pub fn io(error: std::io::Error) -> StorageError {
    StorageIOError::write(&error).into()
}

fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StartError> {
    ciborium::from_reader(value).map_err(|error| StartError::Row {
        row: format!("the row `{}`", String::from_utf8_lossy(key)),
        reason: error.to_string(),
    })
}

fn join_parts(kv: &KvStore, row: &SnapshotRow) -> Result<Vec<u8>, StartError> {
    let mut bytes = Vec::new();
    for (_, part) in kv.range(PART)?.into_iter().take(row.parts as usize) {
        bytes.extend(part);
    }
    if bytes.len() as u64 != row.bytes {
        let reason = format!("{} bytes of {} are there", bytes.len(), row.bytes);
        return Err(StartError::Row { row: "the snapshot".to_owned(), reason });
    }
    Ok(bytes)
}

/// What the log's rows besides its entries say.
#[derive(Debug, Default)]
pub struct Pointers {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

impl Pointers {
    /// Reads them. Blocks; for the start.
    pub fn read(store: &Store) -> Result<Pointers, StartError> {
        let (vote, committed) = (store.read(VOTE)?, store.read(COMMITTED)?);
        Ok(Pointers { vote, committed, purged: store.read(PURGED)? })
    }
}
