//! `weir collect`: real inputs to topics, until they end, or for so long, or until Ctrl-C.
//!
//! The collectors of `weir-collect` read and decode on threads and tasks of their own; this
//! command joins one with a producer. With `--follow`, how far the files were read is kept in a
//! [`checkpoint`] file, behind what the node has acknowledged.

mod args;
mod checkpoint;
mod input;
mod sink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use weir_client::Client;
use weir_collect::host::HostSampler;
use weir_collect::{Collected, Collector, Counts, Follow, SourceError};

pub use args::Args;
pub use sink::Sink;

use crate::cli::Globals;
use crate::commands::figures::{self, Percentiles};
use crate::commands::produce::acks::Acknowledged;
use crate::commands::sdk;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use crate::units::human_bytes;
use args::{Common, CsvArgs, FollowArgs, HostArgs, LinesArgs, NmeaArgs, What};
use checkpoint::Saved;

/// How often a checkpoint is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// What was collected, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    topic: String,
    dead_letter_topic: String,
    elapsed_s: f64,
    /// Good records made of the input.
    records: u64,
    /// Input that could not be understood.
    dead_letters: u64,
    /// Records of both kinds that the node acknowledged.
    acknowledged: u64,
    /// Bytes of their keys and values.
    bytes: u64,
    ack_ms: Option<Percentiles>,
    #[serde(flatten)]
    counts: InputCounts,
}

/// What was seen of the input.
#[derive(Clone, Debug, Serialize)]
struct InputCounts {
    /// Lines read.
    lines: u64,
    /// Lines left out on purpose.
    skipped: u64,
    /// Dead letters by reason.
    reasons: BTreeMap<&'static str, u64>,
    /// Things particular to the kind of input.
    details: BTreeMap<&'static str, u64>,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let client = crate::connect::client(globals).await?;
    let result = match args.what {
        What::Host(args) => host(&client, &args, globals.json).await,
        What::Nmea(args) => nmea(&client, args, globals.json).await,
        What::Lines(args) => lines(&client, args, globals.json).await,
        What::Csv(args) => csv(&client, args, globals.json).await,
    };
    client.close().await;
    result
}

async fn host(client: &Client, args: &HostArgs, json: bool) -> CommandResult {
    if args.every.0.is_zero() {
        return Err(Failure::usage("--every must be longer than nothing"));
    }
    let topic = args.common.topic.as_deref().unwrap_or("host.sensors");
    let mut run = Run::start(client, topic, &args.common, json).await?;
    let mut sampler = HostSampler::new();
    let mut tick = interval(args.every.0);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counts = Counts::default();
    let ended = loop {
        tokio::select! {
            biased;
            end = run.end.wait() => break Ok(end),
            _ = tick.tick() => {}
        }
        let sampled = sampler.sample(sdk::now_ms());
        counts.records += sampled.len() as u64;
        *counts.details.entry("samples").or_default() += 1;
        if let Err(failure) = run.send_all(sampled).await {
            break Err(failure);
        }
    };
    run.finish(ended, &counts).await
}

async fn nmea(client: &Client, args: NmeaArgs, json: bool) -> CommandResult {
    let input = input::parse(&args.inputs).map_err(Failure::usage)?;
    let collector = Collector::nmea(input, args.options()).await.map_err(|e| source_failure(&e))?;
    let topic = args.common.topic.as_deref().unwrap_or("gps.position");
    let run = Run::start(client, topic, &args.common, json).await?;
    run.collect(collector, None).await
}

async fn lines(client: &Client, args: LinesArgs, json: bool) -> CommandResult {
    let options = args.options()?;
    let topic = needed_topic(&args.common)?;
    let (collector, checkpoint) = match open_follow(client, &args.follow, &args.inputs, topic)? {
        Some((follow, checkpoint)) => (Collector::lines(follow, options).await, checkpoint),
        None => {
            let input = input::parse(&args.inputs).map_err(Failure::usage)?;
            (Collector::lines(input, options).await, None)
        }
    };
    let collector = collector.map_err(|error| source_failure(&error))?;
    let run = Run::start(client, topic, &args.common, json).await?;
    run.collect(collector, checkpoint).await
}

async fn csv(client: &Client, args: CsvArgs, json: bool) -> CommandResult {
    let options = args.options();
    let topic = needed_topic(&args.common)?;
    let (collector, checkpoint) = match open_follow(client, &args.follow, &args.inputs, topic)? {
        Some((follow, checkpoint)) => (Collector::csv(follow, options).await, checkpoint),
        None => {
            let input = input::parse(&args.inputs).map_err(Failure::usage)?;
            (Collector::csv(input, options).await, None)
        }
    };
    let collector = collector.map_err(|error| source_failure(&error))?;
    let run = Run::start(client, topic, &args.common, json).await?;
    run.collect(collector, checkpoint).await
}

fn needed_topic(common: &Common) -> Result<&str, Failure> {
    common.topic.as_deref().ok_or_else(|| {
        Failure::usage("no topic given").next("Name one with --topic; it is created if needed.")
    })
}

/// The files to follow, with where an earlier run stopped, and where to remember it next.
fn open_follow(
    client: &Client,
    args: &FollowArgs,
    inputs: &[String],
    topic: &str,
) -> Result<Option<(Follow, Option<PathBuf>)>, Failure> {
    if !args.follow {
        return Ok(None);
    }
    let mut follow = args.files(inputs)?;
    if args.no_checkpoint {
        return Ok(Some((follow, None)));
    }
    let path = match &args.checkpoint {
        Some(path) => path.clone(),
        None => checkpoint::default_path(topic, &follow.paths).map_err(Failure::usage)?,
    };
    if let Some(saved) = Saved::load(&path)? {
        if saved.topic != topic {
            let what = format!("{} belongs to topic {}", path.display(), saved.topic);
            return Err(Failure::usage(what).next("Name another file with --checkpoint."));
        }
        if saved.cluster == client.server_info().cluster {
            follow.checkpoints = saved.files;
        } else {
            tracing::warn!(
                path = %path.display(),
                "the checkpoint is of another cluster; the files are collected from their start"
            );
        }
    }
    Ok(Some((follow, Some(path))))
}

fn source_failure(error: &SourceError) -> Failure {
    Failure::new(Exit::Error, error.to_string())
}

/// When to end.
struct End {
    interrupted: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    at: Option<Instant>,
}

impl End {
    fn new(common: &Common) -> End {
        let at = common.for_span.map(|span| Instant::now() + span.0);
        End { interrupted: Box::pin(sdk::interrupted()), at }
    }

    /// Completes when the time is over or the program is asked to end.
    ///
    /// # Cancel safety
    /// Safe.
    async fn wait(&mut self) {
        let over = async {
            match self.at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut self.interrupted => {}
            () = over => {}
        }
    }
}

struct Run {
    sink: Sink,
    end: End,
    topic: String,
    cluster: String,
    started: Instant,
    json: bool,
}

impl Run {
    async fn start(
        client: &Client,
        topic: &str,
        common: &Common,
        json: bool,
    ) -> Result<Run, Failure> {
        Ok(Run {
            sink: Sink::start(client, topic, common).await?,
            end: End::new(common),
            topic: topic.to_owned(),
            cluster: client.server_info().cluster,
            started: Instant::now(),
            json,
        })
    }

    /// Moves records from the collector to the topic until an end of some kind.
    async fn collect(
        mut self,
        mut collector: Collector,
        checkpoint: Option<PathBuf>,
    ) -> CommandResult {
        let ended = self.pump(&mut collector, checkpoint.as_deref()).await;
        let ended = match (ended, &checkpoint) {
            (Ok(()), Some(path)) => self.save(&collector, path).await,
            (ended, _) => ended,
        };
        let counts = collector.counts();
        self.finish(ended, &counts).await
    }

    async fn pump(
        &mut self,
        collector: &mut Collector,
        checkpoint: Option<&Path>,
    ) -> Result<(), Failure> {
        let mut tick = interval(CHECKPOINT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                biased;
                () = self.end.wait() => return Ok(()),
                _ = tick.tick(), if checkpoint.is_some() => {
                    if let Some(path) = checkpoint {
                        self.save(collector, path).await?;
                    }
                    continue;
                }
                next = collector.next() => next,
            };
            let Some(record) = next.map_err(|error| source_failure(&error))? else { return Ok(()) };
            self.sink.send(record).await?;
        }
    }

    async fn send_all(&mut self, records: Vec<Collected>) -> Result<(), Failure> {
        for record in records {
            self.sink.send(record).await?;
        }
        Ok(())
    }

    /// Writes how far the files were collected, once the node has all of it.
    async fn save(&self, collector: &Collector, path: &Path) -> Result<(), Failure> {
        let files = collector.checkpoints();
        self.sink.flush().await?;
        let saved = Saved::new(&self.topic, &self.cluster, files);
        saved.save(path).map_err(|error| {
            let what = format!("cannot remember positions in {}: {error}", path.display());
            Failure::new(Exit::Error, what).next("Name another file with --checkpoint.")
        })
    }

    async fn finish(self, ended: Result<(), Failure>, counts: &Counts) -> CommandResult {
        let dead_letter_topic = self.sink.dead_letters().to_owned();
        let Acknowledged { counts: acknowledged, latencies, failure } = self.sink.finish().await;
        let elapsed = self.started.elapsed();
        let summary = Summary {
            topic: self.topic,
            dead_letter_topic,
            elapsed_s: elapsed.as_secs_f64(),
            records: counts.records,
            dead_letters: counts.dead_letters,
            acknowledged: acknowledged.records,
            bytes: acknowledged.bytes,
            ack_ms: latencies.percentiles(),
            counts: InputCounts {
                lines: counts.lines,
                skipped: counts.skipped,
                reasons: counts.reasons.clone(),
                details: counts.details.clone(),
            },
        };
        if self.json {
            output::print_json(&summary)?;
        } else {
            output::print(&summary_text(&summary, elapsed))?;
        }
        match failure {
            Some(failure) => Err(failure),
            None => ended,
        }
    }
}

fn summary_text(summary: &Summary, elapsed: Duration) -> String {
    let n = figures::thousands;
    let rate = figures::per_second(figures::rate(summary.acknowledged, elapsed));
    let size = human_bytes(summary.bytes);
    let mut text = format!(
        "{}: {} records in {} ({rate}/s, {size})",
        summary.topic,
        n(summary.records),
        figures::span(elapsed)
    );
    if let Some(ack) = &summary.ack_ms {
        let (p50, p99) = (figures::milliseconds(ack.p50), figures::milliseconds(ack.p99));
        text.push_str(&format!(", ack p50 {p50}, p99 {p99}"));
    }
    text.push('\n');
    if summary.dead_letters > 0 {
        let reasons = list(&summary.counts.reasons);
        let (topic, count) = (&summary.dead_letter_topic, n(summary.dead_letters));
        text.push_str(&format!("{topic}: {count} records ({reasons})\n"));
    }
    if summary.counts.lines > 0 {
        let (lines, skipped) = (n(summary.counts.lines), n(summary.counts.skipped));
        text.push_str(&format!("input: {lines} lines, {skipped} left out"));
        if !summary.counts.details.is_empty() {
            text.push_str(&format!("; {}", list(&summary.counts.details)));
        }
        text.push('\n');
    }
    text
}

fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    let one = |(name, count): (&&str, &u64)| {
        format!("{} {}", name.replace('_', " "), figures::thousands(*count))
    };
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_became_of_the_input() {
        let summary = Summary {
            topic: "gps.position".into(),
            dead_letter_topic: "gps.position.dead-letter".into(),
            elapsed_s: 2.0,
            records: 1_653,
            dead_letters: 13,
            acknowledged: 1_666,
            bytes: 400_000,
            ack_ms: None,
            counts: InputCounts {
                lines: 45_498,
                skipped: 0,
                reasons: BTreeMap::from([("checksum", 13)]),
                details: BTreeMap::from([("sentences_valid", 45_485)]),
            },
        };
        assert_eq!(
            summary_text(&summary, Duration::from_secs(2)),
            "gps.position: 1,653 records in 2.0 s (833/s, 391 KiB)\n\
             gps.position.dead-letter: 13 records (checksum 13)\n\
             input: 45,498 lines, 0 left out; sentences valid 45,485\n"
        );
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["reasons"]["checksum"], 13);
    }
}
