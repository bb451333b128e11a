//! A reproducible tarball: entries in order, no times, no owners, so that equal contents give
//! equal bytes on every machine.

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

const BLOCK: usize = 512;

/// One file of an archive.
pub struct Entry {
    /// Its path, at most 100 bytes, with `/`.
    pub path: String,
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Whether it may be run.
    pub executable: bool,
}

/// The entries as a gzipped tar file, in POSIX ustar format, ordered by path.
///
/// # Errors
/// If a path does not fit the format.
pub fn tar_gz(mut entries: Vec<Entry>) -> Result<Vec<u8>> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    // The encoder writes no time and no name unless told to.
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    for entry in &entries {
        out.write_all(&header(entry)?)?;
        out.write_all(&entry.bytes)?;
        let over = entry.bytes.len() % BLOCK;
        if over != 0 {
            out.write_all(&vec![0; BLOCK - over])?;
        }
    }
    out.write_all(&[0; 2 * BLOCK])?;
    out.finish().context("gzip")
}

fn header(entry: &Entry) -> Result<[u8; BLOCK]> {
    let path = entry.path.as_bytes();
    ensure!(path.len() <= 100 && !path.is_empty(), "{}: not 1 to 100 bytes long", entry.path);
    let mut header = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, path);
    put(100, if entry.executable { b"0000755\0" } else { b"0000644\0" });
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", entry.bytes.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(265, b"root\0");
    put(297, b"root\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn entry(path: &str, bytes: &[u8], executable: bool) -> Entry {
        Entry { path: path.to_owned(), bytes: bytes.to_vec(), executable }
    }

    /// Goal: the system's tar reads what this writes, and the order given does not matter.
    #[test]
    fn tar_reads_it_and_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar.gz");
        let large = vec![7; 70_000];
        let make = |swap: bool| {
            let mut entries = vec![entry("a/run", &large, true), entry("a/text", b"hello", false)];
            if swap {
                entries.reverse();
            }
            tar_gz(entries).unwrap()
        };
        assert_eq!(make(false), make(true));
        std::fs::write(&archive, make(false)).unwrap();
        let status =
            Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir.path()).status();
        assert!(status.unwrap().success());
        assert_eq!(std::fs::read(dir.path().join("a/run")).unwrap(), large);
        assert_eq!(std::fs::read(dir.path().join("a/text")).unwrap(), b"hello");
        assert!(tar_gz(vec![entry(&"x".repeat(101), b"", false)]).is_err());
    }
}
