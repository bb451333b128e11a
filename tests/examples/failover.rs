//! How long producers wait when the leader of their partition is killed: from SIGKILL to the first
//! record that another leader acknowledges. Three nodes on this machine, three replicas, of which
//! two must be in sync.
//!
//! ```sh
//! cargo build --release
//! export WEIR_BIN=$PWD/target/release/weir
//! cargo run --release -p weir-tests --example failover -- 50
//! ```

use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use weir_client::{ProducerRecord, TopicConfig};
use weir_core::wire::cluster::ClusterStatus;
use weir_tests::site::Site;

const TOPIC: &str = "failover";

fn whole(status: &ClusterStatus) -> bool {
    let mut rows = status.partitions.iter().filter(|row| row.topic == TOPIC);
    rows.next().is_some_and(|row| row.leader.is_some() && row.insync.len() == 3)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let kills: usize = match std::env::args().nth(1) {
        Some(kills) => kills.parse().context("how many kills?")?,
        None => 50,
    };
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let admin = site.client(&[0, 1, 2]).await?;
    let config =
        TopicConfig { partitions: 1, replicas: 3, min_insync: 2, ..TopicConfig::default() };
    admin.admin().create_topic(TOPIC, config).await?;
    let mut waits = Vec::new();
    for kill in 0..kills {
        site.wait(kill % 3, whole).await?;
        let leader = site.leader(kill % 3, TOPIC, 0).await?;
        // One that is not connected to the node that dies: what that costs is another matter.
        let client = site.client(&[(leader + 1) % 3, (leader + 2) % 3]).await?;
        let producer = client.producer().linger(Duration::ZERO).build().await?;
        producer.send(ProducerRecord::new(TOPIC, "before")).await?.await?;
        let begun = Instant::now();
        site.nodes[leader].kill()?;
        producer.send(ProducerRecord::new(TOPIC, "after")).await?.await?;
        waits.push(begun.elapsed());
        producer.close().await?;
        client.close().await;
        site.nodes[leader].start_again()?;
    }
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
    println!(
        "{kills} kills of the leader: first acknowledgement of the next p50 {:?}, p90 {:?}, p99 \
         {:?}, longest {:?}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    Ok(())
}
