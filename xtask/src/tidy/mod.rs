//! Style as a test: what a reviewer would have to say again and again is said by code.
//!
//! Every check is a function from text to faults, and has a test that breaks its rule on purpose.
//! What cannot be had at once is ratcheted: `xtask/tidy.toml` lists the files and functions that
//! were too long when the rule came, with the length that they must not pass again.

mod direction;
mod documents;
mod ratchet;
mod rust;
mod source;

use crate::workspace;
use anyhow::{Context, Result, bail};
use ratchet::Ratchet;
use std::collections::BTreeMap;

/// What is wrong, where, and what to do.
type Faults = Vec<String>;

/// The text files of the workspace by their path.
type Files = BTreeMap<String, String>;

/// `cargo xtask tidy`.
///
/// # Errors
/// If a rule is broken, after printing each fault.
pub fn run(args: &[String]) -> Result<()> {
    let (bless, unchanged) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => (false, false),
        ["--bless"] => (true, false),
        ["--bless", "--format-unchanged"] => (true, true),
        _ => bail!("tidy takes nothing, --bless, or --bless --format-unchanged"),
    };
    let files = read_files()?;
    let root = workspace::root();
    if bless {
        let blessed = documents::bless(&files, unchanged)?;
        std::fs::write(root.join(documents::HASHES), blessed)?;
        let shrunk = Ratchet::of(&files)?.shrunk(&source::lengths(&files));
        std::fs::write(root.join(ratchet::FILE), shrunk.to_text())?;
        println!("recorded in {} and {}", documents::HASHES, ratchet::FILE);
        return run(&[]);
    }
    let mut faults = source::check(&files, &Ratchet::of(&files)?);
    faults.extend(documents::check(&files));
    faults.extend(direction::check_sources(&files));
    faults.extend(direction::check_manifests(&files));
    faults.extend(direction::check_metadata(&workspace::metadata()?));
    for fault in &faults {
        eprintln!("  {fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults of style; rules: xtask/src/tidy", faults.len());
    }
    println!("{} files are tidy", files.len());
    Ok(())
}

/// All files that are text; what is binary has no style.
fn read_files() -> Result<Files> {
    let root = workspace::root();
    let mut files = Files::new();
    for path in workspace::files()? {
        let bytes = std::fs::read(root.join(&path)).with_context(|| path.clone())?;
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(path, text);
        }
    }
    Ok(files)
}

/// Where the code of tests lies: whole files.
fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || name == "tests.rs"
        || name.ends_with("_tests.rs")
        || name.ends_with("_test.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the checks hold for this very workspace's rules: they can be read and agree with
    /// what is on disk, so that a broken rules file is seen by `cargo test` too.
    #[test]
    fn own_rules_are_readable() {
        let files = read_files().unwrap();
        assert!(files.contains_key("xtask/src/tidy/mod.rs"));
        Ratchet::of(&files).unwrap();
        assert!(is_test_file("node/crates/core/tests/x.rs") && is_test_file("a/src/x_tests.rs"));
        assert!(!is_test_file("node/crates/core/src/partition/leader.rs"));
    }
}
