//! An idempotent producer: numbers its batches per partition, keeps a few in flight, and sends
//! again from the oldest open one whenever something goes wrong. It never gives a batch up.

use crate::ctx::Ctx;
use crate::event::{Addr, Event, Message, Refusal};
use crate::node::Node;
use crate::queue::{MS, Micros};
use std::collections::{BTreeMap, VecDeque};
use weir_core::ids::{Offset, PartitionId, ProducerId};
use weir_core::limits;
use weir_core::partition::producers::{ProducerBatch, sequence_after};

/// How often a producer looks at its timers.
const TICK: Micros = 10 * MS;
/// When an unanswered batch is sent again.
const TIMEOUT: Micros = 300 * MS;

/// A producer.
pub struct Producer {
    /// Its address.
    pub addr: Addr,
    lanes: BTreeMap<PartitionId, Lane>,
    next_correlation: u64,
}

#[derive(Default)]
struct Lane {
    open: VecDeque<Open>,
    next_sequence: i32,
    /// Counts its batches.
    batches: u64,
    /// Whom it takes for the leader.
    leader: Option<Addr>,
}

struct Open {
    number: u64,
    batch: ProducerBatch,
    id: u64,
    correlation: u64,
    sent_at: Option<Micros>,
}

impl Producer {
    /// A producer for these partitions.
    pub fn new(ctx: &mut Ctx, addr: Addr, partitions: &[PartitionId]) -> Producer {
        ctx.after(100 * MS, Event::Client { client: addr });
        let lanes = partitions.iter().map(|&id| (id, Lane::default())).collect();
        Producer { addr, lanes, next_correlation: 0 }
    }

    /// Whether everything it began is acknowledged.
    pub fn is_done(&self) -> bool {
        self.lanes.values().all(|lane| lane.open.is_empty())
    }

    /// Makes new batches, and sends what is due.
    pub fn handle_tick(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        ctx.after(TICK, Event::Client { client: self.addr });
        let id = ProducerId(i64::from(self.addr));
        for (&partition, lane) in &mut self.lanes {
            // Answers may be lost, so the oldest open batch counts: leaders remember so many.
            let oldest = lane.open.front().map_or(lane.batches, |open| open.number);
            let room = lane.batches - oldest < limits::PRODUCER_BATCHES_REMEMBERED as u64;
            if room && !ctx.healed && ctx.chance(400) {
                let count = ctx.random.u32(1..=4);
                let base_sequence = lane.next_sequence;
                lane.next_sequence = sequence_after(base_sequence, count);
                let batch = ProducerBatch { id, epoch: 0, base_sequence, count };
                let (number, id) = (lane.batches, ctx.fresh());
                lane.batches += 1;
                let open = Open { number, batch, id, correlation: 0, sent_at: None };
                lane.open.push_back(open);
            }
            let late = |open: &Open| open.sent_at.is_some_and(|at| ctx.now > at + TIMEOUT);
            if lane.open.front().is_some_and(late) {
                lane.forget_sent();
                lane.leader = None;
            }
            if lane.leader.is_none() {
                lane.leader = find_leader(ctx, nodes, partition);
            }
            let Some(leader) = lane.leader else { continue };
            for open in lane.open.iter_mut().filter(|open| open.sent_at.is_none()) {
                self.next_correlation += 1;
                open.correlation = self.next_correlation;
                open.sent_at = Some(ctx.now);
                let (correlation, batch, id) = (open.correlation, open.batch, open.id);
                let message = Message::Produce { partition, correlation, batch, id };
                ctx.send(self.addr, leader, message);
            }
        }
    }

    /// A leader answered.
    pub fn handle_produced(
        &mut self,
        ctx: &mut Ctx,
        partition: PartitionId,
        correlation: u64,
        result: Result<Offset, Refusal>,
    ) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let Some(at) = lane.open.iter().position(|open| open.correlation == correlation) else {
            return;
        };
        match result {
            Ok(base) => {
                let open = lane.open.remove(at).expect("it was just found");
                ctx.checks.confirmed(partition, open.id, base);
            }
            Err(Refusal::NotLeader) => {
                lane.leader = None;
                lane.forget_sent();
            }
            Err(Refusal::Retry | Refusal::Gap) => lane.forget_sent(),
        }
    }
}

impl Lane {
    /// Everything open is sent again, in order.
    fn forget_sent(&mut self) {
        self.open.iter_mut().for_each(|open| open.sent_at = None);
    }
}

/// Whom some node that is up takes for the leader.
pub fn find_leader(ctx: &mut Ctx, nodes: &[Node], partition: PartitionId) -> Option<Addr> {
    let up: Vec<&Node> = nodes.iter().filter(|node| node.up).collect();
    if up.is_empty() {
        return None;
    }
    let known = up[ctx.random.usize(0..up.len())].image.partitions().get(&partition)?;
    known.leader.map(|leader| leader.node.0)
}
