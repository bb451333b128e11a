//! `weir consumer`: modules that read a topic and do something with it.

use super::deployment::{self, Action, CreateArgs, LogsArgs, NameArgs, ReplaceArgs, RollbackArgs};
use crate::cli::Globals;
use crate::exit::{CommandResult, Failure};
use crate::units::Span;
use std::path::PathBuf;
use weir_core::deploy::DeploymentKind;
use weir_core::deploy::http::{AllowedHost, HttpGrant};
use weir_core::limits;

/// The commands of `weir consumer`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run a module that reads a topic under a position of its own
    #[command(after_help = "\
Examples:
  weir consumer create alerts --module webhook-alert@1.0.0 --from readings \\
      --param url=https://example.com/hook --param field=celsius --param above=80 \\
      --allow-http example.com --on-error retry --retries 20
  weir consumer create table --module latest-value@1.0.0 --from readings --to changes \\
      --cpu 50 --log-topic module-logs

The position moves only behind records that the module worked on. What it publishes to the topics of
--to, its state and the position become durable together: each input counts once, whatever fails.
What it does outside of the node, over HTTP, happens at least once. Without --allow-http it reaches
nothing, and it can publish to no topic that --to does not name.")]
    Create(Box<ConsumerArgs>),
    /// Show all consumers, one a line
    #[command(after_help = "Examples:\n  weir consumer list\n  weir consumer list --json")]
    List,
    /// Show how a consumer goes, per partition
    #[command(after_help = "Examples:\n  weir consumer describe alerts\n  weir consumer describe \
                            alerts --json")]
    Describe(NameArgs),
    /// Have a consumer stand still; a request that it waits for is given up
    #[command(after_help = "Examples:\n  weir consumer pause alerts")]
    Pause(NameArgs),
    /// Have a consumer go on; what stopped at a record tries it again
    #[command(after_help = "Examples:\n  weir consumer resume alerts")]
    Resume(NameArgs),
    /// Run another version of the module, from exactly where this one is
    #[command(after_help = "\
Examples:
  weir consumer replace alerts --module webhook-alert@1.1.0

Parameters stay as they are unless one is given; then all of them must be. What the consumer may do
stays as it is. A version whose state has another layout takes over if it exports `migrate`.")]
    Replace(ReplaceArgs),
    /// Go back to the version before
    #[command(after_help = "\
Examples:
  weir consumer rollback alerts
  weir consumer rollback alerts --restore-state newest --yes

Where the layout of the state has changed, only with --restore-state. Its input is read again from
there: what it did outside of the node is done again.")]
    Rollback(RollbackArgs),
    /// Delete a consumer and its state; what it published stays
    #[command(after_help = "Examples:\n  weir consumer delete alerts")]
    Delete(NameArgs),
    /// Show what its module logged since the node's start
    #[command(after_help = "\
Examples:
  weir consumer logs alerts
  weir consumer logs alerts --follow --lines 10

A line is time, input partition, level and message. The node keeps the last 1,000 lines of each
consumer in memory, fewer where they are long; they end with the node.")]
    Logs(LogsArgs),
}

/// Arguments of `weir consumer create`.
#[derive(Debug, clap::Args)]
pub struct ConsumerArgs {
    /// What both kinds of deployments are told
    #[command(flatten)]
    common: CreateArgs,
    /// A topic that it may publish to; may be given several times
    #[arg(long, value_name = "TOPIC")]
    to: Vec<String>,
    /// A host that it may send requests to, exactly so, with port 80 for http and 443 for https
    /// unless one is given; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    allow_http: Vec<AllowedHost>,
    /// How long one request may take, up to 60s
    #[arg(long, value_name = "TIME", default_value = "10s", requires = "allow_http")]
    http_timeout: Span,
    /// A file with certificates of authorities to trust in place of the system's, PEM
    #[arg(long, value_name = "FILE", requires = "allow_http")]
    http_ca: Option<PathBuf>,
}

impl ConsumerArgs {
    /// What it may do over HTTP.
    fn http(&self) -> Result<Option<HttpGrant>, Failure> {
        if self.allow_http.is_empty() {
            return Ok(None);
        }
        let read = |path: &PathBuf| {
            let wrong = |error: &dyn std::fmt::Display| {
                Failure::usage(format!("{}: {error}", path.display()))
            };
            let pem = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
            match pem.len() {
                bytes if bytes > limits::HTTP_CA_BYTES_MAX => Err(wrong(&"too large")),
                _ => Ok(pem),
            }
        };
        let timeout_ms = u32::try_from(self.http_timeout.as_ms()).unwrap_or(u32::MAX);
        let ca_pem = self.http_ca.as_ref().map(read).transpose()?;
        let grant = HttpGrant { allow: self.allow_http.clone(), timeout_ms, ca_pem };
        grant.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Some(grant))
    }
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    let kind = DeploymentKind::Consumer;
    let action = match command {
        Command::Create(args) => {
            let http = args.http()?;
            args.common.into_action(kind, args.to, http)?
        }
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
