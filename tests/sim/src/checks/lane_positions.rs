//! A lane's committed position never goes back, in the order of its home's log.

use super::{Violations, note};
use crate::disk::Entry;
use crate::lane::stored_position;
use crate::transform::Deployed;
use std::collections::BTreeMap;
use weir_core::deploy::keys::Lane;
use weir_core::ids::{Offset, PartitionId};

/// The checker's name.
pub const NAME: &str = "lane_positions";

/// How far each lane is, and how far its home was looked at.
#[derive(Default)]
pub struct LanePositions {
    known: BTreeMap<Lane, (Offset, Offset)>,
}

impl LanePositions {
    /// A leader takes this entry for committed.
    pub fn committed(
        &mut self,
        seen: &mut Violations,
        (partition, lanes): (PartitionId, &[Deployed]),
        entry: &Entry,
    ) {
        for deployed in lanes.iter().filter(|deployed| deployed.home == partition) {
            let lane = deployed.lane;
            let (end, before) = self.known.entry(lane).or_default();
            let Some(position) = stored_position(lane, &entry.state) else { continue };
            if entry.base < *end {
                continue;
            }
            *end = entry.end();
            if position < *before {
                let at = entry.base;
                note(seen, NAME, format!("{lane:?} went back from {before} to {position}: {at}"));
            }
            *before = position;
        }
    }
}
