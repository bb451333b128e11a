//! The core of a producer: which batch goes when, and what becomes of it. Pure: no clock, no I/O;
//! time and a seed are arguments.
//!
//! Events come in by `handle_*`, and what follows from them is taken out by `poll_send` (the next
//! batch to write) and `poll_resolved` (deliveries to complete). `next_timer` says when
//! `handle_tick` is wanted. See `partition.rs` for the states of a batch.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_core::ids::ProducerId;
use weir_core::record::{BuildError, RecordTooLarge};
use weir_core::wire::frame::ProduceAck;

use crate::backoff::Backoff;
use crate::partition::{Next, Partition, Pushed};
use crate::parts::{
    BatchShape, Now, PartitionKey, RecordParts, Resolved, Rules, Shaped, Stamp, Work,
};
use crate::stamp::restamp;

/// How often deadlines are looked at, as a part of the delivery timeout, and its bounds.
const SCANS_PER_TIMEOUT: u32 = 10;
const SCAN_INTERVAL_MIN: Duration = Duration::from_millis(5);
const SCAN_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// A batch to be written.
#[derive(Debug)]
pub struct Outgoing {
    /// What its answer will name.
    pub correlation: u64,
    /// Where it goes.
    pub key: PartitionKey,
    slot: usize,
    serial: u64,
    stamp: Stamp,
    work: Work,
}

/// A batch that is ready to be written, and what the machine is to keep of it.
#[derive(Debug)]
pub struct Built {
    slot: usize,
    serial: u64,
    stamp: Stamp,
    correlation: u64,
    bytes: Result<Bytes, BuildError>,
    spare: Option<Shaped>,
}

impl Outgoing {
    /// Makes the bytes. Checksums and compression take time: not to be done under a lock.
    #[must_use]
    pub fn build(self) -> Built {
        let Outgoing { slot, serial, stamp, correlation, work, .. } = self;
        let (bytes, spare) = match work {
            Work::Build(mut records) => {
                let bytes = records.builder.build(stamp.id, stamp.epoch, stamp.sequence);
                (bytes, Some(records))
            }
            Work::Restamp(bytes) => (Ok(restamp(bytes, stamp)), None),
            Work::Ready(bytes) => (Ok(bytes), None),
        };
        let spare = spare.filter(|_| bytes.is_ok());
        Built { slot, serial, stamp, correlation, bytes, spare }
    }
}

/// An answer to something that was not asked: the node broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node answered batch {0}, which is not under way")]
pub struct UnknownCorrelation(u64);

/// The core of a producer. `C` stands for what completes a batch's deliveries.
#[derive(Debug)]
pub struct Machine<C> {
    rules: Rules,
    partitions: Vec<Partition<C>>,
    slots: HashMap<PartitionKey, usize>,
    /// Partitions that may have something to send, each once.
    ready: VecDeque<usize>,
    /// At most one timer per partition.
    timers: BTreeSet<(Now, usize)>,
    /// When deadlines are looked at next; while anything is unresolved.
    scan_at: Option<Now>,
    correlations: HashMap<u64, usize>,
    next_correlation: u64,
    last_serial: u64,
    connected: bool,
    id: Option<ProducerId>,
    wants_id: bool,
    resolved: Vec<Resolved<C>>,
    unresolved: usize,
    /// When something was answered last, or first sent.
    progress_at: Now,
    /// What went wrong with the connection last.
    trouble: Option<Arc<str>>,
    random: fastrand::Rng,
}

impl<C: Clone> Machine<C> {
    /// A producer with this id, if it is idempotent and has one already.
    #[must_use]
    pub fn new(rules: Rules, id: Option<ProducerId>, seed: u64) -> Machine<C> {
        Machine {
            rules,
            partitions: Vec::new(),
            slots: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            scan_at: None,
            correlations: HashMap::new(),
            next_correlation: 0,
            last_serial: 0,
            connected: false,
            id,
            wants_id: false,
            resolved: Vec::new(),
            unresolved: 0,
            progress_at: Now::ZERO,
            trouble: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The number under which this machine knows a partition.
    pub fn slot(&mut self, key: PartitionKey, shape: BatchShape) -> usize {
        if let Some(&slot) = self.slots.get(&key) {
            self.partitions[slot].set_shape(shape);
            return slot;
        }
        self.partitions.push(Partition::new(key, shape));
        self.slots.insert(key, self.partitions.len() - 1);
        self.partitions.len() - 1
    }

    /// Whether a record for this partition would begin a batch.
    #[must_use]
    pub fn is_between_batches(&self, slot: usize) -> bool {
        self.partitions[slot].is_between_batches()
    }

    /// Accepts a record, whose share of the buffer is `charged` bytes. The time is asked for where
    /// a batch begins.
    ///
    /// # Errors
    /// The record is larger than a record may be.
    pub fn handle_record(
        &mut self,
        now: impl Fn() -> Now,
        slot: usize,
        record: &RecordParts<'_>,
        charged: usize,
        make: impl FnOnce() -> C,
    ) -> Result<Pushed<C>, RecordTooLarge> {
        let partition = &mut self.partitions[slot];
        let pushed = partition.push(&now, record, charged, &mut self.last_serial, make)?;
        if pushed.opened {
            self.handle_opened(now(), slot);
        }
        Ok(pushed)
    }

    /// An empty builder for this partition, to fill and give to [`Machine::handle_batch`].
    pub fn blank(&mut self, slot: usize) -> Shaped {
        self.partitions[slot].blank()
    }

    /// Accepts a batch that was filled elsewhere, with at least one record.
    pub fn handle_batch(
        &mut self,
        now: Now,
        slot: usize,
        records: Shaped,
        charged: usize,
        completion: C,
    ) {
        let partition = &mut self.partitions[slot];
        partition.push_batch(now, records, charged, &mut self.last_serial, completion);
        self.handle_opened(now, slot);
    }

    fn handle_opened(&mut self, now: Now, slot: usize) {
        if self.unresolved == 0 {
            self.scan_at = Some(now + self.scan_interval());
        }
        self.unresolved += 1;
        self.mark_ready(slot);
        self.set_timer(slot);
    }

    /// Sends what is open without waiting for more. Returns all batches that are unresolved.
    pub fn handle_flush(&mut self) -> Vec<C> {
        for slot in 0..self.partitions.len() {
            self.partitions[slot].flush();
            self.mark_ready(slot);
        }
        self.partitions.iter().flat_map(Partition::unresolved).cloned().collect()
    }

    /// A produce stream is open.
    pub fn handle_connected(&mut self, now: Now) {
        self.connected = true;
        self.trouble = None;
        self.progress_at = now;
        (0..self.partitions.len()).for_each(|slot| self.mark_ready(slot));
    }

    /// The produce stream is gone. Nothing that was sent on it will be answered.
    pub fn handle_disconnected(&mut self, why: &str) {
        self.connected = false;
        self.handle_trouble(why);
        self.correlations.clear();
        for partition in &mut self.partitions {
            partition.handle_disconnected(&self.rules);
        }
    }

    /// Remembers what goes wrong, to say so where a delivery times out.
    pub fn handle_trouble(&mut self, why: &str) {
        self.trouble = Some(why.into());
    }

    /// Whether a (new) producer id is needed.
    #[must_use]
    pub fn wants_id(&self) -> bool {
        self.wants_id
    }

    /// The node gave a fresh producer id.
    pub fn handle_id(&mut self, id: ProducerId) {
        self.id = Some(id);
        self.wants_id = false;
        (0..self.partitions.len()).for_each(|slot| self.mark_ready(slot));
    }

    /// The node answered a batch.
    ///
    /// # Errors
    /// [`UnknownCorrelation`]: it was not under way.
    pub fn handle_ack(&mut self, now: Now, ack: ProduceAck) -> Result<(), UnknownCorrelation> {
        let unknown = UnknownCorrelation(ack.correlation);
        let slot = self.correlations.remove(&ack.correlation).ok_or(unknown)?;
        let random = self.random.f64();
        let known = self.partitions[slot].handle_answer(
            now,
            ack.correlation,
            ack.result,
            &self.rules,
            |failures| Backoff::RETRY.delay(failures, random),
            &mut self.resolved,
        );
        self.progress_at = now;
        self.mark_ready(slot);
        self.set_timer(slot);
        if known { Ok(()) } else { Err(unknown) }
    }

    /// Does what is due by now.
    pub fn handle_tick(&mut self, now: Now) {
        while let Some(&(at, slot)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, slot));
            let partition = &mut self.partitions[slot];
            partition.timer_at = None;
            partition.handle_timer(now, &self.rules);
            self.mark_ready(slot);
            self.set_timer(slot);
        }
        if self.scan_at.is_none_or(|at| at > now) {
            return;
        }
        for slot in 0..self.partitions.len() {
            let partition = &mut self.partitions[slot];
            partition.expire(now, &self.rules, &self.trouble, &mut self.resolved);
            self.mark_ready(slot);
        }
        self.scan_at = (self.unresolved > 0).then(|| now + self.scan_interval());
    }

    /// When [`Machine::handle_tick`] is wanted next.
    #[must_use]
    pub fn next_timer(&self) -> Option<Now> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.scan_at].into_iter().flatten().min()
    }

    /// Whether batches are under way and none was answered for `limit`.
    #[must_use]
    pub fn is_stalled(&self, now: Now, limit: Duration) -> bool {
        !self.correlations.is_empty() && self.progress_at.saturating_add(limit) <= now
    }

    /// Whether [`Machine::poll_send`] may have something.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.connected && !self.ready.is_empty()
    }

    /// The next batch to write. It must be given back by [`Machine::handle_built`] before another
    /// is taken.
    pub fn poll_send(&mut self, now: Now) -> Option<Outgoing> {
        while self.connected {
            let slot = self.ready.pop_front()?;
            let partition = &mut self.partitions[slot];
            partition.ready = false;
            let place = match partition.next(now, &self.rules, self.id) {
                Next::Send(place) => place,
                Next::NeedId => {
                    self.wants_id = true;
                    continue;
                }
                Next::Nothing => {
                    self.set_timer(slot);
                    continue;
                }
            };
            let correlation = self.next_correlation;
            let Some((serial, stamp, work)) = partition.take(place, correlation) else {
                continue;
            };
            let key = partition.key;
            self.next_correlation += 1;
            if self.correlations.is_empty() {
                self.progress_at = now;
            }
            self.correlations.insert(correlation, slot);
            self.mark_ready(slot);
            return Some(Outgoing { correlation, key, slot, serial, stamp, work });
        }
        None
    }

    /// Takes back what was given out, before it is written. Returns the bytes to write, if the
    /// batch could be built.
    pub fn handle_built(&mut self, built: Built) -> Option<Bytes> {
        let partition = &mut self.partitions[built.slot];
        if let Some(spare) = built.spare {
            partition.handle_spare(spare);
        }
        match built.bytes {
            Ok(bytes) => {
                partition.handle_built(built.serial, bytes.clone(), built.stamp);
                Some(bytes)
            }
            Err(error) => {
                self.correlations.remove(&built.correlation);
                let reason = error.to_string();
                let out = &mut self.resolved;
                partition.handle_build_failed(built.serial, &reason, &self.rules, out);
                None
            }
        }
    }

    /// Deliveries to complete.
    pub fn poll_resolved(&mut self) -> Vec<Resolved<C>> {
        self.unresolved -= self.resolved.len();
        if self.unresolved == 0 {
            self.scan_at = None;
        }
        std::mem::take(&mut self.resolved)
    }

    /// Whether every delivery is resolved and taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.unresolved == 0
    }

    /// Fails all that is unresolved: the producer ends.
    pub fn handle_abandoned(&mut self) {
        self.connected = false;
        self.correlations.clear();
        let partitions = self.partitions.iter_mut();
        partitions.for_each(|partition| partition.abandon(&mut self.resolved));
    }

    /// Batches under way in one partition; for checks.
    #[cfg(test)]
    pub(crate) fn in_flight(&self, slot: usize) -> usize {
        self.partitions[slot].in_flight()
    }

    fn mark_ready(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        if self.connected && !partition.ready && partition.has_work(&self.rules) {
            partition.ready = true;
            self.ready.push_back(slot);
        }
    }

    fn set_timer(&mut self, slot: usize) {
        let partition = &mut self.partitions[slot];
        let Some(at) = partition.next_timer(&self.rules) else {
            return;
        };
        if partition.timer_at.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = partition.timer_at.replace(at) {
            self.timers.remove(&(set, slot));
        }
        self.timers.insert((at, slot));
    }

    fn scan_interval(&self) -> Duration {
        let part = self.rules.delivery_timeout / SCANS_PER_TIMEOUT;
        part.clamp(SCAN_INTERVAL_MIN, SCAN_INTERVAL_MAX)
    }
}
