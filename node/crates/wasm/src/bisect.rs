//! Which records of a batch are at fault, and what becomes of them. A pure state machine: it says
//! what to run next and hears how that went.
//!
//! Transitions of a part of the batch, beginning with the whole:
//!
//! ```text
//! run ─ ok ──────────────────────────────▶ kept, on to the part behind it
//!  ├─ failed, whole batch, first time ───▶ run again (in a fresh instance)
//!  ├─ failed, several records ───────────▶ halves, the first one first
//!  ├─ no instance, not for the first time ▶ stop
//!  ├─ failed, one record, retries left ──▶ wait, run again
//!  └─ failed, one record ────────────────▶ policy: skip, dead letter, or stop
//! ```
//!
//! Invariant: parts are run in offset order, each record is kept or judged exactly once, and what
//! lies in front of a part was kept or judged before the part is run. So state that a part sees is
//! the state that its records would have seen one by one.
//!
//! A call that traps costs `log2(records)` further calls for each bad record. A batch of nothing
//! but bad records is bounded by [`BATCH_RUNS_MAX`].

use crate::abi::Failure;
use crate::error::GuestError;
use crate::limits::BATCH_RUNS_MAX;
use std::ops::Range;
use std::time::Duration;

/// What becomes of a record that a module cannot process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is counted and passed over.
    Skip,
    /// It goes to the dead-letter topic, with the reason.
    DeadLetter,
    /// Nothing behind it is processed.
    #[default]
    Stop,
    /// It is tried again and again, and then one of the above happens.
    Retry(Retry),
}

/// How often and how long a record is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often, at most.
    pub attempts: u32,
    /// The first pause; each is twice the one before, up to `pause_max`.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// What happens then.
    pub then: Judgement,
}

/// What becomes of a record in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Counted and passed over.
    Skip,
    /// To the dead-letter topic.
    DeadLetter,
    /// Nothing behind it is processed.
    Stop,
}

/// A record that was not processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its index in the batch.
    pub index: u32,
    /// Why.
    pub error: GuestError,
    /// What becomes of it.
    pub judgement: Judgement,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call the module with these records, then report with [`Bisect::succeeded`] or
    /// [`Bisect::failed`].
    Run(Range<u32>),
    /// Wait this long, then ask again.
    Wait(Duration),
    /// The batch is through, or stopped.
    Done,
}

/// Whether what a call returned is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Outputs and changes count.
    Keep,
    /// They do not: a part of these records runs again.
    Drop,
}

/// The search through one batch.
#[derive(Clone, Debug)]
pub struct Bisect {
    policy: OnError,
    /// Parts that are still to be run; the last one is next.
    todo: Vec<Range<u32>>,
    /// Calls so far.
    runs: u32,
    /// Whether the whole batch has failed once.
    failed_whole: bool,
    /// How often the one record that is next was tried again.
    attempts: u32,
    /// A pause before the next call.
    wait: Option<Duration>,
    judged: Vec<Judged>,
}

impl Bisect {
    /// A batch of `count` records. One without records is run once, for its timers.
    #[must_use]
    pub fn new(count: u32, policy: OnError) -> Bisect {
        Bisect {
            policy,
            todo: Vec::from([Range { start: 0, end: count }]),
            runs: 0,
            failed_whole: false,
            attempts: 0,
            wait: None,
            judged: Vec::new(),
        }
    }

    /// What to do next.
    pub fn step(&mut self) -> Step {
        if let Some(pause) = self.wait.take() {
            return Step::Wait(pause);
        }
        let Some(part) = self.todo.last().cloned() else { return Step::Done };
        if self.runs >= BATCH_RUNS_MAX {
            self.judge(part.start, GuestError::TooManyRuns, Judgement::Stop);
            return Step::Done;
        }
        self.runs += 1;
        Step::Run(part)
    }

    /// The call returned. `failures` are records that the module itself could not process, by
    /// rising index, counted from the begin of the part.
    pub fn succeeded(&mut self, failures: Vec<Failure>) -> Use {
        let Some(part) = self.todo.pop() else { return Use::Drop };
        let keeps = matches!(self.policy, OnError::Skip | OnError::DeadLetter);
        let Some(first) = failures.first().filter(|_| !keeps) else {
            for failure in failures {
                let error = GuestError::returned(failure.message);
                self.judge(part.start + failure.index, error, self.last_resort());
            }
            self.attempts = 0;
            return Use::Keep;
        };
        // The records behind the first failed one must not have been processed when it is tried
        // again, or when everything stops: so up to it, it alone, and what is behind it.
        let bad = part.start + first.index;
        let rest = bad + 1..part.end;
        if part.len() == 1 {
            let message = failures.into_iter().next().map(|failure| failure.message);
            self.todo.push(part);
            self.failed(GuestError::returned(message.unwrap_or_default()));
            return Use::Drop;
        }
        let parts = [rest, bad..bad + 1, part.start..bad];
        self.todo.extend(parts.into_iter().filter(|part| !part.is_empty()));
        self.attempts = 0;
        Use::Drop
    }

    /// The call failed: nothing of it counts.
    pub fn failed(&mut self, error: GuestError) {
        let Some(part) = self.todo.last().cloned() else { return };
        if self.runs == 1 && !self.failed_whole {
            self.failed_whole = true;
            return;
        }
        if part.len() > 1 {
            self.todo.pop();
            let middle = part.start + (part.end - part.start) / 2;
            self.todo.push(middle..part.end);
            self.todo.push(part.start..middle);
            return;
        }
        if let OnError::Retry(retry) = self.policy
            && self.attempts < retry.attempts
            && !part.is_empty()
        {
            let pause = retry.pause.saturating_mul(1 << self.attempts.min(20));
            self.wait = Some(pause.min(retry.pause_max));
            self.attempts += 1;
            return;
        }
        self.todo.pop();
        self.attempts = 0;
        // Without a record there is nothing to skip: the timers that failed would be lost.
        let judgement = if part.is_empty() { Judgement::Stop } else { self.last_resort() };
        self.judge(part.start, error, judgement);
    }

    /// No instance could be made. That is no record's fault: it is tried once more, and then
    /// nothing is processed, whatever the policy says of records.
    pub fn not_started(&mut self, error: GuestError) {
        let Some(part) = self.todo.last().cloned() else { return };
        if self.runs == 1 && !self.failed_whole {
            self.failed_whole = true;
            return;
        }
        self.judge(part.start, error, Judgement::Stop);
    }

    /// The records that were not processed, by rising index. The last one is the one that stopped
    /// everything, if anything did.
    #[must_use]
    pub fn into_judged(self) -> Vec<Judged> {
        self.judged
    }

    /// What happens to a record that is tried no more.
    fn last_resort(&self) -> Judgement {
        match self.policy {
            OnError::Skip => Judgement::Skip,
            OnError::DeadLetter => Judgement::DeadLetter,
            OnError::Stop => Judgement::Stop,
            OnError::Retry(retry) => retry.then,
        }
    }

    fn judge(&mut self, index: u32, error: GuestError, judgement: Judgement) {
        self.judged.push(Judged { index, error, judgement });
        if judgement == Judgement::Stop {
            self.todo.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a made-up module did with a batch.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Outcome {
        kept: Vec<u32>,
        judged: Vec<(u32, Judgement)>,
        runs: u32,
        waits: u32,
    }

    /// Drives the machine with a module that traps on some records and refuses others politely.
    fn drive(count: u32, policy: OnError, traps: &[u32], polite: &[u32]) -> Outcome {
        let mut machine = Bisect::new(count, policy);
        let mut outcome = Outcome::default();
        loop {
            match machine.step() {
                Step::Done => break,
                Step::Wait(_) => outcome.waits += 1,
                Step::Run(part) => {
                    outcome.runs += 1;
                    if traps.iter().any(|bad| part.contains(bad)) {
                        machine.failed(GuestError::Broken("a trap"));
                        continue;
                    }
                    let bad = polite.iter().filter(|bad| part.contains(bad));
                    let failures = bad
                        .map(|bad| Failure { index: bad - part.start, message: "no".into() })
                        .collect::<Vec<_>>();
                    let failed = failures.clone();
                    if machine.succeeded(failures) == Use::Keep {
                        let ok = |at: &u32| !failed.iter().any(|f| part.start + f.index == *at);
                        outcome.kept.extend(part.clone().filter(ok));
                    }
                }
            }
        }
        outcome.judged =
            machine.into_judged().into_iter().map(|one| (one.index, one.judgement)).collect();
        outcome
    }

    const RETRY: OnError = OnError::Retry(Retry {
        attempts: 3,
        pause: Duration::from_millis(10),
        pause_max: Duration::from_millis(25),
        then: Judgement::DeadLetter,
    });

    /// Goal: the everyday cases, number of calls included.
    #[test]
    fn examples() {
        let all = |count| (0..count).collect::<Vec<u32>>();
        let good = drive(500, OnError::Stop, &[], &[]);
        assert_eq!((good.kept, good.runs), (all(500), 1));

        let one = drive(8, OnError::Skip, &[5], &[]);
        assert_eq!(one.kept, [0, 1, 2, 3, 4, 6, 7]);
        assert_eq!(one.judged, [(5, Judgement::Skip)]);
        // Twice the whole, 0..4, 4..8, 4..6, 4, 5, 6..8.
        assert_eq!(one.runs, 8);

        let stopped = drive(8, OnError::Stop, &[5], &[]);
        assert_eq!((stopped.kept, stopped.judged), (all(5), vec![(5, Judgement::Stop)]));

        let polite = drive(8, OnError::DeadLetter, &[], &[2, 3]);
        assert_eq!((polite.kept.len(), polite.runs), (6, 1));
        assert_eq!(polite.judged, [(2, Judgement::DeadLetter), (3, Judgement::DeadLetter)]);

        let stopped = drive(8, OnError::Stop, &[], &[2, 3]);
        assert_eq!((stopped.kept, stopped.judged), (all(2), vec![(2, Judgement::Stop)]));

        let retried = drive(4, RETRY, &[1], &[]);
        assert_eq!((retried.kept, retried.waits), (vec![0, 2, 3], 3));
        assert_eq!(retried.judged, [(1, Judgement::DeadLetter)]);

        let tick = drive(0, OnError::Skip, &[], &[]);
        assert_eq!((tick.runs, tick.judged.len()), (1, 0));
    }

    /// Goal: pauses double up to their limit.
    #[test]
    fn pauses() {
        let mut machine = Bisect::new(1, RETRY);
        let mut pauses = Vec::new();
        loop {
            match machine.step() {
                Step::Run(_) => machine.failed(GuestError::Broken("a trap")),
                Step::Wait(pause) => pauses.push(pause.as_millis()),
                Step::Done => break,
            }
        }
        assert_eq!(pauses, [10, 20, 25]);
    }

    /// Goal: a batch of nothing but bad records ends, and says so.
    #[test]
    fn calls_are_bounded() {
        let bad: Vec<u32> = (0..10_000).collect();
        let outcome = drive(10_000, OnError::Skip, &bad, &[]);
        assert!(outcome.runs <= BATCH_RUNS_MAX, "{}", outcome.runs);
        assert_eq!(outcome.judged.last().map(|last| last.1), Some(Judgement::Stop));
    }

    /// Goal: a failing tick stops, since no record can be blamed.
    #[test]
    fn a_tick_that_fails() {
        let mut machine = Bisect::new(0, OnError::Skip);
        assert_eq!(machine.step(), Step::Run(0..0));
        machine.failed(GuestError::Broken("a trap"));
        assert_eq!(machine.step(), Step::Run(0..0));
        machine.failed(GuestError::Broken("a trap"));
        assert_eq!(machine.step(), Step::Done);
        assert_eq!(machine.into_judged()[0].judgement, Judgement::Stop);
    }

    /// Goal: a module that does not start is tried twice, and no record is blamed for it.
    #[test]
    fn a_module_that_does_not_start() {
        let mut machine = Bisect::new(100, OnError::Skip);
        for _ in 0..2 {
            assert_eq!(machine.step(), Step::Run(0..100));
            machine.not_started(GuestError::Broken("no instance"));
        }
        assert_eq!(machine.step(), Step::Done);
        let judged = machine.into_judged();
        assert_eq!((judged[0].index, judged[0].judgement), (0, Judgement::Stop));
    }

    proptest! {
        /// Goal: whatever is bad, each record in front of a stop is kept or judged exactly once, in
        /// order, and only bad ones are judged.
        #[test]
        fn each_record_once(
            count in 0u32..60,
            traps in proptest::collection::btree_set(0u32..60, 0..6),
            polite in proptest::collection::btree_set(0u32..60, 0..6),
            policy in 0usize..4,
        ) {
            let policy = [OnError::Skip, OnError::DeadLetter, OnError::Stop, RETRY][policy];
            let bad = |set: &std::collections::BTreeSet<u32>| {
                set.iter().copied().filter(|at| *at < count).collect::<Vec<_>>()
            };
            let (traps, polite) = (bad(&traps), bad(&polite));
            let outcome = drive(count, policy, &traps, &polite);
            prop_assert!(outcome.kept.is_sorted());
            prop_assert!(outcome.judged.is_sorted_by_key(|one| one.0));
            let stop = outcome.judged.iter().find(|one| one.1 == Judgement::Stop);
            let end = stop.map_or(count, |stop| stop.0 + 1);
            let mut all = outcome.kept.clone();
            all.extend(outcome.judged.iter().map(|one| one.0));
            all.sort_unstable();
            prop_assert_eq!(all, (0..end).collect::<Vec<_>>());
            for (index, _) in &outcome.judged {
                prop_assert!(traps.contains(index) || polite.contains(index));
            }
        }
    }
}
