//! The log against raw append + `fdatasync` with the same bytes per sync, in turns, in one folder.
//!
//! ```text
//! cargo run --release -p weir-log --example log_bench -- [--dir DIR] [--rounds N] [--seconds S]
//!     [--shards N] [--cache-mib N] [CASE...]
//! ```
//!
//! Prints a line per case: the median ratio of log to raw, with throughput and bytes written per
//! byte. The first round warms up and does not count.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use support::batch;
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId};
use weir_log::raw::RawAppend;
use weir_log::{AppendRequest, CutError, Log, LogConfig, LogEvents, RealDisk, SystemClock};

/// What one case appends.
struct Case {
    name: &'static str,
    batch_bytes: usize,
    partitions: u32,
    /// Appends under way at any time, all producers together.
    in_flight: usize,
}

const CASES: &[Case] = &[
    Case { name: "64k-8", batch_bytes: 64 << 10, partitions: 8, in_flight: 96 },
    Case { name: "64k-8-sync", batch_bytes: 64 << 10, partitions: 8, in_flight: 8 },
    Case { name: "16k-8", batch_bytes: 16 << 10, partitions: 8, in_flight: 64 },
    Case { name: "16k-8-sync", batch_bytes: 16 << 10, partitions: 8, in_flight: 8 },
    Case { name: "1m-1", batch_bytes: 1 << 20, partitions: 1, in_flight: 1 },
    Case { name: "1k-1024", batch_bytes: 1 << 10, partitions: 1024, in_flight: 140 },
    Case { name: "1k-1024-deep", batch_bytes: 1 << 10, partitions: 1024, in_flight: 1024 },
    Case { name: "100b-1", batch_bytes: 100, partitions: 1, in_flight: 1 },
];

/// Counts what is durable: every entry takes one offset.
#[derive(Default)]
struct Window {
    ends: Mutex<HashMap<PartitionId, i64>>,
    done: Mutex<usize>,
    news: Condvar,
}

impl LogEvents for Window {
    fn durable(&self, _: u16, ends: &[(PartitionId, Offset)]) {
        let mut known = self.ends.lock().unwrap();
        let mut fresh = 0;
        for (partition, end) in ends {
            let before = known.insert(*partition, end.0).unwrap_or(0);
            fresh += end.0 - before;
        }
        *self.done.lock().unwrap() += fresh as usize;
        self.news.notify_one();
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

struct Figures {
    bytes_per_s: f64,
    bytes_per_commit: u64,
    written_per_byte: f64,
    p50: Duration,
    p99: Duration,
}

fn main() {
    let mut dir = PathBuf::from("target/log-bench");
    let (mut rounds, mut seconds, mut shards) = (5, 1.0, 1u16);
    let mut cache_mib = 0;
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--dir" => dir = value().into(),
            "--rounds" => rounds = value().parse().expect("a number"),
            "--seconds" => seconds = value().parse().expect("a number"),
            "--shards" => shards = value().parse().expect("a number"),
            "--cache-mib" => cache_mib = value().parse().expect("a number"),
            _ => names.push(argument),
        }
    }
    std::fs::create_dir_all(&dir).unwrap();
    println!(
        "{:<14} {:>7} {:>10} {:>10} {:>12} {:>9} {:>9} {:>9}",
        "case", "ratio", "log MB/s", "raw MB/s", "bytes/commit", "written", "p50 ms", "p99 ms"
    );
    for case in CASES {
        if names.is_empty() || names.iter().any(|name| name == case.name) {
            run(case, &dir, rounds, seconds, (shards, cache_mib));
        }
    }
    if names.is_empty() || names.iter().any(|name| name == "read") {
        for batch_bytes in [1 << 10, 16 << 10, 64 << 10, 1 << 20] {
            read(&dir, batch_bytes);
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// Reads 384 MiB back, past the tail cache, twice: from sealed files and the active one.
fn read(dir: &Path, batch_bytes: usize) {
    let dir = dir.join("log");
    let config = LogConfig { shards: 1, ..LogConfig::new(&dir) };
    let (log, _) = Log::open(config, Arc::new(RealDisk), Arc::new(SystemClock::new())).unwrap();
    let window = Arc::new(Window::default());
    log.start(window.clone());
    let batch = batch(batch_bytes);
    let count = (384 << 20) / batch_bytes;
    for n in 0..count {
        let done = window.done.lock().unwrap();
        let full = |done: &mut usize| (n - *done) * batch_bytes > 8 << 20;
        drop(window.news.wait_while(done, full).unwrap());
        log.append(append(0, n as i64, &batch)).unwrap();
    }
    let done = window.done.lock().unwrap();
    drop(window.news.wait_while(done, |done| *done < count).unwrap());
    for round in 0..2 {
        let started = Instant::now();
        let (mut at, mut bytes) = (Offset(0), 0);
        while at < Offset(count as i64) {
            let chunk = log.read(PartitionId(0), at, 1 << 20, Offset(i64::MAX)).unwrap();
            at = chunk.next_offset;
            bytes += chunk.bytes;
        }
        let speed = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
        println!("read {batch_bytes:>8} round {round}: {speed:>8.0} MB/s");
    }
    log.shutdown();
    drop(log);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn run(case: &Case, dir: &Path, rounds: usize, seconds: f64, setup: (u16, usize)) {
    let mut results = Vec::new();
    for round in 0..=rounds {
        let figures = run_log(case, dir, seconds, setup);
        let total = (figures.bytes_per_s * seconds) as u64;
        let raw = RawAppend::run(dir, figures.bytes_per_commit as usize, total).unwrap();
        if round > 0 {
            results.push((figures.bytes_per_s / raw.bytes_per_s(), figures, raw.bytes_per_s()));
        }
    }
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, figures, raw) = &results[results.len() / 2];
    println!(
        "{:<14} {:>7.2} {:>10.1} {:>10.1} {:>12} {:>9.2} {:>9.2} {:>9.2}   [{:.2} .. {:.2}]",
        case.name,
        ratio,
        figures.bytes_per_s / 1e6,
        raw / 1e6,
        figures.bytes_per_commit,
        figures.written_per_byte,
        figures.p50.as_secs_f64() * 1e3,
        figures.p99.as_secs_f64() * 1e3,
        results.first().map_or(0.0, |r| r.0),
        results.last().map_or(0.0, |r| r.0),
    );
}

fn run_log(case: &Case, dir: &Path, seconds: f64, setup: (u16, usize)) -> Figures {
    let dir = dir.join("log");
    let mut config = LogConfig { shards: setup.0, ..LogConfig::new(&dir) };
    if setup.1 > 0 {
        config.active_cache_bytes = setup.1 << 20;
    }
    let (log, _) = Log::open(config, Arc::new(RealDisk), Arc::new(SystemClock::new())).unwrap();
    let window = Arc::new(Window::default());
    log.start(window.clone());
    let batch = batch(case.batch_bytes);
    let mut ends = vec![0i64; case.partitions as usize];
    let mut next = 0usize;
    let (mut sent, mut bytes) = (0usize, 0u64);
    let started = Instant::now();
    let length = Duration::from_secs_f64(seconds);
    while started.elapsed() < length {
        let partition = next % ends.len();
        next += 1;
        // Made while the log is busy with those before.
        let request = append(partition as u32, ends[partition], &batch);
        let done = window.done.lock().unwrap();
        let full = |done: &mut usize| sent - *done >= case.in_flight;
        drop(window.news.wait_while(done, full).unwrap());
        bytes += request.entry_len() as u64;
        log.append(request).unwrap();
        ends[partition] += 1;
        sent += 1;
    }
    let done = window.done.lock().unwrap();
    drop(window.news.wait_while(done, |done| *done < sent).unwrap());
    let elapsed = started.elapsed();
    let stats = log.shard_stats();
    let commits: u64 = stats.iter().map(|shard| shard.commits).sum();
    let written: u64 = stats.iter().map(|shard| shard.bytes_written).sum();
    log.shutdown();
    drop(log);
    std::fs::remove_dir_all(&dir).unwrap();
    Figures {
        bytes_per_s: bytes as f64 / elapsed.as_secs_f64(),
        bytes_per_commit: bytes / commits.max(1),
        written_per_byte: written as f64 / bytes as f64,
        p50: stats[0].commit_latency.p50,
        p99: stats[0].commit_latency.p99,
    }
}

fn append(partition: u32, base: i64, batch: &[u8]) -> AppendRequest {
    support::request(PartitionId(partition), Offset(base), LeaderEpoch(1), batch)
}
