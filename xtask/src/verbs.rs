//! The small verbs.

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::time::{Duration, Instant};

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

/// The tests of real processes whose faults a seed or a number can vary.
const ENDURANCE: [&str; 4] = ["faults", "cluster", "exactly_once", "kill"];

/// `cargo xtask endure`: real nodes under kills and bad links, round after round, until the time is
/// over. Each round has a seed of its own, which a failure names.
///
/// # Errors
/// If a round fails, which is the end.
pub fn endure(args: &[String]) -> Result<()> {
    let (mut minutes, mut seed) = (60_u64, 1_u64);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a number"))?;
        let number = value.parse().with_context(|| format!("{word} {value}"))?;
        match word.as_str() {
            "--minutes" => minutes = number,
            "--seed" => seed = number,
            other => bail!("unknown option {other}: endure takes --minutes and --seed"),
        }
    }
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let first = seed;
    while seed == first || Instant::now() < end {
        println!("round of seed {seed}");
        let mut command = process::cargo();
        command.args(["test", "--workspace"]);
        for test in ENDURANCE {
            command.args(["--test", test]);
        }
        command.args(["--", "--nocapture", "--test-threads=1"]);
        // More than what CI does, and another order of faults each time.
        let settings = [
            ("WEIR_FAULT_SEED", seed),
            ("WEIR_FAULTS", 18),
            ("WEIR_KILLS", 12),
            ("WEIR_TRANSFORM_FAILOVERS", 12),
            ("WEIR_TRANSFORM_KILLS", 40),
        ];
        command.envs(settings.map(|(name, number)| (name, number.to_string())));
        process::run(&mut command)
            .with_context(|| format!("again: cargo xtask endure --minutes 0 --seed {seed}"))?;
        seed += 1;
    }
    println!("{} rounds, from seed {first} on", seed - first);
    Ok(())
}
