//! Carries the log's news to the partitions. Runs on the log's threads.

use crate::broker::Shared;
use crate::deploy::state::States;
use crate::groups::Groups;
use crate::partition::Partition;
use crate::registry::Registry;
use crate::store::Store;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use weir_core::metadata::GROUPS_PARTITION;
use weir_core::partition::view::PartitionView;
use weir_core::{LeaderEpoch, Offset, PartitionId};
use weir_log::{CutError, LogEvents};

/// Receives the log's events and hands each to the partition that it concerns.
#[derive(Debug)]
pub struct Driver {
    store: Arc<Store>,
    shards: u32,
    /// Whether controllers give the epochs.
    clustered: bool,
    registry: Arc<Registry>,
    groups: Arc<Groups>,
    lanes: Arc<States>,
    /// Called once, if the node cannot go on.
    fatal: OnceLock<String>,
}

impl Driver {
    /// Drives the partitions of a broker, which the log keeps in `shards` shards.
    #[must_use]
    pub fn new(store: Arc<Store>, shards: u16, shared: &Shared) -> Driver {
        Driver {
            store,
            shards: u32::from(shards),
            clustered: shared.site.is_some(),
            registry: shared.registry.clone(),
            groups: shared.groups.clone(),
            lanes: shared.deployments.states().clone(),
            fatal: OnceLock::new(),
        }
    }

    /// Why the node cannot take writes again without a restart, if that is so.
    #[must_use]
    pub fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }

    fn partition(&self, id: PartitionId) -> Option<Arc<Partition>> {
        match id {
            GROUPS_PARTITION => Some(self.groups.partition().clone()),
            id => self.registry.partition_by_id(id),
        }
    }

    fn is_of(&self, shard: u16, partition: PartitionId) -> bool {
        partition.0 % self.shards == u32::from(shard)
    }
}

impl LogEvents for Driver {
    fn durable(&self, _shard: u16, ends: &[(PartitionId, Offset)]) {
        for &(id, end) in ends {
            if id == GROUPS_PARTITION {
                self.groups.partition().handle_durable(end);
            } else if let Some(partition) = self.registry.partition_by_id(id) {
                partition.handle_durable(end);
            }
        }
    }

    fn failed(&self, shard: u16, reason: &str) {
        tracing::error!(
            shard,
            reason,
            "a write failed; the shard takes no appends until its log \
            was reopened and its tail copied to a fresh file"
        );
        if self.is_of(shard, GROUPS_PARTITION) {
            self.groups.partition().handle_failure(reason);
        }
        for partition in self.registry.partitions() {
            if self.is_of(shard, partition.id) {
                partition.handle_failure(reason);
            }
        }
    }

    fn recovered(&self, shard: u16, views: &HashMap<PartitionId, PartitionView>) {
        let empty = PartitionView::default();
        let of_groups = views.get(&GROUPS_PARTITION).unwrap_or(&empty);
        if self.clustered {
            // The controllers give every partition its epoch.
            if self.is_of(shard, GROUPS_PARTITION) {
                self.groups.partition().handle_recovered(of_groups);
            }
            self.registry.recover(LeaderEpoch(0), |id| self.is_of(shard, id), views);
            tracing::info!(shard, "the shard takes appends again");
            return;
        }
        let newest = views.values().map(PartitionView::epoch).max();
        let epoch = match self.store.next_epoch(newest.unwrap_or(LeaderEpoch(0))) {
            Ok(epoch) => epoch,
            Err(error) => {
                // Without a fresh epoch nothing may be appended. Reads go on.
                tracing::error!(shard, %error, "the shard stays offline: its new epoch could not \
                    be stored; mend the disk and restart the node");
                let _ = self.fatal.set(error.to_string());
                return;
            }
        };
        if self.is_of(shard, GROUPS_PARTITION) {
            self.groups.lead_alone(epoch, of_groups);
        }
        self.lanes.recover(|id| self.is_of(shard, id), views);
        self.registry.recover(epoch, |id| self.is_of(shard, id), views);
        tracing::info!(shard, %epoch, "the shard takes appends again");
    }

    fn log_start(&self, partition: PartitionId, start: Offset) {
        if partition == GROUPS_PARTITION {
            self.groups.partition().handle_log_start(start);
        } else if let Some(partition) = self.registry.partition_by_id(partition) {
            partition.handle_log_start(start);
        }
    }

    fn view(&self, partition: PartitionId, view: &PartitionView) {
        let Some(partition) = self.partition(partition) else { return };
        partition.answer_view(view);
        // Or else it was asked for a follower, and this node leads already.
        if !partition.awaits_view() {
            return;
        }
        // Replies of an earlier leadership change nothing after it.
        partition.flush_replies();
        if partition.id == GROUPS_PARTITION {
            self.groups.handle_view(view);
        } else {
            // What lanes left there.
            self.lanes.load(partition.id, view);
            partition.handle_view(view);
        }
    }

    fn view_at(
        &self,
        partition: PartitionId,
        end: Offset,
        view: Result<&PartitionView, &CutError>,
    ) {
        if let Some(partition) = self.partition(partition) {
            partition.answer_view_at(end, view);
        }
    }

    fn cut(&self, partition: PartitionId, view: &PartitionView) {
        if let Some(partition) = self.partition(partition) {
            partition.handle_cut(view);
        }
    }

    fn cut_failed(&self, partition: PartitionId, error: &CutError) {
        if let Some(partition) = self.partition(partition) {
            partition.handle_cut_failed(error);
        }
    }
}
