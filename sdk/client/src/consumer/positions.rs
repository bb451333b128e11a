//! How far a consumer is, what of that is stored for its group, and what it holds as a member.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use weir_core::group::{Generation, MemberId};
use weir_core::ids::{PartitionIndex, TopicId};
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{GroupPosition, Request, Response};
use weir_core::{Offset, TimestampMs};

use crate::client::{Client, lock, unexpected};
use crate::error::{CommitError, RequestError};

/// What the application is done with, per partition, and what of that is stored. Shared by the
/// consumer, the task that commits from time to time, and those of a membership.
#[derive(Debug)]
pub(super) struct Positions {
    client: Client,
    group: Option<String>,
    /// As whom positions are stored, if the consumer is a member.
    member: Mutex<Option<MemberId>>,
    slots: Mutex<Vec<Slot>>,
    /// Held over a commit, so that an older one never overtakes a newer one.
    committing: tokio::sync::Mutex<()>,
    /// Woken when something that is to be let go of may be finished.
    pub(super) progress: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    topic: TopicId,
    partition: PartitionIndex,
    /// Of a member: the generation in which it came to own the partition.
    since: Generation,
    /// The offset after the last record that the application is done with.
    done: Option<Offset>,
    stored: Option<Offset>,
    /// The offset after the last record that the application was given.
    handed: Option<Offset>,
    hold: Hold,
}

/// Whether a member works on a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It does. So does whoever is no member.
    Held,
    /// Another member shall; what the application has of it is being finished, since this time.
    Ending(Instant),
    /// Not any more.
    Gone,
}

impl Positions {
    pub(super) fn new(client: Client, group: Option<String>) -> Positions {
        Positions {
            client,
            group,
            member: Mutex::default(),
            slots: Mutex::default(),
            committing: Default::default(),
            progress: Notify::new(),
        }
    }

    /// Begins anew, without partitions, and from here on as this member or none.
    pub(super) fn clear(&self, member: Option<MemberId>) {
        *lock(&self.member) = member;
        lock(&self.slots).clear();
    }

    /// Adds the next partition.
    pub(super) fn add(
        &self,
        topic: TopicId,
        partition: u32,
        stored: Option<Offset>,
        since: Generation,
    ) {
        let partition = PartitionIndex(partition);
        let (done, handed, hold) = (stored, None, Hold::Held);
        lock(&self.slots).push(Slot { topic, partition, since, done, stored, handed, hold });
    }

    /// A member works on a partition again. Returns where it goes on, if that is known.
    pub(super) fn resume(
        &self,
        slot: usize,
        topic: TopicId,
        stored: Option<Offset>,
        since: Generation,
    ) -> Option<Offset> {
        let mut slots = lock(&self.slots);
        let slot = slots.get_mut(slot)?;
        // It may know better than the answer, which was on its way while it stored more.
        let known = slot.stored.filter(|_| slot.topic == topic && slot.since == since);
        let stored = stored.max(known);
        let (partition, hold) = (slot.partition, Hold::Held);
        *slot = Slot { topic, partition, since, done: stored, stored, handed: None, hold };
        stored
    }

    /// The application is done with everything before `offset`.
    pub(super) fn done(&self, slot: usize, offset: Offset) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.done = Some(offset);
            if matches!(slot.hold, Hold::Ending(_)) {
                self.progress.notify_one();
            }
        }
    }

    /// The application was given everything before `offset`.
    pub(super) fn handed(&self, slot: usize, offset: Offset) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.handed = Some(offset);
        }
    }

    /// Whether a partition is held, and since which generation.
    pub(super) fn hold(&self, slot: usize) -> Option<(Hold, Generation)> {
        lock(&self.slots).get(slot).map(|slot| (slot.hold, slot.since))
    }

    /// Another member shall work on the partition, once what was handed out of it is finished.
    pub(super) fn end(&self, slot: usize) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.hold = Hold::Ending(Instant::now());
            self.progress.notify_one();
        }
    }

    /// What was to be finished is worked on again.
    pub(super) fn keep(&self, slot: usize) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.hold = Hold::Held;
        }
    }

    /// The partition belongs to somebody else by now.
    pub(super) fn lose(&self, slot: usize) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.hold = Hold::Gone;
        }
    }

    /// What the member works on or has not finished.
    pub(super) fn holds(&self) -> BTreeSet<(TopicId, PartitionIndex)> {
        let slots = lock(&self.slots);
        let held = slots.iter().filter(|slot| slot.hold != Hold::Gone);
        held.map(|slot| (slot.topic, slot.partition)).collect()
    }

    /// Whether there is anything to be finished.
    pub(super) fn is_ending(&self) -> bool {
        lock(&self.slots).iter().any(|slot| matches!(slot.hold, Hold::Ending(_)))
    }

    /// Lets go of what is finished: with automatic commits, all that was handed out is done and
    /// stored; else it is stored, or `grace` is over. Returns whether there was any.
    pub(super) fn let_go(&self, by_itself: bool, grace: Duration) -> bool {
        let mut any = false;
        for slot in lock(&self.slots).iter_mut() {
            let Hold::Ending(since) = slot.hold else { continue };
            let finished = match by_itself {
                true => slot.handed <= slot.done && slot.done <= slot.stored,
                false => slot.handed <= slot.stored || since.elapsed() >= grace,
            };
            if finished {
                slot.hold = Hold::Gone;
                any = true;
            }
        }
        any
    }

    /// The stored positions of the group; none without one.
    pub(super) async fn fetch(&self) -> Result<Vec<GroupPosition>, RequestError> {
        match &self.group {
            Some(group) => self.client.admin().group(group).await,
            None => Ok(Vec::new()),
        }
    }

    /// Stores what changed since it was stored last.
    pub(super) async fn commit(&self) -> Result<(), CommitError> {
        let _committing = self.committing.lock().await;
        let member = *lock(&self.member);
        let changed: Vec<(usize, GroupPosition)> = {
            let slots = lock(&self.slots);
            let changed = slots.iter().enumerate().filter(|(_, slot)| match member {
                None => slot.done != slot.stored,
                // A member's positions go forward only.
                Some(_) => slot.hold != Hold::Gone && slot.done > slot.stored,
            });
            changed.filter_map(|(n, slot)| Some((n, slot.at(slot.done?)))).collect()
        };
        if changed.is_empty() {
            return if self.group.is_some() { Ok(()) } else { Err(CommitError::NoGroup) };
        }
        self.store(member, &changed).await
    }

    /// Stores these positions.
    pub(super) async fn commit_offsets(
        &self,
        offsets: &[(usize, Offset)],
    ) -> Result<(), CommitError> {
        let _committing = self.committing.lock().await;
        let member = *lock(&self.member);
        let positions: Vec<(usize, GroupPosition)> = {
            let slots = lock(&self.slots);
            let at = |&(n, offset): &(usize, Offset)| Some((n, slots.get(n)?.at(offset)));
            offsets.iter().filter_map(at).collect()
        };
        self.store(member, &positions).await
    }

    /// Stores positions; those of partitions that are another member's by now are left out.
    async fn store(
        &self,
        member: Option<MemberId>,
        positions: &[(usize, GroupPosition)],
    ) -> Result<(), CommitError> {
        let code = |result: &Result<(), CommitError>| match result {
            Err(CommitError::Request(error)) => error.code(),
            _ => None,
        };
        let all = self.send(member, positions).await;
        if !matches!(code(&all), Some(ErrorCode::NotOwner | ErrorCode::WentBack)) {
            if all.is_ok() {
                self.note_stored(positions);
            }
            return all;
        }
        // One of them, at least: the others are stored one by one.
        let (mut lost, mut went_back) = (0, Ok(()));
        for position in positions {
            let one = std::slice::from_ref(position);
            let stored = self.send(member, one).await;
            match code(&stored) {
                Some(ErrorCode::NotOwner) => {
                    lost += 1;
                    self.note_lost(position);
                }
                Some(ErrorCode::WentBack) => went_back = stored,
                _ => {
                    stored?;
                    self.note_stored(one);
                }
            }
        }
        if lost == 0 { went_back } else { Err(CommitError::NotOwner { partitions: lost }) }
    }

    async fn send(
        &self,
        member: Option<MemberId>,
        positions: &[(usize, GroupPosition)],
    ) -> Result<(), CommitError> {
        let group = self.group.clone().ok_or(CommitError::NoGroup)?;
        let positions = positions.iter().map(|(_, position)| position.clone()).collect();
        let request = Request::CommitPositions { group, positions, member };
        match self.client.request(&request).await {
            Ok(Response::Done {}) => Ok(()),
            Ok(_) => Err(unexpected().into()),
            Err(error) => Err(error.into()),
        }
    }

    fn note_stored(&self, stored: &[(usize, GroupPosition)]) {
        let mut slots = lock(&self.slots);
        for (n, position) in stored {
            // The assignment may have changed meanwhile.
            if let Some(slot) = slots.get_mut(*n).filter(|slot| slot.is_of(position)) {
                slot.stored = Some(position.offset);
                if matches!(slot.hold, Hold::Ending(_)) {
                    self.progress.notify_one();
                }
            }
        }
    }

    fn note_lost(&self, (n, position): &(usize, GroupPosition)) {
        if let Some(slot) = lock(&self.slots).get_mut(*n).filter(|slot| slot.is_of(position)) {
            slot.hold = Hold::Gone;
        }
    }
}

impl Slot {
    fn at(&self, offset: Offset) -> GroupPosition {
        GroupPosition {
            topic: self.topic,
            partition: self.partition,
            offset,
            committed_at: TimestampMs::default(),
            since: self.since,
        }
    }

    fn is_of(&self, position: &GroupPosition) -> bool {
        self.topic == position.topic
            && self.partition == position.partition
            && self.since == position.since
    }
}
