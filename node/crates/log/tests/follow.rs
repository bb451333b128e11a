//! What followers ask of a log: whole entries, views, cuts, and beginning anew.

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{
    Answer, Entry, HandClock, PATIENCE, Running, entries, entry, small_config, start, without_past,
};
use weir_core::partition::producers::{ProducerBatch, ProducerTable};
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId, ProducerId, TimestampMs};
use weir_log::sim::SimDisk;
use weir_log::{AppendError, CutError, Disk, LogConfig, LoggedEntry, ReadError, ShardState};

const DIR: &str = "/data/log/shard-0";

/// Files of a few KiB. The cleaner looks at them all the time if asked to.
fn config(cleans: bool) -> LogConfig {
    let retention_interval = Duration::from_millis(if cleans { 1 } else { 3_600_000 });
    let small = small_config(Path::new("/data"));
    LogConfig { file_bytes: 16 * 1024, retention_interval, ..small }
}

fn open(disk: &SimDisk, cleans: bool) -> Running {
    start(config(cleans), Arc::new(disk.clone()), HandClock::at(1_000_000))
}

fn reopen(log: Running, disk: &SimDisk, cleans: bool) -> Running {
    log.log.shutdown();
    drop(log);
    open(disk, cleans)
}

/// Waits, without sleeping, until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// How many files the cleaner has made that are there now.
fn cleaned(disk: &SimDisk) -> usize {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.iter().filter(|name| name.contains(".c") && name.ends_with(".redb")).count()
}

/// The `n`th entry of a partition with a bit of everything.
fn varied(p: u32, base: Offset, n: usize, epoch: i32) -> Entry {
    let made = entry(p, base.0).epoch(epoch).append_time(1_000 + n as i64);
    match n % 5 {
        0 => made.state(&format!("k{}", n % 3), Some(&format!("{epoch}-{n}"))),
        1 => made.records(1, 3_000).source(&format!("from {n}")),
        2 => made.records(2, 100).state(&format!("k{}", n % 3), None).producer(9, base.0 as i32),
        _ => made.records(1 + n % 3, 300 * (n % 4)).producer(i64::from(p), base.0 as i32),
    }
}

/// Goal: a log made of another's entries is the same, byte for byte, and says the same of its
/// partitions; however they were read, from memory or from disk, across files and behind the
/// cleaner, and after a restart of both.
#[test]
fn a_second_log_is_the_same() {
    let (mine, theirs) = (SimDisk::new(1), SimDisk::new(2));
    let (leader, follower) = (open(&mine, true), open(&theirs, true));
    let mut rng = fastrand::Rng::with_seed(3);
    let mut all: BTreeMap<u32, Vec<Entry>> = BTreeMap::from([(1, Vec::new()), (2, Vec::new())]);
    for n in 0..200 {
        for (&p, held) in &mut all {
            held.push(varied(p, end_of(held), n, 1 + n as i32 / 60));
            leader.append(&held[n]);
        }
        // One partition keeps little, so that files become sparse.
        if n % 20 == 19 {
            let start = Offset(end_of(&all[&1]).0 - 20);
            leader.log.trim(PartitionId(1), start).unwrap();
            leader.recorder.wait_start(1, start);
        }
    }
    until("the cleaner was there", || cleaned(&mine) > 0);
    for (&p, held) in &all {
        let (start, end) = (leader.view(p).log_start, end_of(held));
        if p == 1 {
            // Retention has passed the follower by: it begins where the leader does.
            let below: Vec<_> = held.iter().filter(|e| e.end() <= start).cloned().collect();
            let begin = PartitionView {
                log_start: end_of(&below),
                append_time: TimestampMs(0),
                ..view_of(&below, end_of(&below))
            };
            assert_eq!(follower.reset(p, begin.clone()), Answer::Cut(begin));
        }
        let mut at = follower.view(p).log_end;
        while at < end {
            let max_bytes = rng.usize(1..20_000);
            let chunk = leader.log.read_entries(PartitionId(p), at, max_bytes).unwrap();
            for entry in &chunk.entries {
                follower.log.append(support::request_of(entry)).unwrap();
            }
            at = chunk.next_offset;
            follower.recorder.wait_durable(p, at);
        }
        if follower.view(p).log_start < start {
            follower.log.trim(PartitionId(p), start).unwrap();
            follower.recorder.wait_start(p, start);
        }
    }
    let (leader, follower) = (reopen(leader, &mine, true), reopen(follower, &theirs, true));
    for (&p, held) in &all {
        let view = leader.view(p);
        assert_eq!(without_past(&view), view_of(held, view.log_start));
        assert_eq!(without_past(&view), without_past(&follower.view(p)), "partition {p}");
        let (ours, theirs) = (
            entries(&leader.log, p, view.log_start, 5_000),
            entries(&follower.log, p, view.log_start, 700),
        );
        assert!(!ours.is_empty());
        assert_eq!(ours, theirs);
        let bytes = |all: &[LoggedEntry]| all.iter().map(LoggedEntry::to_bytes).collect::<Vec<_>>();
        assert_eq!(bytes(&ours), bytes(&theirs));
    }
}

/// Goal: a cut log is what it was when it ended there: its view, its entries, what is found by
/// time; also after it was written on, cut again and opened again. The neighbour in the same files
/// is as it was. Method: random appends, trims, cuts and restarts, against a model.
#[test]
fn a_cut_log_is_what_it_was() {
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimDisk::new(seed);
        let mut log = open(&disk, false);
        let mut held: Vec<Entry> = Vec::new();
        let mut other: Vec<Entry> = Vec::new();
        let (mut start, mut epoch, mut n) = (Offset(0), 1, 0);
        let mut cuts = 0;
        for _ in 0..120 {
            n += 1;
            let end = end_of(&held);
            match rng.u8(..20) {
                0 | 1 => {
                    // Where an entry ends that is retained or was the last to go.
                    let most = (0..held.len().min(40)).rev();
                    let fits = |back: &usize| end_of(&held[..held.len() - back]) >= start;
                    let back = rng.usize(..=most.into_iter().find(fits).unwrap_or(0));
                    held.truncate(held.len() - back);
                    let cut = end_of(&held);
                    (epoch, cuts) = (epoch + 1, cuts + 1);
                    let answer = log.truncate(1, cut.0);
                    let Answer::Cut(view) = answer else { panic!("{answer:?}") };
                    assert_eq!(without_past(&view), view_of(&held, start), "seed {seed} step {n}");
                }
                2 => {
                    let to = Offset(rng.i64(start.0..=end.0));
                    log.log.trim(PartitionId(1), to).unwrap();
                    start = start.max(to);
                }
                3 => log = reopen(log, &disk, false),
                _ => {
                    held.push(varied(1, end, n, epoch));
                    log.append(&held[held.len() - 1]);
                    let end = end_of(&other);
                    other.push(varied(2, end, n, epoch));
                    log.append(&other[other.len() - 1]);
                }
            }
            assert_eq!(without_past(&log.view(1)), view_of(&held, start), "seed {seed} step {n}");
        }
        assert!(cuts > 3, "only {cuts} cuts");
        for _ in 0..2 {
            for (p, held, start) in [(1, &held, start), (2, &other, Offset(0))] {
                assert_eq!(without_past(&log.view(p)), view_of(held, start));
                let there = held.iter().filter(|entry| entry.end() > start).map(Entry::logged);
                let there: Vec<_> = there.collect();
                assert_eq!(entries(&log.log, p, start, 4_000), there, "seed {seed}");
                let late = held.iter().flat_map(|e| &e.records).map(|r| r.0).max().unwrap_or(0);
                let found = log.log.find_time(PartitionId(p), TimestampMs(late + 1)).unwrap();
                assert_eq!(found, None, "what was cut off is not found by its time");
            }
            log = reopen(log, &disk, false);
        }
    }
}

/// Goal: what a log said at an earlier end is told without cutting it, and a log that begins anew
/// with that says the same at its end as this one, wherever before that it began.
#[test]
fn a_snapshot_in_a_log_that_begins_before_it() {
    let (mine, theirs) = (SimDisk::new(1), SimDisk::new(2));
    let (log, other) = (open(&mine, false), open(&theirs, false));
    let mut rng = fastrand::Rng::with_seed(5);
    let mut held: Vec<Entry> = Vec::new();
    for n in 0..150 {
        held.push(varied(1, end_of(&held), n, 1 + n as i32 / 60));
        log.append(&held[n]);
    }
    let whole = view_of(&held, Offset(0));
    for round in 0..12 {
        let at = rng.usize(1..=held.len());
        let answer = log.view_at(1, end_of(&held[..at]));
        let Answer::View(snapshot) = answer else { panic!("{answer:?}") };
        assert_eq!(without_past(&snapshot), view_of(&held[..at], Offset(0)), "round {round}");
        let begin = rng.usize(0..=at);
        let start = end_of(&held[..begin]);
        let before = view_of(&held[..begin], Offset(0));
        let PartitionView { state, producers, .. } = snapshot.clone();
        let base = PartitionView { log_start: start, state, producers, ..before };
        assert!(matches!(other.reset(1, base), Answer::Cut(_)));
        for entry in &held[begin..] {
            other.append(entry);
            if entry.end() == snapshot.log_end {
                let there = other.view(1);
                assert_eq!(
                    (there.state, there.producers),
                    (snapshot.state.clone(), snapshot.producers.clone())
                );
            }
        }
        let there = other.view(1);
        assert_eq!((&there.state, &there.producers), (&whole.state, &whole.producers));
    }
    let within = Offset(end_of(&held).0 + 1);
    assert!(matches!(log.view_at(1, within), Answer::Failed(CutError::BeyondEnd { .. })));
    assert_eq!(log.view(1), whole, "nothing was cut");
}

fn end_of(held: &[Entry]) -> Offset {
    held.last().map_or(Offset(0), Entry::end)
}

fn view_of(held: &[Entry], start: Offset) -> PartitionView {
    let mut view = PartitionView::default();
    support::fold(&mut view, held);
    view.advance_log_start(start);
    view
}

/// Goal: appends, cuts and questions keep their order without anybody waiting; what comes behind a
/// cut must follow it; answers come behind what is durable before.
#[test]
fn in_order() {
    let disk = SimDisk::new(1);
    let log = open(&disk, false);
    let p = PartitionId(1);
    log.log.ask_view(p).unwrap();
    let mut held = Vec::new();
    for n in 0..10 {
        held.push(varied(1, end_of(&held), n, 1));
        log.log.append(held[n].request()).unwrap();
    }
    log.log.ask_view(p).unwrap();
    let end = held[9].end();
    assert_eq!(log.log.truncate(p, end.plus(1)), Err(AppendError::Malformed));
    let cut = held[3].end();
    log.log.truncate(p, cut).unwrap();
    let refused = log.log.append(varied(1, end, 10, 2).request());
    assert_eq!(refused, Err(AppendError::NotDense { expected: cut, got: end }));
    let again = varied(1, cut, 11, 2);
    log.log.append(again.request()).unwrap();
    let backwards = varied(1, again.end(), 12, 1).request();
    assert_eq!(log.log.append(backwards), Err(AppendError::Malformed));
    log.log.ask_view(p).unwrap();
    log.recorder.wait_answer(1, 3);
    let before = view_of(&held, Offset(0));
    held.truncate(4);
    let at = view_of(&held, Offset(0));
    held.push(again);
    let after = view_of(&held, Offset(0));
    let seen = log.recorder.seen();
    let expected = [
        Answer::View(PartitionView::default()),
        Answer::View(before),
        Answer::Cut(at),
        Answer::View(after.clone()),
    ];
    assert_eq!(seen.answers[&p], expected);
    assert_eq!(seen.durable[&p], after.log_end);
    // To where it ends, and of a partition that is not there: nothing changes.
    assert_eq!(log.truncate(1, after.log_end.0), Answer::Cut(after));
    assert_eq!(log.truncate(7, 0), Answer::Cut(PartitionView::default()));
    assert_eq!(log.log.stats(PartitionId(7)), None);
}

/// Goal: a cut that cannot be done says why and changes nothing; what was handed in behind it is
/// gone, and the log goes on where it ended.
#[test]
fn cuts_that_fail() {
    let disk = SimDisk::new(1);
    let log = open(&disk, false);
    let p = PartitionId(1);
    for n in 0..30 {
        log.append(&entry(1, n * 10).records(10, 100).state("k", Some(&n.to_string())));
    }
    log.log.trim(p, Offset(100)).unwrap();
    log.recorder.wait_start(1, Offset(100));
    let mut view = log.view(1);
    for (end, error) in [
        (255, CutError::WithinEntry(Offset(255))),
        (90, CutError::BelowStart { end: Offset(90), start: Offset(100) }),
    ] {
        let before = log.recorder.answers(1);
        log.log.truncate(p, Offset(end)).unwrap();
        // Perhaps the answer was faster.
        let behind = log.log.append(entry(1, end).records(1, 10).epoch(2).request());
        assert!(matches!(behind, Ok(()) | Err(AppendError::NotDense { .. })), "{behind:?}");
        assert_eq!(log.recorder.wait_answer(1, before), Answer::Failed(error));
        assert_eq!(log.view(1), view);
        log.append(&entry(1, view.log_end.0).records(1, 10));
        view = log.view(1);
    }
    assert_eq!(log.log.shard_stats()[0].state, ShardState::Online);
    let log = reopen(log, &disk, false);
    assert_eq!(log.view(1), view);
}

/// Goal: where the cleaner has copied what a cut needs to know, the log says so and is as it was;
/// beginning anew works.
#[test]
fn a_cut_behind_the_cleaner() {
    let disk = SimDisk::new(1);
    let log = open(&disk, true);
    for n in 0..60 {
        log.append(&entry(1, n).records(1, 500));
        log.append(&entry(2, n).records(1, 1_500));
    }
    log.log.trim(PartitionId(2), Offset(60)).unwrap();
    let first = Path::new(DIR).join("0000000001.redb");
    until("the cleaner was there", || disk.file_len(&first).is_none());
    let view = log.view(1);
    match log.truncate(1, 1) {
        Answer::Failed(CutError::Forgotten { end, file }) => {
            assert_eq!(end, Offset(1));
            assert!(file.contains(".c"), "{file}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(log.view(1), view);
    // The end of the log lies in files that the cleaner leaves alone.
    assert!(matches!(log.truncate(1, 59), Answer::Cut(view) if view.log_end == Offset(59)));
    assert!(matches!(log.reset(1, PartitionView::default()), Answer::Cut(_)));
    assert_eq!(log.view(1), PartitionView::default());
}

/// A past with a bit of everything, which ends at `start`.
fn past(start: i64, epoch: i32) -> PartitionView {
    let mut producers = ProducerTable::default();
    let batch = ProducerBatch { id: ProducerId(5), epoch: 1, base_sequence: 7, count: 2 };
    producers.record(&batch, Offset(start - 2));
    PartitionView {
        log_start: Offset(start),
        log_end: Offset(start),
        append_time: TimestampMs(0),
        epochs: vec![(LeaderEpoch(epoch), Offset(start / 2))],
        producers,
        state: BTreeMap::from([(Bytes::from("k"), Bytes::from(start.to_string()))]),
    }
}

/// Goal: a log begins anew beyond, before and within what it has, and where it never was; nothing
/// of the old one is read or found any more, and cuts of the new one go back to its beginning.
#[test]
fn beginning_anew() {
    let disk = SimDisk::new(1);
    let mut log = open(&disk, false);
    let p = PartitionId(1);
    let mut epoch = 1;
    for (turn, start) in [500, 2_000, 100, 115, 0, 110].into_iter().enumerate() {
        epoch += 2;
        let begin = if start == 0 { PartitionView::default() } else { past(start, epoch - 1) };
        assert_eq!(log.reset(1, begin.clone()), Answer::Cut(begin.clone()));
        let checked = |log: &Running| {
            assert_eq!(log.log.read_entries(p, Offset(start), 100).unwrap().entries, []);
            for outside in [start - 1, start + 1] {
                let read = log.log.read_entries(p, Offset(outside), 100);
                assert!(matches!(read, Err(ReadError::OutOfRange { .. })), "{read:?}");
            }
            assert_eq!(log.log.find_time(p, TimestampMs(i64::MIN)), Ok(None));
            assert_eq!(log.log.stats(p).unwrap().bytes, 0);
        };
        checked(&log);
        if turn % 2 == 0 {
            log = reopen(log, &disk, false);
            checked(&log);
        }
        let (mut held, mut view) = (Vec::new(), begin.clone());
        for n in 0..30 {
            let next = varied(1, view.log_end, n, epoch);
            log.append(&next);
            support::fold(&mut view, [&next]);
            held.push(next);
            log.append(&varied(2, log.view(2).log_end, n, epoch));
        }
        if turn % 3 == 0 {
            log = reopen(log, &disk, false);
        }
        assert_eq!(log.view(1), view);
        let logged: Vec<_> = held.iter().map(Entry::logged).collect();
        assert_eq!(entries(&log.log, 1, Offset(start), 2_000), logged);
        assert_eq!(log.truncate(1, start), Answer::Cut(begin));
        checked(&log);
        for next in &held {
            log.append(next);
        }
    }
    let crooked = vec![(LeaderEpoch(3), Offset(1)), (LeaderEpoch(2), Offset(2))];
    let refused = log.log.reset(p, Offset(9), crooked, BTreeMap::new(), ProducerTable::default());
    assert_eq!(refused, Err(AppendError::Malformed));
    assert!(log.view(2).log_end > Offset(100));
}

/// Goal: when the file with a cut is lost, what the cut took away does not come back with it.
#[test]
fn a_cut_in_a_damaged_file() {
    let disk = SimDisk::new(1);
    let log = open(&disk, false);
    let p = PartitionId(1);
    let files = |log: &Running| log.log.shard_stats()[0].files;
    let mut end = 0;
    while files(&log) < 3 {
        log.append(&entry(1, end).records(1, 900));
        end += 1;
    }
    let cut = end - 8;
    assert!(matches!(log.truncate(1, cut), Answer::Cut(_)));
    end = cut;
    while files(&log) < 7 {
        log.append(&entry(1, end).epoch(2).records(1, 700));
        end += 1;
    }
    log.log.shutdown();
    drop(log);
    let dir = Path::new(DIR);
    disk.remove(&dir.join("manifest.redb")).unwrap();
    for seq in 3..=4 {
        for sector in 0..8 {
            disk.rot(&dir.join(format!("{seq:010}.redb")), sector * 512);
        }
    }
    let log = open(&disk, false);
    let (mut at, mut old, mut lost) = (0, 0, 0);
    while at < end {
        match log.log.read_entries(p, Offset(at), 1) {
            Ok(chunk) => {
                let entry = &chunk.entries[0];
                let epoch = if at < cut { 1 } else { 2 };
                assert_eq!((entry.header.base_offset, entry.header.epoch.0), (Offset(at), epoch));
                old += usize::from(epoch == 1);
                at = chunk.next_offset.0;
            }
            Err(ReadError::Corrupt { to, .. }) => {
                lost += to.0 - at;
                at = to.0;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(old > 0 && lost >= 8, "{old} old entries read, {lost} offsets lost");
}
