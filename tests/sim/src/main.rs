//! The long run: `cargo run -p weir-sim -- --seeds N --from S`, or `--minutes M`.

use clap::Parser;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use weir_sim::checks::Coverage;
use weir_sim::{Mutation, World};

/// Runs seeds, and prints those that break an invariant.
#[derive(Parser)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// For how long, instead.
    #[arg(long)]
    minutes: Option<u64>,
    /// What to break on purpose.
    #[arg(long, value_enum, default_value_t = Mutation::None)]
    mutation: Mutation,
    /// Tell what happens.
    #[arg(long)]
    verbose: bool,
    /// Stop at so many failed seeds.
    #[arg(long, default_value_t = 5)]
    failures: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let budget = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let count = args.seeds.unwrap_or(if budget.is_some() { u64::MAX } else { 100 });
    let (mut ran, mut failed, mut acknowledged, mut elections) = (0, 0, 0, 0);
    let mut cuts = (0, 0);
    let mut coverage = Coverage::default();
    for seed in (args.from..).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        if budget.is_some_and(|budget| began.elapsed() > budget) || failed >= args.failures {
            break;
        }
        let outcome = run_named(seed, args.mutation, args.verbose);
        ran += 1;
        if ran % 500 == 0 {
            eprintln!("{ran} seeds, {failed} failed, {:.0} s", began.elapsed().as_secs_f64());
        }
        acknowledged += outcome.acknowledged;
        elections += outcome.elections;
        cuts = (cuts.0 + outcome.cuts.0, cuts.1 + outcome.cuts.1);
        coverage += outcome.coverage;
        if outcome.violations.is_empty() {
            continue;
        }
        failed += 1;
        println!("seed {seed} failed: cargo run -p weir-sim -- --seeds 1 --from {seed}");
        for violation in outcome.violations.iter().take(5) {
            println!("  {}: {}", violation.checker, violation.text);
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{ran} seeds from {} in {took:.1} s: {failed} failed, {acknowledged} acknowledgements, \
         {elections} elections, {} logs cut, {} begun anew",
        args.from, cuts.0, cuts.1
    );
    println!("{coverage:?}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic of the code under test must say which seed it was.
fn run_named(seed: u64, mutation: Mutation, verbose: bool) -> weir_sim::Outcome {
    match std::panic::catch_unwind(|| World::new(seed, mutation, verbose).run()) {
        Ok(outcome) => outcome,
        Err(panic) => {
            eprintln!("seed {seed} panicked: cargo run -p weir-sim -- --seeds 1 --from {seed}");
            std::panic::resume_unwind(panic)
        }
    }
}
