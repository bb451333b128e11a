//! The disk, as the log sees it: few calls, so that a simulated disk can stand in for the real one
//! and fail at any of them.

use rustix::fs::{Advice, FlockOperation};
use std::any::Any;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An open file. Positions are absolute, so calls may come from several threads.
pub trait DiskFile: Send + Sync + Debug {
    /// The file's length in bytes.
    ///
    /// # Errors
    /// The system's error.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// The system's error.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from position `at`.
    ///
    /// # Errors
    /// The system's error; `UnexpectedEof` beyond the end.
    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at position `at`. Durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The system's error; any part may have been written.
    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()>;

    /// Writes all of `parts` behind each other, the first at position `at`. `parts` are used up.
    /// Durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// The system's error; any part may have been written.
    fn write_vectored_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut at = at;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// The system's error.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Returns once everything written is on stable storage.
    ///
    /// # Errors
    /// The system's error. What was written since the last good sync may be lost then, and the
    /// kernel may believe otherwise: the file must not be written again.
    fn sync(&self) -> io::Result<()>;

    /// Drops the file's pages from the system's cache, so that reads come from the device.
    ///
    /// # Errors
    /// The system's error.
    fn drop_cached(&self) -> io::Result<()>;
}

/// A file system. Creation, removal and renaming are durable only after [`Disk::sync_dir`].
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// The system's error; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates an empty file, cutting one that exists to nothing.
    ///
    /// # Errors
    /// The system's error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Creates a folder and those above it, durably.
    ///
    /// # Errors
    /// The system's error.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, in no order.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name in its folder, replacing what had it.
    ///
    /// # Errors
    /// The system's error.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// The system's error.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Free bytes for this process on the file system of `dir`.
    ///
    /// # Errors
    /// The system's error.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Bytes that a file occupies.
    ///
    /// # Errors
    /// The system's error.
    fn allocated_bytes(&self, path: &Path) -> io::Result<u64>;

    /// Locks a file (created if missing) against other processes until the value is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it, else the system's error.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>>;
}

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

/// Most parts of one `pwritev` call: `IOV_MAX` of every system that we know.
const PARTS_MAX: usize = 1024;

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, at)
    }

    fn write_at(&self, at: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, at)
    }

    fn write_vectored_at(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let (mut at, mut parts) = (at, parts);
        // Steps over empty parts, too.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let few = &parts[..parts.len().min(PARTS_MAX)];
            match rustix::io::pwritev(&self.0, few, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed)?)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            self.create_dir(parent)?;
            create_one_dir(path)?;
            return self.sync_dir(parent);
        }
        create_one_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn allocated_bytes(&self, path: &Path) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(path)?.blocks().saturating_mul(512))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

fn create_one_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
