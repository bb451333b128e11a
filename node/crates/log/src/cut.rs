//! Cutting a partition's log, and telling what it holds.
//!
//! A follower whose log parts from its leader's cuts it where they part; one whose leader has let
//! go of what comes next begins anew. Both are one item of the shard's stream, and beside it, in
//! the same transaction, the view that holds from there on: whatever the next start finds of the
//! files before, the newest file alone says what the partition is.
//!
//! The writer does a cut in its turn, with nothing else under way. For a truncation it replays the
//! partition's part of one file, the one that holds the entry at the cut: the view just before that
//! entry is the view that the log had when it ended there. Other partitions of the shard wait as
//! long as reading that one file takes.

use crate::api::{AppendError, ReadError};
use crate::db::DbError;
use crate::index::Segment;
use crate::log::{Log, control};
use crate::replay::view_before;
use crate::shard::{FileError, Shard};
use crate::writer::Writer;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use weir_core::entry::EntryKind;
use weir_core::partition::messages::EpochStart;
use weir_core::partition::producers::ProducerTable;
use weir_core::partition::view::PartitionView;
use weir_core::{Offset, PartitionId};

/// Files that are just being replaced are looked up again so often.
const LOOKUPS_MAX: usize = 10;

/// Why a log was not truncated. It is as it was; [`Log::reset`] always works.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The log begins behind the cut.
    #[error("the log cannot be cut to {end}, it begins at {start}: reset it")]
    BelowStart {
        /// Where it was to end.
        end: Offset,
        /// The first retained offset.
        start: Offset,
    },
    /// The log ends before the cut: an earlier cut failed or came in between.
    #[error("the log cannot be cut to {end}, it ends at {log_end}: ask for its view")]
    BeyondEnd {
        /// Where it was to end.
        end: Offset,
        /// Where it ends.
        log_end: Offset,
    },
    /// Logs are cut between entries.
    #[error("the log cannot be cut to {0}, which lies within an entry: reset it")]
    WithinEntry(Offset),
    /// The cleaner has copied the entry at the cut, and left out what the view then follows from.
    #[error("what the log said at {end} is not kept any more ({file} was cleaned): reset it")]
    Forgotten {
        /// Where it was to end.
        end: Offset,
        /// The file's name.
        file: String,
    },
    /// The file that is needed cannot be read.
    #[error("what the log said at the cut cannot be read: {0}; try again, or reset it")]
    Unreadable(ReadError),
}

/// A cut that waits for the writer.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) partition: PartitionId,
    pub(crate) to: CutTo,
}

/// What a cut leaves.
#[derive(Debug)]
pub(crate) enum CutTo {
    /// What lies below this end.
    End(Offset),
    /// Nothing but this view.
    View(Box<PartitionView>),
}

impl Cut {
    /// The end of the log once it is cut.
    pub(crate) fn end(&self) -> Offset {
        match &self.to {
            CutTo::End(end) => *end,
            CutTo::View(view) => view.log_end,
        }
    }

    /// Bytes of what it carries, roughly.
    pub(crate) fn bytes(&self) -> usize {
        match &self.to {
            CutTo::End(_) => 0,
            CutTo::View(view) => view.state.iter().map(|(k, v)| k.len() + v.len()).sum(),
        }
    }
}

impl Log {
    /// Asks for what the log says of a partition: answered by [`crate::LogEvents::view`], in order
    /// with what is reported of the appends before and after. Never blocks.
    ///
    /// # Errors
    /// [`AppendError`]; there will be no answer.
    pub fn ask_view(&self, partition: PartitionId) -> Result<(), AppendError> {
        self.shard_of(partition).queue.push_view(partition, None)
    }

    /// Asks for what the log said of a partition when it ended at `end`, where an entry ends:
    /// answered by [`crate::LogEvents::view_at`]. Unless the log ends there this replays the
    /// partition's part of one file, and the shard's appends wait meanwhile. Never blocks.
    ///
    /// # Errors
    /// [`AppendError`]; there will be no answer.
    pub fn ask_view_at(&self, partition: PartitionId, end: Offset) -> Result<(), AppendError> {
        self.shard_of(partition).queue.push_view(partition, Some(end))
    }

    /// Cuts a partition's log so that it ends at `end`, where an entry ends. Answered by
    /// [`crate::LogEvents::cut`] once that is durable, with the view as it was when the log ended
    /// there; or by [`crate::LogEvents::cut_failed`]. Never blocks.
    ///
    /// The order of calls is the order in the log: appends handed in before are reported durable
    /// before the answer, and those after must go on from `end`. What is appended there must be of
    /// another epoch than what was cut off: an epoch and an offset name one entry.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was or will be cut. [`AppendError::Malformed`] if the log, with
    /// what is on its way, ends before `end`.
    pub fn truncate(&self, partition: PartitionId, end: Offset) -> Result<(), AppendError> {
        let to = CutTo::End(end);
        self.shard_of(partition).queue.push_cut(Cut { partition, to })
    }

    /// Drops all that a partition has and begins anew: empty, at `start`, which may lie before or
    /// beyond the present log, with the epochs of its past and with this keyed state and these
    /// producers. Rows of `epochs` at or beyond `start` are left out. Answered by
    /// [`crate::LogEvents::cut`] once that is durable; otherwise as [`Log::truncate`], which may
    /// fail where this does not. Never blocks. The newest append time begins anew, too.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was or will be dropped. [`AppendError::Malformed`] if `epochs` do
    /// not ascend, `start` is negative or a key or value is too long.
    pub fn reset(
        &self,
        partition: PartitionId,
        start: Offset,
        epochs: Vec<EpochStart>,
        state: BTreeMap<Bytes, Bytes>,
        producers: ProducerTable,
    ) -> Result<(), AppendError> {
        let view = PartitionView::begin(start, epochs, state, producers);
        let to = CutTo::View(Box::new(view.ok_or(AppendError::Malformed)?));
        self.shard_of(partition).queue.push_cut(Cut { partition, to })
    }
}

/// Why the view at a cut could not be had.
enum Obstacle {
    /// The owner is told.
    Cut(CutError),
    /// The active file failed: the shard goes offline.
    Active(DbError),
}

impl From<CutError> for Obstacle {
    fn from(error: CutError) -> Obstacle {
        Obstacle::Cut(error)
    }
}

impl Writer {
    /// Answers [`Log::ask_view`] and [`Log::ask_view_at`].
    pub(crate) fn tell_view(
        &mut self,
        partition: PartitionId,
        at: Option<Offset>,
    ) -> Result<(), DbError> {
        self.settle()?;
        let empty = PartitionView::default();
        let now = self.views.get(&partition).unwrap_or(&empty);
        let Some(end) = at else {
            self.events.view(partition, now);
            return Ok(());
        };
        match self.view_at(partition, end) {
            Ok(Some(view)) => self.events.view_at(partition, end, Ok(&view)),
            Ok(None) => self.events.view_at(partition, end, Ok(now)),
            Err(Obstacle::Active(error)) => return Err(error),
            Err(Obstacle::Cut(error)) => self.events.view_at(partition, end, Err(&error)),
        }
        Ok(())
    }

    /// Cuts a log and answers. An error means that the fate of the cut is unknown.
    pub(crate) fn cut(&mut self, cut: Cut) -> Result<(), DbError> {
        let started = Instant::now();
        let partition = cut.partition;
        // From here on the index, the views and the disk say the same.
        self.settle()?;
        let view = match cut.to {
            CutTo::View(view) => *view,
            CutTo::End(end) => match self.view_at(partition, end) {
                Ok(Some(view)) => view,
                Ok(None) => {
                    self.shard.queue.end_cut(partition);
                    self.answer_cut(partition);
                    return Ok(());
                }
                Err(Obstacle::Active(error)) => return Err(error),
                Err(Obstacle::Cut(error)) => {
                    tracing::warn!(%partition, %error, "a log was not truncated");
                    let dropped = self.shard.queue.undo_cut(partition, self.views.get(&partition));
                    self.events.cut_failed(partition, &error);
                    drop(dropped);
                    return Ok(());
                }
            },
        };
        let end = view.log_end;
        let item = control(EntryKind::Truncate, partition, end);
        self.prepare(vec![item], Some(view), started)?.land()?;
        self.active.durable = self.active.position;
        tracing::info!(%partition, %end, "cut a log");
        self.shard.queue.end_cut(partition);
        self.answer_cut(partition);
        self.ask_for_next();
        self.check_space();
        Ok(())
    }

    fn answer_cut(&self, partition: PartitionId) {
        match self.views.get(&partition) {
            Some(view) => self.events.cut(partition, view),
            None => self.events.cut(partition, &PartitionView::default()),
        }
    }

    /// The view as it was when the log ended at `end`; `None` if it does so already.
    fn view_at(
        &self,
        partition: PartitionId,
        end: Offset,
    ) -> Result<Option<PartitionView>, Obstacle> {
        let now = self.views.get(&partition);
        let (start, log_end) =
            now.map_or((Offset::ZERO, Offset::ZERO), |view| (view.log_start, view.log_end));
        if end < start {
            return Err(CutError::BelowStart { end, start }.into());
        }
        if end > log_end {
            return Err(CutError::BeyondEnd { end, log_end }.into());
        }
        if end == log_end {
            return Ok(None);
        }
        let mut unreadable = ReadError::UnknownPartition(partition);
        for _ in 0..LOOKUPS_MAX {
            let segment = self.shard.segment_at(partition, end, log_end)?;
            let file = &segment.file;
            let error = match self.shard.view_in(partition, &segment, end) {
                Ok(found) => {
                    let mut view = found?;
                    view.advance_log_start(start);
                    return Ok(Some(view));
                }
                Err(FileError::Unusable(error)) if Arc::ptr_eq(file, &self.active.file) => {
                    return Err(Obstacle::Active(error));
                }
                Err(error) => error,
            };
            unreadable = error.for_reader(file, end, segment.summary.end);
            if !matches!(error, FileError::Away) {
                break;
            }
            std::thread::yield_now();
        }
        Err(CutError::Unreadable(unreadable).into())
    }
}

impl Shard {
    /// The part of a log that holds `offset`.
    fn segment_at(
        &self,
        partition: PartitionId,
        offset: Offset,
        end: Offset,
    ) -> Result<Segment, CutError> {
        let index = self.read_index();
        let segments = index.get(&partition).map_or(&[][..], |places| &places.segments);
        let at = segments.partition_point(|segment| segment.summary.end <= offset);
        match segments.get(at) {
            Some(segment) if segment.summary.start <= offset => Ok(segment.clone()),
            after => Err(CutError::Unreadable(crate::read::lost(offset, after, end))),
        }
    }

    /// The view just before the entry at `offset`, from the file of `segment`, which holds that.
    fn view_in(
        &self,
        partition: PartitionId,
        segment: &Segment,
        offset: Offset,
    ) -> Result<Result<PartitionView, CutError>, FileError> {
        let file = &segment.file;
        let runs = self.runs_of(partition, segment)?;
        let at = runs.partition_point(|run| run.end <= offset);
        let Some(run) = runs.get(at).copied().filter(|run| run.base <= offset) else {
            let (to, file) = (segment.summary.end, file.name());
            let lost = ReadError::Corrupt { from: offset, to, file };
            return Ok(Err(CutError::Unreadable(lost)));
        };
        self.with_file(file, |db| {
            if !db.is_replayable()? {
                return Ok(Err(CutError::Forgotten { end: offset, file: file.name() }));
            }
            let view = view_before(db, partition, &run, offset)?;
            Ok(view.ok_or(CutError::WithinEntry(offset)))
        })
    }
}
