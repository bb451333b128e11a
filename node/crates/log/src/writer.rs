//! A shard's writer: drains the queue, commits each group with one sync, tells what is durable.
//!
//! | state | event | next |
//! |---|---|---|
//! | online | a group is due | online; it is on disk and reported |
//! | online | a commit fails, or the active file fails a reader | offline; all fates are unknown |
//! | offline | the active file's content is safe in a new one | online; the views are reported |
//! | any | the queue closes | ended; the active file is closed |

use crate::api::AppendRequest;
use crate::background::{Background, Task};
use crate::db::{Checkpoint, Commit, DbError, row_max};
use crate::events::LogEvents;
use crate::file::LogFile;
use crate::queue::Turn;
use crate::replay::{BatchFacts, apply_to_view};
use crate::shard::Shard;
use crate::space::SpaceWatch;
use crate::tail::Entry;
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
    /// The end of its stream, as far as it is acknowledged.
    pub(crate) position: u64,
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
    pub(crate) views: Views,
    /// Why the shard cannot take appends from the start, if so.
    pub(crate) damage: Option<String>,
    pub(crate) space: SpaceWatch,
}

/// Where each partition's log ends, as the queue wants to know it.
pub(crate) fn ends_of(views: &Views) -> HashMap<PartitionId, (Offset, LeaderEpoch)> {
    let end = |(&partition, view): (&PartitionId, &PartitionView)| {
        (partition, (view.log_end, view.epoch()))
    };
    views.iter().map(end).collect()
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
                Turn::Commit(requests) => {
                    if let Err(error) = self.commit(requests) {
                        self.fail(&error.to_string());
                    }
                }
            }
        }
        self.close();
    }

    fn commit(&mut self, mut requests: Vec<AppendRequest>) -> Result<(), DbError> {
        let started = Instant::now();
        // Stable: the order within a partition stays.
        requests.sort_by_key(|request| request.header.partition);
        self.check_follows(&requests)?;
        let rolled = self.roll_if_full();
        let written = self.write(&requests);
        if let Some(old) = rolled {
            // Whatever became of the new file: nothing more is written to the old one.
            self.background.push(Task::Seal(self.shard.clone(), old));
            self.background.push(Task::Prepare(self.shard.clone()));
        }
        let bytes = written?;
        if !self.active.begun {
            self.active.begun = true;
            self.shard.note_active(&self.active);
        }
        self.publish(&requests)?;
        let entries = requests.len();
        self.shard.metrics.record_commit(entries, bytes, started.elapsed());
        self.check_space();
        Ok(())
    }

    /// Writes and syncs. Nothing in memory changes.
    fn write(&self, requests: &[AppendRequest]) -> Result<usize, DbError> {
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
        };
        let written = self.active.file.try_with(|db| db.commit(&commit));
        written.unwrap_or(Err(DbError::Malformed("the active file is not open")))?;
        Ok(bytes)
    }

    /// Makes what was committed visible, and reports it.
    fn publish(&mut self, requests: &[AppendRequest]) -> Result<(), DbError> {
        let mut ends: Vec<(PartitionId, Offset)> = Vec::new();
        let mut starts = Vec::new();
        let mut cached = Vec::with_capacity(requests.len());
        let mut index = self.shard.write_index();
        for request in requests {
            let header = &request.header;
            let partition = header.partition;
            let facts = BatchFacts::of(&request.batch);
            let view = self.views.entry(partition).or_default();
            apply_to_view(view, header, &request.state, &facts)?;
            let places = index.entry(partition).or_default();
            match header.kind {
                EntryKind::Entry => {
                    let position = self.active.position;
                    places.push(&self.active.file, header, position, facts.max_timestamp);
                    let entry = Entry {
                        base: header.base_offset,
                        end: header.end_offset(),
                        batch: request.batch.clone(),
                    };
                    cached.push((partition, entry));
                    match ends.last_mut() {
                        Some(last) if last.0 == partition => last.1 = header.end_offset(),
                        _ => ends.push((partition, header.end_offset())),
                    }
                }
                EntryKind::LogStart => {
                    places.advance_start(view.log_start);
                    self.shard.tail.advance_start(partition, view.log_start);
                    starts.push((partition, view.log_start));
                }
                EntryKind::Truncate => {
                    places.truncate(header.base_offset);
                    self.shard.tail.forget(partition);
                    cached.retain(|(other, _)| *other != partition);
                }
                EntryKind::Delete => {
                    index.remove(&partition);
                    self.views.remove(&partition);
                    self.shard.tail.forget(partition);
                    cached.retain(|(other, _)| *other != partition);
                    ends.retain(|(other, _)| *other != partition);
                }
            }
            self.active.position += header.entry_len() as u64;
        }
        drop(index);
        self.shard.tail.extend(cached.into_iter());
        self.events.durable(self.shard.id, &ends);
        for (partition, start) in starts {
            self.events.log_start(partition, start);
        }
        Ok(())
    }

    /// Whether every request may follow what is durable: what replay would refuse must never be
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
                    trial.apply(&request.header, &[], None).map_err(|_| refuse())?;
                }
            }
        }
        Ok(())
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
        let mut files = self.shard.lock_files();
        files.insert(next.identity.first_seq, next.clone());
        drop(files);
        let active = Active { file: next, position: 0, begun: false };
        self.shard.note_active(&active);
        Some(std::mem::replace(&mut self.active, active).file)
    }

    fn check_space(&mut self) {
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
        shard.queue.open(ends_of(&self.views));
        self.events.recovered(shard.id, &self.views);
    }

    /// Closes the active file so that it opens without repair and without replay.
    fn close(self) {
        let file = &self.active.file;
        let checkpoint = self.active.begun.then(|| Checkpoint {
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
