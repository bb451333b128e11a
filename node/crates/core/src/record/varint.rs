//! Zigzag variable-length integers, as in Kafka's record batch v2 (and Protocol Buffers' `sint`).
//!
//! Seven bits per byte, least significant first; the top bit says that more follow. Nearly every
//! integer of a record fits one or two bytes, so those two cases are decided inline and everything
//! longer is out of line.

use bytes::BytesMut;

/// Most bytes of an encoded `i32`.
pub(super) const VARINT_BYTES_MAX: usize = 5;
/// Most bytes of an encoded `i64`.
pub(super) const VARLONG_BYTES_MAX: usize = 10;

/// Reads varints and byte strings off the front of a slice. Every method gives `None`, and reads
/// nothing that matters, where the slice ends early or an integer is out of range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    /// What was not read yet.
    #[inline(always)]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline(always)]
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    #[inline(always)]
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    #[inline(always)]
    pub(super) fn varint(&mut self) -> Option<i32> {
        let raw = match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => {
                self.rest = rest;
                u32::from(a)
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.rest = rest;
                u32::from(a & 0x7f) | u32::from(b) << 7
            }
            _ => u32::try_from(self.long(VARINT_BYTES_MAX)?).ok()?,
        };
        Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    #[inline(always)]
    pub(super) fn varlong(&mut self) -> Option<i64> {
        let raw = match *self.rest {
            [a, ref rest @ ..] if a < 0x80 => {
                self.rest = rest;
                u64::from(a)
            }
            [a, b, ref rest @ ..] if b < 0x80 => {
                self.rest = rest;
                u64::from(a & 0x7f) | u64::from(b) << 7
            }
            _ => self.long(VARLONG_BYTES_MAX)?,
        };
        Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A byte string behind its length; a length of -1 is null, any other negative one an error.
    #[inline(always)]
    pub(super) fn nullable_bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let count = self.varint()?;
        if count == -1 {
            return Some(None);
        }
        self.take(usize::try_from(count).ok()?).map(Some)
    }

    #[inline(always)]
    fn long(&mut self, bytes_max: usize) -> Option<u64> {
        let (value, count) = long(self.rest, bytes_max)?;
        self.rest = self.rest.get(count..)?;
        Some(value)
    }
}

/// A varint of three bytes or more, and how many it takes.
///
/// Takes and gives values, so that a cursor is never borrowed across a call and stays in
/// registers.
#[inline(never)]
fn long(bytes: &[u8], bytes_max: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(bytes_max).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        // The tenth byte has room for one bit only.
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Bytes that `value` takes.
#[inline]
pub(super) fn varint_bytes(value: i32) -> usize {
    varlong_bytes(i64::from(value))
}

/// Bytes that `value` takes.
#[inline]
pub(super) fn varlong_bytes(value: i64) -> usize {
    // (bits + 6) / 7, at least 1. Or-ing 1 makes 0 count as one bit.
    (70 - (zigzag(value) | 1).leading_zeros() as usize) / 7
}

/// A few varints, gathered in a register so that they are appended to a buffer at once: up to
/// [`Scratch::CAPACITY`] bytes, first one lowest.
///
/// In an array they would be written byte by byte and read back as a whole right after, which
/// stalls the processor; that made pushing a record three times as slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scratch {
    bits: u128,
    len: u32,
}

impl Scratch {
    /// Enough for a varlong, an attribute byte and one varint, or for three varints.
    pub(super) const CAPACITY: usize = size_of::<u128>();

    #[inline(always)]
    pub(super) fn new() -> Self {
        Scratch { bits: 0, len: 0 }
    }

    /// Appends what was gathered to `buffer`, which should have [`Scratch::CAPACITY`] to spare.
    ///
    /// Copies all of it and cuts the rest off again: a copy of constant size is one instruction,
    /// one of a variable size a call.
    #[inline(always)]
    pub(super) fn append_to(self, buffer: &mut BytesMut) {
        let end = buffer.len() + self.len as usize;
        buffer.extend_from_slice(&self.bits.to_le_bytes());
        buffer.truncate(end);
    }

    #[inline(always)]
    pub(super) fn byte(self, byte: u8) -> Self {
        self.put(u64::from(byte), 1)
    }

    /// A length, or -1 for `None`. Lengths are bounded by the caller, far below `i32::MAX`.
    #[inline(always)]
    pub(super) fn length(self, count: Option<usize>) -> Self {
        self.varlong(count.map_or(-1, |count| count as i64))
    }

    #[inline(always)]
    pub(super) fn varlong(mut self, value: i64) -> Self {
        let mut raw = zigzag(value);
        if raw < 1 << 7 {
            return self.put(raw, 1);
        }
        if raw < 1 << 14 {
            return self.put(0x80 | raw & 0x7f | (raw >> 7) << 8, 2);
        }
        while raw >= 0x80 {
            self = self.byte(raw as u8 | 0x80);
            raw >>= 7;
        }
        self.byte(raw as u8)
    }

    #[inline(always)]
    fn put(self, bytes: u64, count: u32) -> Self {
        Scratch { bits: self.bits | u128::from(bytes) << (8 * self.len), len: self.len + count }
    }
}

#[inline]
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        Scratch::new().varlong(value).append_to(&mut buffer);
        buffer.to_vec()
    }

    fn assert_reads_back(value: i64) {
        let bytes = encoded(value);
        assert_eq!(bytes.len(), varlong_bytes(value), "{value}");
        for tail in [&[][..], &[0xff; 9]] {
            let whole = [&bytes, tail].concat();
            let mut cursor = Cursor::new(&whole);
            assert_eq!(cursor.varlong(), Some(value));
            assert_eq!(cursor.rest(), tail);
            let mut cursor = Cursor::new(&whole);
            assert_eq!(cursor.varint(), i32::try_from(value).ok());
        }
        for cut in 0..bytes.len() {
            assert_eq!(Cursor::new(&bytes[..cut]).varlong(), None);
            assert_eq!(Cursor::new(&bytes[..cut]).varint(), None);
        }
    }

    /// Each length there is, at both of its ends.
    #[test]
    fn ends_of_every_length() {
        for bits in 0..64 {
            let power = 1_i64.wrapping_shl(bits);
            for near in -2..=2 {
                assert_reads_back(power.wrapping_add(near));
                assert_reads_back(power.wrapping_neg().wrapping_add(near));
            }
        }
        assert_eq!(encoded(-1), [0x01]);
        assert_eq!(encoded(63), [0x7e]);
        assert_eq!(encoded(64), [0x80, 0x01]);
        assert_eq!(encoded(300), [0xd8, 0x04]);
        assert_eq!(encoded(i64::MIN).len(), 10);
        assert_eq!(varint_bytes(i32::MIN), VARINT_BYTES_MAX);
    }

    /// Longer than need be is legal, as in the Java client; longer than the type is not.
    #[test]
    fn overlong_forms() {
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x00]).varint(), Some(0));
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).varint(), None);
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(), Some(i32::MIN));
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint(), None);
        let nine = [0xff; 9];
        assert_eq!(Cursor::new(&[&nine[..], &[0x01]].concat()).varlong(), Some(i64::MIN));
        assert_eq!(Cursor::new(&[&nine[..], &[0x02]].concat()).varlong(), None);
        assert_eq!(Cursor::new(&[0x80; 20]).varlong(), None);
    }

    proptest! {
        #[test]
        fn any_value_reads_back(value in any::<i64>(), shift in 0_u32..64) {
            assert_reads_back(value >> shift);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.varlong().is_some() {}
            let mut cursor = Cursor::new(&bytes);
            while cursor.nullable_bytes().is_some() {}
            prop_assert!(cursor.rest().len() <= bytes.len());
        }
    }
}
