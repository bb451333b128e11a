//! A snapshot that arrives in parts: nothing is believed of it before all of it is there and reads
//! as a state.

use crate::raft::SnapshotMeta;
use crate::wire::{PeerError, SnapshotPart};
use weir_core::controller::State;
use weir_core::ids::NodeId;
use weir_core::limits;

/// The snapshot that is arriving; at most one.
#[derive(Debug, Default)]
pub struct Incoming {
    from: Option<(NodeId, SnapshotMeta)>,
    bytes: Vec<u8>,
}

/// What becomes of a part.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next must begin here.
    Next(u64),
    /// All of it is there.
    Whole(Vec<u8>),
}

impl Incoming {
    /// Takes a part. One that does not continue what is there is passed over, but for a first one,
    /// which begins anew.
    ///
    /// # Errors
    /// [`PeerError`] if it is too large, or all of it is no snapshot. It is forgotten then.
    pub fn take(&mut self, from: NodeId, part: &SnapshotPart) -> Result<Taken, PeerError> {
        let key = (from, part.meta.clone());
        if part.at == 0 {
            self.from = Some(key.clone());
            self.bytes.clear();
        }
        if self.from.as_ref() != Some(&key) {
            return Ok(Taken::Next(0));
        }
        if part.at != self.bytes.len() as u64 {
            return Ok(Taken::Next(self.bytes.len() as u64));
        }
        let bytes = self.bytes.len() + part.data.len();
        if bytes > limits::SNAPSHOT_BYTES_MAX {
            self.forget();
            return Err(PeerError::TooLarge { bytes, max: limits::SNAPSHOT_BYTES_MAX });
        }
        self.bytes.extend_from_slice(&part.data);
        if !part.done {
            return Ok(Taken::Next(bytes as u64));
        }
        let whole = std::mem::take(&mut self.bytes);
        self.forget();
        match State::restore(&whole) {
            Ok(_) if part.meta.last_log_id.is_some() => Ok(Taken::Whole(whole)),
            Ok(_) => Err(PeerError::Malformed("a snapshot of nothing".to_owned())),
            Err(error) => Err(PeerError::Malformed(error.to_string())),
        }
    }

    fn forget(&mut self) {
        self.from = None;
        self.bytes = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{LogId, Vote};
    use bytes::Bytes;
    use openraft::LeaderId;

    fn part(at: u64, data: &[u8], done: bool) -> SnapshotPart {
        let last = LogId::new(LeaderId::new(3, 1), 9);
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            snapshot_id: "s".into(),
            ..SnapshotMeta::default()
        };
        SnapshotPart {
            vote: Vote::new_committed(3, 1),
            meta,
            at,
            done,
            data: Bytes::copy_from_slice(data),
        }
    }

    /// Goal: parts are joined in order; one that comes again, is missing or is another's is not
    /// taken, and the sender is told where to go on.
    #[test]
    fn parts_in_order() {
        let whole = State::default().snapshot();
        let (a, b) = whole.split_at(20);
        let mut incoming = Incoming::default();
        let node = NodeId(1);
        assert_eq!(incoming.take(node, &part(20, b, true)), Ok(Taken::Next(0)), "no beginning");
        assert_eq!(incoming.take(node, &part(0, a, false)), Ok(Taken::Next(20)));
        assert_eq!(incoming.take(node, &part(7, a, false)), Ok(Taken::Next(20)));
        assert_eq!(incoming.take(NodeId(2), &part(20, b, true)), Ok(Taken::Next(0)));
        assert_eq!(incoming.take(node, &part(20, b, true)), Ok(Taken::Whole(whole.clone())));
        assert_eq!(incoming.take(node, &part(20, b, true)), Ok(Taken::Next(0)), "it was taken");
    }

    /// Goal: what is no state, or of nothing, or without end, is refused and forgotten.
    #[test]
    fn hostile_parts() {
        let node = NodeId(1);
        let mut incoming = Incoming::default();
        let noise = incoming.take(node, &part(0, &[0xA1; 100], true));
        assert!(matches!(noise, Err(PeerError::Malformed(_))), "{noise:?}");
        let mut of_nothing = part(0, &State::default().snapshot(), true);
        of_nothing.meta.last_log_id = None;
        let of_nothing = incoming.take(node, &of_nothing);
        assert!(matches!(of_nothing, Err(PeerError::Malformed(_))), "{of_nothing:?}");
        let large = vec![0; limits::SNAPSHOT_BYTES_MAX / 4 + 1];
        for n in 0..3 {
            let at = n * large.len() as u64;
            assert!(matches!(incoming.take(node, &part(at, &large, false)), Ok(Taken::Next(_))));
        }
        let last = incoming.take(node, &part(3 * large.len() as u64, &large, false));
        assert!(matches!(last, Err(PeerError::TooLarge { .. })), "{last:?}");
        assert_eq!(incoming.bytes.capacity(), 0);
    }
}
