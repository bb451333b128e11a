//! `weir demo`: a node, real inputs and a consumer, all in one, for a while.
//!
//! The node runs on a thread of its own ([`node`]); the inputs go to it through the SDK over QUIC
//! ([`sources`]), are worked on by two modules in the node ([`modules`]), and raw and derived come
//! back to a consumer whose findings ([`stats`]) are shown live ([`view`], [`screen`]).

mod folder;
mod modules;
mod node;
mod screen;
mod sources;
mod stats;
mod view;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, interval_at, timeout};
use weir_client::{Batch, Client, ConsumeError, Consumer, Producer};
use weir_core::Offset;
use weir_core::topic::TopicConfig;
use weir_core::wire::message::StartAt;

use crate::cli::Globals;
use crate::commands::figures::{self, Percentiles};
use crate::commands::sdk;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use crate::units::{Span, human_bytes};
use modules::{EXAMPLES, Origin};
use node::DemoNode;
use screen::Screen;
use sources::{DEAD_TOPIC, Feed, GPS_TOPIC, Gps, HOST_TOPIC};
use stats::{Seen, Stats};
use view::Surroundings;

/// The topics and their partitions.
const TOPICS: [(&str, u32); 3] = [(GPS_TOPIC, 2), (DEAD_TOPIC, 1), (HOST_TOPIC, 4)];
/// What the modules make, with the partitions of what they read.
fn derived() -> impl Iterator<Item = (&'static str, u32)> {
    EXAMPLES.iter().map(|example| {
        let source = TOPICS.iter().find(|(topic, _)| *topic == example.from);
        (example.to, source.map_or(1, |(_, partitions)| *partitions))
    })
}

/// How often the picture is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// How long the consumer may take at the end to see what was produced last.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Arguments of `weir demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir demo                               30 seconds, with simulated GPS receivers
  weir demo --nmea drive.nmea.gz --speed 10 --for 2m
  weir demo --dir /tmp/weir-demo --json

A node starts in this process and stores what it is given in the folder; this machine's sensors
and GPS positions go to it, two WebAssembly modules in the node make more of them, and a consumer
shows what comes back. In a checkout of the repository the modules are built the first time, which
needs Rust's target for WebAssembly (it is installed) and takes a minute or two; the time of --for
counts from when they run. The folder stays: `weir node --data-dir DIR` serves it again.")]
pub struct Args {
    /// Replay this NMEA-0183 file (.gz is unpacked) instead of simulating receivers
    #[arg(long, value_name = "FILE")]
    pub nmea: Option<PathBuf>,
    /// Replay it so many times as fast as it was recorded
    #[arg(long, value_name = "FACTOR", default_value = "1", requires = "nmea",
          value_parser = parse_speed)]
    pub speed: f64,
    /// How many receivers are simulated
    #[arg(long, value_name = "NUMBER", default_value_t = 4, conflicts_with = "nmea",
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub receivers: u16,
    /// How long it runs
    #[arg(long = "for", value_name = "DURATION", default_value = "30s")]
    pub for_span: Span,
    /// The built example modules, where this is not a checkout of the repository
    #[arg(long, value_name = "DIR", conflicts_with = "no_modules")]
    pub modules: Option<PathBuf>,
    /// Go without modules
    #[arg(long)]
    pub no_modules: bool,
    /// Where the data goes
    #[arg(long, value_name = "DIR", default_value = "./weir-demo")]
    pub dir: PathBuf,
    /// Go on with what an earlier demo left in the folder, instead of starting afresh
    #[arg(long)]
    pub keep: bool,
    /// Where nothing can be drawn (no terminal): how often figures are printed
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub every: Span,
}

/// What it did, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
struct Summary {
    elapsed_s: f64,
    topics: Vec<TopicSummary>,
    /// What the modules made.
    derived: Vec<TopicSummary>,
    /// Why there were no modules, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_modules: Option<String>,
    records: u64,
    /// Records that did not follow the one before in their partition. Always 0, or it is a bug.
    out_of_order: u64,
    latency_ms: Option<Percentiles>,
    data_dir: PathBuf,
    disk_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct TopicSummary {
    topic: String,
    records: u64,
    bytes: u64,
    latency_ms: Option<Percentiles>,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    if args.every.0.is_zero() {
        return Err(Failure::usage("--every must be longer than nothing"));
    }
    // A wrong name is said before anything is started.
    if let Some(path) = &args.nmea {
        std::fs::metadata(path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    }
    folder::prepare(&args.dir, args.keep)?;
    let node = DemoNode::start(&args.dir).await?;
    let client = node.client(&args.dir).await?;
    let result = Demo::new(&args, globals.json, &node).run(&client).await;
    client.close().await;
    node.stop().await;
    let (stats, elapsed, no_modules) = result?;
    let summary = summarize(&stats, elapsed, no_modules, &args.dir)?;
    match globals.json {
        true => output::print_json(&summary)?,
        false => output::print(&summary_text(&summary))?,
    }
    if summary.out_of_order > 0 {
        return Err(Failure::new(Exit::Error, "records came out of order, which is a bug"));
    }
    Ok(())
}

/// Where the picture goes.
enum Picture {
    Screen(Screen),
    /// Printed now and then.
    Lines,
    /// With `--json`, nothing but the summary.
    None,
}

struct Demo {
    gps: Gps,
    /// `None` once they are at work, or it is known that they will not be.
    modules: Option<Origin>,
    no_modules: Option<String>,
    module_log: PathBuf,
    around: Surroundings,
    picture: Picture,
    every: Duration,
    stats: Stats,
    started: Instant,
}

impl Demo {
    fn new(args: &Args, json: bool, node: &DemoNode) -> Demo {
        let gps = match &args.nmea {
            Some(path) => Gps::File(path.clone(), args.speed),
            None => Gps::Simulated(usize::from(args.receivers)),
        };
        let around = Surroundings {
            address: node.address().to_string(),
            folder: args.dir.display().to_string(),
            gps: gps.describe(),
            modules: "getting ready".to_owned(),
            since: Duration::ZERO,
            elapsed: Duration::ZERO,
            total: args.for_span.0,
        };
        let modules = match args.no_modules {
            true => Origin::None("none, as asked".to_owned()),
            false => Origin::find(args.modules.as_deref()),
        };
        let module_log = args.dir.join("modules.log");
        let picture = match (json, Screen::open()) {
            (true, _) => Picture::None,
            (false, Some(screen)) => Picture::Screen(screen),
            (false, None) => Picture::Lines,
        };
        let every = if matches!(picture, Picture::Screen(_)) { DRAW_EVERY } else { args.every.0 };
        let stats = Stats::default();
        Demo {
            gps,
            modules: Some(modules),
            no_modules: None,
            module_log,
            around,
            picture,
            every,
            stats,
            started: Instant::now(),
        }
    }

    async fn run(mut self, client: &Client) -> Result<(Stats, Duration, Option<String>), Failure> {
        let mut consumer = self.subscribe(client).await?;
        let producer = client
            .producer()
            .build()
            .await
            .map_err(|error| sdk::request_failure("starting to produce", &error))?;
        self.started = Instant::now();
        let mut sources = JoinSet::new();
        let feed = Feed::new(producer.clone());
        sources.spawn(sources::run_host(feed.clone()));
        sources.spawn(sources::run_gps(feed, self.gps.clone()));
        self.watch(client, &mut consumer, &mut sources).await?;
        sources.shutdown().await;
        let elapsed = self.started.elapsed();
        self.drain(client, &producer, &mut consumer).await?;
        self.draw(elapsed)?;
        producer.close().await.map_err(|error| sdk::delivery_failure(&error.first))?;
        // Without a group there is nothing to store.
        let _ = consumer.close().await;
        Ok((self.stats, elapsed, self.no_modules))
    }

    /// Creates the topics and consumes what comes to them from now on.
    async fn subscribe(&mut self, client: &Client) -> Result<Consumer, Failure> {
        let mut partitions = Vec::new();
        for (topic, count) in TOPICS.into_iter().chain(derived()) {
            let config = TopicConfig { partitions: count, ..TopicConfig::default() };
            let created = sdk::topic(client, topic, Some(config)).await?;
            let all: Vec<u32> = (0..created.config.partitions).collect();
            for (partition, end) in ends(client, topic, &all).await? {
                self.stats.add_partition(topic, partition, end);
                partitions.push((topic, partition, StartAt::Offset(end)));
            }
        }
        let mut consumer = client.consumer().build();
        consumer.assign(&partitions).await.map_err(|error| sdk::assign_failure(&error))?;
        Ok(consumer)
    }

    /// Takes what comes until the time is over or Ctrl-C. The time counts from when the modules are
    /// at work, or will not be.
    async fn watch(
        &mut self,
        client: &Client,
        consumer: &mut Consumer,
        sources: &mut JoinSet<Result<(), Failure>>,
    ) -> Result<(), Failure> {
        let interrupted = sdk::interrupted();
        let over = tokio::time::sleep(Duration::MAX);
        let origin = self.modules.take();
        if let Some(Origin::Repository(_)) = &origin {
            self.around.modules =
                format!("being built; {} says how far", self.module_log.display());
            output::note(
                matches!(self.picture, Picture::None),
                &format!("modules: {}", self.around.modules),
            );
        }
        let log = self.module_log.clone();
        let deploying = async move {
            match origin {
                Some(origin) => origin.deploy(client, &log).await,
                None => Ok(()),
            }
        };
        tokio::pin!(interrupted, over, deploying);
        let mut ready = false;
        let mut tick = interval(DRAW_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let first = tokio::time::Instant::now() + self.every;
        let mut draw = interval_at(first, self.every);
        draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut interrupted => return Ok(()),
                () = &mut over => return Ok(()),
                deployed = &mut deploying, if !ready => {
                    ready = true;
                    self.deployed(deployed);
                    over.as_mut().reset(tokio::time::Instant::now() + self.around.total);
                }
                _ = tick.tick() => self.stats.handle_tick(self.started.elapsed()),
                _ = draw.tick() => self.draw(self.started.elapsed())?,
                Some(ended) = sources.join_next() => match ended {
                    // A file that ends is fine; the rest goes on.
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => return Err(failure),
                    Err(error) => return Err(Failure::new(Exit::Error, error.to_string())),
                },
                batch = consumer.next_batch() => self.take(batch)?,
            }
        }
    }

    /// The modules are at work, or will not be.
    fn deployed(&mut self, deployed: Result<(), String>) {
        self.around.modules = match deployed {
            Ok(()) => {
                let names: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
                names.join(", ")
            }
            Err(why) => {
                self.no_modules = Some(why.clone());
                why
            }
        };
        self.around.since = self.started.elapsed();
    }

    /// Takes what was produced last, too.
    async fn drain(
        &mut self,
        client: &Client,
        producer: &Producer,
        consumer: &mut Consumer,
    ) -> Result<(), Failure> {
        let flushed = producer.flush().await;
        flushed.map_err(|error| sdk::delivery_failure(&error.first))?;
        let mut wanted = Vec::new();
        for (topic, _) in TOPICS {
            let known = self.stats.partitions.keys().filter(|(name, _)| name == topic);
            let known: Vec<u32> = known.map(|(_, partition)| *partition).collect();
            let ends = ends(client, topic, &known).await?;
            wanted.extend(ends.into_iter().map(|(partition, end)| (topic, partition, end)));
        }
        let all = async {
            while wanted.iter().any(|&(topic, partition, end)| {
                consumer.position(topic, partition).is_none_or(|position| position < end)
            }) {
                let batch = consumer.next_batch().await;
                self.take(batch)?;
            }
            Ok(())
        };
        timeout(DRAIN_MAX, all).await.unwrap_or_else(|_| {
            Err(Failure::new(Exit::Error, "the consumer did not see all that was produced"))
        })
    }

    fn take(&mut self, batch: Result<Option<Batch>, ConsumeError>) -> Result<(), Failure> {
        let batch = batch.map_err(|error| sdk::consume_failure(&error))?;
        let Some(batch) = batch else { return Ok(()) };
        let seen = Seen {
            topic: batch.topic(),
            partition: batch.partition(),
            high_watermark: batch.high_watermark(),
            now_us: sources::now_us(),
        };
        for record in batch.records() {
            self.stats.handle_record(seen, &record);
        }
        Ok(())
    }

    fn draw(&mut self, elapsed: Duration) -> CommandResult {
        let counted = elapsed.saturating_sub(self.around.since);
        self.around.elapsed = match self.around.since.is_zero() {
            true => Duration::ZERO,
            false => counted.min(self.around.total),
        };
        match &mut self.picture {
            Picture::None => {}
            Picture::Lines => {
                let text = view::plain(&self.stats, &self.around);
                output::print(&format!("{text}\n"))?;
            }
            Picture::Screen(screen) => {
                let (width, height) = screen.size();
                // The cursor stands below the picture.
                let lines = view::frame(&self.stats, &self.around, width, height.saturating_sub(1));
                screen.draw(&lines)?;
            }
        }
        Ok(())
    }
}

/// The end of what may be consumed of each partition now.
async fn ends(
    client: &Client,
    topic: &str,
    partitions: &[u32],
) -> Result<Vec<(u32, Offset)>, Failure> {
    let asked: Vec<(u32, StartAt)> = partitions.iter().map(|p| (*p, StartAt::Latest)).collect();
    let resolved = client.admin().offsets(topic, &asked).await;
    let resolved = resolved.map_err(|error| sdk::request_failure("looking up offsets", &error))?;
    Ok(resolved.into_iter().map(|at| (at.partition.0, at.high_watermark)).collect())
}

fn summarize(
    stats: &Stats,
    elapsed: Duration,
    no_modules: Option<String>,
    dir: &Path,
) -> Result<Summary, Failure> {
    let of = |topic: &str| {
        let (records, bytes, latencies) = stats.topic(topic);
        let topic = topic.to_owned();
        TopicSummary { topic, records, bytes, latency_ms: latencies.percentiles() }
    };
    let made = derived().filter(|_| no_modules.is_none());
    Ok(Summary {
        elapsed_s: elapsed.as_secs_f64(),
        topics: TOPICS.iter().map(|(topic, _)| of(topic)).collect(),
        derived: made.map(|(topic, _)| of(topic)).collect(),
        no_modules,
        records: stats.records(),
        out_of_order: stats.partitions.values().map(|partition| partition.out_of_order).sum(),
        latency_ms: stats.latencies.percentiles(),
        data_dir: dir.to_owned(),
        disk_bytes: folder::disk_bytes(dir)?,
    })
}

fn summary_text(summary: &Summary) -> String {
    let mut table = output::Table::new(&["TOPIC", ">RECORDS", ">SIZE", ">LATENCY p50", ">p99"]);
    for topic in summary.topics.iter().chain(&summary.derived) {
        let text = |ms: fn(&Percentiles) -> f64| {
            let percentiles = topic.latency_ms.as_ref();
            percentiles.map_or("-".to_owned(), |p| figures::milliseconds(ms(p)))
        };
        table.row([
            topic.topic.clone(),
            figures::thousands(topic.records),
            human_bytes(topic.bytes),
            text(|p| p.p50),
            text(|p| p.p99),
        ]);
    }
    let records = figures::thousands(summary.records);
    let elapsed = figures::span(Duration::from_secs_f64(summary.elapsed_s));
    let modules = match &summary.no_modules {
        Some(why) => format!("modules: {why}\n"),
        None => String::new(),
    };
    let dir = summary.data_dir.display();
    let disk = human_bytes(summary.disk_bytes);
    format!(
        "\n{}\n{modules}{records} records in {elapsed}, each on disk before it was acknowledged, \
         all read\nback in order. The data stays in {dir} ({disk}).\nServe it, and look at it from \
         another terminal:\n\n  \
         weir node --data-dir {dir}\n  \
         weir status --data-dir {dir}\n  \
         weir consume {HOST_TOPIC} --data-dir {dir} --until-end --format table\n",
        table.render()
    )
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed >= 0.01 => Ok(speed),
        _ => Err(format!("`{text}` is no factor: write a number such as 10")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the last words name the commands that show the data, and fit 80 columns.
    #[test]
    fn the_summary_tells_how_to_go_on() {
        let latency_ms = Some(Percentiles { p50: 1.21, p99: 3.8, p999: 4.0, max: 5.0, count: 360 });
        let topic = |name: &str, records| TopicSummary {
            topic: name.into(),
            records,
            bytes: 1_000 * records,
            latency_ms: latency_ms.filter(|_| records > 0),
        };
        let summary = Summary {
            elapsed_s: 30.0,
            topics: vec![topic(HOST_TOPIC, 360), topic(DEAD_TOPIC, 0)],
            derived: vec![topic("host.cpu", 6)],
            no_modules: None,
            records: 360,
            out_of_order: 0,
            latency_ms,
            data_dir: "./weir-demo".into(),
            disk_bytes: 1_400_000,
        };
        let text = summary_text(&summary);
        assert!(text.contains("weir node --data-dir ./weir-demo\n"), "{text}");
        assert!(text.contains("1.21 ms"), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
    }

    #[test]
    fn speeds() {
        assert_eq!(parse_speed("10"), Ok(10.0));
        for wrong in ["0", "-1", "nan", "inf", "x"] {
            assert!(parse_speed(wrong).is_err(), "{wrong}");
        }
    }
}
