//! Deployments at work: which lanes run, with which orders, and what becomes of them.
//!
//! `weir_core::deploy` says what makes them exactly once. Here a [`lane`] turns input into entries
//! of its home, and a [`distributor`] carries what is in an outbox to its destinations. Both run
//! on a thread of their own beside the network's; modules run on the threads for guests.

mod append;
mod distributor;
mod entry;
pub mod http;
mod kept;
mod lane;
mod log;
mod meter;
mod read;
pub mod requests;
pub mod state;
mod takeover;
mod thread;
mod versions;

use crate::broker::Shared;
use crate::partition::Partition;
use distributor::Distributor;
use http::{Outgoing, SystemTrust};
use lane::LaneTask;
use log::ModuleLog;
use meter::Meter;
use state::{States, lock};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use versions::{Asked, Restore, check_version};
use weir_core::deploy::keys::{Lane, Runs};
use weir_core::deploy::{DeployError, Deployment, DeploymentSpec, Mode, Version};
use weir_core::limits;
use weir_core::metadata::{DeployAsk, Topic};
use weir_core::partition::view::PartitionView;
use weir_core::wire::deployments::{DeploymentInfo, DeploymentStatus, LaneInfo, ModuleLine};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{PartitionId, PartitionIndex};
use weir_transport::HttpsError;

pub use thread::DeployThread;

/// How long deleting waits until what was computed is delivered.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// What a lane and its distributor are told.
#[derive(Clone, Debug)]
pub struct Orders {
    /// What they are part of, in its present version.
    pub deployment: Arc<Deployment>,
    /// The lane ends.
    pub ended: bool,
    /// The lane has ended: the distributor ends once all is delivered.
    pub drained: bool,
    /// The distributor ends, whatever is left.
    pub abandoned: bool,
}

/// All deployments of the node.
#[derive(Debug)]
pub struct Deployments {
    states: Arc<States>,
    thread: tokio::runtime::Handle,
    /// Lanes that hold a batch in memory.
    at_work: Arc<Semaphore>,
    /// Those of consumers that may wait for servers.
    at_work_http: Arc<Semaphore>,
    /// Distributors that do.
    distributing: Arc<Semaphore>,
    running: Mutex<BTreeMap<String, Running>>,
    /// Whom the system trusts, for consumers that send requests.
    trust: SystemTrust,
    /// One change at a time: a change is a few steps.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Running {
    orders: watch::Sender<Orders>,
    log: Arc<ModuleLog>,
    lanes: Vec<(Lane, PartitionId, Arc<Meter>)>,
    working: TaskTracker,
    distributing: TaskTracker,
}

impl Deployments {
    /// From what the log says; nothing runs before [`Deployments::start`].
    #[must_use]
    pub fn new(
        views: &HashMap<PartitionId, PartitionView>,
        thread: tokio::runtime::Handle,
    ) -> Deployments {
        Deployments {
            states: Arc::new(States::new(views)),
            thread,
            at_work: Arc::new(Semaphore::new(limits::LANES_AT_WORK_MAX)),
            at_work_http: Arc::new(Semaphore::new(limits::HTTP_LANES_AT_WORK_MAX)),
            distributing: Arc::new(Semaphore::new(limits::LANES_AT_WORK_MAX)),
            running: Mutex::default(),
            trust: SystemTrust::default(),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    /// What the log says of lanes.
    #[must_use]
    pub fn states(&self) -> &Arc<States> {
        &self.states
    }

    /// The thread beside the network's, for what computes and waits.
    #[must_use]
    pub fn thread(&self) -> &tokio::runtime::Handle {
        &self.thread
    }

    /// Whose turns a lane of `deployment` takes.
    fn at_work(&self, deployment: &Deployment) -> &Arc<Semaphore> {
        match deployment.spec.http {
            Some(_) => &self.at_work_http,
            None => &self.at_work,
        }
    }

    /// Starts all deployments, and removes what deleted ones left behind. To be called once the log
    /// is started.
    pub fn start(self: &Arc<Deployments>, shared: &Arc<Shared>) {
        for deployment in shared.registry.deployments() {
            self.launch(shared, deployment);
        }
        let (deployments, shared) = (self.clone(), shared.clone());
        self.thread.spawn(async move { deployments.sweep(&shared).await });
    }

    /// Tells all lanes and distributors to end, and waits until they have. What is not committed
    /// is computed again at the next start.
    ///
    /// # Cancel safety
    /// Cancel safe: they end all the same.
    pub async fn stop(&self) {
        let trackers: Vec<_> = {
            let running = lock(&self.running);
            let stop = |running: &Running| {
                running.orders.send_modify(|orders| {
                    (orders.ended, orders.abandoned) = (true, true);
                });
                [running.working.clone(), running.distributing.clone()]
            };
            running.values().flat_map(stop).collect()
        };
        for tracker in trackers {
            tracker.close();
            tracker.wait().await;
        }
    }

    fn launch(self: &Arc<Deployments>, shared: &Arc<Shared>, deployment: Deployment) {
        let registry = &shared.registry;
        let name = deployment.name.clone();
        let Some((input, home)) = topics(shared, &deployment) else {
            tracing::error!(name, "a deployment's topics are not there: it does not run");
            return;
        };
        let deployment = Arc::new(deployment);
        let orders = Orders {
            deployment: deployment.clone(),
            ended: false,
            drained: false,
            abandoned: false,
        };
        let orders = watch::Sender::new(orders);
        let (working, distributing) = (TaskTracker::new(), TaskTracker::new());
        // One deployment whose module takes long does not take all turns.
        let turns = Arc::new(Semaphore::new(limits::DEPLOYMENT_AT_WORK_MAX));
        let (mut lanes, log) = (Vec::new(), Arc::new(ModuleLog::default()));
        for index in (0..input.config.partitions).map(PartitionIndex) {
            let pair = registry.partition(input.id, index).zip(registry.partition(home.id, index));
            let Some((input, home)) = pair else { continue };
            let lane = Lane { deployment: deployment.id, input: input.id };
            let meter = Arc::new(Meter::new(index));
            lanes.push((lane, home.id, meter.clone()));
            if deployment.mode == Mode::Outbox {
                let distributor = Distributor {
                    shared: shared.clone(),
                    deployments: self.clone(),
                    lane,
                    outbox: home.clone(),
                    orders: orders.subscribe(),
                    meter: meter.clone(),
                };
                distributing.spawn_on(distributor.run(), &self.thread);
            }
            let task = LaneTask {
                turns: turns.clone(),
                log: log.clone(),
                shared: shared.clone(),
                deployments: self.clone(),
                lane,
                input,
                home,
                orders: orders.subscribe(),
                meter,
                careful: false,
                tried: None,
            };
            working.spawn_on(task.run(), &self.thread);
        }
        let running = Running { orders, log, lanes, working, distributing };
        lock(&self.running).insert(name, running);
    }

    /// Removes from the log what deployments that are gone left in partitions that are still there.
    async fn sweep(&self, shared: &Arc<Shared>) {
        let known = |id| shared.registry.deployments().iter().any(|d| d.id == id);
        for (partition, changes) in self.states.removals(known) {
            // Where the partition went, all went with it.
            let Some(partition) = shared.registry.partition_by_id(partition) else { continue };
            let epoch = partition.figures().epoch;
            let removing =
                append::append(shared, &self.states, (&partition, epoch), None, changes, None);
            if let Err(error) = removing.committed().await {
                tracing::warn!(topic = %partition.topic_name, %error,
                    "a deleted deployment's state stays until the next start");
            }
        }
        self.states.forget(known);
    }

    /// Creates a deployment and starts it, once its module has taken its parameters.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Not cancel safe: run it in a task of its own.
    pub async fn create(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        if let Some(grant) = spec.http.clone() {
            let made = Outgoing::new(grant, self.trust.clone());
            let invalid = |e: HttpsError| WireError::new(ErrorCode::InvalidArgument, e.to_string());
            made.map_err(invalid)?;
        }
        let prepared = check_version(shared, spec.kind, &spec.version).await?;
        let ask = DeployAsk::Create { name, spec };
        let created = shared.registry.deploy(shared.now(), ask).await?;
        let created = created.ok_or_else(gone)?;
        self.place(shared, &created, prepared.description().state_schema).await;
        self.launch(shared, created.clone());
        Ok(self.info(shared, created))
    }

    /// Decides where the lanes of a new deployment begin: what is produced after its creation was
    /// acknowledged is surely read. A lane whose home cannot be written now decides at its start.
    async fn place(&self, shared: &Arc<Shared>, deployment: &Deployment, schema: u32) {
        let Some((input, home)) = topics(shared, deployment) else { return };
        let module = deployment.spec.version.module.to_string();
        let runs = Runs { takeover: deployment.takeovers, schema, module };
        let mut placing = Vec::new();
        for (&input, &home) in input.partitions.iter().zip(&home.partitions) {
            let registry = &shared.registry;
            let pair = registry.partition_by_id(input).zip(registry.partition_by_id(home));
            let Some((input, home)) = pair else { continue };
            let lane = Lane { deployment: deployment.id, input: input.id };
            let position = read::first_position(deployment, &input);
            let changes = vec![lane.set_position(position), lane.set_runs(&runs)];
            let epoch = home.figures().epoch;
            let at = (&*home, epoch);
            placing.push(append::append(shared, &self.states, at, None, changes, None));
        }
        for one in placing {
            if let Err(error) = one.committed().await {
                tracing::warn!(name = deployment.name, %error, "a deployment begins later");
            }
        }
    }

    /// Pauses or resumes.
    ///
    /// # Errors
    /// As [`Deployments::create`].
    ///
    /// # Cancel safety
    /// As [`Deployments::create`].
    pub async fn pause(
        &self,
        shared: &Arc<Shared>,
        name: String,
        paused: bool,
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        let ask = DeployAsk::Pause { name, paused };
        let changed = shared.registry.deploy(shared.now(), ask).await?;
        let changed = changed.ok_or_else(gone)?;
        self.order(&changed);
        Ok(self.info(shared, changed))
    }

    /// Runs another version, or the one before.
    ///
    /// # Errors
    /// As [`Deployments::create`]; [`ErrorCode::StateSchema`] for a version whose state has another
    /// layout.
    ///
    /// # Cancel safety
    /// As [`Deployments::create`].
    pub async fn replace(
        &self,
        shared: &Arc<Shared>,
        name: String,
        (version, restore): (Option<Version>, Restore),
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        let known = shared.registry.deployment(&name).ok_or_else(|| unknown(&name))?;
        let wanted = version.clone().or_else(|| known.previous.clone());
        if let Some(wanted) = &wanted {
            let prepared = check_version(shared, known.spec.kind, wanted).await?;
            let lanes = self.lanes_of(&name);
            let rollback = version.is_none();
            let asked = Asked { wanted, prepared: &prepared, restore: &restore, rollback };
            versions::check(shared, &self.states, (&known, &lanes), &asked).await?;
        }
        let ask = DeployAsk::Replace { name, version, restore };
        let changed = shared.registry.deploy(shared.now(), ask).await?;
        let changed = changed.ok_or_else(gone)?;
        self.order(&changed);
        Ok(self.info(shared, changed))
    }

    fn lanes_of(&self, name: &str) -> Vec<(Lane, PartitionId)> {
        let running = lock(&self.running);
        let lanes = running.get(name).map(|running| running.lanes.iter());
        lanes.into_iter().flatten().map(|(lane, home, _)| (*lane, *home)).collect()
    }

    fn order(&self, changed: &Deployment) {
        if let Some(running) = lock(&self.running).get(&changed.name) {
            let deployment = Arc::new(changed.clone());
            running.orders.send_modify(|orders| orders.deployment = deployment);
        }
    }

    /// Deletes a deployment: its lanes end, what they computed is delivered, its state is removed.
    ///
    /// # Errors
    /// As [`Deployments::create`].
    ///
    /// # Cancel safety
    /// As [`Deployments::create`].
    pub async fn delete(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
    ) -> Result<(), WireError> {
        let _one = self.changing.lock().await;
        let known = shared.registry.deployment(&name).ok_or_else(|| unknown(&name))?;
        let running = lock(&self.running).remove(&name);
        if let Some(running) = running {
            running.end(&name).await;
        }
        let ask = DeployAsk::Delete { name };
        if let Err(error) = shared.registry.deploy(shared.now(), ask).await {
            self.launch(shared, known);
            return Err(error);
        }
        self.sweep(shared).await;
        Ok(())
    }

    /// Some deployments, or all, and how they go.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownDeployment`].
    pub fn list(
        &self,
        shared: &Arc<Shared>,
        names: Option<Vec<String>>,
    ) -> Result<Vec<DeploymentInfo>, WireError> {
        let registry = &shared.registry;
        let chosen: Vec<Deployment> = match names {
            None => registry.deployments(),
            Some(names) => names
                .iter()
                .map(|name| registry.deployment(name).ok_or_else(|| unknown(name)))
                .collect::<Result<_, _>>()?,
        };
        Ok(chosen.into_iter().map(|deployment| self.info(shared, deployment)).collect())
    }

    /// Lines that a deployment's module logged: see [`ModuleLog::lines`].
    ///
    /// # Errors
    /// [`ErrorCode::UnknownDeployment`].
    pub fn log(
        &self,
        name: &str,
        from: Option<u64>,
        count: usize,
    ) -> Result<(Vec<ModuleLine>, u64), WireError> {
        let log = lock(&self.running).get(name).map(|running| running.log.clone());
        Ok(log.ok_or_else(|| unknown(name))?.lines(from, count))
    }

    /// How all deployments go.
    #[must_use]
    pub fn status(&self, shared: &Shared) -> Vec<DeploymentStatus> {
        let all = shared.registry.deployments().into_iter();
        let infos = all.map(|deployment| self.info(shared, deployment));
        let status = |info: DeploymentInfo| DeploymentStatus {
            name: info.deployment.name,
            partitions: info.partitions,
        };
        infos.map(status).collect()
    }

    fn info(&self, shared: &Shared, deployment: Deployment) -> DeploymentInfo {
        let running = lock(&self.running);
        let lanes = running.get(&deployment.name).map(|running| running.lanes.clone());
        drop(running);
        let lanes = lanes.unwrap_or_default();
        let outbox = deployment.mode == Mode::Outbox;
        let info = |(lane, home, meter): &(Lane, PartitionId, Arc<Meter>)| {
            self.lane_info(shared, (*lane, *home), meter, outbox)
        };
        DeploymentInfo { partitions: lanes.iter().map(info).collect(), deployment }
    }

    fn lane_info(
        &self,
        shared: &Shared,
        (lane, home): (Lane, PartitionId),
        meter: &Meter,
        outbox: bool,
    ) -> LaneInfo {
        let mut info = meter.info();
        let state = self.states.of(lane, home);
        {
            let state = lock(&state);
            let live = state.bytes() - state.kept_bytes();
            (info.state_bytes, info.state_keys) = (live as u64, state.keys() as u64);
            info.snapshots = versions::snapshots(&state);
        }
        let behind = |partition: Arc<Partition>, at| {
            let end = partition.progress_now().high_watermark;
            if end > at { end.since(at) } else { 0 }
        };
        let input = shared.registry.partition_by_id(lane.input);
        info.lag = input.zip(info.position).map_or(0, |(input, at)| behind(input, at));
        if outbox {
            let home = shared.registry.partition_by_id(home);
            info.undelivered = home.map_or(0, |home| behind(home, meter.delivered_to()));
        }
        info
    }
}

impl Running {
    async fn end(&self, name: &str) {
        self.orders.send_modify(|orders| orders.ended = true);
        self.working.close();
        self.working.wait().await;
        self.orders.send_modify(|orders| orders.drained = true);
        self.distributing.close();
        if tokio::time::timeout(DRAIN_PATIENCE, self.distributing.wait()).await.is_err() {
            tracing::warn!(name, "outputs that could not be delivered go with their deployment");
            self.orders.send_modify(|orders| orders.abandoned = true);
            self.distributing.wait().await;
        }
    }
}

/// The input and the home.
fn topics(shared: &Shared, deployment: &Deployment) -> Option<(Topic, Topic)> {
    let home = match deployment.mode {
        Mode::Direct => deployment.spec.to.first().cloned(),
        Mode::Outbox => deployment.outbox_topic(),
    };
    let registry = &shared.registry;
    registry.topic(&deployment.spec.from).zip(registry.topic(&home?))
}

fn unknown(name: &str) -> WireError {
    let message = DeployError::Unknown(name.to_owned()).to_string();
    WireError::new(ErrorCode::UnknownDeployment, message)
}

fn gone() -> WireError {
    WireError::new(ErrorCode::UnknownDeployment, "the deployment is gone")
}
