//! All groups in memory, as their leader has decided them: what was decided is here at once, and in
//! the log right behind. What a change takes on disk is counted before it is made.

use super::rows::{self, Key};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_core::entry::StateChange;
use weir_core::group::sessions::GroupSessions;
use weir_core::group::{Generation, Group, GroupAsk, GroupChange, GroupError, MemberId, Slot};
use weir_core::limits;
use weir_core::partition::view::PartitionView;
use weir_core::wire::message::{GroupInfo, GroupMember, GroupMembers, GroupPosition};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, TimestampMs};

/// All groups.
#[derive(Debug, Default)]
pub(super) struct State {
    groups: BTreeMap<String, Known>,
    /// Keys and values of all rows.
    bytes: usize,
    /// The leadership that this is of; before that and after it, nothing is decided on it.
    pub(super) loaded: Option<LeaderEpoch>,
    /// The newest version of the topics that members' wants were compared with.
    pub(super) topics_seen: u64,
}

/// One group.
#[derive(Debug)]
struct Known {
    group: Group,
    committed_at: BTreeMap<Slot, TimestampMs>,
    sessions: GroupSessions,
}

/// What a change is on disk.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) changes: Vec<StateChange>,
    added: usize,
    removed: usize,
}

impl Rows {
    /// Sets or deletes a row whose value had so many bytes, if it was there.
    fn put(&mut self, group: &str, key: Key, before: Option<usize>, value: Option<Bytes>) {
        let key = rows::encode_key(group, key);
        self.removed += before.map_or(0, |bytes| key.len() + bytes);
        self.added += value.as_ref().map_or(0, |value| key.len() + value.len());
        if before.is_some() || value.is_some() {
            self.changes.push(StateChange { key, value });
        }
    }

    /// The same for rows that are often as they were.
    fn replace(&mut self, group: &str, key: Key, before: Option<Bytes>, value: Option<Bytes>) {
        if before != value {
            self.put(group, key, before.as_ref().map(Bytes::len), value);
        }
    }
}

impl State {
    /// Begins with what the log holds. Members have a whole session from `now` on.
    pub(super) fn replace(&mut self, view: &PartitionView, now: Duration) {
        let known = |stored: rows::Stored| {
            let mut group = Group::default();
            group.apply(&stored.change);
            let sessions = GroupSessions::new(now);
            Known { group, committed_at: stored.committed_at, sessions }
        };
        let groups = rows::decode(&view.state).into_iter();
        self.groups = groups.map(|(name, stored)| (name, known(stored))).collect();
        self.bytes = view.state.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.loaded = None;
        self.topics_seen = 0;
    }

    /// The group of this name.
    pub(super) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name).map(|known| &known.group)
    }

    /// All groups, by name.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter().map(|(name, known)| (name, &known.group))
    }

    /// Whether a group that is not known yet may come to be.
    pub(super) fn check_new(&self, name: &str) -> Result<(), WireError> {
        if self.groups.len() < limits::GROUPS_MAX || self.groups.contains_key(name) {
            return Ok(());
        }
        let message = format!(
            "there are {} groups, which is the most: delete groups that are no longer used",
            limits::GROUPS_MAX
        );
        Err(WireError::new(ErrorCode::LimitReached, message))
    }

    /// Decides what is asked of a group.
    pub(super) fn decide(&self, name: &str, ask: &GroupAsk) -> Result<GroupChange, GroupError> {
        match self.group(name) {
            Some(group) => group.decide(ask),
            None => Group::default().decide(ask),
        }
    }

    /// What a change is on disk.
    ///
    /// # Errors
    /// [`ErrorCode::LimitReached`]: it would be more than fits.
    pub(super) fn rows(
        &self,
        name: &str,
        change: &GroupChange,
        now: TimestampMs,
    ) -> Result<Rows, WireError> {
        let nothing = Group::default();
        let group = self.group(name).unwrap_or(&nothing);
        let mut out = Rows::default();
        for (&id, member) in &change.members {
            let before = group.members().get(&id);
            let row = member.as_ref().map(rows::member);
            out.replace(name, Key::Member(id), before.map(rows::member), row);
            let target = member.as_ref().and_then(|member| rows::target(&member.target));
            let before = before.and_then(|member| rows::target(&member.target));
            out.replace(name, Key::Target(id), before, target);
        }
        for (&slot, owner) in &change.owners {
            let before = group.owners().get(&slot).map(rows::owner);
            out.replace(name, Key::Owner(slot), before, owner.as_ref().map(rows::owner));
        }
        let stored = |slot: &Slot| group.positions().get(slot).map(|_| 16);
        for (slot, &offset) in &change.positions {
            let value = rows::position(offset, now);
            out.put(name, Key::Position(*slot), stored(slot), Some(value));
        }
        for slot in &change.forgotten {
            out.put(name, Key::Position(*slot), stored(slot), None);
        }
        let before = (group.generation() > Generation::default()).then_some(8);
        if ends(group, change) {
            out.put(name, Key::Generation, before, None);
        } else if let Some(generation) = change.generation {
            out.put(name, Key::Generation, before, Some(rows::generation(generation)));
        }
        let grows = out.added > out.removed;
        if grows && self.bytes + out.added - out.removed > limits::STATE_BYTES_MAX {
            let message = "as much is stored of groups as there may be: delete groups that are no \
                           longer used";
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        Ok(out)
    }

    /// Applies a change that takes `rows` on disk.
    pub(super) fn apply(
        &mut self,
        name: &str,
        change: &GroupChange,
        rows: &Rows,
        (wall, now): (TimestampMs, Duration),
    ) {
        let fresh = || Known {
            group: Group::default(),
            committed_at: BTreeMap::new(),
            sessions: GroupSessions::new(now),
        };
        let known = self.groups.entry(name.to_owned()).or_insert_with(fresh);
        known.group.apply(change);
        known.committed_at.extend(change.positions.keys().map(|&slot| (slot, wall)));
        known.committed_at.retain(|slot, _| !change.forgotten.contains(slot));
        if known.group.is_empty() {
            self.groups.remove(name);
        }
        self.bytes = (self.bytes + rows.added).saturating_sub(rows.removed);
    }

    /// A member said something.
    pub(super) fn heard(&mut self, name: &str, member: MemberId, now: Duration) {
        if let Some(known) = self.groups.get_mut(name)
            && known.group.members().contains_key(&member)
        {
            known.sessions.handle_heard(now, member);
        }
    }

    /// When the next member may be silent for too long; `None` without members.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let all = self.groups.values();
        all.filter_map(|known| known.sessions.next_expiry(&known.group)).min()
    }

    /// Members that were silent for too long, to be let go.
    pub(super) fn expired(&mut self, now: Duration) -> Vec<(String, GroupAsk)> {
        let mut all = Vec::new();
        for (name, known) in &mut self.groups {
            let gone = known.sessions.poll_expired(now, &known.group);
            all.extend(gone.into_iter().map(|ask| (name.clone(), ask)));
        }
        all
    }

    /// The stored positions of a group, by topic and partition.
    pub(super) fn positions(&self, name: &str) -> Vec<GroupPosition> {
        let Some(known) = self.groups.get(name) else { return Vec::new() };
        let of = |(&slot, &offset): (&Slot, &weir_core::Offset)| GroupPosition {
            topic: slot.0,
            partition: slot.1,
            offset,
            committed_at: known.committed_at.get(&slot).copied().unwrap_or_default(),
            since: Generation::default(),
        };
        known.group.positions().iter().map(of).collect()
    }

    /// All groups, in short.
    pub(super) fn list(&self) -> Vec<GroupInfo> {
        let of = |(name, known): (&String, &Known)| {
            let ids = known.group.members().keys();
            let moving: usize = ids.map(|&id| known.group.pending(id)).sum();
            GroupInfo {
                name: name.clone(),
                positions: known.group.positions().len() as u32,
                committed_at: known.committed_at.values().max().copied().unwrap_or_default(),
                members: known.group.members().len() as u32,
                moving: moving as u32,
            }
        };
        self.groups.iter().map(of).collect()
    }

    /// The members of a group.
    pub(super) fn members(&self, name: &str) -> GroupMembers {
        let Some(group) = self.group(name) else { return GroupMembers::default() };
        let mut members: BTreeMap<MemberId, GroupMember> = BTreeMap::new();
        for (&id, member) in group.members() {
            let member = GroupMember {
                member: id,
                instance: member.instance.clone(),
                session_ms: member.session_ms,
                topics: member.topics.iter().cloned().collect(),
                partitions: Vec::new(),
                pending: group.pending(id) as u32,
            };
            members.insert(id, member);
        }
        for (&slot, owner) in group.owners() {
            if let Some(member) = members.get_mut(&owner.member) {
                member.partitions.push(slot);
            }
        }
        let members = members.into_values().collect();
        GroupMembers { generation: group.generation(), members }
    }
}

/// Whether nothing is left of the group after the change.
fn ends(group: &Group, change: &GroupChange) -> bool {
    if change.members.is_empty() && change.forgotten.is_empty() {
        return false;
    }
    let mut after = group.clone();
    after.apply(change);
    after.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use weir_core::{Offset, PartitionIndex, TopicId};

    /// Carries out what is asked, on the state and on the rows that the log would hold.
    fn ask(state: &mut State, log: &mut PartitionView, ask: &GroupAsk) -> usize {
        let change = state.decide("g", ask).unwrap();
        let rows = state.rows("g", &change, TimestampMs(7)).unwrap();
        for row in &rows.changes {
            match &row.value {
                Some(value) => log.state.insert(row.key.clone(), value.clone()),
                None => log.state.remove(&row.key),
            };
        }
        state.apply("g", &change, &rows, (TimestampMs(7), Duration::ZERO));
        let stored: usize = log.state.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert_eq!(state.bytes, stored, "after {ask:?}");
        rows.changes.len()
    }

    fn slots(count: u32) -> BTreeSet<Slot> {
        (0..count).map(|at| (TopicId(1), PartitionIndex(at))).collect()
    }

    fn join(id: u64) -> GroupAsk {
        let (member, instance, session_ms) = (MemberId(id), None, 1_000);
        let topics = BTreeSet::from(["t".to_owned()]);
        GroupAsk::Join { member, instance, session_ms, topics, wants: slots(6) }
    }

    fn beat(state: &State, id: u64) -> GroupAsk {
        let group = state.group("g").unwrap();
        let holds = group.assigned(MemberId(id)).into_keys().collect();
        GroupAsk::Heartbeat { member: MemberId(id), generation: group.generation(), holds }
    }

    /// Goal: the log's rows always say what the state is, so whoever leads next has it; the count
    /// of bytes is theirs; what changes nothing writes nothing; nothing stays of an empty group.
    #[test]
    fn rows_are_the_state() {
        let (mut state, mut log) = (State::default(), PartitionView::default());
        for id in [1, 2] {
            ask(&mut state, &mut log, &join(id));
            for member in [1, 2, 1, 2] {
                if state.group("g").unwrap().members().contains_key(&MemberId(member)) {
                    let beat = beat(&state, member);
                    ask(&mut state, &mut log, &beat);
                }
            }
        }
        let quiet = beat(&state, 2);
        assert_eq!(ask(&mut state, &mut log, &quiet), 0);
        let assigned = state.group("g").unwrap().assigned(MemberId(2));
        let (slot, since) = assigned.into_iter().next().unwrap();
        let member = MemberId(2);
        let commit = |at| GroupAsk::Commit { member, slot, since, position: Offset(at) };
        assert_eq!(ask(&mut state, &mut log, &commit(5)), 1);
        assert_eq!(ask(&mut state, &mut log, &commit(6)), 1);
        assert_eq!(ask(&mut state, &mut log, &commit(6)), 0);

        let mut other = State::default();
        other.replace(&log, Duration::from_secs(9));
        assert_eq!(other.group("g"), state.group("g"));
        assert_eq!(other.positions("g"), state.positions("g"));
        assert_eq!(other.members("g"), state.members("g"));
        assert_eq!(other.list(), state.list());
        assert_eq!(other.bytes, state.bytes);
        assert_eq!(other.next_expiry(), Some(Duration::from_secs(10)));

        for id in [1, 2] {
            ask(&mut state, &mut log, &GroupAsk::Leave { member: MemberId(id) });
        }
        assert_eq!(log.state.len(), 2, "a position and the generation: {:?}", log.state);
        ask(&mut state, &mut log, &GroupAsk::Forget { slots: slots(6) });
        assert!(log.state.is_empty() && state.groups.is_empty());
    }

    /// Goal: what would not fit is refused before anything is written; going smaller never is.
    #[test]
    fn room() {
        let mut state = State { bytes: limits::STATE_BYTES_MAX, ..State::default() };
        let positions = [((TopicId(1), PartitionIndex(0)), Offset(1))].into();
        let change = GroupChange { positions, ..GroupChange::default() };
        assert!(state.rows("g", &change, TimestampMs(1)).is_err());
        state.bytes -= 100;
        let rows = state.rows("g", &change, TimestampMs(1)).unwrap();
        state.apply("g", &change, &rows, (TimestampMs(1), Duration::ZERO));
        state.bytes = limits::STATE_BYTES_MAX;
        assert!(state.rows("g", &change, TimestampMs(1)).is_ok(), "it takes no more than before");
        let forget = state.decide("g", &GroupAsk::Forget { slots: slots(1) }).unwrap();
        assert!(state.rows("g", &forget, TimestampMs(1)).is_ok());
    }
}
