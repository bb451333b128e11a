//! Parts of outboxes at their destinations. Stands for `node/crates/broker/src/deploy/deliver.rs`,
//! and decides with the same [`arrive`].
//!
//! One part of a lane is on its way into a partition at a time, whoever brings it; it waits until
//! what the leader began with is committed, and until the node has room for it. In between the
//! leadership may end, and another begin.

use crate::ctx::Ctx;
use crate::event::{Addr, Event, Message};
use crate::mutation::Mutation;
use crate::node::Node;
use crate::own::{Draft, Maker, Own};
use crate::queue::{MS, Micros};
use crate::transform::{Content, Part};
use std::collections::VecDeque;
use weir_core::deploy::delivery::{Arrival, Leads, arrive};
use weir_core::deploy::keys::{Lane, read_mark};
use weir_core::ids::{LeaderEpoch, Offset, PartitionId};

/// How long what the leader began with may take to be committed.
const SETTLE_PATIENCE: Micros = 300 * MS;
/// Most parts that wait for their turn here; one more is dropped like a lost message.
const ASKS_MAX: usize = 16;

/// Parts of one lane on their way into one partition.
#[derive(Default)]
pub(crate) struct Turn {
    asks: VecDeque<Ask>,
    stage: Stage,
}

/// Somebody brings a part.
struct Ask {
    from: Addr,
    correlation: u64,
    offset: Offset,
    part: Part,
}

#[derive(Default)]
enum Stage {
    /// The first in the queue may begin.
    #[default]
    Free,
    /// It waits until what the leader began with is committed.
    Settling { until: Micros },
    /// It waits for room.
    Room { serial: u64, fence: LeaderEpoch, next: Offset },
    /// Its entry waits to be committed.
    Appended { serial: u64, next: Offset },
}

impl Node {
    /// Somebody brings a part.
    pub(crate) fn handle_part(
        &mut self,
        ctx: &mut Ctx,
        (from, correlation): (Addr, u64),
        (lane, offset): (Lane, Offset),
        part: Part,
    ) {
        let to = part.to;
        let turn = self.works.turns.entry((lane, to)).or_default();
        if turn.asks.len() < ASKS_MAX {
            turn.asks.push_back(Ask { from, correlation, offset, part });
            self.go_on(ctx, (lane, to));
        }
    }

    /// Looks after those that wait.
    pub(crate) fn tick_turns(&mut self, ctx: &mut Ctx) {
        let all: Vec<(Lane, PartitionId)> = self.works.turns.keys().copied().collect();
        for turn in all {
            self.go_on(ctx, turn);
        }
    }

    /// Does for a part what can be done now, then for the next one.
    fn go_on(&mut self, ctx: &mut Ctx, at: (Lane, PartitionId)) {
        loop {
            let Some(turn) = self.works.turns.get_mut(&at) else { return };
            let Some(ask) = turn.asks.front() else { return };
            let offset = ask.offset;
            match turn.stage {
                Stage::Free => turn.stage = Stage::Settling { until: ctx.now + SETTLE_PATIENCE },
                Stage::Settling { until } => {
                    let progress = self.copies.get(&at.1).map(|copy| copy.progress);
                    let progress = progress.unwrap_or_default();
                    match (progress.led, progress.settled) {
                        (true, false) if ctx.now < until => return,
                        (true, true) => match self.arrival(ctx, at, offset) {
                            Arrival::There { next } => self.end_turn(ctx, at, Some(next)),
                            Arrival::Append { fence, next } => {
                                if !self.make_room(ctx, at, (fence, next)) {
                                    return;
                                }
                            }
                            Arrival::NotNow => self.end_turn(ctx, at, None),
                        },
                        _ => self.end_turn(ctx, at, None),
                    }
                }
                Stage::Room { .. } | Stage::Appended { .. } => return,
            }
        }
    }

    /// What the broker decides between two waits.
    fn arrival(&mut self, ctx: &Ctx, (lane, to): (Lane, PartitionId), offset: Offset) -> Arrival {
        let leads = self.leads_settled(to);
        let key = lane.set_mark(Offset::ZERO).key;
        let mark = self.state_at(to, &key).and_then(|value| read_mark(&value));
        let mut mark = mark.unwrap_or(Offset::ZERO);
        if ctx.mutation == Mutation::ForgetMarks {
            mark = Offset::ZERO;
        }
        arrive(offset, mark, leads, leads)
    }

    fn leads_settled(&mut self, partition: PartitionId) -> Leads {
        let leader = self.copies.get_mut(&partition)?.replica.leader()?;
        leader.settled_watermark().map(|_| leader.epoch())
    }

    /// Waits for room, nearly always not at all. Whether the turn is over.
    fn make_room(
        &mut self,
        ctx: &mut Ctx,
        at: (Lane, PartitionId),
        (fence, next): (LeaderEpoch, Offset),
    ) -> bool {
        let serial = ctx.fresh();
        let Some(turn) = self.works.turns.get_mut(&at) else { return true };
        turn.stage = Stage::Room { serial, fence, next };
        if !ctx.healed && ctx.chance(100) {
            let (node, run, (lane, to)) = (self.addr, self.run, at);
            let delay = ctx.between(MS, 300 * MS);
            ctx.after(delay, Event::Room { node, run, lane, to, serial });
            return false;
        }
        self.append_part(ctx, at, serial)
    }

    /// There is room.
    pub(crate) fn handle_room(&mut self, ctx: &mut Ctx, at: (Lane, PartitionId), serial: u64) {
        self.append_part(ctx, at, serial);
        self.go_on(ctx, at);
    }

    /// Appends the part together with the mark. Whether the turn is over.
    fn append_part(&mut self, ctx: &mut Ctx, at: (Lane, PartitionId), wanted: u64) -> bool {
        let (lane, to) = at;
        let Some(turn) = self.works.turns.get_mut(&at) else { return false };
        let Stage::Room { serial, fence, next } = turn.stage else { return false };
        let Some(ask) = turn.asks.front().filter(|_| serial == wanted) else { return false };
        let (offset, part) = (ask.offset, ask.part.clone());
        turn.stage = Stage::Appended { serial, next };
        let count = part.values.len().max(1) as u32;
        let own = Own { maker: Maker::Turn(lane, to), serial, changes: vec![lane.set_mark(next)] };
        let draft = Draft { count, content: Content::Delivered { lane, offset, part }, own };
        let refused = self.append_own(ctx, (to, fence), draft).is_err();
        if refused {
            self.end_turn(ctx, at, None);
        }
        refused
    }

    /// A part is committed, or nobody knows.
    pub(crate) fn handle_part_committed(
        &mut self,
        ctx: &mut Ctx,
        at: (Lane, PartitionId),
        done: u64,
        committed: bool,
    ) {
        let Some(turn) = self.works.turns.get(&at) else { return };
        let Stage::Appended { serial, next } = turn.stage else { return };
        if serial == done {
            ctx.checks.coverage.parts += u64::from(committed);
            self.end_turn(ctx, at, committed.then_some(next));
            // The next part's turn is a moment later: this may be in the midst of others' replies.
            let (node, run, (lane, to)) = (self.addr, self.run, at);
            ctx.after(0, Event::Room { node, run, lane, to, serial: 0 });
        }
    }

    /// Tells whoever brought the part, and lets the next one begin.
    fn end_turn(&mut self, ctx: &mut Ctx, at: (Lane, PartitionId), next: Option<Offset>) {
        let Some(turn) = self.works.turns.get_mut(&at) else { return };
        turn.stage = Stage::Free;
        if let Some(Ask { from, correlation, .. }) = turn.asks.pop_front() {
            let message = Message::Taken { correlation, next };
            ctx.send(self.addr, from, message);
        }
    }
}
