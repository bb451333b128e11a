//! [`Controller`]: starting, stopping, and what the node asks of it.

use crate::config::Config;
use crate::error::{StartError, SubmitError};
use crate::incoming::Incoming;
use crate::lead::Heard;
use crate::log_store::LogStore;
use crate::machine::{Applied, Machine};
use crate::network::Network;
use crate::raft::{Metrics, Raft, Types, node, settings};
use crate::store::{self, Store};
use crate::transport::{AnyTransport, Transport};
use crate::{change, compact, join, lead, life, members, serve, submit};
use bytes::Bytes;
use openraft::ServerState;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use weir_core::cluster::members::Members;
use weir_core::controller::{Command, Done, State};
use weir_core::ids::{Incarnation, NodeId};
use weir_core::limits;
use weir_log::KvStore;

/// This node's controller. Cheap to clone; clones are the same one. It works until
/// [`Controller::shutdown`], also when nobody holds it any more.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    stop: watch::Sender<bool>,
}

/// What all parts of a controller share.
pub struct Inner {
    pub config: Config,
    pub transport: Box<dyn AnyTransport>,
    pub state: watch::Receiver<Arc<State>>,
    pub applied: watch::Receiver<Applied>,
    pub life: watch::Sender<Option<Incarnation>>,
    /// Drawn at this start: by it a registration that comes twice is known.
    pub start: u64,
    /// Whether this disk may speak for the node.
    pub joined: watch::Sender<bool>,
    /// The newest list of members that is known.
    pub members: watch::Sender<Arc<Members>>,
    /// Why this node cannot take part, once that is known.
    pub outside: watch::Sender<Option<String>>,
    pub heard: Heard,
    /// KiB of commands that may still wait to be decided.
    pub submits: Semaphore,
    pub incoming: tokio::sync::Mutex<Incoming>,
    pub store: Store,
    pub log: LogStore,
    pub stopping: watch::Receiver<bool>,
    raft: OnceLock<Raft>,
}

impl Inner {
    /// The engine; `None` while it starts.
    pub fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    /// Room for a command of `bytes` that waits to be decided, if there is some.
    pub fn room(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.submits.try_acquire_many(bytes.div_ceil(limits::KIB).max(1) as u32).ok()
    }

    /// What the engine says of itself; `None` while it starts.
    pub fn metrics(&self) -> Option<Metrics> {
        Some(self.raft()?.metrics().borrow().clone())
    }

    /// Who leads, as far as is known here; a controller that hears of no majority does not.
    pub fn leader(&self) -> Option<NodeId> {
        let metrics = self.metrics()?;
        let stale = self.config.timing.election.as_millis();
        let alone = metrics.millis_since_quorum_ack.is_some_and(|ms| u128::from(ms) > stale);
        match metrics.state == ServerState::Leader && alone {
            true => None,
            false => metrics.current_leader.and_then(node),
        }
    }

    /// This disk may speak for the node from now on.
    pub async fn join(&self) {
        let row = vec![(store::JOINED.to_vec(), Some(store::encode(&true)))];
        if *self.joined.borrow() || self.store.clone().write(row).await.is_err() {
            return;
        }
        self.joined.send_replace(true);
        if let Some(raft) = self.raft() {
            raft.runtime_config().elect(true);
        }
    }
}

impl Controller {
    /// Starts a controller whose log, vote and snapshots are in `kv`, a file of its own. It returns
    /// once those are read; the site may have no leading controller yet.
    ///
    /// Needs a tokio runtime with time; disk I/O is done on its blocking threads.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        config: Config,
        kv: KvStore,
        transport: impl Transport,
    ) -> Result<Controller, StartError> {
        config.check()?;
        let (stop, stopping) = watch::channel(false);
        let store = Store::new(kv, stopping.clone());
        let opened = tokio::task::spawn_blocking({
            let store = store.clone();
            move || -> Result<_, StartError> {
                let joined = store.read::<bool>(store::JOINED)?.unwrap_or_default();
                Ok((joined, LogStore::open(store.clone())?, Machine::open(store)?))
            }
        });
        let opened = opened.await.map_err(|error| StartError::Engine(error.to_string()))?;
        let (joined, log, machine): (bool, LogStore, Machine) = opened?;
        let settings = settings(&config);
        let inner = Arc::new(Inner {
            transport: Box::new(transport),
            state: machine.state(),
            applied: machine.applied(),
            life: watch::Sender::new(None),
            start: RandomState::new().build_hasher().finish(),
            joined: watch::Sender::new(joined),
            members: watch::Sender::new(Arc::new(Members::configured(config.members.clone()))),
            outside: watch::Sender::new(None),
            heard: Heard::default(),
            submits: Semaphore::new(limits::SUBMIT_BUDGET_BYTES / limits::KIB),
            incoming: tokio::sync::Mutex::default(),
            store,
            log: log.clone(),
            stopping,
            raft: OnceLock::new(),
            config,
        });
        let me = crate::raft::number(inner.config.node);
        let network = Network(inner.clone());
        let raft = Raft::new(me, Arc::new(settings), network, log, machine).await;
        let raft = raft.map_err(|error| StartError::Engine(error.to_string()))?;
        raft.runtime_config().elect(joined);
        // Nobody has it yet, so nobody has set it.
        let _ = inner.raft.set(raft.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(until_stop(&inner, join::run(inner.clone(), raft.clone())));
        tasks.spawn(until_stop(&inner, lead::run(inner.clone(), raft.clone())));
        tasks.spawn(until_stop(&inner, change::run(inner.clone(), raft.clone())));
        tasks.spawn(until_stop(&inner, members::follow(inner.clone())));
        tasks.spawn(until_stop(&inner, compact::run(inner.clone(), raft)));
        match inner.config.witness {
            false => tasks.spawn(until_stop(&inner, life::run(inner.clone()))),
            true => tasks.spawn(until_stop(&inner, life::announce(inner.clone()))),
        };
        Ok(Controller { inner, tasks: Arc::new(Mutex::new(tasks)), stop })
    }

    /// Answers a request of the node `from`, whatever it is: what cannot be understood or may not
    /// be gets an answer that says so.
    ///
    /// # Cancel safety
    /// Dropping it drops the answer; what the request began goes on.
    pub async fn handle(&self, from: NodeId, request: Bytes) -> Bytes {
        serve::handle(&self.inner, Some(from), &request).await
    }

    /// The same for a node of the site, as its certificate says, that is not known as a member
    /// here.
    ///
    /// # Cancel safety
    /// As [`Controller::handle`].
    pub async fn handle_stranger(&self, request: Bytes) -> Bytes {
        serve::handle(&self.inner, None, &request).await
    }

    /// The newest list of members that is known here, without tokens; until there is one in the
    /// log, of version 0 and as configured.
    #[must_use]
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.inner.members.subscribe()
    }

    /// Who votes at present, those included who are on their way out.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let Some(metrics) = self.inner.metrics() else { return BTreeSet::new() };
        let voters = metrics.membership_config.membership().voter_ids();
        voters.filter_map(node).collect()
    }

    /// Whether a change of voters is under way: until it is not, it takes a majority of the voters
    /// before as well as of those after.
    #[must_use]
    pub fn changes_voters(&self) -> bool {
        let joint = |now: Metrics| now.membership_config.membership().get_joint_config().len() > 1;
        self.inner.metrics().is_some_and(joint)
    }

    /// Why this node can take part no longer: it was removed, or its folder is another node's. It
    /// is to be stopped then.
    #[must_use]
    pub fn outside(&self) -> watch::Receiver<Option<String>> {
        self.inner.outside.subscribe()
    }

    /// Has a command decided, by whichever controller leads. Once it returns, this node's
    /// [`Controller::state`] has seen what came of it, unless it is far behind.
    ///
    /// # Errors
    /// [`SubmitError`], which says whether the command may have taken effect.
    ///
    /// # Cancel safety
    /// Dropping it drops the answer: the command may be carried out.
    pub async fn submit(&self, command: Command) -> Result<Done, SubmitError> {
        submit::submit(&self.inner, command).await
    }

    /// The state, after whatever was applied together. Never goes back while the process runs.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.inner.state.clone()
    }

    /// This node's registration in this life; `None` before there is one, and after another
    /// process registered as the same node. A witness never has one.
    #[must_use]
    pub fn life(&self) -> watch::Receiver<Option<Incarnation>> {
        self.inner.life.subscribe()
    }

    /// The node whose controller leads, as far as is known here.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leader()
    }

    /// Stops in good order: what is under way is answered as unknown, and nothing is written after
    /// it returns.
    pub async fn shutdown(self) {
        let _ = self.stop.send(true);
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        while tasks.join_next().await.is_some() {}
        if let Some(raft) = self.inner.raft() {
            let _ = raft.shutdown().await;
        }
        // It says no more than where the next start may begin.
        let _ = self.inner.log.clone().flush().await;
    }
}

fn until_stop(
    inner: &Arc<Inner>,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let mut stopping = inner.stopping.clone();
    async move {
        tokio::select! {
            () = work => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    }
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("node", &self.inner.config.node).finish_non_exhaustive()
    }
}

/// Checked here, so that a change of openraft's shows where it matters.
const _: fn() = || {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Controller>();
    shared::<openraft::Raft<Types>>();
};
