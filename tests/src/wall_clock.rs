//! Another wall clock for a process under test, which a test may step while the process runs.
//!
//! The program under test is the one that ships, without a hook of its own: a small C library,
//! built with the C compiler that the workspace's dependencies need anyway, is loaded before it and
//! answers its questions for the time. Linux only, and only for programs linked dynamically, as
//! those of the test profiles are.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const LIBRARY: &str = include_str!("wall_clock.c");

/// A wall clock that differs from the machine's. Cheap to clone; clones are one clock.
#[derive(Clone, Debug)]
pub struct WallClock {
    library: PathBuf,
    offset: PathBuf,
    file: Arc<File>,
}

impl WallClock {
    /// A clock that agrees with the machine's, with its files in `dir`.
    ///
    /// # Errors
    /// If the library does not compile or the folder cannot be written.
    pub fn new(dir: &Path) -> Result<WallClock> {
        let (source, library) = (dir.join("wall_clock.c"), dir.join("wall_clock.so"));
        let offset = dir.join("wall_clock.offset");
        std::fs::write(&source, LIBRARY)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(&compiler)
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source)
            .output()
            .with_context(|| format!("no C compiler {compiler:?}"))?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        std::fs::write(&offset, 0_i64.to_ne_bytes())?;
        let file = File::options().write(true).open(&offset)?;
        Ok(WallClock { library, offset, file: Arc::new(file) })
    }

    /// Steps the clock: from now on it is this many seconds ahead of the machine's.
    ///
    /// # Errors
    /// The system's.
    pub fn set_ahead(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }

    /// Steps the clock to this many seconds after the beginning of 1970.
    ///
    /// # Errors
    /// The system's.
    pub fn set_seconds_since_1970(&self, seconds: i64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        self.set_ahead(seconds - i64::try_from(now)?)
    }

    /// The environment of a process that is to live by this clock.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![("LD_PRELOAD", self.library.clone()), ("WALL_CLOCK_OFFSET", self.offset.clone())]
    }
}
