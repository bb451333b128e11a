//! Works on records as they come, as a member of a group: started several times, the processes
//! share the partitions; started again, it goes on where it stopped.
//!
//! Positions are stored by hand, after the work on a batch is done. So a crash in the middle of
//! the work repeats that batch and loses nothing.
//!
//! ```text
//! WEIR_CA=data/tls/ca.pem cargo run -p weir-client --example group -- TOPIC GROUP
//! ```

use std::error::Error;

use weir_client::{Batch, Client, ClientConfig, CommitError, ConsumeError, TlsConfig};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let topic = std::env::args().nth(1).unwrap_or("lines".into());
    let group = std::env::args().nth(2).unwrap_or("example".into());
    let server = std::env::var("WEIR_SERVER").unwrap_or("localhost".into());
    let ca = std::env::var("WEIR_CA").unwrap_or("data/tls/ca.pem".into());

    let client = Client::connect(ClientConfig::new(server, TlsConfig::from_ca_file(ca))).await?;
    let member = client.consumer().group(group).auto_commit(None);
    let mut consumer = member.subscribe(&[&topic]).await?;
    let mut assigned = consumer.watch_assignment();
    loop {
        // Both may be cancelled, so they may stand in a `select!`.
        let batch = tokio::select! {
            batch = consumer.next_batch() => batch,
            _ = assigned.changed() => {
                let mine = &assigned.borrow_and_update().partitions;
                eprintln!("this member has {} partitions", mine.len());
                continue;
            }
            _ = tokio::signal::ctrl_c() => break,
        };
        match batch {
            Ok(Some(batch)) => {
                work(&batch);
                match consumer.commit().await {
                    // It was too slow: another member does this again.
                    Err(CommitError::NotOwner { partitions }) => eprintln!("{partitions} are gone"),
                    stored => stored?,
                }
            }
            Ok(None) => break,
            // The log is damaged here: go on behind that.
            Err(ConsumeError::Corrupt {
                topic, partition, resume_at: Some(at), message, ..
            }) => {
                eprintln!("{topic}/{partition}: {message}; going on at {at}");
                consumer.seek(&topic, partition, weir_client::StartAt::Offset(at))?;
            }
            Err(error) => return Err(error.into()),
        }
        for reset in consumer.take_resets() {
            eprintln!(
                "{}/{}: {} to {} is gone",
                reset.topic, reset.partition, reset.from, reset.to
            );
        }
    }
    consumer.close().await?;
    client.close().await;
    Ok(())
}

fn work(batch: &Batch) {
    let bytes: usize = batch.records().map(|record| record.value.map_or(0, <[u8]>::len)).sum();
    println!(
        "{}/{}: {} records with {bytes} bytes, up to offset {}; {} behind",
        batch.topic(),
        batch.partition(),
        batch.len(),
        batch.end_offset(),
        batch.high_watermark().since(batch.end_offset()),
    );
}
