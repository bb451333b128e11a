//! The listening side: who gets in, and how many.
//!
//! A datagram from a stranger costs this node a handshake, so attempts are bounded before any
//! key exchange is made: connections in all, unfinished handshakes in all, unfinished handshakes
//! per source. Once many are unfinished, a source must first prove that it receives what is sent
//! to it (a QUIC Retry, RFC 9000 section 8.1.2), which spoofed floods cannot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_core::limits::CONNECTIONS_MAX;

use crate::clock::Clock;
use crate::close::CloseReason;
use crate::connection::{Connection, canonical, cut};
use crate::error::{BindError, ConnectionLost, HandshakeError};
use crate::identity::{CertificateFacts, Identity, Peer, PeerKind, Trust};
use crate::problem::{CertificateProblem, Refusal};
use crate::settings::{self, Windows};
use crate::tls::{ClientAuth, Note, ServerSetup};

/// Most connections that may exist at once; shared by all listeners of a node.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    permits: Arc<Semaphore>,
}

impl ConnectionLimit {
    /// At most `connections_max` at once.
    pub fn new(connections_max: usize) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { permits }
    }

    /// How many more would be accepted now.
    pub fn available(&self) -> usize {
        self.permits.available_permits()
    }
}

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self::new(CONNECTIONS_MAX)
    }
}

/// Most attempts that wait for [`ServerEndpoint::accept`]; more are dropped without an answer.
const WAITING_MAX: usize = 1_024;

/// One connection's share of the limit.
pub(crate) struct ConnectionPermit(
    #[expect(dead_code, reason = "held, never read")] OwnedSemaphorePermit,
);

/// Bounds on handshakes that are not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// Longest time a handshake may take.
    pub timeout: Duration,
    /// Most unfinished handshakes at once.
    pub unfinished_max: usize,
    /// Most unfinished handshakes at once from one source: an IPv4 address or an IPv6 /64.
    pub unfinished_per_source_max: usize,
    /// From this many unfinished handshakes on, a source must prove its address first.
    pub prove_address_from: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            unfinished_max: 256,
            unfinished_per_source_max: 128,
            prove_address_from: 64,
        }
    }
}

/// How a node listens.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// UDP address; port 0 takes a free one.
    pub address: SocketAddr,
    /// What the node shows to clients.
    pub identity: Identity,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// Authorities whose client certificates are accepted.
    pub client_trust: Trust,
    /// What certificates are checked against.
    pub clock: Clock,
    /// Most connections.
    pub connections: ConnectionLimit,
    /// Bounds on unfinished handshakes.
    pub handshakes: HandshakeLimits,
    /// Size of UDP payloads where it is known, in bytes; otherwise 6,000 over loopback and what
    /// discovery finds elsewhere. Clamped to 1,200 and `MTU_MAX`.
    pub mtu: Option<u16>,
    /// How much a connection may have under way.
    pub windows: Windows,
}

impl ListenConfig {
    /// Listens on `address`, requiring client certificates from `client_trust`, with the
    /// default limits and the system clock.
    pub fn new(address: SocketAddr, identity: Identity, client_trust: Trust) -> Self {
        Self {
            address,
            identity,
            client_auth: ClientAuth::Required,
            client_trust,
            clock: Clock::system(),
            connections: ConnectionLimit::default(),
            handshakes: HandshakeLimits::default(),
            mtu: None,
            windows: Windows::default(),
        }
    }
}

/// A listening socket and all connections that came in through it.
pub struct ServerEndpoint {
    endpoint: quinn::Endpoint,
    shared: Arc<Shared>,
}

struct Shared {
    setup: ServerSetup,
    quic: quinn::ServerConfig,
    mtu: Option<u16>,
    windows: Windows,
    limits: HandshakeLimits,
    connections: ConnectionLimit,
    unfinished: Mutex<Unfinished>,
    refused: AtomicU64,
    /// Whether the last attempt was refused, so that a run of refusals is logged once.
    refusing: AtomicBool,
}

impl ServerEndpoint {
    /// Opens the socket. Must be called on a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// [`BindError`] if the socket cannot be had or the TLS settings do not fit together.
    pub fn bind(config: ListenConfig) -> Result<Self, BindError> {
        let at = |source| BindError::Socket { address: config.address, source };
        let socket = settings::udp_socket(config.address).map_err(at)?;
        settings::warn_about_small_buffers(&socket, config.address);
        let endpoint_config = settings::endpoint_config(Some(&config.identity));
        let setup = ServerSetup::new(
            config.identity,
            config.client_auth,
            &config.client_trust,
            config.clock,
        )?;
        let (tls, _) = setup.connection()?;
        let crypto =
            QuicServerConfig::try_from(tls).map_err(|error| BindError::Tls(error.to_string()))?;
        let mut quic = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        quic.max_incoming(WAITING_MAX)
            // What a client may send ahead before it was accepted; a hello is far smaller.
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(4 << 20);
        let endpoint = quinn::Endpoint::new(
            endpoint_config,
            Some(quic.clone()),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(at)?;
        let shared = Shared {
            setup,
            quic,
            mtu: config.mtu,
            windows: config.windows,
            limits: config.handshakes,
            connections: config.connections,
            unfinished: Mutex::default(),
            refused: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
        };
        Ok(Self { endpoint, shared: Arc::new(shared) })
    }

    /// The address that it listens on, with the port that was taken.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits for a client that is within all limits; `None` once the endpoint is closed.
    ///
    /// Refuses the others on the way. The handshake is the caller's to run, in a task of its own:
    /// [`Incoming::handshake`].
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses no client.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let attempt = self.endpoint.accept().await?;
            if let Some(incoming) = self.admit(attempt) {
                return Some(incoming);
            }
        }
    }

    /// How many attempts were refused because of a limit, since the start.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Closes all connections and accepts no more.
    pub fn close(&self, reason: CloseReason, message: &str) {
        self.endpoint.close(VarInt::from_u32(reason.code()), cut(message));
    }

    /// Waits until the peers were told that their connections are closed, for
    /// [`weir_core::limits::DRAIN_MAX`] at most.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_idle(&self) {
        settings::drain(&self.endpoint).await;
    }

    fn admit(&self, attempt: quinn::Incoming) -> Option<Incoming> {
        let shared = &self.shared;
        let address = canonical(attempt.remote_address());
        let Ok(permit) = shared.connections.permits.clone().try_acquire_owned() else {
            shared.refuse(attempt, address, "the node has as many connections as it allows");
            return None;
        };
        let unfinished = shared.lock_unfinished().total;
        if unfinished >= shared.limits.prove_address_from
            && !attempt.remote_address_validated()
            && attempt.may_retry()
        {
            // Fails only where may_retry() is false.
            let _ = attempt.retry();
            return None;
        }
        let Some(place) = Place::take(shared, address.ip()) else {
            shared.refuse(attempt, address, "too many handshakes are unfinished");
            return None;
        };
        shared.refusing.store(false, Ordering::Relaxed);
        let permit = ConnectionPermit(permit);
        Some(Incoming { attempt, address, place, permit, shared: shared.clone() })
    }
}

impl Shared {
    fn refuse(&self, attempt: quinn::Incoming, address: SocketAddr, reason: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if self.refusing.swap(true, Ordering::Relaxed) {
            tracing::debug!(%address, reason, "connection refused");
        } else {
            tracing::warn!(%address, reason, "connection refused; further ones are counted only");
        }
        attempt.refuse();
    }

    fn lock_unfinished(&self) -> MutexGuard<'_, Unfinished> {
        // Counters stay consistent whatever a holder did.
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handshakes that are not finished.
#[derive(Default)]
struct Unfinished {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One unfinished handshake's place in the counts; leaves when dropped.
struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr) -> Option<Self> {
        let source = source_of(address);
        let mut unfinished = shared.lock_unfinished();
        let of_source = unfinished.by_source.get(&source).copied().unwrap_or(0);
        if unfinished.total >= shared.limits.unfinished_max
            || of_source >= shared.limits.unfinished_per_source_max
        {
            return None;
        }
        unfinished.total += 1;
        unfinished.by_source.insert(source, of_source + 1);
        drop(unfinished);
        Some(Self { shared: shared.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut unfinished = self.shared.lock_unfinished();
        unfinished.total -= 1;
        match unfinished.by_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                unfinished.by_source.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: a client usually owns a whole IPv6 /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// A client at the door.
pub struct Incoming {
    attempt: quinn::Incoming,
    address: SocketAddr,
    place: Place,
    permit: ConnectionPermit,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Where it comes from, as far as that is known yet.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs the TLS handshake and checks the client's certificate.
    ///
    /// # Errors
    /// [`HandshakeError`], which the client was told too, in its own terms.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the attempt off.
    pub async fn handshake(self) -> Result<Connection, HandshakeError> {
        let Self { attempt, address, place, permit, shared } = self;
        let (config, note) = connection_config(&shared, address)
            .map_err(|error| HandshakeError::Lost(ConnectionLost::Protocol(error.to_string())))?;
        let connecting = attempt
            .accept_with(Arc::new(config))
            .map_err(|error| HandshakeError::Lost(error.into()))?;
        let limit = shared.limits.timeout;
        let connection = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| HandshakeError::TimedOut(limit))?
            .map_err(|error| handshake_error(error, &note))?;
        drop(place);
        let peer = peer_of(&connection).map_err(HandshakeError::ClientCertificate)?;
        Ok(Connection::new(connection, peer, Some(permit)))
    }
}

fn connection_config(
    shared: &Shared,
    address: SocketAddr,
) -> Result<(quinn::ServerConfig, Note), BindError> {
    let (tls, note) = shared.setup.connection()?;
    let crypto =
        QuicServerConfig::try_from(tls).map_err(|error| BindError::Tls(error.to_string()))?;
    let mut config = shared.quic.clone();
    config.crypto = Arc::new(crypto);
    config.transport_config(Arc::new(settings::node_transport(
        address.ip(),
        shared.mtu,
        shared.windows,
    )));
    Ok((config, note))
}

fn handshake_error(error: ConnectionError, note: &Note) -> HandshakeError {
    if let Some(problem) = note.get() {
        return HandshakeError::ClientCertificate(problem.clone());
    }
    if let ConnectionError::TransportError(error) = &error
        && let Some(alert) = crate::error::alert_of(error.code)
        && Refusal::from_alert(alert, String::new()) == Refusal::CertificateRequired
    {
        return HandshakeError::NoCertificate;
    }
    match ConnectionLost::from(error) {
        ConnectionLost::Refused(refusal) => HandshakeError::RefusedByClient(refusal),
        lost => HandshakeError::Lost(lost),
    }
}

/// Who is at the other end of a connection whose handshake is done.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Result<Peer, CertificateProblem> {
    let address = canonical(connection.remote_address());
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(leaf) = chain.as_ref().and_then(|chain| chain.first()) else {
        return Ok(Peer { principal: None, kind: PeerKind::Anonymous, address });
    };
    let facts = CertificateFacts::from_der(leaf)?;
    Ok(Peer { principal: Some(facts.principal), kind: facts.kind, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_source_is_its_network() {
        let one = source_of("2001:db8::1".parse().unwrap());
        let other = source_of("2001:db8::ffff:2".parse().unwrap());
        let elsewhere = source_of("2001:db8:0:1::1".parse().unwrap());
        assert_eq!(one, other);
        assert_ne!(one, elsewhere);
    }
}
