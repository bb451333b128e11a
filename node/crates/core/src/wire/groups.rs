//! Consumer groups on the wire: stored positions, and what members and their coordinator say.

use super::status::is_zero;
use crate::group::{Generation, MemberId};
use crate::ids::{Offset, PartitionIndex, TimestampMs, TopicId};
use serde::{Deserialize, Serialize};

/// A stored position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPosition {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The offset of the next record that the group wants.
    pub offset: Offset,
    /// When it was stored. Set by the node.
    #[serde(default)]
    pub committed_at: TimestampMs,
    /// Of a member: the generation in which it came to own the partition. Else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: Generation,
}

/// One consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// How many positions it has stored.
    pub positions: u32,
    /// When it last stored one.
    #[serde(default)]
    pub committed_at: TimestampMs,
    /// How many members it has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub members: u32,
    /// How many partitions are about to change hands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moving: u32,
}

/// What a member may work on. It must finish everything else, and let go of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The generation that this is of.
    pub generation: Generation,
    /// The names of the topics below.
    #[serde(default)]
    pub topics: Vec<(TopicId, String)>,
    /// The partitions.
    #[serde(default)]
    pub partitions: Vec<AssignedPartition>,
    /// How many more will come, once others have let go of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u32,
}

/// A partition that a member may work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedPartition {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The generation in which the member came to own it.
    pub since: Generation,
    /// The stored position; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Offset>,
}

/// The members of a group, and what each works on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembers {
    /// How often the membership changed.
    pub generation: Generation,
    /// In order of their ids.
    #[serde(default)]
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its id, drawn by itself.
    pub member: MemberId,
    /// Its lasting name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// How long it may be silent, in milliseconds.
    pub session_ms: u32,
    /// The topics that it subscribes to, by name.
    #[serde(default)]
    pub topics: Vec<String>,
    /// The partitions that it owns.
    #[serde(default)]
    pub partitions: Vec<(TopicId, PartitionIndex)>,
    /// How many more it will get, once others have let go of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u32,
}
