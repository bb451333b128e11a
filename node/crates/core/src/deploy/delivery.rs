//! A part of an outbox where it arrives: it is there, or it is to be appended, or nobody can tell
//! just now. Pure.
//!
//! The destination's log holds a *mark* for each outbox: the offset of the part behind the last one
//! that was appended there. A node knows marks from its log when it comes to lead, and from what it
//! commits from then on. So a mark means something only within one leadership, and only once that
//! leadership has all that it began with: before, what the mark speaks of may yet be cut off.

use crate::ids::{LeaderEpoch, Offset};

/// The leader epoch in which a node leads a destination, if it does and all that it began with is
/// committed.
pub type Leads = Option<LeaderEpoch>;

/// What becomes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is there, committed. The mark.
    There {
        /// The offset, in the outbox, of the next part.
        next: Offset,
    },
    /// Append it together with this mark, in this epoch or not at all.
    Append {
        /// The only epoch in which the entry may be appended.
        fence: LeaderEpoch,
        /// The mark behind it.
        next: Offset,
    },
    /// This node does not lead, or did not all the while. To be brought again.
    NotNow,
}

/// Decides about the part at `offset` of an outbox. `mark` was read after `before` and before
/// `after`; so if both say the same it is the mark of that leadership, and no other part of the
/// outbox may be on its way into the partition.
#[must_use]
pub fn arrive(offset: Offset, mark: Offset, before: Leads, after: Leads) -> Arrival {
    match before.filter(|_| before == after) {
        None => Arrival::NotNow,
        Some(_) if offset < mark => Arrival::There { next: mark },
        Some(fence) => Arrival::Append { fence, next: offset.plus(1) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADS: Leads = Some(LeaderEpoch(4));

    /// Goal: below the mark a part is there, from it on it is appended behind a fence.
    #[test]
    fn a_mark_divides_parts() {
        let arrive = |offset| arrive(Offset(offset), Offset(7), LEADS, LEADS);
        assert_eq!(arrive(6), Arrival::There { next: Offset(7) });
        let fence = LeaderEpoch(4);
        assert_eq!(arrive(7), Arrival::Append { fence, next: Offset(8) });
        assert_eq!(arrive(9), Arrival::Append { fence, next: Offset(10) });
    }

    /// Goal: a mark that may be of two leaderships, or of none, says nothing.
    #[test]
    fn a_mark_counts_within_one_leadership() {
        for (before, after) in [(None, LEADS), (LEADS, None), (None, None)] {
            assert_eq!(arrive(Offset(3), Offset(7), before, after), Arrival::NotNow);
            assert_eq!(arrive(Offset(8), Offset(7), before, after), Arrival::NotNow);
        }
        let later = Some(LeaderEpoch(5));
        assert_eq!(arrive(Offset(3), Offset(7), LEADS, later), Arrival::NotNow);
    }
}
