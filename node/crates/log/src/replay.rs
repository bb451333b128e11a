//! Walking the items of a file's stream: for recovery, for sealing and for the cleaner.

use crate::db::{DbError, FileDb, Row};
use crate::index::{NO_TIMESTAMP, Run, decode_runs, extend_runs, truncate_runs};
use std::collections::HashMap;
use std::ops::Range;
use weir_core::entry::{self, ENTRY_HEADER_BYTES, EntryHeader, EntryKind};
use weir_core::partition::producers::ProducerBatch;
use weir_core::partition::view::PartitionView;
use weir_core::record::BatchHeader;
use weir_core::{Offset, PartitionId, TimestampMs};

/// Bytes of the stream read at once.
const WINDOW: u64 = 1024 * 1024;

/// One item of a stream.
pub(crate) struct Item<'a> {
    pub(crate) position: u64,
    pub(crate) header: EntryHeader,
    pub(crate) state: &'a [u8],
    pub(crate) batch: &'a [u8],
}

/// What a file's stream amounts to.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// The views as of the stream's end.
    pub(crate) views: HashMap<PartitionId, PartitionView>,
    /// Where the stream has each partition's entries.
    pub(crate) runs: HashMap<PartitionId, Vec<Run>>,
    /// The stream's end.
    pub(crate) end: u64,
}

/// Rebuilds views and runs from a file: its last checkpoint, or else its snapshot, and the stream
/// from there on.
pub(crate) fn replay(db: &FileDb) -> Result<Replayed, DbError> {
    let mut replayed = Replayed { end: db.stream_end()?, ..Replayed::default() };
    let mut from = 0;
    match db.checkpoint()? {
        Some(checkpoint) if checkpoint.position > replayed.end => {
            return Err(DbError::Malformed("the stream is shorter than it was"));
        }
        Some(checkpoint) => {
            from = checkpoint.position;
            replayed.views = decode_views(&checkpoint.views)?;
            for (partition, bytes) in checkpoint.runs {
                let runs = decode_runs(&bytes)
                    .ok_or(DbError::Malformed("the runs of a checkpoint do not decode"))?;
                replayed.runs.insert(PartitionId(partition), runs);
            }
        }
        None => replayed.views = decode_views(&db.snapshot()?)?,
    }
    for_each_item(db, from..replayed.end, |item| replayed.apply(db, item))?;
    Ok(replayed)
}

/// The view of one partition just before the entry at `offset`, which lies in `run` of a file that
/// can be replayed. `None` if no entry begins there.
pub(crate) fn view_before(
    db: &FileDb,
    partition: PartitionId,
    run: &Run,
    offset: Offset,
) -> Result<Option<PartitionView>, DbError> {
    let rows: Vec<Row> =
        db.snapshot()?.into_iter().filter(|(other, _)| *other == partition.0).collect();
    let mut view = decode_views(&rows)?.remove(&partition).unwrap_or_default();
    let mut found = None;
    for_each_item(db, 0..run.position_end(), |item| {
        let header = &item.header;
        if header.partition != partition || found.is_some() {
            return Ok(());
        }
        // What was cut off before may have begun there, too.
        let there = header.kind == EntryKind::Entry && header.base_offset == offset;
        if there && item.position >= run.position {
            found = Some(std::mem::take(&mut view));
            return Ok(());
        }
        apply_item(db, &mut view, item, &BatchFacts::of(item.batch))
    })?;
    Ok(found)
}

fn decode_views(rows: &[Row]) -> Result<HashMap<PartitionId, PartitionView>, DbError> {
    let decode = |(partition, bytes): &Row| {
        let view =
            PartitionView::decode(bytes).ok_or(DbError::Malformed("a view does not decode"))?;
        Ok((PartitionId(*partition), view))
    };
    rows.iter().map(decode).collect()
}

impl Replayed {
    fn apply(&mut self, db: &FileDb, item: &Item<'_>) -> Result<(), DbError> {
        let facts = BatchFacts::of(item.batch);
        let partition = item.header.partition;
        let view = self.views.entry(partition).or_default();
        apply_item(db, view, item, &facts)?;
        match item.header.kind {
            EntryKind::Entry => {
                let runs = self.runs.entry(partition).or_default();
                extend_runs(runs, &item.header, item.position, facts.max_timestamp);
            }
            EntryKind::LogStart => {}
            EntryKind::Truncate => {
                if let Some(runs) = self.runs.get_mut(&partition) {
                    truncate_runs(runs, view.log_end);
                    // One that begins anew has none of what it had.
                    runs.retain(|run| run.end > view.log_start);
                }
            }
            EntryKind::Delete => {
                self.views.remove(&partition);
                self.runs.remove(&partition);
            }
        }
        Ok(())
    }
}

/// Applies an item of a file to its partition's view.
fn apply_item(
    db: &FileDb,
    view: &mut PartitionView,
    item: &Item<'_>,
    facts: &BatchFacts,
) -> Result<(), DbError> {
    let header = &item.header;
    if header.kind == EntryKind::Truncate
        && let Some(cut) = db.view_at_cut(header.partition, item.position)?
    {
        if cut.log_end != header.base_offset {
            return Err(DbError::Malformed("the view at a cut is of another one"));
        }
        *view = cut;
        return Ok(());
    }
    apply_to_view(view, header, item.state, facts)
}

/// Applies an item to its partition's view.
pub(crate) fn apply_to_view(
    view: &mut PartitionView,
    header: &EntryHeader,
    state: &[u8],
    facts: &BatchFacts,
) -> Result<(), DbError> {
    let malformed = |_| DbError::Malformed("an item does not follow the one before it");
    if state.is_empty() {
        return view.apply(header, &[], facts.producer.as_ref()).map_err(malformed);
    }
    let state = bytes::Bytes::copy_from_slice(state);
    let changes = entry::decode_state(&state)
        .map_err(|_| DbError::Malformed("a keyed-state section does not decode"))?;
    view.apply(header, &changes, facts.producer.as_ref()).map_err(malformed)
}

/// What the log needs to know of a record batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchFacts {
    pub(crate) producer: Option<ProducerBatch>,
    pub(crate) max_timestamp: TimestampMs,
}

impl BatchFacts {
    /// Of no batch, or of bytes that are none: no producer and no event time.
    pub(crate) fn of(batch: &[u8]) -> BatchFacts {
        let Ok(header) = BatchHeader::decode(batch) else {
            return BatchFacts { producer: None, max_timestamp: NO_TIMESTAMP };
        };
        let producer = header.producer_id.is_some().then_some(ProducerBatch {
            id: header.producer_id,
            epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            count: header.record_count,
        });
        BatchFacts { producer, max_timestamp: header.max_timestamp }
    }
}

/// Calls `visit` with each item in a range of the stream, in order. Envelopes are checked against
/// their checksums, batches are not.
pub(crate) fn for_each_item(
    db: &FileDb,
    range: Range<u64>,
    mut visit: impl FnMut(&Item<'_>) -> Result<(), DbError>,
) -> Result<(), DbError> {
    let mut window = Vec::new();
    // The stream's position of the window's first byte, and how much of the window is used.
    let (mut start, mut used) = (range.start, 0);
    let end = range.end;
    loop {
        let left = &window[used..];
        let missing = match item_len(left)? {
            Some(len) if len <= left.len() => {
                let item = item_at(left, start + used as u64)?;
                visit(&item)?;
                used += len;
                continue;
            }
            Some(len) => len - left.len(),
            None => ENTRY_HEADER_BYTES - left.len().min(ENTRY_HEADER_BYTES),
        };
        window.drain(..used);
        start += used as u64;
        used = 0;
        let from = start + window.len() as u64;
        if from == end && window.is_empty() {
            return Ok(());
        }
        if from + missing as u64 > end {
            return Err(DbError::Malformed("the stream ends within an item"));
        }
        let to = (from + WINDOW.max(missing as u64)).min(end);
        db.read_stream(from, to, &mut window)?;
    }
}

/// The length of the item that begins here, once its header is there.
fn item_len(bytes: &[u8]) -> Result<Option<usize>, DbError> {
    if bytes.len() < ENTRY_HEADER_BYTES {
        return Ok(None);
    }
    let header = EntryHeader::decode_unchecked(bytes).map_err(not_an_item)?;
    Ok(Some(header.entry_len()))
}

fn item_at(bytes: &[u8], position: u64) -> Result<Item<'_>, DbError> {
    let header = EntryHeader::decode(bytes).map_err(not_an_item)?;
    let state_end = ENTRY_HEADER_BYTES + header.state_len as usize;
    Ok(Item {
        position,
        state: &bytes[ENTRY_HEADER_BYTES..state_end],
        batch: &bytes[header.batch_at()..header.entry_len()],
        header,
    })
}

fn not_an_item(_: weir_core::entry::EntryError) -> DbError {
    DbError::Malformed("the stream holds something else than items")
}
