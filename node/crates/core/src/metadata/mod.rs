//! The metadata state machine: topics, their partitions, modules, deployments, and the counters
//! that ids come from.
//!
//! Pure: a request is decided against the image ([`Image::decide`]), which yields one [`Change`];
//! whoever drives it makes the change durable and then applies it ([`Image::apply`]). Replay of
//! the changes, in order, gives the same image. Today the driver is the node's own key-value
//! store; a replicated log takes its place when there are several nodes.

use crate::deploy::{DeployError, Deployment};
use crate::ids::{PartitionId, PartitionIndex, TimestampMs, TopicId};
use crate::limits;
use crate::module::name::ModuleRef;
use crate::module::{Module, ModuleError};
use crate::topic::{self, TopicChange, TopicConfig, TopicError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod checks;
mod deployments;
mod modules;

pub use checks::CheckError;
pub use deployments::DeployAsk;

/// The partition that holds the positions of consumer groups.
pub const GROUPS_PARTITION: PartitionId = PartitionId(0);

/// One topic as the node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its settings; `config.partitions` equals `partitions.len()`.
    pub config: TopicConfig,
    /// Its partitions in storage, by index.
    pub partitions: Vec<PartitionId>,
    /// When it was created.
    #[serde(default)]
    pub created_at: TimestampMs,
}

/// Everything that metadata changes make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    topics: BTreeMap<String, Topic>,
    modules: BTreeMap<ModuleRef, Module>,
    deployments: BTreeMap<String, Deployment>,
    next_topic: u32,
    next_partition: u32,
    partitions: usize,
}

/// What a node or operator asks of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Create a topic.
    Create {
        /// Its name.
        name: String,
        /// Its settings.
        config: TopicConfig,
    },
    /// Change a topic's settings.
    Alter {
        /// Its name.
        name: String,
        /// What to change.
        change: TopicChange,
    },
    /// Delete a topic.
    Delete {
        /// Its name.
        name: String,
    },
    /// Make an uploaded module known.
    PutModule(Module),
    /// Forget a module version.
    RemoveModule(ModuleRef),
    /// It concerns a deployment.
    Deploy(DeployAsk),
}

impl From<DeployAsk> for Ask {
    fn from(ask: DeployAsk) -> Ask {
        Ask::Deploy(ask)
    }
}

/// A decided change. It carries its results, ids included, so that replay decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The topic is now this.
    Put(Topic),
    /// The topic is gone.
    Removed {
        /// Its name.
        name: String,
    },
    /// The module is known.
    PutModule(Module),
    /// The module is gone.
    RemovedModule(ModuleRef),
    /// The deployment is now this.
    PutDeployment {
        /// The deployment.
        deployment: Box<Deployment>,
        /// Topics that came with it.
        topics: Vec<Topic>,
    },
    /// The deployment is gone.
    RemovedDeployment {
        /// Its name.
        name: String,
        /// The internal topic that went with it.
        outbox: Option<String>,
    },
}

/// Why a request is refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetadataError {
    /// There is a topic of this name.
    #[error("topic `{0}` exists already")]
    Exists(String),
    /// There is no topic of this name.
    #[error("there is no topic `{0}`")]
    Unknown(String),
    /// The name or a setting is not allowed.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// It concerns a module.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// It concerns a deployment.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// It concerns the module that checks a topic.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The node has as many topics or partitions as it may.
    #[error(
        "the node's limit is reached: {} topics, {} partitions",
        limits::NODE_TOPICS_MAX,
        limits::NODE_PARTITIONS_MAX
    )]
    Limit,
}

impl Default for Image {
    fn default() -> Image {
        Image {
            topics: BTreeMap::new(),
            modules: BTreeMap::new(),
            deployments: BTreeMap::new(),
            next_topic: 1,
            next_partition: GROUPS_PARTITION.0 + 1,
            partitions: 0,
        }
    }
}

impl Image {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The ids that the next topic and partition will get, which survive deletion of the topics
    /// that had the last ones: whoever stores the image stores them too.
    #[must_use]
    pub fn counters(&self) -> (u32, u32) {
        (self.next_topic, self.next_partition)
    }

    /// Makes sure that ids below these are never given out again.
    pub fn raise_counters(&mut self, topic: u32, partition: u32) {
        self.next_topic = self.next_topic.max(topic);
        self.next_partition = self.next_partition.max(partition);
    }

    /// Decides a request. Nothing changes until the result is applied.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn decide(&self, now: TimestampMs, ask: &Ask) -> Result<Change, MetadataError> {
        match ask {
            Ask::Create { name, config } => self.decide_create(now, name, config),
            Ask::Alter { name, change } => self.decide_alter(name, change),
            Ask::Delete { name } => {
                topic::check_name(name)?;
                if !self.topics.contains_key(name) {
                    return Err(MetadataError::Unknown(name.clone()));
                }
                self.may_remove_topic(name)?;
                Ok(Change::Removed { name: name.clone() })
            }
            Ask::PutModule(module) => Ok(self.decide_put_module(module)?),
            Ask::RemoveModule(id) => {
                self.may_remove_module(id)?;
                self.may_remove_check(id)?;
                Ok(self.decide_remove_module(id)?)
            }
            Ask::Deploy(ask) => self.decide_deploy(now, ask),
        }
    }

    fn decide_create(
        &self,
        now: TimestampMs,
        name: &str,
        config: &TopicConfig,
    ) -> Result<Change, MetadataError> {
        topic::check_name(name)?;
        config.check()?;
        if self.topics.contains_key(name) {
            return Err(MetadataError::Exists(name.to_owned()));
        }
        self.may_check(config)?;
        if self.topics.len() >= limits::NODE_TOPICS_MAX {
            return Err(MetadataError::Limit);
        }
        Ok(Change::Put(Topic {
            id: TopicId(self.next_topic),
            name: name.to_owned(),
            partitions: self.fresh_partitions(config.partitions)?,
            config: config.clone(),
            created_at: now,
        }))
    }

    fn decide_alter(&self, name: &str, change: &TopicChange) -> Result<Change, MetadataError> {
        topic::check_name(name)?;
        let known = self.topic(name).ok_or_else(|| MetadataError::Unknown(name.to_owned()))?;
        let mut topic = known.clone();
        topic.config = change.apply(&topic.config)?;
        self.may_check(&topic.config)?;
        let more = topic.config.partitions - known.config.partitions;
        if more > 0 {
            self.may_grow_topic(name)?;
        }
        topic.partitions.extend(self.fresh_partitions(more)?);
        Ok(Change::Put(topic))
    }

    fn fresh_partitions(&self, count: u32) -> Result<Vec<PartitionId>, MetadataError> {
        let end = self.next_partition.checked_add(count).ok_or(MetadataError::Limit)?;
        if self.partitions + count as usize > limits::NODE_PARTITIONS_MAX {
            return Err(MetadataError::Limit);
        }
        Ok((self.next_partition..end).map(PartitionId).collect())
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(topic) => self.put_topic(topic),
            Change::Removed { name } => self.remove_topic(name),
            Change::PutModule(module) => {
                self.modules.insert(module.id.clone(), module.clone());
            }
            Change::RemovedModule(id) => {
                self.modules.remove(id);
            }
            Change::PutDeployment { deployment, topics } => {
                topics.iter().for_each(|topic| self.put_topic(topic));
                self.apply_deployment(deployment);
            }
            Change::RemovedDeployment { name, outbox } => {
                self.deployments.remove(name);
                outbox.iter().for_each(|outbox| self.remove_topic(outbox));
            }
        }
    }

    fn put_topic(&mut self, topic: &Topic) {
        let last = topic.partitions.iter().map(|p| p.0).max().unwrap_or(0);
        self.raise_counters(topic.id.0 + 1, last.saturating_add(1));
        self.partitions += topic.partitions.len();
        if let Some(before) = self.topics.insert(topic.name.clone(), topic.clone()) {
            self.partitions -= before.partitions.len();
        }
    }

    fn remove_topic(&mut self, name: &str) {
        if let Some(removed) = self.topics.remove(name) {
            self.partitions -= removed.partitions.len();
        }
    }

    /// Where a partition of a topic is stored.
    #[must_use]
    pub fn partition(&self, name: &str, index: PartitionIndex) -> Option<PartitionId> {
        self.topics.get(name)?.partitions.get(index.0 as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(image: &mut Image, name: &str, partitions: u32) -> Result<Topic, MetadataError> {
        let config = TopicConfig { partitions, ..TopicConfig::default() };
        let ask = Ask::Create { name: name.into(), config };
        let change = image.decide(TimestampMs(1), &ask)?;
        image.apply(&change);
        Ok(image.topic(name).unwrap().clone())
    }

    /// Goal: ids are never given twice, not even after deletion, and replay of the changes gives
    /// the same image.
    #[test]
    fn ids_are_never_reused() {
        let mut image = Image::default();
        let a = create(&mut image, "a", 2).unwrap();
        assert_eq!(a.partitions, [PartitionId(1), PartitionId(2)]);
        let gone = image.decide(TimestampMs(2), &Ask::Delete { name: "a".into() }).unwrap();
        image.apply(&gone);
        let again = create(&mut image, "a", 1).unwrap();
        assert_eq!((again.id, again.partitions[0]), (TopicId(2), PartitionId(3)));
        let more = TopicChange { partitions: Some(3), ..TopicChange::default() };
        let ask = Ask::Alter { name: "a".into(), change: more };
        let change = image.decide(TimestampMs(3), &ask).unwrap();
        image.apply(&change);
        let grown = image.topic("a").unwrap();
        assert_eq!(grown.partitions, [PartitionId(3), PartitionId(4), PartitionId(5)]);
        let mut replayed = Image::default();
        replayed.raise_counters(image.counters().0, image.counters().1);
        replayed.apply(&Change::Put(grown.clone()));
        assert_eq!(replayed, image);
    }

    /// Goal: limits and double names are refused without a change.
    #[test]
    fn refusals() {
        let mut image = Image::default();
        create(&mut image, "a", 1).unwrap();
        let before = image.clone();
        assert_eq!(create(&mut image, "a", 1), Err(MetadataError::Exists("a".into())));
        assert!(matches!(create(&mut image, "b", 0), Err(MetadataError::Topic(_))));
        assert!(matches!(create(&mut image, "__b", 1), Err(MetadataError::Topic(_))));
        for n in 0..15 {
            create(&mut image, &format!("big{n}"), 1_024).unwrap();
        }
        assert_eq!(create(&mut image, "one-too-many", 1_024), Err(MetadataError::Limit));
        assert_eq!(before.topic("a"), image.topic("a"));
    }
}
