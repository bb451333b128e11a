//! Snapshots of a lane's state, taken when another version took over. Pure.

use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::TimestampMs;
use weir_core::deploy::keys::{KeptPart, Lane, Position, Runs, read_head, read_timer};
use weir_core::entry::StateChange;

/// One snapshot: the state as it was at a position, and which version had left it so.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Where the lane was, and with which version.
    pub head: Option<(Position, Runs)>,
    /// The module's keys.
    pub own: BTreeMap<Bytes, Bytes>,
    /// Its timers.
    pub timers: BTreeMap<Bytes, TimestampMs>,
}

impl Kept {
    /// Applies a change that is durable. Returns how many bytes the value has now and had before.
    pub fn apply(
        &mut self,
        part: KeptPart,
        value: Option<&Bytes>,
    ) -> (Option<usize>, Option<usize>) {
        match part {
            KeptPart::Head => {
                // Its size is the same each time but for the module's name: not counted.
                self.head = value.and_then(|value| read_head(value));
                (None, None)
            }
            KeptPart::Own(key) => {
                let before = match value {
                    Some(value) => self.own.insert(key, value.clone()),
                    None => self.own.remove(&key),
                };
                (value.map(Bytes::len), before.map(|before| before.len()))
            }
            KeptPart::Timer(key) => {
                let time = value.and_then(|value| read_timer(value));
                let before = match time {
                    Some(time) => self.timers.insert(key, time),
                    None => self.timers.remove(&key),
                };
                (time.map(|_| 8), before.map(|_| 8))
            }
        }
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.head.is_none() && self.own.is_empty() && self.timers.is_empty()
    }

    /// The changes that write it, if there is none in this slot.
    #[must_use]
    pub fn changes(&self, lane: Lane, slot: u8) -> Vec<StateChange> {
        let own = self.own.iter();
        let own = own.map(|(key, value)| lane.set_kept_own(slot, key, Some(value.clone())));
        let timers = self.timers.iter();
        let timers = timers.map(|(key, time)| lane.set_kept_timer(slot, key, Some(*time)));
        let head = self.head.as_ref().map(|head| lane.set_kept_head(slot, Some(head)));
        own.chain(timers).chain(head).collect()
    }

    /// The changes that remove it.
    #[must_use]
    pub fn removal(&self, lane: Lane, slot: u8) -> Vec<StateChange> {
        let own = self.own.keys().map(|key| lane.set_kept_own(slot, key, None));
        let timers = self.timers.keys().map(|key| lane.set_kept_timer(slot, key, None));
        let head = self.head.as_ref().map(|_| lane.set_kept_head(slot, None));
        own.chain(timers).chain(head).collect()
    }
}
