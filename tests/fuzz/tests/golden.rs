//! Goal: this version reads what every version wrote, and writes what it always wrote.

use std::collections::BTreeSet;
use weir_fuzz::{golden, hex};

fn versions() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(golden::folder()).unwrap();
    let mut versions: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    versions.retain(|path| path.is_dir());
    versions.sort();
    versions
}

/// The newest folder holds every format of this version, and encoding gives the same bytes.
#[test]
fn this_version_writes_what_it_wrote() {
    let newest = versions().pop().expect("there is a version folder");
    let cases = golden::cases();
    for case in &cases {
        let path = newest.join(format!("{}.hex", case.name));
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let kept = hex::decode(&text).unwrap();
        let (was, is) = ((case.read)(&kept).unwrap(), (case.read)(&case.bytes).unwrap());
        assert_eq!(was, is, "{} reads as another value", case.name);
        if case.exact {
            assert_eq!(hex::encode(&kept), hex::encode(&case.bytes), "{}: bytes", case.name);
        }
    }
    let names: BTreeSet<String> = cases.iter().map(|case| format!("{}.hex", case.name)).collect();
    let kept = std::fs::read_dir(&newest).unwrap();
    let kept = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let kept: BTreeSet<String> = kept.filter(|name| name.ends_with(".hex")).collect();
    assert_eq!(kept, names, "a golden file without a case is not tested");
}

/// Every golden file of every version can be read.
#[test]
fn every_version_is_read() {
    let cases = golden::cases();
    let mut read = 0;
    for version in versions() {
        for case in &cases {
            let path = version.join(format!("{}.hex", case.name));
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let bytes = hex::decode(&text).unwrap();
            (case.read)(&bytes).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
            read += 1;
        }
    }
    assert!(read >= cases.len(), "{read} files read");
}

/// Golden files are never overwritten.
#[test]
fn golden_files_do_not_change() {
    let newest = versions().pop().unwrap();
    assert!(golden::write(&newest).unwrap_err().to_string().contains("never change"));
}
