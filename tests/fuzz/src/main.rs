//! The fuzz targets on the command line; `cargo xtask fuzz` runs this.

use anyhow::{Context, Result, bail};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use weir_fuzz::driver::{self, Plan};
use weir_fuzz::{Target, golden, hex, targets};

const HELP: &str = "\
Usage: cargo xtask fuzz [TARGET] [OPTIONS]

  --seconds N      stop after this time; all targets together (60, unless --iterations is given)
  --iterations N   stop after so many inputs a target
  --seed N         choose other inputs (otherwise by chance, and printed)
  --iteration N    only this one, as a failure's report says
  --input HEX      only this input
  --list           names of all targets
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    target: Option<String>,
    seconds: Option<u64>,
    iterations: Option<u64>,
    seed: Option<u64>,
    iteration: Option<u64>,
    input: Option<String>,
}

fn run(args: &[String]) -> Result<()> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => options.seconds = Some(value()?.parse()?),
            "--iterations" => options.iterations = Some(value()?.parse()?),
            "--seed" => options.seed = Some(value()?.parse()?),
            "--iteration" => options.iteration = Some(value()?.parse()?),
            "--input" => options.input = Some(value()?.clone()),
            // For `cargo xtask golden`.
            "--write-golden" => return write_golden(value()?),
            "--list" => {
                targets::all().iter().for_each(|target| println!("{}", target.name));
                return Ok(());
            }
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(());
            }
            name if !name.starts_with('-') => options.target = Some(name.to_owned()),
            other => bail!("unknown option {other:?}\n{HELP}"),
        }
    }
    let chosen = match &options.target {
        Some(name) => vec![targets::named(name).with_context(|| format!("no target {name:?}"))?],
        None => targets::all(),
    };
    fuzz(&options, &chosen)
}

fn write_golden(version: &str) -> Result<()> {
    let number = version.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
    number.with_context(|| format!("{version:?} is no version folder: v1, v2, ..."))?;
    let folder = golden::folder().join(version);
    println!("{} golden files in tests/golden/{version}", golden::write(&folder)?);
    Ok(())
}

fn fuzz(options: &Options, chosen: &[Target]) -> Result<()> {
    if let Some(input) = &options.input {
        let [target] = chosen else { bail!("--input needs one target") };
        let (verdict, memory) =
            driver::check(target, &hex::decode(input)?).map_err(anyhow::Error::msg)?;
        println!("{}: {verdict:?}, {memory} bytes of memory", target.name);
        return Ok(());
    }
    let plan = plan(options, chosen.len());
    println!("seed {}", plan.seed);
    let mut failures = 0;
    for target in chosen {
        let begun = Instant::now();
        match driver::run(target, &plan) {
            Ok(report) => println!(
                "{:16} {:>10} inputs in {:>5.1} s, {:>3} % accepted, at most {} KiB of memory",
                target.name,
                report.iterations,
                begun.elapsed().as_secs_f64(),
                100 * report.accepted / report.iterations.max(1),
                report.memory_bytes / 1024,
            ),
            Err(failure) => {
                failures += 1;
                println!("{failure}");
            }
        }
    }
    if failures > 0 {
        bail!("{failures} of {} targets failed", chosen.len());
    }
    Ok(())
}

fn plan(options: &Options, targets: usize) -> Plan {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let unbounded = options.iterations.is_none() && options.iteration.is_none();
    let seconds = options.seconds.or(unbounded.then_some(60));
    Plan {
        seed,
        first: options.iteration.unwrap_or(0),
        iterations: match options.iteration {
            Some(_) => 1,
            None => options.iterations.unwrap_or(u64::MAX),
        },
        time: seconds.map(|seconds| Duration::from_secs(seconds) / targets as u32),
    }
}
