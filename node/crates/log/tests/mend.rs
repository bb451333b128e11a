//! Writing damaged files anew, on the simulated disk, from what still reads and from a twin.

mod support;

use bytes::{Bytes, BytesMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{HandClock, PATIENCE, Running, entries, entry, small_config, start};
use weir_core::{Offset, PartitionId};
use weir_log::sim::SimDisk;
use weir_log::{DamagedFile, Disk, LogConfig, MendError, ReadError};

const A: PartitionId = PartitionId(1);
const B: PartitionId = PartitionId(2);
const DIR: &str = "/data/log/shard-0";

/// A log and its twin with the same entries.
struct Twins {
    disk: SimDisk,
    clock: Arc<HandClock>,
    log: Running,
    twin: Running,
}

fn config() -> LogConfig {
    LogConfig {
        retention_interval: Duration::from_millis(1),
        scrub_interval: Duration::from_millis(1),
        scrub_period: Duration::from_secs(60),
        // The cleaner would take the file under test away now and then.
        clean_below_percent: 0,
        ..small_config(Path::new("/data"))
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

impl Twins {
    fn new(seed: u64) -> Twins {
        let (disk, clock) = (SimDisk::new(seed), HandClock::at(1_000_000));
        let log = start(config(), Arc::new(disk.clone()), clock.clone());
        let twin = start(config(), Arc::new(SimDisk::new(seed + 1)), clock.clone());
        // Until two files are sealed at least: a slow thread of the log's makes longer ones.
        let mut n = 0;
        while n < 100 || log.log.shard_stats()[0].files < 4 {
            for log in [&log, &twin] {
                log.append(&entry(A.0, n * 4).records(4, 1_000).append_time(1_000_000));
                if n % 3 == 0 {
                    log.append(&entry(B.0, n).records(3, 200).append_time(1_000_000));
                }
            }
            n += 1;
        }
        let twins = Twins { disk, clock, log, twin };
        until("checksums are known", || {
            let stats = &twins.log.log.shard_stats()[0];
            stats.files_verified >= stats.files as u64 - 1
        });
        twins
    }

    /// Sealed files, the oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let mut names = self.disk.list(Path::new(DIR)).unwrap();
        names.retain(|name| name.starts_with("00"));
        names.sort();
        names.iter().map(|name| Path::new(DIR).join(name)).collect()
    }

    fn find_rot(&self) -> DamagedFile {
        self.clock.pass(120_000);
        until("the rot is found", || !self.log.log.damaged_files().is_empty());
        self.log.log.damaged_files().remove(0)
    }

    fn entries_of_twin(&self, partition: PartitionId, from: Offset) -> Bytes {
        let chunk = self.twin.log.read_entries(partition, from, 5_000).unwrap();
        let mut bytes = BytesMut::new();
        chunk.entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.to_bytes()));
        bytes.freeze()
    }

    /// Returns how many offsets came from the twin.
    fn mend(&self, damaged: &DamagedFile) -> u64 {
        let mut mend = self.log.log.mend(damaged).unwrap();
        while let Some(missing) = mend.missing().unwrap() {
            mend.give(&self.entries_of_twin(missing.partition, missing.from)).unwrap();
        }
        mend.finish().unwrap()
    }

    fn assert_equal(&self) {
        assert_equal(&self.log, &self.twin);
    }
}

fn assert_equal(log: &Running, twin: &Running) {
    for partition in [A, B] {
        let from = log.log.stats(partition).unwrap().log_start;
        let ours = entries(&log.log, partition.0, from, 1 << 20);
        assert_eq!(ours, entries(&twin.log, partition.0, from, 1 << 20));
        assert!(ours.len() > 10);
    }
}

/// Goal: wherever a file rots, it is written anew from what still reads and from the twin, entry by
/// entry as it was, for good; a byte in the records costs no more than a few entries.
#[test]
fn rot_anywhere() {
    let mut random = fastrand::Rng::with_seed(31);
    let (mut little, mut all) = (0, 0);
    for seed in 0..30 {
        let twins = Twins::new(seed * 2);
        let files = twins.files();
        // Not the newest sealed one, the active one, and the next.
        let file = &files[random.usize(..files.len().saturating_sub(3).max(1))];
        let len = twins.disk.open(file).unwrap().len().unwrap();
        for _ in 0..random.u32(1..4) {
            twins.disk.rot(file, random.u64(0..len));
        }
        let damaged = twins.find_rot();
        let held: u64 = damaged.holds.iter().map(|(_, range)| range.end.since(range.start)).sum();
        let given = twins.mend(&damaged);
        assert!(given <= held, "{given} of {held}");
        little += u32::from(given < held / 2);
        all += u32::from(given == held);
        assert!(twins.log.log.damaged_files().is_empty());
        assert!(twins.log.log.shard_stats()[0].quarantined.is_empty());
        assert!(!twins.files().contains(file), "{file:?}");
        twins.assert_equal();
        let Twins { disk, clock, log, twin } = twins;
        log.log.shutdown();
        drop(log);
        assert_equal(&start(config(), Arc::new(disk), clock), &twin);
    }
    // Both kinds of rot were met: in records, and in what redb needs to find anything.
    assert!(little >= 3 && all >= 1, "{little} {all}");
}

/// Goal: whoever reads a rotten entry finds it without the scrub, and after the mending reads on.
#[test]
fn a_reader_finds_rot() {
    let twins = Twins::new(7);
    let file = twins.files().remove(0);
    let meets_rot = || {
        let mut from = Offset(0);
        while from < twins.log.log.stats(A).unwrap().end {
            match twins.log.log.read(A, from, 1 << 20, Offset(i64::MAX)) {
                Ok(chunk) => from = chunk.next_offset,
                Err(ReadError::Corrupt { .. }) => return true,
                Err(error) => panic!("{error}"),
            }
        }
        false
    };
    // Where in the file records lie depends on redb's pages.
    let mut at = 9_000;
    until("a reader meets it", || {
        twins.disk.rot(&file, at);
        at += 4_096;
        meets_rot()
    });
    until("it is known", || !twins.log.log.damaged_files().is_empty());
    let damaged = twins.log.log.damaged_files().remove(0);
    assert!(twins.mend(&damaged) > 0);
    twins.assert_equal();
}

/// Goal: what is not the missing entry is refused, a mending that is given up leaves everything as
/// it was, and only one is made at a time; a log that starts within an entry keeps the whole of it.
#[test]
fn refusals() {
    let twins = Twins::new(9);
    for log in [&twins.log, &twins.twin] {
        log.log.trim(A, Offset(6)).unwrap();
        log.recorder.wait_start(A.0, Offset(6));
    }
    let file = twins.files().remove(0);
    // Nothing of it can be opened any more.
    (0..64).for_each(|at| twins.disk.rot(&file, at));
    let damaged = twins.find_rot();
    let mut mend = twins.log.log.mend(&damaged).unwrap();
    assert!(matches!(twins.log.log.mend(&damaged), Err(MendError::Gone)));
    let missing = mend.missing().unwrap().unwrap();
    assert_eq!((missing.partition, missing.from), (A, Offset(6)));
    let good = twins.entries_of_twin(A, Offset(6));
    let mut bad = good.to_vec();
    bad[500] ^= 1;
    for wrong in [
        Bytes::new(),
        Bytes::from(bad),
        good.slice(..100),
        twins.entries_of_twin(A, Offset(12)),
        twins.entries_of_twin(B, Offset(0)),
    ] {
        assert!(matches!(mend.give(&wrong), Err(MendError::Foreign { .. })), "{wrong:?}");
    }
    mend.give(&good).unwrap();
    assert!(matches!(mend.finish(), Err(MendError::Gone)), "something is missing");
    let left = twins.disk.list(Path::new(DIR)).unwrap();
    assert!(!left.iter().any(|name| name.contains(".c1.")), "{left:?}");
    assert_eq!(twins.log.log.damaged_files(), std::slice::from_ref(&damaged));
    assert!(twins.files().contains(&file));
    twins.mend(&damaged);
    let first = twins.log.log.read_entries(A, Offset(6), 1).unwrap();
    assert_eq!(first.entries[0].header.base_offset, Offset(4));
    twins.assert_equal();
    assert!(matches!(twins.log.log.mend(&damaged), Err(MendError::Gone)));
}
