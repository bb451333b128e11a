//! One partition in the broker: the pure replica, and what drives it.
//!
//! The replica is behind a mutex that is held for about a microsecond and never across I/O or an
//! await: appends come from the network thread, durable ends from the log's writer thread.

mod following;
mod own;
mod roles;
mod snapshot;

use crate::ack::Parked;
use crate::gate::Gate;
use crate::meter::Meter;
use bytes::Bytes;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::partition::assignment::Lead;
use weir_core::partition::follower::{Held, Step};
use weir_core::partition::leader::{self, Append};
use weir_core::partition::messages::Report;
use weir_core::partition::producers::{ProducerBatch, SequenceError};
use weir_core::partition::replica::{Replica, Role};
use weir_core::partition::view::PartitionView;
use weir_core::record::RecordBatch;
use weir_core::topic::{Durability, TopicConfig};
use weir_core::wire::frame::Reached;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, Offset, PartitionId, PartitionIndex, TimestampMs, TopicId};
use weir_log::{AppendRequest, Log};

pub use following::{Followed, Taken};
use roles::Released;
pub use roles::{ALONE, Pushing};

/// A partition: led here, followed here, or known to be elsewhere.
#[derive(Debug)]
pub struct Partition {
    /// Its number in storage.
    pub id: PartitionId,
    /// Its topic.
    pub topic: TopicId,
    /// Its topic's name.
    pub topic_name: Arc<str>,
    /// Its number within the topic.
    pub index: PartitionIndex,
    /// What came in and went out.
    pub meter: Meter,
    /// Where produced batches wait for the topic's check.
    pub gate: Gate,
    log: Arc<Log>,
    /// What the replica's monotonic time counts from.
    began: Instant,
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
    /// The end of what is on this disk, for whoever pushes to followers.
    durable: watch::Sender<Offset>,
    /// What to tell the leader; the newest word holds all before.
    reports: watch::Sender<Option<Report>>,
    /// Raised whenever role, leader or epoch may have changed.
    turns: watch::Sender<u64>,
    /// Replies that were released and not given yet, in log order.
    outbox: Mutex<Vec<Released>>,
    /// Held by whoever empties the outbox.
    delivering: Mutex<()>,
    /// Who waits for what the log says.
    views: Mutex<Vec<snapshot::Waiting>>,
}

#[derive(Debug)]
struct Inner {
    replica: Replica<Parked>,
    settings: Settings,
    deleted: bool,
    /// The cut that the log has yet to be told of.
    cut: Option<(Step, Option<PartitionView>)>,
    /// The log could not be cut as a leader asked.
    cut_failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    durability: Durability,
    /// The topic's own; `None`: as the append says.
    linger: Option<Duration>,
    batch_bytes_max: usize,
}

impl From<&TopicConfig> for Settings {
    fn from(config: &TopicConfig) -> Settings {
        Settings {
            durability: config.durability,
            linger: (config.commit_linger_ms > 0)
                .then(|| Duration::from_millis(u64::from(config.commit_linger_ms))),
            batch_bytes_max: config.batch_bytes_max as usize,
        }
    }
}

/// How far a partition is, for whoever waits for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what consumers may see.
    pub high_watermark: Offset,
    /// The topic was deleted: nothing more will come.
    pub deleted: bool,
    /// Whether this node leads: if not, nothing more will come here, but elsewhere.
    pub led: bool,
    /// Whether the high watermark is no lower than what any earlier leader told. A new leader has
    /// everything that was committed, but may not know at once where it ends.
    pub settled: bool,
}

/// What an entry is made of.
pub struct Payload {
    /// Offsets that it takes; at least 1.
    pub count: u32,
    /// The batch's producer, if it is idempotent.
    pub producer: Option<ProducerBatch>,
    /// The batch, if it has one.
    pub batch: Option<RecordBatch>,
    /// The encoded keyed-state section, or nothing.
    pub state: Bytes,
    /// How long it may wait for others to share its commit, unless the topic says.
    pub linger: Duration,
    /// For appends of the broker's own that build on what is in the log: the only epoch in which
    /// the entry may be appended. The reply then waits for the disk whatever the topic says, and
    /// the topic's bound on batches does not hold.
    pub fence: Option<LeaderEpoch>,
    /// Dropped once the entry is durable or has failed: a permit for its bytes.
    pub hold: Option<Box<dyn Any + Send>>,
}

impl Payload {
    /// Size of its batch, in bytes.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.bytes().len())
    }

    /// An entry in its place that holds nothing.
    fn emptied(self) -> Payload {
        Payload { count: 1, producer: None, batch: None, state: Bytes::new(), ..self }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("count", &self.count).finish_non_exhaustive()
    }
}

/// The figures of a partition's leader, for status.
#[derive(Clone, Copy, Debug)]
pub struct LeaderFigures {
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// Whether appends are taken.
    pub online: bool,
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what consumers may see.
    pub high_watermark: Offset,
    /// The end of the log.
    pub log_end: Offset,
}

impl Partition {
    /// A copy of a partition, in a log that holds what `view` says. It has no role yet.
    #[must_use]
    pub fn new(
        id: PartitionId,
        (topic, topic_name, index): (TopicId, Arc<str>, PartitionIndex),
        config: &TopicConfig,
        me: Lead,
        (log, view): (&Arc<Log>, &PartitionView),
    ) -> Partition {
        let progress = Progress {
            log_start: view.log_start,
            high_watermark: view.log_start,
            deleted: false,
            led: false,
            settled: false,
        };
        let inner = Inner {
            replica: Replica::new(me, Held::open(view, Offset::ZERO)),
            settings: Settings::from(config),
            deleted: false,
            cut: None,
            cut_failed: false,
        };
        Partition {
            id,
            topic,
            topic_name,
            index,
            meter: Meter::default(),
            gate: Gate::new(config),
            log: log.clone(),
            began: Instant::now(),
            inner: Mutex::new(inner),
            progress: watch::Sender::new(progress),
            durable: watch::Sender::new(view.log_end),
            reports: watch::Sender::new(None),
            turns: watch::Sender::new(0),
            outbox: Mutex::default(),
            delivering: Mutex::default(),
            views: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock ends the process (see the node's panic hook), so a poisoned lock
        // is met only on the way down.
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How far the partition is; changes can be awaited on the receiver.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far the partition is now.
    #[must_use]
    pub fn progress_now(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The figures of the copy here.
    #[must_use]
    pub fn figures(&self) -> LeaderFigures {
        let inner = self.inner();
        let [log_start, high_watermark, _, log_end] = inner.replica.ends();
        let (epoch, online) = match inner.replica.role() {
            Role::Leader(leader) => (leader.epoch(), true),
            _ => (inner.replica.assignment().map_or(LeaderEpoch(0), |a| a.leader_epoch), false),
        };
        LeaderFigures { epoch, online, log_start, high_watermark, log_end }
    }

    /// Whether [`Partition::append`] would write this now, and not refuse it or answer that it is
    /// there already.
    #[must_use]
    pub fn would_write(&self, payload: &Payload) -> bool {
        let mut inner = self.inner();
        if inner.check(payload).is_err() {
            return false;
        }
        let Some(leader) = inner.replica.leader() else { return false };
        // The time has no part in it.
        let decided = leader.decide_append(TimestampMs::default(), payload.producer.as_ref());
        matches!(decided, Ok(Append::Write { .. }))
    }

    /// Appends an entry. `reply` gets a place, base offset and append time included, and is called
    /// once the entry is committed, or at once if it is refused.
    ///
    /// Never blocks. Entries of one partition reach the log in the order of these calls.
    pub fn append(&self, now: TimestampMs, payload: Payload, reply: impl FnOnce(Place) -> Parked) {
        let (count, bytes) = (payload.count, payload.batch_bytes());
        let mut inner = self.inner();
        let appended = inner.append(self.id, &self.log, now, payload);
        if appended.as_ref().is_ok_and(|place| !place.duplicate && place.doubt.is_none()) {
            self.meter.appended(Instant::now(), count, bytes);
        }
        match appended {
            Err(error) => {
                drop(inner);
                reply(Place::default()).refused(error);
            }
            Ok(place) if place.reached == Reached::LeaderMemory => {
                drop(inner);
                reply(place).committed();
            }
            Ok(place) => {
                let (through, doubt) = (place.end_offset, place.doubt);
                let reply = reply(place);
                let reply = match doubt {
                    Some(error) => Parked::Refusal(Box::new(reply), append_error(error.into())),
                    None => reply,
                };
                let ready = match inner.replica.leader() {
                    Some(leader) => leader.park(through, reply),
                    None => unreachable!("only a leader gives places, under one lock"),
                };
                drop(inner);
                if let Some(reply) = ready {
                    reply.committed();
                }
            }
        }
    }
}

/// Where an accepted entry is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its first offset.
    pub base_offset: Offset,
    /// The offset after its last.
    pub end_offset: Offset,
    /// Its append time.
    pub append_time: TimestampMs,
    /// How far it will have got when its reply is called.
    pub reached: Reached,
    /// Whether it was in the log already.
    pub duplicate: bool,
    /// Why the batch is to be refused once the entry, which stands in its place, is committed.
    pub doubt: Option<SequenceError>,
}

impl Default for Place {
    fn default() -> Place {
        Place {
            base_offset: Offset::ZERO,
            end_offset: Offset::ZERO,
            append_time: TimestampMs::default(),
            reached: Reached::LeaderDisk,
            duplicate: false,
            doubt: None,
        }
    }
}

impl Inner {
    fn append(
        &mut self,
        partition: PartitionId,
        log: &Log,
        now: TimestampMs,
        mut payload: Payload,
    ) -> Result<Place, WireError> {
        self.check(&payload)?;
        let Some(leader) = self.replica.leader() else { return Err(self.elsewhere()) };
        let decided = leader.decide_append(now, payload.producer.as_ref());
        let mut doubt = None;
        let (base_offset, epoch, append_time) = match decided.map_err(append_error)? {
            Append::Write { base_offset, epoch, append_time } => (base_offset, epoch, append_time),
            Append::Doubt { error, base_offset, epoch, append_time } => {
                doubt = Some(error);
                payload = payload.emptied();
                (base_offset, epoch, append_time)
            }
            Append::Duplicate { base_offset } => {
                let end_offset = base_offset.plus(payload.count);
                return Ok(Place { base_offset, end_offset, duplicate: true, ..Place::default() });
            }
        };
        if payload.fence.is_some_and(|fence| fence != epoch) {
            let message = "the partition went on in a new epoch meanwhile";
            return Err(WireError::new(ErrorCode::Offline, message));
        }
        let count = payload.count;
        let batch = match payload.batch {
            Some(batch) => batch.with_base(base_offset, epoch).into_bytes(),
            None => Bytes::new(),
        };
        let header = EntryHeader {
            kind: EntryKind::Entry,
            partition,
            base_offset,
            offset_count: count,
            epoch,
            append_time,
            state_len: payload.state.len() as u32,
            source_len: 0,
            batch_len: batch.len() as u32,
        };
        log.append(AppendRequest {
            header,
            state: payload.state,
            source: Bytes::new(),
            batch,
            linger: self.settings.linger.unwrap_or(payload.linger),
            hold: payload.hold,
        })
        .map_err(log_error)?;
        leader.handle_appended(append_time, count, payload.producer.as_ref());
        let alone = leader.insync().committed().len() == 1;
        let reached = match self.settings.durability {
            Durability::Relaxed if payload.fence.is_none() && doubt.is_none() => {
                Reached::LeaderMemory
            }
            Durability::Relaxed | Durability::Durable if alone => Reached::LeaderDisk,
            Durability::Relaxed | Durability::Durable => Reached::AllInSyncDisks,
        };
        let end_offset = base_offset.plus(count);
        Ok(Place { base_offset, end_offset, append_time, reached, duplicate: false, doubt })
    }

    /// Why appends are not taken here.
    fn elsewhere(&self) -> WireError {
        let leader = self.replica.assignment().and_then(|known| known.leader);
        let (code, message) = match (self.replica.role(), leader) {
            (Role::Failed(_) | Role::Waiting(_), _) => {
                (ErrorCode::Offline, "the partition is offline".to_owned())
            }
            (Role::Halted(_, halt), _) => (ErrorCode::Offline, halt.to_string()),
            (_, Some(leader)) => {
                (ErrorCode::NotLeader, format!("node {} leads the partition", leader.node))
            }
            (_, None) => {
                let message = "no node leads the partition: none of those that hold all of it is \
                               there";
                (ErrorCode::Offline, message.to_owned())
            }
        };
        WireError::new(code, message)
    }

    fn check(&self, payload: &Payload) -> Result<(), WireError> {
        if self.deleted {
            return Err(WireError::new(ErrorCode::TopicDeleted, "the topic was deleted"));
        }
        let bytes = payload.batch_bytes();
        if bytes > self.settings.batch_bytes_max && payload.fence.is_none() {
            let most = self.settings.batch_bytes_max;
            let message = format!("a batch of {bytes} bytes; the topic takes at most {most}");
            return Err(WireError::new(ErrorCode::BatchTooLarge, message));
        }
        Ok(())
    }
}

fn append_error(error: leader::AppendError) -> WireError {
    let code = match &error {
        leader::AppendError::NotEnoughInSync { .. } => ErrorCode::NotEnoughInSync,
        leader::AppendError::Exhausted => ErrorCode::LimitReached,
        leader::AppendError::Sequence(sequence) => match sequence {
            SequenceError::Gap { .. } => ErrorCode::SequenceGap,
            SequenceError::Forgotten { .. } => ErrorCode::SequenceForgotten,
            SequenceError::Fenced { .. } => ErrorCode::ProducerFenced,
            SequenceError::UnknownProducer => ErrorCode::UnknownProducer,
            SequenceError::Malformed => ErrorCode::InvalidBatch,
        },
    };
    WireError::new(code, error.to_string())
}

fn log_error(error: weir_log::AppendError) -> WireError {
    use weir_log::AppendError;
    let code = match &error {
        AppendError::QueueFull => ErrorCode::Busy,
        AppendError::DiskFull => ErrorCode::DiskFull,
        AppendError::Offline { .. } => ErrorCode::Offline,
        AppendError::Closed => ErrorCode::ShuttingDown,
        AppendError::NotDense { .. } | AppendError::Malformed => {
            tracing::error!(%error, "the log refused an entry that the leader had allowed");
            ErrorCode::Internal
        }
    };
    WireError::new(code, error.to_string())
}
