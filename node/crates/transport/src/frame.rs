//! Frames: their layout, and the pure half of reading them.
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

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, WriteError};

use crate::error::ConnectionLost;

/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 8;
/// First allocation for a body, in bytes.
const BODY_STEP_BYTES: usize = 64 * 1024;

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

/// Cuts a stream of bytes into frames. Pure: what arrives is handed in.
///
/// States: between frames -> header partly here -> header known -> body partly here -> between
/// frames. A body that comes whole in one chunk is handed out as a slice of it.
#[derive(Debug)]
pub struct FrameDecoder {
    /// Arrived and not consumed.
    chunk: Bytes,
    /// The part of a header that has arrived.
    partial: [u8; HEADER_BYTES],
    partial_length: usize,
    /// A header whose body was not taken yet.
    header: Option<FrameHeader>,
    /// The part of its body that has arrived, if it did not come in one chunk.
    body: BytesMut,
    /// What may be allocated for a body before any of it arrived.
    step: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self {
            chunk: Bytes::new(),
            partial: [0; HEADER_BYTES],
            partial_length: 0,
            header: None,
            body: BytesMut::new(),
            step: BODY_STEP_BYTES,
        }
    }

    /// Allocates up to `bytes` for a body at once, on the strength of its header: for peers that
    /// are trusted with that much, and bodies that would be copied while they grow.
    pub fn expect_bodies(&mut self, bytes: usize) {
        self.step = bytes.max(BODY_STEP_BYTES);
    }

    /// Takes the next chunk of the stream.
    ///
    /// # Panics
    /// If the last chunk was not consumed: ask for headers and bodies first.
    pub fn feed(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "a chunk came before the last one was consumed");
        self.chunk = chunk;
    }

    /// Whether the last chunk is consumed, so that another one can be fed.
    pub fn is_hungry(&self) -> bool {
        self.chunk.is_empty()
    }

    /// Whether a header was read whose body was not taken.
    pub fn is_in_body(&self) -> bool {
        self.header.is_some()
    }

    /// Whether the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.chunk.is_empty() && self.partial_length == 0 && self.header.is_none()
    }

    /// The next header, or `None` until more was fed. The same one until its body was taken.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] for a body of more than `length_max` bytes and
    /// [`FrameError::NotAFrame`]. Nothing sensible follows either.
    pub fn header(&mut self, length_max: usize) -> Result<Option<FrameHeader>, FrameError> {
        if let Some(header) = self.header {
            return Ok(Some(header));
        }
        let take = self.chunk.len().min(HEADER_BYTES - self.partial_length);
        let taken = self.chunk.split_to(take);
        self.partial[self.partial_length..][..take].copy_from_slice(&taken);
        self.partial_length += take;
        if self.partial_length < HEADER_BYTES {
            return Ok(None);
        }
        let header = parse_header(self.partial, length_max)?;
        self.partial_length = 0;
        self.header = Some(header);
        Ok(Some(header))
    }

    /// The body that the header announced, or `None` until more was fed, or there is no header.
    pub fn body(&mut self) -> Option<Bytes> {
        let header = self.header?;
        if self.body.is_empty() && self.chunk.len() >= header.length {
            self.header = None;
            return Some(self.chunk.split_to(header.length));
        }
        self.body_mut().map(BytesMut::freeze)
    }

    /// Like [`FrameDecoder::body`], but in memory of its own, of its size, that may be changed.
    pub fn body_mut(&mut self) -> Option<BytesMut> {
        let header = self.header?;
        let take = self.chunk.len().min(header.length - self.body.len());
        if take > 0 {
            let arrived = self.body.len() + take;
            self.make_room(header.length, arrived, take);
            self.body.put(self.chunk.split_to(take));
        }
        if self.body.len() < header.length {
            return None;
        }
        self.header = None;
        Some(std::mem::take(&mut self.body))
    }

    /// Where the next bytes of an unfinished body may be put without another copy; `None` where
    /// a chunk has to be fed instead. Takes at least one byte, never more than is missing.
    pub fn room(&mut self) -> Option<Limit<&mut BytesMut>> {
        let header = self.header?;
        if !self.chunk.is_empty() || self.body.is_empty() || self.body.len() >= header.length {
            return None;
        }
        self.make_room(header.length, self.body.len(), 1);
        let free = self.body.capacity() - self.body.len();
        let missing = header.length - self.body.len();
        Some((&mut self.body).limit(free.min(missing)))
    }

    /// Sees to it that the body can take `least` more bytes, going by how many have arrived.
    fn make_room(&mut self, length: usize, arrived: usize, least: usize) {
        if self.body.capacity() - self.body.len() >= least {
            return;
        }
        let target = length.min(arrived.saturating_mul(4).max(self.step));
        self.body.reserve(target - self.body.len());
    }
}

/// Puts a frame's header into `target`.
pub(crate) fn put_header(target: &mut BytesMut, length: u32, kind: u8, flags: u8) {
    target.put_u32_le(length);
    target.put_u8(kind);
    target.put_u8(flags);
    target.put_u16_le(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, u32::try_from(body.len()).unwrap(), kind, flags);
        bytes.extend_from_slice(body);
        bytes.to_vec()
    }

    /// Decodes chunks as `FrameReader` does, taking bodies either way.
    fn decode(chunks: &[&[u8]], owned: bool) -> Result<Vec<(u8, u8, Vec<u8>)>, FrameError> {
        let mut decoder = FrameDecoder::new();
        let mut frames = Vec::new();
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            decoder.feed(Bytes::copy_from_slice(chunk));
            while let Some(header) = decoder.header(1 << 20)? {
                let body =
                    if owned { decoder.body_mut().map(BytesMut::freeze) } else { decoder.body() };
                let Some(body) = body else { break };
                frames.push((header.kind, header.flags, body.to_vec()));
            }
        }
        if decoder.is_between_frames() { Ok(frames) } else { Err(FrameError::Truncated) }
    }

    /// Goal: the layout is the documented one. Method: golden bytes.
    #[test]
    fn layout() {
        assert_eq!(encoded(7, 3, b"ab"), [2, 0, 0, 0, 7, 3, 0, 0, b'a', b'b']);
    }

    /// Goal: where a stream is cut into chunks does not matter. Method: every cut of three frames,
    /// and every pair of cuts.
    #[test]
    fn frames_cut_anywhere() {
        let mut stream = encoded(1, 0, b"first");
        stream.extend(encoded(2, 9, b""));
        stream.extend(encoded(3, 255, &[0xab; 40]));
        let expected =
            vec![(1, 0, b"first".to_vec()), (2, 9, Vec::new()), (3, 255, vec![0xab; 40])];
        for owned in [false, true] {
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let chunks = [&stream[..first], &stream[first..second], &stream[second..]];
                    assert_eq!(decode(&chunks, owned), Ok(expected.clone()), "{first} {second}");
                }
            }
        }
    }

    /// Goal: a stream that ends inside a frame is never taken for a whole one.
    #[test]
    fn truncation_is_noticed_everywhere() {
        let stream = encoded(1, 0, b"body");
        for end in 1..stream.len() {
            assert_eq!(decode(&[&stream[..end]], false), Err(FrameError::Truncated), "{end}");
        }
    }

    /// Goal: memory follows what arrived, not what was claimed. Method: claim the most there is,
    /// deliver in small pieces, look at the allocation after each.
    #[test]
    fn a_lying_length_allocates_nothing() {
        const CLAIM: usize = 4 << 20;
        let mut decoder = FrameDecoder::new();
        decoder.feed(Bytes::copy_from_slice(&encoded(1, 0, &vec![0; CLAIM])[..HEADER_BYTES]));
        assert!(decoder.header(CLAIM).unwrap().is_some());
        assert_eq!(decoder.body(), None);
        assert_eq!(decoder.body.capacity(), 0);
        let mut arrived = 0;
        while arrived < CLAIM {
            match decoder.room() {
                Some(mut room) => {
                    let take = room.remaining_mut().min(1_000);
                    room.put_bytes(7, take);
                    arrived += take;
                }
                None => {
                    decoder.feed(Bytes::from_static(&[7; 10]));
                    arrived += 10;
                }
            }
            let done = decoder.body_mut();
            assert_eq!(done.is_some(), arrived == CLAIM);
            let allocated = decoder.body.capacity();
            assert!(allocated <= BODY_STEP_BYTES.max(4 * arrived), "{allocated} for {arrived}");
            if let Some(body) = done {
                assert!(body.iter().all(|&byte| byte == 7));
                assert_eq!(body.len(), CLAIM);
            }
        }
    }

    /// Goal: with leave to do so, memory for a body is taken once, but never more than its length.
    #[test]
    fn an_expected_body_is_allocated_once() {
        let mut decoder = FrameDecoder::new();
        decoder.expect_bodies(300_000);
        for length in [200_000, 300_000] {
            let frame = Bytes::from(encoded(1, 0, &vec![7; length]));
            decoder.feed(frame.slice(..100));
            assert!(decoder.header(length).unwrap().is_some());
            assert_eq!(decoder.body(), None);
            assert_eq!(decoder.body.capacity(), length);
            decoder.feed(frame.slice(100..));
            assert_eq!(decoder.body().unwrap().len(), length);
        }
    }

    /// Goal: what is too large or no frame is refused by its header alone.
    #[test]
    fn bad_headers() {
        let mut decoder = FrameDecoder::new();
        decoder.feed(Bytes::from(encoded(5, 0, &[0; 11])));
        let error = FrameError::TooLarge { kind: 5, length: 11, max: 10 };
        assert_eq!(decoder.header(10), Err(error));
        for position in [6, 7] {
            let mut bytes = encoded(1, 0, b"");
            bytes[position] = 1;
            let mut decoder = FrameDecoder::new();
            decoder.feed(Bytes::from(bytes));
            assert_eq!(decoder.header(10), Err(FrameError::NotAFrame));
        }
    }

    proptest! {
        /// Goal: any frames survive any cutting, both ways of taking bodies.
        #[test]
        fn round_trip(
            frames in prop::collection::vec(
                (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            owned: bool,
        ) {
            let mut stream = Vec::new();
            for (kind, flags, body) in &frames {
                stream.extend(encoded(*kind, *flags, body));
            }
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> =
                cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks, owned), Ok(frames));
        }

        /// Goal: garbage gives frames or an error, never a panic.
        #[test]
        fn garbage(bytes in prop::collection::vec(any::<u8>(), 0..200), owned: bool) {
            let _ = decode(&[&bytes], owned);
        }
    }
}
