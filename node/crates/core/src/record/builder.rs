//! Building record batches.

use super::header::CHECKSUM_FROM;
use super::varint::{Scratch, varint_bytes, varlong_bytes};
use super::{
    BATCH_HEADER_BYTES, BatchHeader, BuildError, Compression, Header, HeaderView, PushError,
    Record, RecordTooLarge, RecordView, compress,
};
use crate::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use crate::limits;
use bytes::{Bytes, BytesMut};

/// For [`BatchBuilder::push`] of a record without headers.
pub const NO_HEADERS: [HeaderView<'static>; 0] = [];

/// Collects records and makes batches of them, one after the other.
///
/// Records are encoded as they are pushed, into a buffer that later batches use again once the
/// earlier ones are dropped. A batch that compression would not shrink is built without.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    bytes_max: usize,
    /// Room for the header, then the records so far; empty where there are none.
    buffer: BytesMut,
    /// Where packed batches are made; unused without compression.
    packed: BytesMut,
    count: u32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
    /// Size of the last batch: the first guess at the next one's.
    bytes_last: usize,
}

impl BatchBuilder {
    /// A builder of batches up to the limit of the format.
    #[must_use]
    pub fn new(compression: Compression) -> BatchBuilder {
        BatchBuilder::with_bytes_max(compression, limits::BATCH_BYTES_MAX)
    }

    /// A builder of batches up to `bytes_max` bytes, before compression. One record always fits.
    #[must_use]
    pub fn with_bytes_max(compression: Compression, bytes_max: usize) -> BatchBuilder {
        BatchBuilder {
            compression,
            bytes_max: bytes_max.min(limits::BATCH_BYTES_MAX),
            buffer: BytesMut::new(),
            packed: BytesMut::new(),
            count: 0,
            base_timestamp: TimestampMs::default(),
            max_timestamp: TimestampMs::default(),
            bytes_last: 0,
        }
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Timestamp of the first record; 0 before there is one.
    #[must_use]
    pub fn base_timestamp(&self) -> TimestampMs {
        self.base_timestamp
    }

    /// Bytes of the batch so far before compression, header included; 0 without records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether [`BatchBuilder::push_record`] would take `record`.
    #[must_use]
    pub fn fits(&self, record: &Record) -> bool {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.measure(record.timestamp, key, value, record.headers.iter().map(Header::view)).is_ok()
    }

    /// Adds a record.
    ///
    /// # Errors
    /// `Full` where the batch must be built first, else why no batch takes the record. The batch
    /// is then as before.
    #[inline]
    pub fn push<'h, H>(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<(), PushError>
    where
        H: IntoIterator<Item = HeaderView<'h>>,
        H::IntoIter: Clone,
    {
        let headers = headers.into_iter();
        let size = self.measure(timestamp, key, value, headers.clone())?;
        self.make_room(size.total_bytes);
        if self.count == 0 {
            self.buffer.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Scratch::new()
            .length(Some(size.body_bytes))
            .byte(0)
            .varlong(timestamp.0.wrapping_sub(self.base_timestamp.0))
            .append_to(&mut self.buffer);
        Scratch::new()
            .length(Some(self.count as usize))
            .length(key.map(<[u8]>::len))
            .append_to(&mut self.buffer);
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.put_counted(value);
        self.put_length(Some(size.header_count));
        for header in headers {
            self.put_counted(Some(header.name.as_bytes()));
            self.put_counted(header.value);
        }
        self.count += 1;
        Ok(())
    }

    /// Adds an owned record.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    pub fn push_record(&mut self, record: &Record) -> Result<(), PushError> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.push(record.timestamp, key, value, record.headers.iter().map(Header::view))
    }

    /// Adds a record of another batch. Its offset is not kept.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    pub fn push_view(&mut self, record: &RecordView<'_>) -> Result<(), PushError> {
        self.push(record.timestamp, record.key, record.value, record.headers())
    }

    /// Makes a batch of the records so far, with base offset 0 and leader epoch -1, and starts
    /// the next one. A producer that is not idempotent gives [`ProducerId::NONE`]; its epoch and
    /// sequence are then written as -1, whatever is given.
    ///
    /// # Errors
    /// Without records, with a negative epoch or sequence, or where compression fails. The
    /// records are then still here.
    pub fn build(
        &mut self,
        producer_id: ProducerId,
        producer_epoch: i16,
        base_sequence: i32,
    ) -> Result<Bytes, BuildError> {
        let Some(last_offset_delta) = self.count.checked_sub(1) else {
            return Err(BuildError::Empty);
        };
        let idempotent = producer_id.is_some();
        if idempotent && (producer_epoch < 0 || base_sequence < 0) {
            return Err(BuildError::Producer { epoch: producer_epoch, sequence: base_sequence });
        }
        let (mut batch, compression) = self.take_batch()?;
        let mut header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length: (batch.len() - 12) as u32,
            epoch: LeaderEpoch(-1),
            crc: 0,
            attributes: i16::from(compression.code()),
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: if idempotent { producer_id } else { ProducerId::NONE },
            producer_epoch: if idempotent { producer_epoch } else { -1 },
            base_sequence: if idempotent { base_sequence } else { -1 },
            record_count: self.count,
        };
        batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        header.crc = crc32c::crc32c(&batch[CHECKSUM_FROM..]);
        batch[17..21].copy_from_slice(&header.crc.to_be_bytes());
        self.count = 0;
        Ok(batch.freeze())
    }

    /// Throws the records so far away.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.count = 0;
    }

    /// Packs the records, if that pays, and takes them out of the buffer, behind room for a
    /// header. Nothing is taken where it fails.
    fn take_batch(&mut self) -> Result<(BytesMut, Compression), BuildError> {
        let plain_bytes = self.buffer.len();
        if self.compression != Compression::None {
            self.packed.clear();
            self.packed.reserve(plain_bytes);
            self.packed.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
            let records = &self.buffer[BATCH_HEADER_BYTES..];
            compress::pack(self.compression, records, &mut self.packed).map_err(|error| {
                BuildError::Pack { compression: self.compression, reason: error.to_string() }
            })?;
            if self.packed.len() < plain_bytes {
                self.buffer.clear();
                return Ok((self.packed.split(), self.compression));
            }
        }
        self.bytes_last = plain_bytes;
        Ok((self.buffer.split(), Compression::None))
    }

    #[inline]
    fn put_counted(&mut self, bytes: Option<&[u8]>) {
        self.put_length(bytes.map(<[u8]>::len));
        self.buffer.extend_from_slice(bytes.unwrap_or_default());
    }

    #[inline]
    fn put_length(&mut self, count: Option<usize>) {
        Scratch::new().length(count).append_to(&mut self.buffer);
    }

    /// Grows the buffer so that `more` bytes fit, and never far beyond the largest batch: the
    /// vector inside doubles, so the last step goes to the limit at once.
    fn make_room(&mut self, more: usize) {
        let need = self.buffer.len() + BATCH_HEADER_BYTES + more + Scratch::CAPACITY;
        if need <= self.buffer.capacity() {
            return;
        }
        let target = if need > self.bytes_max / 4 {
            need.max(self.bytes_max)
        } else {
            // A little more than last time, or a batch a little larger is copied at its end.
            let typical = (self.bytes_last + self.bytes_last / 8).min(self.bytes_max);
            need.max(typical).max(2 * self.buffer.len())
        };
        self.buffer.reserve(target - self.buffer.len());
    }

    /// Checks a record against the limits and says how many bytes it takes.
    #[inline]
    fn measure<'h>(
        &self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = HeaderView<'h>>,
    ) -> Result<RecordSize, PushError> {
        let (key_bytes, value_bytes) = (key.map_or(0, <[u8]>::len), value.map_or(0, <[u8]>::len));
        let headers = HeadersSize::of(headers)?;
        let payload = key_bytes.saturating_add(value_bytes).saturating_add(headers.payload_bytes);
        if payload > limits::RECORD_BYTES_MAX {
            let max = limits::RECORD_BYTES_MAX;
            return Err(RecordTooLarge::Bytes { bytes: payload, max }.into());
        }
        let timestamp_delta =
            if self.count == 0 { 0 } else { timestamp.0.wrapping_sub(self.base_timestamp.0) };
        let body_bytes = 1
            + varlong_bytes(timestamp_delta)
            + varint_bytes(self.count.cast_signed())
            + length_bytes(key)
            + length_bytes(value)
            + varint_bytes(headers.count as i32)
            + key_bytes
            + value_bytes
            + headers.total_bytes;
        let total_bytes = varint_bytes(body_bytes as i32) + body_bytes;
        let full = self.buffer.len() + total_bytes > self.bytes_max
            || self.len() == limits::BATCH_RECORDS_MAX;
        if full && self.count > 0 {
            return Err(PushError::Full);
        }
        Ok(RecordSize { total_bytes, body_bytes, header_count: headers.count })
    }
}

/// Bytes that a record takes.
struct RecordSize {
    /// Its length field included.
    total_bytes: usize,
    /// What its length field says.
    body_bytes: usize,
    header_count: usize,
}

/// Bytes that the headers of a record take.
struct HeadersSize {
    count: usize,
    /// Names and values.
    payload_bytes: usize,
    /// Their length fields included.
    total_bytes: usize,
}

impl HeadersSize {
    #[inline]
    fn of<'h>(headers: impl Iterator<Item = HeaderView<'h>>) -> Result<Self, RecordTooLarge> {
        let mut size = HeadersSize { count: 0, payload_bytes: 0, total_bytes: 0 };
        for header in headers {
            let (name, value) = (header.name.len(), header.value.map_or(0, <[u8]>::len));
            if name > limits::NAME_BYTES_MAX {
                let max = limits::NAME_BYTES_MAX;
                return Err(RecordTooLarge::HeaderName { bytes: name, max });
            }
            size.count += 1;
            if size.count > limits::RECORD_HEADERS_MAX {
                let max = limits::RECORD_HEADERS_MAX;
                return Err(RecordTooLarge::Headers { count: size.count, max });
            }
            let payload = size.payload_bytes.saturating_add(name).saturating_add(value);
            if payload > limits::RECORD_BYTES_MAX {
                let max = limits::RECORD_BYTES_MAX;
                return Err(RecordTooLarge::Bytes { bytes: payload, max });
            }
            size.payload_bytes = payload;
            size.total_bytes += name
                + value
                + length_bytes(Some(header.name.as_bytes()))
                + length_bytes(header.value);
        }
        Ok(size)
    }
}

/// Bytes of the length field of a byte string.
#[inline]
fn length_bytes(bytes: Option<&[u8]>) -> usize {
    varlong_bytes(bytes.map_or(-1, |bytes| bytes.len() as i64))
}
