use super::sessions::{Heartbeat, Sessions};
use super::*;
use std::collections::BTreeSet;
use std::time::Duration;

fn ask(cluster: &mut Cluster, ask: ClusterAsk) -> Result<(), ClusterError> {
    let change = cluster.decide(&ask)?;
    cluster.apply(&change);
    Ok(())
}

fn register(cluster: &mut Cluster, node: u32, start: u64, disk: u64) -> Lead {
    let rack = Some(format!("rack-{}", node % 2));
    let node = NodeId(node);
    ask(cluster, ClusterAsk::Register { node, start, disk: DiskId(disk), rack }).unwrap();
    Lead { node, incarnation: cluster.nodes()[&node].incarnation }
}

fn fence(cluster: &mut Cluster, lead: Lead) {
    let Lead { node, incarnation } = lead;
    ask(cluster, ClusterAsk::Fence { node, incarnation }).unwrap();
}

fn unfence(cluster: &mut Cluster, lead: Lead) {
    let Lead { node, incarnation } = lead;
    ask(cluster, ClusterAsk::Unfence { node, incarnation }).unwrap();
}

fn place(cluster: &mut Cluster, ids: std::ops::Range<u32>, replicas: u32) {
    let partitions = ids.map(PartitionId).collect();
    ask(cluster, ClusterAsk::Place { partitions, replicas, min_insync: 2 }).unwrap();
}

/// Four nodes on two racks, and one partition on three of them.
fn cluster() -> (Cluster, Vec<Lead>) {
    let mut cluster = Cluster::default();
    let nodes = (1..=4).map(|n| register(&mut cluster, n, n.into(), n.into())).collect();
    place(&mut cluster, 1..2, 3);
    (cluster, nodes)
}

fn partition(cluster: &Cluster) -> &Assignment {
    &cluster.partitions()[&PartitionId(1)]
}

fn members(cluster: &Cluster) -> Vec<u32> {
    partition(cluster).insync.keys().map(|node| node.0).collect()
}

fn leads(cluster: &Cluster) -> Option<(u32, i32)> {
    let known = partition(cluster);
    known.leader.map(|leader| (leader.node.0, known.leader_epoch.0))
}

fn alter(cluster: &mut Cluster, nodes: &[Lead], insync: &[usize]) -> Result<(), ClusterError> {
    let known = partition(cluster).clone();
    let insync = insync.iter().map(|&n| (nodes[n - 1].node, nodes[n - 1].incarnation));
    let proposal = Proposal {
        leader: known.leader.expect("it has a leader"),
        leader_epoch: known.leader_epoch,
        partition_epoch: known.partition_epoch,
        insync: insync.collect(),
    };
    let partition = PartitionId(1);
    ask(cluster, ClusterAsk::AlterInSync { partition, proposal })
}

/// Goal: replicas and leaders are spread evenly, and each partition is on both racks.
#[test]
fn placement() {
    let mut cluster = Cluster::default();
    for n in 1..=4 {
        register(&mut cluster, n, n.into(), n.into());
    }
    place(&mut cluster, 1..101, 2);
    let mut held = BTreeMap::new();
    let mut led = BTreeMap::new();
    for assignment in cluster.partitions().values() {
        let racks: BTreeSet<_> = assignment.replicas.iter().map(|node| node.0 % 2).collect();
        assert_eq!(racks.len(), 2);
        assignment.replicas.iter().for_each(|node| *held.entry(*node).or_insert(0) += 1);
        *led.entry(assignment.replicas[0]).or_insert(0) += 1;
    }
    assert_eq!(held.values().copied().collect::<Vec<_>>(), [50; 4]);
    assert_eq!(led.values().copied().collect::<Vec<_>>(), [25; 4]);
    let partitions = vec![PartitionId(200)];
    let too_many = ClusterAsk::Place { partitions, replicas: 5, min_insync: 1 };
    let refused = ClusterError::Replicas { wanted: 5, nodes: 4 };
    assert_eq!(cluster.decide(&too_many), Err(refused));
}

/// Goal: a silent leader is replaced from the in-sync set in a higher epoch; the last member is
/// never taken out, and only it can lead again.
#[test]
fn elections() {
    let (mut cluster, nodes) = cluster();
    assert_eq!((leads(&cluster), members(&cluster)), (Some((1, 1)), vec![1, 2, 3]));
    fence(&mut cluster, nodes[0]);
    assert_eq!((leads(&cluster), members(&cluster)), (Some((2, 2)), vec![2, 3]));
    fence(&mut cluster, nodes[1]);
    assert_eq!((leads(&cluster), members(&cluster)), (Some((3, 3)), vec![3]));
    fence(&mut cluster, nodes[2]);
    assert_eq!((leads(&cluster), members(&cluster)), (None, vec![3]));
    let needed = election::needed_disks(partition(&cluster)).unwrap();
    assert_eq!(needed, &BTreeMap::from([(NodeId(3), DiskId(3))]));
    unfence(&mut cluster, nodes[0]);
    assert_eq!(leads(&cluster), None, "it may lack what was committed");
    let emptied = register(&mut cluster, 3, 33, 99);
    assert_eq!(leads(&cluster), None, "not with another disk");
    assert_ne!(emptied, nodes[2]);
    register(&mut cluster, 3, 34, 3);
    assert_eq!((leads(&cluster), members(&cluster)), (Some((3, 5)), vec![3]));
}

/// Goal: a leader that was started again before anybody missed it leads in a higher epoch; the same
/// registration twice is one.
#[test]
fn a_new_life_is_a_new_epoch() {
    let (mut cluster, nodes) = cluster();
    let again = register(&mut cluster, 1, 11, 1);
    assert!(again.incarnation > nodes[0].incarnation);
    assert_eq!(leads(&cluster), Some((1, 2)));
    assert_eq!(partition(&cluster).leader, Some(again));
    assert_eq!(register(&mut cluster, 1, 11, 1), again);
    assert_eq!(leads(&cluster), Some((1, 2)));
    let old = ClusterAsk::Fence { node: NodeId(1), incarnation: nodes[0].incarnation };
    assert!(matches!(cluster.decide(&old), Err(ClusterError::OldLife { .. })));
    // With an empty disk it is no longer in sync, and does not lead.
    register(&mut cluster, 1, 12, 77);
    assert_eq!((leads(&cluster), members(&cluster)), (Some((2, 3)), vec![2, 3]));
}

/// Goal: in-sync changes are taken from the current leader on the current state only, and only
/// with members that are there in the life that caught up.
#[test]
fn insync_changes() {
    let (mut cluster, nodes) = cluster();
    let known = partition(&cluster).clone();
    alter(&mut cluster, &nodes, &[1, 2]).unwrap();
    assert_eq!(members(&cluster), [1, 2]);
    let stale = Proposal {
        leader: nodes[0],
        leader_epoch: known.leader_epoch,
        partition_epoch: known.partition_epoch,
        insync: [(NodeId(1), nodes[0].incarnation)].into(),
    };
    let ask_for = |proposal| ClusterAsk::AlterInSync { partition: PartitionId(1), proposal };
    let refused = cluster.decide(&ask_for(stale.clone()));
    assert_eq!(refused, Err(ClusterError::Changed { current: PartitionEpoch(2) }));
    let other = Proposal { leader: nodes[1], ..stale };
    let refused = cluster.decide(&ask_for(other));
    assert_eq!(refused, Err(ClusterError::NotLeader { current: LeaderEpoch(1) }));
    let not_a_replica = alter(&mut cluster, &nodes, &[1, 2, 4]);
    assert_eq!(not_a_replica, Err(ClusterError::Ineligible(NodeId(4))));
    register(&mut cluster, 3, 33, 3);
    let old_life = alter(&mut cluster, &nodes, &[1, 2, 3]);
    assert_eq!(old_life, Err(ClusterError::Ineligible(NodeId(3))));
    let without_itself = alter(&mut cluster, &nodes, &[2]);
    assert_eq!(without_itself, Err(ClusterError::Ineligible(NodeId(1))));
    assert_eq!(members(&cluster), [1, 2]);
}

/// Goal: copies move only once the new holders are in sync, and the lead goes back to whom it is
/// preferred at.
#[test]
fn moves() {
    let (mut cluster, nodes) = cluster();
    let target = vec![NodeId(4), NodeId(2), NodeId(3)];
    ask(&mut cluster, ClusterAsk::Reassign { partition: PartitionId(1), target }).unwrap();
    assert_eq!((leads(&cluster), members(&cluster)), (Some((1, 1)), vec![1, 2, 3]));
    assert_eq!(partition(&cluster).holders().len(), 4);
    alter(&mut cluster, &nodes, &[1, 2, 3, 4]).unwrap();
    assert_eq!((leads(&cluster), members(&cluster)), (Some((4, 2)), vec![2, 3, 4]));
    assert_eq!(partition(&cluster).target, None);
    fence(&mut cluster, nodes[3]);
    assert_eq!(leads(&cluster), Some((2, 3)));
    unfence(&mut cluster, nodes[3]);
    assert!(cluster.poll_prefer(9).is_empty(), "not before it is in sync");
    alter(&mut cluster, &nodes, &[2, 3, 4]).unwrap();
    let prefer = cluster.poll_prefer(9);
    assert_eq!(prefer.len(), 1);
    ask(&mut cluster, prefer[0].clone()).unwrap();
    assert_eq!(leads(&cluster), Some((4, 4)));
}

/// Goal: a leader that cannot go on is replaced, or leads again in a higher epoch if it is the only
/// one.
#[test]
fn resignation() {
    let (mut cluster, nodes) = cluster();
    let resign = |leader, epoch| ClusterAsk::Resign {
        partition: PartitionId(1),
        leader,
        leader_epoch: LeaderEpoch(epoch),
    };
    ask(&mut cluster, resign(nodes[0], 1)).unwrap();
    assert_eq!(leads(&cluster), Some((2, 2)));
    let twice = ask(&mut cluster, resign(nodes[0], 1));
    assert_eq!(twice, Err(ClusterError::NotLeader { current: LeaderEpoch(2) }));
    alter(&mut cluster, &nodes, &[2]).unwrap();
    ask(&mut cluster, resign(nodes[1], 2)).unwrap();
    assert_eq!((leads(&cluster), members(&cluster)), (Some((2, 3)), vec![2]));
}

/// Goal: silence fences after a timeout, which begins anew with each controller and with each life
/// of a node; an old life is told to register, a fenced one is let back.
#[test]
fn sessions() {
    let (mut cluster, nodes) = cluster();
    let at = Duration::from_millis;
    let mut sessions = Sessions::new(at(500), at(1_000), &cluster);
    let heard = |sessions: &mut Sessions, cluster: &Cluster, lead: Lead, ms| {
        sessions.handle_heartbeat(at(ms), cluster, lead.node, lead.incarnation)
    };
    for &node in &nodes[1..] {
        assert_eq!(heard(&mut sessions, &cluster, node, 1_000), Heartbeat::Alive);
    }
    assert!(sessions.poll_expired(at(1_500), &cluster).is_empty());
    let expired = sessions.poll_expired(at(1_600), &cluster);
    let Lead { node, incarnation } = nodes[0];
    assert_eq!(expired, [ClusterAsk::Fence { node, incarnation }]);
    assert_eq!(sessions.poll_at(&cluster), Some(at(1_500)));
    let mut later = Sessions::new(at(2_000), at(1_000), &cluster);
    later.note_heard(nodes[1].node, at(1_200));
    assert_eq!(later.poll_at(&cluster), Some(at(2_200)));
    assert!(later.poll_expired(at(2_200), &cluster).is_empty());
    assert_eq!(later.poll_expired(at(2_201), &cluster).len(), 1, "it was silent before, too");
    ask(&mut cluster, expired[0].clone()).unwrap();
    assert!(sessions.poll_expired(at(1_700), &cluster).is_empty());
    let back = ClusterAsk::Unfence { node, incarnation };
    assert_eq!(heard(&mut sessions, &cluster, nodes[0], 1_800), Heartbeat::Back(back));
    let old = Lead { incarnation: Incarnation(99), ..nodes[0] };
    assert_eq!(heard(&mut sessions, &cluster, old, 1_900), Heartbeat::Register);
    // It was silent for long; that was its last life's silence.
    let anew = register(&mut cluster, node.0, 77, node.0.into());
    sessions.observe(at(9_000), &cluster);
    assert_eq!(sessions.poll_expired(at(10_000), &cluster).len(), 3, "only the others");
    assert_eq!(sessions.poll_expired(at(10_001), &cluster).len(), 4);
    assert_eq!(heard(&mut sessions, &cluster, anew, 10_001), Heartbeat::Alive);
}
