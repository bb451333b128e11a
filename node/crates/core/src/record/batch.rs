//! A whole record batch: checked once where it enters, then trusted.

use super::header::CHECKSUM_FROM;
use super::iter::walk;
use super::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, Compression, Records, compress, peek_total_bytes,
    set_base,
};
use crate::ids::{LeaderEpoch, Offset};
use crate::limits;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;

/// A record batch whose header and checksum are right, together with its bytes.
///
/// One from [`RecordBatch::decode`] is valid in every respect, so that nobody after it needs to
/// check again. Cheap to clone.
#[derive(Clone)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
    /// Whether every record was walked.
    walked: bool,
}

impl RecordBatch {
    /// Checks everything about a batch that comes from a producer: length, checksum, header, and
    /// each record, unpacked if need be. `bytes` must be one batch exactly, and no record may be
    /// missing.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn decode(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        let mut batch = RecordBatch::decode_trusted(bytes)?;
        let BatchHeader { last_offset_delta, record_count, .. } = batch.header;
        if !batch.header.is_dense() {
            let (delta, count) = (last_offset_delta as i32, record_count);
            return Err(BatchError::LastOffsetDelta { delta, count });
        }
        batch.walk(&batch.unpack()?)?;
        batch.walked = true;
        Ok(batch)
    }

    /// As [`RecordBatch::decode`], and keeps the records that it unpacked. Records may be missing:
    /// for what a node serves.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn decode_with_records(bytes: Bytes) -> Result<(RecordBatch, Records), BatchError> {
        let mut batch = RecordBatch::decode_trusted(bytes)?;
        let records = batch.records()?;
        batch.walked = true;
        Ok((batch, records))
    }

    /// Checks header and checksum only. For bytes that were decoded once before they were
    /// stored: the checksum tells whether they are still the same.
    ///
    /// # Errors
    /// What is wrong with length, header or checksum.
    pub fn decode_trusted(bytes: Bytes) -> Result<RecordBatch, BatchError> {
        let header = BatchHeader::decode(&bytes)?;
        let need = header.total_bytes();
        if bytes.len() < need {
            return Err(BatchError::Short { have: bytes.len(), need });
        }
        if bytes.len() > need {
            return Err(BatchError::TrailingBytes { extra: bytes.len() - need });
        }
        let computed = crc32c::crc32c(&bytes[CHECKSUM_FROM..]);
        if computed != header.crc {
            return Err(BatchError::Checksum { stored: header.crc, computed });
        }
        Ok(RecordBatch { header, bytes, walked: false })
    }

    /// A batch of this crate's own making.
    pub(super) fn walked(header: BatchHeader, bytes: Bytes) -> RecordBatch {
        RecordBatch { header, bytes, walked: true }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as it is sent and stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The batch as it is sent and stored.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// How many records there are, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.record_count as usize
    }

    /// Whether there are no records, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.record_count == 0
    }

    /// How the records are packed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        // Decoding the header checked it.
        self.header.compression().unwrap_or_default()
    }

    /// The batch at its place in the partition. Changes the bytes where nobody shares them, else
    /// copies the batch: a writer that copies anyway does better with [`set_base`].
    #[must_use]
    pub fn with_base(self, base_offset: Offset, epoch: LeaderEpoch) -> RecordBatch {
        if self.header.base_offset == base_offset && self.header.epoch == epoch {
            return self;
        }
        let mut bytes =
            self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        // Cannot fail: a decoded batch is longer than its header.
        let patched = set_base(&mut bytes, base_offset, epoch);
        debug_assert!(patched.is_ok());
        RecordBatch {
            header: BatchHeader { base_offset, epoch, ..self.header },
            bytes: bytes.freeze(),
            walked: self.walked,
        }
    }

    /// The records, unpacked if need be. Checks each record first, unless that was done before.
    ///
    /// # Errors
    /// What is wrong with a record; never for a batch from [`RecordBatch::decode`] that is not
    /// compressed.
    pub fn records(&self) -> Result<Records, BatchError> {
        let bytes = match self.compression() {
            Compression::None => self.bytes.slice(BATCH_HEADER_BYTES..),
            _ => Bytes::from(self.unpack()?.into_owned()),
        };
        if !self.walked {
            self.walk(&bytes)?;
        }
        Ok(Records {
            base_offset: self.header.base_offset,
            base_timestamp: self.header.base_timestamp,
            count: self.header.record_count,
            bytes,
        })
    }

    fn unpack(&self) -> Result<Cow<'_, [u8]>, BatchError> {
        let packed = &self.bytes[BATCH_HEADER_BYTES..];
        match self.compression() {
            Compression::None => Ok(Cow::Borrowed(packed)),
            way => {
                let bytes = compress::unpack(way, packed, limits::BATCH_UNPACKED_BYTES_MAX)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    fn walk(&self, unpacked: &[u8]) -> Result<(), BatchError> {
        let header = &self.header;
        let newest = walk(unpacked, header)?;
        if newest != header.max_timestamp {
            return Err(BatchError::MaxTimestamp {
                header: header.max_timestamp.0,
                records: newest.0,
            });
        }
        Ok(())
    }
}

/// Without the records, which may be megabytes.
impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch")
            .field("header", &self.header)
            .field("walked", &self.walked)
            .finish_non_exhaustive()
    }
}

/// Cuts the first batch off `bytes`, which holds batches one after the other. `None` at the end.
/// Only lengths are looked at. After an error `bytes` is empty, so that loops end.
pub fn split_batch(bytes: &mut Bytes) -> Option<Result<Bytes, BatchError>> {
    if bytes.is_empty() {
        return None;
    }
    let total = match peek_total_bytes(bytes) {
        Ok(Some(total)) if total <= bytes.len() => return Some(Ok(bytes.split_to(total))),
        Ok(total) => total.unwrap_or(BATCH_HEADER_BYTES),
        Err(error) => {
            bytes.clear();
            return Some(Err(error));
        }
    };
    let have = bytes.len();
    bytes.clear();
    Some(Err(BatchError::Short { have, need: total }))
}

/// Cuts batches that lie one after the other apart. See [`split_batch`].
#[must_use]
pub fn split_batches(bytes: Bytes) -> SplitBatches {
    SplitBatches { bytes }
}

/// Iterator over batches that lie one after the other. Ends after the first error.
#[derive(Clone, Debug)]
pub struct SplitBatches {
    bytes: Bytes,
}

impl Iterator for SplitBatches {
    type Item = Result<Bytes, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        split_batch(&mut self.bytes)
    }
}

impl FusedIterator for SplitBatches {}
