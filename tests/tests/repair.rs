//! A node whose newest log file rots between a kill and the next start, and the way on.

use anyhow::{Context, Result};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use weir_tests::node_process::{NodeProcess, weir};

/// Goal: the node starts without the file and refuses appends; `weir repair` says what is lost,
/// gives nothing up by itself and nothing under a running node; once told to, the node goes on at
/// offsets that were never used, in a new leader epoch, and the file is kept.
#[test]
fn accepting_a_loss() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::start_with(dir.path(), &["--http", "off"])?;
    let file = dir.path().join("lines");
    std::fs::write(&file, "one\ntwo\nthree\n")?;
    let file = file.to_string_lossy().into_owned();
    node.weir(&["topic", "create", "t", "--partitions", "1"]).expect(0);
    node.weir(&["produce", "t", &file]).expect(0);
    node.weir(&["group", "reset", "g", "--topic=t", "--to=latest"]).expect(0);
    let epoch = epoch(&node)?;
    node.kill()?;
    let active = damage(&node)?;

    node.start_again()?;
    let status = node.weir(&["status", "--json"]).expect(0).json();
    let warning = status["warnings"][0].as_str().context("a warning")?;
    assert!(warning.contains("takes no appends") && warning.contains("weir repair"), "{warning}");
    assert_eq!(status["partitions"][0]["online"], false);
    // Positions may be lost with the file: better none than older ones.
    let group = node.weir(&["group", "describe", "g", "--timeout", "1s"]);
    assert!(group.code != 0 && group.stderr.contains("offline"), "{group:?}");
    // What can be read comes to an end, but not to a good one.
    for end in [&["--until-end"][..], &[]] {
        let consume = ["consume", "t", "--from", "earliest"];
        let told = node.weir(&[&consume, end].concat()).expect(4);
        assert!(told.stderr.contains("0000000001.redb"), "{told:?}");
        assert!(told.stderr.contains("weir repair"), "{told:?}");
    }
    let busy = node.weir(&["repair"]).expect(1);
    assert!(busy.stderr.contains("stop the node"), "{busy:?}");
    node.stop()?;

    let data_dir = node.data_dir().to_string_lossy().into_owned();
    let dry = weir(&["repair", "--data-dir", &data_dir]).expect(1);
    assert!(dry.stdout.contains("t/0") && dry.stderr.contains("--accept-loss"), "{dry:?}");
    assert!(active.exists(), "nothing is given up unasked");
    let done = weir(&["repair", "--data-dir", &data_dir, "--accept-loss", "--json"]).expect(0);
    let done = done.json();
    let partitions = done["losses"][0]["partitions"].as_array().context("partitions")?;
    let lost = partitions.iter().find(|p| p["partition"] == "t/0").context("t/0")?;
    assert_eq!(lost["lost_from"], 0);
    assert_eq!(lost["seen_end"], 3, "all three can be made out");
    let resume = lost["resume"].as_i64().context("resume")?;
    let kept = PathBuf::from(done["kept"][0].as_str().context("kept")?);
    assert!(kept.exists() && !active.exists());
    let again = weir(&["repair", "--data-dir", &data_dir]).expect(0);
    assert!(again.stdout.contains("Nothing"), "{again:?}");

    node.start_again()?;
    node.weir(&["produce", "t", &file]).expect(0);
    let back = node.weir(&["consume", "t", "--from", "earliest", "--until-end", "--json"]);
    let offsets: Vec<i64> = back
        .expect(0)
        .stdout
        .lines()
        .map(|line| {
            let record: serde_json::Value = serde_json::from_str(line)?;
            record["offset"].as_i64().context("an offset")
        })
        .collect::<Result<_>>()?;
    assert_eq!(offsets, [resume, resume + 1, resume + 2]);
    assert!(self::epoch(&node)? > epoch);
    Ok(())
}

/// The leader epoch of the one partition.
fn epoch(node: &NodeProcess) -> Result<i64> {
    let status = node.weir(&["status", "--json"]).expect(0).json();
    status["partitions"][0]["epoch"].as_i64().context("an epoch")
}

/// Overwrites the beginning of the log's first file.
fn damage(node: &NodeProcess) -> Result<PathBuf> {
    let path = node.data_dir().join("log/shard-0/0000000001.redb");
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&[0xa5; 4096], 0)?;
    Ok(path)
}
