//! The fixed binary layouts of the hot paths. All numbers are little-endian.

use crate::ids::{Offset, PartitionIndex, TimestampMs, TopicId};
use crate::wire::error::{ErrorCode, Outcome};
use bytes::{Buf, BufMut, BytesMut};

/// What stands before the batch in a [`super::FrameKind::Produce`] frame.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 8 | correlation, chosen by the client, ascending per stream |
/// | 8 | 4 | topic id |
/// | 12 | 4 | partition index |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceHeader {
    /// Comes back in the acknowledgement.
    pub correlation: u64,
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
}

impl ProduceHeader {
    /// Bytes of the encoded header.
    pub const BYTES: usize = 16;

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut out = &mut bytes[..];
        out.put_u64_le(self.correlation);
        out.put_u32_le(self.topic.0);
        out.put_u32_le(self.partition.0);
        bytes
    }

    /// Reads the header at the front of `bytes`; `None` if they are too few.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<ProduceHeader> {
        Some(ProduceHeader {
            correlation: bytes.try_get_u64_le().ok()?,
            topic: TopicId(bytes.try_get_u32_le().ok()?),
            partition: PartitionIndex(bytes.try_get_u32_le().ok()?),
        })
    }
}

/// How far a batch got before it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reached {
    /// Only the leader's memory: the topic's durability is relaxed.
    LeaderMemory = 1,
    /// The leader's disk.
    LeaderDisk = 2,
    /// The disks of all in-sync replicas.
    AllInSyncDisks = 3,
}

/// What became of one appended batch. A [`super::FrameKind::ProduceAck`] frame holds one or more.
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 8 | correlation |
/// | 8 | 2 | error code, 0 if appended |
/// | 10 | 1 | reached ([`Reached`]) if appended, else 0 no effect or 1 unknown |
/// | 11 | 1 | flags: bit 0, the batch was a duplicate |
/// | 12 | 4 | bytes of the error message, 0 if appended |
/// | 16 | 8 | base offset |
/// | 24 | 8 | append time, ms since the Unix epoch |
/// | 32 | | the error message, UTF-8 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceAck {
    /// The correlation of the produce frame.
    pub correlation: u64,
    /// Where it is, or why not.
    pub result: Result<Appended, ProduceRefusal>,
}

/// Where an acknowledged batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// When the leader appended it.
    pub append_time: TimestampMs,
    /// How far it got.
    pub reached: Reached,
    /// Whether it was stored by an earlier try.
    pub duplicate: bool,
}

/// Why a batch was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceRefusal {
    /// The kind of error.
    pub code: ErrorCode,
    /// Whether the batch may be in the log all the same.
    pub outcome: Outcome,
    /// For a person; at most 4 KiB, cut if longer.
    pub message: String,
}

/// Longest error message in an acknowledgement, in bytes.
const ACK_MESSAGE_BYTES_MAX: usize = 4096;

impl ProduceAck {
    /// Bytes of an acknowledgement without its message.
    pub const BYTES: usize = 32;

    /// Appends the encoded acknowledgement to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.correlation);
        match &self.result {
            Ok(appended) => {
                out.put_u16_le(0);
                out.put_u8(appended.reached as u8);
                out.put_u8(u8::from(appended.duplicate));
                out.put_u32_le(0);
                out.put_i64_le(appended.base_offset.0);
                out.put_i64_le(appended.append_time.0);
            }
            Err(refusal) => {
                let cut = refusal.message.floor_char_boundary(ACK_MESSAGE_BYTES_MAX);
                out.put_u16_le(refusal.code as u16);
                out.put_u8(u8::from(refusal.outcome == Outcome::Unknown));
                out.put_u8(0);
                out.put_u32_le(cut as u32);
                out.put_i64_le(-1);
                out.put_i64_le(0);
                out.put_slice(&refusal.message.as_bytes()[..cut]);
            }
        }
    }

    /// Reads one acknowledgement from the front of `bytes`; `None` if they are not one.
    pub fn decode(bytes: &mut impl Buf) -> Option<ProduceAck> {
        if bytes.remaining() < Self::BYTES {
            return None;
        }
        let correlation = bytes.get_u64_le();
        let code = bytes.get_u16_le();
        let reached = bytes.get_u8();
        let flags = bytes.get_u8();
        let message_len = bytes.get_u32_le() as usize;
        let base_offset = Offset(bytes.get_i64_le());
        let append_time = TimestampMs(bytes.get_i64_le());
        if code == 0 {
            let reached = match reached {
                1 => Reached::LeaderMemory,
                2 => Reached::LeaderDisk,
                3 => Reached::AllInSyncDisks,
                _ => return None,
            };
            let duplicate = flags & 1 == 1;
            let appended = Appended { base_offset, append_time, reached, duplicate };
            return Some(ProduceAck { correlation, result: Ok(appended) });
        }
        if message_len > ACK_MESSAGE_BYTES_MAX || bytes.remaining() < message_len {
            return None;
        }
        let message = bytes.copy_to_bytes(message_len);
        let refusal = ProduceRefusal {
            code: ErrorCode::from_u16(code),
            outcome: if reached == 0 { Outcome::No } else { Outcome::Unknown },
            message: String::from_utf8_lossy(&message).into_owned(),
        };
        Some(ProduceAck { correlation, result: Err(refusal) })
    }
}

/// What stands at the front of [`super::FrameKind::Data`] and [`super::FrameKind::Heartbeat`].
///
/// | at | size | field |
/// |---|---|---|
/// | 0 | 8 | high watermark |
/// | 8 | 8 | log start |
/// | 16 | 8 | the offset that the subscription goes on from after this frame |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The end of what consumers may see, when the frame was sent.
    pub high_watermark: Offset,
    /// The first retained offset, when the frame was sent.
    pub log_start: Offset,
    /// Past everything in this frame, entries without records included.
    pub next_offset: Offset,
}

impl DataHeader {
    /// Bytes of the encoded header.
    pub const BYTES: usize = 24;

    /// The encoded header.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut out = &mut bytes[..];
        out.put_i64_le(self.high_watermark.0);
        out.put_i64_le(self.log_start.0);
        out.put_i64_le(self.next_offset.0);
        bytes
    }

    /// Reads the header at the front of `bytes`; `None` if they are too few.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<DataHeader> {
        Some(DataHeader {
            high_watermark: Offset(bytes.try_get_i64_le().ok()?),
            log_start: Offset(bytes.try_get_i64_le().ok()?),
            next_offset: Offset(bytes.try_get_i64_le().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every layout survives the round trip, and no cut of one decodes.
    #[test]
    fn round_trips() {
        let produce =
            ProduceHeader { correlation: 1 << 40, topic: TopicId(3), partition: PartitionIndex(4) };
        assert_eq!(ProduceHeader::decode(&produce.encode()), Some(produce));
        assert_eq!(ProduceHeader::decode(&produce.encode()[..15]), None);
        let data =
            DataHeader { high_watermark: Offset(9), log_start: Offset(1), next_offset: Offset(7) };
        assert_eq!(DataHeader::decode(&data.encode()), Some(data));
        assert_eq!(DataHeader::decode(&data.encode()[..23]), None);
        let acks = [
            ProduceAck {
                correlation: 1,
                result: Ok(Appended {
                    base_offset: Offset(5),
                    append_time: TimestampMs(-3),
                    reached: Reached::LeaderDisk,
                    duplicate: true,
                }),
            },
            ProduceAck {
                correlation: 2,
                result: Err(ProduceRefusal {
                    code: ErrorCode::SequenceGap,
                    outcome: Outcome::Unknown,
                    message: "no".into(),
                }),
            },
        ];
        let mut out = BytesMut::new();
        acks.iter().for_each(|ack| ack.encode(&mut out));
        let bytes = out.freeze();
        let mut rest = bytes.clone();
        for ack in &acks {
            assert_eq!(ProduceAck::decode(&mut rest).as_ref(), Some(ack));
        }
        assert!(rest.is_empty());
        for cut in 0..ProduceAck::BYTES {
            assert_eq!(ProduceAck::decode(&mut bytes.slice(..cut)), None, "cut {cut}");
        }
    }

    /// Goal: a long message is cut at a character, not sent without bound.
    #[test]
    fn long_messages_are_cut() {
        let refusal = ProduceRefusal {
            code: ErrorCode::Internal,
            outcome: Outcome::No,
            message: "é".repeat(5_000),
        };
        let mut out = BytesMut::new();
        ProduceAck { correlation: 0, result: Err(refusal) }.encode(&mut out);
        assert!(out.len() <= ProduceAck::BYTES + ACK_MESSAGE_BYTES_MAX);
        let back = ProduceAck::decode(&mut out.freeze()).unwrap();
        assert!(back.result.unwrap_err().message.chars().all(|c| c == 'é'));
    }
}
