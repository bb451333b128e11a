//! Appends that the broker makes for itself and builds on: it has to know at once whether an entry
//! is on its way, and when all that it has built on so far is committed.

use super::{Partition, Payload};
use crate::ack::{OwnReply, Parked};
use weir_core::partition::replica::Role;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, TimestampMs};

impl Partition {
    /// The epoch in which this node leads and can append; `None` if it cannot.
    #[must_use]
    pub fn leading(&self) -> Option<LeaderEpoch> {
        match self.inner().replica.role() {
            Role::Leader(leader) => Some(leader.epoch()),
            _ => None,
        }
    }

    /// Appends an entry, which must have a fence. `reply` is called once the entry is committed, or
    /// its fate is unknown; not if it is refused.
    ///
    /// Never blocks. Entries reach the log in the order of these calls.
    ///
    /// # Errors
    /// Why it is refused: nothing was written.
    pub fn append_own(
        &self,
        now: TimestampMs,
        payload: Payload,
        reply: OwnReply,
    ) -> Result<(), WireError> {
        debug_assert!(payload.fence.is_some(), "what is built on is of one epoch");
        let mut inner = self.inner();
        let place = inner.append(self.id, &self.log, now, payload)?;
        let ready = match inner.replica.leader() {
            Some(leader) => leader.park(place.end_offset, Parked::Own(reply)),
            None => unreachable!("only a leader gives places, under one lock"),
        };
        drop(inner);
        if let Some(reply) = ready {
            reply.committed();
        }
        Ok(())
    }

    /// Calls `reply` once everything that is in the log of this epoch by now is committed.
    ///
    /// # Errors
    /// This node does not lead in that epoch: `reply` is not called.
    pub fn park_own(&self, epoch: LeaderEpoch, reply: OwnReply) -> Result<(), WireError> {
        let mut inner = self.inner();
        let parked = match inner.replica.leader() {
            Some(leader) if leader.epoch() == epoch => {
                let end = leader.log_end();
                Ok(leader.park(end, Parked::Own(reply)))
            }
            Some(_) => Err(WireError::new(ErrorCode::NotLeader, "the leader has changed")),
            None => Err(inner.elsewhere()),
        };
        drop(inner);
        if let Some(reply) = parked? {
            reply.committed();
        }
        Ok(())
    }

    /// Why nothing can be appended here; to be asked where [`Partition::leading`] says so.
    #[must_use]
    pub fn why_not(&self) -> WireError {
        self.inner().elsewhere()
    }
}
