//! This machine's own sensors: one keyed record each.
//!
//! | key | value |
//! |---|---|
//! | `cpu/total`, `cpu/<n>` | `usage_percent`, `frequency_mhz` |
//! | `memory`, `swap` | `total_bytes`, `used_bytes`, `available_bytes` or `free_bytes` |
//! | `load` | `load_1m`, `load_5m`, `load_15m`, `uptime_s` |
//! | `disk/<mount>` | `total_bytes`, `available_bytes`, `read_bytes`, `written_bytes`, rates |
//! | `net/<interface>` | totals and rates of bytes, packets and errors, both ways |
//! | `temp/<label>` | `celsius`, `critical_celsius` |
//!
//! Every value also has `host` and `time`. Rates are over the time since the sample before; the
//! first sample has none, and no CPU usage, which is a rate too.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;
use sysinfo::{
    Components, CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, Networks, System,
};

use crate::record::{Collected, to_json};
use crate::time::format_time;

/// Reads the sensors. Blocks for some milliseconds at each call; the caller sets the pace.
pub struct HostSampler {
    host: String,
    system: Option<System>,
    disks: Option<Disks>,
    networks: Option<Networks>,
    components: Option<Components>,
    last_ms: Option<i64>,
}

#[derive(Serialize)]
struct Sensor<'a, T: Serialize> {
    host: &'a str,
    time: String,
    #[serde(flatten)]
    reading: T,
}

#[derive(Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_mhz: Option<u64>,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
}

#[derive(Serialize)]
struct Swap {
    total_bytes: u64,
    used_bytes: u64,
    free_bytes: u64,
}

#[derive(Serialize)]
struct Load {
    load_1m: f64,
    load_5m: f64,
    load_15m: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_s: Option<u64>,
}

#[derive(Serialize)]
struct Disk {
    device: String,
    file_system: String,
    total_bytes: u64,
    available_bytes: u64,
    read_bytes: u64,
    written_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_bytes_per_s: Option<f64>,
}

#[derive(Serialize)]
struct Net {
    received_bytes: u64,
    sent_bytes: u64,
    received_packets: u64,
    sent_packets: u64,
    receive_errors: u64,
    send_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_bytes_per_s: Option<f64>,
}

#[derive(Serialize)]
struct Temperature {
    celsius: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    critical_celsius: Option<f64>,
}

impl HostSampler {
    /// A sampler of what this machine has. What the system does not let us read is left out, and
    /// said once in the log.
    pub fn new() -> Self {
        fn known<T>(what: &str, result: Result<T, sysinfo::Error>) -> Option<T> {
            result.map_err(|error| tracing::warn!(what, %error, "not readable here")).ok()
        }
        Self {
            host: System::host_name().unwrap_or_else(|_| "localhost".to_owned()),
            system: known("cpu and memory", System::new()),
            disks: known("disks", Disks::new()),
            networks: known("network", Networks::new()),
            components: known("temperatures", Components::new()),
            last_ms: None,
        }
    }

    /// One record a sensor, all at the event time `now_ms` (milliseconds since 1970).
    pub fn sample(&mut self, now_ms: i64) -> Vec<Collected> {
        let elapsed_ms = self.last_ms.replace(now_ms).map(|last| now_ms - last);
        let elapsed_s = elapsed_ms.filter(|ms| *ms > 0).map(|ms| ms as f64 / 1_000.0);
        let mut writer = Writer { host: &self.host, now_ms, seen: HashSet::new(), out: Vec::new() };
        if let Some(system) = &mut self.system {
            sample_system(system, elapsed_s.is_some(), &mut writer);
        }
        if let Some(disks) = &mut self.disks {
            sample_disks(disks, elapsed_s, &mut writer);
        }
        if let Some(networks) = &mut self.networks {
            sample_networks(networks, elapsed_s, &mut writer);
        }
        if let Some(components) = &mut self.components {
            sample_temperatures(components, &mut writer);
        }
        writer.out
    }
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects the records of one sample; a key comes once (bind mounts repeat disks).
struct Writer<'a> {
    host: &'a str,
    now_ms: i64,
    seen: HashSet<String>,
    out: Vec<Collected>,
}

impl Writer<'_> {
    fn add(&mut self, key: String, reading: impl Serialize) {
        if !self.seen.insert(key.clone()) {
            return;
        }
        let sensor = Sensor { host: self.host, time: format_time(self.now_ms), reading };
        let key = Some(Bytes::from(key));
        self.out.push(Collected::data(key, to_json(&sensor), Some(self.now_ms)));
    }
}

fn sample_system(system: &mut System, has_usage: bool, writer: &mut Writer<'_>) {
    system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage().with_frequency());
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let percent = |usage: f32| has_usage.then(|| round(f64::from(usage), 2));
    let total = Cpu { usage_percent: percent(system.global_cpu_usage()), frequency_mhz: None };
    writer.add("cpu/total".to_owned(), total);
    for (index, cpu) in system.cpus().iter().enumerate() {
        let frequency_mhz = Some(cpu.frequency()).filter(|mhz| *mhz > 0);
        writer.add(
            format!("cpu/{index}"),
            Cpu { usage_percent: percent(cpu.usage()), frequency_mhz },
        );
    }
    writer.add(
        "memory".to_owned(),
        Memory {
            total_bytes: system.total_memory(),
            used_bytes: system.used_memory(),
            available_bytes: system.available_memory(),
        },
    );
    if system.total_swap() > 0 {
        writer.add(
            "swap".to_owned(),
            Swap {
                total_bytes: system.total_swap(),
                used_bytes: system.used_swap(),
                free_bytes: system.free_swap(),
            },
        );
    }
    if let Ok(load) = System::load_average() {
        writer.add(
            "load".to_owned(),
            Load {
                load_1m: load.one,
                load_5m: load.five,
                load_15m: load.fifteen,
                uptime_s: System::uptime().ok(),
            },
        );
    }
}

fn sample_disks(disks: &mut Disks, elapsed_s: Option<f64>, writer: &mut Writer<'_>) {
    disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage().with_io_usage());
    for disk in disks.iter() {
        let usage = disk.usage();
        writer.add(
            format!("disk/{}", disk.mount_point().display()),
            Disk {
                device: disk.name().to_string_lossy().into_owned(),
                file_system: disk.file_system().to_string_lossy().into_owned(),
                total_bytes: disk.total_space(),
                available_bytes: disk.available_space(),
                read_bytes: usage.total_read_bytes,
                written_bytes: usage.total_written_bytes,
                read_bytes_per_s: rate(usage.read_bytes, elapsed_s),
                written_bytes_per_s: rate(usage.written_bytes, elapsed_s),
            },
        );
    }
}

fn sample_networks(networks: &mut Networks, elapsed_s: Option<f64>, writer: &mut Writer<'_>) {
    networks.refresh(true);
    let mut names: Vec<_> = networks.keys().cloned().collect();
    names.sort();
    for name in names {
        let Some(net) = networks.get(&name) else { continue };
        writer.add(
            format!("net/{}", name.to_string_lossy()),
            Net {
                received_bytes: net.total_received(),
                sent_bytes: net.total_transmitted(),
                received_packets: net.total_packets_received(),
                sent_packets: net.total_packets_transmitted(),
                receive_errors: net.total_errors_on_received(),
                send_errors: net.total_errors_on_transmitted(),
                received_bytes_per_s: rate(net.received(), elapsed_s),
                sent_bytes_per_s: rate(net.transmitted(), elapsed_s),
            },
        );
    }
}

fn sample_temperatures(components: &mut Components, writer: &mut Writer<'_>) {
    components.refresh(true);
    for component in components.iter() {
        let Some(celsius) = component.temperature().filter(|celsius| celsius.is_finite()) else {
            continue;
        };
        let critical = component.critical().map(|celsius| round(f64::from(celsius), 2));
        writer.add(
            format!("temp/{}", component.label()),
            Temperature { celsius: round(f64::from(celsius), 2), critical_celsius: critical },
        );
    }
}

/// Since the sample before, a second; none at the first sample.
fn rate(delta: u64, elapsed_s: Option<f64>) -> Option<f64> {
    elapsed_s.map(|seconds| round(delta as f64 / seconds, 1))
}

fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn find(records: &[Collected], key: &str) -> Option<Value> {
        let record = records.iter().find(|r| r.key.as_deref() == Some(key.as_bytes()))?;
        serde_json::from_slice(&record.value).ok()
    }

    /// What every machine has is there, with its units; rates only from the second sample on.
    #[test]
    fn this_machine() {
        let mut sampler = HostSampler::new();
        let first = sampler.sample(1_700_000_000_000);
        let second = sampler.sample(1_700_000_001_000);
        let memory = find(&first, "memory").unwrap();
        assert!(memory["total_bytes"].as_u64().unwrap() > 0);
        assert!(memory["used_bytes"].as_u64() <= memory["total_bytes"].as_u64());
        assert_eq!(memory["time"], "2023-11-14T22:13:20.000Z");
        assert!(find(&first, "cpu/0").is_some());
        assert!(find(&first, "cpu/total").unwrap().get("usage_percent").is_none());
        let usage = find(&second, "cpu/total").unwrap()["usage_percent"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&usage), "{usage}");
        assert!(find(&second, "load").unwrap()["load_1m"].is_number());
        for record in first.iter().chain(&second) {
            assert!(!record.is_dead_letter());
            assert!(record.timestamp_ms.is_some());
        }
        let mut keys: Vec<_> = second.iter().map(|r| r.key.clone()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), second.len(), "every sensor comes once");
        let net = second.iter().find(|r| r.key.as_ref().is_some_and(|k| k.starts_with(b"net/")));
        if let Some(net) = net {
            let net: Value = serde_json::from_slice(&net.value).unwrap();
            assert!(net["received_bytes_per_s"].is_number());
        }
    }
}
