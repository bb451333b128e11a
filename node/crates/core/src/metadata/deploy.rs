//! Modules and deployments in the metadata state machine.

use super::{Ask, Change, Image, MetadataError};
use crate::deploy::name::{ModuleName, ModuleRef};
use crate::deploy::{
    DeployError, Deployment, DeploymentId, DeploymentSpec, Mode, Module, ModuleKind,
};
use crate::ids::TimestampMs;
use crate::limits;

/// What an operator asks of modules and deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeployAsk {
    /// Make an uploaded module known.
    PutModule(Module),
    /// Forget a module version.
    RemoveModule(ModuleRef),
    /// Create a deployment.
    Create {
        /// Its name.
        name: String,
        /// What it is to do.
        spec: DeploymentSpec,
    },
    /// Pause or resume.
    Pause {
        /// Its name.
        name: String,
        /// Whether it is to stand still.
        paused: bool,
    },
    /// Run another version of its module.
    Replace {
        /// Its name.
        name: String,
        /// The version; `None`: the one before.
        module: Option<ModuleRef>,
    },
    /// Delete a deployment; its output stays.
    Delete {
        /// Its name.
        name: String,
    },
}

impl From<DeployAsk> for Ask {
    fn from(ask: DeployAsk) -> Ask {
        Ask::Deploy(ask)
    }
}

impl Image {
    /// The module of this name and version.
    #[must_use]
    pub fn module(&self, id: &ModuleRef) -> Option<&Module> {
        self.modules.get(id)
    }

    /// All modules, by name and version.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// The deployment of this name.
    #[must_use]
    pub fn deployment(&self, name: &str) -> Option<&Deployment> {
        self.deployments.get(name)
    }

    /// All deployments, by name.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.deployments.values()
    }

    pub(super) fn decide_deploy(
        &self,
        now: TimestampMs,
        ask: &DeployAsk,
    ) -> Result<Change, MetadataError> {
        let change = match ask {
            DeployAsk::PutModule(module) => self.put_module(module)?,
            DeployAsk::RemoveModule(id) => {
                self.known_module(id)?;
                let uses =
                    |d: &&Deployment| d.spec.module == *id || d.previous.as_ref() == Some(id);
                if let Some(user) = self.deployments().find(uses) {
                    return Err(DeployError::InUse(id.clone(), user.name.clone()).into());
                }
                Change::RemovedModule(id.clone())
            }
            DeployAsk::Create { name, spec } => self.create(now, name, spec)?,
            DeployAsk::Pause { name, paused } => {
                let deployment = self.known(name)?.clone();
                Change::PutDeployment(Deployment { paused: *paused, ..deployment })
            }
            DeployAsk::Replace { name, module } => {
                let mut deployment = self.known(name)?.clone();
                let wanted = match module {
                    Some(module) => module.clone(),
                    None => deployment
                        .previous
                        .clone()
                        .ok_or_else(|| DeployError::NoPrevious(name.clone()))?,
                };
                self.runs_as(&wanted, ModuleKind::Transform)?;
                if wanted != deployment.spec.module {
                    deployment.previous = Some(deployment.spec.module);
                    deployment.spec.module = wanted;
                }
                Change::PutDeployment(deployment)
            }
            DeployAsk::Delete { name } => {
                self.known(name)?;
                Change::RemovedDeployment { name: name.clone() }
            }
        };
        Ok(change)
    }

    fn put_module(&self, module: &Module) -> Result<Change, MetadataError> {
        match self.modules.get(&module.id) {
            // The same upload again, perhaps because its answer was lost.
            Some(known) if known.sha256 == module.sha256 => Ok(Change::PutModule(known.clone())),
            Some(_) => Err(DeployError::Immutable(module.id.clone()).into()),
            None if self.modules.len() >= limits::NODE_MODULES_MAX => {
                Err(DeployError::Limit.into())
            }
            None => Ok(Change::PutModule(module.clone())),
        }
    }

    fn create(
        &self,
        now: TimestampMs,
        name: &str,
        spec: &DeploymentSpec,
    ) -> Result<Change, MetadataError> {
        ModuleName::check(name)?;
        spec.check()?;
        if self.deployments.contains_key(name) {
            return Err(DeployError::Exists(name.to_owned()).into());
        }
        if self.deployments.len() >= limits::NODE_DEPLOYMENTS_MAX {
            return Err(DeployError::Limit.into());
        }
        self.runs_as(&spec.module, ModuleKind::Transform)?;
        let partitions = |topic: &String| {
            let known = self.topic(topic).map(|t| t.partitions.len() as u32);
            known.ok_or_else(|| DeployError::UnknownTopic(topic.clone()))
        };
        let inputs = partitions(&spec.from)?;
        let outputs = spec.to.iter().map(partitions).collect::<Result<Vec<_>, _>>()?;
        let mode = if outputs == [inputs] { Mode::Direct } else { Mode::Outbox };
        let deployment = Deployment {
            id: DeploymentId(self.next_deployment),
            name: name.to_owned(),
            spec: spec.clone(),
            mode,
            partitions: match mode {
                Mode::Direct => Vec::new(),
                Mode::Outbox => self.fresh_partitions(inputs)?,
            },
            paused: false,
            previous: None,
            created_at: now,
        };
        if spec.dead_letter.is_none() {
            crate::topic::check_name(&deployment.dead_letter_topic())?;
        }
        Ok(Change::PutDeployment(deployment))
    }

    fn known(&self, name: &str) -> Result<&Deployment, DeployError> {
        self.deployment(name).ok_or_else(|| DeployError::Unknown(name.to_owned()))
    }

    fn known_module(&self, id: &ModuleRef) -> Result<&Module, DeployError> {
        self.module(id).ok_or_else(|| DeployError::UnknownModule(id.clone()))
    }

    fn runs_as(&self, id: &ModuleRef, wanted: ModuleKind) -> Result<(), DeployError> {
        let module = self.known_module(id)?;
        if module.kind == wanted {
            return Ok(());
        }
        let (is, wanted) = (module.kind.name(), wanted.name());
        Err(DeployError::Kind { module: id.clone(), is, wanted })
    }

    /// The deployment that needs the topic, if there is one.
    fn user_of(&self, topic: &str) -> Option<&Deployment> {
        self.deployments().find(|d| {
            d.spec.from == topic
                || d.spec.to.iter().any(|to| to == topic)
                || d.dead_letter_topic() == topic
        })
    }

    pub(super) fn may_remove_topic(&self, name: &str) -> Result<(), DeployError> {
        self.user_of(name).map_or(Ok(()), |user| {
            let (topic, deployment) = (name.to_owned(), user.name.clone());
            Err(DeployError::TopicInUse { topic, deployment })
        })
    }

    /// More partitions put keys elsewhere: what reads the topic by partition would mix them up.
    pub(super) fn may_grow_topic(&self, name: &str) -> Result<(), DeployError> {
        let concerned = |d: &&Deployment| {
            d.spec.from == name || (d.mode == Mode::Direct && d.spec.to.iter().any(|to| to == name))
        };
        self.deployments().find(concerned).map_or(Ok(()), |user| {
            let (topic, deployment) = (name.to_owned(), user.name.clone());
            Err(DeployError::Partitions { topic, deployment })
        })
    }

    pub(super) fn apply_deployment(&mut self, deployment: &Deployment) {
        self.next_deployment = self.next_deployment.max(deployment.id.0 + 1);
        let last = deployment.partitions.iter().map(|p| p.0).max();
        if let Some(last) = last {
            self.next_partition = self.next_partition.max(last.saturating_add(1));
        }
        self.partitions += deployment.partitions.len();
        let before = self.deployments.insert(deployment.name.clone(), deployment.clone());
        self.partitions -= before.map_or(0, |before| before.partitions.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{TopicChange, TopicConfig};

    fn module(reference: &str, kind: ModuleKind, sha256: &str) -> Module {
        let id = reference.parse().unwrap();
        Module { id, kind, sha256: sha256.into(), bytes: 1, created_at: TimestampMs(0) }
    }

    fn spec(module: &str, to: &[&str]) -> DeploymentSpec {
        DeploymentSpec {
            module: module.parse().unwrap(),
            from: "in".into(),
            to: to.iter().map(|t| (*t).to_owned()).collect(),
            params: [].into(),
            on_error: crate::deploy::OnError::Skip,
            dead_letter: None,
            from_earliest: true,
        }
    }

    fn run(image: &mut Image, ask: impl Into<Ask>) -> Result<Change, MetadataError> {
        let change = image.decide(TimestampMs(1), &ask.into())?;
        image.apply(&change);
        Ok(change)
    }

    fn image() -> Image {
        let mut image = Image::default();
        for (name, partitions) in [("in", 3), ("same", 3), ("other", 2)] {
            let config = TopicConfig { partitions, ..TopicConfig::default() };
            run(&mut image, Ask::Create { name: name.into(), config }).unwrap();
        }
        let asks = [
            ("t@1.0.0", ModuleKind::Transform),
            ("t@1.1.0", ModuleKind::Transform),
            ("f@1.0.0", ModuleKind::Filter),
        ];
        for (name, kind) in asks {
            run(&mut image, DeployAsk::PutModule(module(name, kind, name))).unwrap();
        }
        image
    }

    fn deploy_error<T: std::fmt::Debug>(result: Result<T, MetadataError>) -> DeployError {
        match result {
            Err(MetadataError::Deploy(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Goal: a version's bytes never change, the same upload twice is one, and what runs stays.
    #[test]
    fn modules_are_immutable() {
        let mut image = image();
        let again = module("t@1.0.0", ModuleKind::Transform, "t@1.0.0");
        run(&mut image, DeployAsk::PutModule(again)).unwrap();
        let other = module("t@1.0.0", ModuleKind::Transform, "different");
        let refused = run(&mut image, DeployAsk::PutModule(other));
        assert!(matches!(deploy_error(refused), DeployError::Immutable(_)));
        let create = DeployAsk::Create { name: "d".into(), spec: spec("t@1.0.0", &["same"]) };
        run(&mut image, create).unwrap();
        let id: ModuleRef = "t@1.0.0".parse().unwrap();
        let refused = run(&mut image, DeployAsk::RemoveModule(id.clone()));
        assert!(matches!(deploy_error(refused), DeployError::InUse(_, _)));
        run(&mut image, DeployAsk::Delete { name: "d".into() }).unwrap();
        run(&mut image, DeployAsk::RemoveModule(id.clone())).unwrap();
        assert_eq!(image.module(&id), None);
    }

    /// Goal: the mode follows the topics; replacing and rolling back change places.
    #[test]
    fn deployments() {
        let mut image = image();
        let create = |name: &str, to: &[&str]| DeployAsk::Create {
            name: name.into(),
            spec: spec("t@1.0.0", to),
        };
        run(&mut image, create("direct", &["same"])).unwrap();
        assert_eq!(image.deployment("direct").unwrap().mode, Mode::Direct);
        run(&mut image, create("fan", &["same", "other"])).unwrap();
        run(&mut image, create("rekey", &["other"])).unwrap();
        let (fan, rekey) = (image.deployment("fan").unwrap(), image.deployment("rekey").unwrap());
        assert_eq!((fan.mode, rekey.mode), (Mode::Outbox, Mode::Outbox));
        assert_eq!((fan.partitions.len(), rekey.partitions.len()), (3, 3));
        assert!(fan.partitions.iter().all(|p| !rekey.partitions.contains(p)));
        let replace = |module: Option<&str>| DeployAsk::Replace {
            name: "fan".into(),
            module: module.map(|m| m.parse().unwrap()),
        };
        let refused = run(&mut image, replace(None));
        assert!(matches!(deploy_error(refused), DeployError::NoPrevious(_)));
        run(&mut image, replace(Some("t@1.1.0"))).unwrap();
        run(&mut image, replace(None)).unwrap();
        let fan = image.deployment("fan").unwrap();
        assert_eq!(fan.spec.module.to_string(), "t@1.0.0");
        assert_eq!(fan.previous.as_ref().unwrap().to_string(), "t@1.1.0");
        let refused = run(&mut image, replace(Some("f@1.0.0")));
        assert!(matches!(deploy_error(refused), DeployError::Kind { .. }));
        let unknown = run(&mut image, create("x", &["nowhere"]));
        assert!(matches!(deploy_error(unknown), DeployError::UnknownTopic(_)));
        let looping = run(&mut image, create("x", &["in"]));
        assert!(matches!(deploy_error(looping), DeployError::Loop(_)));
    }

    /// Goal: topics that are in use neither go nor grow where that would mix up keys; ids of
    /// deleted deployments and their partitions are not given again.
    #[test]
    fn topics_in_use() {
        let mut image = image();
        let create = DeployAsk::Create { name: "d".into(), spec: spec("t@1.0.0", &["other"]) };
        run(&mut image, create.clone()).unwrap();
        let first = image.deployment("d").unwrap().clone();
        for name in ["in", "other"] {
            let refused = run(&mut image, Ask::Delete { name: name.into() });
            assert!(matches!(deploy_error(refused), DeployError::TopicInUse { .. }));
        }
        let change = TopicChange { partitions: Some(9), ..TopicChange::default() };
        let grow = |name: &str| Ask::Alter { name: name.into(), change: change.clone() };
        let refused = run(&mut image, grow("in"));
        assert!(matches!(deploy_error(refused), DeployError::Partitions { .. }));
        run(&mut image, grow("other")).unwrap();
        run(&mut image, DeployAsk::Delete { name: "d".into() }).unwrap();
        run(&mut image, create).unwrap();
        let second = image.deployment("d").unwrap();
        assert!(second.id > first.id);
        assert!(second.partitions.iter().all(|p| !first.partitions.contains(p)));
    }
}
