//! What a bench found: one JSON object, or lines for people.

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::commands::figures::{self, Percentiles};
use crate::exit::CommandResult;
use crate::output;

/// What one bench found. What does not apply is left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Which one.
    pub bench: &'static str,
    /// What was asked for.
    pub settings: Figures,
    /// Records produced or consumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Records per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_s: Option<f64>,
    /// 10⁶ bytes of values per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mb_per_s: Option<f64>,
    /// From handing a batch (or record) over to its acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_ms: Option<Percentiles>,
    /// From handing a record over to its arrival at a consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
    /// Append + fdatasync of the same run, 10⁶ bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_mb_per_s: Option<f64>,
    /// A bare QUIC stream of the same run, 10⁶ bytes per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quinn_mb_per_s: Option<f64>,
    /// Measured by `raw_mb_per_s`; the median of the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_raw: Option<f64>,
    /// Measured by what the disk and the network allow one after the other; the median of the
    /// rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to_limit: Option<f64>,
    /// Bytes that the node wrote to its disk, by bytes of values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_written_per_payload_byte: Option<f64>,
    /// Memory of the node at the end, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_rss_mib: Option<f64>,
    /// CPU time of the node, in percent of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_cpu_percent: Option<f64>,
    /// Further figures.
    #[serde(skip_serializing_if = "Figures::is_empty")]
    pub more: Figures,
    /// What the figures should be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<Goal>,
    /// One object a case or round.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Figures>,
}

/// A figure beside what it should be. Nothing is refused for missing it: machines differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Which figure.
    pub figure: &'static str,
    /// Where it should lie.
    #[serde(flatten)]
    pub bound: Bound,
    /// Where it lies.
    pub measured: f64,
    /// Whether that is within the bound.
    pub met: bool,
}

/// Where a figure should lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Here or higher.
    AtLeast(f64),
    /// Here or lower.
    AtMost(f64),
}

/// Names and values in an order that people can read: a JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(String, Value)>);

impl Figures {
    /// Adds one.
    pub fn push(&mut self, name: impl Into<String>, value: Value) {
        self.0.push((name.into(), value));
    }

    /// Adds all of `more`.
    pub fn extend(&mut self, more: Figures) {
        self.0.extend(more.0);
    }

    /// The value of this name; null if there is none.
    pub fn get(&self, name: &str) -> &Value {
        self.0.iter().find(|(known, _)| known == name).map_or(&Value::Null, |(_, value)| value)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Names and values, for settings and rows.
pub fn map<const N: usize>(members: [(&str, Value); N]) -> Figures {
    Figures(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A figure with as many digits as mean something.
pub fn round(value: f64) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    let digits = if value.abs() >= 1_000.0 { 0 } else { 3 };
    let scale = 10f64.powi(digits);
    let rounded = (value * scale).round() / scale;
    if digits == 0 { Value::from(rounded as i64) } else { Value::from(rounded) }
}

impl Report {
    /// An empty report.
    pub fn new(bench: &'static str, settings: Figures) -> Report {
        Report { bench, settings, ..Report::default() }
    }

    /// Says what a figure should be, if it was measured.
    pub fn expect(&mut self, figure: &'static str, bound: Bound, measured: Option<f64>) {
        let Some(measured) = measured else { return };
        let met = match bound {
            Bound::AtLeast(goal) => measured >= goal,
            Bound::AtMost(goal) => measured <= goal,
        };
        self.goals.push(Goal { figure, bound, measured, met });
    }

    /// Prints it.
    pub fn print(&self, json: bool) -> CommandResult {
        if json { output::print_json(self) } else { output::print(&self.text()) }
    }

    fn text(&self) -> String {
        let settings: Vec<String> = self
            .settings
            .0
            .iter()
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect();
        let mut text = format!("{}: {}\n", self.bench, settings.join(", "));
        text.push_str(&self.rows_text());
        let mut line = |name: &str, value: String| {
            text.push_str(&format!("  {name:<32} {value}\n"));
        };
        if let Some(rate) = self.records_per_s {
            line("records per second", figures::per_second(rate));
        }
        let megabytes = |value: f64| format!("{value:.1} MB/s");
        let rates = [
            ("throughput", self.mb_per_s),
            ("raw append + fdatasync", self.raw_mb_per_s),
            ("bare QUIC stream", self.quinn_mb_per_s),
        ];
        for (name, rate) in rates.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            line(name, megabytes(rate));
        }
        let latencies = [("acknowledged after", self.ack_ms), ("arrived after", self.latency_ms)];
        for (name, latency) in latencies.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            line(name, latency_text(&latency));
        }
        let others = [
            ("ratio to raw", self.ratio_to_raw),
            ("ratio to limit", self.ratio_to_limit),
            ("bytes written per byte", self.bytes_written_per_payload_byte),
            ("memory of the node, MiB", self.node_rss_mib),
            ("CPU of the node, % of a core", self.node_cpu_percent),
        ];
        for (name, value) in others.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            line(name, format!("{value:.2}"));
        }
        for (name, value) in &self.more.0 {
            line(&name.replace('_', " "), plain(value));
        }
        for goal in &self.goals {
            let (bound, limit) = match goal.bound {
                Bound::AtLeast(limit) => ("at least", limit),
                Bound::AtMost(limit) => ("at most", limit),
            };
            let met = if goal.met { "met" } else { "missed" };
            let [measured, limit] = [goal.measured, limit].map(|v| plain(&round(v)));
            line(&format!("goal: {}", goal.figure), format!("{measured}, {bound} {limit}: {met}"));
        }
        text
    }

    fn rows_text(&self) -> String {
        let Some(first) = self.rows.first() else { return String::new() };
        let names: Vec<&String> = first.0.iter().map(|(name, _)| name).collect();
        let cell = |row: &Figures, name: &String| plain(row.get(name));
        let widths: Vec<usize> = names
            .iter()
            .map(|name| {
                let cells = self.rows.iter().map(|row| cell(row, name).chars().count());
                cells.max().unwrap_or(0).max(name.chars().count())
            })
            .collect();
        let line = |cells: Vec<String>| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            format!("  {}\n", padded.join("  "))
        };
        let mut text = line(names.iter().map(|name| (*name).clone()).collect());
        for row in &self.rows {
            text.push_str(&line(names.iter().map(|name| cell(row, name)).collect()));
        }
        text
    }
}

/// Without quotes around texts, and with thousands apart.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(number) => number.as_u64().map_or(number.to_string(), figures::thousands),
        other => other.to_string(),
    }
}

fn latency_text(latency: &Percentiles) -> String {
    let [p50, p99, p999, max] =
        [latency.p50, latency.p99, latency.p999, latency.max].map(figures::milliseconds);
    format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_apply_is_left_out() {
        let report = Report {
            records_per_s: Some(1_200_000.0),
            ack_ms: Some(Percentiles { p50: 1.0, p99: 2.0, p999: 3.0, max: 4.0, count: 9 }),
            ..Report::new("produce", map([("record_bytes", json!(1024))]))
        };
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["ack_ms"]["p999"], 3.0);
        assert!(value.get("ratio_to_raw").is_none() && value.get("rows").is_none());
        let text = report.text();
        assert!(text.starts_with("produce: record_bytes 1,024\n"), "{text}");
        assert!(text.contains("records per second               1.20 M\n"), "{text}");
        assert!(!text.contains("ratio"), "{text}");
    }

    #[test]
    fn goals_say_whether_they_are_met() {
        let mut report = Report::new("produce", Figures::default());
        report.expect("ratio to limit", Bound::AtLeast(0.7), Some(0.8));
        report.expect("ack p50, ms", Bound::AtMost(0.4), Some(0.5));
        report.expect("not measured", Bound::AtMost(1.0), None);
        let text = report.text();
        assert!(
            text.contains("goal: ratio to limit             0.8, at least 0.7: met\n"),
            "{text}"
        );
        assert!(text.contains("0.5, at most 0.4: missed\n"), "{text}");
        assert!(!text.contains("not measured"), "{text}");
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["goals"][0]["at_least"], 0.7);
        assert_eq!(value["goals"][1]["met"], false);
    }

    #[test]
    fn rows_make_a_table() {
        let rows = vec![
            map([("batch", json!(1)), ("mb_per_s", round(1.23456))]),
            map([("batch", json!(10_000)), ("mb_per_s", round(1234.5))]),
        ];
        let report = Report { rows, ..Report::new("sweep", Figures::default()) };
        let want = "   batch  mb_per_s\n       1     1.235\n  10,000     1,235\n";
        assert!(report.text().ends_with(want), "{}", report.text());
        assert_eq!(round(f64::NAN), Value::Null);
    }
}
