//! A produced batch with the contents that a check gave its records. Pure.

use crate::abi::Rewrite;
use crate::output::OutputHeaders;
use thiserror::Error;
use weir_core::record::{
    BatchBuilder, BatchError, BatchHeader, BuildError, Compression, PushError, RecordBatch,
    RecordTooLarge, Records,
};

/// Why a rewritten batch cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RewriteError {
    /// It is larger than any batch may be.
    #[error("what the module made of the batch is larger than a batch may be before compression")]
    BatchTooLarge,
    /// A record is larger than any may be.
    #[error("what the module made of record {index}: {error}")]
    RecordTooLarge {
        /// The record's index in the batch.
        index: usize,
        /// How large.
        error: RecordTooLarge,
    },
    /// It cannot be built.
    #[error("the rewritten batch cannot be built: {0}")]
    Build(#[from] BuildError),
    /// What was built is no batch.
    #[error("the rewritten batch is broken: {0}")]
    Broken(#[from] BatchError),
}

/// The batch with this header and these records, one to one as `rewrite` says, which was checked
/// against them. Event times, producer, epoch and sequence stay; base offset and leader epoch are
/// those of a batch that was not appended.
///
/// # Errors
/// [`RewriteError`].
pub fn rewrite(
    header: &BatchHeader,
    records: &Records,
    rewrite: &Rewrite,
    compression: Compression,
) -> Result<RecordBatch, RewriteError> {
    let mut batch = BatchBuilder::new(compression);
    for (index, record) in records.iter().enumerate() {
        let key = rewrite.keys.as_ref().map_or(record.key, |keys| keys.get(index));
        let value = rewrite.values.as_ref().map_or(record.value, |values| values.get(index));
        let headers = match &rewrite.headers {
            Some(given) => OutputHeaders::Given(given, given.range(index)),
            None => OutputHeaders::Source(record.headers()),
        };
        batch.push(record.timestamp, key, value, headers).map_err(|error| match error {
            PushError::Full => RewriteError::BatchTooLarge,
            PushError::Record(error) => RewriteError::RecordTooLarge { index, error },
        })?;
    }
    let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = *header;
    let bytes = batch.build(producer_id, producer_epoch, base_sequence)?;
    Ok(RecordBatch::decode_trusted(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::NullableColumn;
    use weir_core::limits::RECORD_BYTES_MAX;
    use weir_core::record::HeaderView;
    use weir_core::{ProducerId, TimestampMs};

    fn produced(compression: Compression) -> RecordBatch {
        let mut batch = BatchBuilder::new(compression);
        for n in 0..50_i64 {
            let header = HeaderView { name: "n", value: Some(b"x") };
            // Times go up and down.
            let time = TimestampMs(1_000 + n * (50 - n));
            batch.push(time, Some(b"key"), Some(b"a value of some length"), [header]).unwrap();
        }
        RecordBatch::decode(batch.build(ProducerId(7), 3, 200).unwrap()).unwrap()
    }

    fn column<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> NullableColumn {
        let mut column = NullableColumn::default();
        values.for_each(|value| column.push(value));
        column.finish();
        column
    }

    /// Goal: what a check does not touch stays, to the last event time, whatever the batch was and
    /// is packed with; what it gives is there; the result is a batch that a producer could send.
    #[test]
    fn one_to_one() {
        for (from, to) in [
            (Compression::None, Compression::None),
            (Compression::Zstd, Compression::Lz4),
            (Compression::None, Compression::Zstd),
        ] {
            let batch = produced(from);
            let records = batch.records().unwrap();
            let values = (0..records.len()).map(|n| (n % 3 != 0).then_some(&b"new"[..]));
            let change = Rewrite { values: Some(column(values)), ..Rewrite::default() };
            let made = rewrite(batch.header(), &records, &change, to).unwrap();
            assert_eq!(made.compression(), to);
            let made = RecordBatch::decode(made.into_bytes()).unwrap();
            let stamp = |batch: &RecordBatch| {
                let header = *batch.header();
                (
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                    header.record_count,
                )
            };
            assert_eq!(stamp(&made), stamp(&batch));
            let made = made.records().unwrap();
            for (n, (old, new)) in records.iter().zip(made.iter()).enumerate() {
                assert_eq!((old.timestamp, old.key), (new.timestamp, new.key));
                assert!(old.headers().eq(new.headers()));
                assert_eq!(new.value, (n % 3 != 0).then_some(&b"new"[..]));
            }
        }
    }

    /// Goal: what grows beyond the limits of records and batches is an error, not a panic.
    #[test]
    fn too_large() {
        let batch = produced(Compression::None);
        let records = batch.records().unwrap();
        for (bytes, whole) in [(RECORD_BYTES_MAX / 2, true), (RECORD_BYTES_MAX, false)] {
            let large = vec![b'x'; bytes];
            let values = (0..records.len()).map(|_| Some(&large[..]));
            let change = Rewrite { values: Some(column(values)), ..Rewrite::default() };
            let error = rewrite(batch.header(), &records, &change, Compression::Zstd).unwrap_err();
            assert_eq!(error == RewriteError::BatchTooLarge, whole, "{error}");
        }
    }
}
