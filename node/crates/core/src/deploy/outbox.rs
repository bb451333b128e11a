//! The outbox: what one run of a module sends to several destinations, as one log entry.
//!
//! The entry's batch holds one record per part. Key and value are:
//!
//! | | |
//! |---|---|
//! | key | `u32` topic id, `u32` partition index (big-endian) |
//! | value | a record batch v2, as it will be appended there |
//!
//! A record holds at most [`limits::RECORD_BYTES_MAX`], so a part is at most [`PART_BYTES_MAX`],
//! and what is larger goes out in several parts, in order.

use crate::ids::{Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use crate::limits;
use crate::record::{BatchBuilder, BatchError, BuildError, Compression, NO_HEADERS, RecordBatch};
use bytes::Bytes;

/// Largest batch of one part, in bytes.
pub const PART_BYTES_MAX: usize = limits::RECORD_BYTES_MAX - 8;

/// A batch and where it goes.
#[derive(Clone, Debug)]
pub struct Part {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The batch.
    pub batch: RecordBatch,
}

/// Why parts do not make an entry, or an entry no parts.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The parts of one run take more than a batch holds.
    #[error("the output of one run takes more than a batch holds")]
    TooLarge,
    /// The entry's batch could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What was read is not a batch.
    #[error("the outbox holds what is not a batch: {0}")]
    Batch(#[from] BatchError),
    /// What was read is a batch, but not of parts.
    #[error("the outbox holds a record that is not a part")]
    NotAPart,
}

/// Makes the batch of an outbox entry. Part *i* gets the offset base + *i*.
///
/// # Errors
/// [`OutboxError`].
pub fn encode(parts: &[Part], now: TimestampMs) -> Result<Bytes, OutboxError> {
    let mut builder = BatchBuilder::new(Compression::None);
    for part in parts {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&part.topic.0.to_be_bytes());
        key[4..].copy_from_slice(&part.partition.0.to_be_bytes());
        let value = Some(part.batch.bytes().as_ref());
        let pushed = builder.push(now, Some(&key), value, NO_HEADERS);
        pushed.map_err(|_| OutboxError::TooLarge)?;
    }
    Ok(builder.build(ProducerId::NONE, -1, -1)?)
}

/// Reads the parts of an outbox entry's batch, each with its offset. They share the batch's
/// memory.
///
/// # Errors
/// [`OutboxError`].
pub fn decode(batch: Bytes) -> Result<Vec<(Offset, Part)>, OutboxError> {
    let (_, records) = RecordBatch::decode_with_records(batch)?;
    let part = |(offset, record): (Offset, crate::record::Record)| {
        let (key, value) = record.key.zip(record.value).ok_or(OutboxError::NotAPart)?;
        let (topic, partition) = key.split_first_chunk::<4>().ok_or(OutboxError::NotAPart)?;
        let partition: [u8; 4] = partition.try_into().map_err(|_| OutboxError::NotAPart)?;
        let part = Part {
            topic: TopicId(u32::from_be_bytes(*topic)),
            partition: PartitionIndex(u32::from_be_bytes(partition)),
            // It was walked when it was made, and the entry's checksum covers it.
            batch: RecordBatch::decode_trusted(value)?,
        };
        Ok((offset, part))
    };
    records.iter_shared().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderEpoch;

    fn part(topic: u32, partition: u32, value: &[u8]) -> Part {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(TimestampMs(5), Some(b"k"), Some(value), NO_HEADERS).unwrap();
        let batch = builder.build(ProducerId::NONE, -1, -1).unwrap();
        Part {
            topic: TopicId(topic),
            partition: PartitionIndex(partition),
            batch: RecordBatch::decode(batch).unwrap(),
        }
    }

    /// Goal: parts read back in order with the offsets that the log gave them.
    #[test]
    fn round_trip() {
        let parts = [part(3, 0, b"one"), part(3, 1, b"two"), part(9, 0, b"three")];
        let batch = encode(&parts, TimestampMs(1)).unwrap();
        let stored = RecordBatch::decode(batch).unwrap().with_base(Offset(70), LeaderEpoch(2));
        let read = decode(stored.into_bytes()).unwrap();
        assert_eq!(read.iter().map(|(o, _)| o.0).collect::<Vec<_>>(), [70, 71, 72]);
        for ((_, read), sent) in read.iter().zip(&parts) {
            assert_eq!((read.topic, read.partition), (sent.topic, sent.partition));
            assert_eq!(read.batch.bytes(), sent.batch.bytes());
        }
    }

    /// Goal: a batch of anything else is refused, not taken for parts.
    #[test]
    fn other_batches_are_refused() {
        let other = part(1, 1, b"x").batch.into_bytes();
        assert!(matches!(decode(other), Err(OutboxError::NotAPart)));
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(TimestampMs(5), Some(&[0; 8]), Some(b"no batch"), NO_HEADERS).unwrap();
        let batch = builder.build(ProducerId::NONE, -1, -1).unwrap();
        assert!(matches!(decode(batch), Err(OutboxError::Batch(_))));
    }
}
