//! A produce stream: batches in, acknowledgements out.
//!
//! Two halves that share an [`AckQueue`]: this task reads frames and appends, a second one writes
//! acknowledgements as the disk confirms. A batch first buys a permit for its bytes, which travels
//! with it until it is durable: when too much waits for the disk, the stream is not read, and QUIC
//! flow control holds the producer back.

use crate::ack::{AckQueue, Parked, refusal};
use crate::broker::Shared;
use crate::cluster::forward::Upstream;
use crate::gate::{self, Waiting};
use crate::pace::StreamPace;
use crate::partition::{Partition, Payload};
use crate::session::{Session, protocol, refuse};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::OwnedSemaphorePermit;
use weir_core::access::Role;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::partition::producers::ProducerBatch;
use weir_core::record::RecordBatch;
use weir_core::wire::frame::{Appended, ProduceAck, ProduceHeader};
use weir_core::wire::{ErrorCode, FrameKind, WireError};
use weir_core::{PartitionIndex, TopicId};
use weir_transport::{FrameError, FrameReader, FrameWriter};

/// Serves a produce stream to its end.
pub async fn serve(session: Session, mut writer: FrameWriter, reader: FrameReader) {
    session.shared.counts.producers.fetch_add(1, Ordering::Relaxed);
    let queue = AckQueue::new(session.shared.courier.clone());
    let mut stream = ProduceStream {
        session: session.clone(),
        queue: queue.clone(),
        partitions: HashMap::new(),
        upstreams: HashMap::new(),
        pace: StreamPace::default(),
        reader,
    };
    let ended = tokio::select! {
        ended = stream.read() => ended,
        // The client does not take acknowledgements any more: it is gone. What it sent before is
        // appended all the same.
        () = write_acks(&queue, &mut writer) => Ok(()),
    };
    match ended {
        Ok(()) => finish(&queue, &mut writer).await,
        Err(Ended::Refused(error)) => refuse(&mut writer, &error).await,
        Err(Ended::Broken(error)) => session.broken(&mut writer, &error),
    }
    session.shared.counts.producers.fetch_sub(1, Ordering::Relaxed);
}

/// The client has ended its side: acknowledge what is still on its way, then end ours.
async fn finish(queue: &AckQueue, writer: &mut FrameWriter) {
    while !queue.is_settled() {
        if write_some_acks(queue, writer).await.is_err() {
            return;
        }
    }
    // Fails only if the client is gone.
    let _ = writer.finish().await;
}

async fn write_acks(queue: &AckQueue, writer: &mut FrameWriter) {
    while write_some_acks(queue, writer).await.is_ok() {}
}

/// Waits for acknowledgements and writes them as one frame.
///
/// Cancel safe: what was drained is queued in the writer before anything is awaited.
async fn write_some_acks(queue: &AckQueue, writer: &mut FrameWriter) -> Result<(), FrameError> {
    let mut acks = Vec::new();
    queue.drain(&mut acks).await;
    let mut body = BytesMut::with_capacity(acks.len() * ProduceAck::BYTES);
    acks.iter().for_each(|ack| ack.encode(&mut body));
    writer.write(FrameKind::ProduceAck as u8, 0, &[body.freeze()]).await
}

/// Appends a produced batch. Its stream gets the answer once it is committed, or at once if it is
/// refused.
pub fn append(
    shared: &Shared,
    partition: &Partition,
    payload: Payload,
    queue: Arc<AckQueue>,
    correlation: u64,
) {
    partition.append(shared.now(), payload, |place| {
        let appended = Appended {
            base_offset: place.base_offset,
            append_time: place.append_time,
            reached: place.reached,
            duplicate: place.duplicate,
        };
        Parked::Produce { queue, correlation, appended }
    });
}

/// Tells a stream that a batch of its was refused.
pub fn answer(queue: &Arc<AckQueue>, correlation: u64, error: WireError) {
    queue.push(ProduceAck { correlation, result: Err(refusal(error)) });
}

struct ProduceStream {
    session: Session,
    queue: Arc<AckQueue>,
    /// Partitions that this client may append to, as looked up before.
    partitions: HashMap<(TopicId, PartitionIndex), Arc<Partition>>,
    /// Ways to other leaders.
    upstreams: HashMap<NodeId, Upstream>,
    pace: StreamPace,
    reader: FrameReader,
}

enum Ended {
    Refused(WireError),
    Broken(FrameError),
}

impl ProduceStream {
    async fn read(&mut self) -> Result<(), Ended> {
        while let Some(header) =
            self.reader.next_header(limits::FRAME_BYTES_MAX).await.map_err(Ended::Broken)?
        {
            if header.kind != FrameKind::Produce as u8 {
                let message = format!("frame kind {} on a produce stream", header.kind);
                return Err(Ended::Refused(protocol(&message)));
            }
            let mut body = self.reader.body_mut().await.map_err(Ended::Broken)?;
            let Some(produce) = ProduceHeader::decode(&body) else {
                return Err(Ended::Refused(protocol("a produce frame without its header")));
            };
            body.advance(ProduceHeader::BYTES);
            let permit = self.buy(body.len()).await;
            let body = body.freeze();
            let permit = match self.upstream(&produce) {
                None => permit,
                Some(upstream) => {
                    self.queue.expect();
                    if !upstream.send(produce, body, permit).await {
                        let message = "the way to the leader was lost; try again";
                        let error = WireError::new(ErrorCode::NotLeader, message);
                        answer(&self.queue, produce.correlation, error);
                    }
                    continue;
                }
            };
            let checked = self.check(&produce, body).await;
            self.queue.expect();
            self.append(produce, checked, permit);
        }
        Ok(())
    }

    /// The way to the leader, if that is another node.
    fn upstream(&mut self, header: &ProduceHeader) -> Option<Upstream> {
        self.session.shared.site.as_ref()?;
        // What is wrong with it is told where it would be appended.
        let partition = self.partition(header.topic, header.partition).ok()?;
        let (peers, leader) = self.session.shared.route(&self.session, &partition)?;
        let way = self
            .upstreams
            .entry(leader)
            .or_insert_with(|| Upstream::open(peers.clone(), leader, self.queue.clone()));
        if way.is_lost() {
            *way = Upstream::open(peers.clone(), leader, self.queue.clone());
        }
        Some(way.clone())
    }

    /// Waits until the node has room for a batch of this size.
    ///
    /// The bytes are here already. Buying before they arrive would let a few clients that send
    /// half a frame each hold the whole budget; what arrives unpaid is bounded by the windows of
    /// their own connections.
    async fn buy(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let budget = &self.session.shared.produce_budget;
        let most = self.session.shared.config.produce_budget_bytes;
        let permits = u32::try_from(bytes.min(most)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        budget.clone().acquire_many_owned(permits).await.ok()
    }

    /// Where a batch goes, and that it may and can. The next frame is read afterwards, so batches
    /// keep their order.
    async fn check(
        &mut self,
        header: &ProduceHeader,
        body: Bytes,
    ) -> Result<(Arc<Partition>, RecordBatch), WireError> {
        let partition = self.partition(header.topic, header.partition)?;
        let batch = self.session.shared.validator.check(body).await?;
        Ok((partition, batch))
    }

    fn append(
        &mut self,
        header: ProduceHeader,
        checked: Result<(Arc<Partition>, RecordBatch), WireError>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        match checked {
            Ok((partition, batch)) => self.append_to(&partition, header, batch, permit),
            Err(error) => answer(&self.queue, header.correlation, error),
        }
    }

    fn append_to(
        &mut self,
        partition: &Arc<Partition>,
        header: ProduceHeader,
        batch: RecordBatch,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let info = *batch.header();
        let count = info.record_count;
        let producer = info.producer_id.is_some().then_some(ProducerBatch {
            id: info.producer_id,
            epoch: info.producer_epoch,
            base_sequence: info.base_sequence,
            count,
        });
        let hold = permit.map(|permit| Box::new(permit) as Box<dyn std::any::Any + Send>);
        let shared = &self.session.shared;
        let bytes = batch.bytes().len();
        let linger = shared.pace().linger(shared.started.elapsed(), &mut self.pace, bytes);
        let batch = Some(batch);
        let (state, fence) = (Bytes::new(), None);
        let payload = Payload { count, producer, batch, state, linger, fence, hold };
        let (acks, correlation) = (self.queue.clone(), header.correlation);
        if !partition.gate.is_closed() {
            return append(shared, partition, payload, acks, correlation);
        }
        let waiting = Waiting::new(payload, acks, correlation);
        if let Err(waiting) = gate::enter(shared, partition, waiting) {
            let Waiting { payload, acks, .. } = *waiting;
            append(shared, partition, payload, acks, correlation);
        }
    }

    fn partition(
        &mut self,
        topic: TopicId,
        index: PartitionIndex,
    ) -> Result<Arc<Partition>, WireError> {
        if let Some(partition) = self.partitions.get(&(topic, index)) {
            return Ok(partition.clone());
        }
        let registry = &self.session.shared.registry;
        let partition = registry.partition(topic, index);
        let partition = partition.ok_or_else(|| registry.unknown(topic, index))?;
        self.session.authorize(Role::Produce, Some(&partition.topic_name))?;
        self.partitions.insert((topic, index), partition.clone());
        Ok(partition)
    }
}
