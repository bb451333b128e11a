//! Virtual time: what happens next, in an order that depends on the seed alone. Every event that is
//! taken out is mixed into a hash, the run's trace: equal seeds must give equal traces.

use crate::event::Event;
use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::hash::Hasher;

/// Microseconds of virtual time.
pub type Micros = u64;

/// One millisecond.
pub const MS: Micros = 1_000;

/// Events to come.
#[derive(Default)]
pub struct Queue {
    order: BinaryHeap<Reverse<(Micros, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    trace: Trace,
}

/// What happened so far, as a hash. The hasher's keys are fixed, so values compare between runs.
#[derive(Default)]
struct Trace(DefaultHasher);

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Queue {
    /// Lets `event` happen at `at`, behind whatever was put there before.
    pub fn push(&mut self, at: Micros, event: Event) {
        self.order.push(Reverse((at, self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// The next event, unless it lies beyond `until`.
    pub fn pop(&mut self, until: Micros) -> Option<(Micros, Event)> {
        let &Reverse((at, number)) = self.order.peek()?;
        if at > until {
            return None;
        }
        self.order.pop();
        let event = self.events.remove(&number)?;
        event.trace(at, &mut self.trace).ok()?;
        Some((at, event))
    }

    /// The hash of all events that happened.
    pub fn trace(&self) -> u64 {
        self.trace.0.finish()
    }
}
