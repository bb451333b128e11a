//! Modules that mean harm, or were written badly. Goal of all: each costs its own batch and nothing
//! else, ends within its limits, and the error says what happened.

use crate::support::{LIMITS, Wat, block_on, deployment, engine, module, records, worker};
use weir_core::record::Records;
use weir_wasm::bisect::{Judgement, OnError};
use weir_wasm::{Compiler, Denied, Filtered, GuestError, GuestThreads, Module};

const LOOP: &str = "(loop $ever (br $ever))";
const UNREACHABLE: &str = "unreachable";

/// Writes this many bytes of bits for the records of the batch.
fn claim(bytes: u32) -> String {
    format!("(i32.store (i32.const 1032) (i32.const {bytes}))")
}

/// Filters a batch of four records through a module, whose records are all judged.
fn filter(wat: &Wat<'_>) -> Filtered {
    block_on(async {
        let mut worker = worker(wat, OnError::Skip).await;
        let filtered = worker.filter(&records(["a", "b", "c", "d"])).await;
        assert_eq!(filtered.kept, 0);
        filtered
    })
}

/// The error of a module that fails with every record.
fn error(wat: &Wat<'_>) -> GuestError {
    let filtered = filter(wat);
    assert_eq!(filtered.report.judged.len(), 4, "{:?}", filtered.report);
    filtered.report.judged[0].error.clone()
}

/// The error of a module of which there can be no instance: no record is blamed, all stops.
fn start_error(wat: &Wat<'_>) -> GuestError {
    let filtered = filter(wat);
    let [judged] = &filtered.report.judged[..] else { panic!("{:?}", filtered.report) };
    assert_eq!((judged.judgement, filtered.report.instances), (Judgement::Stop, 2));
    judged.error.clone()
}

/// Goal: the stock module is a good one, so that what the tests replace is what fails.
#[test]
fn the_stock_module_works() {
    let filtered = filter(&Wat::default());
    assert_eq!((filtered.report.judged.len(), filtered.report.calls), (0, 1));
}

#[test]
fn an_endless_loop_is_stopped() {
    let error = error(&Wat { call: LOOP, ..Wat::default() });
    assert!(matches!(error, GuestError::Deadline { limit, .. } if limit == LIMITS.cpu_per_call));
    assert!(!error.backtrace().is_empty());
}

/// A batch without records is how it is found out whether a module starts.
#[test]
fn a_module_that_fails_without_records_is_told() {
    block_on(async {
        let wat = Wat { call: UNREACHABLE, ..Wat::default() };
        let mut worker = worker(&wat, OnError::Skip).await;
        let filtered = worker.filter(&Records::empty()).await;
        let [judged] = &filtered.report.judged[..] else { panic!("{:?}", filtered.report) };
        assert_eq!((judged.judgement, filtered.kept), (Judgement::Stop, 0));
    });
}

#[test]
fn an_endless_recursion_is_stopped() {
    let recursion = "(func $deeper (param i32) (result i32)
        (i32.add (call $deeper (local.get 0)) (i32.const 1)))";
    let call = "(drop (call $deeper (i32.const 1)))";
    let error = error(&Wat { items: recursion, call, ..Wat::default() });
    let GuestError::Trapped { reason, backtrace, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("stack exhausted"), "{reason}");
    assert!(!backtrace.is_empty() && backtrace.len() <= weir_wasm::limits::BACKTRACE_FRAMES_MAX);
}

#[test]
fn memory_is_limited() {
    let call = "(loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        unreachable";
    let error = error(&Wat { call, ..Wat::default() });
    let GuestError::Trapped { reason, denied, .. } = &error else { panic!("{error:?}") };
    assert_eq!(reason, "out of memory");
    let Some(Denied::Memory { wanted, limit }) = denied else { panic!("{denied:?}") };
    assert!(*limit == LIMITS.memory_bytes && *wanted > *limit);
}

#[test]
fn memory_that_is_declared_too_large_is_refused() {
    let error = start_error(&Wat { memory: "1000", ..Wat::default() });
    assert!(matches!(error, GuestError::Trapped { denied: Some(Denied::Memory { .. }), .. }));
}

#[test]
fn tables_are_limited() {
    let items = "(table $table 1 funcref)";
    let call = "(loop $more (br_if $more (i32.ne
            (table.grow $table (ref.null func) (i32.const 10000)) (i32.const -1))))
        unreachable";
    let error = error(&Wat { items, call, ..Wat::default() });
    assert!(matches!(error, GuestError::Trapped { denied: Some(Denied::Table { .. }), .. }));
}

#[test]
fn lists_that_lie_about_their_length_are_refused() {
    // Beyond the end of memory; more than the host takes; wrong for the batch.
    for bytes in [u32::MAX, 0x7fff_ffff, 1 << 20] {
        let lie = claim(bytes);
        let error = error(&Wat { call: &lie, ..Wat::default() });
        assert!(matches!(error, GuestError::Trapped { .. }), "{bytes}: {error:?}");
    }
    for bytes in [0, 2, 60_000] {
        let lie = claim(bytes);
        let error = error(&Wat { call: &lie, ..Wat::default() });
        assert!(matches!(error, GuestError::Malformed { .. }), "{bytes}: {error:?}");
    }
}

#[test]
fn outputs_larger_than_the_limit_are_refused() {
    // 15 MiB of bits: within its memory, and far beyond what four records need.
    let huge = format!("{} {}", "(drop (memory.grow (i32.const 250)))", claim(15 << 20));
    let error = error(&Wat { call: &huge, ..Wat::default() });
    assert!(matches!(error, GuestError::Malformed { .. }), "{error:?}");
}

#[test]
fn a_failure_of_a_record_that_is_not_there_is_refused() {
    // One failure, of record 9, with no message.
    let call = "(i32.store (i32.const 1036) (i32.const 3072))
        (i32.store (i32.const 1040) (i32.const 1))
        (i32.store (i32.const 3072) (i32.const 9))";
    let error = error(&Wat { call, ..Wat::default() });
    assert!(matches!(error, GuestError::Broken(_)), "{error:?}");
}

#[test]
fn an_address_outside_of_memory_is_refused() {
    let error = error(&Wat { call: "(return (i32.const -4))", ..Wat::default() });
    assert!(matches!(error, GuestError::Trapped { .. }), "{error:?}");
}

#[test]
fn text_that_is_no_utf8_is_refused() {
    // `err`, with a message of one byte 0xff.
    let call = "(i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store8 (i32.const 3072) (i32.const 255))
        (i32.store (i32.const 1028) (i32.const 3072))
        (i32.store (i32.const 1032) (i32.const 1))";
    let error = error(&Wat { call, ..Wat::default() });
    assert!(matches!(error, GuestError::Trapped { .. }), "{error:?}");
}

/// It is called for the settings already, so there is never an instance.
#[test]
fn an_allocator_that_lies_or_loops_is_stopped() {
    let outside = "(return (i32.const 0x7ffffff0))";
    let trapped = start_error(&Wat { realloc: outside, ..Wat::default() });
    assert!(matches!(trapped, GuestError::Trapped { .. }), "{trapped:?}");
    let stopped = start_error(&Wat { realloc: LOOP, ..Wat::default() });
    assert!(matches!(stopped, GuestError::Deadline { .. }), "{stopped:?}");
}

#[test]
fn a_module_that_fails_to_start_fails_its_batches() {
    let trapped = start_error(&Wat { start: UNREACHABLE, ..Wat::default() });
    assert!(matches!(trapped, GuestError::Trapped { .. }), "{trapped:?}");
    let stopped = start_error(&Wat { start: LOOP, ..Wat::default() });
    assert!(matches!(stopped, GuestError::Deadline { .. }), "{stopped:?}");
}

/// Goal: what runs before any of our calls is bounded too. Method: a WebAssembly start function.
#[test]
fn start_functions_are_bounded() {
    for (body, ends) in [(LOOP, "more than 500 ms"), (UNREACHABLE, "unreachable")] {
        let items = format!("(func $init {body}) (start $init)");
        let upload = Wat { items: &items, ..Wat::default() }.upload().unwrap();
        let prepared = block_on(Module::prepare(engine(), &upload, None, &Compiler::Here));
        let error = prepared.err().unwrap().to_string();
        assert!(error.contains(ends), "{error}");
    }
}

#[test]
fn a_module_that_cannot_describe_itself_is_refused() {
    let wrong_text = "(i32.store (i32.const 68) (i32.const -1))";
    for (describe, ends) in
        [(LOOP, "more than 500 ms"), (UNREACHABLE, "unreachable"), (wrong_text, "bounds")]
    {
        let upload = Wat { describe, ..Wat::default() }.upload().unwrap();
        let prepared = block_on(Module::prepare(engine(), &upload, None, &Compiler::Here));
        let error = prepared.err().unwrap().to_string();
        assert!(error.contains(ends), "{error}");
    }
}

#[test]
fn log_lines_are_limited_and_counted() {
    let call = "(local $left i32)
        (local.set $left (i32.const 20000))
        (loop $more
          (call $log (i32.const 1) (i32.const 0) (i32.const 6000))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br_if $more (local.get $left)))";
    // The declaration of a local must come first in a function.
    let items = format!("(func $flood {call})");
    block_on(async {
        let wat = Wat { items: &items, call: "(call $flood)", ..Wat::default() };
        let module = module(&wat.upload().unwrap()).await;
        let mut deployment = deployment(&module, OnError::Skip);
        deployment.limits.cpu_per_call = weir_wasm::GuestLimits::CAPS.cpu_per_call;
        let mut worker = weir_wasm::Worker::new(deployment);
        let report = worker.filter(&records(["a"])).await.report;
        assert_eq!(report.judged, []);
        assert_eq!(report.log.len(), LIMITS.log_lines as usize);
        assert_eq!(report.log_dropped, 20_000 - LIMITS.log_lines);
        let longest = report.log.iter().map(|line| line.message.len()).max();
        assert_eq!(longest, Some(weir_wasm::limits::MESSAGE_BYTES_MAX));
    });
}

#[test]
fn a_log_line_outside_of_memory_is_refused() {
    let call = "(call $log (i32.const 1) (i32.const 0) (i32.const -1))";
    assert!(matches!(error(&Wat { call, ..Wat::default() }), GuestError::Trapped { .. }));
    let level = "(call $log (i32.const 77) (i32.const 0) (i32.const 1))";
    assert!(matches!(error(&Wat { call: level, ..Wat::default() }), GuestError::Trapped { .. }));
}

/// Goal: one bad record in a batch is found, and the others are judged as if it were not there.
/// Method: a filter that traps on values that begin with `x` and keeps the rest.
#[test]
fn the_bad_record_is_found() {
    // In memory, a batch is: count at 0, base offset at 8, offset deltas at 16, timestamps at 24,
    // the three lists of keys from 32, those of values from 56. So the values' bytes are told at
    // 64.
    let items = "(func $judge (param $batch i32)
        (local $at i32) (local $end i32)
        (local.set $at (i32.load offset=64 (local.get $batch)))
        (local.set $end (i32.add (local.get $at) (i32.load offset=68 (local.get $batch))))
        (memory.fill (i32.const 2048) (i32.const 255) (i32.const 256))
        (block $done
          (loop $next
            (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
            (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 120)) (then unreachable))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next))))";
    let wat = Wat { items, call: "(call $judge (local.get $batch))", ..Wat::default() };
    block_on(async {
        let values = (0..500).map(|n| if n == 321 { "x" } else { "y" });
        let batch = records(values);
        let mut skipping = worker(&wat, OnError::Skip).await;
        let skipped = skipping.filter(&batch).await;
        assert_eq!((skipped.kept, skipped.report.judged.len()), (499, 1));
        assert_eq!(skipped.report.judged[0].index, 321);
        assert!(skipped.report.calls <= 22, "{}", skipped.report.calls);

        let mut stopping = worker(&wat, OnError::Stop).await;
        let stopped = stopping.filter(&batch).await;
        assert_eq!((stopped.kept, stopped.report.judged[0].index), (321, 321));
        assert_eq!(stopped.report.judged[0].judgement, Judgement::Stop);

        let clean = stopping.filter(&records(["y"; 100])).await;
        assert_eq!((clean.kept, clean.report.judged.len()), (100, 0));
    });
}

/// Goal: a guest that never ends does not keep another from its work, though both share a thread.
#[test]
fn a_runaway_guest_yields() {
    block_on(async {
        let threads = GuestThreads::start(1).unwrap();
        let runaway = module(&Wat { call: LOOP, ..Wat::default() }.upload().unwrap()).await;
        let mut deployed = deployment(&runaway, OnError::Skip);
        deployed.limits.cpu_per_call = weir_wasm::GuestLimits::CAPS.cpu_per_call;
        let runaway = threads.run(deployed).unwrap();
        let endless = tokio::time::timeout(
            std::time::Duration::from_secs(3_600),
            runaway.filter(records(["a"])),
        );
        let good = module(&Wat::default().upload().unwrap()).await;
        let good = threads.run(deployment(&good, OnError::Skip)).unwrap();
        let work = async {
            for _ in 0..20 {
                let filtered = good.filter(records(["a", "b"])).await.unwrap();
                assert_eq!(filtered.report.judged.len(), 0);
            }
        };
        tokio::select! {
            _ = endless => panic!("the runaway ended first"),
            () = work => {}
        }
    });
}
