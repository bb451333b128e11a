//! QUIC transport parameters and UDP sockets, the same ones for nodes, clients and benches.
//!
//! The numbers come from `weir_core::limits`. What decides throughput is the size of a datagram:
//! over loopback 6,000 bytes from the start, elsewhere what discovery finds, up to Ethernet's.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use ring::rand::SecureRandom;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use weir_core::limits::{
    DRAIN_MAX, IDLE_TIMEOUT, KEEP_ALIVE_INTERVAL, MTU_LOOPBACK, MTU_MAX,
    NODE_CONNECTION_WINDOW_BYTES, SEND_WINDOW_BYTES, SOCKET_BUFFER_BYTES, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX,
};

use crate::identity::Identity;

/// Smallest datagram that QUIC allows (RFC 9000 section 14).
pub const MTU_MIN: u16 = 1_200;
/// Where discovery stops without a setting: an Ethernet frame less IPv6 and UDP headers.
const MTU_ETHERNET: u16 = 1_452;
/// How soon a larger datagram is tried again after losses looked like a black hole.
const MTU_RETRY: Duration = Duration::from_secs(10);

/// What a client's connection is for, which decides what it may receive unread.
///
/// Subscriptions that nobody reads fill the connection's window (RFC 9000 section 4.1) and would
/// then hold up acknowledgements and replies on the same connection, so they get one of their
/// own, whose window holds them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProfile {
    /// Requests and produce streams, which their tasks always read.
    Control,
    /// Subscriptions. None of them can hold up another, nor a reply, as long as there are no
    /// more than stated; see [`crate::Connection::expect_subscriptions`] for more of them.
    Subscribe {
        /// Most subscriptions at once.
        streams: usize,
        /// What each may hold unread, in bytes; at most `STREAM_WINDOW_BYTES`.
        stream_window_bytes: usize,
    },
}

/// A connection window, in bytes, that `streams` unread streams cannot exhaust.
///
/// It holds their windows and one more for everything else. The peer learns of freed room only
/// once an eighth of the window was freed (quinn), so it may believe the window to be that much
/// smaller than it is: without the margin, a hundred streams of which each was read a little
/// stopped for good.
pub(crate) fn subscribe_window(streams: usize, stream_window_bytes: usize) -> VarInt {
    let streams = streams as u64;
    let held = streams.saturating_mul(stream_window_bytes.min(STREAM_WINDOW_BYTES) as u64);
    let held = held.saturating_add(STREAM_WINDOW_BYTES as u64);
    let announced = held.saturating_add(held / 7).saturating_add(1);
    VarInt::try_from(announced).unwrap_or(VarInt::MAX)
}

/// How much one connection of a node may have under way: a node's memory against the product of
/// bandwidth and round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// What a client may send unread on all streams together, in bytes. One stream may send a
    /// quarter of it, and at most `STREAM_WINDOW_BYTES`, so that a few unread ones do not hold up
    /// the others.
    pub receive_bytes: usize,
    /// What is kept of sent data that the client has not confirmed, in bytes.
    pub send_bytes: usize,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { receive_bytes: NODE_CONNECTION_WINDOW_BYTES, send_bytes: SEND_WINDOW_BYTES }
    }
}

/// Parameters of one connection that a node accepts.
pub(crate) fn node_transport(
    remote: IpAddr,
    mtu: Option<u16>,
    windows: Windows,
) -> TransportConfig {
    let mut config = common_transport(remote, mtu);
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION_MAX))
        .stream_receive_window(window(STREAM_WINDOW_BYTES.min(windows.receive_bytes / 4)))
        .receive_window(window(windows.receive_bytes))
        .send_window(windows.send_bytes as u64);
    config
}

/// Parameters of one connection that a client opens.
pub(crate) fn client_transport(
    remote: IpAddr,
    mtu: Option<u16>,
    profile: ClientProfile,
) -> TransportConfig {
    let (stream_window, connection_window) = match profile {
        ClientProfile::Control => (STREAM_WINDOW_BYTES, window(NODE_CONNECTION_WINDOW_BYTES)),
        ClientProfile::Subscribe { streams, stream_window_bytes } => (
            stream_window_bytes.min(STREAM_WINDOW_BYTES),
            subscribe_window(streams, stream_window_bytes),
        ),
    };
    let mut config = common_transport(remote, mtu);
    config
        // A node never opens streams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(window(stream_window))
        .receive_window(connection_window)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
    config
}

fn common_transport(remote: IpAddr, mtu: Option<u16>) -> TransportConfig {
    let (initial, upper) = datagram_sizes(remote, mtu);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(upper).black_hole_cooldown(MTU_RETRY);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .send_window(SEND_WINDOW_BYTES as u64)
        .initial_mtu(initial)
        .mtu_discovery_config(Some(discovery))
        .enable_segmentation_offload(true)
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

/// Size of the first datagrams, and of the largest that are tried.
fn datagram_sizes(remote: IpAddr, mtu: Option<u16>) -> (u16, u16) {
    match mtu {
        Some(mtu) => {
            let mtu = mtu.clamp(MTU_MIN, MTU_MAX);
            (mtu, mtu)
        }
        None if remote.to_canonical().is_loopback() => (MTU_LOOPBACK, MTU_LOOPBACK),
        None => (MTU_MIN, MTU_ETHERNET),
    }
}

/// Parameters of an endpoint. With an identity they are the same after a restart, so that a
/// restarted node can tell a client that its connection is gone (RFC 9000 section 10.3).
pub(crate) fn endpoint_config(identity: Option<&Identity>) -> EndpointConfig {
    let mut config = match identity {
        Some(identity) => {
            let secret = identity.derive_secret("weir stateless reset v1");
            let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
            let mut config = EndpointConfig::new(Arc::new(key));
            config.cid_generator(|| Box::new(ConnectionIds));
            config
        }
        None => EndpointConfig::default(),
    };
    // In range by the assertion below; the error is the only one this setter has.
    let _ = config.max_udp_payload_size(MTU_MAX);
    config
}

const _: () = assert!(MTU_MIN <= MTU_LOOPBACK && MTU_LOOPBACK <= MTU_MAX);

/// Connection ids of random bytes alone.
///
/// quinn's own generator tags them with a key that changes at every start, and drops packets with
/// another tag in silence: after a restart clients would wait for their idle timeout.
struct ConnectionIds;

impl ConnectionIds {
    const BYTES: usize = 8;
}

impl quinn::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        let mut id = [0; Self::BYTES];
        // Without randomness ids repeat and quinn draws again; TLS would have failed before.
        let _ = ring::rand::SystemRandom::new().fill(&mut id);
        quinn::ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        Self::BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket with large buffers, bound to `address`.
///
/// An unspecified IPv6 address takes IPv4 too.
pub(crate) fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    enlarge_buffers(&socket);
    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The kernel gives what its own limit allows; less costs losses, not correctness.
fn enlarge_buffers(socket: &Socket) {
    for result in [
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "cannot enlarge a socket buffer");
        }
    }
}

/// Sizes of a socket's receive and send buffers, in bytes, as far as the system tells.
pub(crate) fn socket_buffers(socket: &UdpSocket) -> (usize, usize) {
    let socket = SockRef::from(socket);
    // Linux reports twice what it grants: the other half is its own bookkeeping (socket(7)).
    let share = if cfg!(target_os = "linux") { 2 } else { 1 };
    let receive = socket.recv_buffer_size().unwrap_or(0) / share;
    let send = socket.send_buffer_size().unwrap_or(0) / share;
    (receive, send)
}

/// Warns, once for each listener, where the kernel's limit is below what was asked for.
pub(crate) fn warn_about_small_buffers(socket: &UdpSocket, address: SocketAddr) {
    let (receive, send) = socket_buffers(socket);
    if receive < SOCKET_BUFFER_BYTES || send < SOCKET_BUFFER_BYTES {
        tracing::warn!(
            %address,
            receive_bytes = receive,
            send_bytes = send,
            wanted_bytes = SOCKET_BUFFER_BYTES,
            "the kernel granted smaller UDP buffers than asked for, so bursts may be lost and \
             sent again; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
}

fn window(bytes: usize) -> VarInt {
    VarInt::try_from(bytes as u64).unwrap_or(VarInt::MAX)
}

/// Waits until the closed connections of an endpoint are done, but not for ever.
///
/// Peers are told at once; what is waited for is whether they have to be told again. With quinn an
/// attempt that its maker gave up in its first datagram counts as open until it was idle for long,
/// and one that nobody answered for seconds. Whoever closes the socket need not wait for either
/// (RFC 9000, section 10.2).
pub(crate) async fn drain(endpoint: &quinn::Endpoint) {
    if tokio::time::timeout(DRAIN_MAX, endpoint.wait_idle()).await.is_err() {
        tracing::debug!(open = endpoint.open_connections(), "not waited for any longer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what the peer may know of the window always holds all streams and one more.
    #[test]
    fn a_subscribe_window_holds_all_its_streams() {
        for (streams, each) in [(0, 0), (1, 1), (100, 32 << 10), (16_384, STREAM_WINDOW_BYTES)] {
            let window = subscribe_window(streams, each).into_inner();
            let known = window - window / 8;
            assert!(known >= (streams * each + STREAM_WINDOW_BYTES) as u64, "{streams} {each}");
        }
        assert_eq!(subscribe_window(usize::MAX, usize::MAX), VarInt::MAX);
    }

    /// Goal: a connection's windows are as configured, and a stream has a quarter of them at most.
    #[test]
    fn windows_of_a_node() {
        let loopback = "127.0.0.1".parse().unwrap();
        let shown = |windows| format!("{:?}", node_transport(loopback, None, windows));
        let small = shown(Windows { receive_bytes: 2 << 20, send_bytes: 3 << 20 });
        for part in ["stream_receive_window: 524288", " receive_window: 2097152", "w: 3145728"] {
            assert!(small.contains(part), "{part}: {small}");
        }
        let usual = shown(Windows::default());
        assert!(
            usual.contains(&format!("stream_receive_window: {STREAM_WINDOW_BYTES}")),
            "{usual}"
        );
    }

    #[test]
    fn sizes_of_datagrams() {
        let loopback = "127.0.0.1".parse().unwrap();
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert_eq!(datagram_sizes(loopback, None), (MTU_LOOPBACK, MTU_LOOPBACK));
        assert_eq!(datagram_sizes(mapped, None), (MTU_LOOPBACK, MTU_LOOPBACK));
        assert_eq!(datagram_sizes(elsewhere, None), (MTU_MIN, MTU_ETHERNET));
        assert_eq!(datagram_sizes(elsewhere, Some(9_000)), (MTU_MAX, MTU_MAX));
        assert_eq!(datagram_sizes(loopback, Some(1)), (MTU_MIN, MTU_MIN));
    }
}
