//! `weir bench replicas`: what copies cost on a running cluster, and what moving them takes.
//!
//! Each round measures the raw disk, a topic with one copy and one with several, both led by the
//! node that was asked, one right after the other; what counts is the ratio. The nodes of a
//! cluster on one machine share its disk and its cores: with three copies the same records are
//! written three times over, and two of three times sent once more.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use weir_client::{Client, ProducerRecord, TopicConfig};
use weir_core::ids::NodeId;
use weir_core::limits::MIB;
use weir_core::wire::cluster::{ClusterStatus, ReplicasInfo};
use weir_transport::bench::Direction;

use super::args::{ReplicasArgs, Shape};
use super::baseline;
use super::load;
use super::produce;
use super::report::{Bound, Report, map, round};
use super::target::Target;
use crate::commands::figures::{Latencies, median};
use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// Bytes per sync of the raw disk.
const RAW_SYNC_BYTES: usize = MIB;
/// Records that are sent one by one.
const ONE_BY_ONE: u64 = 500;
/// What does not come about in this time fails.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at the cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Records that are acknowledged before and after a move.
const AROUND_A_MOVE: usize = 50;

/// Measures.
///
/// # Errors
/// There is no cluster, or it, the disk or the network failed.
pub async fn run(target: &mut Target, args: &ReplicasArgs) -> Result<Report, Failure> {
    let clients = produce::clients(target, args.shape.producers).await?;
    let client = &clients[0];
    let nodes = nodes(client, args.replicas).await?;
    let copies = TopicConfig {
        replicas: args.replicas,
        min_insync: args.min_insync.unwrap_or(args.replicas),
        ..TopicConfig::default()
    };
    let one = target.create_topic(client, 1).await?;
    let several = target.create_topic_with(client, copies).await?;
    place(client, &one, &nodes[..1]).await?;
    place(client, &several, &nodes).await?;

    let total = args.round_mib * MIB as u64;
    let (mut raw, mut ratios) = (Vec::new(), Vec::new());
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    let mut rows = Vec::new();
    let mut in_one = 0;
    for number in 0..=args.rounds {
        let disk = baseline::raw(target.scratch(), RAW_SYNC_BYTES, total).await?;
        let by_one = load::run(&clients, &produce::plan(&args.shape, one.clone(), total)).await?;
        in_one += by_one.bytes;
        let plan = produce::plan(&args.shape, several.clone(), total);
        let by_all = load::run(&clients, &plan).await?;
        if number == 0 {
            continue;
        }
        let (by_one, by_all) = (by_one.mb_per_s(), by_all.mb_per_s());
        raw.push(disk.bytes_per_s() / 1e6);
        alone.push(by_one);
        together.push(by_all);
        ratios.push(by_all / by_one);
        rows.push(map([
            ("round", json!(number)),
            ("one_copy_mb_per_s", round(by_one)),
            ("copies_mb_per_s", round(by_all)),
            ("ratio", round(by_all / by_one)),
        ]));
    }
    let mut settings = produce::settings(&args.shape);
    settings.push("replicas", json!(args.replicas));
    let mut report = Report::new("replicas", settings);
    report.rows = rows;
    report.mb_per_s = median(&together);
    report.raw_mb_per_s = median(&raw);
    report.more.push("one_copy_mb_per_s", median(&alone).map_or(json!(null), round));
    report.expect("of one copy", Bound::AtLeast(0.28), median(&ratios));
    acknowledged(target, &clients, &several, &mut report).await?;
    moved(client, &several, &nodes, args.moves, &mut report).await?;
    if let Some(&other) = nodes.get(1) {
        caught_up(target, client, (&one, in_one), (nodes[0], other), &mut report).await?;
    }
    target.delete_topic(client, &one).await?;
    target.delete_topic(client, &several).await?;
    produce::close(clients).await;
    Ok(report)
}

/// So many nodes that are there: the one that was asked first.
async fn nodes(client: &Client, count: u32) -> Result<Vec<NodeId>, Failure> {
    let status = status(client).await?;
    let there = status.nodes.iter().filter(|node| node.incarnation.0 > 0 && !node.fenced);
    let others = there.map(|node| node.id).filter(|id| *id != status.asked);
    let mut nodes = vec![status.asked];
    nodes.extend(others);
    if nodes.len() < count as usize {
        let message = format!(
            "{count} replicas need as many nodes, and {} are there: see `weir cluster status`",
            nodes.len()
        );
        return Err(Failure::new(Exit::Refused, message));
    }
    nodes.truncate(count as usize);
    Ok(nodes)
}

async fn status(client: &Client) -> Result<ClusterStatus, Failure> {
    let status = client.admin().cluster().await;
    status.map_err(|error| sdk::request_failure("asking for the cluster", &error))
}

/// Puts the only partition of a topic on these nodes, and waits until the first leads and all are
/// in sync. Returns how long that took.
async fn place(client: &Client, topic: &str, nodes: &[NodeId]) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let asked = client.admin().reassign(topic, 0, nodes).await;
    asked.map_err(|error| sdk::request_failure("moving copies", &error))?;
    let there = |row: &&ReplicasInfo| {
        row.topic == topic
            && row.target.is_empty()
            && row.replicas == nodes
            && row.leader == nodes.first().copied()
            && row.insync.len() == nodes.len()
    };
    while !status(client).await?.partitions.iter().any(|row| there(&row)) {
        if begun.elapsed() > PATIENCE {
            let message = format!("the copies of `{topic}` did not move in {PATIENCE:?}");
            return Err(Failure::new(Exit::Error, message));
        }
        // sleep: nothing tells when a move has ended.
        sleep(LOOK_AGAIN).await;
    }
    Ok(begun.elapsed())
}

/// One record under way at a time, against one sync of as many bytes.
async fn acknowledged(
    target: &Target,
    clients: &[Client],
    topic: &str,
    report: &mut Report,
) -> Result<(), Failure> {
    let shape =
        Shape { batch: 1, in_flight: 1, producers: 1, records: Some(ONE_BY_ONE), ..shape() };
    let bytes = shape.record_size;
    let raw = baseline::raw(target.scratch(), bytes, ONE_BY_ONE * bytes as u64).await?;
    let sync = raw.percentile(0.5).as_secs_f64() * 1e3;
    let load = produce::plan(&shape, topic.to_owned(), 0);
    let produced = load::run(&clients[..1], &load).await?;
    report.ack_ms = produced.acks.percentiles();
    report.more.push("raw_fdatasync_p50_ms", round(sync));
    let ack = report.ack_ms.map(|ack| ack.p50);
    report.expect("ack p50, ms", Bound::AtMost(2.0 * sync + 2.0), ack);
    Ok(())
}

/// How long nothing is acknowledged while the lead goes from one node to the next.
async fn moved(
    client: &Client,
    topic: &str,
    nodes: &[NodeId],
    moves: u32,
    report: &mut Report,
) -> Result<(), Failure> {
    if nodes.len() < 2 || moves == 0 {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Error, error.to_string());
    let producer = client.producer().linger(Duration::ZERO).build().await;
    let producer = producer.map_err(|error| failed(&error))?;
    let mut gaps = Latencies::default();
    let mut longest = Duration::ZERO;
    for number in 1..=moves as usize {
        let mut order = nodes.to_vec();
        order.rotate_left(number % nodes.len());
        let mut asked = None;
        let mut gap = Duration::ZERO;
        let mut last = Instant::now();
        let mut after = 0;
        let mut sent = 0;
        while after < AROUND_A_MOVE {
            if sent == AROUND_A_MOVE {
                let (client, topic, order) = (client.clone(), topic.to_owned(), order.clone());
                asked = Some(tokio::spawn(async move { place(&client, &topic, &order).await }));
            }
            let delivery = producer.send(ProducerRecord::new(topic, "moved")).await;
            delivery.map_err(|error| failed(&error))?.await.map_err(|error| failed(&error))?;
            gap = gap.max(last.elapsed());
            last = Instant::now();
            sent += 1;
            after += usize::from(asked.as_ref().is_some_and(tokio::task::JoinHandle::is_finished));
        }
        if let Some(asked) = asked {
            asked.await.map_err(|error| failed(&error))??;
        }
        gaps.record(gap);
        longest = longest.max(gap);
    }
    producer.close().await.map_err(|error| failed(&error))?;
    let gap = gaps.percentiles();
    report.more.push("moves", json!(moves));
    report.more.push("move_gap_p50_ms", gap.map_or(json!(null), |gap| round(gap.p50)));
    report.more.push("move_gap_longest_ms", round(longest.as_secs_f64() * 1e3));
    report.expect("move, ms without ack", Bound::AtMost(50.0), gap.map(|gap| gap.p50));
    Ok(())
}

/// How fast an empty copy gets what the only other one has.
async fn caught_up(
    target: &Target,
    client: &Client,
    (topic, bytes): (&str, u64),
    (from, to): (NodeId, NodeId),
    report: &mut Report,
) -> Result<(), Failure> {
    let disk = baseline::raw(target.scratch(), RAW_SYNC_BYTES, bytes).await?.bytes_per_s() / 1e6;
    let network = baseline::quinn(bytes, MIB, Direction::ToClient).await?;
    let took = place(client, topic, &[from, to]).await?;
    let rate = bytes as f64 / 1e6 / took.as_secs_f64();
    report.more.push("catch_up_mb", round(bytes as f64 / 1e6));
    report.more.push("catch_up_mb_per_s", round(rate));
    report.more.push("quinn_mb_per_s", round(network));
    report.expect(
        "catch-up, of disk or network",
        Bound::AtLeast(0.7),
        Some(rate / disk.min(network)),
    );
    Ok(())
}

/// One producer of 1 KiB records.
fn shape() -> Shape {
    Shape {
        record_size: 1_024,
        batch: 1,
        partitions: 1,
        producers: 1,
        in_flight: 1,
        rate: None,
        records: None,
        duration: None,
        compression: Default::default(),
        per_record: false,
    }
}
