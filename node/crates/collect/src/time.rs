//! Event times: text to milliseconds since 1970 UTC, and back.

use std::fmt;
use std::str::FromStr;

use crate::limits::TIME_BYTES_MAX;

/// How a time is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// By its looks: `2026-01-31`, with `T` or a blank `13:05`, `13:05:09`, a fraction after `.`
    /// or `,`, and a zone `Z` or `+02:00`; or a plain number, which is seconds, milli-, micro-
    /// or nanoseconds since 1970 by its size (below 10^11, 10^14, 10^17, above).
    #[default]
    Auto,
    /// RFC 3339 only: date, `T` or blank, time and zone are all required.
    Rfc3339,
    /// Seconds since 1970, with an optional fraction.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMillis,
    /// A pattern in the manner of `strftime`: `%Y` year, `%y` two digits of it, `%m` month, `%b`
    /// its English name, `%d` day, `%H` `%M` `%S`, `%f` digits of a fraction of a second, `%L`
    /// milliseconds as a number, `%z` zone, `%s` seconds since 1970, `%%`. Numbers need not be
    /// padded; a blank stands for one or more.
    Pattern(String),
}

/// A layout, and the zone of times that name none.
///
/// Parsed from `auto`, `rfc3339`, `unix`, `unix-ms` or a pattern; a suffix such as `@+08:00`
/// sets the zone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeFormat {
    /// How a time is written.
    pub layout: Layout,
    /// Minutes east of UTC for times that name no zone.
    pub utc_offset_min: i32,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The text does not fit the layout.
    #[error("{text:?} is not a time like {expected}")]
    Mismatch {
        /// The text, cut to 64 bytes.
        text: String,
        /// The layout.
        expected: String,
    },
    /// It fits, but there is no such day or hour.
    #[error("{text:?} names no real date or time")]
    NoSuchTime {
        /// The text, cut to 64 bytes.
        text: String,
    },
    /// A pattern that has an unknown letter or no year.
    #[error("{pattern:?} is no time pattern: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Parses a time that fills `text` but for blanks around it.
///
/// # Errors
/// [`TimeError`] if it is none.
pub fn parse_time(text: &str, format: &TimeFormat) -> Result<i64, TimeError> {
    let text = text.trim();
    let (ms, length) = parse_time_prefix(text, format)?;
    if length == text.len() { Ok(ms) } else { Err(mismatch(text, format)) }
}

/// Parses a time at the start of `text`; also returns how many bytes of it the time takes.
///
/// # Errors
/// [`TimeError`] if there is none.
pub fn parse_time_prefix(text: &str, format: &TimeFormat) -> Result<(i64, usize), TimeError> {
    let bytes = &text.as_bytes()[..text.len().min(TIME_BYTES_MAX)];
    let mut scan = Scan { bytes, at: 0 };
    let parsed = match &format.layout {
        Layout::Auto if scan.looks_like_date() => scan.iso(false),
        Layout::Auto => scan.unix(None),
        Layout::Rfc3339 => scan.iso(true),
        Layout::UnixSeconds => scan.unix(Some(1_000)),
        Layout::UnixMillis => scan.unix(Some(1)),
        Layout::Pattern(pattern) => scan.pattern(pattern),
    };
    let fields = parsed.ok_or_else(|| mismatch(text, format))?;
    let no_such = || TimeError::NoSuchTime { text: cut(text) };
    Ok((fields.to_ms(format.utc_offset_min).ok_or_else(no_such)?, scan.at))
}

/// Writes milliseconds since 1970 as RFC 3339 in UTC, with milliseconds:
/// `2026-01-31T13:05:09.000Z`. A year beyond 0 to 9999 is written as the number itself.
pub fn format_time(ms: i64) -> String {
    let (days, in_day) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil_from_days(days);
    if !(0..=9999).contains(&year) {
        return ms.to_string();
    }
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

pub(crate) const DAY_MS: i64 = 86_400_000;

/// Days since 1970 of a date, if there is such a date in the years 1 to 9999.
pub(crate) fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=9999).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The same source, `civil_from_days`: year, month, day.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let doe = days.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let shifted_month = (5 * doy + 2) / 153;
    let day = doy - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

const MONTHS: [&[u8; 3]; 12] = [
    b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec",
];

/// 1 to 12 for the English name of a month, by its first three letters.
pub(crate) fn month_of_name(name: &[u8]) -> Option<i64> {
    let name: [u8; 3] = name.get(..3)?.try_into().ok()?;
    let name = name.map(|byte| byte.to_ascii_lowercase());
    MONTHS.iter().position(|month| **month == name).map(|index| index as i64 + 1)
}

impl TimeFormat {
    /// The layout, with times that name no zone in UTC.
    pub fn utc(layout: Layout) -> Self {
        Self { layout, utc_offset_min: 0 }
    }
}

impl FromStr for TimeFormat {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let (text, utc_offset_min) = match text.rsplit_once('@') {
            Some((layout, zone)) => {
                let mut scan = Scan { bytes: zone.as_bytes(), at: 0 };
                let offset = scan.zone().filter(|_| scan.at == zone.len());
                let offset = offset.ok_or_else(|| TimeError::Pattern {
                    pattern: cut(text),
                    problem: "the zone after @ must look like +02:00",
                })?;
                (layout, offset)
            }
            None => (text, 0),
        };
        let layout = match text {
            "auto" | "" => Layout::Auto,
            "rfc3339" => Layout::Rfc3339,
            "unix" => Layout::UnixSeconds,
            "unix-ms" => Layout::UnixMillis,
            pattern => {
                check_pattern(pattern)?;
                Layout::Pattern(pattern.to_owned())
            }
        };
        Ok(Self { layout, utc_offset_min })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::Auto => f.write_str("2026-01-31T13:05:09Z, 2026-01-31 13:05 or Unix time"),
            Layout::Rfc3339 => f.write_str("2026-01-31T13:05:09Z"),
            Layout::UnixSeconds => f.write_str("seconds since 1970"),
            Layout::UnixMillis => f.write_str("milliseconds since 1970"),
            Layout::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

fn check_pattern(pattern: &str) -> Result<(), TimeError> {
    let fail = |problem| Err(TimeError::Pattern { pattern: cut(pattern), problem });
    if pattern.len() > TIME_BYTES_MAX {
        return fail("it is longer than 64 bytes");
    }
    let mut letters = pattern.bytes();
    let mut has_year = false;
    while let Some(byte) = letters.next() {
        if byte != b'%' {
            continue;
        }
        match letters.next() {
            Some(b'Y' | b'y' | b's') => has_year = true,
            Some(b'm' | b'b' | b'd' | b'H' | b'M' | b'S' | b'f' | b'L' | b'z' | b'%') => {}
            _ => return fail("only %Y %y %m %b %d %H %M %S %f %L %z %s and %% are known"),
        }
    }
    if has_year { Ok(()) } else { fail("it has no %Y, %y or %s") }
}

fn mismatch(text: &str, format: &TimeFormat) -> TimeError {
    TimeError::Mismatch { text: cut(text), expected: format.layout.to_string() }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TIME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The parts of a time as they were written.
#[derive(Debug)]
struct Fields {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    /// 60 is a leap second, taken as the first moment of the next minute.
    second: i64,
    ms: i64,
    offset_min: Option<i32>,
    /// Set when the text is a count since 1970, which decides alone.
    unix_ms: Option<i64>,
}

impl Default for Fields {
    fn default() -> Self {
        let (hour, minute, second, ms) = (0, 0, 0, 0);
        Self {
            year: 0,
            month: 1,
            day: 1,
            hour,
            minute,
            second,
            ms,
            offset_min: None,
            unix_ms: None,
        }
    }
}

impl Fields {
    fn to_ms(&self, default_offset_min: i32) -> Option<i64> {
        if let Some(ms) = self.unix_ms {
            return Some(ms);
        }
        let days = days_of(self.year, self.month, self.day)?;
        if self.hour > 23 || self.minute > 59 || self.second > 60 || self.ms > 999 {
            return None;
        }
        let seconds = self.hour * 3_600 + self.minute * 60 + self.second;
        let offset_min = i64::from(self.offset_min.unwrap_or(default_offset_min));
        Some(days * DAY_MS + seconds * 1_000 + self.ms - offset_min * 60_000)
    }
}

/// A cursor over the text. A method that finds nothing returns none; the cursor may have moved.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// A number of `min` to `max` digits (at most 18).
    fn number(&mut self, min: usize, max: usize) -> Option<i64> {
        let digits = self.bytes[self.at..].iter().take(max).take_while(|b| b.is_ascii_digit());
        let (mut value, mut count) = (0i64, 0);
        for digit in digits {
            value = value * 10 + i64::from(digit - b'0');
            count += 1;
        }
        self.at += count;
        (count >= min).then_some(value)
    }

    /// Digits of a fraction of a second, as milliseconds; digits after the third are dropped.
    fn fraction(&mut self) -> Option<i64> {
        let (mut ms, mut scale, mut any) = (0, 100, false);
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            ms += i64::from(digit - b'0') * scale;
            scale /= 10;
            any = true;
            self.at += 1;
        }
        any.then_some(ms)
    }

    /// `Z` or `+02:00`, `+0200`, `+02`: minutes east of UTC.
    fn zone(&mut self) -> Option<i32> {
        let sign = match self.peek()? {
            b'Z' | b'z' => {
                self.at += 1;
                return Some(0);
            }
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        self.at += 1;
        let hours = self.number(2, 2)?;
        let minutes =
            if self.eat(b':') { self.number(2, 2)? } else { self.number(2, 2).unwrap_or(0) };
        (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) as i32)
    }

    fn looks_like_date(&self) -> bool {
        self.bytes.get(4) == Some(&b'-') && self.bytes[..4].iter().all(u8::is_ascii_digit)
    }

    fn iso(&mut self, strict: bool) -> Option<Fields> {
        let year = self.number(4, 4)?;
        let month = self.eat(b'-').then(|| self.number(2, 2))??;
        let day = self.eat(b'-').then(|| self.number(2, 2))??;
        let mut fields = Fields { year, month, day, ..Fields::default() };
        let separator = self.peek().filter(|byte| b"Tt ".contains(byte));
        let digit_follows = self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
        if separator.is_none() || !digit_follows {
            return (!strict).then_some(fields);
        }
        self.at += 1;
        fields.hour = self.number(2, 2)?;
        fields.minute = self.eat(b':').then(|| self.number(2, 2))??;
        if self.eat(b':') {
            fields.second = self.number(2, 2)?;
            let fraction_follows = self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
            if fraction_follows && (self.eat(b'.') || (!strict && self.eat(b','))) {
                fields.ms = self.fraction()?;
            }
        } else if strict {
            return None;
        }
        let before_zone = self.at;
        if !strict && self.peek() == Some(b' ') {
            self.at += 1;
        }
        fields.offset_min = self.zone();
        if fields.offset_min.is_none() {
            self.at = before_zone;
        }
        (!strict || fields.offset_min.is_some()).then_some(fields)
    }

    /// A count since 1970 in units of `unit_ms` milliseconds, or by its size.
    fn unix(&mut self, unit_ms: Option<i64>) -> Option<Fields> {
        let negative = self.eat(b'-');
        let whole = self.number(1, 18)?;
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            // A 19th digit: nanoseconds after 2001. The lost digit is below a millisecond.
            self.number(1, 1)?;
            let ms = (unit_ms.is_none()).then_some(whole / 100_000)?;
            return Some(Fields { unix_ms: Some(ms), ..Fields::default() });
        }
        let mut ms = match unit_ms {
            Some(unit) => whole.checked_mul(unit)?,
            None if whole < 100_000_000_000 => whole * 1_000,
            None if whole < 100_000_000_000_000 => whole,
            None if whole < 100_000_000_000_000_000 => whole / 1_000,
            None => whole / 1_000_000,
        };
        let is_seconds = unit_ms.map_or(whole < 100_000_000_000, |unit| unit == 1_000);
        let fraction_follows = self.bytes.get(self.at + 1).is_some_and(u8::is_ascii_digit);
        if fraction_follows && self.eat(b'.') {
            let fraction = self.fraction()?;
            ms = ms.checked_add(if is_seconds { fraction } else { 0 })?;
        }
        let ms = if negative { -ms } else { ms };
        Some(Fields { unix_ms: Some(ms), ..Fields::default() })
    }

    fn pattern(&mut self, pattern: &str) -> Option<Fields> {
        let mut fields = Fields::default();
        let mut letters = pattern.bytes();
        while let Some(byte) = letters.next() {
            match byte {
                b'%' => self.field(letters.next()?, &mut fields)?,
                b' ' => {
                    self.eat(b' ').then_some(())?;
                    while self.eat(b' ') {}
                }
                literal => self.eat(literal).then_some(())?,
            }
        }
        Some(fields)
    }

    fn field(&mut self, letter: u8, fields: &mut Fields) -> Option<()> {
        match letter {
            b'Y' => fields.year = self.number(4, 4)?,
            b'y' => fields.year = full_year(self.number(2, 2)?),
            b'm' => fields.month = self.number(1, 2)?,
            b'b' => {
                fields.month = month_of_name(self.bytes.get(self.at..)?)?;
                self.at += 3;
            }
            b'd' => fields.day = self.number(1, 2)?,
            b'H' => fields.hour = self.number(1, 2)?,
            b'M' => fields.minute = self.number(1, 2)?,
            b'S' => fields.second = self.number(1, 2)?,
            b'f' => fields.ms = self.fraction()?,
            b'L' => fields.ms = self.number(1, 3)?,
            b'z' => fields.offset_min = Some(self.zone()?),
            b's' => fields.unix_ms = Some(self.number(1, 12)? * 1_000),
            b'%' => self.eat(b'%').then_some(())?,
            _ => return None,
        }
        Some(())
    }
}

/// 80 to 99 are the 1900s: GPS began in 1980, and the same pivot serves everything else.
pub(crate) fn full_year(two_digits: i64) -> i64 {
    if two_digits >= 80 { 1900 + two_digits } else { 2000 + two_digits }
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
