//! The module that checks what is produced to a topic, at work on one of its partitions.
//!
//! Each batch is one call on a thread for guests. A batch is appended as it was produced, appended
//! as the module rewrote it, or refused whole; a module that fails refuses the batch and nothing
//! else.

use super::meter::CheckMeter;
use super::{Modules, invalid};
use crate::registry::Registry;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use weir_core::Offset;
use weir_core::deploy::Version;
use weir_core::limits::{CHECK_REASON_BYTES_MAX, CHECK_REASONS_MAX};
use weir_core::module::{ModuleError, ModuleKind};
use weir_core::record::{Compression, RecordBatch, Records};
use weir_core::wire::{ErrorCode, WireError};
use weir_wasm::abi::Failure;
use weir_wasm::bisect::OnError;
use weir_wasm::{
    Checked, Denied, Deployment, GuestError, GuestLimits, RewriteError, Runner, Stopped,
    Surroundings, rewrite,
};

/// A check of one partition.
#[derive(Debug)]
pub struct Check {
    version: Arc<Version>,
    runner: Runner,
    meter: Arc<CheckMeter>,
}

impl Check {
    /// The module of `version`, ready to check a partition of `topic`. It is started with the first
    /// batch.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownModule`], [`ErrorCode::InvalidModule`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(
        modules: &Arc<Modules>,
        registry: &Registry,
        topic: &str,
        version: Arc<Version>,
    ) -> Result<Check, WireError> {
        let deployment = deployment(modules, registry, &version).await?;
        let meter = modules.meters().of_check(topic, &version.module.to_string());
        let runner = modules.run(deployment).await?;
        Ok(Check { version, runner, meter })
    }

    /// Whether it is what the topic asks for.
    #[must_use]
    pub fn is(&self, version: &Arc<Version>) -> bool {
        Arc::ptr_eq(&self.version, version)
    }

    /// Judges a batch: what is to be appended in its place.
    ///
    /// # Errors
    /// [`ErrorCode::CheckRejected`] with the reasons; [`ErrorCode::ModuleFailed`];
    /// [`ErrorCode::BatchTooLarge`] for what the module made of it; [`ErrorCode::Busy`] where the
    /// node's guests have no memory left. The batch is not to be appended.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn judge(
        &self,
        batch: RecordBatch,
        compression: Compression,
    ) -> Result<RecordBatch, WireError> {
        // What a producer writes there means nothing: the module sees offsets from 0 on.
        let epoch = batch.header().epoch;
        let batch = batch.with_base(Offset::ZERO, epoch);
        let records = batch.records();
        let records =
            records.map_err(|error| WireError::new(ErrorCode::InvalidBatch, error.to_string()))?;
        let Checked { verdict, report } =
            self.runner.check(records.clone()).await.map_err(stopped)?;
        for line in &report.log {
            tracing::debug!(check = %self.version.module, level = ?line.level, "{}", line.message);
        }
        let add = |to: &std::sync::atomic::AtomicU64, count: usize| {
            to.fetch_add(count as u64, Ordering::Relaxed);
        };
        let meter = &self.meter;
        add(&meter.batches, 1);
        add(&meter.cpu_ns, usize::try_from(report.cpu.as_nanos()).unwrap_or(usize::MAX));
        let failed = |error: WireError| {
            add(&meter.failed, 1);
            error
        };
        let verdict = verdict.map_err(|error| failed(self.failed(&error)))?;
        if !verdict.rejected.is_empty() {
            add(&meter.records, records.len());
            add(&meter.rejected, verdict.rejected.len());
            add(&meter.refused, 1);
            return Err(self.rejected(&verdict.rejected, records.len()));
        }
        let Some(change) = verdict.rewritten else {
            add(&meter.records, records.len());
            return Ok(batch);
        };
        let made = rewrite(batch.header(), &records, &change, compression);
        let made = made.map_err(|error| failed(self.not_rewritten(&error)))?;
        add(&meter.records, records.len());
        add(&meter.rewritten, records.len());
        Ok(made)
    }

    fn rejected(&self, rejected: &[Failure], records: usize) -> WireError {
        let mut message = format!(
            "{} rejected {} of the {records} records of a batch, which was refused whole",
            self.version.module,
            rejected.len()
        );
        for Failure { index, message: reason } in rejected.iter().take(CHECK_REASONS_MAX) {
            let cut = reason.floor_char_boundary(CHECK_REASON_BYTES_MAX);
            // Writing to a string cannot fail.
            let _ = write!(message, "; record {index}: {}", &reason[..cut]);
        }
        if rejected.len() > CHECK_REASONS_MAX {
            let _ = write!(message, "; and {} more", rejected.len() - CHECK_REASONS_MAX);
        }
        WireError::new(ErrorCode::CheckRejected, message)
    }

    fn failed(&self, error: &GuestError) -> WireError {
        let code = match error {
            GuestError::Trapped { denied: Some(Denied::NodeMemory { .. }), .. } => ErrorCode::Busy,
            _ => ErrorCode::ModuleFailed,
        };
        let module = &self.version.module;
        let cut = error.to_string();
        let cut = &cut[..cut.floor_char_boundary(4 * CHECK_REASON_BYTES_MAX)];
        let message = format!("{module}, which checks the topic, failed on the batch: {cut}");
        WireError::new(code, message)
    }

    fn not_rewritten(&self, error: &RewriteError) -> WireError {
        let code = match error {
            RewriteError::BatchTooLarge => ErrorCode::BatchTooLarge,
            _ => ErrorCode::ModuleFailed,
        };
        WireError::new(code, format!("{}, which checks the topic: {error}", self.version.module))
    }
}

/// Whether a topic can be checked so: the module is there, takes the parameters, and starts.
///
/// # Errors
/// As [`Check::open`].
///
/// # Cancel safety
/// Cancel safe.
pub async fn try_version(
    modules: &Arc<Modules>,
    registry: &Registry,
    version: &Version,
) -> Result<(), WireError> {
    let deployment = deployment(modules, registry, version).await?;
    let probe = modules.run(deployment).await?;
    let started = probe.check(Records::empty()).await.map_err(stopped)?;
    match started.verdict {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid(format!("{} does not start: {error}", version.module))),
    }
}

async fn deployment(
    modules: &Arc<Modules>,
    registry: &Registry,
    version: &Version,
) -> Result<Deployment, WireError> {
    let id = &version.module;
    let module = registry.module(id).ok_or_else(|| {
        let message = ModuleError::Unknown(id.clone()).to_string();
        WireError::new(ErrorCode::UnknownModule, message)
    })?;
    if module.kind != ModuleKind::ProduceCheck {
        let is = module.kind.name();
        return Err(invalid(format!(
            "{id} is a {is}, not a produce-check: --on-produce takes modules of that world"
        )));
    }
    let module = modules.prepare(&module.sha256).await?;
    let given: Vec<(String, String)> = version.params.clone().into_iter().collect();
    let settings = module.description().settings(&given);
    let settings = settings.map_err(|error| invalid(error.to_string()))?;
    let limits = GuestLimits::PRODUCE;
    // Neither is looked at: a check has no bad records, only rejected ones, and no outputs.
    let (on_error, topics) = (OnError::Stop, 0);
    let around = Surroundings::default();
    Ok(Deployment { module, settings, limits, on_error, topics, around })
}

fn stopped(stopped: Stopped) -> WireError {
    WireError::new(ErrorCode::ShuttingDown, stopped.to_string())
}
