//! Why a record was not confirmed.

use std::sync::Arc;

use weir_core::wire::{ErrorCode, Outcome};

/// Why a record was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The node refused the record's batch for good. With [`ErrorCode::CheckRejected`] because the
    /// module that checks the topic rejected at least one record of it: none of them is stored, the
    /// message has the reasons, and records sent later are not concerned.
    #[error("{message} ({code})")]
    Refused {
        /// The node's error code.
        code: ErrorCode,
        /// What the node said.
        message: Arc<str>,
        /// Whether the batch is in the log all the same.
        outcome: Outcome,
    },
    /// It was not confirmed before the delivery timeout.
    #[error("not confirmed in time{}", because_of(.last))]
    TimedOut {
        /// Whether the record may be in the log all the same.
        outcome: Outcome,
        /// What went wrong last, if anything.
        last: Option<Arc<str>>,
    },
    /// The producer ended before the record was confirmed.
    #[error("the producer ended before the record was confirmed")]
    Closed {
        /// Whether the record may be in the log all the same.
        outcome: Outcome,
    },
    /// The batch could not be made; only compression can fail so.
    #[error("the batch could not be made: {0}")]
    Encode(Arc<str>),
}

fn because_of(last: &Option<Arc<str>>) -> String {
    last.as_ref().map_or(String::new(), |reason| format!(": {reason}"))
}

impl DeliveryError {
    /// Whether the record is in the log all the same: certainly not, or unknown.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { outcome, .. }
            | Self::TimedOut { outcome, .. }
            | Self::Closed { outcome } => *outcome,
            Self::Encode(_) => Outcome::No,
        }
    }

    /// The node's error code, if a node said no.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}
