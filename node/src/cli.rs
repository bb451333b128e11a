//! The command line: what there is to say, and how a run begins and ends.

use crate::commands;
use crate::exit::{EXIT_CODES_HELP, Exit, Failure};
use crate::logging::{self, LogFormat};
use crate::units::Span;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Durable streams for the edge: one binary, node and client.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  weir node                                   run a node on this machine
  weir topic create readings --partitions 4   make a topic
  echo hello | weir produce readings          append to it
  weir consume readings --from earliest       read it

`weir COMMAND --help` shows all options of a command, with examples.",
    after_long_help = format!("\
Examples:
  weir node                                   run a node on this machine
  weir topic create readings --partitions 4   make a topic
  echo hello | weir produce readings          append to it
  weir consume readings --from earliest       read it

Every client command finds a node that was started on this machine with its default folder.
For others: --server ADDR --ca FILE [--cert FILE --key FILE], or WEIR_SERVER, WEIR_CA, ….

{EXIT_CODES_HELP}"),
)]
pub struct Cli {
    /// What all commands take.
    #[command(flatten)]
    pub globals: Globals,
    /// Which command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The node, as HOST:PORT; several, separated by commas, are tried in turn. Without it the
    /// node of this machine is found through its data folder
    #[arg(long, global = true, env = "WEIR_SERVER", value_name = "ADDR", hide_short_help = true)]
    pub server: Option<String>,
    /// The certificate authority of the node's site (its data folder has it as tls/ca.pem)
    #[arg(long, global = true, env = "WEIR_CA", value_name = "FILE", hide_short_help = true)]
    pub ca: Option<PathBuf>,
    /// Our certificate, as `weir cert client` makes it
    #[arg(long, global = true, env = "WEIR_CERT", value_name = "FILE", hide_short_help = true)]
    pub cert: Option<PathBuf>,
    /// The private key of our certificate
    #[arg(long, global = true, env = "WEIR_KEY", value_name = "FILE", hide_short_help = true)]
    pub key: Option<PathBuf>,
    /// The name that the node's certificate must carry
    #[arg(
        long,
        global = true,
        env = "WEIR_SERVER_NAME",
        value_name = "NAME",
        default_value = weir_transport::NODE_SERVER_NAME,
        hide_short_help = true
    )]
    pub server_name: String,
    /// Longest time that connecting, and each request, may take
    #[arg(
        long,
        global = true,
        env = "WEIR_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        hide_short_help = true
    )]
    pub timeout: Span,
    /// The node's data folder: where a node keeps everything, and where clients on the same
    /// machine find its address
    #[arg(long, global = true, env = "WEIR_DATA_DIR", value_name = "DIR", hide_short_help = true)]
    pub data_dir: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What is logged to stderr: error, warn, info, debug, trace, or levels per crate such as
    /// `info,weir_log=debug` [default: info for a node, warn for other commands]
    #[arg(long, global = true, value_name = "LEVEL", hide_short_help = true)]
    pub log_level: Option<String>,
    /// How it is logged
    #[arg(long, global = true, value_enum, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node
    Node(commands::node::Args),
    /// Make, show, change and delete topics
    #[command(subcommand)]
    Topic(commands::topic::Command),
    /// Append records from stdin or files to a topic
    Produce(commands::produce::Args),
    /// Read records of a topic
    Consume(commands::consume::Args),
    /// Collect real inputs: sensors of this machine, GPS receivers, log files, CSV
    Collect(commands::collect::Args),
    /// Show, move and delete the stored positions of consumer groups
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Write, try and inspect modules: filters, transforms and consumers in WebAssembly
    Module(commands::module::Args),
    /// Run modules between topics, exactly once
    #[command(subcommand)]
    Transform(commands::transform::Command),
    /// Run modules that read a topic and do something with it
    #[command(subcommand)]
    Consumer(commands::consumer::Command),
    /// Show and replay the records that modules could not work on
    #[command(subcommand)]
    DeadLetter(commands::dead_letter::Command),
    /// Show what a node is doing, one line a partition
    Status(commands::status::Args),
    /// Show how a cluster of nodes is
    #[command(subcommand)]
    Cluster(commands::cluster::Command),
    /// Run a node, collect real data and show it live; ends by itself
    Demo(commands::demo::Args),
    /// Measure a node, its log and its disk
    Bench(commands::bench::Args),
    /// Issue and show certificates
    #[command(subcommand)]
    Cert(commands::cert::Command),
    /// Say what a damaged log would lose, and go on without it
    Repair(commands::repair::Args),
    /// Print completions for a shell
    Completions(commands::completions::Args),
}

/// The command line's definition: what is derived, and exit codes in the help of every command.
pub fn definition() -> clap::Command {
    with_exit_codes(Cli::command())
}

fn with_exit_codes(mut command: clap::Command) -> clap::Command {
    if command.has_subcommands() {
        return command.mut_subcommands(with_exit_codes);
    }
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command = command.after_long_help(format!("{text}\n\n{EXIT_CODES_HELP}"));
    command
}

/// Reads the command line, runs the command and gives the exit code.
pub fn main() -> ExitCode {
    let read = definition().try_get_matches().and_then(|found| Cli::from_arg_matches(&found));
    let cli = match read {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // Nobody is left to tell if the stream is gone.
            let _ = error.print();
            return if wrong { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    let json = cli.globals.json;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let globals = &cli.globals;
    // A node logs as its configuration says, and says so itself.
    if !matches!(cli.command, Command::Node(_)) {
        let format = globals.log_format.unwrap_or(LogFormat::Text);
        logging::start(format, globals.log_level.as_deref().unwrap_or("warn"))?;
    }
    logging::abort_on_panic();
    // One thread drives all network I/O: measured faster than several on the small machines that
    // this is for. What blocks (files, the log) has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Node(args) => commands::node::run(args, globals).await,
            Command::Topic(command) => commands::topic::run(command, globals).await,
            Command::Produce(args) => commands::produce::run(args, globals).await,
            Command::Consume(args) => commands::consume::run(args, globals).await,
            Command::Collect(args) => commands::collect::run(args, globals).await,
            Command::Group(command) => commands::group::run(command, globals).await,
            Command::Module(args) => commands::module::run(args, globals).await,
            Command::Transform(command) => commands::transform::run(command, globals).await,
            Command::Consumer(command) => commands::consumer::run(command, globals).await,
            Command::DeadLetter(command) => commands::dead_letter::run(command, globals).await,
            Command::Status(args) => commands::status::run(args, globals).await,
            Command::Cluster(command) => commands::cluster::run(command, globals).await,
            Command::Demo(args) => commands::demo::run(args, globals).await,
            Command::Bench(args) => commands::bench::run(args, globals).await,
            Command::Cert(command) => commands::cert::run(command, globals).await,
            Command::Repair(args) => commands::repair::run(args, globals).await,
            Command::Completions(args) => commands::completions::run(&args),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    /// Goal: every command says what it does, with examples, its exit codes and how to get JSON.
    #[test]
    fn every_command_has_help() {
        let mut leaves = 0;
        check(definition(), "", &mut leaves);
        assert!(leaves >= 30, "{leaves} commands");
    }

    fn check(mut command: clap::Command, path: &str, leaves: &mut u32) {
        command.build();
        let path = format!("{path} {}", command.get_name()).trim().to_owned();
        assert!(command.get_about().is_some(), "{path} says nothing about itself");
        let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
        let subcommands: Vec<_> =
            subcommands.into_iter().filter(|sub| sub.get_name() != "help").collect();
        let help = command.render_long_help().to_string();
        if subcommands.is_empty() {
            *leaves += 1;
            for part in ["\nExamples:\n", "\nExit codes:\n", "--json"] {
                assert!(help.contains(part), "`{path} --help` lacks {part:?}:\n{help}");
            }
        }
        for sub in subcommands {
            check(sub, &path, leaves);
        }
    }
}
