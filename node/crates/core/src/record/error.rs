//! Why a batch was refused, or could not be built.

use super::Compression;
use thiserror::Error;

/// Why bytes are not a record batch that this node accepts. None of these goes away by sending
/// the same bytes again; nothing of a refused batch was stored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the record batch ends after {have} of {need} bytes: send or read the rest of it")]
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the batch, or its header, takes.
        need: usize,
    },
    /// More bytes than one batch.
    #[error("{extra} bytes follow the record batch: send one batch at a time")]
    TrailingBytes {
        /// Bytes after the end of the batch.
        extra: usize,
    },
    /// The length field cannot be right.
    #[error("a record batch cannot be {0} bytes long after its length field: the data is damaged")]
    Length(i32),
    /// Another version of the format.
    #[error("the record batch has magic {0}, only 2 is supported: use a newer producer")]
    Magic(i8),
    /// The bytes changed on the way.
    #[error(
        "the record batch is damaged: its checksum is {stored:#010x}, \
         that of its bytes {computed:#010x}"
    )]
    Checksum {
        /// What the batch says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A compression code that is not assigned.
    #[error("unknown compression {0}: use none, gzip, snappy, lz4 or zstd")]
    UnknownCompression(u8),
    /// Attribute bits that a producer must not set.
    #[error(
        "record batch attributes {0:#06x} have bits that only a broker may set, or none at all"
    )]
    Attributes(i16),
    /// The compressed records did not unpack.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The batch is over the limit.
    #[error("the record batch takes {bytes} bytes, at most {max} are allowed: send smaller ones")]
    TooLarge {
        /// Bytes of the batch, its header included.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The batch has no records, or more than allowed, or a negative number of them.
    #[error("the record batch counts {count} records, allowed are 1 to {max}")]
    RecordCount {
        /// What the header says.
        count: i32,
        /// The limit.
        max: usize,
    },
    /// One record is over the limit.
    #[error(
        "record {index} of the batch has {bytes} bytes of key, value and headers, \
         at most {max} are allowed: send smaller records"
    )]
    RecordTooLarge {
        /// Position of the record in its batch, from 0.
        index: u32,
        /// Bytes of its key, value and headers.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// One record does not follow the format.
    #[error("record {index} of the batch is malformed: {what}")]
    RecordMalformed {
        /// Position of the record in its batch, from 0.
        index: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Bytes are left over behind the last record.
    #[error("{extra} bytes follow the last record of the batch")]
    RecordsTrailing {
        /// Bytes that belong to no record.
        extra: usize,
    },
    /// Offsets within the batch must ascend from 0, with as many holes as the header says: none in
    /// a producer's batch.
    #[error(
        "record {index} of the batch has offset delta {delta}: \
         a producer's records count up from 0 without holes"
    )]
    OffsetsNotDense {
        /// Position of the record in its batch, from 0.
        index: u32,
        /// The offset delta that it has.
        delta: i32,
    },
    /// The header's last offset delta does not fit the record count.
    #[error("the batch of {count} records has last offset delta {delta}")]
    LastOffsetDelta {
        /// What the header says.
        delta: i32,
        /// How many records it counts.
        count: u32,
    },
    /// The header's newest timestamp is not that of the records.
    #[error("the batch header says {header} ms as the newest timestamp, its records {records} ms")]
    MaxTimestamp {
        /// What the header says, ms since the Unix epoch.
        header: i64,
        /// The newest of the records, ms since the Unix epoch.
        records: i64,
    },
    /// Producer id, epoch and sequence do not go together.
    #[error(
        "producer id {id}, epoch {epoch} and base sequence {sequence} do not go together: \
         an idempotent producer sets all three, any other leaves its id at -1"
    )]
    Producer {
        /// The header's producer id.
        id: i64,
        /// The header's producer epoch.
        epoch: i16,
        /// The header's base sequence.
        sequence: i32,
    },
}

/// Why the records of a compressed batch did not unpack.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnpackError {
    /// They would be larger than the limit. Nothing beyond the limit was unpacked.
    #[error("the {compression} batch unpacks to more than {max} bytes: send smaller batches")]
    TooLarge {
        /// How it is packed.
        compression: Compression,
        /// The limit.
        max: usize,
    },
    /// The packed bytes do not follow their format.
    #[error("the {compression} batch does not unpack: {reason}")]
    Malformed {
        /// How it is packed.
        compression: Compression,
        /// What the decoder says.
        reason: String,
    },
}

/// Why a record was not added to a batch. The batch is as before.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// The batch has no room for it: build the batch and push the record to the next one.
    #[error("the batch is full: build it and push the record again")]
    Full,
    /// The record alone is over the limit. No batch takes it.
    #[error(transparent)]
    Record(#[from] RecordTooLarge),
}

/// Why no batch can hold a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordTooLarge {
    /// Key, value and headers together are over the limit.
    #[error("the record has {bytes} bytes of key, value and headers, at most {max} are allowed")]
    Bytes {
        /// Bytes of its key, value and headers.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It has too many headers.
    #[error("the record has {count} headers, at most {max} are allowed")]
    Headers {
        /// How many it has.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The name of a header is too long.
    #[error("a header name of {bytes} bytes is too long, at most {max} are allowed")]
    HeaderName {
        /// Bytes of the name.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// Why a batch was not built. The builder still holds its records.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    /// There are no records in it.
    #[error("a batch without records cannot be built: push one first")]
    Empty,
    /// An idempotent producer's epoch or sequence is negative.
    #[error("producer epoch {epoch} and base sequence {sequence} must not be negative")]
    Producer {
        /// The epoch that was given.
        epoch: i16,
        /// The base sequence that was given.
        sequence: i32,
    },
    /// The compressor failed, which for memory to memory means it got no memory.
    #[error("{compression} failed to compress the batch: {reason}")]
    Pack {
        /// How it should have been packed.
        compression: Compression,
        /// What the compressor says.
        reason: String,
    },
}
