//! Three real nodes that replicate topics, killed with SIGKILL one after the other under producers
//! and a consumer of the SDK.

use anyhow::{Context, Result, ensure};
use weir_client::{ProducerRecord, TopicConfig};
use weir_core::ids::NodeId;
use weir_core::wire::cluster::ClusterStatus;
use weir_tests::history::{History, read_all};
use weir_tests::site::Site;

const TOPIC: &str = "sensors";
const PARTITIONS: u32 = 3;
const KILLS_DEFAULT: u64 = 6;

fn replicated() -> TopicConfig {
    TopicConfig { partitions: PARTITIONS, replicas: 3, min_insync: 2, ..TopicConfig::default() }
}

/// Whether every replica of the topic is in sync.
fn whole(status: &ClusterStatus) -> bool {
    let rows: Vec<_> = status.partitions.iter().filter(|row| row.topic == TOPIC).collect();
    rows.len() == PARTITIONS as usize
        && rows.iter().all(|row| row.leader.is_some() && row.insync.len() == 3)
}

/// Goal: what one node acknowledged is on all in-sync nodes: each of them can be asked for it, and
/// after the leader's death another has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_its_leader() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let client = site.client(&[0, 1, 2]).await?;
    client.admin().create_topic(TOPIC, replicated()).await?;
    site.wait(1, whole).await?;
    let producer = client.producer().build().await?;
    for number in 0..300 {
        let record = ProducerRecord::new(TOPIC, format!("{number}"));
        producer.send(record.with_partition(number % PARTITIONS)).await?.await?;
    }
    producer.close().await?;
    let wanted = read_all(&client, TOPIC, PARTITIONS).await?;
    ensure!(wanted.len() == 300, "{} records", wanted.len());
    for asked in 0..3 {
        let other = site.client(&[asked]).await?;
        ensure!(read_all(&other, TOPIC, PARTITIONS).await? == wanted, "node {asked} differs");
        other.close().await;
    }
    let leader = site.leader(0, TOPIC, 0).await?;
    site.nodes[leader].kill()?;
    let survivor = (leader + 1) % 3;
    let other = site.client(&[survivor]).await?;
    ensure!(read_all(&other, TOPIC, PARTITIONS).await? == wanted, "after the leader's death");
    other.close().await;
    client.close().await;
    Ok(())
}

/// Goal: an operator sees where everything is, and moves copies while they are in use. Method: a
/// topic on two of three nodes is moved to the third, which then has all of it and leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_moved() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), 3).await?;
    let node = &site.nodes[0];
    node.weir(&["topic", "create", "moved", "--replicas", "2", "--min-insync", "2"]).expect(0);
    let client = site.client(&[0]).await?;
    let producer = client.producer().build().await?;
    for number in 0..100 {
        producer.send(ProducerRecord::new("moved", format!("{number}"))).await?.await?;
    }
    producer.close().await?;
    let wanted = read_all(&client, "moved", 1).await?;
    let held = |status: &ClusterStatus| {
        let mut rows = status.partitions.iter().filter(|row| row.topic == "moved");
        rows.next().map(|row| (row.replicas.clone(), row.leader, row.target.is_empty()))
    };
    let (before, ..) = held(&site.status(0).await?).context("no such partition")?;
    let other = (1..=3).map(NodeId).find(|id| !before.contains(id)).context("all hold it")?;
    let to = format!("{other},{}", before[0]);
    node.weir(&["topic", "reassign", "moved", "--to", &to]).expect(0);
    let moved =
        |status: &ClusterStatus| held(status) == Some((vec![other, before[0]], Some(other), true));
    site.wait(1, moved).await?;
    let there = site.client(&[other.0 as usize - 1]).await?;
    ensure!(read_all(&there, "moved", 1).await? == wanted, "the new copy differs");
    there.close().await;

    let shown = node.weir(&["cluster", "status"]).expect(0);
    for wanted in ["edge-1", "edge-2", "edge-3", "moved", "__groups", "up"] {
        ensure!(shown.stdout.contains(wanted), "no {wanted} in:\n{}", shown.stdout);
    }
    let json = node.weir(&["cluster", "status", "--json"]).expect(0).json();
    ensure!(json["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3), "{json}");
    let refused = node.weir(&["topic", "reassign", "moved", "--to", "1,9"]).expect(4);
    ensure!(refused.stderr.contains("node 9 is not registered"), "{}", refused.stderr);
    client.close().await;
    Ok(())
}

/// Goal: [`History`]'s. Method: kills are paced by progress, not by time, and take one node after
/// the other; the next comes once all replicas are in sync again. `WEIR_KILLS` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled() -> Result<()> {
    let kills = match std::env::var("WEIR_KILLS") {
        Ok(kills) => kills.parse().context("WEIR_KILLS")?,
        Err(_) => KILLS_DEFAULT,
    };
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let clients = [
        site.client(&[0, 1, 2]).await?,
        site.client(&[1, 2, 0]).await?,
        site.client(&[2, 0, 1]).await?,
    ];
    clients[0].admin().create_topic(TOPIC, replicated()).await?;
    site.wait(0, whole).await?;
    let mut history = History::start(TOPIC, PARTITIONS, &clients, &clients[1]);
    let mut pace = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        pace ^= pace << 13;
        pace ^= pace >> 7;
        pace ^= pace << 17;
        history.wait_for_more(20 + pace % 500).await.with_context(|| format!("kill {kill}"))?;
        let victim = (kill % 3) as usize;
        site.nodes[victim].kill()?;
        history.wait_for_more(200).await.with_context(|| format!("without node {victim}"))?;
        site.nodes[victim].start_again()?;
        site.wait((victim + 1) % 3, whole).await.with_context(|| format!("after kill {kill}"))?;
    }
    let stored = history.finish(&clients[2]).await?;
    println!("{stored} records through {kills} kills");
    for client in clients {
        client.close().await;
    }
    Ok(())
}
