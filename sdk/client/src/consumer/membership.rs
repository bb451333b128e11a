//! A consumer as a member of its group.
//!
//! Two tasks, so that neither waits for the other: one sends heartbeats, however slowly the
//! application asks for records; the other finishes what is to be let go of, and stores where a
//! partition begins that has no position yet.
//!
//! ```text
//! coordinator ──assignment──▶ heartbeats ──assigned──▶ consumer: starts and stops readers
//!      ▲                          ▲                        │ what is ending
//!      │ holds                    │ go now                 ▼
//!      └──────────────────────────┴── let go ──────── finishing: commits, then lets go
//! ```
//!
//! Invariant: a heartbeat that does not name a partition was made when nothing of it was under way
//! here and nothing could begin, since `assigned` is that of the generation which it names. Both
//! are looked at under one lock.
//!
//! What was silent for a session is fenced by the coordinator. So whoever heard nothing for a
//! session, counted from when the last answered request was *sent*, stops its readers by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weir_core::group::{Generation, MemberId};
use weir_core::ids::{PartitionIndex, TopicId};
use weir_core::limits::GROUP_HEARTBEAT_MIN;
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{Assignment, GroupPosition, Request, Response, StartAt};
use weir_core::{Offset, TimestampMs};
use weir_producer::Backoff;

use super::positions::Positions;
use crate::client::{Client, lock, unexpected};
use crate::error::{ConsumeError, RequestError};
use crate::link::Link;

/// How often a member asks for partitions that others have not let go of yet, and looks whether it
/// has finished what it is to let go of.
const IMPATIENCE: Duration = Duration::from_millis(250);
/// Shortest time that one heartbeat may take before another is sent.
const ANSWER_PATIENCE_MIN: Duration = Duration::from_millis(500);

/// A partition of a topic.
pub(super) type Slot = (TopicId, PartitionIndex);

/// What a member works on, as the coordinator said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAssignment {
    /// How often the membership of the group changed, as far as this member knows.
    pub generation: u64,
    /// Topics and partitions, in order. What is not among them any more is finished and let go of;
    /// positions of it can be stored until then.
    pub partitions: Vec<(Arc<str>, u32)>,
}

/// What membership is asked for.
#[derive(Clone, Debug)]
pub(super) struct MemberSettings {
    pub(super) group: String,
    pub(super) instance: Option<String>,
    pub(super) session: Duration,
    pub(super) topics: Vec<String>,
    /// Where a partition without a position begins. `None`: not at all.
    pub(super) begin: Option<StartAt>,
    pub(super) commits_by_itself: bool,
}

/// A membership. Ends with it, but for the coordinator, which waits for a session unless it is
/// told.
#[derive(Debug)]
pub(super) struct Membership {
    shared: Arc<Shared>,
    /// Says that there is something new.
    pub(super) news: mpsc::Receiver<()>,
    tasks: [AbortHandle; 2],
    seen: Seen,
}

/// How far the consumer has followed what the coordinator said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) changes: u64,
    pub(super) losses: u64,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    settings: MemberSettings,
    member: MemberId,
    positions: Arc<Positions>,
    link: Arc<Link>,
    state: Mutex<State>,
    news: mpsc::Sender<()>,
    told: watch::Sender<MemberAssignment>,
    /// Asks for a heartbeat at once.
    beat: Notify,
    /// Asks to look for partitions that have no position.
    begin: Notify,
}

/// What the coordinator said.
#[derive(Debug, Default)]
pub(super) struct State {
    generation: Generation,
    pub(super) assigned: BTreeMap<Slot, (Generation, Option<Offset>)>,
    pub(super) names: BTreeMap<TopicId, Arc<str>>,
    /// Raised whenever anything here has changed that concerns the consumer.
    pub(super) changes: u64,
    /// How many times everything was lost.
    pub(super) losses: u64,
    /// Whether nothing was given since the last loss.
    lost: bool,
    /// Whether everything was granted that is this member's share.
    pub(super) settled: bool,
    pub(super) failed: Option<ConsumeError>,
    pub(super) ended: bool,
}

impl Membership {
    /// Joins, and stays a member until it is dropped.
    pub(super) async fn join(
        client: Client,
        settings: MemberSettings,
        (positions, link): (Arc<Positions>, Arc<Link>),
        told: watch::Sender<MemberAssignment>,
    ) -> Result<Membership, RequestError> {
        let member = MemberId(fastrand::u64(1..));
        let (news_sender, news) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            client,
            settings,
            member,
            positions,
            link,
            state: Mutex::default(),
            news: news_sender,
            told,
            beat: Notify::new(),
            begin: Notify::new(),
        });
        let asked = Instant::now();
        let answer = shared.ask(&shared.joining()).await?;
        shared.positions.clear(Some(member));
        shared.take(answer, false).await;
        let beating = tokio::spawn(beat(shared.clone(), asked));
        let finishing = tokio::spawn(finish(shared.clone()));
        let tasks = [beating.abort_handle(), finishing.abort_handle()];
        Ok(Membership { shared, news, tasks, seen: Seen::default() })
    }

    /// Looks at what the coordinator said. What the consumer does about it must be done before
    /// `look` returns.
    pub(super) fn look<R>(&mut self, look: impl FnOnce(&mut State, &mut Seen) -> R) -> R {
        look(&mut lock(&self.shared.state), &mut self.seen)
    }

    /// Whether a partition without a position is one to begin with.
    pub(super) fn begin(&self) -> Option<StartAt> {
        self.shared.settings.begin
    }

    /// Stops heartbeats, and tells the coordinator.
    pub(super) async fn leave(self) -> Result<(), RequestError> {
        self.stop();
        self.shared.leave().await
    }

    /// The same without waiting for it.
    pub(super) fn abandon(self) {
        self.stop();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.leave().await {
                tracing::debug!(%error, "the group learns by itself that a member is gone");
            }
        });
    }

    fn stop(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn joining(&self) -> Request {
        Request::JoinGroup {
            group: self.settings.group.clone(),
            member: self.member,
            instance: self.settings.instance.clone(),
            session_ms: self.settings.session.as_millis() as u32,
            topics: self.settings.topics.clone(),
        }
    }

    fn heartbeat(&self) -> Request {
        let state = lock(&self.state);
        Request::GroupHeartbeat {
            group: self.settings.group.clone(),
            member: self.member,
            instance: self.settings.instance.clone(),
            generation: state.generation,
            holds: self.positions.holds().into_iter().collect(),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Assignment, RequestError> {
        match self.client.request(request).await? {
            Response::Assigned(assigned) => Ok(*assigned),
            _ => Err(unexpected()),
        }
    }

    async fn leave(&self) -> Result<(), RequestError> {
        let (group, member) = (self.settings.group.clone(), self.member);
        match self.client.request(&Request::LeaveGroup { group, member }).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(ErrorCode::UnknownMember) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes an answer for what is to be worked on from now on; of a heartbeat, if it is none to a
    /// join.
    async fn take(&self, answer: Assignment, of_heartbeat: bool) {
        self.link.expect_more_subscriptions(answer.partitions.len()).await;
        let mut assigned: BTreeMap<Slot, (Generation, Option<Offset>)> = answer
            .partitions
            .iter()
            .map(|at| ((at.topic, at.partition), (at.since, at.position)))
            .collect();
        let mut state = lock(&self.state);
        for (slot, (since, position)) in &mut assigned {
            // Stored while the answer was on its way.
            let known = state.assigned.get(slot).filter(|known| known.0 == *since);
            *position = (*position).max(known.and_then(|known| known.1));
        }
        for (id, name) in &answer.topics {
            if state.names.get(id).is_none_or(|known| **known != **name) {
                state.names.insert(*id, Arc::from(name.as_str()));
            }
        }
        let ids: BTreeSet<TopicId> = assigned.keys().map(|slot| slot.0).collect();
        state.names.retain(|id, _| ids.contains(id));
        let settled = of_heartbeat && answer.pending == 0;
        let same = state.assigned.len() == assigned.len()
            && state.assigned.iter().all(|(slot, (since, position))| {
                let now = assigned.get(slot);
                now.is_some_and(|(s, p)| s == since && p.is_some() == position.is_some())
            });
        let changed = !same || state.settled != settled;
        let begins = assigned.values().any(|(_, position)| position.is_none());
        state.generation = answer.generation;
        state.assigned = assigned;
        state.settled = settled;
        state.lost &= state.assigned.is_empty();
        state.changes += u64::from(changed);
        self.publish(&state);
        drop(state);
        if changed {
            self.tell();
        }
        if begins {
            self.begin.notify_one();
        }
    }

    /// Has the consumer look. One word that it has not heard yet is enough.
    fn tell(&self) {
        let _ = self.news.try_send(());
    }

    fn publish(&self, state: &State) {
        let partition = |slot: &Slot| Some((state.names.get(&slot.0)?.clone(), slot.1.0));
        let partitions = state.assigned.keys().filter_map(partition).collect();
        let now = MemberAssignment { generation: state.generation.0, partitions };
        self.told.send_if_modified(|told| {
            let changed = told.partitions != now.partitions;
            *told = now;
            changed
        });
    }

    /// Nothing is this member's any more: it was silent for too long, or is none.
    fn lose_all(&self, why: &str) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.lost, true) {
            return;
        }
        tracing::warn!(group = self.settings.group, why, "a member lost its partitions");
        state.assigned.clear();
        state.settled = false;
        (state.losses, state.changes) = (state.losses + 1, state.changes + 1);
        self.publish(&state);
        drop(state);
        self.tell();
    }

    fn fail(&self, error: RequestError) {
        let mut state = lock(&self.state);
        state.assigned.clear();
        (state.losses, state.changes) = (state.losses + 1, state.changes + 1);
        state.ended = true;
        let (group, error) = (self.settings.group.clone(), Box::new(error));
        state.failed = Some(ConsumeError::Group { group, error });
        self.publish(&state);
        drop(state);
        self.tell();
    }

    /// Stores where partitions begin that have no position: else one that passes to another member
    /// before its first commit would begin somewhere else there, and what lies between be lost.
    async fn store_beginnings(&self) -> Result<(), RequestError> {
        let Some(begin) = self.settings.begin.filter(|begin| *begin != StartAt::Earliest) else {
            return Ok(());
        };
        let mut missing: BTreeMap<TopicId, Vec<(PartitionIndex, Generation)>> = BTreeMap::new();
        for (slot, (since, position)) in &lock(&self.state).assigned {
            if position.is_none() {
                missing.entry(slot.0).or_default().push((slot.1, *since));
            }
        }
        for (topic, partitions) in missing {
            for (partition, since) in partitions {
                let position = GroupPosition {
                    topic,
                    partition,
                    offset: self.resolve(topic, partition, begin).await?,
                    committed_at: TimestampMs::default(),
                    since,
                };
                let offset = position.offset;
                let (group, member) = (self.settings.group.clone(), Some(self.member));
                let positions = vec![position];
                let commit = Request::CommitPositions { group, positions, member };
                self.client.request(&commit).await?;
                let mut state = lock(&self.state);
                let known = state.assigned.get_mut(&(topic, partition));
                if let Some(known) = known.filter(|known| **known == (since, None)) {
                    known.1 = Some(offset);
                    state.changes += 1;
                }
            }
        }
        self.tell();
        Ok(())
    }
}

impl Shared {
    /// The offset that a beginning is at; of an offset that is not retained, the first that is.
    async fn resolve(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        begin: StartAt,
    ) -> Result<Offset, RequestError> {
        for start in [begin, StartAt::Earliest] {
            let ask = Request::Offsets { topic, positions: vec![(partition, start)] };
            match self.client.request(&ask).await {
                Ok(Response::Offsets { offsets }) => {
                    return offsets.first().map(|at| at.offset).ok_or_else(unexpected);
                }
                Ok(_) => return Err(unexpected()),
                Err(error) if error.code() == Some(ErrorCode::OutOfRange) => {}
                Err(error) => return Err(error),
            }
        }
        Err(unexpected())
    }
}

/// Heartbeats, until the membership ends.
async fn beat(shared: Arc<Shared>, mut heard: Instant) {
    let session = shared.settings.session;
    let every = (session / 3).max(GROUP_HEARTBEAT_MIN);
    let mut joined = true;
    let mut failures = 0;
    // What is free is granted by a heartbeat, not by a join.
    let mut pause = Duration::ZERO;
    loop {
        if heard.elapsed() >= session {
            shared.lose_all("nothing was heard of the coordinator for a session");
        }
        let until_fenced = (heard + session).saturating_duration_since(Instant::now());
        let due = Instant::now() + pause.min(until_fenced.max(IMPATIENCE));
        tokio::select! {
            () = sleep_until(due) => {}
            () = shared.beat.notified() => {}
        }
        let request = if joined { shared.heartbeat() } else { shared.joining() };
        let sent = Instant::now();
        let until_fenced = (heard + session).saturating_duration_since(sent);
        let patience = every.min(until_fenced).max(ANSWER_PATIENCE_MIN);
        let error = match timeout(patience, shared.ask(&request)).await {
            Ok(Ok(answer)) => {
                (heard, failures) = (sent, 0);
                pause = match (joined, answer.pending) {
                    (false, _) => Duration::ZERO,
                    (true, 0) => every,
                    (true, _) => every.min(IMPATIENCE),
                };
                shared.take(answer, joined).await;
                joined = true;
                continue;
            }
            Ok(Err(error)) => error,
            Err(_) => {
                failures += 1;
                pause = Backoff::RETRY.jittered(failures);
                continue;
            }
        };
        failures += 1;
        pause = Backoff::RETRY.jittered(failures);
        match error.code() {
            Some(ErrorCode::UnknownMember) => {
                shared.lose_all("the group let it go");
                joined = false;
            }
            _ if error.retryable() => {
                tracing::debug!(%error, "a heartbeat is sent again");
            }
            _ => return shared.fail(error),
        }
    }
}

/// Finishes what is to be let go of, until the membership ends.
async fn finish(shared: Arc<Shared>) {
    let positions = &shared.positions;
    let by_itself = shared.settings.commits_by_itself;
    loop {
        let again = async {
            match positions.is_ending() {
                true => sleep(IMPATIENCE).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = positions.progress.notified() => {}
            () = shared.begin.notified() => {
                if let Err(error) = shared.store_beginnings().await {
                    // If it was let go meanwhile, heartbeats find out.
                    tracing::debug!(%error, "where a partition begins is stored later");
                    sleep(IMPATIENCE).await;
                    shared.begin.notify_one();
                }
            }
            () = again => {}
        }
        if !positions.is_ending() {
            continue;
        }
        if by_itself && let Err(error) = positions.commit().await {
            tracing::debug!(%error, "positions are stored later");
        }
        if positions.let_go(by_itself, shared.settings.session) {
            shared.beat.notify_one();
        }
    }
}
