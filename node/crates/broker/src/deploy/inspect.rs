//! What whoever replays a deployment asks of the node: snapshots of its state, and which records of
//! an output it wrote.
//!
//! An output says it itself: each of its entries carries, beside the records, the lane's position
//! (where the output is the lane's home) or the mark of the part that the records came in.

use super::state::lock;
use super::{topics, unknown};
use crate::broker::Shared;
use crate::cluster::forward;
use crate::partition::Partition;
use crate::session::Session;
use crate::subscribe::read_error;
use std::sync::Arc;
use weir_core::access::Role;
use weir_core::deploy::Deployment;
use weir_core::deploy::keys::{self, Lane, Meaning, PREFIX_BYTES, read_position};
use weir_core::entry::decode_state;
use weir_core::limits;
use weir_core::wire::deployments::{LaneOutput, SnapshotPage};
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, PartitionIndex, TopicId};
use weir_log::LoggedEntry;

/// What a key or timer takes in a page, besides its bytes.
const AROUND_BYTES: usize = PREFIX_BYTES + 16;

/// Answers with a page of a snapshot, or has the node answer that leads the lane's home.
///
/// # Errors
/// No such deployment, partition or snapshot; the client may not see state.
///
/// # Cancel safety
/// Cancel safe.
pub async fn snapshot(
    session: &Session,
    name: &str,
    index: PartitionIndex,
    (offset, skip): (Offset, u64),
) -> Result<Response, WireError> {
    // State is made of records of any key, by a module that may have a topic of its own for them.
    session.authorize(Role::Admin, None)?;
    let shared = &session.shared;
    let deployment = shared.registry.deployment(name).ok_or_else(|| unknown(name))?;
    let (lane, home) = find(shared, &deployment, index)?;
    if let Some((peers, leader)) = shared.route(session, &home) {
        let (name, partition) = (name.to_owned(), index);
        let ask = Request::LaneSnapshot { name, partition, offset, skip };
        return forward::request(peers, leader, &ask).await;
    }
    home.settled().await?;
    let state = shared.deployments.states().of(lane, home.id);
    let state = lock(&state);
    // Of several at one offset the newest.
    let found = state.kept_at(offset, u32::MAX);
    let Some((kept, (position, runs))) = found.and_then(|kept| Some((kept, kept.head.as_ref()?)))
    else {
        let message = format!(
            "partition {index} of `{name}` has no snapshot at offset {offset} (any more): see \
             `weir transform describe {name}`"
        );
        return Err(WireError::new(ErrorCode::InvalidArgument, message));
    };
    let mut page = SnapshotPage {
        module: runs.module.clone(),
        schema: runs.schema,
        takeover: runs.takeover,
        watermark: position.watermark,
        entries: Vec::new(),
        timers: Vec::new(),
        next: None,
    };
    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
    let (mut bytes, mut count) = (0, 0);
    let mut fits = |more: usize| {
        bytes += more + AROUND_BYTES;
        count += 1;
        count == 1 || bytes <= limits::SNAPSHOT_PAGE_BYTES
    };
    let own = kept.own.iter().skip(skip).take_while(|(key, value)| fits(key.len() + value.len()));
    page.entries = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    let behind = skip.saturating_add(page.entries.len());
    if behind >= kept.own.len() {
        let timers = kept.timers.iter().skip(behind - kept.own.len());
        let timers = timers.take_while(|(key, _)| fits(key.len() + size_of::<i64>()));
        page.timers = timers.map(|(key, time)| (key.clone(), *time)).collect();
    }
    let behind = behind.saturating_add(page.timers.len());
    page.next = (behind < kept.own.len() + kept.timers.len()).then_some(behind as u64);
    Ok(Response::LaneSnapshot(Box::new(page)))
}

/// Answers which records of an output partition a lane wrote, or has the node answer that leads
/// that partition.
///
/// # Errors
/// No such deployment or partition; the client may not consume the topic; as the log says.
///
/// # Cancel safety
/// Cancel safe.
pub async fn outputs(
    session: &Session,
    name: &str,
    index: PartitionIndex,
    (topic, partition, from): (TopicId, PartitionIndex, Offset),
) -> Result<Response, WireError> {
    let shared = &session.shared;
    let output = shared.registry.partition(topic, partition);
    let output = output.ok_or_else(|| shared.registry.unknown(topic, partition))?;
    session.authorize(Role::Consume, Some(&output.topic_name))?;
    let deployment = shared.registry.deployment(name).ok_or_else(|| unknown(name))?;
    let (lane, _) = find(shared, &deployment, index)?;
    if let Some((peers, leader)) = shared.route(session, &output) {
        let (name, lane) = (name.to_owned(), index);
        let ask = Request::LaneOutputs { name, lane, topic, partition, from };
        return forward::request(peers, leader, &ask).await;
    }
    output.settled().await?;
    let progress = output.progress_now();
    let (from, end) = (from.max(progress.log_start), progress.high_watermark);
    if from >= end {
        return Ok(Response::LaneOutputs { entries: Vec::new(), next: from });
    }
    let (log, id) = (shared.log.clone(), output.id);
    let read = move || log.read_entries(id, from, limits::FETCH_CHUNK_BYTES);
    let read = tokio::task::spawn_blocking(read).await;
    let read = read.map_err(|panic| WireError::new(ErrorCode::Internal, panic.to_string()))?;
    let chunk = read.map_err(|error| read_error(&error))?;
    let (mut entries, mut next) = (Vec::new(), from);
    for entry in &chunk.entries {
        if entry.header.end_offset() > end || entries.len() == limits::LANE_OUTPUTS_PAGE_MAX {
            break;
        }
        next = entry.header.end_offset();
        entries.extend(written_by(lane, entry));
    }
    Ok(Response::LaneOutputs { entries, next })
}

/// What an entry holds that this lane wrote.
fn written_by(lane: Lane, entry: &LoggedEntry) -> Option<LaneOutput> {
    if entry.batch.is_empty() {
        return None;
    }
    // The log has checked the envelope; a section that cannot be read is none of a lane.
    let changes = decode_state(&entry.state).ok()?;
    let mut input = None;
    let mut ours = false;
    for change in changes {
        match keys::read(&change.key) {
            Some((of, Meaning::Position)) if of == lane => {
                let position = change.value.as_ref().and_then(|value| read_position(value));
                (ours, input) = (true, position.map(|position| position.next));
            }
            Some((of, Meaning::Mark)) if of == lane => ours = true,
            _ => {}
        }
    }
    let (offset, end) = (entry.header.base_offset, entry.header.end_offset());
    ours.then_some(LaneOutput { offset, end, input })
}

/// The lane of an input partition, and its home.
fn find(
    shared: &Shared,
    deployment: &Deployment,
    index: PartitionIndex,
) -> Result<(Lane, Arc<Partition>), WireError> {
    let gone = || {
        let message = format!("the topics of `{}` are not there", deployment.name);
        WireError::new(ErrorCode::UnknownTopic, message)
    };
    let (input, home) = topics(shared, deployment).ok_or_else(gone)?;
    let registry = &shared.registry;
    let pair = registry.partition(input.id, index).zip(registry.partition(home.id, index));
    let (input, home) = pair.ok_or_else(|| registry.unknown(input.id, index))?;
    Ok((Lane { deployment: deployment.id, input: input.id }, home))
}
