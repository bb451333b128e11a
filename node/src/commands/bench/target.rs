//! The node that is measured: a process of its own, started for the bench, or a running one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weir_client::Client;
use weir_core::topic::TopicConfig;
use weir_core::wire::message::NodeStatus;

use crate::cli::Globals;
use crate::commands::sdk;
use crate::exit::{Exit, Failure};
use crate::paths::RunFile;

/// Longest time that the node may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node to measure.
#[derive(Debug)]
pub struct Target {
    globals: Globals,
    node: Option<NodeProcess>,
    /// Where files of the bench itself go.
    scratch: Scratch,
    topics: u32,
}

impl Target {
    /// A node of its own below `dir`, or the one that `--server` names.
    ///
    /// # Errors
    /// It does not start.
    pub async fn open(globals: &Globals, dir: &Path) -> Result<Target, Failure> {
        Target::open_with(globals, dir, &[]).await
    }

    /// The same; a node of its own is set so: names of environment variables, and values.
    ///
    /// # Errors
    /// It does not start.
    pub async fn open_with(
        globals: &Globals,
        dir: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Target, Failure> {
        let scratch = Scratch::create(dir)?;
        let mut globals = globals.clone();
        let mut node = None;
        if globals.server.is_none() {
            let data_dir = scratch.path.join("data");
            node = Some(NodeProcess::start(&data_dir, settings).await?);
            globals.data_dir = Some(data_dir);
        }
        Ok(Target { globals, node, scratch, topics: 0 })
    }

    /// A new client of the node.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn client(&self) -> Result<Client, Failure> {
        crate::connect::client(&self.globals).await
    }

    /// A folder on the disk that the node's data is on, if the node is our own.
    pub fn scratch(&self) -> &Path {
        &self.scratch.path
    }

    /// How long the node took from its start to serving.
    pub fn started_in(&self) -> Option<Duration> {
        self.node.as_ref().map(|node| node.started_in)
    }

    /// CPU time that the node used so far, if it is our own.
    pub fn cpu(&self) -> Option<Duration> {
        cpu_time(self.node.as_ref()?.child.id())
    }

    /// Bytes that the node's writes sent to the device so far, in whole pages, if it is our own.
    pub fn device_bytes(&self) -> Option<u64> {
        let pid = self.node.as_ref()?.child.id();
        parse_write_bytes(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
    }

    /// Creates a topic for this run.
    ///
    /// # Errors
    /// The node says no.
    pub async fn create_topic(
        &mut self,
        client: &Client,
        partitions: u32,
    ) -> Result<String, Failure> {
        let config = TopicConfig { partitions, ..TopicConfig::default() };
        self.create_topic_with(client, config).await
    }

    /// The same with these settings.
    ///
    /// # Errors
    /// The node says no.
    pub async fn create_topic_with(
        &mut self,
        client: &Client,
        config: TopicConfig,
    ) -> Result<String, Failure> {
        self.topics += 1;
        let name = format!("weir-bench-{}-{}", std::process::id(), self.topics);
        let created = client.admin().create_topic(&name, config).await;
        created.map_err(|error| sdk::request_failure("creating a topic", &error))?;
        Ok(name)
    }

    /// Deletes a topic of this run.
    ///
    /// # Errors
    /// The node says no.
    pub async fn delete_topic(&self, client: &Client, topic: &str) -> Result<(), Failure> {
        let deleted = client.admin().delete_topic(topic).await;
        deleted.map_err(|error| sdk::request_failure("deleting the topic", &error))
    }

    /// Stops the node, if it is our own, and removes everything.
    pub async fn close(self) {
        if let Some(node) = self.node {
            node.stop().await;
        }
    }
}

/// What the node says of itself.
///
/// # Errors
/// It says nothing.
pub async fn status(client: &Client) -> Result<NodeStatus, Failure> {
    let status = client.admin().status().await;
    status.map_err(|error| sdk::request_failure("asking for the status", &error))
}

/// Bytes that the node has written to its disk.
pub fn written_bytes(status: &NodeStatus) -> u64 {
    status.shards.iter().map(|shard| shard.written_bytes).sum()
}

/// Memory of the node, in MiB.
pub fn rss_mib(status: &NodeStatus) -> f64 {
    status.rss_bytes as f64 / f64::from(1 << 20)
}

/// A folder that is removed at the end.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where it is, in full.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it in `dir`.
    ///
    /// # Errors
    /// The system's.
    pub fn create(dir: &Path) -> Result<Scratch, Failure> {
        let path = dir.join(format!("weir-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display()))
                .next("Name a folder on the disk to be measured with --dir.")
        })?;
        let path = std::path::absolute(&path)?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed stays; the folder's name says whose it was.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `weir node` as a child process. Killed when dropped.
#[derive(Debug)]
struct NodeProcess {
    child: Child,
    started_in: Duration,
}

impl NodeProcess {
    async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Result<NodeProcess, Failure> {
        fs::create_dir_all(data_dir)?;
        let log_path = data_dir.with_extension("log");
        let log = File::create(&log_path)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node").arg("--data-dir").arg(data_dir);
        command.args(["--listen", "127.0.0.1:0", "--http", "off"]);
        // Settings of the surroundings are not those of a bench.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WEIR_") {
                command.env_remove(name);
            }
        }
        command.envs(settings.iter().copied());
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let child = command.spawn()?;
        let mut node = NodeProcess { child, started_in: Duration::ZERO };
        node.wait_until_serving(data_dir, &log_path, started).await?;
        node.started_in = started.elapsed();
        Ok(node)
    }

    /// The run file is written once the node serves.
    async fn wait_until_serving(
        &mut self,
        data_dir: &Path,
        log: &Path,
        started: Instant,
    ) -> Result<(), Failure> {
        let said = || fs::read_to_string(log).unwrap_or_default();
        loop {
            let run = RunFile::read(data_dir).unwrap_or(None);
            if run.is_some_and(|run| run.pid == self.child.id()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let what = format!("the node ended at once ({status}): {}", said().trim_end());
                return Err(Failure::new(Exit::Error, what));
            }
            if started.elapsed() > PATIENCE {
                let what = format!("the node does not start: {}", said().trim_end());
                return Err(Failure::new(Exit::Error, what));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(mut self) {
        if let Some(pid) = pid(self.child.id()) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// User and system time of a process, from `/proc/<pid>/stat` (proc(5), fields 14 and 15).
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_cpu_time(&stat, rustix::param::clock_ticks_per_second())
}

fn parse_cpu_time(stat: &str, ticks_per_s: u64) -> Option<Duration> {
    // The second field is the program's name in parentheses and may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + system) as f64 / ticks_per_s.max(1) as f64))
}

/// `write_bytes` of `/proc/<pid>/io` (proc(5)).
fn parse_write_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_to_the_device() {
        let io = "wchar: 7\nread_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 5\n";
        assert_eq!(parse_write_bytes(io), Some(4_096));
        assert_eq!(parse_write_bytes(""), None);
    }

    #[test]
    fn cpu_times() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15";
        assert_eq!(parse_cpu_time(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu_time("7 (a) S 1", 100), None);
        assert_eq!(parse_cpu_time("", 100), None);
        let own = cpu_time(std::process::id());
        assert!(own.is_some() || !Path::new("/proc/self/stat").exists());
    }

    #[test]
    fn the_scratch_folder_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::create(dir.path()).unwrap();
        let path = scratch.path.clone();
        fs::write(path.join("x"), "y").unwrap();
        assert!(path.is_absolute());
        drop(scratch);
        assert!(!path.exists());
    }
}
