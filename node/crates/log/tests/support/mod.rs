//! What the log's tests share: entries to append, a recorder of events, a clock by hand.
#![allow(dead_code)] // Each test binary uses a part of it.

use bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use weir_core::entry::{EntryHeader, EntryKind, StateChange, encode_state};
use weir_core::partition::producers::ProducerBatch;
use weir_core::partition::view::PartitionView;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch};
use weir_core::{LeaderEpoch, Offset, PartitionId, ProducerId, TimestampMs};
use weir_log::{
    AppendRequest, Clock, CutError, Disk, Log, LogConfig, LogEvents, LoggedEntry, ReadError,
};

/// How long a test waits for what must happen before it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Views = HashMap<PartitionId, PartitionView>;

/// An entry to append, built step by step.
#[derive(Clone, Debug)]
pub struct Entry {
    pub partition: u32,
    pub base: i64,
    pub epoch: i32,
    pub append_time: i64,
    /// Event time and value of each record.
    pub records: Vec<(i64, Vec<u8>)>,
    pub state: Vec<StateChange>,
    pub source: String,
    /// Producer id and base sequence.
    pub producer: Option<(i64, i32)>,
    pub linger: Duration,
}

pub fn entry(partition: u32, base: i64) -> Entry {
    Entry {
        partition,
        base,
        epoch: 1,
        append_time: 1_000,
        records: Vec::new(),
        state: Vec::new(),
        source: String::new(),
        producer: None,
        linger: Duration::ZERO,
    }
}

impl Entry {
    pub fn record(mut self, timestamp: i64, value: impl Into<Vec<u8>>) -> Entry {
        self.records.push((timestamp, value.into()));
        self
    }

    pub fn records(mut self, count: usize, bytes: usize) -> Entry {
        for n in 0..count {
            let fill = (self.base as usize + n) as u8;
            self.records.push((self.base + n as i64, vec![fill; bytes]));
        }
        self
    }

    pub fn append_time(self, append_time: i64) -> Entry {
        Entry { append_time, ..self }
    }

    pub fn epoch(self, epoch: i32) -> Entry {
        Entry { epoch, ..self }
    }

    pub fn producer(self, id: i64, sequence: i32) -> Entry {
        Entry { producer: Some((id, sequence)), ..self }
    }

    pub fn state(mut self, key: &str, value: Option<&str>) -> Entry {
        self.state.push(StateChange {
            key: Bytes::from(key.to_owned()),
            value: value.map(|value| Bytes::from(value.to_owned())),
        });
        self
    }

    /// How many offsets it takes.
    pub fn count(&self) -> u32 {
        self.records.len().max(1) as u32
    }

    pub fn end(&self) -> Offset {
        Offset(self.base).plus(self.count())
    }

    pub fn batch(&self) -> Bytes {
        if self.records.is_empty() {
            return Bytes::new();
        }
        let mut builder = BatchBuilder::new(Compression::None);
        for (timestamp, value) in &self.records {
            builder.push(TimestampMs(*timestamp), None, Some(value), NO_HEADERS).unwrap();
        }
        let (id, sequence) = self.producer.unwrap_or((-1, -1));
        let epoch = if id >= 0 { 0 } else { -1 };
        let bytes = builder.build(ProducerId(id), epoch, sequence).unwrap();
        let batch = RecordBatch::decode(bytes).unwrap();
        let batch = batch.with_base(Offset(self.base), LeaderEpoch(self.epoch));
        batch.into_bytes()
    }

    pub fn source(mut self, source: &str) -> Entry {
        source.clone_into(&mut self.source);
        self
    }

    /// As the log is to give it back.
    pub fn logged(&self) -> LoggedEntry {
        let AppendRequest { header, state, source, batch, .. } = self.request();
        LoggedEntry { header, state, source, batch }
    }

    pub fn request(&self) -> AppendRequest {
        let batch = self.batch();
        let state = encode_state(&self.state);
        let source = Bytes::from(self.source.clone());
        AppendRequest {
            header: EntryHeader {
                kind: EntryKind::Entry,
                partition: PartitionId(self.partition),
                base_offset: Offset(self.base),
                offset_count: self.count(),
                epoch: LeaderEpoch(self.epoch),
                append_time: TimestampMs(self.append_time),
                state_len: state.len() as u32,
                source_len: source.len() as u32,
                batch_len: batch.len() as u32,
            },
            state,
            source,
            batch,
            linger: self.linger,
            hold: None,
        }
    }
}

/// Applies entries to the view of the log that they were appended to.
pub fn fold<'a>(view: &mut PartitionView, entries: impl IntoIterator<Item = &'a Entry>) {
    for entry in entries {
        let producer = entry.producer.map(|(id, base_sequence)| ProducerBatch {
            id: ProducerId(id),
            epoch: 0,
            base_sequence,
            count: entry.count(),
        });
        view.apply(&entry.request().header, &entry.state, producer.as_ref()).unwrap();
    }
}

/// A view without epochs that all lie below its log. How long those stay depends on whether the
/// log start moved before or behind what followed.
pub fn without_past(view: &PartitionView) -> PartitionView {
    let mut view = view.clone();
    view.advance_log_start(view.log_start);
    view
}

/// An entry that was read, to append elsewhere.
pub fn request_of(entry: &LoggedEntry) -> AppendRequest {
    AppendRequest {
        header: entry.header.clone(),
        state: entry.state.clone(),
        source: entry.source.clone(),
        batch: entry.batch.clone(),
        linger: Duration::ZERO,
        hold: None,
    }
}

/// Remembers what the log reported.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Mutex<Seen>,
    news: Condvar,
    /// Held by whoever appends while failures may come, as a broker holds a partition's lock: see
    /// [`LogEvents`].
    pub appending: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub durable: HashMap<PartitionId, Offset>,
    pub starts: HashMap<PartitionId, Offset>,
    pub failures: Vec<String>,
    pub recoveries: usize,
    pub views: Views,
    pub commits: usize,
    /// Answers to questions for views and to cuts, by partition, in order.
    pub answers: HashMap<PartitionId, Vec<Answer>>,
}

/// What the log answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    View(PartitionView),
    Cut(PartitionView),
    Failed(CutError),
}

impl Recorder {
    pub fn new() -> Arc<Recorder> {
        Arc::default()
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until what was reported satisfies `condition`.
    pub fn wait(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Seen {
        let seen = self.seen.lock().unwrap();
        let waited = self.news.wait_timeout_while(seen, PATIENCE, |seen| !condition(seen));
        let (seen, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "waited in vain for {what}: {seen:?}");
        seen.clone()
    }

    pub fn wait_durable(&self, partition: u32, end: Offset) {
        self.wait("an append", |seen| {
            seen.durable.get(&PartitionId(partition)).is_some_and(|&durable| durable >= end)
        });
    }

    pub fn wait_start(&self, partition: u32, start: Offset) {
        self.wait("a log start", |seen| {
            seen.starts.get(&PartitionId(partition)).is_some_and(|&s| s >= start)
        });
    }

    /// How many answers a partition got so far.
    pub fn answers(&self, partition: u32) -> usize {
        self.seen().answers.get(&PartitionId(partition)).map_or(0, Vec::len)
    }

    /// Waits for the answer behind the first `before`.
    pub fn wait_answer(&self, partition: u32, before: usize) -> Answer {
        let partition = PartitionId(partition);
        let seen = self.wait("an answer", |seen| {
            seen.answers.get(&partition).is_some_and(|answers| answers.len() > before)
        });
        seen.answers[&partition][before].clone()
    }

    fn answer(&self, partition: PartitionId, answer: Answer) {
        self.note(|seen| {
            if let Answer::Cut(view) = &answer {
                // What was durable beyond it is so no longer.
                seen.durable.insert(partition, view.log_end);
            }
            seen.answers.entry(partition).or_default().push(answer);
        });
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.news.notify_all();
    }
}

impl LogEvents for Recorder {
    fn durable(&self, _shard: u16, ends: &[(PartitionId, Offset)]) {
        self.note(|seen| {
            seen.commits += 1;
            seen.durable.extend(ends.iter().copied());
        });
    }

    fn failed(&self, _shard: u16, reason: &str) {
        let _appending = self.appending.lock().unwrap();
        self.note(|seen| seen.failures.push(reason.to_owned()));
    }

    fn recovered(&self, _shard: u16, views: &Views) {
        self.note(|seen| {
            seen.recoveries += 1;
            seen.views.extend(views.iter().map(|(&p, view)| (p, view.clone())));
        });
    }

    fn log_start(&self, partition: PartitionId, start: Offset) {
        self.note(|seen| {
            seen.starts.insert(partition, start);
        });
    }

    fn view(&self, partition: PartitionId, view: &PartitionView) {
        self.answer(partition, Answer::View(view.clone()));
    }

    fn view_at(
        &self,
        partition: PartitionId,
        _end: Offset,
        view: Result<&PartitionView, &CutError>,
    ) {
        let answer = match view {
            Ok(view) => Answer::View(view.clone()),
            Err(error) => Answer::Failed(error.clone()),
        };
        self.answer(partition, answer);
    }

    fn cut(&self, partition: PartitionId, view: &PartitionView) {
        self.answer(partition, Answer::Cut(view.clone()));
    }

    fn cut_failed(&self, partition: PartitionId, error: &CutError) {
        self.answer(partition, Answer::Failed(error.clone()));
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct HandClock {
    times: Mutex<(i64, Duration)>,
}

impl HandClock {
    pub fn at(now_ms: i64) -> Arc<HandClock> {
        Arc::new(HandClock { times: Mutex::new((now_ms, Duration::ZERO)) })
    }

    /// Moves both clocks.
    pub fn pass(&self, ms: i64) {
        let mut times = self.times.lock().unwrap();
        times.0 += ms;
        times.1 += Duration::from_millis(ms as u64);
    }

    /// Sets the wall clock only.
    pub fn jump_to(&self, now_ms: i64) {
        self.times.lock().unwrap().0 = now_ms;
    }
}

impl Clock for HandClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.times.lock().unwrap().0)
    }

    fn monotonic(&self) -> Duration {
        self.times.lock().unwrap().1
    }
}

/// Small files and caches, so that little data makes much happen; retention only when kicked.
pub fn small_config(dir: &Path) -> LogConfig {
    LogConfig {
        shards: 1,
        file_bytes: 64 * 1024,
        tail_cache_bytes: 1 << 20,
        active_cache_bytes: 1 << 20,
        sealed_cache_bytes: 1 << 18,
        sealed_files_open: 2,
        reserve_bytes: 0,
        retention_interval: Duration::from_secs(3600),
        scrub_interval: Duration::from_secs(3600),
        background_bytes_per_s: 0,
        ..LogConfig::new(dir)
    }
}

/// An open, started log with its recorder and what it found.
pub struct Running {
    pub log: Log,
    pub recorder: Arc<Recorder>,
    pub views: Views,
}

pub fn start(config: LogConfig, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Running {
    let (log, views) = Log::open(config, disk, clock).unwrap();
    let recorder = Recorder::new();
    log.start(recorder.clone());
    Running { log, recorder, views }
}

impl Running {
    /// Appends and waits until it is durable.
    pub fn append(&self, entry: &Entry) {
        self.log.append(entry.request()).unwrap();
        self.recorder.wait_durable(entry.partition, entry.end());
    }

    /// What the log says of a partition when asked.
    pub fn view(&self, partition: u32) -> PartitionView {
        let before = self.recorder.answers(partition);
        self.log.ask_view(PartitionId(partition)).unwrap();
        match self.recorder.wait_answer(partition, before) {
            Answer::View(view) => view,
            other => panic!("{other:?}"),
        }
    }

    /// What the log said of a partition when it ended at `end`, or why that cannot be told.
    pub fn view_at(&self, partition: u32, end: Offset) -> Answer {
        let before = self.recorder.answers(partition);
        self.log.ask_view_at(PartitionId(partition), end).unwrap();
        self.recorder.wait_answer(partition, before)
    }

    /// Truncates, and waits for the answer.
    pub fn truncate(&self, partition: u32, end: i64) -> Answer {
        let before = self.recorder.answers(partition);
        self.log.truncate(PartitionId(partition), Offset(end)).unwrap();
        self.recorder.wait_answer(partition, before)
    }

    /// Begins anew with what `view` has, and waits for the answer.
    pub fn reset(&self, partition: u32, view: PartitionView) -> Answer {
        let before = self.recorder.answers(partition);
        let PartitionView { log_start, epochs, state, producers, .. } = view;
        self.log.reset(PartitionId(partition), log_start, epochs, state, producers).unwrap();
        self.recorder.wait_answer(partition, before)
    }

    /// The values of all records from `from` on, as read through `read` from the disk.
    pub fn values(&self, partition: u32, from: i64) -> Vec<(i64, Vec<u8>)> {
        values(&self.log, partition, from)
    }
}

/// All entries from `from` on, read from the disk in steps of `max_bytes`. What the memory has must
/// be the same. A file that is just being replaced is waited for.
pub fn entries(log: &Log, partition: u32, from: Offset, max_bytes: usize) -> Vec<LoggedEntry> {
    let partition = PartitionId(partition);
    let mut all: Vec<LoggedEntry> = Vec::new();
    let mut at = from;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let chunk = match log.read_entries(partition, at, max_bytes) {
            Err(ReadError::Unavailable { .. }) if Instant::now() < deadline => {
                std::thread::yield_now();
                continue;
            }
            other => other.unwrap(),
        };
        if let Some(cached) = log.read_entries_cached(partition, at, max_bytes) {
            let common = cached.entries.len().min(chunk.entries.len());
            assert_eq!(cached.entries[..common], chunk.entries[..common]);
        }
        let bytes: usize = chunk.entries.iter().map(|entry| entry.to_bytes().len()).sum();
        assert_eq!(chunk.bytes, bytes);
        assert!(bytes <= max_bytes || chunk.entries.len() == 1, "{bytes} of {max_bytes}");
        if chunk.next_offset == at {
            assert!(chunk.entries.is_empty());
            return all;
        }
        assert_eq!(chunk.entries.last().map(|e| e.header.end_offset()), Some(chunk.next_offset));
        at = chunk.next_offset;
        all.extend(chunk.entries);
    }
}

/// Offsets and values of all records from `from` on, read from the disk in small steps. A file
/// that is just being replaced is waited for.
pub fn values(log: &Log, partition: u32, from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut values = Vec::new();
    let mut at = Offset(from);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let chunk = match log.read(PartitionId(partition), at, 10_000, Offset(i64::MAX)) {
            Err(ReadError::Unavailable { .. }) if Instant::now() < deadline => {
                std::thread::yield_now();
                continue;
            }
            other => other.unwrap(),
        };
        for batch in &chunk.batches {
            let batch = RecordBatch::decode(batch.clone()).unwrap();
            for record in batch.records().unwrap().iter().filter(|r| r.offset >= at) {
                values.push((record.offset.0, record.value.unwrap_or_default().to_vec()));
            }
        }
        if chunk.next_offset == at {
            return values;
        }
        at = chunk.next_offset;
    }
}
