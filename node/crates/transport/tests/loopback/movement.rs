//! Clients that move, nodes that restart.

use std::net::SocketAddr;

use weir_transport::{
    ClientAuth, ClientTls, CloseReason, ConnectError, ConnectionLost, ServerEndpoint,
};

use crate::support::{Site, client, connect, echo, pair};

/// Goal: a stream goes on when its client's address changes, and loses nothing.
#[tokio::test]
async fn a_client_changes_its_address() {
    let (_node, endpoint, of_client, of_node) = pair().await;
    let (mut writer, _reader) = of_client.open_stream().await.unwrap();
    let before = of_node.remote_address();
    let sending = async {
        for n in 0..60u8 {
            if n % 20 == 10 {
                endpoint.rebind().unwrap();
            }
            writer.write(n, 0, &[vec![n; 100_000].into()]).await.unwrap();
        }
        writer.finish().await.unwrap();
    };
    let receiving = async {
        let (_writer, mut reader) = of_node.accept_stream().await.unwrap();
        for n in 0..60u8 {
            let frame = reader.next(1 << 20).await.unwrap().unwrap();
            assert_eq!(frame.kind, n);
            assert!(frame.body == vec![n; 100_000], "{n}");
        }
        assert_eq!(reader.next(0).await.unwrap(), None);
    };
    tokio::join!(sending, receiving);
    assert_ne!(of_node.remote_address(), before);
    assert_eq!(of_node.peer().address, before);
    echo(&of_client, &of_node).await;
}

/// Goal: a client learns at once that a node was killed and is back, instead of waiting for its
/// idle timeout. Method: a node on a runtime of its own that is dropped without a word.
#[test]
fn a_node_that_was_killed_and_is_back_says_so() {
    let site = Site::new();
    let mut listen = site.listen(ClientAuth::Optional);
    let tls = site.anonymous();
    let first = runtime();
    let endpoint = first.block_on(async { ServerEndpoint::bind(listen.clone()).unwrap() });
    listen.address = endpoint.local_address().unwrap();

    let (connected, connected_here) = std::sync::mpsc::channel();
    let address = listen.address;
    let lost =
        std::thread::spawn(move || runtime().block_on(hold_connection(tls, address, connected)));
    let (endpoint, connection) = first.block_on(async move {
        let connection = endpoint.accept().await.unwrap().handshake().await.unwrap();
        // The client has its first answer, so it is past the handshake.
        let (mut writer, mut reader) = connection.accept_stream().await.unwrap();
        reader.next(0).await.unwrap();
        writer.write(0, 0, &[]).await.unwrap();
        tokio::task::spawn_blocking(move || connected_here.recv().unwrap()).await.unwrap();
        (endpoint, connection)
    });
    // Without its runtime the node cannot say anything any more.
    drop(first);
    drop((endpoint, connection));

    let second = runtime();
    let lost = second.block_on(async move {
        let _endpoint = ServerEndpoint::bind(listen).unwrap();
        tokio::task::spawn_blocking(move || lost.join().unwrap()).await.unwrap()
    });
    assert_eq!(lost, ConnectionLost::Reset);
    assert!(lost.retryable());
}

/// Connects, says that it did, and keeps sending until the connection is lost.
async fn hold_connection(
    tls: ClientTls,
    address: SocketAddr,
    connected: std::sync::mpsc::Sender<()>,
) -> ConnectionLost {
    let endpoint = client(tls);
    let connection = connect(&endpoint, address).await;
    let (mut writer, mut reader) = connection.open_stream().await.unwrap();
    writer.write(0, 0, &[]).await.unwrap();
    reader.next(0).await.unwrap();
    connected.send(()).unwrap();
    let sending = async {
        while writer.write(1, 0, &[vec![0; 1_000].into()]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let (lost, ()) = tokio::join!(connection.closed(), sending);
    lost
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn closing_both_ends() {
    let (node, endpoint, of_client, of_node) = pair().await;
    node.endpoint.close(CloseReason::Shutdown, "until tomorrow");
    let lost = of_client.closed().await;
    let expected = ConnectionLost::ClosedByPeer {
        reason: CloseReason::Shutdown,
        message: "until tomorrow".to_owned(),
    };
    assert_eq!(lost, expected);
    assert!(lost.retryable());
    assert_eq!(of_node.closed().await, ConnectionLost::ClosedHere);
    drop((of_client, of_node));
    node.endpoint.wait_idle().await;
    assert!(node.endpoint.accept().await.is_none());

    endpoint.close(CloseReason::Normal, "");
    endpoint.wait_idle().await;
    let profile = weir_transport::ClientProfile::Control;
    let error = endpoint.connect(node.address, None, profile).await.unwrap_err();
    assert!(matches!(error, ConnectError::Closed), "{error}");
}

/// Goal: the measurement that others are compared with measures something, both ways.
#[test]
fn the_bare_stream_bench_moves_all_bytes() {
    use weir_transport::bench::{BenchError, Direction, bare_stream, warm_stream};
    for direction in [Direction::ToNode, Direction::ToClient] {
        let moved = bare_stream(5_000_001, 1 << 20, direction).unwrap();
        assert_eq!(moved.bytes, 5_000_001);
        assert_eq!(moved.mtu, weir_core::limits::MTU_LOOPBACK);
        assert!(moved.mb_per_s() > 0.0);
    }
    let warm = warm_stream(1_000_000, 2_000_001, 1 << 16, Direction::ToClient).unwrap();
    assert_eq!(warm.bytes, 2_000_001);
    assert!(matches!(bare_stream(1, 0, Direction::ToNode), Err(BenchError::ChunkSize)));
}
