//! The machine against a simulated node and network, seeded: connections that break with batches
//! and answers under way, frames of a broken connection that the node gets to only later, answers
//! that say "not now" or "I do not know", producers forgotten and fenced, deadlines that pass.
//!
//! Checked at every step and at the end, per partition:
//! - every record is resolved exactly once;
//! - a confirmed record is at the offset that was confirmed;
//! - a record whose error says that it did not happen is not in the log;
//! - no record is in the log twice, and the log's order is that of acceptance (idempotent);
//! - never are more batches under way than allowed.
//!
//! The node's side is the real table of producers from `weir_core`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use weir_core::ids::{Offset, PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_core::partition::producers::{ProducerBatch, ProducerTable, Sequence, SequenceError};
use weir_core::record::{Compression, RecordBatch};
use weir_core::wire::frame::{Appended, ProduceAck, ProduceRefusal, Reached};
use weir_core::wire::{ErrorCode, Outcome};

use crate::machine::Machine;
use crate::parts::{BatchShape, Now, PartitionKey, RecordParts, Resolved, Rules};

const PARTITIONS: u32 = 3;
const SHAPE: BatchShape = BatchShape { compression: Compression::None, bytes_max: 160 };

/// What may go wrong, each as a chance in 1,000 per step or frame.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    disconnect: u32,
    /// Frames of a lost connection are handled later, not at once or never.
    late_frames: bool,
    turned_away: u32,
    unknown: u32,
    rejected: u32,
    forgotten: u32,
    fenced: u32,
    /// Longest step of the clock.
    step_max_ms: u64,
}

/// One partition on the node.
#[derive(Debug, Default)]
struct Log {
    records: Vec<u64>,
    table: ProducerTable,
}

#[derive(Debug)]
struct Frame {
    correlation: u64,
    partition: u32,
    bytes: Bytes,
}

#[derive(Debug)]
struct Simulation {
    random: fastrand::Rng,
    faults: Faults,
    rules: Rules,
    now: Now,
    machine: Machine<u64>,
    slots: Vec<usize>,
    connected: bool,
    to_node: VecDeque<Frame>,
    to_client: VecDeque<ProduceAck>,
    /// Of lost connections, to be handled some time.
    late: VecDeque<Frame>,
    logs: BTreeMap<u32, Log>,
    next_id: i64,
    next_record: u64,
    next_batch: u64,
    /// Records of each batch that is not resolved, and its partition.
    batches: HashMap<u64, (u32, Vec<u64>)>,
    confirmed: usize,
    failed_no: HashSet<u64>,
    failed_unknown: usize,
}

impl Simulation {
    fn new(seed: u64, rules: Rules, faults: Faults) -> Simulation {
        let mut machine = Machine::new(rules, rules.idempotent.then_some(ProducerId(0)), seed);
        let key = |partition| PartitionKey { topic: TopicId(1), partition };
        let slots = (0..PARTITIONS).map(|p| machine.slot(key(PartitionIndex(p)), SHAPE));
        let slots = slots.collect();
        Simulation {
            random: fastrand::Rng::with_seed(seed),
            faults,
            rules,
            now: Now::ZERO,
            machine,
            slots,
            connected: false,
            to_node: VecDeque::new(),
            to_client: VecDeque::new(),
            late: VecDeque::new(),
            logs: (0..PARTITIONS).map(|p| (p, Log::default())).collect(),
            next_id: 1,
            next_record: 0,
            next_batch: 0,
            batches: HashMap::new(),
            confirmed: 0,
            failed_no: HashSet::new(),
            failed_unknown: 0,
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random.u32(0..1_000) < per_mille
    }

    fn step(&mut self) {
        match self.random.u32(0..12) {
            0..3 => self.send_record(),
            3..5 => self.write(),
            5..7 => self.node_handles(),
            7..9 => self.answer_arrives(),
            9 => self.time_passes(),
            10 => self.change_connection(),
            _ => self.handle_late(),
        }
        if self.machine.wants_id() && self.random.bool() {
            self.machine.handle_id(ProducerId(self.next_id));
            self.next_id += 1;
        }
        self.settle();
        for &slot in &self.slots {
            assert!(self.machine.in_flight(slot) <= self.rules.in_flight_max);
        }
    }

    fn send_record(&mut self) {
        let partition = self.random.u32(0..PARTITIONS);
        let id = self.next_record;
        self.next_record += 1;
        let value = id.to_le_bytes();
        let record =
            RecordParts { timestamp: TimestampMs(0), key: None, value: Some(&value), headers: &[] };
        let (slot, now, fresh) = (self.slots[partition as usize], self.now, self.next_batch);
        let pushed = self.machine.handle_record(|| now, slot, &record, 1, || fresh);
        let pushed = pushed.expect("a small record is taken");
        self.next_batch += u64::from(pushed.opened);
        let (_, records) =
            self.batches.entry(pushed.completion).or_insert_with(|| (partition, Vec::new()));
        assert_eq!(records.len(), pushed.index as usize);
        records.push(id);
    }

    fn write(&mut self) {
        let Some(outgoing) = self.machine.poll_send(self.now) else {
            return;
        };
        assert!(self.connected, "nothing is sent without a connection");
        let (correlation, partition) = (outgoing.correlation, outgoing.key.partition.0);
        let bytes = self.machine.handle_built(outgoing.build()).expect("it can be built");
        self.to_node.push_back(Frame { correlation, partition, bytes });
    }

    fn node_handles(&mut self) {
        if let Some(frame) = self.to_node.pop_front() {
            let ack = self.handle_frame(&frame);
            self.to_client.push_back(ack);
        }
    }

    fn handle_late(&mut self) {
        if let Some(frame) = self.late.pop_front() {
            self.handle_frame(&frame);
        }
    }

    fn answer_arrives(&mut self) {
        if let Some(ack) = self.to_client.pop_front() {
            self.machine.handle_ack(self.now, ack).expect("it was asked for");
        }
    }

    fn time_passes(&mut self) {
        self.now += Duration::from_millis(self.random.u64(0..=self.faults.step_max_ms));
        self.machine.handle_tick(self.now);
    }

    fn change_connection(&mut self) {
        if !self.connected {
            self.connect();
        } else if self.chance(self.faults.disconnect) {
            self.disconnect();
        }
    }

    fn connect(&mut self) {
        self.connected = true;
        self.machine.handle_connected(self.now);
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.to_client.clear();
        let mut frames = std::mem::take(&mut self.to_node);
        // What reaches the node is a beginning of what was sent.
        frames.truncate(self.random.usize(0..=frames.len()));
        if self.faults.late_frames {
            self.late.append(&mut frames);
        }
        frames.iter().for_each(|frame| drop(self.handle_frame(frame)));
        self.machine.handle_disconnected("lost");
    }

    fn handle_frame(&mut self, frame: &Frame) -> ProduceAck {
        let result = self.decide(frame);
        ProduceAck { correlation: frame.correlation, result }
    }

    fn decide(&mut self, frame: &Frame) -> Result<Appended, ProduceRefusal> {
        if self.chance(self.faults.turned_away) {
            return Err(refusal(ErrorCode::Busy, Outcome::No));
        }
        if self.chance(self.faults.rejected) {
            return Err(refusal(ErrorCode::InvalidBatch, Outcome::No));
        }
        let unknown = self.chance(self.faults.unknown);
        if unknown && self.random.bool() {
            return Err(refusal(ErrorCode::Timeout, Outcome::Unknown));
        }
        if self.chance(self.faults.fenced) {
            self.fence(frame);
        }
        if self.chance(self.faults.forgotten) && self.nothing_unconfirmed() {
            self.logs.values_mut().for_each(|log| log.table = ProducerTable::default());
        }
        let appended = self.append(frame)?;
        if unknown { Err(refusal(ErrorCode::Timeout, Outcome::Unknown)) } else { Ok(appended) }
    }

    fn append(&mut self, frame: &Frame) -> Result<Appended, ProduceRefusal> {
        let batch = RecordBatch::decode(frame.bytes.clone()).expect("a valid batch");
        let header = batch.header();
        let log = self.logs.get_mut(&frame.partition).expect("it exists");
        let mut appended = Appended {
            base_offset: Offset(log.records.len() as i64),
            append_time: TimestampMs(0),
            reached: Reached::LeaderDisk,
            duplicate: false,
        };
        if header.producer_id.is_some() {
            let numbers = numbers(&batch);
            match log.table.check(&numbers) {
                Ok(Sequence::Next) => log.table.record(&numbers, appended.base_offset),
                Ok(Sequence::Duplicate { base_offset }) => {
                    appended.base_offset = base_offset;
                    appended.duplicate = true;
                    return Ok(appended);
                }
                Err(error) => return Err(refusal(code_of(error), Outcome::No)),
            }
        }
        let records = batch.records().expect("valid");
        let ids = records.iter().map(|record| record.value.expect("it has one").try_into());
        log.records.extend(ids.map(|id| u64::from_le_bytes(id.expect("eight bytes"))));
        Ok(appended)
    }

    /// Somebody takes the producer's id over.
    fn fence(&mut self, frame: &Frame) {
        let batch = RecordBatch::decode(frame.bytes.clone()).expect("a valid batch");
        let mut numbers = numbers(&batch);
        if numbers.id.is_some() && numbers.epoch < i16::MAX {
            numbers.epoch = i16::MAX;
            numbers.base_sequence = 0;
            let log = self.logs.get_mut(&frame.partition).expect("it exists");
            log.table.record(&numbers, Offset(log.records.len() as i64));
        }
    }

    /// Whether everything in the logs is confirmed or has failed, so that forgetting a producer
    /// cannot make a batch be taken for a new one.
    fn nothing_unconfirmed(&self) -> bool {
        let stored: HashSet<u64> =
            self.logs.values().flat_map(|log| log.records.iter().copied()).collect();
        let mut waiting = self.batches.values().flat_map(|(_, records)| records);
        self.late.is_empty() && waiting.all(|record| !stored.contains(record))
    }

    fn settle(&mut self) {
        for Resolved { completion, result, charged, records } in self.machine.poll_resolved() {
            let (partition, ids) = self.batches.remove(&completion).expect("resolved once");
            assert_eq!((charged, records as usize), (ids.len(), ids.len()));
            match result {
                Ok(appended) => {
                    let log = &self.logs[&partition].records;
                    let at = appended.base_offset.0 as usize;
                    assert_eq!(log.get(at..at + ids.len()), Some(&ids[..]), "it is where it was");
                    self.confirmed += ids.len();
                }
                Err(error) if error.outcome() == Outcome::No => self.failed_no.extend(ids),
                Err(_) => self.failed_unknown += ids.len(),
            }
        }
    }

    /// All faults end; everything must resolve.
    fn heal(&mut self) {
        self.faults = Faults { step_max_ms: 30, ..Faults::default() };
        while !self.late.is_empty() {
            self.handle_late();
        }
        self.machine.handle_flush();
        for _ in 0..100_000 {
            if self.machine.is_idle() && self.batches.is_empty() {
                return;
            }
            if !self.connected {
                self.connect();
            }
            if self.machine.wants_id() {
                self.machine.handle_id(ProducerId(self.next_id));
                self.next_id += 1;
            }
            self.write();
            self.node_handles();
            self.answer_arrives();
            self.time_passes();
            self.settle();
        }
        panic!("not everything was resolved: {:?}", self.batches);
    }

    fn check_logs(&self) {
        for (partition, log) in &self.logs {
            let mut seen = HashSet::new();
            for id in &log.records {
                assert!(!self.failed_no.contains(id), "{id} did not happen, it was said");
                assert!(seen.insert(*id), "{id} is in partition {partition} twice");
            }
            assert!(log.records.is_sorted(), "partition {partition}: {:?}", log.records);
        }
    }
}

fn numbers(batch: &RecordBatch) -> ProducerBatch {
    let header = batch.header();
    ProducerBatch {
        id: header.producer_id,
        epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        count: header.record_count,
    }
}

fn refusal(code: ErrorCode, outcome: Outcome) -> ProduceRefusal {
    ProduceRefusal { code, outcome, message: "no".into() }
}

fn code_of(error: SequenceError) -> ErrorCode {
    match error {
        SequenceError::Gap { .. } => ErrorCode::SequenceGap,
        SequenceError::Forgotten { .. } => ErrorCode::SequenceForgotten,
        SequenceError::Fenced { .. } => ErrorCode::ProducerFenced,
        SequenceError::UnknownProducer => ErrorCode::UnknownProducer,
        SequenceError::Malformed => ErrorCode::InvalidBatch,
    }
}

fn rules() -> Rules {
    Rules {
        linger: Duration::from_millis(20),
        eager: true,
        in_flight_max: 5,
        delivery_timeout: Duration::from_secs(3_600),
        idempotent: true,
    }
}

/// Runs many seeds. Says which one failed, so that it can be run alone.
fn run(
    seeds: std::ops::Range<u64>,
    rules: Rules,
    faults: Faults,
    check: impl Fn(&Simulation),
) -> Simulation {
    let mut last = None;
    for seed in seeds {
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut simulation = Simulation::new(seed, rules, faults);
            (0..600).for_each(|_| simulation.step());
            simulation.heal();
            check(&simulation);
            simulation
        }));
        match attempt {
            Ok(simulation) => last = Some(simulation),
            Err(panic) => {
                eprintln!("seed {seed} with {rules:?} and {faults:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    last.expect("at least one seed")
}

/// Goal: connections that break lose nothing, store nothing twice and keep the order, and with
/// time enough every record is confirmed.
#[test]
fn lost_connections_are_ridden_through() {
    let faults = Faults { disconnect: 300, step_max_ms: 10, ..Faults::default() };
    run(0..300, rules(), faults, |simulation| {
        simulation.check_logs();
        assert_eq!(simulation.confirmed as u64, simulation.next_record);
    });
}

/// Goal: the same with a node that is busy, or does not know, now and then.
#[test]
fn a_node_that_turns_batches_away_changes_nothing() {
    let faults = Faults {
        disconnect: 100,
        turned_away: 200,
        unknown: 100,
        step_max_ms: 50,
        ..Faults::default()
    };
    run(0..300, rules(), faults, |simulation| {
        simulation.check_logs();
        assert_eq!(simulation.confirmed as u64, simulation.next_record);
    });
}

/// Goal: a batch that is refused for good fails alone; those behind it are stored all the same.
#[test]
fn a_rejected_batch_fails_alone() {
    let faults = Faults { disconnect: 100, rejected: 100, step_max_ms: 50, ..Faults::default() };
    run(0..300, rules(), faults, |simulation| {
        simulation.check_logs();
        let failed = simulation.failed_no.len() + simulation.failed_unknown;
        assert_eq!((simulation.confirmed + failed) as u64, simulation.next_record);
        assert!(simulation.confirmed > 0);
    });
}

/// Goal: a producer that the node has forgotten, or given to somebody else, starts anew without
/// losing or doubling anything.
#[test]
fn forgotten_and_fenced_producers_start_anew() {
    let faults =
        Faults { disconnect: 50, forgotten: 200, fenced: 50, step_max_ms: 50, ..Faults::default() };
    run(0..300, rules(), faults, |simulation| {
        simulation.check_logs();
        let failed = simulation.failed_no.len() + simulation.failed_unknown;
        assert_eq!((simulation.confirmed + failed) as u64, simulation.next_record);
    });
}

/// Goal: with everything at once, frames that arrive late from lost connections and deadlines
/// that pass, what is said of each record is true.
#[test]
fn what_is_said_of_each_record_is_true() {
    let faults = Faults {
        disconnect: 300,
        late_frames: true,
        turned_away: 100,
        unknown: 50,
        rejected: 20,
        step_max_ms: 200,
        ..Faults::default()
    };
    let rules = Rules { delivery_timeout: Duration::from_secs(2), ..rules() };
    run(0..1_000, rules, faults, Simulation::check_logs);
}

/// Goal: the same where batches are given up while their frames are still on the way: what was sent
/// behind them on a lost connection must not be sent under another number.
#[test]
fn frames_of_batches_that_were_given_up_arrive_all_the_same() {
    let faults =
        Faults { disconnect: 700, late_frames: true, step_max_ms: 60, ..Faults::default() };
    let rules = Rules { delivery_timeout: Duration::from_millis(150), ..rules() };
    run(0..4_000, rules, faults, Simulation::check_logs);
}

/// Goal: a producer that is not idempotent keeps the order and loses nothing, though a retry may
/// store a batch twice.
#[test]
fn without_idempotence_order_is_kept() {
    let rules = Rules { idempotent: false, in_flight_max: 1, ..rules() };
    let faults = Faults { disconnect: 300, turned_away: 100, step_max_ms: 50, ..Faults::default() };
    run(0..200, rules, faults, |simulation| {
        assert_eq!(simulation.confirmed as u64, simulation.next_record);
        for log in simulation.logs.values() {
            let mut firsts = log.records.clone();
            let mut seen = HashSet::new();
            firsts.retain(|id| seen.insert(*id));
            assert!(firsts.is_sorted(), "{:?}", log.records);
        }
    });
}

/// Goal: the same seed gives the same run.
#[test]
fn runs_can_be_repeated() {
    let faults = Faults { disconnect: 300, turned_away: 100, step_max_ms: 50, ..Faults::default() };
    let twice = [7, 7].map(|seed| run(seed..seed + 1, rules(), faults, Simulation::check_logs));
    assert_eq!(format!("{:?}", twice[0].logs), format!("{:?}", twice[1].logs));
}
