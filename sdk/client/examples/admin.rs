//! Makes a topic, changes it, looks at the node and its groups, and deletes the topic again.
//!
//! ```text
//! WEIR_CA=data/tls/ca.pem cargo run -p weir-client --example admin
//! ```

use std::error::Error;

use weir_client::{Client, ClientConfig, ErrorCode, StartAt, TlsConfig, TopicChange, TopicConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::var("WEIR_SERVER").unwrap_or("localhost".into());
    let ca = std::env::var("WEIR_CA").unwrap_or("data/tls/ca.pem".into());
    let client = Client::connect(ClientConfig::new(server, TlsConfig::from_ca_file(ca))).await?;
    let admin = client.admin();
    println!("node {} of cluster {}", client.server_info().node, client.server_info().cluster);

    let config = TopicConfig { partitions: 2, ..TopicConfig::default() };
    match admin.create_topic("admin-example", config).await {
        Ok(topic) => println!("made {} with id {}", topic.name, topic.id),
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => println!("it exists"),
        Err(error) => return Err(error.into()),
    }
    let change = TopicChange { partitions: Some(4), ..TopicChange::default() };
    let topic = admin.alter_topic("admin-example", change).await?;
    println!("it has {} partitions now", topic.config.partitions);
    for at in admin.offsets("admin-example", &[(0, StartAt::Latest), (3, StartAt::Latest)]).await? {
        println!("partition {}: {} to {}", at.partition, at.log_start, at.high_watermark);
    }
    let status = admin.status().await?;
    println!("{} partitions, {} MiB resident", status.partitions.len(), status.rss_bytes >> 20);
    for group in admin.groups().await? {
        println!("group {}: {} positions", group.name, group.positions);
    }
    admin.delete_topic("admin-example").await?;
    client.close().await;
    Ok(())
}
