//! Notices that a node is gone before the connection does.
//!
//! A connection counts as lost after [`weir_core::limits::IDLE_TIMEOUT`] of silence, long enough
//! for a link that comes and goes. A client that knows other nodes need not wait for that: where
//! the node is silent although it should not be, it is asked something, and if it does not answer
//! the next address is tried.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weir_core::limits::CONTROL_BYTES_MAX;
use weir_core::wire::FrameKind;
use weir_core::wire::message::Request;
use weir_transport::{ClientProfile, CloseReason, Connection, FrameError, control};

use crate::link::ReceiveError;

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A node that has something to answer is asked after this long without a word.
const UNANSWERED_AFTER: Duration = Duration::from_millis(500);
/// A node that only subscriptions wait for is asked after this long.
const QUIET_AFTER: Duration = Duration::from_secs(2);
/// How long it may take to answer, at least; on a slow path eight round trips.
const ANSWER_MIN: Duration = Duration::from_secs(1);

/// Watches a connection until it ends, and ends it if the node does not answer any more.
pub(crate) async fn watch(connection: Connection, profile: ClientProfile) {
    let subscribes = matches!(profile, ClientProfile::Subscribe { .. });
    let mut heard = (connection.stats().bytes_received, Instant::now());
    let mut sent = connection.stats().bytes_sent;
    loop {
        tokio::select! {
            _ = connection.closed() => return,
            () = sleep(LOOK_INTERVAL) => {}
        }
        let stats = connection.stats();
        if stats.bytes_received != heard.0 {
            heard = (stats.bytes_received, Instant::now());
            sent = stats.bytes_sent;
            continue;
        }
        let silent = heard.1.elapsed();
        let unanswered = stats.bytes_sent > sent && silent >= UNANSWERED_AFTER;
        let due = unanswered || (subscribes && silent >= QUIET_AFTER);
        if !due {
            continue;
        }
        let patience = ANSWER_MIN.max(stats.round_trip * 8);
        if timeout(patience, answers(&connection)).await.is_err() {
            // Whatever came meanwhile shows that it lives.
            if connection.stats().bytes_received == heard.0 {
                tracing::debug!("the node does not answer any more");
                connection.close(CloseReason::Normal, "the node does not answer");
                return;
            }
        }
        let stats = connection.stats();
        heard = (stats.bytes_received, Instant::now());
        sent = stats.bytes_sent;
    }
}

/// Asks for nothing, and waits for any answer, or for the connection's end.
async fn answers(connection: &Connection) {
    let asked = async {
        let (mut writer, mut reader) = connection.open_stream().await.map_err(FrameError::Lost)?;
        let body = control::encode(&Request::Topics { names: Some(Vec::new()) })?;
        writer.write(FrameKind::Request as u8, 0, &[body]).await?;
        writer.finish().await?;
        Ok(reader.next(CONTROL_BYTES_MAX).await?)
    };
    // Refused or not: somebody is there. A lost connection says so itself.
    let _: Result<_, ReceiveError> = asked.await;
}
