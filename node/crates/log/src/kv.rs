//! A small durable key-value store, for the node's metadata and the log's own notes.
//!
//! One redb file with one table of bytes to bytes. A write is atomic and on stable storage when it
//! returns. Meant for kilobytes to a few megabytes, written now and then.

use crate::backend::{Backend, Fence, IoCounters};
use crate::db::{DbError, contain, failed};
use crate::disk::Disk;
use redb::{Builder, Database, ReadableDatabase, TableDefinition, TableError};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The version of the store's file format that this code writes.
pub const KV_FORMAT_VERSION: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const PAIRS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pairs");
const CACHE_BYTES: usize = 1024 * 1024;

/// A durable map from bytes to bytes.
#[derive(Debug)]
pub struct KvStore {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// `None` after a failure, until the next use reopens it.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    db: Database,
    fence: Fence,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The disk refused.
    #[error("{path}: {error}")]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A newer version of this program wrote the file.
    #[error("{path} has format version {found}; this version of weir knows up to {known}")]
    NewerVersion {
        /// The store's file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that this program knows.
        known: u64,
    },
    /// The file is damaged, or the disk failed below it. For a write: whether it happened is
    /// unknown until the store has been read again.
    #[error("{path}: {reason}")]
    Failed {
        /// The store's file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// One change: a key and its new value, or `None` to remove it.
pub type KvChange<'a> = (&'a [u8], Option<&'a [u8]>);
/// A key and its value.
pub type KvPair = (Vec<u8>, Vec<u8>);

impl KvStore {
    /// Opens the store in the file `path`, creating it if there is none.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn open(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Result<KvStore, KvError> {
        let path = path.into();
        let store = KvStore { open: Mutex::new(None), path, disk };
        store.with(|_| Ok(()))?;
        Ok(store)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.with(|open| {
            let txn = open.db.begin_read().map_err(failed)?;
            let table = txn.open_table(PAIRS).map_err(failed)?;
            let value = table.get(key).map_err(failed)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    /// All pairs whose key begins with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn range(&self, prefix: &[u8]) -> Result<Vec<KvPair>, KvError> {
        self.with(|open| {
            let txn = open.db.begin_read().map_err(failed)?;
            let table = txn.open_table(PAIRS).map_err(failed)?;
            let bounds = (Bound::Included(prefix), Bound::Unbounded);
            let mut pairs = Vec::new();
            for pair in table.range::<&[u8]>(bounds).map_err(failed)? {
                let (key, value) = pair.map_err(failed)?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                pairs.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(pairs)
        })
    }

    /// Sets `key` to `value`. Durable when it returns.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.write(&[(key, Some(value))])
    }

    /// Removes `key`, if it is there. Durable when it returns.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn delete(&self, key: &[u8]) -> Result<(), KvError> {
        self.write(&[(key, None)])
    }

    /// Makes all `changes`, in order, or none. Durable when it returns.
    ///
    /// # Errors
    /// [`KvError`].
    pub fn write(&self, changes: &[KvChange<'_>]) -> Result<(), KvError> {
        self.with(|open| {
            let txn = open.db.begin_write().map_err(failed)?;
            {
                let mut table = txn.open_table(PAIRS).map_err(failed)?;
                for &(key, value) in changes {
                    match value {
                        Some(value) => table.insert(key, value).map_err(failed)?,
                        None => table.remove(key).map_err(failed)?,
                    };
                }
            }
            txn.commit().map_err(failed)
        })
    }

    /// Runs `body` on the open store. After an error the file is let go of as it is, without
    /// another write, and opened anew at the next use.
    fn with<T>(&self, body: impl FnOnce(&Open) -> Result<T, DbError>) -> Result<T, KvError> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.open_file()?);
        }
        let Some(open) = slot.as_ref() else { unreachable!("opened above") };
        let result = contain(|| body(open));
        if result.is_err()
            && let Some(open) = slot.take()
        {
            open.fence.shut();
            // Dropping a failed database may panic in turn.
            let _ = contain(|| {
                drop(open);
                Ok(())
            });
        }
        result.map_err(|error| self.error(error))
    }

    fn open_file(&self) -> Result<Open, KvError> {
        let io = |error| KvError::Io { path: self.path.clone(), error };
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        let file = match self.disk.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.create_dir(&dir).map_err(io)?;
                let file = self.disk.create(&self.path).map_err(io)?;
                self.disk.sync_dir(&dir).map_err(io)?;
                file
            }
            other => other.map_err(io)?,
        };
        file.drop_cached().map_err(io)?;
        let fence = Fence::default();
        let backend = Backend::new(file, &Arc::new(IoCounters::default()), &fence);
        let open = contain(|| {
            let db = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
                .map_err(failed)?;
            check_format(&db)?;
            Ok(Open { db, fence })
        });
        open.map_err(|error| self.error(error))
    }

    fn error(&self, error: DbError) -> KvError {
        let path = self.path.clone();
        match error {
            DbError::NewerVersion(found) => {
                KvError::NewerVersion { path, found, known: KV_FORMAT_VERSION }
            }
            other => KvError::Failed { path, reason: other.to_string() },
        }
    }
}

fn check_format(db: &Database) -> Result<(), DbError> {
    let txn = db.begin_read().map_err(failed)?;
    let found = match txn.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(failed(error)),
        Ok(meta) => meta.get("format").map_err(failed)?.map(|v| v.value()),
    };
    match found {
        Some(found) if found > KV_FORMAT_VERSION => Err(DbError::NewerVersion(found)),
        Some(_) => Ok(()),
        None => {
            let txn = db.begin_write().map_err(failed)?;
            txn.open_table(META)
                .map_err(failed)?
                .insert("format", KV_FORMAT_VERSION)
                .map_err(failed)?;
            txn.open_table(PAIRS).map_err(failed)?;
            txn.commit().map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    /// Goal: writes are atomic and survive reopening; ranges are by prefix and in order.
    #[test]
    fn reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/meta.redb");
        let store = KvStore::open(Arc::new(RealDisk), &path).unwrap();
        store.put(b"topic/b", b"2").unwrap();
        store
            .write(&[(b"topic/a", Some(b"1")), (b"other", Some(b"x")), (b"topic/b", Some(b"3"))])
            .unwrap();
        drop(store);
        let store = KvStore::open(Arc::new(RealDisk), &path).unwrap();
        let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        let expected = vec![pair(b"topic/a", b"1"), pair(b"topic/b", b"3")];
        assert_eq!(store.range(b"topic/").unwrap(), expected);
        store.delete(b"other").unwrap();
        assert_eq!(store.get(b"other").unwrap(), None);
    }

    /// Goal: a file of a newer version is refused by name and version.
    #[test]
    fn newer_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.redb");
        let db = Database::create(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("format", 2).unwrap();
        txn.commit().unwrap();
        drop(db);
        let error = KvStore::open(Arc::new(RealDisk), &path).unwrap_err();
        assert!(matches!(error, KvError::NewerVersion { found: 2, .. }), "{error}");
    }
}
