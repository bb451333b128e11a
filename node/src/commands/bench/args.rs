//! The options of `weir bench`.

use std::path::PathBuf;

use weir_core::limits::{RECORD_BYTES_MAX, TOPIC_PARTITIONS_MAX};
use weir_core::record::Compression;

use crate::units::Span;

/// Arguments of `weir bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench produce                          1 KiB records in batches of 1,000
  weir bench produce --record-size 100 --batch 1000 --json
  weir bench consume
  weir bench e2e --rate 200
  weir bench all --json > bench.json

Each bench starts a node of its own below --dir and removes it at the end, or measures the node
that --server names. Figures depend on the machine, so the disk and a bare QUIC stream are
measured in the same run, and results are ratios to them.")]
pub struct Args {
    /// What to measure
    #[command(subcommand)]
    pub what: What,
}

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Durable produce, against disk and network
    Produce(ProduceArgs),
    /// Consume from memory and from files, against the network
    Consume(ConsumeArgs),
    /// One record at a time: how long to the acknowledgement, how long to a consumer
    E2e(E2eArgs),
    /// The log alone, in process, against the raw disk
    Disk(DiskArgs),
    /// Throughput by records per batch
    Sweep(SweepArgs),
    /// CPU of a node that takes a few records per second from many producers
    Steady(SteadyArgs),
    /// Bytes written for each record, with and without waiting for others
    Wear(WearArgs),
    /// Memory and CPU of a node without work
    Idle(IdleArgs),
    /// What copies cost on a running cluster, and what moving them takes
    Replicas(ReplicasArgs),
    /// All of them, one after the other
    All(AllArgs),
}

/// Where the bench works.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// A folder on the disk to be measured; what the bench makes there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// What producers do.
#[derive(Clone, Debug, clap::Args)]
pub struct Shape {
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 1_024, value_parser = parse_record_size)]
    pub record_size: usize,
    /// Records of a batch
    #[arg(long, value_name = "RECORDS", default_value_t = 1_000, value_parser = parse_count)]
    pub batch: usize,
    /// Partitions of the topic
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX)))]
    pub partitions: u32,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = parse_count)]
    pub producers: usize,
    /// Batches that each producer has under way
    #[arg(long, value_name = "BATCHES", default_value_t = 5, value_parser = parse_count)]
    pub in_flight: usize,
    /// Records per second, all producers together [default: as fast as they go]
    #[arg(long, value_name = "RECORDS_PER_S", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// So many records a round, instead of so many MiB
    #[arg(long, value_name = "NUMBER", conflicts_with = "duration")]
    pub records: Option<u64>,
    /// So long a round, instead of so many MiB
    #[arg(long, value_name = "DURATION")]
    pub duration: Option<Span>,
    /// How batches are compressed (the values do not compress)
    #[arg(long, value_name = "KIND", default_value_t = Compression::None)]
    pub compression: Compression,
    /// Send each record by itself and let the SDK make the batches
    #[arg(long)]
    pub per_record: bool,
}

/// Options of `weir bench produce`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench produce
  weir bench produce --record-size 100 --rounds 9
  weir bench produce --batch 1 --in-flight 1 --records 2000 --no-compare
  weir bench produce --per-record --producers 4 --partitions 4")]
pub struct ProduceArgs {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub shape: Shape,
    /// MiB of values a round
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub round_mib: u64,
    /// Rounds, besides a first one that is dropped
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub rounds: u32,
    /// Do not measure disk and network
    #[arg(long = "no-compare", action = clap::ArgAction::SetFalse)]
    pub compare: bool,
}

/// Options of `weir bench replicas`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench replicas --server 10.0.0.1:7447
  weir bench replicas --server 10.0.0.1:7447 --replicas 2 --round-mib 64

Needs a running cluster. The topics are led by the node that is asked; what the bench makes is
removed at the end.")]
pub struct ReplicasArgs {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub shape: Shape,
    /// Copies of the topic that is compared with one that has one
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=5))]
    pub replicas: u32,
    /// Copies that must be in sync [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=5))]
    pub min_insync: Option<u32>,
    /// MiB of values a round and topic
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub round_mib: u64,
    /// Rounds, besides a first one that is dropped
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub rounds: u32,
    /// How often the lead is moved to another node
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub moves: u32,
}

/// Options of `weir bench consume`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench consume
  weir bench consume --record-size 100 --total-mib 128")]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub shape: Shape,
    /// MiB of values a round
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub total_mib: u64,
    /// Rounds, besides a first one that is dropped
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub rounds: u32,
}

/// Options of `weir bench e2e`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench e2e
  weir bench e2e --record-size 100 --rate 1000 --duration 5s")]
pub struct E2eArgs {
    #[command(flatten)]
    pub place: Place,
    /// Bytes of a value, at least 8
    #[arg(long, value_name = "BYTES", default_value_t = 1_024, value_parser = parse_record_size)]
    pub record_size: usize,
    /// Records per second; the next one waits for the acknowledgement of the one before
    #[arg(long, value_name = "RECORDS_PER_S", default_value_t = 200.0, value_parser = parse_rate)]
    pub rate: f64,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub duration: Span,
}

/// Options of `weir bench disk`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench disk
  weir bench disk --dir /mnt/flash --duration 5s")]
pub struct DiskArgs {
    #[command(flatten)]
    pub place: Place,
    /// How long a round of each case takes
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub duration: Span,
    /// Rounds, besides a first one that is dropped
    #[arg(long, value_name = "NUMBER", default_value_t = 3)]
    pub rounds: u32,
}

/// Options of `weir bench sweep`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench sweep
  weir bench sweep --record-size 100")]
pub struct SweepArgs {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub shape: Shape,
    /// MiB of values a case, at most
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub case_mib: u64,
}

/// Options of `weir bench steady`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench steady
  weir bench steady --producers 10 --rate 1000 --duration 1m")]
pub struct SteadyArgs {
    #[command(flatten)]
    pub place: Place,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = parse_count)]
    pub producers: usize,
    /// Records per second, all producers together
    #[arg(long, value_name = "RECORDS_PER_S", default_value_t = 200.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = parse_record_size)]
    pub record_size: usize,
    /// Partitions of the topic
    #[arg(long, value_name = "NUMBER", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX)))]
    pub partitions: u32,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub duration: Span,
}

/// Options of `weir bench wear`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench wear
  weir bench wear --producers 1 --rates 1,10 --commit-linger 1s --duration 30s

`bytes_written` is what the log gave to its files, `device_bytes` what the system counts for the
node on its way to the device (write_bytes in /proc/PID/io: whole pages, without what the file
system adds of its own).")]
pub struct WearArgs {
    #[command(flatten)]
    pub place: Place,
    /// Records per second, all producers together, one after the other
    #[arg(long, value_name = "RECORDS_PER_S", value_delimiter = ',',
          default_value = "10,100,1000", value_parser = parse_rate)]
    pub rates: Vec<f64>,
    /// Producers, each with a connection of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = parse_count)]
    pub producers: usize,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = parse_record_size)]
    pub record_size: usize,
    /// Partitions of the topic
    #[arg(long, value_name = "NUMBER", default_value_t = 4,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX)))]
    pub partitions: u32,
    /// The topic's commit linger, where there is one
    #[arg(long, value_name = "DURATION", default_value = "100ms")]
    pub commit_linger: Span,
    /// How long each rate is kept up
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub duration: Span,
}

/// Options of `weir bench idle`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench idle
  weir bench idle --duration 1m")]
pub struct IdleArgs {
    #[command(flatten)]
    pub place: Place,
    /// Idle partitions
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TOPIC_PARTITIONS_MAX)))]
    pub partitions: u32,
    /// How long CPU use is watched, before and after the partitions are made
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub duration: Span,
}

/// Options of `weir bench all`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir bench all
  weir bench all --quick --json")]
pub struct AllArgs {
    #[command(flatten)]
    pub place: Place,
    /// A tenth of the work: to see that everything runs, not how fast
    #[arg(long)]
    pub quick: bool,
}

fn parse_record_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(size) if size <= RECORD_BYTES_MAX => Ok(size),
        _ => Err(format!("`{text}` is no size: a value has 0 to {RECORD_BYTES_MAX} bytes")),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=100_000).contains(&count) => Ok(count),
        _ => Err(format!("`{text}` is no number from 1 to 100000")),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!("`{text}` is no rate: write a number above 0")),
    }
}
