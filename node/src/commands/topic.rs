//! `weir topic`: makes, shows, changes and deletes topics.

use super::cluster;
use super::consume::from::From as Place;
use super::figures::thousands;
use super::on_produce::{self, OnProduceArgs};
use super::sdk;
use crate::cli::Globals;
use crate::exit::{CommandResult, Effect, Exit, Failure};
use crate::output::{self, Table};
use crate::units::{Size, Span, human_bytes};
use crate::{connect, timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use weir_client::Client;
use weir_core::record::Compression;
use weir_core::topic::{Durability, TopicChange, TopicConfig};
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{PartitionStatus, TopicInfo};

/// The commands of `weir topic`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a topic
    #[command(after_help = "\
Examples:
  weir topic create readings
  weir topic create gps --partitions 4 --retention 30d --compression zstd
  weir topic create orders --partitions 4 --replicas 3 --min-insync 2
  weir topic create can --retention-bytes 2GiB --commit-linger 50ms
  weir topic create temps --on-produce range-guard@1.0.0 --on-produce-param field=temp \\
      --on-produce-param max=85")]
    Create {
        /// Its name: letters, digits, `.`, `_` and `-`
        name: String,
        #[command(flatten)]
        settings: TopicSettings,
        /// Leave a topic of this name as it is, and succeed
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Show all topics, one a line
    #[command(after_help = "Examples:\n  weir topic list\n  weir topic list --json")]
    List,
    /// Show a topic's settings and partitions
    #[command(after_help = "Examples:\n  weir topic describe readings")]
    Describe {
        /// Which ones
        #[arg(required = true, value_name = "TOPIC")]
        names: Vec<String>,
    },
    /// Change a topic's settings; what is not named stays
    #[command(after_help = "\
Examples:
  weir topic alter readings --retention 90d
  weir topic alter readings --partitions 8 --retention-bytes unlimited
  weir topic alter temps --on-produce range-guard@1.1.0
  weir topic alter temps --no-on-produce
  weir topic alter orders --min-insync 1

Partitions can be added, not taken away; records of a key may then land in another partition than
before. Another version of the module that checks the topic keeps its parameters, unless one is
given; then all of them must be. Copies are not made by altering, but by `weir topic reassign`.")]
    Alter {
        /// Which one
        #[arg(value_name = "TOPIC")]
        name: String,
        #[command(flatten)]
        settings: TopicSettings,
    },
    /// Move the copies of a partition to other nodes of the cluster
    Reassign(cluster::ReassignArgs),
    /// Delete topics with all their records, for good
    #[command(
        after_help = "Examples:\n  weir topic delete readings\n  weir topic delete a b --yes"
    )]
    Delete {
        /// Which ones
        #[arg(required = true, value_name = "TOPIC")]
        names: Vec<String>,
        /// Do not ask; needed where nobody can be asked, such as in a script
        #[arg(long, short)]
        yes: bool,
        /// Succeed for topics that do not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Drop the oldest records of a topic, for good
    #[command(after_help = "\
Examples:
  weir topic trim readings --partition 0 --before 120000
  weir topic trim readings --before 2026-01-31T00:00:00Z")]
    Trim {
        /// Which topic
        #[arg(value_name = "TOPIC")]
        name: String,
        /// Which partition; all unless given
        #[arg(long)]
        partition: Option<u32>,
        /// What lies before this goes: an offset, a time, -7d for seven days ago, or latest
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        before: Place,
    },
}

/// Settings of a topic. An absent one has its default or stays as it is.
#[derive(Debug, clap::Args)]
pub struct TopicSettings {
    /// How many partitions [default: 1]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// How long records are kept after they were appended, or `forever` [default: 7d]
    #[arg(long, value_name = "DURATION")]
    retention: Option<Bound<Span>>,
    /// How much a partition keeps: its oldest records go while it holds more; or `unlimited`
    /// [default: unlimited]
    #[arg(long, value_name = "SIZE")]
    retention_bytes: Option<Bound<Size>>,
    /// Retention by age leaves a partition at least this much [default: 0]
    #[arg(long, value_name = "SIZE")]
    retention_min_bytes: Option<Size>,
    /// What producers compress with unless told otherwise: none, lz4, zstd, snappy, gzip
    /// [default: none]
    #[arg(long, value_name = "KIND")]
    compression: Option<Compression>,
    /// When a batch is acknowledged: durable (once it is on disk) or relaxed (once it is in
    /// memory: a crash loses what was acknowledged but not yet written) [default: durable]
    #[arg(long, value_name = "KIND", value_parser = parse_durability)]
    durability: Option<Durability>,
    /// How long a commit may wait for more batches to share its sync: fewer writes on flash for
    /// more latency [default: 0s]
    #[arg(long, value_name = "DURATION")]
    commit_linger: Option<Span>,
    /// Largest batch taken, 1KiB to 4MiB [default: 4MiB]
    #[arg(long, value_name = "SIZE")]
    batch_bytes_max: Option<Size>,
    /// On how many nodes each partition is kept; set when the topic is made [default: 1]
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// How many copies must be in sync for appends to be taken [default: 1]
    #[arg(long, value_name = "N")]
    min_insync: Option<u32>,
    #[command(flatten)]
    on_produce: OnProduceArgs,
}

/// A limit that may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound<T>(Option<T>);

impl<T: std::str::FromStr<Err = String>> std::str::FromStr for Bound<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" | "unlimited" | "none" => Ok(Bound(None)),
            text => text.parse().map(|value| Bound(Some(value))),
        }
    }
}

fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "durable" => Ok(Durability::Durable),
        "relaxed" => Ok(Durability::Relaxed),
        _ => Err("write durable or relaxed".to_owned()),
    }
}

impl TopicSettings {
    fn change(&self) -> Result<TopicChange, Failure> {
        let linger = self.commit_linger.map(|span| u32::try_from(span.as_ms()));
        let batch = self.batch_bytes_max.map(|size| u32::try_from(size.0));
        Ok(TopicChange {
            partitions: self.partitions,
            retention_ms: self.retention.map(|bound| bound.0.map(Span::as_ms)),
            retention_bytes: self.retention_bytes.map(|bound| bound.0.map(|size| size.0)),
            retention_min_bytes: self.retention_min_bytes.map(|size| size.0),
            compression: self.compression,
            durability: self.durability,
            commit_linger_ms: linger
                .transpose()
                .map_err(|_| Failure::usage("--commit-linger is too long"))?,
            batch_bytes_max: batch
                .transpose()
                .map_err(|_| Failure::usage("--batch-bytes-max is too large"))?,
            on_produce: self.on_produce.change()?,
            replicas: self.replicas,
            min_insync: self.min_insync,
        })
    }

    fn config(&self) -> Result<TopicConfig, Failure> {
        let change = self.change()?;
        // Not as changes of a topic with one of each, which would be refused as such.
        let partitions = change.partitions.unwrap_or(1);
        let replicas = change.replicas.unwrap_or(1);
        let min_insync = change.min_insync.unwrap_or(1);
        let rest = TopicChange { partitions: None, replicas: None, min_insync: None, ..change };
        let settled = rest.apply(&TopicConfig::default());
        let config =
            settled.map(|config| TopicConfig { partitions, replicas, min_insync, ..config });
        let config = config.map_err(|error| Failure::usage(error.to_string()))?;
        config.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(config)
    }
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    match command {
        Command::Create { name, settings, if_not_exists } => {
            create(globals, &name, settings.config()?, if_not_exists).await
        }
        Command::List => list(globals).await,
        Command::Describe { names } => describe(globals, &names).await,
        Command::Alter { name, settings } => alter(globals, &name, settings.change()?).await,
        Command::Delete { names, yes, if_exists } => delete(globals, &names, yes, if_exists).await,
        Command::Reassign(args) => cluster::reassign(globals, args).await,
        Command::Trim { name, partition, before } => trim(globals, &name, partition, before).await,
    }
}

async fn create(
    globals: &Globals,
    name: &str,
    config: TopicConfig,
    if_not_exists: bool,
) -> CommandResult {
    let client = connect::client(globals).await?;
    let doing = format!("creating topic {name}");
    let created = match client.admin().create_topic(name, config).await {
        Err(error) if if_not_exists && error.code() == Some(ErrorCode::TopicExists) => None,
        result => Some(result.map_err(|error| sdk::request_failure(&doing, &error))?),
    };
    let topic = match &created {
        Some(topic) => topic.clone(),
        None => sdk::topic(&client, name, None).await?,
    };
    client.close().await;
    if globals.json {
        return output::print_json(&topic);
    }
    let state = if created.is_some() { "created" } else { "exists already, left as it is" };
    output::print_line(&format!("topic {name}: {state}; {}", summary(&topic.config)))
}

async fn list(globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let topics = client.admin().topics().await;
    let topics = topics.map_err(|error| sdk::request_failure("listing topics", &error))?;
    client.close().await;
    if globals.json {
        return output::print_json(&topics);
    }
    if topics.is_empty() {
        output::note(false, "no topics; `weir topic create NAME` makes one");
        return Ok(());
    }
    let mut table = Table::new(&[
        "TOPIC",
        ">PARTITIONS",
        ">RETENTION",
        ">BYTES MAX",
        "COMPRESSION",
        "DURABILITY",
        "CREATED",
    ]);
    for TopicInfo { name, config, created_at, .. } in &topics {
        table.row([
            name.clone(),
            config.partitions.to_string(),
            retention(config),
            retention_bytes(config),
            config.compression.to_string(),
            durability(config.durability).to_owned(),
            timestamp::seconds(*created_at),
        ]);
    }
    output::print(&table.render())
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    topic: TopicInfo,
    partitions: Vec<PartitionStatus>,
}

async fn describe(globals: &Globals, names: &[String]) -> CommandResult {
    let client = connect::client(globals).await?;
    let mut topics = Vec::new();
    for name in names {
        topics.push(sdk::topic(&client, name, None).await?);
    }
    let status = client.admin().status().await;
    let status = status.map_err(|error| sdk::request_failure("reading the status", &error))?;
    client.close().await;
    let mut by_topic: BTreeMap<String, Vec<PartitionStatus>> = BTreeMap::new();
    for partition in status.partitions {
        by_topic.entry(partition.topic.clone()).or_default().push(partition);
    }
    let described: Vec<Described> = topics
        .into_iter()
        .map(|topic| {
            let partitions = by_topic.get(&topic.name).cloned().unwrap_or_default();
            Described { topic, partitions }
        })
        .collect();
    if globals.json {
        return output::print_json(&described);
    }
    let texts: Vec<String> = described.iter().map(description).collect();
    output::print(&texts.join("\n"))
}

fn description(Described { topic, partitions }: &Described) -> String {
    let config = &topic.config;
    let mut text = format!("topic {} (id {})\n", topic.name, topic.id);
    for (name, value) in [
        ("created", timestamp::seconds(topic.created_at)),
        ("partitions", config.partitions.to_string()),
        ("retention", retention(config)),
        ("retention bytes", retention_bytes(config)),
        ("retention min bytes", Size(config.retention_min_bytes).to_string()),
        ("compression", config.compression.to_string()),
        ("durability", durability(config.durability).to_owned()),
        ("commit linger", Span::from_ms(u64::from(config.commit_linger_ms)).to_string()),
        ("batch bytes max", Size(u64::from(config.batch_bytes_max)).to_string()),
        ("replicas", config.replicas.to_string()),
        ("min insync", config.min_insync.to_string()),
        ("on produce", on_produce::shown(config.on_produce.as_ref())),
    ] {
        text += &format!("  {name:<20} {value}\n");
    }
    let mut table = Table::new(&[
        ">PARTITION",
        ">LOG START",
        ">HIGH WATERMARK",
        ">END",
        ">RECORDS",
        ">BYTES",
        "STATE",
    ]);
    for p in partitions {
        table.row([
            p.partition.to_string(),
            p.log_start.to_string(),
            p.high_watermark.to_string(),
            p.log_end.to_string(),
            thousands(p.high_watermark.since(p.log_start)),
            human_bytes(p.bytes),
            if p.online { "online" } else { "offline" }.to_owned(),
        ]);
    }
    text + &table.render()
}

async fn alter(globals: &Globals, name: &str, mut change: TopicChange) -> CommandResult {
    if change == TopicChange::default() {
        return Err(Failure::usage("nothing to change").next("see `weir topic alter --help`"));
    }
    let client = connect::client(globals).await?;
    // Its error names topics that may have been meant.
    let known = sdk::topic(&client, name, None).await?;
    on_produce::keep_params(&mut change.on_produce, &known.config);
    let altered = client.admin().alter_topic(name, change).await;
    let doing = format!("altering topic {name}");
    let topic = altered.map_err(|error| sdk::request_failure(&doing, &error))?;
    client.close().await;
    if globals.json {
        return output::print_json(&topic);
    }
    output::print_line(&format!("topic {name}: altered; {}", summary(&topic.config)))
}

async fn delete(globals: &Globals, names: &[String], yes: bool, if_exists: bool) -> CommandResult {
    let client = connect::client(globals).await?;
    let mut existing = Vec::new();
    for name in names {
        match sdk::topic(&client, name, None).await {
            Ok(topic) => existing.push(topic.name),
            Err(failure) if if_exists && failure.code == Some(ErrorCode::UnknownTopic) => {}
            Err(failure) => return Err(failure),
        }
    }
    if !yes && !existing.is_empty() {
        if !std::io::stdin().is_terminal() {
            let what = format!("nothing was deleted: nobody can be asked about {existing:?}");
            return Err(Failure::usage(what).next("in a script, say --yes"));
        }
        confirm(&client, &existing).await?;
    }
    let mut deleted: Vec<&String> = Vec::new();
    for name in &existing {
        let doing = format!("deleting topic {name}");
        if let Err(error) = client.admin().delete_topic(name).await {
            let mut failure = sdk::request_failure(&doing, &error);
            if !deleted.is_empty() && failure.effect == Effect::None {
                failure.effect = Effect::Partial;
                failure.what += &format!(" (already deleted: {deleted:?})");
            }
            return Err(failure);
        }
        deleted.push(name);
    }
    client.close().await;
    if globals.json {
        return output::print_json(&serde_json::json!({ "deleted": deleted }));
    }
    deleted.iter().try_for_each(|name| output::print_line(&format!("topic {name}: deleted")))
}

/// Asks at the terminal. Records are gone for good, and a name is easily mistyped.
async fn confirm(client: &Client, names: &[String]) -> CommandResult {
    let status = client.admin().status().await;
    let status = status.map_err(|error| sdk::request_failure("reading the status", &error))?;
    let concerned = status.partitions.iter().filter(|p| names.contains(&p.topic));
    let (records, bytes) = concerned.fold((0, 0), |(records, bytes), p| {
        (records + p.high_watermark.since(p.log_start), bytes + p.bytes)
    });
    let question = format!(
        "Delete {} with {} records ({})? They are gone for good. [y/N] ",
        names.join(", "),
        thousands(records),
        human_bytes(bytes)
    );
    // Waiting for a person blocks; the connection has a thread of its own meanwhile.
    let answer = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut stderr = std::io::stderr();
        stderr.write_all(question.as_bytes())?;
        stderr.flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.await.map_err(std::io::Error::other)??;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Error, "nothing was deleted")),
    }
}

async fn trim(
    globals: &Globals,
    name: &str,
    partition: Option<u32>,
    before: Place,
) -> CommandResult {
    let client = connect::client(globals).await?;
    let topic = sdk::topic(&client, name, None).await?;
    let partitions: Vec<u32> = match partition {
        Some(partition) => vec![partition],
        None => (0..topic.config.partitions).collect(),
    };
    let doing = format!("trimming topic {name}");
    let start = before.resolve(sdk::now_ms());
    let asked: Vec<_> = partitions.iter().map(|partition| (*partition, start)).collect();
    let resolved = client.admin().offsets(name, &asked).await;
    let resolved = resolved.map_err(|error| sdk::request_failure(&doing, &error))?;
    let mut lines = Vec::new();
    for at in &resolved {
        let trimmed = client.admin().trim(name, at.partition.0, at.offset).await;
        trimmed.map_err(|error| sdk::request_failure(&doing, &error))?;
        let dropped = at.offset.since(at.log_start);
        lines.push(serde_json::json!({
            "partition": at.partition.0, "log_start": at.offset.0, "records_dropped": dropped,
        }));
    }
    client.close().await;
    if globals.json {
        return output::print_json(&lines);
    }
    let mut table = Table::new(&[">PARTITION", ">LOG START", ">RECORDS DROPPED"]);
    for at in &resolved {
        let dropped = thousands(at.offset.since(at.log_start));
        table.row([at.partition.to_string(), at.offset.to_string(), dropped]);
    }
    output::print(&table.render())
}

fn summary(config: &TopicConfig) -> String {
    let plural = if config.partitions == 1 { "" } else { "s" };
    let checked = config.on_produce.as_ref().map(|version| &version.module);
    let copies = match config.replicas {
        1 => String::new(),
        n => format!(" on {n} nodes each, {} in sync at least", config.min_insync),
    };
    format!(
        "{} partition{plural}{copies}, retention {}, {} bytes, {}{}",
        config.partitions,
        retention(config),
        retention_bytes(config),
        durability(config.durability),
        checked.map_or(String::new(), |module| format!(", checked by {module}"))
    )
}

fn retention(config: &TopicConfig) -> String {
    config.retention_ms.map_or("forever".to_owned(), |ms| Span::from_ms(ms).to_string())
}

fn retention_bytes(config: &TopicConfig) -> String {
    config.retention_bytes.map_or("unlimited".to_owned(), |bytes| Size(bytes).to_string())
}

fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::Relaxed => "relaxed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: TopicSettings,
    }

    fn config(arguments: &[&str]) -> Result<TopicConfig, Failure> {
        let line = ["x"].iter().chain(arguments);
        Line::try_parse_from(line).unwrap().settings.config()
    }

    #[test]
    fn settings_of_a_new_topic() {
        assert_eq!(config(&[]).unwrap(), TopicConfig::default());
        let all = config(&[
            "--partitions=4",
            "--retention=forever",
            "--retention-bytes=2GiB",
            "--retention-min-bytes=1MiB",
            "--compression=zstd",
            "--durability=relaxed",
            "--commit-linger=50ms",
            "--batch-bytes-max=1MiB",
            "--replicas=3",
            "--min-insync=2",
        ]);
        assert_eq!(
            all.unwrap(),
            TopicConfig {
                partitions: 4,
                retention_ms: None,
                retention_bytes: Some(2 << 30),
                retention_min_bytes: 1 << 20,
                compression: Compression::Zstd,
                durability: Durability::Relaxed,
                commit_linger_ms: 50,
                batch_bytes_max: 1 << 20,
                on_produce: None,
                replicas: 3,
                min_insync: 2,
            }
        );
    }

    #[test]
    fn settings_out_of_bounds_are_a_usage_error() {
        for wrong in [
            "--partitions=0",
            "--partitions=1025",
            "--commit-linger=11s",
            "--batch-bytes-max=5MiB",
            "--batch-bytes-max=5GiB",
            "--commit-linger=9999999d",
            "--replicas=0",
            "--replicas=17",
            "--min-insync=2",
            "--replicas=3 --min-insync=4",
        ] {
            let wrong: Vec<&str> = wrong.split(' ').collect();
            assert_eq!(config(&wrong).unwrap_err().exit, Exit::Usage, "{wrong:?}");
        }
        let failure = config(&["--partitions=0"]).unwrap_err();
        assert!(failure.what.starts_with("0 partitions"), "{failure}");
    }

    /// Goal: `alter` names only what it was told, and can take a bound away.
    #[test]
    fn a_change_names_only_what_was_given() {
        let line = Line::try_parse_from(["x", "--retention=forever"]).unwrap();
        let change = line.settings.change().unwrap();
        assert_eq!(change, TopicChange { retention_ms: Some(None), ..TopicChange::default() });
    }
}
