//! Limits of a listener, and the size of datagrams.

use std::net::{Ipv6Addr, SocketAddr};

use bytes::Bytes;
use weir_core::limits::{MTU_LOOPBACK, MTU_MAX};
use weir_transport::{
    ClientAuth, ClientProfile, CloseReason, ConnectError, Connection, ConnectionLimit,
    ConnectionLost,
};

use crate::support::{Node, Site, client, connect, echo};

/// Goal: the 65th connection is refused with a reason, and accepted once there is room.
#[tokio::test]
async fn connections_are_limited() {
    const MAX: usize = 64;
    let site = Site::new();
    let mut listen = site.listen(ClientAuth::Optional);
    listen.connections = ConnectionLimit::new(MAX);
    let limit = listen.connections.clone();
    let mut node = Node::start(listen);
    let endpoint = client(site.anonymous());
    let mut held = Vec::new();
    for _ in 0..MAX {
        held.push(tokio::join!(connect(&endpoint, node.address), node.connection()));
    }
    assert_eq!(limit.available(), 0);
    let error = endpoint.connect(node.address, None, ClientProfile::Control).await.unwrap_err();
    assert!(matches!(error, ConnectError::Lost { lost: ConnectionLost::Busy, .. }), "{error}");
    assert!(error.to_string().contains("as many as it allows"), "{error}");
    assert!(error.retryable());
    assert_eq!(node.endpoint.refused(), 1);

    let (of_client, of_node) = held.pop().unwrap();
    of_client.close(CloseReason::Normal, "");
    of_node.closed().await;
    drop(of_node);
    assert_eq!(limit.available(), 1);
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    echo(&of_client, &of_node).await;
}

/// Goal: who comes while a node shuts down reads that, and may try again.
#[tokio::test]
async fn closing_takes_no_connections() {
    let site = Site::new();
    let node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    node.endpoint.close(CloseReason::Shutdown, "");
    let refused = endpoint.connect(node.address, None, ClientProfile::Control).await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    assert!(error.retryable());
}

/// Goal: two listeners share one limit.
#[tokio::test]
async fn listeners_share_a_limit() {
    let site = Site::new();
    let limit = ConnectionLimit::new(1);
    let mut listen = site.listen(ClientAuth::Optional);
    listen.connections = limit.clone();
    let mut one = Node::start(listen.clone());
    let other = Node::start(listen);
    let endpoint = client(site.anonymous());
    let held = tokio::join!(connect(&endpoint, one.address), one.connection());
    let refused = endpoint.connect(other.address, None, ClientProfile::Control).await;
    assert!(matches!(refused, Err(ConnectError::Lost { lost: ConnectionLost::Busy, .. })));
    drop(held);
}

#[tokio::test]
async fn unfinished_handshakes_are_limited() {
    let site = Site::new();
    let endpoint = client(site.anonymous());
    for (all, per_source) in [(0, 8), (8, 0)] {
        let mut listen = site.listen(ClientAuth::Optional);
        listen.handshakes.unfinished_max = all;
        listen.handshakes.unfinished_per_source_max = per_source;
        let node = Node::start(listen);
        let refused = endpoint.connect(node.address, None, ClientProfile::Control).await;
        assert!(
            matches!(refused, Err(ConnectError::Lost { lost: ConnectionLost::Busy, .. })),
            "{refused:?}"
        );
        assert!(node.endpoint.refused() <= 1);
    }
}

/// Goal: a node under pressure makes clients prove their address, and honest ones get in.
#[tokio::test]
async fn a_client_proves_its_address() {
    let site = Site::new();
    let mut listen = site.listen(ClientAuth::Optional);
    listen.handshakes.prove_address_from = 0;
    let mut node = Node::start(listen);
    let endpoint = client(site.anonymous());
    let (of_client, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    echo(&of_client, &of_node).await;
    assert_eq!(node.endpoint.refused(), 0);
}

/// Goal: a client that never finishes its handshake is given up on and frees its place. Method:
/// a socket that sends the first datagram of a real client again, and answers nothing.
#[tokio::test]
async fn an_unfinished_handshake_is_given_up() {
    let site = Site::new();
    let catcher = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let endpoint = client(site.anonymous());
    let address = catcher.local_addr().unwrap();
    let catching = tokio::task::spawn_blocking(move || {
        let mut datagram = [0; 2_048];
        let (length, _) = catcher.recv_from(&mut datagram).unwrap();
        (catcher, datagram[..length].to_vec())
    });
    let (catcher, first) = tokio::select! {
        _ = endpoint.connect(address, None, ClientProfile::Control) => panic!("nobody answers"),
        caught = catching => caught.unwrap(),
    };
    let mut listen = site.listen(ClientAuth::Optional);
    listen.handshakes.timeout = std::time::Duration::from_millis(20);
    let limit = listen.connections.clone();
    let all = limit.available();
    let mut node = Node::start(listen);
    catcher.send_to(&first, node.address).unwrap();
    let refusal = node.refusal().await;
    assert!(matches!(refusal, weir_transport::HandshakeError::TimedOut(_)), "{refusal}");
    assert_eq!(limit.available(), all);
}

async fn transfer(of_client: &Connection, of_node: &Connection) {
    let (mut writer, _reader) = of_client.open_stream().await.unwrap();
    let sending = async {
        writer.write(1, 0, &[Bytes::from(vec![0; 1 << 20])]).await.unwrap();
        writer.finish().await.unwrap();
        writer.delivered().await.unwrap();
    };
    let receiving = async {
        let (_writer, mut reader) = of_node.accept_stream().await.unwrap();
        reader.next(1 << 20).await.unwrap().unwrap();
        assert_eq!(reader.next(0).await.unwrap(), None);
    };
    tokio::join!(sending, receiving);
}

/// Goal: over loopback, of either family, datagrams are 6,000 bytes from the start.
#[tokio::test]
async fn datagrams_over_loopback() {
    let site = Site::new();
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let mut addresses = vec![site.listen(ClientAuth::Optional).address];
    if std::net::UdpSocket::bind(v6).is_ok() {
        addresses.push(v6);
    } else {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
    }
    for address in addresses {
        let mut listen = site.listen(ClientAuth::Optional);
        listen.address = address;
        let mut node = Node::start(listen);
        let endpoint = client(site.anonymous());
        let (of_client, of_node) =
            tokio::join!(connect(&endpoint, node.address), node.connection());
        transfer(&of_client, &of_node).await;
        transfer_back(&of_client, &of_node).await;
        assert_eq!(of_client.stats().mtu, MTU_LOOPBACK);
        assert_eq!(of_node.stats().mtu, MTU_LOOPBACK);
        assert_eq!(of_client.stats().packets_lost, 0);
    }
}

async fn transfer_back(of_client: &Connection, of_node: &Connection) {
    let (mut writer, mut reader) = of_client.open_stream().await.unwrap();
    writer.write(0, 0, &[]).await.unwrap();
    let (mut writer, _reader) = of_node.accept_stream().await.unwrap();
    let body = [Bytes::from(vec![0; 1 << 20])];
    let (sent, received) = tokio::join!(writer.write(1, 0, &body), reader.next(1 << 20));
    sent.unwrap();
    assert_eq!(received.unwrap().unwrap().body.len(), 1 << 20);
}

/// Goal: the size can be set, and what is out of range is brought into it.
#[tokio::test]
async fn datagrams_of_a_set_size() {
    for (set, expected) in [(1_400, 1_400), (100, 1_200), (u16::MAX, MTU_MAX)] {
        let site = Site::new();
        let mut listen = site.listen(ClientAuth::Optional);
        listen.mtu = Some(set);
        let mut node = Node::start(listen);
        let endpoint = client(site.anonymous()).with_mtu(Some(set));
        let (of_client, of_node) =
            tokio::join!(connect(&endpoint, node.address), node.connection());
        transfer(&of_client, &of_node).await;
        assert_eq!(of_client.stats().mtu, expected);
        assert_eq!(of_node.stats().mtu, expected);
    }
}
