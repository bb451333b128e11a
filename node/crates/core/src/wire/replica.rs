//! What nodes of a cluster say on the streams of their replicas. All numbers are little-endian.
//!
//! A follower opens one stream for each partition, with the question whether its log agrees with
//! the leader's ([`FollowOpen`]). The leader answers; where the logs agree it goes on with entries,
//! as they lie in its log, and the follower reports what of them is on its disk.

use crate::deploy::DeploymentId;
use crate::deploy::keys::Lane;
use crate::entry::{ENTRY_HEADER_BYTES, EntryError, EntryHeader, EntryKind};
use crate::ids::{Incarnation, LeaderEpoch, NodeId, Offset, PartitionId, PartitionIndex, TopicId};
use crate::partition::messages::{Follow, Push, Report};
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

/// A follower's question, and about which partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowOpen {
    /// The partition.
    pub partition: PartitionId,
    /// The question.
    pub follow: Follow,
}

/// What a node asks another for that cannot read an entry of its own copy any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchEntries {
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that it lacks. Only what is committed is given.
    pub from: Offset,
}

/// What stands before the entries of a [`super::FrameKind::Entries`] frame, which may have none.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 4 | leader epoch |
/// | 4 | 8 | the follower's life |
/// | 12 | 8 | the follower's attempt |
/// | 20 | 8 | high watermark |
/// | 28 | 8 | log start |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushHeader(pub Push);

impl PushHeader {
    /// Bytes of the encoded header.
    pub const BYTES: usize = 36;

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut out = &mut bytes[..];
        out.put_i32_le(self.0.epoch.0);
        out.put_u64_le(self.0.incarnation.0);
        out.put_u64_le(self.0.attempt);
        out.put_i64_le(self.0.high_watermark.0);
        out.put_i64_le(self.0.log_start.0);
        bytes
    }

    /// Reads the header at the front of `bytes`; `None` if they are too few or it cannot be right.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<PushHeader> {
        let push = Push {
            epoch: LeaderEpoch(bytes.try_get_i32_le().ok()?),
            incarnation: Incarnation(bytes.try_get_u64_le().ok()?),
            attempt: bytes.try_get_u64_le().ok()?,
            high_watermark: Offset(bytes.try_get_i64_le().ok()?),
            log_start: Offset(bytes.try_get_i64_le().ok()?),
        };
        let sound = push.log_start.0 >= 0 && push.log_start <= push.high_watermark;
        sound.then_some(PushHeader(push))
    }
}

/// The body of a [`super::FrameKind::Report`] frame.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 4 | leader epoch |
/// | 4 | 4 | the follower's node |
/// | 8 | 8 | its life |
/// | 16 | 8 | durable end |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportBody(pub Report);

impl ReportBody {
    /// Bytes of the encoded body.
    pub const BYTES: usize = 24;

    /// The encoded body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut out = &mut bytes[..];
        out.put_i32_le(self.0.epoch.0);
        out.put_u32_le(self.0.node.0);
        out.put_u64_le(self.0.incarnation.0);
        out.put_i64_le(self.0.durable_end.0);
        bytes
    }

    /// Reads the body; `None` if it is not one.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<ReportBody> {
        let report = Report {
            epoch: LeaderEpoch(bytes.try_get_i32_le().ok()?),
            node: NodeId(bytes.try_get_u32_le().ok()?),
            incarnation: Incarnation(bytes.try_get_u64_le().ok()?),
            durable_end: Offset(bytes.try_get_i64_le().ok()?),
        };
        (bytes.is_empty() && report.durable_end.0 >= 0).then_some(ReportBody(report))
    }
}

/// What stands before the batch of a [`super::FrameKind::Deliver`] frame: a part of a deployment's
/// outbox, on its way to the partition that it is for.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 4 | deployment |
/// | 4 | 4 | input partition (its number in storage) |
/// | 8 | 8 | offset of the part in the outbox |
/// | 16 | 4 | destination: topic |
/// | 20 | 4 | destination: partition within the topic |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverHeader {
    /// Whose outbox it is.
    pub lane: Lane,
    /// Where the part stands in it.
    pub offset: Offset,
    /// The topic it is for.
    pub topic: TopicId,
    /// And which partition of it.
    pub partition: PartitionIndex,
}

impl DeliverHeader {
    /// Bytes of the encoded header.
    pub const BYTES: usize = 24;

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut out = &mut bytes[..];
        out.put_u32_le(self.lane.deployment.0);
        out.put_u32_le(self.lane.input.0);
        out.put_i64_le(self.offset.0);
        out.put_u32_le(self.topic.0);
        out.put_u32_le(self.partition.0);
        bytes
    }

    /// Reads the header at the front of `bytes`; `None` if they are too few or it cannot be right.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<DeliverHeader> {
        let deployment = DeploymentId(bytes.try_get_u32_le().ok()?);
        let input = PartitionId(bytes.try_get_u32_le().ok()?);
        let offset = Offset(bytes.try_get_i64_le().ok()?);
        let topic = TopicId(bytes.try_get_u32_le().ok()?);
        let partition = PartitionIndex(bytes.try_get_u32_le().ok()?);
        let sound = (0..i64::MAX).contains(&offset.0);
        let lane = Lane { deployment, input };
        sound.then_some(DeliverHeader { lane, offset, topic, partition })
    }
}

/// Takes the entry at the front of `bytes`: its envelope, checked, then keyed-state section,
/// source-position section and batch, which is not looked into.
///
/// # Errors
/// [`EntryError`] if there is no whole entry, or it is not one with offsets.
pub fn split_entry(bytes: &mut Bytes) -> Result<(EntryHeader, Bytes, Bytes, Bytes), EntryError> {
    let header = EntryHeader::decode(bytes)?;
    if bytes.len() < header.entry_len() {
        return Err(EntryError::Short);
    }
    if header.kind != EntryKind::Entry {
        return Err(EntryError::Bounds);
    }
    bytes.advance(ENTRY_HEADER_BYTES);
    let state = bytes.split_to(header.state_len as usize);
    let source = bytes.split_to(header.source_len as usize);
    let batch = bytes.split_to(header.batch_len as usize);
    Ok((header, state, source, batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TimestampMs;

    /// Goal: what is encoded is decoded to the same, and what is cut short or contradicts itself is
    /// refused.
    #[test]
    fn headers() {
        let push = Push {
            epoch: LeaderEpoch(3),
            incarnation: Incarnation(9),
            attempt: 2,
            high_watermark: Offset(40),
            log_start: Offset(7),
        };
        let bytes = PushHeader(push).encode();
        assert_eq!(PushHeader::decode(&bytes), Some(PushHeader(push)));
        assert_eq!(PushHeader::decode(&bytes[1..]), None);
        let beyond = Push { log_start: Offset(41), ..push };
        assert_eq!(PushHeader::decode(&PushHeader(beyond).encode()), None);
        let report = Report {
            epoch: LeaderEpoch(3),
            node: NodeId(2),
            incarnation: Incarnation(9),
            durable_end: Offset(40),
        };
        let bytes = ReportBody(report).encode();
        assert_eq!(ReportBody::decode(&bytes), Some(ReportBody(report)));
        assert_eq!(ReportBody::decode(&bytes[..23]), None);
        let below = Report { durable_end: Offset(-1), ..report };
        assert_eq!(ReportBody::decode(&ReportBody(below).encode()), None);
    }

    /// Goal: entries come apart where they were put together; a cut or changed one is refused.
    #[test]
    fn entries() {
        let (state, batch) = (Bytes::from_static(b"state"), Bytes::from_static(b"a batch"));
        let header = EntryHeader {
            kind: EntryKind::Entry,
            partition: PartitionId(4),
            base_offset: Offset(10),
            offset_count: 2,
            epoch: LeaderEpoch(1),
            append_time: TimestampMs(5),
            state_len: state.len() as u32,
            source_len: 0,
            batch_len: batch.len() as u32,
        };
        let one = [&header.encode(&state, &[])[..], &state, &batch].concat();
        let mut two = Bytes::from([&one[..], &one[..]].concat());
        for _ in 0..2 {
            let split = split_entry(&mut two).unwrap();
            assert_eq!(split, (header.clone(), state.clone(), Bytes::new(), batch.clone()));
        }
        assert!(two.is_empty());
        for cut in [0, 47, 50, one.len() - 1] {
            assert_eq!(
                split_entry(&mut Bytes::copy_from_slice(&one[..cut])),
                Err(EntryError::Short)
            );
        }
        let mut changed = one;
        changed[49] ^= 1;
        assert_eq!(split_entry(&mut Bytes::from(changed)), Err(EntryError::Checksum));
    }
}
