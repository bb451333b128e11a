//! Goal: this version opens the data folders that released versions left, and gives every record
//! back. Method: each `tests/golden/vN/data.tar.gz` (made by `cargo xtask golden data vN`) is
//! unpacked, a real node is started on the copy, and consumers print what they see.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that ends with its test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, which `cargo xtask test` builds before the tests: `target/debug/weir`.
fn binary() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("a test lies in target/debug/deps")?;
    let binary = profile.join("weir");
    ensure!(binary.is_file(), "{} is missing: cargo build -p weir-node", binary.display());
    Ok(binary)
}

fn weir(data: &Path) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg("--data-dir").arg(data).env_clear().stdin(Stdio::null());
    Ok(command)
}

fn start(data: &Path) -> Result<Node> {
    let mut command = weir(data)?;
    command.args(["node", "--listen", "127.0.0.1:0", "--http", "off"]);
    let mut node = Node(command.spawn()?);
    let begun = Instant::now();
    while !weir(data)?.args(["topic", "list"]).output()?.status.success() {
        ensure!(node.0.try_wait()?.is_none(), "the node ended");
        ensure!(begun.elapsed() < PATIENCE, "the node does not answer");
    }
    Ok(node)
}

/// Lines of all partitions, in an order of their own: partitions come as they come.
fn sorted(text: &[u8]) -> Result<Vec<String>> {
    let mut lines: Vec<String> =
        String::from_utf8(text.to_vec())?.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn check(archive: &Path) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let unpacked =
        Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status()?;
    ensure!(unpacked.success(), "tar failed");
    let data = folder.path().join("data");
    let _node = start(&data)?;
    let mut records = 0;
    for expected in std::fs::read_dir(folder.path().join("expected"))? {
        let path = expected?.path();
        let topic = path.file_stem().context("a name")?.to_string_lossy().into_owned();
        let output = weir(&data)?
            .args(["consume", &topic, "--from", "earliest", "--until-end", "--format", "json"])
            .output()?;
        ensure!(output.status.success(), "consume {topic}: {:?}", output);
        let (found, wanted) = (sorted(&output.stdout)?, sorted(&std::fs::read(&path)?)?);
        ensure!(found.len() == wanted.len(), "{topic}: {} records", found.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            ensure!(found == wanted, "{topic}:\n{found}\nis not\n{wanted}");
        }
        records += found.len();
    }
    // The group had read half of one topic; the rest is still to come, once.
    let rest =
        weir(&data)?.args(["consume", "zstd", "--group", "golden", "--until-end"]).output()?;
    ensure!(rest.status.success(), "group: {rest:?}");
    let left = rest.stdout.iter().filter(|byte| **byte == b'\n').count();
    ensure!(left == 1_000, "{left} records are left for the group");
    Ok(records)
}

#[test]
fn every_version_is_opened() -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut opened = 0;
    for version in std::fs::read_dir(golden)? {
        let archive = version?.path().join("data.tar.gz");
        if archive.exists() {
            let records = check(&archive).with_context(|| archive.display().to_string())?;
            ensure!(records == 6_000, "{}: {records} records", archive.display());
            opened += 1;
        }
    }
    ensure!(opened > 0, "there is no golden data: cargo xtask golden data v1");
    Ok(())
}
