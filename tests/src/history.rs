//! What producers were told and what consumers saw, while nodes fail, compared at the end.
//!
//! Goal of every test that uses it: each confirmed record is stored once, at the offset that was
//! confirmed, in its producer's order; and the consumer that rode through all of it saw each record
//! once, in order.

use anyhow::{Context, Result, bail, ensure};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_client::{Client, ProducerRecord, ResetPolicy, StartAt};

/// Records of one producer that are under way at a time.
const IN_FLIGHT: usize = 500;
/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(240);

/// Where a confirmed record is: partition and offset.
type Place = (u32, i64);
/// A stored record: partition, offset and value.
pub type Row = (u32, i64, String);

/// How many records were confirmed, and a way to wait for more.
#[derive(Default)]
struct Confirmed {
    count: AtomicU64,
    more: Notify,
}

/// Producers and a consumer at work.
pub struct History {
    topic: &'static str,
    partitions: u32,
    confirmed: Arc<Confirmed>,
    stop: Arc<AtomicBool>,
    finished: Arc<AtomicBool>,
    producers: Vec<JoinHandle<Result<HashMap<String, Place>>>>,
    rider: JoinHandle<Result<Vec<Row>>>,
}

impl History {
    /// Starts a producer for each of `producers`, and one consumer. The topic must exist.
    #[must_use]
    pub fn start(
        topic: &'static str,
        partitions: u32,
        producers: &[Client],
        consumer: &Client,
    ) -> History {
        let confirmed = Arc::new(Confirmed::default());
        let (stop, finished) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let of = |(id, client): (usize, &Client)| {
            let what = (topic, partitions, id as u64);
            tokio::spawn(produce(client.clone(), what, confirmed.clone(), stop.clone()))
        };
        let producers = producers.iter().enumerate().map(of).collect();
        let what = (topic, partitions);
        let riding = ride(consumer.clone(), what, finished.clone(), confirmed.clone());
        let rider = tokio::spawn(riding);
        History { topic, partitions, confirmed, stop, finished, producers, rider }
    }

    /// How many records were confirmed so far.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.confirmed.count.load(Ordering::Relaxed)
    }

    /// Waits until that many more were confirmed.
    ///
    /// # Errors
    /// It takes too long, or a producer failed.
    pub async fn wait_for_more(&mut self, more: u64) -> Result<()> {
        let target = self.confirmed() + more;
        let reached = async {
            while self.confirmed() < target {
                if let Some(ended) = self.producers.iter_mut().find(|one| one.is_finished()) {
                    ended.await?.context("a producer failed")?;
                    bail!("a producer ended");
                }
                // Looks again now and then: a producer that fails tells nobody.
                let _ = timeout(Duration::from_secs(1), self.confirmed.more.notified()).await;
            }
            Ok(())
        };
        timeout(PATIENCE, reached).await.context("no progress")?
    }

    /// Stops the producers, and compares what they were told with what `reader` finds stored and
    /// with what the consumer saw. Returns how many records there are.
    ///
    /// # Errors
    /// What is not as it must be.
    pub async fn finish(self, reader: &Client) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let mut places: HashMap<String, Place> = HashMap::new();
        for producer in self.producers {
            places.extend(timeout(PATIENCE, producer).await.context("a producer hangs")???);
        }
        // Only now is everything confirmed that was sent before the stop.
        self.finished.store(true, Ordering::Relaxed);
        let seen = timeout(PATIENCE, self.rider).await.context("the consumer hangs")???;
        let reading = read_all(reader, self.topic, self.partitions);
        let stored = timeout(PATIENCE, reading).await.context("reading hangs")??;
        check(&places, &stored)?;
        if let Some(at) =
            (0..seen.len().max(stored.len())).find(|&at| seen.get(at) != stored.get(at))
        {
            let around = |rows: &[Row]| {
                rows[at.saturating_sub(2).min(rows.len())..(at + 5).min(rows.len())].to_vec()
            };
            bail!(
                "the consumer that rode along saw {} records, stored are {}; from {at} on: {:?}, \
                 {:?}",
                seen.len(),
                stored.len(),
                around(&seen),
                around(&stored)
            );
        }
        Ok(stored.len())
    }
}

/// Sends numbered records until told to stop; returns where each was confirmed to be.
async fn produce(
    client: Client,
    (topic, partitions, id): (&'static str, u32, u64),
    confirmed: Arc<Confirmed>,
    stop: Arc<AtomicBool>,
) -> Result<HashMap<String, Place>> {
    let producer = client.producer().linger(Duration::from_millis(1)).build().await?;
    let mut places = HashMap::new();
    let mut deliveries = VecDeque::new();
    let mut number = 0u64;
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        while !stopping && deliveries.len() < IN_FLIGHT {
            let value = format!("{id}:{number:08}");
            let partition = (number % u64::from(partitions)) as u32;
            let record = ProducerRecord::new(topic, value.clone()).with_partition(partition);
            deliveries.push_back((value, producer.send(record).await?));
            number += 1;
        }
        let Some((value, delivery)) = deliveries.pop_front() else { break };
        let at = delivery.await.with_context(|| format!("record {value}"))?;
        places.insert(value, (at.partition, at.offset.0));
        confirmed.count.fetch_add(1, Ordering::Relaxed);
        confirmed.more.notify_one();
    }
    producer.close().await?;
    Ok(places)
}

/// Consumes from the beginning until everything confirmed was seen.
async fn ride(
    client: Client,
    (topic, partitions): (&'static str, u32),
    finished: Arc<AtomicBool>,
    confirmed: Arc<Confirmed>,
) -> Result<Vec<Row>> {
    let mut consumer = client.consumer().reset(ResetPolicy::Fail).build();
    let partitions: Vec<_> = (0..partitions).map(|p| (topic, p, StartAt::Earliest)).collect();
    consumer.assign(&partitions).await?;
    let mut seen = Vec::new();
    loop {
        let all = finished.load(Ordering::Relaxed)
            && seen.len() as u64 >= confirmed.count.load(Ordering::Relaxed);
        if all {
            break;
        }
        match timeout(Duration::from_millis(200), consumer.next_batch()).await {
            Ok(batch) => {
                let batch = batch?.context("the subscription ended")?;
                for record in batch.records() {
                    let value = String::from_utf8(record.value.unwrap_or_default().to_vec())?;
                    seen.push((batch.partition(), record.offset.0, value));
                }
            }
            // Nothing new for now: look whether it is the end.
            Err(_) => continue,
        }
    }
    seen.sort_unstable();
    Ok(seen)
}

/// Everything that is stored, sorted.
///
/// # Errors
/// As the SDK says.
pub async fn read_all(client: &Client, topic: &str, partitions: u32) -> Result<Vec<Row>> {
    let mut consumer = client.consumer().until_end(true).build();
    let partitions: Vec<_> = (0..partitions).map(|p| (topic, p, StartAt::Earliest)).collect();
    consumer.assign(&partitions).await?;
    let mut all = Vec::new();
    while let Some(batch) = consumer.next_batch().await? {
        for record in batch.records() {
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec())?;
            all.push((batch.partition(), record.offset.0, value));
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Every record is stored once, where it was confirmed to be; offsets and each producer's numbers
/// ascend within a partition. Offsets need not be dense: a batch that is refused for its number
/// leaves an entry without records.
fn check(places: &HashMap<String, Place>, stored: &[Row]) -> Result<()> {
    ensure!(stored.len() == places.len(), "{} stored, {} sent", stored.len(), places.len());
    let mut next: HashMap<u32, i64> = HashMap::new();
    let mut last: HashMap<(u32, String), String> = HashMap::new();
    for (partition, offset, value) in stored {
        let place = places.get(value).with_context(|| format!("{value} was never sent"))?;
        ensure!(place == &(*partition, *offset), "{value} at {partition}/{offset}, not {place:?}");
        let expected = next.entry(*partition).or_default();
        ensure!(*offset >= *expected, "offset {offset} in {partition}, expected {expected}");
        *expected = offset + 1;
        let (producer, number) = value.split_once(':').context("a value's form")?;
        let before = last.insert((*partition, producer.to_owned()), number.to_owned());
        ensure!(before.is_none_or(|b| b.as_str() < number), "{value} came out of order");
    }
    Ok(())
}
