//! How deployments share the keyed state of a partition.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `0xD0`: keys of deployments |
//! | 4 | the deployment's id, big-endian |
//! | 4 | the input partition's id, big-endian |
//! | 1 | 0 position, 1 mark, 2 a key of the module's, 3 a timer, 4 which version, 5 a snapshot |
//! | any | the module's key, or the timer's |
//!
//! A snapshot's part has two more bytes before the key: the snapshot's slot, and 0 for its head, 2
//! for a key of the module's, 3 for a timer.
//!
//! Values are little-endian. A position is the offset of the next input and the watermark before
//! it, both `i64`; a mark is the offset, in the outbox, of the next part (`i64`); a timer is its
//! time in milliseconds since the Unix epoch (`i64`). Which version: the number of the takeover and
//! of the state's layout, both `u32`, and `NAME@VERSION`. A snapshot's head: a position and then
//! which version; its other parts are as they are outside of one.

use super::DeploymentId;
use crate::entry::StateChange;
use crate::ids::{Offset, PartitionId, TimestampMs};
use crate::limits;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const DEPLOYMENTS: u8 = 0xD0;
const POSITION: u8 = 0;
const MARK: u8 = 1;
const OWN: u8 = 2;
const TIMER: u8 = 3;
const RUNS: u8 = 4;
const KEPT: u8 = 5;
/// Bytes of a key before the module's own part.
pub const PREFIX_BYTES: usize = 10;

const _: () =
    assert!(limits::MODULE_KEY_BYTES_MAX + PREFIX_BYTES + 2 <= limits::STATE_KEY_BYTES_MAX);

/// The part of a deployment that works on one input partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The input partition, by its number in storage.
    pub input: PartitionId,
}

/// How far a lane is in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset of the next input.
    pub next: Offset,
    /// Where the watermark stands before it.
    pub watermark: TimestampMs,
}

/// What a key of a deployment means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// How far the lane is.
    Position,
    /// The offset, in the outbox, of the next part to append here.
    Mark,
    /// A key of the module's.
    Own(Bytes),
    /// The timer of this key.
    Timer(Bytes),
    /// Which version the state is of.
    Runs,
    /// A part of the snapshot in this slot.
    Kept(u8, KeptPart),
}

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptPart {
    /// Where and of which version it was taken.
    Head,
    /// A key of the module's.
    Own(Bytes),
    /// The timer of this key.
    Timer(Bytes),
}

/// Which version a lane's state is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// The number of the takeover in which it came.
    pub takeover: u32,
    /// The number of the state's layout.
    pub schema: u32,
    /// `NAME@VERSION`.
    pub module: String,
}

impl Lane {
    fn key(self, kind: u8, own: &[u8]) -> Bytes {
        let mut key = BytesMut::with_capacity(PREFIX_BYTES + own.len());
        key.put_u8(DEPLOYMENTS);
        key.put_u32(self.deployment.0);
        key.put_u32(self.input.0);
        key.put_u8(kind);
        key.put_slice(own);
        key.freeze()
    }

    /// Sets the position.
    #[must_use]
    pub fn set_position(self, position: Position) -> StateChange {
        let mut value = BytesMut::with_capacity(16);
        value.put_i64_le(position.next.0);
        value.put_i64_le(position.watermark.0);
        StateChange { key: self.key(POSITION, b""), value: Some(value.freeze()) }
    }

    /// Sets the mark: the offset, in the outbox, of the next part.
    #[must_use]
    pub fn set_mark(self, next: Offset) -> StateChange {
        StateChange { key: self.key(MARK, b""), value: Some(number(next.0)) }
    }

    /// Sets or removes a key of the module's.
    #[must_use]
    pub fn set_own(self, key: &[u8], value: Option<Bytes>) -> StateChange {
        StateChange { key: self.key(OWN, key), value }
    }

    /// Says which version the state is of.
    #[must_use]
    pub fn set_runs(self, runs: &Runs) -> StateChange {
        let mut value = BytesMut::new();
        put_runs(runs, &mut value);
        StateChange { key: self.key(RUNS, b""), value: Some(value.freeze()) }
    }

    /// Sets or removes the head of a snapshot.
    #[must_use]
    pub fn set_kept_head(self, slot: u8, head: Option<&(Position, Runs)>) -> StateChange {
        let value = head.map(|(position, runs)| {
            let mut value = BytesMut::new();
            value.put_i64_le(position.next.0);
            value.put_i64_le(position.watermark.0);
            put_runs(runs, &mut value);
            value.freeze()
        });
        StateChange { key: self.key(KEPT, &[slot, POSITION]), value }
    }

    /// Sets or removes a key of the module's in a snapshot.
    #[must_use]
    pub fn set_kept_own(self, slot: u8, key: &[u8], value: Option<Bytes>) -> StateChange {
        StateChange { key: self.key(KEPT, &[&[slot, OWN], key].concat()), value }
    }

    /// Sets or removes a timer in a snapshot.
    #[must_use]
    pub fn set_kept_timer(self, slot: u8, key: &[u8], time: Option<TimestampMs>) -> StateChange {
        let value = time.map(|time| number(time.0));
        StateChange { key: self.key(KEPT, &[&[slot, TIMER], key].concat()), value }
    }

    /// Sets or removes a timer.
    #[must_use]
    pub fn set_timer(self, key: &[u8], time: Option<TimestampMs>) -> StateChange {
        StateChange { key: self.key(TIMER, key), value: time.map(|time| number(time.0)) }
    }
}

/// Reads a key of a partition's keyed state; `None` if it is none of a deployment's.
#[must_use]
pub fn read(key: &Bytes) -> Option<(Lane, Meaning)> {
    let mut head = key.get(..PREFIX_BYTES)?;
    if head.get_u8() != DEPLOYMENTS {
        return None;
    }
    let (deployment, input) = (DeploymentId(head.get_u32()), PartitionId(head.get_u32()));
    let meaning = match head.get_u8() {
        POSITION => Meaning::Position,
        MARK => Meaning::Mark,
        OWN => Meaning::Own(key.slice(PREFIX_BYTES..)),
        TIMER => Meaning::Timer(key.slice(PREFIX_BYTES..)),
        RUNS => Meaning::Runs,
        KEPT => {
            let slot = *key.get(PREFIX_BYTES)?;
            let own = || key.slice(PREFIX_BYTES + 2..);
            let part = match *key.get(PREFIX_BYTES + 1)? {
                POSITION => KeptPart::Head,
                OWN => KeptPart::Own(own()),
                TIMER => KeptPart::Timer(own()),
                _ => return None,
            };
            Meaning::Kept(slot, part)
        }
        _ => return None,
    };
    Some((Lane { deployment, input }, meaning))
}

/// Reads which version a state is of.
#[must_use]
pub fn read_runs(mut value: &[u8]) -> Option<Runs> {
    let (takeover, schema) = (value.try_get_u32_le().ok()?, value.try_get_u32_le().ok()?);
    Some(Runs { takeover, schema, module: std::str::from_utf8(value).ok()?.to_owned() })
}

/// Reads the head of a snapshot.
#[must_use]
pub fn read_head(value: &[u8]) -> Option<(Position, Runs)> {
    let (position, runs) = value.split_at_checked(16)?;
    Some((read_position(position)?, read_runs(runs)?))
}

fn put_runs(runs: &Runs, out: &mut BytesMut) {
    out.put_u32_le(runs.takeover);
    out.put_u32_le(runs.schema);
    out.put_slice(runs.module.as_bytes());
}

/// Reads the value of a position.
#[must_use]
pub fn read_position(mut value: &[u8]) -> Option<Position> {
    let next = Offset(value.try_get_i64_le().ok()?);
    let watermark = TimestampMs(value.try_get_i64_le().ok()?);
    value.is_empty().then_some(Position { next, watermark })
}

/// Reads the value of a mark.
#[must_use]
pub fn read_mark(value: &[u8]) -> Option<Offset> {
    Some(Offset(i64::from_le_bytes(value.try_into().ok()?)))
}

/// Reads the value of a timer.
#[must_use]
pub fn read_timer(value: &[u8]) -> Option<TimestampMs> {
    Some(TimestampMs(i64::from_le_bytes(value.try_into().ok()?)))
}

fn number(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every key reads back as what it was made for, and no other key is taken for one.
    #[test]
    fn keys() {
        let lane = Lane { deployment: DeploymentId(7), input: PartitionId(300) };
        let position = Position { next: Offset(42), watermark: TimestampMs(-1) };
        let set = lane.set_position(position);
        assert_eq!(read(&set.key), Some((lane, Meaning::Position)));
        assert_eq!(read_position(&set.value.unwrap()), Some(position));
        let mark = lane.set_mark(Offset(1));
        assert_eq!(read(&mark.key), Some((lane, Meaning::Mark)));
        assert_eq!(read_mark(&mark.value.unwrap()), Some(Offset(1)));
        let own = lane.set_own(b"bus/7", None);
        assert_eq!(read(&own.key), Some((lane, Meaning::Own(Bytes::from_static(b"bus/7")))));
        let timer = lane.set_timer(b"bus/7", Some(TimestampMs(9)));
        assert_eq!(read(&timer.key), Some((lane, Meaning::Timer(Bytes::from_static(b"bus/7")))));
        assert_eq!(read_timer(&timer.value.unwrap()), Some(TimestampMs(9)));
        assert_eq!(read(&Bytes::from_static(b"app\0\0\0\0\x01\0\0\0\x02")), None);
        assert_eq!(read(&own.key.slice(..PREFIX_BYTES - 1)), None);
        let runs = Runs { takeover: 3, schema: 2, module: "m@1.0.0".into() };
        let set = lane.set_runs(&runs);
        assert_eq!(read(&set.key), Some((lane, Meaning::Runs)));
        assert_eq!(read_runs(&set.value.unwrap()), Some(runs.clone()));
        let head = lane.set_kept_head(1, Some(&(position, runs.clone())));
        assert_eq!(read(&head.key), Some((lane, Meaning::Kept(1, KeptPart::Head))));
        assert_eq!(read_head(&head.value.unwrap()), Some((position, runs)));
        let kept = lane.set_kept_own(0, b"k", None);
        let own = KeptPart::Own(Bytes::from_static(b"k"));
        assert_eq!(read(&kept.key), Some((lane, Meaning::Kept(0, own))));
        let kept = lane.set_kept_timer(0, b"k", Some(TimestampMs(9)));
        let timer = KeptPart::Timer(Bytes::from_static(b"k"));
        assert_eq!(read(&kept.key), Some((lane, Meaning::Kept(0, timer))));
        assert_eq!(read(&kept.key.slice(..PREFIX_BYTES + 1)), None);
        assert_eq!(read_position(b"short"), None);
        assert_eq!(read_mark(b"nine byte"), None);
    }
}
