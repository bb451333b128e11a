//! The coordinator of one consumer group: who is a member, who works on which partition, and how
//! far they are. Pure: no clock, no I/O.
//!
//! A request is decided against the group ([`Group::decide`]), which yields a [`GroupChange`].
//! Whoever drives it appends the change to the groups partition, applies it at once
//! ([`Group::apply`]), and answers when the entry is committed. (Answers without a change wait for
//! the log's end too: they are based on what is there.) A coordinator that takes over replays the
//! changes in its log.
//!
//! # How a partition changes hands
//!
//! Membership changes raise the *generation* and give every member a new *target*, moving no more
//! partitions than must be. A partition is *owned* by one member, or by nobody:
//!
//! | partition | event | next |
//! |---|---|---|
//! | free | heartbeat of the member whose target it is | owned, in the present generation |
//! | owned, in the owner's target | anything but the owner's end | unchanged, undisturbed |
//! | owned, not in the target now | heartbeat in the present generation without it | free |
//! | owned | its owner leaves or is silent for too long | free |
//! | owned | a member of the same instance name joins | owned by that one, in a new generation |
//!
//! A release counts only from a member that knows the present generation: then it has seen a target
//! without the partition, and cannot take it up again in this generation. A late copy of an earlier
//! heartbeat, sent before the partition was granted, therefore releases nothing.
//!
//! # Fencing
//!
//! A position is taken only from the owner, under the generation in which it came to own the
//! partition. Whoever lost it meanwhile is told, and no commit of its can undo the new owner's.
//!
//! # Topics
//!
//! Members name topics; which partitions those have is known to whoever drives the group, and may
//! change. It says so with [`GroupAsk::Rewant`], and forgets positions with [`GroupAsk::Forget`].

mod assign;
pub mod sessions;

use crate::ids::{Offset, PartitionIndex, TopicId};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A partition of a topic, as groups divide them.
pub type Slot = (TopicId, PartitionIndex);

/// Identifies a member for one life of its process; drawn at random there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

/// How often the membership changed. Requests that name an older one may be fenced.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// A name that survives restarts of the process: a member that joins under it takes over from
    /// the one before, and nothing moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// How long it may be silent, in milliseconds.
    pub session_ms: u32,
    /// The names of the topics that it subscribes to.
    #[serde(default)]
    pub topics: BTreeSet<String>,
    /// The partitions of those topics, as far as they exist.
    pub wants: BTreeSet<Slot>,
    /// Those that it shall own in the present generation.
    pub target: BTreeSet<Slot>,
}

/// Who works on a partition, and since which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The member.
    pub member: MemberId,
    /// The generation in which it came to own the partition.
    pub since: Generation,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    generation: Generation,
    members: BTreeMap<MemberId, Member>,
    owners: BTreeMap<Slot, Owner>,
    positions: BTreeMap<Slot, Offset>,
}

/// What members and operators ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupAsk {
    /// Become a member, or subscribe to other topics.
    Join {
        /// The member.
        member: MemberId,
        /// Its lasting name, if it has one.
        instance: Option<String>,
        /// How long it may be silent, in milliseconds.
        session_ms: u32,
        /// The names of the topics that it subscribes to.
        topics: BTreeSet<String>,
        /// The partitions that it would work on: those of the topics.
        wants: BTreeSet<Slot>,
    },
    /// Be a member no longer: said by itself, or of one that was silent.
    Leave {
        /// The member.
        member: MemberId,
    },
    /// The member lives.
    Heartbeat {
        /// The member.
        member: MemberId,
        /// The generation of the last answer that it acted on.
        generation: Generation,
        /// What it works on, or has not finished yet.
        holds: BTreeSet<Slot>,
    },
    /// So far everything is processed.
    Commit {
        /// The member.
        member: MemberId,
        /// The partition.
        slot: Slot,
        /// The generation in which the member came to own it.
        since: Generation,
        /// The next offset to process.
        position: Offset,
    },
    /// An operator sets positions, of a group without members.
    Reset {
        /// The new positions.
        positions: BTreeMap<Slot, Offset>,
    },
    /// The topics that members subscribe to have other partitions than before.
    Rewant {
        /// What each of these members wants now; one that is not known is passed over.
        wants: BTreeMap<MemberId, BTreeSet<Slot>>,
    },
    /// Positions are of no use any more. Not refused while there are members: those partitions are
    /// gone.
    Forget {
        /// Of which partitions.
        slots: BTreeSet<Slot>,
    },
}

/// A decided change: rows that are now so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupChange {
    /// The generation, if it is another.
    pub generation: Option<Generation>,
    /// Members; `None` if gone.
    pub members: BTreeMap<MemberId, Option<Member>>,
    /// Owners; `None` if free.
    pub owners: BTreeMap<Slot, Option<Owner>>,
    /// Positions.
    pub positions: BTreeMap<Slot, Offset>,
    /// Partitions that have no position any more.
    #[serde(default)]
    pub forgotten: BTreeSet<Slot>,
}

impl GroupChange {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == GroupChange::default()
    }
}

/// Why a request is refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// It left, was silent for too long, or was replaced: it must stop its work and join anew.
    #[error("member {} is not of this group (any more): join again", .0.0)]
    UnknownMember(MemberId),
    /// The partition belongs to another member, or to the same under a later generation.
    #[error("the partition is not the member's in generation {}", .since.0)]
    NotOwner {
        /// The generation that was named.
        since: Generation,
    },
    /// The position lies before the stored one.
    #[error("position {got} lies before {stored}, which is stored: use reset to go back")]
    WentBack {
        /// The stored one.
        stored: Offset,
        /// The one that came.
        got: Offset,
    },
    /// Positions are reset only while nobody works.
    #[error("the group has members: stop them first")]
    Active,
    /// The group is as large as it may be.
    #[error(
        "a group has at most {} members and {} partitions",
        limits::GROUP_MEMBERS_MAX,
        limits::GROUP_SLOTS_MAX
    )]
    Full,
}

impl Group {
    /// The present generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<MemberId, Member> {
        &self.members
    }

    /// Who owns what.
    #[must_use]
    pub fn owners(&self) -> &BTreeMap<Slot, Owner> {
        &self.owners
    }

    /// The stored positions.
    #[must_use]
    pub fn positions(&self) -> &BTreeMap<Slot, Offset> {
        &self.positions
    }

    /// What a member may work on: what it owns and shall own, with the generation since which it
    /// does. It must finish everything else.
    #[must_use]
    pub fn assigned(&self, member: MemberId) -> BTreeMap<Slot, Generation> {
        let Some(known) = self.members.get(&member) else { return BTreeMap::new() };
        let owned = self
            .owners
            .iter()
            .filter(|(slot, owner)| owner.member == member && known.target.contains(slot));
        owned.map(|(&slot, owner)| (slot, owner.since)).collect()
    }

    /// How many partitions a member shall own and does not yet: others have not let go of them, or
    /// it has not asked for them.
    #[must_use]
    pub fn pending(&self, member: MemberId) -> usize {
        let Some(known) = self.members.get(&member) else { return 0 };
        let owns = |slot: &&Slot| self.owners.get(slot).is_some_and(|o| o.member == member);
        known.target.iter().filter(|slot| !owns(slot)).count()
    }

    /// Which member has this instance name.
    #[must_use]
    pub fn named(&self, instance: &str) -> Option<MemberId> {
        let mut members = self.members.iter();
        let found = members.find(|(_, member)| member.instance.as_deref() == Some(instance));
        found.map(|(&id, _)| id)
    }

    /// Whether there is nothing to say about the group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.positions.is_empty()
    }

    /// Decides a request. Nothing changes until the result is applied.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn decide(&self, ask: &GroupAsk) -> Result<GroupChange, GroupError> {
        match ask {
            GroupAsk::Join { member, instance, session_ms, topics, wants } => {
                let asked = Member {
                    instance: instance.clone(),
                    session_ms: *session_ms,
                    topics: topics.clone(),
                    wants: wants.clone(),
                    target: BTreeSet::new(),
                };
                self.join(*member, asked)
            }
            GroupAsk::Leave { member } => {
                self.member(*member)?;
                let mut members = self.members.clone();
                members.remove(member);
                Ok(self.after_members(members, None))
            }
            GroupAsk::Heartbeat { member, generation, holds } => {
                self.heartbeat(*member, *generation, holds)
            }
            GroupAsk::Commit { member, slot, since, position } => {
                self.commit(*member, *slot, *since, *position)
            }
            GroupAsk::Reset { positions } => {
                if !self.members.is_empty() {
                    return Err(GroupError::Active);
                }
                Ok(GroupChange { positions: positions.clone(), ..GroupChange::default() })
            }
            GroupAsk::Rewant { wants } => self.rewant(wants),
            GroupAsk::Forget { slots } => {
                let known = |slot: &&Slot| self.positions.contains_key(slot);
                let forgotten = slots.iter().filter(known).copied().collect();
                Ok(GroupChange { forgotten, ..GroupChange::default() })
            }
        }
    }

    fn member(&self, id: MemberId) -> Result<&Member, GroupError> {
        self.members.get(&id).ok_or(GroupError::UnknownMember(id))
    }

    fn join(&self, id: MemberId, asked: Member) -> Result<GroupChange, GroupError> {
        let same = |member: &Member| {
            member.wants == asked.wants
                && member.topics == asked.topics
                && member.session_ms == asked.session_ms
                && member.instance == asked.instance
        };
        if self.members.get(&id).is_some_and(same) {
            return Ok(GroupChange::default());
        }
        let namesake = asked.instance.as_deref().and_then(|instance| self.named(instance));
        let before = namesake.filter(|other| *other != id);
        let room = self.members.len() - usize::from(before.is_some()) < limits::GROUP_MEMBERS_MAX;
        if !room && !self.members.contains_key(&id) {
            return Err(GroupError::Full);
        }
        let mut members = self.members.clone();
        let old = before.and_then(|before| members.remove(&before));
        let old = old.or_else(|| members.remove(&id));
        let target = old.map(|old| old.target).unwrap_or_default();
        members.insert(id, Member { target, ..asked });
        check_slots(&members)?;
        Ok(self.after_members(members, before.map(|before| (before, id))))
    }

    fn rewant(
        &self,
        wants: &BTreeMap<MemberId, BTreeSet<Slot>>,
    ) -> Result<GroupChange, GroupError> {
        let mut members = self.members.clone();
        for (id, wants) in wants {
            members.entry(*id).and_modify(|member| member.wants.clone_from(wants));
        }
        check_slots(&members)?;
        match members == self.members {
            true => Ok(GroupChange::default()),
            false => Ok(self.after_members(members, None)),
        }
    }

    /// What follows from other members: a new generation, new targets, and the partitions of those
    /// that are gone are free, or their successor's.
    fn after_members(
        &self,
        mut members: BTreeMap<MemberId, Member>,
        successor: Option<(MemberId, MemberId)>,
    ) -> GroupChange {
        assign::assign(&mut members);
        let generation = Generation(self.generation.0 + 1);
        let mut change = GroupChange { generation: Some(generation), ..GroupChange::default() };
        for (&slot, owner) in &self.owners {
            match successor {
                Some((before, after)) if owner.member == before => {
                    let owner = Owner { member: after, since: generation };
                    change.owners.insert(slot, Some(owner));
                }
                _ if !members.contains_key(&owner.member) => {
                    change.owners.insert(slot, None);
                }
                _ => {}
            }
        }
        for (&id, member) in &members {
            if self.members.get(&id) != Some(member) {
                change.members.insert(id, Some(member.clone()));
            }
        }
        let gone = self.members.keys().filter(|id| !members.contains_key(id));
        change.members.extend(gone.map(|&id| (id, None)));
        change
    }

    fn heartbeat(
        &self,
        id: MemberId,
        generation: Generation,
        holds: &BTreeSet<Slot>,
    ) -> Result<GroupChange, GroupError> {
        let member = self.member(id)?;
        let mut change = GroupChange::default();
        for (&slot, owner) in &self.owners {
            let finished = owner.member == id
                && !member.target.contains(&slot)
                && generation == self.generation
                && !holds.contains(&slot);
            if finished {
                change.owners.insert(slot, None);
            }
        }
        for &slot in member.target.iter().filter(|slot| !self.owners.contains_key(slot)) {
            let owner = Owner { member: id, since: self.generation };
            change.owners.insert(slot, Some(owner));
        }
        Ok(change)
    }

    fn commit(
        &self,
        id: MemberId,
        slot: Slot,
        since: Generation,
        got: Offset,
    ) -> Result<GroupChange, GroupError> {
        self.member(id)?;
        if self.owners.get(&slot) != Some(&Owner { member: id, since }) {
            return Err(GroupError::NotOwner { since });
        }
        match self.positions.get(&slot) {
            Some(&stored) if got < stored => Err(GroupError::WentBack { stored, got }),
            Some(&stored) if got == stored => Ok(GroupChange::default()),
            _ => Ok(GroupChange { positions: [(slot, got)].into(), ..GroupChange::default() }),
        }
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &GroupChange) {
        self.generation = change.generation.unwrap_or(self.generation);
        for (&id, member) in &change.members {
            match member {
                Some(member) => self.members.insert(id, member.clone()),
                None => self.members.remove(&id),
            };
        }
        for (&slot, owner) in &change.owners {
            match owner {
                Some(owner) => self.owners.insert(slot, *owner),
                None => self.owners.remove(&slot),
            };
        }
        self.positions.extend(&change.positions);
        self.positions.retain(|slot, _| !change.forgotten.contains(slot));
    }
}

/// Whether the group does not divide more partitions than it may.
fn check_slots(members: &BTreeMap<MemberId, Member>) -> Result<(), GroupError> {
    let all: BTreeSet<&Slot> = members.values().flat_map(|member| &member.wants).collect();
    if all.len() > limits::GROUP_SLOTS_MAX { Err(GroupError::Full) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
