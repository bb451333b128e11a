//! Power cuts and failing disks while logs are cut and begin anew, on the simulated disk.
//!
//! Every run does a seeded series of appends, trims, truncations and resets, with files rolling and
//! the cleaner at work, and keeps a model of it: each partition's states, one behind each step, and
//! how many of them were acknowledged. After each disaster a partition must be in one of those
//! that were not acknowledged, or in the last one that was: with that state's view, and with its
//! entries, byte for byte, and no others.

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{
    Answer, Entry, HandClock, Recorder, Running, Views, entries, entry, small_config, without_past,
};
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId, TimestampMs};
use weir_log::sim::{Faults, SimDisk};
use weir_log::{AppendError, CutError, Log, LogConfig, OpenError, ReadError};

const PARTITIONS: u32 = 3;

fn config() -> LogConfig {
    LogConfig {
        file_bytes: 12 * 1024,
        retention_interval: Duration::from_millis(1),
        ..small_config(Path::new("/data"))
    }
}

/// What a partition holds.
#[derive(Clone, Default)]
struct State {
    /// What the log began with.
    base: PartitionView,
    entries: Vec<Entry>,
    start: Offset,
}

impl State {
    fn end(&self) -> Offset {
        self.entries.last().map_or(self.base.log_end, Entry::end)
    }

    fn view(&self) -> PartitionView {
        let mut view = self.base.clone();
        support::fold(&mut view, &self.entries);
        view.advance_log_start(self.start);
        view
    }

    /// Where it can be cut: where an entry ends, or where all of it does.
    fn cuts(&self) -> Vec<Offset> {
        let ends = self.entries.iter().map(Entry::end).chain([self.base.log_end]);
        ends.filter(|&end| end >= self.start).collect()
    }

    fn cut(mut self, end: Offset) -> State {
        self.entries.retain(|entry| entry.end() <= end);
        self
    }
}

/// A partition's states, of which one is acknowledged, and those that may have followed.
struct Line {
    states: Vec<State>,
}

impl Line {
    fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }
}

struct Model {
    rng: fastrand::Rng,
    epoch: i32,
    /// Makes every entry another.
    step: usize,
    lines: BTreeMap<u32, Line>,
    failures: usize,
    /// Where the log ended before the cut of this burst. Should the cut fail, the log would take an
    /// entry there, and the model would not know whether it did.
    end_before_cut: Option<Offset>,
    cuts: usize,
    forgotten: usize,
    unreadable: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        let line = |p| (p, Line { states: vec![State::default()] });
        Model {
            rng: fastrand::Rng::with_seed(seed),
            epoch: 1,
            step: 0,
            lines: (0..PARTITIONS).map(line).collect(),
            failures: 0,
            end_before_cut: None,
            cuts: 0,
            forgotten: 0,
            unreadable: 0,
        }
    }

    fn entry(&mut self, p: u32, base: Offset) -> Entry {
        self.step += 1;
        let made = entry(p, base.0).epoch(self.epoch).append_time(1_000 + self.step as i64);
        match self.rng.u8(..8) {
            0 => made.state(&format!("k{}", self.rng.u8(..4)), Some(&self.step.to_string())),
            1 => made.state(&format!("k{}", self.rng.u8(..4)), None).source("elsewhere"),
            2 => made.records(1, self.rng.usize(3_000..9_000)),
            _ => {
                let count = self.rng.usize(1..4);
                let made = made.records(count, self.rng.usize(1..600));
                made.producer(i64::from(p), base.0 as i32)
            }
        }
    }

    /// A reset to anywhere.
    fn begin(&mut self) -> State {
        let start = Offset(self.rng.i64(0..200));
        let mut base = PartitionView { log_start: start, log_end: start, ..Default::default() };
        if start.0 > 0 {
            base.epochs = vec![(LeaderEpoch(self.epoch - 1), Offset(start.0 / 2))];
            base.state.insert(Bytes::from("k0"), Bytes::from(self.step.to_string()));
        }
        State { base, entries: Vec::new(), start }
    }

    /// Does one thing to one partition, and notes the state behind it. `false` once refused.
    fn step(&mut self, log: &Log, p: u32, may_cut: &mut bool) -> bool {
        let (id, last) = (PartitionId(p), self.lines[&p].last().clone());
        let settled = self.lines[&p].states.len() == 1;
        let (done, next) = match self.rng.u8(..20) {
            0 | 1 if *may_cut => {
                let ends = last.cuts();
                // Mostly the newest: a follower's own tail.
                let back = ends.len() - 1 - self.rng.usize(..ends.len().min(12));
                let end = ends[if self.rng.bool() { back } else { self.rng.usize(..ends.len()) }];
                (self.epoch, *may_cut) = (self.epoch + 1, false);
                self.end_before_cut = Some(last.end());
                (log.truncate(id, end), last.cut(end))
            }
            2 if *may_cut => {
                (self.epoch, *may_cut) = (self.epoch + 2, false);
                let next = self.begin();
                let PartitionView { log_start, epochs, state, producers, .. } = next.base.clone();
                (log.reset(id, log_start, epochs, state, producers), next)
            }
            // What is trimmed must be durable, or the log trims less.
            3 | 4 if settled && last.start < last.end() => {
                let start = Offset(self.rng.i64(last.start.0..=last.end().0));
                (log.trim(id, start), State { start, ..last })
            }
            _ if self.end_before_cut == Some(last.end()) => return true,
            _ => {
                let next = self.entry(p, last.end());
                let done = log.append(next.request());
                let mut state = last;
                state.entries.push(next);
                (done, state)
            }
        };
        match done {
            Ok(()) => {}
            Err(AppendError::Offline { .. }) => return false,
            // A cut behind which this follows has failed meanwhile, or a log is being cut.
            Err(AppendError::NotDense { .. } | AppendError::QueueFull) => return true,
            Err(error) => panic!("{error}"),
        }
        if let Some(line) = self.lines.get_mut(&p) {
            line.states.push(next);
        }
        true
    }

    /// Does a few things to one partition without waiting, then waits for their fate. `false` once
    /// something failed that was not settled.
    fn burst(&mut self, log: &Running) -> bool {
        let p = self.rng.u32(..PARTITIONS);
        let before = log.recorder.answers(p);
        let appending = log.recorder.appending.lock().unwrap();
        if log.recorder.seen().failures.len() > self.failures {
            return false;
        }
        let mut may_cut = true;
        let mut cut_at = None;
        self.end_before_cut = None;
        let mut refused = false;
        for _ in 0..self.rng.usize(1..7) {
            refused |= !self.step(&log.log, p, &mut may_cut);
            if refused {
                break;
            }
            if !may_cut && cut_at.is_none() {
                cut_at = Some(self.lines[&p].states.len() - 1);
            }
        }
        refused |= log.log.ask_view(PartitionId(p)).is_err();
        drop(appending);
        let answers = 1 + usize::from(cut_at.is_some());
        let settled = self.failures;
        let seen = log.recorder.wait("a fate", |seen| {
            let there = seen.answers.get(&PartitionId(p)).map_or(0, Vec::len);
            (!refused && there >= before + answers) || seen.failures.len() > settled
        });
        let answers = seen.answers.get(&PartitionId(p)).map_or(&[][..], |all| &all[before..]);
        let Some(Answer::View(view)) = answers.last().filter(|_| !refused) else {
            return false;
        };
        self.settle_burst(p, cut_at, answers, view);
        seen.failures.len() == settled
    }

    fn settle_burst(
        &mut self,
        p: u32,
        cut_at: Option<usize>,
        answers: &[Answer],
        view: &PartitionView,
    ) {
        let Some(line) = self.lines.get_mut(&p) else { return };
        match (cut_at, answers) {
            (None, [Answer::View(_)]) => {}
            (Some(at), [Answer::Cut(cut), Answer::View(_)]) => {
                assert_eq!(without_past(cut), line.states[at].view(), "partition {p}");
                self.cuts += 1;
            }
            (Some(at), [Answer::Failed(error), Answer::View(_)]) => {
                match error {
                    CutError::Forgotten { .. } => self.forgotten += 1,
                    // A full file whose sealing failed is not there until it is copied.
                    CutError::Unreadable(ReadError::Unavailable { .. }) => self.unreadable += 1,
                    error => panic!("{error}"),
                }
                // What was let in before the failure was known went on from the cut, and is gone;
                // later steps were refused, or were trims.
                line.states.truncate(at);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(without_past(view), line.last().view(), "partition {p}");
        line.states.drain(..line.states.len() - 1);
    }

    fn wait_recovery(&mut self, log: &Running) -> Views {
        let seen = log.recorder.wait("recovery", |seen| seen.recoveries >= seen.failures.len());
        self.failures = seen.failures.len();
        seen.views
    }

    /// Checks what the log holds, and takes it as the new truth.
    fn check(&mut self, log: &Log, views: &Views) {
        for (&p, line) in &mut self.lines {
            let view = without_past(&views.get(&PartitionId(p)).cloned().unwrap_or_default());
            let found = line.states.iter().rposition(|state| state.view() == view);
            let Some(found) = found else {
                let known: Vec<_> = line.states.iter().map(State::view).collect();
                panic!("partition {p} is in no state it was in: {view:#?}, but {known:#?}");
            };
            let state = line.states.swap_remove(found);
            if views.contains_key(&PartitionId(p)) {
                check_entries(log, p, &state);
            }
            line.states = vec![state];
        }
        self.epoch += 1;
    }
}

/// Everything that is there reads back as it was sent, and nothing else does.
fn check_entries(log: &Log, p: u32, state: &State) {
    let kept: Vec<_> = state.entries.iter().filter(|entry| entry.end() > state.start).collect();
    let logged: Vec<_> = kept.iter().map(|entry| entry.logged()).collect();
    assert_eq!(entries(log, p, state.start, 3_000), logged, "partition {p}");
    for outside in [Offset(state.start.0 - 1), state.end().plus(1)] {
        let read = log.read_entries(PartitionId(p), outside, 100);
        assert!(matches!(read, Err(ReadError::OutOfRange { .. })), "{read:?}");
    }
    let all: Vec<_> = support::values(log, p, state.start.0);
    let sent = kept.iter().flat_map(|entry| {
        let records = entry.records.iter().enumerate();
        records.map(|(n, record)| (entry.base + n as i64, record.1.clone()))
    });
    let sent: Vec<_> = sent.filter(|(offset, _)| *offset >= state.start.0).collect();
    assert!(all == sent, "partition {p} reads back otherwise");
    let newest = kept.iter().flat_map(|entry| &entry.records).map(|record| record.0).max();
    let beyond = newest.map_or(i64::MIN, |newest| newest + 1);
    assert_eq!(log.find_time(PartitionId(p), TimestampMs(beyond)), Ok(None));
}

/// A disk and a model of this seed; `WEIR_CRASH_SEED` sets another series of seeds.
fn setup(seed: u64) -> (SimDisk, Model) {
    let series = std::env::var("WEIR_CRASH_SEED").ok().and_then(|series| series.parse().ok());
    let seed = seed.wrapping_add(series.unwrap_or(0u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (SimDisk::new(seed), Model::new(seed))
}

fn open(disk: &SimDisk) -> Result<Running, OpenError> {
    let (log, views) = Log::open(config(), Arc::new(disk.clone()), HandClock::at(1_000_000))?;
    let recorder = Recorder::new();
    log.start(recorder.clone());
    Ok(Running { log, recorder, views })
}

fn work(model: &mut Model, log: &Running, bursts: usize) -> bool {
    (0..bursts).all(|_| model.burst(log))
}

/// Works into a disaster, then turns the power on and checks, twice, with more work in between.
/// Returns whether the disaster came, and how many logs were cut.
fn cut(seed: u64, faults: Faults) -> (bool, usize) {
    let (disk, mut model) = setup(seed);
    disk.set_faults(faults);
    if let Ok(log) = open(&disk) {
        work(&mut model, &log, 24);
        drop(log);
    }
    let came = !disk.is_powered();
    for _ in 0..2 {
        disk.cut_power();
        disk.restore_power();
        model.failures = 0;
        let log = open(&disk).unwrap();
        model.check(&log.log, &log.views);
        assert!(work(&mut model, &log, 6), "{:?}", log.recorder.seen().failures);
        disk.cut_power();
        drop(log);
    }
    (came, model.cuts)
}

/// Goal: the power goes at every single sync; each log is as it was before or behind each step.
#[test]
fn power_cut_at_every_sync() {
    let mut cuts = 0;
    for seed in [1, 2] {
        let mut at = 1;
        loop {
            let cut_at_sync = Some(at);
            let faults = Faults { cut_at_sync, ..Faults::default() };
            let (came, done) = cut(seed * 1_000_003 + at, faults);
            cuts += done;
            if !came {
                break;
            }
            at += 1;
        }
        assert!(at > 20, "only {at} syncs");
    }
    assert!(cuts > 100, "only {cuts} cuts");
}

/// Goal: the same at writes, which leaves commits half written.
#[test]
fn power_cut_at_writes() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut came = 0;
    for seed in 0..60 {
        let cut_at_write = Some(rng.u64(1..900));
        came += usize::from(cut(seed, Faults { cut_at_write, ..Faults::default() }).0);
    }
    assert!(came > 20, "only {came} cuts of the power");
}

/// Works over a failing disk that works again. Returns how often the log recovered.
fn fail(seed: u64, faults: Faults) -> usize {
    let (disk, mut model) = setup(seed);
    let log = open(&disk).unwrap();
    assert!(work(&mut model, &log, 3));
    disk.set_faults(faults);
    let mut recoveries = 0;
    for _ in 0..14 {
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
    recoveries
}

/// Goal: a sync or a write fails in the middle of a cut; the log goes offline, and what it goes on
/// with is a state that it was in.
#[test]
fn failing_disks() {
    let mut recoveries = 0;
    for at in 1..60 {
        let fail_again = at % 4;
        let fail_sync = Some(at);
        recoveries += fail(at, Faults { fail_sync, fail_again, ..Faults::default() });
        let fail_write = Some(1 + at * 7);
        recoveries += fail(at + 1_000, Faults { fail_write, fail_again, ..Faults::default() });
    }
    assert!(recoveries > 10, "only {recoveries} failures reached the writer");
}

/// Goal: long series of cuts between rolls, cleanings and restarts, without a disaster; cuts of the
/// newest entries succeed, and where the cleaner was there first the log says so.
#[test]
fn long_series() {
    let (mut cuts, mut forgotten) = (0, 0);
    for seed in 0..6 {
        let (disk, mut model) = setup(seed);
        for _ in 0..5 {
            let log = open(&disk).unwrap();
            model.check(&log.log, &log.views);
            model.failures = 0;
            assert!(work(&mut model, &log, 60));
            if model.rng.bool() {
                disk.cut_power();
            }
            drop(log);
            disk.restore_power();
        }
        cuts += model.cuts;
        forgotten += model.forgotten;
        assert_eq!(model.unreadable, 0);
    }
    assert!(cuts > 100, "only {cuts} cuts, {forgotten} that failed");
}
