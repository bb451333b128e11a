//! `weir bench e2e`: one record at a time, from the producer to the disk and to a consumer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::time::sleep_until;
use weir_client::{Client, ProducerRecord};
use weir_core::wire::message::StartAt;

use super::args::E2eArgs;
use super::baseline;
use super::payload::Payload;
use super::report::{Bound, Figures, Report, map, round};
use super::target::{self, Target};
use crate::commands::figures::{self, Latencies, Percentiles};
use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// Syncs of the raw disk to compare with.
const RAW_SYNCS: u64 = 500;
/// A record carries the time of sending in its first bytes: ns since the bench's start.
const STAMP_BYTES: usize = 8;
/// Longest wait for the last records.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Measures.
///
/// # Errors
/// The node fails.
pub async fn run(target: &mut Target, args: &E2eArgs) -> Result<Report, Failure> {
    let record_bytes = args.record_size.max(STAMP_BYTES);
    let raw_bytes = RAW_SYNCS * record_bytes as u64;
    let raw = baseline::raw(target.scratch(), record_bytes, raw_bytes).await?;
    let client = target.client().await?;
    let topic = target.create_topic(&client, 1).await?;
    let base = Instant::now();
    let count = (args.rate * args.duration.0.as_secs_f64()).max(1.0) as u64;
    let consumer = start_consumer(&client, &topic, base, count).await?;
    let (acks, elapsed) = produce(&client, &topic, args, base, count).await?;
    let arrived = tokio::time::timeout(DRAIN_MAX, consumer)
        .await
        .map_err(|_| Failure::new(Exit::Error, "the consumer did not see all records"))?
        .map_err(|error| Failure::new(Exit::Error, error.to_string()))??;
    let status = target::status(&client).await?;
    target.delete_topic(&client, &topic).await?;
    client.close().await;

    let mut report = Report::new(
        "e2e",
        map([("record_bytes", json!(record_bytes)), ("rate", json!(args.rate))]),
    );
    let (ack, latency) = (acks.percentiles(), arrived.percentiles());
    report.records = Some(count);
    report.records_per_s = Some(figures::rate(count, elapsed));
    report.mb_per_s = Some(figures::rate(count * record_bytes as u64, elapsed) / 1e6);
    report.ack_ms = ack;
    report.latency_ms = latency;
    report.node_rss_mib = Some(target::rss_mib(&status));
    let raw_ms = raw.percentile(0.5).as_secs_f64() * 1e3;
    report.more = compare(raw_ms, ack, latency);
    report.expect("ack p50, ms", Bound::AtMost(ack_goal_ms(raw_ms)), ack.map(|ack| ack.p50));
    let delay = ack.zip(latency).map(|(ack, latency)| latency.p50 - ack.p50);
    report.expect("arrival after the ack, ms", Bound::AtMost(1.0), delay);
    Ok(report)
}

/// The goal: within 1.3 of one raw fdatasync, and 0.3 ms.
fn ack_goal_ms(raw_ms: f64) -> f64 {
    1.3 * raw_ms + 0.3
}

/// The figures that the goals speak of.
fn compare(raw_ms: f64, ack: Option<Percentiles>, latency: Option<Percentiles>) -> Figures {
    let mut more = map([("raw_fdatasync_p50_ms", round(raw_ms))]);
    if let Some(ack) = ack {
        more.extend(map([("ack_p50_goal_ms", round(ack_goal_ms(raw_ms)))]));
        if let Some(latency) = latency {
            more.extend(map([("tail_delay_p50_ms", round(latency.p50 - ack.p50))]));
        }
    }
    more
}

/// Sends one record after the other, each once the one before is acknowledged and it is due. Also
/// returns how long that took.
async fn produce(
    client: &Client,
    topic: &str,
    args: &E2eArgs,
    base: Instant,
    count: u64,
) -> Result<(Latencies, Duration), Failure> {
    let producer = client
        .producer()
        .build()
        .await
        .map_err(|error| sdk::request_failure("starting to produce", &error))?;
    let payload = Payload::new(args.record_size.max(STAMP_BYTES));
    let mut acks = Latencies::default();
    let started = Instant::now();
    for n in 0..count {
        let due = started + Duration::from_secs_f64(n as f64 / args.rate);
        if due > Instant::now() {
            sleep_until(due.into()).await;
        }
        let sent_at = Instant::now();
        let mut value = payload.slice(n).to_vec();
        let stamp = sent_at.duration_since(base).as_nanos() as u64;
        value[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
        let record = ProducerRecord::new(topic, Bytes::from(value)).with_partition(0);
        let delivery = producer.send(record).await.map_err(|error| sdk::send_failure(&error))?;
        delivery.await.map_err(|error| sdk::delivery_failure(&error))?;
        acks.record(sent_at.elapsed());
    }
    let elapsed = started.elapsed();
    producer.close().await.map_err(|error| sdk::delivery_failure(&error.first))?;
    Ok((acks, elapsed))
}

type Arrivals = tokio::task::JoinHandle<Result<Latencies, Failure>>;

/// Counts how long each of `count` records was under way.
async fn start_consumer(
    client: &Client,
    topic: &str,
    base: Instant,
    count: u64,
) -> Result<Arrivals, Failure> {
    let mut consumer = client.consumer().build();
    let assigned = consumer.assign(&[(topic, 0, StartAt::Earliest)]).await;
    assigned.map_err(|error| sdk::assign_failure(&error))?;
    Ok(tokio::spawn(async move {
        let mut arrived = Latencies::default();
        let mut seen = 0;
        while seen < count {
            let batch = consumer.next_batch().await;
            let Some(batch) = batch.map_err(|error| sdk::consume_failure(&error))? else { break };
            let now = base.elapsed();
            for record in batch.records() {
                seen += 1;
                if let Some(stamp) = record.value.and_then(|value| value.first_chunk()) {
                    let sent = Duration::from_nanos(u64::from_le_bytes(*stamp));
                    arrived.record(now.saturating_sub(sent));
                }
            }
        }
        // Without a group there is nothing to store.
        let _ = consumer.close().await;
        Ok(arrived)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_next_to_the_figures() {
        let at = |p50| Percentiles { p50, p99: 1.0, p999: 1.0, max: 1.0, count: 1 };
        let more = compare(0.2, Some(at(0.5)), Some(at(0.75)));
        assert_eq!(more.get("ack_p50_goal_ms"), &json!(0.56));
        assert_eq!(more.get("tail_delay_p50_ms"), &json!(0.25));
        assert!(compare(0.2, None, None).get("ack_p50_goal_ms").is_null());
    }
}
