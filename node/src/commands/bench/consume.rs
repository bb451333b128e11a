//! `weir bench consume`: one consumer, against what a bare QUIC stream moves.
//!
//! Two cases: records that the node still has in memory, and records that it must read from its
//! files (which are in the page cache, having just been written).

use std::time::{Duration, Instant};

use serde_json::json;
use weir_client::Client;
use weir_core::limits::{MIB, TAIL_CACHE_BYTES};
use weir_core::wire::message::StartAt;
use weir_transport::bench::Direction;

use super::args::{ConsumeArgs, Shape};
use super::load::{self, Until};
use super::produce::{plan, settings};
use super::report::{Report, map, round};
use super::target::{self, Target};
use super::{baseline, produce};
use crate::commands::figures::median;
use crate::commands::sdk;
use crate::exit::Failure;

/// What is produced for the case "memory": with envelopes it stays below the node's cache.
const MEMORY_BYTES: u64 = (TAIL_CACHE_BYTES / 4 * 3) as u64;

/// What one consumer got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumed {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// From subscribing to the last record.
    pub elapsed: Duration,
}

impl Consumed {
    /// 10⁶ bytes of values per second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    /// Records per second.
    pub fn records_per_s(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }
}

/// Reads a topic from its start to its end, `times` times over, looking at each record.
///
/// # Errors
/// The node fails.
pub async fn read_all(
    client: &Client,
    topic: &str,
    partitions: u32,
    times: u32,
) -> Result<Consumed, Failure> {
    let mut consumed = Consumed::default();
    for _ in 0..times {
        let mut consumer = client.consumer().until_end(true).build();
        let all: Vec<_> = (0..partitions).map(|p| (topic, p, StartAt::Earliest)).collect();
        let started = Instant::now();
        consumer.assign(&all).await.map_err(|error| sdk::assign_failure(&error))?;
        while let Some(batch) =
            consumer.next_batch().await.map_err(|error| sdk::consume_failure(&error))?
        {
            for record in batch.records() {
                consumed.records += 1;
                consumed.bytes += record.value.map_or(0, <[u8]>::len) as u64;
            }
        }
        consumed.elapsed += started.elapsed();
        // Without a group there is nothing to store.
        let _ = consumer.close().await;
    }
    Ok(consumed)
}

/// Measures.
///
/// # Errors
/// The node or the network failed.
pub async fn run(target: &mut Target, args: &ConsumeArgs) -> Result<Report, Failure> {
    let client = target.client().await?;
    let total = args.total_mib * MIB as u64;
    let mut report = Report::new("consume", settings(&args.shape));
    let mut ratios = Vec::new();
    for (case, bytes) in [("memory", MEMORY_BYTES.min(total)), ("files", total)] {
        let measured = measure(target, &client, args, bytes).await?;
        let weir = median(&measured.iter().map(|(c, _)| c.mb_per_s()).collect::<Vec<_>>());
        let records = median(&measured.iter().map(|(c, _)| c.records_per_s()).collect::<Vec<_>>());
        let quinn = median(&measured.iter().map(|(_, quinn)| *quinn).collect::<Vec<_>>());
        let ratio: Vec<f64> = measured.iter().map(|(c, quinn)| c.mb_per_s() / quinn).collect();
        let ratio = median(&ratio);
        // The memory case is the headline; both are in the rows.
        report.mb_per_s = report.mb_per_s.or(weir);
        report.records_per_s = report.records_per_s.or(records);
        report.quinn_mb_per_s = report.quinn_mb_per_s.or(quinn);
        ratios.extend(ratio);
        report.rows.push(map([
            ("from", json!(case)),
            ("mb", json!(bytes / 1_000_000)),
            ("weir_mb_per_s", round(weir.unwrap_or(0.0))),
            ("quinn_mb_per_s", round(quinn.unwrap_or(0.0))),
            ("ratio_to_limit", round(ratio.unwrap_or(0.0))),
            ("records_per_s", round(records.unwrap_or(0.0))),
        ]));
    }
    report.ratio_to_limit = ratios.first().copied();
    report.node_rss_mib = Some(target::rss_mib(&target::status(&client).await?));
    client.close().await;
    Ok(report)
}

/// Produces so many bytes and reads them in rounds, next to a bare stream of as many. The first
/// round is dropped.
async fn measure(
    target: &mut Target,
    client: &Client,
    args: &ConsumeArgs,
    bytes: u64,
) -> Result<Vec<(Consumed, f64)>, Failure> {
    let topic = target.create_topic(client, args.shape.partitions).await?;
    fill(target, &args.shape, &topic, bytes).await?;
    // Short reads would measure how fast subscriptions are opened.
    let times = u32::try_from((args.total_mib * MIB as u64).div_ceil(bytes)).unwrap_or(1);
    let mut rounds = Vec::new();
    for number in 0..=args.rounds {
        let moved = bytes * u64::from(times);
        let quinn = baseline::quinn(moved, MIB, Direction::ToClient).await?;
        let consumed = read_all(client, &topic, args.shape.partitions, times).await?;
        if number > 0 {
            rounds.push((consumed, quinn));
        }
    }
    target.delete_topic(client, &topic).await?;
    Ok(rounds)
}

/// Produces so many bytes of values to a topic.
///
/// # Errors
/// The node fails.
pub async fn fill(
    target: &Target,
    shape: &Shape,
    topic: &str,
    bytes: u64,
) -> Result<load::Produced, Failure> {
    let clients = produce::clients(target, 1).await?;
    let mut load = plan(shape, topic.to_owned(), bytes);
    load.until = Until::Records(bytes.div_ceil(shape.record_size.max(1) as u64));
    load.rate = None;
    load.producers = 1;
    let produced = load::run(&clients, &load).await?;
    produce::close(clients).await;
    Ok(produced)
}
