//! Producing: records in, confirmed batches out.
//!
//! [`Producer::send`] puts a record into the open batch of its partition, under a short lock, and
//! returns. Two tasks do the rest: the *session* keeps a produce stream open, writes batches and
//! reads acknowledgements; the *timer* lets batches linger, retries and expires. All decisions are
//! made by the pure [`weir_producer::Machine`].

mod delivery;
mod driver;
mod topics;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use weir_core::TimestampMs;
use weir_core::limits::{BATCH_BYTES_MAX, KIB, MIB, PRODUCER_BATCHES_REMEMBERED};
use weir_core::record::{BATCH_HEADER_BYTES, BatchBuilder, Compression};
use weir_core::wire::message::{Request, Response};
use weir_producer::{RecordParts, Rules};

pub use delivery::{Delivery, RecordMetadata};

use crate::client::{Client, unexpected};
use crate::error::{FlushError, RequestError, SendError};
use driver::Shared;
use topics::TopicShape;

/// Bytes that a record takes in a batch besides its key, value and headers, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;
/// The same of one header.
const HEADER_OVERHEAD_BYTES: usize = 8;
/// Smallest buffer: it must hold a batch or two.
const BUFFER_BYTES_MIN: usize = 64 * KIB;
/// Largest buffer.
const BUFFER_BYTES_MAX: usize = 1024 * MIB;
/// Smallest batch size.
const BATCH_BYTES_MIN: usize = KIB;

/// A record to be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic. An `Arc<str>` that is kept and cloned costs no allocation per record.
    pub topic: Arc<str>,
    /// Which of its partitions; `None`: by the key, or where there is none, by turns.
    pub partition: Option<u32>,
    /// What orders it: records of one key go to one partition, where they stay in order.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Option<Bytes>,
    /// Further named values.
    pub headers: Vec<(String, Bytes)>,
    /// Event time in ms since the Unix epoch; `None`: now.
    pub timestamp: Option<i64>,
}

impl ProducerRecord {
    /// A record with a payload and nothing else.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> ProducerRecord {
        ProducerRecord { topic: topic.into(), value: Some(value.into()), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> ProducerRecord {
        self.key = Some(key.into());
        self
    }

    /// The same for this partition.
    #[must_use]
    pub fn with_partition(mut self, partition: u32) -> ProducerRecord {
        self.partition = Some(partition);
        self
    }

    /// The same with this event time, in ms since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(mut self, timestamp: i64) -> ProducerRecord {
        self.timestamp = Some(timestamp);
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<String>,
        value: impl Into<Bytes>,
    ) -> ProducerRecord {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Bytes that it takes in a batch, at most.
    fn charge(&self) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD_BYTES);
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers.sum::<usize>()
            + RECORD_OVERHEAD_BYTES
    }
}

/// Settings of a producer. From [`Client::producer`](crate::Client::producer).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProducerBuilder {
    client: Client,
    compression: Option<Compression>,
    linger: Duration,
    send_when_idle: bool,
    batch_bytes: usize,
    buffer_bytes: usize,
    delivery_timeout: Duration,
    idempotent: bool,
    in_flight: usize,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> ProducerBuilder {
        ProducerBuilder {
            client,
            compression: None,
            linger: Duration::from_millis(5),
            send_when_idle: true,
            batch_bytes: MIB,
            buffer_bytes: 32 * MIB,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
            in_flight: PRODUCER_BATCHES_REMEMBERED,
        }
    }

    /// Compresses batches so, instead of as each topic says.
    pub fn compression(mut self, compression: Compression) -> ProducerBuilder {
        self.compression = Some(compression);
        self
    }

    /// How long a record may wait for others to share its batch, while earlier batches of its
    /// partition are under way; default 5 ms. A batch that is full does not wait.
    pub fn linger(mut self, linger: Duration) -> ProducerBuilder {
        self.linger = linger;
        self
    }

    /// Whether a partition of which nothing is under way sends at once what it has, instead of
    /// waiting for the linger; default true. So one record at a time is confirmed without delay,
    /// while a busy producer still makes large batches: what comes during a round trip to the
    /// node's disk goes together. Set it to false to have fewer, larger batches from slow sources,
    /// which spares flash.
    pub fn send_when_idle(mut self, send_when_idle: bool) -> ProducerBuilder {
        self.send_when_idle = send_when_idle;
        self
    }

    /// Size at which a batch is full, in bytes before compression; default 1 MiB. Clamped to
    /// 1 KiB and 4 MiB, and to what node and topic take. A record that alone is larger gets a
    /// batch of its own.
    pub fn batch_bytes(mut self, bytes: usize) -> ProducerBuilder {
        self.batch_bytes = bytes.clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX);
        self
    }

    /// Most bytes of records that are accepted and not confirmed; default 32 MiB. Beyond that
    /// [`Producer::send`] waits. Clamped to 64 KiB and 1 GiB.
    pub fn buffer_bytes(mut self, bytes: usize) -> ProducerBuilder {
        self.buffer_bytes = bytes.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        self
    }

    /// How long a record may take from being accepted to being confirmed, retries and reconnects
    /// included; default 120 s. Its delivery fails then.
    pub fn delivery_timeout(mut self, timeout: Duration) -> ProducerBuilder {
        self.delivery_timeout = timeout;
        self
    }

    /// Whether batches are numbered so that a retry is never stored twice; default true. Without
    /// it a retry after a lost confirmation may store a batch twice, and only one batch per
    /// partition is under way at a time, so that order is kept all the same.
    pub fn idempotent(mut self, idempotent: bool) -> ProducerBuilder {
        self.idempotent = idempotent;
        self
    }

    /// Most batches under way per partition; default and most 5.
    pub fn in_flight(mut self, batches: usize) -> ProducerBuilder {
        self.in_flight = batches.clamp(1, PRODUCER_BATCHES_REMEMBERED);
        self
    }

    /// Makes the producer, with a producer id from the node if it is idempotent.
    ///
    /// # Errors
    /// [`RequestError`]
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn build(self) -> Result<Producer, RequestError> {
        let mut id = None;
        if self.idempotent {
            match self.client.request(&Request::InitProducer {}).await? {
                Response::Producer { id: fresh } => id = Some(fresh),
                _ => return Err(unexpected()),
            }
        }
        let rules = Rules {
            linger: self.linger,
            eager: self.send_when_idle,
            in_flight_max: if self.idempotent { self.in_flight } else { 1 },
            delivery_timeout: self.delivery_timeout,
            idempotent: self.idempotent,
        };
        let shape = TopicShape { compression: self.compression, batch_bytes: self.batch_bytes };
        let budget = Semaphore::new(self.buffer_bytes);
        let shared = Shared::start(self.client, rules, id, shape, budget);
        Ok(Producer { handle: Arc::new(Handle { shared }), buffer_bytes: self.buffer_bytes })
    }
}

/// Sends records to topics. From [`Client::producer`](crate::Client::producer); clones share one
/// buffer and one stream.
///
/// *Delivery.* A record whose [`Delivery`] says `Ok` is on the node's disk (unless the topic's
/// durability is relaxed: [`RecordMetadata::reached`] tells). Retries are made inside, until the
/// delivery timeout; with idempotence, the default, none of them stores a record twice. Records of
/// one partition are stored in the order in which they were accepted; where a record fails for
/// good, those behind it are stored without it.
///
/// Dropping the last clone lets the background tasks send what was accepted and then end, as long
/// as the runtime lives; [`Producer::close`] waits for that.
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
    buffer_bytes: usize,
}

/// The last of these ends the background tasks.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.finish();
    }
}

impl Producer {
    /// Accepts a record for sending. Waits only while the buffer is full, and at a topic's first
    /// record for the topic's description.
    ///
    /// # Errors
    /// [`SendError`]; the record was certainly not stored.
    ///
    /// # Cancel safety
    /// Safe: a record whose `send` was dropped before it returned was not accepted.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, SendError> {
        let charge = self.bounded(record.charge())?;
        let reserved = self.reserve(charge).await?;
        let accepted = match self.accept(&record, charge) {
            Err(SendError::TopicNotLoaded(_)) => {
                self.load_topic(&record.topic).await?;
                self.accept(&record, charge)
            }
            other => other,
        };
        accepted.inspect(|_| reserved.forget())
    }

    /// Accepts a record for sending, without waiting.
    ///
    /// # Errors
    /// [`SendError::BufferFull`], [`SendError::TopicNotLoaded`] before the topic's first record
    /// was sent by [`Producer::send`], and all that [`Producer::send`] says.
    pub fn try_send(&self, record: ProducerRecord) -> Result<Delivery, SendError> {
        let charge = self.bounded(record.charge())?;
        let reserved = self.shared().budget.try_acquire_many(charge as u32);
        let reserved = reserved.map_err(|error| match error {
            TryAcquireError::NoPermits => SendError::BufferFull,
            TryAcquireError::Closed => SendError::Closed,
        })?;
        self.accept(&record, charge).inspect(|_| reserved.forget())
    }

    /// Sends many records of one partition as one batch, which `fill` pushes. Saves what
    /// [`Producer::send`] costs per record; the one [`Delivery`] stands for the batch's first
    /// record, so the others follow its offset. They are stored all or none.
    ///
    /// `fill` runs without any lock held. Its builder takes records up to the producer's batch
    /// size, or one larger one.
    ///
    /// # Errors
    /// [`SendError`]; nothing was stored. [`SendError::EmptyBatch`] if `fill` pushed nothing.
    ///
    /// # Cancel safety
    /// Safe: a batch whose `send_batch` was dropped before it returned was not accepted.
    pub async fn send_batch(
        &self,
        topic: &str,
        partition: u32,
        fill: impl FnOnce(&mut BatchBuilder),
    ) -> Result<Delivery, SendError> {
        let mut found = self.shared().blank(topic, partition);
        if matches!(found, Err(SendError::TopicNotLoaded(_))) {
            self.load_topic(topic).await?;
            found = self.shared().blank(topic, partition);
        }
        let mut records = found?;
        fill(&mut records.builder);
        if records.builder.is_empty() {
            return Err(SendError::EmptyBatch);
        }
        let charge = self.bounded(records.builder.bytes())?;
        let reserved = self.reserve(charge).await?;
        let accepted = self.shared().accept_batch(topic, partition, records, charge);
        accepted.inspect(|_| reserved.forget())
    }

    /// Sends everything accepted so far without waiting for more, and waits until each record is
    /// confirmed or has failed.
    ///
    /// # Errors
    /// [`FlushError`] if any failed among those that were not resolved before the call.
    ///
    /// # Cancel safety
    /// Safe: what was accepted is sent all the same.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.shared().flush().await
    }

    /// Flushes, and lets no more records in: also those of other clones are then refused.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the producer closed; what was accepted is sent all the same.
    pub async fn close(self) -> Result<(), FlushError> {
        self.shared().finish();
        self.shared().flush().await
    }

    /// Bytes of the buffer that are free.
    #[must_use]
    pub fn buffer_available(&self) -> usize {
        self.shared().budget.available_permits()
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    fn accept(&self, record: &ProducerRecord, charge: usize) -> Result<Delivery, SendError> {
        let parts = RecordParts {
            timestamp: TimestampMs(record.timestamp.unwrap_or_else(now_ms)),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        self.shared().accept(&record.topic, record.partition, &parts, charge)
    }

    async fn load_topic(&self, topic: &str) -> Result<(), SendError> {
        match self.shared().client.topic(topic).await? {
            Some(description) => {
                self.shared().learn(&description);
                Ok(())
            }
            None => Err(SendError::UnknownTopic(topic.to_owned())),
        }
    }

    /// Takes bytes of the buffer; waits while there are too few.
    async fn reserve(&self, bytes: usize) -> Result<SemaphorePermit<'_>, SendError> {
        let permit = self.shared().budget.acquire_many(bytes as u32).await;
        permit.map_err(|_| SendError::Closed)
    }

    /// A single record or batch may take the whole buffer, and is not refused for being larger.
    fn bounded(&self, bytes: usize) -> Result<usize, SendError> {
        if bytes > BATCH_BYTES_MAX + BATCH_HEADER_BYTES {
            return Err(SendError::OverBatchLimit { bytes, max: BATCH_BYTES_MAX });
        }
        Ok(bytes.min(self.buffer_bytes))
    }
}

/// The wall clock in ms since the Unix epoch; negative before it.
fn now_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}
