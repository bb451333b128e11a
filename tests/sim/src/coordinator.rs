//! A node that leads the groups partition coordinates the group: it decides with the core's
//! [`Group`], writes the changes as entries, and answers when they are committed.

use crate::ctx::{Ctx, duration};
use crate::disk::{Entry, Log};
use crate::event::{Addr, Message};
use crate::mutation::Mutation;
use crate::node::{Node, Reply};
use std::collections::BTreeMap;
use weir_core::group::sessions::GroupSessions;
use weir_core::group::{Generation, Group, GroupAsk, GroupChange, GroupError, MemberId, Slot};
use weir_core::ids::{LeaderEpoch, Offset};
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::leader::Append;
use weir_core::partition::replica::Effect;

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAnswer {
    /// To a join or heartbeat: what the member may work on.
    Assigned {
        /// The member.
        member: MemberId,
        /// The generation.
        generation: Generation,
        /// Since when it owns each partition, and the position stored for it.
        slots: BTreeMap<Slot, (Generation, Offset)>,
    },
    /// A position is stored.
    Stored {
        /// The partition.
        slot: Slot,
        /// Under which ownership.
        since: Generation,
        /// The position.
        position: Offset,
    },
    /// It is refused.
    Refused {
        /// Who asked.
        member: MemberId,
        /// For which partition, if it was a commit.
        slot: Option<Slot>,
        /// Why.
        error: GroupError,
    },
}

/// The group as the leader of the groups partition knows it.
pub struct Coordinator {
    epoch: LeaderEpoch,
    group: Group,
    sessions: GroupSessions,
}

impl Coordinator {
    fn new(ctx: &Ctx, epoch: LeaderEpoch, log: &Log) -> Coordinator {
        let mut group = Group::default();
        for entry in &log.entries {
            if let Some(change) = ctx.checks.contents.get(&entry.id) {
                group.apply(change);
            }
        }
        Coordinator { epoch, group, sessions: GroupSessions::new(duration(ctx.now)) }
    }

    fn answer(&self, ask: &GroupAsk, decided: Result<(), GroupError>) -> Option<GroupAnswer> {
        let (member, slot) = match ask {
            GroupAsk::Join { member, .. } | GroupAsk::Heartbeat { member, .. } => (*member, None),
            GroupAsk::Commit { member, slot, .. } => (*member, Some(*slot)),
            GroupAsk::Leave { .. }
            | GroupAsk::Reset { .. }
            | GroupAsk::Rewant { .. }
            | GroupAsk::Forget { .. } => return None,
        };
        if let Err(error) = decided {
            return Some(GroupAnswer::Refused { member, slot, error });
        }
        if let GroupAsk::Commit { slot, since, position, .. } = ask {
            return Some(GroupAnswer::Stored { slot: *slot, since: *since, position: *position });
        }
        let assigned = self.group.assigned(member).into_iter();
        let slots = assigned.map(|(slot, since)| {
            let position = self.group.positions().get(&slot).copied().unwrap_or_default();
            (slot, (since, position))
        });
        let generation = self.group.generation();
        Some(GroupAnswer::Assigned { member, generation, slots: slots.collect() })
    }

    /// Breaks the answer on purpose: another member's partition is given to this one too.
    fn two_owners(&self, answer: &mut GroupAnswer) {
        if let GroupAnswer::Assigned { slots, .. } = answer {
            for (&slot, owner) in self.group.owners() {
                slots.entry(slot).or_insert((owner.since, Offset::ZERO));
            }
        }
    }
}

impl Node {
    /// The coordinator, if this node leads the groups partition: taken over first if it is new.
    fn coordinator(&mut self, ctx: &Ctx) -> Option<&mut Coordinator> {
        let copy = self.copies.get_mut(&GROUPS_PARTITION)?;
        let epoch = copy.replica.leader()?.epoch();
        if self.coordinator.as_ref().is_none_or(|known| known.epoch != epoch) {
            let log = self.disk.log(GROUPS_PARTITION);
            self.coordinator = Some(Coordinator::new(ctx, epoch, log));
        }
        self.coordinator.as_mut()
    }

    /// Lets go members that were silent.
    pub(crate) fn tick_group(&mut self, ctx: &mut Ctx) {
        let Some(coordinator) = self.coordinator(ctx) else { return };
        for ask in coordinator.sessions.poll_expired(duration(ctx.now), &coordinator.group) {
            self.handle_group(ctx, None, &ask);
        }
    }

    /// A member asks.
    pub(crate) fn handle_group(
        &mut self,
        ctx: &mut Ctx,
        from: Option<(Addr, u64)>,
        ask: &GroupAsk,
    ) {
        let full = self.disk.full;
        let Some(coordinator) = self.coordinator(ctx) else { return };
        if let GroupAsk::Join { member, .. }
        | GroupAsk::Heartbeat { member, .. }
        | GroupAsk::Commit { member, .. } = ask
        {
            coordinator.sessions.handle_heard(duration(ctx.now), *member);
        }
        let decided = coordinator.group.decide(ask);
        let place = match &decided {
            Ok(change) if change.is_empty() => None,
            Ok(_) if full => return,
            Ok(change) => match self.append_change(ctx, change) {
                Some(place) => Some(place),
                None => return,
            },
            Err(_) => None,
        };
        let Some(coordinator) = &mut self.coordinator else { return };
        if let (Ok(change), Some(_)) = (&decided, place) {
            coordinator.group.apply(change);
        }
        let mut answer = coordinator.answer(ask, decided.map(drop));
        if ctx.mutation == Mutation::TwoOwners {
            answer.iter_mut().for_each(|answer| coordinator.two_owners(answer));
        }
        let Some(copy) = self.copies.get_mut(&GROUPS_PARTITION) else { return };
        let Some(leader) = copy.replica.leader() else { return };
        // An answer without a change is based on what is in the log all the same.
        let end = leader.log_end();
        let (id, base) = place.unwrap_or((0, Offset::ZERO));
        let effects = match from {
            Some((client, correlation)) => {
                let stream = (0, 0);
                let refusal = None;
                let reply =
                    Reply { client, correlation, stream, refusal, id, base, answer, own: None };
                leader.park(end, reply).map(Effect::Committed).into_iter().collect()
            }
            None => Vec::new(),
        };
        self.perform(ctx, GROUPS_PARTITION, effects);
    }

    /// Writes a change as an entry. Returns its content's number and its offset.
    fn append_change(&mut self, ctx: &mut Ctx, change: &GroupChange) -> Option<(u64, Offset)> {
        let wall = self.wall(ctx);
        let copy = self.copies.get_mut(&GROUPS_PARTITION)?;
        let leader = copy.replica.leader()?;
        let Ok(Append::Write { base_offset: base, epoch, append_time: time }) =
            leader.decide_append(wall, None)
        else {
            return None;
        };
        leader.handle_appended(time, 1, None);
        let id = ctx.fresh();
        let mut stored = change.clone();
        if ctx.mutation == Mutation::PositionBack && ctx.chance(50) {
            stored.positions.values_mut().for_each(|position| position.0 -= 50);
        }
        ctx.checks.changed(id, stored);
        let entry = Entry { base, count: 1, epoch, time, producer: None, id, state: Vec::new() };
        self.write(ctx, GROUPS_PARTITION, entry);
        Some((id, base))
    }

    /// Sends a coordinator's answer, now that it is committed.
    pub(crate) fn answer_group(&mut self, ctx: &mut Ctx, reply: Reply) {
        if let Some(answer) = reply.answer {
            let message = Message::Grouped { correlation: reply.correlation, answer };
            ctx.send(self.addr, reply.client, message);
        }
    }
}
