//! The command line against a real node process: topics, groups, status, access, health, and how
//! a node begins and ends.

use anyhow::Result;
use rustix::process::Signal;
use std::fmt::Write as _;
use weir_client::{ProducerRecord, TopicConfig};
use weir_core::wire::message::StartAt;
use weir_tests::node_process::{NodeProcess, weir, weir_command};

/// A node and its folder, which lives as long.
struct Fixture {
    node: NodeProcess,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Fixture {
    type Target = NodeProcess;

    fn deref(&self) -> &NodeProcess {
        &self.node
    }
}

impl std::ops::DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut NodeProcess {
        &mut self.node
    }
}

fn fixture(arguments: &[&str]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let node = NodeProcess::start_with(dir.path(), arguments).unwrap();
    Fixture { node, dir }
}

/// Appends `count` records to partition 0 of `topic`.
async fn append(node: &NodeProcess, topic: &str, count: usize) -> Result<()> {
    let client = node.client().await?;
    let producer = client.producer().build().await?;
    let mut deliveries = Vec::new();
    for n in 0..count {
        let record = ProducerRecord {
            topic: topic.into(),
            partition: Some(0),
            key: None,
            value: Some(format!("record {n}").into()),
            headers: Vec::new(),
            timestamp: None,
        };
        deliveries.push(producer.send(record).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}

fn offsets(described: &serde_json::Value, partition: usize) -> [i64; 3] {
    let partition = &described[0]["partitions"][partition];
    ["log_start", "high_watermark", "log_end"].map(|field| partition[field].as_i64().unwrap())
}

/// Goal: a topic's whole life through the command line, and each step seen by the next.
#[tokio::test]
async fn a_topics_life() -> Result<()> {
    let node = fixture(&[]);
    let created = node
        .weir(&["topic", "create", "readings", "--partitions=2", "--retention=30d", "--json"])
        .expect(0)
        .json();
    assert_eq!(created["config"]["partitions"], 2);
    assert_eq!(created["config"]["retention_ms"], 30 * 86_400_000_i64);
    append(&node, "readings", 7).await?;

    let listed = node.weir(&["topic", "list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "readings");
    let described = node.weir(&["topic", "describe", "readings", "--json"]).expect(0).json();
    assert_eq!(offsets(&described, 0), [0, 7, 7]);
    assert_eq!(offsets(&described, 1), [0, 0, 0]);

    let alter = ["topic", "alter", "readings", "--partitions=3", "--retention=forever", "--json"];
    let altered = node.weir(&alter).expect(0).json();
    assert_eq!(altered["config"]["partitions"], 3);
    assert!(altered["config"]["retention_ms"].is_null());
    assert_eq!(altered["config"]["durability"], "durable");

    let trim = ["topic", "trim", "readings", "--partition=0", "--before=5", "--json"];
    let trimmed = node.weir(&trim).expect(0).json();
    assert_eq!(trimmed[0]["records_dropped"], 5);
    let described = node.weir(&["topic", "describe", "readings", "--json"]).expect(0).json();
    assert_eq!(offsets(&described, 0), [5, 7, 7]);

    let unasked = node.weir(&["topic", "delete", "readings"]).expect(2);
    assert!(unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let listed = node.weir(&["topic", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["name"], "readings", "{listed}");
    node.weir(&["topic", "delete", "readings", "--yes"]).expect(0);
    let listed = node.weir(&["topic", "list", "--json"]).expect(0).json();
    assert_eq!(listed, serde_json::json!([]));
    Ok(())
}

/// Goal: who produces to a topic with relaxed durability is told that the records were not on disk
/// when they were acknowledged; to another one, nothing of the kind.
#[tokio::test]
async fn relaxed_acks_are_named() -> Result<()> {
    let node = fixture(&[]);
    let lines = node.data_dir().join("lines");
    std::fs::write(&lines, "one\ntwo\n")?;
    let lines = lines.to_string_lossy().into_owned();
    for (durability, relaxed) in [("relaxed", 2), ("durable", 0)] {
        node.weir(&["topic", "create", durability, "--durability", durability]).expect(0);
        let text = node.weir(&["produce", durability, &lines]).expect(0).stdout;
        assert_eq!(text.contains("before they were on disk"), relaxed > 0, "{text}");
        let json = node.weir(&["produce", durability, &lines, "--json"]).expect(0).json();
        assert_eq!(json["records_relaxed"], relaxed, "{json}");
    }
    Ok(())
}

/// Goal: refusals have their exit code, say which name was meant, and change nothing.
#[tokio::test]
async fn refusals_say_what_to_do() -> Result<()> {
    let node = fixture(&[]);
    node.weir(&["topic", "create", "readings"]).expect(0);
    let wrong = node.weir(&["topic", "describe", "raedings"]).expect(4);
    assert!(wrong.stderr.contains("`readings`"), "{}", wrong.stderr);
    let wrong = node.weir(&["topic", "delete", "raedings", "--json"]).expect(4);
    let error: serde_json::Value = serde_json::from_str(&wrong.stderr)?;
    assert_eq!(error["error"]["code"], "unknown-topic");
    assert_eq!(error["error"]["took_effect"], "no");
    node.weir(&["topic", "delete", "raedings", "--if-exists"]).expect(0);

    let exists = node.weir(&["topic", "create", "readings", "--partitions=9"]).expect(4);
    assert!(exists.stderr.contains("exists"), "{}", exists.stderr);
    let kept = ["topic", "create", "readings", "--partitions=9", "--if-not-exists", "--json"];
    assert_eq!(node.weir(&kept).expect(0).json()["config"]["partitions"], 1);
    node.weir(&["topic", "alter", "readings", "--retention=1d"]).expect(0);
    node.weir(&["topic", "alter", "readings"]).expect(2);
    node.weir(&["topic", "create", "a b"]).expect(4);
    node.weir(&["topic", "create", "x", "--retention=7"]).expect(2);
    node.weir(&["group", "describe", "nobody"]).expect(4);
    node.weir(&["topic", "lsit"]).expect(2);
    Ok(())
}

/// Goal: stored positions are shown with their lag, a dry run changes nothing, a reset does, and
/// a deleted group is gone.
#[tokio::test]
async fn groups() -> Result<()> {
    let node = fixture(&[]);
    for topic in ["gps", "can"] {
        node.weir(&["topic", "create", topic, "--partitions=2"]).expect(0);
        append(&node, topic, 10).await?;
    }
    let positions = |group: &str| -> Vec<(String, i64, i64, i64)> {
        let described = node.weir(&["group", "describe", group, "--json"]).expect(0).json();
        let number = |p: &serde_json::Value, field: &str| p[field].as_i64().unwrap();
        let position = |p: &serde_json::Value| {
            let topic = p["topic"].as_str().unwrap().to_owned();
            (topic, number(p, "partition"), number(p, "offset"), number(p, "lag"))
        };
        described["positions"].as_array().unwrap().iter().map(position).collect()
    };
    node.weir(&["group", "reset", "dashboard", "--to=earliest"]).expect(4);
    let both = ["--topic=gps", "--topic=can"];
    node.weir(&["group", "reset", "dashboard", both[0], both[1], "--to=latest"]).expect(0);
    let at = |topic: &str, partition, offset, lag| (topic.to_owned(), partition, offset, lag);
    let latest = [at("can", 0, 10, 0), at("can", 1, 0, 0), at("gps", 0, 10, 0), at("gps", 1, 0, 0)];
    assert_eq!(positions("dashboard"), latest);

    let dry =
        ["group", "reset", "dashboard", "--topic=gps", "--to=4", "--partition=0", "--dry-run"];
    let shown = node.weir(&[&dry[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(shown["dry_run"], true);
    assert_eq!((&shown["moves"][0]["from"], &shown["moves"][0]["to"]), (&10.into(), &4.into()));
    assert_eq!(positions("dashboard"), latest);
    node.weir(&dry[..dry.len() - 1]).expect(0);
    assert_eq!(positions("dashboard")[2], at("gps", 0, 4, 6));
    node.weir(&["group", "reset", "dashboard", "--topic=gps", "--partition=0", "--to=11"])
        .expect(4);
    node.weir(&["group", "reset", "dashboard", "--to=earliest"]).expect(0);
    assert_eq!(positions("dashboard")[0], at("can", 0, 0, 10));

    let listed = node.weir(&["group", "list", "--json"]).expect(0).json();
    assert_eq!((&listed[0]["name"], &listed[0]["positions"]), (&"dashboard".into(), &4.into()));
    node.weir(&["group", "delete", "dashboard", "--topic=can"]).expect(0);
    assert_eq!(positions("dashboard").len(), 2);
    let near = node.weir(&["group", "describe", "dashbaord"]).expect(4);
    assert!(near.stderr.contains("`dashboard`"), "{}", near.stderr);
    node.weir(&["group", "delete", "dashboard"]).expect(0);
    let listed = node.weir(&["group", "list", "--json"]).expect(0).json();
    assert_eq!(listed, serde_json::json!([]));
    Ok(())
}

/// Goal: the status, as text and JSON, and the metrics say the same about a partition.
#[tokio::test]
async fn status_and_metrics_agree() -> Result<()> {
    let node = fixture(&["--name", "edge-1"]);
    node.weir(&["topic", "create", "gps.raw"]).expect(0);
    append(&node, "gps.raw", 25).await?;
    let status = node.weir(&["status", "--json"]).expect(0).json();
    assert_eq!(status["node"], "edge-1");
    let partition = &status["partitions"][0];
    assert_eq!(
        (&partition["topic"], &partition["high_watermark"]),
        (&"gps.raw".into(), &25.into())
    );
    assert_eq!(partition["records_in"], 25);
    assert!(partition["bytes"].as_u64() > Some(0));
    let text = node.weir(&["status"]).expect(0).stdout;
    assert!(text.lines().any(|line| line.starts_with("gps.raw") && line.ends_with("online")));
    let none = node.weir(&["status", "--topic=other", "--json"]).expect(0).json();
    assert_eq!(none["partitions"], serde_json::json!([]));

    let (code, metrics) = node.http_get("/metrics")?;
    assert_eq!(code, 200);
    for line in [
        "weir_ready 1",
        r#"weir_partition_high_watermark{topic="gps.raw",partition="0"} 25"#,
        r#"weir_partition_records_in_total{topic="gps.raw",partition="0"} 25"#,
        r#"weir_shard_online{shard="0"} 1"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    assert_eq!(node.http_get("/health")?.0, 200);
    let (code, body) = node.http_get("/status")?;
    let over_http: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((code, &over_http["cluster"]), (200, &status["cluster"]));
    assert_eq!(node.http_get("/nothing")?.0, 404);
    Ok(())
}

/// Goal: an orderly end leaves exit code 0, no run file and the data; a client then says that no
/// node runs, and after a crash that its process has ended.
#[tokio::test]
async fn ends_and_begins_again() -> Result<()> {
    let mut node = fixture(&[]);
    node.weir(&["topic", "create", "readings"]).expect(0);
    append(&node, "readings", 3).await?;
    let before = node.weir(&["status", "--json"]).expect(0).json();
    assert_eq!(node.stop()?.code(), Some(0));
    assert!(!node.data_dir().join("run/node.json").exists());
    let stopped = node.weir(&["topic", "list"]).expect(3);
    assert!(stopped.stderr.contains("no node runs"), "{}", stopped.stderr);

    let address = node.address();
    node.start_again()?;
    assert_eq!(node.address(), address);
    let after = node.weir(&["status", "--json"]).expect(0).json();
    assert_eq!(after["cluster"], before["cluster"]);
    assert_eq!(after["partitions"][0]["high_watermark"], 3);

    node.kill()?;
    let killed = node.weir(&["topic", "list", "--timeout=300ms"]).expect(3);
    assert!(killed.stderr.contains("has ended"), "{}", killed.stderr);
    node.start_again()?;
    let after = node.weir(&["status", "--json"]).expect(0).json();
    assert_eq!(after["partitions"][0]["high_watermark"], 3);
    node.signal(Signal::INT)?;
    assert_eq!(node.wait()?.code(), Some(0));
    Ok(())
}

/// Goal: one folder has one node, and the second one says who has it.
#[tokio::test]
async fn a_folder_in_use() {
    let node = fixture(&[]);
    let refusal = NodeProcess::start(node.dir.path()).unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {} serves it", node.pid())), "{refusal}");
    node.weir(&["status"]).expect(0);
}

/// Goal: where certificates are required, a client without one is refused in words; the node's own
/// user needs nothing; an issued certificate has the rights of its rule and no others.
#[tokio::test]
async fn certificates_and_rules() -> Result<()> {
    let config_dir = tempfile::tempdir()?;
    let config = config_dir.path().join("weir.toml");
    std::fs::write(
        &config,
        "[access]\nanonymous = []\n\
         [[access.rule]]\nprincipal = 'admin'\nroles = ['admin']\n\
         [[access.rule]]\nprincipal = 'gateway-*'\nroles = ['produce', 'consume']\n\
         topics = ['gps.']\n",
    )?;
    let node = fixture(&["--config", config.to_str().unwrap()]);
    node.weir(&["topic", "create", "gps.raw"]).expect(0);
    node.weir(&["topic", "create", "secret"]).expect(0);

    let out = node.dir.path().join("certificates");
    let out = out.to_str().unwrap();
    for name in ["gateway-7", "stranger"] {
        node.weir(&["cert", "client", name, "--out", out]).expect(0);
    }
    node.weir(&["cert", "client", "gateway-7", "--out", out]).expect(1);
    let shown = weir(&["cert", "show", &format!("{out}/gateway-7.pem"), "--json"]).expect(0).json();
    assert_eq!((&shown["principal"], &shown["expired"]), (&"gateway-7".into(), &false.into()));
    let ca = node.weir(&["cert", "ca"]).expect(0).stdout;
    assert_eq!(ca, std::fs::read_to_string(node.ca())?);
    let ca_file = node.dir.path().join("copied-ca.pem");
    std::fs::write(&ca_file, ca)?;

    // As from another machine: nothing of the node's folder but the copied files.
    let address = node.address().to_string();
    let remote = |who: Option<&str>, arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--server", &address, "--ca", ca_file.to_str().unwrap()]);
        let files = who.map(|who| (format!("{out}/{who}.pem"), format!("{out}/{who}.key")));
        if let Some((cert, key)) = &files {
            all.extend(["--cert", cert, "--key", key]);
        }
        weir(&all)
    };
    let anonymous = remote(None, &["topic", "list"]).expect(4);
    assert!(anonymous.stderr.contains("requires a client certificate"), "{}", anonymous.stderr);
    let listed = remote(Some("gateway-7"), &["topic", "list", "--json"]).expect(0).json();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gps.raw"]);
    let refused = remote(Some("gateway-7"), &["topic", "create", "gps.more"]).expect(4);
    assert!(refused.stderr.contains("the right `admin`"), "{}", refused.stderr);
    remote(Some("stranger"), &["status"]).expect(4);
    let log = node.log();
    assert!(log.contains("certificate"), "the node says so, too:\n{log}");
    Ok(())
}

/// Goal: a site's certificate authority is not another's.
#[tokio::test]
async fn the_wrong_authority() {
    let node = fixture(&[]);
    let other = fixture(&[]);
    let address = node.address().to_string();
    let wrong_ca = other.ca();
    let refused =
        weir(&["topic", "list", "--server", &address, "--ca", wrong_ca.to_str().unwrap()])
            .expect(4);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    let nothing = weir_command()
        .args(["topic", "list", "--server", &address])
        .args(["--data-dir", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(nothing.status.code(), Some(2));
}

/// Goal: a wrong configuration is refused with file, line and the nearest name, before anything
/// is made; the printed configuration is one that the program takes.
#[test]
fn configuration() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weir.toml");
    let data = dir.path().join("data");
    let (file, data) = (path.to_str().unwrap(), data.to_str().unwrap());
    std::fs::write(&path, "name = 'edge-1'\nlitsen = '127.0.0.1:0'\n")?;
    let refused = weir(&["node", "--config", file, "--data-dir", data]).expect(2);
    assert!(refused.stderr.contains("line 2"), "{}", refused.stderr);
    assert!(refused.stderr.contains("`listen`"), "{}", refused.stderr);
    assert!(!dir.path().join("data").exists());

    let printed = weir(&["node", "--print-config", "--set=storage.shards=2"]).expect(0).stdout;
    assert!(printed.contains("\nshards = 2\n"), "{printed}");
    std::fs::write(&path, &printed)?;
    let again = weir(&["node", "--print-config", "--config", file]).expect(0).stdout;
    assert_eq!(again, printed);
    let environment = weir_command()
        .args(["node", "--print-config"])
        .env("WEIR_CONFIG", file)
        .env("WEIR_LISTEN", "[::1]:7447")
        .output()?;
    let text = String::from_utf8(environment.stdout)?;
    assert!(text.contains("\nlisten = \"[::1]:7447\"\n"), "{text}");
    assert!(text.contains("\nshards = 2\n"), "{text}");
    Ok(())
}

/// Goal: completions are scripts for their shells that know the commands.
#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = weir(&["completions", shell]).expect(0).stdout;
        assert!(script.contains("topic") && script.contains("describe"), "{shell}");
    }
}

/// Goal: logs as JSON are one object a line, with level and message.
#[tokio::test]
async fn json_logs() -> Result<()> {
    let mut node = fixture(&["--log-format", "json"]);
    node.stop()?;
    let mut messages = String::new();
    for line in node.log().lines() {
        let entry: serde_json::Value = serde_json::from_str(line)?;
        assert!(entry["level"].is_string(), "{line}");
        writeln!(messages, "{}", entry["message"])?;
    }
    assert!(messages.contains("shutting down"), "{messages}");
    Ok(())
}

/// Goal: what the support code promises: a client built on it rides over a restart on the same
/// port.
#[tokio::test]
async fn a_client_survives_a_restart() -> Result<()> {
    let mut node = fixture(&[]);
    let client = node.client().await?;
    client.admin().create_topic("t", TopicConfig::default()).await?;
    node.kill()?;
    node.start_again()?;
    let resolved = client.admin().offsets("t", &[(0, StartAt::Latest)]).await?;
    assert_eq!(resolved[0].offset.0, 0);
    client.close().await;
    Ok(())
}
