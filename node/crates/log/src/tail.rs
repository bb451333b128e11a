//! The newest durable entries in memory, for readers at the tail.
//!
//! One byte budget for all partitions; the oldest go first, whichever partition they are of. A
//! partition's cached entries are contiguous and reach to its durable end.

use crate::entries::{Chunk, LoggedEntry};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use weir_core::{Offset, PartitionId};

/// What an entry costs besides its bytes.
const ENTRY_OVERHEAD: usize = 256;

#[derive(Debug)]
pub(crate) struct TailCache {
    budget: usize,
    tail: Mutex<Tail>,
}

#[derive(Debug, Default)]
struct Tail {
    partitions: HashMap<PartitionId, VecDeque<LoggedEntry>>,
    /// In the order of arrival; may name entries that are gone.
    order: VecDeque<(PartitionId, Offset)>,
    bytes: usize,
}

/// What an entry costs.
fn cost(entry: &LoggedEntry) -> usize {
    entry.state.len() + entry.source.len() + entry.batch.len() + ENTRY_OVERHEAD
}

impl TailCache {
    pub(crate) fn new(budget: usize) -> TailCache {
        TailCache { budget, tail: Mutex::default() }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds durable entries, each partition's in log order.
    pub(crate) fn extend(&self, entries: impl Iterator<Item = (PartitionId, LoggedEntry)>) {
        let mut evicted = Vec::new();
        let mut tail = self.tail();
        for (partition, entry) in entries {
            tail.push(partition, entry, &mut evicted);
        }
        tail.shrink(self.budget, &mut evicted);
        drop(tail);
        // Outside the lock: freeing batches takes a while.
        drop(evicted);
    }

    /// Forgets what lies below `start`.
    pub(crate) fn advance_start(&self, partition: PartitionId, start: Offset) {
        let mut evicted = Vec::new();
        self.tail()
            .pop_front_while(partition, &mut evicted, |entry| entry.header.end_offset() <= start);
    }

    /// Forgets a partition.
    pub(crate) fn forget(&self, partition: PartitionId) {
        let mut evicted = Vec::new();
        self.tail().pop_front_while(partition, &mut evicted, |_| true);
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.tail() = Tail::default();
    }

    /// Whole entries from the one that holds `from` on; `None` if that one is not here.
    pub(crate) fn read<C: Chunk>(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Option<C> {
        let tail = self.tail();
        let entries = tail.partitions.get(&partition)?;
        let first = entries.front()?.header.base_offset;
        let end = entries.back()?.header.end_offset();
        if from < first || from > end {
            return None;
        }
        let mut chunk = C::begin(from);
        let at = entries.partition_point(|entry| entry.header.end_offset() <= from);
        for entry in entries.range(at..) {
            if entry.header.end_offset() > below || !chunk.has_room(&entry.header, max_bytes) {
                break;
            }
            chunk.keep(entry);
        }
        Some(chunk)
    }
}

impl Tail {
    fn push(&mut self, partition: PartitionId, entry: LoggedEntry, evicted: &mut Vec<LoggedEntry>) {
        let entries = self.partitions.entry(partition).or_default();
        if entries.back().is_some_and(|last| last.header.end_offset() != entry.header.base_offset) {
            // A cut or a failure lies between: what is here does not lead up to the new entry.
            self.pop_front_while(partition, evicted, |_| true);
        }
        self.bytes += cost(&entry);
        self.order.push_back((partition, entry.header.base_offset));
        self.partitions.entry(partition).or_default().push_back(entry);
    }

    fn shrink(&mut self, budget: usize, evicted: &mut Vec<LoggedEntry>) {
        while self.bytes > budget {
            let Some((partition, base)) = self.order.pop_front() else {
                break;
            };
            self.pop_front_while(partition, evicted, |entry| entry.header.base_offset <= base);
        }
        // Names of entries that went another way must not pile up.
        let live = self.bytes / ENTRY_OVERHEAD + 1;
        if self.order.len() > 2 * live + 1024 {
            let partitions = &self.partitions;
            self.order.retain(|(partition, base)| {
                let entries = partitions.get(partition);
                entries.is_some_and(|e| {
                    e.front().is_some_and(|front| front.header.base_offset <= *base)
                })
            });
        }
    }

    fn pop_front_while(
        &mut self,
        partition: PartitionId,
        evicted: &mut Vec<LoggedEntry>,
        gone: impl Fn(&LoggedEntry) -> bool,
    ) {
        let Some(entries) = self.partitions.get_mut(&partition) else {
            return;
        };
        while entries.front().is_some_and(&gone) {
            if let Some(entry) = entries.pop_front() {
                self.bytes -= cost(&entry);
                evicted.push(entry);
            }
        }
        if entries.is_empty() {
            self.partitions.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReadChunk;
    use crate::entries::EntryChunk;
    use bytes::Bytes;
    use weir_core::entry::{ENTRY_HEADER_BYTES, EntryHeader, EntryKind};
    use weir_core::{LeaderEpoch, TimestampMs};

    const P: PartitionId = PartitionId(1);

    fn entry(base: i64, end: i64, bytes: usize) -> (PartitionId, LoggedEntry) {
        let header = EntryHeader {
            kind: EntryKind::Entry,
            partition: P,
            base_offset: Offset(base),
            offset_count: (end - base) as u32,
            epoch: LeaderEpoch(1),
            append_time: TimestampMs(0),
            state_len: 2,
            source_len: 0,
            batch_len: bytes as u32,
        };
        let batch = Bytes::from(vec![base as u8; bytes]);
        let (state, source) = (Bytes::from_static(b"st"), Bytes::new());
        (P, LoggedEntry { header, state, source, batch })
    }

    fn read(cache: &TailCache, from: i64, max: usize, below: i64) -> Option<(usize, i64)> {
        let chunk: ReadChunk = cache.read(P, Offset(from), max, Offset(below))?;
        assert_eq!(chunk.bytes, chunk.batches.iter().map(Bytes::len).sum::<usize>());
        Some((chunk.batches.len(), chunk.next_offset.0))
    }

    /// Goal: reads begin with the batch that holds the offset, step over entries without records
    /// and stop at the bounds.
    #[test]
    fn reads() {
        let cache = TailCache::new(1 << 20);
        let entries = [entry(5, 10, 100), entry(10, 11, 0), entry(11, 20, 100)];
        cache.extend(entries.into_iter());
        assert_eq!(read(&cache, 4, 1000, 99), None);
        assert_eq!(read(&cache, 7, 1000, 99), Some((2, 20)));
        assert_eq!(read(&cache, 10, 1000, 99), Some((1, 20)));
        assert_eq!(read(&cache, 5, 1, 99), Some((1, 10)));
        assert_eq!(read(&cache, 5, 1000, 19), Some((1, 11)));
        assert_eq!(read(&cache, 20, 1000, 99), Some((0, 20)));
        assert_eq!(read(&cache, 21, 1000, 99), None);
        cache.advance_start(P, Offset(10));
        assert_eq!(read(&cache, 9, 1000, 99), None);
        cache.forget(P);
        assert_eq!(read(&cache, 20, 1000, 99), None);
    }

    /// Goal: whole entries come out as they went in, none is stepped over, and the bound counts all
    /// of their bytes.
    #[test]
    fn reads_entries() {
        let cache = TailCache::new(1 << 20);
        let entries = [entry(5, 10, 100), entry(10, 11, 0), entry(11, 20, 100)];
        cache.extend(entries.clone().into_iter());
        let read = |from, max| -> Option<EntryChunk> {
            cache.read(P, Offset(from), max, Offset(i64::MAX))
        };
        let all = read(7, 1000).unwrap();
        assert_eq!(all.entries, entries.clone().map(|(_, entry)| entry));
        assert_eq!((all.next_offset, all.bytes), (Offset(20), 3 * (ENTRY_HEADER_BYTES + 2) + 200));
        assert_eq!(read(7, 0).unwrap().entries.len(), 1);
        assert_eq!(read(7, 2 * (ENTRY_HEADER_BYTES + 2) + 100).unwrap().next_offset, Offset(11));
        assert_eq!(read(20, 1000).unwrap().next_offset, Offset(20));
        assert_eq!(read(4, 1000), None);
    }

    /// Goal: the budget holds, the oldest go first, and a jump in offsets leaves no hole.
    #[test]
    fn bounded_and_contiguous() {
        let cache = TailCache::new(4 * (1002 + ENTRY_OVERHEAD));
        for n in 0..10 {
            cache.extend([entry(n, n + 1, 1000)].into_iter());
        }
        assert_eq!(read(&cache, 5, 9999, 99), None);
        assert_eq!(read(&cache, 6, 9999, 99), Some((4, 10)));
        cache.extend([entry(50, 51, 1000)].into_iter());
        assert_eq!(read(&cache, 9, 9999, 99), None);
        assert_eq!(read(&cache, 50, 9999, 99), Some((1, 51)));
        for n in 0..5_000 {
            cache.extend([entry(100 + 2 * n, 101 + 2 * n, 10)].into_iter());
        }
        assert!(cache.tail().order.len() < 3_000);
    }
}
