//! Count, mean, least and largest value of each window of time.
//!
//! Event time is cut into windows of `seconds`, begun at the epoch. For each key and window with
//! values, one record goes out once the watermark has passed the window's end:
//!
//! ```json
//! {"key":"room-4","from":1386000000000,"to":1386000300000,"count":60,"mean":21.4,"min":21.1,
//!  "max":21.9}
//! ```
//!
//! keyed like its records, with the last millisecond of the window as event time. The watermark is
//! the largest event time seen less the lateness that the deployment allows, so that is how long a
//! window waits for records that come late. What comes later still is counted nowhere: it goes to
//! the second topic as it is if `late=forward`, or is dropped, or fails, as `late` says.
//!
//! ```text
//! weir module test tumbling_window.wasm --input readings.ndjson --format json --param field=temp \
//!     --param seconds=300 --fire-timers
//! ```

use serde::Serialize;
use serde_json::Value;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Field of the value.
        field: String = "value".into(),
        /// Length of a window, in seconds.
        seconds: u32 = 60,
        /// What becomes of records behind the end of their window: drop, forward or fail.
        late: String = "drop".into(),
    }
}

struct Tumbling {
    params: Params,
    late: Late,
    window_ms: i64,
}

#[derive(Clone, Copy)]
enum Late {
    Drop,
    Forward,
    Fail,
}

#[derive(Clone, Copy)]
struct Sums {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
}

#[derive(Serialize)]
struct Report<'a> {
    key: &'a str,
    from: i64,
    to: i64,
    count: u64,
    mean: f64,
    min: f64,
    max: f64,
}

impl Tumbling {
    fn start_of(&self, time_ms: i64) -> i64 {
        time_ms.div_euclid(self.window_ms) * self.window_ms
    }

    /// Names a window, for state and timer: where it starts, and the key.
    fn name(&self, record: &Record<'_>) -> Vec<u8> {
        let start = self.start_of(record.timestamp()).to_be_bytes();
        [&start[..], record.key().unwrap_or_default()].concat()
    }
}

impl Transform for Tumbling {
    type Params = Params;
    const ABOUT: &'static str = "Count, mean, least and largest value of each window of time.";
    const STATE_SCHEMA: u32 = 1;
    const TIMERS: bool = true;

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.seconds > 0, "seconds must be above 0");
        let late = match params.late.as_str() {
            "drop" => Late::Drop,
            "forward" => Late::Forward,
            "fail" => Late::Fail,
            other => weir_guest::bail!("late is drop, forward or fail, not {other:?}"),
        };
        let window_ms = i64::from(params.seconds) * 1000;
        Ok(Tumbling { params, late, window_ms })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(self.name(record));
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let end = self.start_of(record.timestamp()).saturating_add(self.window_ms);
        // The record's own time counts in the watermark, but cannot close its own window.
        if cx.watermark() >= end {
            match self.late {
                Late::Drop => return Ok(()),
                Late::Forward => {
                    cx.output().topic(1).send();
                    return Ok(());
                }
                Late::Fail => {
                    let behind = cx.watermark() - end;
                    weir_guest::bail!("its window closed {behind} ms of event time ago");
                }
            }
        }
        let object: Value = serde_json::from_slice(record.bytes()?)?;
        let value = match &object[&self.params.field] {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => Some(text.parse()?),
            // No reading this time.
            Value::Null => return Ok(()),
            _ => None,
        };
        let value = value
            .filter(|value: &f64| value.is_finite())
            .ok_or_else(|| Error::msg(format_args!("{} is not a number", self.params.field)))?;
        let name = self.name(record);
        let sums = cx.state().get(&name).and_then(Sums::decode);
        let sums = sums.unwrap_or(Sums { count: 0, sum: 0.0, min: value, max: value });
        let sums = Sums {
            count: sums.count + 1,
            sum: sums.sum + value,
            min: sums.min.min(value),
            max: sums.max.max(value),
        };
        cx.state().put(&name, sums.encode());
        cx.set_timer(&name, end);
        Ok(())
    }

    fn timer(&mut self, timer: &Timer, cx: &mut Context<'_>) -> Result<()> {
        let Some((start, key)) = timer.key.split_first_chunk() else { return Ok(()) };
        let from = i64::from_be_bytes(*start);
        let Some(sums) = cx.state().get(&timer.key).and_then(Sums::decode) else { return Ok(()) };
        let report = Report {
            key: &String::from_utf8_lossy(key),
            from,
            to: timer.time,
            count: sums.count,
            mean: sums.sum / sums.count as f64,
            min: sums.min,
            max: sums.max,
        };
        cx.state().delete(&timer.key);
        let output = cx.output().key(key).timestamp(timer.time - 1).no_headers();
        output.write(|to| serde_json::to_writer(to, &report))?.send();
        Ok(())
    }
}

impl Sums {
    /// Little-endian, in the order of the fields.
    fn encode(self) -> Vec<u8> {
        let mut bytes = self.count.to_le_bytes().to_vec();
        for number in [self.sum, self.min, self.max] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Sums> {
        let eight = |at: usize| bytes.get(at..at + 8)?.try_into().ok();
        Some(Sums {
            count: u64::from_le_bytes(eight(0)?),
            sum: f64::from_le_bytes(eight(8)?),
            min: f64::from_le_bytes(eight(16)?),
            max: f64::from_le_bytes(eight(24)?),
        })
    }
}

weir_guest::export_transform!(Tumbling);
