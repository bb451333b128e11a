//! Positions from JSON or NMEA-0183, without those that cannot be.
//!
//! In: JSON objects with a latitude and a longitude, or `RMC` sentences of a receiver, keyed by
//! device. JSON goes on as it came; a sentence becomes
//!
//! ```json
//! {"device":"boat","time":1397678359000,"lat":50.09,"lon":-125.27,"speed":2.6,"course":301.2}
//! ```
//!
//! with the time of its fix as event time and the speed in metres per second. Other sentences are
//! left out; one with a bad checksum, or text that is neither, fails.
//!
//! Left out as impossible: no fix, 0/0, off the globe, older than the last of the device, and what
//! the device could not have reached at `max-speed`. After `rejects` of the latter in a row the
//! next is believed: then it was the one before that was wrong. With `rejected=true` they go to the
//! second topic, with the reason as a header.
//!
//! ```text
//! weir module test gps_clean.wasm --input track --key-prefix ' '
//! weir transform create clean --module gps-clean@1.0.0 --from gps --to gps.clean --to gps.bad \
//!     --param rejected=true
//! ```

mod nmea;

use positions::Position;
use serde_json::{Value, json};
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Field of the latitude, in degrees.
        lat: String = "lat".into(),
        /// Field of the longitude, in degrees.
        lon: String = "lon".into(),
        /// Highest believable speed, in metres per second.
        max_speed: f64 = 70.0,
        /// Positions rejected in a row before one is believed.
        rejects: u32 = 5,
        /// Send what is left out to the second topic, with the reason.
        rejected: bool = false,
    }
}

struct Clean {
    params: Params,
}

/// What is known of a device.
struct Last {
    at: Position,
    time_ms: i64,
    rejects: u32,
}

/// A position as it came.
struct Fix {
    at: Option<Position>,
    time_ms: i64,
    /// What to send in place of the record's value.
    value: Option<Value>,
}

impl Transform for Clean {
    type Params = Params;
    const ABOUT: &'static str = "Positions from JSON or NMEA, without those that cannot be.";
    const STATE_SCHEMA: u32 = 1;

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.max_speed > 0.0, "max-speed must be above 0");
        Ok(Clean { params })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let device = positions::device(record)?;
        let Some(fix) = self.fix(record, device)? else { return Ok(()) };
        let Some(at) = fix.at else { return self.reject("no position", cx) };
        let known = cx.state().get(device).and_then(Last::decode);
        let mut last = known.unwrap_or(Last { at, time_ms: fix.time_ms, rejects: 0 });
        if fix.time_ms < last.time_ms {
            return self.reject("older than the last", cx);
        }
        // A second at least: receivers round their times.
        let elapsed_s = ((fix.time_ms - last.time_ms) as f64 / 1000.0).max(1.0);
        if last.at.metres_to(at) / elapsed_s > self.params.max_speed
            && last.rejects < self.params.rejects
        {
            last.rejects += 1;
            cx.state().put(device, last.encode());
            return self.reject("too far from the last", cx);
        }
        cx.state().put(device, Last { at, time_ms: fix.time_ms, rejects: 0 }.encode());
        match fix.value {
            None => cx.forward(),
            Some(value) => {
                let output = cx.output().timestamp(fix.time_ms);
                output.write(|to| serde_json::to_writer(to, &value))?.send();
            }
        }
        Ok(())
    }
}

impl Clean {
    /// What a record says. None if that is nothing about a position.
    fn fix(&self, record: &Record<'_>, device: &[u8]) -> Result<Option<Fix>> {
        let bytes = record.bytes()?;
        if bytes.first() != Some(&b'$') {
            let object: Value = serde_json::from_slice(bytes)?;
            let at = positions::position(&object, &self.params.lat, &self.params.lon)?;
            return Ok(Some(Fix { at, time_ms: record.timestamp(), value: None }));
        }
        let Some(rmc) = nmea::parse(record.text()?.trim_end())? else { return Ok(None) };
        let time_ms = rmc.time_ms.unwrap_or(record.timestamp());
        let value = rmc.at.map(|at| {
            let mut object = json!({
                "device": String::from_utf8_lossy(device),
                "time": time_ms,
                "lat": at.lat,
                "lon": at.lon,
            });
            for (name, number) in [("speed", rmc.speed), ("course", rmc.course)] {
                number.into_iter().for_each(|number| object[name] = number.into());
            }
            object
        });
        Ok(Some(Fix { at: rmc.at, time_ms, value }))
    }

    fn reject(&self, reason: &str, cx: &mut Context<'_>) -> Result<()> {
        if self.params.rejected {
            cx.output().topic(1).header("reason", reason).send();
        }
        Ok(())
    }
}

impl Last {
    /// Little-endian: position, time, rejects.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.at.encode().to_vec();
        bytes.extend(self.time_ms.to_le_bytes());
        bytes.extend(self.rejects.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Last> {
        let (at, rest) = bytes.split_at_checked(Position::BYTES)?;
        let (time, rejects) = rest.split_at_checked(8)?;
        Some(Last {
            at: Position::decode(at)?,
            time_ms: i64::from_le_bytes(time.try_into().ok()?),
            rejects: u32::from_le_bytes(rejects.try_into().ok()?),
        })
    }
}

weir_guest::export_transform!(Clean);
