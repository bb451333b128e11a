//! Every bound on modules, with its default, in one place.
//!
//! [`GuestLimits`] are a deployment's own, up to [`GuestLimits::CAPS`] of the node. What a module
//! may be at all (size, functions) is a constant.

use std::time::Duration;
use weir_core::limits::{BATCH_UNPACKED_BYTES_MAX, KIB, MIB};
use weir_core::limits::{HTTP_RECORDS_PER_CALL, HTTP_TIMEOUT_MS_DEFAULT, HTTP_TIMEOUT_MS_MAX};
use weir_core::limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};

// ---- what may be uploaded ----

/// Largest module, in bytes. A JavaScript engine and its module take 12 MiB.
pub const MODULE_BYTES_MAX: usize = 24 * MIB;
/// Largest body of one function, in bytes: the time to compile one grows faster than its size.
pub const FUNCTION_BYTES_MAX: usize = 512 * KIB;
/// Most functions of a module, all core modules together.
pub const FUNCTIONS_MAX: usize = 50_000;
/// Most local variables of one function.
pub const LOCALS_MAX: u32 = 10_000;
/// Most core modules and components inside a component.
pub const NESTED_MODULES_MAX: usize = 64;
/// Most parameters that a module may declare.
pub const PARAMETERS_MAX: usize = 64;

// ---- compiling ----

pub use weir_core::limits::COMPILE_TIME_MAX;
/// Most address space of the process that compiles, in bytes.
pub const COMPILE_MEMORY_BYTES_MAX: usize = 2048 * MIB;
/// Largest compiled module, in bytes.
pub const COMPILED_BYTES_MAX: usize = 256 * MIB;

// ---- running ----

/// Linear memory of all guests of a node together, in bytes.
pub const GUESTS_MEMORY_BYTES_MAX: usize = 512 * MIB;
/// How often a running guest is looked at. One that is to stop does so within this, and others that
/// wait for the thread get their turn.
pub const TICK: Duration = Duration::from_millis(5);
/// Bytes of a guest's stack, and of the stack below it that holds the host's frames.
pub const WASM_STACK_BYTES: usize = 512 * KIB;
/// Size of the stack that a guest runs on, in bytes; only touched pages take memory.
pub const GUEST_STACK_BYTES: usize = MIB;
/// Address space that each memory of a guest reserves, in bytes. A memory that grows beyond is
/// moved.
pub const MEMORY_RESERVATION_BYTES: usize = 64 * MIB;
/// CPU time of `describe` and of `start`.
pub const START_CPU_MAX: Duration = Duration::from_millis(500);
/// CPU time of each call that migrates state.
pub const MIGRATE_CPU_MAX: Duration = Duration::from_secs(5);
/// Bytes of keys and values that such a call is given, about; one entry always fits.
pub const MIGRATE_PART_BYTES: usize = MIB;
/// Longest message of a log line, a failure or an error, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 * KIB;
/// Most frames of a backtrace.
pub const BACKTRACE_FRAMES_MAX: usize = 32;
/// Most calls of the guest that one batch may cost while its bad records are looked for.
pub const BATCH_RUNS_MAX: u32 = 1_000;
/// Entries that one page of a state scan has at most.
pub const SCAN_ENTRIES_MAX: usize = 1_024;
/// Bytes that one page of a state scan has at most; one entry always fits.
pub const SCAN_BYTES_MAX: usize = MIB;

/// A call may wait for as long as so many requests that time out one after the other.
pub const HTTP_TIMEOUTS_PER_CALL: u64 = 2 * HTTP_RECORDS_PER_CALL as u64;
/// Requests of one module that are on their way at a time; others wait.
pub const HTTP_AT_ONCE: usize = 8;
/// Responses that one `send` hands over, all together, in bytes.
pub const HTTP_RESPONSES_BYTES_MAX: usize = 4 * MIB;
/// Characters of a URL that a message shows.
pub const URL_SHOWN_CHARS: usize = 200;

/// What one deployment may use in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Linear memory, all memories of the instance together, in bytes.
    pub memory_bytes: usize,
    /// Table entries, all tables together.
    pub table_entries: usize,
    /// Core instances.
    pub instances: usize,
    /// CPU time of one call.
    pub cpu_per_call: Duration,
    /// Bytes that a call may return, outputs and all.
    pub output_bytes: usize,
    /// Records that a call may return.
    pub output_records: usize,
    /// Bytes of keys and values that a batch may change in its state.
    pub state_bytes: usize,
    /// Log lines of one call; more are dropped and counted.
    pub log_lines: u32,
    /// Requests over HTTP of one call.
    pub http_requests: u32,
    /// Time of one request over HTTP, from its begin to the end of the response.
    pub http_timeout: Duration,
    /// Time that one call may wait for responses, in all. It is no CPU time.
    pub http_wait: Duration,
    /// Bytes of one response.
    pub http_response_bytes: usize,
}

impl GuestLimits {
    /// Of a deployment that says nothing else.
    pub const DEFAULT: GuestLimits = GuestLimits {
        memory_bytes: 64 * MIB,
        table_entries: 20_000,
        instances: 16,
        cpu_per_call: Duration::from_millis(1_000),
        output_bytes: BATCH_UNPACKED_BYTES_MAX,
        output_records: 200_000,
        state_bytes: 4 * MIB,
        log_lines: 100,
        http_requests: 128,
        http_timeout: Duration::from_millis(HTTP_TIMEOUT_MS_DEFAULT as u64),
        http_wait: Duration::from_millis(HTTP_TIMEOUT_MS_DEFAULT as u64 * HTTP_TIMEOUTS_PER_CALL),
        http_response_bytes: MIB,
    };

    /// Of a module in the path of producers, who wait for it.
    pub const PRODUCE: GuestLimits =
        GuestLimits { cpu_per_call: Duration::from_millis(100), ..GuestLimits::DEFAULT };

    /// The most that a deployment may ask for.
    pub const CAPS: GuestLimits = GuestLimits {
        memory_bytes: 512 * MIB,
        table_entries: 200_000,
        instances: 64,
        cpu_per_call: Duration::from_secs(30),
        output_bytes: 4 * BATCH_UNPACKED_BYTES_MAX,
        output_records: 1_000_000,
        state_bytes: 64 * MIB,
        log_lines: 10_000,
        http_requests: 1_024,
        http_timeout: Duration::from_millis(HTTP_TIMEOUT_MS_MAX as u64),
        http_wait: Duration::from_millis(HTTP_TIMEOUT_MS_MAX as u64 * HTTP_TIMEOUTS_PER_CALL),
        http_response_bytes: 4 * MIB,
    };

    /// These limits, each at most what `caps` allows.
    #[must_use]
    pub fn capped(self, caps: &GuestLimits) -> GuestLimits {
        GuestLimits {
            memory_bytes: self.memory_bytes.min(caps.memory_bytes),
            table_entries: self.table_entries.min(caps.table_entries),
            instances: self.instances.min(caps.instances),
            cpu_per_call: self.cpu_per_call.min(caps.cpu_per_call),
            output_bytes: self.output_bytes.min(caps.output_bytes),
            output_records: self.output_records.min(caps.output_records),
            state_bytes: self.state_bytes.min(caps.state_bytes),
            log_lines: self.log_lines.min(caps.log_lines),
            http_requests: self.http_requests.min(caps.http_requests),
            http_timeout: self.http_timeout.min(caps.http_timeout),
            http_wait: self.http_wait.min(caps.http_wait),
            http_response_bytes: self.http_response_bytes.min(caps.http_response_bytes),
        }
    }

    /// These limits, with another time for one request over HTTP, and for a call in proportion.
    #[must_use]
    pub fn with_http_timeout(self, timeout: Duration) -> GuestLimits {
        let http_wait = timeout.saturating_mul(HTTP_TIMEOUTS_PER_CALL as u32);
        GuestLimits { http_timeout: timeout, http_wait, ..self }.capped(&GuestLimits::CAPS)
    }
}

impl Default for GuestLimits {
    fn default() -> GuestLimits {
        GuestLimits::DEFAULT
    }
}

const _: () = {
    // The largest record's state change always fits a call.
    assert!(STATE_KEY_BYTES_MAX + STATE_VALUE_BYTES_MAX <= GuestLimits::DEFAULT.state_bytes);
    // One guest alone can have what it may have at most.
    assert!(GuestLimits::CAPS.memory_bytes <= GUESTS_MEMORY_BYTES_MAX);
    // A page of a scan holds any one entry.
    assert!(STATE_KEY_BYTES_MAX + STATE_VALUE_BYTES_MAX <= SCAN_BYTES_MAX);
    // A transform may return what it was given.
    assert!(BATCH_UNPACKED_BYTES_MAX <= GuestLimits::DEFAULT.output_bytes);
    // The host's frames have room above the guest's.
    assert!(WASM_STACK_BYTES * 2 <= GUEST_STACK_BYTES);
    assert!(FUNCTION_BYTES_MAX < MODULE_BYTES_MAX);
    // Any one response fits what a call is handed.
    assert!(GuestLimits::CAPS.http_response_bytes <= HTTP_RESPONSES_BYTES_MAX);
    // A request for each record of a call.
    assert!(HTTP_RECORDS_PER_CALL <= GuestLimits::DEFAULT.http_requests as usize);
};
