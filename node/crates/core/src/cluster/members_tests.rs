use super::*;
use crate::cluster::ClusterAsk;
use crate::ids::{DiskId, PartitionId};

fn row(number: u32) -> Member {
    let (name, address) = (format!("edge-{number}"), format!("10.0.0.{number}:7447"));
    Member { name, address, witness: false }
}

fn ask(cluster: &mut Cluster, ask: MembersAsk) -> Result<(), ClusterError> {
    let change = cluster.decide(&ClusterAsk::Members(ask))?;
    cluster.apply(&change);
    Ok(())
}

fn decide(cluster: &mut Cluster, ask: ClusterAsk) {
    let change = cluster.decide(&ask).unwrap();
    cluster.apply(&change);
}

fn refusal(cluster: &mut Cluster, of: MembersAsk) -> MembersError {
    let before = cluster.clone();
    let Err(ClusterError::Members(error)) = ask(cluster, of) else { panic!("it was taken") };
    assert_eq!(*cluster, before);
    error
}

fn put(number: u32) -> MembersAsk {
    let Member { name, address, .. } = row(number);
    MembersAsk::Put { name, address, witness: None }
}

fn remove(node: u32, force: bool) -> MembersAsk {
    MembersAsk::Remove { node: NodeId(node), force }
}

/// A cluster of nodes 1 to `nodes`, all registered.
fn cluster(nodes: u32) -> Cluster {
    let mut cluster = Cluster::default();
    let rows = (1..=nodes).map(|number| (NodeId(number), row(number))).collect();
    ask(&mut cluster, MembersAsk::Found { rows }).unwrap();
    (1..=nodes).for_each(|number| register(&mut cluster, number));
    cluster
}

fn register(cluster: &mut Cluster, number: u32) {
    let (node, disk) = (NodeId(number), DiskId(number.into()));
    decide(cluster, ClusterAsk::Register { node, start: number.into(), disk, rack: None });
}

fn place(cluster: &mut Cluster, partitions: std::ops::Range<u32>, replicas: u32) {
    let partitions = partitions.map(PartitionId).collect();
    decide(cluster, ClusterAsk::Place { partitions, replicas, min_insync: 2 });
}

fn fence(cluster: &mut Cluster, number: u32) {
    let incarnation = cluster.nodes()[&NodeId(number)].incarnation;
    decide(cluster, ClusterAsk::Fence { node: NodeId(number), incarnation });
}

/// Goal: a number is given once, also after its node is gone; names and addresses are one member's;
/// a known name changes its address; a cluster is founded once and not without bounds.
#[test]
fn numbers_are_given_once() {
    let mut cluster = cluster(2);
    let rows = [(NodeId(7), row(7))].into();
    assert_eq!(refusal(&mut cluster, MembersAsk::Found { rows }), MembersError::Founded);
    ask(&mut cluster, put(3)).unwrap();
    assert_eq!(cluster.members().by_name("edge-3"), Some(NodeId(3)));
    ask(&mut cluster, remove(3, false)).unwrap();
    assert_eq!(refusal(&mut cluster, remove(3, false)), MembersError::Unknown(NodeId(3)));
    ask(&mut cluster, put(3)).unwrap();
    assert_eq!(cluster.members().by_name("edge-3"), Some(NodeId(4)));
    let gone = ClusterAsk::Register { node: NodeId(3), start: 9, disk: DiskId(9), rack: None };
    let refused = cluster.decide(&gone);
    assert_eq!(refused, Err(MembersError::Unknown(NodeId(3)).into()), "it was removed");
    let moved = |name: &str, address: &str| {
        let (name, address) = (name.to_owned(), address.to_owned());
        MembersAsk::Put { name, address, witness: None }
    };
    ask(&mut cluster, moved("edge-2", "depot:1")).unwrap();
    assert_eq!(cluster.members().rows[&NodeId(2)].address, "depot:1");
    let taken = refusal(&mut cluster, moved("edge-9", "depot:1"));
    assert_eq!(taken, MembersError::Address(NodeId(2)));
    for (name, address) in [("", "h:1"), ("a b", "h:1"), ("a", "h"), ("a", ":1"), ("a@b", "h:1")] {
        assert_eq!(refusal(&mut cluster, moved(name, address)), MembersError::Malformed);
    }
    ask(&mut cluster, put(5)).unwrap();
    ask(&mut cluster, put(6)).unwrap();
    assert_eq!(refusal(&mut cluster, put(7)), MembersError::Full);
}

/// Goal: a node in use is not removed, nor one with copies; the last copy that has everything is
/// not given up, whatever is asked; and somebody is left.
#[test]
fn removal_is_refused() {
    let mut cluster = cluster(3);
    place(&mut cluster, 1..2, 3);
    assert_eq!(refusal(&mut cluster, remove(3, false)), MembersError::InUse(NodeId(3)));
    decide(&mut cluster, ClusterAsk::Drain { node: NodeId(3), drained: true });
    let holds = MembersError::Holds { node: NodeId(3), copies: 1 };
    assert_eq!(refusal(&mut cluster, remove(3, false)), holds);
    fence(&mut cluster, 1);
    fence(&mut cluster, 2);
    let last = MembersError::LastCopy { node: NodeId(3), partitions: 1 };
    assert_eq!(refusal(&mut cluster, remove(3, true)), last);
    let mut one = self::cluster(1);
    assert_eq!(refusal(&mut one, remove(1, true)), MembersError::Last(NodeId(1)));
}

/// Goal: with force a dead node's copies are given up, in-sync counts stay as wanted, and the next
/// node gets them.
#[test]
fn copies_of_a_removed_node_are_made_anew() {
    let mut cluster = cluster(3);
    place(&mut cluster, 1..7, 3);
    fence(&mut cluster, 1);
    ask(&mut cluster, remove(1, true)).unwrap();
    assert!(!cluster.nodes().contains_key(&NodeId(1)));
    for known in cluster.partitions().values() {
        assert_eq!(known.replicas.len(), 2);
        assert_eq!((known.missing, known.min_insync), (1, 2));
        assert!(known.leader.is_some_and(|leader| known.replicas.contains(&leader.node)));
    }
    assert_eq!(cluster.poll_moves(9), [], "there is no node for them");
    ask(&mut cluster, put(4)).unwrap();
    register(&mut cluster, 4);
    let asks = cluster.poll_moves(4);
    assert_eq!(asks.len(), 4, "a few at a time");
    asks.into_iter().for_each(|ask| decide(&mut cluster, ask));
    let moving = cluster.partitions().values().filter(|known| known.target.is_some());
    assert!(moving.clone().all(|known| known.missing == 0 && known.holders().len() == 3));
    assert_eq!(moving.count(), 4);
}

/// Goal: a leader that is removed is replaced, and a move to or from it goes on without it.
#[test]
fn a_move_outlives_its_nodes() {
    for (gone, replicas, missing) in [(1, &[2, 4][..], 0), (3, &[2], 1), (4, &[2], 1)] {
        let mut cluster = cluster(4);
        place(&mut cluster, 1..2, 3);
        let partition = PartitionId(1);
        let target = vec![NodeId(2), NodeId(4)];
        decide(&mut cluster, ClusterAsk::Reassign { partition, target });
        ask(&mut cluster, remove(gone, true)).unwrap();
        let known = &cluster.partitions()[&partition];
        assert!(known.leader.is_some_and(|leader| leader.node != NodeId(gone)));
        let goal = known.target.as_ref().unwrap_or(&known.replicas);
        let (goal, missing) = match gone {
            // Not where the copies were going.
            3 => (goal.len(), 0),
            _ => (goal.len(), missing),
        };
        assert_eq!(goal, if gone == 4 { replicas.len() } else { 2 }, "{gone}: {known:?}");
        assert_eq!(known.missing, missing, "{gone}: {known:?}");
    }
}

fn token(id: u64, expires_at: i64) -> MembersAsk {
    let (now, expires_at) = (TimestampMs(10), TimestampMs(expires_at));
    MembersAsk::Token { id, hash: [7; 32], now, expires_at, witness: true }
}

fn join(id: u64, hash: u8, key: u8, now: i64, number: u32) -> MembersAsk {
    let Member { name, address, .. } = row(number);
    let (hash, key, now) = ([hash; 32], [key; 32], TimestampMs(now));
    MembersAsk::Join { token: id, hash, key, now, name, address }
}

/// Goal: a token lets in one node, within its time and with its secret, and the same node again if
/// it did not get the answer.
#[test]
fn tokens() {
    let mut cluster = cluster(1);
    ask(&mut cluster, token(1, 100)).unwrap();
    assert_eq!(refusal(&mut cluster, join(2, 7, 1, 20, 2)), MembersError::Token);
    assert_eq!(refusal(&mut cluster, join(1, 8, 1, 20, 2)), MembersError::Token);
    assert_eq!(refusal(&mut cluster, join(1, 7, 1, 100, 2)), MembersError::TokenExpired);
    assert_eq!(refusal(&mut cluster, join(1, 7, 1, 20, 1)), MembersError::Name(NodeId(1)));
    ask(&mut cluster, join(1, 7, 1, 20, 2)).unwrap();
    assert!(cluster.members().rows[&NodeId(2)].witness, "as the token says");
    let before = cluster.members().clone();
    ask(&mut cluster, join(1, 7, 1, 30, 2)).unwrap();
    assert_eq!(cluster.members(), &before, "the same node asked again");
    let used = MembersError::TokenUsed(NodeId(2));
    assert_eq!(refusal(&mut cluster, join(1, 7, 2, 30, 2)), used, "another key");
    assert_eq!(refusal(&mut cluster, join(1, 7, 1, 30, 3)), used, "another name");
    assert_eq!(refusal(&mut cluster, token(1, 200)), MembersError::Token, "an id twice");
    for id in 2..=limits::JOIN_TOKENS_MAX as u64 {
        ask(&mut cluster, token(id, 100)).unwrap();
    }
    assert_eq!(refusal(&mut cluster, token(99, 100)), MembersError::Tokens);
    let (now, expires_at) = (TimestampMs(100), TimestampMs(900));
    let later = MembersAsk::Token { id: 99, hash: [7; 32], now, expires_at, witness: false };
    ask(&mut cluster, later).unwrap();
    assert_eq!(cluster.members().tokens.len(), 1, "those that ended are forgotten");
}
