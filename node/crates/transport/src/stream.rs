//! Frames on QUIC streams: a [`FrameDecoder`] with a stream to feed it, and its counterpart.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use tokio::io::AsyncReadExt;

use crate::frame::{Frame, FrameDecoder, FrameError, FrameHeader, HEADER_BYTES, put_header};

/// Bodies up to this size are copied behind their header, to be sent as one piece.
const COALESCE_BYTES_MAX: usize = 1_024;
/// Room for headers and small frames that a writer allocates at once, in bytes.
const SCRATCH_BYTES: usize = 4 * 1_024;

/// Reads frames from a stream.
///
/// All state is kept here, so every method may be cancelled and called again.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    decoder: FrameDecoder,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: FrameDecoder::new() }
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
        loop {
            if let Some(header) = self.decoder.header(length_max)? {
                return Ok(Some(header));
            }
            if !self.fill().await? {
                let ended_properly = self.decoder.is_between_frames();
                return if ended_properly { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
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
        loop {
            if let Some(body) = self.decoder.body() {
                return Ok(body);
            }
            if !self.read_body().await? {
                return Ok(Bytes::new());
            }
        }
    }

    /// Like [`FrameReader::body`], but in memory of its own, of its size, that may be changed.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe: what has arrived is kept for the next call.
    pub async fn body_mut(&mut self) -> Result<BytesMut, FrameError> {
        loop {
            if let Some(body) = self.decoder.body_mut() {
                return Ok(body);
            }
            if !self.read_body().await? {
                return Ok(BytesMut::new());
            }
        }
    }

    /// Allocates up to `bytes` for a body at once; see [`FrameDecoder::expect_bodies`].
    pub fn expect_bodies(&mut self, bytes: usize) {
        self.decoder.expect_bodies(bytes);
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

    /// Reads more of a body; false where no header announced one.
    async fn read_body(&mut self) -> Result<bool, FrameError> {
        if !self.decoder.is_in_body() {
            return Ok(false);
        }
        let more = match self.decoder.room() {
            // Straight from the datagrams into the body.
            Some(mut room) => self.stream.read_buf(&mut room).await.map_err(from_io)? > 0,
            None => self.fill().await?,
        };
        if more { Ok(true) } else { Err(FrameError::Truncated) }
    }

    /// Waits for bytes; false where the stream ended.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        match self.stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => {
                self.decoder.feed(chunk.bytes);
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

/// Writes frames to a stream.
///
/// A frame is queued whole before anything is awaited: a cancelled write is finished by the next
/// call, so frames are never cut short or mixed. One way out of holding a frame in memory for as
/// long as the peer does not read: [`FrameWriter::withhold`] drops its end, to be supplied again
/// with [`FrameWriter::supply`].
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    /// What is still to be handed to QUIC, from `next` on.
    queue: Vec<Bytes>,
    next: usize,
    scratch: BytesMut,
    /// Bytes of the last frame that were withheld: they must come before anything else.
    withheld: usize,
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, queue: Vec::new(), next: 0, scratch: BytesMut::new(), withheld: 0 }
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
    ///
    /// # Panics
    /// If a part of the last frame is withheld.
    pub fn queue(&mut self, kind: u8, flags: u8, parts: &[Bytes]) -> Result<(), FrameError> {
        assert_eq!(self.withheld, 0, "a frame came before the last one was whole");
        let length: usize = parts.iter().map(Bytes::len).sum();
        let Ok(claimed) = u32::try_from(length) else {
            return Err(FrameError::TooLarge { kind, length, max: u32::MAX as usize });
        };
        let coalesced = length <= COALESCE_BYTES_MAX;
        let needed = HEADER_BYTES + if coalesced { length } else { 0 };
        if self.scratch.capacity() < needed {
            self.scratch.reserve(SCRATCH_BYTES);
        }
        put_header(&mut self.scratch, claimed, kind, flags);
        if coalesced {
            for part in parts {
                self.scratch.extend_from_slice(part);
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

    /// Hands to QUIC what it takes at once. Whether that was everything.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Cancel safety
    /// Safe; it never waits.
    pub async fn try_flush(&mut self) -> Result<bool, FrameError> {
        let mut flush = pin!(self.flush());
        poll_fn(|context| match flush.as_mut().poll(context) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map(|()| true)),
            Poll::Pending => Poll::Ready(Ok(false)),
        })
        .await
    }

    /// Bytes that are queued and not yet handed to QUIC.
    pub fn queued_bytes(&self) -> usize {
        self.queue[self.next..].iter().map(Bytes::len).sum()
    }

    /// Forgets all that is queued but its first `keep` bytes, which are copied, so that nothing
    /// queued holds the memory of what was written. Returns how many bytes are missing from the
    /// stream now, and must be [supplied](FrameWriter::supply).
    ///
    /// What is kept lets [`FrameWriter::flush`] wait for the peer to read again.
    pub fn withhold(&mut self, keep: usize) -> usize {
        let queued = self.queued_bytes();
        let mut kept = BytesMut::with_capacity(keep.min(queued));
        for part in &self.queue[self.next..] {
            let room = keep - kept.len();
            kept.extend_from_slice(&part[..part.len().min(room)]);
        }
        self.withheld += queued - kept.len();
        self.queue.clear();
        self.next = 0;
        if !kept.is_empty() {
            self.queue.push(kept.freeze());
        }
        self.withheld
    }

    /// Queues the next bytes of what was withheld. Bytes beyond that are refused: false.
    #[must_use]
    pub fn supply(&mut self, part: Bytes) -> bool {
        let Some(left) = self.withheld.checked_sub(part.len()) else { return false };
        self.withheld = left;
        if !part.is_empty() {
            self.queue.push(part);
        }
        true
    }

    /// Bytes that were withheld and not supplied again.
    pub fn withheld_bytes(&self) -> usize {
        self.withheld
    }

    /// Hands everything queued to QUIC and ends the stream properly.
    ///
    /// # Errors
    /// [`FrameError`]
    ///
    /// # Panics
    /// If a part of the last frame is withheld.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn finish(&mut self) -> Result<(), FrameError> {
        assert_eq!(self.withheld, 0, "the stream ended inside a frame");
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
        self.withheld = 0;
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
