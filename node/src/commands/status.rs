//! `weir status`: what a node is doing, one line a partition.

use super::figures::{per_second, thousands};
use super::sdk;
use crate::cli::Globals;
use crate::connect;
use crate::exit::{CommandResult, Failure};
use crate::output::{self, Table};
use crate::units::{Span, human_bytes};
use weir_client::Client;
use weir_core::wire::message::NodeStatus;

/// Arguments of `weir status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir status
  weir status --topic gps. --watch       again every two seconds, topics that begin with gps.
  weir status --json --watch 10s         one JSON object a line every ten seconds
  weir status --confirm-time             the node's clock is right: go on dropping by age")]
pub struct Args {
    /// Only topics whose names begin so
    #[arg(long, value_name = "PREFIX")]
    topic: Option<String>,
    /// Again and again, until Ctrl-C
    #[arg(long, short, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<Span>,
    /// Tell the node that its clock is right, after it has stepped: retention by age goes on
    #[arg(long, conflicts_with = "watch")]
    confirm_time: bool,
}

/// From this uptime on, what was written since the start says something about a day.
const WEAR_AFTER_MS: u64 = 10 * 60 * 1000;

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    if args.confirm_time {
        let confirmed = client.admin().confirm_time().await;
        confirmed.map_err(|error| sdk::request_failure("confirming the time", &error))?;
        client.close().await;
        if globals.json {
            return output::print_json(&serde_json::json!({ "time_confirmed": true }));
        }
        output::note(false, "confirmed: retention by age goes on");
        return Ok(());
    }
    let shown = match args.watch {
        None => show(&client, globals, &args, false).await,
        Some(every) => {
            let look = async |clear| show(&client, globals, &args, clear).await;
            sdk::watch(every.0, globals, look).await
        }
    };
    client.close().await;
    shown
}

async fn show(client: &Client, globals: &Globals, args: &Args, clear: bool) -> CommandResult {
    let status = client.admin().status().await;
    let mut status: NodeStatus = status
        .map_err(|error| -> Failure { sdk::request_failure("reading the status", &error) })?;
    if let Some(prefix) = &args.topic {
        status.partitions.retain(|partition| partition.topic.starts_with(prefix));
    }
    if globals.json {
        return output::print_json(&status);
    }
    // Home, text, and then the rest of the screen: without flicker.
    let text = render(&status);
    output::print(&if clear { format!("\x1b[H\x1b[2J{text}") } else { text })
}

fn render(status: &NodeStatus) -> String {
    let uptime = Span::from_ms(status.uptime_ms / 1000 * 1000);
    let mut text = format!(
        "node {} ({}), cluster {}, up {uptime}, {} resident\n{} connections, {} subscriptions, {} \
         produce streams\n",
        status.node,
        status.software,
        status.cluster,
        human_bytes(status.rss_bytes),
        status.connections,
        status.subscriptions,
        status.producers
    );
    for warning in &status.warnings {
        text += &format!("! {warning}\n");
    }
    text += "\n";
    text += &shards(status).render();
    text += "\n";
    if status.partitions.is_empty() {
        text += "no partitions\n";
    } else {
        text += &partitions(status).render();
    }
    if !status.filters.is_empty() {
        text += "\n";
        text += &filters(status).render();
    }
    if !status.checks.is_empty() {
        text += "\n";
        text += &checks(status).render();
    }
    text
}

fn checks(status: &NodeStatus) -> Table {
    let columns = ["CHECK", "TOPIC", ">RECORDS", ">REJECTED", ">REWRITTEN", ">FAILED", ">CPU"];
    let mut table = Table::new(&columns);
    for check in &status.checks {
        table.row([
            check.module.clone(),
            check.topic.clone(),
            thousands(check.records),
            thousands(check.rejected),
            thousands(check.rewritten),
            thousands(check.failed),
            format!("{:.2} s", check.cpu_us as f64 / 1e6),
        ]);
    }
    table
}

fn filters(status: &NodeStatus) -> Table {
    let mut table = Table::new(&["FILTER", ">RECORDS", ">KEPT", ">FAILED", ">CPU"]);
    for filter in &status.filters {
        table.row([
            filter.module.clone(),
            thousands(filter.records),
            thousands(filter.kept),
            thousands(filter.failed),
            format!("{:.2} s", filter.cpu_us as f64 / 1e6),
        ]);
    }
    table
}

fn shards(status: &NodeStatus) -> Table {
    let mut table = Table::new(&[
        ">SHARD",
        "STATE",
        ">FILES",
        ">ON DISK",
        ">APPENDED",
        ">WRITTEN",
        ">PER BYTE",
        ">WRITTEN/DAY",
        ">COMMITS",
        ">P50",
        ">P99",
    ]);
    for shard in &status.shards {
        let ratio = shard.written_bytes as f64 / shard.appended_bytes.max(1) as f64;
        let per_byte = (shard.appended_bytes > 0).then(|| format!("{ratio:.2}"));
        let days = status.uptime_ms as f64 / 86_400_000.0;
        let per_day = (status.uptime_ms >= WEAR_AFTER_MS)
            .then(|| human_bytes((shard.written_bytes as f64 / days) as u64));
        table.row([
            shard.shard.to_string(),
            shard.state.clone(),
            shard.files.to_string(),
            human_bytes(shard.disk_bytes),
            human_bytes(shard.appended_bytes),
            human_bytes(shard.written_bytes),
            per_byte.unwrap_or_else(|| "-".to_owned()),
            per_day.unwrap_or_else(|| "-".to_owned()),
            thousands(shard.commits),
            milliseconds(shard.commit_p50_us),
            milliseconds(shard.commit_p99_us),
        ]);
    }
    table
}

fn milliseconds(us: u64) -> String {
    if us == 0 { "-".to_owned() } else { super::figures::milliseconds(us as f64 / 1000.0) }
}

fn partitions(status: &NodeStatus) -> Table {
    let mut table = Table::new(&[
        "TOPIC",
        ">PARTITION",
        ">LOG START",
        ">HIGH WATERMARK",
        ">END",
        ">BYTES",
        ">RECORDS/S",
        ">IN/S",
        ">OUT/S",
        ">READERS",
        "STATE",
    ]);
    for p in &status.partitions {
        table.row([
            p.topic.clone(),
            p.partition.to_string(),
            p.log_start.to_string(),
            p.high_watermark.to_string(),
            p.log_end.to_string(),
            human_bytes(p.bytes),
            per_second(p.records_in_per_s as f64),
            human_bytes(p.bytes_in_per_s),
            human_bytes(p.bytes_out_per_s),
            p.subscriptions.to_string(),
            match p.led_by {
                Some(node) => format!("led by node {node}"),
                None => if p.online { "online" } else { "offline" }.to_owned(),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::wire::message::{PartitionStatus, ShardStatus};
    use weir_core::{LeaderEpoch, Offset, PartitionIndex};

    /// Goal: one line a partition, with the figures that the issue of a slow consumer or a full
    /// disk is found by; warnings stand out.
    #[test]
    fn a_status_in_text() {
        let status = NodeStatus {
            node: "edge-1".into(),
            uptime_ms: 86_400_999,
            warnings: vec!["the clock is behind".into()],
            shards: vec![ShardStatus {
                state: "online".into(),
                written_bytes: 3 << 20,
                appended_bytes: 2 << 20,
                ..ShardStatus::default()
            }],
            partitions: vec![PartitionStatus {
                topic: "gps".into(),
                partition: PartitionIndex(2),
                epoch: LeaderEpoch(3),
                online: true,
                log_start: Offset(10),
                high_watermark: Offset(110),
                log_end: Offset(111),
                bytes: 5 << 20,
                records_in: 0,
                bytes_in: 0,
                bytes_out: 0,
                records_in_per_s: 1_500,
                bytes_in_per_s: 2_048,
                bytes_out_per_s: 0,
                subscriptions: 4,
                led_by: None,
            }],
            ..NodeStatus::default()
        };
        let text = render(&status);
        assert!(text.contains("up 1d,"), "{text}");
        assert!(text.contains("\n! the clock is behind\n"), "{text}");
        assert!(text.contains("1.50"), "written per byte\n{text}");
        let line = text.lines().find(|line| line.starts_with("gps")).unwrap();
        for figure in [" 10 ", " 110 ", " 111 ", "5.00 MiB", "1.50 k", "2.00 KiB", " 4 ", "online"]
        {
            assert!(line.contains(figure), "{figure}: {line}");
        }
    }
}
