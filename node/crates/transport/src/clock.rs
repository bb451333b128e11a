//! The time that certificates are checked against.
//!
//! Edge machines boot in 1970 and learn the time minutes later, or never. A clock that is behind
//! the date this program was built is certainly wrong, so it counts as that date: certificates
//! issued before then still work, and certificates that expired before then are still refused.
//! A clock that is ahead is believed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Used when the build gave no date: 2026-01-01T00:00:00Z.
const BUILD_EPOCH_FALLBACK: u64 = 1_767_225_600;

/// Says what time it is, never earlier than the date of this build.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    floor: SystemTime,
}

impl Clock {
    /// The system clock.
    pub fn system() -> Self {
        Self::from_fn(SystemTime::now)
    }

    /// A clock of the caller's making, for tests and simulations.
    pub fn from_fn(source: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { source: Arc::new(source), floor: build_date() }
    }

    /// The same clock, never earlier than `floor` either.
    ///
    /// A node passes the newest append time in its log: a machine that once knew the time and
    /// forgot it over a power cut still knows at least that.
    pub fn with_floor(mut self, floor: SystemTime) -> Self {
        self.floor = self.floor.max(floor);
        self
    }

    /// The time now: the source's, or the floor if that is later.
    pub fn now(&self) -> SystemTime {
        (self.source)().max(self.floor)
    }

    /// Whether the source is certainly wrong: earlier than the floor.
    pub fn is_behind(&self) -> bool {
        (self.source)() < self.floor
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).field("floor", &self.floor).finish()
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let since_epoch = self.now().duration_since(UNIX_EPOCH).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(since_epoch))
    }
}

/// When this program was built (or the date in `SOURCE_DATE_EPOCH` at that time).
pub fn build_date() -> SystemTime {
    let seconds = option_env!("WEIR_BUILD_EPOCH")
        .and_then(|text| text.parse().ok())
        .unwrap_or(BUILD_EPOCH_FALLBACK);
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_reads_the_build_date() {
        let clock = Clock::from_fn(|| UNIX_EPOCH);
        assert!(clock.is_behind());
        assert_eq!(clock.now(), build_date());
    }

    #[test]
    fn a_floor_raises_and_never_lowers() {
        let later = build_date() + Duration::from_secs(60);
        let clock = Clock::from_fn(|| UNIX_EPOCH).with_floor(later).with_floor(UNIX_EPOCH);
        assert_eq!(clock.now(), later);
    }

    #[test]
    fn a_clock_ahead_is_believed() {
        let ahead = build_date() + Duration::from_secs(86_400);
        let clock = Clock::from_fn(move || ahead);
        assert!(!clock.is_behind());
        assert_eq!(clock.now(), ahead);
    }
}
