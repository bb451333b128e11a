//! Cuts the positions of devices into trips.
//!
//! A trip begins when a device is `metres` from where it stood, and ends when it has stayed within
//! that distance for `stop-s` seconds, or was not heard of for `silence-s`. In: clean JSON
//! positions keyed by device (see `gps-clean`). Out, when a trip ends:
//!
//! ```json
//! {"device":"2619","trip":3,"from":1490072402000,"to":1490074100000,"duration_s":1698,
//!  "metres":9312,"positions":14,"start":[30.26,-97.74],"end":[30.31,-97.70],"ended":"stop"}
//! ```
//!
//! with the time of its end as event time. Silence is noticed by a timer, so a trip ends without
//! another position of its device, once the others' event times have passed.
//!
//! ```text
//! weir module test gps_trips.wasm --input buses.ndjson --format json \
//!     --key-pointer /vehicle_id --time-pointer /timestamp \
//!     --param lat=latitude --param lon=longitude --fire-timers
//! ```

use positions::Position;
use serde::Serialize;
use weir_guest::prelude::*;

weir_guest::params! {
    /// What a deployment is told.
    pub struct Params {
        /// Field of the latitude, in degrees.
        lat: String = "lat".into(),
        /// Field of the longitude, in degrees.
        lon: String = "lon".into(),
        /// Metres from where it stood that make a trip.
        metres: f64 = 150.0,
        /// Seconds within that distance that end one.
        stop_s: u32 = 300,
        /// Seconds without a position that end one.
        silence_s: u32 = 1800,
    }
}

struct Trips {
    params: Params,
}

/// What is known of a device.
#[derive(Clone, Copy)]
struct Device {
    /// Where it stands, or was when it last got away from a place, and since when.
    anchor: Position,
    anchor_ms: i64,
    /// Its last position.
    last: Position,
    last_ms: i64,
    /// Trips so far, the one under way included.
    trips: u32,
    /// The trip under way.
    trip: Option<Trip>,
}

#[derive(Clone, Copy)]
struct Trip {
    start: Position,
    start_ms: i64,
    /// Way and positions up to where and when it was last found to be moving.
    metres: f64,
    positions: u32,
    /// The same with what came after: counted only if it moves on.
    metres_all: f64,
    positions_all: u32,
}

#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    trip: u32,
    from: i64,
    to: i64,
    duration_s: i64,
    metres: u64,
    positions: u32,
    start: [f64; 2],
    end: [f64; 2],
    ended: &'static str,
}

impl Transform for Trips {
    type Params = Params;
    const ABOUT: &'static str = "Cuts the positions of devices into trips.";
    const STATE_SCHEMA: u32 = 1;
    const TIMERS: bool = true;

    fn start(params: Params) -> Result<Self> {
        weir_guest::ensure!(params.metres > 0.0, "metres must be above 0");
        weir_guest::ensure!(params.stop_s > 0, "stop-s must be above 0");
        weir_guest::ensure!(
            params.silence_s >= params.stop_s,
            "silence-s must not be below stop-s"
        );
        Ok(Trips { params })
    }

    fn state_keys(&self, record: &Record<'_>, keys: &mut weir_guest::Keys) {
        keys.add(record.key().unwrap_or_default());
    }

    fn process(&mut self, record: &Record<'_>, cx: &mut Context<'_>) -> Result<()> {
        let key = positions::device(record)?;
        let object = serde_json::from_slice(record.bytes()?)?;
        let Some(at) = positions::position(&object, &self.params.lat, &self.params.lon)? else {
            return Ok(());
        };
        let time_ms = record.timestamp();
        let known = cx.state().get(key).and_then(Device::decode);
        let mut device = known.unwrap_or_else(|| Device::new(at, time_ms));
        if time_ms < device.last_ms {
            return Ok(());
        }
        if time_ms - device.last_ms >= self.silence_ms() {
            device.end(key, "silence", cx)?;
            (device.anchor, device.anchor_ms) = (at, time_ms);
        }
        device.step(at, time_ms, self.params.metres);
        if time_ms - device.anchor_ms >= i64::from(self.params.stop_s) * 1000 {
            device.end(key, "stop", cx)?;
        }
        cx.state().put(key, device.encode());
        match device.trip {
            Some(_) => cx.set_timer(key, time_ms.saturating_add(self.silence_ms())),
            None => cx.clear_timer(key),
        }
        Ok(())
    }

    fn timer(&mut self, timer: &Timer, cx: &mut Context<'_>) -> Result<()> {
        let known = cx.state().get(&timer.key).and_then(Device::decode);
        if let Some(mut device) = known {
            device.end(&timer.key, "silence", cx)?;
            cx.state().put(&timer.key, device.encode());
        }
        Ok(())
    }
}

impl Trips {
    fn silence_ms(&self) -> i64 {
        i64::from(self.params.silence_s) * 1000
    }
}

impl Device {
    fn new(at: Position, time_ms: i64) -> Device {
        let (anchor, anchor_ms, last, last_ms) = (at, time_ms, at, time_ms);
        Device { anchor, anchor_ms, last, last_ms, trips: 0, trip: None }
    }

    /// It was seen at a place.
    fn step(&mut self, at: Position, time_ms: i64, metres: f64) {
        let way = self.last.metres_to(at);
        let moved = self.anchor.metres_to(at) >= metres;
        if moved && self.trip.is_none() {
            self.trips += 1;
            self.trip = Some(Trip {
                start: self.anchor,
                start_ms: self.last_ms,
                metres: 0.0,
                positions: 1,
                metres_all: 0.0,
                positions_all: 1,
            });
        }
        if let Some(trip) = &mut self.trip {
            trip.metres_all += way;
            trip.positions_all += 1;
            if moved {
                (trip.metres, trip.positions) = (trip.metres_all, trip.positions_all);
            }
        }
        if moved {
            (self.anchor, self.anchor_ms) = (at, time_ms);
        }
        (self.last, self.last_ms) = (at, time_ms);
    }

    /// Ends the trip under way, if there is one: it ended where the device was last found moving.
    fn end(&mut self, key: &[u8], ended: &'static str, cx: &mut Context<'_>) -> Result<()> {
        let Some(trip) = self.trip.take() else { return Ok(()) };
        let report = Report {
            device: &String::from_utf8_lossy(key),
            trip: self.trips,
            from: trip.start_ms,
            to: self.anchor_ms,
            duration_s: (self.anchor_ms - trip.start_ms) / 1000,
            metres: trip.metres.round() as u64,
            positions: trip.positions,
            start: [trip.start.lat, trip.start.lon],
            end: [self.anchor.lat, self.anchor.lon],
            ended,
        };
        let output = cx.output().key(key).timestamp(self.anchor_ms).no_headers();
        output.write(|to| serde_json::to_writer(to, &report))?.send();
        Ok(())
    }

    /// Little-endian, in the order of the fields; a trip only if one is under way.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.anchor.encode().to_vec();
        bytes.extend(self.anchor_ms.to_le_bytes());
        bytes.extend(self.last.encode());
        bytes.extend(self.last_ms.to_le_bytes());
        bytes.extend(self.trips.to_le_bytes());
        if let Some(trip) = &self.trip {
            bytes.extend(trip.start.encode());
            bytes.extend(trip.start_ms.to_le_bytes());
            bytes.extend(trip.metres.to_le_bytes());
            bytes.extend(trip.metres_all.to_le_bytes());
            bytes.extend(trip.positions.to_le_bytes());
            bytes.extend(trip.positions_all.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Device> {
        let mut rest = bytes;
        let mut take = |count: usize| {
            let (front, back) = rest.split_at_checked(count)?;
            rest = back;
            Some(front)
        };
        let (anchor, anchor_ms) = (Position::decode(take(16)?)?, take(8)?.try_into().ok()?);
        let (last, last_ms) = (Position::decode(take(16)?)?, take(8)?.try_into().ok()?);
        let trips = u32::from_le_bytes(take(4)?.try_into().ok()?);
        let trip = match take(16) {
            None => None,
            Some(start) => Some(Trip {
                start: Position::decode(start)?,
                start_ms: i64::from_le_bytes(take(8)?.try_into().ok()?),
                metres: f64::from_le_bytes(take(8)?.try_into().ok()?),
                metres_all: f64::from_le_bytes(take(8)?.try_into().ok()?),
                positions: u32::from_le_bytes(take(4)?.try_into().ok()?),
                positions_all: u32::from_le_bytes(take(4)?.try_into().ok()?),
            }),
        };
        let (anchor_ms, last_ms) = (i64::from_le_bytes(anchor_ms), i64::from_le_bytes(last_ms));
        Some(Device { anchor, anchor_ms, last, last_ms, trips, trip })
    }
}

weir_guest::export_transform!(Trips);
