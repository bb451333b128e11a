//! How long a log takes to open after `kill -9`, and what it reads for that.
//!
//! ```text
//! cargo run --release -p weir-log --example reopen -- [--dir DIR] [--gib N]
//! ```
//!
//! A second process writes N GiB (default 1) of 64 KiB batches to 16 partitions, goes on, and is
//! killed with SIGKILL. Then the log is opened with nothing of it in the page cache, and, after
//! another kill, once more with whatever the kernel kept.

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use support::{batch, request};
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId};
use weir_log::{CutError, Disk, Log, LogConfig, LogEvents, RealDisk, SystemClock};

const PARTITIONS: u32 = 16;
const BATCH_BYTES: usize = 64 << 10;
/// Appends under way at any time.
const IN_FLIGHT: u64 = 96;

/// Counts what is durable.
#[derive(Default)]
struct Durable {
    ends: Mutex<HashMap<PartitionId, Offset>>,
    news: Condvar,
}

impl Durable {
    /// Waits until `condition` holds of the sum of all ends.
    fn wait(&self, condition: impl Fn(u64) -> bool) {
        let ends = self.ends.lock().unwrap();
        let more = |ends: &mut HashMap<PartitionId, Offset>| !condition(sum(ends));
        drop(self.news.wait_while(ends, more).unwrap());
    }
}

fn sum(ends: &HashMap<PartitionId, Offset>) -> u64 {
    ends.values().map(|end| end.0 as u64).sum()
}

impl LogEvents for Durable {
    fn durable(&self, _: u16, ends: &[(PartitionId, Offset)]) {
        self.ends.lock().unwrap().extend(ends.iter().copied());
        self.news.notify_all();
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

fn main() {
    let mut dir = PathBuf::from("target/reopen");
    let (mut gib, mut writes) = (1.0, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--dir" => dir = value().into(),
            "--gib" => gib = value().parse().expect("a number"),
            "--write" => writes = true,
            other => panic!("unknown argument {other}"),
        }
    }
    let bytes = (gib * f64::from(1 << 30)) as u64;
    if writes {
        write(&dir, bytes);
    }
    for (cached, bytes) in [("nothing cached", bytes), ("cached", 256 << 20)] {
        let sent = fill_and_kill(&dir, bytes);
        if cached != "cached" {
            drop_cached(&dir);
        }
        open(&dir, cached, sent);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Has another process write, and kills it in the middle of that. Returns how many entries it was
/// told are durable.
fn fill_and_kill(dir: &Path, bytes: u64) -> u64 {
    let gib = (bytes as f64 / f64::from(1 << 30)).to_string();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--write", "--gib", &gib, "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    // SIGKILL on Unix.
    child.kill().unwrap();
    child.wait().unwrap();
    said.trim().parse().unwrap()
}

/// Appends for ever; once `bytes` are durable, says so.
fn write(dir: &Path, bytes: u64) -> ! {
    let (log, views) =
        Log::open(LogConfig::new(dir), Arc::new(RealDisk), Arc::new(SystemClock::new())).unwrap();
    let durable = Arc::new(Durable::default());
    let mut ends: HashMap<PartitionId, Offset> =
        views.iter().map(|(&partition, view)| (partition, view.log_end)).collect();
    durable.ends.lock().unwrap().clone_from(&ends);
    log.start(durable.clone());
    let epoch = views.values().map(|view| view.epoch().0).max().unwrap_or(0) + 1;
    let batch = batch(BATCH_BYTES);
    let first = sum(&ends);
    let enough = first + bytes / BATCH_BYTES as u64;
    let mut sent = first;
    loop {
        let partition = PartitionId((sent % u64::from(PARTITIONS)) as u32);
        let end = ends.entry(partition).or_default();
        durable.wait(|done| sent - done < IN_FLIGHT);
        log.append(request(partition, *end, LeaderEpoch(epoch), &batch)).unwrap();
        *end = end.plus(1);
        sent += 1;
        if sent == enough + IN_FLIGHT {
            println!("{enough}");
            std::io::stdout().flush().unwrap();
        }
    }
}

fn drop_cached(dir: &Path) {
    for shard in std::fs::read_dir(dir.join("log")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let file = RealDisk.open(&file.unwrap().path()).unwrap();
            file.sync().unwrap();
            file.drop_cached().unwrap();
        }
    }
}

fn open(dir: &Path, cached: &str, sent: u64) {
    let started = Instant::now();
    let (log, views) =
        Log::open(LogConfig::new(dir), Arc::new(RealDisk), Arc::new(SystemClock::new())).unwrap();
    let opened = started.elapsed();
    let stats = log.shard_stats();
    let durable = Arc::new(Durable::default());
    log.start(durable.clone());
    let end = views.get(&PartitionId(0)).map_or(Offset::ZERO, |view| view.log_end);
    let epoch = views.values().map(|view| view.epoch().0).max().unwrap_or(0) + 1;
    log.append(request(PartitionId(0), end, LeaderEpoch(epoch), &batch(BATCH_BYTES))).unwrap();
    durable.wait(|done| done > 0);
    let appended = started.elapsed();
    let held: u64 = views.values().map(|view| view.log_end.0 as u64).sum();
    assert!(held >= sent, "{held} entries of {sent} acknowledged ones");
    let disk: u64 = stats.iter().map(|shard| shard.bytes_on_disk).sum();
    let read: u64 = stats.iter().map(|shard| shard.bytes_read).sum();
    let files: usize = stats.iter().map(|shard| shard.files).sum();
    println!(
        "{:.1} GB in {files} files, {cached}: open in {:.0} ms, {:.0} MB read, first append \
         durable after {:.0} ms",
        disk as f64 / 1e9,
        opened.as_secs_f64() * 1e3,
        read as f64 / 1e6,
        appended.as_secs_f64() * 1e3,
    );
    log.shutdown();
}
