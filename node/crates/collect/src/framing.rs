//! Cuts a stream of bytes into lines, with a bound on the length of a line.

use crate::limits::LINE_BYTES_MAX;

/// One line, its line end (`\n` or `\r\n`) removed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub bytes: &'a [u8],
    /// The line was longer than the bound; `bytes` is its start.
    pub overlong: bool,
    /// Offset of the line's first byte in the stream.
    pub start: u64,
    /// Offset behind its line end.
    pub end: u64,
}

/// Splits chunks into lines. Holds at most one line of [`LINE_BYTES_MAX`] bytes.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
    /// The current line is longer than the bound, so further bytes of it are dropped.
    overlong: bool,
    line_start: u64,
    offset: u64,
    bytes_max: usize,
}

impl LineSplitter {
    pub(crate) fn new() -> Self {
        Self::with_limit(LINE_BYTES_MAX)
    }

    fn with_limit(bytes_max: usize) -> Self {
        Self { partial: Vec::new(), overlong: false, line_start: 0, offset: 0, bytes_max }
    }

    /// Starts anew at `offset` of another stream, forgetting an unfinished line.
    pub(crate) fn begin(&mut self, offset: u64) {
        self.partial.clear();
        self.overlong = false;
        self.line_start = offset;
        self.offset = offset;
    }

    /// Offset of the first byte that no yielded line covers.
    pub(crate) fn line_start(&self) -> u64 {
        self.line_start
    }

    /// Feeds `chunk`, calling `each` for every line that it finishes.
    pub(crate) fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = chunk;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = rest.split_at(at + 1);
            rest = after;
            self.offset += line.len() as u64;
            let body = &line[..at];
            if self.partial.is_empty() && !self.overlong && body.len() <= self.bytes_max {
                let start = self.line_start;
                each(Line { bytes: trim_cr(body), overlong: false, start, end: self.offset });
            } else {
                self.extend(body);
                self.yield_partial(&mut each);
            }
            self.line_start = self.offset;
        }
        self.offset += rest.len() as u64;
        self.extend(rest);
    }

    /// The stream ends: an unterminated last line is a line.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if self.line_start < self.offset {
            self.yield_partial(&mut each);
            self.line_start = self.offset;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = self.bytes_max - self.partial.len();
        self.overlong |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn yield_partial(&mut self, each: &mut impl FnMut(Line<'_>)) {
        let bytes = if self.overlong { &self.partial[..] } else { trim_cr(&self.partial) };
        let (start, end) = (self.line_start, self.offset);
        each(Line { bytes, overlong: self.overlong, start, end });
        self.partial.clear();
        self.overlong = false;
    }
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = (Vec<u8>, bool, u64, u64);

    fn split(chunks: &[&[u8]], limit: usize) -> Vec<Seen> {
        let mut splitter = LineSplitter::with_limit(limit);
        let mut seen = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |l| seen.push((l.bytes.to_vec(), l.overlong, l.start, l.end)));
        }
        splitter.finish(|l| seen.push((l.bytes.to_vec(), l.overlong, l.start, l.end)));
        seen
    }

    /// However the bytes are chunked, the lines and their offsets are the same.
    #[test]
    fn chunking_does_not_matter() {
        let text = b"one\r\n\ntwo\nthree\r\nlast";
        let whole = split(&[text], 100);
        assert_eq!(
            whole,
            vec![
                (b"one".to_vec(), false, 0, 5),
                (b"".to_vec(), false, 5, 6),
                (b"two".to_vec(), false, 6, 10),
                (b"three".to_vec(), false, 10, 17),
                (b"last".to_vec(), false, 17, 21),
            ]
        );
        for size in 1..text.len() {
            assert_eq!(split(&text.chunks(size).collect::<Vec<_>>(), 100), whole, "size {size}");
        }
    }

    /// A line beyond the bound is cut once, and the next line is whole again.
    #[test]
    fn an_overlong_line_is_cut() {
        let text = b"0123456789abcdef\nok\n";
        for size in 1..=text.len() {
            let seen = split(&text.chunks(size).collect::<Vec<_>>(), 8);
            assert_eq!(
                seen,
                vec![(b"01234567".to_vec(), true, 0, 17), (b"ok".to_vec(), false, 17, 20)],
                "size {size}"
            );
        }
        assert_eq!(split(&[b"12345678\n"], 8), vec![(b"12345678".to_vec(), false, 0, 9)]);
    }
}
