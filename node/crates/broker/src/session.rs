//! One client's connection: hello, then a task per stream.

use crate::broker::Shared;
use crate::{cluster, deploy, produce, requests, subscribe};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{SemaphorePermit, TryAcquireError, watch};
use tokio::time::timeout;
use weir_core::access::Role;
use weir_core::deploy::is_internal;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::wire::message::{Hello, HelloReply, Response};
use weir_core::wire::{self, ErrorCode, FrameKind, WireError};
use weir_transport::{
    CloseReason, Connection, FrameError, FrameReader, FrameWriter, Incoming, PeerKind, control,
};

/// What every stream of a connection shares.
#[derive(Clone, Debug)]
pub struct Session {
    /// The broker.
    pub shared: Arc<Shared>,
    /// The connection.
    pub connection: Connection,
}

impl Session {
    /// The client's name; `None`: anonymous.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.connection.peer().principal.as_deref()
    }

    /// Which other node of the cluster is at the other end.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorized`] if it is none.
    pub fn member(&self) -> Result<NodeId, WireError> {
        self.node().ok_or_else(|| {
            let peer = self.connection.peer();
            let message = format!(
                "{peer} is no node of this cluster: it was never added (`weir cluster add`), or \
                 removed"
            );
            WireError::new(ErrorCode::Unauthorized, message)
        })
    }

    /// The same; members change while connections last.
    fn node(&self) -> Option<NodeId> {
        let (site, name) = self.node_name()?;
        site.peers.by_name(name)
    }

    /// The name of the node at the other end, if it is one, and this one's part in the cluster.
    fn node_name(&self) -> Option<(&cluster::ClusterNode, &str)> {
        let peer = self.connection.peer();
        let name = peer.principal.as_deref().filter(|_| peer.kind == PeerKind::Node)?;
        Some((self.shared.site.as_deref()?, name))
    }

    /// Whether what comes from here was a client's at another node, which checked its rights and
    /// holds this one for the leader. It is never sent on.
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        self.node().is_some()
    }

    /// Checks that the client may act as `role` on `topic` (or on no topic).
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorized`], saying who lacks what.
    pub fn authorize(&self, role: Role, topic: Option<&str>) -> Result<(), WireError> {
        if self.is_forwarded() {
            return Ok(());
        }
        if let Some(topic) = topic.filter(|topic| is_internal(topic)) {
            let message = format!("`{topic}` is the node's own topic: clients cannot use it");
            return Err(WireError::new(ErrorCode::Unauthorized, message));
        }
        if self.shared.config.access.allows(self.principal(), role, topic) {
            return Ok(());
        }
        let who = self.principal().unwrap_or("an anonymous client");
        let right = match role {
            Role::Admin => "admin",
            Role::Produce => "produce",
            Role::Consume => "consume",
        };
        let place = topic.map_or(String::new(), |t| format!(" on topic `{t}`"));
        let message = format!(
            "{who} does not have the right `{right}`{place}; the node's access rules give rights"
        );
        tracing::info!(peer = %self.connection.peer(), right, topic, "refused: no right");
        Err(WireError::new(ErrorCode::Unauthorized, message))
    }
}

/// Serves one connection to its end.
pub async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let address = incoming.address();
    let connection = match incoming.handshake().await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::info!(%address, %error, "handshake refused");
            return;
        }
    };
    shared.counts.connections.fetch_add(1, Ordering::Relaxed);
    let session = Session { shared: shared.clone(), connection };
    session.run().await;
    shared.counts.connections.fetch_sub(1, Ordering::Relaxed);
}

impl Session {
    async fn run(&self) {
        let peer = self.connection.peer().to_string();
        match timeout(limits::HELLO_TIMEOUT, self.hello()).await {
            Err(_) => {
                self.connection.close(CloseReason::HelloTimeout, "no hello came in time");
                return;
            }
            Ok(Err(refusal)) => {
                tracing::info!(peer, %refusal, "connection refused");
                // The client learns the reason from the stream, if it gets to read it, or from
                // here.
                self.connection.close(close_reason(refusal.code), &refusal.message);
                return;
            }
            Ok(Ok(client)) => tracing::debug!(peer, client, "connected"),
        }
        let Ok(_place) = self.place_at_the_door() else {
            self.connection.close(CloseReason::TooManyConnections, "too many nodes join at once");
            return;
        };
        // Who may only join has bounded time to do it.
        if !self.may_only_join() {
            self.streams(&peer).await;
        } else if timeout(limits::JOIN_TIMEOUT, self.streams(&peer)).await.is_err() {
            self.connection.close(CloseReason::HelloTimeout, "joining took too long");
        }
    }

    /// Whether the client has no certificate where one is needed: then all that it may do is join
    /// the cluster as a node.
    #[must_use]
    pub fn may_only_join(&self) -> bool {
        let config = &self.shared.config;
        self.connection.peer().kind == PeerKind::Anonymous && !config.allow_anonymous
    }

    /// Who may only join needs a place; others need none.
    fn place_at_the_door(&self) -> Result<Option<SemaphorePermit<'_>>, TryAcquireError> {
        match self.shared.site.as_ref().filter(|_| self.may_only_join()) {
            Some(site) => site.admission.door.try_acquire().map(Some),
            None => Ok(None),
        }
    }

    async fn streams(&self, peer: &str) {
        // Of clients only: nodes have nowhere else to go.
        let site = self.shared.site.as_ref().filter(|_| self.node().is_none());
        let mut cut_off = site.map(|site| site.cut_off());
        loop {
            let stream = tokio::select! {
                stream = self.connection.accept_stream() => stream,
                () = comes_true(&mut cut_off) => {
                    let why = "the node does not reach its cluster: another one may";
                    self.connection.close(CloseReason::Normal, why);
                    return;
                }
            };
            match stream {
                Ok((writer, reader)) => {
                    let session = self.clone();
                    self.shared.tasks.spawn(async move { session.stream(writer, reader).await });
                }
                Err(lost) => {
                    tracing::debug!(peer, %lost, "disconnected");
                    return;
                }
            }
        }
    }

    /// Returns what the client calls itself.
    async fn hello(&self) -> Result<String, WireError> {
        let lost = |e: FrameError| WireError::new(ErrorCode::Protocol, e.to_string());
        let stream = self.connection.accept_stream().await;
        let (mut writer, mut reader) =
            stream.map_err(|e| WireError::new(ErrorCode::Protocol, e.to_string()))?;
        let frame = reader.next(limits::CONTROL_BYTES_MAX).await.map_err(lost)?;
        let body = match frame {
            Some(frame) if frame.kind == FrameKind::Hello as u8 => frame.body,
            _ => return Err(protocol("the first frame of a connection must be a hello")),
        };
        let hello: Hello = decode(&body)?;
        let Some(version) = wire::choose_version(hello.version_min, hello.version_max) else {
            let message = format!(
                "the client speaks protocol versions {} to {}, this node {} to {}",
                hello.version_min,
                hello.version_max,
                wire::PROTOCOL_VERSION_MIN,
                wire::PROTOCOL_VERSION_MAX
            );
            let error = WireError::new(ErrorCode::Unsupported, message);
            refuse(&mut writer, &error).await;
            return Err(error);
        };
        let reply = HelloReply {
            version,
            node: self.shared.config.node_name.clone(),
            cluster: self.shared.cluster.clone(),
            software: self.shared.software.clone(),
            principal: self.principal().map(str::to_owned),
            node_time: self.shared.now(),
            cut_off: self.node().is_none()
                && self.shared.site.as_ref().is_some_and(|site| site.is_cut_off()),
            batch_bytes_max: limits::BATCH_BYTES_MAX as u32,
        };
        let body = encode(&reply)?;
        writer.write(FrameKind::HelloReply as u8, 0, &[body]).await.map_err(lost)?;
        writer.finish().await.map_err(lost)?;
        Ok(hello.client)
    }

    async fn stream(self, mut writer: FrameWriter, mut reader: FrameReader) {
        // A stream opens with a small control message, whole within bounded time.
        // A question between controllers may be larger.
        let most = if self.node_name().is_some() {
            limits::FRAME_BYTES_MAX
        } else {
            limits::CONTROL_BYTES_MAX
        };
        let first = timeout(limits::REQUEST_READ_TIMEOUT, reader.next(most));
        let frame = match first.await {
            Ok(Ok(Some(frame))) => frame,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return self.broken(&mut writer, &error),
            Err(_) => {
                let error = WireError::new(ErrorCode::Timeout, "the request did not come in time");
                return refuse(&mut writer, &error).await;
            }
        };
        let kind = FrameKind::from_u8(frame.kind);
        if !self.shared.registry.is_informed() && kind != Some(FrameKind::Controller) {
            let message = "the node has not found the rest of its cluster yet; try again";
            return refuse(&mut writer, &WireError::new(ErrorCode::Offline, message)).await;
        }
        if self.may_only_join() && kind != Some(FrameKind::Request) {
            return refuse(&mut writer, &no_certificate()).await;
        }
        if kind != Some(FrameKind::Controller)
            && self.node_name().is_some()
            && let Err(error) = self.member()
        {
            return refuse(&mut writer, &error).await;
        }
        match kind {
            Some(FrameKind::Request) => requests::serve(&self, writer, &frame.body).await,
            Some(FrameKind::ProduceOpen) => produce::serve(self, writer, reader).await,
            Some(FrameKind::Subscribe) => subscribe::serve(self, writer, reader, &frame.body).await,
            Some(FrameKind::Follow) => {
                cluster::leader::serve(self, writer, reader, &frame.body).await;
            }
            Some(FrameKind::Controller) => self.controller(writer, frame.body).await,
            Some(FrameKind::FetchEntries) => cluster::mend::serve(&self, writer, &frame.body).await,
            Some(FrameKind::Deliver) => {
                let answer = deploy::deliver::receive(&self, frame.body).await;
                requests::respond(&mut writer, &answer.unwrap_or_else(Response::Error)).await;
            }
            _ => {
                let kind = frame.kind;
                refuse(&mut writer, &protocol(&format!("frame kind {kind} opens no stream"))).await;
            }
        }
    }

    /// Answers another node's controller.
    async fn controller(&self, mut writer: FrameWriter, request: Bytes) {
        let Some((site, name)) = self.node_name() else {
            let error =
                WireError::new(ErrorCode::Unauthorized, "controllers are asked by nodes only");
            return refuse(&mut writer, &error).await;
        };
        let from = site.peers.by_name_or_left(name);
        let Some(answer) = site.handle(from, request).await else {
            let error = WireError::new(ErrorCode::Offline, "the controller is starting");
            return refuse(&mut writer, &error).await;
        };
        let sent = async {
            writer.write(FrameKind::ControllerAnswer as u8, 0, &[answer]).await?;
            writer.finish().await
        };
        // Fails only if the other node is gone, or takes it for dead.
        let _ = timeout(limits::REQUEST_READ_TIMEOUT, sent).await;
    }

    /// A stream failed below the level of messages. What is not a frame costs the connection.
    pub fn broken(&self, writer: &mut FrameWriter, error: &FrameError) {
        if error.is_protocol_error() {
            tracing::info!(peer = %self.connection.peer(), %error, "protocol error");
            self.connection.close(CloseReason::ProtocolError, &error.to_string());
        } else {
            tracing::debug!(peer = %self.connection.peer(), %error, "stream ended");
            writer.reset(CloseReason::Normal.code());
        }
    }
}

/// Waits until a flag is raised; for ever if there is none. No change is missed between calls.
async fn comes_true(flag: &mut Option<watch::Receiver<bool>>) {
    if let Some(flag) = flag {
        while flag.changed().await.is_ok() {
            if *flag.borrow_and_update() {
                return;
            }
        }
    }
    std::future::pending().await
}

/// An error for clients that need a certificate and have none.
#[must_use]
pub fn no_certificate() -> WireError {
    let message = "this node requires a certificate of its clients: give --cert and --key, which \
                   `weir cert client NAME` makes";
    WireError::new(ErrorCode::Unauthorized, message)
}

/// An error for what the protocol does not allow.
#[must_use]
pub fn protocol(message: &str) -> WireError {
    WireError::new(ErrorCode::Protocol, message)
}

/// Ends a stream with an error frame.
pub async fn refuse(writer: &mut FrameWriter, error: &WireError) {
    let Ok(body) = encode(error) else { return };
    let sent = async {
        writer.write(FrameKind::Error as u8, 0, &[body]).await?;
        writer.finish().await?;
        writer.delivered().await
    };
    // The peer may be gone or may not read; then there is nobody to tell.
    let _ = timeout(limits::REQUEST_READ_TIMEOUT, sent).await;
}

/// Encodes a control message of the node's own making.
///
/// # Errors
/// [`ErrorCode::Internal`] if it passes the limit of control messages.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, WireError> {
    control::encode(message).map_err(|e| WireError::new(ErrorCode::Internal, e.to_string()))
}

/// Decodes a control message of a client.
///
/// # Errors
/// [`ErrorCode::Protocol`].
pub fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    control::decode(body).map_err(|e| protocol(&format!("the message cannot be read: {e}")))
}

fn close_reason(code: ErrorCode) -> CloseReason {
    match code {
        ErrorCode::Unsupported => CloseReason::VersionMismatch,
        _ => CloseReason::ProtocolError,
    }
}
