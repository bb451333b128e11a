//! Batches as columns: what crosses the border to a module. Pure.
//!
//! A crossing costs about as much as copying some hundred bytes, so a whole batch crosses in a
//! constant number of flat lists, whatever its records are (`wit/types.wit` has the layout). The
//! node builds columns from stored records in one pass without allocating per record
//! ([`Batch::fill`]), and trusts none that come back: every column from a module passes
//! [`Column::check`], [`NullableColumn::check`] or [`HeaderColumns::check`] before a byte of it is
//! read.

use std::ops::Range;
use thiserror::Error;
use wasmtime::component::{ComponentType, Lift, Lower};
use weir_core::TimestampMs;
use weir_core::record::{HeaderView, Records};

pub use set::ColumnSet;

mod set {
    #![expect(missing_docs, reason = "the macro takes no documentation")]

    wasmtime::component::flags! {
        ColumnSet {
            #[component(name = "timestamps")]
            const TIMESTAMPS;
            #[component(name = "keys")]
            const KEYS;
            #[component(name = "values")]
            const VALUES;
            #[component(name = "headers")]
            const HEADERS;
            #[component(name = "watermarks")]
            const WATERMARKS;
        }
    }
}

/// What is wrong with a column that a module returned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ColumnError {
    /// It has more or fewer strings than there are records.
    #[error("{have} strings where {want} belong")]
    Count {
        /// How many it has.
        have: usize,
        /// How many it should have.
        want: usize,
    },
    /// A string ends before it begins.
    #[error("end {index} lies before the one in front of it")]
    EndsFall {
        /// Which end.
        index: usize,
    },
    /// The last string does not end where the bytes do.
    #[error("the last end is {last}, but there are {bytes} bytes")]
    LastEnd {
        /// The last end, or 0 without strings.
        last: u32,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The bits of absent strings are too many or too few.
    #[error("{have} bytes of null bits for {strings} strings")]
    NullBits {
        /// Bytes of bits.
        have: usize,
        /// Strings of the column.
        strings: usize,
    },
    /// An absent string has bytes.
    #[error("string {index} is absent and has bytes")]
    NullWithBytes {
        /// Which string.
        index: usize,
    },
    /// A header's name is not text.
    #[error("the name of header {index} is not UTF-8")]
    HeaderName {
        /// Which header, counted over all records.
        index: usize,
    },
}

/// Byte strings, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Column {
    /// Where each ends in `bytes`.
    pub ends: Vec<u32>,
    /// All of them.
    pub bytes: Vec<u8>,
}

impl Column {
    /// How many strings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends a string. The column must stay below 4 GiB: the callers' limits see to that.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(end_of(&self.bytes));
    }

    /// The string at `index` of a checked column; empty where there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        self.bytes.get(span(&self.ends, index)).unwrap_or_default()
    }

    /// Each string of a checked column in turn.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Removes all strings and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
    }

    /// Checks that this is `count` strings that cover its bytes.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self, count: usize) -> Result<(), ColumnError> {
        check_ends(&self.ends, self.bytes.len(), count)
    }

    /// Bytes of memory that the contents take.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.ends.len() * 4 + self.bytes.len()
    }
}

/// A column in which strings may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct NullableColumn {
    /// Where each ends in `bytes`.
    pub ends: Vec<u32>,
    /// All of them.
    pub bytes: Vec<u8>,
    /// A bit for each: whether it is absent. Empty where none is.
    pub nulls: Vec<u8>,
}

impl NullableColumn {
    /// How many strings there are, absent ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends a string. The column must stay below 4 GiB: the callers' limits see to that.
    #[inline]
    pub fn push(&mut self, string: Option<&[u8]>) {
        let index = self.ends.len();
        match string {
            Some(string) => self.bytes.extend_from_slice(string),
            None => {
                self.nulls.resize(index / 8 + 1, 0);
                self.nulls[index / 8] |= 1 << (index % 8);
            }
        }
        self.ends.push(end_of(&self.bytes));
    }

    /// Makes the null bits as long as the format wants them, behind the last [`Self::push`].
    pub fn finish(&mut self) {
        if !self.nulls.is_empty() {
            self.nulls.resize(self.ends.len().div_ceil(8), 0);
        }
    }

    /// The string at `index` of a checked column; `None` where it is absent or there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if bit(&self.nulls, index) {
            return None;
        }
        self.bytes.get(span(&self.ends, index))
    }

    /// Each string of a checked column in turn.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Removes all strings and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
        self.nulls.clear();
    }

    /// Checks that this is `count` strings that cover its bytes, and that absent ones are empty.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self, count: usize) -> Result<(), ColumnError> {
        check_ends(&self.ends, self.bytes.len(), count)?;
        if self.nulls.is_empty() {
            return Ok(());
        }
        let wrong = ColumnError::NullBits { have: self.nulls.len(), strings: count };
        let tail = count % 8;
        let unused = if tail == 0 { 0 } else { self.nulls.last().copied().unwrap_or(0) >> tail };
        if self.nulls.len() != count.div_ceil(8) || unused != 0 {
            return Err(wrong);
        }
        let absent = (0..count).filter(|index| bit(&self.nulls, *index));
        match absent.into_iter().find(|index| !span(&self.ends, *index).is_empty()) {
            Some(index) => Err(ColumnError::NullWithBytes { index }),
            None => Ok(()),
        }
    }

    /// Bytes of memory that the contents take.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.ends.len() * 4 + self.bytes.len() + self.nulls.len()
    }
}

/// Headers of all records of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct HeaderColumns {
    /// Behind which header those of each record end.
    pub ends: Vec<u32>,
    /// Names of all headers.
    pub names: Column,
    /// Values of all headers.
    pub values: NullableColumn,
}

impl HeaderColumns {
    /// Appends the headers of one record.
    pub fn push<'h>(&mut self, headers: impl Iterator<Item = HeaderView<'h>>) {
        for header in headers {
            self.names.push(header.name.as_bytes());
            self.values.push(header.value);
        }
        self.ends.push(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
    }

    /// The headers of the record at `index` of checked columns.
    pub fn get(&self, index: usize) -> impl Iterator<Item = HeaderView<'_>> + Clone + '_ {
        self.range(index).map(|at| self.header(at))
    }

    /// The headers of the record at `index`, as indexes of [`HeaderColumns::header`].
    pub(crate) fn range(&self, index: usize) -> Range<usize> {
        span(&self.ends, index)
    }

    /// The header at `at`, counted over all records.
    pub(crate) fn header(&self, at: usize) -> HeaderView<'_> {
        HeaderView {
            name: std::str::from_utf8(self.names.get(at)).unwrap_or_default(),
            value: self.values.get(at),
        }
    }

    /// Removes all headers and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.names.clear();
        self.values.clear();
    }

    /// Checks that these are the headers of `count` records.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self, count: usize) -> Result<(), ColumnError> {
        check_ends(&self.ends, self.names.len(), count)?;
        self.names.check(self.names.len())?;
        self.values.check(self.names.len())?;
        match self.names.iter().position(|name| std::str::from_utf8(name).is_err()) {
            Some(index) => Err(ColumnError::HeaderName { index }),
            None => Ok(()),
        }
    }

    /// Bytes of memory that the contents take.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.ends.len() * 4 + self.names.content_bytes() + self.values.content_bytes()
    }
}

/// A batch, or a part of one, as columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Batch {
    /// How many records there are.
    pub count: u32,
    /// Offset of the first.
    #[component(name = "base-offset")]
    pub base_offset: i64,
    /// Offsets less the base offset; empty where they are dense.
    #[component(name = "offset-deltas")]
    pub offset_deltas: Vec<u32>,
    /// Event times, in milliseconds since the Unix epoch.
    pub timestamps: Vec<i64>,
    /// Keys.
    pub keys: NullableColumn,
    /// Values.
    pub values: NullableColumn,
    /// Headers.
    pub headers: HeaderColumns,
    /// The watermark after each record, in milliseconds since the Unix epoch.
    pub watermarks: Vec<i64>,
}

impl Batch {
    /// Makes this the records `range` of `records`, with the columns `wanted`. Uses the memory
    /// again that earlier batches took. Moves `watermark` on behind the last of these records.
    pub fn fill(
        &mut self,
        records: &Records,
        range: Range<usize>,
        wanted: ColumnSet,
        watermark: &mut Watermark,
    ) {
        self.clear();
        let mut views = records.iter().skip(range.start).take(range.len());
        let Some(first) = views.clone().next() else { return };
        self.base_offset = first.offset.0;
        let has = |column| wanted.contains(column);
        for view in &mut views {
            self.count += 1;
            let at = watermark.advance(view.timestamp);
            if has(ColumnSet::TIMESTAMPS) {
                self.timestamps.push(view.timestamp.0);
            }
            if has(ColumnSet::KEYS) {
                self.keys.push(view.key);
            }
            if has(ColumnSet::VALUES) {
                self.values.push(view.value);
            }
            if has(ColumnSet::HEADERS) {
                self.headers.push(view.headers());
            }
            if has(ColumnSet::WATERMARKS) {
                self.watermarks.push(at.0);
            }
        }
        self.keys.finish();
        self.values.finish();
        self.headers.values.finish();
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.base_offset = 0;
        self.offset_deltas.clear();
        self.timestamps.clear();
        self.keys.clear();
        self.values.clear();
        self.headers.clear();
        self.watermarks.clear();
    }
}

/// How far event time has come in one partition: the largest event time seen, less the lateness
/// that is allowed. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Where it stands.
    pub at: TimestampMs,
    /// Allowed lateness, in milliseconds.
    pub lateness_ms: i64,
    /// The latest event time that counts, in milliseconds since the Unix epoch: one wrong date must
    /// not move the watermark for ever.
    pub event_time_max: TimestampMs,
}

impl Watermark {
    /// A watermark before all times, for no lateness and any event time.
    pub const START: Watermark = Watermark {
        at: TimestampMs(i64::MIN),
        lateness_ms: 0,
        event_time_max: TimestampMs(i64::MAX),
    };

    /// Takes in a record's event time and returns where the watermark then stands.
    #[inline]
    pub fn advance(&mut self, event_time: TimestampMs) -> TimestampMs {
        let counted = event_time.0.min(self.event_time_max.0).saturating_sub(self.lateness_ms);
        self.at.0 = self.at.0.max(counted);
        self.at
    }
}

/// Whether bit `index` is set; bits beyond the end are not.
#[must_use]
pub fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

#[inline]
fn end_of(bytes: &[u8]) -> u32 {
    debug_assert!(u32::try_from(bytes.len()).is_ok(), "limits keep columns below 4 GiB");
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn span(ends: &[u32], index: usize) -> Range<usize> {
    let begin = if index == 0 { 0 } else { ends.get(index - 1).copied().unwrap_or(0) };
    let end = ends.get(index).copied().unwrap_or(begin);
    begin as usize..end as usize
}

fn check_ends(ends: &[u32], bytes: usize, count: usize) -> Result<(), ColumnError> {
    if ends.len() != count {
        return Err(ColumnError::Count { have: ends.len(), want: count });
    }
    if let Some(index) = ends.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(ColumnError::EndsFall { index: index + 1 });
    }
    let last = ends.last().copied().unwrap_or(0);
    if last as usize != bytes {
        return Err(ColumnError::LastEnd { last, bytes });
    }
    Ok(())
}
