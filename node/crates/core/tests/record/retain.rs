//! Leaving records out: what is left keeps its offsets, bytes and checks.

use bytes::Bytes;
use proptest::prelude::*;
use weir_core::record::{
    BatchBuilder, BatchError, Compression, NO_HEADERS, RecordBatch, Records, Retained,
};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};

fn batch(count: usize, compression: Compression) -> (RecordBatch, Records) {
    let mut builder = BatchBuilder::new(compression);
    for index in 0..count {
        let time = TimestampMs(1_000 + (index as i64 * 37) % 11);
        let key = format!("key {}", index % 7);
        let value = format!("value {index} {}", "abc".repeat(index % 5));
        builder.push(time, Some(key.as_bytes()), Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    let bytes = builder.build(ProducerId(4), 0, 17).unwrap();
    let batch = RecordBatch::decode(bytes).unwrap().with_base(Offset(5_000), LeaderEpoch(3));
    RecordBatch::decode_with_records(batch.into_bytes()).unwrap()
}

type Row = (Offset, TimestampMs, Option<Vec<u8>>, Option<Vec<u8>>);

fn rows(records: &Records) -> Vec<Row> {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    records.iter().map(|r| (r.offset, r.timestamp, owned(r.key), owned(r.value))).collect()
}

fn served(batch: RecordBatch) -> (RecordBatch, Records) {
    // Through bytes, as a consumer gets it.
    RecordBatch::decode_with_records(Bytes::copy_from_slice(batch.bytes())).unwrap()
}

proptest! {
    /// Goal: any choice of records reads back as exactly those, at their offsets.
    #[test]
    fn any_choice(keep in proptest::collection::vec(any::<bool>(), 1..200), way in 0_usize..5) {
        let (whole, records) = batch(keep.len(), Compression::ALL[way]);
        let all = rows(&records);
        let expected: Vec<Row> =
            all.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(row, _)| row.clone()).collect();
        match whole.retain(&records, |index| keep[index]) {
            Retained::All => prop_assert_eq!(expected.len(), all.len()),
            Retained::Nothing => prop_assert!(expected.is_empty()),
            Retained::Some(left) => {
                prop_assert_eq!(left.len(), expected.len());
                let (left, records) = served(left);
                prop_assert_eq!(rows(&records), expected.clone());
                let owned = records.into_iter().map(|(offset, _)| offset).collect::<Vec<_>>();
                prop_assert_eq!(owned, expected.iter().map(|row| row.0).collect::<Vec<_>>());
                prop_assert_eq!(left.header().base_offset, Offset(5_000));
                prop_assert!(left.bytes().len() <= whole.bytes().len() + 64);
            }
        }
    }
}

/// Goal: a batch with holes cannot be produced, and what is left can be filtered again.
#[test]
fn holes_are_for_serving_only() {
    let (whole, records) = batch(10, Compression::None);
    let Retained::Some(left) = whole.retain(&records, |index| index % 3 == 0) else {
        panic!("some are left");
    };
    let refused = RecordBatch::decode(left.bytes().clone()).unwrap_err();
    assert_eq!(refused, BatchError::LastOffsetDelta { delta: 9, count: 4 });
    let (left, records) = served(left);
    let Retained::Some(less) = left.retain(&records, |index| index == 1) else {
        panic!("one is left");
    };
    let (less, records) = served(less);
    assert_eq!(rows(&records)[0].0, Offset(5_003));
    assert_eq!(less.header().end_offset(), Offset(5_004));
}
