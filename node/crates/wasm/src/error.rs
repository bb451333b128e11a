//! How a call of a module fails, in terms of whoever watches the deployment.

use crate::abi::LogLevel;
use crate::columns::ColumnError;
use crate::guest::{Guest, cut};
use crate::limits::{BACKTRACE_FRAMES_MAX, BATCH_RUNS_MAX};
use std::fmt;
use std::time::Duration;
use thiserror::Error;
use wasmtime::{Trap, WasmBacktrace};

/// A request that a limit refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Linear memory, in bytes.
    Memory {
        /// What it would have had.
        wanted: usize,
        /// What it may have.
        limit: usize,
    },
    /// Linear memory of all guests of the node together, in bytes.
    NodeMemory {
        /// How much more it wanted.
        wanted: usize,
    },
    /// Table entries.
    Table {
        /// What it would have had.
        wanted: usize,
        /// What it may have.
        limit: usize,
    },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Denied::Memory { wanted, limit } => {
                let mib = |bytes: &usize| bytes.div_ceil(1 << 20);
                write!(f, "it wanted {} MiB of memory, the limit is {}", mib(wanted), mib(limit))
            }
            Denied::NodeMemory { wanted } => {
                let mib = wanted.div_ceil(1 << 20);
                write!(
                    f,
                    "it wanted {mib} MiB more memory, but the node's guests have used up theirs"
                )
            }
            Denied::Table { wanted, limit } => {
                write!(f, "it wanted {wanted} table entries, the limit is {limit}")
            }
        }
    }
}

/// A failed call of a module. The call had no effect, and the instance is not used again, except
/// after [`GuestError::Returned`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GuestError {
    /// It trapped.
    #[error("the module trapped: {reason}{}{}", because(message), because(denied))]
    Trapped {
        /// Which trap.
        reason: String,
        /// What it logged as an error in this call: panics are logged by the guest SDK.
        message: Option<String>,
        /// A request for memory or table entries that was refused before, in this call.
        denied: Option<Denied>,
        /// Functions, innermost first.
        backtrace: Vec<String>,
    },
    /// It ran for too long.
    #[error("the module took more than {} ms of CPU time in one call", limit.as_millis())]
    Deadline {
        /// What it may take.
        limit: Duration,
        /// Where it was, innermost first.
        backtrace: Vec<String>,
    },
    /// It returned more than it may.
    #[error("the module returned {have} {what}, the limit is {limit}")]
    TooMuch {
        /// Bytes, or records.
        what: &'static str,
        /// How many.
        have: usize,
        /// How many it may.
        limit: usize,
    },
    /// What it returned does not fit together.
    #[error("the module returned wrong {what}: {error}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        error: ColumnError,
    },
    /// It returned something that its interface forbids.
    #[error("the module returned {0}")]
    Broken(&'static str),
    /// So many of its records are bad that looking for them was given up.
    #[error("the batch has too many bad records: gave up after {BATCH_RUNS_MAX} calls")]
    TooManyRuns,
    /// It returned an error.
    #[error("the module failed: {0}")]
    Returned(String),
}

fn because<T: fmt::Display>(reason: &Option<T>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!("; {reason}"))
}

impl GuestError {
    /// Functions of the module that were active, innermost first.
    #[must_use]
    pub fn backtrace(&self) -> &[String] {
        match self {
            GuestError::Trapped { backtrace, .. } | GuestError::Deadline { backtrace, .. } => {
                backtrace
            }
            _ => &[],
        }
    }

    /// What the engine's error means.
    pub(crate) fn of(error: &wasmtime::Error, guest: &Guest) -> GuestError {
        let backtrace = error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, frames);
        if error.downcast_ref::<OutOfTime>().is_some() {
            return GuestError::Deadline { limit: guest.cpu_max, backtrace };
        }
        let reason = match error.downcast_ref::<Trap>() {
            Some(Trap::UnreachableCodeReached) if guest.denied.is_some() => "out of memory".into(),
            Some(trap) => trap.to_string().trim_start_matches("wasm trap: ").to_owned(),
            None => format!("{:#}", error.root_cause()),
        };
        let lines = guest.log.iter().rev();
        let message = lines.take(1).find(|line| line.level == LogLevel::Error);
        let message = message.map(|line| line.message.clone());
        GuestError::Trapped { reason, message, denied: guest.denied, backtrace }
    }

    /// An error that the module returned.
    pub(crate) fn returned(mut message: String) -> GuestError {
        cut(&mut message);
        GuestError::Returned(message)
    }
}

fn frames(backtrace: &WasmBacktrace) -> Vec<String> {
    let frames = backtrace.frames().iter().take(BACKTRACE_FRAMES_MAX);
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
        None => format!("function {}", frame.func_index()),
    };
    frames.map(name).collect()
}

/// The deadline has passed. Becomes [`GuestError::Deadline`].
#[derive(Debug, Error)]
#[error("out of CPU time")]
pub(crate) struct OutOfTime;
