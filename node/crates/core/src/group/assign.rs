//! Which member shall work on which partition: evenly, and as before wherever that is even enough.

use super::{Member, MemberId, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// Gives every member its target. What a member has and still wants it keeps, unless it has at
/// least two more than another that wants it; so a join or leave moves only what must move.
pub(super) fn assign(members: &mut BTreeMap<MemberId, Member>) {
    let mut taken = BTreeSet::new();
    for member in members.values_mut() {
        let wants = &member.wants;
        member.target.retain(|slot| wants.contains(slot) && taken.insert(*slot));
    }
    let all: BTreeSet<Slot> = members.values().flat_map(|m| m.wants.iter().copied()).collect();
    for slot in all.difference(&taken) {
        if let Some((_, id)) = least(members, slot) {
            members.entry(id).and_modify(|member| member.target.extend([*slot]));
        }
    }
    // Each round makes the loads more even; there are never more rounds than partitions.
    for _ in 0..all.len() {
        let Some((from, to, slot)) = uneven(members) else { break };
        members.entry(from).and_modify(|member| member.target.retain(|kept| *kept != slot));
        members.entry(to).and_modify(|member| member.target.extend([slot]));
    }
}

/// The member with the least to do that wants `slot`, and how much that is.
fn least(members: &BTreeMap<MemberId, Member>, slot: &Slot) -> Option<(usize, MemberId)> {
    let wanting = members.iter().filter(|(_, member)| member.wants.contains(slot));
    wanting.map(|(&id, member)| (member.target.len(), id)).min()
}

/// A partition whose member has at least two more than another that wants it: of the busiest.
fn uneven(members: &BTreeMap<MemberId, Member>) -> Option<(MemberId, MemberId, Slot)> {
    let mut busiest: Vec<_> = members.iter().collect();
    busiest.sort_by_key(|(id, member)| (std::cmp::Reverse(member.target.len()), **id));
    for (&from, member) in busiest {
        for slot in member.target.iter().rev() {
            if let Some((load, to)) = least(members, slot)
                && member.target.len() >= load + 2
            {
                return Some((from, to, *slot));
            }
        }
    }
    None
}
