//! What the machine itself does, measured in the same run: the disk and a bare QUIC stream.

use std::path::Path;

use weir_log::raw::{RawAppend, RawFigures};
use weir_transport::bench::{Direction, bare_stream, warm_stream};

use crate::exit::{Exit, Failure};

/// What moves over a connection before it is measured: several times the stream's window.
const WARM_UP_BYTES: u64 = 32 << 20;

/// Append + fdatasync of `total` bytes, `bytes_per_sync` at a time.
///
/// # Errors
/// The system's.
pub async fn raw(dir: &Path, bytes_per_sync: usize, total: u64) -> Result<RawFigures, Failure> {
    let dir = dir.to_owned();
    let run = move || RawAppend::run(&dir, bytes_per_sync, total);
    let figures = on_thread(run).await?;
    figures.map_err(|error| Failure::new(Exit::Error, format!("raw append: {error}")))
}

/// 10⁶ bytes per second of one stream between two threads of this process.
///
/// # Errors
/// Why it failed.
pub async fn quinn(total: u64, chunk: usize, direction: Direction) -> Result<f64, Failure> {
    let moved = on_thread(move || bare_stream(total, chunk, direction)).await?;
    let throughput =
        moved.map_err(|error| Failure::new(Exit::Error, format!("bare stream: {error}")))?;
    Ok(throughput.mb_per_s())
}

/// As [`quinn`], after as many bytes as warm a connection up.
///
/// # Errors
/// Why it failed.
pub async fn warm_quinn(total: u64, chunk: usize, direction: Direction) -> Result<f64, Failure> {
    let moved = on_thread(move || warm_stream(WARM_UP_BYTES, total, chunk, direction)).await?;
    let throughput =
        moved.map_err(|error| Failure::new(Exit::Error, format!("bare stream: {error}")))?;
    Ok(throughput.mb_per_s())
}

/// What goes through both the network and the disk, one after the other, cannot be faster than
/// this: 1/(1/raw + 1/quinn).
pub fn composite_limit(raw: f64, quinn: f64) -> f64 {
    if raw <= 0.0 || quinn <= 0.0 { 0.0 } else { 1.0 / (1.0 / raw + 1.0 / quinn) }
}

/// Runs `work` on a thread that is no part of the runtime.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("weir-bench-baseline".to_owned()).spawn(move || {
        // Nobody waits any more only if the bench was interrupted.
        let _ = sender.send(work());
    })?;
    receiver.await.map_err(|_| Failure::new(Exit::Error, "a measuring thread ended by itself"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(composite_limit(1_000.0, 1_000.0), 500.0);
        assert!((composite_limit(1_700.0, 1_900.0) - 897.2).abs() < 0.1);
        assert_eq!(composite_limit(0.0, 1.0), 0.0);
    }

    #[tokio::test]
    async fn raw_figures_are_of_the_bytes_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let figures = raw(dir.path(), 4_096, 10 * 4_096).await.unwrap();
        assert_eq!((figures.bytes, figures.syncs.len()), (40_960, 10));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
