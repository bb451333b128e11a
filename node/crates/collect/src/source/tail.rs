//! Following a growing file through rotation, like `tail -F`, one step at a time.
//!
//! States and transitions of [`Tail`]:
//!
//! | state | step finds | then |
//! |---|---|---|
//! | waiting | no file | waiting |
//! | waiting | a file | reading: `Begin` |
//! | reading | new bytes | reading: `Data` |
//! | reading | the file is shorter, or its first bytes changed | reading from 0: `End`, `Begin` |
//! | reading | nothing new, and the path is the same file, or gone without a successor | reading |
//! | reading | nothing new twice, and the path is another file | waiting: `End` |
//!
//! A renamed file is thus read to its end before the new one begins, with one more look after
//! the rotation was seen, for a writer that still had it open. If the file was rotated more than
//! once between two looks, the files between are read too, oldest first.
//!
//! What no follower can have: bytes that were written and truncated away between two looks.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{BeginContext, Event, EventSender, Follow};
use crate::limits::{
    CHUNK_BYTES, FINGERPRINT_BYTES, FOLDER_ENTRIES_MAX, LINE_BYTES_MAX, ROTATED_MAX,
};

/// Where to start in a file that was never read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At its first byte.
    Beginning,
    /// Behind the last whole line that it has now. A file that appears later is read from its
    /// first byte.
    End,
}

/// How far a followed file was read: everything before `offset` was returned. Small, to be
/// stored by the caller and given back through [`Follow::checkpoints`](crate::Follow).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The path that was followed (not the name that the file may have since its rotation).
    pub path: PathBuf,
    /// Device number, for information; identity rests on the inode and the head.
    pub device: u64,
    /// Inode number of the file that was being read.
    pub inode: u64,
    /// Bytes of that file that were returned, a line end.
    pub offset: u64,
    /// FNV-1a of the first bytes of the file, at most 256 and at most `offset`: tells a reused
    /// inode from the same file.
    pub head_hash: u64,
}

/// One thing that a step of a [`Tail`] found.
#[derive(Debug)]
pub enum TailChunk {
    /// A file begins (or begins again).
    Begin {
        /// Where reading starts in it.
        offset: u64,
        /// Device of the file.
        device: u64,
        /// Inode of the file.
        inode: u64,
        /// Its first bytes before `offset`, at most 256.
        head: Vec<u8>,
        /// Its first line, if `offset` lies behind that.
        first_line: Option<Vec<u8>>,
    },
    /// The next bytes, at most 64 KiB.
    Data(Bytes),
    /// The file is finished; an unterminated last line is one.
    End,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailProgress {
    /// Something: step again at once.
    More,
    /// Nothing: step again after a while.
    Idle,
}

/// Why a step failed. The next step tries again from the same place.
#[derive(Debug, thiserror::Error)]
#[error("cannot follow {path}: {source}")]
pub struct TailError {
    /// The followed path.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Which file bytes belong to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// Follows one path. Plain synchronous I/O, no clock: the caller decides when to look.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    start: StartAt,
    resume: Option<Checkpoint>,
    current: Option<Open>,
    /// Files to read next, oldest first, the path itself last. Open already, since they may be
    /// renamed at any time.
    queue: VecDeque<Open>,
    /// The path was seen to be another file, and the current one had nothing new then.
    rotated: bool,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    offset: u64,
    head: Vec<u8>,
}

impl Tail {
    /// Follows `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>, start: StartAt) -> Self {
        Self {
            path: path.into(),
            start,
            resume: None,
            current: None,
            queue: VecDeque::new(),
            rotated: false,
            buffer: Vec::new(),
        }
    }

    /// Goes on where `checkpoint` was taken, also if the file was renamed since. If the file is
    /// gone for good, the path is read from its first byte.
    pub fn resume(checkpoint: Checkpoint) -> Self {
        let path = checkpoint.path.clone();
        Self { resume: Some(checkpoint), ..Self::new(path, StartAt::Beginning) }
    }

    /// One step: reads at most 64 KiB, or looks whether the file was rotated or truncated.
    ///
    /// # Errors
    /// [`TailError`] if the file cannot be opened or read; a file that does not exist is none.
    pub fn poll_once(
        &mut self,
        sink: &mut dyn FnMut(TailChunk),
    ) -> Result<TailProgress, TailError> {
        let step = if self.current.is_none() { self.open_next(sink) } else { self.read_on(sink) };
        step.map_err(|source| TailError { path: self.path.clone(), source })
    }

    fn open_next(&mut self, sink: &mut dyn FnMut(TailChunk)) -> io::Result<TailProgress> {
        if let Some(checkpoint) = self.resume.clone() {
            let opened = self.reopen(&checkpoint)?;
            self.resume = None;
            self.start = StartAt::Beginning;
            if let Some(open) = opened {
                self.begin(open, sink)?;
                return Ok(TailProgress::More);
            }
            tracing::warn!(
                path = %self.path.display(), inode = checkpoint.inode,
                "the file of the checkpoint is gone; reading from the first byte"
            );
        }
        if let Some(open) = self.queue.pop_front() {
            self.begin(open, sink)?;
            return Ok(TailProgress::More);
        }
        let Some(mut open) = open_if_there(&self.path)? else {
            // Whatever appears here later began after we did.
            self.start = StartAt::Beginning;
            return Ok(TailProgress::Idle);
        };
        if self.start == StartAt::End {
            open.offset = open.last_line_end(open.file.metadata()?.len())?;
        }
        self.begin(open, sink)?;
        self.start = StartAt::Beginning;
        Ok(TailProgress::More)
    }

    /// Finds the file of a checkpoint, under its path or another name in the same folder.
    fn reopen(&mut self, checkpoint: &Checkpoint) -> io::Result<Option<Open>> {
        if let Some(open) = open_checked(&self.path, checkpoint)? {
            return Ok(Some(open));
        }
        for path in folder_of(&self.path)? {
            let same_inode = fs::metadata(&path).is_ok_and(|m| m.ino() == checkpoint.inode);
            if same_inode && let Some(open) = open_checked(&path, checkpoint)? {
                return Ok(Some(open));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, mut open: Open, sink: &mut dyn FnMut(TailChunk)) -> io::Result<()> {
        open.head = open.read_head(open.offset)?;
        let first_line = if open.offset > 0 { open.first_line()? } else { None };
        self.rotated = false;
        sink(TailChunk::Begin {
            offset: open.offset,
            device: open.device,
            inode: open.inode,
            head: open.head.clone(),
            first_line,
        });
        self.current = Some(open);
        Ok(())
    }

    fn read_on(&mut self, sink: &mut dyn FnMut(TailChunk)) -> io::Result<TailProgress> {
        let Some(open) = self.current.as_mut() else { return Ok(TailProgress::Idle) };
        let len = open.file.metadata()?.len();
        let replaced = len > open.offset && open.read_head(open.head.len() as u64)? != open.head;
        if len < open.offset || replaced {
            let metadata = open.file.metadata()?;
            let again = Open::new(open.file.try_clone()?, &metadata);
            sink(TailChunk::End);
            self.begin(again, sink)?;
            return Ok(TailProgress::More);
        }
        self.buffer.resize(CHUNK_BYTES, 0);
        let n = open.file.read_at(&mut self.buffer, open.offset)?;
        if n > 0 {
            let bytes = &self.buffer[..n];
            let room = FINGERPRINT_BYTES - open.head.len();
            open.head.extend_from_slice(&bytes[..n.min(room)]);
            open.offset += n as u64;
            self.rotated = false;
            sink(TailChunk::Data(Bytes::copy_from_slice(bytes)));
            return Ok(TailProgress::More);
        }
        let finished = open.file.metadata()?;
        let next = match fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == (finished.dev(), finished.ino()) => {
                self.rotated = false;
                return Ok(TailProgress::Idle);
            }
            Ok(_) => open_if_there(&self.path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // Opened here and now, all of them: by the next step they may have been renamed again.
        let mut queue = rotated_since(&self.path, &finished, next.as_ref())?;
        queue.extend(next);
        let seen_before = std::mem::replace(&mut self.rotated, !queue.is_empty());
        if queue.is_empty() || !seen_before {
            return Ok(TailProgress::Idle);
        }
        self.queue = queue;
        self.current = None;
        sink(TailChunk::End);
        Ok(TailProgress::More)
    }
}

impl Open {
    fn new(file: File, metadata: &Metadata) -> Self {
        let (device, inode) = (metadata.dev(), metadata.ino());
        Self { file, device, inode, offset: 0, head: Vec::new() }
    }

    /// The first bytes of the file, at most [`FINGERPRINT_BYTES`] and at most `before`.
    fn read_head(&self, before: u64) -> io::Result<Vec<u8>> {
        let mut head =
            vec![0; FINGERPRINT_BYTES.min(usize::try_from(before).unwrap_or(usize::MAX))];
        let n = read_full(&self.file, &mut head, 0)?;
        head.truncate(n);
        Ok(head)
    }

    /// The first line, without its line end; none if it is longer than a line may be.
    fn first_line(&self) -> io::Result<Option<Vec<u8>>> {
        let mut start = vec![0; LINE_BYTES_MAX.min(usize::try_from(self.offset).unwrap_or(0))];
        let n = read_full(&self.file, &mut start, 0)?;
        start.truncate(n);
        let Some(end) = start.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
        start.truncate(end);
        if start.last() == Some(&b'\r') {
            start.pop();
        }
        Ok(Some(start))
    }

    /// Offset behind the last line end before `len`; `len` itself if the last line is too long.
    fn last_line_end(&self, len: u64) -> io::Result<u64> {
        let from = len.saturating_sub(LINE_BYTES_MAX as u64);
        let mut last = vec![0; (len - from) as usize];
        let n = read_full(&self.file, &mut last, from)?;
        Ok(match last[..n].iter().rposition(|&byte| byte == b'\n') {
            Some(at) => from + at as u64 + 1,
            None if from == 0 => 0,
            None => len,
        })
    }
}

/// Opens `path`; none if there is no such file.
fn open_if_there(path: &Path) -> io::Result<Option<Open>> {
    match File::open(path) {
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok(Some(Open::new(file, &metadata)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens `path` at the checkpoint if it is the file that the checkpoint was taken of.
fn open_checked(path: &Path, checkpoint: &Checkpoint) -> io::Result<Option<Open>> {
    let Some(mut open) = open_if_there(path)? else { return Ok(None) };
    if open.inode != checkpoint.inode || open.file.metadata()?.len() < checkpoint.offset {
        return Ok(None);
    }
    open.offset = checkpoint.offset;
    Ok((fnv1a(&open.read_head(open.offset)?) == checkpoint.head_hash).then_some(open))
}

/// Rotated files of `path` that are newer than the one just finished, oldest first.
///
/// A name counts as rotated if it is the path's with a suffix of digits, dots, dashes and the
/// like, so that `app.log.1` and `app.log-20240131` do and `app.log.gz` does not.
fn rotated_since(
    path: &Path,
    finished: &Metadata,
    now: Option<&Open>,
) -> io::Result<VecDeque<Open>> {
    let Some(base) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Ok(VecDeque::new());
    };
    let is_rotated = |name: &str| {
        name.strip_prefix(base.as_str()).is_some_and(|suffix| {
            let marks = |byte: u8| byte.is_ascii_digit() || b".-_:TZ".contains(&byte);
            suffix == ".old" || (!suffix.is_empty() && suffix.bytes().all(marks))
        })
    };
    let age = |m: &Metadata| (m.mtime(), m.mtime_nsec());
    let mut found = Vec::new();
    for candidate in folder_of(path)? {
        let name = candidate.file_name().map(|name| name.to_string_lossy().into_owned());
        if !name.is_some_and(|name| is_rotated(&name)) {
            continue;
        }
        // Never open a pipe: that would block.
        if !fs::metadata(&candidate).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let Ok(file) = File::open(&candidate) else { continue };
        let metadata = file.metadata()?;
        let known =
            [Some(finished.ino()), now.map(|open| open.inode)].contains(&Some(metadata.ino()));
        if !known && age(&metadata) > age(finished) {
            found.push((age(&metadata), Open::new(file, &metadata)));
        }
    }
    found.sort_by_key(|(age, _)| *age);
    if found.len() > ROTATED_MAX {
        tracing::warn!(path = %path.display(), files = found.len(), "too many rotated at once");
    }
    Ok(found.into_iter().take(ROTATED_MAX).map(|(_, open)| open).collect())
}

/// What is in the folder of `path`, at most [`FOLDER_ENTRIES_MAX`] entries.
fn folder_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match fs::read_dir(folder) {
        Ok(entries) => {
            Ok(entries.take(FOLDER_ENTRIES_MAX).flatten().map(|entry| entry.path()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read_at(&mut buffer[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(n)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): enough to tell the first bytes of two logs apart.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The thread of a [`Follow`]: steps all files in turn, and waits when none had anything.
pub(super) fn run(follow: Follow, events: &EventSender, stop: &AtomicBool) {
    let mut tails: Vec<(Tail, bool)> = follow
        .paths
        .iter()
        .map(|path| {
            let checkpoint = follow.checkpoints.iter().find(|known| known.path == *path);
            let tail = match checkpoint {
                Some(checkpoint) => Tail::resume(checkpoint.clone()),
                None => Tail::new(path, follow.start),
            };
            (tail, false)
        })
        .collect();
    while !stop.load(Ordering::Acquire) && !events.is_closed() {
        let mut idle = true;
        for (lane, (tail, failing)) in tails.iter_mut().enumerate() {
            let mut found = Vec::new();
            match tail.poll_once(&mut |chunk| found.push(chunk)) {
                Ok(progress) => {
                    *failing = false;
                    idle &= progress == TailProgress::Idle;
                }
                // Said once, then tried again at every look: a file may become readable.
                Err(error) if !*failing => {
                    *failing = true;
                    tracing::warn!(%error, "trying again at every look");
                }
                Err(_) => {}
            }
            for chunk in found {
                if events.blocking_send(Ok(to_event(lane, &tail.path, chunk))).is_err() {
                    return;
                }
            }
        }
        if idle {
            std::thread::park_timeout(follow.poll_interval);
        }
    }
}

fn to_event(lane: usize, path: &Path, chunk: TailChunk) -> Event {
    match chunk {
        TailChunk::Begin { offset, device, inode, head, first_line } => {
            let file = FileIdentity { path: path.to_owned(), device, inode };
            let context = BeginContext { head, first_line };
            Event::Begin { lane, offset, file: Some(Arc::new(file)), context }
        }
        TailChunk::Data(bytes) => Event::Data { lane, bytes, sender: None },
        TailChunk::End => Event::End { lane },
    }
}
