//! What the SDK's producer decides: which batch goes when, under which number, and what becomes of
//! it when a node says no, says nothing, or is gone. Pure: no clock, no I/O; time and a seed are
//! arguments.
//!
//! It is a crate of its own so that it has two drivers: the client SDK, over QUIC, and the
//! simulator of clusters, over a network that fails in every way that a seed can think of.
//!
//! [`Machine`] has all partitions of a producer; its module's text has the states of a batch.

mod backoff;
mod batch;
mod error;
mod machine;
mod partition;
mod parts;
#[cfg(test)]
mod simulation;
mod stamp;

pub use backoff::Backoff;
pub use error::DeliveryError;
pub use machine::{Built, Machine, Outgoing, UnknownCorrelation};
pub use partition::Pushed;
pub use parts::{BatchShape, Now, PartitionKey, RecordParts, Resolved, Rules, Shaped, Stamp};
