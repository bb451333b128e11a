//! A consumer of all partitions: reads from leaders, or now and then from any replica, keeps its
//! place, and shows the checkers what it was told.

use crate::ctx::Ctx;
use crate::event::{Addr, Event, Fetched, Message};
use crate::node::Node;
use crate::producer::find_leader;
use crate::queue::{MS, Micros};
use std::collections::BTreeMap;
use weir_core::ids::{LeaderEpoch, Offset, PartitionId};

/// How often it asks.
const TICK: Micros = 25 * MS;

/// A consumer.
pub struct Consumer {
    /// Its address.
    pub addr: Addr,
    /// Where it is.
    pub positions: BTreeMap<PartitionId, Offset>,
    /// The newest leader epoch that it heard of: what older leaders say of the watermark no longer
    /// counts.
    epochs: BTreeMap<PartitionId, LeaderEpoch>,
}

impl Consumer {
    /// A consumer of these partitions, from the first offset on.
    pub fn new(ctx: &mut Ctx, addr: Addr, partitions: &[PartitionId]) -> Consumer {
        ctx.after(100 * MS, Event::Client { client: addr });
        let positions = partitions.iter().map(|&id| (id, Offset::ZERO)).collect();
        Consumer { addr, positions, epochs: BTreeMap::new() }
    }

    /// Asks for more of each partition.
    pub fn handle_tick(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        ctx.after(TICK, Event::Client { client: self.addr });
        for (&partition, &at) in &self.positions {
            let any = ctx.chance(200).then(|| ctx.nodes[ctx.random.usize(0..ctx.nodes.len())]);
            let from = any.or_else(|| find_leader(ctx, nodes, partition));
            if let Some(from) = from {
                ctx.send(self.addr, from, Message::Fetch { partition, at });
            }
        }
    }

    /// A replica handed something out.
    pub fn handle_fetched(
        &mut self,
        ctx: &mut Ctx,
        partition: PartitionId,
        at: Offset,
        fetched: &Fetched,
    ) {
        let newest = self.epochs.entry(partition).or_default();
        if fetched.epoch < *newest {
            return;
        }
        *newest = fetched.epoch;
        ctx.checks.shown(self.addr, partition, fetched);
        let Some(position) = self.positions.get_mut(&partition) else { return };
        // An answer that was overtaken by another.
        if at != *position {
            return;
        }
        if *position < fetched.log_start {
            *position = fetched.log_start;
        }
        for entry in &fetched.entries {
            if entry.base == *position {
                *position = entry.end();
            }
        }
    }
}
