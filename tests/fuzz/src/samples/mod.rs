//! Valid values of every format, made by code: seeds of the fuzz targets and contents of the
//! golden files. Nothing here depends on time or chance.

pub mod certificates;
pub mod groups;
pub mod messages;
pub mod replica;
pub mod storage;

use bytes::{Bytes, BytesMut};
use weir_core::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use weir_core::record::{BatchBuilder, Compression, HeaderView, set_base};

/// A time in the samples: 2024-02-29 12:00:00 UTC.
pub const TIME: TimestampMs = TimestampMs(1_709_208_000_000);

/// A batch of five records that use every optional part, at offset 40 and epoch 3.
pub fn batch(compression: Compression) -> Bytes {
    let batch = builder(compression).build(ProducerId::NONE, -1, -1);
    at_place(&batch.expect("records were pushed"))
}

/// A batch of an idempotent producer, whose sequence numbers wrap around within it.
pub fn batch_idempotent() -> Bytes {
    let batch = builder(Compression::None).build(ProducerId(77), 2, i32::MAX - 1);
    at_place(&batch.expect("records were pushed"))
}

/// Milliseconds after [`TIME`], key, value, number of headers.
type Sample<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>, usize);

/// Bytes that compress, so that no builder falls back to sending them as they are.
fn builder(compression: Compression) -> BatchBuilder {
    let mut builder = BatchBuilder::new(compression);
    let headers = [
        HeaderView { name: "source", value: Some(b"gps-7") },
        HeaderView { name: "source", value: None },
        HeaderView { name: "", value: Some(b"") },
    ];
    let long = "temperature 21.5 ".repeat(40);
    let records: [Sample<'_>; 5] = [
        (0, Some(b"device-1"), Some(b"{\"lat\":46.5,\"lon\":7.9}"), 3),
        (-5_000, None, Some(long.as_bytes()), 0),
        (60_000, Some(b"device-1"), None, 1),
        (60_000, None, None, 0),
        (1, Some(b""), Some(b""), 2),
    ];
    for (later_ms, key, value, count) in records {
        let pushed =
            builder.push(TimestampMs(TIME.0 + later_ms), key, value, headers[..count].to_vec());
        pushed.expect("a small record fits");
    }
    builder
}

fn at_place(batch: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(batch);
    set_base(&mut bytes, Offset(40), LeaderEpoch(3)).expect("a batch has a header");
    bytes.freeze()
}
