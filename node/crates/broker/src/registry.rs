//! The topics and partitions of the node, and what happens to them.

mod errors;

use crate::cluster::ClusterNode;
use crate::partition::{ALONE, Partition};
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use weir_core::controller::{Command, Done};
use weir_core::deploy::Deployment;
use weir_core::ids::{Incarnation, NodeId};
use weir_core::metadata::{Ask, Change, DeployAsk, GROUPS_PARTITION, Image, Topic};
use weir_core::module::Module;
use weir_core::module::name::ModuleRef;
use weir_core::partition::assignment::Lead;
use weir_core::partition::view::PartitionView;
use weir_core::topic::TopicConfig;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, PartitionId, PartitionIndex, TimestampMs, TopicId};
use weir_log::{Log, Retention};

pub use errors::{metadata_error, store_error};

/// How long a change that the controllers decided may take until this node has heard of it.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(2);

/// All topics and partitions.
///
/// Changes go through [`Registry::change`], one at a time; readers never wait for a disk.
#[derive(Debug)]
pub struct Registry {
    store: Arc<Store>,
    log: Arc<Log>,
    /// Who decides changes, where it is not this node alone.
    cluster: Option<Arc<ClusterNode>>,
    /// The version of the controllers' word that was adopted last.
    adopted: watch::Sender<Option<u64>>,
    /// How often topics may have changed.
    version: AtomicU64,
    /// Serialises changes: held across the metadata write, which readers need not wait for.
    changing: tokio::sync::Mutex<()>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    image: Image,
    standing: Standing,
    /// What the log held at the start of partitions that are not known yet.
    views: HashMap<PartitionId, PartitionView>,
    by_id: HashMap<PartitionId, Arc<Partition>>,
    by_index: HashMap<(TopicId, PartitionIndex), Arc<Partition>>,
}

/// What this node is to its partitions.
#[derive(Clone, Copy, Debug)]
enum Standing {
    /// It leads them all, new ones in this epoch.
    Alone(LeaderEpoch),
    /// The controllers say, of this life of it.
    Member(Lead),
}

impl Registry {
    /// Takes the lead of every partition in `image`, in `epoch`, from what the log holds of it.
    /// Partitions in the log that no topic has (a deletion was cut off) are deleted.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        log: Arc<Log>,
        image: Image,
        epoch: LeaderEpoch,
        views: &HashMap<PartitionId, PartitionView>,
    ) -> Registry {
        let mut state = State::new(image, Standing::Alone(epoch), views.clone());
        let topics: Vec<Topic> = state.image.topics().cloned().collect();
        for topic in &topics {
            state.hold(&log, topic);
        }
        // The rest is of deleted topics.
        state.views.clear();
        Registry::with(store, log, None, state)
    }

    /// Knows of nothing until the controllers have spoken; then of what they say. `views` is what
    /// the log holds.
    #[must_use]
    pub fn of_cluster(
        store: Arc<Store>,
        log: Arc<Log>,
        cluster: Arc<ClusterNode>,
        views: &HashMap<PartitionId, PartitionView>,
    ) -> Registry {
        let me = Lead { node: cluster.me(), incarnation: Incarnation(0) };
        let mut views = views.clone();
        views.remove(&GROUPS_PARTITION);
        let state = State::new(Image::default(), Standing::Member(me), views);
        Registry::with(store, log, Some(cluster), state)
    }

    fn with(
        store: Arc<Store>,
        log: Arc<Log>,
        cluster: Option<Arc<ClusterNode>>,
        state: State,
    ) -> Registry {
        Registry {
            store,
            log,
            cluster,
            adopted: watch::Sender::new(None),
            version: AtomicU64::new(1),
            changing: tokio::sync::Mutex::new(()),
            state: RwLock::new(state),
        }
    }

    /// Tells the log each topic's retention, and to drop what no topic has. To be called once the
    /// log is started.
    pub fn settle_log(&self, views: &HashMap<PartitionId, PartitionView>) {
        if self.cluster.is_some() {
            // The controllers say what there is, and only of what is led here is anything trimmed.
            return;
        }
        let state = self.read();
        for topic in state.image.topics() {
            for &partition in &topic.partitions {
                self.log.set_retention(partition, retention(&topic.config));
            }
        }
        let orphan = |id: &&PartitionId| **id != GROUPS_PARTITION && !state.by_id.contains_key(*id);
        for &id in views.keys().filter(orphan) {
            tracing::info!(partition = %id, "dropping a partition whose topic was deleted");
            if let Err(error) = self.log.delete_partition(id) {
                tracing::warn!(partition = %id, %error, "the partition stays until the next start");
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the node knows what there is: a node of a cluster has to hear it first.
    #[must_use]
    pub fn is_informed(&self) -> bool {
        self.cluster.is_none() || self.adopted.borrow().is_some()
    }

    /// Why there is no such partition. What a node of a cluster has not heard of yet may be there
    /// all the same.
    #[must_use]
    pub fn unknown(&self, topic: TopicId, index: PartitionIndex) -> WireError {
        let state = self.read();
        let (next, _) = state.image.counters();
        if self.cluster.is_some() && topic.0 >= next {
            let message = "this node has not heard of the topic yet; try again";
            return WireError::new(ErrorCode::NotLeader, message);
        }
        if state.by_index.contains_key(&(topic, PartitionIndex(0))) {
            let message = format!("the topic has no partition {index}");
            return WireError::new(ErrorCode::UnknownPartition, message);
        }
        let message = format!("there is no topic with id {topic} (any more)");
        WireError::new(ErrorCode::UnknownTopic, message)
    }

    /// The partition of this topic and index.
    #[must_use]
    pub fn partition(&self, topic: TopicId, index: PartitionIndex) -> Option<Arc<Partition>> {
        self.read().by_index.get(&(topic, index)).cloned()
    }

    /// The partition with this number in storage.
    #[must_use]
    pub fn partition_by_id(&self, id: PartitionId) -> Option<Arc<Partition>> {
        self.read().by_id.get(&id).cloned()
    }

    /// All partitions, in no order.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.read().by_id.values().cloned().collect()
    }

    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Topic> {
        self.read().image.topic(name).cloned()
    }

    /// Looks at all there is at one moment. Must not wait for anything.
    pub fn look<R>(&self, at: impl FnOnce(&Image) -> R) -> R {
        at(&self.read().image)
    }

    /// Another number, at least 1, whenever topics may have changed.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.read().image.topics().cloned().collect()
    }

    /// The module of this name and version.
    #[must_use]
    pub fn module(&self, id: &ModuleRef) -> Option<Module> {
        self.read().image.module(id).cloned()
    }

    /// All modules, by name and version.
    #[must_use]
    pub fn modules(&self) -> Vec<Module> {
        self.read().image.modules().cloned().collect()
    }

    /// The deployment of this name.
    #[must_use]
    pub fn deployment(&self, name: &str) -> Option<Deployment> {
        self.read().image.deployment(name).cloned()
    }

    /// All deployments, by name.
    #[must_use]
    pub fn deployments(&self) -> Vec<Deployment> {
        self.read().image.deployments().cloned().collect()
    }

    /// The name of a topic.
    #[must_use]
    pub fn topic_name(&self, id: TopicId) -> Option<Arc<str>> {
        let state = self.read();
        let first = state.by_index.get(&(id, PartitionIndex(0)))?;
        Some(first.topic_name.clone())
    }

    /// Changes a topic. Returns it as it is after the change, or as it was if it is gone.
    ///
    /// # Errors
    /// [`WireError`]: refused, or the disk failed.
    ///
    /// # Cancel safety
    /// Not cancel safe by itself: run it in a task of its own, so that a durable change is always
    /// applied.
    pub async fn change(&self, now: TimestampMs, ask: Ask) -> Result<Topic, WireError> {
        let before = match &ask {
            Ask::Delete { name } => self.topic(name),
            _ => None,
        };
        match self.decide(now, ask).await? {
            Change::Put(topic) => Ok(topic),
            _ => before.ok_or_else(|| WireError::new(ErrorCode::UnknownTopic, "it is gone")),
        }
    }

    /// Whether a module could be made known, as far as this node knows.
    ///
    /// # Errors
    /// As [`Registry::change`].
    pub fn may_put_module(&self, now: TimestampMs, module: &Module) -> Result<(), WireError> {
        let ask = Ask::PutModule(module.clone());
        self.read().image.decide(now, &ask).map(|_| ()).map_err(metadata_error)
    }

    /// Makes a module known. Returns it as it is known.
    ///
    /// # Errors
    /// As [`Registry::change`].
    ///
    /// # Cancel safety
    /// As [`Registry::change`].
    pub async fn put_module(&self, now: TimestampMs, module: Module) -> Result<Module, WireError> {
        match self.decide(now, Ask::PutModule(module.clone())).await? {
            Change::PutModule(known) => Ok(known),
            _ => Ok(module),
        }
    }

    /// Forgets a module version. Returns it as it was.
    ///
    /// # Errors
    /// As [`Registry::change`].
    ///
    /// # Cancel safety
    /// As [`Registry::change`].
    pub async fn remove_module(
        &self,
        now: TimestampMs,
        id: ModuleRef,
    ) -> Result<Option<Module>, WireError> {
        let before = self.module(&id);
        self.decide(now, Ask::RemoveModule(id)).await?;
        Ok(before)
    }

    /// Changes a deployment. Returns it as it is then; `None` if it is gone.
    ///
    /// # Errors
    /// As [`Registry::change`].
    ///
    /// # Cancel safety
    /// As [`Registry::change`].
    pub async fn deploy(
        &self,
        now: TimestampMs,
        ask: DeployAsk,
    ) -> Result<Option<Deployment>, WireError> {
        match self.decide(now, ask.into()).await? {
            Change::PutDeployment { deployment, .. } => Ok(Some(*deployment)),
            _ => Ok(None),
        }
    }

    /// Decides a change, makes it durable and applies it.
    async fn decide(&self, now: TimestampMs, ask: Ask) -> Result<Change, WireError> {
        if let Some(cluster) = &self.cluster {
            return match cluster.submit(Command::Metadata { now, ask }).await? {
                Done::Metadata(change) => {
                    self.wait_for(&change).await;
                    cluster.inform_others().await;
                    Ok(change)
                }
                _ => {
                    let message = "the controller answered another question";
                    Err(WireError::new(ErrorCode::Internal, message))
                }
            };
        }
        let _one_at_a_time = self.changing.lock().await;
        let (change, after) = {
            let state = self.read();
            let change = state.image.decide(now, &ask).map_err(metadata_error)?;
            let mut next = state.image.clone();
            next.apply(&change);
            (change, next.counters())
        };
        let store = self.store.clone();
        let durable = {
            let change = change.clone();
            tokio::task::spawn_blocking(move || store.write_change(&change, after)).await
        };
        match durable {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(store_error(&error)),
            Err(panic) => return Err(WireError::unknown(ErrorCode::Internal, panic.to_string())),
        }
        self.apply(&change);
        Ok(change)
    }

    fn apply(&self, change: &Change) {
        let (led, gone): (&[Topic], Option<&String>) = match change {
            Change::Put(topic) => (std::slice::from_ref(topic), None),
            Change::PutDeployment { topics, .. } => (topics, None),
            Change::Removed { name } => (&[], Some(name)),
            Change::RemovedDeployment { outbox, .. } => (&[], outbox.as_ref()),
            Change::PutModule(_) | Change::RemovedModule(_) => (&[], None),
        };
        let mut removed = Vec::new();
        {
            let mut state = self.write();
            let gone = gone.and_then(|name| state.image.topic(name).cloned());
            state.image.apply(change);
            self.version.fetch_add(1, Ordering::Release);
            for topic in led {
                state.hold(&self.log, topic);
            }
            for id in gone.iter().flat_map(|topic| &topic.partitions) {
                removed.extend(state.remove(*id));
            }
        }
        for topic in led {
            for &partition in &topic.partitions {
                self.log.set_retention(partition, retention(&topic.config));
            }
        }
        self.delete(removed);
    }

    fn delete(&self, removed: Vec<Arc<Partition>>) {
        for partition in removed {
            partition.handle_deleted();
            if let Err(error) = self.log.delete_partition(partition.id) {
                tracing::warn!(partition = %partition.id, %error,
                    "the deleted topic's bytes stay on disk until the next start");
            }
        }
    }

    /// Knows what the controllers say, in this life of the node. Whether that is anything new.
    pub fn adopt(&self, image: &Image, version: u64, life: Incarnation) -> bool {
        let mut orphans = Vec::new();
        let removed: Vec<Arc<Partition>> = {
            let mut guard = self.write();
            let state = &mut *guard;
            if let Standing::Member(me) = &mut state.standing {
                me.incarnation = life;
            }
            if state.image == *image && state.views.is_empty() && self.adopted.borrow().is_some() {
                drop(guard);
                self.adopted.send_replace(Some(version));
                return false;
            }
            state.image = image.clone();
            self.version.fetch_add(1, Ordering::Release);
            for topic in image.topics() {
                state.hold(&self.log, topic);
            }
            let named: HashSet<PartitionId> =
                image.topics().flat_map(|topic| topic.partitions.iter().copied()).collect();
            let gone: Vec<_> =
                state.by_id.keys().filter(|id| !named.contains(id)).copied().collect();
            // An image may be older than the log; ids that it has not given out are of a newer one.
            let (_, next) = image.counters();
            let given = |id: &PartitionId| id.0 < next;
            orphans.extend(state.views.keys().filter(|id| given(id)).copied());
            for orphan in &orphans {
                state.views.remove(orphan);
            }
            gone.into_iter().filter_map(|id| state.remove(id)).collect()
        };
        self.delete(removed);
        for id in orphans {
            tracing::info!(partition = %id, "dropping a partition whose topic was deleted");
            if let Err(error) = self.log.delete_partition(id) {
                tracing::warn!(partition = %id, %error, "the partition stays until the next start");
            }
        }
        self.adopted.send_replace(Some(version));
        true
    }

    /// The version of the controllers' word that this node goes by; changes can be awaited.
    #[must_use]
    pub fn adopted(&self) -> watch::Receiver<Option<u64>> {
        self.adopted.subscribe()
    }

    /// Until this node has heard of a change, or for a while.
    async fn wait_for(&self, change: &Change) {
        let mut adopted = self.adopted.subscribe();
        let heard = async {
            loop {
                adopted.borrow_and_update();
                let known = match change {
                    Change::Put(topic) => self.topic(&topic.name).is_some_and(|t| t == *topic),
                    Change::Removed { name } => self.topic(name).is_none(),
                    Change::PutModule(module) => self.module(&module.id).is_some(),
                    Change::RemovedModule(id) => self.module(id).is_none(),
                    Change::PutDeployment { deployment, .. } => {
                        self.deployment(&deployment.name).is_some_and(|d| d == **deployment)
                    }
                    Change::RemovedDeployment { name, .. } => self.deployment(name).is_none(),
                };
                if known || adopted.changed().await.is_err() {
                    return;
                }
            }
        };
        // Others may have changed it again meanwhile: then it is never seen as it was.
        let _ = timeout(ADOPTION_PATIENCE, heard).await;
    }

    /// Has the log keep what each topic asks for where this node leads. Elsewhere the leader says
    /// where the log begins.
    pub fn settle_retention(&self, me: NodeId) {
        let state = self.read();
        for topic in state.image.topics() {
            for id in &topic.partitions {
                let Some(partition) = state.by_id.get(id) else { continue };
                let led = partition.leader().is_some_and(|leader| leader.node == me);
                let keep = if led { retention(&topic.config) } else { Retention::default() };
                self.log.set_retention(*id, keep);
            }
        }
    }

    /// Goes on after a shard's log was reopened: its partitions lead again in a fresh epoch.
    pub fn recover(
        &self,
        epoch: LeaderEpoch,
        concerned: impl Fn(PartitionId) -> bool,
        views: &HashMap<PartitionId, PartitionView>,
    ) {
        let empty = PartitionView::default();
        let partitions: Vec<_> = {
            let mut state = self.write();
            if let Standing::Alone(newest) = &mut state.standing {
                *newest = (*newest).max(epoch);
            }
            state.by_id.values().filter(|p| concerned(p.id)).cloned().collect()
        };
        for partition in partitions {
            let view = views.get(&partition.id).unwrap_or(&empty);
            match self.cluster {
                None => partition.lead_alone(epoch, view),
                Some(_) => partition.handle_recovered(view),
            }
        }
    }
}

impl State {
    fn new(image: Image, standing: Standing, views: HashMap<PartitionId, PartitionView>) -> State {
        State { image, standing, views, by_id: HashMap::new(), by_index: HashMap::new() }
    }

    /// As whom this node holds partitions.
    fn me(&self) -> Lead {
        match self.standing {
            Standing::Alone(_) => ALONE,
            Standing::Member(me) => Lead { incarnation: Incarnation(0), ..me },
        }
    }

    fn remove(&mut self, id: PartitionId) -> Option<Arc<Partition>> {
        let partition = self.by_id.remove(&id)?;
        self.by_index.remove(&(partition.topic, partition.index));
        Some(partition)
    }

    /// Makes the partitions of `topic` that are not there yet, and leads them if nobody else says
    /// who does; passes its settings to the others.
    fn hold(&mut self, log: &Arc<Log>, topic: &Topic) {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for (index, &id) in topic.partitions.iter().enumerate() {
            let index = PartitionIndex(index as u32);
            if let Some(known) = self.by_id.get(&id) {
                known.set_config(&topic.config);
                continue;
            }
            let view = self.views.remove(&id).unwrap_or_default();
            let place = (topic.id, name.clone(), index);
            let partition = Partition::new(id, place, &topic.config, self.me(), (log, &view));
            match self.standing {
                Standing::Alone(epoch) => partition.lead_alone(epoch, &view),
                Standing::Member(me) => partition.handle_registered(me.incarnation),
            }
            let partition = Arc::new(partition);
            self.by_index.insert((topic.id, index), partition.clone());
            self.by_id.insert(id, partition);
        }
    }
}

/// What the log is to keep of a partition of a topic with this configuration.
fn retention(config: &TopicConfig) -> Retention {
    Retention {
        age_ms: config.retention_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        bytes: config.retention_bytes,
        min_bytes: config.retention_min_bytes,
    }
}
