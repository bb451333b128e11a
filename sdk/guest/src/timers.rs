//! Event-time timers, fired between records.

use crate::bindings::transform::weir::module::flow::Timers as Wire;
use crate::bindings::types::Column;
use crate::state::Keys;
use std::collections::{BTreeMap, BTreeSet};

/// A timer that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Which one.
    pub key: Vec<u8>,
    /// When it was due, in milliseconds since the Unix epoch. The watermark may have moved on.
    pub time: i64,
}

/// Timers of a call: those that are due, and those that it sets.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeSet<(i64, Vec<u8>)>,
    times: BTreeMap<Vec<u8>, i64>,
    /// Keys that the module set or cleared, which the node must hear of.
    touched: BTreeSet<Vec<u8>>,
    /// What the record in process changed: key, time before, whether it was touched before.
    journal: Vec<(Vec<u8>, Option<i64>, bool)>,
}

impl Timers {
    /// The timers that the node handed over.
    pub(crate) fn of(due: Wire) -> Timers {
        let mut timers = Timers::default();
        let mut begin = 0;
        for (end, time) in due.keys.ends.iter().zip(due.times) {
            let key = due.keys.bytes[begin..*end as usize].to_vec();
            begin = *end as usize;
            timers.waiting.insert((time, key.clone()));
            timers.times.insert(key, time);
        }
        timers
    }

    /// Takes the next timer that is due at `watermark`, by time and then key.
    pub(crate) fn next(&mut self, watermark: i64) -> Option<Timer> {
        let (time, key) = self.waiting.first().filter(|(time, _)| *time <= watermark)?.clone();
        let touched = self.touched.contains(&key);
        self.change(&key, None);
        // The node knows what it handed over; what was set in this call and fired in it, it need
        // only hear of if that replaced another.
        if !touched {
            self.touched.remove(&key);
        }
        Some(Timer { key, time })
    }

    /// Sets or clears a timer.
    pub(crate) fn change(&mut self, key: &[u8], time: Option<i64>) {
        let before = self.times.get(key).copied();
        let touched = !self.touched.insert(key.to_vec());
        self.journal.push((key.to_vec(), before, touched));
        self.place(key, before, time);
    }

    fn place(&mut self, key: &[u8], before: Option<i64>, time: Option<i64>) {
        if let Some(before) = before {
            self.waiting.remove(&(before, key.to_vec()));
        }
        match time {
            Some(time) => {
                self.waiting.insert((time, key.to_vec()));
                self.times.insert(key.to_vec(), time);
            }
            None => {
                self.times.remove(key);
            }
        }
    }

    /// The record in process succeeded.
    pub(crate) fn keep(&mut self) {
        self.journal.clear();
    }

    /// The record in process failed: what it changed is put back. Timers that fired with it fire
    /// again, behind the next record.
    pub(crate) fn rewind(&mut self) {
        while let Some((key, time, touched)) = self.journal.pop() {
            let now = self.times.get(&key).copied();
            self.place(&key, now, time);
            if !touched {
                self.touched.remove(&key);
            }
        }
    }

    /// What the node must hear of: timers to set, and to clear. One that it handed over and that
    /// did not fire, since the records behind it failed, is set again.
    pub(crate) fn into_wire(mut self) -> (Wire, Column) {
        let (mut set, mut cleared) = (Keys::default(), Keys::default());
        let mut times = Vec::new();
        self.touched.extend(self.times.keys().cloned());
        for key in &self.touched {
            match self.times.get(key) {
                Some(time) => {
                    set.add(key);
                    times.push(*time);
                }
                None => cleared.add(key),
            }
        }
        (Wire { keys: set.0, times }, cleared.0)
    }
}
