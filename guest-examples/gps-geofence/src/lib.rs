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
//! weir module test gps_geofence.wasm --input buses.ndjson --key /vehicle_id --timestamp /timestamp
//! \
//!     --param areas='depot:30.2653,-97.7497,400;airport:30.2021,-97.6680,2000'
//! ```

use serde::Serialize;
use serde_json::Value;
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

#[derive(Clone, Copy)]
struct Position {
    lat: f64,
    lon: f64,
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
        let key = record.key().ok_or_else(|| Error::msg("a position needs a key: the device"))?;
        let Some(position) = self.position(record)? else { return Ok(()) };
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

impl Geofence {
    /// The position of a record; none where there is no fix, or no sense in it.
    fn position(&self, record: &Record<'_>) -> Result<Option<Position>> {
        let value: Value = serde_json::from_slice(record.bytes()?)?;
        let degrees = |field: &str| match &value[field] {
            Value::Null => Ok(None),
            Value::Number(number) => Ok(number.as_f64()),
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) => Ok(Some(text.parse::<f64>()?)),
            _ => Err(Error::msg(format_args!("{field} is not a number"))),
        };
        let (Some(lat), Some(lon)) = (degrees(&self.params.lat)?, degrees(&self.params.lon)?)
        else {
            return Ok(None);
        };
        let on_globe = lat.abs() <= 90.0 && lon.abs() <= 180.0;
        let nowhere = lat.abs() < 1e-6 && lon.abs() < 1e-6;
        Ok((on_globe && !nowhere).then_some(Position { lat, lon }))
    }
}

impl Area {
    fn parse(text: &str) -> Result<Area> {
        let wrong = || Error::msg(format_args!("area {text:?} is not name:lat,lon,metres"));
        let (name, numbers) = text.split_once(':').ok_or_else(wrong)?;
        let numbers: Vec<f64> =
            numbers.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>()?;
        let [lat, lon, radius_m] = numbers[..] else { return Err(wrong()) };
        let on_globe = lat.abs() <= 90.0 && lon.abs() <= 180.0;
        weir_guest::ensure!(on_globe && radius_m > 0.0, "area {text:?} is not on the globe");
        Ok(Area { name: name.to_owned(), at: Position { lat, lon }, radius_m })
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

impl Position {
    /// Metres to another position, on a plane that touches the globe between them: right to a
    /// thousandth for the some hundred kilometres that matter here.
    fn metres_to(self, other: Position) -> f64 {
        const METRES_PER_DEGREE: f64 = 111_194.93;
        let middle = f64::midpoint(self.lat, other.lat).to_radians();
        let mut degrees_east = (other.lon - self.lon).abs();
        if degrees_east > 180.0 {
            degrees_east = 360.0 - degrees_east;
        }
        let (north, east) = (other.lat - self.lat, degrees_east * middle.cos());
        north.hypot(east) * METRES_PER_DEGREE
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
        bytes.extend(self.last.lat.to_le_bytes());
        bytes.extend(self.last.lon.to_le_bytes());
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
        let last =
            Position { lat: f64::from_le_bytes(eight(0)?), lon: f64::from_le_bytes(eight(8)?) };
        let inside = rest.chunks_exact(9).map(|area| {
            let since = i64::from_le_bytes(area[..8].try_into().ok()?);
            (since != i64::MIN).then_some((since, area[8] == 1))
        });
        Some(Device {
            last,
            time_ms: i64::from_le_bytes(eight(16)?),
            rejects: u32::from_le_bytes(fixed[24..].try_into().ok()?),
            inside: inside.collect(),
        })
    }
}

weir_guest::export_transform!(Geofence);
