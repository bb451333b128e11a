//! How far a consumer is, and what of that is stored for its group.

use std::sync::Mutex;

use weir_core::ids::{PartitionIndex, TopicId};
use weir_core::wire::message::{GroupPosition, Request, Response};
use weir_core::{Offset, TimestampMs};

use crate::client::{Client, lock, unexpected};
use crate::error::{CommitError, RequestError};

/// What the application is done with, per partition, and what of that is stored. Shared by the
/// consumer and the task that commits from time to time.
#[derive(Debug)]
pub(super) struct Positions {
    client: Client,
    group: Option<String>,
    slots: Mutex<Vec<Slot>>,
    /// Held over a commit, so that an older one never overtakes a newer one.
    committing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    topic: TopicId,
    partition: PartitionIndex,
    /// The offset after the last record that the application is done with.
    done: Option<Offset>,
    stored: Option<Offset>,
}

impl Positions {
    pub(super) fn new(client: Client, group: Option<String>) -> Positions {
        Positions { client, group, slots: Mutex::default(), committing: Default::default() }
    }

    /// Begins anew, without partitions.
    pub(super) fn clear(&self) {
        lock(&self.slots).clear();
    }

    /// Adds the next partition.
    pub(super) fn add(&self, topic: TopicId, partition: u32, stored: Option<Offset>) {
        let partition = PartitionIndex(partition);
        lock(&self.slots).push(Slot { topic, partition, done: stored, stored });
    }

    /// The application is done with everything before `offset`.
    pub(super) fn done(&self, slot: usize, offset: Offset) {
        if let Some(slot) = lock(&self.slots).get_mut(slot) {
            slot.done = Some(offset);
        }
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
        let changed: Vec<(usize, GroupPosition)> = {
            let slots = lock(&self.slots);
            let changed = slots.iter().enumerate().filter(|(_, slot)| slot.done != slot.stored);
            changed.filter_map(|(n, slot)| Some((n, slot.at(slot.done?)))).collect()
        };
        if changed.is_empty() {
            return if self.group.is_some() { Ok(()) } else { Err(CommitError::NoGroup) };
        }
        self.store(changed.iter().map(|(_, position)| position.clone()).collect()).await?;
        self.note_stored(&changed);
        Ok(())
    }

    /// Stores these positions.
    pub(super) async fn commit_offsets(
        &self,
        offsets: &[(usize, Offset)],
    ) -> Result<(), CommitError> {
        let _committing = self.committing.lock().await;
        let positions: Vec<(usize, GroupPosition)> = {
            let slots = lock(&self.slots);
            let at = |&(n, offset): &(usize, Offset)| Some((n, slots.get(n)?.at(offset)));
            offsets.iter().filter_map(at).collect()
        };
        self.store(positions.iter().map(|(_, position)| position.clone()).collect()).await?;
        self.note_stored(&positions);
        Ok(())
    }

    async fn store(&self, positions: Vec<GroupPosition>) -> Result<(), CommitError> {
        let group = self.group.clone().ok_or(CommitError::NoGroup)?;
        match self.client.request(&Request::CommitPositions { group, positions }).await {
            Ok(Response::Done {}) => Ok(()),
            Ok(_) => Err(unexpected().into()),
            Err(error) => Err(error.into()),
        }
    }

    fn note_stored(&self, stored: &[(usize, GroupPosition)]) {
        let mut slots = lock(&self.slots);
        for (n, position) in stored {
            // The assignment may have changed meanwhile.
            let same = |slot: &&mut Slot| {
                slot.topic == position.topic && slot.partition == position.partition
            };
            if let Some(slot) = slots.get_mut(*n).filter(same) {
                slot.stored = Some(position.offset);
            }
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
        }
    }
}
