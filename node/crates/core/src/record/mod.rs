//! Record batches: Kafka's record batch v2, byte for byte.
//!
//! A batch is stored, replicated and served as the bytes that the producer sent. So it is checked
//! in full once, where it enters ([`RecordBatch::decode`]), and then carried as a [`RecordBatch`],
//! which cannot be had otherwise. Only base offset and leader epoch change ([`set_base`]); they
//! lie outside the checksum.
//!
//! # Layout (big-endian)
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | base offset |
//! | 8 | 4 | length: bytes after this field |
//! | 12 | 4 | leader epoch |
//! | 16 | 1 | magic, 2 |
//! | 17 | 4 | CRC-32C of byte 21 to the end |
//! | 21 | 2 | attributes: bits 0-2 compression, bit 4 transactional, bit 5 control |
//! | 23 | 4 | last offset delta: record count - 1, more where records were left out |
//! | 27 | 8 | base timestamp, ms since the Unix epoch |
//! | 35 | 8 | newest timestamp, ms since the Unix epoch |
//! | 43 | 8 | producer id, or -1 |
//! | 51 | 2 | producer epoch, or -1 |
//! | 53 | 4 | base sequence, or -1 |
//! | 57 | 4 | record count |
//! | 61 | | records, one after the other, all together compressed |
//!
//! A record, of zigzag varints: length of the rest; attributes (one byte, 0); timestamp less base
//! timestamp; offset less base offset; key length (-1: null) and key; value length (-1: null) and
//! value; header count; per header, name length and name, value length (-1: null) and value.
//!
//! Stricter than Kafka: a producer's offsets are dense (a batch that was filtered on its way to a
//! consumer has holes), the newest timestamp is right, header names are valid
//! UTF-8, unassigned attribute bits are 0, and everything keeps within [`crate::limits`].
//!
//! # Example
//!
//! ```
//! use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch};
//! use weir_core::{ProducerId, TimestampMs};
//!
//! let mut builder = BatchBuilder::new(Compression::Lz4);
//! let time = TimestampMs(1_700_000_000_000);
//! builder.push(time, Some(b"bus-7"), Some(b"52.5,13.4"), NO_HEADERS)?;
//! let bytes = builder.build(ProducerId::NONE, -1, -1)?;
//!
//! let (batch, records) = RecordBatch::decode_with_records(bytes)?;
//! assert_eq!(batch.header().max_timestamp, time);
//! for record in &records {
//!     assert_eq!(record.key, Some(b"bus-7".as_slice()));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod builder;
mod compress;
mod error;
mod header;
mod iter;
mod retain;
mod varint;

pub use batch::{RecordBatch, SplitBatches, split_batch, split_batches};
pub use builder::{BatchBuilder, NO_HEADERS};
pub use compress::{Compression, ParseCompressionError};
pub use error::{BatchError, BuildError, PushError, RecordTooLarge, UnpackError};
pub use header::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, peek_total_bytes, sequence_plus, set_base,
};
pub use iter::{
    Header, HeaderName, HeaderView, Headers, IntoRecords, Record, RecordIter, RecordView, Records,
};
pub use retain::Retained;
