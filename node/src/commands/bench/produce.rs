//! `weir bench produce`: durable produce over QUIC, against what disk and network allow.
//!
//! Each round measures the raw disk, a bare QUIC stream and the node, one right after the other,
//! so that a machine whose speed drifts does not distort the ratio. The first round warms up page
//! cache and files and is dropped. `records_per_s_scaled` is the ratio to the limit, taken to the
//! machine on which the goals were set.

use serde_json::json;
use weir_client::Client;
use weir_core::limits::MIB;
use weir_transport::bench::Direction;

use super::args::{ProduceArgs, Shape};
use super::baseline::{self, composite_limit};
use super::load::{self, Load, Produced, Until};
use super::report::{Bound, Figures, Report, map, round};
use super::target::{self, Target};
use crate::commands::figures::{Latencies, median};
use crate::exit::Failure;

/// Bytes per sync of the raw disk.
const RAW_SYNC_BYTES: usize = MIB;
/// Syncs of one batch's bytes to compare an acknowledgement with.
const RAW_SYNCS: u64 = 300;
/// The machine on whose scale the goal for small records is: its raw disk and its bare QUIC
/// stream, in 10⁶ bytes per second.
const REFERENCE: (f64, f64) = (1_700.0, 1_937.0);

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
    let mut raw_syncs = Vec::new();
    let (mut sum, mut acks) = (Produced::default(), Latencies::default());
    for number in 0..=args.rounds {
        let mut round = Round { raw: 0.0, quinn: 0.0, weir: 0.0 };
        if args.compare {
            let raw = baseline::raw(target.scratch(), RAW_SYNC_BYTES, total).await?;
            round.raw = raw.bytes_per_s() / 1e6;
            if is_one_by_one(&args.shape) {
                let bytes = args.shape.record_size.max(1);
                let raw = baseline::raw(target.scratch(), bytes, RAW_SYNCS * bytes as u64).await?;
                raw_syncs.push(raw.percentile(0.5).as_secs_f64() * 1e3);
            }
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
        add_goals(&mut report, &args.shape, median(&raw_syncs));
    }
    report.rows = rounds.iter().enumerate().map(|(n, round)| row(n, round, args.compare)).collect();
    Ok(report)
}

/// One record under way at a time: what counts is how soon it is acknowledged.
fn is_one_by_one(shape: &Shape) -> bool {
    (shape.producers, shape.in_flight, shape.batch) == (1, 1, 1)
}

/// The goals that hold for this shape. `raw_sync_ms`: one record appended to the raw disk.
fn add_goals(report: &mut Report, shape: &Shape, raw_sync_ms: Option<f64>) {
    let scale = composite_limit(REFERENCE.0, REFERENCE.1) * 1e6 / shape.record_size.max(1) as f64;
    let scaled = report.ratio_to_limit.map(|ratio| ratio * scale);
    if is_one_by_one(shape) {
        let ack = report.ack_ms.map(|ack| ack.p50);
        if let Some(raw) = raw_sync_ms {
            report.more.push("raw_fdatasync_p50_ms", round(raw));
            report.expect("ack p50, ms", Bound::AtMost(1.3 * raw + 0.3), ack);
        }
        return;
    }
    report.more.push("records_per_s_scaled", scaled.map_or(json!(null), round));
    if shape.batch >= 500 {
        match shape.record_size {
            ..=200 => report.expect("records per second, scaled", Bound::AtLeast(1.5e6), scaled),
            _ => report.expect("ratio to limit", Bound::AtLeast(0.7), report.ratio_to_limit),
        }
    }
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
    fn goals_follow_the_shape() {
        let shape = |record_size, batch, in_flight| Shape {
            record_size,
            batch,
            in_flight,
            partitions: 1,
            producers: 1,
            rate: None,
            records: None,
            duration: None,
            compression: Default::default(),
            per_record: false,
        };
        let goals = |shape: &Shape| {
            let mut report = Report { ratio_to_limit: Some(0.5), ..Report::default() };
            add_goals(&mut report, shape, Some(0.1));
            report.goals.iter().map(|goal| (goal.figure, goal.met)).collect::<Vec<_>>()
        };
        assert_eq!(goals(&shape(1_024, 1_000, 5)), [("ratio to limit", false)]);
        assert_eq!(goals(&shape(100, 1_000, 5)), [("records per second, scaled", true)]);
        assert_eq!(goals(&shape(100, 10, 5)), []);
        assert_eq!(goals(&shape(1_024, 1, 1)), [], "no acknowledgement was measured");
    }

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
