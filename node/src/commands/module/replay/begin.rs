//! Where a replay can begin: where the state is known that the module had.

use crate::commands::sdk;
use crate::exit::{Exit, Failure};
use weir_client::Client;
use weir_core::deploy::Deployment;
use weir_core::wire::deployments::LaneInfo;
use weir_core::{Offset, PartitionIndex, TimestampMs};
use weir_wasm::columns::{ColumnSet, Watermark};
use weir_wasm::state::MemoryState;
use weir_wasm::{Module, Runner};

/// A place to begin at, with the state there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Begin {
    /// Without state: at the lane's own beginning, or anywhere if there is none.
    Fresh(Offset),
    /// With that of a snapshot.
    Snapshot(Offset),
}

impl Begin {
    /// The first record to run.
    pub fn offset(self) -> Offset {
        match self {
            Begin::Fresh(offset) | Begin::Snapshot(offset) => offset,
        }
    }
}

/// Whether what the module makes of a record depends on that record alone.
pub fn is_stateless(module: &Module, lane: &LaneInfo) -> bool {
    let about = module.description();
    about.state_schema == 0
        && !about.columns.contains(ColumnSet::WATERMARKS)
        && lane.state_keys == 0
        && lane.snapshots.iter().all(|snapshot| snapshot.keys == 0)
}

/// Where to begin in order to replay what comes from `from` on; `None`: from where the present
/// version took over, as far as that is known, or else from as early as can be. What lies between
/// is run, too, and what comes of it is left out.
///
/// # Errors
/// The state at `from` cannot be had; where it can is said.
pub fn choose(
    deployment: &Deployment,
    (lane, log_start): (&LaneInfo, Offset),
    stateless: bool,
    from: Option<Offset>,
) -> Result<Begin, Failure> {
    if let Some(from) = from.filter(|from| *from < log_start) {
        let what = format!(
            "partition {} of {} begins at offset {log_start} now: what was at {from} is gone",
            lane.partition, deployment.spec.from
        );
        return Err(Failure::new(Exit::Refused, what));
    }
    let taken = lane.snapshots.iter().map(|snapshot| snapshot.offset);
    let taken = taken.filter(|at| *at >= log_start);
    if stateless {
        let present = taken.max().unwrap_or(log_start);
        return Ok(Begin::Fresh(from.unwrap_or(present)));
    }
    let mut all: Vec<Begin> = taken.map(Begin::Snapshot).collect();
    // A lane that began elsewhere than at the first record ever has not told where.
    if log_start == Offset::ZERO && !deployment.spec.from_latest {
        all.push(Begin::Fresh(Offset::ZERO));
    }
    all.sort_by_key(|begin| begin.offset());
    let found = match from {
        None => all.last(),
        Some(from) => all.iter().rfind(|begin| begin.offset() <= from),
    };
    found.copied().ok_or_else(|| {
        let offsets: Vec<String> = all.iter().map(|begin| begin.offset().to_string()).collect();
        let what = format!(
            "the module has state, and what it was in partition {} {} is not kept",
            lane.partition,
            from.map_or("at its beginning".to_owned(), |from| format!("at offset {from}")),
        );
        let next = match offsets.is_empty() {
            true => "Nothing can be replayed here: the log begins behind the first record, or the \
                     deployment did (--from-latest), and there is no snapshot from a takeover."
                .to_owned(),
            false => format!("It can be replayed from: {} on.", offsets.join(", ")),
        };
        Failure::new(Exit::Refused, what).next(next)
    })
}

/// The state and watermark at a begin, as `module` keeps them.
///
/// # Errors
/// The node no longer has the snapshot, or the module cannot take over from it.
pub async fn state(
    client: &Client,
    (name, index): (&str, PartitionIndex),
    begin: Begin,
    (module, runner): (&Module, &Runner),
) -> Result<(MemoryState, TimestampMs), Failure> {
    let Begin::Snapshot(offset) = begin else {
        return Ok((MemoryState::default(), Watermark::START.at));
    };
    let failed = |error| sdk::request_failure(&format!("fetching the state of {name}"), &error);
    let mut state = MemoryState::default();
    let (mut skip, mut head) = (0, None);
    let (schema, was, watermark) = loop {
        let page = client.admin().lane_snapshot(name, index, (offset, skip)).await;
        let page = page.map_err(failed)?;
        if head.replace(page.takeover).is_some_and(|takeover| takeover != page.takeover) {
            let what = format!("the snapshot at offset {offset} was let go meanwhile");
            return Err(Failure::new(Exit::Error, what).next("Try again."));
        }
        state.entries.extend(page.entries);
        state.timers.extend(page.timers);
        match page.next {
            Some(next) => skip = next,
            None => break (page.schema, page.module, page.watermark),
        }
    };
    let wanted = module.description().state_schema;
    if schema == wanted || state.entries.is_empty() {
        return Ok((state, watermark));
    }
    if !module.migrates() {
        let what = format!(
            "the state at offset {offset} is of layout {schema} ({was}); the module keeps layout \
             {wanted} and does not migrate"
        );
        return Err(Failure::new(Exit::Refused, what));
    }
    let migrated = runner.migrate(schema, state.entries).await.map_err(anyhow::Error::from)?;
    state.entries = migrated.map_err(|error| {
        let what = format!("the module cannot take over state of layout {schema} ({was}): {error}");
        Failure::new(Exit::Refused, what)
    })?;
    Ok((state, watermark))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::deploy::{DeploymentId, DeploymentKind, DeploymentSpec, Mode, OnError, Version};
    use weir_core::wire::deployments::LaneSnapshot;

    fn deployment(from_latest: bool) -> Deployment {
        let module = "m@1.0.0".parse().unwrap();
        Deployment {
            id: DeploymentId(1),
            name: "t".into(),
            spec: DeploymentSpec {
                kind: DeploymentKind::Transform,
                version: Version { module, params: [].into() },
                from: "in".into(),
                to: vec!["out".into()],
                on_error: OnError::Stop,
                dead_letter: None,
                from_latest,
                retries: 0,
                lateness_ms: 0,
                http: None,
                cpu_percent: 0,
                log_topic: None,
            },
            mode: Mode::Direct,
            paused: false,
            previous: None,
            takeovers: 0,
            restore: Vec::new(),
            resumes: 0,
            ending: false,
            created_at: TimestampMs(0),
        }
    }

    fn lane(snapshots: &[i64]) -> LaneInfo {
        let snapshot = |at: &i64| LaneSnapshot {
            offset: Offset(*at),
            module: "m@0.9.0".into(),
            schema: 1,
            keys: 1,
        };
        LaneInfo { snapshots: snapshots.iter().map(snapshot).collect(), ..LaneInfo::default() }
    }

    /// Goal: a replay begins at the last place before what is asked for where the state is known,
    /// and where there is none it is said which places there are.
    #[test]
    fn begins() {
        let choose = |from_latest, snapshots: &[i64], log_start, stateless, from: Option<i64>| {
            let (deployment, lane) = (deployment(from_latest), lane(snapshots));
            let at = (&lane, Offset(log_start));
            choose(&deployment, at, stateless, from.map(Offset))
                .map_err(|failure| format!("{} {}", failure.what, failure.next.unwrap_or_default()))
        };
        let (fresh, kept) =
            (|at| Ok(Begin::Fresh(Offset(at))), |at| Ok(Begin::Snapshot(Offset(at))));
        assert_eq!(choose(false, &[], 7, true, None), fresh(7));
        assert_eq!(choose(true, &[], 7, true, Some(9)), fresh(9));
        assert_eq!(choose(false, &[40], 0, true, None), fresh(40));
        assert_eq!(choose(false, &[], 0, false, None), fresh(0));
        assert_eq!(choose(false, &[40], 0, false, None), kept(40));
        assert_eq!(choose(false, &[40], 0, false, Some(39)), fresh(0));
        assert_eq!(choose(false, &[40, 60], 0, false, Some(59)), kept(40));
        assert_eq!(choose(true, &[40, 60], 0, false, None), kept(60));
        assert_eq!(choose(false, &[40, 60], 50, false, Some(70)), kept(60));
        let refused = choose(false, &[40, 60], 50, false, Some(55)).unwrap_err();
        assert!(refused.contains("at offset 55") && refused.contains("from: 60 on"), "{refused}");
        let refused = choose(false, &[40], 50, false, None).unwrap_err();
        assert!(refused.contains("Nothing can be replayed"), "{refused}");
        let refused = choose(false, &[], 50, true, Some(49)).unwrap_err();
        assert!(refused.contains("begins at offset 50"), "{refused}");
    }
}
