//! What can be set about a broker.

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
    /// Bytes of batches read from the log and not yet handed to QUIC, beyond the one batch that
    /// each subscription may always hold.
    pub fetch_budget_bytes: usize,
    /// Where uploaded modules are compiled. In a process of its own, or a hostile module could take
    /// the node's memory and time.
    pub compiler: Compiler,
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
            compiler: Compiler::Here,
            mtu: None,
        }
    }
}

/// How long a shutdown waits for clients to be told, before it closes under them.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
