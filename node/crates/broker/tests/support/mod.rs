//! A broker in a folder of its own, and a raw client that speaks the protocol frame by frame.

#![allow(dead_code, reason = "each test file uses a part")]

use bytes::{Buf, Bytes};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use weir_broker::{Broker, BrokerConfig};
use weir_core::group::Generation;
use weir_core::limits;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, split_batches};
use weir_core::topic::TopicConfig;
use weir_core::wire::frame::{DataHeader, ProduceAck, ProduceHeader};
use weir_core::wire::message::{
    GroupPosition, Hello, HelloReply, ProduceOpen, Request, Response, StartAt, Subscribe,
    Subscribed, TopicInfo,
};
use weir_core::wire::{FrameKind, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, WireError};
use weir_core::{Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_transport::{
    ClientEndpoint, ClientProfile, ClientTls, Connection, Frame, FrameReader, FrameWriter,
    Identity, Trust, control,
};

/// Nothing here takes long; a test that hangs fails instead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker on a free port.
pub struct Node {
    pub broker: Broker,
    pub dir: TempDir,
}

impl Node {
    pub async fn start() -> Node {
        Node::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Node {
        Node::start_in(tempfile::tempdir().unwrap(), change).await
    }

    pub async fn start_in(dir: TempDir, change: impl FnOnce(&mut BrokerConfig)) -> Node {
        let mut config = BrokerConfig::new(dir.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        Node { broker: Broker::start(config).await.unwrap(), dir }
    }

    /// Stops in order and starts on the same folder.
    pub async fn restart(self) -> Node {
        self.broker.stop().await;
        Node::start_in(self.dir, |_| {}).await
    }

    pub fn tls(&self) -> ClientTls {
        tls(self.dir.path())
    }

    pub async fn client(&self) -> Client {
        Client::connect(self, self.tls()).await
    }

    pub async fn client_as(&self, identity: Identity) -> Client {
        Client::connect(self, self.tls().with_identity(identity)).await
    }
}

fn tls(dir: &Path) -> ClientTls {
    ClientTls::new(Trust::from_file(&dir.join("tls/ca.pem")).unwrap())
}

/// A connection past its hello.
pub struct Client {
    pub endpoint: ClientEndpoint,
    pub connection: Connection,
    pub hello: HelloReply,
}

impl Client {
    /// Stores a group's position in the first partition of a topic.
    pub async fn commit(&self, group: &str, topic: TopicId, offset: i64) {
        let position = GroupPosition {
            topic,
            partition: PartitionIndex(0),
            offset: Offset(offset),
            committed_at: TimestampMs(0),
            since: Generation(0),
        };
        let (group, positions) = (group.into(), vec![position]);
        let commit = Request::CommitPositions { group, positions, member: None };
        let answer = tokio::time::timeout(PATIENCE, self.request(&commit)).await.unwrap();
        assert_eq!(answer, Response::Done {});
    }

    pub async fn connect(node: &Node, tls: ClientTls) -> Client {
        Client::connect_with(node, tls, ClientProfile::Control).await
    }

    pub async fn connect_with(node: &Node, tls: ClientTls, profile: ClientProfile) -> Client {
        let endpoint = ClientEndpoint::new(tls).unwrap();
        let address = node.broker.local_addr();
        let connection = endpoint.connect(address, None, profile).await.unwrap();
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            client: "test".into(),
        };
        let reply = ask(&connection, FrameKind::Hello, &hello).await;
        assert_eq!(reply.kind, FrameKind::HelloReply as u8);
        Client { endpoint, hello: control::decode(&reply.body).unwrap(), connection }
    }

    pub async fn request(&self, request: &Request) -> Response {
        let frame = ask(&self.connection, FrameKind::Request, request).await;
        assert_eq!(frame.kind, FrameKind::Response as u8);
        control::decode(&frame.body).unwrap()
    }

    pub async fn refused(&self, request: &Request) -> WireError {
        match self.request(request).await {
            Response::Error(error) => error,
            other => panic!("{request:?} was answered with {other:?}"),
        }
    }

    pub async fn create(&self, name: &str, config: TopicConfig) -> TopicInfo {
        let name = name.to_owned();
        match self.request(&Request::CreateTopic { name, config }).await {
            Response::Topics { mut topics } => topics.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub async fn producer(&self) -> Producer {
        let (mut writer, reader) = self.connection.open_stream().await.unwrap();
        control::send(&mut writer, FrameKind::ProduceOpen, &ProduceOpen {}).await.unwrap();
        Producer { writer, reader, correlation: 0, acks: Vec::new() }
    }

    pub async fn init_producer(&self) -> ProducerId {
        match self.request(&Request::InitProducer {}).await {
            Response::Producer { id } => id,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a subscription and returns its first frame.
    pub async fn subscribe(&self, subscribe: &Subscribe) -> (Subscription, Frame) {
        let (mut writer, mut reader) = self.connection.open_stream().await.unwrap();
        control::send(&mut writer, FrameKind::Subscribe, subscribe).await.unwrap();
        let first = next(&mut reader).await.expect("an answer");
        (Subscription { _writer: writer, reader }, first)
    }

    /// All batches of a partition from `start` to its end.
    pub async fn read_all(&self, topic: TopicId, start: StartAt) -> Vec<RecordBatch> {
        let ask = subscribe(topic, start, true);
        let (mut subscription, first) = self.subscribe(&ask).await;
        assert_eq!(first.kind, FrameKind::Subscribed as u8, "{first:?}");
        let _: Subscribed = control::decode(&first.body).unwrap();
        let mut batches = Vec::new();
        while let Some((_, more)) = subscription.data().await {
            batches.extend(more);
        }
        batches
    }
}

pub fn subscribe(topic: TopicId, start: StartAt, until_end: bool) -> Subscribe {
    Subscribe {
        topic,
        partition: PartitionIndex(0),
        start,
        frame_bytes_max: 0,
        until_end,
        nearest: false,
        filter: None,
    }
}

pub struct Subscription {
    _writer: FrameWriter,
    pub reader: FrameReader,
}

impl Subscription {
    /// The next data; `None` at a proper end.
    pub async fn data(&mut self) -> Option<(DataHeader, Vec<RecordBatch>)> {
        let mut frame = next(&mut self.reader).await?;
        assert_eq!(frame.kind, FrameKind::Data as u8, "{frame:?}");
        let header = DataHeader::decode(&frame.body).unwrap();
        frame.body.advance(DataHeader::BYTES);
        let batches = split_batches(frame.body)
            .map(|bytes| RecordBatch::decode(bytes.unwrap()).unwrap())
            .collect();
        Some((header, batches))
    }

    pub async fn error(&mut self) -> WireError {
        let frame = next(&mut self.reader).await.expect("an error frame");
        assert_eq!(frame.kind, FrameKind::Error as u8, "{frame:?}");
        control::decode(&frame.body).unwrap()
    }
}

pub struct Producer {
    pub writer: FrameWriter,
    pub reader: FrameReader,
    correlation: u64,
    acks: Vec<ProduceAck>,
}

impl Producer {
    /// Sends a batch without waiting; returns its correlation.
    pub async fn send(&mut self, topic: TopicId, batch: Bytes) -> u64 {
        self.correlation += 1;
        let header =
            ProduceHeader { correlation: self.correlation, topic, partition: PartitionIndex(0) };
        let parts = [Bytes::copy_from_slice(&header.encode()), batch];
        self.writer.write(FrameKind::Produce as u8, 0, &parts).await.unwrap();
        self.correlation
    }

    /// The next acknowledgement.
    pub async fn ack(&mut self) -> ProduceAck {
        while self.acks.is_empty() {
            let mut frame = next(&mut self.reader).await.expect("acknowledgements");
            assert_eq!(frame.kind, FrameKind::ProduceAck as u8, "{frame:?}");
            while frame.body.has_remaining() {
                self.acks.push(ProduceAck::decode(&mut frame.body).expect("whole acks"));
            }
        }
        self.acks.remove(0)
    }

    /// Sends a batch and waits for its acknowledgement.
    pub async fn produce(&mut self, topic: TopicId, batch: Bytes) -> ProduceAck {
        let correlation = self.send(topic, batch).await;
        let ack = self.ack().await;
        assert_eq!(ack.correlation, correlation);
        ack
    }
}

/// A batch with these values, at times 1, 2, 3, ….
pub fn batch(values: &[&str]) -> Bytes {
    batch_of(ProducerId::NONE, 0, values)
}

pub fn batch_of(producer: ProducerId, sequence: i32, values: &[&str]) -> Bytes {
    build(Compression::None, producer, sequence, values)
}

/// A batch packed with zstd.
pub fn packed(values: &[&str]) -> Bytes {
    build(Compression::Zstd, ProducerId::NONE, 0, values)
}

fn build(way: Compression, producer: ProducerId, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(way);
    for (n, value) in values.iter().enumerate() {
        let time = TimestampMs(n as i64 + 1);
        builder.push(time, None, Some(value.as_bytes()), NO_HEADERS).unwrap();
    }
    builder.build(producer, 0, sequence).unwrap()
}

pub fn values(batches: &[RecordBatch]) -> Vec<String> {
    let mut values = Vec::new();
    for batch in batches {
        for record in batch.records().unwrap().iter() {
            values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

/// One frame there, one frame back, on a stream of their own.
pub async fn ask<T: serde::Serialize>(
    connection: &Connection,
    kind: FrameKind,
    message: &T,
) -> Frame {
    let (mut writer, mut reader) = connection.open_stream().await.unwrap();
    control::send(&mut writer, kind, message).await.unwrap();
    writer.finish().await.unwrap();
    next(&mut reader).await.expect("an answer")
}

pub async fn next(reader: &mut FrameReader) -> Option<Frame> {
    let frame = tokio::time::timeout(PATIENCE, reader.next(limits::FRAME_BYTES_MAX)).await;
    frame.expect("no frame came").unwrap()
}
