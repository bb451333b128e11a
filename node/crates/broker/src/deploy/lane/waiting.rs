//! What a lane waits for: input, and CPU time.

use super::super::source::Dry;
use super::{Ended, Job, LaneTask};
use crate::partition::Partition;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use weir_core::limits;

impl LaneTask {
    /// Waits for input. Stores the position meanwhile if it has moved.
    pub(super) async fn wait(&mut self, job: &mut Job) -> Result<(), Ended> {
        let next = job.position.next;
        let untold = job.told.0 != next;
        let due = limits::LANE_POSITION_INTERVAL.saturating_sub(job.told.1.elapsed());
        let patience = if untold { due } else { Duration::ZERO };
        let home = self.home.clone();
        tokio::select! {
            changed = self.source.changed(next) => changed.map_err(|dry| match dry {
                Dry::Deleted => Ended::Stopped(None, "the input topic was deleted".to_owned()),
                Dry::Trouble(error) => error.into(),
            }),
            () = lead_lost(&home) => Err(Ended::Elsewhere),
            changed = self.orders.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                self.orders.mark_changed();
                Err(Ended::Orders)
            }
            () = sleep(patience), if untold => self.commit(job).await,
        }
    }

    /// Stands still for as long as the module has used more CPU time than it may.
    pub(super) async fn within_budget(&mut self, job: &mut Job) -> Result<(), Ended> {
        let Some(pause) = self.budget.pause(Instant::now()) else { return Ok(()) };
        if pause > limits::LANE_POSITION_INTERVAL && job.told.0 != job.position.next {
            self.commit(job).await?;
        }
        let (begun, home) = (Instant::now(), self.home.clone());
        let ended = loop {
            // Other lanes of the deployment take from the same budget meanwhile.
            let Some(pause) = self.budget.pause(Instant::now()) else { break Ok(()) };
            tokio::select! {
                () = lead_lost(&home) => break Err(Ended::Elsewhere),
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    self.orders.mark_changed();
                    break Err(Ended::Orders);
                }
                // sleep: until the budget has what was taken too much.
                () = sleep(pause) => {}
            }
        };
        self.meter.throttled(begun.elapsed());
        ended
    }
}

/// Waits until this node leads no more.
async fn lead_lost(home: &Partition) {
    let mut progress = home.progress();
    while progress.borrow_and_update().led {
        if progress.changed().await.is_err() {
            return;
        }
    }
}
