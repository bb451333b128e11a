//! How nodes and clients of Weir talk: QUIC connections with certificates on both sides, frames
//! on streams, control messages in CBOR.
//!
//! This is the only crate that names quinn and rustls; its callers see connections, frames and
//! typed reasons. What the frames mean is the broker's and the client SDK's business.
//!
//! - [`ServerEndpoint`] and [`ClientEndpoint`] make a [`Connection`].
//! - A [`Connection`] gives streams: a [`FrameWriter`] and a [`FrameReader`].
//! - [`HttpsClient`] makes connections to other servers than Weir's secure, for modules.
//! - [`control`] sends requests; [`Authority`] issues certificates; [`mod@bench`] measures the bare
//!   transport.

mod authority;
mod client;
mod clock;
mod close;
mod connection;
mod error;
mod folder;
mod frame;
mod https;
mod identity;
mod names;
mod problem;
mod server;
mod settings;
mod stream;
mod tls;

pub mod bench;
pub mod control;
pub mod join;

pub use authority::{Authority, AuthorityError, CredentialPem, NODE_VALID, NodeCredentials};
pub use client::ClientEndpoint;
pub use clock::{Clock, build_date};
pub use close::CloseReason;
pub use connection::{Connection, PathStats, Stream};
pub use error::{BindError, ConnectError, ConnectionLost, HandshakeError};
pub use frame::{Frame, FrameDecoder, FrameError, FrameHeader, HEADER_BYTES};
pub use https::{HttpsClient, HttpsError};
pub use identity::{
    CertificateFacts, Identity, IdentityError, NODE_SERVER_NAME, Peer, PeerKind, Trust,
};
pub use names::NodeNames;
pub use problem::{CertificateProblem, Instant, Refusal};
pub use server::{ConnectionLimit, HandshakeLimits, Incoming, ListenConfig, ServerEndpoint};
pub use settings::{ClientProfile, MTU_MIN, Windows};
pub use stream::{FrameReader, FrameWriter};
pub use tls::{ClientAuth, ClientTls};
