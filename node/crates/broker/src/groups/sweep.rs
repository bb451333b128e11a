//! Ends the membership of those that were silent for too long.

use super::Groups;
use crate::broker::Shared;
use crate::registry::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use weir_core::TimestampMs;
use weir_core::group::GroupAsk;

/// Shortest pause between two looks, also where what is due cannot be written just now.
const PAUSE_MIN: Duration = Duration::from_millis(50);

impl Groups {
    /// How long from now the next session may end; `None` where there are no members, or others
    /// coordinate them.
    fn next_expiry(&self) -> Option<Duration> {
        let epoch = self.partition.leading()?;
        let state = self.lock();
        let at = state.next_expiry().filter(|_| state.loaded == Some(epoch))?;
        Some(at.saturating_sub(self.began.elapsed()))
    }

    /// Lets members go that were silent for too long.
    fn sweep(&self, wall: TimestampMs, registry: &Registry) {
        let Ok(mut led) = self.led(wall, registry) else { return };
        for (group, ask) in led.state.expired(self.began.elapsed()) {
            let GroupAsk::Leave { member } = ask else { continue };
            match led.ask(&group, &ask) {
                Ok(_) => tracing::info!(group, member = member.0, "a member was silent: it is out"),
                Err(_) => tracing::debug!(group, member = member.0, "is let go later"),
            }
        }
    }
}

/// Looks whenever a session may have ended, as long as there are members here, until the node shuts
/// down.
pub async fn run(shared: Arc<Shared>) {
    loop {
        let next = shared.groups.next_expiry();
        let due = async {
            match next {
                // A moment later: a session lasts as long as it may.
                Some(after) => sleep_until(Instant::now() + after.max(PAUSE_MIN)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            () = shared.groups.woken.notified() => continue,
            () = due => shared.groups.sweep(shared.now(), &shared.registry),
        }
    }
}
