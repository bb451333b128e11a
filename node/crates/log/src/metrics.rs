//! A shard's counters and its commit latencies.

use crate::stats::LatencySummary;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) payload_bytes: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) files_verified: AtomicU64,
    pub(crate) clock_suspended: AtomicBool,
    latencies: Mutex<Histogram>,
}

impl Metrics {
    pub(crate) fn record_commit(&self, entries: usize, bytes: usize, took: Duration) {
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.payload_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.record(took);
    }

    pub(crate) fn commit_latency(&self) -> LatencySummary {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        LatencySummary {
            count: latencies.count,
            p50: latencies.percentile(50),
            p99: latencies.percentile(99),
            max: latencies.max,
        }
    }
}

/// Buckets per doubling of the time.
const STEPS: usize = 8;

/// Times in buckets of at most 12.5 % width, from 1 µs up.
#[derive(Debug)]
struct Histogram {
    buckets: [u64; 40 * STEPS],
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [0; 40 * STEPS], count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    fn record(&mut self, took: Duration) {
        let us = (took.as_micros() as u64).max(1) * STEPS as u64;
        let doublings = us.ilog2() as usize - STEPS.ilog2() as usize;
        let step = (us >> doublings) as usize - STEPS;
        let last = self.buckets.len() - 1;
        self.buckets[(doublings * STEPS + step).min(last)] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    /// The upper end of the bucket that holds the percentile, at most the longest time.
    fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (at, &bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                let upper = ((at % STEPS + STEPS + 1) as u64) << (at / STEPS);
                return Duration::from_micros(upper / STEPS as u64).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: percentiles are right to within one bucket.
    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        for (percent, us) in [(50, 500.0), (99, 990.0)] {
            let got = histogram.percentile(percent).as_micros() as f64;
            assert!(us <= got * 1.01 && got <= us * 1.13, "p{percent} is {got}");
        }
        histogram.record(Duration::from_secs(100_000_000));
        assert_eq!(histogram.max, Duration::from_secs(100_000_000));
    }
}
