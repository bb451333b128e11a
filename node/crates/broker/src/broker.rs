//! A broker: what is opened, started and stopped, in which order.

use crate::ack::Courier;
use crate::cluster::peers::Peers;
use crate::cluster::{ClusterNode, fresh_disk, mend, open};
use crate::config::{BrokerConfig, SHUTDOWN_GRACE};
use crate::deploy::{DeployThread, Deployments};
use crate::driver::Driver;
use crate::gate::Turns;
use crate::groups::{Groups, sweep};
use crate::modules::Modules;
use crate::modules::files::FilesError;
use crate::pace::Pace;
use crate::partition::Partition;
use crate::registry::Registry;
use crate::session::{self, Session};
use crate::status::{self, Health};
use crate::store::{NodeRow, Store, StoreError};
use crate::validate::Validator;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::view::PartitionView;
use weir_core::wire::message::NodeStatus;
use weir_core::{PartitionId, TimestampMs};
use weir_log::{Clock as _, KvError, KvStore, Log, OpenError, RealDisk, SystemClock};
use weir_transport::{
    Authority, AuthorityError, BindError, ClientAuth, Clock, CloseReason, ConnectionLimit,
    ListenConfig, NodeCredentials, NodeNames, ServerEndpoint, Windows,
};

/// A running broker. Dropping it without [`Broker::shutdown`] leaves what was acknowledged safe
/// and everything else as after a crash.
pub struct Broker {
    shared: Arc<Shared>,
    endpoint: Arc<ServerEndpoint>,
    address: SocketAddr,
    ca_created: bool,
    acceptor: tokio::task::JoinHandle<()>,
    courier: tokio::task::JoinHandle<()>,
    /// Dropped last: what runs there ends with it.
    _deploying: DeployThread,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What everything in the broker shares.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub config: BrokerConfig,
    /// The cluster's id.
    pub cluster: String,
    /// Program and version.
    pub software: String,
    /// When the broker began to serve.
    pub started: Instant,
    /// This node's part in a cluster, if it is of one.
    pub site: Option<Arc<ClusterNode>>,
    /// Cancelled when the broker shuts down.
    pub stopping: CancellationToken,
    /// The log.
    pub log: Arc<Log>,
    /// The node's notes.
    pub store: Arc<Store>,
    /// Topics and partitions.
    pub registry: Arc<Registry>,
    /// Stored positions.
    pub groups: Arc<Groups>,
    /// Users' modules.
    pub modules: Arc<Modules>,
    /// What runs them between topics.
    pub deployments: Arc<Deployments>,
    /// Bytes of batches on their way to the disk.
    pub produce_budget: Arc<Semaphore>,
    /// Checks what producers send.
    pub validator: Validator,
    /// Which batches are with modules that check topics.
    pub turns: Turns,
    /// Bytes of batches read for subscribers and not yet offered to QUIC.
    pub fetch_budget: Arc<Semaphore>,
    /// Bytes of batches that wait for subscribers that do not read.
    pub slow_budget: Arc<Semaphore>,
    /// Tasks of connections and streams.
    pub tasks: TaskTracker,
    /// What is open.
    pub counts: Counts,
    /// Wakes produce streams whose batches are durable.
    pub courier: Arc<Courier>,
    /// Which appends wait for others. Locked by the network thread for each batch, and for status.
    pace: Mutex<Pace>,
    /// What certificates are checked against.
    pub clock: Clock,
    /// Conditions found at start that a person should know of.
    pub warnings: Vec<String>,
    wall: SystemClock,
    driver: OnceLock<Arc<Driver>>,
}

/// What is open.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections past their handshake.
    pub connections: AtomicUsize,
    /// Subscriptions.
    pub subscriptions: AtomicUsize,
    /// Those of them that are parked: their subscribers do not read.
    pub parked: AtomicUsize,
    /// Produce streams.
    pub producers: AtomicUsize,
}

impl Shared {
    /// Starts the log, with what follows its news and what it is to keep, and then what appends
    /// to it by itself.
    fn run_log(self: &Arc<Shared>, store: Arc<Store>, views: &Views) {
        let shards = self.log.shard_stats().len().max(1) as u16;
        let driver = Arc::new(Driver::new(store, shards, self));
        self.log.start(driver.clone());
        let _ = self.driver.set(driver);
        if let Some(site) = &self.site {
            self.modules.use_source(site.clone(), self.registry.clone());
        }
        self.registry.settle_log(views);
        self.groups.settle_log(self.site.is_none());
        self.deployments.start(self);
        self.tasks.spawn(sweep::run(self.clone()));
        self.tasks.spawn(mend::run(self.clone()));
    }

    /// A partition of a topic, or that of the groups.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        match id {
            GROUPS_PARTITION => Some(self.groups.partition().clone()),
            id => self.registry.partition_by_id(id),
        }
    }

    /// All partitions, that of the groups among them, in no order.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        let mut all = self.registry.partitions();
        all.push(self.groups.partition().clone());
        all
    }

    /// Where to send what concerns a partition, if this node is not the one to ask. What another
    /// node sent is never sent on.
    #[must_use]
    pub fn route(&self, session: &Session, partition: &Partition) -> Option<(&Arc<Peers>, NodeId)> {
        let site = self.site.as_ref()?;
        if session.is_forwarded() {
            return None;
        }
        Some((&site.peers, site.route(partition)?))
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> TimestampMs {
        self.wall.now()
    }

    /// Decides which appends wait for others.
    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a shard cannot take writes again without a restart, if that is so.
    #[must_use]
    pub fn fatal(&self) -> Option<&str> {
        self.driver.get().and_then(|driver| driver.fatal())
    }
}

/// Why a broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("the data folder {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The log cannot be opened.
    #[error("the log: {0}")]
    Log(#[from] OpenError),
    /// The node's metadata cannot be opened.
    #[error("the node's metadata: {0}")]
    Metadata(#[from] StoreError),
    /// The module folder cannot be used.
    #[error("the module folder: {0}")]
    Modules(#[from] FilesError),
    /// The system has no thread left.
    #[error("a thread for deployments: {0}")]
    Thread(std::io::Error),
    /// The node's certificates cannot be had.
    #[error("the node's certificates: {0}")]
    Certificates(#[from] AuthorityError),
    /// The listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The folder and the configuration do not agree on what the node is part of.
    #[error("{0}")]
    Folders(String),
    /// The controller cannot be started.
    #[error("the controller: {0}")]
    Controller(#[from] weir_controller::StartError),
    /// The listener's address cannot be told.
    #[error("the listener's address: {0}")]
    Address(std::io::Error),
}

impl From<KvError> for StartError {
    fn from(error: KvError) -> StartError {
        StartError::Metadata(error.into())
    }
}

impl Broker {
    /// Opens the data folder, recovers the log, and serves.
    ///
    /// Must be called on a tokio runtime, which then serves the network; opening blocks its
    /// thread, for as long as replaying one log file per shard takes.
    ///
    /// # Errors
    /// [`StartError`]. What was opened is closed again.
    pub async fn start(config: BrokerConfig) -> Result<Broker, StartError> {
        let opened = Opened::open(&config)?;
        let Opened { log, views, store, node, image, wall } = opened;
        let newest = views.values().map(|view| view.append_time).max().unwrap_or_default();
        let clock = Clock::system().with_floor(system_time(newest));
        let names = node_names(&config)?;
        let credentials = Authority::load_or_create(&config.data_dir.join("tls"), &names, &clock)?;
        credentials.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let ca_created = credentials.authority_created;
        let warnings = credentials.warnings.clone();
        let site = open::site(&config, &credentials, &clock)?;
        let cluster = site.as_ref().map_or(node.cluster, |_| open::cluster_of(&credentials));
        let endpoint = ServerEndpoint::bind(listen_config(&config, &credentials, &clock)?)?;
        let endpoint = Arc::new(endpoint);
        open::use_authority(site.as_ref(), credentials.authority);
        let address = endpoint.local_address().map_err(StartError::Address)?;

        let (registry, groups) = open::partitions(site.as_ref(), &store, &log, image, &views)?;
        let deploying = DeployThread::start().map_err(StartError::Thread)?;
        let lanes = if site.is_some() { &Views::new() } else { &views };
        let deployments = Arc::new(Deployments::new(lanes, deploying.handle()));
        let shared = Arc::new(Shared {
            cluster,
            software: concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned(),
            started: Instant::now(),
            site: site.clone(),
            stopping: CancellationToken::new(),
            log: log.clone(),
            store: store.clone(),
            registry: Arc::new(registry),
            groups: Arc::new(groups),
            modules: Arc::new(Modules::open(&config.data_dir, config.compiler.clone())?),
            deployments: deployments.clone(),
            produce_budget: Arc::new(Semaphore::new(config.produce_budget_bytes)),
            validator: Validator::default(),
            turns: Turns::new(config.produce_budget_bytes),
            // Less than one batch would never be enough.
            fetch_budget: Arc::new(Semaphore::new(
                config.fetch_budget_bytes.max(limits::BATCH_BYTES_MAX),
            )),
            slow_budget: Arc::new(Semaphore::new(config.slow_budget_bytes)),
            tasks: TaskTracker::new(),
            counts: Counts::default(),
            courier: Arc::default(),
            pace: Mutex::new(Pace::new(config.trickle_linger)),
            clock,
            warnings,
            wall,
            driver: OnceLock::new(),
            config,
        });
        shared.run_log(store, &views);
        let acceptor = tokio::spawn(accept(shared.clone(), endpoint.clone()));
        let courier = tokio::spawn({
            let courier = shared.courier.clone();
            async move { courier.run().await }
        });
        open::join(&shared, node.disk).await?;
        tracing::info!(%address, "serving");
        Ok(Broker {
            shared,
            endpoint,
            address,
            ca_created,
            acceptor,
            courier,
            _deploying: deploying,
        })
    }

    /// The address that it serves on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether this start made the local certificate authority.
    #[must_use]
    pub fn ca_created(&self) -> bool {
        self.ca_created
    }

    /// Waits until it is known that this node is not, or no longer, of its cluster, and says why.
    /// It is to be shut down then. For ever for other nodes.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn outside(&self) -> String {
        match &self.shared.site {
            Some(site) => site.outside().await,
            None => std::future::pending().await,
        }
    }

    /// A handle for reporting that outlives borrows of the broker.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        Reporter { shared: self.shared.clone() }
    }

    /// Stops: takes no more connections, tells clients, commits what was accepted, closes the log.
    ///
    /// # Cancel safety
    /// Not cancel safe: what is not closed in order is recovered at the next start.
    pub async fn shutdown(self, grace: Duration) {
        // Where there are others they take over first, and what comes here is sent on to them.
        if let Some(site) = &self.shared.site {
            site.leave().await;
        }
        // 1. No new work; clients are told, and try elsewhere or later.
        self.acceptor.abort();
        self.endpoint.close(CloseReason::Shutdown, "the node is shutting down");
        // 2. Streams end with their connections.
        self.shared.stopping.cancel();
        if let Some(site) = &self.shared.site {
            site.stop().await;
        }
        self.shared.tasks.close();
        let mut left = "clients";
        let ended = async {
            self.endpoint.wait_idle().await;
            left = "tasks";
            self.shared.tasks.wait().await;
            left = "modules";
            self.shared.deployments.stop().await;
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            let tasks = self.shared.tasks.len();
            tracing::warn!(left, tasks, "not all went in time");
        }
        // 3. What was accepted is committed, then the files are closed so that the next start is
        //    quick.
        let log = self.shared.log.clone();
        if let Err(panic) = tokio::task::spawn_blocking(move || log.shutdown()).await {
            tracing::error!(%panic, "closing the log");
        }
        self.courier.abort();
        tracing::info!("stopped");
    }

    /// [`Broker::shutdown`] with the default grace.
    ///
    /// # Cancel safety
    /// Not cancel safe.
    pub async fn stop(self) {
        self.shutdown(SHUTDOWN_GRACE).await;
    }
}

/// Reports on a broker, from wherever it is held.
#[derive(Clone, Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
}

impl Reporter {
    /// What the node says of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        status::of_node(&self.shared)
    }

    /// Whether the node can do its work.
    #[must_use]
    pub fn health(&self) -> Health {
        status::health(&self.shared)
    }
}

/// What the log says of each partition.
pub(crate) type Views = HashMap<PartitionId, PartitionView>;

struct Opened {
    log: Arc<Log>,
    views: Views,
    store: Arc<Store>,
    node: NodeRow,
    image: weir_core::metadata::Image,
    wall: SystemClock,
}

impl Opened {
    fn open(config: &BrokerConfig) -> Result<Opened, StartError> {
        let folder = |error| StartError::Folder { path: config.data_dir.clone(), error };
        std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
        let disk = Arc::new(RealDisk);
        let wall = SystemClock::new();
        // The log first: it holds the lock against a second process.
        let (log, views) = Log::open(config.log.clone(), disk.clone(), Arc::new(wall))?;
        let kv = KvStore::open(disk, config.data_dir.join("meta.redb"))?;
        let (store, node, image) = Store::open(kv, &fresh_cluster_id(), fresh_disk())?;
        open::check_folders(config, &image)?;
        Ok(Opened { log: Arc::new(log), views, store: Arc::new(store), node, image, wall })
    }
}

async fn accept(shared: Arc<Shared>, endpoint: Arc<ServerEndpoint>) {
    while let Some(incoming) = endpoint.accept().await {
        shared.tasks.spawn(session::serve(shared.clone(), incoming));
    }
}

fn listen_config(
    config: &BrokerConfig,
    credentials: &NodeCredentials,
    clock: &Clock,
) -> Result<ListenConfig, StartError> {
    let authority = &credentials.authority;
    let identity = match &config.cluster {
        // Who joins knows the authority by its fingerprint.
        Some(_) => {
            let identity = credentials.identity.with_authority(authority.certificate_pem());
            identity.map_err(|error| AuthorityError::Issue(error.to_string()))?
        }
        None => credentials.identity.clone(),
    };
    let mut listen = ListenConfig::new(config.listen, identity, authority.trust().clone());
    // Who joins a cluster has no certificate yet; of others the session sees to it.
    let optional = config.allow_anonymous || config.cluster.is_some();
    listen.client_auth = if optional { ClientAuth::Optional } else { ClientAuth::Required };
    listen.connections = ConnectionLimit::new(config.connections_max);
    listen.clock = clock.clone();
    listen.mtu = config.mtu;
    listen.windows = Windows {
        receive_bytes: config.receive_window_bytes,
        send_bytes: config.send_window_bytes,
    };
    Ok(listen)
}

fn node_names(config: &BrokerConfig) -> Result<NodeNames, AuthorityError> {
    config
        .certificate_names
        .iter()
        .try_fold(NodeNames::new(&config.node_name)?, |names, name| names.with(name))
}

fn system_time(at: TimestampMs) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}

/// 128 random bits from the system, in hex. Two sites never share one.
pub(crate) fn fresh_cluster_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    // Each `RandomState` is keyed from the system's randomness.
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}
