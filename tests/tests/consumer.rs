//! `weir consumer` as an operator uses it: positions, policies, what is granted and what is not.

#[path = "../../node/crates/wasm/tests/modules/wat.rs"]
mod wat;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_client::{Client, ProducerRecord, StartAt, TopicConfig};
use weir_core::module::name::ModuleRef;
use weir_tests::guests::example;
use weir_tests::node_process::{NodeProcess, Ran, weir_command};
use weir_tests::web_server::{Answer, WebServer};

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
            ("latest_value", "latest@1.0.0"),
            ("latest_value", "latest@1.1.0"),
            ("webhook_alert", "alert@1.0.0"),
            ("running_total", "total@1.0.0"),
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
        let fixed = ["consumer", "create", name, "--from=in"];
        self.weir(&[&fixed[..], more].concat())
    }

    /// A consumer that posts what is above 80 to this host.
    fn alerts(&self, host: &str, more: &[&str]) -> Ran {
        let url = format!("--param=url=http://{host}/hook");
        let fixed = ["--module=alert@1.0.0", &*url, "--param=field=t", "--param=above=80"];
        self.create("alerts", &[&fixed[..], more].concat())
    }

    fn lane(&self, name: &str) -> Value {
        let described = self.weir(&["consumer", "describe", name, "--json"]).expect(0).json();
        described["partitions"][0].clone()
    }

    /// Waits until the lane is as it should be.
    async fn until(&self, name: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
        until(|| Some(self.lane(name)).filter(&right))
            .await
            .with_context(|| format!("it never came to that: {}", self.lane(name)))
    }

    fn values(&self, topic: &str) -> Vec<Value> {
        let consume =
            ["consume", topic, "--from=earliest", "--until-end", "--format=json", "--headers"];
        let ran = self.weir(&consume).expect(0);
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Looks again and again until there is something to see.
async fn until<T>(look: impl Fn() -> Option<T>) -> Result<T> {
    let looking = async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            // sleep: between two looks at another process.
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.context("in vain")
}

fn state(lane: &Value, state: &str) -> bool {
    lane["state"] == state
}

fn error(lane: &Value) -> &str {
    lane["last_error"]["message"].as_str().unwrap_or_default()
}

/// Goal: a consumer is made, shown, paused, replaced, rolled back and deleted; the commands of the
/// other kind refuse it and name the right ones; what makes no sense is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_shown_replaced_deleted() -> Result<()> {
    let site = Site::start().await?;
    let created = site.create("table", &["--module=latest@1.0.0", "--to=out", "--json"]);
    let created = created.expect(0).json();
    assert_eq!(created["deployment"]["spec"]["kind"], "consumer");
    assert_eq!(created["deployment"]["mode"], "outbox");
    site.produce(&["1", "2", "2", "3"])?;
    let through = |lane: &Value| lane["position"] == 4 && lane.get("undelivered").is_none();
    let lane = site.until("table", through).await?;
    assert_eq!((&lane["records_in"], &lane["records_out"]), (&json!(4), &json!(3)), "{lane}");
    assert_eq!(lane["state_keys"], 1, "{lane}");
    let changes = site.values("out");
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(changes[2].to_string().contains("before"), "{}", changes[2]);

    let shown = site.weir(&["consumer", "describe", "table"]).expect(0).stdout;
    assert!(shown.contains("latest@1.0.0") && shown.contains("to        out"), "{shown}");
    let version =
        |ran: Ran| ran.expect(0).json()["deployment"]["spec"]["version"]["module"].clone();
    let replace = ["consumer", "replace", "table", "--module=latest@1.1.0", "--json"];
    assert_eq!(version(site.weir(&replace)), "latest@1.1.0");
    let back = ["consumer", "rollback", "table", "--json"];
    assert_eq!(version(site.weir(&back)), "latest@1.0.0");
    site.weir(&["consumer", "pause", "table"]).expect(0);
    site.until("table", |lane| state(lane, "paused")).await?;
    site.weir(&["consumer", "resume", "table"]).expect(0);
    site.until("table", |lane| state(lane, "running")).await?;

    let total = ["--module=total@1.0.0", "--from=in", "--to=out", "--param=field=v"];
    site.weir(&[&["transform", "create", "totals"][..], &total].concat()).expect(0);
    for verb in ["describe", "pause", "resume", "rollback", "delete"] {
        let refused = site.weir(&["transform", verb, "table"]).expect(4).stderr;
        assert!(refused.contains("it is a consumer") && refused.contains("`weir consumer`"));
        let refused = site.weir(&["consumer", verb, "totals"]).expect(4).stderr;
        assert!(refused.contains("it is a transform") && refused.contains("`weir transform`"));
    }
    let list = |kind| site.weir(&[kind, "list"]).expect(0).stdout;
    assert!(list("consumer").contains("table") && !list("consumer").contains("totals"));
    assert!(list("transform").contains("totals") && !list("transform").contains("table"));

    for (arguments, code, says) in [
        (&["--module=total@1.0.0", "--param=field=v"][..], 4, "not a consumer"),
        (&["--module=latest@1.0.0", "--to=nowhere"], 4, "no topic `nowhere`"),
        (&["--module=latest@1.0.0", "--to=in"], 4, "feed itself"),
        (&["--module=latest@1.0.0", "--retries=3"], 4, "not retry"),
        (&["--module=latest@1.0.0", "--allow-http=http://a/"], 2, "HOST or HOST:PORT"),
        (&["--module=latest@1.0.0", "--http-timeout=1s"], 2, "--allow-http"),
        (&["--module=latest@1.0.0", "--allow-http=a", "--http-timeout=2m"], 2, "60 s"),
    ] {
        let refused = site.create("x", arguments).expect(code);
        assert!(refused.stderr.contains(says), "{arguments:?}: {}", refused.stderr);
    }
    let ca = site.dir.path().join("ca.pem").to_string_lossy().into_owned();
    std::fs::write(&ca, "no certificate")?;
    let refused = site.create("x", &["--module=latest@1.0.0", "--allow-http=a", "--http-ca", &ca]);
    assert!(refused.stderr.contains("no certificates of authorities"), "{}", refused.stderr);
    assert_eq!(refused.code, 4);
    let refused = site.weir(&["topic", "delete", "out", "--yes"]).expect(4);
    assert!(refused.stderr.contains("deployment `"), "{}", refused.stderr);
    site.weir(&["consumer", "delete", "table"]).expect(0);
    site.weir(&["consumer", "describe", "table"]).expect(4);
    assert_eq!(site.values("out").len(), 3, "what was published stays");
    Ok(())
}

/// Goal: while the server is down the position stays and nothing is lost; once it is up each alert
/// arrives, with an id that tells repetitions apart; a server that refuses keeps the position, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_is_down_first() -> Result<()> {
    let site = Site::start().await?;
    let nobody = WebServer::nobody()?;
    let host = nobody.to_string();
    site.alerts(&host, &["--on-error=retry", &format!("--allow-http={host}")]).expect(0);
    let lines: Vec<String> = (0..40).map(|n| format!("{{\"t\":{}}}", 60 + n)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    site.produce(&lines)?;
    // 21 is the first above 80.
    let lane = site.until("alerts", |lane| state(lane, "retrying")).await?;
    assert_eq!((&lane["position"], &lane["last_error"]["offset"]), (&json!(21), &json!(21)));
    assert!(error(&lane).contains(&format!("connecting to {host}")), "{lane}");

    let server = WebServer::start_at(nobody, Answer::Status(503))?;
    let lane = site.until("alerts", |lane| error(lane).contains("answered 503")).await?;
    assert_eq!(lane["position"], 21, "{lane}");
    server.answer(Answer::Status(204));
    let lane = site.until("alerts", |lane| lane["position"] == 40).await?;
    assert!(lane["http_requests"].as_u64() > lane["http_failures"].as_u64(), "{lane}");

    let mut accepted = BTreeMap::new();
    for received in server.received().iter().filter(|r| r.answer == Answer::Status(204)) {
        assert_eq!(received.line, "POST /hook HTTP/1.1");
        assert_eq!(received.headers["host"], host);
        let alert: Value = serde_json::from_str(&received.body)?;
        let id = alert["id"].as_str().context("an id")?.to_owned();
        assert_eq!(received.headers["idempotency-key"], id);
        accepted.insert(id, alert["value"].as_f64().context("a number")?);
    }
    let wanted: BTreeMap<String, f64> =
        (21..40).map(|n| (format!("in/0/{n}"), f64::from(60 + n))).collect();
    assert_eq!(accepted, wanted);
    let (_, metrics) = site.node.http_get("/metrics")?;
    let requests = "weir_deployment_http_requests_total{deployment=\"alerts\",partition=\"0\"}";
    assert!(metrics.contains(requests), "{metrics}");
    Ok(())
}

/// Goal: a host that is not granted is not reached, and the error names the flag; a budget of
/// retries ends at the record; a response that is too large fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted() -> Result<()> {
    let site = Site::start().await?;
    let server = WebServer::start(Answer::Status(200))?;
    site.produce(&["{\"t\":1}", "{\"t\":99}"])?;
    let other_port = format!("--allow-http=127.0.0.1:{}", WebServer::nobody()?.port());
    for grants in [&[][..], &["--allow-http=localhost"], &[&*other_port]] {
        site.alerts(&server.host(), &[grants, &["--on-error=retry", "--retries=2"]].concat())
            .expect(0);
        let lane = site.until("alerts", |lane| state(lane, "stopped")).await?;
        assert_eq!((&lane["position"], &lane["last_error"]["offset"]), (&json!(1), &json!(1)));
        assert!(error(&lane).contains("--allow-http"), "{lane}");
        assert!(error(&lane).contains("tried again 2 times"), "{lane}");
        site.weir(&["consumer", "delete", "alerts"]).expect(0);
    }
    assert_eq!(server.received().len(), 0);

    let grant = format!("--allow-http={}", server.host());
    server.answer(Answer::Bytes(2 << 20));
    site.alerts(&server.host(), &[&grant]).expect(0);
    let lane = site.until("alerts", |lane| state(lane, "stopped")).await?;
    assert!(error(&lane).contains("larger than the limit"), "{lane}");
    server.answer(Answer::Status(200));
    site.weir(&["consumer", "resume", "alerts"]).expect(0);
    site.until("alerts", |lane| lane["position"] == 2).await?;
    Ok(())
}

/// Goal: a request that is not answered ends with its timeout; one that may wait long holds up
/// neither another consumer nor who pauses, which gives it up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_say_nothing() -> Result<()> {
    let site = Site::start().await?;
    let server = WebServer::start(Answer::Nothing)?;
    let grant = format!("--allow-http={}", server.host());
    site.produce(&["{\"t\":99}", "{\"t\":1}"])?;
    site.alerts(&server.host(), &[&grant, "--http-timeout=250ms"]).expect(0);
    let lane = site.until("alerts", |lane| state(lane, "stopped")).await?;
    assert!(error(&lane).contains("no response within 250 ms"), "{lane}");
    assert!(lane["cpu_us"].as_u64() < Some(200_000), "waiting is no CPU time: {lane}");
    site.weir(&["consumer", "delete", "alerts"]).expect(0);

    let before = (server.received().len(), server.given_up());
    assert_eq!(before.0, before.1, "all were given up");
    site.alerts(&server.host(), &[&grant, "--http-timeout=60s"]).expect(0);
    until(|| (server.received().len() > before.0).then_some(())).await?;
    // On a machine with few cores, on the very thread that waits.
    site.create("table", &["--module=latest@1.0.0"]).expect(0);
    let lane =
        site.until("table", |lane| lane["state_keys"] == 0 && state(lane, "stopped")).await?;
    assert!(error(&lane).contains("--to"), "{lane}");
    assert_eq!(server.given_up(), before.1, "it waits");
    site.weir(&["consumer", "pause", "alerts"]).expect(0);
    until(|| (server.given_up() == server.received().len()).then_some(())).await?;
    let lane = site.until("alerts", |lane| state(lane, "paused")).await?;
    assert_eq!(lane["position"], 0, "{lane}");

    server.answer(Answer::Status(200));
    site.weir(&["consumer", "resume", "alerts"]).expect(0);
    site.until("alerts", |lane| lane["position"] == 2).await?;
    Ok(())
}

/// Goal: consumers that loop, trap, or publish where they may not stand at their record, and harm
/// nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_consumers_harm_nobody_else() -> Result<()> {
    let site = Site::start().await?;
    let export = "weir:module/consuming@1.0.0#consume";
    let items = "(data (i32.const 512) \"cannot go on\")";
    for (name, call) in [
        ("endless", "(loop $ever (br $ever))"),
        ("traps", "(call $log (i32.const 0) (i32.const 512) (i32.const 12)) unreachable"),
    ] {
        // A call without records, by which a node sees whether it starts, is harmless.
        let call = format!("(if (i32.load (local.get $batch)) (then {call}))");
        let upload = wat::Wat { call: &call, export, items, ..wat::Wat::default() }.upload()?;
        let id: ModuleRef = format!("{name}@1.0.0").parse()?;
        site.client.admin().push_module(id, upload.component, |_| {}).await?;
        site.create(name, &[&format!("--module={name}@1.0.0")]).expect(0);
    }
    // No topic was granted to it.
    site.create("ungranted", &["--module=latest@1.0.0"]).expect(0);
    site.create("table", &["--module=latest@1.0.0", "--to=out"]).expect(0);
    site.produce(&["1", "2", "3"])?;
    for (name, says) in [("endless", "CPU time"), ("traps", "trapped"), ("ungranted", "--to")] {
        let lane = site.until(name, |lane| state(lane, "stopped")).await?;
        assert_eq!((&lane["position"], &lane["last_error"]["offset"]), (&json!(0), &json!(0)));
        assert!(error(&lane).contains(says), "{name}: {lane}");
    }
    let through = |lane: &Value| lane["position"] == 3 && lane.get("undelivered").is_none();
    site.until("table", through).await?;
    assert_eq!(site.values("out").len(), 3);
    logs(&site).await
}

/// What `traps` logged before it trapped, once in each of two runs, and again when it is resumed.
async fn logs(site: &Site) -> Result<()> {
    let logged = site.weir(&["consumer", "logs", "traps"]).expect(0).stdout;
    let lines: Vec<&str> = logged.lines().collect();
    ensure!(lines.len() >= 2, "{logged}");
    for line in &lines {
        assert!(line.ends_with("  0  error  cannot go on"), "{line}");
    }
    let last = site.weir(&["consumer", "logs", "traps", "--lines=1", "--json"]).expect(0).json();
    assert_eq!(last["number"], lines.len() - 1, "{last}");
    assert_eq!((&last["level"], &last["partition"]), (&json!("error"), &json!(0)));
    assert_eq!(site.weir(&["consumer", "logs", "table"]).expect(0).stdout, "");
    site.weir(&["consumer", "logs", "nobody"]).expect(4);
    site.weir(&["transform", "logs", "traps"]).expect(4);

    let dir = site.node.data_dir().to_string_lossy().into_owned();
    let mut follower = weir_command()
        .args(["consumer", "logs", "traps", "--follow", "--lines=0", "--json", "--data-dir", &dir])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = follower.stdout.take().context("no output")?;
    let reading = tokio::task::spawn_blocking(move || -> Result<Value> {
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    });
    // It may begin behind what this first resumption logs; not behind all of them.
    let resuming = async {
        while !reading.is_finished() {
            site.weir(&["consumer", "resume", "traps"]).expect(0);
            // sleep: between two looks at another process.
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, resuming).await.context("nothing is followed")?;
    assert_eq!(reading.await??["message"], "cannot go on");
    follower.kill()?;
    follower.wait()?;
    Ok(())
}

/// Goal: what a consumer publishes, its state and its position are those of an uninterrupted run,
/// wherever the node is killed.
/// Method: records of some keys and few values, over three partitions, are produced while the node
/// is killed every few confirmed records; what is published must be exactly the changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_exactly_once_across_kills() -> Result<()> {
    const KILLS: u32 = 12;
    const RECORDS_PER_KILL: u32 = 150;
    const PARTITIONS: u32 = 3;
    let mut site = Site::start().await?;
    for (topic, partitions) in [("readings", PARTITIONS), ("changes", 5)] {
        let config = TopicConfig { partitions, ..TopicConfig::default() };
        site.client.admin().create_topic(topic, config).await?;
    }
    let create = ["consumer", "create", "table", "--module=latest@1.0.0", "--from=readings"];
    site.weir(&[&create[..], &["--to=changes"]].concat()).expect(0);
    let producer = site.client.producer().linger(Duration::from_millis(1)).build().await?;
    let (mut wanted, mut table) = (BTreeMap::<String, Vec<String>>::new(), BTreeMap::new());
    for round in 0..KILLS {
        let mut deliveries = Vec::new();
        for n in round * RECORDS_PER_KILL..(round + 1) * RECORDS_PER_KILL {
            let (key, value) = (format!("k{}", n * 7 % 11), (n / 23 % 4).to_string());
            if table.insert(key.clone(), value.clone()).as_ref() != Some(&value) {
                wanted.entry(key.clone()).or_default().push(value.clone());
            }
            let record = ProducerRecord::new("readings", value).with_key(key);
            deliveries.push(producer.send(record).await?);
        }
        // In the middle of the round, wherever the consumer is then.
        for (n, delivery) in deliveries.into_iter().enumerate() {
            if n as u32 == 1 + round * 31 % RECORDS_PER_KILL {
                site.node.kill()?;
                site.node.start_again()?;
            }
            timeout(PATIENCE, delivery).await.context("a delivery hangs")??;
        }
    }
    producer.close().await?;
    let all = until(|| {
        let info = site.weir(&["consumer", "describe", "table", "--json"]).expect(0).json();
        let lanes = info["partitions"].as_array().cloned().unwrap_or_default();
        let through = |lane: &Value| lane["lag"] == 0 && lane.get("undelivered").is_none();
        lanes.iter().all(|lane| through(lane) && lane["position"].is_number()).then_some(lanes)
    });
    let lanes = all.await?;
    let keys: u64 = lanes.iter().filter_map(|lane| lane["state_keys"].as_u64()).sum();
    assert_eq!(keys, table.len() as u64);
    let mut got = BTreeMap::<String, Vec<String>>::new();
    let mut consumer = site.client.consumer().until_end(true).build();
    let assigned: Vec<_> = (0..5).map(|p| ("changes", p, StartAt::Earliest)).collect();
    consumer.assign(&assigned).await?;
    while let Some(batch) = timeout(PATIENCE, consumer.next_batch()).await?? {
        for record in batch.records() {
            let text = |bytes: Option<&[u8]>| {
                String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
            };
            got.entry(text(record.key)).or_default().push(text(record.value));
        }
    }
    ensure!(got == wanted, "published {got:?}, wanted {wanted:?}");
    Ok(())
}
