//! Runs a module over records that a node has, as the node does.

use crate::commands::sdk;
use crate::exit::{CommandResult, Failure};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_client::{Batch, Client, ResetPolicy, StartAt};
use weir_core::deploy::{Deployment, Mode};
use weir_core::limits;
use weir_core::record::{Header, Record, Records, Retained};
use weir_core::{Offset, PartitionIndex, TimestampMs};
use weir_wasm::columns::Watermark;
use weir_wasm::output::OutputRecord;
use weir_wasm::state::{MemoryState, StateView};
use weir_wasm::{Report, Runner, Work};

/// A record that the module made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The input that it was made of.
    pub source: Offset,
    /// Which of the output topics it goes to.
    pub topic: usize,
    /// Which partition of it.
    pub partition: PartitionIndex,
    /// The record.
    pub record: Record,
}

/// What a replay of one partition added up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Inputs of the range.
    pub records_in: u64,
    /// Inputs before the range, which were run for the state that they leave.
    pub records_before: u64,
    /// Outputs of the range.
    pub records_out: u64,
    /// Inputs of the range that the module could not work on.
    pub failed: u64,
    /// The record at which everything stopped, and why.
    pub stopped: Option<(Offset, String)>,
}

/// The state of a replay: changed between batches, and not copied for each.
pub struct State(Mutex<MemoryState>);

impl State {
    /// The state as it is to begin with.
    pub fn new(state: MemoryState) -> State {
        State(Mutex::new(state))
    }

    fn now(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateView for State {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.now().get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<(Bytes, Bytes)> {
        self.now().scan(prefix, after, limit)
    }

    fn due(&self, watermark: TimestampMs) -> Vec<(Bytes, TimestampMs)> {
        self.now().due(watermark)
    }

    fn timer(&self, key: &[u8]) -> Option<TimestampMs> {
        self.now().timer(key)
    }
}

/// A replay of one partition.
pub struct Replay<'a> {
    /// The node.
    pub client: &'a Client,
    /// What is replayed.
    pub deployment: &'a Deployment,
    /// The input partition.
    pub index: PartitionIndex,
    /// How many partitions each output topic has.
    pub partitions: &'a [u32],
    /// The module.
    pub runner: Runner,
    /// Its state, and where the watermark stands.
    pub state: (Arc<State>, TimestampMs),
    /// The first record to run, the first whose outputs are wanted, and behind the last one.
    pub range: (Offset, Offset, Offset),
    /// What it added up to.
    pub totals: Totals,
}

impl Replay<'_> {
    /// Runs the range, and hands over each output in turn.
    ///
    /// # Errors
    /// The input cannot be read; what `take` says.
    pub async fn run(&mut self, mut take: impl FnMut(Output) -> CommandResult) -> CommandResult {
        let (begin, _, to) = self.range;
        if begin >= to {
            return Ok(());
        }
        let consumer = self.client.consumer().until_end(true).reset(ResetPolicy::Fail);
        let mut consumer = consumer.build();
        let topic = self.deployment.spec.from.as_str();
        let from = [(topic, self.index.0, StartAt::Offset(begin))];
        consumer.assign(&from).await.map_err(|error| sdk::assign_failure(&error))?;
        loop {
            let batch = consumer.next_batch().await;
            let batch = batch.map_err(|error| sdk::consume_failure(&error))?;
            let Some(batch) = batch.filter(|batch| batch.first_offset() < to) else { break };
            let Some(records) = self.wanted(&batch)? else { continue };
            self.batch(records, &mut take).await?;
            if batch.end_offset() >= to || self.totals.stopped.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// The records of a batch that are to be run.
    fn wanted(&self, batch: &Batch) -> Result<Option<Records>, Failure> {
        let (begin, _, to) = self.range;
        let records = batch.raw().records().map_err(anyhow::Error::from)?;
        let offsets: Vec<Offset> = records.iter().map(|record| record.offset).collect();
        let some = batch.raw().retain(&records, |at| begin <= offsets[at] && offsets[at] < to);
        Ok(match some {
            Retained::All => Some(records),
            Retained::Some(some) => Some(some.records().map_err(anyhow::Error::from)?),
            Retained::Nothing => None,
        })
    }

    async fn batch(
        &mut self,
        records: Records,
        take: &mut impl FnMut(Output) -> CommandResult,
    ) -> CommandResult {
        let (_, from, _) = self.range;
        let offsets: Vec<Offset> = records.iter().map(|record| record.offset).collect();
        let now = TimestampMs(sdk::now_ms());
        let watermark = Watermark {
            at: self.state.1,
            lateness_ms: i64::from(self.deployment.spec.lateness_ms),
            event_time_max: TimestampMs(now.0.saturating_add(limits::EVENT_TIME_AHEAD_MS)),
        };
        let state = self.state.0.clone();
        let work = Work { records: Some(records.clone()), topic: 0, watermark, state };
        let made = self.runner.process(work).await.map_err(anyhow::Error::from)?;
        let outputs = made.parts.iter().flat_map(|part| part.iter(&records));
        for output in outputs {
            let Some(&source) = offsets.get(output.source as usize) else { continue };
            if source >= from {
                self.totals.records_out += 1;
                take(self.output(source, &output))?;
            }
        }
        self.state.0.now().apply(&made.changes);
        self.state.1 = made.watermark.map_or(self.state.1, |watermark| watermark.at);
        self.account(&offsets, &made.report);
        Ok(())
    }

    fn output(&self, source: Offset, output: &OutputRecord<'_>) -> Output {
        let topic = output.topic as usize;
        let partitions = self.partitions.get(topic).copied().unwrap_or(1);
        let direct = self.deployment.mode == Mode::Direct;
        let header = |header: weir_core::record::HeaderView<'_>| Header {
            name: header.name.to_owned().into(),
            value: header.value.map(Bytes::copy_from_slice),
        };
        Output {
            source,
            topic,
            partition: Deployment::output_partition(direct, self.index, output.key, partitions),
            record: Record {
                timestamp: output.timestamp,
                key: output.key.map(Bytes::copy_from_slice),
                value: output.value.map(Bytes::copy_from_slice),
                headers: output.headers.clone().map(header).collect(),
            },
        }
    }

    fn account(&mut self, offsets: &[Offset], report: &Report) {
        let (_, from, _) = self.range;
        let stopped = report.stopped_at();
        let run = stopped.map_or(offsets.len(), |judged| judged.index as usize).min(offsets.len());
        let before = offsets[..run].partition_point(|offset| *offset < from);
        self.totals.records_before += before as u64;
        self.totals.records_in += (run - before) as u64;
        let failed = report.judged.iter().filter_map(|judged| offsets.get(judged.index as usize));
        self.totals.failed += failed.filter(|offset| **offset >= from).count() as u64;
        self.totals.stopped = stopped.map(|judged| {
            let at = offsets.get(judged.index as usize).copied().unwrap_or_default();
            (at, judged.error.to_string())
        });
    }
}
