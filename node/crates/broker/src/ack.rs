//! Replies that wait for the disk, and the way back to whoever waits for them.
//!
//! The log's writer thread resolves what a commit covered, often for many streams at once. Waking
//! a task of another thread is a system call, so it wakes only one, the [`Courier`], which wakes
//! the streams' tasks from their own thread, where that costs next to nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use weir_core::wire::frame::{Appended, ProduceAck, ProduceRefusal};
use weir_core::wire::{ErrorCode, Outcome, WireError};

/// Carries word of acknowledgements from the log's threads to the network's.
#[derive(Debug, Default)]
pub struct Courier {
    /// Streams that have acknowledgements and do not know yet.
    due: Mutex<Vec<Arc<AckQueue>>>,
    wake: Notify,
}

impl Courier {
    fn post(&self, queue: Arc<AckQueue>) {
        let mut due = self.due.lock().unwrap_or_else(|e| e.into_inner());
        due.push(queue);
        let first = due.len() == 1;
        drop(due);
        if first {
            self.wake.notify_one();
        }
    }

    /// Wakes streams as they are due, until it is dropped.
    ///
    /// # Cancel safety
    /// Not cancel safe: streams that were due may not be woken. Run it as a task that lives as long
    /// as any stream.
    pub async fn run(&self) {
        let mut woken = Vec::new();
        loop {
            self.wake.notified().await;
            std::mem::swap(&mut *self.due.lock().unwrap_or_else(|e| e.into_inner()), &mut woken);
            woken.drain(..).for_each(|queue: Arc<AckQueue>| queue.ready.notify_one());
        }
    }
}

/// The acknowledgements of one produce stream on their way out.
///
/// Filled by the log's writer thread, drained by the stream's own task. Bounded by what the
/// stream may have in flight: every entry here had a permit for its batch.
#[derive(Debug)]
pub struct AckQueue {
    courier: Arc<Courier>,
    acks: Mutex<Vec<ProduceAck>>,
    ready: Notify,
    /// Batches that were received and are not acknowledged yet.
    outstanding: AtomicUsize,
}

impl AckQueue {
    /// An empty queue, whose task `courier` wakes.
    #[must_use]
    pub fn new(courier: Arc<Courier>) -> Arc<AckQueue> {
        let (acks, ready) = (Mutex::default(), Notify::new());
        Arc::new(AckQueue { courier, acks, ready, outstanding: AtomicUsize::new(0) })
    }

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

    /// Adds an acknowledgement and has the stream's task woken.
    pub fn push(self: &Arc<AckQueue>, ack: ProduceAck) {
        let mut acks = self.acks.lock().unwrap_or_else(|e| e.into_inner());
        acks.push(ack);
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        let first = acks.len() == 1;
        drop(acks);
        // Where there were some before, the task was called already and takes this one, too.
        if first {
            self.courier.post(self.clone());
        }
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
    /// A refusal that is given once an entry in the batch's place is committed: it was certain then
    /// that this node led.
    Refusal(Box<Parked>, WireError),
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
            Parked::Refusal(to, error) => to.refused(error),
            Parked::Own(reply) => (reply.0)(Ok(())),
        }
    }

    /// Says that the entry's fate is unknown.
    pub fn failed(self, code: ErrorCode, message: &str) {
        match self {
            // Of the batch itself nothing was written.
            Parked::Refusal(to, _) => to.refused(WireError::new(code, message)),
            other => other.refused(WireError::unknown(code, message)),
        }
    }

    /// Says why the entry was not appended.
    pub fn refused(self, error: WireError) {
        match self {
            Parked::Produce { queue, correlation, .. } => {
                queue.push(ProduceAck { correlation, result: Err(refusal(error)) });
            }
            Parked::Refusal(to, _) => to.refused(error),
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
        let queue = AckQueue::new(Arc::default());
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

    /// Goal: a refusal that was in doubt is given as it is once that is certain, and else as one
    /// that may pass, both without effect.
    #[tokio::test]
    async fn a_refusal_in_doubt() {
        let queue = AckQueue::new(Arc::default());
        let parked = |correlation| {
            queue.expect();
            let appended = Appended {
                base_offset: weir_core::Offset(7),
                append_time: weir_core::TimestampMs(0),
                reached: weir_core::wire::frame::Reached::AllInSyncDisks,
                duplicate: false,
            };
            let to = Parked::Produce { queue: queue.clone(), correlation, appended };
            Parked::Refusal(Box::new(to), WireError::new(ErrorCode::SequenceGap, "a gap"))
        };
        parked(0).committed();
        parked(1).failed(ErrorCode::NotLeader, "another leads");
        let mut out = Vec::new();
        queue.drain(&mut out).await;
        let told = out.into_iter().map(|ack| ack.result.map_err(|no| (no.code, no.outcome)));
        let wanted = [ErrorCode::SequenceGap, ErrorCode::NotLeader];
        assert_eq!(told.collect::<Vec<_>>(), wanted.map(|code| Err((code, Outcome::No))));
    }

    /// Goal: every ack that another thread pushes reaches the stream's task, whichever of the three
    /// is ahead. Method: many streams that wait for one ack after the other, and a pushing thread.
    #[tokio::test]
    async fn a_courier_wakes_every_stream() {
        const ACKS: u64 = 2_000;
        let courier = Arc::new(Courier::default());
        let queues: Vec<_> = (0..20).map(|_| AckQueue::new(courier.clone())).collect();
        let running = tokio::spawn({
            let courier = courier.clone();
            async move { courier.run().await }
        });
        let streams = queues.clone().into_iter().map(|queue| {
            tokio::spawn(async move {
                let (mut seen, mut out) = (0, Vec::new());
                while seen < ACKS {
                    queue.drain(&mut out).await;
                    for ack in out.drain(..) {
                        assert_eq!(ack.correlation, seen);
                        seen += 1;
                    }
                }
            })
        });
        let streams: Vec<_> = streams.collect();
        let pushing = tokio::task::spawn_blocking(move || {
            for correlation in 0..ACKS {
                for queue in &queues {
                    queue.expect();
                    let result = Err(refused(ErrorCode::Busy, ""));
                    queue.push(ProduceAck { correlation, result });
                }
            }
        });
        for stream in streams {
            stream.await.expect("all acks came");
        }
        pushing.await.expect("all acks were pushed");
        running.abort();
    }
}
