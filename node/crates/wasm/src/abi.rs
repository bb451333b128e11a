//! The types of `wit/`, as the engine lifts and lowers them. Wasmtime compares them with a module's
//! own types when it looks up its functions, so a slip here fails every test that runs a module.

use crate::columns::{Batch, Column, ColumnSet, HeaderColumns, NullableColumn};
use std::sync::Arc;
use wasmtime::component::{ComponentType, Lift, Lower};

/// The package that modules are written against.
pub const PACKAGE: &str = "weir:module";
/// The version of the package that this node serves. Modules of the same major version and of no
/// later minor version run.
pub const PACKAGE_VERSION: (u64, u64, u64) = (1, 0, 0);

/// One record that a module could not process.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Failure {
    /// Its index in the batch.
    pub index: u32,
    /// What is wrong with it.
    pub message: String,
}

/// Type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum ParameterKind {
    /// UTF-8.
    #[component(name = "text")]
    Text,
    /// 64 bits with sign.
    #[component(name = "integer")]
    Integer,
    /// A 64-bit float.
    #[component(name = "number")]
    Number,
    /// `true` or `false`.
    #[component(name = "boolean")]
    Boolean,
}

/// Value of a parameter.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum ParameterValue {
    /// UTF-8.
    #[component(name = "text")]
    Text(String),
    /// 64 bits with sign.
    #[component(name = "integer")]
    Integer(i64),
    /// A 64-bit float.
    #[component(name = "number")]
    Number(f64),
    /// `true` or `false`.
    #[component(name = "boolean")]
    Boolean(bool),
}

/// A parameter that a module declares.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ParameterKind,
    /// Whether a deployment must give it.
    pub required: bool,
    /// What holds where it is not given.
    pub default: Option<ParameterValue>,
    /// One sentence for the person who deploys the module.
    pub about: String,
}

/// What a module says of itself.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Description {
    /// One sentence: what it does.
    pub about: String,
    /// The columns that it looks at.
    pub columns: ColumnSet,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Number of the layout of its keyed state; 0 for none.
    #[component(name = "state-schema")]
    pub state_schema: u32,
}

/// A parameter with its value.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ParameterValue,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
pub enum LogLevel {
    /// A person must look.
    #[component(name = "error")]
    Error,
    /// Odd, but it goes on.
    #[component(name = "warn")]
    Warn,
    /// A change of state.
    #[component(name = "info")]
    Info,
    /// For whoever works on the module.
    #[component(name = "debug")]
    Debug,
}

/// Where a module runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Place {
    /// The deployment's name; empty where there is none.
    pub deployment: String,
    /// Its input topics.
    pub topics: Vec<String>,
    /// The input partition.
    pub partition: u32,
}

/// Why a change of state is refused.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum StateError {
    /// A key is longer than the limit.
    #[component(name = "key-too-long")]
    KeyTooLong(u32),
    /// A value is longer than the limit.
    #[component(name = "value-too-long")]
    ValueTooLong(u32),
    /// The call would have changed more than its limit.
    #[component(name = "too-many-changes")]
    TooManyChanges(u64),
    /// Keys and values differ in number.
    #[component(name = "columns-differ")]
    ColumnsDiffer,
}

/// A part of a scan of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Page {
    /// Keys in ascending order.
    pub keys: Column,
    /// Their values.
    pub values: Column,
    /// Whether there are more.
    pub more: bool,
}

/// What a filter says of a batch.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Kept {
    /// A bit for each record: whether to keep it.
    pub keep: Vec<u8>,
    /// Records that could not be judged.
    pub failures: Vec<Failure>,
}

/// Event-time timers.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Timers {
    /// Which.
    pub keys: Column,
    /// When each is due, in milliseconds since the Unix epoch.
    pub times: Vec<i64>,
}

/// What a transform or consumer is given.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub struct Input {
    /// The records.
    pub batch: Arc<Batch>,
    /// Which input topic they are of.
    pub topic: u32,
    /// Timers that are due by the end of the batch.
    pub due: Timers,
    /// The watermark at the end of the batch.
    pub watermark: i64,
}

/// Records to append.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Outputs {
    /// The record that each comes from.
    pub sources: Vec<u32>,
    /// The topic that each goes to; empty: all to the first.
    pub topics: Vec<u32>,
    /// Event times; empty: those of the sources.
    pub timestamps: Vec<i64>,
    /// Keys; absent: those of the sources.
    pub keys: Option<NullableColumn>,
    /// Values; absent: those of the sources.
    pub values: Option<NullableColumn>,
    /// Headers; absent: those of the sources.
    pub headers: Option<HeaderColumns>,
}

/// What came of a call of a transform or consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Outcome {
    /// Records to append.
    pub outputs: Outputs,
    /// Records that failed.
    pub failures: Vec<Failure>,
    /// Timers to set.
    pub set: Timers,
    /// Timers to remove.
    pub cleared: Column,
}

/// New contents of produced records.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Rewrite {
    /// Keys; absent: as produced.
    pub keys: Option<NullableColumn>,
    /// Values; absent: as produced.
    pub values: Option<NullableColumn>,
    /// Headers; absent: as produced.
    pub headers: Option<HeaderColumns>,
}

/// What a produce-time module says of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Verdict {
    /// Records that must not be appended.
    pub rejected: Vec<Failure>,
    /// Changes to the records.
    pub rewritten: Option<Rewrite>,
}

/// State of the new layout.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Entries {
    /// Keys.
    pub keys: Column,
    /// Values.
    pub values: Column,
}
