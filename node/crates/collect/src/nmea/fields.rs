//! The fields of the sentences that make up a position: RMC, GGA, GNS, GLL, VTG, GSA, GSV, ZDA.
//!
//! An empty or absent field is none. A field that is there but cannot be what it should is a
//! [`FieldError`]: the sentence is damaged in a way that its checksum does not show.

use super::sentence::Sentence;
use crate::time::{days_of, full_year};

/// A field that cannot be what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field {index} of {kind} is no {expected}")]
pub struct FieldError {
    /// Kind of the sentence.
    pub kind: &'static str,
    /// Which field, from 1.
    pub index: usize,
    /// What it should be.
    pub expected: &'static str,
}

/// A decoded sentence.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Recommended minimum: time, date, position, speed and course.
    Rmc {
        /// Time of day, milliseconds.
        time: Option<u32>,
        /// Days since 1970.
        date: Option<i64>,
        /// `A`, not `V`.
        valid: bool,
        /// Where.
        position: Option<Position>,
        /// Knots over ground.
        speed_knots: Option<f64>,
        /// Degrees from true north.
        course_deg: Option<f64>,
    },
    /// Fix data; GNS, which says the same of several systems, is decoded to it too.
    Gga {
        /// Time of day, milliseconds.
        time: Option<u32>,
        /// Where.
        position: Option<Position>,
        /// 0 none, 1 GPS, 2 differential, 4 RTK fixed, 5 RTK float, 6 estimated, and so on.
        quality: Option<u8>,
        /// As the sentence says it: many receivers stop at 12.
        satellites: Option<u32>,
        /// Horizontal dilution of precision.
        hdop: Option<f64>,
        /// Above mean sea level.
        altitude_m: Option<f64>,
        /// Mean sea level above the ellipsoid.
        geoid_m: Option<f64>,
    },
    /// Position and time.
    Gll {
        /// Time of day, milliseconds.
        time: Option<u32>,
        /// `A`, not `V`.
        valid: bool,
        /// Where.
        position: Option<Position>,
    },
    /// Course and speed.
    Vtg {
        /// Degrees from true north.
        course_deg: Option<f64>,
        /// Knots over ground.
        speed_knots: Option<f64>,
    },
    /// Dilution of precision and satellites in use.
    Gsa {
        /// 1 none, 2 without and 3 with altitude.
        mode: Option<u8>,
        /// Ids of the satellites used.
        satellites: Vec<u16>,
        /// NMEA 4.1: which system the ids are of; 0 if it is not said.
        system: u8,
        /// Position.
        pdop: Option<f64>,
        /// Horizontal.
        hdop: Option<f64>,
        /// Vertical.
        vdop: Option<f64>,
    },
    /// Satellites in view of one system.
    Gsv {
        /// How many.
        in_view: Option<u32>,
    },
    /// Time and date.
    Zda {
        /// Time of day, milliseconds.
        time: Option<u32>,
        /// Days since 1970.
        date: Option<i64>,
    },
}

/// Degrees, north and east positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Latitude.
    pub lat: f64,
    /// Longitude.
    pub lon: f64,
}

impl Body {
    /// Whether sentences of this kind carry a time, and the time.
    pub(crate) fn time(&self) -> Option<Option<u32>> {
        match self {
            Body::Rmc { time, .. }
            | Body::Gga { time, .. }
            | Body::Gll { time, .. }
            | Body::Zda { time, .. } => Some(*time),
            Body::Vtg { .. } | Body::Gsa { .. } | Body::Gsv { .. } => None,
        }
    }
}

/// Decodes a sentence; none if it is of a kind that says nothing about the position.
///
/// # Errors
/// [`FieldError`] on the first field that cannot be what it should.
pub fn decode(sentence: &Sentence<'_>) -> Result<Option<Body>, FieldError> {
    if sentence.encapsulated || sentence.talker == "P" {
        return Ok(None);
    }
    let data = sentence.data;
    Ok(Some(match sentence.kind {
        "RMC" => decode_rmc(&Fields::new("RMC", data))?,
        "GGA" => decode_gga(&Fields::new("GGA", data))?,
        "GNS" => decode_gns(&Fields::new("GNS", data))?,
        "GLL" => decode_gll(&Fields::new("GLL", data))?,
        "VTG" => decode_vtg(&Fields::new("VTG", data))?,
        "GSA" => decode_gsa(&Fields::new("GSA", data))?,
        "GSV" => Body::Gsv { in_view: Fields::new("GSV", data).count(3)? },
        "ZDA" => decode_zda(&Fields::new("ZDA", data))?,
        _ => return Ok(None),
    }))
}

fn decode_rmc(fields: &Fields<'_>) -> Result<Body, FieldError> {
    Ok(Body::Rmc {
        time: fields.time(1)?,
        valid: fields.status(2)?,
        position: fields.position(3)?,
        speed_knots: fields.number(7)?,
        course_deg: fields.number(8)?,
        date: fields.date(9)?,
    })
}

fn decode_gga(fields: &Fields<'_>) -> Result<Body, FieldError> {
    Ok(Body::Gga {
        time: fields.time(1)?,
        position: fields.position(2)?,
        quality: fields.digit(6)?,
        satellites: fields.count(7)?,
        hdop: fields.number(8)?,
        altitude_m: fields.number(9)?,
        geoid_m: fields.number(11)?,
    })
}

/// GNS has one mode letter a system where GGA has a quality; the best of them is the quality.
fn decode_gns(fields: &Fields<'_>) -> Result<Body, FieldError> {
    let quality_of = |mode: u8| match mode {
        b'N' => 0,
        b'E' => 6,
        b'M' => 7,
        b'S' => 8,
        b'D' => 2,
        b'P' => 3,
        b'F' => 5,
        b'R' => 4,
        _ => 1,
    };
    // From no fix to the best one.
    let rank = |quality: &u8| [0, 8, 7, 6, 1, 2, 3, 5, 4].iter().position(|known| known == quality);
    let modes = fields.text(6).bytes();
    Ok(Body::Gga {
        time: fields.time(1)?,
        position: fields.position(2)?,
        quality: modes.map(quality_of).max_by_key(rank),
        satellites: fields.count(7)?,
        hdop: fields.number(8)?,
        altitude_m: fields.number(9)?,
        geoid_m: fields.number(10)?,
    })
}

fn decode_gll(fields: &Fields<'_>) -> Result<Body, FieldError> {
    Ok(Body::Gll { position: fields.position(1)?, time: fields.time(5)?, valid: fields.status(6)? })
}

fn decode_vtg(fields: &Fields<'_>) -> Result<Body, FieldError> {
    Ok(Body::Vtg { course_deg: fields.number(1)?, speed_knots: fields.number(5)? })
}

fn decode_gsa(fields: &Fields<'_>) -> Result<Body, FieldError> {
    let mut satellites = Vec::new();
    for index in 3..=14 {
        if let Some(id) = fields.count(index)? {
            satellites.push(u16::try_from(id).map_err(|_| fields.error(index, "satellite"))?);
        }
    }
    let system = u8::from_str_radix(fields.text(18), 16).unwrap_or(0);
    Ok(Body::Gsa {
        mode: fields.digit(2)?,
        satellites,
        system,
        pdop: fields.number(15)?,
        hdop: fields.number(16)?,
        vdop: fields.number(17)?,
    })
}

fn decode_zda(fields: &Fields<'_>) -> Result<Body, FieldError> {
    let date = match (fields.count(2)?, fields.count(3)?, fields.count(4)?) {
        (Some(day), Some(month), Some(year)) => {
            // The standard wants four digits, but some talkers send two.
            let year = if year < 100 { full_year(year.into()) } else { year.into() };
            let days = days_of(year, month.into(), day.into());
            Some(days.ok_or_else(|| fields.error(2, "date"))?)
        }
        _ => None,
    };
    Ok(Body::Zda { time: fields.time(1)?, date })
}

/// The fields of a sentence by their number in the standard, from 1.
struct Fields<'a> {
    kind: &'static str,
    values: Vec<&'a str>,
}

impl<'a> Fields<'a> {
    fn new(kind: &'static str, data: &'a str) -> Self {
        Self { kind, values: data.split(',').collect() }
    }

    fn error(&self, index: usize, expected: &'static str) -> FieldError {
        FieldError { kind: self.kind, index, expected }
    }

    fn text(&self, index: usize) -> &'a str {
        self.values.get(index - 1).copied().unwrap_or("").trim()
    }

    /// A decimal number; neither exponents nor words such as `inf`.
    fn number(&self, index: usize) -> Result<Option<f64>, FieldError> {
        let text = self.text(index);
        if text.is_empty() {
            return Ok(None);
        }
        let plain =
            text.len() <= 24 && text.bytes().all(|b| b.is_ascii_digit() || b"+-.".contains(&b));
        match text.parse() {
            Ok(number) if plain => Ok(Some(number)),
            _ => Err(self.error(index, "number")),
        }
    }

    fn count(&self, index: usize) -> Result<Option<u32>, FieldError> {
        let text = self.text(index);
        if text.is_empty() {
            return Ok(None);
        }
        let plain = text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
        let count = text.parse().ok().filter(|_| plain);
        count.map(Some).ok_or_else(|| self.error(index, "count"))
    }

    fn digit(&self, index: usize) -> Result<Option<u8>, FieldError> {
        let digit = self.count(index)?.map(|count| count.try_into().ok().filter(|d| *d <= 9));
        digit.map(|digit| digit.ok_or_else(|| self.error(index, "digit"))).transpose()
    }

    /// `A` valid; `V`, or nothing, not.
    fn status(&self, index: usize) -> Result<bool, FieldError> {
        match self.text(index) {
            "A" => Ok(true),
            "V" | "" => Ok(false),
            _ => Err(self.error(index, "status")),
        }
    }

    /// `hhmmss` with a fraction: milliseconds of the day. Second 60 is a leap second.
    fn time(&self, index: usize) -> Result<Option<u32>, FieldError> {
        let text = self.text(index);
        if text.is_empty() {
            return Ok(None);
        }
        parse_time_of_day(text).map(Some).ok_or_else(|| self.error(index, "time"))
    }

    /// `ddmmyy`: days since 1970.
    fn date(&self, index: usize) -> Result<Option<i64>, FieldError> {
        let text = self.text(index);
        if text.is_empty() {
            return Ok(None);
        }
        parse_date(text).map(Some).ok_or_else(|| self.error(index, "date"))
    }

    /// Latitude, `N` or `S`, longitude, `E` or `W`, from `index` on; none if any is empty.
    fn position(&self, index: usize) -> Result<Option<Position>, FieldError> {
        let parts = [0, 1, 2, 3].map(|offset| self.text(index + offset));
        if parts.contains(&"") {
            return Ok(None);
        }
        let [lat, north, lon, east] = parts;
        let lat = parse_angle(lat, 90.0).ok_or_else(|| self.error(index, "latitude"))?;
        let lon = parse_angle(lon, 180.0).ok_or_else(|| self.error(index + 2, "longitude"))?;
        let lat = match north {
            "N" => lat,
            "S" => -lat,
            _ => return Err(self.error(index + 1, "N or S")),
        };
        let lon = match east {
            "E" => lon,
            "W" => -lon,
            _ => return Err(self.error(index + 3, "E or W")),
        };
        Ok(Some(Position { lat, lon }))
    }
}

fn parse_time_of_day(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.len() != 6 || fraction.len() > 9 || !plain(whole) || !plain(fraction) {
        return None;
    }
    let clock: u32 = whole.parse().ok()?;
    let (hour, minute, second) = (clock / 10_000, clock / 100 % 100, clock % 100);
    let scale = [100, 10, 1];
    let ms: u32 = fraction.bytes().zip(scale).map(|(b, scale)| u32::from(b - b'0') * scale).sum();
    let fits = hour <= 23 && minute <= 59 && second <= 60;
    fits.then_some(hour * 3_600_000 + minute * 60_000 + second * 1_000 + ms)
}

fn parse_date(text: &str) -> Option<i64> {
    if text.len() != 6 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let date: i64 = text.parse().ok()?;
    days_of(full_year(date % 100), date / 100 % 100, date / 10_000)
}

/// `dddmm.mmmm`, of which only the last two digits before the point are minutes.
fn parse_angle(text: &str, max_deg: f64) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !(3..=7).contains(&whole.len()) || fraction.len() > 12 || !plain(whole) || !plain(fraction) {
        return None;
    }
    let split = whole.len() - 2;
    let degrees: f64 = whole[..split].parse().ok()?;
    let minutes: f64 = text[split..].parse().ok()?;
    let angle = degrees + minutes / 60.0;
    // Nine decimals are 0.1 mm: finer than any receiver, coarser than the rounding of f64.
    let rounded = (angle * 1e9).round() / 1e9;
    (minutes < 60.0 && angle <= max_deg).then_some(rounded)
}

#[cfg(test)]
mod tests {
    use super::super::sentence::{checksum, parse_line};
    use super::*;

    fn decode_text(body: &str) -> Result<Option<Body>, FieldError> {
        let line = format!("${body}*{:02X}", checksum(body.as_bytes()));
        let (_, sentence) = parse_line(line.as_bytes()).unwrap();
        decode(&sentence)
    }

    /// A full RMC and GGA, units and signs.
    #[test]
    fn values() {
        let rmc = decode_text("GNRMC,021417.05,A,3725.58362,N,12205.61915,W,0.028,65.13,070220,,");
        let Ok(Some(Body::Rmc { time, date, valid, position, speed_knots, course_deg })) = rmc
        else {
            panic!("{rmc:?}");
        };
        assert_eq!(time, Some((2 * 3_600 + 14 * 60 + 17) * 1_000 + 50));
        assert_eq!(date, days_of(2020, 2, 7));
        assert!(valid);
        assert_eq!(position, Some(Position { lat: 37.426_393_667, lon: -122.093_652_5 }));
        assert_eq!((speed_knots, course_deg), (Some(0.028), Some(65.13)));
        let gga =
            decode_text("GPGGA,000343,4808.9993,S,01135.0798,E,1,04,01.4,00460.0,M,-30.5,M,,");
        let Ok(Some(Body::Gga { position, quality, satellites, geoid_m, .. })) = gga else {
            panic!("{gga:?}");
        };
        assert!(position.unwrap().lat < -48.0);
        assert_eq!((quality, satellites, geoid_m), (Some(1), Some(4), Some(-30.5)));
    }

    /// The best mode of GNS counts, and kinds that say no position are none.
    #[test]
    fn gns_and_others() {
        let quality = |modes: &str| {
            let gns = decode_text(&format!("GNGNS,000343,4808.9,N,01135.0,E,{modes},10,1.0,4,5,,"));
            let Ok(Some(Body::Gga { quality, .. })) = gns else { panic!("{gns:?}") };
            quality
        };
        assert_eq!(quality("NN"), Some(0));
        assert_eq!(quality("ANRD"), Some(4));
        assert_eq!(quality("FA"), Some(5));
        assert_eq!(decode_text("WIMWV,297.6,R,5.6,N,A"), Ok(None));
        assert_eq!(decode_text("PRMC,x"), Ok(None));
    }

    /// A field that cannot be what it should says which.
    #[test]
    fn bad_fields_are_named() {
        for (body, index) in [
            ("GPRMC,250000,A,,,,,,,010120", 1),
            ("GPRMC,1200,A,,,,,,,010120", 1),
            ("GPRMC,120000,B,,,,,,,010120", 2),
            ("GPRMC,120000,A,9000.01,N,01135.0,E,,,010120", 3),
            ("GPRMC,120000,A,4860.0,N,01135.0,E,,,010120", 3),
            ("GPRMC,120000,A,4800.0,X,01135.0,E,,,010120", 4),
            ("GPRMC,120000,A,,,,,inf,,010120", 7),
            ("GPRMC,120000,A,,,,,1e5,,010120", 7),
            ("GPRMC,120000,A,,,,,,,310220", 9),
            ("GPGGA,120000,,,,,12,,,", 6),
            ("GPGSA,A,3,x", 3),
            ("GPZDA,120000,31,02,2020", 2),
            ("GPGSV,1,1,-1", 3),
        ] {
            assert_eq!(decode_text(body).unwrap_err().index, index, "{body}");
        }
    }
}
