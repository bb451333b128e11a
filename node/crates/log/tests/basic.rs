//! The log on a real disk: append, read, recover, roll, seek.

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Answer, entry, small_config, start};
use weir_core::entry::EntryKind;
use weir_core::{Offset, PartitionId, ProducerId, TimestampMs};
use weir_log::{AppendError, Log, LogConfig, OpenError, ReadError, RealDisk, SystemClock};

const P: PartitionId = PartitionId(1);
const ALL: Offset = Offset(i64::MAX);

fn open(config: LogConfig) -> support::Running {
    start(config, Arc::new(RealDisk), Arc::new(SystemClock::new()))
}

/// Goal: what is reported durable reads back the same from memory and from disk, and after a
/// restart; entries without records take an offset and are stepped over.
#[test]
fn append_read_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    assert!(log.views.is_empty());
    assert_eq!(log.log.read(P, Offset(0), 100, ALL), Err(ReadError::UnknownPartition(P)));
    let first = entry(1, 0).record(5, "a").record(6, "b").producer(7, 0);
    let silent = entry(1, 2).state("k", Some("v"));
    let last = entry(1, 3).record(7, "c").producer(7, 2).epoch(2);
    for entry in [&first, &silent, &last] {
        log.append(entry);
    }
    let expected = vec![(0, b"a".to_vec()), (1, b"b".to_vec()), (3, b"c".to_vec())];
    assert_eq!(log.values(1, 0), expected);
    let cached = log.log.read_cached(P, Offset(0), 1 << 20, ALL).unwrap();
    let read = log.log.read(P, Offset(0), 1 << 20, ALL).unwrap();
    assert_eq!(cached, read);
    assert_eq!((read.batches.len(), read.next_offset), (2, Offset(4)));
    let out_of_range = ReadError::OutOfRange { start: Offset(0), end: Offset(4) };
    assert_eq!(log.log.read(P, Offset(5), 100, ALL), Err(out_of_range));
    assert_eq!(log.log.read(P, Offset(4), 100, ALL).unwrap().next_offset, Offset(4));
    log.log.shutdown();
    drop(log);

    let log = open(small_config(dir.path()));
    let view = &log.views[&P];
    assert_eq!((view.log_start, view.log_end), (Offset(0), Offset(4)));
    assert_eq!(view.epoch().0, 2);
    assert_eq!(view.state.len(), 1);
    let check = view.producers.check(&weir_core::partition::producers::ProducerBatch {
        id: ProducerId(7),
        epoch: 0,
        base_sequence: 2,
        count: 1,
    });
    assert_eq!(
        check,
        Ok(weir_core::partition::producers::Sequence::Duplicate { base_offset: Offset(3) })
    );
    assert_eq!(log.values(1, 0), expected);
    assert_eq!(log.log.read_cached(P, Offset(0), 100, ALL), None);
    log.append(&entry(1, 4).epoch(3).record(8, "d"));
    assert_eq!(log.values(1, 3).len(), 2);
}

/// Goal: appends that do not fit the log are refused before anything is written.
#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    let gap = AppendError::NotDense { expected: Offset(0), got: Offset(1) };
    assert_eq!(log.log.append(entry(1, 1).request()), Err(gap));
    let mut short = entry(1, 0).record(1, "x").request();
    short.header.batch_len += 1;
    assert_eq!(log.log.append(short), Err(AppendError::Malformed));
    log.append(&entry(1, 0).epoch(5));
    let old_epoch = entry(1, 1).epoch(4).request();
    assert_eq!(log.log.append(old_epoch), Err(AppendError::Malformed));
    let second =
        Log::open(small_config(dir.path()), Arc::new(RealDisk), Arc::new(SystemClock::new()));
    assert!(matches!(second, Err(OpenError::InUse(_))));
    log.log.shutdown();
    assert_eq!(log.log.append(entry(1, 1).request()), Err(AppendError::Closed));
}

/// Goal: many files later, everything is there, in order, before and after a restart; the views
/// are those of the first to the last entry.
#[test]
fn rolling() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    let mut ends = [0i64; 5];
    for n in 0..300u32 {
        let p = n % 5;
        let next = entry(p, ends[p as usize])
            .epoch(1 + n as i32 / 50)
            .producer(i64::from(p), ends[p as usize] as i32)
            .records(1 + n as usize % 7, 700);
        log.append(&next);
        ends[p as usize] = next.end().0;
    }
    let check = |log: &support::Running| {
        for p in 0..5 {
            let values = log.values(p, 0);
            assert_eq!(values.len() as i64, ends[p as usize]);
            for (n, (offset, value)) in values.iter().enumerate() {
                assert_eq!(*offset, n as i64);
                assert_eq!(value[0], n as u8);
            }
        }
    };
    check(&log);
    let files = log.log.shard_stats()[0].files;
    assert!(files > 5, "{files} files");
    log.log.shutdown();
    drop(log);
    let log = open(small_config(dir.path()));
    for p in 0..5 {
        let view = &log.views[&PartitionId(p)];
        assert_eq!(view.log_end.0, ends[p as usize]);
        assert_eq!(view.epoch().0, 6);
        assert_eq!(view.producers.len(), 1);
    }
    check(&log);
}

/// Goal: a time finds the first record, in log order, that is not older; event times may be out of
/// order.
#[test]
fn find_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    let times = [10, 50, 20, 20, 90, 5, 60, 100];
    for (n, time) in times.into_iter().enumerate() {
        let filler = vec![0; 20_000];
        log.append(&entry(1, 2 * n as i64).record(time, filler).record(time - 3, "x"));
    }
    let find = |at| log.log.find_time(P, TimestampMs(at)).unwrap();
    for at in 0..110 {
        let expected = (0..times.len() * 2)
            .find(|n| times[n / 2] - 3 * (*n as i64 % 2) >= at)
            .map(|n| Offset(n as i64));
        assert_eq!(find(at), expected, "time {at}");
    }
    log.log.trim(P, Offset(9)).unwrap();
    log.recorder.wait_start(1, Offset(9));
    assert_eq!(find(87), Some(Offset(9)));
    assert_eq!(find(88), Some(Offset(14)));
}

/// Goal: log starts, truncations and deletions are durable, and what they cut off never comes back.
#[test]
fn cuts() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    for n in 0..40 {
        log.append(&entry(1, n * 3).records(3, 2_000));
        log.append(&entry(2, n).records(1, 2_000));
    }
    let mut other = entry(1, 99).request();
    other.header.kind = EntryKind::Truncate;
    other.header.offset_count = 0;
    assert_eq!(log.log.append(other), Err(AppendError::Malformed), "not by the way of entries");
    assert!(matches!(log.truncate(1, 99), Answer::Cut(view) if view.log_end == Offset(99)));
    log.append(&entry(1, 99).epoch(2).record(1, "new"));
    log.log.trim(P, Offset(20)).unwrap();
    log.recorder.wait_start(1, Offset(20));
    log.log.delete_partition(PartitionId(2)).unwrap();
    log.append(&entry(3, 0).record(1, "other"));
    let check = |log: &support::Running| {
        let values = log.values(1, 20);
        let offsets: Vec<i64> = values.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (20..100).collect::<Vec<_>>());
        assert_eq!(values.last().unwrap().1, b"new");
        let below = log.log.read(P, Offset(19), 100, ALL);
        assert!(matches!(below, Err(ReadError::OutOfRange { .. })));
        let deleted = log.log.read(PartitionId(2), Offset(0), 100, ALL);
        assert!(matches!(deleted, Err(ReadError::UnknownPartition(_))));
    };
    check(&log);
    log.log.shutdown();
    drop(log);
    let log = open(small_config(dir.path()));
    check(&log);
    assert!(!log.views.contains_key(&PartitionId(2)));
}

/// Goal: a linger gathers appends into one commit, and an append that does not linger ends it.
#[test]
fn linger() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(small_config(dir.path()));
    let mut patient = entry(1, 0).record(1, "x");
    patient.linger = Duration::from_secs(3600);
    for n in 0..10 {
        patient.base = n;
        log.log.append(patient.request()).unwrap();
    }
    let before = log.recorder.seen().commits;
    assert_eq!(before, 0);
    log.append(&entry(2, 0).record(1, "y"));
    log.recorder.wait_durable(1, Offset(10));
    assert_eq!(log.recorder.seen().commits, 1);
}
