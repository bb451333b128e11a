//! Writing a file that takes the place of others: the cleaner's, and that of a damaged one.

use crate::db::{Commit, DbError, FileDb, Identity, ROW_MAX, Row};
use crate::file::{LogFile, file_name};
use crate::index::{Run, Summary, encode_runs, extend_runs};
use crate::replay::BatchFacts;
use crate::rescue::{create_file, finish_file, remove_file, unfinished};
use crate::shard::{Shard, drop_contained};
use bytes::Bytes;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use weir_core::entry::{EntryHeader, EntryKind};
use weir_core::record::RecordBatch;
use weir_core::{Offset, PartitionId};

/// A partition, what the new file holds of it, and where.
pub(crate) type Held = (PartitionId, Summary, Vec<Run>);

/// A file that is being written.
pub(crate) struct Copier {
    target: FileDb,
    identity: Identity,
    path: PathBuf,
    /// Where the next entry will be.
    position: u64,
    /// Copied but not committed.
    waiting: Vec<u8>,
}

impl Copier {
    /// Begins a file that stands for neighbouring ones. It is of a later generation than all of
    /// them: should a crash leave some, that says which counts.
    pub(crate) fn begin(shard: &Shard, group: &[Arc<LogFile>]) -> Result<Copier, DbError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Err(DbError::Malformed("no file to stand for"));
        };
        let generation = group.iter().map(|file| file.identity.generation).max();
        let identity = Identity {
            last_seq: last.identity.last_seq,
            generation: generation.unwrap_or(0) + 1,
            created_ms: shard.clock.now().0.max(0) as u64,
            ..first.identity
        };
        let path = shard.dir.join(file_name(identity.first_seq, identity.generation));
        let cache = shard.config.sealed_cache_bytes;
        let target = create_file(&*shard.disk, &path, &shard.counters, cache, &identity)?;
        Ok(Copier { target, identity, path, position: 0, waiting: Vec::new() })
    }

    /// Takes entries of a partition over, each checked. `bytes` hold whole ones one after another,
    /// of which the first begins at or before the range and those outside of it are left out; only
    /// the first of the partition may begin before the range and end in it, as where a log starts.
    /// Returns how far they are sound and without a gap: the range's end if all are.
    pub(crate) fn take(
        &mut self,
        partition: PartitionId,
        range: Range<Offset>,
        bytes: &Bytes,
        copied: &mut Vec<Run>,
    ) -> Offset {
        let (mut at, mut expected) = (0, range.start);
        while at < bytes.len() && expected < range.end {
            let Ok(header) = EntryHeader::decode(&bytes[at..]) else { break };
            let end = at + header.entry_len();
            let of_it = header.kind == EntryKind::Entry && header.partition == partition;
            if !of_it || end > bytes.len() || header.base_offset > expected {
                break;
            }
            if header.end_offset() > expected {
                let batch = bytes.slice(at + header.batch_at()..end);
                let overlaps = header.base_offset < expected && !copied.is_empty();
                if overlaps || !is_sound(&header, &batch) {
                    break;
                }
                let facts = BatchFacts::of(&batch);
                extend_runs(copied, &header, self.position, facts.max_timestamp);
                self.waiting.extend_from_slice(&bytes[at..end]);
                self.position += header.entry_len() as u64;
                expected = header.end_offset();
            }
            at = end;
        }
        expected
    }

    /// Bytes that were taken and not written.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes what was taken. Returns how many bytes that were.
    pub(crate) fn flush(&mut self) -> Result<usize, DbError> {
        let bytes = self.waiting.len();
        if bytes > 0 {
            self.target.commit(&Commit {
                position: self.position - bytes as u64,
                parts: &[&self.waiting],
                row_max: ROW_MAX,
                snapshot: None,
                cuts: &[],
            })?;
            self.waiting.clear();
        }
        Ok(bytes)
    }

    /// Removes what was written.
    pub(crate) fn give_up(self, shard: &Shard) {
        self.target.fence();
        drop_contained(self.target);
        remove_file(&*shard.disk, &unfinished(&self.path));
    }

    /// Seals the file and gives it its name.
    pub(crate) fn finish(mut self, shard: &Shard, held: &[Held]) -> Result<Arc<LogFile>, DbError> {
        self.flush()?;
        let summaries: Vec<Row> = held.iter().map(|row| (row.0.0, row.1.encode())).collect();
        let index: Vec<Row> = held.iter().map(|row| (row.0.0, encode_runs(&row.2))).collect();
        self.target.seal(&summaries, &index)?;
        self.target.close()?;
        finish_file(&*shard.disk, &self.path)?;
        Ok(Arc::new(LogFile::new(self.path, self.identity, true)))
    }
}

/// Whether the batch of an entry is as it was written.
pub(crate) fn is_sound(header: &EntryHeader, batch: &Bytes) -> bool {
    batch.is_empty()
        || RecordBatch::decode_trusted(batch.clone()).is_ok_and(|sound| {
            // These two are not under the batch's own checksum.
            let of_batch = sound.header();
            (of_batch.base_offset, of_batch.epoch) == (header.base_offset, header.epoch)
        })
}
