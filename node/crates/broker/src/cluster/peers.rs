//! Connections to the other nodes of the cluster.
//!
//! A node has two to each other node: one for questions to its controller and for what is forwarded
//! to it, and one for the replicas that follow it, so that entries on their way to a slow disk hold
//! up no heartbeat.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use weir_core::cluster::members::{Member, Members};
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::wire::message::{Hello, HelloReply};
use weir_core::wire::{FrameKind, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use weir_transport::{ClientEndpoint, ClientProfile, CloseReason, Connection, PeerKind, control};

/// How long connecting may take, name lookup and hello included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed attempt, others are told of it for so long before the next one is made.
const FAILURE_AGE: Duration = Duration::from_millis(100);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Questions to controllers, and what clients asked of another node.
    Control,
    /// Replicas.
    Follow,
}

/// Why another node cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It is not in the list of members.
    #[error("node {0} is not a member of the cluster")]
    Unknown(NodeId),
    /// Nobody answers there, or not as a node.
    #[error("node {node} at {address}: {reason}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Where it should be.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Somebody else answers there.
    #[error("node {node} at {address}: {who} answers there")]
    Another {
        /// The node.
        node: NodeId,
        /// Where it should be.
        address: String,
        /// Who is there.
        who: String,
    },
    /// The node shuts down.
    #[error("the node shuts down")]
    Closed,
}

/// The other nodes.
pub struct Peers {
    me: NodeId,
    name: String,
    cluster: String,
    endpoint: OnceLock<ClientEndpoint>,
    known: RwLock<Known>,
    taking: Semaphore,
    sending: Semaphore,
}

#[derive(Default)]
struct Known {
    members: Members,
    others: BTreeMap<NodeId, Arc<Other>>,
}

struct Other {
    member: Member,
    control: Mutex<Link>,
    follow: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    live: Option<Connection>,
    failure: Option<(Instant, PeerError)>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Peers {
    /// The members besides `me`, of the cluster with this id. Nobody is connected to yet.
    #[must_use]
    pub fn new(me: NodeId, cluster: String, members: &Members) -> Peers {
        let name = members.rows.get(&me).map_or_else(String::new, |member| member.name.clone());
        let (endpoint, known) = (OnceLock::new(), RwLock::default());
        let [taking, sending] = [(); 2].map(|()| Semaphore::new(limits::SNAPSHOTS_AT_ONCE));
        let peers = Peers { me, name, cluster, endpoint, known, taking, sending };
        peers.adopt(members);
        peers
    }

    /// Takes over a list of members. Connections to those who are elsewhere now, or gone, end.
    pub fn adopt(&self, members: &Members) {
        let listed = members.left.iter().chain(&members.rows).filter(|(id, _)| **id != self.me);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut known.others);
        for (&id, member) in listed {
            let same = before.remove(&id).filter(|other| other.member == *member);
            let other = same.unwrap_or_else(|| {
                let (control, follow) = (Mutex::default(), Mutex::default());
                Arc::new(Other { member: member.clone(), control, follow })
            });
            known.others.insert(id, other);
        }
        known.members = members.clone();
    }

    fn other(&self, node: NodeId) -> Option<Arc<Other>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).others.get(&node).cloned()
    }

    /// Connections are made from here. To be called once.
    pub fn use_endpoint(&self, endpoint: ClientEndpoint) {
        // A second one would change nothing.
        let _ = self.endpoint.set(endpoint);
    }

    /// Which other member has this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<NodeId> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.members.by_name(name).filter(|&id| id != self.me)
    }

    /// The same, with those who were removed and may still vote.
    #[must_use]
    pub fn by_name_or_left(&self, name: &str) -> Option<NodeId> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.members.by_name_or_left(name).filter(|&id| id != self.me)
    }

    /// Ends the connections to a node: what waits there for an answer fails at once. Does not wait
    /// for an attempt at a new one that is under way: while it is, there is none to end.
    pub fn forget(&self, node: NodeId) {
        let Some(other) = self.other(node) else { return };
        for link in [&other.control, &other.follow] {
            if let Ok(mut link) = link.try_lock()
                && let Some(live) = link.live.take()
            {
                live.close(CloseReason::Normal, "the node was fenced or started again");
            }
        }
    }

    /// Waits until a snapshot may be taken; held while it is. `None` never comes: turns do not end.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn snapshot_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.taking.acquire().await.ok()
    }

    /// Whether a snapshot may be sent now; held while it is. Nobody waits for it: who waited here
    /// with a turn there could wait for somebody who does the same.
    #[must_use]
    pub fn try_send_snapshot(&self) -> Option<SemaphorePermit<'_>> {
        self.sending.try_acquire().ok()
    }

    /// Ends all connections.
    pub fn close(&self) {
        if let Some(endpoint) = self.endpoint.get() {
            endpoint.close(CloseReason::Shutdown, "the node is shutting down");
        }
    }

    /// A connection to another node, as it is or after one attempt at a new one.
    ///
    /// # Errors
    /// [`PeerError`]; within a tenth of a second the same as before, so that many who ask for a
    /// node that is gone do not all wait for it.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the attempt off.
    pub async fn connection(&self, to: NodeId, purpose: Purpose) -> Result<Connection, PeerError> {
        let other = self.other(to).ok_or(PeerError::Unknown(to))?;
        let link = match purpose {
            Purpose::Control => &other.control,
            Purpose::Follow => &other.follow,
        };
        let asked = Instant::now();
        let mut link = link.lock().await;
        if let Some(live) = link.live.as_ref().filter(|live| live.lost().is_none()) {
            return Ok(live.clone());
        }
        link.live = None;
        if let Some((at, error)) = &link.failure
            && (*at >= asked || at.elapsed() < FAILURE_AGE)
        {
            return Err(error.clone());
        }
        let attempt = timeout(CONNECT_TIMEOUT, self.connect(to, &other.member, purpose)).await;
        let made = attempt.unwrap_or_else(|_| {
            let reason = "no answer".to_owned();
            Err(PeerError::Unreachable { node: to, address: other.member.address.clone(), reason })
        });
        match made {
            Ok(connection) => {
                link.failure = None;
                link.live = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                link.failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(
        &self,
        node: NodeId,
        member: &Member,
        purpose: Purpose,
    ) -> Result<Connection, PeerError> {
        let endpoint = self.endpoint.get().ok_or(PeerError::Closed)?;
        let unreachable = |reason: String| {
            let address = member.address.clone();
            PeerError::Unreachable { node, address, reason }
        };
        let found = tokio::net::lookup_host(&member.address).await;
        let found: Vec<SocketAddr> = found.map_err(|e| unreachable(e.to_string()))?.collect();
        let address = found.first().ok_or_else(|| unreachable("no address".to_owned()))?;
        let profile = match purpose {
            Purpose::Control => ClientProfile::Control,
            Purpose::Follow => ClientProfile::Subscribe {
                streams: limits::FOLLOW_STREAMS,
                stream_window_bytes: limits::STREAM_WINDOW_BYTES,
            },
        };
        let connection = endpoint.connect(*address, None, profile).await;
        let connection = connection.map_err(|error| unreachable(error.to_string()))?;
        let peer = connection.peer();
        if peer.kind != PeerKind::Node || peer.principal.as_deref() != Some(&member.name) {
            let (address, who) = (member.address.clone(), peer.to_string());
            connection.close(CloseReason::Normal, "another node was meant");
            return Err(PeerError::Another { node, address, who });
        }
        let reply = self.greet(&connection).await.map_err(unreachable)?;
        if reply.cluster != self.cluster {
            let who = format!("a node of another cluster ({})", reply.cluster);
            connection.close(CloseReason::Normal, "another cluster was meant");
            return Err(PeerError::Another { node, address: member.address.clone(), who });
        }
        tracing::info!(%node, %address, ?purpose, "connected to a node");
        Ok(connection)
    }

    async fn greet(&self, connection: &Connection) -> Result<HelloReply, String> {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            client: format!("node {}", self.name),
        };
        let (mut writer, mut reader) =
            connection.open_stream().await.map_err(|lost| lost.to_string())?;
        let body = control::encode(&hello).map_err(|error| error.to_string())?;
        let sent = writer.write(FrameKind::Hello as u8, 0, &[body]).await;
        sent.map_err(|error| error.to_string())?;
        let frame = reader.next(limits::CONTROL_BYTES_MAX).await;
        match frame.map_err(|error| error.to_string())? {
            Some(frame) if frame.kind == FrameKind::HelloReply as u8 => {
                control::decode(&frame.body).map_err(|error| error.to_string())
            }
            _ => Err("no answer to the hello".to_owned()),
        }
    }
}
