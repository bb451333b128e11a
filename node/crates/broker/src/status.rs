//! What the node says of itself.

use crate::broker::Shared;
use crate::modules::meter::{CheckMeter, FilterMeter};
use crate::session::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use weir_core::access::Role;
use weir_core::deploy::is_internal;
use weir_core::wire::WireError;
use weir_core::wire::message::{
    CheckStatus, FilterStatus, NodeStatus, PartitionStatus, ShardStatus,
};
use weir_log::{ShardState, ShardStats};

/// Whether a node can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes appends on every shard.
    pub ready: bool,
    /// What a person should look at, in words; empty if all is well.
    pub problems: Vec<String>,
}

/// The node's health.
#[must_use]
pub fn health(shared: &Shared) -> Health {
    let shards = shared.log.shard_stats();
    let ready = shards.iter().all(|s| s.state == ShardState::Online) && shared.fatal().is_none();
    Health { ready, problems: warnings(shared, &shards) }
}

/// The whole status, every partition included.
#[must_use]
pub fn of_node(shared: &Shared) -> NodeStatus {
    let shards = shared.log.shard_stats();
    NodeStatus {
        node: shared.config.node_name.clone(),
        software: shared.software.clone(),
        cluster: shared.cluster.clone(),
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        node_time: shared.now(),
        warnings: warnings(shared, &shards),
        connections: shared.counts.connections.load(Ordering::Relaxed) as u32,
        subscriptions: shared.counts.subscriptions.load(Ordering::Relaxed) as u32,
        subscriptions_parked: shared.counts.parked.load(Ordering::Relaxed) as u32,
        slow_bytes: slow_bytes(shared),
        producers: shared.counts.producers.load(Ordering::Relaxed) as u32,
        appends_held: shared.pace().held(),
        rss_bytes: resident_bytes(),
        shards: shards.iter().map(shard).collect(),
        partitions: partitions(shared),
        filters: filters(shared),
        deployments: shared.deployments.status(shared),
        checks: checks(shared),
        replicas: crate::cluster::status::led(shared),
    }
}

fn filters(shared: &Shared) -> Vec<FilterStatus> {
    let of = |(module, meter): (String, Arc<FilterMeter>)| FilterStatus {
        module,
        records: meter.records.load(Ordering::Relaxed),
        kept: meter.kept.load(Ordering::Relaxed),
        failed: meter.failed.load(Ordering::Relaxed),
        cpu_us: meter.cpu_ns.load(Ordering::Relaxed) / 1_000,
    };
    shared.modules.meters().all().into_iter().map(of).collect()
}

fn checks(shared: &Shared) -> Vec<CheckStatus> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let of = |((topic, module), meter): ((String, String), Arc<CheckMeter>)| CheckStatus {
        topic,
        module,
        records: count(&meter.records),
        rejected: count(&meter.rejected),
        rewritten: count(&meter.rewritten),
        batches: count(&meter.batches),
        refused: count(&meter.refused),
        failed: count(&meter.failed),
        cpu_us: count(&meter.cpu_ns) / 1_000,
    };
    shared.modules.meters().checks().into_iter().map(of).collect()
}

/// The part of a status that a client may see: the node's own figures are for whoever may do
/// anything at all, each partition for whoever may use its topic.
///
/// # Errors
/// [`weir_core::wire::ErrorCode::Unauthorized`] for clients without any right.
pub fn visible_to(session: &Session, mut status: NodeStatus) -> Result<NodeStatus, WireError> {
    let access = &session.shared.config.access;
    let may = |role, topic: Option<&str>| access.allows(session.principal(), role, topic);
    if !may(Role::Produce, None) && !may(Role::Consume, None) {
        session.authorize(Role::Consume, None)?;
    }
    let may_use = |topic: &str| may(Role::Consume, Some(topic)) || may(Role::Produce, Some(topic));
    status.partitions.retain(|p| may_use(&p.topic));
    status.checks.retain(|check| may_use(&check.topic));
    status.replicas.retain(|row| may_use(&row.topic));
    Ok(status)
}

fn partitions(shared: &Shared) -> Vec<PartitionStatus> {
    let now = Instant::now();
    let mut all: Vec<PartitionStatus> = shared
        .registry
        .partitions()
        .iter()
        .filter(|partition| !is_internal(&partition.topic_name))
        .map(|partition| {
            let figures = partition.figures();
            let rates = partition.meter.rates(now);
            PartitionStatus {
                topic: partition.topic_name.to_string(),
                partition: partition.index,
                epoch: figures.epoch,
                online: figures.online,
                log_start: figures.log_start,
                high_watermark: figures.high_watermark,
                log_end: figures.log_end,
                bytes: shared.log.stats(partition.id).map_or(0, |s| s.bytes),
                records_in: partition.meter.records_in.load(Ordering::Relaxed),
                bytes_in: partition.meter.bytes_in.load(Ordering::Relaxed),
                bytes_out: partition.meter.bytes_out.load(Ordering::Relaxed),
                records_in_per_s: rates.records_in.round() as u64,
                bytes_in_per_s: rates.bytes_in.round() as u64,
                bytes_out_per_s: rates.bytes_out.round() as u64,
                subscriptions: partition.meter.subscriptions.load(Ordering::Relaxed),
                led_by: shared.site.as_ref().and_then(|site| site.route(partition)),
            }
        })
        .collect();
    all.sort_unstable_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    all
}

fn slow_bytes(shared: &Shared) -> u64 {
    let free = shared.slow_budget.available_permits();
    shared.config.slow_budget_bytes.saturating_sub(free) as u64
}

fn shard(stats: &ShardStats) -> ShardStatus {
    let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    ShardStatus {
        shard: stats.shard,
        state: match &stats.state {
            ShardState::Online => "online".to_owned(),
            ShardState::Offline { reason } => format!("offline: {reason}"),
            ShardState::DiskFull => "disk full".to_owned(),
        },
        files: u32::try_from(stats.files).unwrap_or(u32::MAX),
        disk_bytes: stats.bytes_on_disk,
        written_bytes: stats.bytes_written,
        appended_bytes: stats.payload_bytes,
        commits: stats.commits,
        commit_p50_us: micros(stats.commit_latency.p50),
        commit_p99_us: micros(stats.commit_latency.p99),
    }
}

fn warnings(shared: &Shared, shards: &[ShardStats]) -> Vec<String> {
    let mut warnings = shared.warnings.clone();
    if let Some(reason) = shared.fatal() {
        warnings.push(format!("a shard stays offline until the node is restarted: {reason}"));
    }
    if let Some(site) = &shared.site {
        if site.leading_controller().is_none() {
            warnings.push(
                "no leading controller is known: without a majority of the cluster's nodes topics \
                 cannot be changed, and leaders not replaced"
                    .to_owned(),
            );
        }
        for partition in shared.partitions() {
            if let Some(why) = partition.halted() {
                let (topic, index) = (&partition.topic_name, partition.index);
                warnings.push(format!("the copy of {topic}/{index} takes no part: {why}"));
            }
        }
    }
    if shared.clock.is_behind() {
        warnings.push(
            "the machine's clock is behind the build date or the newest record: set it".to_owned(),
        );
    }
    for stats in shards {
        let shard = stats.shard;
        match &stats.state {
            ShardState::Online => {}
            ShardState::Offline { reason } => warnings.push(format!(
                "shard {shard} takes no appends: {reason}; if that does not end by itself, stop \
                 the node and run `weir repair`, which says what is lost"
            )),
            ShardState::DiskFull => warnings.push(format!(
                "shard {shard} takes no appends: the disk is nearly full; make room or shorten \
                 retention"
            )),
        }
        if stats.clock_suspended {
            warnings.push(format!(
                "shard {shard} drops nothing by age: the clock stepped forward by more than an \
                 hour, so the age of records is not known; confirm the time if it is right"
            ));
        }
        for file in &stats.quarantined {
            warnings.push(format!("shard {shard}: {file} cannot be read; its offsets are offline"));
        }
    }
    warnings
}

/// Bytes of this process resident in memory; 0 where the system does not say.
fn resident_bytes() -> u64 {
    // The second field of statm: resident pages.
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
