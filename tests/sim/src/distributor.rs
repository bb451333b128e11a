//! Distributors: carry the parts of a lane's outbox to their destinations, in order, where the
//! outbox is led. Stands for `node/crates/broker/src/deploy/distributor.rs`.
//!
//! One part for each destination is on its way at a time: were one refused and the next one taken,
//! the mark would pass over the first.

use crate::ctx::Ctx;
use crate::event::Message;
use crate::mutation::Mutation;
use crate::node::Node;
use crate::queue::{MS, Micros};
use crate::serve::ENTRIES_MAX;
use crate::transform::{Content, Part};
use std::collections::{BTreeMap, VecDeque};
use weir_core::ids::{LeaderEpoch, Offset, PartitionId};

/// When a part counts as lost on its way.
const TIMEOUT: Micros = 400 * MS;
/// The pause after a refusal.
const RETRY: Micros = 40 * MS;

/// The distributor of one outbox.
#[derive(Default)]
pub(crate) struct Carrier {
    /// The epoch of the outbox in which it began.
    epoch: Option<LeaderEpoch>,
    /// Everything below is delivered.
    next: Offset,
    /// How far destinations said they have it.
    marks: BTreeMap<PartitionId, Offset>,
    chunk: Option<Chunk>,
    rests_until: Micros,
}

/// What one read yielded, on its way.
struct Chunk {
    /// Parts that were not sent yet.
    parts: VecDeque<(Offset, Part)>,
    /// Those that were.
    on_their_way: BTreeMap<PartitionId, OnItsWay>,
    /// Something was refused: nothing more of it is sent.
    refused: bool,
    /// The offset behind it.
    behind: Offset,
}

struct OnItsWay {
    correlation: u64,
    sent_at: Micros,
    /// What became of it: the mark, or a refusal.
    done: Option<Option<Offset>>,
}

impl Node {
    /// Looks after all distributors.
    pub(crate) fn tick_carriers(&mut self, ctx: &mut Ctx) {
        for index in 0..ctx.lanes.len() {
            if ctx.lanes[index].to.is_some() {
                self.carry(ctx, index);
            }
        }
    }

    /// Goes on with a chunk, or takes the next one.
    fn carry(&mut self, ctx: &mut Ctx, index: usize) {
        let outbox = ctx.lanes[index].home;
        loop {
            let mut carrier = self.works.carriers.remove(&index).unwrap_or_default();
            let begun = carrier.chunk.is_some() || self.read_outbox(ctx, outbox, &mut carrier);
            let over = begun && self.send_parts(ctx, index, &mut carrier);
            let refused = carrier.rests_until > ctx.now;
            if over && !refused && ctx.chance(150) {
                self.trim_outbox(ctx, outbox, carrier.next);
            }
            self.works.carriers.insert(index, carrier);
            if !over || refused {
                return;
            }
        }
    }

    /// Reads what comes next. Whether there is something.
    fn read_outbox(&mut self, ctx: &Ctx, outbox: PartitionId, carrier: &mut Carrier) -> bool {
        let Some(copy) = self.copies.get_mut(&outbox) else { return false };
        let epoch = copy.replica.assignment().map(|known| known.leader_epoch);
        if carrier.epoch != epoch {
            // What others carried meanwhile is not known here.
            *carrier = Carrier { epoch, ..Carrier::default() };
        }
        let [log_start, committed, ..] = copy.replica.ends();
        carrier.next = carrier.next.max(log_start);
        if !self.works_at(outbox) || carrier.next >= committed || ctx.now < carrier.rests_until {
            return false;
        }
        let entries = self.disk.log(outbox).read(carrier.next, committed, ENTRIES_MAX);
        let Some(last) = entries.last() else { return false };
        let behind = last.end();
        let mut parts = VecDeque::new();
        for entry in &entries {
            if let Some(Content::Run { parts: made, .. }) = ctx.checks.made.get(&entry.id) {
                let offsets = (0..).map(|n| entry.base.plus(n));
                parts.extend(offsets.zip(made.iter().cloned()));
            }
        }
        let on_their_way = BTreeMap::new();
        carrier.chunk = Some(Chunk { parts, on_their_way, refused: false, behind });
        true
    }

    /// Sends what may be sent. Whether all of the chunk has been answered.
    fn send_parts(&mut self, ctx: &mut Ctx, index: usize, carrier: &mut Carrier) -> bool {
        let Carrier { marks, chunk: Some(chunk), .. } = carrier else { return false };
        for one in chunk.on_their_way.values_mut() {
            if one.done.is_none() && ctx.now > one.sent_at + TIMEOUT {
                one.done = Some(None);
            }
        }
        let overtakes = ctx.mutation == Mutation::Overtaking;
        while let Some((offset, part)) = chunk.parts.front().filter(|_| !chunk.refused) {
            match chunk.on_their_way.get(&part.to).map(|one| one.done) {
                Some(None) if !overtakes => return false,
                Some(Some(None)) if !overtakes => {
                    chunk.refused = true;
                    break;
                }
                Some(Some(Some(mark))) => {
                    marks.insert(part.to, mark);
                }
                _ => {}
            }
            let (offset, part) = (*offset, part.clone());
            chunk.parts.pop_front();
            chunk.on_their_way.remove(&part.to);
            if marks.get(&part.to).is_some_and(|mark| offset < *mark) {
                continue;
            }
            let to = part.to;
            let (correlation, sent_at) = (ctx.fresh(), ctx.now);
            let leader = self.image.partitions().get(&to).and_then(|known| known.leader);
            let done = leader.is_none().then_some(None);
            chunk.on_their_way.insert(to, OnItsWay { correlation, sent_at, done });
            if let Some(leader) = leader {
                let lane = ctx.lanes[index].lane;
                let message = Message::Part { correlation, lane, offset, part };
                ctx.send(self.addr, leader.node.0, message);
            }
        }
        if chunk.on_their_way.values().any(|one| one.done.is_none()) {
            return false;
        }
        for (&to, one) in &chunk.on_their_way {
            match one.done.flatten() {
                Some(mark) => drop(marks.insert(to, mark)),
                None => chunk.refused |= !overtakes,
            }
        }
        match chunk.refused {
            true => carrier.rests_until = ctx.now + RETRY,
            false => carrier.next = chunk.behind,
        }
        carrier.chunk = None;
        true
    }

    /// Drops what every destination has. (Whoever leads the outbox by now has it committed, too.)
    fn trim_outbox(&mut self, ctx: &mut Ctx, outbox: PartitionId, before: Offset) {
        let Some(copy) = self.copies.get_mut(&outbox) else { return };
        copy.replica.handle_log_start(before);
        let log = self.disk.log(outbox);
        log.trim(before.min(log.synced));
        ctx.checks.coverage.outbox_trims += 1;
    }

    /// A destination answered.
    pub(crate) fn handle_taken(&mut self, ctx: &mut Ctx, answered: u64, next: Option<Offset>) {
        for index in 0..ctx.lanes.len() {
            let Some(carrier) = self.works.carriers.get_mut(&index) else { continue };
            let chunk = carrier.chunk.iter_mut();
            let mut all = chunk.flat_map(|chunk| chunk.on_their_way.values_mut());
            let one = all.find(|one| one.correlation == answered && one.done.is_none());
            if let Some(one) = one {
                one.done = Some(next);
                return self.carry(ctx, index);
            }
        }
    }
}
