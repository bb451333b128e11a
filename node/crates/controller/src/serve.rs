//! Answers to other controllers.

use crate::controller::Inner;
use crate::incoming::Taken;
use crate::raft::Raft;
use crate::wire::{self, Answer, PeerError, Request, SnapshotPart, Submitted};
use crate::{join, submit};
use bytes::Bytes;
use openraft::Snapshot;
use openraft::raft::AppendEntriesResponse;
use std::io::Cursor;
use std::sync::Arc;
use weir_core::cluster::members::Members;
use weir_core::ids::NodeId;

/// Answers a request of `from`, whatever it is.
pub async fn handle(inner: &Arc<Inner>, from: Option<NodeId>, request: &[u8]) -> Bytes {
    let answer = answer(inner, from, request).await;
    let answer = answer.unwrap_or_else(|error| {
        match &error {
            PeerError::Withheld
            | PeerError::Busy
            | PeerError::Stopped
            | PeerError::Stranger { .. } => {}
            odd => tracing::warn!(?from, "refused a message of another controller: {odd}"),
        }
        Answer::Error(error)
    });
    wire::encode(&answer)
}

async fn answer(
    inner: &Arc<Inner>,
    from: Option<NodeId>,
    request: &[u8],
) -> Result<Answer, PeerError> {
    let bytes = request.len();
    let request = wire::decode(request)?;
    if let Request::Introduce { members } = &request {
        return introduced(inner, members);
    }
    let known = from.filter(|&from| from != inner.config.node && inner.is_known(from));
    let Some(from) = known else {
        return Err(PeerError::Stranger { version: inner.members().version });
    };
    let raft = inner.raft().ok_or(PeerError::Stopped)?;
    match request {
        Request::Append(entries) => {
            wire::check_append(from, &entries)?;
            let committed = raft.with_raft_state(|state| state.committed).await;
            wire::check_committed(committed.map_err(|_| PeerError::Stopped)?, &entries)?;
            let answer = raft.append_entries(entries).await.map_err(|_| PeerError::Stopped)?;
            if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                inner.heard.leads(from);
            }
            Ok(Answer::Append { answer, life: *inner.life.borrow() })
        }
        Request::Vote(request) => {
            wire::check_vote(from, &request)?;
            join::may_vote(inner, from, &request).await?;
            let answer = raft.vote(request).await;
            Ok(Answer::Vote(answer.map_err(|_| PeerError::Stopped)?))
        }
        Request::Snapshot(part) => snapshot(inner, raft, from, part).await,
        Request::Submit(command) => Ok(Answer::Submit(match inner.room(bytes) {
            Some(_room) => submit::decide(inner, raft, command).await,
            None => Submitted::Unavailable { reason: PeerError::Busy.to_string() },
        })),
        Request::Probe {} => Ok(Answer::Probe(join::holds(inner, raft).await?)),
        Request::Introduce { members } => introduced(inner, &members),
    }
}

/// A newer list of members is believed: it comes from a node of the site.
fn introduced(inner: &Inner, members: &Members) -> Result<Answer, PeerError> {
    if members.version == 0 || !members.is_sound() {
        return Err(PeerError::Malformed("a list of members that is none".to_owned()));
    }
    inner.learn(members);
    Ok(Answer::Introduced { version: inner.members().version })
}

async fn snapshot(
    inner: &Arc<Inner>,
    raft: &Raft,
    from: NodeId,
    part: SnapshotPart,
) -> Result<Answer, PeerError> {
    wire::check_leader(from, &part.vote)?;
    wire::check_membership(part.meta.last_membership.membership())?;
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await;
    let vote = vote.map_err(|_| PeerError::Stopped)?;
    if vote > part.vote {
        return Ok(Answer::Snapshot { vote, next: 0 });
    }
    // One at a time: the lock is held while it is installed.
    let mut incoming = inner.incoming.lock().await;
    match incoming.take(from, &part)? {
        Taken::Next(next) => Ok(Answer::Snapshot { vote, next }),
        Taken::Whole(bytes) => {
            let next = bytes.len() as u64;
            let snapshot = Snapshot { meta: part.meta, snapshot: Box::new(Cursor::new(bytes)) };
            let installed = raft.install_full_snapshot(part.vote, snapshot).await;
            let vote = installed.map_err(|_| PeerError::Stopped)?.vote;
            Ok(Answer::Snapshot { vote, next })
        }
    }
}
