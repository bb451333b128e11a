//! Records: parsing them out of a batch, and what they look like outside of one.

use super::varint::Cursor;
use super::{BatchError, BatchHeader};
use crate::ids::{Offset, TimestampMs};
use crate::limits;
use bytes::Bytes;
use std::fmt;
use std::iter::FusedIterator;

/// The records of one batch, unpacked and checked. Shares the batch's memory where the batch is
/// not compressed.
#[derive(Clone)]
pub struct Records {
    pub(super) base_offset: Offset,
    pub(super) base_timestamp: TimestampMs,
    pub(super) count: u32,
    pub(super) bytes: Bytes,
}

impl Records {
    /// No records.
    #[must_use]
    pub fn empty() -> Records {
        let (base_offset, base_timestamp) = (Offset::ZERO, TimestampMs::default());
        Records { base_offset, base_timestamp, count: 0, bytes: Bytes::new() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none; never so for those of a decoded batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that they take unpacked, lengths included.
    #[must_use]
    pub fn unpacked_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Each record in turn, borrowed. Allocates nothing.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            cursor: Cursor::new(&self.bytes),
            base_offset: self.base_offset,
            base_timestamp: self.base_timestamp,
            index: 0,
            count: self.count,
        }
    }

    /// Each record with the bytes that it takes in the batch.
    pub(super) fn iter_raw(&self) -> impl Iterator<Item = (RecordView<'_>, &[u8])> {
        let mut iter = self.iter();
        std::iter::from_fn(move || {
            let before = iter.cursor.rest();
            let view = iter.next()?;
            Some((view, &before[..before.len() - iter.cursor.rest().len()]))
        })
    }

    /// Each record in turn with its offset. Keys, values and headers are slices that keep the
    /// whole batch in memory: copy what is to stay for long. Each slice counts one more reference
    /// and takes some ten times as long as borrowing it: prefer [`Records::iter`] where that does.
    pub fn iter_shared(&self) -> impl ExactSizeIterator<Item = (Offset, Record)> + '_ {
        self.iter().map(|view| (view.offset, view.to_record(self)))
    }
}

impl<'a> IntoIterator for &'a Records {
    type Item = RecordView<'a>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

impl IntoIterator for Records {
    type Item = (Offset, Record);
    type IntoIter = IntoRecords;

    fn into_iter(self) -> IntoRecords {
        IntoRecords { records: self, index: 0, at: 0 }
    }
}

/// Without the records, which may be megabytes.
impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("base_offset", &self.base_offset)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// Iterator over the records of a batch that needs no borrow of it, and so may wait between them.
/// Yields what [`Records::iter_shared`] does.
#[derive(Clone, Debug)]
pub struct IntoRecords {
    records: Records,
    index: u32,
    /// Where the next record begins.
    at: usize,
}

impl Iterator for IntoRecords {
    type Item = (Offset, Record);

    fn next(&mut self) -> Option<(Offset, Record)> {
        let rest = self.records.bytes.get(self.at..)?;
        let mut iter =
            RecordIter { cursor: Cursor::new(rest), index: self.index, ..self.records.iter() };
        let view = iter.next()?;
        self.at += rest.len() - iter.cursor.rest().len();
        self.index += 1;
        Some((view.offset, view.to_record(&self.records)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = (self.records.count - self.index) as usize;
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for IntoRecords {}
impl FusedIterator for IntoRecords {}

/// Iterator over the records of a batch.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    cursor: Cursor<'a>,
    base_offset: Offset,
    base_timestamp: TimestampMs,
    index: u32,
    count: u32,
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = RecordView<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordView<'a>> {
        if self.index == self.count {
            return None;
        }
        let parsed = RawRecord::parse(&mut self.cursor);
        debug_assert!(parsed.is_ok(), "walked before");
        let Ok(raw) = parsed else {
            self.count = self.index;
            return None;
        };
        // Checked by the walk: not negative.
        let offset = self.base_offset.plus(raw.offset_delta.cast_unsigned());
        self.index += 1;
        Some(RecordView {
            offset,
            timestamp: raw.timestamp(self.base_timestamp),
            key: raw.key,
            value: raw.value,
            headers: Headers { cursor: Cursor::new(raw.headers), remaining: raw.header_count },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = (self.count - self.index) as usize;
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for RecordIter<'_> {}
impl FusedIterator for RecordIter<'_> {}

/// One record, borrowed from its batch.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Event time, from the producer.
    pub timestamp: TimestampMs,
    /// What orders and partitions it, if anything.
    pub key: Option<&'a [u8]>,
    /// The payload; none says that the key is deleted.
    pub value: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> RecordView<'a> {
    /// Its headers, in the producer's order. Names may repeat.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.headers.clone()
    }

    /// The record as slices of `records`, which it must come from: what lies elsewhere is copied.
    #[must_use]
    pub fn to_record(&self, records: &Records) -> Record {
        let share = |slice: &[u8]| share(&records.bytes, slice);
        let headers = self.headers().map(|header| Header {
            name: HeaderName(share(header.name.as_bytes())),
            value: header.value.map(share),
        });
        Record {
            timestamp: self.timestamp,
            key: self.key.map(share),
            value: self.value.map(share),
            headers: headers.collect(),
        }
    }
}

/// The part of `whole` that `part` is, or a copy of `part` if it is none.
fn share(whole: &Bytes, part: &[u8]) -> Bytes {
    let at = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    let end = at.checked_add(part.len());
    if end.is_some_and(|end| end <= whole.len()) {
        return whole.slice(at..at + part.len());
    }
    Bytes::copy_from_slice(part)
}

/// Iterator over the headers of a record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    remaining: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<HeaderView<'a>> {
        if self.remaining == 0 {
            return None;
        }
        let parsed = HeaderView::parse(&mut self.cursor);
        debug_assert!(parsed.is_ok(), "walked before");
        self.remaining = if parsed.is_ok() { self.remaining - 1 } else { 0 };
        parsed.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}
impl FusedIterator for Headers<'_> {}

/// One header of a record, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// The name, at most [`limits::NAME_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// A record on its own: as it is produced, or taken out of a batch. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Event time, from the producer.
    pub timestamp: TimestampMs,
    /// What orders and partitions it, if anything.
    pub key: Option<Bytes>,
    /// The payload; none says that the key is deleted.
    pub value: Option<Bytes>,
    /// Further named values. Names may repeat.
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes of key, value and headers: what [`limits::RECORD_BYTES_MAX`] bounds.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|header| header.name.len() + length(&header.value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}

fn length(bytes: &Option<Bytes>) -> usize {
    bytes.as_ref().map_or(0, Bytes::len)
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: HeaderName,
    /// The value.
    pub value: Option<Bytes>,
}

impl Header {
    /// The header, borrowed.
    #[must_use]
    pub fn view(&self) -> HeaderView<'_> {
        HeaderView { name: &self.name, value: self.value.as_deref() }
    }
}

/// The name of a header: UTF-8. May share a batch's memory.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct HeaderName(Bytes);

impl HeaderName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Checked on the way in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::ops::Deref for HeaderName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&'static str> for HeaderName {
    fn from(name: &'static str) -> Self {
        HeaderName(Bytes::from_static(name.as_bytes()))
    }
}

impl From<String> for HeaderName {
    fn from(name: String) -> Self {
        HeaderName(Bytes::from(name))
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

/// One record as it lies in a batch. Its headers are not looked at yet.
#[derive(Debug)]
struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: u32,
    headers: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes one record off `cursor`.
    #[inline(always)]
    fn parse(cursor: &mut Cursor<'a>) -> Result<RawRecord<'a>, &'static str> {
        // A copy, so that the compiler keeps it in registers.
        let mut whole = *cursor;
        let length = whole.varint().ok_or("its length is cut off or too long")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let body = whole.take(length).ok_or("it reaches past the end of the batch")?;
        *cursor = whole;
        let mut body = Cursor::new(body);
        if body.byte().ok_or("it is empty")? != 0 {
            return Err("it has attributes, of which none are defined");
        }
        let timestamp_delta = body.varlong().ok_or("its timestamp is cut off or too long")?;
        let offset_delta = body.varint().ok_or("its offset is cut off or too long")?;
        let key = body.nullable_bytes().ok_or("its key reaches past its end")?;
        let value = body.nullable_bytes().ok_or("its value reaches past its end")?;
        let header_count = body.varint().ok_or("its header count is cut off or too long")?;
        let header_count =
            u32::try_from(header_count).map_err(|_| "it has fewer than 0 headers")?;
        let headers = body.rest();
        Ok(RawRecord { timestamp_delta, offset_delta, key, value, header_count, headers })
    }

    /// The sum wraps, as in the Java client: so every timestamp survives, whatever the base.
    #[inline]
    fn timestamp(&self, base: TimestampMs) -> TimestampMs {
        TimestampMs(base.0.wrapping_add(self.timestamp_delta))
    }
}

impl<'a> HeaderView<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<HeaderView<'a>, &'static str> {
        let name = cursor.nullable_bytes().ok_or("a header name reaches past its end")?;
        let name = name.ok_or("a header has no name")?;
        let name = std::str::from_utf8(name).map_err(|_| "a header name is not UTF-8")?;
        let value = cursor.nullable_bytes().ok_or("a header value reaches past its end")?;
        Ok(HeaderView { name, value })
    }
}

/// Walks all records of a batch and checks each. Returns the newest timestamp.
pub(super) fn walk(bytes: &[u8], header: &BatchHeader) -> Result<TimestampMs, BatchError> {
    let mut cursor = Cursor::new(bytes);
    let mut newest = TimestampMs(i64::MIN);
    // How many offsets may be missing before the next record.
    let mut holes = header.last_offset_delta - (header.record_count - 1);
    let mut expected = 0_u32;
    for index in 0..header.record_count {
        let raw = RawRecord::parse(&mut cursor)
            .map_err(|what| BatchError::RecordMalformed { index, what })?;
        let delta = raw.offset_delta;
        let skipped = u32::try_from(delta).ok().and_then(|delta| delta.checked_sub(expected));
        let Some(left) = skipped.and_then(|skipped| holes.checked_sub(skipped)) else {
            return Err(BatchError::OffsetsNotDense { index, delta });
        };
        (holes, expected) = (left, delta.cast_unsigned() + 1);
        check_payload(&raw, index)?;
        newest = newest.max(raw.timestamp(header.base_timestamp));
    }
    match cursor.rest().len() {
        0 => Ok(newest),
        extra => Err(BatchError::RecordsTrailing { extra }),
    }
}

/// Checks headers and size of a record.
#[inline]
fn check_payload(raw: &RawRecord<'_>, index: u32) -> Result<(), BatchError> {
    let mut bytes = raw.key.map_or(0, <[u8]>::len) + raw.value.map_or(0, <[u8]>::len);
    if raw.header_count != 0 || !raw.headers.is_empty() {
        bytes += check_headers(raw).map_err(|what| BatchError::RecordMalformed { index, what })?;
    }
    if bytes > limits::RECORD_BYTES_MAX {
        return Err(BatchError::RecordTooLarge { index, bytes, max: limits::RECORD_BYTES_MAX });
    }
    Ok(())
}

/// Checks the headers of a record. Returns the bytes of their names and values.
fn check_headers(raw: &RawRecord<'_>) -> Result<usize, &'static str> {
    if raw.header_count as usize > limits::RECORD_HEADERS_MAX {
        return Err("it has too many headers");
    }
    let mut cursor = Cursor::new(raw.headers);
    let mut bytes = 0;
    for _ in 0..raw.header_count {
        let header = HeaderView::parse(&mut cursor)?;
        if header.name.len() > limits::NAME_BYTES_MAX {
            return Err("a header name is too long");
        }
        bytes += header.name.len() + header.value.map_or(0, <[u8]>::len);
    }
    if cursor.rest().is_empty() { Ok(bytes) } else { Err("bytes follow its last header") }
}
