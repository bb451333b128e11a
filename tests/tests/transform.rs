//! `weir transform` as an operator uses it: policies, versions, and what is refused.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_client::Client;
use weir_core::module::name::ModuleRef;
use weir_tests::guests::example;
use weir_tests::node_process::{NodeProcess, Ran};

const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    node: NodeProcess,
    client: Client,
    dir: tempfile::TempDir,
}

impl Site {
    /// A node with the topics `in` and `out`, one partition each, and some modules.
    async fn start() -> Result<Site> {
        let dir = tempfile::tempdir()?;
        let node = NodeProcess::start(dir.path())?;
        let client = node.client().await?;
        let site = Site { node, client, dir };
        for topic in ["in", "out"] {
            site.weir(&["topic", "create", topic]).expect(0);
        }
        for (module, version) in [
            ("running_total", "total@1.0.0"),
            ("running_total", "total@1.1.0"),
            ("unit_range", "total@2.0.0"),
            ("text_filter", "text@1.0.0"),
        ] {
            let upload = weir_wasm::Upload::of_file(std::fs::read(example(module))?.into())?;
            let id: ModuleRef = version.parse()?;
            site.client.admin().push_module(id, upload.component, |_| {}).await?;
        }
        Ok(site)
    }

    fn weir(&self, arguments: &[&str]) -> Ran {
        self.node.weir(arguments)
    }

    /// Records of one key.
    fn produce(&self, lines: &[&str]) -> Result<()> {
        let path = self.dir.path().join("lines");
        let lines: Vec<String> = lines.iter().map(|line| format!("k|{line}")).collect();
        std::fs::write(&path, lines.join("\n"))?;
        self.weir(&["produce", "in", &path.to_string_lossy(), "--key-prefix=|"]).expect(0);
        Ok(())
    }

    fn create(&self, name: &str, more: &[&str]) -> Ran {
        let fixed = ["transform", "create", name, "--module=total@1.0.0", "--from=in", "--to=out"];
        self.weir(&[&fixed[..], &["--param=field=v"], more].concat())
    }

    fn lane(&self, name: &str) -> Value {
        let described = self.weir(&["transform", "describe", name, "--json"]).expect(0).json();
        described["partitions"][0].clone()
    }

    /// Waits until the lane is as it should be.
    async fn until(&self, name: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
        let looking = async {
            loop {
                let lane = self.lane(name);
                if right(&lane) {
                    return lane;
                }
                // sleep: between two looks at a node in another process.
                sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.with_context(|| format!("it never came to that: {}", self.lane(name)))
    }

    fn values(&self, topic: &str) -> Vec<Value> {
        let consume =
            ["consume", topic, "--from=earliest", "--until-end", "--format=json", "--headers"];
        let ran = self.weir(&consume).expect(0);
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn state(lane: &Value, state: &str) -> bool {
    lane["state"] == state
}

/// Goal: a transform that stops at a record stands before it, resumes where it stood, and goes on
/// with another version from exactly there; nothing is counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_replaced_rolled_back() -> Result<()> {
    let site = Site::start().await?;
    let created = site.create("t", &["--json"]).expect(0).json();
    assert_eq!(created["deployment"]["mode"], "direct");
    site.produce(&["{\"v\":1}", "{\"v\":2}", "bad", "{\"v\":4}"])?;
    let lane = site.until("t", |lane| state(lane, "stopped")).await?;
    assert_eq!(lane["position"], 2, "{lane}");
    assert_eq!(lane["last_error"]["offset"], 2, "{lane}");
    assert_eq!(site.values("out").len(), 2);
    let text = site.weir(&["transform", "describe", "t"]).expect(0).stdout;
    assert!(text.contains("partition 0 at offset 2"), "{text}");

    // Again the same record.
    site.weir(&["transform", "resume", "t"]).expect(0);
    site.until("t", |lane| state(lane, "stopped")).await?;
    assert_eq!(site.values("out").len(), 2);

    // State of another layout is refused, the same layout takes over.
    let other = ["transform", "replace", "t", "--module=total@2.0.0", "--param=field=v"];
    let refused = site.weir(&other).expect(4);
    assert!(refused.stderr.contains("layout"), "{}", refused.stderr);
    site.weir(&["transform", "replace", "t", "--module=total@1.1.0", "--json"]).expect(0);
    let rolled = site.weir(&["transform", "rollback", "t", "--json"]).expect(0).json();
    assert_eq!(rolled["deployment"]["spec"]["version"]["module"], "total@1.0.0");
    assert_eq!(rolled["deployment"]["previous"]["module"], "total@1.1.0");

    // A paused one does nothing, also after a restart.
    site.weir(&["transform", "pause", "t"]).expect(0);
    site.until("t", |lane| state(lane, "paused")).await?;
    let mut site = site;
    site.node.kill()?;
    site.node.start_again()?;
    site.until("t", |lane| state(lane, "paused")).await?;
    let list = site.weir(&["transform", "list"]).expect(0).stdout;
    assert!(list.contains("paused") && list.contains("total@1.0.0"), "{list}");
    Ok(())
}

/// Goal: dead letters are whole and say where they come from; what is skipped is counted; the key
/// that the module gives says which partition an output goes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters() -> Result<()> {
    let site = Site::start().await?;
    site.weir(&["topic", "create", "wide", "--partitions=4"]).expect(0);
    site.produce(&["{\"v\":1,\"m\":\"a\"}", "bad", "{\"v\":2,\"m\":\"b\"}", "{\"v\":3}"])?;
    let create = [
        "transform",
        "create",
        "d",
        "--module=total@1.0.0",
        "--from=in",
        "--to=wide",
        "--param=field=v",
        "--param=by=m",
        "--on-error=dead-letter",
    ];
    site.weir(&create).expect(0);
    let lane =
        site.until("d", |lane| lane["position"] == 4 && lane.get("undelivered").is_none()).await?;
    assert_eq!((&lane["records_in"], &lane["records_out"]), (&4.into(), &2.into()), "{lane}");
    assert_eq!((&lane["errors"], &lane["dead_letters"]), (&2.into(), &2.into()), "{lane}");
    let partition_of = |record: &Value| record["partition"].as_u64();
    for record in site.values("wide") {
        let key = record["key"].as_str().context("a key")?;
        let wanted = weir_core::partitioner::partition_for_key(key.as_bytes(), 4);
        assert_eq!(partition_of(&record), Some(u64::from(wanted.0)), "{record}");
    }
    let dead = site.values("d.dead-letter");
    ensure!(dead.len() == 2, "{dead:?}");
    let text = dead[0].to_string();
    for part in ["bad", "weir-dead-letter-error", "total@1.0.0", "weir-dead-letter-offset"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    site.create("s", &["--on-error=skip"]).expect(0);
    let lane = site.until("s", |lane| lane["position"] == 4).await?;
    assert_eq!((&lane["records_out"], &lane["errors"]), (&3.into(), &1.into()), "{lane}");
    Ok(())
}

/// Goal: topics and modules that are in use stay; internal topics are out of reach; what a deleted
/// transform kept is gone, so that one made anew begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_use_and_deleted() -> Result<()> {
    let site = Site::start().await?;
    site.create("t", &["--on-error=dead-letter"]).expect(0);
    for topic in ["in", "out", "t.dead-letter"] {
        let refused = site.weir(&["topic", "delete", topic, "--yes"]).expect(4);
        assert!(refused.stderr.contains("deployment `t`"), "{}", refused.stderr);
    }
    let refused = site.weir(&["topic", "alter", "in", "--partitions=2"]).expect(4);
    assert!(refused.stderr.contains("partition by partition"), "{}", refused.stderr);
    let refused = site.weir(&["module", "delete", "total@1.0.0"]).expect(4);
    assert!(refused.stderr.contains("replace or delete"), "{}", refused.stderr);
    for name in ["topic list", "status"] {
        let words: Vec<&str> = name.split(' ').collect();
        let listed = site.weir(&words).expect(0).stdout;
        assert!(!listed.contains("__outbox"), "{listed}");
    }
    for command in [
        &["consume", "__outbox.t", "--until-end"][..],
        &["topic", "delete", "__outbox.t", "--yes"],
        &["topic", "trim", "__outbox.t", "--before=0", "--partition=0"],
    ] {
        assert_ne!(site.weir(command).code, 0, "{command:?}");
    }
    site.produce(&["{\"v\":1}", "{\"v\":2}"])?;
    for run in 1..=2 {
        site.until("t", |lane| lane["position"] == 2 && lane.get("undelivered").is_none()).await?;
        site.weir(&["transform", "delete", "t"]).expect(0);
        site.weir(&["transform", "describe", "t"]).expect(4);
        let counts = site.values("out");
        assert_eq!(counts.len(), 2 * run);
        let last = counts[2 * run - 1].to_string();
        assert!(last.contains("\\\"count\\\":2") || last.contains("\"count\":2"), "{last}");
        site.create("t", &["--on-error=dead-letter"]).expect(0);
    }
    for (name, more) in [
        ("x", &["--module=text@1.0.0", "--from=in", "--to=out", "--param=text=a"][..]),
        ("x", &["--module=nowhere@1.0.0", "--from=in", "--to=out"]),
        ("x", &["--module=total@1.0.0", "--from=in", "--to=in", "--param=field=v"]),
        ("x", &["--module=total@1.0.0", "--from=in", "--to=out"]),
        ("t", &["--module=total@1.0.0", "--from=in", "--to=out", "--param=field=v"]),
    ] {
        let ran = site.weir(&[&["transform", "create", name][..], more].concat());
        assert_eq!(ran.code, 4, "{}: {}", ran.line, ran.stderr);
    }
    Ok(())
}

/// Goal: dead letters are listed and shown with their reasons; a replay that fails again says where
/// and loses nothing; one that works makes the records that were missing, and empties the topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_replayed() -> Result<()> {
    let site = Site::start().await?;
    site.create("d", &["--on-error=dead-letter"]).expect(0);
    site.produce(&["{\"v\":1}", "{\"w\":5}", "{\"w\":7}"])?;
    site.until("d", |lane| lane["position"] == 3 && lane.get("undelivered").is_none()).await?;
    let listed = site.weir(&["dead-letter", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["deployment"], "d");
    assert_eq!(listed[0]["letters"], 2, "{listed}");
    let shown = site.weir(&["dead-letter", "show", "d", "--limit=1", "--json"]).expect(0).json();
    assert_eq!(shown["value"], "{\"w\":5}", "{shown}");
    assert_eq!((&shown["said"]["offset"], &shown["said"]["topic"]), (&"1".into(), &"in".into()));
    assert!(shown["said"]["error"].as_str().is_some_and(|e| e.contains("no number in v")));

    let replay = ["dead-letter", "replay", "d", "--with=total@1.1.0"];
    let failed = site.weir(&replay).expect(4);
    assert!(failed.stderr.contains("no number in v"), "{}", failed.stderr);
    let again = [&replay[..], &["--param=field=w", "--json"]].concat();
    let replayed = site.weir(&again).expect(0).json();
    assert_eq!((&replayed["replayed"], &replayed["records_out"]), (&2.into(), &2.into()));
    let totals: Vec<Value> =
        site.values("out").iter().map(|record| record["value"].clone()).collect();
    assert_eq!(totals.len(), 3, "{totals:?}");
    let text = site.weir(&["dead-letter", "show", "d"]).expect(0);
    assert!(text.stderr.contains("is empty"), "{}", text.stderr);
    site.weir(&["transform", "describe", "d.replay"]).expect(4);
    Ok(())
}
