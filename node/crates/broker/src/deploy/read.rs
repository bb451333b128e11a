//! Where lanes and distributors read, and from where on.

use crate::broker::Shared;
use crate::partition::Partition;
use crate::subscribe::read_error;
use std::sync::Arc;
use weir_core::Offset;
use weir_core::deploy::Deployment;
use weir_core::deploy::keys::Position;
use weir_core::limits;
use weir_core::wire::{ErrorCode, WireError};
use weir_log::ReadChunk;
use weir_wasm::columns::Watermark;

/// Where a lane begins.
#[must_use]
pub fn first_position(deployment: &Deployment, input: &Partition) -> Position {
    let progress = input.progress_now();
    let next = match deployment.spec.from_latest {
        true => progress.high_watermark,
        false => progress.log_start,
    };
    Position { next, watermark: Watermark::START.at }
}

/// Reads some batches of a partition: from memory, or on a thread that may block.
///
/// # Errors
/// As the log says.
///
/// # Cancel safety
/// Cancel safe.
pub async fn read(
    shared: &Arc<Shared>,
    partition: &Partition,
    from: Offset,
    below: Offset,
) -> Result<ReadChunk, WireError> {
    let (id, most) = (partition.id, limits::FETCH_CHUNK_BYTES);
    if let Some(chunk) = shared.log.read_cached(id, from, most, below) {
        return Ok(chunk);
    }
    let log = shared.log.clone();
    let read = tokio::task::spawn_blocking(move || log.read(id, from, most, below)).await;
    let read = read.map_err(|panic| WireError::new(ErrorCode::Internal, panic.to_string()))?;
    read.map_err(|error| read_error(&error))
}
