//! Consumer groups: stored positions, members, and who works on which partition.
//!
//! They are keyed state of one internal partition ([`GROUPS_PARTITION`]; rows in [`rows`]), so they
//! are as durable and as replicated as records. The node that leads it is the coordinator of all
//! groups:
//!
//! 1. A request is decided against the group as it is in memory ([`weir_core::group`]).
//! 2. What changes is appended as one entry, in the epoch in which the memory was loaded, and then
//!    applied in memory, before anything else is decided.
//! 3. The answer waits until the entry is committed; an answer without a change until everything is
//!    committed that it is based on.
//!
//! So memory may be ahead of what is committed, but nobody is told so; and a node that stops
//! leading decides nothing more, since its appends are refused. One that begins to lead starts from
//! what its log holds, which may be more than was answered, and never less.
//!
//! Which members are there is known by monotonic time, and to the coordinator alone ([`sweep`]).

pub mod requests;
mod rows;
mod state;
pub mod sweep;
mod topics;

use crate::ack::OwnReply;
use crate::partition::{Partition, Payload};
use crate::registry::Registry;
use state::State;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use weir_core::entry::encode_state;
use weir_core::group::{Group, GroupAsk, GroupChange, GroupError, MemberId, Slot};
use weir_core::limits;
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::assignment::Lead;
use weir_core::partition::view::PartitionView;
use weir_core::topic::TopicConfig;
use weir_core::wire::message::{
    AssignedPartition, Assignment, GroupInfo, GroupMembers, GroupPosition,
};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, PartitionIndex, TimestampMs, TopicId};
use weir_log::{Log, Retention};

/// Entries of the internal partition are of no use once a newer file's snapshot has their effect.
const ENTRY_AGE_MS: i64 = 60 * 60 * 1000;

/// All consumer groups.
#[derive(Debug)]
pub struct Groups {
    partition: Arc<Partition>,
    log: Arc<Log>,
    state: Mutex<State>,
    /// Woken when a session may end sooner than was thought.
    woken: Notify,
    /// What monotonic times count from.
    began: Instant,
}

/// A member, as it presents itself.
#[derive(Clone, Debug)]
pub struct Joining {
    /// The member.
    pub member: MemberId,
    /// Its lasting name, if it has one.
    pub instance: Option<String>,
    /// How long it may be silent, in milliseconds.
    pub session_ms: u32,
    /// The topics that it subscribes to, by name.
    pub topics: BTreeSet<String>,
}

/// A member's sign of life.
#[derive(Clone, Debug)]
pub struct Beat {
    /// The member.
    pub member: MemberId,
    /// Its lasting name, if it has one.
    pub instance: Option<String>,
    /// The generation of the last answer that it acted on.
    pub generation: weir_core::group::Generation,
    /// What it works on, or has not finished yet.
    pub holds: BTreeSet<Slot>,
}

/// An answer's wait for the log.
struct Committed(oneshot::Receiver<Result<(), WireError>>);

impl Committed {
    async fn wait(self) -> Result<(), WireError> {
        self.0.await.unwrap_or_else(|_| {
            Err(WireError::unknown(ErrorCode::ShuttingDown, "the node is shutting down"))
        })
    }
}

/// What is done under one lock.
struct Led<'a> {
    groups: &'a Groups,
    state: MutexGuard<'a, State>,
    epoch: LeaderEpoch,
    wall: TimestampMs,
}

impl Groups {
    /// Starts from what the log holds. `me` is as whom this node holds partitions; they have no
    /// role yet.
    #[must_use]
    pub fn new(log: Arc<Log>, me: Lead, view: &PartitionView) -> Groups {
        let place = (TopicId(0), Arc::from("__groups"), PartitionIndex(0));
        let config = TopicConfig::default();
        let partition = Partition::new(GROUPS_PARTITION, place, &config, me, (&log, view));
        let (partition, state) = (Arc::new(partition), Mutex::default());
        Groups { partition, log, state, woken: Notify::new(), began: Instant::now() }
    }

    /// Tells the log how long entries are kept: a leader's, since others follow it. To be called
    /// once the log is started.
    pub fn settle_log(&self, leads: bool) {
        let age_ms = leads.then_some(ENTRY_AGE_MS);
        self.log.set_retention(GROUPS_PARTITION, Retention { age_ms, ..Retention::default() });
    }

    /// The internal partition.
    #[must_use]
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Leads alone, over what the log holds.
    pub fn lead_alone(&self, epoch: LeaderEpoch, view: &PartitionView) {
        self.lock().replace(view, self.began.elapsed());
        self.partition.lead_alone(epoch, view);
        self.begin_to_lead();
    }

    /// What the log says, before this node leads. One that leads already asked twice, and has
    /// decided on what it was told first.
    pub fn handle_view(&self, view: &PartitionView) {
        if self.partition.leading().is_some() {
            return;
        }
        self.lock().replace(view, self.began.elapsed());
        self.partition.handle_view(view);
        self.begin_to_lead();
    }

    /// From here on requests are decided on what was loaded, if this node leads.
    fn begin_to_lead(&self) {
        if let Some(epoch) = self.partition.leading() {
            self.lock().loaded = Some(epoch);
            self.woken.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // As for partitions: a poisoned lock is met only on the way down.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The groups, if this node coordinates them, by what is known of topics now.
    fn led(&self, wall: TimestampMs, registry: &Registry) -> Result<Led<'_>, WireError> {
        let epoch = self.partition.leading().ok_or_else(|| self.why_not())?;
        let state = self.lock();
        if state.loaded != Some(epoch) {
            let message = "this node is about to coordinate the groups; try again";
            return Err(WireError::new(ErrorCode::NotLeader, message));
        }
        let mut led = Led { groups: self, state, epoch, wall };
        led.follow_topics(registry);
        Ok(led)
    }

    fn why_not(&self) -> WireError {
        let error = self.partition.why_not();
        let message = format!(
            "groups and their positions cannot be told: {}; the node's status says more",
            error.message
        );
        WireError::new(error.code, message)
    }

    /// Makes a process a member, or has it subscribe to other topics.
    ///
    /// # Errors
    /// [`WireError`]: refused, or it is not known whether it is a member.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; it may be a member.
    pub async fn join(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
        joining: Joining,
    ) -> Result<Assignment, WireError> {
        let (answer, committed) = {
            let mut led = self.led(wall, registry)?;
            led.state.check_new(group)?;
            let Joining { member, instance, session_ms, topics } = joining;
            let wants = registry.look(|image| topics::partitions_of(image, &topics));
            let ask = GroupAsk::Join { member, instance, session_ms, topics, wants };
            let committed = led.ask(group, &ask).map_err(|error| refusal(error, group))?;
            led.state.heard(group, member, self.began.elapsed());
            self.woken.notify_one();
            (led.assignment(registry, group, member), committed)
        };
        committed.wait().await?;
        Ok(answer)
    }

    /// A member lives.
    ///
    /// # Errors
    /// [`WireError`]: it is no member, or what becomes of its partitions is not known.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer.
    pub async fn heartbeat(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
        beat: Beat,
    ) -> Result<Assignment, WireError> {
        let (answer, committed) = {
            let mut led = self.led(wall, registry)?;
            let Beat { member, instance, generation, holds } = beat;
            led.state.heard(group, member, self.began.elapsed());
            let ask = GroupAsk::Heartbeat { member, generation, holds };
            let committed = led.ask(group, &ask).map_err(|error| {
                let known = led.state.group(group);
                let other = known.and_then(|group| group.named(instance.as_deref()?));
                match (&error, other) {
                    (Refusal::Group(GroupError::UnknownMember(_)), Some(_)) => replaced(&instance),
                    _ => refusal(error, group),
                }
            })?;
            (led.assignment(registry, group, member), committed)
        };
        committed.wait().await?;
        Ok(answer)
    }

    /// A member ends.
    ///
    /// # Errors
    /// As [`Groups::join`]; also if it is none.
    ///
    /// # Cancel safety
    /// As [`Groups::join`].
    pub async fn leave(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
        member: MemberId,
    ) -> Result<(), WireError> {
        let committed = {
            let mut led = self.led(wall, registry)?;
            led.ask(group, &GroupAsk::Leave { member }).map_err(|error| refusal(error, group))?
        };
        committed.wait().await
    }

    /// Stores positions of `group`, all or none: those of a member, or of nobody, while there are
    /// no members.
    ///
    /// # Errors
    /// [`WireError`]: refused, or the disk failed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the positions may be stored.
    pub async fn commit(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
        (member, positions): (Option<MemberId>, &[GroupPosition]),
    ) -> Result<(), WireError> {
        let committed = {
            let mut led = self.led(wall, registry)?;
            led.state.check_new(group)?;
            let change = match member {
                Some(member) => {
                    led.state.heard(group, member, self.began.elapsed());
                    led.decide_commit(group, member, positions)?
                }
                None => {
                    let of = |p: &GroupPosition| ((p.topic, p.partition), p.offset);
                    let ask = GroupAsk::Reset { positions: positions.iter().map(of).collect() };
                    let decided = led.state.decide(group, &ask);
                    decided.map_err(|error| refusal(error.into(), group))?
                }
            };
            led.change(group, &change)?
        };
        committed.wait().await
    }

    /// Forgets the stored positions of `group`, all or those in `topics`.
    ///
    /// # Errors
    /// [`WireError`]: the group has none, or members, or the disk failed.
    ///
    /// # Cancel safety
    /// As [`Groups::commit`].
    pub async fn delete(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
        topics: Option<&[TopicId]>,
    ) -> Result<(), WireError> {
        let committed = {
            let mut led = self.led(wall, registry)?;
            let known = led.state.group(group).filter(|group| !group.is_empty());
            if known.is_some_and(|group| !group.members().is_empty()) {
                return Err(refusal(GroupError::Active.into(), group));
            }
            let concerned = |slot: &&Slot| topics.is_none_or(|topics| topics.contains(&slot.0));
            let stored = known.into_iter().flat_map(|group| group.positions().keys());
            let slots: BTreeSet<Slot> = stored.filter(concerned).copied().collect();
            if slots.is_empty() {
                let message = format!("group `{group}` has no stored positions");
                return Err(WireError::new(ErrorCode::UnknownGroup, message));
            }
            let forget = GroupAsk::Forget { slots };
            led.ask(group, &forget).map_err(|error| refusal(error, group))?
        };
        committed.wait().await
    }

    /// The stored positions of `group`, by topic and partition.
    ///
    /// # Errors
    /// [`WireError`]: they are not known here.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn positions(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
    ) -> Result<Vec<GroupPosition>, WireError> {
        self.read(wall, registry, |state| state.positions(group)).await
    }

    /// All groups.
    ///
    /// # Errors
    /// As [`Groups::positions`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn list(
        &self,
        wall: TimestampMs,
        registry: &Registry,
    ) -> Result<Vec<GroupInfo>, WireError> {
        self.read(wall, registry, State::list).await
    }

    /// The members of `group`.
    ///
    /// # Errors
    /// As [`Groups::positions`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn members(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        group: &str,
    ) -> Result<GroupMembers, WireError> {
        self.read(wall, registry, |state| state.members(group)).await
    }

    /// Tells what is, once it is certain that it stays.
    async fn read<R>(
        &self,
        wall: TimestampMs,
        registry: &Registry,
        look: impl FnOnce(&State) -> R,
    ) -> Result<R, WireError> {
        let (found, committed) = {
            let led = self.led(wall, registry)?;
            (look(&led.state), led.all_so_far()?)
        };
        committed.wait().await?;
        Ok(found)
    }
}

/// Why something asked of a group is not done.
enum Refusal {
    Group(GroupError),
    Append(WireError),
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Refusal {
        Refusal::Group(error)
    }
}

impl Led<'_> {
    /// Decides what is asked, and has it written.
    fn ask(&mut self, group: &str, ask: &GroupAsk) -> Result<Committed, Refusal> {
        let change = self.state.decide(group, ask)?;
        self.change(group, &change).map_err(Refusal::Append)
    }

    /// A member's positions, each decided by itself; if one is refused, all are.
    fn decide_commit(
        &self,
        group: &str,
        member: MemberId,
        positions: &[GroupPosition],
    ) -> Result<GroupChange, WireError> {
        let mut all = GroupChange::default();
        for position in positions {
            let slot = (position.topic, position.partition);
            let (since, position) = (position.since, position.offset);
            let ask = GroupAsk::Commit { member, slot, since, position };
            let decided = self.state.decide(group, &ask);
            let change = decided.map_err(|error| refusal(error.into(), group))?;
            all.positions.extend(change.positions);
        }
        Ok(all)
    }

    /// Writes a change and applies it; nothing of it, if it is refused.
    fn change(&mut self, group: &str, change: &GroupChange) -> Result<Committed, WireError> {
        let rows = self.state.rows(group, change, self.wall)?;
        if rows.changes.is_empty() {
            return self.all_so_far();
        }
        let section = encode_state(&rows.changes);
        if section.len() > limits::BATCH_BYTES_MAX {
            let message = "the group is too large for this change: subscribe to fewer topics";
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        let payload = Payload {
            count: 1,
            producer: None,
            batch: None,
            state: section,
            linger: Duration::ZERO,
            fence: Some(self.epoch),
            hold: None,
        };
        let (reply, committed) = reply();
        self.groups.partition.append_own(self.wall, payload, reply)?;
        self.state.apply(group, change, &rows, (self.wall, self.groups.began.elapsed()));
        Ok(committed)
    }

    /// Waits for everything that is decided so far.
    fn all_so_far(&self) -> Result<Committed, WireError> {
        let (reply, committed) = reply();
        self.groups.partition.park_own(self.epoch, reply)?;
        Ok(committed)
    }

    fn assignment(&self, registry: &Registry, group: &str, member: MemberId) -> Assignment {
        let nothing = Group::default();
        let group = self.state.group(group).unwrap_or(&nothing);
        let assigned = group.assigned(member);
        let ids: BTreeSet<TopicId> = assigned.keys().map(|slot| slot.0).collect();
        let partitions = assigned.into_iter().map(|(slot, since)| AssignedPartition {
            topic: slot.0,
            partition: slot.1,
            since,
            position: group.positions().get(&slot).copied(),
        });
        Assignment {
            generation: group.generation(),
            topics: registry.look(|image| topics::names(image, &ids)),
            partitions: partitions.collect(),
            pending: group.pending(member) as u32,
        }
    }
}

fn reply() -> (OwnReply, Committed) {
    let (sender, committed) = oneshot::channel();
    // Whoever asked may have gone; it is as it was decided all the same.
    let reply = OwnReply(Box::new(move |result| drop(sender.send(result))));
    (reply, Committed(committed))
}

/// As whoever asked is told.
fn refusal(refusal: Refusal, group: &str) -> WireError {
    let error = match refusal {
        Refusal::Append(error) => return error,
        Refusal::Group(error) => error,
    };
    let code = match error {
        GroupError::UnknownMember(_) => ErrorCode::UnknownMember,
        GroupError::NotOwner { .. } => ErrorCode::NotOwner,
        GroupError::WentBack { .. } => ErrorCode::WentBack,
        GroupError::Active => ErrorCode::GroupActive,
        GroupError::Full => ErrorCode::LimitReached,
    };
    WireError::new(code, format!("group `{group}`: {error}"))
}

fn replaced(instance: &Option<String>) -> WireError {
    let name = instance.as_deref().unwrap_or_default();
    let message = format!(
        "another process has joined as instance `{name}`: give each process a name of its own, and \
         stop this one"
    );
    WireError::new(ErrorCode::MemberReplaced, message)
}
