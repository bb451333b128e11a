//! `weir`: the node and its command line in one binary.

mod cli;
mod commands;
mod config;
mod connect;
mod exit;
mod http;
mod logging;
mod metrics;
mod output;
mod paths;
mod shutdown;
mod start;
mod timestamp;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
