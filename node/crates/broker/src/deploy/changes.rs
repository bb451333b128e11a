//! Changes of deployments, as operators ask for them.

use super::versions::{self, Asked, Restore, check_version};
use super::{Deployments, append, gone, topics, unknown};
use crate::broker::Shared;
use crate::deploy::http::Outgoing;
use crate::deploy::source::Source;
use crate::partition::Partition;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weir_core::deploy::keys::{Lane, Runs};
use weir_core::deploy::{Deployment, DeploymentSpec, Version};
use weir_core::metadata::DeployAsk;
use weir_core::wire::deployments::{DeploymentInfo, LaneCondition, LaneInfo};
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{PartitionId, PartitionIndex};
use weir_transport::HttpsError;

/// How long deleting waits until what was computed is delivered.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long creating waits until every lane has decided where it begins.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);
/// How often other nodes are asked meanwhile.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

impl Deployments {
    /// Creates a deployment and starts it, once its module has taken its parameters.
    ///
    /// # Errors
    /// [`WireError`].
    ///
    /// # Cancel safety
    /// Not cancel safe: run it in a task of its own.
    pub async fn create(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        if let Some(grant) = spec.http.clone() {
            let made = Outgoing::new(grant, self.trust.clone());
            let invalid = |e: HttpsError| WireError::new(ErrorCode::InvalidArgument, e.to_string());
            made.map_err(invalid)?;
        }
        let prepared = check_version(shared, spec.kind, &spec.version).await?;
        let ask = DeployAsk::Create { name, spec };
        let created = shared.registry.deploy(shared.now(), ask).await?;
        let created = created.ok_or_else(gone)?;
        if shared.site.is_none() {
            self.place(shared, &created, prepared.description().state_schema).await;
        }
        self.settle(shared);
        let begun = |lane: &LaneInfo| lane.position.is_some();
        self.wait_for(shared, &created, BEGIN_PATIENCE, begun).await;
        Ok(self.everywhere(shared, created).await)
    }

    /// Decides where the lanes of a new deployment begin: what is produced after its creation was
    /// acknowledged is surely read. A lane whose home cannot be written now decides at its start.
    async fn place(&self, shared: &Arc<Shared>, deployment: &Deployment, schema: u32) {
        let Some((input, home)) = topics(shared, deployment) else { return };
        let module = deployment.spec.version.module.to_string();
        let runs = Runs { takeover: deployment.takeovers, schema, module };
        let mut placing = Vec::new();
        for (&input, &home) in input.partitions.iter().zip(&home.partitions) {
            let registry = &shared.registry;
            let pair = registry.partition_by_id(input).zip(registry.partition_by_id(home));
            let Some((input, home)) = pair else { continue };
            let lane = Lane { deployment: deployment.id, input: input.id };
            let source = Source::new(shared.clone(), input);
            let Ok(position) = source.first_position(deployment).await else { continue };
            let changes = vec![lane.set_position(position), lane.set_runs(&runs)];
            let at = (&*home, home.figures().epoch);
            placing.push(append::append(shared, &self.states, at, None, changes, None));
        }
        for one in placing {
            if let Err(error) = one.committed().await {
                tracing::warn!(name = deployment.name, %error, "a deployment begins later");
            }
        }
    }

    /// Pauses or resumes.
    ///
    /// # Errors
    /// As [`Deployments::create`].
    ///
    /// # Cancel safety
    /// As [`Deployments::create`].
    pub async fn pause(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
        paused: bool,
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        let ask = DeployAsk::Pause { name, paused };
        let changed = shared.registry.deploy(shared.now(), ask).await?;
        let changed = changed.ok_or_else(gone)?;
        self.settle(shared);
        Ok(self.everywhere(shared, changed).await)
    }

    /// Runs another version, or the one before.
    ///
    /// # Errors
    /// As [`Deployments::create`]; [`ErrorCode::StateSchema`] for a version whose state has another
    /// layout.
    ///
    /// # Cancel safety
    /// As [`Deployments::create`].
    pub async fn replace(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
        (version, restore): (Option<Version>, Restore),
    ) -> Result<DeploymentInfo, WireError> {
        let _one = self.changing.lock().await;
        let known = shared.registry.deployment(&name).ok_or_else(|| unknown(&name))?;
        let wanted = version.clone().or_else(|| known.previous.clone());
        if let Some(wanted) = wanted {
            let rollback = version.is_none();
            let restore = restore.clone();
            self.check_lanes(shared, &known, wanted, (restore, rollback)).await?;
        }
        let ask = DeployAsk::Replace { name, version, restore };
        let changed = shared.registry.deploy(shared.now(), ask).await?;
        let changed = changed.ok_or_else(gone)?;
        self.settle(shared);
        Ok(self.everywhere(shared, changed).await)
    }

    /// Whether a version can take over every lane, wherever it works.
    async fn check_lanes(
        &self,
        shared: &Arc<Shared>,
        known: &Deployment,
        version: Version,
        (restore, rollback): (Restore, bool),
    ) -> Result<(), WireError> {
        self.check_here(shared, known, &version, (&restore, rollback)).await?;
        let Some(site) = &shared.site else { return Ok(()) };
        for (at, home) in self.homes(shared, known).iter().enumerate() {
            if home.leader().is_none() {
                let message = format!(
                    "no node leads what partition {at} of the deployment writes to: its state \
                     cannot be looked at; try again"
                );
                return Err(WireError::new(ErrorCode::Offline, message));
            }
        }
        let name = known.name.clone();
        let ask = Request::CheckDeployment { name, version, restore, rollback };
        for (_, answer) in site.ask_others(&ask).await {
            answer?;
        }
        Ok(())
    }

    /// Whether a version can take over the lanes whose homes this node leads.
    ///
    /// # Errors
    /// As [`Deployments::replace`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn check_here(
        &self,
        shared: &Arc<Shared>,
        known: &Deployment,
        wanted: &Version,
        (restore, rollback): (&Restore, bool),
    ) -> Result<(), WireError> {
        let prepared = check_version(shared, known.spec.kind, wanted).await?;
        let lanes = self.lanes_of(&known.name);
        let asked = Asked { wanted, prepared: &prepared, restore, rollback };
        versions::check(shared, &self.states, (known, &lanes), &asked).await
    }

    fn homes(&self, shared: &Shared, deployment: &Deployment) -> Vec<Arc<Partition>> {
        let Some((_, home)) = topics(shared, deployment) else { return Vec::new() };
        let indices = (0..home.config.partitions).map(PartitionIndex);
        indices.filter_map(|index| shared.registry.partition(home.id, index)).collect()
    }

    fn lanes_of(&self, name: &str) -> Vec<(Lane, PartitionId)> {
        let running = super::lock(&self.running);
        let lanes = running.get(name).map(|running| running.lanes.iter());
        lanes.into_iter().flatten().map(|(lane, home, _)| (*lane, *home)).collect()
    }

    /// Deletes a deployment: its lanes end, what they computed is delivered, its state is removed.
    ///
    /// # Errors
    /// As [`Deployments::create`].
    ///
    /// # Cancel safety
    /// As [`Deployments::create`]. Cut off, it can be done again.
    pub async fn delete(
        self: &Arc<Deployments>,
        shared: &Arc<Shared>,
        name: String,
    ) -> Result<(), WireError> {
        let _one = self.changing.lock().await;
        let ask = DeployAsk::End { name: name.clone() };
        let ending = shared.registry.deploy(shared.now(), ask).await?.ok_or_else(gone)?;
        self.settle(shared);
        let empty = |lane: &LaneInfo| lane.state == LaneCondition::Ended && lane.undelivered == 0;
        if !self.wait_for(shared, &ending, DRAIN_PATIENCE, empty).await {
            tracing::warn!(name, "outputs that could not be delivered go with their deployment");
        }
        shared.registry.deploy(shared.now(), DeployAsk::Delete { name }).await?;
        self.settle(shared);
        self.sweep(shared).await;
        Ok(())
    }

    /// Waits until all lanes are so, wherever they work. Whether they are.
    async fn wait_for(
        &self,
        shared: &Arc<Shared>,
        deployment: &Deployment,
        patience: Duration,
        is_so: impl Fn(&LaneInfo) -> bool,
    ) -> bool {
        let until = Instant::now() + patience;
        loop {
            let info = self.everywhere(shared, deployment.clone()).await;
            if info.partitions.iter().all(&is_so) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            // sleep: lanes elsewhere are asked again after it.
            sleep(ASK_INTERVAL).await;
        }
    }
}

/// Answers another node: whether a version could take over what this one leads.
///
/// # Errors
/// As [`Deployments::replace`].
///
/// # Cancel safety
/// Cancel safe.
pub async fn check(
    shared: &Arc<Shared>,
    name: &str,
    version: &Version,
    (restore, rollback): (&Restore, bool),
) -> Result<Response, WireError> {
    let known = shared.registry.deployment(name).ok_or_else(|| unknown(name))?;
    shared.deployments.check_here(shared, &known, version, (restore, rollback)).await?;
    Ok(Response::Done {})
}
