//! The views that hold from a cut on, in the file that has the cut.
//!
//! Table `cuts`: the key is the partition and the position of the item in the stream, the value a
//! `u32` CRC-32C over partition, position and view (little-endian), and then the view, as in
//! `snapshot`. A row is written in the transaction of its item. A file with such rows has format 2:
//! an older version of this program would pass over them, and take the view before the cut for the
//! one after it.

use crate::db::{DbError, FileDb, META, failed};
use redb::{ReadableTable, TableDefinition, TableError, WriteTransaction};
use weir_core::PartitionId;
use weir_core::partition::view::PartitionView;

/// The format of a file with cuts.
pub(crate) const FORMAT_WITH_CUTS: u64 = 2;

const CUTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("cuts");

/// What holds from an item on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CutRow {
    pub(crate) partition: PartitionId,
    /// Where in the stream the item begins.
    pub(crate) position: u64,
    /// The view from there on, encoded.
    pub(crate) view: Vec<u8>,
}

impl CutRow {
    fn crc(&self) -> u32 {
        let crc = crc32c::crc32c(&self.partition.0.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.position.to_le_bytes());
        crc32c::crc32c_append(crc, &self.view)
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(4 + self.view.len());
        value.extend_from_slice(&self.crc().to_le_bytes());
        value.extend_from_slice(&self.view);
        value
    }

    fn decode(partition: PartitionId, position: u64, value: &[u8]) -> Result<CutRow, DbError> {
        let damaged = || DbError::Malformed("the view at a cut is damaged");
        let (crc, view) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
        let row = CutRow { partition, position, view: view.to_vec() };
        match row.crc() == u32::from_le_bytes(*crc) {
            true => Ok(row),
            false => Err(damaged()),
        }
    }
}

/// Writes rows, and with the first one the format that says so.
pub(crate) fn put_cuts(txn: &WriteTransaction, rows: &[CutRow]) -> Result<(), DbError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(CUTS).map_err(failed)?;
    for row in rows {
        let key = (row.partition.0, row.position);
        table.insert(key, row.encode().as_slice()).map_err(failed)?;
    }
    let mut meta = txn.open_table(META).map_err(failed)?;
    meta.insert("format", FORMAT_WITH_CUTS).map_err(failed)?;
    Ok(())
}

impl FileDb {
    /// The view from the cut at `position` on. `None` for an item of a time when cuts had none.
    pub(crate) fn view_at_cut(
        &self,
        partition: PartitionId,
        position: u64,
    ) -> Result<Option<PartitionView>, DbError> {
        let row = self.read(|txn| {
            let table = match txn.open_table(CUTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other.map_err(failed)?,
            };
            let value = table.get((partition.0, position)).map_err(failed)?;
            let value = value.ok_or(DbError::Malformed("the view at a cut is missing"))?;
            Ok(Some(CutRow::decode(partition, position, value.value())?))
        })?;
        let decode = |row: CutRow| {
            PartitionView::decode(&row.view)
                .ok_or(DbError::Malformed("the view at a cut does not decode"))
        };
        row.map(decode).transpose()
    }

    /// All of them.
    pub(crate) fn cuts(&self) -> Result<Vec<CutRow>, DbError> {
        self.read(|txn| {
            let table = match txn.open_table(CUTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other.map_err(failed)?,
            };
            let rows = table.iter().map_err(failed)?.map(|row| {
                let (key, value) = row.map_err(failed)?;
                let (partition, position) = key.value();
                CutRow::decode(PartitionId(partition), position, value.value())
            });
            rows.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Commit, Identity, ROW_MAX};
    use crate::disk::Disk;
    use crate::log::control;
    use crate::replay::replay;
    use crate::sim::SimDisk;
    use std::path::Path;
    use std::sync::Arc;
    use weir_core::Offset;
    use weir_core::entry::{ENTRY_HEADER_BYTES, EntryKind};

    /// Goal: an item takes its view from the file; without one it moves the end only, as before
    /// there were any; and one that lost its view is not passed over.
    #[test]
    fn items_have_their_views() {
        let (p, disk) = (PartitionId(7), SimDisk::new(1));
        let identity = Identity {
            shard: 0,
            shards: 1,
            first_seq: 1,
            last_seq: 1,
            generation: 0,
            created_ms: 0,
        };
        let file = disk.create(Path::new("/f")).unwrap();
        let db = FileDb::create(file, &Arc::default(), 1 << 20, &identity).unwrap();
        let item = |end| control(EntryKind::Truncate, p, Offset(end)).header.encode(&[], &[]);
        let before = PartitionView { log_end: Offset(9), ..PartitionView::default() };
        let snapshot = [(p.0, before.encode().to_vec())];
        let commit = |position, end, snapshot, cuts: &[CutRow]| {
            let item = item(end);
            db.commit(&Commit { position, parts: &[&item], row_max: ROW_MAX, snapshot, cuts })
        };
        commit(0, 5, Some(&snapshot[..]), &[]).unwrap();
        assert_eq!(replay(&db).unwrap().views[&p].log_end, Offset(5));
        let begun = PartitionView {
            log_start: Offset(70),
            log_end: Offset(70),
            ..PartitionView::default()
        };
        let row = |position| vec![CutRow { partition: p, position, view: begun.encode().to_vec() }];
        // A program that knows no cuts can read the file up to here.
        let at = ENTRY_HEADER_BYTES as u64;
        let format = |db: &FileDb| {
            db.read(|txn| {
                let meta = txn.open_table(META).map_err(failed)?;
                Ok(meta.get("format").map_err(failed)?.map(|value| value.value()))
            })
        };
        assert_eq!(format(&db), Ok(Some(1)));
        let rows = row(at);
        commit(at, 70, None, &rows).unwrap();
        assert_eq!(format(&db), Ok(Some(FORMAT_WITH_CUTS)));
        assert_eq!(db.cuts(), Ok(rows));
        assert_eq!(db.view_at_cut(p, at), Ok(Some(begun.clone())));
        // The first item has no view, and now it would have to.
        assert!(replay(&db).is_err());
        commit(2 * at, 71, None, &row(0)).unwrap();
        assert!(replay(&db).is_err(), "the view is of another cut");
    }

    /// Goal: a row reads back under its own key only, and a changed byte is seen.
    #[test]
    fn rows_are_checked() {
        let (p, view) = (PartitionId(7), PartitionView::default().encode().to_vec());
        let row = CutRow { partition: p, position: 4_096, view };
        let value = row.encode();
        assert_eq!(CutRow::decode(p, 4_096, &value), Ok(row));
        assert!(CutRow::decode(p, 4_097, &value).is_err());
        assert!(CutRow::decode(PartitionId(8), 4_096, &value).is_err());
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 1;
            assert!(CutRow::decode(p, 4_096, &flipped).is_err(), "byte {at}");
            assert!(CutRow::decode(p, 4_096, &value[..at]).is_err(), "cut {at}");
        }
    }
}
