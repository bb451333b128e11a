//! A node's disk: for each partition the entries handed to its log, of which a beginning is synced.
//! A crash keeps what is synced and any beginning of the rest. What the log says of itself is the
//! real [`PartitionView`], folded from the entries.

use crate::event::Cut;
use std::collections::BTreeMap;
use weir_core::entry::{EntryHeader, EntryKind, StateChange};
use weir_core::ids::{DiskId, LeaderEpoch, Offset, PartitionId, TimestampMs};
use weir_core::partition::producers::ProducerBatch;
use weir_core::partition::view::PartitionView;

/// An entry: its envelope's fields, and its content as a number that no other batch has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first offset.
    pub base: Offset,
    /// How many offsets.
    pub count: u32,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// The append time.
    pub time: TimestampMs,
    /// The producer fields.
    pub producer: Option<ProducerBatch>,
    /// The content.
    pub id: u64,
    /// Keyed state, if it has some.
    pub state: Vec<StateChange>,
}

impl Entry {
    /// The offset after the last.
    pub fn end(&self) -> Offset {
        self.base.plus(self.count)
    }

    /// The envelope.
    pub fn header(&self) -> EntryHeader {
        EntryHeader {
            kind: EntryKind::Entry,
            partition: PartitionId(0),
            base_offset: self.base,
            offset_count: self.count,
            epoch: self.epoch,
            append_time: self.time,
            state_len: 0,
            source_len: 0,
            batch_len: 0,
        }
    }
}

/// One partition on a disk.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The view at the first entry.
    pub base: PartitionView,
    /// Everything handed to the log, from `base` on.
    pub entries: Vec<Entry>,
    /// The end of what is synced.
    pub synced: Offset,
    /// The committed end, as it was when the last sync began: written with it.
    pub committed: Offset,
    /// Counts cuts: a sync that began before one says nothing of the log after it.
    pub cuts: u64,
}

impl Log {
    /// Where the log ends, unsynced entries included.
    pub fn end(&self) -> Offset {
        self.entries.last().map_or(self.base.log_end, Entry::end)
    }

    /// What the durable log says of itself.
    pub fn view(&self) -> PartitionView {
        self.view_at(self.synced)
    }

    /// What it said where it ended at `end`, which is no further than it is durable.
    pub fn view_at(&self, end: Offset) -> PartitionView {
        let mut view = self.base.clone();
        for entry in self.entries.iter().take_while(|entry| entry.end() <= end) {
            view.apply(&entry.header(), &entry.state, entry.producer.as_ref())
                .expect("what was handed to a log follows what was before it");
        }
        view
    }

    /// The entries from `at` on that end at or before `end`; at most `max`.
    pub fn read(&self, at: Offset, end: Offset, max: usize) -> Vec<Entry> {
        let from = self.entries.partition_point(|entry| entry.base < at);
        let below = self.entries[from..].iter().take_while(|entry| entry.end() <= end);
        below.take(max).cloned().collect()
    }

    /// Drops the entries below `start`, which is where an entry begins.
    pub fn trim(&mut self, start: Offset) {
        let keep = self.entries.partition_point(|entry| entry.end() <= start);
        for entry in self.entries.drain(..keep) {
            self.base
                .apply(&entry.header(), &entry.state, entry.producer.as_ref())
                .expect("what was handed to a log follows what was before it");
        }
        let header = EntryHeader {
            kind: EntryKind::LogStart,
            base_offset: start.min(self.base.log_end),
            ..blank()
        };
        self.base.apply(&header, &[], None).expect("it lies within");
    }

    /// Cuts the log. What is left is durable.
    pub fn cut(&mut self, cut: &Cut) {
        self.cuts += 1;
        match cut {
            Cut::Truncate(end) => self.entries.retain(|entry| entry.end() <= *end),
            Cut::Reset { start, epochs, snapshot } => {
                self.entries.clear();
                let PartitionView { state, producers, .. } = (**snapshot).clone();
                self.base = PartitionView::begin(*start, epochs.clone(), state, producers)
                    .expect("a leader's history ascends");
            }
        }
        self.synced = self.end();
        self.committed = self.committed.min(self.synced);
    }

    /// Power is gone, or the log is reopened: of what was not synced only the first `kept` entries
    /// are there.
    pub fn lose(&mut self, kept: usize) {
        let synced = self.entries.partition_point(|entry| entry.end() <= self.synced);
        self.entries.truncate(synced + kept);
        self.synced = self.end();
        self.cuts += 1;
    }

    /// How many entries are not synced.
    pub fn unsynced(&self) -> usize {
        self.entries.len() - self.entries.partition_point(|entry| entry.end() <= self.synced)
    }
}

fn blank() -> EntryHeader {
    EntryHeader {
        kind: EntryKind::Entry,
        partition: PartitionId(0),
        base_offset: Offset::ZERO,
        offset_count: 0,
        epoch: LeaderEpoch(0),
        append_time: TimestampMs(0),
        state_len: 0,
        source_len: 0,
        batch_len: 0,
    }
}

/// A disk.
#[derive(Debug)]
pub struct Disk {
    /// Which.
    pub id: DiskId,
    /// What is on it.
    pub logs: BTreeMap<PartitionId, Log>,
    /// Whether a sync is under way.
    pub syncing: bool,
    /// It takes no appends.
    pub full: bool,
    /// Its syncs take a hundred times as long.
    pub slow: bool,
    /// Counts failures: what was under way at one never ends.
    pub era: u64,
}

impl Disk {
    /// An empty one.
    pub fn new(id: DiskId) -> Disk {
        Disk { id, logs: BTreeMap::new(), syncing: false, full: false, slow: false, era: 0 }
    }

    /// The log of a partition.
    pub fn log(&mut self, partition: PartitionId) -> &mut Log {
        self.logs.entry(partition).or_default()
    }

    /// What a sync that begins now will make durable; `None` if there is nothing.
    pub fn begin_sync(&mut self) -> Option<Vec<(PartitionId, u64, Offset)>> {
        let waiting = self.logs.iter().filter(|(_, log)| log.unsynced() > 0);
        let ends: Vec<_> = waiting.map(|(&id, log)| (id, log.cuts, log.end())).collect();
        if self.syncing || ends.is_empty() {
            return None;
        }
        self.syncing = true;
        Some(ends)
    }
}
