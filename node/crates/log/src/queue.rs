//! The bounded queue in front of a shard's writer.
//!
//! Appends go in under a short lock and are checked there: what the writer takes out can be
//! written as it is. An idle writer blocks; nothing polls.

use crate::api::{AppendError, AppendRequest};
use crate::landing::LANDING_MAX;
use crate::stats::ShardState;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use weir_core::entry::{EntryHeader, EntryKind, decode_state};
use weir_core::record::BatchHeader;
use weir_core::{LeaderEpoch, Offset, PartitionId};

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) appends_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) commit_bytes_max: usize,
    /// With so many bytes waiting, a commit is prepared while the one before it is under way.
    pub(crate) ahead_bytes_min: usize,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    waiting: VecDeque<AppendRequest>,
    bytes: usize,
    /// When the first of the waiting wants to be committed.
    due: Option<Instant>,
    /// Where each partition's log ends and in which epoch, what waits included.
    ends: HashMap<PartitionId, (Offset, LeaderEpoch)>,
    /// Somebody found the active file unusable.
    failure: Option<String>,
    closing: bool,
    /// The writer sleeps and must be woken for work.
    sleeping: bool,
    /// How many commits are under way on other threads, and how long they are: what waits cannot be
    /// synced before them.
    landing: (usize, usize),
}

/// Whether appends are let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    NotStarted,
    Open,
    DiskFull,
    Offline(String),
    Closed,
}

/// What the writer is to do next.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Commit these, in this order.
    Commit(Vec<AppendRequest>),
    /// The active file failed a reader.
    Fail(String),
    /// Nothing waits and nothing more will come.
    Close,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Queue {
        Queue {
            limits,
            state: Mutex::new(State {
                gate: Gate::NotStarted,
                waiting: VecDeque::new(),
                bytes: 0,
                due: None,
                ends: HashMap::new(),
                failure: None,
                closing: false,
                sleeping: false,
                landing: (0, 0),
            }),
            wake: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an append in.
    pub(crate) fn push(&self, request: AppendRequest) -> Result<(), AppendError> {
        let len = check(&request)?;
        let mut state = self.state();
        let records = request.header.kind == EntryKind::Entry;
        match &state.gate {
            Gate::Open => {}
            // What frees space is let through.
            Gate::DiskFull if !records => {}
            Gate::DiskFull => return Err(AppendError::DiskFull),
            Gate::NotStarted | Gate::Closed => return Err(AppendError::Closed),
            Gate::Offline(reason) => {
                let reason = reason.clone();
                return Err(AppendError::Offline { reason });
            }
        }
        let full = state.waiting.len() >= self.limits.appends_max
            || (state.bytes + len > self.limits.bytes_max && !state.waiting.is_empty());
        if full {
            return Err(AppendError::QueueFull);
        }
        state.check_and_move_end(&request)?;
        let due = Instant::now() + request.linger;
        let earlier = state.due.is_none_or(|first| due < first);
        if earlier {
            state.due = Some(due);
        }
        state.bytes += len;
        state.waiting.push_back(request);
        let news = match state.landing.0 > 0 {
            true => !state.waits_for_more(&self.limits),
            false => earlier || state.bytes >= self.limits.commit_bytes_max,
        };
        if state.sleeping && news {
            state.sleeping = false;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for something to do. While a commit is under way elsewhere, what waits is taken only
    /// once that is enough to be worth preparing ahead: what comes until then goes along.
    pub(crate) fn next_turn(&self) -> Turn {
        let mut state = self.state();
        loop {
            if let Some(reason) = state.failure.take() {
                return Turn::Fail(reason);
            }
            let wait = match state.due {
                None if state.closing => return Turn::Close,
                None => None,
                Some(_) if state.waits_for_more(&self.limits) => None,
                Some(due) => {
                    let wait = due.saturating_duration_since(Instant::now());
                    let full = state.bytes >= self.limits.commit_bytes_max;
                    if full || state.closing || wait.is_zero() {
                        return Turn::Commit(state.drain(self.limits.commit_bytes_max));
                    }
                    Some(wait)
                }
            };
            state.sleeping = true;
            state = match wait {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let woken = self.wake.wait_timeout(state, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.sleeping = false;
        }
    }

    /// Sleeps for `wait`, or until the queue is closed. Returns whether it is.
    pub(crate) fn sleep(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let mut state = self.state();
        while !state.closing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.wake.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Refuses appends for `reason` and throws away what waits: its fate is the caller's to tell.
    pub(crate) fn go_offline(&self, reason: &str) {
        let mut state = self.state();
        state.gate = Gate::Offline(reason.to_owned());
        state.bytes = 0;
        state.due = None;
        state.failure = None;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        // Outside the lock: dropping a permit may wake its owner.
        drop(waiting);
    }

    /// Lets appends in; `ends` says where each partition's log ends.
    pub(crate) fn open(&self, ends: HashMap<PartitionId, (Offset, LeaderEpoch)>) {
        let mut state = self.state();
        state.ends = ends;
        // What failed was the file before.
        state.failure = None;
        if !state.closing {
            state.gate = Gate::Open;
        }
    }

    /// Refuses or lets in appends of records, as the disk has space.
    pub(crate) fn set_disk_full(&self, full: bool) {
        let mut state = self.state();
        match (&state.gate, full) {
            (Gate::Open, true) => state.gate = Gate::DiskFull,
            (Gate::DiskFull, false) => state.gate = Gate::Open,
            _ => {}
        }
    }

    /// Tells the writer that the active file is unusable.
    pub(crate) fn report_failure(&self, reason: String) {
        let mut state = self.state();
        state.failure = Some(reason);
        state.sleeping = false;
        self.wake.notify_one();
    }

    /// Refuses appends; the writer commits what waits and ends.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        state.gate = Gate::Closed;
        state.sleeping = false;
        self.wake.notify_all();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Whether enough waits to be worth preparing while another commit is under way.
    pub(crate) fn is_worth_preparing(&self) -> bool {
        self.state().bytes >= self.limits.ahead_bytes_min
    }

    /// Notes that a commit of so many bytes is under way on other threads.
    pub(crate) fn landing(&self, bytes: usize) {
        let mut state = self.state();
        state.landing = (state.landing.0 + 1, state.landing.1 + bytes);
    }

    /// Notes that it is not any more.
    pub(crate) fn landed(&self, bytes: usize) {
        let mut state = self.state();
        let (commits, total) = state.landing;
        state.landing = (commits.saturating_sub(1), total.saturating_sub(bytes));
        if state.sleeping && state.due.is_some() && !state.waits_for_more(&self.limits) {
            state.sleeping = false;
            self.wake.notify_one();
        }
    }

    /// How many appends wait, and the state that the gate stands for.
    pub(crate) fn stats(&self) -> (usize, ShardState) {
        let state = self.state();
        let gate = match &state.gate {
            Gate::NotStarted | Gate::Open => ShardState::Online,
            Gate::DiskFull => ShardState::DiskFull,
            Gate::Offline(reason) => ShardState::Offline { reason: reason.clone() },
            Gate::Closed => ShardState::Offline { reason: "closed".to_owned() },
        };
        (state.waiting.len(), gate)
    }
}

impl State {
    /// Whether what waits should wait longer, for what the commits under way will bring: nothing
    /// can be synced before them, and small commits cost as much as large ones. Half of what is
    /// under way keeps the commits about equally long.
    fn waits_for_more(&self, limits: &QueueLimits) -> bool {
        let (commits, bytes) = self.landing;
        let enough = limits.ahead_bytes_min.max(bytes / 2).min(limits.commit_bytes_max);
        match commits {
            0 => false,
            LANDING_MAX.. => !self.closing,
            _ => !self.closing && self.bytes < enough,
        }
    }

    fn check_and_move_end(&mut self, request: &AppendRequest) -> Result<(), AppendError> {
        let header = &request.header;
        let known = self.ends.get(&header.partition).copied();
        let (expected, epoch) = known.unwrap_or_default();
        let got = header.base_offset;
        match header.kind {
            EntryKind::Entry => {
                if got != expected {
                    return Err(AppendError::NotDense { expected, got });
                }
                if header.epoch < epoch {
                    return Err(AppendError::Malformed);
                }
                let end = (header.end_offset(), header.epoch);
                self.ends.insert(header.partition, end);
            }
            EntryKind::LogStart if got > expected => return Err(AppendError::Malformed),
            EntryKind::LogStart => {}
            EntryKind::Truncate if got > expected => return Err(AppendError::Malformed),
            EntryKind::Truncate => {
                // The epoch before the cut is not known here; the view checks it.
                let cut = (got, LeaderEpoch::default());
                self.ends.insert(header.partition, cut);
            }
            EntryKind::Delete => {
                self.ends.remove(&header.partition);
            }
        }
        Ok(())
    }

    /// Takes what one commit may hold: the front of the queue, at least one append.
    fn drain(&mut self, bytes_max: usize) -> Vec<AppendRequest> {
        let mut taken = Vec::with_capacity(self.waiting.len());
        let mut bytes = 0;
        while let Some(first) = self.waiting.front() {
            let len = first.entry_len();
            if bytes + len > bytes_max && !taken.is_empty() {
                break;
            }
            bytes += len;
            taken.extend(self.waiting.pop_front());
        }
        self.bytes -= bytes;
        // What is left was there when this group was due, so it is due.
        self.due = (!self.waiting.is_empty()).then(Instant::now);
        taken
    }
}

/// The append's length, if it can be read back: what replay or a reader would refuse must never
/// be written. The batch's checksum is the caller's to check.
fn check(request: &AppendRequest) -> Result<usize, AppendError> {
    let header = &request.header;
    let fits = header.state_len as usize == request.state.len()
        && header.source_len as usize == request.source.len()
        && header.batch_len as usize == request.batch.len();
    if !fits {
        return Err(AppendError::Malformed);
    }
    let envelope = header.encode(&request.state, &request.source);
    let bounded = EntryHeader::decode_unchecked(&envelope).is_ok();
    let state = request.state.is_empty() || decode_state(&request.state).is_ok();
    let batch = request.batch.is_empty()
        || BatchHeader::decode(&request.batch).is_ok_and(|batch| {
            batch.total_bytes() == request.batch.len()
                && batch.base_offset == header.base_offset
                && batch.end_offset() == header.end_offset()
        });
    match bounded && state && batch {
        true => Ok(header.entry_len()),
        false => Err(AppendError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what waits goes at once if nothing is under way; behind one commit once it is enough,
    /// measured by that commit; behind two never; and at once when the queue closes.
    #[test]
    fn waiting_for_more() {
        let limits = QueueLimits {
            appends_max: 10,
            bytes_max: 10_000,
            commit_bytes_max: 1_000,
            ahead_bytes_min: 100,
        };
        let waits = |bytes, landing, closing| {
            let queue = Queue::new(limits);
            let mut state = queue.state();
            (state.bytes, state.landing, state.closing) = (bytes, landing, closing);
            state.waits_for_more(&limits)
        };
        for (bytes, landing, expected) in [
            (1, (0, 0), false),
            (99, (1, 10), true),
            (100, (1, 10), false),
            (399, (1, 800), true),
            (400, (1, 800), false),
            (1_000, (1, 4_000), false),
            (5_000, (LANDING_MAX, 2), true),
        ] {
            assert_eq!(waits(bytes, landing, false), expected, "{bytes} behind {landing:?}");
            assert!(!waits(bytes, landing, true), "{bytes} at the end");
        }
    }
}
