//! One QUIC connection, on either side, and its streams.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;

use crate::close::CloseReason;
use crate::error::ConnectionLost;
use crate::identity::Peer;
use crate::server::ConnectionPermit;
use crate::settings::subscribe_window;
use crate::stream::{FrameReader, FrameWriter};

/// A handle to a connection; clones share it.
///
/// The connection is closed when [`Connection::close`] is called, or when the last handle and
/// the last of its streams are dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    quinn: quinn::Connection,
    peer: Peer,
    /// Counts against the listener's limit until the last handle is gone.
    _permit: Option<ConnectionPermit>,
}

/// Both directions of a stream.
pub type Stream = (FrameWriter, FrameReader);

impl Connection {
    pub(crate) fn new(
        quinn: quinn::Connection,
        peer: Peer,
        permit: Option<ConnectionPermit>,
    ) -> Self {
        Self { inner: Arc::new(Inner { quinn, peer, _permit: permit }) }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// Where the peer is now; differs from [`Peer::address`] after it moved.
    pub fn remote_address(&self) -> SocketAddr {
        canonical(self.inner.quinn.remote_address())
    }

    /// Opens a stream. The peer learns of it with the first frame written.
    ///
    /// Waits while as many streams are open as the peer allows.
    ///
    /// # Errors
    /// [`ConnectionLost`] if the connection is gone.
    ///
    /// # Cancel safety
    /// Safe: dropping the future opens nothing.
    pub async fn open_stream(&self) -> Result<Stream, ConnectionLost> {
        let (send, recv) = self.inner.quinn.open_bi().await?;
        Ok((FrameWriter::new(send), FrameReader::new(recv)))
    }

    /// Waits for the peer to open a stream.
    ///
    /// # Errors
    /// [`ConnectionLost`] once the connection is gone.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses no stream.
    pub async fn accept_stream(&self) -> Result<Stream, ConnectionLost> {
        let (send, recv) = self.inner.quinn.accept_bi().await?;
        Ok((FrameWriter::new(send), FrameReader::new(recv)))
    }

    /// Closes the connection: streams fail at once on both sides, and the peer is told why.
    ///
    /// What was written but not acknowledged may be lost. `message` is cut to 512 bytes.
    pub fn close(&self, reason: CloseReason, message: &str) {
        self.inner.quinn.close(VarInt::from_u32(reason.code()), cut(message));
    }

    /// Waits until the connection is gone and says why.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) -> ConnectionLost {
        self.inner.quinn.closed().await.into()
    }

    /// Why the connection is gone, or `None` while it is up.
    pub fn lost(&self) -> Option<ConnectionLost> {
        self.inner.quinn.close_reason().map(Into::into)
    }

    /// Makes room for `streams` subscriptions, each with `stream_window_bytes` unread at most.
    ///
    /// For a connection made with [`crate::ClientProfile::Subscribe`], before it gets more
    /// subscriptions than it was made for. The window of a stream itself stays as it was.
    pub fn expect_subscriptions(&self, streams: usize, stream_window_bytes: usize) {
        self.inner.quinn.set_receive_window(subscribe_window(streams, stream_window_bytes));
    }

    /// What the path looks like now.
    pub fn stats(&self) -> PathStats {
        let stats = self.inner.quinn.stats();
        PathStats {
            mtu: stats.path.current_mtu,
            round_trip: stats.path.rtt,
            congestion_window_bytes: stats.path.cwnd,
            packets_sent: stats.path.sent_packets,
            packets_lost: stats.path.lost_packets,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.inner.peer).finish_non_exhaustive()
    }
}

/// Figures of a connection's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// Size of the largest datagrams sent, UDP payload, in bytes.
    pub mtu: u16,
    /// Smoothed round trip.
    pub round_trip: Duration,
    /// What may be in flight, in bytes.
    pub congestion_window_bytes: u64,
    /// Packets sent so far.
    pub packets_sent: u64,
    /// Packets found lost so far.
    pub packets_lost: u64,
    /// UDP payload sent so far, in bytes.
    pub bytes_sent: u64,
    /// UDP payload received so far, in bytes.
    pub bytes_received: u64,
}

/// An IPv4 address that an IPv6 socket shows as `::ffff:a.b.c.d`, as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(crate) fn cut(message: &str) -> &[u8] {
    const MESSAGE_BYTES_MAX: usize = 512;
    &message.as_bytes()[..message.len().min(MESSAGE_BYTES_MAX)]
}
