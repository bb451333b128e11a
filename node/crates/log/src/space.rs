//! When a shard's writer asks how much room the disk has left. Pure: times and counts come in.
//!
//! Asking at every commit costs a system call that small commits notice. So it is asked again once
//! the shard has written its share of the room that there was, at most [`SHARE_MAX`], and at the
//! latest after [`EVERY`], for what others write. Commits larger than the share are each followed
//! by a look.

use std::time::{Duration, Instant};

/// Longest time between two looks while there are commits.
const EVERY: Duration = Duration::from_millis(200);

/// Most bytes that a shard writes between two looks, in commits smaller than that: so this is all
/// that it can write beyond the line while others fill the disk.
const SHARE_MAX: u64 = 1 << 20;

/// The last look.
#[derive(Debug, Default)]
pub(crate) struct SpaceWatch {
    last: Option<Look>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    /// Bytes that the shard had written by then.
    written: u64,
    /// Bytes that it may write before it looks again.
    share: u64,
}

impl SpaceWatch {
    /// Whether to look now, with so many bytes written since the start.
    pub(crate) fn is_due(&self, now: Instant, written: u64) -> bool {
        self.last.as_ref().is_none_or(|last| {
            now.saturating_duration_since(last.at) >= EVERY
                || written.saturating_sub(last.written) >= last.share
        })
    }

    /// There are `free` bytes, of which `reserve` are not to be touched; `shards` write to them.
    pub(crate) fn saw(
        &mut self,
        now: Instant,
        written: u64,
        (free, reserve): (u64, u64),
        shards: u16,
    ) {
        // Half of it: what redb allocates ahead and the next commit need room, too.
        let share = free.saturating_sub(reserve) / 2 / u64::from(shards.max(1));
        self.last = Some(Look { at: now, written, share: share.min(SHARE_MAX) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: however much each shard writes, the line is seen when it is crossed, as if every
    /// commit looked. Method: shards that write in turns, each some commits ahead of the next.
    #[test]
    fn writing_never_reaches_the_reserve_unseen() {
        let (reserve, shards, now) = (64 << 20, 4_u16, Instant::now());
        for step in [1_000, 100_000, 3 << 20] {
            let mut watches: Vec<(SpaceWatch, u64)> =
                (0..shards).map(|_| Default::default()).collect();
            let (mut free, mut looks, mut commits) = (reserve + (200 << 20), 0, 0_u64);
            while free >= reserve {
                let turn = commits as usize % watches.len();
                let (watch, written) = &mut watches[turn];
                *written += step;
                free -= step;
                commits += 1;
                if watch.is_due(now, *written) {
                    looks += 1;
                    watch.saw(now, *written, (free, reserve), shards);
                } else {
                    assert!(free >= reserve, "{step}: crossed unseen, {free} are left");
                }
            }
            match step {
                1_000 => assert!(looks * 100 < commits, "{looks} looks for {commits} commits"),
                100_000 => assert!(looks < commits, "{looks} looks for {commits} commits"),
                _ => assert_eq!(looks, commits, "large commits"),
            }
        }
    }

    /// Goal: others may fill the disk, so time alone makes it due, and so does the first commit.
    #[test]
    fn time_makes_it_due() {
        let mut watch = SpaceWatch::default();
        let start = Instant::now();
        assert!(watch.is_due(start, 0));
        watch.saw(start, 0, (1 << 40, 0), 1);
        assert!(!watch.is_due(start + EVERY / 2, SHARE_MAX - 1));
        assert!(watch.is_due(start + EVERY, 1 << 20));
        watch.saw(start, 0, (5, 10), 1);
        assert!(watch.is_due(start, 0), "below the reserve every commit looks");
    }
}
