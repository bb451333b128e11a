//! The thread that lanes and distributors run on: what they compute must not hold up the network's.

use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Blocking reads at a time.
const READERS_MAX: usize = 4;

/// A thread with a runtime of its own. Ends when it is dropped, and what runs on it with it.
#[derive(Debug)]
pub struct DeployThread {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DeployThread {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> std::io::Result<DeployThread> {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(READERS_MAX)
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("deployments".to_owned()).spawn(move || {
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })?;
        Ok(DeployThread { handle, end: Some(end), thread: Some(thread) })
    }

    /// Where to spawn.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for DeployThread {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It only fails where it panicked, which has been logged.
            let _ = thread.join();
        }
    }
}
