//! Deployments: what users ask the node to run between topics.
//!
//! A deployment runs one version of a module. It is metadata; what it has done so far is keyed
//! state in the log ([`keys`]), so that one entry makes its output, its state and its position
//! durable together.
//!
//! # Exactly once
//!
//! A transform or consumer runs per input partition, in a *lane*. Its *home* is the partition whose
//! entries carry its state and position:
//!
//! | mode | home | one entry there holds |
//! |---|---|---|
//! | [`Mode::Direct`] | the output partition of the same index | records, state, position |
//! | [`Mode::Outbox`] | that partition of an internal topic | [`outbox`] parts, state, position |
//!
//! A consumer always has an outbox, also one that publishes nothing: its position is stored there.
//!
//! In outbox mode a distributor then appends each part to its destination, together with a mark:
//! the outbox's offset of the part that is next. A part below the mark is there already, and is
//! not appended again. Nothing is ever computed twice that was committed once, so a module need
//! not behave the same twice.

pub mod delivery;
pub mod http;
pub mod keys;
pub mod outbox;

use crate::ids::{Offset, PartitionIndex, TimestampMs};
use crate::limits;
use crate::module::name::{ModuleName, ModuleRef};
use crate::module::{KindName, ModuleError, ModuleKind, kind_name};
use crate::partitioner::partition_for_key;
use http::{HttpGrant, HttpGrantError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Internal topics that hold outboxes are named this and the deployment's name.
pub const OUTBOX_PREFIX: &str = "__outbox.";

/// Identifies a deployment for the life of a cluster. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(pub u32);

/// What a deployment is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentKind {
    /// Records out of records.
    #[default]
    Transform,
    /// Records are read, and something is done with them.
    Consumer,
}

impl DeploymentKind {
    /// As the command line writes it: `weir NAME create` makes one.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.module().name()
    }

    /// What its module must be.
    #[must_use]
    pub fn module(self) -> ModuleKind {
        match self {
            DeploymentKind::Transform => ModuleKind::Transform,
            DeploymentKind::Consumer => ModuleKind::Consumer,
        }
    }

    fn is_transform(&self) -> bool {
        *self == DeploymentKind::Transform
    }
}

/// What happens to a record that a module cannot work on, after one retry in a fresh instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The record is left out and counted.
    Skip,
    /// The deployment tries again, with backoff, until it works, an operator steps in, or it was
    /// tried as often as [`DeploymentSpec::retries`] says.
    Retry,
    /// The record is written to the dead-letter topic.
    DeadLetter,
    /// The deployment stands before the record.
    #[default]
    Stop,
}

impl OnError {
    /// As the command line and the wire write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OnError::Skip => "skip",
            OnError::Retry => "retry",
            OnError::DeadLetter => "dead-letter",
            OnError::Stop => "stop",
        }
    }
}

/// How a transform's output becomes durable. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One destination, with the input's partitions.
    Direct,
    /// Any destinations, by way of an internal topic.
    Outbox,
}

/// A version of a module, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Which version of which module.
    pub module: ModuleRef,
    /// What the module is told at its start.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentSpec {
    /// What it is for.
    #[serde(default, skip_serializing_if = "DeploymentKind::is_transform")]
    pub kind: DeploymentKind,
    /// What runs.
    pub version: Version,
    /// The input topic.
    pub from: String,
    /// The output topics; the first is where records go that name none. A consumer may have none.
    pub to: Vec<String>,
    /// What happens to records that the module cannot work on.
    #[serde(default)]
    pub on_error: OnError,
    /// Where such records go; `None`: `NAME.dead-letter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Begin with what comes, rather than with what is retained.
    #[serde(default)]
    pub from_latest: bool,
    /// With [`OnError::Retry`]: how often a record is tried again before the deployment stops at
    /// it. 0: for ever.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// How much later than others a record may come, in milliseconds of event time: so far the
    /// watermark stays behind the largest event time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lateness_ms: u32,
    /// A consumer's: where it may send requests to; `None`: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGrant>,
    /// Most CPU time that its module may take on a node, all partitions there together, in percent
    /// of one core. 0: as much as the node allows any deployment.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cpu_percent: u32,
    /// A topic to which what its module logs is appended, as far as that can be done at once;
    /// `None`: it is only kept in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_topic: Option<String>,
}

/// A deployment as metadata knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its name.
    pub name: String,
    /// What was asked for; `spec.version` is what runs.
    pub spec: DeploymentSpec,
    /// How its output becomes durable.
    pub mode: Mode,
    /// An operator paused it.
    #[serde(default)]
    pub paused: bool,
    /// What ran before, for a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Version>,
    /// How often the version was replaced: lanes that have stored a lower number have yet to be
    /// taken over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub takeovers: u32,
    /// Partitions that go back to the snapshot of this offset as the version takes over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore: Vec<(PartitionIndex, Offset)>,
    /// How often it was told to go on: partitions that stopped try again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumes: u32,
    /// It is being deleted: no more input is read, and what was computed is delivered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
    /// When it was created.
    #[serde(default)]
    pub created_at: TimestampMs,
}

impl Deployment {
    /// The topic that takes the records it cannot work on, if it sends them anywhere.
    #[must_use]
    pub fn dead_letter_topic(&self) -> Option<String> {
        let wanted = self.spec.on_error == OnError::DeadLetter;
        let named = self.spec.dead_letter.clone();
        wanted.then(|| named.unwrap_or_else(|| format!("{}.dead-letter", self.name)))
    }

    /// The internal topic that holds its output on the way, if it needs one.
    #[must_use]
    pub fn outbox_topic(&self) -> Option<String> {
        (self.mode == Mode::Outbox).then(|| format!("{OUTBOX_PREFIX}{}", self.name))
    }

    /// The partition of an output topic with `partitions` that an output with this key goes to,
    /// made of the input partition `lane`. `direct`: the deployment has no outbox.
    #[must_use]
    pub fn output_partition(
        direct: bool,
        lane: PartitionIndex,
        key: Option<&[u8]>,
        partitions: u32,
    ) -> PartitionIndex {
        match key {
            _ if direct => lane,
            Some(key) => partition_for_key(key, partitions.max(1)),
            None => PartitionIndex(lane.0 % partitions.max(1)),
        }
    }

    /// Whether it reads or writes this topic.
    #[must_use]
    pub fn uses(&self, topic: &str) -> bool {
        self.spec.from == topic
            || self.spec.to.iter().any(|to| to == topic)
            || self.dead_letter_topic().is_some_and(|dead| dead == topic)
            || self.spec.log_topic.as_ref().is_some_and(|log| log == topic)
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Whether a topic is the node's own: no client reads, writes, changes or lists it.
#[must_use]
pub fn is_internal(topic: &str) -> bool {
    topic.starts_with("__")
}

/// Why a deployment is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployError {
    /// A name that cannot be.
    #[error(
        "`{0}` is not a name for a deployment: use 1 to {max} letters, digits, `.`, `_` and `-`",
        max = limits::DEPLOYMENT_NAME_BYTES_MAX
    )]
    Name(String),
    /// A module that cannot be.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The module does other work.
    #[error("{module} is a {is}, not a {wanted}")]
    Kind {
        /// Which.
        module: ModuleRef,
        /// What it is.
        #[serde(deserialize_with = "kind_name")]
        is: KindName,
        /// What it must be.
        #[serde(deserialize_with = "kind_name")]
        wanted: KindName,
    },
    /// There is a deployment of this name.
    #[error("deployment `{0}` exists already; replace its module, or delete it first")]
    Exists(String),
    /// There is no such deployment.
    #[error("there is no deployment `{0}`; see: weir transform list, weir consumer list")]
    Unknown(String),
    /// A topic that is missing.
    #[error("there is no topic `{0}`; create it first: weir topic create {0}")]
    UnknownTopic(String),
    /// No output, too many, or one twice.
    #[error(
        "a transform has 1 to {max} different output topics, a consumer at most {max}",
        max = limits::DEPLOYMENT_OUTPUTS_MAX
    )]
    Outputs,
    /// Input and output are one.
    #[error("`{0}` is both input and output: the module would feed itself")]
    Loop(String),
    /// A dead-letter topic where there are no dead letters.
    #[error("a dead-letter topic is named, but the policy is not dead-letter")]
    NoDeadLetters,
    /// A number of retries where nothing is tried again.
    #[error("a number of retries is given, but the policy is not retry")]
    NoRetries,
    /// HTTP for something that is no consumer.
    #[error("only consumers send requests over HTTP: what a transform makes must not depend on it")]
    TransformHttp,
    /// The module would read what it logs, or its outputs be mixed with that.
    #[error("`{0}` is input or output of the deployment: what its module logs needs another topic")]
    LogTopic(String),
    /// More CPU time than any machine has.
    #[error(
        "a CPU budget of {0} %: it is in percent of one core, and at most {max}; 0 is none of its \
         own",
        max = limits::DEPLOYMENT_CPU_PERCENT_MAX
    )]
    CpuPercent(u32),
    /// Something is wrong with what is granted.
    #[error(transparent)]
    Http(#[from] HttpGrantError),
    /// Too many or too large parameters.
    #[error("the parameters take more than {max} bytes", max = limits::MODULE_PARAMS_BYTES_MAX)]
    Params,
    /// No version to go back to.
    #[error("`{0}` has no earlier version to go back to")]
    NoPrevious(String),
    /// The node has as many as it may.
    #[error(
        "the node's limit is reached: {} deployments, {} input partitions of all of them together",
        limits::NODE_DEPLOYMENTS_MAX,
        limits::NODE_LANES_MAX
    )]
    Limit,
    /// Growing the topic changes which partition a key is in.
    #[error(
        "topic `{topic}` is used by deployment `{deployment}`, partition by partition: it cannot \
         grow before that is deleted"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// What uses it.
        deployment: String,
    },
    /// The topic is in use.
    #[error("topic `{topic}` is used by deployment `{deployment}`: delete that first")]
    TopicInUse {
        /// The topic.
        topic: String,
        /// What uses it.
        deployment: String,
    },
    /// It is being deleted.
    #[error("deployment `{0}` is being deleted; delete it again if that was cut off")]
    Ending(String),
    /// The module version is in use.
    #[error(
        "{module} is what deployment `{deployment}` runs or would roll back to: replace or delete \
         that first"
    )]
    ModuleInUse {
        /// The version.
        module: ModuleRef,
        /// What uses it.
        deployment: String,
    },
}

/// Checks a deployment's name: a topic's rules, and room for what is put around it.
///
/// # Errors
/// [`DeployError::Name`].
pub fn check_name(name: &str) -> Result<(), DeployError> {
    match crate::topic::check_name(name) {
        Ok(()) if name.len() <= limits::DEPLOYMENT_NAME_BYTES_MAX => Ok(()),
        _ => Err(DeployError::Name(name.chars().take(limits::NAME_BYTES_MAX).collect())),
    }
}

impl Version {
    /// Checks what can be checked without knowing modules.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn check(&self) -> Result<(), DeployError> {
        let bytes: usize = self.params.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > limits::MODULE_PARAMS_BYTES_MAX {
            return Err(DeployError::Params);
        }
        Ok(ModuleName::check(self.module.name.as_str())?)
    }
}

impl DeploymentSpec {
    /// Checks what can be checked without knowing topics and modules.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn check(&self) -> Result<(), DeployError> {
        self.version.check()?;
        let different = self.to.iter().collect::<BTreeSet<_>>().len() == self.to.len();
        let least = usize::from(self.kind == DeploymentKind::Transform);
        if !different || !(least..=limits::DEPLOYMENT_OUTPUTS_MAX).contains(&self.to.len()) {
            return Err(DeployError::Outputs);
        }
        if self.to.contains(&self.from) || self.dead_letter.as_ref() == Some(&self.from) {
            return Err(DeployError::Loop(self.from.clone()));
        }
        if self.dead_letter.is_some() && self.on_error != OnError::DeadLetter {
            return Err(DeployError::NoDeadLetters);
        }
        if self.retries > 0 && self.on_error != OnError::Retry {
            return Err(DeployError::NoRetries);
        }
        if self.cpu_percent > limits::DEPLOYMENT_CPU_PERCENT_MAX {
            return Err(DeployError::CpuPercent(self.cpu_percent));
        }
        if let Some(log) = &self.log_topic {
            let dead = self.dead_letter.as_ref() == Some(log);
            if *log == self.from || self.to.contains(log) || dead {
                return Err(DeployError::LogTopic(log.clone()));
            }
        }
        if let Some(http) = &self.http {
            if self.kind != DeploymentKind::Consumer {
                return Err(DeployError::TransformHttp);
            }
            http.check()?;
        }
        Ok(())
    }
}
