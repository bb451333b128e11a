//! How a node ends.
//!
//! On SIGTERM, SIGINT (Ctrl-C) or SIGHUP, in this order:
//!
//! 1. `/ready` and `/health` say 503 and `run/node.json` goes, so that nobody new comes.
//! 2. The broker takes no more connections, tells its clients (who reconnect elsewhere or later),
//!    commits what it has accepted, and closes the log, so that the next start is quick. What
//!    takes longer than `shutdown_grace` is dropped: nothing of it was acknowledged.
//! 3. The HTTP port closes with the process.
//!
//! A second signal ends the process at once. That loses nothing either: what was acknowledged is on
//! disk, and the next start recovers the log as after a crash.

use crate::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a node.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on these signals are ours to handle.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them and gives its name.
    ///
    /// # Cancel safety
    /// Safe: a signal that was not returned is returned by the next call.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }

    /// Runs `shutdown` to its end, unless another signal comes first: then the process ends here.
    pub async fn unless_again(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            name = self.next() => {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(i32::from(Exit::Interrupted as u8));
            }
        }
    }
}
