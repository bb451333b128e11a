//! The thread that guests run on.
//!
//! Guests share one thread, apart from the network's: each yields at every tick of the engine, so
//! that a slow one holds up the others for milliseconds, and nobody holds up the network.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The guest thread.
pub(super) struct Guests {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guests {
    pub(super) fn start() -> io::Result<Guests> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("guests".to_owned()).spawn(move || {
            // Ends when the sender is dropped, too.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Guests { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Runs `work` on the guest thread. `None` if it panicked or the thread is ending.
    ///
    /// # Cancel safety
    /// Dropping the future lets the work run on and drops its result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        match self.handle.spawn(work).await {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::error!(%error, "work of a module was lost");
                None
            }
        }
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only fails where it panicked, and then it has stopped too.
            let _ = thread.join();
        }
    }
}
