//! Compares what a replay made with what the node wrote, byte for byte.
//!
//! An output does not say of which input it was made. The node knows which entries of an output a
//! lane wrote, and of those that are the lane's home up to which input they go. What lies in them
//! must hold the replay's records in order and without a gap; and nothing else, where it is known
//! that the entries are of the very range that was replayed.

use super::run::Output;
use super::search::{Closed, Found, Parting, Search};
use crate::commands::sdk;
use crate::exit::{Exit, Failure};
use std::collections::BTreeMap;
use weir_client::{Client, Consumer, ResetPolicy, StartAt};
use weir_core::deploy::{Deployment, Mode};
use weir_core::record::Record;
use weir_core::wire::deployments::{DeploymentInfo, LaneOutput};
use weir_core::wire::message::TopicInfo;
use weir_core::{Offset, PartitionIndex};

/// Most bytes of outputs that are held to be compared.
const HELD_BYTES_MAX: usize = 256 << 20;
/// What a record takes besides key, value and headers, about.
const RECORD_BYTES: usize = 160;

/// The outputs of a replay, by topic and partition.
#[derive(Default)]
pub struct Held {
    by_destination: BTreeMap<(usize, PartitionIndex), (Vec<Record>, Vec<Offset>)>,
    bytes: usize,
}

impl Held {
    /// Takes an output.
    ///
    /// # Errors
    /// There are too many to be compared at once.
    pub fn take(&mut self, output: Output) -> Result<(), Failure> {
        self.bytes += RECORD_BYTES + output.record.payload_bytes();
        if self.bytes > HELD_BYTES_MAX {
            let what = format!("more than {} MiB of outputs to compare", HELD_BYTES_MAX >> 20);
            return Err(Failure::new(Exit::Error, what)
                .next(format!("Compare less: --to {} ends before them.", output.source)));
        }
        let (records, sources) =
            self.by_destination.entry((output.topic, output.partition)).or_default();
        records.push(output.record);
        sources.push(output.source);
        Ok(())
    }
}

/// How one destination compares.
pub struct Compared {
    /// The topic.
    pub topic: String,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// Where it begins.
    pub log_start: Offset,
    /// How many records the replay made for it.
    pub replayed: u64,
    /// How the node's are.
    pub found: Found,
    /// The replay's record at which they part, and what it was made of.
    pub at: Option<(Offset, Record)>,
}

impl Compared {
    /// Whether both are the same.
    pub fn is_same(&self) -> bool {
        matches!(self.found, Found::Same(_))
    }
}

/// What is compared.
pub struct Comparison<'a> {
    /// The node.
    pub client: &'a Client,
    /// What was replayed, as it was when the replay began.
    pub info: &'a DeploymentInfo,
    /// Its output topics.
    pub topics: &'a [TopicInfo],
    /// The input partition.
    pub index: PartitionIndex,
    /// Which of its records.
    pub range: (Offset, Offset),
}

/// Entries that were written by the lane, and whether they are of the range and of nothing else.
struct Written {
    entries: Vec<LaneOutput>,
    closed: Closed,
}

impl Comparison<'_> {
    /// Compares all destinations.
    ///
    /// # Errors
    /// The outputs cannot be read.
    pub async fn run(&self, held: &Held) -> Result<Vec<Compared>, Failure> {
        let mut all = Vec::new();
        for (at, topic) in self.topics.iter().enumerate() {
            for partition in (0..topic.config.partitions).map(PartitionIndex) {
                let direct = self.deployment().mode == Mode::Direct;
                if !direct || partition == self.index {
                    all.extend(self.one((at, topic), partition, held).await?);
                }
            }
        }
        Ok(all)
    }

    fn deployment(&self) -> &Deployment {
        &self.info.deployment
    }

    async fn one(
        &self,
        (at, topic): (usize, &TopicInfo),
        partition: PartitionIndex,
        held: &Held,
    ) -> Result<Option<Compared>, Failure> {
        let nothing = (Vec::new(), Vec::new());
        let (records, sources) = held.by_destination.get(&(at, partition)).unwrap_or(&nothing);
        let mut written = self.written(topic, partition).await?;
        let asked = [(partition.0, StartAt::Earliest)];
        let bounds = self.client.admin().offsets(&topic.name, &asked).await;
        let bounds = bounds.map_err(|error| {
            sdk::request_failure(&format!("looking at topic {}", topic.name), &error)
        })?;
        let log_start = bounds.first().map_or(Offset::ZERO, |bounds| bounds.log_start);
        // What is gone may have been there.
        written.closed.begin &= log_start == Offset::ZERO;
        if records.is_empty() && written.entries.is_empty() {
            return Ok(None);
        }
        let mut search = Search::new(records);
        let mut entries = written.entries.iter().peekable();
        let mut consumer =
            self.consumer(topic, partition, entries.peek().map(|e| e.offset)).await?;
        while let (Some(reader), Some(_)) = (&mut consumer, entries.peek()) {
            let batch = reader.next_batch().await;
            let batch = batch.map_err(|error| sdk::consume_failure(&error))?;
            let Some(batch) = batch else { break };
            for record in batch.owned_records() {
                while entries.next_if(|entry| entry.end <= record.offset).is_some() {}
                if entries.peek().is_some_and(|entry| entry.offset <= record.offset) {
                    let (timestamp, offset) = (record.timestamp, record.offset);
                    let (key, value, headers) = (record.key, record.value, record.headers);
                    search.push(offset, &Record { timestamp, key, value, headers });
                }
            }
        }
        let found = search.end(written.closed);
        let at = match &found {
            Found::Parts(Parting { same, .. }) => {
                sources.get(*same).copied().zip(records.get(*same).cloned())
            }
            _ => None,
        };
        let (topic, replayed) = (topic.name.clone(), records.len() as u64);
        Ok(Some(Compared { topic, partition, log_start, replayed, found, at }))
    }

    async fn consumer(
        &self,
        topic: &TopicInfo,
        partition: PartitionIndex,
        from: Option<Offset>,
    ) -> Result<Option<Consumer>, Failure> {
        let Some(from) = from else { return Ok(None) };
        let consumer = self.client.consumer().until_end(true).reset(ResetPolicy::Fail);
        let mut consumer = consumer.build();
        let assigned =
            consumer.assign(&[(topic.name.as_str(), partition.0, StartAt::Offset(from))]).await;
        assigned.map_err(|error| sdk::assign_failure(&error))?;
        Ok(Some(consumer))
    }

    /// What the lane wrote there, of the range as far as that is known.
    async fn written(
        &self,
        topic: &TopicInfo,
        partition: PartitionIndex,
    ) -> Result<Written, Failure> {
        let name = self.deployment().name.as_str();
        let doing = || format!("looking at the outputs of {name}");
        let (mut all, mut from) = (Vec::new(), Offset::ZERO);
        loop {
            let (lane, to) = ((name, self.index), (topic.id, partition));
            let page = self.client.admin().lane_outputs(lane, to, from).await;
            let (entries, next) = page.map_err(|error| sdk::request_failure(&doing(), &error))?;
            all.extend(entries);
            if next <= from {
                break;
            }
            from = next;
        }
        if self.deployment().mode == Mode::Direct {
            return Ok(of_range(all, self.range));
        }
        // By way of an outbox inputs and outputs are only together at both ends of the log.
        let (begin, end) = self.range;
        let lane = self.info.partitions.iter().find(|lane| lane.partition == self.index);
        let now = self.client.admin().deployment(name).await;
        let now = now.map_err(|error| sdk::request_failure(&doing(), &error))?;
        let lane_now = now.partitions.iter().find(|lane| lane.partition == self.index);
        let never_replaced = self.deployment().takeovers == 0;
        let still = lane.zip(lane_now).is_some_and(|(lane, now)| {
            lane.position == Some(end) && now.position == Some(end) && now.undelivered == 0
        });
        let closed = Closed {
            begin: never_replaced && begin == Offset::ZERO && !self.deployment().spec.from_latest,
            end: never_replaced && still,
        };
        Ok(Written { entries: all, closed })
    }
}

/// The entries that hold what was made of a range of the input. One that goes beyond the range is
/// among them.
fn of_range(all: Vec<LaneOutput>, (begin, end): (Offset, Offset)) -> Written {
    let mut closed = Closed { begin: begin == Offset::ZERO, end: false };
    let mut entries: Vec<LaneOutput> = Vec::new();
    let mut before: Option<Offset> = None;
    let mut back = false;
    for entry in all {
        let Some(input) = entry.input else { continue };
        // State and position went back to a snapshot: inputs come again, from an unknown one on.
        let went_back = before.is_some_and(|before| input < before);
        back |= went_back;
        let from = before.replace(input).filter(|_| !went_back);
        if input <= begin {
            closed.begin |= input == begin;
            continue;
        }
        if from.is_none_or(|from| from < end) {
            closed.end |= input == end;
            entries.push(entry);
        } else {
            closed.end |= from == Some(end);
        }
    }
    if back {
        closed = Closed::default();
    }
    Written { entries, closed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: i64, input: i64) -> LaneOutput {
        let input = Some(Offset(input));
        LaneOutput { offset: Offset(offset), end: Offset(offset + 1), input }
    }

    /// Goal: the entries of a range are found by where the input went on behind each, and it is
    /// known when they hold nothing else.
    #[test]
    fn entries_of_a_range() {
        let all = || vec![entry(0, 10), entry(1, 20), entry(5, 30), entry(6, 40)];
        let of = |begin, end| {
            let Written { entries, closed } = of_range(all(), (Offset(begin), Offset(end)));
            let offsets: Vec<i64> = entries.iter().map(|entry| entry.offset.0).collect();
            (offsets, closed.begin, closed.end)
        };
        assert_eq!(of(0, 40), (vec![0, 1, 5, 6], true, true));
        assert_eq!(of(10, 30), (vec![1, 5], true, true));
        assert_eq!(of(10, 25), (vec![1, 5], true, false));
        assert_eq!(of(15, 30), (vec![1, 5], false, true));
        assert_eq!(of(0, 5), (vec![0], true, false));
        assert_eq!(of(40, 50), (vec![], true, false));
        let again = vec![entry(0, 10), entry(1, 20), entry(2, 10), entry(3, 20)];
        let Written { entries, closed } = of_range(again, (Offset(0), Offset(20)));
        assert_eq!((entries.len(), closed), (4, Closed::default()));
    }
}
