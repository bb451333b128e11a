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
}
