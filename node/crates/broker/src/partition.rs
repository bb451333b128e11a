//! One partition in the broker: the pure leader, and what drives it.
//!
//! The leader is behind a mutex that is held for about a microsecond and never across I/O or an
//! await: appends come from the network thread, durable ends from the log's writer thread.

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
use weir_core::partition::leader::{self, Append, Leader};
use weir_core::partition::producers::{ProducerBatch, SequenceError};
use weir_core::partition::view::PartitionView;
use weir_core::record::RecordBatch;
use weir_core::topic::{Durability, TopicConfig};
use weir_core::wire::frame::Reached;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, Offset, PartitionId, PartitionIndex, TimestampMs, TopicId};
use weir_log::{AppendRequest, Log};

/// A partition that this node leads.
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
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Inner {
    leader: Leader<Parked>,
    settings: Settings,
    deleted: bool,
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
    /// Takes the lead of a partition in `epoch`.
    #[must_use]
    pub fn new(
        id: PartitionId,
        (topic, topic_name, index): (TopicId, Arc<str>, PartitionIndex),
        config: &TopicConfig,
        epoch: LeaderEpoch,
        view: &PartitionView,
    ) -> Partition {
        let progress =
            Progress { log_start: view.log_start, high_watermark: view.log_end, deleted: false };
        let inner = Inner {
            leader: Leader::new(epoch, view),
            settings: Settings::from(config),
            deleted: false,
        };
        Partition {
            id,
            topic,
            topic_name,
            index,
            meter: Meter::default(),
            gate: Gate::new(config),
            inner: Mutex::new(inner),
            progress: watch::Sender::new(progress),
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

    /// The leader's figures.
    #[must_use]
    pub fn figures(&self) -> LeaderFigures {
        let inner = self.inner();
        LeaderFigures {
            epoch: inner.leader.epoch(),
            online: inner.leader.is_online(),
            log_start: inner.leader.log_start(),
            high_watermark: inner.leader.high_watermark(),
            log_end: inner.leader.log_end(),
        }
    }

    /// Takes over changed settings of the topic.
    pub fn set_config(&self, config: &TopicConfig) {
        self.inner().settings = Settings::from(config);
        self.gate.set(config);
    }

    /// Whether [`Partition::append`] would write this now, and not refuse it or answer that it is
    /// there already.
    #[must_use]
    pub fn would_write(&self, payload: &Payload) -> bool {
        let inner = self.inner();
        // The time has no part in it.
        let now = TimestampMs::default();
        let decided = || inner.leader.decide_append(now, payload.producer.as_ref());
        inner.check(payload).is_ok() && matches!(decided(), Ok(Append::Write { .. }))
    }

    /// Appends an entry. `reply` gets a place, base offset and append time included, and is called
    /// once the entry is committed, or at once if it is refused.
    ///
    /// Never blocks. Entries of one partition reach the log in the order of these calls.
    pub fn append(
        &self,
        log: &Log,
        now: TimestampMs,
        payload: Payload,
        reply: impl FnOnce(Place) -> Parked,
    ) {
        let (count, bytes) = (payload.count, payload.batch_bytes());
        let mut inner = self.inner();
        let appended = inner.append(self.id, log, now, payload);
        if appended.as_ref().is_ok_and(|place| !place.duplicate) {
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
                let through = place.end_offset;
                let ready = inner.leader.park(through, reply(place));
                drop(inner);
                if let Some(reply) = ready {
                    reply.committed();
                }
            }
        }
    }

    /// The log is on disk up to `end`.
    pub fn handle_durable(&self, end: Offset) {
        let mut inner = self.inner();
        let released: Vec<Parked> = inner.leader.handle_durable(end).collect();
        let high_watermark = inner.leader.high_watermark();
        drop(inner);
        self.progress.send_if_modified(|progress| {
            let moved = high_watermark > progress.high_watermark;
            progress.high_watermark = progress.high_watermark.max(high_watermark);
            moved
        });
        released.into_iter().for_each(Parked::committed);
    }

    /// A write failed: what waits has an unknown fate.
    pub fn handle_failure(&self, reason: &str) {
        let failed: Vec<Parked> = self.inner().leader.handle_failure().collect();
        let message = format!(
            "the disk failed while the batch was being written ({reason}); whether it is stored is \
             not known: retry with the same producer and sequence"
        );
        for reply in failed {
            reply.failed(ErrorCode::Offline, &message);
        }
    }

    /// The log was reopened; it holds what `view` says.
    pub fn handle_recovered(&self, epoch: LeaderEpoch, view: &PartitionView) {
        let mut inner = self.inner();
        inner.leader.handle_recovered(epoch, view);
        drop(inner);
        self.progress.send_if_modified(|progress| {
            let moved = view.log_end > progress.high_watermark;
            progress.high_watermark = view.log_end;
            moved
        });
    }

    /// Retention or an operator moved the log start.
    pub fn handle_log_start(&self, start: Offset) {
        self.inner().leader.handle_log_start(start);
        self.progress.send_modify(|progress| progress.log_start = progress.log_start.max(start));
    }

    /// The topic was deleted: appends are refused, subscriptions end.
    pub fn handle_deleted(&self) {
        let mut inner = self.inner();
        inner.deleted = true;
        let failed: Vec<Parked> = inner.leader.handle_failure().collect();
        drop(inner);
        for reply in failed {
            reply.failed(ErrorCode::TopicDeleted, "the topic was deleted");
        }
        self.progress.send_modify(|progress| progress.deleted = true);
        self.gate.set(&TopicConfig::default());
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
}

impl Default for Place {
    fn default() -> Place {
        Place {
            base_offset: Offset::ZERO,
            end_offset: Offset::ZERO,
            append_time: TimestampMs::default(),
            reached: Reached::LeaderDisk,
            duplicate: false,
        }
    }
}

impl Inner {
    fn append(
        &mut self,
        partition: PartitionId,
        log: &Log,
        now: TimestampMs,
        payload: Payload,
    ) -> Result<Place, WireError> {
        self.check(&payload)?;
        let count = payload.count;
        let decided = self.leader.decide_append(now, payload.producer.as_ref());
        let (base_offset, epoch, append_time) = match decided.map_err(append_error)? {
            Append::Write { base_offset, epoch, append_time } => (base_offset, epoch, append_time),
            Append::Duplicate { base_offset } => {
                let end_offset = base_offset.plus(count);
                return Ok(Place { base_offset, end_offset, duplicate: true, ..Place::default() });
            }
        };
        if payload.fence.is_some_and(|fence| fence != epoch) {
            let message = "the partition went on in a new epoch meanwhile";
            return Err(WireError::new(ErrorCode::Offline, message));
        }
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
        self.leader.handle_appended(append_time, count, payload.producer.as_ref());
        let reached = match self.settings.durability {
            Durability::Relaxed if payload.fence.is_none() => Reached::LeaderMemory,
            Durability::Relaxed | Durability::Durable => Reached::LeaderDisk,
        };
        let end_offset = base_offset.plus(count);
        Ok(Place { base_offset, end_offset, append_time, reached, duplicate: false })
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
        leader::AppendError::Offline | leader::AppendError::NotEnoughInSync { .. } => {
            ErrorCode::Offline
        }
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
