//! `weir bench disk`: the log alone, in process, against the raw disk with the same bytes per
//! sync.
//!
//! Producers are threads that each keep some appends under way and wait for the log's reports of
//! what is durable, as the broker does. How many bytes one commit holds comes from the log's own
//! counters; the raw disk is then given as many per sync, and as many in all.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::limits::{KIB, MIB};
use weir_core::partition::view::PartitionView;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, set_base};
use weir_core::{LeaderEpoch, Offset, PartitionId, ProducerId, TimestampMs};
use weir_log::{
    AppendError, AppendRequest, CutError, Log, LogConfig, LogEvents, RealDisk, ShardStats,
    SystemClock,
};

use super::args::DiskArgs;
use super::baseline;
use super::payload::Payload;
use super::report::{Figures, Report, map, round};
use crate::commands::figures::{Latencies, Percentiles, median};
use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    /// Bytes of a batch's values.
    batch_bytes: usize,
    partitions: u32,
    producers: u32,
    /// Appends that each producer has under way.
    in_flight: usize,
}

/// What the goals speak of.
const CASES: [Case; 5] = [
    Case {
        name: "64 KiB batches",
        batch_bytes: 64 * KIB,
        partitions: 8,
        producers: 8,
        in_flight: 4,
    },
    Case {
        name: "16 KiB batches",
        batch_bytes: 16 * KIB,
        partitions: 8,
        producers: 8,
        in_flight: 4,
    },
    Case {
        name: "1 MiB, one at a time",
        batch_bytes: MIB,
        partitions: 1,
        producers: 1,
        in_flight: 1,
    },
    Case {
        name: "1 KiB, 1024 partitions",
        batch_bytes: KIB,
        partitions: 1_024,
        producers: 8,
        in_flight: 16,
    },
    Case {
        name: "100 B, one at a time",
        batch_bytes: 100,
        partitions: 1,
        producers: 1,
        in_flight: 1,
    },
];

/// What one round of a case measured.
#[derive(Clone, Debug)]
struct Round {
    log_bytes_per_s: f64,
    raw_bytes_per_s: f64,
    bytes_per_commit: f64,
    written_per_byte: f64,
    acks: Option<Percentiles>,
}

/// Measures.
///
/// # Errors
/// The disk fails.
pub async fn run(dir: &Path, args: &DiskArgs) -> Result<Report, Failure> {
    let mut report = Report::new("disk", map([("seconds", json!(args.duration.0.as_secs_f64()))]));
    for bytes in [4 * KIB, 64 * KIB, MIB] {
        let syncs = if bytes == MIB { 256 } else { 512 };
        let raw = baseline::raw(dir, bytes, syncs * bytes as u64).await?;
        let p50 = raw.percentile(0.5).as_secs_f64() * 1e3;
        let name = format!("raw_{}_kib", bytes / KIB);
        report.more.push(format!("{name}_p50_ms"), round(p50));
        report.more.push(format!("{name}_mb_per_s"), round(raw.bytes_per_s() / 1e6));
    }
    for case in CASES {
        let mut rounds = Vec::new();
        for number in 0..=args.rounds {
            let round = run_round(dir, case, args.duration.0).await?;
            if number > 0 {
                rounds.push(round);
            }
        }
        let row = summarize(case, &rounds);
        report.ratio_to_raw = report.ratio_to_raw.or(row.get("ratio_to_raw").as_f64());
        report.rows.push(row);
    }
    Ok(report)
}

fn summarize(case: Case, rounds: &[Round]) -> Figures {
    let median_of = |figure: &dyn Fn(&Round) -> f64| {
        median(&rounds.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    };
    let acks = rounds.last().and_then(|round| round.acks).unwrap_or_default();
    map([
        ("case", json!(case.name)),
        ("log_mb_per_s", round(median_of(&|r| r.log_bytes_per_s / 1e6))),
        ("raw_mb_per_s", round(median_of(&|r| r.raw_bytes_per_s / 1e6))),
        ("ratio_to_raw", round(median_of(&|r| r.log_bytes_per_s / r.raw_bytes_per_s))),
        ("kib_per_commit", round(median_of(&|r| r.bytes_per_commit / 1024.0))),
        ("written_per_byte", round(median_of(&|r| r.written_per_byte))),
        ("ack_p50_ms", round(acks.p50)),
        ("ack_p99_ms", round(acks.p99)),
    ])
}

async fn run_round(dir: &Path, case: Case, span: Duration) -> Result<Round, Failure> {
    let folder = dir.join("log");
    let path = folder.clone();
    let measured = tokio::task::spawn_blocking(move || measure_log(&path, case, span)).await;
    let measured = measured.map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
    let (stats, elapsed, acks) = measured?;
    std::fs::remove_dir_all(&folder)?;
    let sum = |figure: fn(&ShardStats) -> u64| stats.iter().map(figure).sum::<u64>();
    let (payload, written) = (sum(|s| s.payload_bytes), sum(|s| s.bytes_written));
    let bytes_per_commit = payload as f64 / sum(|s| s.commits).max(1) as f64;
    // As many bytes per sync and in all, bounded for very slow logs and very fast disks.
    let per_sync = (bytes_per_commit.round() as usize).max(1);
    let raw = baseline::raw(dir, per_sync, payload.max(per_sync as u64)).await?;
    Ok(Round {
        log_bytes_per_s: payload as f64 / elapsed.as_secs_f64(),
        raw_bytes_per_s: raw.bytes_per_s(),
        bytes_per_commit,
        written_per_byte: written as f64 / payload.max(1) as f64,
        acks: acks.percentiles(),
    })
}

type Measured = (Vec<ShardStats>, Duration, Latencies);

/// Appends for `span`. Blocks.
fn measure_log(folder: &Path, case: Case, span: Duration) -> Result<Measured, Failure> {
    let failure = |what: String| Failure::new(Exit::Error, format!("the log: {what}"));
    let clock = Arc::new(SystemClock::new());
    let disk = Arc::new(RealDisk);
    let (log, _) =
        Log::open(LogConfig::new(folder), disk, clock).map_err(|e| failure(e.to_string()))?;
    let (reports, inboxes): (Vec<_>, Vec<_>) = (0..case.producers).map(|_| channel()).unzip();
    log.start(Arc::new(Durable { producers: reports }));
    let started = Instant::now();
    let mut acks = Latencies::default();
    let mut failed = None;
    std::thread::scope(|scope| {
        let log = &log;
        let threads: Vec<_> = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| {
                scope.spawn(move || {
                    AppendThread::new(log, case, index as u32, inbox).run(started + span)
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(Ok(of_thread)) => acks.merge(&of_thread),
                Ok(Err(error)) => failed = Some(error.to_string()),
                Err(_) => failed = Some("a producer panicked".to_owned()),
            }
        }
    });
    let elapsed = started.elapsed();
    let stats = log.shard_stats();
    log.shutdown();
    match failed {
        Some(what) => Err(failure(what)),
        None => Ok((stats, elapsed, acks)),
    }
}

/// Passes on to each producer what became durable of its partitions.
struct Durable {
    producers: Vec<Sender<(PartitionId, Offset)>>,
}

impl LogEvents for Durable {
    fn durable(&self, _shard: u16, ends: &[(PartitionId, Offset)]) {
        for &(partition, end) in ends {
            let producer = producer_of(partition, self.producers.len() as u32);
            // A producer that has ended needs no report.
            let _ = self.producers[producer as usize].send((partition, end));
        }
    }

    fn failed(&self, shard: u16, reason: &str) {
        tracing::error!(shard, reason, "the log failed");
    }

    fn recovered(&self, _shard: u16, _views: &HashMap<PartitionId, PartitionView>) {}

    fn log_start(&self, _partition: PartitionId, _start: Offset) {}

    fn view(&self, _partition: PartitionId, _view: &PartitionView) {}

    fn view_at(&self, _: PartitionId, _: Offset, _: Result<&PartitionView, &CutError>) {}

    fn cut(&self, _partition: PartitionId, _view: &PartitionView) {}

    fn cut_failed(&self, _partition: PartitionId, _error: &CutError) {}
}

/// Partitions are dealt out in turn, from number 1.
fn producer_of(partition: PartitionId, producers: u32) -> u32 {
    (partition.0 - 1) % producers
}

/// A partition that one thread alone appends to.
struct OwnPartition {
    id: PartitionId,
    next: Offset,
    /// Ends of the appends under way, and when each was made.
    pending: VecDeque<(Offset, Instant)>,
}

impl OwnPartition {
    fn new(id: PartitionId) -> OwnPartition {
        OwnPartition { id, next: Offset::ZERO, pending: VecDeque::new() }
    }
}

struct AppendThread<'a> {
    log: &'a Log,
    batch: Bytes,
    partitions: Vec<OwnPartition>,
    producers: u32,
    in_flight: usize,
    under_way: usize,
    inbox: Receiver<(PartitionId, Offset)>,
    acks: Latencies,
}

impl<'a> AppendThread<'a> {
    fn new(
        log: &'a Log,
        case: Case,
        index: u32,
        inbox: Receiver<(PartitionId, Offset)>,
    ) -> AppendThread<'a> {
        let mine = (1..=case.partitions)
            .map(PartitionId)
            .filter(|&partition| producer_of(partition, case.producers) == index);
        AppendThread {
            log,
            batch: one_record_batch(case.batch_bytes),
            partitions: mine.map(OwnPartition::new).collect(),
            producers: case.producers,
            in_flight: case.in_flight,
            under_way: 0,
            inbox,
            acks: Latencies::default(),
        }
    }

    fn run(mut self, until: Instant) -> Result<Latencies, AppendError> {
        let mut turn = 0;
        while Instant::now() < until {
            while self.under_way < self.in_flight {
                self.append(turn)?;
                turn = (turn + 1) % self.partitions.len();
            }
            self.wait()?;
        }
        while self.under_way > 0 {
            self.wait()?;
        }
        Ok(self.acks)
    }

    fn append(&mut self, turn: usize) -> Result<(), AppendError> {
        let OwnPartition { id: partition, next, pending } = &mut self.partitions[turn];
        let mut batch = self.batch.to_vec();
        // Cannot fail: the batch was built by the codec.
        let patched = set_base(&mut batch, *next, LeaderEpoch(0));
        debug_assert!(patched.is_ok());
        let header = EntryHeader {
            kind: EntryKind::Entry,
            partition: *partition,
            base_offset: *next,
            offset_count: 1,
            epoch: LeaderEpoch(0),
            append_time: TimestampMs(sdk::now_ms()),
            state_len: 0,
            source_len: 0,
            batch_len: batch.len() as u32,
        };
        self.log.append(AppendRequest {
            header,
            state: Bytes::new(),
            source: Bytes::new(),
            batch: Bytes::from(batch),
            linger: Duration::ZERO,
            hold: None,
        })?;
        *next = next.plus(1);
        pending.push_back((*next, Instant::now()));
        self.under_way += 1;
        Ok(())
    }

    /// Takes reports until one more append can be made.
    fn wait(&mut self) -> Result<(), AppendError> {
        let first = self.inbox.recv().map_err(|_| AppendError::Closed)?;
        let more: Vec<_> = self.inbox.try_iter().collect();
        for (partition, end) in std::iter::once(first).chain(more) {
            let index = ((partition.0 - 1) / self.producers) as usize;
            let pending = &mut self.partitions[index].pending;
            while pending.front().is_some_and(|(next, _)| *next <= end) {
                if let Some((_, sent_at)) = pending.pop_front() {
                    self.acks.record(sent_at.elapsed());
                    self.under_way -= 1;
                }
            }
        }
        Ok(())
    }
}

/// A batch of one record with a value of so many bytes.
fn one_record_batch(bytes: usize) -> Bytes {
    let payload = Payload::new(bytes);
    let mut builder = BatchBuilder::new(Compression::None);
    // One record of at most 1 MiB always fits, and a batch with one can be built.
    builder
        .push(TimestampMs(sdk::now_ms()), None, Some(payload.slice(0)), NO_HEADERS)
        .expect("the record fits");
    builder.build(ProducerId::NONE, -1, -1).expect("the batch has a record")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the bench itself works on a small scale: every append is acknowledged, and the
    /// figures are those of what was appended.
    #[tokio::test]
    async fn a_short_round() {
        let dir = tempfile::tempdir().unwrap();
        let case =
            Case { name: "x", batch_bytes: 1_000, partitions: 5, producers: 2, in_flight: 3 };
        let round = run_round(dir.path(), case, Duration::from_millis(50)).await.unwrap();
        assert!(round.acks.unwrap().count >= 3);
        assert!(round.bytes_per_commit > 1_000.0 && round.written_per_byte > 0.0);
        assert!(round.log_bytes_per_s > 0.0 && round.raw_bytes_per_s > 0.0);
        let row = summarize(case, &[round]);
        assert!(row.get("ratio_to_raw").as_f64().unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
