//! An idempotent producer: the SDK's own machine ([`weir_producer::Machine`]), with what lies
//! around it. A connection is a stream of frames to each node: in order, each once, sent again
//! until it is answered or the connection breaks. What was sent on one that broke may arrive all
//! the same.

use crate::ctx::{Ctx, duration};
use crate::event::{Addr, Event, Message, Refusal};
use crate::node::Node;
use crate::queue::{MS, Micros};
use std::collections::BTreeMap;
use std::time::Duration;
use weir_core::ids::{Offset, PartitionId, PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_core::limits;
use weir_core::partition::producers::ProducerBatch;
use weir_core::record::{Compression, RecordBatch};
use weir_core::wire::frame::{Appended, ProduceAck, ProduceRefusal, Reached};
use weir_core::wire::{ErrorCode, Outcome};
use weir_producer::{BatchShape, Machine, PartitionKey, RecordParts, Rules};

/// How often a producer looks at its timers.
const TICK: Micros = 10 * MS;
/// When a frame that is not answered is sent again.
const RESEND: Micros = 60 * MS;
/// When a connection counts as broken on which a frame is not answered.
const TIMEOUT: Micros = 300 * MS;
/// Most batches of a partition that are not confirmed, before no more records are made.
const BATCHES_MAX: usize = 12;
/// Small, so that batches fill up now and then.
const SHAPE: BatchShape = BatchShape { compression: Compression::None, bytes_max: 120 };
/// As the SDK's, and as quick as everything else here. Nothing is given up.
const RULES: Rules = Rules {
    linger: Duration::from_millis(5),
    eager: true,
    in_flight_max: limits::PRODUCER_BATCHES_REMEMBERED,
    delivery_timeout: Duration::from_secs(3_600),
    idempotent: true,
};

/// A producer.
pub struct Producer {
    /// Its address.
    pub addr: Addr,
    /// Batches go by the content of their first record.
    machine: Machine<u64>,
    slots: Vec<(PartitionId, usize)>,
    /// Where batches go that are not confirmed.
    places: BTreeMap<u64, PartitionId>,
    /// Counts connections.
    connection: u64,
    connected: bool,
    connects_at: Micros,
    /// The next frame's number on each stream of this connection.
    numbers: BTreeMap<Addr, u64>,
    /// Whom it takes for the leaders.
    leaders: BTreeMap<PartitionId, Addr>,
    /// Frames that are not answered.
    open: BTreeMap<u64, Open>,
}

struct Open {
    to: Addr,
    sent_at: Micros,
    first_at: Micros,
    message: Message,
}

impl Producer {
    /// A producer for these partitions.
    pub fn new(ctx: &mut Ctx, addr: Addr, partitions: &[PartitionId]) -> Producer {
        ctx.after(100 * MS, Event::Client { client: addr });
        let seed = ctx.random.u64(..);
        let mut machine = Machine::new(RULES, Some(ProducerId(i64::from(addr))), seed);
        let key =
            |id: PartitionId| PartitionKey { topic: TopicId(1), partition: PartitionIndex(id.0) };
        let slots = partitions.iter().map(|&id| (id, machine.slot(key(id), SHAPE))).collect();
        Producer {
            addr,
            machine,
            slots,
            places: BTreeMap::new(),
            connection: 0,
            connected: false,
            connects_at: 0,
            numbers: BTreeMap::new(),
            leaders: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Whether everything it began is confirmed.
    pub fn is_done(&self) -> bool {
        self.machine.is_idle()
    }

    /// Makes new records, and sends what is due.
    pub fn handle_tick(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        ctx.after(TICK, Event::Client { client: self.addr });
        self.make_records(ctx);
        let now = duration(ctx.now);
        self.machine.handle_tick(now);
        if self.machine.wants_id() {
            // Numbers of clients lie below.
            self.machine.handle_id(ProducerId(10_000 + ctx.fresh() as i64));
        }
        let late = self.open.values().any(|open| ctx.now > open.first_at + TIMEOUT);
        if self.connected && (late || (!ctx.healed && ctx.chance(2))) {
            self.disconnect(ctx);
        }
        if !self.connected && ctx.now >= self.connects_at {
            self.connected = true;
            self.connection += 1;
            self.numbers.clear();
            self.machine.handle_connected(now);
        }
        let due = ctx.now.saturating_sub(RESEND);
        for open in self.open.values_mut().filter(|open| open.sent_at < due) {
            open.sent_at = ctx.now;
            ctx.send(self.addr, open.to, open.message.clone());
        }
        self.send(ctx, nodes);
        self.settle(ctx);
    }

    fn disconnect(&mut self, ctx: &mut Ctx) {
        self.connected = false;
        self.connects_at = ctx.now + ctx.between(MS, 60 * MS);
        self.open.clear();
        self.leaders.clear();
        self.machine.handle_disconnected("lost");
        ctx.checks.coverage.disconnects += 1;
    }

    fn make_records(&mut self, ctx: &mut Ctx) {
        for &(partition, slot) in &self.slots {
            let waiting = self.places.values().filter(|&&place| place == partition).count();
            if ctx.healed || waiting >= BATCHES_MAX || !ctx.chance(400) {
                continue;
            }
            for _ in 0..ctx.random.u32(1..=4) {
                let id = ctx.fresh();
                let value = id.to_le_bytes();
                let timestamp = TimestampMs(0);
                let record =
                    RecordParts { timestamp, key: None, value: Some(&value), headers: &[] };
                let now = duration(ctx.now);
                let pushed = self.machine.handle_record(|| now, slot, &record, 8, || id);
                let pushed = pushed.expect("a small record is taken");
                self.places.insert(pushed.completion, partition);
            }
        }
    }

    fn send(&mut self, ctx: &mut Ctx, nodes: &[Node]) {
        let now = duration(ctx.now);
        while let Some(outgoing) = self.machine.poll_send(now) {
            let correlation = outgoing.correlation;
            let partition = PartitionId(outgoing.key.partition.0);
            let bytes = self.machine.handle_built(outgoing.build()).expect("it can be built");
            let sent = RecordBatch::decode(bytes).expect("what was built can be read");
            let header = sent.header();
            let batch = ProducerBatch {
                id: header.producer_id,
                epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
                count: header.record_count,
            };
            let id = first_value(&sent);
            let known = self.leaders.get(&partition).copied();
            let Some(to) = known.or_else(|| find_leader(ctx, nodes, partition)) else {
                self.answer(ctx, correlation, Err(Refusal::no(ErrorCode::NotLeader)));
                continue;
            };
            self.leaders.insert(partition, to);
            let number = self.numbers.entry(to).or_default();
            let stream = (self.connection, *number);
            *number += 1;
            let addr = self.addr;
            ctx.say(|| format!("producer {addr} sends {id} as {correlation} to {to}: {batch:?}"));
            let message = Message::Produce { partition, stream, correlation, batch, id };
            ctx.send(self.addr, to, message.clone());
            let (sent_at, first_at) = (ctx.now, ctx.now);
            self.open.insert(correlation, Open { to, sent_at, first_at, message });
        }
    }

    /// A node answered.
    pub fn handle_produced(
        &mut self,
        ctx: &mut Ctx,
        (partition, connection): (PartitionId, u64),
        correlation: u64,
        result: Result<Offset, Refusal>,
    ) {
        // What comes twice, or on a connection that is gone, no stream would hand out.
        let current = self.connected && connection == self.connection;
        if !current || self.open.remove(&correlation).is_none() {
            return;
        }
        if result.is_err_and(|refusal| refusal.code == ErrorCode::NotLeader) {
            self.leaders.remove(&partition);
        }
        let addr = self.addr;
        ctx.say(|| format!("producer {addr} hears of {correlation}: {result:?}"));
        self.answer(ctx, correlation, result);
        self.settle(ctx);
    }

    fn answer(&mut self, ctx: &Ctx, correlation: u64, result: Result<Offset, Refusal>) {
        let appended = |base_offset| Appended {
            base_offset,
            append_time: TimestampMs(0),
            reached: Reached::AllInSyncDisks,
            duplicate: false,
        };
        let refused = |Refusal { code, outcome }| {
            let message = String::new();
            ProduceRefusal { code, outcome, message }
        };
        let result = result.map(appended).map_err(refused);
        let ack = ProduceAck { correlation, result };
        self.machine.handle_ack(duration(ctx.now), ack).expect("it was asked for");
    }

    /// What the machine says of batches must be so.
    fn settle(&mut self, ctx: &mut Ctx) {
        for resolved in self.machine.poll_resolved() {
            let id = resolved.completion;
            let Some(partition) = self.places.remove(&id) else {
                ctx.checks.resolved_twice(id);
                continue;
            };
            match resolved.result {
                Ok(appended) => ctx.checks.confirmed(partition, id, appended.base_offset),
                Err(error) => ctx.checks.gave_up(partition, id, &error),
            }
        }
    }
}

impl Refusal {
    /// Certainly nothing was stored.
    #[must_use]
    pub fn no(code: ErrorCode) -> Refusal {
        Refusal { code, outcome: Outcome::No }
    }
}

fn first_value(batch: &RecordBatch) -> u64 {
    let records = batch.records().expect("it was just built");
    let value = records.iter().next().and_then(|record| record.value);
    u64::from_le_bytes(value.and_then(|value| value.try_into().ok()).expect("eight bytes"))
}

/// Whom some node that is up takes for the leader.
pub fn find_leader(ctx: &mut Ctx, nodes: &[Node], partition: PartitionId) -> Option<Addr> {
    let up: Vec<&Node> = nodes.iter().filter(|node| node.up).collect();
    if up.is_empty() {
        return None;
    }
    let known = up[ctx.random.usize(0..up.len())].image.partitions().get(&partition)?;
    known.leader.map(|leader| leader.node.0)
}
