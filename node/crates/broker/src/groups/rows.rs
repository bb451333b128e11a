//! Groups as keyed state: what a change of a group is in rows, and what rows say of a group.
//!
//! Each key begins with the group's name and a 0, which no name has. What follows tells by its
//! length and first byte what the row is:
//!
//! | key goes on with | value |
//! |---|---|
//! | `u32` topic id, `u32` partition (big-endian) | `i64` position, `i64` commit time in ms |
//! | `1` | `u64` generation |
//! | `2`, `u64` member (big-endian) | CBOR, [`MemberRow`] |
//! | `3`, `u64` member (big-endian) | runs: what the member shall own; absent: nothing |
//! | `4`, `u32` topic id, `u32` partition (big-endian) | `u64` member that owns it, `u64` since |
//!
//! Numbers in values are little-endian. A run is `u32` topic id, `u32` first partition, `u32`
//! count. A group without members and positions has no rows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::group::{Generation, GroupChange, Member, MemberId, Owner, Slot};
use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};

/// What a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Position(Slot),
    Generation,
    Member(MemberId),
    Target(MemberId),
    Owner(Slot),
}

/// A member, but for what it shall own, which changes more often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemberRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    session_ms: u32,
    #[serde(default)]
    topics: BTreeSet<String>,
    /// Runs.
    #[serde(default)]
    wants: Vec<(u32, u32, u32)>,
}

/// The key of a row.
pub(super) fn encode_key(group: &str, key: Key) -> Bytes {
    let mut out = BytesMut::with_capacity(group.len() + 10);
    out.put_slice(group.as_bytes());
    out.put_u8(0);
    let slot = |out: &mut BytesMut, (topic, partition): Slot| {
        out.put_u32(topic.0);
        out.put_u32(partition.0);
    };
    match key {
        Key::Position(at) => slot(&mut out, at),
        Key::Generation => out.put_u8(1),
        Key::Member(id) => {
            out.put_u8(2);
            out.put_u64(id.0);
        }
        Key::Target(id) => {
            out.put_u8(3);
            out.put_u64(id.0);
        }
        Key::Owner(at) => {
            out.put_u8(4);
            slot(&mut out, at);
        }
    }
    out.freeze()
}

/// The group's name, and what the row is of; `None` if no version up to this one wrote it.
pub(super) fn decode_key(key: &[u8]) -> Option<(&str, Key)> {
    let at = key.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&key[..at]).ok()?;
    let mut rest = &key[at + 1..];
    let slot = |mut rest: &[u8]| (TopicId(rest.get_u32()), PartitionIndex(rest.get_u32()));
    let key = match rest.len() {
        8 => Key::Position(slot(rest)),
        1 if rest[0] == 1 => Key::Generation,
        9 => match rest.get_u8() {
            2 => Key::Member(MemberId(rest.get_u64())),
            3 => Key::Target(MemberId(rest.get_u64())),
            4 => Key::Owner(slot(rest)),
            _ => return None,
        },
        _ => return None,
    };
    Some((name, key))
}

pub(super) fn position(offset: Offset, at: TimestampMs) -> Bytes {
    let mut value = BytesMut::with_capacity(16);
    value.put_i64_le(offset.0);
    value.put_i64_le(at.0);
    value.freeze()
}

pub(super) fn generation(generation: Generation) -> Bytes {
    Bytes::copy_from_slice(&generation.0.to_le_bytes())
}

pub(super) fn owner(owner: &Owner) -> Bytes {
    let mut value = BytesMut::with_capacity(16);
    value.put_u64_le(owner.member.0);
    value.put_u64_le(owner.since.0);
    value.freeze()
}

pub(super) fn member(member: &Member) -> Bytes {
    let row = MemberRow {
        instance: member.instance.clone(),
        session_ms: member.session_ms,
        topics: member.topics.clone(),
        wants: runs(&member.wants),
    };
    let mut value = Vec::new();
    // Writing plain data to memory fails only for types that CBOR cannot hold; these it can.
    ciborium::into_writer(&row, &mut value).expect("a member is plain data");
    value.into()
}

/// What a member shall own; `None` if nothing.
pub(super) fn target(target: &BTreeSet<Slot>) -> Option<Bytes> {
    let mut value = BytesMut::new();
    for (topic, first, count) in runs(target) {
        value.put_u32_le(topic);
        value.put_u32_le(first);
        value.put_u32_le(count);
    }
    (!value.is_empty()).then(|| value.freeze())
}

fn runs(slots: &BTreeSet<Slot>) -> Vec<(u32, u32, u32)> {
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for &(TopicId(topic), PartitionIndex(at)) in slots {
        match runs.last_mut() {
            Some((of, first, count)) if *of == topic && first.checked_add(*count) == Some(at) => {
                *count += 1;
            }
            _ => runs.push((topic, at, 1)),
        }
    }
    runs
}

fn slots(runs: impl IntoIterator<Item = (u32, u32, u32)>) -> BTreeSet<Slot> {
    let of = |(topic, first, count): (u32, u32, u32)| {
        let partitions = first..first.saturating_add(count);
        partitions.map(move |at| (TopicId(topic), PartitionIndex(at)))
    };
    runs.into_iter().flat_map(of).collect()
}

/// A group as its rows say: one change that makes it, and when each position was stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) change: GroupChange,
    pub(super) committed_at: BTreeMap<Slot, TimestampMs>,
    targets: BTreeMap<MemberId, BTreeSet<Slot>>,
}

impl Stored {
    /// Takes a row; `None` if it cannot be read.
    fn take(&mut self, key: Key, mut value: &[u8]) -> Option<()> {
        match key {
            Key::Position(slot) => {
                let offset = Offset(value.try_get_i64_le().ok()?);
                let at = TimestampMs(value.try_get_i64_le().ok()?);
                self.change.positions.insert(slot, offset);
                self.committed_at.insert(slot, at);
            }
            Key::Generation => {
                self.change.generation = Some(Generation(value.try_get_u64_le().ok()?));
            }
            Key::Member(id) => {
                let row: MemberRow = ciborium::from_reader(value).ok()?;
                let MemberRow { instance, session_ms, topics, wants } = row;
                let (wants, target) = (slots(wants), BTreeSet::new());
                let member = Member { instance, session_ms, topics, wants, target };
                self.change.members.insert(id, Some(member));
            }
            Key::Target(id) => {
                let mut runs = Vec::new();
                while !value.is_empty() {
                    let mut next = || value.try_get_u32_le().ok();
                    runs.push((next()?, next()?, next()?));
                }
                self.targets.insert(id, slots(runs));
            }
            Key::Owner(slot) => {
                let member = MemberId(value.try_get_u64_le().ok()?);
                let since = Generation(value.try_get_u64_le().ok()?);
                self.change.owners.insert(slot, Some(Owner { member, since }));
            }
        }
        Some(())
    }
}

/// All groups that the rows tell of. What cannot be read is left out, and said.
pub(super) fn decode(rows: &BTreeMap<Bytes, Bytes>) -> BTreeMap<String, Stored> {
    let mut groups: BTreeMap<String, Stored> = BTreeMap::new();
    for (key, value) in rows {
        let taken = decode_key(key).and_then(|(name, of)| {
            if !groups.contains_key(name) {
                groups.insert(name.to_owned(), Stored::default());
            }
            groups.get_mut(name)?.take(of, value)
        });
        if taken.is_none() {
            tracing::warn!(key = %key.escape_ascii(), "a row of the groups cannot be read");
        }
    }
    for stored in groups.values_mut() {
        let targets = std::mem::take(&mut stored.targets);
        for (id, member) in &mut stored.change.members {
            if let (Some(member), Some(target)) = (member, targets.get(id)) {
                member.target.clone_from(target);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Slot = (TopicId(7), PartitionIndex(300));

    /// Goal: keys read back; positions' are as they always were, and no name begins another's.
    #[test]
    fn keys() {
        let id = MemberId(u64::MAX - 1);
        let kinds =
            [Key::Position(AT), Key::Generation, Key::Member(id), Key::Target(id), Key::Owner(AT)];
        for kind in kinds {
            assert_eq!(decode_key(&encode_key("app", kind)), Some(("app", kind)));
        }
        let key = encode_key("app", Key::Position(AT));
        assert_eq!(&key[..], b"app\0\0\0\0\x07\0\0\x01\x2c");
        for other in [&b"short"[..], b"app\0", b"app\0\x09", b"app\0\x09\0\0\0\0\0\0\0\0"] {
            assert_eq!(decode_key(other), None);
        }
    }

    /// Goal: what is written of a group reads back as it was.
    #[test]
    fn values() {
        let topics = BTreeSet::from(["gps".to_owned()]);
        let wants = slots([(7, 0, 3), (9, 5, 1)]);
        let target = slots([(7, 0, 1), (7, 2, 1)]);
        let instance = Some("bus-12".to_owned());
        let known = Member { instance, session_ms: 10_000, topics, wants, target };
        let owned = Owner { member: MemberId(5), since: Generation(3) };
        let rows = BTreeMap::from([
            (encode_key("g", Key::Generation), generation(Generation(4))),
            (encode_key("g", Key::Member(MemberId(5))), member(&known)),
            (encode_key("g", Key::Target(MemberId(5))), super::target(&known.target).unwrap()),
            (encode_key("g", Key::Owner(AT)), owner(&owned)),
            (encode_key("g", Key::Position(AT)), position(Offset(9), TimestampMs(8))),
            (encode_key("other", Key::Position(AT)), position(Offset(1), TimestampMs(2))),
            (Bytes::from_static(b"g\0\x09"), Bytes::new()),
            (encode_key("bad", Key::Member(MemberId(1))), Bytes::from_static(b"?")),
        ]);
        let groups = decode(&rows);
        let stored = &groups["g"];
        assert_eq!(stored.change.generation, Some(Generation(4)));
        assert_eq!(stored.change.members, [(MemberId(5), Some(known))].into());
        assert_eq!(stored.change.owners, [(AT, Some(owned))].into());
        assert_eq!(stored.change.positions, [(AT, Offset(9))].into());
        assert_eq!(stored.committed_at, [(AT, TimestampMs(8))].into());
        assert_eq!(groups["other"].change.positions, [(AT, Offset(1))].into());
        assert!(groups["bad"].change.is_empty());
        assert_eq!(super::target(&BTreeSet::new()), None);
    }
}
