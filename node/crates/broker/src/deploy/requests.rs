//! Requests about deployments.

use crate::broker::Shared;
use crate::deploy::{changes, inspect};
use crate::session::Session;
use std::sync::Arc;
use weir_core::access::Role;
use weir_core::wire::deployments::DeploymentInfo;
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};

/// Answers a request about deployments.
///
/// # Errors
/// [`WireError`].
///
/// # Cancel safety
/// Cancel safe: a change runs in a task of its own.
pub async fn answer(session: &Session, request: Request) -> Result<Response, WireError> {
    match request {
        Request::Deployments { names } => {
            session.authorize(Role::Consume, None)?;
            let shared = &session.shared;
            // Another node asks for what this one knows by itself.
            let deployments = match session.is_forwarded() {
                true => shared.deployments.list_here(shared, names.as_deref())?,
                false => shared.deployments.list(shared, names).await?,
            };
            Ok(Response::Deployments { deployments })
        }
        Request::DeploymentLog { name, from, lines } => {
            session.authorize(Role::Consume, None)?;
            let (shared, count) = (&session.shared, lines as usize);
            let (lines, next) = match session.is_forwarded() {
                true => shared.deployments.log_here(shared, &name, from, count)?,
                false => shared.deployments.log(shared, &name, from, count).await?,
            };
            Ok(Response::DeploymentLog { lines, next })
        }
        Request::CreateDeployment { name, spec } => {
            change(session, "created", name, |shared, name| async move {
                shared.deployments.create(&shared, name, spec).await
            })
            .await
        }
        Request::PauseDeployment { name, paused } => {
            let done = if paused { "paused" } else { "resumed" };
            change(session, done, name, move |shared, name| async move {
                shared.deployments.pause(&shared, name, paused).await
            })
            .await
        }
        Request::ReplaceDeployment { name, version, restore } => {
            change(session, "replaced", name, |shared, name| async move {
                shared.deployments.replace(&shared, name, (version, restore)).await
            })
            .await
        }
        Request::DeleteDeployment { name } => delete(session, name).await,
        Request::CheckDeployment { name, version, restore, rollback } => {
            session.member()?;
            changes::check(&session.shared, &name, &version, (&restore, rollback)).await
        }
        Request::LaneSnapshot { name, partition, offset, skip } => {
            inspect::snapshot(session, &name, partition, (offset, skip)).await
        }
        Request::LaneOutputs { name, lane, topic, partition, from } => {
            inspect::outputs(session, &name, lane, (topic, partition, from)).await
        }
        _ => Err(WireError::new(ErrorCode::Unsupported, "not about deployments")),
    }
}

async fn change<W: Future<Output = Result<DeploymentInfo, WireError>> + Send + 'static>(
    session: &Session,
    done: &'static str,
    name: String,
    work: impl FnOnce(Arc<Shared>, String) -> W,
) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let work = work(session.shared.clone(), name.clone());
    let changed = session.shared.tasks.spawn(work).await;
    let changed =
        changed.unwrap_or_else(|e| Err(WireError::unknown(ErrorCode::Internal, e.to_string())))?;
    tracing::info!(name, peer = %session.connection.peer(), "deployment {done}");
    Ok(Response::Deployments { deployments: vec![changed] })
}

async fn delete(session: &Session, name: String) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let shared = session.shared.clone();
    let deleted = shared.tasks.spawn({
        let (shared, name) = (shared.clone(), name.clone());
        async move { shared.deployments.delete(&shared, name).await }
    });
    let deleted = deleted.await;
    deleted.unwrap_or_else(|e| Err(WireError::unknown(ErrorCode::Internal, e.to_string())))?;
    tracing::info!(name, peer = %session.connection.peer(), "deployment deleted");
    Ok(Response::Done {})
}
