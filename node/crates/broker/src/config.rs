//! What can be set about a broker.

use crate::cluster::ClusterConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use weir_core::access::Access;
use weir_core::limits;
use weir_log::LogConfig;
use weir_wasm::Compiler;

/// Settings of a broker. [`BrokerConfig::new`] fills in everything but the folder.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// The folder that everything is kept in. Created if it is missing.
    pub data_dir: PathBuf,
    /// The UDP address to serve on. Port 0: any free one.
    pub listen: SocketAddr,
    /// The node's name, for people and certificates.
    pub node_name: String,
    /// Further names and addresses that the node's certificate is to carry.
    pub certificate_names: Vec<String>,
    /// Whether clients without a certificate are served. They have the rights of
    /// [`Access::anonymous`].
    pub allow_anonymous: bool,
    /// Who may do what.
    pub access: Access,
    /// Settings of the log, which is kept in `data_dir`, too.
    pub log: LogConfig,
    /// Most connections.
    pub connections_max: usize,
    /// Most subscriptions, all connections together.
    pub subscriptions_max: usize,
    /// Bytes of batches that are received but not yet durable, all clients together.
    pub produce_budget_bytes: usize,
    /// Bytes of batches read from files for subscriptions and not yet offered to QUIC; at least
    /// one batch, 4 MiB.
    pub fetch_budget_bytes: usize,
    /// What one connection may send unread on all its streams together, in bytes.
    pub receive_window_bytes: usize,
    /// What is kept of sent data that one connection has not confirmed, in bytes.
    pub send_window_bytes: usize,
    /// How long a small append of a producer that sends now and then may wait for those of others,
    /// to share their commit. Zero: no waiting. A topic's own commit linger goes first.
    pub trickle_linger: Duration,
    /// Bytes of batches that may wait in memory for subscribers that do not read, all of them
    /// together. Beyond that they are forgotten and read again.
    pub slow_budget_bytes: usize,
    /// Most CPU time that the module of one deployment may take on this node, in percent of one
    /// core, whatever the deployment asks for. 0: no bound.
    pub deployment_cpu_percent: u32,
    /// Where uploaded modules are compiled. In a process of its own, or a hostile module could take
    /// the node's memory and time.
    pub compiler: Compiler,
    /// What makes the node one of a cluster; `None`: it is alone.
    pub cluster: Option<ClusterConfig>,
    /// UDP payload to begin with, bytes; `None`: 6,000 on loopback, discovered elsewhere.
    pub mtu: Option<u16>,
}

impl BrokerConfig {
    /// The defaults, for the folder `data_dir`: loopback only, anonymous clients welcome as
    /// administrators.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> BrokerConfig {
        let data_dir = data_dir.into();
        BrokerConfig {
            log: LogConfig::new(data_dir.clone()),
            data_dir,
            listen: SocketAddr::from(([127, 0, 0, 1], weir_core::wire::DEFAULT_PORT)),
            node_name: "weir".to_owned(),
            certificate_names: Vec::new(),
            allow_anonymous: true,
            access: Access { rules: Vec::new(), anonymous: vec![weir_core::access::Role::Admin] },
            connections_max: limits::CONNECTIONS_MAX,
            subscriptions_max: limits::SUBSCRIPTIONS_MAX,
            produce_budget_bytes: limits::PRODUCE_BUDGET_BYTES,
            fetch_budget_bytes: limits::FETCH_BUDGET_BYTES,
            receive_window_bytes: limits::NODE_CONNECTION_WINDOW_BYTES,
            send_window_bytes: limits::SEND_WINDOW_BYTES,
            trickle_linger: limits::TRICKLE_LINGER,
            slow_budget_bytes: limits::SLOW_BUDGET_BYTES,
            deployment_cpu_percent: 0,
            compiler: Compiler::Here,
            cluster: None,
            mtu: None,
        }
    }
}

/// How long a shutdown waits for clients to be told, before it closes under them.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
