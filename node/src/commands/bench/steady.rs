//! `weir bench steady` and `weir bench idle`: what a node costs that has little or nothing to do.

use std::time::{Duration, Instant};

use serde_json::json;
use weir_client::Client;
use weir_core::record::Compression;
use weir_core::wire::message::NodeStatus;

use super::args::{IdleArgs, SteadyArgs};
use super::load::{self, Load, Produced, Until};
use super::produce;
use super::report::{Bound, Report, map, round};
use super::target::{self, Target};
use crate::exit::Failure;

/// How long the node may settle before it is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// Producers that send a record now and then.
///
/// # Errors
/// The node fails.
pub async fn steady(target: &mut Target, args: &SteadyArgs) -> Result<Report, Failure> {
    let clients = produce::clients(target, args.producers).await?;
    let topic = target.create_topic(&clients[0], args.partitions).await?;
    let load = Load {
        topic: topic.clone(),
        partitions: args.partitions,
        record_bytes: args.record_size,
        batch_records: 1,
        producers: args.producers,
        in_flight: 5,
        until: Until::Time(args.duration.0),
        rate: Some(args.rate),
        compression: Compression::None,
        per_record: true,
    };
    // Connections and the first writes are not what is measured.
    let warm_up = Load { until: Until::Time(SETTLE), ..load.clone() };
    load::run(&clients, &warm_up).await?;
    let spell = spell(target, &clients, &load).await?;
    target.delete_topic(&clients[0], &topic).await?;
    produce::close(clients).await;

    let settings = map([
        ("producers", json!(args.producers)),
        ("rate", json!(args.rate)),
        ("record_bytes", json!(args.record_size)),
    ]);
    let produced = &spell.produced;
    let mut report = Report::new("steady", settings);
    report.records = Some(produced.records);
    report.records_per_s = Some(produced.records_per_s());
    report.ack_ms = produced.acks.percentiles();
    report.node_cpu_percent = spell.cpu_percent;
    report.node_rss_mib = Some(target::rss_mib(&spell.after));
    let per = |count: u64, of: u64| count as f64 / of.max(1) as f64;
    report.bytes_written_per_payload_byte = Some(per(spell.written, produced.bytes));
    report.more = map([
        ("bytes_written_per_record", round(per(spell.written, produced.records))),
        ("commits_per_record", round(per(spell.commits, produced.records))),
        ("held_of_all_appends", round(per(spell.held, produced.records))),
    ]);
    if (args.producers, args.rate) == (50, 200.0) {
        report.expect("CPU of the node, % of a core", Bound::AtMost(3.0), spell.cpu_percent);
    }
    Ok(report)
}

/// What a node did while producers were at work.
#[derive(Clone, Debug)]
pub struct Spell {
    /// What was acknowledged.
    pub produced: Produced,
    /// CPU time of the node, in percent of one core, if it is our own.
    pub cpu_percent: Option<f64>,
    /// Bytes that the node wrote to its files.
    pub written: u64,
    /// Bytes that its files' pages sent to the device, if it is our own and the system tells.
    pub to_device: Option<u64>,
    /// Commits of the node's log.
    pub commits: u64,
    /// Appends that waited for others.
    pub held: u64,
    /// What the node says of itself afterwards.
    pub after: NodeStatus,
}

/// Runs `load` and watches the node.
///
/// # Errors
/// The node fails.
pub async fn spell(target: &Target, clients: &[Client], load: &Load) -> Result<Spell, Failure> {
    let before = target::status(&clients[0]).await?;
    let (cpu_before, device_before) = (target.cpu(), target.device_bytes());
    let started = Instant::now();
    let produced = load::run(clients, load).await?;
    let (cpu_after, elapsed) = (target.cpu(), started.elapsed());
    let to_device = target.device_bytes().zip(device_before).map(|(after, before)| after - before);
    let after = target::status(&clients[0]).await?;
    let commits = |status: &NodeStatus| status.shards.iter().map(|s| s.commits).sum::<u64>();
    Ok(Spell {
        produced,
        cpu_percent: cpu_percent(cpu_before, cpu_after, elapsed),
        written: target::written_bytes(&after) - target::written_bytes(&before),
        to_device,
        commits: commits(&after) - commits(&before),
        held: after.appends_held - before.appends_held,
        after,
    })
}

/// A node without work: fresh, and with partitions that nobody uses.
///
/// # Errors
/// The node fails.
pub async fn idle(target: &mut Target, args: &IdleArgs) -> Result<Report, Failure> {
    let client = target.client().await?;
    let empty = rest(target, &client, args.duration.0).await?;
    let topic = target.create_topic(&client, args.partitions).await?;
    let full = rest(target, &client, args.duration.0).await?;
    target.delete_topic(&client, &topic).await?;
    client.close().await;

    let mut report = Report::new("idle", map([("partitions", json!(args.partitions))]));
    report.node_rss_mib = Some(empty.rss_mib);
    report.node_cpu_percent = empty.cpu_percent;
    report.more = map([
        ("rss_mib_with_partitions", round(full.rss_mib)),
        ("rss_mib_of_partitions", round(full.rss_mib - empty.rss_mib)),
        ("cpu_percent_with_partitions", full.cpu_percent.map_or(json!(null), round)),
    ]);
    if let Some(time) = target.started_in() {
        report.more.extend(map([("start_to_serving_ms", round(time.as_secs_f64() * 1e3))]));
    }
    let start_ms = target.started_in().map(|time| time.as_secs_f64() * 1e3);
    report.expect("memory of the node, MiB", Bound::AtMost(30.0), Some(empty.rss_mib));
    report.expect("CPU of the node, % of a core", Bound::AtMost(0.1), empty.cpu_percent);
    let of_partitions = Some(full.rss_mib - empty.rss_mib);
    report.expect("memory of partitions, MiB", Bound::AtMost(10.0), of_partitions);
    report.expect("start to serving, ms", Bound::AtMost(100.0), start_ms);
    Ok(report)
}

struct Rest {
    rss_mib: f64,
    cpu_percent: Option<f64>,
}

async fn rest(target: &Target, client: &Client, span: Duration) -> Result<Rest, Failure> {
    tokio::time::sleep(SETTLE).await;
    let (before, started) = (target.cpu(), Instant::now());
    tokio::time::sleep(span).await;
    let cpu_percent = cpu_percent(before, target.cpu(), started.elapsed());
    let rss_mib = target::rss_mib(&target::status(client).await?);
    Ok(Rest { rss_mib, cpu_percent })
}

fn cpu_percent(
    before: Option<Duration>,
    after: Option<Duration>,
    elapsed: Duration,
) -> Option<f64> {
    let used = after?.saturating_sub(before?);
    Some(used.as_secs_f64() / elapsed.as_secs_f64() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_of_a_core() {
        let s = Duration::from_secs;
        assert_eq!(cpu_percent(Some(s(1)), Some(s(2)), s(10)), Some(10.0));
        assert_eq!(cpu_percent(None, Some(s(2)), s(10)), None);
    }
}
