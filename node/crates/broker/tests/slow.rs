//! Subscribers that do not read, or hardly: what they cost the node, and whom else.

mod support;

use bytes::Bytes;
use support::{Client, Node, PATIENCE, Subscription, batch, subscribe, values};
use weir_broker::BrokerConfig;
use weir_core::limits;
use weir_core::record::RecordBatch;
use weir_core::topic::TopicConfig;
use weir_core::wire::message::{NodeStatus, Request, Response, StartAt};
use weir_core::{Offset, PartitionIndex};
use weir_transport::ClientProfile;

/// What each subscription's client takes unread.
const WINDOW_BYTES: usize = 16 << 10;

/// A client that takes little of each of so many subscriptions, unless it reads.
async fn narrow_client(node: &Node, streams: usize) -> Client {
    let profile = ClientProfile::Subscribe { streams, stream_window_bytes: WINDOW_BYTES };
    Client::connect_with(node, node.tls(), profile).await
}

/// Waits until the node's status is as wanted. `always` must hold until then.
async fn until(
    node: &Node,
    always: impl Fn(&NodeStatus) -> bool,
    wanted: impl Fn(&NodeStatus) -> bool,
) {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let status = node.broker.reporter().status();
            assert!(always(&status), "{status:?}");
            if wanted(&status) {
                return;
            }
            // sleep: between two looks at the status.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{:?}", node.broker.reporter().status());
}

async fn read_to_end(subscription: &mut Subscription) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    while let Some((_, more)) = subscription.data().await {
        batches.extend(more);
    }
    batches
}

fn bytes_of(batches: &[RecordBatch]) -> Vec<Bytes> {
    batches.iter().map(|batch| batch.bytes().clone()).collect()
}

/// Goal: subscriptions that nobody reads keep the slow budget for a while, and then nothing; a
/// subscriber that reads, and a commit on the connection of those that do not, go on. One that is
/// read at last gets everything, in order. Method: many subscriptions to the largest batches there
/// are, which together are a hundred times the budget; from memory and from files.
async fn never_read(change: impl FnOnce(&mut BrokerConfig)) {
    const SUBSCRIPTIONS: usize = 100;
    const BUDGET: usize = 5 << 20;
    let node = Node::start_with(|config| {
        config.slow_budget_bytes = BUDGET;
        config.fetch_budget_bytes = limits::BATCH_BYTES_MAX;
        change(config);
    })
    .await;
    let producing = node.client().await;
    let topic = producing.create("t", TopicConfig::default()).await.id;
    let mut producer = producing.producer().await;
    for letter in ["a", "b"] {
        let large = letter.repeat(1_000_000);
        let ack = producer.produce(topic, batch(&[large.as_str(); 4])).await;
        assert!(ack.result.is_ok(), "{ack:?}");
    }
    let silent = narrow_client(&node, SUBSCRIPTIONS).await;
    let mut unread = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        let ask = subscribe(topic, StartAt::Earliest, true);
        unread.push(silent.subscribe(&ask).await.0);
    }
    let bounded = |status: &NodeStatus| status.slow_bytes <= BUDGET as u64;
    until(&node, bounded, |status| {
        status.subscriptions_parked as usize == SUBSCRIPTIONS && status.slow_bytes == 0
    })
    .await;
    silent.commit("g", topic, 1).await;
    let all = producing.read_all(topic, StartAt::Earliest).await;
    assert_eq!(values(&all).len(), 8);
    for subscription in unread.iter_mut().take(3) {
        assert!(bytes_of(&read_to_end(subscription).await) == bytes_of(&all));
    }
    until(&node, bounded, |status| status.subscriptions_parked as usize == SUBSCRIPTIONS - 3).await;
    drop(unread);
    until(&node, bounded, |status| status.subscriptions == 0).await;
    assert_eq!(node.broker.reporter().status().subscriptions_parked, 0);
    node.broker.stop().await;
}

#[tokio::test]
async fn never_read_from_memory() {
    never_read(|_| {}).await;
}

#[tokio::test]
async fn never_read_from_files() {
    never_read(|config| config.log.tail_cache_bytes = 0).await;
}

/// Goal: without any memory for slow subscribers, reading slowly still yields everything, byte for
/// byte, wherever a frame was left off. Method: no slow budget, windows far smaller than frames,
/// batches of many sizes; from memory and from files.
#[tokio::test]
async fn slow_without_a_budget() {
    for tail_cache_bytes in [0, 32 << 20] {
        let node = Node::start_with(|config| {
            config.slow_budget_bytes = 0;
            config.log.tail_cache_bytes = tail_cache_bytes;
        })
        .await;
        let client = node.client().await;
        let topic = client.create("t", TopicConfig::default()).await.id;
        let mut producer = client.producer().await;
        for n in 1..=60 {
            let value = n.to_string().repeat(n * 100);
            assert!(producer.produce(topic, batch(&[&value, "x", &value])).await.result.is_ok());
        }
        let all = client.read_all(topic, StartAt::Earliest).await;
        let slow = narrow_client(&node, 1).await;
        let mut ask = subscribe(topic, StartAt::Offset(Offset(1)), true);
        ask.frame_bytes_max = 100_000;
        let (mut subscription, _) = slow.subscribe(&ask).await;
        until(&node, |_| true, |status| status.subscriptions_parked == 1).await;
        assert!(bytes_of(&read_to_end(&mut subscription).await) == bytes_of(&all));
        node.broker.stop().await;
    }
}

/// Goal: what a parked subscription was sending is gone when it reads on: its stream breaks off,
/// and a new subscription is told why. Nobody gets half a frame.
#[tokio::test]
async fn gone_while_parked() {
    let node = Node::start_with(|config| config.slow_budget_bytes = 0).await;
    let client = node.client().await;
    let topic = client.create("t", TopicConfig::default()).await.id;
    let mut producer = client.producer().await;
    let large = "x".repeat(500_000);
    for _ in 0..2 {
        assert!(producer.produce(topic, batch(&[&large])).await.result.is_ok());
    }
    let slow = narrow_client(&node, 1).await;
    let ask = subscribe(topic, StartAt::Earliest, false);
    let (mut subscription, _) = slow.subscribe(&ask).await;
    until(&node, |_| true, |status| status.subscriptions_parked == 1).await;
    let trim = Request::TrimPartition {
        topic: "t".into(),
        partition: PartitionIndex(0),
        before: Offset(1),
    };
    assert_eq!(client.request(&trim).await, Response::Done {});
    until(&node, |_| true, |status| status.partitions[0].log_start == Offset(1)).await;
    let broken = subscription.reader.next(limits::FRAME_BYTES_MAX).await.unwrap_err();
    assert!(broken.retryable(), "{broken}");
    let (_, first) = slow.subscribe(&ask).await;
    assert_eq!(first.kind, weir_core::wire::FrameKind::Subscribed as u8);
    node.broker.stop().await;
}
