//! What modules return: checked before it is used, and turned into records. Pure.
//!
//! Whatever a module returns is hostile until it was checked here. Behind these checks, every index
//! is in bounds and every column is as long as it should be.

use crate::abi::{Failure, Kept, Outcome, Outputs, Verdict};
use crate::columns::{ColumnError, HeaderColumns, NullableColumn};
use crate::error::GuestError;
use crate::limits::GuestLimits;
use std::ops::Range;
use weir_core::TimestampMs;
use weir_core::limits::{
    MODULE_KEY_BYTES_MAX, NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};
use weir_core::record::{
    BatchBuilder, HeaderView, Headers, PushError, RecordIter, RecordView, Records,
};

/// A record that a module made, borrowed from what it returned and from the record it came of.
#[derive(Clone, Debug)]
pub struct OutputRecord<'a> {
    /// The record that it comes from, as an index of the whole batch.
    pub source: u32,
    /// Which of the output topics it goes to.
    pub topic: u32,
    /// Event time.
    pub timestamp: TimestampMs,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers.
    pub headers: OutputHeaders<'a>,
}

impl OutputRecord<'_> {
    /// Adds it to a batch.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`]; never for a record too large, which the checks have refused.
    pub fn push_to(&self, batch: &mut BatchBuilder) -> Result<(), PushError> {
        batch.push(self.timestamp, self.key, self.value, self.headers.clone())
    }
}

/// Headers of an output: given by the module, or those of its source.
#[derive(Clone, Debug)]
pub enum OutputHeaders<'a> {
    /// There are none.
    None,
    /// Those of the source.
    Source(Headers<'a>),
    /// What the module gave, and which of them are left.
    Given(&'a HeaderColumns, Range<usize>),
}

impl<'a> Iterator for OutputHeaders<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<HeaderView<'a>> {
        match self {
            OutputHeaders::None => None,
            OutputHeaders::Source(headers) => headers.next(),
            OutputHeaders::Given(columns, range) => range.next().map(|at| columns.header(at)),
        }
    }
}

/// What a module made of a part of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputPart {
    /// First record of the part, as an index of the batch.
    pub(crate) begin: u32,
    /// Records of the part.
    pub(crate) count: u32,
    pub(crate) outputs: Outputs,
}

impl OutputPart {
    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.outputs.sources.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.outputs.sources.is_empty()
    }

    /// Each record in turn. `input` is the batch that it was made of.
    #[must_use]
    pub fn iter<'a>(&'a self, input: &'a Records) -> OutputIter<'a> {
        OutputIter { part: self, input: input.iter(), source: None, read: 0, next: 0 }
    }
}

/// Iterator over the records that a module made. Sources never fall, so it walks input and outputs
/// side by side.
#[derive(Clone, Debug)]
pub struct OutputIter<'a> {
    part: &'a OutputPart,
    input: RecordIter<'a>,
    /// The record that was read last, and how many were read.
    source: Option<RecordView<'a>>,
    read: u32,
    next: usize,
}

impl<'a> Iterator for OutputIter<'a> {
    type Item = OutputRecord<'a>;

    fn next(&mut self) -> Option<OutputRecord<'a>> {
        let outputs = &self.part.outputs;
        let at = self.next;
        let index = self.part.begin + *outputs.sources.get(at)?;
        self.next += 1;
        while self.part.count > 0 && self.read <= index {
            self.source = self.input.next();
            self.read += 1;
        }
        let source = self.source.as_ref();
        let part_of = |given: &'a Option<NullableColumn>, own: Option<&'a [u8]>| match given {
            Some(column) => column.get(at),
            None => own,
        };
        let timestamp = outputs.timestamps.get(at).map(|time| TimestampMs(*time));
        let headers = match (&outputs.headers, source) {
            (Some(given), _) => OutputHeaders::Given(given, given.range(at)),
            (None, Some(source)) => OutputHeaders::Source(source.headers()),
            (None, None) => OutputHeaders::None,
        };
        Some(OutputRecord {
            source: index,
            topic: outputs.topics.get(at).copied().unwrap_or(0),
            timestamp: timestamp.or(source.map(|source| source.timestamp)).unwrap_or_default(),
            key: part_of(&outputs.keys, source.and_then(|source| source.key)),
            value: part_of(&outputs.values, source.and_then(|source| source.value)),
            headers,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.part.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for OutputIter<'_> {}

fn malformed(what: &'static str) -> impl Fn(ColumnError) -> GuestError {
    move |error| GuestError::Malformed { what, error }
}

/// Checks what a filter returned for `count` records.
pub(crate) fn check_kept(
    kept: &Kept,
    count: usize,
    limits: &GuestLimits,
) -> Result<(), GuestError> {
    if kept.keep.len() != count.div_ceil(8) {
        let error = ColumnError::NullBits { have: kept.keep.len(), strings: count };
        return Err(GuestError::Malformed { what: "bits of kept records", error });
    }
    check_failures(&kept.failures, count, limits)
}

/// Checks what a produce-time module returned for `count` records.
pub(crate) fn check_verdict(
    verdict: &Verdict,
    count: usize,
    limits: &GuestLimits,
) -> Result<(), GuestError> {
    check_failures(&verdict.rejected, count, limits)?;
    let Some(rewrite) = &verdict.rewritten else { return Ok(()) };
    let parts = Parts {
        keys: rewrite.keys.as_ref(),
        values: rewrite.values.as_ref(),
        headers: rewrite.headers.as_ref(),
    };
    parts.check(count, limits)
}

/// Checks what a transform or consumer returned for `count` records and `topics` output topics.
pub(crate) fn check_outcome(
    outcome: &Outcome,
    count: usize,
    topics: usize,
    limits: &GuestLimits,
) -> Result<(), GuestError> {
    check_failures(&outcome.failures, count, limits)?;
    check_outputs(&outcome.outputs, count, topics, limits)?;
    let timers = &outcome.set;
    timers.keys.check(timers.times.len()).map_err(malformed("timers"))?;
    let cleared = &outcome.cleared;
    cleared.check(cleared.len()).map_err(malformed("cleared timers"))?;
    let bytes = timers.keys.content_bytes() + cleared.content_bytes() + 8 * timers.times.len();
    if bytes > limits.state_bytes {
        let limit = limits.state_bytes;
        return Err(GuestError::TooMuch { what: "bytes of timers", have: bytes, limit });
    }
    let longest = timers.keys.iter().chain(cleared.iter()).map(<[u8]>::len).max().unwrap_or(0);
    if longest > MODULE_KEY_BYTES_MAX {
        let (what, limit) = ("bytes in the key of a timer", MODULE_KEY_BYTES_MAX);
        return Err(GuestError::TooMuch { what, have: longest, limit });
    }
    // Both rise, so one walk finds a record that is the source of outputs and failed as well.
    let mut failed = outcome.failures.iter().map(|failure| failure.index).peekable();
    for source in &outcome.outputs.sources {
        while failed.next_if(|index| index < source).is_some() {}
        if failed.peek() == Some(source) {
            return Err(GuestError::Broken("outputs of a record that failed"));
        }
    }
    Ok(())
}

fn check_outputs(
    outputs: &Outputs,
    count: usize,
    topics: usize,
    limits: &GuestLimits,
) -> Result<(), GuestError> {
    let records = outputs.sources.len();
    if records > limits.output_records {
        let (have, limit) = (records, limits.output_records);
        return Err(GuestError::TooMuch { what: "records", have, limit });
    }
    let differs = |have: usize| ColumnError::Count { have, want: records };
    if !outputs.topics.is_empty() && outputs.topics.len() != records {
        return Err(malformed("output topics")(differs(outputs.topics.len())));
    }
    if !outputs.timestamps.is_empty() && outputs.timestamps.len() != records {
        return Err(malformed("output timestamps")(differs(outputs.timestamps.len())));
    }
    if outputs.sources.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(GuestError::Broken("sources of outputs that fall"));
    }
    // Outputs of a batch without records have source 0, which is none.
    let last = outputs.sources.last().copied();
    if last.is_some_and(|last| last as usize >= count.max(1)) {
        return Err(GuestError::Broken("a source of an output that is not in the batch"));
    }
    if outputs.topics.iter().any(|topic| *topic as usize >= topics) || (records > 0 && topics == 0)
    {
        return Err(GuestError::Broken("an output for a topic that it was not granted with --to"));
    }
    let whole = outputs.keys.is_some()
        && outputs.values.is_some()
        && outputs.headers.is_some()
        && !outputs.timestamps.is_empty();
    if count == 0 && records > 0 && !whole {
        return Err(GuestError::Broken("an output without a record to take its parts from"));
    }
    let parts = Parts {
        keys: outputs.keys.as_ref(),
        values: outputs.values.as_ref(),
        headers: outputs.headers.as_ref(),
    };
    parts.check(records, limits)
}

/// By rising index, all in the batch.
fn check_failures(
    failures: &[Failure],
    count: usize,
    limits: &GuestLimits,
) -> Result<(), GuestError> {
    if failures.windows(2).any(|pair| pair[0].index >= pair[1].index) {
        return Err(GuestError::Broken("failures that do not rise"));
    }
    if failures.last().is_some_and(|failure| failure.index as usize >= count) {
        return Err(GuestError::Broken("a failure of a record that is not in the batch"));
    }
    let bytes = failures.iter().map(|failure| failure.message.len()).sum::<usize>();
    if bytes > limits.output_bytes {
        let limit = limits.output_bytes;
        return Err(GuestError::TooMuch { what: "bytes of messages", have: bytes, limit });
    }
    Ok(())
}

/// Keys, values and headers that a module gave for each of some records.
struct Parts<'a> {
    keys: Option<&'a NullableColumn>,
    values: Option<&'a NullableColumn>,
    headers: Option<&'a HeaderColumns>,
}

impl Parts<'_> {
    fn check(&self, records: usize, limits: &GuestLimits) -> Result<(), GuestError> {
        let check = |what, column: Option<&NullableColumn>| {
            column.map_or(Ok(()), |column| column.check(records)).map_err(malformed(what))
        };
        check("keys", self.keys)?;
        check("values", self.values)?;
        if let Some(headers) = self.headers {
            headers.check(records).map_err(malformed("headers"))?;
        }
        let bytes = self.keys.map_or(0, NullableColumn::content_bytes)
            + self.values.map_or(0, NullableColumn::content_bytes)
            + self.headers.map_or(0, HeaderColumns::content_bytes);
        if bytes > limits.output_bytes {
            let limit = limits.output_bytes;
            return Err(GuestError::TooMuch { what: "bytes", have: bytes, limit });
        }
        (0..records).try_for_each(|at| self.check_record(at))
    }

    /// What a record batch would refuse. A record that takes parts from its source may still be too
    /// large as a whole; whoever builds the batch sees that.
    fn check_record(&self, at: usize) -> Result<(), GuestError> {
        let length = |column: Option<&NullableColumn>| {
            column.and_then(|column| column.get(at)).map_or(0, <[u8]>::len)
        };
        let mut bytes = length(self.keys) + length(self.values);
        for (n, header) in self.headers.into_iter().flat_map(|headers| headers.get(at)).enumerate()
        {
            if n >= RECORD_HEADERS_MAX {
                return Err(GuestError::Broken("a record with too many headers"));
            }
            if header.name.len() > NAME_BYTES_MAX {
                return Err(GuestError::Broken("a header whose name is too long"));
            }
            bytes += header.name.len() + header.value.map_or(0, <[u8]>::len);
        }
        if bytes > RECORD_BYTES_MAX {
            let (have, limit) = (bytes, RECORD_BYTES_MAX);
            return Err(GuestError::TooMuch { what: "bytes in one record", have, limit });
        }
        Ok(())
    }
}
