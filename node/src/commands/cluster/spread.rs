//! `weir cluster drain` and `weir cluster rebalance`: what nodes hold is moved, and the operator
//! sees how far that is. The nodes carry a drain on by themselves; a rebalance goes on as long as
//! somebody asks for the next moves.

use super::{find, list};
use crate::cli::Globals;
use crate::commands::sdk;
use crate::connect;
use crate::exit::{CommandResult, Failure};
use crate::output::{self, Table};
use std::time::Duration;
use weir_client::Client;
use weir_core::ids::NodeId;
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus, MoveInfo};

/// Between two looks at how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Arguments of `weir cluster drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster drain edge-3              before maintenance, or before it is removed
  weir cluster drain edge-3 --undo
  weir cluster drain 3 --no-wait

Copies go to nodes that have none of the same partition, each to another rack where there are racks,
and the old ones go only once the new ones have everything. Where there are too few nodes for that,
copies stay and only leads move away. A drained node is given nothing new, also after a restart. The
nodes carry it on by themselves: this command may be interrupted.")]
pub struct DrainArgs {
    /// The node, by name or number
    node: String,
    /// Let the node be used again; nothing is moved back (`weir cluster rebalance` does that)
    #[arg(long)]
    undo: bool,
    /// Return at once: `weir cluster status` shows how far it is
    #[arg(long, conflicts_with = "undo")]
    no_wait: bool,
}

/// Arguments of `weir cluster rebalance`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster rebalance --dry-run     what would be moved
  weir cluster rebalance

Spreads copies over racks, and copies and leads evenly over the data nodes that are up and not
drained, with as few copies made anew as that takes. A few partitions are moved at a time.
Interrupted, it leaves moves that have begun to the nodes; started again, it goes on.")]
pub struct RebalanceArgs {
    /// Only print what would be moved
    #[arg(long)]
    dry_run: bool,
}

/// What a drained node still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    /// Copies that are still to go, and those that cannot.
    copies: (u32, u32),
    /// Leads that others can take, and those that nobody can.
    leads: (u32, u32),
}

impl Left {
    fn of(status: &ClusterStatus, node: &ClusterNodeInfo) -> Left {
        let alone = status.partitions.iter().filter(|row| {
            let others = row.insync.iter().chain(&row.target).any(|&other| other != node.id);
            row.leader == Some(node.id) && !others
        });
        let alone = (alone.count() as u32).min(node.leads);
        let stuck = node.stuck.min(node.replicas);
        Left { copies: (node.replicas - stuck, stuck), leads: (node.leads - alone, alone) }
    }

    fn is_done(self) -> bool {
        (self.copies.0, self.leads.0) == (0, 0)
    }
}

/// Runs `weir cluster drain`.
pub async fn drain(args: DrainArgs, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let doing = format!("draining {}", args.node);
    let status = ask_status(&client, &doing).await?;
    let node = find(&status, &args.node)?;
    let asked = client.admin().drain(node.id, !args.undo).await;
    asked.map_err(|error| sdk::request_failure(&doing, &error))?;
    let name = node.name.clone();
    if args.undo || args.no_wait {
        client.close().await;
        if globals.json {
            return output::print_json(&serde_json::json!({
                "node": node.id, "name": name, "drained": !args.undo,
            }));
        }
        return output::print_line(&match args.undo {
            true => format!("{name} is used again; `weir cluster rebalance` gives it its share"),
            false => format!("{name} is drained; `weir cluster status` shows how far that is"),
        });
    }
    let mut said = None;
    let left = loop {
        let status = ask_status(&client, &doing).await?;
        let left = Left::of(&status, find(&status, &args.node)?);
        if left.is_done() {
            break left;
        }
        if said.replace(left) != Some(left) {
            let (copies, leads) = (left.copies.0, left.leads.0);
            output::note(globals.json, &format!("{name}: {copies} copies, {leads} leads to go"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    client.close().await;
    if globals.json {
        return output::print_json(&serde_json::json!({
            "node": node.id, "name": name, "drained": true,
            "copies_left": left.copies.1, "leads_left": left.leads.1,
        }));
    }
    output::print_line(&drained(&name, left))
}

fn drained(name: &str, left: Left) -> String {
    let mut text = match left.copies.1 {
        0 => format!("{name} is drained: it holds nothing"),
        copies => format!(
            "{name} is drained as far as it can be: {copies} copies stay, since there are too few \
             other nodes for them"
        ),
    };
    match left.leads.1 {
        0 => text += ", and leads nothing",
        leads => text += &format!("; it leads {leads} partitions that have no other copy in sync"),
    }
    text
}

/// Runs `weir cluster rebalance`.
pub async fn rebalance(args: RebalanceArgs, globals: &Globals) -> CommandResult {
    let doing = "rebalancing the cluster";
    let client = connect::client(globals).await?;
    let failed = |error: &_| sdk::request_failure(doing, error);
    let plan = client.admin().rebalance(false).await.map_err(|error| failed(&error))?;
    if args.dry_run || plan.moves.is_empty() {
        client.close().await;
        return match globals.json {
            true => output::print_json(&plan),
            false if plan.moves.is_empty() => output::print_line("nothing to move"),
            false => output::print(&table(&plan.moves)),
        };
    }
    if !globals.json {
        output::print(&table(&plan.moves))?;
    }
    let mut said = None;
    loop {
        let now = client.admin().rebalance(true).await.map_err(|error| failed(&error))?;
        let left = now.moves.len() as u32 - now.begun;
        let under_way = now.moving + now.begun;
        if left == 0 && under_way == 0 {
            break;
        }
        if said.replace((left, under_way)) != Some((left, under_way)) {
            let text = format!("{under_way} partitions are being moved, {left} wait");
            output::note(globals.json, &text);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    client.close().await;
    match globals.json {
        true => output::print_json(&plan),
        false => output::print_line(&format!("{} partitions were moved", plan.moves.len())),
    }
}

fn table(moves: &[MoveInfo]) -> String {
    let mut table = Table::new(&["TOPIC", ">PARTITION", "FROM", "TO", ">NEW COPIES"]);
    for planned in moves {
        let new = planned.to.iter().filter(|node: &&NodeId| !planned.from.contains(node)).count();
        table.row([
            planned.topic.clone(),
            planned.partition.to_string(),
            list(&planned.from),
            list(&planned.to),
            new.to_string(),
        ]);
    }
    table.render()
}

async fn ask_status(client: &Client, doing: &str) -> Result<ClusterStatus, Failure> {
    let status = client.admin().cluster().await;
    status.map_err(|error| sdk::request_failure(doing, &error))
}
