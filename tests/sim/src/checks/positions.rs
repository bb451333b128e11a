//! Committed positions never go back, in the order of the log; and whoever takes a partition over
//! begins at or behind every position that was acknowledged to those before.

use super::{Violations, note};
use std::collections::BTreeMap;
use weir_core::group::{Generation, GroupChange, Slot};
use weir_core::ids::Offset;

/// The checker's name.
pub const NAME: &str = "positions";

/// What is stored.
#[derive(Default)]
pub struct Positions {
    end: Offset,
    stored: BTreeMap<Slot, Offset>,
    acknowledged: BTreeMap<(Slot, Generation), Offset>,
}

impl Positions {
    /// A change of the group is committed at this offset of the groups partition.
    pub fn committed(&mut self, seen: &mut Violations, at: Offset, change: &GroupChange) {
        if at < self.end {
            return;
        }
        self.end = at.plus(1);
        for (&slot, &position) in &change.positions {
            let before = self.stored.insert(slot, position);
            if before.is_some_and(|before| before > position) {
                note(seen, NAME, format!("{slot:?} went back from {before:?} to {position}"));
            }
        }
    }

    /// A member was told that its position is stored.
    pub fn stored(&mut self, slot: Slot, since: Generation, position: Offset) {
        let known = self.acknowledged.entry((slot, since)).or_default();
        *known = (*known).max(position);
    }

    /// A member begins to work from a position.
    pub fn works(&self, seen: &mut Violations, slot: Slot, since: Generation, from: Offset) {
        let before = self.acknowledged.range((slot, Generation(0))..(slot, since));
        if let Some(most) = before.map(|(_, &position)| position).max()
            && from < most
        {
            note(seen, NAME, format!("{slot:?}: begins at {from}, {most} was acknowledged"));
        }
    }
}
