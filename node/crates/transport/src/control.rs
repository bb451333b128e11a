//! Control messages: CBOR (RFC 8949) of serde types, bounded in size and depth.
//!
//! CBOR names its fields, so a receiver skips those it does not know and fills in defaults for
//! those it misses: messages of neighbouring versions are understood.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_core::limits::{CONTROL_BYTES_MAX, CONTROL_DEPTH_MAX};
use weir_core::wire::{FrameKind, WireError};

use crate::connection::Connection;
use crate::error::ConnectionLost;
use crate::frame::FrameError;
use crate::stream::{FrameReader, FrameWriter};

/// Why a message could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// It is larger than a control message may be.
    #[error("the message has {0} bytes, more than a control message may have")]
    TooLarge(usize),
    /// Its type cannot be expressed in CBOR.
    #[error("the message cannot be encoded: {0}")]
    Unsupported(String),
}

/// Why a message could not be decoded. The peer is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is larger than a control message may be.
    #[error("the message has {0} bytes, more than a control message may have")]
    TooLarge(usize),
    /// It is not CBOR.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// It is CBOR, but not of the expected shape: a newer version's, perhaps.
    #[error("the message is of another shape: {0}")]
    Shape(String),
    /// It is nested deeper than is allowed.
    #[error("the message is nested too deeply")]
    TooDeep,
    /// Something follows it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request could not be encoded; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The stream failed. Whether the request was carried out is unknown.
    #[error(transparent)]
    Stream(#[from] FrameError),
    /// The response could not be understood. The request may have been carried out.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The peer answered with an error.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// A frame of another kind came. The request may have been carried out.
    #[error("a frame of kind {found} came where {expected:?} was expected")]
    UnexpectedKind {
        /// What was expected.
        expected: FrameKind,
        /// What came.
        found: u8,
    },
    /// The stream ended without a message.
    #[error("the stream ended without a message")]
    NoMessage,
}

impl RequestError {
    /// Whether the same request on a new connection may succeed.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Stream(error) => error.retryable(),
            Self::Refused(error) => error.code.retryable(),
            Self::NoMessage => true,
            Self::Encode(_) | Self::Decode(_) | Self::UnexpectedKind { .. } => false,
        }
    }
}

impl From<ConnectionLost> for RequestError {
    fn from(lost: ConnectionLost) -> Self {
        Self::Stream(lost.into())
    }
}

/// Encodes a message.
///
/// # Errors
/// [`EncodeError`]
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, EncodeError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes)
        .map_err(|error| EncodeError::Unsupported(error.to_string()))?;
    if bytes.len() > CONTROL_BYTES_MAX {
        return Err(EncodeError::TooLarge(bytes.len()));
    }
    Ok(bytes.into())
}

/// Decodes a message, all of `bytes`.
///
/// # Errors
/// [`DecodeError`]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > CONTROL_BYTES_MAX {
        return Err(DecodeError::TooLarge(bytes.len()));
    }
    let mut rest = bytes;
    let message = ciborium::de::from_reader_with_recursion_limit(&mut rest, CONTROL_DEPTH_MAX)
        .map_err(|error| match error {
            ciborium::de::Error::RecursionLimitExceeded => DecodeError::TooDeep,
            ciborium::de::Error::Semantic(_, what) => DecodeError::Shape(what),
            other => DecodeError::Malformed(other.to_string()),
        })?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// Sends `request` as a frame of `kind` on a stream of its own and waits for the reply.
///
/// # Errors
/// [`RequestError`], which says whether the request may have been carried out.
///
/// # Cancel safety
/// Dropping the future abandons the reply; the request may be carried out all the same.
pub async fn request<Req: Serialize, Reply: DeserializeOwned>(
    connection: &Connection,
    kind: FrameKind,
    request: &Req,
    reply: FrameKind,
) -> Result<Reply, RequestError> {
    let body = encode(request)?;
    let (mut writer, mut reader) = connection.open_stream().await?;
    writer.queue(kind as u8, 0, &[body])?;
    match writer.finish().await {
        // A node that refuses without reading all stops the stream, and says why on the other.
        Ok(()) | Err(FrameError::Stopped { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    receive(&mut reader, reply).await
}

/// Writes one message as a frame.
///
/// # Errors
/// [`RequestError::Encode`] or [`RequestError::Stream`].
///
/// # Cancel safety
/// As [`FrameWriter::write`].
pub async fn send<T: Serialize>(
    writer: &mut FrameWriter,
    kind: FrameKind,
    message: &T,
) -> Result<(), RequestError> {
    let body = encode(message)?;
    Ok(writer.write(kind as u8, 0, &[body]).await?)
}

/// Reads one message: a frame of `kind`.
///
/// # Errors
/// [`RequestError`]; [`RequestError::Refused`] if a frame of kind `Error` came instead.
///
/// # Cancel safety
/// Safe.
pub async fn receive<T: DeserializeOwned>(
    reader: &mut FrameReader,
    kind: FrameKind,
) -> Result<T, RequestError> {
    let frame = reader.next(CONTROL_BYTES_MAX).await?.ok_or(RequestError::NoMessage)?;
    if frame.kind == FrameKind::Error as u8 && kind != FrameKind::Error {
        return Err(RequestError::Refused(decode(&frame.body)?));
    }
    if frame.kind != kind as u8 {
        return Err(RequestError::UnexpectedKind { expected: kind, found: frame.kind });
    }
    Ok(decode(&frame.body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Message {
        name: String,
        numbers: Vec<u64>,
        #[serde(default)]
        note: Option<String>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Nested {
        Leaf,
        Node(Box<Nested>),
    }

    fn nested(depth: usize) -> Nested {
        (0..depth).fold(Nested::Leaf, |inner, _| Nested::Node(Box::new(inner)))
    }

    #[test]
    fn round_trip() {
        let message = Message { name: "a".into(), numbers: vec![1, u64::MAX], note: None };
        assert_eq!(decode::<Message>(&encode(&message).unwrap()), Ok(message));
    }

    /// Goal: neighbouring versions understand each other: unknown fields are skipped, absent ones
    /// get their default.
    #[test]
    fn additive() {
        #[derive(Serialize)]
        struct Newer {
            name: &'static str,
            numbers: Vec<u64>,
            later: Vec<&'static str>,
        }
        let bytes = encode(&Newer { name: "a", numbers: vec![], later: vec!["x"] }).unwrap();
        let expected = Message { name: "a".into(), numbers: vec![], note: None };
        assert_eq!(decode::<Message>(&bytes), Ok(expected));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = encode(&nested(CONTROL_DEPTH_MAX * 4)).unwrap();
        assert_eq!(decode::<Nested>(&deep), Err(DecodeError::TooDeep));
        let shallow = nested(4);
        assert_eq!(decode::<Nested>(&encode(&shallow).unwrap()), Ok(shallow));
    }

    #[test]
    fn size_is_bounded_both_ways() {
        let large = vec![0u8; CONTROL_BYTES_MAX];
        assert!(matches!(encode(&large), Err(EncodeError::TooLarge(_))));
        let bytes = vec![0u8; CONTROL_BYTES_MAX + 1];
        assert_eq!(decode::<u8>(&bytes), Err(DecodeError::TooLarge(CONTROL_BYTES_MAX + 1)));
    }

    #[test]
    fn nothing_may_follow() {
        let mut bytes = encode(&7u8).unwrap().to_vec();
        bytes.extend([1, 2]);
        assert_eq!(decode::<u8>(&bytes), Err(DecodeError::Trailing(2)));
    }

    /// Goal: a length that claims more than there is costs nothing and is an error.
    #[test]
    fn lying_lengths() {
        // A byte string, a text, an array and a map of 2^62 elements.
        for major in [0x5b, 0x7b, 0x9b, 0xbb] {
            let mut bytes = vec![major, 0x40, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend([0; 16]);
            assert!(decode::<Message>(&bytes).is_err());
            assert!(decode::<Vec<u64>>(&bytes).is_err());
            assert!(decode::<String>(&bytes).is_err());
        }
    }

    proptest! {
        /// Goal: garbage gives a message or an error, never a panic.
        #[test]
        fn garbage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Message>(&bytes);
            let _ = decode::<Nested>(&bytes);
        }
    }
}
