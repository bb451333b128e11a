//! How deployments go, for operators: what this node knows, and in a cluster what the others say of
//! the lanes that work there.

use super::meter::Meter;
use super::state::lock;
use super::{Deployments, unknown, versions};
use crate::broker::Shared;
use crate::partition::Partition;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_core::deploy::keys::Lane;
use weir_core::deploy::{Deployment, Mode};
use weir_core::wire::WireError;
use weir_core::wire::deployments::{
    DeploymentInfo, DeploymentStatus, LaneCondition, LaneInfo, ModuleLine,
};
use weir_core::wire::message::{Request, Response};
use weir_core::{Offset, PartitionId, PartitionIndex};

impl Deployments {
    /// Some deployments, or all, and how they go on this node: lanes that work elsewhere are left
    /// out.
    ///
    /// # Errors
    /// [`UnknownDeployment`](weir_core::wire::ErrorCode::UnknownDeployment).
    pub fn list_here(
        &self,
        shared: &Shared,
        names: Option<&[String]>,
    ) -> Result<Vec<DeploymentInfo>, WireError> {
        let registry = &shared.registry;
        let chosen: Vec<Deployment> = match names {
            None => registry.deployments(),
            Some(names) => names
                .iter()
                .map(|name| registry.deployment(name).ok_or_else(|| unknown(name)))
                .collect::<Result<_, _>>()?,
        };
        Ok(chosen.into_iter().map(|deployment| self.info(shared, deployment)).collect())
    }

    /// Some deployments, or all, and how they go, wherever their lanes work.
    ///
    /// # Errors
    /// [`UnknownDeployment`](weir_core::wire::ErrorCode::UnknownDeployment).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(
        &self,
        shared: &Arc<Shared>,
        names: Option<Vec<String>>,
    ) -> Result<Vec<DeploymentInfo>, WireError> {
        let mut infos = self.list_here(shared, names.as_deref())?;
        let elsewhere = |info: &DeploymentInfo| self.lanes(shared, info) > info.partitions.len();
        let mut others = Vec::new();
        if let Some(site) = shared.site.as_ref().filter(|_| infos.iter().any(elsewhere)) {
            let names = infos.iter().map(|info| info.deployment.name.clone()).collect();
            for (_, answer) in site.ask_others(&Request::Deployments { names: Some(names) }).await {
                if let Ok(Response::Deployments { deployments }) = answer {
                    others.extend(deployments);
                }
            }
        }
        for info in &mut infos {
            let theirs = others.iter().filter(|other| other.deployment.id == info.deployment.id);
            let theirs: Vec<_> = theirs.flat_map(|other| other.partitions.clone()).collect();
            self.complete(shared, info, theirs);
        }
        Ok(infos)
    }

    /// How one goes, wherever its lanes work.
    pub(super) async fn everywhere(
        &self,
        shared: &Arc<Shared>,
        deployment: Deployment,
    ) -> DeploymentInfo {
        let found = self.list(shared, Some(vec![deployment.name.clone()])).await;
        match found.ok().and_then(|mut found| found.pop()) {
            Some(info) => DeploymentInfo { deployment, ..info },
            None => DeploymentInfo { deployment, partitions: Vec::new() },
        }
    }

    /// How many lanes a deployment has.
    fn lanes(&self, shared: &Shared, info: &DeploymentInfo) -> usize {
        let input = shared.registry.topic(&info.deployment.spec.from);
        input.map_or(0, |input| input.config.partitions as usize)
    }

    /// Adds what others say of their lanes, and that of some there is nothing to say.
    fn complete(&self, shared: &Shared, info: &mut DeploymentInfo, theirs: Vec<LaneInfo>) {
        let mut all: BTreeMap<PartitionIndex, LaneInfo> = BTreeMap::new();
        for lane in std::mem::take(&mut info.partitions).into_iter().chain(theirs) {
            all.entry(lane.partition).or_insert(lane);
        }
        for partition in (0..self.lanes(shared, info)).map(|at| PartitionIndex(at as u32)) {
            all.entry(partition).or_insert_with(|| {
                let state = LaneCondition::Waiting;
                LaneInfo { partition, state, ..LaneInfo::default() }
            });
        }
        info.partitions = all.into_values().collect();
    }

    /// Lines that a deployment's module logged on this node: see
    /// [`ModuleLog::lines`](super::log::ModuleLog::lines).
    ///
    /// # Errors
    /// [`UnknownDeployment`](weir_core::wire::ErrorCode::UnknownDeployment).
    pub fn log_here(
        &self,
        shared: &Shared,
        name: &str,
        from: Option<u64>,
        count: usize,
    ) -> Result<(Vec<ModuleLine>, u64), WireError> {
        let log = lock(&self.running).get(name).map(|running| running.log.clone());
        match log {
            Some(log) => Ok(log.lines(from, count)),
            // It runs elsewhere only: this node holds no records.
            None if shared.registry.deployment(name).is_some() => {
                Ok((Vec::new(), from.unwrap_or(0)))
            }
            None => Err(unknown(name)),
        }
    }

    /// Lines that a deployment's module logged, on all nodes, in the order of their numbers. Those
    /// of one node are in order; between nodes it is their clocks that order them, and a line of a
    /// node whose clock is behind may be passed over by who asks for what came since.
    ///
    /// # Errors
    /// [`UnknownDeployment`](weir_core::wire::ErrorCode::UnknownDeployment).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn log(
        &self,
        shared: &Arc<Shared>,
        name: &str,
        from: Option<u64>,
        count: usize,
    ) -> Result<(Vec<ModuleLine>, u64), WireError> {
        let (mut lines, mut next) = self.log_here(shared, name, from, count)?;
        let Some(site) = &shared.site else { return Ok((lines, next)) };
        let most = u32::try_from(count).unwrap_or(u32::MAX);
        let ask = Request::DeploymentLog { name: name.to_owned(), from, lines: most };
        for (_, answer) in site.ask_others(&ask).await {
            if let Ok(Response::DeploymentLog { lines: theirs, next: behind }) = answer {
                lines.extend(theirs);
                next = next.max(behind);
            }
        }
        lines.sort_by_key(|line| line.number);
        match from {
            Some(_) if lines.len() > count => {
                lines.truncate(count);
                next = lines.last().map_or(next, |last| last.number + 1);
            }
            Some(_) => {}
            None => drop(lines.drain(..lines.len().saturating_sub(count))),
        }
        Ok((lines, next))
    }

    /// How all deployments go on this node.
    #[must_use]
    pub fn status(&self, shared: &Shared) -> Vec<DeploymentStatus> {
        let all = shared.registry.deployments().into_iter();
        let infos = all.map(|deployment| self.info(shared, deployment));
        let status = |info: DeploymentInfo| DeploymentStatus {
            name: info.deployment.name,
            partitions: info.partitions,
        };
        infos.map(status).collect()
    }

    fn info(&self, shared: &Shared, deployment: Deployment) -> DeploymentInfo {
        let running = lock(&self.running);
        let lanes = running.get(&deployment.name).map(|running| running.lanes.clone());
        drop(running);
        let lanes = lanes.unwrap_or_default();
        let outbox = deployment.mode == Mode::Outbox;
        let info = |(lane, home, meter): &(Lane, PartitionId, Arc<Meter>)| {
            let home = shared.registry.partition_by_id(*home)?;
            let led = home.progress_now().led;
            led.then(|| self.lane_info(shared, (*lane, &home), meter, outbox))
        };
        DeploymentInfo { partitions: lanes.iter().filter_map(info).collect(), deployment }
    }

    fn lane_info(
        &self,
        shared: &Shared,
        (lane, home): (Lane, &Arc<Partition>),
        meter: &Meter,
        outbox: bool,
    ) -> LaneInfo {
        let mut info = meter.info();
        let state = self.states.of(lane, home.id);
        {
            let state = lock(&state);
            let live = state.bytes() - state.kept_bytes();
            (info.state_bytes, info.state_keys) = (live as u64, state.keys() as u64);
            info.snapshots = versions::snapshots(&state);
        }
        let behind = |end: Offset, at| if end > at { end.since(at) } else { 0 };
        let input = shared.registry.partition_by_id(lane.input);
        let end = input.map_or(Offset::ZERO, |input| input.progress_now().high_watermark);
        let end = end.max(meter.known_input_end());
        info.lag = info.position.map_or(0, |at| behind(end, at));
        if outbox {
            let end = home.progress_now().high_watermark;
            info.undelivered = behind(end, meter.delivered_to());
        }
        info
    }
}
