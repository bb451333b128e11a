//! What transforms give is what one uninterrupted run over the committed input gives: in each
//! destination the outputs of a lane are there, once, in the order of the input, and the lane's
//! state is that of the input up to its position.
//!
//! The run is made here, entry by entry of the home as they are committed. Input that retention
//! dropped before it was read is left out in both.

use super::logs_equal::LogsEqual;
use super::{Violations, note};
use crate::disk::Entry;
use crate::lane::stored_position;
use crate::transform::{Content, Deployed, Part, run};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use weir_core::deploy::keys::{self, Lane, Meaning, read_mark};
use weir_core::ids::{Offset, PartitionId};
use weir_core::partition::view::PartitionView;

/// The checker's name.
pub const NAME: &str = "transforms";

/// The uninterrupted run.
#[derive(Default)]
pub struct Transforms {
    /// How far each partition was looked at.
    ends: BTreeMap<PartitionId, Offset>,
    lanes: BTreeMap<Lane, Known>,
}

/// A lane of it.
#[derive(Default)]
struct Known {
    position: Option<Offset>,
    state: BTreeMap<Bytes, Bytes>,
    /// What destinations are to get next.
    due: BTreeMap<PartitionId, VecDeque<(Offset, Part)>>,
    /// What each has, by the offset behind it.
    marks: BTreeMap<PartitionId, Offset>,
}

impl Transforms {
    /// A leader takes this entry for committed.
    pub fn committed(
        &mut self,
        seen: &mut Violations,
        (partition, lanes): (PartitionId, &[Deployed]),
        entry: &Entry,
        (inputs, made): (&LogsEqual, &BTreeMap<u64, Content>),
    ) {
        let Some(content) = made.get(&entry.id) else { return };
        let end = self.ends.entry(partition).or_default();
        if entry.base < *end {
            return;
        }
        *end = entry.end();
        match content {
            Content::Run { from, parts } => {
                let deployed = lanes.iter().find(|deployed| deployed.home == partition);
                if let Some(deployed) = deployed {
                    self.ran(seen, deployed, entry, (*from, parts), inputs);
                }
            }
            Content::Delivered { lane, offset, part } => {
                self.delivered(seen, (*lane, partition), (*offset, part));
            }
        }
    }

    fn ran(
        &mut self,
        seen: &mut Violations,
        deployed: &Deployed,
        entry: &Entry,
        (from, parts): (Offset, &[Part]),
        inputs: &LogsEqual,
    ) {
        let lane = deployed.lane;
        let Some(next) = stored_position(lane, &entry.state) else {
            return note(seen, NAME, format!("{lane:?}: outputs without a position: {entry:?}"));
        };
        let known = self.lanes.entry(lane).or_default();
        let before = known.position.replace(next);
        let before = before.unwrap_or(Offset::ZERO);
        if from < before {
            let what = format!("{lane:?}: read again from {from}, {before} is committed");
            return note(seen, NAME, what);
        }
        if before < from && !inputs.is_trimmed(lane.input, from) {
            let what = format!("{lane:?}: went on at {from}, {before} is next");
            return note(seen, NAME, what);
        }
        let input = inputs.between(lane.input, from, next);
        let ends = input.last().map_or(from, Entry::end);
        let dense = input.windows(2).all(|pair| pair[0].end() == pair[1].base);
        if ends != next || !dense {
            let what = format!("{lane:?}: read {from}..{next}, which is not committed");
            return note(seen, NAME, what);
        }
        let ran = run(deployed, &input, |key| known.state.get(key).cloned());
        if ran.parts != parts {
            let wanted = ran.parts;
            let what = format!("{lane:?}: of {from}..{next} came {parts:?}, not {wanted:?}");
            note(seen, NAME, what);
        }
        known.state.extend(ran.state);
        if deployed.to.is_some() {
            for (n, part) in (0..).zip(parts) {
                let due = known.due.entry(part.to).or_default();
                due.push_back((entry.base.plus(n), part.clone()));
            }
        }
    }

    fn delivered(
        &mut self,
        seen: &mut Violations,
        (lane, to): (Lane, PartitionId),
        (offset, part): (Offset, &Part),
    ) {
        let known = self.lanes.entry(lane).or_default();
        let due = known.due.entry(to).or_default();
        let next = due.pop_front();
        if next.as_ref().is_none_or(|(at, wanted)| (*at, wanted) != (offset, part)) {
            let next = next.map(|(at, _)| at);
            let what = format!("{lane:?}: {to} got the part at {offset}, {next:?} is next");
            note(seen, NAME, what);
        }
        known.marks.insert(to, offset.plus(1));
    }

    /// What the leader of a partition says in the end.
    pub fn ended_state(
        &self,
        seen: &mut Violations,
        (partition, lanes): (PartitionId, &[Deployed]),
        view: &PartitionView,
    ) {
        for deployed in lanes {
            let lane = deployed.lane;
            let Some(known) = self.lanes.get(&lane) else { continue };
            let of_lane = view.state.iter().filter_map(|(key, value)| match keys::read(key) {
                Some((of, meaning)) if of == lane => Some((meaning, value)),
                _ => None,
            });
            let mut state = BTreeMap::new();
            let mut mark = None;
            for (meaning, value) in of_lane {
                match meaning {
                    Meaning::Own(key) => drop(state.insert(key, value.clone())),
                    Meaning::Mark => mark = read_mark(value),
                    _ => {}
                }
            }
            let position = keys_position(view, lane);
            if deployed.home == partition && (state != known.state || position != known.position) {
                let (at, wanted) = (position, known.position);
                let what = format!("{lane:?}: the state at {at:?} is not that of {wanted:?}");
                note(seen, NAME, what);
            }
            if mark != known.marks.get(&partition).copied() {
                let wanted = known.marks.get(&partition);
                let what = format!("{lane:?}: {partition} has mark {mark:?}, not {wanted:?}");
                note(seen, NAME, what);
            }
        }
    }

    /// In the end everything is read and delivered.
    pub fn ended(&self, seen: &mut Violations, lanes: &[Deployed], inputs: &LogsEqual) {
        for Deployed { lane, .. } in lanes {
            let known = self.lanes.get(lane);
            let end = inputs.end(lane.input);
            let position = known.and_then(|known| known.position);
            if position != Some(end) {
                note(seen, NAME, format!("{lane:?}: at {position:?} of {end} in the end"));
            }
            let due = known.into_iter().flat_map(|known| known.due.values());
            let due: usize = due.map(VecDeque::len).sum();
            if due > 0 {
                note(seen, NAME, format!("{lane:?}: {due} parts are not delivered in the end"));
            }
        }
    }
}

fn keys_position(view: &PartitionView, lane: Lane) -> Option<Offset> {
    let mut positions = view
        .state
        .iter()
        .filter(|(key, _)| matches!(keys::read(key), Some((of, Meaning::Position)) if of == lane));
    positions.next().and_then(|(_, value)| keys::read_position(value)).map(|known| known.next)
}
