//! Bytes of this version, kept so that later versions still read them. Never change one: a new
//! version of the format adds its own.

use crate::support::sample;
use bytes::Bytes;
use weir_core::record::{BatchBuilder, BatchHeader, Compression, Record, RecordBatch};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};

const NONE: &str = "\
    000000000000000000000133ffffffff025b0f1a5b0000000000020000018bcfe568000000018bcfe569f4000000\
    0000001267000200000064000000033a000000066b65790a76616c75650408756e6974046d6d0a656d707479010e\
    00cf0f02010100b40300e8070400a403676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f\
    6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e\
    20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c\
    64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20\
    676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e20676f6c64656e2000";

const GZIP: &str = "\
    00000000000000000000008bffffffff02d25232000001000000020000018bcfe568000000018bcfe569f4000000\
    0000001267000200000064000000031f8b08000000000000ffddc5c10d80200c05d05f69d470d0159cc36d4c6c8c\
    91a20730611f47700fd6600cf6e0f45600fd25c9be9b8bc263f46760552bfa844413f2dc11e1372803e333c7ed76\
    f14b43a0023b26540502010000";

const SNAPPY: &str = "\
    000000000000000000000093ffffffff02723012bc0002000000020000018bcfe568000000018bcfe569f4000000\
    00000012670002000000640000000382534e415050590000000001000000010000004e8202f03c3a000000066b65\
    790a76616c75650408756e6974046d6d0a656d707479010e00cf0f02010100b40300e8070400a403676f6c64656e\
    20676f6c64656e20fe0e00fe0e00fe0e00010e0000";

const LZ4: &str = "\
    000000000000000000000089ffffffff0273514d650003000000020000018bcfe568000000018bcfe569f4000000\
    00000012670002000000640000000304224d1860408249000000ff2e3a000000066b65790a76616c75650408756e\
    6974046d6d0a656d707479010e00cf0f02010100b40300e8070400a403676f6c64656e20676f6c64656e200e00ac\
    606c64656e200000000000";

const ZSTD: &str = "\
    00000000000000000000007affffffff02e70d2cbd0004000000020000018bcfe568000000018bcfe569f4000000\
    00000012670002000000640000000328b52ffd600200fd010074033a000000066b65790a76616c75650408756e69\
    74046d6d0a656d707479010e00cf0f02010100b40300e8070400a403676f6c64656e20000100861455a0";

const GOLDEN: [(Compression, &str); 5] = [
    (Compression::None, NONE),
    (Compression::Gzip, GZIP),
    (Compression::Snappy, SNAPPY),
    (Compression::Lz4, LZ4),
    (Compression::Zstd, ZSTD),
];

fn unhex(text: &str) -> Bytes {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two hex digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn golden_records() -> Vec<Record> {
    let mut records = sample();
    records[2].value = Some("golden ".repeat(30).into());
    records
}

/// Header and records of every kept batch.
#[test]
fn golden_batches_are_read() {
    for (way, text) in GOLDEN {
        let bytes = unhex(text);
        let (batch, records) = RecordBatch::decode_with_records(bytes.clone()).expect("valid");
        let expected = BatchHeader {
            base_offset: Offset(0),
            batch_length: (bytes.len() - 12) as u32,
            epoch: LeaderEpoch(-1),
            crc: u32::from_be_bytes(bytes[17..21].try_into().expect("four bytes")),
            attributes: i16::from(way.code()),
            last_offset_delta: 2,
            base_timestamp: TimestampMs(1_700_000_000_000),
            max_timestamp: TimestampMs(1_700_000_000_500),
            producer_id: ProducerId(4_711),
            producer_epoch: 2,
            base_sequence: 100,
            record_count: 3,
        };
        assert_eq!(batch.header(), &expected);
        let records: Vec<Record> = records.iter_shared().map(|(_, record)| record).collect();
        assert_eq!(records, golden_records(), "{way}");
    }
}

/// Bytes that are written without compression never change. Those of a compressor may, with its
/// version: there, only reading is promised.
#[test]
fn the_golden_batch_is_written() {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in golden_records() {
        builder.push_record(&record).expect("fits");
    }
    let bytes = builder.build(ProducerId(4_711), 2, 100).expect("has records");
    assert_eq!(bytes, unhex(NONE));
}

/// The header, field by field, from bytes written by hand.
#[test]
fn the_header_has_its_layout() {
    let text = "\
        0000000000000102\
        00000031\
        00000304\
        02\
        a1b2c3d4\
        0034\
        0000004f\
        0000018bcfe56800\
        0000018bcfe56bff\
        0000000000001267\
        0005\
        00000607\
        00000050";
    let header = BatchHeader {
        base_offset: Offset(0x102),
        batch_length: 49,
        epoch: LeaderEpoch(0x304),
        crc: 0xa1b2_c3d4,
        attributes: 0x34,
        last_offset_delta: 79,
        base_timestamp: TimestampMs(1_700_000_000_000),
        max_timestamp: TimestampMs(1_700_000_001_023),
        producer_id: ProducerId(4_711),
        producer_epoch: 5,
        base_sequence: 0x607,
        record_count: 80,
    };
    let bytes = unhex(text);
    assert_eq!(BatchHeader::decode(&bytes), Ok(header));
    assert_eq!(header.encode().as_slice(), &bytes);
    assert_eq!(header.compression(), Ok(Compression::Zstd));
    assert!(header.is_transactional() && header.is_control());
    assert_eq!((header.last_offset(), header.end_offset()), (Offset(0x151), Offset(0x152)));
    assert_eq!(header.total_bytes(), 61);
}
