//! Well-sealed batches that break one rule each, and what each is refused with.

use crate::support::{framed, plain_header, sealed, tiny, varint};
use bytes::Bytes;
use weir_core::record::{BatchError, BatchHeader, Compression, RecordBatch, peek_total_bytes};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs, limits};

/// Why a batch of `count` records with this payload is refused.
fn refusal(count: u32, payload: &[u8]) -> BatchError {
    refusal_of(plain_header(count), payload)
}

fn refusal_of(header: BatchHeader, payload: &[u8]) -> BatchError {
    let bytes = sealed(header, payload);
    let error = RecordBatch::decode(bytes.clone()).expect_err("refused");
    assert_eq!(RecordBatch::decode_with_records(bytes).expect_err("refused"), error);
    assert!(!error.to_string().is_empty());
    error
}

fn malformed(body: &[u8]) -> &'static str {
    match refusal(1, &framed(body)) {
        BatchError::RecordMalformed { index: 0, what } => what,
        other => panic!("refused for another reason: {other}"),
    }
}

/// The reference point of this file: without a fault, it is accepted.
#[test]
fn a_sealed_batch_is_valid() {
    let bytes = sealed(plain_header(2), &[tiny(0), tiny(1)].concat());
    assert_eq!(RecordBatch::decode(bytes).expect("valid").len(), 2);
}

#[test]
fn other_versions_are_refused_by_name() {
    for magic in [0_u8, 1, 3, 0xff] {
        let mut bytes = sealed(plain_header(1), &tiny(0)).to_vec();
        bytes[16] = magic;
        let error = RecordBatch::decode(Bytes::from(bytes)).unwrap_err();
        assert_eq!(error, BatchError::Magic(magic.cast_signed()));
    }
}

#[test]
fn lengths_are_bounded() {
    let with_length = |length: i32| {
        let mut bytes = sealed(plain_header(1), &tiny(0)).to_vec();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        RecordBatch::decode(Bytes::from(bytes)).unwrap_err()
    };
    for length in [i32::MIN, -1, 0, 48] {
        assert_eq!(with_length(length), BatchError::Length(length));
    }
    let max = limits::BATCH_BYTES_MAX;
    for length in [(max - 12 + 1) as i32, i32::MAX] {
        let bytes = length as usize + 12;
        assert_eq!(with_length(length), BatchError::TooLarge { bytes, max });
    }
    assert!(matches!(with_length((max - 12) as i32), BatchError::Short { .. }));
    assert_eq!(peek_total_bytes(&[0; 11]), Ok(None));
    assert_eq!(peek_total_bytes(&[0; 12]), Err(BatchError::Length(0)));
}

#[test]
fn counts_are_bounded() {
    let max = limits::BATCH_RECORDS_MAX;
    for count in [0, max as u32 + 1, i32::MAX as u32, u32::MAX] {
        let refused = BatchError::RecordCount { count: count.cast_signed(), max };
        assert_eq!(refusal(count, &tiny(0)), refused);
    }
    for (delta, count) in [(0, 2), (-1, 2), (max as i32, 2)] {
        let last_offset_delta = i32::cast_unsigned(delta);
        let header = BatchHeader { last_offset_delta, ..plain_header(count) };
        let refused = BatchError::LastOffsetDelta { delta, count };
        assert_eq!(refusal_of(header, &[tiny(0), tiny(1)].concat()), refused);
    }
    // Holes are for what was filtered, not for what is produced.
    let header = BatchHeader { last_offset_delta: 5, ..plain_header(2) };
    let holes = sealed(header, &[tiny(1), tiny(4)].concat());
    assert!(RecordBatch::decode_with_records(holes.clone()).is_ok());
    let refused = BatchError::LastOffsetDelta { delta: 5, count: 2 };
    assert_eq!(RecordBatch::decode(holes).unwrap_err(), refused);
    for (first, second) in [(1, 6), (1, 1), (4, 1)] {
        let beyond = sealed(header, &[tiny(first), tiny(second)].concat());
        let refused = BatchError::OffsetsNotDense { index: 1, delta: second as i32 };
        assert_eq!(RecordBatch::decode_with_records(beyond).unwrap_err(), refused);
    }
    // More records than there are, and fewer.
    let missing = refusal(2, &tiny(0));
    assert!(matches!(missing, BatchError::RecordMalformed { index: 1, .. }), "{missing}");
    let extra = tiny(1).len();
    let payload = [tiny(0), tiny(1)].concat();
    assert_eq!(refusal(1, &payload), BatchError::RecordsTrailing { extra });
}

#[test]
fn offsets_are_dense() {
    let with_deltas = |first, second| refusal(2, &[tiny(first), tiny(second)].concat());
    for delta in [-1, 1, i64::from(i32::MAX), i64::from(i32::MIN)] {
        let refused = BatchError::OffsetsNotDense { index: 0, delta: delta as i32 };
        assert_eq!(with_deltas(delta, 1), refused);
    }
    assert_eq!(with_deltas(0, 0), BatchError::OffsetsNotDense { index: 1, delta: 0 });
    assert_eq!(with_deltas(0, 2), BatchError::OffsetsNotDense { index: 1, delta: 2 });
}

#[test]
fn the_newest_timestamp_is_right() {
    for wrong in [999, 1_001, i64::MIN, i64::MAX] {
        let header = BatchHeader { max_timestamp: TimestampMs(wrong), ..plain_header(1) };
        let refused = BatchError::MaxTimestamp { header: wrong, records: 1_000 };
        assert_eq!(refusal_of(header, &tiny(0)), refused);
    }
}

#[test]
fn attributes_are_known() {
    let with = |attributes| refusal_of(BatchHeader { attributes, ..plain_header(1) }, &tiny(0));
    for code in 5..8 {
        assert_eq!(with(code), BatchError::UnknownCompression(code as u8));
    }
    // Append timestamps, delete horizon, and bits that mean nothing yet.
    for attributes in [0x08, 0x40, 0x80, 0x100, 0x4000, i16::MIN] {
        assert_eq!(with(attributes), BatchError::Attributes(attributes));
    }
    let header = BatchHeader { attributes: 0x30, ..plain_header(1) };
    let marker = RecordBatch::decode(sealed(header, &tiny(0))).expect("valid");
    assert!(marker.header().is_transactional() && marker.header().is_control());
}

#[test]
fn producer_fields_go_together() {
    let with = |id, epoch, sequence| BatchHeader {
        producer_id: ProducerId(id),
        producer_epoch: epoch,
        base_sequence: sequence,
        ..plain_header(1)
    };
    let wrong = [(-2, -1, -1), (i64::MIN, 0, 0), (5, -1, 0), (5, 0, -1), (5, 0, -2)];
    for (id, epoch, sequence) in wrong {
        let refused = BatchError::Producer { id, epoch, sequence };
        assert_eq!(refusal_of(with(id, epoch, sequence), &tiny(0)), refused);
    }
    for (id, epoch, sequence) in [(0, 0, 0), (i64::MAX, i16::MAX, i32::MAX)] {
        RecordBatch::decode(sealed(with(id, epoch, sequence), &tiny(0))).expect("valid");
    }
    // Plain producers: some clients leave epoch or sequence at 0.
    for (epoch, sequence) in [(-1, -1), (-1, 0), (0, 0)] {
        let plain = sealed(with(-1, epoch, sequence), &tiny(0));
        let plain = RecordBatch::decode(plain).expect("valid");
        assert_eq!(plain.header().last_sequence(), -1);
    }
    let marker = BatchHeader { attributes: 0x30, ..with(5, 0, -1) };
    RecordBatch::decode(sealed(marker, &tiny(0))).expect("markers have no sequence");
}

/// Every field of a record, broken on its own.
#[test]
fn records_are_well_formed() {
    let null = varint(-1);
    let start = [vec![0], varint(0), varint(0)].concat();
    let no_headers = [start.clone(), null.clone(), null.clone()].concat();
    let one_header = |header: &[u8]| [&no_headers, varint(1).as_slice(), header].concat();

    assert!(malformed(&[]).contains("empty"));
    assert!(malformed(&[1]).contains("attributes"));
    assert!(malformed(&[0]).contains("timestamp"));
    assert!(malformed(&[&[0], [0x80; 10].as_slice(), &[0; 9]].concat()).contains("timestamp"));
    assert!(malformed(&[0, 0]).contains("offset"));
    assert!(malformed(&[&[0, 0], [0xff; 5].as_slice(), &[0; 9]].concat()).contains("offset"));
    assert!(malformed(&start).contains("key"));
    assert!(malformed(&[start.clone(), varint(-2)].concat()).contains("key"));
    assert!(malformed(&[start.clone(), varint(1)].concat()).contains("key"));
    assert!(malformed(&[start.clone(), varint(i64::from(i32::MAX))].concat()).contains("key"));
    assert!(malformed(&[start.clone(), null.clone()].concat()).contains("value"));
    assert!(malformed(&[start, null, varint(9)].concat()).contains("value"));
    assert!(malformed(&no_headers).contains("header count"));
    assert!(malformed(&[no_headers.clone(), varint(-1)].concat()).contains("fewer than 0"));
    assert!(malformed(&[no_headers.clone(), varint(129)].concat()).contains("too many"));
    let most = varint(i64::from(i32::MAX));
    assert!(malformed(&[no_headers.clone(), most].concat()).contains("too many"));
    assert!(malformed(&[no_headers.clone(), varint(1)].concat()).contains("name"));
    assert!(malformed(&one_header(&varint(-1))).contains("no name"));
    assert!(malformed(&one_header(&[2, 0xff, 1])).contains("UTF-8"));
    assert!(malformed(&one_header(&[2, b'n'])).contains("header value"));
    assert!(malformed(&one_header(&[2, b'n', 3])).contains("header value"));
    assert!(malformed(&one_header(&[2, b'n', 1, 0])).contains("bytes follow"));
    assert!(malformed(&[no_headers.clone(), varint(0), vec![0]].concat()).contains("bytes follow"));
    let long = [varint(250), vec![b'n'; 250], varint(-1)].concat();
    assert!(malformed(&one_header(&long)).contains("too long"));
}

/// A record's own length that lies.
#[test]
fn record_lengths_do_not_lie() {
    for length in [-1, i64::from(i32::MIN)] {
        let error = refusal(1, &[varint(length), tiny(0)].concat());
        assert!(error.to_string().contains("negative"), "{error}");
    }
    for length in [100, i64::from(i32::MAX)] {
        let error = refusal(1, &[varint(length), tiny(0)].concat());
        assert!(error.to_string().contains("past the end"), "{error}");
    }
    for length in [i64::from(i32::MAX) + 1, i64::MAX] {
        let error = refusal(1, &[varint(length), tiny(0)].concat());
        assert!(error.to_string().contains("too long"), "{error}");
    }
}

/// Timestamps at the ends of what a number holds wrap; they do not overflow.
#[test]
fn extreme_deltas_wrap() {
    let null = varint(-1);
    let body = [vec![0], varint(i64::MAX), varint(0), null.clone(), null, varint(0)].concat();
    let header = BatchHeader {
        base_offset: Offset(i64::MAX),
        base_timestamp: TimestampMs(i64::MAX),
        max_timestamp: TimestampMs(-2),
        epoch: LeaderEpoch(i32::MIN),
        ..plain_header(1)
    };
    let batch = RecordBatch::decode(sealed(header, &framed(&body))).expect("valid");
    assert_eq!(batch.header().end_offset(), Offset(i64::MAX));
    assert_eq!(batch.records().unwrap().iter().next().unwrap().timestamp, TimestampMs(-2));
}

/// Packed bytes that are none.
#[test]
fn garbage_does_not_unpack() {
    for way in &Compression::ALL[1..] {
        for garbage in [&b""[..], b"\0", b"garbage that is no compressed data", &[0xff; 200]] {
            let attributes = i16::from(way.code());
            let error = refusal_of(BatchHeader { attributes, ..plain_header(1) }, garbage);
            // Nothing packed may be nothing unpacked: then the record is missing.
            let expected = matches!(
                error,
                BatchError::Unpack(_) | BatchError::RecordMalformed { index: 0, .. }
            );
            assert!(expected, "{way}: {error}");
        }
    }
}
