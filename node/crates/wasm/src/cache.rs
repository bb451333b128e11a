//! Compiled modules on disk, so that a module is compiled once for each node.
//!
//! An entry is machine code, and executing what somebody else put there would be the end of the
//! sandbox. So each carries a keyed hash under a secret of this node; an entry that is cut short,
//! rotten, from another node or made up is as good as none and is removed.
//!
//! # Layout of `HASH-COMPATIBILITY.cwasm` (little-endian)
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | `WEIRCWSM` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | 0 |
//! | 16 | 32 | SHA-256 of the component |
//! | 48 | 8 | compatibility hash of the engine |
//! | 56 | 8 | length of the code |
//! | 64 | 32 | HMAC-SHA-256 of: the SHA-256 of bytes 0 to 64 and the code |
//! | 96 | | the code |

use crate::limits::COMPILED_BYTES_MAX;
use crate::load::Sealed;
use crate::upload::ModuleHash;
use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"WEIRCWSM";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 96;
const SIGNED_BYTES: usize = 64;
const SECRET_BYTES: usize = 32;

/// Why the cache cannot be used.
#[derive(Debug, Error)]
#[error("module cache {path}: {source}")]
pub struct CacheError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// A folder of compiled modules.
pub struct Cache {
    dir: PathBuf,
    key: hmac::Key,
}

impl Cache {
    /// Opens the cache in `dir`, which is made if it is missing. `secret_file` holds this node's
    /// secret and is made, readable by its owner alone, if it is missing; a cache without its
    /// secret is an empty cache.
    ///
    /// # Errors
    /// If the folder or the secret cannot be made or read.
    pub fn open(dir: &Path, secret_file: &Path) -> Result<Cache, CacheError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let secret = secret(secret_file).map_err(failed(secret_file))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Ok(Cache { dir: dir.to_owned(), key })
    }

    /// The compiled module, if there is a right one. A wrong one is removed, and logged: it says
    /// that the disk is failing or that somebody was here.
    pub(crate) fn load(&self, hash: ModuleHash, compatibility: u64) -> Option<Sealed> {
        let path = self.path(hash, compatibility);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compiled module cannot be read");
                return None;
            }
        };
        if let Some(code) = self.verify(&bytes, hash, compatibility) {
            return Some(Sealed::authenticated(code));
        }
        tracing::warn!(
            path = %path.display(),
            "compiled module is damaged or not of this node: removed, will be compiled again"
        );
        // Where it cannot be removed it is refused the next time too.
        let _ = fs::remove_file(&path);
        None
    }

    /// Keeps a compiled module.
    ///
    /// # Errors
    /// If it cannot be written. The cache is then as before.
    pub(crate) fn store(
        &self,
        hash: ModuleHash,
        compatibility: u64,
        sealed: &Sealed,
    ) -> Result<(), CacheError> {
        let path = self.path(hash, compatibility);
        let part = path.with_extension(format!("part-{}", std::process::id()));
        let code = sealed.bytes();
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(&self.header(hash, compatibility, code))?;
            file.write_all(code)?;
            // Not synced: an entry that a power cut tears is found out by its hash.
            fs::rename(&part, &path)
        };
        written().map_err(|source| {
            let _ = fs::remove_file(&part);
            CacheError { path, source }
        })
    }

    /// Removes a module's entry, and those that other versions of the engine left for it.
    pub fn remove(&self, hash: ModuleHash) {
        let prefix = format!("{hash}-");
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // One that stays takes room, no more.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, hash: ModuleHash, compatibility: u64) -> PathBuf {
        self.dir.join(format!("{hash}-{compatibility:016x}.cwasm"))
    }

    /// The code of an entry that is what it should be.
    fn verify(&self, entry: &Bytes, hash: ModuleHash, compatibility: u64) -> Option<Bytes> {
        let (header, code) = (entry.get(..HEADER_BYTES)?, entry.get(HEADER_BYTES..)?);
        let (fields, tag) = header.split_at(SIGNED_BYTES);
        // Compared with what belongs here: a right entry under a wrong name is refused as well.
        let wanted = signed_fields(hash, compatibility, code);
        let right = fields == wanted
            && hmac::verify(&self.key, digest_of(fields, code).as_ref(), tag).is_ok();
        right.then(|| entry.slice(HEADER_BYTES..))
    }

    fn header(&self, hash: ModuleHash, compatibility: u64, code: &[u8]) -> [u8; HEADER_BYTES] {
        let fields = signed_fields(hash, compatibility, code);
        let tag = hmac::sign(&self.key, digest_of(&fields, code).as_ref());
        let mut header = [0; HEADER_BYTES];
        header[..SIGNED_BYTES].copy_from_slice(&fields);
        header[SIGNED_BYTES..].copy_from_slice(tag.as_ref());
        header
    }
}

fn signed_fields(hash: ModuleHash, compatibility: u64, code: &[u8]) -> [u8; SIGNED_BYTES] {
    let mut fields = [0; SIGNED_BYTES];
    fields[..8].copy_from_slice(MAGIC);
    fields[8..12].copy_from_slice(&VERSION.to_le_bytes());
    fields[16..48].copy_from_slice(&hash.0);
    fields[48..56].copy_from_slice(&compatibility.to_le_bytes());
    fields[56..64].copy_from_slice(&(code.len() as u64).to_le_bytes());
    fields
}

fn digest_of(fields: &[u8], code: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(fields);
    context.update(code);
    context.finish()
}

fn read(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let bytes_max = (COMPILED_BYTES_MAX + HEADER_BYTES) as u64;
    let size = file.metadata()?.len();
    if size > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than any entry"));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Reads the node's secret, or makes one.
fn secret(path: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not 32 bytes: remove the file");
    match fs::read(path) {
        Ok(bytes) => return bytes.try_into().map_err(|_| wrong()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| io::Error::other("the system has no random numbers"))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    Ok(secret)
}
