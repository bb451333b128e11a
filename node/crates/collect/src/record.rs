//! What every input yields, and the trait that turns lines into it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

/// Which stream a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// The good records.
    Data,
    /// Input that could not be understood; the value holds its bytes as they came.
    DeadLetter {
        /// A short stable name, such as `checksum`; also in the header `reason`.
        reason: &'static str,
    },
}

/// One record from an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Good record or dead letter.
    pub stream: Stream,
    /// What identifies the sender: a device, a sensor, a host, the value of a column.
    pub key: Option<Bytes>,
    /// JSON where the input was parsed, else the bytes of the line without its line end.
    pub value: Bytes,
    /// Event time in milliseconds since 1970 UTC, where the input says one.
    pub timestamp_ms: Option<i64>,
    /// Names and values beside the value, such as `kind` or `reason`.
    pub headers: Vec<(String, Bytes)>,
}

impl Collected {
    /// A good record without headers.
    pub fn data(key: Option<Bytes>, value: impl Into<Bytes>, timestamp_ms: Option<i64>) -> Self {
        Self { stream: Stream::Data, key, value: value.into(), timestamp_ms, headers: Vec::new() }
    }

    /// A dead letter: `input` as it came, why it was refused, and in words for a human.
    ///
    /// The headers are `reason` and, unless it is empty, `detail`.
    pub fn dead_letter(
        key: Option<Bytes>,
        input: &[u8],
        reason: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let mut headers = vec![("reason".to_owned(), Bytes::from_static(reason.as_bytes()))];
        let detail: String = detail.into();
        if !detail.is_empty() {
            headers.push(("detail".to_owned(), Bytes::from(detail)));
        }
        Self {
            stream: Stream::DeadLetter { reason },
            key,
            value: Bytes::copy_from_slice(input),
            timestamp_ms: None,
            headers,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Whether this is a dead letter.
    pub fn is_dead_letter(&self) -> bool {
        matches!(self.stream, Stream::DeadLetter { .. })
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_ref())
    }
}

/// What a decoder saw so far, for a status line or metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines that came in, whatever became of them.
    pub lines: u64,
    /// Records of the stream [`Stream::Data`].
    pub records: u64,
    /// Records of the stream [`Stream::DeadLetter`].
    pub dead_letters: u64,
    /// Lines left out on purpose: comments, empty lines, sentences that nobody asked for.
    pub skipped: u64,
    /// Dead letters by reason. Reasons are fixed names, so this is bounded.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Things particular to one decoder, such as `sentences_valid`. Fixed names too.
    pub details: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Adds one to the detail `name`.
    pub(crate) fn add(&mut self, name: &'static str) {
        *self.details.entry(name).or_default() += 1;
    }

    /// The detail `name`, 0 if nothing was counted under it.
    pub fn detail(&self, name: &str) -> u64 {
        self.details.get(name).copied().unwrap_or(0)
    }

    /// How many dead letters gave this reason.
    pub fn reason(&self, name: &str) -> u64 {
        self.reasons.get(name).copied().unwrap_or(0)
    }

    /// Counts `record` and appends it to `out`.
    pub(crate) fn emit(&mut self, record: Collected, out: &mut Vec<Collected>) {
        match record.stream {
            Stream::Data => self.records += 1,
            Stream::DeadLetter { reason } => {
                self.dead_letters += 1;
                *self.reasons.entry(reason).or_default() += 1;
            }
        }
        out.push(record);
    }

    /// Adds what another decoder of the same kind counted.
    pub(crate) fn merge(&mut self, other: &Counts) {
        self.lines += other.lines;
        self.records += other.records;
        self.dead_letters += other.dead_letters;
        self.skipped += other.skipped;
        for (name, n) in &other.reasons {
            *self.reasons.entry(name).or_default() += n;
        }
        for (name, n) in &other.details {
            *self.details.entry(name).or_default() += n;
        }
    }
}

/// Turns lines into records. Pure: the same lines give the same records.
///
/// The driver calls, in order: `handle_begin`, then `handle_line` or `handle_overlong` for each
/// line, `handle_idle` when the input was silent for a while, and `handle_end`; then perhaps
/// `handle_begin` again for the next file.
pub trait Decoder: Send {
    /// A new file or connection begins. `first_line` is its first line where reading starts
    /// behind it (after a resume), so that a decoder can learn a header from it.
    fn handle_begin(&mut self, first_line: Option<&[u8]>) {
        let _ = first_line;
    }

    /// Who sent the lines that follow, where the input knows (the sender of a datagram).
    fn handle_sender(&mut self, name: &str) {
        let _ = name;
    }

    /// The clock, given before lines are; only what infers a missing year may use it.
    fn handle_clock(&mut self, now_ms: i64) {
        let _ = now_ms;
    }

    /// One line, without its line end.
    fn handle_line(&mut self, line: &[u8], out: &mut Vec<Collected>);

    /// The first [`LINE_BYTES_MAX`](crate::limits::LINE_BYTES_MAX) bytes of a line that was
    /// longer. The rest is gone.
    fn handle_overlong(&mut self, start: &[u8], out: &mut Vec<Collected>);

    /// The input was silent: emit what waits only for company.
    fn handle_idle(&mut self, out: &mut Vec<Collected>) {
        self.handle_end(out);
    }

    /// The file or connection ended: emit all that is held back.
    fn handle_end(&mut self, out: &mut Vec<Collected>);

    /// How many of the latest lines are held back, that is, must be read again by whoever
    /// resumes after the records emitted so far.
    fn held_lines(&self) -> usize;

    /// What was counted since the start.
    fn counts(&self) -> &Counts;
}

/// JSON of one of this crate's own values, none of which can fail to serialize: they hold only
/// strings, numbers and lists. Numbers that JSON lacks (NaN, infinite) become `null`.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    let written = serde_json::to_vec(value);
    debug_assert!(written.is_ok(), "a value of this crate did not serialize");
    written.unwrap_or_else(|_| b"null".to_vec())
}
