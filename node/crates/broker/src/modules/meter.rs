//! What modules did, counted since the node's start.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

/// What the filters of one module version did, on all subscriptions together.
#[derive(Debug, Default)]
pub struct FilterMeter {
    /// Records that it was asked about.
    pub records: AtomicU64,
    /// Records that it kept.
    pub kept: AtomicU64,
    /// Records that it could not judge.
    pub failed: AtomicU64,
    /// CPU time of its calls, in nanoseconds.
    pub cpu_ns: AtomicU64,
}

/// The meters of a node's modules, by `NAME@VERSION`.
#[derive(Debug, Default)]
pub struct Meters {
    filters: Mutex<BTreeMap<String, Arc<FilterMeter>>>,
}

impl Meters {
    /// The meter of a module version.
    pub fn of(&self, module: &str) -> Arc<FilterMeter> {
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.entry(module.to_owned()).or_default().clone()
    }

    /// All meters.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<FilterMeter>)> {
        let filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        filters.iter().map(|(name, meter)| (name.clone(), meter.clone())).collect()
    }

    /// Forgets the meter of a module version that was deleted. Filters that still run count on for
    /// nobody.
    pub fn forget(&self, module: &str) {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner).remove(module);
    }
}
