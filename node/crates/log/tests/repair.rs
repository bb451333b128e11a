//! Accepting the loss of an active file that rotted while nobody had it open.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{HandClock, Recorder, Running, entry, small_config};
use weir_core::{Offset, PartitionId};
use weir_log::sim::{Faults, SimDisk};
use weir_log::{
    AppendError, Clock, Disk, Log, LogConfig, Loss, OpenError, ReadError, Repair, ShardState,
};

const DIR: &str = "/data/log/shard-0";
/// A partition that the log has never heard of, because all it had is lost.
const FRESH: PartitionId = PartitionId(9);

fn config() -> LogConfig {
    LogConfig { file_bytes: 24 * 1024, ..small_config(Path::new("/data")) }
}

fn clock() -> Arc<HandClock> {
    HandClock::at(1_000_000)
}

fn open(disk: &SimDisk) -> Running {
    let (log, views) = Log::open(config(), Arc::new(disk.clone()), clock()).unwrap();
    let recorder = Recorder::new();
    log.start(recorder.clone());
    Running { log, recorder, views }
}

/// Fills a few files, then loses the newest one while the power is off. Returns where partition 1
/// ended, and the lost file.
fn lose_the_active_file(disk: &SimDisk) -> (Offset, PathBuf) {
    let log = open(disk);
    let mut base = 0;
    while log.log.shard_stats()[0].files < 4 {
        log.append(&entry(1, base).records(2, 900));
        base += 2;
    }
    for _ in 0..3 {
        log.append(&entry(1, base).records(2, 900));
        base += 2;
    }
    disk.cut_power();
    drop(log);
    disk.restore_power();
    let names = disk.list(Path::new(DIR)).unwrap();
    let logs = names.iter().filter(|name| name.starts_with('0') && name.ends_with(".redb"));
    let mut paths: Vec<_> = logs.map(|name| Path::new(DIR).join(name)).collect();
    paths.sort();
    let lost = newest_begun(disk, &paths);
    for sector in 0..8 {
        disk.rot(&lost, sector * 512);
    }
    (Offset(base), lost)
}

/// The file whose number the log would go on with.
fn newest_begun(disk: &SimDisk, paths: &[PathBuf]) -> PathBuf {
    let log = open(disk);
    let files = log.log.shard_stats()[0].files;
    // Not in good order: the file must look as after a crash.
    disk.cut_power();
    drop(log);
    disk.restore_power();
    paths[files - 1].clone()
}

fn find(disk: &SimDisk) -> (Repair, Vec<Loss>) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn Clock> = clock();
    let mut repair = Repair::open(config(), shared).unwrap();
    let losses = repair.find(&clock, &[PartitionId(1), FRESH]).unwrap();
    (repair, losses)
}

/// Goal: a damaged active file takes the shard offline until its loss is accepted; what is kept
/// reads back, what is lost answers with where to go on, no offset is used again, and the file is
/// kept.
#[test]
fn accepting_a_loss() {
    let disk = SimDisk::new(1);
    let (end, lost) = lose_the_active_file(&disk);
    let log = open(&disk);
    let stats = log.log.shard_stats();
    assert!(matches!(stats[0].state, ShardState::Offline { .. }), "{:?}", stats[0].state);
    let refused = log.log.append(entry(1, end.0).request());
    assert!(matches!(refused, Err(AppendError::Offline { .. })));
    let busy = Repair::open(config(), Arc::new(disk.clone()));
    assert!(matches!(busy, Err(OpenError::InUse(_))));
    log.log.shutdown();
    drop(log);

    let (repair, losses) = find(&disk);
    assert_eq!(losses.len(), 1);
    assert_eq!(losses[0].file, lost);
    let of = |partition| losses[0].partitions.iter().find(|l| l.partition == partition).unwrap();
    let known = *of(PartitionId(1));
    assert!(known.from > Offset(0) && known.from < end);
    assert_eq!(known.seen_end, Some(end), "what can be made out is said");
    assert!(known.resume > end);
    assert_eq!(of(FRESH).from, Offset(0));
    drop(repair);
    let (repair, again) = find(&disk);
    assert_eq!(losses, again, "looking changes nothing");
    let aside = repair.accept().unwrap();
    assert!(disk.file_len(&aside[0]).is_some_and(|len| len > 0), "the file is kept");
    assert!(disk.file_len(&lost).is_none());
    let (repair, none) = find(&disk);
    assert_eq!(none, []);
    drop(repair);

    for _ in 0..2 {
        let log = open(&disk);
        let view = log.views.get(&PartitionId(1)).unwrap();
        assert!(view.log_end >= known.resume);
        let next = view.log_end.0;
        log.append(&entry(1, next).epoch(2).records(2, 900));
        let fresh = log.views.get(&FRESH).unwrap().log_end;
        log.append(&entry(FRESH.0, fresh.0).epoch(2).records(1, 10));
        let first = log.log.read(PartitionId(1), Offset(0), 1 << 20, known.from).unwrap();
        assert_eq!(first.batches.first().map(|b| b[..8].to_vec()), Some(vec![0; 8]));
        match log.log.read(PartitionId(1), known.from, 1 << 20, Offset(i64::MAX)) {
            Err(ReadError::Corrupt { from, to, .. }) => {
                assert_eq!((from, to), (known.from, known.resume));
            }
            other => panic!("{other:?}"),
        }
        let values = log.values(1, known.resume.0);
        assert!(values.iter().any(|(offset, _)| *offset == next), "what was appended is there");
    }
}

/// Goal: accepting is all or nothing, wherever the power goes.
#[test]
fn power_cut_while_accepting() {
    for at in 1..40 {
        let disk = SimDisk::new(at);
        let (end, _) = lose_the_active_file(&disk);
        let (repair, losses) = find(&disk);
        disk.set_faults(Faults { cut_at_sync: Some(at), ..Faults::default() });
        let accepted = repair.accept().is_ok();
        disk.cut_power();
        disk.restore_power();
        let (repair, left) = find(&disk);
        if !left.is_empty() {
            assert!(!accepted, "cut at sync {at}");
            assert_eq!(left[0].partitions, losses[0].partitions);
            repair.accept().unwrap();
        } else {
            drop(repair);
        }
        let log = open(&disk);
        let next = log.views.get(&PartitionId(1)).unwrap().log_end;
        assert!(next > end);
        log.append(&entry(1, next.0).epoch(2).records(1, 10));
        if accepted {
            assert!(at > 3, "there is something to cut");
            return;
        }
    }
    panic!("never accepted");
}

/// Goal: one rotten sector of the active file, wherever it lies, is never taken for the end of the
/// log: either everything acknowledged is there, or the shard stays offline and gives no offset
/// again. Method: the same log, once for each of many sectors, killed without a power cut.
#[test]
fn rot_in_the_active_file_is_never_silent() {
    let (mut whole, mut offline) = (0, 0);
    let mut sector = 0;
    loop {
        let disk = SimDisk::new(7);
        let log = open(&disk);
        let mut base = 0;
        for _ in 0..12 {
            log.append(&entry(1, base).records(2, 900));
            base += 2;
        }
        // A killed process leaves what it wrote to the system, synced or not.
        disk.open(&Path::new(DIR).join("witness")).unwrap().sync().unwrap();
        disk.cut_power();
        drop(log);
        disk.restore_power();
        let active = Path::new(DIR).join("0000000001.redb");
        let len = disk.file_len(&active).unwrap();
        if sector * 512 >= len {
            break;
        }
        disk.rot(&active, sector * 512);
        // A file that is all there is, and not even known for one of ours, is refused as a whole.
        let opened = Log::open(config(), Arc::new(disk.clone()), clock());
        if let Ok((log, views)) = opened {
            log.start(Recorder::new());
            let end = views.get(&PartitionId(1)).map_or(Offset(0), |view| view.log_end);
            match &log.shard_stats()[0].state {
                ShardState::Offline { .. } => offline += 1,
                state => {
                    assert_eq!(end, Offset(base), "sector {sector}: {state:?}");
                    whole += 1;
                }
            }
        } else {
            offline += 1;
        }
        sector += (len / 512 / 150).max(1);
    }
    assert!(whole > 0 && offline > 0, "{whole} whole, {offline} offline");
}
