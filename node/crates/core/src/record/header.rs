//! The fixed part of a record batch.

use super::{BatchError, Compression};
use crate::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use crate::limits;

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;
/// The format version that this code reads and writes.
pub const BATCH_MAGIC: i8 = 2;
/// Bytes up to and including the length field; the length counts what follows them.
const PREFIX_BYTES: usize = 12;
/// Where the checksummed part begins; it reaches to the end of the batch.
pub(super) const CHECKSUM_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0x07;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// The header of a record batch. What [`BatchHeader::decode`] returns is within all limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. Outside the checksum: the broker writes it.
    pub base_offset: Offset,
    /// Bytes of the batch after this field.
    pub batch_length: u32,
    /// Epoch of the leader that appended the batch. Outside the checksum: the broker writes it.
    pub epoch: LeaderEpoch,
    /// CRC-32C of everything after this field.
    pub crc: u32,
    /// Bits 0-2 compression, bit 4 transactional, bit 5 control; all others 0.
    pub attributes: i16,
    /// Offset of the last record, less the base offset. Records may be missing before it, where
    /// the batch was filtered.
    pub last_offset_delta: u32,
    /// What the records' timestamp deltas are relative to.
    pub base_timestamp: TimestampMs,
    /// Timestamp of the newest record.
    pub max_timestamp: TimestampMs,
    /// Who produced the batch, or [`ProducerId::NONE`].
    pub producer_id: ProducerId,
    /// Generation of the producer. Means nothing without a producer id; then usually -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record. Means nothing without a producer id; then usually -1.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes` and checks each field against the limits. Does
    /// not check the checksum and does not need the records to be there.
    ///
    /// # Errors
    /// `Short` with fewer than [`BATCH_HEADER_BYTES`], else what is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let Some(raw) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Short { have: bytes.len(), need: BATCH_HEADER_BYTES });
        };
        let magic = i8::from_be_bytes(array(raw, 16));
        if magic != BATCH_MAGIC {
            return Err(BatchError::Magic(magic));
        }
        let total = peek_total_bytes(raw)?.unwrap_or(BATCH_HEADER_BYTES);
        let header = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(array(raw, 0))),
            batch_length: (total - PREFIX_BYTES) as u32,
            epoch: LeaderEpoch(i32::from_be_bytes(array(raw, 12))),
            crc: u32::from_be_bytes(array(raw, 17)),
            attributes: i16::from_be_bytes(array(raw, 21)),
            last_offset_delta: decode_last_offset_delta(raw)?,
            base_timestamp: TimestampMs(i64::from_be_bytes(array(raw, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(array(raw, 35))),
            producer_id: ProducerId(i64::from_be_bytes(array(raw, 43))),
            producer_epoch: i16::from_be_bytes(array(raw, 51)),
            base_sequence: i32::from_be_bytes(array(raw, 53)),
            record_count: decode_record_count(raw)?,
        };
        header.check_attributes()?;
        header.check_producer()?;
        Ok(header)
    }

    /// Whether no record is missing: the offsets are base, base + 1, and so on.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.last_offset_delta == self.record_count - 1
    }

    /// The header as it is written before the records.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut raw = [0; BATCH_HEADER_BYTES];
        raw[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        raw[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        raw[12..16].copy_from_slice(&self.epoch.0.to_be_bytes());
        raw[16..17].copy_from_slice(&BATCH_MAGIC.to_be_bytes());
        raw[17..21].copy_from_slice(&self.crc.to_be_bytes());
        raw[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        raw[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        raw[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        raw[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        raw[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        raw[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        raw[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        raw[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        raw
    }

    /// Bytes of the whole batch, this header included.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        PREFIX_BYTES + self.batch_length as usize
    }

    /// How the records are packed.
    ///
    /// # Errors
    /// `UnknownCompression`; never for a decoded header.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_code((self.attributes & COMPRESSION_MASK) as u8)
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch marks the end of a transaction, which consumers do not see. Only a
    /// broker makes these.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta)
    }

    /// The first offset after the batch.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Sequence number of the last record; -1 without a producer id or a sequence. After
    /// `i32::MAX` comes 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if !self.producer_id.is_some() || self.base_sequence < 0 {
            return -1;
        }
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }

    fn check_attributes(&self) -> Result<(), BatchError> {
        // Bit 3 (timestamps are append times) and bit 6 (base timestamp is a delete horizon) are
        // set by Kafka's brokers only, and change what the timestamps mean.
        if self.attributes & !(COMPRESSION_MASK | TRANSACTIONAL | CONTROL) != 0 {
            return Err(BatchError::Attributes(self.attributes));
        }
        self.compression().map(drop)
    }

    fn check_producer(&self) -> Result<(), BatchError> {
        let consistent = if self.producer_id.is_some() {
            // The control batches of an idempotent producer have no sequence.
            self.producer_epoch >= 0 && (self.base_sequence >= 0 || self.is_control())
        } else {
            // Without an id, epoch and sequence mean nothing, and Kafka's clients write different
            // numbers there.
            self.producer_id == ProducerId::NONE
        };
        if consistent {
            return Ok(());
        }
        Err(BatchError::Producer {
            id: self.producer_id.0,
            epoch: self.producer_epoch,
            sequence: self.base_sequence,
        })
    }
}

/// The sequence number `count` after `sequence`, which is not negative. After `i32::MAX` comes 0,
/// as with Kafka's producers.
#[must_use]
pub fn sequence_plus(sequence: i32, count: u32) -> i32 {
    let sum = u64::from(sequence.unsigned_abs()) + u64::from(count);
    (sum % (1 << 31)) as i32
}

/// How many bytes the batch at the start of `bytes` takes in all, or `None` where the length
/// field is not there yet. For cutting batches out of a stream.
///
/// # Errors
/// `Length` or `TooLarge` where no batch has that length.
pub fn peek_total_bytes(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
    let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(array(prefix, 8));
    let total = usize::try_from(length).map_err(|_| BatchError::Length(length))? + PREFIX_BYTES;
    if total < BATCH_HEADER_BYTES {
        return Err(BatchError::Length(length));
    }
    if total > limits::BATCH_BYTES_MAX {
        return Err(BatchError::TooLarge { bytes: total, max: limits::BATCH_BYTES_MAX });
    }
    Ok(Some(total))
}

/// Writes base offset and leader epoch into an encoded batch. Both are outside its checksum.
///
/// # Errors
/// `Short` where `batch` is shorter than a header; nothing was written.
pub fn set_base(
    batch: &mut [u8],
    base_offset: Offset,
    epoch: LeaderEpoch,
) -> Result<(), BatchError> {
    if batch.len() < BATCH_HEADER_BYTES {
        return Err(BatchError::Short { have: batch.len(), need: BATCH_HEADER_BYTES });
    }
    batch[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&epoch.0.to_be_bytes());
    Ok(())
}

fn decode_record_count(raw: &[u8; BATCH_HEADER_BYTES]) -> Result<u32, BatchError> {
    let count = i32::from_be_bytes(array(raw, 57));
    let fault = BatchError::RecordCount { count, max: limits::BATCH_RECORDS_MAX };
    match u32::try_from(count) {
        Ok(valid @ 1..) if valid as usize <= limits::BATCH_RECORDS_MAX => Ok(valid),
        _ => Err(fault),
    }
}

fn decode_last_offset_delta(raw: &[u8; BATCH_HEADER_BYTES]) -> Result<u32, BatchError> {
    let count = decode_record_count(raw)?;
    let delta = i32::from_be_bytes(array(raw, 23));
    match u32::try_from(delta) {
        Ok(valid) if (count - 1..limits::BATCH_RECORDS_MAX as u32).contains(&valid) => Ok(valid),
        _ => Err(BatchError::LastOffsetDelta { delta, count }),
    }
}

/// The `N` bytes at `at`, which is a constant within the array.
fn array<const N: usize, const M: usize>(raw: &[u8; M], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&raw[at..at + N]);
    field
}
