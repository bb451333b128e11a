//! Where to begin: `earliest`, `latest`, an offset, a time, or so long ago.

use std::str::FromStr;

use weir_collect::{TimeFormat, parse_time};
use weir_core::wire::message::StartAt;
use weir_core::{Offset, TimestampMs};

use crate::units::Span;

/// A beginning as written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// One that the node understands.
    At(StartAt),
    /// So long before now.
    Ago(Span),
}

impl From {
    /// What to ask the node for at `now_ms`.
    pub fn resolve(self, now_ms: i64) -> StartAt {
        match self {
            From::At(start) => start,
            From::Ago(span) => {
                let ago = i64::try_from(span.as_ms()).unwrap_or(i64::MAX);
                StartAt::Time(TimestampMs(now_ms.saturating_sub(ago)))
            }
        }
    }
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(offset) = text.parse::<u64>() {
            let offset = i64::try_from(offset).map_err(|_| format!("{offset} is no offset"))?;
            return Ok(From::At(StartAt::Offset(Offset(offset))));
        }
        match text {
            "earliest" | "beginning" => return Ok(From::At(StartAt::Earliest)),
            "latest" | "end" => return Ok(From::At(StartAt::Latest)),
            _ => {}
        }
        if let Some(span) = text.strip_prefix('-') {
            return span.parse().map(From::Ago);
        }
        match parse_time(text, &TimeFormat::default()) {
            Ok(ms) => Ok(From::At(StartAt::Time(TimestampMs(ms)))),
            Err(_) => Err(format!(
                "`{text}` is no beginning: write earliest, latest, an offset such as 1200, a time \
                 such as 2026-01-31T13:05:00Z (UTC unless it names a zone), or -10m for ten \
                 minutes ago"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        let at = |text: &str| text.parse::<From>();
        assert_eq!(at("earliest"), Ok(From::At(StartAt::Earliest)));
        assert_eq!(at("latest"), Ok(From::At(StartAt::Latest)));
        assert_eq!(at("1200"), Ok(From::At(StartAt::Offset(Offset(1_200)))));
        let time = StartAt::Time(TimestampMs(1_709_164_800_000));
        assert_eq!(at("2024-02-29T00:00:00Z"), Ok(From::At(time)));
        assert_eq!(at("2024-02-29"), Ok(From::At(time)));
        assert_eq!(at("2024-02-29T01:00+01:00"), Ok(From::At(time)));
        let ago = at("-1h30m").unwrap().resolve(5_400_007);
        assert_eq!(ago, StartAt::Time(TimestampMs(7)));
        for wrong in ["", "-", "now", "-5", "99999999999999999999", "2024-13-01"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
