//! What can happen, and what is said over the network.

use crate::coordinator::GroupAnswer;
use crate::disk::Entry;
use crate::transform::Part;
use std::fmt;
use weir_core::cluster::ClusterAsk;
use weir_core::deploy::keys::Lane;
use weir_core::group::GroupAsk;
use weir_core::ids::{Incarnation, LeaderEpoch, NodeId, Offset, PartitionId};
use weir_core::partition::messages::{EpochStart, Follow, FollowAnswer, Push, Report};
use weir_core::partition::producers::ProducerBatch;
use weir_core::partition::view::PartitionView;
use weir_core::wire::{ErrorCode, Outcome};

/// Who sends and receives: a node's number, or that of a client, from [`CLIENTS`] on.
pub type Addr = u32;

/// The first client's address.
pub const CLIENTS: Addr = 100;

/// Something that happens at a moment.
#[expect(missing_docs, reason = "the fields' types say what they are")]
#[derive(Debug)]
pub enum Event {
    /// A message arrives.
    Deliver { from: Addr, to: Addr, message: Message },
    /// A node looks at its timers.
    Tick { node: Addr, run: u64 },
    /// A sync of a node's disk is over.
    Synced { node: Addr, run: u64, era: u64, ends: Vec<(PartitionId, u64, Offset)> },
    /// A partition's log was cut, or dropped for an empty one.
    Cut { node: Addr, run: u64, era: u64, partition: PartitionId, cut: Cut },
    /// A log says what it holds, to whoever is to lead.
    View { node: Addr, run: u64, era: u64, partition: PartitionId },
    /// A leader's snapshot for a follower that begins anew may be ready.
    Snapshot { node: Addr, run: u64, snapshot: Snapshot },
    /// A node's failed disk was opened anew.
    Reopened { node: Addr, run: u64 },
    /// A module that a lane ran is done.
    Ran { node: Addr, run: u64, lane: usize, serial: u64 },
    /// A node has room for a part that was brought.
    Room { node: Addr, run: u64, lane: Lane, to: PartitionId, serial: u64 },
    /// A node starts.
    Start { node: Addr },
    /// The controllers look at their timers.
    Control,
    /// An ask that a controller took was replicated, or not.
    Replicated { term: u64, ask: ClusterAsk },
    /// A client looks at its timers.
    Client { client: Addr },
    /// Something breaks.
    Fault,
    /// A fault ends.
    Mend(Mend),
}

impl Event {
    /// Writes what makes this event this one. Entries go by their content's number: they are most
    /// of what there is to write, and nearly all of it is said by that.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn trace(&self, at: u64, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Event::Deliver { from, to, message: Message::Push(partition, push, entries) } => {
                write!(out, "{at} push {from} {to} {partition} {}", push.high_watermark)?;
                entries.iter().try_for_each(|entry| write!(out, " {}", entry.id))
            }
            Event::Deliver {
                from,
                to,
                message: Message::Fetched { partition, at: place, fetched },
            } => {
                write!(out, "{at} fetched {from} {to} {partition} {place} {}", fetched.order)?;
                fetched.entries.iter().try_for_each(|entry| write!(out, " {}", entry.id))
            }
            Event::Deliver { from, to, message: Message::Metadata { committed } } => {
                write!(out, "{at} metadata {from} {to} {committed}")
            }
            Event::Deliver { from, to, message: Message::Report(partition, report) } => {
                let (node, end) = (report.node, report.durable_end);
                write!(out, "{at} report {from} {to} {partition} {node} {end}")
            }
            Event::Deliver { from, to, message: Message::Heartbeat { node, incarnation } } => {
                write!(out, "{at} heartbeat {from} {to} {node} {incarnation}")
            }
            // Encoded: within a view producers are in no order.
            Event::Deliver { from, to, message: Message::Answer(partition, answer, view) } => {
                write!(out, "{at} answer {from} {to} {partition} {answer:?}")?;
                view.iter().try_for_each(|view| write!(out, " {:?}", &view.encode()[..]))
            }
            Event::Cut { node, partition, cut: Cut::Reset { start, epochs, snapshot }, .. } => {
                let view = snapshot.encode();
                write!(out, "{at} reset {node} {partition} {start} {epochs:?} {:?}", &view[..])
            }
            Event::Snapshot { node, snapshot: Snapshot { partition, to, .. }, .. } => {
                write!(out, "{at} snapshot {node} {partition} {to}")
            }
            other => write!(out, "{at} {other:?}"),
        }
    }
}

/// A snapshot on its way to a follower.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Of which partition.
    pub partition: PartitionId,
    /// For whom.
    pub to: NodeId,
    /// The answer that it belongs to.
    pub answer: FollowAnswer,
    /// What the log said, once it was asked.
    pub view: Option<Box<PartitionView>>,
    /// Until when that may become committed.
    pub until: u64,
}

/// How a log is cut.
#[expect(missing_docs, reason = "the fields' types say what they are")]
#[derive(Clone, Debug)]
pub enum Cut {
    /// So that it ends here.
    Truncate(Offset),
    /// To nothing; the new one begins with the leader's snapshot.
    Reset { start: Offset, epochs: Vec<EpochStart>, snapshot: Box<PartitionView> },
}

/// The end of a fault.
#[expect(missing_docs, reason = "the fields' types say what they are")]
#[derive(Clone, Debug)]
pub enum Mend {
    /// Messages pass again.
    Link { from: Addr, to: Addr },
    /// A disk has room again.
    Room { node: Addr },
    /// A disk is fast again.
    Fast { node: Addr },
}

/// What is said.
#[expect(missing_docs, reason = "the fields' types say what they are")]
#[derive(Clone, Debug)]
pub enum Message {
    /// To all controllers: something is to be decided.
    Ask(ClusterAsk),
    /// To all controllers: a node lives.
    Heartbeat { node: NodeId, incarnation: Incarnation },
    /// To a node: this life is over.
    RegisterAnew { incarnation: Incarnation },
    /// To a node: so many asks are committed. (The asks themselves come with it.)
    Metadata { committed: usize },
    /// Follower to leader.
    Follow(PartitionId, Follow),
    /// Leader to follower; a reset comes with a snapshot.
    Answer(PartitionId, FollowAnswer, Option<Box<PartitionView>>),
    /// Leader to follower.
    Push(PartitionId, Push, Vec<Entry>),
    /// Follower to leader.
    Report(PartitionId, Report),
    /// Client to leader: the connection, and the frame's number on its stream to that node.
    Produce {
        partition: PartitionId,
        stream: (u64, u64),
        correlation: u64,
        batch: ProducerBatch,
        id: u64,
    },
    /// Leader to client.
    Produced {
        partition: PartitionId,
        connection: u64,
        correlation: u64,
        result: Result<Offset, Refusal>,
    },
    /// Client to a replica.
    Fetch { partition: PartitionId, at: Offset },
    /// Distributor to the leader of a destination.
    Part { correlation: u64, lane: Lane, offset: Offset, part: Part },
    /// The answer: the mark, or not now.
    Taken { correlation: u64, next: Option<Offset> },
    /// Member to coordinator.
    Group { correlation: u64, ask: GroupAsk },
    /// Coordinator to member.
    Grouped { correlation: u64, answer: GroupAnswer },
    /// A replica to a client.
    Fetched { partition: PartitionId, at: Offset, fetched: Fetched },
}

/// What a replica hands out.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Counts the answers of all nodes, in the order in which they were made.
    pub order: u64,
    /// Where its log begins.
    pub log_start: Offset,
    /// The leader epoch in which this was said.
    pub epoch: LeaderEpoch,
    /// The end of what is committed, if it may be told.
    pub watermark: Option<Offset>,
    /// Entries from the offset asked for on.
    pub entries: Vec<Entry>,
}

/// Why a batch was not stored, or not known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As the broker says it.
    pub code: ErrorCode,
    /// Whether it is stored all the same.
    pub outcome: Outcome,
}
