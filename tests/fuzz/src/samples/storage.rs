//! What lies on disk: envelopes and views of partitions.

use super::{TIME, batch};
use bytes::Bytes;
use weir_core::entry::{EntryHeader, EntryKind, StateChange, encode_state};
use weir_core::ids::{LeaderEpoch, Offset, PartitionId, ProducerId};
use weir_core::partition::producers::{ProducerBatch, ProducerTable};
use weir_core::partition::view::PartitionView;
use weir_core::record::Compression;

/// Changes of keyed state: a value, an empty one, a deletion.
pub fn state_changes() -> Vec<StateChange> {
    let change = |key: &'static [u8], value: Option<&'static [u8]>| StateChange {
        key: Bytes::from_static(key),
        value: value.map(Bytes::from_static),
    };
    vec![change(b"a", Some(b"first")), change(b"", Some(b"")), change(b"gone", None)]
}

/// An envelope of `kind` and its sections, without a batch.
pub fn entry(kind: EntryKind) -> Vec<u8> {
    let (state, source, taken, batch_len) = match kind {
        EntryKind::Entry => {
            let batch_len = batch(Compression::None).len() as u32;
            (encode_state(&state_changes()), Bytes::from_static(b"source"), 5, batch_len)
        }
        _ => (Bytes::new(), Bytes::new(), 0, 0),
    };
    let header = EntryHeader {
        kind,
        partition: PartitionId(9),
        base_offset: Offset(40),
        offset_count: taken,
        epoch: LeaderEpoch(3),
        append_time: TIME,
        state_len: state.len() as u32,
        source_len: source.len() as u32,
        batch_len,
    };
    let mut bytes = header.encode(&state, &source).to_vec();
    bytes.extend_from_slice(&state);
    bytes.extend_from_slice(&source);
    bytes
}

/// Every kind of entry.
pub const KINDS: [EntryKind; 4] =
    [EntryKind::Entry, EntryKind::LogStart, EntryKind::Truncate, EntryKind::Delete];

/// A view in which nothing is empty.
pub fn view() -> PartitionView {
    let mut producers = ProducerTable::default();
    for n in 0..3 {
        for base_sequence in [0, 5] {
            let batch = ProducerBatch { id: ProducerId(70 + n), epoch: 1, base_sequence, count: 5 };
            producers.record(&batch, Offset(10 * n + i64::from(base_sequence)));
        }
    }
    let state = [("a", "first"), ("b", "")];
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    PartitionView {
        log_start: Offset(2),
        log_end: Offset(45),
        append_time: TIME,
        epochs: vec![(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(40))],
        producers,
        state: state.map(|(key, value)| (bytes(key), bytes(value))).into(),
    }
}
