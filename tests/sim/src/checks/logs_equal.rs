//! Below the high watermark all logs are equal, whoever says where it is, and whatever consumers
//! see is of it.

use super::{Violations, note};
use crate::disk::Entry;
use crate::event::Addr;
use std::collections::BTreeMap;
use weir_core::ids::{Offset, PartitionId};

/// The checker's name.
pub const NAME: &str = "logs_equal";

/// What is committed, by the first who said so.
#[derive(Default)]
pub struct LogsEqual {
    committed: BTreeMap<(PartitionId, Offset), Entry>,
    /// Where logs of leaders began, at most.
    starts: BTreeMap<PartitionId, Offset>,
}

impl LogsEqual {
    /// What is committed of a partition from one offset up to another, as far as it is known.
    #[must_use]
    pub fn between(&self, partition: PartitionId, from: Offset, end: Offset) -> Vec<Entry> {
        let all = self.committed.range((partition, from)..(partition, end.max(from)));
        all.map(|(_, entry)| entry.clone()).collect()
    }

    /// Retention drops what lies below `start`.
    pub fn trimmed(&mut self, partition: PartitionId, start: Offset) {
        let known = self.starts.entry(partition).or_default();
        *known = start.max(*known);
    }

    /// Whether retention may have dropped everything below `start`.
    #[must_use]
    pub fn is_trimmed(&self, partition: PartitionId, start: Offset) -> bool {
        self.starts.get(&partition).is_some_and(|&known| known >= start)
    }

    /// Where what is committed of a partition ends, as far as it is known.
    #[must_use]
    pub fn end(&self, partition: PartitionId) -> Offset {
        let all = self.committed.range((partition, Offset::ZERO)..(partition, Offset(i64::MAX)));
        all.last().map_or(Offset::ZERO, |(_, entry)| entry.end())
    }

    /// A node or consumer takes this entry for committed.
    pub fn committed(
        &mut self,
        seen: &mut Violations,
        who: Addr,
        partition: PartitionId,
        entry: &Entry,
    ) {
        let place = (partition, entry.base);
        let first = self.committed.entry(place).or_insert_with(|| entry.clone());
        if (first.id, first.epoch, first.end()) != (entry.id, entry.epoch, entry.end()) {
            note(seen, NAME, format!("{partition}: {who} has {entry:?}, committed is {first:?}"));
        }
    }
}
