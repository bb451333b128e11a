//! From committed to acknowledged: writing and syncing a commit, making it visible, reporting it.
//!
//! The writer does this itself, or leaves it to two threads: the first has the disk do one commit
//! after the other without a pause, the second publishes the one that is done meanwhile.

use crate::api::AppendRequest;
use crate::db::{DbError, failed};
use crate::entries::LoggedEntry;
use crate::events::LogEvents;
use crate::file::LogFile;
use crate::index::Bounds;
use crate::shard::Shard;
use crate::syncing::Owed;
use crate::witness::Acknowledged;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
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
    pub(crate) owed: Owed,
    /// Where in the file's stream it begins.
    pub(crate) position: u64,
    /// What was committed, by partition.
    pub(crate) requests: Vec<AppendRequest>,
    /// One for each request.
    pub(crate) applied: Vec<Applied>,
    /// What the view says after the cut that the only request is, if it is one.
    pub(crate) cut: Option<Bounds>,
    pub(crate) started: Instant,
    /// Set while other threads have it.
    pub(crate) flight: Option<Flight>,
}

/// Tells the queue for how long a commit is under way on other threads.
pub(crate) struct Flight {
    shard: Arc<Shard>,
    bytes: usize,
}

impl Flight {
    fn begin(landing: &Landing) -> Flight {
        let (shard, bytes) = (landing.shard.clone(), landing.bytes());
        shard.queue.landing(bytes);
        Flight { shard, bytes }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shard.queue.landed(self.bytes);
    }
}

impl Landing {
    /// Returns once the commit is durable and reported.
    pub(crate) fn land(self) -> Result<(), DbError> {
        self.settle()?;
        self.report();
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.requests.iter().map(AppendRequest::entry_len).sum()
    }

    /// Returns once the commit is durable.
    fn settle(&self) -> Result<(), DbError> {
        self.owed.settle().map_err(failed)
    }

    /// Makes a durable commit known.
    fn report(mut self) {
        let bytes = self.bytes();
        let seq = self.file.identity.first_seq;
        self.shard.witness.note(Acknowledged { seq, end: self.position + bytes as u64 });
        self.publish();
        self.shard.metrics.record_commit(self.requests.len(), bytes, self.started.elapsed());
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
                    let entry = LoggedEntry {
                        header: header.clone(),
                        state: request.state.clone(),
                        source: request.source.clone(),
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
                    if let Some(bounds) = &self.cut {
                        index.entry(partition).or_default().cut(bounds);
                    }
                    self.shard.tail.forget(partition);
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

/// Most commits that are under way on the lander's threads: one being synced, one before or behind.
pub(crate) const LANDING_MAX: usize = 2;

/// Threads that land commits, one after the other, while the writer prepares the next.
pub(crate) struct Lander {
    /// `None` once the threads are to end.
    commits: Option<SyncSender<Box<Landing>>>,
    results: Receiver<Result<(), DbError>>,
    threads: Vec<JoinHandle<()>>,
    /// The ends of what was handed over and not waited for, in the file's stream.
    ends: VecDeque<u64>,
    /// The end of the last that was waited for and is durable, until it is asked for.
    durable: Option<u64>,
}

impl Lander {
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(shard: u16) -> std::io::Result<Lander> {
        let (commits, taken) = sync_channel::<Box<Landing>>(LANDING_MAX);
        let (pass, passed) = sync_channel::<(Box<Landing>, Result<(), DbError>)>(LANDING_MAX);
        let (report, results) = sync_channel(LANDING_MAX);
        let spawn = |name: &str| Builder::new().name(format!("{name}-{shard}"));
        let mut lander = Lander {
            commits: Some(commits),
            results,
            threads: Vec::new(),
            ends: VecDeque::new(),
            durable: None,
        };
        lander.threads.push(spawn("log-sync").spawn(move || {
            while let Ok(landing) = taken.recv() {
                let settled = landing.settle();
                if pass.send((landing, settled)).is_err() {
                    return;
                }
            }
        })?);
        lander.threads.push(spawn("log-land").spawn(move || {
            while let Ok((landing, settled)) = passed.recv() {
                if let Err(error) = &settled {
                    // The writer may sleep.
                    landing.shard.queue.report_failure(error.to_string());
                }
                if report.send(settled.map(|()| landing.report())).is_err() {
                    return;
                }
            }
        })?);
        Ok(lander)
    }

    /// Hands over a commit that ends at `end` of the file's stream. At most [`LANDING_MAX`] may be
    /// under way. Gives the commit back if a thread is gone.
    pub(crate) fn hand_over(
        &mut self,
        mut landing: Box<Landing>,
        end: u64,
    ) -> Result<(), Box<Landing>> {
        let Some(commits) = &self.commits else {
            return Err(landing);
        };
        landing.flight = Some(Flight::begin(&landing));
        match commits.send(landing) {
            Ok(()) => {
                self.ends.push_back(end);
                Ok(())
            }
            Err(mut refused) => {
                refused.0.flight = None;
                Err(refused.0)
            }
        }
    }

    /// Waits until at most `left` commits are under way, and takes note of those that are done
    /// anyway.
    ///
    /// # Errors
    /// A commit failed; it no longer counts as under way. Those behind it failed, too, and remain
    /// to be waited for.
    pub(crate) fn wait(&mut self, left: usize) -> Result<(), DbError> {
        while let Some(&end) = self.ends.front() {
            let result = match self.ends.len() > left {
                true => self.results.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.results.try_recv(),
            };
            if let Err(TryRecvError::Empty) = result {
                break;
            }
            self.ends.pop_front();
            let gone =
                |_| Err(DbError::Failed("the threads that land commits are gone".to_owned()));
            result.unwrap_or_else(gone)?;
            self.durable = Some(end);
        }
        Ok(())
    }

    /// The end of the last commit that was found durable since this was asked.
    pub(crate) fn take_durable(&mut self) -> Option<u64> {
        self.durable.take()
    }

    /// Whether nothing is under way, as far as is known.
    pub(crate) fn is_idle(&self) -> bool {
        self.ends.is_empty()
    }
}

impl Drop for Lander {
    fn drop(&mut self) {
        self.commits = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that lands commits panicked");
            }
        }
    }
}
