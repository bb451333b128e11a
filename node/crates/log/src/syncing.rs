//! Writes and syncs that go on while the next commit is prepared.
//!
//! redb ends a commit by writing its pages, one at a time and in no order, and with a sync, and
//! waits for all that. The time it takes is the disk's, and the next commit's rows could be filled
//! in and their checksums computed meanwhile, but redb begins no transaction before the one under
//! way has ended. So what ends a commit may be left owing: its pages, up to a bound, are kept in
//! memory, redb is told that they are written and synced, and only whoever acknowledges waits until
//! they are.
//!
//! The disk sees the commits one after the other. What is owing is carried out in the order of the
//! promises: a commit's pages are written, neighbours with one call, then synced, and only
//! then the next one's. Before anything else is written to a file, or its length changed, all that
//! is owing is carried out. So a crash can leave nothing else than it could without this module.
//! What redb took for durable too early lives in memory only, and is let go of with the file if a
//! write or the sync fails.
//!
//! | state | event | next |
//! |---|---|---|
//! | nothing is owing | redb commits | owing 1 |
//! | owing 1 | redb commits | owing 2 |
//! | owing 2 | redb commits | waits for the first of the two |
//! | owing | settled | carried out by whoever settles first; the others wait |
//! | any | a write or a sync fails | failed for ever: nothing is written any more |

use crate::backend::{Fence, IoCounters};
use crate::disk::DiskFile;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Most commits whose sync may be owing at a time: one that is carried out and one behind it.
const OWING_MAX: u64 = 2;
/// Most bytes of one commit that are kept. Copying more costs more than the wait that it saves: a
/// longer commit waits for the one before it and is written as it comes, all but its end.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// The writes and syncs of one file.
#[derive(Debug)]
pub(crate) struct FileSync {
    file: Arc<dyn DiskFile>,
    counters: Arc<IoCounters>,
    fence: Fence,
    state: Mutex<State>,
    done: Condvar,
    deferring: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// What was written and no sync was promised for.
    open: Writes,
    /// What a sync was promised for, the oldest first. It stays here until it is on disk, or for
    /// ever if that fails: readers find it here.
    owing: VecDeque<Arc<Writes>>,
    /// Somebody carries the oldest out.
    running: bool,
    /// How many syncs were promised, ever.
    promised: u64,
    /// How many of them are carried out.
    done: u64,
    failed: Option<(io::ErrorKind, String)>,
    /// Emptied buffers, to be filled again.
    spare: Vec<Writes>,
}

/// A sync that was promised.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    sync: Arc<FileSync>,
    ticket: u64,
}

impl Owed {
    /// Returns once everything is durable that was written before the promise: carries out what is
    /// owing, or waits for whoever does.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.sync.settle(self.ticket)
    }
}

impl FileSync {
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        counters: Arc<IoCounters>,
        fence: Fence,
    ) -> FileSync {
        FileSync {
            file,
            counters,
            fence,
            state: Mutex::default(),
            done: Condvar::new(),
            deferring: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written while `body` runs, and the syncs asked for, are left owing at its end.
    pub(crate) fn deferred<T>(&self, body: impl FnOnce() -> T) -> T {
        /// Ends the deferring, also when redb panics.
        struct Guard<'a>(&'a AtomicBool);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        self.deferring.store(true, Ordering::Release);
        let _guard = Guard(&self.deferring);
        body()
    }

    /// The sync that was promised last.
    pub(crate) fn owed(self: &Arc<FileSync>) -> Owed {
        Owed { sync: self.clone(), ticket: self.state().promised }
    }

    /// Fills `out` from position `at`, as if everything were written.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        // Copied first: what is on disk by the time the file is read may leave the memory.
        let patches = {
            let state = self.state();
            let held = state.owing.iter().map(|writes| &**writes).chain([&state.open]);
            held.flat_map(|writes| writes.within(at, out.len())).collect::<Vec<_>>()
        };
        if !patches.iter().any(|(_, bytes)| bytes.len() == out.len()) {
            self.file.read_at(at, out)?;
        }
        for (start, bytes) in patches {
            out[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// Writes, or keeps for later.
    pub(crate) fn write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        if self.deferring.load(Ordering::Acquire) {
            let mut state = self.state();
            state.check()?;
            if state.open.bytes.len() + data.len() <= KEPT_BYTES_MAX {
                state.open.push(at, data);
                return Ok(());
            }
        }
        self.flush()?;
        self.file.write_at(at, data)
    }

    /// Writes everything that was kept.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let promised = self.state().promised;
        self.settle(promised)?;
        let mut state = self.state();
        state.check()?;
        if state.open.places.is_empty() {
            return Ok(());
        }
        let written = state.open.write_to(&*self.file);
        state.open.clear();
        state.failed = written.as_ref().err().map(|error| (error.kind(), error.to_string()));
        written
    }

    /// What redb calls: syncs, or promises to.
    pub(crate) fn request(&self) -> io::Result<()> {
        if !self.deferring.load(Ordering::Acquire) {
            self.flush()?;
            let synced = self.sync_now();
            if let Err(error) = &synced {
                self.state().failed = Some((error.kind(), error.to_string()));
            }
            return synced;
        }
        let promised = self.state().promised;
        self.settle((promised + 1).saturating_sub(OWING_MAX))?;
        let mut state = self.state();
        state.check()?;
        let next = state.spare.pop().unwrap_or_default();
        let open = std::mem::replace(&mut state.open, next);
        state.owing.push_back(Arc::new(open));
        state.promised += 1;
        Ok(())
    }

    /// Returns once the first `ticket` syncs that were promised are carried out.
    fn settle(&self, ticket: u64) -> io::Result<()> {
        let mut state = self.state();
        while state.done < ticket {
            state.check()?;
            let oldest = match state.owing.front() {
                Some(oldest) if !state.running => oldest.clone(),
                _ => {
                    state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            state.running = true;
            drop(state);
            let carried_out = self.carry_out(&oldest);
            state = self.state();
            state.running = false;
            match carried_out {
                Ok(()) => {
                    state.done += 1;
                    state.owing.pop_front();
                    state.reuse(oldest);
                }
                Err(error) => state.failed = Some((error.kind(), error.to_string())),
            }
            self.done.notify_all();
        }
        Ok(())
    }

    fn carry_out(&self, writes: &Writes) -> io::Result<()> {
        self.fence.check()?;
        writes.write_to(&*self.file)?;
        self.sync_now()
    }

    fn sync_now(&self) -> io::Result<()> {
        self.fence.check()?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some((kind, reason)) => Err(io::Error::new(*kind, reason.clone())),
        }
    }

    fn reuse(&mut self, writes: Arc<Writes>) {
        if let Some(mut writes) = Arc::into_inner(writes) {
            writes.clear();
            if (self.spare.len() as u64) < OWING_MAX {
                self.spare.push(writes);
            }
        }
    }
}

/// Writes that are kept in memory.
#[derive(Debug, Default)]
struct Writes {
    bytes: Vec<u8>,
    /// In the order of writing.
    places: Vec<Place>,
}

/// Where a write goes, and where in `bytes` it lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    start: usize,
    len: usize,
}

impl Place {
    fn end(&self) -> u64 {
        self.at + self.len as u64
    }
}

impl Writes {
    fn push(&mut self, at: u64, data: &[u8]) {
        self.places.push(Place { at, start: self.bytes.len(), len: data.len() });
        self.bytes.extend_from_slice(data);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    fn bytes_of(&self, place: &Place) -> &[u8] {
        &self.bytes[place.start..place.start + place.len]
    }

    /// What was written of `len` bytes from `at` on, each with its distance from `at`, in the order
    /// of writing.
    fn within(&self, at: u64, len: usize) -> impl Iterator<Item = (usize, Vec<u8>)> {
        let end = at + len as u64;
        self.places.iter().filter(move |place| place.at < end && at < place.end()).map(
            move |place| {
                let (from, to) = (place.at.max(at), place.end().min(end));
                let bytes = self.bytes_of(place);
                let bytes = &bytes[(from - place.at) as usize..(to - place.at) as usize];
                ((from - at) as usize, bytes.to_vec())
            },
        )
    }

    /// Writes everything, from the front of the file to its end, neighbours with one call.
    fn write_to(&self, file: &dyn DiskFile) -> io::Result<()> {
        let mut places: Vec<&Place> = self.places.iter().collect();
        places.sort_by_key(|place| place.at);
        if places.windows(2).any(|pair| pair[0].end() > pair[1].at) {
            // The later of two must win.
            places = self.places.iter().collect();
        }
        for run in places.chunk_by(|a, b| a.end() == b.at) {
            let mut parts: Vec<_> =
                run.iter().map(|place| IoSlice::new(self.bytes_of(place))).collect();
            file.write_vectored_at(run[0].at, &mut parts)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::sim::{Faults, SimDisk};
    use std::path::Path;

    fn setup() -> (SimDisk, Arc<FileSync>) {
        let disk = SimDisk::new(1);
        let file: Arc<dyn DiskFile> = Arc::from(disk.create(Path::new("/f")).unwrap());
        (disk, Arc::new(FileSync::new(file, Arc::default(), Fence::default())))
    }

    /// Goal: a sync is carried out once, at once or when it is settled, and no more are owing than
    /// the bound allows.
    #[test]
    fn once() {
        let (disk, sync) = setup();
        sync.request().unwrap();
        assert_eq!(disk.counts().syncs, 1);
        sync.deferred(|| sync.request()).unwrap();
        assert_eq!(disk.counts().syncs, 1);
        sync.owed().settle().unwrap();
        sync.owed().settle().unwrap();
        assert_eq!(disk.counts().syncs, 2);
        for _ in 0..3 {
            sync.deferred(|| sync.request()).unwrap();
        }
        assert_eq!(disk.counts().syncs, 3, "two may be owing, not three");
    }

    /// Goal: what is owing reaches the disk in order, each commit behind the sync of the one
    /// before, and before anything that is not owing. Readers see all of it at any time.
    #[test]
    fn order() {
        let (disk, sync) = setup();
        let commit = |at, byte: u8| {
            sync.deferred(|| sync.write(at, &[byte; 4]).and_then(|()| sync.request())).unwrap();
            sync.owed()
        };
        let read = || {
            let mut out = [9; 8];
            sync.read(0, &mut out).unwrap();
            out
        };
        sync.write(0, &[0; 8]).unwrap();
        let first = commit(0, 1);
        let second = commit(2, 2);
        assert_eq!((disk.counts().writes, disk.counts().syncs), (1, 0));
        assert_eq!(read(), [1, 1, 2, 2, 2, 2, 0, 0]);
        first.settle().unwrap();
        assert_eq!((disk.counts().writes, disk.counts().syncs), (2, 1), "not the second");
        assert_eq!(read(), [1, 1, 2, 2, 2, 2, 0, 0]);
        sync.write(5, &[3; 3]).unwrap();
        assert_eq!((disk.counts().writes, disk.counts().syncs), (4, 2), "the second, then this");
        second.settle().unwrap();
        assert_eq!(read(), [1, 1, 2, 2, 2, 3, 3, 3]);
    }

    /// Goal: within a commit the last write of a place wins, however they overlap.
    #[test]
    fn overlapping() {
        let (_, sync) = setup();
        sync.write(0, &[0; 10]).unwrap();
        sync.deferred(|| {
            for (at, len, byte) in [(4, 4, 1u8), (0, 4, 2), (6, 1, 3), (0, 5, 4), (8, 2, 5)] {
                sync.write(at, &vec![byte; len]).unwrap();
            }
            sync.request()
        })
        .unwrap();
        for settled in [false, true] {
            let mut out = [9; 10];
            sync.read(0, &mut out[..8]).unwrap();
            sync.read(8, &mut out[8..]).unwrap();
            assert_eq!(out, [4, 4, 4, 4, 4, 1, 3, 1, 5, 5], "settled: {settled}");
            sync.owed().settle().unwrap();
        }
    }

    /// Goal: a failed write or sync is never forgotten, and nothing is written behind it.
    #[test]
    fn failure_stays() {
        for faults in [
            Faults { fail_sync: Some(1), ..Faults::default() },
            Faults { fail_write: Some(1), ..Faults::default() },
        ] {
            let (disk, sync) = setup();
            disk.set_faults(faults);
            for _ in 0..2 {
                sync.deferred(|| sync.write(0, &[1; 4]).and_then(|()| sync.request())).unwrap();
            }
            let writes = 1;
            for _ in 0..2 {
                assert!(sync.owed().settle().is_err());
                assert!(sync.request().is_err());
                assert!(sync.deferred(|| sync.request()).is_err());
                assert!(sync.write(8, &[1; 4]).is_err());
            }
            assert_eq!(disk.counts().writes, writes);
            assert!(disk.counts().syncs <= 1);
        }
    }
}
