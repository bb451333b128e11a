//! The broker over real QUIC, frame by frame.

mod support;

use bytes::{Bytes, BytesMut};
use support::{
    Client, Node, PATIENCE, Producer, ask, batch, batch_of, next, packed, subscribe, values,
};
use weir_core::access::{Role, Rule};
use weir_core::record::RecordBatch;
use weir_core::topic::{Durability, TopicConfig};
use weir_core::wire::frame::{Appended, ProduceAck, Reached};
use weir_core::wire::message::{Hello, Request, Response, StartAt, Subscribed};
use weir_core::wire::{ErrorCode, FrameKind};
use weir_core::{Offset, PartitionIndex, TimestampMs, TopicId};
use weir_transport::{Authority, Clock, CloseReason, ConnectionLost, Identity, control};

fn appended(ack: &ProduceAck) -> Appended {
    *ack.result.as_ref().unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

fn code(ack: &ProduceAck) -> ErrorCode {
    ack.result.as_ref().expect_err("a refusal").code
}

async fn topic(client: &Client) -> TopicId {
    client.create("t", TopicConfig::default()).await.id
}

/// Goal: what was acknowledged comes back, in order, byte for byte but for offset and epoch, from
/// the same node and from its successor on the same folder.
#[tokio::test]
async fn produced_is_consumed() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    let sent = [batch(&["a", "b"]), batch(&["c"]), batch(&["d", "e", "f"])];
    for (bytes, base) in sent.iter().zip([0, 2, 3]) {
        let appended = appended(&producer.produce(topic, bytes.clone()).await);
        assert_eq!((appended.base_offset, appended.reached), (Offset(base), Reached::LeaderDisk));
    }
    let before = client.read_all(topic, StartAt::Earliest).await;
    assert_eq!(values(&before), ["a", "b", "c", "d", "e", "f"]);
    for (got, sent) in before.iter().zip(&sent) {
        assert_eq!(got.bytes()[16..], sent[16..], "everything behind the epoch is as sent");
        assert_eq!(got.bytes()[8..12], sent[8..12]);
    }
    drop((client, producer));
    let node = node.restart().await;
    let client = node.client().await;
    let after = client.read_all(topic, StartAt::Earliest).await;
    let bytes =
        |batches: &[RecordBatch]| batches.iter().map(|b| b.bytes().clone()).collect::<Vec<_>>();
    assert_eq!(bytes(&after), bytes(&before));
    assert_eq!(values(&client.read_all(topic, StartAt::Offset(Offset(3))).await), ["d", "e", "f"]);
    assert!(client.read_all(topic, StartAt::Latest).await.is_empty());
    let mut producer = client.producer().await;
    let next = appended(&producer.produce(topic, batch(&["g"])).await);
    assert_eq!(next.base_offset, Offset(6));
    let newest = client.read_all(topic, StartAt::Offset(Offset(6))).await;
    assert!(newest[0].header().epoch > before[0].header().epoch, "a restart raises the epoch");
    node.broker.stop().await;
}

/// Goal: pipelined batches are acknowledged in order, once each; ending the client's side loses
/// no acknowledgement.
#[tokio::test]
async fn pipelined_then_finished() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    for n in 0..200 {
        producer.send(topic, batch(&[&format!("{n}")])).await;
    }
    producer.writer.finish().await.unwrap();
    for n in 0..200 {
        let ack = producer.ack().await;
        assert_eq!((ack.correlation, appended(&ack).base_offset), (n + 1, Offset(n as i64)));
    }
    assert!(next(&mut producer.reader).await.is_none(), "the node ends its side too");
    let all = values(&client.read_all(topic, StartAt::Earliest).await);
    assert_eq!(all, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    node.broker.stop().await;
}

/// Goal: large compressed batches, which are checked on other threads, keep their place among small
/// ones on the same stream; a damaged one is refused and holds nobody up.
/// Method: values that hardly compress, so that every packed batch is of the large kind.
#[tokio::test]
async fn packed_batches_keep_their_order() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    let mut state = 1_u64;
    let mut noise = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    let mut sent = Vec::new();
    for round in 0..20 {
        let many: Vec<String> = (0..4_000).map(|_| noise()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let large = packed(&many);
        assert!(large.len() > 16 * 1024, "{} bytes", large.len());
        producer.send(topic, large.clone()).await;
        let small = format!("small {round}");
        producer.send(topic, batch(&[&small])).await;
        let mut damaged = large.to_vec();
        damaged[1_000] ^= 1;
        producer.send(topic, damaged.into()).await;
        sent.extend(many.iter().map(|value| (*value).to_owned()).chain([small]));
    }
    // A refusal does not wait for the disk, so it may come before what was sent before it.
    let mut last = None;
    for _ in 0..60 {
        let ack = producer.ack().await;
        let (round, kind) = ((ack.correlation - 1) / 3, (ack.correlation - 1) % 3);
        if kind == 2 {
            assert_eq!(code(&ack), ErrorCode::InvalidBatch);
            continue;
        }
        let offset = round as i64 * 4_001 + [0, 4_000][kind as usize];
        assert_eq!(appended(&ack).base_offset, Offset(offset));
        assert!(last.is_none_or(|last| last < ack.correlation), "{last:?} {}", ack.correlation);
        last = Some(ack.correlation);
    }
    assert_eq!(values(&client.read_all(topic, StartAt::Earliest).await), sent);
    node.broker.stop().await;
}

/// Goal: appends of producers that trickle are held back, share commits, and are all acknowledged;
/// one that waits for its answers is not held. Method: many streams that each pause for longer than
/// they are held, until the node says that it held some.
#[tokio::test]
async fn trickling_producers_share_commits() {
    let linger = std::time::Duration::from_millis(50);
    let node = Node::start_with(|config| config.trickle_linger = linger).await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut busy = client.producer().await;
    for n in 0..100 {
        let base = appended(&busy.produce(topic, batch(&["busy"])).await).base_offset;
        assert_eq!(base, Offset(n));
    }
    assert_eq!(node.broker.reporter().status().appends_held, 0);
    let mut producers = Vec::new();
    for _ in 0..8 {
        producers.push(client.producer().await);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut next = 100;
    while node.broker.reporter().status().appends_held < 16 {
        assert!(std::time::Instant::now() < deadline, "nothing was held back");
        for producer in &mut producers {
            producer.send(topic, batch(&["now and then"])).await;
        }
        let mut offsets = Vec::new();
        for producer in &mut producers {
            offsets.push(appended(&producer.ack().await).base_offset);
        }
        offsets.sort_unstable();
        assert_eq!(offsets, (next..next + 8).map(Offset).collect::<Vec<_>>());
        next += 8;
        // sleep: the pause is what is tested.
        tokio::time::sleep(2 * linger).await;
    }
    let commits: u64 =
        node.broker.reporter().status().shards.iter().map(|shard| shard.commits).sum();
    assert!(commits < next as u64, "{commits} commits for {next} appends");
    node.broker.stop().await;
}

/// Goal: a retry stores nothing twice, also after a restart; a gap is refused by name and stores
/// nothing.
#[tokio::test]
async fn idempotence() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let id = client.init_producer().await;
    let mut producer = client.producer().await;
    let (first, second) = (batch_of(id, 0, &["a", "b"]), batch_of(id, 2, &["c"]));
    assert_eq!(appended(&producer.produce(topic, first.clone()).await).base_offset, Offset(0));
    assert_eq!(appended(&producer.produce(topic, second.clone()).await).base_offset, Offset(2));
    let gap = producer.produce(topic, batch_of(id, 4, &["x"])).await;
    assert_eq!(code(&gap), ErrorCode::SequenceGap);
    drop((client, producer));
    let node = node.restart().await;
    let client = node.client().await;
    assert_ne!(client.init_producer().await, id, "ids are never given out twice");
    let mut producer = client.producer().await;
    for (retry, base) in [(second, 2), (first, 0)] {
        let again = appended(&producer.produce(topic, retry).await);
        assert!(again.duplicate);
        assert_eq!(again.base_offset, Offset(base));
    }
    assert_eq!(values(&client.read_all(topic, StartAt::Earliest).await), ["a", "b", "c"]);
    node.broker.stop().await;
}

/// Goal: a damaged batch is refused and harms neither the stream nor the log.
#[tokio::test]
async fn damaged_batches_are_refused() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    let good = batch(&["good"]);
    for at in [8, 16, 17, 30, 57, good.len() - 1] {
        let mut bad = BytesMut::from(&good[..]);
        bad[at] ^= 0x55;
        let ack = producer.produce(topic, bad.freeze()).await;
        assert_eq!(code(&ack), ErrorCode::InvalidBatch, "byte {at}");
    }
    assert_eq!(code(&producer.produce(topic, good.slice(..40)).await), ErrorCode::InvalidBatch);
    assert_eq!(code(&producer.produce(topic, Bytes::new()).await), ErrorCode::InvalidBatch);
    assert_eq!(code(&producer.produce(TopicId(99), good.clone()).await), ErrorCode::UnknownTopic);
    assert_eq!(appended(&producer.produce(topic, good).await).base_offset, Offset(0));
    assert_eq!(values(&client.read_all(topic, StartAt::Earliest).await), ["good"]);
    node.broker.stop().await;
}

/// Goal: what is not the protocol costs its sender the connection, and nobody else anything.
#[tokio::test]
async fn garbage_costs_its_own_connection() {
    let node = Node::start().await;
    let neighbour = node.client().await;
    let topic = topic(&neighbour).await;
    let mut producer = neighbour.producer().await;
    // A control message beyond its limit: its length alone ends the connection.
    let client = node.client().await;
    let (mut writer, _reader) = client.connection.open_stream().await.unwrap();
    // The node may close while this is still being written.
    let oversized = Bytes::from(vec![0; 2 << 20]);
    let _ = writer.write(FrameKind::Request as u8, 0, &[oversized]).await;
    let lost = tokio::time::timeout(PATIENCE, client.connection.closed()).await.unwrap();
    assert!(
        matches!(&lost, ConnectionLost::ClosedByPeer { reason: CloseReason::ProtocolError, .. }),
        "{lost:?}"
    );
    assert!(producer.produce(topic, batch(&["fine"])).await.result.is_ok());
    // A well-framed message that makes no sense costs its stream only.
    let client = node.client().await;
    let frame = ask(&client.connection, FrameKind::Request, &"nonsense").await;
    let Response::Error(error) = control::decode(&frame.body).unwrap() else { panic!() };
    assert_eq!(error.code, ErrorCode::Unsupported);
    let frame = ask(&client.connection, FrameKind::Data, &"nonsense").await;
    assert_eq!(frame.kind, FrameKind::Error as u8);
    assert!(matches!(client.request(&Request::Status {}).await, Response::Status(_)));
    node.broker.stop().await;
}

/// Goal: a client of a newer protocol is told so and let go.
#[tokio::test]
async fn newer_protocol_is_refused() {
    let node = Node::start().await;
    let client = node.client().await;
    let address = node.broker.local_addr();
    let profile = weir_transport::ClientProfile::Control;
    let connection = client.endpoint.connect(address, None, profile).await.unwrap();
    let hello = Hello { version_min: 900, version_max: 901, client: String::new() };
    let frame = ask(&connection, FrameKind::Hello, &hello).await;
    assert_eq!(frame.kind, FrameKind::Error as u8);
    let lost = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(
        matches!(&lost, ConnectionLost::ClosedByPeer { reason: CloseReason::VersionMismatch, .. }),
        "{lost:?}"
    );
    node.broker.stop().await;
}

/// Goal: a subscription gets what comes later without asking, and ends when its topic is deleted.
#[tokio::test]
async fn tail_and_deletion() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let (mut tail, first) = client.subscribe(&subscribe(topic, StartAt::Latest, false)).await;
    let subscribed: Subscribed = control::decode(&first.body).unwrap();
    assert_eq!(subscribed.start, Offset(0));
    let mut producer = client.producer().await;
    for n in 0..3 {
        producer.produce(topic, batch(&[&format!("{n}")])).await;
        let (header, batches) = tail.data().await.unwrap();
        assert_eq!(values(&batches), [n.to_string()]);
        assert_eq!(header.next_offset, Offset(n + 1));
        assert_eq!(header.high_watermark, Offset(n + 1));
    }
    let deleted = client.request(&Request::DeleteTopic { name: "t".into() }).await;
    assert_eq!(deleted, Response::Done {});
    assert_eq!(tail.error().await.code, ErrorCode::TopicDeleted);
    assert_eq!(code(&producer.produce(topic, batch(&["x"])).await), ErrorCode::TopicDeleted);
    let again = client.create("t", TopicConfig::default()).await;
    assert_ne!(again.id, topic);
    assert!(client.read_all(again.id, StartAt::Earliest).await.is_empty());
    node.broker.stop().await;
}

/// Goal: an offset outside the log is refused with the range; trimming moves the range.
#[tokio::test]
async fn out_of_range() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    for value in ["a", "b", "c", "d"] {
        producer.produce(topic, batch(&[value])).await;
    }
    let trim = Request::TrimPartition {
        topic: "t".into(),
        partition: PartitionIndex(0),
        before: Offset(2),
    };
    assert_eq!(client.request(&trim).await, Response::Done {});
    let starts = [StartAt::Offset(Offset(1)), StartAt::Offset(Offset(5))];
    // The log moves its start in its own time; a subscription at the new start sees it done.
    let positions = vec![(PartitionIndex(0), StartAt::Earliest)];
    let offsets = Request::Offsets { topic, positions };
    tokio::time::timeout(PATIENCE, async {
        loop {
            let Response::Offsets { offsets } = client.request(&offsets).await else { panic!() };
            if offsets[0].log_start == Offset(2) {
                break;
            }
        }
    })
    .await
    .unwrap();
    for start in starts {
        let (_, first) = client.subscribe(&subscribe(topic, start, false)).await;
        assert_eq!(first.kind, FrameKind::Error as u8);
        let error: weir_core::wire::WireError = control::decode(&first.body).unwrap();
        assert_eq!(error.code, ErrorCode::OutOfRange);
        assert_eq!((error.log_start, error.log_end), (Some(Offset(2)), Some(Offset(4))));
    }
    assert_eq!(values(&client.read_all(topic, StartAt::Earliest).await), ["c", "d"]);
    let too_far = Request::TrimPartition {
        topic: "t".into(),
        partition: PartitionIndex(0),
        before: Offset(9),
    };
    assert_eq!(client.refused(&too_far).await.code, ErrorCode::OutOfRange);
    node.broker.stop().await;
}

/// Goal: stored positions survive a restart, and go with their topic.
#[tokio::test]
async fn group_positions() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    for offset in [3, 7] {
        client.commit("g", topic, offset).await;
    }
    drop(client);
    let node = node.restart().await;
    let client = node.client().await;
    let fetch = Request::FetchPositions { group: "g".into() };
    let Response::Positions { positions } = client.request(&fetch).await else { panic!() };
    assert_eq!(positions.len(), 1);
    assert_eq!(positions[0].offset, Offset(7));
    assert!(positions[0].committed_at > TimestampMs(1_600_000_000_000));
    let Response::Groups { groups } = client.request(&Request::ListGroups {}).await else {
        panic!()
    };
    assert_eq!(groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["g"]);
    client.request(&Request::DeleteTopic { name: "t".into() }).await;
    let Response::Positions { positions } = client.request(&fetch).await else { panic!() };
    assert!(positions.is_empty());
    let gone = Request::DeleteGroup { group: "g".into(), topics: None };
    assert_eq!(client.refused(&gone).await.code, ErrorCode::UnknownGroup);
    node.broker.stop().await;
}

/// Goal: a relaxed topic's acknowledgement says that it came from memory.
#[tokio::test]
async fn relaxed_says_so() {
    let node = Node::start().await;
    let client = node.client().await;
    let config = TopicConfig { durability: Durability::Relaxed, ..TopicConfig::default() };
    let topic = client.create("relaxed", config).await.id;
    let mut producer = client.producer().await;
    let ack = appended(&producer.produce(topic, batch(&["a"])).await);
    assert_eq!((ack.base_offset, ack.reached), (Offset(0), Reached::LeaderMemory));
    let (mut tail, _) = client.subscribe(&subscribe(topic, StartAt::Earliest, false)).await;
    assert_eq!(values(&tail.data().await.unwrap().1), ["a"]);
    node.broker.stop().await;
}

/// Goal: a thousand subscriptions that nobody reads hold up neither requests nor acknowledgements
/// of another connection, and the one that is then read gets everything.
#[tokio::test]
async fn unread_subscriptions_hold_up_nobody() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    let large = "x".repeat(100_000);
    for _ in 0..100 {
        producer.produce(topic, batch(&[&large, &large])).await;
    }
    let subscriber = node.client().await;
    let mut subscriptions = Vec::new();
    for _ in 0..1_000 {
        let (mut writer, reader) = subscriber.connection.open_stream().await.unwrap();
        let ask = subscribe(topic, StartAt::Earliest, true);
        control::send(&mut writer, FrameKind::Subscribe, &ask).await.unwrap();
        subscriptions.push((writer, reader));
    }
    // The connection's window is full now or soon; another connection does not notice.
    for offset in 0..20 {
        client.commit("g", topic, offset).await;
        assert!(producer.produce(topic, batch(&["small"])).await.result.is_ok());
    }
    let reader = node.client().await;
    assert!(reader.read_all(topic, StartAt::Earliest).await.len() >= 100);
    node.broker.stop().await;
}

fn issue(node: &Node, principal: &str) -> Identity {
    let authority = Authority::load(&node.dir.path().join("tls"), &Clock::system()).unwrap();
    let day = std::time::Duration::from_secs(86_400);
    authority.issue_client(principal, day).unwrap().identity().unwrap()
}

async fn try_produce(producer: &mut Producer, topic: TopicId) -> Result<(), ErrorCode> {
    producer.produce(topic, batch(&["v"])).await.result.map(drop).map_err(|r| r.code)
}

/// Goal: rights are enforced on every kind of request, and the refusal says what is missing.
#[tokio::test]
async fn rights_are_enforced() {
    let rule = |principal: &str, role, topics: &[&str]| Rule {
        principal: principal.into(),
        roles: vec![role],
        topics: topics.iter().map(|t| (*t).into()).collect(),
    };
    let node = Node::start_with(|config| {
        config.access.anonymous = Vec::new();
        config.access.rules = vec![
            rule("ops", Role::Admin, &[]),
            rule("gateway", Role::Produce, &["gps."]),
            rule("app", Role::Consume, &["gps."]),
        ];
    })
    .await;
    let ops = node.client_as(issue(&node, "ops")).await;
    assert_eq!(ops.hello.principal.as_deref(), Some("ops"));
    let gps = ops.create("gps.raw", TopicConfig::default()).await.id;
    let other = ops.create("other", TopicConfig::default()).await.id;

    let gateway = node.client_as(issue(&node, "gateway")).await;
    let mut producer = gateway.producer().await;
    assert_eq!(try_produce(&mut producer, gps).await, Ok(()));
    assert_eq!(try_produce(&mut producer, other).await, Err(ErrorCode::Unauthorized));
    let (_, first) = gateway.subscribe(&subscribe(gps, StartAt::Earliest, true)).await;
    assert_eq!(first.kind, FrameKind::Error as u8);
    let error: weir_core::wire::WireError = control::decode(&first.body).unwrap();
    assert_eq!(error.code, ErrorCode::Unauthorized);
    assert!(error.message.contains("gateway") && error.message.contains("`consume`"), "{error}");

    let app = node.client_as(issue(&node, "app")).await;
    assert_eq!(values(&app.read_all(gps, StartAt::Earliest).await), ["v"]);
    assert_eq!(try_produce(&mut app.producer().await, gps).await, Err(ErrorCode::Unauthorized));
    let Response::Topics { topics } = app.request(&Request::Topics { names: None }).await else {
        panic!()
    };
    assert_eq!(topics.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["gps.raw"]);
    let admins_only = [
        Request::CreateTopic { name: "x".into(), config: TopicConfig::default() },
        Request::DeleteTopic { name: "gps.raw".into() },
        Request::DeleteGroup { group: "g".into(), topics: None },
        Request::ConfirmTime {},
    ];
    let stranger = node.client_as(issue(&node, "stranger")).await;
    let anonymous = node.client().await;
    for request in &admins_only {
        for client in [&gateway, &app, &stranger, &anonymous] {
            assert_eq!(client.refused(request).await.code, ErrorCode::Unauthorized, "{request:?}");
        }
    }
    for request in [Request::Status {}, Request::ListGroups {}, Request::InitProducer {}] {
        for client in [&stranger, &anonymous] {
            assert_eq!(client.refused(&request).await.code, ErrorCode::Unauthorized, "{request:?}");
        }
    }
    node.broker.stop().await;
}

/// Goal: seeking by time finds the first record in log order that is not earlier, with event
/// times out of order.
#[tokio::test]
async fn seek_by_time() {
    let node = Node::start().await;
    let client = node.client().await;
    let topic = topic(&client).await;
    let mut producer = client.producer().await;
    let at = |times: &[i64]| {
        let mut builder = weir_core::record::BatchBuilder::new(weir_core::record::Compression::Lz4);
        for &time in times {
            let value = time.to_string();
            let headers = weir_core::record::NO_HEADERS;
            builder.push(TimestampMs(time), None, Some(value.as_bytes()), headers).unwrap();
        }
        builder.build(weir_core::ProducerId::NONE, 0, 0).unwrap()
    };
    for times in [&[10, 30, 20][..], &[5, 40], &[15, 35]] {
        producer.produce(topic, at(times)).await;
    }
    for (time, offset) in [(0, 0), (10, 0), (11, 1), (30, 1), (31, 4), (40, 4), (41, 7)] {
        let positions = vec![(PartitionIndex(0), StartAt::Time(TimestampMs(time)))];
        let ask = Request::Offsets { topic, positions };
        let Response::Offsets { offsets } = client.request(&ask).await else { panic!() };
        assert_eq!(offsets[0].offset, Offset(offset), "time {time}");
    }
    let batches: Vec<RecordBatch> = client.read_all(topic, StartAt::Earliest).await;
    assert_eq!(batches.len(), 3);
    node.broker.stop().await;
}

/// Goal: a topic's batch limit counts bytes, and the status counts records and bytes apart.
#[tokio::test]
async fn bytes_are_bytes() {
    let node = Node::start().await;
    let client = node.client().await;
    let config = TopicConfig { batch_bytes_max: 1_024, ..TopicConfig::default() };
    let topic = client.create("small", config).await.id;
    let mut producer = client.producer().await;
    let small = batch(&["x".repeat(900).as_str()]);
    assert!(producer.produce(topic, small.clone()).await.result.is_ok());
    let large = batch(&["x".repeat(1_100).as_str()]);
    assert_eq!(code(&producer.produce(topic, large).await), ErrorCode::BatchTooLarge);
    let Response::Status(status) = client.request(&Request::Status {}).await else { panic!() };
    let partition = &status.partitions[0];
    assert_eq!((partition.records_in, partition.bytes_in), (1, small.len() as u64));
    assert!(partition.bytes > 900, "{partition:?}");
    node.broker.stop().await;
}
