//! The invariants, one file each. They see everything that happens, and know more than any node.

pub mod acked;
pub mod converge;
pub mod dense;
pub mod group_owner;
pub mod insync;
pub mod lane_positions;
pub mod logs_equal;
pub mod one_leader;
pub mod positions;
pub mod sequences;
pub mod transforms;
pub mod watermark;

use crate::disk::{Entry, Log};
use crate::event::{Addr, Fetched};
use crate::node::{Node, Reply};
use crate::queue::Micros;
use crate::transform::{Content, Deployed};
use std::collections::{BTreeMap, BTreeSet};
use weir_core::cluster::Cluster;
use weir_core::group::{Generation, GroupChange, MemberId, Slot};
use weir_core::ids::{DiskId, LeaderEpoch, NodeId, Offset, PartitionId};
use weir_core::partition::producers::{ProducerBatch, SequenceError};
use weir_core::wire::Outcome;
use weir_producer::DeliveryError;

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker saw it.
    pub checker: &'static str,
    /// What it saw.
    pub text: String,
}

/// What was seen, by all checkers.
pub type Violations = Vec<Violation>;

/// Most violations that are kept.
const VIOLATIONS_MAX: usize = 100;

/// What occurred in a run: invariants say nothing of what never did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Lanes that began, here or elsewhere, anew or not.
    pub lanes_begun: u64,
    /// Entries of lanes that were committed.
    pub runs: u64,
    /// Of reads of input, those from another node.
    pub read_away: u64,
    /// How often retention was before a lane.
    pub skipped: u64,
    /// Parts of outboxes that were committed at their destinations.
    pub parts: u64,
    /// How often an outbox was trimmed.
    pub outbox_trims: u64,
    /// Connections of producers that broke.
    pub disconnects: u64,
    /// Batches that did not fit, as far as their leader knew.
    pub doubts: u64,
    /// Batches that producers gave up.
    pub given_up: u64,
    /// Logs that began anew with keyed state in the snapshot.
    pub snapshots: u64,
    /// Logs that began anew with a snapshot of a later end than they began at.
    pub snapshots_ahead: u64,
}

impl std::ops::AddAssign for Coverage {
    fn add_assign(&mut self, more: Coverage) {
        self.lanes_begun += more.lanes_begun;
        self.runs += more.runs;
        self.read_away += more.read_away;
        self.skipped += more.skipped;
        self.parts += more.parts;
        self.outbox_trims += more.outbox_trims;
        self.disconnects += more.disconnects;
        self.doubts += more.doubts;
        self.given_up += more.given_up;
        self.snapshots += more.snapshots;
        self.snapshots_ahead += more.snapshots_ahead;
    }
}

/// All checkers.
#[derive(Default)]
pub struct Checks {
    /// What they saw.
    pub violations: Violations,
    /// How many acknowledgements were given: a run without any checks nothing.
    pub acknowledged: u64,
    /// How many leaderships began.
    pub elections: u64,
    /// How many logs were cut since they differed from their leader's, and how many began anew
    /// since their leader's no longer went back far enough.
    pub cuts: (u64, u64),
    /// What entries of the groups partition hold, by their content's number.
    pub contents: BTreeMap<u64, GroupChange>,
    /// What entries of lanes and destinations hold, likewise.
    pub made: BTreeMap<u64, Content>,
    /// What occurred.
    pub coverage: Coverage,
    acked: acked::Acked,
    dense: dense::Dense,
    group_owner: group_owner::GroupOwner,
    insync: insync::InSyncHolds,
    logs_equal: logs_equal::LogsEqual,
    lane_positions: lane_positions::LanePositions,
    one_leader: one_leader::OneLeader,
    positions: positions::Positions,
    sequences: sequences::Sequences,
    transforms: transforms::Transforms,
    watermark: watermark::Watermark,
    /// How far each run of a node was looked at, per partition.
    looked: BTreeMap<(Addr, u64, PartitionId), Offset>,
}

impl Checks {
    /// Notes a violation.
    pub fn fail(&mut self, checker: &'static str, text: String) {
        note(&mut self.violations, checker, text);
    }

    /// An entry is handed to a log.
    pub fn written(&mut self, node: Addr, partition: PartitionId, log: &Log, entry: &Entry) {
        self.dense.written(&mut self.violations, node, partition, log, entry);
    }

    /// A leader begins with this log.
    pub fn led(&mut self, node: Addr, partition: PartitionId, epoch: LeaderEpoch, log: &Log) {
        self.elections += 1;
        self.one_leader.acts(&mut self.violations, partition, epoch, node);
        self.acked.led(&mut self.violations, partition, (node, epoch), log);
    }

    /// A leader acknowledges.
    pub fn acked(
        &mut self,
        now: Micros,
        (node, epoch): (Addr, LeaderEpoch),
        partition: PartitionId,
        reply: &Reply,
        insync: BTreeMap<NodeId, DiskId>,
    ) {
        self.acknowledged += 1;
        self.one_leader.acts(&mut self.violations, partition, epoch, node);
        self.acked.acked(now, (partition, epoch), reply, insync);
        self.insync.acked(partition, reply.base, reply.id);
    }

    /// An event is over: what do disks hold now?
    pub fn look(&mut self, cluster: &Cluster, changed: bool, nodes: &[Node]) {
        let lost = self.acked.lost_disks();
        self.insync.look(&mut self.violations, (cluster, changed), nodes, lost);
    }

    /// A client was told that its batch is stored.
    pub fn confirmed(&mut self, partition: PartitionId, id: u64, base: Offset) {
        self.acked.confirmed(&mut self.violations, partition, id, base);
    }

    /// A producer gives a batch up.
    pub fn gave_up(&mut self, partition: PartitionId, id: u64, error: &DeliveryError) {
        self.coverage.given_up += 1;
        if error.outcome() == Outcome::No {
            self.sequences.denied(&mut self.violations, partition, id);
        }
    }

    /// A producer says once more what became of a batch.
    pub fn resolved_twice(&mut self, id: u64) {
        self.fail(sequences::NAME, format!("{id} was resolved twice"));
    }

    /// A replica takes everything below `end` for committed.
    pub fn committed(
        &mut self,
        (node, run): (Addr, u64),
        (partition, lanes): (PartitionId, &[Deployed]),
        leads: bool,
        end: Offset,
        log: &Log,
    ) {
        let from = self.looked.entry((node, run, partition)).or_default();
        if end <= *from {
            return;
        }
        let entries = log.read(*from, end, usize::MAX);
        *from = end;
        for entry in &entries {
            self.logs_equal.committed(&mut self.violations, node, partition, entry);
            if leads {
                self.sequences.committed(&mut self.violations, partition, entry);
                self.dense.committed(&mut self.violations, partition, entry);
                if let Some(change) = self.contents.get(&entry.id) {
                    self.positions.committed(&mut self.violations, entry.base, change);
                }
                let seen = &mut self.violations;
                self.lane_positions.committed(seen, (partition, lanes), entry);
                let known = (&self.logs_equal, &self.made);
                self.transforms.committed(seen, (partition, lanes), entry, known);
            }
        }
    }

    /// Retention drops what lies below `start`.
    pub fn trimmed(&mut self, partition: PartitionId, start: Offset) {
        self.logs_equal.trimmed(partition, start);
    }

    /// A consumer was told something.
    pub fn shown(&mut self, consumer: Addr, partition: PartitionId, fetched: &Fetched) {
        self.watermark.shown(&mut self.violations, consumer, partition, fetched);
        for entry in &fetched.entries {
            self.logs_equal.committed(&mut self.violations, consumer, partition, entry);
        }
    }

    /// A coordinator changes the group by an entry of this content.
    pub fn changed(&mut self, id: u64, change: GroupChange) {
        for (&member, known) in &change.members {
            if known.is_none() {
                self.group_owner.ended(member);
            }
        }
        self.contents.insert(id, change);
    }

    /// A member begins to work on a partition.
    pub fn works(
        &mut self,
        who: (Addr, MemberId),
        slot: Slot,
        since: Generation,
        position: Offset,
    ) {
        self.group_owner.works(&mut self.violations, who, slot, since);
        self.positions.works(&mut self.violations, slot, since, position);
    }

    /// A member works on a partition no longer.
    pub fn stops(&mut self, addr: Addr, slot: Slot) {
        self.group_owner.stops(addr, slot);
    }

    /// A member was told that its position is stored.
    pub fn stored(&mut self, slot: Slot, since: Generation, position: Offset) {
        self.positions.stored(slot, since, position);
    }

    /// A disk is gone, with everything on it.
    pub fn disk_lost(&mut self, disk: DiskId) {
        self.acked.disk_lost(disk);
    }

    /// Disks that are gone.
    pub fn lost_disks(&self) -> &BTreeSet<DiskId> {
        self.acked.lost_disks()
    }

    /// A replica stopped since logs contradict each other, which never happens to sound disks.
    pub fn halted(&mut self, node: Addr, partition: PartitionId, why: &str) {
        self.fail(logs_equal::NAME, format!("node {node} halted {partition}: {why}"));
    }

    /// A leader refused a batch for good. Producers never have more in flight than is remembered,
    /// but copies of old frames may come late; and a producer is unknown where its first batch was
    /// overtaken.
    pub fn sequence_refused(
        &mut self,
        partition: PartitionId,
        batch: &ProducerBatch,
        error: SequenceError,
    ) {
        let new = !self.sequences.knows(partition, batch.id);
        match error {
            SequenceError::Gap { .. } | SequenceError::Forgotten { .. } => return,
            SequenceError::UnknownProducer if new => return,
            // Of a connection that was lost before the producer began anew.
            SequenceError::Fenced { .. } => return,
            _ => {}
        }
        self.fail(sequences::NAME, format!("{partition}: {batch:?} refused: {error}"));
    }

    /// The end: what the logs hold now.
    pub fn ended(&mut self, node: Addr, partition: PartitionId, committed: Offset, log: &Log) {
        for entry in log.read(Offset::ZERO, committed, usize::MAX) {
            self.logs_equal.committed(&mut self.violations, node, partition, &entry);
        }
    }

    /// What the leader of a partition says of lanes in the end.
    pub fn ended_state(&mut self, lanes: &[Deployed], partition: PartitionId, log: &Log) {
        let view = log.view();
        self.transforms.ended_state(&mut self.violations, (partition, lanes), &view);
    }

    /// In the end lanes have read everything, unless disks that are needed are gone.
    pub fn ended_lanes(&mut self, lanes: &[Deployed], whole: bool) {
        if whole {
            self.transforms.ended(&mut self.violations, lanes, &self.logs_equal);
        }
    }

    /// What was acknowledged must be in the log of whoever leads in the end.
    pub fn ended_leader(&mut self, node: Addr, partition: PartitionId, e: LeaderEpoch, log: &Log) {
        self.acked.led(&mut self.violations, partition, (node, e), log);
    }
}

/// Notes a violation, unless there are very many.
pub fn note(violations: &mut Violations, checker: &'static str, text: String) {
    if violations.len() < VIOLATIONS_MAX {
        violations.push(Violation { checker, text });
    }
}
