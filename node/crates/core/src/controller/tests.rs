use super::*;
use crate::deploy::{DeployError, DeploymentSpec};
use crate::ids::{DiskId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch};
use crate::metadata::{CheckError, DeployAsk, GROUPS_PARTITION};
use crate::module::{Module, ModuleKind};
use crate::partition::assignment::{Assignment, Proposal};
use crate::topic::{TopicChange, TopicConfig};

fn register(node: u32) -> Command {
    let disk = DiskId(u64::from(node));
    let start = u64::from(node) * 100;
    Command::Cluster(ClusterAsk::Register { node: NodeId(node), start, disk, rack: None })
}

fn ask(ask: impl Into<Ask>) -> Command {
    Command::Metadata { now: TimestampMs(7), ask: ask.into() }
}

fn create(name: &str, partitions: u32, replicas: u32, min_insync: u32) -> Command {
    let config = TopicConfig { partitions, replicas, min_insync, ..TopicConfig::default() };
    ask(Ask::Create { name: name.into(), config })
}

fn alter(name: &str, change: TopicChange) -> Command {
    ask(Ask::Alter { name: name.into(), change })
}

fn delete(name: &str) -> Command {
    ask(Ask::Delete { name: name.into() })
}

fn put_module(id: &str, kind: ModuleKind) -> Command {
    let id = id.parse().unwrap();
    let about = String::new();
    let created_at = TimestampMs(0);
    ask(Ask::PutModule(Module { id, kind, sha256: "aa".into(), bytes: 1, about, created_at }))
}

fn deploy(name: &str, from: &str, to: &[&str]) -> Command {
    let spec = DeploymentSpec {
        kind: crate::deploy::DeploymentKind::Transform,
        version: crate::deploy::Version { module: "t@1.0.0".parse().unwrap(), params: [].into() },
        from: from.into(),
        to: to.iter().map(|topic| (*topic).to_owned()).collect(),
        on_error: crate::deploy::OnError::DeadLetter,
        dead_letter: None,
        from_latest: false,
        retries: 0,
        lateness_ms: 0,
        cpu_percent: 0,
        log_topic: None,
        http: None,
    };
    ask(DeployAsk::Create { name: name.into(), spec })
}

/// Everybody who is to hold a partition is in sync, as its leader would have proposed.
fn catch_up(state: &State, partition: PartitionId) -> Command {
    let known = &state.cluster().partitions()[&partition];
    let life = |node: NodeId| (node, state.cluster().nodes()[&node].incarnation);
    let proposal = Proposal {
        leader: known.leader.unwrap(),
        leader_epoch: known.leader_epoch,
        partition_epoch: known.partition_epoch,
        insync: known.holders().into_iter().map(life).collect(),
    };
    Command::Cluster(ClusterAsk::AlterInSync { partition, proposal })
}

fn of(commands: &[Command]) -> State {
    let mut state = State::default();
    for command in commands {
        state.apply(command).unwrap_or_else(|refused| panic!("{command:?}: {refused}"));
    }
    state
}

fn place(state: &State, topic: &str, index: usize) -> Assignment {
    let id = state.image().topic(topic).unwrap().partitions[index];
    state.cluster().partitions()[&id].clone()
}

/// Goal: a topic is created with places for its partitions, as many copies as it says; more
/// partitions get theirs; deletion leaves no place behind.
#[test]
fn topics_have_places() {
    let mut state = of(&[register(1), register(2), register(3), create("a", 4, 3, 2)]);
    for index in 0..4 {
        let known = place(&state, "a", index);
        assert_eq!((known.replicas.len(), known.min_insync, known.insync.len()), (3, 2, 3));
    }
    let more = TopicChange { partitions: Some(6), ..TopicChange::default() };
    state.apply(&alter("a", more)).unwrap();
    assert_eq!(place(&state, "a", 5).replicas.len(), 3);
    assert_eq!(state.cluster().partitions().len(), 6 + 1);
    state.apply(&delete("a")).unwrap();
    let left: Vec<_> = state.cluster().partitions().keys().copied().collect();
    assert_eq!(left, [GROUPS_PARTITION]);
}

/// Goal: how many must be in sync changes in every partition, in its present epoch, and nothing
/// else does.
#[test]
fn min_insync_is_altered() {
    let mut state = of(&[register(1), register(2), register(3), create("a", 2, 3, 1)]);
    let before = place(&state, "a", 1);
    let change = TopicChange { min_insync: Some(2), ..TopicChange::default() };
    state.apply(&alter("a", change.clone())).unwrap();
    let after = place(&state, "a", 1);
    let partition_epoch = PartitionEpoch(before.partition_epoch.0 + 1);
    assert_eq!(after, Assignment { min_insync: 2, partition_epoch, ..before });
    state.apply(&alter("a", change)).unwrap();
    assert_eq!(place(&state, "a", 1), after, "what is so already is not changed again");
}

/// Goal: the topics that come with a deployment are placed as its input is, and its outbox goes
/// with it.
#[test]
fn deployments_bring_places() {
    let mut state = of(&[
        register(1),
        register(2),
        put_module("t@1.0.0", ModuleKind::Transform),
        create("in", 3, 2, 2),
        create("out", 1, 1, 1),
        deploy("d", "in", &["out"]),
    ]);
    for topic in ["__outbox.d", "d.dead-letter"] {
        let known = place(&state, topic, 2);
        assert_eq!(known.replicas, place(&state, "in", 2).replicas, "{topic}");
        assert_eq!((known.replicas.len(), known.min_insync), (2, 2), "{topic}");
    }
    let placed = state.cluster().partitions().len();
    state.apply(&ask(DeployAsk::Delete { name: "d".into() })).unwrap();
    assert_eq!(state.cluster().partitions().len(), placed - 3);
}

/// Goal: an outbox is on the nodes of its input, partition by partition, with the same one
/// preferred; it moves with the input; and where one of those nodes is away it begins with the
/// others.
#[test]
fn outboxes_are_beside_their_input() {
    let modules = put_module("t@1.0.0", ModuleKind::Transform);
    let commands = [register(1), register(2), register(3), modules, create("in", 3, 2, 1)];
    let mut state = of(&commands);
    // So that an even spread alone would put them elsewhere.
    state.apply(&create("skew", 1, 1, 1)).unwrap();
    state.apply(&create("out", 1, 1, 1)).unwrap();
    let away = place(&state, "in", 1).replicas[0];
    let incarnation = state.cluster().nodes()[&away].incarnation;
    state.apply(&Command::Cluster(ClusterAsk::Fence { node: away, incarnation })).unwrap();
    state.apply(&deploy("d", "in", &["out"])).unwrap();
    for at in 0..3 {
        let (input, outbox) = (place(&state, "in", at), place(&state, "__outbox.d", at));
        assert_eq!(input.replicas, outbox.replicas, "{at}");
        assert!(!outbox.insync.contains_key(&away), "{at}: {outbox:?}");
        let leader = outbox.leader.unwrap().node;
        assert!(leader != away && outbox.insync.contains_key(&leader), "{at}: {outbox:?}");
    }
    let id = state.image().topic("in").unwrap().partitions[0];
    let old = place(&state, "in", 0).replicas;
    let target: Vec<_> = old.iter().rev().copied().collect();
    state.apply(&Command::Cluster(ClusterAsk::Reassign { partition: id, target })).unwrap();
    let (input, outbox) = (place(&state, "in", 0), place(&state, "__outbox.d", 0));
    let wanted = |place: &Assignment| place.target.clone().unwrap_or(place.replicas.clone());
    assert_eq!(wanted(&input), wanted(&outbox));
    assert_ne!(wanted(&input), old);
}

/// Goal: the groups partition is there from the first node on, spreads over three as they come, and
/// then wants two in sync; a fourth node changes nothing.
#[test]
fn the_groups_partition_grows() {
    let groups = |state: &State| state.cluster().partitions()[&GROUPS_PARTITION].clone();
    let nodes = |ids: &[u32]| ids.iter().map(|&id| NodeId(id)).collect::<Vec<_>>();
    let mut state = of(&[register(1)]);
    assert_eq!((groups(&state).replicas, groups(&state).min_insync), (nodes(&[1]), 1));
    state.apply(&register(2)).unwrap();
    assert_eq!(groups(&state).target, Some(nodes(&[1, 2])));
    state.apply(&register(3)).unwrap();
    assert_eq!(groups(&state).target, Some(nodes(&[1, 2])), "one move at a time");
    state.apply(&catch_up(&state, GROUPS_PARTITION)).unwrap();
    assert_eq!(groups(&state).replicas, nodes(&[1, 2]));
    assert_eq!(groups(&state).target, Some(nodes(&[1, 2, 3])));
    let done = state.apply(&catch_up(&state, GROUPS_PARTITION)).unwrap();
    let full = groups(&state);
    assert_eq!(
        (full.replicas.clone(), full.target.clone(), full.min_insync),
        (nodes(&[1, 2, 3]), None, 2)
    );
    let Done::Cluster(change) = done else { panic!("{done:?}") };
    assert_eq!(change.partitions[&GROUPS_PARTITION], Some(full.clone()), "the answer tells all");
    state.apply(&register(4)).unwrap();
    assert_eq!(groups(&state), full);
}

/// Goal: what is refused changes nothing, of whatever it consists; the reason travels.
#[test]
fn refusals_change_nothing() {
    let mut state = of(&[
        register(1),
        register(2),
        put_module("t@1.0.0", ModuleKind::Transform),
        create("a", 2, 2, 1),
        create("one", 1, 1, 1),
    ]);
    let life = |node: u32, life: u64| ClusterAsk::Fence {
        node: NodeId(node),
        incarnation: Incarnation(life),
    };
    let commands = [
        create("a", 1, 1, 1),
        create("wide", 1, 3, 1),
        create("none", 0, 1, 1),
        delete("b"),
        alter("a", TopicChange { replicas: Some(1), ..TopicChange::default() }),
        alter("a", TopicChange { min_insync: Some(3), ..TopicChange::default() }),
        deploy("d", "missing", &["one"]),
        ask(Ask::RemoveModule("f@1.0.0".parse().unwrap())),
        Command::Cluster(life(1, 99)),
        Command::Cluster(life(9, 1)),
        Command::Cluster(ClusterAsk::Prefer { partition: PartitionId(77) }),
    ];
    let before = (state.clone(), state.snapshot());
    for command in commands {
        let refused = state.apply(&command).unwrap_err();
        assert_eq!((state.clone(), state.snapshot()), before, "{command:?}");
        assert_eq!(travelled(&refused), refused);
    }
    // Two copies are wanted, and one node is left for them. A deployment's own topics are where its
    // input is, which may wait for a copy as well.
    state.apply(&Command::Cluster(life(2, 2))).unwrap();
    let before = state.snapshot();
    let refused = state.apply(&create("b", 1, 2, 1)).unwrap_err();
    assert_eq!(refused, Refused::Cluster(ClusterError::Replicas { wanted: 2, nodes: 1 }));
    assert_eq!(state.snapshot(), before, "not even a topic without a place");
    state.apply(&deploy("d", "a", &["one"])).unwrap();
    assert_eq!(place(&state, "__outbox.d", 0).insync.len(), 1);
}

fn travelled<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    ciborium::from_reader(&bytes[..]).unwrap()
}

/// Goal: names of kinds in reasons are read as those that exist, and nothing else.
#[test]
fn reasons_with_kinds_travel() {
    let module = "c@1.0.0".parse().unwrap();
    let check = CheckError::Kind { module, is: "filter" };
    assert_eq!(travelled(&check), check);
    let module = "c@1.0.0".parse().unwrap();
    let deploy = DeployError::Kind { module, is: "produce-check", wanted: "consumer" };
    assert_eq!(travelled(&deploy), deploy);
    let mut bytes = Vec::new();
    ciborium::into_writer(&check, &mut bytes).unwrap();
    let at = bytes.windows(6).position(|window| window == b"filter").unwrap();
    bytes[at] = b'x';
    assert!(ciborium::from_reader::<CheckError, _>(&bytes[..]).is_err());
}

/// Goal: ids of producers are given once, in bounded blocks.
#[test]
fn producer_ids() {
    let mut state = State::default();
    let mut first = |count| state.apply(&Command::ProducerIds { count }).unwrap();
    assert_eq!(first(10), Done::ProducerIds { first: 0 });
    assert_eq!(first(0), Done::ProducerIds { first: 10 });
    assert_eq!(first(u32::MAX), Done::ProducerIds { first: 11 });
    let last = 11 + i64::from(limits::PRODUCER_IDS_MAX);
    assert_eq!(first(1), Done::ProducerIds { first: last });
}

/// A number below `n`, the next of a fixed sequence.
fn below(random: &mut u64, n: u64) -> u64 {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) % n
}

/// Any command: often one that fits, often one that does not.
fn any(random: &mut u64, state: &State) -> Command {
    let topic = format!("t{}", below(random, 6));
    let node = NodeId(1 + below(random, 5) as u32);
    let known = state.cluster().nodes().get(&node);
    let incarnation = known.map_or(Incarnation(1), |known| known.incarnation);
    let partitions: Vec<_> = state.cluster().partitions().keys().copied().collect();
    let at = below(random, partitions.len().max(1) as u64) as usize;
    let partition = partitions.get(at).copied().unwrap_or(GROUPS_PARTITION);
    let number = |random: &mut u64| 1 + below(random, 4) as u32;
    match below(random, 10) {
        0 => {
            let (start, disk) = (below(random, 50), DiskId(u64::from(node.0)));
            let rack = Some(format!("rack-{}", node.0 % 2));
            Command::Cluster(ClusterAsk::Register { node, start, disk, rack })
        }
        1 => Command::Cluster(ClusterAsk::Fence { node, incarnation }),
        2 | 3 => Command::Cluster(ClusterAsk::Unfence { node, incarnation }),
        4 => create(&topic, number(random), number(random), number(random)),
        5 => delete(&topic),
        6 => {
            let (partitions, min_insync) = (Some(number(random)), Some(number(random)));
            alter(&topic, TopicChange { partitions, min_insync, ..TopicChange::default() })
        }
        7 => Command::ProducerIds { count: number(random) },
        8 => Command::Cluster(ClusterAsk::Prefer { partition }),
        _ => match state.cluster().partitions().get(&partition) {
            Some(known) if known.leader.is_some() => catch_up(state, partition),
            _ => {
                let (leader_epoch, leader) =
                    (LeaderEpoch(1), crate::partition::assignment::Lead { node, incarnation });
                Command::Cluster(ClusterAsk::Resign { partition, leader, leader_epoch })
            }
        },
    }
}

/// Goal: the same commands give the same snapshot, to the byte, whether a state went through a
/// snapshot in between or its commands through the log's encoding; and every topic's partitions
/// have a place, and no others.
#[test]
fn determinism() {
    for seed in 0..40 {
        let mut random = seed;
        let mut state = State::default();
        let mut other = State::default();
        for step in 0..300 {
            let command = any(&mut random, &state);
            let before = state.version();
            let first = state.apply(&command);
            assert_eq!(state.version(), before + u64::from(first.is_ok()));
            assert_eq!(other.apply(&travelled(&command)), first, "seed {seed}, step {step}");
            if let Ok(done) = first {
                assert_eq!(travelled(&done), done);
            }
            if below(&mut random, 20) == 0 {
                other = State::restore(&other.snapshot()).unwrap();
            }
        }
        assert_eq!(state, other, "seed {seed}");
        assert_eq!(state.snapshot(), other.snapshot(), "seed {seed}");
        let topics = state.image().topics().flat_map(|topic| topic.partitions.clone());
        let mut wanted: Vec<_> = topics.chain([GROUPS_PARTITION]).collect();
        wanted.sort();
        let placed: Vec<_> = state.cluster().partitions().keys().copied().collect();
        assert_eq!(placed, wanted, "seed {seed}");
    }
}

/// Goal: bytes that are not a state are refused, wherever they end and whichever is another; a
/// newer version is refused by number.
#[test]
fn damaged_snapshots() {
    let state =
        of(&[register(1), register(2), create("a", 2, 2, 1), delete("a"), create("b", 1, 1, 1)]);
    let good = state.snapshot();
    assert_eq!(State::restore(&good), Ok(state));
    for end in 0..good.len() {
        assert!(matches!(State::restore(&good[..end]), Err(RestoreError::Format(_))), "{end}");
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        // Whatever is read is at least a state whose snapshot is read again.
        if let Ok(read) = State::restore(&bytes) {
            assert_eq!(State::restore(&read.snapshot()), Ok(read));
        }
    }
    let at = good.windows(7).position(|window| window == b"version").unwrap() + 7;
    let mut newer = good;
    newer[at] = 2;
    assert_eq!(State::restore(&newer), Err(RestoreError::NewerVersion(2)));
}
