use super::sessions::GroupSessions;
use super::*;
use std::time::Duration;

fn slots(count: u32) -> BTreeSet<Slot> {
    (0..count).map(|n| (TopicId(1), PartitionIndex(n))).collect()
}

fn ask(group: &mut Group, ask: &GroupAsk) -> Result<(), GroupError> {
    let change = group.decide(ask)?;
    group.apply(&change);
    Ok(())
}

fn join(group: &mut Group, id: u64, instance: Option<&str>, count: u32) {
    let instance = instance.map(str::to_owned);
    let (member, wants, topics) = (MemberId(id), slots(count), BTreeSet::new());
    ask(group, &GroupAsk::Join { member, instance, session_ms: 1_000, topics, wants }).unwrap();
}

fn beat(group: &mut Group, id: u64, generation: Generation, holds: &BTreeSet<Slot>) {
    let (member, holds) = (MemberId(id), holds.clone());
    ask(group, &GroupAsk::Heartbeat { member, generation, holds }).unwrap();
}

fn assigned(group: &Group, id: u64) -> BTreeSet<Slot> {
    group.assigned(MemberId(id)).into_keys().collect()
}

/// A member that does at once what it is told.
fn obey(group: &mut Group, id: u64) {
    let (generation, holds) = (group.generation(), assigned(group, id));
    beat(group, id, generation, &holds);
}

fn commit(group: &mut Group, id: u64, n: u32, since: u64, at: i64) -> Result<(), GroupError> {
    let slot = (TopicId(1), PartitionIndex(n));
    let (member, since, position) = (MemberId(id), Generation(since), Offset(at));
    ask(group, &GroupAsk::Commit { member, slot, since, position })
}

/// Goal: a join moves only what must move, and only after the old owner has let go.
#[test]
fn a_join_moves_little() {
    let mut group = Group::default();
    join(&mut group, 1, None, 6);
    obey(&mut group, 1);
    assert_eq!(assigned(&group, 1), slots(6));
    join(&mut group, 2, None, 6);
    let kept = assigned(&group, 1);
    assert_eq!(kept.len(), 3);
    obey(&mut group, 2);
    assert!(assigned(&group, 2).is_empty(), "member 1 still holds them");
    let old = Generation(1);
    beat(&mut group, 1, old, &kept);
    obey(&mut group, 2);
    assert!(assigned(&group, 2).is_empty(), "an old heartbeat releases nothing");
    let some: BTreeSet<_> = slots(6).into_iter().take(5).collect();
    let now = group.generation();
    beat(&mut group, 1, now, &some);
    obey(&mut group, 2);
    assert_eq!(assigned(&group, 2).len(), 1, "one is let go so far");
    obey(&mut group, 1);
    obey(&mut group, 2);
    assert_eq!(assigned(&group, 2).len(), 3);
    assert_eq!(assigned(&group, 1), kept);
    join(&mut group, 3, None, 6);
    (1..=3).for_each(|id| obey(&mut group, id));
    obey(&mut group, 3);
    assert_eq!([1, 2, 3].map(|id| assigned(&group, id).len()), [2; 3]);
    assert!(assigned(&group, 1).is_subset(&kept));
}

/// Goal: a member that leaves frees its partitions at once, and what it commits later is refused.
#[test]
fn a_leave_frees_and_fences() {
    let mut group = Group::default();
    join(&mut group, 1, None, 2);
    join(&mut group, 2, None, 2);
    (1..=2).for_each(|id| obey(&mut group, id));
    let mine = assigned(&group, 1);
    let (_, PartitionIndex(n)) = *mine.first().unwrap();
    commit(&mut group, 1, n, 2, 10).unwrap();
    ask(&mut group, &GroupAsk::Leave { member: MemberId(1) }).unwrap();
    obey(&mut group, 2);
    assert_eq!(assigned(&group, 2), slots(2));
    let gone = GroupError::UnknownMember(MemberId(1));
    assert_eq!(commit(&mut group, 1, n, 2, 11), Err(gone));
    let other = GroupError::NotOwner { since: Generation(2) };
    assert_eq!(commit(&mut group, 2, n, 2, 11), Err(other), "it came to own it later");
    commit(&mut group, 2, n, 3, 12).unwrap();
}

/// Goal: positions never go back, but by a reset while nobody works.
#[test]
fn positions() {
    let mut group = Group::default();
    join(&mut group, 1, None, 1);
    obey(&mut group, 1);
    commit(&mut group, 1, 0, 1, 10).unwrap();
    commit(&mut group, 1, 0, 1, 10).unwrap();
    let back = GroupError::WentBack { stored: Offset(10), got: Offset(9) };
    assert_eq!(commit(&mut group, 1, 0, 1, 9), Err(back));
    let positions = BTreeMap::from([((TopicId(1), PartitionIndex(0)), Offset(3))]);
    let reset = GroupAsk::Reset { positions: positions.clone() };
    assert_eq!(ask(&mut group, &reset), Err(GroupError::Active));
    ask(&mut group, &GroupAsk::Leave { member: MemberId(1) }).unwrap();
    ask(&mut group, &reset).unwrap();
    assert_eq!(group.positions(), &positions);
}

/// Goal: a static member that comes back has its partitions again, nothing else moves, and its
/// earlier self is fenced.
#[test]
fn static_members() {
    let mut group = Group::default();
    join(&mut group, 1, Some("a"), 4);
    join(&mut group, 2, Some("b"), 4);
    (1..=2).for_each(|id| obey(&mut group, id));
    obey(&mut group, 2);
    let (mine, theirs) = (assigned(&group, 1), group.assigned(MemberId(2)));
    assert_eq!((mine.len(), theirs.len()), (2, 2));
    join(&mut group, 7, Some("a"), 4);
    assert_eq!(assigned(&group, 7), mine);
    assert_eq!(group.assigned(MemberId(2)), theirs);
    let (_, PartitionIndex(n)) = *mine.first().unwrap();
    assert!(matches!(commit(&mut group, 1, n, 1, 5), Err(GroupError::UnknownMember(_))));
    commit(&mut group, 7, n, 3, 5).unwrap();
}

/// Goal: members that subscribe differently get only what they want, evenly; a second equal join
/// changes nothing.
#[test]
fn different_subscriptions() {
    let mut group = Group::default();
    join(&mut group, 1, None, 2);
    join(&mut group, 2, None, 8);
    (1..=2).for_each(|id| obey(&mut group, id));
    obey(&mut group, 1);
    assert!(assigned(&group, 1).is_subset(&slots(2)));
    assert_eq!(assigned(&group, 1).len() + assigned(&group, 2).len(), 8);
    let before = group.clone();
    join(&mut group, 2, None, 8);
    assert_eq!(group, before);
}

/// Goal: silence ends a membership after the member's session; a coordinator that takes over waits
/// for a whole one.
#[test]
fn sessions() {
    let at = Duration::from_millis;
    let mut group = Group::default();
    join(&mut group, 1, None, 1);
    join(&mut group, 2, None, 1);
    let mut sessions = GroupSessions::new(at(5_000));
    sessions.handle_heard(at(5_500), MemberId(1));
    assert_eq!(sessions.next_expiry(&group), Some(at(6_000)));
    assert_eq!(sessions.next_expiry(&Group::default()), None);
    assert!(sessions.poll_expired(at(6_000), &group).is_empty());
    let gone = GroupAsk::Leave { member: MemberId(2) };
    assert_eq!(sessions.poll_expired(at(6_001), &group), [gone]);
}

/// Goal: partitions that a topic gains are shared out, and those that are gone are let go like any
/// other; positions of what is gone can be forgotten while members work.
#[test]
fn topics_change() {
    let mut group = Group::default();
    join(&mut group, 1, None, 2);
    join(&mut group, 2, None, 2);
    (1..=2).for_each(|id| obey(&mut group, id));
    let before = group.generation();
    let rewant =
        |count| GroupAsk::Rewant { wants: [1, 2, 9].map(|id| (MemberId(id), slots(count))).into() };
    ask(&mut group, &rewant(2)).unwrap();
    assert_eq!(group.generation(), before, "nothing is different");
    ask(&mut group, &rewant(6)).unwrap();
    assert_eq!(group.generation(), Generation(before.0 + 1));
    assert_eq!(group.pending(MemberId(1)), 2);
    (1..=2).for_each(|id| obey(&mut group, id));
    assert_eq!([1, 2].map(|id| assigned(&group, id).len()), [3; 2]);
    assert_eq!(group.pending(MemberId(1)), 0);
    commit(&mut group, 1, 0, 2, 5).or_else(|_| commit(&mut group, 2, 0, 2, 5)).unwrap();
    ask(&mut group, &rewant(0)).unwrap();
    ask(&mut group, &GroupAsk::Forget { slots: slots(6) }).unwrap();
    (1..=2).for_each(|id| obey(&mut group, id));
    assert!(group.owners().is_empty() && group.positions().is_empty());
    assert!(!group.is_empty(), "it has members");
}

/// Goal: of a static member it can be told that another one has its name by now.
#[test]
fn names() {
    let mut group = Group::default();
    join(&mut group, 1, Some("a"), 1);
    join(&mut group, 7, Some("a"), 1);
    assert_eq!(group.named("a"), Some(MemberId(7)));
    assert_eq!(group.named("b"), None);
}
