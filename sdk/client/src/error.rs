//! Why something did not work: one enum per operation.
//!
//! Each answers three questions. *May it be tried again?* (`retryable()`; the SDK has then done
//! so already, for as long as it was allowed to.) *Did it happen?* (`outcome()`: certainly not, or
//! unknown.) *What kind is it?* (`code()`, the node's stable error code, where a node said it.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_core::Offset;
use weir_core::record::{BatchError, RecordTooLarge};
use weir_core::wire::{ErrorCode, Outcome, WireError};
use weir_transport::{ConnectionLost, IdentityError};

pub use weir_producer::DeliveryError;

/// Why there is no connection to a node.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A setting cannot be used.
    #[error("{0}")]
    Config(String),
    /// The certificates or the key that were given cannot be used.
    #[error("cannot use the certificates given: {0}")]
    Identity(#[source] Arc<IdentityError>),
    /// A host name has no address.
    #[error("cannot find the address of `{host}`: {reason}")]
    Resolve {
        /// What was asked for.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// QUIC or TLS failed.
    #[error(transparent)]
    Transport(Arc<weir_transport::ConnectError>),
    /// The connection was lost while saying hello. A refused client certificate shows here, too.
    #[error("no connection to {address}: {lost}")]
    Lost {
        /// Who was to be connected to.
        address: SocketAddr,
        /// What happened.
        lost: ConnectionLost,
    },
    /// Nobody answered in time.
    #[error("{address} did not answer within {after:?}: is a node running there?")]
    TimedOut {
        /// Who was to be connected to.
        address: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// The node refused the client.
    #[error("{address} refused this client: {error}")]
    Refused {
        /// Who refused.
        address: SocketAddr,
        /// What it said.
        error: WireError,
    },
    /// What answered does not speak the protocol as expected.
    #[error("{address} does not speak the protocol of this client: {reason}")]
    Protocol {
        /// Who answered.
        address: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// A node of another cluster answers at the address now. Offsets and producer sequences of
    /// the old one mean nothing there.
    #[error(
        "{address} belongs to cluster {found}, but this client began with cluster {expected}: \
         make a new client"
    )]
    OtherCluster {
        /// Who answered.
        address: SocketAddr,
        /// The cluster that the client began with.
        expected: String,
        /// The cluster that answered.
        found: String,
    },
    /// The client was closed.
    #[error("the client was closed")]
    Closed,
}

impl ConnectError {
    /// Whether another attempt may succeed without anybody changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Transport(error) => error.retryable(),
            Self::Lost { lost, .. } => lost.retryable(),
            Self::Refused { error, .. } => error.code.retryable(),
            Self::TimedOut { .. } | Self::Resolve { .. } => true,
            Self::Config(_)
            | Self::Identity(_)
            | Self::Protocol { .. }
            | Self::OtherCluster { .. }
            | Self::Closed => false,
        }
    }
}

/// Why a control request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There was no connection; nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node refused it.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// The connection was lost before the answer came, and the request is not one to be sent
    /// twice blindly.
    #[error("the connection was lost before the answer came: {0}")]
    Lost(String),
    /// The connection was lost before the answer came, and what became of the request could not be
    /// found out afterwards.
    #[error("{lost}; whether it took effect could not be found out: {reason}")]
    Unresolved {
        /// How the answer was lost.
        lost: Box<RequestError>,
        /// Why asking again did not help.
        reason: Box<RequestError>,
    },
    /// No answer came in time.
    #[error("no answer within {after:?}{}", because(.last))]
    TimedOut {
        /// How long was waited.
        after: Duration,
        /// Whether it took effect.
        outcome: Outcome,
        /// What went wrong last, if anything.
        last: Option<String>,
    },
    /// The answer makes no sense.
    #[error("the node's answer makes no sense: {0}")]
    Protocol(String),
}

fn because(last: &Option<String>) -> String {
    last.as_ref().map_or(String::new(), |reason| format!(": {reason}"))
}

impl RequestError {
    /// Whether the request took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) => Outcome::No,
            Self::Refused(error) => error.outcome,
            Self::TimedOut { outcome, .. } => *outcome,
            Self::Lost(_) | Self::Unresolved { .. } | Self::Protocol(_) => Outcome::Unknown,
        }
    }

    /// The node's error code, if a node said no.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(error) => Some(error.code),
            Self::Connect(ConnectError::Refused { error, .. }) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.retryable(),
            Self::Refused(error) => error.code.retryable(),
            Self::Lost(_) | Self::TimedOut { .. } => true,
            Self::Unresolved { reason, .. } => reason.retryable(),
            Self::Protocol(_) => false,
        }
    }
}

/// Why a record was not accepted for sending. It was certainly not stored.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such topic.
    #[error("there is no topic `{0}`: create it first")]
    UnknownTopic(String),
    /// The topic has no such partition.
    #[error("topic `{topic}` has {partitions} partitions, so none of number {partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What the record asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The record is too large for the format, the topic, or the producer's buffer.
    #[error(transparent)]
    TooLarge(#[from] RecordTooLarge),
    /// The record does not fit into a batch of this topic.
    #[error("the record takes {bytes} bytes in a batch, but at most {max} are taken here")]
    OverBatchLimit {
        /// Bytes it takes.
        bytes: usize,
        /// Bytes allowed by the topic's or the producer's batch size.
        max: usize,
    },
    /// A batch without records was to be sent.
    #[error("a batch without records cannot be sent")]
    EmptyBatch,
    /// The buffer has no room just now. Only [`try_send`](crate::Producer::try_send) says this;
    /// [`send`](crate::Producer::send) waits.
    #[error("the producer's buffer is full")]
    BufferFull,
    /// Only [`try_send`](crate::Producer::try_send) says this: it does not wait for the topic's
    /// description, which [`send`](crate::Producer::send) fetches at first use.
    #[error("topic `{0}` is not known yet: send the first record with `send`")]
    TopicNotLoaded(String),
    /// The topic's description could not be had.
    #[error("cannot look up the topic: {0}")]
    Metadata(#[from] RequestError),
    /// The producer was closed.
    #[error("the producer was closed")]
    Closed,
}

/// Some records were not confirmed. Their own deliveries say more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failed} records were not confirmed; the first of them: {first}")]
pub struct FlushError {
    /// How many.
    pub failed: usize,
    /// Why the first was not.
    pub first: DeliveryError,
}

/// Why a consumer cannot go on with a partition, or at all.
///
/// An error about one partition ends that partition's stream only; the next call goes on with the
/// others. [`Consumer::seek`](crate::Consumer::seek) starts it again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The position is not in the log (any more) and the reset policy is to fail.
    #[error(
        "{topic}/{partition}: offset {asked} is not in the log, which holds {log_start} to \
         {log_end}"
    )]
    OutOfRange {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
        /// The position.
        asked: Offset,
        /// The first retained offset.
        log_start: Offset,
        /// The end of what may be read.
        log_end: Offset,
    },
    /// The data on the node's disk is damaged at this place.
    #[error("{topic}/{partition}: the log is damaged at offset {at}: {message}")]
    Corrupt {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
        /// The position.
        at: Offset,
        /// The first offset after the damage, to seek to.
        resume_at: Option<Offset>,
        /// What the node said.
        message: String,
    },
    /// What arrived is not a valid batch. QUIC protects what it carries, so the node sent it so.
    #[error("{topic}/{partition}: an invalid batch at offset {at}: {error}")]
    InvalidBatch {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
        /// The position.
        at: Offset,
        /// The first offset after the frame that held it, to seek to.
        resume_at: Offset,
        /// What is wrong with it.
        error: BatchError,
    },
    /// The node refused to go on with this partition: it was deleted, or rights are missing.
    #[error("{topic}/{partition}: {error}")]
    Refused {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
        /// What the node said.
        error: WireError,
    },
    /// The node does not speak the protocol as expected.
    #[error("{topic}/{partition}: the node broke the protocol: {reason}")]
    Protocol {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
        /// What was wrong.
        reason: String,
    },
    /// There is no connection, and trying again would not help.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The group has no position stored for a partition that came to this member, and the reset
    /// policy is to fail. [`Consumer::seek`](crate::Consumer::seek) says where to begin.
    #[error("no position is stored for {topic}/{partition}, and the reset policy is to fail")]
    NoPosition {
        /// The topic.
        topic: Arc<str>,
        /// Which of its partitions.
        partition: u32,
    },
    /// The consumer is a member of its group no longer and cannot be one: it was replaced by
    /// another process of the same instance name, the group is full, or rights are missing.
    #[error("no longer a member of group {group}: {error}")]
    Group {
        /// The group.
        group: String,
        /// What the node said.
        error: Box<RequestError>,
    },
}

impl ConsumeError {
    /// The node's error code, if there is one for it.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::OutOfRange { .. } => Some(ErrorCode::OutOfRange),
            Self::Corrupt { .. } => Some(ErrorCode::Corrupt),
            Self::InvalidBatch { .. } => Some(ErrorCode::InvalidBatch),
            Self::Refused { error, .. } => Some(error.code),
            Self::Protocol { .. } => Some(ErrorCode::Protocol),
            Self::Connect(ConnectError::Refused { error, .. }) => Some(error.code),
            Self::Group { error, .. } => error.code(),
            Self::Connect(_) | Self::NoPosition { .. } => None,
        }
    }

    /// Topic and partition that it is about; `None` if about all.
    #[must_use]
    pub fn partition(&self) -> Option<(&str, u32)> {
        match self {
            Self::OutOfRange { topic, partition, .. }
            | Self::Corrupt { topic, partition, .. }
            | Self::InvalidBatch { topic, partition, .. }
            | Self::Refused { topic, partition, .. }
            | Self::NoPosition { topic, partition }
            | Self::Protocol { topic, partition, .. } => Some((topic, *partition)),
            Self::Connect(_) | Self::Group { .. } => None,
        }
    }
}

/// Why partitions were not assigned.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// There is no such topic.
    #[error("there is no topic `{0}`")]
    UnknownTopic(String),
    /// The topic has no such partition.
    #[error("topic `{topic}` has {partitions} partitions, so none of number {partition}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The partition is not assigned to this consumer.
    #[error("{topic}/{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// Which of its partitions.
        partition: u32,
    },
    /// The group has no position stored for this partition, and the reset policy is to fail.
    #[error("no position is stored for {topic}/{partition}, and the reset policy is to fail")]
    NoPosition {
        /// The topic.
        topic: String,
        /// Which of its partitions.
        partition: u32,
    },
    /// Only members subscribe, and those are of a group.
    #[error("this consumer has no group: name one when you build it")]
    NoGroup,
    /// More partitions than one consumer's connection may have streams.
    #[error("{asked} partitions are too many for one consumer: the most is {max}")]
    TooMany {
        /// How many it would have.
        asked: usize,
        /// The limit.
        max: usize,
    },
    /// A request to the node failed.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why positions were not stored.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The consumer has no group to store positions under.
    #[error("this consumer has no group: name one when you build it")]
    NoGroup,
    /// A partition is not assigned to this consumer.
    #[error("{topic}/{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The topic.
        topic: String,
        /// Which of its partitions.
        partition: u32,
    },
    /// Partitions had passed to other members of the group. Positions in the others are stored;
    /// what was handed out of these and not stored before is handed out again there.
    #[error(
        "{partitions} partitions are other members' by now: what follows the positions stored \
             before is handed out again there"
    )]
    NotOwner {
        /// How many.
        partitions: usize,
    },
    /// The request failed. Positions may be stored or not; storing them again is harmless.
    #[error(transparent)]
    Request(#[from] RequestError),
}
