//! Leader side of one partition. Pure: no clock, no I/O.
//!
//! Invariant: `log_start <= high_watermark <= durable_end <= log_end`.
//!
//! | state | event | next |
//! |---|---|---|
//! | leading | `decide_append` | unchanged: only an answer |
//! | leading | `handle_appended` | leading; the log end moves |
//! | leading | `park` | leading; the reply waits for the in-sync set's disks |
//! | leading | `handle_durable`, `handle_report` | leading; what is committed now is released |
//! | leading | `handle_assignment` | the same: the in-sync set may be smaller |
//! | leading | `handle_follow` | leading; the follower learns whether the logs agree |
//! | leading | `poll_proposal` | leading; whoever it adds to the in-sync set counts at once |
//! | leading | `handle_failure` | offline; every parked reply is released as unknown |
//! | offline | `handle_recovered` | leading, in a higher epoch; of one replica only |
//!
//! What is committed says [`InSync::commit_end`], and nothing else.
//!
//! A leader ends by being taken apart ([`Leader::retire`]): only [`super::replica::Replica`], which
//! is told of higher epochs, does that.
//!
//! Replies are parked here as values of the driver's choice (`R`), in log order, and come back in
//! log order: an acknowledgement can never overtake an earlier one of the same partition.

use crate::ids::{LeaderEpoch, NodeId, Offset, TimestampMs};
use crate::limits;
use crate::partition::assignment::{Assignment, Lead, Proposal};
use crate::partition::epochs;
use crate::partition::follower::Held;
use crate::partition::insync::{InSync, Lag};
use crate::partition::messages::{EpochStart, Follow, FollowAnswer, Push, Report, Verdict};
use crate::partition::producers::{ProducerBatch, ProducerTable, Sequence, SequenceError};
use crate::partition::view::PartitionView;
use std::collections::VecDeque;
use std::time::Duration;

/// The leader of one partition.
#[derive(Debug)]
pub struct Leader<R> {
    epoch: LeaderEpoch,
    log_start: Offset,
    high_watermark: Offset,
    durable_end: Offset,
    log_end: Offset,
    append_time: TimestampMs,
    /// Where this epoch began: everything that earlier leaders committed lies below.
    epoch_start: Offset,
    /// Where each epoch began, this one included even before its first entry.
    epochs: Vec<EpochStart>,
    insync: InSync,
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
    /// The batch does not fit what this leader knows of its producer. But another node may lead by
    /// now, and have what is missing here: a producer that took this one's word would store its
    /// batches once more under other numbers. Write an entry without records in the batch's place,
    /// and refuse the batch once that is committed; then nobody else had led before it was written.
    Doubt {
        /// Why the batch is to be refused then.
        error: SequenceError,
        /// The offset of the entry, which takes one.
        base_offset: Offset,
        /// The epoch to write into it.
        epoch: LeaderEpoch,
        /// Its append time.
        append_time: TimestampMs,
    },
}

/// Why a batch is refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The producer's sequence does not fit.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The log is full: no offset is left.
    #[error("the partition has no offsets left")]
    Exhausted,
    /// Too few replicas are in sync. It may be tried again: they come back, or a human lowers
    /// `min_insync`.
    #[error("only {have} replicas are in sync, {need} are needed: try again")]
    NotEnoughInSync {
        /// How many are.
        have: usize,
        /// How many must be.
        need: usize,
    },
}

/// Why a follower's question is not answered. It asks again, when it knows better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowRefusal {
    /// This leader leads in another epoch.
    #[error("the leader's epoch is {current}")]
    OtherEpoch {
        /// The leader's.
        current: LeaderEpoch,
    },
    /// It is not a replica of this partition, or asked something newer meanwhile.
    #[error("not a replica of this partition, or an old question")]
    Unexpected,
    /// The numbers contradict each other.
    #[error("the follower's ends or epochs are out of order")]
    Malformed,
}

impl<R> Leader<R> {
    /// Takes the lead in the epoch of `assignment`, as its leader `me`, over the log that `view`
    /// describes, all of which is durable. `committed` is what this replica knows to be committed.
    ///
    /// `None` if the assignment names another leader, or its epoch is in the log already: then it
    /// is an old one, and going on would write in an epoch that was written in before.
    #[must_use]
    pub fn replicated(
        now: Duration,
        me: Lead,
        assignment: &Assignment,
        view: &PartitionView,
        committed: Offset,
    ) -> Option<Leader<R>> {
        let fresh = view.epochs.is_empty() || assignment.leader_epoch > view.epoch();
        let mine = assignment.leader == Some(me) && assignment.insync.contains_key(&me.node);
        if !fresh || !mine || committed > view.log_end {
            return None;
        }
        let insync = InSync::new(now, me, assignment);
        let committed = committed.max(view.log_start);
        let mut leader = Leader::with(assignment.leader_epoch, view, committed, insync);
        leader.advance();
        Some(leader)
    }

    fn with(epoch: LeaderEpoch, view: &PartitionView, committed: Offset, insync: InSync) -> Self {
        let mut epochs = view.epochs.clone();
        epochs::note(&mut epochs, epoch, view.log_end);
        Leader {
            epoch,
            log_start: view.log_start,
            high_watermark: committed,
            durable_end: view.log_end,
            log_end: view.log_end,
            append_time: view.append_time,
            epoch_start: view.log_end,
            epochs,
            insync,
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

    /// The high watermark, if it is certain to be no lower than what any earlier leader told. A new
    /// leader holds all that was committed but does not know where it ends, until the in-sync set
    /// has everything that it began with. Records below [`Leader::high_watermark`] may be handed
    /// out before; the number may not.
    #[must_use]
    pub fn settled_watermark(&self) -> Option<Offset> {
        (self.high_watermark >= self.epoch_start).then_some(self.high_watermark)
    }

    /// The end of what is on this node's disk.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// The in-sync set.
    #[must_use]
    pub fn insync(&self) -> &InSync {
        &self.insync
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

    /// How many replies wait for the disk.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Decides about an append. Nothing changes: if the answer is [`Append::Write`] or
    /// [`Append::Doubt`], the caller hands the entry to the log and, if the log takes it, calls
    /// [`Leader::handle_appended`] before anything else.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn decide_append(
        &self,
        now: TimestampMs,
        producer: Option<&ProducerBatch>,
    ) -> Result<Append, AppendError> {
        let doubt = match producer.map(|producer| self.producers.check(producer)) {
            Some(Ok(Sequence::Duplicate { base_offset })) => {
                return Ok(Append::Duplicate { base_offset });
            }
            Some(Err(error)) if error == SequenceError::Malformed || self.insync.is_alone() => {
                return Err(error.into());
            }
            Some(Err(error)) => Some(error),
            Some(Ok(Sequence::Next)) | None => None,
        };
        if !self.insync.is_enough() {
            let (have, need) = (self.insync.committed().len(), self.insync.min());
            return Err(AppendError::NotEnoughInSync { have, need });
        }
        if self.log_end.0 > i64::MAX - 2 * limits::BATCH_RECORDS_MAX as i64 {
            return Err(AppendError::Exhausted);
        }
        let (base_offset, epoch) = (self.log_end, self.epoch);
        let append_time = self.append_time.max(now);
        Ok(match doubt {
            Some(error) => Append::Doubt { error, base_offset, epoch, append_time },
            None => Append::Write { base_offset, epoch, append_time },
        })
    }

    /// The log took an entry of `count` offsets, at least 1, that [`Leader::decide_append`]
    /// allowed.
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

    /// The log is on this node's disk up to `end`. Returns the replies that this commits, in log
    /// order.
    ///
    /// # Panics
    /// If `end` lies beyond the log end: the disk cannot hold what was never appended.
    pub fn handle_durable(&mut self, end: Offset) -> impl Iterator<Item = R> + use<'_, R> {
        assert!(end <= self.log_end, "durable end {end} beyond log end {}", self.log_end);
        self.durable_end = self.durable_end.max(end);
        self.release()
    }

    /// Applies the commit rule, which alone moves the high watermark, and only up.
    fn advance(&mut self) {
        if let Some(end) = self.insync.commit_end(self.durable_end) {
            self.high_watermark = self.high_watermark.max(end);
        }
        self.check_invariant();
    }

    fn release(&mut self) -> impl Iterator<Item = R> + use<'_, R> {
        self.advance();
        let covered = self.parked.partition_point(|p| p.through <= self.high_watermark);
        self.parked.drain(..covered).map(|p| p.reply)
    }

    /// Compares a follower's log with this one. From the answer [`Verdict::Agreed`] on, entries may
    /// be pushed to it, each with a [`Push`].
    ///
    /// # Errors
    /// [`FollowRefusal`].
    pub fn handle_follow(&mut self, follow: &Follow) -> Result<FollowAnswer, FollowRefusal> {
        if follow.epoch != self.epoch {
            return Err(FollowRefusal::OtherEpoch { current: self.epoch });
        }
        let ordered = follow.log_start <= follow.log_end && follow.durable_end <= follow.log_end;
        let rows = follow.epochs.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        if !ordered || !rows || follow.epochs.len() > limits::FOLLOW_EPOCHS_MAX {
            return Err(FollowRefusal::Malformed);
        }
        let bounds = (follow.log_start, follow.log_end);
        let agreed = epochs::divergence(&self.epochs, self.log_end, &follow.epochs, bounds);
        let (shared, verdict) = if agreed < self.log_start {
            let mut epochs = self.epochs.clone();
            epochs.retain(|&(_, begin)| begin < self.log_start);
            (Offset::ZERO, Verdict::Reset { start: self.log_start, epochs })
        } else if agreed < follow.log_end {
            (agreed, Verdict::Truncate { end: agreed })
        } else {
            (agreed, Verdict::Agreed)
        };
        let asked = (follow.incarnation, follow.attempt);
        if !self.insync.handle_follow(follow.node, asked, follow.durable_end.min(shared)) {
            return Err(FollowRefusal::Unexpected);
        }
        let (incarnation, attempt) = asked;
        Ok(FollowAnswer { epoch: self.epoch, incarnation, attempt, verdict })
    }

    /// What to say to a follower, with entries or without: `None` if it never asked.
    #[must_use]
    pub fn push(&self, to: NodeId) -> Option<Push> {
        let progress = self.insync.follower(to)?;
        progress.durable_end?;
        Some(Push {
            epoch: self.epoch,
            incarnation: progress.incarnation,
            attempt: progress.attempt,
            high_watermark: self.high_watermark,
            log_start: self.log_start,
        })
    }

    /// A follower has this log on its disk up to what it reports. Returns the replies that this
    /// commits, in log order. A word of another epoch or life is dropped: what it speaks of may
    /// have been cut off, or the disk exchanged.
    pub fn handle_report(
        &mut self,
        now: Duration,
        report: &Report,
    ) -> impl Iterator<Item = R> + use<'_, R> {
        if report.epoch == self.epoch {
            let ends = (report.durable_end, self.log_end);
            self.insync.handle_report(now, report.node, report.incarnation, ends);
        }
        self.release()
    }

    /// The controller changed the partition, and this node still leads it in the same epoch.
    /// Returns the replies that this commits: a shrink that the controller has committed lets the
    /// watermark pass whoever left.
    pub fn handle_assignment(
        &mut self,
        now: Duration,
        assignment: &Assignment,
    ) -> impl Iterator<Item = R> + use<'_, R> {
        if assignment.leader_epoch == self.epoch {
            self.insync.handle_assignment(now, assignment);
        }
        self.release()
    }

    /// Decides whether the in-sync set should change. To be sent to the controller.
    pub fn poll_proposal(&mut self, now: Duration, lag: Lag) -> Option<Proposal> {
        // Whoever joins must have all that was ever committed. A new leader's own watermark may be
        // lower than its predecessor's; its epoch start is not.
        let settled = self.high_watermark.max(self.epoch_start);
        self.insync.poll_proposal(now, lag, self.epoch, (settled, self.log_end))
    }

    /// Ends this leadership. Returns what the replica holds, and the replies that nobody can give
    /// any more: whether their appends will be committed is for the next leader to say.
    #[must_use]
    pub fn retire(self) -> (Held, Vec<R>) {
        let mut epochs = self.epochs;
        epochs::cut(&mut epochs, self.log_end);
        let held = Held {
            log_start: self.log_start,
            committed: self.high_watermark,
            durable_end: self.durable_end,
            log_end: self.log_end,
            epochs,
        };
        (held, self.parked.into_iter().map(|parked| parked.reply).collect())
    }

    /// Retention moved the log start to `start`.
    pub fn handle_log_start(&mut self, start: Offset) {
        assert!(start <= self.high_watermark, "log start {start} beyond the high watermark");
        self.log_start = self.log_start.max(start);
        epochs::advance(&mut self.epochs, self.log_start);
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
    use crate::ids::{DiskId, Incarnation, NodeId, PartitionEpoch, ProducerId};

    fn leader() -> Leader<&'static str> {
        let me = Lead { node: NodeId(1), incarnation: Incarnation(1) };
        let alone = Assignment {
            replicas: vec![me.node],
            target: None,
            leader: Some(me),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            insync: [(me.node, DiskId(1))].into(),
            min_insync: 1,
            missing: 0,
        };
        let view = PartitionView::default();
        let leader = Leader::replicated(Duration::ZERO, me, &alone, &view, Offset::ZERO);
        leader.expect("it is the leader, in an epoch that is not in the log")
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

    /// Goal: a batch that does not fit is refused at once where nobody else can lead, and otherwise
    /// has an entry written in its place, whose commit makes the refusal certain. A repeated one,
    /// and one that is malformed, are what they are whoever leads.
    #[test]
    fn refusals_for_a_number() {
        let gap = SequenceError::Gap { expected: 2, got: 5 };
        let mut alone = leader();
        append(&mut alone, 0, 2, Some(producer(0, 2))).unwrap();
        assert_eq!(append(&mut alone, 0, 1, Some(producer(5, 1))), Err(gap.into()));

        let me = Lead { node: NodeId(1), incarnation: Incarnation(1) };
        let two = Assignment {
            replicas: vec![me.node, NodeId(2)],
            target: None,
            leader: Some(me),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            insync: [(me.node, DiskId(1)), (NodeId(2), DiskId(2))].into(),
            min_insync: 1,
            missing: 0,
        };
        let view = PartitionView::default();
        let led = Leader::replicated(Duration::ZERO, me, &two, &view, Offset::ZERO);
        let mut led: Leader<&str> = led.expect("it is the leader");
        append(&mut led, 7, 2, Some(producer(0, 2))).unwrap();
        let (base_offset, epoch, append_time) = (Offset(2), LeaderEpoch(1), TimestampMs(7));
        let doubt = |error| Ok(Append::Doubt { error, base_offset, epoch, append_time });
        assert_eq!(append(&mut led, 0, 1, Some(producer(5, 1))), doubt(gap));
        let unknown = ProducerBatch { id: ProducerId(6), ..producer(5, 1) };
        let error = SequenceError::UnknownProducer;
        assert_eq!(append(&mut led, 0, 1, Some(unknown)), doubt(error));
        let again = append(&mut led, 0, 2, Some(producer(0, 2)));
        assert_eq!(again, Ok(Append::Duplicate { base_offset: Offset(0) }));
        let malformed = append(&mut led, 0, 1, Some(producer(-1, 1)));
        assert_eq!(malformed, Err(SequenceError::Malformed.into()));
    }
}
