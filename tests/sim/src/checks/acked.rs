//! No acknowledged record is lost while a replica that was in sync at the acknowledgement has its
//! disk. Whoever leads holds all such records of earlier epochs, at the offsets that were told. (A
//! node may still take up the lead in an epoch that is over. It commits nothing then.)

use super::{Violations, note};
use crate::disk::Log;
use crate::event::Addr;
use crate::node::Reply;
use crate::queue::Micros;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::ids::{DiskId, LeaderEpoch, NodeId, Offset, PartitionId};

/// The checker's name.
pub const NAME: &str = "acked";

/// What was acknowledged.
#[derive(Default)]
pub struct Acked {
    told: BTreeMap<(PartitionId, Offset), Told>,
    by_id: BTreeMap<u64, (PartitionId, Offset)>,
    lost: BTreeSet<DiskId>,
}

struct Told {
    id: u64,
    at: Micros,
    epoch: LeaderEpoch,
    disks: BTreeSet<DiskId>,
}

impl Acked {
    /// A leader acknowledges.
    pub fn acked(
        &mut self,
        at: Micros,
        (partition, epoch): (PartitionId, LeaderEpoch),
        reply: &Reply,
        insync: BTreeMap<NodeId, DiskId>,
    ) {
        let disks = insync.into_values().collect();
        let told = Told { id: reply.id, at, epoch, disks };
        self.told.entry((partition, reply.base)).or_insert(told);
        self.by_id.insert(reply.id, (partition, reply.base));
    }

    /// A client heard of it.
    pub fn confirmed(&self, seen: &mut Violations, partition: PartitionId, id: u64, base: Offset) {
        if self.by_id.get(&id) != Some(&(partition, base)) {
            note(seen, NAME, format!("{partition}: {id} was never acknowledged at {base}"));
        }
    }

    /// A disk is gone.
    pub fn disk_lost(&mut self, disk: DiskId) {
        self.lost.insert(disk);
    }

    /// Disks that are gone.
    pub fn lost_disks(&self) -> &BTreeSet<DiskId> {
        &self.lost
    }

    /// Somebody leads with this log.
    pub fn led(
        &self,
        seen: &mut Violations,
        partition: PartitionId,
        (node, epoch): (Addr, LeaderEpoch),
        log: &Log,
    ) {
        let from = (partition, log.base.log_end);
        let told = self.told.range(from..=(partition, Offset(i64::MAX)));
        for (&(_, base), told) in told {
            if told.epoch > epoch || told.disks.is_subset(&self.lost) {
                continue;
            }
            let at = log.entries.binary_search_by_key(&base, |entry| entry.base);
            if !at.is_ok_and(|at| log.entries[at].id == told.id) {
                let (id, at) = (told.id, told.at);
                note(
                    seen,
                    NAME,
                    format!(
                        "{partition}: {id} at {base}, acknowledged at {at}, is not in the log of \
                         node {node}, leader in epoch {epoch}"
                    ),
                );
                return;
            }
        }
    }
}
