//! Going on after a loss that a node does not accept by itself: see [`weir_log::Repair`].

use crate::broker::{StartError, fresh_cluster_id};
use crate::cluster::fresh_disk;
use crate::config::BrokerConfig;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_core::PartitionId;
use weir_core::metadata::GROUPS_PARTITION;
use weir_log::{Clock, Disk, KvStore, Loss, RealDisk, Repair, SystemClock};

/// What a node that is not running would lose by going on.
#[derive(Debug)]
pub struct Losses {
    /// The shards that cannot take appends.
    pub losses: Vec<Loss>,
    repair: Repair,
    names: BTreeMap<PartitionId, String>,
}

impl Losses {
    /// Looks through the data folder of a node that is not running.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn find(config: &BrokerConfig) -> Result<Losses, StartError> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        // First: it holds the lock against a running node.
        let mut repair = Repair::open(config.log.clone(), disk.clone())?;
        let kv = KvStore::open(disk, config.data_dir.join("meta.redb"))?;
        let (_, _, image) = Store::open(kv, &fresh_cluster_id(), fresh_disk())?;
        let mut names = BTreeMap::from([(GROUPS_PARTITION, "positions of groups".to_owned())]);
        for topic in image.topics() {
            let partitions = topic.partitions.iter().enumerate();
            names.extend(partitions.map(|(n, &id)| (id, format!("{}/{n}", topic.name))));
        }
        let partitions: Vec<PartitionId> = names.keys().copied().collect();
        let losses = repair.find(&clock, &partitions)?;
        Ok(Losses { losses, repair, names })
    }

    /// What people call a partition: topic and index. `None` for one of a deleted topic.
    #[must_use]
    pub fn name(&self, partition: PartitionId) -> Option<&str> {
        self.names.get(&partition).map(String::as_str)
    }

    /// Gives up what `losses` names: the next start goes on without it, in a new leader epoch, at
    /// offsets that were never used. Returns where the damaged files were put.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn accept(self) -> Result<Vec<std::path::PathBuf>, StartError> {
        Ok(self.repair.accept()?)
    }
}
