//! Records as they come in.

use crate::bindings::types::{Batch, Columns as Flags, NullableColumn};
use crate::error::{Error, Result};

/// Parts of a record that a module looks at. Others are not handed over: each costs a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns(Flags);

/// What filters look at unless they say otherwise.
pub const FILTER_COLUMNS: Columns = Columns::VALUES;

impl Columns {
    /// Nothing but offsets.
    pub const NONE: Columns = Columns(Flags::empty());
    /// Event times.
    pub const TIMESTAMPS: Columns = Columns(Flags::TIMESTAMPS);
    /// Keys.
    pub const KEYS: Columns = Columns(Flags::KEYS);
    /// Values.
    pub const VALUES: Columns = Columns(Flags::VALUES);
    /// Headers.
    pub const HEADERS: Columns = Columns(Flags::HEADERS);
    /// All of these.
    pub const ALL: Columns =
        Columns::TIMESTAMPS.and(Columns::KEYS).and(Columns::VALUES).and(Columns::HEADERS);

    pub(crate) const WATERMARKS: Columns = Columns(Flags::WATERMARKS);

    /// These and `others`.
    #[must_use]
    pub const fn and(self, others: Columns) -> Columns {
        Columns(self.0.union(others.0))
    }

    pub(crate) fn contains(self, others: Columns) -> bool {
        self.0.contains(others.0)
    }

    pub(crate) fn flags(self) -> Flags {
        self.0
    }
}

/// One record of a batch.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: &'a Batch,
    index: usize,
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(batch: &'a Batch, index: usize) -> Record<'a> {
        Record { batch, index }
    }

    /// All records of a batch.
    pub(crate) fn all(batch: &'a Batch) -> impl ExactSizeIterator<Item = Record<'a>> {
        (0..batch.count as usize).map(|index| Record { batch, index })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Its place in the partition.
    #[must_use]
    pub fn offset(&self) -> i64 {
        let delta = match self.batch.offset_deltas.get(self.index) {
            Some(delta) => i64::from(*delta),
            None => self.index as i64,
        };
        self.batch.base_offset + delta
    }

    /// Event time, in milliseconds since the Unix epoch; 0 unless [`Columns::TIMESTAMPS`] was asked
    /// for.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.batch.timestamps.get(self.index).copied().unwrap_or(0)
    }

    /// The key; none unless [`Columns::KEYS`] was asked for.
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        get(&self.batch.keys, self.index)
    }

    /// The value; none unless [`Columns::VALUES`] was asked for.
    #[must_use]
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        get(&self.batch.values, self.index)
    }

    /// The value as bytes.
    ///
    /// # Errors
    /// If there is none: a record that deletes its key.
    pub fn bytes(&self) -> Result<&'a [u8]> {
        self.value().ok_or_else(|| Error::msg("the record has no value"))
    }

    /// The value as text.
    ///
    /// # Errors
    /// If there is none, or it is not UTF-8.
    pub fn text(&self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::msg("the value is not UTF-8"))
    }

    /// The headers; none unless [`Columns::HEADERS`] was asked for.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + 'a {
        let headers = &self.batch.headers;
        let span = span(&headers.ends, self.index).unwrap_or(0..0);
        span.map(move |at| {
            let name =
                self::span(&headers.names.ends, at).and_then(|at| headers.names.bytes.get(at));
            let name = std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default();
            Header { name, value: get(&headers.values, at) }
        })
    }

    /// The value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|header| header.name == name).and_then(|header| header.value)
    }

    pub(crate) fn watermark(&self) -> Option<i64> {
        self.batch.watermarks.get(self.index).copied()
    }
}

/// The string at `index`, if there is one.
#[inline]
pub(crate) fn get(column: &NullableColumn, index: usize) -> Option<&[u8]> {
    let null = column.nulls.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    if null {
        return None;
    }
    column.bytes.get(span(&column.ends, index)?)
}

#[inline]
fn span(ends: &[u32], index: usize) -> Option<std::ops::Range<usize>> {
    let begin = match index {
        0 => 0,
        _ => *ends.get(index - 1)? as usize,
    };
    Some(begin..*ends.get(index)? as usize)
}
