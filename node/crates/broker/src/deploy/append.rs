//! Appends of the broker's own: entries of lanes and distributors.

use super::state::States;
use crate::ack::{OwnReply, Parked};
use crate::broker::Shared;
use crate::partition::{Partition, Payload};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use weir_core::LeaderEpoch;
use weir_core::entry::{StateChange, encode_state};
use weir_core::record::RecordBatch;
use weir_core::wire::{ErrorCode, WireError};

/// An entry that waits for the disk.
pub struct Appending {
    committed: oneshot::Receiver<Result<(), WireError>>,
}

impl Appending {
    /// Waits until the entry is durable. What it changed is known to [`States`] by then.
    ///
    /// # Errors
    /// The entry was refused, or its fate is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer, not the entry.
    pub async fn committed(self) -> Result<(), WireError> {
        self.committed.await.unwrap_or_else(|_| {
            Err(WireError::unknown(ErrorCode::ShuttingDown, "the node is shutting down"))
        })
    }
}

/// Waits until the node has room for an entry with a batch of this size.
///
/// # Cancel safety
/// Cancel safe.
pub async fn room(shared: &Shared, batch: usize) -> Option<OwnedSemaphorePermit> {
    let most = shared.config.produce_budget_bytes;
    let permits = u32::try_from(batch.min(most)).unwrap_or(u32::MAX);
    // The semaphore is never closed.
    shared.produce_budget.clone().acquire_many_owned(permits).await.ok()
}

/// Appends an entry in `epoch`, or not at all. Never blocks. The changes are applied to `states`
/// where the log says that they are durable.
pub fn append(
    shared: &Shared,
    states: &Arc<States>,
    (partition, epoch): (&Partition, LeaderEpoch),
    batch: Option<RecordBatch>,
    changes: Vec<StateChange>,
    room: Option<OwnedSemaphorePermit>,
) -> Appending {
    let payload = Payload {
        count: batch.as_ref().map_or(1, |batch| batch.header().record_count),
        producer: None,
        batch,
        state: if changes.is_empty() { Bytes::new() } else { encode_state(&changes) },
        linger: Duration::ZERO,
        fence: Some(epoch),
        hold: room.map(|room| Box::new(room) as Box<dyn std::any::Any + Send>),
    };
    let (sender, committed) = oneshot::channel();
    let (states, id) = (states.clone(), partition.id);
    let reply = OwnReply(Box::new(move |result| {
        if result.is_ok() {
            states.apply(id, &changes);
        }
        // Whoever asked may have gone; the entry is there all the same.
        drop(sender.send(result));
    }));
    partition.append(shared.now(), payload, |_| Parked::Own(reply));
    Appending { committed }
}
