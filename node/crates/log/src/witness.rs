//! How far a shard's log was acknowledged, kept apart from the log itself.
//!
//! When the newest commit of the active file is damaged, redb takes it for one that a crash cut off
//! and falls back to the one before: what was acknowledged would be gone without a word, and its
//! offsets given to other records. So after each commit that is on disk, its end is written to a
//! small file beside the log. That write is not synced, and costs a microsecond: it is lost in a
//! power cut at worst, and is then merely out of date. What it says was acknowledged was.
//!
//! # Layout of `witness` (little-endian)
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | version, 1 |
//! | 4 | 4 | CRC-32C of the rest |
//! | 8 | 8 | number of the active file |
//! | 16 | 8 | the end of its stream that was acknowledged |
//!
//! Anything else is as good as none.

use crate::disk::{Disk, DiskFile};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The file's name in its shard's folder.
pub(crate) const WITNESS: &str = "witness";
const VERSION: u32 = 1;
const BYTES: usize = 24;

/// What was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// The number of the active file.
    pub(crate) seq: u64,
    /// The end of its stream.
    pub(crate) end: u64,
}

impl Acknowledged {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..].copy_from_slice(&self.end.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; BYTES]) -> Option<Acknowledged> {
        let number = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let acknowledged = Acknowledged { seq: number(8), end: number(16) };
        (acknowledged.encode() == *bytes).then_some(acknowledged)
    }
}

/// Writes down what is acknowledged.
#[derive(Debug)]
pub(crate) struct Witness {
    file: Option<Box<dyn DiskFile>>,
    failing: AtomicBool,
}

impl Witness {
    /// Opens the witness in a shard's folder, or makes one. Without one the log works as well, and
    /// sees less.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> Witness {
        let path = dir.join(WITNESS);
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create(&path).and_then(|file| disk.sync_dir(dir).map(|()| file))
            }
            other => other,
        };
        let failing = AtomicBool::new(file.is_err());
        if let Err(error) = &file {
            tracing::warn!(path = %path.display(), %error, "the log has no witness");
        }
        Witness { file: file.ok(), failing }
    }

    /// What the witness in a shard's folder says; `None` if there is none or it makes no sense.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Option<Acknowledged> {
        let file = disk.open(&dir.join(WITNESS)).ok()?;
        let mut bytes = [0; BYTES];
        file.read_at(0, &mut bytes).ok()?;
        Acknowledged::decode(&bytes)
    }

    /// A commit is on disk.
    pub(crate) fn note(&self, acknowledged: Acknowledged) {
        let Some(file) = &self.file else { return };
        match file.write_at(0, &acknowledged.encode()) {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            // Said once: the log itself is well.
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "the log's witness cannot be written");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    /// Goal: what was noted last reads back, and a changed byte makes it none at all.
    #[test]
    fn reads_back_or_not_at_all() {
        let (disk, dir) = (SimDisk::new(1), Path::new("/s"));
        disk.create_dir(dir).unwrap();
        assert_eq!(Witness::read(&disk, dir), None);
        let witness = Witness::open(&disk, dir);
        assert_eq!(Witness::read(&disk, dir), None);
        witness.note(Acknowledged { seq: 1, end: 5 });
        let last = Acknowledged { seq: 2, end: u64::MAX };
        witness.note(last);
        assert_eq!(Witness::read(&disk, dir), Some(last));
        let file = disk.open(&dir.join(WITNESS)).unwrap();
        for at in 0..BYTES {
            let mut bytes = last.encode();
            bytes[at] ^= 1;
            file.write_at(0, &bytes).unwrap();
            assert_eq!(Witness::read(&disk, dir), None, "byte {at}");
        }
    }
}
