//! The one place where the log asks what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use weir_core::TimestampMs;

/// Wall time and monotonic time, as the log's background work sees them.
pub trait Clock: Send + Sync {
    /// The wall clock. May jump either way at any moment.
    fn now(&self) -> TimestampMs;
    /// Time since some fixed moment of this process. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> TimestampMs {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        TimestampMs(ms)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
