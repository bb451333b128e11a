//! Documents that must stay true: formats beside their code, a section for every error code.
//!
//! `docs/format-hashes.toml` holds the hash of each source file that defines a format and of the
//! document that describes it. When the code changes, its document has to be read again: tidy
//! fails until `cargo xtask tidy --bless`, which in turn wants the document to have changed too,
//! or to be told that the format is the same.

use super::rust::Source;
use super::{Faults, Files};
use crate::sha256;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the hashes are kept.
pub const HASHES: &str = "docs/format-hashes.toml";

/// Documents, and the files and folders of the code that they describe.
const FORMATS: &[(&str, &[&str])] = &[
    (
        "docs/wire.md",
        &[
            "node/crates/core/src/record/compress.rs",
            "node/crates/core/src/record/header.rs",
            "node/crates/core/src/record/iter.rs",
            "node/crates/core/src/record/varint.rs",
            "node/crates/core/src/wire/",
            "node/crates/core/src/topic.rs",
            "node/crates/transport/src/control.rs",
            "node/crates/transport/src/frame.rs",
        ],
    ),
    (
        "docs/on-disk.md",
        &[
            "node/crates/core/src/entry.rs",
            "node/crates/core/src/partition/producers.rs",
            "node/crates/core/src/partition/view.rs",
            "node/crates/core/src/metadata.rs",
            "node/crates/broker/src/groups/rows.rs",
            "node/crates/log/src/cut_rows.rs",
            "node/crates/core/src/controller/snapshot.rs",
            "node/crates/controller/src/store.rs",
            "node/crates/log/src/file.rs",
            "node/crates/log/src/index.rs",
            "node/crates/log/src/kv.rs",
            "node/crates/log/src/manifest.rs",
        ],
    ),
];

const ERROR_CODES: &str = "node/crates/core/src/wire/error.rs";
const ERRORS: &str = "docs/errors.md";

/// Checks formats and error codes against their documents.
pub fn check(files: &Files) -> Faults {
    let mut faults = Faults::new();
    let recorded = match recorded(files) {
        Ok(recorded) => recorded,
        Err(error) => return vec![format!("{error:#}")],
    };
    for (document, hashes) in hashes(files) {
        let Some(text) = files.get(document) else {
            faults.push(format!("{document} is missing: every format has its document"));
            continue;
        };
        let known = recorded.get(document);
        for (source, hash) in &hashes {
            if known.and_then(|known| known.get(source)) != Some(hash) {
                faults.push(format!(
                    "{source} changed: bring {document} up to date, then cargo xtask tidy --bless"
                ));
            }
        }
        let gone = known.into_iter().flatten().filter(|(path, _)| !hashes.contains_key(*path));
        for (source, _) in gone.filter(|(path, _)| *path != document) {
            faults.push(format!("{source} is gone: review {document}, then tidy --bless"));
        }
        if known.and_then(|known| known.get(document)) != Some(&hash_text(text)) {
            faults.push(format!("{document} changed: cargo xtask tidy --bless"));
        }
    }
    faults.extend(check_errors(files));
    faults
}

/// The hashes as they would be recorded now.
///
/// # Errors
/// If a format's code changed and its document did not, unless `unchanged`; or if a document is
/// missing.
pub fn bless(files: &Files, unchanged: bool) -> Result<String> {
    let recorded = recorded(files).unwrap_or_default();
    let mut text = String::from(
        "# Which state of the code each format document describes. Written by\n\
         # `cargo xtask tidy --bless`, after the document was read again.\n",
    );
    for (document, mut hashes) in hashes(files) {
        let body = files.get(document).with_context(|| format!("{document} is missing"))?;
        let body = hash_text(body);
        if let Some(known) = recorded.get(document) {
            let code_changed = hashes.iter().any(|(path, hash)| known.get(path) != Some(hash));
            if code_changed && known.get(document) == Some(&body) && !unchanged {
                bail!(
                    "the code of {document} changed and the document did not: edit it, or say \
                     that the format is the same: tidy --bless --format-unchanged"
                );
            }
        }
        hashes.insert(document.to_owned(), body);
        let _ = write!(text, "\n[{document:?}]\n");
        for (path, hash) in hashes {
            let _ = writeln!(text, "{path:?} = {hash:?}");
        }
    }
    Ok(text)
}

type Hashes = BTreeMap<String, String>;

fn recorded(files: &Files) -> Result<BTreeMap<String, Hashes>> {
    let text = files.get(HASHES).with_context(|| format!("{HASHES} is missing: tidy --bless"))?;
    toml::from_str(text).context(HASHES)
}

/// Per document, the hashes of the code that it describes.
fn hashes(files: &Files) -> Vec<(&'static str, Hashes)> {
    let hash_of = |(path, text): (&String, &String)| (path.clone(), hash_code(text));
    let describes = |folders: &[&str], path: &str| {
        let code = path.ends_with(".rs") && !super::is_test_file(path);
        code && folders.iter().any(|folder| path.starts_with(folder))
    };
    let mut all = Vec::new();
    for (document, folders) in FORMATS {
        let sources = files.iter().filter(|(path, _)| describes(folders, path));
        all.push((*document, sources.map(hash_of).collect()));
    }
    all
}

/// A hash that tests, comments and line breaks do not change.
fn hash_code(text: &str) -> String {
    let source = Source::new(text);
    let mut code = String::new();
    for (n, line) in text.lines().enumerate() {
        if !source.is_test_line(n) && !line.trim_start().starts_with("//") {
            code.extend(line.chars().filter(|c| !c.is_whitespace()));
        }
    }
    hash_text(&code)
}

/// The first half of the digest: changes are to be noticed, not attacks.
fn hash_text(text: &str) -> String {
    let mut hash = sha256::hex(text.as_bytes());
    hash.truncate(32);
    hash
}

/// Every code has its section, `## NUMBER name`, and every section its code.
fn check_errors(files: &Files) -> Faults {
    let (Some(code), Some(document)) = (files.get(ERROR_CODES), files.get(ERRORS)) else {
        return vec![format!("{ERROR_CODES} or {ERRORS} is missing")];
    };
    let codes: Vec<String> = code.lines().filter_map(heading_of_code).collect();
    let sections: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut faults = Faults::new();
    if codes.is_empty() {
        faults.push(format!("{ERROR_CODES}: no error codes found; teach xtask/src/tidy"));
    }
    for code in codes.iter().filter(|code| !sections.contains(&code.as_str())) {
        faults.push(format!("{ERRORS}: no section `## {code}`"));
    }
    let numbered = sections.iter().filter(|title| title.starts_with(|c: char| c.is_ascii_digit()));
    for section in numbered.filter(|title| !codes.iter().any(|code| code == *title)) {
        faults.push(format!("{ERRORS}: `## {section}` is no error code"));
    }
    faults
}

/// `Busy = 18, "busy", true;` gives `18 busy`.
fn heading_of_code(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(" = ")?;
    let (number, rest) = rest.split_once(", \"")?;
    let (name, rest) = rest.split_once("\", ")?;
    let flag = matches!(rest, "true;" | "false;");
    (flag && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| format!("{number} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "node/crates/core/src/entry.rs";

    fn files() -> Files {
        let mut files: Files = [
            ("docs/wire.md", "wire"),
            ("docs/on-disk.md", "disk"),
            (SOURCE, "pub const A: u8 = 1;\n"),
            (ERROR_CODES, "    Busy = 18, \"busy\", true;\n"),
            (ERRORS, "# Errors\n## 18 busy\ntext\n## Reading this page\n"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into();
        let hashes = bless(&files, false).unwrap();
        files.insert(HASHES.to_owned(), hashes);
        assert_eq!(check(&files), [""; 0]);
        files
    }

    fn with(path: &str, text: &str) -> Files {
        let mut files = files();
        files.insert(path.to_owned(), text.to_owned());
        files
    }

    /// Goal: code that changed without its document is seen, cannot be blessed by accident, and
    /// comments and tests do not count as change.
    #[test]
    fn formats_are_tied_to_their_documents() {
        let changed = with(SOURCE, "pub const A: u8 = 2;\n");
        assert!(check(&changed)[0].contains("docs/on-disk.md"));
        assert!(bless(&changed, false).is_err());
        assert!(bless(&changed, true).is_ok());
        let mut both = changed;
        both.insert("docs/on-disk.md".to_owned(), "disk, version 2".to_owned());
        let hashes = bless(&both, false).unwrap();
        both.insert(HASHES.to_owned(), hashes);
        assert_eq!(check(&both), [""; 0]);

        let same = "// a word\npub const A:\n u8 = 1;\n#[cfg(test)]\nmod tests {\n fn t() {}\n}\n";
        assert_eq!(check(&with(SOURCE, same)), [""; 0]);

        let mut gone = files();
        gone.remove(SOURCE);
        assert!(check(&gone)[0].contains("is gone"));
        let mut missing = files();
        missing.remove("docs/wire.md");
        assert!(check(&missing)[0].contains("docs/wire.md is missing"));
        assert!(!check(&with("node/crates/core/src/wire/new.rs", "fn new() {}")).is_empty());
    }

    /// Goal: a code without a section, and a section without a code, are both seen.
    #[test]
    fn error_codes_are_documented() {
        let codes = "    Busy = 18, \"busy\", true;\n    Lost = 19, \"lost\", false;\n";
        let faults = check_errors(&with(ERROR_CODES, codes));
        assert_eq!(faults, ["docs/errors.md: no section `## 19 lost`"]);
        assert!(check_errors(&with(ERRORS, "## 18 busy\n## 20 old\n"))[0].contains("20 old"));
        assert!(!check_errors(&with(ERROR_CODES, "enum Other {}\n")).is_empty());
    }
}
