//! A filter at work on a subscription.
//!
//! Each batch is one call. A call that fails is tried again, in a fresh instance, with halves of
//! its records until the one at fault stands alone; what happens to that is the subscriber's
//! choice. Batches of which everything is kept go on as they are stored.

use super::{Modules, invalid};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use weir_core::Offset;
use weir_core::record::{RecordBatch, Records, Retained};
use weir_core::wire::message::{FilterOnError, FilterSpec};
use weir_core::wire::{ErrorCode, WireError};
use weir_wasm::abi::{Kept, Setting};
use weir_wasm::columns::bit;
use weir_wasm::limits::BATCH_RUNS_MAX;
use weir_wasm::{GuestLimits, Instance, Part};

/// What a filter did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    /// Records that it was given.
    pub records: u64,
    /// Records that it kept.
    pub kept: u64,
    /// Records that it could not judge.
    pub failed: u64,
}

/// A filter of one subscription.
pub struct Filter {
    plan: Arc<Plan>,
    /// Absent while a call is under way, and after one that failed.
    instance: Option<Instance>,
}

/// What it takes to make instances.
struct Plan {
    name: String,
    module: weir_wasm::Module,
    settings: Vec<Setting>,
    limits: GuestLimits,
    on_error: FilterOnError,
    modules: Arc<Modules>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("module", &self.plan.name).finish_non_exhaustive()
    }
}

impl Filter {
    /// A filter as `spec` asks for it, of the module with this hash, started once to see whether
    /// it takes the parameters.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidModule`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(
        modules: Arc<Modules>,
        spec: FilterSpec,
        sha256: &str,
    ) -> Result<Filter, WireError> {
        let module = modules.prepare(sha256).await?;
        let given: Vec<(String, String)> = spec.params.into_iter().collect();
        let settings = module.description().settings(&given);
        let settings = settings.map_err(|error| invalid(error.to_string()))?;
        let plan = Plan {
            name: spec.module.to_string(),
            module,
            settings,
            limits: GuestLimits::DEFAULT,
            on_error: spec.on_error,
            modules,
        };
        let mut filter = Filter { plan: Arc::new(plan), instance: None };
        filter.instance =
            Some(filter.on_guest_thread(|plan| async move { plan.start().await }).await?);
        Ok(filter)
    }

    /// Judges the records of `batches` at or behind `from`. Returns what is left of them.
    ///
    /// # Errors
    /// [`ErrorCode::ModuleFailed`] with the offset of a record that the module cannot judge, where
    /// that ends the subscription. The subscription may go on from there with another filter.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future loses an instance, no more.
    pub async fn apply(
        &mut self,
        batches: Vec<Bytes>,
        from: Offset,
    ) -> Result<(Vec<Bytes>, FilterCounts), WireError> {
        let instance = self.instance.take();
        let (instance, result) = self
            .on_guest_thread(move |plan| async move {
                let mut run =
                    Run { plan: &plan, instance, counts: FilterCounts::default(), calls: 0 };
                let mut left = Vec::with_capacity(batches.len());
                for batch in batches {
                    match run.batch(batch, from).await {
                        Ok(batch) => left.extend(batch),
                        Err(error) => return Ok((run.instance, Err(error))),
                    }
                }
                let counts = run.counts;
                Ok((run.instance, Ok((left, counts))))
            })
            .await?;
        self.instance = instance;
        result
    }

    async fn on_guest_thread<T, F>(&self, work: impl FnOnce(Arc<Plan>) -> F) -> Result<T, WireError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WireError>> + Send + 'static,
    {
        let machinery = self.plan.modules.machinery().await?;
        let done = machinery.guests.run(work(self.plan.clone())).await;
        done.unwrap_or_else(|| {
            Err(WireError::new(ErrorCode::ShuttingDown, "the node's guest thread has ended"))
        })
    }
}

impl Plan {
    async fn start(&self) -> Result<Instance, WireError> {
        let started = self.module.start(&self.settings, &self.limits).await;
        started.map_err(|error| invalid(format!("{} does not start: {error}", self.name)))
    }
}

/// One chunk's way through the filter.
struct Run<'a> {
    plan: &'a Plan,
    instance: Option<Instance>,
    counts: FilterCounts,
    calls: u32,
}

impl Run<'_> {
    async fn batch(&mut self, bytes: Bytes, from: Offset) -> Result<Option<Bytes>, WireError> {
        let decoded = RecordBatch::decode_with_records(bytes);
        let (batch, records) =
            decoded.map_err(|e| WireError::new(ErrorCode::Corrupt, e.to_string()))?;
        if batch.header().is_control() {
            return Ok(Some(batch.into_bytes()));
        }
        // The first batch may begin before the position.
        let skip = records.iter().take_while(|record| record.offset < from).count();
        let mut keep = vec![false; records.len()];
        self.judge(&records, skip..records.len(), &mut keep).await?;
        self.counts.records += (records.len() - skip) as u64;
        self.counts.kept += keep.iter().filter(|keep| **keep).count() as u64;
        Ok(match batch.retain(&records, |index| keep[index]) {
            Retained::All => Some(batch.into_bytes()),
            Retained::Nothing => None,
            Retained::Some(left) => Some(left.into_bytes()),
        })
    }

    /// Sets `keep` of each record of `all`.
    async fn judge(
        &mut self,
        records: &Records,
        all: Range<usize>,
        keep: &mut [bool],
    ) -> Result<(), WireError> {
        // What is left to judge, the next on top. A failed call is tried once more as it was.
        let mut waiting = vec![(all, false)];
        self.calls = 0;
        while let Some((range, again)) = waiting.pop() {
            if range.is_empty() {
                continue;
            }
            let offset =
                |index: usize| records.iter().nth(index).map_or(Offset::ZERO, |r| r.offset);
            match self.call(records, range.clone()).await {
                Ok(kept) => self.take(records, range, &kept, keep)?,
                Err(error) if self.calls >= BATCH_RUNS_MAX => {
                    return Err(self.failed(offset(range.start), &error));
                }
                Err(_) if !again => waiting.push((range, true)),
                Err(error) if range.len() == 1 => {
                    self.give_up(offset(range.start), &error, &mut keep[range.start])?;
                }
                Err(_) => {
                    let middle = range.start + range.len() / 2;
                    waiting.push((middle..range.end, true));
                    waiting.push((range.start..middle, true));
                }
            }
        }
        Ok(())
    }

    async fn call(&mut self, records: &Records, range: Range<usize>) -> Result<Kept, String> {
        self.calls += 1;
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.plan.start().await.map_err(|error| error.message)?,
        };
        let called = instance.filter(&Part { records, range, topic: 0 }).await;
        // Nobody reads a filter's log lines yet; errors carry the last one.
        drop(instance.take_log());
        if instance.is_alive() {
            self.instance = Some(instance);
        }
        called.map_err(|error| error.to_string())
    }

    fn take(
        &mut self,
        records: &Records,
        range: Range<usize>,
        kept: &Kept,
        keep: &mut [bool],
    ) -> Result<(), WireError> {
        for index in 0..range.len() {
            keep[range.start + index] = bit(&kept.keep, index);
        }
        for failure in &kept.failures {
            let index = range.start + failure.index as usize;
            let offset = records.iter().nth(index).map_or(Offset::ZERO, |record| record.offset);
            self.give_up(offset, &failure.message, &mut keep[index])?;
        }
        Ok(())
    }

    /// A record that the module cannot judge.
    fn give_up(&mut self, at: Offset, why: &str, keep: &mut bool) -> Result<(), WireError> {
        self.counts.failed += 1;
        match self.plan.on_error {
            FilterOnError::Fail => return Err(self.failed(at, why)),
            FilterOnError::Drop => *keep = false,
            FilterOnError::Keep => *keep = true,
        }
        Ok(())
    }

    fn failed(&self, at: Offset, why: &str) -> WireError {
        let name = &self.plan.name;
        let message = format!(
            "filter {name} failed on the record at offset {at}: {why}; drop or keep such records, \
             or begin behind it"
        );
        let mut error = WireError::new(ErrorCode::ModuleFailed, message);
        error.resume_at = Some(at.plus(1));
        error
    }
}
