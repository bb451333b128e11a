//! `weir group describe`: who is in a group, who reads what, and how far they are.

use super::{by_topic, stored_positions, topics_by_id};
use crate::cli::Globals;
use crate::commands::figures::thousands;
use crate::commands::sdk;
use crate::exit::{CommandResult, Failure};
use crate::output::{self, Table};
use crate::timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use weir_client::{Client, GroupMember, GroupMembers};
use weir_core::group::MemberId;
use weir_core::wire::message::{GroupPosition, ResolvedOffset, StartAt, TopicInfo};
use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};

/// In a word, how a group is.
pub fn state(members: u32, moving: u32) -> &'static str {
    match (members, moving) {
        (0, _) => "empty",
        (_, 0) => "stable",
        _ => "rebalancing",
    }
}

/// A partition of the group: its position, if there is one, and who reads it, if somebody does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Position {
    topic: String,
    partition: u32,
    /// The next record that the group wants; `None`: nothing stored.
    offset: Option<Offset>,
    log_start: Offset,
    high_watermark: Offset,
    /// Records between the position and the end.
    lag: Option<u64>,
    committed_at: TimestampMs,
    /// The member that owns it.
    member: Option<String>,
}

impl Position {
    fn new(topic: &str, bounds: &ResolvedOffset, stored: Option<&GroupPosition>) -> Position {
        // What has expired meanwhile is no longer there to be read.
        let next = stored.map(|stored| stored.offset.max(bounds.log_start));
        Position {
            topic: topic.to_owned(),
            partition: bounds.partition.0,
            offset: stored.map(|stored| stored.offset),
            log_start: bounds.log_start,
            high_watermark: bounds.high_watermark,
            lag: next.map(|next| bounds.high_watermark.since(next)),
            committed_at: stored.map(|stored| stored.committed_at).unwrap_or_default(),
            member: None,
        }
    }
}

/// A member as it is printed.
#[derive(Clone, Debug, Serialize)]
struct Shown {
    /// In hex, as in the node's log: not every reader of JSON can take numbers of 64 bits.
    member: String,
    instance: Option<String>,
    session_ms: u32,
    topics: Vec<String>,
    /// `TOPIC/PARTITION`.
    partitions: Vec<String>,
    /// How many more it will get once others have let go of them.
    pending: u32,
}

fn hex(member: MemberId) -> String {
    format!("{:016x}", member.0)
}

/// Runs the command.
pub async fn run(client: &Client, globals: &Globals, group: &str) -> CommandResult {
    let doing = format!("reading group {group}");
    let members = client.admin().group_members(group).await;
    let members = members.map_err(|error| sdk::request_failure(&doing, &error))?;
    let stored = match members.members.is_empty() {
        true => stored_positions(client, group).await?,
        false => {
            let stored = client.admin().group(group).await;
            stored.map_err(|error| sdk::request_failure(&doing, &error))?
        }
    };
    let topics = topics_by_id(client).await?;
    let (positions, gone) = positions(client, &topics, &stored, &members).await?;
    let shown: Vec<Shown> = members.members.iter().map(|m| show(m, &topics)).collect();
    let moving = members.members.iter().map(|member| member.pending).sum();
    let state = state(shown.len() as u32, moving);
    if globals.json {
        return output::print_json(&serde_json::json!({
            "group": group,
            "state": state,
            "generation": members.generation.0,
            "members": shown,
            "positions": positions,
        }));
    }
    if !shown.is_empty() {
        print_members(&shown)?;
    }
    print_positions(&positions)?;
    if gone > 0 {
        output::note(false, &format!("{gone} more in topics that were deleted or are not ours"));
    }
    if !shown.is_empty() && state != "stable" {
        output::note(false, "partitions are about to change hands");
    }
    Ok(())
}

/// Every partition that has a position or an owner, and how many are of topics that are gone.
async fn positions(
    client: &Client,
    topics: &BTreeMap<TopicId, TopicInfo>,
    stored: &[GroupPosition],
    members: &GroupMembers,
) -> Result<(Vec<Position>, usize), Failure> {
    let mut owners: BTreeMap<(TopicId, PartitionIndex), MemberId> = BTreeMap::new();
    for member in &members.members {
        owners.extend(member.partitions.iter().map(|slot| (*slot, member.member)));
    }
    let mut wanted: BTreeMap<TopicId, BTreeSet<PartitionIndex>> = BTreeMap::new();
    for (topic, partition) in owners.keys() {
        wanted.entry(*topic).or_default().insert(*partition);
    }
    let mut gone = 0;
    for (topic, stored) in by_topic(stored) {
        match topics.contains_key(&topic) {
            true => wanted.entry(topic).or_default().extend(stored.iter().map(|s| s.partition)),
            false => gone += stored.len(),
        }
    }
    let mut positions = Vec::new();
    for (id, partitions) in wanted {
        let Some(topic) = topics.get(&id) else { continue };
        let asked: Vec<_> = partitions.iter().map(|p| (p.0, StartAt::Latest)).collect();
        let bounds = client.admin().offsets(&topic.name, &asked).await;
        for bounds in bounds.map_err(|error| sdk::request_failure("reading offsets", &error))? {
            let slot = (id, bounds.partition);
            let stored = stored.iter().find(|stored| (stored.topic, stored.partition) == slot);
            let mut position = Position::new(&topic.name, &bounds, stored);
            position.member = owners.get(&slot).map(|member| hex(*member));
            positions.push(position);
        }
    }
    positions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok((positions, gone))
}

fn show(member: &GroupMember, topics: &BTreeMap<TopicId, TopicInfo>) -> Shown {
    let name = |(topic, partition): &(TopicId, PartitionIndex)| {
        Some(format!("{}/{partition}", topics.get(topic)?.name))
    };
    Shown {
        member: hex(member.member),
        instance: member.instance.clone(),
        session_ms: member.session_ms,
        topics: member.topics.clone(),
        partitions: member.partitions.iter().filter_map(name).collect(),
        pending: member.pending,
    }
}

fn print_members(members: &[Shown]) -> CommandResult {
    let mut table =
        Table::new(&["MEMBER", "INSTANCE", "TOPICS", ">PARTITIONS", ">TO COME", ">SESSION"]);
    for member in members {
        table.row([
            member.member.clone(),
            member.instance.clone().unwrap_or_else(|| "-".to_owned()),
            member.topics.join(","),
            member.partitions.len().to_string(),
            member.pending.to_string(),
            format!("{} s", f64::from(member.session_ms) / 1_000.0),
        ]);
    }
    output::print(&format!("{}\n", table.render()))
}

fn print_positions(positions: &[Position]) -> CommandResult {
    let columns =
        ["TOPIC", ">PARTITION", ">POSITION", ">LOG START", ">END", ">LAG", "STORED", "MEMBER"];
    let owned = positions.iter().any(|position| position.member.is_some());
    let mut table = Table::new(&columns[..columns.len() - usize::from(!owned)]);
    for p in positions {
        let mut row = vec![
            p.topic.clone(),
            p.partition.to_string(),
            p.offset.map_or("-".to_owned(), |offset| offset.to_string()),
            p.log_start.to_string(),
            p.high_watermark.to_string(),
            p.lag.map_or("-".to_owned(), thousands),
            timestamp::seconds(p.committed_at),
        ];
        if owned {
            row.push(p.member.clone().unwrap_or_else(|| "-".to_owned()));
        }
        table.row(row);
    }
    output::print(&table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::group::Generation;

    #[test]
    fn lag_counts_what_can_still_be_read() {
        let bounds = ResolvedOffset {
            partition: PartitionIndex(1),
            offset: Offset(100),
            log_start: Offset(40),
            high_watermark: Offset(100),
        };
        let stored = |offset| GroupPosition {
            topic: TopicId(1),
            partition: PartitionIndex(1),
            offset: Offset(offset),
            committed_at: TimestampMs(1),
            since: Generation::default(),
        };
        assert_eq!(Position::new("t", &bounds, Some(&stored(90))).lag, Some(10));
        assert_eq!(Position::new("t", &bounds, Some(&stored(7))).lag, Some(60));
        assert_eq!(Position::new("t", &bounds, Some(&stored(100))).lag, Some(0));
        assert_eq!(Position::new("t", &bounds, None).lag, None);
    }

    #[test]
    fn states() {
        assert_eq!([state(0, 0), state(2, 0), state(2, 3)], ["empty", "stable", "rebalancing"]);
    }
}
