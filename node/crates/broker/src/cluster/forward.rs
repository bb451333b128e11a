//! What clients send to this node and another has to answer.
//!
//! A client may connect to any node of the cluster, and knows of no other. What concerns a
//! partition goes to its leader, over the connection that this node has to it, and the answer comes
//! back the same way. Rights are checked where the client is known, which is here. A node forwards
//! only what comes from a client: if the leader has moved meanwhile, the client is told to try
//! again.

use crate::ack::{AckQueue, refusal};
use crate::cluster::peers::{PeerError, Peers, Purpose};
use crate::session::encode;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::wire::frame::{ProduceAck, ProduceHeader};
use weir_core::wire::message::{ProduceOpen, Request, Response, Subscribe};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_transport::{Connection, Frame, FrameReader, FrameWriter, control};

/// Batches of one produce stream that wait to be written to one leader.
const UPSTREAM_QUEUE: usize = 64;

/// The leader cannot be asked. Nothing was done.
pub fn unreachable(error: &PeerError) -> WireError {
    WireError::new(ErrorCode::NotLeader, format!("the leader cannot be reached: {error}"))
}

fn lost(what: &str) -> WireError {
    let message = format!("the way to the leader was lost: {what}; try again");
    WireError::unknown(ErrorCode::NotLeader, message)
}

/// Asks another node what a client asked.
///
/// # Errors
/// What the other node says, or that it cannot be reached or did not answer.
///
/// # Cancel safety
/// Dropping the future abandons the answer; the request may be carried out all the same.
pub async fn request(peers: &Peers, to: NodeId, ask: &Request) -> Result<Response, WireError> {
    let connection = peers.connection(to, Purpose::Control).await;
    let connection = connection.map_err(|error| unreachable(&error))?;
    let answered = timeout(limits::FORWARD_TIMEOUT, question(&connection, ask)).await;
    match answered {
        Ok(Ok(Response::Error(error))) => Err(error),
        Ok(answer) => answer,
        Err(_) => Err(lost("no answer came in time")),
    }
}

async fn question(connection: &Connection, ask: &Request) -> Result<Response, WireError> {
    exchange(connection, FrameKind::Request, &[encode(ask)?]).await
}

/// One frame there, and the answer.
async fn exchange(
    connection: &Connection,
    kind: FrameKind,
    parts: &[Bytes],
) -> Result<Response, WireError> {
    match ask(connection, kind, parts, limits::CONTROL_BYTES_MAX).await? {
        frame if frame.kind == FrameKind::Response as u8 => {
            control::decode(&frame.body).map_err(|error| lost(&error.to_string()))
        }
        frame if frame.kind == FrameKind::Error as u8 => {
            Err(control::decode(&frame.body).unwrap_or_else(|error| lost(&error.to_string())))
        }
        _ => Err(lost("no answer came")),
    }
}

/// Sends a frame alone on a stream, and takes the one frame of at most `max` bytes that answers it.
///
/// # Errors
/// The way to the other node was lost, before the question arrived or after.
///
/// # Cancel safety
/// Dropping the future ends the stream; the question may have arrived.
pub async fn ask(
    connection: &Connection,
    kind: FrameKind,
    parts: &[Bytes],
    max: usize,
) -> Result<Frame, WireError> {
    let stream = connection.open_stream().await;
    let (mut writer, mut reader) = stream.map_err(|error| lost(&error.to_string()))?;
    let asked = async {
        writer.write(kind as u8, 0, parts).await?;
        writer.finish().await?;
        reader.next(max).await
    };
    let answer = asked.await.map_err(|error| lost(&error.to_string()))?;
    answer.ok_or_else(|| lost("no answer came"))
}

/// Has the node that leads a destination append a part of an outbox.
///
/// # Errors
/// As [`request`].
///
/// # Cancel safety
/// As [`request`].
pub async fn part(peers: &Peers, to: NodeId, parts: [Bytes; 2]) -> Result<Response, WireError> {
    let connection = peers.connection(to, Purpose::Control).await;
    let connection = connection.map_err(|error| unreachable(&error))?;
    let asked = exchange(&connection, FrameKind::Deliver, &parts);
    match timeout(limits::FORWARD_TIMEOUT, asked).await {
        Ok(Ok(Response::Error(error))) => Err(error),
        Ok(answer) => answer,
        Err(_) => Err(lost("no answer came in time")),
    }
}

/// Has the leader append a batch of no producer's, and waits until it is committed.
///
/// # Errors
/// What the leader says, or that it cannot be reached or did not answer.
///
/// # Cancel safety
/// Dropping the future abandons the answer; the batch may be appended all the same.
pub async fn produce(
    peers: &Peers,
    to: NodeId,
    header: ProduceHeader,
    batch: Bytes,
) -> Result<(), WireError> {
    let connection = peers.connection(to, Purpose::Control).await;
    let connection = connection.map_err(|error| unreachable(&error))?;
    let answered = timeout(limits::FORWARD_TIMEOUT, produce_one(&connection, header, batch)).await;
    match answered {
        Ok(Ok(Some(ProduceAck { result, .. }))) => match result {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let error = WireError::new(refusal.code, refusal.message);
                Err(WireError { outcome: refusal.outcome, ..error })
            }
        },
        Ok(Ok(None)) => Err(lost("no answer came")),
        Ok(Err(what)) => Err(lost(&what)),
        Err(_) => Err(lost("no answer came in time")),
    }
}

async fn produce_one(
    connection: &Connection,
    header: ProduceHeader,
    batch: Bytes,
) -> Result<Option<ProduceAck>, String> {
    let (mut writer, mut reader) =
        connection.open_stream().await.map_err(|error| error.to_string())?;
    let open = control::encode(&ProduceOpen::default()).map_err(|error| error.to_string())?;
    let parts = [Bytes::copy_from_slice(&header.encode()), batch];
    let asked = async {
        writer.write(FrameKind::ProduceOpen as u8, 0, &[open]).await?;
        writer.write(FrameKind::Produce as u8, 0, &parts).await?;
        writer.finish().await?;
        reader.next(limits::CONTROL_BYTES_MAX).await
    };
    match asked.await.map_err(|error| error.to_string())? {
        Some(frame) if frame.kind == FrameKind::ProduceAck as u8 => {
            Ok(ProduceAck::decode(&mut frame.body.clone()))
        }
        Some(frame) => {
            let told = control::decode::<WireError>(&frame.body);
            Err(told.map_or_else(|_| "not an answer".to_owned(), |error| error.to_string()))
        }
        None => Ok(None),
    }
}

/// Has the leader serve a subscription, and passes on what it sends, to the end. What the client
/// does not read holds the leader back: at most one frame is on its way here.
///
/// # Errors
/// What the client is to be told.
///
/// # Cancel safety
/// Dropping the future ends both streams.
pub async fn subscription(
    peers: &Peers,
    to: NodeId,
    ask: &Subscribe,
    writer: &mut FrameWriter,
) -> Result<(), WireError> {
    let connection = peers.connection(to, Purpose::Follow).await;
    let connection = connection.map_err(|error| unreachable(&error))?;
    let again = |what: String| {
        WireError::new(ErrorCode::NotLeader, format!("the way to the leader was lost: {what}"))
    };
    let stream = connection.open_stream().await;
    let (mut upstream, mut reader) = stream.map_err(|error| again(error.to_string()))?;
    let body = encode(ask)?;
    let sent = upstream.write(FrameKind::Subscribe as u8, 0, &[body]).await;
    sent.map_err(|error| again(error.to_string()))?;
    loop {
        let frame = reader.next(limits::FRAME_BYTES_MAX).await;
        let Some(frame) = frame.map_err(|error| again(error.to_string()))? else {
            // The leader ended it: that is the subscription's end.
            let _ = writer.finish().await;
            return Ok(());
        };
        if frame.kind == FrameKind::Error as u8 {
            return Err(control::decode(&frame.body).unwrap_or_else(|e| again(e.to_string())));
        }
        // Fails only if the client is gone.
        if writer.write(frame.kind, frame.flags, &[frame.body]).await.is_err() {
            return Ok(());
        }
    }
}

/// The way of one client's produce stream to one leader.
#[derive(Clone, Debug)]
pub struct Upstream {
    sender: mpsc::Sender<Batch>,
}

#[derive(Debug)]
struct Batch {
    header: ProduceHeader,
    bytes: Bytes,
    /// Held until it was written.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Upstream {
    /// Opens it. Acknowledgements go to `queue`.
    #[must_use]
    pub fn open(peers: Arc<Peers>, to: NodeId, queue: Arc<AckQueue>) -> Upstream {
        let (sender, batches) = mpsc::channel(UPSTREAM_QUEUE);
        tokio::spawn(run(peers, to, queue, batches));
        Upstream { sender }
    }

    /// Whether nothing can be sent on any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a batch on; exactly one acknowledgement comes for it. Waits while the leader is slow.
    /// False if the way is lost: the batch was not sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: the batch may not be sent.
    pub async fn send(
        &self,
        header: ProduceHeader,
        bytes: Bytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> bool {
        self.sender.send(Batch { header, bytes, _permit: permit }).await.is_ok()
    }
}

/// Batches that the leader has not answered.
#[derive(Debug, Default)]
struct Outstanding(Mutex<BTreeSet<u64>>);

impl Outstanding {
    fn with<R>(&self, work: impl FnOnce(&mut BTreeSet<u64>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn run(
    peers: Arc<Peers>,
    to: NodeId,
    queue: Arc<AckQueue>,
    mut batches: mpsc::Receiver<Batch>,
) {
    let outstanding = Outstanding::default();
    let error = match peers.connection(to, Purpose::Control).await {
        Err(error) => unreachable(&error),
        Ok(connection) => match carry(&connection, &queue, &mut batches, &outstanding).await {
            Ok(()) => return,
            Err(what) => lost(&what),
        },
    };
    tracing::debug!(node = %to, %error, "a produce stream to the leader ended");
    batches.close();
    for correlation in outstanding.with(std::mem::take) {
        queue.push(ProduceAck { correlation, result: Err(refusal(error.clone())) });
    }
    let unsent = WireError::new(error.code, error.message);
    while let Some(batch) = batches.recv().await {
        let correlation = batch.header.correlation;
        queue.push(ProduceAck { correlation, result: Err(refusal(unsent.clone())) });
    }
}

/// Until the client's stream has ended and all is answered.
async fn carry(
    connection: &Connection,
    queue: &Arc<AckQueue>,
    batches: &mut mpsc::Receiver<Batch>,
    outstanding: &Outstanding,
) -> Result<(), String> {
    let (mut writer, mut reader) =
        connection.open_stream().await.map_err(|error| error.to_string())?;
    let body = control::encode(&ProduceOpen::default()).map_err(|error| error.to_string())?;
    let opened = writer.write(FrameKind::ProduceOpen as u8, 0, &[body]).await;
    opened.map_err(|error| error.to_string())?;
    let sending = async {
        while let Some(batch) = batches.recv().await {
            outstanding.with(|all| all.insert(batch.header.correlation));
            let head = Bytes::copy_from_slice(&batch.header.encode());
            let parts = [head, batch.bytes];
            let sent = writer.write(FrameKind::Produce as u8, 0, &parts).await;
            sent.map_err(|error| error.to_string())?;
        }
        writer.finish().await.map_err(|error| error.to_string())?;
        // The leader answers what is left, and ends its side.
        std::future::pending::<Result<(), String>>().await
    };
    tokio::select! {
        ended = sending => ended,
        ended = hear(&mut reader, queue, outstanding) => ended,
    }
}

async fn hear(
    reader: &mut FrameReader,
    queue: &Arc<AckQueue>,
    outstanding: &Outstanding,
) -> Result<(), String> {
    loop {
        let frame = reader.next(limits::CONTROL_BYTES_MAX).await;
        let Some(frame) = frame.map_err(|error| error.to_string())? else {
            return match outstanding.with(|all| all.is_empty()) {
                true => Ok(()),
                false => Err("it ended".to_owned()),
            };
        };
        if frame.kind != FrameKind::ProduceAck as u8 {
            let told = control::decode::<WireError>(&frame.body);
            return Err(told.map_or_else(|_| "not an answer".to_owned(), |e| e.to_string()));
        }
        let mut body = frame.body;
        while !body.is_empty() {
            let ack = ProduceAck::decode(&mut body).ok_or("an answer that cannot be read")?;
            // What was never sent on must not be counted as answered.
            if outstanding.with(|all| all.remove(&ack.correlation)) {
                queue.push(ack);
            }
        }
    }
}
