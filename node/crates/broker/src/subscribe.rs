//! A subscription: the one way data leaves a partition.
//!
//! The node pushes what lies between the subscription's position and the high watermark, then
//! waits for more; QUIC flow control is the backpressure. Recent batches come from memory; older
//! ones are read on a blocking thread, a chunk at a time.
//!
//! Memory. A read from the files reserves its bytes of the fetch budget until QUIC was offered
//! them. Nobody waits for a subscriber with a share of that budget, so it always comes round. What
//! QUIC does not take, because the subscriber does not read, may stay in memory for
//! [`limits::SLOW_HOLD`] if the slow budget has room for it. Otherwise the subscription is
//! *parked*: the rest of the frame is forgotten but for a few bytes, and read from the log again
//! once QUIC took those. So a subscriber that never reads costs no more than that, whatever the
//! size of its batches; and for one that reads a little at a time the node does not read more than
//! a fixed multiple of what it sends.
//!
//! A filter stands between reading and framing. What it keeps of a chunk is a frame like any other,
//! made again the same way where it was parked: a filter decides by the record alone.

use crate::cluster::forward;
use crate::modules::Filter;
use crate::partition::{Partition, Progress};
use crate::session::{Session, decode, encode, protocol, refuse};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use weir_core::Offset;
use weir_core::access::Role;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::module::ModuleKind;
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{FilterSpec, StartAt, Subscribe, Subscribed};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_log::{Log, ReadChunk, ReadError};
use weir_transport::{CloseReason, FrameError, FrameReader, FrameWriter};

/// What a parked subscription keeps of its frame: enough for both headers, so that what is
/// missing lies in the batches.
const PARKED_BYTES: usize = 256;
/// Bytes of a data frame before its batches.
const FRAME_HEAD_BYTES: usize = weir_transport::HEADER_BYTES + DataHeader::BYTES;

/// Bytes that may be read again for each byte sent; beyond that, reading again has to wait.
const REREAD_FACTOR_MAX: usize = 64;

const _: () = assert!(FRAME_HEAD_BYTES <= PARKED_BYTES);

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
        Ok(Opened::Elsewhere(leader, ask)) => {
            let Some(site) = &shared.site else { return };
            let passed = tokio::select! {
                passed = forward::subscription(&site.peers, leader, &ask, &mut writer) => passed,
                // The client stopped it, or broke the protocol.
                Err(_) | Ok(Some(_)) = reader.next(limits::CONTROL_BYTES_MAX) => Ok(()),
            };
            if let Err(error) = passed {
                refuse(&mut writer, &error).await;
            }
        }
        Ok(Opened::Here(mut subscription)) => {
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
                // Nothing can be said inside a frame. The client subscribes again and is told.
                Err(Ended::Refused(error)) if writer.withheld_bytes() > 0 => {
                    tracing::debug!(%error, "a frame could not be made again");
                    writer.reset(CloseReason::Normal.code());
                }
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
    /// It is served from a copy that follows.
    follows: bool,
    /// The offset to go on from.
    next: Offset,
    /// Where to end, if it ends.
    until: Option<Offset>,
    frame_bytes_max: usize,
    greeting: Option<Subscribed>,
    /// The data frame that was written last.
    last: Frame,
    /// What decides which records are sent.
    filter: Option<Filter>,
    /// The position that the subscriber was told last, and when.
    told: (Offset, Instant),
}

/// Where a data frame came from: enough to make it again.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    start: Offset,
    end: Offset,
    /// Its length, headers included, in bytes.
    bytes: usize,
    /// How much of it QUIC had taken when it was read again last.
    read_again_at: Option<usize>,
}

/// Batches, and the share of the fetch budget that they stand for unless they are from memory.
type Fetched = (ReadChunk, Option<OwnedSemaphorePermit>);

/// Where a subscription is served.
enum Opened {
    Here(Box<Subscription>),
    Elsewhere(NodeId, Box<Subscribe>),
}

async fn open(session: &Session, body: &[u8]) -> Result<Opened, WireError> {
    let ask: Subscribe = decode(body)?;
    let registry = &session.shared.registry;
    let partition = registry.partition(ask.topic, ask.partition);
    let partition = partition.ok_or_else(|| registry.unknown(ask.topic, ask.partition))?;
    session.authorize(Role::Consume, Some(&partition.topic_name))?;
    let leader = session.shared.route(session, &partition).map(|(_, leader)| leader);
    let follows = ask.nearest && leader.is_some() && partition.is_at_hand();
    match leader {
        Some(leader) if !follows || is_ahead(&partition, ask.start) => {
            return Ok(Opened::Elsewhere(leader, Box::new(ask)));
        }
        Some(_) => {}
        None => partition.settled().await?,
    }
    let progress = partition.progress();
    let next = resolve(&session.shared.log, &partition, ask.start).await;
    let next = next.map_err(|error| match damage(&session.shared.log, &partition) {
        // It may lie in what cannot be read.
        Some(damage) if error.code == ErrorCode::OutOfRange => damage,
        _ => error,
    })?;
    let now = partition.progress_now();
    let frame_bytes_max = match ask.frame_bytes_max as usize {
        0 => limits::FETCH_CHUNK_BYTES,
        asked => asked.min(limits::FETCH_CHUNK_BYTES),
    };
    let filter = match ask.filter {
        Some(spec) => Some(open_filter(session, spec).await?),
        None => None,
    };
    Ok(Opened::Here(Box::new(Subscription {
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
        follows,
        last: Frame::default(),
        filter,
        told: (next, Instant::now()),
    })))
}

/// Whether a subscription begins behind what is known here to be committed: the leader may know
/// more.
fn is_ahead(partition: &Partition, start: StartAt) -> bool {
    matches!(start, StartAt::Offset(offset) if offset > partition.progress_now().high_watermark)
}

async fn open_filter(session: &Session, spec: FilterSpec) -> Result<Filter, WireError> {
    let module = session.shared.registry.module(&spec.module).ok_or_else(|| {
        let message =
            format!("the node has no module {}; `weir module list` tells what it has", spec.module);
        WireError::new(ErrorCode::UnknownModule, message)
    })?;
    if module.kind != ModuleKind::Filter {
        let message = format!("{} is a {}, not a filter", spec.module, module.kind.name());
        return Err(WireError::new(ErrorCode::InvalidModule, message));
    }
    let modules = session.shared.modules.clone();
    Filter::open(&modules, spec, &module.sha256).await
}

/// What a subscriber is told behind the last offset that can be read, if the file behind that is
/// damaged.
fn damage(log: &Log, partition: &Partition) -> Option<WireError> {
    let damage = log.damage(partition.id)?;
    let message = format!(
        "what was written last is damaged: {damage}; stop the node and run `weir repair`, which \
         says what is lost"
    );
    Some(WireError::new(ErrorCode::Corrupt, message))
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
        self.deliver(writer).await?;
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
            } else if !self.is_served_here(progress) {
                let message = "another node serves the partition now; subscribe again";
                return Err(Ended::Refused(WireError::new(ErrorCode::NotLeader, message)));
            } else if self.next < end {
                self.send(writer, progress, end).await?;
            } else if let Some(damage) = damage(&self.session.shared.log, &self.partition) {
                // There is more, and neither an end nor waiting would tell.
                return Err(Ended::Refused(damage));
            } else if self.until.is_some_and(|until| self.next >= until) {
                if self.told.0 < self.next {
                    self.heartbeat(writer).await?;
                }
                return Ok(());
            } else {
                self.wait(writer).await?;
            }
        }
    }

    /// Whether this node leads, or follows and was asked to serve all the same.
    fn is_served_here(&self, progress: Progress) -> bool {
        progress.led || (self.follows && self.partition.is_at_hand())
    }

    /// Waits for the partition to move, and says that the node is alive if it takes long.
    async fn wait(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        let patience = match self.told.0 < self.next {
            // A filter kept nothing of the last records.
            true => limits::FILTERED_INTERVAL.saturating_sub(self.told.1.elapsed()),
            false => limits::HEARTBEAT_INTERVAL,
        };
        match timeout(patience, self.progress.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => self.heartbeat(writer).await,
        }
    }

    /// Says that the node is alive, and how far the subscription is.
    async fn heartbeat(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        let body = self.header(self.partition.progress_now());
        writer.write(FrameKind::Heartbeat as u8, 0, &[body]).await?;
        self.told = (self.next, Instant::now());
        Ok(())
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
        let start = self.next;
        let (chunk, share) = self.fetch(start, end).await.map_err(Ended::Refused)?;
        self.next = chunk.next_offset;
        if chunk.batches.is_empty() {
            drop(share);
            if self.told.1.elapsed() >= limits::FILTERED_INTERVAL {
                self.heartbeat(writer).await?;
            }
            return Ok(());
        }
        let bytes = chunk.bytes;
        self.last =
            Frame { start, end: self.next, bytes: FRAME_HEAD_BYTES + bytes, read_again_at: None };
        let mut parts = Vec::with_capacity(1 + chunk.batches.len());
        parts.push(self.header(progress));
        parts.extend(chunk.batches);
        writer.queue(FrameKind::Data as u8, 0, &parts)?;
        drop(parts);
        let taken = writer.try_flush().await?;
        // What QUIC took is bounded by its windows, what it did not take by the slow budget.
        drop(share);
        if !taken {
            self.deliver(writer).await?;
        }
        self.told = (self.next, Instant::now());
        self.partition.meter.sent(Instant::now(), bytes);
        Ok(())
    }

    /// Sees the last frame off to QUIC, however long the subscriber takes.
    async fn deliver(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        loop {
            let taken = writer.try_flush().await?;
            if taken && writer.withheld_bytes() == 0 {
                return Ok(());
            }
            if taken || !self.hold(writer).await? {
                self.park(writer).await?;
            }
        }
    }

    /// Waits with the frame in memory, if the slow budget has room for it. Whether QUIC took all
    /// that was queued.
    async fn hold(&self, writer: &mut FrameWriter) -> Result<bool, Ended> {
        // One byte of it keeps the whole frame in memory.
        let bytes = u32::try_from(self.last.bytes).unwrap_or(u32::MAX);
        let budget = &self.session.shared.slow_budget;
        let Ok(_share) = budget.try_acquire_many(bytes) else { return Ok(false) };
        match timeout(limits::SLOW_HOLD, writer.flush()).await {
            Ok(flushed) => Ok(flushed.map(|()| true)?),
            Err(_) => Ok(false),
        }
    }

    /// Forgets what QUIC did not take of the frame, waits until the subscriber reads again, and
    /// queues the rest anew.
    async fn park(&mut self, writer: &mut FrameWriter) -> Result<(), Ended> {
        writer.withhold(PARKED_BYTES);
        {
            let _parked = Parked::new(&self.session.shared.counts.parked);
            writer.flush().await?;
        }
        let Frame { start, end, bytes, read_again_at } = self.last;
        let sent = bytes.saturating_sub(writer.withheld_bytes());
        if read_again_at.is_some_and(|at| (sent - at).saturating_mul(REREAD_FACTOR_MAX) < bytes) {
            sleep(limits::SLOW_HOLD).await;
        }
        self.last.read_again_at = Some(sent);
        let mut sent = sent.saturating_sub(FRAME_HEAD_BYTES);
        let mut at = start;
        while writer.withheld_bytes() > 0 {
            let (chunk, share) = self.fetch(at, end).await.map_err(Ended::Refused)?;
            at = chunk.next_offset;
            for batch in chunk.batches {
                let known = sent.min(batch.len());
                sent -= known;
                if !writer.supply(batch.slice(known..)) {
                    let message = format!("the batches at offset {start} are not what they were");
                    return Err(Ended::Refused(WireError::new(ErrorCode::Internal, message)));
                }
            }
            let taken = writer.try_flush().await?;
            drop(share);
            if !taken {
                break;
            }
        }
        Ok(())
    }

    /// Reads on from `from`: at least one entry, nothing that ends beyond `end`; of those, what the
    /// filter keeps.
    async fn fetch(&mut self, from: Offset, end: Offset) -> Result<Fetched, WireError> {
        let mut fetched = self.read(from, end).await?;
        let chunk = &mut fetched.0;
        if chunk.next_offset <= from {
            // Below the high watermark there is always something.
            let message = format!("nothing to read at offset {from}");
            return Err(WireError::new(ErrorCode::Internal, message));
        }
        if let Some(filter) = &mut self.filter {
            chunk.batches = filter.apply(std::mem::take(&mut chunk.batches), from).await?;
            chunk.bytes = chunk.batches.iter().map(Bytes::len).sum();
        }
        Ok(fetched)
    }

    async fn read(&self, from: Offset, end: Offset) -> Result<Fetched, WireError> {
        let (shared, id) = (&self.session.shared, self.partition.id);
        let bytes_max = self.frame_bytes_max;
        if let Some(chunk) = shared.log.read_cached(id, from, bytes_max, end) {
            return Ok((chunk, None));
        }
        let internal = |message: String| WireError::new(ErrorCode::Internal, message);
        // A read yields one batch at least, whatever was asked for.
        let reserve = limits::BATCH_BYTES_MAX;
        let reserved = shared.fetch_budget.clone().acquire_many_owned(reserve as u32);
        let mut share = reserved.await.map_err(|closed| internal(closed.to_string()))?;
        let log = shared.log.clone();
        // The share goes along: should the client be gone meanwhile, the read still takes memory.
        let read = move || (log.read(id, from, bytes_max, end), share);
        let (read, held) =
            tokio::task::spawn_blocking(read).await.map_err(|panic| internal(panic.to_string()))?;
        let chunk = read.map_err(|error| read_error(&error))?;
        share = held;
        drop(share.split(reserve.saturating_sub(chunk.bytes)));
        Ok((chunk, Some(share)))
    }
}

/// Counts a parked subscription for as long as it is.
struct Parked<'a>(&'a AtomicUsize);

impl<'a> Parked<'a> {
    fn new(count: &'a AtomicUsize) -> Parked<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Parked(count)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
