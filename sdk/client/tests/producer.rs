//! The producer against a node that does wrong on purpose.

mod support;

use std::time::Duration;

use support::{Node, soon};
use weir_client::{DeliveryError, ErrorCode, Outcome, ProducerRecord, SendError};
use weir_core::Offset;

fn numbered(topic: &str, n: usize) -> ProducerRecord {
    ProducerRecord::new(topic, n.to_string().into_bytes()).with_partition(0)
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// Goal: records get offsets in the order of sending, deliveries resolve to them, and a batch is
/// shared by what is sent meanwhile.
#[tokio::test]
async fn records_are_confirmed_in_order() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let producer = node.client().await.producer().build().await.unwrap();
    let mut deliveries = Vec::new();
    for n in 0..1_000 {
        deliveries.push(soon(producer.send(numbered("t", n))).await.unwrap());
    }
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let metadata = soon(delivery).await.unwrap();
        assert_eq!((metadata.offset, metadata.partition), (Offset(n as i64), 0));
        assert!(!metadata.duplicate);
    }
    assert_eq!(node.values(topic, 0), numbers(1_000));
    assert!(node.state().frames < 500, "batches are shared");
    soon(producer.close()).await.unwrap();
}

/// Goal: a batch whose acknowledgement is lost with the connection is stored once, and confirmed
/// with the offset of the first try; those behind it follow.
#[tokio::test]
async fn a_lost_acknowledgement_stores_nothing_twice() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let producer = node.client().await.producer().linger(Duration::ZERO).build().await.unwrap();
    node.script(|script| script.lose_acks = 3);
    let mut deliveries = Vec::new();
    for n in 0..200 {
        deliveries.push(soon(producer.send(numbered("t", n))).await.unwrap());
        tokio::task::yield_now().await;
    }
    let mut duplicates = 0;
    for (n, delivery) in deliveries.into_iter().enumerate() {
        let metadata = soon(delivery).await.unwrap();
        assert_eq!(metadata.offset, Offset(n as i64));
        duplicates += usize::from(metadata.duplicate);
    }
    assert!(duplicates > 0);
    assert_eq!(node.values(topic, 0), numbers(200));
    assert!(node.state().connected > 3);
}

/// Goal: a node that goes away and comes back is ridden through.
#[tokio::test]
async fn a_restart_is_ridden_through() {
    let mut node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let producer = node.client().await.producer().build().await.unwrap();
    soon(soon(producer.send(numbered("t", 0))).await.unwrap()).await.unwrap();
    node.pause().await;
    let mut deliveries = Vec::new();
    for n in 1..50 {
        deliveries.push(soon(producer.send(numbered("t", n))).await.unwrap());
    }
    node.resume().await;
    for delivery in deliveries {
        soon(delivery).await.unwrap();
    }
    assert_eq!(node.values(topic, 0), numbers(50));
}

/// Goal: a node that says "not now" is asked again, in order; one that says "never" fails that
/// batch alone.
#[tokio::test]
async fn refusals() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let producer = node.client().await.producer().build().await.unwrap();
    node.script(|script| {
        script.refuse.push_back((ErrorCode::Busy, Outcome::No));
        script.refuse.push_back((ErrorCode::DiskFull, Outcome::No));
    });
    let first = soon(producer.send(numbered("t", 0))).await.unwrap();
    assert_eq!(soon(first).await.unwrap().offset, Offset(0));
    node.script(|script| script.refuse.push_back((ErrorCode::InvalidBatch, Outcome::No)));
    let bad = soon(producer.send(numbered("t", 99))).await.unwrap();
    let error = soon(bad).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidBatch));
    assert_eq!(error.outcome(), Outcome::No);
    let next = soon(producer.send(numbered("t", 1))).await.unwrap();
    assert_eq!(soon(next).await.unwrap().offset, Offset(1));
    assert_eq!(node.values(topic, 0), numbers(2));
}

/// Goal: a record that is not confirmed in time fails, and says that it may have been stored; one
/// that never left says that it was not. The error names what went wrong.
#[tokio::test]
async fn deliveries_time_out() {
    let mut node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    let builder = client.producer().delivery_timeout(Duration::from_millis(300));
    let producer = builder.in_flight(1).build().await.unwrap();
    node.script(|script| script.hold_acks = true);
    let sent = soon(producer.send(numbered("t", 0))).await.unwrap();
    node.until(|state| state.frames == 1).await;
    let unsent = soon(producer.send(numbered("t", 1))).await.unwrap();
    let error = soon(sent).await.unwrap_err();
    assert!(matches!(error, DeliveryError::TimedOut { outcome: Outcome::Unknown, .. }), "{error}");
    let error = soon(unsent).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::No);
    node.pause().await;
    let unsent = soon(producer.send(numbered("t", 2))).await.unwrap();
    let failed = soon(producer.flush()).await.unwrap_err();
    assert_eq!(failed.failed, 1);
    let error = soon(unsent).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::No);
    assert!(matches!(error, DeliveryError::TimedOut { last: Some(_), .. }), "{error}");
}

/// Goal: the buffer's bound holds senders back until the node confirms, and `try_send` says so.
#[tokio::test]
async fn a_full_buffer_holds_senders_back() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let client = node.client().await;
    let producer = client.producer().buffer_bytes(64 << 10).build().await.unwrap();
    node.script(|script| script.hold_acks = true);
    let record = || ProducerRecord::new("t", vec![b'x'; 20 << 10]).with_partition(0);
    for _ in 0..3 {
        drop(soon(producer.send(record())).await.unwrap());
    }
    assert!(matches!(producer.try_send(record()), Err(SendError::BufferFull)));
    let waiting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.send(record()).await.unwrap().await }
    });
    node.until(|state| state.frames > 0).await;
    assert!(!waiting.is_finished());
    node.script(|script| script.hold_acks = false);
    soon(waiting).await.unwrap().unwrap();
    soon(producer.flush()).await.unwrap();
    assert_eq!(producer.buffer_available(), 64 << 10);
    assert_eq!(node.values(topic, 0).len(), 4);
}

/// Goal: records that cannot be sent are refused at once, with a reason.
#[tokio::test]
async fn bad_records_are_refused_at_once() {
    let node = Node::start().await;
    node.add_topic("t", 2);
    let producer = node.client().await.producer().build().await.unwrap();
    let unknown = soon(producer.send(ProducerRecord::new("u", "v"))).await;
    assert!(matches!(unknown, Err(SendError::UnknownTopic(name)) if name == "u"));
    let beyond = soon(producer.send(ProducerRecord::new("t", "v").with_partition(2))).await;
    assert!(matches!(beyond, Err(SendError::UnknownPartition { partitions: 2, .. })));
    let large = soon(producer.send(ProducerRecord::new("t", vec![0; 2 << 20]))).await;
    assert!(matches!(large, Err(SendError::TooLarge(_))), "{large:?}");
    let early = producer.try_send(ProducerRecord::new("v", "v"));
    assert!(matches!(early, Err(SendError::TopicNotLoaded(_))));
    let other = producer.clone();
    soon(producer.close()).await.unwrap();
    let late = soon(other.send(ProducerRecord::new("t", "v"))).await;
    assert!(matches!(late, Err(SendError::Closed)));
}

/// Goal: keys go where Kafka's Java client sends them, and records without keys to all
/// partitions by turns.
#[tokio::test]
async fn partitions() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 3);
    let producer = node.client().await.producer().build().await.unwrap();
    for key in ["21", "foobar", "abc"] {
        let record = ProducerRecord::new("t", "v").with_key(key);
        let metadata = soon(soon(producer.send(record)).await.unwrap()).await.unwrap();
        let expected = weir_core::partitioner::partition_for_key(key.as_bytes(), 3).0;
        assert_eq!(metadata.partition, expected);
    }
    let batch = soon(producer.send_batch("t", 1, |builder| {
        for n in 0..10_u8 {
            let value = [b'0' + n];
            let now = weir_core::TimestampMs(5);
            builder.push(now, None, Some(&value), weir_client::NO_HEADERS).unwrap();
        }
    }));
    let before = node.values(topic, 1).len() as i64;
    let metadata = soon(batch.await.unwrap()).await.unwrap();
    assert_eq!(metadata.offset, Offset(before));
    assert_eq!(metadata.timestamp.0, 5);
    assert_eq!(node.values(topic, 1).len() as i64, before + 10);
    let empty = soon(producer.send_batch("t", 1, |_| {})).await;
    assert!(matches!(empty, Err(SendError::EmptyBatch)));
    // Each waits for its turn to be over: the partition changes with time.
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 3 {
        let record = ProducerRecord::new("t", "v");
        let metadata = soon(soon(producer.send(record)).await.unwrap()).await.unwrap();
        seen.insert(metadata.partition);
        // sleep: the turn is over when its linger is, which is time
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Goal: dropping the producer sends what was accepted.
#[tokio::test]
async fn dropping_the_producer_sends_what_was_accepted() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let client = node.client().await;
    let builder = client.producer().linger(Duration::from_secs(3_600)).send_when_idle(false);
    let producer = builder.build().await.unwrap();
    let delivery = soon(producer.send(numbered("t", 0))).await.unwrap();
    drop(producer);
    soon(delivery).await.unwrap();
    assert_eq!(node.values(topic, 0), numbers(1));
}

/// Goal: a topic that was deleted and made anew is found again.
#[tokio::test]
async fn a_topic_made_anew_is_found_again() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let producer = node.client().await.producer().build().await.unwrap();
    soon(soon(producer.send(numbered("t", 0))).await.unwrap()).await.unwrap();
    let anew = {
        let mut state = node.state();
        state.topics[0].id = weir_core::TopicId(77);
        state.topics[0].id
    };
    let error = soon(soon(producer.send(numbered("t", 0))).await.unwrap()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic));
    soon(soon(producer.send(numbered("t", 0))).await.unwrap()).await.unwrap();
    assert_eq!(node.values(anew, 0), numbers(1));
}
