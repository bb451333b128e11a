//! The decoders on recordings of real receivers, sensors and logs.
//!
//! The recordings are not part of the repository. They are looked for in the folder that
//! `WEIR_TEST_DATA` names, else beside the workspace; without them each test says that it was
//! skipped. All counts were measured by other means than this crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weir_collect::csv::{CsvOptions, CsvTime};
use weir_collect::lines::syslog::SyslogYear;
use weir_collect::lines::{Join, LineFormat, LineOptions, LineTime};
use weir_collect::nmea::NmeaOptions;
use weir_collect::{Collected, Collector, Counts, Input};

fn data_file(name: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("WEIR_TEST_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data"),
    };
    let path = folder.join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not here; set WEIR_TEST_DATA to its folder", path.display());
        return None;
    }
    Some(path)
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn drain(mut collector: Collector) -> (Vec<Collected>, Counts) {
    let mut records = Vec::new();
    while let Some(record) = collector.next().await.unwrap() {
        records.push(record);
    }
    let counts = collector.counts();
    (records, counts)
}

fn nmea(path: PathBuf) -> (Vec<Collected>, Counts) {
    run(async {
        let options = NmeaOptions { idle_after: Duration::MAX, ..NmeaOptions::default() };
        drain(Collector::nmea(Input::Files(vec![path]), options).await.unwrap()).await
    })
}

fn lines(path: PathBuf, options: LineOptions) -> (Vec<Collected>, Counts) {
    run(async { drain(Collector::lines(Input::Files(vec![path]), options).await.unwrap()).await })
}

fn csv(path: PathBuf, options: CsvOptions) -> (Vec<Collected>, Counts) {
    run(async { drain(Collector::csv(Input::Files(vec![path]), options).await.unwrap()).await })
}

fn json(record: &Collected) -> Value {
    serde_json::from_slice(&record.value).unwrap()
}

fn positions(records: &[Collected]) -> Vec<Value> {
    records.iter().filter(|r| r.header("kind") == Some(b"position")).map(json).collect()
}

/// A car drive of 28 minutes: every fix once, with its quality; 13 damaged sentences set aside.
#[test]
fn drive() {
    let Some(path) = data_file("gps-nmea-drive-ublox-f9k.nmea.gz") else { return };
    let (records, counts) = nmea(path);
    assert_eq!(counts.lines, 45_498);
    assert_eq!(counts.detail("sentences_valid"), 45_485);
    assert_eq!(counts.detail("checksum_bad"), 13);
    assert_eq!(counts.dead_letters, 13);
    assert_eq!(counts.reason("checksum"), 13);
    assert_eq!(counts.detail("sentences_other"), 1);
    // The bytes of the line end count towards the standard's 82.
    assert!(counts.detail("over_82") >= 470, "{}", counts.detail("over_82"));
    let positions = positions(&records);
    // One more GLL than RMC and GGA: its epoch lost all its other sentences.
    assert_eq!(positions.len(), 1_654);
    let quality = |q: u64| positions.iter().filter(|p| p["quality"].as_u64() == Some(q)).count();
    assert_eq!((quality(4), quality(5), quality(2)), (967, 632, 54));
    assert_eq!(positions.iter().filter(|p| p["quality"].is_u64()).count(), 1_653);
    let first = &positions[0];
    assert_eq!(first["time"], "2020-02-07T02:14:17.000Z");
    assert_eq!(first["fix"], "rtk_float");
    assert_eq!(first["satellites_used"], 25);
    assert_eq!(first["lat"], 37.426_393_667);
    assert_eq!(positions.last().unwrap()["time"], "2020-02-07T02:43:04.000Z");
    let times: Vec<i64> =
        records.iter().filter(|r| !r.is_dead_letter()).filter_map(|r| r.timestamp_ms).collect();
    assert_eq!(times.len(), 1_654);
    assert!(times.is_sorted_by(|a, b| a < b), "a fix a second, in order");
}

/// A yacht's bus: nothing damaged, 142 fixes among wind, depth and AIS.
#[test]
fn boat() {
    let Some(path) = data_file("gps-nmea-boat-gofree.log") else { return };
    let (records, counts) = nmea(path);
    assert_eq!(counts.lines, 6_324);
    assert_eq!(counts.detail("sentences_valid"), 6_324);
    assert_eq!(counts.dead_letters, 0);
    assert_eq!(counts.detail("sentences_ais"), 1_507);
    let positions = positions(&records);
    assert_eq!(positions.len(), 142);
    assert!(positions.iter().all(|p| p["lat"].as_f64().unwrap() > 53.17));
    assert_eq!(positions[0]["time"], "2014-04-16T19:57:19.000Z");
    assert_eq!(positions[141]["time"], "2014-04-16T19:59:40.000Z");
    let ais = records.iter().filter(|r| r.header("kind") == Some(b"ais")).count();
    assert_eq!(ais, 1_507);
    assert_eq!(records.len(), 142 + 1_507);
}

/// A receiver rebooted mid-sentence: the damage is told apart, and what is whole is used.
#[test]
fn cold_boot() {
    let Some(path) = data_file("gps-nmea-gp320fw-coldboot.log") else { return };
    let (records, counts) = nmea(path);
    assert_eq!(counts.lines, 154);
    assert_eq!(counts.skipped, 20 + counts.detail("sentences_other"));
    assert_eq!(counts.detail("sentences_valid"), 86);
    assert_eq!(counts.detail("checksum_bad"), 35);
    assert_eq!(counts.detail("checksum_missing"), 11);
    assert_eq!(counts.reason("not-a-sentence"), 2);
    assert_eq!(counts.reason("control-bytes"), 1);
    assert_eq!(counts.reason("merged"), 5);
    let positions = positions(&records);
    let with_fix: Vec<_> = positions.iter().filter(|p| p["fix"] != "none").collect();
    // Two epochs with a fix; the clock then jumps to 2006, 2010 and 1999 without one.
    assert_eq!(with_fix.len(), 2);
    assert_eq!(with_fix[1]["time"], "2019-04-07T00:03:45.030Z");
    assert_eq!(positions.len(), 15);
    let years: Vec<&str> =
        positions.iter().filter_map(|p| p["time"].as_str()).map(|time| &time[..4]).collect();
    assert_eq!(years.iter().filter(|year| **year == "1999").count(), 8, "{years:?}");
    for year in ["2006", "2010"] {
        assert!(years.contains(&year), "{years:?}");
    }
}

/// AIS with tag blocks: the base station is the key, its clock the event time.
#[test]
fn norway() {
    let Some(path) = data_file("gps-ais-norway-tagblock.nmea") else { return };
    let (records, counts) = nmea(path);
    assert_eq!(counts.lines, 223);
    assert_eq!(counts.detail("sentences_valid"), 223);
    assert_eq!(counts.detail("tag_blocks"), 197);
    assert_eq!(counts.dead_letters, 0);
    assert_eq!(records.len(), 223);
    let tagged: Vec<_> = records.iter().filter(|r| r.timestamp_ms.is_some()).collect();
    assert_eq!(tagged.len(), 197);
    let in_range = |ms: i64| (1_733_782_034_000..=1_733_782_039_000).contains(&ms);
    assert!(tagged.iter().all(|r| in_range(r.timestamp_ms.unwrap())));
    assert!(tagged.iter().all(|r| r.key.as_deref() != Some(b"gps")));
}

/// AIS without times, empty payloads included.
#[test]
fn ais_receiver() {
    let Some(path) = data_file("gps-ais-receiver.nmea") else { return };
    let (records, counts) = nmea(path);
    assert_eq!((counts.lines, counts.dead_letters, records.len()), (898, 0, 898));
    assert!(records.iter().all(|r| r.timestamp_ms.is_none()));
    assert_eq!(records.iter().filter(|r| r.value.windows(4).any(|w| w == b",,0*")).count(), 100);
}

/// A city's buses, grouped by trip: keys, out-of-order times, and odd values as they are.
#[test]
fn buses() {
    let Some(path) = data_file("gps-bus-austin-2017-03-21.csv.gz") else { return };
    let options = CsvOptions { key: Some("vehicle_id".to_owned()), ..CsvOptions::default() };
    let (records, counts) = csv(path, options);
    assert_eq!((counts.records, counts.dead_letters), (45_386, 0));
    let mut by_vehicle: BTreeMap<_, u64> = BTreeMap::new();
    for record in &records {
        *by_vehicle.entry(record.key.clone().unwrap()).or_default() += 1;
    }
    assert_eq!(by_vehicle.len(), 329);
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert_eq!(times.windows(2).filter(|pair| pair[1] < pair[0]).count(), 1_255);
    let range = (times.iter().min().copied(), times.iter().max().copied());
    // 05:00:02 to 15:24:59 UTC.
    assert_eq!(range, (Some(1_490_072_402_000), Some(1_490_109_899_000)));
    let rows: Vec<Value> = records.iter().map(json).collect();
    assert_eq!(rows.iter().filter(|row| row["speed"].as_f64() == Some(113.9952)).count(), 7);
    assert_eq!(rows.iter().filter(|row| row["trip_headsign"].is_null()).count(), 55);
}

/// One machine's temperature: every value digit for digit, and the clock's step back kept.
#[test]
fn machine_temperature() {
    let Some(path) = data_file("sensor-machine-temperature.csv") else { return };
    let text = std::fs::read_to_string(&path).unwrap();
    let (records, counts) = csv(path, CsvOptions::default());
    assert_eq!((counts.records, counts.dead_letters), (22_695, 0));
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert_eq!(times.windows(2).filter(|pair| pair[1] < pair[0]).count(), 1);
    for (record, line) in records.iter().zip(text.lines().skip(1)) {
        let (time, value) = line.split_once(',').unwrap();
        let expected = format!(r#"{{"timestamp":"{time}","value":{value}}}"#);
        assert_eq!(record.value, expected.as_bytes());
    }
}

/// Air quality of three stations: what is missing is null, column by column.
#[test]
fn beijing_air() {
    const COLUMNS: [&str; 12] =
        ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "wd", "WSPM"];
    let stations = [
        ("aotizhongxin", [925, 718, 934, 1_023, 1_776, 1_719, 20, 20, 20, 20, 81, 14]),
        ("huairou", [953, 777, 980, 1_639, 1_422, 1_151, 51, 53, 53, 55, 302, 49]),
        ("wanshouxigong", [696, 484, 669, 754, 1_297, 1_078, 19, 19, 19, 19, 79, 13]),
    ];
    for (station, missing) in stations {
        let Some(path) = data_file(&format!("sensor-air-beijing-{station}.csv.gz")) else { return };
        let options = CsvOptions {
            key: Some("station".to_owned()),
            time: CsvTime::Parts { utc_offset_min: 480 },
            ..CsvOptions::default()
        };
        let (records, counts) = csv(path, options);
        assert_eq!((counts.records, counts.dead_letters), (35_064, 0), "{station}");
        let rows: Vec<Value> = records.iter().map(json).collect();
        let nulls = COLUMNS.map(|column| rows.iter().filter(|row| row[column].is_null()).count());
        assert_eq!(nulls, missing, "{station}");
        let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 3_600_000), "no hour is missing");
        // 2013-03-01 00h in Beijing.
        assert_eq!(times[0], 1_362_067_200_000);
        assert!(records.iter().all(|r| r.key.as_deref().is_some_and(|key| key.len() > 5)));
    }
}

/// A server's log without years: parsed, its year inferred, blanks at the end kept.
#[test]
fn linux_syslog() {
    let Some(path) = data_file("log-linux-syslog.log") else { return };
    // Some day in August 2005.
    let year = SyslogYear { reference_ms: Some(1_123_000_000_000), utc_offset_min: 0 };
    let format = LineFormat::Syslog(year);
    let (records, counts) = lines(path.clone(), LineOptions { format, ..LineOptions::default() });
    assert_eq!((counts.lines, counts.records, counts.dead_letters), (2_000, 2_000, 0));
    let messages: Vec<Value> = records.iter().map(json).collect();
    assert_eq!(messages[0]["time"], "2005-06-14T15:16:01.000Z");
    assert_eq!(messages[1_999]["time"], "2005-07-27T14:42:00.000Z");
    let of = |program: &str| messages.iter().filter(|m| m["program"] == program).count();
    assert_eq!((of("ftpd"), of("sshd(pam_unix)"), of("kernel")), (916, 677, 76));
    let su = |m: &&Value| m["program"].as_str().is_some_and(|program| program.starts_with("su("));
    assert_eq!(messages.iter().filter(su).count(), 172);
    assert!(records.iter().all(|r| r.key.as_deref() == Some(b"combo")));
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert_eq!(times.windows(2).filter(|pair| pair[1] < pair[0]).count(), 3);
    let (raw, _) = lines(path, LineOptions::default());
    assert_eq!(raw.iter().filter(|r| r.value.ends_with(b" ")).count(), 1_080);
}

/// A Java log: stack traces belong to the record before them.
#[test]
fn kafka_log() {
    let Some(path) = data_file("log-kafka-server.log") else { return };
    let time = Some(LineTime { after: Some("[".to_owned()), ..LineTime::default() });
    let join = Some(Join::StartsWith("[####-##-## ##:##:##,###] ".to_owned()));
    let (records, counts) = lines(path.clone(), LineOptions { join, time, ..Default::default() });
    assert_eq!((counts.lines, counts.records, counts.dead_letters), (721, 706, 0));
    assert_eq!(counts.detail("without_time"), 0);
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert_eq!(times.windows(2).filter(|pair| pair[1] < pair[0]).count(), 8);
    assert_eq!(times.windows(2).filter(|pair| pair[1] == pair[0]).count(), 177);
    assert_eq!(times[0], 1_482_179_988_918);
    // Nothing is lost: the records joined again are the file.
    let mut joined = Vec::new();
    for record in &records {
        joined.extend_from_slice(&record.value);
        joined.push(b'\n');
    }
    assert_eq!(joined, std::fs::read(path).unwrap());
}

/// A phone's log, its times unpadded.
#[test]
fn health_app() {
    let Some(path) = data_file("log-healthapp.log") else { return };
    let format = "%Y%m%d-%H:%M:%S:%L".parse().unwrap();
    let time = Some(LineTime { after: None, format });
    let (records, counts) = lines(path, LineOptions { time, ..LineOptions::default() });
    assert_eq!((counts.records, counts.detail("without_time")), (2_000, 0));
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert!(times.is_sorted(), "never out of order");
    assert_eq!(times[0], 1_514_067_329_606);
}

/// A web server's log: times in brackets, the longest line whole.
#[test]
fn web_access() {
    let Some(path) = data_file("log-web-access.log.gz") else { return };
    let format = "%d/%b/%Y:%H:%M:%S %z".parse().unwrap();
    let time = Some(LineTime { after: Some("[".to_owned()), format });
    let (records, counts) = lines(path, LineOptions { time, ..LineOptions::default() });
    assert_eq!((counts.records, counts.detail("without_time")), (10_000, 0));
    let times: Vec<i64> = records.iter().map(|r| r.timestamp_ms.unwrap()).collect();
    assert_eq!(times.windows(2).filter(|pair| pair[1] < pair[0]).count(), 4_915);
    assert_eq!(records.iter().map(|r| r.value.len()).max(), Some(1_363));
}

/// Lines that are JSON already pass unharmed, from a file packed elsewhere.
#[test]
fn lorawan_lines() {
    let Some(path) = data_file("lorawan-sainteynard-door.ndjson.gz") else { return };
    let (records, counts) = lines(path, LineOptions::default());
    assert_eq!((counts.records, counts.dead_letters), (9_786, 0));
    assert!(records.iter().all(|r| json(r).is_object()));
}
