//! `weir produce`: lines, JSON and CSV from files or stdin to a topic.
//!
//! A thread reads and makes records ([`source`]); this task sends them; another one awaits their
//! acknowledgements ([`acks`]). What the topic holds at the end is what was read before it.

pub mod acks;
pub mod args;
pub mod lines;
mod progress;
pub mod rules;
pub mod source;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep_until;
use weir_client::{Client, Producer, ProducerRecord};
use weir_core::topic::TopicConfig;

pub use args::{Args, parse_delimiter};
pub use rules::EOL_HEADER;

use crate::cli::Globals;
use crate::commands::figures::{self, Percentiles};
use crate::commands::sdk;
use crate::exit::{CommandResult, Effect, Exit, Failure};
use crate::output;
use crate::units::human_bytes;
use acks::Acks;
use args::OnBadLine;
use progress::Progress;
use rules::Made;
use source::{BadLine, Item, Source};

/// Bad lines that are shown; the others are only counted.
const BAD_LINES_SHOWN: u64 = 10;

/// What was produced, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    topic: String,
    /// Acknowledged records.
    records: u64,
    /// Bytes of their keys, values and headers.
    bytes: u64,
    /// How many of the records were acknowledged before they were on disk, since the topic's
    /// durability is relaxed.
    records_relaxed: u64,
    bad_lines: u64,
    elapsed_s: f64,
    records_per_s: f64,
    mb_per_s: f64,
    /// From handing a record over to its acknowledgement.
    ack_ms: Option<Percentiles>,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let rules = args.records.rules()?;
    let source = Source::start(args.files.clone(), rules)?;
    let client = crate::connect::client(globals).await?;
    sdk::topic(&client, &args.topic, args.create.map(with_partitions)).await?;
    let producer = build_producer(&client, &args).await?;
    let show_progress = !args.quiet && !globals.json;
    let mut run = Run {
        acks: Acks::start(),
        progress: Progress::new(show_progress, std::io::stderr().is_terminal(), source.bytes_total),
        producer,
        sent: 0,
        bad_lines: 0,
        started: Instant::now(),
        json: globals.json,
        topic: args.topic.as_str().into(),
        args,
    };
    let ended = run.pump(source).await;
    let result = run.finish(ended).await;
    client.close().await;
    result
}

fn with_partitions(partitions: u32) -> TopicConfig {
    TopicConfig { partitions, ..TopicConfig::default() }
}

async fn build_producer(client: &Client, args: &Args) -> Result<Producer, Failure> {
    let mut builder = client.producer();
    if let Some(compression) = args.compression {
        builder = builder.compression(compression);
    }
    builder.build().await.map_err(|error| sdk::request_failure("starting to produce", &error))
}

struct Run {
    args: Args,
    topic: Arc<str>,
    producer: Producer,
    acks: Acks,
    progress: Progress,
    sent: u64,
    bad_lines: u64,
    started: Instant,
    json: bool,
}

/// Why no more is read.
enum Ended {
    /// The inputs are at their end.
    Input,
    /// Ctrl-C.
    Interrupted,
    /// A line, an input or a record failed.
    Failed(Failure),
}

impl Run {
    /// Sends everything, until an end of some kind.
    async fn pump(&mut self, mut source: Source) -> Ended {
        let bytes_read = source.bytes_read.clone();
        let interrupted = sdk::interrupted();
        tokio::pin!(interrupted);
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut interrupted => return Ended::Interrupted,
                chunk = source.next() => chunk,
            };
            let items = match chunk {
                None => return Ended::Input,
                Some(Err(error)) => return Ended::Failed(error.into()),
                Some(Ok(items)) => items,
            };
            let sent = tokio::select! {
                biased;
                () = &mut interrupted => return Ended::Interrupted,
                sent = self.send_all(items) => sent,
            };
            if let Err(failure) = sent {
                return Ended::Failed(failure);
            }
            self.progress.show(bytes_read.load(Ordering::Relaxed), &self.acks.counts());
        }
    }

    async fn send_all(&mut self, items: Vec<Item>) -> Result<(), Failure> {
        for item in items {
            match item {
                Item::Record(made) => self.send(made).await?,
                Item::Bad(bad) => self.handle_bad(&bad)?,
            }
        }
        Ok(())
    }

    async fn send(&mut self, made: Made) -> Result<(), Failure> {
        self.pace().await;
        let mut headers = self.args.headers.clone();
        if made.unterminated {
            headers.push((EOL_HEADER.to_owned(), "none".into()));
        }
        let headers_bytes: usize =
            headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = made.key.as_ref().map_or(0, |key| key.len()) + made.value.len() + headers_bytes;
        let record = ProducerRecord {
            topic: self.topic.clone(),
            partition: self.args.partition,
            key: made.key,
            value: Some(made.value),
            headers,
            timestamp: made.timestamp,
        };
        let sent_at = Instant::now();
        let delivery =
            self.producer.send(record).await.map_err(|error| sdk::send_failure(&error))?;
        self.sent += 1;
        self.acks.add(sent_at, bytes, delivery).await
    }

    /// Waits until the next record is due, with `--rate`.
    async fn pace(&mut self) {
        if let Some(rate) = self.args.rate {
            let due = self.started + Duration::from_secs_f64(self.sent as f64 / rate);
            // Shorter waits than the timer can tell are made up for by the next ones.
            if due > Instant::now() + Duration::from_millis(1) {
                self.progress.show_counts(&self.acks.counts());
                sleep_until(due.into()).await;
            }
        }
    }

    fn handle_bad(&mut self, bad: &BadLine) -> Result<(), Failure> {
        let text = format!("{}, line {}: {}", bad.input, bad.number, bad.reason);
        if self.args.on_bad_line == OnBadLine::Stop {
            return Err(Failure::new(Exit::Error, text)
                .next("Correct the line, or leave such lines out with --on-bad-line skip."));
        }
        self.bad_lines += 1;
        if self.bad_lines <= BAD_LINES_SHOWN {
            self.progress.print(&format!("left out: {text}"));
        }
        if self.bad_lines == BAD_LINES_SHOWN {
            self.progress.print("left out: more bad lines are only counted");
        }
        Ok(())
    }

    /// Waits for all acknowledgements, if nobody has enough of it, and says what came of it.
    async fn finish(self, ended: Ended) -> CommandResult {
        let interrupted = matches!(ended, Ended::Interrupted);
        let given_up = sdk::given_up(interrupted);
        tokio::pin!(given_up);
        let flushed = tokio::select! {
            biased;
            flushed = self.producer.flush() => Some(flushed),
            () = &mut given_up => None,
        };
        let ended = match (flushed.is_none(), ended) {
            (true, Ended::Input) => Ended::Interrupted,
            (_, ended) => ended,
        };
        let acknowledged = match flushed.is_none() {
            true => self.acks.finish(std::future::ready(())).await,
            false => self.acks.finish(given_up).await,
        };
        let elapsed = self.started.elapsed();
        self.progress.finish();
        let counts = acknowledged.counts;
        let summary = Summary {
            topic: self.args.topic.clone(),
            records: counts.records,
            bytes: counts.bytes,
            records_relaxed: counts.relaxed,
            bad_lines: self.bad_lines,
            elapsed_s: elapsed.as_secs_f64(),
            records_per_s: figures::rate(counts.records, elapsed),
            mb_per_s: figures::rate(counts.bytes, elapsed) / 1e6,
            ack_ms: acknowledged.latencies.percentiles(),
        };
        if self.json {
            output::print_json(&summary)?;
        } else {
            output::print_line(&summary_line(&summary, elapsed))?;
        }
        let unacknowledged = self.sent - counts.records;
        if let Some(failure) = acknowledged.failure {
            return Err(with_counts(failure, unacknowledged));
        }
        if let Some(flushed) = flushed {
            flushed.map_err(|error| sdk::delivery_failure(&error.first))?;
        }
        match ended {
            Ended::Input => Ok(()),
            Ended::Interrupted if unacknowledged > 0 => {
                let failure = Failure::interrupted("interrupted").effect(Effect::Unknown);
                Err(with_counts(failure, unacknowledged))
            }
            Ended::Interrupted => Err(Failure::interrupted("interrupted before the end of input")),
            Ended::Failed(failure) if counts.records > 0 => Err(failure.effect(Effect::Partial)),
            Ended::Failed(failure) => Err(failure),
        }
    }
}

fn with_counts(failure: Failure, unacknowledged: u64) -> Failure {
    let what = format!(
        "{}; {} records were sent but not acknowledged",
        failure.what,
        figures::thousands(unacknowledged)
    );
    Failure { what, ..failure }
}

fn summary_line(summary: &Summary, elapsed: Duration) -> String {
    let mut line = format!(
        "{}: {} records, {} in {} ({} records/s, {:.1} MB/s)",
        summary.topic,
        figures::thousands(summary.records),
        human_bytes(summary.bytes),
        figures::span(elapsed),
        figures::per_second(summary.records_per_s),
        summary.mb_per_s,
    );
    if let Some(ack) = &summary.ack_ms {
        let (p50, p99) = (figures::milliseconds(ack.p50), figures::milliseconds(ack.p99));
        line.push_str(&format!(", ack p50 {p50}, p99 {p99}"));
    }
    if summary.records_relaxed > 0 {
        line.push_str(
            ", acknowledged before they were on disk (the topic's durability is relaxed)",
        );
    }
    if summary.bad_lines > 0 {
        line.push_str(&format!(", {} bad lines left out", figures::thousands(summary.bad_lines)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let ack = Percentiles { p50: 1.25, p99: 8.0, p999: 9.0, max: 9.5, count: 2 };
        let summary = Summary {
            topic: "gps".into(),
            records: 45_498,
            bytes: 2_740_158,
            records_relaxed: 0,
            bad_lines: 0,
            elapsed_s: 0.5,
            records_per_s: 90_996.0,
            mb_per_s: 5.480_316,
            ack_ms: Some(ack),
        };
        assert_eq!(
            summary_line(&summary, Duration::from_millis(500)),
            "gps: 45,498 records, 2.61 MiB in 500 ms (91.0 k records/s, 5.5 MB/s), ack p50 1.25 \
             ms, p99 8.00 ms"
        );
        let relaxed = Summary { records_relaxed: 45_498, ..summary.clone() };
        let line = summary_line(&relaxed, Duration::from_millis(500));
        assert!(line.ends_with("before they were on disk (the topic's durability is relaxed)"));
        let skipped = Summary { bad_lines: 13, ack_ms: None, ..summary };
        let line = summary_line(&skipped, Duration::from_millis(500));
        assert!(line.ends_with("MB/s), 13 bad lines left out"), "{line}");
    }
}
