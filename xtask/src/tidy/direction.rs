//! Who may depend on whom. The crate graph is the architecture; a new edge is a decision.

use super::rust::{Source, is_word};
use super::{Faults, Files, is_test_file};
use serde_json::Value;

/// Every crate of the workspace, where it lies, and the workspace crates that it may use.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("weir-core", "node/crates/core/", &[]),
    ("weir-log", "node/crates/log/", &["weir-core"]),
    ("weir-transport", "node/crates/transport/", &["weir-core"]),
    ("weir-collect", "node/crates/collect/", &[]),
    ("weir-wasm", "node/crates/wasm/", &["weir-core"]),
    (
        "weir-broker",
        "node/crates/broker/",
        &["weir-core", "weir-log", "weir-transport", "weir-wasm", "weir-controller"],
    ),
    ("weir-controller", "node/crates/controller/", &["weir-core", "weir-log"]),
    ("weir-producer", "sdk/producer/", &["weir-core"]),
    ("weir-client", "sdk/client/", &["weir-core", "weir-producer", "weir-transport"]),
    (
        "weir-node",
        "node/",
        &[
            "weir-core",
            "weir-log",
            "weir-transport",
            "weir-collect",
            "weir-wasm",
            "weir-broker",
            "weir-controller",
            "weir-client",
        ],
    ),
    (
        "weir-fuzz",
        "tests/fuzz/",
        &["weir-core", "weir-transport", "weir-collect", "weir-wasm", "weir-node"],
    ),
    ("weir-sim", "tests/sim/", &["weir-core", "weir-producer"]),
    (
        "weir-tests",
        "tests/",
        &[
            "weir-core",
            "weir-client",
            "weir-transport",
            "weir-log",
            "weir-broker",
            "weir-collect",
            "weir-wasm",
        ],
    ),
    ("xtask", "xtask/", &[]),
];

/// What a crate may use besides in its tests: a bench of the node's raw storage and network needs
/// nothing more, and neither do whole-node tests.
const TESTS_ALSO: &[(&str, &[&str])] = &[
    ("weir-client", &["weir-broker", "weir-log"]),
    // Modules in WebAssembly text.
    ("weir-tests", &["wit-component"]),
];

/// Packages that only one crate may name, so that they can be replaced there.
const OWNED: &[(&str, &str)] = &[
    ("redb", "weir-log"),
    ("quinn", "weir-transport"),
    ("quinn-proto", "weir-transport"),
    ("rustls", "weir-transport"),
    ("rcgen", "weir-transport"),
    ("x509-parser", "weir-transport"),
    ("wasmtime", "weir-wasm"),
    ("wasmparser", "weir-wasm"),
    ("wit-component", "weir-wasm"),
    ("openraft", "weir-controller"),
];

/// The crate that denies unsafe code instead of forbidding it, and the one file that has some.
const UNSAFE: (&str, &str) = ("node/crates/wasm/Cargo.toml", "node/crates/wasm/src/load.rs");

/// Modules and their SDK: a workspace of their own, for another target.
const GUESTS: [&str; 2] = ["guest-examples/", "sdk/guest/"];

/// What the pure crate must not name: clocks, files, sockets, tasks, chance.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "tokio",
    "fastrand",
    "async",
];

/// Checks the edges of the crate graph.
pub fn check_metadata(metadata: &Value) -> Faults {
    let mut faults = Faults::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !package["source"].is_null() {
            continue;
        }
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, _, allowed)) = CRATES.iter().find(|(known, ..)| *known == name) else {
            faults.push(format!("{name}: a new crate; give it a place in xtask/src/tidy"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            let also = TESTS_ALSO.iter().find(|(known, _)| for_tests && *known == name);
            let internal = CRATES.iter().any(|(known, ..)| *known == on);
            let listed = allowed.contains(&on) || also.is_some_and(|(_, also)| also.contains(&on));
            // A crate that depends on itself for tests turns on features of its own.
            let itself = for_tests && on == name;
            if internal && !listed && !itself {
                faults.push(format!("{name} must not depend on {on}: see ARCHITECTURE.md"));
            }
            if let Some((_, owner)) = OWNED.iter().find(|(owned, _)| *owned == on)
                && *owner != name
                && !listed
            {
                faults.push(format!("{name} must not depend on {on}: only {owner} may"));
            }
        }
    }
    faults
}

/// Checks that sources do not name what their crate must not, re-exports included.
pub fn check_sources(files: &Files) -> Faults {
    let mut faults = Faults::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let Some(name) = crate_of(path) else { continue };
        let source = Source::new(text);
        for (n, code) in source.code.lines().enumerate() {
            for (owned, owner) in OWNED.iter().filter(|(_, owner)| *owner != name) {
                let ident = owned.replace('-', "_");
                if paths_to(code, &ident) {
                    faults.push(format!("{path}:{}: names {owned}: only {owner} may", n + 1));
                }
            }
            let pure = name == "weir-core" && !is_test_file(path) && !source.is_test_line(n);
            for word in IMPURE.iter().filter(|_| pure) {
                if names(code, word) {
                    faults.push(format!("{path}:{}: {word} in the pure crate", n + 1));
                }
            }
        }
    }
    faults
}

/// Checks what every manifest must say.
pub fn check_manifests(files: &Files) -> Faults {
    let mut faults = Faults::new();
    let ours = |path: &str| !GUESTS.iter().any(|folder| path.starts_with(folder));
    let manifests = files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml") && ours(path));
    for (path, text) in manifests {
        let Ok(manifest) = text.parse::<toml::Table>() else {
            faults.push(format!("{path}: not TOML"));
            continue;
        };
        if path == UNSAFE.0 {
            faults.extend(check_unsafe(files, &manifest));
        } else if !manifest.get("lints").is_some_and(says_workspace) {
            faults.push(format!("{path}: [lints] workspace = true is missing"));
        }
        for key in ["version", "edition", "rust-version", "license"] {
            let value = manifest.get("package").and_then(|package| package.get(key));
            if !value.is_some_and(says_workspace) {
                faults.push(format!("{path}: {key}.workspace = true is missing"));
            }
        }
    }
    faults
}

/// The lints of the crate with unsafe code are the workspace's, but for that one; and the code is
/// where it is said to be, in one expression.
fn check_unsafe(files: &Files, manifest: &toml::Table) -> Faults {
    let (path, file) = UNSAFE;
    let mut faults = Faults::new();
    let root = files.get("Cargo.toml").and_then(|text| text.parse::<toml::Table>().ok());
    let mut wanted = root.as_ref().and_then(|root| root.get("workspace")?.get("lints")).cloned();
    if let Some(rust) = wanted.as_mut().and_then(|lints| lints.get_mut("rust")?.as_table_mut()) {
        rust.insert("unsafe_code".into(), "deny".into());
    }
    if wanted.is_some() && manifest.get("lints") != wanted.as_ref() {
        faults
            .push(format!("{path}: [lints] must be the workspace's, with unsafe_code = \"deny\""));
    }
    for (name, text) in files.iter().filter(|(name, _)| name.starts_with("node/crates/wasm/")) {
        let allowed = usize::from(name == file);
        let code = Source::new(text).code;
        let exceptions = code.matches("(unsafe_code").count();
        if name.ends_with(".rs") && exceptions > allowed {
            faults.push(format!("{name}: unsafe code belongs in {file}, in one place"));
        }
    }
    faults
}

fn says_workspace(value: &toml::Value) -> bool {
    value.get("workspace").and_then(toml::Value::as_bool) == Some(true)
}

/// The crate that a file belongs to: that of the longest matching folder.
fn crate_of(path: &str) -> Option<&'static str> {
    let holds = CRATES.iter().filter(|(_, folder, _)| path.starts_with(folder));
    holds.max_by_key(|(_, folder, _)| folder.len()).map(|(name, ..)| *name)
}

/// Whether `code` has a path that begins with `ident`, imports it, or takes it from a re-export. A
/// module or function of that name elsewhere is another thing.
fn paths_to(code: &str, ident: &str) -> bool {
    code.match_indices(ident).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + ident.len()..]);
        let whole = !before.bytes().next_back().is_some_and(is_word)
            && !after.bytes().next().is_some_and(is_word);
        let begins = after.starts_with("::") && !before.ends_with("::");
        let exported = before.ends_with("weir_transport::") || before.ends_with("weir_log::");
        whole && (begins || exported || before.ends_with("use "))
    })
}

fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let whole = |byte: Option<u8>| !byte.is_some_and(is_word);
        whole(code[..at].bytes().next_back()) && whole(code[at + word.len()..].bytes().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edge(from: &str, to: &str, kind: Value) -> Faults {
        let dependencies = json!([{ "name": to, "kind": kind }]);
        let package = json!({ "name": from, "source": null, "dependencies": dependencies });
        check_metadata(&json!({ "packages": [package] }))
    }

    /// Goal: every edge that the architecture forbids is refused, and those it has pass.
    #[test]
    fn edges() {
        for (from, to) in [
            ("weir-core", "weir-log"),
            ("weir-log", "weir-transport"),
            ("weir-transport", "weir-log"),
            ("weir-client", "weir-broker"),
            ("weir-collect", "weir-core"),
            ("weir-broker", "weir-client"),
            ("weir-broker", "weir-node"),
            ("weir-broker", "redb"),
            ("weir-node", "quinn"),
            ("weir-client", "rustls"),
            ("weir-wasm", "weir-log"),
            ("weir-core", "weir-wasm"),
            ("weir-broker", "wasmtime"),
            ("weir-sim", "weir-broker"),
            ("weir-controller", "weir-broker"),
            ("weir-controller", "weir-transport"),
            ("weir-broker", "openraft"),
        ] {
            assert_eq!(edge(from, to, Value::Null).len(), 1, "{from} -> {to}");
        }
        assert_eq!(edge("weir-core", "weir-log", json!("dev")).len(), 1, "for tests neither");
        assert_eq!(edge("weir-new", "bytes", Value::Null).len(), 1, "unknown crates are refused");
        for (from, to) in [
            ("weir-log", "weir-core"),
            ("weir-log", "redb"),
            ("weir-transport", "quinn"),
            ("weir-node", "weir-client"),
            ("weir-broker", "tokio"),
        ] {
            assert_eq!(edge(from, to, Value::Null), [""; 0], "{from} -> {to}");
        }
    }

    fn source(path: &str, text: &str) -> Faults {
        check_sources(&Files::from([(path.to_owned(), text.to_owned())]))
    }

    /// Goal: names of owned packages are found wherever they are used, and not in prose.
    #[test]
    fn names_in_sources() {
        assert_eq!(source("node/src/x.rs", "use redb::Database;\n").len(), 1);
        assert_eq!(source("node/src/x.rs", "use weir_transport::quinn;\n").len(), 1);
        assert_eq!(source("sdk/client/src/x.rs", "fn a(c: quinn::Connection) {}\n").len(), 1);
        assert_eq!(source("node/crates/log/src/x.rs", "use redb::Database;\n"), [""; 0]);
        assert_eq!(source("node/src/x.rs", "// redb::Database\nlet redb_files = 1;\n"), [""; 0]);
        assert_eq!(source("node/src/x.rs", "let a = baseline::quinn(1);\n"), [""; 0]);

        let core = "node/crates/core/src/x.rs";
        assert_eq!(source(core, "let now = Instant::now();\n").len(), 1);
        assert_eq!(source(core, "async fn a() {}\n").len(), 1);
        assert_eq!(source(core, "use std::fs;\n").len(), 1);
        assert_eq!(source(core, "#[cfg(test)]\nmod tests {\n use std::fs;\n}\n"), [""; 0]);
        assert_eq!(source("node/src/x.rs", "async fn a() { Instant::now(); }\n"), [""; 0]);
    }

    /// Goal: a manifest that does not inherit the workspace's lints or version is refused.
    #[test]
    fn manifests() {
        let good = "[package]\nversion.workspace = true\nedition.workspace = true\n\
                    rust-version.workspace = true\nlicense.workspace = true\n\
                    [lints]\nworkspace = true\n";
        let check = |text: String| check_manifests(&[("a/Cargo.toml".to_owned(), text)].into());
        assert_eq!(check(good.to_owned()), [""; 0]);
        assert_eq!(check(good.replace("[lints]\nworkspace = true\n", "")).len(), 1);
        assert_eq!(
            check(good.replace("version.workspace = true\ne", "version = \"1\"\ne")).len(),
            1
        );
    }

    /// Goal: the crate with unsafe code has it in one place, and no other exception.
    #[test]
    fn unsafe_code_is_in_one_place() {
        let rust = "[lints.rust]\nunsafe_code = ";
        let root = format!("[workspace]\n{}\"forbid\"\n", rust.replace("lints", "workspace.lints"));
        let exception = "#[expect(unsafe_code, reason = \"x\")]\nfn a() {}\n";
        let check = |own: &str, elsewhere: &str| {
            let own: toml::Table = own.parse().unwrap();
            let files = [
                ("Cargo.toml", root.as_str()),
                (UNSAFE.1, exception),
                ("node/crates/wasm/src/x.rs", elsewhere),
            ];
            let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
            check_unsafe(&Files::from(files), &own).len()
        };
        let deny = format!("{rust}\"deny\"\n");
        assert_eq!(check(&deny, ""), 0);
        assert_eq!(check(&deny, exception), 1);
        assert_eq!(check(&format!("{rust}\"allow\"\n"), ""), 1);
    }

    /// Goal: the map from files to crates goes by the longest folder.
    #[test]
    fn files_belong_to_crates() {
        assert_eq!(crate_of("node/crates/log/src/a.rs"), Some("weir-log"));
        assert_eq!(crate_of("node/src/a.rs"), Some("weir-node"));
        assert_eq!(crate_of("tests/fuzz/src/a.rs"), Some("weir-fuzz"));
        assert_eq!(crate_of("tests/tests/a.rs"), Some("weir-tests"));
        assert_eq!(crate_of("README.md"), None);
    }
}
