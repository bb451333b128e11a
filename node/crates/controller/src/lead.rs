//! What the leading controller does besides leading: it fences nodes that fell silent, lets back
//! those that are heard of again, gives leads back to preferred replicas, and carries on the
//! draining of nodes.
//!
//! Nodes are heard of by their answers to openraft's heartbeats, which carry their lives; there are
//! no others. The rules are [`Sessions`]; times are this process's own.

use crate::controller::Inner;
use crate::raft::Raft;
use openraft::ServerState;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::sessions::{Heartbeat, Sessions};
use weir_core::controller::{Command, State};
use weir_core::ids::{Incarnation, NodeId};
use weir_core::limits;

/// How long a preferred replica is in sync before it is given its leads back, so that what led in
/// its place need not stop again at once if it goes away again.
const PREFER_PAUSE: Duration = Duration::from_secs(1);
/// Most leads that are given back at once.
const PREFER_MAX: usize = 16;

/// Who was heard of, and when.
#[derive(Debug)]
pub struct Heard {
    /// What times count from.
    origin: Instant,
    known: Mutex<Known>,
    /// Somebody was heard of whom the leading controller may not expect.
    news: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// By their answers, while this controller leads.
    nodes: BTreeMap<NodeId, (Duration, Option<Incarnation>)>,
    /// The controller that leads, while it is another.
    leader: Option<(NodeId, Duration)>,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { origin: Instant::now(), known: Mutex::default(), news: Notify::new() }
    }
}

impl Heard {
    /// A node answered this controller, in this life.
    pub fn answered(&self, node: NodeId, life: Option<Incarnation>) {
        let now = self.now();
        let before = self.lock().nodes.insert(node, (now, life));
        if before.is_none_or(|(_, known)| known != life) {
            self.news.notify_one();
        }
    }

    /// The controller that leads was heard of.
    pub fn leads(&self, node: NodeId) {
        let now = self.now();
        self.lock().leader = Some((node, now));
    }

    /// Who answered this controller within a time.
    pub fn within(&self, time: Duration) -> Vec<NodeId> {
        let now = self.now();
        let known = self.lock();
        let recent = known.nodes.iter().filter(|(_, (at, _))| now.saturating_sub(*at) <= time);
        recent.map(|(&id, _)| id).collect()
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does all that whenever this controller leads.
pub async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut metrics = raft.server_metrics();
    let mut known = None;
    loop {
        let (leads, leader) = {
            let now = metrics.borrow_and_update();
            (now.state == ServerState::Leader, now.current_leader)
        };
        if leader != known {
            known = leader;
            tracing::info!(leader, "the site's leading controller");
        }
        if leads {
            let mut lead = Lead::new(&inner, &raft);
            tokio::select! {
                () = lead.run() => {}
                _ = metrics.wait_for(|now| now.state != ServerState::Leader) => {}
            }
        } else if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// One leadership.
struct Lead<'a> {
    inner: &'a Arc<Inner>,
    raft: &'a Raft,
    sessions: Sessions,
    /// Up to when each node's answers were told to the sessions.
    told: BTreeMap<NodeId, Duration>,
    /// What was proposed and is not decided yet.
    proposed: JoinSet<()>,
    prefer_at: Option<Instant>,
    /// The state in which leads to give back were looked for last.
    looked_at: Option<u64>,
    /// The state in which copies on drained nodes were looked for last.
    drained_at: Option<u64>,
}

impl Lead<'_> {
    fn new<'a>(inner: &'a Arc<Inner>, raft: &'a Raft) -> Lead<'a> {
        let now = inner.heard.now();
        let session = inner.config.timing.session;
        let mut sessions = Sessions::new(now, session, inner.state.borrow().cluster());
        // The others were not heard of by anybody who could tell; this one was.
        let before = inner.heard.lock().leader.take();
        if let Some((node, at)) = before {
            sessions.note_heard(node, at);
        }
        let told = inner.members().rows.keys().map(|&id| (id, now)).collect();
        Lead {
            inner,
            raft,
            sessions,
            told,
            proposed: JoinSet::new(),
            prefer_at: None,
            looked_at: None,
            drained_at: None,
        }
    }

    async fn run(&mut self) {
        let mut states = self.inner.state.clone();
        states.mark_changed();
        loop {
            let state = states.borrow_and_update().clone();
            self.sessions.observe(self.inner.heard.now(), state.cluster());
            let mut asks = self.hear(&state);
            asks.extend(self.expired(&state));
            asks.extend(self.prefer(&state));
            asks.extend(self.drain(&state));
            if self.proposed.is_empty() && !asks.is_empty() {
                self.propose(asks);
            }
            let wake = self.wake_at(&state);
            tokio::select! {
                end = states.changed() => if end.is_err() { return },
                () = self.inner.heard.news.notified() => {}
                Some(_) = self.proposed.join_next() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            self.handle_late(wake);
        }
    }

    /// When there may next be something to do that nothing else tells of.
    fn wake_at(&self, state: &State) -> Instant {
        let heartbeat = self.inner.config.timing.heartbeat;
        let now = Instant::now();
        let later = now + self.inner.config.timing.session;
        let expiry = self.sessions.poll_at(state.cluster());
        let expiry = expiry.map(|at| self.inner.heard.origin + at + Duration::from_millis(1));
        let next = expiry.into_iter().chain(self.prefer_at).min().unwrap_or(later);
        // What is due is proposed, or cannot be.
        if next > now { next } else { now + heartbeat }
    }

    /// If this process itself was held up, others may have answered meanwhile.
    fn handle_late(&mut self, wake: Instant) {
        let timing = &self.inner.config.timing;
        if wake.elapsed() > timing.session / 2 {
            tracing::warn!(late_ms = wake.elapsed().as_millis(), "this node was held up");
            let cluster = self.inner.state.borrow().clone();
            let now = self.inner.heard.now();
            self.sessions = Sessions::new(now, timing.session, cluster.cluster());
        }
    }

    /// Tells the sessions who answered since, and who is to be let back.
    fn hear(&mut self, state: &State) -> Vec<ClusterAsk> {
        let now = self.inner.heard.now();
        let mut heard = self.inner.heard.lock().nodes.clone();
        heard.insert(self.inner.config.node, (now, *self.inner.life.borrow()));
        let mut back = Vec::new();
        for (node, (at, life)) in heard {
            let told = self.told.insert(node, at);
            let Some(life) = life.filter(|_| told.is_none_or(|told| told < at)) else { continue };
            // A node in an old life learns by itself that it has to register.
            if let Heartbeat::Back(ask) =
                self.sessions.handle_heartbeat(at, state.cluster(), node, life)
            {
                back.push(ask);
            }
        }
        back
    }

    /// The nodes to fence. None while this controller may be the one that is cut off.
    fn expired(&self, state: &State) -> Vec<ClusterAsk> {
        let now = self.inner.heard.now();
        let answered = self.inner.heard.within(self.inner.config.timing.session).len();
        match self.inner.members().is_majority(answered + 1) {
            true => self.sessions.poll_expired(now, state.cluster()),
            false => Vec::new(),
        }
    }

    /// Leads to give back, a while after there are some.
    fn prefer(&mut self, state: &State) -> Vec<ClusterAsk> {
        let changed = self.looked_at.replace(state.version()) != Some(state.version());
        if changed && self.prefer_at.is_none() && !state.cluster().poll_prefer(1).is_empty() {
            self.prefer_at = Some(Instant::now() + PREFER_PAUSE);
        }
        match self.prefer_at {
            Some(at) if at <= Instant::now() && self.proposed.is_empty() => {
                self.prefer_at = None;
                state.cluster().poll_prefer(PREFER_MAX)
            }
            _ => Vec::new(),
        }
    }

    /// Copies to move away from drained nodes, looked for once in each state: what begins or ends a
    /// move makes another one.
    fn drain(&mut self, state: &State) -> Vec<ClusterAsk> {
        if !self.proposed.is_empty() || self.drained_at == Some(state.version()) {
            return Vec::new();
        }
        self.drained_at = Some(state.version());
        state.cluster().poll_moves(limits::MOVES_AT_ONCE)
    }

    /// Has asks decided, all at once. What fails is found again.
    fn propose(&mut self, asks: Vec<ClusterAsk>) {
        for ask in &asks {
            match ask {
                ClusterAsk::Fence { node, .. } => tracing::warn!(%node, "a node is silent: fenced"),
                ClusterAsk::Unfence { node, .. } => tracing::info!(%node, "a node is back"),
                _ => {}
            }
        }
        let raft = self.raft.clone();
        let patience = self.inner.config.timing.session * 4;
        self.proposed.spawn(async move {
            let mut answers = Vec::new();
            for ask in asks {
                answers.extend(raft.client_write_ff(Command::Cluster(ask)).await);
            }
            let decided = async {
                for answer in answers {
                    let _ = answer.await;
                }
            };
            let _ = tokio::time::timeout(patience, decided).await;
        });
    }
}
