//! Keyed state, as records see it: one key at a time. Underneath, one call fetches many keys and
//! one writes them all.

use crate::bindings::transform::weir::module::state as host;
use crate::bindings::types::Column;
use crate::error::{Error, Result};
use crate::record::{Columns, get};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// State of this deployment and partition.
#[derive(Default)]
pub struct State {
    known: HashMap<Vec<u8>, Entry, BuildHasherDefault<Fx>>,
    /// Keys that were changed, each once, in the order of their first change.
    dirty: Vec<Vec<u8>>,
    /// What the record in process changed, to be undone if it fails.
    journal: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

struct Entry {
    value: Option<Vec<u8>>,
    dirty: bool,
}

/// Collects keys to be fetched together.
#[derive(Default)]
pub struct Keys(pub(crate) Column);

impl Default for Column {
    fn default() -> Column {
        Column { ends: Vec::new(), bytes: Vec::new() }
    }
}

impl Keys {
    /// Adds a key.
    pub fn add(&mut self, key: impl AsRef<[u8]>) {
        push(&mut self.0, key.as_ref());
    }
}

fn push(column: &mut Column, string: &[u8]) {
    column.bytes.extend_from_slice(string);
    column.ends.push(column.bytes.len() as u32);
}

impl State {
    /// The value of a key. Costs a call of the node unless the key is known: in this batch, it was
    /// used before or named by `state_keys`.
    #[must_use]
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let key = key.as_ref();
        // Looked up twice: a borrow that is returned early may not be held across the insertion.
        if !self.known.contains_key(key) {
            let mut keys = Column::default();
            push(&mut keys, key);
            self.fetch(keys);
        }
        self.known.get(key).and_then(|entry| entry.value.as_deref())
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.change(key.as_ref(), Some(value.as_ref()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.change(key.as_ref(), None);
    }

    /// Entries whose keys begin with `prefix`, in key order, from behind the key `after`. The node
    /// returns some at a time; an empty list says that there are no more.
    ///
    /// # Errors
    /// If changes made before cannot be written.
    pub fn scan(
        &mut self,
        prefix: impl AsRef<[u8]>,
        after: Option<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.flush()?;
        let page = host::scan(prefix.as_ref(), after, u32::MAX);
        let strings = |column: Column| {
            let begins = std::iter::once(0).chain(column.ends.clone()).map(|end| end as usize);
            let spans = begins.zip(column.ends.clone());
            spans.map(|(begin, end)| column.bytes[begin..end as usize].to_vec()).collect::<Vec<_>>()
        };
        Ok(strings(page.keys).into_iter().zip(strings(page.values)).collect())
    }

    /// Fetches keys that are not known yet.
    pub(crate) fn fetch(&mut self, keys: Column) {
        let values = host::get_many(&keys);
        let mut begin = 0;
        for (index, end) in keys.ends.iter().enumerate() {
            let key = &keys.bytes[begin..*end as usize];
            begin = *end as usize;
            if !self.known.contains_key(key) {
                let value = get(&values, index).map(<[u8]>::to_vec);
                self.known.insert(key.to_vec(), Entry { value, dirty: false });
            }
        }
    }

    fn change(&mut self, key: &[u8], value: Option<&[u8]>) {
        match self.known.get_mut(key) {
            Some(entry) => {
                if !entry.dirty {
                    entry.dirty = true;
                    self.dirty.push(key.to_vec());
                }
                let old = std::mem::replace(&mut entry.value, value.map(<[u8]>::to_vec));
                self.journal.push((key.to_vec(), old));
            }
            None => {
                // What is overwritten must be known, or it could not be put back.
                let mut keys = Column::default();
                push(&mut keys, key);
                self.fetch(keys);
                self.change(key, value);
            }
        }
    }

    /// The record in process succeeded.
    pub(crate) fn keep(&mut self) {
        self.journal.clear();
    }

    /// The record in process failed: what it changed is put back.
    pub(crate) fn rewind(&mut self) {
        while let Some((key, value)) = self.journal.pop() {
            if let Some(entry) = self.known.get_mut(&key) {
                // It may have been written by a scan in between.
                if !entry.dirty {
                    entry.dirty = true;
                    self.dirty.push(key);
                }
                entry.value = value;
            }
        }
    }

    /// Writes all changes to the node.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let (mut keys, mut values) = (Column::default(), Column::default());
        let mut deleted = Column::default();
        for key in self.dirty.drain(..) {
            let Some(entry) = self.known.get_mut(&key) else { continue };
            entry.dirty = false;
            match &entry.value {
                Some(value) => {
                    push(&mut keys, &key);
                    push(&mut values, value);
                }
                None => push(&mut deleted, &key),
            }
        }
        let failed = |error: host::StateError| Error::msg(format_args!("state: {error:?}"));
        if !keys.ends.is_empty() {
            host::put_many(&keys, &values).map_err(failed)?;
        }
        if !deleted.ends.is_empty() {
            host::delete_many(&deleted).map_err(failed)?;
        }
        Ok(())
    }
}

/// The columns of a transform or consumer.
pub const fn flow_columns(asked: Columns, timers: bool) -> Columns {
    if timers { asked.and(Columns::WATERMARKS) } else { asked }
}

/// A fast hash for keys that nobody chooses against us: a module only slows itself down.
#[derive(Default)]
struct Fx(u64);

impl Hasher for Fx {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        for byte in chunks.remainder() {
            self.mix(u64::from(*byte));
        }
    }
}

impl Fx {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
