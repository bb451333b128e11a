//! One node's copy of one partition, whatever its role. Pure: no clock, no I/O.
//!
//! | role | event | next |
//! |---|---|---|
//! | any * | an assignment that names this life of this node | waiting for the log |
//! | any * | an assignment that names another leader, in a new epoch | follower |
//! | any * | an assignment without a leader, or without this node | idle |
//! | waiting for the log | all that was handed to the log is durable, `handle_view` | leader |
//! | leader | leaves that role | its parked replies are released as unknown |
//! | any | `handle_failure` | failed |
//! | failed | `handle_recovered` | as the newest assignment says; a leader resigns first |
//! | failed | `handle_recovered` with less than was committed | halted |
//!
//! (*) A replica that has failed or is cutting its log does that first; a halted one stays so.
//!
//! A node leads only in the life that the assignment names: one that was started again waits until
//! the controller has raised the epoch, however old the assignments are that reach it before. An
//! epoch in which it resigned, or which its log already holds, it does not lead again.

use crate::ids::{Incarnation, LeaderEpoch, Offset};
use crate::partition::assignment::{Assignment, Lead};
use crate::partition::follower::{Follower, Halt, Held, Standing};
use crate::partition::leader::Leader;
use crate::partition::messages::Report;
use crate::partition::view::PartitionView;
use std::mem;
use std::time::Duration;

/// One node's copy of one partition.
#[derive(Debug)]
pub struct Replica<R> {
    me: Lead,
    role: Role<R>,
    known: Option<Assignment>,
    /// The newest epoch that this life gave up by itself.
    resigned: Option<LeaderEpoch>,
    attempt: u64,
}

/// What a replica is just now.
#[derive(Debug)]
pub enum Role<R> {
    /// Nobody leads, or the node is not to hold a copy.
    Idle(Held),
    /// It is to lead, once everything that was handed to the log is durable.
    Waiting(Held),
    /// It leads.
    Leader(Box<Leader<R>>),
    /// It follows.
    Follower(Follower),
    /// Its log is being reopened.
    Failed(Held),
    /// It takes part no longer.
    Halted(Held, Halt),
}

/// What the driver must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<R> {
    /// Give this reply: what it waited for is committed.
    Committed(R),
    /// Give this reply: nobody knows whether what it waited for will be committed.
    Unknown(R),
    /// All is durable: call [`Replica::handle_view`] with what the log says.
    ReadView,
    /// Ask the controller for another leader, or for this one in a higher epoch.
    Resign(LeaderEpoch),
    /// Send to the leader.
    Report(Report),
    /// Raise an alarm.
    Halt(Halt),
}

impl<R> Replica<R> {
    /// The copy that `me` holds, in a log that was just opened.
    #[must_use]
    pub fn new(me: Lead, held: Held) -> Replica<R> {
        Replica { me, role: Role::Idle(held), known: None, resigned: None, attempt: 0 }
    }

    /// Whose copy it is.
    #[must_use]
    pub fn me(&self) -> Lead {
        self.me
    }

    /// This node is in that life. Changes nothing once an assignment came: a copy lives as long as
    /// the process, and in a newer life of the node another one takes over.
    pub fn handle_registered(&mut self, life: Incarnation) {
        if self.known.is_none() {
            self.me.incarnation = life;
        }
    }

    /// What it is just now.
    #[must_use]
    pub fn role(&self) -> &Role<R> {
        &self.role
    }

    /// The newest assignment that it was told.
    #[must_use]
    pub fn assignment(&self) -> Option<&Assignment> {
        self.known.as_ref()
    }

    /// The leader, if it leads.
    pub fn leader(&mut self) -> Option<&mut Leader<R>> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// The follower, if it follows.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        match &mut self.role {
            Role::Follower(follower) => Some(follower),
            _ => None,
        }
    }

    /// The ends: log start, committed end, durable end, log end.
    #[must_use]
    pub fn ends(&self) -> [Offset; 4] {
        match &self.role {
            Role::Leader(leader) => [
                leader.log_start(),
                leader.high_watermark(),
                leader.durable_end(),
                leader.log_end(),
            ],
            Role::Follower(follower) => ends(follower.held()),
            Role::Idle(held) | Role::Waiting(held) | Role::Failed(held) | Role::Halted(held, _) => {
                ends(held)
            }
        }
    }

    /// The controller's word. One that is not newer than what is known changes nothing.
    pub fn handle_assigned(&mut self, now: Duration, assignment: &Assignment) -> Vec<Effect<R>> {
        let known = self.known.as_ref().map(|known| known.partition_epoch);
        if known.is_some_and(|known| assignment.partition_epoch <= known) {
            return Vec::new();
        }
        self.known = Some(assignment.clone());
        self.settle(now)
    }

    /// Takes the role that the newest assignment gives.
    fn settle(&mut self, now: Duration) -> Vec<Effect<R>> {
        let Some(known) = &self.known else { return Vec::new() };
        let epoch = known.leader_epoch;
        let busy = match &self.role {
            Role::Failed(_) | Role::Halted(..) => true,
            Role::Follower(follower) => {
                matches!(follower.standing(), Standing::Cutting | Standing::Halted(_))
            }
            _ => false,
        };
        if busy {
            return Vec::new();
        }
        match &mut self.role {
            Role::Leader(leader) if leader.epoch() == epoch => {
                return leader.handle_assignment(now, known).map(Effect::Committed).collect();
            }
            Role::Follower(follower) if follower.epoch() == epoch => return Vec::new(),
            _ => {}
        }
        let leads = known.is_led_by(self.me.node, self.me.incarnation);
        let resigned = self.resigned.is_some_and(|resigned| resigned >= epoch);
        let leader = known.leader.filter(|leader| leader.node != self.me.node);
        let holds = known.holders().contains(&self.me.node);
        let (held, mut effects) = self.vacate();
        self.role = match leader {
            _ if leads && !resigned => Role::Waiting(held),
            Some(leader) if holds => {
                let place = (leader, epoch);
                Role::Follower(Follower::new(now, self.me, place, held, self.attempt))
            }
            _ => Role::Idle(held),
        };
        effects.extend(self.poll_view());
        effects
    }

    /// Leaves the present role. What it held stays; replies that waited are released as unknown.
    fn vacate(&mut self) -> (Held, Vec<Effect<R>>) {
        match mem::replace(&mut self.role, Role::Idle(Held::default())) {
            Role::Leader(leader) => {
                let (held, replies) = leader.retire();
                (held, replies.into_iter().map(Effect::Unknown).collect())
            }
            Role::Follower(follower) => {
                self.attempt = self.attempt.max(follower.attempt());
                (follower.into_held(), Vec::new())
            }
            Role::Idle(held) | Role::Waiting(held) | Role::Failed(held) | Role::Halted(held, _) => {
                (held, Vec::new())
            }
        }
    }

    fn poll_view(&self) -> Option<Effect<R>> {
        match &self.role {
            Role::Waiting(held) if held.durable_end == held.log_end => Some(Effect::ReadView),
            _ => None,
        }
    }

    /// What the log says, asked for by [`Effect::ReadView`]: this node leads from here.
    pub fn handle_view(&mut self, now: Duration, view: &PartitionView) -> Vec<Effect<R>> {
        let (Role::Waiting(held), Some(known)) = (&self.role, &self.known) else {
            return Vec::new();
        };
        if held.durable_end != held.log_end || view.log_end != held.log_end {
            return Vec::new();
        }
        match Leader::replicated(now, self.me, known, view, held.committed) {
            Some(leader) => {
                self.role = Role::Leader(Box::new(leader));
                Vec::new()
            }
            None => self.resign(),
        }
    }

    fn resign(&mut self) -> Vec<Effect<R>> {
        let Some(known) = &self.known else { return Vec::new() };
        let epoch = known.leader_epoch;
        self.resigned = Some(epoch);
        let (held, mut effects) = self.vacate();
        self.role = Role::Idle(held);
        effects.push(Effect::Resign(epoch));
        effects
    }

    /// The resignation to send again, while the controller has not answered it with a new epoch.
    #[must_use]
    pub fn poll_resign(&self) -> Option<LeaderEpoch> {
        let known = self.known.as_ref()?;
        let mine = known.is_led_by(self.me.node, self.me.incarnation);
        (mine && self.resigned == Some(known.leader_epoch)).then_some(known.leader_epoch)
    }

    /// The log is on this disk up to `end`.
    pub fn handle_durable(&mut self, end: Offset) -> Vec<Effect<R>> {
        match &mut self.role {
            Role::Leader(leader) => leader.handle_durable(end).map(Effect::Committed).collect(),
            Role::Follower(follower) => {
                follower.handle_durable(end).map(Effect::Report).into_iter().collect()
            }
            Role::Idle(held) | Role::Waiting(held) => {
                assert!(end <= held.log_end, "durable end {end} beyond {}", held.log_end);
                held.durable_end = held.durable_end.max(end);
                held.check_invariant();
                self.poll_view().into_iter().collect()
            }
            Role::Failed(_) | Role::Halted(..) => Vec::new(),
        }
    }

    /// Retention or an operator moved the start of this node's log. A follower takes its start from
    /// the leader instead.
    pub fn handle_log_start(&mut self, start: Offset) {
        if let Role::Leader(leader) = &mut self.role {
            leader.handle_log_start(start.min(leader.high_watermark()));
        }
    }

    /// The log was cut as a follower asked, and holds what `view` says.
    pub fn handle_cut(&mut self, now: Duration, view: &PartitionView) -> Vec<Effect<R>> {
        if let Role::Follower(follower) = &mut self.role {
            follower.handle_cut(view);
        }
        self.settle(now)
    }

    /// A write or sync failed: nothing is taken until [`Replica::handle_recovered`].
    pub fn handle_failure(&mut self) -> Vec<Effect<R>> {
        if matches!(self.role, Role::Halted(..)) {
            return Vec::new();
        }
        let leads = matches!(self.role, Role::Leader(_) | Role::Waiting(_));
        let (held, effects) = self.vacate();
        if leads {
            self.resigned = self.known.as_ref().map(|known| known.leader_epoch);
        }
        self.role = Role::Failed(held);
        effects
    }

    /// The log was reopened and holds what `view` says, all of it durable.
    pub fn handle_recovered(&mut self, now: Duration, view: &PartitionView) -> Vec<Effect<R>> {
        let Role::Failed(held) = &self.role else { return Vec::new() };
        let (end, committed) = (view.log_end, held.committed);
        if end < committed {
            let why = Halt::CommittedLost { end, committed };
            self.role = Role::Halted(held.clone(), why);
            return vec![Effect::Halt(why)];
        }
        self.role = Role::Idle(Held::open(view, committed));
        let mut effects: Vec<_> = self.poll_resign().map(Effect::Resign).into_iter().collect();
        effects.extend(self.settle(now));
        effects
    }
}

fn ends(held: &Held) -> [Offset; 4] {
    [held.log_start, held.committed, held.durable_end, held.log_end]
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
