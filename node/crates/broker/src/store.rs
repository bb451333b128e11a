//! The node's own durable notes: its identity, its topics, and the counters that ids come from.
//!
//! Rows of the key-value store, values in CBOR:
//!
//! | key | value |
//! |---|---|
//! | `node` | [`NodeRow`] |
//! | `counters` | [`CountersRow`] |
//! | `topic/NAME` | [`Topic`] |
//! | `module/NAME@VERSION` | [`Module`] |
//! | `deployment/NAME` | [`Deployment`] |

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Mutex;
use weir_core::deploy::Deployment;
use weir_core::ids::DiskId;
use weir_core::metadata::{Change, Image, Topic};
use weir_core::module::Module;
use weir_core::{LeaderEpoch, ProducerId};
use weir_log::{KvError, KvStore};

/// How many producer ids are set aside with one write.
const PRODUCER_BLOCK: i64 = 1_000;

/// The node's durable notes.
#[derive(Debug)]
pub struct Store {
    kv: KvStore,
    counters: Mutex<Counters>,
}

#[derive(Debug)]
struct Counters {
    row: CountersRow,
    next_producer: i64,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// The cluster it belongs to: made at the first start, stable for the life of its data. Of a
    /// node without others: that of several is told by their common authority.
    pub cluster: String,
    /// The folder's own number, by which controllers know it from another that a node comes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskId>,
}

/// What must never be given out twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CountersRow {
    /// The id of the next topic.
    pub next_topic: u32,
    /// The id of the next partition.
    pub next_partition: u32,
    /// Producer ids below this may have been given out.
    pub next_producer: i64,
    /// The newest leader epoch that may have been used.
    pub epoch: i32,
}

/// Why the node's notes cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A row that this version cannot read.
    #[error("the row `{key}` of the node's metadata cannot be read: {reason}")]
    Row {
        /// The row.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Store {
    /// Reads the notes; makes the node's identity at a first start, with `fresh_cluster` as the
    /// cluster's id and `fresh_disk` as the folder's number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        kv: KvStore,
        fresh_cluster: &str,
        fresh_disk: DiskId,
    ) -> Result<(Store, NodeRow, Image), StoreError> {
        let node = match read_row::<NodeRow>(&kv, "node")? {
            Some(node) if node.disk.is_some() => node,
            known => {
                let cluster = known.map_or_else(|| fresh_cluster.to_owned(), |node| node.cluster);
                let node = NodeRow { cluster, disk: Some(fresh_disk) };
                kv.put(b"node", &encode(&node))?;
                node
            }
        };
        let row: CountersRow = read_row(&kv, "counters")?.unwrap_or_default();
        let mut image = Image::default();
        for (key, value) in kv.range(b"topic/")? {
            let topic: Topic = decode(&String::from_utf8_lossy(&key), &value)?;
            image.apply(&Change::Put(topic));
        }
        for (key, value) in kv.range(b"module/")? {
            let module: Module = decode(&String::from_utf8_lossy(&key), &value)?;
            image.apply(&Change::PutModule(module));
        }
        for (key, value) in kv.range(b"deployment/")? {
            let deployment: Deployment = decode(&String::from_utf8_lossy(&key), &value)?;
            let deployment = Box::new(deployment);
            image.apply(&Change::PutDeployment { deployment, topics: Vec::new() });
        }
        image.raise_counters(row.next_topic, row.next_partition);
        let counters = Mutex::new(Counters { next_producer: row.next_producer, row });
        Ok((Store { kv, counters }, node, image))
    }

    /// Makes a change durable. `after` are the image's counters once the change is applied.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; whether the change is durable is then unknown.
    pub fn write_change(&self, change: &Change, after: (u32, u32)) -> Result<(), StoreError> {
        let mut counters = self.lock();
        let mut row = counters.row.clone();
        (row.next_topic, row.next_partition) = after;
        let topic_row = |topic: &Topic| (format!("topic/{}", topic.name), Some(encode(topic)));
        let mut rows: Vec<(String, Option<Vec<u8>>)> = match change {
            Change::Put(topic) => vec![topic_row(topic)],
            Change::Removed { name } => vec![(format!("topic/{name}"), None)],
            Change::PutModule(module) => {
                vec![(format!("module/{}", module.id), Some(encode(module)))]
            }
            Change::RemovedModule(id) => vec![(format!("module/{id}"), None)],
            Change::PutDeployment { deployment, topics } => {
                let row = (format!("deployment/{}", deployment.name), Some(encode(deployment)));
                topics.iter().map(topic_row).chain([row]).collect()
            }
            Change::RemovedDeployment { name, outbox } => {
                let outbox = outbox.iter().map(|outbox| (format!("topic/{outbox}"), None));
                outbox.chain([(format!("deployment/{name}"), None)]).collect()
            }
        };
        rows.push(("counters".to_owned(), Some(encode(&row))));
        let rows: Vec<_> = rows.iter().map(|(k, v)| (k.as_bytes(), v.as_deref())).collect();
        self.kv.write(&rows)?;
        counters.row = row;
        Ok(())
    }

    /// A leader epoch above `floor` that no leadership on this node had before, durably.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_epoch(&self, floor: LeaderEpoch) -> Result<LeaderEpoch, StoreError> {
        let mut counters = self.lock();
        let mut row = counters.row.clone();
        row.epoch = row.epoch.max(floor.0) + 1;
        self.kv.put(b"counters", &encode(&row))?;
        let epoch = LeaderEpoch(row.epoch);
        counters.row = row;
        Ok(epoch)
    }

    /// A producer id that was never given out. Blocks on the disk once in a thousand calls.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_producer(&self) -> Result<ProducerId, StoreError> {
        let mut counters = self.lock();
        if counters.next_producer >= counters.row.next_producer {
            let mut row = counters.row.clone();
            row.next_producer = counters.next_producer + PRODUCER_BLOCK;
            self.kv.put(b"counters", &encode(&row))?;
            counters.row = row;
        }
        let id = ProducerId(counters.next_producer);
        counters.next_producer += 1;
        Ok(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn read_row<T: DeserializeOwned>(kv: &KvStore, key: &str) -> Result<Option<T>, StoreError> {
    kv.get(key.as_bytes())?.map(|value| decode(key, &value)).transpose()
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing plain data to memory fails only for types that CBOR cannot hold; these it can.
    ciborium::into_writer(row, &mut bytes).expect("metadata rows are plain data");
    bytes
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    ciborium::from_reader(value)
        .map_err(|error| StoreError::Row { key: key.to_owned(), reason: error.to_string() })
}
