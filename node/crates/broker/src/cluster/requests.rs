//! Requests that concern the cluster, or that another node of it has to answer.

use super::{INFORM_PATIENCE, forward, no_cluster};
use crate::groups;
use crate::requests::unknown_topic;
use crate::session::Session;
use tokio::time::timeout;
use weir_core::access::Role;
use weir_core::cluster::ClusterAsk;
use weir_core::controller::Command;
use weir_core::wire::cluster::ClusterChangeAsk;
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};

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

/// Answers another node once this one knows what the controllers decided up to a version, or after
/// a moment.
///
/// # Errors
/// [`ErrorCode::Unauthorized`] for whoever is no node of the cluster.
pub async fn informed(session: &Session, version: u64) -> Result<Response, WireError> {
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
    let registry = &session.shared.registry;
    let ClusterChangeAsk::Reassign { topic, partition, nodes } = ask;
    let known = registry.topic(&topic).ok_or_else(|| unknown_topic(&topic))?;
    let found = registry.partition(known.id, partition).ok_or_else(|| {
        WireError::new(
            ErrorCode::UnknownPartition,
            format!("`{topic}` has no partition {partition}"),
        )
    })?;
    let ask = ClusterAsk::Reassign { partition: found.id, target: nodes };
    site.submit(Command::Cluster(ask)).await?;
    tracing::info!(topic, %partition, peer = %session.connection.peer(), "copies are moved");
    Ok(Response::Done {})
}
