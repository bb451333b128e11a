//! The values that go into and come out of the log.

use bytes::Bytes;
use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use weir_core::entry::EntryHeader;
use weir_core::{Offset, PartitionId};

/// One entry to append.
pub struct AppendRequest {
    /// The envelope. Its section lengths must be those of the sections below.
    pub header: EntryHeader,
    /// The encoded keyed-state section, or nothing.
    pub state: Bytes,
    /// The source-position section, or nothing.
    pub source: Bytes,
    /// The record batch with its base offset and leader epoch already written, or nothing.
    pub batch: Bytes,
    /// How long the entry may wait for company before it is committed. Zero: not at all.
    pub linger: Duration,
    /// Kept until the entry is durable or has failed, then dropped: a permit for its bytes.
    pub hold: Option<Box<dyn Any + Send>>,
}

impl AppendRequest {
    /// Bytes of the whole entry.
    #[must_use]
    pub fn entry_len(&self) -> usize {
        self.header.entry_len()
    }
}

impl fmt::Debug for AppendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendRequest")
            .field("header", &self.header)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}

/// Why an append was refused. Nothing was or will be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits for the disk already. Retry later.
    #[error("too many appends wait for the disk")]
    QueueFull,
    /// The disk is nearly full. Comes back by itself once there is space.
    #[error("the disk is nearly full")]
    DiskFull,
    /// The shard recovers from a failed write. Comes back by itself.
    #[error("the log is offline: {reason}")]
    Offline {
        /// What failed.
        reason: String,
    },
    /// The log was closed, or not started.
    #[error("the log is closed")]
    Closed,
    /// The entry does not begin where the partition's log ends: a bug of the caller.
    #[error("the entry begins at offset {got}, but the log ends at {expected}")]
    NotDense {
        /// The end of the log, entries on their way included.
        expected: Offset,
        /// The entry's base offset.
        got: Offset,
    },
    /// The header is out of its bounds, or does not fit its sections; or a cut lies beyond the end
    /// of the log: a bug of the caller.
    #[error("the entry's header is malformed, or the cut lies beyond the log")]
    Malformed,
}

/// What a read gives: whole record batches, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadChunk {
    /// The batches. The first may begin before the offset asked for.
    pub batches: Vec<Bytes>,
    /// Where to go on. May lie beyond the last batch, behind entries without records.
    pub next_offset: Offset,
    /// Bytes of all batches together.
    pub bytes: usize,
}

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The partition was never written to, or was deleted.
    #[error("the log knows no partition {0}")]
    UnknownPartition(PartitionId),
    /// The offset is not in the log (any more).
    #[error("the offset is out of range: the log holds {start} to {end}")]
    OutOfRange {
        /// The first retained offset.
        start: Offset,
        /// The durable end.
        end: Offset,
    },
    /// What the disk gave back is not what was written. Retrying will not help.
    #[error("offsets {from} to {to} are damaged on disk (file {file})")]
    Corrupt {
        /// The first offset that cannot be read.
        from: Offset,
        /// The offset after the last one that this was found to concern.
        to: Offset,
        /// The file's name.
        file: String,
    },
    /// The file cannot be read just now.
    #[error("offsets {from} to {to} cannot be read just now: {reason}")]
    Unavailable {
        /// The first offset that cannot be read.
        from: Offset,
        /// The offset after the last one that this concerns.
        to: Offset,
        /// Why.
        reason: String,
    },
}

/// Why a log folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error("{path}: {error}")]
    Io {
        /// What was being opened.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Another process has the folder.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// A file of a newer version of this program.
    #[error("{path} has format version {found}; this version of weir knows up to {known}")]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A file that is not what its name says.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
