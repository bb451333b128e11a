//! `weir group`: consumer groups, their members, and the positions that they have stored.

mod describe;

use super::consume::from::From as Place;
use super::figures::thousands;
use super::sdk;
use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table, nearest};
use crate::{connect, timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use weir_client::Client;
use weir_core::group::Generation;
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{GroupInfo, GroupPosition, TopicInfo};
use weir_core::{Offset, TimestampMs, TopicId};

/// The commands of `weir group`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show all groups, one a line
    #[command(after_help = "Examples:\n  weir group list")]
    List,
    /// Show a group's members, its positions and how far they lie behind
    #[command(after_help = "Examples:\n  weir group describe dashboard\n  weir group describe \
                            dashboard --json")]
    Describe {
        /// Which one
        group: String,
    },
    /// Move a group's positions
    #[command(after_help = "\
Examples:
  weir group reset dashboard --to earliest --dry-run       what would change
  weir group reset dashboard --to earliest                 read everything again
  weir group reset dashboard --topic gps --to -1h          the last hour again
  weir group reset dashboard --topic gps --partition 2 --to 120000

Stop the group's consumers first: while the group has members this is refused, and one that was
started with --partition stores its own position over the new one.")]
    Reset {
        /// Which one; a new name makes a group
        group: String,
        /// In which topic; all where the group has positions unless given
        #[arg(long)]
        topic: Vec<String>,
        /// In which partitions; all unless given
        #[arg(long, value_name = "N")]
        partition: Vec<u32>,
        /// To where: earliest, latest, an offset, a time such as 2026-01-31T13:05:00Z, or -10m for
        /// ten minutes ago
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
        to: Place,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget a group's positions
    #[command(after_help = "\
Examples:
  weir group delete dashboard
  weir group delete dashboard --topic gps")]
    Delete {
        /// Which one
        group: String,
        /// Only its positions in these topics
        #[arg(long)]
        topic: Vec<String>,
    },
}

/// Runs the command.
pub async fn run(command: Command, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let done = match command {
        Command::List => list(&client, globals).await,
        Command::Describe { group } => describe::run(&client, globals, &group).await,
        Command::Reset { group, topic, partition, to, dry_run } => {
            let scope = Scope { topics: topic, partitions: partition };
            reset(&client, globals, &group, &scope, to, dry_run).await
        }
        Command::Delete { group, topic } => delete(&client, globals, &group, &topic).await,
    };
    client.close().await;
    done
}

async fn list(client: &Client, globals: &Globals) -> CommandResult {
    let groups = client.admin().groups().await;
    let groups = groups.map_err(|error| sdk::request_failure("listing groups", &error))?;
    if globals.json {
        let row = |group: &GroupInfo| {
            serde_json::json!({
                "name": group.name,
                "state": describe::state(group.members, group.moving),
                "members": group.members,
                "positions": group.positions,
                "committed_at": group.committed_at,
            })
        };
        return output::print_json(&groups.iter().map(row).collect::<Vec<_>>());
    }
    if groups.is_empty() {
        output::note(false, "no groups; `weir consume TOPIC --group NAME` makes one");
        return Ok(());
    }
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", ">POSITIONS", "LAST STORED"]);
    for group in &groups {
        table.row([
            group.name.clone(),
            describe::state(group.members, group.moving).to_owned(),
            group.members.to_string(),
            group.positions.to_string(),
            timestamp::seconds(group.committed_at),
        ]);
    }
    output::print(&table.render())
}

/// Which positions a reset is about.
struct Scope {
    topics: Vec<String>,
    partitions: Vec<u32>,
}

async fn reset(
    client: &Client,
    globals: &Globals,
    group: &str,
    scope: &Scope,
    to: Place,
    dry_run: bool,
) -> CommandResult {
    let doing = format!("resetting group {group}");
    let stored = client.admin().group(group).await;
    let stored = stored.map_err(|error| sdk::request_failure(&doing, &error))?;
    let mut moves = Vec::new();
    let mut positions = Vec::new();
    for topic in scope.topics(client, group, &stored).await? {
        let partitions = scope.partitions(&topic, &stored);
        let start = to.resolve(sdk::now_ms());
        let asked: Vec<_> = partitions.iter().map(|partition| (*partition, start)).collect();
        let resolved = client.admin().offsets(&topic.name, &asked).await;
        for at in resolved.map_err(|error| sdk::request_failure(&doing, &error))? {
            let before = stored.iter().find(|s| s.topic == topic.id && s.partition == at.partition);
            positions.push(GroupPosition {
                topic: topic.id,
                partition: at.partition,
                offset: at.offset,
                committed_at: TimestampMs::default(),
                since: Generation::default(),
            });
            moves.push(Move {
                topic: topic.name.clone(),
                partition: at.partition.0,
                from: before.map(|before| before.offset),
                to: at.offset,
                lag: at.high_watermark.since(at.offset),
            });
        }
    }
    let members = client.admin().group_members(group).await;
    let members = members.map_err(|error| sdk::request_failure(&doing, &error))?.members.len();
    if !dry_run {
        let stored = client.admin().reset_group(group, positions).await;
        stored.map_err(|error| sdk::request_failure(&doing, &error))?;
    }
    show_moves(globals, &moves, dry_run)?;
    if dry_run && members > 0 {
        let note = format!("and it will be refused: the group has {members} members");
        output::note(false, &note);
    }
    Ok(())
}

/// One position before and after a reset.
#[derive(Serialize)]
struct Move {
    topic: String,
    partition: u32,
    from: Option<Offset>,
    to: Offset,
    lag: u64,
}

fn show_moves(globals: &Globals, moves: &[Move], dry_run: bool) -> CommandResult {
    if globals.json {
        return output::print_json(&serde_json::json!({ "dry_run": dry_run, "moves": moves }));
    }
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">FROM", ">TO", ">LAG"]);
    for m in moves {
        let from = m.from.map_or("-".to_owned(), |from| from.to_string());
        table.row([
            m.topic.clone(),
            m.partition.to_string(),
            from,
            m.to.to_string(),
            thousands(m.lag),
        ]);
    }
    output::print(&table.render())?;
    if dry_run {
        output::note(false, "nothing was changed; without --dry-run it will be");
    }
    Ok(())
}

impl Scope {
    /// The topics named, or else those that the group has positions in.
    async fn topics(
        &self,
        client: &Client,
        group: &str,
        stored: &[GroupPosition],
    ) -> Result<Vec<TopicInfo>, Failure> {
        if self.topics.is_empty() {
            let topics = topics_by_id(client).await?;
            let found: Vec<TopicInfo> =
                by_topic(stored).keys().filter_map(|id| topics.get(id).cloned()).collect();
            if found.is_empty() {
                let what = format!("group `{group}` has no positions to move");
                return Err(Failure::new(Exit::Refused, what)
                    .next("give --topic TOPIC to store positions for a new group"));
            }
            return Ok(found);
        }
        let mut found = Vec::new();
        for name in &self.topics {
            found.push(sdk::topic(client, name, None).await?);
        }
        Ok(found)
    }

    /// The partitions named; or, where topics are named, all; or else those with a position.
    fn partitions(&self, topic: &TopicInfo, stored: &[GroupPosition]) -> Vec<u32> {
        if !self.partitions.is_empty() {
            return self.partitions.clone();
        }
        if !self.topics.is_empty() {
            return (0..topic.config.partitions).collect();
        }
        stored.iter().filter(|s| s.topic == topic.id).map(|s| s.partition.0).collect()
    }
}

async fn delete(
    client: &Client,
    globals: &Globals,
    group: &str,
    topics: &[String],
) -> CommandResult {
    let doing = format!("deleting group {group}");
    let stored = stored_positions(client, group).await?;
    let forgotten = if topics.is_empty() {
        let deleted = client.admin().delete_group(group).await;
        deleted.map_err(|error| sdk::request_failure(&doing, &error))?;
        stored.len()
    } else {
        let mut ids = Vec::new();
        for name in topics {
            ids.push(sdk::topic(client, name, None).await?.id);
        }
        let deleted = client.admin().delete_group_topics(group, ids.clone()).await;
        deleted.map_err(|error| sdk::request_failure(&doing, &error))?;
        stored.iter().filter(|position| ids.contains(&position.topic)).count()
    };
    if globals.json {
        let deleted = serde_json::json!({ "group": group, "positions_deleted": forgotten });
        return output::print_json(&deleted);
    }
    output::print_line(&format!("group {group}: {forgotten} positions deleted"))
}

/// A group's positions; that there are none is a failure that names groups like it.
async fn stored_positions(client: &Client, group: &str) -> Result<Vec<GroupPosition>, Failure> {
    let stored = client.admin().group(group).await;
    let doing = format!("reading group {group}");
    let stored = stored.map_err(|error| sdk::request_failure(&doing, &error))?;
    if !stored.is_empty() {
        return Ok(stored);
    }
    let groups = client.admin().groups().await.unwrap_or_default();
    let next = match nearest(group, groups.iter().map(|group| group.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`weir group list` shows the groups".to_owned(),
    };
    let what = format!("group `{group}` has no stored positions");
    let failure = Failure::new(Exit::Refused, what).next(next);
    Err(Failure { code: Some(ErrorCode::UnknownGroup), ..failure })
}

async fn topics_by_id(client: &Client) -> Result<BTreeMap<TopicId, TopicInfo>, Failure> {
    let topics = client.admin().topics().await;
    let topics = topics.map_err(|error| sdk::request_failure("listing topics", &error))?;
    Ok(topics.into_iter().map(|topic| (topic.id, topic)).collect())
}

fn by_topic(stored: &[GroupPosition]) -> BTreeMap<TopicId, Vec<&GroupPosition>> {
    let mut by_topic: BTreeMap<TopicId, Vec<&GroupPosition>> = BTreeMap::new();
    for position in stored {
        by_topic.entry(position.topic).or_default().push(position);
    }
    by_topic
}
