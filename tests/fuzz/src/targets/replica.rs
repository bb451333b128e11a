//! What arrives on the streams of replicas.

use super::wire::check_control;
use crate::samples::{batch, replica as samples, storage};
use crate::{Target, Verdict, memory_in_proportion, no_repair};
use bytes::{Buf, Bytes};
use weir_core::entry::EntryKind;
use weir_core::partition::messages::FollowAnswer;
use weir_core::record::{Compression, RecordBatch};
use weir_core::wire::replica::{
    DeliverHeader, FetchEntries, FollowOpen, PushHeader, ReportBody, split_entry,
};
use weir_transport::control::encode;

const BINARY: Target = Target {
    name: "",
    check: |_| Verdict::Refused,
    seeds: Vec::new,
    repair: no_repair,
    words: &[],
    memory_bytes_max: memory_in_proportion,
};

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "follow",
        check: check_control::<FollowOpen>,
        seeds: || vec![encode(&samples::follow()).expect("encodes").to_vec()],
        words: &["epochs", "attempt", "log_end"],
        ..BINARY
    },
    Target {
        name: "fetch-entries",
        check: check_control::<FetchEntries>,
        seeds: || vec![encode(&samples::fetch()).expect("encodes").to_vec()],
        words: &["partition", "from"],
        ..BINARY
    },
    Target {
        name: "follow-answer",
        check: check_control::<FollowAnswer>,
        seeds: || {
            let encoded = |answer| encode(answer).expect("encodes").to_vec();
            samples::answers().iter().map(encoded).collect()
        },
        words: &["truncate", "reset", "agreed", "start"],
        ..BINARY
    },
    Target {
        name: "pushed-entries",
        check: check_entries,
        seeds: || {
            let envelope = storage::entry(EntryKind::Entry);
            let entry = [&envelope[..], &batch(Compression::None)].concat();
            let header = PushHeader(samples::push()).encode();
            vec![[&header[..], &entry, &entry].concat(), header.to_vec()]
        },
        ..BINARY
    },
    Target {
        name: "report",
        check: |input| match ReportBody::decode(input) {
            None => Verdict::Refused,
            Some(report) => {
                assert_eq!(report.encode(), *input);
                Verdict::Accepted
            }
        },
        seeds: || vec![ReportBody(samples::report()).encode().to_vec()],
        ..BINARY
    },
    Target {
        name: "deliver",
        check: |input| match DeliverHeader::decode(input) {
            None => Verdict::Refused,
            Some(header) => {
                assert!(input.starts_with(&header.encode()));
                let batch = Bytes::copy_from_slice(&input[DeliverHeader::BYTES..]);
                match RecordBatch::decode_trusted(batch) {
                    Ok(_) => Verdict::Accepted,
                    Err(_) => Verdict::Refused,
                }
            }
        },
        seeds: || {
            let header = samples::deliver().encode();
            vec![[&header[..], &batch(Compression::None)].concat()]
        },
        ..BINARY
    },
];

/// What is taken apart is what lies there, and nothing is left over.
fn check_entries(input: &[u8]) -> Verdict {
    let Some(header) = PushHeader::decode(input) else { return Verdict::Refused };
    assert!(input.starts_with(&header.encode()));
    let mut rest = Bytes::copy_from_slice(input);
    rest.advance(PushHeader::BYTES);
    while rest.has_remaining() {
        let before = rest.clone();
        let Ok((entry, state, source, batch)) = split_entry(&mut rest) else {
            return Verdict::Refused;
        };
        let again = [&entry.encode(&state, &source)[..], &state, &source, &batch].concat();
        assert!(before.starts_with(&again) && again.len() == entry.entry_len());
    }
    Verdict::Accepted
}
