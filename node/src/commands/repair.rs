//! `weir repair`: what a damaged log would lose, and going on without it.

use crate::cli::Globals;
use crate::config::{self, Sources};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use crate::start;
use serde_json::json;
use std::path::PathBuf;
use weir_broker::{Losses, StartError};
use weir_core::PartitionId;
use weir_log::{Loss, OpenError, PartitionLoss};

/// Arguments of `weir repair`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir repair                                   say what cannot be read, and what going on loses
  weir repair --data-dir /var/lib/weir
  weir repair --accept-loss                     go on without it

A node whose newest log file of a shard was damaged while it did not run starts, serves what it can
read and takes no appends for that shard: it gives up nothing by itself. If the file cannot be
brought back (from a backup, or a disk that reads again), this command goes on without it:
partitions of the shard continue at offsets that were never used, in a new leader epoch; reading
what is lost
answers `corrupt` with the offset to go on from; the damaged file is kept under a name that ends in
.lost. Run it while the node is stopped. Without --accept-loss nothing is given up.")]
pub struct Args {
    /// Give up what cannot be read, and go on
    #[arg(long)]
    accept_loss: bool,
    /// The node's configuration file (TOML) [env: WEIR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command. Works on the data folder of a node that is not running.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let losses = find(&args, globals)?;
    if losses.losses.is_empty() {
        return match globals.json {
            true => output::print_json(&json!({ "losses": [], "accepted": false })),
            false => output::print_line("Nothing is damaged that a node could not go on from."),
        };
    }
    // Before anything is given up.
    if !globals.json {
        output::print(&text(&losses))?;
    }
    let described = args.accept_loss.then(|| describe(&losses));
    if !args.accept_loss {
        if globals.json {
            output::print_json(&json!({ "losses": describe(&losses), "accepted": false }))?;
        }
        return Err(Failure::new(Exit::Error, "the log lost what is named above")
            .next("bring the file back if you can; `weir repair --accept-loss` goes on without"));
    }
    let aside = losses.accept().map_err(failure)?;
    if globals.json {
        let losses = described.unwrap_or_default();
        return output::print_json(&json!({ "losses": losses, "accepted": true, "kept": aside }));
    }
    for file in &aside {
        output::print_line(&format!("Accepted. The damaged file is kept as {}.", file.display()))?;
    }
    output::print_line("The node can be started again.")
}

fn find(args: &Args, globals: &Globals) -> Result<Losses, Failure> {
    let data_dir = globals.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
    let flags = data_dir.map(|dir| ("data_dir".to_owned(), "--data-dir".to_owned(), dir));
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let file = start::config_file(args.config.as_ref());
    let sources = Sources { file, environment, flags: flags.into_iter().collect() };
    let (settings, _) = config::load(&sources).map_err(|e| Failure::usage(e.to_string()))?;
    let config = start::broker_config(&settings).map_err(Failure::usage)?;
    if !config.data_dir.join("log").is_dir() {
        let what = format!("{} has no log of a node", config.data_dir.display());
        return Err(Failure::new(Exit::Error, what).next("--data-dir DIR says where it is"));
    }
    Losses::find(&config).map_err(failure)
}

fn failure(error: StartError) -> Failure {
    let failure = Failure::new(Exit::Error, error.to_string());
    match error {
        StartError::Log(OpenError::InUse(_)) => failure.next("stop the node first"),
        _ => failure,
    }
}

fn label(losses: &Losses, partition: PartitionId) -> String {
    losses.name(partition).map_or_else(|| format!("deleted ({partition})"), ToOwned::to_owned)
}

fn text(losses: &Losses) -> String {
    let mut text = String::new();
    for loss in &losses.losses {
        text += &format!("Shard {}: {} cannot be read.\n", loss.shard, loss.file.display());
        text += &format!("  {}\n\n", loss.reason);
        let mut table = Table::new(&["PARTITION", ">LOST FROM", ">SEEN UP TO", ">GOES ON AT"]);
        for lost in &loss.partitions {
            let seen = lost.seen_end.map_or_else(|| "-".to_owned(), |end| end.to_string());
            let (from, resume) = (lost.from.to_string(), lost.resume.to_string());
            table.row([label(losses, lost.partition), from, seen, resume]);
        }
        text += &table.render();
        text += "\nOf each partition all records from `lost from` on are lost, if it had any \
                 there; `seen up to`\nis where the newest record ended that can still be made out \
                 in the file.\n\n";
    }
    text
}

fn describe(losses: &Losses) -> Vec<serde_json::Value> {
    let partition = |lost: &PartitionLoss| {
        json!({
            "partition": label(losses, lost.partition),
            "id": lost.partition.0,
            "lost_from": lost.from.0,
            "seen_end": lost.seen_end.map(|end| end.0),
            "resume": lost.resume.0,
        })
    };
    let loss = |loss: &Loss| {
        let partitions: Vec<_> = loss.partitions.iter().map(partition).collect();
        json!({
            "shard": loss.shard, "file": loss.file, "reason": loss.reason,
            "partitions": partitions,
        })
    };
    losses.losses.iter().map(loss).collect()
}
