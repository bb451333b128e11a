//! `weir cluster`: how a cluster of nodes is, and what its nodes hold.

mod members;
mod spread;
mod status;

use super::sdk;
use crate::cli::Globals;
use crate::connect;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use weir_core::ids::NodeId;
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus};

/// The commands of `weir cluster`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show nodes, leaders, in-sync replicas and how far the others are behind
    Status(status::Args),
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
        Command::Status(args) => status::run(args, globals).await,
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

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
