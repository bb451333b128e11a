//! After a failed write: bringing the active file's content to safety.
//!
//! A sync that failed may have lost pages that the kernel now calls clean, so the file is never
//! written again and its cached pages are dropped. What the disk really holds of it is copied into
//! a new file that replaces it: everything acknowledged, and the last commit if it is whole.

use crate::backend::IoCounters;
use crate::db::{Commit, DbError, FileDb, Identity, ROW_MAX, failed};
use crate::disk::Disk;
use crate::file::{LogFile, file_name, open_untouched};
use crate::index::{Bounds, Run, Segment, Summary};
use crate::replay::{Replayed, replay};
use crate::shard::{Shard, drop_contained};
use crate::writer::{Active, Views, Writer};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_core::PartitionId;

/// Bytes of the stream copied per commit.
const COPY_BYTES: u64 = 4 * 1024 * 1024;

impl Writer {
    /// Replaces the active file by a copy of what the disk holds of it.
    ///
    /// Nothing changes unless it succeeds; it may be tried again.
    pub(crate) fn rescue(&mut self) -> Result<(), DbError> {
        let shard = self.shard.clone();
        let old = self.active.file.clone();
        let copied = shard.copy_of_failed(&old)?;
        let begun = copied.replayed.is_some();
        let replayed = copied
            .replayed
            .unwrap_or_else(|| Replayed { views: self.views.clone(), ..Replayed::default() });
        if replayed.end < self.active.durable || (self.active.begun && !begun) {
            remove_file(&*shard.disk, &copied.file.path);
            return Err(DbError::Malformed("acknowledged entries are missing"));
        }
        shard.replace_active(&old, &copied.file, &replayed);
        let end = replayed.end;
        self.active = Active { file: copied.file, position: end, durable: end, begun };
        shard.note_active(&self.active);
        self.views = replayed.views;
        remove_file(&*shard.disk, &old.path);
        Ok(())
    }
}

/// A copy of a file that failed.
pub(crate) struct Copied {
    pub(crate) file: Arc<LogFile>,
    /// What it holds; `None` if the file was not begun.
    pub(crate) replayed: Option<Replayed>,
}

impl Shard {
    /// Copies what the disk holds of an unsealed file into a new one of the next generation. The
    /// old file is closed without another write.
    pub(crate) fn copy_of_failed(&self, old: &LogFile) -> Result<Copied, DbError> {
        if let Some(db) = old.take() {
            db.fence();
            drop_contained(db);
        }
        let cache = self.config.active_cache_bytes;
        let source = open_untouched(&*self.disk, &old.path, &self.counters, cache)?;
        let replayed = match source.is_begun()? {
            true => Some(replay(&source)?),
            false => None,
        };
        let identity = Identity { generation: old.identity.generation + 1, ..old.identity };
        let name = file_name(identity.first_seq, identity.generation);
        let path = self.dir.join(name);
        let db = create_file(&*self.disk, &path, &self.counters, cache, &identity)?;
        if let Some(replayed) = &replayed {
            copy(&source, &db, replayed.end)?;
        }
        drop_contained(source);
        finish_file(&*self.disk, &path)?;
        let file = Arc::new(LogFile::new(path, identity, false).with_db(db));
        Ok(Copied { file, replayed })
    }

    fn replace_active(&self, old: &Arc<LogFile>, new: &Arc<LogFile>, replayed: &Replayed) {
        self.lock_files().insert(new.identity.first_seq, new.clone());
        let mut index = self.write_index();
        for places in index.values_mut() {
            places.segments.retain(|segment| !Arc::ptr_eq(&segment.file, old));
        }
        let (views, runs) = (&replayed.views, &replayed.runs);
        index_unsealed(&mut index, new, runs, views);
        index.retain(|partition, _| views.contains_key(partition));
        index_views(&mut index, views);
    }

    /// Puts a byte for byte copy of a full file in its place.
    pub(crate) fn replace_full(&self, old: &Arc<LogFile>, new: &Arc<LogFile>) {
        self.lock_files().insert(new.identity.first_seq, new.clone());
        for places in self.write_index().values_mut() {
            for segment in &mut places.segments {
                if Arc::ptr_eq(&segment.file, old) {
                    segment.file = new.clone();
                }
            }
        }
    }
}

/// Adds the runs of an unsealed file for the partitions that are alive.
pub(crate) fn index_unsealed(
    index: &mut crate::index::Index,
    file: &Arc<LogFile>,
    runs: &HashMap<PartitionId, Vec<Run>>,
    views: &Views,
) {
    for (partition, runs) in runs {
        if let Some(summary) = Summary::of(runs)
            && views.contains_key(partition)
        {
            index.entry(*partition).or_default().adopt(Segment {
                file: file.clone(),
                summary,
                runs: Some(runs.clone()),
            });
        }
    }
}

/// Sets what the views say of each partition's bounds.
pub(crate) fn index_views(index: &mut crate::index::Index, views: &Views) {
    for (&partition, view) in views {
        index.entry(partition).or_default().cut(&Bounds::of(view));
    }
}

/// Copies a begun file's stream, snapshot and cuts. The copy counts as begun only once it is whole.
fn copy(source: &FileDb, target: &FileDb, end: u64) -> Result<(), DbError> {
    let mut position = 0;
    let mut bytes = Vec::new();
    while position < end {
        let to = (position + COPY_BYTES).min(end);
        bytes.clear();
        source.read_stream(position, to, &mut bytes)?;
        let (parts, snapshot): (&[&[u8]], _) = (&[&bytes], None);
        target.commit(&Commit { position, parts, row_max: ROW_MAX, snapshot, cuts: &[] })?;
        position = to;
    }
    target.commit(&Commit {
        position,
        parts: &[],
        row_max: ROW_MAX,
        snapshot: Some(&source.snapshot()?),
        cuts: &source.cuts()?,
    })
}

/// What the name of a file ends with until it is complete.
pub(crate) const UNFINISHED: &str = ".new";

pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Makes a new log file that is to be called `path`, under a name that says it is not finished.
/// What a crash leaves of it is removed at the next start.
pub(crate) fn create_file(
    disk: &dyn Disk,
    path: &Path,
    counters: &Arc<IoCounters>,
    cache_bytes: usize,
    identity: &Identity,
) -> Result<FileDb, DbError> {
    let path = unfinished(path);
    // What an earlier attempt left is not written over: its pages may be in an unknown state.
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = disk.create(&path).map_err(failed)?;
    FileDb::create(file, counters, cache_bytes, identity)
}

/// Gives a complete file its name, durably.
pub(crate) fn finish_file(disk: &dyn Disk, path: &Path) -> Result<(), DbError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.rename(&unfinished(path), path).map_err(failed)?;
    disk.sync_dir(dir).map_err(failed)
}

/// Removes a file that another one replaces. If that fails, the next start tries again.
pub(crate) fn remove_file(disk: &dyn Disk, path: &Path) {
    let dir = path.parent().unwrap_or(Path::new("."));
    if let Err(error) = disk.remove(path).and_then(|()| disk.sync_dir(dir)) {
        tracing::warn!(file = %path.display(), %error, "cannot remove a replaced log file");
    }
}
