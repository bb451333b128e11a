//! Versions of a transform with other layouts of state, on a real node: each takes over what the
//! one before had, also where the node is killed meanwhile; snapshots, and going back to one.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_client::{Client, ProducerRecord, StartAt, TopicConfig};
use weir_core::deploy::{DeploymentKind, DeploymentSpec, OnError, Version};
use weir_core::wire::ErrorCode;
use weir_core::wire::deployments::DeploymentInfo;
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;

const PARTITIONS: u32 = 2;
const KEYS: u64 = 40;
const RECORDS: u64 = 400;
/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);
/// Modules of layouts 1, 2 and 3, as one module's versions.
const VERSIONS: [(&str, &str); 3] =
    [("1.0.0", "running_total"), ("2.0.0", "running_stats"), ("3.0.0", "running_stats_json")];

fn version(version: &str) -> Version {
    let module = format!("totals@{version}").parse().expect("a module's name");
    Version { module, params: [("field".to_owned(), "v".to_owned())].into() }
}

struct Run {
    node: NodeProcess,
    client: Client,
    sent: u64,
}

impl Run {
    /// A node with the first version at work: by way of an outbox where the output has other
    /// partitions than the input.
    async fn start(dir: &Path, outputs: u32) -> Result<Run> {
        let node = NodeProcess::start(dir)?;
        let client = node.client().await?;
        let admin = client.admin();
        for (name, partitions) in [("in", PARTITIONS), ("out", outputs)] {
            let config = TopicConfig { partitions, ..TopicConfig::default() };
            admin.create_topic(name, config).await?;
        }
        for (number, file) in VERSIONS {
            let module = weir_wasm::Upload::of_file(std::fs::read(example(file))?.into())?;
            admin.push_module(version(number).module, module.component, |_| {}).await?;
        }
        let spec = DeploymentSpec {
            version: version("1.0.0"),
            from: "in".to_owned(),
            to: vec!["out".to_owned()],
            on_error: OnError::Stop,
            dead_letter: None,
            from_latest: false,
            kind: DeploymentKind::Transform,
            retries: 0,
            lateness_ms: 0,
            cpu_percent: 0,
            log_topic: None,
            http: None,
        };
        admin.create_deployment("t", spec).await?;
        Ok(Run { node, client, sent: 0 })
    }

    /// Produces some records to every partition.
    async fn produce(&mut self) -> Result<()> {
        let producer = self.client.producer().build().await?;
        for n in self.sent..self.sent + RECORDS {
            for partition in 0..PARTITIONS {
                let record = ProducerRecord::new("in", format!("{{\"n\":{n},\"v\":{}}}", n % 13))
                    .with_key(format!("p{partition}-{}", n * 7 % KEYS))
                    .with_partition(partition);
                drop(producer.send(record).await?);
            }
        }
        producer.flush().await?;
        self.sent += RECORDS;
        Ok(())
    }

    async fn info(&self) -> Result<DeploymentInfo> {
        Ok(self.client.admin().deployment("t").await?)
    }

    /// Waits until every partition is through with its input.
    async fn settle(&self) -> Result<DeploymentInfo> {
        let settled = async {
            loop {
                let info = self.info().await?;
                let through = info.partitions.iter().all(|p| {
                    p.position.is_some_and(|at| at.0 as u64 == self.sent)
                        && p.lag == 0
                        && p.undelivered == 0
                        && p.state.name() == "running"
                });
                if through && info.partitions.len() == PARTITIONS as usize {
                    return anyhow::Ok(info);
                }
                for lane in &info.partitions {
                    ensure!(lane.state.name() != "stopped", "{lane:?}");
                }
                // sleep: between two looks at a node in another process.
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, settled).await.context("the transform does not come to an end")?
    }

    async fn replace(&self, to: &str) -> Result<()> {
        self.client.admin().replace_deployment("t", Some(version(to))).await?;
        Ok(())
    }

    /// The outputs of each input partition, in order.
    async fn outputs(&self, partitions: u32) -> Result<BTreeMap<String, Vec<String>>> {
        let mut consumer = self.client.consumer().until_end(true).build();
        let assigned: Vec<_> = (0..partitions).map(|p| ("out", p, StartAt::Earliest)).collect();
        consumer.assign(&assigned).await?;
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(batch) = timeout(PATIENCE, consumer.next_batch()).await?? {
            for record in batch.records() {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                all.entry(text(record.key)).or_default().push(text(record.value));
            }
        }
        Ok(all)
    }
}

/// What comes out of three versions, each after a part of the input, with so many kills as each
/// takes over.
async fn three_versions(
    dir: &Path,
    outputs: u32,
    kills: u32,
) -> Result<(Run, BTreeMap<String, Vec<String>>)> {
    let mut run = Run::start(dir, outputs).await?;
    run.produce().await?;
    run.settle().await?;
    for to in ["2.0.0", "3.0.0"] {
        run.replace(to).await?;
        for _ in 0..kills {
            // At once: while lanes load the version, migrate, or have just committed.
            run.node.kill()?;
            run.node.start_again()?;
        }
        run.produce().await?;
        run.settle().await?;
    }
    let all = run.outputs(outputs).await?;
    Ok((run, all))
}

/// Every input counts once for its key, through all versions.
fn check(outputs: &BTreeMap<String, Vec<String>>) -> Result<()> {
    ensure!(outputs.len() as u64 == KEYS * u64::from(PARTITIONS), "{} keys", outputs.len());
    let mut all = 0;
    for (key, rows) in outputs {
        let (mut count, mut total) = (0, 0.0);
        for row in rows {
            let row: serde_json::Value = serde_json::from_str(row)?;
            count += 1;
            total += row["v"].as_f64().context("a number")?;
            ensure!(row["count"] == count && row["total"] == total, "{key}: {row}, not {count}");
            let known = row["n"].as_u64().context("a number")? >= RECORDS;
            ensure!(row.get("largest").is_some() == known, "{key}: {row}");
            all += 1;
        }
    }
    ensure!(all == 3 * RECORDS * u64::from(PARTITIONS), "{all} rows");
    Ok(())
}

/// Goal: state migrates from layout 1 to 2 to 3 at an exact offset, whether the home is the output
/// or an outbox, and the node killed during each takeover changes nothing of it.
/// Method: the same on a node that is not killed; outputs of each key must be equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_layouts_through_kills() -> Result<()> {
    for outputs in [PARTITIONS, PARTITIONS + 1] {
        let (calm, rough) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (_, expected) = three_versions(calm.path(), outputs, 0).await?;
        check(&expected)?;
        let (run, got) = three_versions(rough.path(), outputs, 4).await?;
        ensure!(expected == got, "outputs differ where {outputs} partitions take them");
        for lane in run.info().await?.partitions {
            let at: Vec<_> = lane.snapshots.iter().map(|s| (s.offset.0 as u64, s.schema)).collect();
            assert_eq!(at, [(RECORDS, 1), (2 * RECORDS, 2)], "{lane:?}");
            let keys: Vec<u64> = lane.snapshots.iter().map(|s| s.keys).collect();
            assert_eq!(keys, [KEYS, KEYS], "{lane:?}");
        }
    }
    Ok(())
}

/// Goal: going back across layouts needs a snapshot; with one, state and position are as they were
/// there, the input behind is read again and its outputs are there once more; what makes no sense
/// is refused by name, and nobody goes back unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_to_a_snapshot() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut run, before) = three_versions(dir.path(), PARTITIONS, 0).await?;
    let rolled = run.client.admin().replace_deployment("t", None).await;
    let refused = rolled.expect_err("the layout is another");
    assert_eq!(refused.code(), Some(ErrorCode::StateSchema), "{refused}");
    assert!(refused.to_string().contains("--restore-state"), "{refused}");
    let refused = run.replace("1.0.0").await.expect_err("it does not migrate").to_string();
    assert!(refused.contains("does not migrate"), "{refused}");

    let rollback = ["transform", "rollback", "t", "--restore-state"];
    for (more, code, says) in [
        (&["400"][..], 2, "2 partitions"),
        (&["0:400", "--restore-state", "1:77", "--yes"], 4, "no snapshot at offset 77"),
        (&["newest"], 2, "--yes"),
        // Partition 1 would keep layout 3.
        (&["0:400", "--yes"], 4, "layout 3"),
    ] {
        let refused = run.node.weir(&[&rollback[..], more].concat()).expect(code);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let described = run.node.weir(&["transform", "describe", "t"]).expect(0).stdout;
    assert!(described.contains("SNAPSHOT AT") && described.contains("totals@2.0.0"), "{described}");

    // Back to the second version where the third took over, killed as it goes.
    run.node.weir(&[&rollback[..], &["newest", "--yes"]].concat()).expect(0);
    run.node.kill()?;
    run.node.start_again()?;
    let info = run.settle().await?;
    assert_eq!(info.deployment.spec.version.module.to_string(), "totals@2.0.0");
    let again = run.outputs(PARTITIONS).await?;
    for (key, rows) in &before {
        let behind = |row: &&String| {
            let row: serde_json::Value = serde_json::from_str(row).unwrap_or_default();
            row["n"].as_u64() >= Some(2 * RECORDS)
        };
        let repeated: Vec<&String> = rows.iter().filter(behind).collect();
        let expected: Vec<&String> = rows.iter().chain(repeated).collect();
        let got: Vec<&String> = again.get(key).into_iter().flatten().collect();
        ensure!(expected == got, "{key}: {} rows, not {}", got.len(), expected.len());
    }
    // And on to the third again: the state is what it would have been.
    run.replace("3.0.0").await?;
    run.produce().await?;
    run.settle().await?;
    let last = run.outputs(PARTITIONS).await?;
    let rows = last.get("p0-0").context("a key")?;
    let row: serde_json::Value = serde_json::from_str(rows.last().context("a row")?)?;
    assert_eq!(row["count"], 4 * RECORDS / KEYS, "{row}");
    Ok(())
}
