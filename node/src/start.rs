//! How a node begins: settings, logs, the HTTP port, the broker, the run file; then it serves until
//! a signal ends it ([`crate::shutdown`]).

use crate::config::{self, ClusterRole, Off, Settings};
use crate::exit::{Exit, Failure};
use crate::http::{self, NodeHealth, Source};
use crate::paths::{self, RunFile};
use crate::shutdown::Signals;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use weir_broker::cluster::joining::Membership;
use weir_broker::{Broker, BrokerConfig, Compiler, Reporter, StartError};
use weir_core::access::Access;
use weir_core::wire::message::NodeStatus;
use weir_log::LogConfig;
use weir_transport::{Authority, Clock};

/// The principal of the certificate that a node makes for whoever may read its folder.
const LOCAL_PRINCIPAL: &str = "admin";
/// How long that certificate is valid; every start makes a new one.
const LOCAL_CERTIFICATE_VALID: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Runs a node until a signal ends it.
///
/// # Errors
/// [`Failure`] if it could not start. What was started is stopped again.
pub async fn run(settings: &Settings) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut signals = Signals::listen()?;
    let config = broker_config(settings).map_err(Failure::usage)?;
    let data_dir = config.data_dir.clone();
    let state = Arc::new(NodeState::default());
    let http = listen_http(settings.http).await?;
    let http_address = http.as_ref().map(TcpListener::local_addr).transpose()?;
    if let Some(listener) = http {
        // Serves while the node starts, so that it can be seen starting. Ends with the process.
        tokio::spawn(http::serve(listener, state.clone()));
    }
    let name = config.node_name.clone();
    let broker = Broker::start(config).await.map_err(|error| start_failure(&data_dir, &error))?;
    let run_file = RunFile {
        pid: std::process::id(),
        name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listen: broker.local_addr(),
        http: http_address,
    };
    if let Err(error) = announce(settings, &data_dir, &run_file, broker.ca_created()) {
        broker.stop().await;
        return Err(error);
    }
    state.set(Phase::Serving(broker.reporter()));
    tracing::info!(
        data_dir = %data_dir.display(),
        listen = %run_file.listen,
        http = http_address.map(tracing::field::display),
        "started in {:?}",
        begun.elapsed()
    );

    let removed = tokio::select! {
        signal = signals.next() => {
            tracing::info!("{signal}: shutting down");
            None
        }
        why = broker.outside() => Some(why),
    };
    let grace = settings.shutdown_grace.0;
    signals
        .unless_again(async {
            state.set(Phase::Stopping);
            if let Err(error) = RunFile::remove(&data_dir) {
                tracing::warn!(%error, "cannot remove run/node.json");
            }
            broker.shutdown(grace).await;
        })
        .await;
    match removed {
        None => Ok(()),
        Some(why) => Err(Failure::new(Exit::Refused, why)),
    }
}

/// The broker's configuration from the node's settings.
///
/// # Errors
/// In words, if there is no place for the data folder.
pub fn broker_config(settings: &Settings) -> Result<BrokerConfig, String> {
    let data_dir = paths::node_data_dir(settings)?;
    // Absolute, so that messages and run files mean the same to everybody.
    let data_dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
    let anonymous = settings.anonymous_roles();
    let mut config = BrokerConfig::new(data_dir);
    config.listen = settings.listen;
    config.node_name = paths::node_name(settings);
    config.certificate_names.clone_from(&settings.tls_names);
    config.allow_anonymous = !anonymous.is_empty();
    config.access = Access { rules: settings.rules.clone(), anonymous };
    config.produce_budget_bytes = bytes(settings.produce_budget.0);
    config.fetch_budget_bytes = bytes(settings.fetch_budget.0);
    config.slow_budget_bytes = bytes(settings.slow_budget.0);
    config.connections_max = settings.connections as usize;
    config.subscriptions_max = settings.subscriptions as usize;
    config.trickle_linger = settings.trickle_linger.0;
    config.mtu = settings.mtu.0;
    config.receive_window_bytes = bytes(settings.connection_window.0);
    config.send_window_bytes = bytes(settings.send_window.0);
    config.deployment_cpu_percent = settings.deployment_cpu;
    config.compiler = compiler();
    let rack = match &settings.rack {
        Off::On(rack) => Some(rack.as_str()),
        Off::Off => None,
    };
    config.cluster = config::part(&config.node_name, &settings.members, rack, settings.role)
        .or_else(|error| if settings.members.is_empty() { Ok(None) } else { Err(error) })?;
    if config.cluster.is_none() {
        adopt_membership(&mut config, rack, settings.role)?;
    }
    set_log(&mut config.log, settings);
    Ok(config)
}

/// What a folder knows that joined a cluster (`weir node --join`) counts where no members are
/// configured.
fn adopt_membership(
    config: &mut BrokerConfig,
    rack: Option<&str>,
    role: ClusterRole,
) -> Result<(), String> {
    let witness = role == ClusterRole::Witness;
    match Membership::read(&config.data_dir).map_err(|error| error.to_string())? {
        Some(known) => {
            config.cluster = Some(known.config(rack, witness));
            config.node_name = known.name;
            Ok(())
        }
        None if witness => Err("cluster.role is witness, but cluster.members is empty".to_owned()),
        None => Ok(()),
    }
}

/// Modules are compiled by this program, started once more. Linux knows the running one by this
/// name also after its file was replaced.
#[must_use]
pub fn compiler() -> Compiler {
    let args = ["module", "compile"].map(str::to_owned).to_vec();
    Compiler::Child { program: "/proc/self/exe".into(), args }
}

/// Names every field, so that one that cannot be set does not compile.
fn set_log(log: &mut LogConfig, settings: &Settings) {
    *log = LogConfig {
        dir: std::mem::take(&mut log.dir),
        shards: settings.shards.0.unwrap_or(log.shards),
        file_bytes: settings.file_size.0,
        tail_cache_bytes: bytes(settings.tail_cache.0),
        commit_bytes_max: bytes(settings.commit_size.0),
        append_queue_max: settings.append_queue as usize,
        append_queue_bytes_max: bytes(
            settings.append_queue_bytes.0.unwrap_or(settings.produce_budget).0,
        ),
        active_cache_bytes: bytes(settings.active_cache.0),
        sealed_cache_bytes: bytes(settings.sealed_cache.0),
        sealed_files_open: usize::from(settings.sealed_files_open),
        index_cache_bytes: bytes(settings.index_cache.0),
        reserve_bytes: settings.reserve.0,
        retention_interval: settings.retention_interval.0,
        scrub_interval: settings.scrub_interval.0.min(settings.scrub_period.0),
        scrub_period: settings.scrub_period.0,
        clean_below_percent: settings.clean_below_percent,
        background_bytes_per_s: settings.background_rate.0,
    };
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

async fn listen_http(address: Off<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
    let Off::On(address) = address else { return Ok(None) };
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "HTTP has no TLS and no login: everybody who reaches this address sees topic names \
             and figures"
        );
    }
    TcpListener::bind(address).await.map(Some).map_err(|error| {
        Failure::new(Exit::Error, format!("cannot listen on {address} for HTTP: {error}"))
            .next("give another --http ADDR, port 0 for any free one, or --http off")
    })
}

fn start_failure(data_dir: &Path, error: &StartError) -> Failure {
    let failure = Failure::new(Exit::Error, format!("the node cannot start: {error}"));
    match error {
        StartError::Log(weir_log::OpenError::InUse(_)) => {
            let who = match RunFile::read(data_dir) {
                Ok(Some(run)) => format!("process {} serves it on {}", run.pid, run.listen),
                _ => "another process has it open".to_owned(),
            };
            failure.next(format!("{who}; stop that one, or give --data-dir DIR for a second node"))
        }
        StartError::Log(weir_log::OpenError::NewerVersion { .. }) => {
            failure.next("use the version of weir that wrote the data folder, or a newer one")
        }
        StartError::Listen(_) => failure.next(
            "give another --listen ADDR, or port 0 for any free one; another node may have it",
        ),
        StartError::Folder { .. } => {
            failure.next("give --data-dir DIR for a folder that this user may write")
        }
        _ => failure,
    }
}

/// Lets clients find the node, and tells the operator at the first start what they need.
fn announce(
    settings: &Settings,
    data_dir: &Path,
    run: &RunFile,
    ca_created: bool,
) -> Result<(), Failure> {
    let at_run = |error: std::io::Error| {
        Failure::new(Exit::Error, format!("{}: {error}", paths::run_dir(data_dir).display()))
    };
    let certificates_required = settings.anonymous_roles().is_empty();
    if certificates_required {
        make_local_certificate(data_dir).map_err(at_run)?;
    } else if !settings.listen.ip().to_canonical().is_loopback() {
        tracing::warn!(
            listen = %run.listen,
            roles = ?settings.anonymous_roles(),
            "clients without a certificate are served on an address that is not loopback"
        );
    }
    let ca = paths::tls_dir(data_dir).join("ca.pem");
    let ca_copy = paths::run_dir(data_dir).join("ca.pem");
    // The folder of the keys is the node's own; the authority's certificate is for everybody.
    std::fs::create_dir_all(paths::run_dir(data_dir)).map_err(at_run)?;
    std::fs::copy(&ca, &ca_copy).map_err(at_run)?;
    // Last: who finds this file finds everything.
    run.write(data_dir).map_err(at_run)?;
    if ca_created {
        tracing::info!(
            ca = %ca.display(),
            "first start: made this site's certificate authority; clients on other machines need \
             a copy of the file"
        );
    }
    if std::io::stderr().is_terminal() {
        // Nobody reads it if it cannot be written.
        let found = paths::default_data_dir().is_ok_and(|default| default == data_dir);
        let how = if found {
            "without options".to_owned()
        } else {
            format!("with --data-dir {}", data_dir.display())
        };
        let text = welcome(run, &ca, &how, ca_created, certificates_required);
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    Ok(())
}

fn welcome(run: &RunFile, ca: &Path, how: &str, first: bool, certificates: bool) -> String {
    let mut text = format!("\n  The node serves on {} (QUIC).", run.listen);
    if let Some(http) = run.http {
        text += &format!(" Health and metrics: http://{http}/");
    }
    text += &format!("\n  On this machine: weir status, weir topic list, …, {how}.\n");
    if first || certificates {
        text += &format!("  Clients on other machines need a copy of {}\n", ca.display());
    }
    if certificates {
        text += "  and a certificate each: `weir cert client NAME` makes one, and rules in the\n  \
                 configuration ([[access.rule]]) say what NAME may do. Then, over there:\n  \
                 weir status --server ADDR --ca ca.pem --cert NAME.pem --key NAME.key\n";
    } else if first {
        text += "  and --server ADDR --ca ca.pem. To listen to them: --listen 0.0.0.0:7447, which \
                 also\n  requires certificates of them (`weir cert client NAME`).\n";
    }
    text += "  Ctrl-C ends the node.\n\n";
    text
}

/// Where clients need certificates, whoever may read the node's folder gets one: the commands of
/// the node's own user work without options there, too.
fn make_local_certificate(data_dir: &Path) -> std::io::Result<()> {
    let other = |error: weir_transport::AuthorityError| std::io::Error::other(error);
    let authority = Authority::load(&paths::tls_dir(data_dir), &Clock::system()).map_err(other)?;
    if !authority.can_issue() {
        tracing::info!("the authority's key is not here, so local commands need --cert and --key");
        return Ok(());
    }
    let issued = authority.issue_client(LOCAL_PRINCIPAL, LOCAL_CERTIFICATE_VALID).map_err(other)?;
    let dir = paths::run_dir(data_dir);
    std::fs::create_dir_all(&dir)?;
    paths::write_private(&dir.join("client.key"), &issued.key)?;
    paths::write_private(&dir.join("client.pem"), &issued.certificate)
}

/// What the node is doing, for the HTTP port.
#[derive(Default)]
struct NodeState {
    phase: RwLock<Phase>,
}

#[derive(Clone, Default)]
enum Phase {
    #[default]
    Starting,
    Serving(Reporter),
    Stopping,
}

impl NodeState {
    fn set(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(|e| e.into_inner()) = phase;
    }

    fn phase(&self) -> Phase {
        self.phase.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Source for NodeState {
    fn health(&self) -> NodeHealth {
        let not_yet = |state| NodeHealth {
            state,
            ready: false,
            healthy: false,
            problems: vec![format!("the node is {state}")],
        };
        match self.phase() {
            Phase::Starting => not_yet("starting"),
            Phase::Stopping => not_yet("stopping"),
            Phase::Serving(reporter) => {
                let health = reporter.health();
                NodeHealth {
                    state: "serving",
                    ready: true,
                    healthy: health.ready,
                    problems: health.problems,
                }
            }
        }
    }

    fn status(&self) -> Option<NodeStatus> {
        match self.phase() {
            Phase::Serving(reporter) => Some(reporter.status()),
            Phase::Starting | Phase::Stopping => None,
        }
    }
}

/// The configuration file that is read unless one is named: none. Settings come from where the
/// operator says, never from where the program happens to be started.
pub fn config_file(flag: Option<&PathBuf>) -> Option<PathBuf> {
    let named = || std::env::var_os("WEIR_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    flag.cloned().or_else(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;
    use weir_core::access::Role;

    fn settings(listen: &str) -> Settings {
        Settings { listen: listen.parse().unwrap(), ..Settings::default() }
    }

    /// Goal: loopback serves anonymous clients, anything else requires certificates unless the
    /// operator says otherwise.
    #[test]
    fn who_needs_a_certificate() {
        let local = broker_config(&settings("127.0.0.1:0")).unwrap();
        assert!(local.allow_anonymous);
        assert!(local.access.allows(None, Role::Admin, None));
        for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:7447"] {
            let open = broker_config(&settings(listen)).unwrap();
            assert!(!open.allow_anonymous, "{listen}");
            assert!(!open.access.allows(None, Role::Consume, Some("x")), "{listen}");
            assert!(open.access.allows(Some("admin"), Role::Admin, None));
            assert!(!open.access.allows(Some("stranger"), Role::Consume, Some("x")));
        }
        let mut insecure = settings("0.0.0.0:0");
        insecure.anonymous.0 = Some(vec![Role::Consume]);
        let insecure = broker_config(&insecure).unwrap();
        assert!(insecure.allow_anonymous);
        assert!(insecure.access.allows(None, Role::Consume, Some("x")));
        assert!(!insecure.access.allows(None, Role::Produce, Some("x")));
        let mut strict = settings("127.0.0.1:0");
        strict.anonymous.0 = Some(Vec::new());
        assert!(!broker_config(&strict).unwrap().allow_anonymous);
    }

    /// Goal: what an operator sets for a machine of 512 MB or of four cores reaches the parts that
    /// it is for, and without settings they have the defaults that they would have alone.
    #[test]
    fn settings_reach_their_parts() {
        let small = Settings {
            produce_budget: Size(8 << 20),
            index_cache: Size(1 << 20),
            commit_size: Size(1 << 20),
            append_queue: 1_000,
            connection_window: Size(2 << 20),
            send_window: Size(3 << 20),
            ..settings("127.0.0.1:0")
        };
        small.check().unwrap();
        let config = broker_config(&small).unwrap();
        assert_eq!(config.receive_window_bytes, 2 << 20);
        assert_eq!(config.send_window_bytes, 3 << 20);
        assert_eq!(config.log.index_cache_bytes, 1 << 20);
        assert_eq!(config.log.commit_bytes_max, 1 << 20);
        assert_eq!(config.log.append_queue_max, 1_000);
        assert_eq!(config.log.append_queue_bytes_max, 8 << 20, "as the produce budget");
        assert!(config.log.dir.is_absolute());

        let (config, alone) =
            (broker_config(&settings("127.0.0.1:0")).unwrap(), LogConfig::new(""));
        let alone = LogConfig {
            dir: config.log.dir.clone(),
            active_cache_bytes: config.log.active_cache_bytes,
            ..alone
        };
        assert_eq!(format!("{:?}", config.log), format!("{alone:?}"));
    }

    #[test]
    fn the_first_start_says_what_clients_need() {
        let run = RunFile {
            pid: 1,
            name: "n".into(),
            version: "0".into(),
            listen: "0.0.0.0:7447".parse().unwrap(),
            http: Some("127.0.0.1:7448".parse().unwrap()),
        };
        let text = welcome(&run, Path::new("/d/tls/ca.pem"), "without options", true, true);
        for part in ["/d/tls/ca.pem", "weir cert client", "http://127.0.0.1:7448/"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let quiet = welcome(&run, Path::new("/d/tls/ca.pem"), "without options", false, false);
        assert!(!quiet.contains("ca.pem"), "{quiet}");
    }
}
