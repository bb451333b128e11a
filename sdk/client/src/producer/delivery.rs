//! What became of a record. All records of a batch share one `Completion`; a [`Delivery`] is a
//! reference to it and the record's place in the batch, so a record costs no allocation.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};

use weir_core::wire::frame::{Appended, Reached};
use weir_core::{Offset, TimestampMs};

use crate::client::lock;
use crate::error::DeliveryError;

/// Where a confirmed record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Its topic.
    pub topic: Arc<str>,
    /// Which of its partitions.
    pub partition: u32,
    /// Its offset there.
    pub offset: Offset,
    /// Its event time, as it was sent.
    pub timestamp: TimestampMs,
    /// When the node appended its batch, by the node's clock.
    pub append_time: TimestampMs,
    /// How safe it is: on disk, unless the topic's durability is relaxed.
    pub reached: Reached,
    /// Whether an earlier try had stored it, whose confirmation was lost.
    pub duplicate: bool,
}

/// What became of a record: resolves once the node confirmed it, or it failed for good.
///
/// # Cancel safety
/// Dropping it changes nothing for the record: it is sent and retried all the same.
#[derive(Debug)]
#[must_use = "a record that nobody waits for may fail unseen; `Producer::flush` reports failures"]
pub struct Delivery {
    completion: Arc<Completion>,
    index: u32,
    timestamp: TimestampMs,
    /// Where this delivery's waker is in the completion's list.
    slot: Option<usize>,
}

impl Delivery {
    pub(super) fn new(completion: Arc<Completion>, index: u32, timestamp: TimestampMs) -> Delivery {
        Delivery { completion, index, timestamp, slot: None }
    }

    /// What became of it, if that is known already.
    #[must_use]
    pub fn try_result(&self) -> Option<Result<RecordMetadata, DeliveryError>> {
        let (result, _) = self.completion.result.get()?;
        Some(result.as_ref().map(|appended| self.metadata(appended)).map_err(Clone::clone))
    }

    fn metadata(&self, appended: &Appended) -> RecordMetadata {
        RecordMetadata {
            topic: self.completion.topic.clone(),
            partition: self.completion.partition,
            offset: appended.base_offset.plus(self.index),
            timestamp: self.timestamp,
            append_time: appended.append_time,
            reached: appended.reached,
            duplicate: appended.duplicate,
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.try_result() {
            return Poll::Ready(result);
        }
        let slot = self.slot;
        self.slot = self.completion.register(slot, context.waker());
        // The result may have come between the look and the registration.
        match self.try_result() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.completion.unregister(slot);
        }
    }
}

/// What became of all records of one batch.
#[derive(Debug)]
pub(super) struct Completion {
    topic: Arc<str>,
    partition: u32,
    /// And how many records it is about.
    result: OnceLock<(Result<Appended, DeliveryError>, u32)>,
    /// Those to wake. Slots are never moved; a vacant one says that its delivery is gone, and
    /// vacant ones at the end are cut off.
    wakers: Mutex<Vec<Option<Waker>>>,
}

impl Completion {
    pub(super) fn new(topic: Arc<str>, partition: u32) -> Arc<Completion> {
        let (result, wakers) = (OnceLock::new(), Mutex::default());
        Arc::new(Completion { topic, partition, result, wakers })
    }

    /// Resolves all deliveries. The first result stays.
    pub(super) fn complete(&self, result: Result<Appended, DeliveryError>, records: u32) {
        if self.result.set((result, records)).is_err() {
            return;
        }
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// The topic's name.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Why its records failed, if they did, and how many they are. Waits until that is known.
    pub(super) async fn failure(self: Arc<Self>) -> Option<(DeliveryError, u32)> {
        let error = Delivery::new(self.clone(), 0, TimestampMs::default()).await.err()?;
        Some((error, self.result.get().map_or(0, |(_, records)| *records)))
    }

    fn register(&self, slot: Option<usize>, waker: &Waker) -> Option<usize> {
        let mut wakers = lock(&self.wakers);
        if self.result.get().is_some() {
            return None;
        }
        if let Some(place) = slot.and_then(|slot| wakers.get_mut(slot)) {
            place.get_or_insert_with(|| waker.clone()).clone_from(waker);
            return slot;
        }
        wakers.push(Some(waker.clone()));
        Some(wakers.len() - 1)
    }

    fn unregister(&self, slot: usize) {
        let mut wakers = lock(&self.wakers);
        if let Some(place) = wakers.get_mut(slot) {
            *place = None;
        }
        while wakers.pop_if(|last| last.is_none()).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn appended() -> Appended {
        Appended {
            base_offset: Offset(10),
            append_time: TimestampMs(5),
            reached: Reached::LeaderDisk,
            duplicate: false,
        }
    }

    /// Goal: each delivery gets its own offset, those that wait are woken once, those that were
    /// dropped are not, and polling again and again takes one slot only.
    #[test]
    fn deliveries_of_a_batch_resolve_together() {
        let completion = Completion::new("t".into(), 3);
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(counter.clone());
        let mut context = Context::from_waker(&waker);
        let mut deliveries: Vec<_> =
            (0..4).map(|n| Delivery::new(completion.clone(), n, TimestampMs(100))).collect();
        for _ in 0..3 {
            for delivery in &mut deliveries {
                assert!(delivery.poll_unpin(&mut context).is_pending());
            }
        }
        assert_eq!(lock(&completion.wakers).len(), 4);
        drop(deliveries.pop());
        completion.complete(Ok(appended()), 4);
        assert_eq!(counter.0.load(Ordering::Relaxed), 3);
        for (n, delivery) in deliveries.into_iter().enumerate() {
            let metadata = delivery.now_or_never().expect("resolved").expect("confirmed");
            assert_eq!(metadata.offset, Offset(10 + n as i64));
            assert_eq!((&*metadata.topic, metadata.partition), ("t", 3));
            assert_eq!(metadata.timestamp, TimestampMs(100));
        }
    }

    /// Goal: the first result stays, and one who asks later gets it at once.
    #[test]
    fn the_first_result_stays() {
        let completion = Completion::new("t".into(), 0);
        completion.complete(Ok(appended()), 4);
        completion.complete(Err(DeliveryError::Encode("no".into())), 1);
        assert_eq!(completion.failure().now_or_never(), Some(None));
    }
}
