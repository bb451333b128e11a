//! Starting in any order, replaced disks, and lists of nodes that do not fit.

use crate::support::{Site, create, ids, until};
use std::time::Duration;
use weir_controller::{StartError, SubmitError};
use weir_core::controller::Done;
use weir_core::ids::NodeId;

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

/// Goal: a site is formed once all its nodes are there, in whatever order they come; afterwards a
/// majority is enough.
#[tokio::test(start_paused = true)]
async fn starts_in_any_order() {
    for order in [[ONE, TWO, THREE], [THREE, ONE, TWO], [TWO, THREE, ONE]] {
        let site = Site::of(3, 21);
        site.start(order[0]).await;
        site.start(order[1]).await;
        // sleep: nothing may happen, for longer than any election takes.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((site.at(order[0]).leader(), site.at(order[1]).leader()), (None, None));
        site.start(order[2]).await;
        site.registered(&site.ids()).await;
        for id in order {
            site.kill(id).await;
        }
        site.start(order[2]).await;
        site.start(order[1]).await;
        site.leader(&[order[1], order[2]]).await;
        site.at(order[1]).submit(create("a", 1, 1)).await.unwrap();
    }
}

/// Goal: a single node is a site by itself, at once, and after a restart has all it had.
#[tokio::test(start_paused = true)]
async fn a_site_of_one() {
    let site = Site::started(1, 22).await;
    site.at(ONE).submit(create("a", 3, 1)).await.unwrap();
    let before = site.state(ONE).image().clone();
    site.kill(ONE).await;
    site.start(ONE).await;
    site.registered(&[ONE]).await;
    assert_eq!(site.state(ONE).image(), &before);
}

/// Goal: a node with an empty disk forms no second site and votes for nobody who may lack what it
/// forgot, but takes everything over from the others and then counts again.
#[tokio::test(start_paused = true)]
async fn an_empty_disk() {
    let mut site = Site::started(3, 23).await;
    site.at(ONE).submit(create("a", 1, 3)).await.unwrap();
    site.converged().await;
    for id in site.ids() {
        site.kill(id).await;
    }
    site.replace_disk(ONE);
    site.start(ONE).await;
    site.start(TWO).await;
    // sleep: nothing may happen: 1 does not know whether 3 has more than 2.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((site.at(ONE).leader(), site.at(TWO).leader()), (None, None));
    site.start(THREE).await;
    site.registered(&site.ids()).await;
    assert!(site.state(ONE).image().topic("a").is_some(), "the same site as before");
    // From here on it is a voter like others.
    site.kill(THREE).await;
    site.leader(&[ONE, TWO]).await;
    site.at(ONE).submit(create("b", 1, 1)).await.unwrap();
}

/// Goal: of two nodes one may get a new disk, since the other is sure to have everything.
#[tokio::test(start_paused = true)]
async fn two_nodes_and_a_new_disk() {
    for gone in [ONE, TWO] {
        let mut site = Site::started(2, 24).await;
        site.at(ONE).submit(create("a", 1, 2)).await.unwrap();
        site.kill(ONE).await;
        site.kill(TWO).await;
        site.replace_disk(gone);
        site.start(ONE).await;
        site.start(TWO).await;
        site.registered(&[ONE, TWO]).await;
        assert!(site.state(gone).image().topic("a").is_some());
    }
}

/// Goal: a leading controller that finds a follower's log gone starts it over, with no restart of
/// its own.
#[tokio::test(start_paused = true)]
async fn a_new_disk_while_others_run() {
    let mut site = Site::started(3, 25).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    let emptied = nodes.iter().copied().find(|&id| id != leader).unwrap();
    for _ in 0..20 {
        site.at(leader).submit(ids(1)).await.unwrap();
    }
    site.kill(emptied).await;
    site.replace_disk(emptied);
    site.start(emptied).await;
    site.registered(&nodes).await;
    site.converged().await;
    assert_eq!(site.at(emptied).submit(ids(1)).await, Ok(Done::ProducerIds { first: 20 }));
}

/// Goal: once a site is formed its own list counts, whatever a node is told; nodes that were told
/// differently do not form one.
#[tokio::test(start_paused = true)]
async fn other_lists() {
    let site = Site::started(3, 26).await;
    site.stop(ONE).await;
    let mut config = site.config(ONE);
    config.members.remove(&THREE);
    site.try_start(config).await.unwrap();
    site.registered(&site.ids()).await;
    assert_eq!(site.at(ONE).members().borrow().rows.len(), 3);
    site.stop(ONE).await;
    let mut config = site.config(ONE);
    config.members.remove(&ONE);
    assert!(matches!(site.try_start(config).await, Err(StartError::Config(_))));

    let apart = Site::of(3, 27);
    for id in apart.ids() {
        let mut config = apart.config(id);
        if id == THREE {
            config.members.insert(NodeId(4), Default::default());
        }
        apart.try_start(config).await.unwrap();
    }
    let refused = apart.at(ONE).submit(create("a", 1, 1)).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Unavailable { .. }), "{refused}");
    assert_eq!(apart.at(ONE).leader(), None);
}

/// Goal: a disk that refuses for a while costs its node nothing but that while.
#[tokio::test(start_paused = true)]
async fn a_disk_that_refuses() {
    let site = Site::started(3, 28).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    let ill = nodes.iter().copied().find(|&id| id != leader).unwrap();
    let faults = weir_log::sim::Faults {
        fail_sync: Some(1),
        fail_again: 6,
        ..weir_log::sim::Faults::default()
    };
    site.disks[&ill].set_faults(faults);
    for n in 0..5 {
        site.at(leader).submit(create(&format!("t{n}"), 1, 1)).await.unwrap();
    }
    until("it has caught up", || site.state(ill).image().topic("t4").map(|_| ())).await;
    site.registered(&nodes).await;
    site.converged().await;
}
