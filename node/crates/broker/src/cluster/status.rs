//! What the cluster says of itself.

use crate::broker::Shared;
use crate::cluster::forward;
use crate::session::Session;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::timeout;
use weir_core::access::Role;
use weir_core::controller::State;
use weir_core::deploy::is_internal;
use weir_core::ids::NodeId;
use weir_core::limits;
use weir_core::metadata::{GROUPS_PARTITION, Topic};
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus, ReplicasInfo};
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};
use weir_core::{PartitionId, PartitionIndex};

/// What the partition of stored positions is called where partitions are listed.
const GROUPS_NAME: &str = "__groups";

/// The node is not one of a cluster.
#[must_use]
pub fn no_cluster() -> WireError {
    let message = "this node is not part of a cluster: its configuration has no cluster.members";
    WireError::new(ErrorCode::Unsupported, message)
}

/// Answers [`Request::Cluster`]: with what this node knows and what the leaders say of what they
/// lead; another node is told only the latter.
///
/// # Errors
/// [`WireError`].
///
/// # Cancel safety
/// Safe.
pub async fn cluster_status(session: &Session) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let shared = &session.shared;
    let site = shared.site.as_ref().ok_or_else(no_cluster)?;
    let state = site.known_state()?;
    let known = &site.members().rows;
    let mut status = ClusterStatus {
        cluster: shared.cluster.clone(),
        asked: site.me(),
        controller: site.leading_controller(),
        version: state.version(),
        nodes: Vec::new(),
        partitions: partitions(shared, &state),
        silent: Vec::new(),
        leaving: site.voters().into_iter().filter(|id| !known.contains_key(id)).collect(),
    };
    if session.is_forwarded() {
        status.partitions.retain(|row| row.log_end.is_some());
        return Ok(Response::Cluster(Box::new(status)));
    }
    status.nodes = nodes(session, &state);
    let leaders: Vec<NodeId> = status
        .nodes
        .iter()
        .filter(|node| node.id != site.me() && node.leads > 0)
        .map(|node| node.id)
        .collect();
    let asked = leaders.into_iter().map(|node| async move {
        let ask = Request::Cluster {};
        let answer = forward::request(&site.peers, node, &ask);
        match timeout(limits::CONTROLLER_CALL_TIMEOUT, answer).await {
            Ok(Ok(Response::Cluster(theirs))) => Ok(theirs.partitions),
            _ => Err(node),
        }
    });
    for answer in join_all(asked).await {
        match answer {
            Ok(rows) => merge(&mut status.partitions, rows),
            Err(node) => status.silent.push(node),
        }
    }
    Ok(Response::Cluster(Box::new(status)))
}

/// Takes over what a leader says of its followers.
fn merge(known: &mut [ReplicasInfo], told: Vec<ReplicasInfo>) {
    let mut told: BTreeMap<(String, PartitionIndex), ReplicasInfo> =
        told.into_iter().map(|row| ((row.topic.clone(), row.partition), row)).collect();
    for row in known.iter_mut().filter(|row| row.log_end.is_none()) {
        let Some(theirs) = told.remove(&(row.topic.clone(), row.partition)) else { continue };
        (row.log_end, row.high_watermark) = (theirs.log_end, theirs.high_watermark);
        row.followers = theirs.followers;
    }
}

fn nodes(session: &Session, state: &Arc<State>) -> Vec<ClusterNodeInfo> {
    let Some(site) = &session.shared.site else { return Vec::new() };
    let cluster = state.cluster();
    let of = |id: NodeId| {
        let all = cluster.partitions().values();
        let leads = all.clone().filter(|p| p.leader.is_some_and(|l| l.node == id)).count();
        let replicas = all.filter(|p| p.replicas.contains(&id)).count();
        (leads as u32, replicas as u32)
    };
    let (members, voters) = (site.members(), site.voters());
    let rows = members.rows.iter();
    rows.map(|(&id, member)| {
        let known = cluster.nodes().get(&id);
        let (leads, replicas) = of(id);
        ClusterNodeInfo {
            id,
            name: member.name.clone(),
            address: member.address.clone(),
            rack: known.and_then(|node| node.rack.clone()),
            incarnation: known.map_or_else(Default::default, |node| node.incarnation),
            fenced: known.is_some_and(|node| node.fenced),
            leads,
            replicas,
            witness: member.witness && known.is_none(),
            voter: Some(voters.contains(&id)),
            drained: known.is_some_and(|node| node.drained),
            stuck: known.filter(|node| node.drained).map_or(0, |_| cluster.stuck(id) as u32),
        }
    })
    .collect()
}

/// What partitions are called, those of internal topics included.
pub fn names(state: &State) -> BTreeMap<PartitionId, (String, PartitionIndex)> {
    let groups = (GROUPS_PARTITION, (GROUPS_NAME.to_owned(), PartitionIndex(0)));
    let of = |topic: &Topic| {
        let (name, ids) = (topic.name.clone(), topic.partitions.clone());
        let ids = ids.into_iter().enumerate();
        ids.map(move |(at, id)| (id, (name.clone(), PartitionIndex(at as u32))))
    };
    state.image().topics().flat_map(of).chain([groups]).collect()
}

/// The copies of the partitions that this node leads, as it knows them.
pub fn led(shared: &Shared) -> Vec<ReplicasInfo> {
    let Some(state) = shared.site.as_ref().and_then(|site| site.state()) else { return Vec::new() };
    let mut rows = partitions(shared, &state);
    rows.retain(|row| row.log_end.is_some());
    rows
}

fn partitions(shared: &Shared, state: &Arc<State>) -> Vec<ReplicasInfo> {
    let mut named: Vec<(String, PartitionIndex, PartitionId)> =
        vec![(GROUPS_NAME.to_owned(), PartitionIndex(0), GROUPS_PARTITION)];
    for topic in state.image().topics().filter(|topic| !is_internal(&topic.name)) {
        let ids = topic.partitions.iter().enumerate();
        named.extend(ids.map(|(at, &id)| (topic.name.clone(), PartitionIndex(at as u32), id)));
    }
    let row = |(topic, partition, id): (String, PartitionIndex, PartitionId)| {
        let known = state.cluster().partitions().get(&id)?;
        let mut row = ReplicasInfo {
            topic,
            partition,
            leader: known.leader.map(|leader| leader.node),
            epoch: known.leader_epoch,
            replicas: known.replicas.clone(),
            target: known.target.clone().unwrap_or_default(),
            insync: known.insync.keys().copied().collect(),
            min_insync: known.min_insync,
            ..ReplicasInfo::default()
        };
        if let Some((log_end, high_watermark, followers)) =
            shared.partition(id).and_then(|partition| partition.followers())
        {
            row.log_end = Some(log_end);
            row.high_watermark = Some(high_watermark);
            row.followers = followers;
        }
        Some(row)
    };
    named.into_iter().filter_map(row).collect()
}
