//! Whether another version may take over a deployment, with the state that its lanes have.

use super::append;
use super::state::{LaneState, States, lock};
use crate::broker::Shared;
use crate::modules::Modules;
use std::sync::Arc;
use weir_core::deploy::keys::{Lane, Runs};
use weir_core::deploy::{DeployError, Deployment, DeploymentKind, Version};
use weir_core::limits;
use weir_core::wire::deployments::LaneSnapshot;
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{Offset, PartitionId, PartitionIndex};
use weir_wasm::bisect::OnError;
use weir_wasm::{GuestLimits, Module, Surroundings, Work};

/// Partitions whose state and position go back to the snapshot of an offset.
pub type Restore = Vec<(PartitionIndex, Offset)>;

/// What an operator asks for.
pub struct Asked<'a> {
    /// The version.
    pub wanted: &'a Version,
    /// Its module.
    pub prepared: &'a Module,
    /// What goes back to snapshots.
    pub restore: &'a Restore,
    /// Whether it is the version before that is asked for.
    pub rollback: bool,
}

/// What is kept of a lane, for an operator.
#[must_use]
pub fn snapshots(state: &LaneState) -> Vec<LaneSnapshot> {
    let heads = state.kept().filter_map(|kept| kept.head.as_ref().map(|head| (head, kept)));
    let mut all: Vec<LaneSnapshot> = heads
        .map(|((position, runs), kept)| LaneSnapshot {
            offset: position.next,
            module: runs.module.clone(),
            schema: runs.schema,
            keys: (kept.own.len() + kept.timers.len()) as u64,
        })
        .collect();
    all.sort_by_key(|snapshot| snapshot.offset);
    all
}

/// Whether the version can take over every lane whose home this node leads.
///
/// # Errors
/// [`ErrorCode::StateSchema`] where a lane's state has another layout that the version does not
/// take; [`ErrorCode::InvalidArgument`] for a snapshot that is not there; [`ErrorCode::Busy`] while
/// lanes have yet to go back to a snapshot that was asked for before.
///
/// # Cancel safety
/// Cancel safe.
pub async fn check(
    shared: &Arc<Shared>,
    states: &Arc<States>,
    (known, lanes): (&Deployment, &[(Lane, PartitionId)]),
    asked: &Asked<'_>,
) -> Result<(), WireError> {
    settle(shared, states, known, lanes).await?;
    let argument = |message: String| WireError::new(ErrorCode::InvalidArgument, message);
    for (at, (partition, _)) in asked.restore.iter().enumerate() {
        let twice = asked.restore[..at].iter().any(|(other, _)| other == partition);
        if twice || partition.0 as usize >= lanes.len() {
            let message =
                format!("partition {partition} to restore is named twice or is not there");
            return Err(argument(message));
        }
    }
    for (at, (lane, home)) in lanes.iter().enumerate() {
        let index = PartitionIndex(at as u32);
        if !is_led(shared, *home) {
            // The node that leads it says.
            continue;
        }
        let state = states.of(*lane, *home);
        let state = lock(&state);
        let Some(runs) = state.runs() else { continue };
        if !known.restore.is_empty() && runs.takeover < known.takeovers {
            let message = format!(
                "partition {index} has yet to go back to the snapshot that was asked for last: \
                 wait, or resume the deployment"
            );
            return Err(WireError::new(ErrorCode::Busy, message));
        }
        let asked_for = asked.restore.iter().find(|(partition, _)| *partition == index);
        let Some((_, offset)) = asked_for else {
            check_layout(asked, index, runs, state.keys() == 0)?;
            continue;
        };
        let schema = asked.prepared.description().state_schema;
        let found = state.kept_at(*offset, schema);
        let Some((kept, (_, runs))) = found.and_then(|kept| kept.head.as_ref().map(|h| (kept, h)))
        else {
            let offsets: Vec<_> = snapshots(&state).iter().map(|s| s.offset.to_string()).collect();
            return Err(argument(format!(
                "partition {index} has no snapshot at offset {offset}, but at: {}",
                if offsets.is_empty() { "none".to_owned() } else { offsets.join(", ") }
            )));
        };
        let input = shared.registry.partition_by_id(lane.input);
        let start = input.map_or(Offset::ZERO, |input| input.progress_now().log_start);
        if *offset < start {
            return Err(argument(format!(
                "the input of partition {index} begins at offset {start} now: what lies between \
                 there and offset {offset} cannot be read again"
            )));
        }
        let restoring = Asked { rollback: false, ..*asked };
        check_layout(&restoring, index, runs, kept.own.is_empty())?;
    }
    Ok(())
}

fn is_led(shared: &Shared, home: PartitionId) -> bool {
    let home = shared.registry.partition_by_id(home);
    home.is_some_and(|home| home.progress_now().led)
}

fn check_layout(
    asked: &Asked<'_>,
    partition: PartitionIndex,
    runs: &Runs,
    empty: bool,
) -> Result<(), WireError> {
    let (module, schema) = (&asked.wanted.module, asked.prepared.description().state_schema);
    if runs.schema == schema || empty || (asked.prepared.migrates() && !asked.rollback) {
        return Ok(());
    }
    let why = match asked.rollback {
        true => "to go back, restore a snapshot that has its layout (--restore-state)",
        false => {
            "and does not migrate: push a version that exports `migrate`, or restore a snapshot \
             that has its layout (--restore-state)"
        }
    };
    let message = format!(
        "the state of partition {partition} is of layout {} ({}), {module} keeps layout {schema}: \
         {why}; see `weir transform describe`",
        runs.schema, runs.module
    );
    Err(WireError::new(ErrorCode::StateSchema, message))
}

/// Lanes from before layouts were stored: their state is of the version that runs.
async fn settle(
    shared: &Arc<Shared>,
    states: &Arc<States>,
    known: &Deployment,
    lanes: &[(Lane, PartitionId)],
) -> Result<(), WireError> {
    let unknown = |(lane, home): &&(Lane, PartitionId)| {
        if !is_led(shared, *home) {
            return false;
        }
        let state = states.of(*lane, *home);
        let state = lock(&state);
        state.runs().is_none() && state.position().is_some()
    };
    let unknown: Vec<_> = lanes.iter().filter(unknown).collect();
    let id = &known.spec.version.module;
    let Some(module) = shared.registry.module(id).filter(|_| !unknown.is_empty()) else {
        return Ok(());
    };
    let schema = shared.modules.prepare(&module.sha256).await?.description().state_schema;
    let runs = Runs { takeover: known.takeovers, schema, module: id.to_string() };
    for (lane, home) in unknown {
        let Some(home) = shared.registry.partition_by_id(*home) else { continue };
        let (epoch, changes) = (home.figures().epoch, vec![lane.set_runs(&runs)]);
        append::append(shared, states, (&home, epoch), None, changes, None).committed().await?;
    }
    Ok(())
}

/// Whether the module starts with these parameters. Returns it.
///
/// # Errors
/// [`ErrorCode::UnknownModule`], [`ErrorCode::InvalidModule`].
///
/// # Cancel safety
/// Cancel safe.
pub async fn check_version(
    shared: &Shared,
    kind: DeploymentKind,
    version: &Version,
) -> Result<Module, WireError> {
    let id = &version.module;
    let modules: &Arc<Modules> = &shared.modules;
    let module = shared.registry.module(id).ok_or_else(|| {
        let message = format!("there is no module {id}; see: weir module list");
        WireError::new(ErrorCode::UnknownModule, message)
    })?;
    let invalid = |message: String| WireError::new(ErrorCode::InvalidModule, message);
    if module.kind != kind.module() {
        let (module, is, wanted) = (id.clone(), module.kind.name(), kind.name());
        return Err(invalid(DeployError::Kind { module, is, wanted }.to_string()));
    }
    let prepared = modules.prepare(&module.sha256).await?;
    let given: Vec<_> = version.params.clone().into_iter().collect();
    let settings = prepared.description().settings(&given);
    let settings = settings.map_err(|error| invalid(error.to_string()))?;
    let limits = GuestLimits::DEFAULT;
    let probe = weir_wasm::Deployment {
        module: prepared.clone(),
        settings,
        limits,
        on_error: OnError::Stop,
        topics: limits::DEPLOYMENT_OUTPUTS_MAX,
        around: Surroundings::default(),
    };
    let work = Work {
        records: None,
        topic: 0,
        watermark: weir_wasm::columns::Watermark::START,
        state: Arc::new(weir_wasm::state::NoState),
    };
    let started = modules.run(probe).await?.process(work).await;
    let started =
        started.map_err(|error| WireError::new(ErrorCode::ShuttingDown, error.to_string()))?;
    match started.report.stopped_at() {
        None => Ok(prepared),
        Some(judged) => Err(invalid(format!("{id} does not start: {}", judged.error))),
    }
}
