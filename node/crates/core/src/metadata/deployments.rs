//! Deployments in the metadata state machine.

use super::{Change, Image, MetadataError, Topic};
use crate::deploy::{
    self, DeployError, Deployment, DeploymentId, DeploymentKind, DeploymentSpec, Mode, OnError,
    Version,
};
use crate::ids::{Offset, PartitionId, PartitionIndex, TimestampMs, TopicId};
use crate::limits;
use crate::module::ModuleError;
use crate::module::name::ModuleRef;
use crate::topic::TopicConfig;
use serde::{Deserialize, Serialize};

/// What an operator asks of deployments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeployAsk {
    /// Create a deployment, with its outbox and dead-letter topic where it needs them.
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
    /// Run another version.
    Replace {
        /// Its name.
        name: String,
        /// The version; `None`: the one before.
        version: Option<Version>,
        /// Partitions whose state goes back to a snapshot.
        restore: Vec<(PartitionIndex, Offset)>,
    },
    /// Let a deployment end: its lanes read no more. The first step of deleting it.
    End {
        /// Its name.
        name: String,
    },
    /// Delete a deployment and its outbox; its outputs and dead letters stay.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Topics that a deployment makes, with ids in turn.
struct Fresh<'a> {
    image: &'a Image,
    now: TimestampMs,
    next_topic: u32,
    next_partition: u32,
    topics: Vec<Topic>,
}

impl Fresh<'_> {
    fn topic(&mut self, name: String, config: TopicConfig) -> Result<(), MetadataError> {
        let made: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let all = self.image.partitions + made + config.partitions as usize;
        let topics = self.image.topics.len() + self.topics.len();
        let end = self.next_partition.checked_add(config.partitions);
        let end = end.filter(|_| all <= limits::NODE_PARTITIONS_MAX);
        let end = end.filter(|_| topics < limits::NODE_TOPICS_MAX).ok_or(MetadataError::Limit)?;
        self.topics.push(Topic {
            id: TopicId(self.next_topic),
            name,
            partitions: (self.next_partition..end).map(PartitionId).collect(),
            config,
            created_at: self.now,
        });
        self.next_topic += 1;
        self.next_partition = end;
        Ok(())
    }
}

impl Image {
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
        let deployment = match ask {
            DeployAsk::Create { name, spec } => return self.create_deployment(now, name, spec),
            DeployAsk::Pause { name, paused } => {
                let known = self.going_deployment(name)?.clone();
                let resumes = known.resumes.wrapping_add(u32::from(!*paused));
                Deployment { paused: *paused, resumes, ..known }
            }
            DeployAsk::End { name } => {
                Deployment { ending: true, ..self.known_deployment(name)?.clone() }
            }
            DeployAsk::Replace { name, version, restore } => {
                let mut deployment = self.going_deployment(name)?.clone();
                let before = || {
                    let previous = deployment.previous.clone();
                    previous.ok_or_else(|| DeployError::NoPrevious(name.clone()))
                };
                let wanted = version.clone().map_or_else(before, Ok)?;
                wanted.check()?;
                self.runs_as(deployment.spec.kind, &wanted.module)?;
                if wanted != deployment.spec.version {
                    let was = std::mem::replace(&mut deployment.spec.version, wanted);
                    deployment.previous = Some(was);
                } else if restore.is_empty() {
                    let deployment = Box::new(deployment);
                    return Ok(Change::PutDeployment { deployment, topics: Vec::new() });
                }
                deployment.takeovers += 1;
                deployment.restore.clone_from(restore);
                deployment
            }
            DeployAsk::Delete { name } => {
                let outbox = self.known_deployment(name)?.outbox_topic();
                return Ok(Change::RemovedDeployment { name: name.clone(), outbox });
            }
        };
        let deployment = Box::new(deployment);
        Ok(Change::PutDeployment { deployment, topics: Vec::new() })
    }

    fn create_deployment(
        &self,
        now: TimestampMs,
        name: &str,
        spec: &DeploymentSpec,
    ) -> Result<Change, MetadataError> {
        deploy::check_name(name)?;
        spec.check()?;
        if self.deployments.contains_key(name) {
            return Err(DeployError::Exists(name.to_owned()).into());
        }
        self.runs_as(spec.kind, &spec.version.module)?;
        let input = self.user_topic(&spec.from)?;
        let lanes: usize = self.deployments().map(|d| self.lanes(d)).sum();
        if self.deployments.len() >= limits::NODE_DEPLOYMENTS_MAX
            || lanes + input.partitions.len() > limits::NODE_LANES_MAX
        {
            return Err(DeployError::Limit.into());
        }
        spec.log_topic.iter().try_for_each(|topic| self.user_topic(topic).map(drop))?;
        let outputs = spec.to.iter().map(|topic| self.user_topic(topic));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let deployment = Deployment {
            id: DeploymentId(self.next_topic),
            name: name.to_owned(),
            spec: spec.clone(),
            mode: self.mode_of(spec, input, &outputs),
            paused: false,
            previous: None,
            takeovers: 0,
            restore: Vec::new(),
            resumes: 0,
            ending: false,
            created_at: now,
        };
        let (next_topic, next_partition) = (self.next_topic + 1, self.next_partition);
        let mut fresh = Fresh { image: self, now, next_topic, next_partition, topics: Vec::new() };
        // What comes of an input is kept as safely as the input.
        let TopicConfig { partitions, replicas, min_insync, .. } = input.config;
        let like_input = TopicConfig { partitions, replicas, min_insync, ..TopicConfig::default() };
        if let Some(outbox) = deployment.outbox_topic() {
            // What every destination has is trimmed; nothing else may go.
            let config = TopicConfig { retention_ms: None, ..like_input.clone() };
            fresh.topic(outbox, config)?;
        }
        if let Some(dead) = deployment.dead_letter_topic().filter(|t| self.topic(t).is_none()) {
            crate::topic::check_name(&dead)?;
            fresh.topic(dead, like_input)?;
        }
        let topics = fresh.topics;
        Ok(Change::PutDeployment { deployment: Box::new(deployment), topics })
    }

    /// Direct where one entry in the output can hold all that comes of a batch, and no other
    /// deployment keeps its state there.
    fn mode_of(&self, spec: &DeploymentSpec, input: &Topic, outputs: &[&Topic]) -> Mode {
        if spec.kind == DeploymentKind::Consumer {
            return Mode::Outbox;
        }
        let same = matches!(outputs, [one] if one.partitions.len() == input.partitions.len());
        let taken = |d: &Deployment| d.mode == Mode::Direct && d.spec.to.first() == spec.to.first();
        match same && spec.on_error != OnError::DeadLetter && !self.deployments().any(taken) {
            true => Mode::Direct,
            false => Mode::Outbox,
        }
    }

    fn lanes(&self, deployment: &Deployment) -> usize {
        self.topic(&deployment.spec.from).map_or(0, |input| input.partitions.len())
    }

    fn user_topic(&self, name: &str) -> Result<&Topic, DeployError> {
        let topic = self.topic(name).filter(|_| !deploy::is_internal(name));
        topic.ok_or_else(|| DeployError::UnknownTopic(name.to_owned()))
    }

    fn known_deployment(&self, name: &str) -> Result<&Deployment, DeployError> {
        self.deployment(name).ok_or_else(|| DeployError::Unknown(name.to_owned()))
    }

    /// One that is not being deleted.
    fn going_deployment(&self, name: &str) -> Result<&Deployment, DeployError> {
        let known = self.known_deployment(name)?;
        if known.ending { Err(DeployError::Ending(name.to_owned())) } else { Ok(known) }
    }

    fn runs_as(&self, kind: DeploymentKind, id: &ModuleRef) -> Result<(), DeployError> {
        let module = self.module(id).ok_or_else(|| ModuleError::Unknown(id.clone()))?;
        if module.kind == kind.module() {
            return Ok(());
        }
        let (module, is) = (id.clone(), module.kind.name());
        Err(DeployError::Kind { module, is, wanted: kind.name() })
    }

    pub(super) fn may_remove_module(&self, id: &ModuleRef) -> Result<(), DeployError> {
        let runs = |d: &&Deployment| {
            d.spec.version.module == *id || d.previous.as_ref().is_some_and(|p| p.module == *id)
        };
        self.deployments().find(runs).map_or(Ok(()), |user| {
            let (module, deployment) = (id.clone(), user.name.clone());
            Err(DeployError::ModuleInUse { module, deployment })
        })
    }

    pub(super) fn may_remove_topic(&self, name: &str) -> Result<(), DeployError> {
        self.deployments().find(|d| d.uses(name)).map_or(Ok(()), |user| {
            let (topic, deployment) = (name.to_owned(), user.name.clone());
            Err(DeployError::TopicInUse { topic, deployment })
        })
    }

    /// More partitions put keys elsewhere: what goes partition by partition would mix them up.
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
        // Deployments share the topics' ids: one counter to keep.
        self.raise_counters(deployment.id.0 + 1, 0);
        self.deployments.insert(deployment.name.clone(), deployment.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ask;
    use super::*;
    use crate::module::{Module, ModuleKind};
    use crate::topic::TopicChange;

    fn version(module: &str) -> Version {
        Version { module: module.parse().unwrap(), params: [].into() }
    }

    fn spec(module: &str, to: &[&str]) -> DeploymentSpec {
        DeploymentSpec {
            kind: DeploymentKind::Transform,
            version: version(module),
            from: "in".into(),
            to: to.iter().map(|t| (*t).to_owned()).collect(),
            on_error: OnError::Skip,
            dead_letter: None,
            from_latest: false,
            retries: 0,
            lateness_ms: 0,
            cpu_percent: 0,
            log_topic: None,
            http: None,
        }
    }

    fn run(image: &mut Image, ask: impl Into<Ask>) -> Result<Change, MetadataError> {
        let change = image.decide(TimestampMs(1), &ask.into())?;
        image.apply(&change);
        Ok(change)
    }

    fn create(name: &str, to: &[&str]) -> DeployAsk {
        DeployAsk::Create { name: name.into(), spec: spec("t@1.0.0", to) }
    }

    fn image() -> Image {
        let mut image = Image::default();
        for (name, partitions) in [("in", 3), ("same", 3), ("other", 2)] {
            let config = TopicConfig { partitions, ..TopicConfig::default() };
            run(&mut image, Ask::Create { name: name.into(), config }).unwrap();
        }
        let modules = [
            ("t@1.0.0", ModuleKind::Transform),
            ("t@1.1.0", ModuleKind::Transform),
            ("f@1.0.0", ModuleKind::Filter),
            ("c@1.0.0", ModuleKind::Consumer),
        ];
        for (id, kind) in modules {
            let module = Module {
                id: id.parse().unwrap(),
                kind,
                sha256: id.into(),
                bytes: 1,
                about: String::new(),
                created_at: TimestampMs(0),
            };
            run(&mut image, Ask::PutModule(module)).unwrap();
        }
        image
    }

    fn deploy_error<T: std::fmt::Debug>(result: Result<T, MetadataError>) -> DeployError {
        match result {
            Err(MetadataError::Deploy(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Goal: the mode follows topics and policy, and topics of its own come and go with a
    /// deployment.
    #[test]
    fn modes() {
        let mut image = image();
        run(&mut image, create("direct", &["same"])).unwrap();
        run(&mut image, create("second", &["same"])).unwrap();
        run(&mut image, create("fan", &["same", "other"])).unwrap();
        run(&mut image, create("rekey", &["other"])).unwrap();
        let mut dead = spec("t@1.0.0", &["same"]);
        dead.on_error = OnError::DeadLetter;
        run(&mut image, DeployAsk::Create { name: "dead".into(), spec: dead }).unwrap();
        let mode = |image: &Image, name: &str| image.deployment(name).unwrap().mode;
        assert_eq!(mode(&image, "direct"), Mode::Direct);
        for name in ["second", "fan", "rekey", "dead"] {
            assert_eq!(mode(&image, name), Mode::Outbox, "{name}");
            let outbox = image.topic(&format!("__outbox.{name}")).unwrap();
            assert_eq!((outbox.partitions.len(), outbox.config.retention_ms), (3, None));
        }
        assert_eq!(image.topic("dead.dead-letter").unwrap().partitions.len(), 3);
        let mut ids: Vec<u32> = image.topics().map(|t| t.id.0).collect();
        ids.extend(image.deployments().map(|d| d.id.0));
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
        run(&mut image, DeployAsk::Delete { name: "dead".into() }).unwrap();
        assert_eq!(image.topic("__outbox.dead"), None);
        assert!(image.topic("dead.dead-letter").is_some());
        let internal = Ask::Delete { name: "__outbox.fan".into() };
        assert!(matches!(run(&mut image, internal), Err(MetadataError::Topic(_))));
    }

    /// Goal: a consumer may do without outputs, has an outbox whatever they are, and neither kind
    /// takes the other's modules or settings.
    #[test]
    fn consumers() {
        let mut image = image();
        let consumer =
            |to: &[&str]| DeploymentSpec { kind: DeploymentKind::Consumer, ..spec("c@1.0.0", to) };
        let create = |spec| DeployAsk::Create { name: "c".into(), spec };
        for to in [&[][..], &["same"]] {
            run(&mut image, create(consumer(to))).unwrap();
            assert_eq!(image.deployment("c").unwrap().mode, Mode::Outbox);
            assert_eq!(image.topic("__outbox.c").unwrap().partitions.len(), 3);
            let to_filter = DeployAsk::Replace {
                name: "c".into(),
                version: Some(version("t@1.0.0")),
                restore: vec![],
            };
            let refused = deploy_error(run(&mut image, to_filter));
            assert_eq!(refused.to_string(), "t@1.0.0 is a transform, not a consumer");
            run(&mut image, DeployAsk::Delete { name: "c".into() }).unwrap();
        }
        let http = Some(crate::deploy::http::HttpGrant::of("example.com").unwrap());
        let retries = DeploymentSpec { retries: 3, ..consumer(&[]) };
        assert!(matches!(retries.check(), Err(DeployError::NoRetries)));
        let granted = DeploymentSpec { http: http.clone(), ..consumer(&[]) };
        assert_eq!(granted.check(), Ok(()));
        for (refused, error) in [
            (spec("c@1.0.0", &["same"]), "c@1.0.0 is a consumer, not a transform"),
            (DeploymentSpec { http, ..spec("t@1.0.0", &["same"]) }, "only consumers"),
            (spec("t@1.0.0", &[]), "1 to 16"),
        ] {
            let refused = deploy_error(run(&mut image, create(refused))).to_string();
            assert!(refused.contains(error), "{refused}");
        }
    }

    /// Goal: replacing and rolling back change places; what cannot run is refused.
    #[test]
    fn versions() {
        let mut image = image();
        run(&mut image, create("d", &["same"])).unwrap();
        let replace = |module: Option<&str>| DeployAsk::Replace {
            name: "d".into(),
            version: module.map(version),
            restore: Vec::new(),
        };
        let refused = run(&mut image, replace(None));
        assert!(matches!(deploy_error(refused), DeployError::NoPrevious(_)));
        run(&mut image, replace(Some("t@1.1.0"))).unwrap();
        run(&mut image, replace(None)).unwrap();
        let d = image.deployment("d").unwrap();
        assert_eq!(d.spec.version, version("t@1.0.0"));
        assert_eq!(d.previous, Some(version("t@1.1.0")));
        let refused = run(&mut image, replace(Some("f@1.0.0")));
        assert!(matches!(deploy_error(refused), DeployError::Kind { .. }));
        for id in ["t@1.0.0", "t@1.1.0"] {
            let refused = run(&mut image, Ask::RemoveModule(id.parse().unwrap()));
            assert!(matches!(deploy_error(refused), DeployError::ModuleInUse { .. }));
        }
        run(&mut image, DeployAsk::Delete { name: "d".into() }).unwrap();
        run(&mut image, Ask::RemoveModule("t@1.0.0".parse().unwrap())).unwrap();
        let refused = run(&mut image, create("x", &["nowhere"]));
        assert!(matches!(deploy_error(refused), DeployError::Module(_)));
    }

    /// Goal: topics that are in use neither go nor grow where that would mix up keys; ids of
    /// deleted deployments and their partitions are not given again.
    #[test]
    fn topics_in_use() {
        let mut image = image();
        run(&mut image, create("d", &["other"])).unwrap();
        let ids = |image: &Image| {
            let outbox = image.topic("__outbox.d").unwrap().clone();
            (image.deployment("d").unwrap().id, outbox.partitions)
        };
        let first = ids(&image);
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
        run(&mut image, create("d", &["other"])).unwrap();
        let second = ids(&image);
        assert!(second.0 > first.0);
        assert!(second.1.iter().all(|p| !first.1.contains(p)));
        let refused = run(&mut image, create("x", &["nowhere"]));
        assert!(matches!(deploy_error(refused), DeployError::UnknownTopic(_)));
        let refused = run(&mut image, create("x", &["in"]));
        assert!(matches!(deploy_error(refused), DeployError::Loop(_)));
        let refused = run(&mut image, create("x", &["same", "same"]));
        assert!(matches!(deploy_error(refused), DeployError::Outputs));
        let refused = run(&mut image, create("__x", &["same"]));
        assert!(matches!(deploy_error(refused), DeployError::Name(_)));
    }
}
