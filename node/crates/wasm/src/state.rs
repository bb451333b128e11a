//! Keyed state as one call sees it: what is stored, and the call's own changes on top. Pure.
//!
//! Changes stay here until the whole batch is through. A call that fails loses its own; earlier
//! parts of the batch keep theirs ([`StateBuffer::mark`]).

use crate::abi::{Page, StateError};
use crate::columns::{Column, NullableColumn};
use crate::limits::{SCAN_BYTES_MAX, SCAN_ENTRIES_MAX};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weir_core::TimestampMs;
use weir_core::limits::{MODULE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};

/// The stored state of one deployment in one partition, as of the position before a batch. It does
/// not change while the batch is processed.
pub trait StateView: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<Bytes>;

    /// Entries whose keys begin with `prefix`, behind `after` if it is given, in key order, `limit`
    /// of them at most.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Bytes, Bytes)>;

    /// Timers that are due at `watermark`: key and time, by time and then key.
    fn due(&self, watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)>;

    /// The time of the timer of `key`.
    fn timer(&self, key: &[u8]) -> Option<TimestampMs>;
}

/// No state.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoState;

impl StateView for NoState {
    fn get(&self, _key: &[u8]) -> Option<Bytes> {
        None
    }

    fn scan(&self, _prefix: &[u8], _after: Option<&[u8]>, _limit: usize) -> Vec<(Bytes, Bytes)> {
        Vec::new()
    }

    fn due(&self, _watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)> {
        Vec::new()
    }

    fn timer(&self, _key: &[u8]) -> Option<TimestampMs> {
        None
    }
}

/// State in memory, for tests and for `weir module test`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// Entries.
    pub entries: BTreeMap<Bytes, Bytes>,
    /// Timers.
    pub timers: BTreeMap<Bytes, TimestampMs>,
}

impl MemoryState {
    /// Applies what a batch changed.
    pub fn apply(&mut self, changes: &StateChanges) {
        for (key, value) in &changes.entries {
            match value {
                Some(value) => self.entries.insert(key.clone(), value.clone()),
                None => self.entries.remove(key),
            };
        }
        for (key, time) in &changes.timers {
            match time {
                Some(time) => self.timers.insert(key.clone(), *time),
                None => self.timers.remove(key),
            };
        }
    }
}

impl StateView for MemoryState {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.entries.get(key).cloned()
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Bytes, Bytes)> {
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        self.entries
            .range(Bytes::copy_from_slice(from)..)
            .filter(|(key, _)| after.is_none_or(|after| key.as_ref() > after))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn due(&self, watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)> {
        let due = self.timers.iter().filter(|(_, time)| **time <= watermark);
        let mut due: Vec<_> = due.map(|(key, time)| (key.clone(), *time)).collect();
        due.sort_by_key(|(_, time)| *time);
        due
    }

    fn timer(&self, key: &[u8]) -> Option<TimestampMs> {
        self.timers.get(key).copied()
    }
}

/// What a batch changed in the state. Sorted by key: the same batch gives the same changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChanges {
    /// New values; `None` removes the key.
    pub entries: Vec<(Bytes, Option<Bytes>)>,
    /// New timers; `None` removes the timer.
    pub timers: Vec<(Bytes, Option<TimestampMs>)>,
}

impl StateChanges {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.timers.is_empty()
    }
}

/// Stored state with the changes of one batch on top.
pub struct StateBuffer {
    stored: Arc<dyn StateView>,
    /// Changes of calls that succeeded.
    kept: Layer,
    /// Changes of the call that runs.
    open: Layer,
    bytes_max: usize,
}

impl Default for StateBuffer {
    /// No state, and none may be kept.
    fn default() -> StateBuffer {
        StateBuffer::new(Arc::new(NoState), 0)
    }
}

#[derive(Default)]
struct Layer {
    entries: HashMap<Bytes, Option<Bytes>>,
    timers: HashMap<Bytes, Option<TimestampMs>>,
    /// Bytes of keys and values that went in, overwritten ones too.
    bytes: usize,
}

impl StateBuffer {
    /// No changes yet on `stored`. The batch may change `bytes_max` bytes.
    #[must_use]
    pub fn new(stored: Arc<dyn StateView>, bytes_max: usize) -> StateBuffer {
        StateBuffer { stored, kept: Layer::default(), open: Layer::default(), bytes_max }
    }

    /// Keeps what the call changed: it succeeded.
    pub fn mark(&mut self) {
        let open = std::mem::take(&mut self.open);
        if self.kept.entries.is_empty() && self.kept.timers.is_empty() {
            self.kept = open;
            return;
        }
        self.kept.entries.extend(open.entries);
        self.kept.timers.extend(open.timers);
        self.kept.bytes += open.bytes;
    }

    /// Drops what the call changed: it failed.
    pub fn rewind(&mut self) {
        self.open = Layer::default();
    }

    /// All that was kept.
    #[must_use]
    pub fn into_changes(self) -> StateChanges {
        let mut changes = StateChanges {
            entries: self.kept.entries.into_iter().collect(),
            timers: self.kept.timers.into_iter().collect(),
        };
        changes.entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        changes.timers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        changes
    }

    /// The value of each key.
    #[must_use]
    pub fn get_many(&self, keys: &Column) -> NullableColumn {
        let mut values = NullableColumn::default();
        for key in keys.iter() {
            match self.changed(key) {
                Some(value) => values.push(value.map(AsRef::as_ref)),
                None => values.push(self.stored.get(key).as_deref()),
            }
        }
        values.finish();
        values
    }

    /// Sets each key.
    ///
    /// # Errors
    /// If a limit is passed; nothing is changed then.
    pub fn put_many(&mut self, keys: Column, values: Column) -> Result<(), StateError> {
        if keys.len() != values.len() {
            return Err(StateError::ColumnsDiffer);
        }
        self.check(&keys, Some(&values))?;
        // One allocation holds all keys, another all values, whatever their number.
        let (keys, values) = (Strings::from(keys), Strings::from(values));
        let pairs = keys.iter().zip(values.iter().map(Some));
        self.open.entries.extend(pairs);
        Ok(())
    }

    /// Removes each key.
    ///
    /// # Errors
    /// If a limit is passed; nothing is changed then.
    pub fn delete_many(&mut self, keys: Column) -> Result<(), StateError> {
        self.check(&keys, None)?;
        let keys = Strings::from(keys);
        self.open.entries.extend(keys.iter().map(|key| (key, None)));
        Ok(())
    }

    /// A page of the keys that begin with `prefix`.
    #[must_use]
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Page {
        let limit = limit.min(SCAN_ENTRIES_MAX);
        // Each change may hide one stored entry, so this many are enough to fill the page.
        let changed = self.changed_entries(prefix, after);
        let asked = limit.saturating_add(changed.len()).saturating_add(1);
        let stored = self.stored.scan(prefix, after, asked);
        let mut merged: BTreeMap<Bytes, Option<Bytes>> =
            stored.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let complete = merged.len() < asked;
        let last_stored = merged.keys().next_back().cloned();
        for (key, value) in changed {
            // What lies behind the last stored entry that was asked for belongs to a later page.
            if complete || last_stored.as_ref().is_some_and(|last| key <= *last) {
                merged.insert(key, value);
            }
        }
        let mut page = Page::default();
        for (key, value) in merged.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            let bytes = page.keys.bytes.len() + page.values.bytes.len() + key.len() + value.len();
            if page.keys.len() == limit || (!page.keys.is_empty() && bytes > SCAN_BYTES_MAX) {
                page.more = true;
                return page;
            }
            page.keys.push(&key);
            page.values.push(&value);
        }
        page.more = !complete;
        page
    }

    /// Timers that are due at `watermark`, by time and then key.
    #[must_use]
    pub fn due(&self, watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)> {
        let stored = self.stored.due(watermark);
        let unchanged = stored.into_iter().filter(|(key, _)| !self.kept.timers.contains_key(key));
        let kept = self.kept.timers.iter();
        let changed = kept.filter_map(|(key, time)| Some((key.clone(), (*time)?)));
        let mut due: Vec<_> =
            unchanged.chain(changed.filter(|(_, time)| *time <= watermark)).collect();
        due.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        due
    }

    /// Sets or removes a timer.
    pub fn change_timer(&mut self, key: Bytes, time: Option<TimestampMs>) {
        self.open.timers.insert(key, time);
    }

    /// The newest change of `key`, if there is one.
    fn changed(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        let layers = [&self.open, &self.kept];
        let found = layers.iter().find_map(|layer| layer.entries.get(key));
        found.map(Option::as_ref)
    }

    fn changed_entries(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> BTreeMap<Bytes, Option<Bytes>> {
        let layers = self.kept.entries.iter().chain(&self.open.entries);
        layers
            .filter(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_ref() > after))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    fn check(&mut self, keys: &Column, values: Option<&Column>) -> Result<(), StateError> {
        let longest = |column: &Column| column.iter().map(<[u8]>::len).max().unwrap_or(0);
        if longest(keys) > MODULE_KEY_BYTES_MAX {
            return Err(StateError::KeyTooLong(MODULE_KEY_BYTES_MAX as u32));
        }
        if values.is_some_and(|values| longest(values) > STATE_VALUE_BYTES_MAX) {
            return Err(StateError::ValueTooLong(STATE_VALUE_BYTES_MAX as u32));
        }
        let more = keys.content_bytes() + values.map_or(0, Column::content_bytes);
        let bytes = self.open.bytes.saturating_add(more);
        if self.kept.bytes.saturating_add(bytes) > self.bytes_max {
            return Err(StateError::TooManyChanges(self.bytes_max as u64));
        }
        self.open.bytes = bytes;
        Ok(())
    }
}

/// A column whose strings can be shared.
struct Strings {
    ends: Vec<u32>,
    bytes: Bytes,
}

impl From<Column> for Strings {
    fn from(column: Column) -> Strings {
        Strings { ends: column.ends, bytes: Bytes::from(column.bytes) }
    }
}

impl Strings {
    fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| self.bytes.slice(begin as usize..*end as usize))
    }
}
