//! `weir node`: runs a node.

use crate::cli::Globals;
use crate::config::{self, Detail, Settings, Sources};
use crate::exit::{CommandResult, Exit, Failure};
use crate::join::JoinArgs;
use crate::{logging, output, start};
use std::path::PathBuf;

/// Arguments of `weir node`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir node                                            this machine only, default folder
  weir node --data-dir ./data --listen 127.0.0.1:0     another folder, any free port
  weir node --listen 0.0.0.0:7447                      for other machines, with certificates
  weir node --listen 10.0.0.2:7447 --join 10.0.0.1:7447 --token TOKEN
                                                       a new node of a cluster, once
  weir node --config /etc/weir/weir.toml
  weir node --print-config > weir.toml                 every setting, documented
  weir node --print-config --json                      every setting, for programs

Settings come from defaults, the configuration file, the environment (WEIR_LISTEN,
WEIR_STORAGE_FILE_SIZE, …) and flags; later ones win. SIGTERM or Ctrl-C ends the node in order, a
second one at once; neither loses anything acknowledged.")]
pub struct Args {
    /// The configuration file (TOML) [env: WEIR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where clients connect (UDP), address and port [default: 127.0.0.1:7447]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where /health, /metrics and /status are served, or `off` [default: 127.0.0.1:7448]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// The node's name [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Let clients without a certificate do this, whatever address is listened on: roles,
    /// separated by commas
    #[arg(
        long,
        value_name = "ROLES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "admin"
    )]
    insecure_anonymous: Option<String>,
    #[command(flatten)]
    join: JoinArgs,
    /// Set any setting by its name, as `--print-config` shows it: --set storage.shards=2
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
    /// Print every setting with its documentation and its value here, as a configuration file;
    /// `defaults`: as it is without file, environment and flags
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "effective"
    )]
    print_config: Option<Printed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Printed {
    /// What a node started so would use.
    Effective,
    /// The same on every machine.
    Defaults,
}

/// Runs the node, or prints its configuration.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    if args.print_config == Some(Printed::Defaults) {
        return print_config(&Settings::default(), Detail::Plain, globals.json);
    }
    let sources = sources(&args, globals)?;
    let (settings, warnings) = config::load(&sources).map_err(|error| {
        Failure::usage(error.to_string()).next("`weir node --print-config=defaults` lists all")
    })?;
    if args.print_config.is_some() {
        return print_config(&settings, Detail::Here, globals.json);
    }
    logging::start(settings.log_format, &settings.log_level)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    args.join.run(&settings).await?;
    start::run(&settings).await
}

/// As a configuration file, or as JSON with the same sections and without the documentation.
fn print_config(settings: &Settings, detail: Detail, json: bool) -> CommandResult {
    let text = config::print(settings, detail);
    if !json {
        return output::print(&text);
    }
    let parsed = text.parse::<toml::Table>();
    let table = parsed.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    output::print_json(&table)
}

fn sources(args: &Args, globals: &Globals) -> Result<Sources, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut flags = Vec::new();
    for set in &args.sets {
        let Some((key, value)) = set.split_once('=') else {
            return Err(Failure::usage(format!("--set {set}: write NAME=VALUE")));
        };
        flags.push((key.trim().to_owned(), format!("--set {set}"), value.to_owned()));
    }
    // The folder is a global option, which clap has already taken from WEIR_DATA_DIR, too.
    let data_dir = globals.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
    let log_format = globals.log_format.map(|format| format.name().to_owned());
    for (key, flag, value) in [
        ("data_dir", "--data-dir", &data_dir),
        ("listen", "--listen", &args.listen),
        ("http", "--http", &args.http),
        ("name", "--name", &args.name),
        ("access.anonymous", "--insecure-anonymous", &args.insecure_anonymous),
        ("logging.level", "--log-level", &globals.log_level),
        ("logging.format", "--log-format", &log_format),
    ] {
        if let Some(value) = value {
            flags.push((key.to_owned(), flag.to_owned(), value.clone()));
        }
    }
    let file = start::config_file(args.config.as_ref());
    Ok(Sources { file, environment, flags })
}
