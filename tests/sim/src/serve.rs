//! What a node does with messages: those between replicas, and those of clients.

use crate::ctx::Ctx;
use crate::disk::Entry;
use crate::event::{Addr, Cut, Event, Fetched, Message, Refusal, Snapshot};
use crate::mutation::Mutation;
use crate::node::{Link, Node, RETRY, Reply};
use crate::queue::{MS, Micros};
use weir_core::ids::{NodeId, Offset, PartitionId};
use weir_core::partition::follower::{Accept, Step};
use weir_core::partition::leader::{Append, AppendError};
use weir_core::partition::messages::{Follow, FollowAnswer, Push, Report, Verdict};
use weir_core::partition::producers::{ProducerBatch, SequenceError};
use weir_core::partition::replica::Effect;
use weir_core::partition::view::PartitionView;
use weir_core::wire::ErrorCode;

/// Most entries of one push or fetch.
pub(crate) const ENTRIES_MAX: usize = 16;

/// How long what is on the leader's disk may take to be committed, before a snapshot leaves it out.
/// Less than followers wait for an answer.
const COMMIT_PATIENCE: Micros = 40 * MS;

impl Node {
    /// A message arrived.
    pub fn handle_message(&mut self, ctx: &mut Ctx, from: Addr, message: Message) {
        match message {
            Message::Follow(partition, follow) => self.handle_follow(ctx, partition, &follow),
            Message::Answer(partition, answer, snapshot) => {
                self.handle_answer(ctx, partition, &answer, snapshot);
            }
            Message::Push(partition, push, entries) => {
                self.handle_push(ctx, from, (partition, push), entries);
            }
            Message::Report(partition, report) => self.handle_report(ctx, partition, &report),
            Message::Produce { stream, .. } => self.handle_frame(ctx, from, stream, message),
            Message::Fetch { partition, at } => self.handle_fetch(ctx, from, partition, at),
            Message::Group { correlation, ask } => {
                self.handle_group(ctx, Some((from, correlation)), &ask);
            }
            Message::Fetched { partition, at, fetched } => {
                self.handle_input(ctx, (partition, at), &fetched);
            }
            Message::Part { correlation, lane, offset, part } => {
                self.handle_part(ctx, (from, correlation), (lane, offset), part);
            }
            Message::Taken { correlation, next } => self.handle_taken(ctx, correlation, next),
            Message::RegisterAnew { incarnation } if self.incarnation == Some(incarnation) => {
                self.crash(ctx, false);
                ctx.after(MS, Event::Start { node: self.addr });
            }
            _ => {}
        }
    }

    fn handle_follow(&mut self, ctx: &mut Ctx, partition: PartitionId, follow: &Follow) {
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let Some(leader) = copy.replica.leader() else { return };
        let Ok(answer) = leader.handle_follow(follow) else { return };
        let to = follow.node;
        match answer.verdict {
            Verdict::Agreed => {
                let seen = (follow.log_end, ctx.now);
                copy.links.insert(to, Link { next: follow.log_end, seen });
            }
            Verdict::Truncate { .. } => drop(copy.links.remove(&to)),
            Verdict::Reset { .. } => {
                copy.links.remove(&to);
                let until = ctx.now + COMMIT_PATIENCE;
                let snapshot = Snapshot { partition, to, answer, view: None, until };
                return self.poll_snapshot(ctx, snapshot);
            }
        }
        ctx.send(self.addr, to.0, Message::Answer(partition, answer, None));
        self.after_change(ctx, partition);
    }

    /// The log is asked later what it holds.
    fn poll_snapshot(&self, ctx: &mut Ctx, snapshot: Snapshot) {
        let (node, run) = (self.addr, self.run);
        let delay = ctx.between(100, 3 * MS);
        ctx.after(delay, Event::Snapshot { node, run, snapshot });
    }

    /// Stands for `node/crates/broker/src/partition/snapshot.rs`: what the log holds, once that is
    /// committed; or after a while what it held where what is committed ends.
    pub(crate) fn handle_snapshot(&mut self, ctx: &mut Ctx, mut snapshot: Snapshot) {
        let partition = snapshot.partition;
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let epoch = copy.replica.leader().map(|leader| leader.epoch());
        let [log_start, committed, ..] = copy.replica.ends();
        // The leadership has ended: the follower asks again.
        if epoch != Some(snapshot.answer.epoch) {
            return;
        }
        let log = self.disk.log(partition);
        let view = match snapshot.view.take() {
            None => Box::new(log.view()),
            Some(view) if view.log_end <= committed => view,
            Some(_) if ctx.now >= snapshot.until && committed >= log_start => {
                Box::new(log.view_at(committed))
            }
            Some(view) => view,
        };
        if view.log_end > committed {
            snapshot.view = Some(view);
            return self.poll_snapshot(ctx, snapshot);
        }
        let nothing = ctx.mutation == Mutation::NoSnapshot;
        let view = if nothing { Box::default() } else { view };
        let Snapshot { to, answer, .. } = snapshot;
        ctx.send(self.addr, to.0, Message::Answer(partition, answer, Some(view)));
        self.after_change(ctx, partition);
    }

    fn handle_answer(
        &mut self,
        ctx: &mut Ctx,
        partition: PartitionId,
        answer: &FollowAnswer,
        snapshot: Option<Box<PartitionView>>,
    ) {
        let now = self.now(ctx);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let Some(follower) = copy.replica.follower() else { return };
        let cut = match follower.handle_answer(now, answer) {
            Step::Nothing => return,
            Step::Truncate { end } => Cut::Truncate(end),
            Step::Reset { start, epochs } => {
                let snapshot = snapshot.expect("a reset comes with one");
                ctx.checks.coverage.snapshots += u64::from(!snapshot.state.is_empty());
                ctx.checks.coverage.snapshots_ahead += u64::from(snapshot.log_end > start);
                Cut::Reset { start, epochs, snapshot }
            }
            Step::Halt(why) => {
                return ctx.checks.halted(self.addr, partition, &why.to_string());
            }
        };
        let (node, run, era) = (self.addr, self.run, self.disk.era);
        let delay = ctx.between(200, 3 * MS);
        ctx.after(delay, Event::Cut { node, run, era, partition, cut });
    }

    /// Pushes to each follower what it was not sent yet; at a tick also what seems lost, and a life
    /// sign if there is nothing.
    pub(crate) fn push(&mut self, ctx: &mut Ctx, partition: PartitionId, tick: bool) {
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let links = &mut copy.links;
        let Some(leader) = copy.replica.leader() else { return links.clear() };
        let log = self.disk.logs.entry(partition).or_default();
        let followers: Vec<NodeId> = leader.insync().followers().map(|(node, _)| node).collect();
        for to in followers {
            let (Some(link), Some(push)) = (links.get_mut(&to), leader.push(to)) else { continue };
            let durable = leader.insync().follower(to).and_then(|known| known.durable_end);
            let durable = durable.unwrap_or(Offset::ZERO);
            if link.seen.0 != durable {
                link.seen = (durable, ctx.now);
            }
            let stuck = ctx.now > link.seen.1 + RETRY.as_micros() as u64;
            if tick && durable < link.next && stuck {
                link.next = durable;
                link.seen.1 = ctx.now;
            }
            if link.next < leader.log_start() {
                // There is nothing to read for it any more: its stream ends, and it asks again.
                links.remove(&to);
                continue;
            }
            let entries = log.read(link.next, log.end(), ENTRIES_MAX);
            if let Some(last) = entries.last() {
                link.next = last.end();
            }
            if tick || !entries.is_empty() {
                ctx.send(self.addr, to.0, Message::Push(partition, push, entries));
            }
        }
    }

    fn handle_push(
        &mut self,
        ctx: &mut Ctx,
        from: Addr,
        (partition, push): (PartitionId, Push),
        entries: Vec<Entry>,
    ) {
        let now = self.now(ctx);
        if ctx.mutation == Mutation::DeafFollower && self.addr == 2 {
            return;
        }
        for mut entry in entries {
            let Some(copy) = self.copies.get_mut(&partition) else { return };
            let Some(follower) = copy.replica.follower() else { return };
            match follower.decide_entry(&push, &entry.header()) {
                Accept::Append if self.disk.full => break,
                Accept::Append => {
                    follower.handle_appended(&entry.header());
                    if ctx.mutation == Mutation::Rot && ctx.chance(20) {
                        entry.id = ctx.fresh();
                    }
                    self.write(ctx, partition, entry);
                }
                Accept::Drop => {}
                Accept::AskAgain => break,
            }
        }
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let Some(follower) = copy.replica.follower() else { return };
        if let Some((mut report, start)) = follower.handle_push(now, &push) {
            if ctx.mutation == Mutation::EarlyReport {
                report.durable_end = follower.held().log_end;
            }
            if let Some(start) = start {
                self.disk.log(partition).trim(start);
            }
            ctx.send(self.addr, from, Message::Report(partition, report));
        }
        self.after_change(ctx, partition);
    }

    fn handle_report(&mut self, ctx: &mut Ctx, partition: PartitionId, report: &Report) {
        let now = self.now(ctx);
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let Some(leader) = copy.replica.leader() else { return };
        let effects = leader.handle_report(now, report).map(Effect::Committed).collect();
        self.perform(ctx, partition, effects);
    }

    pub(crate) fn handle_produce(
        &mut self,
        ctx: &mut Ctx,
        from: (Addr, (u64, u64), u64),
        partition: PartitionId,
        (batch, id): (ProducerBatch, u64),
    ) {
        match self.append(ctx, from, partition, (batch, id)) {
            Ok(None) => {}
            Ok(Some(effect)) => self.perform(ctx, partition, vec![effect]),
            Err(refusal) => {
                self.answer_produced(ctx, partition, from, Err(refusal));
            }
        }
        self.after_change(ctx, partition);
    }

    fn append(
        &mut self,
        ctx: &mut Ctx,
        (client, stream, correlation): (Addr, (u64, u64), u64),
        partition: PartitionId,
        (batch, id): (ProducerBatch, u64),
    ) -> Result<Option<Effect<Reply>>, Refusal> {
        let wall = self.wall(ctx);
        let elsewhere = Refusal::no(ErrorCode::NotLeader);
        let copy = self.copies.get_mut(&partition).ok_or(elsewhere)?;
        let leader = copy.replica.leader().ok_or(elsewhere)?;
        let producer = Some(batch).filter(|_| ctx.mutation != Mutation::ForgetSequences);
        let decided = match leader.decide_append(wall, producer.as_ref()) {
            Ok(decided) => decided,
            Err(AppendError::Sequence(error)) => {
                ctx.checks.sequence_refused(partition, &batch, error);
                return Err(Refusal::no(code_of(error)));
            }
            Err(_) => return Err(Refusal::no(ErrorCode::NotEnoughInSync)),
        };
        let (mut id, mut refusal) = (id, None);
        let (base, end) = match decided {
            Append::Duplicate { base_offset } => (base_offset, base_offset.plus(batch.count)),
            _ if self.disk.full => return Err(Refusal::no(ErrorCode::DiskFull)),
            Append::Doubt { error, .. } if ctx.mutation == Mutation::StaleRefusal => {
                return Err(Refusal::no(code_of(error)));
            }
            Append::Doubt { error, base_offset: base, epoch, append_time: time } => {
                ctx.checks.coverage.doubts += 1;
                (id, refusal) = (ctx.fresh(), Some(code_of(error)));
                let state = Vec::new();
                let entry = Entry { base, count: 1, epoch, time, producer: None, id, state };
                leader.handle_appended(time, 1, None);
                self.write(ctx, partition, entry);
                (base, base.plus(1))
            }
            Append::Write { base_offset: base, epoch, append_time: time } => {
                let count = batch.count;
                let state = Vec::new();
                let entry = Entry { base, count, epoch, time, producer: Some(batch), id, state };
                leader.handle_appended(time, count, producer.as_ref());
                self.write(ctx, partition, entry);
                (base, base.plus(count))
            }
        };
        let copy = self.copies.get_mut(&partition).ok_or(elsewhere)?;
        let leader = copy.replica.leader().ok_or(elsewhere)?;
        let reply =
            Reply { client, correlation, stream, id, base, refusal, answer: None, own: None };
        Ok(leader.park(end, reply).map(Effect::Committed))
    }

    fn handle_fetch(&mut self, ctx: &mut Ctx, to: Addr, partition: PartitionId, at: Offset) {
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let [log_start, mut committed, ..] = copy.replica.ends();
        let epoch = copy.replica.assignment().map(|known| known.leader_epoch).unwrap_or_default();
        let leader = copy.replica.leader();
        let mut watermark = leader.and_then(|leader| leader.settled_watermark());
        let log = self.disk.log(partition);
        if ctx.mutation == Mutation::EagerWatermark {
            committed = log.end();
            watermark = Some(committed);
        }
        let entries = log.read(at.max(log_start), committed, ENTRIES_MAX);
        let order = ctx.fresh();
        let fetched = Fetched { order, log_start, epoch, watermark, entries };
        ctx.send(self.addr, to, Message::Fetched { partition, at, fetched });
    }
}

/// As the broker says it.
fn code_of(error: SequenceError) -> ErrorCode {
    match error {
        SequenceError::Gap { .. } => ErrorCode::SequenceGap,
        SequenceError::Forgotten { .. } => ErrorCode::SequenceForgotten,
        SequenceError::Fenced { .. } => ErrorCode::ProducerFenced,
        SequenceError::UnknownProducer => ErrorCode::UnknownProducer,
        SequenceError::Malformed => ErrorCode::InvalidBatch,
    }
}
