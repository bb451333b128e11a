//! Why a controller does not start, and why a command was not carried out.

use crate::config::ConfigError;
use weir_core::controller::{Refused, RestoreError};
use weir_log::KvError;

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was told something that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its file failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Its file holds what this version cannot read.
    #[error(
        "{row} of controller.redb cannot be read: {reason}; if the file is damaged and the other \
         nodes are well, move it away: this node then gets everything from them"
    )]
    Row {
        /// What it was.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The snapshot in its file is not one.
    #[error(transparent)]
    Snapshot(#[from] RestoreError),
    /// The consensus engine did not start.
    #[error("the controller did not start: {0}")]
    Engine(String),
}

/// Why a command was not carried out, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It was decided against. Nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was not decided. Nothing changed, and nothing will; trying again may help.
    #[error("the site decides nothing at present: {reason}")]
    Unavailable {
        /// Why, and what to do.
        reason: String,
    },
    /// It may have been carried out, or may yet be.
    #[error("whether it was done is not known: {reason}; look before you do it again")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// No entry of the log may be so large. Nothing changed.
    #[error("the command takes {bytes} bytes; the most is {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most.
        max: usize,
    },
}
