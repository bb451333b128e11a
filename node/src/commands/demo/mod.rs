//! `weir demo`.

use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};

/// Arguments of `weir demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir demo")]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _globals: &Globals) -> CommandResult {
    Err(Failure::new(Exit::Error, "this build has no `demo`"))
}
