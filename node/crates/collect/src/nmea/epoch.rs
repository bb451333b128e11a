//! Sentences of one epoch, merged into one position.
//!
//! A receiver reports one fix in several sentences, some with the time of day of the fix (RMC,
//! GGA, GNS, GLL, ZDA), some without (VTG, GSA, GSV). The rule, per device:
//!
//! 1. An **epoch** is a run of sentences with the same time of day, to the millisecond. The date
//!    plays no part, so a receiver whose date jumps still yields one position a fix.
//! 2. A sentence with another time of day ends the epoch and opens the next. So does a sentence
//!    with an empty time, if the epoch holds one of its kind and has no time itself.
//! 3. A sentence without a time belongs to the open epoch; if none is open (at the start, or
//!    after silence), to the next one.
//! 4. Silence and the end of the input end the epoch too. If more of it comes after silence, it
//!    opens again with all that it had, and its position is emitted a second time, complete.
//!
//! Within an epoch: the position is that of GGA or GNS, else RMC, else GLL; speed and course are
//! RMC's, else VTG's; the date is ZDA's (four-digit year), else RMC's, else the device's last one
//! moved on past midnight, else that of the tag block. There is no fix if RMC says `V` or the
//! quality is 0, or if nothing says that there is one. A later sentence of the same kind wins.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::fields::{Body, Position};
use crate::time::{DAY_MS, format_time};

/// Most satellites that are counted in one epoch.
const SATELLITES_MAX: usize = 256;
const KNOT_MPS: f64 = 1_852.0 / 3_600.0;
const WEEK_ROLLOVER_DAYS: i64 = 1_024 * 7;

/// What merging one device's sentences needs to remember.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceEpochs {
    open: Option<Epoch>,
    /// The epoch that silence ended, in case more of it comes.
    silenced: Option<Epoch>,
    /// Date (days since 1970) and time of day of the last epoch that had both.
    last: Option<(i64, u32)>,
}

#[derive(Debug, Clone, Default)]
struct Epoch {
    time: Option<u32>,
    rmc: Option<Rmc>,
    gga: Option<Gga>,
    gll: Option<(bool, Option<Position>)>,
    vtg: Option<(Option<f64>, Option<f64>)>,
    date: Option<i64>,
    mode: Option<u8>,
    dilution: [Option<f64>; 3],
    used: BTreeSet<([u8; 2], u8, u16)>,
    in_view: BTreeMap<[u8; 2], u32>,
    tag_ms: Option<i64>,
    /// Something with a time in principle is in it; else it is only leftovers.
    timed: bool,
}

#[derive(Debug, Clone)]
struct Rmc {
    valid: bool,
    position: Option<Position>,
    speed_knots: Option<f64>,
    course_deg: Option<f64>,
    date: Option<i64>,
}

#[derive(Debug, Clone)]
struct Gga {
    position: Option<Position>,
    quality: Option<u8>,
    satellites: Option<u32>,
    hdop: Option<f64>,
    altitude_m: Option<f64>,
    geoid_m: Option<f64>,
}

/// One merged position, as it is written to JSON. Fields that are not known are left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PositionRecord {
    /// The device.
    pub device: String,
    /// RFC 3339, UTC; absent if the date is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `none`, `gps`, `dgps`, `pps`, `rtk_fixed`, `rtk_float`, `estimated`, `manual` or
    /// `simulated`.
    pub fix: &'static str,
    /// Degrees, north positive; absent without a fix, like all that follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lat: Option<f64>,
    /// Degrees, east positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lon: Option<f64>,
    /// Above mean sea level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alt_m: Option<f64>,
    /// Mean sea level above the ellipsoid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geoid_m: Option<f64>,
    /// Over ground, metres per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed_mps: Option<f64>,
    /// Over ground, degrees from true north.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub course_deg: Option<f64>,
    /// The number that GGA gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
    /// 2 without and 3 with altitude, as GSA says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u8>,
    /// The larger of GGA's count, which many receivers end at 12, and the ids in GSA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub satellites_used: Option<u32>,
    /// Sum over the systems.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub satellites_in_view: Option<u32>,
    /// Dilution of precision of the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pdop: Option<f64>,
    /// Horizontal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hdop: Option<f64>,
    /// Vertical.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vdop: Option<f64>,
    /// How many times 1,024 weeks were added to a date before the configured earliest one.
    #[serde(skip_serializing_if = "is_zero")]
    pub rollovers: u32,
    /// The event time, milliseconds since 1970.
    #[serde(skip)]
    pub timestamp_ms: Option<i64>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl PositionRecord {
    /// Whether the receiver knew where it was.
    pub fn has_fix(&self) -> bool {
        self.lat.is_some()
    }
}

/// What turns an ended epoch into a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finishing<'a> {
    pub device: &'a str,
    /// Dates before this are moved on by 1,024 weeks until they are not.
    pub not_before_ms: Option<i64>,
}

impl DeviceEpochs {
    /// Takes a sentence; returns the position of the epoch that it ended.
    pub fn handle_sentence(
        &mut self,
        talker: &str,
        body: Body,
        tag_ms: Option<i64>,
        finishing: Finishing<'_>,
    ) -> Option<PositionRecord> {
        let mut ended = None;
        if let Some(time) = body.time() {
            if self.open.as_ref().is_some_and(|open| open.ends_at(&body, time)) {
                ended = self.open.take().and_then(|open| self.finish(open, finishing));
            }
            let silenced = self.silenced.take();
            let open = self.open.get_or_insert_default();
            if !open.timed
                && let Some(silenced) = silenced.filter(|s| s.time == time && time.is_some())
            {
                let leftovers = std::mem::replace(open, silenced);
                open.absorb(leftovers);
            }
            open.timed = true;
            open.time = open.time.or(time);
        }
        let open = self.open.get_or_insert_default();
        open.tag_ms = open.tag_ms.or(tag_ms);
        open.add(talker, body);
        ended
    }

    /// Silence: ends the open epoch, but remembers it.
    pub fn handle_idle(&mut self, finishing: Finishing<'_>) -> Option<PositionRecord> {
        let open = self.open.take_if(|open| open.timed)?;
        self.silenced = Some(open.clone());
        self.finish(open, finishing)
    }

    /// The end of the input: ends the open epoch.
    pub fn handle_end(&mut self, finishing: Finishing<'_>) -> Option<PositionRecord> {
        self.silenced = None;
        let open = self.open.take()?;
        self.finish(open, finishing)
    }

    /// Event time of the open epoch, or of the last one: about when other sentences came.
    pub fn time_ms(&self) -> Option<i64> {
        let (date, last_time) = self.last?;
        match self.open.as_ref().and_then(|open| open.time.map(|time| (open.date, time))) {
            Some((Some(date), time)) => Some(date * DAY_MS + i64::from(time)),
            Some((None, time)) => {
                Some(past_midnight(date, last_time, time) * DAY_MS + i64::from(time))
            }
            None => Some(date * DAY_MS + i64::from(last_time)),
        }
    }

    fn finish(&mut self, epoch: Epoch, finishing: Finishing<'_>) -> Option<PositionRecord> {
        if !epoch.timed {
            return None;
        }
        let date = epoch.time.and_then(|time| self.date_of(&epoch, time));
        let mut timestamp_ms = None;
        let mut rollovers = 0;
        if let (Some(date), Some(time)) = (date, epoch.time) {
            self.last = Some((date, time));
            let ms = date * DAY_MS + i64::from(time);
            let behind = finishing.not_before_ms.map_or(0, |limit| limit.saturating_sub(ms).max(0));
            let span = WEEK_ROLLOVER_DAYS * DAY_MS;
            let missing = behind / span + i64::from(behind % span > 0);
            rollovers = u32::try_from(missing).unwrap_or(0);
            timestamp_ms = ms.checked_add(i64::from(rollovers) * span);
        }
        Some(epoch.into_record(finishing.device, timestamp_ms, rollovers))
    }

    fn date_of(&self, epoch: &Epoch, time: u32) -> Option<i64> {
        let own = epoch.date.or(epoch.rmc.as_ref().and_then(|rmc| rmc.date));
        let inherited = || self.last.map(|(date, last_time)| past_midnight(date, last_time, time));
        let tagged = || {
            let half_day = DAY_MS / 2;
            let ms = epoch.tag_ms?.checked_sub(i64::from(time))?.checked_add(half_day)?;
            Some(ms.div_euclid(DAY_MS))
        };
        own.or_else(inherited).or_else(tagged)
    }
}

/// The date of `time`, if `last_time` was on `date` and less than half a day lies between.
fn past_midnight(date: i64, last_time: u32, time: u32) -> i64 {
    let back = i64::from(last_time) - i64::from(time);
    if back > DAY_MS / 2 { date + 1 } else { date }
}

impl Epoch {
    /// Whether `body`, with `time`, is of another epoch.
    fn ends_at(&self, body: &Body, time: Option<u32>) -> bool {
        match (self.time, time) {
            (Some(open), Some(new)) => open != new,
            (None, None) => match body {
                Body::Rmc { .. } => self.rmc.is_some(),
                Body::Gga { .. } => self.gga.is_some(),
                Body::Gll { .. } => self.gll.is_some(),
                _ => false,
            },
            (None, Some(_)) => self.timed,
            (Some(_), None) => false,
        }
    }

    fn add(&mut self, talker: &str, body: Body) {
        let mut name = [b' '; 2];
        name.iter_mut().zip(talker.bytes()).for_each(|(to, from)| *to = from);
        match body {
            Body::Rmc { valid, position, speed_knots, course_deg, date, .. } => {
                self.rmc = Some(Rmc { valid, position, speed_knots, course_deg, date });
            }
            Body::Gga { position, quality, satellites, hdop, altitude_m, geoid_m, .. } => {
                self.gga = Some(Gga { position, quality, satellites, hdop, altitude_m, geoid_m });
            }
            Body::Gll { valid, position, .. } => self.gll = Some((valid, position)),
            Body::Vtg { course_deg, speed_knots } => self.vtg = Some((course_deg, speed_knots)),
            Body::Zda { date, .. } => self.date = date.or(self.date),
            Body::Gsv { in_view: Some(in_view) } => {
                let most = self.in_view.entry(name).or_default();
                *most = in_view.max(*most);
            }
            Body::Gsv { in_view: None } => {}
            Body::Gsa { mode, satellites, system, pdop, hdop, vdop } => {
                self.mode = self.mode.max(mode);
                for (known, new) in self.dilution.iter_mut().zip([pdop, hdop, vdop]) {
                    *known = new.or(*known);
                }
                for id in satellites {
                    if self.used.len() < SATELLITES_MAX {
                        self.used.insert((name, system, id));
                    }
                }
            }
        }
    }

    /// Adds sentences without a time that came before this epoch opened again.
    fn absorb(&mut self, leftovers: Epoch) {
        self.vtg = leftovers.vtg.or(self.vtg);
        self.mode = self.mode.max(leftovers.mode);
        for (known, new) in self.dilution.iter_mut().zip(leftovers.dilution) {
            *known = new.or(*known);
        }
        self.used.extend(leftovers.used);
        self.in_view.extend(leftovers.in_view);
    }

    fn fix(&self) -> (&'static str, Option<Position>) {
        let void = self.rmc.as_ref().is_some_and(|rmc| !rmc.valid);
        let quality = self.gga.as_ref().and_then(|gga| gga.quality);
        let gll_valid = self.gll.is_some_and(|(valid, _)| valid);
        let valid = quality.map_or(self.rmc.is_some() || gll_valid, |quality| quality > 0);
        if void || !valid {
            return ("none", None);
        }
        let position = (self.gga.as_ref().and_then(|gga| gga.position))
            .or_else(|| self.rmc.as_ref().and_then(|rmc| rmc.position))
            .or_else(|| self.gll.and_then(|(_, position)| position));
        let name = match quality {
            None | Some(1) => "gps",
            Some(2) => "dgps",
            Some(3) => "pps",
            Some(4) => "rtk_fixed",
            Some(5) => "rtk_float",
            Some(6) => "estimated",
            Some(7) => "manual",
            Some(8) => "simulated",
            Some(_) => "gps",
        };
        (if position.is_some() { name } else { "none" }, position)
    }

    fn into_record(
        self,
        device: &str,
        timestamp_ms: Option<i64>,
        rollovers: u32,
    ) -> PositionRecord {
        let (fix, position) = self.fix();
        let gga = self.gga.as_ref();
        let (vtg_course, vtg_speed) = self.vtg.unwrap_or_default();
        let rmc = self.rmc.as_ref();
        let speed_knots = rmc.and_then(|rmc| rmc.speed_knots).or(vtg_speed);
        let course_deg = rmc.and_then(|rmc| rmc.course_deg).or(vtg_course);
        let with_fix = |value: Option<f64>| value.filter(|_| position.is_some());
        let listed = u32::try_from(self.used.len()).ok().filter(|count| *count > 0);
        let in_view = self.in_view.values().fold(0u32, |sum, count| sum.saturating_add(*count));
        let [pdop, hdop, vdop] = self.dilution;
        PositionRecord {
            device: device.to_owned(),
            time: timestamp_ms.map(format_time),
            fix,
            lat: position.map(|position| position.lat),
            lon: position.map(|position| position.lon),
            alt_m: with_fix(gga.and_then(|gga| gga.altitude_m)),
            geoid_m: with_fix(gga.and_then(|gga| gga.geoid_m)),
            speed_mps: with_fix(speed_knots.map(|knots| (knots * KNOT_MPS * 1e6).round() / 1e6)),
            course_deg: with_fix(course_deg),
            quality: gga.and_then(|gga| gga.quality),
            dimensions: self.mode.filter(|mode| *mode > 1),
            satellites_used: listed.max(gga.and_then(|gga| gga.satellites)),
            satellites_in_view: (!self.in_view.is_empty()).then_some(in_view),
            pdop: with_fix(pdop),
            hdop: with_fix(gga.and_then(|gga| gga.hdop).or(hdop)),
            vdop: with_fix(vdop),
            rollovers,
            timestamp_ms,
        }
    }
}
