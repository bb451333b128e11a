//! Flow control: streams that nobody reads hold up nobody else.

use bytes::Bytes;
use weir_core::limits::STREAM_WINDOW_BYTES;
use weir_transport::{ClientAuth, ClientEndpoint, ClientProfile, Connection, FrameReader};

use crate::support::{Node, Site, client, connect, echo};

const FRAME_MAX: usize = 16 << 20;

/// Opens a stream on which the node writes without end; ends when the test drops the connection.
async fn flood(of_client: &Connection, of_node: &Connection) -> FrameReader {
    let (mut writer, reader) = of_client.open_stream().await.unwrap();
    writer.write(0, 0, &[]).await.unwrap();
    let (mut node_writer, node_reader) = of_node.accept_stream().await.unwrap();
    tokio::spawn(async move {
        let _open = (writer, node_reader);
        let body = [Bytes::from(vec![1; 256 << 10])];
        while node_writer.write(1, 0, &body).await.is_ok() {}
    });
    reader
}

/// Opens `count` such streams of which the client reads one header and then nothing.
async fn unread(of_client: &Connection, of_node: &Connection, count: usize) -> Vec<FrameReader> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut reader = flood(of_client, of_node).await;
        reader.next_header(FRAME_MAX).await.unwrap().unwrap();
        readers.push(reader);
    }
    readers
}

/// Goal: a frame of which the writer forgot the end, while nobody read, arrives whole once it is
/// supplied again, and nothing comes between. Method: forget twice, at different places.
#[tokio::test]
async fn a_withheld_frame_is_made_whole() {
    const BODY: usize = 1 << 20;
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (subscribed, of_node) = subscriber(&mut node, &endpoint, 1, 64 << 10).await;
    let (mut asking, mut reader) = subscribed.open_stream().await.unwrap();
    asking.write(0, 0, &[]).await.unwrap();
    let (mut writer, _asked) = of_node.accept_stream().await.unwrap();
    let body: Bytes = (0..BODY).map(|n| (n / 7) as u8).collect::<Vec<_>>().into();
    writer.queue(7, 0, std::slice::from_ref(&body)).unwrap();
    assert!(!writer.try_flush().await.unwrap(), "a megabyte does not fit a window of 64 KiB");

    let first = writer.withhold(100);
    assert_eq!(writer.queued_bytes(), 100);
    assert!(!writer.supply(Bytes::from(vec![0; first + 1])), "more than is missing");
    assert!(writer.supply(body.slice(BODY - first..BODY - first + 500_000)));
    assert!(!writer.try_flush().await.unwrap());
    let second = writer.withhold(0);
    // What was queued before and did not fit, either, is forgotten with it.
    assert!(first - 500_000 < second && second <= first + 100, "{first} {second}");
    assert_eq!((writer.queued_bytes(), writer.withheld_bytes()), (0, second));

    let reading = async { reader.next(BODY).await.unwrap().unwrap() };
    let writing = async {
        assert!(writer.supply(body.slice(BODY - second..)));
        writer.write(8, 0, &[]).await.unwrap();
        writer.finish().await.unwrap();
    };
    let (frame, ()) = tokio::join!(reading, writing);
    assert_eq!((frame.kind, frame.body == body), (7, true));
    assert_eq!(reader.next(BODY).await.unwrap().unwrap().kind, 8);
    assert_eq!(reader.next(BODY).await.unwrap(), None);
}

/// Waits until the client has received `bytes` on this connection.
async fn received(connection: &Connection, bytes: usize) {
    while connection.stats().bytes_received < bytes as u64 {
        tokio::task::yield_now().await;
    }
}

async fn subscriber(
    node: &mut Node,
    endpoint: &ClientEndpoint,
    streams: usize,
    stream_window_bytes: usize,
) -> (Connection, Connection) {
    let profile = ClientProfile::Subscribe { streams, stream_window_bytes };
    let connecting = endpoint.connect(node.address, None, profile);
    let (of_client, of_node) = tokio::join!(connecting, node.connection());
    (of_client.unwrap(), of_node)
}

/// Goal: a connection full of unread subscriptions, more than it was made for, does not hold up
/// another one, to the same node from the same client.
#[tokio::test]
async fn unread_streams_do_not_hold_up_another_connection() {
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (subscribed, of_node) = subscriber(&mut node, &endpoint, 1, STREAM_WINDOW_BYTES).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        readers.push(flood(&subscribed, &of_node).await);
    }
    received(&subscribed, 2 * STREAM_WINDOW_BYTES).await;
    let (control, of_node) = tokio::join!(connect(&endpoint, node.address), node.connection());
    for _ in 0..10 {
        echo(&control, &of_node).await;
    }
    drop(readers);
}

/// Goal: a subscription connection keeps answering, however many of its streams are unread.
#[tokio::test]
async fn unread_streams_do_not_hold_up_their_own_connection() {
    const STREAMS: usize = 200;
    const STREAM_BYTES: usize = 32 << 10;
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (subscribed, of_node) = subscriber(&mut node, &endpoint, STREAMS, STREAM_BYTES).await;
    let readers = unread(&subscribed, &of_node, STREAMS).await;
    received(&subscribed, STREAMS * STREAM_BYTES).await;
    for _ in 0..10 {
        echo(&subscribed, &of_node).await;
    }
    drop(readers);
}

/// Goal: a connection can be made fit for more subscriptions. Method: as many as would have
/// stopped it before.
#[tokio::test]
async fn more_subscriptions_than_expected_at_first() {
    const STREAMS: usize = 8;
    let site = Site::new();
    let mut node = Node::start(site.listen(ClientAuth::Optional));
    let endpoint = client(site.anonymous());
    let (subscribed, of_node) = subscriber(&mut node, &endpoint, 1, STREAM_WINDOW_BYTES).await;
    subscribed.expect_subscriptions(STREAMS, STREAM_WINDOW_BYTES);
    let readers = unread(&subscribed, &of_node, STREAMS).await;
    received(&subscribed, STREAMS * STREAM_WINDOW_BYTES).await;
    echo(&subscribed, &of_node).await;
    drop(readers);
}
