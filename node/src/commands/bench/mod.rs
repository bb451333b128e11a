//! `weir bench`: how fast a node, its log and its machine are. Nothing here is a test: figures
//! are for people to judge, as ratios to what the machine does in the same run.

mod args;
mod baseline;
mod consume;
mod disk;
mod e2e;
mod load;
mod payload;
mod produce;
mod replicas;
mod report;
mod steady;
mod sweep;
mod target;
mod wear;

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value};

pub use args::Args;

use crate::cli::Globals;
use crate::commands::sdk;
use crate::exit::{CommandResult, Failure};
use crate::output;
use crate::units::Span;
use args::{AllArgs, What};
use report::Report;
use target::{Scratch, Target};

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    tokio::select! {
        biased;
        // Dropping the work kills the node and removes its folder.
        () = sdk::interrupted() => Err(Failure::interrupted("interrupted")),
        result = dispatch(args.what, globals) => result,
    }
}

async fn dispatch(what: What, globals: &Globals) -> CommandResult {
    match what {
        What::All(args) => all(&args, globals).await,
        what => measure(&what, globals).await?.print(globals.json),
    }
}

/// Runs one bench on a node of its own, or on the one that the options name.
async fn measure(what: &What, globals: &Globals) -> Result<Report, Failure> {
    if let What::Disk(args) = what {
        let scratch = Scratch::create(place(what))?;
        return disk::run(scratch.path(), args).await;
    }
    if let What::Wear(args) = what {
        return wear::run(globals, args).await;
    }
    if matches!(what, What::Replicas(_)) && globals.server.is_none() {
        let message = "this bench needs a running cluster: name one of its nodes with --server";
        return Err(Failure::usage(message));
    }
    let mut target = Target::open(globals, place(what)).await?;
    let report = match what {
        What::Produce(args) => produce::run(&mut target, args).await,
        What::Consume(args) => consume::run(&mut target, args).await,
        What::E2e(args) => e2e::run(&mut target, args).await,
        What::Sweep(args) => sweep::run(&mut target, args).await,
        What::Steady(args) => steady::steady(&mut target, args).await,
        What::Idle(args) => steady::idle(&mut target, args).await,
        What::Replicas(args) => replicas::run(&mut target, args).await,
        // The first needs no node, the others need several.
        What::Disk(_) | What::Wear(_) | What::All(_) => {
            Err(Failure::usage("not a bench of a node"))
        }
    };
    target.close().await;
    report
}

fn place(what: &What) -> &Path {
    match what {
        What::Produce(args) => &args.place.dir,
        What::Consume(args) => &args.place.dir,
        What::E2e(args) => &args.place.dir,
        What::Disk(args) => &args.place.dir,
        What::Sweep(args) => &args.place.dir,
        What::Steady(args) => &args.place.dir,
        What::Wear(args) => &args.place.dir,
        What::Idle(args) => &args.place.dir,
        What::Replicas(args) => &args.place.dir,
        What::All(args) => &args.place.dir,
    }
}

/// Runs them all, each on a fresh node, and prints one object with a report for each.
async fn all(args: &AllArgs, globals: &Globals) -> CommandResult {
    let mut reports = Map::new();
    for (name, mut what) in plan()? {
        if args.quick {
            shorten(&mut what);
        }
        set_place(&mut what, &args.place.dir);
        let report = measure(&what, globals).await?;
        if !globals.json {
            report.print(false)?;
        }
        let value = serde_json::to_value(&report).unwrap_or(Value::Null);
        reports.insert(name.to_owned(), value);
    }
    if globals.json { output::print_json(&reports) } else { Ok(()) }
}

/// The benches of `all`, as they would be written on the command line.
const ALL: [(&str, &str); 11] = [
    ("disk", "disk"),
    ("produce_1k", "produce"),
    ("produce_100", "produce --record-size 100 --round-mib 64"),
    ("produce_per_record", "produce --record-size 100 --round-mib 64 --per-record --no-compare"),
    ("consume_1k", "consume"),
    ("consume_100", "consume --record-size 100 --total-mib 128"),
    ("sweep", "sweep"),
    ("e2e", "e2e"),
    ("steady", "steady"),
    ("wear", "wear"),
    ("idle", "idle"),
];

fn plan() -> Result<Vec<(&'static str, What)>, Failure> {
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let parse = |(name, line): &(&'static str, &str)| {
        let words = std::iter::once("bench").chain(line.split(' '));
        match Line::try_parse_from(words) {
            Ok(line) => Ok((*name, line.args.what)),
            Err(error) => Err(Failure::usage(error.to_string())),
        }
    };
    ALL.iter().map(parse).collect()
}

/// A tenth of the work.
fn shorten(what: &mut What) {
    let span = |span: &mut Span| *span = Span((span.0 / 10).max(Duration::from_millis(100)));
    match what {
        What::Produce(args) => (args.round_mib, args.rounds) = (args.round_mib.div_ceil(10), 2),
        What::Consume(args) => (args.total_mib, args.rounds) = (args.total_mib.div_ceil(10), 2),
        What::Sweep(args) => args.case_mib = args.case_mib.div_ceil(10),
        What::Disk(args) => {
            span(&mut args.duration);
            args.rounds = 1;
        }
        What::E2e(args) => span(&mut args.duration),
        What::Steady(args) => span(&mut args.duration),
        What::Wear(args) => span(&mut args.duration),
        What::Idle(args) => span(&mut args.duration),
        What::Replicas(args) => (args.round_mib, args.rounds) = (args.round_mib.div_ceil(10), 2),
        What::All(_) => {}
    }
}

fn set_place(what: &mut What, dir: &Path) {
    let place = match what {
        What::Produce(args) => &mut args.place,
        What::Consume(args) => &mut args.place,
        What::E2e(args) => &mut args.place,
        What::Disk(args) => &mut args.place,
        What::Sweep(args) => &mut args.place,
        What::Steady(args) => &mut args.place,
        What::Wear(args) => &mut args.place,
        What::Idle(args) => &mut args.place,
        What::Replicas(args) => &mut args.place,
        What::All(args) => &mut args.place,
    };
    place.dir = dir.to_owned();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what `all` runs can be written on the command line, and `--quick` shortens each.
    #[test]
    fn all_benches_are_there() {
        let mut planned = plan().unwrap();
        assert_eq!(planned.len(), ALL.len());
        for (name, what) in &mut planned {
            let before = format!("{what:?}");
            shorten(what);
            assert_ne!(format!("{what:?}"), before, "{name}");
            set_place(what, Path::new("/x"));
            assert_eq!(place(what), Path::new("/x"), "{name}");
        }
    }
}
