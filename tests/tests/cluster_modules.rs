//! Modules in a cluster of three real nodes, as an operator uses them: pushed to one node, they
//! work on all; lanes follow the leads of what they write to.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;
use weir_tests::site::Site;

/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);

fn push(node: &NodeProcess, module: &str, id: &str) -> Value {
    let (name, version) = id.split_once('@').expect("NAME@VERSION");
    let file = example(module);
    let push = ["module", "push", &file, "--name", name, "--version", version, "--json"];
    node.weir(&push).expect(0).json()
}

fn create_topics(node: &NodeProcess, names: &[&str]) {
    let copies = ["--partitions=3", "--replicas=3", "--min-insync=2"];
    for name in names {
        node.weir(&[&["topic", "create", name], &copies[..]].concat()).expect(0);
    }
}

fn produce(node: &NodeProcess, dir: &Path, topic: &str, lines: &[String]) -> Result<()> {
    let path = dir.join(format!("{topic}.lines"));
    std::fs::write(&path, lines.join("\n") + "\n")?;
    node.weir(&["produce", topic, &path.to_string_lossy(), "--key-prefix=|"]).expect(0);
    Ok(())
}

fn values(node: &NodeProcess, topic: &str, more: &[&str]) -> Vec<String> {
    let consume = ["consume", topic, "--from=earliest", "--until-end"];
    let ran = node.weir(&[&consume[..], more].concat()).expect(0);
    let mut lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn lanes(node: &NodeProcess, name: &str) -> Vec<Value> {
    let described = node.weir(&["transform", "describe", name, "--json"]).expect(0).json();
    described["partitions"].as_array().cloned().unwrap_or_default()
}

/// Waits until the lanes of a deployment are as they should be, whichever node is asked.
async fn until(site: &Site, name: &str, right: impl Fn(&[Value]) -> bool) -> Result<()> {
    for node in &site.nodes {
        let looking = async {
            while !right(&lanes(node, name)) {
                // sleep: between two looks at nodes in other processes.
                sleep(Duration::from_millis(50)).await;
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.with_context(|| format!("it never came to that: {:?}", lanes(node, name)))?;
    }
    Ok(())
}

fn all(lanes: &[Value], state: &str) -> bool {
    lanes.len() == 3 && lanes.iter().all(|lane| lane["state"] == state)
}

fn through(lanes: &[Value]) -> bool {
    let through = |lane: &Value| lane["lag"] == 0 && lane["position"].is_u64();
    all(lanes, "running") && lanes.iter().all(through)
}

/// Goal: whichever node an operator talks to, modules, transforms, filters and checks are the same,
/// and work where the partitions are led.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_will_do() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), 3).await?;
    let [one, two, three] = &site.nodes[..] else { unreachable!("three nodes") };
    create_topics(one, &["in", "out"]);
    push(one, "running_total", "total@1.0.0");
    push(two, "text_filter", "text@1.0.0");
    push(three, "range_guard", "guard@1.0.0");
    for node in &site.nodes {
        let listed = node.weir(&["module", "list", "--json"]).expect(0).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    }
    let create = ["transform", "create", "sum", "--module=total@1.0.0", "--from=in", "--to=out"];
    two.weir(&[&create[..], &["--param=field=v"]].concat()).expect(0);
    let lines: Vec<String> = (0..300).map(|n| format!("k{}|{{\"v\":{n}}}", n % 20)).collect();
    produce(three, dir.path(), "in", &lines)?;
    until(&site, "sum", through).await?;
    let sums = values(one, "out", &[]);
    assert_eq!(sums.len(), 300);
    for node in [two, three] {
        assert_eq!(values(node, "out", &[]), sums);
    }
    let last: i64 = sums.iter().filter(|line| line.contains("\"count\":15")).count() as i64;
    assert_eq!(last, 20, "each of 20 keys is counted to 15");

    // A filter runs where each partition is led.
    let filter = ["--filter=text@1.0.0", "--param=text=\"v\":29"];
    let kept = values(three, "in", &filter);
    assert_eq!(kept.len(), 11, "29 and 290 to 299: {kept:?}");

    // So does a check, wherever the producer is connected.
    let guard = ["--on-produce=guard@1.0.0", "--on-produce-param=field=v"];
    let most = ["--on-produce-param=max=1000"];
    one.weir(&[&["topic", "alter", "in"], &guard[..], &most].concat()).expect(0);
    for node in &site.nodes {
        let path = dir.path().join("bad");
        std::fs::write(&path, "{\"v\":5000}\n")?;
        let refused = node.weir(&["produce", "in", &path.to_string_lossy()]).expect(4);
        assert!(refused.stderr.contains("v is 5000"), "{}", refused.stderr);
    }

    // Paused on one node it stands still on all; deleted, nothing is left of it.
    one.weir(&["transform", "pause", "sum"]).expect(0);
    until(&site, "sum", |lanes| all(lanes, "paused")).await?;
    three.weir(&["transform", "resume", "sum"]).expect(0);
    until(&site, "sum", through).await?;
    two.weir(&["transform", "delete", "sum"]).expect(0);
    for node in &site.nodes {
        let gone = node.weir(&["transform", "describe", "sum"]).expect(4);
        assert!(gone.stderr.contains("no deployment `sum`"), "{}", gone.stderr);
    }
    one.weir(&["module", "delete", "total@1.0.0"]).expect(0);
    Ok(())
}

/// Goal: a module that was pushed while a node was away is there before that node leads what the
/// module works on; and state goes with the lead, also across versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    create_topics(&site.nodes[0], &["in", "out"]);
    let whole = |status: &weir_core::wire::cluster::ClusterStatus| {
        status.partitions.iter().all(|row| row.leader.is_some() && row.insync.len() == 3)
    };
    site.wait(0, whole).await?;
    site.nodes[2].kill()?;
    site.wait(0, |status| status.nodes[2].fenced).await?;
    let pushed = push(&site.nodes[0], "running_total", "total@1.0.0");
    push(&site.nodes[1], "running_total", "total@1.1.0");
    let create = ["transform", "create", "sum", "--module=total@1.0.0", "--from=in", "--to=out"];
    let more = ["--param=field=v", "--on-error=dead-letter"];
    site.nodes[1].weir(&[&create[..], &more].concat()).expect(0);
    let lines = |from: u32| -> Vec<String> {
        (from..from + 100).map(|n| format!("k{}|{{\"v\":1}}", n % 10)).collect()
    };
    produce(&site.nodes[0], dir.path(), "in", &lines(0))?;
    site.nodes[2].start_again()?;
    site.wait(0, whole).await?;
    until(&site, "sum", through).await?;
    let hash = pushed["sha256"].as_str().context("no hash")?;
    let file = site.nodes[2].data_dir().join(format!("modules/{hash}.wasm"));
    ensure!(file.exists(), "the module is not on the node that was away");

    // The others die one after the other: what they led is led by the rest, with its state.
    for (victim, asked) in [(0, 2), (1, 2)] {
        site.nodes[victim].kill()?;
        produce(&site.nodes[asked], dir.path(), "in", &lines(0))?;
        let version = format!("--module=total@1.{}.0", 1 - victim);
        let replace = ["transform", "replace", "sum", &version, "--param=field=v"];
        site.nodes[asked].weir(&replace).expect(0);
        site.nodes[victim].start_again()?;
        site.wait(asked, whole).await?;
    }
    until(&site, "sum", through).await?;
    let sums = values(&site.nodes[1], "out", &[]);
    assert_eq!(sums.len(), 300);
    let counted = |n: u32| sums.iter().filter(|l| l.contains(&format!("\"count\":{n},"))).count();
    let thirty = sums.iter().filter(|line| line.contains("\"count\":30")).count();
    assert_eq!((counted(1), counted(29), thirty), (10, 10, 10), "{sums:?}");
    Ok(())
}

/// Goal: a lane whose output is on another node than its input reads the input from there, also
/// after that moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_and_output_far_apart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), 3).await?;
    let node = &site.nodes[0];
    push(node, "running_total", "total@1.0.0");
    for (topic, to) in [("in", "1"), ("out", "2")] {
        node.weir(&["topic", "create", topic]).expect(0);
        node.weir(&["topic", "reassign", topic, "--to", to]).expect(0);
    }
    let create = ["transform", "create", "sum", "--module=total@1.0.0", "--from=in", "--to=out"];
    node.weir(&[&create[..], &["--param=field=v"]].concat()).expect(0);
    let running = |lanes: &[Value]| lanes.len() == 1 && lanes[0]["state"] == "running";
    let mut made = 0;
    for to in ["1", "3", "2", "1"] {
        node.weir(&["topic", "reassign", "in", "--to", to]).expect(0);
        let lines: Vec<String> = (made..made + 50).map(|n| format!("k|{{\"v\":{n}}}")).collect();
        produce(&site.nodes[1], dir.path(), "in", &lines)?;
        made += 50;
        let read = move |lanes: &[Value]| running(lanes) && lanes[0]["records_in"] == made;
        until(&site, "sum", read).await.with_context(|| format!("with the input on {to}"))?;
    }
    let sums = values(node, "out", &[]);
    assert_eq!(sums.len() as u64, made, "{sums:?}");
    let total = format!("\"total\":{}", made * (made - 1) / 2);
    assert!(sums.iter().any(|line| line.contains(&total)), "{total}: {sums:?}");
    Ok(())
}

/// Goal: a replica that begins behind what its leader keeps gets what it needs to lead: the state
/// and position of a lane are in entries that are long gone. Method: an outbox is written until it
/// was trimmed; then the partition and its outbox move to a node that had neither, and the node
/// that had them dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trimmed_log() -> Result<()> {
    const RECORDS: u64 = 40_000;
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let node = &site.nodes[0];
    push(node, "running_total", "total@1.0.0");
    for topic in ["in", "out"] {
        node.weir(&["topic", "create", topic, "--replicas=2", "--min-insync=1"]).expect(0);
    }
    for (topic, to) in [("in", "1,2"), ("out", "2,3")] {
        node.weir(&["topic", "reassign", topic, "--to", to]).expect(0);
    }
    // A dead-letter policy needs an outbox.
    let create = ["transform", "create", "sum", "--module=total@1.0.0", "--from=in", "--to=out"];
    let more = ["--param=field=v", "--on-error=dead-letter"];
    node.weir(&[&create[..], &more].concat()).expect(0);
    let padding = "x".repeat(200);
    let lines: Vec<String> =
        (0..RECORDS).map(|n| format!("k{}|{{\"v\":1,\"p\":\"{padding}\"}}", n % 10)).collect();
    produce(node, dir.path(), "in", &lines)?;
    let read = |lanes: &[Value]| lanes.len() == 1 && lanes[0]["position"] == RECORDS;
    until(&site, "sum", read).await?;
    let delivered = |lanes: &[Value]| lanes.iter().all(|lane| lane["undelivered"].is_null());
    until(&site, "sum", delivered).await?;

    let node = &site.nodes[0];
    node.weir(&["topic", "reassign", "in", "--to", "3,2"]).expect(0);
    let of_input = |status: &weir_core::wire::cluster::ClusterStatus| {
        let row = status.partitions.iter().find(|row| row.topic == "in");
        row.is_some_and(|row| row.target.is_empty() && row.leader.is_some_and(|l| l.0 == 3))
    };
    site.wait(0, of_input).await?;
    // The outbox goes with it: its lane then works on node 3, which read none of the input.
    let moved = |lanes: &[Value]| lanes.len() == 1 && lanes[0]["records_in"] == 0 && read(lanes);
    until(&site, "sum", moved).await?;
    ensure!(site.nodes[2].log().contains("the log begins anew"), "{}", site.nodes[2].log());
    site.nodes[0].kill()?;
    site.nodes[1].kill()?;
    site.nodes[1].start_again()?;
    site.nodes[0].start_again()?;
    produce(&site.nodes[2], dir.path(), "in", &lines[..10])?;
    let all = |lanes: &[Value]| lanes.len() == 1 && lanes[0]["position"] == RECORDS + 10;
    until(&site, "sum", all).await?;
    until(&site, "sum", delivered).await?;
    let sums = values(&site.nodes[1], "out", &[]);
    ensure!(sums.len() as u64 == RECORDS + 10, "{} records", sums.len());
    let last = format!("\"count\":{},", RECORDS / 10 + 1);
    ensure!(sums.iter().filter(|line| line.contains(&last)).count() == 10, "{last} is not there");
    Ok(())
}
