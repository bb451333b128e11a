//! A real `weir` process, for tests that need one: started on free ports in a folder of their own,
//! waited for by what it says, not by time, and killed when the test is over.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use weir_client::{Client, ClientConfig, TlsConfig};

/// Longest wait for a node to serve or to end. A machine that is busy with other things may take
/// long; a test that waits for it in vain fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The `weir` program of this build: `WEIR_BIN` where it is set, or else built now in the profile
/// that the tests were built in.
///
/// # Panics
/// If it cannot be built.
pub fn weir_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("WEIR_BIN") {
        Some(path) => path.into(),
        None => build().expect("the program can be built"),
    })
}

fn build() -> Result<PathBuf> {
    // The tests run from <target>/<profile>/deps/.
    let tests = std::env::current_exe()?;
    let profile_dir = tests.ancestors().nth(2).context("not run by cargo")?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "weir-node", "--bin", "weir", "--profile", profile])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("CARGO_TARGET_DIR", profile_dir.parent().context("not run by cargo")?)
        .status()?;
    ensure!(status.success(), "cargo build failed");
    Ok(profile_dir.join("weir"))
}

/// A `weir` command that sees nothing of the machine's own configuration.
pub fn weir_command() -> Command {
    let mut command = Command::new(weir_binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
    command.env_remove("STATE_DIRECTORY").stdin(Stdio::null());
    command
}

/// Runs `weir` with these arguments to its end.
///
/// # Panics
/// If it cannot be started.
pub fn weir(arguments: &[&str]) -> Ran {
    let output = weir_command().args(arguments).output().expect("the program can be run");
    Ran::new(arguments, &output)
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line.
    pub line: String,
    /// How it ended; -1 by a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Ran {
    /// What the command that printed `output` did.
    pub fn new(arguments: &[&str], output: &Output) -> Ran {
        Ran {
            line: format!("weir {}", arguments.join(" ")),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(
            self.code, code,
            "{}\nstdout: {}\nstderr: {}",
            self.line, self.stdout, self.stderr
        );
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.line, self.stdout))
    }
}

/// A node in a process of its own. Killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    data_dir: PathBuf,
    arguments: Vec<String>,
    listen: SocketAddr,
    http: Option<SocketAddr>,
    log: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

impl NodeProcess {
    /// Starts a node on free ports with its data in `dir/data`, and waits until it serves.
    ///
    /// # Errors
    /// If it does not serve; with its log.
    pub fn start(dir: &Path) -> Result<NodeProcess> {
        NodeProcess::start_with(dir, &[])
    }

    /// The same with more arguments for `weir node`.
    ///
    /// # Errors
    /// If it does not serve; with its log.
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Result<NodeProcess> {
        NodeProcess::start_in(dir, arguments, Vec::new())
    }

    /// The same with variables added to its environment, for this start and those after it.
    ///
    /// # Errors
    /// If it does not serve; with its log.
    pub fn start_in(
        dir: &Path,
        arguments: &[&str],
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<NodeProcess> {
        let mut all: Vec<String> = Vec::new();
        for (flag, default) in [("--listen", "127.0.0.1:0"), ("--http", "127.0.0.1:0")] {
            if !arguments.contains(&flag) {
                all.extend([flag.to_owned(), default.to_owned()]);
            }
        }
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        NodeProcess::spawn(dir.join("data"), all, dir.join("node.log"), environment)
    }

    fn spawn(
        data_dir: PathBuf,
        arguments: Vec<String>,
        log: PathBuf,
        environment: Vec<(&'static str, PathBuf)>,
    ) -> Result<NodeProcess> {
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = weir_command()
            .arg("node")
            .arg("--data-dir")
            .arg(&data_dir)
            .args(&arguments)
            .envs(environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listen, http) = (nowhere, None);
        let mut node = NodeProcess { child, data_dir, arguments, listen, http, log, environment };
        node.wait_until_it_serves()?;
        Ok(node)
    }

    /// `run/node.json` of this very process, and then its `/ready`.
    fn wait_until_it_serves(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(run) = self.run_file()? {
                self.listen = address(&run["listen"]).context("no address in node.json")?;
                self.http = address(&run["http"]);
                let ready = |node: &NodeProcess| matches!(node.http_get("/ready"), Ok((200, _)));
                if self.http.is_none() || ready(self) {
                    return Ok(());
                }
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the node ended ({status}) before it served:\n{}", self.log());
            }
            ensure!(begun.elapsed() < PATIENCE, "the node does not serve:\n{}", self.log());
            // sleep: between looks at another process, within a bound
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What `run/node.json` says, if it is this process's.
    fn run_file(&self) -> Result<Option<serde_json::Value>> {
        match std::fs::read(self.data_dir.join("run/node.json")) {
            Ok(bytes) => {
                let run: serde_json::Value = serde_json::from_slice(&bytes)?;
                Ok((run["pid"] == self.child.id()).then_some(run))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where clients connect to it.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Its HTTP address.
    ///
    /// # Panics
    /// If its HTTP port is off.
    pub fn http(&self) -> SocketAddr {
        self.http.expect("HTTP is on")
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.data_dir.join("run/ca.pem")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How to reach it, anonymously.
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig::new(self.listen.to_string(), TlsConfig::from_ca_file(self.ca()))
    }

    /// A client of it.
    ///
    /// # Errors
    /// If it cannot connect.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.client_config()).await?)
    }

    /// Runs a client command that finds this node by its folder.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn weir(&self, arguments: &[&str]) -> Ran {
        let dir = self.data_dir.to_string_lossy().into_owned();
        let all: Vec<&str> = arguments.iter().copied().chain(["--data-dir", &dir]).collect();
        weir(&all)
    }

    /// Asks its HTTP port: the status and the body.
    ///
    /// # Errors
    /// The system's, or the answer is not HTTP.
    pub fn http_get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.context("no process")?, signal)?)
    }

    /// Its process's number.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, as a crash of the process would, and waits until it is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// If it does not end; with its log.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// If it does not; with its log.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(begun.elapsed() < PATIENCE, "the node does not end:\n{}", self.log());
            // sleep: between looks at another process, within a bound
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Starts it again, after [`NodeProcess::kill`] or [`NodeProcess::stop`], with the same data
    /// and on the same ports, so that clients find it again.
    ///
    /// # Errors
    /// If it does not serve; with its log.
    pub fn start_again(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let mut arguments = self.arguments.clone();
        let mut pin = |flag: &str, to: SocketAddr| {
            let at = arguments.iter().position(|argument| argument == flag);
            if let Some(value) = at.and_then(|at| arguments.get_mut(at + 1)) {
                *value = to.to_string();
            }
        };
        pin("--listen", self.listen);
        if let Some(http) = self.http {
            pin("--http", http);
        }
        let (log, environment) = (self.log.clone(), self.environment.clone());
        *self = NodeProcess::spawn(self.data_dir.clone(), arguments, log, environment)?;
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(value: &serde_json::Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}
