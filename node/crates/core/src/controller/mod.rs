//! What the controllers of a site decide together: topics, modules and deployments, where each
//! partition is and who leads it, and ids of producers. Pure: no clock, no I/O.
//!
//! A [`Command`] is an entry of the controllers' replicated log. Each controller applies the
//! committed ones, in order, to its own [`State`]; whatever a command needs to know besides, such
//! as the time, is in it. So all states are equal after equal beginnings of the log, to the byte of
//! their snapshots. A command that is refused changes nothing.
//!
//! | what must hold | where |
//! |---|---|
//! | a topic is there with a place for each of its partitions, or not at all | `apply_metadata` |
//! | deleted partitions have no place | `apply_metadata` |
//! | a deployment's topics are where its input is; its outbox moves along | `beside` |
//! | the groups partition is on as many nodes as there are, up to three | `groups` |
//! | an id of a producer is given once | `State::apply` |

mod groups;
mod snapshot;

pub use snapshot::{RestoreError, SNAPSHOT_VERSION};

use crate::cluster::{Cluster, ClusterAsk, ClusterChange, ClusterError};
use crate::deploy::Deployment;
use crate::ids::{PartitionId, TimestampMs};
use crate::limits;
use crate::metadata::{Ask, Change, Image, MetadataError, Topic};
use crate::topic::TopicConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One command of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Of topics, modules and deployments.
    Metadata {
        /// When it was asked, by the clock of the node that was asked.
        now: TimestampMs,
        /// What is asked.
        ask: Ask,
    },
    /// Of nodes and copies.
    Cluster(ClusterAsk),
    /// Set ids of producers aside.
    ProducerIds {
        /// How many: 1 to [`limits::PRODUCER_IDS_MAX`]; more or none count as the nearest.
        count: u32,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The metadata changed so.
    Metadata(Change),
    /// Nodes and partitions are now so.
    Cluster(ClusterChange),
    /// These ids, in a row, are the asker's.
    ProducerIds {
        /// The first.
        first: i64,
    },
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// By the topics', modules' and deployments' rules.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// By those of nodes and copies.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// The state after some beginning of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    image: Image,
    cluster: Cluster,
    next_producer: i64,
    version: u64,
}

impl State {
    /// Topics, modules and deployments.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Nodes, and the places of partitions.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How many commands changed it. Those that were refused do not count.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Applies a committed command.
    ///
    /// # Errors
    /// [`Refused`]; nothing changed then.
    pub fn apply(&mut self, command: &Command) -> Result<Done, Refused> {
        let done = match command {
            Command::Metadata { now, ask } => Done::Metadata(self.apply_metadata(*now, ask)?),
            Command::Cluster(ask) => Done::Cluster(self.apply_cluster(ask)?),
            Command::ProducerIds { count } => {
                let first = self.next_producer;
                self.next_producer += i64::from((*count).clamp(1, limits::PRODUCER_IDS_MAX));
                Done::ProducerIds { first }
            }
        };
        self.version += 1;
        Ok(done)
    }

    fn apply_cluster(&mut self, ask: &ClusterAsk) -> Result<ClusterChange, ClusterError> {
        let mut change = self.cluster.decide(ask)?;
        self.cluster.apply(&change);
        if let ClusterAsk::Reassign { partition, target } = ask {
            for beside in self.outboxes_of(*partition) {
                let target = target.clone();
                // Refused if it is there already, or cannot be: it works from anywhere.
                let along = ClusterAsk::Reassign { partition: beside, target };
                let Ok(more) = self.cluster.decide(&along) else { continue };
                self.cluster.apply(&more);
                change = change.and(more);
            }
        }
        while let Some(more) = groups::tend(&self.cluster) {
            self.cluster.apply(&more);
            change = change.and(more);
        }
        Ok(change)
    }

    fn apply_metadata(&mut self, now: TimestampMs, ask: &Ask) -> Result<Change, Refused> {
        let change = self.image.decide(now, ask)?;
        let places = match &change {
            Change::Put(topic) => self.places(&[topic])?,
            Change::PutDeployment { deployment, topics } => {
                let input = self.image.topic(&deployment.spec.from);
                let topics = topics.iter().map(|topic| self.beside(topic, input));
                topics.reduce(|all, one| Ok(all?.and(one?))).unwrap_or(Ok(Default::default()))?
            }
            Change::Removed { name } => self.forget(Some(name))?,
            Change::RemovedDeployment { outbox, .. } => self.forget(outbox.as_ref())?,
            Change::PutModule(_) | Change::RemovedModule(_) => ClusterChange::default(),
        };
        self.image.apply(&change);
        self.cluster.apply(&places);
        Ok(change)
    }

    /// Places for those partitions of topics that have none, and for the others the number that
    /// must be in sync, where that changed.
    fn places(&self, topics: &[&Topic]) -> Result<ClusterChange, ClusterError> {
        let mut fresh: BTreeMap<(u32, u32), Vec<PartitionId>> = BTreeMap::new();
        let mut change = ClusterChange::default();
        for topic in topics {
            let (replicas, min_insync) = (topic.config.replicas, topic.config.min_insync);
            let has_place = |id: &&PartitionId| self.cluster.partitions().contains_key(id);
            let (placed, new): (Vec<_>, Vec<_>) = topic.partitions.iter().partition(has_place);
            if !new.is_empty() {
                fresh.entry((replicas, min_insync)).or_default().extend(new);
            }
            let before = self.image.topic(&topic.name).map(|known| known.config.min_insync);
            if before.is_some_and(|before| before != min_insync) {
                change = change.and(self.cluster.with_min_insync(&placed, min_insync));
            }
        }
        for ((replicas, min_insync), partitions) in fresh {
            let place = ClusterAsk::Place { partitions, replicas, min_insync };
            change = change.and(self.cluster.decide(&place)?);
        }
        Ok(change)
    }

    /// Places for a topic that comes with a deployment: its partitions beside those of the input
    /// that they are of.
    fn beside(&self, topic: &Topic, input: Option<&Topic>) -> Result<ClusterChange, ClusterError> {
        let Some(input) = input else { return self.places(&[topic]) };
        let pairs = topic.partitions.iter().copied().zip(input.partitions.iter().copied());
        let TopicConfig { replicas, min_insync, .. } = topic.config;
        self.cluster.place_beside(&pairs.collect::<Vec<_>>(), replicas, min_insync)
    }

    /// The outboxes of what reads this partition.
    fn outboxes_of(&self, input: PartitionId) -> Vec<PartitionId> {
        let of = |deployment: &Deployment| {
            let from = self.image.topic(&deployment.spec.from)?;
            let at = from.partitions.iter().position(|id| *id == input)?;
            let outbox = self.image.topic(&deployment.outbox_topic()?)?;
            outbox.partitions.get(at).copied()
        };
        self.image.deployments().filter_map(of).collect()
    }

    fn forget(&self, topic: Option<&String>) -> Result<ClusterChange, ClusterError> {
        let topic = topic.and_then(|name| self.image.topic(name));
        let partitions = topic.map_or_else(Vec::new, |topic| topic.partitions.clone());
        self.cluster.decide(&ClusterAsk::Remove { partitions })
    }
}

#[cfg(test)]
mod tests;
