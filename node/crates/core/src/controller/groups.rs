//! Where the positions of consumer groups are kept: a partition of no topic, which is there from
//! the first data node on and gets a copy on each that joins, up to [`limits::GROUPS_REPLICAS`].
//!
//! It follows from the nodes alone, so every command about nodes and copies is followed by this.

use crate::cluster::{Cluster, ClusterAsk, ClusterChange};
use crate::ids::NodeId;
use crate::limits;
use crate::metadata::GROUPS_PARTITION;

/// In sync before positions are stored, once there are all copies: the loss of one node then loses
/// none. With two copies it is one, since the other node may be away.
const MIN_INSYNC: u32 = 2;

/// The next change that the groups partition needs, if any. Applied, it leaves less to do.
pub(super) fn tend(cluster: &Cluster) -> Option<ClusterChange> {
    let there = cluster.nodes().iter().filter(|(_, node)| !node.fenced && !node.drained);
    let there = there.map(|(&id, _)| id);
    let Some(known) = cluster.partitions().get(&GROUPS_PARTITION) else {
        there.count().checked_sub(1)?;
        let partitions = vec![GROUPS_PARTITION];
        return cluster.decide(&ClusterAsk::Place { partitions, replicas: 1, min_insync: 1 }).ok();
    };
    if known.target.is_some() {
        return None;
    }
    let missing = limits::GROUPS_REPLICAS.saturating_sub(known.replicas.len());
    let more: Vec<NodeId> = there.filter(|id| !known.replicas.contains(id)).take(missing).collect();
    if !more.is_empty() {
        let target = known.replicas.iter().copied().chain(more).collect();
        let reassign = ClusterAsk::Reassign { partition: GROUPS_PARTITION, target };
        return cluster.decide(&reassign).ok();
    }
    let full = known.replicas.len() >= limits::GROUPS_REPLICAS;
    (full && known.min_insync < MIN_INSYNC)
        .then(|| cluster.with_min_insync(&[GROUPS_PARTITION], MIN_INSYNC))
}
