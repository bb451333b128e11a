//! A site in one process.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir_controller::{CallError, Config, Controller, Member, StartError, Timing, Transport};
use weir_core::controller::{Command, State};
use weir_core::ids::{DiskId, Incarnation, NodeId, TimestampMs};
use weir_core::metadata::Ask;
use weir_core::topic::TopicConfig;
use weir_log::KvStore;
use weir_log::sim::SimDisk;

/// How long anything is waited for, by the clock of the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network: who is up, and what happens between them.
pub struct Net {
    pub up: Mutex<BTreeMap<NodeId, Controller>>,
    /// Parts of snapshots that were sent.
    pub snapshot_parts: AtomicUsize,
    weather: Mutex<Weather>,
}

struct Weather {
    random: fastrand::Rng,
    /// Nodes of different groups do not reach each other.
    groups: BTreeMap<NodeId, u32>,
    /// Of a hundred messages, so many are lost.
    loss: u32,
    delay: Duration,
}

impl Net {
    /// Whether a message arrives, after how long.
    fn passes(&self, from: NodeId, to: NodeId) -> (bool, Duration) {
        let mut weather = self.weather.lock().unwrap();
        let group = |id| weather.groups.get(&id).copied().unwrap_or(0);
        let linked = group(from) == group(to);
        let most = weather.delay.as_micros() as u64;
        let delay = Duration::from_micros(weather.random.u64(0..=most));
        let lost = weather.random.u32(0..100) < weather.loss;
        (linked && !lost, delay)
    }
}

/// One node's way to the others.
struct Wire {
    from: NodeId,
    net: Arc<Net>,
}

impl Transport for Wire {
    async fn call(&self, to: NodeId, request: Bytes) -> Result<Bytes, CallError> {
        let lost = || CallError::NoAnswer { to, reason: "the network lost it".into() };
        let (arrives, delay) = self.net.passes(self.from, to);
        // sleep: the message's way.
        tokio::time::sleep(delay).await;
        let Some(there) = self.net.up.lock().unwrap().get(&to).cloned() else {
            return Err(CallError::NotSent { to, reason: "it is down".into() });
        };
        // A map of one entry, whose key is this text of eight bytes.
        if request.starts_with(b"\xa1\x68snapshot") {
            self.net.snapshot_parts.fetch_add(1, Ordering::Relaxed);
        }
        if !arrives {
            // sleep: until a transport gives up.
            tokio::time::sleep(Duration::from_secs(2)).await;
            return Err(lost());
        }
        let from = self.from;
        let answer = tokio::spawn(async move { there.handle(from, request).await });
        let answer = answer.await.map_err(|_| lost())?;
        let (arrives, delay) = self.net.passes(to, self.from);
        // sleep: the answer's way.
        tokio::time::sleep(delay).await;
        if arrives { Ok(answer) } else { Err(lost()) }
    }
}

/// A site. Node `n` has the disk `n`.
pub struct Site {
    pub net: Arc<Net>,
    pub disks: BTreeMap<NodeId, SimDisk>,
    pub members: BTreeMap<NodeId, Member>,
    pub witness: Option<NodeId>,
    seed: u64,
}

impl Site {
    /// Nodes 1 to `nodes`, none of them up.
    pub fn of(nodes: u32, seed: u64) -> Site {
        let ids = (1..=nodes).map(NodeId);
        let weather = Weather {
            random: fastrand::Rng::with_seed(seed),
            groups: BTreeMap::new(),
            loss: 0,
            delay: Duration::from_millis(5),
        };
        let disk = |id: NodeId| (id, SimDisk::new(seed * 100 + u64::from(id.0)));
        Site {
            net: Arc::new(Net {
                up: Mutex::default(),
                snapshot_parts: AtomicUsize::new(0),
                weather: Mutex::new(weather),
            }),
            disks: ids.clone().map(disk).collect(),
            members: ids.map(|id| (id, member(id))).collect(),
            witness: None,
            seed,
        }
    }

    /// One more, which is not up; the others are not told.
    pub fn add(&mut self, number: u32) -> NodeId {
        let id = NodeId(number);
        self.disks.insert(id, SimDisk::new(self.seed * 100 + u64::from(number)));
        self.members.insert(id, member(id));
        id
    }

    /// All of them, up, with a leading controller.
    pub async fn started(nodes: u32, seed: u64) -> Site {
        let site = Site::of(nodes, seed);
        for id in site.ids() {
            site.start(id).await;
        }
        site.registered(&site.ids()).await;
        site
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.members.keys().copied().collect()
    }

    pub fn config(&self, node: NodeId) -> Config {
        Config {
            node,
            members: self.members.clone(),
            disk: DiskId(u64::from(node.0)),
            rack: None,
            witness: self.witness == Some(node),
            timing: Timing::default(),
        }
    }

    pub async fn try_start(&self, config: Config) -> Result<(), StartError> {
        let node = config.node;
        let disk = self.disks[&node].clone();
        let kv = tokio::task::spawn_blocking(move || {
            KvStore::open(Arc::new(disk), Path::new("/data/controller.redb"))
        });
        let kv = kv.await.unwrap()?;
        let wire = Wire { from: node, net: self.net.clone() };
        let controller = Controller::start(config, kv, wire).await?;
        self.net.up.lock().unwrap().insert(node, controller);
        Ok(())
    }

    pub async fn start(&self, node: NodeId) {
        self.try_start(self.config(node)).await.unwrap();
    }

    /// The power of a node goes: what was not synced may be lost, and nobody hears a word.
    pub async fn kill(&self, node: NodeId) {
        self.disks[&node].cut_power();
        let controller = self.net.up.lock().unwrap().remove(&node).unwrap();
        controller.shutdown().await;
        self.disks[&node].restore_power();
    }

    pub async fn stop(&self, node: NodeId) {
        let controller = self.net.up.lock().unwrap().remove(&node).unwrap();
        controller.shutdown().await;
    }

    /// The disk of a node that is down is replaced by an empty one.
    pub fn replace_disk(&mut self, node: NodeId) {
        self.seed += 1;
        self.disks.insert(node, SimDisk::new(self.seed * 1_000 + u64::from(node.0)));
    }

    /// Cuts the network into these groups.
    pub fn split(&self, groups: &[&[NodeId]]) {
        let mut weather = self.net.weather.lock().unwrap();
        weather.groups.clear();
        for (group, nodes) in groups.iter().enumerate() {
            weather.groups.extend(nodes.iter().map(|&id| (id, group as u32)));
        }
    }

    pub fn heal(&self) {
        self.split(&[]);
        self.weather(0, 5);
    }

    pub fn weather(&self, loss: u32, delay_ms: u64) {
        let mut weather = self.net.weather.lock().unwrap();
        weather.loss = loss;
        weather.delay = Duration::from_millis(delay_ms);
    }

    pub fn at(&self, node: NodeId) -> Controller {
        self.net.up.lock().unwrap()[&node].clone()
    }

    pub fn state(&self, node: NodeId) -> Arc<State> {
        self.at(node).state().borrow().clone()
    }

    pub fn up(&self) -> Vec<NodeId> {
        self.net.up.lock().unwrap().keys().copied().collect()
    }

    /// Who leads, in the eyes of these nodes, once they agree on one of them.
    pub async fn leader(&self, nodes: &[NodeId]) -> NodeId {
        until("the nodes agree on who leads", || {
            let said: BTreeSet<_> = nodes.iter().map(|&id| self.at(id).leader()).collect();
            let one = said.first().copied().flatten().filter(|_| said.len() == 1);
            one.filter(|leader| nodes.contains(leader))
        })
        .await
    }

    /// Waits until these nodes' lives are known to all of them.
    pub async fn registered(&self, nodes: &[NodeId]) {
        until("the nodes are registered", || {
            let mut seen = nodes.iter().map(|&id| self.state(id));
            let all = |state: Arc<State>| {
                nodes.iter().filter(|&&id| self.witness != Some(id)).all(|id| {
                    let life = *self.at(*id).life().borrow();
                    let known = state.cluster().nodes().get(id);
                    known.is_some_and(|known| !known.fenced && Some(known.incarnation) == life)
                })
            };
            seen.all(all).then_some(())
        })
        .await;
    }

    /// Waits until all that are up have the same state, to the byte; returns its snapshot.
    pub async fn converged(&self) -> Vec<u8> {
        until("all states are equal", || {
            let states: Vec<_> = self.up().into_iter().map(|id| self.state(id)).collect();
            states.iter().all(|state| state == &states[0]).then(|| states[0].snapshot())
        })
        .await
    }

    pub fn life(&self, node: NodeId) -> Option<Incarnation> {
        *self.at(node).life().borrow()
    }
}

fn member(id: NodeId) -> Member {
    let (name, address) = (format!("depot-{id}"), format!("depot-{id}:9092"));
    Member { name, address, witness: false }
}

/// Waits for a condition.
pub async fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(value) = holds() {
                return value;
            }
            // sleep: the pause between two looks; the wait ends with the condition.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within a minute: {what}"))
}

pub fn create(name: &str, partitions: u32, replicas: u32) -> Command {
    let config = TopicConfig { partitions, replicas, ..TopicConfig::default() };
    let ask = Ask::Create { name: name.into(), config };
    Command::Metadata { now: TimestampMs(1), ask }
}

/// A command of which each can be told from all others, by what it does.
pub fn ids(count: u32) -> Command {
    Command::ProducerIds { count }
}
