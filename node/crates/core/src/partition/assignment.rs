//! What the controller says of one partition: who holds it, who leads it, and whose disks hold all
//! that was committed.

use crate::ids::{DiskId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A leader: one life of one node. A node that was started again since is another leader, and must
/// be given a higher epoch first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

/// The controller's word on one partition. Of two, the one of the higher partition epoch counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who holds a copy, the preferred leader first. Never empty.
    pub replicas: Vec<NodeId>,
    /// Who shall hold the copies in the end, while they are being moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Vec<NodeId>>,
    /// Who leads; nobody if no member of the in-sync set is there.
    pub leader: Option<Lead>,
    /// Raised with every change of the leader, its coming back included.
    pub leader_epoch: LeaderEpoch,
    /// Raised with every change of this value.
    pub partition_epoch: PartitionEpoch,
    /// The in-sync set, with the disk that each member had when it joined. Never empty: where all
    /// members are gone it says which disks are needed.
    pub insync: BTreeMap<NodeId, DiskId>,
    /// Appends are refused, and nothing is committed, while the in-sync set is smaller.
    pub min_insync: u32,
    /// How many copies it has too few, since nodes were removed that held them. They are made anew
    /// where there are nodes for them.
    #[serde(default, skip_serializing_if = "is_none_missing")]
    pub missing: u32,
}

/// For a field that is left out where it says nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_none_missing(missing: &u32) -> bool {
    *missing == 0
}

impl Assignment {
    /// Everybody who holds a copy or is about to get one, each once.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<NodeId> {
        self.replicas.iter().chain(self.target.iter().flatten()).copied().collect()
    }

    /// Whether `node`, in this life, is the leader.
    #[must_use]
    pub fn is_led_by(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.leader == Some(Lead { node, incarnation })
    }
}

/// A leader's wish to change the in-sync set. The controller takes it only from the current leader
/// and only if nothing changed since (compare and swap on the partition epoch), so that of several
/// proposals sent in doubt at most one counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The leader.
    pub leader: Lead,
    /// The epoch it leads in.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that it knows.
    pub partition_epoch: PartitionEpoch,
    /// The whole set, the leader included. Whoever is new must still be in the life given here: a
    /// node that came back since may have come back with an empty disk.
    pub insync: BTreeMap<NodeId, Incarnation>,
}
