//! Damage of every kind is noticed: each flipped bit, each truncation.

use crate::support::{batch, record, sample, seal};
use bytes::Bytes;
use weir_core::record::{BatchError, Compression, RecordBatch};

/// Bytes outside the checksum that a flip may change unnoticed: base offset and leader epoch.
fn is_free(at: usize) -> bool {
    at < 8 || (12..16).contains(&at)
}

#[test]
fn every_flipped_bit_is_noticed() {
    for way in Compression::ALL {
        let text = "flip ".repeat(40);
        let good = batch(way, &[record(1, Some("k"), Some(&text)), record(2, None, None)]);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bytes = Bytes::from(bytes);
            let refused = RecordBatch::decode(bytes.clone()).is_err();
            let refused_trusted = RecordBatch::decode_trusted(bytes).is_err();
            assert_eq!(refused, !is_free(bit / 8), "{way}, bit {bit}");
            assert_eq!(refused_trusted, refused, "{way}, bit {bit}");
        }
    }
}

/// The same with the checksum made right again: nothing panics, and what is accepted reads as
/// many records as it says.
#[test]
fn flipped_bits_behind_a_right_checksum_do_no_harm() {
    for way in Compression::ALL {
        let mut records = sample();
        records[0].value = Some(Bytes::from("flip ".repeat(40)));
        let good = batch(way, &records);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            seal(&mut bytes);
            let bytes = Bytes::from(bytes);
            if let Ok((batch, records)) = RecordBatch::decode_with_records(bytes.clone()) {
                assert_eq!(records.iter().count(), batch.len(), "{way}, bit {bit}");
                assert_eq!(records.iter_shared().count(), batch.len());
            }
            // Reading what was not walked walks it first.
            if let Ok(batch) = RecordBatch::decode_trusted(bytes) {
                let read = batch.records().map(|records| records.iter().count());
                assert!(read.is_err() || read == Ok(batch.len()));
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    for way in Compression::ALL {
        let good = batch(way, &sample());
        for length in 0..good.len() {
            let error = RecordBatch::decode(good.slice(..length)).unwrap_err();
            let need = if length < 61 { 61 } else { good.len() };
            assert_eq!(error, BatchError::Short { have: length, need });
        }
        let longer = Bytes::from([good.as_ref(), b"x"].concat());
        assert_eq!(
            RecordBatch::decode(longer).unwrap_err(),
            BatchError::TrailingBytes { extra: 1 }
        );
    }
}

/// Truncated with length and checksum made to match: the records or their packing notice.
#[test]
fn truncated_records_are_refused() {
    for way in Compression::ALL {
        let mut records = sample();
        records[2].value = Some(Bytes::from("tail ".repeat(50)));
        let good = batch(way, &records);
        for length in 61..good.len() {
            let mut bytes = good[..length].to_vec();
            bytes[8..12].copy_from_slice(&((length - 12) as u32).to_be_bytes());
            seal(&mut bytes);
            let result = RecordBatch::decode(Bytes::from(bytes));
            // An LZ4 frame may lack its end mark, which holds nothing.
            if !(way == Compression::Lz4 && length >= good.len() - 4) {
                assert!(result.is_err(), "{way}, {length} of {} bytes", good.len());
            }
        }
    }
}
