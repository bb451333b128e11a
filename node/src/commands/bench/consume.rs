//! `weir bench consume`: one consumer, against what a bare QUIC stream moves.
//!
//! Two cases: records that the node still has in memory, and records that it must read from its
//! files (which are in the page cache, having just been written). Each is read in two ways: to
//! batches, and to records, each of which is looked at. All of it goes over one connection that
//! was read over before, and so does the bare stream, so that nobody pays for a slow start. The
//! rounds take turns.

use std::time::{Duration, Instant};

use serde_json::json;
use weir_client::{Client, Consumer};
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
    /// From seeking to the start to the last record, of all passes.
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

/// How far a consumer looks into what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// At batches, which the SDK has checked.
    Batches,
    /// At each record.
    Records,
}

/// One consumer that reads a topic from its start to its end, again and again.
#[derive(Debug)]
pub struct Reading<'a> {
    consumer: Consumer,
    topic: &'a str,
    shape: &'a Shape,
    assigned: bool,
}

impl<'a> Reading<'a> {
    /// A consumer of `topic`, which holds records of this shape.
    pub fn open(client: &Client, topic: &'a str, shape: &'a Shape) -> Reading<'a> {
        let consumer = client.consumer().until_end(true).build();
        Reading { consumer, topic, shape, assigned: false }
    }

    /// Reads the topic `times` times over.
    ///
    /// # Errors
    /// The node fails.
    pub async fn read(&mut self, to: To, times: u32) -> Result<Consumed, Failure> {
        let mut consumed = Consumed::default();
        let started = Instant::now();
        for _ in 0..times {
            self.begin().await?;
            while let Some(batch) =
                self.consumer.next_batch().await.map_err(|error| sdk::consume_failure(&error))?
            {
                if to == To::Batches {
                    consumed.records += batch.len() as u64;
                    consumed.bytes += (batch.len() * self.shape.record_size) as u64;
                    continue;
                }
                for record in batch.records() {
                    consumed.records += 1;
                    consumed.bytes += record.value.map_or(0, <[u8]>::len) as u64;
                }
            }
        }
        consumed.elapsed = started.elapsed();
        Ok(consumed)
    }

    /// Goes to the start of every partition, over the connection that there is.
    async fn begin(&mut self) -> Result<(), Failure> {
        let failure = |error| sdk::assign_failure(&error);
        let partitions = 0..self.shape.partitions;
        if !std::mem::replace(&mut self.assigned, true) {
            let all: Vec<_> = partitions.map(|p| (self.topic, p, StartAt::Earliest)).collect();
            return self.consumer.assign(&all).await.map_err(failure);
        }
        for partition in partitions {
            self.consumer.seek(self.topic, partition, StartAt::Earliest).map_err(failure)?;
        }
        Ok(())
    }

    /// Ends.
    pub async fn close(self) {
        // Without a group there is nothing to store.
        let _ = self.consumer.close().await;
    }
}

/// What one round measured.
#[derive(Clone, Copy, Debug)]
struct Round {
    batches: Consumed,
    records: Consumed,
    quinn: f64,
}

/// Measures.
///
/// # Errors
/// The node or the network failed.
pub async fn run(target: &mut Target, args: &ConsumeArgs) -> Result<Report, Failure> {
    let client = target.client().await?;
    let total = args.total_mib * MIB as u64;
    let mut report = Report::new("consume", settings(&args.shape));
    let mut first_ratio = None;
    for (case, bytes) in [("memory", MEMORY_BYTES.min(total)), ("files", total)] {
        let rounds = measure(target, &client, args, bytes).await?;
        let of = |value: &dyn Fn(&Round) -> f64| {
            median(&rounds.iter().map(value).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let quinn = of(&|round| round.quinn);
        for to in [To::Batches, To::Records] {
            let pick = |round: &Round| match to {
                To::Batches => round.batches,
                To::Records => round.records,
            };
            let mb_per_s = of(&|round| pick(round).mb_per_s());
            let records_per_s = of(&|round| pick(round).records_per_s());
            let ratio = of(&|round| pick(round).mb_per_s() / round.quinn);
            // Batches from memory are the headline; all four are in the rows.
            report.mb_per_s.get_or_insert(mb_per_s);
            report.records_per_s.get_or_insert(records_per_s);
            report.quinn_mb_per_s.get_or_insert(quinn);
            first_ratio.get_or_insert(ratio);
            report.rows.push(map([
                ("from", json!(case)),
                ("to", json!(if to == To::Batches { "batches" } else { "records" })),
                ("mb", json!(bytes / 1_000_000)),
                ("weir_mb_per_s", round(mb_per_s)),
                ("quinn_mb_per_s", round(quinn)),
                ("ratio_to_limit", round(ratio)),
                ("records_per_s", round(records_per_s)),
            ]));
        }
    }
    report.ratio_to_limit = first_ratio;
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
) -> Result<Vec<Round>, Failure> {
    let topic = target.create_topic(client, args.shape.partitions).await?;
    fill(target, &args.shape, &topic, bytes).await?;
    // Short reads would measure how fast subscriptions are opened.
    let times = u32::try_from((args.total_mib * MIB as u64).div_ceil(bytes)).unwrap_or(1);
    let mut reading = Reading::open(client, &topic, &args.shape);
    let mut rounds = Vec::new();
    for number in 0..=args.rounds {
        let moved = bytes * u64::from(times);
        let round = Round {
            batches: reading.read(To::Batches, times).await?,
            quinn: baseline::warm_quinn(moved, MIB, Direction::ToClient).await?,
            records: reading.read(To::Records, times).await?,
        };
        if number > 0 {
            rounds.push(round);
        }
    }
    reading.close().await;
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
