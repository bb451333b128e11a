//! Consuming: one subscription per partition, one queue for all of them.
//!
//! Each partition has a task ([`reader`]) that keeps its subscription open and queues the frames
//! that arrive, within one budget of bytes. [`Consumer::next_batch`] takes frames off the queue
//! and cuts them into batches. The consumer has a connection of its own, whose window holds what
//! all its subscriptions may have under way, so unread records hold nothing else up.

mod assignment;
mod batch;
mod builder;
mod handout;
mod membership;
mod positions;
mod reader;
mod streams;
mod subscribing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use weir_core::Offset;
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{StartAt, TopicInfo};

pub use batch::{Batch, ConsumerRecord};
pub use builder::ConsumerBuilder;
pub use membership::MemberAssignment;
pub use streams::{BatchStream, RecordStream};

use crate::error::{AssignError, CommitError, ConsumeError};
use crate::link::Link;
use assignment::Wanted;
use builder::Settings;
use membership::Membership;
use positions::Positions;
use reader::{Event, Source};

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
/// *Who reads what.* [`Consumer::subscribe`] makes the consumer a member of its group, which
/// shares the partitions out. [`Consumer::assign`] and [`Consumer::assign_topics`] read what they
/// are told: two consumers of one group then overwrite each other's positions, and while the group
/// has members they can store none.
///
/// Dropping a consumer ends its subscriptions and stores nothing more; [`Consumer::close`] does.
/// A member that is dropped is one for the others until its session ends.
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
    /// Its place in the group, if it is a member.
    membership: Option<Membership>,
    told: watch::Sender<MemberAssignment>,
    /// Tasks that end with the consumer.
    commit_task: Option<AbortHandle>,
    growth_task: Option<AbortHandle>,
}

/// One partition of the assignment.
#[derive(Debug)]
struct Assigned {
    source: Arc<Source>,
    reader: Option<AbortHandle>,
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
            membership: None,
            told: watch::Sender::default(),
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
        let count = wanted.len();
        self.replace(wanted, count)
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
        let count = wanted.len();
        self.replace(wanted, count)?;
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
            .filter(|slot| self.holds(*slot))
            .ok_or_else(|| AssignError::NotAssigned { topic: topic.to_owned(), partition })?;
        self.handed_out_is_done();
        self.stop(slot);
        if self.record_batch.as_ref().is_some_and(|batch| self.is_of(batch, slot)) {
            self.record_batch = None;
            self.records.clear();
        }
        self.start_again(slot, start, None);
        Ok(())
    }

    /// Reads nothing any more, and is no member of its group. Positions that were not stored are
    /// forgotten: [`Consumer::commit`] first. Must be called on a tokio runtime.
    pub fn unsubscribe(&mut self) {
        self.clear();
        self.positions.clear(None);
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
        let slot = self.slot(topic, partition).filter(|slot| self.holds(*slot))?;
        self.partitions[slot].position
    }

    /// How far this consumer is behind, per partition that the node has said anything about.
    #[must_use]
    pub fn lag(&self) -> Vec<PartitionLag> {
        let lag = |(slot, assigned): (usize, &Assigned)| {
            self.holds(slot).then_some(())?;
            let position = assigned.position?;
            let (high_watermark, log_start) = assigned.source.bounds()?;
            let Source { topic, partition, .. } = &*assigned.source;
            let (topic, partition) = (topic.clone(), *partition);
            Some(PartitionLag { topic, partition, position, high_watermark, log_start })
        };
        self.partitions.iter().enumerate().filter_map(lag).collect()
    }

    /// The partitions that are assigned. Of a member: those that it reads or has not let go of, as
    /// of the last call for records.
    pub fn assignment(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        let held = self.partitions.iter().enumerate().filter(|(slot, _)| self.holds(*slot));
        held.map(|(_, assigned)| (&assigned.source.topic, assigned.source.partition))
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
                .filter(|slot| self.holds(*slot))
                .ok_or_else(|| CommitError::NotAssigned { topic: topic.to_owned(), partition })?;
            known.push((slot, offset));
        }
        self.positions.commit_offsets(&known).await
    }

    /// Ends the subscriptions, with automatic commits stores the positions after the last records
    /// that were handed out, and leaves the group: others get its partitions at once.
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
        let by_itself = self.settings.commits_by_itself();
        let stored = if by_itself { self.positions.commit().await } else { Ok(()) };
        if let Some(membership) = self.membership.take()
            && let Err(error) = membership.leave().await
        {
            tracing::debug!(%error, "the group learns by itself that a member is gone");
        }
        stored
    }
}
