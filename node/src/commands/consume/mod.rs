//! `weir consume`: records of topics to stdout.
//!
//! This task takes batches from the SDK and prints them into chunks; a thread writes the chunks
//! ([`output`]). A group's positions are stored for what that thread has written, not before: as
//! a member of the group, or as nobody's where partitions are named.

mod args;
pub mod format;
pub mod from;
mod output;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use weir_client::{Batch, Client, CommitError, Consumer, ConsumerBuilder, ErrorCode};
use weir_core::group::Generation;
use weir_core::ids::PartitionIndex;
use weir_core::wire::message::{GroupPosition, StartAt, TopicInfo};
use weir_core::{Offset, TimestampMs, TopicId};

pub use args::Args;
pub use format::{cut, printable};

use crate::cli::Globals;
use crate::commands::sdk;
use crate::exit::{CommandResult, Exit, Failure};
use format::Formatter;
use output::{Chunk, Output, Partition};

/// How often a group's positions are stored.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// A chunk is handed to the writer once it holds this many bytes, or its batch ends.
const CHUNK_BYTES: usize = 256 * 1024;

/// Runs the command.
pub async fn run(args: Args, globals: &Globals) -> CommandResult {
    let formatter = args.formatter(globals)?;
    let client = crate::connect::client(globals).await?;
    let mut topics = Vec::new();
    for name in &args.topics {
        topics.push(sdk::topic(&client, name, None).await?);
    }
    let consumer = match args.is_member() {
        true => join(&client, &args).await?,
        false => {
            let starts = starts(&client, &args, &topics).await?;
            subscribe(&client, &args, &starts).await?
        }
    };
    let ids = topics.iter().map(|topic| (Arc::from(topic.name.as_str()), topic.id)).collect();
    let run = Run {
        client: client.clone(),
        ids,
        formatter,
        left: args.count.unwrap_or(u64::MAX),
        output: Output::start(std::io::stdout)?,
        args,
    };
    let result = run.consume(consumer).await;
    client.close().await;
    result
}

type Start = (String, u32, StartAt);

/// Every partition to read, and where to begin in it.
async fn starts(client: &Client, args: &Args, topics: &[TopicInfo]) -> Result<Vec<Start>, Failure> {
    let stored = match &args.group {
        Some(group) => stored_positions(client, group).await?,
        None => HashMap::new(),
    };
    let from = args.from().resolve(sdk::now_ms());
    let mut starts = Vec::new();
    for topic in topics {
        for partition in chosen_partitions(&args.partitions, topic)? {
            let position = stored.get(&(topic.id, partition));
            let start = position.map_or(from, |offset| StartAt::Offset(*offset));
            starts.push((topic.name.clone(), partition, start));
        }
    }
    Ok(starts)
}

async fn stored_positions(
    client: &Client,
    group: &str,
) -> Result<HashMap<(TopicId, u32), Offset>, Failure> {
    let positions = client
        .admin()
        .group(group)
        .await
        .map_err(|error| sdk::request_failure("reading the group's positions", &error))?;
    Ok(positions.into_iter().map(|p| ((p.topic, p.partition.0), p.offset)).collect())
}

/// The partitions asked for, or all there are.
fn chosen_partitions(asked: &[u32], topic: &TopicInfo) -> Result<Vec<u32>, Failure> {
    let count = topic.config.partitions;
    if asked.is_empty() {
        return Ok((0..count).collect());
    }
    let mut chosen = asked.to_vec();
    chosen.sort_unstable();
    chosen.dedup();
    match chosen.iter().find(|&&partition| partition >= count) {
        None => Ok(chosen),
        Some(partition) => {
            let last = count.saturating_sub(1);
            let what = format!("topic {} has no partition {partition}", topic.name);
            Err(Failure::new(Exit::Refused, what).next(format!("It has 0 to {last}.")))
        }
    }
}

fn builder(client: &Client, args: &Args) -> ConsumerBuilder {
    let builder = client.consumer().auto_commit(None).reset(args.reset());
    let builder = match args.filter() {
        Some(filter) => builder.filter(filter),
        None => builder,
    };
    builder.nearest(args.nearest).until_end(args.until_end)
}

/// As a member of the group.
async fn join(client: &Client, args: &Args) -> Result<Consumer, Failure> {
    let mut builder = builder(client, args).begin_at(args.from().resolve(sdk::now_ms()));
    if let Some(group) = &args.group {
        builder = builder.group(group);
    }
    if let Some(instance) = &args.instance {
        builder = builder.instance(instance);
    }
    if let Some(session) = args.session_timeout {
        builder = builder.session_timeout(session.0);
    }
    let topics: Vec<&str> = args.topics.iter().map(String::as_str).collect();
    builder.subscribe(&topics).await.map_err(|error| sdk::assign_failure(&error))
}

async fn subscribe(client: &Client, args: &Args, starts: &[Start]) -> Result<Consumer, Failure> {
    let mut consumer = builder(client, args).build();
    let partitions: Vec<(&str, u32, StartAt)> = starts
        .iter()
        .map(|(topic, partition, start)| (topic.as_str(), *partition, *start))
        .collect();
    consumer.assign(&partitions).await.map_err(|error| sdk::assign_failure(&error))?;
    Ok(consumer)
}

struct Run {
    args: Args,
    client: Client,
    /// The ids of the topics by name, for storing positions.
    ids: HashMap<Arc<str>, TopicId>,
    formatter: Formatter,
    /// How many records may still be printed.
    left: u64,
    output: Output,
}

/// Why nothing more is printed.
enum Ended {
    /// All that was asked for is printed.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// Nobody reads the output any more, or it failed: its thread says which.
    Output,
    /// The consumer failed.
    Failed(Failure),
}

impl Run {
    async fn consume(mut self, mut consumer: Consumer) -> CommandResult {
        let ended = self.pump(&mut consumer).await;
        let Run { args, client, ids, output, .. } = self;
        let (written, positions) = output.finish().await;
        let committed = match &args.group {
            Some(_) if args.is_member() => commit_as_member(&consumer, positions).await,
            Some(group) => commit(&client, group, &ids, positions).await,
            None => Ok(()),
        };
        // Positions are stored here, not by the consumer, so closing has nothing to fail at.
        let _ = consumer.close().await;
        match ended {
            Ended::Failed(failure) => return Err(failure),
            Ended::Output | Ended::Done | Ended::Interrupted => written?,
        }
        committed?;
        let endless = !args.until_end && args.count.is_none();
        match ended {
            Ended::Interrupted if !endless => Err(Failure::interrupted("interrupted")),
            _ => Ok(()),
        }
    }

    /// Prints until an end of some kind.
    async fn pump(&mut self, consumer: &mut Consumer) -> Ended {
        let mut begin = Vec::new();
        self.formatter.begin(&mut begin);
        if !begin.is_empty()
            && self.output.write(Chunk { bytes: begin, position: None }).await.is_err()
        {
            return Ended::Output;
        }
        let mut tick = interval_at(Instant::now() + COMMIT_EVERY, COMMIT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let interrupted = sdk::interrupted();
        tokio::pin!(interrupted);
        let mut assigned = consumer.watch_assignment();
        while self.left > 0 {
            let batch = tokio::select! {
                biased;
                () = &mut interrupted => return Ended::Interrupted,
                () = self.output.ended() => return Ended::Output,
                // What is to be let go of goes once it is stored.
                Ok(()) = assigned.changed() => {
                    if let Err(failure) = self.commit_written(consumer).await {
                        return Ended::Failed(failure);
                    }
                    continue;
                }
                _ = tick.tick(), if self.args.group.is_some() => {
                    if self.pass_over(consumer).await.is_err() {
                        return Ended::Output;
                    }
                    if let Err(failure) = self.commit_written(consumer).await {
                        return Ended::Failed(failure);
                    }
                    continue;
                }
                batch = consumer.next_batch() => batch,
            };
            let printed = match batch {
                Ok(Some(batch)) => tokio::select! {
                    biased;
                    () = &mut interrupted => return Ended::Interrupted,
                    printed = self.print(&batch) => printed,
                },
                Ok(None) if self.pass_over(consumer).await.is_err() => return Ended::Output,
                Ok(None) => return Ended::Done,
                Err(error) => return Ended::Failed(sdk::consume_failure(&error)),
            };
            if let Err(ended) = printed {
                return ended;
            }
        }
        Ended::Done
    }

    /// Prints a batch, or as much of it as is still wanted.
    async fn print(&mut self, batch: &Batch) -> Result<(), Ended> {
        let partition: Partition = (batch.topic().clone(), batch.partition());
        let mut bytes = Vec::with_capacity(CHUNK_BYTES / 4);
        let mut next = None;
        for record in batch.records() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.formatter.record(batch.topic(), batch.partition(), &record, &mut bytes);
            next = Some(record.offset.plus(1));
            if bytes.len() >= CHUNK_BYTES {
                let position = next.map(|next| (partition.clone(), next));
                let chunk = Chunk { bytes: std::mem::take(&mut bytes), position };
                self.output.write(chunk).await.map_err(|_| Ended::Output)?;
            }
        }
        let position = next.map(|next| (partition, next));
        self.output.write(Chunk { bytes, position }).await.map_err(|_| Ended::Output)
    }

    /// Moves the positions over what a filter left out behind the last record. To be called when
    /// all that the consumer gave was handed to the output.
    async fn pass_over(&self, consumer: &Consumer) -> Result<(), output::Ended> {
        if self.args.filter.is_none() || self.args.group.is_none() {
            return Ok(());
        }
        for (topic, partition) in consumer.assignment() {
            if let Some(next) = consumer.position(topic, partition) {
                let position = Some(((topic.clone(), partition), next));
                self.output.write(Chunk { bytes: Vec::new(), position }).await?;
            }
        }
        Ok(())
    }

    /// Stores the positions of what was written since the last call.
    async fn commit_written(&self, consumer: &Consumer) -> Result<(), Failure> {
        match &self.args.group {
            Some(_) if self.args.is_member() => {
                commit_as_member(consumer, self.output.take_positions()).await
            }
            Some(group) => {
                commit(&self.client, group, &self.ids, self.output.take_positions()).await
            }
            None => Ok(()),
        }
    }
}

async fn commit(
    client: &Client,
    group: &str,
    ids: &HashMap<Arc<str>, TopicId>,
    positions: BTreeMap<Partition, Offset>,
) -> Result<(), Failure> {
    let stored = positions.iter().filter_map(|((topic, partition), offset)| {
        Some(GroupPosition {
            topic: *ids.get(topic)?,
            partition: PartitionIndex(*partition),
            offset: *offset,
            committed_at: TimestampMs::default(),
            since: Generation::default(),
        })
    });
    let stored: Vec<GroupPosition> = stored.collect();
    if stored.is_empty() {
        return Ok(());
    }
    let result = client.admin().reset_group(group, stored).await;
    result.map_err(|error| sdk::request_failure("storing the group's positions", &error))
}

/// Stores what is still this member's to store. What others own by now they print again.
async fn commit_as_member(
    consumer: &Consumer,
    positions: BTreeMap<Partition, Offset>,
) -> Result<(), Failure> {
    let held: HashSet<Partition> =
        consumer.assignment().map(|(topic, partition)| (topic.clone(), partition)).collect();
    let ours = positions.iter().filter(|(partition, _)| held.contains(*partition));
    let ours: Vec<(&str, u32, Offset)> =
        ours.map(|((topic, partition), offset)| (&**topic, *partition, *offset)).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let error = match consumer.commit_offsets(&ours).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let code = match &error {
        CommitError::Request(error) => error.code(),
        _ => None,
    };
    match (&error, code) {
        // Another member is there, or further on; the consumer goes on with what it is given.
        (CommitError::NotOwner { .. } | CommitError::NotAssigned { .. }, _)
        | (_, Some(ErrorCode::WentBack | ErrorCode::UnknownMember)) => {
            crate::output::note(false, &format!("not all positions were stored: {error}"));
            Ok(())
        }
        (CommitError::Request(error), _) => {
            Err(sdk::request_failure("storing the group's positions", error))
        }
        _ => Err(Failure::new(Exit::Error, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::topic::TopicConfig;

    #[test]
    fn partitions_asked_for_must_be_there() {
        let topic = TopicInfo {
            id: TopicId(1),
            name: "t".into(),
            config: TopicConfig { partitions: 3, ..TopicConfig::default() },
            created_at: TimestampMs(0),
        };
        assert_eq!(chosen_partitions(&[], &topic).unwrap(), [0, 1, 2]);
        assert_eq!(chosen_partitions(&[2, 0, 2], &topic).unwrap(), [0, 2]);
        let failure = chosen_partitions(&[3], &topic).unwrap_err();
        assert_eq!(failure.next.as_deref(), Some("It has 0 to 2."));
    }
}
