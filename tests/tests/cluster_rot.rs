//! Three real nodes, of which disks change what was written.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weir_client::{Client, Compression, ProducerRecord, StartAt, TopicConfig};
use weir_core::wire::cluster::ClusterStatus;
use weir_tests::node_process::NodeProcess;
use weir_tests::site::Site;

const TOPIC: &str = "pictures";
/// Three files of the least size, of which two are sealed: the older of these can be mended.
const RECORDS: usize = 180;
const RECORD_BYTES: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn name(number: usize) -> String {
    format!("picture-{number:04}:")
}

/// What a record holds: its name, then noise that no other has.
fn value(number: usize) -> Vec<u8> {
    let mut value = name(number).into_bytes();
    let mut noise = fastrand::Rng::with_seed(number as u64);
    value.resize_with(RECORD_BYTES, || noise.u8(..));
    value
}

fn whole(status: &ClusterStatus) -> bool {
    status.partitions.iter().any(|row| row.topic == TOPIC && row.insync.len() == 3)
}

/// Reads the copy of the node that is asked, to the end or the first damage.
async fn read_copy(client: &Client) -> Result<Vec<Vec<u8>>> {
    let mut consumer = client.consumer().nearest(true).until_end(true).build();
    consumer.assign(&[(TOPIC, 0, StartAt::Earliest)]).await?;
    let mut all = Vec::new();
    while let Some(batch) = consumer.next_batch().await? {
        all.extend(batch.records().map(|record| record.value.unwrap_or_default().to_vec()));
    }
    Ok(all)
}

/// Has a node's oldest log file lie about some records.
fn rot(node: &NodeProcess, records: &[usize]) -> Result<PathBuf> {
    let dir = node.data_dir().join("log/shard-0");
    let names = std::fs::read_dir(&dir)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = names.collect::<Result<_>>()?;
    files.retain(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("00")));
    files.sort();
    ensure!(files.len() >= 3, "{files:?}");
    let mut bytes = std::fs::read(&files[0])?;
    for &number in records {
        let name = name(number);
        let at = bytes.windows(name.len()).position(|window| window == name.as_bytes());
        bytes[at.context("no such record in the oldest file")? + 1_000] ^= 0x40;
    }
    std::fs::write(&files[0], bytes)?;
    Ok(files.remove(0))
}

async fn read_until_whole(client: &Client, dir: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        match read_copy(client).await {
            Ok(all) => {
                ensure!(all.len() == RECORDS, "{} records in {}", all.len(), dir.display());
                for (number, read) in all.iter().enumerate() {
                    ensure!(*read == value(number), "record {number} is another");
                }
                return Ok(());
            }
            // Damage is told, and never served.
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("damaged"), "{said}");
                ensure!(began.elapsed() < PATIENCE, "not mended: {said}");
            }
        }
        // sleep: between two looks
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Goal: a copy with rotten records never serves them, and gets them again from another node,
/// whether its own node leads or follows; afterwards the file is as good as any, also at the next
/// start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotten_records_are_fetched_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let settings = [("WEIR_STORAGE_FILE_SIZE", "16MiB"), ("WEIR_STORAGE_SHARDS", "1")];
    let mut site = Site::start_set(dir.path(), 3, &settings).await?;
    let client = site.client(&[0, 1, 2]).await?;
    let config = TopicConfig { replicas: 3, min_insync: 2, ..TopicConfig::default() };
    client.admin().create_topic(TOPIC, config).await?;
    let producer = client.producer().compression(Compression::None).build().await?;
    for number in 0..RECORDS {
        producer.send(ProducerRecord::new(TOPIC, value(number))).await?.await?;
    }
    producer.close().await?;
    site.wait(0, whole).await?;
    let leader = site.leader(0, TOPIC, 0).await?;
    for damaged in [leader, (leader + 1) % 3] {
        site.nodes[damaged].stop()?;
        let file = rot(&site.nodes[damaged], &[3, 4, 17])?;
        site.nodes[damaged].start_again()?;
        site.wait((damaged + 1) % 3, whole).await?;
        let reading = site.client(&[damaged]).await?;
        ensure!(read_copy(&reading).await.is_err(), "the rot was not met");
        read_until_whole(&reading, &file).await?;
        reading.close().await;
        ensure!(!file.exists(), "the old file is still there");
        site.nodes[damaged].stop()?;
        site.nodes[damaged].start_again()?;
        site.wait((damaged + 1) % 3, whole).await?;
        let reading = site.client(&[damaged]).await?;
        read_until_whole(&reading, &file).await?;
        reading.close().await;
    }
    client.close().await;
    Ok(())
}
