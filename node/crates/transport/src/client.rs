//! The connecting side.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use quinn::VarInt;
use quinn::crypto::rustls::QuicClientConfig;

use crate::clock::Clock;
use crate::close::CloseReason;
use crate::connection::{Connection, canonical, cut};
use crate::error::{BindError, ConnectError, ConnectionLost};
use crate::identity::NODE_SERVER_NAME;
use crate::join::Fingerprint;
use crate::server::peer_of;
use crate::settings::{self, ClientProfile};
use crate::tls::{ClientSetup, ClientTls};

/// A client's sockets: one for IPv4 and one for IPv6, opened when first needed.
///
/// Must be used on a tokio runtime, which then drives them.
pub struct ClientEndpoint {
    setup: ClientSetup,
    server_name: String,
    mtu: Option<u16>,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
    closed: bool,
}

impl ClientEndpoint {
    /// An endpoint that connects as `tls` says.
    ///
    /// # Errors
    /// [`BindError::Tls`] if the settings do not fit together, as with no trusted authority.
    pub fn new(tls: ClientTls) -> Result<Self, BindError> {
        let setup = ClientSetup::new(&tls)?;
        Ok(Self { setup, server_name: tls.server_name, mtu: None, sockets: Mutex::default() })
    }

    /// An endpoint of a client that knows no more of the site than the fingerprint of its
    /// authority's certificate, and has no certificate yet: a node that joins.
    ///
    /// # Errors
    /// [`BindError::Tls`].
    pub fn pinned(authority: Fingerprint, clock: &Clock) -> Result<Self, BindError> {
        let (setup, sockets) = (ClientSetup::pinned(authority, clock)?, Mutex::default());
        Ok(Self { setup, server_name: NODE_SERVER_NAME.to_owned(), mtu: None, sockets })
    }

    /// Sets the size of UDP payloads where it is known, in bytes; otherwise 6,000 over loopback
    /// and what discovery finds elsewhere. Clamped to 1,200 and `MTU_MAX`.
    pub fn with_mtu(mut self, mtu: Option<u16>) -> Self {
        self.mtu = mtu;
        self
    }

    /// Connects to the node at `address`.
    ///
    /// The node's certificate must hold `server_name`, or the name in [`ClientTls`] for `None`.
    /// Gives up after the idle timeout; a caller with less patience wraps it in its own timeout.
    ///
    /// A refusal of *this client's* certificate may arrive only afterwards, since TLS 1.3 lets
    /// the client finish first: then the first read on a stream fails with
    /// [`ConnectionLost::Refused`]. Saying hello right after connecting finds out.
    ///
    /// # Errors
    /// [`ConnectError`], which names what was wrong with a certificate.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the attempt off.
    pub async fn connect(
        &self,
        address: SocketAddr,
        server_name: Option<&str>,
        profile: ClientProfile,
    ) -> Result<Connection, ConnectError> {
        let endpoint = self.endpoint_for(address)?;
        let (tls, note) = self.setup.connection();
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| {
            // No initial cipher suite: the provider here always has one.
            ConnectError::Lost { address, lost: ConnectionLost::Protocol(error.to_string()) }
        })?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let remote = canonical(address).ip();
        config.transport_config(Arc::new(settings::client_transport(remote, self.mtu, profile)));
        let name = server_name.unwrap_or(&self.server_name);
        let connecting = endpoint
            .connect_with(config, address, name)
            .map_err(|error| connect_error(error, address))?;
        let connection = connecting.await.map_err(|error| match note.get() {
            Some(problem) => ConnectError::NodeCertificate { address, problem: problem.clone() },
            None => ConnectError::Lost { address, lost: error.into() },
        })?;
        let peer = peer_of(&connection)
            .map_err(|problem| ConnectError::NodeCertificate { address, problem })?;
        Ok(Connection::new(connection, peer, None))
    }

    /// Moves all connections to new sockets, as a change of network would.
    ///
    /// Connections go on from the new address (RFC 9000 section 9).
    ///
    /// # Errors
    /// If a new socket cannot be opened; the old one is kept then.
    pub fn rebind(&self) -> io::Result<()> {
        let sockets = self.lock();
        if let Some(endpoint) = &sockets.v4 {
            endpoint.rebind(settings::udp_socket(any_v4())?)?;
        }
        if let Some(endpoint) = &sockets.v6 {
            endpoint.rebind(settings::udp_socket(any_v6())?)?;
        }
        Ok(())
    }

    /// Closes all connections; later attempts fail with [`ConnectError::Closed`].
    pub fn close(&self, reason: CloseReason, message: &str) {
        let mut sockets = self.lock();
        sockets.closed = true;
        for endpoint in [&sockets.v4, &sockets.v6].into_iter().flatten() {
            endpoint.close(VarInt::from_u32(reason.code()), cut(message));
        }
    }

    /// Waits until the peers were told that their connections are closed, for
    /// [`weir_core::limits::DRAIN_MAX`] at most.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_idle(&self) {
        let endpoints = {
            let sockets = self.lock();
            [sockets.v4.clone(), sockets.v6.clone()]
        };
        let [v4, v6] = endpoints.map(|endpoint| async move {
            if let Some(endpoint) = endpoint {
                settings::drain(&endpoint).await;
            }
        });
        tokio::join!(v4, v6);
    }

    fn endpoint_for(&self, address: SocketAddr) -> Result<quinn::Endpoint, ConnectError> {
        let mut sockets = self.lock();
        if sockets.closed {
            return Err(ConnectError::Closed);
        }
        let (slot, any) = match address {
            SocketAddr::V4(_) => (&mut sockets.v4, any_v4()),
            SocketAddr::V6(_) => (&mut sockets.v6, any_v6()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let socket = settings::udp_socket(any).map_err(ConnectError::Socket)?;
        let endpoint = quinn::Endpoint::new(
            settings::endpoint_config(None),
            None,
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(ConnectError::Socket)?;
        *slot = Some(endpoint.clone());
        Ok(endpoint)
    }

    fn lock(&self) -> MutexGuard<'_, Sockets> {
        // Handles stay valid whatever a holder did.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientEndpoint")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

fn connect_error(error: quinn::ConnectError, address: SocketAddr) -> ConnectError {
    match error {
        quinn::ConnectError::InvalidServerName(name) => ConnectError::InvalidServerName(name),
        quinn::ConnectError::InvalidRemoteAddress(address) => ConnectError::InvalidAddress {
            address,
            reason: "it has no port, or is of another address family".to_owned(),
        },
        quinn::ConnectError::EndpointStopping => ConnectError::Closed,
        other => ConnectError::Lost { address, lost: ConnectionLost::Protocol(other.to_string()) },
    }
}

fn any_v4() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
}

fn any_v6() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
}
