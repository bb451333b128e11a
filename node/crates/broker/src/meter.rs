//! Counters and rates of one partition. No background work: a rate decays when it is read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time over which rates are averaged.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// What came into and went out of a partition since the node started.
#[derive(Debug, Default)]
pub struct Meter {
    /// Records appended.
    pub records_in: AtomicU64,
    /// Bytes of batches appended.
    pub bytes_in: AtomicU64,
    /// Bytes of batches sent to subscriptions.
    pub bytes_out: AtomicU64,
    /// Open subscriptions.
    pub subscriptions: AtomicU32,
    rates: Mutex<[Rate; 3]>,
}

/// Averages of late, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Records appended.
    pub records_in: f64,
    /// Bytes appended.
    pub bytes_in: f64,
    /// Bytes sent.
    pub bytes_out: f64,
}

impl Meter {
    /// Counts an appended batch.
    pub fn appended(&self, now: Instant, records: u32, bytes: usize) {
        self.records_in.fetch_add(u64::from(records), Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut rates = self.rates.lock().unwrap_or_else(|e| e.into_inner());
        rates[0].add(now, f64::from(records));
        rates[1].add(now, bytes as f64);
    }

    /// Counts batches sent to a subscription.
    pub fn sent(&self, now: Instant, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        let mut rates = self.rates.lock().unwrap_or_else(|e| e.into_inner());
        rates[2].add(now, bytes as f64);
    }

    /// The rates as of `now`.
    pub fn rates(&self, now: Instant) -> Rates {
        let rates = self.rates.lock().unwrap_or_else(|e| e.into_inner());
        Rates {
            records_in: rates[0].per_second(now),
            bytes_in: rates[1].per_second(now),
            bytes_out: rates[2].per_second(now),
        }
    }
}

/// An exponentially decaying sum: events count less the longer ago they were.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    sum: f64,
    at: Option<Instant>,
}

impl Rate {
    fn add(&mut self, now: Instant, amount: f64) {
        self.sum = self.decayed(now) + amount;
        self.at = Some(now);
    }

    fn decayed(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let age = now.saturating_duration_since(at).as_secs_f64();
        self.sum * (-age / RATE_WINDOW.as_secs_f64()).exp()
    }

    fn per_second(&self, now: Instant) -> f64 {
        self.decayed(now) / RATE_WINDOW.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a steady stream shows its rate, and silence brings it to nothing.
    #[test]
    fn rate() {
        let meter = Meter::default();
        let start = Instant::now();
        for ms in (0..100_000).step_by(100) {
            meter.appended(start + Duration::from_millis(ms), 10, 1_000);
        }
        let steady = meter.rates(start + Duration::from_secs(100));
        assert!((95.0..105.0).contains(&steady.records_in), "{steady:?}");
        assert!((9_500.0..10_500.0).contains(&steady.bytes_in), "{steady:?}");
        let silent = meter.rates(start + Duration::from_secs(300));
        assert!(silent.records_in < 0.001, "{silent:?}");
        assert_eq!(silent.bytes_out, 0.0);
    }
}
