//! One partition as a producer sees it. Pure: no clock, no I/O, no randomness of its own.
//!
//! Records join the open batch. Batches leave in order and are numbered (stamped with producer id,
//! epoch and sequence) when they are first sent. The oldest stamped batch that is unresolved is
//! always among the last `in_flight_max` that were stamped, so the node remembers every one that
//! may have to be sent again.
//!
//! | state of a batch | means | leaves it |
//! |---|---|---|
//! | open | takes records | full, due, or the partition is idle: queued |
//! | queued, not stamped | never sent | sent: in flight |
//! | in flight | sent on this connection, unanswered | answered, or the connection is lost |
//! | waiting, in doubt | a lost try may have stored it | sent again with the same stamp |
//! | waiting, not in doubt | certainly not stored | sent again, or stamped anew |
//!
//! **Order.** After a batch was turned away nothing is sent until all that is in flight has been
//! answered; then everything goes again from the front.
//!
//! **Broken sequence.** When a stamped batch fails for good, the node refuses all later ones for
//! the gap. The partition is then *broken*: batches in doubt are sent again as they are, to learn
//! their fate; when nothing is in doubt or in flight, the rest starts anew with the next epoch (or
//! a new producer id) and sequence 0. So no record is stored twice, and none is lost silently. A
//! batch whose records the topic's check rejected is such a one; what follows it goes without a
//! pause, as the refusal says nothing about it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_core::ids::ProducerId;
use weir_core::record::{PushError, RecordTooLarge, sequence_plus};
use weir_core::wire::frame::{Appended, ProduceRefusal};
use weir_core::wire::{ErrorCode, Outcome};

use crate::batch::{Batch, Content, Open};
use crate::error::DeliveryError;
use crate::parts::{
    BatchShape, Now, PartitionKey, RecordParts, Resolved, Rules, Shaped, Stamp, Work,
};

/// What a partition has to send.
#[derive(Debug)]
pub(crate) enum Next {
    /// The batch at this place of the queue.
    Send(usize),
    /// A producer id is needed first.
    NeedId,
    /// Nothing, until something happens.
    Nothing,
}

/// What became of a record that was pushed.
#[derive(Debug)]
pub struct Pushed<C> {
    /// What completes the deliveries of its batch.
    pub completion: C,
    /// Its place in the batch, from 0.
    pub index: u32,
    /// It began a batch.
    pub opened: bool,
    /// A full batch was closed for it.
    pub closed: bool,
}

#[derive(Debug)]
pub(crate) struct Partition<C> {
    pub(crate) key: PartitionKey,
    shape: BatchShape,
    open: Option<Open<C>>,
    /// The open batch is to be sent as soon as there is room for it.
    due: bool,
    queue: VecDeque<Batch<C>>,
    in_flight: usize,
    /// Something was turned away: send nothing until all in flight are answered.
    rewind: bool,
    broken: bool,
    /// A batch was given up whose fate is unknown, in this epoch.
    lost_in_doubt: bool,
    /// The node has fenced the producer id.
    fenced: bool,
    id: Option<ProducerId>,
    epoch: i16,
    next_sequence: i32,
    next_ordinal: u64,
    failures: u32,
    retry_at: Option<Now>,
    trouble: Option<Arc<str>>,
    spare: Option<Shaped>,
    /// Whether it is among those that may have something to send.
    pub(crate) ready: bool,
    /// When its timer goes off, if one is set.
    pub(crate) timer_at: Option<Now>,
}

impl<C> Partition<C> {
    pub(crate) fn new(key: PartitionKey, shape: BatchShape) -> Partition<C> {
        Partition {
            key,
            shape,
            open: None,
            due: false,
            queue: VecDeque::new(),
            in_flight: 0,
            rewind: false,
            broken: false,
            lost_in_doubt: false,
            fenced: false,
            id: None,
            epoch: 0,
            next_sequence: 0,
            next_ordinal: 0,
            failures: 0,
            retry_at: None,
            trouble: None,
            spare: None,
            ready: false,
            timer_at: None,
        }
    }

    /// Changes how batches to come are built; the open one stays as it is.
    pub(crate) fn set_shape(&mut self, shape: BatchShape) {
        if self.shape != shape {
            self.shape = shape;
            self.spare = None;
        }
    }

    /// Whether a record would begin a batch.
    pub(crate) fn is_between_batches(&self) -> bool {
        self.open.is_none()
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Batches, the open one included, whose deliveries are not resolved.
    pub(crate) fn unresolved(&self) -> impl Iterator<Item = &C> {
        let queued = self.queue.iter().filter_map(|batch| batch.completion.as_ref());
        queued.chain(self.open.iter().map(|open| &open.completion))
    }

    /// Adds a record, with `charged` bytes of the buffer, to the open batch, or begins one. The
    /// time is asked for where a batch begins.
    pub(crate) fn push(
        &mut self,
        now: impl FnOnce() -> Now,
        record: &RecordParts<'_>,
        charged: usize,
        serial: &mut u64,
        make: impl FnOnce() -> C,
    ) -> Result<Pushed<C>, RecordTooLarge>
    where
        C: Clone,
    {
        let mut closed = false;
        if let Some(open) = &mut self.open {
            match open.records.push(record) {
                Ok(()) => {
                    open.charged += charged;
                    let index = open.records.builder.len() as u32 - 1;
                    let completion = open.completion.clone();
                    return Ok(Pushed { completion, index, opened: false, closed });
                }
                Err(PushError::Record(error)) => return Err(error),
                Err(PushError::Full) => {
                    self.close();
                    closed = true;
                }
            }
        }
        let mut records = self.blank();
        match records.push(record) {
            Ok(()) => {}
            Err(PushError::Record(error)) => {
                self.spare = Some(records);
                return Err(error);
            }
            // An empty builder takes every record that is within the limits.
            Err(PushError::Full) => unreachable!("the first record of a batch always fits"),
        }
        *serial += 1;
        let completion = make();
        self.open = Some(Open {
            serial: *serial,
            records,
            completion: completion.clone(),
            since: now(),
            charged,
        });
        Ok(Pushed { completion, index: 0, opened: true, closed })
    }

    /// Queues a batch that was filled elsewhere, behind all records so far.
    pub(crate) fn push_batch(
        &mut self,
        now: Now,
        records: Shaped,
        charged: usize,
        serial: &mut u64,
        completion: C,
    ) {
        self.close();
        *serial += 1;
        self.open = Some(Open { serial: *serial, records, completion, since: now, charged });
        self.close();
    }

    /// Everything so far is to be sent without waiting for more.
    pub(crate) fn flush(&mut self) {
        self.due = self.open.is_some();
    }

    /// Whether there may be something to send, now or once something is answered.
    pub(crate) fn has_work(&self, rules: &Rules) -> bool {
        self.queue.iter().any(|batch| batch.correlation.is_none()) || self.open_is_due(rules)
    }

    fn open_is_due(&self, rules: &Rules) -> bool {
        let idle = rules.eager && self.queue.is_empty();
        self.open.is_some() && (self.due || idle || rules.linger.is_zero())
    }

    /// When something is to happen by itself: the linger or a retry.
    pub(crate) fn next_timer(&self, rules: &Rules) -> Option<Now> {
        let open = self.open.as_ref().filter(|_| !self.due);
        let linger = open.map(|open| open.since.saturating_add(rules.linger));
        [linger, self.retry_at].into_iter().flatten().min()
    }

    /// Its timer went off.
    pub(crate) fn handle_timer(&mut self, now: Now, rules: &Rules) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        let lingered = |open: &Open<C>| open.since.saturating_add(rules.linger) <= now;
        self.due |= self.open.as_ref().is_some_and(lingered);
    }

    /// What is to be sent next. `id` is the producer's present id.
    pub(crate) fn next(&mut self, now: Now, rules: &Rules, id: Option<ProducerId>) -> Next {
        if self.retry_at.is_some_and(|at| at > now) || self.in_flight >= rules.in_flight_max {
            return Next::Nothing;
        }
        if self.broken {
            let in_doubt = |batch: &Batch<C>| batch.correlation.is_none() && batch.in_doubt;
            if let Some(place) = self.queue.iter().position(in_doubt) {
                return Next::Send(place);
            }
            if self.in_flight > 0 {
                return Next::Nothing;
            }
            if !self.restart(id) {
                return Next::NeedId;
            }
        }
        if self.rewind {
            if self.in_flight > 0 {
                return Next::Nothing;
            }
            self.rewind = false;
        }
        if !self.queue.iter().any(|batch| batch.correlation.is_none()) {
            if !self.open_is_due(rules) {
                return Next::Nothing;
            }
            self.close();
        }
        if rules.idempotent && self.id.is_none() {
            self.id = id;
            if id.is_none() {
                return Next::NeedId;
            }
        }
        let waiting = self.queue.iter().position(|batch| batch.correlation.is_none());
        match waiting {
            Some(place) if self.queue[place].stamp.is_some() || self.may_stamp(rules) => {
                Next::Send(place)
            }
            _ => Next::Nothing,
        }
    }

    /// The node remembers as many batches as may be in flight: so the oldest that may have to be
    /// sent again must be among the last so many, whether or not those after it are confirmed.
    fn may_stamp(&self, rules: &Rules) -> bool {
        let oldest = self.queue.front().filter(|batch| batch.stamp.is_some());
        let span = oldest.map_or(0, |oldest| self.next_ordinal - oldest.ordinal);
        span < rules.in_flight_max as u64
    }

    /// Takes the batch at `place` for sending.
    pub(crate) fn take(&mut self, place: usize, correlation: u64) -> Option<(u64, Stamp, Work)> {
        let batch = self.queue.get_mut(place)?;
        let stamp = match batch.stamp {
            Some(stamp) => stamp,
            None => {
                let id = self.id.unwrap_or(ProducerId::NONE);
                let stamp = Stamp { id, epoch: self.epoch, sequence: self.next_sequence };
                self.next_sequence = sequence_plus(self.next_sequence, batch.records);
                batch.ordinal = self.next_ordinal;
                self.next_ordinal += 1;
                stamp
            }
        };
        batch.stamp = Some(stamp);
        batch.correlation = Some(correlation);
        batch.connections = batch.connections.saturating_add(1);
        self.in_flight += 1;
        let work = match std::mem::replace(&mut batch.content, Content::Away) {
            Content::Records(records) => Work::Build(records),
            Content::Built(bytes) if batch.built_with == Some(stamp) => {
                batch.content = Content::Built(bytes.clone());
                Work::Ready(bytes)
            }
            Content::Built(bytes) => Work::Restamp(bytes),
            // One driver sends, and it brings back what it took before it takes more.
            Content::Away => unreachable!("a batch was taken twice"),
        };
        Some((batch.serial, stamp, work))
    }

    /// A batch that was taken is built: keeps its bytes for another try.
    pub(crate) fn handle_built(&mut self, serial: u64, bytes: Bytes, stamp: Stamp) {
        let batch = self.queue.iter_mut().find(|batch| batch.serial == serial);
        if let Some(batch) = batch.filter(|batch| batch.completion.is_some()) {
            batch.content = Content::Built(bytes);
            batch.built_with = Some(stamp);
        }
    }

    /// An empty builder, to be used again.
    pub(crate) fn handle_spare(&mut self, spare: Shaped) {
        if self.spare.is_none() && spare.shape == self.shape {
            self.spare = Some(spare);
        }
    }

    /// An empty builder.
    pub(crate) fn blank(&mut self) -> Shaped {
        self.spare.take().unwrap_or_else(|| Shaped::new(self.shape))
    }

    /// A batch that was taken cannot be built: it fails, and its numbers are missing.
    pub(crate) fn handle_build_failed(
        &mut self,
        serial: u64,
        reason: &str,
        rules: &Rules,
        out: &mut Vec<Resolved<C>>,
    ) {
        if let Some(place) = self.queue.iter().position(|batch| batch.serial == serial) {
            self.in_flight -= 1;
            self.fail(place, DeliveryError::Encode(reason.into()), rules, out);
        }
    }

    /// The node answered. Returns whether the answer fits what was sent.
    pub(crate) fn handle_answer(
        &mut self,
        now: Now,
        correlation: u64,
        answer: Result<Appended, ProduceRefusal>,
        rules: &Rules,
        retry_after: impl FnOnce(u32) -> Duration,
        out: &mut Vec<Resolved<C>>,
    ) -> bool {
        let here = |batch: &Batch<C>| batch.correlation == Some(correlation);
        let Some(place) = self.queue.iter().position(here) else {
            return false;
        };
        self.in_flight -= 1;
        let refusal = match answer {
            Ok(appended) => {
                self.failures = 0;
                self.trouble = None;
                self.resolve(place, Ok(appended), out);
                return true;
            }
            Err(refusal) => refusal,
        };
        let batch = &mut self.queue[place];
        batch.correlation = None;
        // Behind a batch that is refused, those after it are gaps: that batch's reason is the one.
        if refusal.code != ErrorCode::SequenceGap || self.trouble.is_none() {
            self.trouble = Some(format!("{} ({})", refusal.message, refusal.code).into());
        }
        if batch.completion.is_none() {
            let unknown = batch.in_doubt || refusal.outcome == Outcome::Unknown;
            let outcome = if unknown { Outcome::Unknown } else { Outcome::No };
            self.fail(place, DeliveryError::Closed { outcome }, rules, out);
        } else if !self.handle_refusal(place, refusal, rules, out) {
            return true;
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now.saturating_add(retry_after(self.failures)));
        true
    }

    /// Decides about a refused batch. Returns whether to wait a moment before the next try.
    fn handle_refusal(
        &mut self,
        place: usize,
        refusal: ProduceRefusal,
        rules: &Rules,
        out: &mut Vec<Resolved<C>>,
    ) -> bool {
        let lost_in_doubt = self.lost_in_doubt;
        let batch = &mut self.queue[place];
        let unsure = |refusal: ProduceRefusal| DeliveryError::Refused {
            code: refusal.code,
            message: refusal.message.into(),
            outcome: Outcome::Unknown,
        };
        match refusal.code {
            ErrorCode::SequenceGap | ErrorCode::UnknownProducer if rules.idempotent => {
                // Where the batch before it may yet arrive by a connection that was lost, so may
                // this one: it cannot be sent under another number.
                if lost_in_doubt && batch.connections > 1 {
                    self.fail(place, unsure(refusal), rules, out);
                    return true;
                }
                batch.in_doubt = false;
                // Behind a batch that was refused for good a gap is what must be.
                let expected = self.broken;
                self.broken |= place == 0;
                self.rewind = true;
                place == 0 && !expected
            }
            ErrorCode::ProducerFenced if rules.idempotent => {
                self.fenced = true;
                self.broken = true;
                if batch.in_doubt {
                    self.fail(place, unsure(refusal), rules, out);
                }
                true
            }
            ErrorCode::SequenceForgotten => {
                self.resolve(place, Err(unsure(refusal)), out);
                true
            }
            code if code.retryable() => {
                batch.in_doubt |= refusal.outcome == Outcome::Unknown;
                self.rewind = true;
                true
            }
            code => {
                let unknown = batch.in_doubt || refusal.outcome == Outcome::Unknown;
                let outcome = if unknown { Outcome::Unknown } else { Outcome::No };
                let message = refusal.message.into();
                self.fail(place, DeliveryError::Refused { code, message, outcome }, rules, out);
                // It was about these records: the next batch is another matter.
                code != ErrorCode::CheckRejected
            }
        }
    }

    /// The connection is gone, and with it all answers.
    pub(crate) fn handle_disconnected(&mut self, rules: &Rules) {
        self.in_flight = 0;
        let given_up = |batch: &Batch<C>| batch.completion.is_none() && batch.correlation.is_some();
        if self.queue.iter().any(given_up) && rules.idempotent {
            self.broken = true;
            self.lost_in_doubt = true;
        }
        self.queue.retain(|batch| !given_up(batch));
        for batch in &mut self.queue {
            batch.in_doubt |= batch.correlation.take().is_some();
        }
    }

    /// Gives up what was accepted before `now` less the delivery timeout.
    pub(crate) fn expire(
        &mut self,
        now: Now,
        rules: &Rules,
        trouble: &Option<Arc<str>>,
        out: &mut Vec<Resolved<C>>,
    ) {
        let expired = |since: Now| since.saturating_add(rules.delivery_timeout) <= now;
        let last = self.trouble.clone().or_else(|| trouble.clone());
        let mut place = 0;
        while let Some(batch) = self.queue.get_mut(place).filter(|batch| expired(batch.since)) {
            let in_flight = batch.correlation.is_some();
            let unknown = in_flight || batch.in_doubt;
            let outcome = if unknown { Outcome::Unknown } else { Outcome::No };
            let result = Err(DeliveryError::TimedOut { outcome, last: last.clone() });
            if !in_flight {
                if let Err(error) = result {
                    self.fail(place, error, rules, out);
                }
                continue;
            }
            // Its answer decides whether the sequence is broken; its bytes are needed no more.
            if let Some(completion) = batch.completion.take() {
                if matches!(batch.content, Content::Built(_)) {
                    batch.content = Content::Away;
                }
                let Batch { charged, records, .. } = *batch;
                out.push(Resolved { completion, result, charged, records });
            }
            place += 1;
        }
        if let Some(open) = self.open.take_if(|open| expired(open.since)) {
            self.due = false;
            let result = Err(DeliveryError::TimedOut { outcome: Outcome::No, last });
            out.push(open.resolved(result));
        }
    }

    /// Fails everything: the producer ends.
    pub(crate) fn abandon(&mut self, out: &mut Vec<Resolved<C>>) {
        for batch in self.queue.drain(..) {
            let unknown = batch.correlation.is_some() || batch.in_doubt;
            let outcome = if unknown { Outcome::Unknown } else { Outcome::No };
            if let Some(completion) = batch.completion {
                let result = Err(DeliveryError::Closed { outcome });
                let Batch { charged, records, .. } = batch;
                out.push(Resolved { completion, result, charged, records });
            }
        }
        if let Some(open) = self.open.take() {
            let result = Err(DeliveryError::Closed { outcome: Outcome::No });
            out.push(open.resolved(result));
        }
        self.in_flight = 0;
    }

    /// Removes a batch that will not be stored under its number. Later numbers do not follow then.
    fn fail(
        &mut self,
        place: usize,
        error: DeliveryError,
        rules: &Rules,
        out: &mut Vec<Resolved<C>>,
    ) {
        let batch = &self.queue[place];
        if rules.idempotent && batch.stamp.is_some() {
            self.broken = true;
            self.lost_in_doubt |= error.outcome() == Outcome::Unknown;
        }
        self.resolve(place, Err(error), out);
    }

    fn resolve(
        &mut self,
        place: usize,
        result: Result<Appended, DeliveryError>,
        out: &mut Vec<Resolved<C>>,
    ) {
        let removed = self.queue.remove(place);
        if let Some(Batch { completion: Some(completion), charged, records, .. }) = removed {
            out.push(Resolved { completion, result, charged, records });
        }
    }

    /// Numbers what is left anew. Returns false where that needs another producer id first.
    fn restart(&mut self, id: Option<ProducerId>) -> bool {
        let spent = self.fenced || self.epoch == i16::MAX;
        if spent {
            if id.is_none() || id == self.id {
                return false;
            }
            self.id = id;
            self.epoch = 0;
        } else {
            self.epoch += 1;
        }
        self.next_sequence = 0;
        self.broken = false;
        self.rewind = false;
        self.fenced = false;
        self.lost_in_doubt = false;
        for batch in &mut self.queue {
            batch.stamp = None;
            batch.connections = 0;
        }
        true
    }

    /// Queues the open batch.
    fn close(&mut self) {
        self.due = false;
        let Some(open) = self.open.take() else {
            return;
        };
        self.queue.push_back(open.closed());
    }
}
