//! What a partition remembers of its idempotent producers.
//!
//! Each producer numbers its records per partition from 0 (wrapping after `i32::MAX`, as Kafka's
//! do). A batch is accepted if it starts where the producer's last one ended, recognised if it is
//! one of the last [`limits::PRODUCER_BATCHES_REMEMBERED`], and refused otherwise. So a retry after
//! a lost acknowledgement stores nothing twice, and a lost batch is never papered over.
//!
//! The table is bounded: past [`limits::PRODUCERS_PER_PARTITION_MAX`] the producer whose last
//! batch lies furthest back in the log is forgotten. It is then unknown, and must start anew.

use crate::ids::{Offset, ProducerId};
use crate::limits;
use bytes::{Buf, BufMut, BytesMut};
use std::collections::{HashMap, VecDeque};

/// The producer fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Who produced it.
    pub id: ProducerId,
    /// The producer's own epoch, raised when it starts its sequences anew.
    pub epoch: i16,
    /// The sequence number of the first record.
    pub base_sequence: i32,
    /// How many records; at least 1.
    pub count: u32,
}

/// What the table says of a batch that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// It follows the producer's last batch.
    Next,
    /// It was appended before.
    Duplicate {
        /// The offset its first record has.
        base_offset: Offset,
    },
}

/// Why a batch's sequence is refused. Nothing was written for the refused batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Records before it are missing.
    #[error("sequence {got} does not follow: the next expected is {expected}")]
    Gap {
        /// The sequence that would have been accepted.
        expected: i32,
        /// The one that came.
        got: i32,
    },
    /// It was appended so long ago that its offset is forgotten.
    #[error("sequence {got} was stored before, but its offset is no longer remembered")]
    Forgotten {
        /// The sequence that came.
        got: i32,
    },
    /// A newer incarnation of the producer has taken over.
    #[error("producer epoch {got} is fenced: epoch {current} has taken over")]
    Fenced {
        /// The epoch known here.
        current: i16,
        /// The one that came.
        got: i16,
    },
    /// The producer is not known here (any more), and this is not its first batch.
    #[error("the producer is not known to this partition and must start anew")]
    UnknownProducer,
    /// A negative sequence or epoch.
    #[error("a producer's epoch and sequence must not be negative")]
    Malformed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// (base sequence, record count, base offset), oldest first.
    batches: VecDeque<(i32, u32, Offset)>,
}

impl Producer {
    fn next_sequence(&self) -> i32 {
        self.batches.back().map_or(0, |&(base, count, _)| sequence_after(base, count))
    }

    fn last_offset(&self) -> Offset {
        self.batches.back().map_or(Offset(-1), |&(_, _, offset)| offset)
    }
}

/// The idempotent producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: HashMap<ProducerId, Producer>,
}

impl ProducerTable {
    /// How many producers are remembered; at most [`limits::PRODUCERS_PER_PARTITION_MAX`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Decides about `batch` without changing the table.
    ///
    /// # Errors
    /// [`SequenceError`] if the batch must not be appended.
    pub fn check(&self, batch: &ProducerBatch) -> Result<Sequence, SequenceError> {
        if batch.epoch < 0 || batch.base_sequence < 0 || batch.count == 0 {
            return Err(SequenceError::Malformed);
        }
        let Some(known) = self.producers.get(&batch.id) else {
            return match batch.base_sequence {
                0 => Ok(Sequence::Next),
                _ => Err(SequenceError::UnknownProducer),
            };
        };
        if batch.epoch < known.epoch {
            return Err(SequenceError::Fenced { current: known.epoch, got: batch.epoch });
        }
        let got = batch.base_sequence;
        if batch.epoch > known.epoch {
            return match got {
                0 => Ok(Sequence::Next),
                _ => Err(SequenceError::Gap { expected: 0, got }),
            };
        }
        let expected = known.next_sequence();
        if got == expected {
            return Ok(Sequence::Next);
        }
        let same = |&&(base, count, _): &&(i32, u32, Offset)| base == got && count == batch.count;
        if let Some(&(_, _, base_offset)) = known.batches.iter().find(same) {
            return Ok(Sequence::Duplicate { base_offset });
        }
        // Sequences wrap, so "before" means less than half the circle behind.
        if expected.wrapping_sub(got).rem_euclid(i32::MAX) < i32::MAX / 2 {
            Err(SequenceError::Forgotten { got })
        } else {
            Err(SequenceError::Gap { expected, got })
        }
    }

    /// Remembers `batch`, which was appended at `base_offset`. Of a producer of which a batch at
    /// that offset or behind it is remembered nothing changes: a replica that began with a snapshot
    /// appends what the snapshot knows already.
    pub fn record(&mut self, batch: &ProducerBatch, base_offset: Offset) {
        if self.producers.get(&batch.id).is_some_and(|known| known.last_offset() >= base_offset) {
            return;
        }
        let full = self.producers.len() >= limits::PRODUCERS_PER_PARTITION_MAX;
        if full && !self.producers.contains_key(&batch.id) {
            self.forget_longest_silent();
        }
        let producer = self
            .producers
            .entry(batch.id)
            .or_insert_with(|| Producer { epoch: batch.epoch, batches: VecDeque::new() });
        if producer.epoch != batch.epoch {
            producer.epoch = batch.epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == limits::PRODUCER_BATCHES_REMEMBERED {
            producer.batches.pop_front();
        }
        producer.batches.push_back((batch.base_sequence, batch.count, base_offset));
    }

    /// Ties cannot occur: two producers never share an offset. So the choice is the same on every
    /// replica whatever the order of the hash map.
    fn forget_longest_silent(&mut self) {
        let silent = self.producers.iter().min_by_key(|(_, p)| p.last_offset());
        if let Some((&id, _)) = silent {
            self.producers.remove(&id);
        }
    }

    /// Appends the table's snapshot to `out`: a `u32` count, then per producer `i64` id, `i16`
    /// epoch, `u8` batches, and per batch `i32` base sequence, `u32` count, `i64` base offset; all
    /// little-endian, ordered by id so that equal tables have equal bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut ids: Vec<_> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        out.put_u32_le(ids.len() as u32);
        for id in ids {
            let producer = &self.producers[&id];
            out.put_i64_le(id.0);
            out.put_i16_le(producer.epoch);
            out.put_u8(producer.batches.len() as u8);
            for &(base, count, offset) in &producer.batches {
                out.put_i32_le(base);
                out.put_u32_le(count);
                out.put_i64_le(offset.0);
            }
        }
    }

    /// Reads what [`ProducerTable::encode`] wrote, from the front of `bytes`.
    ///
    /// Returns `None` for bytes that it cannot have written.
    pub fn decode(bytes: &mut &[u8]) -> Option<ProducerTable> {
        let count = bytes.try_get_u32_le().ok()? as usize;
        if count > limits::PRODUCERS_PER_PARTITION_MAX {
            return None;
        }
        let mut table = ProducerTable::default();
        for _ in 0..count {
            let id = ProducerId(bytes.try_get_i64_le().ok()?);
            let epoch = bytes.try_get_i16_le().ok()?;
            let batches = bytes.try_get_u8().ok()? as usize;
            if batches > limits::PRODUCER_BATCHES_REMEMBERED {
                return None;
            }
            let mut producer = Producer { epoch, batches: VecDeque::with_capacity(batches) };
            for _ in 0..batches {
                let base = bytes.try_get_i32_le().ok()?;
                let count = bytes.try_get_u32_le().ok()?;
                let offset = Offset(bytes.try_get_i64_le().ok()?);
                producer.batches.push_back((base, count, offset));
            }
            table.producers.insert(id, producer);
        }
        Some(table)
    }
}

/// The sequence that follows a batch of `count` records from `base`: wraps to 0 after `i32::MAX`.
#[must_use]
pub fn sequence_after(base: i32, count: u32) -> i32 {
    let after = i64::from(base) + i64::from(count);
    (after % (i64::from(i32::MAX) + 1)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(id: i64, base_sequence: i32, count: u32) -> ProducerBatch {
        ProducerBatch { id: ProducerId(id), epoch: 0, base_sequence, count }
    }

    /// Goal: in-order batches pass, retries of the last five are recognised with their offset, and
    /// everything else is refused by name.
    #[test]
    fn sequences() {
        let mut table = ProducerTable::default();
        for n in 0..7 {
            let batch = batch(1, n * 10, 10);
            assert_eq!(table.check(&batch), Ok(Sequence::Next));
            table.record(&batch, Offset(i64::from(n) * 100));
        }
        assert_eq!(
            table.check(&batch(1, 20, 10)),
            Ok(Sequence::Duplicate { base_offset: Offset(200) })
        );
        assert_eq!(table.check(&batch(1, 10, 10)), Err(SequenceError::Forgotten { got: 10 }));
        assert_eq!(table.check(&batch(1, 65, 5)), Err(SequenceError::Forgotten { got: 65 }));
        assert_eq!(
            table.check(&batch(1, 71, 1)),
            Err(SequenceError::Gap { expected: 70, got: 71 })
        );
        assert_eq!(table.check(&batch(2, 5, 1)), Err(SequenceError::UnknownProducer));
        assert_eq!(table.check(&batch(2, -1, 1)), Err(SequenceError::Malformed));
        let newer = ProducerBatch { epoch: 1, ..batch(1, 0, 1) };
        assert_eq!(table.check(&newer), Ok(Sequence::Next));
        table.record(&newer, Offset(900));
        assert_eq!(
            table.check(&batch(1, 70, 1)),
            Err(SequenceError::Fenced { current: 1, got: 0 })
        );
    }

    /// Goal: the sequence circle closes: after `i32::MAX` comes 0, within a batch and between.
    #[test]
    fn sequences_wrap() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
        let mut table = ProducerTable::default();
        table.record(&batch(1, i32::MAX - 1, 5), Offset(0));
        assert_eq!(table.check(&batch(1, 3, 1)), Ok(Sequence::Next));
        assert_eq!(
            table.check(&batch(1, i32::MAX - 9, 1)),
            Err(SequenceError::Forgotten { got: i32::MAX - 9 })
        );
        assert!(matches!(table.check(&batch(1, 4, 1)), Err(SequenceError::Gap { .. })));
    }

    /// Goal: the table stays within its bound and forgets the longest silent producer.
    #[test]
    fn bounded() {
        let mut table = ProducerTable::default();
        let max = limits::PRODUCERS_PER_PARTITION_MAX as i64;
        for id in 0..=max {
            table.record(&batch(id, 0, 1), Offset(id));
        }
        assert_eq!(table.len(), max as usize);
        assert_eq!(table.check(&batch(0, 1, 1)), Err(SequenceError::UnknownProducer));
        assert_eq!(table.check(&batch(1, 1, 1)), Ok(Sequence::Next));
    }

    /// Goal: a snapshot reads back equal, and no cut of it reads back at all.
    #[test]
    fn snapshot() {
        let mut table = ProducerTable::default();
        for id in 0..3 {
            for n in 0..=id as i32 {
                table.record(&batch(id, n, 1), Offset(id * 10 + i64::from(n)));
            }
        }
        let mut bytes = BytesMut::new();
        table.encode(&mut bytes);
        assert_eq!(ProducerTable::decode(&mut &bytes[..]), Some(table));
        for cut in 0..bytes.len() {
            assert_eq!(ProducerTable::decode(&mut &bytes[..cut]), None, "cut {cut}");
        }
    }
}
