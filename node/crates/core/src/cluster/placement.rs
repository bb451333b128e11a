//! Where the replicas of new partitions go: evenly over nodes, each partition over as many racks as
//! there are, and leaders evenly as well.

use super::{Cluster, ClusterChange, ClusterError};
use crate::ids::{LeaderEpoch, NodeId, PartitionEpoch, PartitionId};
use crate::limits;
use crate::partition::assignment::{Assignment, Lead};
use std::collections::{BTreeMap, BTreeSet};

/// How much each node has: replicas, and leaderships by preference.
type Load = BTreeMap<NodeId, (usize, usize)>;

impl Cluster {
    pub(super) fn place(
        &self,
        partitions: &[PartitionId],
        replicas: u32,
        min_insync: u32,
    ) -> Result<ClusterChange, ClusterError> {
        if let Some(&placed) = partitions.iter().find(|id| self.partitions.contains_key(id)) {
            return Err(ClusterError::Placed(placed));
        }
        let mut load = self.load();
        let (wanted, nodes) = (replicas as usize, load.len());
        if wanted == 0 || wanted > nodes || wanted > limits::REPLICAS_MAX {
            return Err(ClusterError::Replicas { wanted, nodes });
        }
        let mut change = ClusterChange::default();
        for &id in partitions {
            let replicas = self.choose(&load, wanted);
            for (at, node) in replicas.iter().enumerate() {
                let (held, led) = load.entry(*node).or_default();
                *held += 1;
                *led += usize::from(at == 0);
            }
            change.partitions.insert(id, Some(self.fresh(replicas, min_insync)));
        }
        Ok(change)
    }

    /// Places for new partitions beside others, each on the nodes of the one it goes with: what is
    /// made of a partition is then where the partition is. Where those are all fenced, wherever
    /// there is room.
    ///
    /// # Errors
    /// As of [`ClusterAsk::Place`](super::ClusterAsk::Place).
    pub fn place_beside(
        &self,
        pairs: &[(PartitionId, PartitionId)],
        replicas: u32,
        min_insync: u32,
    ) -> Result<ClusterChange, ClusterError> {
        let mut change = ClusterChange::default();
        let mut elsewhere = Vec::new();
        for &(id, beside) in pairs {
            if self.partitions.contains_key(&id) {
                return Err(ClusterError::Placed(id));
            }
            let nodes = self.partitions.get(&beside).map(|known| known.replicas.clone());
            let there = |id: &NodeId| self.nodes.get(id).is_some_and(|node| !node.fenced);
            let known = |nodes: &Vec<NodeId>| nodes.iter().all(|id| self.nodes.contains_key(id));
            match nodes.filter(|nodes| known(nodes) && nodes.iter().any(there)) {
                Some(nodes) => {
                    let mut fresh = self.fresh(nodes, min_insync);
                    // One that is away holds nothing yet, and will have to catch up.
                    fresh.insync.retain(|id, _| there(id));
                    let leads = fresh.replicas.iter().copied().find(there);
                    fresh.leader = leads.map(|node| {
                        let incarnation = self.nodes[&node].incarnation;
                        Lead { node, incarnation }
                    });
                    change.partitions.insert(id, Some(fresh));
                }
                None => elsewhere.push(id),
            }
        }
        if elsewhere.is_empty() {
            return Ok(change);
        }
        Ok(change.and(self.place(&elsewhere, replicas, min_insync)?))
    }

    /// What nodes that could take a replica have already.
    fn load(&self) -> Load {
        let able = self.nodes.iter().filter(|(_, node)| !node.fenced && !node.drained);
        let mut load: Load = able.map(|(&id, _)| (id, (0, 0))).collect();
        for assignment in self.partitions.values() {
            for (at, node) in assignment.replicas.iter().enumerate() {
                if let Some((held, led)) = load.get_mut(node) {
                    *held += 1;
                    *led += usize::from(at == 0);
                }
            }
        }
        load
    }

    /// The least loaded nodes, on unused racks first; the one that leads least is preferred.
    fn choose(&self, load: &Load, wanted: usize) -> Vec<NodeId> {
        let mut chosen: Vec<NodeId> = Vec::new();
        let mut racks = BTreeSet::new();
        for _ in 0..wanted {
            let free = load.iter().filter(|(id, _)| !chosen.contains(id));
            let best = free.min_by_key(|&(id, &(held, led))| {
                let rack = self.nodes[id].rack.as_deref();
                let used = rack.is_some_and(|rack| racks.contains(rack));
                (used, held, led, *id)
            });
            let Some((&id, _)) = best else { break };
            racks.extend(self.nodes[&id].rack.as_deref());
            chosen.push(id);
        }
        if let Some(first) = (0..chosen.len()).min_by_key(|&at| (load[&chosen[at]].1, at)) {
            chosen.swap(0, first);
        }
        chosen
    }

    /// A partition that holds nothing yet: all its replicas are in sync.
    fn fresh(&self, replicas: Vec<NodeId>, min_insync: u32) -> Assignment {
        let insync = replicas.iter().map(|&id| (id, self.nodes[&id].disk)).collect();
        let leader = replicas.first().map(|&node| {
            let incarnation = self.nodes[&node].incarnation;
            Lead { node, incarnation }
        });
        Assignment {
            min_insync: min_insync.clamp(1, replicas.len() as u32),
            replicas,
            target: None,
            leader,
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            insync,
            missing: 0,
        }
    }
}
