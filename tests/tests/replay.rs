//! `weir module replay` against a real node: what a deployment made of its input is made again,
//! byte for byte, and what is not the same is found.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_tests::guests::example;
use weir_tests::node_process::{NodeProcess, Ran};

/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);
const PARTITIONS: usize = 2;

struct Site {
    node: NodeProcess,
    dir: tempfile::TempDir,
}

impl Site {
    /// A node with `in` and `same` of two partitions and `wide` of three, and some modules.
    fn start() -> Result<Site> {
        let dir = tempfile::tempdir()?;
        let site = Site { node: NodeProcess::start(dir.path())?, dir };
        for (topic, partitions) in [("in", 2), ("same", 2), ("other", 2), ("wins", 2), ("wide", 3)]
        {
            site.weir(&["topic", "create", topic, &format!("--partitions={partitions}")]).expect(0);
        }
        for (module, name, version) in [
            ("running_total", "total", "1.0.0"),
            ("running_stats", "total", "2.0.0"),
            ("unit_range", "units", "1.0.0"),
            ("tumbling_window", "windows", "1.0.0"),
        ] {
            let (file, name) = (example(module), format!("--name={name}"));
            let version = format!("--version={version}");
            site.weir(&["module", "push", &file, &name, &version]).expect(0);
        }
        Ok(site)
    }

    fn weir(&self, arguments: &[&str]) -> Ran {
        self.node.weir(arguments)
    }

    fn create(&self, name: &str, module: &str, to: &str, more: &[&str]) {
        let (module, to) = (format!("--module={module}"), format!("--to={to}"));
        let fixed = ["transform", "create", name, &module, "--from=in", &to];
        self.weir(&[&fixed[..], more].concat()).expect(0);
    }

    /// Records number `from` to `to`: `v` and `w` are the same up to 249.
    fn produce(&self, from: u64, to: u64) -> Result<()> {
        let path: PathBuf = self.dir.path().join("lines");
        let line = |n: u64| {
            let (key, v) = (n * 7 % 20, n % 13);
            let w = if n < 250 { v } else { v + 1 };
            let time = 1_767_225_600_000 + n * 1_000;
            format!("{{\"k\":\"k{key}\",\"t\":{time},\"n\":{n},\"v\":{v},\"w\":{w}}}\n")
        };
        std::fs::write(&path, (from..to).map(line).collect::<String>())?;
        let file = path.to_string_lossy();
        let how = ["--format=json", "--key-pointer=/k", "--time-pointer=/t"];
        self.weir(&[&["produce", "in", &file], &how[..]].concat()).expect(0);
        Ok(())
    }

    fn lanes(&self, name: &str) -> Vec<Value> {
        let described = self.weir(&["transform", "describe", name, "--json"]).expect(0).json();
        described["partitions"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a transform is through with its input and everything is where it belongs.
    async fn settle(&self, name: &str) -> Result<()> {
        let through = |lane: &Value| {
            lane["state"] == "running" && lane["lag"] == 0 && lane.get("undelivered").is_none()
        };
        let settled = async {
            while !self.lanes(name).iter().all(through) {
                // sleep: between two looks at a node in another process.
                sleep(Duration::from_millis(20)).await;
            }
        };
        let settled = timeout(PATIENCE, settled).await;
        settled.with_context(|| format!("it never came to an end: {:?}", self.lanes(name)))
    }

    /// A comparison that finds this: 0 for the same, 1 for not.
    fn compare(&self, name: &str, more: &[&str], code: i32) -> Value {
        let fixed = ["module", "replay", name, "--compare", "--json"];
        let compared = self.weir(&[&fixed[..], more].concat()).expect(code).json();
        assert_eq!(compared["same"], json!(code == 0), "{compared}");
        compared
    }
}

fn sum(compared: &Value, figure: &str) -> u64 {
    let partitions = compared["partitions"].as_array().map_or(&[][..], Vec::as_slice);
    partitions.iter().filter_map(|partition| partition[figure].as_u64()).sum()
}

/// Goal: what a module without state and one with state made is made again, byte for byte: all of
/// it, and parts of it; with timers; with outputs in the home and by way of an outbox, where
/// outputs of two partitions lie side by side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bytes_again() -> Result<()> {
    let site = Site::start()?;
    site.create(
        "units",
        "units@1.0.0",
        "other",
        &["--param=field=v", "--param=max=11", "--on-error=skip"],
    );
    site.create("sums", "total@1.0.0", "same", &["--param=field=v"]);
    site.create("wide", "total@1.0.0", "wide", &["--param=field=v", "--on-error=skip"]);
    let windows = ["--param=field=v", "--param=seconds=30", "--lateness=20s"];
    site.create("windows", "windows@1.0.0", "wins", &windows);
    for (from, to) in [(0, 100), (100, 101), (101, 400)] {
        site.produce(from, to)?;
    }
    for name in ["units", "sums", "wide", "windows"] {
        site.settle(name).await?;
        let all = site.compare(name, &[], 0);
        assert_eq!(sum(&all, "records_in"), 400, "{all}");
        for lane in all["partitions"].as_array().context("partitions")? {
            let outputs = lane["outputs"].as_array().context("outputs")?;
            assert!(!outputs.is_empty(), "{lane}");
        }
    }
    // A part of it: without state from right there, with state from the beginning.
    for (name, before) in [("units", 0), ("sums", 37), ("wide", 37), ("windows", 37)] {
        let part = site.compare(name, &["--partition=1", "--from=37", "--to=90"], 0);
        assert_eq!(sum(&part, "records_in"), 53, "{part}");
        assert_eq!(sum(&part, "records_before"), before, "{part}");
    }
    Ok(())
}

/// Goal: whatever was not made by this version, with these parameters, is found, with the first
/// difference; with outputs in the home and by way of an outbox.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes() -> Result<()> {
    let site = Site::start()?;
    site.create("sums", "total@1.0.0", "same", &["--param=field=v"]);
    site.create("wide", "total@1.0.0", "wide", &["--param=field=v", "--on-error=skip"]);
    site.produce(0, 400)?;
    for name in ["sums", "wide"] {
        site.settle(name).await?;
        let differs = site.compare(name, &["--param=field=w"], 1);
        for lane in differs["partitions"].as_array().context("partitions")? {
            let parts = lane["outputs"].as_array().context("outputs")?.iter();
            let parts: Vec<&Value> = parts.filter(|part| part["same"] == false).collect();
            assert!(!parts.is_empty(), "{lane}");
            let first = parts.iter().filter_map(|part| {
                let here = part["difference"]["here"]["value"].as_str()?;
                let there = part["difference"]["node"]["value"].as_str()?;
                assert_ne!(here, there);
                serde_json::from_str::<Value>(here).ok()?["n"].as_u64()
            });
            let first = first.min().context("no difference was told")?;
            assert!((250..290).contains(&first), "the first is {first}: {lane}");
        }
    }
    let differs = site.weir(&["module", "replay", "sums", "--module=total@2.0.0", "--compare"]);
    let differs = differs.expect(1);
    assert!(differs.stdout.contains("differs behind 0 of"), "{}", differs.stdout);
    assert!(differs.stdout.contains("largest"), "{}", differs.stdout);
    Ok(())
}

/// Goal: outputs are printed as the node has them, to a file too; and what cannot be replayed is
/// refused with what can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn printed_and_refused() -> Result<()> {
    let site = Site::start()?;
    site.create("sums", "total@1.0.0", "same", &["--param=field=v"]);
    site.produce(0, 200)?;
    site.settle("sums").await?;
    let consume = ["consume", "same", "--partition=1", "--from=earliest", "--until-end"];
    let stored = site.weir(&consume).expect(0).stdout;
    let printed = site.weir(&["module", "replay", "sums", "--partition=1"]).expect(0);
    assert_eq!(printed.stdout, stored);
    let path = site.dir.path().join("made");
    let out = format!("--out={}", path.display());
    let ran = site.weir(&["module", "replay", "sums", "--partition=1", "--json", &out]).expect(0);
    let summary = ran.json();
    let made = std::fs::read_to_string(&path)?;
    let made: Vec<Value> = made.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let values: Vec<&str> = made.iter().filter_map(|line| line["value"].as_str()).collect();
    assert_eq!(values, stored.lines().collect::<Vec<_>>());
    assert_eq!(sum(&summary, "records_out"), values.len() as u64);

    for (arguments, code, says) in [
        (&["nobody"][..], 4, "nobody"),
        (&["sums", "--from=3"], 2, "of one partition"),
        (&["sums", "--partition=7"], 2, "no partition 7"),
        (&["sums", "--partition=0", "--to=100000"], 4, "ends at offset"),
        (&["sums", "--partition=0", "--to=100000", "--compare"], 4, "is ahead of it"),
        (&["sums", "--module=total@9.0.0"], 4, "no module total@9.0.0"),
        (&["sums", "--param=nothing=1"], 2, "nothing"),
    ] {
        let ran = site.weir(&[&["module", "replay"], arguments].concat()).expect(code);
        assert!(ran.stderr.contains(says), "{}: {}", ran.line, ran.stderr);
    }
    // Its state at offset 20 came of records that are gone.
    site.weir(&["topic", "trim", "in", "--before=10", "--partition=0"]).expect(0);
    let refused = ["module", "replay", "sums", "--partition=0", "--from=20"];
    let refused = site.weir(&refused).expect(4);
    assert!(refused.stderr.contains("state") && refused.stderr.contains("is not kept"));
    assert!(refused.stderr.contains("Nothing can be replayed here"), "{}", refused.stderr);
    Ok(())
}

/// Goal: behind a takeover a replay begins with the snapshot that the takeover left, migrated as
/// the lane's state was, and makes the same bytes; what an earlier version made is another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_snapshot() -> Result<()> {
    let site = Site::start()?;
    site.create("sums", "total@1.0.0", "same", &["--param=field=v"]);
    site.produce(0, 200)?;
    site.settle("sums").await?;
    site.weir(&["transform", "replace", "sums", "--module=total@2.0.0"]).expect(0);
    site.produce(200, 400)?;
    site.settle("sums").await?;
    let lanes = site.lanes("sums");
    assert_eq!(lanes.len(), PARTITIONS);
    let all = site.compare("sums", &[], 0);
    assert_eq!(sum(&all, "records_in"), 200, "{all}");
    for (lane, replayed) in lanes.iter().zip(all["partitions"].as_array().context("partitions")?) {
        assert_eq!(replayed["from_snapshot"], true);
        assert_eq!(replayed["begun_at"], lane["snapshots"][0]["offset"], "{replayed} {lane}");
    }
    // Before it, it was the version before; from the very beginning that can be shown.
    let taken = lanes[0]["snapshots"][0]["offset"].as_u64().context("a snapshot")?;
    let before = ["--partition=0", "--from=0", &format!("--to={taken}")];
    site.compare("sums", &before, 1);
    site.compare("sums", &[&before[..], &["--module=total@1.0.0"]].concat(), 0);
    // What it left is told no more once the input is gone from there; then the rest is.
    let trim = format!("--before={}", taken + 1);
    site.weir(&["topic", "trim", "in", &trim, "--partition=0"]).expect(0);
    let refused = site.weir(&["module", "replay", "sums", "--partition=0"]).expect(4);
    assert!(refused.stderr.contains("is not kept"), "{}", refused.stderr);
    site.compare("sums", &["--partition=1"], 0);
    Ok(())
}
