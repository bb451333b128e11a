//! One task per partition: keeps a subscription open and puts what arrives into the queue.
//!
//! A frame takes its bytes of the prefetch budget before its body is read; while there are none
//! the task does not read, and QUIC flow control holds the node back.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use weir_core::Offset;
use weir_core::ids::{PartitionIndex, TopicId};
use weir_core::limits::{CONTROL_BYTES_MAX, FRAME_BYTES_MAX, IDLE_TIMEOUT};
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{FilterSpec, StartAt, Subscribe, Subscribed};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_producer::Backoff;
use weir_transport::{FrameError, FrameReader, FrameWriter, control};

use super::{PositionReset, ResetPolicy};
use crate::error::{ConnectError, ConsumeError};
use crate::link::{Link, ReceiveError, receive};

/// The least that a queued event takes of the prefetch budget, so that events are bounded, too.
const EVENT_BYTES_MIN: usize = 128;

/// What is allocated for a frame when its header came: the node is trusted with that much.
const EXPECTED_BODY_BYTES: usize = 1024 * 1024;

/// What readers and their consumer know of one partition.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: u32,
    high_watermark: AtomicI64,
    log_start: AtomicI64,
}

/// Before the node said anything.
const UNKNOWN: i64 = -1;

impl Source {
    pub(super) fn new(topic: Arc<str>, topic_id: TopicId, partition: u32) -> Source {
        let (high_watermark, log_start) = (AtomicI64::new(UNKNOWN), AtomicI64::new(UNKNOWN));
        Source { topic, topic_id, partition, high_watermark, log_start }
    }

    /// High watermark and log start as last heard of.
    pub(super) fn bounds(&self) -> Option<(Offset, Offset)> {
        let high_watermark = self.high_watermark.load(Ordering::Relaxed);
        let log_start = self.log_start.load(Ordering::Relaxed);
        (high_watermark != UNKNOWN).then_some((Offset(high_watermark), Offset(log_start)))
    }

    fn set_bounds(&self, high_watermark: Offset, log_start: Offset) {
        self.high_watermark.store(high_watermark.0, Ordering::Relaxed);
        self.log_start.store(log_start.0, Ordering::Relaxed);
    }

    fn protocol_error(&self, reason: impl Into<String>) -> ConsumeError {
        let (topic, partition) = (self.topic.clone(), self.partition);
        ConsumeError::Protocol { topic, partition, reason: reason.into() }
    }
}

/// What a reader tells its consumer.
#[derive(Debug)]
pub(super) struct Event {
    /// The consumer's number of the partition, and which of its readers this is.
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) news: News,
    /// What it takes of the prefetch budget.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub(super) enum News {
    /// The subscription begins here.
    Start(Offset),
    /// Batches.
    Frame(DataHeader, Bytes),
    /// There is nothing for consumers before this offset.
    Moved(Offset),
    /// A policy moved the position.
    Reset(PositionReset),
    /// The end that was asked for is reached.
    End,
    /// The partition cannot go on.
    Failed(ConsumeError),
}

/// What a reader needs.
pub(super) struct Reader {
    pub(super) link: Arc<Link>,
    pub(super) source: Arc<Source>,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) frame_bytes_max: u32,
    pub(super) until_end: bool,
    pub(super) nearest: bool,
    pub(super) reset: ResetPolicy,
    pub(super) skip_damage: bool,
    pub(super) filter: Option<FilterSpec>,
}

/// Where a reader is.
struct Place {
    /// Where to go on from.
    from: StartAt,
    /// Where to end.
    end: Option<Offset>,
    /// Whether the node ends the present subscription there, too: then it has the last word.
    node_ends: bool,
    /// The position that was lost, where a policy moved it.
    lost: Option<Offset>,
    /// Whether the consumer knows where it began.
    told: bool,
    /// Subscriptions in a row that brought nothing.
    failures: u32,
}

/// Why one subscription ended.
enum End {
    /// The end that was asked for is reached.
    Reached,
    /// It is worth another try.
    Again(String),
    /// Go on elsewhere, as the policy says.
    Moved,
    /// The consumer is gone.
    Abandoned,
    Failed(ConsumeError),
}

impl Reader {
    /// Reads from `start` until the end, a fatal error, or the consumer is gone.
    pub(super) async fn run(self, start: StartAt) {
        let mut place = Place {
            from: start,
            end: None,
            node_ends: false,
            lost: None,
            told: false,
            failures: 0,
        };
        loop {
            match self.subscribe(&mut place).await {
                End::Reached => return self.tell(News::End, None),
                End::Failed(error) => return self.tell(News::Failed(error), None),
                End::Abandoned => return,
                End::Moved => place.failures += 1,
                End::Again(why) => {
                    place.failures += 1;
                    let Source { topic, partition, .. } = &*self.source;
                    tracing::debug!(%topic, partition, why, "subscribing again");
                }
            }
            sleep(Backoff::CONNECT.jittered(place.failures)).await;
        }
    }

    async fn subscribe(&self, place: &mut Place) -> End {
        let warn = |error: &ConnectError| {
            if self.slot == 0 {
                tracing::warn!(%error, "a consumer cannot connect; will try again");
            }
        };
        let live = match self.link.get_patiently(warn).await {
            Ok(live) => live,
            Err(error) => return End::Failed(error.into()),
        };
        // The writer stays open as long as the subscription is wanted.
        let opening = async {
            let (mut writer, mut reader) =
                live.connection.open_stream().await.map_err(FrameError::Lost)?;
            let subscribed = self.open(place, &mut writer, &mut reader).await?;
            Ok::<_, ReceiveError>((writer, reader, subscribed))
        };
        match opening.await {
            Ok((_writer, mut reader, subscribed)) => {
                if let Some(end) = self.begin(place, &subscribed) {
                    return end;
                }
                self.read(place, subscribed.start, &mut reader).await
            }
            Err(ReceiveError::Refused(error)) => self.refused(place, error),
            Err(error) if error.retryable() => End::Again(error.to_string()),
            Err(error) => End::Failed(self.source.protocol_error(error.to_string())),
        }
    }

    async fn open(
        &self,
        place: &Place,
        writer: &mut FrameWriter,
        reader: &mut FrameReader,
    ) -> Result<Subscribed, ReceiveError> {
        let subscribe = Subscribe {
            topic: self.source.topic_id,
            partition: PartitionIndex(self.source.partition),
            start: place.from,
            frame_bytes_max: self.frame_bytes_max,
            until_end: self.until_end,
            nearest: self.nearest,
            filter: self.filter.clone(),
        };
        let body = control::encode(&subscribe)?;
        writer.write(FrameKind::Subscribe as u8, 0, &[body]).await?;
        receive(reader, FrameKind::Subscribed).await
    }

    /// The node accepted the subscription. Returns why it is over already, if it is.
    fn begin(&self, place: &mut Place, subscribed: &Subscribed) -> Option<End> {
        let Subscribed { start, high_watermark, log_start, .. } = *subscribed;
        self.source.set_bounds(high_watermark, log_start);
        if let Some(from) = place.lost.take() {
            let (topic, partition) = (self.source.topic.clone(), self.source.partition);
            tracing::warn!(%topic, partition, %from, to = %start, "the position was reset");
            self.tell(News::Reset(PositionReset { topic, partition, from, to: start }), None);
            place.told = false;
        }
        if !std::mem::replace(&mut place.told, true) {
            self.tell(News::Start(start), None);
        }
        place.from = StartAt::Offset(start);
        if !self.until_end {
            return None;
        }
        let end = *place.end.get_or_insert(high_watermark);
        place.node_ends = high_watermark <= end;
        (start >= end && !place.node_ends).then_some(End::Reached)
    }

    /// Reads frames until the stream ends.
    async fn read(&self, place: &mut Place, start: Offset, reader: &mut FrameReader) -> End {
        let mut next = start;
        reader.expect_bodies(EXPECTED_BODY_BYTES);
        loop {
            let at_end = place.end.is_some_and(|end| next >= end);
            if at_end && !place.node_ends {
                return End::Reached;
            }
            let header = match timeout(IDLE_TIMEOUT, reader.next_header(FRAME_BYTES_MAX)).await {
                Err(_) if at_end => return End::Reached,
                Err(_) => return End::Again(format!("nothing came for {IDLE_TIMEOUT:?}")),
                Ok(Err(error)) => return self.broken(error),
                Ok(Ok(None)) => return self.finished(place, next),
                Ok(Ok(Some(header))) => header,
            };
            let kind = FrameKind::from_u8(header.kind);
            if kind == Some(FrameKind::Error) && header.length <= CONTROL_BYTES_MAX {
                return match read_body(reader).await.map(|body| control::decode(&body)) {
                    Ok(Ok(error)) => self.refused(place, error),
                    Ok(Err(error)) => End::Failed(self.source.protocol_error(error.to_string())),
                    Err(end) => end,
                };
            }
            if !matches!(kind, Some(FrameKind::Data | FrameKind::Heartbeat)) {
                let reason = format!("a frame of kind {} came", header.kind);
                return End::Failed(self.source.protocol_error(reason));
            }
            let permit = if kind == Some(FrameKind::Data) {
                match self.reserve(header.length).await {
                    Some(permit) => Some(permit),
                    None => return End::Abandoned,
                }
            } else {
                None
            };
            let body = match read_body(reader).await {
                Ok(body) => body,
                Err(end) => return end,
            };
            match self.handle_frame(next, body, permit) {
                Ok(moved) => next = moved,
                Err(error) => return End::Failed(error),
            }
            place.from = StartAt::Offset(next);
            place.failures = 0;
        }
    }

    /// Queues what a data frame or heartbeat says. Returns where to go on from.
    fn handle_frame(
        &self,
        next: Offset,
        mut body: Bytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Offset, ConsumeError> {
        let header = DataHeader::decode(&body)
            .filter(|header| header.next_offset >= next)
            .ok_or_else(|| self.source.protocol_error("a data frame makes no sense"))?;
        self.source.set_bounds(header.high_watermark, header.log_start);
        let batches = body.split_off(DataHeader::BYTES);
        if permit.is_some() {
            self.tell(News::Frame(header, batches), permit);
        } else if header.next_offset > next {
            // Only what may be skipped without harm goes without waiting for the budget.
            if let Ok(permit) = self.budget.clone().try_acquire_many_owned(EVENT_BYTES_MIN as u32) {
                self.tell(News::Moved(header.next_offset), Some(permit));
            }
        }
        Ok(header.next_offset)
    }

    /// Takes bytes of the prefetch budget; `None` if the consumer is gone.
    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes =
            bytes.clamp(EVENT_BYTES_MIN, super::assignment::prefetch_of_one(self.frame_bytes_max));
        self.budget.clone().acquire_many_owned(bytes as u32).await.ok()
    }

    fn broken(&self, error: FrameError) -> End {
        if error.retryable() {
            return End::Again(error.to_string());
        }
        match error {
            FrameError::Lost(lost) => End::Again(lost.to_string()),
            error => End::Failed(self.source.protocol_error(error.to_string())),
        }
    }

    /// The node ended the stream properly.
    fn finished(&self, place: &Place, next: Offset) -> End {
        match place.end {
            Some(end) if next >= end => End::Reached,
            // What is left up to the end holds nothing for consumers.
            Some(_) if self.until_end => End::Reached,
            _ => End::Again("the node ended the subscription".to_owned()),
        }
    }

    fn refused(&self, place: &mut Place, error: WireError) -> End {
        let (topic, partition) = (self.source.topic.clone(), self.source.partition);
        let at = match place.from {
            StartAt::Offset(at) => at,
            _ => Offset::ZERO,
        };
        match error.code {
            ErrorCode::OutOfRange => {
                let from = match self.reset {
                    ResetPolicy::Earliest => StartAt::Earliest,
                    ResetPolicy::Latest => StartAt::Latest,
                    ResetPolicy::Fail => {
                        return End::Failed(ConsumeError::OutOfRange {
                            topic,
                            partition,
                            asked: at,
                            log_start: error.log_start.unwrap_or_default(),
                            log_end: error.log_end.unwrap_or_default(),
                        });
                    }
                };
                place.lost = Some(at);
                place.from = from;
                End::Moved
            }
            ErrorCode::Corrupt => match error.resume_at.filter(|to| self.skip_damage && *to > at) {
                Some(to) => {
                    place.lost = Some(at);
                    place.from = StartAt::Offset(to);
                    End::Moved
                }
                None => End::Failed(ConsumeError::Corrupt {
                    topic,
                    partition,
                    at,
                    resume_at: error.resume_at,
                    message: error.message,
                }),
            },
            code if code.retryable() => End::Again(error.to_string()),
            _ => End::Failed(ConsumeError::Refused { topic, partition, error }),
        }
    }

    fn tell(&self, news: News, permit: Option<OwnedSemaphorePermit>) {
        let Reader { slot, generation, .. } = *self;
        // Fails where the consumer is gone, and then this task is about to be ended, too.
        let _ = self.events.send(Event { slot, generation, news, permit });
    }
}

async fn read_body(reader: &mut FrameReader) -> Result<Bytes, End> {
    match timeout(IDLE_TIMEOUT, reader.body()).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(End::Again(error.to_string())),
        Err(_) => Err(End::Again(format!("nothing came for {:?}", IDLE_TIMEOUT))),
    }
}
