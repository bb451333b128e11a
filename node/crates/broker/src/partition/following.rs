//! The follower's side of a partition: questions and answers, entries, and cuts of the log.

use super::{Partition, log_error};
use std::collections::BTreeMap;
use std::time::Duration;
use weir_core::Offset;
use weir_core::ids::LeaderEpoch;
use weir_core::partition::assignment::Lead;
use weir_core::partition::follower::{Accept, Standing, Step};
use weir_core::partition::messages::{Follow, FollowAnswer, Push};
use weir_core::partition::replica::{Effect, Role};
use weir_core::partition::view::PartitionView;
use weir_core::wire::WireError;
use weir_log::{AppendRequest, CutError, LoggedEntry};

/// Who is followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The leader.
    pub leader: Lead,
    /// The epoch.
    pub epoch: LeaderEpoch,
}

/// What became of entries that a leader pushed.
#[derive(Debug)]
pub enum Taken {
    /// All were taken, or are not needed.
    All,
    /// The log has no room: these are to be offered again.
    Later(Vec<LoggedEntry>),
    /// They do not fit: the leader has to be asked again.
    AskAgain,
}

impl Partition {
    /// The stream from the leader ended.
    pub fn handle_lost(&self) {
        if let Some(follower) = self.inner().replica.follower() {
            follower.handle_lost();
        }
    }

    /// The log cannot be cut as a leader asked: what it would need for that is gone. The copy takes
    /// no part until it counts no more; then it begins anew.
    pub fn handle_cut_failed(&self, error: &CutError) {
        tracing::error!(
            partition = %self.id,
            %error,
            "the copy here cannot be brought in line with the leader's; it begins anew once it is \
             not in the in-sync set"
        );
        self.inner().cut_failed = true;
        self.begin_anew();
    }

    /// Drops a copy that could not be cut, if nobody counts on it.
    pub(super) fn begin_anew(&self) {
        let mut inner = self.inner();
        let me = inner.replica.me().node;
        let counts = inner.replica.assignment().is_none_or(|known| known.insync.contains_key(&me));
        if !inner.cut_failed || counts {
            return;
        }
        inner.cut_failed = false;
        // Under the lock: what is appended later follows. From the very beginning: what comes
        // before a later one would be in no view of this log.
        let (state, producers) = (BTreeMap::new(), Default::default());
        let begun = self.log.reset(self.id, Offset::ZERO, Vec::new(), state, producers);
        if let Err(error) = begun {
            inner.cut_failed = true;
            tracing::warn!(partition = %self.id, %error, "the copy could not begin anew yet");
        }
    }

    /// Whom this node follows, if it does.
    #[must_use]
    pub fn followed(&self) -> Option<Followed> {
        match self.inner().replica.role() {
            Role::Follower(follower) => {
                Some(Followed { leader: follower.leader(), epoch: follower.epoch() })
            }
            _ => None,
        }
    }

    /// Where the follower stands, if this node follows.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        match self.inner().replica.role() {
            Role::Follower(follower) => Some(follower.standing()),
            _ => None,
        }
    }

    /// The question to the leader, if one is due.
    pub fn poll_follow(&self, retry: Duration) -> Option<Follow> {
        let now = self.began.elapsed();
        self.inner().replica.follower()?.poll_follow(now, retry)
    }

    /// The leader's answer. What it asks of the log is begun here; one that begins anew does so
    /// with `base`.
    pub fn handle_answer(&self, answer: &FollowAnswer, base: Option<PartitionView>) {
        let now = self.began.elapsed();
        let mut inner = self.inner();
        let Some(follower) = inner.replica.follower() else { return };
        let step = follower.handle_answer(now, answer);
        let id = self.id;
        match &step {
            Step::Nothing => return,
            Step::Truncate { end } => {
                tracing::info!(partition = %id, %end, "the log is cut: the leader's parts there");
            }
            Step::Reset { start, .. } => {
                tracing::info!(partition = %id, %start, "the log begins anew: the leader's \
                    begins there");
            }
            Step::Halt(halt) => {
                tracing::error!(partition = %id, %halt, "the replica takes part no longer");
                return;
            }
        }
        inner.cut = Some((step, base));
        drop(inner);
        self.begin_cut();
    }

    /// Hands the log the cut that it is to make, if there is one. While the log has no room for it,
    /// it stays, and is offered again at the next look.
    pub(super) fn begin_cut(&self) {
        let mut inner = self.inner();
        let waits = match inner.replica.role() {
            Role::Follower(follower) => follower.standing() == Standing::Cutting,
            _ => false,
        };
        // Another role has another question.
        let Some((step, base)) = inner.cut.take().filter(|_| waits) else { return };
        let id = self.id;
        // Under the lock: appends that are decided later follow the cut.
        let begun = match &step {
            Step::Truncate { end } => self.log.truncate(id, *end),
            Step::Reset { start, epochs } => {
                let PartitionView { state, producers, .. } = base.clone().unwrap_or_default();
                self.log.reset(id, *start, epochs.clone(), state, producers)
            }
            Step::Nothing | Step::Halt(_) => Ok(()),
        };
        if let Err(error) = begun {
            inner.cut = Some((step, base));
            drop(inner);
            tracing::warn!(partition = %id, %error, "the log is not cut yet");
        }
    }

    /// Entries that the leader pushed, in order. They were checked before.
    ///
    /// # Errors
    /// The log does not take them, and not for want of room.
    pub fn take(&self, push: &Push, entries: Vec<LoggedEntry>) -> Result<Taken, WireError> {
        let mut inner = self.inner();
        let linger = Duration::ZERO;
        let mut entries = entries.into_iter();
        while let Some(entry) = entries.next() {
            let Some(follower) = inner.replica.follower() else { return Ok(Taken::AskAgain) };
            match follower.decide_entry(push, &entry.header) {
                Accept::Drop => continue,
                Accept::AskAgain => return Ok(Taken::AskAgain),
                Accept::Append => {}
            }
            let again = entry.clone();
            let LoggedEntry { header, state, source, batch } = entry;
            let known = header.clone();
            let hold = None;
            let request = AppendRequest { header, state, source, batch, linger, hold };
            match self.log.append(request) {
                Ok(()) => follower.handle_appended(&known),
                Err(weir_log::AppendError::QueueFull | weir_log::AppendError::DiskFull) => {
                    return Ok(Taken::Later(std::iter::once(again).chain(entries).collect()));
                }
                Err(error) => return Err(log_error(error)),
            }
        }
        Ok(Taken::All)
    }

    /// How far the leader is, after its entries were taken.
    pub fn handle_push(&self, push: &Push) {
        let mut moved = None;
        let effects = self.act(|replica, now| {
            let pushed = replica.follower().and_then(|follower| follower.handle_push(now, push));
            match pushed {
                Some((report, start)) => {
                    moved = start;
                    vec![Effect::Report(report)]
                }
                None => Vec::new(),
            }
        });
        self.carry_out(effects);
        if let Some(start) = moved
            && let Err(error) = self.log.trim(self.id, start)
        {
            tracing::debug!(partition = %self.id, %error, "the log start follows later");
        }
    }
}
