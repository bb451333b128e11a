//! Cutting an input into lines, or into CSV rows, without copying them.
//!
//! A line ends at `\n` and nowhere else; a `\r` before it belongs to the line. A CSV row ends at
//! the first `\n` that is not between quotes (RFC 4180 section 2). Bytes after the last line end
//! are a line, too, marked as not terminated, so that whoever has the lines and the marks has the
//! input, byte for byte.

use std::io::{self, Read};

use bytes::Bytes;

/// What is read at once, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// One line of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1; of a row of several lines, that of the first.
    pub number: u64,
    /// The line without its `\n`; of one that is too long, its beginning.
    pub bytes: Bytes,
    /// Whether a `\n` followed.
    pub terminated: bool,
    /// The line is longer than allowed and its rest was dropped.
    pub too_long: bool,
}

/// Cuts `input`.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    /// What counts as a row: `"` protects a `\n`.
    quotes: bool,
    bytes_max: usize,
    /// The beginning of a line whose end was not read yet.
    carry: Vec<u8>,
    /// How much of `carry` was searched already, and in which state that left the search.
    searched: usize,
    in_quotes: bool,
    /// The line being read is too long; it was handed out and the rest of it is dropped.
    dropping: bool,
    number: u64,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `bytes_max` bytes.
    pub fn new(input: R, bytes_max: usize) -> Self {
        Lines {
            input,
            quotes: false,
            bytes_max,
            carry: Vec::new(),
            searched: 0,
            in_quotes: false,
            dropping: false,
            number: 1,
            ended: false,
        }
    }

    /// CSV rows of at most `bytes_max` bytes.
    pub fn rows(input: R, bytes_max: usize) -> Self {
        Lines { quotes: true, ..Lines::new(input, bytes_max) }
    }

    /// Reads once and appends the lines that this completes to `out`, perhaps none. False at the
    /// end of the input, for ever after.
    ///
    /// # Errors
    /// The input's.
    pub fn read_more(&mut self, out: &mut Vec<Line>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let mut buffer = std::mem::take(&mut self.carry);
        let before = buffer.len();
        buffer.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        buffer.truncate(before + read);
        self.cut(Bytes::from(buffer), out);
        if read == 0 {
            self.ended = true;
            self.finish(out);
        }
        Ok(read > 0)
    }

    /// Hands out the complete lines of `buffer` and keeps the rest.
    fn cut(&mut self, buffer: Bytes, out: &mut Vec<Line>) {
        let mut start = 0;
        let mut at = self.searched;
        while let Some(end) = self.find_end(&buffer, &mut at) {
            self.emit(buffer.slice(start..end), true, out);
            start = end + 1;
            at = start;
        }
        self.carry = buffer[start..].to_vec();
        if self.dropping {
            self.carry.clear();
        } else if self.carry.len() > self.bytes_max {
            self.emit_too_long(out);
        }
        self.searched = self.carry.len();
    }

    /// The next line end at or after `at`, which is left behind what was searched.
    fn find_end(&mut self, buffer: &[u8], at: &mut usize) -> Option<usize> {
        if !self.quotes {
            let found = buffer[*at..].iter().position(|&byte| byte == b'\n');
            let end = found.map(|n| *at + n);
            *at = buffer.len();
            return end;
        }
        for (index, byte) in buffer.iter().enumerate().skip(*at) {
            match byte {
                b'"' => self.in_quotes = !self.in_quotes,
                b'\n' if !self.in_quotes => {
                    *at = index;
                    return Some(index);
                }
                _ => {}
            }
        }
        *at = buffer.len();
        None
    }

    fn emit(&mut self, bytes: Bytes, terminated: bool, out: &mut Vec<Line>) {
        let inner = bytes.iter().filter(|&&byte| self.quotes && byte == b'\n').count() as u64;
        let number = self.number;
        self.number += 1 + inner;
        if std::mem::take(&mut self.dropping) {
            return;
        }
        let too_long = bytes.len() > self.bytes_max;
        let bytes = if too_long { bytes.slice(..self.bytes_max) } else { bytes };
        out.push(Line { number, bytes, terminated, too_long });
    }

    /// The line in `carry` is too long already: hands out its beginning and drops what follows.
    fn emit_too_long(&mut self, out: &mut Vec<Line>) {
        let bytes = Bytes::copy_from_slice(&self.carry[..self.bytes_max]);
        out.push(Line { number: self.number, bytes, terminated: true, too_long: true });
        self.carry = Vec::new();
        self.dropping = true;
        // A quote that is never closed must not swallow the whole input.
        self.in_quotes = false;
    }

    /// The input has ended: what is left is the last line.
    fn finish(&mut self, out: &mut Vec<Line>) {
        let rest = std::mem::take(&mut self.carry);
        if !rest.is_empty() {
            self.emit(Bytes::from(rest), false, out);
        }
    }
}

/// Cuts one CSV row into its fields, quotes taken off. `row` has no line end; a `\r` at its end
/// does not count.
pub fn fields(row: &[u8], delimiter: u8) -> Vec<Vec<u8>> {
    let row = row.strip_suffix(b"\r").unwrap_or(row);
    let mut fields = vec![Vec::new()];
    let mut in_quotes = false;
    let mut bytes = row.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let field = fields.last_mut().expect("never empty");
        match byte {
            // Two quotes within quotes stand for one.
            b'"' if in_quotes && bytes.peek() == Some(&b'"') => {
                bytes.next();
                field.push(b'"');
            }
            b'"' => in_quotes = !in_quotes,
            _ if byte == delimiter && !in_quotes => fields.push(Vec::new()),
            _ => field.push(byte),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of `n`.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all<R: Read>(mut lines: Lines<R>) -> Vec<Line> {
        let mut out = Vec::new();
        while lines.read_more(&mut out).unwrap() {}
        assert!(!lines.read_more(&mut out).unwrap());
        out
    }

    fn joined(lines: &[Line]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            out.extend_from_slice(&line.bytes);
            out.extend_from_slice(if line.terminated { b"\n" } else { b"" });
        }
        out
    }

    /// Goal: however the bytes arrive, lines and marks give back the input exactly.
    #[test]
    fn lines_and_marks_are_the_input() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\n",
            b"a",
            b"a\n",
            b"a\r\n\r\nb\r\nlast",
            b"\n\n\0\xff\n",
            b"x,\"a\nb\"\"\n\",y\nz\n",
            b"one\ntwo\nthree\n\r",
        ];
        for input in inputs {
            for piece in [1, 2, 3, 100] {
                let lines = all(Lines::new(Drip(input, piece), 100));
                assert_eq!(joined(&lines), input);
                assert!(lines.iter().all(|line| !line.bytes.contains(&b'\n')));
                assert!(lines.iter().enumerate().all(|(n, line)| line.number == n as u64 + 1));
                let rows = all(Lines::rows(Drip(input, piece), 100));
                assert_eq!(joined(&rows), input);
            }
        }
    }

    /// Goal: quotes keep a row together, and line numbers count lines, not rows.
    #[test]
    fn rows_hold_quoted_line_ends() {
        let input = b"k,v\n1,\"a\nb\"\n2,c\n";
        for piece in [1, 4, 100] {
            let rows = all(Lines::rows(Drip(input, piece), 100));
            let seen: Vec<_> = rows.iter().map(|row| (row.number, &row.bytes[..])).collect();
            assert_eq!(seen, [(1, &b"k,v"[..]), (2, b"1,\"a\nb\""), (4, b"2,c")]);
        }
    }

    /// Goal: a line over the limit is handed out once, cut and marked, and the next is whole.
    #[test]
    fn too_long_lines_are_cut() {
        for piece in [1, 7, 100] {
            let lines = all(Lines::new(Drip(b"ok\n0123456789\nfine\n0123456", piece), 4));
            let seen: Vec<_> = lines.iter().map(|l| (l.number, &l.bytes[..], l.too_long)).collect();
            let want: [(u64, &[u8], bool); 4] =
                [(1, b"ok", false), (2, b"0123", true), (3, b"fine", false), (4, b"0123", true)];
            assert_eq!(seen, want);
        }
    }

    #[test]
    fn fields_of_a_row() {
        let text = |row: &[u8]| -> Vec<String> {
            fields(row, b',').into_iter().map(|f| String::from_utf8(f).unwrap()).collect()
        };
        assert_eq!(text(b""), [""]);
        assert_eq!(text(b"a,,b\r"), ["a", "", "b"]);
        assert_eq!(text(b"\"a,\"\"b\"\"\",c\nd"), ["a,\"b\"", "c\nd"]);
        assert_eq!(fields(b"a;b,c", b';').len(), 2);
    }
}
