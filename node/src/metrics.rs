//! Metrics in the Prometheus text exposition format, version 0.0.4, made from the node's status.
//!
//! Names follow the Prometheus conventions: base units, `_total` for counters. `docs/metrics.md`
//! lists them.

use crate::http::NodeHealth;
use std::fmt::{Display, Write};
use weir_core::wire::cluster::{FollowerInfo, ReplicasInfo};
use weir_core::wire::deployments::{DeploymentStatus, LaneCondition, LaneInfo};
use weir_core::wire::message::{
    CheckStatus, FilterStatus, NodeStatus, PartitionStatus, ShardStatus,
};

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Clock ticks per second in `/proc/self/stat`: fixed at 100 in the kernel's interface to
/// programs (proc(5), `USER_HZ`).
const TICKS_PER_S: f64 = 100.0;

/// All metrics as text. Without a status (the node starts or stops) only those of the process.
pub fn render(health: &NodeHealth, status: Option<&NodeStatus>) -> String {
    let mut text = Text::default();
    text.gauge("weir_ready", "1 if the node takes requests.").sample(&[], u8::from(health.ready));
    text.gauge("weir_healthy", "1 if every shard takes appends.")
        .sample(&[], u8::from(health.healthy));
    text.gauge("weir_problems", "What is wrong with the node, see /health.")
        .sample(&[], health.problems.len());
    process(&mut text);
    if let Some(status) = status {
        node(&mut text, status);
        shards(&mut text, &status.shards);
        partitions(&mut text, &status.partitions);
        filters(&mut text, &status.filters);
        checks(&mut text, &status.checks);
        deployments(&mut text, &status.deployments);
        replicas(&mut text, &status.replicas);
    }
    text.0
}

fn node(text: &mut Text, status: &NodeStatus) {
    let labels: &[(&str, &dyn Display)] =
        &[("node", &status.node), ("cluster", &status.cluster), ("version", &status.software)];
    text.gauge("weir_info", "Who the node is; always 1.").sample(labels, 1);
    text.gauge("weir_uptime_seconds", "Time since the node began to serve.")
        .sample(&[], status.uptime_ms as f64 / 1000.0);
    text.gauge("weir_warnings", "Conditions that a person should know of, see `weir status`.")
        .sample(&[], status.warnings.len());
    text.gauge("weir_connections", "Open QUIC connections.").sample(&[], status.connections);
    text.gauge("weir_subscriptions", "Open subscriptions.").sample(&[], status.subscriptions);
    text.gauge("weir_subscriptions_parked", "Subscriptions whose subscribers do not read.")
        .sample(&[], status.subscriptions_parked);
    text.gauge("weir_slow_bytes", "Bytes of batches that wait for subscribers that do not read.")
        .sample(&[], status.slow_bytes);
    text.gauge("weir_produce_streams", "Open produce streams.").sample(&[], status.producers);
    text.family(
        "counter",
        "weir_appends_held_total",
        "Appends that waited for others to share their commit.",
    )
    .sample(&[], status.appends_held);
    text.gauge("process_resident_memory_bytes", "Memory of the process that is resident.")
        .sample(&[], status.rss_bytes);
}

fn filters(text: &mut Text, filters: &[FilterStatus]) {
    let mut each = |name, help, value: fn(&FilterStatus) -> f64| {
        let mut family = text.family("counter", name, help);
        for filter in filters {
            family.sample(&[("module", &filter.module)], value(filter));
        }
    };
    each("weir_filter_records_total", "Records that filters were asked about.", |f| {
        f.records as f64
    });
    each("weir_filter_kept_records_total", "Records that filters kept.", |f| f.kept as f64);
    each("weir_filter_failed_records_total", "Records that filters could not judge.", |f| {
        f.failed as f64
    });
    each("weir_filter_cpu_seconds_total", "CPU time of filters.", |f| f.cpu_us as f64 / 1e6);
}

fn checks(text: &mut Text, checks: &[CheckStatus]) {
    let mut each = |name, help, value: fn(&CheckStatus) -> f64| {
        let mut family = text.family("counter", name, help);
        for check in checks {
            family.sample(&[("topic", &check.topic), ("module", &check.module)], value(check));
        }
    };
    each("weir_check_batches_total", "Produced batches that checks were given.", |c| {
        c.batches as f64
    });
    each("weir_check_refused_batches_total", "Batches refused for rejected records.", |c| {
        c.refused as f64
    });
    each("weir_check_failed_batches_total", "Batches refused because the check failed.", |c| {
        c.failed as f64
    });
    each("weir_check_records_total", "Records that checks judged.", |c| c.records as f64);
    each("weir_check_rejected_records_total", "Records that checks rejected.", |c| {
        c.rejected as f64
    });
    each("weir_check_rewritten_records_total", "Records of rewritten batches.", |c| {
        c.rewritten as f64
    });
    each("weir_check_cpu_seconds_total", "CPU time of checks.", |c| c.cpu_us as f64 / 1e6);
}

fn shards(text: &mut Text, shards: &[ShardStatus]) {
    let mut each = |kind, name, help, value: fn(&ShardStatus) -> f64| {
        let mut family = text.family(kind, name, help);
        for shard in shards {
            family.sample(&[("shard", &shard.shard)], value(shard));
        }
    };
    let (gauge, counter) = ("gauge", "counter");
    each(gauge, "weir_shard_online", "1 if the shard takes appends.", |s| {
        f64::from(u8::from(s.state == "online"))
    });
    each(gauge, "weir_shard_files", "Files of the shard.", |s| f64::from(s.files));
    each(gauge, "weir_shard_disk_bytes", "Bytes of those files.", |s| s.disk_bytes as f64);
    each(counter, "weir_shard_written_bytes_total", "Bytes written to disk.", |s| {
        s.written_bytes as f64
    });
    each(counter, "weir_shard_appended_bytes_total", "Bytes of entries appended.", |s| {
        s.appended_bytes as f64
    });
    each(counter, "weir_shard_commits_total", "Commits, each with one sync.", |s| s.commits as f64);
    let mut family =
        text.gauge("weir_shard_commit_seconds", "Time of a commit of late, by quantile.");
    for shard in shards {
        for (quantile, us) in [("0.5", shard.commit_p50_us), ("0.99", shard.commit_p99_us)] {
            let labels: &[(&str, &dyn Display)] =
                &[("shard", &shard.shard), ("quantile", &quantile)];
            family.sample(labels, us as f64 / 1e6);
        }
    }
}

fn partitions(text: &mut Text, partitions: &[PartitionStatus]) {
    let mut each = |kind, name, help, value: fn(&PartitionStatus) -> f64| {
        let mut family = text.family(kind, name, help);
        for p in partitions {
            family.sample(&[("topic", &p.topic), ("partition", &p.partition)], value(p));
        }
    };
    let (gauge, counter) = ("gauge", "counter");
    each(gauge, "weir_partition_online", "1 if the partition takes appends.", |p| {
        f64::from(u8::from(p.online))
    });
    each(gauge, "weir_partition_log_start_offset", "First retained offset.", |p| {
        p.log_start.0 as f64
    });
    each(gauge, "weir_partition_high_watermark", "End of what consumers may see.", |p| {
        p.high_watermark.0 as f64
    });
    each(gauge, "weir_partition_log_end_offset", "End of the log.", |p| p.log_end.0 as f64);
    each(gauge, "weir_partition_bytes", "Bytes retained.", |p| p.bytes as f64);
    each(gauge, "weir_partition_subscriptions", "Open subscriptions.", |p| {
        f64::from(p.subscriptions)
    });
    each(counter, "weir_partition_records_in_total", "Records appended.", |p| p.records_in as f64);
    each(counter, "weir_partition_bytes_in_total", "Bytes of batches appended.", |p| {
        p.bytes_in as f64
    });
    each(counter, "weir_partition_bytes_out_total", "Bytes of batches sent to consumers.", |p| {
        p.bytes_out as f64
    });
}

fn deployments(text: &mut Text, deployments: &[DeploymentStatus]) {
    let mut each = |kind, name, help, value: fn(&LaneInfo) -> f64| {
        let mut family = text.family(kind, name, help);
        for DeploymentStatus { name, partitions } in deployments {
            for lane in partitions {
                let labels: &[(&str, &dyn Display)] =
                    &[("deployment", name), ("partition", &lane.partition)];
                family.sample(labels, value(lane));
            }
        }
    };
    let (gauge, counter) = ("gauge", "counter");
    each(gauge, "weir_deployment_running", "1 if the module works or waits for input.", |l| {
        f64::from(u8::from(l.state == LaneCondition::Running))
    });
    each(gauge, "weir_deployment_lag_records", "Inputs not worked on yet.", |l| l.lag as f64);
    each(gauge, "weir_deployment_undelivered_records", "Parts in the outbox.", |l| {
        l.undelivered as f64
    });
    each(gauge, "weir_deployment_state_bytes", "Keyed state.", |l| l.state_bytes as f64);
    each(gauge, "weir_deployment_memory_bytes", "Memory of the module.", |l| l.memory_bytes as f64);
    each(counter, "weir_deployment_records_in_total", "Inputs.", |l| l.records_in as f64);
    each(counter, "weir_deployment_records_out_total", "Outputs.", |l| l.records_out as f64);
    each(counter, "weir_deployment_errors_total", "Inputs that failed.", |l| l.errors as f64);
    each(counter, "weir_deployment_dead_letters_total", "Inputs set aside.", |l| {
        l.dead_letters as f64
    });
    each(counter, "weir_deployment_cpu_seconds_total", "CPU time of the module.", |l| {
        l.cpu_us as f64 / 1e6
    });
    each(counter, "weir_deployment_throttled_seconds_total", "Time over the CPU budget.", |l| {
        l.throttled_us as f64 / 1e6
    });
    each(counter, "weir_deployment_log_lines_lost_total", "Not in the log topic.", |l| {
        l.log_lines_lost as f64
    });
    each(counter, "weir_deployment_http_requests_total", "Requests over HTTP.", |l| {
        l.http_requests as f64
    });
    each(counter, "weir_deployment_http_failures_total", "Those without a response.", |l| {
        l.http_failures as f64
    });
    each(counter, "weir_deployment_http_wait_seconds_total", "Time waited for responses.", |l| {
        l.http_wait_us as f64 / 1e6
    });
}

/// CPU time, start and open files of this process, where the system tells (Linux).
fn replicas(text: &mut Text, led: &[ReplicasInfo]) {
    let short = led.iter().filter(|row| row.insync.len() < row.replicas.len()).count();
    text.gauge("weir_underreplicated_partitions", "Partitions led here that lack in-sync copies.")
        .sample(&[], short);
    let mut insync = text.gauge("weir_partition_insync_replicas", "Copies in sync, its own too.");
    for row in led {
        insync.sample(&[("topic", &row.topic), ("partition", &row.partition)], row.insync.len());
    }
    let mut each = |name, help, value: fn(&FollowerInfo) -> Option<f64>| {
        let mut family = text.gauge(name, help);
        for (row, follower) in led.iter().flat_map(|r| r.followers.iter().map(move |f| (r, f))) {
            let labels: &[(&str, &dyn Display)] = &[
                ("topic", &row.topic),
                ("partition", &row.partition),
                ("follower", &follower.node),
            ];
            if let Some(value) = value(follower) {
                family.sample(labels, value);
            }
        }
    };
    each("weir_replica_lag_records", "Records that a follower lacks.", |f| Some(f.lag? as f64));
    each("weir_replica_lag_bytes", "Bytes that they take.", |f| Some(f.lag_bytes? as f64));
    each("weir_replica_lag_seconds", "How long ago a follower had everything.", |f| {
        Some(f.behind_ms as f64 / 1e3)
    });
}

fn process(text: &mut Text) {
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().and_then(cpu_seconds) {
        text.family("counter", "process_cpu_seconds_total", "User and system CPU time.")
            .sample(&[], seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open files and sockets.").sample(&[], files.count());
    }
}

/// User plus system time: fields 14 and 15 of proc(5) stat. The command's name, field 2, is in
/// parentheses and may hold anything.
fn cpu_seconds(stat: String) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_S)
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family("gauge", name, help)
    }

    fn family(&mut self, kind: &str, name: &'static str, help: &str) -> Family<'_> {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.0, name }
    }
}

struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.text.push_str(self.name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escape(&value.to_string()));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::ids::NodeId;
    use weir_core::{LeaderEpoch, Offset, PartitionIndex};

    fn status() -> NodeStatus {
        NodeStatus {
            node: "a\"b\\c\nd".into(),
            uptime_ms: 1_500,
            shards: vec![ShardStatus {
                state: "online".into(),
                commits: 7,
                commit_p50_us: 250,
                ..ShardStatus::default()
            }],
            partitions: vec![PartitionStatus {
                topic: "gps.raw".into(),
                partition: PartitionIndex(3),
                epoch: LeaderEpoch(1),
                online: true,
                log_start: Offset(5),
                high_watermark: Offset(12_345_678_901),
                log_end: Offset(12_345_678_902),
                bytes: 1,
                records_in: 2,
                bytes_in: 3,
                bytes_out: 4,
                records_in_per_s: 0,
                bytes_in_per_s: 0,
                bytes_out_per_s: 0,
                subscriptions: 0,
                led_by: None,
            }],
            replicas: vec![ReplicasInfo {
                topic: "gps.raw".into(),
                replicas: vec![NodeId(1), NodeId(2)],
                insync: vec![NodeId(1)],
                followers: vec![FollowerInfo {
                    node: NodeId(2),
                    lag: Some(7),
                    lag_bytes: Some(900),
                    behind_ms: 2_500,
                }],
                ..ReplicasInfo::default()
            }],
            ..NodeStatus::default()
        }
    }

    #[test]
    fn samples() {
        let health = NodeHealth { state: "serving", ready: true, healthy: true, problems: vec![] };
        let text = render(&health, Some(&status()));
        for line in [
            "weir_ready 1",
            "weir_uptime_seconds 1.5",
            r#"weir_info{node="a\"b\\c\nd",cluster="",version=""} 1"#,
            r#"weir_shard_commits_total{shard="0"} 7"#,
            r#"weir_shard_commit_seconds{shard="0",quantile="0.5"} 0.00025"#,
            r#"weir_partition_high_watermark{topic="gps.raw",partition="3"} 12345678901"#,
            r#"weir_partition_log_start_offset{topic="gps.raw",partition="3"} 5"#,
            "weir_underreplicated_partitions 1",
            r#"weir_partition_insync_replicas{topic="gps.raw",partition="0"} 1"#,
            r#"weir_replica_lag_bytes{topic="gps.raw",partition="0",follower="2"} 900"#,
            r#"weir_replica_lag_seconds{topic="gps.raw",partition="0",follower="2"} 2.5"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    /// Goal: the text is well formed: each family announced once, before its samples, and nothing
    /// but comments and samples.
    #[test]
    fn format() {
        let health = NodeHealth { state: "serving", ready: true, healthy: true, problems: vec![] };
        let text = render(&health, Some(&status()));
        let mut announced: Vec<&str> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(matches!(kind, "gauge" | "counter"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(!announced.contains(&name), "{name} twice");
                announced.push(name);
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(announced.last(), Some(&name), "{line}");
                let value = line.rsplit_once(' ').unwrap().1;
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    /// Goal: every metric is documented with its kind, and every documented one is there.
    #[test]
    fn documented() {
        let health = NodeHealth { state: "serving", ready: true, healthy: true, problems: vec![] };
        let text = render(&health, Some(&status()));
        let mut printed: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| format!("| `{name}` | {kind} |"))
            .collect();
        let page = include_str!("../../docs/metrics.md");
        let start_of_row = |line: &str| {
            let mut cells = line.splitn(4, '|');
            cells.next()?;
            Some(format!("|{}|{}|", cells.next()?, cells.next()?))
        };
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let mut documented: Vec<String> = rows.filter_map(start_of_row).collect();
        printed.sort();
        documented.sort();
        // Those of the process are there on Linux only.
        let everywhere = |row: &String| cfg!(target_os = "linux") || !row.contains("process_");
        printed.retain(everywhere);
        documented.retain(everywhere);
        assert_eq!(printed, documented);
    }

    #[test]
    fn cpu_time_of_a_process_with_an_odd_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 3";
        assert_eq!(cpu_seconds(stat.into()), Some(2.0));
        assert_eq!(cpu_seconds("7 (a".into()), None);
    }
}
