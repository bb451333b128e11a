//! Notes about sealed files, so that opening need not look into each of them: what they hold, and
//! their checksum.
//!
//! Only a cache: what is missing is read from the files, and a damaged manifest is made anew. Names
//! are never used twice and sealed files never change, so an entry whose length fits is right.
//!
//! An entry's key is the file's name; its value (little-endian): `u64` first number, `u64` last
//! number, `u64` generation, `u64` time of creation, `u64` length, `u8` whether the checksum is
//! known, `u32` CRC-32C of the whole file, `i64` when it was last verified, then per partition
//! `u32` id and its summary.

use crate::db::Identity;
use crate::disk::Disk;
use crate::index::Summary;
use crate::kv::{KvError, KvStore};
use bytes::{Buf, BufMut};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use weir_core::{PartitionId, TimestampMs};

const NAME: &str = "manifest.redb";

/// What is known of a sealed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) identity: Identity,
    pub(crate) len: u64,
    /// CRC-32C of the whole file, and when it was last verified.
    pub(crate) checksum: Option<(u32, TimestampMs)>,
    pub(crate) summaries: Vec<(PartitionId, Summary)>,
}

/// A shard's notes.
#[derive(Debug)]
pub(crate) struct Manifest {
    store: KvStore,
}

impl Manifest {
    /// Opens the manifest in `dir`; one that cannot be read is replaced by an empty one.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Manifest, KvError> {
        let path = dir.join(NAME);
        let store = match KvStore::open(disk.clone(), &path) {
            Ok(store) => store,
            Err(error) => {
                tracing::warn!(%error, "the manifest is made anew");
                let io = |error| KvError::Io { path: path.clone(), error };
                disk.remove(&path).map_err(io)?;
                KvStore::open(disk.clone(), &path)?
            }
        };
        Ok(Manifest { store })
    }

    /// All notes that decode, by name.
    pub(crate) fn notes(&self, shard: u16, shards: u16) -> HashMap<String, Note> {
        let pairs = self.store.range(b"").unwrap_or_else(|error| {
            tracing::warn!(%error, "the manifest cannot be read");
            Vec::new()
        });
        let decode = |(name, note): &(Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8(name.clone()).ok()?;
            Some((name, Note::decode(note, shard, shards)?))
        };
        pairs.iter().filter_map(decode).collect()
    }

    pub(crate) fn put(&self, name: &str, note: &Note) {
        self.report(self.store.put(name.as_bytes(), &note.encode()));
    }

    pub(crate) fn remove(&self, names: &[String]) {
        let changes: Vec<_> = names.iter().map(|name| (name.as_bytes(), None)).collect();
        self.report(self.store.write(&changes));
    }

    /// A note that is missing costs time at the next start, and one that is left over is removed
    /// then.
    fn report(&self, result: Result<(), KvError>) {
        if let Err(error) = result {
            tracing::warn!(%error, "the manifest was not written");
        }
    }
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 52 * self.summaries.len());
        out.put_u64_le(self.identity.first_seq);
        out.put_u64_le(self.identity.last_seq);
        out.put_u64_le(self.identity.generation);
        out.put_u64_le(self.identity.created_ms);
        out.put_u64_le(self.len);
        let (crc, verified) = self.checksum.unwrap_or_default();
        out.put_u8(u8::from(self.checksum.is_some()));
        out.put_u32_le(crc);
        out.put_i64_le(verified.0);
        for (partition, summary) in &self.summaries {
            out.put_u32_le(partition.0);
            out.extend_from_slice(&summary.encode());
        }
        out
    }

    fn decode(mut bytes: &[u8], shard: u16, shards: u16) -> Option<Note> {
        let identity = Identity {
            shard,
            shards,
            first_seq: bytes.try_get_u64_le().ok()?,
            last_seq: bytes.try_get_u64_le().ok()?,
            generation: bytes.try_get_u64_le().ok()?,
            created_ms: bytes.try_get_u64_le().ok()?,
        };
        let len = bytes.try_get_u64_le().ok()?;
        let known = bytes.try_get_u8().ok()? == 1;
        let crc = bytes.try_get_u32_le().ok()?;
        let verified = TimestampMs(bytes.try_get_i64_le().ok()?);
        let rows = bytes.chunks(52).map(|row| {
            let (partition, summary) = row.split_first_chunk::<4>()?;
            let partition = PartitionId(u32::from_le_bytes(*partition));
            Some((partition, Summary::decode(summary)?))
        });
        Some(Note {
            identity,
            len,
            checksum: known.then_some((crc, verified)),
            summaries: rows.collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;
    use weir_core::Offset;

    fn note() -> Note {
        let summary = Summary {
            start: Offset(5),
            end: Offset(9),
            bytes: 100,
            max_timestamp: TimestampMs(-1),
            append_min: TimestampMs(1),
            append_max: TimestampMs(2),
        };
        Note {
            identity: Identity {
                shard: 0,
                shards: 1,
                first_seq: 3,
                last_seq: 4,
                generation: 1,
                created_ms: 7,
            },
            len: 4096,
            checksum: Some((99, TimestampMs(8))),
            summaries: vec![(PartitionId(1), summary), (PartitionId(2), summary)],
        }
    }

    /// Goal: notes survive reopening; a manifest full of garbage is replaced by an empty one.
    #[test]
    fn a_cache() {
        let disk = SimDisk::new(1);
        let dir = Path::new("/m");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let manifest = Manifest::open(&shared, dir).unwrap();
        manifest.put("a", &note());
        manifest.put("b", &note());
        manifest.remove(&["b".to_owned()]);
        drop(manifest);
        let manifest = Manifest::open(&shared, dir).unwrap();
        let expected = HashMap::from([("a".to_owned(), note())]);
        assert_eq!(manifest.notes(0, 1), expected);
        drop(manifest);
        for sector in 0..8 {
            disk.rot(&dir.join(NAME), sector * 512);
        }
        let manifest = Manifest::open(&shared, dir).unwrap();
        assert!(manifest.notes(0, 1).is_empty());
    }

    /// Goal: no cut of a note passes for another.
    #[test]
    fn cuts() {
        let bytes = note().encode();
        assert_eq!(Note::decode(&bytes, 0, 1), Some(note()));
        for cut in 0..bytes.len() {
            let decoded = Note::decode(&bytes[..cut], 0, 1);
            assert!(decoded.is_none_or(|n| n.summaries.len() < 2), "cut {cut}");
        }
    }
}
