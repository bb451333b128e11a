//! One suite for everything that claims to be the log: run on the redb log and on a model in
//! memory, and on both in step with random operations.

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use support::{Answer, Entry, HandClock, Running, entry, small_config, start};
use weir_core::partition::view::PartitionView;
use weir_core::record::RecordBatch;
use weir_core::{Offset, PartitionId, TimestampMs};
use weir_log::sim::SimDisk;
use weir_log::{CutError, LogConfig, ReadError};

/// What a log promises, once each call has returned.
trait TopicLog {
    fn append(&mut self, entry: &Entry);
    /// Batches from the one that holds `from` on, and where to go on.
    fn read(&self, p: u32, from: i64, max_bytes: usize, below: i64) -> Read;
    fn find_time(&self, p: u32, at: i64) -> Result<Option<i64>, Refusal>;
    fn trim(&mut self, p: u32, start: i64);
    fn truncate(&mut self, p: u32, end: i64);
    fn delete(&mut self, p: u32);
    /// Closes and opens it.
    fn reopen(&mut self);
    /// Start and end of a partition.
    fn bounds(&self, p: u32) -> Option<(i64, i64)>;
}

type Read = Result<(Vec<Bytes>, i64), Refusal>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Unknown,
    OutOfRange(i64, i64),
}

fn refusal(error: ReadError) -> Refusal {
    match error {
        ReadError::UnknownPartition(_) => Refusal::Unknown,
        ReadError::OutOfRange { start, end } => Refusal::OutOfRange(start.0, end.0),
        other => panic!("{other}"),
    }
}

/// The log itself, on a simulated disk, with files of a few KiB.
struct Redb {
    disk: SimDisk,
    running: Option<Running>,
    /// Partitions are deleted for good, so each life of one has an id of its own.
    lives: BTreeMap<u32, u32>,
}

impl Redb {
    fn new(seed: u64) -> Redb {
        let disk = SimDisk::new(seed);
        let running = Some(Redb::open(&disk));
        Redb { disk, running, lives: BTreeMap::new() }
    }

    fn open(disk: &SimDisk) -> Running {
        let config = LogConfig {
            file_bytes: 16 * 1024,
            retention_interval: std::time::Duration::from_millis(1),
            ..small_config(Path::new("/data"))
        };
        start(config, Arc::new(disk.clone()), HandClock::at(1_000_000))
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn id(&self, p: u32) -> PartitionId {
        PartitionId(p + 100 * self.lives.get(&p).copied().unwrap_or(0))
    }
}

impl TopicLog for Redb {
    fn append(&mut self, entry: &Entry) {
        let entry = Entry { partition: self.id(entry.partition).0, ..entry.clone() };
        self.running().append(&entry);
    }

    fn read(&self, p: u32, from: i64, max_bytes: usize, below: i64) -> Read {
        let (id, log) = (self.id(p), &self.running().log);
        let read = log.read(id, Offset(from), max_bytes, Offset(below)).map_err(refusal)?;
        // Whatever the memory has must be the same.
        if let Some(cached) = log.read_cached(id, Offset(from), max_bytes, Offset(below)) {
            let common = read.batches.len().min(cached.batches.len());
            assert_eq!(read.batches[..common], cached.batches[..common]);
        }
        Ok((read.batches, read.next_offset.0))
    }

    fn find_time(&self, p: u32, at: i64) -> Result<Option<i64>, Refusal> {
        let found = self.running().log.find_time(self.id(p), TimestampMs(at));
        found.map(|found| found.map(|offset| offset.0)).map_err(refusal)
    }

    fn trim(&mut self, p: u32, start: i64) {
        let Some((before, end)) = self.bounds(p) else { return };
        let id = self.id(p);
        self.running().log.trim(id, Offset(start)).unwrap();
        if before < start.min(end) {
            self.running().recorder.wait_start(id.0, Offset(start.min(end)));
        }
    }

    fn truncate(&mut self, p: u32, end: i64) {
        match self.running().truncate(self.id(p).0, end) {
            Answer::Cut(view) => assert_eq!(view.log_end, Offset(end)),
            // The cleaner was there before.
            Answer::Failed(CutError::Forgotten { .. }) => self.reset_to_own(p, end),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, p: u32) {
        let id = self.id(p);
        self.running().log.delete_partition(id).unwrap();
        self.barrier();
        *self.lives.entry(p).or_default() += 1;
    }

    fn reopen(&mut self) {
        drop(self.running.take());
        self.running = Some(Redb::open(&self.disk));
    }

    fn bounds(&self, p: u32) -> Option<(i64, i64)> {
        let stats = self.running().log.stats(self.id(p))?;
        Some((stats.log_start.0, stats.end.0))
    }
}

impl Redb {
    /// As a follower does: begins anew, and appends what was there below `end` once more.
    fn reset_to_own(&mut self, p: u32, end: i64) {
        let (id, log) = (self.id(p), self.running());
        let view = log.view(id.0);
        let below = |at| {
            let chunk = log.log.read_entries(id, at, 1).unwrap();
            chunk.entries.into_iter().next().filter(|entry| entry.header.base_offset.0 < end)
        };
        let first = below(view.log_start);
        let start = first.as_ref().map_or(Offset(end), |entry| entry.header.base_offset);
        let kept: Vec<_> = std::iter::successors(first, |e| below(e.header.end_offset())).collect();
        let answer =
            log.reset(id.0, PartitionView { log_start: start, ..PartitionView::default() });
        assert!(matches!(answer, Answer::Cut(_)), "{answer:?}");
        for entry in kept {
            log.log.append(support::request_of(&entry)).unwrap();
            log.recorder.wait_durable(id.0, entry.header.end_offset());
        }
        log.log.trim(id, view.log_start).unwrap();
        self.barrier();
    }

    /// Waits until everything sent is done, by an entry in a partition nobody looks at.
    fn barrier(&self) {
        let end = self.running().log.stats(PartitionId(99)).map_or(0, |stats| stats.end.0);
        self.running().append(&entry(99, end).epoch(i32::MAX));
    }
}

/// The same in memory.
#[derive(Default)]
struct Model {
    partitions: BTreeMap<u32, (i64, Vec<Entry>)>,
}

impl Model {
    fn end(entries: &[Entry], start: i64) -> i64 {
        entries.last().map_or(start, |entry| entry.end().0)
    }
}

impl TopicLog for Model {
    fn append(&mut self, entry: &Entry) {
        let (start, entries) = self.partitions.entry(entry.partition).or_default();
        assert_eq!(entry.base, Model::end(entries, *start));
        entries.push(entry.clone());
    }

    fn read(&self, p: u32, from: i64, max_bytes: usize, below: i64) -> Read {
        let (start, entries) = self.partitions.get(&p).ok_or(Refusal::Unknown)?;
        let end = Model::end(entries, *start);
        if !(*start..=end).contains(&from) {
            return Err(Refusal::OutOfRange(*start, end));
        }
        let (mut batches, mut bytes, mut next) = (Vec::new(), 0, from);
        for entry in entries.iter().filter(|entry| entry.end().0 > from) {
            let batch = entry.batch();
            let room = batches.is_empty() || bytes + batch.len() <= max_bytes;
            if entry.end().0 > below || !room {
                break;
            }
            next = entry.end().0;
            bytes += batch.len();
            batches.extend(Some(batch).filter(|batch| !batch.is_empty()));
        }
        Ok((batches, next))
    }

    fn find_time(&self, p: u32, at: i64) -> Result<Option<i64>, Refusal> {
        let (start, entries) = self.partitions.get(&p).ok_or(Refusal::Unknown)?;
        let records = entries.iter().flat_map(|entry| {
            let records = entry.records.iter().enumerate();
            records.map(|(n, record)| (entry.base + n as i64, record.0))
        });
        let mut found = records.filter(|(offset, time)| offset >= start && *time >= at);
        Ok(found.next().map(|(offset, _)| offset))
    }

    fn trim(&mut self, p: u32, to: i64) {
        if let Some((start, entries)) = self.partitions.get_mut(&p) {
            *start = (*start).max(to.min(Model::end(entries, *start)));
        }
    }

    fn truncate(&mut self, p: u32, end: i64) {
        let (_, entries) = self.partitions.get_mut(&p).unwrap();
        entries.retain(|entry| entry.base < end);
    }

    fn delete(&mut self, p: u32) {
        self.partitions.remove(&p);
    }

    fn reopen(&mut self) {}

    fn bounds(&self, p: u32) -> Option<(i64, i64)> {
        let (start, entries) = self.partitions.get(&p)?;
        Some((*start, Model::end(entries, *start)))
    }
}

/// What every log must do, step by step.
fn suite(log: &mut dyn TopicLog) {
    assert_eq!(log.read(1, 0, 100, 100), Err(Refusal::Unknown));
    assert_eq!(log.find_time(1, 0), Err(Refusal::Unknown));
    let first = entry(1, 0).record(50, "a").record(40, "b");
    let silent = entry(1, 2).state("key", Some("value"));
    let last = entry(1, 3).record(70, vec![1; 9_000]);
    for entry in [&first, &silent, &last] {
        log.append(entry);
    }
    for _ in 0..2 {
        assert_eq!(log.bounds(1), Some((0, 4)));
        assert_eq!(log.read(1, 0, 1 << 20, 100), Ok((vec![first.batch(), last.batch()], 4)));
        assert_eq!(log.read(1, 1, 0, 100), Ok((vec![first.batch()], 2)));
        assert_eq!(log.read(1, 2, 1 << 20, 3), Ok((vec![], 3)));
        assert_eq!(log.read(1, 0, 1 << 20, 1), Ok((vec![], 0)));
        assert_eq!(log.read(1, 4, 1 << 20, 100), Ok((vec![], 4)));
        assert_eq!(log.read(1, 5, 1 << 20, 100), Err(Refusal::OutOfRange(0, 4)));
        assert_eq!(log.find_time(1, 45), Ok(Some(0)));
        assert_eq!(log.find_time(1, 51), Ok(Some(3)));
        assert_eq!(log.find_time(1, 71), Ok(None));
        log.reopen();
    }
    log.trim(1, 1);
    assert_eq!(log.find_time(1, 45), Ok(Some(3)));
    assert_eq!(log.find_time(1, 40), Ok(Some(1)));
    assert_eq!(log.read(1, 0, 100, 100), Err(Refusal::OutOfRange(1, 4)));
    log.truncate(1, 3);
    let other = entry(1, 3).epoch(2).record(60, "c");
    log.append(&other);
    log.reopen();
    assert_eq!(log.read(1, 2, 1 << 20, 100), Ok((vec![other.batch()], 4)));
    log.trim(1, 99);
    assert_eq!(log.bounds(1), Some((4, 4)));
    log.delete(1);
    log.reopen();
    assert_eq!(log.bounds(1), None);
}

/// Goal: the model keeps the promises.
#[test]
fn suite_on_the_model() {
    suite(&mut Model::default());
}

/// Goal: the log keeps the promises.
#[test]
fn suite_on_redb() {
    suite(&mut Redb::new(1));
}

/// Does something at random to both.
fn step(rng: &mut fastrand::Rng, epoch: &mut i32, model: &mut Model, redb: &mut Redb) {
    let p = rng.u32(1..4);
    let bounds = model.bounds(p);
    let (start, end) = bounds.unwrap_or((0, 0));
    let mut both = |change: &dyn Fn(&mut dyn TopicLog)| {
        change(model);
        change(redb);
    };
    match rng.u8(..100) {
        0..70 => {
            let mut next = entry(p, end).epoch(*epoch);
            for _ in 0..rng.usize(..4) {
                let bytes = if rng.u8(..20) == 0 { 20_000 } else { rng.usize(..2_000) };
                next = next.record(rng.i64(-50..1_000), vec![rng.u8(..); bytes]);
            }
            both(&|log| log.append(&next));
        }
        70..80 => {
            let to = rng.i64(start..=end + 1);
            both(&|log| log.trim(p, to));
        }
        80..86 if bounds.is_some() => {
            // Logs are cut back where an entry ends.
            let entries = &model.partitions[&p].1;
            let ends = entries.iter().map(|entry| entry.base).filter(|&base| base >= start);
            let ends: Vec<i64> = ends.collect();
            if let Some(&cut) = ends.get(rng.usize(..ends.len().max(1))) {
                *epoch += 1;
                model.truncate(p, cut);
                redb.truncate(p, cut);
            }
        }
        86..88 if bounds.is_some() => both(&|log| log.delete(p)),
        88..92 => both(&|log| log.reopen()),
        _ => {}
    }
}

/// Goal: whatever is done to it, the log answers as the model does.
#[test]
fn in_step_with_the_model() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut model, mut redb) = (Model::default(), Redb::new(seed));
        let mut epoch = 1;
        for n in 0..150 {
            step(&mut rng, &mut epoch, &mut model, &mut redb);
            let p = rng.u32(1..4);
            assert_eq!(redb.bounds(p), model.bounds(p), "seed {seed} step {n}");
            let (start, end) = model.bounds(p).unwrap_or_default();
            let from = rng.i64((start - 1).max(0)..=end + 1);
            let (max, below) = (rng.usize(..30_000), rng.i64(from..=end + 5));
            let (ours, theirs) = (redb.read(p, from, max, below), model.read(p, from, max, below));
            // The log may stop early, at the end of a file or of its look-ahead; never be wrong.
            match (ours, theirs) {
                (Ok((ours, next)), Ok((theirs, last))) => {
                    assert_eq!(ours[..], theirs[..ours.len()], "seed {seed} step {n}");
                    assert!(next <= last && (next > from || last == from));
                    let bases = theirs.get(ours.len()).map(|batch| {
                        RecordBatch::decode(batch.clone()).unwrap().header().base_offset.0
                    });
                    assert!(bases.is_none_or(|base| base >= next), "a batch was stepped over");
                }
                (ours, theirs) => assert_eq!(ours, theirs, "seed {seed} step {n}"),
            }
            let at = rng.i64(-60..1_100);
            assert_eq!(redb.find_time(p, at), model.find_time(p, at), "seed {seed} step {n}");
        }
    }
}
