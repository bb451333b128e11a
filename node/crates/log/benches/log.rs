//! Speed of the log: append and read. Figures are per entry of one record.
//!
//! `cargo bench -p weir-log --bench log`, or with `-- read` behind it for some of them. Appends
//! wait for the disk that `target` is on; `--example log_bench` compares them with the bare disk.

#[path = "../examples/support/mod.rs"]
mod support;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use support::{batch, request};
use tempfile::TempDir;
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId};
use weir_log::{CutError, Log, LogConfig, LogEvents, RealDisk, SystemClock};

const PARTITION: PartitionId = PartitionId(0);
const SIZES: [usize; 4] = [100, 1 << 10, 16 << 10, 64 << 10];
/// Bytes of entries that are read back.
const READ_BYTES: usize = 32 << 20;

fn main() {
    divan::main();
}

/// Where the one partition durably ends.
#[derive(Default)]
struct Durable {
    end: Mutex<Offset>,
    news: Condvar,
}

impl LogEvents for Durable {
    fn durable(&self, _: u16, ends: &[(PartitionId, Offset)]) {
        if let Some((_, end)) = ends.last() {
            *self.end.lock().unwrap() = *end;
            self.news.notify_one();
        }
    }
    fn failed(&self, _: u16, reason: &str) {
        panic!("the log failed: {reason}");
    }
    fn recovered(&self, _: u16, _: &HashMap<PartitionId, PartitionView>) {}
    fn log_start(&self, _: PartitionId, _: Offset) {}
    fn view(&self, _: PartitionId, _: &PartitionView) {}
    fn view_at(&self, _: PartitionId, _: Offset, _: Result<&PartitionView, &weir_log::CutError>) {}

    fn cut(&self, _: PartitionId, _: &PartitionView) {}
    fn cut_failed(&self, _: PartitionId, _: &CutError) {}
}

/// A log in a folder of its own, and where its partition ends.
struct Running {
    log: Log,
    durable: Arc<Durable>,
    end: Offset,
    _dir: TempDir,
}

impl Running {
    fn new(tail_cache_bytes: usize) -> Running {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let config = LogConfig { shards: 1, tail_cache_bytes, ..LogConfig::new(dir.path()) };
        let disk = Arc::new(RealDisk);
        let (log, _) = Log::open(config, disk, Arc::new(SystemClock::new())).unwrap();
        let durable = Arc::new(Durable::default());
        log.start(durable.clone());
        Running { log, durable, end: Offset::ZERO, _dir: dir }
    }

    /// Appends `count` entries at once and waits until all are durable.
    fn append(&mut self, batch: &Bytes, count: usize) {
        for _ in 0..count {
            self.log.append(request(PARTITION, self.end, LeaderEpoch(1), batch)).unwrap();
            self.end = self.end.plus(1);
        }
        let end = self.durable.end.lock().unwrap();
        drop(self.durable.news.wait_while(end, |end| *end < self.end).unwrap());
    }
}

/// One append under way at a time: a commit each.
#[divan::bench(args = SIZES, sample_size = 1)]
fn append_alone(bencher: Bencher<'_, '_>, bytes: usize) {
    let mut running = Running::new(0);
    let batch = batch(bytes);
    bencher.counter(BytesCount::new(bytes)).bench_local(|| running.append(&batch, 1));
}

/// 32 appends at once.
#[divan::bench(args = SIZES, sample_size = 1)]
fn append_group(bencher: Bencher<'_, '_>, bytes: usize) {
    let mut running = Running::new(0);
    let batch = batch(bytes);
    bencher
        .counter(BytesCount::new(32 * bytes))
        .counter(ItemsCount::new(32usize))
        .bench_local(|| running.append(&batch, 32));
}

/// All of the log in chunks of 1 MiB, from files in the page cache.
#[divan::bench(args = SIZES, sample_size = 1, sample_count = 20)]
fn read_files(bencher: Bencher<'_, '_>, bytes: usize) {
    let running = filled(bytes, 0);
    let counted = bencher.counter(BytesCount::new(READ_BYTES));
    counted.bench_local(|| {
        let mut at = Offset::ZERO;
        while at < running.end {
            let chunk = running.log.read(PARTITION, at, 1 << 20, Offset(i64::MAX)).unwrap();
            at = black_box(chunk).next_offset;
        }
    });
}

/// The same from the tail cache.
#[divan::bench(args = SIZES, sample_size = 1, sample_count = 20)]
fn read_cached(bencher: Bencher<'_, '_>, bytes: usize) {
    let running = filled(bytes, usize::MAX / 2);
    let counted = bencher.counter(BytesCount::new(READ_BYTES));
    counted.bench_local(|| {
        let mut at = Offset::ZERO;
        while at < running.end {
            let max = Offset(i64::MAX);
            let chunk = running.log.read_cached(PARTITION, at, 1 << 20, max).unwrap();
            at = black_box(chunk).next_offset;
        }
    });
}

fn filled(bytes: usize, tail_cache_bytes: usize) -> Running {
    let mut running = Running::new(tail_cache_bytes);
    let batch = batch(bytes);
    let group = ((1 << 20) / bytes).min(1024);
    for _ in 0..READ_BYTES / (group * bytes) {
        running.append(&batch, group);
    }
    running
}
