//! How deployments share the keyed state of a partition.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `0xD0`: keys of deployments |
//! | 4 | the deployment's id, big-endian |
//! | 4 | the input partition's id, big-endian |
//! | 1 | what follows: 0 position, 1 mark, 2 the module's own key, 3 given up |
//! | any | the module's key |
//!
//! The values of a position and of a mark are an `i64`, little-endian: the offset to go on from,
//! in the input partition or in the deployment's own. The value of *given up* is the offsets of
//! inputs that were written to the dead-letter topic: an `i64` (little-endian), then the distance
//! of each to the one before as a LEB128 number, ascending.

use super::DeploymentId;
use crate::entry::StateChange;
use crate::ids::{Offset, PartitionId};
use bytes::{BufMut, Bytes, BytesMut};

const DEPLOYMENTS: u8 = 0xD0;
const POSITION: u8 = 0;
const MARK: u8 = 1;
const OWN: u8 = 2;
const DEAD: u8 = 3;
/// Bytes of a key before the module's own part.
pub const PREFIX_BYTES: usize = 10;

/// The part of a deployment that works on one input partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The input partition, by its number in storage.
    pub input: PartitionId,
}

/// What a key of a deployment means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The offset of the next input.
    Position,
    /// The offset, in the deployment's own partition, of the next part to append here.
    Mark,
    /// A key of the module's.
    Own(Bytes),
    /// The inputs that were given up.
    Dead,
}

impl Lane {
    fn prefix(self, kind: u8, more: usize) -> BytesMut {
        let mut key = BytesMut::with_capacity(PREFIX_BYTES + more);
        key.put_u8(DEPLOYMENTS);
        key.put_u32(self.deployment.0);
        key.put_u32(self.input.0);
        key.put_u8(kind);
        key
    }

    /// Sets the position: the offset of the next input.
    #[must_use]
    pub fn set_position(self, next: Offset) -> StateChange {
        StateChange { key: self.prefix(POSITION, 0).freeze(), value: Some(offset(next)) }
    }

    /// Sets the mark: the offset, in the deployment's own partition, of the next part.
    #[must_use]
    pub fn set_mark(self, next: Offset) -> StateChange {
        StateChange { key: self.prefix(MARK, 0).freeze(), value: Some(offset(next)) }
    }

    /// Sets the inputs that were given up, ascending; none deletes the key.
    #[must_use]
    pub fn set_dead(self, offsets: &[Offset]) -> StateChange {
        let key = self.prefix(DEAD, 0).freeze();
        let Some(first) = offsets.first() else { return StateChange { key, value: None } };
        let mut value = BytesMut::with_capacity(8 + 2 * offsets.len());
        value.put_i64_le(first.0);
        for pair in offsets.windows(2) {
            let mut distance = pair[1].since(pair[0]);
            while distance >= 0x80 {
                value.put_u8(distance as u8 | 0x80);
                distance >>= 7;
            }
            value.put_u8(distance as u8);
        }
        StateChange { key, value: Some(value.freeze()) }
    }

    /// The key under which a key of the module's is kept.
    #[must_use]
    pub fn own(self, key: &[u8]) -> Bytes {
        let mut whole = self.prefix(OWN, key.len());
        whole.put_slice(key);
        whole.freeze()
    }
}

/// Reads a key of a partition's keyed state; `None` if it is none of a deployment's.
#[must_use]
pub fn read(key: &Bytes) -> Option<(Lane, Meaning)> {
    let (head, _) = key.split_at_checked(PREFIX_BYTES)?;
    if head[0] != DEPLOYMENTS {
        return None;
    }
    let number =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let lane = Lane { deployment: DeploymentId(number(1)), input: PartitionId(number(5)) };
    let meaning = match head[9] {
        POSITION => Meaning::Position,
        MARK => Meaning::Mark,
        OWN => Meaning::Own(key.slice(PREFIX_BYTES..)),
        DEAD => Meaning::Dead,
        _ => return None,
    };
    Some((lane, meaning))
}

/// Reads the value of a position or a mark.
#[must_use]
pub fn read_offset(value: &[u8]) -> Option<Offset> {
    Some(Offset(i64::from_le_bytes(value.try_into().ok()?)))
}

/// Reads the value of *given up*. `None` for what [`Lane::set_dead`] did not write.
#[must_use]
pub fn read_dead(value: &[u8]) -> Option<Vec<Offset>> {
    let (first, rest) = value.split_first_chunk::<8>()?;
    let mut last = i64::from_le_bytes(*first);
    let mut offsets = vec![Offset(last)];
    let (mut distance, mut shift) = (0_u64, 0);
    for byte in rest {
        if shift > 56 {
            return None;
        }
        distance |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            last = last.checked_add_unsigned(distance).filter(|_| distance > 0)?;
            offsets.push(Offset(last));
            (distance, shift) = (0, 0);
        }
    }
    (shift == 0).then_some(offsets)
}

fn offset(offset: Offset) -> Bytes {
    Bytes::copy_from_slice(&offset.0.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every key reads back as what it was made for, and no other key is taken for one.
    #[test]
    fn keys() {
        let lane = Lane { deployment: DeploymentId(7), input: PartitionId(300) };
        let position = lane.set_position(Offset(42));
        assert_eq!(read(&position.key), Some((lane, Meaning::Position)));
        assert_eq!(read_offset(&position.value.unwrap()), Some(Offset(42)));
        assert_eq!(read(&lane.set_mark(Offset(1)).key), Some((lane, Meaning::Mark)));
        let own = lane.own(b"bus/7");
        assert_eq!(read(&own), Some((lane, Meaning::Own(Bytes::from_static(b"bus/7")))));
        assert_eq!(read(&Bytes::from_static(b"app\0\0\0\0\x01\0\0\0\x02")), None);
        assert_eq!(read(&own.slice(..PREFIX_BYTES - 1)), None);
        assert_eq!(read_offset(b"short"), None);
    }

    /// Goal: offsets that were given up read back; cut or descending ones are refused.
    #[test]
    fn dead() {
        let lane = Lane { deployment: DeploymentId(7), input: PartitionId(300) };
        assert_eq!(lane.set_dead(&[]).value, None);
        let offsets = [0, 1, 2, 200, 20_000, i64::MAX - 1].map(Offset);
        let change = lane.set_dead(&offsets);
        assert_eq!(read(&change.key), Some((lane, Meaning::Dead)));
        let value = change.value.unwrap();
        assert_eq!(read_dead(&value).unwrap(), offsets);
        assert_eq!(read_dead(&value[..value.len() - 1]), None);
        assert_eq!(read_dead(&[0; 9]), None);
        assert_eq!(read_dead(&[0xFF; 30]), None);
    }
}
