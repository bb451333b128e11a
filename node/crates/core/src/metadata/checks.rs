//! Modules that check what is produced to topics, in the metadata state machine.

use super::Image;
use crate::module::name::ModuleRef;
use crate::module::{KindName, ModuleError, ModuleKind, kind_name};
use crate::topic::TopicConfig;
use serde::{Deserialize, Serialize};

/// Why a topic cannot be checked so, or a module not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckError {
    /// There is no such module.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The module does other work.
    #[error("{module} is a {is}, not a produce-check: --on-produce takes modules of that world")]
    Kind {
        /// Which.
        module: ModuleRef,
        /// What it is.
        #[serde(deserialize_with = "kind_name")]
        is: KindName,
    },
    /// The module version checks a topic.
    #[error(
        "{module} checks what is produced to topic `{topic}`: name another with `weir topic alter \
         {topic} --on-produce`, or --no-on-produce, first"
    )]
    ModuleInUse {
        /// The version.
        module: ModuleRef,
        /// The topic.
        topic: String,
    },
}

impl Image {
    /// Whether the module that is to check a topic is there, and is one for that.
    pub(super) fn may_check(&self, config: &TopicConfig) -> Result<(), CheckError> {
        let Some(version) = &config.on_produce else { return Ok(()) };
        let id = &version.module;
        let module = self.module(id).ok_or_else(|| ModuleError::Unknown(id.clone()))?;
        match module.kind {
            ModuleKind::ProduceCheck => Ok(()),
            other => Err(CheckError::Kind { module: id.clone(), is: other.name() }),
        }
    }

    pub(super) fn may_remove_check(&self, id: &ModuleRef) -> Result<(), CheckError> {
        let checked = |version: &crate::deploy::Version| version.module == *id;
        let mut topics = self.topics();
        let user = topics.find(|topic| topic.config.on_produce.as_ref().is_some_and(checked));
        user.map_or(Ok(()), |topic| {
            Err(CheckError::ModuleInUse { module: id.clone(), topic: topic.name.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, MetadataError};
    use super::*;
    use crate::deploy::Version;
    use crate::ids::TimestampMs;
    use crate::module::Module;
    use crate::topic::TopicChange;

    fn run(image: &mut Image, ask: Ask) -> Result<(), MetadataError> {
        let change = image.decide(TimestampMs(1), &ask)?;
        image.apply(&change);
        Ok(())
    }

    fn put(image: &mut Image, id: &str, kind: ModuleKind) {
        let module = Module {
            id: id.parse().unwrap(),
            kind,
            sha256: id.into(),
            bytes: 1,
            about: String::new(),
            created_at: TimestampMs(0),
        };
        run(image, Ask::PutModule(module)).unwrap();
    }

    fn checked_by(id: &str) -> Option<Version> {
        Some(Version { module: id.parse().unwrap(), params: [].into() })
    }

    /// Goal: a topic is checked by known modules of the right world only, whether it is created or
    /// altered so, and such a module stays as long as it is needed.
    #[test]
    fn what_may_check_a_topic() {
        let mut image = Image::default();
        put(&mut image, "c@1.0.0", ModuleKind::ProduceCheck);
        put(&mut image, "c@1.1.0", ModuleKind::ProduceCheck);
        put(&mut image, "f@1.0.0", ModuleKind::Filter);
        let create = |on_produce| Ask::Create {
            name: "t".into(),
            config: TopicConfig { on_produce, ..TopicConfig::default() },
        };
        let alter = |on_produce| Ask::Alter {
            name: "t".into(),
            change: TopicChange { on_produce: Some(on_produce), ..TopicChange::default() },
        };
        let remove = |id: &str| Ask::RemoveModule(id.parse().unwrap());
        let unknown = run(&mut image, create(checked_by("x@1.0.0")));
        assert!(matches!(
            unknown,
            Err(MetadataError::Check(CheckError::Module(ModuleError::Unknown(_))))
        ));
        run(&mut image, create(checked_by("c@1.0.0"))).unwrap();
        let wrong = run(&mut image, alter(checked_by("f@1.0.0")));
        assert!(matches!(wrong, Err(MetadataError::Check(CheckError::Kind { .. }))));
        let used = run(&mut image, remove("c@1.0.0"));
        assert!(matches!(used, Err(MetadataError::Check(CheckError::ModuleInUse { .. }))));
        run(&mut image, alter(checked_by("c@1.1.0"))).unwrap();
        run(&mut image, remove("c@1.0.0")).unwrap();
        run(&mut image, alter(None)).unwrap();
        run(&mut image, remove("c@1.1.0")).unwrap();
        assert_eq!(image.topic("t").unwrap().config, TopicConfig::default());
    }
}
