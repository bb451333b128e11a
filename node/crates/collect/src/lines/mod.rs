//! Lines and logs: raw, joined into records of several lines, or parsed as syslog.
//!
//! One record a line, or a run of lines where [`LineOptions::join`] says how to tell them. The
//! value is the bytes of the line without its line end (`\n` or `\r\n`), blanks at its end
//! included; joined lines are separated by `\n`. With [`LineFormat::Syslog`] it is JSON, see
//! [`syslog`].

pub mod syslog;

use std::time::Duration;

use bytes::Bytes;

use crate::limits::{RECORD_BYTES_MAX, RECORD_LINES_MAX};
use crate::record::{Collected, Counts, Decoder};
use crate::time::{TimeFormat, parse_time_prefix};
use syslog::SyslogYear;

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LineFormat {
    /// Bytes to keep as they are.
    #[default]
    Raw,
    /// RFC 5424, or the older form of RFC 3164 whose year is inferred. A line that is neither is
    /// a dead letter.
    Syslog(SyslogYear),
}

/// How to tell the first line of a record from those that go on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// A line goes on with the record before if it starts with a blank or tab, with `at `, or
    /// with `Caused by:`; so do empty lines.
    Continuation,
    /// A record starts with this, and every other line goes on with it. `#` stands for a digit,
    /// `?` for any byte, `\` makes the next byte literal: `[####-##-##` or `????/##`.
    StartsWith(String),
}

/// Where the event time is in a raw line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineTime {
    /// The time comes right after the first occurrence of this; none: it starts the line.
    pub after: Option<String>,
    /// How it is written.
    pub format: TimeFormat,
}

/// How to read lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineOptions {
    /// What a line is.
    pub format: LineFormat,
    /// Joins lines into records; none: every line is one.
    pub join: Option<Join>,
    /// Takes the event time from raw lines. A record without one stays without, and is counted
    /// as `without_time`.
    pub time: Option<LineTime>,
    /// Key of all records; none: no key for raw lines, the host for syslog.
    pub key: Option<Bytes>,
    /// Leaves out empty lines, counted as skipped.
    pub skip_empty: bool,
    /// How long a live input may be silent before a record that may go on is emitted as it is.
    pub idle_after: Duration,
}

impl Default for LineOptions {
    /// Every line that is not empty, raw; a joined record waits 1 s for more.
    fn default() -> Self {
        Self {
            format: LineFormat::Raw,
            join: None,
            time: None,
            key: None,
            skip_empty: true,
            idle_after: Duration::from_secs(1),
        }
    }
}

/// Turns lines into records as [`LineOptions`] say.
#[derive(Debug)]
pub struct LineDecoder {
    options: LineOptions,
    counts: Counts,
    /// The record that may go on, and of how many lines it is.
    open: Vec<u8>,
    open_lines: usize,
    now_ms: i64,
}

impl LineDecoder {
    /// A decoder for one file or stream.
    pub fn new(options: LineOptions) -> Self {
        Self { options, counts: Counts::default(), open: Vec::new(), open_lines: 0, now_ms: 0 }
    }

    /// Adds a line to the open record, or ends that and opens the next.
    fn join(&mut self, join: &Join, line: &[u8], out: &mut Vec<Collected>) {
        let full = self.open.len() + 1 + line.len() > RECORD_BYTES_MAX
            || self.open_lines >= RECORD_LINES_MAX;
        if self.open_lines > 0 && (full || join.starts_record(line)) {
            if full {
                self.counts.add("records_split");
            }
            self.end_open(out);
        }
        if self.open_lines > 0 {
            self.open.push(b'\n');
        }
        self.open.extend_from_slice(line);
        self.open_lines += 1;
    }

    fn end_open(&mut self, out: &mut Vec<Collected>) {
        if self.open_lines > 0 {
            let record = std::mem::take(&mut self.open);
            self.open_lines = 0;
            self.emit(&record, out);
        }
    }

    fn emit(&mut self, record: &[u8], out: &mut Vec<Collected>) {
        let key = self.options.key.clone();
        let collected = match self.options.format {
            LineFormat::Raw => {
                let time = self.time_of(record);
                Collected::data(key, Bytes::copy_from_slice(record), time)
            }
            LineFormat::Syslog(year) => match syslog::parse(record, year.reference(self.now_ms)) {
                Ok(message) => {
                    let host = || message.host.clone().map(Bytes::from);
                    Collected::data(key.or_else(host), message.to_json(), message.timestamp_ms)
                }
                Err(error) => Collected::dead_letter(key, record, "syslog", error.to_string()),
            },
        };
        self.counts.emit(collected, out);
    }

    fn time_of(&mut self, record: &[u8]) -> Option<i64> {
        let time = self.options.time.as_ref()?;
        let line = record.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
        };
        let at = match &time.after {
            Some(mark) => text.find(mark.as_str()).map(|at| at + mark.len()),
            None => Some(0),
        };
        let parsed = at.and_then(|at| parse_time_prefix(&text[at..], &time.format).ok());
        if parsed.is_none() {
            self.counts.add("without_time");
        }
        parsed.map(|(ms, _)| ms)
    }
}

impl Decoder for LineDecoder {
    fn handle_clock(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
    }

    fn handle_line(&mut self, line: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        let join = self.options.join.take();
        match &join {
            // An empty line inside a record belongs to it; before the first it is just empty.
            Some(join) if !line.is_empty() || self.open_lines > 0 => self.join(join, line, out),
            _ if line.is_empty() && self.options.skip_empty => self.counts.skipped += 1,
            _ => self.emit(line, out),
        }
        self.options.join = join;
    }

    fn handle_overlong(&mut self, start: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        self.end_open(out);
        let detail = format!("the line is longer than {} bytes, this is its start", start.len());
        let letter =
            Collected::dead_letter(self.options.key.clone(), start, "line-too-long", detail);
        self.counts.emit(letter, out);
    }

    fn handle_end(&mut self, out: &mut Vec<Collected>) {
        self.end_open(out);
    }

    fn held_lines(&self) -> usize {
        self.open_lines
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Join {
    /// Whether `line` is the first of a record.
    fn starts_record(&self, line: &[u8]) -> bool {
        match self {
            Join::Continuation => {
                let goes_on = line.is_empty()
                    || line.starts_with(b" ")
                    || line.starts_with(b"\t")
                    || line.starts_with(b"at ")
                    || line.starts_with(b"Caused by:");
                !goes_on
            }
            Join::StartsWith(pattern) => matches_prefix(pattern.as_bytes(), line),
        }
    }
}

fn matches_prefix(pattern: &[u8], line: &[u8]) -> bool {
    let mut line = line.iter();
    let mut pattern = pattern.iter();
    while let Some(&expected) = pattern.next() {
        let Some(&byte) = line.next() else { return false };
        let fits = match expected {
            b'#' => byte.is_ascii_digit(),
            b'?' => true,
            b'\\' => pattern.next().is_none_or(|&literal| literal == byte),
            literal => literal == byte,
        };
        if !fits {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(options: LineOptions, lines: &[&str]) -> (Vec<(String, Option<i64>)>, Counts) {
        let mut decoder = LineDecoder::new(options);
        let mut out = Vec::new();
        for line in lines {
            decoder.handle_line(line.as_bytes(), &mut out);
        }
        decoder.handle_end(&mut out);
        let text = |r: &Collected| String::from_utf8(r.value.to_vec()).unwrap();
        let records = out.iter().map(|r| (text(r), r.timestamp_ms)).collect();
        (records, decoder.counts().clone())
    }

    /// A stack trace belongs to the line before it, under either rule.
    #[test]
    fn joining() {
        let lines = ["first", "  more", "at x.y", "", "second", "Caused by: z", "third"];
        let join = Some(Join::Continuation);
        let (records, counts) = decode(LineOptions { join, ..LineOptions::default() }, &lines);
        let values: Vec<&str> = records.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(values, ["first\n  more\nat x.y\n", "second\nCaused by: z", "third"]);
        assert_eq!((counts.lines, counts.records, counts.skipped), (7, 3, 0));

        let lines = ["lost start", "[2016-12] a", "java.io: b", "[x", "[2017-01] c"];
        let join = Some(Join::StartsWith("[####-##]".to_owned()));
        let (records, _) = decode(LineOptions { join, ..LineOptions::default() }, &lines);
        let values: Vec<&str> = records.iter().map(|(value, _)| value.as_str()).collect();
        assert_eq!(values, ["lost start", "[2016-12] a\njava.io: b\n[x", "[2017-01] c"]);
    }

    /// A record that never ends is split at the bound and nothing of it is lost.
    #[test]
    fn joining_is_bounded() {
        let lines: Vec<&str> = std::iter::once("start")
            .chain(std::iter::repeat_n(" more", RECORD_LINES_MAX))
            .collect();
        let join = Some(Join::Continuation);
        let (records, counts) = decode(LineOptions { join, ..LineOptions::default() }, &lines);
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].0, " more");
        assert_eq!(counts.detail("records_split"), 1);
    }

    /// The event time stands at the start or behind a mark; a line without one is kept.
    #[test]
    fn event_times() {
        let format: TimeFormat = "%d/%b/%Y:%H:%M:%S %z".parse().unwrap();
        let time = Some(LineTime { after: Some("[".to_owned()), format });
        let options = LineOptions { time, ..LineOptions::default() };
        let line = "1.2.3.4 - - [17/May/2015:10:05:03 +0000] \"GET /\"";
        let (records, counts) = decode(options, &[line, "no time", "", "[nor here"]);
        assert_eq!(records[0].1, Some(1_431_857_103_000));
        assert_eq!((records[1].1, records[2].1), (None, None));
        assert_eq!(counts.detail("without_time"), 2);
        assert_eq!(counts.skipped, 1);
    }

    /// The letters of a start pattern.
    #[test]
    fn start_patterns() {
        for (pattern, line, fits) in [
            ("", "x", true),
            ("##:", "12:3", true),
            ("##:", "1:", false),
            ("??x", "abx", true),
            (r"\#\?", "#?", true),
            (r"\#", "1", false),
            ("abc", "ab", false),
        ] {
            let join = Join::StartsWith(pattern.to_owned());
            assert_eq!(join.starts_record(line.as_bytes()), fits, "{pattern} {line}");
        }
    }
}
