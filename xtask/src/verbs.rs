//! The small verbs.

use crate::process;
use anyhow::{Result, ensure};

/// `cargo xtask fuzz`: the driver is a program of its own, optimised since it runs for long.
///
/// # Errors
/// If a decoder misbehaved, which the driver reports with a command to reproduce it.
pub fn fuzz(args: &[String]) -> Result<()> {
    // The development profile keeps overflow checks and debug assertions: they find more.
    process::run(process::cargo().args(["run", "--quiet", "-p", "weir-fuzz", "--"]).args(args))
}

/// `cargo xtask bench`: micro benches. `weir bench` measures whole nodes.
///
/// # Errors
/// If a bench does not build or run.
pub fn bench(args: &[String]) -> Result<()> {
    ensure!(args.len() <= 1, "bench takes at most one name");
    let mut command = process::cargo();
    command.args(["bench", "-p", "weir-core", "-p", "weir-log", "-p", "weir-wasm", "--benches"]);
    if let [name] = args {
        command.arg("--").arg(name);
    }
    process::run(&mut command)?;
    println!("whole nodes: cargo run --release -p weir-node -- bench --help");
    Ok(())
}
