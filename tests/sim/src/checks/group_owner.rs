//! A partition of a group has one live owner. Under one generation it is the same member for ever;
//! and nobody begins to work on it while another still does, unless that one's membership ended: it
//! left, was silent for too long, or was replaced by a member of its name.

use super::{Violations, note};
use crate::event::Addr;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::group::{Generation, MemberId, Slot};

/// The checker's name.
pub const NAME: &str = "group_owner";

/// Who works on what.
#[derive(Default)]
pub struct GroupOwner {
    owners: BTreeMap<(Slot, Generation), MemberId>,
    working: BTreeMap<Slot, BTreeMap<Addr, MemberId>>,
    ended: BTreeSet<MemberId>,
}

impl GroupOwner {
    /// A member begins to work on a partition.
    pub fn works(
        &mut self,
        seen: &mut Violations,
        (addr, member): (Addr, MemberId),
        slot: Slot,
        since: Generation,
    ) {
        let first = *self.owners.entry((slot, since)).or_insert(member);
        if first != member {
            note(seen, NAME, format!("{slot:?}: {first:?} and {member:?} own it since {since:?}"));
        }
        let working = self.working.entry(slot).or_default();
        for (other, theirs) in working.iter() {
            if *other != addr && !self.ended.contains(theirs) {
                note(seen, NAME, format!("{slot:?}: {member:?} begins, {theirs:?} is not done"));
            }
        }
        working.insert(addr, member);
    }

    /// A member works on a partition no longer.
    pub fn stops(&mut self, addr: Addr, slot: Slot) {
        self.working.entry(slot).or_default().remove(&addr);
    }

    /// A membership ended, as the coordinator decided.
    pub fn ended(&mut self, member: MemberId) {
        self.ended.insert(member);
    }
}
