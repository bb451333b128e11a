//! Bounds of deployments on a real node: CPU time over time, and where log lines go.

#[path = "../../node/crates/wasm/tests/modules/wat.rs"]
mod wat;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use wat::Wat;
use weir_core::module::name::ModuleRef;
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;
use weir_tests::site::Site;

/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);
const RECORDS: u64 = 2_000;
/// Records that are produced at once.
const PART: usize = 250;
/// Turns of a loop for each record: some 50 microseconds.
const TURNS: u64 = 100_000;
/// So little that also a module that many others leave a small part of a core wants more.
const PERCENT: u64 = 2;

/// A transform that passes records on as they are and takes its time for it, and one that logs a
/// line for each call.
fn modules() -> [(&'static str, String); 2] {
    // The records' count is the first word of a batch; what is returned are their numbers, in an
    // array of up to 1,500 at 2,048.
    let pass = "(local $at i32) (local $turns i64)
      (loop $next
        (i32.store (i32.add (i32.const 2048) (i32.shl (local.get $at) (i32.const 2)))
          (local.get $at))
        (local.set $turns (i64.const TURNS))
        (loop $more
          (local.set $turns (i64.sub (local.get $turns) (i64.const 1)))
          (br_if $more (i64.ne (local.get $turns) (i64.const 0))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $count))))";
    let pass = format!("(func $pass (param $count i32) {pass})");
    let line = "(data (i32.const 512) \"a call\")";
    [
        ("busy", pass.replace("TURNS", &TURNS.to_string())),
        ("chatty", format!("{line} {}", pass.replace("TURNS", "1"))),
    ]
}

async fn push(node: &NodeProcess) -> Result<()> {
    let client = node.client().await?;
    for (name, items) in modules() {
        let log = "(call $log (i32.const 2) (i32.const 512) (i32.const 6))";
        let call = format!(
            "(i32.store (i32.const 1032) (i32.load (local.get $batch)))
             (if (i32.load (local.get $batch))
               (then {} (call $pass (i32.load (local.get $batch)))))",
            if name == "chatty" { log } else { "" }
        );
        let export = "weir:module/transforming@1.0.0#transform";
        let upload = Wat { call: &call, export, items: &items, ..Wat::default() }.upload()?;
        let id: ModuleRef = format!("{name}@1.0.0").parse()?;
        client.admin().push_module(id, upload.component, |_| {}).await?;
    }
    Ok(())
}

fn produce(node: &NodeProcess, dir: &Path) -> Result<()> {
    let path = dir.join("lines");
    let line = |n: u64| format!("k{}|{{\"v\":{n}}}\n", n % 50);
    // In parts, so that there are batches of few records.
    for begin in (0..RECORDS).step_by(PART) {
        let part = begin..RECORDS.min(begin + PART as u64);
        std::fs::write(&path, part.map(line).collect::<String>())?;
        node.weir(&["produce", "in", &path.to_string_lossy(), "--key-prefix=|"]).expect(0);
    }
    Ok(())
}

fn lanes(node: &NodeProcess, name: &str) -> Vec<Value> {
    let described = node.weir(&["transform", "describe", name, "--json"]).expect(0).json();
    described["partitions"].as_array().cloned().unwrap_or_default()
}

async fn settle(node: &NodeProcess, name: &str) -> Result<Vec<Value>> {
    let looking = async {
        loop {
            let lanes = lanes(node, name);
            let read = lanes.iter().filter_map(|lane| lane["records_in"].as_u64()).sum::<u64>();
            if read == RECORDS && lanes.iter().all(|lane| lane["lag"] == 0) {
                return lanes;
            }
            // sleep: between two looks at a node in another process.
            sleep(Duration::from_millis(20)).await;
        }
    };
    let found = timeout(PATIENCE, looking).await;
    found.with_context(|| format!("it never came to an end: {:?}", lanes(node, name)))
}

fn values(node: &NodeProcess, topic: &str) -> Vec<String> {
    let consume = ["consume", topic, "--from=earliest", "--until-end"];
    let mut values: Vec<String> =
        node.weir(&consume).expect(0).stdout.lines().map(str::to_owned).collect();
    values.sort();
    values
}

/// Goal: a module that needs much CPU time gets its share of a core and no more, in all its
/// partitions together, loses nothing for it, and another one beside it is not slowed down with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_budget() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    for topic in ["in", "out", "totals"] {
        node.weir(&["topic", "create", topic, "--partitions=2"]).expect(0);
    }
    push(&node).await?;
    let file = example("running_total");
    node.weir(&["module", "push", &file, "--name=total", "--version=1.0.0"]).expect(0);
    produce(&node, dir.path())?;
    let begun = Instant::now();
    let budget = format!("--cpu={PERCENT}");
    let busy = ["transform", "create", "busy", "--module=busy@1.0.0", "--from=in", "--to=out"];
    node.weir(&[&busy[..], &[&budget]].concat()).expect(0);
    let total = ["transform", "create", "total", "--module=total@1.0.0", "--from=in"];
    node.weir(&[&total[..], &["--to=totals", "--param=field=v"]].concat()).expect(0);
    for lane in settle(&node, "total").await? {
        assert_eq!(lane.get("throttled_us"), None, "{lane}");
    }
    let lanes = settle(&node, "busy").await?;
    let took = begun.elapsed();
    let sum = |figure: &str| lanes.iter().filter_map(|l| l[figure].as_u64()).sum::<u64>();
    ensure!(sum("throttled_us") > 0, "it never stood still: {lanes:?}");
    // Its share, a second's share at once, and what one call in each partition took too much.
    let cpu = Duration::from_micros(sum("cpu_us"));
    let share = (took + Duration::from_secs(1)).mul_f64(PERCENT as f64 / 100.0);
    ensure!(cpu <= share + cpu / 3, "{cpu:?} of CPU time in {took:?}");
    assert_eq!(values(&node, "out"), values(&node, "in"));
    assert_eq!(values(&node, "totals").len() as u64, RECORDS);

    let text = node.weir(&["transform", "describe", "busy"]).expect(0).stdout;
    assert!(text.contains("2 % of a core") && text.contains("had used its CPU budget"), "{text}");
    let (_, metrics) = node.http_get("/metrics")?;
    let throttled = "weir_deployment_throttled_seconds_total{deployment=\"busy\"";
    assert!(metrics.contains(throttled), "{metrics}");
    let refused = [&busy[..], &["--cpu=100000"]].concat();
    node.weir(&refused).expect(2);
    Ok(())
}

/// Goal: what the node allows is the most, also for a deployment that asks for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cpu_budget_of_the_node() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cap = format!("limits.deployment_cpu={PERCENT}");
    let node = NodeProcess::start_with(dir.path(), &["--set", &cap])?;
    for topic in ["in", "out"] {
        node.weir(&["topic", "create", topic, "--partitions=2"]).expect(0);
    }
    push(&node).await?;
    produce(&node, dir.path())?;
    let busy = ["transform", "create", "busy", "--module=busy@1.0.0", "--from=in", "--to=out"];
    node.weir(&[&busy[..], &["--cpu=6400"]].concat()).expect(0);
    let lanes = settle(&node, "busy").await?;
    let throttled = lanes.iter().filter_map(|lane| lane["throttled_us"].as_u64()).sum::<u64>();
    ensure!(throttled > 0, "{lanes:?}");
    assert_eq!(values(&node, "out"), values(&node, "in"));
    Ok(())
}

/// Goal: every line that modules log becomes a record of the topic that their deployment names, on
/// whichever node the lane works and the topic is led.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_in_a_topic() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), 3).await?;
    let node = &site.nodes[0];
    for (topic, partitions) in [("in", 3), ("out", 3), ("logs", 1)] {
        let partitions = format!("--partitions={partitions}");
        let copies = ["--replicas=3", "--min-insync=2"];
        node.weir(&[&["topic", "create", topic, &partitions], &copies[..]].concat()).expect(0);
    }
    push(node).await?;
    produce(node, dir.path())?;
    let create = ["transform", "create", "t", "--module=chatty@1.0.0", "--from=in", "--to=out"];
    let refused = node.weir(&[&create[..], &["--log-topic=in"]].concat()).expect(4);
    assert!(refused.stderr.contains("needs another topic"), "{}", refused.stderr);
    let refused = node.weir(&[&create[..], &["--log-topic=nowhere"]].concat()).expect(4);
    assert!(refused.stderr.contains("no topic `nowhere`"), "{}", refused.stderr);
    node.weir(&[&create[..], &["--log-topic=logs"]].concat()).expect(0);
    for lane in settle(node, "t").await? {
        assert_eq!(lane.get("log_lines_lost"), None, "{lane}");
    }
    let logged = node.weir(&["transform", "logs", "t", "--lines=1000", "--json"]).expect(0);
    let logged = logged.stdout.lines().count();
    ensure!(logged >= 3, "a line for each partition at least");
    let consume = ["consume", "logs", "--from=earliest", "--until-end", "--headers"];
    let consume = [&consume[..], &["--format=json"]].concat();
    let reading = async {
        loop {
            let text = node.weir(&consume).expect(0).stdout;
            if text.lines().count() >= logged {
                return text;
            }
            // sleep: the lines are on their way.
            sleep(Duration::from_millis(20)).await;
        }
    };
    let text = timeout(PATIENCE, reading).await.context("lines are missing")?;
    let mut partitions = Vec::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line)?;
        assert_eq!((&record["key"], &record["value"]), (&json!("t"), &json!("a call")), "{line}");
        let header = |name: &str| {
            let all = record["headers"].as_array().cloned().unwrap_or_default();
            let found = all.into_iter().find(|header| header["name"] == name);
            found.and_then(|header| header["value"].as_str().map(str::to_owned))
        };
        assert_eq!(header("module").as_deref(), Some("chatty"), "{line}");
        assert_eq!(header("version").as_deref(), Some("1.0.0"), "{line}");
        assert_eq!(header("level").as_deref(), Some("info"), "{line}");
        partitions.extend(header("partition"));
    }
    assert_eq!(partitions.len(), logged, "as many as were logged: none was run twice here");
    partitions.sort();
    partitions.dedup();
    assert_eq!(partitions, ["0", "1", "2"]);
    let refused = node.weir(&["topic", "delete", "logs", "--yes"]).expect(4);
    assert!(refused.stderr.contains("used by deployment `t`"), "{}", refused.stderr);
    Ok(())
}
