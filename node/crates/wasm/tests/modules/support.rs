//! What the tests share: modules written as WebAssembly text, and batches.

use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir_core::record::{BatchBuilder, Compression, NO_HEADERS, RecordBatch, Records};
use weir_core::{ProducerId, TimestampMs};
use weir_wasm::bisect::OnError;
use weir_wasm::{Compiler, Deployment, Engine, GuestLimits, Module, Upload, UploadError, Worker};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// A core module's interfaces, in WIT, made a component.
pub fn componentize(wat: &str, world: &str) -> Result<Upload, UploadError> {
    let mut module = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}\n{wat}"));
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).expect("wit/ can be read");
    let world = resolve.select_world(&[package], Some(world)).expect("a world of wit/");
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("metadata");
    Upload::of_file(module.into())
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// A filter in WebAssembly text. It looks at values and keeps nothing, unless parts of it are
/// replaced.
///
/// A result at 1024 is `result<kept, string>`: 0 for ok, then at 1028 the bits (address, length)
/// and at 1036 the failures.
pub struct Wat<'a> {
    /// Further definitions.
    pub items: &'a str,
    /// Body of `describe`, before the stock one.
    pub describe: &'a str,
    /// Body of `start`, before the stock one.
    pub start: &'a str,
    /// Body of the call, before the stock one. `$batch` is the address of the batch.
    pub call: &'a str,
    /// Body of the allocator, before the stock one.
    pub realloc: &'a str,
    /// Initial and largest pages of memory.
    pub memory: &'a str,
    /// Name of the exported call.
    pub export: &'a str,
}

impl Default for Wat<'_> {
    fn default() -> Self {
        Wat {
            items: "",
            describe: "",
            start: "",
            call: "",
            realloc: "",
            memory: "2",
            export: "weir:module/filtering@1.0.0#filter",
        }
    }
}

impl Wat<'_> {
    pub fn text(&self) -> String {
        let Wat { items, describe, start, call, realloc, memory, export } = self;
        format!(
            r#"(module
  (import "weir:module/log@1.0.0" "write" (func $log (param i32 i32 i32)))
  (memory (export "memory") {memory})
  (global $top (mut i32) (i32.const 8192))
  {items}
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32)
      (param $new i32) (result i32)
    (local $at i32)
    {realloc}
    (local.set $at (i32.and
      (i32.sub (i32.add (global.get $top) (local.get $align)) (i32.const 1))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $top (i32.add (local.get $at) (local.get $new)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $top) (i32.shl (memory.size) (i32.const 16))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable))
    (local.get $at))
  (func (export "weir:module/lifecycle@1.0.0#describe") (result i32)
    {describe}
    (i32.store8 (i32.const 72) (i32.const 4))
    (i32.const 64))
  (func (export "weir:module/lifecycle@1.0.0#start") (param i32 i32) (result i32)
    {start}
    (i32.const 128))
  (func (export "{export}") (param $batch i32) (result i32)
    ;; As many bytes of bits as the records need, all 0.
    (i32.store (i32.const 1028) (i32.const 2048))
    (i32.store (i32.const 1032)
      (i32.shr_u (i32.add (i32.load (local.get $batch)) (i32.const 7)) (i32.const 3)))
    {call}
    (global.set $top (i32.const 8192))
    (i32.const 1024)))"#
        )
    }

    pub fn upload(&self) -> Result<Upload, UploadError> {
        let world = match self.export {
            "weir:module/transforming@1.0.0#transform" => "transform",
            "weir:module/checking@1.0.0#check" => "produce-check",
            _ => "filter",
        };
        componentize(&self.text(), world)
    }
}

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
    Deployment { module: module.clone(), settings: vec![], limits: LIMITS, on_error, topics: 1 }
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
    Deployment { module, settings, limits, on_error, topics: 2 }
}
