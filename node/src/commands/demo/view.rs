//! The demo's picture as lines of text. Pure.

use std::time::Duration;

use serde_json::Value;

use super::modules::{EXAMPLES, Example};
use super::stats::{PartitionStats, Stats, is_derived};
use crate::commands::consume::{cut, printable};
use crate::commands::figures::{self, Percentiles};
use crate::units::human_bytes;

/// How a line is shown on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Names of columns.
    Bold,
    /// What is less important.
    Dim,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without control characters, and at most as wide as was asked for.
    pub text: String,
    /// How it is shown.
    pub style: Style,
}

/// What is shown besides what was seen.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the node listens.
    pub address: String,
    /// Its data folder.
    pub folder: String,
    /// Where the positions come from.
    pub gps: String,
    /// What the modules are doing.
    pub modules: String,
    /// When the time began to count, since the start; zero before.
    pub since: Duration,
    /// Since the start.
    pub elapsed: Duration,
    /// When it ends.
    pub total: Duration,
}

/// Sensors of each kind that are shown.
const SENSORS_PER_KIND_MAX: usize = 3;
/// Devices that are shown.
const DEVICES_SHOWN_MAX: usize = 6;

/// The whole picture: lines of at most `width` characters, `height` lines at most. What does not
/// fit is cut off at the bottom.
pub fn frame(stats: &Stats, around: &Surroundings, width: usize, height: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |style: Style, text: String| {
        let text = cut(text.trim_end(), width);
        lines.push(Line { text, style });
    };
    add(Style::Bold, title(around));
    add(Style::Dim, format!("data in {}; positions from {}", around.folder, around.gps));
    add(Style::Plain, String::new());
    add(Style::Bold, PARTITION_NAMES.to_owned());
    for ((topic, partition), partition_stats) in raw(stats) {
        add(Style::Plain, partition_line(topic, *partition, partition_stats));
    }
    add(Style::Dim, total_line(stats));
    add(Style::Plain, String::new());
    add(Style::Bold, format!("RAW -> DERIVED, by modules in the node ({})", around.modules));
    for example in &EXAMPLES {
        derived_lines(stats, example).into_iter().for_each(|line| add(Style::Plain, line));
    }
    add(Style::Plain, String::new());
    add(Style::Bold, POSITION_NAMES.to_owned());
    for (device, position) in stats.positions.iter().take(DEVICES_SHOWN_MAX) {
        add(Style::Plain, position_line(device, position));
    }
    let more = stats.positions.len().saturating_sub(DEVICES_SHOWN_MAX);
    if more > 0 {
        add(Style::Dim, format!("and {more} more"));
    }
    add(Style::Plain, String::new());
    // Last, since it may be long: a low window then shows its most telling lines.
    add(Style::Bold, "THIS MACHINE".to_owned());
    for line in sensor_lines(stats) {
        add(Style::Plain, line);
    }
    lines.truncate(height);
    lines
}

/// A few lines for where nothing can be drawn over: the partitions only.
pub fn plain(stats: &Stats, around: &Surroundings) -> String {
    let mut text = format!("{}\n{PARTITION_NAMES}\n", title(around));
    for ((topic, partition), partition_stats) in raw(stats) {
        text.push_str(partition_line(topic, *partition, partition_stats).trim_end());
        text.push('\n');
    }
    text.push_str(total_line(stats).trim_end());
    text.push('\n');
    let machine = sensor_lines(stats).into_iter().take(2);
    let positions = stats.positions.iter().take(2).map(|(d, p)| position_line(d, p));
    text.push_str(&cut(&format!("modules: {}", around.modules), 80));
    text.push('\n');
    let derived = EXAMPLES.iter().flat_map(|example| derived_lines(stats, example));
    for line in derived.chain(machine).chain(positions) {
        text.push_str(&cut(line.trim_end(), 80));
        text.push('\n');
    }
    text
}

const PARTITION_NAMES: &str =
    "TOPIC                    PART  RECORDS  REC/S    KB/S  LAG  LATENCY p50      p99";
const POSITION_NAMES: &str =
    "DEVICE        TIME (UTC)   LATITUDE   LONGITUDE    SPEED  COURSE  FIX       SAT";

fn title(around: &Surroundings) -> String {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let (elapsed, total) = (clock(around.elapsed), clock(around.total));
    format!("weir demo  node on {}  {elapsed} of {total}  Ctrl-C ends", around.address)
}

fn partition_line(topic: &str, partition: u32, stats: &PartitionStats) -> String {
    let (records_per_s, bytes_per_s) = stats.rates();
    let (p50, p99) = latency_texts(stats.latencies.percentiles());
    format!(
        "{:<24} {partition:>4} {:>8} {records_per_s:>6.1} {:>7.1} {:>4} {p50:>12} {p99:>8}",
        cut(topic, 24),
        figures::thousands(stats.records),
        bytes_per_s / 1e3,
        stats.lag(),
    )
}

fn total_line(stats: &Stats) -> String {
    let (mut records_per_s, mut bytes_per_s, mut lag) = (0.0, 0.0, 0);
    for (_, partition) in raw(stats) {
        let (records, bytes) = partition.rates();
        records_per_s += records;
        bytes_per_s += bytes;
        lag += partition.lag();
    }
    let (p50, p99) = latency_texts(stats.latencies.percentiles());
    format!(
        "{:<24} {:>4} {:>8} {records_per_s:>6.1} {:>7.1} {lag:>4} {p50:>12} {p99:>8}",
        "all",
        "",
        figures::thousands(stats.records()),
        bytes_per_s / 1e3,
    )
}

/// What the sources sent, without what modules made of it.
fn raw(stats: &Stats) -> impl Iterator<Item = (&(String, u32), &PartitionStats)> {
    stats.partitions.iter().filter(|((topic, _), _)| !is_derived(topic))
}

/// How much a module made of how much, and the last of it.
fn derived_lines(stats: &Stats, example: &Example) -> Vec<String> {
    let count = |topic| figures::thousands(stats.topic(topic).0);
    let (from, to) = (count(example.from), count(example.to));
    let latency = stats.topic(example.to).2.percentiles();
    let latency =
        latency.map_or(String::new(), |p| format!(", {} p50", figures::milliseconds(p.p50)));
    let mut lines = vec![format!(
        "{:<13}{from:>7} -> {:<10}{to:>7}  {}{latency}",
        example.from, example.to, example.about
    )];
    if let Some(value) = stats.derived.get(example.to) {
        lines.push(format!("  {}", printable(value.to_string().as_bytes())));
    }
    lines
}

fn latency_texts(percentiles: Option<Percentiles>) -> (String, String) {
    match percentiles {
        Some(p) => (figures::milliseconds(p.p50), figures::milliseconds(p.p99)),
        None => ("-".to_owned(), "-".to_owned()),
    }
}

/// The machine's sensors, the most telling first.
fn sensor_lines(stats: &Stats) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(percent) = stats.cpu.back() {
        lines.push(format!("cpu          {percent:>5.1} %  {}", sparkline(&stats.cpu)));
    }
    if let Some(memory) = stats.sensors.get("memory") {
        let (used, total) = (number(memory, "used_bytes"), number(memory, "total_bytes"));
        let percent = if total > 0.0 { used / total * 100.0 } else { 0.0 };
        let (used, total) = (human_bytes(used as u64), human_bytes(total as u64));
        lines.push(format!("memory       {percent:>5.1} %  {used} of {total}"));
    }
    if let Some(load) = stats.sensors.get("load") {
        let [one, five, fifteen] =
            ["load_1m", "load_5m", "load_15m"].map(|name| number(load, name));
        lines
            .push(format!("load         {one:>5.2}    {five:.2} over 5 min, {fifteen:.2} over 15"));
    }
    lines.extend(of_kind(stats, "disk/", "total_bytes", |disk| {
        let free = human_bytes(number(disk, "available_bytes") as u64);
        let total = human_bytes(number(disk, "total_bytes") as u64);
        let written = figures::per_second(number(disk, "written_bytes_per_s"));
        format!("{free} free of {total}, writing {written}B/s")
    }));
    lines.extend(of_kind(stats, "net/", "received_bytes", |net| {
        let received = figures::per_second(number(net, "received_bytes_per_s"));
        let sent = figures::per_second(number(net, "sent_bytes_per_s"));
        format!("receiving {received}B/s, sending {sent}B/s")
    }));
    lines.extend(of_kind(stats, "temp/", "celsius", |temp| {
        format!("{:.1} °C", number(temp, "celsius"))
    }));
    lines
}

/// The sensors of one kind, those with the most of `most` first.
fn of_kind(
    stats: &Stats,
    prefix: &str,
    most: &str,
    text: impl Fn(&Value) -> String,
) -> Vec<String> {
    let kind = prefix.trim_end_matches('/');
    let mut found: Vec<(&String, &Value)> =
        stats.sensors.iter().filter(|(key, _)| key.starts_with(prefix)).collect();
    found.sort_by(|(_, a), (_, b)| number(b, most).total_cmp(&number(a, most)));
    let mut lines: Vec<String> = found
        .iter()
        .take(SENSORS_PER_KIND_MAX)
        .map(|(key, value)| {
            let name = printable(&key.as_bytes()[prefix.len()..]);
            format!("{kind:<5}{:<15} {}", cut(&name, 15), text(value))
        })
        .collect();
    let more = found.len().saturating_sub(SENSORS_PER_KIND_MAX);
    if more > 0
        && let Some(last) = lines.last_mut()
    {
        last.push_str(&format!("  (and {more} more)"));
    }
    lines
}

fn position_line(device: &str, position: &Value) -> String {
    let text = |name: &str| position.get(name).and_then(Value::as_str).unwrap_or("-");
    let some = |name: &str| position.get(name).and_then(Value::as_f64);
    // `2026-01-31T13:05:09.000Z`: the time of day.
    let time = text("time").get(11..19).unwrap_or("-");
    let angle = |name: &str| some(name).map_or("-".to_owned(), |degrees| format!("{degrees:.5}"));
    let speed = some("speed_mps").map_or("-".to_owned(), |v| format!("{:.0} km/h", v * 3.6));
    let course = some("course_deg").map_or("-".to_owned(), |degrees| format!("{degrees:.0}°"));
    let satellites = some("satellites_used").map_or("-".to_owned(), |n| format!("{n:.0}"));
    format!(
        "{:<13} {time:<10} {:>10} {:>11} {speed:>8} {course:>7}  {:<9} {satellites:>3}",
        cut(&printable(device.as_bytes()), 13),
        angle("lat"),
        angle("lon"),
        cut(text("fix"), 9),
    )
}

fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// One bar for each value from 0 to 100.
fn sparkline<'a>(percents: impl IntoIterator<Item = &'a f64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |percent: &f64| BARS[((percent / 12.5) as usize).min(BARS.len() - 1)];
    percents.into_iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::super::stats::tests::{saw, see};
    use super::*;

    fn around() -> Surroundings {
        Surroundings {
            address: "127.0.0.1:41234".into(),
            folder: "./weir-demo".into(),
            gps: "3 simulated receivers".into(),
            modules: "at work".into(),
            since: Duration::from_secs(1),
            elapsed: Duration::from_secs(12),
            total: Duration::from_secs(30),
        }
    }

    fn full() -> Stats {
        let position = r#"{"device":"gps-1","fix":"rtk_fixed","time":"2026-01-31T13:05:09.000Z",
            "lat":-45.191512,"lon":-171.714623,"speed_mps":33.9,"course_deg":271.5,
            "satellites_used":19}"#;
        let mut stats = saw("gps.position", 0, &[("gps-1", position)]);
        see(
            &mut stats,
            "host.sensors",
            3,
            0,
            &[
                ("cpu/total", "{\"usage_percent\":99.5}"),
                ("memory", "{\"used_bytes\":3221225472,\"total_bytes\":8589934592}"),
                ("load", "{\"load_1m\":10.52,\"load_5m\":0.41,\"load_15m\":0.33}"),
                ("disk//", "{\"available_bytes\":1,\"total_bytes\":2,\"written_bytes_per_s\":1e6}"),
                ("disk/a/very/long/mount/point", "{}"),
                ("disk/b", "{}"),
                ("disk/c", "{}"),
                ("net/eth0", "{\"received_bytes_per_s\":1234.0,\"sent_bytes_per_s\":0.0}"),
                ("temp/acpitz\u{1b}[2J", "{\"celsius\":52.0}"),
            ],
        );
        see(&mut stats, "gps.position.dead-letter", 0, 0, &[("gps-1", "$GGPGSV")]);
        stats.handle_tick(Duration::from_secs(1));
        stats
    }

    /// Goal: at 80 columns every figure is there, every line fits, columns stand under their
    /// names, and nothing in a record controls the terminal.
    #[test]
    fn the_picture_fits_80_columns() {
        let lines = frame(&full(), &around(), 80, 100);
        let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert!(text.iter().all(|line| line.chars().count() <= 80), "{text:#?}");
        assert!(text.iter().all(|line| !line.contains(char::is_control)), "{text:#?}");
        assert!(!text.iter().any(|line| line.ends_with('…')), "{text:#?}");
        let names = text.iter().find(|line| line.starts_with("TOPIC")).unwrap();
        let host = text.iter().find(|line| line.starts_with("host.sensors")).unwrap();
        assert_eq!(names.chars().count(), host.chars().count(), "{names}\n{host}");
        let names = text.iter().find(|line| line.starts_with("DEVICE")).unwrap();
        let gps = text.iter().find(|line| line.starts_with("gps-1")).unwrap();
        assert_eq!(names.chars().count(), gps.chars().count(), "{names}\n{gps}");
        assert!(gps.contains("13:05:09") && gps.contains("122 km/h") && gps.contains("-171.71462"));
        assert!(text.iter().any(|line| line.starts_with("disk b") && line.contains("and 1 more")));
    }

    /// Goal: a small window shows the top of the picture, cut to its size.
    #[test]
    fn a_small_window() {
        let lines = frame(&full(), &around(), 40, 6);
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().all(|line| line.text.chars().count() <= 40));
        assert!(lines[0].text.starts_with("weir demo"));
    }

    #[test]
    fn an_empty_picture_has_no_figures_to_divide_by() {
        let mut stats = Stats::default();
        stats.add_partition("t", 0, weir_core::Offset(0));
        let lines = frame(&stats, &around(), 80, 100);
        assert!(lines.iter().any(|line| line.text.starts_with("t ") && line.text.ends_with('-')));
        assert!(plain(&stats, &around()).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn bars() {
        assert_eq!(sparkline(&[0.0, 12.5, 50.0, 99.9, 100.0, 250.0]), "▁▂▅███");
    }
}
