//! Where a lane reads: the copy of its input on this node, or else what the node that leads it
//! sends.
//!
//! A lane works where its home is led, which need not be where its input is led. If this node holds
//! a copy of the input that is in sync, that is read, as far as it is known to be committed: what
//! is committed is the same on every copy, for ever. Otherwise the lane subscribes like any
//! consumer, to the node that leads. Either way it sees the same records at the same offsets.

use super::read::read;
use crate::broker::Shared;
use crate::cluster::peers::Purpose;
use crate::cluster::{ClusterNode, forward};
use crate::partition::Partition;
use crate::session::encode;
use bytes::Buf;
use std::sync::Arc;
use tokio::time::timeout;
use weir_core::Offset;
use weir_core::deploy::Deployment;
use weir_core::deploy::keys::Position;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::record::split_batches;
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{Request, Response, StartAt, Subscribe};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_log::ReadChunk;
use weir_transport::{Frame, FrameReader, FrameWriter, control};
use weir_wasm::columns::Watermark;

/// What can be read of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The first retained offset.
    pub log_start: Offset,
    /// The end of what is committed, as far as it is known here.
    pub high_watermark: Offset,
}

/// The input of one lane.
pub struct Source {
    shared: Arc<Shared>,
    partition: Arc<Partition>,
    away: Option<Away>,
    /// What the leader elsewhere said last.
    told: Reach,
}

/// A subscription to the leader elsewhere.
struct Away {
    reader: FrameReader,
    /// Nothing more is written, but the stream is open for as long as this is.
    _writer: FrameWriter,
    /// The last batches that came, and where they begin. Kept: they may be wanted in parts.
    chunk: (Offset, ReadChunk),
}

/// Why waiting for input ended.
#[derive(Debug)]
pub enum Dry {
    /// The topic is gone.
    Deleted,
    /// The leader cannot be had; it may pass.
    Trouble(WireError),
}

impl From<WireError> for Dry {
    fn from(error: WireError) -> Dry {
        match error.code {
            ErrorCode::TopicDeleted => Dry::Deleted,
            _ => Dry::Trouble(error),
        }
    }
}

impl Source {
    /// The input; nothing is asked of anybody yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>, partition: Arc<Partition>) -> Source {
        Source { shared, partition, away: None, told: Reach::default() }
    }

    /// What can be read.
    #[must_use]
    pub fn reach(&self) -> Reach {
        match self.partition.is_at_hand() {
            true => {
                let progress = self.partition.progress_now();
                let (log_start, high_watermark) = (progress.log_start, progress.high_watermark);
                Reach { log_start, high_watermark }
            }
            false => self.told,
        }
    }

    /// Where a new lane begins.
    ///
    /// # Errors
    /// The leader elsewhere cannot be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn first_position(&self, deployment: &Deployment) -> Result<Position, WireError> {
        let reach = if self.is_elsewhere() { self.ask().await? } else { self.reach() };
        let next = match deployment.spec.from_latest {
            true => reach.high_watermark,
            false => reach.log_start,
        };
        Ok(Position { next, watermark: Watermark::START.at })
    }

    /// Whether there is something at hand at `from`; if not, [`Source::changed`] waits for it.
    #[must_use]
    pub fn has(&self, from: Offset) -> bool {
        match (&self.away, self.is_elsewhere()) {
            (_, false) => from < self.partition.progress_now().high_watermark,
            (Some(Away { chunk: (start, chunk), .. }), true) => {
                *start <= from && from < chunk.next_offset
            }
            (None, true) => false,
        }
    }

    /// Some batches that hold what comes at `from`; the first may begin before. `None` if there is
    /// nothing at hand.
    ///
    /// # Errors
    /// As the log says.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read(&mut self, from: Offset) -> Result<Option<ReadChunk>, WireError> {
        if self.is_elsewhere() {
            let away = self.away.as_ref().filter(|_| self.has(from));
            return Ok(away.map(|away| away.chunk.1.clone()));
        }
        self.away = None;
        let end = self.partition.progress_now().high_watermark;
        if from >= end {
            return Ok(None);
        }
        read(&self.shared, &self.partition, from, end).await.map(Some)
    }

    /// Waits until there may be something at `next`.
    ///
    /// # Errors
    /// [`Dry`].
    ///
    /// # Cancel safety
    /// Cancel safe: what came is kept.
    pub async fn changed(&mut self, next: Offset) -> Result<(), Dry> {
        let mut turns = self.partition.turns();
        turns.borrow_and_update();
        if self.is_elsewhere() {
            tokio::select! {
                // It may be at hand now, or led by another.
                _ = turns.changed() => {
                    self.away = None;
                    return Ok(());
                }
                heard = self.hear(next) => return heard,
            }
        }
        let mut progress = self.partition.progress();
        let now = *progress.borrow_and_update();
        if now.deleted {
            return Err(Dry::Deleted);
        }
        if now.high_watermark > next {
            return Ok(());
        }
        tokio::select! {
            _ = turns.changed() => Ok(()),
            changed = progress.changed() => match changed {
                Ok(()) if !progress.borrow().deleted => Ok(()),
                _ => Err(Dry::Deleted),
            },
        }
    }

    /// Whether what is committed has to come from elsewhere.
    fn is_elsewhere(&self) -> bool {
        self.shared.site.is_some() && !self.partition.is_at_hand()
    }

    /// The next frame from the leader, which is subscribed to if it is not yet.
    async fn hear(&mut self, next: Offset) -> Result<(), Dry> {
        if self.away.as_ref().is_none_or(|away| away.chunk.1.next_offset != next) {
            self.away = None;
            self.away = match self.subscribe(next).await {
                Ok(away) => Some(away),
                Err(error) => match (error.log_start, error.log_end) {
                    // Retention was there before: the lane says so, and goes on behind.
                    (Some(log_start), Some(high_watermark)) if next < log_start => {
                        self.told = Reach { log_start, high_watermark };
                        return Ok(());
                    }
                    _ => return Err(error.into()),
                },
            };
        }
        let Some(away) = &mut self.away else { return Ok(()) };
        let heard = frame(&mut away.reader).await;
        let heard = heard.and_then(|frame| batches(&frame, next));
        match heard {
            Ok((reach, chunk)) => {
                self.told = reach;
                away.chunk = (next, chunk);
                Ok(())
            }
            Err(error) => {
                self.away = None;
                Err(error.into())
            }
        }
    }

    async fn subscribe(&self, from: Offset) -> Result<Away, WireError> {
        let (site, leader) = self.leader()?;
        let connection = site.peers.connection(leader, Purpose::Follow).await;
        let connection = connection.map_err(|error| forward::unreachable(&error))?;
        let ask = Subscribe {
            topic: self.partition.topic,
            partition: self.partition.index,
            start: StartAt::Offset(from),
            until_end: false,
            frame_bytes_max: 0,
            nearest: false,
            filter: None,
        };
        let lost = |error: &dyn std::fmt::Display| {
            WireError::new(ErrorCode::NotLeader, format!("the way to the input was lost: {error}"))
        };
        let (mut writer, mut reader) =
            connection.open_stream().await.map_err(|error| lost(&error))?;
        let sent = writer.write(FrameKind::Subscribe as u8, 0, &[encode(&ask)?]).await;
        sent.map_err(|error| lost(&error))?;
        let frame = frame(&mut reader).await?;
        if frame.kind != FrameKind::Subscribed as u8 {
            return Err(lost(&"no answer to the subscription"));
        }
        let chunk = ReadChunk { batches: Vec::new(), next_offset: from, bytes: 0 };
        Ok(Away { reader, _writer: writer, chunk: (from, chunk) })
    }

    fn leader(&self) -> Result<(&ClusterNode, NodeId), WireError> {
        let nobody = || {
            let message = "no node that could be asked leads the input";
            WireError::new(ErrorCode::Offline, message)
        };
        let site = self.shared.site.as_ref().ok_or_else(nobody)?;
        Ok((site, site.route(&self.partition).ok_or_else(nobody)?))
    }

    /// What the leader elsewhere has.
    async fn ask(&self) -> Result<Reach, WireError> {
        let (site, leader) = self.leader()?;
        let (topic, index) = (self.partition.topic, self.partition.index);
        let ask = Request::Offsets { topic, positions: vec![(index, StartAt::Latest)] };
        match forward::request(&site.peers, leader, &ask).await? {
            Response::Offsets { offsets } if offsets.len() == 1 => Ok(Reach {
                log_start: offsets[0].log_start,
                high_watermark: offsets[0].high_watermark,
            }),
            _ => Err(WireError::new(ErrorCode::Protocol, "the leader answered another question")),
        }
    }
}

async fn frame(reader: &mut FrameReader) -> Result<Frame, WireError> {
    let lost = |what: String| {
        WireError::new(ErrorCode::NotLeader, format!("the way to the input was lost: {what}"))
    };
    let frame = timeout(limits::FORWARD_TIMEOUT, reader.next(limits::FRAME_BYTES_MAX)).await;
    let frame = frame.map_err(|_| lost("the leader was silent".to_owned()))?;
    match frame.map_err(|error| lost(error.to_string()))? {
        Some(frame) if frame.kind == FrameKind::Error as u8 => {
            Err(control::decode(&frame.body).unwrap_or_else(|error| lost(error.to_string())))
        }
        Some(frame) => Ok(frame),
        None => Err(lost("it ended".to_owned())),
    }
}

/// The batches of a frame that goes on at `from`.
fn batches(frame: &Frame, from: Offset) -> Result<(Reach, ReadChunk), WireError> {
    let malformed =
        |what: &str| WireError::new(ErrorCode::Protocol, format!("the leader sent {what}"));
    let data = [FrameKind::Data as u8, FrameKind::Heartbeat as u8].contains(&frame.kind);
    let header = DataHeader::decode(&frame.body).filter(|_| data);
    let header = header.ok_or_else(|| malformed("no batches"))?;
    if header.next_offset < from {
        return Err(malformed("what was sent before"));
    }
    let mut body = frame.body.clone();
    body.advance(DataHeader::BYTES);
    let bytes = body.len();
    let batches = split_batches(body).collect::<Result<_, _>>();
    let batches = batches.map_err(|error| malformed(&error.to_string()))?;
    let (log_start, high_watermark) = (header.log_start, header.high_watermark);
    let chunk = ReadChunk { batches, next_offset: header.next_offset, bytes };
    Ok((Reach { log_start, high_watermark }, chunk))
}
