//! The options of `weir consume`.

use std::io::IsTerminal;

use weir_client::ResetPolicy;
use weir_core::module::name::ModuleRef;
use weir_core::wire::message::{FilterOnError, FilterSpec, StartAt};

use super::format::{Format, Formatter};
use super::from::From;
use crate::cli::Globals;
use crate::exit::Failure;
use crate::units::Span;

/// Characters of a line where the width of the terminal is unknown.
const WIDTH_DEFAULT: usize = 80;
/// Fewer make no table.
const WIDTH_MIN: usize = 60;

/// Arguments of `weir consume`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir consume readings                                    what comes from now on
  weir consume readings --from earliest --until-end        all that is there
  weir consume readings --from -10m --format table         since ten minutes ago
  weir consume readings --from 2026-01-31T13:00:00Z -n 100 --format json
  weir consume readings --group dashboard                  go on where the group stopped
  weir consume readings --group dashboard --instance hall  the same; over restarts nothing moves
  weir consume gps.position host.sensors --format json --nested | jq .value
  weir consume app.log --filter text-filter@1.0.0 --param text=ERROR

Records of one partition come in their order; partitions come as they come. Processes of one group
share the partitions: each is printed by one of them, and where one ends or is silent for its
session, others go on. A group's position is stored once what stands before it was written to the
output, so after a crash some records may be printed again, and none is left out.")]
pub struct Args {
    /// The topics
    #[arg(required = true)]
    pub topics: Vec<String>,
    /// Where to begin: earliest, latest, an offset, a time (UTC unless it names a zone), or -10m
    /// for ten minutes ago. With --group: where it has no position yet [default: latest, or
    /// earliest with --until-end or --group]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    pub from: Option<From>,
    /// End where the log ends now instead of waiting for more
    #[arg(long)]
    pub until_end: bool,
    /// Take records from the node that is connected to if it has a copy in sync, also where
    /// another one leads
    #[arg(long)]
    pub nearest: bool,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "RECORDS")]
    pub count: Option<u64>,
    /// Only this partition; may be given several times. With --group: these, shared with nobody
    #[arg(long = "partition", short = 'p', value_name = "NUMBER")]
    pub partitions: Vec<u32>,
    /// How records are printed [default: raw, or json with --json]
    #[arg(long, short, value_enum)]
    pub format: Option<Format>,
    /// Go on where this group stopped, share the partitions with its other members, and store how
    /// far it got
    #[arg(long, short, value_name = "NAME")]
    pub group: Option<String>,
    /// A name that this member of the group keeps over restarts: it gets its partitions back
    #[arg(long, value_name = "NAME", requires = "group", conflicts_with = "partitions")]
    pub instance: Option<String>,
    /// How long this member may be silent before others get its partitions [default: 10s]
    #[arg(long, value_name = "TIME", requires = "group", conflicts_with = "partitions")]
    pub session_timeout: Option<Span>,
    /// Raw: print the key before the value
    #[arg(long)]
    pub keys: bool,
    /// Print headers, too
    #[arg(long)]
    pub headers: bool,
    /// Raw: what stands between headers, key and value; \t and \n are known
    #[arg(long, value_name = "TEXT", default_value = "\\t", value_parser = parse_separator)]
    pub separator: Separator,
    /// JSON: make values that are JSON part of the object
    #[arg(long)]
    pub nested: bool,
    /// Have this module decide, in the node, which records are sent; `weir module list` shows them
    #[arg(long, value_name = "NAME@VERSION")]
    pub filter: Option<ModuleRef>,
    /// A parameter of the filter; may be given several times
    #[arg(
        long = "param", value_name = "NAME=VALUE", requires = "filter",
        value_parser = crate::commands::module::parse_param
    )]
    pub params: Vec<(String, String)>,
    /// What becomes of a record that the filter cannot judge [default: fail]
    #[arg(long, value_enum, requires = "filter")]
    pub on_error: Option<OnError>,
}

/// What becomes of a record that a filter cannot judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// End, and say at which offset
    Fail,
    /// Leave it out
    Drop,
    /// Print it
    Keep,
}

/// What stands between the parts of a raw record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Separator(pub Vec<u8>);

impl Args {
    /// Where partitions without a stored position begin.
    pub fn from(&self) -> From {
        let earliest = self.until_end || self.group.is_some();
        let default = if earliest { StartAt::Earliest } else { StartAt::Latest };
        self.from.unwrap_or(From::At(default))
    }

    /// Whether to be a member of the group, which says which partitions to read.
    pub fn is_member(&self) -> bool {
        self.group.is_some() && self.partitions.is_empty()
    }

    /// What happens where a position is no longer in the log.
    pub fn reset(&self) -> ResetPolicy {
        match self.from() {
            From::At(StartAt::Latest) => ResetPolicy::Latest,
            // An offset asked for by number is meant.
            From::At(StartAt::Offset(_)) if self.group.is_none() => ResetPolicy::Fail,
            _ => ResetPolicy::Earliest,
        }
    }

    /// The filter asked for.
    pub fn filter(&self) -> Option<FilterSpec> {
        let module = self.filter.clone()?;
        let on_error = match self.on_error {
            None | Some(OnError::Fail) => FilterOnError::Fail,
            Some(OnError::Drop) => FilterOnError::Drop,
            Some(OnError::Keep) => FilterOnError::Keep,
        };
        Some(FilterSpec { module, params: self.params.iter().cloned().collect(), on_error })
    }

    /// How records are printed.
    ///
    /// # Errors
    /// Options that do not go together.
    pub fn formatter(&self, globals: &Globals) -> Result<Formatter, Failure> {
        let default = if globals.json { Format::Json } else { Format::Raw };
        let format = self.format.unwrap_or(default);
        if globals.json && format != Format::Json {
            return Err(Failure::usage("--json and --format ask for different outputs"));
        }
        if self.nested && format != Format::Json {
            return Err(Failure::usage("--nested needs --format json"));
        }
        Ok(Formatter {
            format,
            keys: self.keys,
            headers: self.headers,
            separator: self.separator.0.clone(),
            nested: self.nested,
            width: terminal_width(),
            topics: self.topics.len() > 1,
        })
    }
}

/// Characters of a line of stdout; without bound where it is no terminal.
fn terminal_width() -> usize {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return usize::MAX;
    }
    match rustix::termios::tcgetwinsize(&stdout) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col).max(WIDTH_MIN),
        _ => WIDTH_DEFAULT,
    }
}

fn parse_separator(text: &str) -> Result<Separator, String> {
    let text = text.replace("\\t", "\t").replace("\\n", "\n").replace("\\0", "\0");
    Ok(Separator(text.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use weir_core::Offset;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        let words = std::iter::once("consume").chain(line.split(' '));
        Line::try_parse_from(words).unwrap().args
    }

    /// Goal: the beginning is what a person would expect without saying it, and a position that
    /// is gone is an error only where it was asked for by number.
    #[test]
    fn beginnings() {
        let at = |line: &str| (args(line).from(), args(line).reset());
        assert_eq!(at("t"), (From::At(StartAt::Latest), ResetPolicy::Latest));
        assert_eq!(at("t --until-end"), (From::At(StartAt::Earliest), ResetPolicy::Earliest));
        assert_eq!(at("t --group g"), (From::At(StartAt::Earliest), ResetPolicy::Earliest));
        let offset = From::At(StartAt::Offset(Offset(7)));
        assert_eq!(at("t --from 7"), (offset, ResetPolicy::Fail));
        assert_eq!(at("t --from 7 --group g"), (offset, ResetPolicy::Earliest));
        assert!(matches!(at("t --from -10m"), (From::Ago(_), ResetPolicy::Earliest)));
        assert!(args("t --group g").is_member() && !args("t --group g -p 1").is_member());
        assert!(!args("t").is_member());
        assert_eq!(args("t --separator \\t|\\n").separator.0, b"\t|\n");
        assert_eq!(args("t u -p 1 -p 2 -n 5").partitions, [1, 2]);
    }
}
