//! The wire protocol: what is said on QUIC streams between nodes, clients and tools.
//!
//! `docs/wire.md` specifies it byte by byte. Control messages ([`message`]) are CBOR maps,
//! additive: a reader ignores fields it does not know and gives absent ones their default. Hot
//! paths ([`frame`]) are fixed binary layouts around raw record batches.

pub mod cluster;
pub mod deployments;
pub mod error;
pub mod frame;
pub mod groups;
pub mod join;
pub mod message;
pub mod replica;
pub mod status;

pub use error::{ErrorCode, Outcome, WireError};

/// The newest protocol version that this code speaks.
pub const PROTOCOL_VERSION_MAX: u16 = 1;
/// The oldest protocol version that this code speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// The ALPN name of the protocol.
pub const ALPN: &[u8] = b"weir/1";
/// The UDP port that nodes listen on unless configured.
pub const DEFAULT_PORT: u16 = 7447;

/// Chooses the version to speak with a peer that offers `min..=max`: the newest common one.
#[must_use]
pub fn choose_version(min: u16, max: u16) -> Option<u16> {
    let chosen = max.min(PROTOCOL_VERSION_MAX);
    (chosen >= min && chosen >= PROTOCOL_VERSION_MIN).then_some(chosen)
}

/// What a frame's body is; the type byte of its header.
///
/// Numbers are never reused. A reader that meets a kind it does not know ends the stream with
/// [`ErrorCode::Protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of a connection's first stream: [`message::Hello`].
    Hello = 1,
    /// Answer to `Hello`: [`message::HelloReply`].
    HelloReply = 2,
    /// The only frame a client sends on a request stream: [`message::Request`].
    Request = 3,
    /// Answer to `Request`: [`message::Response`].
    Response = 4,
    /// First frame of a produce stream: [`message::ProduceOpen`].
    ProduceOpen = 5,
    /// A batch to append: [`frame::ProduceHeader`], then the batch.
    Produce = 7,
    /// What became of appends: one or more [`frame::ProduceAck`].
    ProduceAck = 8,
    /// First frame of a subscription: [`message::Subscribe`].
    Subscribe = 9,
    /// Answer to `Subscribe`: [`message::Subscribed`].
    Subscribed = 10,
    /// Batches: [`frame::DataHeader`], then whole batches one after another.
    Data = 11,
    /// Nothing new, but alive: [`frame::DataHeader`] alone.
    Heartbeat = 12,
    /// The last frame of a stream that failed: [`WireError`].
    Error = 13,
    /// First frame of a replica's stream, from a follower's node: [`replica::FollowOpen`].
    Follow = 14,
    /// Answer to `Follow`: [`crate::partition::messages::FollowAnswer`].
    FollowAnswer = 15,
    /// What a leader pushes: [`replica::PushHeader`], then whole log entries one after another.
    Entries = 16,
    /// What a follower has on its disk: [`replica::ReportBody`].
    Report = 17,
    /// The only frame that a node sends on a stream to another's controller.
    Controller = 18,
    /// Its answer.
    ControllerAnswer = 19,
    /// The only frame on a stream that carries a part of an outbox to the node that leads its
    /// destination: [`replica::DeliverHeader`], then the batch. Answered by a
    /// [`message::Response`].
    Deliver = 20,
    /// After a [`FrameKind::FollowAnswer`] that says `reset`: part of an encoded
    /// [`PartitionView`](crate::partition::view::PartitionView), what the log begins anew with.
    Snapshot = 21,
    /// The only frame on a stream with which a node asks another for entries of a log:
    /// [`replica::FetchEntries`].
    FetchEntries = 22,
    /// Its answer: whole log entries one after another, the first of which holds the offset that
    /// was asked for.
    FetchedEntries = 23,
}

impl FrameKind {
    /// The kind of this number, if there is one.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<FrameKind> {
        use FrameKind::{
            Controller, ControllerAnswer, Data, Deliver, Entries, Error, FetchEntries,
            FetchedEntries, Follow, FollowAnswer, Heartbeat, Hello, HelloReply, Produce,
            ProduceAck, ProduceOpen, Report, Request, Response, Snapshot, Subscribe, Subscribed,
        };
        let all = [
            Hello,
            HelloReply,
            Request,
            Response,
            ProduceOpen,
            Produce,
            ProduceAck,
            Subscribe,
            Subscribed,
            Data,
            Heartbeat,
            Error,
            Follow,
            FollowAnswer,
            Entries,
            Report,
            Controller,
            ControllerAnswer,
            Deliver,
            Snapshot,
            FetchEntries,
            FetchedEntries,
        ];
        all.into_iter().find(|k| *k as u8 == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(choose_version(1, 1), Some(1));
        assert_eq!(choose_version(1, 9), Some(PROTOCOL_VERSION_MAX));
        assert_eq!(choose_version(PROTOCOL_VERSION_MAX + 1, PROTOCOL_VERSION_MAX + 1), None);
        assert_eq!(choose_version(0, 0), None);
    }
}
