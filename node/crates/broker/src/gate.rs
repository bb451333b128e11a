//! Where batches of a topic with a check wait for it: one ordered queue for each partition.
//!
//! | state | a batch arrives | next |
//! |---|---|---|
//! | open: no check | it is appended at once, past this file | open |
//! | closed | it joins the queue | closed |
//! | closed, the check was taken away | it joins the queue | open, once the queue is empty |
//!
//! A task for each partition, beside the network thread, takes one batch after the other: is it a
//! duplicate or out of sequence, then it goes straight on and is answered so; else the module
//! judges it, and it is appended, in the order in which batches came. So what the leader knows of
//! a producer when the next batch's turn comes is what became of all before it: behind a batch that
//! was refused, those of the same producer are gaps, until it begins anew.
//!
//! What waits is bounded by [`limits::CHECK_QUEUE_MAX`], in bytes by
//! [`limits::CHECK_QUEUE_BYTES_MAX`], and on the whole node by half of the produce budget, so that
//! a slow module does not hold up the producers of other topics. What does not fit is told that the
//! node is busy.

use crate::ack::AckQueue;
use crate::broker::Shared;
use crate::modules::Check;
use crate::partition::{Partition, Payload};
use crate::produce;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use weir_core::TopicId;
use weir_core::deploy::Version;
use weir_core::limits;
use weir_core::record::{Compression, RecordBatch};
use weir_core::topic::TopicConfig;
use weir_core::wire::{ErrorCode, WireError};

/// The queue of one partition.
#[derive(Debug)]
pub struct Gate {
    /// Whether batches join the queue. Changes under the lock.
    closed: AtomicBool,
    queue: Mutex<Queue>,
    /// Something joined, or the check is another.
    news: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    rule: Option<Rule>,
    waiting: VecDeque<Waiting>,
    /// Bytes of batches that wait, and of the one whose turn it is.
    bytes: usize,
    /// Whether a task serves the queue.
    served: bool,
    /// Whether a batch has its turn.
    busy: bool,
}

/// What the topic asks for.
#[derive(Clone, Debug)]
struct Rule {
    version: Arc<Version>,
    /// How a rewritten batch is packed.
    compression: Compression,
}

/// A batch that waits.
#[derive(Debug)]
pub struct Waiting {
    /// What is to be appended.
    pub payload: Payload,
    /// The stream that it came on.
    pub acks: Arc<AckQueue>,
    /// The frame's correlation.
    pub correlation: u64,
    bytes: usize,
    /// Its share of what may wait on the node.
    _room: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    /// A batch that came in a frame with this correlation.
    #[must_use]
    pub fn new(payload: Payload, acks: Arc<AckQueue>, correlation: u64) -> Waiting {
        let bytes = payload.batch_bytes();
        Waiting { payload, acks, correlation, bytes, _room: None }
    }

    fn refuse(self, error: WireError) {
        produce::answer(&self.acks, self.correlation, error);
    }
}

/// What all gates of a node share.
#[derive(Debug)]
pub struct Turns {
    /// Batches that are with modules.
    at_work: Arc<Semaphore>,
    /// And those of each topic.
    topics: Mutex<HashMap<TopicId, Weak<Semaphore>>>,
    /// Bytes that may wait.
    room: Arc<Semaphore>,
    room_bytes: usize,
    budget_bytes: usize,
}

impl Turns {
    /// For a node whose batches on their way to the disk may take `budget_bytes`.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Turns {
        let room_bytes = (budget_bytes / 2).max(1);
        Turns {
            at_work: Arc::new(Semaphore::new(limits::CHECKS_AT_WORK_MAX)),
            topics: Mutex::default(),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            budget_bytes,
        }
    }

    fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
        self.room.clone().try_acquire_many_owned(permits).ok()
    }

    fn of_topic(&self, topic: TopicId) -> Arc<Semaphore> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = topics.get(&topic).and_then(Weak::upgrade) {
            return known;
        }
        topics.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(limits::TOPIC_CHECKS_AT_WORK_MAX));
        topics.insert(topic, Arc::downgrade(&turns));
        turns
    }

    /// A permit for a rewritten batch on its way to the disk. Its producer's was given back before:
    /// who waits here holds nothing. What waits at gates, this batch's room included, never takes
    /// more than the other half of the budget, so this half comes free.
    async fn permit(&self, shared: &Shared, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let most = (self.budget_bytes - self.budget_bytes / 2).max(1);
        let permits = u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        shared.produce_budget.clone().acquire_many_owned(permits).await.ok()
    }
}

impl Gate {
    /// The gate of a partition of a topic with these settings.
    #[must_use]
    pub fn new(config: &TopicConfig) -> Gate {
        let gate =
            Gate { closed: AtomicBool::new(false), queue: Mutex::default(), news: Notify::new() };
        gate.set(config);
        gate
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic under this lock ends the process.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether batches join the queue.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The topic's settings are these now. Batches that wait are judged by the new check.
    pub fn set(&self, config: &TopicConfig) {
        let mut queue = self.queue();
        let version = config.on_produce.as_ref().map(|wanted| {
            let known = queue.rule.as_ref().map(|rule| &rule.version);
            let same = known.filter(|known| known.as_ref() == wanted).cloned();
            same.unwrap_or_else(|| Arc::new(wanted.clone()))
        });
        queue.rule = version.map(|version| Rule { version, compression: config.compression });
        self.settle(&queue);
        drop(queue);
        self.news.notify_one();
    }

    /// Closed where there is a check, and until what came before has gone.
    fn settle(&self, queue: &Queue) {
        let closed = queue.rule.is_some() || queue.busy || !queue.waiting.is_empty();
        self.closed.store(closed, Ordering::Release);
    }

    /// The next batch, and what it is to be judged by.
    fn next(&self) -> Option<(Waiting, Option<Rule>)> {
        let mut queue = self.queue();
        let waiting = queue.waiting.pop_front()?;
        queue.busy = true;
        Some((waiting, queue.rule.clone()))
    }

    /// A batch's turn is over.
    fn done(&self, bytes: usize) {
        let mut queue = self.queue();
        queue.busy = false;
        queue.bytes -= bytes;
        self.settle(&queue);
    }

    /// The task ends, unless there is something to do.
    fn leave(&self) -> bool {
        let mut queue = self.queue();
        queue.served = !queue.waiting.is_empty();
        !queue.served
    }

    fn has_rule(&self) -> bool {
        self.queue().rule.is_some()
    }
}

/// Queues a batch for a partition whose gate is closed.
///
/// # Errors
/// The batch itself: the gate is open by now, it is to be appended at once.
pub fn enter(
    shared: &Arc<Shared>,
    partition: &Arc<Partition>,
    mut waiting: Waiting,
) -> Result<(), Box<Waiting>> {
    let gate = &partition.gate;
    let mut queue = gate.queue();
    if !gate.is_closed() {
        return Err(Box::new(waiting));
    }
    let bytes = waiting.bytes;
    let empty = queue.bytes == 0;
    let fits = queue.waiting.len() < limits::CHECK_QUEUE_MAX
        && (empty || queue.bytes + bytes <= limits::CHECK_QUEUE_BYTES_MAX);
    waiting._room = if fits { shared.turns.room(bytes) } else { None };
    if waiting._room.is_none() {
        drop(queue);
        let message = "too many batches wait for the module that checks the topic";
        waiting.refuse(WireError::new(ErrorCode::Busy, message));
        return Ok(());
    }
    queue.bytes += bytes;
    queue.waiting.push_back(waiting);
    let serve_it = !std::mem::replace(&mut queue.served, true);
    drop(queue);
    if serve_it {
        shared.deployments.thread().spawn(serve(shared.clone(), partition.clone()));
    } else {
        gate.news.notify_one();
    }
    Ok(())
}

/// Serves a queue until it had nothing to do for a while.
async fn serve(shared: Arc<Shared>, partition: Arc<Partition>) {
    let gate = &partition.gate;
    let turns = shared.turns.of_topic(partition.topic);
    let mut check = None;
    loop {
        while let Some((waiting, rule)) = gate.next() {
            let bytes = waiting.bytes;
            let _in_topic = turns.acquire().await;
            let _at_work = shared.turns.at_work.acquire().await;
            turn(&shared, &partition, (waiting, rule), &mut check).await;
            gate.done(bytes);
        }
        let idle = match gate.has_rule() {
            true => timeout(limits::CHECK_IDLE, gate.news.notified()).await.is_err(),
            // The check was taken away, or the topic deleted.
            false => true,
        };
        if idle && gate.leave() {
            return;
        }
    }
}

/// One batch's turn: it is appended or refused when this returns.
async fn turn(
    shared: &Arc<Shared>,
    partition: &Arc<Partition>,
    (mut waiting, rule): (Waiting, Option<Rule>),
    check: &mut Option<Check>,
) {
    if let Some(rule) = rule
        && partition.would_write(&waiting.payload)
        && let Some(batch) = waiting.payload.batch.take()
    {
        let produced = batch.bytes().len();
        match judge(shared, partition, batch, rule, check).await {
            Ok(batch) => {
                if batch.bytes().len() > produced {
                    waiting.payload.hold = None;
                    let permit = shared.turns.permit(shared, batch.bytes().len()).await;
                    waiting.payload.hold = permit.map(|permit| Box::new(permit) as _);
                }
                waiting.payload.batch = Some(batch);
            }
            Err(error) => return waiting.refuse(error),
        }
    }
    let Waiting { payload, acks, correlation, .. } = waiting;
    produce::append(shared, partition, payload, acks, correlation);
}

async fn judge(
    shared: &Arc<Shared>,
    partition: &Partition,
    batch: RecordBatch,
    rule: Rule,
    check: &mut Option<Check>,
) -> Result<RecordBatch, WireError> {
    let check = match check.take().filter(|check| check.is(&rule.version)) {
        Some(known) => check.insert(known),
        None => {
            let (modules, registry) = (&shared.modules, &shared.registry);
            let opened = Check::open(modules, registry, &partition.topic_name, rule.version);
            check.insert(opened.await?)
        }
    };
    check.judge(batch, rule.compression).await
}
