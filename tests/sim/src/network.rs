//! Links between nodes and clients, each direction for itself: a link may be cut, and messages on
//! it are lost, doubled, delayed and so overtake one another.

use crate::event::Addr;
use crate::queue::{MS, Micros};
use std::collections::BTreeMap;

/// The network.
#[derive(Debug, Default)]
pub struct Network {
    /// How often each direction is cut, by faults that overlap.
    cut: BTreeMap<(Addr, Addr), u32>,
    /// Of a thousand messages so many are lost.
    pub lost: u32,
    /// Of a thousand messages so many come twice.
    pub doubled: u32,
    /// The longest ordinary delay.
    pub delay_max: Micros,
    /// Of a thousand messages so many are very late.
    pub late: u32,
}

impl Network {
    /// Lets nothing pass from one to the other.
    pub fn cut(&mut self, from: Addr, to: Addr) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    /// Ends one such fault.
    pub fn mend(&mut self, from: Addr, to: Addr) {
        if let Some(count) = self.cut.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        *self = Network { delay_max: 2 * MS, ..Network::default() };
    }

    /// Whether messages pass.
    pub fn passes(&self, from: Addr, to: Addr) -> bool {
        self.cut.get(&(from, to)).is_none_or(|&count| count == 0)
    }

    /// When copies of a message that is sent now arrive; none if it is lost.
    pub fn delays(&self, random: &mut fastrand::Rng, from: Addr, to: Addr) -> Vec<Micros> {
        if !self.passes(from, to) || random.u32(0..1_000) < self.lost {
            return Vec::new();
        }
        let copies = if random.u32(0..1_000) < self.doubled { 2 } else { 1 };
        let delay = |_| {
            let late = random.u32(0..1_000) < self.late;
            let max = if late { 1_000 * MS } else { self.delay_max };
            50 + random.u64(0..=max)
        };
        (0..copies).map(delay).collect()
    }
}
