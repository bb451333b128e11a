//! Reading a shard: batches by offset, and the first offset of a time.

use crate::api::{ReadChunk, ReadError};
use crate::copy::is_sound;
use crate::entries::Chunk;
use crate::file::LogFile;
use crate::index::{PartitionIndex, Run, Segment};
use crate::shard::{FileError, Shard};
use bytes::Bytes;
use std::sync::Arc;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::partition::epochs;
use weir_core::partition::messages::EpochStart;
use weir_core::record::RecordBatch;
use weir_core::{Offset, PartitionId, TimestampMs};

/// Lookups of a file that the cleaner replaced meanwhile are repeated this often.
const LOOKUPS_MAX: usize = 10;

impl Shard {
    /// See [`crate::Log::read`] and [`crate::Log::read_entries`].
    pub(crate) fn read<C: Chunk>(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
        below: Offset,
    ) -> Result<C, ReadError> {
        let mut error = None;
        for _ in 0..LOOKUPS_MAX {
            let Some(place) = self.find(partition, from, below)? else {
                return Ok(C::begin(from));
            };
            match self.read_place(partition, &place, max_bytes) {
                Err(ReadFailure::Lookup(failure)) => {
                    let (file, to) = (&place.segment.file, place.segment.summary.end);
                    error = Some(failure.for_reader(file, from, to));
                    if !matches!(failure, FileError::Away) {
                        break;
                    }
                    std::thread::yield_now();
                }
                Err(ReadFailure::Data(error)) => return Err(error),
                Ok(chunk) => return Ok(chunk),
            }
        }
        Err(error.unwrap_or(ReadError::UnknownPartition(partition)))
    }

    /// Where to read `from`; `None` if there is nothing below `below` yet.
    fn find(
        &self,
        partition: PartitionId,
        from: Offset,
        below: Offset,
    ) -> Result<Option<Place>, ReadError> {
        let index = self.read_index();
        let index = index.get(&partition).ok_or(ReadError::UnknownPartition(partition))?;
        check_range(index, from)?;
        let limit = below.min(index.end);
        if from >= limit {
            return Ok(None);
        }
        let at = index.segments.partition_point(|s| s.summary.end <= from);
        match index.segments.get(at) {
            Some(segment) if segment.summary.start <= from => {
                // Cloning the runs of an active segment would copy all of them: take the part that
                // one read can need.
                let segment = clip(segment, from);
                let epochs = index.epochs.clone();
                Ok(Some(Place { segment, from, limit, epochs }))
            }
            after => Err(lost(from, after, index.end)),
        }
    }

    fn read_place<C: Chunk>(
        &self,
        partition: PartitionId,
        place: &Place,
        max_bytes: usize,
    ) -> Result<C, ReadFailure> {
        let file = &place.segment.file;
        let runs = self.runs_of(partition, &place.segment);
        let runs = runs.map_err(ReadFailure::Lookup)?;
        let mut chunk = C::begin(place.from);
        let mut at = runs.partition_point(|run| run.end <= place.from);
        if runs.get(at).is_none_or(|run| run.base > place.from) {
            let to = runs.get(at).map_or(place.segment.summary.end, |run| run.base);
            let (from, file) = (place.from, file.name());
            return Err(ReadFailure::Data(ReadError::Corrupt { from, to, file }));
        }
        while let Some(span) = Span::gather(&runs[at..], max_bytes - chunk.bytes(), place.limit) {
            // What would not fit is not read to be thrown away.
            let fits = chunk.is_empty() || chunk.bytes() + span.len() <= max_bytes;
            if span.base > chunk.next_offset() || !fits {
                break;
            }
            let bytes = self.read_span(file, &span).map_err(ReadFailure::Lookup)?;
            at += span.runs;
            let mut walk = Walk { partition, place, chunk: &mut chunk, max_bytes };
            match walk.take(&span, &bytes) {
                Ok(true) => {}
                Ok(false) => break,
                // What came before is good: the next read will meet the damage first.
                Err(_) if chunk.next_offset() > place.from => break,
                Err(to) => {
                    let from = chunk.next_offset();
                    let file = file.name();
                    tracing::error!(%partition, %from, %to, file, "damaged entries on disk");
                    place.segment.file.mark_rotten();
                    return Err(ReadFailure::Data(ReadError::Corrupt { from, to, file }));
                }
            }
            if chunk.bytes() >= max_bytes {
                break;
            }
        }
        Ok(chunk)
    }

    fn read_span(&self, file: &LogFile, span: &Span) -> Result<Bytes, FileError> {
        self.with_file(file, |db| {
            let mut bytes = Vec::with_capacity(span.len());
            db.read_stream(span.position, span.to, &mut bytes)?;
            Ok(Bytes::from(bytes))
        })
    }

    /// See [`crate::Log::find_time`].
    pub(crate) fn find_time(
        &self,
        partition: PartitionId,
        at: TimestampMs,
    ) -> Result<Option<Offset>, ReadError> {
        let mut from = None;
        // Each turn looks at one candidate run, and goes on behind it.
        loop {
            let found = {
                let index = self.read_index();
                let index = index.get(&partition).ok_or(ReadError::UnknownPartition(partition))?;
                let from = from.unwrap_or(index.log_start).max(index.log_start);
                let mut candidates = index.segments.iter();
                let found = candidates.find(|segment| {
                    segment.summary.end > from && segment.summary.max_timestamp >= at
                });
                found.map(|segment| (segment.clone(), from))
            };
            let Some((segment, start)) = found else {
                return Ok(None);
            };
            let runs = match self.runs_of(partition, &segment) {
                Ok(runs) => runs,
                Err(FileError::Away) => continue,
                Err(error) => {
                    return Err(error.for_reader(&segment.file, start, segment.summary.end));
                }
            };
            let run = runs.iter().find(|run| run.end > start && run.max_timestamp >= at);
            let Some(run) = run else {
                from = Some(segment.summary.end);
                continue;
            };
            match self.find_in_run(partition, run, start, at)? {
                Some(offset) => return Ok(Some(offset)),
                None => from = Some(run.end),
            }
        }
    }

    /// The first record of a run, from `start` on, that is not before `at`.
    fn find_in_run(
        &self,
        partition: PartitionId,
        run: &Run,
        start: Offset,
        at: TimestampMs,
    ) -> Result<Option<Offset>, ReadError> {
        let mut from = run.base.max(start);
        while from < run.end {
            let chunk: ReadChunk = self.read(partition, from, run.bytes as usize, run.end)?;
            for batch in &chunk.batches {
                let damaged =
                    |_| ReadError::Corrupt { from, to: chunk.next_offset, file: String::new() };
                let batch = RecordBatch::decode_trusted(batch.clone()).map_err(damaged)?;
                if batch.header().max_timestamp < at {
                    continue;
                }
                let records = batch.records().map_err(damaged)?;
                let found = records.iter().find(|r| r.timestamp >= at && r.offset >= start);
                if let Some(found) = found {
                    return Ok(Some(found.offset));
                }
            }
            if chunk.next_offset <= from {
                break;
            }
            from = chunk.next_offset;
        }
        Ok(None)
    }
}

/// Where a read begins.
struct Place {
    segment: Segment,
    from: Offset,
    /// Nothing that ends beyond this is read.
    limit: Offset,
    /// Which epoch is at which offset.
    epochs: Arc<[EpochStart]>,
}

enum ReadFailure {
    /// The file could not be used: perhaps look again.
    Lookup(FileError),
    /// What was read is not what was written.
    Data(ReadError),
}

fn check_range(index: &PartitionIndex, from: Offset) -> Result<(), ReadError> {
    let (start, end) = (index.log_start, index.end);
    match (start..=end).contains(&from) {
        true => Ok(()),
        false => Err(ReadError::OutOfRange { start, end }),
    }
}

/// The disk lost what lies between `from` and the next segment.
pub(crate) fn lost(from: Offset, after: Option<&Segment>, end: Offset) -> ReadError {
    ReadError::Corrupt {
        from,
        to: after.map_or(end, |segment| segment.summary.start),
        file: "missing".to_owned(),
    }
}

/// Most runs that one read looks at.
const RUNS_PER_READ: usize = 512;

/// A copy of a segment with the runs in memory that a read from `from` can need.
fn clip(segment: &Segment, from: Offset) -> Segment {
    let runs = segment.runs.as_ref().map(|runs| {
        let first = runs.partition_point(|run| run.end <= from);
        let last = runs.len().min(first + RUNS_PER_READ);
        runs[first..last].to_vec()
    });
    Segment { file: Arc::clone(&segment.file), summary: segment.summary, runs }
}

/// Neighbouring runs that are read at once.
struct Span {
    base: Offset,
    /// Entries beyond this were cut off.
    end: Offset,
    position: u64,
    to: u64,
    runs: usize,
}

impl Span {
    fn len(&self) -> usize {
        (self.to - self.position) as usize
    }

    /// The first runs, as far as they are neighbours and within the bounds; at least one.
    fn gather(runs: &[Run], max_bytes: usize, limit: Offset) -> Option<Span> {
        let first = runs.first().filter(|run| run.base < limit)?;
        let mut span = Span {
            base: first.base,
            end: first.end,
            position: first.position,
            to: first.position_end(),
            runs: 1,
        };
        for run in &runs[1..] {
            let neighbour = run.position == span.to && run.base == span.end;
            let fits = run.position_end() - span.position <= max_bytes as u64;
            if !neighbour || !fits || run.base >= limit {
                break;
            }
            span.end = run.end;
            span.to = run.position_end();
            span.runs += 1;
        }
        Some(span)
    }
}

/// Takes entries out of a span's bytes.
struct Walk<'a, C> {
    partition: PartitionId,
    place: &'a Place,
    chunk: &'a mut C,
    max_bytes: usize,
}

impl<C: Chunk> Walk<'_, C> {
    /// Whether to go on behind the span; the end of the damage if there is some.
    fn take(&mut self, span: &Span, bytes: &Bytes) -> Result<bool, Offset> {
        let mut at = 0;
        let mut expected = span.base;
        while at < bytes.len() && expected < span.end {
            let header = EntryHeader::decode(&bytes[at..]).map_err(|_| span.end)?;
            let len = header.entry_len();
            let fits = header.kind == EntryKind::Entry
                && header.partition == self.partition
                && header.base_offset == expected
                && header.end_offset() <= span.end
                && at + len <= bytes.len();
            if !fits {
                return Err(span.end);
            }
            expected = header.end_offset();
            let entry = bytes.slice(at..at + len);
            at += len;
            if expected <= self.place.from {
                continue;
            }
            if expected > self.place.limit || !self.chunk.has_room(&header, self.max_bytes) {
                return Ok(false);
            }
            let of_this_log = epochs::at(&self.place.epochs, header.base_offset);
            if of_this_log != Some(header.epoch)
                || !is_sound(&header, &entry.slice(header.batch_at()..))
            {
                return Err(expected);
            }
            self.chunk.keep_bytes(&header, entry);
        }
        Ok(true)
    }
}
