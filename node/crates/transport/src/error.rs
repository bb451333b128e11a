//! What can go wrong with a connection, one enum per operation.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use quinn::{ConnectionError, TransportErrorCode};

use crate::close::CloseReason;
use crate::problem::{CertificateProblem, Refusal};

/// Why a connection that was up is up no longer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionLost {
    /// The peer closed it and said why.
    #[error("the peer closed the connection: {reason}{}", said(message))]
    ClosedByPeer {
        /// The stated reason.
        reason: CloseReason,
        /// More about it, for a person; may be empty.
        message: String,
    },
    /// This side closed it.
    #[error("the connection was closed on this side")]
    ClosedHere,
    /// The peer refused our certificate, or the lack of one.
    ///
    /// TLS 1.3 lets a client finish its handshake before the node has seen the client's
    /// certificate, so this may be the first thing that a client reads on a new connection.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// The node takes no more connections: it has no room, or is shutting down. QUIC has one code
    /// for both, without a text.
    #[error("the node takes no more connections: it is shutting down or has as many as it allows")]
    Busy,
    /// The peer was silent for longer than the idle timeout.
    #[error("the peer did not answer any more")]
    TimedOut,
    /// The peer does not know this connection: it restarted.
    #[error("the peer does not know this connection any more (it restarted)")]
    Reset,
    /// One side violated the QUIC protocol.
    #[error("QUIC failed: {0}")]
    Protocol(String),
}

impl ConnectionLost {
    /// Whether a new connection may succeed without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::ClosedByPeer { reason, .. } => reason.retryable(),
            Self::Busy | Self::TimedOut | Self::Reset | Self::Protocol(_) => true,
            Self::ClosedHere | Self::Refused(_) => false,
        }
    }
}

impl From<ConnectionError> for ConnectionLost {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::ClosedByPeer {
                reason: u32::try_from(close.error_code.into_inner())
                    .map_or(CloseReason::Other(u32::MAX), CloseReason::from_code),
                message: readable(&close.reason),
            },
            ConnectionError::ConnectionClosed(close) => {
                if let Some(alert) = alert_of(close.error_code) {
                    return Self::Refused(Refusal::from_alert(alert, readable(&close.reason)));
                }
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED {
                    return Self::Busy;
                }
                Self::Protocol(format!("{}{}", close.error_code, said(&readable(&close.reason))))
            }
            ConnectionError::TransportError(error) => Self::Protocol(error.to_string()),
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::VersionMismatch => {
                Self::Protocol("no QUIC version in common".to_owned())
            }
            ConnectionError::CidsExhausted => {
                Self::Protocol("this endpoint has no free connection ids".to_owned())
            }
        }
    }
}

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No local socket could be opened.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be connected to.
    #[error("{address} is not an address to connect to: {reason}")]
    InvalidAddress {
        /// What was given.
        address: SocketAddr,
        /// What is wrong with it.
        reason: String,
    },
    /// The server name is not a valid DNS name or IP address.
    #[error("{0:?} is not a valid server name")]
    InvalidServerName(String),
    /// The node's certificate was not acceptable to this client.
    #[error("the certificate of the node at {address} is not acceptable: {problem}")]
    NodeCertificate {
        /// Who presented it.
        address: SocketAddr,
        /// What was wrong with it.
        problem: CertificateProblem,
    },
    /// The connection failed while it was being set up.
    #[error("cannot connect to {address}: {lost}")]
    Lost {
        /// Who was to be connected to.
        address: SocketAddr,
        /// What happened.
        lost: ConnectionLost,
    },
    /// The endpoint was closed.
    #[error("this client was closed")]
    Closed,
}

impl ConnectError {
    /// Whether another attempt may succeed without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Lost { lost, .. } => lost.retryable(),
            Self::Socket(_) => true,
            Self::InvalidAddress { .. }
            | Self::InvalidServerName(_)
            | Self::NodeCertificate { .. }
            | Self::Closed => false,
        }
    }
}

/// Why a node could not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The UDP socket could not be opened.
    #[error("cannot listen on UDP {address}: {source}")]
    Socket {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS settings do not work together.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why a connection attempt did not become a connection, on the node's side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client's certificate was not acceptable.
    #[error("the client certificate was refused: {0}")]
    ClientCertificate(CertificateProblem),
    /// The client presented no certificate where one is required.
    #[error("the client presented no certificate, and this listener requires one")]
    NoCertificate,
    /// The client did not finish the handshake in time.
    #[error("the handshake was not finished within {0:?}")]
    TimedOut(Duration),
    /// The client refused the node's certificate.
    #[error("the client refused: {0}")]
    RefusedByClient(Refusal),
    /// Anything else.
    #[error("the handshake failed: {0}")]
    Lost(ConnectionLost),
}

/// The TLS alert inside a QUIC crypto error code (RFC 9001 section 4.8).
pub(crate) fn alert_of(code: TransportErrorCode) -> Option<u8> {
    match u64::from(code) {
        code @ 0x100..=0x1ff => Some((code & 0xff) as u8),
        _ => None,
    }
}

/// Text from the wire, fit for a log line: bounded, and without control characters.
fn readable(bytes: &[u8]) -> String {
    const TEXT_BYTES_MAX: usize = 512;
    let bytes = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_wire_is_bounded_and_has_no_control_characters() {
        assert_eq!(readable(b"a\x1b[31mb\nc\xff"), "a[31mbc\u{fffd}");
        assert_eq!(readable(&[b'x'; 5_000]).len(), 512);
    }

    #[test]
    fn crypto_errors_carry_their_alert() {
        assert_eq!(alert_of(TransportErrorCode::crypto(116)), Some(116));
        assert_eq!(alert_of(TransportErrorCode::CONNECTION_REFUSED), None);
    }
}
