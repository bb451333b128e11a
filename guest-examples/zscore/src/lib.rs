//! Finds values that are far from the last ones of their sensor.
//!
//! Keeps the last `window` values of each key as state. A value whose distance from their mean is
//! more than `threshold` of their standard deviations is an anomaly, and is reported:
//!
//! ```json
//! {"sensor":"bearing-7","time":1386000000000,"value":42.1,"mean":85.9,"deviation":3.1,"z":-14.1}
//! ```
//!
//! Nothing is reported before `warm-up` values are there. An anomaly joins the window like any
//! other value, so a lasting change is reported until it has become normal; with `hold-s`, the same
//! sensor is not reported again before that many seconds have passed.
//!
//! This is the simplest detector there is: it finds jumps, not slow drifts, and a noisy sensor
//! costs false alarms. `docs/modules.md` has what it finds in a machine's labelled temperature.
//!
//! ```text
//! weir module test zscore.wasm --input temperature.ndjson --format json \
//!     --time-pointer /timestamp --param window=4000 --param warm-up=1000 --param threshold=3
//! ```

use serde::Serialize;
use serde_json::Value;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Field of the value.
        field: String = "value".into(),
        /// Values that are compared with.
        window: u32 = 120,
        /// Values that must be there before anything is reported.
        warm_up: u32 = 30,
        /// Standard deviations from the mean that make an anomaly.
        threshold: f64 = 4.0,
        /// Smallest standard deviation that is believed, in the unit of the field.
        floor: f64 = 0.001,
        /// Seconds of event time between two reports of one sensor.
        hold_s: u32 = 0,
    }
}

const WINDOW_MAX: u32 = 4096;
const HEAD_BYTES: usize = 12;

struct ZScore {
    params: Params,
}

#[derive(Serialize)]
struct Anomaly<'a> {
    sensor: &'a str,
    time: i64,
    value: f64,
    mean: f64,
    deviation: f64,
    z: f64,
}

/// The last values of a sensor, in a ring.
struct Window {
    /// Event time of the last report.
    reported_ms: i64,
    /// Where the oldest is, once the ring is full.
    oldest: u32,
    values: Vec<f64>,
}

impl Transform for ZScore {
    type Params = Params;
    const ABOUT: &'static str = "Finds values that are far from the last ones of their sensor.";
    const STATE_SCHEMA: u32 = 1;

    fn start(params: Params) -> Result<Self> {
        let Params { window, warm_up, threshold, floor, .. } = params;
        weir_guest::ensure!((2..=WINDOW_MAX).contains(&window), "window must be 2 to {WINDOW_MAX}");
        weir_guest::ensure!((2..=window).contains(&warm_up), "warm-up must be 2 to window");
        weir_guest::ensure!(threshold > 0.0 && floor > 0.0, "threshold and floor must be above 0");
        Ok(ZScore { params })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let key = record.key().unwrap_or_default();
        let object: Value = serde_json::from_slice(record.bytes()?)?;
        let value = match &object[&self.params.field] {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => Some(text.parse()?),
            // No reading this time.
            Value::Null => return Ok(()),
            _ => None,
        };
        let value = value.filter(|value: &f64| value.is_finite());
        let value = value
            .ok_or_else(|| Error::msg(format_args!("{} is not a number", self.params.field)))?;
        let mut window = cx.state().get(key).and_then(Window::decode).unwrap_or_default();
        if window.values.len() >= self.params.warm_up as usize {
            let (mean, deviation) = window.moments();
            let z = (value - mean) / deviation.max(self.params.floor);
            let hold_ms = i64::from(self.params.hold_s) * 1000;
            let held = record.timestamp().saturating_sub(window.reported_ms) < hold_ms;
            if z.abs() > self.params.threshold && !held {
                window.reported_ms = record.timestamp();
                let sensor = &String::from_utf8_lossy(key);
                let anomaly =
                    Anomaly { sensor, time: record.timestamp(), value, mean, deviation, z };
                cx.output().write(|to| serde_json::to_writer(to, &anomaly))?.send();
            }
        }
        window.push(value, self.params.window as usize);
        cx.state().put(key, window.encode());
        Ok(())
    }
}

impl Default for Window {
    fn default() -> Window {
        Window { reported_ms: i64::MIN, oldest: 0, values: Vec::new() }
    }
}

impl Window {
    /// Mean and standard deviation. From the values anew each time: a running sum would carry the
    /// rounding of all values that ever were.
    fn moments(&self) -> (f64, f64) {
        let count = self.values.len() as f64;
        let mean = self.values.iter().sum::<f64>() / count;
        let squares: f64 = self.values.iter().map(|value| (value - mean).powi(2)).sum();
        (mean, (squares / count).sqrt())
    }

    fn push(&mut self, value: f64, most: usize) {
        if self.values.len() < most {
            self.values.push(value);
        } else {
            let oldest = self.oldest as usize % self.values.len();
            self.values[oldest] = value;
            self.oldest = ((oldest + 1) % self.values.len()) as u32;
        }
    }

    /// Little-endian: time of the last report, where the oldest is, the values.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 8 * self.values.len());
        bytes.extend(self.reported_ms.to_le_bytes());
        bytes.extend(self.oldest.to_le_bytes());
        self.values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Window> {
        let (head, values) = bytes.split_at_checked(HEAD_BYTES)?;
        let values =
            values.chunks_exact(8).map(|value| Some(f64::from_le_bytes(value.try_into().ok()?)));
        Some(Window {
            reported_ms: i64::from_le_bytes(head[..8].try_into().ok()?),
            oldest: u32::from_le_bytes(head[8..].try_into().ok()?),
            values: values.collect::<Option<_>>()?,
        })
    }
}

weir_guest::export_transform!(ZScore);
