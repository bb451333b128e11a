//! From the global options to a connection with a node.
//!
//! Without `--server` the node of this machine is found through its data folder: `run/node.json`
//! says where it listens, `run/ca.pem` whom to trust, and where clients need certificates,
//! `run/client.pem` and `run/client.key` (readable by the node's own user) are one.

use crate::cli::Globals;
use crate::exit::{Exit, Failure};
use crate::paths::{self, RunFile};
use std::path::{Path, PathBuf};
use weir_client::{Client, ClientConfig, ConnectError, Pem, TlsConfig};
use weir_transport::{CertificateProblem, ConnectError as TransportError, ConnectionLost};

/// Connects as the options say.
///
/// # Errors
/// [`Failure`] that says where the node was looked for, what happened and what to try.
pub async fn client(globals: &Globals) -> Result<Client, Failure> {
    let target = Target::find(globals)?;
    let config = target.config(globals)?;
    Client::connect(config).await.map_err(|error| target.failure(&error))
}

/// Where the node is and how to prove who we are.
struct Target {
    server: String,
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
    /// The run file that named the address, if one did.
    run: Option<(PathBuf, RunFile)>,
}

impl Target {
    fn find(globals: &Globals) -> Result<Target, Failure> {
        let identity = match (&globals.cert, &globals.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => {
                let what = "a certificate and its key belong together";
                return Err(Failure::usage(what).next("give both --cert FILE and --key FILE"));
            }
        };
        match &globals.server {
            Some(server) => Target::remote(globals, server, identity),
            None => Target::local(globals, identity),
        }
    }

    fn remote(
        globals: &Globals,
        server: &str,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Target, Failure> {
        // A node of this machine may be named by its address; then its own folder has the rest.
        let local_ca = || {
            let dirs = data_dirs(globals).ok()?;
            dirs.iter().map(|dir| paths::run_dir(dir).join("ca.pem")).find(|path| path.is_file())
        };
        let Some(ca) = globals.ca.clone().or_else(local_ca) else {
            return Err(Failure::usage(format!("there is nothing to verify {server} with")).next(
                "copy tls/ca.pem from the data folder of a node of that site, and give --ca FILE",
            ));
        };
        Ok(Target { server: server.to_owned(), ca, identity, run: None })
    }

    fn local(globals: &Globals, identity: Option<(PathBuf, PathBuf)>) -> Result<Target, Failure> {
        let dirs = data_dirs(globals)?;
        let mut denied = None;
        for dir in &dirs {
            match RunFile::read(dir) {
                Ok(Some(run)) => {
                    let own = || own_identity(dir);
                    return Ok(Target {
                        server: run.local_address().to_string(),
                        ca: globals.ca.clone().unwrap_or(paths::run_dir(dir).join("ca.pem")),
                        identity: identity.or_else(own),
                        run: Some((dir.clone(), run)),
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    denied.get_or_insert(format!("{}: {error}", paths::run_dir(dir).display()));
                }
            }
        }
        let looked: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let what = match denied {
            Some(denied) => format!("cannot look for a node of this machine: {denied}"),
            None => {
                format!("no node runs on this machine with the data folder {}", looked.join(" or "))
            }
        };
        Err(Failure::new(Exit::Unreachable, what).next(
            "start one with `weir node`, or name one: --data-dir DIR for its folder on this \
             machine, --server ADDR --ca FILE for another machine's",
        ))
    }

    fn config(&self, globals: &Globals) -> Result<ClientConfig, Failure> {
        let mut tls = TlsConfig::from_ca_file(&self.ca);
        if let Some((certificate, key)) = &self.identity {
            tls = tls.with_identity(Pem::Path(certificate.clone()), Pem::Path(key.clone()));
        }
        let mut config = ClientConfig::new(&self.server, tls);
        config.server_name.clone_from(&globals.server_name);
        config.client_name = concat!("weir-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        config.connect_timeout = config.connect_timeout.min(globals.timeout.0);
        config.request_timeout = globals.timeout.0;
        Ok(config)
    }

    fn failure(&self, error: &ConnectError) -> Failure {
        let what = format!("cannot connect to {}: {error}", self.server);
        match error {
            ConnectError::Refused { error, .. } => {
                Failure::wire(&format!("connecting to {}", self.server), error)
            }
            ConnectError::Config(_) => Failure::usage(what),
            ConnectError::Identity(_) => Failure::usage(what).next(
                "check the files given with --ca, --cert and --key; `weir cert show FILE` \
                       says what is in one",
            ),
            ConnectError::Transport(error) => match error.as_ref() {
                TransportError::NodeCertificate {
                    problem: CertificateProblem::WrongName { .. },
                    ..
                } => Failure::new(Exit::Refused, what)
                    .next("give --server-name a name that it is for, or leave --server-name out"),
                TransportError::NodeCertificate { .. } => Failure::new(Exit::Refused, what)
                    .next(format!("{} must be tls/ca.pem of this node's site", self.ca.display())),
                TransportError::Lost { lost, .. } => self.lost(what, lost),
                _ => self.unreachable(what),
            },
            ConnectError::Lost { lost, .. } => self.lost(what, lost),
            _ => self.unreachable(what),
        }
    }

    fn lost(&self, what: String, lost: &ConnectionLost) -> Failure {
        match lost {
            ConnectionLost::Refused(_) => Failure::new(Exit::Refused, what).next(
                "on the node's machine, `weir cert client NAME` makes a certificate; copy both \
                 files here and give --cert NAME.pem --key NAME.key",
            ),
            ConnectionLost::ClosedByPeer { .. } => Failure::new(Exit::Refused, what),
            _ => self.unreachable(what),
        }
    }

    fn unreachable(&self, what: String) -> Failure {
        let next = match &self.run {
            Some((dir, run)) if !is_alive(run.pid) => format!(
                "the node of {} is not running (process {} has ended without removing \
                 run/node.json); start it again",
                dir.display(),
                run.pid
            ),
            Some((dir, _)) => format!("see the log of the node of {}", dir.display()),
            None => "check the address, that the node runs, and that UDP to its port is not \
                     filtered on the way"
                .to_owned(),
        };
        Failure::new(Exit::Unreachable, what).next(next)
    }
}

/// Where a node of this machine may have its data.
fn data_dirs(globals: &Globals) -> Result<Vec<PathBuf>, Failure> {
    if let Some(dir) = &globals.data_dir {
        return Ok(vec![dir.clone()]);
    }
    let mut dirs = vec![paths::default_data_dir().map_err(Failure::usage)?];
    // A service's folder, if this user may see it.
    if Path::new(paths::SYSTEM_DATA_DIR) != dirs[0] && Path::new(paths::SYSTEM_DATA_DIR).is_dir() {
        dirs.push(paths::SYSTEM_DATA_DIR.into());
    }
    Ok(dirs)
}

/// The certificate that a node made for whoever may read its folder.
fn own_identity(data_dir: &Path) -> Option<(PathBuf, PathBuf)> {
    let dir = paths::run_dir(data_dir);
    let (certificate, key) = (dir.join("client.pem"), dir.join("client.key"));
    let readable = |path: &Path| std::fs::File::open(path).is_ok();
    (readable(&certificate) && readable(&key)).then_some((certificate, key))
}

fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    // "Not permitted" is an answer about a process that exists.
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
}
