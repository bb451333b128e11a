//! A shard's writer: drains the queue, commits each group with one sync, tells what is durable.
//!
//! A commit is put together, applied to the views, written and synced, and then published. While
//! more waits in the queue, all but the first two are left to other threads, and the writer puts
//! the next commit together in the meantime. That one reaches the disk only behind the sync
//! ([`crate::syncing`]), and is published only behind the one before it: order and durability are
//! those of one commit after the other. A cut of a log, and an answer to what a log holds, wait
//! until nothing is under way: see [`crate::cut`].
//!
//! | state | event | next |
//! |---|---|---|
//! | online | a group is due | online; it is on disk and reported |
//! | online | a commit fails, or the active file fails a reader | offline; all fates are unknown |
//! | offline | the active file's content is safe in a new one | online; the views are reported |
//! | any | the queue closes | ended; the active file is closed |

use crate::api::AppendRequest;
use crate::background::{Background, Task};
use crate::cut_rows::CutRow;
use crate::db::{Checkpoint, Commit, DbError, failed, row_max};
use crate::events::LogEvents;
use crate::file::LogFile;
use crate::index::Bounds;
use crate::landing::{Applied, LANDING_MAX, Lander, Landing};
use crate::queue::{LogEnd, Turn};
use crate::replay::{BatchFacts, apply_to_view};
use crate::rescue::finish_file;
use crate::shard::{Shard, drop_contained};
use crate::space::SpaceWatch;
use crate::syncing::Owed;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use weir_core::entry::{ENTRY_HEADER_BYTES, EntryKind};
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId};

const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// The file that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) file: Arc<LogFile>,
    /// The end of its stream, as far as it is written.
    pub(crate) position: u64,
    /// The end of its stream, as far as it is acknowledged.
    pub(crate) durable: u64,
    /// Whether its snapshot is written.
    pub(crate) begun: bool,
}

/// The views of a shard's partitions.
pub(crate) type Views = HashMap<PartitionId, PartitionView>;

pub(crate) struct Writer {
    pub(crate) shard: Arc<Shard>,
    pub(crate) events: Arc<dyn LogEvents>,
    pub(crate) background: Arc<Background>,
    pub(crate) active: Active,
    /// As of the end of what is written to the active file.
    pub(crate) views: Views,
    /// Why the shard cannot take appends from the start, if so.
    pub(crate) damage: Option<String>,
    pub(crate) space: SpaceWatch,
    /// Started when it is first needed.
    pub(crate) lander: Option<Lander>,
    /// Whether the next file was asked for.
    pub(crate) next_asked: bool,
}

/// Where each partition's log ends, as the queue wants to know it.
pub(crate) fn ends_of(views: &Views) -> HashMap<PartitionId, LogEnd> {
    views.iter().map(|(&partition, view)| (partition, LogEnd::of(view))).collect()
}

impl Writer {
    /// Runs until the queue is closed.
    pub(crate) fn run(mut self) {
        if let Some(reason) = self.damage.take() {
            self.fail(&reason);
        }
        loop {
            match self.shard.queue.next_turn() {
                Turn::Close => break,
                Turn::Fail(reason) => self.fail(&reason),
                Turn::Commit(requests) => self.or_fail(|writer| writer.commit(requests)),
                Turn::Cut(cut) => self.or_fail(|writer| writer.cut(cut)),
                Turn::View(partition, at) => {
                    self.or_fail(|writer| writer.tell_view(partition, at));
                }
            }
        }
        self.close();
    }

    fn or_fail(&mut self, turn: impl FnOnce(&mut Writer) -> Result<(), DbError>) {
        if let Err(error) = turn(self) {
            self.fail(&error.to_string());
        }
    }

    fn commit(&mut self, mut requests: Vec<AppendRequest>) -> Result<(), DbError> {
        let started = Instant::now();
        // Stable: the order within a partition stays.
        requests.sort_by_key(|request| request.header.partition);
        self.check_follows(&requests)?;
        let landing = self.prepare(requests, None, started)?;
        self.ask_for_next();
        self.land(landing)?;
        self.check_space();
        Ok(())
    }

    /// Writes a commit and takes it into the views, in a new file if the active one is full. `cut`
    /// is the view from the only request on, if that is a cut.
    pub(crate) fn prepare(
        &mut self,
        requests: Vec<AppendRequest>,
        cut: Option<PartitionView>,
        started: Instant,
    ) -> Result<Landing, DbError> {
        if !self.active.begun || self.active.position >= self.shard.config.file_bytes {
            // One file after the other.
            self.settle()?;
        }
        let rolled = self.roll_if_full();
        let written = self.write(&requests, cut.as_ref());
        if let Some(old) = rolled {
            // Whatever became of the new file: nothing more is written to the old one.
            self.background.push(Task::Seal(self.shard.clone(), old));
        }
        let owed = written?;
        if !self.active.begun {
            // Until the snapshot is durable the views must stay those of the file before.
            owed.settle().map_err(failed)?;
            self.active.begun = true;
            self.shard.note_active(&self.active);
        }
        self.apply(requests, cut, owed, started)
    }

    /// Syncs, publishes and reports a commit, or has other threads do so.
    fn land(&mut self, landing: Landing) -> Result<(), DbError> {
        let landing = Box::new(landing);
        self.settle_to(LANDING_MAX - 1)?;
        let end = self.active.position;
        let under_way = self.lander.as_ref().is_some_and(|lander| !lander.is_idle());
        let landing = match under_way || self.shard.queue.is_worth_preparing() {
            true => match self.hand_over(landing, end) {
                Ok(()) => return Ok(()),
                Err(landing) => landing,
            },
            false => landing,
        };
        self.settle()?;
        landing.land()?;
        self.active.durable = end;
        Ok(())
    }

    fn hand_over(&mut self, landing: Box<Landing>, end: u64) -> Result<(), Box<Landing>> {
        if self.lander.is_none() {
            self.lander = Lander::start(self.shard.id).ok();
        }
        match &mut self.lander {
            Some(lander) => lander.hand_over(landing, end),
            None => Err(landing),
        }
    }

    /// Waits until nothing is under way on other threads.
    pub(crate) fn settle(&mut self) -> Result<(), DbError> {
        self.settle_to(0)
    }

    /// Waits until at most `left` commits are under way on other threads.
    fn settle_to(&mut self, left: usize) -> Result<(), DbError> {
        let Some(lander) = &mut self.lander else {
            return Ok(());
        };
        let waited = lander.wait(left);
        if let Some(end) = lander.take_durable() {
            self.active.durable = end;
        }
        waited
    }

    /// Puts a commit together; writing and syncing it is left owing. No view changes.
    fn write(
        &self,
        requests: &[AppendRequest],
        cut: Option<&PartitionView>,
    ) -> Result<Owed, DbError> {
        let cut = cut.zip(requests.first()).map(|(view, request)| CutRow {
            partition: request.header.partition,
            position: self.active.position,
            view: view.encode().to_vec(),
        });
        let headers: Vec<[u8; ENTRY_HEADER_BYTES]> = requests
            .iter()
            .map(|request| request.header.encode(&request.state, &request.source))
            .collect();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(4 * requests.len());
        for (request, header) in requests.iter().zip(&headers) {
            parts.extend([&header[..], &request.state, &request.source, &request.batch]);
        }
        let bytes: usize = requests.iter().map(AppendRequest::entry_len).sum();
        let runs = requests.chunk_by(|a, b| a.header.partition == b.header.partition).count();
        let snapshot = (!self.active.begun).then(|| snapshot_of(&self.views));
        let commit = Commit {
            position: self.active.position,
            parts: &parts,
            row_max: row_max(bytes / runs.max(1)),
            snapshot: snapshot.as_deref(),
            cuts: cut.as_slice(),
        };
        let written = self.active.file.try_with(|db| db.commit_unsynced(&commit));
        written.unwrap_or(Err(DbError::Malformed("the active file is not open")))
    }

    /// Takes what was written into the views.
    fn apply(
        &mut self,
        requests: Vec<AppendRequest>,
        cut: Option<PartitionView>,
        owed: Owed,
        started: Instant,
    ) -> Result<Landing, DbError> {
        let position = self.active.position;
        let mut applied = Vec::with_capacity(requests.len());
        let bounds = cut.as_ref().map(Bounds::of);
        if let Some((view, request)) = cut.zip(requests.first()) {
            self.views.insert(request.header.partition, view);
        }
        for request in &requests {
            let header = &request.header;
            let facts = BatchFacts::of(&request.batch);
            let view = self.views.entry(header.partition).or_default();
            if header.kind != EntryKind::Truncate {
                apply_to_view(view, header, &request.state, &facts)?;
            }
            let (max_timestamp, log_start) = (facts.max_timestamp, view.log_start);
            applied.push(Applied { max_timestamp, log_start });
            if header.kind == EntryKind::Delete {
                self.views.remove(&header.partition);
            }
            self.active.position += header.entry_len() as u64;
        }
        Ok(Landing {
            shard: self.shard.clone(),
            events: self.events.clone(),
            file: self.active.file.clone(),
            owed,
            position,
            requests,
            applied,
            cut: bounds,
            started,
            flight: None,
        })
    }

    /// Whether every request may follow what is written: what replay would refuse must never be
    /// written. `requests` are sorted by partition.
    fn check_follows(&self, requests: &[AppendRequest]) -> Result<(), DbError> {
        let refuse = || DbError::Malformed("an append does not follow the log");
        for group in requests.chunk_by(|a, b| a.header.partition == b.header.partition) {
            let view = group.first().and_then(|r| self.views.get(&r.header.partition));
            let plain = group
                .iter()
                .all(|r| matches!(r.header.kind, EntryKind::Entry | EntryKind::LogStart));
            if plain {
                let mut end = view.map_or(Offset::ZERO, |view| view.log_end);
                let mut epoch = view.map_or(LeaderEpoch::default(), PartitionView::epoch);
                for request in group {
                    let header = &request.header;
                    let follows = match header.kind {
                        EntryKind::Entry => header.base_offset == end && header.epoch >= epoch,
                        _ => header.base_offset <= end,
                    };
                    if !follows {
                        return Err(refuse());
                    }
                    if header.kind == EntryKind::Entry {
                        (end, epoch) = (header.end_offset(), header.epoch);
                    }
                }
            } else {
                let mut trial = view.cloned().unwrap_or_default();
                for request in group {
                    // Cuts do not come this way.
                    let cut = request.header.kind == EntryKind::Truncate;
                    let applied = trial.apply(&request.header, &[], None);
                    applied.ok().filter(|()| !cut).ok_or_else(refuse)?;
                }
            }
        }
        Ok(())
    }

    /// Has the next file made, once that is worth it: an idle node needs none.
    pub(crate) fn ask_for_next(&mut self) {
        if !self.next_asked && self.active.position >= self.shard.config.file_bytes / 4 {
            self.next_asked = true;
            self.background.push(Task::Prepare(self.shard.clone()));
        }
    }

    /// Goes on in the next file if the active one is full and the next is ready. Returns the full
    /// one.
    fn roll_if_full(&mut self) -> Option<Arc<LogFile>> {
        if self.active.position < self.shard.config.file_bytes {
            return None;
        }
        let next = {
            let mut next = self.shard.next.lock().unwrap_or_else(PoisonError::into_inner);
            // Not ready yet: the active file grows a little longer.
            next.take()?
        };
        self.next_asked = false;
        if let Err(error) = finish_file(&*self.shard.disk, &next.path) {
            // Another one is made; until then the active file grows.
            tracing::warn!(shard = self.shard.id, %error, "the next log file cannot be begun");
            if let Some(db) = next.take() {
                db.fence();
                drop_contained(db);
            }
            return None;
        }
        let mut files = self.shard.lock_files();
        files.insert(next.identity.first_seq, next.clone());
        drop(files);
        let active = Active { file: next, position: 0, durable: 0, begun: false };
        self.shard.note_active(&active);
        Some(std::mem::replace(&mut self.active, active).file)
    }

    pub(crate) fn check_space(&mut self) {
        let shard = &self.shard;
        let now = Instant::now();
        let written = shard.counters.bytes_written.load(Ordering::Relaxed);
        if !self.space.is_due(now, written) {
            return;
        }
        let reserve = shard.config.reserve_bytes;
        match shard.disk.free_bytes(&shard.dir) {
            Ok(free) => {
                self.space.saw(now, written, (free, reserve), shard.shards);
                if free < reserve {
                    let id = shard.id;
                    tracing::warn!(shard = id, free, "the disk is nearly full: appends refused");
                    shard.queue.set_disk_full(true);
                    self.background.push(Task::WatchSpace(shard.clone()));
                }
            }
            Err(error) => tracing::warn!(shard = shard.id, %error, "cannot tell the free space"),
        }
    }

    /// Takes the shard offline, brings the active file's content to safety, and goes online again.
    /// Retries until it works or the log is closed.
    fn fail(&mut self, reason: &str) {
        let shard = self.shard.clone();
        tracing::error!(shard = shard.id, reason, "the log went offline");
        shard.queue.go_offline(reason);
        while let Err(error) = self.settle() {
            tracing::error!(shard = shard.id, %error, "a commit under way failed, too");
        }
        shard.tail.clear();
        self.events.failed(shard.id, reason);
        let mut wait = RETRY_FIRST;
        loop {
            match self.rescue() {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(shard = shard.id, %error, "the log stays offline for now");
                    shard.queue.go_offline(&format!("{reason}; recovery: {error}"));
                }
            }
            if shard.queue.sleep(wait) {
                return;
            }
            wait = (wait * 2).min(RETRY_LAST);
        }
        tracing::info!(shard = shard.id, "the log is online again");
        shard.set_damage(None);
        shard.queue.open(ends_of(&self.views));
        self.events.recovered(shard.id, &self.views);
    }

    /// Closes the active file so that it opens without repair and without replay.
    fn close(mut self) {
        let settled = self.settle();
        let file = &self.active.file;
        let checkpoint = (self.active.begun && settled.is_ok()).then(|| Checkpoint {
            position: self.active.position,
            views: snapshot_of(&self.views),
            runs: self.shard.unsealed_runs(file),
        });
        let Some(db) = file.take() else {
            return;
        };
        let noted = checkpoint.map_or(Ok(()), |checkpoint| db.put_checkpoint(&checkpoint));
        if let Err(error) = noted.and_then(|()| db.close()) {
            tracing::warn!(%error, "closing the active log file failed; the next start repairs it");
        }
    }
}

/// The views as snapshot rows, by partition.
pub(crate) fn snapshot_of(views: &Views) -> Vec<(u32, Vec<u8>)> {
    let mut rows: Vec<_> =
        views.iter().map(|(partition, view)| (partition.0, view.encode().to_vec())).collect();
    rows.sort_unstable_by_key(|row| row.0);
    rows
}
