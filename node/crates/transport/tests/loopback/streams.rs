//! Frames over real streams.

use bytes::Bytes;
use weir_core::limits::FRAME_BYTES_MAX;
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_transport::control::{self, RequestError};
use weir_transport::{Connection, FrameError, FrameReader, FrameWriter, HEADER_BYTES};

use crate::support::pair;

/// Opens a stream from the client; the node's ends come back too.
async fn stream(
    of_client: &Connection,
    of_node: &Connection,
) -> ((FrameWriter, FrameReader), (FrameWriter, FrameReader)) {
    let (mut writer, reader) = of_client.open_stream().await.unwrap();
    writer.write(0, 0, &[]).await.unwrap();
    let (node_writer, mut node_reader) = of_node.accept_stream().await.unwrap();
    node_reader.next(0).await.unwrap().unwrap();
    ((writer, reader), (node_writer, node_reader))
}

fn body(length: usize, seed: u8) -> Bytes {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

const LENGTHS: [usize; 11] =
    [0, 1, 7, 1_024, 1_025, 5_900, 6_100, 65_536, 70_000, 1 << 20, 4 << 20];

/// Goal: frames of all sizes arrive whole and in order, in one part or several, both ways of
/// taking the body.
#[tokio::test]
async fn frames_of_all_sizes() {
    let (_node, _endpoint, of_client, of_node) = pair().await;
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    let sending = async {
        for (n, length) in LENGTHS.into_iter().enumerate() {
            let body = body(length, n as u8);
            let (head, tail) = (body.slice(..length / 3), body.slice(length / 3..));
            writer.write(n as u8, 1, &[head, Bytes::new(), tail]).await.unwrap();
            writer.write(n as u8, 2, &[body]).await.unwrap();
        }
        writer.finish().await.unwrap();
    };
    let receiving = async {
        for (n, length) in LENGTHS.into_iter().enumerate() {
            let frame = reader.next(FRAME_BYTES_MAX).await.unwrap().unwrap();
            assert_eq!((frame.kind, frame.flags), (n as u8, 1));
            assert!(frame.body == body(length, n as u8), "{length}");
            let header = reader.next_header(FRAME_BYTES_MAX).await.unwrap().unwrap();
            assert_eq!((header.length, header.kind, header.flags), (length, n as u8, 2));
            // Asking again changes nothing.
            assert_eq!(reader.next_header(0).await.unwrap(), Some(header));
            let owned = reader.body_mut().await.unwrap();
            assert!(owned == body(length, n as u8), "{length}");
        }
        assert_eq!(reader.next(0).await.unwrap(), None);
        assert_eq!(reader.next(0).await.unwrap(), None);
    };
    tokio::join!(sending, receiving);
}

/// Goal: cancelling reads and writes anywhere loses and mixes nothing. Method: every future is
/// dropped whenever it would have to wait once more than it did the last time.
#[tokio::test]
async fn cancellation_anywhere() {
    let (_node, _endpoint, of_client, of_node) = pair().await;
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    const FRAMES: u8 = 40;
    let length = |n: u8| LENGTHS[n as usize % LENGTHS.len()];
    let sending = async {
        for n in 0..FRAMES {
            let parts = [body(length(n), n), body(3, n)];
            let mut result = give_up_after(n % 3, writer.write(n, 0, &parts)).await;
            while result.is_none() {
                result = give_up_after(n % 3, writer.flush()).await;
            }
            result.unwrap().unwrap();
        }
        while give_up_after(1, writer.finish()).await.is_none() {}
    };
    let receiving = async {
        for n in 0..FRAMES {
            let header = loop {
                if let Some(header) = give_up_after(n % 2, reader.next_header(5 << 20)).await {
                    break header.unwrap().unwrap();
                }
            };
            assert_eq!((header.kind, header.length), (n, length(n) + 3));
            let body_read = loop {
                let read = if n % 2 == 0 {
                    give_up_after(n % 3, reader.body()).await
                } else {
                    let read = give_up_after(n % 3, reader.body_mut()).await;
                    read.map(|read| read.map(bytes::BytesMut::freeze))
                };
                if let Some(body) = read {
                    break body.unwrap();
                }
            };
            assert!(body_read[..length(n)] == body(length(n), n), "{n}");
            assert!(body_read[length(n)..] == body(3, n), "{n}");
        }
        assert_eq!(reader.next(0).await.unwrap(), None);
    };
    tokio::join!(sending, receiving);
}

/// Polls `future` until it has waited for `turns` turns of the runtime, then drops it.
async fn give_up_after<F: Future>(turns: u8, future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = async { for _ in 0..=turns { tokio::task::yield_now().await } } => None,
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_by_its_header() {
    let (_node, _endpoint, of_client, of_node) = pair().await;
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    writer.write(9, 0, &[body(101, 0)]).await.unwrap();
    let error = reader.next(100).await.unwrap_err();
    assert_eq!(error, FrameError::TooLarge { kind: 9, length: 101, max: 100 });
    assert!(error.is_protocol_error());
}

#[tokio::test]
async fn ends_of_streams() {
    let (_node, _endpoint, of_client, of_node) = pair().await;

    // The sender resets: the receiver gets the code.
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    writer.reset(77);
    assert_eq!(reader.next(100).await.unwrap_err(), FrameError::Reset { code: 77 });
    assert_eq!(writer.write(1, 0, &[]).await.unwrap_err(), FrameError::Ended);

    // The receiver stops: the sender gets the code.
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    reader.stop(78);
    assert_eq!(writer.delivered().await.unwrap_err(), FrameError::Stopped { code: 78 });

    // All was received.
    let ((mut writer, _r), (_w, mut reader)) = stream(&of_client, &of_node).await;
    writer.write(1, 0, &[body(10_000, 1)]).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(reader.next(10_000).await.unwrap().unwrap().body, body(10_000, 1));
    writer.delivered().await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err(), FrameError::Ended);
}

/// Goal: a stream that ends inside a frame is an error, in the header and in the body, small and
/// large. Method: a raw QUIC client that speaks TLS as ours does.
#[tokio::test]
async fn half_a_frame() {
    let site = crate::support::Site::new();
    let mut node = crate::support::Node::start(site.listen(weir_transport::ClientAuth::Optional));
    let (of_client, of_node) = tokio::join!(raw_client(&site, node.address), node.connection());
    let mut whole = vec![0, 0, 2, 0, 1, 0, 0, 0];
    whole.extend(vec![7; 2 << 16]);
    for end in [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, whole.len() - 1] {
        let (mut send, _recv) = of_client.open_bi().await.unwrap();
        send.write_all(&whole[..end]).await.unwrap();
        send.finish().unwrap();
        let (_w, mut reader) = of_node.accept_stream().await.unwrap();
        assert_eq!(reader.next(1 << 20).await.unwrap_err(), FrameError::Truncated, "{end}");
    }
    let (mut send, _recv) = of_client.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (_w, mut reader) = of_node.accept_stream().await.unwrap();
    assert_eq!(reader.next(1 << 20).await.unwrap_err(), FrameError::NotAFrame);
}

async fn raw_client(
    site: &crate::support::Site,
    address: std::net::SocketAddr,
) -> quinn::Connection {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let pem = site.authority.certificate_pem().as_bytes();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![weir_core::wire::ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.connect_with(config, address, "weir").unwrap().await.unwrap()
}

#[tokio::test]
async fn requests() {
    let (_node, _endpoint, of_client, of_node) = pair().await;
    let node = async {
        let (mut writer, mut reader) = of_node.accept_stream().await.unwrap();
        let asked: String = control::receive(&mut reader, FrameKind::Request).await.unwrap();
        assert_eq!(reader.next(0).await.unwrap(), None);
        control::send(&mut writer, FrameKind::Response, &asked.len()).await.unwrap();
        writer.finish().await.unwrap();

        let (mut writer, mut reader) = of_node.accept_stream().await.unwrap();
        reader.stop(1);
        let error = WireError::new(ErrorCode::Busy, "later");
        control::send(&mut writer, FrameKind::Error, &error).await.unwrap();
        writer.finish().await.unwrap();

        let (mut writer, _reader) = of_node.accept_stream().await.unwrap();
        writer.write(FrameKind::Heartbeat as u8, 0, &[]).await.unwrap();

        let (mut writer, _reader) = of_node.accept_stream().await.unwrap();
        writer.finish().await.unwrap();
    };
    let client = async {
        let ask = || {
            control::request::<_, usize>(
                &of_client,
                FrameKind::Request,
                &"question",
                FrameKind::Response,
            )
        };
        assert_eq!(ask().await, Ok(8));
        let error = ask().await.unwrap_err();
        assert!(matches!(&error, RequestError::Refused(e) if e.code == ErrorCode::Busy), "{error}");
        assert!(error.retryable());
        let found = FrameKind::Heartbeat as u8;
        let expected = FrameKind::Response;
        assert_eq!(ask().await, Err(RequestError::UnexpectedKind { expected, found }));
        assert_eq!(ask().await, Err(RequestError::NoMessage));
    };
    tokio::join!(node, client);
}
