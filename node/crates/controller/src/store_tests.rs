//! openraft's own suite for stores, against ours in redb files.

use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::raft::{StorageError, Types};
use crate::store::Store;
use openraft::testing::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::watch;
use weir_log::{KvStore, RealDisk};

struct Files;

impl StoreBuilder<Types, LogStore, Machine, (TempDir, watch::Sender<bool>)> for Files {
    async fn build(
        &self,
    ) -> Result<((TempDir, watch::Sender<bool>), LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let kv = KvStore::open(Arc::new(RealDisk), dir.path().join("controller.redb")).unwrap();
        let (stop, stopping) = watch::channel(false);
        let store = Store::new(kv, stopping);
        let log = LogStore::open(store.clone()).unwrap();
        let machine = Machine::open(store).unwrap();
        Ok(((dir, stop), log, machine))
    }
}

/// Goal: log, vote, pointers and snapshots are what openraft takes them for.
#[test]
fn conformance() {
    Suite::test_all(Files).unwrap();
}
