//! Retention, the cleaner, the scrub and the manifest, on the simulated disk.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{HandClock, PATIENCE, Running, entry, small_config, start};
use weir_core::{Offset, PartitionId};
use weir_log::sim::{Faults, SimDisk};
use weir_log::{Disk, LogConfig, ReadError, Retention};

const SHORT: PartitionId = PartitionId(1);
const LONG: PartitionId = PartitionId(2);

/// Looks after retention all the time.
fn config() -> LogConfig {
    LogConfig {
        retention_interval: Duration::from_millis(1),
        scrub_interval: Duration::from_millis(1),
        ..small_config(Path::new("/data"))
    }
}

/// Looks after rot all the time, and copies nothing: half of so small a file can be free pages of
/// redb's, which the cleaner takes for dead records now and then, and the file under test is gone.
fn scrub_config() -> LogConfig {
    LogConfig { scrub_period: Duration::from_secs(60), clean_below_percent: 0, ..config() }
}

fn open(disk: &SimDisk, clock: &Arc<HandClock>) -> Running {
    start(config(), Arc::new(disk.clone()), clock.clone())
}

/// Appends `count` records of 4 KiB to each partition, the short-lived one being most of it.
fn fill(log: &Running, from: i64, count: i64, now: i64) {
    for n in from..from + count {
        log.append(&entry(SHORT.0, n * 4).records(4, 1_000).append_time(now));
        if n % 4 == 0 {
            log.append(&entry(LONG.0, n).records(4, 200).append_time(now));
        }
    }
}

/// Waits, without sleeping, until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Goal: two partitions of different retention share files; the short one's log start moves, disk
/// use follows what is retained, and the long one reads back whole, before and after a restart.
#[test]
fn mixed_retention_shares_files() {
    let disk = SimDisk::new(1);
    let clock = HandClock::at(1_000_000);
    let log = open(&disk, &clock);
    log.log.set_retention(SHORT, Retention { age_ms: Some(60_000), ..Retention::default() });
    log.log.set_retention(LONG, Retention::default());
    fill(&log, 0, 400, 1_000_000);
    let full = log.log.shard_stats()[0].bytes_on_disk;
    clock.pass(120_000);
    // One more, so that there is a newest append time close to the clock.
    fill(&log, 400, 4, 1_120_000);
    log.recorder.wait_start(SHORT.0, Offset(1_500));
    until("disk use follows", || log.log.shard_stats()[0].bytes_on_disk < full / 3);
    let check = |log: &Running| {
        assert_eq!(log.values(LONG.0, 0).len(), 404);
        let stats = log.log.stats(SHORT).unwrap();
        assert!(stats.log_start >= Offset(1_500), "{stats:?}");
        assert!(stats.bytes < 100_000, "{stats:?}");
        let read = log.log.read(SHORT, Offset(0), 100, Offset(i64::MAX));
        assert!(matches!(read, Err(ReadError::OutOfRange { .. })));
        let rest = log.values(SHORT.0, stats.log_start.0);
        assert_eq!(rest.last().map(|(offset, _)| *offset), Some(404 * 4 - 1));
    };
    check(&log);
    log.log.shutdown();
    drop(log);
    let log = open(&disk, &clock);
    check(&log);
}

/// Goal: retention by size keeps at least as much as is to be kept, and not much more.
#[test]
fn by_size() {
    let disk = SimDisk::new(2);
    let clock = HandClock::at(1_000_000);
    let log = open(&disk, &clock);
    log.log.set_retention(SHORT, Retention { bytes: Some(200_000), ..Retention::default() });
    fill(&log, 0, 300, 1_000_000);
    until("the size shrinks", || log.log.stats(SHORT).unwrap().bytes < 240_000);
    let stats = log.log.stats(SHORT).unwrap();
    assert!(stats.bytes >= 190_000, "{stats:?}");
}

/// Goal: a clock that jumps expires nothing until the time is confirmed.
#[test]
fn a_jump_of_the_clock() {
    let disk = SimDisk::new(3);
    let clock = HandClock::at(1_000_000);
    let log = open(&disk, &clock);
    fill(&log, 0, 50, 1_000_000);
    // The clock is seen once before it jumps.
    log.log.set_retention(LONG, Retention { bytes: Some(0), ..Retention::default() });
    log.recorder.wait_start(LONG.0, Offset(1));
    clock.jump_to(1_800_000_000_000);
    until("suspension", || log.log.shard_stats()[0].clock_suspended);
    log.log.set_retention(SHORT, Retention { age_ms: Some(60_000), ..Retention::default() });
    // A round of retention passes: it moves the other partition's start.
    log.append(&entry(LONG.0, 52).records(1, 10).append_time(1_000_000));
    log.recorder.wait_start(LONG.0, Offset(53));
    assert_eq!(log.log.stats(SHORT).unwrap().log_start, Offset(0));
    log.log.confirm_time();
    log.recorder.wait_start(SHORT.0, Offset(200));
}

/// Goal: deleted partitions free their disk space.
#[test]
fn deletion_frees() {
    let disk = SimDisk::new(4);
    let clock = HandClock::at(1_000_000);
    let log = open(&disk, &clock);
    fill(&log, 0, 200, 1_000_000);
    let full = log.log.shard_stats()[0].files;
    assert!(full > 6);
    log.log.delete_partition(SHORT).unwrap();
    until("files go", || log.log.shard_stats()[0].files <= 4);
    assert_eq!(log.values(LONG.0, 0).len(), 200);
    assert_eq!(log.log.stats(SHORT), None);
}

/// Goal: the scrub finds rot that no reader met, and takes that file only out of use.
#[test]
fn scrub() {
    let disk = SimDisk::new(5);
    let clock = HandClock::at(1_000_000);
    let log = start(scrub_config(), Arc::new(disk.clone()), clock.clone());
    fill(&log, 0, 100, 1_000_000);
    let dir = Path::new("/data/log/shard-0");
    let mut names = disk.list(dir).unwrap();
    names.sort();
    let first = dir.join(&names[0]);
    // Every sealed file is read once to learn its checksum; then once more after the period.
    until("checksums are known", || {
        let stats = &log.log.shard_stats()[0];
        stats.files_verified >= stats.files as u64 - 1
    });
    disk.rot(&first, 20_000);
    clock.pass(120_000);
    until("the rot is found", || !log.log.shard_stats()[0].quarantined.is_empty());
    let quarantined = log.log.shard_stats()[0].quarantined.clone();
    assert_eq!(quarantined, [names[0].clone()]);
    let read = log.log.read(SHORT, Offset(0), 100, Offset(i64::MAX));
    assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
    assert!(!log.values(SHORT.0, 300).is_empty());
}

/// Goal: a sealed file that the disk failed to read once is put to use again without a restart.
#[test]
fn a_file_that_reads_again() {
    let disk = SimDisk::new(7);
    let clock = HandClock::at(1_000_000);
    let log = start(scrub_config(), Arc::new(disk.clone()), clock);
    fill(&log, 0, 100, 1_000_000);
    until("checksums are known", || {
        let stats = &log.log.shard_stats()[0];
        stats.files_verified >= stats.files as u64 - 1
    });
    let read = || log.log.read(SHORT, Offset(0), 100, Offset(i64::MAX));
    until("a read fails", || {
        disk.set_faults(Faults { fail_read: Some(1), ..Faults::default() });
        matches!(read(), Err(ReadError::Unavailable { .. }))
    });
    disk.set_faults(Faults::default());
    until("it reads again", || read().is_ok());
    assert!(log.log.shard_stats()[0].quarantined.is_empty());
}

/// Goal: without the manifest the files themselves tell what they hold.
#[test]
fn a_lost_manifest() {
    let disk = SimDisk::new(6);
    let clock = HandClock::at(1_000_000);
    let log = open(&disk, &clock);
    fill(&log, 0, 100, 1_000_000);
    log.log.shutdown();
    drop(log);
    disk.remove(Path::new("/data/log/shard-0/manifest.redb")).unwrap();
    let log = open(&disk, &clock);
    assert_eq!(log.values(SHORT.0, 0).len(), 400);
    assert_eq!(log.values(LONG.0, 0).len(), 100);
}

/// Appends to both partitions while the short one's retention by size keeps the cleaner busy, until
/// the power goes; then checks what is there. Returns whether the power went.
fn cut_while_cleaning(seed: u64, at: u64) -> bool {
    let disk = SimDisk::new(seed);
    let clock = HandClock::at(1_000_000);
    let config = LogConfig { file_bytes: 24 * 1024, ..config() };
    let log = start(config.clone(), Arc::new(disk.clone()), clock.clone());
    log.log.set_retention(SHORT, Retention { bytes: Some(30_000), ..Retention::default() });
    disk.set_faults(Faults { cut_at_sync: Some(at), ..Faults::default() });
    let mut sent = [0i64; 2];
    for n in 0..150 {
        let mut entries = vec![entry(SHORT.0, sent[0]).records(4, 1_000)];
        if n % 4 == 0 {
            entries.push(entry(LONG.0, sent[1]).records(4, 200));
        }
        for entry in &entries {
            if log.log.append(entry.request()).is_ok() {
                sent[entry.partition as usize - 1] = entry.end().0;
            }
        }
        let arrived = |seen: &support::Seen| {
            let durable = |e: &support::Entry| seen.durable.get(&PartitionId(e.partition));
            entries.iter().all(|e| durable(e).is_some_and(|&end| end >= e.end()))
        };
        let seen = log.recorder.wait("a fate", |seen| !seen.failures.is_empty() || arrived(seen));
        if !seen.failures.is_empty() {
            break;
        }
    }
    let seen = log.recorder.seen();
    let came = !disk.is_powered();
    disk.cut_power();
    drop(log);
    disk.restore_power();
    let log = start(config, Arc::new(disk.clone()), clock);
    for (partition, sent) in [SHORT, LONG].into_iter().zip(sent) {
        let durable = seen.durable.get(&partition).map_or(0, |end| end.0);
        let Some(view) = log.views.get(&partition) else {
            assert_eq!(durable, 0);
            continue;
        };
        assert!((durable..=sent).contains(&view.log_end.0), "{view:?}");
        assert!(view.log_start >= seen.starts.get(&partition).copied().unwrap_or_default());
        assert!(partition == SHORT || view.log_start == Offset(0));
        let values = log.values(partition.0, view.log_start.0);
        let offsets: Vec<i64> = values.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (view.log_start.0..view.log_end.0).collect::<Vec<_>>());
        assert!(values.iter().all(|(offset, value)| value[0] == *offset as u8));
    }
    came
}

/// Goal: the power goes at every single sync while files are rolled, sealed, cleaned and removed;
/// nothing that is retained is lost.
#[test]
fn power_cut_at_every_sync_while_cleaning() {
    let mut at = 1;
    while cut_while_cleaning(at, at) {
        at += 1;
    }
    assert!(at > 60, "only {at} syncs");
}
