//! What the binary `weir` is made of: the node and its command line.
//!
//! A library only so that the fuzz targets reach the readers of what operators write; nothing else
//! is for use from outside.

mod cli;
mod commands;
mod config;
mod connect;
mod exit;
pub mod fuzz_targets;
mod http;
mod join;
mod logging;
mod metrics;
mod output;
mod paths;
mod shutdown;
mod start;
mod timestamp;
mod units;

pub use cli::main;
