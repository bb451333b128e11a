//! Logs: `tracing` to stderr, as text or JSON; and what happens when the program panics.

use crate::exit::Failure;
use std::io::IsTerminal;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The name, as it is set.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// Sends logs of `level` (or levels per crate, `info,weir_log=debug`) to stderr.
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = parse_level(level).map_err(Failure::usage)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| Failure::from(anyhow::Error::from(error)))
}

/// Reads a level, or levels per crate.
pub fn parse_level(text: &str) -> Result<Targets, String> {
    let wrong = || {
        format!(
            "`{text}` is not a log level: use error, warn, info, debug, trace or off, or levels \
             per crate such as `info,weir_log=debug`"
        )
    };
    text.parse::<Targets>().map_err(|_| wrong()).and_then(|targets| {
        // `Targets` takes any bare word for a crate's name; a level is what was meant.
        let known = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let bare_ok = text.split(',').filter(|part| !part.contains('=')).all(known);
        // What openraft says of each message that a dead node does not answer is an error to it;
        // the controller says what matters of it. Whoever names it hears it.
        let quiet = match text.contains("openraft") {
            true => targets,
            false => targets.with_target("openraft", tracing_subscriber::filter::LevelFilter::OFF),
        };
        if bare_ok { Ok(quiet) } else { Err(wrong()) }
    })
}

/// From here on a panic is logged and ends the process, on whatever thread it happens.
///
/// A panic is a bug, and a task or thread that died of one would leave a node that half works. The
/// exception is the storage engine's panic on a rotten page, which the log catches and turns into
/// a quarantined file.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("(no message)");
        if weir_log::panic_is_contained() {
            tracing::warn!(place, "the storage engine panicked, which is contained: {message}");
            return;
        }
        tracing::error!(thread = thread.name(), place, "panic, a bug: {message}; ending");
        eprintln!("weir: panic, which is a bug: {message} ({place})");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in ["info", "warn,weir_log=debug", "OFF", "weir_broker=trace"] {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        for wrong in ["inof", "weir_log=loud", "info,weir_log"] {
            assert!(parse_level(wrong).is_err(), "{wrong}");
        }
    }
}
