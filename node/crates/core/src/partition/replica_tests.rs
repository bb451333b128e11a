use super::*;
use crate::ids::{DiskId, Incarnation, NodeId, PartitionEpoch, TimestampMs};
use crate::partition::follower::Step;
use crate::partition::insync::Lag;
use crate::partition::leader::{Append, AppendError, FollowRefusal};
use crate::partition::messages::{Follow, Report, Verdict};

const ONE: Lead = Lead { node: NodeId(1), incarnation: Incarnation(5) };
const TWO: Lead = Lead { node: NodeId(2), incarnation: Incarnation(6) };
const RETRY: Duration = Duration::from_millis(100);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn assignment(leader: Option<Lead>, leader_epoch: i32, partition_epoch: u32) -> Assignment {
    Assignment {
        replicas: vec![NodeId(1), NodeId(2)],
        target: None,
        leader,
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(partition_epoch),
        insync: [(NodeId(1), DiskId(1)), (NodeId(2), DiskId(2))].into(),
        min_insync: 2,
        missing: 0,
    }
}

fn view(log_end: i64, epochs: &[(i32, i64)]) -> PartitionView {
    let epochs = epochs.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start)));
    PartitionView { log_end: Offset(log_end), epochs: epochs.collect(), ..PartitionView::default() }
}

fn leading() -> Replica<&'static str> {
    let mut replica = Replica::new(ONE, Held::default());
    let effects = replica.handle_assigned(at(0), &assignment(Some(ONE), 1, 1));
    assert_eq!(effects, [Effect::ReadView]);
    assert_eq!(replica.handle_view(at(0), &PartitionView::default()), []);
    replica
}

fn append(replica: &mut Replica<&'static str>, reply: &'static str) {
    let leader = replica.leader().expect("it leads");
    let decided = leader.decide_append(TimestampMs(0), None).unwrap();
    assert!(matches!(decided, Append::Write { .. }));
    leader.handle_appended(TimestampMs(0), 1, None);
    let end = leader.log_end();
    assert_eq!(leader.park(end, reply), None);
}

/// Goal: leader and follower agree, an append is acknowledged once both disks have it, and a lost
/// leadership releases what waits as unknown.
#[test]
fn two_replicas() {
    let mut one = leading();
    let mut two: Replica<()> = Replica::new(TWO, Held::default());
    assert_eq!(two.handle_assigned(at(0), &assignment(Some(ONE), 1, 1)), []);
    let question = two.follower().unwrap().poll_follow(at(1), RETRY).unwrap();
    let answer = one.leader().unwrap().handle_follow(&question).unwrap();
    assert_eq!(answer.verdict, Verdict::Agreed);
    assert_eq!(two.follower().unwrap().handle_answer(at(2), &answer), Step::Nothing);
    append(&mut one, "first");
    append(&mut one, "second");
    assert_eq!(one.handle_durable(Offset(2)), [], "one disk is not enough");
    let report = |end| Report {
        epoch: LeaderEpoch(1),
        node: NodeId(2),
        incarnation: TWO.incarnation,
        durable_end: Offset(end),
    };
    let stale = Report { epoch: LeaderEpoch(0), ..report(2) };
    assert_eq!(one.leader().unwrap().handle_report(at(3), &stale).count(), 0);
    let released: Vec<_> = one.leader().unwrap().handle_report(at(3), &report(1)).collect();
    assert_eq!(released, ["first"]);
    let effects = one.handle_assigned(at(4), &assignment(Some(TWO), 2, 2));
    assert_eq!(effects, [Effect::Unknown("second")]);
    assert_eq!(one.follower().unwrap().held().committed, Offset(1));
    assert_eq!(one.handle_assigned(at(4), &assignment(Some(ONE), 1, 1)), [], "an old word");
    assert!(one.follower().is_some());
}

/// Goal: with too few replicas in sync, appends are refused by name.
#[test]
fn too_few_in_sync() {
    let mut one = leading();
    let alone =
        Assignment { insync: [(NodeId(1), DiskId(1))].into(), ..assignment(Some(ONE), 1, 2) };
    assert_eq!(one.handle_assigned(at(1), &alone), []);
    let refused = one.leader().unwrap().decide_append(TimestampMs(0), None);
    assert_eq!(refused, Err(AppendError::NotEnoughInSync { have: 1, need: 2 }));
}

/// Goal: a node that was started again does not lead in the epoch of its earlier life, nor in one
/// that its log already holds.
#[test]
fn an_earlier_life_does_not_lead() {
    let again = Lead { incarnation: Incarnation(9), ..ONE };
    let mut one: Replica<()> = Replica::new(again, Held::open(&view(3, &[(1, 0)]), Offset(0)));
    assert_eq!(one.handle_assigned(at(0), &assignment(Some(ONE), 1, 1)), []);
    assert!(matches!(one.role(), Role::Idle(_)));
    let effects = one.handle_assigned(at(1), &assignment(Some(again), 1, 2));
    assert_eq!(effects, [Effect::ReadView]);
    let effects = one.handle_view(at(1), &view(3, &[(1, 0)]));
    assert_eq!(effects, [Effect::Resign(LeaderEpoch(1))]);
    assert_eq!(one.poll_resign(), Some(LeaderEpoch(1)));
    assert_eq!(one.handle_assigned(at(2), &assignment(Some(again), 2, 3)), [Effect::ReadView]);
    assert_eq!(one.handle_view(at(2), &view(3, &[(1, 0)])), []);
    assert_eq!(one.leader().unwrap().settled_watermark(), None, "two has not confirmed three");
}

/// Goal: a failed disk ends the leadership; the epoch is not led again, and a log that lost what
/// was committed takes no part.
#[test]
fn failed_disk() {
    let mut one = leading();
    append(&mut one, "lost?");
    assert_eq!(one.handle_failure(), [Effect::Unknown("lost?")]);
    assert_eq!(one.handle_durable(Offset(1)), []);
    let effects = one.handle_recovered(at(1), &view(1, &[(1, 0)]));
    assert_eq!(effects, [Effect::Resign(LeaderEpoch(1))]);
    assert_eq!(one.handle_assigned(at(2), &assignment(Some(TWO), 2, 2)), []);
    assert!(one.follower().is_some());

    let held = Held::open(&view(5, &[(1, 0)]), Offset(5));
    let mut two: Replica<()> = Replica::new(TWO, held);
    assert_eq!(two.handle_failure(), []);
    let why = Halt::CommittedLost { end: Offset(4), committed: Offset(5) };
    assert_eq!(two.handle_recovered(at(1), &view(4, &[(1, 0)])), [Effect::Halt(why)]);
    assert_eq!(two.handle_assigned(at(2), &assignment(Some(TWO), 2, 2)), []);
    assert!(two.leader().is_none());
}

/// Goal: whoever is to lead waits until all it has is on its disk; a cut in progress is waited for
/// as well.
#[test]
fn promotion_waits_for_the_disk() {
    let mut two: Replica<()> = Replica::new(TWO, Held::open(&view(3, &[(1, 0)]), Offset(0)));
    two.handle_assigned(at(0), &assignment(Some(ONE), 2, 1));
    let follower = two.follower().unwrap();
    let question = follower.poll_follow(at(1), RETRY).unwrap();
    let answer = |attempt, verdict| crate::partition::messages::FollowAnswer {
        epoch: LeaderEpoch(2),
        incarnation: TWO.incarnation,
        attempt,
        verdict,
    };
    let cut = Verdict::Truncate { end: Offset(2) };
    let step = follower.handle_answer(at(2), &answer(question.attempt, cut));
    assert_eq!(step, Step::Truncate { end: Offset(2) });
    assert_eq!(two.handle_assigned(at(3), &assignment(Some(TWO), 3, 2)), [], "the cut comes first");
    assert_eq!(two.handle_cut(at(4), &view(2, &[(1, 0)])), [Effect::ReadView]);
    assert_eq!(two.handle_view(at(4), &view(2, &[(1, 0)])), []);
    assert_eq!(two.leader().unwrap().epoch(), LeaderEpoch(3));
}

/// Goal: a follower whose newest epochs are all unknown to the leader finds the place where the
/// logs part, however many of them there are.
#[test]
fn long_histories() {
    let rows: Vec<(i32, i64)> = (0..150).map(|n| (2 * n + 2, i64::from(n) + 10)).collect();
    let rows: Vec<_> = [(1, 0)].into_iter().chain(rows).collect();
    let mut log = view(160, &rows);
    let mut two: Replica<()> = Replica::new(TWO, Held::open(&log, Offset(5)));
    let known = assignment(Some(ONE), 1_001, 1);
    two.handle_assigned(at(0), &known);
    let theirs = view(12, &[(1, 0)]);
    let leader: Option<Leader<()>> = Leader::replicated(at(0), ONE, &known, &theirs, Offset(0));
    let mut leader = leader.unwrap();
    let mut rounds = 0;
    for now in 1.. {
        let follower = two.follower().unwrap();
        let question = follower.poll_follow(at(now * 200), RETRY).unwrap();
        let answer = leader.handle_follow(&question).unwrap();
        let Step::Truncate { end } = follower.handle_answer(at(now * 200), &answer) else { break };
        log.log_end = end;
        log.epochs.retain(|&(_, start)| start < end);
        assert_eq!(two.handle_cut(at(now * 200), &log), []);
        rounds += 1;
    }
    assert_eq!((two.ends()[3], rounds), (Offset(10), 3));
}

/// Goal: a question that makes no sense, or is of another epoch or of a stranger, is refused by
/// name; a report beyond the log changes nothing.
#[test]
fn strange_peers() {
    let mut one = leading();
    let leader = one.leader().unwrap();
    let good = Follow {
        epoch: LeaderEpoch(1),
        node: NodeId(2),
        incarnation: TWO.incarnation,
        attempt: 1,
        log_start: Offset(0),
        durable_end: Offset(0),
        log_end: Offset(0),
        epochs: Vec::new(),
    };
    let many = (0..65).map(|n| (LeaderEpoch(n), Offset(0))).collect();
    for bad in [
        Follow { durable_end: Offset(1), ..good.clone() },
        Follow { log_start: Offset(1), ..good.clone() },
        Follow { epochs: vec![(LeaderEpoch(2), Offset(0)); 2], ..good.clone() },
        Follow { epochs: many, ..good.clone() },
    ] {
        assert_eq!(leader.handle_follow(&bad), Err(FollowRefusal::Malformed), "{bad:?}");
    }
    let stranger = Follow { node: NodeId(9), ..good.clone() };
    assert_eq!(leader.handle_follow(&stranger), Err(FollowRefusal::Unexpected));
    let other = Follow { epoch: LeaderEpoch(2), ..good.clone() };
    let current = LeaderEpoch(1);
    assert_eq!(leader.handle_follow(&other), Err(FollowRefusal::OtherEpoch { current }));
    assert!(leader.push(NodeId(2)).is_none(), "nobody asked yet");
    assert_eq!(leader.handle_follow(&good).unwrap().verdict, Verdict::Agreed);
    assert_eq!(leader.handle_follow(&good), Err(FollowRefusal::Unexpected), "a late copy");
    let far = Report {
        epoch: LeaderEpoch(1),
        node: NodeId(2),
        incarnation: TWO.incarnation,
        durable_end: Offset(7),
    };
    assert_eq!(leader.handle_report(at(1), &far).count(), 0);
    assert_eq!(leader.high_watermark(), Offset(0));
}

/// Goal: a new leader, whose own watermark may be older than its predecessor's, lets nobody into
/// the in-sync set who lacks anything of what it began with, and tells no watermark before.
#[test]
fn a_new_leader_does_not_trust_its_own_watermark() {
    let mut known = assignment(Some(ONE), 2, 2);
    known.replicas.push(NodeId(3));
    let log = view(10, &[(1, 0)]);
    let leader: Option<Leader<()>> = Leader::replicated(at(0), ONE, &known, &log, Offset(5));
    let mut leader = leader.unwrap();
    let question = |node, durable_end| Follow {
        epoch: LeaderEpoch(2),
        node: NodeId(node),
        incarnation: Incarnation(7),
        attempt: 1,
        log_start: Offset(0),
        durable_end: Offset(durable_end),
        log_end: Offset(durable_end),
        epochs: vec![(LeaderEpoch(1), Offset(0))],
    };
    let lag = Lag { max: at(2_000), retry: RETRY };
    assert_eq!(leader.handle_follow(&question(3, 7)).unwrap().verdict, Verdict::Agreed);
    assert_eq!(leader.poll_proposal(at(1), lag), None, "what lies at 7 to 9 may be committed");
    assert_eq!((leader.high_watermark(), leader.settled_watermark()), (Offset(5), None));
    let report = |node, end| Report {
        epoch: LeaderEpoch(2),
        node: NodeId(node),
        incarnation: Incarnation(7),
        durable_end: Offset(end),
    };
    assert_eq!(leader.handle_report(at(2), &report(3, 10)).count(), 0);
    let proposal = leader.poll_proposal(at(3), lag).expect("now it has everything");
    assert!(proposal.insync.contains_key(&NodeId(3)));
    assert!(leader.handle_follow(&question(2, 10)).is_ok());
    assert_eq!(leader.handle_report(at(4), &report(2, 10)).count(), 0);
    assert_eq!(leader.settled_watermark(), Some(Offset(10)));
}
