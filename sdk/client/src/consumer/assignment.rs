//! Which partitions are read: starting and stopping their readers, and the tasks beside them.

use std::sync::Arc;

use tokio::task::AbortHandle;
use weir_core::Offset;
use weir_core::group::Generation;
use weir_core::limits::{STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX};
use weir_core::wire::frame::DataHeader;
use weir_core::wire::message::{StartAt, TopicInfo};
use weir_transport::ClientProfile;

use super::builder::Settings;
use super::reader::{Reader, Source};
use super::{Assigned, Batch, Consumer};
use crate::error::AssignError;

/// Smallest receive window of one subscription.
const STREAM_WINDOW_BYTES_MIN: usize = 64 * 1024;

/// A partition to be assigned.
pub(super) struct Wanted {
    pub(super) topic: Arc<TopicInfo>,
    pub(super) partition: u32,
    pub(super) start: StartAt,
    pub(super) stored: Option<Offset>,
}

impl Consumer {
    pub(super) fn handle_grown(&mut self, topic: &Arc<TopicInfo>) {
        let known = self.partitions.iter().filter(|p| p.source.topic_id == topic.id).count();
        if known == 0 || known as u32 >= topic.config.partitions {
            return;
        }
        let total = self.partitions.len() + topic.config.partitions as usize - known;
        if total > STREAMS_PER_CONNECTION_MAX as usize {
            tracing::warn!(topic = topic.name, total, "too many partitions for one consumer");
            return;
        }
        tracing::info!(topic = topic.name, partitions = topic.config.partitions, "it has grown");
        for partition in known as u32..topic.config.partitions {
            let start = StartAt::Earliest;
            self.add(Wanted { topic: topic.clone(), partition, start, stored: None });
        }
    }

    /// Starts over with these partitions, on a connection for `count` of them.
    pub(super) fn replace(&mut self, wanted: Vec<Wanted>, count: usize) -> Result<(), AssignError> {
        let max = STREAMS_PER_CONNECTION_MAX as usize;
        if count > max {
            return Err(AssignError::TooMany { asked: count, max });
        }
        self.clear();
        self.positions.clear(None);
        let profile = self.settings.profile(count);
        self.link = Some(Arc::new(self.settings.client.subscription_link(profile)));
        wanted.into_iter().for_each(|wanted| self.add(wanted));
        Ok(())
    }

    fn add(&mut self, wanted: Wanted) {
        let Wanted { topic, partition, start, stored } = wanted;
        let name = self.partitions.iter().map(|p| &p.source.topic).find(|t| ***t == topic.name);
        let name = name.cloned().unwrap_or_else(|| topic.name.as_str().into());
        let source = Arc::new(Source::new(name, topic.id, partition));
        self.add_source(source, Some(start), (stored, Generation::default()));
    }

    /// Adds a partition, and reads it from `start` on, or not until it is started again.
    pub(super) fn add_source(
        &mut self,
        source: Arc<Source>,
        start: Option<StartAt>,
        (stored, since): (Option<Offset>, Generation),
    ) {
        let slot = self.partitions.len();
        self.positions.add(source.topic_id, source.partition, stored, since);
        self.slots.insert((source.topic.clone(), source.partition), slot);
        self.partitions.push(Assigned {
            source,
            reader: None,
            generation: 0,
            running: false,
            position: None,
        });
        if let Some(start) = start {
            self.start_again(slot, start, None);
        }
    }

    /// Reads a partition that is not being read, from `start` on; `position`, if that is known.
    pub(super) fn start_again(&mut self, slot: usize, start: StartAt, position: Option<Offset>) {
        let source = self.partitions[slot].source.clone();
        let (reader, generation) = self.spawn_reader(slot, source, start);
        let assigned = &mut self.partitions[slot];
        assigned.reader = Some(reader);
        assigned.generation = generation;
        assigned.running = true;
        assigned.position = position;
        self.running += 1;
    }

    pub(super) fn spawn_reader(
        &mut self,
        slot: usize,
        source: Arc<Source>,
        start: StartAt,
    ) -> (AbortHandle, u64) {
        self.generation += 1;
        let profile = self.settings.profile(1);
        let link = self
            .link
            .get_or_insert_with(|| Arc::new(self.settings.client.subscription_link(profile)));
        let reader = Reader {
            link: link.clone(),
            source,
            slot,
            generation: self.generation,
            events: self.sender.clone(),
            budget: self.budget.clone(),
            frame_bytes_max: self.settings.frame_bytes_max(),
            until_end: self.settings.until_end,
            nearest: self.settings.nearest,
            reset: self.settings.reset,
            skip_damage: self.settings.skip_damage,
            filter: self.settings.filter.clone(),
        };
        (tokio::spawn(reader.run(start)).abort_handle(), self.generation)
    }

    /// Ends a partition's reader and drops what is left of its current frame.
    pub(super) fn stop(&mut self, slot: usize) {
        self.current.take_if(|frame| frame.slot == slot);
        let assigned = &mut self.partitions[slot];
        if let Some(reader) = assigned.reader.take() {
            reader.abort();
        }
        assigned.generation = 0;
        if std::mem::replace(&mut assigned.running, false) {
            self.running -= 1;
        }
    }

    pub(super) fn stop_all(&mut self) {
        (0..self.partitions.len()).for_each(|slot| self.stop(slot));
        let tasks = [self.commit_task.take(), self.growth_task.take()];
        tasks.into_iter().flatten().for_each(|task| task.abort());
    }

    pub(super) fn clear(&mut self) {
        (0..self.partitions.len()).for_each(|slot| self.stop(slot));
        if let Some(task) = self.growth_task.take() {
            task.abort();
        }
        self.partitions.clear();
        self.slots.clear();
        self.records.clear();
        self.record_batch = None;
        self.handed_out = None;
        while self.grown.try_recv().is_ok() {}
        if let Some(membership) = self.membership.take() {
            membership.abandon();
        }
    }

    pub(super) fn slot(&self, topic: &str, partition: u32) -> Option<usize> {
        // Names are few and partitions dense: the map is only worth its hash for many.
        if let [only] = &self.partitions[..] {
            let same = *only.source.topic == *topic && only.source.partition == partition;
            return same.then_some(0);
        }
        self.slots.get(&(Arc::from(topic), partition)).copied()
    }

    pub(super) fn is_of(&self, batch: &Batch, slot: usize) -> bool {
        let source = &self.partitions[slot].source;
        source.topic == batch.topic && source.partition == batch.partition
    }

    pub(super) async fn topic(&self, name: &str) -> Result<Arc<TopicInfo>, AssignError> {
        let topic = self.settings.client.fresh_topic(name).await?;
        topic.ok_or_else(|| AssignError::UnknownTopic(name.to_owned()))
    }

    /// Commits from time to time, if that was asked for.
    pub(super) fn start_commits(&mut self) {
        let Some(every) = self.settings.auto_commit.filter(|_| self.settings.group.is_some())
        else {
            return;
        };
        let positions = self.positions.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if let Err(error) = positions.commit().await {
                    tracing::warn!(%error, "positions were not stored; will try again");
                }
            }
        });
        self.commit_task = Some(task.abort_handle());
    }

    /// Looks for more partitions from time to time.
    pub(super) fn watch_growth(&mut self, topics: Vec<Arc<TopicInfo>>) {
        let client = self.settings.client.clone();
        let every = self.settings.metadata_refresh;
        let grown = self.grown_sender.clone();
        let link = self.link.clone();
        let task = tokio::spawn(async move {
            let mut known: Vec<u32> = topics.iter().map(|topic| topic.config.partitions).collect();
            loop {
                tokio::time::sleep(every).await;
                for (n, topic) in topics.iter().enumerate() {
                    // Failures show elsewhere: the subscriptions have them, too.
                    let Ok(Some(now)) = client.fresh_topic(&topic.name).await else {
                        continue;
                    };
                    if now.id != topic.id || now.config.partitions <= known[n] {
                        continue;
                    }
                    known[n] = now.config.partitions;
                    if let Some(link) = &link {
                        let total: u32 = known.iter().sum();
                        link.expect_subscriptions(total as usize).await;
                    }
                    let _ = grown.send(now);
                }
            }
        });
        self.growth_task = Some(task.abort_handle());
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop_all();
    }
}

/// Most of the prefetch budget that one frame takes: a larger one, which holds one batch, passes
/// for that much.
pub(super) fn prefetch_of_one(frame_bytes_max: u32) -> usize {
    frame_bytes_max as usize + DataHeader::BYTES
}

impl Settings {
    fn profile(&self, partitions: usize) -> ClientProfile {
        let partitions = partitions.max(1);
        let share = self.prefetch_bytes / partitions;
        let stream_window_bytes = share.clamp(STREAM_WINDOW_BYTES_MIN, STREAM_WINDOW_BYTES);
        ClientProfile::Subscribe { streams: partitions, stream_window_bytes }
    }
}
