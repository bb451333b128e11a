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

/// What one module version did as the check of one topic, in all its partitions.
#[derive(Debug, Default)]
pub struct CheckMeter {
    /// Records of the batches that it judged.
    pub records: AtomicU64,
    /// Records that it rejected.
    pub rejected: AtomicU64,
    /// Records of batches that it rewrote.
    pub rewritten: AtomicU64,
    /// Batches that it judged or failed on.
    pub batches: AtomicU64,
    /// Batches that were refused because of records that it rejected.
    pub refused: AtomicU64,
    /// Batches that were refused because it failed.
    pub failed: AtomicU64,
    /// CPU time of its calls, in nanoseconds.
    pub cpu_ns: AtomicU64,
}

/// Meters of checks, by topic and `NAME@VERSION`.
type CheckMeters = BTreeMap<(String, String), Arc<CheckMeter>>;

/// The meters of a node's modules, by `NAME@VERSION`.
#[derive(Debug, Default)]
pub struct Meters {
    filters: Mutex<BTreeMap<String, Arc<FilterMeter>>>,
    checks: Mutex<CheckMeters>,
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

    /// The meter of a module version as the check of a topic.
    pub fn of_check(&self, topic: &str, module: &str) -> Arc<CheckMeter> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.entry((topic.to_owned(), module.to_owned())).or_default().clone()
    }

    /// All meters of checks, with topic and module.
    #[must_use]
    pub fn checks(&self) -> Vec<((String, String), Arc<CheckMeter>)> {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.iter().map(|(names, meter)| (names.clone(), meter.clone())).collect()
    }

    /// Forgets the meters of a module version that was deleted. Filters that still run count on for
    /// nobody.
    pub fn forget(&self, module: &str) {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner).remove(module);
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|(_, of), _| of != module);
    }

    /// Forgets the meters of a topic that was deleted.
    pub fn forget_topic(&self, topic: &str) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|(of, _), _| of != topic);
    }
}
