//! Stored positions of consumer groups.
//!
//! They are keyed state of one internal partition ([`GROUPS_PARTITION`]): a commit is an entry
//! whose keyed-state section sets them, so it is as durable, and later as replicated, as records.
//!
//! | | |
//! |---|---|
//! | key | group name, `0`, `u32` topic id, `u32` partition (big-endian) |
//! | value | `i64` offset, `i64` commit time in ms (little-endian) |

use crate::ack::{OwnReply, Parked};
use crate::partition::{Partition, Payload};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use weir_core::entry::{StateChange, encode_state};
use weir_core::limits;
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::assignment::Lead;
use weir_core::partition::view::PartitionView;
use weir_core::topic::TopicConfig;
use weir_core::wire::message::{GroupInfo, GroupPosition};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use weir_log::{Log, Retention};

/// What one position takes in keyed state besides the group's name, with room for the map.
const POSITION_BYTES: usize = 9 + 16;
/// Entries of the internal partition are of no use once a newer file's snapshot has their effect.
const ENTRY_AGE_MS: i64 = 60 * 60 * 1000;

/// All consumer groups' stored positions.
#[derive(Debug)]
pub struct Groups {
    partition: Arc<Partition>,
    log: Arc<Log>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    positions: BTreeMap<Bytes, Bytes>,
    bytes: usize,
}

impl Groups {
    /// Starts from what the log holds. `me` is as whom this node holds partitions; they have no
    /// role yet.
    #[must_use]
    pub fn new(log: Arc<Log>, me: Lead, view: &PartitionView) -> Groups {
        let place = (TopicId(0), Arc::from("__groups"), PartitionIndex(0));
        let config = TopicConfig::default();
        let partition = Partition::new(GROUPS_PARTITION, place, &config, me, (&log, view));
        let groups = Groups { partition: Arc::new(partition), log, state: Arc::default() };
        groups.lock().replace(view);
        groups
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
        self.lock().replace(view);
        self.partition.lead_alone(epoch, view);
    }

    /// What the log says, before this node leads. Nothing was appended here since: the log answers
    /// only where all of it is durable, and only a leader appends.
    pub fn handle_view(&self, view: &PartitionView) {
        self.lock().replace(view);
        self.partition.handle_view(view);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Stores positions of `group`, durably.
    ///
    /// # Errors
    /// [`WireError`]: refused, or the disk failed.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer; the positions may be stored.
    pub async fn commit(
        &self,
        now: TimestampMs,
        group: &str,
        positions: &[GroupPosition],
    ) -> Result<(), WireError> {
        let changes = positions.iter().map(|position| {
            let mut value = BytesMut::with_capacity(16);
            value.put_i64_le(position.offset.0);
            value.put_i64_le(now.0);
            StateChange {
                key: key(group, position.topic, position.partition),
                value: Some(value.freeze()),
            }
        });
        self.write(now, changes.collect()).await
    }

    /// Forgets the stored positions of `group`, all or those in `topics`. Returns how many.
    ///
    /// # Errors
    /// [`WireError`]: the group has none, or the disk failed.
    ///
    /// # Cancel safety
    /// As [`Groups::commit`].
    pub async fn delete(
        &self,
        now: TimestampMs,
        group: &str,
        topics: Option<&[TopicId]>,
    ) -> Result<usize, WireError> {
        let known = self.positions(group);
        let concerned = |p: &&GroupPosition| topics.is_none_or(|t| t.contains(&p.topic));
        let changes: Vec<_> = known
            .iter()
            .filter(concerned)
            .map(|p| StateChange { key: key(group, p.topic, p.partition), value: None })
            .collect();
        if changes.is_empty() {
            let message = format!("group `{group}` has no stored positions");
            return Err(WireError::new(ErrorCode::UnknownGroup, message));
        }
        let count = changes.len();
        self.write(now, changes).await?;
        Ok(count)
    }

    /// Forgets every position in a deleted topic.
    pub async fn forget_topic(&self, now: TimestampMs, topic: TopicId) {
        let keys: Vec<Bytes> = {
            let state = self.lock();
            let of_topic = |k: &&Bytes| decode_key(k).is_some_and(|(_, t, _)| t == topic);
            state.positions.keys().filter(of_topic).cloned().collect()
        };
        let changes: Vec<_> =
            keys.into_iter().map(|key| StateChange { key, value: None }).collect();
        if !changes.is_empty()
            && let Err(error) = self.write(now, changes).await
        {
            tracing::warn!(%topic, %error, "positions in the deleted topic stay");
        }
    }

    async fn write(&self, now: TimestampMs, changes: Vec<StateChange>) -> Result<(), WireError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.lock().check_room(&changes)?;
        let payload = Payload {
            count: 1,
            producer: None,
            batch: None,
            state: encode_state(&changes),
            linger: Duration::ZERO,
            fence: None,
            hold: None,
        };
        let (sender, committed) = oneshot::channel();
        let state = self.state.clone();
        // Applied where the log says that it is durable, in log order: two commits of one key
        // cannot change places on their way back to their tasks.
        let reply = OwnReply(Box::new(move |result| {
            if result.is_ok() {
                lock(&state).apply(&changes);
            }
            // Whoever asked may have gone; the positions are stored all the same.
            drop(sender.send(result));
        }));
        self.partition.append(now, payload, |_| Parked::Own(reply));
        committed.await.unwrap_or_else(|_| {
            Err(WireError::unknown(ErrorCode::ShuttingDown, "the node is shutting down"))
        })
    }

    /// Whether the positions held here are all that was stored: they are not where the newest log
    /// file of their shard is damaged.
    ///
    /// # Errors
    /// [`ErrorCode::Offline`].
    pub fn check_known(&self) -> Result<(), WireError> {
        if self.partition.figures().online {
            return Ok(());
        }
        let message = "stored positions cannot be told: the log that holds them is offline; the \
                       node's status says why";
        Err(WireError::new(ErrorCode::Offline, message))
    }

    /// The stored positions of `group`, by topic and partition.
    #[must_use]
    pub fn positions(&self, group: &str) -> Vec<GroupPosition> {
        let prefix = prefix(group);
        let state = self.lock();
        let from = state.positions.range(prefix.clone()..);
        from.take_while(|(key, _)| key.starts_with(&prefix))
            .filter_map(|(key, value)| {
                let (_, topic, partition) = decode_key(key)?;
                let (offset, committed_at) = decode_value(value)?;
                Some(GroupPosition { topic, partition, offset, committed_at })
            })
            .collect()
    }

    /// All groups.
    #[must_use]
    pub fn list(&self) -> Vec<GroupInfo> {
        let mut groups: Vec<GroupInfo> = Vec::new();
        for (key, value) in &self.lock().positions {
            let Some(((name, _, _), (_, at))) = decode_key(key).zip(decode_value(value)) else {
                continue;
            };
            match groups.last_mut().filter(|last| last.name == name) {
                Some(last) => {
                    last.positions += 1;
                    last.committed_at = last.committed_at.max(at);
                }
                None => {
                    groups.push(GroupInfo { name: name.into(), positions: 1, committed_at: at });
                }
            }
        }
        groups
    }
}

impl State {
    fn replace(&mut self, view: &PartitionView) {
        self.positions = view.state.clone();
        self.bytes = self.positions.iter().map(|(k, v)| k.len() + v.len()).sum();
    }

    fn check_room(&self, changes: &[StateChange]) -> Result<(), WireError> {
        let added: usize = changes
            .iter()
            .filter(|c| c.value.is_some() && !self.positions.contains_key(&c.key))
            .map(|c| c.key.len() + POSITION_BYTES)
            .sum();
        if self.bytes + added > limits::STATE_BYTES_MAX {
            let message = "the node stores as many group positions as it can: delete groups that \
                           are no longer used";
            return Err(WireError::new(ErrorCode::LimitReached, message));
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[StateChange]) {
        for change in changes {
            let before = match &change.value {
                Some(value) => {
                    self.bytes += change.key.len() + value.len();
                    self.positions.insert(change.key.clone(), value.clone())
                }
                None => self.positions.remove(&change.key),
            };
            if let Some(before) = before {
                self.bytes -= change.key.len() + before.len();
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

fn prefix(group: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(group.len() + 9);
    key.put_slice(group.as_bytes());
    key.put_u8(0);
    key.freeze()
}

fn key(group: &str, topic: TopicId, partition: PartitionIndex) -> Bytes {
    let mut key = BytesMut::from(prefix(group));
    key.put_u32(topic.0);
    key.put_u32(partition.0);
    key.freeze()
}

fn decode_key(key: &[u8]) -> Option<(&str, TopicId, PartitionIndex)> {
    let (name, mut rest) = key.split_at_checked(key.len().checked_sub(9)?)?;
    (rest.get_u8() == 0).then_some(())?;
    let name = std::str::from_utf8(name).ok()?;
    Some((name, TopicId(rest.get_u32()), PartitionIndex(rest.get_u32())))
}

fn decode_value(mut value: &[u8]) -> Option<(Offset, TimestampMs)> {
    let offset = Offset(value.try_get_i64_le().ok()?);
    Some((offset, TimestampMs(value.try_get_i64_le().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: keys read back, and a group whose name begins another's does not see its positions.
    #[test]
    fn keys() {
        let key = key("app", TopicId(7), PartitionIndex(300));
        assert_eq!(decode_key(&key), Some(("app", TopicId(7), PartitionIndex(300))));
        assert!(!super::key("app2", TopicId(7), PartitionIndex(300)).starts_with(&prefix("app")));
        assert_eq!(decode_key(b"short"), None);
    }

    /// Goal: the byte count follows every change, so the bound is a bound.
    #[test]
    fn room() {
        let mut state = State::default();
        let change = |key: &'static str, value: Option<&'static str>| StateChange {
            key: Bytes::from(key),
            value: value.map(Bytes::from),
        };
        state.apply(&[change("a", Some("123")), change("b", Some("1")), change("a", Some("1"))]);
        assert_eq!(state.bytes, 4);
        state.apply(&[change("a", None), change("b", None), change("c", None)]);
        assert_eq!(state.bytes, 0);
        state.bytes = limits::STATE_BYTES_MAX;
        assert!(state.check_room(&[change("d", Some("1"))]).is_err());
        assert!(state.check_room(&[change("d", None)]).is_ok());
    }
}
