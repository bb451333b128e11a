//! What the data commands share in using the SDK: topics, failures, interruption.

use std::io::IsTerminal;
use std::time::Duration;

use weir_client::{
    AssignError, Client, ConnectError, ConsumeError, DeliveryError, RequestError, SendError,
};
use weir_core::topic::TopicConfig;
use weir_core::wire::message::TopicInfo;
use weir_core::wire::{ErrorCode, Outcome, WireError};

use crate::cli::Globals;
use crate::exit::{CommandResult, Effect, Exit, Failure};
use crate::output::{self, nearest};

/// The topic called `name`; creates it with `create` partitions if there is none.
///
/// # Errors
/// There is none and it is not to be created, or the node says no.
pub async fn topic(
    client: &Client,
    name: &str,
    create: Option<TopicConfig>,
) -> Result<TopicInfo, Failure> {
    let doing = format!("looking up topic {name}");
    let admin = client.admin();
    let found = match create {
        Some(config) => admin.ensure_topic(name, config).await.map(Some),
        None => admin.topic(name).await,
    };
    match found.map_err(|error| request_failure(&doing, &error))? {
        Some(topic) => Ok(topic),
        None => Err(unknown_topic(client, name).await),
    }
}

/// Says which topic may have been meant.
async fn unknown_topic(client: &Client, name: &str) -> Failure {
    let topics = client.admin().topics().await.unwrap_or_default();
    let near = nearest(name, topics.iter().map(|topic| topic.name.as_str()));
    let next = match near {
        Some(near) => format!("Did you mean `{near}`? `weir topic create {name}` makes a new one."),
        None => format!("`weir topic create {name}` makes it; `weir topic list` shows what is."),
    };
    let code = Some(ErrorCode::UnknownTopic);
    Failure {
        code,
        ..Failure::new(Exit::Refused, format!("there is no topic `{name}`")).next(next)
    }
}

/// Ends when the program is asked to: Ctrl-C or SIGTERM.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        // Then SIGTERM ends the program as the system does it.
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// Shortest time between two looks of [`watch`].
const WATCH_MIN: Duration = Duration::from_millis(100);

/// Shows something again and again, until the program is asked to end. `show` is told whether it
/// may clear the screen.
pub async fn watch(
    every: Duration,
    globals: &Globals,
    mut show: impl AsyncFnMut(bool) -> CommandResult,
) -> CommandResult {
    let mut ticks = tokio::time::interval(every.max(WATCH_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let clear = std::io::stdout().is_terminal() && !globals.json;
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            // Ctrl-C is how watching ends: no failure.
            () = &mut interrupted => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(failure) = show(clear).await {
            // The SDK reconnects by itself, so a restart of the node is no reason to stop looking.
            if failure.exit != Exit::Unreachable {
                return Err(failure);
            }
            output::note(false, &format!("{}; trying again", failure.what));
        }
    }
}

/// How long an interrupted command waits for what it has sent to be acknowledged.
const INTERRUPT_GRACE: Duration = Duration::from_secs(3);

/// Ends when nothing that was sent is to be waited for any more: a while after the program was
/// asked to end (it was already if `asked`), or when it is asked once more.
pub async fn given_up(asked: bool) {
    if !asked {
        interrupted().await;
    }
    tokio::select! {
        () = interrupted() => {}
        () = tokio::time::sleep(INTERRUPT_GRACE) => {}
    }
}

/// Milliseconds since 1970 now; 0 before that.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// There is no connection.
pub fn connect_failure(doing: &str, error: &ConnectError) -> Failure {
    match error {
        ConnectError::Refused { error, .. } => Failure::wire(doing, error),
        error => Failure::new(Exit::Unreachable, format!("{doing}: {error}")),
    }
}

/// A control request failed.
pub fn request_failure(doing: &str, error: &RequestError) -> Failure {
    match error {
        RequestError::Refused(error) => Failure::wire(doing, error),
        RequestError::Connect(error) => connect_failure(doing, error),
        error => with_outcome(doing, error, error.outcome()),
    }
}

/// A record was not taken by the producer.
pub fn send_failure(error: &SendError) -> Failure {
    match error {
        SendError::Metadata(error) => request_failure("producing", error),
        error => Failure::new(Exit::Error, error.to_string()),
    }
}

/// A record was not acknowledged.
pub fn delivery_failure(error: &DeliveryError) -> Failure {
    let doing = "producing";
    match error {
        DeliveryError::Refused { code, message, outcome } => {
            let error =
                WireError { outcome: *outcome, ..WireError::new(*code, message.to_string()) };
            Failure::wire(doing, &error)
        }
        error => with_outcome(doing, error, error.outcome()),
    }
}

/// A consumer cannot go on.
pub fn consume_failure(error: &ConsumeError) -> Failure {
    let doing = "consuming";
    match error {
        ConsumeError::Connect(error) => connect_failure(doing, error),
        ConsumeError::Refused { error, .. } => Failure::wire(doing, error),
        error => {
            let code = error.code();
            let failure = Failure::new(Exit::Refused, error.to_string());
            let next = match error {
                ConsumeError::OutOfRange { log_start, .. } => {
                    Some(format!("Begin at --from {log_start}, or at --from earliest."))
                }
                ConsumeError::Corrupt { resume_at: Some(offset), .. } => {
                    Some(format!("Go on behind the damage with --from {offset}."))
                }
                _ => None,
            };
            Failure { code, next, ..failure }
        }
    }
}

/// Partitions cannot be consumed.
pub fn assign_failure(error: &AssignError) -> Failure {
    match error {
        AssignError::Request(error) => request_failure("consuming", error),
        error => Failure::new(Exit::Refused, error.to_string()),
    }
}

fn with_outcome(doing: &str, error: &dyn std::error::Error, outcome: Outcome) -> Failure {
    let text = format!("{doing}: {error}");
    match outcome {
        Outcome::No => Failure::new(Exit::Error, text),
        Outcome::Unknown => Failure::new(Exit::Unknown, text).effect(Effect::Unknown),
    }
}
