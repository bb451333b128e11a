//! Follower side of one partition. Pure: no clock, no I/O.
//!
//! Invariant: `log_start <= committed <= durable_end <= log_end`.
//!
//! | state | event | next |
//! |---|---|---|
//! | asking | `poll_follow` | asking; the question goes out, again after a while |
//! | asking | `handle_answer`: agreed | following |
//! | asking | `handle_answer`: truncate, reset | cutting: the log is to be cut, nothing is taken |
//! | asking | an answer that would cut what is committed | halted |
//! | cutting | `handle_cut` | asking, about the shorter log |
//! | following | `decide_entry`, `handle_appended` | following; the log end moves |
//! | following | `handle_push` | following; the committed end moves; a report goes out |
//! | following | an entry that does not fit, silence | asking |
//!
//! Halted is final for this life of the replica: two logs disagree about what was committed. Going
//! on would destroy the evidence and perhaps the last good copy.
//!
//! The log is told and tells in order: `handle_durable` for what was handed to it before a cut
//! comes before `handle_cut`.

use crate::entry::{EntryHeader, EntryKind};
use crate::ids::{Incarnation, LeaderEpoch, NodeId, Offset};
use crate::limits;
use crate::partition::assignment::Lead;
use crate::partition::epochs;
use crate::partition::messages::{EpochStart, Follow, FollowAnswer, Push, Report, Verdict};
use crate::partition::view::PartitionView;
use std::time::Duration;

/// What a replica holds of a partition, whatever its role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what is known to be committed, and is on this disk.
    pub committed: Offset,
    /// The end of what is on this disk.
    pub durable_end: Offset,
    /// The end of the log, what is on its way to the disk included.
    pub log_end: Offset,
    /// Where each leader epoch began.
    pub epochs: Vec<EpochStart>,
}

impl Held {
    /// What a log holds that was just opened. `committed` is what was known before, if the driver
    /// kept it; [`Offset::ZERO`] is always right, only less able to tell a broken peer.
    #[must_use]
    pub fn open(view: &PartitionView, committed: Offset) -> Held {
        Held {
            log_start: view.log_start,
            committed: committed.max(view.log_start).min(view.log_end),
            durable_end: view.log_end,
            log_end: view.log_end,
            epochs: view.epochs.clone(),
        }
    }

    /// # Panics
    /// If the ends are out of order: a bug here.
    pub(super) fn check_invariant(&self) {
        assert!(
            self.log_start <= self.committed
                && self.committed <= self.durable_end
                && self.durable_end <= self.log_end,
            "replica out of order: {self:?}"
        );
    }
}

/// Why a replica takes part no longer, until a human has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The leader's log parts from this one below what is committed.
    #[error("the leader's log parts at {end}, but up to {committed} is committed here")]
    CommittedDiffers {
        /// Where it parts.
        end: Offset,
        /// What is committed.
        committed: Offset,
    },
    /// The reopened log is shorter than what was committed.
    #[error("the log ends at {end} after recovery, but up to {committed} was committed")]
    CommittedLost {
        /// Where it ends now.
        end: Offset,
        /// What was committed.
        committed: Offset,
    },
}

/// Where a follower stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It wants to know whether its log agrees with the leader's.
    Asking,
    /// It waits for its log to be cut.
    Cutting,
    /// It takes the leader's entries.
    Following,
    /// It takes part no longer.
    Halted(Halt),
}

/// What the driver must do after an answer of the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Cut the log to this end, durably, then call [`Follower::handle_cut`].
    Truncate {
        /// The new end.
        end: Offset,
    },
    /// Delete the log and begin an empty one at `start`, whose past has these epochs; then call
    /// [`Follower::handle_cut`].
    Reset {
        /// Where it begins and ends.
        start: Offset,
        /// The epochs below.
        epochs: Vec<EpochStart>,
    },
    /// Take no further part, and raise an alarm.
    Halt(Halt),
}

/// What to do with an entry that a leader pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Hand it to the log, as it is; if the log takes it, call [`Follower::handle_appended`].
    Append,
    /// It is here already, or not for this life or epoch: drop it.
    Drop,
    /// Something before it is missing, or it cannot be of this log: drop it. The follower asks.
    AskAgain,
}

/// The follower of one partition in one leader epoch.
#[derive(Clone, Debug)]
pub struct Follower {
    node: NodeId,
    incarnation: Incarnation,
    leader: Lead,
    epoch: LeaderEpoch,
    held: Held,
    standing: Standing,
    attempt: u64,
    asked_at: Option<Duration>,
    heard_at: Duration,
}

impl Follower {
    /// `me` follows `leader` in `epoch`. `attempt` is the newest question of this life so far.
    #[must_use]
    pub fn new(
        now: Duration,
        me: Lead,
        (leader, epoch): (Lead, LeaderEpoch),
        held: Held,
        attempt: u64,
    ) -> Follower {
        Follower {
            node: me.node,
            incarnation: me.incarnation,
            leader,
            epoch,
            held,
            standing: Standing::Asking,
            attempt,
            asked_at: None,
            heard_at: now,
        }
    }

    /// Whom it follows.
    #[must_use]
    pub fn leader(&self) -> Lead {
        self.leader
    }

    /// The leader epoch it follows in.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What it holds.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Its newest question.
    #[must_use]
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// What it holds, at its end.
    #[must_use]
    pub fn into_held(self) -> Held {
        self.held
    }

    /// The question to send to the leader, if one is due: at first, after `retry` without an
    /// answer, and after twice that without a word while following.
    pub fn poll_follow(&mut self, now: Duration, retry: Duration) -> Option<Follow> {
        match self.standing {
            Standing::Asking => {}
            Standing::Following if now >= self.heard_at + 2 * retry => self.ask(),
            _ => return None,
        }
        if self.asked_at.is_some_and(|at| now < at + retry) {
            return None;
        }
        self.asked_at = Some(now);
        self.attempt += 1;
        let held = &self.held;
        let newest = held.epochs.len().saturating_sub(limits::FOLLOW_EPOCHS_MAX);
        Some(Follow {
            epoch: self.epoch,
            node: self.node,
            incarnation: self.incarnation,
            attempt: self.attempt,
            log_start: held.log_start,
            durable_end: held.durable_end,
            log_end: held.log_end,
            epochs: held.epochs[newest..].to_vec(),
        })
    }

    /// The way from the leader is lost: the next question is due at once.
    pub fn handle_lost(&mut self) {
        match self.standing {
            Standing::Asking | Standing::Following => self.ask(),
            Standing::Cutting | Standing::Halted(_) => {}
        }
    }

    fn ask(&mut self) {
        self.standing = Standing::Asking;
        self.asked_at = None;
    }

    /// The leader answered. An answer to anything but the newest question changes nothing.
    pub fn handle_answer(&mut self, now: Duration, answer: &FollowAnswer) -> Step {
        let asked = (self.epoch, self.incarnation, self.attempt);
        let answered = (answer.epoch, answer.incarnation, answer.attempt);
        if self.standing != Standing::Asking || asked != answered {
            return Step::Nothing;
        }
        self.heard_at = now;
        let committed = self.held.committed;
        match &answer.verdict {
            Verdict::Agreed => {
                self.standing = Standing::Following;
                Step::Nothing
            }
            Verdict::Truncate { end } | Verdict::Reset { start: end, .. } if *end < committed => {
                self.halt(Halt::CommittedDiffers { end: *end, committed })
            }
            // A leader that knows none of the epochs sent asks for those before them; the cut is
            // never above the log.
            Verdict::Truncate { end } if *end >= self.held.log_end => Step::Nothing,
            Verdict::Truncate { end } => {
                self.standing = Standing::Cutting;
                Step::Truncate { end: *end }
            }
            Verdict::Reset { start, epochs } => {
                self.standing = Standing::Cutting;
                Step::Reset { start: *start, epochs: epochs.clone() }
            }
        }
    }

    fn halt(&mut self, why: Halt) -> Step {
        self.standing = Standing::Halted(why);
        Step::Halt(why)
    }

    /// The log was cut, or began anew, and now holds what `view` says; all of it is durable.
    pub fn handle_cut(&mut self, view: &PartitionView) {
        if self.standing == Standing::Cutting {
            self.held = Held::open(view, self.held.committed.min(view.log_end));
            self.ask();
        }
    }

    /// Decides about an entry that came with `push`. Nothing changes but that an entry which does
    /// not fit makes the follower ask again.
    pub fn decide_entry(&mut self, push: &Push, entry: &EntryHeader) -> Accept {
        if !self.is_current(push) {
            return Accept::Drop;
        }
        let newest = self.held.epochs.last().map_or(LeaderEpoch::default(), |row| row.0);
        let fits = entry.kind == EntryKind::Entry
            && entry.offset_count >= 1
            && entry.epoch >= newest
            && entry.epoch <= self.epoch;
        if entry.end_offset() <= self.held.log_end {
            Accept::Drop
        } else if fits && entry.base_offset == self.held.log_end {
            Accept::Append
        } else {
            self.ask();
            Accept::AskAgain
        }
    }

    fn is_current(&self, push: &Push) -> bool {
        self.standing == Standing::Following
            && (push.epoch, push.incarnation, push.attempt)
                == (self.epoch, self.incarnation, self.attempt)
    }

    /// The log took an entry that [`Follower::decide_entry`] allowed.
    pub fn handle_appended(&mut self, entry: &EntryHeader) {
        assert_eq!(entry.base_offset, self.held.log_end, "entries are dense");
        epochs::note(&mut self.held.epochs, entry.epoch, entry.base_offset);
        self.held.log_end = entry.end_offset();
    }

    /// The leader said how far it is, with an entry (after that was taken) or without. Returns the
    /// report to send back, from which the leader also learns that this follower lives, and the new
    /// log start if that moved.
    pub fn handle_push(&mut self, now: Duration, push: &Push) -> Option<(Report, Option<Offset>)> {
        if !self.is_current(push) {
            return None;
        }
        self.heard_at = now;
        let held = &mut self.held;
        held.committed = held.committed.max(push.high_watermark.min(held.durable_end));
        // What is not committed here is not given up here, whatever the leader retains.
        let start = push.log_start.min(held.committed);
        let moved = (start > held.log_start).then_some(start);
        if let Some(start) = moved {
            held.log_start = start;
            epochs::advance(&mut held.epochs, start);
        }
        held.check_invariant();
        Some((self.report(), moved))
    }

    /// The log is on this disk up to `end`. Returns the report to send, if the leader's log is
    /// known to agree so far.
    pub fn handle_durable(&mut self, end: Offset) -> Option<Report> {
        // What was handed to the log before a cut is no longer of it.
        if matches!(self.standing, Standing::Cutting | Standing::Halted(_)) {
            return None;
        }
        assert!(end <= self.held.log_end, "durable end {end} beyond {}", self.held.log_end);
        self.held.durable_end = self.held.durable_end.max(end);
        self.held.check_invariant();
        (self.standing == Standing::Following).then(|| self.report())
    }

    fn report(&self) -> Report {
        Report {
            epoch: self.epoch,
            node: self.node,
            incarnation: self.incarnation,
            durable_end: self.held.durable_end,
        }
    }
}

#[cfg(test)]
#[path = "follower_tests.rs"]
mod tests;
