//! Members of a consumer group of three real nodes, of which the one that coordinates the group is
//! killed under them.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use weir_client::{Client, TopicConfig};
use weir_core::wire::cluster::ClusterStatus;
use weir_tests::members::{Again, Feed, Sights, Worker};
use weir_tests::site::Site;

const TOPIC: &str = "readings";
const GROUP: &str = "dashboard";
const PARTITIONS: u32 = 6;
const KILLS_DEFAULT: u32 = 3;

/// Whether every copy of everything is in sync.
fn whole(status: &ClusterStatus) -> bool {
    let mut rows = status.partitions.iter();
    status.partitions.len() == PARTITIONS as usize + 1
        && rows.all(|row| row.leader.is_some() && row.insync.len() == 3)
}

/// Looks at the group's positions all the time; fails if one goes back.
fn watch_positions(client: Client, stop: Arc<AtomicBool>) -> JoinHandle<Result<u32>> {
    tokio::spawn(async move {
        let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
        let mut looks = 0;
        while !stop.load(Ordering::Relaxed) {
            let stored = client.admin().group(GROUP).await?;
            for position in stored {
                let (partition, offset) = (position.partition.0, position.offset.0);
                let before = newest.insert(partition, offset).unwrap_or(0);
                ensure!(before <= offset, "partition {partition} went from {before} to {offset}");
            }
            looks += 1;
            // sleep: between looks at other processes
            sleep(Duration::from_millis(50)).await;
        }
        Ok(looks)
    })
}

/// Goal: the group goes on when its coordinator dies: members stay members, nothing is left out,
/// nothing is seen out of order, and no position goes back. Method: the node that leads the groups
/// partition is killed, again and again; each time the members must get on before it comes back.
/// `WEIR_KILLS` sets how often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_outlives_its_coordinator() -> Result<()> {
    let kills = match std::env::var("WEIR_KILLS") {
        Ok(kills) => kills.parse().context("WEIR_KILLS")?,
        Err(_) => KILLS_DEFAULT,
    };
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let client = site.client(&[0, 1, 2]).await?;
    let config = TopicConfig {
        partitions: PARTITIONS,
        replicas: 3,
        min_insync: 2,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await?;
    site.wait(0, whole).await?;
    let stop = Arc::<AtomicBool>::default();
    let watching = watch_positions(site.client(&[2, 0, 1]).await?, stop.clone());
    let feed = Feed::start(&client, TOPIC, PARTITIONS);
    let sights = Arc::<Sights>::default();
    let mut workers = Vec::new();
    for number in 0..2 {
        // By way of different nodes, so that one at least is forwarded.
        let member = site.client(&[number, (number + 1) % 3, (number + 2) % 3]).await?;
        let builder = member.consumer().group(GROUP).session_timeout(Duration::from_secs(10));
        let builder = builder.auto_commit(Some(Duration::from_millis(200)));
        workers.push(Worker::start(builder, TOPIC, number as u32, &sights).await?);
    }
    for worker in &mut workers {
        worker.wait_for(3).await?;
    }
    for _ in 0..kills {
        let before = positions(&client).await?;
        let leader = site.leader(0, "__groups", 0).await?;
        site.nodes[leader].kill()?;
        // The others have to get on without it: every position moves.
        loop {
            let now = positions(&client).await?;
            let moved = |(partition, at): (&u32, &i64)| now.get(partition).is_some_and(|n| n > at);
            if now.len() == PARTITIONS as usize && before.iter().all(moved) {
                break;
            }
            // sleep: between looks at other processes; the test's own limit bounds it
            sleep(Duration::from_millis(50)).await;
        }
        site.nodes[leader].start_again()?;
        site.wait(leader, whole).await?;
    }
    let ends = feed.stop().await?;
    sights.wait_for(&ends).await?;
    for worker in workers {
        ensure!(worker.partitions().len() == 3, "members have lost partitions");
        worker.close().await?;
    }
    stop.store(true, Ordering::Relaxed);
    ensure!(watching.await?? > kills, "nobody looked at positions");
    for (partition, position) in positions(&client).await? {
        ensure!(position == ends[&partition], "{partition}: {position} of {}", ends[&partition]);
    }
    sights.check(Again::AfterCrashes)
}

async fn positions(client: &Client) -> Result<BTreeMap<u32, i64>> {
    let stored = client.admin().group(GROUP).await?;
    Ok(stored.into_iter().map(|at| (at.partition.0, at.offset.0)).collect())
}
