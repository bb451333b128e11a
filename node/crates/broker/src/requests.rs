//! Control requests: one question and one answer, on a stream of their own.

use crate::broker::Shared;
use crate::cluster::{self, forward};
use crate::deploy;
use crate::groups;
use crate::modules::files::{FilesError, ModuleFiles};
use crate::modules::{check, files_error};
use crate::registry::store_error;
use crate::session::{Session, encode, no_certificate, protocol, refuse};
use crate::status;
use crate::subscribe::resolve;
use std::sync::Arc;
use weir_core::access::Role;
use weir_core::deploy::is_internal;
use weir_core::limits;
use weir_core::metadata::{Ask, Topic};
use weir_core::module::Module;
use weir_core::module::name::ModuleRef;
use weir_core::wire::message::{
    GroupPosition, Request, ResolvedOffset, Response, StartAt, TopicInfo,
};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};
use weir_transport::FrameWriter;
use weir_transport::control::{self, DecodeError};

/// Most positions in one request.
const POSITIONS_MAX: usize = limits::NODE_PARTITIONS_MAX;

/// Answers one request.
pub async fn serve(session: &Session, mut writer: FrameWriter, body: &[u8]) {
    let response = match control::decode::<Request>(body) {
        Ok(request) => answer(session, request).await.unwrap_or_else(Response::Error),
        Err(error @ DecodeError::Shape(_)) => {
            let message = format!("this node does not know the request: {error}");
            Response::Error(WireError::new(ErrorCode::Unsupported, message))
        }
        Err(error) => Response::Error(protocol(&error.to_string())),
    };
    respond(&mut writer, &response).await;
}

/// Writes the answer to a request, and ends the stream.
pub async fn respond(writer: &mut FrameWriter, response: &Response) {
    match encode(response) {
        Ok(body) => {
            let sent = async {
                writer.write(FrameKind::Response as u8, 0, &[body]).await?;
                writer.finish().await
            };
            // Fails only if the client is gone or does not read; its connection's idle timeout
            // then ends this task with it.
            let _ = sent.await;
        }
        Err(error) => refuse(writer, &error).await,
    }
}

async fn answer(session: &Session, request: Request) -> Result<Response, WireError> {
    if session.may_only_join() && !matches!(request, Request::Join(_)) {
        return Err(no_certificate());
    }
    if let Some(answer) = cluster::requests::elsewhere(session, &request).await {
        return answer;
    }
    match request {
        Request::Topics { names } => topics(session, names),
        Request::CreateTopic { name, config } => {
            change(session, Ask::Create { name, config }).await
        }
        Request::AlterTopic { name, change: wanted } => {
            change(session, Ask::Alter { name, change: wanted }).await
        }
        Request::DeleteTopic { name } => delete_topic(session, name).await,
        Request::TrimPartition { topic, partition, before } => {
            trim(session, &topic, partition, before)
        }
        Request::InitProducer {} => init_producer(session).await,
        Request::Offsets { topic, positions } => offsets(session, topic, &positions).await,
        request @ (Request::CommitPositions { .. }
        | Request::FetchPositions { .. }
        | Request::ListGroups {}
        | Request::DeleteGroup { .. }
        | Request::JoinGroup { .. }
        | Request::GroupHeartbeat { .. }
        | Request::LeaveGroup { .. }
        | Request::GroupMembers { .. }) => {
            groups::requests::check(session, &request)?;
            groups::requests::answer(session, request).await
        }
        Request::Modules {} => {
            session.authorize(Role::Consume, None)?;
            Ok(Response::Modules { modules: session.shared.registry.modules() })
        }
        Request::BeginUpload { sha256, bytes } => {
            upload(session, move |files| files.begin(&sha256, bytes)).await
        }
        Request::Upload { sha256, at, data } => {
            if data.len() > limits::UPLOAD_PART_BYTES_MAX {
                let message = format!("a part of {} bytes is too large", data.len());
                return Err(WireError::new(ErrorCode::InvalidArgument, message));
            }
            upload(session, move |files| files.add(&sha256, at, &data)).await
        }
        Request::PushModule { id, sha256 } => push_module(session, id, sha256).await,
        Request::DeleteModule { id } => delete_module(session, id).await,
        request @ (Request::Deployments { .. }
        | Request::DeploymentLog { .. }
        | Request::CreateDeployment { .. }
        | Request::PauseDeployment { .. }
        | Request::ReplaceDeployment { .. }
        | Request::DeleteDeployment { .. }
        | Request::LaneSnapshot { .. }
        | Request::LaneOutputs { .. }
        | Request::CheckDeployment { .. }) => deploy::requests::answer(session, request).await,
        Request::Status {} => {
            let all = status::of_node(&session.shared);
            Ok(Response::Status(Box::new(status::visible_to(session, all)?)))
        }
        Request::Join(ask) => cluster::requests::join(session, *ask).await,
        Request::Cluster {} => cluster::cluster_status(session).await,
        Request::ChangeCluster { ask } => cluster::requests::change(session, ask).await,
        request @ (Request::Informed { .. }
        | Request::HoldModule { .. }
        | Request::ModulePart { .. }) => cluster::requests::of_node(session, request).await,
        Request::ConfirmTime {} => confirm_time(session),
    }
}

fn confirm_time(session: &Session) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    session.shared.log.confirm_time();
    tracing::info!(peer = %session.connection.peer(), "the wall clock was confirmed");
    Ok(Response::Done {})
}

fn info(topic: Topic) -> TopicInfo {
    TopicInfo { id: topic.id, name: topic.name, config: topic.config, created_at: topic.created_at }
}

/// Whoever may produce to or consume from a topic may know of it.
fn may_see(session: &Session, topic: &str) -> bool {
    if is_internal(topic) {
        return false;
    }
    let access = &session.shared.config.access;
    [Role::Consume, Role::Produce]
        .into_iter()
        .any(|role| access.allows(session.principal(), role, Some(topic)))
}

/// Whether the client may consume a topic, which must exist. Where another node asks, it is that
/// node which knows its client.
pub fn may_consume(session: &Session, topic: TopicId) -> bool {
    let name = session.shared.registry.topic_name(topic);
    name.is_some_and(|name| may_consume_named(session, &name))
}

/// The same of a topic that need not exist.
pub fn may_consume_named(session: &Session, topic: &str) -> bool {
    let access = &session.shared.config.access;
    session.is_forwarded() || access.allows(session.principal(), Role::Consume, Some(topic))
}

fn topics(session: &Session, names: Option<Vec<String>>) -> Result<Response, WireError> {
    let registry = &session.shared.registry;
    let topics = match names {
        None => {
            let mut topics = registry.topics();
            topics.retain(|topic| may_see(session, &topic.name));
            topics
        }
        Some(names) => names
            .iter()
            .map(|name| {
                if !may_see(session, name) {
                    return Err(no_right_to_see(session, name));
                }
                registry.topic(name).ok_or_else(|| unknown_topic(name))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Response::Topics { topics: topics.into_iter().map(info).collect() })
}

/// Of a topic that it may neither produce to nor consume from, a client learns nothing, not even
/// whether it exists.
fn no_right_to_see(session: &Session, name: &str) -> WireError {
    tracing::info!(peer = %session.connection.peer(), topic = name, "refused: no right");
    let who = session.principal().unwrap_or("an anonymous client");
    let message = format!(
        "{who} has neither the right `produce` nor `consume` on topic `{name}`; the node's access \
         rules give rights"
    );
    WireError::new(ErrorCode::Unauthorized, message)
}

/// There is no topic of this name.
pub fn unknown_topic(name: &str) -> WireError {
    WireError::new(ErrorCode::UnknownTopic, format!("there is no topic `{name}`"))
}

async fn change(session: &Session, ask: Ask) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let on_produce = match &ask {
        Ask::Create { config, .. } => config.on_produce.as_ref(),
        Ask::Alter { change, .. } => change.on_produce.as_ref().and_then(Option::as_ref),
        _ => None,
    };
    if let Some(version) = on_produce {
        let shared = &session.shared;
        check::try_version(&shared.modules, &shared.registry, version).await?;
    }
    let topic = run_change(session, ask).await?;
    tracing::info!(topic = topic.name, peer = %session.connection.peer(), "topic changed");
    Ok(Response::Topics { topics: vec![info(topic)] })
}

/// In a task of its own: a client that goes away must not cut a change in two.
async fn run_change(session: &Session, ask: Ask) -> Result<Topic, WireError> {
    let shared = session.shared.clone();
    let changed = shared.tasks.spawn({
        let shared = shared.clone();
        async move { shared.registry.change(shared.now(), ask).await }
    });
    changed.await.unwrap_or_else(|e| Err(WireError::unknown(ErrorCode::Internal, e.to_string())))
}

async fn delete_topic(session: &Session, name: String) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let topic = run_change(session, Ask::Delete { name }).await?;
    tracing::info!(topic = topic.name, peer = %session.connection.peer(), "topic deleted");
    session.shared.modules.meters().forget_topic(&topic.name);
    Ok(Response::Done {})
}

fn trim(
    session: &Session,
    name: &str,
    index: PartitionIndex,
    before: Offset,
) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let registry = &session.shared.registry;
    let topic = registry
        .topic(name)
        .filter(|topic| !is_internal(&topic.name))
        .ok_or_else(|| unknown_topic(name))?;
    let partition = registry.partition(topic.id, index).ok_or_else(|| {
        WireError::new(ErrorCode::UnknownPartition, format!("`{name}` has no partition {index}"))
    })?;
    let progress = partition.progress_now();
    if !progress.led {
        // A follower's log begins where its leader says.
        let message = "this node does not lead the partition; try again";
        return Err(WireError::new(ErrorCode::NotLeader, message));
    }
    if before > progress.high_watermark || before < Offset::ZERO {
        return Err(WireError::out_of_range(before, progress.log_start, progress.high_watermark));
    }
    session.shared.log.trim(partition.id, before).map_err(|error| {
        WireError::new(ErrorCode::Offline, format!("the log start was not moved: {error}"))
    })?;
    Ok(Response::Done {})
}

async fn init_producer(session: &Session) -> Result<Response, WireError> {
    session.authorize(Role::Produce, None)?;
    if let Some(site) = &session.shared.site {
        return site.next_producer().await.map(|id| Response::Producer { id });
    }
    let store = session.shared.store.clone();
    match tokio::task::spawn_blocking(move || store.next_producer()).await {
        Ok(Ok(id)) => Ok(Response::Producer { id }),
        Ok(Err(error)) => Err(store_error(&error)),
        Err(panic) => Err(WireError::new(ErrorCode::Internal, panic.to_string())),
    }
}

async fn offsets(
    session: &Session,
    topic: TopicId,
    positions: &[(PartitionIndex, StartAt)],
) -> Result<Response, WireError> {
    bounded(positions.len())?;
    let mut offsets = Vec::with_capacity(positions.len());
    for &(index, start) in positions {
        let registry = &session.shared.registry;
        let partition = registry.partition(topic, index);
        let partition = partition.ok_or_else(|| registry.unknown(topic, index))?;
        session.authorize(Role::Consume, Some(&partition.topic_name))?;
        if let Some((peers, leader)) = session.shared.route(session, &partition) {
            let ask = Request::Offsets { topic, positions: vec![(index, start)] };
            match forward::request(peers, leader, &ask).await? {
                Response::Offsets { offsets: mut found } => offsets.append(&mut found),
                _ => return Err(protocol("the leader answered another question")),
            }
            continue;
        }
        partition.settled().await?;
        let offset = resolve(&session.shared.log, &partition, start).await?;
        let progress = partition.progress_now();
        offsets.push(ResolvedOffset {
            partition: index,
            offset,
            log_start: progress.log_start,
            high_watermark: progress.high_watermark,
        });
    }
    Ok(Response::Offsets { offsets })
}

/// Whether the client may store these positions, and they can be.
pub fn check_positions(session: &Session, positions: &[GroupPosition]) -> Result<(), WireError> {
    bounded(positions.len())?;
    session.authorize(Role::Consume, None)?;
    for position in positions {
        let registry = &session.shared.registry;
        let partition = registry.partition(position.topic, position.partition);
        let partition =
            partition.ok_or_else(|| registry.unknown(position.topic, position.partition))?;
        session.authorize(Role::Consume, Some(&partition.topic_name))?;
        if position.offset < Offset::ZERO {
            let message = "a position must not be negative";
            return Err(WireError::new(ErrorCode::InvalidArgument, message));
        }
    }
    Ok(())
}

/// A step of an upload, on a thread that may wait for the disk.
async fn upload(
    session: &Session,
    step: impl FnOnce(&ModuleFiles) -> Result<u64, FilesError> + Send + 'static,
) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let modules = session.shared.modules.clone();
    match tokio::task::spawn_blocking(move || step(modules.files())).await {
        Ok(Ok(have)) => Ok(Response::Upload { have }),
        Ok(Err(error)) => Err(files_error(&error)),
        Err(panic) => Err(WireError::new(ErrorCode::Internal, panic.to_string())),
    }
}

async fn push_module(
    session: &Session,
    id: ModuleRef,
    sha256: String,
) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let shared = session.shared.clone();
    // In a task of its own: a client that goes away must not cut a change in two.
    let pushed = shared.tasks.spawn({
        let shared = shared.clone();
        async move {
            let (modules, wanted) = (shared.modules.clone(), sha256.clone());
            let finished =
                tokio::task::spawn_blocking(move || modules.files().finish(&wanted)).await;
            let finished =
                finished.map_err(|panic| WireError::new(ErrorCode::Internal, panic.to_string()))?;
            finished.map_err(|error| files_error(&error))?;
            let now = shared.now();
            let checked = shared.modules.check(id, &sha256, now).await;
            let put = match checked {
                Ok(module) => put_module(&shared, now, module).await,
                Err(error) => Err(error),
            };
            if put.is_err() {
                // Bytes that no version has are not kept.
                shared.modules.forget(&sha256, &shared.registry);
            }
            put
        }
    });
    let pushed = pushed.await;
    let module =
        pushed.unwrap_or_else(|e| Err(WireError::unknown(ErrorCode::Internal, e.to_string())))?;
    tracing::info!(module = %module.id, peer = %session.connection.peer(), "module pushed");
    Ok(Response::Modules { modules: vec![module] })
}

/// Makes a module known, once enough nodes have it.
async fn put_module(
    shared: &Arc<Shared>,
    now: TimestampMs,
    module: Module,
) -> Result<Module, WireError> {
    // Before others are sent what would be refused.
    shared.registry.may_put_module(now, &module)?;
    cluster::supply::spread(shared, &module).await?;
    shared.registry.put_module(now, module).await
}

async fn delete_module(session: &Session, id: ModuleRef) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let shared = session.shared.clone();
    let deleted = shared.tasks.spawn({
        let (shared, id) = (shared.clone(), id.clone());
        async move {
            let before = shared.registry.remove_module(shared.now(), id).await?;
            if let Some(module) = before {
                shared.modules.forget_version(&module, &shared.registry);
            }
            Ok(())
        }
    });
    let deleted = deleted.await;
    deleted.unwrap_or_else(|e| Err(WireError::unknown(ErrorCode::Internal, e.to_string())))?;
    tracing::info!(module = %id, peer = %session.connection.peer(), "module deleted");
    Ok(Response::Done {})
}

/// Whether a request has no more positions than it may.
pub fn bounded(positions: usize) -> Result<(), WireError> {
    if positions > POSITIONS_MAX {
        let message = format!("{positions} positions in one request; the most is {POSITIONS_MAX}");
        return Err(WireError::new(ErrorCode::InvalidArgument, message));
    }
    Ok(())
}
