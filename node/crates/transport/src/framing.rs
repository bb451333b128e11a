//! Frames on a stream.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the body in bytes, little endian
//!      4     1  kind; its meaning is the protocol's
//!      5     1  flags; theirs too
//!      6     2  reserved, 0
//!      8     n  body
//! ```
//!
//! A length is a claim. The caller states the most it takes before the body is read, and memory
//! is allocated for bytes that arrived, in steps of at most four times what is there already:
//! a peer that claims 4 MiB and sends nothing costs nothing. What is not read stays with the peer
//! (QUIC flow control).

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::AsyncReadExt;

use crate::error::ConnectionLost;

/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 8;
/// First allocation for a body, in bytes.
const BODY_STEP_BYTES: usize = 64 * 1024;
/// Bodies up to this size are copied behind their header, to be sent as one piece.
const COALESCE_BYTES_MAX: usize = 1_024;
/// Room for headers and small frames that a writer allocates at once, in bytes.
const SCRATCH_BYTES: usize = 4 * 1_024;

/// What precedes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Length of the body, in bytes.
    pub length: usize,
    /// What the frame is.
    pub kind: u8,
    /// Details of the kind.
    pub flags: u8,
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is.
    pub kind: u8,
    /// Details of the kind.
    pub flags: u8,
    /// Its body.
    pub body: Bytes,
}

/// Why a frame could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer announced a frame larger than is allowed here.
    #[error("a frame of kind {kind} and {length} bytes came where {max} are allowed")]
    TooLarge {
        /// What it was to be.
        kind: u8,
        /// Length of its body as announced, in bytes.
        length: usize,
        /// What is allowed here, in bytes.
        max: usize,
    },
    /// The reserved bytes of a header are not zero: another protocol, or out of step.
    #[error("the stream holds something that is not a frame")]
    NotAFrame,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The peer gave up sending.
    #[error("the peer broke the stream off with code {code}")]
    Reset {
        /// The code that it gave.
        code: u64,
    },
    /// The peer does not want to receive more.
    #[error("the peer stopped the stream with code {code}")]
    Stopped {
        /// The code that it gave.
        code: u64,
    },
    /// This side ended the stream already.
    #[error("the stream was ended on this side")]
    Ended,
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] ConnectionLost),
}

impl FrameError {
    /// Whether the same on a new connection may succeed.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Lost(lost) => lost.retryable(),
            Self::Truncated | Self::Reset { .. } | Self::Stopped { .. } => true,
            Self::TooLarge { .. } | Self::NotAFrame | Self::Ended => false,
        }
    }

    /// Whether the peer broke the protocol, which ends its connection.
    pub fn is_protocol_error(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::NotAFrame | Self::Truncated)
    }
}

impl From<ReadError> for FrameError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset { code: code.into_inner() },
            ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Ended,
        }
    }
}

impl From<WriteError> for FrameError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped { code: code.into_inner() },
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Ended,
        }
    }
}

/// Reads frames from a stream.
///
/// All state is kept here, so every method may be cancelled and called again.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    /// Arrived and not consumed.
    chunk: Bytes,
    /// The part of a header that has arrived.
    partial: [u8; HEADER_BYTES],
    partial_length: usize,
    /// A header whose body was not taken yet.
    header: Option<FrameHeader>,
    /// The part of its body that has arrived.
    body: BytesMut,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            chunk: Bytes::new(),
            partial: [0; HEADER_BYTES],
            partial_length: 0,
            header: None,
            body: BytesMut::new(),
        }
    }

    /// Reads the next frame; `None` where the stream ended properly.
    ///
    /// # Errors
    /// [`FrameError`]; [`FrameError::TooLarge`] for a body of more than `length_max` bytes.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self, length_max: usize) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.next_header(length_max).await? else {
            return Ok(None);
        };
        let body = self.body().await?;
        Ok(Some(Frame { kind: header.kind, flags: header.flags, body }))
    }

    /// Reads the next header; `None` where the stream ended properly.
    ///
    /// Until its body was taken, the same header is returned again. Between the two the caller
    /// reserves the memory that the body will take.
    ///
    /// # Errors
    /// [`FrameError`]; [`FrameError::TooLarge`] for a body of more than `length_max` bytes.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next_header(
        &mut self,
        length_max: usize,
    ) -> Result<Option<FrameHeader>, FrameError> {
        if let Some(header) = self.header {
            return Ok(Some(header));
        }
        while self.partial_length < HEADER_BYTES {
            if self.chunk.is_empty() && !self.fill().await? {
                let ended_properly = self.partial_length == 0;
                return if ended_properly { Ok(None) } else { Err(FrameError::Truncated) };
            }
            let take = self.chunk.len().min(HEADER_BYTES - self.partial_length);
            let taken = self.chunk.split_to(take);
            self.partial[self.partial_length..][..take].copy_from_slice(&taken);
            self.partial_length += take;
        }
        let header = parse_header(self.partial, length_max)?;
        self.partial_length = 0;
        self.header = Some(header);
        Ok(Some(header))
    }

    /// Reads the body that the last header announced; empty if there is no such header.
    ///
    /// A body that arrived in one piece is a slice of the datagrams it came in, which may hold up
    /// to 64 KiB in memory: copy what is kept for long, or use [`FrameReader::body_mut`].
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe: what has arrived is kept for the next call.
    pub async fn body(&mut self) -> Result<Bytes, FrameError> {
        let Some(header) = self.header else {
            return Ok(Bytes::new());
        };
        if self.body.is_empty() {
            if self.chunk.is_empty() && header.length > 0 && !self.fill().await? {
                return Err(FrameError::Truncated);
            }
            if self.chunk.len() >= header.length {
                self.header = None;
                return Ok(self.chunk.split_to(header.length));
            }
        }
        self.assemble(header.length).await?;
        self.header = None;
        Ok(std::mem::take(&mut self.body).freeze())
    }

    /// Like [`FrameReader::body`], but in memory of its own, of its size, that may be changed.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe: what has arrived is kept for the next call.
    pub async fn body_mut(&mut self) -> Result<BytesMut, FrameError> {
        let Some(header) = self.header else {
            return Ok(BytesMut::new());
        };
        self.assemble(header.length).await?;
        self.header = None;
        Ok(std::mem::take(&mut self.body))
    }

    /// Tells the peer to stop sending; nothing more will be read.
    pub fn stop(&mut self, code: u32) {
        // Fails only where the stream has ended anyway.
        let _ = self.stream.stop(VarInt::from_u32(code));
    }

    /// Number of this stream on its connection.
    pub fn id(&self) -> u64 {
        self.stream.id().into()
    }

    /// Reads until `self.body` holds `length` bytes.
    async fn assemble(&mut self, length: usize) -> Result<(), FrameError> {
        while self.body.len() < length {
            let missing = length - self.body.len();
            if self.body.capacity() == self.body.len() {
                let arrived = self.body.len() + self.chunk.len().min(missing);
                let step = BODY_STEP_BYTES.max(3 * arrived);
                self.body.reserve(missing.min(step));
            }
            if !self.chunk.is_empty() {
                let take = self.chunk.len().min(missing);
                self.body.put(self.chunk.split_to(take));
                continue;
            }
            let room = missing.min(self.body.capacity() - self.body.len());
            let mut target = (&mut self.body).limit(room);
            if self.stream.read_buf(&mut target).await.map_err(from_io)? == 0 {
                return Err(FrameError::Truncated);
            }
        }
        Ok(())
    }

    /// Waits for bytes; false where the stream ended.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        match self.stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => {
                self.chunk = chunk.bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// quinn wraps its own error where a stream is used through tokio's traits.
fn from_io(error: std::io::Error) -> FrameError {
    match error.into_inner().map(|inner| inner.downcast::<ReadError>()) {
        Some(Ok(error)) => (*error).into(),
        _ => FrameError::Ended,
    }
}

fn parse_header(bytes: [u8; HEADER_BYTES], length_max: usize) -> Result<FrameHeader, FrameError> {
    let [l0, l1, l2, l3, kind, flags, r0, r1] = bytes;
    if (r0, r1) != (0, 0) {
        return Err(FrameError::NotAFrame);
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > length_max {
        return Err(FrameError::TooLarge { kind, length, max: length_max });
    }
    Ok(FrameHeader { length, kind, flags })
}

/// Writes frames to a stream.
///
/// A frame is queued whole before anything is awaited: a cancelled write is finished by the next
/// call, so frames are never cut short or mixed.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    /// What is still to be handed to QUIC, from `next` on.
    queue: Vec<Bytes>,
    next: usize,
    scratch: BytesMut,
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, queue: Vec::new(), next: 0, scratch: BytesMut::new() }
    }

    /// Writes a frame whose body is `parts`, one after the other.
    ///
    /// Returns when QUIC has taken it, which flow control may delay for as long as the peer does
    /// not read. The parts are shared with QUIC until the peer acknowledged them, not copied.
    ///
    /// # Errors
    /// [`FrameError`]; [`FrameError::TooLarge`] if the parts together pass 4 GiB.
    ///
    /// # Cancel safety
    /// The frame is queued at the first poll. Dropping the future leaves the rest of it for the
    /// next call of [`FrameWriter::write`], [`FrameWriter::flush`] or [`FrameWriter::finish`].
    pub async fn write(&mut self, kind: u8, flags: u8, parts: &[Bytes]) -> Result<(), FrameError> {
        self.queue(kind, flags, parts)?;
        self.flush().await
    }

    /// Queues a frame without handing it to QUIC, to send several at once.
    ///
    /// The queue has no bound of its own: the caller flushes after what it wants sent together.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] if the parts together pass 4 GiB.
    pub fn queue(&mut self, kind: u8, flags: u8, parts: &[Bytes]) -> Result<(), FrameError> {
        let length: usize = parts.iter().map(Bytes::len).sum();
        let Ok(claimed) = u32::try_from(length) else {
            return Err(FrameError::TooLarge { kind, length, max: u32::MAX as usize });
        };
        let coalesced = length <= COALESCE_BYTES_MAX;
        let needed = HEADER_BYTES + if coalesced { length } else { 0 };
        if self.scratch.capacity() < needed {
            self.scratch.reserve(SCRATCH_BYTES);
        }
        self.scratch.put_u32_le(claimed);
        self.scratch.put_u8(kind);
        self.scratch.put_u8(flags);
        self.scratch.put_u16_le(0);
        if coalesced {
            for part in parts {
                self.scratch.put_slice(part);
            }
        }
        self.queue.push(self.scratch.split().freeze());
        if !coalesced {
            self.queue.extend(parts.iter().filter(|part| !part.is_empty()).cloned());
        }
        Ok(())
    }

    /// Hands everything queued to QUIC.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe: the next call goes on where this one stopped.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        while self.next < self.queue.len() {
            let written = self.stream.write_chunks(&mut self.queue[self.next..]).await?;
            self.next += written.chunks;
        }
        self.queue.clear();
        self.next = 0;
        Ok(())
    }

    /// Hands everything queued to QUIC and ends the stream properly.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        self.flush().await?;
        self.stream.finish().map_err(|_| FrameError::Ended)
    }

    /// Waits until the peer has received everything up to the end, or does not want it.
    ///
    /// # Errors
    /// [`FrameError::Stopped`] if the peer does not want it, [`FrameError::Lost`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn delivered(&mut self) -> Result<(), FrameError> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(FrameError::Stopped { code: code.into_inner() }),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(FrameError::Lost(error.into())),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(FrameError::Ended),
        }
    }

    /// Breaks the stream off: what the peer has not received is lost.
    pub fn reset(&mut self, code: u32) {
        self.queue.clear();
        self.next = 0;
        // Fails only where the stream has ended anyway.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Prefers this stream over those with a lower priority when the link is full; 0 at first.
    pub fn set_priority(&self, priority: i32) {
        // Fails only where the stream has ended anyway.
        let _ = self.stream.set_priority(priority);
    }

    /// Number of this stream on its connection.
    pub fn id(&self) -> u64 {
        self.stream.id().into()
    }
}
