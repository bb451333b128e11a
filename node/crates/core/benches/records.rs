//! Speed of the record batch codec. Figures are per batch; `items/s` counts records.
//!
//! `cargo bench -p weir-core --bench records`, or with `-- decode` behind it for some of them.
//!
//! The fastest seen on two cores of a 2026 Xeon VM that others used, too, for 100-byte records:
//! decode 17 ns each (8 of it the checksum), iterate 12, iterate_shared 90, push 22, encode 40.

use bytes::{Bytes, BytesMut};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, set_base};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};

/// Value bytes per record, and how many of them make a batch of about 100 KB and 1 MB.
const SHAPES: [(usize, usize); 2] = [(100, 1_000), (1_024, 1_000)];
const PACKED: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn main() {
    divan::main();
}

/// Sensor-like text, so that compression has something to do: no two values are alike.
fn values(value_bytes: usize, count: usize) -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let value = |index: usize| {
        let mut value = Vec::new();
        while value.len() < value_bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let text = format!("{{\"n\":{index},\"t\":{}.{:03}}}", state % 40, state % 999);
            value.extend_from_slice(text.as_bytes());
        }
        value.truncate(value_bytes);
        value
    };
    (0..count).map(value).collect()
}

fn push_all(builder: &mut BatchBuilder, values: &[Vec<u8>]) {
    for (index, value) in values.iter().enumerate() {
        let timestamp = TimestampMs(1_700_000_000_000 + index as i64);
        let key = b"sensor-7".as_slice();
        builder.push(timestamp, Some(key), Some(value), NO_HEADERS).expect("fits");
    }
}

fn batch(compression: Compression, (value_bytes, count): (usize, usize)) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    push_all(&mut builder, &values(value_bytes, count));
    builder.build(ProducerId(1), 0, 0).expect("has records")
}

fn counted<'a, 'b>(
    bencher: Bencher<'a, 'b>,
    (value_bytes, count): (usize, usize),
) -> Bencher<'a, 'b> {
    bencher.counter(ItemsCount::new(count)).counter(BytesCount::new(value_bytes * count))
}

/// Pushing records and building the batch, its checksum included.
#[divan::bench(args = SHAPES)]
fn encode(bencher: Bencher, shape: (usize, usize)) {
    let values = values(shape.0, shape.1);
    let mut builder = BatchBuilder::new(Compression::None);
    counted(bencher, shape).bench_local(|| {
        push_all(&mut builder, &values);
        builder.build(ProducerId(1), 0, 0)
    });
}

/// As `encode`, without the checksum: what the pushing costs.
#[divan::bench(args = SHAPES)]
fn push(bencher: Bencher, shape: (usize, usize)) {
    let values = values(shape.0, shape.1);
    let mut builder = BatchBuilder::new(Compression::None);
    counted(bencher, shape).bench_local(|| {
        push_all(&mut builder, &values);
        builder.clear();
    });
}

/// What the broker does with each produced batch: header, checksum, every record.
#[divan::bench(args = SHAPES)]
fn decode(bencher: Bencher, shape: (usize, usize)) {
    let bytes = batch(Compression::None, shape);
    counted(bencher, shape).bench(|| RecordBatch::decode(black_box(&bytes).clone()));
}

/// What is done with each batch that comes back from the disk: header and checksum.
#[divan::bench(args = SHAPES)]
fn decode_trusted(bencher: Bencher, shape: (usize, usize)) {
    let bytes = batch(Compression::None, shape);
    counted(bencher, shape).bench(|| RecordBatch::decode_trusted(black_box(&bytes).clone()));
}

/// Reading borrowed records of a decoded batch.
#[divan::bench(args = SHAPES)]
fn iterate(bencher: Bencher, shape: (usize, usize)) {
    let batch = RecordBatch::decode(batch(Compression::None, shape)).expect("valid");
    counted(bencher, shape).bench(|| {
        let records = batch.records().expect("valid");
        let lengths = records.iter().map(|record| record.value.map_or(0, <[u8]>::len));
        lengths.sum::<usize>()
    });
}

/// Reading records that share the batch's memory.
#[divan::bench(args = SHAPES)]
fn iterate_shared(bencher: Bencher, shape: (usize, usize)) {
    let batch = RecordBatch::decode(batch(Compression::None, shape)).expect("valid");
    counted(bencher, shape).bench(|| {
        let records = batch.records().expect("valid");
        records.iter_shared().for_each(|record| drop(black_box(record)));
    });
}

/// Writing offset and epoch into a batch.
#[divan::bench]
fn patch_base(bencher: Bencher) {
    let mut bytes = BytesMut::from(batch(Compression::None, SHAPES[0]).as_ref());
    bencher.bench_local(|| set_base(black_box(&mut bytes), Offset(7), LeaderEpoch(1)));
}

/// Building compressed batches of 100-byte records.
#[divan::bench(args = PACKED, sample_count = 20)]
fn encode_packed(bencher: Bencher, way: Compression) {
    let values = values(SHAPES[0].0, SHAPES[0].1);
    let mut builder = BatchBuilder::new(way);
    counted(bencher, SHAPES[0]).bench_local(|| {
        push_all(&mut builder, &values);
        builder.build(ProducerId(1), 0, 0)
    });
}

/// Checking compressed batches of 100-byte records.
#[divan::bench(args = PACKED, sample_count = 20)]
fn decode_packed(bencher: Bencher, way: Compression) {
    let bytes = batch(way, SHAPES[0]);
    counted(bencher, SHAPES[0]).bench(|| RecordBatch::decode(black_box(&bytes).clone()));
}
