//! What a producer knows of its topics, and which partition a record goes to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use weir_core::ids::{PartitionIndex, TopicId};
use weir_core::partitioner::{StickyPartitioner, partition_for_key};
use weir_core::record::Compression;
use weir_core::wire::message::TopicInfo;
use weir_producer::{BatchShape, Now, PartitionKey};

use crate::client::METADATA_AGE_MAX;

/// Records without a key stay with a partition at least this long, unless its batch fills up.
const STICKY_AT_LEAST: Duration = Duration::from_millis(5);

/// What the application says about batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopicShape {
    /// `None`: as the topic says.
    pub(super) compression: Option<Compression>,
    pub(super) batch_bytes: usize,
}

/// One topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    id: TopicId,
    pub(super) partitions: u32,
    /// How its batches are built.
    pub(super) shape: BatchShape,
    /// Largest batch that the topic takes, in bytes.
    pub(super) batch_bytes_max: usize,
    sticky: StickyPartitioner,
    sticky_since: Now,
    loaded_at: Now,
    /// Whether it is being asked for again.
    refreshing: bool,
    /// The machine's numbers of its partitions, as far as they were used.
    slots: Vec<Option<usize>>,
}

impl Topic {
    pub(super) fn new(
        now: Now,
        info: &TopicInfo,
        shape: TopicShape,
        node_batch_bytes_max: usize,
        first_partition: u32,
    ) -> Topic {
        let batch_bytes_max = (info.config.batch_bytes_max as usize).min(node_batch_bytes_max);
        Topic {
            name: info.name.as_str().into(),
            id: info.id,
            partitions: info.config.partitions,
            shape: BatchShape {
                compression: shape.compression.unwrap_or(info.config.compression),
                bytes_max: shape.batch_bytes.min(batch_bytes_max),
            },
            batch_bytes_max,
            sticky: StickyPartitioner::new(first_partition),
            sticky_since: now,
            loaded_at: now,
            refreshing: false,
            slots: vec![None; info.config.partitions as usize],
        }
    }

    /// Takes over what still holds of what was known before.
    fn succeed(&mut self, before: Topic) {
        if before.id == self.id {
            self.sticky = before.sticky;
            self.sticky_since = before.sticky_since;
        }
    }

    /// The partition for a record with this key.
    pub(super) fn for_key(&self, key: &[u8]) -> u32 {
        partition_for_key(key, self.partitions).0
    }

    /// The partition for a record without a key.
    pub(super) fn for_none(&self) -> u32 {
        self.sticky.current(self.partitions).0
    }

    /// A record without a key would begin a batch in `partition`: whether it is the next one's
    /// turn.
    pub(super) fn handle_begin(&mut self, now: Now, partition: u32) -> bool {
        let turn = now.saturating_sub(self.sticky_since) >= STICKY_AT_LEAST;
        if turn {
            self.handle_full(now, partition);
        }
        turn
    }

    /// The batch of `partition` is full.
    pub(super) fn handle_full(&mut self, now: Now, partition: u32) {
        self.sticky.on_batch_closed(PartitionIndex(partition), self.partitions);
        self.sticky_since = now;
    }

    /// Whether it is time to ask for the topic again; says so once.
    pub(super) fn wants_refresh(&mut self, now: Now) -> bool {
        let old = now.saturating_sub(self.loaded_at) >= METADATA_AGE_MAX;
        old && !std::mem::replace(&mut self.refreshing, true)
    }

    /// The machine's number of a partition, which exists; `make` gives it a new one.
    pub(super) fn slot(
        &mut self,
        partition: u32,
        make: impl FnOnce(PartitionKey, BatchShape) -> usize,
    ) -> usize {
        let key = PartitionKey { topic: self.id, partition: PartitionIndex(partition) };
        match self.slots.get_mut(partition as usize) {
            Some(slot) => *slot.get_or_insert_with(|| make(key, self.shape)),
            None => make(key, self.shape),
        }
    }
}

/// The topics of one producer.
#[derive(Debug, Default)]
pub(super) struct Topics {
    all: Vec<Topic>,
    by_name: HashMap<Arc<str>, usize>,
    /// Where the last one that was asked for is.
    last: usize,
}

impl Topics {
    /// The topic of this name, if it is known.
    pub(super) fn get(&mut self, name: &str) -> Option<&mut Topic> {
        let last = self.all.get(self.last);
        if last.is_none_or(|topic| &*topic.name != name) {
            self.last = *self.by_name.get(name)?;
        }
        self.all.get_mut(self.last)
    }

    pub(super) fn put(&mut self, mut topic: Topic) {
        if let Some(&place) = self.by_name.get(&topic.name) {
            let slot = &mut self.all[place];
            std::mem::swap(slot, &mut topic);
            slot.succeed(topic);
            return;
        }
        self.by_name.insert(topic.name.clone(), self.all.len());
        self.all.push(topic);
    }

    /// Whatever is known of it does not hold any more.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(place) = self.by_name.remove(name) {
            self.all.swap_remove(place);
            if let Some(moved) = self.all.get(place) {
                self.by_name.insert(moved.name.clone(), place);
            }
        }
    }

    /// It could not be asked for again: another time.
    pub(super) fn refresh_failed(&mut self, now: Now, name: &str) {
        if let Some(topic) = self.get(name) {
            topic.refreshing = false;
            topic.loaded_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::TimestampMs;
    use weir_core::topic::TopicConfig;

    fn info(name: &str, id: u32, partitions: u32) -> TopicInfo {
        let config = TopicConfig { partitions, ..TopicConfig::default() };
        let created_at = TimestampMs(0);
        TopicInfo { id: TopicId(id), name: name.into(), config, created_at }
    }

    fn topic(name: &str, id: u32, partitions: u32) -> Topic {
        let shape = TopicShape { compression: None, batch_bytes: 1 << 20 };
        Topic::new(Now::ZERO, &info(name, id, partitions), shape, 1 << 22, 0)
    }

    /// Goal: records without a key stay with a partition for a while or until its batch is full,
    /// whichever is first, then go on.
    #[test]
    fn turns() {
        let mut topic = topic("t", 1, 3);
        assert_eq!(topic.for_none(), 0);
        assert!(!topic.handle_begin(Duration::from_millis(4), 0));
        assert!(topic.handle_begin(Duration::from_millis(5), 0));
        assert_eq!(topic.for_none(), 1);
        topic.handle_full(Duration::from_millis(6), 1);
        assert_eq!(topic.for_none(), 2);
        assert!(!topic.handle_begin(Duration::from_millis(10), 2));
    }

    /// Goal: a topic that is learned anew keeps its turn if it is the same one; removal of one
    /// leaves the others found.
    #[test]
    fn the_table_follows_the_node() {
        let mut topics = Topics::default();
        ["a", "b", "c"].into_iter().zip(1..).for_each(|(name, id)| topics.put(topic(name, id, 4)));
        topics.get("b").unwrap().handle_full(Duration::from_secs(1), 0);
        topics.put(topic("b", 2, 8));
        let b = topics.get("b").unwrap();
        assert_eq!((b.partitions, b.for_none()), (8, 1));
        topics.put(topic("b", 9, 8));
        assert_eq!(topics.get("b").unwrap().for_none(), 0, "another topic of the same name");
        topics.remove("a");
        assert!(topics.get("a").is_none());
        assert_eq!(&*topics.get("c").unwrap().name, "c");
        assert_eq!(&*topics.get("b").unwrap().name, "b");
    }

    /// Goal: a topic is asked for again once it is old, once at a time.
    #[test]
    fn refreshes() {
        let mut topics = Topics::default();
        topics.put(topic("a", 1, 1));
        let later = METADATA_AGE_MAX;
        assert!(!topics.get("a").unwrap().wants_refresh(later - Duration::from_millis(1)));
        assert!(topics.get("a").unwrap().wants_refresh(later));
        assert!(!topics.get("a").unwrap().wants_refresh(later));
        topics.refresh_failed(later, "a");
        assert!(!topics.get("a").unwrap().wants_refresh(later));
        assert!(topics.get("a").unwrap().wants_refresh(later * 2));
    }
}
