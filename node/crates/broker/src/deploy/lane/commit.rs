//! What a lane made becomes durable.

use super::super::append::{append, room};
use super::super::state::lock;
use super::{Ended, Job, LaneTask};
use std::time::Instant;
use tokio::time::timeout;
use weir_core::entry::StateChange;
use weir_core::limits;
use weir_core::wire::deployments::LaneCondition;
use weir_core::wire::{ErrorCode, Outcome};

impl LaneTask {
    /// Commits if there is anything to commit but the position, or that is due.
    pub(super) async fn commit_if_due(&mut self, job: &mut Job) -> Result<(), Ended> {
        let empty = job.entry.is_empty() && lock(&job.view.overlay).is_empty();
        if empty && job.told.1.elapsed() < limits::LANE_POSITION_INTERVAL {
            self.meter.at(job.position.next);
            return Ok(());
        }
        self.commit(job).await
    }

    /// Makes what there is durable, in one entry: records, state, position.
    pub(super) async fn commit(&mut self, job: &mut Job) -> Result<(), Ended> {
        let forgotten = self.room_for_state(job)?;
        job.broken = true;
        let made = job.entry.make(self.shared.now());
        let batch = made.map_err(|error| Ended::Stopped(None, error.to_string()))?.batch;
        let mut changes = lock(&job.view.overlay).changes(self.lane);
        changes.push(self.lane.set_position(job.position));
        changes.extend(forgotten);
        let mut pause = limits::LANE_RETRY_MIN;
        loop {
            let bytes = batch.as_ref().map_or(0, |batch| batch.bytes().len());
            let room = room(&self.shared, bytes).await;
            let (states, home) = (&self.deployments.states, (&*self.home, job.epoch));
            let appending =
                append(&self.shared, states, home, batch.clone(), changes.clone(), room);
            let error = match appending.committed().await {
                Ok(()) => break,
                Err(error) => error,
            };
            let again = matches!(error.code, ErrorCode::Busy | ErrorCode::DiskFull);
            if error.outcome == Outcome::Unknown || !again {
                return Err(error.into());
            }
            self.meter.failed(LaneCondition::Retrying, None, &error.message, self.shared.now());
            let mut orders = self.orders.clone();
            if timeout(pause, orders.changed()).await.is_ok() {
                // Nothing of it was written: whoever goes on computes it again.
                return Err(Ended::Orders);
            }
            pause = (pause * 2).min(limits::LANE_RETRY_MAX);
        }
        lock(&job.view.overlay).clear();
        job.broken = false;
        job.told = (job.position.next, Instant::now());
        let since = std::mem::take(&mut job.since);
        self.meter.committed(
            job.position.next,
            (since.records_in, since.records_out),
            (since.errors, since.dead_letters),
        );
        Ok(())
    }

    /// Whether the state that there will be is within its bounds. Returns what is forgotten for it:
    /// snapshots of earlier versions' state make room first.
    fn room_for_state(&self, job: &Job) -> Result<Vec<StateChange>, Ended> {
        let mut after = lock(&job.stored).bytes_after(&lock(&job.view.overlay));
        let before = lock(&job.stored).bytes();
        let mut all = (self.deployments.states.bytes() + after).saturating_sub(before);
        let mut forgotten = Vec::new();
        if after > limits::LANE_STATE_BYTES_MAX || all > limits::NODE_LANE_STATE_BYTES_MAX {
            let kept = lock(&job.stored).kept_bytes();
            (after, all) = (after.saturating_sub(kept), all.saturating_sub(kept));
            forgotten = lock(&job.stored).kept_removal(self.lane);
        }
        if !forgotten.is_empty() {
            let message = "the snapshots of the state were let go: it needs their room";
            self.meter.note(None, message, self.shared.now());
        }
        if after > limits::LANE_STATE_BYTES_MAX || all > limits::NODE_LANE_STATE_BYTES_MAX {
            let most = limits::LANE_STATE_BYTES_MAX.min(limits::NODE_LANE_STATE_BYTES_MAX);
            let message = format!(
                "the state would take {after} bytes in this partition ({all} on the whole node): \
                 at most {most} ({} on the node) are kept; let the module keep less",
                limits::NODE_LANE_STATE_BYTES_MAX
            );
            return Err(Ended::Stopped(Some(job.position.next), message));
        }
        Ok(forgotten)
    }
}
