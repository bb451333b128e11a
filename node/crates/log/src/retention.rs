//! What may go: by age, by size, and never because a clock jumped.
//!
//! Age is that of the append time. It counts only while the clock is trusted: a forward step of
//! more than an hour, seen as wall time outrunning monotonic time, suspends it until somebody
//! confirms the time; so does a start with records from before there were any. A clock that lies
//! before the newest append expires nothing.

use crate::config::Retention;
use crate::index::{PartitionIndex, Run, Segment};
use crate::log::control;
use crate::shard::Shard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir_core::entry::EntryKind;
use weir_core::{Offset, PartitionId, TimestampMs};

/// A forward step of the wall clock beyond this is not believed at once.
const STEP_MAX_MS: i64 = 3_600_000;
/// 2026-01-01T00:00:00Z. There was no log to append to before it, so a record with an older append
/// time was stamped by a clock that was wrong, and nobody knows its age.
const FIRST_APPEND_TIME: TimestampMs = TimestampMs(1_767_225_600_000);

/// A stretch of a partition's log, as far as expiry is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    /// The newest append time in it.
    pub(crate) append_time: TimestampMs,
}

/// Where the log may start: behind the expired ones of `extents`, which are in log order and hold
/// `total_bytes` together. `now` is `None` while the clock is not trusted.
///
/// By size, an extent goes if what is left without it is still as much as is to be kept.
pub(crate) fn expired_end(
    extents: impl IntoIterator<Item = Extent>,
    total_bytes: u64,
    retention: &Retention,
    now: Option<TimestampMs>,
) -> Option<Offset> {
    let oldest = now.zip(retention.age_ms).map(|(now, age)| now.0.saturating_sub(age));
    let mut left = total_bytes;
    let mut end = None;
    for extent in extents {
        let without = left.saturating_sub(extent.bytes);
        let too_old = oldest.is_some_and(|oldest| extent.append_time.0 < oldest)
            && without >= retention.min_bytes;
        let too_much = retention.bytes.is_some_and(|bytes| without >= bytes);
        if !too_old && !too_much {
            break;
        }
        left = without;
        end = Some(extent.end);
    }
    end
}

/// Watches the wall clock for steps.
#[derive(Debug, Default)]
pub(crate) struct ClockWatch {
    last: Option<(TimestampMs, Duration)>,
    suspended: bool,
}

impl ClockWatch {
    /// Begins to watch.
    pub(crate) fn begin(wall: TimestampMs, monotonic: Duration) -> ClockWatch {
        ClockWatch { last: Some((wall, monotonic)), suspended: false }
    }

    /// The log holds records whose append time is impossible. Unless the clock is still as wrong,
    /// it stepped while nobody watched: before this start.
    pub(crate) fn impossible_times(&mut self, wall: TimestampMs) {
        if wall >= FIRST_APPEND_TIME {
            tracing::warn!(
                "there are records of a clock that was wrong: retention by age is suspended"
            );
            self.suspended = true;
        }
    }

    /// Whether the clock is trusted.
    pub(crate) fn observe(&mut self, wall: TimestampMs, monotonic: Duration) -> bool {
        if let Some((last_wall, last_monotonic)) = self.last {
            let passed = monotonic.saturating_sub(last_monotonic).as_millis() as i64;
            let step = wall.0.saturating_sub(last_wall.0).saturating_sub(passed);
            if step > STEP_MAX_MS {
                tracing::warn!(step_ms = step, "the clock jumped: retention by age is suspended");
                self.suspended = true;
            }
        }
        self.last = Some((wall, monotonic));
        !self.suspended
    }

    /// The wall clock is right.
    pub(crate) fn confirm(&mut self) {
        self.suspended = false;
    }
}

impl Shard {
    /// Whether records that age would let go were stamped at a time when there was no log.
    pub(crate) fn has_impossible_times(&self) -> bool {
        let all = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        let by_age = all.iter().filter(|(_, retention)| retention.age_ms.is_some());
        let by_age: Vec<PartitionId> = by_age.map(|(&partition, _)| partition).collect();
        by_age.into_iter().any(|partition| {
            let (first, log_start) = {
                let index = self.read_index();
                let Some(places) = index.get(&partition) else { return false };
                let Some(first) = places.segments.first() else { return false };
                (first.clone(), places.log_start)
            };
            first.summary.append_min < FIRST_APPEND_TIME
                && self.runs_of(partition, &first).is_ok_and(|runs| {
                    let kept = runs.iter().find(|run| run.end > log_start);
                    kept.is_some_and(|run| run.append_time < FIRST_APPEND_TIME)
                })
        })
    }

    /// Asks the writer to move the log starts that retention allows to move.
    pub(crate) fn apply_retention(&self, now: Option<TimestampMs>) {
        self.metrics.clock_suspended.store(now.is_none(), Ordering::Relaxed);
        let all = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<(PartitionId, Retention)> = all.iter().map(|(&p, &r)| (p, r)).collect();
        for (partition, retention) in all {
            if let Some((start, cuts)) = self.expired(partition, &retention, now) {
                let request = control(EntryKind::LogStart, partition, start);
                // What expired is of the log as it was when it was looked at.
                let index = self.read_index();
                if index.get(&partition).is_none_or(|places| places.cuts != cuts) {
                    continue;
                }
                if let Err(error) = self.queue.push(request) {
                    tracing::debug!(%partition, %error, "retention waits for the next round");
                    return;
                }
            }
        }
    }

    /// The partition's new log start, if there is one, and how often the log was cut by then.
    fn expired(
        &self,
        partition: PartitionId,
        retention: &Retention,
        now: Option<TimestampMs>,
    ) -> Option<(Offset, u64)> {
        let (whole, first, left, now, cuts) = {
            let index = self.read_index();
            let places = index.get(&partition)?;
            // The clock was set back: what looks new may be old, and the other way round.
            let now = now.filter(|now| *now >= places.append_time);
            let (end, gone, left) = places.expired_segments(retention, now);
            let Some(first) = places.segments.get(gone) else {
                return end.zip(Some(places.cuts));
            };
            if first.is_untouched(left, retention, now) {
                return end.zip(Some(places.cuts));
            }
            (end, first.clone(), left, now, places.cuts)
        };
        // The first segment that stays as a whole may still lose its first runs.
        let runs = self.runs_of(partition, &first).ok()?;
        let start = first.summary.end.min(whole.unwrap_or(first.summary.start));
        let runs = runs.iter().filter(|run| run.end > start).map(extent_of);
        expired_end(runs, left, retention, now).or(whole).zip(Some(cuts))
    }
}

impl PartitionIndex {
    /// What goes of whole segments: the new log start, how many go, and the bytes that stay.
    fn expired_segments(
        &self,
        retention: &Retention,
        now: Option<TimestampMs>,
    ) -> (Option<Offset>, usize, u64) {
        let extents = self.segments.iter().map(|segment| Extent {
            end: segment.summary.end,
            bytes: segment.summary.bytes_from(self.log_start),
            append_time: segment.summary.append_max,
        });
        let total = self.bytes();
        let end = expired_end(extents.clone(), total, retention, now);
        let goes = |segment: &Segment| end.is_some_and(|end| segment.summary.end <= end);
        let gone = self.segments.partition_point(goes);
        let gone_bytes: u64 = extents.take(gone).map(|extent| extent.bytes).sum();
        (end, gone, total - gone_bytes.min(total))
    }
}

impl Segment {
    /// Whether no part of it can go, as far as its summary tells.
    fn is_untouched(&self, left: u64, retention: &Retention, now: Option<TimestampMs>) -> bool {
        let oldest = now.zip(retention.age_ms).map(|(now, age)| now.0.saturating_sub(age));
        let young = oldest.is_none_or(|oldest| self.summary.append_min.0 >= oldest);
        young && retention.bytes.is_none_or(|bytes| left <= bytes)
    }
}

fn extent_of(run: &Run) -> Extent {
    Extent { end: run.end, bytes: u64::from(run.bytes), append_time: run.append_time }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents() -> Vec<Extent> {
        (1..=5)
            .map(|n| Extent {
                end: Offset(n * 10),
                bytes: 100,
                append_time: TimestampMs(n * 1_000),
            })
            .collect()
    }

    fn end(retention: Retention, now: Option<i64>) -> Option<i64> {
        expired_end(extents(), 500, &retention, now.map(TimestampMs)).map(|end| end.0)
    }

    /// Goal: age and size each let the oldest go, and no more than they must.
    #[test]
    fn bounds() {
        let age = |age_ms| Retention { age_ms: Some(age_ms), ..Retention::default() };
        let size = |bytes| Retention { bytes: Some(bytes), ..Retention::default() };
        assert_eq!(end(age(2_000), Some(5_000)), Some(20));
        assert_eq!(end(age(2_001), Some(4_000)), Some(10));
        assert_eq!(end(age(1_000), None), None);
        assert_eq!(end(age(0), Some(99_999)), Some(50));
        assert_eq!(end(size(500), Some(0)), None);
        assert_eq!(end(size(401), None), None);
        assert_eq!(end(size(400), None), Some(10));
        assert_eq!(end(size(0), None), Some(50));
        let both = Retention { age_ms: Some(4_000), bytes: Some(250), min_bytes: 0 };
        assert_eq!(end(both, Some(5_500)), Some(20));
        assert_eq!(end(Retention::default(), Some(i64::MAX)), None);
        let floor = |min_bytes| Retention { min_bytes, ..age(0) };
        assert_eq!(end(floor(200), Some(99_999)), Some(30));
        assert_eq!(end(floor(201), Some(99_999)), Some(20));
        assert_eq!(end(Retention { bytes: Some(100), ..floor(200) }, Some(99_999)), Some(40));
    }

    /// Goal: a step that nobody saw, before the start, suspends, unless the clock is still wrong;
    /// a step soon after the start is seen.
    #[test]
    fn a_step_before_the_start() {
        let (early, now) = (TimestampMs(90_000), TimestampMs(FIRST_APPEND_TIME.0 + 1_000));
        let begin = |wall| ClockWatch::begin(wall, Duration::ZERO);
        let mut stepped = begin(now);
        stepped.impossible_times(now);
        assert!(!stepped.observe(now, Duration::ZERO));
        stepped.confirm();
        assert!(stepped.observe(now, Duration::ZERO));
        let mut wrong = begin(early);
        wrong.impossible_times(early);
        assert!(wrong.observe(early, Duration::ZERO));
        assert!(!wrong.observe(now, Duration::ZERO), "the first step after the start counts");
    }

    /// Goal: only a forward step beyond an hour suspends, and only confirmation ends it.
    #[test]
    fn steps() {
        let mut watch = ClockWatch::default();
        let at = Duration::from_secs;
        assert!(watch.observe(TimestampMs(0), at(0)));
        assert!(watch.observe(TimestampMs(3_600_000), at(10)));
        assert!(watch.observe(TimestampMs(100_000_000), at(96_400)));
        assert!(watch.observe(TimestampMs(0), at(96_401)));
        assert!(!watch.observe(TimestampMs(1_800_000_000_000), at(96_402)));
        assert!(!watch.observe(TimestampMs(1_800_000_001_000), at(96_403)));
        watch.confirm();
        assert!(watch.observe(TimestampMs(1_800_000_002_000), at(96_404)));
    }
}
