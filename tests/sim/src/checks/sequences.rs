//! What an idempotent producer sends is committed once, and in its order, without holes.

use super::{Violations, note};
use crate::disk::Entry;
use std::collections::BTreeMap;
use weir_core::ids::{Offset, PartitionId, ProducerId};
use weir_core::partition::producers::sequence_after;

/// The checker's name.
pub const NAME: &str = "sequences";

/// What is committed of each producer.
#[derive(Default)]
pub struct Sequences {
    ends: BTreeMap<PartitionId, Offset>,
    next: BTreeMap<(PartitionId, ProducerId), i32>,
}

impl Sequences {
    /// Whether anything of this producer is committed.
    pub fn knows(&self, partition: PartitionId, producer: ProducerId) -> bool {
        self.next.contains_key(&(partition, producer))
    }

    /// A leader takes this entry for committed.
    pub fn committed(&mut self, seen: &mut Violations, partition: PartitionId, entry: &Entry) {
        let end = self.ends.entry(partition).or_default();
        if entry.base < *end {
            return;
        }
        *end = entry.end();
        let Some(batch) = entry.producer else { return };
        let next = self.next.entry((partition, batch.id)).or_default();
        if batch.base_sequence != *next {
            let expected = *next;
            note(seen, NAME, format!("{partition}: expected {expected}, stored {batch:?}"));
        }
        *next = sequence_after(batch.base_sequence, batch.count);
    }
}
