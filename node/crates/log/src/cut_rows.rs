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
