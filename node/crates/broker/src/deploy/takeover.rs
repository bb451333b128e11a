//! How a version takes over a lane from the one before, in one entry of the lane's home.
//!
//! | what | before | after the entry |
//! |---|---|---|
//! | which takeover the lane has done | that of the version before | that of the deployment |
//! | state | as the version before left it | the same; or migrated; or that of a snapshot |
//! | position | behind the last batch | the same; or that of the snapshot |
//! | snapshots | up to two | with that of the state before, the oldest of three left out |
//!
//! The entry is there or it is not: after a crash the lane begins again from what its home says,
//! and either has taken over or does so then. Nothing is read from the input in between, so the new
//! version begins at the offset behind the last batch of the old one.

use super::append;
use super::kept::Kept;
use super::lane::LaneTask;
use super::state::{LaneState, lock};
use std::collections::BTreeSet;
use weir_core::deploy::Deployment;
use weir_core::deploy::keys::{Lane, PREFIX_BYTES, Position, Runs};
use weir_core::entry::{StateChange, encode_state};
use weir_core::limits::{LANE_SNAPSHOTS_MAX, LANE_STATE_BYTES_MAX, STATE_BYTES_MAX};
use weir_core::wire::WireError;
use weir_core::{LeaderEpoch, Offset};
use weir_wasm::{Module, Runner};

/// Why a version does not take over. Nothing changed.
#[derive(Debug)]
pub enum TakeoverError {
    /// Something failed that may pass.
    Trouble(WireError),
    /// There are other orders, or the node shuts down.
    Orders,
    /// Only an operator can help.
    Stopped(String),
}

/// Has the version that `deployment` runs take over the lane of `task`, if it has not yet. A lane
/// that has no position begins at `first`.
///
/// # Errors
/// [`TakeoverError`].
///
/// # Cancel safety
/// Cancel safe: the entry is appended or not, and what is there is found at the next start.
pub async fn take_over(
    task: &LaneTask,
    deployment: &Deployment,
    (module, runner): (&Module, &Runner),
    (epoch, first): (LeaderEpoch, Position),
) -> Result<(), TakeoverError> {
    let wanted = Runs {
        takeover: deployment.takeovers,
        schema: module.description().state_schema,
        module: deployment.spec.version.module.to_string(),
    };
    let stored = task.deployments.states().of(task.lane, task.home.id);
    let (position, current) = {
        let state = lock(&stored);
        if state.runs().is_some_and(|runs| runs.takeover == wanted.takeover) {
            return Ok(());
        }
        let position = state.position();
        let known = position.zip(state.runs().cloned());
        (position, known.map(|(position, runs)| state.image(position, runs)))
    };
    let Some(current) = current else {
        // Its first start, or from before takeovers were told apart.
        let position = position.unwrap_or(first);
        let changes = vec![task.lane.set_position(position), task.lane.set_runs(&wanted)];
        return commit(task, epoch, changes).await;
    };
    let index = task.input.index;
    let asked = deployment.restore.iter().find(|(partition, _)| *partition == index);
    let base = match asked {
        None => current.clone(),
        Some((_, offset)) => snapshot_at(&lock(&stored), *offset, wanted.schema)?,
    };
    let next = migrated(base, &wanted, (module, runner)).await?;
    let (changes, kept) = changes(task.lane, &lock(&stored), current, next)?;
    if !kept {
        let message = format!(
            "no snapshot of the state is kept from before {}: with it the state would take more \
             than {LANE_STATE_BYTES_MAX} bytes",
            wanted.module
        );
        task.meter.note(None, &message, task.shared.now());
    }
    commit(task, epoch, changes).await?;
    tracing::info!(deployment = deployment.name, partition = %index, module = wanted.module,
        schema = wanted.schema, "a version took over");
    Ok(())
}

async fn commit(
    task: &LaneTask,
    epoch: LeaderEpoch,
    changes: Vec<StateChange>,
) -> Result<(), TakeoverError> {
    let (states, home) = (task.deployments.states(), (&*task.home, epoch));
    let appending = append::append(&task.shared, states, home, None, changes, None);
    appending.committed().await.map_err(TakeoverError::Trouble)
}

/// The snapshot that was taken at this offset.
fn snapshot_at(state: &LaneState, offset: Offset, schema: u32) -> Result<Kept, TakeoverError> {
    state.kept_at(offset, schema).cloned().ok_or_else(|| {
        TakeoverError::Stopped(format!(
            "there is no snapshot of the state at offset {offset} (any more): see `weir transform \
             describe`, and replace or roll back again"
        ))
    })
}

/// The state as the version keeps it.
async fn migrated(
    base: Kept,
    wanted: &Runs,
    (module, runner): (&Module, &Runner),
) -> Result<Kept, TakeoverError> {
    let Kept { head, own, timers } = base;
    let Some((position, runs)) = head else {
        return Err(TakeoverError::Stopped("the lane's state has no position".to_owned()));
    };
    let same = runs.schema == wanted.schema || own.is_empty();
    let own = match same {
        true => own,
        false if !module.migrates() => {
            return Err(TakeoverError::Stopped(format!(
                "the state is of layout {} ({}), {} keeps layout {} and does not migrate: replace \
                 it by a version that does, or restore a snapshot",
                runs.schema, runs.module, wanted.module, wanted.schema
            )));
        }
        false => {
            let made = runner.migrate(runs.schema, own).await;
            let made = made.map_err(|_| TakeoverError::Orders)?;
            made.map_err(|error| {
                TakeoverError::Stopped(format!(
                    "{} cannot take over state of layout {} ({}): {error}; that state is as it \
                     was: replace or roll back",
                    wanted.module, runs.schema, runs.module
                ))
            })?
        }
    };
    Ok(Kept { head: Some((position, wanted.clone())), own, timers })
}

/// The changes that make `current` into `next`, and whether a snapshot of `current` is among them.
fn changes(
    lane: Lane,
    state: &LaneState,
    current: Kept,
    next: Kept,
) -> Result<(Vec<StateChange>, bool), TakeoverError> {
    let live = live_changes(lane, &current, &next);
    let live_bytes = bytes_of(&next);
    let with = snapshot_changes(lane, state, &current);
    let kept_bytes: usize = with.1.iter().map(|(_, kept)| bytes_of(kept)).sum();
    let all: Vec<StateChange> = live.iter().cloned().chain(with.0).collect();
    let fits = |changes: &[StateChange]| encode_state(changes).len() <= STATE_BYTES_MAX;
    if live_bytes + kept_bytes <= LANE_STATE_BYTES_MAX && fits(&all) {
        return Ok((all, true));
    }
    let without: Vec<StateChange> = live.into_iter().chain(state.kept_removal(lane)).collect();
    match live_bytes <= LANE_STATE_BYTES_MAX && fits(&without) {
        true => Ok((without, false)),
        false => Err(TakeoverError::Stopped(format!(
            "the migrated state would take {live_bytes} bytes, or more than one entry can change: \
             at most {LANE_STATE_BYTES_MAX} are kept"
        ))),
    }
}

fn live_changes(lane: Lane, current: &Kept, next: &Kept) -> Vec<StateChange> {
    let mut changes = Vec::new();
    for key in current.own.keys().chain(next.own.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (current.own.get(key), next.own.get(key));
        if before != after {
            changes.push(lane.set_own(key, after.cloned()));
        }
    }
    for key in current.timers.keys().chain(next.timers.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (current.timers.get(key), next.timers.get(key));
        if before != after {
            changes.push(lane.set_timer(key, after.copied()));
        }
    }
    if let Some((position, runs)) = &next.head {
        changes.push(lane.set_position(*position));
        changes.push(lane.set_runs(runs));
    }
    changes
}

/// What adds a snapshot of `current` to those there are, and all that there are then.
fn snapshot_changes(
    lane: Lane,
    state: &LaneState,
    current: &Kept,
) -> (Vec<StateChange>, Vec<(u8, Kept)>) {
    let mut all: Vec<(u8, Kept)> =
        state.kept_by_slot().map(|(slot, kept)| (slot, kept.clone())).collect();
    let mut changes = Vec::new();
    if all.len() >= LANE_SNAPSHOTS_MAX {
        let age = |kept: &Kept| kept.head.as_ref().map(|(_, runs)| runs.takeover);
        all.sort_by_key(|(_, kept)| age(kept));
        let (slot, oldest) = all.remove(0);
        changes.extend(oldest.removal(lane, slot));
    }
    let used: BTreeSet<u8> = all.iter().map(|(slot, _)| *slot).collect();
    let slot = (0..=u8::MAX).find(|slot| !used.contains(slot)).unwrap_or(0);
    // What the oldest had in this slot and the new one has, too, is written and not removed.
    let written = current.changes(lane, slot);
    let keys: BTreeSet<_> = written.iter().map(|change| change.key.clone()).collect();
    changes.retain(|change| !keys.contains(&change.key));
    changes.extend(written);
    all.push((slot, current.clone()));
    (changes, all)
}

fn bytes_of(kept: &Kept) -> usize {
    let around = PREFIX_BYTES + 10;
    let own = kept.own.iter().map(|(key, value)| around + key.len() + value.len());
    let timers = kept.timers.keys().map(|key| around + key.len() + 8);
    own.chain(timers).sum()
}
