//! A distributor: carries the parts of one lane's outbox to their destinations, in order.
//!
//! A part is appended together with a mark that says so, in one entry; what lies below the mark is
//! there already ([`super::deliver`]). So it may begin anew at any time, from the outbox's log
//! start, and on another node: it works where the outbox is led.

use super::deliver::{Delivery, deliver, send};
use super::meter::Meter;
use super::read::read;
use super::{Deployments, Orders};
use crate::broker::Shared;
use crate::partition::Partition;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_core::deploy::keys::Lane;
use weir_core::deploy::outbox::{self, Part};
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::record::RecordBatch;
use weir_core::wire::replica::DeliverHeader;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, PartitionIndex, TopicId};

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

/// A part on its way.
enum OnItsWay {
    Here(Delivery),
    Away(JoinHandle<Result<Offset, WireError>>),
}

impl OnItsWay {
    /// Waits until it is there. Returns the destination's mark.
    async fn done(self) -> Result<Offset, WireError> {
        match self {
            OnItsWay::Here(delivery) => delivery.done().await,
            OnItsWay::Away(task) => task.await.unwrap_or_else(|error| {
                Err(WireError::unknown(ErrorCode::Internal, error.to_string()))
            }),
        }
    }
}

/// A destination.
type To = (TopicId, PartitionIndex);

impl Distributor {
    /// Carries until the deployment ends and all is delivered, or the node shuts down.
    pub async fn run(mut self) {
        let mut pause = limits::LANE_RETRY_MIN;
        let mut next = Offset::ZERO;
        let mut marks = HashMap::new();
        let mut untrimmed = 0;
        let mut epoch = None;
        loop {
            let now = Some(self.outbox.figures().epoch);
            if epoch != now {
                // What others carried meanwhile is not known here.
                (epoch, next) = (now, Offset::ZERO);
                marks.clear();
            }
            next = next.max(self.outbox.progress_now().log_start);
            self.meter.delivered(next);
            if !self.wait(next).await {
                return;
            }
            if epoch != Some(self.outbox.figures().epoch) {
                continue;
            }
            let end = self.outbox.progress_now().high_watermark;
            match self.carry((next, end), &mut marks).await {
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

    /// Whether this node leads the outbox.
    fn leads(&self) -> bool {
        let progress = self.outbox.progress_now();
        progress.led && progress.settled
    }

    /// Waits for parts. `false` once there is nothing more to do.
    async fn wait(&mut self, next: Offset) -> bool {
        let mut progress = self.outbox.progress();
        loop {
            if self.orders.borrow_and_update().abandoned || progress.borrow().deleted {
                return false;
            }
            progress.borrow_and_update();
            if self.leads() {
                let end = self.outbox.progress_now().high_watermark;
                if end > next {
                    return true;
                }
                // The lane has ended before, so nothing more comes.
                if self.orders.borrow().drained {
                    return false;
                }
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return false },
                changed = self.orders.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Delivers what one read yields. Returns the offset behind it, and its size in bytes.
    async fn carry(
        &self,
        (next, end): (Offset, Offset),
        marks: &mut HashMap<To, Offset>,
    ) -> Result<(Offset, usize), WireError> {
        let distributing = self.deployments.distributing.clone().acquire_owned().await;
        let chunk = read(&self.shared, &self.outbox, next, end).await?;
        if chunk.next_offset <= next {
            let message = format!("nothing to read at offset {next} of the outbox");
            return Err(WireError::new(ErrorCode::Internal, message));
        }
        // One at a time for each destination: were one refused and the next one taken, the mark
        // would pass over the first. Those of several destinations share commits.
        let mut on_their_way: HashMap<To, OnItsWay> = HashMap::new();
        let mut refused = None;
        'batches: for batch in chunk.batches {
            let parts = outbox::decode(batch);
            let parts =
                parts.map_err(|error| WireError::new(ErrorCode::Corrupt, error.to_string()))?;
            for (offset, part) in parts {
                let to = (part.topic, part.partition);
                let delivered = match on_their_way.remove(&to) {
                    Some(before) => before.done().await.map(|mark| {
                        marks.insert(to, mark);
                    }),
                    None => Ok(()),
                };
                let there = marks.get(&to).is_some_and(|mark| offset < *mark);
                let delivered = match delivered {
                    Ok(()) if there => continue,
                    Ok(()) => self.deliver(offset, part).await,
                    Err(error) => Err(error),
                };
                match delivered {
                    Ok(one) => {
                        on_their_way.insert(to, one);
                    }
                    Err(error) => {
                        refused = Some(error);
                        break 'batches;
                    }
                }
            }
        }
        // All of them, whatever becomes of one: none may be on its way when it is tried again.
        for (to, one) in on_their_way {
            match one.done().await {
                Ok(mark) => {
                    marks.insert(to, mark);
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        drop(distributing);
        refused.map_or(Ok((chunk.next_offset, chunk.bytes)), Err)
    }

    /// Brings a part to whoever leads its destination.
    async fn deliver(&self, offset: Offset, part: Part) -> Result<OnItsWay, WireError> {
        let Part { topic, partition, batch } = part;
        let header = DeliverHeader { lane: self.lane, offset, topic, partition };
        match self.elsewhere(topic, partition) {
            Some(node) => Ok(OnItsWay::Away(self.send(node, header, batch))),
            None => deliver(&self.shared, header, batch).await.map(OnItsWay::Here),
        }
    }

    /// Which other node leads a destination, if one does.
    fn elsewhere(&self, topic: TopicId, partition: PartitionIndex) -> Option<NodeId> {
        let site = self.shared.site.as_ref()?;
        site.route(&*self.shared.registry.partition(topic, partition)?)
    }

    /// In a task of its own, so that parts for other destinations go on meanwhile.
    fn send(
        &self,
        node: NodeId,
        header: DeliverHeader,
        batch: RecordBatch,
    ) -> JoinHandle<Result<Offset, WireError>> {
        let shared = self.shared.clone();
        tokio::spawn(async move { send(&shared, node, header, &batch).await })
    }
}
