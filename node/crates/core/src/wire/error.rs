//! Errors as they travel: a stable code, a readable message, and three answers: may it be tried
//! again, did it happen, and what are the numbers that belong to it.

use crate::ids::Offset;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether a refused or failed operation took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It certainly did not happen.
    No,
    /// It may have happened; an idempotent retry finds out.
    Unknown,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $retry:literal;)*) => {
        /// A stable code for each kind of error. Numbers are never reused; `docs/errors.md` has a
        /// section for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name),*];

            /// The code of this number; [`ErrorCode::Internal`] for numbers of newer versions.
            #[must_use]
            pub fn from_u16(number: u16) -> ErrorCode {
                match number { $($number => ErrorCode::$name,)* _ => ErrorCode::Internal }
            }

            /// The code's name as documented, such as `out-of-range`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// Whether the same request may succeed later without anybody changing anything.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(ErrorCode::$name => $retry,)* }
            }
        }
    };
}

error_codes! {
    /// A bug or a condition that has no code of its own.
    Internal = 1, "internal", false;
    /// The peer broke the protocol.
    Protocol = 2, "protocol", false;
    /// No protocol version in common, or a request that this node does not know.
    Unsupported = 3, "unsupported", false;
    /// The principal may not do this.
    Unauthorized = 4, "unauthorized", false;
    /// A name, number or combination that is not allowed.
    InvalidArgument = 5, "invalid-argument", false;
    /// The topic does not exist.
    UnknownTopic = 6, "unknown-topic", false;
    /// The topic has no such partition.
    UnknownPartition = 7, "unknown-partition", false;
    /// A topic of this name exists.
    TopicExists = 8, "topic-exists", false;
    /// The offset lies outside what is retained.
    OutOfRange = 9, "out-of-range", false;
    /// The record batch is damaged or malformed.
    InvalidBatch = 10, "invalid-batch", false;
    /// The batch is larger than the topic allows.
    BatchTooLarge = 11, "batch-too-large", false;
    /// A producer's batch came before one that it follows.
    SequenceGap = 12, "sequence-gap", false;
    /// The batch was stored long ago; its offset is no longer remembered.
    SequenceForgotten = 13, "sequence-forgotten", false;
    /// A newer incarnation of the producer has taken over.
    ProducerFenced = 14, "producer-fenced", false;
    /// The producer is not known here and must start anew.
    UnknownProducer = 15, "unknown-producer", false;
    /// The partition takes no writes just now: its disk failed or is being recovered.
    Offline = 16, "offline", true;
    /// The disk is full; the node keeps serving reads.
    DiskFull = 17, "disk-full", true;
    /// A limit of the node is reached for now.
    Busy = 18, "busy", true;
    /// A count limit of the node is reached.
    LimitReached = 19, "limit-reached", false;
    /// The data on disk is damaged at this place.
    Corrupt = 20, "corrupt", false;
    /// The node is shutting down.
    ShuttingDown = 21, "shutting-down", true;
    /// The request did not arrive, or its answer did not leave, in time.
    Timeout = 22, "timeout", true;
    /// The consumer group has no stored positions.
    UnknownGroup = 23, "unknown-group", false;
    /// The topic was deleted while the stream was open.
    TopicDeleted = 24, "topic-deleted", false;
    /// The node has no module of this name and version.
    UnknownModule = 25, "unknown-module", false;
    /// The module, its parameters or its upload are not acceptable.
    InvalidModule = 26, "invalid-module", false;
    /// A module failed on a record, or on a produced batch.
    ModuleFailed = 27, "module-failed", false;
    /// The node has no deployment of this name.
    UnknownDeployment = 28, "unknown-deployment", false;
    /// A deployment of this name exists.
    DeploymentExists = 29, "deployment-exists", false;
    /// A deployment needs the topic or module, or a topic the module.
    InUse = 30, "in-use", false;
    /// The module's state has another layout than what is stored.
    StateSchema = 31, "state-schema", false;
    /// The module that checks the topic's batches rejected records of this one.
    CheckRejected = 32, "check-rejected", false;
    /// Another node leads the partition, or is about to.
    NotLeader = 33, "not-leader", true;
    /// Too few replicas of the partition are in sync.
    NotEnoughInSync = 34, "not-enough-in-sync", true;
    /// The client is no member of the consumer group (any more).
    UnknownMember = 35, "unknown-member", false;
    /// The partition is not the member's, or not under that generation.
    NotOwner = 36, "not-owner", false;
    /// The position lies before the one that is stored.
    WentBack = 37, "went-back", false;
    /// The consumer group has members.
    GroupActive = 38, "group-active", false;
    /// Another member has taken over the instance name.
    MemberReplaced = 39, "member-replaced", false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(*self as u16)
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u16::deserialize(deserializer).map(ErrorCode::from_u16)
    }
}

/// An error as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct WireError {
    /// What kind it is.
    pub code: ErrorCode,
    /// What happened and what to do next, for a person.
    pub message: String,
    /// Whether it took effect.
    pub outcome: Outcome,
    /// For [`ErrorCode::OutOfRange`]: the first retained offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<Offset>,
    /// For [`ErrorCode::OutOfRange`]: the end of what may be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_end: Option<Offset>,
    /// For [`ErrorCode::Corrupt`] and [`ErrorCode::ModuleFailed`]: the first offset after the
    /// damage or the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Offset>,
}

impl WireError {
    /// An error that certainly had no effect.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> WireError {
        WireError {
            code,
            message: message.into(),
            outcome: Outcome::No,
            log_start: None,
            log_end: None,
            resume_at: None,
        }
    }

    /// The same, but it may have had its effect.
    #[must_use]
    pub fn unknown(code: ErrorCode, message: impl Into<String>) -> WireError {
        WireError { outcome: Outcome::Unknown, ..WireError::new(code, message) }
    }

    /// An offset outside `start..end`.
    #[must_use]
    pub fn out_of_range(asked: Offset, start: Offset, end: Offset) -> WireError {
        let message = format!("offset {asked} is not in the log, which holds {start} to {end}");
        WireError {
            log_start: Some(start),
            log_end: Some(end),
            ..WireError::new(ErrorCode::OutOfRange, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: numbers and names are unique and survive the trip; unknown numbers become `Internal`.
    #[test]
    fn codes() {
        for (n, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(ErrorCode::from_u16(*code as u16), *code);
            assert!(ErrorCode::ALL[..n].iter().all(|other| other.name() != code.name()));
        }
        assert_eq!(ErrorCode::from_u16(u16::MAX), ErrorCode::Internal);
    }
}
