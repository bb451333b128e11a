//! The high watermark that a consumer is told never goes back, whoever tells it, and nothing is
//! handed out beyond it.
//!
//! Answers overtake one another in the simulated network, which they cannot on a stream; so it is
//! compared with what the consumer knew when it asked: an answer tells at least what was told to
//! anybody before it was made. The nodes stamp their answers in the order in which they make them.

use super::{Violations, note};
use crate::event::{Addr, Fetched};
use std::collections::BTreeMap;
use weir_core::ids::{Offset, PartitionId};

/// The checker's name.
pub const NAME: &str = "watermark";

/// The highest watermark that each consumer was told.
#[derive(Default)]
pub struct Watermark {
    told: BTreeMap<(Addr, PartitionId), (u64, Offset)>,
}

impl Watermark {
    /// A consumer was told something.
    pub fn shown(
        &mut self,
        seen: &mut Violations,
        consumer: Addr,
        partition: PartitionId,
        fetched: &Fetched,
    ) {
        let Some(watermark) = fetched.watermark else { return };
        let end = fetched.entries.last().map_or(Offset::ZERO, |entry| entry.end());
        if end > watermark {
            note(seen, NAME, format!("{partition}: {consumer} saw {end} beyond {watermark}"));
        }
        let told = self.told.entry((consumer, partition)).or_default();
        if fetched.order < told.0 {
            return;
        }
        if watermark < told.1 {
            let before = told.1;
            note(seen, NAME, format!("{partition}: {consumer} saw {watermark} after {before}"));
        }
        *told = (fetched.order, watermark);
    }
}
