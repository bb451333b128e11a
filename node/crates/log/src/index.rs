//! Where each partition's entries are: per file, as runs of neighbouring bytes.
//!
//! Invariant: a partition's segments are in log order, in different files, and each one's runs are
//! in log order. Together they cover `log_start..end` without a hole, unless the disk lost some.
//!
//! A run's layout in a file's `index` table (little-endian, 44 bytes): `i64` base offset, `i64` end
//! offset, `u64` position, `u32` bytes, `i64` newest event time, `i64` append time. A summary's
//! layout in `summary` (48 bytes): `i64` start, `i64` end, `u64` bytes, `i64` newest event time,
//! `i64` oldest and `i64` newest append time.

use crate::file::LogFile;
use bytes::{Buf, BufMut};
use std::collections::HashMap;
use std::sync::Arc;
use weir_core::entry::EntryHeader;
use weir_core::partition::epochs;
use weir_core::partition::messages::EpochStart;
use weir_core::partition::view::PartitionView;
use weir_core::{Offset, PartitionId, TimestampMs};

/// A run takes neighbours in until it has this many bytes: what a lookup reads too much at most.
pub(crate) const RUN_BYTES: u32 = 16 * 1024;
/// Bytes of an encoded run.
const RUN_LEN: usize = 44;
/// The event time of entries without records.
pub(crate) const NO_TIMESTAMP: TimestampMs = TimestampMs(i64::MIN);

/// Entries of one partition whose bytes are neighbours in a file's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) base: Offset,
    /// Exclusive. A truncation lowers it; the bytes beyond then count no more.
    pub(crate) end: Offset,
    pub(crate) position: u64,
    pub(crate) bytes: u32,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) append_time: TimestampMs,
}

impl Run {
    pub(crate) fn position_end(&self) -> u64 {
        self.position + u64::from(self.bytes)
    }
}

/// What one file holds of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) bytes: u64,
    pub(crate) max_timestamp: TimestampMs,
    pub(crate) append_min: TimestampMs,
    pub(crate) append_max: TimestampMs,
}

impl Summary {
    /// `None` for no runs.
    pub(crate) fn of(runs: &[Run]) -> Option<Summary> {
        let (first, last) = (runs.first()?, runs.last()?);
        Some(Summary {
            start: first.base,
            end: last.end,
            bytes: runs.iter().map(|run| u64::from(run.bytes)).sum(),
            max_timestamp: runs.iter().map(|run| run.max_timestamp).max()?,
            append_min: first.append_time,
            append_max: last.append_time,
        })
    }

    /// The bytes from `start` on, taking entries as equally long.
    pub(crate) fn bytes_from(&self, start: Offset) -> u64 {
        let whole = self.end.since(self.start).max(1);
        let live = self.end.since(start.max(self.start)).min(whole);
        (u128::from(self.bytes) * u128::from(live) / u128::from(whole)) as u64
    }

    /// Leaves out what lies at or beyond `end`, taking entries as equally long.
    fn truncate(&mut self, end: Offset) {
        if self.end > end {
            self.bytes -= self.bytes_from(end).min(self.bytes);
            self.end = end;
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        out.put_i64_le(self.start.0);
        out.put_i64_le(self.end.0);
        out.put_u64_le(self.bytes);
        out.put_i64_le(self.max_timestamp.0);
        out.put_i64_le(self.append_min.0);
        out.put_i64_le(self.append_max.0);
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Summary> {
        let summary = Summary {
            start: Offset(bytes.try_get_i64_le().ok()?),
            end: Offset(bytes.try_get_i64_le().ok()?),
            bytes: bytes.try_get_u64_le().ok()?,
            max_timestamp: TimestampMs(bytes.try_get_i64_le().ok()?),
            append_min: TimestampMs(bytes.try_get_i64_le().ok()?),
            append_max: TimestampMs(bytes.try_get_i64_le().ok()?),
        };
        let valid = bytes.is_empty() && Offset::ZERO <= summary.start;
        (valid && summary.start < summary.end).then_some(summary)
    }
}

pub(crate) fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::with_capacity(runs.len() * RUN_LEN);
    for run in runs {
        out.put_i64_le(run.base.0);
        out.put_i64_le(run.end.0);
        out.put_u64_le(run.position);
        out.put_u32_le(run.bytes);
        out.put_i64_le(run.max_timestamp.0);
        out.put_i64_le(run.append_time.0);
    }
    out
}

/// `None` for bytes that [`encode_runs`] cannot have written.
pub(crate) fn decode_runs(mut bytes: &[u8]) -> Option<Vec<Run>> {
    if !bytes.len().is_multiple_of(RUN_LEN) {
        return None;
    }
    let mut runs: Vec<Run> = Vec::with_capacity(bytes.len() / RUN_LEN);
    while bytes.has_remaining() {
        let run = Run {
            base: Offset(bytes.get_i64_le()),
            end: Offset(bytes.get_i64_le()),
            position: bytes.get_u64_le(),
            bytes: bytes.get_u32_le(),
            max_timestamp: TimestampMs(bytes.get_i64_le()),
            append_time: TimestampMs(bytes.get_i64_le()),
        };
        let follows = runs.last().is_none_or(|last| last.end <= run.base);
        if !follows || run.base.0 < 0 || run.base >= run.end {
            return None;
        }
        runs.push(run);
    }
    Some(runs)
}

/// Adds an entry to the runs of its file.
pub(crate) fn extend_runs(
    runs: &mut Vec<Run>,
    header: &EntryHeader,
    position: u64,
    max_timestamp: TimestampMs,
) {
    let bytes = header.entry_len() as u32;
    match runs.last_mut() {
        Some(run)
            if run.position_end() == position
                && run.end == header.base_offset
                && run.bytes < RUN_BYTES =>
        {
            run.end = header.end_offset();
            run.bytes += bytes;
            run.max_timestamp = run.max_timestamp.max(max_timestamp);
            run.append_time = run.append_time.max(header.append_time);
        }
        _ => runs.push(Run {
            base: header.base_offset,
            end: header.end_offset(),
            position,
            bytes,
            max_timestamp,
            append_time: header.append_time,
        }),
    }
}

/// Cuts runs back so that they end at `end`.
pub(crate) fn truncate_runs(runs: &mut Vec<Run>, end: Offset) {
    while runs.last().is_some_and(|run| run.base >= end) {
        runs.pop();
    }
    if let Some(run) = runs.last_mut() {
        run.end = run.end.min(end);
    }
}

/// What one file holds of a partition, and where.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<LogFile>,
    pub(crate) summary: Summary,
    /// The runs, for a file that is not sealed; a sealed one has them on disk.
    pub(crate) runs: Option<Vec<Run>>,
}

/// Where one partition's entries are.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionIndex {
    pub(crate) log_start: Offset,
    pub(crate) end: Offset,
    pub(crate) append_time: TimestampMs,
    /// Where each leader epoch began. An entry of another epoch than its offset should have is one
    /// that was cut off, and came to light again because the file with what followed is damaged.
    pub(crate) epochs: Arc<[EpochStart]>,
    pub(crate) segments: Vec<Segment>,
    /// Changes with every cut.
    pub(crate) cuts: u64,
}

/// What the index has of a view.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    log_start: Offset,
    log_end: Offset,
    append_time: TimestampMs,
    epochs: Arc<[EpochStart]>,
}

impl Bounds {
    pub(crate) fn of(view: &PartitionView) -> Bounds {
        Bounds {
            log_start: view.log_start,
            log_end: view.log_end,
            append_time: view.append_time,
            epochs: view.epochs.as_slice().into(),
        }
    }
}

impl PartitionIndex {
    /// Adds a durable entry at `position` of the unsealed `file`.
    pub(crate) fn push(
        &mut self,
        file: &Arc<LogFile>,
        header: &EntryHeader,
        position: u64,
        max_timestamp: TimestampMs,
    ) {
        self.end = header.end_offset();
        self.append_time = self.append_time.max(header.append_time);
        if self.epochs.last().is_none_or(|&(last, _)| last < header.epoch) {
            let mut rows = self.epochs.to_vec();
            epochs::note(&mut rows, header.epoch, header.base_offset);
            self.epochs = rows.into();
        }
        if let Some(last) = self.segments.last_mut()
            && Arc::ptr_eq(&last.file, file)
            && let Some(runs) = &mut last.runs
        {
            extend_runs(runs, header, position, max_timestamp);
            let summary = &mut last.summary;
            summary.end = header.end_offset();
            summary.bytes += header.entry_len() as u64;
            summary.max_timestamp = summary.max_timestamp.max(max_timestamp);
            summary.append_max = summary.append_max.max(header.append_time);
            return;
        }
        let mut runs = Vec::new();
        extend_runs(&mut runs, header, position, max_timestamp);
        if let Some(summary) = Summary::of(&runs) {
            self.segments.push(Segment { file: file.clone(), summary, runs: Some(runs) });
        }
    }

    /// Adds what a file holds, in the order of the files. Where it overlaps what is there, the
    /// newer file is right: the older was cut back.
    pub(crate) fn adopt(&mut self, segment: Segment) {
        let start = segment.summary.start;
        if self.segments.last().is_some_and(|last| last.summary.end > start) {
            self.truncate(start);
        }
        self.segments.push(segment);
    }

    /// Drops what lies below `start`: whole files' segments, and runs that are in memory.
    pub(crate) fn advance_start(&mut self, start: Offset) {
        self.log_start = self.log_start.max(start);
        let start = self.log_start;
        self.segments.retain(|segment| segment.summary.end > start);
        for segment in &mut self.segments {
            let Some(runs) = &mut segment.runs else {
                continue;
            };
            let dead = runs.partition_point(|run| run.end <= start);
            if dead > 0 {
                runs.drain(..dead);
                if let Some(summary) = Summary::of(runs) {
                    segment.summary = summary;
                }
            }
        }
    }

    /// Drops what lies at or beyond `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.end = end;
        self.segments.retain(|segment| segment.summary.start < end);
        if let Some(last) = self.segments.last_mut() {
            if let Some(runs) = &mut last.runs {
                truncate_runs(runs, end);
                if let Some(summary) = Summary::of(runs) {
                    last.summary = summary;
                }
            }
            last.summary.truncate(end);
        }
    }

    /// Makes it the index of a log that was cut, or began anew, and of which a view says this.
    pub(crate) fn cut(&mut self, bounds: &Bounds) {
        if self.segments.last().is_some_and(|last| last.summary.end > bounds.log_end) {
            self.truncate(bounds.log_end);
        }
        self.end = bounds.log_end;
        self.append_time = bounds.append_time;
        self.epochs = bounds.epochs.clone();
        self.cuts += 1;
        // A log may begin anew below its start.
        self.log_start = bounds.log_start;
        self.advance_start(bounds.log_start);
    }

    /// Bytes of what is retained, roughly where a file holds some that is not.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_from(self.log_start)
    }

    /// Bytes of what is retained from `start` on, likewise.
    pub(crate) fn bytes_from(&self, start: Offset) -> u64 {
        let start = start.max(self.log_start);
        self.segments.iter().map(|segment| segment.summary.bytes_from(start)).sum()
    }
}

/// Where all entries of one shard are.
pub(crate) type Index = HashMap<PartitionId, PartitionIndex>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Identity;
    use std::path::PathBuf;
    use weir_core::LeaderEpoch;

    fn run(base: i64, end: i64, position: u64) -> Run {
        Run {
            base: Offset(base),
            end: Offset(end),
            position,
            bytes: 10,
            max_timestamp: TimestampMs(base),
            append_time: TimestampMs(end),
        }
    }

    /// Goal: runs and summaries survive the round trip, and nothing out of order is taken.
    #[test]
    fn codec() {
        let runs = vec![run(0, 5, 0), run(5, 9, 100)];
        let bytes = encode_runs(&runs);
        assert_eq!(decode_runs(&bytes), Some(runs.clone()));
        for cut in 1..bytes.len() {
            let whole = cut % RUN_LEN == 0;
            assert_eq!(decode_runs(&bytes[..cut]).is_some(), whole, "cut {cut}");
        }
        assert_eq!(decode_runs(&encode_runs(&[runs[1], runs[0]])), None);
        let summary = Summary::of(&runs).unwrap();
        assert_eq!(Summary::decode(&summary.encode()), Some(summary));
        assert_eq!(summary.bytes_from(Offset(3)), 13);
        assert_eq!(Summary::decode(&summary.encode()[..40]), None);
    }

    /// Goal: the index of a log that is cut, or begins anew anywhere, has what is retained and no
    /// more; what is left of a sealed file counts for as much of its bytes.
    #[test]
    fn cuts() {
        let file = |seq| {
            let identity = Identity {
                shard: 0,
                shards: 1,
                first_seq: seq,
                last_seq: seq,
                generation: 0,
                created_ms: 0,
            };
            Arc::new(LogFile::new(PathBuf::from("x"), identity, true))
        };
        let sealed = |seq, base, end| {
            let summary = Summary::of(&[run(base, end, 0)]).unwrap();
            let summary = Summary { bytes: 1_000, ..summary };
            Segment { file: file(seq), summary, runs: None }
        };
        let full = || {
            let mut places = PartitionIndex { log_start: Offset(15), ..PartitionIndex::default() };
            places.adopt(sealed(1, 10, 20));
            places.adopt(sealed(2, 20, 30));
            places.end = Offset(30);
            places
        };
        let view = |log_start, log_end| PartitionView {
            log_start: Offset(log_start),
            log_end: Offset(log_end),
            epochs: vec![(LeaderEpoch(4), Offset(0))],
            ..PartitionView::default()
        };
        for (start, end, expected) in [
            (15, 30, &[(10, 20, 1_000), (20, 30, 1_000)][..]),
            (15, 25, &[(10, 20, 1_000), (20, 25, 500)]),
            (15, 20, &[(10, 20, 1_000)]),
            (15, 15, &[]),
            (5, 5, &[]),
            (22, 22, &[]),
            (90, 90, &[]),
        ] {
            let mut places = full();
            places.cut(&Bounds::of(&view(start, end)));
            let left = places.segments.iter().map(|segment| {
                let summary = segment.summary;
                (summary.start.0, summary.end.0, summary.bytes)
            });
            assert_eq!(left.collect::<Vec<_>>(), expected, "{start} to {end}");
            assert_eq!((places.log_start, places.end), (Offset(start), Offset(end)));
            assert_eq!(places.epochs[..], [(LeaderEpoch(4), Offset(0))]);
            assert_eq!(places.cuts, 1);
        }
    }

    /// Goal: a truncation in the middle of a run keeps its front only.
    #[test]
    fn truncation() {
        let mut runs = vec![run(0, 5, 0), run(5, 9, 100)];
        truncate_runs(&mut runs, Offset(7));
        assert_eq!(runs.last().map(|run| run.end), Some(Offset(7)));
        truncate_runs(&mut runs, Offset(5));
        assert_eq!(runs.len(), 1);
    }
}
