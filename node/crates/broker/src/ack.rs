//! Replies that wait for the disk, and the way back to whoever waits for them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use weir_core::wire::frame::{Appended, ProduceAck, ProduceRefusal};
use weir_core::wire::{ErrorCode, Outcome, WireError};

/// The acknowledgements of one produce stream on their way out.
///
/// Filled by the log's writer thread, drained by the stream's own task. Bounded by what the
/// stream may have in flight: every entry here had a permit for its batch.
#[derive(Debug, Default)]
pub struct AckQueue {
    acks: Mutex<Vec<ProduceAck>>,
    ready: Notify,
    /// Batches that were received and are not acknowledged yet.
    outstanding: AtomicUsize,
}

impl AckQueue {
    /// A batch was received: exactly one acknowledgement will be pushed for it.
    pub fn expect(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether every batch received was acknowledged and every acknowledgement drained.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        // The count falls under the lock, together with the push.
        let acks = self.acks.lock().unwrap_or_else(|e| e.into_inner());
        acks.is_empty() && self.outstanding.load(Ordering::Relaxed) == 0
    }

    /// Adds an acknowledgement and wakes the stream's task.
    pub fn push(&self, ack: ProduceAck) {
        let mut acks = self.acks.lock().unwrap_or_else(|e| e.into_inner());
        acks.push(ack);
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        drop(acks);
        self.ready.notify_one();
    }

    /// Waits until there are acknowledgements and swaps them into `out`, which must be empty.
    ///
    /// # Cancel safety
    /// Cancel safe: they stay in the queue.
    pub async fn drain(&self, out: &mut Vec<ProduceAck>) {
        loop {
            {
                let mut acks = self.acks.lock().unwrap_or_else(|e| e.into_inner());
                if !acks.is_empty() {
                    std::mem::swap(&mut *acks, out);
                    return;
                }
            }
            self.ready.notified().await;
        }
    }
}

/// A reply that waits until its entry is committed.
#[derive(Debug)]
pub enum Parked {
    /// To a produce frame.
    Produce {
        /// The stream that it came on.
        queue: Arc<AckQueue>,
        /// The frame's correlation.
        correlation: u64,
        /// What to say once it is committed.
        appended: Appended,
    },
    /// To an append of the broker's own: called in log order, on the thread that learned of it.
    Own(OwnReply),
}

/// What an append of the broker's own does once its fate is known. Must not block.
pub struct OwnReply(pub Box<dyn FnOnce(Result<(), WireError>) + Send>);

impl std::fmt::Debug for OwnReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnReply")
    }
}

impl Parked {
    /// Says that the entry is committed.
    pub fn committed(self) {
        match self {
            Parked::Produce { queue, correlation, appended } => {
                queue.push(ProduceAck { correlation, result: Ok(appended) });
            }
            Parked::Own(reply) => (reply.0)(Ok(())),
        }
    }

    /// Says that the entry's fate is unknown.
    pub fn failed(self, code: ErrorCode, message: &str) {
        let error = WireError::unknown(code, message);
        self.refused(error);
    }

    /// Says why the entry was not appended.
    pub fn refused(self, error: WireError) {
        match self {
            Parked::Produce { queue, correlation, .. } => {
                queue.push(ProduceAck { correlation, result: Err(refusal(error)) });
            }
            Parked::Own(reply) => (reply.0)(Err(error)),
        }
    }
}

/// The same error as an acknowledgement carries it.
#[must_use]
pub fn refusal(error: WireError) -> ProduceRefusal {
    ProduceRefusal { code: error.code, outcome: error.outcome, message: error.message }
}

/// A refusal that certainly had no effect.
#[must_use]
pub fn refused(code: ErrorCode, message: impl Into<String>) -> ProduceRefusal {
    ProduceRefusal { code, outcome: Outcome::No, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: acks that arrive while nobody waits are not lost, and come out in order, together.
    #[tokio::test]
    async fn queue() {
        let queue = AckQueue::default();
        for correlation in 0..3 {
            queue.expect();
            let result = Err(refused(ErrorCode::Busy, "x"));
            queue.push(ProduceAck { correlation, result });
        }
        let mut out = Vec::new();
        queue.drain(&mut out).await;
        assert!(queue.is_settled());
        assert_eq!(out.iter().map(|a| a.correlation).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
