//! A node of a cluster: what it makes of the controller's word, and what it asks of it.
//!
//! ```text
//! controllers ──state──▶ registry, roles of replicas ──▶ follower tasks, pushes to followers
//!      ▲                              │
//!      └──── in-sync changes, ────────┘
//!            resignations
//! ```
//!
//! Which node does what is decided by `weir_core::cluster` and, for one partition, by
//! `weir_core::partition`; here those decisions meet the network, the log and the clock.

pub mod admission;
pub mod follower;
pub mod forward;
pub mod joining;
pub mod leader;
pub mod mend;
pub mod open;
pub mod peers;
pub mod requests;
pub mod status;
pub mod supply;

use crate::broker::Shared;
use crate::partition::Partition;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use peers::{PeerError, Peers, Purpose};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use weir_controller::{CallError, Controller, SubmitError, Transport};
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::members::Members;
use weir_core::controller::{Command, Done, Refused, State};
use weir_core::ids::{DiskId, Incarnation, NodeId, PartitionId, ProducerId};
use weir_core::limits;
use weir_core::partition::insync::Lag;
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, FrameKind, WireError};

pub use status::{cluster_status, no_cluster};
pub use weir_core::cluster::members::Member;

/// How long a new high watermark may wait for entries that tell followers of it as well.
pub const PUSH_DELAY: Duration = Duration::from_millis(5);
/// How often in-sync sets are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Asks to the controller at a time, of those that partitions make by themselves.
const ASKS_AT_ONCE: usize = 32;
/// How long a shutdown waits for others to take over.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);
/// How long whoever changed something waits until all nodes know of it.
pub const INFORM_PATIENCE: Duration = Duration::from_millis(500);
/// Producer ids that are set aside with one command.
const PRODUCER_BLOCK: u32 = 1_000;

/// What makes a node one of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Which member this node is.
    pub me: NodeId,
    /// All of them, as the cluster is founded; later its own list counts.
    pub members: BTreeMap<NodeId, Member>,
    /// Where the node stands: replicas of a partition are spread over racks.
    pub rack: Option<String>,
    /// Whether it votes but holds no records.
    pub witness: bool,
}

/// This node's part in the cluster.
#[derive(Debug)]
pub struct ClusterNode {
    /// What was configured.
    pub config: ClusterConfig,
    /// The others.
    pub peers: Arc<Peers>,
    /// How new ones are let in.
    pub admission: admission::Admission,
    controller: OnceCell<Controller>,
    /// Producer ids that were set aside: the next one, and the end.
    producers: tokio::sync::Mutex<(i64, i64)>,
    /// Partitions that have a follower task.
    followed: Mutex<HashSet<PartitionId>>,
    /// Whether a majority of the controllers is out of reach.
    cut_off: watch::Sender<bool>,
}

/// Carries controllers' questions over the connections between nodes.
pub struct Wire(Arc<Peers>);

impl Transport for Wire {
    async fn call(&self, to: NodeId, request: Bytes) -> Result<Bytes, CallError> {
        let failed = |reason: String| CallError::NoAnswer { to, reason };
        let unsent = |reason: String| CallError::NotSent { to, reason };
        let asked = async {
            let connection = self.0.connection(to, Purpose::Control).await;
            let connection = connection.map_err(|error: PeerError| unsent(error.to_string()))?;
            let stream = connection.open_stream().await;
            let (mut writer, mut reader) = stream.map_err(|error| unsent(error.to_string()))?;
            let asked = async {
                writer.write(FrameKind::Controller as u8, 0, &[request]).await?;
                writer.finish().await?;
                reader.next(limits::FRAME_BYTES_MAX).await
            };
            match asked.await.map_err(|error| failed(error.to_string()))? {
                Some(frame) if frame.kind == FrameKind::ControllerAnswer as u8 => Ok(frame.body),
                _ => Err(failed("no answer".to_owned())),
            }
        };
        match timeout(limits::CONTROLLER_CALL_TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(failed("no answer came in time".to_owned())),
        }
    }
}

impl ClusterNode {
    /// A node that takes no part yet.
    #[must_use]
    pub fn new(config: ClusterConfig, cluster: String) -> ClusterNode {
        let members = Members::configured(config.members.clone());
        let peers = Arc::new(Peers::new(config.me, cluster, &members));
        ClusterNode {
            config,
            peers,
            admission: admission::Admission::default(),
            controller: OnceCell::new(),
            producers: tokio::sync::Mutex::default(),
            followed: Mutex::default(),
            cut_off: watch::Sender::new(false),
        }
    }

    /// Which node this is.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.config.me
    }

    /// What carries the controllers' questions.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire(self.peers.clone())
    }

    /// What the controllers have decided, as far as this node knows; `None` before its start.
    #[must_use]
    pub fn state(&self) -> Option<Arc<State>> {
        Some(self.controller.get()?.state().borrow().clone())
    }

    /// The same, for requests.
    ///
    /// # Errors
    /// [`ErrorCode::Offline`] before this node's start.
    pub fn known_state(&self) -> Result<Arc<State>, WireError> {
        self.state().ok_or_else(starting)
    }

    /// The leading controller, if it is known.
    #[must_use]
    pub fn leading_controller(&self) -> Option<NodeId> {
        self.controller.get()?.leader()
    }

    /// Whether this node has known of no leading controller for
    /// [`limits::CUT_OFF_AFTER`].
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        *self.cut_off.borrow()
    }

    /// The same, to be awaited. What it is now counts as seen.
    #[must_use]
    pub fn cut_off(&self) -> watch::Receiver<bool> {
        self.cut_off.subscribe()
    }

    /// A question from another node's controller; `None`: of one that is not known as a member.
    pub async fn handle(&self, from: Option<NodeId>, request: Bytes) -> Option<Bytes> {
        let controller = self.controller.get()?;
        Some(match from {
            Some(from) => controller.handle(from, request).await,
            None => controller.handle_stranger(request).await,
        })
    }

    /// The newest list of members that is known here.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        match self.controller.get() {
            Some(controller) => controller.members().borrow().clone(),
            None => Arc::new(Members::configured(self.config.members.clone())),
        }
    }

    /// Who votes in the eyes of this node's controller.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.controller.get().map_or_else(BTreeSet::new, Controller::voters)
    }

    /// Waits until it is known that this node can take part no longer, and says why.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn outside(&self) -> String {
        if let Some(controller) = self.controller.get()
            && let Ok(why) = controller.outside().wait_for(Option::is_some).await
            && let Some(why) = why.clone()
        {
            return why;
        }
        // Not before the controller has started, nor after it ended.
        std::future::pending().await
    }

    /// Has the controllers decide something.
    ///
    /// # Errors
    /// Their refusal, or that there is no majority of them.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; it may be decided all the same.
    pub async fn submit(&self, command: Command) -> Result<Done, WireError> {
        let controller = self.controller.get().ok_or_else(starting)?;
        controller.submit(command).await.map_err(|error| match error {
            SubmitError::Refused(Refused::Metadata(error)) => {
                crate::registry::metadata_error(error)
            }
            SubmitError::Refused(error) => {
                WireError::new(ErrorCode::InvalidArgument, error.to_string())
            }
            SubmitError::Unavailable { .. } => {
                WireError::new(ErrorCode::Offline, error.to_string())
            }
            SubmitError::TooLarge { .. } => {
                WireError::new(ErrorCode::LimitReached, error.to_string())
            }
            SubmitError::Unknown { .. } => {
                WireError::unknown(ErrorCode::Offline, error.to_string())
            }
        })
    }

    /// A producer id that no node of the cluster ever gave out.
    ///
    /// # Errors
    /// As [`ClusterNode::submit`].
    pub async fn next_producer(&self) -> Result<ProducerId, WireError> {
        let mut block = self.producers.lock().await;
        if block.0 >= block.1 {
            match self.submit(Command::ProducerIds { count: PRODUCER_BLOCK }).await? {
                Done::ProducerIds { first } => *block = (first, first + i64::from(PRODUCER_BLOCK)),
                _ => {
                    let message = "the controller answered another question";
                    return Err(WireError::new(ErrorCode::Internal, message));
                }
            }
        }
        block.0 += 1;
        Ok(ProducerId(block.0 - 1))
    }

    /// Where to send what concerns a partition: `None` if this node leads it, or nobody does.
    #[must_use]
    pub fn route(&self, partition: &Partition) -> Option<NodeId> {
        let leader = partition.leader()?.node;
        (leader != self.me()).then_some(leader)
    }

    /// The other nodes that hold records and are there, as far as is known here.
    #[must_use]
    pub fn others(&self) -> Vec<NodeId> {
        let Some(state) = self.state() else { return Vec::new() };
        let nodes = state.cluster().nodes().iter();
        let there = nodes.filter(|(id, node)| **id != self.me() && !node.fenced);
        there.map(|(id, _)| *id).collect()
    }

    /// Asks all of [`ClusterNode::others`] the same.
    ///
    /// # Cancel safety
    /// As [`forward::request`].
    pub async fn ask_others(&self, ask: &Request) -> Vec<(NodeId, Result<Response, WireError>)> {
        let all = self
            .others()
            .into_iter()
            .map(|node| async move { (node, forward::request(&self.peers, node, ask).await) });
        join_all(all).await
    }

    /// Waits until the other nodes know what this one knows, or for a moment: whoever asks one of
    /// them next finds what was just decided.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn inform_others(&self) {
        let Some(state) = self.state() else { return };
        let ask = Request::Informed { version: state.version() };
        let _ = timeout(INFORM_PATIENCE, self.ask_others(&ask)).await;
    }

    /// Takes part: follows what the controllers decide, until the node shuts down.
    pub fn start(self: &Arc<ClusterNode>, shared: &Arc<Shared>, controller: Controller) {
        let (state, life) = (controller.state(), controller.life());
        let members = controller.members();
        if self.controller.set(controller).is_err() {
            return;
        }
        shared.tasks.spawn(meet(self.peers.clone(), shared.clone(), members));
        shared.tasks.spawn(run(self.clone(), shared.clone(), state, life));
        if !self.config.witness {
            shared.tasks.spawn(supply::run(self.clone(), shared.clone()));
        }
    }

    /// Has other nodes take over what this one leads, before it shuts down. Gives up after a
    /// moment: then they find out by themselves that it is gone.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn leave(&self) {
        let Some(incarnation) = self.controller.get().and_then(|c| *c.life().borrow()) else {
            return;
        };
        let fence = ClusterAsk::Fence { node: self.me(), incarnation };
        match timeout(LEAVE_PATIENCE, self.submit(Command::Cluster(fence))).await {
            Ok(Ok(_)) => tracing::info!("other nodes take over"),
            Ok(Err(error)) => tracing::info!(%error, "no other node takes over yet"),
            Err(_) => tracing::info!("no controller answers: no other node takes over yet"),
        }
    }

    /// Leaves the cluster in order.
    pub async fn stop(&self) {
        if let Some(controller) = self.controller.get() {
            controller.clone().shutdown().await;
        }
        self.peers.close();
    }

    fn followed(&self) -> MutexGuard<'_, HashSet<PartitionId>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<ClusterNode>, shared: &Arc<Shared>, partition: &Arc<Partition>) {
        if self.followed().insert(partition.id) {
            let (cluster, id) = (self.clone(), partition.id);
            let task = follower::run(self.peers.clone(), partition.clone());
            let ended = shared.stopping.clone();
            shared.tasks.spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = ended.cancelled() => {}
                }
                cluster.followed().remove(&id);
            });
        }
    }
}

/// Keeps the addresses of the others.
async fn meet(peers: Arc<Peers>, shared: Arc<Shared>, mut members: watch::Receiver<Arc<Members>>) {
    loop {
        let known = members.borrow_and_update().clone();
        peers.adopt(&known);
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            changed = members.changed() => if changed.is_err() { return },
        }
    }
}

fn starting() -> WireError {
    let message = "the node has not found the other controllers yet; try again";
    WireError::new(ErrorCode::Offline, message)
}

async fn run(
    cluster: Arc<ClusterNode>,
    shared: Arc<Shared>,
    mut state: watch::Receiver<Arc<State>>,
    mut life: watch::Receiver<Option<Incarnation>>,
) {
    // Beside this task: while no controller answers, what others decided is still to be adopted.
    let mut asking: Option<JoinHandle<()>> = None;
    let mut led_at = Instant::now();
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut nodes: BTreeMap<NodeId, (Incarnation, bool)> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
            changed = life.changed() => if changed.is_err() { return },
            _ = look.tick() => {
                shared.deployments.tend(&shared);
                if cluster.leading_controller().is_some() {
                    led_at = Instant::now();
                }
                let cut_off = led_at.elapsed() >= limits::CUT_OFF_AFTER;
                cluster.cut_off.send_if_modified(|known| {
                    let changed = *known != cut_off;
                    if changed {
                        tracing::warn!(cut_off, "whether a majority of the cluster is in reach");
                    }
                    *known = cut_off;
                    changed
                });
                if asking.as_ref().is_none_or(JoinHandle::is_finished) {
                    asking = Some(shared.tasks.spawn(ask(cluster.clone(), shared.clone())));
                }
                continue;
            }
        }
        // Before it has registered, no assignment is this life's.
        let incarnation = match *life.borrow_and_update() {
            Some(incarnation) => incarnation,
            // It has none, and holds nothing, but knows where everything is.
            None if cluster.config.witness => Incarnation(0),
            None => continue,
        };
        let known = state.borrow_and_update().clone();
        for (&id, node) in known.cluster().nodes() {
            let now = (node.incarnation, node.fenced);
            let before = nodes.insert(id, now);
            if before.is_some_and(|before| before != now && (now.1 || before.0 != now.0)) {
                // Nothing comes back from that life; whoever waits for it is to know at once.
                cluster.peers.forget(id);
            }
        }
        adopt(&cluster, &shared, &known, incarnation);
    }
}

/// Makes this node what the controllers say.
fn adopt(cluster: &Arc<ClusterNode>, shared: &Arc<Shared>, known: &State, life: Incarnation) {
    let changed = shared.registry.adopt(known.image(), known.version(), life);
    if changed && !cluster.config.witness {
        shared.deployments.settle(shared);
    }
    shared.groups.partition().handle_registered(life);
    for (&id, assignment) in known.cluster().partitions() {
        let Some(partition) = shared.partition(id) else { continue };
        partition.handle_assigned(assignment);
        if assignment.holders().contains(&cluster.me()) {
            cluster.follow(shared, &partition);
        }
    }
    shared.registry.settle_retention(cluster.me());
    let leader = shared.groups.partition().leader();
    shared.groups.settle_log(leader.is_some_and(|leader| leader.node == cluster.me()));
}

/// Asks the controllers for what partitions need by now.
async fn ask(cluster: Arc<ClusterNode>, shared: Arc<Shared>) {
    let lag = Lag { max: limits::REPLICA_LAG_MAX, retry: limits::REPLICA_RETRY };
    let mut asks: Vec<ClusterAsk> = Vec::new();
    for partition in shared.partitions() {
        asks.extend(partition.poll(lag));
    }
    let all = stream::iter(asks).map(|ask| async {
        if let Err(error) = cluster.submit(Command::Cluster(ask)).await {
            tracing::debug!(%error, "a change of a partition was not decided");
        }
    });
    // What is not decided by then is asked again, as it is needed then.
    let patience = limits::CONTROLLER_CALL_TIMEOUT;
    let _ = timeout(patience, all.buffer_unordered(ASKS_AT_ONCE).collect::<Vec<()>>()).await;
}

/// The disk that a node without a note of one gets.
#[must_use]
pub fn fresh_disk() -> DiskId {
    let word = &crate::broker::fresh_cluster_id()[..16];
    DiskId(u64::from_str_radix(word, 16).unwrap_or(1))
}
