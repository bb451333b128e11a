//! `cargo xtask test`: everything that must hold before a change lands, in one command.
//!
//! Steps run cheapest first and share one target folder and one profile. Each prints its time, so
//! that a slow one is noticed.

use crate::process::{self, cargo};
use crate::{dist, guests, policy, tidy, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;
use std::time::{Duration, Instant};

/// One selection of targets for building and for running: another one may unify features of
/// dependencies in another way, and build them all again.
pub const TARGETS: [&str; 5] = ["--workspace", "--lib", "--bins", "--tests", "--examples"];

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "format", about: "rustfmt changes nothing", run: format },
    Step { name: "tidy", about: "direction of crates, style, documents of formats", run: tidy },
    Step { name: "licences", about: "licences, bans and sources of packages", run: licences },
    Step { name: "clippy", about: "no warning, in any target", run: clippy },
    Step { name: "docs", about: "rustdoc without warnings", run: docs },
    Step { name: "guests", about: "the example modules build for WebAssembly", run: guests },
    Step { name: "tests", about: "unit to end-to-end, bounded fuzzing, examples", run: tests },
    Step { name: "doctests", about: "examples in documentation", run: doctests },
    Step { name: "dist", about: "package, install to a scratch folder, run", run: try_dist },
];

/// Runs the steps that `args` name, or all.
///
/// # Errors
/// Names the steps that failed.
pub fn run(args: &[String]) -> Result<()> {
    let keep_going = args.iter().any(|arg| arg == "--keep-going");
    if args.iter().any(|arg| arg == "--list") {
        for step in STEPS {
            println!("{:10} {}", step.name, step.about);
        }
        return Ok(());
    }
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    for arg in args {
        let known = arg == "--keep-going" || STEPS.iter().any(|step| step.name == arg);
        ensure!(known, "unknown step {arg:?}: `cargo xtask test --list` lists them");
    }
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| names.is_empty() || names.iter().any(|n| *n == step.name))
        .collect();
    install_components()?;
    let mut done: Vec<(&str, Duration, bool)> = Vec::new();
    for (n, step) in chosen.iter().enumerate() {
        println!("\n== {}/{} {}: {}", n + 1, chosen.len(), step.name, step.about);
        let begun = Instant::now();
        let result = (step.run)();
        done.push((step.name, begun.elapsed(), result.is_ok()));
        if let Err(error) = result {
            eprintln!("\n== {} FAILED: {error:#}", step.name);
            eprintln!("   again: cargo xtask test {}", step.name);
            if !keep_going {
                break;
            }
        }
    }
    summary(&done, chosen.len())
}

fn summary(done: &[(&str, Duration, bool)], chosen: usize) -> Result<()> {
    println!("\n== steps");
    let mut total = Duration::ZERO;
    for (name, time, ok) in done {
        println!(
            "{:10} {:>7.1} s  {}",
            name,
            time.as_secs_f64(),
            if *ok { "ok" } else { "FAILED" }
        );
        total += *time;
    }
    println!("{:10} {:>7.1} s", "all", total.as_secs_f64());
    let failed: Vec<&str> = done.iter().filter(|step| !step.2).map(|step| step.0).collect();
    if !failed.is_empty() {
        let left = chosen - done.len();
        bail!("failed: {}; not run: {left} steps", failed.join(", "));
    }
    Ok(())
}

/// rustfmt and clippy come with the toolchain on most machines; where they do not, asks rustup.
fn install_components() -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if process::succeeds(cargo().args([tool, "--version"])) {
            continue;
        }
        println!("installing {component}");
        process::run(Command::new("rustup").args(["component", "add", component])).with_context(
            || format!("{component} is missing: install it as your Rust was installed"),
        )?;
    }
    Ok(())
}

/// In continuous integration nothing is built twice, so incremental files are only a cost.
pub fn build() -> Command {
    let mut command = cargo();
    if std::env::var_os("CI").is_some() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

fn format() -> Result<()> {
    process::run(cargo().args(["fmt", "--all", "--check"]))
}

fn tidy() -> Result<()> {
    tidy::run(&[])
}

fn licences() -> Result<()> {
    policy::run(&[])
}

fn clippy() -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    process::run(build().args(args))
}

fn docs() -> Result<()> {
    let args = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    process::run(build().args(args).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The tests run the modules that this builds, with a compiler that is fetched where it is missing.
fn guests() -> Result<()> {
    guests::run(&["--install".to_owned()])
}

/// Examples are compiled here too; bounded fuzzing is tests of `weir-fuzz`.
fn tests() -> Result<()> {
    process::run(build().arg("build").args(TARGETS))?;
    // Tests start the node itself, as a process of its own.
    let program = workspace::target_dir()?.join("debug/weir");
    if process::succeeds(cargo().args(["nextest", "--version"])) {
        let run = ["nextest", "run", "--no-fail-fast"];
        return process::run(build().args(run).args(TARGETS).env("WEIR_BIN", program));
    }
    process::run(build().arg("test").args(TARGETS).env("WEIR_BIN", program))
}

fn doctests() -> Result<()> {
    process::run(build().args(["test", "--workspace", "--doc"]))
}

/// With the binary that the tests built: an optimised static one takes minutes, see
/// `cargo xtask dist`.
fn try_dist() -> Result<()> {
    dist::run(&["--debug".to_owned(), "--check".to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one failed step fails the run, and the message names it.
    #[test]
    fn a_failure_is_named() {
        let ok = ("format", Duration::from_secs(1), true);
        let bad = ("clippy", Duration::from_secs(2), false);
        assert!(summary(&[ok], 1).is_ok());
        let message = summary(&[ok, bad], 5).unwrap_err().to_string();
        assert!(message.contains("clippy") && message.contains("3 steps"), "{message}");
        assert!(run(&["no-such-step".to_owned()]).is_err());
    }
}
