//! What goes through a producer: rules, records, builders, stamps, results.

use std::time::Duration;

use bytes::Bytes;
use weir_core::ids::{PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_core::record::{BatchBuilder, Compression, HeaderView, PushError};
use weir_core::wire::frame::Appended;

use crate::error::DeliveryError;

/// Time since the producer began.
pub(super) type Now = Duration;

/// How a producer behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Longest time that a record waits for others to share its batch.
    pub(super) linger: Duration,
    /// Send at once what a partition has while nothing of it is under way.
    pub(super) eager: bool,
    pub(super) in_flight_max: usize,
    pub(super) delivery_timeout: Duration,
    pub(super) idempotent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PartitionKey {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionIndex,
}

/// How a partition's batches are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchShape {
    pub(super) compression: Compression,
    pub(super) bytes_max: usize,
}

/// A record before it has a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordParts<'a> {
    pub(super) timestamp: TimestampMs,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: &'a [(String, Bytes)],
}

/// What numbers a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: ProducerId,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
}

/// A batch's fate, with what it held of the buffer.
#[derive(Debug)]
pub(super) struct Resolved<C> {
    pub(super) completion: C,
    pub(super) result: Result<Appended, DeliveryError>,
    pub(super) charged: usize,
    pub(super) records: u32,
}

/// What is to be done before a batch can be written.
#[derive(Debug)]
pub(super) enum Work {
    /// Build it with this stamp.
    Build(Shaped),
    /// Replace the stamp in these bytes.
    Restamp(Bytes),
    /// Nothing.
    Ready(Bytes),
}

/// A builder and the shape it was made for.
#[derive(Debug)]
pub(super) struct Shaped {
    pub(super) builder: BatchBuilder,
    pub(super) shape: BatchShape,
}

impl Shaped {
    pub(super) fn new(shape: BatchShape) -> Shaped {
        let builder = BatchBuilder::with_bytes_max(shape.compression, shape.bytes_max);
        Shaped { builder, shape }
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &RecordParts<'_>) -> Result<(), PushError> {
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| HeaderView { name, value: Some(value) });
        self.builder.push(record.timestamp, record.key, record.value, headers)
    }
}
