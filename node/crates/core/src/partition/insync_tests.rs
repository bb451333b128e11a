use super::*;
use crate::ids::DiskId;
use crate::ids::LeaderEpoch;

const ME: Lead = Lead { node: NodeId(1), incarnation: Incarnation(5) };
const LAG: Lag = Lag { max: Duration::from_secs(2), retry: Duration::from_millis(250) };

fn assignment(partition_epoch: u32, insync: &[u32]) -> Assignment {
    Assignment {
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        target: None,
        leader: Some(ME),
        leader_epoch: LeaderEpoch(4),
        partition_epoch: PartitionEpoch(partition_epoch),
        insync: insync.iter().map(|&node| (NodeId(node), DiskId(node.into()))).collect(),
        min_insync: 2,
        missing: 0,
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A set of three, in which the followers have the log up to the ends given.
fn insync(members: &[u32], two: i64, three: i64) -> InSync {
    let mut insync = InSync::new(secs(0), ME, &assignment(1, members));
    assert!(insync.handle_follow(NodeId(2), (Incarnation(6), 1), Offset(two)));
    assert!(insync.handle_follow(NodeId(3), (Incarnation(7), 1), Offset(three)));
    insync
}

fn proposed(proposal: Option<Proposal>) -> Vec<u32> {
    proposal.expect("a proposal").insync.keys().map(|node| node.0).collect()
}

/// Goal: the watermark is the smallest durable end of the set, and unknown while a member never
/// said, or the set is too small.
#[test]
fn commit_rule() {
    let set = insync(&[1, 2, 3], 8, 5);
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(5)));
    assert_eq!(set.commit_end(Offset(3)), Some(Offset(3)));
    assert_eq!(insync(&[1, 2], 8, 5).commit_end(Offset(10)), Some(Offset(8)));
    assert_eq!(insync(&[1], 8, 5).commit_end(Offset(10)), None, "below min_insync");
    let silent = InSync::new(secs(0), ME, &assignment(1, &[1, 2]));
    assert_eq!(silent.commit_end(Offset(10)), None, "it may hold nothing yet");
    assert_eq!(InSync::alone().commit_end(Offset(10)), Some(Offset(10)));
}

/// Goal: the watermark waits for a member that is to leave until the controller let it go.
#[test]
fn a_shrink_counts_when_it_is_committed() {
    let mut set = insync(&[1, 2, 3], 10, 5);
    assert!(set.handle_report(secs(3), NodeId(2), Incarnation(6), (Offset(10), Offset(10))));
    let proposal = set.poll_proposal(secs(3), LAG, LeaderEpoch(4), (Offset(5), Offset(10)));
    assert_eq!(proposed(proposal), [1, 2]);
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(5)));
    set.handle_assignment(secs(3), &assignment(1, &[1, 2]));
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(5)), "an old word");
    set.handle_assignment(secs(3), &assignment(2, &[1, 2]));
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(10)));
}

/// Goal: whoever is proposed counts from then on, whatever the answer, until a newer partition
/// epoch settles it; and whoever is below what may be committed is not proposed.
#[test]
fn a_joining_follower_counts_at_once() {
    let mut set = insync(&[1, 2], 10, 8);
    let none = set.poll_proposal(secs(1), LAG, LeaderEpoch(4), (Offset(9), Offset(10)));
    assert_eq!(none, None, "its end is below what may be committed");
    let proposal = set.poll_proposal(secs(1), LAG, LeaderEpoch(4), (Offset(8), Offset(10)));
    assert_eq!(proposed(proposal), [1, 2, 3]);
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(8)));
    let again = set.poll_proposal(secs(1), LAG, LeaderEpoch(4), (Offset(8), Offset(10)));
    assert_eq!(again, None, "one at a time");
    // It falls behind: withdrawing it takes a proposal too, since the first may still count.
    set.handle_report(secs(9), NodeId(2), Incarnation(6), (Offset(10), Offset(10)));
    let proposal = set.poll_proposal(secs(9), LAG, LeaderEpoch(4), (Offset(8), Offset(10)));
    assert_eq!(proposed(proposal), [1, 2]);
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(8)));
    set.handle_assignment(secs(9), &assignment(2, &[1, 2]));
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(10)));
}

/// Goal: what a follower said in an earlier life, or in an older question, no longer counts; nor
/// does an end that the leader's log does not have.
#[test]
fn words_of_earlier_lives() {
    let mut set = insync(&[1, 2], 10, 0);
    assert!(set.handle_follow(NodeId(2), (Incarnation(9), 1), Offset(0)), "with an empty disk");
    assert!(!set.handle_report(secs(1), NodeId(2), Incarnation(6), (Offset(10), Offset(10))));
    assert!(!set.handle_follow(NodeId(2), (Incarnation(6), 2), Offset(10)));
    assert!(!set.handle_report(secs(1), NodeId(2), Incarnation(9), (Offset(11), Offset(10))));
    assert_eq!(set.commit_end(Offset(10)), Some(Offset(0)));
    assert!(!set.handle_follow(NodeId(4), (Incarnation(9), 1), Offset(10)), "not a replica");
}

/// Goal: under load, a follower that always has what there was a moment ago stays in.
#[test]
fn keeping_up_is_not_catching_up() {
    let mut set = insync(&[1, 2], 0, 0);
    for n in 1..=10 {
        let ends = (Offset(n * 10 - 5), Offset(n * 10));
        assert!(set.handle_report(secs(n as u64), NodeId(2), Incarnation(6), ends));
    }
    let none = set.poll_proposal(secs(11), LAG, LeaderEpoch(4), (Offset(90), Offset(100)));
    assert_eq!(none, None);
    let proposal = set.poll_proposal(secs(14), LAG, LeaderEpoch(4), (Offset(90), Offset(100)));
    assert_eq!(proposed(proposal), [1]);
}
