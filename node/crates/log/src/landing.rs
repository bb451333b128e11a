//! From committed to acknowledged: syncing a commit, making it visible, reporting it.

use crate::api::AppendRequest;
use crate::db::{DbError, failed};
use crate::events::LogEvents;
use crate::file::LogFile;
use crate::shard::Shard;
use crate::syncing::FileSync;
use crate::tail::Entry;
use crate::witness::Acknowledged;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;
use weir_core::entry::EntryKind;
use weir_core::{Offset, PartitionId, TimestampMs};

/// What the view and the batch said of an item when it was applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied {
    pub(crate) max_timestamp: TimestampMs,
    /// The partition's log start after the item.
    pub(crate) log_start: Offset,
}

/// A commit that is written and perhaps not synced.
pub(crate) struct Landing {
    pub(crate) shard: Arc<Shard>,
    pub(crate) events: Arc<dyn LogEvents>,
    pub(crate) file: Arc<LogFile>,
    pub(crate) sync: Arc<FileSync>,
    /// Where in the file's stream it begins.
    pub(crate) position: u64,
    /// What was committed, by partition.
    pub(crate) requests: Vec<AppendRequest>,
    /// One for each request.
    pub(crate) applied: Vec<Applied>,
    pub(crate) started: Instant,
}

impl Landing {
    /// Returns once the commit is durable and reported.
    pub(crate) fn land(mut self) -> Result<(), DbError> {
        self.sync.settle().map_err(failed)?;
        let bytes: usize = self.requests.iter().map(AppendRequest::entry_len).sum();
        let seq = self.file.identity.first_seq;
        self.shard.witness.note(Acknowledged { seq, end: self.position + bytes as u64 });
        self.publish();
        self.shard.metrics.record_commit(self.requests.len(), bytes, self.started.elapsed());
        Ok(())
    }

    /// Makes what was committed visible, and reports it.
    fn publish(&mut self) {
        let mut ends: Vec<(PartitionId, Offset)> = Vec::new();
        let mut starts = Vec::new();
        let mut cached = Vec::with_capacity(self.requests.len());
        let mut index = self.shard.write_index();
        for (request, applied) in self.requests.iter().zip(&self.applied) {
            let header = &request.header;
            let partition = header.partition;
            match header.kind {
                EntryKind::Entry => {
                    let places = index.entry(partition).or_default();
                    places.push(&self.file, header, self.position, applied.max_timestamp);
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
                    index.entry(partition).or_default().advance_start(applied.log_start);
                    self.shard.tail.advance_start(partition, applied.log_start);
                    starts.push((partition, applied.log_start));
                }
                EntryKind::Truncate => {
                    index.entry(partition).or_default().truncate(header.base_offset);
                    self.shard.tail.forget(partition);
                    cached.retain(|(other, _)| *other != partition);
                }
                EntryKind::Delete => {
                    index.remove(&partition);
                    self.shard.tail.forget(partition);
                    cached.retain(|(other, _)| *other != partition);
                    ends.retain(|(other, _)| *other != partition);
                }
            }
            self.position += header.entry_len() as u64;
        }
        drop(index);
        self.shard.tail.extend(cached.into_iter());
        self.events.durable(self.shard.id, &ends);
        for (partition, start) in starts {
            self.events.log_start(partition, start);
        }
    }
}

/// A thread that lands commits, one after the other, while the writer prepares the next.
pub(crate) struct Lander {
    /// `None` once the thread is to end.
    commits: Option<SyncSender<Landing>>,
    results: Receiver<Result<(), DbError>>,
    thread: Option<JoinHandle<()>>,
}

impl Lander {
    pub(crate) fn start(shard: u16) -> std::io::Result<Lander> {
        let (commits, taken) = sync_channel::<Landing>(1);
        let (report, results) = sync_channel(1);
        let body = move || {
            while let Ok(landing) = taken.recv() {
                if report.send(landing.land()).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(format!("log-sync-{shard}")).spawn(body)?;
        Ok(Lander { commits: Some(commits), results, thread: Some(thread) })
    }

    /// Hands a commit over. Its result must be waited for before the next one is. Gives the commit
    /// back if the thread is gone.
    pub(crate) fn hand_over(&self, landing: Landing) -> Result<(), Landing> {
        match &self.commits {
            Some(commits) => commits.send(landing).map_err(|refused| refused.0),
            None => Err(landing),
        }
    }

    /// Waits for what was handed over.
    pub(crate) fn wait(&self) -> Result<(), DbError> {
        let gone = |_| Err(DbError::Failed("the thread that syncs commits is gone".to_owned()));
        self.results.recv().unwrap_or_else(gone)
    }
}

impl Drop for Lander {
    fn drop(&mut self) {
        self.commits = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that syncs commits panicked");
        }
    }
}
