//! Prints all records of a topic, from the beginning to the end as it is now.
//!
//! ```text
//! WEIR_CA=data/tls/ca.pem cargo run -p weir-client --example consume -- TOPIC
//! ```

use std::error::Error;
use std::io::Write;

use weir_client::{Client, ClientConfig, TlsConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let topic = std::env::args().nth(1).unwrap_or("lines".into());
    let server = std::env::var("WEIR_SERVER").unwrap_or("localhost".into());
    let ca = std::env::var("WEIR_CA").unwrap_or("data/tls/ca.pem".into());

    let client = Client::connect(ClientConfig::new(server, TlsConfig::from_ca_file(ca))).await?;
    let mut consumer = client.consumer().until_end(true).build();
    consumer.assign_topics(&[&topic]).await?;

    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // By batches: nothing is copied or allocated per record.
    while let Some(batch) = consumer.next_batch().await? {
        for record in batch.records() {
            out.write_all(record.value.unwrap_or_default())?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    consumer.close().await?;
    client.close().await;
    Ok(())
}
