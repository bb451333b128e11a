//! What the host keeps for one instance: its limits, what it used of them, its log lines and state.

use crate::abi::LogLevel;
use crate::abi::Place;
use crate::engine::{Engine, MemoryPool, Ticker};
use crate::error::Denied;
use crate::http::{GuestHttp, HttpClient};
use crate::limits::{GuestLimits, MESSAGE_BYTES_MAX};
use crate::state::StateBuffer;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use wasmtime::ResourceLimiter;

/// A line that a module logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How bad.
    pub level: LogLevel,
    /// What, at most [`MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
}

/// What a module finds around it.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// Where it runs.
    pub place: Place,
    /// What it reaches over HTTP; `None`: nothing.
    pub http: Option<Arc<dyn HttpClient>>,
}

/// Data of one instance.
pub(crate) struct Guest {
    pub(crate) limits: GuestLimits,
    pool: Arc<MemoryPool>,
    /// Bytes of all linear memories.
    pub(crate) memory_bytes: usize,
    table_entries: usize,
    /// The first request of this call that a limit refused.
    pub(crate) denied: Option<Denied>,
    pub(crate) cpu: Arc<CpuMeter>,
    /// CPU time that the running call may take, in nanoseconds.
    pub(crate) cpu_max: Duration,
    pub(crate) log: Vec<LogLine>,
    pub(crate) log_dropped: u32,
    /// Lines that the running call may still log.
    log_left: u32,
    /// State of the batch that is processed; none for stateless worlds and outside of calls.
    pub(crate) state: Option<StateBuffer>,
    pub(crate) http: GuestHttp,
    pub(crate) place: Place,
    pub(crate) ticker: Arc<Ticker>,
}

impl Guest {
    pub(crate) fn new(engine: &Engine, limits: GuestLimits, around: Surroundings) -> Guest {
        Guest {
            limits,
            pool: engine.memory.clone(),
            memory_bytes: 0,
            table_entries: 0,
            denied: None,
            cpu: Arc::default(),
            cpu_max: Duration::ZERO,
            log: Vec::new(),
            log_dropped: 0,
            log_left: 0,
            state: None,
            http: GuestHttp { client: around.http, ..GuestHttp::default() },
            place: around.place,
            ticker: engine.ticker.clone(),
        }
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, cpu_max: Duration) {
        self.denied = None;
        self.cpu_max = cpu_max;
        self.cpu.used_ns.store(0, Ordering::Relaxed);
        self.log_left = self.limits.log_lines;
        (self.http.sent, self.http.waited) = (0, Duration::ZERO);
    }

    /// Takes a log line, or counts it where there were too many.
    pub(crate) fn log(&mut self, level: LogLevel, mut message: String) {
        if self.log_left == 0 {
            self.log_dropped = self.log_dropped.saturating_add(1);
            return;
        }
        self.log_left -= 1;
        cut(&mut message);
        self.log.push(LogLine { level, message });
    }
}

/// Cuts a message of a module at [`MESSAGE_BYTES_MAX`].
pub(crate) fn cut(message: &mut String) {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.shrink_to_fit();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.pool.give(self.memory_bytes);
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // What its own declaration forbids is the module's affair, not a limit of ours.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.limits.memory_bytes {
            let limit = self.limits.memory_bytes;
            self.denied.get_or_insert(Denied::Memory { wanted, limit });
            return Ok(false);
        }
        let more = wanted - self.memory_bytes;
        if !self.pool.take(more) {
            self.denied.get_or_insert(Denied::NodeMemory { wanted: more });
            return Ok(false);
        }
        self.memory_bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.table_entries.saturating_add(desired.saturating_sub(current));
        if wanted > self.limits.table_entries {
            let limit = self.limits.table_entries;
            self.denied.get_or_insert(Denied::Table { wanted, limit });
            return Ok(false);
        }
        self.table_entries = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.instances
    }

    fn memories(&self) -> usize {
        self.limits.instances
    }
}

/// CPU time that one call took of the thread that it runs on. Time in which others ran on that
/// thread, or the thread did not run, does not count.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    used_ns: AtomicU64,
    slice_began_ns: AtomicU64,
}

impl CpuMeter {
    /// CPU time of the call, up to its last yield.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used_ns.load(Ordering::Relaxed))
    }

    /// CPU time of the call, the running slice included. Call it on the guest's thread.
    pub(crate) fn used_now(&self) -> Duration {
        let slice = thread_cpu_ns().saturating_sub(self.slice_began_ns.load(Ordering::Relaxed));
        self.used() + Duration::from_nanos(slice)
    }

    /// Runs `call`, and counts the CPU time of every slice of it.
    pub(crate) async fn metered<F: Future>(&self, call: F) -> F::Output {
        Metered { call: pin!(call), meter: self }.await
    }
}

struct Metered<'a, F> {
    call: Pin<&'a mut F>,
    meter: &'a CpuMeter,
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_cpu_ns();
        self.meter.slice_began_ns.store(began, Ordering::Relaxed);
        let polled = self.call.as_mut().poll(context);
        let slice = thread_cpu_ns().saturating_sub(began);
        self.meter.used_ns.fetch_add(slice, Ordering::Relaxed);
        polled
    }
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
