//! Limits are the same for those who build batches and those who check them, to the byte.

use crate::support::{batch, header, record};
use bytes::Bytes;
use weir_core::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};
use weir_core::record::{
    BatchBuilder, BuildError, Compression, Header, NO_HEADERS, PushError, Record, RecordBatch,
    RecordTooLarge,
};
use weir_core::{ProducerId, TimestampMs};

fn push_error(record: &Record) -> PushError {
    let mut builder = BatchBuilder::new(Compression::None);
    assert!(!builder.fits(record));
    let error = builder.push_record(record).expect_err("too large");
    assert!(builder.is_empty() && builder.bytes() == 0, "as before");
    error
}

#[test]
fn the_largest_record_fits_and_one_byte_more_does_not() {
    let mut largest = record(1, Some("key"), None);
    largest.headers = vec![header("name", Some(b"value"))];
    let value_bytes = RECORD_BYTES_MAX - largest.payload_bytes();
    largest.value = Some(Bytes::from(vec![7; value_bytes]));
    assert_eq!(largest.payload_bytes(), RECORD_BYTES_MAX);
    RecordBatch::decode(batch(Compression::None, &[largest.clone()])).expect("valid");

    largest.value = Some(Bytes::from(vec![7; value_bytes + 1]));
    let too_large = RecordTooLarge::Bytes { bytes: RECORD_BYTES_MAX + 1, max: RECORD_BYTES_MAX };
    assert_eq!(push_error(&largest), PushError::Record(too_large));
}

/// The same limit where the batch comes from someone else.
#[test]
fn one_byte_more_is_refused_on_the_way_in() {
    use crate::support::{framed, plain_header, sealed, varint};
    let with = |bytes: usize| {
        let mut body = [vec![0], varint(0), varint(0), varint(-1)].concat();
        body.extend(varint(bytes as i64));
        body.resize(body.len() + bytes, 7);
        body.extend(varint(0));
        RecordBatch::decode(sealed(plain_header(1), &framed(&body)))
    };
    with(RECORD_BYTES_MAX).expect("valid");
    let error = with(RECORD_BYTES_MAX + 1).unwrap_err().to_string();
    assert!(error.contains("1048577") && error.contains("smaller"), "{error}");
}

#[test]
fn headers_are_limited() {
    let mut many = record(1, None, None);
    many.headers = vec![header("n", None); RECORD_HEADERS_MAX];
    RecordBatch::decode(batch(Compression::None, &[many.clone()])).expect("valid");
    many.headers.push(header("n", None));
    let count = RECORD_HEADERS_MAX + 1;
    let refused = RecordTooLarge::Headers { count, max: RECORD_HEADERS_MAX };
    assert_eq!(push_error(&many), PushError::Record(refused));

    let named = |bytes: usize| Record {
        headers: vec![Header { name: "n".repeat(bytes).into(), value: None }],
        ..Record::default()
    };
    RecordBatch::decode(batch(Compression::None, &[named(NAME_BYTES_MAX)])).expect("valid");
    let refused = RecordTooLarge::HeaderName { bytes: NAME_BYTES_MAX + 1, max: NAME_BYTES_MAX };
    assert_eq!(push_error(&named(NAME_BYTES_MAX + 1)), PushError::Record(refused));
}

/// A batch fills up to its limit, says so, and takes the record after it was built.
#[test]
fn a_full_batch_is_not_larger_than_the_limit() {
    for (bytes_max, value_bytes) in [(BATCH_BYTES_MAX, 100_000), (4_096, 100), (65_536, 1)] {
        let record = Record { value: Some(vec![7; value_bytes].into()), ..Record::default() };
        let mut builder = BatchBuilder::with_bytes_max(Compression::None, bytes_max);
        while builder.fits(&record) {
            builder.push_record(&record).expect("fits");
        }
        assert_eq!(builder.push_record(&record), Err(PushError::Full));
        let (bytes, count) = (builder.bytes(), builder.len());
        assert!(bytes <= bytes_max && bytes + value_bytes + 20 > bytes_max, "{bytes}");
        let built = builder.build(ProducerId::NONE, -1, -1).expect("has records");
        assert_eq!(built.len(), bytes);
        assert_eq!(RecordBatch::decode(built).expect("valid").len(), count);
        builder.push_record(&record).expect("fits");
    }
}

/// The limit itself is allowed, one byte more is not.
#[test]
fn a_batch_may_be_as_large_as_the_limit() {
    let pair = [record(1, None, Some("first")), record(2, Some("k"), Some("second"))];
    let exact = batch(Compression::None, &pair).len();
    for (bytes_max, expected) in [(exact, Ok(())), (exact - 1, Err(PushError::Full))] {
        let mut builder = BatchBuilder::with_bytes_max(Compression::None, bytes_max);
        builder.push_record(&pair[0]).expect("fits");
        assert_eq!(builder.push_record(&pair[1]), expected);
    }
}

#[test]
fn a_batch_takes_as_many_records_as_allowed() {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for index in 0..BATCH_RECORDS_MAX {
        let timestamp = TimestampMs(index as i64);
        builder.push(timestamp, None, Some(b"v"), NO_HEADERS).expect("fits");
    }
    assert_eq!(builder.push(TimestampMs(0), None, None, NO_HEADERS), Err(PushError::Full));
    let built = builder.build(ProducerId::NONE, -1, -1).expect("has records");
    assert_eq!(RecordBatch::decode(built).expect("valid").len(), BATCH_RECORDS_MAX);
}

/// One record goes into any builder, however small its batches are to be.
#[test]
fn one_record_always_fits() {
    let mut builder = BatchBuilder::with_bytes_max(Compression::None, 0);
    builder.push_record(&record(1, None, Some("larger than nothing"))).expect("fits");
    assert_eq!(builder.push_record(&record(1, None, None)), Err(PushError::Full));
    let built = builder.build(ProducerId::NONE, -1, -1).expect("has records");
    assert_eq!(RecordBatch::decode(built).expect("valid").len(), 1);
}

/// What is refused leaves the builder as it was.
#[test]
fn a_batch_is_not_built_from_nothing() {
    let mut builder = BatchBuilder::new(Compression::None);
    assert_eq!(builder.build(ProducerId::NONE, -1, -1), Err(BuildError::Empty));
    builder.push_record(&record(1, None, Some("kept"))).expect("fits");
    for (epoch, sequence) in [(-1, 0), (0, -1)] {
        let refused = BuildError::Producer { epoch, sequence };
        assert_eq!(builder.build(ProducerId(1), epoch, sequence), Err(refused));
    }
    assert_eq!(builder.len(), 1);
    builder.build(ProducerId(1), 0, 0).expect("still there");
    builder.push_record(&record(1, None, Some("thrown away"))).expect("fits");
    builder.clear();
    assert_eq!(builder.build(ProducerId::NONE, -1, -1), Err(BuildError::Empty));
}
