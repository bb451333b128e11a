//! Where following files stopped, kept in a small file between runs.
//!
//! What is promised: a checkpoint is written only once everything before it is acknowledged by
//! the node. So after a crash of this program, of the node or of the machine every line is in the
//! topic at least once; lines since the last checkpoint (a second's worth) may be there twice.
//! A checkpoint of another cluster counts for nothing: that cluster does not have the records.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir_collect::Checkpoint;

/// Version of the file's layout. Another one is refused, not guessed.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes: 1,024 files with long paths.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The contents of a checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Layout of this file.
    version: u32,
    /// The topic that the records went to.
    pub topic: String,
    /// The cluster that has them.
    pub cluster: String,
    /// How far each file was read.
    pub files: Vec<Checkpoint>,
}

impl Saved {
    /// What is to be kept.
    pub fn new(topic: &str, cluster: &str, files: Vec<Checkpoint>) -> Saved {
        let (topic, cluster) = (topic.to_owned(), cluster.to_owned());
        Saved { version: VERSION, topic, cluster, files }
    }

    /// Reads the file; none if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no checkpoint file of this version.
    pub fn load(path: &Path) -> io::Result<Option<Saved>> {
        let bytes = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(path, &error)),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(at(path, &"too large for a checkpoint file"));
            }
            Ok(_) => fs::read(path).map_err(|error| at(path, &error))?,
        };
        let saved: Saved = serde_json::from_slice(&bytes)
            .map_err(|error| at(path, &format!("no checkpoint file: {error}")))?;
        if saved.version != VERSION {
            let text = format!("version {} is not known to this program", saved.version);
            return Err(at(path, &text));
        }
        Ok(Some(saved))
    }

    /// Replaces the file, durably: after a power cut there is the old one or the new one.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = folder.join(name);
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    }
}

/// The file for following these files into this topic: in the state folder that systemd gives a
/// service, else in the user's. The same files give the same name whatever the current folder.
///
/// # Errors
/// In words, if there is no folder for it.
pub fn default_path(topic: &str, files: &[PathBuf]) -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = state_folder(variable)
        .ok_or("there is no home folder to remember positions in: give --checkpoint FILE")?;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        for byte in path.as_os_str().as_encoded_bytes().iter().chain(b"\0") {
            // FNV-1a: enough to tell lists of files apart.
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(folder.join(format!("collect-{topic}-{hash:016x}.json")))
}

fn state_folder(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    if let Some(folders) = variable("STATE_DIRECTORY") {
        // systemd separates several folders with colons; the first is ours.
        let folders = folders.to_string_lossy().into_owned();
        return Some(PathBuf::from(folders.split(':').next().unwrap_or_default()));
    }
    if let Some(folder) = variable("XDG_STATE_HOME") {
        return Some(PathBuf::from(folder).join("weir"));
    }
    variable("HOME").map(|home| PathBuf::from(home).join(".local/state/weir"))
}

fn at(path: &Path, problem: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let file = Checkpoint {
            path: "/var/log/x.log".into(),
            device: 1,
            inode: 2,
            offset: 300,
            head_hash: u64::MAX,
        };
        Saved::new("logs", "c1", vec![file])
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/state.json");
        assert_eq!(Saved::load(&path).unwrap(), None);
        saved().save(&path).unwrap();
        saved().save(&path).unwrap();
        assert_eq!(Saved::load(&path).unwrap(), Some(saved()));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing else is left behind");
    }

    /// Goal: a file that is not understood stops the command instead of starting over.
    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for text in ["", "{}", "not json"] {
            fs::write(&path, text).unwrap();
            assert!(Saved::load(&path).is_err(), "{text}");
        }
        let newer = Saved { version: 2, ..saved() };
        fs::write(&path, serde_json::to_vec(&newer).unwrap()).unwrap();
        assert!(Saved::load(&path).unwrap_err().to_string().contains("version 2"));
    }

    #[test]
    fn folders_and_names() {
        let folder = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            state_folder(move |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            })
        };
        assert_eq!(folder(&[("HOME", "/h")]), Some("/h/.local/state/weir".into()));
        let xdg = [("XDG_STATE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(folder(&xdg), Some("/x/weir".into()));
        assert_eq!(folder(&[("STATE_DIRECTORY", "/s:/t")]), Some("/s".into()));
        assert_eq!(folder(&[]), None);
        let name = |files: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
            default_path("t", &files).unwrap().file_name().unwrap().to_owned()
        };
        assert_eq!(name(&["/a", "/b"]), name(&["/a", "/b"]));
        assert_ne!(name(&["/a", "/b"]), name(&["/b", "/a"]));
        assert_ne!(name(&["/a"]), name(&["/b"]));
    }
}
