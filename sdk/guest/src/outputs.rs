//! Records that a module makes.

use crate::bindings::transform::weir::module::flow::Outputs as Wire;
use crate::bindings::types::{Column, Headers, NullableColumn};
use crate::record::Columns;

/// A record to be made, from what is set here and, for the rest, from the record that is being
/// processed. Nothing happens before [`Output::send`].
#[must_use = "nothing happens before send()"]
pub struct Output<'c> {
    outputs: &'c mut Outputs,
    row: Row,
}

/// Where a part of an output comes from.
#[derive(Clone, Copy, Default)]
enum Part {
    /// From its source.
    #[default]
    Source,
    /// It has none.
    Absent,
    /// From the arena, up to this place.
    Given { begin: usize, end: usize },
}

#[derive(Clone, Copy, Default)]
struct Row {
    source: u32,
    topic: u32,
    timestamp: Option<i64>,
    key: Part,
    value: Part,
    /// Headers, as places in the list of all.
    headers: Option<(usize, usize)>,
}

/// All outputs of a call.
#[derive(Default)]
pub(crate) struct Outputs {
    rows: Vec<Row>,
    arena: Vec<u8>,
    headers: Vec<(Part, Part)>,
    source: u32,
}

/// How far the outputs had come.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    rows: usize,
    arena: usize,
    headers: usize,
}

impl<'c> Output<'c> {
    /// The topic, as an index of the deployment's `--to`. The first unless set.
    pub fn topic(mut self, index: u32) -> Self {
        self.row.topic = index;
        self
    }

    /// Event time, in milliseconds since the Unix epoch.
    pub fn timestamp(mut self, ms: i64) -> Self {
        self.row.timestamp = Some(ms);
        self
    }

    /// The key. It also says which partition the record goes to.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.row.key = self.outputs.keep(key.as_ref());
        self
    }

    /// No key.
    pub fn no_key(mut self) -> Self {
        self.row.key = Part::Absent;
        self
    }

    /// The value.
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.row.value = self.outputs.keep(value.as_ref());
        self
    }

    /// The value, written by `write` without a copy: `.write(|to| serde_json::to_writer(to, &x))`.
    ///
    /// # Errors
    /// That of `write`.
    pub fn write<E>(
        mut self,
        write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let begin = self.outputs.arena.len();
        write(&mut self.outputs.arena)?;
        self.row.value = Part::Given { begin, end: self.outputs.arena.len() };
        Ok(self)
    }

    /// No value: downstream, the key is deleted.
    pub fn no_value(mut self) -> Self {
        self.row.value = Part::Absent;
        self
    }

    /// Adds a header. The first call drops those of the source.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let at = self.outputs.headers.len();
        let part = (self.outputs.keep(name.as_bytes()), self.outputs.keep(value.as_ref()));
        self.outputs.headers.push(part);
        let begin = self.row.headers.map_or(at, |(begin, _)| begin);
        self.row.headers = Some((begin, at + 1));
        self
    }

    /// No headers.
    pub fn no_headers(mut self) -> Self {
        let at = self.outputs.headers.len();
        self.row.headers = Some((at, at));
        self
    }

    /// Sends the record.
    pub fn send(self) {
        self.outputs.rows.push(self.row);
    }
}

impl Outputs {
    /// Outputs that follow come from the record at `index`.
    pub(crate) fn begin(&mut self, index: u32) -> Mark {
        self.source = index;
        let (rows, arena, headers) = (self.rows.len(), self.arena.len(), self.headers.len());
        Mark { rows, arena, headers }
    }

    /// Drops what came after `mark`.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.rows.truncate(mark.rows);
        self.arena.truncate(mark.arena);
        self.headers.truncate(mark.headers);
    }

    pub(crate) fn output(&mut self) -> Output<'_> {
        let row = Row { source: self.source, ..Row::default() };
        Output { outputs: self, row }
    }

    fn keep(&mut self, bytes: &[u8]) -> Part {
        let begin = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Part::Given { begin, end: self.arena.len() }
    }

    /// The columns that the node gets. Parts that every output takes from its source are left out.
    /// For those that only some take, `source` finds the source's.
    pub(crate) fn into_wire<'s>(
        self,
        asked: Columns,
        source: impl Fn(u32) -> crate::Record<'s>,
    ) -> crate::Result<Wire> {
        let rows = &self.rows;
        let same_topic = rows.iter().all(|row| row.topic == 0);
        let timed = rows.iter().any(|row| row.timestamp.is_some());
        let needs = |given: bool, all: bool, column: Columns, what: &str| match given && !all {
            true if !asked.contains(column) => Err(crate::Error::msg(format_args!(
                "some outputs set {what} and others keep it: COLUMNS must include it"
            ))),
            _ => Ok(given),
        };
        let from_source = |part: Part| matches!(part, Part::Source);
        let all = |of: fn(&Row) -> Part| rows.iter().all(|row| !from_source(of(row)));
        let any = |of: fn(&Row) -> Part| rows.iter().any(|row| !from_source(of(row)));
        let all_timed = rows.iter().all(|row| row.timestamp.is_some());
        let timed = needs(timed, all_timed, Columns::TIMESTAMPS, "the timestamp")?;
        let keys = needs(any(|row| row.key), all(|row| row.key), Columns::KEYS, "the key")?;
        let values =
            needs(any(|row| row.value), all(|row| row.value), Columns::VALUES, "the value")?;
        let any_headers = rows.iter().any(|row| row.headers.is_some());
        let all_headers = rows.iter().all(|row| row.headers.is_some());
        let headers = needs(any_headers, all_headers, Columns::HEADERS, "the headers")?;
        let time = |row: &Row| row.timestamp.unwrap_or_else(|| source(row.source).timestamp());
        let key = |row: &Row| match row.key {
            Part::Source => source(row.source).key(),
            part => self.bytes(part),
        };
        let value = |row: &Row| match row.value {
            Part::Source => source(row.source).value(),
            part => self.bytes(part),
        };
        Ok(Wire {
            sources: rows.iter().map(|row| row.source).collect(),
            topics: if same_topic { vec![] } else { rows.iter().map(|row| row.topic).collect() },
            timestamps: if timed { rows.iter().map(time).collect() } else { vec![] },
            keys: keys.then(|| column(rows.iter().map(key))),
            values: values.then(|| column(rows.iter().map(value))),
            headers: headers.then(|| self.header_columns(&source)),
        })
    }

    fn bytes(&self, part: Part) -> Option<&[u8]> {
        match part {
            Part::Given { begin, end } => self.arena.get(begin..end),
            Part::Source | Part::Absent => None,
        }
    }

    fn header_columns<'s>(&self, source: &impl Fn(u32) -> crate::Record<'s>) -> Headers {
        let (mut ends, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for row in &self.rows {
            match row.headers {
                Some((begin, end)) => {
                    for (name, value) in &self.headers[begin..end] {
                        names.push(self.bytes(*name).unwrap_or_default());
                        values.push(self.bytes(*value));
                    }
                }
                None => {
                    for header in source(row.source).headers() {
                        names.push(header.name.as_bytes());
                        values.push(header.value);
                    }
                }
            }
            ends.push(names.len() as u32);
        }
        let names = column(names.into_iter().map(Some));
        let names = Column { ends: names.ends, bytes: names.bytes };
        Headers { ends, names, values: column(values.into_iter()) }
    }
}

/// A column of some strings.
pub(crate) fn column<'b>(
    strings: impl ExactSizeIterator<Item = Option<&'b [u8]>>,
) -> NullableColumn {
    let count = strings.len();
    let (mut ends, mut bytes) = (Vec::with_capacity(count), Vec::new());
    let mut nulls = Vec::new();
    for (index, string) in strings.enumerate() {
        match string {
            Some(string) => bytes.extend_from_slice(string),
            None => {
                nulls.resize(count.div_ceil(8), 0u8);
                nulls[index / 8] |= 1 << (index % 8);
            }
        }
        ends.push(bytes.len() as u32);
    }
    NullableColumn { ends, bytes, nulls }
}
