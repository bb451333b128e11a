//! Builders that keep each test to what it is about.

use bytes::{BufMut, Bytes, BytesMut};
use weir_core::record::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchHeader, Compression, Header, Record,
};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};

/// Where the checksum and what it covers begin.
pub const CHECKSUM_AT: usize = 17;
pub const CHECKSUM_FROM: usize = 21;

/// A record without headers.
pub fn record(timestamp: i64, key: Option<&str>, value: Option<&str>) -> Record {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Record {
        timestamp: TimestampMs(timestamp),
        key: key.map(bytes),
        value: value.map(bytes),
        headers: Vec::new(),
    }
}

pub fn header(name: &'static str, value: Option<&'static [u8]>) -> Header {
    Header { name: name.into(), value: value.map(Bytes::from_static) }
}

/// Three records with everything that a record can have.
pub fn sample() -> Vec<Record> {
    let mut full = record(1_700_000_000_000, Some("key"), Some("value"));
    full.headers = vec![header("unit", Some(b"mm")), header("empty", None)];
    let nulls = record(1_699_999_999_000, None, None);
    let empty = record(1_700_000_000_500, Some(""), Some(""));
    vec![full, nulls, empty]
}

/// A batch of `records` of a plain producer.
pub fn batch(compression: Compression, records: &[Record]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        builder.push_record(record).expect("fits");
    }
    builder.build(ProducerId::NONE, -1, -1).expect("has records")
}

/// What a header without peculiarities says of a batch of `count` records.
pub fn plain_header(count: u32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        batch_length: 0,
        epoch: LeaderEpoch(-1),
        crc: 0,
        attributes: 0,
        last_offset_delta: count.wrapping_sub(1),
        base_timestamp: TimestampMs(1_000),
        max_timestamp: TimestampMs(1_000),
        producer_id: ProducerId::NONE,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: count,
    }
}

/// `header` and `payload` as a batch whose length and checksum are right, whatever else is not.
pub fn sealed(header: BatchHeader, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    let batch_length = (BATCH_HEADER_BYTES - 12 + payload.len()) as u32;
    bytes.put_slice(&BatchHeader { batch_length, ..header }.encode());
    bytes.put_slice(payload);
    seal(&mut bytes);
    bytes.freeze()
}

/// Makes the checksum right again.
pub fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[CHECKSUM_FROM..]);
    bytes[CHECKSUM_AT..CHECKSUM_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// `value` as a zigzag varint, written the slow way.
pub fn varint(value: i64) -> Vec<u8> {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while raw > 0x7f {
        bytes.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    bytes.push(raw as u8);
    bytes
}

/// `body` behind its length: a record.
pub fn framed(body: &[u8]) -> Vec<u8> {
    [varint(body.len() as i64), body.to_vec()].concat()
}

/// The smallest record: no key, no value, no headers, timestamp 1,000.
pub fn tiny(offset_delta: i64) -> Vec<u8> {
    let (null, none) = (varint(-1), varint(0));
    framed(&[vec![0], varint(0), varint(offset_delta), null.clone(), null, none].concat())
}
