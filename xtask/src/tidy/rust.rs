//! Just enough of Rust's grammar to measure it: strings and comments blanked out, the ranges of
//! test modules, and the lengths of functions.

use std::ops::Range;

/// A source file, read for measuring.
pub struct Source<'a> {
    /// The text as it is.
    pub text: &'a str,
    /// The same length in bytes, with the contents of strings, characters and comments blank.
    pub code: String,
    /// Line numbers, from 0, that belong to `#[cfg(test)]` modules.
    pub test_lines: Vec<Range<usize>>,
}

/// A function and how long it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of the `fn`, from 0.
    pub line: usize,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
}

impl<'a> Source<'a> {
    /// Reads `text`. Never fails: what is not Rust measures as something.
    pub fn new(text: &'a str) -> Source<'a> {
        let code = mask(text);
        let test_lines = test_lines(&code);
        Source { text, code, test_lines }
    }

    /// Whether a line, from 0, is part of a test module.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// Lines outside test modules.
    pub fn lines_without_tests(&self) -> usize {
        self.text.lines().count()
            - self.test_lines.iter().map(ExactSizeIterator::len).sum::<usize>()
    }

    /// All functions that have a body, nested ones too.
    pub fn functions(&self) -> Vec<Function> {
        let code = self.code.as_bytes();
        let mut functions = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            if at > 0 && is_word(code[at - 1]) {
                continue;
            }
            let name: String = self.code[at + 3..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some(body) = body(code, at + 3) else { continue };
            if name.is_empty() {
                continue;
            }
            let line = line_of(&self.code, at);
            functions.push(Function {
                name,
                line,
                lines: line_of(&self.code, body.end) - line + 1,
            });
        }
        functions
    }
}

/// Whether `byte` may stand in an identifier.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The body of an item whose signature begins at `from`: `{` to its `}`. `None` if a `;` ends it.
fn body(code: &[u8], from: usize) -> Option<Range<usize>> {
    let mut depth = 0usize;
    let mut at = from;
    let open = loop {
        match code.get(at)? {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => break at,
            b';' if depth == 0 => return None,
            _ => {}
        }
        at += 1;
    };
    let mut braces = 0usize;
    for (at, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => braces += 1,
            b'}' if braces == 1 => return Some(open..at),
            b'}' => braces -= 1,
            _ => {}
        }
    }
    None
}

fn test_lines(code: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let begin = line_of(code, at);
        let after = at + attribute.len();
        let end = match body(code.as_bytes(), after) {
            Some(body) => line_of(code, body.end) + 1,
            None => begin + 2,
        };
        if ranges.last().is_none_or(|last| last.end <= begin) {
            ranges.push(begin..end.min(code.lines().count()));
        }
    }
    ranges
}

/// Blanks the contents of comments, strings and characters; newlines stay.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (skip, blank) = match token(bytes, at) {
            Token::Code => (1, 0..0),
            Token::Blank { len, quotes } => (len, quotes..len.saturating_sub(quotes)),
        };
        for byte in &mut out[at + blank.start..at + blank.end.max(blank.start)] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += skip;
    }
    // Whole characters were blanked or kept, so this is text still.
    String::from_utf8_lossy(&out).into_owned()
}

enum Token {
    Code,
    /// `len` bytes, of which all but `quotes` at each end are blanked.
    Blank {
        len: usize,
        quotes: usize,
    },
}

fn token(bytes: &[u8], at: usize) -> Token {
    let rest = &bytes[at..];
    let fresh = at == 0 || !is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        return Token::Blank { len, quotes: 0 };
    }
    if rest.starts_with(b"/*") {
        return Token::Blank { len: block_comment(rest), quotes: 0 };
    }
    if let Some(len) = raw_string(rest).filter(|_| fresh) {
        return Token::Blank { len, quotes: 0 };
    }
    if rest[0] == b'"' {
        return Token::Blank { len: quoted(rest, b'"'), quotes: 1 };
    }
    // A lifetime is a quote and a name without a closing quote after one character.
    let character = rest[0] == b'\''
        && (rest.get(1) == Some(&b'\\')
            || char_len(rest).is_some_and(|n| rest.get(1 + n) == Some(&b'\'')));
    if character {
        return Token::Blank { len: quoted(rest, b'\''), quotes: 1 };
    }
    Token::Code
}

fn char_len(rest: &[u8]) -> Option<usize> {
    let first = *rest.get(1)?;
    Some(match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    })
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a raw string, `r"..."` or `br#"..."#` and so on, if one begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let end = rest[open + 1..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| open + 1 + end + close.len()))
}

/// The length of what stands between `quote`s, both included; a backslash escapes.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what looks like code inside strings and comments does not count, and what follows
    /// them does.
    #[test]
    fn strings_and_comments_are_blank() {
        let text = concat!(
            "let a = \"x } \\\" y\"; // z {\n",
            "/* { /* nested */ } */ let b = 'q'; let c: &'static str = r#\"}\"#;\n",
            "let d = '\\''; let e = b\"{\"; let é = 'é';\n",
        );
        let code = mask(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), 3);
        for word in ["x }", "z", "nested", "q"] {
            assert!(!code.contains(word), "{word} in {code}");
        }
        assert!(!code.contains('{') && !code.contains('}'), "{code}");
        for word in ["let a", "let b", "&'static str", "let c", "let d", "let e", "let é"] {
            assert!(code.contains(word), "{word} not in {code}");
        }
    }

    /// Goal: functions are measured from `fn` to `}`, whatever their signature holds.
    #[test]
    fn functions_and_test_modules_are_measured() {
        let text = "\
trait T {
    fn declared(&self) -> [u8; 4];
}
fn one() {}
pub fn three(f: fn (u8) -> u8, x: [u8; 3])
where
    u8: Copy {
    if true { one() }
}
#[cfg(test)]
mod tests {
    fn inner() {
    }
}
";
        let source = Source::new(text);
        let found: Vec<_> =
            source.functions().iter().map(|f| (f.name.clone(), f.line, f.lines)).collect();
        let expected = [("one", 3, 1), ("three", 4, 5), ("inner", 11, 2)];
        assert_eq!(found, expected.map(|(name, line, lines)| (name.to_owned(), line, lines)));
        assert_eq!(source.test_lines.len(), 1);
        assert_eq!(source.test_lines[0], 9..14);
        assert_eq!(source.lines_without_tests(), 9);
        assert!(source.is_test_line(11) && !source.is_test_line(8));
    }
}
