//! What the tests share: modules that run, and batches.

use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, Records};
use weir_core::{ProducerId, TimestampMs};
use weir_wasm::bisect::OnError;
use weir_wasm::{Compiler, Deployment, Engine, GuestLimits, Module, Surroundings, Upload, Worker};

pub use crate::wat::{Wat, componentize, root};

/// One engine for the tests of this process.
pub fn engine() -> &'static Engine {
    static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().expect("an engine"))
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(future)
}

pub async fn module(upload: &Upload) -> Module {
    let module = Module::prepare(engine(), upload, None, &Compiler::Here).await;
    module.unwrap_or_else(|error| panic!("{error}"))
}

/// Limits small enough for tests to reach them soon.
pub const LIMITS: GuestLimits = GuestLimits {
    memory_bytes: 16 << 20,
    cpu_per_call: Duration::from_millis(50),
    ..GuestLimits::DEFAULT
};

pub fn deployment(module: &Module, on_error: OnError) -> Deployment {
    let (module, settings) = (module.clone(), vec![]);
    Deployment {
        module,
        settings,
        limits: LIMITS,
        on_error,
        topics: 1,
        around: Surroundings::default(),
    }
}

pub async fn worker(wat: &Wat<'_>, on_error: OnError) -> Worker {
    let module = module(&wat.upload().unwrap_or_else(|error| panic!("{error}"))).await;
    Worker::new(deployment(&module, on_error))
}

/// Records of these values, one after the other from offset 0.
pub fn records<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Records {
    keyed(values.into_iter().map(|value| (None::<&[u8]>, value)))
}

/// Records of these keys and values. The times are 0, 1000, 2000 and so on, in milliseconds.
pub fn keyed<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    records: impl IntoIterator<Item = (Option<K>, V)>,
) -> Records {
    let mut builder = BatchBuilder::new(Compression::None);
    for (index, (key, value)) in records.into_iter().enumerate() {
        let key = key.as_ref().map(AsRef::as_ref);
        let time = TimestampMs(index as i64 * 1000);
        builder.push(time, key, Some(value.as_ref()), NO_HEADERS).expect("a small record");
    }
    let bytes: Bytes = builder.build(ProducerId::NONE, -1, -1).expect("some records");
    RecordBatch::decode_with_records(bytes).expect("a valid batch").1
}

/// The module that `cargo xtask guests` built.
pub fn example(name: &str) -> Upload {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("target"));
    let path = target.join("guests").join(format!("{}.wasm", name.replace('-', "_")));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}: run `cargo xtask guests` first", path.display())
    });
    Upload::of_file(bytes.into()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An example, with parameters as they are given on a command line.
pub async fn example_deployment(
    name: &str,
    params: &[(&str, &str)],
    on_error: OnError,
) -> Deployment {
    let module = module(&example(name)).await;
    let params: Vec<(String, String)> =
        params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let settings = module.description().settings(&params).expect("settings fit");
    let limits = GuestLimits::DEFAULT;
    Deployment { module, settings, limits, on_error, topics: 2, around: Surroundings::default() }
}
