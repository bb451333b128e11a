use super::*;
use proptest::prelude::*;

fn auto(text: &str) -> Option<String> {
    parse_time(text, &TimeFormat::default()).ok().map(format_time)
}

fn with(format: &str, text: &str) -> Option<String> {
    parse_time(text, &format.parse().unwrap()).ok().map(format_time)
}

/// What `auto` understands, as people and files write it.
#[test]
fn auto_takes_the_usual_forms() {
    let noon = Some("2026-01-31T12:00:00.000Z".to_owned());
    for text in [
        "2026-01-31T12:00:00Z",
        " 2026-01-31 12:00 ",
        "2026-01-31T14:00:00+02:00",
        "2026-01-31 06:30:00.000 -0530",
        "2026-01-31t12:00:00.0000004z",
        "1769860800",
        "1769860800000",
        "1769860800000000",
        "1769860800000000000",
    ] {
        assert_eq!(auto(text), noon, "{text}");
    }
    assert_eq!(auto("2026-01-31").as_deref(), Some("2026-01-31T00:00:00.000Z"));
    assert_eq!(auto("2016-12-19 20:39:48,918").as_deref(), Some("2016-12-19T20:39:48.918Z"));
    assert_eq!(auto("1769860800.25").as_deref(), Some("2026-01-31T12:00:00.250Z"));
    assert_eq!(auto("2016-12-31T23:59:60Z").as_deref(), Some("2017-01-01T00:00:00.000Z"));
    assert_eq!(auto("-1").as_deref(), Some("1969-12-31T23:59:59.000Z"));
}

/// What is no time is an error that says so, never a guess.
#[test]
fn nonsense_is_refused() {
    for text in [
        "",
        "now",
        "2026-02-30",
        "2026-13-01",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12",
        "12:00",
        "2026-01-31T12:00:00Zulu",
        "2026-1-31",
        "99999999999999999999",
        "0000-01-01",
        "-",
    ] {
        assert_eq!(auto(text), None, "{text}");
    }
    assert_eq!(with("rfc3339", "2026-01-31 12:00:00"), None);
    assert_eq!(with("unix-ms", "2026-01-31T12:00:00Z"), None);
    let refused = parse_time("2026-02-30", &TimeFormat::default()).unwrap_err();
    assert_eq!(refused.to_string(), "\"2026-02-30\" names no real date or time");
}

/// Patterns of the logs in the wild, unpadded numbers and zones included.
#[test]
fn patterns() {
    let web = "%d/%b/%Y:%H:%M:%S %z";
    let expected = Some("2015-05-17T10:05:03.000Z".to_owned());
    assert_eq!(with(web, "17/May/2015:10:05:03 +0000"), expected);
    let phone = "%Y%m%d-%H:%M:%S:%L@+08:00";
    let expected = Some("2017-12-23T17:02:35.009Z".to_owned());
    assert_eq!(with(phone, "20171224-1:2:35:9"), expected);
    assert_eq!(with("%y%m%d", "990822").as_deref(), Some("1999-08-22T00:00:00.000Z"));
    assert_eq!(with("%s%%", "10%").as_deref(), Some("1970-01-01T00:00:10.000Z"));
    for bad in ["%q", "%H:%M", "%", "auto@Z9", "%Y@x"] {
        assert!(bad.parse::<TimeFormat>().is_err(), "{bad}");
    }
}

/// A prefix says how much of the text it took.
#[test]
fn prefix_length() {
    let format = TimeFormat::default();
    let line = "2016-12-19 20:39:48,918] WARN - x";
    assert_eq!(parse_time_prefix(line, &format).unwrap().1, 23);
    assert_eq!(parse_time_prefix("2016-12-19 GET", &format).unwrap().1, 10);
    assert_eq!(parse_time_prefix("1482180000 - x", &format).unwrap().1, 10);
}

proptest! {
    /// Every millisecond of the years 1 to 9999 survives the way to text and back.
    #[test]
    fn format_then_parse(ms in -62_135_596_800_000i64..253_402_300_800_000) {
        let text = format_time(ms);
        prop_assert_eq!(parse_time(&text, &TimeFormat::default()), Ok(ms));
        prop_assert_eq!(parse_time(&text, &TimeFormat::utc(Layout::Rfc3339)), Ok(ms));
    }

    /// The calendar agrees with the `time` crate.
    #[test]
    fn calendar_agrees(days in -700_000i64..2_900_000) {
        let (year, month, day) = civil_from_days(days);
        let date = ::time::Date::from_calendar_date(
            year as i32,
            ::time::Month::try_from(month as u8).unwrap(),
            day as u8,
        ).unwrap();
        prop_assert_eq!(i64::from(date.to_julian_day()) - 2_440_588, days);
        prop_assert_eq!(days_of(year, month, day), Some(days));
    }

    /// Any text at all is a time or an error.
    #[test]
    fn never_panics(text in "\\PC*", ms in any::<i64>()) {
        let _ = auto(&text);
        let _ = with("%Y-%m-%d %H:%M:%S.%f%z", &text);
        let _ = format_time(ms);
    }
}
