//! The in-sync set as its leader sees it, and the commit rule. Pure: no clock, no I/O.
//!
//! # The commit rule
//!
//! The high watermark is the smallest durable end of the in-sync set. Two sets are told apart:
//!
//! - the *committed* set is what the controller last said. While it has fewer than `min_insync`
//!   members nothing is committed and appends are refused;
//! - the *counted* set also has everybody whom this leader has proposed since, whatever came back.
//!   A proposal whose answer was lost may have been accepted, and then its members may be elected.
//!
//! The watermark needs every counted member, so it passes one that is to leave only once the
//! controller has committed that, and waits for one that is to join before it has. Only a higher
//! partition epoch settles what was proposed: the controller takes a proposal only on top of the
//! epoch that it names, so from then on none of the earlier ones can count.
//!
//! | event | committed | counted |
//! |---|---|---|
//! | leadership begins | the assignment's | the same |
//! | a proposal goes out | unchanged | grows by those it adds |
//! | an assignment of a higher partition epoch | the assignment's | the same |
//! | a refusal, a timeout, silence | unchanged | unchanged |

use crate::ids::{Incarnation, LeaderEpoch, NodeId, Offset, PartitionEpoch};
use crate::partition::assignment::{Assignment, Lead, Proposal};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The in-sync set of a partition that is led here.
#[derive(Clone, Debug)]
pub struct InSync {
    me: Lead,
    partition_epoch: PartitionEpoch,
    min: usize,
    committed: BTreeSet<NodeId>,
    /// Proposed on top of `partition_epoch`, and not in `committed`.
    in_doubt: BTreeSet<NodeId>,
    followers: BTreeMap<NodeId, Progress>,
    proposed_at: Option<Duration>,
}

/// How far one follower is, as it told this leader.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The life that told.
    pub incarnation: Incarnation,
    /// Its newest question.
    pub attempt: u64,
    /// What of this leader's log is on its disk; `None` until it asked for the first time.
    pub durable_end: Option<Offset>,
    /// When it last had all that the log held.
    pub caught_up_at: Duration,
    /// When it last reported, and where the log ended then.
    reported: (Duration, Offset),
}

/// When followers leave the set and come back, and how often is asked.
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    /// A follower that was behind for this long is proposed to leave.
    pub max: Duration,
    /// A proposal without an answer is made anew after this long.
    pub retry: Duration,
}

impl InSync {
    /// The set of a partition that has one replica, here.
    #[must_use]
    pub fn alone() -> InSync {
        let me = Lead { node: NodeId(0), incarnation: Incarnation(0) };
        InSync {
            me,
            partition_epoch: PartitionEpoch(0),
            min: 1,
            committed: BTreeSet::from([me.node]),
            in_doubt: BTreeSet::new(),
            followers: BTreeMap::new(),
            proposed_at: None,
        }
    }

    /// The set that `assignment` gives to its leader, `me`.
    #[must_use]
    pub fn new(now: Duration, me: Lead, assignment: &Assignment) -> InSync {
        let mut insync = InSync { me, ..InSync::alone() };
        insync.adopt(now, assignment);
        insync
    }

    /// The committed set.
    #[must_use]
    pub fn committed(&self) -> &BTreeSet<NodeId> {
        &self.committed
    }

    /// Whether the committed set is large enough to take appends.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.committed.len() >= self.min
    }

    /// Whether nobody but this leader is counted: then no other node can be made leader.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.in_doubt.is_empty() && self.committed.iter().eq([&self.me.node])
    }

    /// How many members the set must have.
    #[must_use]
    pub fn min(&self) -> usize {
        self.min
    }

    /// The partition epoch of the committed set.
    #[must_use]
    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    /// What is known of each other replica.
    pub fn followers(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        self.followers.iter().map(|(&node, progress)| (node, progress))
    }

    /// What is known of one of them.
    #[must_use]
    pub fn follower(&self, node: NodeId) -> Option<&Progress> {
        self.followers.get(&node)
    }

    /// The commit rule: up to where everything is on the disk of every counted member, or `None`
    /// where nothing more may be committed now. `own` is this leader's durable end.
    #[must_use]
    pub fn commit_end(&self, own: Offset) -> Option<Offset> {
        if !self.is_enough() {
            return None;
        }
        let counted = self.committed.union(&self.in_doubt).filter(|&&node| node != self.me.node);
        let mut end = own;
        for node in counted {
            end = end.min(self.followers.get(node)?.durable_end?);
        }
        Some(end)
    }

    /// The controller says what the set is now. An assignment that is not newer changes nothing.
    pub fn handle_assignment(&mut self, now: Duration, assignment: &Assignment) {
        if assignment.partition_epoch > self.partition_epoch {
            self.adopt(now, assignment);
        }
    }

    fn adopt(&mut self, now: Duration, assignment: &Assignment) {
        self.partition_epoch = assignment.partition_epoch;
        self.min = assignment.min_insync.max(1) as usize;
        self.committed = assignment.insync.keys().copied().collect();
        self.in_doubt.clear();
        self.proposed_at = None;
        let holders = assignment.holders();
        self.followers.retain(|node, _| holders.contains(node));
        for node in holders.into_iter().filter(|&node| node != self.me.node) {
            self.followers.entry(node).or_insert(Progress {
                incarnation: Incarnation(0),
                attempt: 0,
                durable_end: None,
                caught_up_at: now,
                reported: (now, Offset::ZERO),
            });
        }
    }

    /// A follower asked in this life, and `durable_end` of what it shares with the leader is on
    /// its disk. What it said in an earlier life no longer counts: the disk may be another.
    /// Returns whether the question is newer than what is known.
    pub fn handle_follow(
        &mut self,
        node: NodeId,
        (incarnation, attempt): (Incarnation, u64),
        durable_end: Offset,
    ) -> bool {
        let Some(progress) = self.followers.get_mut(&node) else { return false };
        if (incarnation, attempt) <= (progress.incarnation, progress.attempt) {
            return false;
        }
        (progress.incarnation, progress.attempt) = (incarnation, attempt);
        progress.durable_end = Some(durable_end);
        true
    }

    /// A follower has the leader's log up to `durable_end` on its disk; `log_end` is where the
    /// leader's ends. Returns whether it counts: a word of an earlier life does not.
    pub fn handle_report(
        &mut self,
        now: Duration,
        node: NodeId,
        incarnation: Incarnation,
        (durable_end, log_end): (Offset, Offset),
    ) -> bool {
        let Some(progress) = self.followers.get_mut(&node) else { return false };
        let Some(known) = progress.durable_end else { return false };
        if incarnation != progress.incarnation || durable_end > log_end {
            return false;
        }
        let end = known.max(durable_end);
        progress.durable_end = Some(end);
        // Under load a follower never has everything; it keeps up if it has what there was when it
        // last reported.
        if end >= log_end {
            progress.caught_up_at = now;
        } else if end >= progress.reported.1 {
            progress.caught_up_at = progress.caught_up_at.max(progress.reported.0);
        }
        progress.reported = (now, log_end);
        true
    }

    /// Decides whether the set should change, and if so remembers whom the proposal adds: from now
    /// on they count. `settled` is an offset at or above everything that was ever committed: a
    /// leader's epoch start, or its high watermark once that is higher.
    pub fn poll_proposal(
        &mut self,
        now: Duration,
        lag: Lag,
        epoch: LeaderEpoch,
        (settled, log_end): (Offset, Offset),
    ) -> Option<Proposal> {
        if self.proposed_at.is_some_and(|at| now < at + lag.retry) {
            return None;
        }
        let mut wanted = BTreeMap::from([(self.me.node, self.me.incarnation)]);
        for (&node, progress) in &self.followers {
            let behind = now.saturating_sub(progress.caught_up_at) > lag.max;
            let all = progress.durable_end.is_some_and(|end| end >= log_end);
            let joins = progress.durable_end.is_some_and(|end| end >= settled);
            let stays = self.committed.contains(&node) && (all || !behind);
            if stays || (joins && !behind) {
                wanted.insert(node, progress.incarnation);
            }
        }
        if self.in_doubt.is_empty() && wanted.keys().eq(self.committed.iter()) {
            return None;
        }
        let added = wanted.keys().filter(|node| !self.committed.contains(node));
        self.in_doubt.extend(added);
        self.proposed_at = Some(now);
        Some(Proposal {
            leader: self.me,
            leader_epoch: epoch,
            partition_epoch: self.partition_epoch,
            insync: wanted,
        })
    }
}

#[cfg(test)]
#[path = "insync_tests.rs"]
mod tests;
