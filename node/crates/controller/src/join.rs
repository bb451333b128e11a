//! How a site's log begins, and what a node may do whose disk was empty.
//!
//! A majority only counts if each of its members remembers what it voted for and wrote. A node
//! whose disk was replaced does not, and no node can tell by itself whether its empty disk is the
//! first it had. So a disk begins *outside*: the node takes entries and acknowledges them, but
//! neither votes nor stands for election. It becomes *joined*, for good, by one of two proofs that
//! it misses nothing that it may have said before:
//!
//! - It applied an entry of the controller that leads. Whatever was committed is before that entry,
//!   and older votes no longer matter.
//! - No member has joined, all answered, and none holds more than it does. There is no site yet, or
//!   it has lost more than it may, and this is the most that is left.
//!
//! The latter is how a site is formed: the member of the lowest number writes the first entry. All
//! members must be there for that, once; later a majority does.
//!
//! And it may give a single vote if all others answered, and none of them holds more, or knows of a
//! later vote, than the candidate: what this node acknowledged, another member holds, too. Without
//! that two nodes, one of them with a new disk, could never go on.
//!
//! So a second site is never formed while any member still has a disk with the first.

use crate::controller::Inner;
use crate::members::Failure;
use crate::raft::Raft;
use crate::wire::{Answer, Holds, PeerError, Request};
use openraft::raft::VoteRequest;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::task::JoinSet;
use weir_core::ids::NodeId;

/// Tries to join until it has.
pub async fn run(inner: Arc<Inner>, raft: Raft) {
    let metrics = raft.metrics();
    let mut said = String::new();
    while !*inner.joined.borrow() {
        let follows = {
            let now = metrics.borrow();
            let last = now.last_applied.as_ref().map(|last| last.leader_id);
            now.vote.committed && last == Some(now.vote.leader_id)
        };
        if follows {
            tracing::info!("this node's controller has caught up, and votes from now on");
            inner.join().await;
            return;
        }
        match stands_alone(&inner, &raft).await {
            Ok(true) => return form(&inner, &raft).await,
            Ok(false) => {}
            Err(why) if why != said => {
                tracing::info!("this node's controller waits: {why}");
                said = why;
            }
            Err(_) => {}
        }
        // Not at the next change: every question is one, here and there.
        tokio::time::sleep(inner.config.timing.heartbeat * 2).await;
    }
}

/// Whether no member has joined, and this one is to begin.
async fn stands_alone(inner: &Arc<Inner>, raft: &Raft) -> Result<bool, String> {
    let mine = holds(inner, raft).await.map_err(|error| error.to_string())?;
    let others = probe(inner, inner.others()).await?;
    if others.iter().any(|(_, holds)| holds.joined) {
        return Err("it is to catch up with the others, which have a site".to_owned());
    }
    same_members(inner, &others)?;
    // Who has voted cannot write the first entry.
    let rank = |id: NodeId, holds: &Holds| {
        (holds.last, holds.vote == openraft::Vote::default(), Reverse(id))
    };
    let me = rank(inner.config.node, &mine);
    Ok(others.iter().all(|(id, holds)| rank(*id, holds) < me))
}

/// Begins the site's log, or goes on with what is left of it.
async fn form(inner: &Arc<Inner>, raft: &Raft) {
    inner.join().await;
    let members: BTreeSet<u64> = inner.config.members.keys().map(|id| u64::from(id.0)).collect();
    if raft.is_initialized().await.unwrap_or(true) {
        return;
    }
    match raft.initialize(members).await {
        Ok(()) => {
            let members = inner.name(inner.config.members.keys().copied());
            tracing::info!("formed a site of the nodes {members}");
        }
        Err(error) => tracing::error!("cannot form the site: {error}"),
    }
}

/// Whether an outside disk may vote for `from`.
pub async fn may_vote(
    inner: &Arc<Inner>,
    from: NodeId,
    request: &VoteRequest<u64>,
) -> Result<(), PeerError> {
    if *inner.joined.borrow() {
        return Ok(());
    }
    let others = inner.others().into_iter().filter(|&id| id != from).collect();
    let others = probe(inner, others).await.map_err(|_| PeerError::Withheld)?;
    // Who was told of others might not have asked one that knows more.
    same_members(inner, &others).map_err(|_| PeerError::Withheld)?;
    // Who has given this candidate its vote knows of just that one.
    let behind = |holds: &Holds| holds.last <= request.last_log_id && holds.vote <= request.vote;
    match others.iter().all(|(_, holds)| behind(holds)) {
        true => Ok(()),
        false => Err(PeerError::Withheld),
    }
}

/// What this controller holds.
pub async fn holds(inner: &Inner, raft: &Raft) -> Result<Holds, PeerError> {
    let vote = raft.with_raft_state(|state| *state.vote_ref()).await;
    let vote = vote.map_err(|_| PeerError::Stopped)?;
    let last = inner.log.last();
    let members = inner.members().rows.keys().copied().collect();
    Ok(Holds { joined: *inner.joined.borrow(), vote, last, members })
}

/// Asks all of these at once what they hold. All must answer.
async fn probe(inner: &Arc<Inner>, nodes: Vec<NodeId>) -> Result<Vec<(NodeId, Holds)>, String> {
    let mut asked = JoinSet::new();
    for &to in &nodes {
        let inner = inner.clone();
        asked.spawn(async move {
            let call = inner.call(to, &Request::Probe {});
            let answer = tokio::time::timeout(inner.config.timing.session, call).await;
            match answer {
                Ok(Ok(Answer::Probe(holds))) => Some(Ok((to, holds))),
                Ok(Err(Failure::Peer { error: error @ PeerError::Stranger { .. }, .. })) => {
                    Some(Err(format!("node {to}: {error}")))
                }
                _ => None,
            }
        });
    }
    let answers: Result<Vec<_>, String> = asked.join_all().await.into_iter().flatten().collect();
    let answers = answers?;
    let silent = nodes.iter().filter(|&id| answers.iter().all(|(other, _)| other != id));
    let silent: Vec<NodeId> = silent.copied().collect();
    if !silent.is_empty() {
        let silent = inner.name(silent);
        return Err(format!(
            "its disk is empty, and it must hear from all others what they hold before it decides \
             anything; no answer yet from {silent}"
        ));
    }
    Ok(answers)
}

/// Checks that all know of the same members.
fn same_members(inner: &Inner, answers: &[(NodeId, Holds)]) -> Result<(), String> {
    let mine: Vec<NodeId> = inner.members().rows.keys().copied().collect();
    match answers.iter().find(|(_, holds)| holds.members != mine) {
        None => Ok(()),
        Some((id, holds)) => Err(format!(
            "node {id} was told that the site has the nodes {}, this one that it has {}: tell all \
             nodes the same",
            inner.name(holds.members.iter().copied()),
            inner.name(mine)
        )),
    }
}
