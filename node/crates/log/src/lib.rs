//! The durable log of a node: topic partitions as entries in rolling redb files.
//!
//! This is the only crate that names redb. What it keeps is described byte by byte in
//! `docs/on-disk.md`, and why it is kept so in `docs/adr/0002-log-layout.md`.
//!
//! - [`Log`] appends, reads, finds by time and expires. It is synchronous and has threads of its
//!   own: one writer per shard and one for background work.
//! - [`KvStore`] keeps the node's small metadata.
//! - [`Disk`] and [`Clock`] are what the log asks of the machine; a simulated, fault-injecting
//!   disk is in `sim` (feature `sim`).
//!
//! Nothing is acknowledged before it is on stable storage, and nothing is served that is not.

mod api;
mod backend;
mod background;
mod clean;
mod clock;
mod config;
mod copy;
mod cut;
mod cut_rows;
mod db;
mod disk;
mod entries;
mod events;
mod file;
mod index;
mod index_cache;
mod kv;
mod landing;
mod log;
mod manifest;
mod mend;
mod metrics;
mod queue;
pub mod raw;
mod read;
mod recover;
mod repair;
mod replay;
mod rescue;
mod retention;
mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod space;
mod stats;
mod syncing;
mod tail;
mod witness;
mod writer;

pub use api::{AppendError, AppendRequest, OpenError, ReadChunk, ReadError};
pub use clock::{Clock, SystemClock};
pub use config::{LogConfig, Retention};
pub use cut::CutError;
pub use db::panic_is_contained;
pub use disk::{Disk, DiskFile, RealDisk};
pub use entries::{EntryChunk, LoggedEntry};
pub use events::LogEvents;
pub use kv::{KvError, KvStore};
pub use log::Log;
pub use mend::{DamagedFile, Mend, MendError, Missing};
pub use repair::{Loss, PartitionLoss, Repair};
pub use stats::{LatencySummary, PartitionStats, ShardState, ShardStats};
