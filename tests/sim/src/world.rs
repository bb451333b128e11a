//! The world: nodes, controllers and clients in virtual time.

use crate::checks::{Coverage, Violation, converge};
use crate::consumer::Consumer;
use crate::controller::Controller;
use crate::ctx::Ctx;
use crate::event::{Addr, CLIENTS, Event, Mend, Message};
use crate::faults::Faults;
use crate::member::Member;
use crate::mutation::Mutation;
use crate::node::Node;
use crate::producer::Producer;
use crate::queue::{MS, Micros};
use crate::transform::{self, Shape};
use std::collections::BTreeSet;
use weir_core::cluster::ClusterAsk;
use weir_core::group::Slot;
use weir_core::ids::{DiskId, Offset, PartitionId, PartitionIndex, TopicId};
use weir_core::metadata::GROUPS_PARTITION;

/// How long things break in a run.
const FAULTY: Micros = 8_000 * MS;
/// How long the world has to recover.
const RECOVERY: Micros = 8_000 * MS;
/// Of that, how long nobody writes.
const QUIET: Micros = 1_500 * MS;

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The invariants that did not hold.
    pub violations: Vec<Violation>,
    /// A hash of everything that happened.
    pub trace: u64,
    /// How many acknowledgements were given.
    pub acknowledged: u64,
    /// How many leaderships began.
    pub elections: u64,
    /// How many logs were cut, and how many began anew.
    pub cuts: (u64, u64),
    /// What else occurred.
    pub coverage: Coverage,
}

/// Everything.
pub struct World {
    ctx: Ctx,
    controller: Controller,
    nodes: Vec<Node>,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    members: Vec<Member>,
    faults: Faults,
}

impl World {
    /// The world of a seed, which says what happens if it is `verbose`.
    pub fn new(seed: u64, mutation: Mutation, verbose: bool) -> World {
        let mut shape = fastrand::Rng::with_seed(seed ^ 0x5eed);
        let count = shape.u32(3..=5);
        let addrs: Vec<Addr> = (1..=count).collect();
        let voters = addrs[..3].to_vec();
        let mut ctx = Ctx::new(seed, addrs.clone(), voters, mutation);
        ctx.verbose = verbose;
        let controller = Controller::new(&mut ctx);
        let mut nodes = Vec::new();
        for &addr in &addrs {
            nodes.push(Node::new(addr, DiskId(ctx.fresh())));
            ctx.after(0, Event::Start { node: addr });
        }
        let partitions: Vec<PartitionId> = (1..=shape.u32(1..=3)).map(PartitionId).collect();
        let replicas = shape.u32(2..=3);
        let min_insync = shape.u32(1..=2);
        let mut placed = vec![GROUPS_PARTITION];
        placed.extend(&partitions);
        let shapes = [Shape::None, Shape::Direct, Shape::Outbox, Shape::Both];
        ctx.lanes = shapes[shape.usize(0..shapes.len())].lanes(&partitions);
        placed.extend(transform::partitions(&ctx.lanes));
        let place = ClusterAsk::Place { partitions: placed, replicas, min_insync };
        ctx.after(400 * MS, Event::Replicated { term: 1, ask: place });
        let producers = (0..2).map(|n| Producer::new(&mut ctx, CLIENTS + n, &partitions));
        let producers: Vec<Producer> = producers.collect();
        let homes = ctx.lanes.iter().filter(|lane| lane.to.is_none()).map(|lane| lane.home);
        let read: Vec<_> = partitions.iter().copied().chain(homes).collect();
        let consumer = Consumer::new(&mut ctx, CLIENTS + 10, &read);
        let slots: BTreeSet<Slot> = (0..6).map(|n| (TopicId(1), PartitionIndex(n))).collect();
        let members =
            (0..3).map(|n| Member::new(&mut ctx, CLIENTS + 20 + n, slots.clone(), n == 2));
        let members = members.collect();
        let faults = Faults::new(&mut ctx);
        World { ctx, controller, nodes, producers, consumers: vec![consumer], members, faults }
    }

    /// Lets everything happen.
    pub fn run(mut self) -> Outcome {
        self.run_until(FAULTY);
        self.heal();
        self.run_until(FAULTY + RECOVERY - QUIET);
        self.ctx.quiet = true;
        self.run_until(FAULTY + RECOVERY);
        let World { ctx, controller, nodes, producers, consumers, members, .. } = &mut self;
        for node in nodes.iter_mut() {
            for (&partition, copy) in &mut node.copies {
                let log = node.disk.log(partition);
                let [_, committed, ..] = copy.replica.ends();
                ctx.checks.ended(node.addr, partition, committed, log);
                if let Some(leader) = copy.replica.leader() {
                    let epoch = leader.epoch();
                    ctx.checks.ended_leader(node.addr, partition, epoch, log);
                    if committed == log.end() {
                        ctx.checks.ended_state(&ctx.lanes, partition, log);
                    }
                }
            }
        }
        let described = describe(nodes);
        ctx.say(|| described);
        let lost = ctx.checks.lost_disks().clone();
        let whole = converge::is_whole(controller, &lost);
        ctx.checks.ended_lanes(&ctx.lanes, whole);
        let mut violations = std::mem::take(&mut ctx.checks.violations);
        violations.extend(converge::check(
            controller,
            nodes,
            (producers, consumers, members),
            &lost,
        ));
        Outcome {
            violations,
            trace: ctx.queue.trace(),
            acknowledged: ctx.checks.acknowledged,
            elections: ctx.checks.elections,
            cuts: ctx.checks.cuts,
            coverage: ctx.checks.coverage,
        }
    }

    fn run_until(&mut self, until: Micros) {
        while let Some((at, event)) = self.ctx.queue.pop(until) {
            self.ctx.now = at;
            let decided = self.controller.log.len();
            self.handle(event);
            let Controller { image, log, .. } = &self.controller;
            self.ctx.checks.look(image, log.len() > decided, &self.nodes);
        }
        self.ctx.now = until;
    }

    /// All faults end.
    fn heal(&mut self) {
        self.ctx.healed = true;
        self.ctx.network.heal();
        for node in &mut self.nodes {
            node.paused_until = 0;
            (node.disk.full, node.disk.slow) = (false, false);
            self.ctx.after(0, Event::Start { node: node.addr });
        }
    }

    fn handle(&mut self, event: Event) {
        let ctx = &mut self.ctx;
        match event {
            Event::Control => self.controller.handle_tick(ctx, &self.nodes),
            Event::Replicated { term, ask } => {
                self.controller.handle_replicated(ctx, &self.nodes, term, ask);
            }
            Event::Fault => self.faults.strike(ctx, &mut self.controller, &mut self.nodes),
            Event::Mend(mend) => self.mend(&mend),
            Event::Client { client } => self.tick_client(client),
            Event::Start { node } => {
                let (node, ctx) = self.node(node);
                node.handle_start(ctx);
            }
            Event::Deliver { from, to, message } if to >= CLIENTS => {
                self.deliver_to_client(from, to, message);
            }
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::Tick { node, run } => self.at_node(node, run, Event::Tick { node, run }),
            Event::Synced { node, run, .. }
            | Event::Cut { node, run, .. }
            | Event::View { node, run, .. }
            | Event::Snapshot { node, run, .. }
            | Event::Ran { node, run, .. }
            | Event::Room { node, run, .. }
            | Event::Reopened { node, run } => self.at_node(node, run, event),
        }
    }

    fn node(&mut self, addr: Addr) -> (&mut Node, &mut Ctx) {
        (&mut self.nodes[addr as usize - 1], &mut self.ctx)
    }

    /// What happens within a run of a node; later if it is paused, never if the run is over.
    fn at_node(&mut self, addr: Addr, run: u64, event: Event) {
        let (node, ctx) = self.node(addr);
        if !node.up || node.run != run {
            return;
        }
        if node.paused_until > ctx.now {
            let at = node.paused_until;
            return ctx.queue.push(at, event);
        }
        match event {
            Event::Tick { .. } => node.handle_tick(ctx),
            Event::Synced { era, ends, .. } => node.handle_synced(ctx, era, ends),
            Event::Cut { era, partition, cut, .. } => node.handle_cut(ctx, era, partition, &cut),
            Event::Snapshot { snapshot, .. } => node.handle_snapshot(ctx, snapshot),
            Event::View { era, partition, .. } => node.handle_view(ctx, era, partition),
            Event::Reopened { .. } => node.handle_reopened(ctx),
            Event::Ran { lane, serial, .. } => node.handle_ran(ctx, lane, serial),
            Event::Room { lane, to, serial, .. } => node.handle_room(ctx, (lane, to), serial),
            _ => {}
        }
    }

    fn deliver(&mut self, from: Addr, to: Addr, message: Message) {
        let node = &mut self.nodes[to as usize - 1];
        let ctx = &mut self.ctx;
        if !node.up {
            return;
        }
        if node.paused_until > ctx.now {
            let at = node.paused_until;
            return ctx.queue.push(at, Event::Deliver { from, to, message });
        }
        match message {
            Message::Ask(ask) => self.controller.handle_ask(ctx, to, ask),
            Message::Heartbeat { node, incarnation } => {
                self.controller.handle_heartbeat(ctx, to, (node, incarnation));
            }
            Message::Metadata { committed } => {
                node.handle_metadata(ctx, &self.controller.log[..committed]);
            }
            message => node.handle_message(ctx, from, message),
        }
    }

    fn deliver_to_client(&mut self, _from: Addr, to: Addr, message: Message) {
        let ctx = &mut self.ctx;
        match message {
            Message::Produced { partition, connection, correlation, result } => {
                let producer = self.producers.iter_mut().find(|client| client.addr == to);
                if let Some(producer) = producer {
                    producer.handle_produced(ctx, (partition, connection), correlation, result);
                }
            }
            Message::Fetched { partition, at, fetched } => {
                let consumer = self.consumers.iter_mut().find(|client| client.addr == to);
                if let Some(consumer) = consumer {
                    consumer.handle_fetched(ctx, partition, at, &fetched);
                }
            }
            Message::Grouped { correlation, answer } => {
                let member = self.members.iter_mut().find(|client| client.addr == to);
                if let Some(member) = member {
                    member.handle_answer(ctx, correlation, answer);
                }
            }
            _ => {}
        }
    }

    fn tick_client(&mut self, client: Addr) {
        let ctx = &mut self.ctx;
        for producer in self.producers.iter_mut().filter(|one| one.addr == client) {
            producer.handle_tick(ctx, &self.nodes);
        }
        for consumer in self.consumers.iter_mut().filter(|one| one.addr == client) {
            consumer.handle_tick(ctx, &self.nodes);
        }
        for member in self.members.iter_mut().filter(|one| one.addr == client) {
            member.handle_tick(ctx, &self.nodes);
        }
    }

    fn mend(&mut self, mend: &Mend) {
        match *mend {
            Mend::Link { from, to } => self.ctx.network.mend(from, to),
            Mend::Room { node } => self.node(node).0.disk.full = false,
            Mend::Fast { node } => self.node(node).0.disk.slow = false,
        }
    }
}

/// One line per replica, for a human who looks at a failure.
fn describe(nodes: &mut [Node]) -> String {
    let mut text = String::from("in the end");
    for node in nodes {
        for (partition, copy) in &mut node.copies {
            let [start, commit, durable, end] = copy.replica.ends().map(|Offset(n)| n);
            let leads = if copy.replica.leader().is_some() { 'L' } else { 'f' };
            let ends = format!("start={start} commit={commit} durable={durable} end={end}");
            text += &format!("\nnode {} {partition} {leads} {ends}", node.addr);
        }
    }
    text
}
