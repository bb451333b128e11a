//! What is deployed, and what its module does: work that depends on nothing but the input and the
//! state. Each record gives none to three outputs, which its content chooses, and moves one of
//! some chained counters; what it gives depends on that counter. So an output or a state that was
//! made from the wrong records, twice, or in another order is not what it should be.

use crate::disk::Entry;
use bytes::Bytes;
use std::collections::BTreeMap;
use weir_core::deploy::DeploymentId;
use weir_core::deploy::keys::Lane;
use weir_core::ids::{Offset, PartitionId};

/// How many counters there are.
const COUNTERS: u64 = 64;

/// A lane of a deployment, and where it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The lane.
    pub lane: Lane,
    /// Whose entries hold its state and position.
    pub home: PartitionId,
    /// Where its outputs go, if not into the home itself, which is an outbox then.
    pub to: Option<[PartitionId; 2]>,
}

/// The lanes of a world, in some order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// None.
    None,
    /// One transform with one destination.
    Direct,
    /// One transform with several destinations.
    Outbox,
    /// Both, the second with two lanes if there are two inputs.
    Both,
}

impl Shape {
    /// The lanes that work on these inputs.
    #[must_use]
    pub fn lanes(self, inputs: &[PartitionId]) -> Vec<Deployed> {
        let lane = |deployment, input| Lane { deployment: DeploymentId(deployment), input };
        let home = |base: u32, input: PartitionId| PartitionId(base + input.0);
        let direct =
            |input: PartitionId| Deployed { lane: lane(1, input), home: home(10, input), to: None };
        let outbox = |input: PartitionId| Deployed {
            lane: lane(2, input),
            home: home(20, input),
            to: Some([PartitionId(31), PartitionId(32)]),
        };
        let first = inputs.iter().copied().take(1);
        match self {
            Shape::None => Vec::new(),
            Shape::Direct => first.map(direct).collect(),
            Shape::Outbox => first.map(outbox).collect(),
            Shape::Both => {
                first.map(direct).chain(inputs.iter().copied().take(2).map(outbox)).collect()
            }
        }
    }
}

/// The partitions that lanes write to.
#[must_use]
pub fn partitions(lanes: &[Deployed]) -> Vec<PartitionId> {
    let homes = lanes.iter().map(|deployed| deployed.home);
    let to = lanes.iter().filter_map(|deployed| deployed.to).flatten();
    let mut all: Vec<_> = homes.chain(to).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Outputs for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The destination.
    pub to: PartitionId,
    /// The outputs, in order.
    pub values: Vec<u64>,
}

/// What an entry of a home or destination holds besides keyed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What a lane made of its input from this offset on. With one destination the one part's
    /// values are the entry's records; or else the parts are.
    Run {
        /// The first offset that was read.
        from: Offset,
        /// The outputs.
        parts: Vec<Part>,
    },
    /// A part of an outbox, delivered.
    Delivered {
        /// Whose.
        lane: Lane,
        /// Its offset in the outbox.
        offset: Offset,
        /// The outputs.
        part: Part,
    },
}

/// What a run of the module made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Outputs, by destination.
    pub parts: Vec<Part>,
    /// Changes of the module's state.
    pub state: BTreeMap<Bytes, Bytes>,
}

/// Runs the module over input entries, on top of what `stored` says of its state.
pub fn run(deployed: &Deployed, input: &[Entry], stored: impl Fn(&Bytes) -> Option<Bytes>) -> Ran {
    let mut ran = Ran::default();
    let records = input.iter().flat_map(|entry| (0..entry.count).map(|n| (entry.id, n)));
    for (id, n) in records {
        let record = mix(id ^ (u64::from(n) << 40));
        let key = Bytes::from(format!("counter-{}", record % COUNTERS));
        let before = ran.state.get(&key).cloned().or_else(|| stored(&key));
        let before =
            before.and_then(|bytes| bytes[..].try_into().ok()).map_or(0, u64::from_le_bytes);
        let after = mix(before ^ record);
        ran.state.insert(key, Bytes::copy_from_slice(&after.to_le_bytes()));
        for output in 0..(record >> 8) % 4 {
            let value = mix(after ^ output);
            let to = deployed.to.map_or(deployed.home, |to| to[(value % 2) as usize]);
            match ran.parts.iter_mut().find(|part| part.to == to) {
                Some(part) => part.values.push(value),
                None => ran.parts.push(Part { to, values: vec![value] }),
            }
        }
    }
    // As in the order of destinations.
    ran.parts.sort_by_key(|part| part.to);
    ran
}

/// A number that depends on every bit of another (splitmix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
