//! `weir module replay`: what a deployment made of its input, made once more.
//!
//! Whatever a module sees derives from the records, their offsets and its own state, so the same
//! version makes the same bytes again. Runs here, in the engine and with the limits of a node, and
//! writes nothing there.

mod begin;
mod compare;
mod run;
mod search;

use crate::cli::Globals;
use crate::commands::consume::format::{cut, json_member, printable};
use crate::commands::figures::thousands;
use crate::commands::{deployment, sdk};
use crate::connect;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output;
use compare::{Compared, Comparison, Held};
use run::{Output, Replay, State, Totals};
use search::{Found, Parting};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_client::{Client, StartAt};
use weir_core::deploy::{Deployment, OnError, Version};
use weir_core::module::name::ModuleRef;
use weir_core::record::Record;
use weir_core::wire::deployments::{DeploymentInfo, LaneInfo};
use weir_core::wire::message::TopicInfo;
use weir_core::{Offset, PartitionIndex};
use weir_wasm::abi::Place;
use weir_wasm::{GuestLimits, GuestThreads, Module, Runner, Surroundings, Upload, bisect};

/// Characters of a key or value that a difference shows.
const SHOWN_CHARS: usize = 200;

/// Arguments of `weir module replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weir module replay zones --compare
  weir module replay zones --partition 2 --from 120400 --to 120900
  weir module replay zones --module gps-geofence@1.3.0 --compare --json

Runs here, over what the node has of the deployment's input, and writes nothing there. Without
--compare, the values that come out go to stdout, one a line; with --json, objects with the offset
of the input, topic, partition, time, key, value and headers.

--compare says whether the deployment's outputs hold the same records, byte for byte, in order and
without a gap, and ends with 1 if they do not. A module with state is run from where its state is
known: from the deployment's beginning, or from a snapshot that a takeover left; what lies before
--from is then run, too, and what comes of it is left out.")]
pub struct Args {
    /// The deployment: a transform, or a consumer without HTTP
    deployment: String,
    /// Only this partition of the input; needed with --from and --to if there are several
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// The first offset [default: where the version took over, or else the first that can
    /// be replayed]
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// The offset behind the last one [default: where the deployment is]
    #[arg(long, value_name = "OFFSET")]
    to: Option<i64>,
    /// Another version, in place of the deployment's own
    #[arg(long, value_name = "NAME@VERSION")]
    module: Option<ModuleRef>,
    /// A parameter, NAME=VALUE, in place of all that the deployment has; NAME=@FILE reads a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::parse_param)]
    param: Vec<(String, String)>,
    /// Compare with what the node wrote, rather than print
    #[arg(long)]
    compare: bool,
    /// Where to write the outputs, in place of stdout
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let done = match Job::new(&client, args, globals).await {
        Ok(job) => job.run().await,
        Err(failure) => Err(failure),
    };
    client.close().await;
    done
}

/// A replay, with all that it needs.
struct Job<'a> {
    client: &'a Client,
    globals: &'a Globals,
    args: Args,
    info: DeploymentInfo,
    topics: Vec<TopicInfo>,
    version: Version,
    module: Module,
    threads: GuestThreads,
}

impl<'a> Job<'a> {
    async fn new(client: &'a Client, args: Args, globals: &'a Globals) -> Result<Job<'a>, Failure> {
        let admin = client.admin();
        let doing = format!("finding {}", args.deployment);
        let info = admin.deployment(&args.deployment).await;
        let info = info.map_err(|error| sdk::request_failure(&doing, &error))?;
        let spec = &info.deployment.spec;
        if spec.http.is_some() {
            let what = format!("{} sends requests: what it makes depends on them", args.deployment);
            return Err(Failure::new(Exit::Refused, what));
        }
        let mut topics = Vec::new();
        for name in &spec.to {
            topics.push(sdk::topic(client, name, None).await?);
        }
        let own = spec.version.clone();
        let params = match args.param.is_empty() {
            true => own.params,
            false => deployment::params(args.param.clone())?,
        };
        let version = Version { module: args.module.clone().unwrap_or(own.module), params };
        let module = fetch(client, &version.module).await?;
        let threads = GuestThreads::start(1)?;
        Ok(Job { client, globals, args, info, topics, version, module, threads })
    }

    async fn run(self) -> CommandResult {
        let mut sink = Sink::open(self.args.out.as_deref(), self.globals.json)?;
        let mut same = true;
        let mut summaries = Vec::new();
        for lane in self.lanes()? {
            let (begin, from, to) = self.range(lane).await?;
            let made = self.replay(lane, begin, (from, to), &mut sink).await?;
            let compared = made.compared.as_ref();
            same &= compared.is_none_or(|all| all.iter().all(Compared::is_same));
            let summary = self.summary(lane, begin, (from, to), &made);
            match self.globals.json {
                true => summaries.push(summary),
                false => self.tell(lane, begin, (from, to), &made)?,
            }
            if let Some((at, why)) = made.totals.stopped {
                sink.end()?;
                let what = format!("the module stops at offset {at}: {why}");
                return Err(Failure::new(Exit::Error, what));
            }
        }
        sink.end()?;
        if self.globals.json {
            let mut all = json!({
                "deployment": self.args.deployment, "module": self.version.module,
                "partitions": summaries,
            });
            if self.args.compare {
                all["same"] = json!(same);
            }
            output::print_line(&all.to_string())?;
        }
        if same {
            return Ok(());
        }
        Err(Failure::new(Exit::Error, "what the node wrote is not what the module makes here"))
    }

    /// The partitions to replay.
    fn lanes(&self) -> Result<Vec<&LaneInfo>, Failure> {
        let all = &self.info.partitions;
        if let Some(index) = self.args.partition {
            let found = all.iter().find(|lane| lane.partition.0 == index);
            let missing = || Failure::usage(format!("the input has no partition {index}"));
            return Ok(vec![found.ok_or_else(missing)?]);
        }
        if all.len() > 1 && (self.args.from.is_some() || self.args.to.is_some()) {
            return Err(Failure::usage("--from and --to are offsets of one partition: name it")
                .next(format!("--partition 0 to {}", all.len() - 1)));
        }
        Ok(all.iter().collect())
    }

    /// Where to begin, and the range.
    async fn range(&self, lane: &LaneInfo) -> Result<(begin::Begin, Offset, Offset), Failure> {
        let deployment = &self.info.deployment;
        let (topic, asked) = (&deployment.spec.from, [(lane.partition.0, StartAt::Earliest)]);
        let bounds = self.client.admin().offsets(topic, &asked).await;
        let doing = format!("looking at topic {topic}");
        let bounds = bounds.map_err(|error| sdk::request_failure(&doing, &error))?;
        let (start, end) = bounds
            .first()
            .map_or((Offset::ZERO, Offset::ZERO), |found| (found.log_start, found.high_watermark));
        let position = lane.position.unwrap_or(start);
        let to = self.args.to.map_or(position, Offset);
        let most = if self.args.compare { position } else { end };
        if to > most {
            let what = match self.args.compare {
                true => format!("{} is at offset {position}: {to} is ahead of it", deployment.name),
                false => format!("{topic} ends at offset {end}: {to} is behind it"),
            };
            return Err(Failure::new(Exit::Refused, what).next(format!("--to {most} is the most.")));
        }
        let stateless = begin::is_stateless(&self.module, lane);
        let from = self.args.from.map(Offset);
        let begin = begin::choose(deployment, (lane, start), stateless, from)?;
        let from = from.unwrap_or_else(|| begin.offset());
        if from > to {
            return Err(Failure::usage(format!("from {from} to {to}: there is nothing between")));
        }
        let other = lane.snapshots.iter().find(|taken| taken.offset > from);
        if let Some(other) = other {
            output::note(
                self.globals.json,
                &format!(
                    "partition {}: up to offset {} the node ran {}",
                    lane.partition, other.offset, other.module
                ),
            );
        }
        Ok((begin, from, to))
    }

    async fn replay(
        &self,
        lane: &LaneInfo,
        begin: begin::Begin,
        (from, to): (Offset, Offset),
        sink: &mut Sink,
    ) -> Result<Made, Failure> {
        let deployment = &self.info.deployment;
        let runner = self.runner(deployment, lane.partition)?;
        let place = (deployment.name.as_str(), lane.partition);
        let (state, watermark) =
            begin::state(self.client, place, begin, (&self.module, &runner)).await?;
        let partitions: Vec<u32> =
            self.topics.iter().map(|topic| topic.config.partitions).collect();
        let mut replay = Replay {
            client: self.client,
            deployment,
            index: lane.partition,
            partitions: &partitions,
            runner,
            state: (Arc::new(State::new(state)), watermark),
            range: (begin.offset(), from, to),
            totals: Totals::default(),
        };
        if !self.args.compare {
            replay.run(|output| sink.write(&deployment.spec.to, &output)).await?;
            return Ok(Made { totals: replay.totals, compared: None });
        }
        let mut held = Held::default();
        replay.run(|output| held.take(output)).await?;
        let comparison = Comparison {
            client: self.client,
            info: &self.info,
            topics: &self.topics,
            index: lane.partition,
            range: (from, to),
        };
        let compared = comparison.run(&held).await?;
        Ok(Made { totals: replay.totals, compared: Some(compared) })
    }

    /// The module as the node runs it in a partition.
    fn runner(&self, deployment: &Deployment, index: PartitionIndex) -> Result<Runner, Failure> {
        let params: Vec<_> = self.version.params.clone().into_iter().collect();
        let settings = self.module.description().settings(&params);
        let place = Place {
            deployment: deployment.name.clone(),
            topics: vec![deployment.spec.from.clone()],
            partition: index.0,
        };
        let runs = weir_wasm::Deployment {
            module: self.module.clone(),
            settings: settings.map_err(|error| Failure::usage(error.to_string()))?,
            limits: GuestLimits::DEFAULT,
            on_error: match deployment.spec.on_error {
                OnError::Skip => bisect::OnError::Skip,
                OnError::DeadLetter => bisect::OnError::DeadLetter,
                OnError::Retry | OnError::Stop => bisect::OnError::Stop,
            },
            topics: deployment.spec.to.len(),
            around: Surroundings { place, ..Surroundings::default() },
        };
        Ok(self.threads.run(runs).map_err(anyhow::Error::from)?)
    }

    fn summary(
        &self,
        lane: &LaneInfo,
        begin: begin::Begin,
        (from, to): (Offset, Offset),
        made: &Made,
    ) -> Value {
        let totals = &made.totals;
        let mut summary = json!({
            "partition": lane.partition, "from": from, "to": to, "begun_at": begin.offset(),
            "from_snapshot": matches!(begin, begin::Begin::Snapshot(_)),
            "records_in": totals.records_in, "records_before": totals.records_before,
            "records_out": totals.records_out, "failed": totals.failed,
        });
        if let Some(compared) = &made.compared {
            let all: Vec<Value> = compared.iter().map(compared_json).collect();
            summary["outputs"] = json!(all);
        }
        if let Some((at, why)) = &totals.stopped {
            summary["stopped"] = json!({ "offset": at, "error": why });
        }
        summary
    }

    fn tell(
        &self,
        lane: &LaneInfo,
        begin: begin::Begin,
        (from, to): (Offset, Offset),
        made: &Made,
    ) -> CommandResult {
        let totals = &made.totals;
        let state = match begin {
            begin::Begin::Snapshot(at) => format!(", with the state of the snapshot at {at}"),
            begin::Begin::Fresh(at) if at < from => format!(", run from {at} on for the state"),
            begin::Begin::Fresh(_) => String::new(),
        };
        let text = format!(
            "partition {}, offsets {from} to {to}{state}: {} records through {}, {} outputs, {} \
             failed",
            lane.partition,
            thousands(totals.records_in),
            self.version.module,
            thousands(totals.records_out),
            thousands(totals.failed)
        );
        let Some(compared) = &made.compared else {
            eprintln!("{text}");
            return Ok(());
        };
        output::print_line(&text)?;
        compared.iter().try_for_each(|one| output::print(&compared_text(one)))
    }
}

/// What a replay of one partition gave.
struct Made {
    totals: Totals,
    compared: Option<Vec<Compared>>,
}

/// Fetches a version from the node, and gets it ready.
async fn fetch(client: &Client, id: &ModuleRef) -> Result<Module, Failure> {
    let failed = |error| sdk::request_failure(&format!("fetching {id}"), &error);
    let known = client.admin().modules().await.map_err(failed)?;
    let Some(known) = known.into_iter().find(|module| module.id == *id) else {
        let what = format!("there is no module {id}");
        return Err(
            Failure::new(Exit::Refused, what).next("`weir module list` shows what there is.")
        );
    };
    let bytes = client.admin().module_bytes(&known).await.map_err(failed)?;
    let upload = Upload::of_file(bytes);
    let upload = upload.map_err(|error| Failure::new(Exit::Refused, format!("{id}: {error}")))?;
    super::prepare_named(&id.to_string(), &upload).await
}

/// Where outputs go.
struct Sink {
    to: Box<dyn Write>,
    json: bool,
    /// The line in the making.
    line: Vec<u8>,
}

impl Sink {
    fn open(path: Option<&Path>, json: bool) -> Result<Sink, Failure> {
        let to: Box<dyn Write> = match path {
            None => Box::new(BufWriter::new(std::io::stdout())),
            Some(path) => {
                let file = std::fs::File::create(path);
                let failed = |error| Failure::usage(format!("{}: {error}", path.display()));
                Box::new(BufWriter::new(file.map_err(failed)?))
            }
        };
        Ok(Sink { to, json, line: Vec::new() })
    }

    fn write(&mut self, topics: &[String], output: &Output) -> CommandResult {
        let Output { source, topic, partition, record } = output;
        let name = topics.get(*topic).map_or("", String::as_str);
        self.line.clear();
        if self.json {
            let head = json!({
                "source": source, "topic": name, "partition": partition,
                "timestamp": record.timestamp,
            });
            self.line.extend_from_slice(head.to_string().trim_end_matches('}').as_bytes());
            json_member("key", record.key.as_deref(), &mut self.line);
            json_member("value", record.value.as_deref(), &mut self.line);
            self.line.extend_from_slice(b",\"headers\":[");
            for (at, header) in record.headers.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let name = json!(header.name.as_str());
                self.line.extend_from_slice(format!("{comma}{{\"name\":{name}").as_bytes());
                json_member("value", header.value.as_deref(), &mut self.line);
                self.line.push(b'}');
            }
            self.line.extend_from_slice(b"]}\n");
        } else {
            if topics.len() > 1 {
                self.line.extend_from_slice(name.as_bytes());
                self.line.push(b'\t');
            }
            self.line.extend_from_slice(record.value.as_deref().unwrap_or(b"(deleted)"));
            self.line.push(b'\n');
        }
        Ok(self.to.write_all(&self.line)?)
    }

    fn end(&mut self) -> CommandResult {
        Ok(self.to.flush()?)
    }
}

fn compared_text(one: &Compared) -> String {
    let Compared { topic, partition, log_start, replayed, found, at } = one;
    let place = format!("{topic}/{partition}");
    let gone = match *log_start > Offset::ZERO {
        true => format!(" ({place} begins at offset {log_start} now)"),
        false => String::new(),
    };
    match found {
        Found::Same(None) => format!("  {place}: nothing, and nothing there\n"),
        Found::Same(Some(from)) => {
            format!("  {place}: the same {} records, from offset {from} on\n", thousands(*replayed))
        }
        Found::Besides(count, first, last) => format!(
            "  {place}: differs: {} records are there besides the {} of the replay, between \
             offsets {first} and {last}\n",
            thousands(*count),
            thousands(*replayed)
        ),
        Found::Parts(Parting { same, node }) => {
            let here = at.as_ref().map_or("nothing".to_owned(), |(source, record)| {
                format!("{} of the input at {source}", shown(record))
            });
            let there = node.as_ref().map_or("nothing".to_owned(), |(offset, record)| {
                format!("{} at offset {offset}", shown(record))
            });
            format!(
                "  {place}: differs behind {} of {} records{gone}\n    here  {here}\n    node  \
                 {there}\n",
                thousands(*same as u64),
                thousands(*replayed)
            )
        }
    }
}

fn compared_json(one: &Compared) -> Value {
    let mut value = json!({
        "topic": one.topic, "partition": one.partition, "replayed": one.replayed,
        "same": one.is_same(),
    });
    let record = |record: &Record| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        json!({
            "timestamp": record.timestamp, "key": record.key.as_deref().map(text),
            "value": record.value.as_deref().map(text), "headers": record.headers.len(),
        })
    };
    match &one.found {
        Found::Same(from) => value["offset"] = json!(from),
        Found::Besides(count, ..) => value["besides"] = json!(count),
        Found::Parts(Parting { same, node }) => {
            value["difference"] = json!({
                "same_before": same,
                "source": one.at.as_ref().map(|(source, _)| source),
                "here": one.at.as_ref().map(|(_, made)| record(made)),
                "offset": node.as_ref().map(|(offset, _)| offset),
                "node": node.as_ref().map(|(_, wrote)| record(wrote)),
            });
        }
    }
    value
}

/// A record in a few words. What is not seen in them may differ all the same.
fn shown(record: &Record) -> String {
    let part = |bytes: Option<&[u8]>| {
        bytes.map_or("none".to_owned(), |bytes| cut(&printable(bytes), SHOWN_CHARS))
    };
    let (key, value) = (part(record.key.as_deref()), part(record.value.as_deref()));
    format!("time {}, key {key}, {} headers, {value}", record.timestamp, record.headers.len())
}
