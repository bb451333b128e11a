//! How new nodes are let in: tokens, and what is done for who shows one.
//!
//! A token's secret is known to who holds it; the controllers' log has its hash. It lets in one
//! node: the node that has the authority's key signs for the new node's key, once the controllers
//! have decided that the token is good and have made the node a member, in one command. A node
//! without the key passes the question on. Who asks again with the same key is given a certificate
//! again, so an answer that was lost does not cost the token.

use super::{ClusterNode, forward};
use crate::session::Session;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::members::{Members, MembersAsk};
use weir_core::controller::Command;
use weir_core::ids::{NodeId, TimestampMs};
use weir_core::limits;
use weir_core::wire::cluster::ClusterChanged;
use weir_core::wire::join::{JoinAsk, JoinToken, Joined};
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};
use weir_transport::join::SigningRequest;
use weir_transport::{Authority, NODE_VALID, NodeNames};

/// Shortest time for which a token can be made.
const VALID_MIN: Duration = Duration::from_secs(1);
/// What failures are counted in.
const MINUTE: Duration = Duration::from_secs(60);

/// Who stands at the door, and who lets in.
#[derive(Debug)]
pub struct Admission {
    authority: OnceLock<Authority>,
    /// Places for those who have no certificate.
    pub door: Semaphore,
    failures: Mutex<(Instant, u32)>,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            authority: OnceLock::new(),
            door: Semaphore::new(limits::JOINS_AT_ONCE),
            failures: Mutex::new((Instant::now(), 0)),
        }
    }
}

impl Admission {
    /// The authority, with its key or without. To be called once.
    pub fn use_authority(&self, authority: Authority) {
        // A second one would change nothing.
        let _ = self.authority.set(authority);
    }

    fn authority(&self) -> Result<&Authority, WireError> {
        let starting = || WireError::new(ErrorCode::Offline, "the node is starting");
        self.authority.get().ok_or_else(starting)
    }

    /// Counts a wrong token, or tells that there were too many.
    fn check_failures(&self, failed: bool) -> Result<(), WireError> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.0.elapsed() > MINUTE {
            *failures = (Instant::now(), 0);
        }
        failures.1 += u32::from(failed);
        match failures.1 > limits::JOIN_FAILURES_A_MINUTE {
            true => {
                let message = "too many wrong tokens came; wait a minute";
                Err(WireError::new(ErrorCode::Busy, message))
            }
            false => Ok(()),
        }
    }
}

fn hash(secret: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, secret).as_ref());
    hash
}

/// Makes a token.
///
/// # Errors
/// [`WireError`].
pub async fn make_token(
    session: &Session,
    site: &ClusterNode,
    valid_ms: u64,
    witness: bool,
) -> Result<Response, WireError> {
    let valid = Duration::from_millis(valid_ms);
    if !(VALID_MIN..=limits::JOIN_TOKEN_VALID_MAX).contains(&valid) {
        let message = "a token may be valid for a second to a week";
        return Err(WireError::new(ErrorCode::InvalidArgument, message));
    }
    let broken = |what: String| WireError::new(ErrorCode::Internal, what);
    let authority = site.admission.authority()?.fingerprint();
    let authority = authority.map_err(|error| broken(error.to_string()))?;
    let (mut id, mut secret) = ([0; 8], [0; 16]);
    let random = SystemRandom::new();
    let drawn = random.fill(&mut id).and_then(|()| random.fill(&mut secret));
    drawn.map_err(|_| broken("the system gives no randomness".to_owned()))?;
    let token = JoinToken { id: u64::from_be_bytes(id), secret, authority };
    let now = session.shared.now();
    let ends = now.0.saturating_add(i64::try_from(valid_ms).unwrap_or(i64::MAX));
    let (id, hash, expires_at) = (token.id, hash(&secret), TimestampMs(ends));
    let ask = MembersAsk::Token { id, hash, now, expires_at, witness };
    site.submit(Command::Cluster(ClusterAsk::Members(ask))).await?;
    tracing::info!(peer = %session.connection.peer(), ?valid, witness, "a token was made");
    Ok(Response::ClusterChanged(Box::new(ClusterChanged::Token(token.to_string()))))
}

/// Lets a node in that shows a token.
///
/// # Errors
/// [`WireError`], which the new node shows to who started it.
pub async fn join(
    session: &Session,
    site: &ClusterNode,
    mut ask: JoinAsk,
) -> Result<Response, WireError> {
    site.admission.check_failures(false)?;
    if ask.address.starts_with(':') {
        let ip = session.connection.peer().address.ip().to_canonical();
        let port = ask.address.trim_start_matches(':');
        ask.address = match ip.is_ipv6() {
            true => format!("[{ip}]:{port}"),
            false => format!("{ip}:{port}"),
        };
    }
    let joined = admit(session, site, &ask).await;
    match &joined {
        Ok(_) => tracing::info!(name = ask.name, address = ask.address, "a node was let in"),
        Err(error) => {
            let peer = session.connection.peer();
            tracing::warn!(%peer, name = ask.name, %error, "a node was not let in");
            let wrong = matches!(error.code, ErrorCode::Unauthorized | ErrorCode::InvalidArgument);
            site.admission.check_failures(wrong)?;
        }
    }
    joined
}

async fn admit(
    session: &Session,
    site: &ClusterNode,
    ask: &JoinAsk,
) -> Result<Response, WireError> {
    let invalid = |what: String| WireError::new(ErrorCode::InvalidArgument, what);
    let authority = site.admission.authority()?;
    let now = session.shared.now();
    let hash = hash(&ask.secret);
    // What cannot be good is not worth an entry of the log, or a question to another node.
    let members = site.known_state()?.cluster().members().clone();
    let good = members.check_token(ask.token, &hash, now);
    good.map_err(|error| WireError::new(ErrorCode::Unauthorized, error.to_string()))?;
    if !authority.can_issue() {
        return pass_on(session, site, ask, &members).await;
    }
    let request = SigningRequest::read(&ask.request).map_err(|error| invalid(error.to_string()))?;
    let host = ask.address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let names = NodeNames::new(&ask.name).and_then(|names| names.with(host));
    let names = names.map_err(|error| invalid(error.to_string()))?;
    // Signed first, told last: a token is not used up for what cannot be signed.
    let certificate = authority.sign_node(&request, &names, NODE_VALID);
    let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
    let (name, address, key) = (ask.name.clone(), ask.address.clone(), request.key_hash());
    let join = MembersAsk::Join { token: ask.token, hash, key, now, name, address };
    site.submit(Command::Cluster(ClusterAsk::Members(join))).await?;
    let rows = site.known_state()?.cluster().members().rows.clone();
    let node = rows.iter().find(|(_, row)| row.name == ask.name).map(|(&id, _)| id);
    let behind = || WireError::new(ErrorCode::Offline, "this node is behind; try again");
    Ok(Response::Joined(Box::new(Joined {
        node: node.ok_or_else(behind)?,
        certificate,
        authority: authority.certificate_pem().to_owned(),
        members: rows,
    })))
}

/// Asks the others, one after the other, until one has the authority's key.
async fn pass_on(
    session: &Session,
    site: &ClusterNode,
    ask: &JoinAsk,
    members: &Members,
) -> Result<Response, WireError> {
    let message = "the authority's key (tls/ca.key) is on no node that can be reached: start the \
                   node that has it, or use `weir cert node` where it is and `weir cluster add`";
    let nobody = WireError::new(ErrorCode::Unsupported, message);
    if session.is_forwarded() {
        return Err(nobody);
    }
    let others: Vec<NodeId> = members.rows.keys().copied().filter(|&id| id != site.me()).collect();
    for to in others {
        let request = Request::Join(Box::new(ask.clone()));
        match forward::request(&site.peers, to, &request).await {
            Err(error) if matches!(error.code, ErrorCode::Unsupported | ErrorCode::NotLeader) => {}
            answered => return answered,
        }
    }
    Err(nobody)
}
