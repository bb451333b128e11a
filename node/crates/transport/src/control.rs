//! Control messages: CBOR (RFC 8949) of serde types, bounded in size and depth.
//!
//! CBOR names its fields, so a receiver skips those it does not know and fills in defaults for
//! those it misses: messages of neighbouring versions are understood.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_core::limits::{CONTROL_BYTES_MAX, CONTROL_DEPTH_MAX};

use crate::connection::Connection;
use crate::error::ConnectionLost;
use crate::framing::{FrameError, FrameReader, FrameWriter};

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
    /// It is not CBOR, or not of the expected shape.
    #[error("the message is malformed: {0}")]
    Malformed(String),
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
    /// A frame of another kind came. The request may have been carried out.
    #[error("a frame of kind {found} came where one of kind {expected} was expected")]
    UnexpectedKind {
        /// What was expected.
        expected: u8,
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
            other => DecodeError::Malformed(other.to_string()),
        })?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// Sends a request on a stream of its own and waits for the response, a frame of the same kind.
///
/// # Errors
/// [`RequestError`], which says whether the request may have been carried out.
///
/// # Cancel safety
/// Dropping the future abandons the response; the request may be carried out all the same.
pub async fn request<Req: Serialize, Resp: DeserializeOwned>(
    connection: &Connection,
    kind: u8,
    request: &Req,
) -> Result<Resp, RequestError> {
    let body = encode(request)?;
    let (mut writer, mut reader) = connection.open_stream().await?;
    writer.write(kind, 0, &[body]).await?;
    writer.finish().await?;
    receive(&mut reader, kind).await
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
    kind: u8,
    message: &T,
) -> Result<(), RequestError> {
    let body = encode(message)?;
    Ok(writer.write(kind, 0, &[body]).await?)
}

/// Reads one message: a frame of the stated kind.
///
/// # Errors
/// [`RequestError`]
///
/// # Cancel safety
/// Safe.
pub async fn receive<T: DeserializeOwned>(
    reader: &mut FrameReader,
    kind: u8,
) -> Result<T, RequestError> {
    let frame = reader.next(CONTROL_BYTES_MAX).await?.ok_or(RequestError::NoMessage)?;
    if frame.kind != kind {
        return Err(RequestError::UnexpectedKind { expected: kind, found: frame.kind });
    }
    Ok(decode(&frame.body)?)
}
