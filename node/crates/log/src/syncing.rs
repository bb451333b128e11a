//! Syncs that go on while the next commit is prepared.
//!
//! redb ends a commit with a sync and waits for it. The time that takes is the disk's, and the next
//! commit's rows could be filled in and their checksums computed meanwhile, but redb begins no
//! transaction before the one under way has ended. So the sync of a commit may be left owing:
//! redb is told that it is done and goes on in memory, and only whoever acknowledges waits for it.
//!
//! The disk sees no difference. Before anything is written to a file, or its length changed, or
//! another sync begun, the one that is owing is carried out and waited for: the order of all writes
//! and syncs of a file is what it is without this module, and so is everything that a crash can
//! leave. What redb took for durable too early lives in memory only, and is let go of with the file
//! if the sync fails.

use crate::backend::{Fence, IoCounters};
use crate::disk::DiskFile;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The syncs of one file.
#[derive(Debug)]
pub(crate) struct FileSync {
    file: Arc<dyn DiskFile>,
    counters: Arc<IoCounters>,
    fence: Fence,
    state: Mutex<State>,
    done: Condvar,
    deferring: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// Nothing is owing.
    Idle,
    /// A sync was promised and not begun.
    Owing,
    /// Somebody carries it out.
    Running,
    /// It failed: nothing may be written to the file any more.
    Failed(io::ErrorKind, String),
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
            state: Mutex::new(State::Idle),
            done: Condvar::new(),
            deferring: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs asked for while `body` runs are left owing at its end.
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

    /// What redb calls: syncs, or promises to.
    pub(crate) fn request(&self) -> io::Result<()> {
        self.settle()?;
        *self.state() = State::Owing;
        match self.deferring.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.settle(),
        }
    }

    /// Returns once nothing is owing: carries the sync out, or waits for whoever does.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let mut state = self.state();
        loop {
            match &*state {
                State::Idle => return Ok(()),
                State::Failed(kind, reason) => {
                    return Err(io::Error::new(*kind, reason.clone()));
                }
                State::Running => {
                    state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Owing => {
                    *state = State::Running;
                    drop(state);
                    let synced = self.sync_now();
                    state = self.state();
                    *state = match synced {
                        Ok(()) => State::Idle,
                        Err(error) => State::Failed(error.kind(), error.to_string()),
                    };
                    self.done.notify_all();
                }
            }
        }
    }

    fn sync_now(&self) -> io::Result<()> {
        self.fence.check()?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::sim::{Faults, SimDisk};
    use std::path::Path;

    fn setup() -> (SimDisk, FileSync) {
        let disk = SimDisk::new(1);
        let file: Arc<dyn DiskFile> = Arc::from(disk.create(Path::new("/f")).unwrap());
        (disk, FileSync::new(file, Arc::default(), Fence::default()))
    }

    /// Goal: a sync is carried out once, at once or when it is settled.
    #[test]
    fn once() {
        let (disk, sync) = setup();
        sync.request().unwrap();
        assert_eq!(disk.counts().syncs, 1);
        sync.deferred(|| sync.request()).unwrap();
        assert_eq!(disk.counts().syncs, 1);
        sync.settle().unwrap();
        sync.settle().unwrap();
        assert_eq!(disk.counts().syncs, 2);
        sync.deferred(|| sync.request()).unwrap();
        sync.deferred(|| sync.request()).unwrap();
        assert_eq!(disk.counts().syncs, 3, "one may be owing, not two");
    }

    /// Goal: a failed sync is never forgotten.
    #[test]
    fn failure_stays() {
        let (disk, sync) = setup();
        disk.set_faults(Faults { fail_sync: Some(1), ..Faults::default() });
        sync.deferred(|| sync.request()).unwrap();
        for _ in 0..2 {
            assert!(sync.settle().is_err());
            assert!(sync.request().is_err());
        }
        assert_eq!(disk.counts().syncs, 1);
    }
}
