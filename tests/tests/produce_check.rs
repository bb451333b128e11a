//! Modules that check what is produced, on a real node: what they reject and rewrite, order and
//! idempotence through kills, hostile ones, and changes while producers are at work.

#[path = "../../node/crates/wasm/tests/modules/wat.rs"]
mod wat;

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use wat::Wat;
use weir_client::{Client, Delivery, DeliveryError, Producer, ProducerRecord, StartAt};
use weir_client::{RecordMetadata, TopicConfig};
use weir_core::deploy::Version;
use weir_core::record::Compression;
use weir_core::topic::TopicChange;
use weir_core::wire::{ErrorCode, Outcome};
use weir_tests::guests::example;
use weir_tests::node_process::NodeProcess;

/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(240);
const GUARD: [&str; 2] = ["--on-produce-param", "field=v"];

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it hangs")
}

fn push(node: &NodeProcess, file: &str, name: &str, version: &str) {
    node.weir(&["module", "push", file, "--name", name, "--version", version]).expect(0);
}

fn guard(node: &NodeProcess, version: &str) {
    push(node, &example("range_guard"), "guard", version);
}

/// A check that is `call` in WebAssembly text, where the stock one accepts everything.
fn hostile(dir: &Path, node: &NodeProcess, name: &str, call: &str) -> Result<()> {
    // `result<verdict, string>` at 1024: no rejected records, no rewrite.
    let export = "weir:module/checking@1.0.0#check";
    let stock = "(i32.store (i32.const 1032) (i32.const 0))";
    // Not with the empty batch that is tried when the topic is altered.
    let call = format!("{stock} (if (i32.load (local.get $batch)) (then {call}))");
    let wat = Wat { export, call: &call, ..Wat::default() };
    let path = dir.join(name);
    std::fs::write(&path, &wat.upload()?.component)?;
    push(node, &path.to_string_lossy(), name, "1.0.0");
    Ok(())
}

fn checked_by(module: &str, params: &[(&str, &str)]) -> Option<Version> {
    let params = params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Some(Version { module: module.parse().unwrap(), params })
}

/// All values of a partition, in order.
async fn values(client: &Client, topic: &str, partition: u32) -> Result<Vec<String>> {
    let mut consumer = client.consumer().until_end(true).build();
    soon(consumer.assign(&[(topic, partition, StartAt::Earliest)])).await?;
    let mut all = Vec::new();
    while let Some(batch) = soon(consumer.next_batch()).await? {
        for record in batch.records() {
            ensure!(record.offset.0 == all.len() as i64, "offsets are dense: {record:?}");
            all.push(String::from_utf8(record.value.unwrap_or_default().to_vec())?);
        }
    }
    Ok(all)
}

/// Sends one batch and waits for it.
async fn batch(
    producer: &Producer,
    topic: &str,
    values: &[&str],
) -> Result<Vec<Result<RecordMetadata, DeliveryError>>> {
    let mut deliveries: Vec<Delivery> = Vec::new();
    for value in values {
        // One time for all, so that sizes do not depend on the clock.
        let record =
            ProducerRecord::new(topic, (*value).to_owned()).with_timestamp(1_700_000_000_000);
        deliveries.push(producer.send(record).await?);
    }
    // What failed shows in the deliveries.
    let _ = soon(producer.flush()).await;
    let mut results = Vec::new();
    for delivery in deliveries {
        results.push(soon(delivery).await);
    }
    Ok(results)
}

/// Goal: what an operator does: refusals by name, a topic created and altered with a check, shown
/// by every command, its figures, a module that is in use, and removal.
#[test]
fn what_an_operator_does() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    guard(&node, "1.0.0");
    guard(&node, "1.1.0");
    push(&node, &example("text_filter"), "text", "1.0.0");
    let create = ["topic", "create", "t", "--on-produce"];
    for (more, says) in [
        (&["guard@9.0.0"][..], "no module guard@9.0.0"),
        (&["text@1.0.0"], "is a filter, not a produce-check"),
        (&["guard@1.0.0"], "parameter field must be given"),
        (&["guard@1.0.0", GUARD[0], GUARD[1]], "give min, max or both"),
        (&["guard@1.0.0", GUARD[0], GUARD[1], GUARD[0], "max=high"], "max"),
    ] {
        let refused = node.weir(&[&create[..], more].concat()).expect(4);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let max = ["--on-produce-param", "max=85"];
    let made = [&create[..], &["guard@1.0.0"], &GUARD, &max].concat();
    let made = node.weir(&made).expect(0).stdout;
    assert!(made.contains("checked by guard@1.0.0"), "{made}");
    let refused = node.weir(&["module", "delete", "guard@1.0.0"]).expect(4);
    assert!(refused.stderr.contains("topic `t`"), "{}", refused.stderr);

    let input = dir.path().join("lines");
    std::fs::write(&input, "{\"v\":99}\nno JSON\n")?;
    let produce = ["produce", "t", &input.to_string_lossy()];
    let refused = node.weir(&produce).expect(4);
    // They may have gone in one batch or in two.
    for says in [
        "guard@1.0.0 rejected",
        "record 0: v is 99, not within -inf to 85",
        "record 1 of the input",
    ] {
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let json = node.weir(&[&produce[..], &["--json"]].concat()).expect(4);
    assert!(json.stderr.contains("\"code\":\"check-rejected\""), "{}", json.stderr);
    // Another version keeps the parameters; one that is given replaces all.
    node.weir(&["topic", "alter", "t", "--on-produce", "guard@1.1.0"]).expect(0);
    let text = node.weir(&["topic", "describe", "t"]).expect(0).stdout;
    assert!(text.contains("guard@1.1.0 (field=v, max=85)"), "{text}");
    let clamp = [&GUARD[..], &max, &["--on-produce-param", "clamp=true"]].concat();
    let alter = ["topic", "alter", "t", "--on-produce", "guard@1.1.0"];
    node.weir(&[&alter[..], &clamp].concat()).expect(0);
    let described = node.weir(&["topic", "describe", "t", "--json"]).expect(0).json();
    let check = &described[0]["config"]["on_produce"];
    assert_eq!(check["module"], "guard@1.1.0", "{described}");
    assert_eq!(check["params"]["clamp"], "true", "{described}");

    // The node finds it again.
    node.stop()?;
    node.start_again()?;
    std::fs::write(&input, "{\"v\":99,\"at\":\"x\"}\n{\"v\":2}\n")?;
    node.weir(&produce).expect(0);
    let consume = ["consume", "t", "--from", "earliest", "--until-end"];
    let stored = node.weir(&consume).expect(0).stdout;
    assert_eq!(stored, "{\"v\":85.0,\"at\":\"x\"}\n{\"v\":2}\n");
    let status = node.weir(&["status"]).expect(0).stdout;
    assert!(status.contains("guard@1.1.0"), "{status}");
    let status = node.weir(&["status", "--json"]).expect(0).json();
    let check = &status["checks"][0];
    assert_eq!((&check["records"], &check["rewritten"]), (&2.into(), &2.into()), "{status}");
    assert!(check["cpu_us"].as_u64() > Some(0), "{status}");
    let (_, metrics) = node.http_get("/metrics")?;
    let sample = "weir_check_rewritten_records_total{topic=\"t\",module=\"guard@1.1.0\"} 2";
    assert!(metrics.contains(sample), "{metrics}");

    node.weir(&["topic", "alter", "t", "--no-on-produce"]).expect(0);
    std::fs::write(&input, "no JSON\n")?;
    node.weir(&produce).expect(0);
    let stored = node.weir(&consume).expect(0).stdout;
    assert!(stored.ends_with("no JSON\n"), "{stored}");
    let plain = node.weir(&["topic", "describe", "t", "--json"]).expect(0).stdout;
    assert!(!plain.contains("on_produce"), "{plain}");
    for version in ["guard@1.0.0", "guard@1.1.0"] {
        node.weir(&["module", "delete", version]).expect(0);
    }
    Ok(())
}

/// Goal: a rejected record refuses its batch with a reason for each, of which nothing is stored;
/// the producer goes on in order; a rewrite changes values and nothing else, however the producer
/// packs its batches, and one that grows beyond what the topic takes is refused.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_and_rewritten() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    guard(&node, "1.0.0");
    let client = node.client().await?;
    let params = [("field", "v"), ("min", "0"), ("max", "10")];
    let strict =
        TopicConfig { on_produce: checked_by("guard@1.0.0", &params), ..TopicConfig::default() };
    soon(client.admin().create_topic("strict", strict.clone())).await?;
    let linger = Duration::from_secs(60);
    // What is sent together is one batch.
    let together = || client.producer().linger(linger).send_when_idle(false);
    let producer = soon(together().build()).await?;
    let good = batch(&producer, "strict", &["{\"v\":1}", "{\"v\":2}"]).await?;
    ensure!(good.iter().all(Result::is_ok), "{good:?}");
    let mixed: Vec<String> =
        (0..20).map(|n| format!("{{\"v\":{}}}", n % 10 + n / 10 * 9)).collect();
    let mixed: Vec<&str> = mixed.iter().map(String::as_str).collect();
    let refused = batch(&producer, "strict", &mixed).await?;
    for result in &refused {
        let error = result.as_ref().expect_err("it was refused");
        assert_eq!((error.code(), error.outcome()), (Some(ErrorCode::CheckRejected), Outcome::No));
        let text = error.to_string();
        for says in ["8 of the 20", "record 12: v is 11", "record 16", "and 3 more"] {
            ensure!(text.contains(says), "{says}: {text}");
        }
        ensure!(!text.contains("record 17"), "only the first few: {text}");
    }
    let again = batch(&producer, "strict", &["{\"v\":3}"]).await?;
    ensure!(again.iter().all(Result::is_ok), "{again:?}");
    assert_eq!(values(&client, "strict", 0).await?, ["{\"v\":1}", "{\"v\":2}", "{\"v\":3}"]);

    for (name, topic, own) in [
        ("plain", Compression::None, Compression::None),
        ("packed", Compression::Lz4, Compression::Zstd),
    ] {
        let clamping = [&params[..], &[("clamp", "true")]].concat();
        let config = TopicConfig {
            compression: topic,
            on_produce: checked_by("guard@1.0.0", &clamping),
            ..TopicConfig::default()
        };
        soon(client.admin().create_topic(name, config)).await?;
        let producer = soon(together().compression(own).build()).await?;
        let mut deliveries = Vec::new();
        for n in 0..500_i64 {
            let record = ProducerRecord::new(name, format!("{{\"v\":{}}}", n - 100))
                .with_key(format!("k{n}"))
                .with_timestamp(1_700_000_000_000 - n)
                .with_header("n", n.to_string());
            deliveries.push(soon(producer.send(record)).await?);
        }
        soon(producer.flush()).await?;
        for (n, delivery) in deliveries.into_iter().enumerate() {
            assert_eq!(soon(delivery).await?.offset.0, n as i64);
        }
        let mut consumer = client.consumer().until_end(true).build();
        soon(consumer.assign(&[(name, 0, StartAt::Earliest)])).await?;
        let mut n = 0_i64;
        while let Some(batch) = soon(consumer.next_batch()).await? {
            for record in batch.records() {
                let clamped = match n - 100 {
                    low if low < 0 => "0.0".to_owned(),
                    high if high > 10 => "10.0".to_owned(),
                    within => within.to_string(),
                };
                let value = format!("{{\"v\":{clamped}}}");
                assert_eq!(record.value, Some(value.as_bytes()));
                assert_eq!(record.key, Some(format!("k{n}").as_bytes()));
                assert_eq!(record.timestamp.0, 1_700_000_000_000 - n);
                let headers: Vec<_> = record.headers().map(|h| h.value.unwrap().to_vec()).collect();
                assert_eq!(headers, [n.to_string().into_bytes()]);
                n += 1;
            }
        }
        assert_eq!(n, 500);
    }
    // 480 records of 16 bytes fit 8 KiB, of 18 bytes they do not.
    let small = TopicChange { batch_bytes_max: Some(8 * 1024), ..TopicChange::default() };
    soon(client.admin().alter_topic("plain", small)).await?;
    let fits = batch(&producer, "plain", &vec!["{\"v\":10}"; 480]).await?;
    ensure!(fits.iter().all(Result::is_ok), "{:?}", fits[0]);
    let grows = batch(&producer, "plain", &vec!["{\"v\":11}"; 480]).await?;
    let error = grows[0].as_ref().expect_err("it grew");
    assert_eq!(error.code(), Some(ErrorCode::BatchTooLarge), "{error}");
    Ok(())
}

/// What the producers of the test of order did.
#[derive(Default)]
struct Progress {
    answered: AtomicU64,
    more: Notify,
    stop: AtomicBool,
    ended: AtomicBool,
}

impl Progress {
    /// Waits until so many more were answered.
    async fn answers(&self, more: u64) -> Result<()> {
        let target = self.answered.load(Ordering::Relaxed) + more;
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < target {
                ensure!(!self.ended.load(Ordering::Relaxed), "a producer ended");
                self.more.notified().await;
            }
            Ok(())
        };
        timeout(PATIENCE, reached).await.context("no progress")?
    }
}

/// What a producer was told of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is there: partition and offset.
    Stored(u32, i64),
    /// Its batch was rejected.
    Rejected,
    /// A batch before it was rejected at a second try, on a new connection: the SDK cannot know
    /// whether the first try of this one arrives yet.
    Unsure,
}

type Fates = BTreeMap<u64, Fate>;

fn is_bad(number: u64) -> bool {
    number % 500 == 30
}

const PARTITIONS: u32 = 2;
const PRODUCERS: u64 = 3;
const IN_FLIGHT: usize = 300;

/// As [`send_numbers`]; who waits for progress learns of its end.
async fn produce(client: Client, id: u64, progress: Arc<Progress>) -> Result<Fates> {
    let ended = send_numbers(client, id, &progress).await;
    progress.ended.store(true, Ordering::Relaxed);
    progress.more.notify_one();
    ended
}

/// Sends numbers until told to stop; every 500th record has none where the module looks.
async fn send_numbers(client: Client, id: u64, progress: &Progress) -> Result<Fates> {
    let producer = client.producer().linger(Duration::from_millis(1)).build().await?;
    let (mut fates, mut deliveries) = (Fates::new(), VecDeque::<(u64, Delivery)>::new());
    let mut number = 0_u64;
    loop {
        let stopping = progress.stop.load(Ordering::Relaxed);
        while !stopping && deliveries.len() < IN_FLIGHT {
            let v = if is_bad(number) { "null".to_owned() } else { (number % 20).to_string() };
            let value = format!("{{\"v\":{v},\"from\":{id},\"n\":{number}}}");
            let partition = (number % u64::from(PARTITIONS)) as u32;
            let record = ProducerRecord::new("t", value).with_partition(partition);
            deliveries.push_back((number, producer.send(record).await?));
            number += 1;
        }
        let Some((number, delivery)) = deliveries.pop_front() else { break };
        let fate = match delivery.await {
            Ok(at) => Fate::Stored(at.partition, at.offset.0),
            Err(error) if error.code() == Some(ErrorCode::CheckRejected) => Fate::Rejected,
            Err(error) if error.outcome() == Outcome::Unknown && error.code().is_some() => {
                Fate::Unsure
            }
            Err(error) => return Err(error).with_context(|| format!("record {number}")),
        };
        fates.insert(number, fate);
        progress.answered.fetch_add(1, Ordering::Relaxed);
        progress.more.notify_one();
    }
    // Rejected batches were looked at above.
    let _ = producer.close().await;
    Ok(fates)
}

/// Goal: with several producers, several batches of each in flight, some of them refused, and the
/// node killed again and again: what is confirmed is there once, where it was confirmed to be, as
/// the module rewrote it, in its producer's order; what was rejected is nowhere; nothing is there
/// twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_and_idempotence_through_kills() -> Result<()> {
    let kills: u64 = std::env::var("WEIR_CHECK_KILLS").ok().map_or(Ok(8), |kills| kills.parse())?;
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start(dir.path())?;
    guard(&node, "1.0.0");
    let client = node.client().await?;
    let params = [("field", "v"), ("max", "10"), ("clamp", "true")];
    let config = TopicConfig {
        partitions: PARTITIONS,
        on_produce: checked_by("guard@1.0.0", &params),
        ..TopicConfig::default()
    };
    soon(client.admin().create_topic("t", config)).await?;
    let progress = Arc::new(Progress::default());
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|id| tokio::spawn(produce(client.clone(), id, progress.clone())))
        .collect();
    let mut pace = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills {
        pace ^= pace << 13;
        pace ^= pace >> 7;
        pace ^= pace << 17;
        if let Err(error) = progress.answers(500 + pace % 2_000).await {
            for producer in producers {
                producer.await??;
            }
            return Err(error.context(format!("before kill {kill}")));
        }
        node.kill()?;
        node.start_again()?;
    }
    progress.stop.store(true, Ordering::Relaxed);
    let mut fates = Vec::new();
    for producer in producers {
        fates.push(timeout(PATIENCE, producer).await.context("a producer hangs")???);
    }
    let mut stored = 0;
    for partition in 0..PARTITIONS {
        let mut last = HashMap::new();
        for (offset, value) in values(&client, "t", partition).await?.into_iter().enumerate() {
            let value: serde_json::Value = serde_json::from_str(&value)?;
            let number = |field: &str| value[field].as_u64().context("a number");
            let (from, n) = (number("from")?, number("n")?);
            let fate = fates[from as usize].get(&n).context("it was never sent")?;
            let at = Fate::Stored(partition, offset as i64);
            ensure!(*fate == at || *fate == Fate::Unsure, "{value}: {fate:?}, {offset}");
            let v = value["v"].as_f64().context("a number")?;
            ensure!(v == ((n % 20).min(10)) as f64, "{value} is not what the module makes of it");
            let before = last.insert(from, n);
            ensure!(before.is_none_or(|before| before < n), "{value} after {before:?}");
            stored += 1;
        }
    }
    let all: usize = fates.iter().map(BTreeMap::len).sum();
    let told = |told: fn(&Fate) -> bool| {
        fates.iter().flat_map(BTreeMap::values).filter(|fate| told(fate)).count()
    };
    let rejected = told(|fate| *fate == Fate::Rejected);
    let unsure = told(|fate| *fate == Fate::Unsure);
    let confirmed = all - rejected - unsure;
    ensure!((confirmed..=confirmed + unsure).contains(&stored), "{stored} stored of {all}");
    ensure!(rejected > 0 && stored > 0, "{stored} stored, {rejected} rejected");
    for (n, fate) in fates.iter().flatten().filter(|(n, _)| is_bad(**n)) {
        ensure!(!matches!(fate, Fate::Stored(..)), "{n} is not to be there");
    }
    println!("{stored} records stored, {rejected} rejected, {unsure} unsure, {kills} kills");
    Ok(())
}

/// Goal: checks that trap, never return or take all memory refuse their own topics' batches with a
/// typed error; a topic with a good check and one without any notice nothing meanwhile, nor does
/// the topic itself once it has another check.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_checks_harm_their_own_batches_only() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    guard(&node, "1.0.0");
    hostile(dir.path(), &node, "traps", "unreachable")?;
    hostile(dir.path(), &node, "endless", "(loop $ever (br $ever))")?;
    let greedy = "(loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    hostile(dir.path(), &node, "greedy", greedy)?;
    // A rewrite whose column says more than there is.
    let liar = "(i32.store8 (i32.const 1036) (i32.const 1)) (i32.store8 (i32.const 1040)
        (i32.const 1)) (i32.store (i32.const 1048) (i32.const 77))";
    hostile(dir.path(), &node, "liar", liar)?;
    let client = node.client().await?;
    let bad = ["traps", "endless", "greedy", "liar"];
    for name in bad {
        let on_produce = checked_by(&format!("{name}@1.0.0"), &[]);
        let config = TopicConfig { on_produce, partitions: 2, ..TopicConfig::default() };
        soon(client.admin().create_topic(name, config)).await?;
    }
    let on_produce = checked_by("guard@1.0.0", &[("field", "v"), ("max", "10")]);
    let config = TopicConfig { on_produce, ..TopicConfig::default() };
    soon(client.admin().create_topic("good", config)).await?;
    soon(client.admin().create_topic("free", TopicConfig::default())).await?;
    // One producer, one stream, for all of them: none waits behind another.
    let producer = soon(client.producer().linger(Duration::from_millis(1)).build()).await?;
    let mut refused = Vec::new();
    for round in 0..5_u32 {
        for name in bad {
            for partition in 0..2 {
                let record = ProducerRecord::new(name, "{\"v\":1}").with_partition(partition);
                refused.push((name, soon(producer.send(record)).await?));
            }
        }
        for name in ["good", "free"] {
            let record = ProducerRecord::new(name, format!("{{\"v\":{round}}}"));
            let at = soon(soon(producer.send(record)).await?).await?;
            assert_eq!(at.offset.0, i64::from(round), "{name}");
        }
    }
    for (name, delivery) in refused {
        let error = soon(delivery).await.expect_err("it was refused");
        assert_eq!(error.code(), Some(ErrorCode::ModuleFailed), "{name}: {error}");
        assert_eq!(error.outcome(), Outcome::No);
        let says = match name {
            "traps" => "unreachable",
            "endless" => "more than 100 ms of CPU time",
            "greedy" => "memory",
            _ => "wrong",
        };
        ensure!(error.to_string().contains(says), "{name}: {error}");
    }
    for name in bad {
        assert_eq!(values(&client, name, 0).await?, Vec::<String>::new());
        let good = TopicChange {
            on_produce: Some(checked_by("guard@1.0.0", &[("field", "v"), ("max", "10")])),
            ..TopicChange::default()
        };
        soon(client.admin().alter_topic(name, good)).await?;
        let record = ProducerRecord::new(name, "{\"v\":1}").with_partition(0);
        assert_eq!(soon(soon(producer.send(record)).await?).await?.offset.0, 0, "{name}");
    }
    let status = soon(client.admin().status()).await?;
    let failed = |name: &str| {
        let of = status.checks.iter().find(|check| check.topic == name && check.failed > 0);
        of.map(|check| (check.failed, check.records))
    };
    for name in bad {
        ensure!(failed(name).is_some_and(|(failed, records)| failed > 0 && records == 0), "{name}");
    }
    ensure!(!node.log().contains("panic"), "{}", node.log());
    Ok(())
}

/// Sends numbered records until told to stop; returns how many were confirmed.
async fn send_until_stopped(client: Client, progress: Arc<Progress>) -> Result<u64> {
    let producer = soon(client.producer().linger(Duration::ZERO).build()).await?;
    let mut deliveries = VecDeque::new();
    let mut number = 0_u64;
    loop {
        while !progress.stop.load(Ordering::Relaxed) && deliveries.len() < 50 {
            let value = format!("{{\"v\":1000,\"n\":{number}}}");
            deliveries.push_back(soon(producer.send(ProducerRecord::new("t", value))).await?);
            number += 1;
        }
        let Some(delivery) = deliveries.pop_front() else { return Ok(number) };
        if let Err(error) = soon(delivery).await {
            progress.ended.store(true, Ordering::Relaxed);
            progress.more.notify_one();
            return Err(error.into());
        }
        progress.answered.fetch_add(1, Ordering::Relaxed);
        progress.more.notify_one();
    }
}

/// Goal: the check is replaced, taken away and put back while a producer sends: nothing is lost,
/// doubled or reordered, each value is as one of the versions left it, and what is sent after an
/// answer to `alter` is judged by the check that it named.
#[tokio::test(flavor = "multi_thread")]
async fn replaced_while_producing() -> Result<()> {
    const ROUNDS: u64 = 12;
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    guard(&node, "1.0.0");
    guard(&node, "1.1.0");
    let client = node.client().await?;
    soon(client.admin().create_topic("t", TopicConfig::default())).await?;
    let progress = Arc::new(Progress::default());
    let producing = tokio::spawn(send_until_stopped(client.clone(), progress.clone()));
    let checks = [
        (checked_by("guard@1.0.0", &[("field", "v"), ("max", "10"), ("clamp", "true")]), 10.0),
        (checked_by("guard@1.1.0", &[("field", "v"), ("max", "20"), ("clamp", "true")]), 20.0),
        (None, 1000.0),
    ];
    let asking = soon(client.producer().build()).await?;
    for round in 0..ROUNDS {
        let (check, makes) = &checks[(round % 3) as usize];
        let change = TopicChange { on_produce: Some(check.clone()), ..TopicChange::default() };
        soon(client.admin().alter_topic("t", change)).await?;
        let probe = ProducerRecord::new("t", "{\"v\":1000}");
        let at = soon(soon(asking.send(probe)).await?).await?;
        let mut consumer = client.consumer().until_end(true).build();
        soon(consumer.assign(&[("t", 0, StartAt::Offset(at.offset))])).await?;
        let batch = soon(consumer.next_batch()).await?.context("the probe")?;
        let first = batch.records().next().context("the probe")?;
        let value: serde_json::Value = serde_json::from_slice(first.value.unwrap_or_default())?;
        ensure!(value["v"] == *makes && value.get("n").is_none(), "round {round}: {value}");
        progress.answers(30).await?;
    }
    progress.stop.store(true, Ordering::Relaxed);
    let number = timeout(PATIENCE, producing).await???;
    let stored = values(&client, "t", 0).await?;
    let mut next = 0;
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for value in &stored {
        let value: serde_json::Value = serde_json::from_str(value)?;
        *seen.entry(value["v"].to_string()).or_default() += 1;
        if let Some(n) = value.get("n") {
            ensure!(*n == next, "{value} where {next} was to be");
            next += 1;
        }
    }
    assert_eq!(next, number);
    assert_eq!(stored.len() as u64, number + ROUNDS);
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["10.0", "1000", "20.0"]);
    Ok(())
}
