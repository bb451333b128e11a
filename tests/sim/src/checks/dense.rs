//! Offsets are dense, epochs ascend, and an (epoch, offset) names one entry for ever, on whatever
//! disk, acknowledged or not. Append times of what is committed never go back.

use super::{Violations, note};
use crate::disk::{Entry, Log};
use crate::event::Addr;
use std::collections::BTreeMap;
use weir_core::ids::{LeaderEpoch, Offset, PartitionId, TimestampMs};

/// The checker's name.
pub const NAME: &str = "dense";

/// Every entry that was ever written anywhere.
#[derive(Default)]
pub struct Dense {
    named: BTreeMap<(PartitionId, LeaderEpoch, Offset), u64>,
    /// How far each partition was looked at, and the newest append time there.
    times: BTreeMap<PartitionId, (Offset, TimestampMs)>,
}

impl Dense {
    /// A leader takes this entry for committed.
    pub fn committed(&mut self, seen: &mut Violations, partition: PartitionId, entry: &Entry) {
        let first = (Offset::ZERO, TimestampMs(i64::MIN));
        let (end, newest) = self.times.entry(partition).or_insert(first);
        if entry.base < *end {
            return;
        }
        if entry.time < *newest {
            let what = format!("{partition}: time went back from {newest:?} at {entry:?}");
            note(seen, NAME, what);
        }
        (*end, *newest) = (entry.end(), entry.time);
    }

    /// An entry is handed to a log.
    pub fn written(
        &mut self,
        seen: &mut Violations,
        node: Addr,
        partition: PartitionId,
        log: &Log,
        entry: &Entry,
    ) {
        let last = log.entries.last().map_or(LeaderEpoch(0), |last| last.epoch);
        if entry.base != log.end() || entry.epoch < last || entry.count == 0 {
            let end = log.end();
            note(seen, NAME, format!("{partition}: node {node} writes {entry:?} at {end}"));
        }
        let name = (partition, entry.epoch, entry.base);
        let first = *self.named.entry(name).or_insert(entry.id);
        if first != entry.id {
            let id = entry.id;
            note(seen, NAME, format!("node {node}: {name:?} names {first} and {id}"));
        }
    }
}
