//! Members are added and removed while controllers die.

use crate::support::{Site, create, ids, until};
use std::collections::BTreeSet;
use std::time::Duration;
use weir_controller::SubmitError;
use weir_core::cluster::members::{MembersAsk, MembersError};
use weir_core::cluster::{ClusterAsk, ClusterError};
use weir_core::controller::{Command, Refused};
use weir_core::ids::NodeId;

const ONE: NodeId = NodeId(1);

fn put(number: u32) -> Command {
    let (name, address) = (format!("depot-{number}"), format!("depot-{number}:9092"));
    Command::Cluster(ClusterAsk::Members(MembersAsk::Put { name, address, witness: None }))
}

fn remove(node: NodeId, force: bool) -> Command {
    Command::Cluster(ClusterAsk::Members(MembersAsk::Remove { node, force }))
}

/// Waits until these nodes are the voters, in the eyes of each of them.
async fn voters(site: &Site, nodes: &[NodeId]) {
    let wanted: BTreeSet<NodeId> = nodes.iter().copied().collect();
    until("they vote", || {
        let mut said = nodes.iter().map(|&id| site.at(id).voters());
        said.all(|voters| voters == wanted).then_some(())
    })
    .await;
}

/// A site of one, to which others are added, one after the other; each is told only of the first.
async fn grown(nodes: u32, seed: u64) -> Site {
    let mut site = Site::started(1, seed).await;
    for number in 2..=nodes {
        site.at(ONE).submit(put(number)).await.unwrap();
        let id = site.add(number);
        let mut config = site.config(id);
        config.members.retain(|&other, _| other == ONE || other == id);
        site.try_start(config).await.unwrap();
        site.registered(&site.ids()).await;
        voters(&site, &site.ids()).await;
    }
    site
}

/// Goal: a site grows from one node to three, of which then any may die; nodes start again with the
/// list that they were told first, which no longer counts.
#[tokio::test(start_paused = true)]
async fn a_site_grows() {
    let site = grown(3, 41).await;
    site.at(ONE).submit(create("a", 1, 3)).await.unwrap();
    for victim in site.ids() {
        site.kill(victim).await;
        let left: Vec<NodeId> = site.ids().into_iter().filter(|&id| id != victim).collect();
        site.leader(&left).await;
        site.at(left[0]).submit(ids(1)).await.unwrap();
        let mut config = site.config(victim);
        config.members.retain(|&other, _| other == ONE || other == victim);
        site.try_start(config).await.unwrap();
        site.registered(&site.ids()).await;
    }
    site.converged().await;
}

/// Goal: whoever leads may die at any moment of a change: it is carried on, and ends as asked. A
/// node is added and another one removed, while the leading controller is killed again and again.
#[tokio::test(start_paused = true)]
async fn changes_outlive_leaders() {
    for seed in 420..426 {
        let mut site = Site::started(3, seed).await;
        site.at(ONE).submit(put(4)).await.unwrap();
        let four = site.add(4);
        site.start(four).await;
        for moment in [1, 40, 90] {
            // sleep: each death comes at another moment of the change.
            tokio::time::sleep(Duration::from_millis(moment * (seed - 419))).await;
            let leader = site.leader(&site.up()).await;
            if leader != four {
                site.kill(leader).await;
                site.start(leader).await;
            }
        }
        voters(&site, &site.ids()).await;
        site.registered(&site.ids()).await;
        // Nobody replicates here: whoever got the first copy of something is the last that has it.
        let leader = site.leader(&site.ids()).await;
        let holds = |id: NodeId| {
            let state = site.state(leader);
            let mut all = state.cluster().partitions().values();
            all.any(|known| known.insync.keys().all(|&holder| holder == id))
        };
        let mut order = [leader].into_iter().chain(site.ids());
        let victim = order.find(|&id| !holds(id)).unwrap();
        let other = site.ids().into_iter().find(|&id| id != victim).unwrap();
        site.at(other).submit(remove(victim, true)).await.unwrap();
        let left: Vec<NodeId> = site.ids().into_iter().filter(|&id| id != victim).collect();
        voters(&site, &left).await;
        until("it knows that it was removed", || {
            site.at(victim).outside().borrow().clone().map(|why| {
                assert!(why.contains("was removed"), "{why}");
            })
        })
        .await;
        site.kill(victim).await;
        site.leader(&left).await;
        site.at(left[0]).submit(ids(1)).await.unwrap();
        assert_eq!(site.at(left[1]).outside().borrow().clone(), None);
    }
}

/// Goal: of two nodes, either may be removed, also the one that leads: the other one goes on alone.
#[tokio::test(start_paused = true)]
async fn two_become_one() {
    for (seed, led) in [(431, true), (432, false)] {
        let site = Site::started(2, seed).await;
        let leader = site.leader(&site.ids()).await;
        let victim = site.ids().into_iter().find(|&id| (id == leader) == led).unwrap();
        let other = site.ids().into_iter().find(|&id| id != victim).unwrap();
        let caught_up = || {
            let state = site.state(other);
            let mut all = state.cluster().partitions().values();
            all.all(|known| known.insync.contains_key(&other)).then_some(())
        };
        if caught_up().is_none() {
            // What it holds is nowhere else; nobody replicates here.
            let refused = site.at(other).submit(remove(victim, true)).await.unwrap_err();
            let last = MembersError::LastCopy { node: victim, partitions: 1 };
            assert_eq!(refused, SubmitError::Refused(Refused::Cluster(last.into())));
            continue;
        }
        site.at(other).submit(remove(victim, true)).await.unwrap();
        voters(&site, &[other]).await;
        site.kill(victim).await;
        site.leader(&[other]).await;
        site.at(other).submit(ids(1)).await.unwrap();
    }
}

/// Goal: nobody is removed if the rest could decide nothing then; a removed node that comes back is
/// told so, and its number is nobody's.
#[tokio::test(start_paused = true)]
async fn removal_keeps_a_quorum() {
    let site = Site::started(3, 44).await;
    let leader = site.leader(&site.ids()).await;
    let others: Vec<NodeId> = site.ids().into_iter().filter(|&id| id != leader).collect();
    site.kill(others[0]).await;
    until("it is fenced", || site.state(leader).cluster().nodes()[&others[0]].fenced.then_some(()))
        .await;
    let refused = site.at(leader).submit(remove(others[1], true)).await.unwrap_err();
    let quorum = MembersError::Quorum { node: others[1], rest: 2, there: 1, needed: 2 };
    let quorum = Refused::Cluster(ClusterError::Members(quorum));
    assert_eq!(refused, SubmitError::Refused(quorum));
    let held = site
        .state(leader)
        .cluster()
        .partitions()
        .values()
        .any(|known| known.insync.keys().all(|&id| id == others[0]));
    if held {
        return;
    }
    site.at(leader).submit(remove(others[0], true)).await.unwrap();
    voters(&site, &[leader, others[1]]).await;
    site.start(others[0]).await;
    until("it is told", || site.at(others[0]).outside().borrow().clone()).await;
    site.at(leader).submit(put(others[0].0)).await.unwrap();
    let members = site.state(leader).cluster().members().clone();
    assert_eq!(members.by_name(&format!("depot-{}", others[0])), Some(NodeId(4)));
}

/// Goal: a node that was away while all others changed is found by those that it never heard of.
#[tokio::test(start_paused = true)]
async fn strangers_introduce_themselves() {
    let mut site = grown(3, 45).await;
    let away = NodeId(3);
    site.kill(away).await;
    for number in [4, 5] {
        let first = site.up()[0];
        site.at(first).submit(put(number)).await.unwrap();
        let id = site.add(number);
        let mut config = site.config(id);
        config.members.retain(|other, _| other.0 < 3 || *other == id);
        site.try_start(config).await.unwrap();
        until("it votes", || site.at(first).voters().contains(&id).then_some(())).await;
    }
    let stay = [NodeId(4), NodeId(5)];
    site.registered(&[ONE, NodeId(2), NodeId(4), NodeId(5)]).await;
    site.kill(ONE).await;
    site.kill(NodeId(2)).await;
    let mut config = site.config(away);
    config.members.retain(|&other, _| other == ONE || other == away);
    site.try_start(config).await.unwrap();
    let leader = site.leader(&[away, stay[0], stay[1]]).await;
    site.at(leader).submit(ids(1)).await.unwrap();
    site.converged().await;
}
