//! Against the `kafka-protocol` crate, an independent implementation of the same format: each
//! reads what the other writes. LZ4 is the reference C library's there.

use crate::support::batch;
use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as kafka;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weir_core::record::{BatchBuilder, Compression, Header, Record, RecordBatch};
use weir_core::{ProducerId, TimestampMs};

const PRODUCER: i64 = 4_711;
const PRODUCER_EPOCH: i16 = 2;
const BASE_SEQUENCE: i32 = 100;

fn any_bytes() -> impl Strategy<Value = Option<Bytes>> {
    option::of(vec(any::<u8>(), 0..300)).prop_map(|bytes| bytes.map(Bytes::from))
}

/// Their headers are a map, so ours have different names here. Their timestamps must not wrap.
fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let headers = btree_map("[a-zäß]{0,12}", any_bytes(), 0..4).prop_map(|map| {
        map.into_iter().map(|(name, value)| Header { name: name.into(), value }).collect()
    });
    let parts = (-1_000_000..2_000_000_000_000_i64, any_bytes(), any_bytes(), headers);
    let record = parts.prop_map(|(timestamp, key, value, headers): (_, _, _, Vec<Header>)| {
        Record { timestamp: TimestampMs(timestamp), key, value, headers }
    });
    vec(record, 1..30)
}

fn theirs(way: Compression) -> kafka::Compression {
    match way {
        Compression::None => kafka::Compression::None,
        Compression::Gzip => kafka::Compression::Gzip,
        Compression::Snappy => kafka::Compression::Snappy,
        Compression::Lz4 => kafka::Compression::Lz4,
        Compression::Zstd => kafka::Compression::Zstd,
    }
}

fn to_theirs(index: usize, record: &Record) -> kafka::Record {
    let headers = record
        .headers
        .iter()
        .map(|header| (StrBytes::from_string(header.name.to_string()), header.value.clone()));
    kafka::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 5,
        producer_id: PRODUCER,
        producer_epoch: PRODUCER_EPOCH,
        timestamp_type: kafka::TimestampType::Creation,
        offset: 1_000 + index as i64,
        sequence: BASE_SEQUENCE + index as i32,
        timestamp: record.timestamp.0,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers.collect::<IndexMap<_, _>>(),
    }
}

/// What they make of `records`. They are built without zstd, whose C library is the same one
/// anyway: there, only the packing is ours, streamed and of another level than the codec's.
fn encode_theirs(records: &[kafka::Record], way: Compression) -> Bytes {
    let options = kafka::RecordEncodeOptions { version: 2, compression: theirs(way) };
    let mut bytes = BytesMut::new();
    if way != Compression::Zstd {
        kafka::RecordBatchEncoder::encode(&mut bytes, records, &options).expect("encodes");
        return bytes.freeze();
    }
    let pack = |input: &mut BytesMut, out: &mut BytesMut, _| {
        out.extend_from_slice(&zstd::stream::encode_all(input.as_ref(), 7)?);
        Ok(())
    };
    kafka::RecordBatchEncoder::encode_with_custom_compression(
        &mut bytes,
        records,
        &options,
        Some(pack),
    )
    .expect("encodes");
    bytes.freeze()
}

fn decode_theirs(mut bytes: Bytes, way: Compression) -> kafka::RecordSet {
    if way != Compression::Zstd {
        return kafka::RecordBatchDecoder::decode(&mut bytes).expect("decodes");
    }
    let unpack = |input: &mut Bytes, _| Ok(Bytes::from(zstd::stream::decode_all(&input[..])?));
    kafka::RecordBatchDecoder::decode_with_custom_compression(&mut bytes, Some(unpack))
        .expect("decodes")
}

/// Makes even small batches shrink, so that all are really packed.
fn padded(mut records: Vec<Record>) -> Vec<Record> {
    records.push(Record { value: Some(vec![b'p'; 1_000].into()), ..Record::default() });
    records
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn they_read_what_we_write(
        records in any_records(),
        way in proptest::sample::select(&Compression::ALL),
    ) {
        let records = padded(records);
        let mut builder = BatchBuilder::new(way);
        for record in &records {
            builder.push_record(record).unwrap();
        }
        let bytes = builder.build(ProducerId(PRODUCER), PRODUCER_EPOCH, BASE_SEQUENCE).unwrap();
        let batch = RecordBatch::decode(bytes).unwrap();
        prop_assert_eq!(batch.compression(), way);
        let placed = batch.with_base(weir_core::Offset(1_000), weir_core::LeaderEpoch(5));

        let set = decode_theirs(placed.into_bytes(), way);
        prop_assert_eq!(set.compression, theirs(way));
        let expected: Vec<_> =
            records.iter().enumerate().map(|(index, record)| to_theirs(index, record)).collect();
        prop_assert_eq!(set.records, expected);
    }

    #[test]
    fn we_read_what_they_write(
        records in any_records(),
        way in proptest::sample::select(&Compression::ALL),
    ) {
        let records = padded(records);
        let out: Vec<_> =
            records.iter().enumerate().map(|(index, record)| to_theirs(index, record)).collect();
        let (batch, read) = RecordBatch::decode_with_records(encode_theirs(&out, way)).unwrap();
        let header = batch.header();
        prop_assert_eq!(batch.compression(), way);
        prop_assert_eq!(header.base_offset.0, 1_000);
        prop_assert_eq!(header.epoch.0, 5);
        prop_assert_eq!(header.producer_id.0, PRODUCER);
        prop_assert_eq!(header.producer_epoch, PRODUCER_EPOCH);
        prop_assert_eq!(header.base_sequence, BASE_SEQUENCE);
        let read: Vec<Record> = read.iter_shared().map(|(_, record)| record).collect();
        prop_assert_eq!(read, records);
    }
}

/// A plain batch is the same bytes from both, where the first record is the oldest one: their
/// base timestamp is the oldest, ours, as the Java client's, the first.
#[test]
fn plain_batches_are_the_same_bytes() {
    let records: Vec<Record> = (0..5)
        .map(|index| crate::support::record(1_000 + index * 40, Some("k"), Some("value")))
        .collect();
    let bytes = batch(Compression::None, &records);
    let batch = RecordBatch::decode(bytes).unwrap();
    let ours = batch.with_base(weir_core::Offset(1_000), weir_core::LeaderEpoch(5));
    let plain = |(index, record)| kafka::Record {
        producer_id: -1,
        producer_epoch: -1,
        sequence: -1 + index as i32,
        ..to_theirs(index, record)
    };
    let out: Vec<_> = records.iter().enumerate().map(plain).collect();
    assert_eq!(ours.into_bytes(), encode_theirs(&out, Compression::None));
}
