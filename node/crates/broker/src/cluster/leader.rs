//! The leader's end of a replica's stream: an answer to the follower's question, then entries.

use crate::cluster::{PUSH_DELAY, no_cluster};
use crate::partition::{Partition, Pushing};
use crate::session::{Session, decode, encode, protocol, refuse};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use tokio::time::timeout;
use weir_core::ids::{LeaderEpoch, NodeId, Offset};
use weir_core::limits;
use weir_core::partition::leader::FollowRefusal;
use weir_core::partition::messages::{FollowAnswer, Push, Verdict};
use weir_core::wire::replica::{FollowOpen, PushHeader, ReportBody};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_log::{EntryChunk, LoggedEntry};
use weir_transport::{FrameError, FrameReader, FrameWriter};

use crate::subscribe::read_error;

/// Serves a follower to the end of its stream.
pub async fn serve(
    session: Session,
    mut writer: FrameWriter,
    mut reader: FrameReader,
    body: &[u8],
) {
    let opened = match open(&session, body) {
        Ok(opened) => opened,
        Err(error) => return refuse(&mut writer, &error).await,
    };
    let (mut pusher, answer) = opened;
    let body = match encode(&answer) {
        Ok(body) => body,
        Err(error) => return refuse(&mut writer, &error).await,
    };
    if writer.write(FrameKind::FollowAnswer as u8, 0, &[body]).await.is_err() {
        return;
    }
    if answer.verdict != Verdict::Agreed {
        if let Verdict::Reset { .. } = answer.verdict
            && let Err(error) = pusher.send_snapshot(&mut writer).await
        {
            return refuse(&mut writer, &error).await;
        }
        // Fails only if the follower is gone.
        let _ = writer.finish().await;
        return;
    }
    let (partition, node) = (pusher.partition.clone(), pusher.node);
    let ended = tokio::select! {
        ended = pusher.run(&mut writer) => ended,
        ended = hear(&partition, node, &mut reader) => ended,
    };
    match ended {
        Ok(()) => drop(writer.finish().await),
        Err(Ended::Refused(error)) => refuse(&mut writer, &error).await,
        Err(Ended::Broken(error)) => session.broken(&mut writer, &error),
    }
}

enum Ended {
    Refused(WireError),
    Broken(FrameError),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Ended {
        Ended::Broken(error)
    }
}

struct Pusher {
    session: Session,
    partition: Arc<Partition>,
    node: NodeId,
    epoch: LeaderEpoch,
    attempt: u64,
    /// The offset to go on from.
    next: Offset,
}

fn open(session: &Session, body: &[u8]) -> Result<(Pusher, FollowAnswer), WireError> {
    let node = session.member()?;
    let FollowOpen { partition: id, follow } = decode(body)?;
    if follow.node != node {
        let message = format!("node {node} asks in the name of node {}", follow.node);
        return Err(WireError::new(ErrorCode::Unauthorized, message));
    }
    let partition = session.shared.partition(id).ok_or_else(|| {
        let message = format!("there is no partition {id} here (yet)");
        WireError::new(ErrorCode::NotLeader, message)
    })?;
    let answer = partition.handle_follow(&follow).ok_or_else(|| {
        WireError::new(ErrorCode::NotLeader, "this node does not lead the partition")
    })?;
    let answer = answer.map_err(|refusal| {
        let code = match refusal {
            FollowRefusal::OtherEpoch { .. } => ErrorCode::NotLeader,
            FollowRefusal::Unexpected | FollowRefusal::Malformed => ErrorCode::InvalidArgument,
        };
        WireError::new(code, refusal.to_string())
    })?;
    let pusher = Pusher {
        session: session.clone(),
        partition,
        node,
        epoch: follow.epoch,
        attempt: follow.attempt,
        next: follow.log_end,
    };
    Ok((pusher, answer))
}

/// Takes the follower's reports.
async fn hear(partition: &Partition, node: NodeId, reader: &mut FrameReader) -> Result<(), Ended> {
    while let Some(frame) = reader.next(limits::CONTROL_BYTES_MAX).await? {
        let report = match ReportBody::decode(&frame.body) {
            Some(ReportBody(report)) if frame.kind == FrameKind::Report as u8 => report,
            _ => return Err(Ended::Refused(protocol("not a report"))),
        };
        if report.node != node {
            return Err(Ended::Refused(protocol("a report of another node")));
        }
        partition.handle_report(&report);
    }
    Ok(())
}

impl Pusher {
    /// Pushes what there is and what comes, as long as this leadership and the follower's question
    /// are the newest.
    async fn run(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        let mut durable = self.partition.durable();
        let mut progress = self.partition.progress();
        let mut told: Option<Push> = None;
        loop {
            durable.borrow_and_update();
            progress.borrow_and_update();
            let Some(Pushing { push, durable_end }) = self.partition.pushing(self.node, self.epoch)
            else {
                let error = WireError::new(ErrorCode::NotLeader, "the leadership has ended");
                return Err(Ended::Refused(error));
            };
            if push.attempt != self.attempt {
                // The follower asked again, on another stream.
                return Ok(());
            }
            if self.next < durable_end {
                let chunk = self.read().await.map_err(Ended::Refused)?;
                if chunk.next_offset <= self.next {
                    let message = format!("nothing to read at offset {}", self.next);
                    let error = WireError::new(ErrorCode::Internal, message);
                    return Err(Ended::Refused(error));
                }
                self.next = chunk.next_offset;
                write(writer, push, chunk).await?;
                told = Some(push);
            } else if told != Some(push) {
                write(writer, push, EntryChunk::default()).await?;
                told = Some(push);
            } else {
                let moved = async {
                    tokio::select! {
                        _ = durable.changed() => {}
                        _ = progress.changed() => {
                            // Most often there are more entries at once, which tell it as well.
                            let _ = timeout(PUSH_DELAY, durable.changed()).await;
                        }
                    }
                };
                if timeout(limits::FOLLOW_HEARTBEAT, moved).await.is_err() {
                    told = None;
                }
            }
        }
    }

    /// What the follower begins anew with.
    async fn send_snapshot(&self, writer: &mut FrameWriter) -> Result<(), WireError> {
        let site = self.session.shared.site.as_ref().ok_or_else(no_cluster)?;
        let Some(_turn) = site.peers.try_send_snapshot() else {
            let message = "other snapshots are on their way; ask again";
            return Err(WireError::new(ErrorCode::Busy, message));
        };
        let view = self.partition.snapshot().await?;
        if !self.partition.leads_in(self.epoch) {
            return Err(WireError::new(ErrorCode::NotLeader, "the leadership has ended"));
        }
        let mut encoded = view.encode().freeze();
        let (partition, node, bytes) = (self.partition.id, self.node, encoded.len());
        tracing::info!(%partition, %node, bytes, end = %view.log_end, "sending a snapshot");
        while !encoded.is_empty() {
            let part = encoded.split_to(encoded.len().min(limits::FETCH_CHUNK_BYTES));
            if writer.write(FrameKind::Snapshot as u8, 0, &[part]).await.is_err() {
                // The follower is gone.
                break;
            }
        }
        Ok(())
    }

    async fn read(&self) -> Result<EntryChunk, WireError> {
        let (log, id) = (&self.session.shared.log, self.partition.id);
        let (from, bytes_max) = (self.next, limits::FETCH_CHUNK_BYTES);
        if let Some(chunk) = log.read_entries_cached(id, from, bytes_max) {
            return Ok(chunk);
        }
        let internal = |message: String| WireError::new(ErrorCode::Internal, message);
        let budget = self.session.shared.fetch_budget.clone();
        let share = budget.acquire_many_owned(limits::BATCH_BYTES_MAX as u32).await;
        let share = share.map_err(|closed| internal(closed.to_string()))?;
        let log = log.clone();
        let read = move || (log.read_entries(id, from, bytes_max), share);
        let (read, _share) =
            tokio::task::spawn_blocking(read).await.map_err(|panic| internal(panic.to_string()))?;
        read.map_err(|error| read_error(&error))
    }
}

async fn write(writer: &mut FrameWriter, push: Push, chunk: EntryChunk) -> Result<(), FrameError> {
    let header = Bytes::copy_from_slice(&PushHeader(push).encode());
    let parts = whole(header, chunk.entries);
    writer.write(FrameKind::Entries as u8, 0, &parts).await
}

/// Entries as they lie in the log, behind a header.
pub(super) fn whole(header: Bytes, entries: Vec<LoggedEntry>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(1 + 2 * entries.len());
    parts.push(header);
    for entry in entries {
        let mut head = BytesMut::with_capacity(entry.header.batch_at());
        head.put_slice(&entry.header.encode(&entry.state, &entry.source));
        head.put_slice(&entry.state);
        head.put_slice(&entry.source);
        parts.push(head.freeze());
        if !entry.batch.is_empty() {
            parts.push(entry.batch);
        }
    }
    parts
}
