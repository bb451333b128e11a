//! Sealed files' indexes in memory, bounded in bytes; the longest unused go first.

use crate::index::Run;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_core::PartitionId;

/// A file's unique number and a partition.
type Key = (u64, PartitionId);

/// What a row costs besides its runs, in bytes.
const ROW_OVERHEAD: usize = 96;

#[derive(Debug)]
pub(crate) struct IndexCache {
    budget: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: HashMap<Key, (Arc<[Run]>, u64)>,
    bytes: usize,
    tick: u64,
}

impl IndexCache {
    pub(crate) fn new(budget: usize) -> IndexCache {
        IndexCache { budget, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: Key) -> Option<Arc<[Run]>> {
        let mut state = self.state();
        state.tick += 1;
        let tick = state.tick;
        let (runs, used) = state.rows.get_mut(&key)?;
        *used = tick;
        Some(runs.clone())
    }

    pub(crate) fn put(&self, key: Key, runs: Vec<Run>) -> Arc<[Run]> {
        let runs: Arc<[Run]> = runs.into();
        let mut state = self.state();
        state.tick += 1;
        let row = (runs.clone(), state.tick);
        state.bytes += cost(&runs);
        if let Some((replaced, _)) = state.rows.insert(key, row) {
            state.bytes -= cost(&replaced);
        }
        if state.bytes > self.budget {
            state.shrink(self.budget / 4 * 3);
        }
        runs
    }
}

impl State {
    /// Drops the longest unused until `bytes` are left, so that this need not run every time.
    fn shrink(&mut self, bytes: usize) {
        let mut used: Vec<(u64, Key)> = self.rows.iter().map(|(&key, row)| (row.1, key)).collect();
        used.sort_unstable();
        for (_, key) in used {
            if self.bytes <= bytes {
                break;
            }
            if let Some((runs, _)) = self.rows.remove(&key) {
                self.bytes -= cost(&runs);
            }
        }
    }
}

fn cost(runs: &[Run]) -> usize {
    size_of_val(runs) + ROW_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::{Offset, TimestampMs};

    /// Goal: the budget holds and what was used last stays.
    #[test]
    fn bounded() {
        let run = Run {
            base: Offset(0),
            end: Offset(1),
            position: 0,
            bytes: 1,
            max_timestamp: TimestampMs(0),
            append_time: TimestampMs(0),
        };
        let cache = IndexCache::new(10 * (100 * size_of::<Run>() + ROW_OVERHEAD));
        for n in 0..100 {
            cache.put((n, PartitionId(1)), vec![run; 100]);
            assert!(cache.get((0, PartitionId(1))).is_some(), "used all the time");
        }
        assert!(cache.state().bytes <= cache.budget);
        assert!(cache.get((50, PartitionId(1))).is_none());
    }
}
