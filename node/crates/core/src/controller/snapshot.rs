//! A state as bytes: one CBOR map, of which equal states have equal ones (`docs/on-disk.md`).

use super::State;
use crate::cluster::members::Members;
use crate::cluster::{Cluster, Node};
use crate::deploy::Deployment;
use crate::ids::{Incarnation, NodeId, PartitionId};
use crate::metadata::{Change, Image, Topic};
use crate::module::Module;
use crate::partition::assignment::Assignment;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the format that this code writes, and the newest that it reads.
pub const SNAPSHOT_VERSION: u32 = 1;

/// Why bytes are not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Not what a snapshot looks like.
    #[error("the snapshot of the metadata cannot be read: {0}")]
    Format(String),
    /// A newer version of this program wrote it.
    #[error(
        "the snapshot of the metadata has format version {0}; this version of weir knows up to \
         {SNAPSHOT_VERSION}: update this node"
    )]
    NewerVersion(u32),
    /// It contradicts itself.
    #[error("the snapshot of the metadata contradicts itself: {0}")]
    Inconsistent(String),
}

/// All of a state. Lists are in the order of what names their rows.
#[derive(Serialize, Deserialize)]
struct Rows {
    version: u32,
    applied: u64,
    next_topic: u32,
    next_partition: u32,
    next_producer: i64,
    last_incarnation: Incarnation,
    topics: Vec<Topic>,
    modules: Vec<Module>,
    deployments: Vec<Deployment>,
    nodes: BTreeMap<NodeId, Node>,
    partitions: BTreeMap<PartitionId, Assignment>,
    #[serde(default, skip_serializing_if = "is_unfounded")]
    members: Members,
}

/// Whether a list says nothing: a snapshot without one is as those of earlier versions are.
fn is_unfounded(members: &Members) -> bool {
    members.version == 0
}

/// What is read before anything else.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl State {
    /// The state as bytes. Equal states give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let (next_topic, next_partition) = self.image.counters();
        let rows = Rows {
            version: SNAPSHOT_VERSION,
            applied: self.version,
            next_topic,
            next_partition,
            next_producer: self.next_producer,
            last_incarnation: self.cluster.last_incarnation(),
            topics: self.image.topics().cloned().collect(),
            modules: self.image.modules().cloned().collect(),
            deployments: self.image.deployments().cloned().collect(),
            nodes: self.cluster.nodes().clone(),
            partitions: self.cluster.partitions().clone(),
            members: self.cluster.members().clone(),
        };
        let mut bytes = Vec::new();
        // Writing plain data to memory fails only for types that CBOR cannot hold; these it can.
        ciborium::into_writer(&rows, &mut bytes).expect("metadata is plain data");
        bytes
    }

    /// The state that a snapshot was taken of. Bounded by the length of `bytes`, which the caller
    /// bounds.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore(bytes: &[u8]) -> Result<State, RestoreError> {
        let format = |error: ciborium::de::Error<_>| RestoreError::Format(error.to_string());
        let Head { version } = ciborium::from_reader(bytes).map_err(format)?;
        if version > SNAPSHOT_VERSION {
            return Err(RestoreError::NewerVersion(version));
        }
        let rows: Rows = ciborium::from_reader(bytes).map_err(format)?;
        check(&rows)?;
        let mut image = Image::default();
        rows.topics.into_iter().for_each(|topic| image.apply(&Change::Put(topic)));
        rows.modules.into_iter().for_each(|module| image.apply(&Change::PutModule(module)));
        for deployment in rows.deployments {
            let deployment = Box::new(deployment);
            image.apply(&Change::PutDeployment { deployment, topics: Vec::new() });
        }
        image.raise_counters(rows.next_topic, rows.next_partition);
        let Rows { nodes, partitions, last_incarnation, members, .. } = rows;
        let cluster = Cluster::of(nodes, partitions, last_incarnation, members);
        Ok(State { image, cluster, next_producer: rows.next_producer, version: rows.applied })
    }
}

/// What code elsewhere counts on without looking.
fn check(rows: &Rows) -> Result<(), RestoreError> {
    let wrong = |what: String| Err(RestoreError::Inconsistent(what));
    for topic in &rows.topics {
        let (listed, said) = (topic.partitions.len(), topic.config.partitions);
        let known = topic.partitions.iter().all(|id| id.0 < rows.next_partition);
        if listed != said as usize || !known || topic.id.0 >= rows.next_topic {
            return wrong(format!("topic `{}` has other partitions than it says", topic.name));
        }
    }
    for (id, known) in &rows.partitions {
        let holders = known.holders();
        let insync = known.insync.keys().all(|node| holders.contains(node));
        if known.replicas.is_empty() || known.insync.is_empty() || !insync {
            return wrong(format!("the in-sync set of partition {id} is not of its replicas"));
        }
    }
    if rows.members.version > 0 && !rows.members.is_sound() {
        return wrong("the list of members is none".to_owned());
    }
    let newest = rows.nodes.values().map(|node| node.incarnation).max();
    if newest > Some(rows.last_incarnation) {
        return wrong("a node has a life that was never given".to_owned());
    }
    Ok(())
}
