//! `weir`: the node and its command line in one binary.

mod cli;
mod commands;
mod config;
mod exit;
mod logging;
mod output;
mod paths;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
