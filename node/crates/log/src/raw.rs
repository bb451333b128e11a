//! The bare disk: append and `fdatasync`, to compare the log with.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Appends and syncs a file without any structure.
#[derive(Clone, Copy, Debug)]
pub struct RawAppend;

/// What a run of [`RawAppend`] measured.
#[derive(Clone, Debug)]
pub struct RawFigures {
    /// Bytes written.
    pub bytes: u64,
    /// How long all of it took.
    pub elapsed: Duration,
    /// How long each append with its sync took, ascending.
    pub syncs: Vec<Duration>,
}

impl RawFigures {
    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }

    /// The time below which a share of the syncs stayed; `share` from 0 to 1.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let last = self.syncs.len().saturating_sub(1);
        let at = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        self.syncs.get(at).copied().unwrap_or_default()
    }
}

impl RawAppend {
    /// Appends `total` bytes to a new file in `dir`, with a sync after every `bytes_per_sync`, and
    /// removes the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn run(dir: &Path, bytes_per_sync: usize, total: u64) -> io::Result<RawFigures> {
        let path = dir.join("raw-append.tmp");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(&path)?;
        let block = pattern(bytes_per_sync.max(1));
        let mut syncs = Vec::new();
        let mut bytes = 0;
        let started = Instant::now();
        while bytes < total {
            let before = Instant::now();
            file.write_all(&block)?;
            file.sync_data()?;
            syncs.push(before.elapsed());
            bytes += block.len() as u64;
        }
        let elapsed = started.elapsed();
        drop(file);
        std::fs::remove_file(&path)?;
        syncs.sort_unstable();
        Ok(RawFigures { bytes, elapsed, syncs })
    }
}

/// Bytes that do not compress, the same in every run.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
