//! Every member of the in-sync set, as the controller has it, holds everything that was ever
//! acknowledged on its disk, synced. This is why it may be elected; it is looked at with each
//! acknowledgement and with each change of a set, long before an election would show it.

use super::{Violations, note};
use crate::disk::Log;
use crate::node::Node;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::cluster::Cluster;
use weir_core::ids::{DiskId, Offset, PartitionEpoch, PartitionId};
use weir_core::partition::assignment::Assignment;

/// The checker's name.
pub const NAME: &str = "insync";

/// What was acknowledged, and which sets were looked at.
#[derive(Default)]
pub struct InSyncHolds {
    acked: BTreeMap<PartitionId, BTreeMap<Offset, u64>>,
    fresh: Vec<(PartitionId, Offset, u64)>,
    looked: BTreeMap<PartitionId, PartitionEpoch>,
}

impl InSyncHolds {
    /// A leader acknowledges this content at this offset.
    pub fn acked(&mut self, partition: PartitionId, base: Offset, id: u64) {
        self.acked.entry(partition).or_default().insert(base, id);
        self.fresh.push((partition, base, id));
    }

    /// Looks at the world, between two events: `changed` says that the controllers' image did.
    pub fn look(
        &mut self,
        seen: &mut Violations,
        (cluster, changed): (&Cluster, bool),
        nodes: &[Node],
        lost: &BTreeSet<DiskId>,
    ) {
        for (partition, base, id) in std::mem::take(&mut self.fresh) {
            if let Some(known) = cluster.partitions().get(&partition) {
                check(seen, (partition, known), nodes, lost, [(&base, &id)].into_iter());
            }
        }
        for (&partition, known) in cluster.partitions().iter().filter(|_| changed) {
            let before = self.looked.insert(partition, known.partition_epoch);
            if before != Some(known.partition_epoch)
                && let Some(acked) = self.acked.get(&partition)
            {
                check(seen, (partition, known), nodes, lost, acked.iter());
            }
        }
    }
}

fn check<'a>(
    seen: &mut Violations,
    (partition, known): (PartitionId, &Assignment),
    nodes: &[Node],
    lost: &BTreeSet<DiskId>,
    acked: impl Iterator<Item = (&'a Offset, &'a u64)> + Clone,
) {
    let nothing = Log::default();
    for (member, disk) in known.insync.iter().filter(|(_, disk)| !lost.contains(disk)) {
        let Some(node) = nodes.iter().find(|node| node.id() == *member) else { continue };
        let log = node.disk.logs.get(&partition).unwrap_or(&nothing);
        let missing = acked.clone().find(|&(base, id)| {
            let at = log.entries.binary_search_by_key(base, |entry| entry.base);
            let holds =
                |at: usize| log.entries[at].id == *id && log.entries[at].end() <= log.synced;
            *base >= log.base.log_end && !at.is_ok_and(holds)
        });
        if let Some((base, id)) = missing.filter(|_| node.disk.id == *disk) {
            let what = format!("{partition}: member {member} lacks {id} at {base}: {known:?}");
            return note(seen, NAME, what);
        }
    }
}
