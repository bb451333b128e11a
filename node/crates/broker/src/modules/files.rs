//! Uploaded modules as files, each under its hash.
//!
//! An upload grows in `upload-HASH.part`, from where it was cut off; once all is there and the
//! hash fits, it is synced and renamed to `HASH.wasm`. So a module's file is whole or absent.

use ring::digest::{Context, SHA256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use weir_core::limits;

/// The module folder.
#[derive(Debug)]
pub struct ModuleFiles {
    dir: PathBuf,
    /// Serialises uploads: one part at a time is written.
    uploading: Mutex<()>,
}

/// Why a module's bytes cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The disk refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Not a hash.
    #[error("`{0}` is not a SHA-256 in lower-case hex")]
    Hash(String),
    /// Larger than a module may be.
    #[error("a module of {0} bytes; the most is {max}", max = limits::MODULE_BYTES_MAX)]
    TooLarge(u64),
    /// A part that does not continue what is there.
    #[error("the part begins at {at}, but the node has {have} bytes: begin the upload again")]
    Gap {
        /// Where it begins.
        at: u64,
        /// What is there.
        have: u64,
    },
    /// What was uploaded is not what was announced.
    #[error("the upload's SHA-256 is {found}, not {announced}: it was dropped, begin again")]
    Mismatch {
        /// What it was to be.
        announced: String,
        /// What it is.
        found: String,
    },
    /// The upload is not complete.
    #[error("the upload of {0} is not complete")]
    Incomplete(String),
    /// Somebody else uploads just now.
    #[error("another upload is being written; try again")]
    Busy,
}

impl ModuleFiles {
    /// Opens the folder, creating it if there is none.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn open(dir: &Path) -> Result<ModuleFiles, FilesError> {
        fs::create_dir_all(dir).map_err(io_error(dir))?;
        Ok(ModuleFiles { dir: dir.to_owned(), uploading: Mutex::new(()) })
    }

    /// The file of a complete module.
    ///
    /// # Errors
    /// [`FilesError::Incomplete`] if it is not there.
    pub fn path(&self, sha256: &str) -> Result<PathBuf, FilesError> {
        check_hash(sha256)?;
        let path = self.dir.join(format!("{sha256}.wasm"));
        if path.exists() { Ok(path) } else { Err(FilesError::Incomplete(sha256.to_owned())) }
    }

    /// The size of a complete module, in bytes.
    ///
    /// # Errors
    /// As [`ModuleFiles::path`].
    pub fn size(&self, sha256: &str) -> Result<u64, FilesError> {
        let path = self.path(sha256)?;
        Ok(fs::metadata(&path).map_err(io_error(&path))?.len())
    }

    /// How many bytes of a module are here already. Makes room for an upload, at the cost of the
    /// oldest unfinished one if there are too many. Blocks on the disk.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn begin(&self, sha256: &str, bytes: u64) -> Result<u64, FilesError> {
        check_hash(sha256)?;
        if bytes == 0 || bytes > limits::MODULE_BYTES_MAX as u64 {
            return Err(FilesError::TooLarge(bytes));
        }
        if self.path(sha256).is_ok() {
            return Ok(bytes);
        }
        let _one_at_a_time = self.uploading.try_lock().map_err(|_| FilesError::Busy)?;
        let part = self.unfinished(sha256);
        if !part.exists() {
            self.drop_oldest_parts();
            File::create(&part).map_err(io_error(&part))?;
        }
        Ok(fs::metadata(&part).map_err(io_error(&part))?.len())
    }

    /// Adds a part to an upload that was begun. Returns how many bytes are here. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn add(&self, sha256: &str, at: u64, data: &[u8]) -> Result<u64, FilesError> {
        check_hash(sha256)?;
        let _one_at_a_time = self.uploading.try_lock().map_err(|_| FilesError::Busy)?;
        let part = self.unfinished(sha256);
        let mut file = match OpenOptions::new().append(true).open(&part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FilesError::Gap { at, have: 0 });
            }
            Err(error) => return Err(io_error(&part)(error)),
        };
        let have = file.seek(SeekFrom::End(0)).map_err(io_error(&part))?;
        if at != have {
            return Err(FilesError::Gap { at, have });
        }
        let all = have + data.len() as u64;
        if all > limits::MODULE_BYTES_MAX as u64 {
            return Err(FilesError::TooLarge(all));
        }
        file.write_all(data).map_err(io_error(&part))?;
        Ok(all)
    }

    /// Makes a module of an upload whose bytes are all here. Blocks on the disk.
    ///
    /// # Errors
    /// [`FilesError`]; an upload with another hash is dropped.
    pub fn finish(&self, sha256: &str) -> Result<PathBuf, FilesError> {
        if let Ok(path) = self.path(sha256) {
            return Ok(path);
        }
        let _one_at_a_time = self.uploading.try_lock().map_err(|_| FilesError::Busy)?;
        let part = self.unfinished(sha256);
        let file = match File::open(&part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FilesError::Incomplete(sha256.to_owned()));
            }
            Err(error) => return Err(io_error(&part)(error)),
        };
        let found = hash_of(&file).map_err(io_error(&part))?;
        if found != sha256 {
            fs::remove_file(&part).map_err(io_error(&part))?;
            return Err(FilesError::Mismatch { announced: sha256.to_owned(), found });
        }
        file.sync_all().map_err(io_error(&part))?;
        let path = self.dir.join(format!("{sha256}.wasm"));
        fs::rename(&part, &path).map_err(io_error(&part))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error(&self.dir))?;
        Ok(path)
    }

    /// Some bytes of a complete module, from `at` on: at most
    /// [`limits::UPLOAD_PART_BYTES_MAX`], none at its end. Blocks on the disk.
    ///
    /// # Errors
    /// As [`ModuleFiles::path`].
    pub fn part(&self, sha256: &str, at: u64) -> Result<Vec<u8>, FilesError> {
        let path = self.path(sha256)?;
        let mut file = File::open(&path).map_err(io_error(&path))?;
        file.seek(SeekFrom::Start(at)).map_err(io_error(&path))?;
        let mut part = Vec::new();
        let most = limits::UPLOAD_PART_BYTES_MAX as u64;
        file.take(most).read_to_end(&mut part).map_err(io_error(&path))?;
        Ok(part)
    }

    /// The hashes of complete modules whose files are older than this. Blocks on the disk.
    #[must_use]
    pub fn older_than(&self, age: Duration) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let old = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|about| about.modified()).ok();
            written.and_then(|at| at.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
        };
        let entries = entries.filter(old);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let hash = |name: String| Some(name.strip_suffix(".wasm")?.to_owned());
        names.filter_map(hash).filter(|hash| check_hash(hash).is_ok()).collect()
    }

    /// Removes a module's bytes. One that cannot be removed takes room, no more.
    pub fn remove(&self, sha256: &str) {
        if let Ok(path) = self.path(sha256)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a deleted module's bytes stay");
        }
    }

    fn unfinished(&self, sha256: &str) -> PathBuf {
        self.dir.join(format!("upload-{sha256}.part"))
    }

    fn drop_oldest_parts(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut parts: Vec<_> = entries
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        parts.sort();
        let over = (parts.len() + 1).saturating_sub(limits::UPLOADS_MAX);
        for (_, path) in parts.into_iter().take(over) {
            // One that stays takes room, no more.
            let _ = fs::remove_file(path);
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FilesError + use<> {
    let path = path.to_owned();
    move |error| FilesError::Io { path, error }
}

/// Hashes become file names, so they are exactly that.
fn check_hash(sha256: &str) -> Result<(), FilesError> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    match sha256.len() == 64 && sha256.bytes().all(digit) {
        true => Ok(()),
        false => Err(FilesError::Hash(sha256.chars().take(80).collect())),
    }
}

fn hash_of(mut file: &File) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * limits::KIB];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> String {
        let digest = ring::digest::digest(&SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Goal: an upload goes on where it was cut off, and is there only when it is whole.
    #[test]
    fn an_upload_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..1_000_u32).flat_map(u32::to_le_bytes).collect();
        let sha256 = hash(&bytes);
        let files = ModuleFiles::open(dir.path()).unwrap();
        assert_eq!(files.begin(&sha256, bytes.len() as u64).unwrap(), 0);
        assert_eq!(files.add(&sha256, 0, &bytes[..700]).unwrap(), 700);
        assert!(matches!(files.path(&sha256), Err(FilesError::Incomplete(_))));
        // After a restart.
        let files = ModuleFiles::open(dir.path()).unwrap();
        assert_eq!(files.begin(&sha256, bytes.len() as u64).unwrap(), 700);
        let gap = files.add(&sha256, 0, &bytes);
        assert!(matches!(gap, Err(FilesError::Gap { at: 0, have: 700 })));
        assert_eq!(files.add(&sha256, 700, &bytes[700..]).unwrap(), 4_000);
        let path = files.finish(&sha256).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
        assert_eq!(files.begin(&sha256, 4_000).unwrap(), 4_000, "it is there already");
        files.remove(&sha256);
        assert!(files.path(&sha256).is_err());
    }

    /// Goal: nothing that is not what it says becomes a module, and names cannot leave the folder.
    #[test]
    fn refusals() {
        let dir = tempfile::tempdir().unwrap();
        let files = ModuleFiles::open(dir.path()).unwrap();
        let sha256 = hash(b"what was announced");
        files.begin(&sha256, 5).unwrap();
        files.add(&sha256, 0, b"other").unwrap();
        assert!(matches!(files.finish(&sha256), Err(FilesError::Mismatch { .. })));
        assert!(matches!(files.finish(&sha256), Err(FilesError::Incomplete(_))));
        for name in ["", "../../etc/passwd", &"A".repeat(64), &"g".repeat(64)] {
            assert!(matches!(files.begin(name, 1), Err(FilesError::Hash(_))), "{name}");
        }
        let most = limits::MODULE_BYTES_MAX as u64;
        assert!(matches!(files.begin(&sha256, most + 1), Err(FilesError::TooLarge(_))));
        for n in 0..limits::UPLOADS_MAX + 3 {
            files.begin(&hash(&(n as u64).to_le_bytes()), 1).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), limits::UPLOADS_MAX);
    }
}
