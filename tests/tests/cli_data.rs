//! The data commands of the real binary against a real node: what is produced comes back, byte
//! for byte; groups go on where they stopped; collectors lose nothing over rotation and crashes.
//!
//! Real recordings are in the folder that `WEIR_TEST_DATA` names, else in `../shared/data` next
//! to the repository. Without it those tests say so and check nothing.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weir_tests::node_process::{NodeProcess, Ran, weir_command};

/// The folder of real recordings, if there is one.
fn data() -> Option<PathBuf> {
    let folder = match std::env::var_os("WEIR_TEST_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    if !folder.is_dir() {
        eprintln!("SKIPPED: no recordings in {}; set WEIR_TEST_DATA", folder.display());
        return None;
    }
    Some(folder)
}

struct Setup {
    dir: tempfile::TempDir,
    node: NodeProcess,
}

impl Setup {
    fn new() -> Result<Setup> {
        let dir = tempfile::tempdir()?;
        let node = NodeProcess::start(dir.path())?;
        Ok(Setup { dir, node })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<String> {
        std::fs::write(self.dir.path().join(name), contents)?;
        Ok(self.path(name))
    }

    /// A command that finds the node, to be spawned by the test.
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = weir_command();
        command.args(arguments).arg("--data-dir").arg(self.node.data_dir());
        command
    }

    /// What a command prints, as bytes.
    fn bytes(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir {}: {said}", arguments.join(" "));
        Ok(output.stdout)
    }

    /// Everything in a topic, as JSON objects.
    fn records(&self, topic: &str) -> Result<Vec<Value>> {
        let text = self.bytes(&["consume", topic, "--until-end", "--json", "--headers"])?;
        let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| Ok(serde_json::from_slice(line)?)).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Goal: every kind of file, with whatever line ends and damage, comes back byte for byte; packed
/// ones as they are unpacked.
#[test]
fn every_recording_comes_back_byte_for_byte() -> Result<()> {
    let Some(folder) = data() else { return Ok(()) };
    let setup = Setup::new()?;
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() > 10, "only {} files in {}", files.len(), folder.display());
    for (number, file) in files.iter().enumerate() {
        let topic = format!("file-{number}");
        let name = file.to_string_lossy().into_owned();
        setup.node.weir(&["produce", &topic, "--create", &name]).expect(0);
        let back = setup.bytes(&[
            "consume",
            &topic,
            "--from",
            "earliest",
            "--until-end",
            "--format",
            "raw",
        ])?;
        let original = unpacked(file)?;
        ensure!(back == original, "{name}: {} bytes became {}", original.len(), back.len());
    }
    Ok(())
}

/// The file as `gzip -d` gives it, or as it is.
fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let packed = std::fs::read(file)?;
    if file.extension().is_none_or(|extension| extension != "gz") {
        return Ok(packed);
    }
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Goal: line ends of all kinds survive, several files follow each other as `cat` would print
/// them, and so does standard input.
#[test]
fn odd_line_ends_come_back() -> Result<()> {
    let setup = Setup::new()?;
    let long = "x".repeat(300_000);
    let a = setup.write("a", format!("\n\r\n\0\u{1}\r\r\n{long}\nno end"))?;
    let b = setup.write("b", b"\xff\xfe\n\nlast\r")?;
    setup.node.weir(&["produce", "t", "--create", &a, &b]).expect(0);
    let mut child = setup
        .command(&["produce", "t", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("piped")?.write_all(b"from\nstdin")?;
    let summary: Value = serde_json::from_slice(&child.wait_with_output()?.stdout)?;
    assert_eq!(summary["records"], 2);
    let want = [std::fs::read(&a)?, std::fs::read(&b)?, b"from\nstdin".to_vec()].concat();
    assert!(setup.bytes(&["consume", "t", "--until-end"])? == want);
    Ok(())
}

/// Goal: a group prints every record once over several runs, on whichever node process.
#[test]
fn a_group_goes_on_where_it_stopped() -> Result<()> {
    let mut setup = Setup::new()?;
    let lines: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    let file = setup.write("lines", &lines)?;
    setup.node.weir(&["produce", "t", "--create", &file]).expect(0);
    let mut seen = Vec::new();
    for count in ["1", "99", "250"] {
        seen.extend(setup.bytes(&["consume", "t", "--group", "g", "-n", count])?);
    }
    setup.node.stop()?;
    setup.node.start_again()?;
    seen.extend(setup.bytes(&["consume", "t", "--group", "g", "--until-end"])?);
    assert_eq!(String::from_utf8(seen)?, lines);
    assert_eq!(setup.bytes(&["consume", "t", "--group", "g", "--until-end"])?, b"");
    let other = setup.bytes(&["consume", "t", "--group", "other", "-n", "1"])?;
    assert_eq!(other, b"line 0\n");
    Ok(())
}

/// Goal: a reader that goes away ends the command quietly.
#[test]
fn a_closed_pipe_is_no_error() -> Result<()> {
    let setup = Setup::new()?;
    let lines: String = (0..200_000).map(|n| format!("a line of some length {n}\n")).collect();
    let file = setup.write("lines", &lines)?;
    setup.node.weir(&["produce", "t", "--create", &file]).expect(0);
    let mut child = setup
        .command(&["consume", "t", "--from", "earliest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("piped")?).read_line(&mut first)?;
    assert_eq!(first, "a line of some length 0\n");
    let output = child.wait_with_output()?;
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    Ok(())
}

/// Goal: where to begin and how many are obeyed, by offset, time and partition.
#[test]
fn beginnings_and_ends() -> Result<()> {
    let setup = Setup::new()?;
    let rows: String = (0..50).map(|n| format!("{{\"n\":{n},\"t\":{}}}\n", 1_000 * n)).collect();
    let file = setup.write("rows", rows)?;
    let produce = [
        "produce",
        "t",
        "--create",
        "--format",
        "json",
        "--time-pointer",
        "/t",
        "--time-format",
        "unix-ms",
        &file,
    ];
    setup.node.weir(&produce).expect(0);
    let numbers = |arguments: &[&str]| -> Result<Vec<u64>> {
        let all = [&["consume", "t"], arguments].concat();
        let text = String::from_utf8(setup.bytes(&all)?)?;
        let number = |line: &str| serde_json::from_str::<Value>(line).ok()?["n"].as_u64();
        Ok(text.lines().filter_map(number).collect())
    };
    assert_eq!(numbers(&["--from", "47", "--until-end"])?, [47, 48, 49]);
    assert_eq!(numbers(&["--from", "1970-01-01T00:00:10.5Z", "-n", "2"])?, [11, 12]);
    assert_eq!(numbers(&["--from", "earliest", "-n", "1"])?, [0]);
    assert!(numbers(&["--from", "latest", "--until-end"])?.is_empty());
    assert!(numbers(&["--partition", "0", "--from", "50", "--until-end"])?.is_empty());
    let beyond = setup.node.weir(&["consume", "t", "--from", "51", "--until-end"]).expect(4);
    assert!(beyond.stderr.contains("51"), "{}", beyond.stderr);
    setup.node.weir(&["consume", "t", "--partition", "1", "--until-end"]).expect(4);
    setup.node.weir(&["consume", "t", "--from", "sometime"]).expect(2);
    setup.node.weir(&["consume", "none"]).expect(4);
    Ok(())
}

/// Goal: a bad line stops the command where it stands, or is left out and counted, as asked.
#[test]
fn bad_lines() -> Result<()> {
    let setup = Setup::new()?;
    let file = setup.write("rows", "{\"k\":1}\n{\"k\":2}\nnot json\n{\"x\":3}\n{\"k\":4}\n")?;
    let produce = |topic: &str, more: &[&str]| -> Ran {
        let fixed = ["produce", topic, "--create", "--format", "json", "--key-pointer", "/k"];
        setup.node.weir(&[&fixed, more, &[file.as_str()]].concat())
    };
    let stopped = produce("stop", &[]).expect(1);
    assert!(stopped.stderr.contains("line 3"), "{}", stopped.stderr);
    assert_eq!(setup.records("stop")?.len(), 2);
    let skipped = produce("skip", &["--on-bad-line", "skip", "--json"]).expect(0);
    let summary = skipped.json();
    assert_eq!((summary["records"].as_u64(), summary["bad_lines"].as_u64()), (Some(3), Some(2)));
    let keys: Vec<String> =
        setup.records("skip")?.iter().map(|record| text(&record["key"]).to_owned()).collect();
    assert_eq!(keys, ["1", "2", "4"]);
    // Nothing is produced where the options are wrong or a file is missing.
    setup.node.weir(&["produce", "skip", "--key-column", "a", &file]).expect(2);
    setup.node.weir(&["produce", "skip", &file, "/no/such/file"]).expect(1);
    setup.node.weir(&["produce", "no-topic", &file]).expect(4);
    assert_eq!(setup.records("skip")?.len(), 3);
    Ok(())
}

/// Goal: buses keyed by vehicle over four partitions: every row is there, each vehicle's rows are
/// in one partition and in the order of the file, with their own times.
#[test]
fn buses_keep_their_order_by_vehicle() -> Result<()> {
    let Some(folder) = data() else { return Ok(()) };
    let setup = Setup::new()?;
    let file = folder.join("gps-bus-austin-2017-03-21.csv.gz");
    let name = file.to_string_lossy().into_owned();
    let produce = [
        "produce",
        "buses",
        "--create=4",
        "--format",
        "csv",
        "--key-column",
        "vehicle_id",
        "--time-column",
        "timestamp",
        "--compression",
        "zstd",
        "--json",
        &name,
    ];
    assert_eq!(setup.node.weir(&produce).expect(0).json()["records"], 45_386);
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let original = String::from_utf8(unpacked(&file)?)?;
    for row in original.lines().skip(1) {
        let vehicle = row.split(',').next().unwrap_or_default();
        wanted.entry(vehicle.to_owned()).or_default().push(row.to_owned());
    }
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut partition_of = HashMap::new();
    for record in setup.records("buses")? {
        let vehicle = text(&record["key"]).to_owned();
        let partition = record["partition"].as_u64();
        let known = *partition_of.entry(vehicle.clone()).or_insert(partition);
        assert_eq!(known, partition, "vehicle {vehicle} is in two partitions");
        let row = text(&record["value"]).trim_end_matches('\r').to_owned();
        // 2017-03-21T07:42:33-05:00 is 12:42:33 in UTC.
        let hour: u32 =
            row.split(',').nth(1).and_then(|t| t[11..13].parse().ok()).context("hour")?;
        assert!(text(&record["time"])[11..13] == format!("{:02}", (hour + 5) % 24), "{record}");
        found.entry(vehicle).or_default().push(row);
    }
    assert_eq!(found.len(), 329);
    assert!(found == wanted);
    Ok(())
}

/// Goal: the drive gives one position a fix, and each damaged sentence is kept aside.
#[test]
fn a_drive_becomes_positions() -> Result<()> {
    let Some(folder) = data() else { return Ok(()) };
    let setup = Setup::new()?;
    let name = folder.join("gps-nmea-drive-ublox-f9k.nmea.gz").to_string_lossy().into_owned();
    let collected = setup.node.weir(&["collect", "nmea", &name, "--device", "car", "--json"]);
    let summary = collected.expect(0).json();
    assert_eq!(
        (summary["dead_letters"].as_u64(), summary["lines"].as_u64()),
        (Some(13), Some(45_498))
    );
    let positions = setup.records("gps.position")?;
    assert_eq!(summary["records"], positions.len());
    let fixes = positions.iter().filter(|record| {
        let value: Value = serde_json::from_str(text(&record["value"])).unwrap_or_default();
        value["lat"].is_f64() && value["quality"].is_u64()
    });
    assert_eq!(fixes.count(), 1_653);
    assert!(positions.iter().all(|record| record["key"] == "car"));
    let letters = setup.records("gps.position.dead-letter")?;
    assert_eq!(letters.len(), 13);
    for letter in letters {
        assert!(letter["headers"].to_string().contains("checksum"), "{letter}");
        assert!(text(&letter["value"]).starts_with("$GG"), "{letter}");
    }
    Ok(())
}

/// Goal: LoRaWAN messages keyed by a JSON pointer, at their own times.
#[test]
fn uplinks_by_device() -> Result<()> {
    let Some(folder) = data() else { return Ok(()) };
    let setup = Setup::new()?;
    let name = folder.join("lorawan-sainteynard-door.ndjson.gz").to_string_lossy().into_owned();
    let produce = [
        "produce",
        "up",
        "--create",
        "--format",
        "json",
        "--key-pointer",
        "/devEUI",
        "--time-pointer",
        "/_timestamp",
        &name,
    ];
    setup.node.weir(&produce).expect(0);
    let records = setup.records("up")?;
    assert_eq!(records.len(), 9_786);
    for record in records {
        let value: Value = serde_json::from_str(text(&record["value"]))?;
        assert_eq!(record["key"], value["devEUI"]);
        assert_eq!(record["timestamp"], value["_timestamp"]);
    }
    Ok(())
}

/// Goal: CSV rows become objects with their columns, keyed, at the times that their columns say.
#[test]
fn air_quality_becomes_objects() -> Result<()> {
    let Some(folder) = data() else { return Ok(()) };
    let setup = Setup::new()?;
    let name = folder.join("sensor-air-beijing-huairou.csv.gz").to_string_lossy().into_owned();
    let collect = [
        "collect",
        "csv",
        &name,
        "--topic",
        "air",
        "--key-column",
        "station",
        "--utc-offset",
        "+08:00",
        "--json",
    ];
    let summary = setup.node.weir(&collect).expect(0).json();
    assert_eq!(
        (summary["records"].as_u64(), summary["dead_letters"].as_u64()),
        (Some(35_064), Some(0))
    );
    let records = setup.records("air")?;
    assert_eq!(records.len(), 35_064);
    let mut missing = 0;
    for record in &records {
        let value: Value = serde_json::from_str(text(&record["value"]))?;
        missing += u32::from(value["PM2.5"].is_null());
        assert_eq!(record["key"], value["station"]);
    }
    assert_eq!(missing, 953);
    // 2013-03-01 00h in Beijing.
    assert_eq!(records[0]["time"], "2013-02-28T16:00:00.000Z");
    Ok(())
}

/// A collector that follows a file, running.
struct Follower {
    child: Child,
}

impl Follower {
    fn start(setup: &Setup, file: &str, checkpoint: &str) -> Result<Follower> {
        let arguments = [
            "collect",
            "lines",
            "--follow",
            file,
            "--topic",
            "log",
            "--partitions",
            "1",
            "--checkpoint",
            checkpoint,
        ];
        let child = setup.command(&arguments).stdout(Stdio::null()).spawn()?;
        Ok(Follower { child })
    }

    fn signal(&mut self, signal: Signal) -> Result<Option<i32>> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")?;
        kill_process(pid, signal)?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &str, lines: &[String]) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file
        .write_all(lines.iter().map(|line| format!("{line}\n")).collect::<String>().as_bytes())?)
}

fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("line {n}")).collect()
}

impl Setup {
    /// Waits until the topic has so many records, and gives their values.
    fn wait_for_lines(&self, count: usize) -> Result<Vec<String>> {
        let count = count.to_string();
        let text = self.bytes(&["consume", "log", "--from", "earliest", "-n", &count])?;
        Ok(String::from_utf8(text)?.lines().map(str::to_owned).collect())
    }
}

/// Goal: following a file through rotation, and through an orderly end of the collector while the
/// file is rotated, neither loses nor repeats a line.
#[test]
fn following_a_rotated_file() -> Result<()> {
    let setup = Setup::new()?;
    setup.node.weir(&["topic", "create", "log"]).expect(0);
    let (file, checkpoint) = (setup.path("app.log"), setup.path("checkpoint.json"));
    append(&file, &numbered(0..100))?;
    let mut follower = Follower::start(&setup, &file, &checkpoint)?;
    assert_eq!(setup.wait_for_lines(100)?, numbered(0..100));
    std::fs::rename(&file, format!("{file}.1"))?;
    append(&format!("{file}.1"), &numbered(100..110))?;
    append(&file, &numbered(110..200))?;
    assert_eq!(setup.wait_for_lines(200)?, numbered(0..200));
    assert_eq!(follower.signal(Signal::TERM)?, Some(0));
    drop(follower);
    append(&file, &numbered(200..250))?;
    std::fs::rename(&file, format!("{file}.2"))?;
    append(&file, &numbered(250..300))?;
    let mut follower = Follower::start(&setup, &file, &checkpoint)?;
    assert_eq!(setup.wait_for_lines(300)?, numbered(0..300));
    assert_eq!(follower.signal(Signal::INT)?, Some(0));
    let all = setup.bytes(&["consume", "log", "--until-end"])?;
    assert_eq!(String::from_utf8(all)?.lines().count(), 300, "nothing came twice");
    Ok(())
}

/// Goal: a collector that is killed loses nothing; what it had not noted yet may come again.
#[test]
fn a_killed_collector_loses_nothing() -> Result<()> {
    let setup = Setup::new()?;
    setup.node.weir(&["topic", "create", "log"]).expect(0);
    let (file, checkpoint) = (setup.path("app.log"), setup.path("checkpoint.json"));
    append(&file, &numbered(0..5_000))?;
    let mut follower = Follower::start(&setup, &file, &checkpoint)?;
    setup.wait_for_lines(1_000)?;
    assert_eq!(follower.signal(Signal::KILL)?, None);
    append(&file, &numbered(5_000..6_000))?;
    let _follower = Follower::start(&setup, &file, &checkpoint)?;
    // Lines may come twice, so read on until the last one is there.
    let mut consumer =
        setup.command(&["consume", "log", "--from", "earliest"]).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(consumer.stdout.take().context("piped")?);
    let mut lines = Vec::new();
    for line in output.lines() {
        lines.push(line?);
        if lines.last().is_some_and(|line| line == "line 5999") {
            break;
        }
    }
    consumer.kill()?;
    consumer.wait()?;
    ensure!(lines.len() <= 11_000, "more than what was not noted yet came twice");
    let mut unique = lines;
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), 6_000);
    Ok(())
}

/// Goal: the demo runs on real input, ends by itself, and what it says it stored is what a node
/// then serves from its folder.
#[test]
fn the_demo_leaves_its_data() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("data");
    let demo =
        weir_command().args(["demo", "--for", "3s", "--json", "--dir"]).arg(&folder).output()?;
    ensure!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    let summary: Value = serde_json::from_slice(&demo.stdout)?;
    assert_eq!(summary["out_of_order"], 0);
    let node = NodeProcess::start(dir.path())?;
    for topic in summary["topics"].as_array().context("topics")? {
        let (name, records) = (text(&topic["topic"]), topic["records"].as_u64());
        let stored = node.weir(&["consume", name, "--until-end", "--json"]).expect(0);
        assert_eq!(Some(stored.stdout.lines().count() as u64), records, "{name}");
        if name != "gps.position.dead-letter" {
            assert!(records > Some(0), "{name} is empty");
        }
    }
    Ok(())
}

/// Goal: Ctrl-C ends the demo in order, with its summary; a folder of somebody else is refused.
#[test]
fn ctrl_c_ends_the_demo() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut demo = weir_command()
        .args(["demo", "--for", "1h", "--every", "200ms", "--dir"])
        .arg(dir.path().join("demo"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(demo.stdout.take().context("piped")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    assert!(line.starts_with("weir demo"), "{line}");
    let pid = Pid::from_raw(i32::try_from(demo.id())?).context("a process id")?;
    kill_process(pid, Signal::INT)?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    assert_eq!(demo.wait()?.code(), Some(0));
    assert!(rest.contains("weir node --data-dir"), "{rest}");
    std::fs::write(dir.path().join("precious"), "x")?;
    let refused = weir_command().args(["demo", "--for", "1s", "--dir"]).arg(dir.path()).output()?;
    assert_eq!(refused.status.code(), Some(2));
    assert!(dir.path().join("precious").exists());
    Ok(())
}

/// Goal: every bench runs and prints one object with the figures that it is for, and leaves
/// nothing behind. What the figures are is nobody's business here.
#[test]
fn benches_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = dir.path().to_string_lossy().into_owned();
    let bench = |line: &str| -> Result<Value> {
        let words: Vec<&str> = line.split(' ').collect();
        let output =
            weir_command().arg("bench").args(words).args(["--json", "--dir", &place]).output()?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 0, "{line} leaves something behind");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let produce = bench("produce --round-mib 2 --rounds 1 --batch 100")?;
    for figure in [
        "records_per_s",
        "mb_per_s",
        "ratio_to_raw",
        "ratio_to_limit",
        "bytes_written_per_payload_byte",
        "node_rss_mib",
    ] {
        assert!(produce[figure].as_f64() > Some(0.0), "{figure} in {produce}");
    }
    for percentile in ["p50", "p99", "p999", "max"] {
        assert!(produce["ack_ms"][percentile].is_f64(), "{produce}");
    }
    let each = bench("produce --per-record --no-compare --records 500 --rounds 1 --producers 2")?;
    assert_eq!(each["records"], 1_000);
    let consume = bench("consume --total-mib 2 --rounds 1 --record-size 100")?;
    assert!(consume["records_per_s"].as_f64() > Some(0.0), "{consume}");
    assert!(consume["ratio_to_limit"].as_f64() > Some(0.0), "{consume}");
    let e2e = bench("e2e --rate 200 --duration 500ms")?;
    assert_eq!((&e2e["records"], &e2e["latency_ms"]["count"]), (&100.into(), &100.into()));
    for figure in ["records_per_s", "mb_per_s"] {
        assert!(e2e[figure].as_f64() > Some(0.0), "{figure} in {e2e}");
    }
    let steady = bench("steady --producers 3 --rate 60 --duration 500ms")?;
    assert!(steady["node_cpu_percent"].is_f64(), "{steady}");
    let idle = bench("idle --duration 100ms --partitions 10")?;
    assert!(idle["more"]["rss_mib_with_partitions"].is_f64(), "{idle}");
    Ok(())
}
