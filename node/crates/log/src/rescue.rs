//! After a failed write: bringing the active file's content to safety.
//!
//! A sync that failed may have lost pages that the kernel now calls clean, so the file is never
//! written again and its cached pages are dropped. What the disk really holds of it is copied into
//! a new file that replaces it: everything acknowledged, and the last commit if it is whole.

use crate::backend::IoCounters;
use crate::db::{Commit, DbError, FileDb, Identity, ROW_MAX, failed};
use crate::disk::Disk;
use crate::file::{LogFile, file_name, open_untouched};
use crate::index::{Run, Segment, Summary};
use crate::replay::{Replayed, replay};
use crate::shard::{Shard, drop_contained};
use crate::writer::{Active, Views, Writer};
use std::collections::HashMap;
use std::path::Path;
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
        if let Some(db) = old.take() {
            db.fence();
            drop_contained(db);
        }
        let cache = shard.config.active_cache_bytes;
        let source = open_untouched(&*shard.disk, &old.path, &shard.counters, cache)?;
        let begun = source.is_begun()?;
        let replayed = match begun {
            true => replay(&source)?,
            false => Replayed { views: self.views.clone(), ..Replayed::default() },
        };
        if replayed.end < self.active.position || (self.active.begun && !begun) {
            return Err(DbError::Malformed("acknowledged entries are missing"));
        }
        let identity = Identity { generation: old.identity.generation + 1, ..old.identity };
        let path = shard.dir.join(file_name(identity.first_seq, identity.generation));
        let db = create_file(&*shard.disk, &path, &shard.counters, cache, &identity)?;
        if begun {
            copy(&source, &db, replayed.end)?;
        }
        drop_contained(source);
        let file = Arc::new(LogFile::new(path, identity, false).with_db(db));
        shard.replace_active(&old, &file, &replayed);
        self.active = Active { file, position: replayed.end, begun };
        self.views = replayed.views;
        remove_file(&*shard.disk, &old.path);
        Ok(())
    }
}

impl Shard {
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
        let places = index.entry(partition).or_default();
        if places.segments.last().is_some_and(|s| s.summary.end > view.log_end) {
            places.truncate(view.log_end);
        }
        places.end = view.log_end;
        places.append_time = view.append_time;
        places.advance_start(view.log_start);
    }
}

/// Copies a begun file's stream and snapshot. The copy counts as begun only once it is whole.
fn copy(source: &FileDb, target: &FileDb, end: u64) -> Result<(), DbError> {
    let mut position = 0;
    let mut bytes = Vec::new();
    while position < end {
        let to = (position + COPY_BYTES).min(end);
        bytes.clear();
        source.read_stream(position, to, &mut bytes)?;
        target.commit(&Commit { position, parts: &[&bytes], row_max: ROW_MAX, snapshot: None })?;
        position = to;
    }
    target.commit(&Commit {
        position,
        parts: &[],
        row_max: ROW_MAX,
        snapshot: Some(&source.snapshot()?),
    })
}

/// Makes a new log file, its name included, durable.
pub(crate) fn create_file(
    disk: &dyn Disk,
    path: &Path,
    counters: &Arc<IoCounters>,
    cache_bytes: usize,
    identity: &Identity,
) -> Result<FileDb, DbError> {
    let file = disk.create(path).map_err(failed)?;
    let db = FileDb::create(file, counters, cache_bytes, identity)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(failed)?;
    Ok(db)
}

/// Removes a file that another one replaces. If that fails, the next start tries again.
pub(crate) fn remove_file(disk: &dyn Disk, path: &Path) {
    let dir = path.parent().unwrap_or(Path::new("."));
    if let Err(error) = disk.remove(path).and_then(|()| disk.sync_dir(dir)) {
        tracing::warn!(file = %path.display(), %error, "cannot remove a replaced log file");
    }
}
