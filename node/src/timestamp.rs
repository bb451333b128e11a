//! Points in time for people to read: UTC, as RFC 3339 writes them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weir_core::TimestampMs;

/// To the second; `-` for 0, which means that it is not known.
pub fn seconds(at: TimestampMs) -> String {
    if at.0 == 0 {
        return "-".to_owned();
    }
    let whole = OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000));
    let text = whole.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{at} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(seconds(TimestampMs(0)), "-");
        assert_eq!(seconds(TimestampMs(1_709_164_800_999)), "2024-02-29T00:00:00Z");
        assert_eq!(seconds(TimestampMs(-1)), "1969-12-31T23:59:59Z");
        assert_eq!(seconds(TimestampMs(i64::MAX)), "9223372036854775807 ms");
    }
}
