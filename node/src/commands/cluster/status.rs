//! `weir cluster status`: nodes, copies, and how far copies are from having everything.

use super::list;
use crate::cli::Globals;
use crate::commands::figures::thousands;
use crate::commands::sdk;
use crate::connect;
use crate::exit::CommandResult;
use crate::output::{self, Table};
use crate::units::{Span, human_bytes};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use weir_client::Client;
use weir_core::PartitionIndex;
use weir_core::ids::NodeId;
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus, FollowerInfo, ReplicasInfo};

/// Arguments of `weir cluster status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster status
  weir cluster status --watch            again every two seconds, with the speed of those behind
  weir cluster status --json
  weir --server 10.0.0.2:7447 cluster status

Any node of the cluster can be asked. An in-sync replica has everything that was acknowledged, so a
partition survives the loss of all its other replicas. LAG is what a replica that the leader hears
of has yet to store: records, bytes and for how long; with --watch also when it will be done.")]
pub struct Args {
    /// Again and again, until Ctrl-C
    #[arg(long, short, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<Span>,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let mut speeds = Speeds::default();
    let shown = match args.watch {
        None => show(&client, globals, &mut speeds, false).await,
        Some(every) => {
            sdk::watch(every.0, globals, async |clear| {
                show(&client, globals, &mut speeds, clear).await
            })
            .await
        }
    };
    client.close().await;
    shown
}

async fn show(
    client: &Client,
    globals: &Globals,
    speeds: &mut Speeds,
    clear: bool,
) -> CommandResult {
    let status = client.admin().cluster().await;
    let status =
        status.map_err(|error| sdk::request_failure("asking for the cluster's status", &error))?;
    if globals.json {
        return output::print_json(&status);
    }
    speeds.note(&status, Instant::now());
    let text = render(&status, speeds);
    output::print(&if clear { format!("\x1b[H\x1b[2J{text}") } else { text })?;
    for id in &status.silent {
        let message = format!("node {id} did not answer: what it leads is shown without ends");
        output::note(false, &message);
    }
    Ok(())
}

fn render(status: &ClusterStatus, speeds: &Speeds) -> String {
    let controller = status.controller.map_or("none known".to_owned(), |id| format!("node {id}"));
    let columns =
        ["TOPIC", ">PARTITION", ">LEADER", ">EPOCH", "REPLICAS", "IN SYNC", ">END", "LAG"];
    let mut table = Table::new(&columns);
    for row in &status.partitions {
        let enough = row.insync.len() >= row.min_insync as usize;
        let insync = list(&row.insync);
        table.row([
            row.topic.clone(),
            row.partition.to_string(),
            row.leader.map_or("none".to_owned(), |id| id.to_string()),
            row.epoch.to_string(),
            replicas(row),
            if enough { insync } else { format!("{insync} of {} needed", row.min_insync) },
            row.log_end.map_or("?".to_owned(), |end| end.to_string()),
            lag(row, speeds),
        ]);
    }
    format!(
        "cluster {}, leading controller: {controller}, {} changes decided\n\n{}\n{}",
        status.cluster,
        thousands(status.version),
        nodes(&status.nodes).render(),
        table.render()
    )
}

fn nodes(nodes: &[ClusterNodeInfo]) -> Table {
    let columns = [">NODE", "NAME", "ADDRESS", "RACK", "VOTES", "STATE", ">LEADS", ">REPLICAS"];
    let mut table = Table::new(&columns);
    for node in nodes {
        let state = match (node.incarnation.0, node.fenced, node.drained) {
            (0, _, _) if node.witness => "witness",
            (0, _, _) => "not heard of yet",
            (_, true, true) => "fenced: not heard of; drained",
            (_, true, false) => "fenced: not heard of",
            (_, false, true) => "up, drained",
            (_, false, false) => "up",
        };
        table.row([
            node.id.to_string(),
            node.name.clone(),
            node.address.clone(),
            node.rack.clone().unwrap_or_else(|| "-".to_owned()),
            match node.voter {
                Some(true) => "yes",
                Some(false) => "catching up",
                None => "?",
            }
            .to_owned(),
            state.to_owned(),
            thousands(u64::from(node.leads)),
            thousands(u64::from(node.replicas)),
        ]);
    }
    table
}

fn replicas(row: &ReplicasInfo) -> String {
    match row.target.is_empty() {
        true => list(&row.replicas),
        false => format!("{} to {}", list(&row.replicas), list(&row.target)),
    }
}

/// Followers that lack something: node, records, bytes, time, and when that will be over.
fn lag(row: &ReplicasInfo, speeds: &Speeds) -> String {
    let behind = row.followers.iter().filter(|follower| follower.lag != Some(0));
    let each = behind.map(|follower| {
        let FollowerInfo { node, lag: Some(records), lag_bytes, behind_ms } = follower else {
            return format!("{}: not heard of", follower.node);
        };
        let mut text = format!("{node}: {} records", thousands(*records));
        if let Some(bytes) = lag_bytes {
            text += &format!(", {}", human_bytes(*bytes));
        }
        text += &format!(", {:.1} s", Duration::from_millis(*behind_ms).as_secs_f64());
        if let Some(progress) = speeds.of(row, follower) {
            text += &format!(", {progress}");
        }
        text
    });
    let all = each.collect::<Vec<_>>().join("; ");
    if all.is_empty() { "-".to_owned() } else { all }
}

/// A copy: topic, partition and node.
type Copy = (String, PartitionIndex, NodeId);

/// How quickly copies came closer to their leaders between two looks.
#[derive(Debug, Default)]
struct Speeds {
    looked_at: Option<Instant>,
    lags: BTreeMap<Copy, u64>,
    /// Bytes of lag gone a second; negative where it grows.
    speeds: BTreeMap<Copy, f64>,
}

impl Speeds {
    fn note(&mut self, status: &ClusterStatus, now: Instant) {
        let before = self.looked_at.replace(now);
        let passed = before.map(|before| now.duration_since(before).as_secs_f64());
        let rows = status.partitions.iter();
        let lags: BTreeMap<Copy, u64> = rows
            .flat_map(|row| {
                let of = |f: &FollowerInfo| {
                    Some(((row.topic.clone(), row.partition, f.node), f.lag_bytes?))
                };
                row.followers.iter().filter_map(of)
            })
            .collect();
        self.speeds.clear();
        for (copy, lag) in &lags {
            let (Some(before), Some(passed)) = (self.lags.get(copy), passed) else { continue };
            self.speeds.insert(copy.clone(), (*before as f64 - *lag as f64) / passed.max(1e-3));
        }
        self.lags = lags;
    }

    fn of(&self, row: &ReplicasInfo, follower: &FollowerInfo) -> Option<String> {
        let copy = (row.topic.clone(), row.partition, follower.node);
        let (speed, lag) = (*self.speeds.get(&copy)?, follower.lag_bytes?);
        if speed < 1.0 {
            return Some("comes no closer".to_owned());
        }
        let left = Duration::from_secs_f64((lag as f64 / speed).min(1e9).ceil());
        let left = Span::from_ms(left.as_secs() * 1_000);
        Some(format!("{}/s closer, {left} to go", human_bytes(speed as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(lag: u64, lag_bytes: u64) -> ClusterStatus {
        let follower = FollowerInfo {
            node: NodeId(2),
            lag: Some(lag),
            lag_bytes: Some(lag_bytes),
            behind_ms: 1_500,
        };
        let row = ReplicasInfo {
            topic: "gps.raw".into(),
            followers: vec![follower],
            ..ReplicasInfo::default()
        };
        ClusterStatus { partitions: vec![row], ..ClusterStatus::default() }
    }

    /// Goal: what a copy lacks is told with how long it takes, once two looks tell how quick it is.
    #[test]
    fn progress() {
        let mut speeds = Speeds::default();
        let begun = Instant::now();
        let mut look = |lag, bytes, ms| {
            let status = status(lag, bytes);
            speeds.note(&status, begun + Duration::from_millis(ms));
            super::lag(&status.partitions[0], &speeds)
        };
        assert_eq!(look(3_000, 3 << 20, 0), "2: 3,000 records, 3.00 MiB, 1.5 s");
        let told = look(2_000, 2 << 20, 2_000);
        assert_eq!(told, "2: 2,000 records, 2.00 MiB, 1.5 s, 512 KiB/s closer, 4s to go");
        assert!(look(2_500, 3 << 20, 3_000).ends_with("comes no closer"));
        assert_eq!(look(0, 0, 4_000), "-");
    }
}
