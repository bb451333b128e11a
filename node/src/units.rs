//! Sizes and durations as people write them: `32MiB`, `1.5GB`, `7d`, `500ms`, `1h30m`.

use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes. Prints exactly, with the largest binary unit that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Binary units first, so that they are preferred for printing.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let (number, unit) = split_number(text.trim());
        let factor = match unit {
            "" => 1,
            unit => SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, factor)| *factor)
                .ok_or_else(|| {
                    format!("`{text}` is not a size: write 1048576, 1MiB, 64KiB, 2GB or the like")
                })?,
        };
        scale(number, factor).map(Size).ok_or_else(|| {
            format!("`{text}` is not a size: write 1048576, 1MiB, 64KiB, 2GB or the like")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            SIZE_UNITS[..4].iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match binary {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

/// A duration, in whole microseconds. Prints exactly, as `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 7] = [
    ("w", 7 * 86_400_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl Span {
    /// Whole milliseconds; saturates.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// From milliseconds.
    pub fn from_ms(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong =
            || format!("`{text}` is not a duration: write 500ms, 30s, 1h30m, 7d or the like");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Span::default());
        }
        let mut total_us = 0u64;
        while !rest.is_empty() {
            let (number, after) = split_number(rest);
            let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            let (_, factor) =
                SPAN_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            let part = scale(number, *factor).ok_or_else(wrong)?;
            total_us = total_us.checked_add(part).ok_or_else(wrong)?;
            rest = next.trim_start();
        }
        if text.trim().is_empty() {
            Err(wrong())
        } else {
            Ok(Span(Duration::from_micros(total_us)))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        // Weeks are understood but days are what people expect to read.
        for (name, unit) in &SPAN_UNITS[1..] {
            if rest >= *unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

/// Splits `1.5MiB` into `1.5` and `MiB`, with blanks between them allowed.
fn split_number(text: &str) -> (&str, &str) {
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// `number` (decimals allowed) times `factor`, exactly; `None` if that is no whole number.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, decimals) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || number.ends_with('.') || decimals.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if decimals.is_empty() {
        return Some(whole);
    }
    let scaled = u128::from(decimals.parse::<u64>().ok()?) * u128::from(factor);
    let divisor = 10u128.pow(u32::try_from(decimals.len()).ok()?);
    if scaled % divisor != 0 {
        return None;
    }
    whole.checked_add(u64::try_from(scaled / divisor).ok()?)
}

/// A number of bytes for people to read: three digits and a unit.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |text: &str| text.parse::<Size>().map(|s| s.0);
        assert_eq!(size("32MiB"), Ok(32 << 20));
        assert_eq!(size(" 1.5 GiB "), Ok(3 << 29));
        assert_eq!(size("64kib"), Ok(65_536));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("1_000"), Ok(1_000));
        assert_eq!(size("0"), Ok(0));
        for wrong in ["", "MiB", "1M", "-1", "1.MiB", "0.3B", "99999999TiB", "1 MiB 2", "1..2MB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        let ms = |text: &str| text.parse::<Span>().map(Span::as_ms);
        assert_eq!(ms("7d"), Ok(7 * 86_400_000));
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("1h 30m"), Ok(5_400_000));
        assert_eq!(ms("0.5s"), Ok(500));
        assert_eq!(ms("2w"), Ok(14 * 86_400_000));
        assert_eq!(ms("0"), Ok(0));
        for wrong in ["", "7", "d", "7 days", "-1s", "1s2", "0.5us", "999999999999w"] {
            assert!(ms(wrong).is_err(), "{wrong}");
        }
    }

    /// Goal: what is printed reads back as the same value, so that a printed configuration is one.
    #[test]
    fn printing_is_exact() {
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 30) + 1, 3 << 29, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        for us in [0, 1, 999, 1_000, 61_000_000, 90_061_001_001, 604_800_000_000] {
            let span = Span(Duration::from_micros(us));
            assert_eq!(span.to_string().parse(), Ok(span), "{span}");
        }
        assert_eq!(Size(128 << 20).to_string(), "128MiB");
        assert_eq!(Span(Duration::from_secs(7 * 86_400)).to_string(), "7d");
    }

    #[test]
    fn for_people() {
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_bytes(300 << 20), "300 MiB");
    }
}
