//! Awaiting acknowledgements on a task of their own, so that sending never waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weir_client::Delivery;
use weir_core::wire::ErrorCode;
use weir_core::wire::frame::Reached;

use crate::commands::figures::Latencies;
use crate::commands::sdk;
use crate::exit::Failure;

/// Most acknowledgements awaited at once; the producer's own bound is in bytes.
const PENDING_MAX: usize = 65_536;

/// How much was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckCounts {
    /// Records.
    pub records: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// Records acknowledged before they were on disk: their topic's durability is relaxed.
    pub relaxed: u64,
}

/// What came of everything that was sent.
#[derive(Debug)]
pub struct Acknowledged {
    /// How much was acknowledged.
    pub counts: AckCounts,
    /// From handing over to acknowledgement.
    pub latencies: Latencies,
    /// The first record that was not acknowledged: why.
    pub failure: Option<Failure>,
}

struct Pending {
    sent_at: Instant,
    bytes: usize,
    delivery: Delivery,
}

#[derive(Debug, Default)]
struct Shared {
    records: AtomicU64,
    bytes: AtomicU64,
    relaxed: AtomicU64,
}

impl Shared {
    fn count(&self, bytes: usize, reached: Reached) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if reached == Reached::LeaderMemory {
            self.relaxed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> AckCounts {
        AckCounts {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            relaxed: self.relaxed.load(Ordering::Relaxed),
        }
    }
}

/// A task that awaits acknowledgements in the order of sending.
#[derive(Debug)]
pub struct Acks {
    sender: mpsc::Sender<Pending>,
    task: JoinHandle<(Latencies, Option<Failure>)>,
    shared: Arc<Shared>,
}

impl Acks {
    /// Starts the task.
    pub fn start() -> Acks {
        let (sender, receiver) = mpsc::channel(PENDING_MAX);
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(await_all(receiver, shared.clone()));
        Acks { sender, task, shared }
    }

    /// Awaits this one, too. Waits itself while too many are awaited.
    ///
    /// # Errors
    /// An earlier one failed; [`Acks::finish`] says why.
    pub async fn add(
        &self,
        sent_at: Instant,
        bytes: usize,
        delivery: Delivery,
    ) -> Result<(), Failure> {
        let pending = Pending { sent_at, bytes, delivery };
        let failed = |_| Failure::new(crate::exit::Exit::Error, "a record was not acknowledged");
        self.sender.send(pending).await.map_err(failed)
    }

    /// How much was acknowledged so far.
    pub fn counts(&self) -> AckCounts {
        self.shared.counts()
    }

    /// Waits for all that were added, or until `given_up`: then only what was acknowledged by then
    /// counts.
    pub async fn finish(self, given_up: impl Future<Output = ()>) -> Acknowledged {
        drop(self.sender);
        let mut task = self.task;
        let ended = tokio::select! {
            biased;
            ended = &mut task => ended,
            () = given_up => {
                task.abort();
                Ok(Default::default())
            }
        };
        // The task panics only with a bug, which ends the process anyway.
        let (latencies, failure) = ended.unwrap_or_default();
        Acknowledged { counts: self.shared.counts(), latencies, failure }
    }
}

/// Ends at the first failure: what follows it may be out of order, so it is best not sent.
async fn await_all(
    mut receiver: mpsc::Receiver<Pending>,
    shared: Arc<Shared>,
) -> (Latencies, Option<Failure>) {
    let mut latencies = Latencies::default();
    for number in 1_u64.. {
        let Some(pending) = receiver.recv().await else { break };
        match pending.delivery.await {
            Ok(stored) => {
                latencies.record(pending.sent_at.elapsed());
                shared.count(pending.bytes, stored.reached);
            }
            Err(error) => {
                let mut failure = sdk::delivery_failure(&error);
                if failure.code == Some(ErrorCode::CheckRejected) {
                    // The first that fails is the first of its batch: they are awaited in order.
                    failure.next = Some(format!(
                        "the batch begins with record {number} of the input, as its record 0: mend \
                         or leave out what was rejected, and produce it again"
                    ));
                }
                // What else was sent may still arrive: count it.
                receiver.close();
                drain(&mut receiver, &shared).await;
                return (latencies, Some(failure));
            }
        }
    }
    (latencies, None)
}

async fn drain(receiver: &mut mpsc::Receiver<Pending>, shared: &Shared) {
    while let Some(pending) = receiver.recv().await {
        if let Ok(stored) = pending.delivery.await {
            shared.count(pending.bytes, stored.reached);
        }
    }
}
