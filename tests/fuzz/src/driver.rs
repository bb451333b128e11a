//! Runs a target on input after input, and says how to repeat what went wrong.

use crate::{Target, Verdict, hex, mutate};
use fastrand::Rng;
use std::cell::RefCell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An input that takes longer counts as endless. Far above what the slowest needs on a loaded
/// machine.
const ENDLESS: Duration = Duration::from_secs(30);
/// Tries to make a failing input smaller.
const SHRINK_TRIES: usize = 4_000;

/// How long to run, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Chooses the inputs, together with the iteration.
    pub seed: u64,
    /// The first iteration.
    pub first: u64,
    /// Stop after this many iterations.
    pub iterations: u64,
    /// Or once this time is over.
    pub time: Option<Duration>,
}

/// What a run without failure did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs that were tried.
    pub iterations: u64,
    /// Those that the decoder took.
    pub accepted: u64,
    /// Most memory that one input took, in bytes.
    pub memory_bytes: u64,
}

/// An input that a target does not survive.
#[derive(Debug)]
pub struct Failure {
    /// The target's name.
    pub target: &'static str,
    /// The plan's seed.
    pub seed: u64,
    /// The iteration that made the input.
    pub iteration: u64,
    /// What happened.
    pub reason: String,
    /// The smallest input found that fails.
    pub input: Vec<u8>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { target, seed, iteration, reason, input } = self;
        writeln!(f, "{target} failed in iteration {iteration} of seed {seed}: {reason}")?;
        writeln!(f, "input, {} bytes: {}", input.len(), hex::encode(input))?;
        writeln!(f, "again: cargo xtask fuzz {target} --seed {seed} --iteration {iteration}")?;
        write!(f, "keep it: put the input into tests/fuzz/regressions/{target}/NAME.hex")
    }
}

/// Runs `target` as `plan` says.
///
/// # Errors
/// The first failure, its input made smaller.
pub fn run(target: &Target, plan: &Plan) -> Result<Report, Box<Failure>> {
    let seeds = (target.seeds)();
    let begun = Instant::now();
    let watch = Watch::default();
    std::thread::scope(|scope| {
        scope.spawn(|| watch.until_done(target, plan));
        let _stop = watch.stop_when_dropped();
        let mut report = Report::default();
        for iteration in plan.first..plan.first.saturating_add(plan.iterations) {
            if plan.time.is_some_and(|time| begun.elapsed() >= time) {
                break;
            }
            watch.iteration.store(iteration, Ordering::Relaxed);
            let input = input(target, &seeds, plan.seed, iteration);
            match check(target, &input) {
                Ok((verdict, memory)) => {
                    report.iterations += 1;
                    report.accepted += u64::from(verdict == Verdict::Accepted);
                    report.memory_bytes = report.memory_bytes.max(memory);
                }
                Err(reason) => {
                    // Shrinking takes long on purpose.
                    watch.done.store(true, Ordering::Relaxed);
                    let (input, reason) = shrink(target, input, reason);
                    let (target, seed) = (target.name, plan.seed);
                    return Err(Box::new(Failure { target, seed, iteration, reason, input }));
                }
            }
        }
        Ok(report)
    })
}

/// Runs `target` once.
///
/// # Errors
/// How it failed.
pub fn check(target: &Target, input: &[u8]) -> Result<(Verdict, u64), String> {
    install_hook();
    LAST_PANIC.set(Some(String::new()));
    let mut outcome = Ok(Verdict::Refused);
    let memory = allocation_counter::measure(|| {
        // A target holds nothing between calls, so nothing broken is seen afterwards.
        outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    })
    .bytes_max;
    let panicked = LAST_PANIC.take().unwrap_or_default();
    let verdict = outcome.map_err(|_| format!("panic: {panicked}"))?;
    let most = (target.memory_bytes_max)(input.len());
    if memory > most {
        return Err(format!("{memory} bytes of memory for {} of input", input.len()));
    }
    Ok((verdict, memory))
}

/// The input of an iteration: a function of its arguments alone.
fn input(target: &Target, seeds: &[Vec<u8>], seed: u64, iteration: u64) -> Vec<u8> {
    // Spreads neighbouring iterations over the generator's whole state (an odd constant).
    let mut rng = Rng::with_seed(seed ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut input = mutate::input(seeds, target.words, &mut rng);
    // Damage that the first checksum stops is worth a share of the tries, no more.
    if rng.u8(..8) != 0 {
        (target.repair)(&mut input, rng.u32(..));
    }
    input
}

/// Removes and zeroes pieces for as long as the input still fails, in whatever way.
fn shrink(target: &Target, mut input: Vec<u8>, mut reason: String) -> (Vec<u8>, String) {
    let mut tries = 0;
    let mut piece = input.len().max(1);
    while piece > 0 && tries < SHRINK_TRIES {
        let mut at = 0;
        while at < input.len() && tries < SHRINK_TRIES {
            tries += 1;
            let end = (at + piece).min(input.len());
            let mut smaller = input.clone();
            smaller.drain(at..end);
            match check(target, &smaller) {
                Err(why) => (input, reason) = (smaller, why),
                Ok(_) => at = end,
            }
        }
        piece /= 2;
    }
    (input, reason)
}

thread_local! {
    /// `Some` while this thread runs a target: what it panicked with.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of targets are results here, not news; all others are printed as ever.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let fuzzing = LAST_PANIC.with_borrow_mut(|last| match last {
                Some(text) => {
                    *text = info.to_string();
                    true
                }
                None => false,
            });
            if !fuzzing {
                previous(info);
            }
        }));
    });
}

/// Ends the process when one input takes for ever: a thread cannot be stopped from outside.
#[derive(Default)]
struct Watch {
    iteration: AtomicU64,
    done: AtomicBool,
}

impl Watch {
    fn until_done(&self, target: &Target, plan: &Plan) {
        let mut last = (u64::MAX, Instant::now());
        while !self.done.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(20));
            let iteration = self.iteration.load(Ordering::Relaxed);
            if iteration != last.0 {
                last = (iteration, Instant::now());
            } else if last.1.elapsed() > ENDLESS {
                let input = input(target, &(target.seeds)(), plan.seed, iteration);
                let (target, seed) = (target.name, plan.seed);
                let reason = format!("no end after {} s", ENDLESS.as_secs());
                eprintln!("{}", Failure { target, seed, iteration, reason, input });
                std::process::exit(1);
            }
        }
    }

    fn stop_when_dropped(&self) -> impl Drop + '_ {
        struct Stop<'a>(&'a Watch);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.done.store(true, Ordering::Relaxed);
            }
        }
        Stop(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory_in_proportion, no_repair};

    fn target(check: fn(&[u8]) -> Verdict) -> Target {
        let seeds = || vec![b"key=value;count=3".to_vec()];
        let memory_bytes_max = |_| 1024 * 1024;
        Target { name: "made-up", check, seeds, repair: no_repair, words: &[], memory_bytes_max }
    }

    const PLAN: Plan = Plan { seed: 1, first: 0, iterations: 20_000, time: None };

    /// Goal: the driver sees what it is for. Method: decoders with the classic faults, each of
    /// which it must find within a bounded run, and whose report must repeat the failure.
    #[test]
    fn planted_faults_are_found() {
        // A length byte that is believed.
        fn believes_length(input: &[u8]) -> Verdict {
            match input.split_first() {
                Some((len, rest)) if *len < 64 => {
                    let _ = &rest[..usize::from(*len)];
                    Verdict::Accepted
                }
                _ => Verdict::Refused,
            }
        }
        // Memory for the asking.
        fn allocates(input: &[u8]) -> Verdict {
            let Some(length) = input.first_chunk() else { return Verdict::Refused };
            let length = u32::from_le_bytes(*length) as usize % (64 * 1024 * 1024);
            if Vec::<u8>::with_capacity(length).capacity() < 8 {
                return Verdict::Refused;
            }
            Verdict::Accepted
        }
        // A round trip that loses what follows a zero.
        fn loses(input: &[u8]) -> Verdict {
            let decoded: Vec<u8> = input.iter().copied().take_while(|byte| *byte != 0).collect();
            assert_eq!(decoded, input, "round trip");
            Verdict::Accepted
        }
        // Arithmetic that overflows.
        fn overflows(input: &[u8]) -> Verdict {
            let sum = input.iter().try_fold(0u8, |sum, byte| sum.checked_add(byte & 0x0f));
            sum.expect("the sum fits");
            Verdict::Accepted
        }
        for (check, word) in [
            (believes_length as fn(&[u8]) -> Verdict, "range end"),
            (allocates, "bytes of memory"),
            (loses, "round trip"),
            (overflows, "the sum fits"),
        ] {
            let target = target(check);
            let failure = run(&target, &PLAN).expect_err(word);
            assert!(failure.reason.contains(word), "{failure}");
            let once = Plan { first: failure.iteration, iterations: 1, ..PLAN };
            let again = run(&target, &once).expect_err("it repeats");
            assert_eq!((again.iteration, &again.input), (failure.iteration, &failure.input));
            assert!(check_fails(&target, &failure.input), "the smaller input fails too");
        }
    }

    fn check_fails(target: &Target, input: &[u8]) -> bool {
        check(target, input).is_err()
    }

    /// Goal: a sound decoder passes, and the report tells accepted from refused.
    #[test]
    fn sound_decoders_pass() {
        fn utf8(input: &[u8]) -> Verdict {
            match std::str::from_utf8(input) {
                Ok(text) => {
                    assert_eq!(text.as_bytes(), input);
                    Verdict::Accepted
                }
                Err(_) => Verdict::Refused,
            }
        }
        let target = Target { memory_bytes_max: memory_in_proportion, ..target(utf8) };
        let report = run(&target, &PLAN).unwrap();
        assert_eq!(report.iterations, PLAN.iterations);
        assert!(report.accepted > 0 && report.accepted < report.iterations, "{report:?}");
    }

    /// Goal: failing inputs become small.
    #[test]
    fn failures_shrink() {
        fn hates_semicolons(input: &[u8]) -> Verdict {
            assert!(!input.contains(&b';'), "a semicolon");
            Verdict::Accepted
        }
        let failure = run(&target(hates_semicolons), &PLAN).unwrap_err();
        assert_eq!(failure.input, b";");
        assert!(failure.to_string().contains("cargo xtask fuzz made-up --seed 1"), "{failure}");
    }
}
