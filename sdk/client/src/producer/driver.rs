//! What connects the machine with the world: its lock, its clock, its stream and its timer.
//!
//! Two tasks share the state. The *session* has the produce stream; the *timer* ticks. Neither
//! holds the lock across an await, nor while it builds a batch. Both end when the producer was
//! finished and nothing is left to send.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use weir_core::ProducerId;
use weir_core::limits::CONTROL_BYTES_MAX;
use weir_core::wire::frame::{ProduceAck, ProduceHeader};
use weir_core::wire::message::{ProduceOpen, Request, Response, TopicInfo};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_producer::{Backoff, Machine, Now, RecordParts, Resolved, Rules, Shaped};
use weir_transport::{FrameError, FrameReader, FrameWriter, control};

use super::delivery::{Completion, Delivery};
use super::topics::{Topic, TopicShape, Topics};
use crate::client::{Client, lock};
use crate::error::{ConnectError, DeliveryError, FlushError, SendError};
use crate::link::Live;

/// A stream on which batches are under way and nothing was answered for this long does not work.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of batches that are queued before they are handed to QUIC together.
const WRITE_BYTES: usize = 256 * 1024;

/// What senders and tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    /// Bytes of the buffer that are free.
    pub(super) budget: Semaphore,
    state: Mutex<State>,
    shape: TopicShape,
    started: Instant,
    /// There may be something to send.
    writer_wake: Notify,
    /// The timer is to look at the state.
    timer_wake: Notify,
    /// The stream does not work.
    stalled: Notify,
    /// Nothing is left to do.
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    machine: Machine<Arc<Completion>>,
    topics: Topics,
    /// Topics to ask for again.
    refresh: Vec<Arc<str>>,
    /// No more records are let in.
    finished: bool,
    /// When the timer looks at the state by itself; `None`: never.
    timer_at: Option<Now>,
    /// Whether somebody asks for a producer id.
    asking_id: bool,
}

impl Shared {
    /// Starts the tasks.
    pub(super) fn start(
        client: Client,
        rules: Rules,
        id: Option<ProducerId>,
        shape: TopicShape,
        budget: Semaphore,
    ) -> Arc<Shared> {
        let state = State {
            machine: Machine::new(rules, id, fastrand::u64(..)),
            topics: Topics::default(),
            refresh: Vec::new(),
            finished: false,
            timer_at: None,
            asking_id: false,
        };
        let shared = Arc::new(Shared {
            client,
            budget,
            state: Mutex::new(state),
            shape,
            started: Instant::now(),
            writer_wake: Notify::new(),
            timer_wake: Notify::new(),
            stalled: Notify::new(),
            ended: watch::Sender::new(false),
        });
        tokio::spawn(run_timer(shared.clone()));
        tokio::spawn(run_sessions(shared.clone()));
        shared
    }

    /// Accepts a record that `charge` bytes of the buffer were reserved for.
    pub(super) fn accept(
        &self,
        topic: &str,
        partition: Option<u32>,
        record: &RecordParts<'_>,
        charge: usize,
    ) -> Result<Delivery, SendError> {
        let mut guard = lock(&self.state);
        let State { machine, topics, refresh, finished, .. } = &mut *guard;
        if *finished {
            return Err(SendError::Closed);
        }
        let topic = find(topics, topic)?;
        check_fits(topic, charge)?;
        let by_turns = partition.is_none() && record.key.is_none();
        let mut place = match (partition, record.key) {
            (Some(partition), _) => check_partition(topic, partition)?,
            (None, Some(key)) => topic.for_key(key),
            (None, None) => topic.for_none(),
        };
        let mut slot = topic.slot(place, |key, shape| machine.slot(key, shape));
        if machine.is_between_batches(slot) {
            let now = self.now();
            self.keep_fresh(topic, refresh, now);
            if by_turns && topic.handle_begin(now, place) {
                place = topic.for_none();
                slot = topic.slot(place, |key, shape| machine.slot(key, shape));
            }
        }
        let make = || Completion::new(topic.name.clone(), place);
        let pushed = machine.handle_record(|| self.now(), slot, record, charge, make)?;
        if pushed.closed && by_turns {
            topic.handle_full(self.now(), place);
        }
        if pushed.opened {
            self.release(guard);
        }
        Ok(Delivery::new(pushed.completion, pushed.index, record.timestamp))
    }

    /// Has the topic asked for again if what is known of it is old.
    fn keep_fresh(&self, topic: &mut Topic, refresh: &mut Vec<Arc<str>>, now: Now) {
        if topic.wants_refresh(now) {
            refresh.push(topic.name.clone());
            self.timer_wake.notify_one();
        }
    }

    /// An empty builder for a batch of this partition.
    pub(super) fn blank(&self, topic: &str, partition: u32) -> Result<Shaped, SendError> {
        let mut guard = lock(&self.state);
        let State { machine, topics, finished, .. } = &mut *guard;
        if *finished {
            return Err(SendError::Closed);
        }
        let topic = find(topics, topic)?;
        let partition = check_partition(topic, partition)?;
        let slot = topic.slot(partition, |key, shape| machine.slot(key, shape));
        Ok(machine.blank(slot))
    }

    /// Accepts a batch that `charge` bytes of the buffer were reserved for.
    pub(super) fn accept_batch(
        &self,
        topic: &str,
        partition: u32,
        records: Shaped,
        charge: usize,
    ) -> Result<Delivery, SendError> {
        let mut guard = lock(&self.state);
        let State { machine, topics, refresh, finished, .. } = &mut *guard;
        if *finished {
            return Err(SendError::Closed);
        }
        let topic = find(topics, topic)?;
        check_fits(topic, charge)?;
        let partition = check_partition(topic, partition)?;
        let now = self.now();
        self.keep_fresh(topic, refresh, now);
        let slot = topic.slot(partition, |key, shape| machine.slot(key, shape));
        let completion = Completion::new(topic.name.clone(), partition);
        let timestamp = records.builder.base_timestamp();
        machine.handle_batch(now, slot, records, charge, completion.clone());
        self.release(guard);
        Ok(Delivery::new(completion, 0, timestamp))
    }

    /// Takes in what the node says of a topic.
    pub(super) fn learn(&self, info: &TopicInfo) {
        let node_max = self.client.server_info().batch_bytes_max as usize;
        let now = self.now();
        let topic = Topic::new(now, info, self.shape, node_max, fastrand::u32(..));
        lock(&self.state).topics.put(topic);
    }

    /// Sends all that was accepted and waits for what becomes of it.
    pub(super) async fn flush(&self) -> Result<(), FlushError> {
        // In a block of its own: a guard in scope at an await makes the future not `Send`.
        let batches = {
            let mut guard = lock(&self.state);
            let batches = guard.machine.handle_flush();
            self.release(guard);
            batches
        };
        let mut failed: Option<FlushError> = None;
        for batch in batches {
            if let Some((first, records)) = batch.failure().await {
                let known = failed.get_or_insert(FlushError { failed: 0, first });
                known.failed += records as usize;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Lets no more records in; the tasks end once nothing is left.
    pub(super) fn finish(&self) {
        let mut guard = lock(&self.state);
        guard.finished = true;
        let _ = guard.machine.handle_flush();
        self.budget.close();
        self.release(guard);
        self.timer_wake.notify_one();
    }

    /// Does what is due. Returns when to come again, and whether all is done.
    fn tick(self: &Arc<Shared>) -> (Option<Now>, bool) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let now = self.now();
        state.machine.handle_tick(now);
        if state.machine.is_stalled(now, STALL_TIMEOUT) {
            self.stalled.notify_one();
        }
        let wake_at = state.machine.next_timer();
        state.timer_at = wake_at;
        for topic in state.refresh.drain(..) {
            tokio::spawn(refresh_topic(self.clone(), topic));
        }
        if state.machine.wants_id() && !std::mem::replace(&mut state.asking_id, true) {
            tokio::spawn(ask_id(self.clone()));
        }
        let finished = state.finished;
        self.release(guard);
        (wake_at, finished && lock(&self.state).machine.is_idle())
    }

    fn now(&self) -> Now {
        self.started.elapsed()
    }

    /// Changes the machine and does what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut Machine<Arc<Completion>>, Now) -> T) -> T {
        let mut guard = lock(&self.state);
        let result = change(&mut guard.machine, self.now());
        self.release(guard);
        result
    }

    /// Takes in the body of a frame of acknowledgements.
    fn handle_answers(&self, mut body: Bytes) -> Result<(), String> {
        self.change(|machine, now| {
            while body.has_remaining() {
                let ack = ProduceAck::decode(&mut body);
                let ack = ack.ok_or_else(|| "an acknowledgement does not decode".to_owned())?;
                machine.handle_ack(now, ack).map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    }

    /// Ends a change of the state: completes what was resolved and wakes who has something to do.
    fn release(&self, mut guard: MutexGuard<'_, State>) {
        let state = &mut *guard;
        let resolved = state.machine.poll_resolved();
        for batch in &resolved {
            state.forget_topic_if_gone(&self.client, batch);
        }
        let ready = state.machine.has_ready();
        let next = state.machine.next_timer();
        let sooner = next.is_some_and(|at| state.timer_at.is_none_or(|set| at < set));
        let ask_id = state.machine.wants_id() && !state.asking_id;
        let ending = state.finished && state.machine.is_idle();
        drop(guard);
        if ready {
            self.writer_wake.notify_one();
        }
        if sooner || ask_id || ending {
            self.timer_wake.notify_one();
        }
        for batch in resolved {
            self.budget.add_permits(batch.charged);
            batch.completion.complete(batch.result, batch.records);
        }
    }
}

impl State {
    /// A topic that the node does not know any more must be looked up again: there may be another
    /// one of its name.
    fn forget_topic_if_gone(&mut self, client: &Client, batch: &Resolved<Arc<Completion>>) {
        let code = batch.result.as_ref().err().and_then(DeliveryError::code);
        if let Some(
            ErrorCode::UnknownTopic | ErrorCode::TopicDeleted | ErrorCode::UnknownPartition,
        ) = code
        {
            self.topics.remove(batch.completion.topic());
            client.forget_topic(batch.completion.topic());
        }
    }
}

fn find<'a>(topics: &'a mut Topics, name: &str) -> Result<&'a mut Topic, SendError> {
    topics.get(name).ok_or_else(|| SendError::TopicNotLoaded(name.to_owned()))
}

fn check_partition(topic: &Topic, partition: u32) -> Result<u32, SendError> {
    if partition < topic.partitions {
        return Ok(partition);
    }
    let (name, partitions) = (topic.name.to_string(), topic.partitions);
    Err(SendError::UnknownPartition { topic: name, partition, partitions })
}

/// `charge` is at least what the record takes in a batch.
fn check_fits(topic: &Topic, charge: usize) -> Result<(), SendError> {
    let bytes = charge + weir_core::record::BATCH_HEADER_BYTES;
    if bytes <= topic.batch_bytes_max {
        return Ok(());
    }
    Err(SendError::OverBatchLimit { bytes, max: topic.batch_bytes_max })
}

/// Ticks, asks for topics and producer ids, and tells the session when all is done.
async fn run_timer(shared: Arc<Shared>) {
    loop {
        let (wake_at, finished) = shared.tick();
        if finished {
            shared.ended.send_replace(true);
            return;
        }
        let woken = shared.timer_wake.notified();
        match wake_at {
            Some(at) => tokio::select! {
                () = sleep_until(shared.started + at) => {}
                () = woken => {}
            },
            None => woken.await,
        }
    }
}

async fn refresh_topic(shared: Arc<Shared>, name: Arc<str>) {
    match shared.client.fresh_topic(&name).await {
        Ok(Some(info)) => shared.learn(&info),
        Ok(None) => lock(&shared.state).topics.remove(&name),
        Err(error) => {
            tracing::debug!(topic = &*name, %error, "cannot ask for the topic again");
            let now = shared.now();
            lock(&shared.state).topics.refresh_failed(now, &name);
        }
    }
}

async fn ask_id(shared: Arc<Shared>) {
    let mut failures = 0;
    let mut ended = shared.ended.subscribe();
    let id = loop {
        let error = match shared.client.request(&Request::InitProducer {}).await {
            Ok(Response::Producer { id }) => break id,
            Ok(_) => "the node's answer to a request for a producer id makes no sense".to_owned(),
            Err(error) => error.to_string(),
        };
        lock(&shared.state).machine.handle_trouble(&error);
        failures += 1;
        tokio::select! {
            () = sleep(Backoff::CONNECT.jittered(failures)) => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    };
    lock(&shared.state).asking_id = false;
    shared.change(|machine, _| machine.handle_id(id));
}

/// Keeps a produce stream open until all is done.
async fn run_sessions(shared: Arc<Shared>) {
    let mut ended = shared.ended.subscribe();
    let mut failures = 0;
    loop {
        let session = tokio::select! {
            result = connect(&shared) => result,
            _ = ended.wait_for(|ended| *ended) => return,
        };
        match session {
            Ok((live, writer, reader)) => {
                let connected_at = Instant::now();
                tokio::select! {
                    () = run_session(&shared, &live, writer, reader) => {}
                    _ = ended.wait_for(|ended| *ended) => return,
                }
                if connected_at.elapsed() > Backoff::CONNECT.most {
                    failures = 0;
                }
            }
            Err(ConnectError::Closed) => {
                lock(&shared.state).finished = true;
                shared.budget.close();
                shared.change(|machine, _| machine.handle_abandoned());
                shared.timer_wake.notify_one();
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot produce; will try again");
                lock(&shared.state).machine.handle_trouble(&error.to_string());
            }
        }
        failures += 1;
        tokio::select! {
            () = sleep(Backoff::CONNECT.jittered(failures)) => {}
            _ = ended.wait_for(|ended| *ended) => return,
        }
    }
}

/// Opens a produce stream, on a new connection if need be.
async fn connect(shared: &Shared) -> Result<(Live, FrameWriter, FrameReader), ConnectError> {
    let trouble = |error: &ConnectError| {
        tracing::debug!(%error, "cannot connect; will try again");
        lock(&shared.state).machine.handle_trouble(&error.to_string());
    };
    loop {
        let live = shared.client.live(trouble).await?;
        let open = async {
            let (mut writer, reader) = live.connection.open_stream().await?;
            let body = control::encode(&ProduceOpen {}).unwrap_or_default();
            writer.write(FrameKind::ProduceOpen as u8, 0, &[body]).await?;
            Ok::<_, FrameError>((writer, reader))
        };
        match open.await {
            Ok((writer, reader)) => return Ok((live, writer, reader)),
            Err(error) => {
                lock(&shared.state).machine.handle_trouble(&error.to_string());
                sleep(Backoff::CONNECT.jittered(1)).await;
            }
        }
    }
}

/// Writes batches and reads answers until the stream fails.
async fn run_session(
    shared: &Shared,
    live: &Live,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    shared.change(|machine, now| machine.handle_connected(now));
    // Both run in this task: a write that flow control holds up does not hold up answers.
    let end = tokio::select! {
        error = write_batches(shared, &mut writer) => SessionEnd::Stream(error),
        end = read_answers(shared, &mut reader) => end,
        () = shared.stalled.notified() => SessionEnd::Stalled,
    };
    // A writer that stops ends with an error, and so does the reader, which may know more.
    let end = match end {
        SessionEnd::Stream(error) => {
            read_last_words(&mut reader).await.unwrap_or(SessionEnd::Stream(error))
        }
        end => end,
    };
    let why = end.to_string();
    tracing::info!(why, "the produce stream ended; will open another");
    if matches!(end, SessionEnd::Stalled | SessionEnd::Protocol(_)) {
        shared.client.drop_connection(live, &why);
    }
    shared.change(|machine, _| machine.handle_disconnected(&why));
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Stream(FrameError),
    #[error("{0}")]
    Refused(WireError),
    #[error("the node ended the stream")]
    Finished,
    #[error("the node broke the protocol: {0}")]
    Protocol(String),
    #[error("the node did not answer for {STALL_TIMEOUT:?}")]
    Stalled,
}

async fn write_batches(shared: &Shared, writer: &mut FrameWriter) -> FrameError {
    loop {
        let mut bytes = 0;
        while bytes < WRITE_BYTES {
            let outgoing = lock(&shared.state).machine.poll_send(shared.now());
            let Some(outgoing) = outgoing else {
                break;
            };
            let header = ProduceHeader {
                correlation: outgoing.correlation,
                topic: outgoing.key.topic,
                partition: outgoing.key.partition,
            };
            let header = Bytes::copy_from_slice(&header.encode());
            let built = outgoing.build();
            let batch = lock(&shared.state).machine.handle_built(built);
            let Some(batch) = batch else {
                continue;
            };
            bytes += batch.len();
            if let Err(error) = writer.queue(FrameKind::Produce as u8, 0, &[header, batch]) {
                return error;
            }
        }
        // Timers may have been set, or a producer id be wanted.
        shared.change(|_, _| ());
        if bytes == 0 {
            shared.writer_wake.notified().await;
        } else if let Err(error) = writer.flush().await {
            return error;
        }
    }
}

async fn read_answers(shared: &Shared, reader: &mut FrameReader) -> SessionEnd {
    loop {
        let frame = match reader.next(CONTROL_BYTES_MAX).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return SessionEnd::Finished,
            Err(error) => return SessionEnd::Stream(error),
        };
        match FrameKind::from_u8(frame.kind) {
            Some(FrameKind::ProduceAck) => {}
            Some(FrameKind::Error) => return last_words(&frame.body),
            _ => return SessionEnd::Protocol(format!("a frame of kind {} came", frame.kind)),
        }
        if let Err(fault) = shared.handle_answers(frame.body) {
            return SessionEnd::Protocol(fault);
        }
    }
}

fn last_words(body: &[u8]) -> SessionEnd {
    match control::decode(body) {
        Ok(error) => SessionEnd::Refused(error),
        Err(error) => SessionEnd::Protocol(error.to_string()),
    }
}

/// What the node said before it stopped reading, if it said anything.
async fn read_last_words(reader: &mut FrameReader) -> Option<SessionEnd> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let words = async {
        loop {
            let frame = reader.next(CONTROL_BYTES_MAX).await.ok().flatten()?;
            if FrameKind::from_u8(frame.kind) == Some(FrameKind::Error) {
                return Some(last_words(&frame.body));
            }
        }
    };
    tokio::time::timeout(PATIENCE, words).await.ok().flatten()
}
