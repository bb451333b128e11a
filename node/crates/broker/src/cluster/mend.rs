//! Writing damaged log files anew, with the help of other nodes: see [`weir_log::Mend`].
//!
//! What a sealed file holds is committed, so every replica that has it has the same: the leader, or
//! where this node leads, a follower. A file of which nothing is missing is mended without anybody,
//! and one whose rotten entries nobody else has stays as it is.

use crate::broker::Shared;
use crate::cluster::forward;
use crate::cluster::leader::whole;
use crate::cluster::peers::Purpose;
use crate::session::{Session, decode, refuse};
use crate::subscribe::read_error;
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use weir_core::ids::{NodeId, Offset, PartitionId};
use weir_core::limits;
use weir_core::wire::replica::FetchEntries;
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_log::{DamagedFile, EntryChunk, Mend, MendError, Missing};
use weir_transport::{FrameWriter, control};

/// Why a file was not written anew.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Mend(#[from] MendError),
    /// Nobody has what is missing.
    #[error("no other node gives partition {partition} from offset {from} on; last: {last}")]
    NobodyHas { partition: PartitionId, from: Offset, last: String },
    /// The log may still change there.
    #[error("partition {0} is not known to be committed as far as the file goes")]
    Uncommitted(PartitionId),
    #[error("the work was broken off: {0}")]
    Broken(String),
}

/// Looks for damaged files and has them written anew, one at a time, until the node shuts down.
pub async fn run(shared: Arc<Shared>) {
    let mut pause = limits::MEND_INTERVAL;
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            // sleep: readers and the scrub find damage at any time, and nothing tells of it.
            () = sleep(pause) => {}
        }
        let damaged = shared.log.damaged_files();
        let mut failed = false;
        for file in damaged {
            let mended = tokio::select! {
                () = shared.stopping.cancelled() => return,
                mended = mend(&shared, &file) => mended,
            };
            if let Err(error) = mended {
                tracing::warn!(file = file.file, shard = file.shard, %error,
                    "a damaged log file could not be written anew; tried again later");
                failed = true;
            }
        }
        pause = match failed {
            true => (pause * 2).min(limits::MEND_PAUSE_MAX),
            false => limits::MEND_INTERVAL,
        };
    }
}

async fn mend(shared: &Arc<Shared>, file: &DamagedFile) -> Result<(), Failure> {
    for (id, range) in &file.holds {
        let committed = shared.partition(*id).map(|partition| partition.figures().high_watermark);
        if committed.is_some_and(|committed| committed < range.end) {
            return Err(Failure::Uncommitted(*id));
        }
    }
    let broken = |panic: tokio::task::JoinError| Failure::Broken(panic.to_string());
    let (log, damaged) = (shared.log.clone(), file.clone());
    let mut mend = spawn_blocking(move || log.mend(&damaged)).await.map_err(broken)??;
    loop {
        let step = move || mend.missing().map(|missing| (mend, missing));
        let (back, missing) = spawn_blocking(step).await.map_err(broken)??;
        let Some(missing) = missing else {
            mend = back;
            break;
        };
        mend = supply(shared, back, missing).await?;
    }
    spawn_blocking(move || mend.finish()).await.map_err(broken)??;
    Ok(())
}

/// Gets what is missing from whoever has it.
async fn supply(shared: &Arc<Shared>, mend: Mend, missing: Missing) -> Result<Mend, Failure> {
    let Missing { partition, from, .. } = missing;
    let mut last = "it has no other copy".to_owned();
    let mut mend = mend;
    for node in copies(shared, partition) {
        let bytes = match fetch(shared, node, FetchEntries { partition, from }).await {
            Ok(bytes) => bytes,
            Err(error) => {
                last = format!("node {node}: {error}");
                continue;
            }
        };
        let give = move || {
            let given = mend.give(&bytes);
            (mend, given)
        };
        let given = spawn_blocking(give).await;
        let (back, given) = given.map_err(|panic| Failure::Broken(panic.to_string()))?;
        mend = back;
        match given {
            Ok(()) => return Ok(mend),
            Err(error @ MendError::Foreign { .. }) => last = format!("node {node}: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::NobodyHas { partition, from, last })
}

/// The other nodes with a copy of a partition, its leader first.
fn copies(shared: &Shared, partition: PartitionId) -> Vec<NodeId> {
    let Some(site) = &shared.site else { return Vec::new() };
    let Some(state) = site.state() else { return Vec::new() };
    let Some(known) = state.cluster().partitions().get(&partition) else { return Vec::new() };
    let leader = known.leader.map(|leader| leader.node);
    let mut nodes: Vec<NodeId> = known.insync.keys().chain(&known.replicas).copied().collect();
    nodes.retain(|&node| node != site.me());
    nodes.sort_unstable_by_key(|node| (Some(*node) != leader, *node));
    nodes.dedup();
    nodes
}

async fn fetch(shared: &Shared, node: NodeId, ask: FetchEntries) -> Result<Bytes, WireError> {
    let site = shared.site.as_ref().ok_or_else(super::status::no_cluster)?;
    let lost = |error: String| WireError::new(ErrorCode::Offline, error);
    // Not among the questions of controllers: entries are many bytes.
    let connection = site.peers.connection(node, Purpose::Follow).await;
    let connection = connection.map_err(|error| lost(error.to_string()))?;
    let body = control::encode(&ask).map_err(|error| lost(error.to_string()))?;
    let body = [body];
    let asked = forward::ask(&connection, FrameKind::FetchEntries, &body, limits::FRAME_BYTES_MAX);
    let frame = timeout(limits::FORWARD_TIMEOUT, asked).await;
    match frame.map_err(|_| lost("no answer came in time".to_owned()))?? {
        frame if frame.kind == FrameKind::FetchedEntries as u8 => Ok(frame.body),
        frame if frame.kind == FrameKind::Error as u8 => {
            Err(control::decode(&frame.body).unwrap_or_else(|error| lost(error.to_string())))
        }
        frame => Err(lost(format!("frame kind {} for an answer", frame.kind))),
    }
}

/// Answers another node that asks for entries.
pub async fn serve(session: &Session, mut writer: FrameWriter, body: &[u8]) {
    match entries(session, body).await {
        Ok(chunk) => {
            let parts = whole(Bytes::new(), chunk.entries);
            let sent = async {
                writer.write(FrameKind::FetchedEntries as u8, 0, &parts).await?;
                writer.finish().await
            };
            // Fails only if the other node is gone, or does not read.
            let _ = timeout(limits::FORWARD_TIMEOUT, sent).await;
        }
        Err(error) => refuse(&mut writer, &error).await,
    }
}

async fn entries(session: &Session, body: &[u8]) -> Result<EntryChunk, WireError> {
    session.member()?;
    let FetchEntries { partition: id, from } = decode(body)?;
    let shared = &session.shared;
    let partition = shared.partition(id).ok_or_else(|| {
        WireError::new(ErrorCode::UnknownPartition, format!("there is no partition {id} here"))
    })?;
    let committed = partition.figures().high_watermark;
    let internal = |message: String| WireError::new(ErrorCode::Internal, message);
    let budget = shared.fetch_budget.clone();
    let share = budget.acquire_many_owned(limits::BATCH_BYTES_MAX as u32).await;
    let share = share.map_err(|closed| internal(closed.to_string()))?;
    let log = shared.log.clone();
    let read = move || (log.read_entries(id, from, limits::FETCH_CHUNK_BYTES), share);
    let (read, _share) = spawn_blocking(read).await.map_err(|panic| internal(panic.to_string()))?;
    let mut chunk = read.map_err(|error| read_error(&error))?;
    chunk.entries.retain(|entry| entry.header.end_offset() <= committed);
    if chunk.entries.is_empty() {
        let message = format!("nothing is committed here from offset {from} on");
        return Err(WireError::new(ErrorCode::OutOfRange, message));
    }
    Ok(chunk)
}
