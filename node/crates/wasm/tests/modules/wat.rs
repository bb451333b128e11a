//! Modules written as WebAssembly text: those that no compiler would make.

use std::path::{Path, PathBuf};
use weir_wasm::{Upload, UploadError};
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

/// The repository.
pub fn root() -> PathBuf {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = folders.find(|folder| folder.join("wit").is_dir());
    root.expect("the repository has a folder wit/").to_owned()
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
    /// The module as text.
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

    /// The module as it is uploaded.
    pub fn upload(&self) -> Result<Upload, UploadError> {
        let world = match self.export {
            "weir:module/transforming@1.0.0#transform" => "transform",
            "weir:module/consuming@1.0.0#consume" => "consumer",
            "weir:module/checking@1.0.0#check" => "produce-check",
            _ => "filter",
        };
        componentize(&self.text(), world)
    }
}
