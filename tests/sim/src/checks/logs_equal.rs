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
}

impl LogsEqual {
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
