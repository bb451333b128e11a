//! What is pushed comes out again, whatever it is and however it is packed.

use crate::support::{batch, record, sample};
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use weir_core::record::{
    BatchBuilder, BatchError, Compression, Header, HeaderName, Record, RecordBatch, Records,
    set_base, split_batch, split_batches,
};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    option::of(prop_oneof![
        4 => vec(any::<u8>(), 0..200),
        1 => vec(Just(b'a'), 0..20_000),
    ])
    .prop_map(|bytes| bytes.map(Bytes::from))
}

fn any_header() -> impl Strategy<Value = Header> {
    ("\\PC{0,40}", any_bytes())
        .prop_map(|(name, value)| Header { name: HeaderName::from(name), value })
}

fn any_record() -> impl Strategy<Value = Record> {
    let timestamp = prop_oneof![
        4 => 1_700_000_000_000..1_700_000_100_000_i64,
        1 => any::<i64>(),
        1 => prop_oneof![Just(i64::MIN), Just(-1), Just(0), Just(i64::MAX)],
    ];
    (timestamp, any_bytes(), any_bytes(), vec(any_header(), 0..4)).prop_map(
        |(timestamp, key, value, headers)| Record {
            timestamp: TimestampMs(timestamp),
            key,
            value,
            headers,
        },
    )
}

fn shared(records: &Records) -> Vec<Record> {
    records.iter_shared().map(|(_, record)| record).collect()
}

/// Reads the batch in each way there is, and compares with what was pushed.
fn assert_reads_back(bytes: &Bytes, expected: &[Record]) {
    let (batch, records) = RecordBatch::decode_with_records(bytes.clone()).expect("valid");
    assert_eq!(shared(&records), expected);
    assert_eq!(batch.len(), expected.len());
    assert_eq!(batch.bytes(), bytes);

    let owned = records.clone().into_iter();
    assert_eq!(owned.len(), expected.len());
    assert!(owned.eq(records.iter_shared()));

    let decoded = RecordBatch::decode(bytes.clone()).expect("valid");
    assert_eq!(shared(&decoded.records().expect("valid")), expected);
    let trusted = RecordBatch::decode_trusted(bytes.clone()).expect("valid");
    assert_eq!(trusted.header(), decoded.header());
    assert_eq!(shared(&trusted.records().expect("valid")), expected);

    assert_eq!(records.len(), expected.len());
    assert_eq!(records.iter().len(), expected.len());
    for (index, (view, record)) in records.iter().zip(expected).enumerate() {
        assert_eq!(view.offset, Offset(index as i64));
        assert_eq!(view.timestamp, record.timestamp);
        assert_eq!(view.key, record.key.as_deref());
        assert_eq!(view.value, record.value.as_deref());
        assert!(view.headers().eq(record.headers.iter().map(Header::view)));
        assert_eq!(view.headers().len(), record.headers.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_records_read_back(
        records in vec(any_record(), 1..40),
        way in proptest::sample::select(&Compression::ALL),
    ) {
        let bytes = batch(way, &records);
        assert_reads_back(&bytes, &records);
        let header = *RecordBatch::decode(bytes).unwrap().header();
        let newest = records.iter().map(|record| record.timestamp).max();
        prop_assert_eq!(Some(header.max_timestamp), newest);
        prop_assert_eq!(header.base_timestamp, records[0].timestamp);
        prop_assert_eq!(header.end_offset(), Offset(records.len() as i64));
    }

    /// A builder that is used again makes the same bytes as a new one, however it was used before.
    #[test]
    fn a_used_builder_is_as_good_as_new(
        batches in vec(vec(any_record(), 1..10), 1..6),
        way in proptest::sample::select(&Compression::ALL),
        keep in any::<bool>(),
    ) {
        let mut builder = BatchBuilder::new(way);
        let mut kept = Vec::new();
        for records in &batches {
            for record in records {
                prop_assert!(builder.fits(record));
                builder.push_record(record).unwrap();
            }
            let built = builder.build(ProducerId::NONE, 7, 7).unwrap();
            prop_assert_eq!(&built, &batch(way, records));
            if keep {
                kept.push(built);
            }
        }
        // What was built before is not written to by what came after.
        for (built, records) in kept.iter().zip(&batches) {
            prop_assert_eq!(built, &batch(way, records));
        }
    }

    /// Records can be taken from one batch to another as they are.
    #[test]
    fn views_can_be_pushed(records in vec(any_record(), 1..20)) {
        let bytes = batch(Compression::None, &records);
        let (_, source) = RecordBatch::decode_with_records(bytes.clone()).unwrap();
        let mut builder = BatchBuilder::new(Compression::None);
        for view in &source {
            builder.push_view(&view).unwrap();
        }
        prop_assert_eq!(builder.bytes(), bytes.len());
        prop_assert_eq!(builder.build(ProducerId::NONE, -1, -1).unwrap(), bytes);
    }
}

/// Packing pays or is left out, and the header says which.
#[test]
fn compression_is_left_out_where_it_does_not_pay() {
    for way in Compression::ALL {
        let text = "the same again ".repeat(100);
        let shrinks = batch(way, &[record(1, None, Some(&text))]);
        assert_eq!(RecordBatch::decode(shrinks).unwrap().compression(), way);
        let small = batch(way, &[record(1, None, Some("x"))]);
        assert_eq!(RecordBatch::decode(small).unwrap().compression(), Compression::None);
    }
}

/// What the Java client insists on: LZ4 blocks that do not depend on each other, and snappy in the
/// framing of snappy-java.
#[test]
fn packing_has_the_forms_that_java_reads() {
    let text = "lz4 in more than one block ".repeat(5_000);
    let lz4 = batch(Compression::Lz4, &[record(1, None, Some(&text))]);
    assert_eq!(lz4[61..65], [0x04, 0x22, 0x4d, 0x18], "frame magic");
    assert_eq!(lz4[65] >> 5, 0b011, "version 1, independent blocks");
    assert_eq!(lz4[66] >> 4, 4, "64 KiB blocks");
    let snappy = batch(Compression::Snappy, &[record(1, None, Some(&text))]);
    assert_eq!(snappy[61..77], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
}

/// Keys and values are slices of the batch: reading copies nothing.
#[test]
fn shared_records_lie_in_the_batch() {
    let bytes = batch(Compression::None, &sample());
    let within = |part: &[u8]| {
        let whole = bytes.as_ptr_range();
        whole.contains(&part.as_ptr_range().start) && part.as_ptr_range().end <= whole.end
    };
    let (_, records) = RecordBatch::decode_with_records(bytes.clone()).unwrap();
    let (_, record) = records.iter_shared().next().unwrap();
    assert!(within(record.key.as_ref().unwrap()));
    assert!(within(record.value.as_ref().unwrap()));
    assert!(within(record.headers[0].name.as_bytes()));
    // A view that is asked for a batch that it is not from copies instead.
    let (_, other) = RecordBatch::decode_with_records(batch(Compression::None, &sample())).unwrap();
    assert_eq!(records.iter().next().unwrap().to_record(&other), record);
}

/// Offset and epoch are written over, and all else stays valid.
#[test]
fn the_base_can_be_set() {
    let bytes = batch(Compression::None, &sample());
    let mut patched = BytesMut::from(bytes.as_ref());
    set_base(&mut patched, Offset(1_000_000_007), LeaderEpoch(9)).unwrap();
    let patched = RecordBatch::decode(patched.freeze()).unwrap();
    assert_eq!(patched.header().base_offset, Offset(1_000_000_007));
    assert_eq!(patched.header().epoch, LeaderEpoch(9));
    assert_eq!(patched.header().last_offset(), Offset(1_000_000_009));
    let offsets: Vec<i64> = patched.records().unwrap().iter().map(|r| r.offset.0).collect();
    assert_eq!(offsets, [1_000_000_007, 1_000_000_008, 1_000_000_009]);

    // The same through a batch, whether its memory is shared or not.
    let batch = RecordBatch::decode(bytes.clone()).unwrap();
    let copied = batch.with_base(Offset(1_000_000_007), LeaderEpoch(9));
    assert_eq!(copied.bytes(), patched.bytes());
    assert_eq!(bytes, crate::support::batch(Compression::None, &sample()), "copied on write");
    let alone = RecordBatch::decode(Bytes::from(bytes.to_vec())).unwrap();
    let at = alone.bytes().as_ptr();
    let alone = alone.with_base(Offset(1_000_000_007), LeaderEpoch(9));
    assert_eq!(alone.bytes(), patched.bytes());
    assert_eq!(alone.bytes().as_ptr(), at, "written in place");

    let short = set_base(&mut [0; 60], Offset(0), LeaderEpoch(0));
    assert_eq!(short, Err(BatchError::Short { have: 60, need: 61 }));
}

/// An idempotent producer's numbers; sequences go round after `i32::MAX`.
#[test]
fn producers_are_kept() {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in sample() {
        builder.push_record(&record).unwrap();
    }
    let bytes = builder.build(ProducerId(77), 3, i32::MAX - 1).unwrap();
    let header = *RecordBatch::decode(bytes).unwrap().header();
    assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(77), 3));
    assert_eq!(header.base_sequence, i32::MAX - 1);
    assert_eq!(header.last_sequence(), 0);
    assert!(!header.is_transactional() && !header.is_control());

    let plain = RecordBatch::decode(batch(Compression::None, &sample())).unwrap();
    assert_eq!(plain.header().last_sequence(), -1);
}

/// Batches that lie one after the other come apart, and the rest of a cut one is reported.
#[test]
fn batches_come_apart() {
    let one = batch(Compression::None, &sample());
    let two = batch(Compression::Zstd, &[record(5, None, Some(&"z".repeat(500)))]);
    let both = Bytes::from([one.as_ref(), two.as_ref()].concat());
    let apart: Result<Vec<Bytes>, _> = split_batches(both.clone()).collect();
    assert_eq!(apart, Ok(vec![one.clone(), two.clone()]));
    assert_eq!(split_batches(Bytes::new()).count(), 0);

    for cut in one.len() + 1..both.len() {
        let mut rest = both.slice(..cut);
        assert_eq!(split_batch(&mut rest), Some(Ok(one.clone())));
        let need = if cut - one.len() < 12 { 61 } else { two.len() };
        let short = BatchError::Short { have: cut - one.len(), need };
        assert_eq!(split_batch(&mut rest), Some(Err(short)));
        assert_eq!(split_batch(&mut rest), None);
    }
}

#[test]
fn compression_names_parse() {
    for way in Compression::ALL {
        assert_eq!(way.to_string().parse(), Ok(way));
        assert_eq!(Compression::from_code(way.code()), Ok(way));
    }
    assert_eq!(format!("{:>6}", Compression::Lz4), "   lz4");
    let error = "brotli".parse::<Compression>().unwrap_err().to_string();
    assert!(error.contains("brotli") && error.contains("zstd"), "{error}");
}
