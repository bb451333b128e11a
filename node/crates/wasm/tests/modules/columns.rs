//! Columns and state against simple models.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_core::record::{BatchBuilder, Compression, HeaderView, RecordBatch, Records};
use weir_core::{ProducerId, TimestampMs};
use weir_wasm::columns::{Batch, Column, ColumnError, ColumnSet, NullableColumn, Watermark};
use weir_wasm::state::{MemoryState, StateBuffer};

type Made = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn record() -> impl Strategy<Value = Made> {
    let bytes = || option::of(vec(any::<u8>(), 0..20));
    (-1_000_000i64..1_000_000, bytes(), bytes(), vec(("[a-zé]{0,5}", bytes()), 0..3))
}

fn records(made: &[Made]) -> Records {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for (time, key, value, headers) in made {
        let headers = headers
            .iter()
            .map(|(name, value)| HeaderView { name, value: value.as_deref() })
            .collect::<Vec<_>>();
        let time = TimestampMs(*time);
        builder.push(time, key.as_deref(), value.as_deref(), headers).unwrap();
    }
    let bytes = builder.build(ProducerId::NONE, -1, -1).unwrap();
    RecordBatch::decode(bytes).unwrap().records().unwrap()
}

fn all() -> ColumnSet {
    ColumnSet::TIMESTAMPS | ColumnSet::KEYS | ColumnSet::VALUES | ColumnSet::HEADERS
}

proptest! {
    /// Goal: columns hold what the records hold, whatever part of the batch they are of; they pass
    /// their own checks; and a batch that is filled again is as a new one.
    #[test]
    fn columns_are_the_records(
        made in vec(record(), 1..30),
        from in 0usize..30,
        len in 0usize..30,
    ) {
        let records = records(&made);
        let from = from.min(made.len());
        let range = from..(from + len).min(made.len());
        let part = &made[range.clone()];
        let mut batch = Batch::default();
        let mut watermark = Watermark { lateness_ms: 5, ..Watermark::START };
        batch.fill(&records, 0..made.len(), all(), &mut watermark.clone());
        batch.fill(&records, range.clone(), all() | ColumnSet::WATERMARKS, &mut watermark);
        prop_assert_eq!(batch.count as usize, part.len());
        prop_assert!(part.is_empty() || batch.base_offset == range.start as i64);
        batch.keys.check(part.len()).unwrap();
        batch.values.check(part.len()).unwrap();
        batch.headers.check(part.len()).unwrap();
        let mut newest = i64::MIN;
        for (at, (time, key, value, headers)) in part.iter().enumerate() {
            newest = newest.max(*time);
            prop_assert_eq!(batch.watermarks[at], newest - 5);
            prop_assert_eq!(batch.timestamps[at], *time);
            prop_assert_eq!(batch.keys.get(at), key.as_deref());
            prop_assert_eq!(batch.values.get(at), value.as_deref());
            let have: Vec<_> = batch.headers.get(at).map(|h| (h.name, h.value)).collect();
            let want: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            prop_assert_eq!(have, want);
        }
        let mut nothing = Batch::default();
        nothing.fill(&records, range, ColumnSet::default(), &mut watermark);
        prop_assert_eq!(nothing.count, batch.count);
        prop_assert!(nothing.keys.is_empty() && nothing.values.is_empty());
    }

    /// Goal: no column of a module is read out of bounds, and one that passes its check is what
    /// pushing its strings gives.
    #[test]
    fn hostile_columns(
        mut ends in vec(0u32..40, 0..12),
        bytes in vec(any::<u8>(), 0..40),
        nulls in vec(any::<u8>(), 0..3),
        count in 0usize..12,
        sorted in any::<bool>(),
    ) {
        if sorted {
            ends.sort_unstable();
            if let Some(last) = ends.last_mut() {
                *last = bytes.len() as u32;
            }
        }
        let column = NullableColumn { ends, bytes, nulls };
        let strings: Vec<Option<&[u8]>> = column.iter().collect();
        prop_assert_eq!(strings.len(), column.len());
        if column.check(count).is_ok() {
            prop_assert_eq!(column.len(), count);
            let mut again = NullableColumn::default();
            strings.iter().for_each(|string| again.push(*string));
            again.finish();
            prop_assert_eq!(again.ends, column.ends);
            prop_assert_eq!(again.bytes, column.bytes);
            prop_assert!(again.nulls == column.nulls || column.nulls.iter().all(|b| *b == 0));
        }
    }

    /// Goal: a batch sees its own changes over the stored state; what a failed call changed is
    /// gone; what comes out, applied to the stored state, is what a plain map would hold.
    #[test]
    fn state_is_a_map(
        stored in btree_map(key(), key(), 0..12),
        calls in vec((vec((key(), option::of(key())), 0..6), any::<bool>()), 0..6),
        prefix in key(),
    ) {
        let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
        let entries = stored.iter().map(|(key, value)| (bytes(key), bytes(value))).collect();
        let mut memory = MemoryState { entries, ..MemoryState::default() };
        let mut model: BTreeMap<Bytes, Bytes> = memory.entries.clone();
        let mut state = StateBuffer::new(Arc::new(memory.clone()), 1 << 20);
        for (changes, succeeds) in &calls {
            let mut now = model.clone();
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        state.put_many(column([key]), column([value])).unwrap();
                        now.insert(bytes(key), bytes(value));
                    }
                    None => {
                        state.delete_many(column([key])).unwrap();
                        now.remove(&bytes(key));
                    }
                }
            }
            let changed = changes.iter().map(|(key, _)| key);
            let keys: Vec<&String> = changed.chain(stored.keys()).collect();
            let values = state.get_many(&column(keys.iter().copied()));
            for (key, value) in keys.iter().zip(values.iter()) {
                prop_assert_eq!(value, now.get(key.as_bytes()).map(AsRef::as_ref));
            }
            prop_assert_eq!(scan(&state, prefix.as_bytes()), scan_model(&now, prefix.as_bytes()));
            if *succeeds {
                state.mark();
                model = now;
            } else {
                state.rewind();
            }
        }
        memory.apply(&state.into_changes());
        prop_assert_eq!(memory.entries, model);
    }
}

fn key() -> impl Strategy<Value = String> {
    "[ab]{0,3}"
}

fn column<'a>(strings: impl IntoIterator<Item = &'a String>) -> Column {
    let mut column = Column::default();
    strings.into_iter().for_each(|string| column.push(string.as_bytes()));
    column
}

/// All pages of a scan, two entries a page.
fn scan(state: &StateBuffer, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = state.scan(prefix, after.as_deref(), 2);
        let pairs = page.keys.iter().zip(page.values.iter());
        all.extend(pairs.map(|(key, value)| (key.to_vec(), value.to_vec())));
        if !page.more {
            return all;
        }
        let last = all.last().map(|(key, _)| key.clone());
        assert_ne!(last, after, "a page that says there is more must move on");
        after = last;
    }
}

fn scan_model(model: &BTreeMap<Bytes, Bytes>, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let found = model.iter().filter(|(key, _)| key.starts_with(prefix));
    found.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Goal: each thing that can be wrong with a column is named.
#[test]
fn faults_of_columns() {
    let check = |ends: &[u32], bytes: &[u8], nulls: &[u8], count| {
        let column = NullableColumn { ends: ends.into(), bytes: bytes.into(), nulls: nulls.into() };
        column.check(count)
    };
    assert_eq!(check(&[1, 1, 3], b"abc", &[0b010], 3), Ok(()));
    assert_eq!(check(&[], b"", &[], 0), Ok(()));
    assert_eq!(check(&[1], b"a", &[], 2), Err(ColumnError::Count { have: 1, want: 2 }));
    assert_eq!(check(&[2, 1], b"ab", &[], 2), Err(ColumnError::EndsFall { index: 1 }));
    assert_eq!(check(&[1], b"ab", &[], 1), Err(ColumnError::LastEnd { last: 1, bytes: 2 }));
    assert_eq!(check(&[], b"ab", &[], 0), Err(ColumnError::LastEnd { last: 0, bytes: 2 }));
    let bits = ColumnError::NullBits { have: 1, strings: 1 };
    assert_eq!(check(&[1], b"a", &[0b10], 1), Err(bits));
    assert_eq!(check(&[1], b"a", &[1], 1), Err(ColumnError::NullWithBytes { index: 0 }));
}
