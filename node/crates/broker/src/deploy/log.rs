//! The last lines that a deployment's module logged, in memory: they end with the node.

use super::state::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use weir_core::limits::{DEPLOYMENT_LOG_BYTES_MAX, DEPLOYMENT_LOG_LINES_MAX};
use weir_core::wire::deployments::{ModuleLevel, ModuleLine};
use weir_core::{PartitionIndex, TimestampMs};
use weir_wasm::Report;
use weir_wasm::abi::LogLevel;

/// The lines of one deployment, all partitions together.
#[derive(Debug, Default)]
pub struct ModuleLog {
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<ModuleLine>,
    bytes: usize,
    next: u64,
    /// Numbers are no lower than the time in microseconds: lines of several nodes are ordered by
    /// them.
    timed: bool,
}

impl ModuleLog {
    /// No lines yet, of one node among several.
    #[must_use]
    pub fn of_several() -> ModuleLog {
        ModuleLog { lines: Mutex::new(Lines { timed: true, ..Lines::default() }) }
    }

    /// Keeps what a run of the module logged, and says how much of it was dropped.
    pub fn take(&self, partition: PartitionIndex, report: &Report, at: TimestampMs) {
        if report.log.is_empty() && report.log_dropped == 0 {
            return;
        }
        let mut lines = lock(&self.lines);
        for line in &report.log {
            lines.add(partition, at, level(line.level), line.message.clone());
        }
        if report.log_dropped > 0 {
            let message = format!("{} more lines of one batch were dropped", report.log_dropped);
            lines.add(partition, at, ModuleLevel::Warn, message);
        }
    }

    /// Lines from the number `from` on, or the last ones; `count` at most. And the number of the
    /// line that comes next: behind those that are returned.
    #[must_use]
    pub fn lines(&self, from: Option<u64>, count: usize) -> (Vec<ModuleLine>, u64) {
        let lines = lock(&self.lines);
        let begin = match from {
            Some(from) => lines.kept.partition_point(|line| line.number < from),
            None => lines.kept.len().saturating_sub(count),
        };
        let found: Vec<_> = lines.kept.iter().skip(begin).take(count).cloned().collect();
        let next = found.last().map_or(lines.next, |last| last.number + 1);
        (found, next)
    }
}

impl Lines {
    fn add(
        &mut self,
        partition: PartitionIndex,
        at: TimestampMs,
        level: ModuleLevel,
        message: String,
    ) {
        if self.timed {
            let micros = u64::try_from(at.0).unwrap_or(0).saturating_mul(1_000);
            self.next = self.next.max(micros);
        }
        self.bytes += message.len();
        self.kept.push_back(ModuleLine { number: self.next, at, partition, level, message });
        self.next += 1;
        while self.kept.len() > DEPLOYMENT_LOG_LINES_MAX || self.bytes > DEPLOYMENT_LOG_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.message.len();
        }
    }
}

/// The same as the wire has it.
pub fn level(level: LogLevel) -> ModuleLevel {
    match level {
        LogLevel::Error => ModuleLevel::Error,
        LogLevel::Warn => ModuleLevel::Warn,
        LogLevel::Info => ModuleLevel::Info,
        LogLevel::Debug => ModuleLevel::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_wasm::LogLine;

    fn take(log: &ModuleLog, messages: impl IntoIterator<Item = String>, dropped: u32) {
        let line = |message| LogLine { level: LogLevel::Info, message };
        let lines = messages.into_iter().map(line).collect();
        let report = Report { log: lines, log_dropped: dropped, ..Report::default() };
        log.take(PartitionIndex(3), &report, TimestampMs(9));
    }

    /// Goal: the last lines are kept within both bounds, numbered without gaps, and whoever follows
    /// gets each line once.
    #[test]
    fn the_last_lines() {
        let log = ModuleLog::default();
        assert_eq!(log.lines(None, 10), (vec![], 0));
        take(&log, (0..5).map(|n| n.to_string()), 7);
        let (lines, next) = log.lines(None, 2);
        assert_eq!((lines[0].number, &*lines[0].message), (4, "4"));
        assert!(lines[1].message.starts_with("7 more lines"), "{lines:?}");
        assert_eq!(next, 6);
        assert_eq!(log.lines(Some(6), 10), (vec![], 6));
        take(&log, ["a".into(), "b".into()], 0);
        let (first, next) = log.lines(Some(6), 1);
        let (second, last) = log.lines(Some(next), 1);
        assert_eq!((&*first[0].message, &*second[0].message, last), ("a", "b", 8));

        take(&log, (0..DEPLOYMENT_LOG_LINES_MAX).map(|n| n.to_string()), 0);
        let (all, _) = log.lines(Some(0), usize::MAX);
        assert_eq!((all.len(), all[0].number), (DEPLOYMENT_LOG_LINES_MAX, 8));
        take(&log, (0..3).map(|_| "x".repeat(DEPLOYMENT_LOG_BYTES_MAX / 2)), 0);
        assert_eq!(log.lines(Some(0), usize::MAX).0.len(), 2);
    }
}
