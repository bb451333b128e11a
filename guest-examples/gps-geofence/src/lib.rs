//! Cleans positions, and says when a device enters an area, stays in it, and leaves it.
//!
//! In: JSON objects with a latitude and a longitude, keyed by device, with the time of the fix as
//! event time (`weir collect nmea` and `weir produce --key … --timestamp …` write such). Out, to
//! the first topic: events such as
//!
//! ```json
//! {"device":"2619","event":"leave","area":"depot","lat":30.19,"lon":-97.77,"stayed_s":612}
//! ```
//!
//! and, with a second topic, the positions that were found good, as they came.
//!
//! Dropped as impossible: positions without a fix, at 0/0, outside of the globe, older than the
//! last one of the device, and those that the device could not have reached at `max-speed`. After
//! `rejects` of the latter in a row, the next is believed: then it was the one before that was
//! wrong.
//!
//! ```text
//! weir module test gps_geofence.wasm --input buses.ndjson --format json \
//!     --key-pointer /vehicle_id --time-pointer /timestamp \
//!     --param areas='depot:30.2653,-97.7497,400;airport:30.2021,-97.6680,2000'
//! ```

use positions::Position;
use serde::Serialize;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Areas as `name:latitude,longitude,radius in metres`, separated by `;`.
        areas: String,
        /// Field of the latitude, in degrees.
        lat: String = "lat".into(),
        /// Field of the longitude, in degrees.
        lon: String = "lon".into(),
        /// Highest believable speed, in metres per second.
        max_speed: f64 = 70.0,
        /// Positions rejected in a row before one is believed.
        rejects: u32 = 5,
        /// Seconds in an area that are reported as a stay.
        dwell_s: u32 = 300,
        /// Send good positions to the second topic.
        positions: bool = false,
    }
}

struct Geofence {
    params: Params,
    areas: Vec<Area>,
}

struct Area {
    name: String,
    at: Position,
    radius_m: f64,
}

/// What is known of a device.
struct Device {
    last: Position,
    time_ms: i64,
    rejects: u32,
    /// For each area: since when it is inside, and whether that was reported as a stay.
    inside: Vec<Option<(i64, bool)>>,
}

#[derive(Serialize)]
struct Event<'a> {
    device: &'a str,
    event: &'static str,
    area: &'a str,
    lat: f64,
    lon: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stayed_s: Option<i64>,
}

impl Transform for Geofence {
    type Params = Params;
    const ABOUT: &'static str =
        "Cleans positions, and says when devices enter, stay in and leave areas.";
    const STATE_SCHEMA: u32 = 1;

    fn start(params: Params) -> Result<Self> {
        let areas = params.areas.split(';').map(str::trim).filter(|area| !area.is_empty());
        let areas = areas.map(Area::parse).collect::<Result<Vec<Area>>>()?;
        weir_guest::ensure!(!areas.is_empty() && areas.len() <= 64, "give 1 to 64 areas");
        weir_guest::ensure!(params.max_speed > 0.0, "max-speed must be above 0");
        Ok(Geofence { params, areas })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let key = positions::device(record)?;
        let object = serde_json::from_slice(record.bytes()?)?;
        let found = positions::position(&object, &self.params.lat, &self.params.lon)?;
        let Some(position) = found else { return Ok(()) };
        let time_ms = record.timestamp();
        let known = cx.state().get(key).and_then(|bytes| Device::decode(bytes, self.areas.len()));
        let mut device = known.unwrap_or_else(|| Device::new(position, time_ms, self.areas.len()));
        if time_ms < device.time_ms {
            return Ok(());
        }
        // A second at least: receivers round their times.
        let elapsed_s = ((time_ms - device.time_ms) as f64 / 1000.0).max(1.0);
        let speed = device.last.metres_to(position) / elapsed_s;
        if speed > self.params.max_speed && device.rejects < self.params.rejects {
            device.rejects += 1;
            cx.state().put(key, device.encode());
            return Ok(());
        }
        device.rejects = 0;
        device.last = position;
        device.time_ms = time_ms;
        let name = String::from_utf8_lossy(key);
        for (area, inside) in self.areas.iter().zip(&mut device.inside) {
            for event in area.step(position, time_ms, self.params.dwell_s, inside) {
                let (event, stayed_s) = event;
                let Position { lat, lon } = position;
                let event = Event { device: &name, event, area: &area.name, lat, lon, stayed_s };
                cx.output().write(|to| serde_json::to_writer(to, &event))?.send();
            }
        }
        cx.state().put(key, device.encode());
        if self.params.positions {
            cx.output().topic(1).send();
        }
        Ok(())
    }
}

impl Area {
    fn parse(text: &str) -> Result<Area> {
        let wrong = || Error::msg(format_args!("area {text:?} is not name:lat,lon,metres"));
        let (name, numbers) = text.split_once(':').ok_or_else(wrong)?;
        let numbers: Vec<f64> =
            numbers.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>()?;
        let [lat, lon, radius_m] = numbers[..] else { return Err(wrong()) };
        let at = Position::new(lat, lon).filter(|_| radius_m > 0.0);
        let at = at.ok_or_else(|| Error::msg(format_args!("area {text:?} is not on the globe")))?;
        Ok(Area { name: name.to_owned(), at, radius_m })
    }

    /// What a position means for this area. Leaving takes a tenth of the radius more than entering,
    /// or a device at the border would enter and leave with every fix.
    fn step(
        &self,
        position: Position,
        time_ms: i64,
        dwell_s: u32,
        inside: &mut Option<(i64, bool)>,
    ) -> impl Iterator<Item = (&'static str, Option<i64>)> {
        let metres = self.at.metres_to(position);
        let event = match inside {
            None if metres <= self.radius_m => {
                *inside = Some((time_ms, false));
                Some(("enter", None))
            }
            Some((since, _)) if metres > self.radius_m * 1.1 => {
                let stayed_s = (time_ms - *since) / 1000;
                *inside = None;
                Some(("leave", Some(stayed_s)))
            }
            Some((since, told @ false)) if time_ms - *since >= i64::from(dwell_s) * 1000 => {
                *told = true;
                Some(("stay", Some((time_ms - *since) / 1000)))
            }
            _ => None,
        };
        event.into_iter()
    }
}

impl Device {
    fn new(last: Position, time_ms: i64, areas: usize) -> Device {
        Device { last, time_ms, rejects: 0, inside: vec![None; areas] }
    }

    /// Little-endian: latitude, longitude, time, rejects; for each area the time of entering, or
    /// the smallest there is, and whether the stay was reported.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28 + 9 * self.inside.len());
        bytes.extend(self.last.encode());
        bytes.extend(self.time_ms.to_le_bytes());
        bytes.extend(self.rejects.to_le_bytes());
        for inside in &self.inside {
            let (since, told) = inside.unwrap_or((i64::MIN, false));
            bytes.extend(since.to_le_bytes());
            bytes.push(u8::from(told));
        }
        bytes
    }

    /// None for the state of a deployment with other areas, which is then begun anew.
    fn decode(bytes: &[u8], areas: usize) -> Option<Device> {
        let (fixed, rest) = bytes.split_at_checked(28)?;
        if rest.len() != 9 * areas {
            return None;
        }
        let eight = |at: usize| fixed[at..at + 8].try_into().ok();
        let inside = rest.chunks_exact(9).map(|area| {
            let since = i64::from_le_bytes(area[..8].try_into().ok()?);
            (since != i64::MIN).then_some((since, area[8] == 1))
        });
        Some(Device {
            last: Position::decode(fixed)?,
            time_ms: i64::from_le_bytes(eight(16)?),
            rejects: u32::from_le_bytes(fixed[24..].try_into().ok()?),
            inside: inside.collect(),
        })
    }
}

weir_guest::export_transform!(Geofence);
