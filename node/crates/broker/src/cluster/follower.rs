//! The follower's end of a replica's stream. One task for each partition that this node holds.

use crate::cluster::peers::{PeerError, Peers, Purpose};
use crate::partition::{Followed, Partition, Taken};
use bytes::{Buf, Bytes, BytesMut};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use weir_core::entry::decode_state;
use weir_core::limits;
use weir_core::partition::follower::Standing;
use weir_core::partition::messages::{FollowAnswer, Push, Verdict};
use weir_core::partition::view::PartitionView;
use weir_core::record::RecordBatch;
use weir_core::wire::replica::{FollowOpen, PushHeader, ReportBody, split_entry};
use weir_core::wire::{FrameKind, WireError};
use weir_log::LoggedEntry;
use weir_transport::{FrameError, FrameReader, FrameWriter, control};

/// The first pause after a failure; it doubles up to [`limits::REPLICA_RETRY`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The pause while the log has no room.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// Why following ended. It is begun again.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("{0}")]
    Stream(String),
    #[error("the leader refused: {0}")]
    Refused(WireError),
    #[error("the leader sent what is no log: {0}")]
    Malformed(String),
    #[error("the leader was silent")]
    Silent,
    #[error("the log: {0}")]
    Log(WireError),
}

/// Follows whoever leads, as long as the partition exists.
pub async fn run(peers: Arc<Peers>, partition: Arc<Partition>) {
    let mut turns = partition.turns();
    let mut pause = PAUSE_MIN;
    loop {
        turns.borrow_and_update();
        if partition.progress_now().deleted {
            return;
        }
        let Some(followed) = partition.followed() else {
            if turns.changed().await.is_err() {
                return;
            }
            continue;
        };
        let Some(follow) = partition.poll_follow(limits::FOLLOW_SILENCE / 2) else {
            // The log is being cut, or a question is on its way.
            let _ = timeout(limits::REPLICA_RETRY, turns.changed()).await;
            continue;
        };
        let open = FollowOpen { partition: partition.id, follow };
        let began = Instant::now();
        let ended = tokio::select! {
            ended = one(&peers, &partition, followed, &open) => ended,
            () = turned(&partition, followed) => Ok(()),
        };
        partition.handle_lost();
        match ended {
            // A leader that ends streams as fast as they are opened is not asked without a pause.
            Ok(()) if began.elapsed() > pause => pause = PAUSE_MIN,
            Ok(()) => drop(timeout(pause, turns.changed()).await),
            Err(lost) => {
                tracing::debug!(partition = %partition.id, leader = %followed.leader.node, %lost,
                    "following ended");
                let _ = timeout(pause, turns.changed()).await;
                pause = (pause * 2).min(limits::REPLICA_RETRY);
            }
        }
    }
}

/// Until another leader is to be followed, or none.
async fn turned(partition: &Partition, followed: Followed) {
    let mut turns = partition.turns();
    while partition.followed() == Some(followed) {
        if turns.changed().await.is_err() {
            return;
        }
    }
}

/// One question, and what follows from its answer.
async fn one(
    peers: &Peers,
    partition: &Partition,
    followed: Followed,
    open: &FollowOpen,
) -> Result<(), Lost> {
    let connection = peers.connection(followed.leader.node, Purpose::Follow).await?;
    let lost = |reason: String| Lost::Stream(reason);
    let (mut writer, mut reader) =
        connection.open_stream().await.map_err(|e| lost(e.to_string()))?;
    let body = control::encode(open).map_err(|e| lost(e.to_string()))?;
    let sent = writer.write(FrameKind::Follow as u8, 0, &[body]).await;
    sent.map_err(|e| lost(e.to_string()))?;
    let Some(frame) = next(&mut reader).await? else { return Err(Lost::Silent) };
    if frame.0 != FrameKind::FollowAnswer as u8 {
        return Err(Lost::Malformed(format!("frame kind {} for an answer", frame.0)));
    }
    let answer: FollowAnswer =
        control::decode(&frame.1).map_err(|e| Lost::Malformed(e.to_string()))?;
    let base = match answer.verdict {
        Verdict::Reset { .. } => Some(snapshot(peers, &mut reader).await?),
        _ => None,
    };
    partition.handle_answer(&answer, base);
    if partition.standing() != Some(Standing::Following) {
        return Ok(());
    }
    tokio::select! {
        ended = take(partition, &mut reader) => ended,
        ended = report(partition, &mut writer) => ended,
    }
}

/// The next frame; `None` where the stream ended.
async fn next(reader: &mut FrameReader) -> Result<Option<(u8, Bytes)>, Lost> {
    let whole = async {
        let Some(header) = reader.next_header(limits::FRAME_BYTES_MAX).await? else {
            return Ok(None);
        };
        // In memory of its own: entries stay in the log's cache.
        Ok(Some((header.kind, reader.body_mut().await?.freeze())))
    };
    let frame = timeout(limits::FOLLOW_SILENCE, whole).await.map_err(|_| Lost::Silent)?;
    let frame = frame.map_err(|error: FrameError| Lost::Stream(error.to_string()))?;
    let Some((kind, body)) = frame else { return Ok(None) };
    if kind == FrameKind::Error as u8 {
        let told = control::decode::<WireError>(&body);
        return Err(match told {
            Ok(error) => Lost::Refused(error),
            Err(error) => Lost::Malformed(error.to_string()),
        });
    }
    Ok(Some((kind, body)))
}

/// What the log begins anew with.
async fn snapshot(peers: &Peers, reader: &mut FrameReader) -> Result<PartitionView, Lost> {
    let malformed = |what: &str| Lost::Malformed(what.to_owned());
    let mut encoded = BytesMut::new();
    // Before the first part is taken: few at a time are in memory.
    let _turn = peers.snapshot_turn().await;
    loop {
        let frame = timeout(limits::SNAPSHOT_TIMEOUT, reader.next(limits::FRAME_BYTES_MAX)).await;
        let frame = frame.map_err(|_| Lost::Silent)?;
        let Some(frame) = frame.map_err(|error| Lost::Stream(error.to_string()))? else { break };
        if frame.kind == FrameKind::Error as u8 {
            let told = control::decode::<WireError>(&frame.body);
            return Err(told.map_or_else(|error| Lost::Malformed(error.to_string()), Lost::Refused));
        }
        if frame.kind != FrameKind::Snapshot as u8 {
            return Err(malformed("another frame within a snapshot"));
        }
        if encoded.len() + frame.body.len() > limits::VIEW_BYTES_MAX {
            return Err(malformed("a snapshot larger than any can be"));
        }
        encoded.extend_from_slice(&frame.body);
    }
    PartitionView::decode(&encoded).ok_or_else(|| malformed("a snapshot that cannot be read"))
}

/// Takes entries as they come.
async fn take(partition: &Partition, reader: &mut FrameReader) -> Result<(), Lost> {
    while let Some((kind, body)) = next(reader).await? {
        if kind != FrameKind::Entries as u8 {
            return Err(Lost::Malformed(format!("frame kind {kind} among entries")));
        }
        let (push, mut entries) = split(partition, body).map_err(Lost::Malformed)?;
        loop {
            match partition.take(&push, entries).map_err(Lost::Log)? {
                Taken::All => break,
                Taken::AskAgain => return Ok(()),
                Taken::Later(rest) => {
                    entries = rest;
                    // sleep: the disk is behind; nothing tells when it has room.
                    sleep(ROOM_PAUSE).await;
                }
            }
        }
        partition.handle_push(&push);
    }
    Ok(())
}

/// Takes a frame apart and checks every entry in it.
fn split(partition: &Partition, mut body: Bytes) -> Result<(Push, Vec<LoggedEntry>), String> {
    let Some(PushHeader(push)) = PushHeader::decode(&body) else {
        return Err("a frame of entries without its header".to_owned());
    };
    body.advance(PushHeader::BYTES);
    let mut entries = Vec::new();
    while body.has_remaining() {
        let split = split_entry(&mut body).map_err(|error| error.to_string())?;
        let (header, state, source, batch) = split;
        if header.partition != partition.id {
            return Err(format!("an entry of partition {}", header.partition));
        }
        decode_state(&state).map_err(|error| error.to_string())?;
        if !batch.is_empty() {
            let decoded = RecordBatch::decode_trusted(batch.clone());
            let decoded = decoded.map_err(|error| error.to_string())?;
            let info = decoded.header();
            if info.base_offset != header.base_offset || info.epoch != header.epoch {
                return Err("a batch that is not of its entry".to_owned());
            }
        }
        entries.push(LoggedEntry { header, state, source, batch });
    }
    Ok((push, entries))
}

/// Tells the leader what is on this disk, whenever that changes or the leader has spoken.
async fn report(partition: &Partition, writer: &mut FrameWriter) -> Result<(), Lost> {
    let mut reports = partition.reports();
    loop {
        let report = *reports.borrow_and_update();
        if let Some(report) = report {
            let body = Bytes::copy_from_slice(&ReportBody(report).encode());
            let sent = writer.write(FrameKind::Report as u8, 0, &[body]).await;
            sent.map_err(|error| Lost::Stream(error.to_string()))?;
        }
        if reports.changed().await.is_err() {
            return Ok(());
        }
    }
}
