//! Why a connection ended: application close codes and what the other side is told.
//!
//! A code is stable on the wire (`docs/wire.md`); the text beside it is for people.

use std::fmt;

/// The reason one side gives when it closes a connection: the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The side that closed had nothing more to do.
    Normal,
    /// The node is stopping; another attempt may reach it when it is back.
    Shutdown,
    /// The peer sent something that the protocol does not allow.
    ProtocolError,
    /// The peer may not use this node at all.
    Unauthorized,
    /// The node has as many connections as it allows.
    TooManyConnections,
    /// The first stream did not say hello in time.
    HelloTimeout,
    /// The two sides have no protocol version in common.
    VersionMismatch,
    /// The peer kept a limit of this node exhausted for too long.
    LimitExceeded,
    /// Something failed inside the side that closed.
    Internal,
    /// A code that this version does not know.
    Other(u32),
}

impl CloseReason {
    /// The code on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Normal => 0,
            Self::Shutdown => 1,
            Self::ProtocolError => 2,
            Self::Unauthorized => 3,
            Self::TooManyConnections => 4,
            Self::HelloTimeout => 5,
            Self::VersionMismatch => 6,
            Self::LimitExceeded => 7,
            Self::Internal => 8,
            Self::Other(code) => code,
        }
    }

    /// The reason behind a code on the wire.
    pub fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Normal,
            1 => Self::Shutdown,
            2 => Self::ProtocolError,
            3 => Self::Unauthorized,
            4 => Self::TooManyConnections,
            5 => Self::HelloTimeout,
            6 => Self::VersionMismatch,
            7 => Self::LimitExceeded,
            8 => Self::Internal,
            code => Self::Other(code),
        }
    }

    /// Whether connecting again later may succeed without anybody changing anything.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::Normal | Self::Shutdown | Self::TooManyConnections | Self::LimitExceeded
        ) || matches!(self, Self::Internal | Self::HelloTimeout)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("nothing more to do"),
            Self::Shutdown => f.write_str("it is shutting down"),
            Self::ProtocolError => f.write_str("the protocol was violated"),
            Self::Unauthorized => f.write_str("not authorized"),
            Self::TooManyConnections => f.write_str("too many connections"),
            Self::HelloTimeout => f.write_str("no hello in time"),
            Self::VersionMismatch => f.write_str("no protocol version in common"),
            Self::LimitExceeded => f.write_str("a limit was exceeded"),
            Self::Internal => f.write_str("an internal error"),
            Self::Other(code) => write!(f, "unknown reason {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_maps_to_one_reason_and_back() {
        for code in 0..64 {
            assert_eq!(CloseReason::from_code(code).code(), code);
        }
        assert_eq!(CloseReason::from_code(u32::MAX), CloseReason::Other(u32::MAX));
    }
}
