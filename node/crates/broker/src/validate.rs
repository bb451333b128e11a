//! Checking produced batches without holding up the network thread.
//!
//! A batch is checked where it arrives, which for plain bytes costs little more than its checksum.
//! A compressed one has to be unpacked to be checked: 4 MiB took about 10 ms, in which no other
//! client would be heard. So large ones go to the blocking pool, a few at a time: what they unpack
//! to is bounded by that number, and so is the CPU that the network thread must share. Each stream
//! waits for its own batch before it reads on, which keeps its order.

use bytes::Bytes;
use tokio::sync::Semaphore;
use weir_core::limits::VALIDATIONS_MAX;
use weir_core::record::{BatchHeader, Compression, RecordBatch};
use weir_core::wire::{ErrorCode, WireError};

/// Compressed batches of fewer bytes are checked at once: unpacking what batches of this size
/// usually hold takes about as long as the way to another thread and back.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Checks batches, only so many of the costly ones at a time.
#[derive(Debug)]
pub struct Validator {
    turns: Semaphore,
}

impl Default for Validator {
    fn default() -> Validator {
        Validator { turns: Semaphore::new(VALIDATIONS_MAX) }
    }
}

impl Validator {
    /// Checks everything about a batch that a producer sent.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidBatch`] with what is wrong with it; [`ErrorCode::Internal`] if the
    /// check itself broke. It was not stored in either case.
    ///
    /// # Cancel safety
    /// Safe: the batch is dropped.
    pub async fn check(&self, bytes: Bytes) -> Result<RecordBatch, WireError> {
        if !is_costly(&bytes) {
            return decode(bytes);
        }
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        tokio::task::spawn_blocking(move || decode(bytes))
            .await
            .unwrap_or_else(|panic| Err(WireError::new(ErrorCode::Internal, panic.to_string())))
    }
}

/// Whether checking it may take long: it is large and must be unpacked.
fn is_costly(bytes: &[u8]) -> bool {
    bytes.len() > INLINE_BYTES_MAX
        && BatchHeader::decode(bytes)
            .and_then(|header| header.compression())
            .is_ok_and(|compression| compression != Compression::None)
}

fn decode(bytes: Bytes) -> Result<RecordBatch, WireError> {
    let batch = RecordBatch::decode(bytes)
        .map_err(|e| WireError::new(ErrorCode::InvalidBatch, e.to_string()))?;
    let info = batch.header();
    if info.is_control() || info.is_transactional() {
        let message = "control and transactional batches are the node's own to write";
        return Err(WireError::new(ErrorCode::InvalidBatch, message));
    }
    Ok(batch)
}
