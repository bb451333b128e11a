//! A real node, killed with SIGKILL again and again under producers and a consumer of the SDK.
//!
//! Goal: [`History`]'s. Method: kills are paced by progress, not by time: the next one comes a
//! seeded number of confirmations after the last, so it falls anywhere in a commit. `WEIR_KILLS`
//! sets how many.

use anyhow::{Context, Result};
use weir_client::TopicConfig;
use weir_tests::history::History;
use weir_tests::node_process::NodeProcess;

const TOPIC: &str = "kill";
const PARTITIONS: u32 = 3;
const PRODUCERS: usize = 3;
const KILLS_DEFAULT: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_or_doubled() -> Result<()> {
    let kills = match std::env::var("WEIR_KILLS") {
        Ok(kills) => kills.parse().context("WEIR_KILLS")?,
        Err(_) => KILLS_DEFAULT,
    };
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    let client = node.client().await?;
    let config = TopicConfig { partitions: PARTITIONS, ..TopicConfig::default() };
    client.admin().create_topic(TOPIC, config).await?;
    let mut history = History::start(TOPIC, PARTITIONS, &vec![client.clone(); PRODUCERS], &client);
    let mut pace = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        pace ^= pace << 13;
        pace ^= pace >> 7;
        pace ^= pace << 17;
        history.wait_for_more(20 + pace % 2_000).await.with_context(|| format!("kill {kill}"))?;
        node.kill()?;
        node.start_again()?;
    }
    let stored = history.finish(&client).await?;
    println!("{stored} records through {kills} kills");
    client.close().await;
    Ok(())
}
