//! What a consumer hands out.

use std::iter::Skip;
use std::sync::Arc;

use bytes::Bytes;
use weir_core::record::{Header, Record, RecordBatch, RecordIter, Records};
use weir_core::{Offset, TimestampMs};

/// Some records of one partition, in order: one batch as its producer sent it, checked, unpacked
/// and without what lies before the consumer's position.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) high_watermark: Offset,
    pub(super) log_start: Offset,
    pub(super) batch: RecordBatch,
    pub(super) records: Records,
    /// Records at the front that the consumer does not want (any more).
    pub(super) skip: usize,
}

impl Batch {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Which of its partitions.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The end of what could be consumed when the node sent this.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The first retained offset when the node sent this.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// How many records there are; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len() - self.skip
    }

    /// Whether there are none, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset of the first record.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        let header = self.batch.header();
        if header.is_dense() {
            return header.base_offset.plus(self.skip as u32);
        }
        self.records().next().map_or(header.base_offset, |record| record.offset)
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.batch.header().end_offset()
    }

    /// The records in turn, borrowed. Allocates nothing.
    pub fn records(&self) -> Skip<RecordIter<'_>> {
        self.records.iter().skip(self.skip)
    }

    /// The records in turn, each to be kept: keys, values and headers are slices that keep the
    /// whole batch in memory.
    pub fn owned_records(&self) -> impl ExactSizeIterator<Item = ConsumerRecord> + '_ {
        let records = self.records.iter_shared().skip(self.skip);
        records.map(|(offset, record)| self.owned(offset, record))
    }

    /// The whole batch as it is stored, which may begin before the first wanted record.
    #[must_use]
    pub fn raw(&self) -> &RecordBatch {
        &self.batch
    }

    fn owned(&self, offset: Offset, record: Record) -> ConsumerRecord {
        ConsumerRecord {
            topic: self.topic.clone(),
            partition: self.partition,
            offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }
}

/// A record that was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// Which of its partitions.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: Offset,
    /// Event time, from the producer.
    pub timestamp: TimestampMs,
    /// What orders and partitions it, if anything.
    pub key: Option<Bytes>,
    /// The payload; none says that the key is deleted.
    pub value: Option<Bytes>,
    /// Further named values, in the producer's order. Names may repeat.
    pub headers: Vec<Header>,
}
