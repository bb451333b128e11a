//! `weir cluster add`, `weir cluster token` and `weir cluster remove`.

use super::{find, list};
use crate::cli::Globals;
use crate::commands::sdk;
use crate::connect;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use crate::units::Span;
use std::time::{Duration, Instant};
use weir_core::wire::cluster::ClusterStatus;

/// Between two looks at whether a removed node has lost its vote.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `weir cluster add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster add edge-4@10.0.0.4:7447
  weir cluster add vote@10.0.0.9:7447 --witness
  weir cluster add edge-2@10.0.0.20:7447     edge-2 is at another address from now on

Makes a node known to all others; what is to be done on its machine is printed. `weir cluster token`
and `weir node --join` do both in one step. A new node votes once it has caught up, and holds copies
once there are new partitions for it or the cluster is rebalanced.")]
pub struct AddArgs {
    /// The node's name, and where the others reach it: NAME@HOST:PORT
    node: String,
    /// It votes but holds no records
    #[arg(long)]
    witness: bool,
}

/// Arguments of `weir cluster remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster drain edge-3 && weir cluster remove edge-3
  weir cluster remove edge-3 --force      its machine is gone for good

Removes a node for good: it is refused afterwards, and its number is never used again. It has to be
drained before, or not heard of and without copies. With --force its copies are given up as long as
other nodes have everything that was acknowledged; the next node that is added gets them.")]
pub struct RemoveArgs {
    /// The node, by name or number
    node: String,
    /// Also if it is in use or has copies, but never the last one that has everything
    #[arg(long)]
    force: bool,
}

/// Arguments of `weir cluster token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir cluster token
  weir cluster token --valid 10m --witness

Prints a token that lets one new node in:

  weir node --listen 10.0.0.2:7447 --join 10.0.0.1:7447 --token TOKEN

It is a secret. It names the cluster's authority, so that the new node trusts nobody else; the node
that has the authority's key (tls/ca.key) must run while it is used.")]
pub struct TokenArgs {
    /// How long it may be used, at most a week
    #[arg(long, value_name = "TIME", default_value = "1h")]
    valid: Span,
    /// It lets in a witness, which votes but holds no records
    #[arg(long)]
    witness: bool,
}

/// Runs `weir cluster token`.
pub async fn token(args: TokenArgs, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let token = client.admin().join_token(args.valid.0, args.witness).await;
    client.close().await;
    let token = token.map_err(|error| sdk::request_failure("making a token", &error))?;
    match globals.json {
        true => output::print_json(&serde_json::json!({ "token": token })),
        false => output::print_line(&token),
    }
}

/// Runs `weir cluster add`.
pub async fn add(args: AddArgs, globals: &Globals) -> CommandResult {
    let Some((name, address)) = args.node.split_once('@') else {
        let what = format!("`{}` is not NAME@HOST:PORT", args.node);
        return Err(Failure::usage(what).next("such as edge-4@10.0.0.4:7447"));
    };
    let doing = format!("adding {name}");
    let failed = |error| sdk::request_failure(&doing, &error);
    let client = connect::client(globals).await?;
    let before = client.admin().cluster().await.map_err(failed)?;
    let witness = args.witness.then_some(true);
    client.admin().add_member(name, address, witness).await.map_err(failed)?;
    let status = client.admin().cluster().await.map_err(failed)?;
    client.close().await;
    let node = find(&status, name)?;
    if globals.json {
        return output::print_json(node);
    }
    if before.nodes.iter().any(|known| known.id == node.id) {
        return output::print_line(&format!("{name} is at {address} from now on"));
    }
    output::print(&what_to_do(&status, name, args.witness))
}

fn what_to_do(status: &ClusterStatus, name: &str, witness: bool) -> String {
    let member = |node: &weir_core::wire::cluster::ClusterNodeInfo| {
        format!("\"{}={}@{}\"", node.id, node.name, node.address)
    };
    let members: Vec<String> = status.nodes.iter().map(member).collect();
    let role = if witness { "  role = \"witness\"\n" } else { "" };
    format!(
        "{name} is a member. On its machine:\n\n\
         1. put into its data folder tls/node.pem, tls/node.key and tls/ca.pem, from\n   \
         `weir cert node {name}` and `weir cert ca` on the node that has the authority's key\n\
         2. configure\n  name = \"{name}\"\n  [cluster]\n{role}  members = [{}]\n\
         3. weir node --config weir.toml\n\n\
         Other nodes need no change.\n",
        members.join(", ")
    )
}

/// Runs `weir cluster remove`.
pub async fn remove(args: RemoveArgs, globals: &Globals) -> CommandResult {
    let doing = format!("removing {}", args.node);
    let failed = |error| sdk::request_failure(&doing, &error);
    let client = connect::client(globals).await?;
    let status = client.admin().cluster().await.map_err(failed)?;
    let node = find(&status, &args.node)?;
    client.admin().remove_member(node.id, args.force).await.map_err(failed)?;
    let begun = Instant::now();
    loop {
        match client.admin().cluster().await {
            Ok(status) if status.leaving.is_empty() => break,
            Ok(status) if begun.elapsed() > PATIENCE => {
                let what = format!(
                    "{} is no member any more, but still votes ({})",
                    node.name,
                    list(&status.leaving)
                );
                return Err(Failure::new(Exit::Unknown, what)
                    .next("it goes on by itself once a majority of the members is there"));
            }
            // It may be the removed node that was asked.
            Err(_) if begun.elapsed() > PATIENCE => break,
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
    client.close().await;
    if globals.json {
        return output::print_json(&serde_json::json!({ "removed": node.id, "name": node.name }));
    }
    output::print_line(&format!(
        "{} is removed; its number {} is not used again. Stop it if it runs, and empty its data \
         folder before the machine joins again",
        node.name, node.id
    ))
}
