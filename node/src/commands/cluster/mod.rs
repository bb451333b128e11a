//! `weir cluster`: how a cluster of nodes is, and what its nodes hold.

mod members;
mod spread;

use super::figures::thousands;
use super::sdk;
use crate::cli::Globals;
use crate::connect;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use std::time::Duration;
use weir_core::ids::NodeId;
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus, FollowerInfo, ReplicasInfo};

/// The commands of `weir cluster`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show nodes, leaders, in-sync replicas and how far the others are behind
    #[command(after_help = "\
Examples:
  weir cluster status
  weir cluster status --json
  weir --server 10.0.0.2:7447 cluster status

Any node of the cluster can be asked. An in-sync replica has everything that was acknowledged, so a
partition survives the loss of all its other replicas. LAG is what a replica that the leader hears
of has yet to store.")]
    Status,
    /// Move everything away from a node, before maintenance or for good
    Drain(spread::DrainArgs),
    /// Spread copies and leads evenly over the nodes
    Rebalance(spread::RebalanceArgs),
    /// Make a new node known to the others, or change the address of one
    Add(members::AddArgs),
    /// Print a token that lets one new node in (`weir node --join`)
    Token(members::TokenArgs),
    /// Remove a node for good
    Remove(members::RemoveArgs),
}

/// Arguments of `weir topic reassign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir topic reassign readings --partition 0 --to 2,3
  weir topic reassign readings --to 1,2,3

The new copies are made while the old ones serve; once they have everything they take over, and the
first node of the list leads. `weir cluster status` shows how far that is.")]
pub struct ReassignArgs {
    /// Which topic
    name: String,
    /// Which partition; all of them unless given
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// The nodes that shall hold the copies, by number, the preferred leader first
    #[arg(long, value_name = "NODES", required = true, value_delimiter = ',')]
    to: Vec<u32>,
}

/// Runs `weir topic reassign`.
pub async fn reassign(globals: &Globals, args: ReassignArgs) -> CommandResult {
    let ReassignArgs { name, partition, to } = args;
    let client = connect::client(globals).await?;
    let doing = format!("reassigning {name}");
    let known = client.admin().topic(&name).await;
    let known = known.map_err(|error| sdk::request_failure(&doing, &error))?;
    let Some(known) = known else {
        return Err(Failure::new(Exit::Refused, format!("{doing}: there is no such topic"))
            .next("`weir topic list` shows what there is."));
    };
    let partitions = match partition {
        Some(partition) => vec![partition],
        None => (0..known.config.partitions).collect(),
    };
    let nodes: Vec<NodeId> = to.iter().map(|&number| NodeId(number)).collect();
    for partition in &partitions {
        let asked = client.admin().reassign(&name, *partition, &nodes).await;
        asked.map_err(|error| sdk::request_failure(&doing, &error))?;
    }
    client.close().await;
    if globals.json {
        return output::print_json(&serde_json::json!({
            "topic": name, "partitions": partitions, "nodes": to,
        }));
    }
    output::print_line(&format!(
        "{name}: copies of {} partitions are moved to {}",
        partitions.len(),
        list(&nodes)
    ))
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    match command {
        Command::Status => status(globals).await,
        Command::Drain(args) => spread::drain(args, globals).await,
        Command::Rebalance(args) => spread::rebalance(args, globals).await,
        Command::Add(args) => members::add(args, globals).await,
        Command::Token(args) => members::token(args, globals).await,
        Command::Remove(args) => members::remove(args, globals).await,
    }
}

/// The node that an operator names, by name or number.
fn find<'a>(status: &'a ClusterStatus, wanted: &str) -> Result<&'a ClusterNodeInfo, Failure> {
    let number = wanted.parse().map(NodeId).ok();
    let mut nodes = status.nodes.iter();
    let named = nodes.clone().find(|node| node.name == wanted);
    named.or_else(|| nodes.find(|node| Some(node.id) == number)).ok_or_else(|| {
        let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
        let what = format!("the cluster has no node `{wanted}`");
        Failure::new(Exit::Refused, what).next(format!("its nodes are {}", names.join(", ")))
    })
}

async fn status(globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let status = client.admin().cluster().await;
    client.close().await;
    let status =
        status.map_err(|error| sdk::request_failure("asking for the cluster's status", &error))?;
    if globals.json {
        return output::print_json(&status);
    }
    show(&status)
}

fn show(status: &ClusterStatus) -> CommandResult {
    let controller = status.controller.map_or("none known".to_owned(), |id| format!("node {id}"));
    output::print_line(&format!(
        "cluster {}, leading controller: {controller}, {} changes decided\n",
        status.cluster,
        thousands(status.version)
    ))?;
    let mut nodes =
        Table::new(&[">NODE", "NAME", "ADDRESS", "RACK", "VOTES", "STATE", ">LEADS", ">REPLICAS"]);
    for node in &status.nodes {
        let state = match (node.incarnation.0, node.fenced, node.drained) {
            (0, _, _) if node.witness => "witness",
            (0, _, _) => "not heard of yet",
            (_, true, true) => "fenced: not heard of; drained",
            (_, true, false) => "fenced: not heard of",
            (_, false, true) => "up, drained",
            (_, false, false) => "up",
        };
        nodes.row([
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
    output::print(&nodes.render())?;
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
            lag(&row.followers),
        ]);
    }
    output::print(&format!("\n{}", table.render()))?;
    for id in &status.silent {
        let message = format!("node {id} did not answer: what it leads is shown without ends");
        output::note(false, &message);
    }
    Ok(())
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn replicas(row: &ReplicasInfo) -> String {
    match row.target.is_empty() {
        true => list(&row.replicas),
        false => format!("{} to {}", list(&row.replicas), list(&row.target)),
    }
}

/// Followers that lack something: node, records, time.
fn lag(followers: &[FollowerInfo]) -> String {
    let behind = followers.iter().filter(|follower| follower.lag != Some(0));
    let each = behind.map(|follower| match follower.lag {
        Some(records) => {
            let time = Duration::from_millis(follower.behind_ms).as_secs_f64();
            format!("{}: {} records, {time:.1} s", follower.node, thousands(records))
        }
        None => format!("{}: not heard of", follower.node),
    });
    let all = each.collect::<Vec<_>>().join("; ");
    if all.is_empty() { "-".to_owned() } else { all }
}
