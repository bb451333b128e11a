//! A simulated disk that loses, tears and refuses as real ones do. Everything random comes from
//! its seed.
//!
//! - What was not synced may be lost at a power cut: each written 4 KiB page on its own is kept,
//!   lost or torn at a 512-byte sector; so are names that were not made durable.
//! - After a failed sync the pages count as clean though they may be lost, as on Linux: reads see
//!   them until the cached pages are dropped, later syncs do not write them.
//! - Reads, writes and syncs fail when told to; sectors rot when told to; space ends when told to.

use crate::disk::{Disk, DiskFile};
use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
const SECTOR: usize = 512;

/// A simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// When the disk is to fail. Counts begin at 1 with the next call of that kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The power goes at this sync (of a file or a folder).
    pub cut_at_sync: Option<u64>,
    /// The power goes at this write.
    pub cut_at_write: Option<u64>,
    /// This sync of a file fails.
    pub fail_sync: Option<u64>,
    /// This write fails, having written a part.
    pub fail_write: Option<u64>,
    /// This read fails.
    pub fail_read: Option<u64>,
    /// Once a sync or write failed, so many more writes and syncs fail, too.
    pub fail_again: u64,
}

/// What was asked of the disk since it was made, or since [`SimDisk::reset_counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Syncs of files and folders.
    pub syncs: u64,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    /// Raised by each power cut: handles of an older one are dead.
    epoch: u64,
    powered: bool,
    names: HashMap<PathBuf, u64>,
    durable_names: HashMap<PathBuf, u64>,
    dirs: HashSet<PathBuf>,
    files: HashMap<u64, Inode>,
    next_file: u64,
    locks: HashSet<PathBuf>,
    faults: Faults,
    counts: Counts,
    capacity: u64,
}

type Pages = BTreeMap<u64, Box<[u8]>>;

#[derive(Debug, Default)]
struct Inode {
    len: u64,
    durable_len: u64,
    durable: Pages,
    /// Written, not synced.
    dirty: Pages,
    /// Lost by a failed sync, but still in the system's cache.
    phantom: Pages,
}

/// Writes, syncs and everything else that can be told to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Write,
    Sync,
    SyncDir,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                rng: fastrand::Rng::with_seed(seed),
                epoch: 0,
                powered: true,
                names: HashMap::new(),
                durable_names: HashMap::new(),
                dirs: HashSet::new(),
                files: HashMap::new(),
                next_file: 1,
                locks: HashSet::new(),
                faults: Faults::default(),
                counts: Counts::default(),
                capacity: u64::MAX,
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets when the disk fails, counted from now.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// What was asked of the disk.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Counts from 0 again.
    pub fn reset_counts(&self) {
        self.state().counts = Counts::default();
    }

    /// Sets how many bytes fit on the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Whether the power is on.
    #[must_use]
    pub fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// Cuts the power: open files are dead, and of what was not synced, chance decides.
    pub fn cut_power(&self) {
        self.state().cut_power();
    }

    /// Turns the power on again.
    pub fn restore_power(&self) {
        let mut state = self.state();
        state.powered = true;
        state.faults = Faults::default();
    }

    /// Overwrites the sector that holds byte `at` of a file with garbage.
    pub fn rot(&self, path: &Path, at: u64) {
        let mut state = self.state();
        let sector = at as usize % PAGE as usize / SECTOR * SECTOR;
        let garbage: Vec<u8> = (0..SECTOR).map(|_| state.rng.u8(..)).collect();
        let file = state.names.get(path).copied();
        if let Some(file) = file.and_then(|file| state.files.get_mut(&file)) {
            let page = file.durable.entry(at / PAGE).or_insert_with(empty_page);
            page[sector..sector + SECTOR].copy_from_slice(&garbage);
        }
    }

    /// A file's length.
    #[must_use]
    pub fn file_len(&self, path: &Path) -> Option<u64> {
        let state = self.state();
        let file = state.names.get(path)?;
        Some(state.files.get(file)?.len)
    }
}

fn empty_page() -> Box<[u8]> {
    vec![0; PAGE as usize].into_boxed_slice()
}

fn power_is_off() -> io::Error {
    io::Error::other("simulated: the power is off")
}

impl State {
    fn used(&self) -> u64 {
        let pages = |file: &Inode| {
            let fresh = file.dirty.keys().filter(|page| !file.durable.contains_key(page));
            file.durable.len() + fresh.count()
        };
        self.files.values().map(|file| pages(file) as u64 * PAGE).sum()
    }

    fn cut_power(&mut self) {
        if !self.powered {
            return;
        }
        self.powered = false;
        self.epoch += 1;
        self.locks.clear();
        let rng = &mut self.rng;
        // In a fixed order, so that the seed decides everything.
        let mut order: Vec<u64> = self.files.keys().copied().collect();
        order.sort_unstable();
        for number in order {
            if let Some(file) = self.files.get_mut(&number) {
                file.lose_unsynced(rng);
            }
        }
        let mut changed: Vec<PathBuf> = self.names.keys().cloned().collect();
        changed.extend(self.durable_names.keys().cloned());
        changed.sort();
        changed.dedup();
        for path in changed {
            let (new, old) = (self.names.get(&path), self.durable_names.get(&path));
            let survivor = if rng.bool() { new } else { old }.copied();
            match survivor {
                Some(file) => self.names.insert(path.clone(), file),
                None => self.names.remove(&path),
            };
        }
        self.durable_names = self.names.clone();
        let named: HashSet<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
    }

    /// Counts a call and lets it fail if that is due.
    fn call(&mut self, call: Call) -> io::Result<()> {
        if !self.powered {
            return Err(power_is_off());
        }
        let faults = &mut self.faults;
        let (cut, fail) = match call {
            Call::Read => (None, Some(&mut faults.fail_read)),
            Call::Write => (Some(&mut faults.cut_at_write), Some(&mut faults.fail_write)),
            Call::Sync => (Some(&mut faults.cut_at_sync), Some(&mut faults.fail_sync)),
            Call::SyncDir => (Some(&mut faults.cut_at_sync), None),
        };
        if cut.is_some_and(due) {
            self.cut_power();
            return Err(power_is_off());
        }
        if fail.is_some_and(due) {
            if call != Call::Read && self.faults.fail_again > 0 {
                self.faults.fail_again -= 1;
                self.faults.fail_sync = Some(1);
                self.faults.fail_write = Some(1);
            }
            return Err(io::Error::other("simulated: input/output error"));
        }
        Ok(())
    }

    fn file(&mut self, epoch: u64, number: u64) -> io::Result<&mut Inode> {
        if epoch != self.epoch || !self.powered {
            return Err(power_is_off());
        }
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Counts down; whether it has come to the call.
fn due(at: &mut Option<u64>) -> bool {
    match at {
        None => false,
        Some(1) => {
            *at = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

impl Inode {
    fn page(&self, number: u64) -> Option<&[u8]> {
        let page = self.dirty.get(&number).or_else(|| self.phantom.get(&number));
        page.or_else(|| self.durable.get(&number)).map(|page| &page[..])
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        if at + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let position = at + done as u64;
            let within = (position % PAGE) as usize;
            let part = (PAGE as usize - within).min(out.len() - done);
            match self.page(position / PAGE) {
                Some(page) => {
                    out[done..done + part].copy_from_slice(&page[within..within + part]);
                }
                None => out[done..done + part].fill(0),
            }
            done += part;
        }
        Ok(())
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let position = at + done as u64;
            let (number, within) = (position / PAGE, (position % PAGE) as usize);
            let part = (PAGE as usize - within).min(data.len() - done);
            if !self.dirty.contains_key(&number) {
                let page = self.page(number).map_or_else(empty_page, Box::from);
                self.dirty.insert(number, page);
            }
            if let Some(page) = self.dirty.get_mut(&number) {
                page[within..within + part].copy_from_slice(&data[done..done + part]);
            }
            self.phantom.remove(&number);
            done += part;
        }
        self.len = self.len.max(at + data.len() as u64);
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            // The tail of the last page, and all beyond, reads as zero if the file grows again.
            let first = len.div_ceil(PAGE);
            let beyond = self.durable.range(first..).map(|(&number, _)| number);
            let beyond: Vec<u64> = beyond.collect();
            for number in beyond {
                self.dirty.insert(number, empty_page());
            }
            for (_, page) in self.dirty.range_mut(first..) {
                page.fill(0);
            }
            self.phantom.split_off(&first);
            if !len.is_multiple_of(PAGE) {
                let zeros = vec![0; (PAGE - len % PAGE) as usize];
                self.write(len, &zeros);
            }
        }
        self.len = len;
    }

    fn sync(&mut self) {
        self.durable.append(&mut self.dirty);
        self.durable_len = self.len;
        let end = self.len.div_ceil(PAGE);
        self.durable.split_off(&end);
    }

    /// A sync that failed: some pages made it, the rest only seem to have.
    fn fail_sync(&mut self, rng: &mut fastrand::Rng) {
        for (number, page) in std::mem::take(&mut self.dirty) {
            match rng.u8(..3) {
                0 => self.durable.insert(number, page),
                _ => self.phantom.insert(number, page),
            };
        }
        self.durable_len = self.len;
    }

    fn lose_unsynced(&mut self, rng: &mut fastrand::Rng) {
        // One fate for all now and then: everything lost, everything kept.
        let bias = rng.u8(..4);
        for (number, page) in std::mem::take(&mut self.dirty) {
            match if bias < 2 { bias } else { rng.u8(..3) } {
                0 => {}
                1 => {
                    self.durable.insert(number, page);
                }
                _ => {
                    let torn = rng.usize(1..PAGE as usize / SECTOR) * SECTOR;
                    let front = rng.bool();
                    let old = self.durable.entry(number).or_insert_with(empty_page);
                    let range = if front { 0..torn } else { torn..PAGE as usize };
                    old[range.clone()].copy_from_slice(&page[range]);
                }
            }
        }
        self.phantom.clear();
        if bias == 0 || (bias > 1 && rng.bool()) {
            self.len = self.durable_len;
        }
        let end = self.len.div_ceil(PAGE);
        self.durable.split_off(&end);
        self.durable_len = self.len;
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    epoch: u64,
    number: u64,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().file(self.epoch, self.number)?.len)
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.reads += 1;
        state.counts.read_bytes += out.len() as u64;
        state.call(Call::Read)?;
        state.file(self.epoch, self.number)?.read(at, out)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.writes += 1;
        if state.used() + data.len() as u64 > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Err(error) = state.call(Call::Write) {
            let part = state.rng.usize(..=data.len());
            if let Ok(file) = state.file(self.epoch, self.number) {
                file.write(at, &data[..part]);
            }
            return Err(error);
        }
        state.file(self.epoch, self.number)?.write(at, data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.file(self.epoch, self.number)?.set_len(len);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.syncs += 1;
        if let Err(error) = state.call(Call::Sync) {
            let mut rng = state.rng.fork();
            if let Ok(file) = state.file(self.epoch, self.number) {
                file.fail_sync(&mut rng);
            }
            return Err(error);
        }
        state.file(self.epoch, self.number)?.sync();
        Ok(())
    }

    fn drop_cached(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.file(self.epoch, self.number)?.phantom.clear();
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let number = state.names.get(path).copied();
        Ok(Box::new(SimFile {
            disk: self.clone(),
            epoch: state.epoch,
            number: number.ok_or(io::ErrorKind::NotFound)?,
        }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let number = state.next_file;
        state.next_file += 1;
        state.files.insert(number, Inode::default());
        state.names.insert(path.to_owned(), number);
        drop(state);
        self.open(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let all = path.ancestors().map(Path::to_owned);
        state.dirs.extend(all);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let all = state.names.keys().chain(&state.dirs);
        let here = all.filter(|path| path.parent() == Some(dir));
        let names = here.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let removed = state.names.remove(path);
        removed.map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.counts.syncs += 1;
        state.call(Call::SyncDir)?;
        let here = |path: &PathBuf| path.parent() == Some(dir);
        state.durable_names.retain(|path, _| !here(path));
        let named: Vec<_> = state.names.iter().filter(|(path, _)| here(path)).collect();
        let named: Vec<_> = named.into_iter().map(|(p, &n)| (p.clone(), n)).collect();
        state.durable_names.extend(named);
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn allocated_bytes(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        let number = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let file = state.files.get(number).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.durable.len().max(file.dirty.len()) as u64 * PAGE)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state();
        if !state.powered {
            return Err(power_is_off());
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), epoch: state.epoch, path: path.to_owned() }))
    }
}

struct SimLock {
    disk: SimDisk,
    epoch: u64,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}
