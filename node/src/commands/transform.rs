//! `weir transform`: modules at work between topics.

use super::figures::thousands;
use super::module::parse_param;
use super::restore::{RestoreArgs, snapshots};
use super::sdk;
use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use crate::units::human_bytes;
use crate::{connect, timestamp};
use std::collections::BTreeMap;
use weir_client::{Client, RequestError};
use weir_core::deploy::{DeploymentSpec, Mode, OnError, Version};
use weir_core::module::name::ModuleRef;
use weir_core::wire::ErrorCode;
use weir_core::wire::deployments::{DeploymentInfo, LaneCondition};
use weir_core::{Offset, PartitionIndex};

/// The commands of `weir transform`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a module between topics
    #[command(after_help = "\
Examples:
  weir transform create zones --module gps-geofence@1.2.0 --from gps.raw --to gps.zones \\
      --param areas=@areas.json
  weir transform create units --module unit-range@1.0.0 --from raw --to clean --param field=t \\
      --on-error dead-letter

Outputs, the module's state and the position become durable together: each input counts once,
whatever fails. Records that the module cannot work on stop it unless --on-error says otherwise.")]
    Create(Box<CreateArgs>),
    /// Show all transforms, one a line
    #[command(after_help = "Examples:\n  weir transform list\n  weir transform list --json")]
    List,
    /// Show how a transform goes, per partition
    #[command(
        after_help = "Examples:\n  weir transform describe zones\n  weir transform describe \
                            zones --json"
    )]
    Describe(NameArgs),
    /// Have a transform stand still
    #[command(after_help = "Examples:\n  weir transform pause zones")]
    Pause(NameArgs),
    /// Have a transform go on; what stopped at a record tries it again
    #[command(after_help = "Examples:\n  weir transform resume zones")]
    Resume(NameArgs),
    /// Run another version of the module, from exactly where this one is
    #[command(after_help = "\
Examples:
  weir transform replace zones --module gps-geofence@1.3.0
  weir transform replace zones --module gps-geofence@1.3.0 --param max-speed=60
  weir transform replace zones --module gps-geofence@1.3.1 --restore-state newest

Parameters stay as they are unless one is given; then all of them must be. A version whose state has
another layout takes over if it exports `migrate`. The state before the last two takeovers is kept.
")]
    Replace(ReplaceArgs),
    /// Go back to the version before
    #[command(after_help = "\
Examples:
  weir transform rollback zones
  weir transform rollback zones --restore-state 0:120400 --yes

Where the layout of the state has changed, only with --restore-state.")]
    Rollback(RollbackArgs),
    /// Delete a transform and its state; its outputs stay
    #[command(after_help = "Examples:\n  weir transform delete zones")]
    Delete(NameArgs),
}

/// Arguments of `weir transform create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What it is to be called
    name: String,
    /// Which version of which module
    #[arg(long, value_name = "NAME@VERSION")]
    module: ModuleRef,
    /// The input topic
    #[arg(long, value_name = "TOPIC")]
    from: String,
    /// An output topic; may be given several times, records that name none go to the first
    #[arg(long, value_name = "TOPIC", required = true)]
    to: Vec<String>,
    /// A parameter of the module, NAME=VALUE; NAME=@FILE reads the value from a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    /// What happens to a record that the module cannot work on
    #[arg(long, value_enum, default_value = "stop")]
    on_error: Policy,
    /// The topic for such records; NAME.dead-letter, which is made, unless given
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// Begin with what comes, rather than with what is there
    #[arg(long)]
    from_latest: bool,
}

/// Arguments of `weir transform replace`.
#[derive(Debug, clap::Args)]
pub struct ReplaceArgs {
    /// Which transform
    name: String,
    /// Which version of which module
    #[arg(long, value_name = "NAME@VERSION")]
    module: ModuleRef,
    /// A parameter of the module, NAME=VALUE; NAME=@FILE reads the value from a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// Arguments of `weir transform rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// Which transform
    name: String,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// The name of a transform.
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// Which transform
    name: String,
}

/// See [`OnError`].
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Policy {
    /// Leave it out, and count it
    Skip,
    /// Try again until it works
    Retry,
    /// Write it to the dead-letter topic
    DeadLetter,
    /// Stand before it until somebody resumes
    Stop,
}

impl From<Policy> for OnError {
    fn from(policy: Policy) -> OnError {
        match policy {
            Policy::Skip => OnError::Skip,
            Policy::Retry => OnError::Retry,
            Policy::DeadLetter => OnError::DeadLetter,
            Policy::Stop => OnError::Stop,
        }
    }
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let done = match command {
        Command::Create(args) => create(&client, globals, *args).await,
        Command::List => list(&client, globals).await,
        Command::Describe(NameArgs { name }) => {
            let described = client.admin().deployment(&name).await;
            show(globals, &name, "describing", described)
        }
        Command::Pause(NameArgs { name }) => {
            let paused = client.admin().pause_deployment(&name, true).await;
            changed(globals, &name, "pausing", paused)
        }
        Command::Resume(NameArgs { name }) => {
            let resumed = client.admin().pause_deployment(&name, false).await;
            changed(globals, &name, "resuming", resumed)
        }
        Command::Replace(args) => replace(&client, globals, args).await,
        Command::Rollback(RollbackArgs { name, restore }) => {
            let restore = restored(&client, &name, &restore).await?;
            let rolled = client.admin().restore_deployment(&name, None, restore).await;
            changed(globals, &name, "rolling back", rolled)
        }
        Command::Delete(NameArgs { name }) => {
            let deleted = client.admin().delete_deployment(&name).await;
            deleted.map_err(|error| failure(&format!("deleting transform {name}"), &error))?;
            output::note(globals.json, &format!("{name}: deleted"));
            match globals.json {
                true => output::print_json(&serde_json::json!({ "deleted": name })),
                false => Ok(()),
            }
        }
    };
    client.close().await;
    done
}

/// Parameters with what their files hold.
///
/// # Errors
/// A file cannot be read.
pub(super) fn params(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let read = |(name, value): (String, String)| match value.strip_prefix('@') {
        None => Ok((name, value)),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(Failure::usage(format!("parameter {name}: {path}: {error}"))),
        },
    };
    given.into_iter().map(read).collect()
}

async fn create(client: &Client, globals: &Globals, args: CreateArgs) -> CommandResult {
    let spec = DeploymentSpec {
        version: Version { module: args.module, params: params(args.param)? },
        from: args.from,
        to: args.to,
        on_error: args.on_error.into(),
        dead_letter: args.dead_letter,
        from_latest: args.from_latest,
    };
    let created = client.admin().create_deployment(&args.name, spec).await;
    changed(globals, &args.name, "creating", created)
}

async fn replace(client: &Client, globals: &Globals, args: ReplaceArgs) -> CommandResult {
    let ReplaceArgs { name, module, param, restore } = args;
    let restore = restored(client, &name, &restore).await?;
    let admin = client.admin();
    let params = match param.is_empty() {
        false => params(param)?,
        true => {
            let known = admin.deployment(&name).await;
            let known = known.map_err(|error| failure(&format!("replacing {name}"), &error))?;
            known.deployment.spec.version.params
        }
    };
    let version = Some(Version { module, params });
    let replaced = admin.restore_deployment(&name, version, restore).await;
    changed(globals, &name, "replacing", replaced)
}

/// What is to go back to which snapshot, agreed to.
async fn restored(
    client: &Client,
    name: &str,
    restore: &RestoreArgs,
) -> Result<Vec<(PartitionIndex, Offset)>, Failure> {
    if restore.is_empty() {
        return Ok(Vec::new());
    }
    let known = client.admin().deployment(name).await;
    let known = known.map_err(|error| failure(&format!("restoring {name}"), &error))?;
    restore.agreed(&known)
}

async fn list(client: &Client, globals: &Globals) -> CommandResult {
    let all = client.admin().deployments().await;
    let all = all.map_err(|error| failure("listing transforms", &error))?;
    if globals.json {
        return output::print_json(&all);
    }
    if all.is_empty() {
        output::note(false, "no transforms; `weir transform create` makes one");
        return Ok(());
    }
    let mut table =
        Table::new(&["TRANSFORM", "STATE", "MODULE", "FROM", "TO", ">LAG", ">ERRORS", "ON ERROR"]);
    for info in &all {
        let spec = &info.deployment.spec;
        table.row([
            info.deployment.name.clone(),
            condition(info).to_owned(),
            spec.version.module.to_string(),
            spec.from.clone(),
            spec.to.join(", "),
            thousands(info.partitions.iter().map(|p| p.lag).sum()),
            thousands(info.partitions.iter().map(|p| p.errors).sum()),
            spec.on_error.name().to_owned(),
        ]);
    }
    output::print(&table.render())
}

/// The worst of its partitions.
fn condition(info: &DeploymentInfo) -> &'static str {
    use LaneCondition::{Paused, Retrying, Running, Starting, Stopped};
    let is = |condition| info.partitions.iter().any(|p| p.state == condition);
    let worst = [Stopped, Retrying, Starting, Paused, Running].into_iter().find(|c| is(*c));
    worst.unwrap_or(Starting).name()
}

fn changed(
    globals: &Globals,
    name: &str,
    doing: &str,
    answer: Result<DeploymentInfo, RequestError>,
) -> CommandResult {
    let info = answer.map_err(|error| failure(&format!("{doing} transform {name}"), &error))?;
    if globals.json {
        return output::print_json(&info);
    }
    let spec = &info.deployment.spec;
    let paused = if info.deployment.paused { ", paused" } else { "" };
    let to = spec.to.join(", ");
    output::print_line(&format!(
        "{name}: {} from {} to {to}, on error {}{paused}",
        spec.version.module,
        spec.from,
        spec.on_error.name()
    ))
}

fn show(
    globals: &Globals,
    name: &str,
    doing: &str,
    answer: Result<DeploymentInfo, RequestError>,
) -> CommandResult {
    let info = answer.map_err(|error| failure(&format!("{doing} transform {name}"), &error))?;
    if globals.json {
        return output::print_json(&info);
    }
    let DeploymentInfo { deployment, partitions } = &info;
    let spec = &deployment.spec;
    let way = match deployment.mode {
        Mode::Direct => "direct",
        Mode::Outbox => "outbox",
    };
    output::print_line(&format!("{name}: {}, {way}", condition(&info)))?;
    output::print_line(&format!("  module    {}", spec.version.module))?;
    for (name, value) in &spec.version.params {
        let short: String = value.chars().take(60).collect();
        output::print_line(&format!("  param     {name}={short}"))?;
    }
    if let Some(previous) = &deployment.previous {
        output::print_line(&format!("  before    {}", previous.module))?;
    }
    output::print_line(&format!("  from      {}\n  to        {}", spec.from, spec.to.join(", ")))?;
    let dead = deployment.dead_letter_topic();
    let dead = dead.map_or(String::new(), |topic| format!(" to {topic}"));
    output::print_line(&format!("  on error  {}{dead}\n", spec.on_error.name()))?;
    let mut table = Table::new(&[
        ">PARTITION",
        "STATE",
        ">POSITION",
        ">LAG",
        ">IN",
        ">OUT",
        ">ERRORS",
        ">KEYS",
        ">BYTES",
        ">CPU",
    ]);
    for p in partitions {
        table.row([
            p.partition.to_string(),
            p.state.name().to_owned(),
            p.position.map_or("-".to_owned(), |position| position.to_string()),
            thousands(p.lag + p.undelivered),
            thousands(p.records_in),
            thousands(p.records_out),
            thousands(p.errors),
            thousands(p.state_keys),
            human_bytes(p.state_bytes),
            format!("{:.2} s", p.cpu_us as f64 / 1e6),
        ]);
    }
    output::print(&table.render())?;
    if let Some(snapshots) = snapshots(partitions) {
        output::print(&format!("\n{}", snapshots.render()))?;
    }
    for p in partitions {
        let Some(error) = &p.last_error else { continue };
        let at = error.offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
        let when = timestamp::seconds(error.at);
        output::print_line(&format!("partition {}{at}, {when}: {}", p.partition, error.message))?;
    }
    Ok(())
}

fn failure(doing: &str, error: &RequestError) -> Failure {
    let failure = sdk::request_failure(doing, error);
    let next = match error.code() {
        Some(ErrorCode::UnknownDeployment) => "`weir transform list` shows what there is.",
        Some(ErrorCode::UnknownModule) => "`weir module list` shows what there is.",
        _ => return failure,
    };
    Failure { exit: Exit::Refused, ..failure }.next(next)
}
