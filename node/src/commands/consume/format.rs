//! Records as bytes of an output: raw, JSON lines, CSV, or a table for people.

use serde::de::IgnoredAny;
use weir_collect::format_time;
use weir_core::record::RecordView;

use crate::commands::produce::EOL_HEADER;

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Each value as it is, and a line end.
    #[default]
    Raw,
    /// One JSON object a line.
    Json,
    /// Rows of topic, partition, offset, timestamp, key and value, under a row of names.
    Csv,
    /// Columns for people, cut to the terminal.
    Table,
}

/// Prints records into a buffer.
#[derive(Debug)]
pub struct Formatter {
    /// How.
    pub format: Format,
    /// Raw: the key before the value.
    pub keys: bool,
    /// Headers, too.
    pub headers: bool,
    /// Raw: what stands between headers, key and value.
    pub separator: Vec<u8>,
    /// JSON: values that are JSON become part of the object instead of a text in it.
    pub nested: bool,
    /// Table: characters that a line may take.
    pub width: usize,
    /// Table: the topic is a column, too.
    pub topics: bool,
}

impl Formatter {
    /// What stands before the first record.
    pub fn begin(&self, out: &mut Vec<u8>) {
        match self.format {
            Format::Raw | Format::Json => {}
            Format::Csv => {
                let headers = if self.headers { ",headers" } else { "" };
                let names = format!("topic,partition,offset,timestamp,key,value{headers}\n");
                out.extend_from_slice(names.as_bytes());
            }
            Format::Table => {
                let topic = if self.topics { format!("{:<16} ", "TOPIC") } else { String::new() };
                let line = format!("{topic}{TABLE_NAMES}");
                out.extend_from_slice(line.as_bytes());
            }
        }
    }

    /// One record.
    pub fn record(&self, topic: &str, partition: u32, record: &RecordView<'_>, out: &mut Vec<u8>) {
        match self.format {
            Format::Raw => self.raw(record, out),
            Format::Json => self.json(topic, partition, record, out),
            Format::Csv => self.csv(topic, partition, record, out),
            Format::Table => self.table(topic, partition, record, out),
        }
    }

    fn raw(&self, record: &RecordView<'_>, out: &mut Vec<u8>) {
        if self.headers {
            out.extend_from_slice(headers_text(record).as_bytes());
            out.extend_from_slice(&self.separator);
        }
        if self.keys {
            out.extend_from_slice(record.key.unwrap_or_default());
            out.extend_from_slice(&self.separator);
        }
        out.extend_from_slice(record.value.unwrap_or_default());
        if !is_unterminated(record) {
            out.push(b'\n');
        }
    }

    fn json(&self, topic: &str, partition: u32, record: &RecordView<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"topic\":");
        json_text(topic, out);
        let (offset, timestamp) = (record.offset.0, record.timestamp.0);
        let numbers = format!(
            ",\"partition\":{partition},\"offset\":{offset},\"timestamp\":{timestamp},\
             \"time\":\"{}\"",
            format_time(timestamp)
        );
        out.extend_from_slice(numbers.as_bytes());
        if let Some(key) = record.key {
            json_member("key", Some(key), out);
        }
        if self.headers {
            json_headers(record, out);
        }
        match record.value {
            // A value over several lines would break "one object a line".
            Some(value) if self.nested && !value.contains(&b'\n') && is_json(value) => {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(value.trim_ascii());
            }
            value => json_member("value", value, out),
        }
        out.extend_from_slice(b"}\n");
    }

    fn csv(&self, topic: &str, partition: u32, record: &RecordView<'_>, out: &mut Vec<u8>) {
        let start = format!("{topic},{partition},{},{},", record.offset, record.timestamp);
        out.extend_from_slice(start.as_bytes());
        csv_field(record.key.unwrap_or_default(), out);
        out.push(b',');
        csv_field(record.value.unwrap_or_default(), out);
        if self.headers {
            out.push(b',');
            csv_field(headers_text(record).as_bytes(), out);
        }
        out.push(b'\n');
    }

    fn table(&self, topic: &str, partition: u32, record: &RecordView<'_>, out: &mut Vec<u8>) {
        let mut line = String::new();
        if self.topics {
            line = format!("{:<16} ", cut(topic, 16));
        }
        let time = format_time(record.timestamp.0);
        // Without the year's first digits and the zone, which is always UTC.
        let time = time.get(5..23).unwrap_or(&time).replace('T', " ");
        let key = record.key.map_or_else(|| "-".to_owned(), printable);
        let key = cut(&key, KEY_WIDTH);
        line.push_str(&format!(
            "{partition:>4} {:>9} {time:<18} {key:<KEY_WIDTH$} ",
            record.offset
        ));
        if self.headers {
            line.push_str(&printable(headers_text(record).as_bytes()));
            line.push(' ');
        }
        line.push_str(&record.value.map_or_else(|| "(null)".to_owned(), printable));
        out.extend_from_slice(cut(&line, self.width).trim_end().as_bytes());
        out.push(b'\n');
    }
}

const KEY_WIDTH: usize = 14;
const TABLE_NAMES: &str = "PART    OFFSET TIME (UTC)         KEY            VALUE\n";

/// Whether the record was the last line of an input that had no line end there.
fn is_unterminated(record: &RecordView<'_>) -> bool {
    record.headers().any(|h| h.name == EOL_HEADER && h.value == Some(b"none"))
}

/// `name=value` of each header, with commas between.
fn headers_text(record: &RecordView<'_>) -> String {
    let one = |name: &str, value: Option<&[u8]>| {
        format!("{name}={}", String::from_utf8_lossy(value.unwrap_or_default()))
    };
    record.headers().map(|h| one(h.name, h.value)).collect::<Vec<_>>().join(",")
}

/// `,"headers":[{"name":…,"value":…},…]`. An array, since names may repeat and order counts.
fn json_headers(record: &RecordView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"headers\":[");
    for (n, header) in record.headers().enumerate() {
        out.extend_from_slice(if n == 0 { b"{\"name\":" } else { b",{\"name\":" });
        json_text(header.name, out);
        json_member("value", header.value, out);
        out.push(b'}');
    }
    out.push(b']');
}

/// `,"name":"text"`, or `,"name_base64":"…"` where the bytes are not UTF-8.
pub fn json_member(name: &str, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    let text = bytes.map(std::str::from_utf8);
    let suffix = if matches!(text, Some(Err(_))) { "_base64" } else { "" };
    out.extend_from_slice(format!(",\"{name}{suffix}\":").as_bytes());
    match text {
        None => out.extend_from_slice(b"null"),
        Some(Ok(text)) => json_text(text, out),
        Some(Err(_)) => json_text(&base64(bytes.unwrap_or_default()), out),
    }
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    // Writing a text to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// A field of a CSV row, in quotes where it must be (RFC 4180).
fn csv_field(bytes: &[u8], out: &mut Vec<u8>) {
    let plain = !bytes.iter().any(|byte| matches!(byte, b'"' | b',' | b'\n' | b'\r'));
    if plain {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'"');
    for &byte in bytes {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Bytes as text without control characters, which could play tricks with a terminal.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// At most `width` characters of `text`; the last one is `…` if something was cut.
pub fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) if width == 0 => String::new(),
        Some(_) => text.chars().take(width - 1).chain(['…']).collect(),
    }
}

/// RFC 4648 base64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let word = part.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - part.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            out.push(if digit <= part.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use weir_core::record::{BatchBuilder, Compression, HeaderView, RecordBatch};
    use weir_core::{ProducerId, TimestampMs};

    fn formatter(format: Format) -> Formatter {
        Formatter {
            format,
            keys: false,
            headers: false,
            separator: b"\t".to_vec(),
            nested: false,
            width: 80,
            topics: false,
        }
    }

    type Written<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [(&'a str, &'a [u8])]);

    fn print(formatter: &Formatter, records: &[Written<'_>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Compression::None);
        for (key, value, headers) in records {
            let headers =
                headers.iter().map(|(name, value)| HeaderView { name, value: Some(value) });
            builder.push(TimestampMs(1_000), *key, *value, headers.collect::<Vec<_>>()).unwrap();
        }
        let bytes: Bytes = builder.build(ProducerId::NONE, 0, 0).unwrap();
        let records = RecordBatch::decode(bytes).unwrap().records().unwrap();
        let mut out = Vec::new();
        formatter.begin(&mut out);
        for record in &records {
            formatter.record("t", 3, &record, &mut out);
        }
        out
    }

    fn text(formatter: &Formatter, records: &[Written<'_>]) -> String {
        String::from_utf8(print(formatter, records)).unwrap()
    }

    /// Goal: raw output is the values and line ends and nothing else, and the mark of a last
    /// line without line end is honoured.
    #[test]
    fn raw_is_exact() {
        let eol: &[(&str, &[u8])] = &[(EOL_HEADER, b"none")];
        let records: [Written<'_>; 4] = [
            (Some(b"k"), Some(b"a\r"), &[]),
            (None, Some(b""), &[]),
            (None, Some(b"\xff\0"), &[]),
            (None, Some(b"last"), eol),
        ];
        assert_eq!(print(&formatter(Format::Raw), &records), b"a\r\n\n\xff\0\nlast");
        let all = Formatter { keys: true, headers: true, ..formatter(Format::Raw) };
        assert_eq!(text(&all, &[records[0], records[3]]), "\tk\ta\r\nweir-eol=none\t\tlast");
    }

    /// Goal: each line is a JSON object that holds exactly what the record does, whatever bytes.
    #[test]
    fn json_lines() {
        let headers: &[(&str, &[u8])] = &[("h", b"1"), ("h", b"\xff")];
        let records: [Written<'_>; 3] = [
            (Some(b"k"), Some(b"{\"a\": 1}"), headers),
            (Some(b"\xfe"), Some(b"\xff\xff"), &[]),
            (None, None, &[]),
        ];
        let parse = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let plain = parse(&text(&formatter(Format::Json), &records));
        assert_eq!(plain[0]["value"], "{\"a\": 1}");
        assert_eq!(plain[0]["time"], "1970-01-01T00:00:01.000Z");
        assert_eq!(plain[0]["key"], "k");
        assert!(plain[0].get("headers").is_none());
        assert_eq!(plain[1]["value_base64"], "//8=");
        assert_eq!(plain[1]["key_base64"], "/g==");
        assert!(plain[2]["value"].is_null() && plain[2].get("key").is_none());
        let full = Formatter { headers: true, nested: true, ..formatter(Format::Json) };
        let full = parse(&text(&full, &records));
        assert_eq!(full[0]["value"]["a"], 1);
        assert_eq!(full[0]["headers"][0]["value"], "1");
        assert_eq!(full[0]["headers"][1]["value_base64"], "/w==");
        assert_eq!(full[1]["value_base64"], "//8=");
    }

    #[test]
    fn csv_rows() {
        let records: [Written<'_>; 2] =
            [(Some(b"k"), Some(b"a,\"b\"\n"), &[("h", b"1")]), (None, Some(b"x"), &[])];
        let csv = Formatter { headers: true, ..formatter(Format::Csv) };
        let want = "topic,partition,offset,timestamp,key,value,headers\n\
                    t,3,0,1000,k,\"a,\"\"b\"\"\n\",h=1\nt,3,1,1000,,x,\n";
        assert_eq!(text(&csv, &records), want);
    }

    /// Goal: no line is wider than the terminal, and no byte of a record controls it.
    #[test]
    fn table_lines() {
        let long = "x".repeat(500);
        let records: [Written<'_>; 2] = [
            (Some(b"a key that is too long"), Some(long.as_bytes()), &[]),
            (None, Some(b"\x1b[2J"), &[]),
        ];
        let table = text(&formatter(Format::Table), &records);
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(!table.contains('\x1b'), "{table}");
        assert!(table.lines().nth(1).unwrap().contains("01-01 00:00:01.000 a key that is… x"));
    }

    /// The vectors of RFC 4648 section 10.
    #[test]
    fn base64_vectors() {
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (n, want) in vectors.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..n]), *want);
        }
    }

    #[test]
    fn cutting() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("äöü", 2), "ä…");
        assert_eq!(cut("a", 0), "");
    }
}
