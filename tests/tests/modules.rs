//! Modules on a real node: uploaded, filtering subscriptions, hostile, deleted; through kills of
//! the node and of the connection.

#[path = "../../node/crates/wasm/tests/modules/wat.rs"]
mod wat;

use anyhow::{Result, ensure};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;
use wat::Wat;
use weir_client::{Client, Consumer, ProducerRecord, StartAt, TopicConfig};
use weir_core::wire::ErrorCode;
use weir_core::wire::message::{FilterOnError, FilterSpec, Request, Response};
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;

/// Nothing here takes long; a test that hangs fails instead.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), what).await.expect("it hangs")
}

fn spec(module: &str, params: &[(&str, &str)], on_error: FilterOnError) -> FilterSpec {
    let params = params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    FilterSpec { module: module.parse().unwrap(), params, on_error }
}

fn push(node: &NodeProcess, file: &str, name: &str, version: &str) -> serde_json::Value {
    node.weir(&["module", "push", file, "--name", name, "--version", version, "--json"])
        .expect(0)
        .json()
}

/// A module in WebAssembly text, as a file.
fn file(dir: &Path, name: &str, wat: &Wat<'_>) -> Result<String> {
    let upload = wat.upload()?;
    let path = dir.join(name);
    std::fs::write(&path, &upload.component)?;
    Ok(path.to_string_lossy().into_owned())
}

async fn client(node: &NodeProcess) -> Client {
    soon(Client::connect(node.client_config())).await.unwrap()
}

/// Goal: what an operator does: push, list, filter in a subscription, go on under a group name over
/// what was dropped, delete. A version's content never changes.
#[test]
fn push_filter_delete() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    let text = example("text_filter");
    let pushed = push(&node, &text, "text-filter", "1.0.0");
    assert_eq!((&pushed["id"], &pushed["kind"]), (&"text-filter@1.0.0".into(), &"filter".into()));
    // Again is no error; other content is one.
    assert_eq!(push(&node, &text, "text-filter", "1.0.0")["sha256"], pushed["sha256"]);
    let other = ["module", "push", &example("log_redact"), "--name", "text-filter"];
    let refused = node.weir(&[&other[..], &["--version", "1.0.0"]].concat()).expect(4);
    assert!(refused.stderr.contains("immutable"), "{}", refused.stderr);
    push(&node, &example("log_redact"), "redact", "0.1.0");
    let listed = node.weir(&["module", "list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");

    node.weir(&["topic", "create", "log", "--partitions", "2"]).expect(0);
    let lines: String = (0..2_000)
        .map(|n| format!("{} line {n}\n", if n % 10 == 3 { "ERROR" } else { "fine" }))
        .collect();
    let input = dir.path().join("lines");
    std::fs::write(&input, &lines)?;
    node.weir(&["produce", "log", &input.to_string_lossy()]).expect(0);
    let filter = ["--filter", "text-filter@1.0.0", "--param", "text=ERROR", "--until-end"];
    let kept = node.weir(&[&["consume", "log"], &filter[..]].concat()).expect(0).stdout;
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let expected: Vec<&str> = lines.lines().filter(|line| line.starts_with("ERROR")).collect();
    assert_eq!(sorted(&kept), sorted(&expected.join("\n")));

    // Nothing matches: nothing is printed, and the group stands at the end of both partitions.
    let nothing = ["--filter", "text-filter@1.0.0", "--param", "text=nowhere", "--until-end"];
    let group = ["consume", "log", "--group", "watch"];
    assert_eq!(node.weir(&[&group[..], &nothing].concat()).expect(0).stdout, "");
    let positions = node.weir(&["group", "describe", "watch", "--json"]).expect(0).json();
    let positions = positions["positions"].as_array().or(positions.as_array()).cloned();
    let positions = positions.unwrap_or_default();
    assert_eq!(positions.len(), 2, "{positions:?}");
    assert!(positions.iter().all(|position| position["lag"] == 0), "{positions:?}");

    for (more, says) in [
        (&["--filter", "text-filter@1.0.0"][..], "parameter text must be given"),
        (&["--filter", "text-filter@2.0.0"], "no module text-filter@2.0.0"),
        (&["--filter", "redact@0.1.0"], "is a transform, not a filter"),
    ] {
        let refused = node.weir(&[&["consume", "log", "--until-end"], more].concat()).expect(4);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    node.weir(&["module", "delete", "text-filter@1.0.0"]).expect(0);
    let refused = node.weir(&[&["consume", "log"], &filter[..]].concat()).expect(4);
    assert!(refused.stderr.contains("no module text-filter@1.0.0"), "{}", refused.stderr);
    let again = node.weir(&["module", "delete", "text-filter@1.0.0"]).expect(4);
    assert!(again.stderr.contains("weir module list"), "{}", again.stderr);
    Ok(())
}

/// Goal: a filtered subscription goes on through kills of the node and gets each kept record once,
/// in order, while records keep coming; the compiled module is found again.
#[tokio::test(flavor = "multi_thread")]
async fn filtered_through_kills() -> Result<()> {
    const RECORDS: u64 = 3_000;
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    push(&node, &example("text_filter"), "keep", "1.0.0");
    let producing = client(&node).await;
    soon(producing.admin().create_topic("t", TopicConfig::default())).await?;
    let consuming = client(&node).await;
    let filter = spec("keep@1.0.0", &[("text", "7")], FilterOnError::Fail);
    let mut consumer = consuming.consumer().auto_commit(None).filter(filter).build();
    soon(consumer.assign(&[("t", 0, StartAt::Earliest)])).await?;
    let produced = tokio::spawn(async move {
        let producer = soon(producing.producer().build()).await.unwrap();
        for n in 0..RECORDS {
            let record = ProducerRecord::new("t", n.to_string());
            drop(soon(producer.send(record)).await.unwrap());
            if n % 100 == 0 {
                soon(producer.flush()).await.unwrap();
            }
        }
        soon(producer.close()).await.unwrap();
    });
    let wanted: Vec<u64> = (0..RECORDS).filter(|n| n.to_string().contains('7')).collect();
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        let batch = soon(consumer.next_batch()).await?.expect("it goes on");
        for record in batch.records() {
            let value = std::str::from_utf8(record.value.unwrap_or_default())?;
            got.push(value.parse::<u64>()?);
            ensure!(record.offset.0 as u64 == got[got.len() - 1], "offsets stay: {record:?}");
            if matches!(got.len(), 50 | 200) {
                node.kill()?;
                node.start_again()?;
            }
        }
    }
    assert_eq!(got, wanted);
    produced.await?;
    // The end is reached although nothing of the last records is sent.
    let nothing = spec("keep@1.0.0", &[("text", "x")], FilterOnError::Fail);
    let mut rest = consuming.consumer().auto_commit(None).filter(nothing).until_end(true).build();
    soon(rest.assign(&[("t", 0, StartAt::Earliest)])).await?;
    assert!(soon(rest.next_batch()).await?.is_none());
    assert_eq!(rest.position("t", 0).map(|at| at.0 as u64), Some(RECORDS));
    Ok(())
}

/// How many records come until the end.
async fn count(consumer: &mut Consumer) -> Result<usize> {
    let mut records = 0;
    while let Some(batch) = consumer.next_batch().await? {
        records += batch.records().count();
    }
    Ok(records)
}

/// Goal: modules that never return, take all memory, or trap end in a typed error of their own
/// subscription, with the offset; others and producers notice nothing; what the subscriber chose
/// for bad records is done.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_filters_harm_nobody_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    // No limit fits all: a node needs a second for a call that loops.
    let endless = Wat { call: "(loop $ever (br $ever))", ..Wat::default() };
    let greedy = "(loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let greedy = Wat { call: greedy, ..Wat::default() };
    // Fails with any record, and not with none, as it is asked at its start.
    let traps = "(if (i32.load (local.get $batch)) (then unreachable))";
    let traps = Wat { call: traps, ..Wat::default() };
    push(&node, &example("text_filter"), "good", "1.0.0");
    for (name, wat) in [("endless", &endless), ("greedy", &greedy), ("traps", &traps)] {
        push(&node, &file(dir.path(), name, wat)?, name, "1.0.0");
    }
    let client = client(&node).await;
    soon(client.admin().create_topic("t", TopicConfig::default())).await?;
    let producer = soon(client.producer().build()).await?;
    for n in 0..10 {
        drop(soon(producer.send(ProducerRecord::new("t", format!("ok {n}")))).await?);
    }
    soon(producer.flush()).await?;
    let consumer = async |filter: FilterSpec| {
        let mut consumer =
            client.consumer().auto_commit(None).filter(filter).until_end(true).build();
        soon(consumer.assign(&[("t", 0, StartAt::Earliest)])).await.unwrap();
        consumer
    };
    for (name, code, says) in [
        ("endless", ErrorCode::InvalidModule, "CPU time"),
        ("greedy", ErrorCode::InvalidModule, "memory"),
        ("traps", ErrorCode::ModuleFailed, "offset 0"),
    ] {
        let filter = spec(&format!("{name}@1.0.0"), &[], FilterOnError::Fail);
        let mut bad = consumer(filter).await;
        let waiting = tokio::spawn(async move {
            let error = soon(bad.next_batch()).await.expect_err("it fails");
            (error.code(), error.to_string())
        });
        let mut good = consumer(spec("good@1.0.0", &[("text", "ok")], FilterOnError::Fail)).await;
        assert_eq!(soon(count(&mut good)).await?, 10);
        let (found, text) = waiting.await?;
        assert_eq!(found, Some(code), "{text}");
        assert!(text.contains(says), "{name}: {text}");
    }
    let mut dropping = consumer(spec("traps@1.0.0", &[], FilterOnError::Drop)).await;
    assert!(soon(dropping.next_batch()).await?.is_none());
    let mut keeping = consumer(spec("traps@1.0.0", &[], FilterOnError::Keep)).await;
    assert_eq!(soon(count(&mut keeping)).await?, 10);
    let (_, metrics) = node.http_get("/metrics")?;
    // 1 where it ended the subscription, 10 each where they were dropped or kept.
    let failed = "weir_filter_failed_records_total{module=\"traps@1.0.0\"} 21";
    assert!(metrics.contains(failed), "{metrics}");
    assert!(!node.log().contains("panic"), "{}", node.log());
    Ok(())
}

/// Goal: an upload that was cut off goes on where it was, also after a kill of the node; one that
/// does not continue or does not fit its hash is refused; what is no module is never known.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    let module = Bytes::from(std::fs::read(example("text_filter"))?);
    let module = weir_wasm::Upload::of_file(module)?.component;
    let hash = weir_wasm::ModuleHash::of(&module).to_string();
    let bytes = module.len() as u64;
    let part = |at: usize, to: usize| Request::Upload {
        sha256: hash.clone(),
        at: at as u64,
        data: module.slice(at..to),
    };
    let have = |response: Response| match response {
        Response::Upload { have } => have,
        other => panic!("{other:?}"),
    };
    let begin = Request::BeginUpload { sha256: hash.clone(), bytes };
    let uploading = client(&node).await;
    assert_eq!(have(soon(uploading.request(&begin)).await?), 0);
    assert_eq!(have(soon(uploading.request(&part(0, 5_000))).await?), 5_000);
    let gap = soon(uploading.request(&part(6_000, 7_000))).await.expect_err("a gap");
    assert_eq!(gap.code(), Some(ErrorCode::InvalidModule));
    let early = Request::PushModule { id: "m@1.0.0".parse()?, sha256: hash.clone() };
    let early = soon(uploading.request(&early)).await.expect_err("not complete");
    assert_eq!(early.code(), Some(ErrorCode::InvalidModule));
    node.kill()?;
    node.start_again()?;
    let uploading = client(&node).await;
    let there = have(soon(uploading.request(&begin)).await?);
    assert!(there <= 5_000, "{there}");
    let mut told = Vec::new();
    let admin = uploading.admin();
    let pushed = admin.push_module("m@1.0.0".parse()?, module.clone(), |have| told.push(have));
    assert_eq!(soon(pushed).await?.sha256, hash);
    assert_eq!(told.first(), Some(&there), "it goes on");

    for bad in [Bytes::from_static(b"\0asm\x0d\0\x01\0"), Bytes::from_static(b"#!/bin/sh")] {
        let pushed = admin.push_module("bad@1.0.0".parse()?, bad, |_| ());
        let refused = soon(pushed).await.expect_err("no module");
        assert_eq!(refused.code(), Some(ErrorCode::InvalidModule), "{refused}");
    }
    let known: Vec<String> =
        soon(admin.modules()).await?.iter().map(|module| module.id.to_string()).collect();
    assert_eq!(known, ["m@1.0.0"]);
    Ok(())
}
