//! Flow control: streams that nobody reads hold up nobody else.

use bytes::Bytes;
use weir_core::limits::STREAM_WINDOW_BYTES;
use weir_transport::{ClientAuth, ClientProfile, Connection, FrameReader};

use crate::support::{Node, Site, client, connect, echo};

const FRAME_MAX: usize = 16 << 20;

/// Opens `count` streams on which the node writes without end and the client reads one header.
async fn unread(of_client: &Connection, of_node: &Connection, count: usize) -> Vec<FrameReader> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let (mut writer, mut reader) = of_client.open_stream().await.unwrap();
        writer.write(0, 0, &[]).await.unwrap();
        let (mut node_writer, node_reader) = of_node.accept_stream().await.unwrap();
        tokio::spawn(async move {
            let _open = (writer, node_reader);
            let body = Bytes::from(vec![1; 256 << 10]);
            // Ends when the test drops the connection.
            while node_writer.write(1, 0, &[body.clone()]).await.is_ok() {}
        });
        reader.next_header(FRAME_MAX).await.unwrap().unwrap();
        readers.push(reader);
    }
    readers
}

/// Goal: a connection full of unread subscriptions does not hold up another one, to the same node
/// from the same client.
#[tokio::test]
async fn unread_streams_do_not_hold_up_another_connection() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let window = 4 * STREAM_WINDOW_BYTES;
    let profile = ClientProfile::Subscribe {
        stream_window_bytes: STREAM_WINDOW_BYTES,
        connection_window_bytes: window,
    };
    let subscribing = endpoint.connect(node.address, None, profile);
    let (subscribed, of_node) = tokio::join!(subscribing, node.connection());
    let subscribed = subscribed.unwrap();
    let readers = unread(&subscribed, &of_node, 4).await;
    // All four windows fill up: then nothing fits any more.
    while subscribed.stats().bytes_received < window as u64 {
        tokio::task::yield_now().await;
    }
    let (control, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    for _ in 0..10 {
        echo(&control, &of_node).await;
    }
    drop(readers);
}

/// Goal: a subscription connection whose window holds all its streams keeps answering, however
/// many are unread.
#[tokio::test]
async fn unread_streams_do_not_hold_up_their_own_connection_within_its_window() {
    const STREAMS: usize = 100;
    const STREAM_BYTES: usize = 32 << 10;
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let profile = ClientProfile::Subscribe {
        stream_window_bytes: STREAM_BYTES,
        connection_window_bytes: (STREAMS + 2) * STREAM_BYTES,
    };
    let subscribing = endpoint.connect(node.address, None, profile);
    let (subscribed, of_node) = tokio::join!(subscribing, node.connection());
    let subscribed = subscribed.unwrap();
    let readers = unread(&subscribed, &of_node, STREAMS).await;
    while subscribed.stats().bytes_received < (STREAMS * STREAM_BYTES) as u64 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        echo(&subscribed, &of_node).await;
    }
    drop(readers);
}

/// Goal: a window that was raised takes effect. Method: fill the old one, then go on in the new.
#[tokio::test]
async fn a_window_can_be_raised() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let profile = ClientProfile::Subscribe {
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 64 << 10,
    };
    let subscribing = endpoint.connect(node.address, None, profile);
    let (subscribed, of_node) = tokio::join!(subscribing, node.connection());
    let subscribed = subscribed.unwrap();
    let readers = unread(&subscribed, &of_node, 1).await;
    subscribed.set_receive_window(1 << 20);
    let more = unread(&subscribed, &of_node, 3).await;
    assert_eq!((readers.len(), more.len()), (1, 3));
}
