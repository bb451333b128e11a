use super::*;
use crate::ids::{PartitionId, TimestampMs};

const ME: Lead = Lead { node: NodeId(2), incarnation: Incarnation(6) };
const LEADER: Lead = Lead { node: NodeId(1), incarnation: Incarnation(5) };
const RETRY: Duration = Duration::from_millis(100);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn view(log_end: i64, epochs: &[(i32, i64)]) -> PartitionView {
    let epochs = epochs.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start)));
    PartitionView { log_end: Offset(log_end), epochs: epochs.collect(), ..PartitionView::default() }
}

/// A follower in epoch 3 of a log of ten entries of epoch 1, of which six are committed.
fn follower() -> Follower {
    let held = Held::open(&view(10, &[(1, 0)]), Offset(6));
    Follower::new(ms(0), ME, (LEADER, LeaderEpoch(3)), held, 0)
}

fn answer(attempt: u64, verdict: Verdict) -> FollowAnswer {
    FollowAnswer { epoch: LeaderEpoch(3), incarnation: ME.incarnation, attempt, verdict }
}

fn push(attempt: u64, high_watermark: i64) -> Push {
    Push {
        epoch: LeaderEpoch(3),
        incarnation: ME.incarnation,
        attempt,
        high_watermark: Offset(high_watermark),
        log_start: Offset(0),
    }
}

fn entry(base: i64, epoch: i32) -> EntryHeader {
    EntryHeader {
        kind: EntryKind::Entry,
        partition: PartitionId(1),
        base_offset: Offset(base),
        offset_count: 1,
        epoch: LeaderEpoch(epoch),
        append_time: TimestampMs(0),
        state_len: 0,
        source_len: 0,
        batch_len: 0,
    }
}

/// Goal: the follower asks, cuts what the leader does not have, asks again, and then takes entries
/// in order; the committed end follows the leader's but never passes its own disk.
#[test]
fn ask_cut_follow() {
    let mut follower = follower();
    let asked = follower.poll_follow(ms(1), RETRY).unwrap();
    assert_eq!((asked.attempt, asked.log_end, asked.durable_end), (1, Offset(10), Offset(10)));
    assert_eq!(follower.poll_follow(ms(50), RETRY), None);
    assert_eq!(follower.poll_follow(ms(101), RETRY).unwrap().attempt, 2);
    let cut = Verdict::Truncate { end: Offset(8) };
    assert_eq!(follower.handle_answer(ms(102), &answer(1, cut.clone())), Step::Nothing, "old");
    let step = follower.handle_answer(ms(102), &answer(2, cut));
    assert_eq!(step, Step::Truncate { end: Offset(8) });
    assert_eq!(follower.handle_durable(Offset(10)), None, "no longer of this log");
    follower.handle_cut(&view(8, &[(1, 0)]));
    assert_eq!(follower.poll_follow(ms(103), RETRY).unwrap().log_end, Offset(8));
    assert_eq!(follower.decide_entry(&push(3, 8), &entry(8, 3)), Accept::Drop, "not agreed yet");
    assert_eq!(follower.handle_answer(ms(104), &answer(3, Verdict::Agreed)), Step::Nothing);
    assert_eq!(follower.decide_entry(&push(3, 8), &entry(8, 3)), Accept::Append);
    follower.handle_appended(&entry(8, 3));
    assert_eq!(follower.decide_entry(&push(3, 8), &entry(8, 3)), Accept::Drop, "a copy");
    let (report, _) = follower.handle_push(ms(105), &push(3, 9)).unwrap();
    assert_eq!((report.durable_end, follower.held().committed), (Offset(8), Offset(8)));
    assert_eq!(follower.handle_durable(Offset(9)).unwrap().durable_end, Offset(9));
    follower.handle_push(ms(106), &push(3, 9)).unwrap();
    follower.handle_push(ms(106), &push(3, 5)).unwrap();
    assert_eq!(follower.held().committed, Offset(9), "it never goes back");
    assert_eq!(follower.held().epochs, [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(8))]);
}

/// Goal: a gap, an epoch that goes back and one from the future are not taken; the follower asks
/// where it stands.
#[test]
fn entries_that_do_not_fit() {
    for wrong in [entry(11, 3), entry(10, 0), entry(10, 4), entry(9, 3)] {
        let mut follower = follower();
        follower.poll_follow(ms(1), RETRY).unwrap();
        follower.handle_answer(ms(2), &answer(1, Verdict::Agreed));
        let wrong = EntryHeader { offset_count: 2, ..wrong };
        assert_eq!(follower.decide_entry(&push(1, 0), &wrong), Accept::AskAgain, "{wrong:?}");
        assert_eq!(follower.poll_follow(ms(3), RETRY).unwrap().attempt, 2);
    }
}

/// Goal: nothing that is committed is ever cut, whoever says so.
#[test]
fn the_committed_end_is_kept() {
    let reset = Verdict::Reset { start: Offset(5), epochs: Vec::new() };
    for verdict in [Verdict::Truncate { end: Offset(5) }, reset] {
        let mut follower = follower();
        follower.poll_follow(ms(1), RETRY).unwrap();
        let why = Halt::CommittedDiffers { end: Offset(5), committed: Offset(6) };
        assert_eq!(follower.handle_answer(ms(2), &answer(1, verdict)), Step::Halt(why));
        assert_eq!(follower.poll_follow(ms(500), RETRY), None);
    }
}

/// Goal: a leader that fell silent is asked again.
#[test]
fn silence() {
    let mut follower = follower();
    follower.poll_follow(ms(1), RETRY).unwrap();
    follower.handle_answer(ms(2), &answer(1, Verdict::Agreed));
    follower.handle_push(ms(150), &push(1, 0)).unwrap();
    assert_eq!(follower.poll_follow(ms(349), RETRY), None);
    assert_eq!(follower.poll_follow(ms(350), RETRY).unwrap().attempt, 2);
}
