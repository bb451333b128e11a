//! A node's settings: what there is to set, and where the values come from.
//!
//! Later sources win: defaults, the file (`--config FILE` or `WEIR_CONFIG`, TOML), the environment
//! (`WEIR_` and the setting's name, `WEIR_STORAGE_FILE_SIZE`), flags. The table below is the only
//! place that lists settings: the struct, the parser, the environment, `--print-config` and the
//! packaged example all come from it.

mod file;
mod layers;
mod member;
mod print;
mod value;

pub use layers::{Sources, load};
pub use member::{ClusterRole, MemberEntry, part};
pub use print::{Detail, print};
pub use value::{Auto, Off, Raw};

use crate::logging::LogFormat;
use crate::output::nearest;
use crate::units::{Size, Span};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use value::Value;
use weir_core::access::{Role, Rule};
use weir_core::limits;

/// Why a configuration is not accepted. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where, with the line shown.
        error: String,
    },
    /// There is no such setting.
    #[error("{place}: there is no setting `{key}`{}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// File and line.
        place: String,
        /// The name in the file, with its section.
        key: String,
        /// The setting most like it.
        nearest: Option<String>,
    },
    /// The value is of the wrong kind or out of bounds.
    #[error("{place}: {key}: {reason}")]
    Value {
        /// File and line, environment variable or flag.
        place: String,
        /// The setting.
        key: String,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// Two settings contradict each other.
    #[error("the configuration contradicts itself: {0}")]
    Contradiction(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// One row of the table of settings.
pub struct Entry {
    /// The name, with its section: `storage.file_size`.
    pub key: &'static str,
    /// The documentation, line by line.
    pub doc: &'static [&'static str],
    /// Takes a value.
    pub set: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// The value as TOML.
    pub show: fn(&Settings) -> String,
}

impl Entry {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("WEIR_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Section (empty for none) and name within it.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $field:ident: $kind:ty = $key:literal, $default:expr;)*) => {
        /// Everything that can be set about a node.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[doc = $doc])* pub $field: $kind,)*
            /// Who may do what: the `[[access.rule]]` tables.
            pub rules: Vec<Rule>,
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { $($field: $default,)* rules: default_rules() }
            }
        }

        /// All settings but the access rules, by section.
        pub const ENTRIES: &[Entry] = &[$(Entry {
            key: $key,
            doc: &[$($doc),*],
            set: |settings, raw| {
                settings.$field = <$kind as Value>::parse(raw)?;
                Ok(())
            },
            show: |settings| settings.$field.toml(),
        }),*];
    };
}

settings! {
    /// The folder that holds everything the node keeps: log, metadata, certificates.
    /// `auto`: the folder that systemd gives the service (StateDirectory), else /var/lib/weir for
    /// root, else $XDG_DATA_HOME/weir or ~/.local/share/weir.
    data_dir: Auto<PathBuf> = "data_dir", Auto::AUTO;
    /// The node's name in status, logs and its certificate. `auto`: the machine's host name.
    name: Auto<String> = "name", Auto::AUTO;
    /// Where clients connect (QUIC, so UDP): address and port. Port 0 takes any free one. An
    /// address that is not loopback requires certificates of clients; see access.anonymous.
    listen: SocketAddr = "listen", SocketAddr::from(([127, 0, 0, 1], 7447));
    /// Where /health, /ready, /metrics and /status are served (HTTP without TLS or login, so keep
    /// it on loopback or a trusted network), or `off`.
    http: Off<SocketAddr> = "http", Off::On(SocketAddr::from(([127, 0, 0, 1], 7448)));
    /// Largest UDP payload, in bytes, 1200 to 6500. `auto`: 6000 over loopback, discovered
    /// elsewhere. Raise it only where every hop carries such frames.
    mtu: Auto<u16> = "mtu", Auto::AUTO;
    /// How long a shutdown waits for what is under way before it drops it.
    shutdown_grace: Span = "shutdown_grace", Span::from_ms(10_000);

    /// More DNS names and IP addresses that the node's certificate is made out to, besides its
    /// name, `localhost` and the loopback addresses. Clients of the site need none of them: they
    /// trust the site's authority.
    tls_names: Vec<String> = "tls.names", Vec::new();

    /// All nodes of the cluster that this one is part of, the same list on each: one to five texts
    /// NUMBER=NAME@HOST:PORT, such as "1=edge-1@10.0.0.1:7447". The node finds itself in it by its
    /// name; the numbers are kept for ever. All need certificates of one authority (`weir cert
    /// node`). Without members the node is alone.
    members: Vec<MemberEntry> = "cluster.members", Vec::new();
    /// Where the node stands, or `off`: replicas of a partition are spread over racks.
    rack: Off<String> = "cluster.rack", Off::Off;
    /// What the node does in the cluster: data (hold records and vote) or witness (only vote, so
    /// that of two nodes with records either may fail).
    role: ClusterRole = "cluster.role", ClusterRole::Data;

    /// What clients without a certificate may do, on all topics: a list of admin, produce and
    /// consume. With an empty list, certificates are required. `auto`: everything where `listen`
    /// is a loopback address, nothing elsewhere.
    anonymous: Auto<Vec<Role>> = "access.anonymous", Auto::AUTO;

    /// How many shards a new data folder gets: a writer thread each. An existing folder keeps its
    /// number. `auto`: 1 on up to two cores, else 2.
    shards: Auto<u16> = "storage.shards", Auto::AUTO;
    /// A shard goes on to a new file once the active one holds this much. Old records are freed a
    /// file at a time, and starting after a crash reads one file.
    file_size: Size = "storage.file_size", Size(128 << 20);
    /// With less free disk space than this, produce is refused and reading goes on.
    reserve: Size = "storage.reserve", Size(64 << 20);
    /// How often the node looks for records that are past their retention.
    retention_interval: Span = "storage.retention_interval", Span::from_ms(30_000);
    /// How long a file's verified checksum counts as fresh before the file is read and verified
    /// again.
    scrub_period: Span = "storage.scrub_period", Span::from_ms(7 * 86_400_000);
    /// How often the node looks for a file that is due to be verified. One is read at a time.
    scrub_interval: Span = "storage.scrub_interval", Span::from_ms(60_000);
    /// A file is rewritten once less than this share of it is wanted, in percent, 1 to 99. More
    /// frees space sooner and writes more.
    clean_below_percent: u8 = "storage.clean_below_percent", 50;
    /// Most bytes per second that rewriting and verifying read, or 0 for no bound.
    background_rate: Size = "storage.background_rate", Size(32 << 20);
    /// Most bytes that one commit takes, 64KiB to 64MiB; a larger batch still fits alone. Smaller
    /// ones need less memory and acknowledge sooner under load, larger ones sync less often.
    commit_size: Size = "storage.commit_size", Size(limits::COMMIT_BYTES_MAX as u64);
    /// Most appends that wait for a shard's writer, 64 to 1000000. Beyond it producers are told
    /// that the node is busy, and try again.
    append_queue: u32 = "storage.append_queue", limits::APPEND_QUEUE_MAX as u32;
    /// How long a small record may wait for those of other producers to share one sync, if at least
    /// four producers each send one now and then: fewer writes and less CPU, for an answer that is
    /// later by so much. A lone producer, a busy one, large batches and topics with a commit linger
    /// of their own are never held up. 0s turns it off.
    trickle_linger: Span = "storage.trickle_linger", Span(limits::TRICKLE_LINGER);
    /// The storage engine's cache of a shard's active file, at least 1MiB. Half of it holds what a
    /// commit writes: with less than twice storage.commit_size it is written in pieces.
    active_cache: Size = "storage.active_cache", Size(16 << 20);
    /// The storage engine's cache of each closed file that is open for reading, at least 64KiB.
    sealed_cache: Size = "storage.sealed_cache", Size(4 << 20);
    /// Most closed files that are open for reading at once, for each shard.
    sealed_files_open: u16 = "storage.sealed_files_open", 8;
    /// What is kept in memory of where closed files hold which offsets, for each shard, at least
    /// 64KiB. What is not kept is read again.
    index_cache: Size = "storage.index_cache", Size(8 << 20);

    /// Recent records kept in memory for consumers at the end of the log.
    tail_cache: Size = "memory.tail_cache", Size(limits::TAIL_CACHE_BYTES as u64);
    /// Produced batches that are received but not yet on disk, of all clients. At least 4MiB, one
    /// batch.
    produce_budget: Size = "memory.produce_budget", Size(limits::PRODUCE_BUDGET_BYTES as u64);
    /// Batches that wait for a shard's writer, at least 4MiB, one batch. Beyond it producers are
    /// told that the node is busy, and try again. `auto`: as much as memory.produce_budget, which
    /// holds producers back before it comes to that.
    append_queue_bytes: Auto<Size> = "memory.append_queue", Auto::AUTO;
    /// What one connection may send before the node has read it, 1MiB to 1GiB; one stream of it
    /// may send a quarter, and at most 4MiB. Times limits.connections it is what clients can make
    /// the node hold; it also bounds what one client can send per round trip.
    connection_window: Size =
        "memory.connection_window", Size(limits::NODE_CONNECTION_WINDOW_BYTES as u64);
    /// What the node keeps of sent data that one connection has not confirmed, 1MiB to 1GiB. It
    /// bounds what one client can receive per round trip.
    send_window: Size = "memory.send_window", Size(limits::SEND_WINDOW_BYTES as u64);
    /// Batches read from disk for consumers and not yet sent, for all of them. At least 4MiB, one
    /// batch.
    fetch_budget: Size = "memory.fetch_budget", Size(limits::FETCH_BUDGET_BYTES as u64);
    /// Batches that wait in memory for consumers that do not read, for all of them. Beyond that,
    /// and after a second, they are forgotten and read again once the consumer reads on.
    slow_budget: Size = "memory.slow_budget", Size(limits::SLOW_BUDGET_BYTES as u64);

    /// Most connections at once. Further clients are told that the node is busy.
    connections: u32 = "limits.connections", limits::CONNECTIONS_MAX as u32;
    /// Most subscriptions at once, one for each partition that a consumer reads.
    subscriptions: u32 = "limits.subscriptions", limits::SUBSCRIPTIONS_MAX as u32;

    /// Most CPU time that the module of one transform or consumer may take on this node, in percent
    /// of one core, at most 6400; 0 is no bound. A deployment may ask for less (--cpu).
    deployment_cpu: u32 = "limits.deployment_cpu", 0;

    /// What is logged to stderr: off, error, warn, info, debug, trace, or levels per crate such as
    /// `info,weir_log=debug`.
    log_level: String = "logging.level", "info".to_owned();
    /// How it is logged: text or json.
    log_format: LogFormat = "logging.format", LogFormat::Text;
}

/// Documentation of the access rules, line by line.
pub const RULES_DOC: &[&str] = &[
    " Who may do what, by the name in the client's certificate (`weir cert client NAME`). A",
    " trailing * in `principal` matches any ending. Roles: admin (everything), produce, consume.",
    " `topics` are prefixes of topic names; without them the roles hold for all topics. Nothing is",
    " allowed that no rule allows. These tables replace the default rule; `rule = []` under",
    " [access] is no rule at all.",
];

fn default_rules() -> Vec<Rule> {
    vec![Rule { principal: "admin".into(), roles: vec![Role::Admin], topics: Vec::new() }]
}

/// The settings that a configuration file gives over the defaults. `path` is for messages.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong, from the top.
pub fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    file::apply(&mut settings, path, text)?;
    settings.check()?;
    Ok(settings)
}

/// The setting of this name.
fn entry(key: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.key == key)
}

/// The setting most like `key`: in its own section, or else with its name in another section.
fn nearest_key(key: &str) -> Option<String> {
    let all = || ENTRIES.iter().map(|entry| entry.key).chain(["access.rule"]);
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let elsewhere = all().find(|known| known.rsplit('.').next() == Some(name));
    let same_section = all().filter(|known| known.rsplit_once('.').is_some_and(|k| k.0 == section));
    elsewhere.or_else(|| nearest(key, same_section)).or_else(|| nearest(key, all())).map(Into::into)
}

impl Settings {
    /// Checks bounds, and settings against each other.
    ///
    /// # Errors
    /// [`ConfigError::Contradiction`], with the setting and its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mib = 1u64 << 20;
        let batch = limits::BATCH_BYTES_MAX as u64;
        let span_s = |span: Span| span.0.as_secs();
        let checks = [
            (
                self.mtu.0.is_none_or(|mtu| (1_200..=limits::MTU_MAX).contains(&mtu)),
                "mtu must be auto or 1200 to 6500",
            ),
            (
                self.shards.0.is_none_or(|n| (1..=64).contains(&n)),
                "storage.shards must be auto or 1 to 64",
            ),
            (
                (16 * mib..=4_096 * mib).contains(&self.file_size.0),
                "storage.file_size must be 16MiB to 4GiB",
            ),
            (
                (1..=99).contains(&self.clean_below_percent),
                "storage.clean_below_percent must be 1 to 99",
            ),
            (self.sealed_files_open >= 1, "storage.sealed_files_open must be at least 1"),
            (self.connections >= 1, "limits.connections must be at least 1"),
            (self.subscriptions >= 1, "limits.subscriptions must be at least 1"),
            (self.active_cache.0 >= mib, "storage.active_cache must be at least 1MiB"),
            (self.sealed_cache.0 >= 64 << 10, "storage.sealed_cache must be at least 64KiB"),
            (
                span_s(self.retention_interval) >= 1,
                "storage.retention_interval must be at least 1s",
            ),
            (
                self.trickle_linger.0.as_millis() <= 1_000,
                "storage.trickle_linger must be at most 1s",
            ),
            (span_s(self.scrub_period) >= 60, "storage.scrub_period must be at least 1m"),
            (
                self.produce_budget.0 >= batch,
                "memory.produce_budget must be at least 4MiB, one batch",
            ),
            (self.fetch_budget.0 >= batch, "memory.fetch_budget must be at least 4MiB, one batch"),
            (
                self.deployment_cpu <= limits::DEPLOYMENT_CPU_PERCENT_MAX,
                "limits.deployment_cpu must be at most 6400 percent",
            ),
            (self.slow_budget.0 <= 4_096 * mib, "memory.slow_budget must be at most 4GiB"),
        ];
        if let Some((_, reason)) = checks.into_iter().chain(self.sizes()).find(|(good, _)| !good) {
            return Err(ConfigError::Contradiction(reason.into()));
        }
        crate::logging::parse_level(&self.log_level)
            .map_err(|reason| ConfigError::Contradiction(format!("logging.level: {reason}")))?;
        Ok(())
    }

    /// Bounds of what trades memory for speed.
    fn sizes(&self) -> [(bool, &'static str); 7] {
        let mib = 1u64 << 20;
        let batch = limits::BATCH_BYTES_MAX as u64;
        [
            (self.scrub_interval.0.as_secs() >= 1, "storage.scrub_interval must be at least 1s"),
            (
                (64 << 10..=64 * mib).contains(&self.commit_size.0),
                "storage.commit_size must be 64KiB to 64MiB",
            ),
            (
                (64..=1_000_000).contains(&self.append_queue),
                "storage.append_queue must be 64 to 1000000",
            ),
            (self.index_cache.0 >= 64 << 10, "storage.index_cache must be at least 64KiB"),
            (
                self.append_queue_bytes.0.is_none_or(|bytes| bytes.0 >= batch),
                "memory.append_queue must be auto or at least 4MiB, one batch",
            ),
            (
                (mib..=1_024 * mib).contains(&self.connection_window.0),
                "memory.connection_window must be 1MiB to 1GiB",
            ),
            (
                (mib..=1_024 * mib).contains(&self.send_window.0),
                "memory.send_window must be 1MiB to 1GiB",
            ),
        ]
    }

    /// What clients without a certificate may do; nothing: certificates are required.
    pub fn anonymous_roles(&self) -> Vec<Role> {
        match &self.anonymous.0 {
            Some(roles) => roles.clone(),
            None if self.listen.ip().to_canonical().is_loopback() => vec![Role::Admin],
            None => Vec::new(),
        }
    }
}
