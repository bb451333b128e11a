//! The modules of `guest-examples/`, in the real engine, over real data where there is any.

use crate::support::{block_on, engine, example, example_deployment, keyed, records};
use std::path::PathBuf;
use std::sync::Arc;
use weir_core::TimestampMs;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, Records};
use weir_wasm::bisect::{Judgement, OnError};
use weir_wasm::columns::{Watermark, bit};
use weir_wasm::state::MemoryState;
use weir_wasm::{Compiler, Module, Transformed, Work, Worker};

/// What came out: topic, key and value, as text.
type Out = (u32, String, String);

struct Flow {
    worker: Worker,
    state: MemoryState,
    watermark: Watermark,
}

impl Flow {
    async fn new(name: &str, params: &[(&str, &str)], on_error: OnError) -> Flow {
        let worker = Worker::new(example_deployment(name, params, on_error).await);
        Flow { worker, state: MemoryState::default(), watermark: Watermark::START }
    }

    /// Runs a batch, or a tick, and makes what came of it count.
    async fn run(&mut self, records: Option<Records>) -> (Vec<Out>, Transformed) {
        let (state, watermark) = (Arc::new(self.state.clone()), self.watermark);
        let work = Work { records: records.clone(), topic: 0, watermark, state };
        let made = self.worker.process(&work).await;
        self.state.apply(&made.changes);
        self.watermark = made.watermark.unwrap();
        let records = records.unwrap_or_else(Records::empty);
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"-")).into();
        let parts = made.parts.iter().flat_map(|part| part.iter(&records));
        let out = parts.map(|out| (out.topic, text(out.key), text(out.value))).collect();
        (out, made)
    }

    async fn values(&mut self, records: Records) -> Vec<String> {
        self.run(Some(records)).await.0.into_iter().map(|(_, _, value)| value).collect()
    }
}

#[test]
fn text_filter() {
    block_on(async {
        let deployment = example_deployment("text-filter", &[("text", "ERR")], OnError::Stop).await;
        let mut worker = Worker::new(deployment);
        let lines = ["an ERROR", "fine", "E ER ERERR", "", "ERR"];
        let filtered = worker.filter(&records(lines)).await;
        let kept: Vec<bool> = (0..lines.len()).map(|at| bit(&filtered.keep, at)).collect();
        assert_eq!(kept, [true, false, true, false, true]);
        assert_eq!((filtered.kept, filtered.report.calls), (3, 1));

        let none = example_deployment("text-filter", &[("text", "")], OnError::Stop).await;
        let filtered = Worker::new(none).filter(&records(["a"])).await;
        let error = filtered.report.judged[0].error.to_string();
        assert!(error.contains("the text is empty"), "{error}");
    });
}

/// Goal: every example describes itself, names its parameters, and imports nothing but the node's.
#[test]
fn all_describe_themselves() {
    for name in ["text-filter", "gps-geofence", "unit-range", "dedup", "log-redact", "range-guard"]
    {
        let upload = example(name);
        assert!(upload.imports.iter().all(|import| import.starts_with("weir:module/")), "{name}");
        let module = block_on(Module::prepare(engine(), &upload, None, &Compiler::Here)).unwrap();
        assert!(module.description().about.len() > 10, "{name}");
        assert!(module.description().parameters.iter().all(|p| p.about.len() > 5), "{name}");
    }
}

/// Goal: a check accepts what is in range without a rewrite, rewrites or rejects the rest, and is
/// not tried again where it cannot start.
#[test]
fn range_guard() {
    block_on(async {
        let check = async |params: &[(&str, &str)], lines: &[&str]| {
            let deployment = example_deployment("range-guard", params, OnError::Stop).await;
            Worker::new(deployment).check(&records(lines.iter().copied())).await
        };
        let strict = [("field", "t"), ("min", "0"), ("max", "9")];
        let fine = check(&strict, &["{\"t\":9}", "{\"t\":0.5}"]).await.verdict.unwrap();
        assert_eq!((fine.rejected.len(), fine.rewritten), (0, None));
        let lines = ["{\"t\":3}", "{\"t\":-1}", "{\"t\":\"x\"}", "?"];
        let bad = check(&strict, &lines).await.verdict.unwrap();
        let reasons: Vec<_> = bad.rejected.iter().map(|f| (f.index, f.message.as_str())).collect();
        assert_eq!(reasons[0], (1, "t is -1, not within 0 to 9"));
        assert_eq!(reasons[1], (2, "there is no number in t"));
        assert_eq!((reasons[2].0, reasons.len()), (3, 3));
        let clamp = [&strict[..], &[("clamp", "true")]].concat();
        let made = check(&clamp, &lines[..2]).await.verdict.unwrap().rewritten.unwrap();
        let values = made.values.unwrap();
        assert_eq!(values.get(0), Some(&b"{\"t\":3}"[..]));
        assert_eq!(values.get(1), Some(&b"{\"t\":0.0}"[..]));
        let error = check(&[("field", "t")], &lines).await.verdict.unwrap_err().to_string();
        assert!(error.contains("give min, max or both"), "{error}");
    });
}

#[test]
fn unit_range() {
    block_on(async {
        let params = [("field", "t"), ("from", "F"), ("to", "C"), ("min", "-40"), ("max", "50")];
        let mut flow = Flow::new("unit-range", &params, OnError::DeadLetter).await;
        let batch = records([
            r#"{"id":"a","t":32,"z":1}"#,
            r#"{"t":"212"}"#,
            "no JSON",
            r#"{"t":98.6}"#,
            r#"{"u":1}"#,
        ]);
        let (out, made) = flow.run(Some(batch)).await;
        let values: Vec<&str> = out.iter().map(|out| out.2.as_str()).collect();
        assert_eq!(values, [r#"{"id":"a","t":0.0,"z":1}"#, r#"{"t":37.0}"#]);
        let judged = &made.report.judged;
        assert_eq!(judged.iter().map(|one| one.index).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(judged.iter().all(|one| one.judgement == Judgement::DeadLetter));
        assert!(judged[0].error.to_string().contains("t is 100, out of range"));
        assert_eq!(made.report.calls, 1, "polite failures cost no further call");

        let flags = [("field", "t"), ("max", "10"), ("out-of-range", "flag")];
        let mut flow = Flow::new("unit-range", &flags, OnError::Stop).await;
        let values = flow.values(records([r#"{"t":11}"#, r#"{"t":9}"#])).await;
        assert_eq!(values, [r#"{"t":11.0,"t_ok":false}"#, r#"{"t":9.0,"t_ok":true}"#]);
    });
}

/// Goal: duplicates are dropped across batches and instances, and forgotten once their time is
/// over; keys, times and values of what passes stay.
#[test]
fn dedup() {
    block_on(async {
        let params = [("by", "both"), ("within-s", "3")];
        let mut flow = Flow::new("dedup", &params, OnError::Stop).await;
        // Times are 0, 1000, 2000 and so on.
        let pairs = [("k", "a"), ("k", "b"), ("k", "a"), ("l", "a"), ("k", "a"), ("k", "b")];
        let (out, _) = flow.run(Some(keyed(pairs.map(|(k, v)| (Some(k), v))))).await;
        let passed: Vec<(&str, &str)> =
            out.iter().map(|out| (out.1.as_str(), out.2.as_str())).collect();
        // The first is forgotten at 3000, the second at 4000.
        assert_eq!(passed, [("k", "a"), ("k", "b"), ("l", "a"), ("k", "a"), ("k", "b")]);
        assert_eq!(flow.state.entries.len(), flow.state.timers.len());
        assert_eq!(flow.state.entries.len(), 3);

        // Another instance, the same state: memory is not what it remembers by.
        let (state, watermark) = (flow.state.clone(), flow.watermark);
        let fresh = Flow::new("dedup", &params, OnError::Stop).await;
        let mut flow = Flow { state, watermark, ..fresh };
        let late = at_times([(5_500, "k", "b"), (6_000, "l", "a")]);
        assert_eq!(flow.run(Some(late)).await.0.len(), 1);

        flow.watermark.at = TimestampMs(1_000_000);
        let (out, made) = flow.run(None).await;
        assert!(out.is_empty() && made.report.judged.is_empty());
        assert!(flow.state.entries.is_empty() && flow.state.timers.is_empty());
    });
}

/// Goal: however a partition is cut into batches, the same comes out and stays as state. Method:
/// the same records as one batch, in pieces of all sizes, and one by one.
#[test]
fn batches_do_not_matter() {
    block_on(async {
        let params = [("by", "value"), ("within-s", "7")];
        let all: Vec<(i64, String)> =
            (0..60).map(|n: i64| (n * 700 - (n % 5) * 900, format!("v{}", n * n % 11))).collect();
        let mut wanted = None;
        for size in [60, 31, 7, 1] {
            let mut flow = Flow::new("dedup", &params, OnError::Stop).await;
            let mut out = Vec::new();
            for part in all.chunks(size) {
                let batch = at_times(part.iter().map(|(time, value)| (*time, "k", value.as_str())));
                out.extend(flow.run(Some(batch)).await.0);
            }
            let made = (out, flow.state, flow.watermark);
            assert_eq!(*wanted.get_or_insert_with(|| made.clone()), made, "batches of {size}");
        }
    });
}

fn at_times<'a>(records: impl IntoIterator<Item = (i64, &'a str, &'a str)>) -> Records {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    for (time, key, value) in records {
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        builder.push(TimestampMs(time), key, value, NO_HEADERS).unwrap();
    }
    let bytes = builder.build(weir_core::ProducerId::NONE, -1, -1).unwrap();
    RecordBatch::decode(bytes).unwrap().records().unwrap()
}

#[test]
fn log_redact() {
    block_on(async {
        let mut flow = Flow::new("log-redact", &[], OnError::Stop).await;
        let out = flow
            .values(records([
                r#"203.0.113.7 - - [17/May/2015:10:05:03 +0000] "GET /a?b=1 HTTP/1.1" 200 512"#,
                "login of jo.doe@example.org from 10.1.2.3 with password=hunter2 ok",
                "Authorization: Bearer abc.def-123 and key: 99",
                "session 0123456789abcdef0123456789abcdef done",
            ]))
            .await;
        assert_eq!(
            out,
            [
                concat!(
                    r#"{"client":"203.0.x.x","time":"17/May/2015:10:05:03 +0000","#,
                    r#""method":"GET","path":"/a?b=1","status":200,"bytes":512}"#,
                ),
                r#"{"message":"login of ***@example.org from 10.1.x.x with password=*** ok"}"#,
                r#"{"message":"Authorization: Bearer *** and key: ***"}"#,
                r#"{"message":"session *** done"}"#,
            ]
        );
    });
}

#[test]
fn gps_geofence() {
    block_on(async {
        let params = [("areas", "depot:30.0,-97.0,500"), ("dwell-s", "2"), ("positions", "true")];
        let mut flow = Flow::new("gps-geofence", &params, OnError::DeadLetter).await;
        let position =
            |lat: f64, lon: f64| (Some("bus"), format!(r#"{{"lat":{lat},"lon":{lon}}}"#));
        let (out, made) = flow
            .run(Some(keyed([
                position(30.003, -97.0),
                position(0.0, 0.0),
                position(30.004, -97.0),
                position(45.0, -97.0),
                (Some("bus"), r#"{"fix":false}"#.to_owned()),
                position(30.0041, -97.0),
                position(30.0047, -97.0),
                position(30.005, -97.0),
                (Some("bus"), "x".to_owned()),
            ])))
            .await;
        let events: Vec<&str> =
            out.iter().filter(|out| out.0 == 0).map(|out| out.2.as_str()).collect();
        let event = |event: &str, lat: &str, stayed: &str| {
            let head = format!(r#"{{"device":"bus","event":"{event}","area":"depot","#);
            format!(r#"{head}"lat":{lat},"lon":-97.0{stayed}}}"#)
        };
        assert_eq!(
            events,
            [
                event("enter", "30.003", ""),
                event("stay", "30.004", r#","stayed_s":2"#),
                event("leave", "30.005", r#","stayed_s":7"#),
            ]
        );
        assert_eq!(out.iter().filter(|out| out.0 == 1).count(), 5, "good positions");
        assert_eq!(made.report.judged.len(), 1);
        assert_eq!(flow.state.entries.len(), 1);
    });
}

/// Goal: a day of a city's buses, with what the data's description says is wrong with it. The same
/// bytes come out whenever it is run.
#[test]
fn gps_geofence_on_real_buses() {
    let file = "gps-bus-austin-2017-03-21.csv.gz";
    let Some(text) = shared_data(file) else { return };
    block_on(async {
        let params = [("areas", "downtown:30.2672,-97.7431,1500"), ("positions", "true")];
        let mut runs = Vec::new();
        for _ in 0..2 {
            let mut flow = Flow::new("gps-geofence", &params, OnError::Stop).await;
            let mut all = Vec::new();
            for chunk in buses(&text).chunks(1_000) {
                let rows = chunk.iter();
                let rows = rows.map(|(time, bus, value)| (*time, bus.as_str(), value.as_str()));
                let (out, made) = flow.run(Some(at_times(rows))).await;
                assert_eq!(made.report.judged, []);
                all.extend(out);
            }
            runs.push(all);
        }
        assert_eq!(runs[0], runs[1], "the same input gives the same bytes");
        let count = |what: &str| runs[0].iter().filter(|out| out.2.contains(what)).count();
        let (enters, leaves) = (count(r#""event":"enter""#), count(r#""event":"leave""#));
        assert!(enters >= 300 && leaves > 200, "{enters} enter, {leaves} leave");
        // 329 vehicles; one that is inside at the end has entered once more than it left.
        assert!(leaves <= enters && enters - leaves <= 329, "{enters} enter, {leaves} leave");
        assert_eq!(count(r#""lat":0"#), 0, "three positions lie at 0/0");
    });
}

/// Event time, vehicle and value of each row.
fn buses(text: &str) -> Vec<(i64, String, String)> {
    let row = |line: &str| {
        let mut fields = line.split(',');
        let bus = fields.next()?.to_owned();
        // Every time of the file is of one day and zone: 2017-03-21Thh:mm:ss-05:00.
        let time = fields.next()?;
        let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
        let seconds = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
        let (lat, lon) = (fields.nth(3)?, fields.next()?);
        Some((seconds * 1000, bus, format!(r#"{{"lat":{lat},"lon":{lon}}}"#)))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// A file of the folder of real data; said loudly where that is not.
fn shared_data(name: &str) -> Option<String> {
    let folder = std::env::var_os("WEIR_TEST_DATA")
        .map_or_else(|| crate::support::root().join("../shared/data"), PathBuf::from);
    let Ok(file) = std::fs::File::open(folder.join(name)) else {
        println!("SKIPPED: there is no {name} in {}", folder.display());
        return None;
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    Some(text)
}
