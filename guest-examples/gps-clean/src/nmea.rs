//! `RMC` sentences of NMEA-0183: the one that has position, time, date, speed and course at once.

use positions::Position;
use weir_guest::{Error, Result, bail};

/// What an `RMC` sentence says.
pub struct Rmc {
    /// None without a fix.
    pub at: Option<Position>,
    /// Time of the fix, in milliseconds since the Unix epoch, if the receiver knows it.
    pub time_ms: Option<i64>,
    /// Metres per second.
    pub speed: Option<f64>,
    /// Degrees from north.
    pub course: Option<f64>,
}

/// Reads a sentence. None for one of another kind.
///
/// # Errors
/// If its checksum is not that of its text, or a number is none.
pub fn parse(sentence: &str) -> Result<Option<Rmc>> {
    let Some((text, checksum)) = sentence.trim_start_matches('$').split_once('*') else {
        bail!("a sentence without a checksum");
    };
    let sum = text.bytes().fold(0, |sum, byte| sum ^ byte);
    if u8::from_str_radix(checksum, 16) != Ok(sum) {
        bail!("the checksum is {checksum}, that of the text {sum:02X}");
    }
    let fields: Vec<&str> = text.split(',').collect();
    if fields[0].get(2..) != Some("RMC") {
        return Ok(None);
    }
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let at = match field(2) {
        "A" => {
            let (lat, lon) = (degrees(field(3), field(4))?, degrees(field(5), field(6))?);
            Position::new(lat, lon)
        }
        _ => None,
    };
    Ok(Some(Rmc {
        at,
        time_ms: time_ms(field(9), field(1)),
        speed: number(field(7))?.map(|knots| knots * 1852.0 / 3600.0),
        course: number(field(8))?,
    }))
}

fn number(field: &str) -> Result<Option<f64>> {
    Ok(if field.is_empty() { None } else { Some(field.parse()?) })
}

/// Degrees from `dddmm.mmm` and a side.
fn degrees(field: &str, side: &str) -> Result<f64> {
    let value: f64 = field.parse()?;
    let whole = (value / 100.0).floor();
    let degrees = whole + (value - whole * 100.0) / 60.0;
    match side {
        "N" | "E" => Ok(degrees),
        "S" | "W" => Ok(-degrees),
        _ => Err(Error::msg(format_args!("{side:?} is no side of the globe"))),
    }
}

/// Milliseconds since the Unix epoch from `ddmmyy` and `hhmmss.sss`; of this century.
fn time_ms(date: &str, time: &str) -> Option<i64> {
    let two = |text: &str, at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let (day, month, year) = (two(date, 0)?, two(date, 2)?, 2000 + two(date, 4)?);
    let seconds: f64 = time.get(4..)?.parse().ok()?;
    // Days from the civil calendar, counted from March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let minutes = (days * 24 + two(time, 0)?) * 60 + two(time, 2)?;
    Some(minutes * 60_000 + (seconds * 1000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a sentence of a real receiver reads as what it says; a flipped bit is found.
    #[test]
    fn sentences() {
        let text = "$GPRMC,092751.000,A,5321.6802,N,00630.3371,W,0.06,31.66,280511,,,A*45";
        let rmc = parse(text).unwrap().unwrap();
        let at = rmc.at.unwrap();
        assert!((at.lat - 53.361_336_7).abs() < 1e-6 && (at.lon + 6.505_618_3).abs() < 1e-6);
        assert_eq!(rmc.time_ms, Some(1_306_574_871_000));
        assert_eq!(rmc.course, Some(31.66));
        assert!(parse(&text.replace("5321", "5322")).is_err());
        assert!(parse("$GPVTG,1*7F").unwrap().is_none());
    }
}
