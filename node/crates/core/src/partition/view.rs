//! What the durable log says of one partition.
//!
//! A view is a pure fold over the partition's entries: the log crate applies each entry to it once
//! the entry is durable, writes it as a snapshot at the head of every new file, and rebuilds it at
//! start from the last snapshot and the entries after it. Nothing else may change it.
//!
//! Invariant: `log_start <= log_end`, and the append time never goes back.

use crate::entry::{EntryHeader, EntryKind, StateChange};
use crate::ids::{LeaderEpoch, Offset, TimestampMs};
use crate::limits;
use crate::partition::epochs;
use crate::partition::messages::EpochStart;
use crate::partition::producers::{ProducerBatch, ProducerTable};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// The snapshot version that this code writes.
pub const VIEW_VERSION: u8 = 1;

/// The durable state of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// The first offset that is retained.
    pub log_start: Offset,
    /// The offset after the last durable entry.
    pub log_end: Offset,
    /// The newest append time of any entry.
    pub append_time: TimestampMs,
    /// Where each leader epoch began, ascending in both fields.
    pub epochs: Vec<EpochStart>,
    /// The idempotent producers.
    pub producers: ProducerTable,
    /// The keyed state.
    pub state: BTreeMap<Bytes, Bytes>,
}

/// Why an item cannot follow in this partition's log. In a log read back from disk it means rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The entry does not begin where the log ends.
    #[error("the entry begins at offset {got}, but the log ends at {expected}")]
    NotDense {
        /// The log end.
        expected: Offset,
        /// The entry's base offset.
        got: Offset,
    },
    /// The entry's leader epoch is older than one before it.
    #[error("leader epoch {got} follows epoch {last}")]
    EpochWentBack {
        /// The newest epoch in the log.
        last: LeaderEpoch,
        /// The entry's.
        got: LeaderEpoch,
    },
    /// The log start would leave the log.
    #[error("log start {0} lies outside the log")]
    LogStart(Offset),
    /// The log would be cut below its start or above its end.
    #[error("truncation to {0} lies outside the log")]
    Truncate(Offset),
}

impl PartitionView {
    /// Applies one item of the log's stream. `state` is the item's decoded keyed-state section,
    /// `producer` the producer fields of its batch, if it has them.
    ///
    /// A truncation leaves producers and keyed state as they are: that is for whoever knows no
    /// better. The log puts the view that it had at the cut in the place of this one.
    ///
    /// # Errors
    /// [`ViewError`]; the view is unchanged.
    pub fn apply(
        &mut self,
        header: &EntryHeader,
        state: &[StateChange],
        producer: Option<&ProducerBatch>,
    ) -> Result<(), ViewError> {
        match header.kind {
            EntryKind::Entry => self.apply_entry(header, state, producer)?,
            EntryKind::LogStart => {
                let start = header.base_offset;
                if start > self.log_end {
                    return Err(ViewError::LogStart(start));
                }
                self.advance_log_start(start);
            }
            EntryKind::Truncate => {
                let end = header.base_offset;
                if end > self.log_end || end < self.log_start {
                    return Err(ViewError::Truncate(end));
                }
                self.log_end = end;
                epochs::cut(&mut self.epochs, end);
            }
            EntryKind::Delete => *self = PartitionView::default(),
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        header: &EntryHeader,
        state: &[StateChange],
        producer: Option<&ProducerBatch>,
    ) -> Result<(), ViewError> {
        if header.base_offset != self.log_end {
            let (expected, got) = (self.log_end, header.base_offset);
            return Err(ViewError::NotDense { expected, got });
        }
        match self.epochs.last() {
            Some(&(last, _)) if header.epoch < last => {
                return Err(ViewError::EpochWentBack { last, got: header.epoch });
            }
            Some(&(last, _)) if header.epoch == last => {}
            _ => self.epochs.push((header.epoch, header.base_offset)),
        }
        self.log_end = header.end_offset();
        self.append_time = self.append_time.max(header.append_time);
        if let Some(producer) = producer {
            self.producers.record(producer, header.base_offset);
        }
        for change in state {
            match &change.value {
                Some(value) => self.state.insert(change.key.clone(), value.clone()),
                None => self.state.remove(&change.key),
            };
        }
        Ok(())
    }

    /// The view of a log that begins and ends at `start`, whose past has these epochs, and which
    /// begins with this keyed state and these producers. Rows of `epochs` at or beyond `start` are
    /// left out. `None` if `epochs` do not ascend in both fields, `start` is negative, or a key or
    /// value is longer than the limits allow.
    #[must_use]
    pub fn begin(
        start: Offset,
        mut epochs: Vec<EpochStart>,
        state: BTreeMap<Bytes, Bytes>,
        producers: ProducerTable,
    ) -> Option<PartitionView> {
        let ascends = epochs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let bounded = state.iter().all(|(key, value)| {
            key.len() <= limits::STATE_KEY_BYTES_MAX && value.len() <= limits::STATE_VALUE_BYTES_MAX
        });
        if !ascends || !bounded || start < Offset::ZERO {
            return None;
        }
        epochs::cut(&mut epochs, start);
        let append_time = TimestampMs::default();
        Some(PartitionView {
            log_start: start,
            log_end: start,
            append_time,
            epochs,
            producers,
            state,
        })
    }

    /// Moves the log start up, and not beyond the log end; a start at or below the present one
    /// changes nothing.
    pub fn advance_log_start(&mut self, start: Offset) {
        let start = start.min(self.log_end);
        self.log_start = self.log_start.max(start);
        epochs::advance(&mut self.epochs, self.log_start);
    }

    /// The newest leader epoch in the log, or the default (0) if nothing was ever appended.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(LeaderEpoch::default(), |&(epoch, _)| epoch)
    }

    /// The view as snapshot bytes: `u8` version, `i64` log start, log end and append time, a `u32`
    /// count of epochs (`i32` epoch, `i64` start), the producers, a `u32` count of state pairs
    /// (`u32` key length, `u32` value length, key, value); all little-endian.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u8(VIEW_VERSION);
        out.put_i64_le(self.log_start.0);
        out.put_i64_le(self.log_end.0);
        out.put_i64_le(self.append_time.0);
        out.put_u32_le(self.epochs.len() as u32);
        for &(epoch, start) in &self.epochs {
            out.put_i32_le(epoch.0);
            out.put_i64_le(start.0);
        }
        self.producers.encode(&mut out);
        out.put_u32_le(self.state.len() as u32);
        for (key, value) in &self.state {
            out.put_u32_le(key.len() as u32);
            out.put_u32_le(value.len() as u32);
            out.put_slice(key);
            out.put_slice(value);
        }
        out
    }

    /// Reads what [`PartitionView::encode`] wrote. `None` for anything else, a newer version
    /// included.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<PartitionView> {
        let bytes = &mut bytes;
        if bytes.try_get_u8().ok()? != VIEW_VERSION {
            return None;
        }
        let log_start = Offset(bytes.try_get_i64_le().ok()?);
        let log_end = Offset(bytes.try_get_i64_le().ok()?);
        let append_time = TimestampMs(bytes.try_get_i64_le().ok()?);
        let mut epochs = Vec::new();
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let epoch = LeaderEpoch(bytes.try_get_i32_le().ok()?);
            epochs.push((epoch, Offset(bytes.try_get_i64_le().ok()?)));
        }
        let producers = ProducerTable::decode(bytes)?;
        let mut state = BTreeMap::new();
        for _ in 0..bytes.try_get_u32_le().ok()? {
            let key_len = bytes.try_get_u32_le().ok()? as usize;
            let value_len = bytes.try_get_u32_le().ok()? as usize;
            let bounded = key_len <= limits::STATE_KEY_BYTES_MAX
                && value_len <= limits::STATE_VALUE_BYTES_MAX;
            if !bounded || bytes.len() < key_len + value_len {
                return None;
            }
            let key = Bytes::copy_from_slice(&bytes[..key_len]);
            let value = Bytes::copy_from_slice(&bytes[key_len..key_len + value_len]);
            bytes.advance(key_len + value_len);
            state.insert(key, value);
        }
        let whole = bytes.is_empty() && Offset::ZERO <= log_start && log_start <= log_end;
        whole.then_some(PartitionView { log_start, log_end, append_time, epochs, producers, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionId, ProducerId};

    fn item(kind: EntryKind, base: i64, count: u32, epoch: i32) -> EntryHeader {
        EntryHeader {
            kind,
            partition: PartitionId(1),
            base_offset: Offset(base),
            offset_count: count,
            epoch: LeaderEpoch(epoch),
            append_time: TimestampMs(1_000 + base),
            state_len: 0,
            source_len: 0,
            batch_len: 0,
        }
    }

    fn view_of(items: &[EntryHeader]) -> PartitionView {
        let mut view = PartitionView::default();
        for item in items {
            view.apply(item, &[], None).unwrap();
        }
        view
    }

    /// Goal: entries must be dense and epochs ascend; log start and truncation stay in the log.
    #[test]
    fn fold() {
        use EntryKind::{Delete, Entry, LogStart, Truncate};
        let mut view = view_of(&[
            item(Entry, 0, 10, 1),
            item(Entry, 10, 5, 1),
            item(Entry, 15, 5, 3),
            item(LogStart, 12, 0, 3),
        ]);
        assert_eq!((view.log_start, view.log_end), (Offset(12), Offset(20)));
        assert_eq!(view.epochs, [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(15))]);
        let before = view.clone();
        let refused = [
            (item(Entry, 21, 1, 3), ViewError::NotDense { expected: Offset(20), got: Offset(21) }),
            (
                item(Entry, 20, 1, 2),
                ViewError::EpochWentBack { last: LeaderEpoch(3), got: LeaderEpoch(2) },
            ),
            (item(LogStart, 21, 0, 3), ViewError::LogStart(Offset(21))),
            (item(Truncate, 11, 0, 3), ViewError::Truncate(Offset(11))),
        ];
        for (item, error) in refused {
            assert_eq!(view.apply(&item, &[], None), Err(error));
            assert_eq!(view, before);
        }
        view.apply(&item(Truncate, 15, 0, 4), &[], None).unwrap();
        assert_eq!((view.log_end, view.epoch()), (Offset(15), LeaderEpoch(1)));
        view.apply(&item(LogStart, 15, 0, 4), &[], None).unwrap();
        assert_eq!(view.epochs, [(LeaderEpoch(1), Offset(0))]);
        view.apply(&item(Delete, 0, 0, 4), &[], None).unwrap();
        assert_eq!(view, PartitionView::default());
    }

    /// Goal: a log that begins anew has the past, the state and the producers that it is given, and
    /// takes an entry of the epoch that its past ended in; what is out of order is refused.
    #[test]
    fn beginning_anew() {
        let rows = |rows: &[(i32, i64)]| -> Vec<EpochStart> {
            rows.iter().map(|&(epoch, start)| (LeaderEpoch(epoch), Offset(start))).collect()
        };
        let state = BTreeMap::from([(Bytes::from("a"), Bytes::from("1"))]);
        let begin = |start, epochs: &[(i32, i64)], state: &BTreeMap<Bytes, Bytes>| {
            let producers = ProducerTable::default();
            PartitionView::begin(Offset(start), rows(epochs), state.clone(), producers)
        };
        let mut view = begin(50, &[(1, 0), (4, 30), (5, 50)], &state).unwrap();
        assert_eq!((view.log_start, view.log_end), (Offset(50), Offset(50)));
        assert_eq!((view.epochs.clone(), &view.state), (rows(&[(1, 0), (4, 30)]), &state));
        assert_eq!(PartitionView::decode(&view.encode()).as_ref(), Some(&view));
        view.apply(&item(EntryKind::Entry, 50, 1, 4), &[], None).unwrap();
        assert_eq!(view.epochs, rows(&[(1, 0), (4, 30)]));
        assert_eq!(begin(50, &[(4, 0), (4, 30)], &state), None);
        assert_eq!(begin(50, &[(1, 30), (4, 30)], &state), None);
        assert_eq!(begin(-1, &[], &state), None);
        let long = Bytes::from(vec![0; limits::STATE_KEY_BYTES_MAX + 1]);
        assert_eq!(begin(0, &[], &BTreeMap::from([(long, Bytes::new())])), None);
    }

    /// Goal: a snapshot reads back equal; no cut and no newer version reads back at all.
    #[test]
    fn snapshot() {
        let mut view = view_of(&[item(EntryKind::Entry, 0, 4, 1)]);
        let change = |key: &'static str, value: Option<&'static str>| StateChange {
            key: Bytes::from(key),
            value: value.map(Bytes::from),
        };
        let producer = ProducerBatch { id: ProducerId(9), epoch: 0, base_sequence: 0, count: 1 };
        let changes = [change("a", Some("1")), change("b", Some("2")), change("a", None)];
        view.apply(&item(EntryKind::Entry, 4, 1, 1), &changes, Some(&producer)).unwrap();
        assert_eq!(view.state.len(), 1);
        let bytes = view.encode();
        assert_eq!(PartitionView::decode(&bytes), Some(view));
        for cut in 0..bytes.len() {
            assert_eq!(PartitionView::decode(&bytes[..cut]), None, "cut {cut}");
        }
        let mut newer = bytes.clone();
        newer[0] = VIEW_VERSION + 1;
        assert_eq!(PartitionView::decode(&newer), None);
    }
}
