//! Record batches: what producers send, and what peers and disks hand back.

use crate::samples::{batch, batch_idempotent};
use crate::{Target, Verdict, memory_in_proportion, no_repair};
use bytes::Bytes;
use weir_core::ids::{LeaderEpoch, Offset, ProducerId};
use weir_core::limits::BATCH_UNPACKED_BYTES_MAX;
use weir_core::record::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchError, BatchHeader, Compression, Record, RecordBatch,
    Records, split_batches,
};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "batch",
        check: check_batch,
        seeds: || {
            let mut seeds: Vec<_> = Compression::ALL.map(|way| batch(way).to_vec()).into();
            seeds.push(batch_idempotent().to_vec());
            seeds
        },
        repair,
        words: &[],
        memory_bytes_max: unpacked_memory,
    },
    Target {
        name: "batch-plain",
        check: check_batch,
        seeds: || vec![batch(Compression::None).to_vec(), batch_idempotent().to_vec()],
        repair,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
    Target {
        name: "batch-header",
        check: check_header,
        seeds: || vec![batch(Compression::Lz4).to_vec(), batch_idempotent().to_vec()],
        repair: no_repair,
        words: &[],
        memory_bytes_max: |_| 0,
    },
    Target {
        name: "batches",
        check: check_batches,
        seeds: || {
            let both = [batch(Compression::None), batch(Compression::Zstd)].concat();
            vec![both, batch_idempotent().to_vec(), Vec::new()]
        },
        repair: no_repair,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
];

/// A vector that doubles beyond the limit, and the records beside it.
fn unpacked_memory(_input_bytes: usize) -> u64 {
    4 * BATCH_UNPACKED_BYTES_MAX as u64
}

fn check_batch(input: &[u8]) -> Verdict {
    let bytes = Bytes::copy_from_slice(input);
    let trusted = RecordBatch::decode_trusted(bytes.clone());
    let (decoded, records) = match RecordBatch::decode_with_records(bytes.clone()) {
        Ok(both) => both,
        Err(error) => {
            let again = RecordBatch::decode(bytes).expect_err("both ways to decode agree");
            // Missing records are looked for before anything is unpacked.
            assert!(again == error || matches!(again, BatchError::LastOffsetDelta { .. }));
            return Verdict::Refused;
        }
    };
    if !decoded.header().is_dense() {
        check_sparse(&decoded, &records);
        return Verdict::Accepted;
    }
    trusted.expect("what is valid is trusted");
    assert_eq!(decoded.header().encode()[..], input[..BATCH_HEADER_BYTES]);
    assert_eq!(records.len(), decoded.len());
    let owned: Vec<Record> = records.iter().map(|view| view.to_record(&records)).collect();
    assert_eq!(owned.len(), decoded.len(), "every record can be read");
    for (n, (offset, record)) in records.iter_shared().enumerate() {
        assert_eq!(record, owned[n]);
        assert_eq!(offset, decoded.header().base_offset.plus(n as u32));
    }
    check_placed(&decoded, &owned);
    check_rebuilt(&decoded, &owned);
    Verdict::Accepted
}

/// A batch that a filter left holes in: offsets rise within it, and no producer may send it.
fn check_sparse(batch: &RecordBatch, records: &Records) {
    let refused = RecordBatch::decode(batch.clone().into_bytes());
    assert!(matches!(refused, Err(BatchError::LastOffsetDelta { .. })), "{refused:?}");
    let header = batch.header();
    let mut next = header.base_offset;
    for record in records.iter() {
        assert!(record.offset >= next && record.offset < header.end_offset(), "{record:?}");
        next = record.offset.plus(1);
    }
}

/// A batch stays valid wherever the broker puts it.
fn check_placed(batch: &RecordBatch, records: &[Record]) {
    let placed = batch.clone().with_base(Offset(1 << 50), LeaderEpoch(9));
    let again = RecordBatch::decode(placed.into_bytes()).expect("placing breaks nothing");
    assert_eq!(again.header().base_offset, Offset(1 << 50));
    assert_eq!(own(&again), records);
}

/// The records survive encoding, whatever way they came packed.
fn check_rebuilt(batch: &RecordBatch, records: &[Record]) {
    let mut builder = BatchBuilder::new(batch.compression());
    for record in records {
        if !builder.fits(record) {
            // Packed, more fits into a batch than the builder lets in.
            assert_ne!(batch.compression(), Compression::None, "what came in one goes into one");
            return;
        }
        builder.push_record(record).expect("it fits");
    }
    let built = builder.build(ProducerId::NONE, -1, -1).expect("there are records");
    let again = RecordBatch::decode(built).expect("what is built is valid");
    assert_eq!(own(&again), records);
    assert_eq!(again.header().max_timestamp, batch.header().max_timestamp);
}

fn own(batch: &RecordBatch) -> Vec<Record> {
    let records = batch.records().expect("decoded before");
    records.iter().map(|view| view.to_record(&records)).collect()
}

fn check_header(input: &[u8]) -> Verdict {
    let Ok(header) = BatchHeader::decode(input) else { return Verdict::Refused };
    assert_eq!(header.encode()[..], input[..BATCH_HEADER_BYTES]);
    assert!(header.record_count > 0);
    Verdict::Accepted
}

fn check_batches(input: &[u8]) -> Verdict {
    let mut joined = Vec::new();
    let mut whole = true;
    for batch in split_batches(Bytes::copy_from_slice(input)) {
        match batch {
            Ok(batch) => joined.extend_from_slice(&batch),
            Err(_) => whole = false,
        }
    }
    assert!(input.starts_with(&joined), "batches are pieces of the input, in order");
    assert_eq!(whole, joined.len() == input.len());
    if whole { Verdict::Accepted } else { Verdict::Refused }
}

/// Makes the checksum fit, often the length too, and sometimes the fields that sum up the records.
fn repair(input: &mut [u8], choice: u32) {
    if input.len() < BATCH_HEADER_BYTES {
        return;
    }
    if choice & 3 != 0 {
        let length = (input.len() - 12) as i32;
        input[8..12].copy_from_slice(&length.to_be_bytes());
    }
    seal(input);
    if choice & 4 == 0 {
        return;
    }
    for _ in 0..3 {
        match RecordBatch::decode(Bytes::copy_from_slice(input)) {
            Err(BatchError::MaxTimestamp { records, .. }) => {
                input[35..43].copy_from_slice(&records.to_be_bytes());
            }
            Err(BatchError::LastOffsetDelta { count, .. }) => {
                input[23..27].copy_from_slice(&(count - 1).to_be_bytes());
            }
            _ => return,
        }
        seal(input);
    }
}

fn seal(input: &mut [u8]) {
    let crc = crc32c::crc32c(&input[21..]);
    input[17..21].copy_from_slice(&crc.to_be_bytes());
}
