//! The demo's data folder: made afresh, but only where it is surely the demo's own.

use std::fs;
use std::io;
use std::path::Path;

use crate::exit::Failure;

/// A file by which a folder is known to be a demo's.
const MARK: &str = "weir-demo.txt";
const MARK_TEXT: &str = "\
This folder was made by `weir demo`, which replaces it at its next run unless told --keep.
It is the data folder of a node: `weir node --data-dir` with this folder serves what is in it.
";

/// Makes `folder` ready: empty unless `keep`.
///
/// # Errors
/// It holds something that no demo made, or the system's error.
pub fn prepare(folder: &Path, keep: bool) -> Result<(), Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(failure(folder, &error)),
    };
    if entries && !folder.join(MARK).is_file() {
        let what = format!("{} is not empty and was not made by a demo", folder.display());
        return Err(Failure::usage(what).next("Name another folder with --dir."));
    }
    if entries && !keep {
        fs::remove_dir_all(folder).map_err(|error| failure(folder, &error))?;
    }
    fs::create_dir_all(folder).map_err(|error| failure(folder, &error))?;
    fs::write(folder.join(MARK), MARK_TEXT).map_err(|error| failure(folder, &error))
}

/// Bytes that the files below `folder` occupy on disk.
///
/// # Errors
/// The system's.
pub fn disk_bytes(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            // Blocks are of 512 bytes, whatever the file system's are (stat(2)).
            false => metadata.blocks() * 512,
        };
    }
    Ok(total)
}

fn failure(folder: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", folder.display())).next("Name another folder with --dir.")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing is deleted that a demo did not make, and what one made is kept on request.
    #[test]
    fn only_a_demos_folder_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/demo");
        prepare(&folder, false).unwrap();
        fs::write(folder.join("old"), "x").unwrap();
        prepare(&folder, true).unwrap();
        assert!(folder.join("old").exists());
        assert!(disk_bytes(&folder).unwrap() > 0);
        prepare(&folder, false).unwrap();
        assert!(!folder.join("old").exists());
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        prepare(&other, false).unwrap();
        fs::remove_file(other.join(MARK)).unwrap();
        fs::write(other.join("precious"), "x").unwrap();
        assert!(prepare(&other, false).is_err());
        assert!(prepare(&other, true).is_err());
        assert!(other.join("precious").exists());
    }
}
