//! What a cluster says of itself, and what operators ask of it.

use crate::ids::{Incarnation, LeaderEpoch, NodeId, Offset, PartitionIndex};
use serde::{Deserialize, Serialize};

/// A cluster, as one of its nodes knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The node that was asked.
    pub asked: NodeId,
    /// The leading controller; `None` if the node knows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<NodeId>,
    /// How many commands the controllers have decided, as far as the node knows.
    pub version: u64,
    /// The nodes, by number.
    pub nodes: Vec<ClusterNodeInfo>,
    /// The partitions of topics, by topic and number.
    pub partitions: Vec<ReplicasInfo>,
    /// Nodes that did not answer, so that what they lead is not told in full.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<NodeId>,
    /// Nodes that were removed and still vote, for a moment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<NodeId>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNodeInfo {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Its present life; 0 if it never registered.
    pub incarnation: Incarnation,
    /// Whether the controllers do not hear of it.
    pub fenced: bool,
    /// How many partitions it leads.
    pub leads: u32,
    /// How many partitions it holds.
    pub replicas: u32,
    /// Whether it votes but holds no records.
    #[serde(skip_serializing_if = "is_false")]
    pub witness: bool,
    /// Whether it votes; a node that was added does once it has caught up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voter: Option<bool>,
    /// Whether it is to hold and lead nothing.
    #[serde(skip_serializing_if = "is_false")]
    pub drained: bool,
    /// Copies on a drained node that no other node can take.
    #[serde(skip_serializing_if = "is_zero")]
    pub stuck: u32,
}

/// For fields that are left out where they say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// For fields that are left out where they say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The copies of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicasInfo {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// Who leads; `None`: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeId>,
    /// The leader epoch.
    pub epoch: LeaderEpoch,
    /// Who holds a copy, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Who shall hold the copies in the end, while they are being moved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<NodeId>,
    /// Whose copies have all that was acknowledged.
    pub insync: Vec<NodeId>,
    /// How many must be in sync to take appends.
    pub min_insync: u32,
    /// The end of the leader's log; `None` if the leader did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_end: Option<Offset>,
    /// The end of what consumers may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high_watermark: Option<Offset>,
    /// How far the leader knows the others to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub followers: Vec<FollowerInfo>,
}

/// How far a follower is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowerInfo {
    /// The follower.
    pub node: NodeId,
    /// Records of the leader's log that are not on its disk; `None` if it never asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Bytes of the leader's log that they take, roughly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// How long ago it last had everything, in milliseconds.
    pub behind_ms: u64,
}

/// What an operator asks of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterChangeAsk {
    /// Move a partition's copies to these nodes, the preferred leader first.
    Reassign {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionIndex,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Have a node hold and lead nothing, as far as others can, or let it be used again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is to be drained.
        drained: bool,
    },
    /// Add a member, or change the address of the one of this name.
    Add {
        /// Its name.
        name: String,
        /// Where the others reach it: host and port.
        address: String,
        /// Whether it is a witness; `None`: as it was, or else not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        witness: Option<bool>,
    },
    /// Remove a member for good.
    Remove {
        /// Which.
        node: NodeId,
        /// Also if it is in use or has copies, as long as others have everything.
        force: bool,
    },
    /// Make a token that lets one node in.
    Token {
        /// How long it may be used, in milliseconds: from a second to a week.
        valid_ms: u64,
        /// Whether it lets in a witness.
        witness: bool,
    },
    /// Spread copies and preferred leads evenly over the nodes that are not drained.
    Rebalance {
        /// Whether to begin with it. A few partitions are moved at a time: who asks asks again.
        apply: bool,
    },
}

/// What a change of the cluster came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterChanged {
    /// Moves are planned, or have begun.
    Rebalance(Rebalance),
    /// A token was made, of which the cluster keeps a hash only.
    Token(String),
}

/// What is left to be moved until the cluster is even.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rebalance {
    /// The moves that have not begun, those included that this request began.
    pub moves: Vec<MoveInfo>,
    /// How many of them this request began.
    pub begun: u32,
    /// How many partitions were being moved before.
    pub moving: u32,
}

/// One partition's copies, to be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveInfo {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// Who holds the copies, the preferred leader first.
    pub from: Vec<NodeId>,
    /// Who shall.
    pub to: Vec<NodeId>,
}
