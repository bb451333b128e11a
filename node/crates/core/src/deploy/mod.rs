//! Modules and deployments: what users upload, and what they ask the node to run.
//!
//! A *module* is a Wasm component, immutable under its name and version. A *deployment* runs one
//! version of a module between topics. Both are metadata; what a deployment has done so far is
//! keyed state in the log ([`keys`]), so one commit makes its output, its state and its position
//! durable together.
//!
//! # Exactly once
//!
//! A transform runs per input partition. Its *home* is the partition whose entries carry its
//! state and position:
//!
//! | mode | home | one batch becomes |
//! |---|---|---|
//! | [`Mode::Direct`] | the output partition of the same index | one entry there: records, state, position |
//! | [`Mode::Outbox`] | an internal partition of the deployment's own | one entry there: the records for every destination, state, position |
//!
//! In outbox mode a distributor then appends each part to its destination, together with a mark:
//! the home's offset that the part came from. A part at or below the mark is there already, and
//! is not appended again. Nothing is ever computed twice that was committed once, so a module
//! need not behave the same twice.
//!
//! A direct transform writes its dead letters first, with the offsets that they stand for
//! ([`keys::Meaning::Dead`]), and then the entry at home. Between the two a crash may come: an
//! offset that was given up is not tried again, so a record is in one place or the other.

pub mod keys;
pub mod name;
pub mod outbox;

use crate::ids::{PartitionId, TimestampMs};
use crate::limits;
use name::{ModuleName, ModuleRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What kind of work a module does: the WIT world that it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// Keeps or drops records of a subscription.
    Filter,
    /// Makes records of records.
    Transform,
}

impl ModuleKind {
    /// The kind's name, as the command line and the WIT world write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModuleKind::Filter => "filter",
            ModuleKind::Transform => "transform",
        }
    }
}

/// One version of a module, as metadata knows it. The bytes are in the node's module store, under
/// their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name and version.
    pub id: ModuleRef,
    /// What it does.
    pub kind: ModuleKind,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// Size of its bytes.
    pub bytes: u64,
    /// When it was uploaded.
    #[serde(default)]
    pub created_at: TimestampMs,
}

/// Identifies a deployment for the life of a cluster. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(pub u32);

/// What happens to a record that a module cannot work on, after one retry in a fresh instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The record is left out and counted.
    Skip,
    /// The deployment tries again, with backoff, until it works or an operator steps in.
    Retry,
    /// The record is written to the dead-letter topic.
    #[default]
    DeadLetter,
    /// The deployment pauses before the record.
    Stop,
}

/// How a transform's output becomes durable. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One destination, with the input's partitions.
    Direct,
    /// Any destinations, by way of the deployment's own partitions.
    Outbox,
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentSpec {
    /// Which version of which module.
    pub module: ModuleRef,
    /// The input topic.
    pub from: String,
    /// The output topics; the first is where records go that name none.
    pub to: Vec<String>,
    /// What the module is told at its start.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// What happens to records that it cannot work on.
    #[serde(default)]
    pub on_error: OnError,
    /// Where such records go; `None`: `NAME.dead-letter`.
    #[serde(default)]
    pub dead_letter: Option<String>,
    /// Begin with what is retained, rather than with what comes.
    #[serde(default)]
    pub from_earliest: bool,
}

/// A deployment as metadata knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its name.
    pub name: String,
    /// What was asked for; `spec.module` is the version that runs.
    pub spec: DeploymentSpec,
    /// How its output becomes durable.
    pub mode: Mode,
    /// Its own partitions, one per input partition, in outbox mode.
    #[serde(default)]
    pub partitions: Vec<PartitionId>,
    /// An operator paused it.
    #[serde(default)]
    pub paused: bool,
    /// The version before this one, for a rollback.
    #[serde(default)]
    pub previous: Option<ModuleRef>,
    /// When it was created.
    #[serde(default)]
    pub created_at: TimestampMs,
}

impl Deployment {
    /// The topic that takes the records it cannot work on.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        let named = self.spec.dead_letter.clone();
        named.unwrap_or_else(|| format!("{}.dead-letter", self.name))
    }
}

/// Why a module or deployment is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// A name that cannot be.
    #[error("`{0}` is not a name: use 1 to {max} letters, digits, `.`, `_` and `-`", max = limits::NAME_BYTES_MAX)]
    Name(String),
    /// A version that cannot be.
    #[error("`{0}` is not a version: use MAJOR.MINOR.PATCH, as in 1.2.0")]
    Version(String),
    /// Not `NAME@VERSION`.
    #[error("`{0}` does not name a module: use NAME@VERSION, as in gps-geofence@1.2.0")]
    Reference(String),
    /// The name and version have other bytes already.
    #[error("{0} exists with other content: a version is immutable, push a new one")]
    Immutable(ModuleRef),
    /// There is no such module.
    #[error("there is no module {0}")]
    UnknownModule(ModuleRef),
    /// The module is in use.
    #[error("{0} is used by `{1}`")]
    InUse(ModuleRef, String),
    /// The module does other work.
    #[error("{module} is a {is}, not a {wanted}")]
    Kind {
        /// Which.
        module: ModuleRef,
        /// What it is.
        is: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// There is a deployment of this name.
    #[error("deployment `{0}` exists already")]
    Exists(String),
    /// There is no such deployment.
    #[error("there is no deployment `{0}`")]
    Unknown(String),
    /// A topic that is missing.
    #[error("there is no topic `{0}`; create it first: weir topic create {0}")]
    UnknownTopic(String),
    /// No output, or too many.
    #[error("a transform has 1 to {max} output topics", max = limits::DEPLOYMENT_OUTPUTS_MAX)]
    Outputs,
    /// Input and output are one.
    #[error("`{0}` is both input and output: the transform would feed itself")]
    Loop(String),
    /// Too many or too large parameters.
    #[error("the parameters take more than {max} bytes", max = limits::DEPLOYMENT_PARAMS_BYTES_MAX)]
    Params,
    /// No version to go back to.
    #[error("`{0}` has no earlier version to go back to")]
    NoPrevious(String),
    /// The node has as many as it may.
    #[error(
        "the node's limit is reached: {} module versions, {} deployments",
        limits::NODE_MODULES_MAX,
        limits::NODE_DEPLOYMENTS_MAX
    )]
    Limit,
    /// Growing the input changes which partition a key is in.
    #[error("topic `{topic}` is read by deployment `{deployment}`: its partitions cannot grow")]
    Partitions {
        /// The topic.
        topic: String,
        /// What reads it.
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
}

impl DeploymentSpec {
    /// Checks what can be checked without knowing topics and modules.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn check(&self) -> Result<(), DeployError> {
        if !(1..=limits::DEPLOYMENT_OUTPUTS_MAX).contains(&self.to.len()) {
            return Err(DeployError::Outputs);
        }
        if self.to.contains(&self.from) || self.dead_letter.as_ref() == Some(&self.from) {
            return Err(DeployError::Loop(self.from.clone()));
        }
        let bytes: usize = self.params.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > limits::DEPLOYMENT_PARAMS_BYTES_MAX {
            return Err(DeployError::Params);
        }
        ModuleName::check(self.module.name.as_str())
    }
}
