//! Moving a partition's copies. The new holders are added first and catch up like any follower that
//! is behind; once all of them are in the in-sync set, the controller drops the old ones in one
//! step. Until then nothing is taken away, so a move that cannot finish costs nothing but disk.

use super::election::{self, Nodes};
use super::{Cluster, ClusterChange, ClusterError, one};
use crate::ids::{NodeId, PartitionId};
use crate::limits;
use crate::partition::assignment::Assignment;
use std::collections::BTreeSet;

impl Cluster {
    pub(super) fn reassign(
        &self,
        id: PartitionId,
        target: &[NodeId],
    ) -> Result<ClusterChange, ClusterError> {
        let known = self.partition(id)?;
        if let Some(&unknown) = target.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(ClusterError::UnknownNode(unknown));
        }
        let distinct: BTreeSet<_> = target.iter().collect();
        let (wanted, nodes) = (target.len(), self.nodes.len());
        let before = known.target.as_ref().unwrap_or(&known.replicas).len();
        let missing = known.missing.saturating_sub(wanted.saturating_sub(before) as u32);
        let target = Some(target.to_vec());
        let mut next = Assignment { target, missing, ..known.clone() };
        let holders = next.holders().len();
        if distinct.len() != wanted || wanted == 0 || holders > limits::REPLICAS_MAX {
            return Err(ClusterError::Replicas { wanted, nodes });
        }
        // A move that is given up keeps those in sync that it brought there: they hold everything.
        let holders = next.holders();
        let kept: Vec<_> = known.insync.keys().filter(|node| !holders.contains(node)).collect();
        if kept.len() == known.insync.len() {
            return Err(ClusterError::Replicas { wanted, nodes });
        }
        next.insync.retain(|node, _| holders.contains(node));
        next.partition_epoch.0 += 1;
        let lost = next.leader.is_some_and(|leader| !next.insync.contains_key(&leader.node));
        if lost {
            let leader = next.leader.map_or(NodeId(0), |leader| leader.node);
            next = election::replace(&self.nodes, &next, leader);
        }
        Ok(one(id, finish(&self.nodes, next)))
    }
}

/// Ends the move of `next` if every new holder is in sync. If the leader is not among them there is
/// an election; otherwise it goes on in its epoch.
#[must_use]
pub fn finish(nodes: &Nodes, mut next: Assignment) -> Assignment {
    let Some(target) = &next.target else { return next };
    if !target.iter().all(|node| next.insync.contains_key(node)) {
        return next;
    }
    let target = target.clone();
    next.insync.retain(|node, _| target.contains(node));
    next.min_insync = next.min_insync.min(target.len() as u32);
    next.replicas = target;
    next.target = None;
    match next.leader {
        Some(leader) if !next.insync.contains_key(&leader.node) => {
            election::replace(nodes, &next, leader.node)
        }
        _ => next,
    }
}
