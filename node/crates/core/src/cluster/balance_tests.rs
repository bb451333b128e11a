use super::*;
use crate::cluster::Node;
use crate::cluster::members::Members;
use crate::ids::{DiskId, Incarnation, LeaderEpoch, PartitionEpoch};
use crate::partition::assignment::{Assignment, Lead, Proposal};
use proptest::prelude::*;

/// Nodes 1 to `nodes`, in racks by `racks` (0: no label), and one partition for each list of
/// replicas; everything is in sync.
fn cluster(racks: &[u8], partitions: &[Vec<u32>]) -> Cluster {
    let node = |(at, rack): (usize, &u8)| {
        let id = at as u32 + 1;
        let node = Node {
            incarnation: Incarnation(u64::from(id)),
            start: 0,
            disk: DiskId(u64::from(id)),
            rack: (*rack > 0).then(|| format!("rack-{rack}")),
            fenced: false,
            drained: false,
        };
        (NodeId(id), node)
    };
    let nodes = racks.iter().enumerate().map(node).collect();
    let place = |(at, replicas): (usize, &Vec<u32>)| {
        let replicas: Vec<NodeId> = replicas.iter().map(|&id| NodeId(id)).collect();
        let (node, min_insync) = (replicas[0], replicas.len() as u32);
        let assignment = Assignment {
            insync: replicas.iter().map(|&id| (id, DiskId(u64::from(id.0)))).collect(),
            replicas,
            target: None,
            leader: Some(Lead { node, incarnation: Incarnation(u64::from(node.0)) }),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            min_insync,
            missing: 0,
        };
        (PartitionId(at as u32 + 1), assignment)
    };
    let partitions = partitions.iter().enumerate().map(place).collect();
    Cluster::of(nodes, partitions, Incarnation(99), Members::default())
}

fn decide(cluster: &mut Cluster, ask: &ClusterAsk) {
    let change = cluster.decide(ask).unwrap_or_else(|error| panic!("{ask:?}: {error}"));
    cluster.apply(&change);
}

/// Everybody who holds a copy of a partition, or is to, catches up.
fn catch_up(cluster: &mut Cluster, partition: PartitionId) {
    let known = cluster.partitions()[&partition].clone();
    let of = |node: NodeId| (node, cluster.nodes()[&node].incarnation);
    let proposal = Proposal {
        leader: known.leader.expect("it is led"),
        leader_epoch: known.leader_epoch,
        partition_epoch: known.partition_epoch,
        insync: known.holders().into_iter().map(of).collect(),
    };
    decide(cluster, &ClusterAsk::AlterInSync { partition, proposal });
}

fn carry_out(cluster: &mut Cluster, moves: &[Move]) {
    for planned in moves {
        decide(cluster, &planned.ask());
        if cluster.partitions()[&planned.partition].target.is_some() {
            catch_up(cluster, planned.partition);
        }
        assert_eq!(cluster.partitions()[&planned.partition].replicas, planned.to);
    }
}

/// Drains nodes to the end, leads included.
fn drained(cluster: &mut Cluster, node: u32) {
    decide(cluster, &ClusterAsk::Drain { node: NodeId(node), drained: true });
    for _ in 0..100 {
        let asks = [cluster.poll_moves(2), cluster.poll_prefer(2)].concat();
        if asks.is_empty() && cluster.moving() == 0 {
            return;
        }
        asks.iter().for_each(|ask| decide(cluster, ask));
        let moving = cluster.partitions().iter().filter(|(_, known)| known.target.is_some());
        let moving: Vec<_> = moving.map(|(&id, _)| id).collect();
        moving.into_iter().for_each(|id| catch_up(cluster, id));
    }
    panic!("draining goes on for ever: {cluster:#?}");
}

fn held(cluster: &Cluster, node: u32) -> usize {
    let on = |known: &&Assignment| known.holders().contains(&NodeId(node));
    cluster.partitions().values().filter(on).count()
}

fn led(cluster: &Cluster, node: u32) -> usize {
    let by = |known: &&Assignment| known.leader.is_some_and(|leader| leader.node == NodeId(node));
    cluster.partitions().values().filter(by).count()
}

/// How many copies and how many in sync each partition has and wants, which no move changes.
fn counts(cluster: &Cluster) -> Vec<(usize, usize, u32)> {
    let of = |known: &Assignment| (known.replicas.len(), known.insync.len(), known.min_insync);
    cluster.partitions().values().map(of).collect()
}

fn racks(cluster: &Cluster, known: &Assignment) -> usize {
    let rack = |node: &NodeId| match &cluster.nodes()[node].rack {
        Some(rack) => rack.clone(),
        None => node.to_string(),
    };
    known.replicas.iter().map(rack).collect::<BTreeSet<_>>().len()
}

/// Racks of 3 to 6 nodes, and up to 24 partitions on some of them.
fn any_cluster(racks: u8) -> impl Strategy<Value = Cluster> {
    proptest::collection::vec(0..=racks, 3..=6).prop_flat_map(|racks| {
        let ids: Vec<u32> = (1..=racks.len() as u32).collect();
        let replicas = proptest::sample::subsequence(ids, 1..=3).prop_shuffle();
        proptest::collection::vec(replicas, 1..24)
            .prop_map(move |partitions| cluster(&racks, &partitions))
    })
}

/// The fewest copies that have to be moved so that no two nodes differ by more than one.
fn least_moves(cluster: &Cluster) -> usize {
    let nodes = cluster.nodes().len();
    let mut full: Vec<usize> = (1..=nodes as u32).map(|id| held(cluster, id)).collect();
    full.sort_by_key(|&held| std::cmp::Reverse(held));
    let (each, more) = (full.iter().sum::<usize>() / nodes, full.iter().sum::<usize>() % nodes);
    let excess = full.iter().enumerate();
    excess.map(|(at, held)| held.saturating_sub(each + usize::from(at < more))).sum()
}

proptest! {
    /// Goal: a plan comes to an end, after which there is nothing to do; it loses no copy, puts no
    /// two on one node, and no partition is on fewer racks than before.
    #[test]
    fn rebalancing_converges(mut cluster in any_cluster(2)) {
        let before = cluster.clone();
        let plan = cluster.plan_rebalance();
        carry_out(&mut cluster, &plan);
        prop_assert_eq!(cluster.plan_rebalance(), []);
        prop_assert_eq!(counts(&before), counts(&cluster));
        for (id, known) in cluster.partitions() {
            let distinct: BTreeSet<_> = known.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), known.replicas.len());
            prop_assert!(racks(&cluster, known) >= racks(&before, &before.partitions()[id]));
        }
    }

    /// Goal: without racks, copies are even in the end, and no more of them are moved than must be;
    /// also if only the first steps are taken and the rest is planned anew.
    #[test]
    fn rebalancing_moves_the_least(mut cluster in any_cluster(0), steps in 0..5_usize) {
        let least = least_moves(&cluster);
        let plan = cluster.plan_rebalance();
        prop_assert_eq!(plan.iter().map(Move::copies).sum::<usize>(), least);
        let first = &plan[..steps.min(plan.len())];
        carry_out(&mut cluster, first);
        let rest = cluster.plan_rebalance();
        let all = first.iter().chain(&rest).map(Move::copies).sum::<usize>();
        prop_assert_eq!(all, least);
        carry_out(&mut cluster, &rest);
        let nodes = cluster.nodes().len() as u32;
        let held: Vec<_> = (1..=nodes).map(|id| held(&cluster, id)).collect();
        prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "{:?}", held);
    }

    /// Goal: a drained node holds and leads nothing where others can; only what was there is moved,
    /// and no copy is lost. With too few others, copies stay and leads go.
    #[test]
    fn draining_empties(mut cluster in any_cluster(2), node in 1..=3_u32) {
        let before = cluster.clone();
        let nodes = cluster.nodes().len();
        drained(&mut cluster, node);
        prop_assert_eq!(counts(&before), counts(&cluster));
        for (id, known) in cluster.partitions() {
            let was = &before.partitions()[id];
            let there = was.replicas.contains(&NodeId(node));
            let must_stay = there && was.replicas.len() == nodes;
            prop_assert_eq!(known.replicas.contains(&NodeId(node)), must_stay);
            let kept = was.replicas.iter().filter(|held| known.replicas.contains(held)).count();
            let moved = was.replicas.len() - kept;
            prop_assert_eq!(moved, usize::from(there && !must_stay));
        }
        prop_assert_eq!(led(&cluster, node), 0);
        prop_assert_eq!(cluster.stuck(NodeId(node)), held(&cluster, node));
    }
}

/// Goal: copies of a drained node go to racks that have none.
#[test]
fn draining_spreads_over_racks() {
    let mut cluster = cluster(&[1, 2, 2, 1], &[vec![1, 2], vec![1, 3], vec![2, 1]]);
    drained(&mut cluster, 1);
    for known in cluster.partitions().values() {
        assert_eq!(racks(&cluster, known), 2, "{known:?}");
    }
    assert_eq!(held(&cluster, 4), 3);
}

/// Goal: a drained node is given nothing new, also in a new life, until it is used again; then
/// leads go back to it where it is preferred.
#[test]
fn a_drained_node_is_given_nothing() {
    let mut cluster = cluster(&[0, 0, 0], &[vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]]);
    drained(&mut cluster, 2);
    assert_eq!((held(&cluster, 2), led(&cluster, 2)), (3, 0), "there is nowhere to go");
    let (node, disk) = (NodeId(2), DiskId(2));
    decide(&mut cluster, &ClusterAsk::Register { node, start: 7, disk, rack: None });
    assert!(cluster.nodes()[&node].drained, "in its next life, too");
    let place = |ids: std::ops::Range<u32>, replicas| {
        let partitions = ids.map(PartitionId).collect();
        ClusterAsk::Place { partitions, replicas, min_insync: 1 }
    };
    decide(&mut cluster, &place(10..20, 2));
    assert_eq!(held(&cluster, 2), 3);
    cluster.decide(&place(30..31, 3)).unwrap_err();
    let fence = ClusterAsk::Fence { node: NodeId(3), incarnation: Incarnation(3) };
    decide(&mut cluster, &fence);
    for id in 1..=3 {
        let leader = cluster.partitions()[&PartitionId(id)].leader;
        assert_eq!(
            leader.map(|leader| leader.node),
            Some(NodeId(1)),
            "rather than the drained one"
        );
    }
    decide(&mut cluster, &ClusterAsk::Drain { node, drained: false });
    let back = ClusterAsk::Unfence { node: NodeId(3), incarnation: Incarnation(3) };
    decide(&mut cluster, &back);
    catch_up(&mut cluster, PartitionId(2));
    let prefer = cluster.poll_prefer(9);
    assert_eq!(prefer, [ClusterAsk::Prefer { partition: PartitionId(2) }]);
}

/// Goal: a move to a node that is drained since goes elsewhere.
#[test]
fn moves_turn_away_from_drained_nodes() {
    let mut cluster = cluster(&[0, 0, 0, 0], &[vec![1, 2]]);
    let (partition, target) = (PartitionId(1), vec![NodeId(1), NodeId(3)]);
    decide(&mut cluster, &ClusterAsk::Reassign { partition, target });
    drained(&mut cluster, 3);
    assert_eq!(cluster.partitions()[&partition].replicas, [NodeId(1), NodeId(2)]);
}
