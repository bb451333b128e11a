//! How lanes and distributors read a partition of this node.

use crate::broker::Shared;
use crate::partition::Partition;
use crate::subscribe::read_error;
use std::sync::Arc;
use weir_core::Offset;
use weir_core::limits;
use weir_core::wire::{ErrorCode, WireError};
use weir_log::ReadChunk;

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
