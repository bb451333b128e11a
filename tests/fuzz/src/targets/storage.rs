//! What lies on disk: a rotten sector must read as an error.

use crate::samples::storage::{KINDS, entry, state_changes, view};
use crate::{Target, Verdict, memory_in_proportion, no_repair};
use bytes::{Bytes, BytesMut};
use weir_core::entry::{ENTRY_HEADER_BYTES, EntryHeader, decode_state, encode_state};
use weir_core::partition::producers::ProducerTable;
use weir_core::partition::view::PartitionView;

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "entry",
        check: check_entry,
        seeds: || KINDS.map(entry).into(),
        repair: repair_entry,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
    Target {
        name: "state-section",
        check: check_state,
        seeds: || vec![encode_state(&state_changes()).to_vec(), Vec::new()],
        repair: no_repair,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
    Target {
        name: "partition-view",
        check: check_view,
        seeds: || {
            let empty = PartitionView::default();
            vec![view().encode().to_vec(), empty.encode().to_vec()]
        },
        repair: no_repair,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
    Target {
        name: "producer-table",
        check: check_producers,
        seeds: || {
            let mut bytes = BytesMut::new();
            view().producers.encode(&mut bytes);
            vec![bytes.to_vec(), vec![0; 4]]
        },
        repair: no_repair,
        words: &[],
        memory_bytes_max: memory_in_proportion,
    },
];

fn check_entry(input: &[u8]) -> Verdict {
    let unchecked = EntryHeader::decode_unchecked(input);
    let Ok(header) = EntryHeader::decode(input) else { return Verdict::Refused };
    assert_eq!(unchecked.as_ref(), Ok(&header), "the checksum changes nothing");
    let sections = &input[ENTRY_HEADER_BYTES..header.batch_at()];
    let (state, source) = sections.split_at(header.state_len as usize);
    let encoded = header.encode(state, source);
    assert_eq!(EntryHeader::decode(&[&encoded[..], sections].concat()), Ok(header.clone()));
    assert!(header.end_offset() >= header.base_offset);
    assert!(header.entry_len() >= header.batch_at());
    check_state(state);
    Verdict::Accepted
}

fn repair_entry(input: &mut [u8], _choice: u32) {
    let Ok(header) = EntryHeader::decode_unchecked(input) else { return };
    if let Some(sections) = input.get(ENTRY_HEADER_BYTES..header.batch_at()) {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&input[..44]), sections);
        input[44..48].copy_from_slice(&crc.to_le_bytes());
    }
}

fn check_state(input: &[u8]) -> Verdict {
    let Ok(changes) = decode_state(&Bytes::copy_from_slice(input)) else {
        return Verdict::Refused;
    };
    assert_eq!(encode_state(&changes), input, "one section has one encoding");
    Verdict::Accepted
}

fn check_view(input: &[u8]) -> Verdict {
    let Some(view) = PartitionView::decode(input) else { return Verdict::Refused };
    assert!(view.log_start <= view.log_end);
    let _ = view.epoch();
    assert_eq!(PartitionView::decode(&view.encode()), Some(view));
    Verdict::Accepted
}

fn check_producers(input: &[u8]) -> Verdict {
    let mut rest = input;
    let Some(table) = ProducerTable::decode(&mut rest) else { return Verdict::Refused };
    assert!(input.ends_with(rest), "what it did not read is left");
    let mut bytes = BytesMut::new();
    table.encode(&mut bytes);
    assert_eq!(ProducerTable::decode(&mut &bytes[..]), Some(table));
    Verdict::Accepted
}
