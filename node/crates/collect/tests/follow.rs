//! Following files: rotation, truncation and resuming, step by step, in folders of their own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use weir_collect::csv::CsvOptions;
use weir_collect::lines::{Join, LineOptions};
use weir_collect::{Checkpoint, Collector, Follow, StartAt, Tail, TailChunk, TailProgress};

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Steps until the tail was idle twice (the second look is the one that notices a rotation) and
/// writes what it saw as text: `<` begin with its offset, `>` end.
fn settle(tail: &mut Tail) -> String {
    let mut seen = String::new();
    let mut idle = 0;
    while idle < 3 {
        let progress = tail.poll_once(&mut |chunk| match chunk {
            TailChunk::Begin { offset, .. } => seen.push_str(&format!("<{offset}:")),
            TailChunk::Data(bytes) => seen.push_str(std::str::from_utf8(&bytes).unwrap()),
            TailChunk::End => seen.push('>'),
        });
        idle = if progress.unwrap() == TailProgress::Idle { idle + 1 } else { 0 };
    }
    seen.replace('\n', "|")
}

/// A file that is waited for, grows, and is renamed away: the old one is finished first.
#[test]
fn rotation_by_rename() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.log");
    let mut tail = Tail::new(&path, StartAt::End);
    assert_eq!(settle(&mut tail), "");
    append(&path, "one\n");
    assert_eq!(settle(&mut tail), "<0:one|", "a file that appears later is read from its start");
    append(&path, "tw");
    assert_eq!(settle(&mut tail), "tw");

    let rotated = folder.path().join("app.log.1");
    fs::rename(&path, &rotated).unwrap();
    assert_eq!(settle(&mut tail), "", "renamed, but nothing new yet");
    append(&rotated, "o\n");
    append(&path, "three\n");
    assert_eq!(settle(&mut tail), "o|><0:three|");
    append(&rotated, "too late\n");
    append(&path, "four\n");
    assert_eq!(settle(&mut tail), "four|");
}

/// One more look at the old file after the new one appeared: its writer may still be there.
#[test]
fn a_slow_writer_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("a"), folder.path().join("a.1"));
    append(&path, "one\n");
    let mut tail = Tail::new(&path, StartAt::Beginning);
    assert_eq!(settle(&mut tail), "<0:one|");
    fs::rename(&path, &rotated).unwrap();
    append(&path, "new\n");
    assert_eq!(tail.poll_once(&mut |_| panic!()).unwrap(), TailProgress::Idle);
    append(&rotated, "last\n");
    assert_eq!(settle(&mut tail), "last|><0:new|");
}

/// Two rotations between two looks: the file between is read too, unrelated ones are not.
#[test]
fn two_rotations_between_looks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    append(&at("a"), "one\n");
    let mut tail = Tail::new(at("a"), StartAt::Beginning);
    assert_eq!(settle(&mut tail), "<0:one|");
    let later = |path: &Path, seconds: u64| {
        let time = fs::metadata(at("a.2")).unwrap().modified().unwrap();
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(time + Duration::from_secs(seconds)).unwrap();
    };
    fs::rename(at("a"), at("a.2")).unwrap();
    append(&at("a.1"), "two\n");
    later(&at("a.1"), 1);
    append(&at("a"), "three\n");
    later(&at("a"), 2);
    append(&at("a.1.gz"), "packed\n");
    later(&at("a.1.gz"), 1);
    append(&at("ab"), "other\n");
    later(&at("ab"), 1);
    append(&at("a.0"), "older\n");
    let old = fs::metadata(at("a.2")).unwrap().modified().unwrap() - Duration::from_secs(9);
    File::options().append(true).open(at("a.0")).unwrap().set_modified(old).unwrap();
    assert_eq!(settle(&mut tail), "><0:two|><0:three|");
}

/// A file cut to nothing begins anew, also if it has grown past the old end since the last look.
#[test]
fn truncation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, "one\ntwo\n");
    let mut tail = Tail::new(&path, StartAt::Beginning);
    assert_eq!(settle(&mut tail), "<0:one|two|");
    File::create(&path).unwrap();
    assert_eq!(settle(&mut tail), "><0:");
    append(&path, "x\n");
    assert_eq!(settle(&mut tail), "x|");
    fs::write(&path, "longer than before\n").unwrap();
    assert_eq!(settle(&mut tail), "><0:longer than before|");
}

/// At the end means behind the last whole line.
#[test]
fn start_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, "one\ntwo\nthr");
    let mut tail = Tail::new(&path, StartAt::End);
    assert_eq!(settle(&mut tail), "<8:thr");
    append(&path, "ee\n");
    assert_eq!(settle(&mut tail), "ee|");
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn follow(paths: &[PathBuf], checkpoints: Vec<Checkpoint>) -> Follow {
    let poll_interval = Duration::from_millis(1);
    Follow { checkpoints, poll_interval, ..Follow::new(paths.to_vec()) }
}

/// Reads `count` records and returns them with the checkpoints after the last.
async fn take(collector: &mut Collector, count: usize) -> (Vec<String>, Vec<Checkpoint>) {
    let mut records = Vec::new();
    for _ in 0..count {
        let record = collector.next().await.unwrap().unwrap();
        records.push(String::from_utf8(record.value.to_vec()).unwrap());
    }
    (records, collector.checkpoints())
}

/// Stopped after any number of records and resumed from the checkpoint, each comes once; joined
/// records, which are held back, included.
#[test]
fn resume_after_any_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let text = "a1\n a2\nb\n\nc1\n c2\n c3\nd\ne\n";
    append(&path, text);
    let options = || LineOptions {
        join: Some(Join::Continuation),
        idle_after: Duration::from_millis(5),
        ..LineOptions::default()
    };
    let expected = ["a1\n a2", "b\n", "c1\n c2\n c3", "d", "e"];
    for stop in 0..=expected.len() {
        run(async {
            let paths = [path.clone()];
            let mut first = Collector::lines(follow(&paths, vec![]), options()).await.unwrap();
            let (mut records, checkpoints) = take(&mut first, stop).await;
            drop(first);
            let stored = serde_json::to_string(&checkpoints).unwrap();
            let checkpoints = serde_json::from_str(&stored).unwrap();
            let mut second =
                Collector::lines(follow(&paths, checkpoints), options()).await.unwrap();
            records.extend(take(&mut second, expected.len() - stop).await.0);
            assert_eq!(records, expected, "stopped after {stop}");
        });
    }
}

/// While nobody looked the file was rotated: the rest of the old one comes first.
#[test]
fn resume_across_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, "x,y\n1,2\n3,4\n");
    run(async {
        let paths = [path.clone()];
        let mut first =
            Collector::csv(follow(&paths, vec![]), CsvOptions::default()).await.unwrap();
        let (records, checkpoints) = take(&mut first, 1).await;
        assert_eq!(records, [r#"{"x":1,"y":2}"#]);
        drop(first);
        append(&path, "5,6\n");
        fs::rename(&path, folder.path().join("a-20240131")).unwrap();
        append(&path, "z\n7\n");
        let second = Collector::csv(follow(&paths, checkpoints), CsvOptions::default()).await;
        let (records, checkpoints) = take(&mut second.unwrap(), 3).await;
        assert_eq!(records, [r#"{"x":3,"y":4}"#, r#"{"x":5,"y":6}"#, r#"{"z":7}"#]);
        assert_eq!((&checkpoints[0].path, checkpoints[0].offset), (&path, 4));
    });
}

/// Another file in the place of the one that the checkpoint was taken of is read from its start.
#[test]
fn resume_without_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    append(&path, "one\ntwo\n");
    run(async {
        let paths = [path.clone()];
        let mut first = Collector::lines(follow(&paths, vec![]), Default::default()).await.unwrap();
        let (_, checkpoints) = take(&mut first, 1).await;
        drop(first);
        // The same inode, so that only the bytes tell.
        fs::write(&path, "uno\ndos\n").unwrap();
        let second = Collector::lines(follow(&paths, checkpoints), Default::default()).await;
        assert_eq!(take(&mut second.unwrap(), 2).await.0, ["uno", "dos"]);
    });
}

/// Several files at once, each with a checkpoint of its own.
#[test]
fn several_files() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| folder.path().join(name));
    append(&paths[0], "a1\na2\n");
    append(&paths[1], "b1\n");
    run(async {
        let mut collector =
            Collector::lines(follow(&paths, vec![]), Default::default()).await.unwrap();
        let (mut records, checkpoints) = take(&mut collector, 3).await;
        records.sort();
        assert_eq!(records, ["a1", "a2", "b1"]);
        let offsets: Vec<u64> = checkpoints.iter().map(|checkpoint| checkpoint.offset).collect();
        assert_eq!(offsets, [6, 3]);
        append(&paths[1], "b2\n");
        assert_eq!(take(&mut collector, 1).await.0, ["b2"]);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Write(u8),
    WritePart,
    Rotate,
    Poll(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u8..5).prop_map(Step::Write),
        Just(Step::WritePart),
        Just(Step::Rotate),
        (1u8..4).prop_map(Step::Poll),
        Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    })]

    /// Whatever is written, rotated, polled and restarted in whatever order: every line once, in
    /// order. A restart resumes behind the last whole line, as a collector would.
    #[test]
    fn nothing_lost_nothing_twice(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut tail = Tail::new(&path, StartAt::Beginning);
        let mut follower = Follower::default();
        // From its first file on: what was rotated away before the first look is nobody's.
        append(&path, "first\n");
        follower.poll(&mut tail);
        let mut written = vec!["first".to_owned()];
        let (mut next, mut rotations, mut part) = (0u32, 0, false);
        // Each rotated file is newer than the one before, as its last write is.
        let mut stamp = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut touch = |path: &Path| {
            stamp += Duration::from_secs(1);
            File::options().append(true).open(path).unwrap().set_modified(stamp).unwrap();
        };
        touch(&path);
        for step in steps.into_iter().chain([Step::Poll(200)]) {
            match step {
                Step::Write(count) => for _ in 0..count {
                    append(&path, if part { "-rest\n" } else { "line" });
                    if !part { append(&path, &format!("{next}\n")); }
                    let (prefix, rest) = if part { ("part", "-rest") } else { ("line", "") };
                    written.push(format!("{prefix}{next}{rest}"));
                    part = false;
                    next += 1;
                },
                Step::WritePart if !part => {
                    append(&path, &format!("part{next}"));
                    part = true;
                }
                Step::WritePart => {}
                Step::Rotate => if path.exists() && !part {
                    rotations += 1;
                    fs::rename(&path, folder.path().join(format!("a.{rotations}"))).unwrap();
                },
                Step::Poll(count) => for _ in 0..count { follower.poll(&mut tail); },
                Step::Restart => if let Some(checkpoint) = follower.checkpoint(&path) {
                    follower.restart(checkpoint.offset);
                    tail = Tail::resume(checkpoint);
                },
            }
            if path.exists() { touch(&path); }
        }
        follower.finish();
        if part { written.push(format!("part{next}")); }
        prop_assert_eq!(follower.lines, written);
    }
}

/// What a collector does with a tail, as plainly as can be.
#[derive(Default)]
struct Follower {
    lines: Vec<String>,
    partial: Vec<u8>,
    file: Option<(u64, u64, u64, Vec<u8>)>,
}

impl Follower {
    fn poll(&mut self, tail: &mut Tail) {
        let mut chunks = Vec::new();
        tail.poll_once(&mut |chunk| chunks.push(chunk)).unwrap();
        for chunk in chunks {
            match chunk {
                TailChunk::Begin { offset, device, inode, head, .. } => {
                    self.file = Some((device, inode, offset, head));
                }
                TailChunk::Data(bytes) => {
                    let (_, _, offset, head) = self.file.as_mut().unwrap();
                    *offset += bytes.len() as u64;
                    head.extend_from_slice(&bytes);
                    head.truncate(256);
                    self.partial.extend_from_slice(&bytes);
                    while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                        let line: Vec<u8> = self.partial.drain(..=end).collect();
                        self.lines.push(String::from_utf8(line[..end].to_vec()).unwrap());
                    }
                }
                TailChunk::End => self.finish(),
            }
        }
    }

    fn restart(&mut self, offset: u64) {
        self.partial.clear();
        if let Some((_, _, at, _)) = self.file.as_mut() {
            *at = offset;
        }
    }

    fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.lines.push(String::from_utf8(std::mem::take(&mut self.partial)).unwrap());
        }
    }

    fn checkpoint(&self, path: &Path) -> Option<Checkpoint> {
        let (device, inode, offset, head) = self.file.as_ref()?;
        let offset = offset - self.partial.len() as u64;
        let head = &head[..head.len().min(offset as usize)];
        let head_hash = head.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let path = path.to_owned();
        Some(Checkpoint { path, device: *device, inode: *inode, offset, head_hash })
    }
}
