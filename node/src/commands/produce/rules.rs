//! From a line of input to a record: what is its key, its time, its value.

use bytes::Bytes;
use serde_json::Value;
use weir_collect::{TimeFormat, parse_time};

use super::lines::{Line, fields};

/// Header of a record whose line had no line end: `none`. `weir consume --format raw` then
/// writes none either.
pub const EOL_HEADER: &str = "weir-eol";

/// What the lines of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum InputFormat {
    /// Each line is a record, whatever it holds.
    #[default]
    Lines,
    /// Each line is a JSON value; it is checked, and stored as it is.
    Json,
    /// Each row is a record, stored as it is; the first row holds the names of the columns and
    /// is not a record.
    Csv,
}

/// Where a key or a time comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A JSON pointer (RFC 6901) into the line.
    Pointer(String),
    /// A column of the row, by its name.
    Column(String),
    /// The text before the first of these bytes, which are dropped with it.
    Prefix(Vec<u8>),
}

/// How records are made.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What the lines are.
    pub format: InputFormat,
    /// Where the key is; none: no keys.
    pub key: Option<Place>,
    /// Where the event time is; none: the time of producing.
    pub time: Option<Place>,
    /// How the time is written.
    pub time_format: TimeFormat,
    /// Between the columns of a row.
    pub delimiter: u8,
    /// The row of column names is a record, too.
    pub keep_names: bool,
}

/// What was made of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Bytes,
    /// Event time, ms since the Unix epoch.
    pub timestamp: Option<i64>,
    /// The line had no line end.
    pub unterminated: bool,
}

/// Makes records of the lines of one input after the other.
#[derive(Debug)]
pub struct Maker {
    rules: Rules,
    /// Indexes of the key's and the time's column, once the names were read.
    columns: Option<Columns>,
}

#[derive(Debug)]
struct Columns {
    count: usize,
    key: Option<usize>,
    time: Option<usize>,
}

impl Maker {
    /// A maker that follows `rules`.
    pub fn new(rules: Rules) -> Self {
        Maker { rules, columns: None }
    }

    /// Another file begins, with column names of its own.
    pub fn begin_file(&mut self) {
        self.columns = None;
    }

    /// Makes a record of `line`; none if the line is none: the names of columns.
    ///
    /// # Errors
    /// Why the line is bad, in words.
    pub fn make(&mut self, line: &Line) -> Result<Option<Made>, String> {
        if line.too_long {
            return Err(format!("it is longer than {} bytes", line.bytes.len()));
        }
        match self.rules.format {
            InputFormat::Lines => self.make_line(line).map(Some),
            InputFormat::Json => self.make_json(line).map(Some),
            InputFormat::Csv => self.make_row(line),
        }
    }

    fn make_line(&self, line: &Line) -> Result<Made, String> {
        let Some(Place::Prefix(separator)) = &self.rules.key else {
            return Ok(made(line, None, None));
        };
        let found = line.bytes.windows(separator.len()).position(|part| part == separator);
        let Some(at) = found else {
            let separator = String::from_utf8_lossy(separator);
            return Err(format!("it has no {separator:?} behind a key"));
        };
        let key = line.bytes.slice(..at);
        let value = line.bytes.slice(at + separator.len()..);
        Ok(Made { value, ..made(line, Some(key), None) })
    }

    fn make_json(&self, line: &Line) -> Result<Made, String> {
        let not_json = |error: serde_json::Error| format!("it is not JSON: {error}");
        if self.rules.key.is_none() && self.rules.time.is_none() {
            serde_json::from_slice::<serde::de::IgnoredAny>(&line.bytes).map_err(not_json)?;
            return Ok(made(line, None, None));
        }
        let value: Value = serde_json::from_slice(&line.bytes).map_err(not_json)?;
        let text_at = |place: &Option<Place>| match place {
            Some(Place::Pointer(pointer)) => text_of(&value, pointer).map(Some),
            _ => Ok(None),
        };
        let key = text_at(&self.rules.key)?.map(Bytes::from);
        let time = text_at(&self.rules.time)?;
        let timestamp = time.map(|text| self.parse_time(&text)).transpose()?;
        Ok(made(line, key, timestamp))
    }

    fn make_row(&mut self, line: &Line) -> Result<Option<Made>, String> {
        let Some(columns) = &self.columns else {
            self.columns = Some(self.read_names(line)?);
            return Ok(self.rules.keep_names.then(|| made(line, None, None)));
        };
        let mut row = fields(&line.bytes, self.rules.delimiter);
        if row.len() != columns.count {
            let (have, want) = (row.len(), columns.count);
            return Err(format!("it has {have} columns, and the row of names has {want}"));
        }
        let time = columns.time.map(|at| String::from_utf8_lossy(&row[at]).into_owned());
        let timestamp = time.map(|text| self.parse_time(&text)).transpose()?;
        let key = columns.key.map(|at| Bytes::from(std::mem::take(&mut row[at])));
        Ok(Some(made(line, key, timestamp)))
    }

    fn read_names(&self, line: &Line) -> Result<Columns, String> {
        // Spreadsheets put a byte order mark before the first name.
        let row = line.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line.bytes);
        let names = fields(row, self.rules.delimiter);
        let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        let index_of = |place: &Option<Place>| match place {
            Some(Place::Column(name)) => match names.iter().position(|known| known == name) {
                Some(at) => Ok(Some(at)),
                None => {
                    Err(format!("there is no column {name:?}; there are: {}", names.join(", ")))
                }
            },
            _ => Ok(None),
        };
        let (key, time) = (index_of(&self.rules.key)?, index_of(&self.rules.time)?);
        Ok(Columns { count: names.len(), key, time })
    }

    fn parse_time(&self, text: &str) -> Result<i64, String> {
        parse_time(text, &self.rules.time_format).map_err(|error| error.to_string())
    }
}

fn made(line: &Line, key: Option<Bytes>, timestamp: Option<i64>) -> Made {
    Made { key, value: line.bytes.clone(), timestamp, unterminated: !line.terminated }
}

/// The value at `pointer` as text: strings without quotes, everything else as JSON.
fn text_of(value: &Value, pointer: &str) -> Result<String, String> {
    match value.pointer(pointer) {
        None | Some(Value::Null) => Err(format!("it has nothing at {pointer}")),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(format: InputFormat) -> Rules {
        Rules {
            format,
            key: None,
            time: None,
            time_format: TimeFormat::default(),
            delimiter: b',',
            keep_names: false,
        }
    }

    fn line(text: &str) -> Line {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Line { number: 1, bytes, terminated: true, too_long: false }
    }

    fn make(maker: &mut Maker, text: &str) -> (Option<String>, String, Option<i64>) {
        let made = maker.make(&line(text)).unwrap().unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        (made.key.as_ref().map(text), text(&made.value), made.timestamp)
    }

    /// Goal: lines stay as they are, `\r` included, unless a key is cut off their front.
    #[test]
    fn lines() {
        let mut maker = Maker::new(rules(InputFormat::Lines));
        assert_eq!(make(&mut maker, "a\r"), (None, "a\r".into(), None));
        assert_eq!(make(&mut maker, ""), (None, String::new(), None));
        let key = Some(Place::Prefix(b"::".to_vec()));
        let mut maker = Maker::new(Rules { key, ..rules(InputFormat::Lines) });
        assert_eq!(make(&mut maker, "k::v::w"), (Some("k".into()), "v::w".into(), None));
        assert_eq!(make(&mut maker, "::v"), (Some(String::new()), "v".into(), None));
        assert!(maker.make(&line("k:v")).is_err());
    }

    /// Goal: keys and times come from JSON of any type; what is missing or no JSON is said.
    #[test]
    fn json() {
        let mut maker = Maker::new(Rules {
            key: Some(Place::Pointer("/a/0/id".into())),
            time: Some(Place::Pointer("/t".into())),
            ..rules(InputFormat::Json)
        });
        let text = "{\"a\":[{\"id\":7}],\"t\":1700000000000}\r";
        assert_eq!(
            make(&mut maker, text),
            (Some("7".into()), text.into(), Some(1_700_000_000_000))
        );
        let text = "{\"a\":[{\"id\":\"x\"}],\"t\":\"2024-02-29T00:00:00Z\"}";
        assert_eq!(make(&mut maker, text).2, Some(1_709_164_800_000));
        for bad in
            ["{}", "{", "", "{\"a\":[{\"id\":null}],\"t\":1}", "{\"a\":[{\"id\":1}],\"t\":\"x\"}"]
        {
            assert!(maker.make(&line(bad)).is_err(), "{bad}");
        }
        let mut plain = Maker::new(rules(InputFormat::Json));
        assert_eq!(make(&mut plain, "[1]"), (None, "[1]".into(), None));
        assert!(plain.make(&line("[1")).is_err());
    }

    /// Goal: the row of names is read once per file, columns are found by name, and rows of
    /// another width are bad.
    #[test]
    fn csv() {
        let mut maker = Maker::new(Rules {
            key: Some(Place::Column("id".into())),
            time: Some(Place::Column("at".into())),
            ..rules(InputFormat::Csv)
        });
        assert_eq!(maker.make(&line("\u{feff}at,id,v\r")), Ok(None));
        let row = "2017-03-21T00:00:02-05:00,\"a,b\",3\r";
        assert_eq!(
            make(&mut maker, row),
            (Some("a,b".into()), row.into(), Some(1_490_072_402_000))
        );
        assert!(maker.make(&line("1,2")).is_err());
        maker.begin_file();
        assert_eq!(maker.make(&line("id,at")), Ok(None));
        assert_eq!(make(&mut maker, "x,1").0, Some("x".into()));
        maker.begin_file();
        let error = maker.make(&line("a,b")).unwrap_err();
        assert!(error.contains("no column \"id\"; there are: a, b"), "{error}");
        let mut keep = Maker::new(Rules { keep_names: true, ..rules(InputFormat::Csv) });
        assert_eq!(make(&mut keep, "a,b").1, "a,b");
        assert_eq!(make(&mut keep, "1,2").1, "1,2");
    }

    #[test]
    fn too_long_lines_are_bad() {
        let mut maker = Maker::new(rules(InputFormat::Lines));
        let cut = Line { too_long: true, ..line("abc") };
        assert!(maker.make(&cut).unwrap_err().contains("longer than 3 bytes"));
        let last = Line { terminated: false, ..line("abc") };
        assert!(maker.make(&last).unwrap().unwrap().unterminated);
    }
}
