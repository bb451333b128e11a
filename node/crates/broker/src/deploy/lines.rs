//! What modules log, as records of the topic that their deployment names.
//!
//! A line is appended at most once, as soon as may be, and a lane never waits for it: what does not
//! fit the queue, or cannot be appended within a few tries, is lost, and counted. A batch that is
//! run again after a failure logs its lines again.

use super::Orders;
use super::append::{append, room};
use super::log::level;
use super::meter::Meter;
use super::state::States;
use crate::broker::Shared;
use crate::cluster::forward;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use weir_core::deploy::Deployment;
use weir_core::limits;
use weir_core::metadata::Topic;
use weir_core::partitioner::partition_for_key;
use weir_core::record::{BatchBuilder, HeaderView, RecordBatch};
use weir_core::wire::deployments::ModuleLevel;
use weir_core::wire::frame::ProduceHeader;
use weir_core::wire::{ErrorCode, Outcome, WireError};
use weir_core::{PartitionIndex, ProducerId, TimestampMs};
use weir_wasm::Report;

/// How often a batch of lines is tried that was certainly not appended.
const TRIES: u32 = 10;
/// The pause between two tries: together, what an election takes.
const PAUSE: Duration = Duration::from_millis(300);
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lanes' end: where they put lines.
#[derive(Clone, Debug)]
pub struct Lines {
    sender: mpsc::Sender<Line>,
}

/// A line on its way.
#[derive(Debug)]
struct Line {
    at: TimestampMs,
    level: ModuleLevel,
    module: Arc<str>,
    message: String,
    /// The lane's.
    meter: Arc<Meter>,
}

/// The end that appends.
#[derive(Debug)]
pub struct LineTask {
    /// The broker.
    pub shared: Arc<Shared>,
    /// What the log says of lanes: appends go by it.
    pub states: Arc<States>,
    /// What to do.
    pub orders: watch::Receiver<Orders>,
    /// The topic's name.
    pub topic: String,
    /// The deployment's name.
    pub deployment: String,
    lines: mpsc::Receiver<Line>,
}

impl Lines {
    /// Both ends.
    #[must_use]
    pub fn open(
        shared: &Arc<Shared>,
        states: &Arc<States>,
        orders: watch::Receiver<Orders>,
        (deployment, topic): (&Deployment, &str),
    ) -> (Lines, LineTask) {
        let (sender, lines) = mpsc::channel(limits::LOG_TOPIC_QUEUE_LINES_MAX);
        let task = LineTask {
            shared: shared.clone(),
            states: states.clone(),
            orders,
            topic: topic.to_owned(),
            deployment: deployment.name.clone(),
            lines,
        };
        (Lines { sender }, task)
    }

    /// Puts what a run of `module` logged on its way, as far as there is room. Never waits.
    pub fn take(&self, meter: &Arc<Meter>, report: &Report, module: &Arc<str>, at: TimestampMs) {
        let mut lost = u64::from(report.log_dropped);
        for line in &report.log {
            let line = Line {
                at,
                level: level(line.level),
                module: module.clone(),
                message: line.message.clone(),
                meter: meter.clone(),
            };
            lost += u64::from(self.sender.try_send(line).is_err());
        }
        if lost > 0 {
            meter.lines_lost(lost);
        }
    }
}

impl LineTask {
    /// Appends lines until all lanes have ended, or the deployment is given up.
    pub async fn run(mut self) {
        let mut orders = self.orders.clone();
        let abandoned = async move {
            // Also where the node shuts down: then nobody gives orders any more.
            let _ = orders.wait_for(|orders| orders.abandoned).await;
        };
        tokio::select! {
            () = abandoned => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        let mut lines = Vec::new();
        loop {
            lines.clear();
            if self.lines.recv_many(&mut lines, limits::LOG_TOPIC_BATCH_LINES_MAX).await == 0 {
                return;
            }
            let mut rest = lines.as_slice();
            while let Some(first) = rest.first() {
                let (batch, count) = self.batch(rest);
                let (some, more) = rest.split_at(count.max(1));
                rest = more;
                let gone = match batch {
                    Some((topic, batch)) => self.append(&topic, batch).await,
                    None => Err(WireError::new(ErrorCode::UnknownTopic, "it fits no batch there")),
                };
                if let Err(error) = gone {
                    tracing::warn!(deployment = self.deployment, topic = self.topic, %error,
                        lines = some.len(), "what a module logged did not get to its topic");
                    some.iter().for_each(|line| line.meter.lines_lost(1));
                    let message = format!("lines did not get to topic `{}`: {error}", self.topic);
                    first.meter.note(None, &message, self.shared.now());
                }
            }
        }
    }

    /// A batch of the first of these lines, and how many those are.
    fn batch(&self, lines: &[Line]) -> (Option<(Topic, RecordBatch)>, usize) {
        let Some(topic) = self.shared.registry.topic(&self.topic) else {
            return (None, lines.len());
        };
        let most = topic.config.batch_bytes_max as usize;
        let mut builder = BatchBuilder::with_bytes_max(topic.config.compression, most);
        for line in lines {
            let (module, version) = line.module.split_once('@').unwrap_or((&line.module, ""));
            let partition = line.meter.partition().to_string();
            let headers = [
                ("module", module),
                ("version", version),
                ("partition", partition.as_str()),
                ("level", line.level.name()),
            ];
            let headers =
                headers.map(|(name, text)| HeaderView { name, value: Some(text.as_bytes()) });
            let (key, value) = (self.deployment.as_bytes(), line.message.as_bytes());
            if builder.push(line.at, Some(key), Some(value), headers).is_err() {
                break;
            }
        }
        let count = builder.len();
        let built = builder.build(ProducerId::NONE, -1, -1).ok();
        let batch = built.and_then(|bytes| RecordBatch::decode_trusted(bytes).ok());
        (batch.map(|batch| (topic, batch)), count)
    }

    async fn append(&self, topic: &Topic, batch: RecordBatch) -> Result<(), WireError> {
        // One partition has all lines of a deployment, in order.
        let index = partition_for_key(self.deployment.as_bytes(), topic.config.partitions.max(1));
        let mut tries = 1;
        loop {
            let tried = timeout(PATIENCE, self.try_append(topic, index, &batch)).await;
            let silent =
                |_| Err(WireError::unknown(ErrorCode::Busy, "the partition takes nothing"));
            match tried.unwrap_or_else(silent) {
                Err(error)
                    if error.outcome == Outcome::No && error.code.retryable() && tries < TRIES =>
                {
                    tries += 1;
                    // sleep: the leader may be elected meanwhile, or take appends again.
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn try_append(
        &self,
        topic: &Topic,
        index: PartitionIndex,
        batch: &RecordBatch,
    ) -> Result<(), WireError> {
        let registry = &self.shared.registry;
        let partition = registry.partition(topic.id, index);
        let partition = partition.ok_or_else(|| registry.unknown(topic.id, index))?;
        let site = self.shared.site.as_ref();
        if let Some((site, leader)) = site.and_then(|site| Some((site, site.route(&partition)?))) {
            let header = ProduceHeader { correlation: 0, topic: topic.id, partition: index };
            return forward::produce(&site.peers, leader, header, batch.bytes().clone()).await;
        }
        let room = room(&self.shared, batch.bytes().len()).await;
        let at = (&*partition, partition.figures().epoch);
        let batch = Some(batch.clone());
        append(&self.shared, &self.states, at, batch, Vec::new(), room).committed().await
    }
}
