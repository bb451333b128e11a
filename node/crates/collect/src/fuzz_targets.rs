//! One plain function for each decoder, to be fed arbitrary bytes. None may panic.
//!
//! The first bytes choose options where a decoder has some, so that one corpus reaches them all.

use crate::csv::{CsvDecoder, CsvOptions, CsvTime};
use crate::framing::LineSplitter;
use crate::lines::syslog::{self, Reference, SyslogYear};
use crate::lines::{Join, LineDecoder, LineFormat, LineOptions, LineTime};
use crate::nmea::{NmeaDecoder, NmeaOptions};
use crate::record::{Collected, Decoder};
use crate::time::{TimeFormat, format_time, parse_time, parse_time_prefix};

/// A name and a function that takes arbitrary bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] =
    [("nmea", nmea), ("csv", csv), ("lines", lines), ("syslog", syslog), ("time", time)];

/// A file of NMEA sentences.
pub fn nmea(data: &[u8]) {
    let (flags, data) = take_flags(data);
    let options = NmeaOptions {
        other: flags & 1 != 0,
        without_fix: flags & 2 != 0,
        not_before_ms: (flags & 4 != 0).then_some(1_700_000_000_000),
        ..NmeaOptions::default()
    };
    drive(&mut NmeaDecoder::new(options), data, flags & 8 != 0);
}

/// A CSV file.
pub fn csv(data: &[u8]) {
    let (flags, data) = take_flags(data);
    let time = match flags >> 4 & 3 {
        0 => CsvTime::Auto,
        1 => CsvTime::Parts { utc_offset_min: 480 },
        2 => CsvTime::Column { name: "a".to_owned(), format: TimeFormat::default() },
        _ => CsvTime::None,
    };
    let options = CsvOptions {
        delimiter: if flags & 1 != 0 { b';' } else { b',' },
        header: (flags & 2 != 0).then(|| vec!["a".to_owned(), "b".to_owned()]),
        key: (flags & 4 != 0).then(|| "a".to_owned()),
        time,
        ..CsvOptions::default()
    };
    let mut decoder = CsvDecoder::new(options);
    decoder.handle_begin((flags & 64 != 0).then_some(b"a,b,a"));
    for record in drive(&mut decoder, data, flags & 8 != 0) {
        if !record.is_dead_letter() {
            let object: Result<serde_json::Value, _> = serde_json::from_slice(&record.value);
            assert!(object.is_ok_and(|value| value.is_object()), "a row is a JSON object");
        }
    }
}

/// A log file, with lines joined and times looked for.
pub fn lines(data: &[u8]) {
    let (flags, data) = take_flags(data);
    let options = LineOptions {
        format: if flags & 1 != 0 {
            LineFormat::Syslog(SyslogYear::NOW_UTC)
        } else {
            LineFormat::Raw
        },
        join: match flags >> 1 & 3 {
            0 => None,
            1 => Some(Join::Continuation),
            _ => Some(Join::StartsWith("[##".to_owned())),
        },
        time: (flags & 16 != 0)
            .then(|| LineTime { after: Some("[".to_owned()), format: TimeFormat::default() }),
        skip_empty: flags & 32 != 0,
        ..LineOptions::default()
    };
    drive(&mut LineDecoder::new(options), data, flags & 8 != 0);
}

/// One syslog message.
pub fn syslog(data: &[u8]) {
    for ms in [0, 1_700_000_000_000, i64::MAX, i64::MIN] {
        if let Ok(message) = syslog::parse(data, Reference { ms, utc_offset_min: -330 }) {
            message.to_json();
        }
    }
}

/// One time, in every layout; and the bytes as a layout.
pub fn time(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let own = text.parse::<TimeFormat>().ok();
    let known = ["auto", "rfc3339", "unix", "unix-ms", "%d/%b/%Y:%H:%M:%S.%f %z", "%y%m%d%L@-11"];
    for format in known.iter().filter_map(|name| name.parse().ok()).chain(own) {
        if let Ok(ms) = parse_time(&text, &format) {
            format_time(ms);
        }
        if let Ok((_, length)) = parse_time_prefix(&text, &format) {
            assert!(text.is_char_boundary(length), "a time ends between characters");
        }
    }
}

fn take_flags(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest))
}

/// Cuts `data` into lines for `decoder`, perhaps with silence after each.
fn drive(decoder: &mut dyn Decoder, data: &[u8], silences: bool) -> Vec<Collected> {
    let mut splitter = LineSplitter::new();
    let mut out = Vec::new();
    let mut each = |line: crate::framing::Line<'_>| {
        if line.overlong {
            decoder.handle_overlong(line.bytes, &mut out);
        } else {
            decoder.handle_line(line.bytes, &mut out);
        }
        if silences {
            decoder.handle_idle(&mut out);
        }
    };
    splitter.feed(data, &mut each);
    splitter.finish(&mut each);
    decoder.handle_end(&mut out);
    assert_eq!(decoder.held_lines(), 0, "the end leaves nothing behind");
    let counts = decoder.counts();
    let emitted = counts.records + counts.dead_letters;
    assert_eq!(emitted, out.len() as u64, "what is counted is what came out");
    out
}
