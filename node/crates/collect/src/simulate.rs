//! A simulated GPS receiver: drives a route and says so in real NMEA sentences.
//!
//! Each device drives the closed route of its waypoints for ever, speeding up and slowing down
//! along it, with a little noise on what it reports. Everything follows from the seed and the
//! times that the caller passes, so the same calls give the same sentences.

use fastrand::Rng;

use crate::limits::SIMULATED_DEVICES_MAX;
use crate::nmea::{NmeaDecoder, NmeaOptions, checksum};
use crate::record::{Collected, Counts, Decoder};
use crate::time::{DAY_MS, civil_from_days};

/// A point of the route: latitude and longitude in degrees.
pub type Waypoint = (f64, f64);

/// A loop of about 6 km through the centre of Grenoble.
pub const BUILT_IN_ROUTE: [Waypoint; 10] = [
    (45.191_5, 5.714_6),
    (45.193_8, 5.722_1),
    (45.193_0, 5.729_9),
    (45.190_1, 5.736_8),
    (45.186_2, 5.738_6),
    (45.182_9, 5.733_7),
    (45.181_0, 5.726_0),
    (45.183_1, 5.717_2),
    (45.186_6, 5.712_4),
    (45.189_4, 5.711_7),
];

/// What to simulate.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatorOptions {
    /// How many receivers, 1 to 10,000; named `gps-1`, `gps-2`, ...
    pub devices: usize,
    /// The closed route; fewer than two points stand still.
    pub route: Vec<Waypoint>,
    /// Mean speed; the real one goes between half and one and a half times it.
    pub speed_mps: f64,
    /// Chance that a sentence has a wrong checksum, 0 to 1.
    pub fault_rate: f64,
    /// Adds GSA and GSV to RMC and GGA.
    pub satellites: bool,
    /// Of all randomness.
    pub seed: u64,
}

impl Default for SimulatorOptions {
    /// One receiver on the built-in route at 50 km/h, without faults, with satellites.
    fn default() -> Self {
        Self {
            devices: 1,
            route: BUILT_IN_ROUTE.to_vec(),
            speed_mps: 13.9,
            fault_rate: 0.0,
            satellites: true,
            seed: 1,
        }
    }
}

/// Simulated receivers. Pure: time comes from the caller.
#[derive(Debug)]
pub struct Simulator {
    options: SimulatorOptions,
    route: Route,
    devices: Vec<Device>,
    rng: Rng,
    last_ms: Option<i64>,
}

#[derive(Debug)]
struct Device {
    name: String,
    /// Along the route, from its start.
    travelled_m: f64,
    phase: f64,
}

#[derive(Debug)]
struct Route {
    points: Vec<Waypoint>,
    /// Distance from the start to each point; one more for the way back to the start.
    at_m: Vec<f64>,
}

/// One degree of latitude, in metres.
const DEGREE_M: f64 = 111_194.9;
const MPS_KNOTS: f64 = 3_600.0 / 1_852.0;

impl Simulator {
    /// Devices spread evenly over the route. Counts and rates out of range are brought into it.
    pub fn new(options: SimulatorOptions) -> Self {
        let route = Route::new(&options.route);
        let count = options.devices.clamp(1, SIMULATED_DEVICES_MAX);
        let mut rng = Rng::with_seed(options.seed);
        let devices = (0..count)
            .map(|index| Device {
                name: format!("gps-{}", index + 1),
                travelled_m: route.length_m() * index as f64 / count as f64,
                phase: rng.f64() * std::f64::consts::TAU,
            })
            .collect();
        Self { options, route, devices, rng, last_ms: None }
    }

    /// Drives on to `now_ms` (milliseconds since 1970) and returns what the receivers say, one
    /// line each, without line ends. The device stands in the tag block (`\s:gps-1*hh\`).
    pub fn tick(&mut self, now_ms: i64) -> Vec<String> {
        let elapsed_ms = self.last_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
        self.last_ms = Some(now_ms);
        let mut lines = Vec::new();
        for index in 0..self.devices.len() {
            let speed = self.drive(index, elapsed_ms as f64 / 1_000.0, now_ms);
            self.report(index, speed, now_ms, &mut lines);
        }
        lines
    }

    /// Moves a device and returns its speed in metres per second.
    fn drive(&mut self, index: usize, elapsed_s: f64, now_ms: i64) -> f64 {
        let device = &mut self.devices[index];
        // A period of 40 s: traffic lights, roughly.
        let wave = (now_ms as f64 / 40_000.0 * std::f64::consts::TAU + device.phase).sin();
        let moves = self.route.length_m() > 0.0;
        let speed = if moves { self.options.speed_mps.max(0.0) * (1.0 + 0.5 * wave) } else { 0.0 };
        device.travelled_m += speed * elapsed_s;
        if moves {
            device.travelled_m %= self.route.length_m();
        }
        speed
    }

    fn report(&mut self, index: usize, speed_mps: f64, now_ms: i64, lines: &mut Vec<String>) {
        let (lat, lon, course) = self.route.at(self.devices[index].travelled_m);
        // About a metre of noise.
        let mut noise = |scale: f64| (self.rng.f64() + self.rng.f64() - 1.0) * scale;
        let (lat, lon) = (lat + noise(1e-5), lon + noise(1e-5));
        let altitude = 214.0 + noise(2.0);
        let speed_knots = (speed_mps + noise(0.1)).max(0.0) * MPS_KNOTS;
        let position = format!("{},{}", angle(lat, 2, 'N', 'S'), angle(lon, 3, 'E', 'W'));
        let (time, date) = clock(now_ms);
        let mut say = vec![
            format!("GPRMC,{time},A,{position},{speed_knots:.2},{course:.1},{date},,,A"),
            format!("GPGGA,{time},{position},1,09,0.9,{altitude:.1},M,47.3,M,,"),
        ];
        if self.options.satellites {
            say.push("GPGSA,A,3,02,05,10,13,16,21,23,25,29,,,,1.6,0.9,1.3".to_owned());
            say.push("GPGSV,3,1,10,02,10,039,31,05,15,069,33,10,05,017,28,13,05,348,27".to_owned());
            say.push("GPGSV,3,2,10,16,13,294,30,21,36,173,41,23,11,317,29,25,38,118,42".to_owned());
            say.push("GPGSV,3,3,10,29,69,069,45,31,54,240,".to_owned());
        }
        let source = format!("s:{}", self.devices[index].name);
        let tag = format!("\\{source}*{:02X}\\", checksum(source.as_bytes()));
        for sentence in say {
            let mut sum = checksum(sentence.as_bytes());
            if self.rng.f64() < self.options.fault_rate {
                sum ^= self.rng.u8(1..);
            }
            lines.push(format!("{tag}${sentence}*{sum:02X}"));
        }
    }
}

/// A [`Simulator`] whose sentences go through the same decoder as real ones.
#[derive(Debug)]
pub struct SimulatedReceivers {
    simulator: Simulator,
    decoder: NmeaDecoder,
}

impl SimulatedReceivers {
    /// Receivers as `simulator` says, decoded as `nmea` says.
    pub fn new(simulator: SimulatorOptions, nmea: NmeaOptions) -> Self {
        Self { simulator: Simulator::new(simulator), decoder: NmeaDecoder::new(nmea) }
    }

    /// Drives on to `now_ms` and returns one position a device, and dead letters if faults were
    /// asked for.
    pub fn sample(&mut self, now_ms: i64) -> Vec<Collected> {
        let mut out = Vec::new();
        for line in self.simulator.tick(now_ms) {
            self.decoder.handle_line(line.as_bytes(), &mut out);
        }
        self.decoder.handle_end(&mut out);
        out
    }

    /// What the decoder counted.
    pub fn counts(&self) -> &Counts {
        self.decoder.counts()
    }
}

impl Route {
    fn new(points: &[Waypoint]) -> Self {
        let usable =
            |p: &&Waypoint| (-89.0..=89.0).contains(&p.0) && (-180.0..=180.0).contains(&p.1);
        let mut points: Vec<Waypoint> = points.iter().filter(usable).copied().collect();
        if points.is_empty() {
            points.push(BUILT_IN_ROUTE[0]);
        }
        let mut at_m = vec![0.0];
        for index in 0..points.len() {
            let (north, east) = step_m(points[index], points[(index + 1) % points.len()]);
            at_m.push(at_m[index] + north.hypot(east));
        }
        Self { points, at_m }
    }

    fn length_m(&self) -> f64 {
        self.at_m[self.points.len()]
    }

    /// Latitude, longitude and course in degrees at a distance from the start.
    fn at(&self, travelled_m: f64) -> (f64, f64, f64) {
        let leg = self.at_m.partition_point(|start| *start <= travelled_m).saturating_sub(1);
        let leg = leg.min(self.points.len() - 1);
        let (from, to) = (self.points[leg], self.points[(leg + 1) % self.points.len()]);
        let length = self.at_m[leg + 1] - self.at_m[leg];
        let part = if length > 0.0 { (travelled_m - self.at_m[leg]) / length } else { 0.0 };
        let (north, east) = step_m(from, to);
        let course = east.atan2(north).to_degrees().rem_euclid(360.0);
        (from.0 + (to.0 - from.0) * part, from.1 + (to.1 - from.1) * part, course)
    }
}

/// Metres north and east from one point to the next, on a locally flat earth.
fn step_m(from: Waypoint, to: Waypoint) -> (f64, f64) {
    let north = (to.0 - from.0) * DEGREE_M;
    let east = (to.1 - from.1) * DEGREE_M * from.0.to_radians().cos();
    (north, east)
}

/// `ddmm.mmmmm,N`.
fn angle(degrees: f64, width: usize, positive: char, negative: char) -> String {
    let sign = if degrees < 0.0 { negative } else { positive };
    // In units of 0.00001 minutes, so that rounding never writes 60 minutes.
    let units = (degrees.abs() * 6_000_000.0).round() as u64;
    let (whole, rest) = (units / 6_000_000, units % 6_000_000);
    format!("{whole:0width$}{:02}.{:05},{sign}", rest / 100_000, rest % 100_000)
}

/// `hhmmss.ss` and `ddmmyy`.
fn clock(ms: i64) -> (String, String) {
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let in_day = ms.rem_euclid(DAY_MS);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, hundredth) = (in_day / 1_000 % 60, in_day % 1_000 / 10);
    let time = format!("{hour:02}{minute:02}{second:02}.{hundredth:02}");
    (time, format!("{day:02}{month:02}{:02}", year.rem_euclid(100)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const START_MS: i64 = 1_700_000_000_000;

    fn positions(options: SimulatorOptions, ticks: i64) -> (Vec<Value>, Counts) {
        let mut receivers = SimulatedReceivers::new(options, NmeaOptions::default());
        let mut positions = Vec::new();
        for tick in 0..ticks {
            for record in receivers.sample(START_MS + tick * 1_000) {
                if !record.is_dead_letter() {
                    assert_eq!(record.timestamp_ms, Some(START_MS + tick * 1_000));
                    positions.push(serde_json::from_slice(&record.value).unwrap());
                }
            }
        }
        (positions, receivers.counts().clone())
    }

    /// Drives a whole round: near the route always, at a speed that fits the distance.
    #[test]
    fn drives_the_route() {
        let (positions, counts) = positions(SimulatorOptions::default(), 600);
        assert_eq!((positions.len(), counts.dead_letters), (600, 0));
        for pair in positions.windows(2) {
            let at = |v: &Value| (v["lat"].as_f64().unwrap(), v["lon"].as_f64().unwrap());
            let (north, east) = step_m(at(&pair[0]), at(&pair[1]));
            let speed = pair[1]["speed_mps"].as_f64().unwrap();
            assert!((north.hypot(east) - speed).abs() < 6.0, "{pair:?}");
            assert!(speed < 13.9 * 1.6);
            assert_eq!(pair[1]["fix"], "gps");
            assert_eq!(pair[1]["satellites_used"], 9);
        }
        let lats: Vec<f64> = positions.iter().map(|p| p["lat"].as_f64().unwrap()).collect();
        let spread = lats.iter().fold(f64::MIN, |a, b| a.max(*b))
            - lats.iter().fold(f64::MAX, |a, b| a.min(*b));
        assert!(spread > 0.012, "the whole loop is driven: {spread}");
    }

    /// Several devices are told apart, faults become dead letters, and a seed repeats itself.
    #[test]
    fn devices_faults_and_seed() {
        let options = SimulatorOptions { devices: 3, fault_rate: 0.1, ..Default::default() };
        let (first, counts) = positions(options.clone(), 200);
        let (again, _) = positions(options.clone(), 200);
        assert_eq!(first, again);
        let (other, _) = positions(SimulatorOptions { seed: 2, ..options }, 200);
        assert_ne!(first, other);
        assert_eq!(counts.lines, 3 * 6 * 200);
        assert_eq!(counts.dead_letters, counts.reason("checksum"));
        let share = counts.dead_letters as f64 / counts.lines as f64;
        assert!((0.07..0.13).contains(&share), "{share}");
        for device in ["gps-1", "gps-2", "gps-3"] {
            assert!(first.iter().any(|p| p["device"] == device));
        }
    }

    /// Odd routes and odd numbers do not break it.
    #[test]
    fn odd_options() {
        for route in [vec![], vec![(1.0, 2.0)], vec![(1.0, 2.0); 3], vec![(f64::NAN, 0.0)]] {
            let options = SimulatorOptions {
                devices: 0,
                route,
                speed_mps: f64::INFINITY,
                ..Default::default()
            };
            let (positions, _) = positions(options, 3);
            assert_eq!(positions.len(), 3);
            assert!(positions.iter().all(|p| p["lat"].is_number()));
        }
        let mut simulator = Simulator::new(SimulatorOptions::default());
        for ms in [0, -5, i64::MAX / 2_000, 7] {
            assert!(!simulator.tick(ms).is_empty());
        }
    }

    /// South and west, and minutes that round up.
    #[test]
    fn angles() {
        assert_eq!(angle(-33.5, 2, 'N', 'S'), "3330.00000,S");
        assert_eq!(angle(5.999_999_999_9, 3, 'E', 'W'), "00600.00000,E");
    }
}
