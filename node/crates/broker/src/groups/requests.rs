//! What clients ask of consumer groups.

use super::{Beat, Joining};
use crate::requests::{bounded, check_positions, may_consume, may_consume_named};
use crate::session::Session;
use std::collections::BTreeSet;
use std::time::Duration;
use weir_core::TopicId;
use weir_core::access::Role;
use weir_core::limits;
use weir_core::topic::check_name;
use weir_core::wire::message::{GroupMembers, GroupPosition, Request, Response};
use weir_core::wire::{ErrorCode, WireError};

/// Whether the client may ask this, and it can be asked at all.
///
/// # Errors
/// Why not.
pub fn check(session: &Session, request: &Request) -> Result<(), WireError> {
    let group = match request {
        Request::ListGroups {} => return session.authorize(Role::Consume, None),
        Request::CommitPositions { group, positions, .. } => {
            check_positions(session, positions)?;
            group
        }
        Request::DeleteGroup { group, .. } => {
            session.authorize(Role::Admin, None)?;
            group
        }
        Request::JoinGroup { group, instance, session_ms, topics, .. } => {
            check_joining(session, instance.as_deref(), *session_ms, topics)?;
            group
        }
        Request::GroupHeartbeat { group, instance, holds, .. } => {
            session.authorize(Role::Consume, None)?;
            bounded(holds.len())?;
            if let Some(instance) = instance {
                check_group(instance)?;
            }
            group
        }
        Request::FetchPositions { group }
        | Request::GroupMembers { group }
        | Request::LeaveGroup { group, .. } => {
            session.authorize(Role::Consume, None)?;
            group
        }
        _ => return Ok(()),
    };
    check_group(group)
}

fn check_joining(
    session: &Session,
    instance: Option<&str>,
    session_ms: u32,
    topics: &[String],
) -> Result<(), WireError> {
    let invalid = |message: String| Err(WireError::new(ErrorCode::InvalidArgument, message));
    if topics.len() > limits::GROUP_TOPICS_MAX {
        let most = limits::GROUP_TOPICS_MAX;
        return invalid(format!("{} topics; a member subscribes to at most {most}", topics.len()));
    }
    for topic in topics {
        session.authorize(Role::Consume, Some(topic))?;
        check_group(topic)?;
    }
    if let Some(instance) = instance {
        check_group(instance)?;
    }
    let (min, max) = (limits::GROUP_SESSION_MIN, limits::GROUP_SESSION_MAX);
    match Duration::from_millis(session_ms.into()) {
        asked if (min..=max).contains(&asked) => Ok(()),
        _ => invalid(format!("a session of {session_ms} ms; it has {min:?} to {max:?}")),
    }
}

/// A group's name follows the rules of topics'.
fn check_group(group: &str) -> Result<(), WireError> {
    check_name(group).map_err(|e| WireError::new(ErrorCode::InvalidArgument, e.to_string()))
}

/// Answers what [`check`] let pass, on the node that coordinates the groups.
///
/// # Errors
/// [`WireError`].
///
/// # Cancel safety
/// Dropping the future abandons the answer; what was asked may be done.
pub async fn answer(session: &Session, request: Request) -> Result<Response, WireError> {
    let shared = &session.shared;
    let (groups, registry, now) = (&shared.groups, &shared.registry, shared.now());
    let peer = session.connection.peer();
    match request {
        Request::CommitPositions { group, positions, member } => {
            groups.commit(now, registry, &group, (member, &positions)).await?;
            Ok(Response::Done {})
        }
        Request::FetchPositions { group } => {
            let positions = groups.positions(now, registry, &group).await?;
            Ok(visible(session, Response::Positions { positions }))
        }
        Request::ListGroups {} => {
            Ok(Response::Groups { groups: groups.list(now, registry).await? })
        }
        Request::DeleteGroup { group, topics } => {
            groups.delete(now, registry, &group, topics.as_deref()).await?;
            tracing::info!(group, %peer, "group positions deleted");
            Ok(Response::Done {})
        }
        Request::JoinGroup { group, member, instance, session_ms, topics } => {
            let topics: BTreeSet<String> = topics.into_iter().collect();
            let joining = Joining { member, instance, session_ms, topics };
            let assigned = groups.join(now, registry, &group, joining).await?;
            tracing::info!(group, member = member.0, %peer, "a member joined");
            Ok(Response::Assigned(Box::new(assigned)))
        }
        Request::GroupHeartbeat { group, member, instance, generation, holds } => {
            let holds = holds.into_iter().collect();
            let beat = Beat { member, instance, generation, holds };
            let assigned = groups.heartbeat(now, registry, &group, beat).await?;
            Ok(Response::Assigned(Box::new(assigned)))
        }
        Request::LeaveGroup { group, member } => {
            groups.leave(now, registry, &group, member).await?;
            tracing::info!(group, member = member.0, %peer, "a member left");
            Ok(Response::Done {})
        }
        Request::GroupMembers { group } => {
            let members = groups.members(now, registry, &group).await?;
            Ok(visible(session, Response::Members(Box::new(members))))
        }
        _ => Err(WireError::new(ErrorCode::Internal, "this is no question about groups")),
    }
}

/// An answer about groups without what the client may not know of: of topics that it may not
/// consume from it learns nothing.
#[must_use]
pub fn visible(session: &Session, response: Response) -> Response {
    let may_see = |topic: TopicId| may_consume(session, topic);
    match response {
        Response::Positions { mut positions } => {
            positions.retain(|position: &GroupPosition| may_see(position.topic));
            Response::Positions { positions }
        }
        Response::Members(mut described) => {
            let may_name = |topic: &String| may_consume_named(session, topic);
            let GroupMembers { members, .. } = &mut *described;
            for member in members {
                member.partitions.retain(|(topic, _)| may_see(*topic));
                member.topics.retain(may_name);
            }
            Response::Members(described)
        }
        other => other,
    }
}
