//! Ctrl-C ends a command, also while the node does not answer.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use weir_tests::node_process::{NodeProcess, PATIENCE, weir_command};

/// Waits for the end of `child`, for less long than a delivery may take.
fn ended(child: &mut Child) -> Result<Option<i32>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        ensure!(Instant::now() < deadline, "it runs on");
        // sleep: between two looks at a process that ends by itself
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Goal: a producer whose node hangs ends soon after Ctrl-C, says what it does not know, and ends
/// as interrupted. Method: a node that is stopped by the system with a record on its way.
#[test]
fn produce_ends_while_the_node_hangs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let node = NodeProcess::start(dir.path())?;
    node.weir(&["topic", "create", "t"]).expect(0);
    let address = node.address().to_string();
    let ca = node.ca();
    let mut child = weir_command()
        .args(["produce", "t", "--server", &address, "--ca"])
        .arg(&ca)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(b"one\n")?;
    // By now it runs, and listens to signals.
    node.weir(&["consume", "t", "--from", "earliest", "-n", "1"]).expect(0);
    node.signal(Signal::STOP)?;
    stdin.write_all(b"two\n")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process id")?;
    kill_process(pid, Signal::INT)?;
    let code = ended(&mut child);
    node.signal(Signal::CONT)?;
    let mut said = String::new();
    child.stderr.take().context("a pipe")?.read_to_string(&mut said)?;
    ensure!(code? == Some(130), "{said}");
    ensure!(said.contains("interrupted"), "{said}");
    Ok(())
}
