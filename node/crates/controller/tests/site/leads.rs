//! Who leads, who is registered, and who is fenced.

use crate::support::{Site, create, ids, until};
use std::time::Duration;
use tokio::time::Instant;
use weir_controller::SubmitError;
use weir_core::cluster::ClusterError;
use weir_core::controller::{Done, Refused};
use weir_core::ids::NodeId;
use weir_core::metadata::{GROUPS_PARTITION, MetadataError};

/// Goal: one controller leads; a command is decided from any node, in one order, and the node that
/// asked sees what came of it, refusals included.
#[tokio::test(start_paused = true)]
async fn commands_from_any_node() {
    let site = Site::started(3, 1).await;
    let nodes = site.ids();
    site.leader(&nodes).await;
    for (n, &id) in nodes.iter().enumerate() {
        let done = site.at(id).submit(ids(10)).await.unwrap();
        assert_eq!(done, Done::ProducerIds { first: n as i64 * 10 });
        let name = format!("topic-{id}");
        site.at(id).submit(create(&name, 2, 3)).await.unwrap();
        assert!(site.state(id).image().topic(&name).is_some(), "seen where it was asked");
        let again = site.at(id).submit(create("topic-1", 2, 3)).await.unwrap_err();
        let exists = Refused::Metadata(MetadataError::Exists("topic-1".into()));
        assert_eq!(again, SubmitError::Refused(exists));
    }
    let wide = site.at(nodes[1]).submit(create("wide", 1, 4)).await.unwrap_err();
    let refused = ClusterError::Replicas { wanted: 4, nodes: 3 };
    assert_eq!(wide, SubmitError::Refused(Refused::Cluster(refused)));
    site.converged().await;
    let groups = site.state(nodes[0]).cluster().partitions()[&GROUPS_PARTITION].clone();
    assert_eq!(groups.holders().len(), 2, "it grows one node at a time");
}

/// Goal: whichever node dies, its partitions have other leaders soon: within the session timeout if
/// another node's controller leads, and with an election else. When it is back it has another life,
/// is let back, and is given its leads again once it is in sync.
#[tokio::test(start_paused = true)]
async fn a_dead_node_is_replaced() {
    for (seed, victim) in (200..212).zip([true, false].into_iter().cycle()) {
        let site = Site::started(3, seed).await;
        let nodes = site.ids();
        let leader = site.leader(&nodes).await;
        site.at(leader).submit(create("a", 12, 3)).await.unwrap();
        let other = nodes.iter().copied().find(|&id| id != leader).unwrap();
        let dead = if victim { leader } else { other };
        let life = site.life(dead).unwrap();
        site.converged().await;
        let begun = Instant::now();
        site.kill(dead).await;
        let left: Vec<NodeId> = nodes.iter().copied().filter(|&id| id != dead).collect();
        let led_by_the_dead = |id: NodeId| {
            let state = site.state(id);
            let mut places = state.cluster().partitions().clone();
            places.remove(&GROUPS_PARTITION);
            places.retain(|_, known| known.leader.is_none_or(|lead| lead.node == dead));
            places.len()
        };
        assert!(led_by_the_dead(left[0]) > 0);
        until("others lead", || (led_by_the_dead(left[0]) == 0).then_some(())).await;
        let took = begun.elapsed();
        println!("the dead one led the controllers: {victim}; replaced after {took:?}");
        let most = if victim { 1_600 } else { 900 };
        assert!(took <= Duration::from_millis(most), "{victim}: {took:?}");
        assert!(site.state(left[0]).cluster().nodes()[&dead].fenced);
        site.start(dead).await;
        site.registered(&nodes).await;
        assert!(site.life(dead).unwrap() > life);
        site.converged().await;
    }
}

/// Goal: a node that comes back before anybody missed it has another life, and what it led has
/// leaders in higher epochs.
#[tokio::test(start_paused = true)]
async fn a_quick_restart_is_another_life() {
    let site = Site::started(3, 3).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    site.at(leader).submit(create("a", 6, 3)).await.unwrap();
    let quick = nodes.iter().copied().find(|&id| id != leader).unwrap();
    let life = site.life(quick);
    let epochs = |site: &Site| {
        let state = site.state(leader);
        let places = state.cluster().partitions().values();
        places.map(|known| known.leader_epoch.0).sum::<i32>()
    };
    let before = epochs(&site);
    site.kill(quick).await;
    site.start(quick).await;
    site.registered(&nodes).await;
    assert!(site.life(quick) > life);
    assert!(epochs(&site) > before);
}

/// Goal: a node that hangs, so that its controller does not answer, is fenced and let back once it
/// answers again, in the same life.
#[tokio::test(start_paused = true)]
async fn silence_and_return() {
    let site = Site::started(3, 4).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    let silent = nodes.iter().copied().find(|&id| id != leader).unwrap();
    let others: Vec<NodeId> = nodes.iter().copied().filter(|&id| id != silent).collect();
    let life = site.life(silent);
    site.split(&[&[silent], &others]);
    let fenced = || site.state(leader).cluster().nodes()[&silent].fenced;
    until("it is fenced", || fenced().then_some(())).await;
    site.heal();
    until("it is back", || (!fenced()).then_some(())).await;
    assert_eq!(site.life(silent), life);
    site.converged().await;
}

/// Goal: a witness votes and holds nothing: two nodes and a witness go on when one of them dies.
#[tokio::test(start_paused = true)]
async fn a_witness() {
    let mut site = Site::of(3, 5);
    let nodes = site.ids();
    site.witness = Some(nodes[2]);
    for &id in &nodes {
        site.start(id).await;
    }
    site.registered(&nodes).await;
    assert_eq!(site.life(nodes[2]), None);
    let state = site.state(nodes[2]);
    assert_eq!(state.cluster().nodes().keys().copied().collect::<Vec<_>>(), nodes[..2]);
    site.at(nodes[2]).submit(create("a", 1, 2)).await.unwrap();
    site.kill(nodes[0]).await;
    let fenced = || site.state(nodes[1]).cluster().nodes()[&nodes[0]].fenced;
    until("the other goes on", || fenced().then_some(())).await;
    site.at(nodes[1]).submit(create("b", 1, 1)).await.unwrap();
}
