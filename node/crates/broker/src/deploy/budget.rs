//! How much CPU time the module of a deployment may take on this node. Pure.
//!
//! CPU time trickles into a bucket at the deployment's share of a core, and every call of the
//! module takes out what it took. A call is never cut short for it: the bucket may come to owe,
//! and the lanes then stand still until it does not. What is not used is kept for
//! [`DEPLOYMENT_CPU_WINDOW`] at most.

use super::state::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use weir_core::limits::DEPLOYMENT_CPU_WINDOW;

/// The budget of one deployment, which its lanes share.
#[derive(Debug)]
pub struct CpuBudget {
    /// In percent of one core.
    percent: Option<u32>,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// CPU time that may be taken, in nanoseconds; negative if too much was.
    level: i128,
    at: Instant,
}

impl CpuBudget {
    /// The budget of a deployment that asks for `wanted` percent of a core, where the node allows
    /// `most`; 0 is no bound, of either. Its first second is free to be used at once.
    #[must_use]
    pub fn new(wanted: u32, most: u32, now: Instant) -> CpuBudget {
        let percent = [wanted, most].into_iter().filter(|percent| *percent > 0).min();
        let level = percent.map_or(0, |percent| share(DEPLOYMENT_CPU_WINDOW, percent));
        CpuBudget { percent, bucket: Mutex::new(Bucket { level, at: now }) }
    }

    /// The module took this much.
    pub fn spend(&self, cpu: Duration, now: Instant) {
        if let Some(percent) = self.percent {
            let mut bucket = lock(&self.bucket);
            bucket.fill(percent, now);
            bucket.level -= nanos(cpu);
        }
    }

    /// How long to wait until the module may run again; `None`: it may.
    #[must_use]
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        let percent = self.percent?;
        let mut bucket = lock(&self.bucket);
        bucket.fill(percent, now);
        let owed = -bucket.level;
        if owed <= 0 {
            return None;
        }
        let pause = u64::try_from(owed * 100 / i128::from(percent) + 1);
        Some(Duration::from_nanos(pause.unwrap_or(u64::MAX)))
    }
}

impl Bucket {
    fn fill(&mut self, percent: u32, now: Instant) {
        let most = share(DEPLOYMENT_CPU_WINDOW, percent);
        let more = share(now.saturating_duration_since(self.at), percent);
        self.level = (self.level + more).min(most);
        self.at = self.at.max(now);
    }
}

/// CPU time that comes in during `time`.
fn share(time: Duration, percent: u32) -> i128 {
    nanos(time) * i128::from(percent) / 100
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Goal: over any time the module gets its share and no more than a window's besides, whatever
    /// the size of its calls.
    #[test]
    fn share_of_a_core() {
        for (percent, call_ms) in [(25, 1), (25, 400), (1, 1_000), (150, 90)] {
            let start = Instant::now();
            let budget = CpuBudget::new(percent, 0, start);
            let (mut now, mut spent) = (start, Duration::ZERO);
            while now < start + 600 * DEPLOYMENT_CPU_WINDOW {
                match budget.pause(now) {
                    Some(pause) => now += pause,
                    None => {
                        // One core: a call takes as long as its CPU time.
                        now += MS * call_ms;
                        spent += MS * call_ms;
                        budget.spend(MS * call_ms, now);
                    }
                }
            }
            let share = (now - start).mul_f64(f64::from(percent.min(100)) / 100.0);
            let besides = DEPLOYMENT_CPU_WINDOW.mul_f64(f64::from(percent) / 100.0);
            assert!(spent <= share + besides + 2 * MS * call_ms, "{percent} %: {spent:?}");
            assert!(spent + 2 * MS * call_ms >= share, "{percent} %: {spent:?}");
        }
    }

    /// Goal: the smaller of two bounds counts, and none is none.
    #[test]
    fn bounds() {
        let start = Instant::now();
        let hour = Duration::from_secs(3_600);
        let free = CpuBudget::new(0, 0, start);
        free.spend(hour, start);
        assert_eq!(free.pause(start), None);
        for (wanted, most) in [(50, 0), (0, 50), (50, 80), (80, 50)] {
            let budget = CpuBudget::new(wanted, most, start);
            assert_eq!(budget.pause(start), None);
            budget.spend(MS * 501, start);
            let pause = budget.pause(start).expect("it owes a millisecond");
            assert!((2 * MS..3 * MS).contains(&pause), "{pause:?}");
            assert_eq!(budget.pause(start + pause), None);
        }
    }
}
