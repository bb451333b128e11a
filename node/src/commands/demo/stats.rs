//! What the consumer of the demo has seen. Pure: records and times come in as arguments.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::Value;
use weir_core::Offset;
use weir_core::record::RecordView;

use super::modules::EXAMPLES;
use crate::commands::figures::Latencies;

/// Header that carries when a record was handed to the producer: µs since 1970, as text. Event
/// times do not serve: those of a replayed file lie in the past.
pub const SENT_HEADER: &str = "demo-sent-us";
/// Rates are over this long.
const RATE_SPAN: Duration = Duration::from_secs(5);
/// Samples of CPU usage that are remembered.
const CPU_SAMPLES: usize = 30;
/// Devices that are remembered; the first ones stay.
const DEVICES_MAX: usize = 64;

/// Everything seen.
#[derive(Debug, Default)]
pub struct Stats {
    /// By topic and partition.
    pub partitions: BTreeMap<(String, u32), PartitionStats>,
    /// The latest readings by sensor, such as `memory` or `disk//`.
    pub sensors: BTreeMap<String, Value>,
    /// CPU usage of late, in percent, oldest first.
    pub cpu: VecDeque<f64>,
    /// The latest position of each device.
    pub positions: BTreeMap<String, Value>,
    /// The latest record of each topic that modules make.
    pub derived: BTreeMap<&'static str, Value>,
    /// End-to-end latencies of everything that was collected.
    pub latencies: Latencies,
}

/// One partition.
#[derive(Debug, Default)]
pub struct PartitionStats {
    /// Records seen.
    pub records: u64,
    /// Bytes of their keys, values and headers.
    pub bytes: u64,
    /// From handing over to the producer to arrival at the consumer.
    pub latencies: Latencies,
    /// The offset after the last record seen; at first, where reading began.
    pub next: Offset,
    /// The end of what could be seen, as of the last batch.
    pub high_watermark: Offset,
    /// Records at offsets that were passed already. Always 0, or it is a bug. Gaps are none: an
    /// entry without records takes an offset, too.
    pub out_of_order: u64,
    /// Records and bytes at earlier times, oldest first.
    history: VecDeque<(Duration, u64, u64)>,
}

impl PartitionStats {
    /// Records that could be seen and were not yet.
    pub fn lag(&self) -> u64 {
        self.high_watermark.since(self.next)
    }

    /// Records and bytes per second of late.
    pub fn rates(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.history.front(), self.history.back()) else {
            return (0.0, 0.0);
        };
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        if seconds <= 0.0 {
            return (0.0, 0.0);
        }
        ((last.1 - first.1) as f64 / seconds, (last.2 - first.2) as f64 / seconds)
    }

    fn handle_tick(&mut self, now: Duration) {
        self.history.push_back((now, self.records, self.bytes));
        while self.history.len() > 2
            && self.history.front().is_some_and(|(at, ..)| *at + RATE_SPAN < now)
        {
            self.history.pop_front();
        }
    }
}

/// Where a record was seen, and when.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Which of its partitions.
    pub partition: u32,
    /// The end of what could be seen then.
    pub high_watermark: Offset,
    /// The wall clock, µs since 1970.
    pub now_us: i64,
}

impl Stats {
    /// A partition that is to be shown although nothing was seen of it yet.
    pub fn add_partition(&mut self, topic: &str, partition: u32, start: Offset) {
        let stats = self.partitions.entry((topic.to_owned(), partition)).or_default();
        (stats.next, stats.high_watermark) = (start, start);
    }

    /// A record was seen.
    pub fn handle_record(&mut self, seen: Seen<'_>, record: &RecordView<'_>) {
        let key = (seen.topic.to_owned(), seen.partition);
        let stats = self.partitions.entry(key).or_default();
        stats.records += 1;
        stats.bytes += payload_bytes(record) as u64;
        stats.out_of_order += u64::from(record.offset < stats.next);
        stats.next = record.offset.plus(1);
        stats.high_watermark = stats.high_watermark.max(seen.high_watermark);
        if let Some(sent_us) = sent_us(record) {
            let us = u64::try_from(seen.now_us - sent_us).unwrap_or(0);
            stats.latencies.record(Duration::from_micros(us));
            if !is_derived(seen.topic) {
                self.latencies.record(Duration::from_micros(us));
            }
        }
        self.handle_value(seen.topic, record);
    }

    /// Rates and lag are to be as of `now`, a time since the start.
    pub fn handle_tick(&mut self, now: Duration) {
        for stats in self.partitions.values_mut() {
            stats.handle_tick(now);
        }
    }

    /// All records seen that were collected.
    pub fn records(&self) -> u64 {
        let raw = self.partitions.iter().filter(|((topic, _), _)| !is_derived(topic));
        raw.map(|(_, stats)| stats.records).sum()
    }

    /// Records, bytes and latencies of one topic.
    pub fn topic(&self, topic: &str) -> (u64, u64, Latencies) {
        let mut sum = (0, 0, Latencies::default());
        for stats in self.partitions.iter().filter(|((name, _), _)| name == topic).map(|(_, s)| s) {
            sum.0 += stats.records;
            sum.1 += stats.bytes;
            sum.2.merge(&stats.latencies);
        }
        sum
    }

    /// Remembers what is shown of a record: readings of this machine, positions, and what modules
    /// made last.
    fn handle_value(&mut self, topic: &str, record: &RecordView<'_>) {
        let value = record.value.unwrap_or_default();
        let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(value) else { return };
        if let Some(example) = EXAMPLES.iter().find(|example| example.to == topic) {
            self.derived.insert(example.to, value);
            return;
        }
        if value.get("fix").is_some() {
            let device = value.get("device").and_then(Value::as_str).unwrap_or("gps").to_owned();
            if self.positions.len() < DEVICES_MAX || self.positions.contains_key(&device) {
                self.positions.insert(device, value);
            }
            return;
        }
        let Some(Ok(key)) = record.key.map(std::str::from_utf8) else { return };
        if key == "cpu/total"
            && let Some(percent) = value.get("usage_percent").and_then(Value::as_f64)
        {
            if self.cpu.len() == CPU_SAMPLES {
                self.cpu.pop_front();
            }
            self.cpu.push_back(percent);
        }
        self.sensors.insert(key.to_owned(), value);
    }
}

/// Whether modules make this topic.
pub fn is_derived(topic: &str) -> bool {
    EXAMPLES.iter().any(|example| example.to == topic)
}

fn payload_bytes(record: &RecordView<'_>) -> usize {
    let headers = record.headers().map(|h| h.name.len() + h.value.map_or(0, <[u8]>::len));
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers.sum::<usize>()
}

fn sent_us(record: &RecordView<'_>) -> Option<i64> {
    let header = record.headers().find(|header| header.name == SENT_HEADER)?;
    std::str::from_utf8(header.value?).ok()?.parse().ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use weir_core::record::{BatchBuilder, Compression, HeaderView, RecordBatch};
    use weir_core::{LeaderEpoch, ProducerId, TimestampMs};

    /// Stats that saw these keys and values in one partition, each 1.5 ms after it was sent.
    pub fn saw(topic: &str, partition: u32, records: &[(&str, &str)]) -> Stats {
        let mut stats = Stats::default();
        see(&mut stats, topic, partition, 0, records);
        stats
    }

    pub fn see(
        stats: &mut Stats,
        topic: &str,
        partition: u32,
        base: i64,
        records: &[(&str, &str)],
    ) {
        let mut builder = BatchBuilder::new(Compression::None);
        for (key, value) in records {
            let sent = HeaderView { name: SENT_HEADER, value: Some(b"1000000") };
            builder
                .push(TimestampMs(0), Some(key.as_bytes()), Some(value.as_bytes()), [sent])
                .unwrap();
        }
        let batch = RecordBatch::decode(builder.build(ProducerId::NONE, 0, 0).unwrap()).unwrap();
        let batch = batch.with_base(Offset(base), LeaderEpoch(0));
        let high_watermark = Offset(base).plus(records.len() as u32);
        let seen = Seen { topic, partition, high_watermark, now_us: 1_001_500 };
        for record in &batch.records().unwrap() {
            stats.handle_record(seen, &record);
        }
    }

    /// Goal: counts, latency, lag and order are right, and a repeated offset is noticed.
    #[test]
    fn what_was_seen_is_counted() {
        let mut stats = saw("t", 1, &[("a", "xx"), ("b", "yy")]);
        let partition = &stats.partitions[&("t".to_owned(), 1)];
        assert_eq!((partition.records, partition.lag(), partition.out_of_order), (2, 0, 0));
        assert_eq!(partition.bytes, 2 * (1 + 2 + SENT_HEADER.len() as u64 + 7));
        let latency = stats.latencies.percentiles().unwrap();
        assert!((latency.p50 - 1.5).abs() < 0.01, "{latency:?}");
        see(&mut stats, "t", 1, 3, &[("a", "z")]);
        assert_eq!(stats.partitions[&("t".to_owned(), 1)].out_of_order, 0, "a gap is none");
        see(&mut stats, "t", 1, 3, &[("a", "z")]);
        assert_eq!(stats.partitions[&("t".to_owned(), 1)].out_of_order, 1);
        see(&mut stats, "t", 0, 0, &[("a", "z")]);
        assert_eq!((stats.records(), stats.topic("t").0), (5, 5));
    }

    /// Goal: rates are over the last seconds only, and fall to nothing with silence.
    #[test]
    fn rates_are_of_late() {
        let mut stats = Stats::default();
        stats.add_partition("t", 0, Offset(0));
        for second in 0..20 {
            stats.handle_tick(Duration::from_secs(second));
            if second < 10 {
                see(&mut stats, "t", 0, 2 * second as i64, &[("a", "1"), ("b", "2")]);
            }
            let rate = stats.partitions[&("t".to_owned(), 0)].rates().0;
            match second {
                2..=10 => assert!((rate - 2.0).abs() < 0.01, "{second}: {rate}"),
                17.. => assert_eq!(rate, 0.0, "{second}"),
                _ => {}
            }
        }
    }

    #[test]
    fn readings_and_positions_are_remembered() {
        let stats = saw(
            "t",
            0,
            &[
                ("cpu/total", "{\"usage_percent\":12.5}"),
                ("memory", "{\"used_bytes\":1}"),
                ("memory", "{\"used_bytes\":2}"),
                ("gps-1", "{\"device\":\"gps-1\",\"fix\":\"gps\",\"lat\":1.5}"),
                ("other", "no json"),
            ],
        );
        assert_eq!(stats.cpu, [12.5]);
        assert_eq!(stats.sensors["memory"]["used_bytes"], 2);
        assert_eq!(stats.positions["gps-1"]["lat"], 1.5);
        assert_eq!(stats.sensors.len(), 2);
    }
}
