//! How long to wait before the next try: exponential, with jitter. Pure.

use std::time::Duration;

/// Bounds of a growing delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub first: Duration,
    /// Delays grow no further than this.
    pub most: Duration,
}

impl Backoff {
    /// Between attempts to connect.
    pub const CONNECT: Backoff =
        Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };
    /// Between tries of a request or batch that a node turned away for now.
    pub const RETRY: Backoff =
        Backoff { first: Duration::from_millis(20), most: Duration::from_secs(2) };

    /// The delay after `failures` failures in a row: doubling from the first, and between half and
    /// all of that, so that clients of one node do not come back in step. `random` is uniform in
    /// `0.0..1.0`.
    pub fn delay(self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The same with this thread's random numbers.
    pub fn jittered(self, failures: u32) -> Duration {
        self.delay(failures, fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: it grows, within its bounds, whatever the count and the randomness.
    #[test]
    fn delays_double_up_to_the_bound() {
        let backoff =
            Backoff { first: Duration::from_millis(10), most: Duration::from_millis(100) };
        let whole = |failures| backoff.delay(failures, 1.0).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 5, 60].map(whole), [10, 10, 20, 40, 80, 100, 100]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), Duration::from_millis(50));
    }
}
