//! Opening a shard: which files count, what they hold, and what the newest one says of the
//! partitions.
//!
//! Only the newest file is replayed, and one before it if it was not sealed yet: opening is bounded
//! by the size of a file, not of the log. Sealed files tell what they hold in their summaries.

use crate::api::OpenError;
use crate::backend::IoCounters;
use crate::config::LogConfig;
use crate::db::{DbError, FORMAT_VERSION, FileDb, Identity, Row};
use crate::disk::Disk;
use crate::file::{LogFile, file_name, parse_file_name};
use crate::index::{Index, Segment, Summary};
use crate::manifest::Note;
use crate::replay::{Replayed, replay};
use crate::rescue::{
    UNFINISHED, create_file, finish_file, index_unsealed, index_views, remove_file,
};
use crate::shard::drop_contained;
use crate::witness::Acknowledged;
use crate::writer::{Active, Views};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_core::PartitionId;

/// What a shard's folder holds.
pub(crate) struct Recovered {
    pub(crate) files: BTreeMap<u64, Arc<LogFile>>,
    pub(crate) index: Index,
    pub(crate) views: Views,
    pub(crate) active: Active,
    /// Files that are full but were not sealed before the end came.
    pub(crate) unsealed: Vec<Arc<LogFile>>,
    /// Why the newest file cannot be written, if so.
    pub(crate) damage: Option<String>,
    /// Names in the manifest that stand for no file.
    pub(crate) stale_notes: Vec<String>,
}

/// What is known of a file's content.
enum Held {
    Summaries(Vec<(PartitionId, Summary)>),
    Runs(Replayed),
    Nothing,
}

/// What recovery works with.
pub(crate) struct Recovery<'a> {
    pub(crate) shard: u16,
    pub(crate) shards: u16,
    pub(crate) dir: &'a Path,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) counters: &'a Arc<IoCounters>,
    pub(crate) config: &'a LogConfig,
    /// What the manifest says of sealed files, by name.
    pub(crate) notes: HashMap<String, Note>,
    pub(crate) now_ms: u64,
    /// What the witness says was acknowledged.
    pub(crate) acknowledged: Option<Acknowledged>,
}

/// Of a file that holds less than was acknowledged: redb takes a damaged newest commit for one that
/// a crash cut off.
const MISSING: DbError = DbError::Malformed("its newest commit is damaged");

/// A file that counts.
struct Found {
    path: PathBuf,
    identity: Identity,
    content: Content,
}

enum Content {
    Sealed(Vec<(PartitionId, Summary)>),
    Unsealed(FileDb),
    /// Cannot be read: what it holds is lost until somebody repairs it.
    Damaged(DbError),
}

impl Recovery<'_> {
    pub(crate) fn run(&self) -> Result<Recovered, OpenError> {
        let create = self.disk.create_dir(self.dir);
        create.map_err(|error| self.io(self.dir, error))?;
        let names = self.disk.list(self.dir);
        let names = names.map_err(|error| self.io(self.dir, error))?;
        for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
            remove_file(self.disk, &self.dir.join(name));
        }
        let mut numbers: Vec<_> = names.iter().filter_map(|n| parse_file_name(n)).collect();
        numbers.sort_unstable();
        let mut found = Vec::new();
        for &(seq, generation) in &numbers {
            found.extend(self.look_at(seq, generation)?);
        }
        let found = self.drop_superseded(found);
        let mut recovered = self.assemble(found)?;
        let names: HashSet<String> = recovered.files.values().map(|file| file.name()).collect();
        let stale = self.notes.keys().filter(|name| !names.contains(*name));
        recovered.stale_notes = stale.cloned().collect();
        Ok(recovered)
    }

    /// Opens a file as far as needed to tell what it is. `None` for one whose making was cut short:
    /// it is removed.
    fn look_at(&self, seq: u64, generation: u64) -> Result<Option<Found>, OpenError> {
        let path = self.dir.join(file_name(seq, generation));
        match self.classify(&path) {
            Ok(Some(found)) => {
                let identity = &found.identity;
                let fits = identity.shard == self.shard
                    && identity.shards == self.shards
                    && (identity.first_seq, identity.generation) == (seq, generation);
                if !fits {
                    let reason = "it belongs to another folder or has another name".to_owned();
                    return Err(OpenError::Damaged { path, reason });
                }
                Ok(Some(found))
            }
            Ok(None) if self.lacks(seq, 0) => {
                Ok(Some(self.damaged(path, seq, generation, MISSING)))
            }
            Ok(None) => {
                remove_file(self.disk, &path);
                Ok(None)
            }
            Err(DbError::NewerVersion(found)) => Err(OpenError::NewerVersion {
                path,
                found: u32::try_from(found).unwrap_or(u32::MAX),
                known: FORMAT_VERSION as u32,
            }),
            Err(error) => Ok(Some(self.damaged(path, seq, generation, error))),
        }
    }

    fn damaged(&self, path: PathBuf, seq: u64, generation: u64, error: DbError) -> Found {
        let identity = Identity {
            shard: self.shard,
            shards: self.shards,
            first_seq: seq,
            last_seq: seq,
            generation,
            created_ms: 0,
        };
        Found { path, identity, content: Content::Damaged(error) }
    }

    /// Whether a file whose stream ends at `end` lacks what was acknowledged.
    fn lacks(&self, seq: u64, end: u64) -> bool {
        self.acknowledged.is_some_and(|known| known.seq == seq && end < known.end)
    }

    fn classify(&self, path: &Path) -> Result<Option<Found>, DbError> {
        let open = || self.disk.open(path).map_err(crate::db::failed);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(note) = self.notes.get(&*name)
            && open()?.len().map_err(crate::db::failed)? == note.len
        {
            let content = Content::Sealed(note.summaries.clone());
            return Ok(Some(found(path, note.identity, content)));
        }
        let cache = self.config.sealed_cache_bytes;
        let clean = FileDb::open_read_only(open()?, self.counters, cache);
        if let Ok(db) = clean {
            let Some(identity) = begun_identity(&db)? else {
                // Nothing but a page that rotted may make it look so: then this fails.
                drop_contained(db);
                FileDb::open_verified(open()?, self.counters, cache)?;
                return Ok(None);
            };
            if db.is_sealed()? {
                let content = Content::Sealed(decode_summaries(&db.summaries()?)?);
                return Ok(Some(found(path, identity, content)));
            }
            db.close()?;
        }
        // Not closed cleanly, or not sealed: it will be written.
        let cache = self.config.active_cache_bytes;
        let file = open()?;
        // A sync may have failed before the process ended: what the system caches may be a lie.
        file.drop_cached().map_err(crate::db::failed)?;
        let db = FileDb::open_writable(file, self.counters, cache)?;
        let Some(identity) = begun_identity(&db)? else {
            return Ok(None);
        };
        let content = match db.is_sealed()? {
            true => {
                let summaries = decode_summaries(&db.summaries()?)?;
                db.close()?;
                Content::Sealed(summaries)
            }
            false => Content::Unsealed(db),
        };
        Ok(Some(found(path, identity, content)))
    }

    /// Removes files that a later generation stands for.
    fn drop_superseded(&self, mut found: Vec<Found>) -> Vec<Found> {
        let ranges: Vec<Identity> = found
            .iter()
            .filter(|file| !matches!(file.content, Content::Damaged(_)))
            .map(|file| file.identity)
            .collect();
        found.retain(|file| {
            let old = &file.identity;
            let superseded = ranges.iter().any(|new| {
                new.generation > old.generation
                    && new.first_seq <= old.first_seq
                    && old.last_seq <= new.last_seq
            });
            if superseded {
                remove_file(self.disk, &file.path);
            }
            !superseded
        });
        // One that cannot be read yields to what it was made from or replaced by.
        found.retain(|file| {
            let covered = ranges.iter().any(|other| {
                other.first_seq <= file.identity.first_seq
                    && file.identity.last_seq <= other.last_seq
            });
            let damaged = matches!(file.content, Content::Damaged(_));
            if damaged && covered {
                tracing::error!(file = %file.path.display(), "a damaged file is left aside");
            }
            !(damaged && covered)
        });
        found.sort_by_key(|file| file.identity.first_seq);
        found
    }

    fn assemble(&self, found: Vec<Found>) -> Result<Recovered, OpenError> {
        let mut files = Vec::new();
        let mut newest = None;
        let last_seq = found.last().map_or(0, |file| file.identity.last_seq);
        for file in found {
            let (file, held) = self.load(file);
            if let Held::Runs(replayed) = &held {
                newest = Some((file.clone(), replayed.end));
            }
            files.push((file, held));
        }
        let views = self.newest_views(&files);
        let damaged = files.last().filter(|(_, held)| matches!(held, Held::Nothing));
        let damage = damaged.map(|(file, _)| {
            let error = file.quarantined().map_or_else(String::new, |e| e.to_string());
            format!("{}: {error}", file.name())
        });
        let active = match (files.last(), newest) {
            (Some((last, Held::Nothing)), _) => {
                // What can be made out of it must not pass for all of it.
                let known = self.acknowledged.filter(|known| known.seq == last.identity.first_seq);
                let durable = known.map_or(0, |known| known.end);
                Active { file: last.clone(), position: durable, durable, begun: true }
            }
            (Some((last, _)), Some((file, position))) if Arc::ptr_eq(last, &file) => {
                Active { file, position, durable: position, begun: true }
            }
            _ => self.new_active(last_seq + 1)?,
        };
        let mut unsealed = Vec::new();
        let mut index = Index::new();
        for (file, held) in &files {
            match held {
                Held::Summaries(rows) => index_sealed(&mut index, file, rows, &views),
                Held::Runs(replayed) => {
                    index_unsealed(&mut index, file, &replayed.runs, &views);
                    if !Arc::ptr_eq(file, &active.file) {
                        unsealed.push(file.clone());
                    }
                }
                Held::Nothing => {}
            }
        }
        index_views(&mut index, &views);
        let files = files.into_iter().map(|(file, _)| file);
        let mut files: BTreeMap<_, _> = files.map(|f| (f.identity.first_seq, f)).collect();
        files.insert(active.file.identity.first_seq, active.file.clone());
        Ok(Recovered { files, index, views, active, unsealed, damage, stale_notes: Vec::new() })
    }

    /// What a file holds. One that cannot be read is quarantined.
    fn load(&self, found: Found) -> (Arc<LogFile>, Held) {
        let sealed = !matches!(found.content, Content::Unsealed(_));
        let file = LogFile::new(found.path, found.identity, sealed);
        let (file, error) = match found.content {
            Content::Sealed(rows) => return (Arc::new(file), Held::Summaries(rows)),
            Content::Unsealed(db) => match replay(&db) {
                Ok(replayed) if !self.lacks(file.identity.first_seq, replayed.end) => {
                    return (Arc::new(file.with_db(db)), Held::Runs(replayed));
                }
                read => {
                    db.fence();
                    drop_contained(db);
                    (file, read.err().unwrap_or(MISSING))
                }
            },
            Content::Damaged(error) => (file, error),
        };
        file.quarantine(&error);
        (Arc::new(file), Held::Nothing)
    }

    /// The views as of the newest file that can be read.
    fn newest_views(&self, files: &[(Arc<LogFile>, Held)]) -> Views {
        for (file, held) in files.iter().rev() {
            match held {
                Held::Runs(replayed) => return replayed.views.clone(),
                Held::Summaries(_) => {
                    let cache = self.config.sealed_cache_bytes;
                    let opened = file.open_read_only(self.disk, self.counters, cache);
                    let replayed = opened.and_then(|_| match file.try_with(replay) {
                        Some(replayed) => replayed,
                        None => Err(DbError::Malformed("the file is closed")),
                    });
                    match replayed {
                        Ok(replayed) => return replayed.views,
                        Err(error) => file.quarantine(&error),
                    }
                }
                Held::Nothing => {}
            }
        }
        Views::new()
    }

    fn new_active(&self, seq: u64) -> Result<Active, OpenError> {
        let identity = Identity {
            shard: self.shard,
            shards: self.shards,
            first_seq: seq,
            last_seq: seq,
            generation: 0,
            created_ms: self.now_ms,
        };
        let path = self.dir.join(file_name(seq, 0));
        let cache = self.config.active_cache_bytes;
        let db = create_file(self.disk, &path, self.counters, cache, &identity);
        let db = db.and_then(|db| finish_file(self.disk, &path).map(|()| db));
        let db = db.map_err(|error| OpenError::Io {
            path: path.clone(),
            error: io::Error::other(error.to_string()),
        })?;
        Ok(Active {
            file: Arc::new(LogFile::new(path, identity, false).with_db(db)),
            position: 0,
            durable: 0,
            begun: false,
        })
    }

    fn io(&self, path: &Path, error: io::Error) -> OpenError {
        OpenError::Io { path: path.to_owned(), error }
    }
}

/// What a file says of itself, if anything was committed to it after its creation.
fn begun_identity(db: &FileDb) -> Result<Option<Identity>, DbError> {
    let identity = db.identity()?;
    Ok(if db.is_begun()? { identity } else { None })
}

fn found(path: &Path, identity: Identity, content: Content) -> Found {
    Found { path: path.to_owned(), identity, content }
}

fn decode_summaries(rows: &[Row]) -> Result<Vec<(PartitionId, Summary)>, DbError> {
    let decode = |(partition, bytes): &Row| {
        let summary = Summary::decode(bytes);
        let summary = summary.ok_or(DbError::Malformed("a summary does not decode"))?;
        Ok((PartitionId(*partition), summary))
    };
    rows.iter().map(decode).collect()
}

fn index_sealed(
    index: &mut Index,
    file: &Arc<LogFile>,
    rows: &[(PartitionId, Summary)],
    views: &Views,
) {
    for &(partition, summary) in rows {
        if views.contains_key(&partition) {
            index.entry(partition).or_default().adopt(Segment {
                file: file.clone(),
                summary,
                runs: None,
            });
        }
    }
}
