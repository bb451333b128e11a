//! What `weir transform` and `weir consumer` have in common: they say the same of deployments of
//! two kinds.

use super::figures::thousands;
use super::module::parse_param;
use super::restore::{RestoreArgs, snapshots};
use super::sdk;
use crate::cli::Globals;
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{self, Table};
use crate::units::{Span, human_bytes};
use crate::{connect, timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use weir_client::{Client, RequestError};
use weir_core::deploy::http::HttpGrant;
use weir_core::deploy::{DeploymentKind, DeploymentSpec, Mode, OnError, Version};
use weir_core::limits;
use weir_core::module::name::ModuleRef;
use weir_core::wire::ErrorCode;
use weir_core::wire::deployments::{DeploymentInfo, LaneCondition, ModuleLine};

/// Between two looks for new lines.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Lines that a node has at most.
const LINES_MAX: i64 = limits::DEPLOYMENT_LOG_LINES_MAX as i64;

/// Largest CPU budget.
const CPU_MAX: i64 = limits::DEPLOYMENT_CPU_PERCENT_MAX as i64;

/// What is to be done with deployments of one kind.
#[derive(Debug)]
pub enum Action {
    /// Create one of this name.
    Create(String, Box<DeploymentSpec>),
    /// Show all.
    List,
    /// Show one.
    Describe(NameArgs),
    /// Have one stand still.
    Pause(NameArgs),
    /// Have one go on.
    Resume(NameArgs),
    /// Run another version.
    Replace(ReplaceArgs),
    /// Run the version before.
    Rollback(RollbackArgs),
    /// Delete one.
    Delete(NameArgs),
    /// Show what its module logged.
    Logs(LogsArgs),
}

/// What both kinds are told at their creation, outputs aside.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What it is to be called
    pub name: String,
    /// Which version of which module
    #[arg(long, value_name = "NAME@VERSION")]
    module: ModuleRef,
    /// The input topic
    #[arg(long, value_name = "TOPIC")]
    from: String,
    /// A parameter of the module, NAME=VALUE; NAME=@FILE reads the value from a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    /// What happens to a record that the module cannot work on
    #[arg(long, value_enum, default_value = "stop")]
    on_error: Policy,
    /// With --on-error retry: how often a record is tried again before it stops; 0 is for ever
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    retries: u32,
    /// How much later than others a record may come, by its event time: timers wait that long
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    lateness: Span,
    /// The topic for such records; NAME.dead-letter, which is made, unless given
    #[arg(long, value_name = "TOPIC")]
    dead_letter: Option<String>,
    /// Begin with what comes, rather than with what is there
    #[arg(long)]
    from_latest: bool,
    /// Most CPU time that the module may take on a node, in percent of one core, all partitions
    /// there together; above it, the deployment stands still for a while
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=CPU_MAX))]
    cpu: Option<u32>,
    /// A topic that gets what the module logs, too: the key is the deployment, headers say the rest
    #[arg(long, value_name = "TOPIC")]
    log_topic: Option<String>,
}

/// Arguments of `replace`.
#[derive(Debug, clap::Args)]
pub struct ReplaceArgs {
    /// Which one
    name: String,
    /// Which version of which module
    #[arg(long, value_name = "NAME@VERSION")]
    module: ModuleRef,
    /// A parameter of the module, NAME=VALUE; NAME=@FILE reads the value from a file
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// Which one
    name: String,
    #[command(flatten)]
    restore: RestoreArgs,
}

/// The name of a deployment.
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// Which one
    name: String,
}

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Which one
    name: String,
    /// Go on with lines as they come, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// How many of the last lines to begin with
    #[arg(long, value_name = "NUMBER", default_value = "100",
          value_parser = clap::value_parser!(u32).range(0..=LINES_MAX))]
    lines: u32,
}

/// See [`OnError`].
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Policy {
    /// Leave it out, and count it
    Skip,
    /// Try again until it works, or as often as --retries says
    Retry,
    /// Write it to the dead-letter topic
    DeadLetter,
    /// Stand before it until somebody resumes
    Stop,
}

impl From<Policy> for OnError {
    fn from(policy: Policy) -> OnError {
        match policy {
            Policy::Skip => OnError::Skip,
            Policy::Retry => OnError::Retry,
            Policy::DeadLetter => OnError::DeadLetter,
            Policy::Stop => OnError::Stop,
        }
    }
}

impl CreateArgs {
    /// What the arguments ask for.
    ///
    /// # Errors
    /// If a parameter's file cannot be read.
    pub fn into_action(
        self,
        kind: DeploymentKind,
        to: Vec<String>,
        http: Option<HttpGrant>,
    ) -> Result<Action, Failure> {
        let spec = DeploymentSpec {
            kind,
            version: Version { module: self.module, params: params(self.param)? },
            from: self.from,
            to,
            on_error: self.on_error.into(),
            dead_letter: self.dead_letter,
            from_latest: self.from_latest,
            retries: self.retries,
            lateness_ms: u32::try_from(self.lateness.0.as_millis())
                .map_err(|_| Failure::usage("--lateness is at most 49 days"))?,
            http,
            cpu_percent: self.cpu.unwrap_or(0),
            log_topic: self.log_topic,
        };
        Ok(Action::Create(self.name, Box::new(spec)))
    }
}

/// Deployments of one kind, on a node.
struct Site<'a> {
    kind: DeploymentKind,
    client: &'a Client,
    globals: &'a Globals,
}

/// Does it.
pub async fn run(kind: DeploymentKind, action: Action, globals: &Globals) -> CommandResult {
    let client = connect::client(globals).await?;
    let done = Site { kind, client: &client, globals }.run(action).await;
    client.close().await;
    done
}

/// Parameters with what their files hold.
pub(super) fn params(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let read = |(name, value): (String, String)| match value.strip_prefix('@') {
        None => Ok((name, value)),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(Failure::usage(format!("parameter {name}: {path}: {error}"))),
        },
    };
    given.into_iter().map(read).collect()
}

impl Site<'_> {
    async fn run(&self, action: Action) -> CommandResult {
        let admin = self.client.admin();
        match action {
            Action::Create(name, spec) => {
                let created = admin.create_deployment(&name, *spec).await;
                self.changed(&name, "creating", created)
            }
            Action::List => self.list().await,
            Action::Describe(NameArgs { name }) => {
                let info = self.known(&name, "describing").await?;
                self.show(&name, &info)
            }
            Action::Pause(NameArgs { name }) => {
                self.known(&name, "pausing").await?;
                self.changed(&name, "pausing", admin.pause_deployment(&name, true).await)
            }
            Action::Resume(NameArgs { name }) => {
                self.known(&name, "resuming").await?;
                self.changed(&name, "resuming", admin.pause_deployment(&name, false).await)
            }
            Action::Replace(args) => self.replace(args).await,
            Action::Rollback(RollbackArgs { name, restore }) => {
                let known = self.known(&name, "rolling back").await?;
                let restore = restore.agreed(&known)?;
                let rolled = admin.restore_deployment(&name, None, restore).await;
                self.changed(&name, "rolling back", rolled)
            }
            Action::Delete(NameArgs { name }) => self.delete(&name).await,
            Action::Logs(args) => self.logs(&args).await,
        }
    }

    /// The deployment of this name, if it is of this kind.
    async fn known(&self, name: &str, doing: &str) -> Result<DeploymentInfo, Failure> {
        let known = self.client.admin().deployment(name).await;
        let known = known.map_err(|error| self.failure(name, doing, &error))?;
        let (is, here) = (known.deployment.spec.kind.name(), self.kind.name());
        if is == here {
            return Ok(known);
        }
        let message = format!("{doing} {here} {name}: it is a {is}");
        Err(Failure::new(Exit::Refused, message)
            .next(format!("`weir {is}` has the same commands.")))
    }

    async fn replace(&self, args: ReplaceArgs) -> CommandResult {
        let ReplaceArgs { name, module, param, restore } = args;
        let known = self.known(&name, "replacing").await?;
        let restore = restore.agreed(&known)?;
        let params = match param.is_empty() {
            false => params(param)?,
            true => known.deployment.spec.version.params,
        };
        let version = Some(Version { module, params });
        let replaced = self.client.admin().restore_deployment(&name, version, restore).await;
        self.changed(&name, "replacing", replaced)
    }

    async fn delete(&self, name: &str) -> CommandResult {
        self.known(name, "deleting").await?;
        let deleted = self.client.admin().delete_deployment(name).await;
        deleted.map_err(|error| self.failure(name, "deleting", &error))?;
        output::note(self.globals.json, &format!("{name}: deleted"));
        match self.globals.json {
            true => output::print_json(&serde_json::json!({ "deleted": name })),
            false => Ok(()),
        }
    }

    async fn logs(&self, args: &LogsArgs) -> CommandResult {
        let name = &args.name;
        self.known(name, "reading the log of").await?;
        let interrupted = sdk::interrupted();
        tokio::pin!(interrupted);
        let (mut from, mut lines) = (None, args.lines);
        loop {
            let read = self.client.admin().deployment_log(name, from, lines).await;
            let (found, next) =
                read.map_err(|error| self.failure(name, "reading the log of", &error))?;
            let none = found.is_empty();
            for line in found {
                self.line(&line)?;
            }
            if !args.follow {
                return Ok(());
            }
            (from, lines) = (Some(next), limits::DEPLOYMENT_LOG_LINES_MAX as u32);
            let pause = if none { FOLLOW_INTERVAL } else { Duration::ZERO };
            tokio::select! {
                () = &mut interrupted => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn line(&self, line: &ModuleLine) -> CommandResult {
        if self.globals.json {
            return output::print_line(&serde_json::json!(line).to_string());
        }
        let ModuleLine { at, partition, level, message, .. } = line;
        let at = timestamp::seconds(*at);
        output::print_line(&format!("{at}  {partition}  {:<5}  {message}", level.name()))
    }

    async fn list(&self) -> CommandResult {
        let kind = self.kind.name();
        let all = self.client.admin().deployments().await;
        let mut all = all.map_err(|error| self.failure("", "listing", &error))?;
        all.retain(|info| info.deployment.spec.kind == self.kind);
        if self.globals.json {
            return output::print_json(&all);
        }
        if all.is_empty() {
            output::note(false, &format!("no {kind}s; `weir {kind} create` makes one"));
            return Ok(());
        }
        let name = match self.kind {
            DeploymentKind::Transform => "TRANSFORM",
            DeploymentKind::Consumer => "CONSUMER",
        };
        let columns = [name, "STATE", "MODULE", "FROM", "TO", ">LAG", ">ERRORS", "ON ERROR"];
        let mut table = Table::new(&columns);
        for info in &all {
            let spec = &info.deployment.spec;
            table.row([
                info.deployment.name.clone(),
                condition(info).to_owned(),
                spec.version.module.to_string(),
                spec.from.clone(),
                topics(&spec.to),
                thousands(info.partitions.iter().map(|p| p.lag).sum()),
                thousands(info.partitions.iter().map(|p| p.errors).sum()),
                spec.on_error.name().to_owned(),
            ]);
        }
        output::print(&table.render())
    }

    fn changed(
        &self,
        name: &str,
        doing: &str,
        answer: Result<DeploymentInfo, RequestError>,
    ) -> CommandResult {
        let info = answer.map_err(|error| self.failure(name, doing, &error))?;
        if self.globals.json {
            return output::print_json(&info);
        }
        let spec = &info.deployment.spec;
        let paused = if info.deployment.paused { ", paused" } else { "" };
        let to =
            if spec.to.is_empty() { String::new() } else { format!(" to {}", topics(&spec.to)) };
        output::print_line(&format!(
            "{name}: {} from {}{to}, on error {}{paused}",
            spec.version.module,
            spec.from,
            policy(spec)
        ))
    }

    fn show(&self, name: &str, info: &DeploymentInfo) -> CommandResult {
        if self.globals.json {
            return output::print_json(info);
        }
        let DeploymentInfo { deployment, partitions } = info;
        let spec = &deployment.spec;
        let way = match deployment.mode {
            Mode::Direct => "direct",
            Mode::Outbox => "outbox",
        };
        output::print_line(&format!("{name}: {}, {way}", condition(info)))?;
        output::print_line(&format!("  module    {}", spec.version.module))?;
        for (name, value) in &spec.version.params {
            let short: String = value.chars().take(60).collect();
            output::print_line(&format!("  param     {name}={short}"))?;
        }
        if let Some(previous) = &deployment.previous {
            output::print_line(&format!("  before    {}", previous.module))?;
        }
        output::print_line(&format!("  from      {}", spec.from))?;
        output::print_line(&format!("  to        {}", topics(&spec.to)))?;
        if let Some(http) = &spec.http {
            let hosts: Vec<String> = http.allow.iter().map(ToString::to_string).collect();
            let (hosts, timeout_s) = (hosts.join(", "), f64::from(http.timeout_ms) / 1e3);
            output::print_line(&format!("  http      {hosts}, {timeout_s} s a request"))?;
        }
        if spec.lateness_ms > 0 {
            let lateness_s = f64::from(spec.lateness_ms) / 1e3;
            output::print_line(&format!("  lateness  {lateness_s} s of event time"))?;
        }
        if spec.cpu_percent > 0 {
            output::print_line(&format!("  cpu       {} % of a core", spec.cpu_percent))?;
        }
        if let Some(topic) = &spec.log_topic {
            output::print_line(&format!("  logs to   {topic}"))?;
        }
        let dead = deployment.dead_letter_topic();
        let dead = dead.map_or(String::new(), |topic| format!(" to {topic}"));
        output::print_line(&format!("  on error  {}{dead}\n", policy(spec)))?;
        show_partitions(info)?;
        if let Some(snapshots) = snapshots(partitions) {
            output::print(&format!("\n{}", snapshots.render()))?;
        }
        for p in partitions.iter().filter(|p| p.throttled_us > 0) {
            output::print_line(&format!(
                "partition {} stood still for {:.1} s: the module had used its CPU budget",
                p.partition,
                p.throttled_us as f64 / 1e6
            ))?;
        }
        for p in partitions.iter().filter(|p| p.log_lines_lost > 0) {
            let lost = thousands(p.log_lines_lost);
            output::print_line(&format!(
                "partition {}: {lost} log lines did not get to their topic",
                p.partition
            ))?;
        }
        for p in partitions {
            let Some(error) = &p.last_error else { continue };
            let at = error.offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
            let when = timestamp::seconds(error.at);
            output::print_line(&format!(
                "partition {}{at}, {when}: {}",
                p.partition, error.message
            ))?;
        }
        Ok(())
    }

    fn failure(&self, name: &str, doing: &str, error: &RequestError) -> Failure {
        let kind = self.kind.name();
        let doing = match name {
            "" => format!("{doing} {kind}s"),
            name => format!("{doing} {kind} {name}"),
        };
        let failure = sdk::request_failure(&doing, error);
        let next = match error.code() {
            Some(ErrorCode::UnknownDeployment) => {
                format!("`weir {kind} list` shows what there is.")
            }
            Some(ErrorCode::UnknownModule) => "`weir module list` shows what there is.".to_owned(),
            _ => return failure,
        };
        Failure { exit: Exit::Refused, ..failure }.next(next)
    }
}

fn show_partitions(info: &DeploymentInfo) -> CommandResult {
    let mut table = Table::new(&[
        ">PARTITION",
        "STATE",
        ">POSITION",
        ">LAG",
        ">IN",
        ">OUT",
        ">ERRORS",
        ">KEYS",
        ">BYTES",
        ">CPU",
    ]);
    for p in &info.partitions {
        table.row([
            p.partition.to_string(),
            p.state.name().to_owned(),
            p.position.map_or("-".to_owned(), |position| position.to_string()),
            thousands(p.lag + p.undelivered),
            thousands(p.records_in),
            thousands(p.records_out),
            thousands(p.errors),
            thousands(p.state_keys),
            human_bytes(p.state_bytes),
            format!("{:.2} s", p.cpu_us as f64 / 1e6),
        ]);
    }
    output::print(&table.render())
}

/// The worst of its partitions.
fn condition(info: &DeploymentInfo) -> &'static str {
    use LaneCondition::{Ended, Paused, Retrying, Running, Starting, Stopped, Waiting};
    let is = |condition| info.partitions.iter().any(|p| p.state == condition);
    let all = [Stopped, Retrying, Waiting, Starting, Ended, Paused, Running];
    let worst = all.into_iter().find(|condition| is(*condition));
    worst.unwrap_or(Starting).name()
}

fn topics(to: &[String]) -> String {
    if to.is_empty() { "-".to_owned() } else { to.join(", ") }
}

fn policy(spec: &DeploymentSpec) -> String {
    match spec.retries {
        0 => spec.on_error.name().to_owned(),
        retries => format!("{} {retries} times, then stop", spec.on_error.name()),
    }
}
