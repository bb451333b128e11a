//! A node: what drives the replicas' state machines between disk and network. It is to the
//! simulator what the broker is to a real node, without anything to decide of its own.

use crate::coordinator::{Coordinator, GroupAnswer};
use crate::ctx::{Ctx, duration};
use crate::disk::{Disk, Entry};
use crate::event::{Addr, Cut, Event, Message, Refusal};
use crate::mutation::Mutation;
use crate::own::{Own, Progress, Works};
use crate::queue::{MS, Micros};
use crate::stream::Streams;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_core::cluster::{Cluster, ClusterAsk};
use weir_core::ids::{DiskId, Incarnation, NodeId, Offset, PartitionId, TimestampMs};
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::assignment::{Assignment, Lead};
use weir_core::partition::follower::Held;
use weir_core::partition::insync::Lag;
use weir_core::partition::replica::{Effect, Replica, Role};
use weir_core::wire::{ErrorCode, Outcome};

/// How often a node looks at its timers.
const TICK: Micros = 20 * MS;
/// How long leaders and followers wait for answers.
pub const RETRY: Duration = Duration::from_millis(100);
/// When a follower counts as behind.
const LAG: Lag = Lag { max: Duration::from_millis(500), retry: RETRY };

/// A node, running or not.
pub struct Node {
    /// Its address.
    pub addr: Addr,
    /// Whether it runs.
    pub up: bool,
    /// Counts its runs: what was begun in an earlier one never ends.
    pub run: u64,
    /// It does nothing until then.
    pub paused_until: Micros,
    /// Its disk.
    pub disk: Disk,
    /// Its metadata.
    pub image: Cluster,
    applied: usize,
    /// What it drew at its start, and the life that it was given for it.
    start: u64,
    /// Its present life, once it knows.
    pub incarnation: Option<Incarnation>,
    /// Its replicas.
    pub copies: BTreeMap<PartitionId, Copy>,
    /// The group, while it leads the groups partition.
    pub(crate) coordinator: Option<Coordinator>,
    /// Lanes, distributors, and what it knows of keyed state.
    pub(crate) works: Works,
    /// What producers send.
    pub(crate) streams: Streams,
    /// Its monotonic clock began at some other zero.
    monotonic_zero: Micros,
    /// Its wall clock is off by so much, and jumps.
    pub wall_offset_ms: i64,
}

/// A replica and, while it leads, how far each follower was pushed.
pub struct Copy {
    /// The state machine.
    pub replica: Replica<Reply>,
    pub(crate) links: BTreeMap<NodeId, Link>,
    pub(crate) progress: Progress,
}

/// What was pushed to a follower.
pub(crate) struct Link {
    /// The next offset to push.
    pub(crate) next: Offset,
    /// How far it was, and when that last changed.
    pub(crate) seen: (Offset, Micros),
}

/// An acknowledgement that waits to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// To whom.
    pub client: Addr,
    /// For which request.
    pub correlation: u64,
    /// Of which connection, and which frame there, if it was a producer's batch.
    pub stream: (u64, u64),
    /// What was stored, and where.
    pub id: u64,
    /// Its first offset.
    pub base: Offset,
    /// With what it is to be refused, once that is certain.
    pub refusal: Option<ErrorCode>,
    /// What a coordinator answers, if it was not a producer's batch.
    pub answer: Option<GroupAnswer>,
    /// What made the entry, if it is the node's own.
    pub own: Option<Own>,
}

impl Node {
    /// A node that never ran, with an empty disk.
    pub fn new(addr: Addr, disk: DiskId) -> Node {
        Node {
            addr,
            up: false,
            run: 0,
            paused_until: 0,
            disk: Disk::new(disk),
            image: Cluster::default(),
            applied: 0,
            start: 0,
            incarnation: None,
            copies: BTreeMap::new(),
            coordinator: None,
            works: Works::default(),
            streams: Streams::default(),
            monotonic_zero: 0,
            wall_offset_ms: 0,
        }
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        NodeId(self.addr)
    }

    /// Its monotonic time.
    pub fn now(&self, ctx: &Ctx) -> Duration {
        duration(ctx.now + self.monotonic_zero)
    }

    /// Its wall clock, which may say anything.
    pub fn wall(&self, ctx: &Ctx) -> TimestampMs {
        TimestampMs((ctx.now / MS) as i64 + self.wall_offset_ms)
    }

    /// Starts the process.
    pub fn handle_start(&mut self, ctx: &mut Ctx) {
        if self.up {
            return;
        }
        ctx.say(|| format!("node {} starts", self.addr));
        self.up = true;
        self.run += 1;
        self.paused_until = 0;
        if ctx.mutation != Mutation::SameLife || self.start == 0 {
            self.start = ctx.fresh();
        }
        self.image = Cluster::default();
        self.applied = 0;
        self.incarnation = None;
        self.copies.clear();
        self.coordinator = None;
        self.works = Works::default();
        self.streams = Streams::default();
        self.monotonic_zero = ctx.random.u64(0..1_000_000_000);
        self.disk.syncing = false;
        self.disk.era += 1;
        ctx.after(0, Event::Tick { node: self.addr, run: self.run });
    }

    /// Kills the process, or the machine: `power_lost` also loses what was not synced.
    pub fn crash(&mut self, ctx: &mut Ctx, power_lost: bool) {
        if !self.up {
            return;
        }
        self.up = false;
        self.incarnation = None;
        self.copies.clear();
        self.works = Works::default();
        self.streams = Streams::default();
        for log in self.disk.logs.values_mut() {
            let unsynced = log.unsynced();
            let kept = if power_lost { ctx.random.usize(0..=unsynced) } else { 0 };
            if ctx.mutation == Mutation::LyingDisk {
                let lied = log.entries.len().saturating_sub(3);
                log.synced = log.synced.min(log.entries.get(lied).map_or(log.synced, |e| e.base));
                log.lose(0);
            } else {
                log.lose(kept);
            }
        }
    }

    /// Timers: life signs, questions, proposals, and pushing again what got lost.
    pub fn handle_tick(&mut self, ctx: &mut Ctx) {
        ctx.after(TICK, Event::Tick { node: self.addr, run: self.run });
        let Some(incarnation) = self.incarnation else {
            let (node, start, disk) = (self.id(), self.start, self.disk.id);
            let rack = Some(format!("rack-{}", self.addr % 2));
            let ask = ClusterAsk::Register { node, start, disk, rack };
            ctx.send_to_voters(self.addr, &Message::Ask(ask));
            return;
        };
        let beat = Message::Heartbeat { node: self.id(), incarnation };
        ctx.send_to_voters(self.addr, &beat);
        let partitions: Vec<PartitionId> = self.copies.keys().copied().collect();
        for partition in partitions {
            self.tick_copy(ctx, partition);
        }
        self.tick_group(ctx);
        self.tick_lanes(ctx);
        self.tick_turns(ctx);
        self.tick_carriers(ctx);
        self.begin_sync(ctx);
    }

    fn tick_copy(&mut self, ctx: &mut Ctx, partition: PartitionId) {
        let (now, addr) = (self.now(ctx), self.addr);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        if let Some(follower) = copy.replica.follower() {
            let leader = follower.leader().node.0;
            if let Some(follow) = follower.poll_follow(now, RETRY) {
                ctx.send(addr, leader, Message::Follow(partition, follow));
            }
        }
        if let Some(leader_epoch) = copy.replica.poll_resign()
            && let Some(leader) = copy.replica.assignment().and_then(|known| known.leader)
            && !matches!(copy.replica.role(), Role::Failed(_))
        {
            let ask = ClusterAsk::Resign { partition, leader, leader_epoch };
            ctx.send_to_voters(addr, &Message::Ask(ask));
        }
        if let Some(leader) = copy.replica.leader()
            && let Some(proposal) = leader.poll_proposal(now, LAG)
        {
            let ask = ClusterAsk::AlterInSync { partition, proposal };
            ctx.send_to_voters(addr, &Message::Ask(ask));
        }
        self.maybe_trim(ctx, partition);
        self.push(ctx, partition, true);
    }

    /// Retention, in small: the leader drops its oldest entries now and then.
    fn maybe_trim(&mut self, ctx: &mut Ctx, partition: PartitionId) {
        // The group is rebuilt from its whole log: there is no snapshot of it here. Outboxes are
        // trimmed by their distributors.
        let outbox = ctx.lanes.iter().any(|lane| lane.to.is_some() && lane.home == partition);
        if ctx.healed || partition == GROUPS_PARTITION || outbox || !ctx.chance(6) {
            return;
        }
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let Some(leader) = copy.replica.leader() else { return };
        let log = self.disk.logs.entry(partition).or_default();
        let below = log.entries.partition_point(|entry| entry.end() <= leader.high_watermark());
        let Some(last) = below.checked_sub(1) else { return };
        let start = log.entries[ctx.random.usize(last / 2..=last)].base;
        if start > leader.log_start() {
            leader.handle_log_start(start);
            log.trim(start);
            ctx.checks.trimmed(partition, start);
        }
    }

    /// So many asks are committed; `log` has them.
    pub fn handle_metadata(&mut self, ctx: &mut Ctx, log: &[ClusterAsk]) {
        if log.len() <= self.applied {
            return;
        }
        for ask in &log[self.applied..] {
            if let Ok(change) = self.image.decide(ask) {
                self.image.apply(&change);
            }
        }
        self.applied = log.len();
        if self.incarnation.is_none() {
            let me = self.image.nodes().get(&self.id());
            let Some(known) = me.filter(|known| known.start == self.start) else { return };
            self.incarnation = Some(known.incarnation);
        }
        let places: Vec<(PartitionId, Assignment)> =
            self.image.partitions().iter().map(|(&id, a)| (id, a.clone())).collect();
        for (partition, assignment) in places {
            self.handle_assigned(ctx, partition, assignment);
        }
    }

    fn handle_assigned(&mut self, ctx: &mut Ctx, partition: PartitionId, mut known: Assignment) {
        let Some(incarnation) = self.incarnation else { return };
        let me = Lead { node: self.id(), incarnation };
        let (now, mutation) = (self.now(ctx), ctx.mutation);
        let disk = &mut self.disk;
        let copy = self.copies.entry(partition).or_insert_with(|| {
            let log = disk.log(partition);
            let held = Held::open(&log.view(), log.committed);
            let progress = Progress::default();
            Copy { replica: Replica::new(me, held), links: BTreeMap::new(), progress }
        });
        let newer = copy.replica.assignment().is_none_or(|a| a.leader_epoch < known.leader_epoch);
        if mutation == Mutation::TwoLeaders && newer && copy.replica.leader().is_some() {
            known.leader = Some(me);
            known.insync = [(me.node, disk.id)].into();
            known.min_insync = 1;
        }
        let effects = copy.replica.handle_assigned(now, &known);
        self.perform(ctx, partition, effects);
    }

    /// Does what a replica's state machine asks for.
    pub fn perform(&mut self, ctx: &mut Ctx, partition: PartitionId, effects: Vec<Effect<Reply>>) {
        for effect in effects {
            let addr = self.addr;
            let Some(copy) = self.copies.get_mut(&partition) else { return };
            match effect {
                Effect::Committed(reply) => self.acknowledge(ctx, partition, reply),
                Effect::Unknown(reply) => {
                    if let Some(own) = reply.own {
                        self.handle_own(ctx, partition, own, false);
                    } else if reply.answer.is_none() {
                        let outcome = match reply.refusal {
                            Some(_) => Outcome::No,
                            None => Outcome::Unknown,
                        };
                        let code = ErrorCode::NotLeader;
                        let result = Err(Refusal { code, outcome });
                        let to = (reply.client, reply.stream, reply.correlation);
                        self.answer_produced(ctx, partition, to, result);
                    }
                }
                Effect::ReadView => {
                    let slow = if self.disk.slow { 100 } else { 1 };
                    let delay = ctx.between(100, 3 * MS) * slow;
                    let (node, run, era) = (addr, self.run, self.disk.era);
                    ctx.after(delay, Event::View { node, run, era, partition });
                }
                // Sent at the next tick.
                Effect::Resign(_) => {}
                Effect::Report(report) => {
                    if let Some(follower) = copy.replica.follower() {
                        let to = follower.leader().node.0;
                        ctx.send(addr, to, Message::Report(partition, report));
                    }
                }
                Effect::Halt(why) => ctx.checks.halted(addr, partition, &why.to_string()),
            }
        }
        self.after_change(ctx, partition);
    }

    /// The log says what it holds: this node leads from here on, if it is still to.
    pub fn handle_view(&mut self, ctx: &mut Ctx, era: u64, partition: PartitionId) {
        let (now, addr) = (self.now(ctx), self.addr);
        let role = self.copies.get(&partition).map(|copy| copy.replica.role());
        if era != self.disk.era || !matches!(role, Some(Role::Waiting(_))) {
            return;
        }
        let view = self.disk.log(partition).view();
        self.load_state(ctx, partition, &view);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        copy.links.clear();
        let effects = copy.replica.handle_view(now, &view);
        if let Some(leader) = copy.replica.leader() {
            let (epoch, log) = (leader.epoch(), self.disk.log(partition));
            let (start, end) = (log.base.log_end, log.end());
            ctx.say(|| format!("node {addr} leads {partition} in {epoch}: {start}..{end}"));
            ctx.checks.led(addr, partition, epoch, log);
        }
        self.perform(ctx, partition, effects);
    }

    fn acknowledge(&mut self, ctx: &mut Ctx, partition: PartitionId, reply: Reply) {
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let insync = copy.replica.assignment().map(|known| known.insync.clone());
        if let Some(leader) = copy.replica.leader() {
            let lead = (self.addr, leader.epoch());
            let (base, id) = (reply.base, reply.id);
            ctx.say(|| format!("{lead:?} acknowledges {id} at {partition}/{base} by {insync:?}"));
            if reply.id != 0 {
                ctx.checks.acked(ctx.now, lead, partition, &reply, insync.unwrap_or_default());
            }
        }
        if let Some(own) = reply.own {
            return self.handle_own(ctx, partition, own, true);
        }
        if partition == GROUPS_PARTITION {
            return self.answer_group(ctx, reply);
        }
        let to = (reply.client, reply.stream, reply.correlation);
        let result = reply.refusal.map_or(Ok(reply.base), |code| Err(Refusal::no(code)));
        self.answer_produced(ctx, partition, to, result);
    }

    /// Looks at what a change made: the committed end, and entries to push.
    pub(crate) fn after_change(&mut self, ctx: &mut Ctx, partition: PartitionId) {
        self.publish(partition);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let [_, committed, ..] = copy.replica.ends();
        let leads = copy.replica.leader().is_some();
        let log = self.disk.log(partition);
        let of = (partition, &ctx.lanes[..]);
        ctx.checks.committed((self.addr, self.run), of, leads, committed, log);
        self.push(ctx, partition, false);
    }

    /// Hands an entry to the log.
    pub(crate) fn write(&mut self, ctx: &mut Ctx, partition: PartitionId, entry: Entry) {
        let log = self.disk.log(partition);
        ctx.checks.written(self.addr, partition, log, &entry);
        log.entries.push(entry);
        self.begin_sync(ctx);
    }

    pub(crate) fn begin_sync(&mut self, ctx: &mut Ctx) {
        for (&partition, copy) in &self.copies {
            if let Some(log) = self.disk.logs.get_mut(&partition) {
                let [_, committed, ..] = copy.replica.ends();
                log.committed = log.committed.max(committed.min(log.synced));
            }
        }
        let Some(ends) = self.disk.begin_sync() else { return };
        let slow = if self.disk.slow { 100 } else { 1 };
        let delay = ctx.between(200, 4 * MS) * slow;
        let (node, run, era) = (self.addr, self.run, self.disk.era);
        ctx.after(delay, Event::Synced { node, run, era, ends });
    }

    /// A sync is over.
    pub fn handle_synced(
        &mut self,
        ctx: &mut Ctx,
        era: u64,
        ends: Vec<(PartitionId, u64, Offset)>,
    ) {
        if era != self.disk.era {
            return;
        }
        self.disk.syncing = false;
        for (partition, cuts, end) in ends {
            let log = self.disk.log(partition);
            if log.cuts != cuts {
                continue;
            }
            log.synced = log.synced.max(end);
            let Some(copy) = self.copies.get_mut(&partition) else { continue };
            let effects = copy.replica.handle_durable(end);
            self.perform(ctx, partition, effects);
        }
        self.begin_sync(ctx);
    }

    /// A write or sync failed: all logs of the disk are reopened after a while.
    pub fn fail_disk(&mut self, ctx: &mut Ctx) {
        self.disk.era += 1;
        self.disk.syncing = false;
        let partitions: Vec<PartitionId> = self.copies.keys().copied().collect();
        for partition in partitions {
            let Some(copy) = self.copies.get_mut(&partition) else { continue };
            let effects = copy.replica.handle_failure();
            self.perform(ctx, partition, effects);
        }
        let delay = ctx.between(10 * MS, 500 * MS);
        ctx.after(delay, Event::Reopened { node: self.addr, run: self.run });
    }

    /// The disk's logs were reopened: what was not synced is there or not.
    pub fn handle_reopened(&mut self, ctx: &mut Ctx) {
        let now = self.now(ctx);
        let partitions: Vec<PartitionId> = self.copies.keys().copied().collect();
        for partition in partitions {
            let Some(copy) = self.copies.get_mut(&partition) else { continue };
            if !matches!(copy.replica.role(), Role::Failed(_)) {
                continue;
            }
            let log = self.disk.log(partition);
            log.lose(ctx.random.usize(0..=log.unsynced()));
            let effects = copy.replica.handle_recovered(now, &log.view());
            self.perform(ctx, partition, effects);
        }
    }

    /// A log was cut.
    pub fn handle_cut(&mut self, ctx: &mut Ctx, era: u64, partition: PartitionId, cut: &Cut) {
        if era != self.disk.era {
            return;
        }
        let now = self.now(ctx);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let log = self.disk.log(partition);
        match cut {
            Cut::Truncate(_) => ctx.checks.cuts.0 += 1,
            Cut::Reset { .. } => ctx.checks.cuts.1 += 1,
        }
        let before = log.end();
        log.cut(cut);
        let (addr, after) = (self.addr, log.end());
        ctx.say(|| format!("node {addr} cuts {partition} from {before} to {after}"));
        let effects = copy.replica.handle_cut(now, &log.view());
        self.perform(ctx, partition, effects);
    }
}
