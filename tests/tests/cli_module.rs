//! `weir module` as an author uses it, with the modules that `cargo xtask guests` built.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};
use weir_tests::guests::example;
use weir_tests::node_process::{Ran, weir, weir_command};

fn test_module(name: &str, input: &Path, more: &[&str]) -> Ran {
    let (guest, input) = (example(name), input.to_string_lossy().into_owned());
    let all = [&["module", "test", guest.as_str(), "--input", input.as_str()], more].concat();
    weir(&all)
}

/// Goal: what a module is, is shown to people and to programs; what is none is refused with advice.
#[test]
fn inspect() -> Result<()> {
    let guest = example("gps_geofence");
    let json = weir(&["module", "inspect", &guest, "--json"]).expect(0).json();
    assert_eq!(json["world"], "transform");
    assert_eq!(json["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(json["state_schema"], 1);
    assert_eq!(json["parameters"][0]["name"], "areas");
    assert_eq!(json["parameters"][0]["required"], true);
    let text = weir(&["module", "inspect", &guest]).expect(0).stdout;
    assert!(text.contains("weir:module/state@1.0.0") && text.contains("max-speed"), "{text}");

    let dir = tempfile::tempdir()?;
    let path = dir.path().join("x.wasm");
    std::fs::write(&path, "(module)")?;
    let refused = weir(&["module", "inspect", &path.to_string_lossy()]).expect(4);
    assert!(refused.stderr.contains("WebAssembly text"), "{}", refused.stderr);
    Ok(())
}

/// Goal: a module runs over a file; what comes out is compared with what was expected, and the
/// first difference is shown.
#[test]
fn run_and_compare() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (input, expected) = (dir.path().join("in"), dir.path().join("expected"));
    std::fs::write(&input, "an ERROR\nfine\nERROR 2\n")?;
    let ran = test_module("text_filter", &input, &["--param", "text=ERROR"]).expect(0);
    assert_eq!(ran.stdout, "an ERROR\nERROR 2\n");
    assert!(ran.stderr.contains("3 records") && ran.stderr.contains("ns of CPU"), "{}", ran.stderr);

    let expect = ["--param", "text=ERROR", "--expect", &expected.to_string_lossy()];
    std::fs::write(&expected, "an ERROR\nERROR 2\n")?;
    test_module("text_filter", &input, &expect).expect(0);
    std::fs::write(&expected, "an ERROR\nERROR 3\n")?;
    let differs = test_module("text_filter", &input, &expect).expect(1);
    assert!(differs.stdout.contains("-ERROR 3\n+ERROR 2\n"), "{}", differs.stdout);

    let missing = test_module("text_filter", &input, &[]).expect(2);
    assert!(missing.stderr.contains("parameter text must be given"), "{}", missing.stderr);
    let unknown = test_module("text_filter", &input, &["--param", "txt=a"]).expect(2);
    assert!(unknown.stderr.contains("it has text, invert"), "{}", unknown.stderr);
    Ok(())
}

/// Goal: records that fail are shown with their reason; a policy of stopping ends the run there.
#[test]
fn failed_records() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in");
    std::fs::write(&input, "{\"t\":1}\nno JSON\n{\"t\":3}\n")?;
    let field = ["--param", "field=t"];
    let skipped = test_module("unit_range", &input, &field).expect(0);
    assert_eq!(skipped.stdout, "{\"t\":1.0}\n{\"t\":3.0}\n");
    assert!(skipped.stderr.contains("record 1: "), "{}", skipped.stderr);
    let stop = [&field[..], &["--on-error", "stop"]].concat();
    let stopped = test_module("unit_range", &input, &stop).expect(1);
    assert_eq!(stopped.stdout, "{\"t\":1.0}\n");
    Ok(())
}

/// Goal: state and timers work on a laptop as they do in a node.
#[test]
fn state_and_timers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("in");
    std::fs::write(&input, "a\nb\na\nc\nb\n")?;
    // Batches of two, so that state is needed.
    let args = ["--param", "by=value", "--batch", "2"];
    let ran = test_module("dedup", &input, &args).expect(0);
    assert_eq!(ran.stdout, "a\nb\nc\n");
    assert!(ran.stderr.contains("3 entries, 3 timers"), "{}", ran.stderr);
    let fired = test_module("dedup", &input, &[&args[..], &["--fire-timers"]].concat()).expect(0);
    assert!(fired.stderr.contains("0 entries, 0 timers"), "{}", fired.stderr);
    Ok(())
}

/// Goal: a project of each world is complete, and is not written over another.
#[test]
fn new_projects() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().to_string_lossy().into_owned();
    for world in ["filter", "transform", "consumer", "produce-check"] {
        let name = format!("my-{world}");
        let new = ["module", "new", world, &name, "--dir", &folder];
        weir(&new).expect(0);
        weir(&new).expect(1);
        let project = dir.path().join(&name);
        let manifest = std::fs::read_to_string(project.join("Cargo.toml"))?;
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{manifest}");
        for file in ["src/lib.rs", "weir-guest/src/lib.rs", "weir-guest/wit/worlds.wit"] {
            assert!(project.join(file).exists(), "{world}: {file}");
        }
    }
    weir(&["module", "new", "filter", "Bad_Name", "--dir", &folder]).expect(2);
    Ok(())
}

/// Goal: the compiler in a process of its own compiles a component, says why it refuses one, and
/// keeps to its limits. Method: as a node starts it.
#[test]
fn the_compiler_process() -> Result<()> {
    let upload = weir_wasm::Upload::of_file(std::fs::read(example("text_filter"))?.into())?;
    let good = compile(&upload.component)?;
    assert!(good.status.success() && good.stdout.starts_with(b"\x7fELF"));
    let refused = compile(b"\0asm\x0d\0\x01\0\xff")?;
    assert_eq!(refused.status.code(), Some(3));
    assert!(!refused.stderr.is_empty() && refused.stdout.is_empty());
    Ok(())
}

fn compile(component: &[u8]) -> Result<Output> {
    let mut child = weir_command()
        .args(["module", "compile"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("a pipe")?.write_all(component)?;
    Ok(child.wait_with_output()?)
}
