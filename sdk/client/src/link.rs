//! One connection that comes back: connects to whichever address answers, says hello, and does so
//! again when the connection is lost.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use weir_core::limits::CONTROL_BYTES_MAX;
use weir_core::wire::message::{Hello, HelloReply};
use weir_core::wire::{FrameKind, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, WireError};
use weir_producer::Backoff;
use weir_transport::control::{self, DecodeError, EncodeError};
use weir_transport::{
    ClientEndpoint, ClientProfile, CloseReason, Connection, ConnectionLost, FrameError, FrameReader,
};

use crate::client::lock;
use crate::config::ClientConfig;
use crate::error::ConnectError;
use crate::silence;

/// How long an address gets before the next one is tried besides it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Most addresses that are tried in one round.
const ADDRESSES_MAX: usize = 64;

/// What all links of one client share.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) config: ClientConfig,
    pub(crate) endpoint: ClientEndpoint,
    /// The cluster that answered first; all others are refused from then on.
    cluster: OnceLock<String>,
}

impl Network {
    /// Reads certificates; connects nowhere yet.
    pub(crate) fn new(config: ClientConfig) -> Result<Network, ConnectError> {
        config.addresses()?;
        let tls = config
            .tls
            .load(&config.server_name)
            .map_err(|error| ConnectError::Identity(Arc::new(error)))?;
        let endpoint = ClientEndpoint::new(tls)
            .map_err(|error| ConnectError::Config(error.to_string()))?
            .with_mtu(config.mtu);
        Ok(Network { config, endpoint, cluster: OnceLock::new() })
    }
}

/// A connection after its hello.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) hello: Arc<HelloReply>,
}

/// One connection that comes back.
#[derive(Debug)]
pub(crate) struct Link {
    network: Arc<Network>,
    profile: std::sync::Mutex<ClientProfile>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Live>,
    /// The last attempt, if it failed.
    failure: Option<Failure>,
    closed: bool,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
    error: ConnectError,
    in_a_row: u32,
}

impl Link {
    pub(crate) fn new(network: Arc<Network>, profile: ClientProfile) -> Link {
        Link { network, profile: std::sync::Mutex::new(profile), state: Mutex::default() }
    }

    /// Makes room for this many subscriptions on the connection, and on those after it.
    pub(crate) async fn expect_subscriptions(&self, count: usize) {
        let window = match &mut *lock(&self.profile) {
            ClientProfile::Subscribe { streams, stream_window_bytes } => {
                *streams = count;
                *stream_window_bytes
            }
            ClientProfile::Control => return,
        };
        // Waits for an attempt under way, which has the old room.
        if let Some(live) = &self.state.lock().await.live {
            live.connection.expect_subscriptions(count, window);
        }
    }

    /// The same, if it is more than there is room for.
    pub(crate) async fn expect_more_subscriptions(&self, count: usize) {
        let room = match *lock(&self.profile) {
            ClientProfile::Subscribe { streams, .. } => streams,
            ClientProfile::Control => return,
        };
        if count > room {
            self.expect_subscriptions(count).await;
        }
    }

    /// The connection as it is, or after one attempt at a new one. Callers that wait for the same
    /// attempt share its result.
    ///
    /// # Cancel safety
    /// Safe; an attempt that nobody else waits for is broken off.
    pub(crate) async fn get(&self) -> Result<Live, ConnectError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if state.closed {
            return Err(ConnectError::Closed);
        }
        if let Some(live) = state.live.as_ref().filter(|live| live.connection.lost().is_none()) {
            return Ok(live.clone());
        }
        if let Some(failure) = state.failure.as_ref().filter(|failure| failure.at >= asked) {
            return Err(failure.error.clone());
        }
        state.live = None;
        let profile = *lock(&self.profile);
        match connect(&self.network, profile).await {
            Ok(live) => {
                state.failure = None;
                // With one address there is nothing better to do than to wait.
                if self.network.config.addresses().is_ok_and(|all| all.len() > 1) {
                    tokio::spawn(silence::watch(live.connection.clone(), profile));
                }
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let in_a_row = state.failure.as_ref().map_or(0, |failure| failure.in_a_row) + 1;
                let at = Instant::now();
                state.failure = Some(Failure { at, error: error.clone(), in_a_row });
                Err(error)
            }
        }
    }

    /// Tries until there is a connection, with growing delays in between. Each failure is
    /// reported to `on_failure`.
    ///
    /// # Errors
    /// The first error that trying again would not help.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn get_patiently(
        &self,
        mut on_failure: impl FnMut(&ConnectError),
    ) -> Result<Live, ConnectError> {
        loop {
            match self.get().await {
                Ok(live) => return Ok(live),
                Err(error) if !error.retryable() => return Err(error),
                Err(error) => on_failure(&error),
            }
            let failures = match &self.state.lock().await.failure {
                Some(failure) => failure.in_a_row,
                None => continue,
            };
            sleep(Backoff::CONNECT.jittered(failures)).await;
        }
    }

    /// Closes the connection for good.
    pub(crate) async fn close(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        if let Some(live) = state.live.take() {
            live.connection.close(CloseReason::Normal, "");
        }
    }

    /// Closes the connection as it is: the next caller gets a new one.
    pub(crate) fn drop_connection(&self, live: &Live, why: &str) {
        live.connection.close(CloseReason::Normal, why);
    }
}

/// Tries all addresses, each a moment after the one before it, and takes the first that answers and
/// reaches its cluster.
async fn connect(network: &Network, profile: ClientProfile) -> Result<Live, ConnectError> {
    let addresses = resolve(&network.config).await?;
    let mut attempts: FuturesUnordered<_> = addresses
        .into_iter()
        .enumerate()
        .map(|(n, address)| async move {
            sleep(NEXT_ADDRESS_AFTER * n as u32).await;
            connect_one(network, profile, address).await
        })
        .collect();
    let mut worst: Option<ConnectError> = None;
    // A node that does not reach its cluster is better than none.
    let mut cut_off: Option<Live> = None;
    while let Some(result) = attempts.next().await {
        match result {
            Ok(live) if live.hello.cut_off => match &cut_off {
                None => cut_off = Some(live),
                Some(_) => live.connection.close(CloseReason::Normal, ""),
            },
            Ok(live) => {
                if let Some(other) = cut_off {
                    other.connection.close(CloseReason::Normal, "");
                }
                return Ok(live);
            }
            // What a person must change says more than what may pass.
            Err(error) => match &worst {
                Some(known) if !known.retryable() || error.retryable() => {}
                _ => worst = Some(error),
            },
        }
    }
    cut_off.ok_or_else(|| worst.unwrap_or(ConnectError::Closed))
}

async fn resolve(config: &ClientConfig) -> Result<Vec<SocketAddr>, ConnectError> {
    let mut addresses = Vec::new();
    let mut unknown = None;
    for host in config.addresses()? {
        if let Ok(address) = host.parse() {
            addresses.push(address);
            continue;
        }
        let found = tokio::net::lookup_host(&host).await.map(Vec::from_iter);
        match found {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                unknown = Some(ConnectError::Resolve { host, reason: error.to_string() });
            }
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    match unknown {
        Some(error) if addresses.is_empty() => Err(error),
        _ => Ok(addresses),
    }
}

async fn connect_one(
    network: &Network,
    profile: ClientProfile,
    address: SocketAddr,
) -> Result<Live, ConnectError> {
    let after = network.config.connect_timeout;
    let attempt = async {
        let connection = network
            .endpoint
            .connect(address, None, profile)
            .await
            .map_err(|error| ConnectError::Transport(Arc::new(error)))?;
        let hello = match say_hello(&connection, &network.config.client_name, address).await {
            Ok(hello) => hello,
            Err(error) => {
                connection.close(CloseReason::Normal, "");
                return Err(error);
            }
        };
        let expected = network.cluster.get_or_init(|| hello.cluster.clone());
        if *expected != hello.cluster {
            connection.close(CloseReason::Normal, "another cluster");
            let (expected, found) = (expected.clone(), hello.cluster);
            return Err(ConnectError::OtherCluster { address, expected, found });
        }
        tracing::debug!(%address, node = hello.node, "connected");
        Ok(Live { connection, hello: Arc::new(hello) })
    };
    match timeout(after, attempt).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::TimedOut { address, after }),
    }
}

async fn say_hello(
    connection: &Connection,
    client: &str,
    address: SocketAddr,
) -> Result<HelloReply, ConnectError> {
    let hello = Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        client: client.to_owned(),
    };
    let exchange = async {
        let (mut writer, mut reader) = connection.open_stream().await.map_err(FrameError::Lost)?;
        let body = control::encode(&hello)?;
        // A node that refuses may stop the stream before it was read: its reason comes back.
        let sent = writer.write(FrameKind::Hello as u8, 0, &[body]).await;
        let sent = sent.and(writer.finish().await);
        let reply = receive(&mut reader, FrameKind::HelloReply).await;
        if reply.is_ok() {
            sent?;
        }
        reply
    };
    let reply: HelloReply = exchange.await.map_err(|error| match error {
        ReceiveError::Stream(FrameError::Lost(lost)) => ConnectError::Lost { address, lost },
        ReceiveError::Refused(error) => ConnectError::Refused { address, error },
        other => ConnectError::Protocol { address, reason: other.to_string() },
    })?;
    if !(PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION_MAX).contains(&reply.version) {
        let reason = format!("it chose version {}, which was not offered", reply.version);
        return Err(ConnectError::Protocol { address, reason });
    }
    Ok(reply)
}

/// Why the answer that was waited for did not come.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Stream(#[from] FrameError),
    #[error(transparent)]
    Refused(#[from] WireError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a frame of kind {0} came where another was expected")]
    Kind(u8),
    #[error("the stream ended without an answer")]
    NoAnswer,
}

impl ReceiveError {
    /// Whether the same on another stream or connection may succeed.
    pub(crate) fn retryable(&self) -> bool {
        match self {
            // Given up here because the node was silent. If the client was closed, the next
            // attempt to connect says so.
            Self::Stream(FrameError::Lost(ConnectionLost::ClosedHere)) => true,
            Self::Stream(error) => error.retryable(),
            Self::Refused(error) => error.code.retryable(),
            Self::NoAnswer => true,
            Self::Encode(_) | Self::Decode(_) | Self::Kind(_) => false,
        }
    }
}

/// Reads one control message of this kind; an error frame in its place is an error.
pub(crate) async fn receive<T: serde::de::DeserializeOwned>(
    reader: &mut FrameReader,
    kind: FrameKind,
) -> Result<T, ReceiveError> {
    let frame = reader.next(CONTROL_BYTES_MAX).await?.ok_or(ReceiveError::NoAnswer)?;
    match FrameKind::from_u8(frame.kind) {
        Some(found) if found == kind => Ok(control::decode(&frame.body)?),
        Some(FrameKind::Error) => Err(ReceiveError::Refused(control::decode(&frame.body)?)),
        _ => Err(ReceiveError::Kind(frame.kind)),
    }
}
