//! Where things are: the data folder, and the file by which local clients find a running node.

use crate::config::Settings;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The data folder of a system-wide node.
pub const SYSTEM_DATA_DIR: &str = "/var/lib/weir";
/// Largest `node.json` that is read, in bytes.
const RUN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The folder that a node uses unless told otherwise: what systemd gives the service, else
/// [`SYSTEM_DATA_DIR`] for root, else the user's data folder.
///
/// # Errors
/// In words, if there is no home folder to put one into.
pub fn default_data_dir() -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    choose_data_dir(rustix::process::geteuid().is_root(), variable)
}

fn choose_data_dir(
    root: bool,
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<PathBuf, String> {
    // systemd separates several folders with colons; the first is ours.
    let first = |dirs: std::ffi::OsString| {
        let dirs = dirs.to_string_lossy().into_owned();
        PathBuf::from(dirs.split(':').next().unwrap_or_default())
    };
    if let Some(dirs) = variable("STATE_DIRECTORY") {
        return Ok(first(dirs));
    }
    if root {
        return Ok(PathBuf::from(SYSTEM_DATA_DIR));
    }
    if let Some(dir) = variable("XDG_DATA_HOME") {
        return Ok(PathBuf::from(dir).join("weir"));
    }
    let home = variable("HOME").ok_or("there is no home folder: give --data-dir DIR")?;
    Ok(PathBuf::from(home).join(".local/share/weir"))
}

/// The data folder that these settings name.
///
/// # Errors
/// As [`default_data_dir`].
pub fn node_data_dir(settings: &Settings) -> Result<PathBuf, String> {
    settings.data_dir.0.clone().map_or_else(default_data_dir, Ok)
}

/// The node's name: as set, or else the host's.
pub fn node_name(settings: &Settings) -> String {
    settings.name.0.clone().unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if host.is_empty() { "weir".to_owned() } else { host }
    })
}

/// The folder of the node's certificates.
pub fn tls_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("tls")
}

/// The folder that exists while a node runs.
pub fn run_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("run")
}

/// What a running node says about itself in `<data-dir>/run/node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// The node's process.
    pub pid: u32,
    /// The node's name.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Where it listens, with the port that it got.
    pub listen: SocketAddr,
    /// Its HTTP address, with the port that it got; `None` if HTTP is off.
    pub http: Option<SocketAddr>,
}

impl RunFile {
    /// The address that a client on this machine connects to.
    pub fn local_address(&self) -> SocketAddr {
        let ip = match self.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        SocketAddr::new(ip, self.listen.port())
    }

    /// Writes it, at once or not at all. Durability does not matter: it says that a process runs.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let dir = run_dir(data_dir);
        std::fs::create_dir_all(&dir)?;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let mut file = tempfile_in(&dir)?;
        writeln!(file.1, "{text}")?;
        std::fs::rename(&file.0, dir.join("node.json"))
    }

    /// Reads it; `None` if there is none, so no node runs here.
    ///
    /// # Errors
    /// The system's, or the file is not what its name says.
    pub fn read(data_dir: &Path) -> io::Result<Option<RunFile>> {
        let path = run_dir(data_dir).join("node.json");
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > RUN_FILE_BYTES_MAX => {
                return Err(io::Error::other("node.json is too large"));
            }
            Ok(_) => std::fs::read(&path),
            Err(error) => Err(error),
        };
        match bytes {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// The system's; that there is none is no error.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        match std::fs::remove_file(run_dir(data_dir).join("node.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes a file that only its owner may read, at once or not at all.
///
/// # Errors
/// The system's.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&temporary, path)
}

fn tempfile_in(dir: &Path) -> io::Result<(PathBuf, std::fs::File)> {
    let path = dir.join(".node.json.new");
    let file = std::fs::File::create(&path)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_folders() {
        let choose = |root, set: &[(&str, &str)]| {
            let set = set.to_vec();
            choose_data_dir(root, move |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            })
        };
        assert_eq!(choose(true, &[("HOME", "/root")]), Ok("/var/lib/weir".into()));
        assert_eq!(choose(false, &[("HOME", "/h")]), Ok("/h/.local/share/weir".into()));
        let xdg = [("HOME", "/h"), ("XDG_DATA_HOME", "/x")];
        assert_eq!(choose(false, &xdg), Ok("/x/weir".into()));
        let service = [("STATE_DIRECTORY", "/var/lib/weir-2:/b"), ("HOME", "/h")];
        assert_eq!(choose(false, &service), Ok("/var/lib/weir-2".into()));
        assert!(choose(false, &[]).is_err());
    }

    #[test]
    fn run_files() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(RunFile::read(dir.path()).unwrap(), None);
        let file = RunFile {
            pid: 7,
            name: "n".into(),
            version: "0.1.0".into(),
            listen: "0.0.0.0:7447".parse().unwrap(),
            http: None,
        };
        file.write(dir.path()).unwrap();
        file.write(dir.path()).unwrap();
        assert_eq!(RunFile::read(dir.path()).unwrap(), Some(file.clone()));
        assert_eq!(file.local_address(), "127.0.0.1:7447".parse().unwrap());
        RunFile::remove(dir.path()).unwrap();
        RunFile::remove(dir.path()).unwrap();
        assert_eq!(RunFile::read(dir.path()).unwrap(), None);
    }
}
