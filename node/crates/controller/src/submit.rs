//! A command on its way to the leading controller, and what became of it.
//!
//! It is sent again only while it is certain that it was not written to any log. Once it may have
//! been, its fate is known only from its entry, and without that it is unknown: another controller
//! may find the entry and carry it out.

use crate::controller::Inner;
use crate::error::SubmitError;
use crate::raft::Raft;
use crate::transport::CallError;
use crate::wire::{self, Answer, Request, Submitted};
use openraft::ServerState;
use openraft::error::ClientWriteError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use weir_core::cluster::members::{MembersAsk, MembersError};
use weir_core::cluster::{ClusterAsk, ClusterError};
use weir_core::controller::{Command, Done};
use weir_core::ids::NodeId;
use weir_core::limits;

/// Pause before a command is sent again, unless another leads before.
const RETRY: Duration = Duration::from_millis(50);
/// How long an answer waits until this node's state shows what it tells of.
const SEEN: Duration = Duration::from_secs(1);

/// Has a command decided, wherever the leading controller is.
pub async fn submit(inner: &Arc<Inner>, command: Command) -> Result<Done, SubmitError> {
    let request = wire::encode(&Request::Submit(command.clone()));
    let (bytes, max) = (request.len(), limits::COMMAND_BYTES_MAX);
    if bytes > max {
        return Err(SubmitError::TooLarge { bytes, max });
    }
    let busy = "too many commands wait at this node; try again in a moment";
    let Some(_room) = inner.room(bytes) else {
        return Err(SubmitError::Unavailable { reason: busy.to_owned() });
    };
    let deadline = Instant::now() + limits::SUBMIT_TIMEOUT;
    let mut reason = String::new();
    while Instant::now() < deadline {
        let raft = inner.raft().filter(|_| !*inner.stopping.borrow());
        let Some(raft) = raft else {
            let reason = "this node's controller is stopped".to_owned();
            return Err(SubmitError::Unavailable { reason });
        };
        let submitted = match inner.leader() {
            None => Submitted::NotLeader,
            Some(leader) if leader == inner.config.node => {
                decide(inner, raft, command.clone()).await
            }
            Some(leader) => forward(inner, leader, request.clone(), deadline).await,
        };
        match submitted {
            Submitted::Decided { result, index } => {
                seen(inner, index).await;
                return Ok(result?);
            }
            Submitted::Unknown { reason } => return Err(SubmitError::Unknown { reason }),
            Submitted::NotLeader => {}
            Submitted::Unavailable { reason: why } => reason = why,
        }
        let mut metrics = raft.server_metrics();
        metrics.mark_unchanged();
        let _ = tokio::time::timeout(RETRY, metrics.changed()).await;
    }
    Err(SubmitError::Unavailable { reason: nobody(inner, &reason) })
}

/// Waits until this node's state shows the entry at `index`; not for ever, since it may have to
/// catch up with much else.
async fn seen(inner: &Inner, index: u64) {
    let mut applied = inner.applied.clone();
    let reached = applied.wait_for(|at| at.last.is_some_and(|last| last.index >= index));
    let _ = tokio::time::timeout(SEEN, reached).await;
}

fn nobody(inner: &Inner, reason: &str) -> String {
    let rows = &inner.members().rows;
    let members = inner.name(rows.keys().copied());
    let least = rows.len() / 2 + 1;
    let last = if reason.is_empty() { String::new() } else { format!("; last: {reason}") };
    format!("{least} of the nodes {members} must be up and reach each other{last}")
}

async fn forward(
    inner: &Inner,
    leader: NodeId,
    request: bytes::Bytes,
    deadline: Instant,
) -> Submitted {
    let answer = match timeout_at(deadline, inner.transport.call(leader, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::NoAnswer { to: leader, reason: "it takes too long".to_owned() }),
    };
    match answer.map(|answer| wire::decode(&answer)) {
        Ok(Ok(Answer::Submit(submitted))) => submitted,
        // Whoever answers so has done nothing.
        Ok(Ok(Answer::Error(error))) => Submitted::Unavailable { reason: error.to_string() },
        Ok(Ok(_)) => Submitted::Unknown { reason: format!("node {leader} answered nonsense") },
        Ok(Err(error)) => Submitted::Unknown { reason: error.to_string() },
        Err(error @ CallError::NotSent { .. }) => {
            Submitted::Unavailable { reason: error.to_string() }
        }
        Err(error @ CallError::NoAnswer { .. }) => Submitted::Unknown { reason: error.to_string() },
    }
}

/// What tells whether openraft took a command: its vote, and whether it leads.
type Standing = Option<(openraft::Vote<u64>, bool)>;

/// Asks openraft for its standing, in turn with what else it is asked.
fn standing(raft: &Raft) -> tokio::sync::oneshot::Receiver<(openraft::Vote<u64>, bool)> {
    let (tell, told) = tokio::sync::oneshot::channel();
    raft.external_request(move |state| {
        let _ = tell.send((*state.vote_ref(), state.server_state == ServerState::Leader));
    });
    told
}

/// Has a command decided here, if this controller leads.
pub async fn decide(inner: &Inner, raft: &Raft, command: Command) -> Submitted {
    if inner.leader() != Some(inner.config.node) {
        return Submitted::NotLeader;
    }
    if let Err(refused) = check_quorum(inner, &command) {
        // No entry of the log: whoever asked waits for none.
        return Submitted::Decided { result: Err(refused.into()), index: 0 };
    }
    // openraft refuses a command in the same words whether it never took it or gave it up later. It
    // handles what it is asked in order; if it did not lead just before and just after, in one and
    // the same vote, it never took it.
    let before = standing(raft);
    let answer = raft.client_write_ff(command).await;
    let after = standing(raft);
    let Ok(answer) = answer else {
        return Submitted::Unavailable { reason: "its controller is stopped".to_owned() };
    };
    let patience = limits::SUBMIT_TIMEOUT - limits::SUBMIT_TIMEOUT / 5;
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(Ok(done))) => match done.data.0 {
            Some(result) => Submitted::Decided { result, index: done.log_id.index },
            None => unknown("its entry was another one"),
        },
        Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => {
            let (before, after): (Standing, Standing) = (before.await.ok(), after.await.ok());
            match before.is_some_and(|(_, leads)| !leads) && before == after {
                true => Submitted::NotLeader,
                false => unknown("the leading controller changed meanwhile"),
            }
        }
        Ok(Ok(Err(other))) => Submitted::Unavailable { reason: other.to_string() },
        Ok(Err(_)) => unknown("the leading controller stopped meanwhile"),
        Err(_) => unknown("no majority of the nodes has confirmed it in time"),
    }
}

/// Whether enough members are heard of to decide anything once one of them is removed.
fn check_quorum(inner: &Inner, command: &Command) -> Result<(), ClusterError> {
    let Command::Cluster(ClusterAsk::Members(MembersAsk::Remove { node, .. })) = command else {
        return Ok(());
    };
    let members = inner.members();
    let rest: Vec<NodeId> = members.rows.keys().copied().filter(|id| id != node).collect();
    let heard = inner.heard.within(inner.config.timing.session);
    let is_there = |id: &&NodeId| **id == inner.config.node || heard.contains(id);
    let (there, needed) = (rest.iter().filter(is_there).count(), rest.len() / 2 + 1);
    if !members.rows.contains_key(node) || rest.is_empty() || there >= needed {
        return Ok(());
    }
    let (node, rest) = (*node, rest.len());
    Err(MembersError::Quorum { node, rest, there, needed }.into())
}

fn unknown(reason: &str) -> Submitted {
    Submitted::Unknown { reason: reason.to_owned() }
}
