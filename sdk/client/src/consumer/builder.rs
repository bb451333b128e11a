//! Settings of a consumer.

use std::time::Duration;

use weir_core::limits::{GROUP_SESSION, GROUP_SESSION_MAX, GROUP_SESSION_MIN, KIB, MIB};
use weir_core::wire::message::{FilterSpec, StartAt};

use super::{Consumer, ResetPolicy};
use crate::client::{Client, METADATA_AGE_MAX};
use crate::error::AssignError;

/// Smallest prefetch budget.
const PREFETCH_BYTES_MIN: usize = 64 * KIB;
/// Largest prefetch budget.
const PREFETCH_BYTES_MAX: usize = 1024 * MIB;
/// Largest frame that is asked for, besides single batches that are larger. Small enough that a
/// frame is still in the CPU's cache when its batches are checked.
const FRAME_BYTES: usize = 256 * KIB;
/// A frame is at most this part of the prefetch budget.
const FRAMES_PREFETCHED_MIN: usize = 4;

/// Settings of a consumer. From [`Client::consumer`](crate::Client::consumer).
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) client: Client,
    pub(super) group: Option<String>,
    pub(super) auto_commit: Option<Duration>,
    pub(super) reset: ResetPolicy,
    pub(super) prefetch_bytes: usize,
    pub(super) until_end: bool,
    pub(super) nearest: bool,
    pub(super) skip_damage: bool,
    pub(super) metadata_refresh: Duration,
    pub(super) filter: Option<FilterSpec>,
    pub(super) instance: Option<String>,
    pub(super) session: Duration,
    pub(super) begin: Option<StartAt>,
}

impl Settings {
    pub(super) fn commits_by_itself(&self) -> bool {
        self.group.is_some() && self.auto_commit.is_some()
    }

    pub(super) fn frame_bytes_max(&self) -> u32 {
        (self.prefetch_bytes / FRAMES_PREFETCHED_MIN).min(FRAME_BYTES) as u32
    }
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> ConsumerBuilder {
        let settings = Settings {
            client,
            group: None,
            auto_commit: Some(Duration::from_secs(5)),
            reset: ResetPolicy::default(),
            prefetch_bytes: 16 * MIB,
            until_end: false,
            nearest: false,
            skip_damage: false,
            metadata_refresh: METADATA_AGE_MAX,
            filter: None,
            instance: None,
            session: GROUP_SESSION,
            begin: None,
        };
        ConsumerBuilder { settings }
    }

    /// The name under which positions are stored on the node; default none.
    pub fn group(mut self, group: impl Into<String>) -> ConsumerBuilder {
        self.settings.group = Some(group.into());
        self
    }

    /// How often positions are stored by themselves, and at [`Consumer::close`]; default every
    /// 5 s. `None`: only by [`Consumer::commit`]. Without a group nothing is stored.
    pub fn auto_commit(mut self, every: Option<Duration>) -> ConsumerBuilder {
        self.settings.auto_commit = every.map(|every| every.max(Duration::from_millis(1)));
        self
    }

    /// Where to go on when a position is not in the log (any more), or none is stored; default
    /// [`ResetPolicy::Earliest`]. Every reset of a position is logged and kept for
    /// [`Consumer::take_resets`].
    pub fn reset(mut self, policy: ResetPolicy) -> ConsumerBuilder {
        self.settings.reset = policy;
        self
    }

    /// Most bytes that are fetched ahead of the application, all partitions together; default
    /// 16 MiB, clamped to 64 KiB and 1 GiB. QUIC holds as much again on its way here.
    pub fn prefetch_bytes(mut self, bytes: usize) -> ConsumerBuilder {
        self.settings.prefetch_bytes = bytes.clamp(PREFETCH_BYTES_MIN, PREFETCH_BYTES_MAX);
        self
    }

    /// Whether to end at each partition's end as it is when it is subscribed to, instead of
    /// waiting for more; default false.
    pub fn until_end(mut self, until_end: bool) -> ConsumerBuilder {
        self.settings.until_end = until_end;
        self
    }

    /// Whether the node that is connected to may serve records from a copy that it follows with;
    /// default false. In a cluster that spares the way to the leader: records come a moment later,
    /// and all that come are committed. What the copy does not know to be committed yet counts as
    /// not there, also for [`ConsumerBuilder::until_end`].
    pub fn nearest(mut self, nearest: bool) -> ConsumerBuilder {
        self.settings.nearest = nearest;
        self
    }

    /// Whether to go on behind data that is damaged on the node's disk, instead of failing;
    /// default false. What is skipped is logged and, as a reset, kept for
    /// [`Consumer::take_resets`].
    pub fn skip_damage(mut self, skip: bool) -> ConsumerBuilder {
        self.settings.skip_damage = skip;
        self
    }

    /// How often [`Consumer::assign_topics`] looks for partitions that were added; default 30 s.
    pub fn metadata_refresh(mut self, every: Duration) -> ConsumerBuilder {
        self.settings.metadata_refresh = every.max(Duration::from_millis(1));
        self
    }

    /// A module that says, in the node, which records are sent; default none. Records that it drops
    /// never cross the link, and the position moves on over them.
    pub fn filter(mut self, filter: FilterSpec) -> ConsumerBuilder {
        self.settings.filter = Some(filter);
        self
    }

    /// A name that this member of a group keeps over restarts; default none. A process that joins
    /// under the name of another takes over its partitions at once and nothing else moves; the
    /// other one fails. So each process of a group has a name of its own. Only for
    /// [`Consumer::subscribe`].
    pub fn instance(mut self, name: impl Into<String>) -> ConsumerBuilder {
        self.settings.instance = Some(name.into());
        self
    }

    /// How long a member may be silent before others get its partitions; default 10 s, clamped to
    /// 0.5 s and 30 min. Shorter than the cluster takes to replace a node (about a second), members
    /// lose their partitions with it. Only for [`Consumer::subscribe`].
    pub fn session_timeout(mut self, session: Duration) -> ConsumerBuilder {
        self.settings.session = session.clamp(GROUP_SESSION_MIN, GROUP_SESSION_MAX);
        self
    }

    /// Where a member begins with partitions that have no position; default as
    /// [`ConsumerBuilder::reset`] says. Unless that is the earliest record, the beginning is stored
    /// as the partition's position before anything is handed out. Only for
    /// [`Consumer::subscribe`].
    pub fn begin_at(mut self, start: StartAt) -> ConsumerBuilder {
        self.settings.begin = Some(start);
        self
    }

    /// Makes the consumer and has it become a member of its group, as [`Consumer::subscribe`].
    ///
    /// # Errors
    /// As [`Consumer::subscribe`].
    ///
    /// # Cancel safety
    /// As [`Consumer::subscribe`].
    pub async fn subscribe(self, topics: &[&str]) -> Result<Consumer, AssignError> {
        let mut consumer = self.build();
        consumer.subscribe(topics).await?;
        Ok(consumer)
    }

    /// Makes the consumer. It connects when it is assigned partitions.
    ///
    /// Must be called on a tokio runtime.
    #[must_use]
    pub fn build(self) -> Consumer {
        Consumer::new(self.settings)
    }
}
