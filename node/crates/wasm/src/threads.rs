//! Threads for guests. None of them is the network's: a guest that computes holds up its own thread
//! for at most a tick, and then the next guest on that thread goes on.

use crate::error::GuestError;
use crate::migrate::Entries;
use crate::worker::{Checked, Deployment, Filtered, Transformed, Work, Worker};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use weir_core::record::Records;

/// Workers that wait to be taken up by a thread.
const STARTS_MAX: usize = 1_024;

/// Names that are resolved at a time, for each thread.
const RESOLVERS_MAX: usize = 4;

type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The guests' threads are gone: the node is shutting down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("modules are not run any more: the node is shutting down")]
pub struct Stopped;

/// Some threads that run guests, in turn.
pub struct GuestThreads {
    threads: Vec<GuestThread>,
    next: AtomicUsize,
}

struct GuestThread {
    tasks: Option<mpsc::Sender<Task>>,
    handle: Option<JoinHandle<()>>,
}

impl GuestThreads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(count: usize) -> io::Result<GuestThreads> {
        let threads = (0..count.max(1)).map(GuestThread::start).collect::<io::Result<_>>()?;
        Ok(GuestThreads { threads, next: AtomicUsize::new(0) })
    }

    /// Runs `deployment` for one partition, until the runner is dropped.
    ///
    /// # Errors
    /// If the threads are shutting down, or a thousand others wait to be started.
    pub fn run(&self, deployment: Deployment) -> Result<Runner, Stopped> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(1);
        let task: Task = Box::new(move || {
            Box::pin(async move {
                let mut worker = Worker::new(deployment);
                while let Some(job) = inbox.recv().await {
                    job.run(&mut worker).await;
                }
            })
        });
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        let tasks = self.threads[at].tasks.as_ref().ok_or(Stopped)?;
        tasks.try_send(task).map_err(|_| Stopped)?;
        Ok(Runner { jobs })
    }
}

impl GuestThread {
    fn start(number: usize) -> io::Result<GuestThread> {
        let (tasks, mut inbox) = mpsc::channel::<Task>(STARTS_MAX);
        // With input and output, and names that are resolved: modules may wait for servers.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVERS_MAX)
            .build()?;
        let builder = std::thread::Builder::new().name(format!("guest-{number}"));
        let handle = builder.spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                while let Some(task) = inbox.recv().await {
                    tokio::task::spawn_local(task());
                }
            });
            // Workers that are left are dropped with the set: what they were at has had no effect.
        })?;
        Ok(GuestThread { tasks: Some(tasks), handle: Some(handle) })
    }
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(handle) = self.handle.take() {
            // It only fails where it panicked, which has been logged.
            let _ = handle.join();
        }
    }
}

/// One deployment in one partition, running on a thread for guests. Batches are taken one at a
/// time; further ones wait with their callers.
#[derive(Clone, Debug)]
pub struct Runner {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Filter(Records, oneshot::Sender<Filtered>),
    Process(Box<WorkJob>),
    Check(Records, oneshot::Sender<Checked>),
    Migrate(u32, Entries, oneshot::Sender<Result<Entries, GuestError>>),
}

struct WorkJob {
    work: Work,
    reply: oneshot::Sender<Transformed>,
}

impl std::fmt::Debug for WorkJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkJob").field("records", &self.work.records).finish_non_exhaustive()
    }
}

impl Job {
    /// Does it. Whoever asked may have gone, then nobody is told.
    async fn run(self, worker: &mut Worker) {
        match self {
            Job::Filter(records, reply) => {
                let _ = reply.send(worker.filter(&records).await);
            }
            Job::Process(job) => {
                let WorkJob { work, mut reply } = *job;
                let made = tokio::select! {
                    biased;
                    made = worker.process(&work) => made,
                    // Nobody wants it any more: what the module waits for is given up.
                    () = reply.closed() => return,
                };
                let _ = reply.send(made);
            }
            Job::Check(records, reply) => {
                let _ = reply.send(worker.check(&records).await);
            }
            Job::Migrate(from, entries, reply) => {
                let _ = reply.send(worker.migrate(from, &entries).await);
            }
        }
    }
}

impl Runner {
    /// Filters a batch.
    ///
    /// # Errors
    /// If the threads are shutting down.
    ///
    /// # Cancel safety
    /// Safe. A batch that was handed over is finished all the same.
    pub async fn filter(&self, records: Records) -> Result<Filtered, Stopped> {
        self.ask(|reply| Job::Filter(records, reply)).await
    }

    /// Transforms or consumes a batch.
    ///
    /// # Errors
    /// If the threads are shutting down.
    ///
    /// # Cancel safety
    /// Safe. The call is given up, also where the module waits for a server; it had no effect here.
    pub async fn process(&self, work: Work) -> Result<Transformed, Stopped> {
        self.ask(|reply| Job::Process(Box::new(WorkJob { work, reply }))).await
    }

    /// Checks a batch before it is appended.
    ///
    /// # Errors
    /// If the threads are shutting down.
    ///
    /// # Cancel safety
    /// As [`Runner::filter`].
    pub async fn check(&self, records: Records) -> Result<Checked, Stopped> {
        self.ask(|reply| Job::Check(records, reply)).await
    }

    /// Turns state of the layout `from` into that of the module.
    ///
    /// # Errors
    /// If the threads are shutting down; inside, how the module failed.
    ///
    /// # Cancel safety
    /// As [`Runner::filter`].
    pub async fn migrate(
        &self,
        from: u32,
        entries: Entries,
    ) -> Result<Result<Entries, GuestError>, Stopped> {
        self.ask(|reply| Job::Migrate(from, entries, reply)).await
    }

    async fn ask<R>(&self, job: impl FnOnce(oneshot::Sender<R>) -> Job) -> Result<R, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}
