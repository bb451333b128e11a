//! Who leads a partition. Only members of the in-sync set, with the disk that they joined with,
//! may: they alone are sure to hold all that was committed. Where none is there the partition has
//! no leader, and its in-sync set names the disks that would help.
//!
//! Every change of the leader raises the leader epoch, and so does the same node's coming back:
//! what its earlier life wrote but did not sync is gone from its disk, perhaps not from others'.

use super::Node;
use crate::ids::{DiskId, NodeId};
use crate::partition::assignment::{Assignment, Lead};
use std::collections::BTreeMap;

/// The nodes of a cluster.
pub type Nodes = BTreeMap<NodeId, Node>;

/// Whether a member of the in-sync set is there, with its disk.
fn is_there(nodes: &Nodes, member: NodeId, disk: DiskId) -> bool {
    nodes.get(&member).is_some_and(|node| !node.fenced && node.disk == disk)
}

fn is_drained(nodes: &Nodes, node: NodeId) -> bool {
    nodes.get(&node).is_some_and(|node| node.drained)
}

/// Who is to lead if it can: the first of the replicas that is not drained.
fn preferred(nodes: &Nodes, known: &Assignment) -> Option<NodeId> {
    let mut wanted = known.replicas.iter().filter(|&&node| !is_drained(nodes, node));
    wanted.next().or(known.replicas.first()).copied()
}

/// The first of the replicas, or else of the other members of the in-sync set, that may lead; one
/// that is drained only if there is no other.
fn candidate(nodes: &Nodes, known: &Assignment, but: Option<NodeId>) -> Option<Lead> {
    let order = known.replicas.iter().chain(known.target.iter().flatten());
    let order = order.chain(known.insync.keys()).copied();
    let able = order.filter(|&node| {
        Some(node) != but && known.insync.get(&node).is_some_and(|&d| is_there(nodes, node, d))
    });
    // The first of those that are least drained.
    let best = able.min_by_key(|&node| is_drained(nodes, node));
    best.map(|node| Lead { node, incarnation: nodes[&node].incarnation })
}

fn elect(nodes: &Nodes, mut next: Assignment, but: Option<NodeId>) -> Assignment {
    next.leader = candidate(nodes, &next, but).or_else(|| candidate(nodes, &next, None));
    next.leader_epoch.0 += 1;
    next.partition_epoch.0 += 1;
    next
}

/// The assignment with another leader than `node`, if there can be one, else with `node` again; in
/// any case in a higher epoch.
#[must_use]
pub fn replace(nodes: &Nodes, known: &Assignment, node: NodeId) -> Assignment {
    elect(nodes, known.clone(), Some(node))
}

/// The assignment with its preferred leader, if that may lead and does not; or else with any that
/// is not drained, where a drained one leads.
#[must_use]
pub fn prefer(nodes: &Nodes, known: &Assignment) -> Option<Assignment> {
    let best = candidate(nodes, known, None)?.node;
    let leader = known.leader.map(|leader| leader.node);
    let drained = leader.is_some_and(|leader| is_drained(nodes, leader));
    let wanted = Some(best) == preferred(nodes, known) || (drained && !is_drained(nodes, best));
    (wanted && leader != Some(best)).then(|| elect(nodes, known.clone(), None))
}

/// The assignment after `node` changed to what `nodes` says, if it concerns the partition.
///
/// A member that is fenced, or came back with another disk, leaves the in-sync set if another is
/// left; the last one stays, so that the partition remembers which disk it needs. If the leader is
/// not fit to go on, or `new_life` says that it is another now, there is an election.
#[must_use]
pub fn after_node_change(
    nodes: &Nodes,
    known: &Assignment,
    node: NodeId,
    new_life: bool,
) -> Option<Assignment> {
    let mut next = known.clone();
    if let Some(&disk) = next.insync.get(&node)
        && !is_there(nodes, node, disk)
        && next.insync.len() > 1
    {
        next.insync.remove(&node);
    }
    let leads = next.leader.is_some_and(|leader| leader.node == node);
    let fit = next.insync.get(&node).is_some_and(|&disk| is_there(nodes, node, disk));
    let elects = (leads && (new_life || !fit)) || (next.leader.is_none() && fit);
    if elects {
        return Some(elect(nodes, next, None));
    }
    next.partition_epoch.0 += 1;
    (next.insync != known.insync).then_some(next)
}

/// The disks that a partition without a leader needs, any one of them, and the nodes that had them.
#[must_use]
pub fn needed_disks(known: &Assignment) -> Option<&BTreeMap<NodeId, DiskId>> {
    known.leader.is_none().then_some(&known.insync)
}
