//! The background thread: prepares the next active file, seals full ones, watches free space, and
//! (through `retention` and `clean`) lets go of what is no longer retained.
//!
//! Preparing and sealing are urgent: while they wait, active files grow. Long work looks at the
//! urgent tasks between its steps.

use crate::db::{DbError, Identity, Row};
use crate::file::{LogFile, file_name};
use crate::index::encode_runs;
use crate::rescue::{create_file, remove_file};
use crate::retention::ClockWatch;
use crate::shard::Shard;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a failed task waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often free space is looked at while appends are refused for lack of it.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// Something urgent to do.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Make the shard's next active file.
    Prepare(Arc<Shard>),
    /// Write a full file's index and close it.
    Seal(Arc<Shard>, Arc<LogFile>),
    /// Let appends in again once there is space.
    WatchSpace(Arc<Shard>),
}

#[derive(Debug, Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tasks: VecDeque<(Instant, Task)>,
    closing: bool,
    /// Somebody wants retention and cleaner to look now.
    kicked: bool,
    /// Somebody says that the wall clock is right.
    time_confirmed: bool,
}

impl Background {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, task: Task) {
        self.push_after(Duration::ZERO, task);
    }

    fn push_after(&self, wait: Duration, task: Task) {
        self.state().tasks.push_back((Instant::now() + wait, task));
        self.wake.notify_one();
    }

    /// See [`crate::Log::confirm_time`].
    pub(crate) fn confirm_time(&self) {
        self.state().time_confirmed = true;
        self.kick();
    }

    /// Has retention and cleaner look now.
    pub(crate) fn kick(&self) {
        self.state().kicked = true;
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.wake.notify_all();
    }

    /// The next task that is due, waiting for it until `until`.
    fn next(&self, until: Option<Instant>) -> Next {
        let mut state = self.state();
        loop {
            if state.closing {
                return Next::Close;
            }
            let now = Instant::now();
            if let Some(at) = state.tasks.iter().position(|(due, _)| *due <= now)
                && let Some((_, task)) = state.tasks.remove(at)
            {
                return Next::Task(task);
            }
            if std::mem::take(&mut state.kicked) || until.is_some_and(|until| until <= now) {
                return Next::Elapsed;
            }
            let due = state.tasks.iter().map(|(due, _)| *due).chain(until).min();
            state = match due {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let woken = self.wake.wait_timeout(state, due.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Does what is urgent, for `wait` or until the log closes. Returns whether it closes.
    pub(crate) fn pause(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            // A kick is for the round that is under way already.
            match self.next(Some(until)) {
                Next::Close => return true,
                Next::Elapsed if until <= Instant::now() => return false,
                Next::Elapsed => {}
                Next::Task(task) => self.perform(task),
            }
        }
    }

    /// The thread's body.
    pub(crate) fn run(&self, shards: &[Arc<Shard>]) {
        let mut upkeep = Upkeep::new(shards);
        loop {
            match self.next(upkeep.next_round()) {
                Next::Close => return,
                Next::Task(task) => self.perform(task),
                Next::Elapsed => {
                    let confirmed = std::mem::take(&mut self.state().time_confirmed);
                    upkeep.round(self, confirmed);
                }
            }
        }
    }

    fn perform(&self, task: Task) {
        let (shard, result) = match &task {
            Task::Prepare(shard) => (shard, prepare(shard)),
            Task::Seal(shard, file) => (shard, self.seal(shard, file)),
            Task::WatchSpace(shard) => {
                if !watch_space(shard) {
                    self.push_after(SPACE_INTERVAL, task);
                }
                return;
            }
        };
        if let Err(error) = result {
            tracing::warn!(shard = shard.id, ?task, %error, "background work failed; retrying");
            self.push_after(RETRY, task);
        }
    }

    /// Seals a full file; one that fails is replaced by a copy, which is sealed later.
    fn seal(&self, shard: &Arc<Shard>, file: &Arc<LogFile>) -> Result<(), DbError> {
        if !shard.is_listed(file) || file.is_sealed() {
            return Ok(());
        }
        let Err(error) = seal(shard, file) else {
            return Ok(());
        };
        tracing::warn!(file = %file.path.display(), %error, "sealing failed; copying the file");
        let copied = shard.copy_of_failed(file)?;
        shard.replace_full(file, &copied.file);
        remove_file(&*shard.disk, &file.path);
        self.push(Task::Seal(shard.clone(), copied.file));
        Ok(())
    }
}

enum Next {
    Task(Task),
    Elapsed,
    Close,
}

/// Retention, cleaning and scrubbing, at their intervals.
struct Upkeep<'a> {
    shards: &'a [Arc<Shard>],
    clock: ClockWatch,
    /// Whether the append times that the start found were looked at.
    times_checked: bool,
    interval: Duration,
    next: Instant,
    scrub_interval: Duration,
    next_scrub: Instant,
}

impl Upkeep<'_> {
    fn new(shards: &[Arc<Shard>]) -> Upkeep<'_> {
        let config = shards.first().map(|shard| shard.config.clone());
        let (interval, scrub_interval) = config
            .map_or((RETRY, RETRY), |config| (config.retention_interval, config.scrub_interval));
        let now = Instant::now();
        // From the start on: a clock that is set right within the first interval steps, too.
        let clock = shards.first().map_or_else(ClockWatch::default, |shard| {
            ClockWatch::begin(shard.clock.now(), shard.clock.monotonic())
        });
        Upkeep {
            shards,
            clock,
            times_checked: false,
            interval,
            next: now + interval,
            scrub_interval,
            next_scrub: now + scrub_interval,
        }
    }

    fn next_round(&self) -> Option<Instant> {
        Some(self.next.min(self.next_scrub))
    }

    /// Looks after all shards.
    fn round(&mut self, background: &Background, time_confirmed: bool) {
        // Not before: which partitions expire by age is set after the start.
        if !std::mem::replace(&mut self.times_checked, true)
            && let Some(shard) = self.shards.iter().find(|shard| shard.has_impossible_times())
        {
            self.clock.impossible_times(shard.clock.now());
        }
        if time_confirmed {
            self.clock.confirm();
        }
        let scrub = self.next_scrub <= Instant::now();
        for shard in self.shards {
            let wall = shard.clock.now();
            let trusted = self.clock.observe(wall, shard.clock.monotonic());
            shard.apply_retention(trusted.then_some(wall));
            shard.remove_dead_files();
            shard.clean(background);
            if scrub {
                shard.scrub(background);
            }
        }
        self.next = Instant::now() + self.interval;
        if scrub {
            self.next_scrub = Instant::now() + self.scrub_interval;
        }
    }
}

/// Makes the next active file, unless it is there.
fn prepare(shard: &Shard) -> Result<(), DbError> {
    // Not held while the file is made: the writer must not wait for it. Nobody else puts one in.
    let next = || shard.next.lock().unwrap_or_else(PoisonError::into_inner);
    if next().is_some() {
        return Ok(());
    }
    let last = {
        let files = shard.lock_files();
        files.values().map(|file| file.identity.last_seq).max()
    };
    let seq = last.map_or(1, |last| last + 1);
    let identity = Identity {
        shard: shard.id,
        shards: shard.shards,
        first_seq: seq,
        last_seq: seq,
        generation: 0,
        created_ms: shard.clock.now().0.max(0) as u64,
    };
    let path = shard.dir.join(file_name(seq, 0));
    let cache = shard.config.active_cache_bytes;
    // It gets its name when it is begun: until then a start need not look into it.
    let db = create_file(&*shard.disk, &path, &shard.counters, cache, &identity)?;
    *next() = Some(Arc::new(LogFile::new(path, identity, false).with_db(db)));
    Ok(())
}

/// Writes a full file's index and summaries and closes it.
fn seal(shard: &Shard, file: &Arc<LogFile>) -> Result<(), DbError> {
    let mut held = Vec::new();
    for (&partition, places) in shard.read_index().iter() {
        let segment = places.segments.iter().find(|s| Arc::ptr_eq(&s.file, file));
        if let Some(segment) = segment
            && let Some(runs) = &segment.runs
        {
            held.push((partition, segment.summary, encode_runs(runs)));
        }
    }
    held.sort_unstable_by_key(|row| row.0);
    let summaries: Vec<Row> = held.iter().map(|row| (row.0.0, row.1.encode())).collect();
    let notes = held.iter().map(|row| (row.0, row.1)).collect();
    let index: Vec<Row> = held.into_iter().map(|row| (row.0.0, row.2)).collect();
    let sealed = file.try_with(|db| db.seal(&summaries, &index));
    sealed.unwrap_or(Err(DbError::Malformed("the file is not open")))?;
    file.close_sealed()?;
    for places in shard.write_index().values_mut() {
        for segment in &mut places.segments {
            if Arc::ptr_eq(&segment.file, file) {
                segment.runs = None;
            }
        }
    }
    shard.note_sealed(file, notes);
    Ok(())
}

/// Whether there is space again.
fn watch_space(shard: &Shard) -> bool {
    let free = shard.disk.free_bytes(&shard.dir);
    // A little more than the reserve, so that appends are not let in and out in turns.
    let wanted = shard.config.reserve_bytes + shard.config.reserve_bytes / 8;
    let there = free.is_ok_and(|free| free >= wanted);
    if there {
        tracing::info!(shard = shard.id, "there is space again: appends are let in");
        shard.queue.set_disk_full(false);
    }
    there || shard.queue.is_closing()
}
