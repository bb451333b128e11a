//! How a machine with a token becomes a node: it makes a key, asks a node of the cluster to let it
//! in, and keeps what it is given in its data folder. From then on it starts like every other node.
//!
//! | file | what |
//! |---|---|
//! | `tls/node.key` | made first, and kept: the next attempt asks for the same |
//! | `tls/node.pem`, `tls/ca.pem` | what the authority signed, and its own certificate |
//! | `cluster.json` | number, name and the members as of then; written before `tls/ca.pem` |
//!
//! A folder has joined once the last of them, `tls/ca.pem`, is there.

use super::{ClusterConfig, Member};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::wire::join::{JoinAsk, JoinToken, Joined};
use weir_core::wire::message::{Hello, Request, Response};
use weir_core::wire::{FrameKind, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, WireError};
use weir_transport::{
    AuthorityError, ClientEndpoint, ClientProfile, Clock, CloseReason, ConnectError, Connection,
    control, join,
};

/// What a folder knows of its cluster.
const CLUSTER_FILE: &str = "cluster.json";
/// Largest such file, in bytes.
const CLUSTER_FILE_BYTES_MAX: u64 = 64 * 1024;
/// How often all addresses are tried.
const ROUNDS: u32 = 10;
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// What a node that joined knows at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The members when it joined; later the cluster's own list counts.
    pub members: BTreeMap<NodeId, Member>,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Folder(#[from] AuthorityError),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Nobody could be asked.
    #[error("no node of the cluster could be asked; last: {0}")]
    Unreachable(String),
    /// Somebody answers who is not of the token's cluster.
    #[error(
        "{address} is not a node of the cluster that the token is for ({problem}): nothing was \
         sent to it"
    )]
    AnotherCluster {
        /// Where.
        address: SocketAddr,
        /// What is wrong with its certificate.
        problem: String,
    },
    /// The cluster said no.
    #[error("the cluster did not let this node in: {0}")]
    Refused(WireError),
    /// What came is not what was asked for.
    #[error("the answer cannot be used: {0}")]
    Answer(String),
}

impl Membership {
    /// Reads what a folder knows; `None` if no node has joined there.
    ///
    /// # Errors
    /// [`JoinError::File`].
    pub fn read(data_dir: &Path) -> Result<Option<Membership>, JoinError> {
        use std::io::Read;
        let path = data_dir.join(CLUSTER_FILE);
        let failed = |error| JoinError::File { path: path.clone(), error };
        if !data_dir.join("tls/ca.pem").exists() {
            return Ok(None);
        }
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(CLUSTER_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let read = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
        Ok(Some(read))
    }

    fn write(&self, data_dir: &Path) -> Result<(), JoinError> {
        let path = data_dir.join(CLUSTER_FILE);
        let written = || -> std::io::Result<()> {
            let temporary = path.with_extension("new");
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(data_dir)?.sync_all()
        };
        written().map_err(|error| JoinError::File { path: path.clone(), error })
    }

    /// This node's part in its cluster.
    #[must_use]
    pub fn config(&self, rack: Option<&str>, witness: bool) -> ClusterConfig {
        let listed = self.members.get(&self.node).is_some_and(|member| member.witness);
        ClusterConfig {
            me: self.node,
            members: self.members.clone(),
            rack: rack.map(str::to_owned),
            witness: witness || listed,
        }
    }
}

/// Joins a cluster, asking at these addresses: host and port each. `address` is where others will
/// reach this node; without a host, at the address from which it connects.
///
/// # Errors
/// [`JoinError`]. Tried again with the same folder it goes on: the token is not lost.
///
/// # Cancel safety
/// Not cancel safe: the node may be a member and not know it until it tries again.
pub async fn run(
    data_dir: &Path,
    servers: &[String],
    token: &JoinToken,
    name: &str,
    address: &str,
) -> Result<Membership, JoinError> {
    let at = |error| JoinError::File { path: data_dir.to_owned(), error };
    std::fs::create_dir_all(data_dir).map_err(at)?;
    let tls = data_dir.join("tls");
    let request = join::prepare(&tls)?;
    let ask = JoinAsk {
        token: token.id,
        secret: bytes::Bytes::copy_from_slice(&token.secret),
        name: name.to_owned(),
        address: address.to_owned(),
        request: request.into(),
    };
    let clock = Clock::system();
    let endpoint = ClientEndpoint::pinned(token.authority, &clock);
    let endpoint = endpoint.map_err(|error| JoinError::Answer(error.to_string()))?;
    let joined = ask_all(&endpoint, servers, &ask).await;
    endpoint.close(CloseReason::Normal, "done");
    endpoint.wait_idle().await;
    let Joined { node, certificate, authority, members } = joined?;
    let fits = join::fingerprint(authority.as_bytes()).is_ok_and(|it| it == token.authority);
    if !fits || members.get(&node).is_none_or(|member| member.name != name) {
        return Err(JoinError::Answer("it is for another node, or of another cluster".to_owned()));
    }
    let membership = Membership { node, name: name.to_owned(), members };
    membership.write(data_dir)?;
    join::keep(&tls, &authority, &certificate)?;
    Ok(membership)
}

async fn ask_all(
    endpoint: &ClientEndpoint,
    servers: &[String],
    ask: &JoinAsk,
) -> Result<Joined, JoinError> {
    let mut last = "no address was given".to_owned();
    for round in 0..ROUNDS {
        if round > 0 {
            // sleep: a node that starts just now is given a moment
            sleep(ROUND_PAUSE).await;
        }
        for server in servers {
            match timeout(limits::JOIN_TIMEOUT, ask_one(endpoint, server, ask)).await {
                Ok(Err(JoinError::Unreachable(why))) => last = format!("{server}: {why}"),
                Ok(Err(JoinError::Refused(error))) if error.code.retryable() => {
                    last = format!("{server}: {error}");
                }
                Ok(done) => return done,
                Err(_) => last = format!("{server}: no answer came in time"),
            }
        }
    }
    Err(JoinError::Unreachable(last))
}

async fn ask_one(
    endpoint: &ClientEndpoint,
    server: &str,
    ask: &JoinAsk,
) -> Result<Joined, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable(why);
    let found = tokio::net::lookup_host(server).await;
    let found = found.map_err(|error| unreachable(error.to_string()))?.next();
    let address = found.ok_or_else(|| unreachable("no address".to_owned()))?;
    let connection = endpoint.connect(address, None, ClientProfile::Control).await;
    let connection = connection.map_err(|error| match error {
        ConnectError::NodeCertificate { address, problem } => {
            JoinError::AnotherCluster { address, problem: problem.to_string() }
        }
        other => JoinError::Unreachable(other.to_string()),
    })?;
    let hello = Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        client: format!("node {} that joins", ask.name),
    };
    let greeted = question(&connection, FrameKind::Hello, &hello).await?;
    if greeted.0 != FrameKind::HelloReply as u8 {
        return Err(JoinError::Answer("no answer to the hello".to_owned()));
    }
    let request = Request::Join(Box::new(ask.clone()));
    let (kind, body) = question(&connection, FrameKind::Request, &request).await?;
    let malformed = |error: control::DecodeError| JoinError::Answer(error.to_string());
    if kind == FrameKind::Error as u8 {
        return Err(JoinError::Refused(control::decode(&body).map_err(malformed)?));
    }
    match control::decode(&body).map_err(malformed)? {
        Response::Joined(joined) => Ok(*joined),
        Response::Error(error) => Err(JoinError::Refused(error)),
        _ => Err(JoinError::Answer("it answers another question".to_owned())),
    }
}

async fn question<T: Serialize>(
    connection: &Connection,
    kind: FrameKind,
    message: &T,
) -> Result<(u8, bytes::Bytes), JoinError> {
    let lost = |why: String| JoinError::Unreachable(why);
    let body = control::encode(message).map_err(|error| JoinError::Answer(error.to_string()))?;
    let stream = connection.open_stream().await;
    let (mut writer, mut reader) = stream.map_err(|error| lost(error.to_string()))?;
    let asked = async {
        writer.write(kind as u8, 0, &[body]).await?;
        writer.finish().await?;
        reader.next(limits::CONTROL_BYTES_MAX).await
    };
    let answer = asked.await.map_err(|error| lost(error.to_string()))?;
    let frame = answer.ok_or_else(|| lost("no answer came".to_owned()))?;
    Ok((frame.kind, frame.body))
}
