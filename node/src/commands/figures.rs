//! Figures as the data commands measure and show them: latencies, rates, sizes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// A histogram of latencies, in microseconds with three significant digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// Percentiles in milliseconds, as `--json` prints them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 99 of 100 were at most this.
    pub p99: f64,
    /// 999 of 1,000 were at most this.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// How many were measured.
    pub count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        let max = LATENCY_MAX.as_micros() as u64;
        // Refused only for bounds or digits out of range, which these constants are not.
        let histogram = Histogram::new_with_bounds(1, max, 3).expect("constant bounds");
        Latencies { histogram }
    }
}

impl Latencies {
    /// Counts one latency. Longer ones than an hour count as an hour.
    pub fn record(&mut self, latency: Duration) {
        self.record_n(latency, 1);
    }

    /// Counts the same latency `n` times.
    pub fn record_n(&mut self, latency: Duration, n: u64) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let us = us.clamp(1, LATENCY_MAX.as_micros() as u64);
        self.histogram.saturating_record_n(us, n);
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Latencies) {
        // Same bounds, so nothing is out of range.
        let _ = self.histogram.add(&other.histogram);
    }

    /// The percentiles, if anything was counted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        if self.histogram.is_empty() {
            return None;
        }
        let ms = |us: u64| us as f64 / 1e3;
        Some(Percentiles {
            p50: ms(self.histogram.value_at_quantile(0.5)),
            p99: ms(self.histogram.value_at_quantile(0.99)),
            p999: ms(self.histogram.value_at_quantile(0.999)),
            max: ms(self.histogram.max()),
            count: self.histogram.len(),
        })
    }
}

/// `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number per second: `0.50`, `12.3`, `999`, `1.24 k`, `4.10 M`.
pub fn per_second(rate: f64) -> String {
    const UNITS: [&str; 4] = ["", " k", " M", " G"];
    if !rate.is_finite() || rate <= 0.0 {
        return "0".to_owned();
    }
    let mut value = rate;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    format!("{}{}", three_digits(value), UNITS[unit])
}

/// Milliseconds with a unit that suits: `850 µs`, `1.24 ms`, `2.50 s`.
pub fn milliseconds(ms: f64) -> String {
    if ms < 0.9995 {
        format!("{:.0} µs", ms * 1e3)
    } else if ms < 999.5 {
        format!("{} ms", three_digits(ms))
    } else {
        format!("{} s", three_digits(ms / 1e3))
    }
}

/// A span of time: `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`.
pub fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

/// `count` of something, per second of `elapsed`; 0 if no time went by.
pub fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// The middle one of `values`, or the mean of the middle two; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Three significant digits of a value below 999.5, and no more than two decimals.
fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: units change where three digits would become four, never later.
    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_653), "1,653");
        assert_eq!(thousands(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(per_second(f64::NAN), "0");
        assert_eq!(per_second(0.5), "0.50");
        assert_eq!(per_second(999.6), "1.00 k");
        assert_eq!(per_second(4_100_000.0), "4.10 M");
        assert_eq!(milliseconds(0.85), "850 µs");
        assert_eq!(milliseconds(9.999), "10.0 ms");
        assert_eq!(milliseconds(2_500.0), "2.50 s");
        assert_eq!(span(Duration::from_millis(850)), "850 ms");
        assert_eq!(span(Duration::from_secs(245)), "4 min 05 s");
        assert_eq!(span(Duration::from_secs(7_400)), "2 h 03 min");
    }

    /// Goal: percentiles lie where they must, within the histogram's three digits, and latencies
    /// out of bounds count at the bounds instead of being lost.
    #[test]
    fn percentiles_of_known_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles(), None);
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let seen = latencies.percentiles().unwrap();
        for (got, want) in [(seen.p50, 500.0), (seen.p99, 990.0), (seen.p999, 999.0)] {
            assert!((got - want).abs() <= want / 900.0, "{got} is not {want}");
        }
        assert_eq!(seen.count, 1_000);
        let mut other = Latencies::default();
        other.record(Duration::ZERO);
        other.record(Duration::from_secs(100_000));
        latencies.merge(&other);
        let seen = latencies.percentiles().unwrap();
        assert_eq!(seen.count, 1_002);
        assert!((seen.max - 3_600_000.0).abs() < 4_000.0);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn rates() {
        assert_eq!(rate(10, Duration::ZERO), 0.0);
        assert_eq!(rate(10, Duration::from_secs(4)), 2.5);
    }
}
