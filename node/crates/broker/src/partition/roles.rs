//! What becomes of a partition's replica: the controller's word, the log's news, leader and
//! followers. Everything here is an event for [`Replica`], and what it asks for in return.
//!
//! Replies leave in log order, although they are released by several threads: whoever releases some
//! puts them into the outbox while the replica is locked, and one at a time empties it.

use super::{Partition, Progress, Settings};
use crate::ack::Parked;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use weir_core::cluster::ClusterAsk;
use weir_core::ids::{DiskId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch};
use weir_core::partition::assignment::{Assignment, Lead};
use weir_core::partition::follower::Standing;
use weir_core::partition::insync::{self, Lag};
use weir_core::partition::leader::FollowRefusal;
use weir_core::partition::messages::{Follow, FollowAnswer, Push, Report};
use weir_core::partition::replica::{Effect, Replica, Role};
use weir_core::partition::view::PartitionView;
use weir_core::topic::TopicConfig;
use weir_core::wire::cluster::FollowerInfo;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, PartitionId};

/// The only replica of a partition of a node without a cluster.
pub const ALONE: Lead = Lead { node: NodeId(0), incarnation: Incarnation(0) };

/// How long a client waits for a new leader to know what is committed, before it is told to wait
/// elsewhere.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);

/// A reply that was released.
#[derive(Debug)]
pub(super) enum Released {
    Committed(Parked),
    Unknown(Parked, ErrorCode, String),
}

/// What pushing to a follower goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushing {
    /// What to say with entries.
    pub push: Push,
    /// The end of what may be pushed: it is on this disk.
    pub durable_end: Offset,
}

impl Partition {
    /// Leads as the only replica, in an epoch that no leadership of this partition had before, over
    /// what `view` says. Also after the log was reopened.
    pub fn lead_alone(&self, epoch: LeaderEpoch, view: &PartitionView) {
        let assignment = Assignment {
            replicas: vec![ALONE.node],
            target: None,
            leader: Some(ALONE),
            leader_epoch: epoch,
            partition_epoch: PartitionEpoch(epoch.0.unsigned_abs()),
            insync: [(ALONE.node, DiskId(0))].into(),
            min_insync: 1,
            missing: 0,
        };
        let effects = self.act(|replica, now| {
            let mut effects = replica.handle_recovered(now, view);
            effects.extend(replica.handle_assigned(now, &assignment));
            effects.extend(replica.handle_view(now, view));
            effects
        });
        let halt = effects.iter().find(|effect| matches!(effect, Effect::Halt(_)));
        if let Some(Effect::Halt(halt)) = halt {
            tracing::error!(partition = %self.id, %halt, "the partition takes part no longer");
        }
    }

    /// This node is in that life. To be told before any assignment.
    pub fn handle_registered(&self, life: Incarnation) {
        self.inner().replica.handle_registered(life);
    }

    /// The controller's word on the partition.
    pub fn handle_assigned(&self, assignment: &Assignment) {
        let effects = self.act(|replica, now| replica.handle_assigned(now, assignment));
        self.carry_out(effects);
        self.begin_anew();
    }

    /// What the log says, asked for before: this node leads from here on, if it is still to.
    pub fn handle_view(&self, view: &PartitionView) {
        let effects = self.act(|replica, now| replica.handle_view(now, view));
        self.carry_out(effects);
    }

    /// The log is on disk up to `end`.
    pub fn handle_durable(&self, end: Offset) {
        let effects = self.act(|replica, _| replica.handle_durable(end));
        self.carry_out(effects);
        self.durable.send_if_modified(|known| {
            let moved = end > *known;
            *known = (*known).max(end);
            moved
        });
    }

    /// A write failed: what waits has an unknown fate.
    pub fn handle_failure(&self, reason: &str) {
        let message = format!(
            "the disk failed while the batch was being written ({reason}); whether it is stored is \
             not known: retry with the same producer and sequence"
        );
        let effects = self.act_because(ErrorCode::Offline, &message, |r, _| r.handle_failure());
        self.carry_out(effects);
    }

    /// The log was reopened; it holds what `view` says. Of a cluster's node: the controller gives
    /// the epoch to go on in.
    pub fn handle_recovered(&self, view: &PartitionView) {
        let effects = self.act(|replica, now| replica.handle_recovered(now, view));
        self.carry_out(effects);
        self.durable.send_replace(view.log_end);
    }

    /// The log was cut as a leader asked.
    pub fn handle_cut(&self, view: &PartitionView) {
        self.durable.send_replace(view.log_end);
        let effects = self.act(|replica, now| replica.handle_cut(now, view));
        self.carry_out(effects);
    }

    /// Retention or an operator moved the log start.
    pub fn handle_log_start(&self, start: Offset) {
        let effects = self.act(|replica, _| {
            replica.handle_log_start(start);
            Vec::new()
        });
        self.carry_out(effects);
    }

    /// The topic was deleted: appends are refused, subscriptions end.
    pub fn handle_deleted(&self) {
        self.inner().deleted = true;
        let gone = "the topic was deleted";
        let _ = self.act_because(ErrorCode::TopicDeleted, gone, |r, _| r.handle_failure());
        self.progress.send_modify(|progress| progress.deleted = true);
        self.turns.send_modify(|turn| *turn += 1);
        self.gate.set(&TopicConfig::default());
    }

    /// Takes over changed settings of the topic.
    pub fn set_config(&self, config: &TopicConfig) {
        self.inner().settings = Settings::from(config);
        self.gate.set(config);
    }

    /// Who leads, as far as is known here.
    #[must_use]
    pub fn leader(&self) -> Option<Lead> {
        self.inner().replica.assignment().and_then(|assignment| assignment.leader)
    }

    /// Whether what is committed can be read from the copy here: it is in the in-sync set.
    #[must_use]
    pub fn is_at_hand(&self) -> bool {
        let inner = self.inner();
        let me = inner.replica.me().node;
        inner.replica.assignment().is_some_and(|known| known.insync.contains_key(&me))
    }

    /// Whether this node is to lead, and waits for what the log says.
    #[must_use]
    pub fn awaits_view(&self) -> bool {
        matches!(self.inner().replica.role(), Role::Waiting(_))
    }

    /// Whether this node neither leads nor is about to: no view was asked for.
    #[must_use]
    pub fn is_bystander(&self) -> bool {
        matches!(self.inner().replica.role(), Role::Idle(_) | Role::Follower(_))
    }

    /// Gives all replies that were released so far. What is appended later is answered later.
    pub fn flush_replies(&self) {
        self.deliver();
    }

    /// Why the copy here takes part no longer, if it does not.
    #[must_use]
    pub fn halted(&self) -> Option<String> {
        match self.inner().replica.role() {
            Role::Halted(_, halt) => Some(halt.to_string()),
            Role::Follower(follower) => match follower.standing() {
                Standing::Halted(halt) => Some(halt.to_string()),
                _ => None,
            },
            _ => None,
        }
    }

    /// The end of what is on this disk; changes can be awaited.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Offset> {
        self.durable.subscribe()
    }

    /// The newest report for the leader; changes can be awaited.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Option<Report>> {
        self.reports.subscribe()
    }

    /// Changes whenever the role here, the leader or the epoch may have.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    /// A follower's question.
    ///
    /// # Errors
    /// [`FollowRefusal`]; `None` if this node does not lead.
    pub fn handle_follow(&self, follow: &Follow) -> Option<Result<FollowAnswer, FollowRefusal>> {
        Some(self.inner().replica.leader()?.handle_follow(follow))
    }

    /// What to say to a follower that asked in this epoch; `None` if there is nothing to say any
    /// more.
    #[must_use]
    pub fn pushing(&self, to: NodeId, epoch: LeaderEpoch) -> Option<Pushing> {
        let mut inner = self.inner();
        let leader = inner.replica.leader().filter(|leader| leader.epoch() == epoch)?;
        Some(Pushing { push: leader.push(to)?, durable_end: leader.durable_end() })
    }

    /// Whether this node leads in this epoch.
    #[must_use]
    pub fn leads_in(&self, epoch: LeaderEpoch) -> bool {
        self.inner().replica.leader().is_some_and(|leader| leader.epoch() == epoch)
    }

    /// A follower's word.
    pub fn handle_report(&self, report: &Report) {
        let effects = self.act(|replica, now| match replica.leader() {
            Some(leader) => leader.handle_report(now, report).map(Effect::Committed).collect(),
            None => Vec::new(),
        });
        self.carry_out(effects);
    }

    /// What the controller is to be asked for, now and then.
    pub fn poll(&self, lag: Lag) -> Vec<ClusterAsk> {
        let (asks, waiting) = {
            let mut inner = self.inner();
            let now = self.began.elapsed();
            let partition = self.id;
            let mut asks = Vec::new();
            if let Some(proposal) =
                inner.replica.leader().and_then(|leader| leader.poll_proposal(now, lag))
            {
                asks.push(ClusterAsk::AlterInSync { partition, proposal });
            }
            let leader = inner.replica.assignment().and_then(|known| known.leader);
            if let (Some(leader_epoch), Some(leader)) = (inner.replica.poll_resign(), leader) {
                asks.push(ClusterAsk::Resign { partition, leader, leader_epoch });
            }
            let waiting = match inner.replica.role() {
                Role::Waiting(held) => held.durable_end == held.log_end,
                _ => false,
            };
            (asks, waiting)
        };
        if waiting {
            self.carry_out(vec![Effect::ReadView]);
        }
        self.begin_cut();
        self.begin_anew();
        asks
    }

    /// Log end, high watermark and how far the followers are, if this node leads.
    #[must_use]
    pub fn followers(&self) -> Option<(Offset, Offset, Vec<FollowerInfo>)> {
        let now = self.began.elapsed();
        let (log_end, high_watermark, followers) = {
            let mut inner = self.inner();
            let leader = inner.replica.leader()?;
            let known = leader.insync().followers();
            let known: Vec<_> = known.map(|(node, progress)| (node, *progress)).collect();
            (leader.log_end(), leader.high_watermark(), known)
        };
        let of = |(node, progress): (NodeId, insync::Progress)| match progress.durable_end {
            Some(end) if end >= log_end => {
                FollowerInfo { node, lag: Some(0), lag_bytes: Some(0), behind_ms: 0 }
            }
            end => {
                let behind = now.saturating_sub(progress.caught_up_at);
                FollowerInfo {
                    node,
                    lag: end.map(|end| log_end.since(end)),
                    lag_bytes: end.map(|end| self.log.bytes_from(self.id, end)),
                    behind_ms: u64::try_from(behind.as_millis()).unwrap_or(u64::MAX),
                }
            }
        };
        Some((log_end, high_watermark, followers.into_iter().map(of).collect()))
    }

    /// The epoch in which this node leads, if it takes appends and all that it began with is
    /// committed. Where this says the same before and after something was read that a leadership
    /// begins with, what was read is of that leadership.
    #[must_use]
    pub fn leads_settled(&self) -> Option<LeaderEpoch> {
        let inner = self.inner();
        let Role::Leader(leader) = inner.replica.role() else { return None };
        leader.settled_watermark().map(|_| leader.epoch())
    }

    /// Waits until this node, which leads, knows where what was committed ends.
    ///
    /// # Errors
    /// [`ErrorCode::NotLeader`] if it does not lead; [`ErrorCode::Offline`] if it does not come to
    /// know.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn settled(&self) -> Result<(), WireError> {
        let mut progress = self.progress();
        let known = async {
            loop {
                let now = *progress.borrow_and_update();
                if !now.led {
                    return Err(self.inner().elsewhere());
                }
                if now.settled || progress.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        timeout(SETTLE_PATIENCE, known).await.unwrap_or_else(|_| {
            let message = "the partition has a new leader, which does not know yet where what was \
                           committed ends; try again";
            Err(WireError::new(ErrorCode::Offline, message))
        })
    }

    pub(super) fn act(
        &self,
        event: impl FnOnce(&mut Replica<Parked>, Duration) -> Vec<Effect<Parked>>,
    ) -> Vec<Effect<Parked>> {
        let message = "the partition got another leader while the batch was being replicated; \
                       whether it is stored is not known: retry with the same producer and \
                       sequence";
        self.act_because(ErrorCode::NotLeader, message, event)
    }

    /// Has the replica handle an event, gives the replies that it releases, and publishes what
    /// changed. Returns the rest of what it asks for.
    pub(super) fn act_because(
        &self,
        code: ErrorCode,
        message: &str,
        event: impl FnOnce(&mut Replica<Parked>, Duration) -> Vec<Effect<Parked>>,
    ) -> Vec<Effect<Parked>> {
        let mut inner = self.inner();
        let before = fingerprint(&inner.replica);
        let mut effects = event(&mut inner.replica, self.began.elapsed());
        let turned = fingerprint(&inner.replica) != before;
        let mut outbox = self.outbox();
        let mut released = !outbox.is_empty();
        effects = effects
            .into_iter()
            .filter_map(|effect| {
                let reply = match effect {
                    Effect::Committed(reply) => Released::Committed(reply),
                    Effect::Unknown(reply) => Released::Unknown(reply, code, message.to_owned()),
                    other => return Some(other),
                };
                outbox.push(reply);
                released = true;
                None
            })
            .collect();
        drop(outbox);
        self.publish(&inner.replica);
        drop(inner);
        if released {
            self.deliver();
        }
        if turned {
            self.turns.send_modify(|turn| *turn += 1);
        }
        effects
    }

    fn outbox(&self) -> MutexGuard<'_, Vec<Released>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives replies in the order in which they were released.
    fn deliver(&self) {
        let _one_at_a_time = self.delivering.lock().unwrap_or_else(PoisonError::into_inner);
        let released = std::mem::take(&mut *self.outbox());
        for reply in released {
            match reply {
                Released::Committed(reply) => reply.committed(),
                Released::Unknown(reply, code, message) => reply.failed(code, &message),
            }
        }
    }

    fn publish(&self, replica: &Replica<Parked>) {
        let [log_start, high_watermark, ..] = replica.ends();
        let leads = replica.assignment().and_then(|known| known.leader);
        let led = leads.is_some_and(|leader| leader.node == replica.me().node);
        let settled = match replica.role() {
            Role::Leader(leader) => Some(leader.settled_watermark().is_some()),
            Role::Follower(_) | Role::Idle(_) => Some(false),
            // As it was.
            Role::Waiting(_) | Role::Failed(_) | Role::Halted(..) => None,
        };
        self.progress.send_if_modified(|progress| {
            let next = Progress {
                log_start: progress.log_start.max(log_start),
                // What consumers were told stays true, whatever is known here by now.
                high_watermark: progress.high_watermark.max(high_watermark),
                deleted: progress.deleted,
                led,
                settled: settled.unwrap_or(progress.settled),
            };
            let changed = *progress != next;
            *progress = next;
            changed
        });
    }

    /// Does what the replica asks for, replies aside.
    pub(super) fn carry_out(&self, effects: Vec<Effect<Parked>>) {
        let id: PartitionId = self.id;
        for effect in effects {
            match effect {
                Effect::Committed(reply) => reply.committed(),
                Effect::Unknown(reply) => reply.failed(ErrorCode::Offline, "the leader changed"),
                Effect::ReadView => {
                    if let Err(error) = self.log.ask_view(id) {
                        tracing::debug!(partition = %id, %error, "the log is asked again later");
                    }
                }
                Effect::Report(report) => {
                    self.reports.send_replace(Some(report));
                }
                // Asked for at the next look, and again until it is so.
                Effect::Resign(_) => self.turns.send_modify(|turn| *turn += 1),
                Effect::Halt(halt) => {
                    tracing::error!(partition = %id, %halt, "the replica takes part no longer");
                }
            }
        }
    }
}

/// What tells one role from another.
fn fingerprint(replica: &Replica<Parked>) -> (u8, Option<PartitionEpoch>) {
    let role = match replica.role() {
        Role::Idle(_) => 0,
        Role::Waiting(_) => 1,
        Role::Leader(_) => 2,
        Role::Follower(follower) => match follower.standing() {
            Standing::Asking => 3,
            Standing::Cutting => 4,
            Standing::Following => 5,
            Standing::Halted(_) => 6,
        },
        Role::Failed(_) => 7,
        Role::Halted(..) => 8,
    };
    (role, replica.assignment().map(|known| known.partition_epoch))
}
