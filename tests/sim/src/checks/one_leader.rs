//! One node leads and acknowledges in an epoch. (A node that was started again is told apart by
//! [`super::dense`]: what it writes in an old epoch bears names that were given before.)

use super::{Violations, note};
use crate::event::Addr;
use std::collections::BTreeMap;
use weir_core::ids::{LeaderEpoch, PartitionId};

/// The checker's name.
pub const NAME: &str = "one_leader";

/// Who acted as leader, by epoch.
#[derive(Default)]
pub struct OneLeader {
    leaders: BTreeMap<(PartitionId, LeaderEpoch), Addr>,
}

impl OneLeader {
    /// A node acts as leader.
    pub fn acts(
        &mut self,
        seen: &mut Violations,
        partition: PartitionId,
        epoch: LeaderEpoch,
        node: Addr,
    ) {
        let first = *self.leaders.entry((partition, epoch)).or_insert(node);
        if first != node {
            note(seen, NAME, format!("{partition}: {first} and {node} lead in epoch {epoch}"));
        }
    }
}
