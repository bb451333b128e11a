//! The state machine as openraft wants it: [`State`] in memory, and on disk the newest snapshot of
//! it. A start reads the snapshot and applies what the log has committed since.

use crate::error::StartError;
use crate::raft::{Entry, LogId, Membership, Outcome, SnapshotMeta, StorageError, Types};
use crate::store::{self, SnapshotRow, Store};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot};
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use weir_core::controller::State;

/// How far the state machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The newest entry that was applied.
    pub last: Option<LogId>,
    /// The voters as of then.
    pub membership: Membership,
}

/// The state machine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Machine {
    store: Store,
    state: watch::Sender<Arc<State>>,
    applied: watch::Sender<Applied>,
    /// What the snapshot on disk is of. Held while another is written, so that an older one never
    /// takes the place of a newer.
    snapshot: Arc<Mutex<Option<SnapshotRow>>>,
}

impl Machine {
    /// Reads the snapshot, if there is one. Blocks.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(store: Store) -> Result<Machine, StartError> {
        let row: Option<SnapshotRow> = store.read(store::SNAPSHOT)?;
        let mut state = State::default();
        let mut applied = Applied::default();
        if let Some(row) = &row {
            state = State::restore(&store.read_snapshot(row)?)?;
            let membership = row.meta.last_membership.clone();
            applied = Applied { last: row.meta.last_log_id, membership };
        }
        let (state, applied) = (watch::Sender::new(Arc::new(state)), watch::Sender::new(applied));
        Ok(Machine { store, state, applied, snapshot: Arc::new(Mutex::new(row)) })
    }

    /// The state, as it changes.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// How far it is. Behind the state: whoever sees an entry here sees its effects there.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Writes a snapshot, unless the one on disk is as new.
    async fn keep(&mut self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), StorageError> {
        let mut kept = self.snapshot.lock().await;
        let newest = kept.as_ref().and_then(|row| row.meta.last_log_id);
        if kept.is_some() && newest >= meta.last_log_id {
            return Ok(());
        }
        let parts = kept.as_ref().map_or(0, |row| row.parts);
        *kept = Some(self.store.write_snapshot(meta.clone(), bytes, parts).await?);
        Ok(())
    }
}

/// A snapshot's name: equal beginnings of the log have equal snapshots.
fn snapshot_id(last: Option<LogId>) -> String {
    last.map_or("empty".to_owned(), |last| last.to_string())
}

/// Builds a snapshot of the state as it was when it was asked for.
#[derive(Debug)]
pub struct Builder {
    machine: Machine,
    state: Arc<State>,
    applied: Applied,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let state = self.state.clone();
        // A large state takes longer than the network's thread should be kept from others.
        let bytes = tokio::task::spawn_blocking(move || state.snapshot());
        let bytes = bytes.await.map_err(|error| store::io(std::io::Error::other(error)))?;
        let Applied { last, membership } = self.applied.clone();
        let meta = SnapshotMeta {
            last_log_id: last,
            last_membership: membership,
            snapshot_id: snapshot_id(last),
        };
        self.machine.keep(&meta, &bytes).await?;
        tracing::debug!(upto = meta.snapshot_id, bytes = bytes.len(), "took a snapshot");
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let applied = self.applied.borrow();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        // One copy for all of them: whoever looks at the present state keeps it.
        let mut state = State::clone(&self.state.borrow());
        let mut applied = self.applied.borrow().clone();
        let before = state.version();
        let mut outcomes = Vec::new();
        for entry in entries {
            applied.last = Some(entry.log_id);
            outcomes.push(Outcome(match entry.payload {
                EntryPayload::Normal(command) => Some(state.apply(&command)),
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    applied.membership = Membership::new(Some(entry.log_id), membership);
                    None
                }
            }));
        }
        if state.version() != before {
            self.state.send_replace(Arc::new(state));
        }
        self.applied.send_replace(applied);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.state.borrow().clone();
        let applied = self.applied.borrow().clone();
        Builder { machine: self.clone(), state, applied }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let state = State::restore(&bytes);
        let state = state.map_err(|error| store::io(std::io::Error::other(error)))?;
        self.keep(meta, &bytes).await?;
        tracing::info!(upto = meta.snapshot_id, "took over a snapshot of the site's metadata");
        self.state.send_replace(Arc::new(state));
        let membership = meta.last_membership.clone();
        self.applied.send_replace(Applied { last: meta.last_log_id, membership });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        // Held until it is read: another one would take away its parts.
        let kept = self.snapshot.lock().await;
        let Some(row) = kept.clone() else { return Ok(None) };
        let meta = row.meta.clone();
        let bytes = self.store.load_snapshot(row).await?;
        Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}
