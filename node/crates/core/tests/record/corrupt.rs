//! Damage of every kind is noticed: each flipped bit, each truncation.

use crate::support::{batch, plain_header, record, sample, seal, sealed};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_core::record::{BatchError, BatchHeader, Compression, RecordBatch, split_batches};

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

/// Reads the bytes in every way there is. What is accepted has as many records as it says.
fn read_in_every_way(bytes: &Bytes) {
    if let Ok((batch, records)) = RecordBatch::decode_with_records(bytes.clone()) {
        assert_eq!(records.iter().count(), batch.len());
        assert_eq!(records.into_iter().count(), batch.len());
        assert!(RecordBatch::decode(bytes.clone()).is_ok());
    }
    for part in split_batches(bytes.clone()) {
        let read = part.and_then(RecordBatch::decode_trusted).and_then(|batch| batch.records());
        read.into_iter().for_each(|records| assert_eq!(records.iter().count(), records.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        read_in_every_way(&Bytes::from(bytes));
    }

    /// Arbitrary records behind a header that is right.
    #[test]
    fn arbitrary_records_do_no_harm(
        payload in vec(any::<u8>(), 0..300),
        count in 1_u32..4,
        code in 0_i16..5,
    ) {
        let header = BatchHeader { attributes: code, ..plain_header(count) };
        read_in_every_way(&sealed(header, &payload));
    }

    /// Packed records with some bytes changed, cut out or doubled: that is what gets deepest into
    /// the decompressors.
    #[test]
    fn mangled_packing_does_no_harm(
        way in proptest::sample::select(&Compression::ALL),
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        doubled in any::<(proptest::sample::Index, proptest::sample::Index)>(),
        value_bytes in 0_usize..200_000,
    ) {
        let words = 0..value_bytes / 8;
        let text: String = words.map(|index| format!("{:08x}", index % 777)).collect();
        let good = batch(way, &[record(1, Some("k"), Some(&text)), record(2, None, None)]);
        let mut payload = good[61..].to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let (from, to) = (doubled.0.index(payload.len()), doubled.1.index(payload.len()));
        let mangled = [&payload[..from], &payload[to..]].concat();
        let header = BatchHeader::decode(&good).unwrap();
        read_in_every_way(&sealed(header, &payload));
        read_in_every_way(&sealed(header, &mangled));
    }
}
