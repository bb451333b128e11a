//! Subscribing as a member: partitions come and go while records flow.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use weir_core::Offset;
use weir_core::group::Generation;
use weir_core::wire::message::StartAt;

use super::membership::{MemberAssignment, MemberSettings, Membership, Seen, Slot, State};
use super::positions::Hold;
use super::reader::Source;
use super::{Consumer, ResetPolicy};
use crate::error::{AssignError, ConsumeError};

impl Consumer {
    /// Becomes a member of its group ([`ConsumerBuilder::group`](super::ConsumerBuilder::group))
    /// and reads the share of these topics' partitions that the group gives it, instead of what was
    /// read before: each from the group's stored position, or where there is none as
    /// [`ConsumerBuilder::begin_at`](super::ConsumerBuilder::begin_at) or the reset policy says.
    ///
    /// Returns once it is a member; partitions come with [`Consumer::next_batch`] and its like, and
    /// others go to members that join later. Of a partition that goes, nothing more is handed out.
    /// Where positions are stored by themselves, it is let go of once the application has asked for
    /// more after its last batch of it, and the position is stored. Else it is let go of once all
    /// that was handed out of it is committed, or a session has passed: what was not committed by
    /// then is handed out again by another member.
    ///
    /// Heartbeats are sent however slowly the application asks for records. Where the node says
    /// that this is no member any more, it joins again by itself.
    ///
    /// # Errors
    /// [`AssignError`]; the consumer then reads nothing, or, if a topic does not exist, what it
    /// read before.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the group with a member that is gone after a session.
    pub async fn subscribe(&mut self, topics: &[&str]) -> Result<(), AssignError> {
        let group = self.settings.group.clone().ok_or(AssignError::NoGroup)?;
        let mut partitions = 0;
        for name in topics {
            partitions += self.topic(name).await?.config.partitions as usize;
        }
        self.replace(Vec::new(), partitions)?;
        let Some(link) = self.link.clone() else { return Err(AssignError::NoGroup) };
        let begin = match (self.settings.begin, self.settings.reset) {
            (Some(begin), _) => Some(begin),
            (None, ResetPolicy::Earliest) => Some(StartAt::Earliest),
            (None, ResetPolicy::Latest) => Some(StartAt::Latest),
            (None, ResetPolicy::Fail) => None,
        };
        let settings = MemberSettings {
            group,
            instance: self.settings.instance.clone(),
            session: self.settings.session,
            topics: topics.iter().map(|name| (*name).to_owned()).collect(),
            begin,
            commits_by_itself: self.settings.commits_by_itself(),
        };
        let shared = (self.positions.clone(), link);
        let client = self.settings.client.clone();
        let member = Membership::join(client, settings, shared, self.told.clone()).await?;
        self.membership = Some(member);
        Ok(())
    }

    /// What this consumer works on as a member, and word of each change, beside the consumer: so
    /// whoever commits by hand can be woken to commit what is about to go.
    #[must_use]
    pub fn watch_assignment(&self) -> watch::Receiver<MemberAssignment> {
        self.told.subscribe()
    }

    /// Does what the coordinator said, if there is news.
    pub(super) fn poll_membership(
        &mut self,
        context: &mut Context<'_>,
    ) -> Result<(), ConsumeError> {
        let mut due = false;
        if let Some(membership) = &mut self.membership {
            while let Poll::Ready(Some(())) = membership.news.poll_recv(context) {
                due = true;
            }
        }
        if due { self.follow() } else { Ok(()) }
    }

    /// Whether more may come although nothing is read.
    pub(super) fn may_get_more(&mut self) -> bool {
        let until_end = self.settings.until_end;
        let Some(membership) = &mut self.membership else { return false };
        let begins_later = membership.begin().is_some_and(|begin| begin != StartAt::Earliest);
        membership.look(|state, seen| {
            let waits = || begins_later && state.assigned.values().any(|(_, at)| at.is_none());
            let more = !until_end || !state.settled || waits();
            // What is new and was not looked at counts, too.
            (!state.ended && more) || seen.changes != state.changes
        })
    }

    /// Starts and stops readers so that they are what the coordinator says.
    fn follow(&mut self) -> Result<(), ConsumeError> {
        let Some(mut membership) = self.membership.take() else { return Ok(()) };
        let begin = membership.begin();
        let result = membership.look(|state, seen| {
            if seen.losses != state.losses {
                (0..self.partitions.len()).for_each(|slot| self.lose(slot));
            }
            *seen = Seen { changes: state.changes, losses: state.losses };
            for slot in 0..self.partitions.len() {
                self.follow_one(slot, state);
            }
            let assigned: Vec<_> = state.assigned.iter().map(|(slot, at)| (*slot, *at)).collect();
            let mut failed = state.failed.take();
            for (slot, (since, position)) in assigned {
                let Some(name) = state.names.get(&slot.0) else { continue };
                let start = match (position, begin) {
                    (Some(offset), _) => StartAt::Offset(offset),
                    (None, Some(StartAt::Earliest)) => StartAt::Earliest,
                    // It begins once its beginning is stored.
                    (None, Some(_)) => continue,
                    (None, None) => {
                        if self.take_on(name, slot, (since, None), None) {
                            let (topic, partition) = (name.clone(), slot.1.0);
                            failed = failed.or(Some(ConsumeError::NoPosition { topic, partition }));
                        }
                        continue;
                    }
                };
                self.take_on(name, slot, (since, position), Some(start));
            }
            failed.map_or(Ok(()), Err)
        });
        self.membership = Some(membership);
        result
    }

    /// What becomes of a partition that is held.
    fn follow_one(&mut self, n: usize, state: &State) {
        let source = &self.partitions[n].source;
        let slot = (source.topic_id, weir_core::PartitionIndex(source.partition));
        let Some((hold, since)) = self.positions.hold(n) else { return };
        let assigned = state.assigned.get(&slot).map(|(since, _)| *since);
        match (hold, assigned) {
            (Hold::Gone, _) => self.drop_reader(n),
            (_, Some(now)) if now != since => self.lose(n),
            (Hold::Held, None) => {
                let Source { topic, partition, .. } = &**source;
                tracing::info!(%topic, partition, "goes to another member");
                self.drop_reader(n);
                self.positions.end(n);
            }
            (Hold::Ending(_), Some(_)) => {
                // Back before it was let go of: it goes on behind what was handed out.
                self.positions.keep(n);
                if let Some(at) = self.partitions[n].position {
                    self.start_again(n, StartAt::Offset(at), Some(at));
                } else {
                    self.lose(n);
                }
            }
            (Hold::Held, Some(_)) | (Hold::Ending(_), None) => {}
        }
    }

    /// Begins to work on a partition, unless that is so. Returns whether it is news.
    fn take_on(
        &mut self,
        name: &Arc<str>,
        slot: Slot,
        (since, position): (Generation, Option<Offset>),
        start: Option<StartAt>,
    ) -> bool {
        let (topic_id, partition) = (slot.0, slot.1.0);
        let known = self.slots.get(&(name.clone(), partition)).copied();
        let Some(n) = known else {
            tracing::info!(topic = %name, partition, "is this member's");
            let source = Arc::new(Source::new(name.clone(), topic_id, partition));
            self.add_source(source, start, (position, since));
            return true;
        };
        let same_topic = self.partitions[n].source.topic_id == topic_id;
        if same_topic && self.positions.hold(n).is_some_and(|(hold, _)| hold != Hold::Gone) {
            return false;
        }
        tracing::info!(topic = %name, partition, "is this member's again");
        self.drop_reader(n);
        if !same_topic {
            let source = Source::new(name.clone(), topic_id, partition);
            self.partitions[n].source = Arc::new(source);
        }
        let at = self.positions.resume(n, topic_id, position, since);
        if let Some(start) = at.map(StartAt::Offset).or(start) {
            self.start_again(n, start, None);
        }
        true
    }

    /// Nothing of a partition is handed out any more.
    fn drop_reader(&mut self, n: usize) {
        self.stop(n);
        if self.record_batch.as_ref().is_some_and(|batch| self.is_of(batch, n)) {
            self.record_batch = None;
            self.records.clear();
        }
    }

    /// A partition is another member's by now: nothing of it can be stored.
    fn lose(&mut self, n: usize) {
        self.drop_reader(n);
        self.positions.lose(n);
        self.handed_out.take_if(|(at, _)| *at == n);
    }

    /// Whether a partition is read, or what was handed out of it may still be stored.
    pub(super) fn holds(&self, slot: usize) -> bool {
        self.positions.hold(slot).is_some_and(|(hold, _)| hold != Hold::Gone)
    }
}
