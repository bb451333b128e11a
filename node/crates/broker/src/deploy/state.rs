//! What the log says of lanes: positions, the modules' keyed state, marks.
//!
//! Built from the partitions' views at start, and followed from there: a change is applied where
//! the log says that it is durable. So nothing here is ever ahead of the disk; what a lane has
//! computed and not committed yet lies over it in an [`Overlay`].

use super::kept::Kept;
use crate::partition::Partition;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_core::deploy::DeploymentId;
use weir_core::deploy::keys::{
    self, KeptPart, Lane, Meaning, PREFIX_BYTES, Position, Runs, read_mark, read_position,
    read_runs, read_timer,
};
use weir_core::entry::StateChange;
use weir_core::partition::view::PartitionView;
use weir_core::{Offset, PartitionId, TimestampMs};
use weir_wasm::state::{StateChanges, StateView};

/// What an entry takes in a keyed-state section and in a snapshot, besides key and value.
const ENTRY_BYTES: usize = PREFIX_BYTES + 8;
/// Bytes of keys in one entry that removes them.
const REMOVAL_BYTES: usize = 1 << 20;

/// The durable state of one lane.
#[derive(Debug, Default)]
pub struct LaneState {
    position: Option<Position>,
    own: BTreeMap<Bytes, Bytes>,
    timers: BTreeMap<Bytes, TimestampMs>,
    due: BTreeSet<(TimestampMs, Bytes)>,
    runs: Option<Runs>,
    kept: BTreeMap<u8, Kept>,
    /// Of it all, snapshots included.
    bytes: usize,
    kept_bytes: usize,
}

/// The state of one lane, as its task and the log's thread share it.
pub type SharedState = Arc<Mutex<LaneState>>;

/// Locks for a moment. A panic under the lock ends the process.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LaneState {
    /// How far the lane is; `None` before its first start.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Keys and values with what is around them, snapshots included, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those of snapshots.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Which version the state is of.
    #[must_use]
    pub fn runs(&self) -> Option<&Runs> {
        self.runs.as_ref()
    }

    /// The snapshots, in no order that means anything.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.values()
    }

    /// The snapshots with their slots.
    pub fn kept_by_slot(&self) -> impl Iterator<Item = (u8, &Kept)> {
        self.kept.iter().map(|(slot, kept)| (*slot, kept))
    }

    /// The snapshot at this offset; of several that with this layout, or else the newest.
    #[must_use]
    pub fn kept_at(&self, offset: Offset, schema: u32) -> Option<&Kept> {
        let heads = self.kept.values().filter_map(|kept| Some((kept.head.as_ref()?, kept)));
        let here = heads.filter(|((position, _), _)| position.next == offset);
        let best = here.max_by_key(|((_, runs), _)| (runs.schema == schema, runs.takeover));
        best.map(|(_, kept)| kept)
    }

    /// The changes that remove all snapshots.
    #[must_use]
    pub fn kept_removal(&self, lane: Lane) -> Vec<StateChange> {
        self.kept.iter().flat_map(|(slot, kept)| kept.removal(lane, *slot)).collect()
    }

    /// The state as a snapshot of it would be.
    #[must_use]
    pub fn image(&self, position: Position, runs: Runs) -> Kept {
        Kept { head: Some((position, runs)), own: self.own.clone(), timers: self.timers.clone() }
    }

    /// How many keys and timers there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.own.len() + self.timers.len()
    }

    /// Applies a change that is durable.
    fn apply(&mut self, meaning: Meaning, value: Option<&Bytes>) {
        match meaning {
            Meaning::Position => self.position = value.and_then(|value| read_position(value)),
            Meaning::Mark => {}
            Meaning::Runs => self.runs = value.and_then(|value| read_runs(value)),
            Meaning::Kept(slot, part) => self.apply_kept(slot, part, value),
            Meaning::Own(key) => {
                let (key_len, added) = (key.len(), value.map(Bytes::len));
                let before = match value {
                    Some(value) => self.own.insert(key, value.clone()),
                    None => self.own.remove(&key),
                };
                self.count(key_len, added, before.map(|before| before.len()));
            }
            Meaning::Timer(key) => {
                let time = value.and_then(|value| read_timer(value));
                let (key_len, added) = (key.len(), time.map(|_| 8));
                let before = match time {
                    Some(time) => {
                        self.due.insert((time, key.clone()));
                        self.timers.insert(key.clone(), time)
                    }
                    None => self.timers.remove(&key),
                };
                if let Some(before) = before.filter(|before| Some(*before) != time) {
                    self.due.remove(&(before, key));
                }
                self.count(key_len, added, before.map(|_| 8));
            }
        }
    }

    fn apply_kept(&mut self, slot: u8, part: KeptPart, value: Option<&Bytes>) {
        let key = match &part {
            KeptPart::Head => 0,
            KeptPart::Own(key) | KeptPart::Timer(key) => key.len() + 2,
        };
        let kept = self.kept.entry(slot).or_default();
        let (added, removed) = kept.apply(part, value);
        if kept.is_gone() {
            self.kept.remove(&slot);
        }
        let before = self.bytes;
        self.count(key, added, removed);
        self.kept_bytes = self.kept_bytes + self.bytes - before;
    }

    fn count(&mut self, key: usize, added: Option<usize>, removed: Option<usize>) {
        self.bytes += added.map_or(0, |value| ENTRY_BYTES + key + value);
        self.bytes -= removed.map_or(0, |value| ENTRY_BYTES + key + value);
    }

    /// How many bytes there would be after these changes.
    #[must_use]
    pub fn bytes_after(&self, overlay: &Overlay) -> usize {
        let own = overlay.entries.iter().map(|(key, value)| {
            (key.len(), value.as_ref().map(Bytes::len), self.own.get(key).map(Bytes::len))
        });
        let timers = overlay
            .timers
            .iter()
            .map(|(key, time)| (key.len(), time.map(|_| 8), self.timers.get(key).map(|_| 8)));
        let (mut added, mut removed) = (0, 0);
        for (key, value, before) in own.chain(timers) {
            added += value.map_or(0, |value| ENTRY_BYTES + key + value);
            removed += before.map_or(0, |value| ENTRY_BYTES + key + value);
        }
        (self.bytes + added).saturating_sub(removed)
    }

    /// The changes that remove all of it.
    fn removal(&self, lane: Lane) -> Vec<StateChange> {
        let own = self.own.keys().map(|key| lane.set_own(key, None));
        let timers = self.timers.keys().map(|key| lane.set_timer(key, None));
        let position = self.position.map(|position| lane.set_position(position).key);
        let position = position.map(|key| StateChange { key, value: None });
        let runs = self.runs.as_ref().map(|runs| lane.set_runs(runs).key);
        let notes = position.into_iter().chain(runs.map(|key| StateChange { key, value: None }));
        own.chain(timers).chain(notes).chain(self.kept_removal(lane)).collect()
    }
}

/// Changes that are not durable yet.
#[derive(Debug, Default)]
pub struct Overlay {
    entries: BTreeMap<Bytes, Option<Bytes>>,
    timers: BTreeMap<Bytes, Option<TimestampMs>>,
}

impl Overlay {
    /// Puts changes on top.
    pub fn add(&mut self, changes: StateChanges) {
        self.entries.extend(changes.entries);
        self.timers.extend(changes.timers);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.timers.is_empty()
    }

    /// Forgets them: they are durable, or will never be.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.timers.clear();
    }

    /// As the lane's home stores them.
    #[must_use]
    pub fn changes(&self, lane: Lane) -> Vec<StateChange> {
        let own = self.entries.iter().map(|(key, value)| lane.set_own(key, value.clone()));
        let timers = self.timers.iter().map(|(key, time)| lane.set_timer(key, *time));
        own.chain(timers).collect()
    }
}

/// The state as a module sees it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// What is durable.
    pub stored: SharedState,
    /// What lies over it.
    pub overlay: Arc<Mutex<Overlay>>,
}

impl StateView for View {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        match lock(&self.overlay).entries.get(key) {
            Some(changed) => changed.clone(),
            None => lock(&self.stored).own.get(key).cloned(),
        }
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Bytes, Bytes)> {
        let from = Bytes::copy_from_slice(after.filter(|after| *after >= prefix).unwrap_or(prefix));
        let overlay = lock(&self.overlay);
        let wanted = |key: &Bytes| after.is_none_or(|after| key.as_ref() > after);
        let changed = overlay.entries.range(from.clone()..);
        let mut changed = changed
            .filter(|(key, _)| wanted(key))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let stored = lock(&self.stored);
        let mut stored = stored
            .own
            .range(from..)
            .filter(|(key, _)| wanted(key))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut found = Vec::new();
        // Two sorted sequences; of equal keys the changed one counts.
        while found.len() < limit {
            let first = match (changed.peek(), stored.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((changed, _)), Some((stored, _))) => changed <= stored,
            };
            if !first {
                found.extend(stored.next().map(|(key, value)| (key.clone(), value.clone())));
            } else if let Some((key, value)) = changed.next() {
                stored.next_if(|(stored, _)| *stored == key);
                found.extend(value.clone().map(|value| (key.clone(), value)));
            }
        }
        found
    }

    fn due(&self, watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)> {
        let overlay = lock(&self.overlay);
        let stored = lock(&self.stored);
        let unchanged = stored.due.iter().take_while(|(time, _)| *time <= watermark);
        let unchanged = unchanged.filter(|(_, key)| !overlay.timers.contains_key(key));
        let changed = overlay.timers.iter().filter_map(|(key, time)| Some((key, (*time)?)));
        let changed = changed.filter(|(_, time)| *time <= watermark);
        let mut due: Vec<_> = unchanged.map(|(time, key)| (key.clone(), *time)).collect();
        due.extend(changed.map(|(key, time)| (key.clone(), time)));
        due.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        due
    }

    fn timer(&self, key: &[u8]) -> Option<TimestampMs> {
        match lock(&self.overlay).timers.get(key) {
            Some(changed) => *changed,
            None => lock(&self.stored).timers.get(key).copied(),
        }
    }
}

/// The durable state of all lanes.
#[derive(Debug, Default)]
pub struct States {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lanes: HashMap<Lane, Home>,
    marks: HashMap<(Lane, PartitionId), Offset>,
    /// Keyed state of all lanes together.
    bytes: usize,
}

/// A lane's state, and the partition whose keyed state it is.
#[derive(Debug)]
struct Home {
    partition: PartitionId,
    state: SharedState,
}

impl States {
    /// Reads what the log says.
    #[must_use]
    pub fn new(views: &HashMap<PartitionId, PartitionView>) -> States {
        let states = States::default();
        states.read(views);
        states
    }

    fn read(&self, views: &HashMap<PartitionId, PartitionView>) {
        let mut inner = lock(&self.inner);
        for (&partition, view) in views {
            inner.read(partition, view);
        }
    }

    /// The log of some partitions was reopened: what is known of them is what `views` say. To be
    /// called before they take appends again.
    pub fn recover(
        &self,
        concerned: impl Fn(PartitionId) -> bool,
        views: &HashMap<PartitionId, PartitionView>,
    ) {
        {
            let mut inner = lock(&self.inner);
            inner.marks.retain(|(_, partition), _| !concerned(*partition));
            for home in inner.lanes.values().filter(|home| concerned(home.partition)) {
                *lock(&home.state) = LaneState::default();
            }
            inner.count();
        }
        self.read(views);
    }

    /// This node is to lead a partition, whose log says this. To be called before it takes appends.
    pub fn load(&self, partition: PartitionId, view: &PartitionView) {
        let mut inner = lock(&self.inner);
        inner.marks.retain(|(_, at), _| *at != partition);
        for home in inner.lanes.values().filter(|home| home.partition == partition) {
            *lock(&home.state) = LaneState::default();
        }
        inner.count();
        inner.read(partition, view);
    }

    /// Forgets the state of a lane whose home another node leads. It is loaded anew when this node
    /// leads again.
    pub fn let_go(&self, lane: Lane, home: &Partition) {
        let mut inner = lock(&self.inner);
        // Under the lock: where the home is about to be led here, its view may be here already.
        if home.is_bystander()
            && let Some(known) = inner.lanes.get(&lane)
        {
            *lock(&known.state) = LaneState::default();
            inner.count();
        }
    }

    /// The state of a lane whose home is `partition`.
    #[must_use]
    pub fn of(&self, lane: Lane, partition: PartitionId) -> SharedState {
        lock(&self.inner).home(lane, partition)
    }

    /// The mark of a lane in a destination; zero before its first part.
    #[must_use]
    pub fn mark(&self, lane: Lane, partition: PartitionId) -> Offset {
        lock(&self.inner).marks.get(&(lane, partition)).copied().unwrap_or(Offset::ZERO)
    }

    /// Applies changes that became durable in `partition`.
    pub fn apply(&self, partition: PartitionId, changes: &[StateChange]) {
        let mut inner = lock(&self.inner);
        for change in changes {
            match keys::read(&change.key) {
                Some((lane, Meaning::Mark)) => {
                    let mark = change.value.as_ref().and_then(|value| read_mark(value));
                    match mark {
                        Some(mark) => inner.marks.insert((lane, partition), mark),
                        None => inner.marks.remove(&(lane, partition)),
                    };
                }
                Some((lane, meaning)) => {
                    inner.apply((lane, partition), meaning, change.value.as_ref());
                }
                None => {}
            }
        }
    }

    /// Keyed state of all lanes together, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.inner).bytes
    }

    /// Whether there is anything of other deployments than these.
    #[must_use]
    pub fn knows_others(&self, known: &HashSet<DeploymentId>) -> bool {
        let inner = lock(&self.inner);
        let mut all = inner.lanes.keys().chain(inner.marks.keys().map(|(lane, _)| lane));
        all.any(|lane| !known.contains(&lane.deployment))
    }

    /// What to change, in which partition, to remove all that deployments left of which `known`
    /// has none. In parts that each fit an entry.
    #[must_use]
    pub fn removals(&self, known: &HashSet<DeploymentId>) -> Vec<(PartitionId, Vec<StateChange>)> {
        let inner = lock(&self.inner);
        let mut all: BTreeMap<PartitionId, Vec<StateChange>> = BTreeMap::new();
        for (lane, home) in inner.lanes.iter().filter(|(lane, _)| !known.contains(&lane.deployment))
        {
            let removal = lock(&home.state).removal(*lane);
            all.entry(home.partition).or_default().extend(removal);
        }
        let marks = inner.marks.keys().filter(|(lane, _)| !known.contains(&lane.deployment));
        for (lane, partition) in marks {
            let key = lane.set_mark(Offset::ZERO).key;
            all.entry(*partition).or_default().push(StateChange { key, value: None });
        }
        let mut parts = Vec::new();
        for (partition, changes) in all {
            let mut part = Vec::new();
            let mut bytes = 0;
            for change in changes {
                bytes += change.key.len() + 8;
                part.push(change);
                if bytes >= REMOVAL_BYTES {
                    parts.push((partition, std::mem::take(&mut part)));
                    bytes = 0;
                }
            }
            if !part.is_empty() {
                parts.push((partition, part));
            }
        }
        parts
    }

    /// Forgets deployments that `known` does not have: what they left is removed, or gone with its
    /// partitions.
    pub fn forget(&self, known: &HashSet<DeploymentId>) {
        let mut inner = lock(&self.inner);
        inner.lanes.retain(|lane, _| known.contains(&lane.deployment));
        inner.marks.retain(|(lane, _), _| known.contains(&lane.deployment));
        inner.count();
    }
}

impl Inner {
    fn apply(&mut self, at: (Lane, PartitionId), meaning: Meaning, value: Option<&Bytes>) {
        let state = self.home(at.0, at.1);
        let mut state = lock(&state);
        let before = state.bytes;
        state.apply(meaning, value);
        self.bytes = self.bytes + state.bytes - before;
    }

    fn read(&mut self, partition: PartitionId, view: &PartitionView) {
        for (key, value) in &view.state {
            match keys::read(key) {
                Some((lane, Meaning::Mark)) => {
                    let mark = read_mark(value).unwrap_or(Offset::ZERO);
                    self.marks.insert((lane, partition), mark);
                }
                Some((lane, meaning)) => self.apply((lane, partition), meaning, Some(value)),
                None => {}
            }
        }
    }

    fn count(&mut self) {
        self.bytes = self.lanes.values().map(|home| lock(&home.state).bytes).sum();
    }

    fn home(&mut self, lane: Lane, partition: PartitionId) -> SharedState {
        let home = || Home { partition, state: SharedState::default() };
        self.lanes.entry(lane).or_insert_with(home).state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { deployment: DeploymentId(7), input: PartitionId(3) };
    const HOME: PartitionId = PartitionId(9);

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn changes(entries: &[(&'static str, Option<&'static str>)]) -> StateChanges {
        let entries = entries.iter().map(|(key, value)| (bytes(key), value.map(bytes)));
        StateChanges { entries: entries.collect(), timers: Vec::new() }
    }

    /// Goal: the overlay hides what is stored, in reads, scans and timers; once it is applied, the
    /// stored state alone says the same.
    #[test]
    fn an_overlay_is_what_the_state_will_be() {
        let states = States::default();
        let stored = states.of(LANE, HOME);
        let view = View { stored, overlay: Arc::default() };
        let write = |view: &View| {
            let changes = lock(&view.overlay).changes(LANE);
            let after = lock(&view.stored).bytes_after(&lock(&view.overlay));
            states.apply(HOME, &changes);
            lock(&view.overlay).clear();
            assert_eq!(lock(&view.stored).bytes(), after);
        };
        let mut first = changes(&[("a", Some("1")), ("b", Some("2")), ("d", Some("4"))]);
        first.timers = vec![(bytes("x"), Some(TimestampMs(5))), (bytes("y"), Some(TimestampMs(6)))];
        lock(&view.overlay).add(first);
        write(&view);
        let mut second = changes(&[("b", None), ("c", Some("3")), ("d", Some("44"))]);
        second.timers = vec![(bytes("x"), Some(TimestampMs(50))), (bytes("y"), None)];
        lock(&view.overlay).add(second);
        let look = |view: &View| {
            let keys = |found: Vec<(Bytes, Bytes)>| {
                let pairs = found.into_iter().map(|(k, v)| [k, v].concat());
                pairs.map(|pair| String::from_utf8(pair).unwrap()).collect::<Vec<_>>()
            };
            assert_eq!(view.get(b"b"), None);
            assert_eq!(view.get(b"d"), Some(bytes("44")));
            assert_eq!(keys(view.scan(b"", None, 9)), ["a1", "c3", "d44"]);
            assert_eq!(keys(view.scan(b"", Some(b"a"), 1)), ["c3"]);
            assert_eq!(keys(view.scan(b"d", None, 9)), ["d44"]);
            assert_eq!(view.due(TimestampMs(49)), []);
            assert_eq!(view.due(TimestampMs(50)), [(bytes("x"), TimestampMs(50))]);
            assert_eq!(view.timer(b"y"), None);
        };
        look(&view);
        write(&view);
        look(&view);
        assert_eq!(lock(&view.stored).keys(), 4);
    }

    /// Goal: what deployments left behind is removed to the last byte, and nothing else.
    #[test]
    fn removals() {
        let states = States::default();
        let other = Lane { deployment: DeploymentId(8), input: PartitionId(3) };
        for lane in [LANE, other] {
            let position = Position { next: Offset(4), watermark: TimestampMs(0) };
            states.apply(
                HOME,
                &[
                    lane.set_position(position),
                    lane.set_own(b"key", Some(bytes("value"))),
                    lane.set_timer(b"key", Some(TimestampMs(1))),
                ],
            );
            states.apply(PartitionId(1), &[lane.set_mark(Offset(2))]);
        }
        let known = [other.deployment].into();
        assert!(states.knows_others(&known));
        let removals = states.removals(&known);
        assert_eq!(removals.iter().map(|(_, part)| part.len()).sum::<usize>(), 4);
        for (partition, changes) in &removals {
            assert!(changes.iter().all(|change| change.value.is_none()));
            states.apply(*partition, changes);
        }
        assert_eq!(lock(&states.of(LANE, HOME)).bytes(), 0);
        assert_eq!(states.mark(LANE, PartitionId(1)), Offset::ZERO);
        states.forget(&known);
        assert!(!states.knows_others(&known));
        assert_eq!(states.removals(&[].into()).len(), 2);
        assert_eq!(states.mark(other, PartitionId(1)), Offset(2));
    }
}
