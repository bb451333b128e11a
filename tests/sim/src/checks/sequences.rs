//! What an idempotent producer sends is committed once, and in its order, without holes: by its
//! numbers within one of its epochs, and by content over all of them. What it was told is not
//! stored is not. And since nothing here is ever refused for good, no producer begins anew: it does
//! so only where a leader says that something before is missing.

use super::{Violations, note};
use crate::disk::Entry;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::ids::{Offset, PartitionId, ProducerId};
use weir_core::partition::producers::sequence_after;

/// The checker's name.
pub const NAME: &str = "sequences";

/// What is committed of each producer.
#[derive(Default)]
pub struct Sequences {
    ends: BTreeMap<PartitionId, Offset>,
    known: BTreeMap<(PartitionId, ProducerId), Known>,
    /// Contents that are committed.
    committed: BTreeSet<u64>,
    /// Contents that are not, a client was told.
    denied: BTreeSet<u64>,
}

#[derive(Default)]
struct Known {
    epoch: i16,
    next: i32,
    /// The newest content: a producer's contents rise.
    newest: u64,
}

impl Sequences {
    /// Whether anything of this producer is committed.
    pub fn knows(&self, partition: PartitionId, producer: ProducerId) -> bool {
        self.known.contains_key(&(partition, producer))
    }

    /// A leader takes this entry for committed.
    pub fn committed(&mut self, seen: &mut Violations, partition: PartitionId, entry: &Entry) {
        let end = self.ends.entry(partition).or_default();
        if entry.base < *end {
            return;
        }
        *end = entry.end();
        let Some(batch) = entry.producer else { return };
        let known = self.known.entry((partition, batch.id)).or_default();
        if batch.epoch > known.epoch {
            note(seen, NAME, format!("{partition}: a producer began anew with {batch:?}"));
            (known.epoch, known.next) = (batch.epoch, 0);
        }
        if batch.epoch < known.epoch || batch.base_sequence != known.next {
            let (epoch, next) = (known.epoch, known.next);
            let what = format!("{partition}: expected {epoch} {next}, stored {batch:?}");
            note(seen, NAME, what);
        }
        if entry.id <= known.newest {
            let (id, newest) = (entry.id, known.newest);
            note(seen, NAME, format!("{partition}: {id} is stored behind {newest}"));
        }
        known.next = sequence_after(batch.base_sequence, batch.count);
        known.newest = entry.id;
        self.committed.insert(entry.id);
        if self.denied.contains(&entry.id) {
            let id = entry.id;
            note(seen, NAME, format!("{partition}: {id} is stored, its client was told it is not"));
        }
    }

    /// A client was told that this content is not stored, and never will be.
    pub fn denied(&mut self, seen: &mut Violations, partition: PartitionId, id: u64) {
        self.denied.insert(id);
        if self.committed.contains(&id) {
            note(seen, NAME, format!("{partition}: {id} is stored, its client was told it is not"));
        }
    }
}
