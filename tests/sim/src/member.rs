//! A member of the consumer group: joins, heartbeats, works on what it is given, stores how far it
//! is, and finishes what is taken from it. It stops by itself when it hears nothing for a session;
//! one that stalls for longer is a zombie, and must be fenced.

use crate::coordinator::GroupAnswer;
use crate::ctx::Ctx;
use crate::event::{Addr, Event, Message};
use crate::node::Node;
use crate::producer::find_leader;
use crate::queue::{MS, Micros};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::group::{Generation, GroupAsk, GroupError, MemberId, Slot};
use weir_core::ids::Offset;
use weir_core::metadata::GROUPS_PARTITION;

/// How often a member looks at its timers.
const TICK: Micros = 40 * MS;
/// How long it may be silent.
const SESSION: Micros = 500 * MS;

/// A member.
pub struct Member {
    /// Its address.
    pub addr: Addr,
    id: MemberId,
    instance: Option<String>,
    wants: BTreeSet<Slot>,
    generation: Option<Generation>,
    /// What it works on.
    pub works: BTreeMap<Slot, Work>,
    /// When the newest request was sent that was answered.
    heard_at: Micros,
    stalled_until: Micros,
}

/// Its work on a partition.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    since: Generation,
    position: Offset,
    /// It was taken away, and will be finished then.
    ends_at: Option<Micros>,
}

impl Member {
    /// A member that works on these partitions; static ones keep a name.
    pub fn new(ctx: &mut Ctx, addr: Addr, wants: BTreeSet<Slot>, is_static: bool) -> Member {
        ctx.after(500 * MS, Event::Client { client: addr });
        Member {
            addr,
            id: MemberId(ctx.fresh()),
            instance: is_static.then(|| format!("member-{addr}")),
            wants,
            generation: None,
            works: BTreeMap::new(),
            heard_at: 0,
            stalled_until: 0,
        }
    }

    /// Ends this life without a word.
    fn restart(&mut self, ctx: &mut Ctx) {
        for &slot in self.works.keys() {
            ctx.checks.stops(self.addr, slot);
        }
        self.works.clear();
        self.id = MemberId(ctx.fresh());
        self.generation = None;
        self.heard_at = ctx.now;
    }

    /// Heartbeats and work.
    pub fn handle_tick(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        ctx.after(TICK, Event::Client { client: self.addr });
        if ctx.now < self.stalled_until {
            return;
        }
        let coordinator = find_leader(ctx, nodes, GROUPS_PARTITION);
        if !ctx.healed {
            match ctx.random.u32(0..1_000) {
                0..4 => {
                    self.stalled_until = ctx.now + ctx.between(MS, 3 * SESSION);
                    return;
                }
                4..7 => self.restart(ctx),
                7..9 => {
                    let leave = GroupAsk::Leave { member: self.id };
                    self.restart(ctx);
                    self.ask(ctx, coordinator, leave);
                }
                _ => {}
            }
        }
        if self.generation.is_some() && ctx.now > self.heard_at + SESSION {
            self.restart(ctx);
        }
        let commits = self.work(ctx);
        for ask in commits {
            self.ask(ctx, coordinator, ask);
        }
        let member = self.id;
        let ask = match self.generation {
            Some(generation) => {
                let holds = self.works.keys().copied().collect();
                GroupAsk::Heartbeat { member, generation, holds }
            }
            None => {
                let (instance, wants) = (self.instance.clone(), self.wants.clone());
                let session_ms = (SESSION / MS) as u32;
                let topics = BTreeSet::new();
                GroupAsk::Join { member, instance, session_ms, topics, wants }
            }
        };
        self.ask(ctx, coordinator, ask);
    }

    fn ask(&self, ctx: &mut Ctx, coordinator: Option<Addr>, ask: GroupAsk) {
        if let Some(to) = coordinator {
            ctx.send(self.addr, to, Message::Group { correlation: ctx.now, ask });
        }
    }

    /// Goes on with each partition; what was taken away is finished and let go.
    fn work(&mut self, ctx: &mut Ctx) -> Vec<GroupAsk> {
        let mut asks = Vec::new();
        let (member, addr, now) = (self.id, self.addr, ctx.now);
        self.works.retain(|&slot, work| {
            if work.ends_at.is_some_and(|at| at <= now) {
                ctx.checks.stops(addr, slot);
                return false;
            }
            work.position = work.position.plus(ctx.random.u32(0..5));
            if !ctx.quiet && ctx.chance(300) {
                let (since, position) = (work.since, work.position);
                asks.push(GroupAsk::Commit { member, slot, since, position });
            }
            true
        });
        asks
    }

    /// The coordinator answered.
    pub fn handle_answer(&mut self, ctx: &mut Ctx, sent_at: Micros, answer: GroupAnswer) {
        if ctx.now < self.stalled_until {
            let (from, to) = (0, self.addr);
            let message = Message::Grouped { correlation: sent_at, answer };
            return ctx.queue.push(self.stalled_until, Event::Deliver { from, to, message });
        }
        match answer {
            GroupAnswer::Assigned { member, generation, slots } if member == self.id => {
                if self.generation.is_some_and(|known| generation < known) {
                    return;
                }
                // What was asked before the session ran out proves nothing about now.
                if ctx.now > sent_at + SESSION {
                    return;
                }
                self.heard_at = self.heard_at.max(sent_at);
                self.generation = Some(generation);
                self.take(ctx, &slots);
            }
            GroupAnswer::Stored { slot, since, position } => {
                ctx.checks.stored(slot, since, position);
            }
            GroupAnswer::Refused { member, slot, error } if member == self.id => {
                match (error, slot) {
                    (GroupError::UnknownMember(_), _) => self.restart(ctx),
                    (GroupError::WentBack { stored, .. }, Some(slot)) => {
                        if let Some(work) = self.works.get_mut(&slot) {
                            work.position = work.position.max(stored);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, ctx: &mut Ctx, slots: &BTreeMap<Slot, (Generation, Offset)>) {
        for (slot, work) in &mut self.works {
            let ends_at = ctx.now + ctx.random.u64(0..=200 * MS);
            match slots.contains_key(slot) {
                true => work.ends_at = None,
                false => work.ends_at = work.ends_at.or(Some(ends_at)),
            }
        }
        for (&slot, &(since, position)) in slots {
            if self.works.get(&slot).is_none_or(|work| work.since < since) {
                self.works.insert(slot, Work { since, position, ends_at: None });
                ctx.checks.works((self.addr, self.id), slot, since, position);
            }
        }
    }

    /// What it works on, if nothing of it is about to end.
    pub fn settled(&self) -> Option<BTreeSet<Slot>> {
        let ends = self.works.values().any(|work| work.ends_at.is_some());
        (!ends && self.generation.is_some()).then(|| self.works.keys().copied().collect())
    }
}
