//! Power cuts, failing disks and rot, on the simulated disk.
//!
//! Every run appends a seeded workload and keeps a model of it: what was acknowledged, and what was
//! sent after that, whose fate is open. After each disaster the log must hold all that was
//! acknowledged and, of the rest, a prefix: dense, in order, byte for byte, with the views that
//! follow from exactly that.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{Entry, HandClock, Recorder, Running, Seen, Views, entry, small_config};
use weir_core::partition::view::PartitionView;
use weir_core::record::RecordBatch;
use weir_core::{Offset, PartitionId};
use weir_log::sim::{Faults, SimDisk};
use weir_log::{AppendError, Disk, Log, LogConfig, ReadError};

const PARTITIONS: u32 = 3;

fn config() -> LogConfig {
    LogConfig { file_bytes: 24 * 1024, ..small_config(Path::new("/data")) }
}

/// Entries sent to one partition; the first `acknowledged` were reported durable.
#[derive(Default)]
struct Sent {
    entries: Vec<Entry>,
    acknowledged: usize,
}

impl Sent {
    fn end(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.end().0)
    }

    /// What the first `count` entries amount to.
    fn view(&self, count: usize) -> PartitionView {
        let mut view = PartitionView::default();
        support::fold(&mut view, &self.entries[..count]);
        view
    }
}

/// What was sent, and the randomness that decides what is next.
struct Model {
    rng: fastrand::Rng,
    epoch: i32,
    sent: BTreeMap<u32, Sent>,
    /// How many failures of the open log were settled.
    failures: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            rng: fastrand::Rng::with_seed(seed),
            epoch: 1,
            sent: (0..PARTITIONS).map(|p| (p, Sent::default())).collect(),
            failures: 0,
        }
    }

    fn next_entry(&mut self) -> Entry {
        let p = self.rng.u32(..PARTITIONS);
        let base = self.sent[&p].end();
        let mut next = entry(p, base).epoch(self.epoch);
        match self.rng.u8(..10) {
            0 => {
                let key = format!("k{}", self.rng.u8(..4));
                let value = base.to_string();
                let keep = self.rng.bool();
                next = next.state(&key, keep.then_some(value.as_str()));
            }
            1 => next = next.records(1, self.rng.usize(5_000..30_000)),
            _ => {
                let count = self.rng.usize(1..4);
                next = next.records(count, self.rng.usize(1..900));
                next = next.producer(i64::from(p), base as i32);
            }
        }
        next
    }

    /// Sends a few entries at once and waits for their fate. `false` once something failed that
    /// was not settled.
    fn burst(&mut self, log: &Running) -> bool {
        let mut ends = HashMap::new();
        let mut refused = false;
        // A failure that is not reported yet is reported behind these appends.
        let appending = log.recorder.appending.lock().unwrap();
        if log.recorder.seen().failures.len() > self.failures {
            return false;
        }
        for _ in 0..self.rng.usize(1..6) {
            let next = self.next_entry();
            match log.log.append(next.request()) {
                Ok(()) => {}
                Err(AppendError::Offline { .. }) => {
                    refused = true;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
            ends.insert(PartitionId(next.partition), next.end());
            if let Some(sent) = self.sent.get_mut(&next.partition) {
                sent.entries.push(next);
            }
        }
        drop(appending);
        let durable = |seen: &Seen| {
            let reached = |(p, &end)| seen.durable.get(p).is_some_and(|&durable| durable >= end);
            !refused && ends.iter().all(reached)
        };
        let settled = self.failures;
        let seen =
            log.recorder.wait("a fate", |seen| durable(seen) || seen.failures.len() > settled);
        self.note_durable(&seen);
        seen.failures.len() == settled
    }

    /// Waits until the log has recovered, and counts its failures as settled.
    fn wait_recovery(&mut self, log: &Running) -> Views {
        let seen = log.recorder.wait("recovery", |seen| seen.recoveries >= seen.failures.len());
        self.failures = seen.failures.len();
        seen.views
    }

    fn note_durable(&mut self, seen: &Seen) {
        for (p, sent) in &mut self.sent {
            let durable = seen.durable.get(&PartitionId(*p)).copied().unwrap_or_default();
            let acknowledged = sent.entries.iter().filter(|entry| entry.end() <= durable);
            sent.acknowledged = sent.acknowledged.max(acknowledged.count());
        }
    }

    /// Checks the views against what was sent, and takes what they say as the new truth.
    fn settle(&mut self, views: &Views) {
        for (&p, sent) in &mut self.sent {
            let Some(view) = views.get(&PartitionId(p)) else {
                assert_eq!(sent.acknowledged, 0, "partition {p} is gone");
                sent.entries.clear();
                continue;
            };
            let held = sent.entries.iter().filter(|entry| entry.end() <= view.log_end).count();
            assert!(held >= sent.acknowledged, "partition {p} lost what was acknowledged");
            assert_eq!(*view, sent.view(held), "partition {p}: the view is another");
            sent.entries.truncate(held);
            sent.acknowledged = held;
        }
        self.epoch += 1;
    }

    /// Checks the views, and that everything reads back as it was sent.
    fn check(&mut self, log: &Log, views: &Views) {
        self.settle(views);
        for (&p, sent) in self.sent.iter().filter(|(_, sent)| !sent.entries.is_empty()) {
            let mut expected = Vec::new();
            for entry in &sent.entries {
                let records = entry.records.iter().enumerate();
                expected.extend(records.map(|(n, r)| (entry.base + n as i64, r.1.clone())));
            }
            let values = support::values(log, p, 0);
            let differs = values.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                values == expected,
                "partition {p} reads back otherwise: {} of {}, first other {differs:?}",
                values.len(),
                expected.len()
            );
        }
    }
}

/// A disk and a model of this seed; `WEIR_CRASH_SEED` sets another series of seeds.
fn setup(seed: u64) -> (SimDisk, Model) {
    let series = std::env::var("WEIR_CRASH_SEED").ok().and_then(|series| series.parse().ok());
    let seed = seed.wrapping_add(series.unwrap_or(0u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (SimDisk::new(seed), Model::new(seed))
}

fn open(disk: &SimDisk) -> Result<Running, weir_log::OpenError> {
    let (log, views) = Log::open(config(), Arc::new(disk.clone()), HandClock::at(1_000_000))?;
    let recorder = Recorder::new();
    log.start(recorder.clone());
    Ok(Running { log, recorder, views })
}

/// Appends `bursts` bursts; whether nothing failed.
fn work(model: &mut Model, log: &Running, bursts: usize) -> bool {
    (0..bursts).all(|_| model.burst(log))
}

/// Runs the workload into a disaster, then turns the power on and checks, twice, with more work in
/// between. Returns whether the disaster came.
fn cut(seed: u64, faults: Faults) -> bool {
    let (disk, mut model) = setup(seed);
    disk.set_faults(faults);
    if let Ok(log) = open(&disk) {
        work(&mut model, &log, 14);
        drop(log);
    }
    let came = !disk.is_powered();
    disk.cut_power();
    disk.restore_power();
    let log = open(&disk).unwrap();
    model.check(&log.log, &log.views);
    assert!(work(&mut model, &log, 4), "{:?}", log.recorder.seen().failures);
    disk.cut_power();
    drop(log);
    disk.restore_power();
    let log = open(&disk).unwrap();
    model.check(&log.log, &log.views);
    came
}

/// Runs `disaster` with 1, 2, 3, … until it says that it did not come any more.
fn at_every(what: &str, disaster: impl Fn(u64) -> bool) {
    let mut at = 1;
    while disaster(at) {
        at += 1;
    }
    assert!(at > 20, "only {at} {what}");
}

/// Goal: the power goes at every single sync; nothing acknowledged is lost.
#[test]
fn power_cut_at_every_sync() {
    for seed in [1, 2] {
        at_every("syncs", |at| {
            let cut_at_sync = Some(at);
            cut(seed * 1_000_003 + at, Faults { cut_at_sync, ..Faults::default() })
        });
    }
}

/// Goal: the same at writes, which leaves commits half written.
#[test]
fn power_cut_at_writes() {
    let mut rng = fastrand::Rng::with_seed(7);
    for seed in 0..60 {
        let cut_at_write = Some(rng.u64(1..800));
        cut(seed, Faults { cut_at_write, ..Faults::default() });
    }
}

/// Runs the workload over a failing disk that works again, and checks what the log reports as
/// recovered, and what it holds after more work and a power cut. Returns whether it failed.
fn fail(seed: u64, faults: Faults) -> bool {
    let (disk, mut model) = setup(seed);
    let log = open(&disk).unwrap();
    assert!(work(&mut model, &log, 3));
    disk.set_faults(faults);
    let mut recoveries = 0;
    for _ in 0..10 {
        if work(&mut model, &log, 1) {
            continue;
        }
        recoveries += 1;
        let views = model.wait_recovery(&log);
        model.check(&log.log, &views);
    }
    disk.set_faults(Faults::default());
    assert!(work(&mut model, &log, 3));
    disk.cut_power();
    drop(log);
    disk.restore_power();
    let log = open(&disk).unwrap();
    model.check(&log.log, &log.views);
    recoveries > 0
}

/// Goal: a sync fails and loses what it had to write, at every place it can; the log goes offline,
/// brings what was acknowledged to safety, and goes on.
#[test]
fn failing_syncs() {
    let mut failed = 0;
    for at in 1..40 {
        let fail_sync = Some(at);
        let fail_again = at % 4;
        let faults = Faults { fail_sync, fail_again, ..Faults::default() };
        failed += usize::from(fail(at, faults));
    }
    // Some hit the background thread instead; how many is a matter of timing.
    assert!(failed >= 5, "only {failed} failures reached the writer");
}

/// Goal: the same for writes that fail half way.
#[test]
fn failing_writes() {
    let mut failed = 0;
    for at in 0..60 {
        let fail_write = Some(1 + at * 7);
        let faults = Faults { fail_write, fail_again: at % 3, ..Faults::default() };
        failed += usize::from(fail(at, faults));
    }
    assert!(failed >= 4, "only {failed} failures reached the writer");
}

/// Goal: a rotten sector in a sealed file harms nobody but that file's offsets: reads give what was
/// written or a typed error, and appends go on.
#[test]
fn rot_in_a_sealed_file() {
    let mut errors = 0;
    for seed in 0..60 {
        let (disk, mut model) = setup(seed);
        let log = open(&disk).unwrap();
        while log.log.shard_stats()[0].files < 6 {
            assert!(work(&mut model, &log, 1));
        }
        log.log.shutdown();
        drop(log);
        let (path, len) = sealed_file(&disk, seed as usize);
        let at = model.rng.u64(4096..len);
        disk.rot(&path, at);
        let log = open(&disk).unwrap();
        errors += read_around_damage(&log.log, &model);
        model.epoch += 1;
        assert!(work(&mut model, &log, 2));
    }
    assert!(errors > 3, "only {errors} reads met the rot");
}

fn sealed_file(disk: &SimDisk, nth: usize) -> (PathBuf, u64) {
    let dir = Path::new("/data/log/shard-0");
    let mut names = disk.list(dir).unwrap();
    names.retain(|name| name.starts_with('0'));
    names.sort();
    // The last two are the active file and the one prepared.
    let sealed = names.len() - 2;
    assert!(sealed >= 4, "{names:?}");
    let path = dir.join(&names[nth % sealed]);
    let len = disk.file_len(&path).unwrap();
    (path, len)
}

/// Reads everything, stepping over damage; how often there was some.
fn read_around_damage(log: &Log, model: &Model) -> usize {
    let mut errors = 0;
    for (&p, sent) in &model.sent {
        let mut read = Vec::new();
        let mut at = Offset(0);
        while at.0 < sent.end() {
            match log.read(PartitionId(p), at, 5_000, Offset(i64::MAX)) {
                Ok(chunk) => {
                    assert!(chunk.next_offset > at);
                    read.extend(chunk.batches);
                    at = chunk.next_offset;
                }
                Err(ReadError::Corrupt { to, .. } | ReadError::Unavailable { to, .. }) => {
                    assert!(to > at, "the damage has an end");
                    errors += 1;
                    at = to;
                }
                Err(error) => panic!("{error}"),
            }
        }
        for batch in read {
            let batch = RecordBatch::decode(batch).unwrap();
            let base = batch.header().base_offset.0;
            let written = sent.entries.iter().find(|entry| entry.base == base).unwrap();
            assert!(*batch.bytes() == written.batch(), "a batch reads back otherwise");
        }
    }
    errors
}

/// Goal: a read that fails gives a typed error for that file's offsets and nothing else; the active
/// file is brought to safety; a restart finds everything again.
#[test]
fn failing_reads() {
    let mut errors = 0;
    for at in 1..60 {
        let (disk, mut model) = setup(at);
        let log = open(&disk).unwrap();
        while log.log.shard_stats()[0].files < 5 {
            assert!(work(&mut model, &log, 1));
        }
        log.log.shutdown();
        drop(log);
        let log = open(&disk).unwrap();
        model.epoch += 1;
        disk.set_faults(Faults { fail_read: Some(at), ..Faults::default() });
        errors += read_around_damage(&log.log, &model);
        let failed = !work(&mut model, &log, 2);
        if failed {
            let views = model.wait_recovery(&log);
            model.settle(&views);
            assert!(work(&mut model, &log, 2));
        }
        disk.cut_power();
        drop(log);
        disk.restore_power();
        let log = open(&disk).unwrap();
        model.check(&log.log, &log.views);
    }
    assert!(errors > 10, "only {errors} reads failed");
}

/// Goal: a full disk refuses records before it fails a write, and takes them again by itself once
/// there is space.
#[test]
fn full_disk() {
    let disk = SimDisk::new(5);
    let config = LogConfig { reserve_bytes: 4 << 20, ..config() };
    disk.set_capacity(16 << 20);
    let clock = HandClock::at(1_000_000);
    let log = support::start(config, Arc::new(disk.clone()), clock);
    let mut base = 0;
    let refused = loop {
        let next = entry(1, base).records(1, 50_000);
        match log.log.append(next.request()) {
            Ok(()) => log.recorder.wait_durable(1, next.end()),
            Err(error) => break error,
        }
        base += 1;
        assert!(base < 1_000, "never refused");
    };
    assert_eq!(refused, AppendError::DiskFull);
    assert!(log.recorder.seen().failures.is_empty());
    log.log.trim(PartitionId(1), Offset(base - 1)).unwrap();
    log.recorder.wait_start(1, Offset(base - 1));
    disk.set_capacity(64 << 20);
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while log.log.append(entry(1, base).records(1, 10).request()) == Err(AppendError::DiskFull) {
        assert!(std::time::Instant::now() < deadline, "never let in again");
        std::thread::yield_now();
    }
    log.recorder.wait_durable(1, Offset(base + 1));
}

/// Goal: opening after a crash reads about one file, however many there are.
#[test]
fn opening_is_bounded() {
    let read = |files: usize| {
        let (disk, mut model) = (SimDisk::new(3), Model::new(3));
        let log = open(&disk).unwrap();
        while log.log.shard_stats()[0].files < files {
            assert!(work(&mut model, &log, 1));
        }
        disk.cut_power();
        drop(log);
        disk.restore_power();
        disk.reset_counts();
        let log = open(&disk).unwrap();
        let read = disk.counts().read_bytes;
        (log.log.shard_stats()[0].files, read)
    };
    // How full the newest file is at the cut is chance, so the most of several tells.
    let most = |counts: std::ops::Range<usize>| counts.map(&read).max_by_key(|(_, read)| *read);
    let (few_files, few) = most(2..10).unwrap();
    let (many_files, many) = most(40..48).unwrap();
    assert!(many_files > 4 * few_files, "{few_files} and {many_files} files");
    assert!(many < 3 * few, "{few} bytes for {few_files} files, {many} for {many_files}");
}
