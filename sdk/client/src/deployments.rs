//! Deployments of modules.

use weir_core::deploy::{DeploymentSpec, Version};
use weir_core::ids::{Offset, PartitionIndex, TopicId};
use weir_core::wire::deployments::{DeploymentInfo, LaneOutput, ModuleLine, SnapshotPage};
use weir_core::wire::message::{Request, Response};

use crate::admin::Admin;
use crate::client::unexpected;
use crate::error::RequestError;

impl Admin {
    /// All deployments and how they go, by name.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn deployments(&self) -> Result<Vec<DeploymentInfo>, RequestError> {
        self.ask_deployments(&Request::Deployments { names: None }).await
    }

    /// One deployment and how it goes.
    ///
    /// # Errors
    /// [`RequestError`]; `unknown-deployment` if there is none of this name.
    pub async fn deployment(&self, name: &str) -> Result<DeploymentInfo, RequestError> {
        let names = Some(vec![name.to_owned()]);
        self.ask_deployment(&Request::Deployments { names }).await
    }

    /// Creates a deployment, which then runs. The node compiles its module first if need be.
    ///
    /// # Errors
    /// [`RequestError`]; `deployment-exists` if there is one of this name, which may be this very
    /// one if an answer was lost before.
    pub async fn create_deployment(
        &self,
        name: &str,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, RequestError> {
        let name = name.to_owned();
        self.ask_deployment(&Request::CreateDeployment { name, spec }).await
    }

    /// Pauses a deployment between two batches, or resumes it. Resuming has stopped partitions try
    /// again.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn pause_deployment(
        &self,
        name: &str,
        paused: bool,
    ) -> Result<DeploymentInfo, RequestError> {
        let name = name.to_owned();
        self.ask_deployment(&Request::PauseDeployment { name, paused }).await
    }

    /// Runs another version in a deployment; each partition changes between two batches. `None`:
    /// the version before.
    ///
    /// # Errors
    /// [`RequestError`]; `state-schema` if its state has another layout.
    pub async fn replace_deployment(
        &self,
        name: &str,
        version: Option<Version>,
    ) -> Result<DeploymentInfo, RequestError> {
        self.restore_deployment(name, version, Vec::new()).await
    }

    /// The same, and has some partitions go back to the state and position of a snapshot, by its
    /// offset: [`LaneInfo::snapshots`](weir_core::wire::deployments::LaneInfo::snapshots). Their
    /// input is read again from there, so outputs behind it are made again.
    ///
    /// # Errors
    /// [`RequestError`]; `invalid-argument` if there is no such snapshot.
    pub async fn restore_deployment(
        &self,
        name: &str,
        version: Option<Version>,
        restore: Vec<(PartitionIndex, Offset)>,
    ) -> Result<DeploymentInfo, RequestError> {
        let name = name.to_owned();
        self.ask_deployment(&Request::ReplaceDeployment { name, version, restore }).await
    }

    /// Deletes a deployment. Its outputs and dead letters stay.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn delete_deployment(&self, name: &str) -> Result<(), RequestError> {
        self.ask_done(&Request::DeleteDeployment { name: name.to_owned() }).await
    }

    /// Lines that a deployment's module logged since the node's start: from the number `from` on,
    /// or the last ones; `lines` of them at most. Also the number of the line that comes next. A
    /// node keeps the last 1,000 in memory, or fewer where they are long.
    ///
    /// # Errors
    /// [`RequestError`]; `unknown-deployment` if there is none of this name.
    pub async fn deployment_log(
        &self,
        name: &str,
        from: Option<u64>,
        lines: u32,
    ) -> Result<(Vec<ModuleLine>, u64), RequestError> {
        let request = Request::DeploymentLog { name: name.to_owned(), from, lines };
        match self.client.request(&request).await? {
            Response::DeploymentLog { lines, next } => Ok((lines, next)),
            _ => Err(unexpected()),
        }
    }

    /// A page of a snapshot of the state of one partition of a deployment, which was taken at
    /// `offset` ([`LaneInfo::snapshots`](weir_core::wire::deployments::LaneInfo::snapshots)). It
    /// leaves out `skip` keys and timers: what [`SnapshotPage::next`] of the page before says.
    ///
    /// # Errors
    /// [`RequestError`]; `invalid-argument` if there is no such snapshot (any more).
    pub async fn lane_snapshot(
        &self,
        name: &str,
        partition: PartitionIndex,
        (offset, skip): (Offset, u64),
    ) -> Result<SnapshotPage, RequestError> {
        let name = name.to_owned();
        let request = Request::LaneSnapshot { name, partition, offset, skip };
        match self.client.request(&request).await? {
            Response::LaneSnapshot(page) => Ok(*page),
            _ => Err(unexpected()),
        }
    }

    /// Which records of an output partition one partition of a deployment wrote: some of them, from
    /// the entry on that holds the offset `from`; and where to go on, which is `from` again at the
    /// end.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn lane_outputs(
        &self,
        (name, lane): (&str, PartitionIndex),
        (topic, partition): (TopicId, PartitionIndex),
        from: Offset,
    ) -> Result<(Vec<LaneOutput>, Offset), RequestError> {
        let name = name.to_owned();
        let request = Request::LaneOutputs { name, lane, topic, partition, from };
        match self.client.request(&request).await? {
            Response::LaneOutputs { entries, next } => Ok((entries, next)),
            _ => Err(unexpected()),
        }
    }

    async fn ask_deployment(&self, request: &Request) -> Result<DeploymentInfo, RequestError> {
        self.ask_deployments(request).await?.pop().ok_or_else(unexpected)
    }

    async fn ask_deployments(
        &self,
        request: &Request,
    ) -> Result<Vec<DeploymentInfo>, RequestError> {
        match self.client.request(request).await? {
            Response::Deployments { deployments } => Ok(deployments),
            _ => Err(unexpected()),
        }
    }
}
