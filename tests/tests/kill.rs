//! A real node, killed with SIGKILL again and again under producers and a consumer of the SDK.
//!
//! Goal: every confirmed record is there once, at the offset that was confirmed, in its producer's
//! order; the consumer that rode through all of it saw each record once, in order.
//! Method: kills are paced by progress, not by time: the next one comes a seeded number of
//! confirmations after the last, so it falls anywhere in a commit. `WEIR_KILLS` sets how many.

use anyhow::{Context, Result, ensure};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use weir_client::{Client, ProducerRecord, ResetPolicy, StartAt, TopicConfig};
use weir_tests::node_process::NodeProcess;

const TOPIC: &str = "kill";
const PARTITIONS: u32 = 3;
const PRODUCERS: u64 = 3;
const IN_FLIGHT: usize = 500;
const KILLS_DEFAULT: u64 = 12;
/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(240);

/// How many records were confirmed, and a way to wait for more.
#[derive(Default)]
struct Confirmed {
    count: AtomicU64,
    more: Notify,
}

/// Where a confirmed record is: partition and offset.
type Place = (u32, i64);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_or_doubled() -> Result<()> {
    let kills = match std::env::var("WEIR_KILLS") {
        Ok(kills) => kills.parse().context("WEIR_KILLS")?,
        Err(_) => KILLS_DEFAULT,
    };
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    let client = node.client().await?;
    let config = TopicConfig { partitions: PARTITIONS, ..TopicConfig::default() };
    client.admin().create_topic(TOPIC, config).await?;

    let confirmed = Arc::new(Confirmed::default());
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|id| tokio::spawn(produce(client.clone(), id, confirmed.clone(), stop.clone())))
        .collect();
    let finished = Arc::new(AtomicBool::new(false));
    let rider = tokio::spawn(ride(client.clone(), finished.clone(), confirmed.clone()));

    let mut pace = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        pace ^= pace << 13;
        pace ^= pace >> 7;
        pace ^= pace << 17;
        let target = confirmed.count.load(Ordering::Relaxed) + 20 + pace % 2_000;
        let reached = async {
            while confirmed.count.load(Ordering::Relaxed) < target {
                confirmed.more.notified().await;
            }
        };
        timeout(PATIENCE, reached).await.with_context(|| format!("no progress, kill {kill}"))?;
        node.kill()?;
        node.start_again()?;
    }
    stop.store(true, Ordering::Relaxed);

    let mut places: HashMap<String, Place> = HashMap::new();
    for producer in producers {
        places.extend(timeout(PATIENCE, producer).await.context("a producer hangs")???);
    }
    // Only now is everything confirmed that was sent before the stop.
    finished.store(true, Ordering::Relaxed);
    let seen = timeout(PATIENCE, rider).await.context("the consumer hangs")???;
    let stored = read_all(&client).await?;
    check(&places, &stored)?;
    if let Some(at) = (0..seen.len().max(stored.len())).find(|&at| seen.get(at) != stored.get(at)) {
        let around = |rows: &[(u32, i64, String)]| {
            rows[at.saturating_sub(2).min(rows.len())..(at + 5).min(rows.len())].to_vec()
        };
        anyhow::bail!(
            "the consumer that rode along saw {} records, stored are {}; from {at} on: {:?}, {:?}",
            seen.len(),
            stored.len(),
            around(&seen),
            around(&stored)
        );
    }
    println!("{} records through {kills} kills", stored.len());
    client.close().await;
    Ok(())
}

/// Sends numbered records until told to stop; returns where each was confirmed to be.
async fn produce(
    client: Client,
    id: u64,
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
            let partition = (number % u64::from(PARTITIONS)) as u32;
            let record = ProducerRecord::new(TOPIC, value.clone()).with_partition(partition);
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
    finished: Arc<AtomicBool>,
    confirmed: Arc<Confirmed>,
) -> Result<Vec<(u32, i64, String)>> {
    let mut consumer = client.consumer().reset(ResetPolicy::Fail).build();
    let partitions: Vec<_> = (0..PARTITIONS).map(|p| (TOPIC, p, StartAt::Earliest)).collect();
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

async fn read_all(client: &Client) -> Result<Vec<(u32, i64, String)>> {
    let mut consumer = client.consumer().until_end(true).build();
    let partitions: Vec<_> = (0..PARTITIONS).map(|p| (TOPIC, p, StartAt::Earliest)).collect();
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

/// Every record is stored once, where it was confirmed to be; offsets are dense; each producer's
/// numbers ascend within a partition.
fn check(places: &HashMap<String, Place>, stored: &[(u32, i64, String)]) -> Result<()> {
    ensure!(stored.len() == places.len(), "{} stored, {} sent", stored.len(), places.len());
    let mut next: HashMap<u32, i64> = HashMap::new();
    let mut last: HashMap<(u32, String), String> = HashMap::new();
    for (partition, offset, value) in stored {
        let place = places.get(value).with_context(|| format!("{value} was never sent"))?;
        ensure!(place == &(*partition, *offset), "{value} at {partition}/{offset}, not {place:?}");
        let expected = next.entry(*partition).or_default();
        ensure!(offset == expected, "offset {offset} in {partition}, expected {expected}");
        *expected += 1;
        let (producer, number) = value.split_once(':').context("a value's form")?;
        let before = last.insert((*partition, producer.to_owned()), number.to_owned());
        ensure!(before.is_none_or(|b| b.as_str() < number), "{value} came out of order");
    }
    Ok(())
}
