//! Leader side of one partition. Pure: no clock, no I/O.
//!
//! Invariant: `log_start <= high_watermark <= durable_end <= log_end`.
//!
//! | state | event | next |
//! |---|---|---|
//! | leading | `decide_append` | unchanged: only an answer |
//! | leading | `handle_appended` | leading; the log end moves |
//! | leading | `park` | leading; the reply waits for the disk |
//! | leading | `handle_durable` | leading; the durable end moves, covered replies are released |
//! | leading | `handle_failure` | offline; every parked reply is released as unknown |
//! | offline | `handle_recovered` | leading, in a higher epoch, from what the log holds |
//!
//! Replies are parked here as values of the driver's choice (`R`), in log order, and come back in
//! log order: an acknowledgement can never overtake an earlier one of the same partition.

use crate::ids::{LeaderEpoch, Offset, TimestampMs};
use crate::limits;
use crate::partition::producers::{ProducerBatch, ProducerTable, Sequence, SequenceError};
use crate::partition::view::PartitionView;
use std::collections::VecDeque;

/// The leader of one partition.
#[derive(Debug)]
pub struct Leader<R> {
    epoch: LeaderEpoch,
    online: bool,
    log_start: Offset,
    high_watermark: Offset,
    durable_end: Offset,
    log_end: Offset,
    append_time: TimestampMs,
    /// Ahead of the durable view: includes what is on its way to the disk.
    producers: ProducerTable,
    parked: VecDeque<Parked<R>>,
}

#[derive(Debug)]
struct Parked<R> {
    through: Offset,
    reply: R,
}

/// What became of an accepted append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// Write the batch at this offset, in this epoch, with this append time.
    Write {
        /// The offset of its first record.
        base_offset: Offset,
        /// The epoch to write into it.
        epoch: LeaderEpoch,
        /// The append time: the `now` given, or the partition's newest if that is later.
        append_time: TimestampMs,
    },
    /// The batch is in the log already, or on its way: write nothing.
    Duplicate {
        /// The offset its first record has.
        base_offset: Offset,
    },
}

/// Why a batch is refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The partition takes no writes just now.
    #[error("the partition is offline")]
    Offline,
    /// The producer's sequence does not fit.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The log is full: no offset is left.
    #[error("the partition has no offsets left")]
    Exhausted,
}

impl<R> Leader<R> {
    /// Takes the lead in `epoch`, which must be higher than any in the view, over the log that
    /// `view` describes.
    ///
    /// # Panics
    /// If `epoch` is in the log already: two leaders would then write in one epoch.
    #[must_use]
    pub fn new(epoch: LeaderEpoch, view: &PartitionView) -> Leader<R> {
        let fresh = view.epochs.is_empty() || epoch > view.epoch();
        assert!(fresh, "epoch {epoch} is in the log already");
        Leader {
            epoch,
            online: true,
            log_start: view.log_start,
            high_watermark: view.log_end,
            durable_end: view.log_end,
            log_end: view.log_end,
            append_time: view.append_time,
            producers: view.producers.clone(),
            parked: VecDeque::new(),
        }
    }

    /// The first retained offset.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The end of what consumers may see.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The end of the log, what is still on its way to the disk included.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    /// The epoch of this leadership.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether appends are taken.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// How many replies wait for the disk.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Decides about an append of `count` offsets (at least 1). Nothing changes: if the answer is
    /// [`Append::Write`], the caller hands the entry to the log and, if the log takes it, calls
    /// [`Leader::handle_appended`] before anything else.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn decide_append(
        &self,
        now: TimestampMs,
        producer: Option<&ProducerBatch>,
    ) -> Result<Append, AppendError> {
        if !self.online {
            return Err(AppendError::Offline);
        }
        if let Some(producer) = producer
            && let Sequence::Duplicate { base_offset } = self.producers.check(producer)?
        {
            return Ok(Append::Duplicate { base_offset });
        }
        if self.log_end.0 > i64::MAX - 2 * limits::BATCH_RECORDS_MAX as i64 {
            return Err(AppendError::Exhausted);
        }
        let (base_offset, epoch) = (self.log_end, self.epoch);
        let append_time = self.append_time.max(now);
        Ok(Append::Write { base_offset, epoch, append_time })
    }

    /// The log took an entry of `count` offsets that [`Leader::decide_append`] allowed.
    pub fn handle_appended(
        &mut self,
        append_time: TimestampMs,
        count: u32,
        producer: Option<&ProducerBatch>,
    ) {
        if let Some(producer) = producer {
            self.producers.record(producer, self.log_end);
        }
        self.log_end = self.log_end.plus(count);
        self.append_time = self.append_time.max(append_time);
        self.check_invariant();
    }

    /// Keeps `reply` until everything below `through` is committed. Gives it back at once if it is.
    pub fn park(&mut self, through: Offset, reply: R) -> Option<R> {
        if through <= self.high_watermark {
            return Some(reply);
        }
        // A duplicate of a batch that is still on its way waits behind what was parked after that
        // batch: its own end may be lower, but acknowledgements keep the order of arrival.
        let through = self.parked.back().map_or(through, |last| last.through.max(through));
        self.parked.push_back(Parked { through, reply });
        None
    }

    /// The log is on disk up to `end`. Returns the replies that this commits, in log order.
    ///
    /// The commit rule of a partition with one replica: what is durable here is committed.
    ///
    /// # Panics
    /// If `end` lies beyond the log end: the disk cannot hold what was never appended.
    pub fn handle_durable(&mut self, end: Offset) -> impl Iterator<Item = R> + use<'_, R> {
        assert!(end <= self.log_end, "durable end {end} beyond log end {}", self.log_end);
        self.durable_end = self.durable_end.max(end);
        self.high_watermark = self.durable_end;
        self.check_invariant();
        let covered = self.parked.partition_point(|p| p.through <= self.high_watermark);
        self.parked.drain(..covered).map(|p| p.reply)
    }

    /// Retention moved the log start to `start`.
    pub fn handle_log_start(&mut self, start: Offset) {
        assert!(start <= self.high_watermark, "log start {start} beyond the high watermark");
        self.log_start = self.log_start.max(start);
    }

    /// A write failed: whether the parked appends are on disk is unknown. Takes no more appends,
    /// and returns the parked replies.
    pub fn handle_failure(&mut self) -> impl Iterator<Item = R> + use<'_, R> {
        self.online = false;
        self.parked.drain(..).map(|p| p.reply)
    }

    /// The log was reopened and holds what `view` says: go on from there in `epoch`.
    ///
    /// # Panics
    /// If the log lost what was committed: going on would give an offset to a second entry.
    pub fn handle_recovered(&mut self, epoch: LeaderEpoch, view: &PartitionView) {
        assert!(
            view.log_end >= self.high_watermark,
            "the log ends at {} but {} was committed",
            view.log_end,
            self.high_watermark
        );
        assert!(epoch > self.epoch, "a recovered leader needs a new epoch");
        *self = Leader::new(epoch, view);
    }

    fn check_invariant(&self) {
        assert!(
            self.log_start <= self.high_watermark
                && self.high_watermark <= self.durable_end
                && self.durable_end <= self.log_end,
            "leader out of order: start={} hw={} durable={} end={}",
            self.log_start,
            self.high_watermark,
            self.durable_end,
            self.log_end
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProducerId;

    fn leader() -> Leader<&'static str> {
        Leader::new(LeaderEpoch(1), &PartitionView::default())
    }

    fn append(
        leader: &mut Leader<&'static str>,
        now: i64,
        count: u32,
        producer: Option<ProducerBatch>,
    ) -> Result<Append, AppendError> {
        let decided = leader.decide_append(TimestampMs(now), producer.as_ref())?;
        if let Append::Write { append_time, .. } = decided {
            leader.handle_appended(append_time, count, producer.as_ref());
        }
        Ok(decided)
    }

    fn producer(base_sequence: i32, count: u32) -> ProducerBatch {
        ProducerBatch { id: ProducerId(5), epoch: 0, base_sequence, count }
    }

    fn write(base: i64, time: i64) -> Append {
        Append::Write {
            base_offset: Offset(base),
            epoch: LeaderEpoch(1),
            append_time: TimestampMs(time),
        }
    }

    /// Goal: offsets are dense, append time never goes back, replies leave in order and only when
    /// durable.
    #[test]
    fn append_and_commit() {
        let mut leader = leader();
        assert_eq!(append(&mut leader, 50, 10, None), Ok(write(0, 50)));
        assert_eq!(leader.park(Offset(10), "a"), None);
        assert_eq!(append(&mut leader, 40, 5, None), Ok(write(10, 50)));
        assert_eq!(leader.park(Offset(15), "b"), None);
        assert_eq!(leader.handle_durable(Offset(9)).count(), 0);
        assert_eq!(leader.high_watermark(), Offset(9));
        assert_eq!(leader.handle_durable(Offset(15)).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(leader.park(Offset(15), "c"), Some("c"));
    }

    /// Goal: a retry of a batch that is still on its way is not written again and is acknowledged
    /// no earlier than the first.
    #[test]
    fn duplicate_in_flight_waits() {
        let mut leader = leader();
        append(&mut leader, 0, 2, Some(producer(0, 2))).unwrap();
        leader.park(Offset(2), "first");
        append(&mut leader, 0, 2, Some(producer(2, 2))).unwrap();
        leader.park(Offset(4), "second");
        assert_eq!(
            append(&mut leader, 0, 2, Some(producer(0, 2))),
            Ok(Append::Duplicate { base_offset: Offset(0) })
        );
        assert_eq!(leader.park(Offset(2), "retry"), None);
        assert_eq!(leader.handle_durable(Offset(2)).collect::<Vec<_>>(), ["first"]);
        assert_eq!(leader.handle_durable(Offset(4)).collect::<Vec<_>>(), ["second", "retry"]);
        assert_eq!(leader.log_end(), Offset(4));
    }

    /// Goal: after a failed write nothing is taken until the log was reopened; then the leader
    /// goes on from what the log holds, in a new epoch.
    #[test]
    fn failure_and_recovery() {
        let mut leader = leader();
        append(&mut leader, 0, 3, None).unwrap();
        leader.park(Offset(3), "lost?");
        assert_eq!(leader.handle_failure().collect::<Vec<_>>(), ["lost?"]);
        assert_eq!(append(&mut leader, 0, 1, None), Err(AppendError::Offline));
        leader.handle_recovered(LeaderEpoch(2), &PartitionView::default());
        assert!(matches!(
            append(&mut leader, 0, 1, None),
            Ok(Append::Write { base_offset: Offset(0), epoch: LeaderEpoch(2), .. })
        ));
    }

    /// Goal: a log that lost committed entries is never led again.
    #[test]
    #[should_panic(expected = "was committed")]
    fn lost_commit_is_fatal() {
        let mut leader = leader();
        append(&mut leader, 0, 3, None).unwrap();
        leader.handle_durable(Offset(3)).count();
        leader.handle_recovered(LeaderEpoch(2), &PartitionView::default());
    }
}
