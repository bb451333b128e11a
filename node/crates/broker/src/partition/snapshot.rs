//! What a replica begins anew with, when its leader has let go of what would come next: keyed state
//! and producers, as the leader's log has them.
//!
//! A snapshot is the leader's view at an end *E* up to which all is committed, while the replica's
//! log begins at the leader's log start, before *E*. It is appended to from there, and what it then
//! appends is in the snapshot already. That is no harm: of a key the last change counts, and a
//! producer's batches before the last one known change nothing; so at *E* the replica says what the
//! leader said there. Before that it says what no log ever said, but nobody asks: a replica is in
//! no in-sync set before it has all that is committed, and only those of the set come to lead.

use super::Partition;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use weir_core::Offset;
use weir_core::partition::view::PartitionView;
use weir_core::wire::{ErrorCode, WireError};
use weir_log::CutError;

/// How long what is on the leader's disk may take to be committed.
const COMMIT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the log may take to answer.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who waits for what the log says.
#[derive(Debug)]
pub(super) struct Waiting {
    /// At which end; `None`: now.
    at: Option<Offset>,
    answer: oneshot::Sender<Result<PartitionView, CutError>>,
}

impl Partition {
    /// What the log says at an end up to which all is committed. For a leader.
    ///
    /// # Errors
    /// [`WireError`]: the log does not answer, or what it said there is not kept.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn snapshot(&self) -> Result<PartitionView, WireError> {
        let view = self.view(None).await?;
        let mut progress = self.progress();
        let committed = progress.wait_for(|progress| progress.high_watermark >= view.log_end);
        if let Ok(Ok(_)) = timeout(COMMIT_PATIENCE, committed).await {
            return Ok(view);
        }
        // Too few are in sync, and whoever asks may be the one who is missing. What lies behind
        // the high watermark may be lost yet, so it must not be in a snapshot.
        let end = self.progress_now().high_watermark;
        self.view(Some(end)).await
    }

    async fn view(&self, at: Option<Offset>) -> Result<PartitionView, WireError> {
        let offline = |what: String| {
            let message = format!("the log cannot tell what the partition holds: {what}");
            WireError::new(ErrorCode::Offline, message)
        };
        let (answer, asked) = oneshot::channel();
        self.waiting().push(Waiting { at, answer });
        let sent = match at {
            None => self.log.ask_view(self.id),
            Some(end) => self.log.ask_view_at(self.id, end),
        };
        let answered = match sent {
            Ok(()) => timeout(LOG_PATIENCE, asked).await,
            Err(error) => return Err(offline(error.to_string())),
        };
        match answered {
            Ok(Ok(Ok(view))) => Ok(view),
            Ok(Ok(Err(error))) => Err(offline(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(offline("it does not answer".to_owned())),
        }
    }

    /// The log answers who asked what it says.
    pub fn answer_view(&self, view: &PartitionView) {
        self.answer(None, || Ok(view.clone()));
    }

    /// The log answers who asked what it said at `end`.
    pub fn answer_view_at(&self, end: Offset, view: Result<&PartitionView, &CutError>) {
        self.answer(Some(end), || view.cloned().map_err(Clone::clone));
    }

    fn answer(&self, at: Option<Offset>, answer: impl Fn() -> Result<PartitionView, CutError>) {
        let answered: Vec<Waiting> = {
            let mut waiting = self.waiting();
            waiting.retain(|one| !one.answer.is_closed());
            waiting.extract_if(.., |one| one.at == at).collect()
        };
        for one in answered {
            // Whoever asked may have gone.
            let _ = one.answer.send(answer());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
