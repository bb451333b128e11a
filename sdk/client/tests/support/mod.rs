//! A node in memory, over real QUIC, that does as a test says: swallows acknowledgements, breaks
//! connections, refuses batches, restarts. Its producers are checked by the real table.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use weir_client::{Client, ClientConfig, TlsConfig};
use weir_core::group::Generation;
use weir_core::ids::{Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_core::limits::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX};
use weir_core::partition::producers::{ProducerBatch, ProducerTable, Sequence, SequenceError};
use weir_core::record::RecordBatch;
use weir_core::topic::TopicConfig;
use weir_core::wire::frame::{
    Appended, DataHeader, ProduceAck, ProduceHeader, ProduceRefusal, Reached,
};
use weir_core::wire::message::{
    GroupInfo, GroupPosition, HelloReply, Request, ResolvedOffset, Response, StartAt, Subscribe,
    Subscribed, TopicInfo,
};
use weir_core::wire::{ErrorCode, FrameKind, Outcome, WireError};
use weir_transport::{
    Authority, ClientAuth, Clock, CloseReason, Connection, FrameError, FrameReader, FrameWriter,
    ListenConfig, NODE_VALID, NodeNames, ServerEndpoint, control,
};

/// Nothing here takes long; a test that hangs fails instead.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it hangs")
}

/// What the node does wrong, on purpose.
#[derive(Debug, Default)]
pub struct Script {
    /// So many produce frames are appended, but instead of an answer the connection breaks.
    pub lose_acks: u32,
    /// The next produce frames are refused so, and not appended.
    pub refuse: VecDeque<(ErrorCode, Outcome)>,
    /// So many requests are carried out, but instead of an answer the connection breaks.
    pub lose_answers: u32,
    /// The same for deletions of topics alone.
    pub lose_deletions: u32,
    /// Whoever deletes a topic, somebody makes another of its name at once.
    pub remake_deleted: bool,
    /// The next requests are refused so.
    pub refuse_requests: VecDeque<ErrorCode>,
    /// Acknowledgements are kept back while this is set.
    pub hold_acks: bool,
    /// Subscriptions break after so many data frames.
    pub break_after_frames: Option<u32>,
    /// Reading at or before this offset fails, and goes on at the other.
    pub damage: Option<(Offset, Offset)>,
    /// Every data frame ends with bytes that are no batch.
    pub garbage: bool,
    /// Unknown until this is over: what cluster it says it is.
    pub cluster: Option<String>,
    /// Hello is refused so.
    pub refuse_hello: Option<ErrorCode>,
}

/// One partition.
#[derive(Debug, Default)]
pub struct Log {
    pub batches: Vec<RecordBatch>,
    pub table: ProducerTable,
    pub start: i64,
    pub end: i64,
}

impl Log {
    /// The values of all records, as text.
    pub fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for batch in &self.batches {
            for record in &batch.records().unwrap() {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }
}

/// What the node holds. Survives its restarts.
#[derive(Debug, Default)]
pub struct State {
    pub script: Script,
    pub topics: Vec<TopicInfo>,
    pub logs: HashMap<(u32, u32), Log>,
    pub groups: HashMap<String, HashMap<(TopicId, PartitionIndex), Offset>>,
    pub next_producer: i64,
    pub connections: Vec<Connection>,
    pub connected: u32,
    pub requests: u32,
    pub frames: u32,
    pub duplicates: u32,
    pub commits: u32,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts changes, for those who wait for one.
    changed: watch::Sender<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

pub struct Node {
    shared: Arc<Shared>,
    listen: ListenConfig,
    ca_pem: String,
    endpoint: Option<Arc<ServerEndpoint>>,
    pub address: SocketAddr,
}

impl Node {
    pub async fn start() -> Node {
        let clock = Clock::system();
        let authority = Authority::in_memory(&clock).unwrap();
        let names = NodeNames::new("fake").unwrap();
        let identity = authority.issue_node(&names, NODE_VALID).unwrap().identity().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listen = ListenConfig::new(any, identity, authority.trust().clone());
        listen.client_auth = ClientAuth::Optional;
        let shared = Shared { state: Mutex::default(), changed: watch::Sender::new(0) };
        let mut node = Node {
            shared: Arc::new(shared),
            listen,
            ca_pem: authority.certificate_pem().to_owned(),
            endpoint: None,
            address: any,
        };
        node.resume().await;
        node
    }

    /// Listens again, on the same port, as soon as what listened before has let go of it.
    pub async fn resume(&mut self) {
        let endpoint = soon(async {
            loop {
                match ServerEndpoint::bind(self.listen.clone()) {
                    Ok(endpoint) => return Arc::new(endpoint),
                    // sleep: nothing tells when the system has let go of a port
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        })
        .await;
        self.address = endpoint.local_address().unwrap();
        self.listen.address = self.address;
        self.endpoint = Some(endpoint.clone());
        let shared = self.shared.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.handshake().await {
                        serve(shared, connection).await;
                    }
                });
            }
        });
    }

    /// Stops listening and closes all connections.
    pub async fn pause(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.close(CloseReason::Shutdown, "pause");
            endpoint.wait_idle().await;
            self.state().connections.clear();
        }
    }

    pub fn config(&self) -> ClientConfig {
        let tls = TlsConfig::from_ca_pem(self.ca_pem.clone());
        ClientConfig::new(self.address.to_string(), tls)
    }

    pub async fn client(&self) -> Client {
        soon(Client::connect(self.config())).await.unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state().script);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    pub fn add_topic(&self, name: &str, partitions: u32) -> TopicId {
        let mut state = self.state();
        let id = TopicId(state.topics.len() as u32 + 1);
        let config = TopicConfig { partitions, ..TopicConfig::default() };
        let created_at = TimestampMs(0);
        state.topics.push(TopicInfo { id, name: name.into(), config, created_at });
        id
    }

    /// Drops all records before `start`.
    pub fn trim(&self, topic: TopicId, partition: u32, start: i64) {
        let mut state = self.state();
        let log = state.logs.entry((topic.0, partition)).or_default();
        log.batches.retain(|batch| batch.header().end_offset().0 > start);
        log.start = start;
    }

    /// Breaks all connections, as the network might.
    pub fn break_connections(&self) {
        for connection in self.state().connections.drain(..) {
            connection.close(CloseReason::Internal, "broken on purpose");
        }
    }

    /// Waits until the state is as `is` says.
    pub async fn until(&self, is: impl Fn(&State) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        soon(async {
            while !is(&self.state()) {
                changes.changed().await.unwrap();
            }
        })
        .await;
    }

    pub fn values(&self, topic: TopicId, partition: u32) -> Vec<String> {
        self.state().logs.get(&(topic.0, partition)).map(Log::values).unwrap_or_default()
    }
}

async fn serve(shared: Arc<Shared>, connection: Connection) {
    {
        let mut state = shared.lock();
        state.connections.push(connection.clone());
        state.connected += 1;
    }
    shared.changed.send_modify(|count| *count += 1);
    while let Ok((writer, reader)) = connection.accept_stream().await {
        let (shared, connection) = (shared.clone(), connection.clone());
        tokio::spawn(async move {
            // Errors are the client's going away.
            let _ = serve_stream(&shared, &connection, writer, reader).await;
        });
    }
}

async fn serve_stream(
    shared: &Arc<Shared>,
    connection: &Connection,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) -> Result<(), FrameError> {
    let Some(frame) = reader.next(CONTROL_BYTES_MAX).await? else {
        return Ok(());
    };
    match FrameKind::from_u8(frame.kind) {
        Some(FrameKind::Hello) => {
            let (cluster, refused) = {
                let script = &shared.lock().script;
                (script.cluster.clone(), script.refuse_hello)
            };
            if let Some(code) = refused {
                let body = control::encode(&WireError::new(code, "go away")).unwrap();
                writer.write(FrameKind::Error as u8, 0, &[body]).await?;
                return writer.finish().await;
            }
            let reply = HelloReply {
                cut_off: false,
                version: 1,
                node: "fake".into(),
                cluster: cluster.unwrap_or_else(|| "c1".into()),
                software: "fake".into(),
                principal: None,
                node_time: TimestampMs(0),
                batch_bytes_max: 4 << 20,
            };
            let body = control::encode(&reply).unwrap();
            writer.write(FrameKind::HelloReply as u8, 0, &[body]).await?;
            writer.finish().await
        }
        Some(FrameKind::Request) => {
            let request: Request = control::decode(&frame.body).unwrap();
            let response = answer(shared, &request);
            shared.changed.send_modify(|count| *count += 1);
            let lost = {
                let script = &mut shared.lock().script;
                let deletion = matches!(request, Request::DeleteTopic { .. });
                take(&mut script.lose_answers) || deletion && take(&mut script.lose_deletions)
            };
            if lost {
                connection.close(CloseReason::Internal, "the answer is lost");
                return Ok(());
            }
            let body = control::encode(&response).unwrap();
            writer.write(FrameKind::Response as u8, 0, &[body]).await?;
            writer.finish().await
        }
        Some(FrameKind::ProduceOpen) => produce(shared, connection, writer, reader).await,
        Some(FrameKind::Subscribe) => {
            let subscribe: Subscribe = control::decode(&frame.body).unwrap();
            match deliver(shared, connection, &mut writer, subscribe).await? {
                Ok(()) => writer.finish().await,
                Err(error) => {
                    let body = control::encode(&error).unwrap();
                    writer.write(FrameKind::Error as u8, 0, &[body]).await?;
                    writer.finish().await
                }
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Counts down; says whether there was something to count.
fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

fn answer(shared: &Shared, request: &Request) -> Response {
    let mut state = shared.lock();
    state.requests += 1;
    if let Some(code) = state.script.refuse_requests.pop_front() {
        return Response::Error(WireError::new(code, "as told"));
    }
    match request {
        Request::Topics { names } => {
            let wanted =
                |topic: &&TopicInfo| names.as_ref().is_none_or(|names| names.contains(&topic.name));
            let topics: Vec<_> = state.topics.iter().filter(wanted).cloned().collect();
            if topics.is_empty() && names.is_some() {
                return Response::Error(WireError::new(ErrorCode::UnknownTopic, "no such topic"));
            }
            Response::Topics { topics }
        }
        Request::CreateTopic { name, config } => {
            if state.topics.iter().any(|topic| topic.name == *name) {
                return Response::Error(WireError::new(ErrorCode::TopicExists, "it exists"));
            }
            let id = TopicId(state.topics.len() as u32 + 1);
            let (name, config, created_at) = (name.clone(), config.clone(), TimestampMs(0));
            state.topics.push(TopicInfo { id, name, config, created_at });
            Response::Topics { topics: state.topics.last().cloned().into_iter().collect() }
        }
        Request::DeleteTopic { name } => {
            let Some(at) = state.topics.iter().position(|topic| topic.name == *name) else {
                return Response::Error(WireError::new(ErrorCode::UnknownTopic, "no such topic"));
            };
            let deleted = state.topics.remove(at);
            if state.script.remake_deleted {
                let id = TopicId(deleted.id.0 + 1);
                state.topics.push(TopicInfo { id, ..deleted });
            }
            Response::Done {}
        }
        Request::AlterTopic { name, change } => {
            let topic = state.topics.iter_mut().find(|topic| topic.name == *name).unwrap();
            topic.config = change.apply(&topic.config).unwrap();
            Response::Topics { topics: vec![topic.clone()] }
        }
        Request::InitProducer {} => {
            state.next_producer += 1;
            Response::Producer { id: ProducerId(state.next_producer) }
        }
        Request::Offsets { topic, positions } => {
            let resolve = |&(partition, start): &(PartitionIndex, StartAt)| {
                let (log_start, end) = state
                    .logs
                    .get(&(topic.0, partition.0))
                    .map_or((0, 0), |log| (log.start, log.end));
                let offset = match start {
                    StartAt::Earliest => log_start,
                    StartAt::Latest | StartAt::Time(_) => end,
                    StartAt::Offset(offset) => offset.0,
                };
                let (log_start, high_watermark) = (Offset(log_start), Offset(end));
                ResolvedOffset { partition, offset: Offset(offset), log_start, high_watermark }
            };
            Response::Offsets { offsets: positions.iter().map(resolve).collect() }
        }
        Request::CommitPositions { group, positions, .. } => {
            state.commits += 1;
            let stored = state.groups.entry(group.clone()).or_default();
            stored.extend(positions.iter().map(|at| ((at.topic, at.partition), at.offset)));
            Response::Done {}
        }
        Request::FetchPositions { group } => {
            let stored = state.groups.get(group).into_iter().flatten();
            let position =
                |(&(topic, partition), &offset): (&(TopicId, PartitionIndex), &Offset)| {
                    let (committed_at, since) = (TimestampMs(0), Generation::default());
                    GroupPosition { topic, partition, offset, committed_at, since }
                };
            Response::Positions { positions: stored.map(position).collect() }
        }
        Request::ListGroups {} => {
            let info = |(name, positions): (&String, &HashMap<_, _>)| GroupInfo {
                name: name.clone(),
                positions: positions.len() as u32,
                committed_at: TimestampMs(0),
                members: 0,
                moving: 0,
            };
            Response::Groups { groups: state.groups.iter().map(info).collect() }
        }
        Request::DeleteGroup { group, .. } => {
            state.groups.remove(group);
            Response::Done {}
        }
        Request::Status {} => Response::Status(Box::default()),
        other => Response::Error(WireError::new(ErrorCode::Unsupported, format!("{other:?}"))),
    }
}

async fn produce(
    shared: &Arc<Shared>,
    connection: &Connection,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) -> Result<(), FrameError> {
    let mut changes = shared.changed.subscribe();
    while let Some(frame) = reader.next(FRAME_BYTES_MAX).await? {
        assert_eq!(FrameKind::from_u8(frame.kind), Some(FrameKind::Produce));
        let header = ProduceHeader::decode(&frame.body).unwrap();
        let batch = RecordBatch::decode(frame.body.slice(ProduceHeader::BYTES..)).unwrap();
        let result = append(shared, header, batch);
        let correlation = header.correlation;
        shared.changed.send_modify(|count| *count += 1);
        if take(&mut shared.lock().script.lose_acks) {
            connection.close(CloseReason::Internal, "the acknowledgement is lost");
            return Ok(());
        }
        while shared.lock().script.hold_acks {
            tokio::select! {
                _ = changes.changed() => {}
                _ = connection.closed() => return Ok(()),
            }
        }
        let mut body = BytesMut::new();
        ProduceAck { correlation, result }.encode(&mut body);
        writer.write(FrameKind::ProduceAck as u8, 0, &[body.freeze()]).await?;
    }
    Ok(())
}

fn append(
    shared: &Shared,
    header: ProduceHeader,
    batch: RecordBatch,
) -> Result<Appended, ProduceRefusal> {
    let refusal = |code, outcome| ProduceRefusal { code, outcome, message: "as told".into() };
    let mut state = shared.lock();
    state.frames += 1;
    if let Some((code, outcome)) = state.script.refuse.pop_front() {
        return Err(refusal(code, outcome));
    }
    if !state.topics.iter().any(|topic| topic.id == header.topic) {
        return Err(refusal(ErrorCode::UnknownTopic, Outcome::No));
    }
    let log = state.logs.entry((header.topic.0, header.partition.0)).or_default();
    let mut appended = Appended {
        base_offset: Offset(log.end),
        append_time: TimestampMs(1),
        reached: Reached::LeaderDisk,
        duplicate: false,
    };
    let numbers = ProducerBatch {
        id: batch.header().producer_id,
        epoch: batch.header().producer_epoch,
        base_sequence: batch.header().base_sequence,
        count: batch.header().record_count,
    };
    if numbers.id.is_some() {
        match log.table.check(&numbers) {
            Ok(Sequence::Next) => log.table.record(&numbers, appended.base_offset),
            Ok(Sequence::Duplicate { base_offset }) => {
                state.duplicates += 1;
                appended.base_offset = base_offset;
                appended.duplicate = true;
                return Ok(appended);
            }
            Err(SequenceError::Gap { .. }) => {
                return Err(refusal(ErrorCode::SequenceGap, Outcome::No));
            }
            Err(SequenceError::UnknownProducer) => {
                return Err(refusal(ErrorCode::UnknownProducer, Outcome::No));
            }
            Err(error) => panic!("{error}"),
        }
    }
    log.end += batch.len() as i64;
    log.batches.push(batch.with_base(appended.base_offset, weir_core::LeaderEpoch(1)));
    Ok(appended)
}

async fn deliver(
    shared: &Arc<Shared>,
    connection: &Connection,
    writer: &mut FrameWriter,
    ask: Subscribe,
) -> Result<Result<(), WireError>, FrameError> {
    let key = (ask.topic.0, ask.partition.0);
    let mut changes = shared.changed.subscribe();
    let (start, end) = {
        let mut state = shared.lock();
        if !state.topics.iter().any(|topic| topic.id == ask.topic) {
            return Ok(Err(WireError::new(ErrorCode::UnknownPartition, "no such partition")));
        }
        let log = state.logs.entry(key).or_default();
        let start = match ask.start {
            StartAt::Earliest => log.start,
            StartAt::Latest | StartAt::Time(_) => log.end,
            StartAt::Offset(offset) => offset.0,
        };
        if start < log.start || start > log.end {
            let (asked, from, end) = (Offset(start), Offset(log.start), Offset(log.end));
            return Ok(Err(WireError::out_of_range(asked, from, end)));
        }
        (start, log.end)
    };
    let subscribed = Subscribed {
        start: Offset(start),
        log_start: Offset(shared.lock().logs[&key].start),
        high_watermark: Offset(end),
        epoch: weir_core::LeaderEpoch(1),
    };
    let body = control::encode(&subscribed).unwrap();
    writer.write(FrameKind::Subscribed as u8, 0, &[body]).await?;
    let (mut next, mut frames) = (start, 0);
    loop {
        changes.borrow_and_update();
        let found = {
            let mut state = shared.lock();
            if let Some((at, resume)) = state.script.damage.filter(|(at, _)| next <= at.0) {
                let damaged = state.logs[&key].batches.iter().any(|batch| {
                    let header = batch.header();
                    header.end_offset().0 > next
                        && header.end_offset() > at
                        && header.base_offset.0 <= next
                });
                if damaged || next == at.0 {
                    let mut error = WireError::new(ErrorCode::Corrupt, "damaged");
                    error.resume_at = Some(resume);
                    return Ok(Err(error));
                }
            }
            if state.script.break_after_frames.is_some_and(|most| frames >= most) {
                state.script.break_after_frames = None;
                connection.close(CloseReason::Internal, "the subscription breaks");
                return Ok(Ok(()));
            }
            let garbage = state.script.garbage;
            let log = &state.logs[&key];
            let batch = log.batches.iter().find(|batch| batch.header().end_offset().0 > next);
            batch.map(|batch| {
                let header = DataHeader {
                    high_watermark: Offset(log.end),
                    log_start: Offset(log.start),
                    next_offset: batch.header().end_offset(),
                };
                let mut parts =
                    vec![Bytes::copy_from_slice(&header.encode()), batch.bytes().clone()];
                if garbage {
                    parts.push(Bytes::from_static(&[0xff; 80]));
                }
                (header.next_offset.0, parts)
            })
        };
        if let Some((after, parts)) = found {
            writer.write(FrameKind::Data as u8, 0, &parts).await?;
            (next, frames) = (after, frames + 1);
        } else if ask.until_end && next >= end {
            return Ok(Ok(()));
        } else {
            tokio::select! {
                _ = changes.changed() => {}
                _ = connection.closed() => return Ok(Ok(())),
            }
        }
    }
}
