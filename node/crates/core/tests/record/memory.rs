//! Memory: reading allocates nothing per record, and no lie in the bytes makes the decoder take
//! much. Counts the allocations of the test's own thread.

use crate::support::{batch, plain_header, record, sealed, tiny, varint};
use allocation_counter::measure;
use bytes::Bytes;
use std::io::Write;
use weir_core::limits::BATCH_UNPACKED_BYTES_MAX;
use weir_core::record::{
    BatchBuilder, BatchError, BatchHeader, Compression, NO_HEADERS, Record, RecordBatch,
    UnpackError,
};
use weir_core::{ProducerId, TimestampMs};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

fn thousand() -> Vec<Record> {
    (0..1_000).map(|index| record(index, Some("key"), Some("some value"))).collect()
}

#[test]
fn reading_allocates_nothing_per_record() {
    let bytes = batch(Compression::None, &thousand());
    let info = measure(|| {
        let batch = RecordBatch::decode(bytes.clone()).expect("valid");
        let records = batch.records().expect("valid");
        let keys = records.iter().filter(|record| record.key == Some(b"key"));
        assert_eq!(keys.count(), 1_000);
    });
    assert!(info.count_total <= 2, "{info:?}");
}

#[test]
fn a_packed_batch_is_unpacked_into_one_buffer() {
    for way in &Compression::ALL[1..] {
        let bytes = batch(*way, &thousand());
        let info = measure(|| {
            let (_, records) = RecordBatch::decode_with_records(bytes.clone()).expect("valid");
            assert_eq!(records.iter().count(), 1_000);
        });
        assert!(info.count_total < 40, "{way}: {info:?}");
    }
}

/// Buffers are used again: a producer that has found its pace stops allocating.
#[test]
fn building_reuses_its_buffer() {
    let mut builder = BatchBuilder::new(Compression::None);
    let mut build = || {
        for index in 0..1_000 {
            let timestamp = TimestampMs(index);
            builder.push(timestamp, Some(b"key"), Some(b"some value"), NO_HEADERS).expect("fits");
        }
        builder.build(ProducerId::NONE, -1, -1).expect("has records").len()
    };
    build();
    build();
    let info = measure(|| {
        for _ in 0..20 {
            build();
        }
    });
    assert!(info.count_total <= 20, "{info:?}");
}

/// However a batch grows, its buffer stays near the limit.
#[test]
fn a_buffer_does_not_outgrow_the_limit() {
    for value_bytes in [10_usize, 1_000, 300_000] {
        let info = measure(|| {
            let value = vec![7; value_bytes];
            let mut builder = BatchBuilder::new(Compression::None);
            while builder.push(TimestampMs(0), None, Some(&value), NO_HEADERS).is_ok() {}
            assert!(!builder.is_empty());
        });
        // While it grows the last time, the buffer it leaves is there, too: half the limit.
        assert!(info.bytes_max <= 7 * MIB, "{value_bytes}: {info:?}");
    }
}

#[test]
fn lying_lengths_take_no_memory() {
    let huge = varint(i64::from(i32::MAX));
    let start = [vec![0], varint(0), varint(0)].concat();
    let bodies = [
        [start.clone(), huge.clone()].concat(),
        [start.clone(), varint(-1), huge.clone()].concat(),
        [start.clone(), varint(-1), varint(-1), huge.clone()].concat(),
        [start, varint(-1), varint(-1), varint(1), huge.clone()].concat(),
    ];
    let mut batches: Vec<Bytes> =
        bodies.iter().map(|body| sealed(plain_header(1), &crate::support::framed(body))).collect();
    batches.push(sealed(plain_header(1), &[huge, tiny(0)].concat()));
    batches.push(sealed(plain_header(100_000), &tiny(0)));
    for bytes in batches {
        let info = measure(|| {
            RecordBatch::decode(bytes.clone()).expect_err("refused");
        });
        assert!(info.bytes_max < KIB, "{info:?}");
    }
}

/// `zeros` zero bytes, packed as small as each format can.
fn bomb(way: Compression, zeros: usize) -> Vec<u8> {
    let zeros = vec![0; zeros];
    match way {
        Compression::None => unreachable!("nothing to unpack"),
        Compression::Gzip => {
            let level = flate2::Compression::best();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&zeros).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(&zeros).unwrap(),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&zeros).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::bulk::compress(&zeros, 3).unwrap(),
    }
}

fn packed(way: Compression, payload: &[u8]) -> Bytes {
    let attributes = i16::from(way.code());
    sealed(BatchHeader { attributes, ..plain_header(1) }, payload)
}

/// What unpacks to more than the limit is refused there, and no more than that is unpacked.
#[test]
fn decompression_bombs_are_refused() {
    for way in &Compression::ALL[1..] {
        let bytes = packed(*way, &bomb(*way, 8 * BATCH_UNPACKED_BYTES_MAX / 2));
        let info = measure(|| {
            let error = RecordBatch::decode(bytes.clone()).expect_err("refused");
            let max = BATCH_UNPACKED_BYTES_MAX;
            let too_large = UnpackError::TooLarge { compression: *way, max };
            assert_eq!(error, BatchError::Unpack(too_large));
        });
        // A buffer that doubles is there twice while it grows; decoders have their own, too.
        assert!(info.bytes_max <= 64 * MIB, "{way}: {info:?}");
    }
}

/// Blocks that are each within the limit, and together are not.
#[test]
fn a_bomb_in_many_blocks_is_refused() {
    let block = bomb(Compression::Snappy, BATCH_UNPACKED_BYTES_MAX / 4);
    let counted = [(block.len() as u32).to_be_bytes().as_slice(), &block].concat();
    let blocks = |count| {
        let header = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".as_slice();
        let bytes = packed(Compression::Snappy, &[header, &counted.repeat(count)].concat());
        RecordBatch::decode(bytes).expect_err("refused")
    };
    let fits = blocks(4);
    assert!(matches!(fits, BatchError::RecordMalformed { index: 0, .. }), "{fits}");
    let max = BATCH_UNPACKED_BYTES_MAX;
    let too_large = UnpackError::TooLarge { compression: Compression::Snappy, max };
    assert_eq!(blocks(5), BatchError::Unpack(too_large));
}

/// A small bomb within the limit is no bomb: it is refused for its records.
#[test]
fn what_unpacks_within_the_limit_is_looked_at() {
    for way in &Compression::ALL[1..] {
        let bytes = packed(*way, &bomb(*way, BATCH_UNPACKED_BYTES_MAX));
        let error = RecordBatch::decode(bytes).expect_err("refused");
        assert!(matches!(error, BatchError::RecordMalformed { index: 0, .. }), "{way}: {error}");
    }
}

/// A few bytes that claim to be many: memory is taken for what comes out, not for what is said.
#[test]
fn claims_of_packed_bytes_take_no_memory() {
    // A raw snappy block, and a framed one, whose preamble says 16 MiB less one.
    let block = [0xff, 0xff, 0xff, 0x07, 0x00, b'x'];
    let framed = [b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\0\0\0\x06".as_slice(), &block].concat();
    // A frame whose block length says 4 GiB.
    let long = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01\xff\xff\xff\xffx".to_vec();
    for payload in [block.to_vec(), framed, long] {
        let bytes = packed(Compression::Snappy, &payload);
        let info = measure(|| {
            let error = RecordBatch::decode(bytes.clone()).expect_err("refused");
            assert!(matches!(error, BatchError::Unpack(UnpackError::Malformed { .. })), "{error}");
        });
        assert!(info.bytes_max < 64 * KIB, "{info:?}");
    }
    // A zstd frame that says 2 GiB, and one that asks for a window of 128 MiB.
    let size = b"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x80\x01\x00\x00".to_vec();
    let window = b"\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00".to_vec();
    for payload in [size, window] {
        let bytes = packed(Compression::Zstd, &payload);
        let info = measure(|| {
            let error = RecordBatch::decode(bytes.clone()).expect_err("refused");
            assert!(matches!(error, BatchError::Unpack(UnpackError::Malformed { .. })), "{error}");
        });
        assert!(info.bytes_max < 64 * KIB, "{info:?}");
    }
}
