//! Lanes at work: each reads an input partition on the node that leads its home, runs the module,
//! and commits outputs, state and position in one entry. Stands for `lane.rs`, `lane/commit.rs` and
//! `source.rs` of `node/crates/broker/src/deploy/`, less versions, orders by name and judgements.
//!
//! What a lane holds besides its durable state is dropped whenever something fails; it then begins
//! again from what its home says.

use crate::ctx::Ctx;
use crate::disk::Entry;
use crate::event::{Event, Fetched, Message};
use crate::mutation::Mutation;
use crate::node::Node;
use crate::own::{Draft, Maker, Own, Refused};
use crate::queue::{MS, Micros};
use crate::serve::ENTRIES_MAX;
use crate::transform::{Content, Deployed, Ran, run};
use weir_core::deploy::keys::{Meaning, Position, read, read_position};
use weir_core::ids::{LeaderEpoch, Offset, PartitionId, TimestampMs};

/// How often a position is stored that nothing came of.
const POSITION_INTERVAL: Micros = 150 * MS;
/// The pause before a full disk is tried again.
const RETRY: Micros = 50 * MS;

/// A lane at work.
pub(crate) struct Job {
    /// The epoch in which it began, and the only one in which it appends.
    epoch: LeaderEpoch,
    /// The next offset to read.
    next: Offset,
    /// The position that is stored, and when it was.
    told: (Option<Offset>, Micros),
    stage: Stage,
    /// What the input's leader sent last, and where that begins.
    away: Option<(Offset, Fetched)>,
}

enum Stage {
    /// It may read.
    Idle,
    /// The module runs.
    Running { serial: u64, from: Offset, ran: Ran },
    /// An entry waits to be committed.
    Committing { serial: u64 },
}

impl Node {
    /// Looks after all lanes.
    pub(crate) fn tick_lanes(&mut self, ctx: &mut Ctx) {
        for index in 0..ctx.lanes.len() {
            self.tick_lane(ctx, index);
        }
    }

    fn tick_lane(&mut self, ctx: &mut Ctx, index: usize) {
        let deployed = ctx.lanes[index];
        if !self.works_at(deployed.home) {
            // Another node goes on, from what the home says there.
            self.works.jobs.remove(&index);
            return self.let_go(ctx, deployed.lane, deployed.home);
        }
        // An operator pauses and resumes it, or the module is replaced by one that does the same.
        let idle = |job: &Job| !matches!(job.stage, Stage::Committing { .. });
        if !ctx.healed && ctx.chance(3) && self.works.jobs.get(&index).is_some_and(idle) {
            self.works.jobs.remove(&index);
        }
        if !self.works.jobs.contains_key(&index) && !self.begin_lane(ctx, index, &deployed) {
            return;
        }
        self.step_lane(ctx, index);
    }

    /// Finds the position. Whether it could.
    fn begin_lane(&mut self, ctx: &mut Ctx, index: usize, deployed: &Deployed) -> bool {
        let Deployed { lane, home, .. } = *deployed;
        let leader = self.copies.get_mut(&home).and_then(|copy| copy.replica.leader());
        let Some(epoch) = leader.map(|leader| leader.epoch()) else { return false };
        let key = lane.set_position(Position { next: Offset::ZERO, watermark: no_time() }).key;
        let stored = self.state_at(home, &key).and_then(|value| read_position(&value));
        let stored = stored.map(|position| position.next);
        // Where a new lane begins.
        let here = self.at_hand(lane.input).map(|(log_start, _)| log_start);
        let first = here.or_else(|| self.works.begins.remove(&lane.input));
        let Some(next) = stored.or(first) else {
            self.ask_input(ctx, lane.input, Offset::ZERO);
            return false;
        };
        let addr = self.addr;
        ctx.say(|| format!("node {addr}: lane {index} begins at {next} in epoch {epoch}"));
        ctx.checks.coverage.lanes_begun += 1;
        let job = Job { epoch, next, told: (stored, ctx.now), stage: Stage::Idle, away: None };
        self.works.jobs.insert(index, job);
        true
    }

    /// Runs what there is to read, or stores the position.
    fn step_lane(&mut self, ctx: &mut Ctx, index: usize) {
        let deployed = ctx.lanes[index];
        let input = deployed.lane.input;
        let Some(job) = self.works.jobs.get(&index) else { return };
        if !matches!(job.stage, Stage::Idle) {
            return;
        }
        let next = job.next;
        let Some((start, entries)) = self.read_input(ctx, index, input, next) else { return };
        let Some(job) = self.works.jobs.get_mut(&index) else { return };
        if job.next < start {
            // Retention was there before.
            ctx.checks.coverage.skipped += 1;
            job.next = start;
        }
        let due = ctx.now >= job.told.1 + POSITION_INTERVAL || job.told.0.is_none();
        if entries.is_empty() && (job.told.0 == Some(job.next) || !due) {
            return;
        }
        let from = job.next;
        job.next = entries.last().map_or(from, Entry::end);
        let home = deployed.home;
        let ran = run(&deployed, &entries, |key| {
            self.state_at(home, &deployed.lane.set_own(key, None).key)
        });
        let serial = ctx.fresh();
        if let Some(job) = self.works.jobs.get_mut(&index) {
            job.stage = Stage::Running { serial, from, ran };
        }
        let slow = ctx.chance(10);
        let delay = if slow { ctx.between(MS, 400 * MS) } else { ctx.between(100, 2 * MS) };
        let (node, run) = (self.addr, self.run);
        ctx.after(delay, Event::Ran { node, run, lane: index, serial });
    }

    /// Where the input begins, and entries from `next` on or from there: from the copy here if that
    /// is in sync, or else what its leader sent.
    fn read_input(
        &mut self,
        ctx: &mut Ctx,
        index: usize,
        input: PartitionId,
        next: Offset,
    ) -> Option<(Offset, Vec<Entry>)> {
        if let Some((start, committed)) = self.at_hand(input) {
            let log = self.disk.log(input);
            return Some((start, log.read(next.max(start), committed, ENTRIES_MAX)));
        }
        let job = self.works.jobs.get_mut(&index)?;
        if let Some((_, fetched)) = job.away.take().filter(|(at, _)| *at == next) {
            ctx.checks.coverage.read_away += 1;
            return Some((fetched.log_start, fetched.entries));
        }
        self.ask_input(ctx, input, next);
        None
    }

    fn ask_input(&self, ctx: &mut Ctx, input: PartitionId, at: Offset) {
        let leader = self.image.partitions().get(&input).and_then(|known| known.leader);
        if let Some(leader) = leader {
            ctx.send(self.addr, leader.node.0, Message::Fetch { partition: input, at });
        }
    }

    /// The input's leader sent something.
    pub(crate) fn handle_input(
        &mut self,
        ctx: &mut Ctx,
        (partition, at): (PartitionId, Offset),
        fetched: &Fetched,
    ) {
        self.works.begins.insert(partition, fetched.log_start);
        for index in 0..ctx.lanes.len() {
            if ctx.lanes[index].lane.input != partition {
                continue;
            }
            if let Some(job) = self.works.jobs.get_mut(&index)
                && job.next == at
            {
                job.away = Some((at, fetched.clone()));
                self.step_lane(ctx, index);
            }
        }
    }

    /// The module is done: commits what it made, in one entry.
    pub(crate) fn handle_ran(&mut self, ctx: &mut Ctx, index: usize, done: u64) {
        let Deployed { lane, home, to } = ctx.lanes[index];
        let Some(job) = self.works.jobs.get(&index) else { return };
        let Stage::Running { serial, from, ran } = &job.stage else { return };
        if *serial != done {
            return;
        }
        let (serial, from) = (*serial, *from);
        let mut next = job.next;
        if ctx.mutation == Mutation::LaneBack && ctx.chance(50) {
            next = Offset((next.0 - 20).max(0));
        }
        let position = Position { next, watermark: no_time() };
        let own = ran.state.iter().map(|(key, value)| lane.set_own(key, Some(value.clone())));
        let changes = own.chain([lane.set_position(position)]).collect();
        let parts = ran.parts.clone();
        let count = match to {
            Some(_) => parts.len(),
            None => parts.iter().map(|part| part.values.len()).sum(),
        };
        let own = Own { maker: Maker::Lane(index), serial, changes };
        let content = Content::Run { from, parts };
        let draft = Draft { count: count.max(1) as u32, content, own };
        let epoch = job.epoch;
        match self.append_own(ctx, (home, epoch), draft) {
            Ok(()) => {
                let job = self.works.jobs.get_mut(&index);
                if let Some(job) = job.filter(|job| job.epoch == epoch)
                    && matches!(job.stage, Stage::Running { serial, .. } if serial == done)
                {
                    job.stage = Stage::Committing { serial };
                }
            }
            Err(Refused::Full) => {
                let (node, run) = (self.addr, self.run);
                ctx.after(RETRY, Event::Ran { node, run, lane: index, serial });
            }
            Err(Refused::Other) => drop(self.works.jobs.remove(&index)),
        }
    }

    /// An entry of a lane is committed, or nobody knows.
    pub(crate) fn handle_run_committed(
        &mut self,
        ctx: &mut Ctx,
        index: usize,
        done: u64,
        committed: bool,
    ) {
        let Some(job) = self.works.jobs.get_mut(&index) else { return };
        match job.stage {
            Stage::Committing { serial } if serial == done && committed => {
                ctx.checks.coverage.runs += 1;
                job.told = (Some(job.next), ctx.now);
                job.stage = Stage::Idle;
                self.step_lane(ctx, index);
            }
            Stage::Committing { serial } if serial == done => drop(self.works.jobs.remove(&index)),
            _ => {}
        }
    }
}

/// The position that changes of keyed state store for a lane, if they do.
#[must_use]
pub fn stored_position(
    lane: weir_core::deploy::keys::Lane,
    changes: &[weir_core::entry::StateChange],
) -> Option<Offset> {
    let mut positions = changes
        .iter()
        .filter(|change| matches!(read(&change.key), Some((of, Meaning::Position)) if of == lane));
    let value = positions.next_back()?.value.as_ref()?;
    read_position(value).map(|position| position.next)
}

/// No event times here.
fn no_time() -> TimestampMs {
    TimestampMs(0)
}
