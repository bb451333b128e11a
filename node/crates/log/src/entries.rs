//! Whole entries, as the replicas of a partition pass them on: the envelope, both sections and the
//! batch, byte for byte as they were appended.
//!
//! Consumers read batches, followers read entries. Both go the same way through tail cache and
//! files; they differ in what they keep of each entry and in what they count.

use crate::api::{ReadChunk, ReadError};
use crate::log::Log;
use bytes::{Bytes, BytesMut};
use weir_core::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use weir_core::{Offset, PartitionId};

/// One entry of the log. Its sections and its batch share memory with those read beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEntry {
    /// The envelope.
    pub header: EntryHeader,
    /// The encoded keyed-state section, or nothing.
    pub state: Bytes,
    /// The source-position section, or nothing.
    pub source: Bytes,
    /// The record batch, or nothing.
    pub batch: Bytes,
}

impl LoggedEntry {
    /// The entry as it lies in the log: the envelope, then both sections and the batch. Copies.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.header.entry_len());
        bytes.extend_from_slice(&self.header.encode(&self.state, &self.source));
        for part in [&self.state, &self.source, &self.batch] {
            bytes.extend_from_slice(part);
        }
        bytes.freeze()
    }

    /// Takes a whole entry apart, whose envelope is `header`.
    fn split(header: &EntryHeader, mut bytes: Bytes) -> LoggedEntry {
        let _envelope = bytes.split_to(ENTRY_HEADER_BYTES);
        let state = bytes.split_to(header.state_len as usize);
        let source = bytes.split_to(header.source_len as usize);
        LoggedEntry { header: header.clone(), state, source, batch: bytes }
    }
}

/// What a read of entries gives: whole entries, dense and in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryChunk {
    /// The entries. The first may begin before the offset asked for.
    pub entries: Vec<LoggedEntry>,
    /// Where to go on: the end of the last entry, or the offset asked for if there is none.
    pub next_offset: Offset,
    /// Bytes of all entries together, envelopes included.
    pub bytes: usize,
}

/// What a read collects.
pub(crate) trait Chunk: Default {
    /// What an entry counts towards the bound.
    fn cost(header: &EntryHeader) -> usize;
    /// What was counted so far.
    fn bytes(&self) -> usize;
    /// Whether nothing was kept so far: the first is kept whatever it costs.
    fn is_empty(&self) -> bool;
    /// Where the next entry begins.
    fn next_offset(&self) -> Offset;
    /// Begins at `from`.
    fn begin(from: Offset) -> Self;
    /// Keeps an entry.
    fn keep(&mut self, entry: &LoggedEntry);
    /// Keeps a whole entry that was read from disk, whose envelope is `header`.
    fn keep_bytes(&mut self, header: &EntryHeader, bytes: Bytes);

    /// Whether an entry may be kept, too.
    fn has_room(&self, header: &EntryHeader, max_bytes: usize) -> bool {
        self.is_empty() || self.bytes() + Self::cost(header) <= max_bytes
    }
}

impl Chunk for ReadChunk {
    fn cost(header: &EntryHeader) -> usize {
        header.batch_len as usize
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn next_offset(&self) -> Offset {
        self.next_offset
    }

    fn begin(from: Offset) -> ReadChunk {
        ReadChunk { next_offset: from, ..ReadChunk::default() }
    }

    fn keep(&mut self, entry: &LoggedEntry) {
        self.next_offset = entry.header.end_offset();
        if !entry.batch.is_empty() {
            self.bytes += entry.batch.len();
            self.batches.push(entry.batch.clone());
        }
    }

    fn keep_bytes(&mut self, header: &EntryHeader, bytes: Bytes) {
        self.next_offset = header.end_offset();
        if header.batch_len > 0 {
            self.bytes += header.batch_len as usize;
            self.batches.push(bytes.slice(header.batch_at()..));
        }
    }
}

impl Chunk for EntryChunk {
    fn cost(header: &EntryHeader) -> usize {
        header.entry_len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn next_offset(&self) -> Offset {
        self.next_offset
    }

    fn begin(from: Offset) -> EntryChunk {
        EntryChunk { next_offset: from, ..EntryChunk::default() }
    }

    fn keep(&mut self, entry: &LoggedEntry) {
        self.next_offset = entry.header.end_offset();
        self.bytes += entry.header.entry_len();
        self.entries.push(entry.clone());
    }

    fn keep_bytes(&mut self, header: &EntryHeader, bytes: Bytes) {
        self.next_offset = header.end_offset();
        self.bytes += header.entry_len();
        self.entries.push(LoggedEntry::split(header, bytes));
    }
}

impl Log {
    /// Reads whole entries from the one that holds `from` on, up to about `max_bytes` with their
    /// envelopes (at least one entry) and not beyond the durable end. What comes from the disk was
    /// checked against the checksums of envelopes and batches. May block on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_entries(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<EntryChunk, ReadError> {
        self.shard_of(partition).read(partition, from, max_bytes, Offset(i64::MAX))
    }

    /// As [`Log::read_entries`], but from memory only: never blocks on the disk. `None` if `from`
    /// is not in memory.
    #[must_use]
    pub fn read_entries_cached(
        &self,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Option<EntryChunk> {
        self.tail.read(partition, from, max_bytes, Offset(i64::MAX))
    }
}
