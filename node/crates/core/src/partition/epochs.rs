//! Where two logs of one partition part.
//!
//! An (epoch, offset) names one entry, so two logs that both have entries of an epoch are equal up
//! to the end that is lower of the two within that epoch, and before it. Beyond the newest epoch
//! that they share nothing need agree, whatever the lengths.

use crate::ids::{LeaderEpoch, Offset};
use crate::partition::messages::EpochStart;

/// Up to where the log of a follower, given by the newest rows of its history, its start and its
/// end, is certain to be a beginning of the leader's. Never more than `end`.
///
/// If no epoch is shared, everything that the rows cover is in doubt: the answer is where the first
/// of them begins.
#[must_use]
pub fn divergence(
    leader: &[EpochStart],
    leader_end: Offset,
    follower: &[EpochStart],
    (start, end): (Offset, Offset),
) -> Offset {
    for (at, &(epoch, _)) in follower.iter().enumerate().rev() {
        if let Ok(known) = leader.binary_search_by_key(&epoch, |row| row.0) {
            let theirs = follower.get(at + 1).map_or(end, |row| row.1);
            let ours = leader.get(known + 1).map_or(leader_end, |row| row.1);
            return theirs.min(ours).min(end);
        }
    }
    follower.first().map_or(end, |row| row.1.max(start)).min(end)
}

/// The epoch of the entry that holds `offset`, if the history reaches back that far.
#[must_use]
pub fn at(epochs: &[EpochStart], offset: Offset) -> Option<LeaderEpoch> {
    let after = epochs.partition_point(|&(_, start)| start <= offset);
    Some(epochs[..after].last()?.0)
}

/// Notes that an entry of `epoch` begins at `offset`.
pub fn note(epochs: &mut Vec<EpochStart>, epoch: LeaderEpoch, offset: Offset) {
    if epochs.last().is_none_or(|&(last, _)| last < epoch) {
        epochs.push((epoch, offset));
    }
}

/// Cuts a history so that it describes a log that ends at `end`.
pub fn cut(epochs: &mut Vec<EpochStart>, end: Offset) {
    epochs.retain(|&(_, start)| start < end);
}

/// The part of a history that a log from `start` on needs: the epoch that `start` lies in keeps
/// its row, although it began before.
pub fn advance(epochs: &mut Vec<EpochStart>, start: Offset) {
    let keep = epochs.partition_point(|&(_, begin)| begin <= start);
    epochs.drain(..keep.saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(i32, i64)]) -> Vec<EpochStart> {
        rows.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect()
    }

    /// Goal: each way in which two histories can differ gives the end that both surely share.
    #[test]
    fn where_logs_part() {
        type Rows = &'static [(i32, i64)];
        let cases: &[(Rows, i64, Rows, i64, i64)] = &[
            // Equal; behind; ahead in the same epoch; both empty.
            (&[(1, 0)], 10, &[(1, 0)], 10, 10),
            (&[(1, 0)], 10, &[(1, 0)], 7, 7),
            (&[(1, 0), (2, 8)], 8, &[(1, 0)], 10, 8),
            (&[(1, 0)], 0, &[], 0, 0),
            // The follower has a tail of an epoch that the leader never saw.
            (&[(1, 0), (3, 5)], 9, &[(1, 0), (2, 5)], 8, 5),
            (&[(1, 0), (3, 6)], 9, &[(1, 0), (2, 5)], 8, 5),
            (&[(1, 0), (3, 4)], 9, &[(1, 0), (2, 5)], 8, 4),
            // The follower missed an epoch.
            (&[(1, 0), (2, 4), (3, 6)], 9, &[(1, 0), (3, 6)], 8, 8),
            // Nothing is shared: all that is known of is in doubt.
            (&[(4, 20)], 25, &[(2, 10), (3, 12)], 20, 10),
        ];
        for &(leader, leader_end, follower, end, expected) in cases {
            let found = divergence(
                &rows(leader),
                Offset(leader_end),
                &rows(follower),
                (Offset(0), Offset(end)),
            );
            assert_eq!(found, Offset(expected), "{leader:?} {follower:?}");
        }
    }

    /// Goal: a history follows its log through appends, cuts and retention.
    #[test]
    fn history() {
        let mut epochs = Vec::new();
        for (epoch, offset) in [(1, 0), (1, 3), (2, 5), (4, 9)] {
            note(&mut epochs, LeaderEpoch(epoch), Offset(offset));
        }
        assert_eq!(epochs, rows(&[(1, 0), (2, 5), (4, 9)]));
        let at = |offset| at(&epochs, Offset(offset)).map(|epoch| epoch.0);
        assert_eq!(
            [at(-1), at(0), at(4), at(5), at(99)],
            [None, Some(1), Some(1), Some(2), Some(4)]
        );
        cut(&mut epochs, Offset(9));
        assert_eq!(epochs, rows(&[(1, 0), (2, 5)]));
        advance(&mut epochs, Offset(7));
        assert_eq!(epochs, rows(&[(2, 5)]));
    }
}
