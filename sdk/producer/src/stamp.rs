//! Numbering a batch anew: producer id, epoch and sequence lie inside the checksum.

use bytes::{Bytes, BytesMut};
use weir_core::record::{BATCH_HEADER_BYTES, BatchHeader};

use crate::parts::Stamp;

/// Where the checksum is, and where what it covers begins (record batch v2).
const CHECKSUM_AT: std::ops::Range<usize> = 17..21;
const CHECKSUM_FROM: usize = 21;

/// The batch in `bytes`, which this producer built, with another stamp. Copies it where somebody
/// else, such as the connection it was sent on, still holds it.
pub(crate) fn restamp(bytes: Bytes, stamp: Stamp) -> Bytes {
    let Ok(header) = BatchHeader::decode(&bytes) else {
        // It was built by our own builder; a batch the node refuses is the safe way out.
        debug_assert!(false, "a batch that was built does not decode");
        return bytes;
    };
    let header = BatchHeader {
        producer_id: stamp.id,
        producer_epoch: stamp.epoch,
        base_sequence: stamp.sequence,
        ..header
    };
    let mut batch = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
    batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    let checksum = crc32c::crc32c(&batch[CHECKSUM_FROM..]);
    batch[CHECKSUM_AT].copy_from_slice(&checksum.to_be_bytes());
    batch.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch};
    use weir_core::{ProducerId, TimestampMs};

    /// Goal: a restamped batch is the one that would have been built so, whether or not somebody
    /// else holds the old bytes.
    #[test]
    fn restamping_equals_building_anew() {
        let built = |stamp: Stamp| {
            let mut builder = BatchBuilder::new(Compression::None);
            builder.push(TimestampMs(7), Some(b"k"), Some(b"v"), NO_HEADERS).unwrap();
            builder.build(stamp.id, stamp.epoch, stamp.sequence).unwrap()
        };
        let old = Stamp { id: ProducerId(1), epoch: 0, sequence: 90 };
        let new = Stamp { id: ProducerId(2), epoch: 1, sequence: 0 };
        let held = built(old);
        assert_eq!(restamp(held.clone(), new), built(new));
        assert_eq!(held, built(old), "the old bytes are as they were");
        assert_eq!(restamp(built(old), new), built(new));
        assert!(RecordBatch::decode(restamp(held, new)).is_ok());
    }
}
