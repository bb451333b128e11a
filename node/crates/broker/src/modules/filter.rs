//! A filter at work on a subscription.
//!
//! Each batch is one call on a thread for guests. Batches of which everything is kept go on as they
//! are stored. What becomes of a record that the module cannot judge is the subscriber's choice;
//! the search for that record is the engine crate's ([`weir_wasm::bisect`]).

use super::meter::FilterMeter;
use super::{Modules, invalid};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_core::Offset;
use weir_core::record::{RecordBatch, Records, Retained};
use weir_core::wire::message::{FilterOnError, FilterSpec};
use weir_core::wire::{ErrorCode, WireError};
use weir_wasm::bisect::{Judged, Judgement, OnError};
use weir_wasm::columns::bit;
use weir_wasm::{Deployment, GuestLimits, Runner, Stopped, Surroundings};

/// A filter of one subscription.
#[derive(Debug)]
pub struct Filter {
    name: String,
    runner: Runner,
    on_error: FilterOnError,
    meter: Arc<FilterMeter>,
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
        modules: &Arc<Modules>,
        spec: FilterSpec,
        sha256: &str,
    ) -> Result<Filter, WireError> {
        let module = modules.prepare(sha256).await?;
        let given: Vec<(String, String)> = spec.params.into_iter().collect();
        let settings = module.description().settings(&given);
        let settings = settings.map_err(|error| invalid(error.to_string()))?;
        let deployment = Deployment {
            module,
            settings,
            limits: GuestLimits::DEFAULT,
            // What is passed over is told, and dealt with here.
            on_error: OnError::Skip,
            topics: 0,
            around: Surroundings::default(),
        };
        let name = spec.module.to_string();
        let meter = modules.meters().of(&name);
        let runner = modules.run(deployment).await?;
        let filter = Filter { name, runner, on_error: spec.on_error, meter };
        let started = filter.runner.filter(Records::empty()).await.map_err(stopped)?;
        match started.report.judged.first() {
            None => Ok(filter),
            Some(Judged { error, .. }) => {
                Err(invalid(format!("{} does not start: {error}", filter.name)))
            }
        }
    }

    /// Judges the records of `batches` at or behind `from`. Returns what is left of them.
    ///
    /// # Errors
    /// [`ErrorCode::ModuleFailed`] with the offset of a record that the module cannot judge, where
    /// that ends the subscription. The subscription may go on from there with another filter.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn apply(
        &mut self,
        batches: Vec<Bytes>,
        from: Offset,
    ) -> Result<Vec<Bytes>, WireError> {
        let mut left = Vec::with_capacity(batches.len());
        for batch in batches {
            left.extend(self.batch(batch, from).await?);
        }
        Ok(left)
    }

    async fn batch(&self, bytes: Bytes, from: Offset) -> Result<Option<Bytes>, WireError> {
        let decoded = RecordBatch::decode_with_records(bytes);
        let (batch, records) =
            decoded.map_err(|error| WireError::new(ErrorCode::Corrupt, error.to_string()))?;
        if batch.header().is_control() {
            return Ok(Some(batch.into_bytes()));
        }
        let filtered = self.runner.filter(records.clone()).await.map_err(stopped)?;
        // The first batch may begin before the position.
        let skip = records.iter().take_while(|record| record.offset < from).count();
        let mut keep = filtered.keep;
        for judged in &filtered.report.judged {
            let index = judged.index as usize;
            if index >= skip {
                self.judged(judged, &records, &mut keep)?;
            }
        }
        let kept = (skip..records.len()).filter(|index| bit(&keep, *index)).count();
        self.count((records.len() - skip) as u64, kept as u64, filtered.report.cpu);
        if kept == records.len() - skip {
            // What lies before the position is passed over by the subscriber, as without a filter.
            return Ok(Some(batch.into_bytes()));
        }
        Ok(match batch.retain(&records, |index| index >= skip && bit(&keep, index)) {
            Retained::All => Some(batch.into_bytes()),
            Retained::Nothing => None,
            Retained::Some(left) => Some(left.into_bytes()),
        })
    }

    /// A record that the module cannot judge.
    fn judged(&self, judged: &Judged, records: &Records, keep: &mut [u8]) -> Result<(), WireError> {
        self.meter.failed.fetch_add(1, Ordering::Relaxed);
        let index = judged.index as usize;
        match self.on_error {
            // The batch holds so many bad records that what is behind this one was not judged.
            _ if judged.judgement == Judgement::Stop => {}
            FilterOnError::Fail => {}
            FilterOnError::Drop => return Ok(()),
            FilterOnError::Keep => {
                if let Some(byte) = keep.get_mut(index / 8) {
                    *byte |= 1 << (index % 8);
                }
                return Ok(());
            }
        }
        let at = records.iter().nth(index).map_or(Offset::ZERO, |record| record.offset);
        let (name, why) = (&self.name, &judged.error);
        let message = format!(
            "filter {name} failed on the record at offset {at}: {why}; drop or keep such records, \
             or begin behind it"
        );
        let mut error = WireError::new(ErrorCode::ModuleFailed, message);
        error.resume_at = Some(at.plus(1));
        Err(error)
    }

    fn count(&self, records: u64, kept: u64, cpu: std::time::Duration) {
        let meter = &self.meter;
        meter.records.fetch_add(records, Ordering::Relaxed);
        meter.kept.fetch_add(kept, Ordering::Relaxed);
        let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        meter.cpu_ns.fetch_add(cpu, Ordering::Relaxed);
    }
}

fn stopped(stopped: Stopped) -> WireError {
    WireError::new(ErrorCode::ShuttingDown, stopped.to_string())
}
