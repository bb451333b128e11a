//! `weir`: the node and its command line in one binary.

mod cli;
mod commands;
mod exit;
mod logging;
mod output;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
