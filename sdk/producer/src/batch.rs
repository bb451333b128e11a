//! A batch on its way: open, queued, in flight. See `partition.rs` for its states.

use bytes::Bytes;
use weir_core::wire::frame::Appended;

use crate::error::DeliveryError;
use crate::parts::{Now, Resolved, Shaped, Stamp};

#[derive(Debug)]
pub(crate) enum Content {
    Records(Shaped),
    /// With the driver, which builds or restamps it.
    Away,
    Built(Bytes),
}

#[derive(Debug)]
pub(crate) struct Open<C> {
    pub(crate) serial: u64,
    pub(crate) records: Shaped,
    pub(crate) completion: C,
    pub(crate) since: Now,
    pub(crate) charged: usize,
}

impl<C> Open<C> {
    /// The batch, without room for more.
    pub(crate) fn closed(self) -> Batch<C> {
        Batch {
            serial: self.serial,
            records: self.records.builder.len() as u32,
            content: Content::Records(self.records),
            completion: Some(self.completion),
            since: self.since,
            charged: self.charged,
            stamp: None,
            ordinal: 0,
            built_with: None,
            correlation: None,
            in_doubt: false,
            connections: 0,
        }
    }

    /// Its fate, before it was closed.
    pub(crate) fn resolved(self, result: Result<Appended, DeliveryError>) -> Resolved<C> {
        let records = self.records.builder.len() as u32;
        Resolved { completion: self.completion, result, charged: self.charged, records }
    }
}

#[derive(Debug)]
pub(crate) struct Batch<C> {
    pub(crate) serial: u64,
    pub(crate) content: Content,
    pub(crate) records: u32,
    /// `None`: given up, and only its answer is waited for.
    pub(crate) completion: Option<C>,
    pub(crate) since: Now,
    pub(crate) charged: usize,
    pub(crate) stamp: Option<Stamp>,
    /// How many batches of this partition were stamped before it.
    pub(crate) ordinal: u64,
    /// The stamp that `content` carries.
    pub(crate) built_with: Option<Stamp>,
    /// Set while in flight.
    pub(crate) correlation: Option<u64>,
    /// Whether a try whose answer never came may have stored it.
    pub(crate) in_doubt: bool,
    /// On how many connections it was sent with its present stamp.
    pub(crate) connections: u32,
}
