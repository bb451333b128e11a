//! When all faults are over, everything is well again after a while: every partition has a leader,
//! all its replicas are in sync and equal, everything that was sent is acknowledged and read.

use super::{Violations, note};
use crate::consumer::Consumer;
use crate::controller::Controller;
use crate::member::Member;
use crate::node::Node;
use crate::producer::Producer;
use std::collections::BTreeSet;
use weir_core::ids::{DiskId, PartitionId};
use weir_core::partition::assignment::Assignment;

/// The checker's name.
pub const NAME: &str = "converge";

/// Whether no partition waits for disks that are gone.
#[must_use]
pub fn is_whole(controller: &Controller, lost: &BTreeSet<DiskId>) -> bool {
    let mut all = controller.image.partitions().values();
    all.all(|known| known.leader.is_some() || !known.insync.values().all(|d| lost.contains(d)))
}

/// Looks at the world after its faults.
pub fn check(
    controller: &Controller,
    nodes: &mut [Node],
    (producers, consumers, members): (&[Producer], &[Consumer], &[Member]),
    lost: &BTreeSet<DiskId>,
) -> Violations {
    let mut seen = Violations::new();
    if controller.leader.is_none() {
        note(&mut seen, NAME, "no controller leads".into());
    }
    let whole = is_whole(controller, lost);
    for (&partition, known) in controller.image.partitions() {
        if known.leader.is_none() && known.insync.values().all(|disk| lost.contains(disk)) {
            continue;
        }
        check_partition(&mut seen, nodes, partition, known);
        let ends = nodes.iter().filter_map(|node| node.copies.get(&partition));
        let end = ends.map(|copy| copy.replica.ends()[1]).max();
        for consumer in consumers {
            let at = consumer.positions.get(&partition).copied();
            if at.is_some() && at != end {
                note(&mut seen, NAME, format!("{partition}: a consumer is at {at:?} of {end:?}"));
            }
        }
    }
    if whole && !producers.iter().all(Producer::is_done) {
        note(&mut seen, NAME, "a producer waits".into());
    }
    if whole {
        check_group(&mut seen, members);
    }
    seen
}

/// Every partition of the group has one owner, and all have about the same to do.
fn check_group(seen: &mut Violations, members: &[Member]) {
    let mut all = Vec::new();
    for member in members {
        match member.settled() {
            Some(slots) if slots.len() == 2 => all.extend(slots),
            other => note(seen, NAME, format!("member {}: {other:?}", member.addr)),
        }
    }
    all.sort_unstable();
    all.dedup();
    if all.len() != 6 {
        note(seen, NAME, format!("the group works on {all:?}"));
    }
}

fn check_partition(
    seen: &mut Violations,
    nodes: &mut [Node],
    partition: PartitionId,
    known: &Assignment,
) {
    let members: BTreeSet<_> = known.insync.keys().copied().collect();
    if known.leader.is_none() || known.target.is_some() || members != known.holders() {
        note(seen, NAME, format!("{partition}: {known:?}"));
        return;
    }
    let mut first = None;
    for node in nodes.iter_mut().filter(|node| members.contains(&node.id())) {
        let addr = node.addr;
        let Some(copy) = node.copies.get(&partition) else {
            note(seen, NAME, format!("{partition}: node {addr} has no copy"));
            continue;
        };
        let [_, committed, durable, end] = copy.replica.ends();
        let first = *first.get_or_insert(end);
        if committed != end || durable != end || end != first {
            let what = format!("{partition}: node {addr}: {committed} {durable} {end}, {first}");
            note(seen, NAME, what);
        }
    }
}
