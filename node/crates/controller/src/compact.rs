//! Keeps the log short where its entries are large: openraft counts entries, not bytes.

use crate::controller::Inner;
use crate::raft::Raft;
use std::sync::Arc;
use std::time::Duration;
use weir_core::limits;

/// How long a snapshot may take before it is asked for again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes a snapshot, and drops what it holds from the log, whenever that has become too long.
pub async fn run(inner: Arc<Inner>, raft: Raft) {
    let mut applied = inner.applied.clone();
    while applied.changed().await.is_ok() {
        let upto = applied.borrow_and_update().last.map(|last| last.index);
        let Some(upto) = upto.filter(|_| inner.log.bytes() > limits::CONTROLLER_LOG_BYTES) else {
            continue;
        };
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
        let mut metrics = raft.data_metrics();
        let taken = metrics.wait_for(|now| now.snapshot.is_some_and(|last| last.index >= upto));
        let taken = tokio::time::timeout(PATIENCE, taken).await.is_ok_and(|taken| taken.is_ok());
        if taken && raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
    }
}
