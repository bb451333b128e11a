//! The engine: how modules are compiled, and the clock that bounds how long they run.
//!
//! Everything that a module could tell two machines apart by is off: threads, NaN payloads, relaxed
//! SIMD. Guests are interrupted by epochs: compiled code looks at a counter at every loop and
//! function, and [`Ticker`] raises that counter every [`limits::TICK`] while a guest runs.

use crate::{limits, upload};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use thiserror::Error;
use wasmtime::{Config, OptLevel, WasmBacktraceDetails, WasmFeatures};

/// Why there is no engine.
#[derive(Clone, Debug, Error)]
#[error("no Wasm engine on this machine: {reason}")]
pub struct EngineError {
    /// What the engine or the system says.
    pub reason: String,
}

/// Compiles and runs modules. Cheap to clone. A node makes one when its first module is needed.
#[derive(Clone)]
pub struct Engine {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) memory: Arc<MemoryPool>,
}

/// Linear memory of all instances of an engine together.
#[derive(Debug)]
pub(crate) struct MemoryPool {
    free: AtomicUsize,
}

impl MemoryPool {
    /// Takes so many bytes, or none if there are fewer.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let less = |free: usize| free.checked_sub(bytes);
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Engine {
    /// An engine with its ticker, which sleeps until a guest runs. Its guests have
    /// [`limits::GUESTS_MEMORY_BYTES_MAX`] together.
    ///
    /// # Errors
    /// If this machine's processor is not supported, or a thread cannot be had.
    pub fn new() -> Result<Engine, EngineError> {
        Engine::with_memory(limits::GUESTS_MEMORY_BYTES_MAX)
    }

    /// An engine whose guests have so many bytes of linear memory together.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_memory(bytes: usize) -> Result<Engine, EngineError> {
        let failed = |reason: String| EngineError { reason };
        let wasm =
            wasmtime::Engine::new(&config()).map_err(|error| failed(format!("{error:#}")))?;
        let ticker = Ticker::start(wasm.clone()).map_err(|error| failed(error.to_string()))?;
        let memory = Arc::new(MemoryPool { free: AtomicUsize::new(bytes) });
        Ok(Engine { wasm, ticker: Arc::new(ticker), memory })
    }

    /// What compiled code depends on, besides the module: version and settings of the engine, and
    /// the processor.
    #[must_use]
    pub fn compatibility(&self) -> u64 {
        let mut hasher = Fnv::default();
        self.wasm.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    /// Compiles a component to machine code. Takes from milliseconds to seconds, and memory of some
    /// hundred times the module's size, so a node does it in a process of its own
    /// ([`crate::compile`]).
    ///
    /// # Errors
    /// What the compiler says.
    pub fn precompile(&self, component: &[u8]) -> Result<Vec<u8>, EngineError> {
        let compiled = self.wasm.precompile_component(component);
        compiled.map_err(|error| EngineError { reason: format!("{error:#}") })
    }
}

fn config() -> Config {
    let mut config = Config::new();
    // Off as a whole first: what a later version of the engine adds stays off until it is wanted.
    config.wasm_features(WasmFeatures::all(), false);
    config.wasm_features(upload::features(), true);
    config
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .async_stack_size(limits::GUEST_STACK_BYTES)
        // The default reserves 4 GiB for each memory: too much where addresses have 39 bits.
        .memory_reservation(limits::MEMORY_RESERVATION_BYTES as u64)
        .memory_reservation_for_growth(limits::MEMORY_RESERVATION_BYTES as u64)
        .memory_guard_size(64 * 1024)
        // Names of functions stay; files and lines would need debug information, which is stripped.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false);
    config
}

/// Raises the engine's epoch while guests run, and sleeps when none does.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    running: AtomicUsize,
    /// Set while the thread waits for a guest, so that starting one needs no lock otherwise.
    asleep: AtomicBool,
    stop: Mutex<bool>,
    wake: Condvar,
}

/// A guest is running for as long as this lives.
pub(crate) struct Running<'a>(&'a Shared);

impl Ticker {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Ticker> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            stop: Mutex::new(false),
            wake: Condvar::new(),
        });
        let of_thread = shared.clone();
        let builder = std::thread::Builder::new().name("wasm-ticker".into()).stack_size(64 * 1024);
        let thread = builder.spawn(move || tick(&of_thread, &engine))?;
        Ok(Ticker { shared, thread: Some(thread) })
    }

    /// Says that a guest runs.
    pub(crate) fn running(&self) -> Running<'_> {
        // Both orderings are sequentially consistent: either this sees the thread asleep, or the
        // thread, looking again after it said so, sees the guest.
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            let _stop = self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.wake.notify_one();
        }
        Running(&self.shared)
    }
}

/// A running guest waits for something outside for as long as this lives.
pub(crate) struct Waiting<'a>(&'a Ticker);

impl Ticker {
    /// Says that a guest that runs waits.
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
        Waiting(self)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // The guest goes on; whoever called it ends that.
        std::mem::forget(self.0.running());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It only fails where it panicked, and then it has stopped too.
            let _ = thread.join();
        }
    }
}

fn tick(shared: &Shared, engine: &wasmtime::Engine) {
    let mut stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stop {
        if shared.running.load(Ordering::SeqCst) == 0 {
            shared.asleep.store(true, Ordering::SeqCst);
            let idle = |stop: &mut bool| !*stop && shared.running.load(Ordering::SeqCst) == 0;
            stop = shared.wake.wait_while(stop, idle).unwrap_or_else(PoisonError::into_inner);
            shared.asleep.store(false, Ordering::SeqCst);
            continue;
        }
        let waited = shared.wake.wait_timeout_while(stop, limits::TICK, |stop| !*stop);
        stop = waited.unwrap_or_else(PoisonError::into_inner).0;
        engine.increment_epoch();
    }
}

/// FNV-1a: the same on every machine and in every version, unlike the standard library's hasher.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the epoch moves while a guest runs and stands still otherwise, as where it waits.
    /// Method: the ticker's own state, since a thread that does nothing cannot be seen.
    #[test]
    fn the_ticker_sleeps_when_no_guest_runs() {
        let engine = Engine::new().unwrap();
        let shared = engine.ticker.shared.clone();
        let until = |asleep: bool| {
            while shared.asleep.load(Ordering::SeqCst) != asleep {
                std::thread::yield_now();
            }
        };
        until(true);
        let running = engine.ticker.running();
        until(false);
        let waiting = engine.ticker.waiting();
        until(true);
        drop(waiting);
        until(false);
        drop(running);
        until(true);
    }

    /// Goal: two engines of one process and machine agree on what compiled code depends on.
    #[test]
    fn compatibility_is_stable() {
        let (a, b) = (Engine::new().unwrap(), Engine::new().unwrap());
        assert_eq!(a.compatibility(), b.compatibility());
    }
}
