//! Requests that concern the cluster, or that another node of it has to answer.

use super::{ClusterNode, INFORM_PATIENCE, admission, forward, no_cluster, status, supply};
use crate::groups;
use crate::requests::unknown_topic;
use crate::session::Session;
use tokio::time::timeout;
use weir_core::access::Role;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::balance::Move;
use weir_core::cluster::members::MembersAsk;
use weir_core::controller::Command;
use weir_core::limits;
use weir_core::wire::cluster::{ClusterChangeAsk, ClusterChanged, MoveInfo, Rebalance};
use weir_core::wire::join::JoinAsk;
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{PartitionId, PartitionIndex};

/// What another node of the cluster has to answer, it is asked here, once the client's rights are
/// known.
pub async fn elsewhere(
    session: &Session,
    request: &Request,
) -> Option<Result<Response, WireError>> {
    let shared = &session.shared;
    shared.site.as_ref().filter(|_| !session.is_forwarded())?;
    let refused = match request {
        Request::CommitPositions { .. }
        | Request::FetchPositions { .. }
        | Request::ListGroups {}
        | Request::DeleteGroup { .. }
        | Request::JoinGroup { .. }
        | Request::GroupHeartbeat { .. }
        | Request::LeaveGroup { .. }
        | Request::GroupMembers { .. } => groups::requests::check(session, request).err(),
        Request::TrimPartition { .. } => session.authorize(Role::Admin, None).err(),
        _ => return None,
    };
    if let Some(error) = refused {
        return Some(Err(error));
    }
    let partition = match request {
        Request::TrimPartition { topic, partition, .. } => {
            let topic = shared.registry.topic(topic)?;
            shared.registry.partition(topic.id, *partition)?
        }
        _ => shared.groups.partition().clone(),
    };
    let (peers, leader) = shared.route(session, &partition)?;
    let answered = forward::request(peers, leader, request).await;
    Some(answered.map(|response| groups::requests::visible(session, response)))
}

/// Answers what only other nodes ask.
///
/// # Errors
/// [`ErrorCode::Unauthorized`] for whoever is no node of the cluster; as what was asked says.
pub async fn of_node(session: &Session, request: Request) -> Result<Response, WireError> {
    match request {
        Request::Informed { version } => informed(session, version).await,
        Request::HoldModule { sha256, bytes } => supply::hold(session, sha256, bytes).await,
        Request::ModulePart { sha256, at } => supply::part(session, sha256, at).await,
        _ => Err(WireError::new(ErrorCode::Unsupported, "not what nodes ask each other")),
    }
}

/// Answers another node once this one knows what the controllers decided up to a version, or after
/// a moment.
///
/// # Errors
/// [`ErrorCode::Unauthorized`] for whoever is no node of the cluster.
async fn informed(session: &Session, version: u64) -> Result<Response, WireError> {
    session.member()?;
    let mut adopted = session.shared.registry.adopted();
    let known = adopted.wait_for(|adopted| adopted.is_some_and(|adopted| adopted >= version));
    // Whoever asks does not wait for longer either.
    let _ = timeout(INFORM_PATIENCE, known).await;
    Ok(Response::Done {})
}

/// Changes the cluster.
///
/// # Errors
/// [`WireError`].
pub async fn change(session: &Session, ask: ClusterChangeAsk) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let site = session.shared.site.as_ref().ok_or_else(no_cluster)?;
    let peer = session.connection.peer();
    match ask {
        ClusterChangeAsk::Reassign { topic, partition, nodes } => {
            let partition = find(session, &topic, partition)?;
            let ask = ClusterAsk::Reassign { partition, target: nodes };
            site.submit(Command::Cluster(ask)).await?;
            tracing::info!(topic, %partition, %peer, "copies are moved");
            Ok(Response::Done {})
        }
        ClusterChangeAsk::Drain { node, drained } => {
            site.submit(Command::Cluster(ClusterAsk::Drain { node, drained })).await?;
            tracing::info!(%node, drained, %peer, "a node is drained, or used again");
            Ok(Response::Done {})
        }
        ClusterChangeAsk::Add { name, address, witness } => {
            tracing::info!(name, address, %peer, "a member is added, or moves");
            let ask = MembersAsk::Put { name, address, witness };
            site.submit(Command::Cluster(ClusterAsk::Members(ask))).await?;
            Ok(Response::Done {})
        }
        ClusterChangeAsk::Remove { node, force } => {
            tracing::info!(%node, force, %peer, "a member is removed");
            let ask = MembersAsk::Remove { node, force };
            site.submit(Command::Cluster(ClusterAsk::Members(ask))).await?;
            Ok(Response::Done {})
        }
        ClusterChangeAsk::Token { valid_ms, witness } => {
            admission::make_token(session, site, valid_ms, witness).await
        }
        ClusterChangeAsk::Rebalance { apply } => rebalance(site, apply).await,
    }
}

/// Lets a new node in. Its token is its right.
///
/// # Errors
/// [`WireError`].
pub async fn join(session: &Session, ask: JoinAsk) -> Result<Response, WireError> {
    let site = session.shared.site.as_ref().ok_or_else(no_cluster)?;
    admission::join(session, site, ask).await
}

fn find(session: &Session, topic: &str, at: PartitionIndex) -> Result<PartitionId, WireError> {
    let registry = &session.shared.registry;
    let known = registry.topic(topic).ok_or_else(|| unknown_topic(topic))?;
    let found = registry.partition(known.id, at).ok_or_else(|| {
        WireError::new(ErrorCode::UnknownPartition, format!("`{topic}` has no partition {at}"))
    })?;
    Ok(found.id)
}

/// Begins as many of the moves that are left as may be under way at a time.
async fn rebalance(site: &ClusterNode, apply: bool) -> Result<Response, WireError> {
    let state = site.known_state()?;
    let cluster = state.cluster();
    let plan = cluster.plan_rebalance();
    let moving = cluster.moving();
    let mut begun = 0;
    if apply {
        for planned in plan.iter().take(limits::MOVES_AT_ONCE.saturating_sub(moving)) {
            site.submit(Command::Cluster(planned.ask())).await?;
            begun += 1;
        }
    }
    let names = status::names(&state);
    let named = |planned: Move| {
        let (topic, partition) = names.get(&planned.partition).cloned().unwrap_or_default();
        MoveInfo { topic, partition, from: planned.from, to: planned.to }
    };
    let moves = plan.into_iter().map(named).collect();
    let rebalance = Rebalance { moves, begun, moving: moving as u32 };
    Ok(Response::ClusterChanged(Box::new(ClusterChanged::Rebalance(rebalance))))
}
