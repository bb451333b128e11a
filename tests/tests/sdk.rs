//! The client SDK against a real broker over real QUIC, through restarts of the broker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use weir_broker::{Broker, BrokerConfig};
use weir_client::{
    Client, ClientConfig, Compression, Consumer, Offset, ProducerRecord, StartAt, TlsConfig,
    TopicConfig,
};

const PARTITIONS: u32 = 3;

/// Nothing here takes long; a test that hangs fails instead.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), what).await.expect("it hangs")
}

async fn start(dir: &Path, listen: SocketAddr) -> Broker {
    let mut config = BrokerConfig::new(dir);
    config.listen = listen;
    soon(async {
        loop {
            // The port of the broker before this one is free once that has let go of it.
            match Broker::start(config.clone()).await {
                Ok(broker) => return broker,
                Err(error) if error.to_string().contains("in use") => {
                    // sleep: nothing tells when the system has let go of a port
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

async fn broker() -> (TempDir, Broker) {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), "127.0.0.1:0".parse().unwrap()).await;
    (dir, broker)
}

async fn client(dir: &Path, address: SocketAddr) -> Client {
    let tls = TlsConfig::from_ca_file(dir.join("tls/ca.pem"));
    soon(Client::connect(ClientConfig::new(address.to_string(), tls))).await.unwrap()
}

/// The numbers in all records of all partitions, in order per partition.
async fn take(consumer: &mut Consumer, count: usize) -> HashMap<u32, Vec<u64>> {
    let mut found: HashMap<u32, Vec<u64>> = HashMap::new();
    let mut records = 0;
    while records < count {
        let batch = soon(consumer.next_batch()).await.unwrap().expect("more");
        let numbers = found.entry(batch.partition()).or_default();
        for record in batch.records() {
            let number = record.value.unwrap().try_into().map(u64::from_le_bytes).unwrap();
            numbers.push(number);
        }
        records += batch.len();
    }
    found
}

/// Goal: with a broker that restarts again and again while records are produced and consumed,
/// every record is confirmed, stored once, in order, and consumed once.
#[tokio::test]
async fn restarts_lose_nothing_and_double_nothing() {
    const RECORDS: u64 = 20_000;
    const RESTARTS: usize = 4;
    let (dir, mut broker) = broker().await;
    let address = broker.local_addr();
    let client = client(dir.path(), address).await;
    let config = TopicConfig { partitions: PARTITIONS, ..TopicConfig::default() };
    soon(client.admin().create_topic("t", config)).await.unwrap();
    let mut consumer = client.consumer().build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let producer = soon(client.producer().batch_bytes(4 << 10).build()).await.unwrap();

    let producing = tokio::spawn(async move {
        let topic: Arc<str> = "t".into();
        let mut deliveries = Vec::new();
        for n in 0..RECORDS {
            let record = ProducerRecord::new(topic.clone(), n.to_le_bytes().to_vec());
            let record = record.with_partition((n % u64::from(PARTITIONS)) as u32);
            deliveries.push((n, soon(producer.send(record)).await.unwrap()));
            if n % 50 == 0 {
                // sleep: spreads the records over the restarts; any spread must pass
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let mut offsets = HashMap::new();
        for (n, delivery) in deliveries {
            let at = soon(delivery).await.unwrap();
            offsets.insert((at.partition, at.offset), n);
        }
        soon(producer.close()).await.unwrap();
        offsets
    });
    let consuming = tokio::spawn(async move { take(&mut consumer, RECORDS as usize).await });
    for _ in 0..RESTARTS {
        // sleep: lets work go on between restarts; any amount of it must pass
        tokio::time::sleep(Duration::from_millis(150)).await;
        soon(broker.stop()).await;
        broker = start(dir.path(), address).await;
    }
    let offsets = soon(producing).await.unwrap();
    let consumed = soon(consuming).await.unwrap();
    assert_eq!(offsets.len() as u64, RECORDS, "no two records have the same offset");
    for partition in 0..PARTITIONS {
        let expected = (0..RECORDS).filter(|n| n % u64::from(PARTITIONS) == u64::from(partition));
        assert!(consumed[&partition].iter().copied().eq(expected), "partition {partition}");
        for (offset, n) in consumed[&partition].iter().enumerate() {
            assert_eq!(offsets.get(&(partition, Offset(offset as i64))), Some(n));
        }
    }
    soon(client.close()).await;
    soon(broker.stop()).await;
}

/// Goal: every compression, headers, keys, seeking by time and groups work against a real broker.
#[tokio::test]
async fn round_trip() {
    let (dir, broker) = broker().await;
    let client = client(dir.path(), broker.local_addr()).await;
    let admin = client.admin();
    soon(admin.create_topic("t", TopicConfig::default())).await.unwrap();
    let ways = [Compression::None, Compression::Lz4, Compression::Zstd];
    for (n, compression) in (0..).zip(ways) {
        let producer = soon(client.producer().compression(compression).build()).await.unwrap();
        for m in 0..100_i64 {
            let record = ProducerRecord::new("t", format!("value {n} {m}").into_bytes())
                .with_key(format!("key {m}"))
                .with_header("way", compression.to_string())
                .with_timestamp(n * 1_000 + m);
            drop(soon(producer.send(record)).await.unwrap());
        }
        soon(producer.close()).await.unwrap();
    }
    let mut consumer = client.consumer().group("g").auto_commit(None).until_end(true).build();
    soon(consumer.assign(&[("t", 0, StartAt::Time(weir_client::TimestampMs(1_050)))]))
        .await
        .unwrap();
    let first = soon(consumer.next()).await.unwrap().unwrap();
    assert_eq!((first.offset, first.timestamp.0), (Offset(150), 1_050));
    assert_eq!(first.value.as_deref(), Some(&b"value 1 50"[..]));
    assert_eq!(first.key.as_deref(), Some(&b"key 50"[..]));
    assert_eq!((first.headers[0].name.as_str(), first.headers.len()), ("way", 1));
    soon(consumer.commit()).await.unwrap();
    let mut left = 0;
    while let Some(batch) = soon(consumer.next_batch()).await.unwrap() {
        left += batch.len();
    }
    assert_eq!(left, 149);
    soon(consumer.close()).await.unwrap();
    assert_eq!(soon(admin.group("g")).await.unwrap()[0].offset, Offset(151));
    let mut consumer = client.consumer().group("g").until_end(true).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    assert_eq!(soon(consumer.next()).await.unwrap().unwrap().offset, Offset(151));
    let resolved = soon(admin.offsets("t", &[(0, StartAt::Latest)])).await.unwrap();
    assert_eq!(resolved[0].high_watermark, Offset(300));
    soon(client.close()).await;
    soon(broker.stop()).await;
}

/// Goal: 1,000 subscriptions that nobody reads hold up neither a commit nor a producer.
#[tokio::test]
async fn unread_subscriptions_hold_nothing_up() {
    const MANY: u32 = 1_000;
    let (dir, broker) = broker().await;
    let client = client(dir.path(), broker.local_addr()).await;
    let config = TopicConfig { partitions: MANY, ..TopicConfig::default() };
    soon(client.admin().create_topic("t", config)).await.unwrap();
    let producer = soon(client.producer().build()).await.unwrap();
    let value = bytes::Bytes::from(vec![b'x'; 50_000]);
    for partition in 0..MANY {
        let record = ProducerRecord::new("t", value.clone()).with_partition(partition);
        drop(soon(producer.send(record)).await.unwrap());
    }
    soon(producer.flush()).await.unwrap();
    let mut consumer = client.consumer().group("g").prefetch_bytes(1 << 20).build();
    soon(consumer.assign_topics(&["t"])).await.unwrap();
    let first = soon(consumer.next_batch()).await.unwrap().unwrap();
    soon(consumer.commit()).await.unwrap();
    let record = ProducerRecord::new("t", "late").with_partition(first.partition());
    soon(soon(producer.send(record)).await.unwrap()).await.unwrap();
    // Read after all, everything is there.
    let mut records = first.len();
    while records < MANY as usize + 1 {
        records += soon(consumer.next_batch()).await.unwrap().unwrap().len();
    }
    soon(consumer.close()).await.unwrap();
    soon(client.close()).await;
    soon(broker.stop()).await;
}
