//! The controllers: a modelled replicated log of asks. At most one controller can commit at a time,
//! and only while it reaches a majority of the controllers. What it had taken when it lost that may
//! be committed by its successor, or never.

use crate::ctx::{Ctx, duration};
use crate::event::{Addr, Event, Message};
use crate::node::Node;
use crate::queue::{MS, Micros};
use weir_core::cluster::sessions::{Heartbeat, Sessions};
use weir_core::cluster::{Cluster, ClusterAsk};
use weir_core::ids::NodeId;

/// How often the controllers look at their timers.
const TICK: Micros = 25 * MS;
/// How long a node may be silent.
pub const SESSION: Micros = 600 * MS;

/// The controllers together.
pub struct Controller {
    /// Every committed ask, for ever.
    pub log: Vec<ClusterAsk>,
    /// The image after all of them.
    pub image: Cluster,
    /// Which controller leads, and since when.
    pub leader: Option<Addr>,
    term: u64,
    sessions: Sessions,
    /// When an election ends, if one is on.
    elects_at: Option<Micros>,
    prefer_at: Micros,
}

impl Controller {
    /// Nobody leads yet.
    pub fn new(ctx: &mut Ctx) -> Controller {
        ctx.after(0, Event::Control);
        Controller {
            log: Vec::new(),
            image: Cluster::default(),
            leader: None,
            term: 0,
            sessions: Sessions::new(duration(0), duration(SESSION), &Cluster::default()),
            elects_at: None,
            prefer_at: 0,
        }
    }

    fn has_majority(ctx: &Ctx, nodes: &[Node], one: Addr) -> bool {
        let works = |addr: Addr| {
            let node = nodes.iter().find(|node| node.addr == addr);
            node.is_some_and(|node| node.up && node.paused_until <= ctx.now)
        };
        let reached = ctx.voters.iter().filter(|&&other| {
            let linked = ctx.network.passes(one, other) && ctx.network.passes(other, one);
            works(other) && (other == one || linked)
        });
        works(one) && reached.count() * 2 > ctx.voters.len()
    }

    /// Elections, silent nodes, and telling everybody how far the log is.
    pub fn handle_tick(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        ctx.after(TICK, Event::Control);
        match self.leader {
            Some(leader) if Controller::has_majority(ctx, nodes, leader) => self.lead(ctx, leader),
            Some(_) => {
                self.leader = None;
                self.elects_at = Some(ctx.now + ctx.between(100 * MS, 600 * MS));
            }
            None if self.elects_at.is_none_or(|at| at <= ctx.now) => self.elect(ctx, nodes),
            None => {}
        }
    }

    fn elect(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        let mut able = ctx.voters.clone();
        able.retain(|&voter| Controller::has_majority(ctx, nodes, voter));
        self.elects_at = Some(ctx.now + 50 * MS);
        if able.is_empty() {
            return;
        }
        self.term += 1;
        self.leader = Some(able[ctx.random.usize(0..able.len())]);
        self.sessions = Sessions::new(duration(ctx.now), duration(SESSION), &self.image);
    }

    fn lead(&mut self, ctx: &mut Ctx, leader: Addr) {
        self.sessions.observe(duration(ctx.now), &self.image);
        for ask in self.sessions.poll_expired(duration(ctx.now), &self.image) {
            self.replicate(ctx, ask);
        }
        if ctx.now >= self.prefer_at {
            self.prefer_at = ctx.now + 500 * MS;
            for ask in self.image.poll_prefer(1) {
                self.replicate(ctx, ask);
            }
        }
        self.tell(ctx, leader);
    }

    fn tell(&mut self, ctx: &mut Ctx, leader: Addr) {
        for at in 0..ctx.nodes.len() {
            ctx.send(leader, ctx.nodes[at], Message::Metadata { committed: self.log.len() });
        }
    }

    fn replicate(&mut self, ctx: &mut Ctx, ask: ClusterAsk) {
        let delay = ctx.between(500, 15 * MS);
        ctx.after(delay, Event::Replicated { term: self.term, ask });
    }

    /// An ask arrived at a controller.
    pub fn handle_ask(&mut self, ctx: &mut Ctx, at: Addr, ask: ClusterAsk) {
        // What would change nothing is not worth an entry.
        if self.leader == Some(at) && self.image.decide(&ask).is_ok() {
            self.replicate(ctx, ask);
        }
    }

    /// A heartbeat arrived at a controller.
    pub fn handle_heartbeat(
        &mut self,
        ctx: &mut Ctx,
        at: Addr,
        (node, incarnation): (NodeId, weir_core::ids::Incarnation),
    ) {
        if self.leader != Some(at) {
            return;
        }
        match self.sessions.handle_heartbeat(duration(ctx.now), &self.image, node, incarnation) {
            Heartbeat::Alive => {}
            Heartbeat::Back(ask) => self.replicate(ctx, ask),
            Heartbeat::Register => {
                ctx.send(at, node.0, Message::RegisterAnew { incarnation });
            }
        }
    }

    /// An ask was replicated to a majority, if its leader still had one.
    pub fn handle_replicated(&mut self, ctx: &mut Ctx, nodes: &[Node], term: u64, ask: ClusterAsk) {
        let leader = self.leader.filter(|&leader| Controller::has_majority(ctx, nodes, leader));
        if term != self.term || leader.is_none() {
            // Some of it reached others, who may carry it on in a later term.
            if term + 3 > self.term && ctx.chance(500) {
                let delay = ctx.between(MS, 500 * MS);
                let term = self.term;
                ctx.after(delay, Event::Replicated { term, ask });
            }
            return;
        }
        if let Ok(change) = self.image.decide(&ask) {
            ctx.say(|| format!("decided {ask:?}: {:?}", change.partitions));
            self.image.apply(&change);
        }
        self.log.push(ask);
        if let Some(leader) = leader {
            self.tell(ctx, leader);
        }
    }
}
