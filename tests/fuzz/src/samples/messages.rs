//! Control messages and the frames of the hot paths.

use super::TIME;
use super::groups;
use bytes::{BufMut, Bytes, BytesMut};
use weir_core::cluster::members::Member;
use weir_core::deploy::http::HttpGrant;
use weir_core::deploy::{
    Deployment, DeploymentId, DeploymentKind, DeploymentSpec, Mode, OnError, Version,
};
use weir_core::group::Generation;
use weir_core::ids::{
    Incarnation, LeaderEpoch, NodeId, Offset, PartitionId, PartitionIndex, ProducerId, TimestampMs,
    TopicId,
};
use weir_core::metadata::{Change, Topic};
use weir_core::module::name::ModuleRef;
use weir_core::module::{Module, ModuleKind};
use weir_core::record::Compression;
use weir_core::topic::{Durability, TopicChange, TopicConfig};
use weir_core::wire::cluster::{
    ClusterChangeAsk, ClusterChanged, ClusterNodeInfo, ClusterStatus, FollowerInfo, MoveInfo,
    Rebalance, ReplicasInfo,
};
use weir_core::wire::deployments::{
    DeploymentInfo, LaneCondition, LaneError, LaneInfo, LaneOutput, LaneSnapshot, ModuleLevel,
    ModuleLine, SnapshotPage,
};
use weir_core::wire::frame::{
    Appended, DataHeader, ProduceAck, ProduceHeader, ProduceRefusal, Reached,
};
use weir_core::wire::join::{JoinAsk, Joined};
use weir_core::wire::message::{
    CheckStatus, FilterOnError, FilterSpec, GroupInfo, GroupPosition, Hello, HelloReply,
    NodeStatus, PartitionStatus, Request, ResolvedOffset, Response, ShardStatus, StartAt,
    Subscribe, Subscribed, TopicInfo,
};
use weir_core::wire::{ErrorCode, FrameKind, Outcome, WireError};

pub(super) const TOPIC: TopicId = TopicId(12);
pub(super) const PARTITION: PartitionIndex = PartitionIndex(3);

/// A frame: the header of `docs/wire.md`, then `body`.
pub fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32_le(body.len() as u32);
    bytes.put_u8(kind as u8);
    bytes.put_u8(0);
    bytes.put_u16_le(0);
    bytes.put_slice(body);
    bytes
}

/// The first message of a connection.
pub fn hello() -> Hello {
    Hello { version_min: 1, version_max: 1, client: "weir 0.1.0".into() }
}

/// Its answer.
pub fn hello_reply() -> HelloReply {
    HelloReply {
        cut_off: false,
        version: 1,
        node: "edge-1".into(),
        cluster: "5d0c6c1e".into(),
        software: "0.1.0".into(),
        principal: Some("gateway-7".into()),
        node_time: TIME,
        batch_bytes_max: 4 * 1024 * 1024,
    }
}

/// Settings where nothing is at its default.
pub fn topic_config() -> TopicConfig {
    TopicConfig {
        partitions: 4,
        retention_ms: None,
        retention_bytes: Some(1 << 40),
        retention_min_bytes: 1 << 20,
        compression: Compression::Zstd,
        durability: Durability::Relaxed,
        commit_linger_ms: 25,
        batch_bytes_max: 65_536,
        on_produce: None,
        replicas: 1,
        min_insync: 1,
    }
}

/// The module that checks a topic.
fn check() -> Version {
    let module = "range-guard@1.2.0".parse().expect("a module's name");
    Version { module, params: [("field".to_owned(), "temp".to_owned())].into() }
}

/// Every place that a subscription can begin at.
pub fn starts() -> [StartAt; 4] {
    [
        StartAt::Earliest,
        StartAt::Latest,
        StartAt::Offset(Offset(1 << 40)),
        StartAt::Time(TimestampMs(-1)),
    ]
}

/// Every kind of request.
pub fn requests() -> Vec<Request> {
    let change = TopicChange {
        partitions: Some(8),
        retention_ms: Some(None),
        retention_bytes: Some(Some(1)),
        durability: Some(Durability::Durable),
        ..TopicChange::default()
    };
    let name = || "vehicles.gps".to_owned();
    let group = || "dashboard".to_owned();
    let positions = starts().map(|start| (PARTITION, start)).to_vec();
    let mut requests = vec![
        Request::Topics { names: None },
        Request::Topics { names: Some(vec![name(), "b".into()]) },
        Request::CreateTopic { name: name(), config: topic_config() },
        Request::AlterTopic { name: name(), change },
        Request::DeleteTopic { name: name() },
        Request::TrimPartition { topic: name(), partition: PARTITION, before: Offset(9) },
        Request::InitProducer {},
        Request::Offsets { topic: TOPIC, positions },
        Request::CommitPositions {
            group: group(),
            positions: vec![group_position()],
            member: None,
        },
        Request::FetchPositions { group: group() },
        Request::ListGroups {},
        Request::DeleteGroup { group: group(), topics: Some(vec![TOPIC]) },
        Request::Status {},
        Request::ConfirmTime {},
        Request::Modules {},
        Request::BeginUpload { sha256: sha256(), bytes: 1 << 20 },
        Request::Upload { sha256: sha256(), at: 7, data: Bytes::from_static(b"\0asm") },
        Request::PushModule { id: module_id(), sha256: sha256() },
        Request::DeleteModule { id: module_id() },
        Request::Deployments { names: Some(vec!["zones".into()]) },
        Request::CreateDeployment { name: "zones".into(), spec: deployment().spec },
        Request::PauseDeployment { name: "zones".into(), paused: true },
        Request::ReplaceDeployment {
            name: "zones".into(),
            version: deployment().previous,
            restore: vec![],
        },
        Request::DeleteDeployment { name: "zones".into() },
        Request::CreateDeployment { name: "alerts".into(), spec: consumer() },
        Request::DeploymentLog { name: "alerts".into(), from: Some(40), lines: 100 },
        Request::AlterTopic {
            name: "temps".into(),
            change: TopicChange { on_produce: Some(Some(check())), ..TopicChange::default() },
        },
        Request::ReplaceDeployment {
            name: "zones".into(),
            version: None,
            restore: vec![(PARTITION, Offset(7))],
        },
        Request::AlterTopic {
            name: "orders".into(),
            change: TopicChange {
                replicas: Some(3),
                min_insync: Some(2),
                ..TopicChange::default()
            },
        },
        Request::Cluster {},
        Request::ChangeCluster {
            ask: ClusterChangeAsk::Reassign {
                topic: "temps".into(),
                partition: PARTITION,
                nodes: vec![NodeId(2), NodeId(1)],
            },
        },
    ];
    requests.extend(groups::requests());
    requests.extend([
        Request::Informed { version: 812 },
        Request::HoldModule { sha256: sha256(), bytes: 1 << 20 },
        Request::ModulePart { sha256: sha256(), at: 262_144 },
        Request::CheckDeployment {
            name: "zones".into(),
            version: deployment().spec.version,
            restore: vec![(PARTITION, Offset(7))],
            rollback: true,
        },
        Request::ChangeCluster { ask: ClusterChangeAsk::Drain { node: NodeId(2), drained: true } },
        Request::ChangeCluster { ask: ClusterChangeAsk::Rebalance { apply: true } },
        Request::ChangeCluster {
            ask: ClusterChangeAsk::Add {
                name: "edge-4".into(),
                address: "10.0.0.4:7447".into(),
                witness: Some(true),
            },
        },
        Request::ChangeCluster { ask: ClusterChangeAsk::Remove { node: NodeId(2), force: true } },
        Request::ChangeCluster {
            ask: ClusterChangeAsk::Token { valid_ms: 3_600_000, witness: true },
        },
        Request::Join(Box::new(JoinAsk {
            token: 7,
            secret: Bytes::from_static(&[0xa5; 16]),
            name: "edge-4".into(),
            address: ":7447".into(),
            request: Bytes::from_static(&[0x30, 0]),
        })),
        Request::LaneSnapshot {
            name: "zones".into(),
            partition: PARTITION,
            offset: Offset(7),
            skip: 512,
        },
        Request::LaneOutputs {
            name: "zones".into(),
            lane: PARTITION,
            topic: TOPIC,
            partition: PARTITION,
            from: Offset(7),
        },
        Request::CreateDeployment { name: "zones".into(), spec: bounded() },
    ]);
    requests
}

fn sha256() -> String {
    "a5".repeat(32)
}

fn module_id() -> ModuleRef {
    "gps-geofence@1.2.0".parse().expect("a reference")
}

pub(super) fn group_position() -> GroupPosition {
    let offset = Offset(i64::MAX / 2);
    let since = Generation::default();
    GroupPosition { topic: TOPIC, partition: PARTITION, offset, committed_at: TIME, since }
}

/// Every kind of response.
pub fn responses() -> Vec<Response> {
    let topic = TopicInfo {
        id: TOPIC,
        name: "vehicles.gps".into(),
        config: topic_config(),
        created_at: TIME,
    };
    let offset = ResolvedOffset {
        partition: PARTITION,
        offset: Offset(5),
        log_start: Offset(2),
        high_watermark: Offset(9),
    };
    let group = GroupInfo {
        name: "dashboard".into(),
        positions: 4,
        committed_at: TIME,
        members: 0,
        moving: 0,
    };
    let mut responses = vec![
        Response::Error(wire_error()),
        Response::Done {},
        Response::Topics { topics: vec![topic] },
        Response::Producer { id: ProducerId(77) },
        Response::Offsets { offsets: vec![offset; 2] },
        Response::Positions { positions: vec![group_position()] },
        Response::Groups { groups: vec![group] },
        Response::Status(Box::new(status())),
        Response::Modules { modules: vec![module()] },
        Response::Upload { have: 262_144 },
        Response::Deployments { deployments: vec![deployment_info()] },
        Response::Deployments { deployments: vec![consumer_info()] },
        Response::DeploymentLog { lines: vec![module_line()], next: 42 },
        Response::Topics {
            topics: vec![TopicInfo {
                id: TOPIC,
                name: "temps".into(),
                config: TopicConfig { on_produce: Some(check()), ..topic_config() },
                created_at: TIME,
            }],
        },
        Response::Status(Box::new(NodeStatus { checks: vec![checked()], ..status() })),
        Response::Deployments { deployments: vec![taken_over()] },
        Response::Topics {
            topics: vec![TopicInfo {
                id: TOPIC,
                name: "orders".into(),
                config: TopicConfig { replicas: 3, min_insync: 2, ..topic_config() },
                created_at: TIME,
            }],
        },
        Response::Cluster(Box::new(cluster())),
    ];
    responses.extend(groups::responses());
    responses.extend([
        Response::ModulePart { data: Bytes::from_static(b"\0asm") },
        Response::Delivered { next: Offset(41) },
        Response::Deployments { deployments: vec![ending()] },
        Response::ClusterChanged(Box::new(ClusterChanged::Rebalance(Rebalance {
            moves: vec![MoveInfo {
                topic: "temps".into(),
                partition: PARTITION,
                from: vec![NodeId(1)],
                to: vec![NodeId(2)],
            }],
            begun: 1,
            moving: 2,
        }))),
        Response::ClusterChanged(Box::new(ClusterChanged::Token("weir-join-00".into()))),
        Response::Joined(Box::new(Joined {
            node: NodeId(4),
            certificate: "-----BEGIN CERTIFICATE-----".into(),
            authority: "-----BEGIN CERTIFICATE-----".into(),
            members: [(
                NodeId(4),
                Member { name: "edge-4".into(), address: "10.0.0.4:7447".into(), witness: true },
            )]
            .into(),
        })),
        Response::LaneSnapshot(Box::new(snapshot_page())),
        Response::LaneOutputs {
            entries: vec![
                LaneOutput { offset: Offset(7), end: Offset(9), input: Some(Offset(40)) },
                LaneOutput { offset: Offset(9), end: Offset(10), input: None },
            ],
            next: Offset(10),
        },
        Response::Deployments { deployments: vec![bounded_info()] },
        Response::Status(Box::new(NodeStatus { replicas: vec![behind()], ..status() })),
    ]);
    responses
}

/// A partition whose follower has a gigabyte to store.
fn behind() -> ReplicasInfo {
    let lag_bytes = Some(1 << 30);
    let follower = FollowerInfo { node: NodeId(2), lag: Some(9_000), lag_bytes, behind_ms: 700 };
    ReplicasInfo { followers: vec![follower], ..cluster().partitions.remove(0) }
}

fn cluster() -> ClusterStatus {
    let node = ClusterNodeInfo {
        id: NodeId(1),
        name: "edge-1".into(),
        address: "10.0.0.1:7447".into(),
        rack: Some("hall".into()),
        incarnation: Incarnation(4),
        fenced: true,
        leads: 1,
        replicas: 2,
        witness: false,
        voter: None,
        drained: false,
        stuck: 0,
    };
    let replicas = ReplicasInfo {
        topic: "temps".into(),
        partition: PARTITION,
        leader: Some(NodeId(1)),
        epoch: LeaderEpoch(3),
        replicas: vec![NodeId(1), NodeId(2)],
        target: vec![NodeId(3)],
        insync: vec![NodeId(1)],
        min_insync: 1,
        log_end: Some(Offset(9)),
        high_watermark: Some(Offset(7)),
        followers: vec![FollowerInfo {
            node: NodeId(2),
            lag: Some(2),
            lag_bytes: None,
            behind_ms: 40,
        }],
    };
    ClusterStatus {
        cluster: "5d0c6c1e".into(),
        asked: NodeId(1),
        controller: Some(NodeId(2)),
        version: 77,
        nodes: vec![node],
        partitions: vec![replicas],
        silent: vec![NodeId(3)],
        leaving: Vec::new(),
    }
}

/// A deployment with everything set.
pub fn deployment() -> Deployment {
    let version = |id: &str| Version {
        module: id.parse().expect("a reference"),
        params: [("areas".to_owned(), "{}".to_owned())].into(),
    };
    Deployment {
        id: DeploymentId(14),
        name: "zones".into(),
        spec: DeploymentSpec {
            kind: DeploymentKind::Transform,
            version: version("gps-geofence@1.3.0"),
            from: "vehicles.gps".into(),
            to: vec!["zones".into(), "trips".into()],
            on_error: OnError::DeadLetter,
            dead_letter: Some("bad".into()),
            from_latest: true,
            retries: 0,
            lateness_ms: 0,
            cpu_percent: 0,
            log_topic: None,
            http: None,
        },
        mode: Mode::Outbox,
        paused: true,
        previous: Some(version("gps-geofence@1.2.0")),
        takeovers: 0,
        restore: vec![],
        resumes: 0,
        ending: false,
        created_at: TIME,
    }
}

/// A consumer with everything that transforms have not.
fn consumer() -> DeploymentSpec {
    let ca_pem = Some("-----BEGIN CERTIFICATE-----".into());
    let grant = HttpGrant::of("example.com:8443").expect("a host");
    DeploymentSpec {
        kind: DeploymentKind::Consumer,
        to: vec![],
        on_error: OnError::Retry,
        dead_letter: None,
        retries: 3,
        http: Some(HttpGrant { timeout_ms: 2_500, ca_pem, ..grant }),
        ..deployment().spec
    }
}

/// A transform with a CPU budget, and a topic for what its module logs.
fn bounded() -> DeploymentSpec {
    DeploymentSpec { cpu_percent: 25, log_topic: Some("module-logs".into()), ..deployment().spec }
}

/// How that transform goes.
fn bounded_info() -> DeploymentInfo {
    let deployment = Deployment { spec: bounded(), ..deployment() };
    let mut info = DeploymentInfo { deployment, ..deployment_info() };
    for lane in &mut info.partitions {
        (lane.throttled_us, lane.log_lines_lost) = (2_500_000, 3);
    }
    info
}

/// A page of a snapshot, with more to come.
fn snapshot_page() -> SnapshotPage {
    SnapshotPage {
        module: "gps-geofence@1.2.0".into(),
        schema: 1,
        takeover: 2,
        watermark: TIME,
        entries: vec![(Bytes::from_static(b"bus-7"), Bytes::from_static(&[1, 0xff]))],
        timers: vec![(Bytes::from_static(b"bus-7"), TIME)],
        next: Some(514),
    }
}

fn module_line() -> ModuleLine {
    let message = "first value of boiler-2".into();
    ModuleLine { number: 41, at: TIME, partition: PARTITION, level: ModuleLevel::Info, message }
}

/// How that consumer goes.
fn consumer_info() -> DeploymentInfo {
    let deployment = Deployment { name: "alerts".into(), spec: consumer(), ..deployment() };
    let mut info = DeploymentInfo { deployment, ..deployment_info() };
    for lane in &mut info.partitions {
        (lane.http_requests, lane.http_failures, lane.http_wait_us) = (9, 2, 1_250_000);
    }
    info
}

fn deployment_info() -> DeploymentInfo {
    let error = LaneError { offset: Some(Offset(6)), message: "no JSON".into(), at: TIME };
    let lane = LaneInfo {
        partition: PARTITION,
        state: LaneCondition::Retrying,
        position: Some(Offset(7)),
        lag: 2,
        undelivered: 1,
        records_in: 7,
        records_out: 5,
        errors: 2,
        dead_letters: 1,
        state_bytes: 4_096,
        state_keys: 3,
        cpu_us: 1_500,
        memory_bytes: 1 << 20,
        http_requests: 0,
        http_failures: 0,
        http_wait_us: 0,
        throttled_us: 0,
        log_lines_lost: 0,
        last_error: Some(error),
        snapshots: vec![],
    };
    DeploymentInfo { deployment: deployment(), partitions: vec![lane] }
}

/// A deployment that is being deleted.
fn ending() -> DeploymentInfo {
    let DeploymentInfo { mut deployment, mut partitions } = deployment_info();
    (deployment.ending, deployment.resumes) = (true, 2);
    partitions.iter_mut().for_each(|lane| lane.state = LaneCondition::Ended);
    DeploymentInfo { deployment, partitions }
}

/// A deployment with snapshots of state, one of which is to be restored.
fn taken_over() -> DeploymentInfo {
    let DeploymentInfo { mut deployment, mut partitions } = deployment_info();
    deployment.takeovers = 2;
    deployment.restore = vec![(PARTITION, Offset(7))];
    for lane in &mut partitions {
        lane.snapshots.push(LaneSnapshot {
            offset: Offset(7),
            module: "gps-geofence@1.2.0".into(),
            schema: 1,
            keys: 40,
        });
    }
    DeploymentInfo { deployment, partitions }
}

/// A module as metadata has it.
pub fn module() -> Module {
    Module {
        id: module_id(),
        kind: ModuleKind::Filter,
        sha256: sha256(),
        bytes: 20_000,
        about: "Keeps positions inside a polygon.".into(),
        created_at: TIME,
    }
}

/// An error with all its numbers.
pub fn wire_error() -> WireError {
    WireError {
        resume_at: Some(Offset(7)),
        ..WireError::out_of_range(Offset(1), Offset(5), Offset(9))
    }
}

fn checked() -> CheckStatus {
    CheckStatus {
        topic: "temps".into(),
        module: "range-guard@1.2.0".into(),
        records: 70,
        rejected: 3,
        rewritten: 20,
        batches: 9,
        refused: 1,
        failed: 1,
        cpu_us: 800,
    }
}

fn status() -> NodeStatus {
    let shard = ShardStatus {
        shard: 1,
        state: "online".into(),
        files: 3,
        disk_bytes: 1 << 30,
        commits: 12,
        commit_p99_us: 4_100,
        ..ShardStatus::default()
    };
    let partition = PartitionStatus {
        topic: "vehicles.gps".into(),
        partition: PARTITION,
        epoch: LeaderEpoch(3),
        online: true,
        log_start: Offset(2),
        high_watermark: Offset(9),
        log_end: Offset(10),
        bytes: 4_096,
        records_in: 10,
        bytes_in: 4_096,
        bytes_out: 1,
        records_in_per_s: 2,
        bytes_in_per_s: 800,
        bytes_out_per_s: 0,
        subscriptions: 1,
        led_by: None,
    };
    NodeStatus {
        node: "edge-1".into(),
        software: "0.1.0".into(),
        cluster: "5d0c6c1e".into(),
        uptime_ms: 60_000,
        node_time: TIME,
        warnings: vec!["the clock went back by 3 s".into()],
        connections: 2,
        rss_bytes: 30 << 20,
        shards: vec![shard],
        partitions: vec![partition],
        ..NodeStatus::default()
    }
}

/// A subscription with everything set.
pub fn subscribe() -> Subscribe {
    Subscribe {
        topic: TOPIC,
        partition: PARTITION,
        start: StartAt::Time(TIME),
        frame_bytes_max: 65_536,
        until_end: true,
        nearest: false,
        filter: None,
    }
}

/// A subscription with a filter.
pub fn subscribe_filtered() -> Subscribe {
    let filter = FilterSpec {
        module: module_id(),
        params: [("zone".to_owned(), "depot".to_owned())].into(),
        on_error: FilterOnError::Drop,
    };
    Subscribe { filter: Some(filter), ..subscribe() }
}

/// Its answer.
pub fn subscribed() -> Subscribed {
    Subscribed {
        start: Offset(5),
        log_start: Offset(2),
        high_watermark: Offset(9),
        epoch: LeaderEpoch(3),
    }
}

/// What stands before a produced batch.
pub fn produce_header() -> ProduceHeader {
    ProduceHeader { correlation: 1 << 40, topic: TOPIC, partition: PARTITION }
}

/// What stands before served batches.
pub fn data_header() -> DataHeader {
    DataHeader { high_watermark: Offset(45), log_start: Offset(2), next_offset: Offset(45) }
}

/// One acknowledgement of each sort.
pub fn acks() -> Vec<ProduceAck> {
    let appended = Appended {
        base_offset: Offset(40),
        append_time: TIME,
        reached: Reached::LeaderDisk,
        duplicate: true,
    };
    let relaxed = Appended { reached: Reached::LeaderMemory, duplicate: false, ..appended };
    let refusal = ProduceRefusal {
        code: ErrorCode::SequenceGap,
        outcome: Outcome::Unknown,
        message: "batch 7 came before batch 6: é".into(),
    };
    vec![
        ProduceAck { correlation: 1, result: Ok(appended) },
        ProduceAck { correlation: u64::MAX, result: Ok(relaxed) },
        ProduceAck { correlation: 2, result: Err(refusal) },
    ]
}

/// Several acknowledgements, as one frame holds them.
pub fn acks_encoded(acks: &[ProduceAck]) -> Vec<u8> {
    let mut out = BytesMut::new();
    acks.iter().for_each(|ack| ack.encode(&mut out));
    out.to_vec()
}

/// A metadata change as it is kept in the log.
pub fn topic_put() -> Change {
    Change::Put(Topic {
        id: TOPIC,
        name: "vehicles.gps".into(),
        config: topic_config(),
        partitions: (9..13).map(PartitionId).collect(),
        created_at: TIME,
    })
}
