//! Runs the batches of one deployment and partition: makes and replaces instances, looks for bad
//! records, and puts the parts of a batch together again.

use crate::abi::{Failure, Kept, Setting, Verdict};
use crate::bisect::{Bisect, Judged, Judgement, OnError, Step, Use};
use crate::columns::{Watermark, bit};
use crate::error::GuestError;
use crate::guest::{LogLine, Surroundings, cut};
use crate::http::HttpUse;
use crate::instance::{Instance, Part};
use crate::limits::GuestLimits;
use crate::migrate::{self, Entries};
use crate::module::Module;
use crate::output::OutputPart;
use crate::state::{StateBuffer, StateChanges, StateView};
use std::sync::Arc;
use std::time::Duration;
use weir_core::record::Records;

/// A module with what a deployment says about it.
#[derive(Clone)]
pub struct Deployment {
    /// The module.
    pub module: Module,
    /// Its parameters, from [`crate::abi::Description::settings`].
    pub settings: Vec<Setting>,
    /// What it may use.
    pub limits: GuestLimits,
    /// What becomes of records that it cannot process.
    pub on_error: OnError,
    /// How many topics its outputs may go to.
    pub topics: usize,
    /// What it finds around it.
    pub around: Surroundings,
}

/// What a batch cost and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that were not processed, by rising index. If the last one says
    /// [`crate::bisect::Judgement::Stop`], nothing behind it was.
    pub judged: Vec<Judged>,
    /// Lines that the module logged, of failed calls too.
    pub log: Vec<LogLine>,
    /// Lines that were dropped.
    pub log_dropped: u32,
    /// CPU time of its calls, failed ones included.
    pub cpu: Duration,
    /// Calls of the module: 1 unless something failed.
    pub calls: u32,
    /// Instances that were made.
    pub instances: u32,
    /// Linear memory of the instance at the end, in bytes.
    pub memory_bytes: usize,
    /// What it did over HTTP.
    pub http: HttpUse,
}

impl Report {
    /// The record at which everything stopped: it and what lies behind it were not processed.
    #[must_use]
    pub fn stopped_at(&self) -> Option<&Judged> {
        self.judged.last().filter(|judged| judged.judgement == Judgement::Stop)
    }
}

/// What a filter made of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// A bit for each record, the lowest first: whether it is kept. Judged records are not.
    pub keep: Vec<u8>,
    /// How many are kept.
    pub kept: usize,
    /// How it went.
    pub report: Report,
}

/// What a transform or consumer made of a batch. None of it counts before the caller has made it
/// durable, all of it together.
#[derive(Clone, Debug, Default)]
pub struct Transformed {
    /// Records to append, in order.
    pub parts: Vec<OutputPart>,
    /// Changes of state and timers.
    pub changes: StateChanges,
    /// Where the watermark stands.
    pub watermark: Option<Watermark>,
    /// How it went.
    pub report: Report,
}

/// What a produce-time module made of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What the module says, or how it failed: twice, the second time in a fresh instance, or out
    /// of time.
    pub verdict: Result<Verdict, GuestError>,
    /// How it went.
    pub report: Report,
}

/// A batch for a transform or consumer.
#[derive(Clone)]
pub struct Work {
    /// Its records. None for a tick that only moves the watermark: an empty batch has none.
    pub records: Option<Records>,
    /// Index of the input topic.
    pub topic: u32,
    /// The watermark before it.
    pub watermark: Watermark,
    /// The state before it.
    pub state: Arc<dyn StateView>,
}

/// Runs one deployment in one partition. Belongs on a thread for guests: its calls block that
/// thread for up to a tick at a time.
pub struct Worker {
    deployment: Deployment,
    instance: Option<Instance>,
}

impl Worker {
    /// Runs `deployment`. The instance is made with the first batch.
    #[must_use]
    pub fn new(deployment: Deployment) -> Worker {
        Worker { deployment, instance: None }
    }

    /// Filters a batch.
    ///
    /// # Cancel safety
    /// Safe: an instance whose call was abandoned is not used again.
    pub async fn filter(&mut self, records: &Records) -> Filtered {
        let count = records.len();
        let mut filtered = Filtered { keep: vec![0; count.div_ceil(8)], ..Filtered::default() };
        let mut search = Search::new(count, self.deployment.on_error);
        while let Some(range) = search.next().await {
            let part = Part { records, range: range.clone(), topic: 0 };
            let called = match self.instance(&mut search.report).await {
                Ok(instance) => instance.filter(&part).await,
                Err(error) => {
                    search.machine.not_started(error);
                    continue;
                }
            };
            self.account(&mut search.report);
            let Some(kept) = search.judge(called, |kept: &mut Kept| &mut kept.failures) else {
                continue;
            };
            for (at, index) in range.enumerate() {
                filtered.keep[index / 8] |= u8::from(bit(&kept.keep, at)) << (index % 8);
            }
        }
        filtered.report = search.finish();
        for judged in &filtered.report.judged {
            let at = judged.index as usize;
            // What failed of a batch without records is none of them.
            if let Some(byte) = filtered.keep.get_mut(at / 8) {
                *byte &= !(1 << (at % 8));
            }
        }
        filtered.kept = filtered.keep.iter().map(|byte| byte.count_ones() as usize).sum();
        filtered
    }

    /// Transforms or consumes a batch.
    ///
    /// # Cancel safety
    /// As [`Worker::filter`].
    pub async fn process(&mut self, work: &Work) -> Transformed {
        let empty = Records::empty();
        let records = work.records.as_ref().unwrap_or(&empty);
        let mut state = StateBuffer::new(work.state.clone(), self.deployment.limits.state_bytes);
        let mut search = Search::new(records.len(), self.deployment.on_error);
        let mut watermark = work.watermark;
        let mut parts = Vec::new();
        while let Some(range) = search.next().await {
            let part = Part { records, range: range.clone(), topic: work.topic };
            let topics = self.deployment.topics;
            let called = match self.instance(&mut search.report).await {
                Ok(instance) => instance.process(&part, topics, watermark, &mut state).await,
                Err(error) => {
                    search.machine.not_started(error);
                    continue;
                }
            };
            self.account(&mut search.report);
            match search.judge(called, |(outcome, _)| &mut outcome.failures) {
                Some((outcome, moved)) => {
                    state.mark();
                    watermark = moved;
                    let (begin, count) = (range.start as u32, range.len() as u32);
                    if !outcome.outputs.sources.is_empty() {
                        parts.push(OutputPart { begin, count, outputs: outcome.outputs });
                    }
                }
                None => state.rewind(),
            }
        }
        let (changes, report) = (state.into_changes(), search.finish());
        Transformed { parts, changes, watermark: Some(watermark), report }
    }

    /// Checks a batch before it is appended. One that fails is not searched: its producer waits.
    /// For the same reason a module that ran out of time is not tried again.
    ///
    /// # Cancel safety
    /// As [`Worker::filter`].
    pub async fn check(&mut self, records: &Records) -> Checked {
        let part = Part { records, range: 0..records.len(), topic: 0 };
        let mut report = Report::default();
        loop {
            report.calls += 1;
            let called = match self.instance(&mut report).await {
                Ok(instance) => instance.check(&part).await,
                Err(error) => Err(error),
            };
            self.account(&mut report);
            match called {
                Ok(mut verdict) => {
                    verdict.rejected.iter_mut().for_each(|failure| cut(&mut failure.message));
                    return Checked { verdict: Ok(verdict), report };
                }
                Err(error) => {
                    self.instance = None;
                    if report.calls == 2 || matches!(error, GuestError::Deadline { .. }) {
                        return Checked { verdict: Err(error), report };
                    }
                }
            }
        }
    }

    /// Turns state of the layout `from` into that of the module, all of it.
    ///
    /// # Errors
    /// If a call fails or returns what cannot be kept.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn migrate(&self, from: u32, entries: &Entries) -> Result<Entries, GuestError> {
        let Deployment { module, limits, .. } = &self.deployment;
        migrate::migrate(module, limits, from, entries).await
    }

    /// The instance; a new one if there is none or it is dead.
    async fn instance(&mut self, report: &mut Report) -> Result<&mut Instance, GuestError> {
        if self.instance.as_ref().is_none_or(|instance| !instance.is_alive()) {
            self.instance = None;
            report.instances += 1;
            let Deployment { module, settings, limits, around, .. } = &self.deployment;
            self.instance = Some(module.start(settings, limits, around.clone()).await?);
        }
        self.instance.as_mut().ok_or(GuestError::Broken("no instance"))
    }

    /// Adds up what the last call cost and said.
    fn account(&mut self, report: &mut Report) {
        let Some(instance) = &mut self.instance else { return };
        let (log, dropped) = instance.take_log();
        report.log.extend(log);
        report.log_dropped = report.log_dropped.saturating_add(dropped);
        report.cpu += instance.cpu();
        report.http.add(instance.take_http());
        report.memory_bytes = instance.memory_bytes();
    }
}

/// A search through a batch, with its report.
struct Search {
    machine: Bisect,
    report: Report,
}

impl Search {
    fn new(count: usize, policy: OnError) -> Search {
        // At most 100,000 records fit a batch.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Search { machine: Bisect::new(count, policy), report: Report::default() }
    }

    /// The records of the next call.
    async fn next(&mut self) -> Option<std::ops::Range<usize>> {
        loop {
            match self.machine.step() {
                Step::Run(part) => {
                    self.report.calls += 1;
                    return Some(part.start as usize..part.end as usize);
                }
                Step::Wait(pause) => tokio::time::sleep(pause).await,
                Step::Done => return None,
            }
        }
    }

    /// Tells the machine how a call went. Returns what it returned if that is to be kept.
    fn judge<R>(
        &mut self,
        called: Result<R, GuestError>,
        failures: impl FnOnce(&mut R) -> &mut Vec<Failure>,
    ) -> Option<R> {
        match called {
            Ok(mut returned) => {
                let failures = std::mem::take(failures(&mut returned));
                (self.machine.succeeded(failures) == Use::Keep).then_some(returned)
            }
            Err(error) => {
                self.machine.failed(error);
                None
            }
        }
    }

    fn finish(self) -> Report {
        Report { judged: self.machine.into_judged(), ..self.report }
    }
}
