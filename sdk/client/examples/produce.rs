//! Sends lines from standard input to a topic, one record per line, and says where they went.
//!
//! ```text
//! WEIR_CA=data/tls/ca.pem cargo run -p weir-client --example produce -- TOPIC < FILE
//! ```

use std::collections::VecDeque;
use std::error::Error;

use weir_client::{Client, ClientConfig, ProducerRecord, TlsConfig, TopicConfig};

/// Deliveries that are looked at later than others; their batches are on their way meanwhile.
const DELIVERIES_AHEAD: usize = 10_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let topic: std::sync::Arc<str> = std::env::args().nth(1).unwrap_or("lines".into()).into();
    let server = std::env::var("WEIR_SERVER").unwrap_or("localhost".into());
    let ca = std::env::var("WEIR_CA").unwrap_or("data/tls/ca.pem".into());

    let client = Client::connect(ClientConfig::new(server, TlsConfig::from_ca_file(ca))).await?;
    client.admin().ensure_topic(&topic, TopicConfig::default()).await?;
    let producer = client.producer().build().await?;

    let mut deliveries = VecDeque::new();
    for line in std::io::stdin().lines() {
        // Waits while the buffer is full; the record is stored once its delivery says so.
        deliveries.push_back(producer.send(ProducerRecord::new(topic.clone(), line?)).await?);
        if deliveries.len() > DELIVERIES_AHEAD
            && let Some(oldest) = deliveries.pop_front()
        {
            oldest.await?;
        }
    }
    producer.flush().await?;
    let mut last = None;
    for delivery in deliveries {
        last = Some(delivery.await?);
    }
    match last {
        Some(at) => println!("the last line is {}/{} offset {}", at.topic, at.partition, at.offset),
        None => println!("there were no lines"),
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}
