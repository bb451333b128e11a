//! A batch on its way: open, queued, in flight. See [`super::partition`] for its states.

use bytes::Bytes;
use weir_core::wire::frame::Appended;

use super::parts::{Now, Resolved, Shaped, Stamp};
use crate::error::DeliveryError;

#[derive(Debug)]
pub(super) enum Content {
    Records(Shaped),
    /// With the driver, which builds or restamps it.
    Away,
    Built(Bytes),
}

#[derive(Debug)]
pub(super) struct Open<C> {
    pub(super) serial: u64,
    pub(super) records: Shaped,
    pub(super) completion: C,
    pub(super) since: Now,
    pub(super) charged: usize,
}

impl<C> Open<C> {
    /// The batch, without room for more.
    pub(super) fn closed(self) -> Batch<C> {
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
    pub(super) fn resolved(self, result: Result<Appended, DeliveryError>) -> Resolved<C> {
        let records = self.records.builder.len() as u32;
        Resolved { completion: self.completion, result, charged: self.charged, records }
    }
}

#[derive(Debug)]
pub(super) struct Batch<C> {
    pub(super) serial: u64,
    pub(super) content: Content,
    pub(super) records: u32,
    /// `None`: given up, and only its answer is waited for.
    pub(super) completion: Option<C>,
    pub(super) since: Now,
    pub(super) charged: usize,
    pub(super) stamp: Option<Stamp>,
    /// How many batches of this partition were stamped before it.
    pub(super) ordinal: u64,
    /// The stamp that `content` carries.
    pub(super) built_with: Option<Stamp>,
    /// Set while in flight.
    pub(super) correlation: Option<u64>,
    /// Whether a try whose answer never came may have stored it.
    pub(super) in_doubt: bool,
    /// On how many connections it was sent with its present stamp.
    pub(super) connections: u32,
}
