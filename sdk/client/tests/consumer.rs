//! The consumer against a node that does wrong on purpose.

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use support::{Node, soon};
use weir_client::{
    AssignError, Client, ConsumeError, Consumer, ErrorCode, ProducerRecord, ResetPolicy, StartAt,
};
use weir_core::{Offset, PartitionIndex, TopicId};

/// Fills a partition with records "0" to `count - 1`, `per_batch` to a batch.
async fn fill(client: &Client, topic: &str, partition: u32, from: usize, count: usize) {
    let producer = client.producer().build().await.unwrap();
    for n in from..from + count {
        let record = ProducerRecord::new(topic, n.to_string().into_bytes());
        let record = record.with_partition(partition).with_timestamp(n as i64);
        drop(soon(producer.send(record)).await.unwrap());
        if n % 7 == 6 {
            soon(producer.flush()).await.unwrap();
        }
    }
    soon(producer.close()).await.unwrap();
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let record = soon(consumer.next()).await.unwrap().expect("more");
        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    values
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Goal: all records come once, in order, by batches and by records, up to the end, from any
/// offset, also one in the middle of a batch.
#[tokio::test]
async fn from_anywhere_to_the_end() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 100).await;
    for start in [0, 1, 3, 50, 99, 100] {
        let mut consumer = client.consumer().until_end(true).build();
        let at = StartAt::Offset(Offset(start as i64));
        soon(consumer.assign(&[("t", 0, at)])).await.unwrap();
        let mut values = Vec::new();
        let mut offset = start as i64;
        while let Some(batch) = soon(consumer.next_batch()).await.unwrap() {
            assert_eq!(batch.first_offset(), Offset(offset));
            assert_eq!(batch.len(), batch.records().len());
            for record in batch.records() {
                assert_eq!((record.offset.0, record.timestamp.0), (offset, offset));
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                offset += 1;
            }
        }
        assert_eq!(values, numbers(start..100));
        assert_eq!(consumer.position("t", 0), Some(Offset(100)));
        assert!(soon(consumer.next()).await.unwrap().is_none());
    }
    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let records: Vec<_> = soon(consumer.records().map(Result::unwrap).collect()).await;
    let offsets = records.iter().map(|record| record.offset.0);
    assert!(offsets.eq(0..100));
}

/// Goal: records and batches may be asked for in turn; nothing is lost or repeated between them.
#[tokio::test]
async fn records_and_batches_in_turn() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 50).await;
    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let mut values = take(&mut consumer, 3).await;
    assert_eq!(consumer.position("t", 0), Some(Offset(3)));
    while let Some(batch) = soon(consumer.next_batch()).await.unwrap() {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        values.extend(batch.records().map(|record| text(record.value.unwrap())));
        if let Some(record) = soon(consumer.next()).await.unwrap() {
            values.push(text(&record.value.unwrap()));
        }
    }
    assert_eq!(values, numbers(0..50));
}

/// Goal: a consumer that waits gets what is produced, through broken connections and a restart,
/// each record once.
#[tokio::test]
async fn live_through_broken_connections_and_a_restart() {
    let mut node = Node::start().await;
    node.add_topic("t", 2);
    let client = node.client().await;
    let mut consumer = client.consumer().build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    node.script(|script| script.break_after_frames = Some(2));
    fill(&client, "t", 0, 0, 40).await;
    assert_eq!(take(&mut consumer, 40).await, numbers(0..40));
    node.break_connections();
    fill(&client, "t", 1, 0, 10).await;
    assert_eq!(take(&mut consumer, 10).await, numbers(0..10));
    node.pause().await;
    node.resume().await;
    fill(&client, "t", 0, 40, 10).await;
    assert_eq!(take(&mut consumer, 10).await, numbers(40..50));
    let lag = consumer.lag();
    assert_eq!(lag.len(), 2);
    assert!(lag.iter().all(|partition| partition.lag() == 0), "{lag:?}");
}

/// Goal: the future may be dropped at any time without a record being lost.
#[tokio::test]
async fn waiting_may_be_cancelled() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    let mut consumer = client.consumer().build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let filling = tokio::spawn(async move { fill(&client, "t", 0, 0, 200).await });
    let mut values = Vec::new();
    while values.len() < 200 {
        tokio::select! {
            biased;
            record = consumer.next() => {
                let value = record.unwrap().unwrap().value.unwrap();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(values, numbers(0..200));
    filling.await.unwrap();
}

/// Goal: a group goes on where it stopped; what was handed out but not followed by another call
/// is stored by an explicit commit and by close, not by itself.
#[tokio::test]
async fn groups_go_on_where_they_stopped() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 50).await;
    let stored = |node: &Node| {
        let state = node.state();
        let group = state.groups.get("g")?;
        group.get(&(topic, PartitionIndex(0))).copied()
    };
    let every = Duration::from_millis(10);
    let mut consumer = client.consumer().group("g").auto_commit(Some(every)).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    assert_eq!(take(&mut consumer, 11).await, numbers(0..11));
    node.until(|state| state.groups.contains_key("g")).await;
    assert_eq!(stored(&node), Some(Offset(10)), "the application may still be at the last one");
    soon(consumer.commit()).await.unwrap();
    assert_eq!(stored(&node), Some(Offset(11)));
    assert_eq!(take(&mut consumer, 5).await, numbers(11..16));
    soon(consumer.close()).await.unwrap();
    assert_eq!(stored(&node), Some(Offset(16)));
    let mut consumer = client.consumer().group("g").auto_commit(None).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    assert_eq!(take(&mut consumer, 4).await, numbers(16..20));
    soon(consumer.commit_offsets(&[("t", 0, Offset(18))])).await.unwrap();
    assert_eq!(stored(&node), Some(Offset(18)));
    drop(consumer);
    let admin = client.admin();
    assert_eq!(soon(admin.group("g")).await.unwrap()[0].offset, Offset(18));
    let reset = soon(admin.reset_group_to("g", "t", &[(0, StartAt::Earliest)])).await.unwrap();
    assert_eq!(reset[0].offset, Offset(0));
    soon(admin.delete_group("g")).await.unwrap();
    assert_eq!(soon(admin.groups()).await.unwrap(), []);
}

/// Goal: a position that is gone is reset as the policy says, and said so; or is an error that
/// names the range, after which a seek goes on.
#[tokio::test]
async fn positions_that_are_gone() {
    let node = Node::start().await;
    let topic = node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 70).await;
    node.trim(topic, 0, 35);
    let at = |offset| [("t", 0, StartAt::Offset(Offset(offset)))];

    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign(&at(3))).await.unwrap();
    assert_eq!(take(&mut consumer, 35).await, numbers(35..70));
    let resets = consumer.take_resets();
    assert_eq!((resets[0].from, resets[0].to), (Offset(3), Offset(35)));

    let mut consumer = client.consumer().reset(ResetPolicy::Latest).until_end(true).build();
    soon(consumer.assign(&at(3))).await.unwrap();
    assert!(soon(consumer.next()).await.unwrap().is_none());
    assert_eq!(consumer.take_resets()[0].to, Offset(70));

    let mut consumer = client.consumer().reset(ResetPolicy::Fail).build();
    soon(consumer.assign(&at(999))).await.unwrap();
    let error = soon(consumer.next()).await.unwrap_err();
    let ConsumeError::OutOfRange { asked, log_start, log_end, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((asked, log_start, log_end), (Offset(999), Offset(35), Offset(70)));
    assert!(soon(consumer.next()).await.unwrap().is_none(), "nothing is left to wait for");
    consumer.seek("t", 0, StartAt::Offset(log_start)).unwrap();
    assert_eq!(take(&mut consumer, 35).await, numbers(35..70));
    let missing = soon(consumer.assign_topics(&["t"])).await;
    assert!(matches!(missing, Err(AssignError::NoPosition { .. })));
}

/// Goal: damage is an error that says where to go on; or is skipped, if that was asked for.
#[tokio::test]
async fn damage() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 70).await;
    node.script(|script| script.damage = Some((Offset(21), Offset(35))));
    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    assert_eq!(take(&mut consumer, 21).await, numbers(0..21));
    let error = soon(consumer.next()).await.unwrap_err();
    let ConsumeError::Corrupt { at, resume_at: Some(resume_at), .. } = error else {
        panic!("{error}");
    };
    assert_eq!((at, resume_at), (Offset(21), Offset(35)));
    consumer.seek("t", 0, StartAt::Offset(resume_at)).unwrap();
    assert_eq!(take(&mut consumer, 35).await, numbers(35..70));

    let mut consumer = client.consumer().until_end(true).skip_damage(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let mut values = Vec::new();
    while let Some(record) = soon(consumer.next()).await.unwrap() {
        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    assert_eq!(values, [numbers(0..21), numbers(35..70)].concat());
    assert_eq!(consumer.take_resets().len(), 1);
}

/// Goal: bytes that are no batch are an error, never a panic, and nothing of them is handed out.
#[tokio::test]
async fn garbage() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    fill(&client, "t", 0, 0, 7).await;
    node.script(|script| script.garbage = true);
    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let mut seen = 0;
    let error = loop {
        match soon(consumer.next_batch()).await {
            Ok(Some(batch)) => seen += batch.len(),
            Ok(None) => panic!("the garbage was overlooked"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConsumeError::InvalidBatch { .. }), "{error}");
    assert_eq!(error.code(), Some(ErrorCode::InvalidBatch));
    assert!(seen > 0);
}

/// Goal: partitions that are added to a topic are read from their beginning.
#[tokio::test]
async fn topics_may_grow() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    let refresh = Duration::from_millis(20);
    let mut consumer = client.consumer().metadata_refresh(refresh).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    node.state().topics[0].config.partitions = 3;
    let fresh = node.client().await;
    fill(&fresh, "t", 2, 0, 5).await;
    assert_eq!(take(&mut consumer, 5).await, numbers(0..5));
    assert_eq!(consumer.assignment().count(), 3);
}

/// Goal: what cannot be assigned is refused with a reason, and a refused partition is an error of
/// its own that names it.
#[tokio::test]
async fn partitions_that_are_not_there() {
    let node = Node::start().await;
    node.add_topic("t", 1);
    let client = node.client().await;
    let mut consumer = client.consumer().build();
    let unknown = soon(consumer.assign_topics(&["u"])).await;
    assert!(matches!(unknown, Err(AssignError::UnknownTopic(name)) if name == "u"));
    let beyond = soon(consumer.assign(&[("t", 1, StartAt::Earliest)])).await;
    assert!(matches!(beyond, Err(AssignError::UnknownPartition { partitions: 1, .. })));
    assert!(consumer.seek("t", 0, StartAt::Earliest).is_err());
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    node.state().topics[0].id = TopicId(9);
    node.break_connections();
    let error = soon(consumer.next()).await.unwrap_err();
    assert_eq!(error.partition(), Some(("t", 0)));
    assert_eq!(error.code(), Some(ErrorCode::UnknownPartition));
}

/// Goal: a consumer that is not read holds up neither commits nor producers, however many
/// subscriptions it has, and a bounded amount of memory.
#[tokio::test]
async fn unread_subscriptions_hold_nothing_up() {
    let node = Node::start().await;
    node.add_topic("t", 64);
    let client = node.client().await;
    let producer = client.producer().build().await.unwrap();
    for partition in 0..64 {
        for _ in 0..4 {
            let record = ProducerRecord::new("t", vec![b'x'; 100_000]).with_partition(partition);
            drop(soon(producer.send(record)).await.unwrap());
        }
    }
    soon(producer.flush()).await.unwrap();
    let mut consumer =
        client.consumer().group("g").prefetch_bytes(256 << 10).until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let first = soon(consumer.next_batch()).await.unwrap().unwrap();
    let at = [("t", first.partition(), first.end_offset())];
    soon(consumer.commit_offsets(&at)).await.unwrap();
    let late = ProducerRecord::new("t", "late").with_partition(0);
    soon(soon(producer.send(late)).await.unwrap()).await.unwrap();
    let mut records = first.len();
    while let Some(batch) = soon(consumer.next_batch()).await.unwrap() {
        records += batch.len();
    }
    assert!(records >= 64 * 4, "{records}");
}
