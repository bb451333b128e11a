//! A distributor: carries the parts of one lane's outbox to their destinations, in order.
//!
//! A part is appended together with a mark that says so, in one entry; what lies below the mark is
//! there already. So it may begin anew at any time, from the outbox's log start.

use super::append::{Appending, append, room};
use super::meter::Meter;
use super::read::read;
use super::{Deployments, Orders};
use crate::broker::Shared;
use crate::partition::Partition;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::timeout;
use weir_core::deploy::keys::Lane;
use weir_core::deploy::outbox::{self, Part};
use weir_core::limits;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, Offset, PartitionIndex, TopicId};

/// What an entry takes besides records, at least: its header and a position.
const ENTRY_BYTES: usize = 64;

/// What a distributor is made of.
pub struct Distributor {
    /// The broker.
    pub shared: Arc<Shared>,
    /// All deployments.
    pub deployments: Arc<Deployments>,
    /// Whose outbox it is.
    pub lane: Lane,
    /// The outbox.
    pub outbox: Arc<Partition>,
    /// Says when to end.
    pub orders: watch::Receiver<Orders>,
    /// What the lane did.
    pub meter: Arc<Meter>,
}

impl Distributor {
    /// Carries until the deployment ends and all is delivered, or the node shuts down.
    pub async fn run(mut self) {
        let mut pause = limits::LANE_RETRY_MIN;
        let mut next = self.outbox.progress_now().log_start;
        let mut untrimmed = 0;
        loop {
            next = next.max(self.outbox.progress_now().log_start);
            self.meter.delivered(next);
            if !self.wait(next).await {
                return;
            }
            let end = self.outbox.progress_now().high_watermark;
            match self.carry(next, end).await {
                Ok((behind, bytes)) => {
                    pause = limits::LANE_RETRY_MIN;
                    // Entries of a position alone take room, too: those of a consumer that
                    // publishes nothing are all there is.
                    let entries = usize::try_from(behind.since(next)).unwrap_or(0);
                    next = behind;
                    untrimmed += bytes + entries * ENTRY_BYTES;
                    if untrimmed >= limits::OUTBOX_TRIM_BYTES {
                        untrimmed = 0;
                        self.trim(next);
                    }
                }
                Err(error) => {
                    let message = format!("an output cannot be delivered: {}", error.message);
                    self.meter.note(None, &message, self.shared.now());
                    if self.orders.borrow().abandoned {
                        return;
                    }
                    let _ = timeout(pause, self.orders.changed()).await;
                    pause = (pause * 2).min(limits::LANE_RETRY_MAX);
                }
            }
        }
    }

    fn trim(&self, before: Offset) {
        if let Err(error) = self.shared.log.trim(self.outbox.id, before) {
            // Later, then.
            tracing::debug!(%error, "an outbox was not trimmed");
        }
    }

    /// Waits for parts. `false` once there is nothing more to do.
    async fn wait(&mut self, next: Offset) -> bool {
        let mut progress = self.outbox.progress();
        loop {
            if self.orders.borrow_and_update().abandoned || progress.borrow().deleted {
                return false;
            }
            if progress.borrow_and_update().high_watermark > next {
                return true;
            }
            // The lane has ended before, so nothing more comes.
            if self.orders.borrow().drained {
                return false;
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return false },
                changed = self.orders.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Delivers what one read yields. Returns the offset behind it, and its size in bytes.
    async fn carry(&self, next: Offset, end: Offset) -> Result<(Offset, usize), WireError> {
        let distributing = self.deployments.distributing.clone().acquire_owned().await;
        let chunk = read(&self.shared, &self.outbox, next, end).await?;
        if chunk.next_offset <= next {
            let message = format!("nothing to read at offset {next} of the outbox");
            return Err(WireError::new(ErrorCode::Internal, message));
        }
        // One at a time for each destination: were one refused and the next one taken, the mark
        // would pass over the first. Those of several destinations share commits.
        let mut appending: HashMap<(TopicId, PartitionIndex), Appending> = HashMap::new();
        let mut refused = None;
        'batches: for batch in chunk.batches {
            let parts = outbox::decode(batch);
            let parts =
                parts.map_err(|error| WireError::new(ErrorCode::Corrupt, error.to_string()))?;
            for (offset, part) in parts {
                let to = (part.topic, part.partition);
                let delivered = match appending.remove(&to) {
                    Some(before) => before.committed().await,
                    None => Ok(()),
                };
                let delivered = match delivered {
                    Ok(()) => self.deliver(offset, part).await,
                    Err(error) => Err(error),
                };
                match delivered {
                    Ok(one) => appending.extend(one.map(|one| (to, one))),
                    Err(error) => {
                        refused = Some(error);
                        break 'batches;
                    }
                }
            }
        }
        // All of them, whatever becomes of one: none may be on its way when it is tried again.
        for one in appending.into_values() {
            if let Err(error) = one.committed().await {
                refused.get_or_insert(error);
            }
        }
        drop(distributing);
        refused.map_or(Ok((chunk.next_offset, chunk.bytes)), Err)
    }

    /// Appends a part unless its destination has it.
    async fn deliver(&self, offset: Offset, part: Part) -> Result<Option<Appending>, WireError> {
        let registry = &self.shared.registry;
        let Some(to) = registry.partition(part.topic, part.partition) else {
            let message =
                format!("there is no partition {} of topic {}", part.partition, part.topic);
            return Err(WireError::new(ErrorCode::UnknownPartition, message));
        };
        let (epoch, mark) = self.known(&to);
        if offset < mark {
            return Ok(None);
        }
        let room = room(&self.shared, part.batch.bytes().len()).await;
        let states = &self.deployments.states;
        let changes = vec![self.lane.set_mark(offset.plus(1))];
        let appending = append(&self.shared, states, (&to, epoch), Some(part.batch), changes, room);
        Ok(Some(appending))
    }

    /// The epoch first: if the destination is recovered in between, the append is refused.
    fn known(&self, to: &Partition) -> (LeaderEpoch, Offset) {
        let epoch = to.figures().epoch;
        (epoch, self.deployments.states.mark(self.lane, to.id))
    }
}
