//! Transforms of real nodes, killed with SIGKILL again and again.
//!
//! Goal: outputs, dead letters and state are those of an uninterrupted run, byte for byte, however
//! often and wherever the node is killed, also where records go to other partitions and several
//! topics, and with another version of the module from the middle on.
//! Method: two deployments of the same input, one direct and one by way of an outbox, run while
//! records are produced; kills come a seeded number of confirmed records after the last, so they
//! fall anywhere in a run. A second node does the same without kills. `WEIR_TRANSFORM_KILLS` sets
//! how many. In a cluster of three it is one node after the other that is killed and stays away for
//! a while, so lanes, their state and what is in their outboxes go from node to node;
//! `WEIR_TRANSFORM_FAILOVERS` sets how often.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_client::{Client, ProducerRecord, StartAt, TopicConfig};
use weir_core::deploy::{DeploymentKind, DeploymentSpec, OnError, Version};
use weir_core::wire::cluster::ReplicasInfo;
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;
use weir_tests::site::Site;

const INPUTS: u32 = 3;
const OUTPUTS: u32 = 5;
const KILLS_DEFAULT: u64 = 20;
const FAILOVERS_DEFAULT: u64 = 6;
const NODES: usize = 3;
const KEYS: u64 = 17;
/// Records of each half, each partition; more where there are more kills.
const RECORDS_MIN: u64 = 4_000;
const RECORDS_PER_KILL: u64 = 200;
const IN_FLIGHT: usize = 300;
/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(300);

/// Key, value and headers, as text.
type Row = (String, String, Vec<(String, String)>);

/// What runs the transforms.
enum Host {
    /// A node that is killed and started again.
    One(NodeProcess),
    /// A cluster: one node after the other is killed, and comes back before the next is.
    Several { site: Site, next: usize, down: Option<usize> },
}

impl Host {
    async fn kill(&mut self) -> Result<()> {
        match self {
            Host::One(node) => {
                node.kill()?;
                node.start_again()
            }
            Host::Several { .. } => {
                self.make_whole().await?;
                let Host::Several { site, next, down } = self else { return Ok(()) };
                site.nodes[*next].kill()?;
                *down = Some(*next);
                *next = (*next + 1) % NODES;
                Ok(())
            }
        }
    }

    /// Waits until all nodes are there and have everything.
    async fn make_whole(&mut self) -> Result<()> {
        let Host::Several { site, down, .. } = self else { return Ok(()) };
        if let Some(down) = down.take() {
            site.nodes[down].start_again()?;
        }
        let in_sync = |row: &ReplicasInfo| row.leader.is_some() && row.insync.len() == NODES;
        site.wait(0, |status| status.partitions.iter().all(in_sync)).await?;
        Ok(())
    }
}

/// What runs the transforms, and when to kill it.
struct Run {
    host: Host,
    client: Client,
    pace: u64,
    kills_left: u64,
    until_kill: u64,
    records: u64,
}

impl Run {
    async fn start(dir: &Path, nodes: usize, kills: u64, records: u64) -> Result<Run> {
        let (host, client) = if nodes == 1 {
            let node = NodeProcess::start(dir)?;
            let client = node.client().await?;
            (Host::One(node), client)
        } else {
            let site = Site::start(dir, nodes).await?;
            let client = site.client(&[0, 1, 2]).await?;
            (Host::Several { site, next: 0, down: None }, client)
        };
        let pace = 0x9e37_79b9_7f4a_7c15;
        Ok(Run { host, client, pace, kills_left: kills, until_kill: 100, records })
    }

    /// A record was confirmed: perhaps it is time.
    async fn confirmed(&mut self) -> Result<()> {
        self.until_kill = self.until_kill.saturating_sub(1);
        if self.kills_left == 0 || self.until_kill > 0 {
            return Ok(());
        }
        self.kills_left -= 1;
        self.pace ^= self.pace << 13;
        self.pace ^= self.pace >> 7;
        self.pace ^= self.pace << 17;
        self.until_kill = 1 + self.pace % (2 * RECORDS_PER_KILL);
        self.host.kill().await
    }

    async fn set_up(&self) -> Result<()> {
        let admin = self.client.admin();
        for (name, partitions) in [("in", INPUTS), ("same", INPUTS), ("other", OUTPUTS)] {
            let (replicas, min_insync) = match self.host {
                Host::One(_) => (1, 1),
                Host::Several { .. } => (NODES as u32, 2),
            };
            let config = TopicConfig { partitions, replicas, min_insync, ..TopicConfig::default() };
            admin.create_topic(name, config).await?;
        }
        let module = weir_wasm::Upload::of_file(std::fs::read(example("running_total"))?.into())?;
        for name in ["1.0.0", "1.1.0"] {
            let id = version(name).module;
            admin.push_module(id, module.component.clone(), |_| {}).await?;
        }
        for (name, to, on_error) in [
            ("direct", vec!["same"], OnError::Skip),
            ("outbox", vec!["other"], OnError::DeadLetter),
        ] {
            let spec = DeploymentSpec {
                kind: DeploymentKind::Transform,
                version: version("1.0.0"),
                from: "in".to_owned(),
                to: to.into_iter().map(str::to_owned).collect(),
                on_error,
                dead_letter: None,
                from_latest: false,
                retries: 0,
                lateness_ms: 0,
                cpu_percent: 0,
                log_topic: None,
                http: None,
            };
            admin.create_deployment(name, spec).await?;
        }
        Ok(())
    }

    /// Produces one half of the input, while the node is killed now and then.
    async fn produce(&mut self, half: u64) -> Result<()> {
        let producer = self.client.producer().linger(Duration::from_millis(1)).build().await?;
        let mut deliveries = VecDeque::new();
        let all = self.records * u64::from(INPUTS);
        for n in 0..all {
            while deliveries.len() >= IN_FLIGHT {
                let Some(delivery) = deliveries.pop_front() else { break };
                timeout(PATIENCE, delivery).await.context("a delivery hangs")??;
                self.confirmed().await?;
            }
            let partition = (n % u64::from(INPUTS)) as u32;
            let number = half * self.records + n / u64::from(INPUTS);
            deliveries.push_back(producer.send(record(partition, number)).await?);
        }
        for delivery in deliveries {
            timeout(PATIENCE, delivery).await.context("a delivery hangs")??;
            self.confirmed().await?;
        }
        producer.close().await?;
        Ok(())
    }

    /// Waits until both deployments are through, the node being killed as often as is left.
    async fn settle(&mut self, kills: u64) -> Result<()> {
        let settled = async {
            let mut left = kills.min(self.kills_left);
            loop {
                let all = self.client.admin().deployments().await?;
                let open = all.iter().flat_map(|d| &d.partitions);
                let through =
                    open.clone().all(|p| p.lag == 0 && p.undelivered == 0 && p.position.is_some());
                if left == 0 && through && all.len() == 2 {
                    return Ok(());
                }
                for lane in open {
                    ensure!(lane.state.name() != "stopped", "{lane:?}");
                }
                if left > 0 {
                    left -= 1;
                    self.kills_left -= 1;
                    self.host.kill().await?;
                }
                // sleep: between two looks at a node in another process.
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, settled).await.context("the transforms do not come to an end")?
    }

    async fn replace(&self) -> Result<()> {
        for name in ["direct", "outbox"] {
            self.client.admin().replace_deployment(name, Some(version("1.1.0"))).await?;
        }
        Ok(())
    }

    async fn topic(&self, name: &str, partitions: u32) -> Result<Vec<Vec<Row>>> {
        let mut consumer = self.client.consumer().until_end(true).build();
        let assigned: Vec<_> = (0..partitions).map(|p| (name, p, StartAt::Earliest)).collect();
        consumer.assign(&assigned).await?;
        let mut all = vec![Vec::new(); partitions as usize];
        while let Some(batch) = timeout(PATIENCE, consumer.next_batch()).await?? {
            for record in batch.records() {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                let headers = record.headers();
                let headers = headers.map(|h| (h.name.to_owned(), text(h.value))).collect();
                let row = (text(record.key), text(record.value), headers);
                all[batch.partition() as usize].push(row);
            }
        }
        Ok(all)
    }
}

fn version(version: &str) -> Version {
    let module = format!("total@{version}").parse().expect("a module's name");
    Version { module, params: [("field".to_owned(), "v".to_owned())].into() }
}

/// The key says which input partition it is of. Some values are no numbers, some are no JSON.
fn record(partition: u32, number: u64) -> ProducerRecord {
    let key = format!("p{partition}-{}", number * 7 % KEYS);
    let value = match number % 97 {
        50 => format!("{{\"n\":{number},\"v\":\"none\"}}"),
        80 => format!("no JSON {number}"),
        _ => format!("{{\"n\":{number},\"v\":{}}}", number % 13),
    };
    ProducerRecord::new("in", value)
        .with_key(key)
        .with_partition(partition)
        .with_timestamp(1_700_000_000_000 + number as i64)
        .with_header("from", format!("p{partition}"))
}

/// What becomes of the input on so many nodes that are killed so often.
async fn outputs(dir: &Path, nodes: usize, kills: u64, records: u64) -> Result<Outputs> {
    let mut run = Run::start(dir, nodes, kills, records).await?;
    run.set_up().await?;
    run.produce(0).await?;
    run.settle(3).await?;
    // Dead letters tell the version, so it changes at the same offset in every run.
    run.replace().await?;
    run.produce(1).await?;
    run.settle(u64::MAX).await?;
    ensure!(run.kills_left == 0, "{} kills were left", run.kills_left);
    let mut all = BTreeMap::new();
    for (name, partitions) in [("same", INPUTS), ("other", OUTPUTS), ("outbox.dead-letter", INPUTS)]
    {
        all.insert(name.to_owned(), run.topic(name, partitions).await?);
    }
    let deployments = run.client.admin().deployments().await?;
    let keys = |name: &str| {
        let found = deployments.iter().find(|d| d.deployment.name == name);
        found.map(|d| d.partitions.iter().map(|p| p.state_keys).sum::<u64>())
    };
    ensure!(keys("direct") == Some(KEYS * u64::from(INPUTS)), "{deployments:?}");
    ensure!(keys("outbox") == keys("direct"), "{deployments:?}");
    run.client.close().await;
    Ok(all)
}

/// What becomes of the input on so many nodes through kills, of which the variable says how many,
/// is what becomes of it on one that nobody kills.
async fn unharmed(nodes: usize, variable: &str, default: u64) -> Result<()> {
    let kills = match std::env::var(variable) {
        Ok(kills) => kills.parse().with_context(|| variable.to_owned())?,
        Err(_) => default,
    };
    let records = RECORDS_MIN.max(kills * RECORDS_PER_KILL / 4);
    let (calm, rough) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let expected = outputs(calm.path(), 1, 0, records).await?;
    check(&expected, records)?;
    let got = outputs(rough.path(), nodes, kills, records).await?;
    compare(&expected, &got)?;
    println!("{} records, {kills} kills of {nodes} nodes", 2 * records * u64::from(INPUTS));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_those_of_an_uninterrupted_run() -> Result<()> {
    unharmed(1, "WEIR_TRANSFORM_KILLS", KILLS_DEFAULT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_the_same_through_failovers() -> Result<()> {
    unharmed(NODES, "WEIR_TRANSFORM_FAILOVERS", FAILOVERS_DEFAULT).await
}

type Outputs = BTreeMap<String, Vec<Vec<Row>>>;

fn compare(expected: &Outputs, got: &Outputs) -> Result<()> {
    for (topic, partitions) in expected {
        for (partition, (expected, got)) in partitions.iter().zip(&got[topic]).enumerate() {
            // Where inputs of several partitions meet, their order among each other is open.
            for input in 0..INPUTS {
                let of = |rows: &[Row]| -> Vec<Row> {
                    let from = format!("p{input}-");
                    rows.iter().filter(|row| row.0.starts_with(&from)).cloned().collect()
                };
                same(&of(expected), &of(got)).with_context(|| {
                    format!("topic {topic}, partition {partition}, input {input}")
                })?;
            }
            ensure!(expected.len() == got.len(), "{topic} {partition}: rows of no input");
        }
    }
    Ok(())
}

fn same(expected: &[Row], got: &[Row]) -> Result<()> {
    let differs = (0..expected.len().max(got.len())).find(|&at| expected.get(at) != got.get(at));
    let Some(at) = differs else { return Ok(()) };
    let around = |rows: &[Row]| {
        rows[at.saturating_sub(1).min(rows.len())..(at + 3).min(rows.len())].to_vec()
    };
    anyhow::bail!(
        "row {at} of {} differs, there are {}: expected {:?}, got {:?}",
        expected.len(),
        got.len(),
        around(expected),
        around(got)
    );
}

/// The uninterrupted run is right: everything is there once, counted and added up.
fn check(outputs: &BTreeMap<String, Vec<Vec<Row>>>, records: u64) -> Result<()> {
    let count = |topic: &str| outputs[topic].iter().map(Vec::len).sum::<usize>() as u64;
    let all = 2 * records * u64::from(INPUTS);
    let bad = (0..2 * records).filter(|n| matches!(n % 97, 50 | 80)).count() as u64;
    let bad = bad * u64::from(INPUTS);
    ensure!(count("same") == all - bad, "{} of {all} less {bad}", count("same"));
    ensure!(count("other") == all - bad, "{} of {all} less {bad}", count("other"));
    ensure!(count("outbox.dead-letter") == bad, "{bad} bad, {}", count("outbox.dead-letter"));
    let mut last: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for (key, value, headers) in outputs["same"].iter().flatten() {
        let row: serde_json::Value = serde_json::from_str(value)?;
        let (n, total) = last.entry(key).or_default();
        *n += 1;
        *total += row["v"].as_f64().context("a number")?;
        ensure!(row["count"] == *n && row["total"] == *total, "{key}: {value}, after {n}");
        ensure!(headers.len() == 1 && headers[0].0 == "from", "{headers:?}");
    }
    let versions: Vec<usize> = ["total@1.0.0", "total@1.1.0"]
        .iter()
        .map(|module| {
            let rows = outputs["outbox.dead-letter"].iter().flatten();
            rows.filter(|row| row.2.iter().any(|(_, value)| value == module)).count()
        })
        .collect();
    ensure!(versions.iter().all(|count| *count as u64 > bad / 3), "{versions:?}");
    Ok(())
}
