//! `weir bench produce`: durable produce over QUIC, against what disk and network allow.
//!
//! Each round measures the raw disk, a bare QUIC stream and the node, one right after the other,
//! so that a machine whose speed drifts does not distort the ratio. The first round warms up page
//! cache and files and is dropped.

use serde_json::json;
use weir_client::Client;
use weir_core::limits::MIB;
use weir_transport::bench::Direction;

use super::args::{ProduceArgs, Shape};
use super::baseline::{self, composite_limit};
use super::load::{self, Load, Produced, Until};
use super::report::{Figures, Report, map, round};
use super::target::{self, Target};
use crate::commands::figures::{Latencies, median};
use crate::exit::Failure;

/// Bytes per sync of the raw disk.
const RAW_SYNC_BYTES: usize = MIB;

/// One round's figures, in 10⁶ bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Round {
    raw: f64,
    quinn: f64,
    weir: f64,
}

impl Round {
    fn limit(&self) -> f64 {
        composite_limit(self.raw, self.quinn)
    }
}

/// Measures.
///
/// # Errors
/// The node, the disk or the network failed.
pub async fn run(target: &mut Target, args: &ProduceArgs) -> Result<Report, Failure> {
    let clients = clients(target, args.shape.producers).await?;
    let topic = target.create_topic(&clients[0], args.shape.partitions).await?;
    let before = target::status(&clients[0]).await?;
    let total = args.round_mib * MIB as u64;
    let load = plan(&args.shape, topic.clone(), total);
    let mut rounds = Vec::new();
    let (mut sum, mut acks) = (Produced::default(), Latencies::default());
    for number in 0..=args.rounds {
        let mut round = Round { raw: 0.0, quinn: 0.0, weir: 0.0 };
        if args.compare {
            let raw = baseline::raw(target.scratch(), RAW_SYNC_BYTES, total).await?;
            round.raw = raw.bytes_per_s() / 1e6;
            round.quinn = baseline::quinn(total, MIB, Direction::ToNode).await?;
        }
        let produced = load::run(&clients, &load).await?;
        round.weir = produced.mb_per_s();
        sum.records += produced.records;
        sum.bytes += produced.bytes;
        if number > 0 {
            acks.merge(&produced.acks);
            rounds.push(round);
        }
    }
    let after = target::status(&clients[0]).await?;
    let written = target::written_bytes(&after) - target::written_bytes(&before);
    target.delete_topic(&clients[0], &topic).await?;
    close(clients).await;
    let weir = median_of(&rounds, |round| round.weir);
    let mut report = Report::new("produce", settings(&args.shape));
    report.records = Some(sum.records);
    report.mb_per_s = weir;
    report.records_per_s = weir.map(|mb| mb * 1e6 / args.shape.record_size.max(1) as f64);
    report.ack_ms = acks.percentiles();
    report.bytes_written_per_payload_byte = Some(written as f64 / sum.bytes.max(1) as f64);
    report.node_rss_mib = Some(target::rss_mib(&after));
    if args.compare {
        report.raw_mb_per_s = median_of(&rounds, |round| round.raw);
        report.quinn_mb_per_s = median_of(&rounds, |round| round.quinn);
        report.ratio_to_raw = median_of(&rounds, |round| round.weir / round.raw);
        report.ratio_to_limit = median_of(&rounds, |round| round.weir / round.limit());
        report.more = map([("limit_mb_per_s", limit_of(&rounds))]);
    }
    report.rows = rounds.iter().enumerate().map(|(n, round)| row(n, round, args.compare)).collect();
    Ok(report)
}

fn limit_of(rounds: &[Round]) -> serde_json::Value {
    median_of(rounds, Round::limit).map_or(serde_json::Value::Null, round)
}

fn median_of(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Option<f64> {
    median(&rounds.iter().map(figure).collect::<Vec<_>>())
}

fn row(n: usize, of: &Round, compare: bool) -> Figures {
    let mut row = map([("round", json!(n + 1)), ("weir_mb_per_s", round(of.weir))]);
    if compare {
        row.extend(map([
            ("raw_mb_per_s", round(of.raw)),
            ("quinn_mb_per_s", round(of.quinn)),
            ("ratio_to_limit", round(of.weir / of.limit())),
        ]));
    }
    row
}

/// So many clients, each with a connection of its own.
///
/// # Errors
/// There is no connection.
pub async fn clients(target: &Target, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(target.client().await?);
    }
    Ok(clients)
}

/// Closes them all.
pub async fn close(clients: Vec<Client>) {
    for client in clients {
        client.close().await;
    }
}

/// What producers do to move `total` bytes of values, or for the time asked for.
pub fn plan(shape: &Shape, topic: String, total: u64) -> Load {
    let records = shape.records.unwrap_or(total.div_ceil(shape.record_size.max(1) as u64));
    Load {
        topic,
        partitions: shape.partitions,
        record_bytes: shape.record_size,
        batch_records: shape.batch,
        producers: shape.producers,
        in_flight: shape.in_flight,
        until: shape.duration.map_or(Until::Records(records), |span| Until::Time(span.0)),
        rate: shape.rate,
        compression: shape.compression,
        per_record: shape.per_record,
    }
}

/// What was asked for, for the report.
pub fn settings(shape: &Shape) -> Figures {
    map([
        ("record_bytes", json!(shape.record_size)),
        ("batch_records", json!(shape.batch)),
        ("partitions", json!(shape.partitions)),
        ("producers", json!(shape.producers)),
        ("in_flight", json!(shape.in_flight)),
        ("compression", json!(shape.compression.name())),
        ("per_record", json!(shape.per_record)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_medians_of_rounds() {
        let round = |raw, quinn, weir| Round { raw, quinn, weir };
        let rounds =
            [round(100.0, 100.0, 40.0), round(1_000.0, 1_000.0, 450.0), round(10.0, 10.0, 1.0)];
        assert_eq!(median_of(&rounds, |r| r.weir / r.limit()), Some(0.8));
        assert_eq!(limit_of(&rounds), json!(50.0));
        assert_eq!(row(0, &rounds[0], true).get("ratio_to_limit"), &json!(0.8));
        assert!(row(0, &rounds[0], false).get("ratio_to_limit").is_null());
    }
}
