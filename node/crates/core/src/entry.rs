//! Log entries: the envelope that the log keeps around each record batch.
//!
//! An entry carries, atomically: a record batch as the producer sent it (or none), changes of the
//! partition's keyed state (or none), and the position in a source partition that it was made
//! from (or none). An entry without records takes one offset, which consumers never see.
//!
//! # Layout, version 1 (little-endian)
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 1 entry, 2 log start moved, 3 truncated, 4 partition deleted |
//! | 2 | 2 | reserved, 0 |
//! | 4 | 4 | partition id |
//! | 8 | 8 | base offset; for kind 2 the new log start, for kind 3 the new log end |
//! | 16 | 4 | offsets taken (0 for kinds other than 1) |
//! | 20 | 4 | leader epoch |
//! | 24 | 8 | append time, ms since the Unix epoch |
//! | 32 | 4 | bytes of the keyed-state section |
//! | 36 | 4 | bytes of the source-position section |
//! | 40 | 4 | bytes of the record batch |
//! | 44 | 4 | CRC-32C of bytes 0..44 and of both sections |
//! | 48 | | keyed-state section, source-position section, record batch |
//!
//! The batch has a checksum of its own, over all but its base offset and leader epoch; those two
//! are repeated here under this one.

use crate::ids::{LeaderEpoch, Offset, PartitionId, TimestampMs};
use crate::limits;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The envelope version that this code writes.
pub const ENTRY_VERSION: u8 = 1;
/// Bytes of an envelope before its sections.
pub const ENTRY_HEADER_BYTES: usize = 48;

/// What an item of the log's stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Records, keyed state, a source position, or several of them.
    Entry = 1,
    /// The partition's log start moved up to the base offset.
    LogStart = 2,
    /// The partition's log was cut back so that it ends at the base offset.
    Truncate = 3,
    /// The partition was deleted; nothing of it before this item counts.
    Delete = 4,
}

/// An entry's envelope, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// What the item is.
    pub kind: EntryKind,
    /// The partition it belongs to.
    pub partition: PartitionId,
    /// The first offset it takes, or the offset that its kind speaks of.
    pub base_offset: Offset,
    /// How many offsets it takes: at least 1 for [`EntryKind::Entry`], else 0.
    pub offset_count: u32,
    /// The epoch of the leader that appended it.
    pub epoch: LeaderEpoch,
    /// When the leader appended it. Never goes back within a partition.
    pub append_time: TimestampMs,
    /// Bytes of the keyed-state section.
    pub state_len: u32,
    /// Bytes of the source-position section.
    pub source_len: u32,
    /// Bytes of the record batch.
    pub batch_len: u32,
}

impl EntryHeader {
    /// The offset after the last one that this entry takes.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.plus(self.offset_count)
    }

    /// Bytes of the whole entry.
    #[must_use]
    pub fn entry_len(&self) -> usize {
        ENTRY_HEADER_BYTES
            + self.state_len as usize
            + self.source_len as usize
            + self.batch_len as usize
    }

    /// Where the record batch begins within the entry.
    #[must_use]
    pub fn batch_at(&self) -> usize {
        ENTRY_HEADER_BYTES + self.state_len as usize + self.source_len as usize
    }

    /// The 48 bytes of the envelope. `state` and `source` must be the sections that follow it:
    /// they are under the checksum.
    ///
    /// # Panics
    /// If the sections' lengths are not those that the header names: a bug of the caller.
    #[must_use]
    pub fn encode(&self, state: &[u8], source: &[u8]) -> [u8; ENTRY_HEADER_BYTES] {
        assert_eq!(state.len(), self.state_len as usize, "state section length");
        assert_eq!(source.len(), self.source_len as usize, "source section length");
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_u8(ENTRY_VERSION);
        out.put_u8(self.kind as u8);
        out.put_u16_le(0);
        out.put_u32_le(self.partition.0);
        out.put_i64_le(self.base_offset.0);
        out.put_u32_le(self.offset_count);
        out.put_i32_le(self.epoch.0);
        out.put_i64_le(self.append_time.0);
        out.put_u32_le(self.state_len);
        out.put_u32_le(self.source_len);
        out.put_u32_le(self.batch_len);
        let crc = sections_crc(&bytes[..44], state, source);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the envelope at the start of `bytes`, which must hold the header and both sections
    /// (the batch may be missing), and checks its checksum and bounds.
    ///
    /// # Errors
    /// [`EntryError`] for anything that this version did not write.
    pub fn decode(bytes: &[u8]) -> Result<EntryHeader, EntryError> {
        let header = EntryHeader::decode_unchecked(bytes)?;
        let sections = bytes.get(ENTRY_HEADER_BYTES..header.batch_at()).ok_or(EntryError::Short)?;
        let (state, source) = sections.split_at(header.state_len as usize);
        let stored = u32::from_le_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]);
        if sections_crc(&bytes[..44], state, source) != stored {
            return Err(EntryError::Checksum);
        }
        Ok(header)
    }

    /// As [`EntryHeader::decode`] but without the checksum, for when the sections are not at hand
    /// yet and their lengths are wanted. Bounds are checked.
    ///
    /// # Errors
    /// [`EntryError`], except `Checksum`.
    pub fn decode_unchecked(bytes: &[u8]) -> Result<EntryHeader, EntryError> {
        let mut at = bytes.get(..ENTRY_HEADER_BYTES).ok_or(EntryError::Short)?;
        let version = at.get_u8();
        if version != ENTRY_VERSION {
            return Err(EntryError::Version(version));
        }
        let kind = match at.get_u8() {
            1 => EntryKind::Entry,
            2 => EntryKind::LogStart,
            3 => EntryKind::Truncate,
            4 => EntryKind::Delete,
            other => return Err(EntryError::Kind(other)),
        };
        at.advance(2);
        let header = EntryHeader {
            kind,
            partition: PartitionId(at.get_u32_le()),
            base_offset: Offset(at.get_i64_le()),
            offset_count: at.get_u32_le(),
            epoch: LeaderEpoch(at.get_i32_le()),
            append_time: TimestampMs(at.get_i64_le()),
            state_len: at.get_u32_le(),
            source_len: at.get_u32_le(),
            batch_len: at.get_u32_le(),
        };
        header.check_bounds()?;
        Ok(header)
    }

    fn check_bounds(&self) -> Result<(), EntryError> {
        let taken_fits = match self.kind {
            EntryKind::Entry => (1..=limits::BATCH_RECORDS_MAX as u32).contains(&self.offset_count),
            _ => self.offset_count == 0 && self.batch_len == 0 && self.state_len == 0,
        };
        let bounded = self.base_offset.0 >= 0
            && self.base_offset.0 < i64::MAX - limits::BATCH_RECORDS_MAX as i64
            && self.state_len as usize <= limits::STATE_BYTES_MAX
            && self.source_len as usize <= limits::CONTROL_BYTES_MAX
            && self.batch_len as usize <= limits::BATCH_BYTES_MAX;
        if taken_fits && bounded { Ok(()) } else { Err(EntryError::Bounds) }
    }
}

/// Why bytes are not a log entry of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Fewer bytes than the entry says it has.
    #[error("the entry is cut short")]
    Short,
    /// A version that this code does not know.
    #[error("entry version {0} is not known to this version of weir")]
    Version(u8),
    /// A kind that this code does not know.
    #[error("entry kind {0} is not known to this version of weir")]
    Kind(u8),
    /// The checksum does not fit.
    #[error("the entry's checksum does not fit its bytes")]
    Checksum,
    /// A length or offset outside its limits.
    #[error("a length or offset of the entry is out of bounds")]
    Bounds,
}

fn sections_crc(header: &[u8], state: &[u8], source: &[u8]) -> u32 {
    let crc = crc32c::crc32c(header);
    let crc = crc32c::crc32c_append(crc, state);
    crc32c::crc32c_append(crc, source)
}

/// One change of a partition's keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The key; at most [`limits::STATE_KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// The new value, or `None` to delete the key.
    pub value: Option<Bytes>,
}

/// Encodes a keyed-state section: per change a `u32` key length, a `u32` value length
/// (`u32::MAX`: delete), the key, the value. All little-endian.
#[must_use]
pub fn encode_state(changes: &[StateChange]) -> Bytes {
    let mut out = BytesMut::new();
    for change in changes {
        out.put_u32_le(change.key.len() as u32);
        out.put_u32_le(change.value.as_ref().map_or(u32::MAX, |v| v.len() as u32));
        out.put_slice(&change.key);
        if let Some(value) = &change.value {
            out.put_slice(value);
        }
    }
    out.freeze()
}

/// Decodes a keyed-state section. Keys and values share `section`'s memory.
///
/// # Errors
/// [`EntryError::Short`] or [`EntryError::Bounds`].
pub fn decode_state(section: &Bytes) -> Result<Vec<StateChange>, EntryError> {
    let mut rest = section.clone();
    let mut changes = Vec::new();
    while rest.has_remaining() {
        if rest.remaining() < 8 {
            return Err(EntryError::Short);
        }
        let key_len = rest.get_u32_le() as usize;
        let value_len = rest.get_u32_le();
        if key_len > limits::STATE_KEY_BYTES_MAX {
            return Err(EntryError::Bounds);
        }
        if rest.remaining() < key_len {
            return Err(EntryError::Short);
        }
        let key = rest.split_to(key_len);
        let value = match value_len {
            u32::MAX => None,
            len if len as usize > limits::STATE_VALUE_BYTES_MAX => return Err(EntryError::Bounds),
            len if rest.remaining() < len as usize => return Err(EntryError::Short),
            len => Some(rest.split_to(len as usize)),
        };
        changes.push(StateChange { key, value });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(state: &[u8]) -> EntryHeader {
        EntryHeader {
            kind: EntryKind::Entry,
            partition: PartitionId(7),
            base_offset: Offset(41),
            offset_count: 3,
            epoch: LeaderEpoch(2),
            append_time: TimestampMs(1_700_000_000_123),
            state_len: state.len() as u32,
            source_len: 0,
            batch_len: 100,
        }
    }

    /// Goal: an envelope survives the round trip, and a change of any of its bytes is seen.
    #[test]
    fn round_trip_and_every_flipped_bit_is_refused() {
        let state = encode_state(&[
            StateChange { key: Bytes::from_static(b"a"), value: Some(Bytes::from_static(b"1")) },
            StateChange { key: Bytes::from_static(b"b"), value: None },
        ]);
        let header = header(&state);
        let mut bytes = header.encode(&state, b"").to_vec();
        bytes.extend_from_slice(&state);
        assert_eq!(EntryHeader::decode(&bytes), Ok(header));
        assert_eq!(decode_state(&state).unwrap().len(), 2);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(EntryHeader::decode(&flipped).is_err(), "bit {bit} went unseen");
        }
    }

    /// Goal: no prefix of a valid section decodes to something else than an error or fewer whole
    /// changes, and none panics.
    #[test]
    fn cut_state_sections_are_refused() {
        let section = encode_state(&[StateChange {
            key: Bytes::from_static(b"key"),
            value: Some(Bytes::from_static(b"value")),
        }]);
        for cut in 1..section.len() {
            assert_eq!(decode_state(&section.slice(..cut)), Err(EntryError::Short), "cut {cut}");
        }
    }
}
