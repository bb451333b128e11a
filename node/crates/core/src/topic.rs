//! Topics: their names and their settings.

use crate::deploy::Version;
use crate::limits;
use crate::record::Compression;
use serde::{Deserialize, Serialize};

/// When a produced batch is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Once it is on disk.
    #[default]
    Durable,
    /// Once it is in the leader's memory. A crash of the process loses what was acknowledged but
    /// not yet written. Consumers see a batch once it is on disk, all the same.
    Relaxed,
}

/// A topic's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicConfig {
    /// How many partitions, 1 to [`limits::TOPIC_PARTITIONS_MAX`]. May grow, never shrink.
    pub partitions: u32,
    /// Records whose append lies further back than this are dropped; `None`: kept for ever. Ms.
    pub retention_ms: Option<u64>,
    /// A partition's oldest records are dropped while it holds more than this; `None`: no bound.
    /// Bytes.
    pub retention_bytes: Option<u64>,
    /// Retention by age leaves a partition at least this much; bytes.
    pub retention_min_bytes: u64,
    /// What producers compress with unless they were told otherwise.
    pub compression: Compression,
    /// When a batch is acknowledged.
    pub durability: Durability,
    /// How long a commit may wait for more batches to share its sync with, ms. Every wait saves
    /// writes on flash and costs latency. 0: as the node is set, which by default holds back only
    /// small appends of producers that trickle among others; 1 keeps them from waiting longer.
    pub commit_linger_ms: u32,
    /// Largest batch taken, bytes; at most [`limits::BATCH_BYTES_MAX`].
    pub batch_bytes_max: u32,
    /// A module that checks or rewrites what producers send before it is appended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_produce: Option<Version>,
    /// On how many nodes each partition is kept, 1 to [`limits::REPLICAS_MAX`], when it is made.
    /// Afterwards copies are moved partition by partition.
    #[serde(skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// How many copies must be in sync for appends to be taken, 1 to `replicas`.
    #[serde(skip_serializing_if = "is_one")]
    pub min_insync: u32,
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

/// Retention unless a topic says otherwise: seven days.
pub const RETENTION_MS_DEFAULT: u64 = 7 * 24 * 60 * 60 * 1000;
/// Longest commit linger, ms.
pub const COMMIT_LINGER_MS_MAX: u32 = 10_000;

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            partitions: 1,
            retention_ms: Some(RETENTION_MS_DEFAULT),
            retention_bytes: None,
            retention_min_bytes: 0,
            compression: Compression::None,
            durability: Durability::Durable,
            commit_linger_ms: 0,
            batch_bytes_max: limits::BATCH_BYTES_MAX as u32,
            on_produce: None,
            replicas: 1,
            min_insync: 1,
        }
    }
}

impl TopicConfig {
    /// Checks every setting against its bounds.
    ///
    /// # Errors
    /// [`TopicError`] naming the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), TopicError> {
        if !(1..=limits::TOPIC_PARTITIONS_MAX).contains(&self.partitions) {
            return Err(TopicError::Partitions(self.partitions));
        }
        if self.commit_linger_ms > COMMIT_LINGER_MS_MAX {
            return Err(TopicError::CommitLinger(self.commit_linger_ms));
        }
        if !(1024..=limits::BATCH_BYTES_MAX as u32).contains(&self.batch_bytes_max) {
            return Err(TopicError::BatchBytes(self.batch_bytes_max));
        }
        if self.retention_bytes.is_some_and(|most| most < self.retention_min_bytes) {
            return Err(TopicError::RetentionBytes);
        }
        if self.on_produce.as_ref().is_some_and(|version| version.check().is_err()) {
            return Err(TopicError::CheckParams);
        }
        if !(1..=limits::REPLICAS_MAX as u32).contains(&self.replicas) {
            return Err(TopicError::Replicas(self.replicas));
        }
        if !(1..=self.replicas).contains(&self.min_insync) {
            let (min_insync, replicas) = (self.min_insync, self.replicas);
            return Err(TopicError::MinInsync { min_insync, replicas });
        }
        Ok(())
    }
}

/// A change of a topic's settings: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TopicChange {
    /// More partitions. Keys may land elsewhere afterwards.
    pub partitions: Option<u32>,
    /// `Some(None)`: keep for ever.
    #[serde(with = "double_option", skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<Option<u64>>,
    /// `Some(None)`: no bound.
    #[serde(with = "double_option", skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<Option<u64>>,
    /// See [`TopicConfig::retention_min_bytes`].
    pub retention_min_bytes: Option<u64>,
    /// See [`TopicConfig::compression`].
    pub compression: Option<Compression>,
    /// See [`TopicConfig::durability`].
    pub durability: Option<Durability>,
    /// See [`TopicConfig::commit_linger_ms`].
    pub commit_linger_ms: Option<u32>,
    /// See [`TopicConfig::batch_bytes_max`].
    pub batch_bytes_max: Option<u32>,
    /// `Some(None)`: nothing is checked any more.
    #[serde(with = "double_option", skip_serializing_if = "Option::is_none")]
    pub on_produce: Option<Option<Version>>,
    /// Refused unless it is what the topic has: see [`TopicConfig::replicas`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// See [`TopicConfig::min_insync`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_insync: Option<u32>,
}

/// Keeps "absent" and "set to nothing" apart on the wire: the latter is an explicit null.
mod double_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}

impl TopicChange {
    /// The settings after the change.
    ///
    /// # Errors
    /// [`TopicError`] if a setting is out of bounds or partitions would be taken away.
    pub fn apply(&self, config: &TopicConfig) -> Result<TopicConfig, TopicError> {
        let partitions = self.partitions.unwrap_or(config.partitions);
        if partitions < config.partitions {
            return Err(TopicError::FewerPartitions { now: config.partitions, asked: partitions });
        }
        if let Some(asked) = self.replicas.filter(|&asked| asked != config.replicas) {
            return Err(TopicError::ReplicasFixed { now: config.replicas, asked });
        }
        let changed = TopicConfig {
            partitions,
            retention_ms: self.retention_ms.unwrap_or(config.retention_ms),
            retention_bytes: self.retention_bytes.unwrap_or(config.retention_bytes),
            retention_min_bytes: self.retention_min_bytes.unwrap_or(config.retention_min_bytes),
            compression: self.compression.unwrap_or(config.compression),
            durability: self.durability.unwrap_or(config.durability),
            commit_linger_ms: self.commit_linger_ms.unwrap_or(config.commit_linger_ms),
            batch_bytes_max: self.batch_bytes_max.unwrap_or(config.batch_bytes_max),
            on_produce: self.on_produce.clone().unwrap_or_else(|| config.on_produce.clone()),
            replicas: config.replicas,
            min_insync: self.min_insync.unwrap_or(config.min_insync),
        };
        changed.check()?;
        Ok(changed)
    }
}

/// Checks a topic or group name: 1 to [`limits::NAME_BYTES_MAX`] of letters, digits, `.`, `_` and
/// `-`, neither `.` nor `..`. A leading `__` is kept for the node's own topics.
///
/// # Errors
/// [`TopicError::Name`].
pub fn check_name(name: &str) -> Result<(), TopicError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=limits::NAME_BYTES_MAX).contains(&name.len());
    if fits && name.chars().all(legal) && name != "." && name != ".." && !name.starts_with("__") {
        Ok(())
    } else {
        Err(TopicError::Name(name.chars().take(limits::NAME_BYTES_MAX).collect()))
    }
}

/// Why a topic cannot be as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicError {
    /// The name is not allowed.
    #[error(
        "the name `{0}` is not allowed: use 1 to {max} letters, digits, `.`, `_` and `-`, not \
         beginning with `__`",
        max = limits::NAME_BYTES_MAX
    )]
    Name(String),
    /// Too few or too many partitions.
    #[error("{0} partitions: a topic has 1 to {max}", max = limits::TOPIC_PARTITIONS_MAX)]
    Partitions(u32),
    /// Partitions cannot be taken away.
    #[error("the topic has {now} partitions, and partitions cannot be taken away (asked: {asked})")]
    FewerPartitions {
        /// How many it has.
        now: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// The linger is too long.
    #[error("a commit linger of {0} ms: the most is {COMMIT_LINGER_MS_MAX}")]
    CommitLinger(u32),
    /// The batch size is out of bounds.
    #[error("batches of at most {0} bytes: choose 1024 to {max}", max = limits::BATCH_BYTES_MAX)]
    BatchBytes(u32),
    /// Retention keeps less than it must keep.
    #[error("retention by size is below the size that retention by age must keep")]
    RetentionBytes,
    /// Too large parameters of the module that checks it.
    #[error(
        "the parameters of --on-produce take more than {max} bytes",
        max = limits::MODULE_PARAMS_BYTES_MAX
    )]
    CheckParams,
    /// Too few or too many replicas.
    #[error("{0} replicas: a partition has 1 to {max}", max = limits::REPLICAS_MAX)]
    Replicas(u32),
    /// More in sync than there are, or none.
    #[error("min-insync {min_insync} with {replicas} replicas: choose 1 to {replicas}")]
    MinInsync {
        /// How many were to be in sync.
        min_insync: u32,
        /// How many there are.
        replicas: u32,
    },
    /// Replicas are not a setting that is altered.
    #[error(
        "the topic was made with {now} replicas, and altering does not move copies (asked: \
         {asked}): move its partitions with `weir topic reassign`"
    )]
    ReplicasFixed {
        /// How many it was made with.
        now: u32,
        /// How many were asked for.
        asked: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "gps.raw", "A-1_x", &"x".repeat(249)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "__x", "a b", "ä", "a/b", &"x".repeat(250)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    /// Goal: a change leaves alone what it does not name, can set "for ever", and cannot take
    /// partitions away; absent and null stay apart on the wire.
    #[test]
    fn changes() {
        let config = TopicConfig { partitions: 4, ..TopicConfig::default() };
        let change = TopicChange { retention_ms: Some(None), ..TopicChange::default() };
        let mut wire = Vec::new();
        ciborium::into_writer(&change, &mut wire).unwrap();
        let change: TopicChange = ciborium::from_reader(&wire[..]).unwrap();
        let changed = change.apply(&config).unwrap();
        assert_eq!(changed, TopicConfig { retention_ms: None, ..config.clone() });
        wire.clear();
        ciborium::into_writer(&TopicChange::default(), &mut wire).unwrap();
        let nothing: TopicChange = ciborium::from_reader(&wire[..]).unwrap();
        assert_eq!(nothing.apply(&changed), Ok(changed));
        let fewer = TopicChange { partitions: Some(3), ..TopicChange::default() };
        assert!(matches!(fewer.apply(&config), Err(TopicError::FewerPartitions { .. })));
    }

    /// Goal: how many must be in sync can be changed within what there is, how many there are
    /// cannot; a topic with one copy is encoded as it was before there were more.
    #[test]
    fn replicas() {
        let config = TopicConfig { replicas: 3, min_insync: 2, ..TopicConfig::default() };
        assert_eq!(config.check(), Ok(()));
        let insync = |n| TopicChange { min_insync: Some(n), ..TopicChange::default() };
        assert_eq!(insync(3).apply(&config).unwrap().min_insync, 3);
        for wrong in [0, 4] {
            let refused = Err(TopicError::MinInsync { min_insync: wrong, replicas: 3 });
            assert_eq!(insync(wrong).apply(&config), refused);
        }
        let replicas = |n| TopicChange { replicas: Some(n), ..TopicChange::default() };
        assert_eq!(replicas(3).apply(&config), Ok(config.clone()));
        let refused = replicas(2).apply(&config).unwrap_err();
        assert_eq!(refused, TopicError::ReplicasFixed { now: 3, asked: 2 });
        assert!(refused.to_string().contains("weir topic reassign"), "{refused}");
        for wrong in [0, limits::REPLICAS_MAX as u32 + 1] {
            let many = TopicConfig { replicas: wrong, ..TopicConfig::default() };
            assert_eq!(many.check(), Err(TopicError::Replicas(wrong)));
        }
        let encoded = |config: &TopicConfig| {
            let mut bytes = Vec::new();
            ciborium::into_writer(config, &mut bytes).unwrap();
            bytes
        };
        let names = |config| String::from_utf8_lossy(&encoded(config)).contains("replicas");
        assert!(names(&config) && !names(&TopicConfig::default()));
        let read: TopicConfig = ciborium::from_reader(&encoded(&config)[..]).unwrap();
        assert_eq!(read, config);
    }

    /// Goal: a check is set, kept and taken away by changes, and a topic without one is encoded as
    /// it was before there were any.
    #[test]
    fn checks() {
        let wire = |change: &TopicChange| {
            let mut wire = Vec::new();
            ciborium::into_writer(change, &mut wire).unwrap();
            ciborium::from_reader::<TopicChange, _>(&wire[..]).unwrap()
        };
        let module = "guard@1.0.0".parse().unwrap();
        let version = Version { module, params: [("max".into(), "9".into())].into() };
        let set = TopicChange { on_produce: Some(Some(version.clone())), ..TopicChange::default() };
        let config = wire(&set).apply(&TopicConfig::default()).unwrap();
        assert_eq!(config.on_produce, Some(version));
        assert_eq!(wire(&TopicChange::default()).apply(&config), Ok(config.clone()));
        let gone = TopicChange { on_produce: Some(None), ..TopicChange::default() };
        let plain = wire(&gone).apply(&config).unwrap();
        assert_eq!(plain, TopicConfig::default());
        let mut bytes = Vec::new();
        ciborium::into_writer(&plain, &mut bytes).unwrap();
        assert!(!bytes.windows(10).any(|window| window == b"on_produce"));
        let params = [("x".into(), "y".repeat(limits::MODULE_PARAMS_BYTES_MAX))].into();
        let large = config.on_produce.map(|version| Version { params, ..version });
        let large = TopicConfig { on_produce: large, ..TopicConfig::default() };
        assert_eq!(large.check(), Err(TopicError::CheckParams));
    }
}
