//! The cache of compiled modules.

use crate::support::{Wat, block_on, engine};
use std::fs;
use std::path::{Path, PathBuf};
use weir_wasm::{Cache, Compiler, Module, Upload};

/// A compiler that cannot be run: what is made with it came from the cache.
fn none() -> Compiler {
    Compiler::Child { program: "/nonexistent/compiler".into(), args: vec![] }
}

fn prepare(upload: &Upload, cache: &Cache, compiler: &Compiler) -> bool {
    block_on(Module::prepare(engine(), upload, Some(cache), compiler)).is_ok()
}

fn open(dir: &Path, secret: &str) -> Cache {
    Cache::open(&dir.join("modules"), &dir.join(secret)).unwrap()
}

fn entry(dir: &Path) -> PathBuf {
    let mut entries = fs::read_dir(dir.join("modules")).unwrap();
    let entry = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "one module has one entry");
    entry
}

/// Goal: a module is compiled once, and then never again.
#[test]
fn a_module_is_compiled_once() {
    let dir = tempfile::tempdir().unwrap();
    let upload = Wat::default().upload().unwrap();
    assert!(!prepare(&upload, &open(dir.path(), "secret"), &none()), "it was in no cache");
    assert!(prepare(&upload, &open(dir.path(), "secret"), &Compiler::Here));
    assert!(prepare(&upload, &open(dir.path(), "secret"), &none()));
    open(dir.path(), "secret").remove(upload.hash);
    assert!(!prepare(&upload, &open(dir.path(), "secret"), &none()));
}

/// Goal: an entry that is not bit for bit what this node wrote is never loaded, and does not stay.
#[test]
fn wrong_entries_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), "secret");
    let upload = Wat::default().upload().unwrap();
    assert!(prepare(&upload, &cache, &Compiler::Here));
    let path = entry(dir.path());
    let good = fs::read(&path).unwrap();
    // Every field of the header, some places of the code, cut short, made longer, empty.
    let mut wrong: Vec<Vec<u8>> = [0, 8, 12, 16, 40, 48, 56, 64, 95, 96, 5_000, good.len() - 1]
        .into_iter()
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        })
        .collect();
    wrong.extend([good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat(), vec![]]);
    for bytes in wrong {
        fs::write(&path, &bytes).unwrap();
        assert!(!prepare(&upload, &cache, &none()), "{} bytes", bytes.len());
        assert!(!path.exists());
    }
    fs::write(&path, &good).unwrap();
    assert!(prepare(&upload, &cache, &none()), "the right one is loaded");
}

/// Goal: neither an entry of another node nor that of another module is loaded.
#[test]
fn foreign_entries_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let upload = Wat::default().upload().unwrap();
    assert!(prepare(&upload, &open(dir.path(), "secret"), &Compiler::Here));
    let path = entry(dir.path());
    let good = fs::read(&path).unwrap();

    assert!(!prepare(&upload, &open(dir.path(), "other-secret"), &none()));
    assert!(!path.exists());

    let other = Wat { items: "(func)", ..Wat::default() }.upload().unwrap();
    assert_ne!(upload.hash, other.hash);
    let name = path.file_name().unwrap().to_str().unwrap();
    let renamed = name.replace(&upload.hash.to_string(), &other.hash.to_string());
    fs::write(path.with_file_name(renamed), good).unwrap();
    assert!(!prepare(&other, &open(dir.path(), "secret"), &none()));
}

/// Goal: the secret is readable by its owner alone; a damaged one is an error, not a new secret.
#[test]
fn the_secret_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), "secret"));
    let path = dir.path().join("secret");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, b"short").unwrap();
    assert!(Cache::open(&dir.path().join("modules"), &path).is_err());
}
