//! `cargo xtask golden`: keeps what this version writes, for all later versions to read.
//!
//! A version's folder is written once. `frames` are the encodings of every format
//! (`tests/fuzz/src/golden.rs`); `data` is the data folder of a node that was used for a while,
//! with what its consumers saw, packed into one file.

use crate::archive::{Entry, tar_gz};
use crate::process::{self, cargo};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to start and to stop here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of each topic.
const RECORDS: usize = 2_000;

/// The topics: name, and the options that they are created with.
const TOPICS: &[(&str, &[&str])] = &[
    ("plain", &["--partitions", "2"]),
    ("zstd", &["--partitions", "1", "--compression", "zstd"]),
    ("lz4", &["--partitions", "3", "--compression", "lz4"]),
];

/// `cargo xtask golden frames|data VERSION`.
///
/// # Errors
/// If the version has its files already, or the node does not do its part.
pub fn run(args: &[String]) -> Result<()> {
    let [what, version] = args else { bail!("golden takes frames or data, and a version: v2") };
    let number = version.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    ensure!(number, "{version:?} is no version folder: v1, v2, ...");
    match what.as_str() {
        "frames" => process::run(cargo().args([
            "run",
            "--quiet",
            "-p",
            "weir-fuzz",
            "--",
            "--write-golden",
            version,
        ])),
        "data" => data(version),
        other => bail!("golden makes frames or data, not {other:?}"),
    }
}

fn data(version: &str) -> Result<()> {
    let golden = workspace::root().join("tests/golden").join(version).join("data.tar.gz");
    ensure!(!golden.exists(), "{} exists: golden files never change", golden.display());
    process::run(cargo().args(["build", "-p", "weir-node"]))?;
    let scratch = workspace::target_dir()?.join("golden");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;
    let weir =
        Weir { binary: workspace::target_dir()?.join("debug/weir"), data: scratch.join("data") };
    let mut entries = Vec::new();
    let node = weir.start()?;
    for (topic, options) in TOPICS {
        weir.run(&[&["topic", "create", topic], *options].concat(), b"")?;
        weir.run(&["produce", topic, "--key-prefix", ":"], &lines(topic))?;
        let said = weir.run(
            &["consume", topic, "--from", "earliest", "--until-end", "--format", "json"],
            b"",
        )?;
        ensure!(said.iter().filter(|byte| **byte == b'\n').count() == RECORDS, "{topic}: count");
        entries.push(entry(format!("expected/{topic}.ndjson"), said));
    }
    let half = (RECORDS / 2).to_string();
    weir.run(&["consume", "zstd", "--group", "golden", "--count", &half], b"")?;
    stop(node)?;
    for path in files_below(&weir.data)? {
        let inside = path.strip_prefix(&weir.data)?.to_string_lossy().into_owned();
        // Keys are nobody's to keep, and what a running node leaves is gone by now.
        if !inside.starts_with("tls") && !inside.starts_with("run") {
            entries.push(entry(format!("data/{inside}"), std::fs::read(&path)?));
        }
    }
    let files = entries.len();
    let bytes = tar_gz(entries)?;
    std::fs::create_dir_all(golden.parent().context("a file in a folder")?)?;
    std::fs::write(&golden, &bytes)?;
    println!("{}: {files} files, {} KiB", golden.display(), bytes.len() / 1024);
    Ok(())
}

fn entry(path: String, bytes: Vec<u8>) -> Entry {
    Entry { path, bytes, executable: false }
}

/// What is produced: keys, values of many lengths, nothing by chance.
fn lines(topic: &str) -> Vec<u8> {
    let mut text = String::new();
    for n in 0..RECORDS {
        let long = "x".repeat(n * 7 % 300);
        let _ = writeln!(text, "key-{}:{topic} record {n} {long}", n % 17);
    }
    text.into_bytes()
}

/// The program and the data folder that it works on.
struct Weir {
    binary: PathBuf,
    data: PathBuf,
}

impl Weir {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(&self.data).env_clear();
        command
    }

    /// Starts a node and waits until it answers.
    fn start(&self) -> Result<Child> {
        let mut node = self
            .command()
            .args(["node", "--listen", "127.0.0.1:0", "--http", "off"])
            .args(["--set", "storage.shards=1"])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the node")?;
        let begun = Instant::now();
        while !process::succeeds(self.command().args(["topic", "list"])) {
            if node.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                let _ = node.kill();
                bail!("the node does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(node)
    }

    /// Runs a client command and returns what it printed.
    fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a client")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(input)?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "`weir {}` failed: {}", args.join(" "), output.status);
        Ok(output.stdout)
    }
}

/// Asks the node to end, and waits until it did.
fn stop(mut node: Child) -> Result<()> {
    process::run(Command::new("kill").args(["-TERM", &node.id().to_string()]))?;
    let begun = Instant::now();
    loop {
        if let Some(status) = node.try_wait()? {
            ensure!(status.success(), "the node ended with {status}");
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let _ = node.kill();
            bail!("the node does not end");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only version folders are written, and what is produced does not vary.
    #[test]
    fn versions_and_contents() {
        let arg = |text: &str| text.to_owned();
        assert!(run(&[arg("frames"), arg("latest")]).is_err());
        assert!(run(&[arg("other"), arg("v1")]).is_err());
        assert!(run(&[arg("data")]).is_err());
        assert_eq!(lines("a"), lines("a"));
        assert_eq!(lines("a").iter().filter(|byte| **byte == b'\n').count(), RECORDS);
    }
}
