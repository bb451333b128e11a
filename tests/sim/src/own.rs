//! Entries of a node's own, those of lanes and of delivered parts, and what the node knows of keyed
//! state. Stands for `append.rs` and `state.rs` of `node/crates/broker/src/deploy/`: an entry is
//! appended in the epoch that it was decided in, or not at all; what it changes is known where the
//! log says that it is committed; and what a node knows of a partition's state is read from its log
//! before it takes appends as its leader.

use crate::ctx::Ctx;
use crate::deliver::Turn;
use crate::disk::Entry;
use crate::distributor::Carrier;
use crate::lane::Job;
use crate::mutation::Mutation;
use crate::node::{Node, Reply};
use crate::transform::Content;
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::deploy::keys::{self, Lane, Meaning};
use weir_core::entry::StateChange;
use weir_core::ids::{LeaderEpoch, Offset, PartitionId};
use weir_core::partition::leader::Append;
use weir_core::partition::replica::{Effect, Role};
use weir_core::partition::view::PartitionView;

/// What a node's own entry was made by, and changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// By what.
    pub maker: Maker,
    /// Which of its attempts.
    pub serial: u64,
    /// The changes of keyed state.
    pub changes: Vec<StateChange>,
}

/// What makes entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// A lane, by its place in the list.
    Lane(usize),
    /// Whoever brings parts of a lane into a partition.
    Turn(Lane, PartitionId),
}

/// An entry to be.
pub(crate) struct Draft {
    /// How many offsets it takes.
    pub(crate) count: u32,
    /// What it holds, besides the changes.
    pub(crate) content: Content,
    /// Who waits for it.
    pub(crate) own: Own,
}

/// Why an entry is refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room: the same may be tried again.
    Full,
    /// Begin anew.
    Other,
}

/// What a running node does besides replication.
#[derive(Default)]
pub(crate) struct Works {
    /// The keyed state of partitions: as of when this node came to lead, and what it committed
    /// since.
    pub(crate) states: BTreeMap<PartitionId, BTreeMap<Bytes, Bytes>>,
    /// Where inputs begin that are led elsewhere, as their leaders said last.
    pub(crate) begins: BTreeMap<PartitionId, Offset>,
    pub(crate) jobs: BTreeMap<usize, Job>,
    pub(crate) carriers: BTreeMap<usize, Carrier>,
    pub(crate) turns: BTreeMap<(Lane, PartitionId), Turn>,
}

/// How far a copy is, as lanes and distributors are told: `progress` of the broker's partitions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// This node leads, or is to.
    pub(crate) led: bool,
    /// It knows that all it began with is committed. While it waits for its log, and while that is
    /// reopened, this is as it was.
    pub(crate) settled: bool,
}

impl Node {
    /// The copy's role may have changed: `publish` in `broker/src/partition/roles.rs`.
    pub(crate) fn publish(&mut self, partition: PartitionId) {
        let me = self.id();
        let Some(copy) = self.copies.get_mut(&partition) else { return };
        let leads = copy.replica.assignment().and_then(|known| known.leader);
        copy.progress.led = leads.is_some_and(|leader| leader.node == me);
        match copy.replica.role() {
            Role::Leader(leader) => copy.progress.settled = leader.settled_watermark().is_some(),
            Role::Follower(_) | Role::Idle(_) => copy.progress.settled = false,
            Role::Waiting(_) | Role::Failed(_) | Role::Halted(..) => {}
        }
    }

    /// Whether lanes and distributors whose home this is work here.
    pub(crate) fn works_at(&self, home: PartitionId) -> bool {
        let progress = self.copies.get(&home).map(|copy| copy.progress);
        progress.is_some_and(|progress| progress.led && progress.settled)
    }

    /// This node is about to lead a partition whose log says this.
    pub(crate) fn load_state(&mut self, ctx: &Ctx, partition: PartitionId, view: &PartitionView) {
        if ctx.mutation == Mutation::StaleState && self.works.states.contains_key(&partition) {
            return;
        }
        self.works.states.insert(partition, view.state.clone());
    }

    /// Forgets what is known of a lane whose home another node leads.
    pub(crate) fn let_go(&mut self, ctx: &Ctx, lane: Lane, home: PartitionId) {
        let role = self.copies.get(&home).map(|copy| copy.replica.role());
        let bystander = matches!(role, Some(Role::Idle(_) | Role::Follower(_)));
        if bystander
            && ctx.mutation != Mutation::StaleState
            && let Some(state) = self.works.states.get_mut(&home)
        {
            state.retain(|key, _| match keys::read(key) {
                Some((other, meaning)) => other != lane || meaning == Meaning::Mark,
                None => true,
            });
        }
    }

    /// What is known of a partition's keyed state.
    pub(crate) fn state_at(&self, partition: PartitionId, key: &Bytes) -> Option<Bytes> {
        self.works.states.get(&partition)?.get(key).cloned()
    }

    /// Appends an entry in `fence`, or not at all.
    pub(crate) fn append_own(
        &mut self,
        ctx: &mut Ctx,
        (partition, fence): (PartitionId, LeaderEpoch),
        draft: Draft,
    ) -> Result<(), Refused> {
        let Draft { count, content, own } = draft;
        let (wall, full, addr) = (self.wall(ctx), self.disk.full, self.addr);
        let copy = self.copies.get_mut(&partition).ok_or(Refused::Other)?;
        let leader = copy.replica.leader().ok_or(Refused::Other)?;
        let Ok(Append::Write { base_offset: base, epoch, append_time: time }) =
            leader.decide_append(wall, None)
        else {
            return Err(Refused::Other);
        };
        if fence != epoch {
            return Err(Refused::Other);
        }
        if full {
            return Err(Refused::Full);
        }
        leader.handle_appended(time, count, None);
        let id = ctx.fresh();
        ctx.checks.made.insert(id, content);
        let state = own.changes.clone();
        let reply = Reply {
            client: addr,
            correlation: 0,
            stream: (0, 0),
            refusal: None,
            id,
            base,
            answer: None,
            own: Some(own),
        };
        // Nothing is committed before it is written: so it waits.
        let ready = leader.park(base.plus(count), reply);
        self.write(ctx, partition, Entry { base, count, epoch, time, producer: None, id, state });
        self.perform(ctx, partition, ready.map(Effect::Committed).into_iter().collect());
        Ok(())
    }

    /// An entry of its own is committed, at `base`, or nobody knows.
    pub(crate) fn handle_own(
        &mut self,
        ctx: &mut Ctx,
        partition: PartitionId,
        own: Own,
        committed: bool,
    ) {
        let Own { maker, serial, changes } = own;
        if committed {
            let state = self.works.states.entry(partition).or_default();
            for StateChange { key, value } in changes {
                match value {
                    Some(value) => state.insert(key, value),
                    None => state.remove(&key),
                };
            }
        }
        match maker {
            Maker::Lane(lane) => self.handle_run_committed(ctx, lane, serial, committed),
            Maker::Turn(lane, to) => {
                self.handle_part_committed(ctx, (lane, to), serial, committed);
            }
        }
    }

    /// What is committed of a partition can be read from the copy here: its log start, and where
    /// what is known to be committed ends.
    pub(crate) fn at_hand(&self, partition: PartitionId) -> Option<(Offset, Offset)> {
        let copy = self.copies.get(&partition)?;
        let known = copy.replica.assignment()?;
        let [log_start, committed, ..] = copy.replica.ends();
        known.insync.contains_key(&self.id()).then_some((log_start, committed))
    }
}
