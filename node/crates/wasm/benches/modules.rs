//! What modules cost. Figures are per batch of 500 records with 100-byte values; `items/s` counts
//! records. Needs the modules that `cargo xtask guests` builds.
//!
//! `cargo bench -p weir-wasm --bench modules`, or with `-- filter` behind it for some of them.
//!
//! All with limits, deadlines and the ticker at work, on batches as they are stored: header and
//! checksum are checked, rows are unpacked, and columns are built, as in a broker. Compare
//! `native_filter` with `filter`: the same work on the same batches, without a module.

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, Records};
use weir_core::{ProducerId, TimestampMs};
use weir_wasm::bisect::OnError;
use weir_wasm::columns::Watermark;
use weir_wasm::state::{MemoryState, NoState, StateView};
use weir_wasm::{
    Cache, Compiler, Deployment, Engine, GuestLimits, Module, Surroundings, Upload, Work, Worker,
};

const RECORDS: usize = 500;
/// Compression, and percent of the records that are kept.
const FILTERS: [(Compression, usize); 4] = [
    (Compression::None, 0),
    (Compression::None, 50),
    (Compression::None, 100),
    (Compression::Lz4, 50),
];

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn upload(name: &str) -> Upload {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../target");
    let path = target.unwrap_or_else(default).join("guests").join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path).expect("run `cargo xtask guests` first");
    Upload::of_file(bytes.into()).expect("a module")
}

fn deployment(runtime: &Runtime, name: &str, params: &[(&str, &str)]) -> Deployment {
    let engine = Engine::new().expect("an engine");
    let upload = upload(name);
    let prepared = Module::prepare(&engine, &upload, None, &Compiler::Here);
    let module = runtime.block_on(prepared).expect("it compiles");
    let params: Vec<_> = params.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    let settings = module.description().settings(&params).expect("settings fit");
    let limits = GuestLimits::DEFAULT;
    Deployment {
        module,
        settings,
        limits,
        on_error: OnError::Stop,
        topics: 1,
        around: Surroundings::default(),
    }
}

/// A stored batch: JSON of 100 bytes a value, `keep` percent of which say `"ok":1`.
fn stored(compression: Compression, keep: usize) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for index in 0..RECORDS {
        let ok = usize::from(index * 37 % 100 < keep);
        let head = format!("{{\"n\":{index},\"temp\":{}.{:03},\"ok\":{ok},\"note\":\"", 20, index);
        let value = format!("{head}{}\"}}", "x".repeat(98 - head.len()));
        let key = format!("sensor-{}", index % 50);
        let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
        builder.push(TimestampMs(index as i64), key, value, NO_HEADERS).expect("it fits");
    }
    builder.build(ProducerId::NONE, -1, -1).expect("has records")
}

fn records(stored: &Bytes) -> Records {
    let batch = RecordBatch::decode_trusted(stored.clone()).expect("valid");
    batch.records().expect("valid")
}

/// As the module does it.
fn contains(value: &[u8], text: &[u8]) -> bool {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| *byte == text[0]) {
        rest = &rest[at..];
        if rest.starts_with(text) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

/// Reading the batch alone: what both filters begin with.
#[divan::bench(args = FILTERS)]
fn read_batch(bencher: Bencher, (compression, keep): (Compression, usize)) {
    let stored = stored(compression, keep);
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| records(black_box(&stored)));
}

/// The filter, in the host's own code.
#[divan::bench(args = FILTERS)]
fn native_filter(bencher: Bencher, (compression, keep): (Compression, usize)) {
    let stored = stored(compression, keep);
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let records = records(&stored);
        let wanted = black_box(b"\"ok\":1".as_slice());
        let kept = records.iter().filter(|r| contains(r.value.unwrap_or_default(), wanted));
        kept.count()
    });
}

/// The filter, as a module.
#[divan::bench(args = FILTERS)]
fn filter(bencher: Bencher, (compression, keep): (Compression, usize)) {
    let (runtime, stored) = (runtime(), stored(compression, keep));
    let deployment = deployment(&runtime, "text_filter", &[("text", "\"ok\":1")]);
    let mut worker = Worker::new(deployment);
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let filtered = runtime.block_on(worker.filter(&records(&stored)));
        assert!(filtered.report.judged.is_empty());
        filtered.kept
    });
}

/// A JSON transform: parse, convert, write.
#[divan::bench]
fn json_transform(bencher: Bencher) {
    let params = [("field", "temp"), ("from", "C"), ("to", "F")];
    transform(bencher, "unit_range", &params, Arc::new(NoState));
}

/// A transform with a get and a put of state and a timer for each record.
#[divan::bench]
fn stateful_transform(bencher: Bencher) {
    transform(bencher, "dedup", &[], Arc::new(MemoryState::default()));
}

fn transform(bencher: Bencher, name: &str, params: &[(&str, &str)], state: Arc<dyn StateView>) {
    let (runtime, stored) = (runtime(), stored(Compression::None, 50));
    let mut worker = Worker::new(deployment(&runtime, name, params));
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        let records = Some(records(&stored));
        let work = Work { records, topic: 0, watermark: Watermark::START, state: state.clone() };
        let made = runtime.block_on(worker.process(&work));
        assert!(made.report.judged.is_empty());
        made.parts.len()
    });
}

/// A new instance, its module's own start included.
#[divan::bench]
fn new_instance(bencher: Bencher) {
    let runtime = runtime();
    let Deployment { module, settings, limits, .. } =
        deployment(&runtime, "text_filter", &[("text", "a")]);
    bencher.bench_local(|| {
        runtime.block_on(module.start(&settings, &limits, Surroundings::default())).is_ok()
    });
}

/// A call with a single record: what a batch costs before its records.
#[divan::bench]
fn smallest_call(bencher: Bencher) {
    let runtime = runtime();
    let mut worker = Worker::new(deployment(&runtime, "text_filter", &[("text", "a")]));
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(0), None, Some(b"b"), NO_HEADERS).expect("it fits");
    let records = records(&builder.build(ProducerId::NONE, -1, -1).expect("a record"));
    bencher.bench_local(|| runtime.block_on(worker.filter(&records)).kept);
}

/// Compiling, for comparison with loading.
#[divan::bench(args = ["text_filter", "unit_range"], sample_count = 5, sample_size = 1)]
fn compile(bencher: Bencher, name: &str) {
    let (engine, upload) = (Engine::new().expect("an engine"), upload(name));
    bencher.bench_local(|| engine.precompile(&upload.component).map(|code| code.len()));
}

/// Loading a compiled module from the cache, its hash checked; and describing it, in an instance.
#[divan::bench(args = ["text_filter", "unit_range"])]
fn load_from_cache(bencher: Bencher, name: &str) {
    let (runtime, engine, upload) = (runtime(), Engine::new().expect("an engine"), upload(name));
    let dir = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(dir.path(), &dir.path().join("secret")).expect("a cache");
    let prepare =
        || runtime.block_on(Module::prepare(&engine, &upload, Some(&cache), &Compiler::Here));
    prepare().expect("it compiles");
    bencher.bench_local(|| prepare().is_ok());
}
