//! `weir module test`: a module on a laptop, in the engine of a node and with its limits.

use super::inspect::default_limits;
use crate::cli::Globals;
use crate::commands::produce::args::RecordArgs;
use crate::commands::produce::rules::Made;
use crate::commands::produce::source::{Item, Source};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use crate::units::human_bytes;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use weir_broker::http::{Outgoing, SystemTrust};
use weir_core::deploy::http::{AllowedHost, HttpGrant};
use weir_core::limits;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, PushError, RecordBatch, Records};
use weir_core::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use weir_wasm::bisect::OnError;
use weir_wasm::columns::{Watermark, bit};
use weir_wasm::state::MemoryState;
use weir_wasm::{Deployment, GuestError, GuestThreads, Report, Runner, Surroundings, Work, World};

/// Failed records that are shown one by one.
const FAILURES_SHOWN: usize = 10;

/// Arguments of `weir module test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module test text_filter.wasm --input app.log --param text=ERROR
  weir module test gps_geofence.wasm --input buses.ndjson --format json --key-pointer /vehicle_id \\
      --time-pointer /timestamp --param areas='depot:30.2653,-97.7497,400' --expect events.ndjson
  weir module test dedup.wasm --input packets --param by=value --fire-timers

Values of the records that come out go to stdout, one a line; with several output topics, the
topic's number and a tab stand in front. With --json a line is an object of topic and value, and the
last one sums up. Everything else goes to stderr. Records without a time get 0, 1000, 2000 ms and so
on, so that a run gives the same bytes whenever it is repeated.")]
pub struct Args {
    /// The module: a component, or a core module with embedded WIT
    file: PathBuf,
    /// Records to run it over; `-` is stdin, and .gz is unpacked. May be given several times
    #[arg(long = "input", value_name = "FILE", required = true)]
    inputs: Vec<PathBuf>,
    /// How records are made of lines
    #[command(flatten)]
    records: RecordArgs,
    /// A parameter of the module
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = super::parse_param)]
    params: Vec<(String, String)>,
    /// Compare what comes out with the lines of this file, and fail if it differs
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// What becomes of records that the module cannot process
    #[arg(long, value_enum, default_value_t = OnErrorArg::Skip)]
    on_error: OnErrorArg,
    /// How many topics a transform's outputs may go to
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    topics: usize,
    /// Records in a batch
    #[arg(long, value_name = "NUMBER", default_value = "500",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// By how much records may be late, in ms: the watermark stays this far behind
    #[arg(long, value_name = "MS", default_value = "0")]
    lateness_ms: i64,
    /// At the end, move the watermark on until all timers have fired
    #[arg(long)]
    fire_timers: bool,
    /// A host that a consumer may send requests to; may be given several times
    #[arg(long, value_name = "HOST[:PORT]")]
    allow_http: Vec<AllowedHost>,
    /// Do not print the records that come out
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnErrorArg {
    /// Count it and go on
    Skip,
    /// Count it and go on (a deployment writes it to its dead-letter topic)
    DeadLetter,
    /// End there
    Stop,
}

/// What a run added up to.
#[derive(Default)]
struct Totals {
    records_in: u64,
    bytes_in: u64,
    records_out: u64,
    failed: u64,
    failures: Vec<String>,
    stopped: bool,
    cpu: Duration,
    calls: u64,
    instances: u64,
    memory_bytes: usize,
    log_dropped: u64,
    bad_lines: u64,
}

struct Run<'a> {
    args: &'a Args,
    world: World,
    runner: Runner,
    builder: BatchBuilder,
    next_offset: Offset,
    state: MemoryState,
    watermark: Watermark,
    totals: Totals,
    out: Vec<u8>,
    /// Whether lines are JSON. What is compared is as it came out.
    json_lines: bool,
    /// What came out so far, kept only where it is to be compared.
    all: Vec<u8>,
}

pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let rules = args.records.rules()?;
    let upload = super::read(&args.file)?;
    let module = super::prepare(&args.file, &upload).await?;
    let settings = module.description().settings(&args.params);
    let settings = settings.map_err(|error| Failure::usage(error.to_string()))?;
    let limits = default_limits(upload.world);
    let on_error = match args.on_error {
        OnErrorArg::Skip => OnError::Skip,
        OnErrorArg::DeadLetter => OnError::DeadLetter,
        OnErrorArg::Stop => OnError::Stop,
    };
    let around = surroundings(&args)?;
    let deployment = Deployment { module, settings, limits, on_error, topics: args.topics, around };
    let threads = GuestThreads::start(1)?;
    let runner = threads.run(deployment).map_err(anyhow::Error::from)?;
    let mut source = Source::start(args.inputs.clone(), rules)?;
    let mut run = Run {
        args: &args,
        world: upload.world,
        runner,
        builder: BatchBuilder::new(Compression::None),
        next_offset: Offset::ZERO,
        state: MemoryState::default(),
        watermark: Watermark { lateness_ms: args.lateness_ms, ..Watermark::START },
        totals: Totals::default(),
        out: Vec::new(),
        json_lines: globals.json && args.expect.is_none(),
        all: Vec::new(),
    };
    while let Some(items) = source.next().await {
        for item in items? {
            run.take(item).await?;
        }
        if run.totals.stopped {
            break;
        }
    }
    run.finish().await?;
    run.report(globals)
}

/// What the module reaches: what it would on a node, but for its place.
fn surroundings(args: &Args) -> Result<Surroundings, Failure> {
    if args.allow_http.is_empty() {
        return Ok(Surroundings::default());
    }
    let timeout_ms = limits::HTTP_TIMEOUT_MS_DEFAULT;
    let grant = HttpGrant { allow: args.allow_http.clone(), timeout_ms, ca_pem: None };
    grant.check().map_err(|error| Failure::usage(error.to_string()))?;
    let outgoing = Outgoing::new(grant, SystemTrust::default()).map_err(anyhow::Error::from)?;
    Ok(Surroundings { http: Some(Arc::new(outgoing)), ..Surroundings::default() })
}

impl Run<'_> {
    async fn take(&mut self, item: Item) -> CommandResult {
        let made = match item {
            Item::Record(made) => made,
            Item::Bad(bad) => {
                self.totals.bad_lines += 1;
                eprintln!("{}:{}: not a record: {}", bad.input, bad.number, bad.reason);
                return Ok(());
            }
        };
        if self.totals.stopped {
            return Ok(());
        }
        if self.push(&made) == Err(PushError::Full) {
            self.flush().await?;
            self.push(&made).map_err(anyhow::Error::from)?;
        }
        if self.builder.len() == self.args.batch as usize { self.flush().await } else { Ok(()) }
    }

    fn push(&mut self, made: &Made) -> Result<(), PushError> {
        let number = self.next_offset.0 + self.builder.len() as i64;
        let time = TimestampMs(made.timestamp.unwrap_or(number.saturating_mul(1000)));
        self.builder.push(time, made.key.as_deref(), Some(&made.value), NO_HEADERS)
    }

    /// Runs the batch so far.
    async fn flush(&mut self) -> CommandResult {
        if self.builder.is_empty() {
            return Ok(());
        }
        let bytes = self.builder.build(ProducerId::NONE, -1, -1).map_err(anyhow::Error::from)?;
        self.totals.bytes_in += bytes.len() as u64;
        let batch = RecordBatch::decode(bytes).map_err(anyhow::Error::from)?;
        let batch = batch.with_base(self.next_offset, LeaderEpoch(0));
        let records = batch.records().map_err(anyhow::Error::from)?;
        let first = self.next_offset;
        self.next_offset = first.plus(records.len() as u32);
        self.totals.records_in += records.len() as u64;
        let report = match self.world {
            World::Filter => self.filter(&records).await?,
            World::Transform | World::Consumer => self.process(Some(records)).await?,
            World::ProduceCheck => self.check(&records).await?,
        };
        self.account(report, first);
        self.print()
    }

    async fn filter(&mut self, records: &Records) -> Result<Report, Failure> {
        let filtered = self.runner.filter(records.clone()).await.map_err(anyhow::Error::from)?;
        for (index, record) in records.iter().enumerate() {
            if bit(&filtered.keep, index) {
                self.line(0, record.value);
            }
        }
        Ok(filtered.report)
    }

    /// Runs a batch, or a tick.
    async fn process(&mut self, records: Option<Records>) -> Result<Report, Failure> {
        let (state, watermark) = (Arc::new(self.state.clone()), self.watermark);
        let work = Work { records: records.clone(), topic: 0, watermark, state };
        let made = self.runner.process(work).await.map_err(anyhow::Error::from)?;
        let records = records.unwrap_or_else(Records::empty);
        for part in &made.parts {
            for record in part.iter(&records) {
                self.line(record.topic, record.value);
            }
        }
        self.state.apply(&made.changes);
        self.watermark = made.watermark.unwrap_or(watermark);
        Ok(made.report)
    }

    async fn check(&mut self, records: &Records) -> Result<Report, Failure> {
        let checked = self.runner.check(records.clone()).await.map_err(anyhow::Error::from)?;
        let failed = |error: GuestError| Failure::new(Exit::Error, error.to_string());
        let verdict = checked.verdict.map_err(failed)?;
        for failure in &verdict.rejected {
            let offset = records.iter().next().map_or(0, |first| first.offset.0);
            let offset = offset + i64::from(failure.index);
            self.failure(offset, &failure.message);
        }
        if verdict.rejected.is_empty() {
            let values = verdict.rewritten.and_then(|rewrite| rewrite.values);
            for (index, record) in records.iter().enumerate() {
                let value = match &values {
                    Some(values) => values.get(index),
                    None => record.value,
                };
                self.line(0, value);
            }
        }
        Ok(checked.report)
    }

    fn line(&mut self, topic: u32, value: Option<&[u8]>) {
        self.totals.records_out += 1;
        if self.json_lines {
            let value = value.map(String::from_utf8_lossy);
            let line = format!("{}\n", json!({ "topic": topic, "value": value }));
            self.out.extend_from_slice(line.as_bytes());
            return;
        }
        if self.args.topics > 1 {
            self.out.extend_from_slice(format!("{topic}\t").as_bytes());
        }
        self.out.extend_from_slice(value.unwrap_or(b"(deleted)"));
        self.out.push(b'\n');
    }

    fn failure(&mut self, offset: i64, error: &str) {
        self.totals.failed += 1;
        if self.totals.failures.len() < FAILURES_SHOWN {
            self.totals.failures.push(format!("record {offset}: {error}"));
        }
    }

    fn account(&mut self, report: Report, first: Offset) {
        for judged in &report.judged {
            let mut text = judged.error.to_string();
            for frame in judged.error.backtrace() {
                text += &format!("\n    in {frame}");
            }
            self.failure(first.0 + i64::from(judged.index), &text);
        }
        self.totals.stopped |= report.stopped_at().is_some();
        for line in &report.log {
            let level = format!("{:?}", line.level).to_lowercase();
            eprintln!("[{level}] {}", line.message);
        }
        self.totals.cpu += report.cpu;
        self.totals.calls += u64::from(report.calls);
        self.totals.instances += u64::from(report.instances);
        self.totals.memory_bytes = self.totals.memory_bytes.max(report.memory_bytes);
        self.totals.log_dropped += u64::from(report.log_dropped);
    }

    /// Prints what came out of a batch.
    fn print(&mut self) -> CommandResult {
        use std::io::Write;
        if self.args.expect.is_some() {
            self.all.extend_from_slice(&self.out);
        }
        if !self.args.quiet && self.args.expect.is_none() {
            std::io::stdout().write_all(&self.out)?;
        }
        self.out.clear();
        Ok(())
    }

    async fn finish(&mut self) -> CommandResult {
        self.flush().await?;
        let timed = matches!(self.world, World::Transform | World::Consumer);
        if self.args.fire_timers && timed && !self.totals.stopped {
            self.watermark.at = TimestampMs(i64::MAX);
            let end = self.next_offset;
            let report = self.process(None).await?;
            self.account(report, end);
        }
        self.print()
    }

    fn report(&self, globals: &Globals) -> CommandResult {
        let totals = &self.totals;
        let per_record = totals.cpu.as_nanos() / u128::from(totals.records_in.max(1));
        let summary = json!({
            "records_in": totals.records_in, "records_out": totals.records_out,
            "failed": totals.failed, "failures": totals.failures, "bad_lines": totals.bad_lines,
            "cpu_ns_per_record": per_record as u64, "calls": totals.calls,
            "instances": totals.instances, "memory_bytes": totals.memory_bytes,
            "log_lines_dropped": totals.log_dropped, "state_entries": self.state.entries.len(),
            "timers": self.state.timers.len(), "stopped": totals.stopped,
        });
        if globals.json {
            output::print_line(&summary.to_string())?;
        } else {
            for failure in &totals.failures {
                eprintln!("{failure}");
            }
            eprintln!(
                "in        {} records, {}\nout       {} records\nfailed    {}\n\
                 time      {per_record} ns of CPU a record, {} calls, {} instances\n\
                 memory    {}\nstate     {} entries, {} timers",
                totals.records_in,
                human_bytes(totals.bytes_in),
                totals.records_out,
                totals.failed,
                totals.calls,
                totals.instances,
                human_bytes(totals.memory_bytes as u64),
                self.state.entries.len(),
                self.state.timers.len(),
            );
        }
        if totals.stopped {
            return Err(Failure::new(
                Exit::Error,
                "the module stopped at a record it cannot process",
            )
            .next("--on-error skip goes on behind it"));
        }
        self.compare()
    }

    /// Compares what came out with what was expected.
    fn compare(&self) -> CommandResult {
        let Some(path) = &self.args.expect else { return Ok(()) };
        let expected = std::fs::read(path)
            .map_err(|error| Failure::new(Exit::Error, format!("{}: {error}", path.display())))?;
        if expected == self.all {
            output::note(false, "as expected");
            return Ok(());
        }
        let (have, want) = (lines(&self.all), lines(&expected));
        let same = have.iter().zip(&want).take_while(|(have, want)| have == want).count();
        let mut text =
            format!("--- {}\n+++ what came out\n@@ line {} @@\n", path.display(), same + 1);
        want.iter().skip(same).take(5).for_each(|line| text += &format!("-{line}\n"));
        have.iter().skip(same).take(5).for_each(|line| text += &format!("+{line}\n"));
        output::print(&text)?;
        let (have, want) = (have.len(), want.len());
        Err(Failure::new(Exit::Error, format!("{have} lines came out, {want} were expected")))
    }
}

fn lines(bytes: &[u8]) -> Vec<std::borrow::Cow<'_, str>> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy).collect()
}
