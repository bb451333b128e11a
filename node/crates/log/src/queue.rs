//! The bounded queue in front of a shard's writer.
//!
//! Appends go in under a short lock and are checked there: what the writer takes out can be
//! written as it is. An idle writer blocks; nothing polls.
//!
//! Cuts and asked views wait in the same line, so that each comes after what was handed in before
//! it. The writer takes them one by one.

use crate::api::{AppendError, AppendRequest};
use crate::cut::{Cut, CutTo};
use crate::landing::LANDING_MAX;
use crate::log::control;
use crate::stats::ShardState;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use weir_core::entry::{EntryHeader, EntryKind, decode_state};
use weir_core::partition::epochs;
use weir_core::partition::messages::EpochStart;
use weir_core::partition::view::PartitionView;
use weir_core::record::BatchHeader;
use weir_core::{Offset, PartitionId};

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
    waiting: VecDeque<Work>,
    bytes: usize,
    /// When the first of the waiting wants to be committed.
    due: Option<Instant>,
    /// Where each partition's log ends, what waits included.
    ends: HashMap<PartitionId, LogEnd>,
    /// Somebody found the active file unusable.
    failure: Option<String>,
    closing: bool,
    /// The writer sleeps and must be woken for work.
    sleeping: bool,
    /// How many commits are under way on other threads, and how long they are: what waits cannot be
    /// synced before them.
    landing: (usize, usize),
}

/// Where a partition's log ends once what waits is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEnd {
    end: Offset,
    epochs: Vec<EpochStart>,
    /// Cuts that wait or are being done.
    cuts: usize,
}

impl LogEnd {
    pub(crate) fn of(view: &PartitionView) -> LogEnd {
        LogEnd { end: view.log_end, epochs: view.epochs.clone(), cuts: 0 }
    }

    fn cut(&mut self, cut: &Cut) {
        self.end = cut.end();
        self.cuts += 1;
        match &cut.to {
            CutTo::End(end) => epochs::cut(&mut self.epochs, *end),
            CutTo::View(view) => self.epochs.clone_from(&view.epochs),
        }
    }
}

/// Something that waits for the writer.
#[derive(Debug)]
pub(crate) enum Work {
    Append(AppendRequest),
    Cut(Cut),
    View(PartitionId, Option<Offset>),
}

impl Work {
    /// Bytes that it counts for.
    fn bytes(&self) -> usize {
        match self {
            Work::Append(request) => request.entry_len(),
            Work::Cut(cut) => cut.bytes(),
            Work::View(..) => 0,
        }
    }

    fn linger(&self) -> Duration {
        match self {
            Work::Append(request) => request.linger,
            Work::Cut(_) | Work::View(..) => Duration::ZERO,
        }
    }

    /// Whether it needs space of a kind that a full disk does not have.
    fn grows(&self) -> bool {
        matches!(self, Work::Append(request) if request.header.kind == EntryKind::Entry)
    }
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
    /// Cut a log.
    Cut(Cut),
    /// Tell what a log holds, or held when it ended there.
    View(PartitionId, Option<Offset>),
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
        check(&request)?;
        self.take_in(Work::Append(request))
    }

    /// Takes a cut in.
    pub(crate) fn push_cut(&self, cut: Cut) -> Result<(), AppendError> {
        check_offset(cut.end())?;
        self.take_in(Work::Cut(cut))
    }

    /// Takes a question in: about the log as it is, or as it was when it ended at `at`.
    pub(crate) fn push_view(
        &self,
        partition: PartitionId,
        at: Option<Offset>,
    ) -> Result<(), AppendError> {
        self.take_in(Work::View(partition, at))
    }

    fn take_in(&self, work: Work) -> Result<(), AppendError> {
        let len = work.bytes();
        let mut state = self.state();
        match &state.gate {
            Gate::Open => {}
            // What frees space is let through.
            Gate::DiskFull if !work.grows() => {}
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
        match &work {
            Work::Append(request) => state.check_and_move_end(request)?,
            Work::Cut(cut) => state.check_and_cut(cut)?,
            Work::View(..) => {}
        }
        let due = Instant::now() + work.linger();
        let earlier = state.due.is_none_or(|first| due < first);
        if earlier {
            state.due = Some(due);
        }
        state.bytes += len;
        state.waiting.push_back(work);
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
                        return state.drain(self.limits.commit_bytes_max);
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
    pub(crate) fn open(&self, ends: HashMap<PartitionId, LogEnd>) {
        let mut state = self.state();
        state.ends = ends;
        // What failed was the file before.
        state.failure = None;
        if !state.closing {
            state.gate = Gate::Open;
        }
    }

    /// A cut is done.
    pub(crate) fn end_cut(&self, partition: PartitionId) {
        if let Some(end) = self.state().ends.get_mut(&partition) {
            end.cuts = end.cuts.saturating_sub(1);
        }
    }

    /// A cut cannot be done: the log still is what `view` says. Returns what was handed in behind
    /// the cut and cannot follow now; another cut or a deletion behind it stays.
    pub(crate) fn undo_cut(
        &self,
        partition: PartitionId,
        view: Option<&PartitionView>,
    ) -> Vec<Work> {
        let mut state = self.state();
        let mut dropped = Vec::new();
        let mut left = VecDeque::with_capacity(state.waiting.len());
        let mut follows_cut = true;
        for work in std::mem::take(&mut state.waiting) {
            let ends_it = match &work {
                Work::Append(request) if request.header.partition == partition => {
                    request.header.kind == EntryKind::Delete
                }
                Work::Cut(cut) => cut.partition == partition,
                _ => false,
            };
            follows_cut &= !ends_it;
            let append = matches!(&work, Work::Append(r) if r.header.partition == partition);
            match append && follows_cut {
                true => dropped.push(work),
                false => left.push_back(work),
            }
        }
        state.bytes -= dropped.iter().map(Work::bytes).sum::<usize>();
        state.waiting = left;
        if state.waiting.is_empty() {
            state.due = None;
        }
        match follows_cut {
            true => {
                let end = view.map(LogEnd::of).unwrap_or_default();
                state.ends.insert(partition, end);
            }
            false => {
                drop(state);
                self.end_cut(partition);
            }
        }
        dropped
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
        let got = header.base_offset;
        let known = self.ends.get_mut(&header.partition);
        let expected = known.as_ref().map_or(Offset::ZERO, |known| known.end);
        match header.kind {
            EntryKind::Entry if got != expected => {
                return Err(AppendError::NotDense { expected, got });
            }
            EntryKind::Entry => {
                let known = match known {
                    Some(known) => known,
                    None => self.ends.entry(header.partition).or_default(),
                };
                if known.epochs.last().is_some_and(|&(last, _)| header.epoch < last) {
                    return Err(AppendError::Malformed);
                }
                known.end = header.end_offset();
                epochs::note(&mut known.epochs, header.epoch, got);
            }
            EntryKind::LogStart if got > expected => return Err(AppendError::Malformed),
            EntryKind::LogStart => match known {
                // It is of the log before the cut.
                Some(known) if known.cuts > 0 => return Err(AppendError::QueueFull),
                Some(known) => epochs::advance(&mut known.epochs, got),
                None => {}
            },
            // Cuts do not come this way.
            EntryKind::Truncate => return Err(AppendError::Malformed),
            EntryKind::Delete => {
                self.ends.remove(&header.partition);
            }
        }
        Ok(())
    }

    fn check_and_cut(&mut self, cut: &Cut) -> Result<(), AppendError> {
        let known = self.ends.get(&cut.partition).map_or(Offset::ZERO, |known| known.end);
        if matches!(cut.to, CutTo::End(end) if end > known) {
            return Err(AppendError::Malformed);
        }
        self.ends.entry(cut.partition).or_default().cut(cut);
        Ok(())
    }

    /// Takes what one turn may do: a cut or a question, or of the appends before the next of those
    /// what one commit may hold, and at least one.
    fn drain(&mut self, bytes_max: usize) -> Turn {
        let mut taken = Vec::with_capacity(self.waiting.len());
        let mut bytes = 0;
        let mut other = None;
        while let Some(first) = self.waiting.pop_front() {
            let len = first.bytes();
            match first {
                Work::Append(request) if taken.is_empty() || bytes + len <= bytes_max => {
                    taken.push(request);
                }
                Work::Cut(cut) if taken.is_empty() => other = Some(Turn::Cut(cut)),
                Work::View(partition, at) if taken.is_empty() => {
                    other = Some(Turn::View(partition, at));
                }
                left => {
                    self.waiting.push_front(left);
                    break;
                }
            }
            bytes += len;
            if other.is_some() {
                break;
            }
        }
        self.bytes -= bytes;
        // What is left was there when this group was due, so it is due.
        self.due = (!self.waiting.is_empty()).then(Instant::now);
        other.unwrap_or(Turn::Commit(taken))
    }
}

/// Whether a log may end there: what replay would refuse must never be written.
fn check_offset(end: Offset) -> Result<(), AppendError> {
    let header = control(EntryKind::Truncate, PartitionId(0), end).header;
    match EntryHeader::decode_unchecked(&header.encode(&[], &[])) {
        Ok(_) => Ok(()),
        Err(_) => Err(AppendError::Malformed),
    }
}

/// Whether the append can be read back: what replay or a reader would refuse must never be
/// written. The batch's checksum is the caller's to check.
fn check(request: &AppendRequest) -> Result<(), AppendError> {
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
                && (batch.base_offset, batch.epoch) == (header.base_offset, header.epoch)
                && batch.end_offset() == header.end_offset()
        });
    match bounded && state && batch {
        true => Ok(()),
        false => Err(AppendError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::LeaderEpoch;

    const P: PartitionId = PartitionId(1);

    fn queue() -> Queue {
        let queue = Queue::new(QueueLimits {
            appends_max: 10,
            bytes_max: 10_000,
            commit_bytes_max: 1_000,
            ahead_bytes_min: 100,
        });
        queue.open(HashMap::new());
        queue
    }

    /// An entry without records.
    fn entry(partition: PartitionId, base: i64, epoch: i32) -> AppendRequest {
        let mut request = control(EntryKind::LogStart, partition, Offset(base));
        request.header.kind = EntryKind::Entry;
        request.header.offset_count = 1;
        request.header.epoch = LeaderEpoch(epoch);
        request
    }

    fn cut(end: i64) -> Cut {
        Cut { partition: P, to: CutTo::End(Offset(end)) }
    }

    /// What the writer is given, turn by turn, until nothing waits: bases of appends, and words.
    fn turns(queue: &Queue) -> Vec<String> {
        let mut turns = Vec::new();
        while queue.stats().0 > 0 {
            turns.push(match queue.next_turn() {
                Turn::Commit(requests) => {
                    let base = |r: &AppendRequest| {
                        format!("{}:{}", r.header.partition.0, r.header.base_offset)
                    };
                    requests.iter().map(base).collect::<Vec<_>>().join(" ")
                }
                Turn::Cut(cut) => format!("cut {}", cut.end()),
                Turn::View(partition, _) => format!("view {}", partition.0),
                other => format!("{other:?}"),
            });
        }
        turns
    }

    /// Goal: cuts and questions are turns of their own, in their place; what is pushed behind a cut
    /// must follow it, in offsets and epochs; a log start of the log before the cut is refused.
    #[test]
    fn cuts_wait_in_line() {
        let queue = queue();
        for (base, epoch) in [(0, 1), (1, 1), (2, 3)] {
            queue.push(entry(P, base, epoch)).unwrap();
        }
        queue.push_view(P, None).unwrap();
        assert_eq!(queue.push_cut(cut(4)), Err(AppendError::Malformed));
        queue.push_cut(cut(2)).unwrap();
        let late = queue.push(entry(P, 3, 3)).unwrap_err();
        assert_eq!(late, AppendError::NotDense { expected: Offset(2), got: Offset(3) });
        assert_eq!(queue.push(entry(P, 2, 0)), Err(AppendError::Malformed));
        queue.push(entry(P, 2, 2)).unwrap();
        let start = || control(EntryKind::LogStart, P, Offset(1));
        assert_eq!(queue.push(start()), Err(AppendError::QueueFull));
        queue.push(entry(PartitionId(2), 0, 1)).unwrap();
        assert_eq!(turns(&queue), ["1:0 1:1 1:2", "view 1", "cut 2", "1:2 2:0"]);
        queue.end_cut(P);
        queue.push(start()).unwrap();
        let begin = PartitionView { log_end: Offset(9), ..PartitionView::default() };
        queue.push_cut(Cut { partition: P, to: CutTo::View(Box::new(begin)) }).unwrap();
        queue.push(entry(P, 9, 0)).unwrap();
        assert_eq!(turns(&queue), ["1:1", "cut 9", "1:9"]);
    }

    /// Goal: a cut that failed takes along what was handed in behind it, of its partition and up to
    /// the next cut, and the log goes on where it ended.
    #[test]
    fn a_cut_that_failed() {
        let view = PartitionView {
            log_end: Offset(3),
            epochs: vec![(LeaderEpoch(5), Offset(0))],
            ..PartitionView::default()
        };
        for next_cut in [false, true] {
            let queue = queue();
            queue.open(HashMap::from([(P, LogEnd::of(&view))]));
            queue.push_cut(cut(2)).unwrap();
            assert!(matches!(queue.next_turn(), Turn::Cut(_)));
            queue.push(entry(P, 2, 7)).unwrap();
            queue.push(entry(PartitionId(2), 0, 1)).unwrap();
            queue.push_view(P, None).unwrap();
            queue.push(entry(P, 3, 7)).unwrap();
            if next_cut {
                queue.push_cut(cut(1)).unwrap();
                queue.push(entry(P, 1, 8)).unwrap();
            }
            let dropped = queue.undo_cut(P, Some(&view));
            assert_eq!(dropped.len(), 2);
            if next_cut {
                assert_eq!(turns(&queue), ["2:0", "view 1", "cut 1", "1:1"]);
                assert_eq!(queue.state().ends[&P].cuts, 1);
                assert_eq!(queue.state().ends[&P].end, Offset(2));
            } else {
                assert_eq!(turns(&queue), ["2:0", "view 1"]);
                assert_eq!(queue.state().ends[&P], LogEnd::of(&view));
            }
            assert_eq!(queue.state().bytes, 0);
        }
    }

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
