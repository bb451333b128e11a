//! A part of an outbox at its destination: appended once, whoever brings it and how often.
//!
//! The destination remembers, in its own log, how far it has each outbox (the *mark*), and a part
//! is appended in one entry with the mark behind it. Two distributors may bring parts of the same
//! lane for a moment, on the node that led the outbox and on the one that leads it now; so only
//! one part of a lane is on its way into a partition at a time. What they bring is the same: only
//! committed parts are carried, and the offset of a committed part names it for ever.

use super::append::{Appending, append, room};
use super::state::lock;
use crate::broker::Shared;
use crate::cluster::forward;
use crate::session::Session;
use bytes::{Buf, Bytes};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;
use weir_core::deploy::delivery::{Arrival, arrive};
use weir_core::deploy::keys::Lane;
use weir_core::ids::NodeId;
use weir_core::record::RecordBatch;
use weir_core::wire::message::Response;
use weir_core::wire::replica::DeliverHeader;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, PartitionId};

/// Turns that are remembered although nobody may be waiting; then the idle ones are forgotten.
const TURNS_KEPT: usize = 1_024;

/// Held by whoever brings a part.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// Whose turn it is to bring a part of a lane into a partition.
#[derive(Debug, Default)]
pub struct Turns {
    all: Mutex<HashMap<(Lane, PartitionId), Turn>>,
}

impl Turns {
    async fn turn(&self, lane: Lane, to: PartitionId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = lock(&self.all);
            if all.len() >= TURNS_KEPT {
                all.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            all.entry((lane, to)).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// A part on its way into a partition that this node leads.
pub struct Delivery {
    appending: Option<Appending>,
    next: Offset,
    _turn: OwnedMutexGuard<()>,
}

impl Delivery {
    /// Waits until the part is committed. Returns the mark: the destination has all below it.
    ///
    /// # Errors
    /// As [`Appending::committed`].
    ///
    /// # Cancel safety
    /// As [`Appending::committed`].
    pub async fn done(self) -> Result<Offset, WireError> {
        if let Some(appending) = self.appending {
            appending.committed().await?;
        }
        Ok(self.next)
    }
}

/// Appends a part to its destination, which this node leads, unless it is there.
///
/// # Errors
/// There is no such partition, or it is led elsewhere, or offline.
///
/// # Cancel safety
/// Cancel safe: the part is appended or not, and whoever brings it again finds out.
pub async fn deliver(
    shared: &Arc<Shared>,
    part: DeliverHeader,
    batch: RecordBatch,
) -> Result<Delivery, WireError> {
    let DeliverHeader { lane, offset, topic, partition } = part;
    let to = shared.registry.partition(topic, partition).ok_or_else(|| {
        let message = format!("there is no partition {partition} of topic {topic}");
        WireError::new(ErrorCode::UnknownPartition, message)
    })?;
    let turn = shared.deployments.turns.turn(lane, to.id).await;
    // A mark from the log of an earlier leader means something once that is committed.
    to.settled().await?;
    let states = &shared.deployments.states;
    // While a node is to lead and has not read its log, what it knows of marks is older than that
    // log: a part that it took for missing would be appended again, once it leads.
    let before = to.leads_settled();
    let mark = states.mark(lane, to.id);
    match arrive(offset, mark, before, to.leads_settled()) {
        Arrival::There { next } => Ok(Delivery { appending: None, next, _turn: turn }),
        Arrival::Append { fence, next } => {
            let room = room(shared, batch.bytes().len()).await;
            let changes = vec![lane.set_mark(next)];
            let appending = append(shared, states, (&to, fence), Some(batch), changes, room);
            Ok(Delivery { appending: Some(appending), next, _turn: turn })
        }
        Arrival::NotNow => {
            let message = "the partition gets another leader just now; try again";
            Err(WireError::new(ErrorCode::Offline, message))
        }
    }
}

/// Has the node that leads the destination append a part. Returns the mark there.
///
/// # Errors
/// As [`deliver`], or that node cannot be reached.
///
/// # Cancel safety
/// As [`deliver`].
pub async fn send(
    shared: &Arc<Shared>,
    to: NodeId,
    part: DeliverHeader,
    batch: &RecordBatch,
) -> Result<Offset, WireError> {
    let head = Bytes::copy_from_slice(&part.encode());
    let Some(site) = &shared.site else {
        return Err(WireError::new(ErrorCode::Internal, "no other node to send a part to"));
    };
    match forward::part(&site.peers, to, [head, batch.bytes().clone()]).await? {
        Response::Delivered { next } => Ok(next),
        _ => Err(WireError::new(ErrorCode::Protocol, "the node answered another question")),
    }
}

/// Takes a part that another node sent.
///
/// # Errors
/// As [`deliver`]; [`ErrorCode::Unauthorized`] for whoever is no node of the cluster.
///
/// # Cancel safety
/// As [`deliver`].
pub async fn receive(session: &Session, mut body: Bytes) -> Result<Response, WireError> {
    session.member()?;
    let malformed = |what: String| WireError::new(ErrorCode::Protocol, what);
    let part = DeliverHeader::decode(&body);
    let part = part.ok_or_else(|| malformed("a part without its header".to_owned()))?;
    body.advance(DeliverHeader::BYTES);
    let batch = RecordBatch::decode_trusted(body).map_err(|error| malformed(error.to_string()))?;
    let delivery = deliver(&session.shared, part, batch).await?;
    Ok(Response::Delivered { next: delivery.done().await? })
}
