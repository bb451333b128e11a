//! `weir dead-letter`: records that modules could not work on.

use super::deployment::params;
use super::sdk;
use crate::cli::Globals;
use crate::commands::consume::{cut, printable};
use crate::commands::figures::thousands;
use crate::commands::module::parse_param;
use crate::connect;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use crate::timestamp;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_client::{Client, ConsumerRecord};
use weir_core::deploy::{Deployment, DeploymentKind, DeploymentSpec, OnError, Version};
use weir_core::module::name::ModuleRef;
use weir_core::wire::deployments::{DeploymentInfo, LaneCondition, LaneInfo};
use weir_core::wire::message::StartAt;
use weir_core::{Offset, TimestampMs};

/// How often a replay is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What the names of the headers that a node adds begin with.
const HEADER_PREFIX: &str = "weir-dead-letter-";

/// The commands of `weir dead-letter`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show which deployments have dead letters, and how many
    #[command(after_help = "Examples:\n  weir dead-letter list\n  weir dead-letter list --json")]
    List,
    /// Show a deployment's dead letters, oldest first
    #[command(after_help = "\
Examples:
  weir dead-letter show zones
  weir dead-letter show zones --limit 1 --json

A letter is the record as it was, with where it came from and what went wrong. `cut` says that the
record was too large to be a letter: its value is in the input topic, as long as that keeps it.")]
    Show(ShowArgs),
    /// Run a deployment's dead letters through a module version, to the deployment's outputs
    #[command(after_help = "\
Examples:
  weir dead-letter replay zones --with gps-geofence@1.3.0
  weir dead-letter replay zones --with gps-geofence@1.3.0 --skip

The letters go through a transform of their own, NAME.replay, exactly once and without the state of
the deployment; what was replayed is then removed from the dead-letter topic. Without --skip it ends
at the first letter that fails again. A replay that was cut off goes on when it is started again.")]
    Replay(ReplayArgs),
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The deployment
    name: String,
    /// How many letters at most
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    limit: usize,
}

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The deployment
    name: String,
    /// Which version of which module
    #[arg(long, value_name = "NAME@VERSION")]
    with: ModuleRef,
    /// A parameter of the module, in place of all that the deployment has
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    /// Leave out letters that fail again: they stay in the dead-letter topic, with all others
    #[arg(long)]
    skip: bool,
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let done = match command {
        Command::List => list(&client, globals).await,
        Command::Show(args) => show(&client, globals, args).await,
        Command::Replay(args) => replay(&client, globals, args).await,
    };
    client.close().await;
    done
}

/// A partition's letters: from where, and up to where.
type Span = (u32, Offset, Offset);

async fn spans(client: &Client, topic: &str) -> Result<Vec<Span>, Failure> {
    let failed = |error| sdk::request_failure(&format!("looking at topic {topic}"), &error);
    let info = client.admin().topic(topic).await.map_err(failed)?;
    let Some(info) = info else { return Ok(Vec::new()) };
    let asked: Vec<_> = (0..info.config.partitions).map(|p| (p, StartAt::Earliest)).collect();
    let found = client.admin().offsets(topic, &asked).await.map_err(failed)?;
    Ok(found.iter().map(|at| (at.partition.0, at.log_start, at.high_watermark)).collect())
}

fn count(spans: &[Span]) -> u64 {
    spans.iter().map(|(_, from, to)| to.since(*from)).sum()
}

/// A deployment that has dead letters.
#[derive(Serialize)]
struct Listed {
    deployment: String,
    kind: &'static str,
    topic: String,
    /// Letters in the topic; no fewer than there are, since a batch may take offsets besides.
    letters: u64,
}

async fn list(client: &Client, globals: &Globals) -> CommandResult {
    let all = client.admin().deployments().await;
    let all = all.map_err(|error| sdk::request_failure("listing deployments", &error))?;
    let mut listed = Vec::new();
    for DeploymentInfo { deployment, .. } in all {
        let Some(topic) = deployment.dead_letter_topic() else { continue };
        let letters = count(&spans(client, &topic).await?);
        let kind = deployment.spec.kind.name();
        listed.push(Listed { deployment: deployment.name, kind, topic, letters });
    }
    if globals.json {
        return output::print_json(&listed);
    }
    if listed.is_empty() {
        output::note(false, "no deployment has the policy --on-error dead-letter");
        return Ok(());
    }
    let mut table = Table::new(&["DEPLOYMENT", "KIND", "TOPIC", ">LETTERS"]);
    for Listed { deployment, kind, topic, letters } in listed {
        table.row([deployment, kind.to_owned(), topic, thousands(letters)]);
    }
    output::print(&table.render())
}

/// The deployment and its dead-letter topic.
async fn find(client: &Client, name: &str) -> Result<(Deployment, String), Failure> {
    let found = client.admin().deployment(name).await;
    let found = found.map_err(|error| sdk::request_failure(&format!("finding {name}"), &error))?;
    let topic = found.deployment.dead_letter_topic().ok_or_else(|| {
        let what = format!("{name} has no dead letters: its policy is another");
        Failure::new(Exit::Refused, what).next("See: weir dead-letter list")
    })?;
    Ok((found.deployment, topic))
}

/// A dead letter, as `--json` prints it.
#[derive(Serialize)]
struct Letter {
    partition: u32,
    offset: i64,
    timestamp: TimestampMs,
    key: Option<String>,
    value: Option<String>,
    /// What the node says of it: `module`, `error`, `topic`, `partition`, `offset` and so on.
    said: BTreeMap<String, String>,
}

impl Letter {
    fn of(record: &ConsumerRecord) -> Letter {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = record.headers.iter().filter_map(|header| {
            let name = header.name.strip_prefix(HEADER_PREFIX)?;
            Some((name.to_owned(), header.value.as_deref().map_or(String::new(), text)))
        });
        Letter {
            partition: record.partition,
            offset: record.offset.0,
            timestamp: record.timestamp,
            key: record.key.as_deref().map(text),
            value: record.value.as_deref().map(text),
            said: said.collect(),
        }
    }

    fn said(&self, name: &str) -> &str {
        self.said.get(name).map_or("?", String::as_str)
    }

    fn text(&self) -> String {
        let value = self.value.as_deref().unwrap_or("(no value)");
        format!(
            "{} {}/{} at offset {}, {}: {}\n  {}\n",
            timestamp::seconds(self.timestamp),
            self.said("topic"),
            self.said("partition"),
            self.said("offset"),
            self.said("module"),
            self.said("error"),
            cut(&printable(value.as_bytes()), 200),
        )
    }
}

async fn show(client: &Client, globals: &Globals, args: ShowArgs) -> CommandResult {
    let (_, topic) = find(client, &args.name).await?;
    let spans = spans(client, &topic).await?;
    let mut left = args.limit.min(usize::try_from(count(&spans)).unwrap_or(usize::MAX));
    let mut consumer = client.consumer().until_end(true).build();
    let from: Vec<_> =
        spans.iter().map(|(p, start, _)| (topic.as_str(), *p, StartAt::Offset(*start))).collect();
    if !from.is_empty() {
        consumer.assign(&from).await.map_err(|error| sdk::assign_failure(&error))?;
    }
    while left > 0 && !from.is_empty() {
        let next = consumer.next().await.map_err(|error| sdk::consume_failure(&error))?;
        let Some(record) = next else { break };
        left -= 1;
        let letter = Letter::of(&record);
        match globals.json {
            true => output::print_json(&letter)?,
            false => output::print(&letter.text())?,
        }
    }
    if from.is_empty() || count(&spans) == 0 {
        output::note(globals.json, &format!("{topic} is empty"));
    }
    Ok(())
}

async fn replay(client: &Client, globals: &Globals, args: ReplayArgs) -> CommandResult {
    let (deployment, topic) = find(client, &args.name).await?;
    if deployment.spec.kind != DeploymentKind::Transform {
        let what =
            format!("{} is a consumer: only a transform's letters can be replayed", args.name);
        return Err(Failure::new(Exit::Refused, what));
    }
    let spans = spans(client, &topic).await?;
    let name = format!("{}.replay", args.name);
    let failed = |error| sdk::request_failure(&format!("replaying {}", args.name), &error);
    if count(&spans) == 0 {
        if client.admin().deployment(&name).await.is_ok() {
            // One that was cut off at its very end: it must not take letters that come later.
            client.admin().delete_deployment(&name).await.map_err(failed)?;
        }
        output::note(false, &format!("{topic} is empty: there is nothing to replay"));
        return Ok(());
    }
    let params = match args.param.is_empty() {
        true => deployment.spec.version.params.clone(),
        false => params(args.param)?,
    };
    let spec = DeploymentSpec {
        version: Version { module: args.with.clone(), params },
        from: topic.clone(),
        on_error: if args.skip { OnError::Skip } else { OnError::Stop },
        dead_letter: None,
        from_latest: false,
        retries: 0,
        ..deployment.spec
    };
    let info = match client.admin().deployment(&name).await {
        // One that was cut off.
        Ok(info) if info.deployment.spec == spec => info,
        Ok(_) => {
            let what = format!("{name} is there, with another module or policy");
            let next = format!("End it first: weir transform delete {name}");
            return Err(Failure::new(Exit::Refused, what).next(next));
        }
        Err(_) => client.admin().create_deployment(&name, spec).await.map_err(failed)?,
    };
    let done = wait(client, info, |lane| {
        let span = spans.iter().find(|(partition, ..)| *partition == lane.partition.0);
        let there = span.is_none_or(|(_, _, to)| lane.position.is_some_and(|at| at >= *to));
        lane.undelivered == 0 && (there || lane.state == LaneCondition::Stopped)
    });
    let done = done.await?;
    // Letters may come and be taken meanwhile: what is removed must be all that was taken, or the
    // next replay takes it again.
    let paused = client.admin().pause_deployment(&name, true).await.map_err(failed)?;
    let paused =
        wait(client, paused, |lane| lane.undelivered == 0 && lane.state == LaneCondition::Paused);
    let paused = paused.await?;
    let mut taken = 0;
    for (partition, from, _) in &spans {
        let position = paused.partitions.iter().find(|p| p.partition.0 == *partition);
        let position = position.and_then(|p| p.position).unwrap_or(*from);
        taken += position.since(*from);
        if !args.skip && position > *from {
            client.admin().trim(&topic, *partition, position).await.map_err(failed)?;
        }
    }
    client.admin().delete_deployment(&name).await.map_err(failed)?;
    finish(globals, &args.name, &done, taken)
}

/// Waits until a deployment is as it should be in each partition.
async fn wait(
    client: &Client,
    mut info: DeploymentInfo,
    right: impl Fn(&LaneInfo) -> bool,
) -> Result<DeploymentInfo, Failure> {
    let name = info.deployment.name.clone();
    loop {
        if !info.partitions.is_empty() && info.partitions.iter().all(&right) {
            return Ok(info);
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let found = client.admin().deployment(&name).await;
        info = found.map_err(|error| sdk::request_failure("looking at the replay", &error))?;
    }
}

fn finish(globals: &Globals, name: &str, done: &DeploymentInfo, taken: u64) -> CommandResult {
    let sum = |figure: fn(&LaneInfo) -> u64| -> u64 { done.partitions.iter().map(figure).sum() };
    let (made, errors) = (sum(|p| p.records_out), sum(|p| p.errors));
    let stopped = done.partitions.iter().find(|p| p.state == LaneCondition::Stopped);
    let stopped = stopped.and_then(|p| p.last_error.as_ref());
    if globals.json {
        let error = stopped.map(|error| error.message.clone());
        output::print_json(&json!({
            "deployment": name, "replayed": taken, "records_out": made, "failed_again": errors,
            "stopped": error,
        }))?;
    } else {
        output::print_line(&format!(
            "{name}: {} letters replayed, {} records made, {} failed again",
            thousands(taken),
            thousands(made),
            thousands(errors)
        ))?;
    }
    match stopped {
        None => Ok(()),
        Some(error) => {
            let what = format!("a letter failed again: {}", error.message);
            let next = format!("See it: weir dead-letter show {name} --limit 1");
            Err(Failure::new(Exit::Refused, what).next(next))
        }
    }
}
