//! What a lane did, for whoever watches.

use super::state::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use weir_core::wire::deployments::{LaneCondition, LaneError, LaneInfo};
use weir_core::{Offset, PartitionIndex, TimestampMs};
use weir_wasm::Report;

/// The figures of one lane.
#[derive(Debug, Default)]
pub struct Meter {
    info: Mutex<LaneInfo>,
    commits: AtomicU64,
    delivered: AtomicI64,
    input_end: AtomicI64,
}

impl Meter {
    /// The meter of the lane of this partition.
    #[must_use]
    pub fn new(partition: PartitionIndex) -> Meter {
        let info = LaneInfo { partition, ..LaneInfo::default() };
        Meter { info: Mutex::new(info), ..Meter::default() }
    }

    /// What the lane says of itself. Lag and state are for the caller to add.
    #[must_use]
    pub fn info(&self) -> LaneInfo {
        lock(&self.info).clone()
    }

    /// How many entries the lane committed.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// What lies below this in the outbox is delivered.
    #[must_use]
    pub fn delivered_to(&self) -> Offset {
        Offset(self.delivered.load(Ordering::Relaxed))
    }

    /// What lies below `next` in the outbox is delivered.
    pub fn delivered(&self, next: Offset) {
        self.delivered.store(next.0, Ordering::Relaxed);
    }

    /// The end of the input, as far as the lane knows.
    #[must_use]
    pub fn known_input_end(&self) -> Offset {
        Offset(self.input_end.load(Ordering::Relaxed))
    }

    /// The input ends here, as far as the lane knows.
    pub fn input_end(&self, end: Offset) {
        self.input_end.store(end.0, Ordering::Relaxed);
    }

    /// The lane is at something else.
    pub fn condition(&self, condition: LaneCondition) {
        lock(&self.info).state = condition;
    }

    /// The lane is here.
    pub fn at(&self, position: Offset) {
        lock(&self.info).position = Some(position);
    }

    /// Something went wrong.
    pub fn failed(
        &self,
        condition: LaneCondition,
        offset: Option<Offset>,
        message: &str,
        at: TimestampMs,
    ) {
        self.note(offset, message, at);
        self.condition(condition);
    }

    /// Something went wrong that stops nothing.
    pub fn note(&self, offset: Option<Offset>, message: &str, at: TimestampMs) {
        let error = LaneError { offset, message: message.to_owned(), at };
        lock(&self.info).last_error = Some(error);
    }

    /// The input partition.
    #[must_use]
    pub fn partition(&self) -> PartitionIndex {
        lock(&self.info).partition
    }

    /// The lane stood still because the module had used its CPU budget.
    pub fn throttled(&self, time: Duration) {
        lock(&self.info).throttled_us += micros(time);
    }

    /// Lines of the module did not get to the log topic.
    pub fn lines_lost(&self, lines: u64) {
        lock(&self.info).log_lines_lost += lines;
    }

    /// The module ran.
    pub fn ran(&self, report: &Report) {
        let mut info = lock(&self.info);
        info.cpu_us += micros(report.cpu);
        info.memory_bytes = report.memory_bytes as u64;
        info.http_requests += report.http.requests;
        info.http_failures += report.http.failures;
        info.http_wait_us += micros(report.http.waited);
    }

    /// An entry is durable: the position behind it, records in and out, errors and dead letters.
    pub fn committed(&self, position: Offset, records: (u64, u64), errors: (u64, u64)) {
        let mut info = lock(&self.info);
        info.position = Some(position);
        info.records_in += records.0;
        info.records_out += records.1;
        info.errors += errors.0;
        info.dead_letters += errors.1;
        info.state = LaneCondition::Running;
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
