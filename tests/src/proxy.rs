//! Bad links between real nodes: a proxy in user space that every datagram from one node to another
//! goes through. It drops, delays, reorders, throttles and cuts, each direction by itself. Clients
//! reach the nodes directly.
//!
//! Which node a datagram comes from is told by the process that owns the port that it came from.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The largest datagram.
const DATAGRAM_MAX: usize = 65_535;
/// What a throttled way holds back at most; what comes beyond is dropped.
const BACKLOG_MAX: Duration = Duration::from_millis(300);

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Way {
    /// Nothing arrives.
    pub cut: bool,
    /// Which share of datagrams is lost, 0 to 1.
    pub loss: f64,
    /// How long each takes.
    pub delay: Duration,
    /// How much longer some take; they overtake each other.
    pub jitter: Duration,
    /// How many bytes get through in a second; `None`: as many as come.
    pub bytes_per_s: Option<u64>,
}

/// The links between nodes, numbered from 0.
pub struct Network {
    shared: Arc<Shared>,
    fronts: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

/// Which node a flow of datagrams is of, once that is known.
type Source = Arc<OnceLock<usize>>;

struct Shared {
    ways: Mutex<Ways>,
    owners: Mutex<Owners>,
}

struct Ways {
    all: HashMap<(usize, usize), Way>,
    /// Until when a throttled way is busy.
    busy: HashMap<(usize, usize), Instant>,
    random: fastrand::Rng,
}

#[derive(Default)]
struct Owners {
    /// The processes of the nodes.
    processes: Vec<u32>,
}

impl Network {
    /// Puts a proxy before each of these addresses, which nodes will serve on. Links are good.
    ///
    /// # Errors
    /// No port is to be had.
    pub async fn start(nodes: &[SocketAddr], seed: u64) -> Result<Network> {
        let ways = Ways {
            all: HashMap::new(),
            busy: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
        };
        let shared = Arc::new(Shared { ways: Mutex::new(ways), owners: Mutex::default() });
        let (mut fronts, mut tasks) = (Vec::new(), JoinSet::new());
        for (to, &address) in nodes.iter().enumerate() {
            let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
            fronts.push(front.local_addr()?);
            tasks.spawn(serve(shared.clone(), front, to, address));
        }
        Ok(Network { shared, fronts, _tasks: tasks })
    }

    /// Where other nodes reach a node.
    #[must_use]
    pub fn front(&self, node: usize) -> SocketAddr {
        self.fronts[node]
    }

    /// These are the processes of the nodes now.
    pub fn owned_by(&self, processes: Vec<u32>) {
        lock(&self.shared.owners).processes = processes;
    }

    /// Changes one direction.
    pub fn set(&self, from: usize, to: usize, way: Way) {
        lock(&self.shared.ways).all.insert((from, to), way);
    }

    /// Changes all directions.
    pub fn set_all(&self, way: Way) {
        for from in 0..self.fronts.len() {
            for to in (0..self.fronts.len()).filter(|to| *to != from) {
                self.set(from, to, way);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// When a datagram of this size arrives, if it does.
    fn arrival(&self, from: Option<usize>, to: Option<usize>, bytes: usize) -> Option<Instant> {
        let now = Instant::now();
        let Some(direction) = from.zip(to) else { return Some(now) };
        let mut ways = lock(&self.ways);
        let way = ways.all.get(&direction).copied().unwrap_or_default();
        if way.cut || (way.loss > 0.0 && ways.random.f64() < way.loss) {
            return None;
        }
        let jitter = way.jitter.mul_f64(ways.random.f64());
        let mut at = now + way.delay + jitter;
        if let Some(rate) = way.bytes_per_s {
            let free = ways.busy.get(&direction).copied().unwrap_or(now).max(now);
            if free - now > BACKLOG_MAX {
                return None;
            }
            let busy = free + Duration::from_secs_f64(bytes as f64 / rate as f64);
            ways.busy.insert(direction, busy);
            at += busy - now;
        }
        Some(at)
    }
}

/// Carries what comes for one node.
async fn serve(shared: Arc<Shared>, front: Arc<UdpSocket>, to: usize, address: SocketAddr) {
    let mut flows: HashMap<SocketAddr, (Source, Arc<UdpSocket>)> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // A port that nobody listens on makes the next call fail: the node is away.
        let Ok((length, source)) = front.recv_from(&mut buffer).await else { continue };
        let flow = match flows.entry(source) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(fresh) => {
                let Ok(back) = connected(address).await else { continue };
                let (from, back) = (Source::default(), Arc::new(back));
                let answered = (to, from.clone());
                let answers =
                    answers(shared.clone(), front.clone(), back.clone(), answered, source);
                tasks.spawn(answers);
                fresh.insert((from, back))
            }
        };
        let (from, back) = (&flow.0, &flow.1);
        if from.get().is_none() {
            let processes = lock(&shared.owners).processes.clone();
            if let Ok(Some(owner)) = owner_of(source.port(), &processes) {
                let _ = from.set(owner);
            }
        }
        if let Some(at) = shared.arrival(from.get().copied(), Some(to), length) {
            send(back.clone(), None, buffer[..length].to_vec(), at);
        }
    }
}

async fn connected(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Carries what a node answers.
async fn answers(
    shared: Arc<Shared>,
    front: Arc<UdpSocket>,
    back: Arc<UdpSocket>,
    (node, asked_by): (usize, Source),
    source: SocketAddr,
) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok(length) = back.recv(&mut buffer).await else { continue };
        if let Some(at) = shared.arrival(Some(node), asked_by.get().copied(), length) {
            send(front.clone(), Some(source), buffer[..length].to_vec(), at);
        }
    }
}

/// Sends when it is time.
fn send(socket: Arc<UdpSocket>, to: Option<SocketAddr>, datagram: Vec<u8>, at: Instant) {
    tokio::spawn(async move {
        // sleep: the way takes so long.
        sleep_until(at).await;
        // Lost if it cannot be sent, as datagrams are.
        let _ = match to {
            Some(to) => socket.send_to(&datagram, to).await,
            None => socket.send(&datagram).await,
        };
    });
}

/// Which of these processes owns a local UDP port, by its place in the list.
fn owner_of(port: u16, processes: &[u32]) -> Result<Option<usize>> {
    let wanted = format!(":{port:04X}");
    let mut socket = None;
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields.get(1).is_some_and(|local| local.ends_with(&wanted)) {
                let inode = fields.get(9).context("no inode in the table of sockets")?;
                socket = Some(format!("socket:[{inode}]"));
            }
        }
    }
    let Some(socket) = socket else { return Ok(None) };
    let owns = |process: &u32| {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
        let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        links.into_iter().any(|link| link.to_string_lossy() == socket)
    };
    Ok(processes.iter().position(owns))
}
