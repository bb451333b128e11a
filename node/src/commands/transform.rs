//! `weir transform`: modules at work between topics.

use super::deployment::{self, Action, CreateArgs, LogsArgs, NameArgs, ReplaceArgs, RollbackArgs};
use crate::cli::Globals;
use crate::exit::CommandResult;
use weir_core::deploy::DeploymentKind;

/// The commands of `weir transform`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a module between topics
    #[command(after_help = "\
Examples:
  weir transform create zones --module gps-geofence@1.2.0 --from gps.raw --to gps.zones \\
      --param areas=@areas.json
  weir transform create units --module unit-range@1.0.0 --from raw --to clean --param field=t \\
      --on-error dead-letter --cpu 25 --log-topic module-logs

Outputs, the module's state and the position become durable together: each input counts once,
whatever fails. Records that the module cannot work on stop it unless --on-error says otherwise.")]
    Create(Box<TransformArgs>),
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
    /// Show what its module logged since the node's start
    #[command(after_help = "\
Examples:
  weir transform logs zones
  weir transform logs zones --follow --lines 10

A line is time, input partition, level and message. The node keeps the last 1,000 lines of each
transform in memory, fewer where they are long; they end with the node.")]
    Logs(LogsArgs),
}

/// Arguments of `weir transform create`.
#[derive(Debug, clap::Args)]
pub struct TransformArgs {
    /// What both kinds of deployments are told
    #[command(flatten)]
    common: CreateArgs,
    /// An output topic; may be given several times, records that name none go to the first
    #[arg(long, value_name = "TOPIC", required = true)]
    to: Vec<String>,
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    let kind = DeploymentKind::Transform;
    let action = match command {
        Command::Create(args) => args.common.into_action(kind, args.to, None)?,
        Command::List => Action::List,
        Command::Describe(name) => Action::Describe(name),
        Command::Pause(name) => Action::Pause(name),
        Command::Resume(name) => Action::Resume(name),
        Command::Replace(args) => Action::Replace(args),
        Command::Rollback(args) => Action::Rollback(args),
        Command::Delete(name) => Action::Delete(name),
        Command::Logs(args) => Action::Logs(args),
    };
    deployment::run(kind, action, globals).await
}
