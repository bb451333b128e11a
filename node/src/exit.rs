//! How the program ends: exit codes, and errors that say what happened, whether it took effect
//! and what to do next.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use weir_core::wire::{ErrorCode, Outcome, WireError};

/// Exit codes, as `weir --help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Whoever read our output has gone away (`weir consume … | head`): no error, nothing to say.
    OutputClosed = 0,
    /// It failed, for a reason that has no code of its own.
    Error = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// No node could be reached.
    Unreachable = 3,
    /// The node, or its or our certificate, said no. Nothing was changed.
    Refused = 4,
    /// The connection or the node failed at a moment where it may have taken effect.
    Unknown = 5,
    /// Ended by Ctrl-C or SIGTERM before it was done.
    Interrupted = 130,
}

/// What `weir --help` says about exit codes.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
    0  done
    1  failed
    2  wrong command line or configuration; nothing was tried
    3  no node could be reached
    4  the node, or a certificate, said no; nothing was changed
    5  the connection failed at a moment where the change may have taken effect
  130  interrupted before it was done";

/// Whether a failed command changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Certainly not, or there was nothing to change.
    None,
    /// Some of it did; the message says what.
    Partial,
    /// It may have.
    Unknown,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What happened, in a sentence without a full stop.
    pub what: String,
    /// Whether it took effect.
    pub effect: Effect,
    /// What to do next, as a sentence.
    pub next: Option<String>,
    /// The stable code of a node's error.
    pub code: Option<ErrorCode>,
    /// How the program ends.
    pub exit: Exit,
}

/// What every command gives back.
pub type CommandResult = Result<(), Failure>;

impl Failure {
    /// A failure that changed nothing.
    pub fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure { what: what.into(), effect: Effect::None, next: None, code: None, exit }
    }

    /// A wrong command line or configuration.
    pub fn usage(what: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what)
    }

    /// The end of a command that Ctrl-C or SIGTERM cut short.
    pub fn interrupted(what: impl Into<String>) -> Failure {
        Failure::new(Exit::Interrupted, what)
    }

    /// The same, with advice.
    pub fn next(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }

    /// The same, with another effect.
    pub fn effect(mut self, effect: Effect) -> Failure {
        self.effect = effect;
        self
    }

    /// A refusal or failure that a node reported, with what was being done: `creating topic x`.
    pub fn wire(doing: &str, error: &WireError) -> Failure {
        let (effect, exit) = match error.outcome {
            Outcome::No => (Effect::None, Exit::Refused),
            Outcome::Unknown => (Effect::Unknown, Exit::Unknown),
        };
        Failure {
            what: format!("{doing}: {}", error.message),
            effect,
            next: advice(error.code).map(str::to_owned),
            code: Some(error.code),
            exit,
        }
    }

    /// Writes it to stderr, as text or as one JSON object, and gives the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if self.exit != Exit::OutputClosed {
            let text = if json { self.to_json().to_string() } else { format!("error: {self}") };
            // Nobody is left to tell if stderr is gone too.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        ExitCode::from(self.exit as u8)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "message": self.what,
            "took_effect": match self.effect {
                Effect::None => "no",
                Effect::Partial => "partly",
                Effect::Unknown => "unknown",
            },
            "next": self.next,
            "code": self.code.map(ErrorCode::name),
            "exit": self.exit as u8,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.effect {
            Effect::None | Effect::Partial => {}
            Effect::Unknown => f.write_str("\n  effect: unknown, it may have happened")?,
        }
        match &self.next {
            Some(next) => write!(f, "\n  next: {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// Other errors become plain failures, with all their causes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::new(Exit::Error, format!("{error:#}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        let exit = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Exit::OutputClosed,
            _ => Exit::Error,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        Failure::wire("the node", &error)
    }
}

fn advice(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::Unauthorized => {
            "use a certificate that has the right (--cert, --key), or add an [[access.rule]] to \
             the node's configuration and restart it"
        }
        ErrorCode::UnknownTopic => {
            "`weir topic list` shows the topics; `weir topic create` makes \
             one"
        }
        ErrorCode::UnknownPartition => "`weir topic describe TOPIC` shows the partitions",
        ErrorCode::TopicExists => {
            "`weir topic alter` changes its settings; `--if-not-exists` \
             accepts it as it is"
        }
        ErrorCode::Unsupported => {
            "the node and this program are of different versions; use the \
             `weir` binary of the node"
        }
        ErrorCode::Offline => "see `weir status`; the node tries to recover by itself",
        ErrorCode::DiskFull => {
            "free space on the node's disk, or shorten retention with `weir \
             topic alter`; the node goes on by itself"
        }
        ErrorCode::Busy | ErrorCode::ShuttingDown | ErrorCode::Timeout => "try again",
        ErrorCode::UnknownGroup => "`weir group list` shows the groups",
        ErrorCode::GroupActive => {
            "`weir group describe` shows the members; stop them, or wait until their sessions end"
        }
        ErrorCode::Corrupt => "see `weir status` and the node's log",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_said_and_has_its_own_exit_code() {
        let error = WireError::unknown(ErrorCode::Timeout, "no answer in 10s");
        let failure = Failure::wire("creating topic x", &error);
        assert_eq!(failure.exit, Exit::Unknown);
        assert!(failure.to_string().contains("may have happened"), "{failure}");
        assert_eq!(failure.to_json()["error"]["took_effect"], "unknown");
        assert_eq!(failure.to_json()["error"]["code"], "timeout");
    }

    #[test]
    fn a_failure_survives_the_way_through_anyhow() {
        let failure = Failure::usage("--to needs an offset").next("see --help");
        let back = Failure::from(anyhow::Error::from(failure));
        assert_eq!(back.exit, Exit::Usage);
        assert_eq!(back.next.as_deref(), Some("see --help"));
    }
}
