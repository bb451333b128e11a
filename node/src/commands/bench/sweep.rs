//! `weir bench sweep`: throughput by records per batch, so that a stall at some size shows.

use serde_json::json;
use weir_core::limits::MIB;

use super::args::SweepArgs;
use super::load::{self, Until};
use super::report::{Report, map, round};
use super::target::{self, Target};
use super::{consume, produce};
use crate::exit::Failure;

/// Records per batch.
const BATCHES: [usize; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
/// Most batches of one case: small ones are acknowledged one sync at a time.
const BATCHES_MAX: u64 = 2_000;

/// Most times that a case is read: those of small batches hold few bytes.
const PASSES_MAX: u32 = 32;

/// Measures.
///
/// # Errors
/// The node fails.
pub async fn run(target: &mut Target, args: &SweepArgs) -> Result<Report, Failure> {
    let mut shape = args.shape.clone();
    let settings = map([
        ("record_bytes", json!(shape.record_size)),
        ("in_flight", json!(shape.in_flight)),
        ("partitions", json!(shape.partitions)),
    ]);
    let mut report = Report::new("sweep", settings);
    let client = target.client().await?;
    for batch in BATCHES {
        shape.batch = batch;
        let topic = target.create_topic(&client, shape.partitions).await?;
        let mut load = produce::plan(&shape, topic.clone(), 0);
        let records = records_of(batch, shape.record_size, args.case_mib * MIB as u64);
        load.until = Until::Records(records);
        load.producers = 1;
        let produced = load::run(std::slice::from_ref(&client), &load).await?;
        let times = u32::try_from((args.case_mib * MIB as u64).div_ceil(produced.bytes.max(1)));
        let mut reading = consume::Reading::open(&client, &topic, &shape);
        // The first pass warms the connection up.
        reading.read(consume::To::Batches, 1).await?;
        let times = times.unwrap_or(1).min(PASSES_MAX);
        let consumed = reading.read(consume::To::Batches, times).await?;
        reading.close().await;
        let ack = produced.acks.percentiles().unwrap_or_default();
        report.rows.push(map([
            ("batch", json!(batch)),
            ("produce_records_per_s", round(produced.records_per_s())),
            ("produce_mb_per_s", round(produced.mb_per_s())),
            ("ack_p50_ms", round(ack.p50)),
            ("ack_p99_ms", round(ack.p99)),
            ("consume_records_per_s", round(consumed.records_per_s())),
            ("consume_mb_per_s", round(consumed.mb_per_s())),
        ]));
        target.delete_topic(&client, &topic).await?;
    }
    report.node_rss_mib = Some(target::rss_mib(&target::status(&client).await?));
    client.close().await;
    Ok(report)
}

/// Records of a case: so many bytes, but not too many batches.
fn records_of(batch: usize, record_bytes: usize, bytes: u64) -> u64 {
    let by_bytes = bytes / record_bytes.max(1) as u64;
    by_bytes.min(BATCHES_MAX * batch as u64).max(batch as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_bounded_both_ways() {
        assert_eq!(records_of(1, 1_000, 1_000_000_000), BATCHES_MAX);
        assert_eq!(records_of(10_000, 1_000, 64_000_000), 64_000);
        assert_eq!(records_of(10_000, 100_000, 1_000), 10_000);
    }
}
