//! What goes through a producer: rules, records, builders, stamps, results.

use std::time::Duration;

use bytes::Bytes;
use weir_core::ids::{PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_core::record::{BatchBuilder, Compression, HeaderView, PushError};
use weir_core::wire::frame::Appended;

use crate::error::DeliveryError;

/// Time since the producer began.
pub type Now = Duration;

/// How a producer behaves.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Longest time that a record waits for others to share its batch.
    pub linger: Duration,
    /// Send at once what a partition has while nothing of it is under way.
    pub eager: bool,
    /// Most batches of a partition that are under way at once, and that the node must remember.
    pub in_flight_max: usize,
    /// How long a record may take to be confirmed.
    pub delivery_timeout: Duration,
    /// Whether batches are numbered.
    pub idempotent: bool,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Its topic.
    pub topic: TopicId,
    /// Its number within the topic.
    pub partition: PartitionIndex,
}

/// How a partition's batches are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// How its records are packed.
    pub compression: Compression,
    /// About how large it may become, in bytes.
    pub bytes_max: usize,
}

/// A record before it has a place.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    /// Its event time.
    pub timestamp: TimestampMs,
    /// What orders it.
    pub key: Option<&'a [u8]>,
    /// The payload.
    pub value: Option<&'a [u8]>,
    /// Further named values.
    pub headers: &'a [(String, Bytes)],
}

/// What numbers a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch, raised when its sequences begin anew.
    pub epoch: i16,
    /// The number of the batch's first record.
    pub sequence: i32,
}

/// A batch's fate, with what it held of the buffer.
#[derive(Debug)]
pub struct Resolved<C> {
    /// What completes the deliveries.
    pub completion: C,
    /// Where it is, or why it failed.
    pub result: Result<Appended, DeliveryError>,
    /// Its share of the buffer, in bytes.
    pub charged: usize,
    /// How many records it has.
    pub records: u32,
}

/// What is to be done before a batch can be written.
#[derive(Debug)]
pub(crate) enum Work {
    /// Build it with this stamp.
    Build(Shaped),
    /// Replace the stamp in these bytes.
    Restamp(Bytes),
    /// Nothing.
    Ready(Bytes),
}

/// A builder and the shape it was made for.
#[derive(Debug)]
pub struct Shaped {
    /// The builder.
    pub builder: BatchBuilder,
    /// Its shape.
    pub shape: BatchShape,
}

impl Shaped {
    /// An empty builder.
    #[must_use]
    pub fn new(shape: BatchShape) -> Shaped {
        let builder = BatchBuilder::with_bytes_max(shape.compression, shape.bytes_max);
        Shaped { builder, shape }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The batch is full, or the record larger than a record may be.
    pub fn push(&mut self, record: &RecordParts<'_>) -> Result<(), PushError> {
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| HeaderView { name, value: Some(value) });
        self.builder.push(record.timestamp, record.key, record.value, headers)
    }
}
