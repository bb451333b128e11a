//! A subscription: the one way data leaves a partition.
//!
//! The node pushes what lies between the subscription's position and the high watermark, then
//! waits for more; QUIC flow control is the backpressure. Recent batches come from memory; older
//! ones are read on a blocking thread, a chunk at a time.
//!
//! A subscriber that does not read holds one frame in memory. To keep many of them small, a frame
//! beyond [`SMALL_FRAME_BYTES`] needs a share of the node's fetch budget; without one the
//! subscription goes on in small frames, so that nobody waits for anybody else.

use crate::partition::{Partition, Progress};
use crate::session::{Session, decode, encode, protocol, refuse};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use weir_core::Offset;
use weir_core::access::Role;
use weir_core::limits;
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{StartAt, Subscribe, Subscribed};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_log::{Log, ReadChunk, ReadError};
use weir_transport::{FrameError, FrameReader, FrameWriter};

/// What a subscription may always hold in memory, or one batch if that is larger.
const SMALL_FRAME_BYTES: usize = 64 * limits::KIB;

/// Serves a subscription to its end.
pub async fn serve(
    session: Session,
    mut writer: FrameWriter,
    mut reader: FrameReader,
    body: &[u8],
) {
    let shared = session.shared.clone();
    if shared.counts.subscriptions.fetch_add(1, Ordering::Relaxed)
        >= shared.config.subscriptions_max
    {
        shared.counts.subscriptions.fetch_sub(1, Ordering::Relaxed);
        let error = WireError::new(ErrorCode::Busy, "the node has as many subscriptions as it may");
        return refuse(&mut writer, &error).await;
    }
    match open(&session, body).await {
        Err(error) => refuse(&mut writer, &error).await,
        Ok(mut subscription) => {
            let partition = subscription.partition.clone();
            partition.meter.subscriptions.fetch_add(1, Ordering::Relaxed);
            let ended = tokio::select! {
                ended = subscription.run(&mut writer) => ended,
                // The client has nothing more to say on this stream: it ended or stopped it.
                gone = reader.next(limits::CONTROL_BYTES_MAX) => match gone {
                    Ok(Some(_)) => Err(Ended::Refused(protocol("a frame after the subscription"))),
                    Ok(None) => subscription.run(&mut writer).await,
                    Err(error) => Err(Ended::Broken(error)),
                },
            };
            partition.meter.subscriptions.fetch_sub(1, Ordering::Relaxed);
            match ended {
                // Fails only if the client is gone.
                Ok(()) => drop(writer.finish().await),
                Err(Ended::Refused(error)) => refuse(&mut writer, &error).await,
                Err(Ended::Broken(error)) => session.broken(&mut writer, &error),
            }
        }
    }
    shared.counts.subscriptions.fetch_sub(1, Ordering::Relaxed);
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

struct Subscription {
    session: Session,
    partition: Arc<Partition>,
    progress: watch::Receiver<Progress>,
    /// The offset to go on from.
    next: Offset,
    /// Where to end, if it ends.
    until: Option<Offset>,
    frame_bytes_max: usize,
    greeting: Option<Subscribed>,
}

async fn open(session: &Session, body: &[u8]) -> Result<Subscription, WireError> {
    let ask: Subscribe = decode(body)?;
    let registry = &session.shared.registry;
    let partition = registry.partition(ask.topic, ask.partition).ok_or_else(|| {
        let message = format!("there is no partition {} of topic {}", ask.partition, ask.topic);
        WireError::new(ErrorCode::UnknownPartition, message)
    })?;
    session.authorize(Role::Consume, Some(&partition.topic_name))?;
    let progress = partition.progress();
    let next = resolve(&session.shared.log, &partition, ask.start).await?;
    let now = partition.progress_now();
    let frame_bytes_max = match ask.frame_bytes_max as usize {
        0 => limits::FETCH_CHUNK_BYTES,
        asked => asked.min(limits::FETCH_CHUNK_BYTES),
    };
    Ok(Subscription {
        session: session.clone(),
        until: ask.until_end.then_some(now.high_watermark),
        next,
        frame_bytes_max,
        greeting: Some(Subscribed {
            start: next,
            log_start: now.log_start,
            high_watermark: now.high_watermark,
            epoch: partition.figures().epoch,
        }),
        progress,
        partition,
    })
}

/// The offset that a position names in a partition.
///
/// # Errors
/// [`ErrorCode::OutOfRange`] for an offset that is not retained; disk errors.
pub async fn resolve(
    log: &Arc<Log>,
    partition: &Arc<Partition>,
    start: StartAt,
) -> Result<Offset, WireError> {
    let progress = partition.progress_now();
    match start {
        StartAt::Earliest => Ok(progress.log_start),
        StartAt::Latest => Ok(progress.high_watermark),
        StartAt::Offset(offset) => {
            if offset < progress.log_start || offset > progress.high_watermark {
                let (start, end) = (progress.log_start, progress.high_watermark);
                return Err(WireError::out_of_range(offset, start, end));
            }
            Ok(offset)
        }
        StartAt::Time(at) => {
            let (log, id) = (log.clone(), partition.id);
            let found = tokio::task::spawn_blocking(move || log.find_time(id, at)).await;
            match found {
                Ok(Ok(Some(offset))) => Ok(offset.min(progress.high_watermark)),
                Ok(Ok(None) | Err(ReadError::UnknownPartition(_))) => Ok(progress.high_watermark),
                Ok(Err(error)) => Err(read_error(&error)),
                Err(panic) => Err(WireError::new(ErrorCode::Internal, panic.to_string())),
            }
        }
    }
}

impl Subscription {
    async fn run(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        // A run that was cancelled may have left part of a frame.
        writer.flush().await?;
        if let Some(greeting) = self.greeting.take() {
            let body = encode(&greeting).map_err(Ended::Refused)?;
            writer.write(FrameKind::Subscribed as u8, 0, &[body]).await?;
        }
        loop {
            let progress = *self.progress.borrow_and_update();
            let until = self.until.unwrap_or(progress.high_watermark);
            let end = until.min(progress.high_watermark);
            if progress.deleted {
                let error = WireError::new(ErrorCode::TopicDeleted, "the topic was deleted");
                return Err(Ended::Refused(error));
            } else if self.next < end {
                self.send(writer, progress, end).await?;
            } else if self.until.is_some_and(|until| self.next >= until) {
                return Ok(());
            } else {
                self.wait(writer).await?;
            }
        }
    }

    /// Waits for the partition to move, and says that the node is alive if it takes long.
    async fn wait(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        match timeout(limits::HEARTBEAT_INTERVAL, self.progress.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let body = self.header(self.partition.progress_now());
                Ok(writer.write(FrameKind::Heartbeat as u8, 0, &[body]).await?)
            }
        }
    }

    fn header(&self, progress: Progress) -> Bytes {
        let header = DataHeader {
            high_watermark: progress.high_watermark,
            log_start: progress.log_start,
            next_offset: self.next,
        };
        Bytes::copy_from_slice(&header.encode())
    }

    async fn send(
        &mut self,
        writer: &mut FrameWriter,
        progress: Progress,
        end: Offset,
    ) -> Result<(), Ended> {
        let (bytes_max, _share) = self.share();
        let chunk = self.read(bytes_max, end).await.map_err(Ended::Refused)?;
        if chunk.next_offset <= self.next {
            // Below the high watermark there is always something.
            let message = format!("nothing to read at offset {}", self.next);
            return Err(Ended::Refused(WireError::new(ErrorCode::Internal, message)));
        }
        self.next = chunk.next_offset;
        if chunk.batches.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::with_capacity(1 + chunk.batches.len());
        parts.push(self.header(progress));
        parts.extend(chunk.batches);
        writer.write(FrameKind::Data as u8, 0, &parts).await?;
        self.partition.meter.sent(Instant::now(), chunk.bytes);
        Ok(())
    }

    /// How much the next frame may take, and the share of the budget that this stands for.
    fn share(&self) -> (usize, Option<OwnedSemaphorePermit>) {
        let budget = &self.session.shared.fetch_budget;
        let permits = self.frame_bytes_max as u32;
        match budget.clone().try_acquire_many_owned(permits) {
            Ok(share) => (self.frame_bytes_max, Some(share)),
            Err(_) => (self.frame_bytes_max.min(SMALL_FRAME_BYTES), None),
        }
    }

    async fn read(&self, bytes_max: usize, end: Offset) -> Result<ReadChunk, WireError> {
        let (log, id, next) = (&self.session.shared.log, self.partition.id, self.next);
        if let Some(chunk) = log.read_cached(id, next, bytes_max, end) {
            return Ok(chunk);
        }
        let log = log.clone();
        let read = tokio::task::spawn_blocking(move || log.read(id, next, bytes_max, end)).await;
        match read {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(read_error(&error)),
            Err(panic) => Err(WireError::new(ErrorCode::Internal, panic.to_string())),
        }
    }
}

/// A read error as a client is told.
#[must_use]
pub fn read_error(error: &ReadError) -> WireError {
    match error {
        ReadError::OutOfRange { start, end } => {
            let message = format!("the offset is not in the log, which holds {start} to {end}");
            WireError {
                log_start: Some(*start),
                log_end: Some(*end),
                ..WireError::new(ErrorCode::OutOfRange, message)
            }
        }
        ReadError::Corrupt { to, .. } => {
            tracing::error!(%error, "a read met damaged data");
            let mut told = WireError::new(ErrorCode::Corrupt, error.to_string());
            told.resume_at = Some(*to);
            told
        }
        ReadError::Unavailable { .. } => WireError::new(ErrorCode::Offline, error.to_string()),
        ReadError::UnknownPartition(_) => {
            WireError::new(ErrorCode::UnknownPartition, error.to_string())
        }
    }
}
