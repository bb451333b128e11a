//! Leaving records out of a batch.

use super::header::CHECKSUM_FROM;
use super::{BATCH_HEADER_BYTES, BatchHeader, Compression, RecordBatch, Records, compress};
use crate::ids::{ProducerId, TimestampMs};
use bytes::BytesMut;

/// What is left of a batch.
#[derive(Clone, Debug)]
pub enum Retained {
    /// Every record: the batch as it was.
    All,
    /// None.
    Nothing,
    /// Some.
    Some(RecordBatch),
}

impl RecordBatch {
    /// The batch without the records that `keep` says no to. It is called once for each record, in
    /// order, with its index.
    ///
    /// Offsets stay. The records' bytes are copied as they are, in runs; a compressed batch is
    /// compressed again the same way. What is left has no producer: it is for serving, not for
    /// appending. `records` must be those of this batch.
    #[must_use]
    pub fn retain(&self, records: &Records, mut keep: impl FnMut(usize) -> bool) -> Retained {
        let mut kept = BytesMut::new();
        let (mut count, mut last) = (0, self.header().base_offset);
        let mut newest = TimestampMs(i64::MIN);
        for (index, (record, bytes)) in records.iter_raw().enumerate() {
            if keep(index) {
                if count == 0 {
                    kept.reserve(BATCH_HEADER_BYTES + records.unpacked_bytes());
                    kept.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
                }
                kept.extend_from_slice(bytes);
                count += 1;
                last = record.offset;
                newest = newest.max(record.timestamp);
            }
        }
        if count as usize == records.len() {
            return Retained::All;
        }
        if count == 0 {
            return Retained::Nothing;
        }
        let (mut bytes, compression) = self.pack_again(kept);
        let mut header = BatchHeader {
            batch_length: (bytes.len() - 12) as u32,
            crc: 0,
            attributes: i16::from(compression.code()),
            last_offset_delta: last.since(self.header().base_offset) as u32,
            max_timestamp: newest,
            producer_id: ProducerId::NONE,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: count,
            ..*self.header()
        };
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        header.crc = crc32c::crc32c(&bytes[CHECKSUM_FROM..]);
        bytes[17..21].copy_from_slice(&header.crc.to_be_bytes());
        Retained::Some(RecordBatch::walked(header, bytes.freeze()))
    }

    fn pack_again(&self, plain: BytesMut) -> (BytesMut, Compression) {
        let way = self.compression();
        if way == Compression::None {
            return (plain, way);
        }
        let mut packed = BytesMut::with_capacity(plain.len());
        packed.extend_from_slice(&[0; BATCH_HEADER_BYTES]);
        match compress::pack(way, &plain[BATCH_HEADER_BYTES..], &mut packed) {
            Ok(()) if packed.len() < plain.len() => (packed, way),
            // It does not pay, or the way can only be read: plain does as well.
            _ => (plain, Compression::None),
        }
    }
}
