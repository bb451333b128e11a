//! `weir cert`.

use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};

/// Arguments of `weir cert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir cert")]
pub struct Args {}

/// Runs the command.
pub async fn run(_args: Args, _globals: &Globals) -> CommandResult {
    Err(Failure::new(Exit::Error, "this build has no `cert`"))
}
