//! Members of a consumer group at work, and what they saw, in the order in which they saw it.
//!
//! Goal of every test that uses it: each record that was confirmed is seen by some member; in each
//! partition a member goes on exactly where it or the one before it was, or further back after a
//! crash, and then in order.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weir_client::{Client, ConsumerBuilder, MemberAssignment, ProducerRecord};

/// Nothing here takes long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One record, seen by one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Who saw it.
    pub member: u32,
    /// In which partition.
    pub partition: u32,
    /// Which one.
    pub offset: i64,
}

/// What all members saw, in that order.
#[derive(Debug, Default)]
pub struct Sights(Mutex<Vec<Sight>>);

/// Whether a record may be seen more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// No: all members came and went in order.
    Never,
    /// Yes: some were killed, or were silent for too long.
    AfterCrashes,
}

impl Sights {
    /// Adds some.
    pub fn add(&self, more: impl IntoIterator<Item = Sight>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
    }

    /// Waits until a member saw something.
    ///
    /// # Errors
    /// If it does not.
    pub async fn wait_for_member(&self, member: u32) -> Result<()> {
        let begun = Instant::now();
        while !self.all().iter().any(|sight| sight.member == member) {
            ensure!(begun.elapsed() < PATIENCE, "member {member} saw nothing");
            // sleep: between looks, within a bound
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn all(&self) -> Vec<Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every record below these ends was seen.
    ///
    /// # Errors
    /// What is missing in the end.
    pub async fn wait_for(&self, ends: &BTreeMap<u32, i64>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let mut seen: BTreeMap<u32, BTreeSet<i64>> = BTreeMap::new();
            for sight in self.all() {
                seen.entry(sight.partition).or_default().insert(sight.offset);
            }
            let of = |partition: &u32| seen.get(partition).map_or(0, |seen| seen.len() as i64);
            if ends.iter().all(|(partition, end)| of(partition) == *end) {
                return Ok(());
            }
            let counts: Vec<_> = ends.iter().map(|(p, end)| (*p, of(p), *end)).collect();
            ensure!(begun.elapsed() < PATIENCE, "not all was seen (of each, and all): {counts:?}");
            // sleep: between looks, within a bound
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether everything was seen in order, by one member after the other.
    ///
    /// # Errors
    /// What was not.
    pub fn check(&self, again: Again) -> Result<()> {
        let mut partitions: BTreeMap<u32, Vec<Sight>> = BTreeMap::new();
        for sight in self.all() {
            partitions.entry(sight.partition).or_default().push(sight);
        }
        for (partition, sights) in partitions {
            let mut next = 0;
            let mut before: Option<Sight> = None;
            for (n, &sight) in sights.iter().enumerate() {
                let follows = before.is_some_and(|b| b.offset + 1 == sight.offset);
                let same = before.is_some_and(|b| b.member == sight.member);
                let around = &sights[n.saturating_sub(3)..(n + 3).min(sights.len())];
                let what = format!("in partition {partition}, where {next} is next: {around:?}");
                ensure!(sight.offset <= next, "a record was passed over {what}");
                match again {
                    Again::Never => ensure!(sight.offset == next, "a record came twice {what}"),
                    // It may begin anew where the group's position is, and then goes on in order.
                    Again::AfterCrashes => ensure!(
                        follows || !same || before.is_some_and(|b| sight.offset <= b.offset),
                        "a member passed over a record {what}"
                    ),
                }
                next = next.max(sight.offset + 1);
                before = Some(sight);
            }
        }
        Ok(())
    }
}

/// A member at work.
#[derive(Debug)]
pub struct Worker {
    assigned: watch::Receiver<MemberAssignment>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

impl Worker {
    /// Joins, and puts what it sees into `sights`, as the member of this number.
    ///
    /// # Errors
    /// If it cannot join.
    pub async fn start(
        builder: ConsumerBuilder,
        topic: &str,
        number: u32,
        sights: &Arc<Sights>,
    ) -> Result<Worker> {
        let mut consumer = builder.subscribe(&[topic]).await?;
        let assigned = consumer.watch_assignment();
        let (stop, sights) = (Arc::<AtomicBool>::default(), sights.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let batch = match timeout(Duration::from_millis(50), consumer.next_batch()).await {
                    Ok(batch) => batch?.context("there is nothing more to come")?,
                    // Nothing new for now: look whether it is the end.
                    Err(_) => continue,
                };
                let partition = batch.partition();
                let offsets = batch.records().map(|record| record.offset.0);
                sights.add(offsets.map(|offset| Sight { member: number, partition, offset }));
            }
            Ok(consumer.close().await?)
        });
        Ok(Worker { assigned, stop, task })
    }

    /// What it was given last.
    #[must_use]
    pub fn partitions(&self) -> BTreeSet<u32> {
        self.assigned.borrow().partitions.iter().map(|(_, partition)| *partition).collect()
    }

    /// Waits until it has so many partitions, and returns them.
    ///
    /// # Errors
    /// If it does not come about.
    pub async fn wait_for(&mut self, count: usize) -> Result<BTreeSet<u32>> {
        let reached = self.assigned.wait_for(|assigned| assigned.partitions.len() == count);
        // What it returns borrows the channel.
        let reached = timeout(PATIENCE, reached).await.map(|reached| reached.map(drop));
        let given = self.partitions();
        reached.with_context(|| format!("it has {given:?}, not {count}"))??;
        Ok(self.partitions())
    }

    /// Leaves the group in order.
    ///
    /// # Errors
    /// What it failed with.
    pub async fn close(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.task).await.context("it does not end")??
    }

    /// Waits until it fails by itself, and returns how.
    ///
    /// # Errors
    /// If it does not.
    pub async fn failure(self) -> Result<anyhow::Error> {
        let ended = timeout(PATIENCE, self.task).await.context("it goes on")??;
        ended.err().context("it ended without an error")
    }

    /// Ends without a word to anybody, as a process that is killed.
    pub fn kill(self) {
        self.task.abort();
    }
}

/// Produces to all partitions of a topic until it is told to stop.
pub struct Feed {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<BTreeMap<u32, i64>>>,
}

impl Feed {
    /// Starts. The topic must have no records yet.
    #[must_use]
    pub fn start(client: &Client, topic: &'static str, partitions: u32) -> Feed {
        let stop = Arc::<AtomicBool>::default();
        let (client, stopped) = (client.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let producer = client.producer().linger(Duration::from_millis(1)).build().await?;
            let mut ends = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let mut deliveries = Vec::new();
                for partition in 0..partitions {
                    for _ in 0..5 {
                        let record = ProducerRecord::new(topic, "x").with_partition(partition);
                        deliveries.push(producer.send(record).await?);
                    }
                }
                for delivery in deliveries {
                    let at = delivery.await?;
                    let end = ends.entry(at.partition).or_insert(0);
                    *end = at.offset.0.max(*end - 1) + 1;
                }
                // sleep: a source of readings is no benchmark
                sleep(Duration::from_millis(5)).await;
            }
            producer.close().await?;
            Ok(ends)
        });
        Feed { stop, task }
    }

    /// Stops. Returns the end of each partition.
    ///
    /// # Errors
    /// If a record was not confirmed.
    pub async fn stop(self) -> Result<BTreeMap<u32, i64>> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE, self.task).await.context("the producer hangs")??
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(again: Again, seen: &[(u32, i64)]) -> bool {
        let sights = Sights::default();
        let of = |&(member, offset): &(u32, i64)| Sight { member, partition: 0, offset };
        sights.add(seen.iter().map(of));
        sights.check(again).is_ok()
    }

    /// Goal: the check sees gaps, repetitions and disorder.
    #[test]
    fn a_check_that_sees() {
        assert!(check(Again::Never, &[(1, 0), (1, 1), (2, 2), (2, 3)]));
        assert!(!check(Again::Never, &[(1, 0), (1, 2)]));
        assert!(!check(Again::Never, &[(1, 0), (1, 1), (2, 1)]));
        assert!(check(Again::AfterCrashes, &[(1, 0), (1, 1), (2, 1), (2, 2)]));
        assert!(!check(Again::AfterCrashes, &[(1, 0), (1, 1), (2, 3)]));
        assert!(!check(Again::AfterCrashes, &[(1, 0), (2, 0), (2, 2)]));
        assert!(!check(Again::AfterCrashes, &[(1, 0), (1, 1), (1, 2), (2, 0), (2, 2)]));
    }
}
