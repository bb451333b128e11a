//! The cluster's part of the metadata: nodes and their lives, and for each partition who holds it,
//! who leads it and who is in sync. Pure: no clock, no I/O.
//!
//! The image is replicated as a log of [`ClusterAsk`]s: every controller decides each committed ask
//! against its own image ([`Cluster::decide`]) and applies the result ([`Cluster::apply`]), so all
//! images are equal after equal beginnings of the log. An ask that is refused changes nothing. Time
//! is not part of it: which node is silent is known only to the leading controller
//! ([`sessions::Sessions`]), and comes in as an ask.
//!
//! | what must hold | where |
//! |---|---|
//! | a leader is chosen from the in-sync set, or there is none | [`election`] |
//! | a new leader leads in a higher epoch, the same node in a new life included | [`election`] |
//! | the in-sync set is never empty: its last member stays | [`election`], `alter_insync` |
//! | a member counts only with the disk it joined with | [`election`] |
//! | in-sync changes come from the current leader, on the current state | `alter_insync` |
//! | copies are moved only to replicas that are in sync | [`reassign`] |
//! | a number is a node's for ever; the last whole copy is not removed | [`members`] |
//! | a drained node is given nothing, and keeps only what nobody else can take | [`balance`] |

pub mod balance;
pub mod election;
pub mod members;
pub mod placement;
pub mod reassign;
pub mod sessions;

use crate::ids::{DiskId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch, PartitionId};
use crate::limits;
use crate::partition::assignment::{Assignment, Lead, Proposal};
use members::{Members, MembersAsk, MembersError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A node as the controller knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its present life.
    pub incarnation: Incarnation,
    /// What the node drew at its start, by which its registration is known if it comes twice.
    pub start: u64,
    /// Its data folder.
    pub disk: DiskId,
    /// Where it stands: replicas of a partition are spread over racks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Whether it is kept from leading and from in-sync sets, since it was silent.
    pub fenced: bool,
    /// Whether it is to hold and lead nothing, as far as others can: an operator wants it so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drained: bool,
}

/// For fields that are left out where they say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Nodes and partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    partitions: BTreeMap<PartitionId, Assignment>,
    last_incarnation: Incarnation,
    members: Members,
}

/// What nodes, leaders, controllers and operators ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterAsk {
    /// A node started. It may act on assignments that name the life it is given, no others.
    Register {
        /// The node.
        node: NodeId,
        /// A number that it drew at this start.
        start: u64,
        /// Its data folder.
        disk: DiskId,
        /// Where it stands.
        rack: Option<String>,
    },
    /// The node was silent for too long.
    Fence {
        /// The node.
        node: NodeId,
        /// The life that was silent.
        incarnation: Incarnation,
    },
    /// The node was heard of again.
    Unfence {
        /// The node.
        node: NodeId,
        /// The life that was heard of.
        incarnation: Incarnation,
    },
    /// An operator wants a node to hold and lead nothing, or lets it be used again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is to be drained.
        drained: bool,
    },
    /// Who is a member.
    Members(MembersAsk),
    /// Find places for the replicas of new partitions.
    Place {
        /// The partitions.
        partitions: Vec<PartitionId>,
        /// How many replicas each shall have.
        replicas: u32,
        /// How many must be in sync to take appends.
        min_insync: u32,
    },
    /// Forget partitions that were deleted.
    Remove {
        /// The partitions.
        partitions: Vec<PartitionId>,
    },
    /// A leader wants to change the in-sync set.
    AlterInSync {
        /// The partition.
        partition: PartitionId,
        /// The change.
        proposal: Proposal,
    },
    /// A leader cannot go on in its epoch: its disk failed.
    Resign {
        /// The partition.
        partition: PartitionId,
        /// The leader.
        leader: Lead,
        /// The epoch.
        leader_epoch: LeaderEpoch,
    },
    /// Move a partition's copies to these nodes.
    Reassign {
        /// The partition.
        partition: PartitionId,
        /// The nodes, the preferred leader first.
        target: Vec<NodeId>,
    },
    /// Give the lead back to the preferred replica, if that is in sync.
    Prefer {
        /// The partition.
        partition: PartitionId,
    },
}

/// A decided change: rows that are now so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterChange {
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Partitions; `None` if forgotten.
    pub partitions: BTreeMap<PartitionId, Option<Assignment>>,
    /// Nodes that are forgotten.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<NodeId>,
    /// Members, if those changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
}

impl ClusterChange {
    /// This change and a later one.
    #[must_use]
    pub fn and(mut self, later: ClusterChange) -> ClusterChange {
        self.nodes.extend(later.nodes);
        self.partitions.extend(later.partitions);
        self.removed.extend(later.removed);
        self.members = later.members.or(self.members);
        self
    }
}

/// Why an ask is refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterError {
    /// The node never registered.
    #[error("node {0} is not registered")]
    UnknownNode(NodeId),
    /// The node was started again since.
    #[error("node {node} is in life {current}, not {got}: register again")]
    OldLife {
        /// The node.
        node: NodeId,
        /// Its present life.
        current: Incarnation,
        /// The one that asked.
        got: Incarnation,
    },
    /// There is no such partition.
    #[error("partition {0} has no place")]
    UnknownPartition(PartitionId),
    /// The partition has a place.
    #[error("partition {0} has a place already")]
    Placed(PartitionId),
    /// Whoever asks does not lead the partition in that epoch.
    #[error("not the leader in epoch {current}")]
    NotLeader {
        /// The current epoch.
        current: LeaderEpoch,
    },
    /// The partition changed since the proposal was made.
    #[error("the partition changed: its epoch is {current}")]
    Changed {
        /// The current partition epoch.
        current: PartitionEpoch,
    },
    /// A node may not join the in-sync set.
    #[error("node {0} may not join the in-sync set: not a replica, fenced, or started again")]
    Ineligible(NodeId),
    /// More replicas than nodes, or an empty or repeating list.
    #[error("{wanted} replicas on {nodes} nodes: choose 1 to the number of nodes")]
    Replicas {
        /// How many were wanted.
        wanted: usize,
        /// How many nodes could take one.
        nodes: usize,
    },
    /// The cluster has as many nodes as it may.
    #[error("the cluster has {max} nodes already", max = limits::CLUSTER_NODES_MAX)]
    Full,
    /// It is so already.
    #[error("nothing to change")]
    Nothing,
    /// By the rules of who is a member.
    #[error(transparent)]
    Members(#[from] MembersError),
}

impl Cluster {
    /// All nodes that ever registered.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The places of all partitions.
    #[must_use]
    pub fn partitions(&self) -> &BTreeMap<PartitionId, Assignment> {
        &self.partitions
    }

    /// Who belongs to the cluster.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The newest incarnation that was given.
    #[must_use]
    pub fn last_incarnation(&self) -> Incarnation {
        self.last_incarnation
    }

    /// An image as it was when these were read from it.
    #[must_use]
    pub fn of(
        nodes: BTreeMap<NodeId, Node>,
        partitions: BTreeMap<PartitionId, Assignment>,
        last_incarnation: Incarnation,
        members: Members,
    ) -> Cluster {
        Cluster { nodes, partitions, last_incarnation, members }
    }

    /// Decides an ask. Nothing changes until the result is applied.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn decide(&self, ask: &ClusterAsk) -> Result<ClusterChange, ClusterError> {
        match ask {
            ClusterAsk::Register { node, start, disk, rack } => {
                self.register(*node, *start, *disk, rack.clone())
            }
            ClusterAsk::Fence { node, incarnation } => self.set_fenced(*node, *incarnation, true),
            ClusterAsk::Unfence { node, incarnation } => {
                self.set_fenced(*node, *incarnation, false)
            }
            ClusterAsk::Drain { node, drained } => self.drain(*node, *drained),
            ClusterAsk::Members(ask) => self.decide_members(ask),
            ClusterAsk::Place { partitions, replicas, min_insync } => {
                self.place(partitions, *replicas, *min_insync)
            }
            ClusterAsk::Remove { partitions } => {
                let known = partitions.iter().filter(|id| self.partitions.contains_key(id));
                let partitions = known.map(|&id| (id, None)).collect();
                Ok(ClusterChange { partitions, ..ClusterChange::default() })
            }
            ClusterAsk::AlterInSync { partition, proposal } => {
                self.alter_insync(*partition, proposal)
            }
            ClusterAsk::Resign { partition, leader, leader_epoch } => {
                let known = self.partition(*partition)?;
                check_leader(known, *leader, *leader_epoch)?;
                let next = election::replace(&self.nodes, known, leader.node);
                Ok(one(*partition, next))
            }
            ClusterAsk::Reassign { partition, target } => self.reassign(*partition, target),
            ClusterAsk::Prefer { partition } => {
                let known = self.partition(*partition)?;
                let next = election::prefer(&self.nodes, known).ok_or(ClusterError::Nothing)?;
                Ok(one(*partition, next))
            }
        }
    }

    /// The change that lets appends of these partitions be taken with so many replicas in sync;
    /// not more than each has. Partitions that have no place are passed over.
    #[must_use]
    pub fn with_min_insync(&self, partitions: &[PartitionId], min_insync: u32) -> ClusterChange {
        let changed = partitions.iter().filter_map(|&id| {
            let known = self.partitions.get(&id)?;
            let min_insync = min_insync.clamp(1, known.replicas.len() as u32);
            let mut next = Assignment { min_insync, ..known.clone() };
            next.partition_epoch.0 += 1;
            (min_insync != known.min_insync).then_some((id, Some(next)))
        });
        ClusterChange { partitions: changed.collect(), ..ClusterChange::default() }
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &ClusterChange) {
        for (&id, node) in &change.nodes {
            self.last_incarnation = self.last_incarnation.max(node.incarnation);
            self.nodes.insert(id, node.clone());
        }
        for id in &change.removed {
            self.nodes.remove(id);
        }
        if let Some(members) = &change.members {
            self.members = members.clone();
        }
        for (&id, assignment) in &change.partitions {
            match assignment {
                Some(assignment) => self.partitions.insert(id, assignment.clone()),
                None => self.partitions.remove(&id),
            };
        }
    }

    fn partition(&self, id: PartitionId) -> Result<&Assignment, ClusterError> {
        self.partitions.get(&id).ok_or(ClusterError::UnknownPartition(id))
    }

    fn life(&self, id: NodeId, incarnation: Incarnation) -> Result<&Node, ClusterError> {
        let node = self.nodes.get(&id).ok_or(ClusterError::UnknownNode(id))?;
        if node.incarnation != incarnation {
            let (current, got) = (node.incarnation, incarnation);
            return Err(ClusterError::OldLife { node: id, current, got });
        }
        Ok(node)
    }

    fn register(
        &self,
        id: NodeId,
        start: u64,
        disk: DiskId,
        rack: Option<String>,
    ) -> Result<ClusterChange, ClusterError> {
        if self.members.version > 0 && !self.members.rows.contains_key(&id) {
            return Err(MembersError::Unknown(id).into());
        }
        match self.nodes.get(&id) {
            Some(known) if known.start == start => return Ok(ClusterChange::default()),
            None if self.nodes.len() >= limits::CLUSTER_NODES_MAX => {
                return Err(ClusterError::Full);
            }
            _ => {}
        }
        let incarnation = Incarnation(self.last_incarnation.0 + 1);
        let drained = self.nodes.get(&id).is_some_and(|known| known.drained);
        let node = Node { incarnation, start, disk, rack, fenced: false, drained };
        Ok(self.after_node_change(id, node, true))
    }

    fn set_fenced(
        &self,
        id: NodeId,
        incarnation: Incarnation,
        fenced: bool,
    ) -> Result<ClusterChange, ClusterError> {
        let node = self.life(id, incarnation)?;
        if node.fenced == fenced {
            return Err(ClusterError::Nothing);
        }
        Ok(self.after_node_change(id, Node { fenced, ..node.clone() }, false))
    }

    /// Leads and copies are moved by asks of their own ([`balance`]). Asked twice it is the same.
    fn drain(&self, id: NodeId, drained: bool) -> Result<ClusterChange, ClusterError> {
        let known = self.nodes.get(&id).ok_or(ClusterError::UnknownNode(id))?;
        let nodes = [(id, Node { drained, ..known.clone() })].into();
        Ok(ClusterChange { nodes, ..ClusterChange::default() })
    }

    /// What becomes of all partitions now that a node is as given. In a new life it leads nothing
    /// that it led, unless it is elected again.
    fn after_node_change(&self, id: NodeId, node: Node, new_life: bool) -> ClusterChange {
        let mut nodes = self.nodes.clone();
        nodes.insert(id, node.clone());
        let partitions = self.partitions.iter().filter_map(|(&partition, known)| {
            let next = election::after_node_change(&nodes, known, id, new_life)?;
            Some((partition, Some(next)))
        });
        let (partitions, nodes) = (partitions.collect(), [(id, node)].into());
        ClusterChange { partitions, nodes, ..ClusterChange::default() }
    }

    fn alter_insync(
        &self,
        id: PartitionId,
        proposal: &Proposal,
    ) -> Result<ClusterChange, ClusterError> {
        let known = self.partition(id)?;
        check_leader(known, proposal.leader, proposal.leader_epoch)?;
        if proposal.partition_epoch != known.partition_epoch {
            return Err(ClusterError::Changed { current: known.partition_epoch });
        }
        let leader = proposal.leader.node;
        if !proposal.insync.contains_key(&leader) {
            return Err(ClusterError::Ineligible(leader));
        }
        let holders = known.holders();
        let mut insync = BTreeMap::new();
        for (&member, &incarnation) in &proposal.insync {
            let disk = match known.insync.get(&member) {
                Some(&disk) => disk,
                None => match self.nodes.get(&member) {
                    Some(node)
                        if holders.contains(&member)
                            && !node.fenced
                            && node.incarnation == incarnation =>
                    {
                        node.disk
                    }
                    _ => return Err(ClusterError::Ineligible(member)),
                },
            };
            insync.insert(member, disk);
        }
        let mut next = Assignment { insync, ..known.clone() };
        next.partition_epoch.0 += 1;
        let next = reassign::finish(&self.nodes, next);
        Ok(one(id, next))
    }
}

fn check_leader(known: &Assignment, leader: Lead, epoch: LeaderEpoch) -> Result<(), ClusterError> {
    if known.leader != Some(leader) || known.leader_epoch != epoch {
        return Err(ClusterError::NotLeader { current: known.leader_epoch });
    }
    Ok(())
}

fn one(id: PartitionId, assignment: Assignment) -> ClusterChange {
    ClusterChange { partitions: [(id, Some(assignment))].into(), ..ClusterChange::default() }
}

#[cfg(test)]
mod tests;
