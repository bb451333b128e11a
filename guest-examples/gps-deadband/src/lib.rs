//! Passes a position on once its device has moved, or after a time.
//!
//! A parked vehicle reports the same place every second; this keeps the track and drops the rest. A
//! position goes on if it is `metres` from the last one that did, or `seconds` later, so a device
//! that stands still is still seen to live. In: JSON objects keyed by device, clean ones (see
//! `gps-clean`).
//!
//! ```text
//! weir module test gps_deadband.wasm --input buses.ndjson --format json \
//!     --key-pointer /vehicle_id --time-pointer /timestamp \
//!     --param lat=latitude --param lon=longitude --param metres=200
//! ```

use positions::Position;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Field of the latitude, in degrees.
        lat: String = "lat".into(),
        /// Field of the longitude, in degrees.
        lon: String = "lon".into(),
        /// Metres that a device must have moved.
        metres: f64 = 50.0,
        /// Seconds of event time after which a position goes on all the same; 0: never.
        seconds: u32 = 600,
    }
}

struct Deadband {
    params: Params,
}

impl Transform for Deadband {
    type Params = Params;
    const ABOUT: &'static str = "Passes positions on once their device has moved, or after a time.";
    const STATE_SCHEMA: u32 = 1;

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.metres >= 0.0, "metres must not be negative");
        Ok(Deadband { params })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let device = positions::device(record)?;
        let object = serde_json::from_slice(record.bytes()?)?;
        let Some(at) = positions::position(&object, &self.params.lat, &self.params.lon)? else {
            return Ok(());
        };
        let passed = cx.state().get(device).and_then(decode);
        let due = passed.is_none_or(|(last, time_ms)| {
            let quiet_ms = i64::from(self.params.seconds) * 1000;
            last.metres_to(at) >= self.params.metres
                || (quiet_ms > 0 && record.timestamp().saturating_sub(time_ms) >= quiet_ms)
        });
        if due {
            let state = [&at.encode()[..], &record.timestamp().to_le_bytes()].concat();
            cx.state().put(device, state);
            cx.forward();
        }
        Ok(())
    }
}

/// Position and time of what was passed on last.
fn decode(bytes: &[u8]) -> Option<(Position, i64)> {
    let (at, time) = bytes.split_at_checked(Position::BYTES)?;
    Some((Position::decode(at)?, i64::from_le_bytes(time.try_into().ok()?)))
}

weir_guest::export_transform!(Deadband);
