//! CSV rows as JSON objects.
//!
//! The first row names the columns (unless [`CsvOptions::header`] does); every further row is one
//! object, its fields in the order of the columns. A field that is a JSON number is written as it
//! stands, so no digit is lost; one of [`CsvOptions::nulls`] is `null`; everything else is a
//! string. `007` and `+1` are no JSON numbers, so identifiers keep their zeros. Fields may be
//! quoted as RFC 4180 says, line ends inside included.
//!
//! Dead letters: `csv-columns` (more or fewer fields than columns), `csv-time` (the time column
//! holds no time), `csv-quote` (a quote that never closes: the row's first line; the lines after
//! it are read anew), `csv-header`, `line-too-long`.

use bytes::Bytes;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};

use crate::limits::{COLUMNS_MAX, RECORD_BYTES_MAX, RECORD_LINES_MAX};
use crate::record::{Collected, Counts, Decoder};
use crate::time::{DAY_MS, TimeFormat, days_of, parse_time};

/// Where the event time of a row is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CsvTime {
    /// In the first column named `timestamp`, `time`, `datetime`, `date_time`, `ts`, `date` or
    /// `_timestamp`, whatever the case; else in `year`, `month`, `day` and, if there, `hour`,
    /// `minute`, `second`; else nowhere.
    #[default]
    Auto,
    /// In this column.
    Column {
        /// Its name.
        name: String,
        /// How it is written.
        format: TimeFormat,
    },
    /// In the columns `year`, `month`, `day` and, if there, `hour`, `minute`, `second`.
    Parts {
        /// Minutes east of UTC.
        utc_offset_min: i32,
    },
    /// Nowhere.
    None,
}

/// How to read CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// Between fields.
    pub delimiter: u8,
    /// Names of the columns, if the file has no header row.
    pub header: Option<Vec<String>>,
    /// Column whose text is the key.
    pub key: Option<String>,
    /// Where the event time is.
    pub time: CsvTime,
    /// Texts that stand for a missing value.
    pub nulls: Vec<String>,
}

impl Default for CsvOptions {
    /// Commas, a header row, no key, time by its looks, empty and `NA` missing.
    fn default() -> Self {
        Self {
            delimiter: b',',
            header: None,
            key: None,
            time: CsvTime::Auto,
            nulls: vec![String::new(), "NA".to_owned()],
        }
    }
}

/// Turns lines of CSV into records.
pub struct CsvDecoder {
    options: CsvOptions,
    counts: Counts,
    reader: Reader,
    columns: Option<Columns>,
    /// Lines of the row that is not finished: a quote is open in them.
    open: Vec<Vec<u8>>,
    open_bytes: usize,
    fields: FieldBuffer,
}

/// The columns of the current file, with what the options name resolved to indexes.
#[derive(Debug)]
struct Columns {
    /// Each name as JSON, with the colon behind it.
    names_json: Vec<String>,
    key: Option<usize>,
    time: TimeAt,
}

#[derive(Debug)]
enum TimeAt {
    Nowhere,
    Column(usize, TimeFormat),
    Parts { date: [usize; 3], clock: [Option<usize>; 3], utc_offset_min: i32 },
}

/// Fields of the row being read: their bytes end to end, and where each ends.
#[derive(Debug)]
struct FieldBuffer {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    bytes_used: usize,
    count: usize,
}

/// What became of the lines of a row.
enum RowState {
    Complete,
    Unfinished,
    TooManyColumns,
}

impl CsvDecoder {
    /// A decoder for one file or stream.
    pub fn new(options: CsvOptions) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(options.delimiter)
            .terminator(Terminator::Any(b'\n'))
            .build();
        let columns = None;
        let fields = FieldBuffer::new();
        let mut decoder = Self {
            options,
            counts: Counts::default(),
            reader,
            columns,
            open: Vec::new(),
            open_bytes: 0,
            fields,
        };
        decoder.reset();
        decoder
    }

    /// Forgets the columns, as a new file has its own.
    fn reset(&mut self) {
        self.columns = self.options.header.as_ref().map(|names| Columns::new(names, &self.options));
        self.start_row();
    }

    fn start_row(&mut self) {
        self.reader.reset();
        self.open.clear();
        self.open_bytes = 0;
        self.fields.clear();
    }

    fn handle_row_line(&mut self, line: &[u8], out: &mut Vec<Collected>) {
        let state = self.fields.feed(&mut self.reader, line);
        self.open.push(line.to_vec());
        self.open_bytes += line.len() + 1;
        match state {
            RowState::Complete => self.end_row(out),
            RowState::TooManyColumns => {
                let detail = format!("more than {COLUMNS_MAX} fields");
                self.refuse_row("csv-columns", detail, out);
            }
            RowState::Unfinished => {
                let full =
                    self.open_bytes > RECORD_BYTES_MAX || self.open.len() >= RECORD_LINES_MAX;
                if full {
                    self.give_up_quote(out);
                }
            }
        }
    }

    /// The open quote never closes: its line is bad, those after it start anew.
    fn give_up_quote(&mut self, out: &mut Vec<Collected>) {
        let mut lines = std::mem::take(&mut self.open).into_iter();
        self.start_row();
        if let Some(first) = lines.next() {
            let detail = "a quote is opened and never closed";
            self.counts.emit(Collected::dead_letter(None, &first, "csv-quote", detail), out);
        }
        // Cannot nest: fewer lines than the bound cannot reach it again.
        for line in lines {
            self.handle_row_line(&line, out);
        }
    }

    fn end_row(&mut self, out: &mut Vec<Collected>) {
        match &self.columns {
            None => self.take_header(out),
            Some(columns) if columns.names_json.len() != self.fields.count => {
                let (fields, expected) = (self.fields.count, columns.names_json.len());
                let detail = format!("{fields} fields where the header has {expected}");
                self.refuse_row("csv-columns", detail, out);
                return;
            }
            Some(columns) => match columns.time_of(&self.fields, &self.options.nulls) {
                Ok(time) => {
                    let key = columns.key.map(|index| self.fields.get(index));
                    let key = key.filter(|key| !self.options.is_null(key));
                    let key = key.map(Bytes::copy_from_slice);
                    let json = columns.to_json(&self.fields, &self.options);
                    self.counts.emit(Collected::data(key, json, time), out);
                }
                Err(detail) => {
                    self.refuse_row("csv-time", detail, out);
                    return;
                }
            },
        }
        self.start_row();
    }

    fn take_header(&mut self, out: &mut Vec<Collected>) {
        if let Some(missing) = self.learn_header() {
            let detail = format!("the header has no column {missing:?}");
            self.refuse_row("csv-header", detail, out);
        }
    }

    /// Takes the row for the header; returns a column that the options name and it lacks.
    fn learn_header(&mut self) -> Option<String> {
        let names: Vec<String> = (0..self.fields.count)
            .map(|index| String::from_utf8_lossy(self.fields.get(index)).trim().to_owned())
            .collect();
        let columns = Columns::new(&names, &self.options);
        let missing = columns.missing(&self.options);
        self.columns = Some(columns);
        missing
    }

    fn refuse_row(&mut self, reason: &'static str, detail: String, out: &mut Vec<Collected>) {
        let row = self.open.join(&b'\n');
        self.counts.emit(Collected::dead_letter(None, &row, reason, detail), out);
        self.start_row();
    }
}

impl Decoder for CsvDecoder {
    fn handle_begin(&mut self, first_line: Option<&[u8]>) {
        self.reset();
        if let (None, Some(line)) = (&self.columns, first_line) {
            // What the header lacks was said when it was first read.
            let line = without_bom(line);
            if let RowState::Complete = self.fields.feed(&mut self.reader, line) {
                self.learn_header();
            }
            self.start_row();
        }
    }

    fn handle_line(&mut self, line: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        let is_header = self.columns.is_none() && self.open.is_empty();
        let line = if is_header { without_bom(line) } else { line };
        if line.is_empty() && self.open.is_empty() {
            self.counts.skipped += 1;
        } else {
            self.handle_row_line(line, out);
        }
    }

    fn handle_overlong(&mut self, start: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        self.handle_end(out);
        let detail = format!("the line is longer than {} bytes, this is its start", start.len());
        self.counts.emit(Collected::dead_letter(None, start, "line-too-long", detail), out);
    }

    /// A row may take its time: silence does not end it.
    fn handle_idle(&mut self, _out: &mut Vec<Collected>) {}

    fn handle_end(&mut self, out: &mut Vec<Collected>) {
        while !self.open.is_empty() {
            self.give_up_quote(out);
        }
    }

    fn held_lines(&self) -> usize {
        self.open.len()
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl CsvOptions {
    fn is_null(&self, field: &[u8]) -> bool {
        self.nulls.iter().any(|null| null.as_bytes() == field)
    }
}

impl FieldBuffer {
    fn new() -> Self {
        Self { bytes: vec![0; 1_024], ends: vec![0; 64], bytes_used: 0, count: 0 }
    }

    fn clear(&mut self) {
        self.bytes_used = 0;
        self.count = 0;
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }

    /// Feeds a line and its line end. Fields never hold more bytes than their lines did, and the
    /// caller bounds those.
    fn feed(&mut self, reader: &mut Reader, line: &[u8]) -> RowState {
        for mut rest in [line, b"\n"] {
            // To the reader no input at all is the end of the file, so an empty line is passed by.
            while !rest.is_empty() {
                let (result, read, written, ended) = reader.read_record(
                    rest,
                    &mut self.bytes[self.bytes_used..],
                    &mut self.ends[self.count..],
                );
                rest = &rest[read..];
                self.bytes_used += written;
                self.count += ended;
                match result {
                    ReadRecordResult::InputEmpty => {}
                    ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
                    ReadRecordResult::OutputEndsFull if self.ends.len() >= COLUMNS_MAX => {
                        return RowState::TooManyColumns;
                    }
                    ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                    ReadRecordResult::Record | ReadRecordResult::End => return RowState::Complete,
                }
            }
        }
        RowState::Unfinished
    }
}

impl Columns {
    fn new(names: &[String], options: &CsvOptions) -> Self {
        let position = |name: &str| names.iter().position(|known| known == name);
        let time = match &options.time {
            CsvTime::None => TimeAt::Nowhere,
            CsvTime::Column { name, format } => match position(name) {
                Some(index) => TimeAt::Column(index, format.clone()),
                None => TimeAt::Nowhere,
            },
            CsvTime::Parts { utc_offset_min } => parts(names, *utc_offset_min),
            CsvTime::Auto => match usual_time_column(names) {
                Some(index) => TimeAt::Column(index, TimeFormat::default()),
                None => parts(names, 0),
            },
        };
        let key = options.key.as_deref().and_then(position);
        let names_json = unique_names(names)
            .iter()
            .map(|name| format!("{}:", serde_json::Value::from(name.as_str())))
            .collect();
        Self { names_json, key, time }
    }

    /// What the options name and the header lacks.
    fn missing(&self, options: &CsvOptions) -> Option<String> {
        if let (Some(name), None) = (&options.key, self.key) {
            return Some(name.clone());
        }
        match (&options.time, &self.time) {
            (CsvTime::Column { name, .. }, TimeAt::Nowhere) => Some(name.clone()),
            (CsvTime::Parts { .. }, TimeAt::Nowhere) => Some("year, month, day".to_owned()),
            _ => None,
        }
    }

    /// The event time; none if there is no such column or the field is missing.
    fn time_of(&self, fields: &FieldBuffer, nulls: &[String]) -> Result<Option<i64>, String> {
        match &self.time {
            TimeAt::Nowhere => Ok(None),
            TimeAt::Column(index, format) => {
                let text = String::from_utf8_lossy(fields.get(*index));
                if nulls.iter().any(|null| *null == text) {
                    return Ok(None);
                }
                parse_time(&text, format).map(Some).map_err(|error| error.to_string())
            }
            TimeAt::Parts { date, clock, utc_offset_min } => {
                let number = |index: usize| {
                    let text = std::str::from_utf8(fields.get(index)).unwrap_or_default().trim();
                    text.parse::<u16>().map(i64::from).map_err(|_| format!("{text:?} is no number"))
                };
                let [year, month, day] = [number(date[0])?, number(date[1])?, number(date[2])?];
                let mut ms = days_of(year, month, day)
                    .ok_or_else(|| format!("there is no {year}-{month}-{day}"))?
                    * DAY_MS;
                let units = [(3_600_000, 23), (60_000, 59), (1_000, 60)];
                for (index, (unit_ms, max)) in clock.iter().zip(units) {
                    let value = index.map_or(Ok(0), number)?;
                    if value > max {
                        return Err(format!("{value} is beyond {max}"));
                    }
                    ms += value * unit_ms;
                }
                Ok(Some(ms - i64::from(*utc_offset_min) * 60_000))
            }
        }
    }

    fn to_json(&self, fields: &FieldBuffer, options: &CsvOptions) -> Vec<u8> {
        let names_bytes: usize = self.names_json.iter().map(String::len).sum();
        let mut json = Vec::with_capacity(names_bytes + fields.bytes_used + 4 * fields.count + 2);
        json.push(b'{');
        for (index, name) in self.names_json.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            json.extend_from_slice(name.as_bytes());
            let field = fields.get(index);
            if options.is_null(field) {
                json.extend_from_slice(b"null");
            } else if is_json_number(field) {
                json.extend_from_slice(field);
            } else {
                let text = String::from_utf8_lossy(field);
                json.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
            }
        }
        json.push(b'}');
        json
    }
}

fn without_bom(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}

fn usual_time_column(names: &[String]) -> Option<usize> {
    const USUAL: [&str; 7] =
        ["timestamp", "time", "datetime", "date_time", "ts", "date", "_timestamp"];
    let position = |usual: &&str| names.iter().position(|name| name.eq_ignore_ascii_case(usual));
    USUAL.iter().find_map(position)
}

fn parts(names: &[String], utc_offset_min: i32) -> TimeAt {
    let position = |part: &str| names.iter().position(|name| name.eq_ignore_ascii_case(part));
    match (position("year"), position("month"), position("day")) {
        (Some(year), Some(month), Some(day)) => {
            let clock = ["hour", "minute", "second"].map(position);
            TimeAt::Parts { date: [year, month, day], clock, utc_offset_min }
        }
        _ => TimeAt::Nowhere,
    }
}

/// Names of an object must differ: an empty one becomes `column_3`, a second `x` becomes `x_2`.
fn unique_names(names: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut unique = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let base = if name.is_empty() { format!("column_{}", index + 1) } else { name.clone() };
        let mut candidate = base.clone();
        let mut copy = 2;
        while !seen.insert(candidate.clone()) {
            candidate = format!("{base}_{copy}");
            copy += 1;
        }
        unique.push(candidate);
    }
    unique
}

/// RFC 8259 section 6: `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`, and a double holds it:
/// readers refuse a whole row for one `1e999`.
fn is_json_number(text: &[u8]) -> bool {
    let value = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    value.is_some_and(f64::is_finite) && is_number_text(text)
}

fn is_number_text(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> Option<&[u8]> {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count > 0).then(|| &text[count..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut rest = match text {
        [b'0', rest @ ..] => rest,
        _ => match digits(text) {
            Some(rest) => rest,
            None => return false,
        },
    };
    if let Some(fraction) = rest.strip_prefix(b".") {
        match digits(fraction) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let unsigned = match exponent {
            [b'+' | b'-', unsigned @ ..] => unsigned,
            unsigned => unsigned,
        };
        match digits(unsigned) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
