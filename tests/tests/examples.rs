//! The example modules in a real node: what they make of some records, and of real recordings.
//!
//! Real recordings are in the folder that `WEIR_TEST_DATA` names, else in `../shared/data` next to
//! the repository; tests that need them say so and pass where they are not.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use weir_core::module::name::ModuleRef;
use weir_tests::guests::{example, find};
use weir_tests::node_process::NodeProcess;

const PATIENCE: Duration = Duration::from_secs(120);

/// A deployment of an example, and what it is to make.
struct Case {
    name: &'static str,
    module: &'static str,
    /// Parameters and the like, as `weir transform create` takes them.
    how: &'static [&'static str],
    /// Lines `key|json`; the event time is their field `t`, in milliseconds.
    input: &'static [&'static str],
    /// Output topics.
    to: &'static [&'static str],
    /// Parts of the lines that come out, for each topic.
    expected: &'static [&'static [&'static str]],
}

const CASES: &[Case] = &[
    Case {
        name: "gps_clean",
        module: "gps_clean",
        how: &["--param=rejected=true"],
        input: &[
            r#"a|{"t":1000,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":2000,"lat":0,"lon":0}"#,
            r#"a|{"t":3000,"lat":49.1,"lon":11.5}"#,
            r#"a|{"t":500,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":4000,"lat":48.1001,"lon":11.5}"#,
        ],
        to: &["good", "bad"],
        expected: &[&[r#""t":1000"#, r#""t":4000"#], &[r#""t":2000"#, r#""t":3000"#, r#""t":500"#]],
    },
    Case {
        name: "gps_deadband",
        module: "gps_deadband",
        how: &["--param=metres=100", "--param=seconds=60"],
        input: &[
            r#"a|{"t":0,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":1000,"lat":48.10001,"lon":11.5}"#,
            r#"a|{"t":2000,"lat":48.2,"lon":11.5}"#,
            r#"b|{"t":2000,"lat":48.2,"lon":11.5}"#,
            r#"a|{"t":70000,"lat":48.2,"lon":11.5}"#,
        ],
        to: &["moved"],
        expected: &[&[r#""t":0"#, r#""t":2000"#, r#""t":2000"#, r#""t":70000"#]],
    },
    Case {
        name: "gps_trips",
        module: "gps_trips",
        how: &["--param=metres=100", "--param=stop-s=60", "--param=silence-s=600"],
        input: &[
            r#"a|{"t":0,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":10000,"lat":48.11,"lon":11.5}"#,
            r#"a|{"t":20000,"lat":48.12,"lon":11.5}"#,
            r#"a|{"t":90000,"lat":48.12,"lon":11.5}"#,
            r#"a|{"t":100000,"lat":48.13,"lon":11.5}"#,
            r#"b|{"t":900000,"lat":48.13,"lon":11.5}"#,
        ],
        to: &["trips"],
        expected: &[&[
            r#""trip":1,"from":0,"to":20000,"duration_s":20,"metres":2224,"positions":3"#,
            r#""trip":2,"from":90000,"to":100000,"duration_s":10,"metres":1112,"positions":2"#,
        ]],
    },
    Case {
        name: "zscore",
        module: "zscore",
        how: &["--param=window=8", "--param=warm-up=4", "--param=threshold=3"],
        input: &[
            r#"s|{"t":0,"value":10}"#,
            r#"s|{"t":1,"value":11}"#,
            r#"s|{"t":2,"value":10}"#,
            r#"s|{"t":3,"value":11}"#,
            r#"s|{"t":4,"value":10.5}"#,
            r#"s|{"t":5,"value":20}"#,
        ],
        to: &["odd"],
        expected: &[&[r#""sensor":"s","time":5,"value":20.0,"mean":10.5,"#]],
    },
    Case {
        name: "tumbling_window",
        module: "tumbling_window",
        how: &["--param=seconds=10", "--param=late=forward"],
        input: &[
            r#"r|{"t":1000,"value":1}"#,
            r#"r|{"t":9000,"value":3}"#,
            r#"q|{"t":9500,"value":7}"#,
            r#"r|{"t":12000,"value":5}"#,
            r#"r|{"t":9900,"value":9}"#,
            r#"r|{"t":25000,"value":5}"#,
        ],
        to: &["windows", "late"],
        expected: &[
            &[
                r#""key":"q","from":0,"to":10000,"count":1,"mean":7.0"#,
                r#""key":"r","from":0,"to":10000,"count":2,"mean":2.0,"min":1.0,"max":3.0"#,
                r#""key":"r","from":10000,"to":20000,"count":1,"mean":5.0"#,
            ],
            &[r#""t":9900"#],
        ],
    },
    Case {
        name: "patient_window",
        module: "tumbling_window",
        how: &["--param=seconds=10", "--param=late=fail", "--lateness=5s"],
        input: &[
            r#"r|{"t":1000,"value":1}"#,
            r#"r|{"t":12000,"value":5}"#,
            r#"r|{"t":9900,"value":9}"#,
            r#"r|{"t":15000,"value":7}"#,
        ],
        to: &["windows"],
        expected: &[&[r#""key":"r","from":0,"to":10000,"count":2,"mean":5.0"#]],
    },
    Case {
        name: "gps_geofence",
        module: "gps_geofence",
        how: &["--param=areas=depot:48.1,11.5,500"],
        input: &[
            r#"a|{"t":0,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":300000,"lat":48.1,"lon":11.5}"#,
            r#"a|{"t":600000,"lat":48.2,"lon":11.5}"#,
        ],
        to: &["events"],
        expected: &[&[
            r#""event":"enter","area":"depot""#,
            r#""event":"stay","area":"depot""#,
            r#""event":"leave","area":"depot""#,
        ]],
    },
    Case {
        name: "dedup",
        module: "dedup",
        how: &["--param=within-s=60"],
        input: &[r#"a|{"t":0}"#, r#"a|{"t":0}"#, r#"b|{"t":0}"#, r#"a|{"t":1}"#],
        to: &["once"],
        expected: &[&[r#""a","t":0}"#, r#""b","t":0}"#, r#""a","t":1}"#]],
    },
    Case {
        name: "unit_range",
        module: "unit_range",
        how: &[
            "--param=field=f",
            "--param=from=F",
            "--param=to=C",
            "--param=max=30",
            "--param=out-of-range=drop",
        ],
        input: &[r#"a|{"t":0,"f":50}"#, r#"a|{"t":1,"f":212}"#],
        to: &["celsius"],
        expected: &[&[r#""t":0,"f":10.0}"#]],
    },
];

struct Site {
    node: NodeProcess,
    dir: tempfile::TempDir,
}

impl Site {
    fn start() -> Result<Site> {
        let dir = tempfile::tempdir()?;
        let node = NodeProcess::start(dir.path())?;
        Ok(Site { node, dir })
    }

    async fn push(&self, file: &str, module: &str) -> Result<()> {
        let upload = weir_wasm::Upload::of_file(std::fs::read(file)?.into())?;
        let id: ModuleRef = format!("{module}@1.0.0").parse()?;
        self.node.client().await?.admin().push_module(id, upload.component, |_| {}).await?;
        Ok(())
    }

    /// Deploys a module from a topic of its own to topics that are created.
    fn deploy(&self, name: &str, module: &str, more: &[&str], from: &str, to: &[String]) {
        for topic in to.iter().map(String::as_str).chain([from]) {
            self.node.weir(&["topic", "create", topic]).expect(0);
        }
        let version = format!("--module={module}@1.0.0");
        let mut arguments = vec!["transform", "create", name, &version, "--from", from];
        to.iter().for_each(|to| arguments.extend(["--to", to]));
        arguments.extend(more);
        self.node.weir(&arguments).expect(0);
    }

    fn produce(&self, topic: &str, lines: &str, how: &[&str]) -> Result<()> {
        let path = self.dir.path().join("lines");
        std::fs::write(&path, lines)?;
        self.node.weir(&[&["produce", topic, &path.to_string_lossy()], how].concat()).expect(0);
        Ok(())
    }

    fn values(&self, topic: &str) -> Vec<String> {
        let consume = ["consume", topic, "--from=earliest", "--until-end", "--format=raw"];
        self.node.weir(&consume).expect(0).stdout.lines().map(str::to_owned).collect()
    }

    /// Waits until a deployment has taken `records` and all that it made has arrived.
    async fn done(&self, name: &str, records: usize) -> Result<()> {
        let describe = || {
            let described = self.node.weir(&["transform", "describe", name, "--json"]).expect(0);
            described.json()["partitions"][0].clone()
        };
        let looking = async {
            loop {
                let lane = describe();
                ensure!(lane["state"] != "stopped", "{name} stopped: {lane}");
                let waiting = lane["undelivered"].as_u64().unwrap_or(0);
                if lane["position"] == json!(records) && waiting == 0 {
                    return Ok(());
                }
                // sleep: between two looks at a node in another process.
                sleep(Duration::from_millis(20)).await;
            }
        };
        let done = timeout(PATIENCE, looking).await;
        done.with_context(|| format!("{name} does not get there: {}", describe()))?
    }
}

/// Goal: each example does in a node what its documentation says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_do() -> Result<()> {
    let site = Site::start()?;
    for case in CASES {
        let (name, module) = (case.name, case.module);
        site.push(&example(module), module).await?;
        let from = format!("{name}.in");
        let to: Vec<String> = case.to.iter().map(|to| format!("{name}.{to}")).collect();
        site.deploy(case.name, module, case.how, &from, &to);
        let lines = case.input.iter().map(|line| {
            let (key, object) = line.split_once("|{").context("a key")?;
            Ok(format!("{{\"k\":\"{key}\",{object}"))
        });
        let lines = lines.collect::<Result<Vec<_>>>()?.join("\n");
        let time = ["--time-pointer=/t", "--time-format=unix-ms"];
        let how = [&["--format=json", "--key-pointer=/k"][..], &time].concat();
        site.produce(&from, &lines, &how)?;
        site.done(name, case.input.len()).await?;
        for (topic, expected) in to.iter().zip(case.expected) {
            let made = site.values(topic);
            let as_expected = made.len() == expected.len()
                && made.iter().zip(*expected).all(|(made, part)| made.contains(part));
            ensure!(as_expected, "{topic} is {made:#?}, not {expected:#?}");
        }
    }
    Ok(())
}

/// Goal: a module in JavaScript does in a node what one in Rust does, errors by record included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript() -> Result<()> {
    let Some(file) = find("access_log") else {
        eprintln!("SKIPPED: access_log.wasm was not built; `cargo xtask guests` says why");
        return Ok(());
    };
    let site = Site::start()?;
    site.push(&file, "access-log").await?;
    site.node.weir(&["topic", "create", "access-log.dead-letter"]).expect(0);
    let more = ["--param=errors-only=true", "--on-error=dead-letter"];
    site.deploy("access-log", "access-log", &more, "web", &["web.json".to_owned()]);
    let line = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0200] "GET /a HTTP/1.1" 404 20 "-" "x""#;
    let good = line.replace("404", "200");
    site.produce("web", &format!("{line}\n{good}\nnonsense\n"), &[])?;
    site.done("access-log", 3).await?;
    let made = site.values("web.json");
    let [made] = &made[..] else { anyhow::bail!("{made:?}") };
    let made: Value = serde_json::from_str(made)?;
    assert_eq!(made["time"], "2015-05-17T08:05:03.000Z");
    assert_eq!((&made["status"], &made["path"]), (&json!(404), &json!("/a")));
    assert_eq!(site.values("access-log.dead-letter"), ["nonsense"]);
    Ok(())
}

fn shared_data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("WEIR_TEST_DATA").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let path = folder.unwrap_or_else(default).join(name);
    let found = path.exists();
    if !found {
        eprintln!("SKIPPED: {} is not here", path.display());
    }
    found.then_some(path)
}

/// Goal: what the documentation reports of the detector on a machine's labelled temperature is what
/// comes out of a node: which of four labelled anomalies are found, at how many false alarms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anomalies_of_a_real_machine() -> Result<()> {
    let (Some(data), Some(labels)) = (
        shared_data("sensor-machine-temperature.csv"),
        shared_data("sensor-machine-temperature.labels.json"),
    ) else {
        return Ok(());
    };
    let text = std::fs::read_to_string(data)?;
    let rows = text.lines().skip(1).filter_map(|row| row.split_once(','));
    let lines: Vec<String> =
        rows.map(|(time, value)| format!(r#"{{"t":"{time}","value":{value}}}"#)).collect();
    let site = Site::start()?;
    site.push(&example("zscore"), "zscore").await?;
    let params = ["--param=window=4000", "--param=warm-up=1000", "--param=threshold=3"];
    site.deploy("zscore", "zscore", &params, "machine", &["machine.odd".to_owned()]);
    site.produce("machine", &lines.join("\n"), &["--format=json", "--time-pointer=/t"])?;
    site.done("zscore", lines.len()).await?;
    let alarms: Vec<i64> = site
        .values("machine.odd")
        .iter()
        .map(|line| {
            let alarm: Value = serde_json::from_str(line)?;
            alarm["time"].as_i64().context("a time")
        })
        .collect::<Result<_>>()?;
    let labels: Value = serde_json::from_str(&std::fs::read_to_string(labels)?)?;
    let windows = labels["anomaly_windows"].as_array().context("windows")?;
    let windows: Vec<(i64, i64)> = windows
        .iter()
        .map(|window| Some((time_ms(&window[0])?, time_ms(&window[1])?)))
        .collect::<Option<_>>()
        .context("times of windows")?;
    let inside = |at: i64| windows.iter().any(|&(from, to)| (from..=to).contains(&at));
    let right = alarms.iter().filter(|&&at| inside(at)).count();
    let found = windows.iter().filter(|(from, to)| alarms.iter().any(|a| (from..=to).contains(&a)));
    assert_eq!((alarms.len(), right, found.count()), (421, 173, 4));
    Ok(())
}

/// Milliseconds since the epoch of `YYYY-MM-DD HH:MM:SS.ffffff`.
fn time_ms(text: &Value) -> Option<i64> {
    let text = text.as_str()?.split('.').next()?.replace(' ', "T");
    let format = time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(&format!("{text}Z"), &format).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}
