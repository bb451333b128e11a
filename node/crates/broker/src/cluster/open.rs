//! How a node begins: as one of a cluster, or alone.

use super::{ClusterConfig, ClusterNode, fresh_disk};
use crate::broker::{Shared, StartError, Views};
use crate::config::BrokerConfig;
use crate::groups::Groups;
use crate::partition::ALONE;
use crate::registry::Registry;
use crate::store::Store;
use std::sync::Arc;
use weir_controller::Controller;
use weir_core::LeaderEpoch;
use weir_core::ids::{DiskId, Incarnation};
use weir_core::metadata::{GROUPS_PARTITION, Image};
use weir_core::partition::assignment::Lead;
use weir_core::partition::view::PartitionView;
use weir_log::{KvStore, Log, RealDisk};
use weir_transport::{Authority, ClientEndpoint, ClientTls, Clock, NodeCredentials};

/// What a controller keeps, in the data folder.
const CONTROLLER_FILE: &str = "controller.redb";

/// This node's part in a cluster, if its configuration says that it has one.
///
/// # Errors
/// [`StartError::Listen`] if its certificates cannot be used.
pub fn site(
    config: &BrokerConfig,
    credentials: &NodeCredentials,
    clock: &Clock,
) -> Result<Option<Arc<ClusterNode>>, StartError> {
    let Some(part) = &config.cluster else { return Ok(None) };
    let site = ClusterNode::new(part.clone(), cluster_of(credentials));
    let tls = ClientTls::new(credentials.authority.trust().clone())
        .with_identity(credentials.identity.clone());
    let endpoint = ClientEndpoint::new(ClientTls { clock: clock.clone(), ..tls })?;
    site.peers.use_endpoint(endpoint.with_mtu(config.mtu));
    Ok(Some(Arc::new(site)))
}

/// Whom new nodes get their certificates from.
pub fn use_authority(site: Option<&Arc<ClusterNode>>, authority: Authority) {
    if let Some(site) = site {
        site.admission.use_authority(authority);
    }
}

/// Starting a folder as what it is not would drop all partitions as those of deleted topics.
pub fn check_folders(config: &BrokerConfig, image: &Image) -> Result<(), StartError> {
    let folder = config.data_dir.display();
    let was_member = config.data_dir.join(CONTROLLER_FILE).exists();
    match (&config.cluster, was_member) {
        (None, true) => Err(StartError::Folders(format!(
            "{folder} is the folder of a node of a cluster: set cluster.members as it was"
        ))),
        (Some(_), false) if image.topics().next().is_some() => Err(StartError::Folders(format!(
            "{folder} has topics of a node without a cluster, which cannot become part of one: \
             start the cluster with empty folders and copy the topics with `weir consume` and \
             `weir produce`"
        ))),
        _ => Ok(()),
    }
}

/// Topics' partitions and that of the groups: led by this node alone, or without a role yet.
pub fn partitions(
    site: Option<&Arc<ClusterNode>>,
    store: &Arc<Store>,
    log: &Arc<Log>,
    image: Image,
    views: &Views,
) -> Result<(Registry, Groups), StartError> {
    let empty = PartitionView::default();
    let of_groups = views.get(&GROUPS_PARTITION).unwrap_or(&empty);
    if let Some(site) = site {
        let me = Lead { node: site.me(), incarnation: Incarnation(0) };
        let registry = Registry::of_cluster(store.clone(), log.clone(), site.clone(), views);
        return Ok((registry, Groups::new(log.clone(), me, of_groups)));
    }
    let newest = views.values().map(PartitionView::epoch).max();
    let epoch = store.next_epoch(newest.unwrap_or(LeaderEpoch(0)))?;
    let groups = Groups::new(log.clone(), ALONE, of_groups);
    groups.lead_alone(epoch, of_groups);
    Ok((Registry::new(store.clone(), log.clone(), image, epoch, views), groups))
}

/// Takes part in the cluster, if the node is of one.
///
/// # Errors
/// [`StartError`].
pub async fn join(shared: &Arc<Shared>, disk: Option<DiskId>) -> Result<(), StartError> {
    let Some(site) = &shared.site else { return Ok(()) };
    let disk = disk.unwrap_or_else(fresh_disk);
    let controller = open_controller(&shared.config, site, disk).await?;
    site.start(shared, controller);
    Ok(())
}

async fn open_controller(
    config: &BrokerConfig,
    site: &ClusterNode,
    disk: DiskId,
) -> Result<Controller, StartError> {
    let file = config.data_dir.join(CONTROLLER_FILE);
    let kv = tokio::task::spawn_blocking(move || KvStore::open(Arc::new(RealDisk), file)).await;
    let kv = kv.map_err(|panic| StartError::Thread(std::io::Error::other(panic)))??;
    let ClusterConfig { me, members, rack, witness } = &site.config;
    let config = weir_controller::Config {
        node: *me,
        members: members.clone(),
        disk,
        rack: rack.clone(),
        witness: *witness,
        timing: weir_controller::Timing::default(),
    };
    Ok(Controller::start(config, kv, site.wire()).await?)
}

/// The id of the cluster that an authority stands for: nodes that trust the same are of one.
pub fn cluster_of(credentials: &NodeCredentials) -> String {
    let pem = credentials.authority.certificate_pem().trim();
    let digest = ring::digest::digest(&ring::digest::SHA256, pem.as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
