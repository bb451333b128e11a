//! Bad links between three real nodes, under producers and a consumer of the SDK.
//!
//! Goal: [`History`]'s, and that the site goes on: whatever one node cannot reach, the others
//! serve, and what was cut off comes back by itself. Method: all links lose, delay and reorder
//! datagrams all the time; one fault after the other comes on top, chosen by a seed, and goes once
//! more records were confirmed meanwhile. `WEIR_FAULTS` says how many, `WEIR_FAULT_SEED` which.

use anyhow::{Context, Result};
use std::time::Duration;
use weir_client::TopicConfig;
use weir_core::wire::cluster::ClusterStatus;
use weir_tests::history::History;
use weir_tests::proxy::{Network, Way};
use weir_tests::site::Site;

const TOPIC: &str = "sensors";
const PARTITIONS: u32 = 3;
const NODES: usize = 3;
const FAULTS_DEFAULT: u64 = 8;
/// Confirmed while a fault lasts.
const RECORDS: u64 = 300;
/// A link that is as bad as links at the edge are on a bad day.
const BAD: Way = Way {
    cut: false,
    loss: 0.01,
    delay: Duration::from_millis(4),
    jitter: Duration::from_millis(6),
    bytes_per_s: None,
};

/// A fault, and what it is called.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing reaches the node, and nothing that it sends arrives.
    Isolated(usize),
    /// Nothing reaches the node.
    Deaf(usize),
    /// Nothing that the node sends arrives.
    Mute(usize),
    /// Two nodes do not reach each other; the third reaches both.
    Parted(usize, usize),
    /// A quarter of all datagrams from and to the node is lost.
    Lossy(usize),
    /// Little gets through from and to the node.
    Narrow(usize),
}

impl Fault {
    /// Makes the links so.
    fn begin(self, network: &Network) {
        let cut = Way { cut: true, ..BAD };
        let lossy = Way { loss: 0.25, ..BAD };
        let narrow = Way { bytes_per_s: Some(300_000), ..BAD };
        let both = |node: usize, way: Way| {
            for other in (0..NODES).filter(|other| *other != node) {
                network.set(node, other, way);
                network.set(other, node, way);
            }
        };
        match self {
            Fault::Isolated(node) => both(node, cut),
            Fault::Lossy(node) => both(node, lossy),
            Fault::Narrow(node) => both(node, narrow),
            Fault::Deaf(node) => {
                (0..NODES).filter(|other| *other != node).for_each(|o| network.set(o, node, cut));
            }
            Fault::Mute(node) => {
                (0..NODES).filter(|other| *other != node).for_each(|o| network.set(node, o, cut));
            }
            Fault::Parted(a, b) => {
                network.set(a, b, cut);
                network.set(b, a, cut);
            }
        }
    }

    /// The node that the others fence, if they do.
    fn fenced(self) -> Option<usize> {
        match self {
            Fault::Isolated(node) | Fault::Deaf(node) | Fault::Mute(node) => Some(node),
            Fault::Parted(..) | Fault::Lossy(_) | Fault::Narrow(_) => None,
        }
    }
}

/// Whether every replica of the topic is in sync.
fn whole(status: &ClusterStatus) -> bool {
    let rows: Vec<_> = status.partitions.iter().filter(|row| row.topic == TOPIC).collect();
    rows.len() == PARTITIONS as usize
        && rows.iter().all(|row| row.leader.is_some() && row.insync.len() == NODES)
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(number) => number.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(default),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_links() -> Result<()> {
    let faults = number("WEIR_FAULTS", FAULTS_DEFAULT)?;
    let seed = number("WEIR_FAULT_SEED", 20_261_122)?;
    println!("seed {seed}, {faults} faults");
    let dir = tempfile::tempdir()?;
    let (site, network) = Site::start_behind(dir.path(), NODES, seed).await?;
    let clients = [
        site.client(&[0, 1, 2]).await?,
        site.client(&[1, 2, 0]).await?,
        site.client(&[2, 0, 1]).await?,
    ];
    let config = TopicConfig {
        partitions: PARTITIONS,
        replicas: NODES as u32,
        min_insync: 2,
        ..TopicConfig::default()
    };
    clients[0].admin().create_topic(TOPIC, config).await?;
    site.wait(0, whole).await?;
    network.set_all(BAD);
    let mut history = History::start(TOPIC, PARTITIONS, &clients, &clients[1]);
    history.wait_for_more(RECORDS).await?;
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..faults {
        let node = random.usize(..NODES);
        let other = (node + random.usize(1..NODES)) % NODES;
        // Each kind comes up, from the first rounds on.
        let fault = match (round + seed) % 6 {
            0 => Fault::Isolated(node),
            1 => Fault::Parted(node, other),
            2 => Fault::Lossy(node),
            3 => Fault::Deaf(node),
            4 => Fault::Narrow(node),
            _ => Fault::Mute(node),
        };
        println!("round {round}: {fault:?}");
        let during = || format!("round {round}, {fault:?}, seed {seed}");
        fault.begin(&network);
        if let Some(node) = fault.fenced() {
            let witness = (node + 1) % NODES;
            site.wait(witness, |s| s.nodes[node].fenced).await.with_context(during)?;
        }
        history.wait_for_more(RECORDS).await.with_context(during)?;
        network.set_all(BAD);
        site.wait(random.usize(..NODES), whole).await.with_context(during)?;
        history.wait_for_more(RECORDS).await.with_context(during)?;
    }
    network.set_all(Way::default());
    let stored = history.finish(&clients[2]).await.with_context(|| format!("seed {seed}"))?;
    println!("{stored} records through {faults} faults");
    for client in clients {
        client.close().await;
    }
    Ok(())
}
