//! What breaks, and when: drawn from the seed. Each run has its own mix.

use crate::controller::Controller;
use crate::ctx::Ctx;
use crate::event::{Addr, Event, Mend};
use crate::node::Node;
use crate::queue::{MS, Micros};
use weir_core::cluster::ClusterAsk;
use weir_core::ids::{DiskId, NodeId};

/// How often things break in a run.
#[derive(Debug)]
pub struct Faults {
    /// The mean time between two faults.
    interval: Micros,
    /// The weights of the kinds of fault, in the order of [`Kind`].
    weights: Vec<u32>,
    /// Whether a disk was lost: once in a run is enough, twice would excuse everything.
    disk_lost: bool,
}

/// Kinds of fault.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Kill,
    PowerLoss,
    Pause,
    CutLink,
    Isolate,
    Split,
    DiskError,
    DiskFull,
    DiskSlow,
    DiskLost,
    ClockJump,
    Reassign,
    ControllerLost,
}

const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::Pause,
    Kind::CutLink,
    Kind::Isolate,
    Kind::Split,
    Kind::DiskError,
    Kind::DiskFull,
    Kind::DiskSlow,
    Kind::DiskLost,
    Kind::ClockJump,
    Kind::Reassign,
    Kind::ControllerLost,
];

impl Faults {
    /// Draws a mix. The network's own faults are set here too.
    pub fn new(ctx: &mut Ctx) -> Faults {
        let network = &mut ctx.network;
        network.lost = ctx.random.u32(0..60);
        network.doubled = ctx.random.u32(0..60);
        network.late = ctx.random.u32(0..10);
        network.delay_max = ctx.random.u64(1..=10) * MS;
        // About half the kinds do not occur in a run, so that the others are seen by themselves.
        let weights = KINDS.iter().map(|_| ctx.random.u32(0..=8).saturating_sub(4)).collect();
        let interval = ctx.between(50 * MS, 800 * MS);
        ctx.after(800 * MS, Event::Fault);
        Faults { interval, weights, disk_lost: false }
    }

    /// Something breaks.
    pub fn strike(&mut self, ctx: &mut Ctx, controller: &mut Controller, nodes: &mut [Node]) {
        if ctx.healed {
            return;
        }
        let next = ctx.between(MS, 2 * self.interval);
        ctx.after(next, Event::Fault);
        let total: u32 = self.weights.iter().sum();
        if total == 0 {
            return;
        }
        let mut drawn = ctx.random.u32(0..total);
        let mut at = 0;
        while drawn >= self.weights[at] {
            drawn -= self.weights[at];
            at += 1;
        }
        let node = ctx.random.usize(0..nodes.len());
        ctx.say(|| format!("fault {:?} at node {}", KINDS[at], nodes[node].addr));
        self.apply(ctx, KINDS[at], controller, nodes, node);
    }

    fn apply(
        &mut self,
        ctx: &mut Ctx,
        kind: Kind,
        controller: &mut Controller,
        nodes: &mut [Node],
        at: usize,
    ) {
        // Nearly always shorter than a session, or well beyond one.
        let quick = ctx.chance(500);
        let time = if quick { ctx.between(MS, 200 * MS) } else { ctx.between(MS, 3_000 * MS) };
        let node = &mut nodes[at];
        let addr = node.addr;
        match kind {
            Kind::Kill | Kind::PowerLoss => {
                node.crash(ctx, matches!(kind, Kind::PowerLoss));
                ctx.after(time, Event::Start { node: addr });
            }
            Kind::Pause => node.paused_until = ctx.now + time,
            Kind::CutLink => {
                let to = ctx.nodes[ctx.random.usize(0..ctx.nodes.len())];
                cut(ctx, addr, to, time);
            }
            Kind::Isolate => {
                for other in ctx.nodes.clone() {
                    cut(ctx, addr, other, time);
                    cut(ctx, other, addr, time);
                }
            }
            Kind::Split => {
                let side: Vec<bool> = ctx.nodes.iter().map(|_| ctx.random.bool()).collect();
                for (a, &from) in ctx.nodes.clone().iter().enumerate() {
                    for (b, &to) in ctx.nodes.clone().iter().enumerate() {
                        if side[a] != side[b] {
                            cut(ctx, from, to, time);
                        }
                    }
                }
            }
            Kind::DiskError if node.up => node.fail_disk(ctx),
            Kind::DiskFull => {
                node.disk.full = true;
                ctx.after(time, Event::Mend(Mend::Room { node: addr }));
            }
            Kind::DiskSlow => {
                node.disk.slow = true;
                ctx.after(time, Event::Mend(Mend::Fast { node: addr }));
            }
            Kind::DiskLost if !self.disk_lost => {
                self.disk_lost = true;
                node.crash(ctx, false);
                ctx.checks.disk_lost(node.disk.id);
                let era = node.disk.era;
                node.disk = crate::disk::Disk::new(DiskId(ctx.fresh()));
                node.disk.era = era + 1;
                ctx.after(time, Event::Start { node: addr });
            }
            Kind::ClockJump => node.wall_offset_ms = ctx.random.i64(-1_000_000..1_000_000),
            Kind::Reassign => reassign(ctx, controller),
            Kind::ControllerLost => controller.leader = None,
            Kind::DiskError | Kind::DiskLost => {}
        }
    }
}

fn cut(ctx: &mut Ctx, from: Addr, to: Addr, time: Micros) {
    ctx.network.cut(from, to);
    ctx.after(time, Event::Mend(Mend::Link { from, to }));
}

/// An operator moves a partition.
fn reassign(ctx: &mut Ctx, controller: &mut Controller) {
    let partitions: Vec<_> = controller.image.partitions().keys().copied().collect();
    let (Some(leader), false) = (controller.leader, partitions.is_empty()) else { return };
    let partition = partitions[ctx.random.usize(0..partitions.len())];
    let count = controller.image.partitions()[&partition].replicas.len();
    let mut target: Vec<NodeId> = ctx.nodes.iter().map(|&addr| NodeId(addr)).collect();
    ctx.random.shuffle(&mut target);
    target.truncate(count);
    controller.handle_ask(ctx, leader, ClusterAsk::Reassign { partition, target });
}
