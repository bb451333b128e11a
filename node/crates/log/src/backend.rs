//! Between redb and the disk: counts what goes through, may leave writes and syncs
//! owing, and can be shut for good.

use crate::disk::DiskFile;
use crate::syncing::FileSync;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what one shard asks of the disk.
#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    pub(crate) bytes_written: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) syncs: AtomicU64,
}

/// Once shut, a file's bytes cannot change any more, whatever redb tries while it is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence(Arc<AtomicBool>);

impl Fence {
    pub(crate) fn shut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file is fenced after a failure"));
        }
        Ok(())
    }
}

/// What redb is given for a file.
#[derive(Debug)]
pub(crate) struct Backend {
    file: Arc<dyn DiskFile>,
    counters: Arc<IoCounters>,
    fence: Fence,
    sync: Arc<FileSync>,
}

impl Backend {
    pub(crate) fn new(
        file: Box<dyn DiskFile>,
        counters: &Arc<IoCounters>,
        fence: &Fence,
    ) -> Backend {
        let file: Arc<dyn DiskFile> = Arc::from(file);
        let sync = FileSync::new(file.clone(), counters.clone(), fence.clone());
        Backend { file, counters: counters.clone(), fence: fence.clone(), sync: Arc::new(sync) }
    }

    /// The file's writes and syncs.
    pub(crate) fn sync(&self) -> Arc<FileSync> {
        self.sync.clone()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = out.len() as u64;
        self.counters.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.sync.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fence.check()?;
        self.sync.flush()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fence.check()?;
        self.sync.request()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fence.check()?;
        let bytes = data.len() as u64;
        self.counters.bytes_written.fetch_add(bytes, Ordering::Relaxed);
        self.sync.write(offset, data)
    }
}

const BLOCK: u64 = 4096;

/// A file whose writes stay in memory: redb repairs a file by writing to it, and a file whose sync
/// failed must never be written again.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: Box<dyn DiskFile>,
    state: Mutex<OverlayState>,
}

#[derive(Debug)]
struct OverlayState {
    len: u64,
    /// Bytes of the file below it that still show through.
    base_len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    pub(crate) fn new(base: Box<dyn DiskFile>) -> io::Result<Overlay> {
        let len = base.len()?;
        let state = OverlayState { len, base_len: len, blocks: BTreeMap::new() };
        Ok(Overlay { base, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, OverlayState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes below the overlay, zero where there are none.
    fn read_base(&self, base_len: u64, at: u64, out: &mut [u8]) -> io::Result<()> {
        let there = base_len.saturating_sub(at).min(out.len() as u64) as usize;
        out[there..].fill(0);
        match there {
            0 => Ok(()),
            _ => self.base.read_at(at, &mut out[..there]),
        }
    }
}

impl DiskFile for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let end = at + out.len() as u64;
        if end > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_base(state.base_len, at, out)?;
        let first = at / BLOCK;
        for (&number, block) in state.blocks.range(first..end.div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let (from, to) = (start.max(at), (start + BLOCK).min(end));
            out[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let mut done = 0;
        while done < data.len() {
            let position = at + done as u64;
            let (number, within) = (position / BLOCK, (position % BLOCK) as usize);
            let part = (BLOCK as usize - within).min(data.len() - done);
            if !state.blocks.contains_key(&number) {
                let mut block = vec![0; BLOCK as usize].into_boxed_slice();
                self.read_base(state.base_len, number * BLOCK, &mut block)?;
                state.blocks.insert(number, block);
            }
            if let Some(block) = state.blocks.get_mut(&number) {
                block[within..within + part].copy_from_slice(&data[done..done + part]);
            }
            done += part;
        }
        state.len = state.len.max(at + data.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.len {
            state.base_len = state.base_len.min(len);
            state.blocks.split_off(&len.div_ceil(BLOCK));
            if let Some(block) = state.blocks.get_mut(&(len / BLOCK)) {
                block[(len % BLOCK) as usize..].fill(0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        self.base.drop_cached()
    }
}
