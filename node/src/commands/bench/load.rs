//! Producers under load: how many records, how fast acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep_until;
use weir_client::{Client, Delivery, Producer, ProducerRecord};
use weir_core::TimestampMs;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS};

use super::payload::Payload;
use crate::commands::figures::Latencies;
use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// When producers stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many records, all producers together.
    Records(u64),
}

/// What producers do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The topic.
    pub topic: String,
    /// Its partitions, which each producer fills in turn.
    pub partitions: u32,
    /// Bytes of a value.
    pub record_bytes: usize,
    /// Records of a batch.
    pub batch_records: usize,
    /// How many producers, each with a connection of its own.
    pub producers: usize,
    /// Batches that each producer has under way.
    pub in_flight: usize,
    /// When they stop.
    pub until: Until,
    /// Records per second, all producers together; none: as fast as they go.
    pub rate: Option<f64>,
    /// How batches are packed.
    pub compression: Compression,
    /// Each record goes through `Producer::send`, which makes the batches, instead of being put
    /// into a batch by the bench.
    pub per_record: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// Acknowledged records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Until the last acknowledgement.
    pub elapsed: Duration,
    /// Of each batch, or record.
    pub acks: Latencies,
}

impl Produced {
    /// 10⁶ bytes of values per second.
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }

    /// Records per second.
    pub fn records_per_s(&self) -> f64 {
        self.records as f64 / self.elapsed.as_secs_f64()
    }
}

/// Runs `load` with one producer for each of `clients`.
///
/// # Errors
/// Something was not acknowledged.
pub async fn run(clients: &[Client], load: &Load) -> Result<Produced, Failure> {
    let payload = Payload::new(load.record_bytes);
    let mut producers = Vec::new();
    for client in clients {
        let builder = client
            .producer()
            .compression(load.compression)
            .batch_bytes(weir_core::limits::BATCH_BYTES_MAX);
        let producer = builder.build().await;
        producers.push(producer.map_err(|e| sdk::request_failure("starting to produce", &e))?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, producer) in producers.into_iter().enumerate() {
        let worker = Worker {
            load: load.clone(),
            payload: payload.clone(),
            index,
            started,
            sent: 0,
            window: VecDeque::new(),
            produced: Produced::default(),
        };
        tasks.spawn(worker.run(producer));
    }
    let mut total = Produced::default();
    while let Some(produced) = tasks.join_next().await {
        let ended = produced.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let produced = ended?;
        total.records += produced.records;
        total.bytes += produced.bytes;
        total.elapsed = total.elapsed.max(produced.elapsed);
        total.acks.merge(&produced.acks);
    }
    Ok(total)
}

struct Pending {
    sent_at: Instant,
    records: u64,
    delivery: Delivery,
}

struct Worker {
    load: Load,
    payload: Payload,
    index: usize,
    started: Instant,
    /// Records handed over.
    sent: u64,
    window: VecDeque<Pending>,
    produced: Produced,
}

impl Worker {
    async fn run(mut self, producer: Producer) -> Result<Produced, Failure> {
        let quota = self.quota();
        let mut batches = self.index as u64;
        while !self.is_over(quota) {
            self.pace().await?;
            let records = (self.load.batch_records as u64).min(quota - self.sent);
            let partition = (batches % u64::from(self.load.partitions)) as u32;
            batches += 1;
            if self.load.per_record {
                self.send_records(&producer, partition, records).await?;
            } else {
                self.send_batch(&producer, partition, records).await?;
            }
        }
        while !self.window.is_empty() {
            self.await_oldest().await?;
        }
        self.produced.elapsed = self.started.elapsed();
        producer.close().await.map_err(|error| sdk::delivery_failure(&error.first))?;
        Ok(self.produced)
    }

    /// Records that this producer sends at most.
    fn quota(&self) -> u64 {
        match self.load.until {
            Until::Time(_) => u64::MAX,
            Until::Records(all) => share(all, self.load.producers, self.index),
        }
    }

    fn is_over(&self, quota: u64) -> bool {
        let late = match self.load.until {
            Until::Time(time) => self.started.elapsed() >= time,
            Until::Records(_) => false,
        };
        late || self.sent >= quota
    }

    /// Waits until the next batch is due, and takes acknowledgements meanwhile, when they come.
    /// Producers take turns within the time of one batch.
    async fn pace(&mut self) -> Result<(), Failure> {
        let Some(rate) = self.load.rate else { return Ok(()) };
        let per_producer = rate / self.load.producers as f64;
        let turn = self.index as f64 / self.load.producers as f64 * self.load.batch_records as f64;
        let due = self.started + Duration::from_secs_f64((self.sent as f64 + turn) / per_producer);
        while due > Instant::now() {
            let Some(oldest) = self.window.front_mut() else {
                sleep_until(due.into()).await;
                break;
            };
            tokio::select! {
                biased;
                acknowledged = &mut oldest.delivery => {
                    acknowledged.map_err(|error| sdk::delivery_failure(&error))?;
                    self.count_oldest();
                }
                () = sleep_until(due.into()) => {}
            }
        }
        Ok(())
    }

    async fn send_batch(
        &mut self,
        producer: &Producer,
        partition: u32,
        records: u64,
    ) -> Result<(), Failure> {
        while self.window.len() >= self.load.in_flight {
            self.await_oldest().await?;
        }
        let sent_at = Instant::now();
        let (payload, first) = (&self.payload, self.sent);
        let mut filled = 0;
        let fill = |builder: &mut BatchBuilder| {
            filled = fill_batch(builder, payload, first, records);
        };
        let delivery = producer.send_batch(&self.load.topic, partition, fill).await;
        let delivery = delivery.map_err(|error| sdk::send_failure(&error))?;
        self.sent += filled;
        self.window.push_back(Pending { sent_at, records: filled, delivery });
        Ok(())
    }

    async fn send_records(
        &mut self,
        producer: &Producer,
        partition: u32,
        records: u64,
    ) -> Result<(), Failure> {
        let topic: std::sync::Arc<str> = self.load.topic.as_str().into();
        for _ in 0..records {
            while self.window.len() >= self.load.in_flight * self.load.batch_records {
                self.await_oldest().await?;
            }
            let record = ProducerRecord {
                topic: topic.clone(),
                partition: Some(partition),
                key: None,
                value: Some(self.payload.value(self.sent)),
                headers: Vec::new(),
                timestamp: None,
            };
            let sent_at = Instant::now();
            let delivery = producer.send(record).await;
            let delivery = delivery.map_err(|error| sdk::send_failure(&error))?;
            self.sent += 1;
            self.window.push_back(Pending { sent_at, records: 1, delivery });
        }
        Ok(())
    }

    async fn await_oldest(&mut self) -> Result<(), Failure> {
        let Some(oldest) = self.window.front_mut() else { return Ok(()) };
        (&mut oldest.delivery).await.map_err(|error| sdk::delivery_failure(&error))?;
        self.count_oldest();
        Ok(())
    }

    /// The oldest batch under way was acknowledged just now.
    fn count_oldest(&mut self) {
        if let Some(pending) = self.window.pop_front() {
            self.produced.acks.record(pending.sent_at.elapsed());
            self.produced.records += pending.records;
            self.produced.bytes += pending.records * self.load.record_bytes as u64;
        }
    }
}

/// Pushes records until there are so many or the batch is full. Returns how many there are.
fn fill_batch(builder: &mut BatchBuilder, payload: &Payload, first: u64, records: u64) -> u64 {
    let now = TimestampMs(sdk::now_ms());
    for n in 0..records {
        if builder.push(now, None, Some(payload.slice(first + n)), NO_HEADERS).is_err() {
            return n;
        }
    }
    records
}

/// The part of `all` that falls to number `index` of `count`.
fn share(all: u64, count: usize, index: usize) -> u64 {
    let (count, index) = (count.max(1) as u64, index as u64);
    all / count + u64::from(index < all % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (all, count) in [(10, 3), (2, 5), (0, 1), (1_000_003, 50)] {
            let sum: u64 = (0..count).map(|index| share(all, count, index)).sum();
            assert_eq!(sum, all);
        }
    }

    /// Goal: a batch holds as many records as asked for, or as many as fit.
    #[test]
    fn batches_are_filled() {
        let payload = Payload::new(1_000);
        let mut builder = BatchBuilder::with_bytes_max(Compression::None, 100_000);
        assert_eq!(fill_batch(&mut builder, &payload, 0, 10), 10);
        builder.clear();
        let filled = fill_batch(&mut builder, &payload, 0, 10_000);
        assert_eq!(filled, builder.len() as u64);
        assert!((90..100).contains(&filled), "{filled}");
    }
}
