//! Syslog messages: RFC 5424, and the older BSD form that RFC 3164 describes.
//!
//! The older form writes no year. It is inferred from a reference time: the latest year that
//! puts the message no more than a day after the reference. So give the time at which the file
//! ended, or the clock for a live input. Both forms may lack the leading `<priority>`, as they do
//! in files.
//!
//! The JSON of a message has the fields it has of: `time`, `host`, `program`, `pid`, `message`,
//! `facility` (number), `severity` (number, 0 emergency to 7 debug), `message_id`,
//! `structured_data` (text as it came). Bytes that are not UTF-8 become U+FFFD.

use serde::Serialize;

use crate::time::{
    DAY_MS, TimeFormat, civil_from_days, days_of, format_time, month_of_name, parse_time_prefix,
};

/// Where the year of RFC 3164 times comes from, and the zone they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyslogYear {
    /// The reference, milliseconds since 1970; none: the clock as the driver gives it.
    pub reference_ms: Option<i64>,
    /// Minutes east of UTC of the times in the file.
    pub utc_offset_min: i32,
}

impl SyslogYear {
    /// Year from the clock, times in UTC.
    pub const NOW_UTC: Self = Self { reference_ms: None, utc_offset_min: 0 };

    pub(crate) fn reference(self, now_ms: i64) -> Reference {
        let ms = self.reference_ms.unwrap_or(now_ms);
        Reference { ms, utc_offset_min: self.utc_offset_min }
    }
}

/// A reference time for messages without a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Milliseconds since 1970.
    pub ms: i64,
    /// Minutes east of UTC of times without a zone.
    pub utc_offset_min: i32,
}

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Event time; none where RFC 5424 says `-`.
    pub timestamp_ms: Option<i64>,
    /// The sender.
    pub host: Option<String>,
    /// The program, `sshd(pam_unix)`.
    pub program: Option<String>,
    /// Its process id, usually a number.
    pub pid: Option<String>,
    /// `<priority>` divided by 8.
    pub facility: Option<u8>,
    /// `<priority>` modulo 8.
    pub severity: Option<u8>,
    /// RFC 5424's MSGID.
    pub message_id: Option<String>,
    /// RFC 5424's structured data, as it came.
    pub structured_data: Option<String>,
    /// The text.
    pub message: String,
}

/// Why a line is no syslog message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyslogError {
    /// `<` without a number of 0 to 191 and `>`.
    #[error("the priority is not <0> to <191>")]
    Priority,
    /// Neither `Mon DD HH:MM:SS` nor an RFC 3339 time where one must be.
    #[error("it has no time where one must be")]
    Time,
    /// RFC 5424's fixed fields are not all there.
    #[error("fields are missing")]
    Fields,
    /// Brackets or quotes of structured data do not close.
    #[error("the structured data does not end")]
    StructuredData,
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    facility: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    structured_data: Option<&'a str>,
    message: &'a str,
}

impl Message {
    /// The message as a JSON object.
    pub fn to_json(&self) -> Vec<u8> {
        crate::record::to_json(&Json {
            time: self.timestamp_ms.map(format_time),
            host: self.host.as_deref(),
            program: self.program.as_deref(),
            pid: self.pid.as_deref(),
            facility: self.facility,
            severity: self.severity,
            message_id: self.message_id.as_deref(),
            structured_data: self.structured_data.as_deref(),
            message: &self.message,
        })
    }
}

/// Parses one message.
///
/// # Errors
/// [`SyslogError`] if it is of neither form.
pub fn parse(line: &[u8], reference: Reference) -> Result<Message, SyslogError> {
    let text = String::from_utf8_lossy(line);
    let (priority, rest) = take_priority(&text)?;
    let mut message = match rest.strip_prefix("1 ") {
        Some(rest) if priority.is_some() => parse_5424(rest, reference)?,
        _ => parse_3164(rest, reference)?,
    };
    message.facility = priority.map(|p| p / 8);
    message.severity = priority.map(|p| p % 8);
    Ok(message)
}

fn take_priority(text: &str) -> Result<(Option<u8>, &str), SyslogError> {
    let Some(rest) = text.strip_prefix('<') else { return Ok((None, text)) };
    let (number, rest) = rest.split_once('>').ok_or(SyslogError::Priority)?;
    let digits = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let priority = number.parse().ok().filter(|p| digits && *p <= 191);
    Ok((Some(priority.ok_or(SyslogError::Priority)?), rest))
}

/// What follows `<priority>1 `: TIMESTAMP HOST APP PROCID MSGID DATA and perhaps MSG, `-` for none.
fn parse_5424(text: &str, reference: Reference) -> Result<Message, SyslogError> {
    let mut rest = text;
    let mut fields = [None; 5];
    for field in &mut fields {
        let (value, after) = rest.split_once(' ').ok_or(SyslogError::Fields)?;
        *field = (value != "-").then_some(value);
        rest = after;
    }
    let [time, host, program, pid, message_id] = fields;
    let timestamp_ms = match time {
        None => None,
        Some(time) => Some(rfc3339(time, reference).ok_or(SyslogError::Time)?.0),
    };
    let (data, message) = take_structured_data(rest)?;
    Ok(Message {
        timestamp_ms,
        host: host.map(str::to_owned),
        program: program.map(str::to_owned),
        pid: pid.map(str::to_owned),
        message_id: message_id.map(str::to_owned),
        structured_data: data.map(str::to_owned),
        message: message.strip_prefix('\u{feff}').unwrap_or(message).to_owned(),
        facility: None,
        severity: None,
    })
}

/// Splits `-` or `[id name="value" ...][...]` from the text after it.
fn take_structured_data(text: &str) -> Result<(Option<&str>, &str), SyslogError> {
    let after = |end: usize| text[end..].strip_prefix(' ').unwrap_or(&text[end..]);
    if let Some(rest) = text.strip_prefix('-') {
        return match rest.strip_prefix(' ') {
            Some(message) => Ok((None, message)),
            None if rest.is_empty() => Ok((None, "")),
            None => Err(SyslogError::StructuredData),
        };
    }
    let (mut in_element, mut in_quotes, mut escaped) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' if in_element => in_quotes = !in_quotes,
            b']' if in_element && !in_quotes => in_element = false,
            b'[' if !in_element => in_element = true,
            _ if in_element => {}
            b' ' if at > 0 => return Ok((Some(&text[..at]), after(at))),
            _ => return Err(SyslogError::StructuredData),
        }
    }
    if in_element || text.is_empty() {
        Err(SyslogError::StructuredData)
    } else {
        Ok((Some(text), ""))
    }
}

/// `Mon DD HH:MM:SS host program[pid]: text`, or the same with an RFC 3339 time, as some daemons
/// write into files.
fn parse_3164(text: &str, reference: Reference) -> Result<Message, SyslogError> {
    let found = bsd_time(text, reference).or_else(|| rfc3339(text, reference));
    let (timestamp_ms, taken) = found.ok_or(SyslogError::Time)?;
    let rest = text[taken..].strip_prefix(' ').ok_or(SyslogError::Time)?;
    let (host, rest) = rest.split_once(' ').ok_or(SyslogError::Fields)?;
    let (program, pid, message) = split_tag(rest);
    Ok(Message {
        timestamp_ms: Some(timestamp_ms),
        host: (!host.is_empty()).then(|| host.to_owned()),
        program: program.map(str::to_owned),
        pid: pid.map(str::to_owned),
        facility: None,
        severity: None,
        message_id: None,
        structured_data: None,
        message: message.to_owned(),
    })
}

/// `program[pid]: text`; without a tag the whole is the text.
fn split_tag(text: &str) -> (Option<&str>, Option<&str>, &str) {
    let Some((tag, message)) = text.split_once(':') else { return (None, None, text) };
    let message = message.strip_prefix(' ').unwrap_or(message);
    match tag.strip_suffix(']').and_then(|tag| tag.rsplit_once('[')) {
        Some((program, pid)) if is_word(program) => (Some(program), Some(pid), message),
        None if is_word(tag) => (Some(tag), None, message),
        _ => (None, None, text),
    }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.contains(' ')
}

fn rfc3339(text: &str, reference: Reference) -> Option<(i64, usize)> {
    let utc_offset_min = reference.utc_offset_min;
    parse_time_prefix(text, &TimeFormat { utc_offset_min, ..TimeFormat::default() })
        .ok()
        .filter(|_| text.as_bytes().get(4) == Some(&b'-'))
}

/// `Mon DD HH:MM:SS`, the day padded with a blank or a zero; and how many bytes that is.
fn bsd_time(text: &str, reference: Reference) -> Option<(i64, usize)> {
    let bytes = text.as_bytes();
    let layout = [(3, b' '), (6, b' '), (9, b':'), (12, b':')];
    if layout.iter().any(|&(at, byte)| bytes.get(at) != Some(&byte)) {
        return None;
    }
    let month = month_of_name(bytes)?;
    let number = |at: usize, blank: bool| {
        let tens = match *bytes.get(at)? {
            b' ' if blank => 0,
            byte => char::from(byte).to_digit(10)?,
        };
        Some(i64::from(tens * 10 + char::from(*bytes.get(at + 1)?).to_digit(10)?))
    };
    let (day, hour) = (number(4, true)?, number(7, false)?);
    let (minute, second) = (number(10, false)?, number(13, false)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset_ms = i64::from(reference.utc_offset_min) * 60_000;
    let in_day = (hour * 3_600 + minute * 60 + second) * 1_000 - offset_ms;
    let latest = reference.ms.saturating_add(DAY_MS);
    let newest_year = civil_from_days(latest.div_euclid(DAY_MS)).0.saturating_add(1);
    // Nine years back always hold a 29 February.
    let candidates = (0..10).filter_map(|back| {
        let days = days_of(newest_year - back, month, day)?;
        Some(days * DAY_MS + in_day)
    });
    candidates.into_iter().find(|ms| *ms <= latest).map(|ms| (ms, 15))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::parse_time;

    fn at(text: &str) -> Reference {
        Reference { ms: parse_time(text, &TimeFormat::default()).unwrap(), utc_offset_min: 0 }
    }

    fn json(line: &str, reference: &str) -> String {
        match parse(line.as_bytes(), at(reference)) {
            Ok(message) => String::from_utf8(message.to_json()).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    /// The examples of RFC 5424 section 6.5, and lines as daemons write them.
    #[test]
    fn both_forms() {
        assert_eq!(
            json(
                "<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 \
                 [exampleSDID@32473 iut=\"3\" eventID=\"1\\]0\"][examplePriority@32473] An event",
                "2003-10-12",
            ),
            concat!(
                r#"{"time":"2003-10-11T22:14:15.003Z","host":"mymachine.example.com","#,
                r#""program":"evntslog","facility":20,"severity":5,"message_id":"ID47","#,
                r#""structured_data":"[exampleSDID@32473 iut=\"3\" eventID=\"1\\]0\"]"#,
                r#"[examplePriority@32473]","message":"An event"}"#,
            )
        );
        assert_eq!(
            json("<34>1 - - - - - -", "2003-10-12"),
            r#"{"facility":4,"severity":2,"message":""}"#
        );
        assert_eq!(
            json("Jul  7 08:06:15 combo sshd(pam_unix)[30631]: check: x ", "2005-08-01"),
            concat!(
                r#"{"time":"2005-07-07T08:06:15.000Z","host":"combo","#,
                r#""program":"sshd(pam_unix)","pid":"30631","message":"check: x "}"#,
            )
        );
        assert_eq!(
            json("2024-02-03T01:02:03+01:00 pi kernel: up", "2000-01-01"),
            r#"{"time":"2024-02-03T00:02:03.000Z","host":"pi","program":"kernel","message":"up"}"#
        );
        assert_eq!(
            json("<13>Jun 14 15:16:01 h -- MARK --", "2005-07-01"),
            concat!(
                r#"{"time":"2005-06-14T15:16:01.000Z","host":"h","#,
                r#""facility":1,"severity":5,"message":"-- MARK --"}"#,
            )
        );
    }

    /// The year is the latest that is not in the future by more than a day.
    #[test]
    fn years_are_inferred() {
        let year = |line: &str, reference: &str| {
            let line = format!("{line} h p: m");
            parse(line.as_bytes(), at(reference)).unwrap().timestamp_ms.map(format_time).unwrap()
        };
        assert!(year("Dec 31 23:59:59", "2020-01-01T00:00:01Z").starts_with("2019-12-31"));
        assert!(year("Jan  1 00:00:10", "2019-12-31T23:59:59Z").starts_with("2020-01-01"));
        assert!(year("Jan  3 00:00:10", "2019-12-31T23:59:59Z").starts_with("2019-01-03"));
        assert!(year("Feb 29 12:00:00", "2023-06-01").starts_with("2020-02-29"));
        assert!(year("Feb 29 12:00:00", "1903-06-01").starts_with("1896-02-29"));
    }

    /// What is of neither form says why.
    #[test]
    fn refusals() {
        for (line, expected) in [
            ("<192>Jun 14 15:16:01 h p: m", SyslogError::Priority),
            ("<1", SyslogError::Priority),
            ("<+1>Jun 14 15:16:01 h p: m", SyslogError::Priority),
            ("Jun 31 15:16:01 h p: m", SyslogError::Time),
            ("Jun 14 15:61:01 h p: m", SyslogError::Time),
            ("1482180000 h p: m", SyslogError::Time),
            ("", SyslogError::Time),
            ("Jun 14 15:16:01 h", SyslogError::Fields),
            ("<1>1 - - - -", SyslogError::Fields),
            ("<1>1 - - - - - [a b=\"c]", SyslogError::StructuredData),
            ("<1>1 - - - - - x", SyslogError::StructuredData),
        ] {
            assert_eq!(parse(line.as_bytes(), at("2020-01-01")), Err(expected), "{line}");
        }
    }
}
