//! Deployments at work: which lanes run, with which orders, and what becomes of them.
//!
//! `weir_core::deploy` says what makes them exactly once. Here a [`lane`] turns input into entries
//! of its home, and a [`distributor`] carries what is in an outbox to its destinations. Both run
//! on a thread of their own beside the network's; modules run on the threads for guests.
//!
//! In a cluster every node knows every deployment, and has a task for each lane; the one that leads
//! the lane's home works, the others wait until they do. So whoever takes over a partition takes
//! over its lane, with the state that is in the partition's log ([`state`]), at the position there.
//! What the lane reads, and where its outputs go, may be led by others ([`source`], [`deliver`]).

mod append;
mod budget;
mod changes;
pub mod deliver;
mod distributor;
mod entry;
pub mod http;
mod inspect;
mod kept;
mod lane;
mod lines;
mod log;
mod meter;
mod read;
mod report;
pub mod requests;
mod source;
pub mod state;
mod takeover;
mod thread;
mod versions;

use crate::broker::Shared;
use budget::CpuBudget;
use distributor::Distributor;
use http::SystemTrust;
use lane::LaneTask;
use lines::Lines;
use log::ModuleLog;
use meter::Meter;
use source::Source;
use state::{States, lock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use weir_core::deploy::keys::Lane;
use weir_core::deploy::{DeployError, Deployment, DeploymentId, Mode};
use weir_core::limits;
use weir_core::metadata::Topic;
use weir_core::partition::view::PartitionView;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{PartitionId, PartitionIndex};

pub use thread::DeployThread;

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
    /// Who brings parts of outboxes into partitions of this node.
    turns: deliver::Turns,
    /// One at a time.
    sweeping: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Running {
    deployment: Arc<Deployment>,
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
            turns: deliver::Turns::default(),
            sweeping: tokio::sync::Mutex::new(()),
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
        self.settle(shared);
        self.tend(shared);
    }

    /// Has run what metadata says, as it says. To be called after every change of it.
    pub fn settle(self: &Arc<Deployments>, shared: &Arc<Shared>) {
        let known = shared.registry.deployments();
        let mut running = lock(&self.running);
        running.retain(|name, running| {
            let id = running.deployment.id;
            let kept =
                known.iter().any(|deployment| deployment.name == *name && deployment.id == id);
            if !kept {
                running.abandon();
            }
            kept
        });
        for deployment in known {
            match running.get_mut(&deployment.name) {
                Some(running) => running.order(deployment, &self.thread),
                None => {
                    let name = deployment.name.clone();
                    let launched = self.launch(shared, deployment);
                    running.extend(launched.map(|launched| (name, launched)));
                }
            }
        }
    }

    /// Removes what deleted deployments left behind in partitions that this node leads, if there is
    /// anything. To be called now and then.
    pub fn tend(self: &Arc<Deployments>, shared: &Arc<Shared>) {
        if self.states.knows_others(&known(shared)) {
            let (deployments, shared) = (self.clone(), shared.clone());
            self.thread.spawn(async move { deployments.sweep(&shared).await });
        }
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
                running.abandon();
                [running.working.clone(), running.distributing.clone()]
            };
            running.values().flat_map(stop).collect()
        };
        for tracker in trackers {
            tracker.close();
            tracker.wait().await;
        }
    }

    fn launch(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        deployment: Deployment,
    ) -> Option<Running> {
        let registry = &shared.registry;
        let Some((input, home)) = topics(shared, &deployment) else {
            let name = deployment.name;
            tracing::error!(name, "a deployment's topics are not there: it does not run");
            return None;
        };
        let deployment = Arc::new(deployment);
        let orders = Orders {
            deployment: deployment.clone(),
            ended: deployment.ending,
            drained: false,
            abandoned: false,
        };
        let orders = watch::Sender::new(orders);
        let (working, distributing) = (TaskTracker::new(), TaskTracker::new());
        // One deployment whose module takes long does not take all turns.
        let turns = Arc::new(Semaphore::new(limits::DEPLOYMENT_AT_WORK_MAX));
        let log = match &shared.site {
            Some(_) => ModuleLog::of_several(),
            None => ModuleLog::default(),
        };
        let (mut lanes, log) = (Vec::new(), Arc::new(log));
        let budget = Arc::new(budget(shared, &deployment));
        let lines = self.lines(shared, &deployment, (&orders, &distributing));
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
                budget: budget.clone(),
                lines: lines.clone(),
                shared: shared.clone(),
                deployments: self.clone(),
                lane,
                source: Source::new(shared.clone(), input.clone()),
                input,
                home,
                orders: orders.subscribe(),
                meter,
                careful: false,
                tried: None,
            };
            working.spawn_on(task.run(), &self.thread);
        }
        let running = Running { deployment, orders, log, lanes, working, distributing };
        if running.deployment.ending {
            running.drain(&self.thread);
        }
        Some(running)
    }

    /// The way to the log topic, if the deployment names one.
    fn lines(
        &self,
        shared: &Arc<Shared>,
        deployment: &Deployment,
        (orders, tasks): (&watch::Sender<Orders>, &TaskTracker),
    ) -> Option<Lines> {
        let topic = deployment.spec.log_topic.as_deref()?;
        let orders = orders.subscribe();
        let (lines, task) = Lines::open(shared, &self.states, orders, (deployment, topic));
        tasks.spawn_on(task.run(), &self.thread);
        Some(lines)
    }

    /// Removes from the log what deployments that are gone left in partitions that are still there,
    /// and led here.
    async fn sweep(&self, shared: &Arc<Shared>) {
        let _one_at_a_time = self.sweeping.lock().await;
        let known = known(shared);
        for (partition, changes) in self.states.removals(&known) {
            // Where the partition went, all went with it.
            let Some(partition) = shared.registry.partition_by_id(partition) else { continue };
            if !partition.progress_now().led {
                continue;
            }
            let epoch = partition.figures().epoch;
            let removing =
                append::append(shared, &self.states, (&partition, epoch), None, changes, None);
            if let Err(error) = removing.committed().await {
                tracing::warn!(topic = %partition.topic_name, %error,
                    "a deleted deployment's state stays until the next start");
            }
        }
        self.states.forget(&known);
    }
}

impl Running {
    /// What metadata says now.
    fn order(&mut self, deployment: Deployment, thread: &tokio::runtime::Handle) {
        if *self.deployment == deployment {
            return;
        }
        let ends = deployment.ending && !self.deployment.ending;
        self.deployment = Arc::new(deployment);
        let deployment = self.deployment.clone();
        self.orders.send_modify(|orders| {
            orders.ended |= deployment.ending;
            orders.deployment = deployment;
        });
        if ends {
            self.drain(thread);
        }
    }

    /// Tells distributors when nothing more will come: once all lanes have ended.
    fn drain(&self, thread: &tokio::runtime::Handle) {
        let (working, orders) = (self.working.clone(), self.orders.clone());
        working.close();
        thread.spawn(async move {
            working.wait().await;
            orders.send_modify(|orders| orders.drained = true);
        });
    }

    fn abandon(&self) {
        self.orders.send_modify(|orders| {
            (orders.ended, orders.abandoned) = (true, true);
        });
    }
}

/// What CPU time the module of a deployment may take on this node.
fn budget(shared: &Shared, deployment: &Deployment) -> CpuBudget {
    let most = shared.config.deployment_cpu_percent;
    CpuBudget::new(deployment.spec.cpu_percent, most, Instant::now())
}

/// The deployments that there are.
fn known(shared: &Shared) -> HashSet<DeploymentId> {
    shared.registry.deployments().iter().map(|deployment| deployment.id).collect()
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
