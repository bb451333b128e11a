//! Members are added and removed, and the rest goes on.

use crate::support::{Site, create, ids, until};
use std::collections::BTreeSet;
use weir_controller::SubmitError;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::members::{MembersAsk, MembersError};
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
    // Before that, three of the five are no majority of the four that voted before.
    let settled = || [ONE, stay[0], stay[1]].iter().all(|&id| !site.at(id).changes_voters());
    until("the voters are those five", || settled().then_some(())).await;
    site.kill(ONE).await;
    site.kill(NodeId(2)).await;
    let mut config = site.config(away);
    config.members.retain(|&other, _| other == ONE || other == away);
    site.try_start(config).await.unwrap();
    let leader = site.leader(&[away, stay[0], stay[1]]).await;
    site.at(leader).submit(ids(1)).await.unwrap();
    site.converged().await;
}
