//! How files look: their length and width, words that must not stay, and what must not be named.

use super::ratchet::Ratchet;
use super::rust::{Source, is_word};
use super::{Faults, Files, is_test_file};

/// Lines of a file without its tests: above this it belongs in the ratchet.
const FILE_LINES: usize = 600;
/// Above this not even the ratchet helps.
const FILE_LINES_MAX: usize = 900;
/// Lines of a function, outside tests.
const FUNCTION_LINES: usize = 70;
/// Characters of a line.
const COLUMNS: usize = 100;

/// Hosts that files may link to: standards, licences, the tools' own sites and made-up names.
const HOSTS: &[&str] = &[
    "cheatography.com",
    "doc.rust-lang.org",
    "docs.kernel.org",
    "docs.rs",
    "en.wikipedia.org",
    "example.com",
    "example.invalid",
    "example.org",
    "gpsd.gitlab.io",
    "github.com",
    "json-schema.org",
    "kafka.apache.org",
    "keepachangelog.com",
    "prometheus.io",
    "rustup.rs",
    "semver.org",
    "sh.rustup.rs",
    "toml.io",
    "www.apache.org",
    "www.rfc-editor.org",
    "www.rust-lang.org",
    "127.0.0.1",
    "localhost",
];

/// Written in two parts, or this file would break its own rule.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/home/", "user/"),
];

/// Checks every file.
pub fn check(files: &Files, ratchet: &Ratchet) -> Faults {
    let mut faults = Faults::new();
    for (path, text) in files {
        if path == "Cargo.lock" || path.starts_with("tests/golden/") {
            continue;
        }
        faults.extend(names(path, text));
        // A dependency is one line of a manifest, however many features it names.
        if path.ends_with(".rs") || path.ends_with(".sh") {
            faults.extend(columns(path, text));
        }
        if path.ends_with(".rs") {
            faults.extend(words(path, &Source::new(text)));
        }
    }
    faults.extend(lengths_over(&lengths(files), ratchet));
    faults
}

/// All files and functions that are longer than the style allows.
pub fn lengths(files: &Files) -> Ratchet {
    let mut long = Ratchet::default();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        if is_test_file(path) {
            continue;
        }
        let source = Source::new(text);
        let lines = source.lines_without_tests();
        if lines > FILE_LINES {
            long.files.insert(path.clone(), lines);
        }
        for function in source.functions() {
            if function.lines > FUNCTION_LINES && !source.is_test_line(function.line) {
                long.functions.insert(format!("{path}::{}", function.name), function.lines);
            }
        }
    }
    long
}

fn lengths_over(now: &Ratchet, ratchet: &Ratchet) -> Faults {
    let mut faults = Faults::new();
    for (path, lines) in &now.files {
        let max = ratchet.files.get(path).copied().unwrap_or(FILE_LINES).min(FILE_LINES_MAX);
        if *lines > max {
            faults
                .push(format!("{path}: {lines} lines without tests, at most {max}: split by role"));
        }
    }
    for (name, lines) in &now.functions {
        let max = ratchet.functions.get(name).copied().unwrap_or(FUNCTION_LINES);
        if *lines > max {
            faults.push(format!("{name}: a function of {lines} lines, at most {max}"));
        }
    }
    let listed = ratchet.files.keys().map(|path| (path, now.files.contains_key(path)));
    let listed =
        listed.chain(ratchet.functions.keys().map(|name| (name, now.functions.contains_key(name))));
    for (name, _) in listed.filter(|(_, long)| !long) {
        faults.push(format!("{name}: no longer too long: run cargo xtask tidy --bless"));
    }
    faults
}

fn columns(path: &str, text: &str) -> Faults {
    let mut faults = Faults::new();
    for (n, line) in text.lines().enumerate() {
        let width = line.chars().count();
        // A link cannot be broken.
        if width > COLUMNS && !line.contains("://") {
            faults.push(format!("{path}:{}: {width} columns, at most {COLUMNS}", n + 1));
        }
        if line.ends_with([' ', '\t']) {
            faults.push(format!("{path}:{}: blanks at the end of the line", n + 1));
        }
    }
    faults
}

/// Words that are fine while writing and must not be committed.
fn words(path: &str, source: &Source<'_>) -> Faults {
    let mut faults = Faults::new();
    let lines: Vec<&str> = source.text.lines().collect();
    for (n, code) in source.code.lines().enumerate() {
        let mut fault = |what: &str| faults.push(format!("{path}:{}: {what}", n + 1));
        for word in ["todo!", "unimplemented!", "dbg!"] {
            if has_word(code, word) {
                fault(&format!("{word} must not stay"));
            }
        }
        if code.contains("#[ignore") {
            fault("a test that is ignored does not test: run it or remove it");
        }
        let in_test = is_test_file(path) || source.is_test_line(n);
        if in_test && has_word(code, "sleep(") && !has_reason(&lines, n) {
            fault("a test must wait for an event, not for time; or say why: // sleep: REASON");
        }
        let allow = code.trim_start().starts_with("#[allow(") || code.contains("#![allow(");
        // What several test binaries share is used by some of them only.
        if allow && !is_test_file(path) {
            fault("use #[expect(.., reason = \"..\")]: it goes when its cause goes");
        }
    }
    faults
}

/// `word` not as the tail of a longer one.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| at == 0 || !is_word(code.as_bytes()[at - 1]))
}

/// Whether the line or the comment right above it gives a reason for sleeping.
fn has_reason(lines: &[&str], n: usize) -> bool {
    let above = lines[..n].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
    std::iter::once(&lines[n]).chain(above).any(|line| line.contains("// sleep: "))
}

/// Machine paths and hosts, in every text file.
fn names(path: &str, text: &str) -> Faults {
    let mut faults = Faults::new();
    for (n, line) in text.lines().enumerate() {
        if let Some(found) = MACHINE_PATHS.iter().find(|found| line.contains(**found)) {
            faults.push(format!("{path}:{}: {found} is a path of one machine", n + 1));
        }
        for (at, scheme) in line.match_indices("://") {
            let rest = &line[at + scheme.len()..];
            let end = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
            let host = rest.split(end).next().unwrap_or_default().trim_end_matches('.');
            let web = line[..at].ends_with("http") || line[..at].ends_with("https");
            // One label, or none, is a placeholder.
            if web && host.contains('.') && !HOSTS.contains(&host) {
                faults.push(format!("{path}:{}: links to {host}, which is not in the list", n + 1));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Faults {
        let files = Files::from([(path.to_owned(), text.to_owned())]);
        check(&files, &Ratchet::default())
    }

    fn expect(path: &str, text: &str, word: &str) {
        let faults = faults(path, text);
        assert!(faults.len() == 1 && faults[0].contains(word), "{word}: {faults:?}");
    }

    /// Goal: each rule is seen to be broken, and its nearest legal neighbour passes. Method: one
    /// made-up file a rule, as `concat!` where this file would break the rule itself.
    #[test]
    fn every_rule_bites() {
        expect("a/src/x.rs", "fn a() { todo!() }\n", "todo!");
        expect("a/src/x.rs", "fn a() { dbg!(1); }\n", "dbg!");
        expect("a/src/x.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n", "ignored");
        expect("a/src/x.rs", "#[allow(dead_code)]\nfn a() {}\n", "expect");
        assert_eq!(faults("a/src/x.rs", "// todo! dbg!\nconst A: &str = \"todo!()\";\n"), [""; 0]);

        expect("a/tests/x.rs", "fn a() { thread::sleep(T); }\n", "wait for an event");
        expect("a/src/x.rs", "#[cfg(test)]\nmod tests {\n fn a() { sleep(T); }\n}\n", "event");
        let reason = "// sleep: the time itself is under test\nfn a() { sleep(T); }\n";
        assert_eq!(faults("a/tests/x.rs", reason), [""; 0]);
        assert_eq!(faults("a/src/x.rs", "fn a() { thread::sleep(T); }\n"), [""; 0]);

        expect("x.sh", &format!("# {}\n", "x".repeat(99)), "101 columns");
        expect("x.sh", "a=1 \n", "blanks");
        assert_eq!(faults("x.md", &"x".repeat(200)), [""; 0]);

        expect("x.md", concat!("see /wo", "rk/main\n"), "one machine");
        expect("x.md", concat!("see https:/", "/registry.unknown.net/x\n"), "not in the list");
        assert_eq!(faults("x.md", "https://docs.rs/quinn, http://NODE:8080/\n"), [""; 0]);
    }

    /// Goal: long files and functions are refused unless the ratchet lists them, and then at
    /// their listed length.
    #[test]
    fn lengths_are_ratcheted() {
        let file = |lines: usize| "//\n".repeat(lines);
        expect("a/src/x.rs", &file(FILE_LINES + 1), "split by role");
        assert_eq!(faults("a/src/x.rs", &file(FILE_LINES)), [""; 0]);
        assert_eq!(faults("a/tests/x.rs", &file(FILE_LINES + 1)), [""; 0]);
        let function = |lines: usize| format!("fn long() {{\n{}}}\n", "    a();\n".repeat(lines));
        expect("a/src/x.rs", &function(FUNCTION_LINES), "a function of");
        assert_eq!(faults("a/src/x.rs", &function(FUNCTION_LINES - 2)), [""; 0]);

        let long = |lines: usize| Files::from([("x.rs".to_owned(), file(lines))]);
        let ratchet =
            |max: usize| Ratchet { files: [("x.rs".to_owned(), max)].into(), ..Ratchet::default() };
        assert_eq!(check(&long(650), &ratchet(650)).len(), 0);
        assert_eq!(check(&long(651), &ratchet(650)).len(), 1);
        assert_eq!(check(&long(901), &ratchet(1000)).len(), 1, "over the hard limit");
        assert_eq!(check(&long(100), &ratchet(650)).len(), 1, "the list must shrink too");
    }
}
