//! Whether a small append waits a moment for others, so that they share one commit. Pure: times
//! come in as what has passed since the node began to serve.
//!
//! A durable commit costs a sync, some 25 KB of writes and a few hundred microseconds of CPU,
//! whatever it holds. Where many producers send a record now and then, each record would pay all
//! of it. Then an append is held back for the *trickle linger* (the node's setting
//! `storage.trickle_linger`), and what comes meanwhile is committed with it. PostgreSQL does the
//! same with `commit_delay` and `commit_siblings`.
//!
//! An append is held only if all of this is so:
//!
//! - its topic has no commit linger of its own: what the operator says for a topic rules;
//! - it has at most [`PACED_BYTES_MAX`], so bulk is never slower;
//! - its stream was silent for [`SILENCES`] lingers: who waits for an answer before it sends more,
//!   or sends much, is not slowed, and a stream is held at most half as long as it paused;
//! - at least [`STREAMS_MIN`] streams sent in this second or the last: a lone producer has its
//!   answer at once;
//! - at their rate another append is due within the linger: nobody waits for nobody.
//!
//! So an acknowledgement comes at most one linger later than it would, and only for streams that
//! trickle among others. An append that is not held takes all that wait along.

use std::time::Duration;

/// Largest batch that is held back, in bytes: what is larger is worth a commit of its own.
pub(crate) const PACED_BYTES_MAX: usize = 16 * 1024;
/// Fewest streams that must be sending.
pub(crate) const STREAMS_MIN: u32 = 4;
/// For how many lingers a stream must have been silent.
pub(crate) const SILENCES: u32 = 2;

/// Time since the node began to serve.
type Now = Duration;

/// What the produce streams of a node do, as far as it decides who waits.
#[derive(Debug)]
pub(crate) struct Pace {
    linger: Duration,
    /// The second that `these` are of.
    second: u64,
    these: Counts,
    before: Counts,
    held: u64,
}

/// What came within one second.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    streams: u32,
    appends: u32,
}

/// What is remembered of one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamPace {
    last: Option<Now>,
}

impl Pace {
    /// Holds appends for `linger`; zero: never.
    pub(crate) fn new(linger: Duration) -> Pace {
        let (these, before) = (Counts::default(), Counts::default());
        Pace { linger, second: 0, these, before, held: 0 }
    }

    /// An append of `bytes` came on `stream`. Returns how long it may wait for others.
    pub(crate) fn linger(&mut self, now: Now, stream: &mut StreamPace, bytes: usize) -> Duration {
        if self.linger.is_zero() {
            return Duration::ZERO;
        }
        self.turn_to(now.as_secs());
        let silence = stream.last.map(|last| now.saturating_sub(last));
        if stream.last.is_none_or(|last| last.as_secs() != self.second) {
            self.these.streams += 1;
        }
        self.these.appends = self.these.appends.saturating_add(1);
        stream.last = Some(now);
        let trickles = silence.is_some_and(|silence| silence >= self.linger * SILENCES);
        let streams = self.these.streams.max(self.before.streams);
        let appends = f64::from(self.these.appends.max(self.before.appends));
        let company = appends * self.linger.as_secs_f64() >= 1.0;
        if bytes > PACED_BYTES_MAX || !trickles || streams < STREAMS_MIN || !company {
            return Duration::ZERO;
        }
        self.held += 1;
        self.linger
    }

    /// How many appends were held back so far.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    fn turn_to(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        let follows = second == self.second + 1;
        self.before = if follows { self.these } else { Counts::default() };
        self.these = Counts::default();
        self.second = second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(20);

    /// Streams that each send `bytes` every `gap`, one after the other, for three seconds. Returns
    /// which share of the appends of the last second was held.
    fn held(streams: usize, gap: Duration, bytes: usize) -> f64 {
        let mut pace = Pace::new(LINGER);
        let mut each: Vec<StreamPace> = (0..streams).map(|_| StreamPace::default()).collect();
        let (mut appends, mut held) = (0, 0);
        let rounds = (3_000.0 / gap.as_secs_f64() / 1e3).ceil() as u32;
        for round in 0..rounds {
            for (n, stream) in each.iter_mut().enumerate() {
                let now = gap * round + gap * n as u32 / streams as u32;
                let linger = pace.linger(now, stream, bytes);
                assert!(linger.is_zero() || linger == LINGER);
                if now >= Duration::from_secs(2) {
                    appends += 1;
                    held += u32::from(!linger.is_zero());
                }
            }
        }
        f64::from(held) / f64::from(appends)
    }

    /// Goal: those that trickle among others wait, and nobody else does.
    #[test]
    fn who_waits() {
        let ms = Duration::from_millis;
        // 200 records a second from 50 producers.
        assert_eq!(held(50, ms(250), 300), 1.0);
        assert_eq!(held(4, ms(50), 300), 1.0);
        // Too few for company, by number or by rate.
        assert_eq!(held(3, ms(50), 300), 0.0);
        assert_eq!(held(4, ms(500), 300), 0.0);
        // Large ones, and busy ones, each for itself.
        assert_eq!(held(50, ms(250), PACED_BYTES_MAX + 1), 0.0);
        assert_eq!(held(50, ms(30), 300), 0.0);
    }

    /// Goal: producers that wait for each answer never get stuck at the pace of the linger, however
    /// many they are: an answer that comes late makes the next append look busy, not silent.
    #[test]
    fn closed_loops_are_not_slowed() {
        for think in [0, 1, 5, 15] {
            let mut pace = Pace::new(LINGER);
            let mut streams: Vec<(StreamPace, Duration)> =
                (0..10).map(|_| Default::default()).collect();
            let mut held = 0;
            for _ in 0..1_000 {
                for (stream, now) in &mut streams {
                    let linger = pace.linger(*now, stream, 100);
                    held += u32::from(!linger.is_zero());
                    *now += linger + Duration::from_millis(1 + think);
                }
            }
            assert_eq!(held, 0, "thinking for {think} ms");
        }
    }

    /// Goal: no stream is slowed to less than two thirds of its own pace.
    #[test]
    fn a_stream_waits_at_most_half_of_its_pause() {
        let mut pace = Pace::new(LINGER);
        let mut streams: Vec<(StreamPace, Duration)> =
            (0..10).map(|_| Default::default()).collect();
        let pause = LINGER * SILENCES;
        let rounds = 200;
        for _ in 0..rounds {
            for (stream, now) in &mut streams {
                *now += pace.linger(*now, stream, 100) + pause;
            }
        }
        assert!(pace.held() > 0);
        assert!(streams.iter().all(|(_, now)| *now <= pause * rounds * 3 / 2));
    }

    /// Goal: the others count as long as they send, and no longer; a long silence forgets them.
    #[test]
    fn company_is_forgotten() {
        let mut pace = Pace::new(LINGER);
        let mut streams: Vec<StreamPace> =
            (0..STREAMS_MIN).map(|_| StreamPace::default()).collect();
        for n in 0..100 {
            for stream in &mut streams {
                let _ = pace.linger(Duration::from_millis(n * 50), stream, 100);
            }
        }
        let lone = &mut streams[0];
        assert_eq!(pace.linger(Duration::from_millis(5_100), lone, 100), LINGER);
        assert_eq!(pace.linger(Duration::from_millis(6_100), lone, 100), Duration::ZERO);
        assert_eq!(pace.linger(Duration::from_secs(60), lone, 100), Duration::ZERO);
    }

    /// Goal: zero turns it off.
    #[test]
    fn off() {
        let mut pace = Pace::new(Duration::ZERO);
        let mut stream = StreamPace::default();
        for second in 0..100 {
            assert!(pace.linger(Duration::from_secs(second), &mut stream, 1).is_zero());
        }
        assert_eq!(pace.held(), 0);
    }
}
