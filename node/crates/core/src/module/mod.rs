//! Modules that users upload: WebAssembly components, known by name and version.
//!
//! Metadata only: the bytes are in the node's module store, under their hash.

pub mod name;

use crate::ids::TimestampMs;
use crate::limits;
use name::ModuleRef;
use serde::{Deserialize, Deserializer, Serialize};

/// What kind of work a module does: the WIT world that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// Keeps or drops records of a subscription.
    Filter,
    /// Makes records of records.
    Transform,
    /// Reads records and does something with them.
    Consumer,
    /// Checks or rewrites records before they are appended.
    ProduceCheck,
}

impl ModuleKind {
    /// The kind's name, as the command line and the WIT world write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ModuleKind::Filter => "filter",
            ModuleKind::Transform => "transform",
            ModuleKind::Consumer => "consumer",
            ModuleKind::ProduceCheck => "produce-check",
        }
    }
}

/// A [`ModuleKind`]'s name, in errors that travel.
pub type KindName = &'static str;

/// Reads a name that [`ModuleKind::name`] gives, and no other.
pub(crate) fn kind_name<'de, D: Deserializer<'de>>(from: D) -> Result<KindName, D::Error> {
    ModuleKind::deserialize(from).map(ModuleKind::name)
}

/// One version of a module, as metadata knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name and version.
    pub id: ModuleRef,
    /// What it does.
    pub kind: ModuleKind,
    /// SHA-256 of the component, in hex.
    pub sha256: String,
    /// Size of the component.
    pub bytes: u64,
    /// What it says of itself, in a sentence.
    #[serde(default)]
    pub about: String,
    /// When it was uploaded.
    #[serde(default)]
    pub created_at: TimestampMs,
}

/// Why a module is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleError {
    /// A name that cannot be.
    #[error(
        "`{0}` is not a name: use 1 to {max} letters, digits, `.`, `_` and `-`",
        max = limits::NAME_BYTES_MAX
    )]
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
    #[error("there is no module {0}; see: weir module list")]
    Unknown(ModuleRef),
    /// The node has as many as it may.
    #[error(
        "the node's limit of {} module versions is reached: delete some",
        limits::NODE_MODULES_MAX
    )]
    Limit,
}
