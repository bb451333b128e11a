//! A lane: a transform or consumer at work on one input partition.
//!
//! ```text
//! read input ─▶ run the module ─▶ make one entry ─▶ append it at home ─▶ durable: next
//! ```
//!
//! What a lane holds besides its durable state is dropped whenever something fails or an operator
//! steps in; it then begins again from what its home says. So a batch is committed once, with the
//! version that the lane had when it ran it.

mod commit;
mod waiting;

use super::budget::CpuBudget;
use super::entry::{AddError, Destination, Destinations, Entry, Origin};
use super::http::Outgoing;
use super::lines::Lines;
use super::log::ModuleLog;
use super::meter::Meter;
use super::source::Source;
use super::state::{SharedState, View, lock};
use super::takeover::{self, TakeoverError};
use super::{Deployments, Orders};
use crate::broker::Shared;
use crate::partition::Partition;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use weir_core::deploy::keys::{Lane, Position};
use weir_core::deploy::{Deployment, Mode, OnError};
use weir_core::limits;
use weir_core::record::{RecordBatch, Records, Retained};
use weir_core::wire::WireError;
use weir_core::wire::deployments::LaneCondition;
use weir_core::{LeaderEpoch, Offset, TimestampMs};
use weir_wasm::abi::Place;
use weir_wasm::bisect;
use weir_wasm::columns::Watermark;
use weir_wasm::http::HttpClient;
use weir_wasm::{GuestLimits, Report, Runner, Surroundings, Transformed, Work};

/// What a lane is made of.
pub struct LaneTask {
    /// The broker.
    pub shared: Arc<Shared>,
    /// All deployments.
    pub deployments: Arc<Deployments>,
    /// Which lane.
    pub lane: Lane,
    /// Its input.
    pub input: Arc<Partition>,
    /// Where that is read.
    pub source: Source,
    /// Where its entries go.
    pub home: Arc<Partition>,
    /// What it is to do.
    pub orders: watch::Receiver<Orders>,
    /// What it did.
    pub meter: Arc<Meter>,
    /// What its module logs.
    pub log: Arc<ModuleLog>,
    /// Where that goes besides.
    pub lines: Option<Lines>,
    /// What CPU time the module may take, in all lanes of this node together.
    pub budget: Arc<CpuBudget>,
    /// Those of its lanes that may hold a batch in memory.
    pub turns: Arc<Semaphore>,
    /// A record failed: it is tried alone.
    pub careful: bool,
    /// The record that failed last, and how often it was tried again.
    pub tried: Option<(Offset, u32)>,
}

/// Why work ended.
enum Ended {
    /// There are other orders, or the node shuts down.
    Orders,
    /// Something failed that may pass.
    Trouble(Option<Offset>, String),
    /// Only an operator can help.
    Stopped(Option<Offset>, String),
    /// This node does not lead the home any more.
    Elsewhere,
}

impl From<WireError> for Ended {
    fn from(error: WireError) -> Ended {
        Ended::Trouble(None, error.message)
    }
}

impl From<TakeoverError> for Ended {
    fn from(error: TakeoverError) -> Ended {
        match error {
            TakeoverError::Trouble(error) => error.into(),
            TakeoverError::Orders => Ended::Orders,
            TakeoverError::Stopped(message) => Ended::Stopped(None, message),
        }
    }
}

/// A version at work.
struct Job {
    deployment: Arc<Deployment>,
    runner: Runner,
    to: Destinations,
    origin: Origin,
    /// As its log lines name it.
    module: Arc<str>,
    view: View,
    stored: SharedState,
    epoch: LeaderEpoch,
    entry: Entry,
    position: Position,
    /// The position that is stored, and when it was.
    told: (Offset, Instant),
    /// Most records that the module is given at once.
    most: usize,
    /// What that is unless something is in the way.
    most_max: usize,
    /// Entry, state and position do not belong together any more.
    broken: bool,
    /// What happened since the last commit, for the meter.
    since: Since,
}

#[derive(Default)]
struct Since {
    records_in: u64,
    records_out: u64,
    errors: u64,
    dead_letters: u64,
}

impl LaneTask {
    /// Works until the deployment ends or the node shuts down.
    pub async fn run(mut self) {
        let mut pause = limits::LANE_RETRY_MIN;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.ended || self.orders.has_changed().is_err() {
                self.meter.condition(LaneCondition::Ended);
                return;
            }
            if !self.leads() {
                // Another node goes on, from what the home says there.
                self.meter.condition(LaneCondition::Waiting);
                self.deployments.states.let_go(self.lane, &self.home);
                self.lead_changed().await;
                continue;
            }
            if orders.deployment.paused {
                self.meter.condition(LaneCondition::Paused);
                self.changed().await;
                continue;
            }
            let before = self.meter.progress();
            let ended = self.work(orders.deployment).await;
            if self.meter.progress() > before {
                pause = limits::LANE_RETRY_MIN;
            }
            match ended {
                Ended::Orders | Ended::Elsewhere => {
                    pause = limits::LANE_RETRY_MIN;
                    self.tried = None;
                }
                Ended::Trouble(at, message) => {
                    self.careful = at.is_some();
                    self.meter.failed(LaneCondition::Retrying, at, &message, self.shared.now());
                    let _ = timeout(pause, self.changed()).await;
                    pause = (pause * 2).min(limits::LANE_RETRY_MAX);
                }
                Ended::Stopped(at, message) => {
                    tracing::warn!(input = %self.input.topic_name, partition = %self.input.index,
                        at = at.map(|at| at.0), message, "a deployment stopped");
                    self.meter.failed(LaneCondition::Stopped, at, &message, self.shared.now());
                    self.tried = None;
                    self.changed().await;
                }
            }
        }
    }

    /// Waits for other orders.
    async fn changed(&mut self) {
        // The sender is gone only with the deployments: the node shuts down.
        if self.orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether this node leads the home, and knows that all it began with is committed.
    fn leads(&self) -> bool {
        let progress = self.home.progress_now();
        progress.led && progress.settled && !progress.deleted
    }

    /// Waits for other orders, or until this may be the node to work.
    async fn lead_changed(&mut self) {
        let mut progress = self.home.progress();
        progress.borrow_and_update();
        if self.leads() {
            return;
        }
        let mut orders = self.orders.clone();
        tokio::select! {
            _ = orders.changed() => {}
            changed = progress.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }

    fn has_orders(&self) -> bool {
        self.orders.has_changed().unwrap_or(true)
    }

    async fn work(&mut self, deployment: Arc<Deployment>) -> Ended {
        self.meter.condition(LaneCondition::Starting);
        let mut job = match self.begin(deployment).await {
            Ok(job) => job,
            Err(ended) => return ended,
        };
        self.meter.condition(LaneCondition::Running);
        let ended = loop {
            if self.has_orders() {
                break Ended::Orders;
            }
            if !self.leads() {
                break Ended::Elsewhere;
            }
            match self.step(&mut job).await {
                Ok(()) => {}
                Err(ended) => break ended,
            }
        };
        if !job.broken && job.told.0 != job.position.next && self.leads() {
            // Whoever goes on, another version perhaps, begins exactly here. If that fails it
            // begins where the log says.
            let _ = self.commit(&mut job).await;
        }
        ended
    }

    /// Gets the version ready, and finds the position.
    async fn begin(&mut self, deployment: Arc<Deployment>) -> Result<Job, Ended> {
        let figures = self.home.figures();
        if !figures.online {
            return Err(Ended::Trouble(None, "the log of its outputs is offline".to_owned()));
        }
        let shared = &self.shared;
        let id = &deployment.spec.version.module;
        let unknown = || format!("there is no module {id}: replace the version");
        let module = shared.registry.module(id);
        let module = module.ok_or_else(|| Ended::Stopped(None, unknown()))?;
        let prepared = shared.modules.prepare(&module.sha256).await?;
        let params: Vec<_> = deployment.spec.version.params.clone().into_iter().collect();
        let settings = prepared.description().settings(&params);
        let settings = settings.map_err(|error| Ended::Stopped(None, error.to_string()))?;
        let (http, limits) = self.http(&deployment)?;
        // What fails in the middle is done again, and requests cannot be taken back.
        let most_max = if http.is_some() { limits::HTTP_RECORDS_PER_CALL } else { usize::MAX };
        let runs = weir_wasm::Deployment {
            module: prepared.clone(),
            settings,
            limits,
            on_error: match deployment.spec.on_error {
                OnError::Skip => bisect::OnError::Skip,
                OnError::DeadLetter => bisect::OnError::DeadLetter,
                // Trying again is the lane's: it can be interrupted.
                OnError::Retry | OnError::Stop => bisect::OnError::Stop,
            },
            topics: deployment.spec.to.len(),
            around: Surroundings { place: self.place(&deployment), http },
        };
        let runner = shared.modules.run(runs).await?;
        let stored = self.deployments.states.of(self.lane, self.home.id);
        let first = self.first(&stored, &deployment).await?;
        let (by, at) = ((&prepared, &runner), (figures.epoch, first));
        takeover::take_over(self, &deployment, by, at).await?;
        let to = self.destinations(&deployment)?;
        let known = lock(&stored).position();
        let position = known.unwrap_or(first);
        let told = known.map_or(Offset(-1), |known| known.next);
        let mut job = Job {
            module: id.to_string().into(),
            origin: Origin {
                deployment: deployment.name.clone(),
                module: id.to_string(),
                sha256: module.sha256,
                topic: deployment.spec.from.clone(),
            },
            runner,
            entry: Entry::new(to.clone()),
            to,
            view: View { stored: stored.clone(), ..View::default() },
            stored,
            epoch: figures.epoch,
            position,
            told: (told, Instant::now()),
            most: if self.careful { 1 } else { most_max },
            most_max,
            broken: false,
            since: Since::default(),
            deployment,
        };
        if known.is_none() {
            // Where it begins is decided once.
            self.commit(&mut job).await?;
        }
        self.meter.at(job.position.next);
        Ok(job)
    }

    /// Where the lane is, or where it begins if it was nowhere yet.
    async fn first(&self, stored: &SharedState, at: &Deployment) -> Result<Position, WireError> {
        let known = lock(stored).position();
        match known {
            Some(known) => Ok(known),
            None => self.source.first_position(at).await,
        }
    }

    fn place(&self, deployment: &Deployment) -> Place {
        Place {
            deployment: deployment.name.clone(),
            topics: vec![deployment.spec.from.clone()],
            partition: self.input.index.0,
        }
    }

    /// What the module reaches, and what it may take.
    fn http(
        &self,
        deployment: &Deployment,
    ) -> Result<(Option<Arc<dyn HttpClient>>, GuestLimits), Ended> {
        let Some(grant) = deployment.spec.http.clone() else {
            return Ok((None, GuestLimits::DEFAULT));
        };
        let timeout = Duration::from_millis(grant.timeout_ms.into());
        let outgoing = Outgoing::new(grant, self.deployments.trust.clone());
        let outgoing = outgoing.map_err(|error| Ended::Stopped(None, error.to_string()))?;
        Ok((Some(Arc::new(outgoing)), GuestLimits::DEFAULT.with_http_timeout(timeout)))
    }

    fn destinations(&self, deployment: &Deployment) -> Result<Destinations, Ended> {
        let find = |name: &String| {
            let topic = self.shared.registry.topic(name);
            let topic = topic.ok_or_else(|| {
                Ended::Stopped(None, format!("there is no topic `{name}`: create it again"))
            })?;
            Ok(Destination {
                topic: topic.id,
                partitions: topic.config.partitions,
                compression: topic.config.compression,
                batch_bytes_max: topic.config.batch_bytes_max as usize,
            })
        };
        Ok(Destinations {
            lane: self.input.index,
            direct: deployment.mode == Mode::Direct,
            outputs: deployment.spec.to.iter().map(find).collect::<Result<_, Ended>>()?,
            dead: deployment.dead_letter_topic().as_ref().map(find).transpose()?,
        })
    }

    /// Makes one entry of what there is to read, or waits for more.
    async fn step(&mut self, job: &mut Job) -> Result<(), Ended> {
        let reach = self.source.reach();
        self.meter.input_end(reach.high_watermark);
        if job.position.next < reach.log_start {
            let lost = reach.log_start.since(job.position.next);
            let message = format!("{lost} records were dropped by retention before they were read");
            self.meter.note(Some(job.position.next), &message, self.shared.now());
            job.position.next = reach.log_start;
        }
        if !self.source.has(job.position.next) {
            return self.wait(job).await;
        }
        self.within_budget(job).await?;
        let turn = self.turns.clone().acquire_owned().await;
        let at_work = self.deployments.at_work(&job.deployment).clone().acquire_owned().await;
        let Some(chunk) = self.source.read(job.position.next).await? else { return Ok(()) };
        if chunk.next_offset <= job.position.next {
            let message = format!("nothing to read at offset {}", job.position.next);
            return Err(Ended::Trouble(Some(job.position.next), message));
        }
        job.to = self.destinations(&job.deployment)?;
        job.entry = Entry::new(job.to.clone());
        let mut batches = chunk.batches.into_iter();
        for bytes in &mut batches {
            self.batch(job, bytes).await?;
            let full = job.entry.bytes() >= limits::LANE_ENTRY_BYTES;
            if full || self.has_orders() || self.budget.pause(Instant::now()).is_some() {
                break;
            }
        }
        if batches.as_slice().is_empty() {
            // Entries without records take offsets, too.
            job.position.next = job.position.next.max(chunk.next_offset);
        }
        drop((at_work, turn));
        self.commit_if_due(job).await
    }

    /// Runs one input batch, from the position on.
    async fn batch(&mut self, job: &mut Job, bytes: Bytes) -> Result<(), Ended> {
        let at = job.position.next;
        let corrupt = |error: &dyn std::fmt::Display| Ended::Trouble(Some(at), error.to_string());
        let decoded = RecordBatch::decode_with_records(bytes);
        let (batch, records) = decoded.map_err(|error| corrupt(&error))?;
        let end = batch.header().end_offset();
        if batch.header().is_control() {
            job.position.next = end;
            return Ok(());
        }
        while job.position.next < end {
            let from = job.position.next;
            let begin = records.iter().take_while(|record| record.offset < from).count();
            let count = job.most.min(records.len() - begin);
            if count == 0 {
                job.position.next = end;
                break;
            }
            let whole = begin + count == records.len();
            let some = match batch.retain(&records, |at| at >= begin && at < begin + count) {
                Retained::All => records.clone(),
                Retained::Some(some) => some.records().map_err(|error| corrupt(&error))?,
                Retained::Nothing => Records::empty(),
            };
            let behind = match whole {
                true => end,
                false => some.iter().last().map_or(end, |record| record.offset.plus(1)),
            };
            let sent = self.records(job, &some, behind).await?;
            if sent {
                // Nothing else may be done twice on account of what follows.
                self.commit(job).await?;
            }
        }
        Ok(())
    }

    /// Runs some records and adds what comes of them to the entry. The position is then behind
    /// them, or at the record that failed. Returns whether requests left the node.
    async fn records(
        &mut self,
        job: &mut Job,
        records: &Records,
        behind: Offset,
    ) -> Result<bool, Ended> {
        let watermark = Watermark {
            at: job.position.watermark,
            lateness_ms: i64::from(job.deployment.spec.lateness_ms),
            event_time_max: TimestampMs(self.shared.now().0 + limits::EVENT_TIME_AHEAD_MS),
        };
        let work = Work {
            records: Some(records.clone()),
            topic: 0,
            watermark,
            state: Arc::new(job.view.clone()),
        };
        let mut orders = self.orders.clone();
        let made = tokio::select! {
            biased;
            made = job.runner.process(work) => made.map_err(|_| Ended::Orders)?,
            // A module that takes long does not hold up who wants to replace it. What it is at has
            // no effect.
            _ = orders.changed() => return Err(Ended::Orders),
        };
        self.ran(job, &made.report);
        let count = match job.entry.add(records, &made, &job.origin) {
            Err(AddError::Full) if !job.entry.is_empty() => {
                self.commit(job).await?;
                job.entry.add(records, &made, &job.origin)
            }
            added => added,
        };
        let at = |index: u32| records.iter().nth(index as usize).map(|record| record.offset);
        let count = match count {
            Ok(count) => count,
            Err(AddError::Full) if records.len() > 1 => {
                // The same again with half of the records; nothing of this happened.
                job.most = records.len() / 2;
                return Ok(false);
            }
            Err(error) => {
                job.broken |= matches!(error, AddError::Build(_));
                let source = match &error {
                    AddError::Record { index, .. } => at(*index),
                    _ => at(0),
                };
                return Err(Ended::Stopped(source, error.to_string()));
            }
        };
        self.account(job, records, &made, count);
        lock(&job.view.overlay).add(made.changes.clone());
        if let Some(watermark) = made.watermark {
            job.position.watermark = watermark.at;
        }
        job.most = job.most_max;
        let Some(stopped) = made.report.stopped_at() else {
            job.position.next = behind;
            return Ok(made.report.http.requests > 0);
        };
        let offset = at(stopped.index).unwrap_or(behind);
        let moved = stopped.index > 0;
        job.position.next = offset;
        self.stopped(job, offset, moved, stopped.error.to_string())?;
        Ok(made.report.http.requests > 0)
    }

    /// Takes note of what a run took and said.
    fn ran(&self, job: &Job, report: &Report) {
        let now = self.shared.now();
        self.meter.ran(report);
        self.budget.spend(report.cpu, Instant::now());
        self.log.take(self.input.index, report, now);
        if let Some(lines) = &self.lines {
            lines.take(&self.meter, report, &job.module, now);
        }
    }

    /// What to do at a record at which everything stopped.
    fn stopped(
        &mut self,
        job: &mut Job,
        offset: Offset,
        moved: bool,
        message: String,
    ) -> Result<(), Ended> {
        match job.deployment.spec.on_error {
            // So many bad records that looking for them was given up: go on from here.
            OnError::Skip | OnError::DeadLetter if moved => Ok(()),
            OnError::Stop => Err(Ended::Stopped(
                Some(offset),
                format!("{message}; mend it and resume, or replace the module"),
            )),
            OnError::Retry if self.used_up(offset, job.deployment.spec.retries) => {
                let message = format!(
                    "{message}; tried again {} times: mend it and resume, or replace the module",
                    job.deployment.spec.retries
                );
                Err(Ended::Stopped(Some(offset), message))
            }
            _ => Err(Ended::Trouble(Some(offset), message)),
        }
    }

    /// Counts a failure of this record. Whether it was tried again as often as it may be; 0 is for
    /// ever.
    fn used_up(&mut self, offset: Offset, retries: u32) -> bool {
        let tried = self.tried.filter(|(at, _)| *at == offset).map_or(0, |(_, tried)| tried + 1);
        self.tried = Some((offset, tried));
        retries > 0 && tried >= retries
    }

    fn account(&self, job: &mut Job, records: &Records, made: &Transformed, count: usize) {
        let stopped = made.report.stopped_at().map(|judged| judged.index as usize);
        let judged = made.report.judged.iter();
        let mut passed = judged.filter(|judged| judged.judgement != bisect::Judgement::Stop);
        let dead = passed.clone().filter(|j| j.judgement == bisect::Judgement::DeadLetter).count();
        job.since.records_in += stopped.unwrap_or(records.len()) as u64;
        job.since.records_out += count as u64;
        job.since.errors += passed.clone().count() as u64;
        job.since.dead_letters += dead as u64;
        if let Some(last) = passed.next_back() {
            let at = records.iter().nth(last.index as usize).map(|record| record.offset);
            self.meter.note(at, &last.error.to_string(), self.shared.now());
        }
    }
}
