//! Appends as a broker makes them, for what measures the log.

use bytes::{Bytes, BytesMut};
use std::time::Duration;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, set_base};
use weir_core::{LeaderEpoch, Offset, PartitionId, ProducerId, TimestampMs};
use weir_log::AppendRequest;

/// Bytes of a batch and of a record that are not the record's value.
const OVERHEAD: usize = 61 + 12;

/// An append of `batch`, which holds one record, at `base`: bytes of their own, with offset and
/// epoch written in place.
pub fn request(
    partition: PartitionId,
    base: Offset,
    epoch: LeaderEpoch,
    batch: &[u8],
) -> AppendRequest {
    let mut batch = BytesMut::from(batch);
    set_base(&mut batch, base, epoch).unwrap();
    AppendRequest {
        header: EntryHeader {
            kind: EntryKind::Entry,
            partition,
            base_offset: base,
            offset_count: 1,
            epoch,
            append_time: TimestampMs(1),
            state_len: 0,
            source_len: 0,
            batch_len: batch.len() as u32,
        },
        state: Bytes::new(),
        source: Bytes::new(),
        batch: batch.freeze(),
        linger: Duration::ZERO,
        hold: None,
    }
}

/// A batch of one record, about `bytes` long in all.
pub fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![7; bytes.saturating_sub(OVERHEAD)];
    builder.push(TimestampMs(1), None, Some(&value), NO_HEADERS).unwrap();
    builder.build(ProducerId::NONE, -1, -1).unwrap()
}
