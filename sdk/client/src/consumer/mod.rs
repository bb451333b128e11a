//! Consuming: one subscription per partition, one queue for all of them.
//!
//! Each partition has a task ([`reader`]) that keeps its subscription open and queues the frames
//! that arrive, within one budget of bytes. [`Consumer::next_batch`] takes frames off the queue
//! and cuts them into batches. The consumer has a connection of its own, whose window holds what
//! all its subscriptions may have under way, so unread records hold nothing else up.

mod batch;
mod builder;
mod positions;
mod reader;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use weir_core::Offset;
use weir_core::limits::{STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX};
use weir_core::record::{BatchError, RecordBatch, split_batch};
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{StartAt, TopicInfo};
use weir_transport::ClientProfile;

pub use batch::{Batch, ConsumerRecord};
pub use builder::ConsumerBuilder;
pub use streams::{BatchStream, RecordStream};

use crate::error::{AssignError, CommitError, ConsumeError};
use crate::link::Link;
use builder::Settings;
use positions::Positions;
use reader::{Event, News, Reader, Source};

/// Smallest receive window of one subscription.
const STREAM_WINDOW_BYTES_MIN: usize = 64 * 1024;
/// Most resets that are kept for [`Consumer::take_resets`].
const RESETS_MAX: usize = 1_024;

/// Where a consumer goes on whose position is not in the log (any more), or that has none stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResetPolicy {
    /// At the first retained record: nothing that can be had is missed.
    #[default]
    Earliest,
    /// At the end: only what comes after.
    Latest,
    /// Not at all: an error says so.
    Fail,
}

/// A position that a policy moved: what lay between was not consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionReset {
    /// The topic.
    pub topic: Arc<str>,
    /// Which of its partitions.
    pub partition: u32,
    /// The position that was asked for.
    pub from: Offset,
    /// The position that was gone on from.
    pub to: Offset,
}

/// How far a consumer is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    /// The topic.
    pub topic: Arc<str>,
    /// Which of its partitions.
    pub partition: u32,
    /// The offset of the next record to be handed out.
    pub position: Offset,
    /// The end of what may be consumed, as last heard of: at most seconds ago.
    pub high_watermark: Offset,
    /// The first retained offset, as last heard of.
    pub log_start: Offset,
}

impl PartitionLag {
    /// Offsets between the position and the high watermark.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.high_watermark.since(self.position)
    }
}

/// Reads partitions. From [`Client::consumer`](crate::Client::consumer).
///
/// *Delivery.* Records of a partition come in order, each once per run of the consumer, through
/// reconnects and restarts of the node. With a group, positions are stored after records were
/// handed out: a consumer that dies goes on at the last stored position, so the records since then
/// come again (at least once). Positions stored automatically are those of batches before the one
/// handed out last: the application is taken to be done with a batch when it asks for the next.
///
/// There is no distribution of partitions over the members of a group yet: each consumer reads
/// what it was assigned, and two of one group overwrite each other's positions.
///
/// Dropping a consumer ends its subscriptions and stores nothing more; [`Consumer::close`] does.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    positions: Arc<Positions>,
    budget: Arc<Semaphore>,
    link: Option<Arc<Link>>,
    events: mpsc::UnboundedReceiver<Event>,
    sender: mpsc::UnboundedSender<Event>,
    /// More partitions than before, from the task that looks.
    grown: mpsc::UnboundedReceiver<Arc<TopicInfo>>,
    grown_sender: mpsc::UnboundedSender<Arc<TopicInfo>>,
    partitions: Vec<Assigned>,
    slots: HashMap<(Arc<str>, u32), usize>,
    generation: u64,
    /// Readers that have not ended.
    running: usize,
    /// The frame that batches are being cut from.
    current: Option<Frame>,
    /// What [`Consumer::next`] has not handed out yet.
    records: VecDeque<ConsumerRecord>,
    /// The batch that these records are of.
    record_batch: Option<Batch>,
    /// What was handed out last, which the application may still be at.
    handed_out: Option<(usize, Offset)>,
    resets: VecDeque<PositionReset>,
    /// Tasks that end with the consumer.
    commit_task: Option<AbortHandle>,
    growth_task: Option<AbortHandle>,
}

/// One partition of the assignment.
#[derive(Debug)]
struct Assigned {
    source: Arc<Source>,
    reader: AbortHandle,
    generation: u64,
    running: bool,
    /// The offset of the next record to be handed out; unknown until the node has said it.
    position: Option<Offset>,
}

/// A data frame that is being cut into batches.
#[derive(Debug)]
struct Frame {
    slot: usize,
    header: DataHeader,
    batches: Bytes,
}

impl Consumer {
    fn new(settings: Settings) -> Consumer {
        let (sender, events) = mpsc::unbounded_channel();
        let (grown_sender, grown) = mpsc::unbounded_channel();
        let positions = Positions::new(settings.client.clone(), settings.group.clone());
        let mut consumer = Consumer {
            positions: Arc::new(positions),
            budget: Arc::new(Semaphore::new(settings.prefetch_bytes)),
            link: None,
            events,
            sender,
            grown,
            grown_sender,
            partitions: Vec::new(),
            slots: HashMap::new(),
            generation: 0,
            running: 0,
            current: None,
            records: VecDeque::new(),
            record_batch: None,
            handed_out: None,
            resets: VecDeque::new(),
            commit_task: None,
            growth_task: None,
            settings,
        };
        consumer.start_commits();
        consumer
    }

    /// Reads these partitions from these positions, instead of what was read before.
    ///
    /// # Errors
    /// [`AssignError`]; the consumer then reads what it read before.
    ///
    /// # Cancel safety
    /// Safe: dropping the future changes nothing.
    pub async fn assign(&mut self, partitions: &[(&str, u32, StartAt)]) -> Result<(), AssignError> {
        let mut wanted = Vec::with_capacity(partitions.len());
        let mut topics: HashMap<&str, Arc<TopicInfo>> = HashMap::new();
        for &(name, partition, start) in partitions {
            if !topics.contains_key(name) {
                topics.insert(name, self.topic(name).await?);
            }
            let topic = &topics[name];
            let count = topic.config.partitions;
            if partition >= count {
                let topic = name.to_owned();
                return Err(AssignError::UnknownPartition { topic, partition, partitions: count });
            }
            wanted.push(Wanted { topic: topic.clone(), partition, start, stored: None });
        }
        self.replace(wanted)
    }

    /// Reads all partitions of these topics, instead of what was read before: each from the
    /// group's stored position, or where there is none as the reset policy says. Partitions that
    /// are added to a topic later are read from their beginning, within half a minute.
    ///
    /// # Errors
    /// [`AssignError`]; the consumer then reads what it read before.
    ///
    /// # Cancel safety
    /// Safe: dropping the future changes nothing.
    pub async fn assign_topics(&mut self, topics: &[&str]) -> Result<(), AssignError> {
        let mut found = Vec::with_capacity(topics.len());
        for name in topics {
            found.push(self.topic(name).await?);
        }
        let stored = self.positions.fetch().await?;
        let stored: HashMap<_, _> =
            stored.into_iter().map(|at| ((at.topic, at.partition.0), at.offset)).collect();
        let mut wanted = Vec::new();
        for topic in &found {
            for partition in 0..topic.config.partitions {
                let stored = stored.get(&(topic.id, partition)).copied();
                let start = match (stored, self.settings.reset) {
                    (Some(offset), _) => StartAt::Offset(offset),
                    (None, ResetPolicy::Earliest) => StartAt::Earliest,
                    (None, ResetPolicy::Latest) => StartAt::Latest,
                    (None, ResetPolicy::Fail) => {
                        let topic = topic.name.clone();
                        return Err(AssignError::NoPosition { topic, partition });
                    }
                };
                wanted.push(Wanted { topic: topic.clone(), partition, start, stored });
            }
        }
        self.replace(wanted)?;
        if !self.settings.until_end {
            self.watch_growth(found);
        }
        Ok(())
    }

    /// Goes on elsewhere in a partition. What was fetched of it is dropped. Also starts a
    /// partition again that had ended or failed.
    ///
    /// # Errors
    /// [`AssignError::NotAssigned`]
    pub fn seek(&mut self, topic: &str, partition: u32, start: StartAt) -> Result<(), AssignError> {
        let slot = self
            .slot(topic, partition)
            .ok_or_else(|| AssignError::NotAssigned { topic: topic.to_owned(), partition })?;
        self.handed_out_is_done();
        self.stop(slot);
        if self.record_batch.as_ref().is_some_and(|batch| self.is_of(batch, slot)) {
            self.record_batch = None;
            self.records.clear();
        }
        let source = self.partitions[slot].source.clone();
        let (reader, generation) = self.spawn_reader(slot, source, start);
        let assigned = &mut self.partitions[slot];
        assigned.reader = reader;
        assigned.generation = generation;
        assigned.running = true;
        assigned.position = None;
        self.running += 1;
        Ok(())
    }

    /// Reads nothing any more. Positions that were not stored are forgotten:
    /// [`Consumer::commit`] first.
    pub fn unsubscribe(&mut self) {
        self.clear();
        self.positions.clear();
    }

    /// The next records of some partition; `None` when every partition has ended
    /// ([`ConsumerBuilder::until_end`]) or failed. Waits until there are any.
    ///
    /// # Errors
    /// [`ConsumeError`], about one partition as a rule: call again to go on with the others.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses nothing.
    pub async fn next_batch(&mut self) -> Result<Option<Batch>, ConsumeError> {
        std::future::poll_fn(|context| self.poll_batch(context)).await
    }

    /// The next record; otherwise as [`Consumer::next_batch`], which is faster.
    ///
    /// # Errors
    /// As [`Consumer::next_batch`].
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<ConsumerRecord>, ConsumeError> {
        std::future::poll_fn(|context| self.poll_record(context)).await
    }

    /// A stream of what [`Consumer::next_batch`] returns.
    pub fn batches(&mut self) -> BatchStream<'_> {
        BatchStream::new(self)
    }

    /// A stream of what [`Consumer::next`] returns.
    pub fn records(&mut self) -> RecordStream<'_> {
        RecordStream::new(self)
    }

    /// The offset of the next record that is handed out of this partition; `None` if it is not
    /// assigned, or the node has not said yet where the subscription begins.
    #[must_use]
    pub fn position(&self, topic: &str, partition: u32) -> Option<Offset> {
        let slot = self.slot(topic, partition)?;
        self.partitions[slot].position
    }

    /// How far this consumer is behind, per partition that the node has said anything about.
    #[must_use]
    pub fn lag(&self) -> Vec<PartitionLag> {
        let lag = |assigned: &Assigned| {
            let position = assigned.position?;
            let (high_watermark, log_start) = assigned.source.bounds()?;
            let Source { topic, partition, .. } = &*assigned.source;
            let (topic, partition) = (topic.clone(), *partition);
            Some(PartitionLag { topic, partition, position, high_watermark, log_start })
        };
        self.partitions.iter().filter_map(lag).collect()
    }

    /// The partitions that are assigned.
    pub fn assignment(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.partitions.iter().map(|assigned| (&assigned.source.topic, assigned.source.partition))
    }

    /// Positions that the reset policy, or skipping of damage, moved since the last call. The
    /// oldest are dropped beyond 1,024.
    pub fn take_resets(&mut self) -> Vec<PositionReset> {
        self.resets.drain(..).collect()
    }

    /// Stores the positions after the last records that were handed out.
    ///
    /// # Errors
    /// [`CommitError`]
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the positions may be stored all the same.
    pub async fn commit(&mut self) -> Result<(), CommitError> {
        self.handed_out_is_done();
        self.positions.commit().await
    }

    /// Stores these positions: each the offset of the next record that the group wants.
    ///
    /// # Errors
    /// [`CommitError`]
    ///
    /// # Cancel safety
    /// As [`Consumer::commit`].
    pub async fn commit_offsets(&self, offsets: &[(&str, u32, Offset)]) -> Result<(), CommitError> {
        let mut known = Vec::with_capacity(offsets.len());
        for &(topic, partition, offset) in offsets {
            let slot = self
                .slot(topic, partition)
                .ok_or_else(|| CommitError::NotAssigned { topic: topic.to_owned(), partition })?;
            known.push((slot, offset));
        }
        self.positions.commit_offsets(&known).await
    }

    /// Ends the subscriptions and, with automatic commits, stores the positions after the last
    /// records that were handed out.
    ///
    /// # Errors
    /// [`CommitError`], where the positions could not be stored.
    ///
    /// # Cancel safety
    /// Dropping the future ends the subscriptions; the positions may be stored or not.
    pub async fn close(mut self) -> Result<(), CommitError> {
        self.handed_out_is_done();
        self.stop_all();
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        if self.settings.commits_by_itself() { self.positions.commit().await } else { Ok(()) }
    }
}

/// A partition to be assigned.
struct Wanted {
    topic: Arc<TopicInfo>,
    partition: u32,
    start: StartAt,
    stored: Option<Offset>,
}

impl Consumer {
    /// Polls for what [`Consumer::next_batch`] returns.
    fn poll_batch(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Batch>, ConsumeError>> {
        self.handed_out_is_done();
        if let Some(batch) = self.rest_of_records() {
            return Poll::Ready(Ok(Some(self.hand_out(batch))));
        }
        loop {
            while let Some(result) = self.cut() {
                return Poll::Ready(result.map(|batch| Some(self.hand_out(batch))));
            }
            while let Poll::Ready(Some(topic)) = self.grown.poll_recv(context) {
                self.handle_grown(&topic);
            }
            if self.running == 0 {
                return Poll::Ready(Ok(None));
            }
            // This consumer holds a sender itself, so the queue does not end.
            if let Some(event) = ready!(self.events.poll_recv(context)) {
                if let Err(error) = self.handle_event(event) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Polls for what [`Consumer::next`] returns.
    fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<ConsumerRecord>, ConsumeError>> {
        self.handed_out_is_done();
        loop {
            if let (Some(record), Some(batch)) = (self.records.pop_front(), &self.record_batch) {
                if let Some(slot) = self.slot(&batch.topic, batch.partition) {
                    let next = record.offset.plus(1);
                    self.partitions[slot].position = Some(next);
                    self.handed_out = Some((slot, next));
                }
                return Poll::Ready(Ok(Some(record)));
            }
            self.record_batch = None;
            let Some(batch) = ready!(self.poll_batch(context))? else {
                return Poll::Ready(Ok(None));
            };
            // Nothing of it was handed out yet.
            if let Some((slot, _)) = self.handed_out.take() {
                self.partitions[slot].position = Some(batch.first_offset());
            }
            self.records = batch.owned_records().collect();
            self.record_batch = Some(batch);
        }
    }

    /// What is left of a batch that was being handed out record by record.
    fn rest_of_records(&mut self) -> Option<Batch> {
        let mut batch = self.record_batch.take()?;
        let left = std::mem::take(&mut self.records).len();
        batch.skip = batch.records.len() - left;
        (left > 0).then_some(batch)
    }

    fn hand_out(&mut self, batch: Batch) -> Batch {
        if let Some(slot) = self.slot(&batch.topic, batch.partition) {
            let next = batch.end_offset();
            self.partitions[slot].position = Some(next);
            self.handed_out = Some((slot, next));
        }
        batch
    }

    /// The application asked for more, or to commit: it is done with what it had.
    fn handed_out_is_done(&mut self) {
        if let Some((slot, next)) = self.handed_out.take() {
            self.positions.done(slot, next);
        }
    }

    /// Cuts the next batch off the current frame; `None` if there is nothing left.
    fn cut(&mut self) -> Option<Result<Batch, ConsumeError>> {
        loop {
            let frame = self.current.as_mut()?;
            let (slot, next_offset) = (frame.slot, frame.header.next_offset);
            let cut = split_batch(&mut frame.batches);
            let Some(cut) = cut else {
                self.current = None;
                self.move_on(slot, next_offset);
                return None;
            };
            match cut.and_then(|bytes| self.wanted(slot, bytes)) {
                Ok(Some(batch)) => return Some(Ok(batch)),
                Ok(None) => {}
                Err(error) if self.settings.skip_damage => {
                    let Source { topic, partition, .. } = &*self.partitions[slot].source;
                    tracing::warn!(%topic, partition, %error, "skipped an invalid batch");
                }
                Err(error) => {
                    let assigned = &self.partitions[slot];
                    let error = ConsumeError::InvalidBatch {
                        topic: assigned.source.topic.clone(),
                        partition: assigned.source.partition,
                        at: assigned.position.unwrap_or_default(),
                        resume_at: next_offset,
                        error,
                    };
                    self.stop(slot);
                    return Some(Err(error));
                }
            }
        }
    }

    /// Checks a batch; `None` if nothing of it is wanted.
    fn wanted(&self, slot: usize, bytes: Bytes) -> Result<Option<Batch>, BatchError> {
        let assigned = &self.partitions[slot];
        let frame = self.current.as_ref();
        let (batch, records) = RecordBatch::decode_with_records(bytes)?;
        let header = batch.header();
        let position = assigned.position.unwrap_or(header.base_offset);
        if header.is_control() || header.end_offset() <= position {
            return Ok(None);
        }
        let skip = position.since(header.base_offset) as usize;
        let data = frame.map(|frame| frame.header);
        Ok(Some(Batch {
            topic: assigned.source.topic.clone(),
            partition: assigned.source.partition,
            high_watermark: data.map_or(Offset::ZERO, |data| data.high_watermark),
            log_start: data.map_or(Offset::ZERO, |data| data.log_start),
            batch,
            records,
            skip,
        }))
    }

    fn handle_event(&mut self, event: Event) -> Result<(), ConsumeError> {
        let Event { slot, generation, news, permit } = event;
        drop(permit);
        // News of a reader that was stopped is no news.
        let known = self.partitions.get_mut(slot);
        let Some(assigned) = known.filter(|assigned| assigned.generation == generation) else {
            return Ok(());
        };
        match news {
            News::Start(offset) => assigned.position = Some(offset),
            News::Frame(header, batches) => self.current = Some(Frame { slot, header, batches }),
            News::Moved(next) => self.move_on(slot, next),
            News::Reset(reset) => {
                if self.resets.len() == RESETS_MAX {
                    self.resets.pop_front();
                }
                self.resets.push_back(reset);
            }
            News::End => self.stop(slot),
            News::Failed(error) => {
                self.stop(slot);
                return Err(error);
            }
        }
        Ok(())
    }

    /// There is nothing for the application before `next`.
    fn move_on(&mut self, slot: usize, next: Offset) {
        let assigned = &mut self.partitions[slot];
        if assigned.position.is_some_and(|position| position < next) {
            assigned.position = Some(next);
            // Waits its turn behind the batch that the application is at.
            match &mut self.handed_out {
                Some((at, done)) if *at == slot => *done = next,
                _ => self.positions.done(slot, next),
            }
        }
    }

    fn handle_grown(&mut self, topic: &Arc<TopicInfo>) {
        let known = self.partitions.iter().filter(|p| p.source.topic_id == topic.id).count();
        if known == 0 || known as u32 >= topic.config.partitions {
            return;
        }
        let total = self.partitions.len() + topic.config.partitions as usize - known;
        if total > STREAMS_PER_CONNECTION_MAX as usize {
            tracing::warn!(topic = topic.name, total, "too many partitions for one consumer");
            return;
        }
        tracing::info!(topic = topic.name, partitions = topic.config.partitions, "it has grown");
        for partition in known as u32..topic.config.partitions {
            let start = StartAt::Earliest;
            self.add(Wanted { topic: topic.clone(), partition, start, stored: None });
        }
    }

    /// Starts over with these partitions.
    fn replace(&mut self, wanted: Vec<Wanted>) -> Result<(), AssignError> {
        let max = STREAMS_PER_CONNECTION_MAX as usize;
        if wanted.len() > max {
            return Err(AssignError::TooMany { asked: wanted.len(), max });
        }
        self.clear();
        self.positions.clear();
        let profile = self.settings.profile(wanted.len());
        self.link = Some(Arc::new(self.settings.client.subscription_link(profile)));
        wanted.into_iter().for_each(|wanted| self.add(wanted));
        Ok(())
    }

    fn add(&mut self, wanted: Wanted) {
        let Wanted { topic, partition, start, stored } = wanted;
        let slot = self.partitions.len();
        let name = self.partitions.iter().map(|p| &p.source.topic).find(|t| ***t == topic.name);
        let name = name.cloned().unwrap_or_else(|| topic.name.as_str().into());
        let source = Arc::new(Source::new(name.clone(), topic.id, partition));
        let (reader, generation) = self.spawn_reader(slot, source.clone(), start);
        self.positions.add(topic.id, partition, stored);
        self.slots.insert((name, partition), slot);
        self.partitions.push(Assigned {
            source,
            reader,
            generation,
            running: true,
            position: None,
        });
        self.running += 1;
    }

    fn spawn_reader(
        &mut self,
        slot: usize,
        source: Arc<Source>,
        start: StartAt,
    ) -> (AbortHandle, u64) {
        self.generation += 1;
        let profile = self.settings.profile(1);
        let link = self
            .link
            .get_or_insert_with(|| Arc::new(self.settings.client.subscription_link(profile)));
        let reader = Reader {
            link: link.clone(),
            source,
            slot,
            generation: self.generation,
            events: self.sender.clone(),
            budget: self.budget.clone(),
            frame_bytes_max: self.settings.frame_bytes_max(),
            until_end: self.settings.until_end,
            reset: self.settings.reset,
            skip_damage: self.settings.skip_damage,
        };
        (tokio::spawn(reader.run(start)).abort_handle(), self.generation)
    }

    /// Ends a partition's reader and drops what is left of its current frame.
    fn stop(&mut self, slot: usize) {
        self.current.take_if(|frame| frame.slot == slot);
        let assigned = &mut self.partitions[slot];
        assigned.reader.abort();
        assigned.generation = 0;
        if std::mem::replace(&mut assigned.running, false) {
            self.running -= 1;
        }
    }

    fn stop_all(&mut self) {
        (0..self.partitions.len()).for_each(|slot| self.stop(slot));
        let tasks = [self.commit_task.take(), self.growth_task.take()];
        tasks.into_iter().flatten().for_each(|task| task.abort());
    }

    fn clear(&mut self) {
        (0..self.partitions.len()).for_each(|slot| self.stop(slot));
        if let Some(task) = self.growth_task.take() {
            task.abort();
        }
        self.partitions.clear();
        self.slots.clear();
        self.records.clear();
        self.record_batch = None;
        self.handed_out = None;
        while self.grown.try_recv().is_ok() {}
    }

    fn slot(&self, topic: &str, partition: u32) -> Option<usize> {
        // Names are few and partitions dense: the map is only worth its hash for many.
        if let [only] = &self.partitions[..] {
            let same = *only.source.topic == *topic && only.source.partition == partition;
            return same.then_some(0);
        }
        self.slots.get(&(Arc::from(topic), partition)).copied()
    }

    fn is_of(&self, batch: &Batch, slot: usize) -> bool {
        let source = &self.partitions[slot].source;
        source.topic == batch.topic && source.partition == batch.partition
    }

    async fn topic(&self, name: &str) -> Result<Arc<TopicInfo>, AssignError> {
        let topic = self.settings.client.fresh_topic(name).await?;
        topic.ok_or_else(|| AssignError::UnknownTopic(name.to_owned()))
    }

    /// Commits from time to time, if that was asked for.
    fn start_commits(&mut self) {
        let Some(every) = self.settings.auto_commit.filter(|_| self.settings.group.is_some())
        else {
            return;
        };
        let positions = self.positions.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if let Err(error) = positions.commit().await {
                    tracing::warn!(%error, "positions were not stored; will try again");
                }
            }
        });
        self.commit_task = Some(task.abort_handle());
    }

    /// Looks for more partitions from time to time.
    fn watch_growth(&mut self, topics: Vec<Arc<TopicInfo>>) {
        let client = self.settings.client.clone();
        let every = self.settings.metadata_refresh;
        let grown = self.grown_sender.clone();
        let link = self.link.clone();
        let task = tokio::spawn(async move {
            let mut known: Vec<u32> = topics.iter().map(|topic| topic.config.partitions).collect();
            loop {
                tokio::time::sleep(every).await;
                for (n, topic) in topics.iter().enumerate() {
                    // Failures show elsewhere: the subscriptions have them, too.
                    let Ok(Some(now)) = client.fresh_topic(&topic.name).await else {
                        continue;
                    };
                    if now.id != topic.id || now.config.partitions <= known[n] {
                        continue;
                    }
                    known[n] = now.config.partitions;
                    if let Some(link) = &link {
                        let total: u32 = known.iter().sum();
                        link.expect_subscriptions(total as usize).await;
                    }
                    let _ = grown.send(now);
                }
            }
        });
        self.growth_task = Some(task.abort_handle());
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop_all();
    }
}

/// Most of the prefetch budget that one frame takes: a larger one, which holds one batch, passes
/// for that much.
fn prefetch_of_one(frame_bytes_max: u32) -> usize {
    frame_bytes_max as usize + DataHeader::BYTES
}

impl Settings {
    fn profile(&self, partitions: usize) -> ClientProfile {
        let partitions = partitions.max(1);
        let share = self.prefetch_bytes / partitions;
        let stream_window_bytes = share.clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES);
        ClientProfile::Subscribe { streams: partitions, stream_window_bytes }
    }
}
