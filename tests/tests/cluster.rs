//! Three real nodes that replicate topics, killed with SIGKILL one after the other under producers
//! and a consumer of the SDK.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::timeout;
use weir_client::{ProducerRecord, StartAt, TopicConfig};
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

/// Goal: a consumer that asks for the nearest copy gets what is committed from a node that follows,
/// as it comes, and goes on elsewhere when that node dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nearest_copy() -> Result<()> {
    const RECORDS: u32 = 200;
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let config = TopicConfig { partitions: 1, ..replicated() };
    let client = site.client(&[0, 1, 2]).await?;
    client.admin().create_topic("near", config).await?;
    let leader = site.leader(0, "near", 0).await?;
    let near = (leader + 1) % 3;
    let reading = site.client(&[near, (near + 1) % 3, leader]).await?;
    let mut consumer = reading.consumer().nearest(true).build();
    consumer.assign(&[("near", 0, StartAt::Earliest)]).await?;
    let producer = client.producer().build().await?;
    let mut seen = 0;
    for half in 0..2 {
        for number in 0..RECORDS {
            producer.send(ProducerRecord::new("near", format!("{number}"))).await?.await?;
        }
        while seen < (half + 1) * RECORDS {
            let batch = timeout(Duration::from_secs(60), consumer.next_batch()).await??;
            let batch = batch.context("it does not end")?;
            for record in batch.records() {
                ensure!(record.offset.0 == i64::from(seen), "{} after {seen}", record.offset);
                seen += 1;
            }
        }
        if half == 0 {
            let status = site.nodes[near].weir(&["status", "--json"]).expect(0).json();
            let rows = status["partitions"].as_array().cloned().unwrap_or_default();
            let row = rows.iter().find(|row| row["topic"] == "near").context("no such row")?;
            ensure!(row["subscriptions"] == 1, "served elsewhere: {row}");
            site.nodes[near].kill()?;
        }
    }
    Ok(())
}

/// Goal: an operator can measure what copies cost; what the bench makes is gone afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_measured() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), 3).await?;
    let scratch = dir.path().to_string_lossy().into_owned();
    let small = ["--round-mib=2", "--rounds=2", "--moves=3", "--json", "--dir", &scratch];
    let (server, ca) = (site.nodes[0].address().to_string(), site.nodes[0].ca());
    let ca = ca.to_string_lossy().into_owned();
    let to = ["--server", &server, "--ca", &ca];
    let bench = [&["bench", "replicas"][..], &small, &to].concat();
    let report = weir_tests::node_process::weir(&bench).expect(0).json();
    for figure in ["mb_per_s", "one_copy_mb_per_s", "move_gap_longest_ms", "catch_up_mb_per_s"] {
        let measured = report[figure].as_f64().or_else(|| report["more"][figure].as_f64());
        ensure!(measured.is_some_and(|measured| measured > 0.0), "{figure}: {report}");
    }
    let topics = site.nodes[0].weir(&["topic", "list", "--json"]).expect(0).json();
    ensure!(topics.as_array().is_some_and(Vec::is_empty), "{topics}");
    let alone = weir_tests::node_process::weir(&["bench", "replicas"]).expect(2);
    ensure!(alone.stderr.contains("--server"), "{}", alone.stderr);
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

/// Goal: [`History`]'s, through restarts in rotation, as an upgrade needs them, and through a node
/// that stands still until the others go on without it, and then wakes up as if nothing had
/// happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_rotation_and_a_pause() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let clients = [site.client(&[0, 1, 2]).await?, site.client(&[1, 2, 0]).await?];
    clients[0].admin().create_topic(TOPIC, replicated()).await?;
    site.wait(0, whole).await?;
    let mut history = History::start(TOPIC, PARTITIONS, &clients, &clients[0]);
    for node in 0..3 {
        history.wait_for_more(100).await?;
        let ended = site.nodes[node].stop()?;
        ensure!(ended.success(), "node {node} ended with {ended}");
        history.wait_for_more(100).await.with_context(|| format!("without node {node}"))?;
        site.nodes[node].start_again()?;
        site.wait((node + 1) % 3, whole).await.with_context(|| format!("with node {node}"))?;
    }
    let paused = site.leader(0, TOPIC, 0).await?;
    let other = (paused + 1) % 3;
    site.nodes[paused].signal(Signal::STOP)?;
    let fenced = |status: &ClusterStatus| status.nodes[paused].fenced;
    site.wait(other, fenced).await?;
    history.wait_for_more(500).await.context("while a node stands still")?;
    site.nodes[paused].signal(Signal::CONT)?;
    site.wait(other, whole).await?;
    history.wait_for_more(100).await?;
    let stored = history.finish(&clients[1]).await?;
    println!("{stored} records through three restarts and a pause");
    for client in clients {
        client.close().await;
    }
    Ok(())
}

/// Goal: two nodes with records and a witness survive the death of either of the two: what was
/// acknowledged is there, and more is taken. Method: one after the other is killed; between, it
/// comes back and catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_and_a_witness() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start_with(dir.path(), 3, true).await?;
    let client = site.client(&[2, 0, 1]).await?;
    let config = TopicConfig { replicas: 2, min_insync: 1, ..TopicConfig::default() };
    client.admin().create_topic(TOPIC, config.clone()).await?;
    let three = TopicConfig { replicas: 3, ..config };
    client.admin().create_topic("three", three).await.expect_err("a witness holds no records");
    let both = |status: &ClusterStatus| {
        let mut rows = status.partitions.iter().filter(|row| row.topic == TOPIC);
        rows.next().is_some_and(|row| row.insync.len() == 2 && row.leader.is_some())
    };
    let producer = client.producer().build().await?;
    let mut sent = 0;
    for victim in [0, 1] {
        site.wait(2, both).await?;
        for _ in 0..50 {
            producer.send(ProducerRecord::new(TOPIC, format!("{sent}"))).await?.await?;
            sent += 1;
        }
        site.nodes[victim].kill()?;
        for _ in 0..50 {
            producer.send(ProducerRecord::new(TOPIC, format!("{sent}"))).await?.await?;
            sent += 1;
        }
        site.nodes[victim].start_again()?;
    }
    producer.close().await?;
    let stored = read_all(&client, TOPIC, 1).await?;
    let values: Vec<String> = stored.into_iter().map(|(_, _, value)| value).collect();
    let wanted: Vec<String> = (0..sent).map(|number| number.to_string()).collect();
    ensure!(values == wanted, "{} records of {sent}, or in another order", values.len());
    client.close().await;
    Ok(())
}
