//! One line: tag blocks, frame and checksum of an NMEA-0183 sentence.
//!
//! ```text
//! \s:2573238,c:1733782034*0A\!BSVDM,1,1,,A,13o4g`00000I2ENRH4g83S0L088C,0*3F
//! '-------- tag block ------''----------------- sentence -----------------'
//! $GPGLL,5310.8115,N,00525.7025,E,195719,A,A*4D
//!  '' talker                                '' checksum: XOR of all bytes between $ and *
//!    '-' kind
//! ```
//!
//! Source: NMEA 0183 version 4.10 as described in Eric S. Raymond, "NMEA Revealed".

use crate::limits::{DEVICE_NAME_BYTES_MAX, SENTENCE_BYTES_MAX};

/// A sentence whose checksum fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sentence<'a> {
    /// Encapsulated (`!`, as AIS is) instead of plain (`$`).
    pub encapsulated: bool,
    /// All before the first comma: talker and kind, `GPGLL`.
    pub address: &'a str,
    /// Who speaks: `GP`, `GN`, `AI`; `P` for proprietary sentences.
    pub talker: &'a str,
    /// What is said: `GLL`, `VDM`; for proprietary sentences the rest of the address.
    pub kind: &'a str,
    /// What follows the first comma, up to the `*`.
    pub data: &'a str,
}

/// What the tag blocks before a sentence say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagBlock<'a> {
    /// `s`: the source.
    pub source: Option<&'a str>,
    /// `c`: when it was received, in milliseconds since 1970 (the block may say seconds or
    /// milliseconds).
    pub time_ms: Option<i64>,
}

/// Why a line is no sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SentenceError {
    /// It does not start with `$`, `!` or a tag block.
    #[error("it does not start with $ or !")]
    NotASentence,
    /// It is longer than [`SENTENCE_BYTES_MAX`].
    #[error("it is longer than {SENTENCE_BYTES_MAX} bytes")]
    TooLong,
    /// Its first `*` is not followed by two hexadecimal digits and the end.
    #[error("it has no checksum")]
    NoChecksum {
        /// What probably happened to it.
        damage: Damage,
    },
    /// The checksum is not that of the bytes.
    #[error("the checksum is {stated:02X}, but the bytes give {computed:02X}")]
    Checksum {
        /// What the sentence states.
        stated: u8,
        /// What it should.
        computed: u8,
        /// What probably happened to it.
        damage: Damage,
    },
    /// The checksum fits, but control or non-ASCII bytes are inside, or the address is none.
    #[error("it is malformed")]
    Malformed,
    /// A tag block does not end, or its checksum does not fit.
    #[error("its tag block is damaged")]
    TagBlock,
}

/// What probably happened to a sentence whose checksum is wrong or missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Control bytes, NUL among them, are inside: it was cut off by a reset.
    ControlBytes,
    /// Another `$` or `!` is inside: two sentences ran into each other.
    Merged,
    /// Nothing to be seen.
    Unknown,
}

impl SentenceError {
    /// The name under which it is counted.
    pub fn reason(self) -> &'static str {
        match self {
            SentenceError::NotASentence => "not-a-sentence",
            SentenceError::TooLong => "sentence-too-long",
            SentenceError::NoChecksum { damage: Damage::Unknown } => "no-checksum",
            SentenceError::Checksum { damage: Damage::Unknown, .. } => "checksum",
            SentenceError::NoChecksum { damage } | SentenceError::Checksum { damage, .. } => {
                match damage {
                    Damage::ControlBytes => "control-bytes",
                    Damage::Merged => "merged",
                    Damage::Unknown => "checksum",
                }
            }
            SentenceError::Malformed => "malformed",
            SentenceError::TagBlock => "tag-block",
        }
    }
}

/// XOR of all bytes: the checksum of what stands between `$` (or `!`, or `\`) and `*`.
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// Parses a line without its line end. Blanks after the checksum are tolerated.
///
/// # Errors
/// [`SentenceError`] if any part of it does not hold.
pub fn parse_line(line: &[u8]) -> Result<(TagBlock<'_>, Sentence<'_>), SentenceError> {
    if line.len() > SENTENCE_BYTES_MAX {
        return Err(SentenceError::TooLong);
    }
    let mut tag = TagBlock::default();
    let mut rest = line;
    while let Some(inside) = rest.strip_prefix(b"\\") {
        let end = inside.iter().position(|&byte| byte == b'\\').ok_or(SentenceError::TagBlock)?;
        parse_tag_block(&inside[..end], &mut tag).ok_or(SentenceError::TagBlock)?;
        rest = &inside[end + 1..];
    }
    Ok((tag, parse_sentence(rest.trim_ascii_end())?))
}

fn parse_sentence(line: &[u8]) -> Result<Sentence<'_>, SentenceError> {
    let encapsulated = match line.first() {
        Some(b'$') => false,
        Some(b'!') => true,
        _ => return Err(SentenceError::NotASentence),
    };
    let inside = &line[1..];
    let Some((body, stated)) = split_checksum(inside) else {
        return Err(SentenceError::NoChecksum { damage: damage_of(inside) });
    };
    let computed = checksum(body);
    if stated != computed {
        let damage = damage_of(inside);
        return Err(SentenceError::Checksum { stated, computed, damage });
    }
    let body = printable(body).ok_or(SentenceError::Malformed)?;
    let (address, data) = body.split_once(',').unwrap_or((body, ""));
    let is_name = address.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name || !(3..=12).contains(&address.len()) {
        return Err(SentenceError::Malformed);
    }
    let (talker, kind) = address.split_at(if address.starts_with('P') { 1 } else { 2 });
    Ok(Sentence { encapsulated, address, talker, kind, data })
}

/// Splits `body*hh`. A `*` can only be the one before the checksum.
fn split_checksum(text: &[u8]) -> Option<(&[u8], u8)> {
    let star = text.iter().position(|&byte| byte == b'*')?;
    let digits = std::str::from_utf8(&text[star + 1..]).ok()?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((&text[..star], u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?))
}

fn printable(bytes: &[u8]) -> Option<&str> {
    let is_printable = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    std::str::from_utf8(bytes).ok().filter(|_| is_printable)
}

fn damage_of(inside: &[u8]) -> Damage {
    if inside.iter().any(|byte| byte.is_ascii_control()) {
        Damage::ControlBytes
    } else if inside.iter().any(|byte| b"$!".contains(byte)) {
        Damage::Merged
    } else {
        Damage::Unknown
    }
}

/// Reads the fields of one block; later blocks win. Fields that are not known are left alone.
fn parse_tag_block<'a>(block: &'a [u8], tag: &mut TagBlock<'a>) -> Option<()> {
    let (body, stated) = split_checksum(block)?;
    if checksum(body) != stated {
        return None;
    }
    for field in printable(body)?.split(',') {
        match field.split_once(':') {
            Some(("s", source)) if (1..=DEVICE_NAME_BYTES_MAX).contains(&source.len()) => {
                tag.source = Some(source);
            }
            Some(("c", time)) => tag.time_ms = Some(parse_tag_time(time)?),
            _ => {}
        }
    }
    Some(())
}

/// Seconds since 1970, or milliseconds if it is too large for seconds.
fn parse_tag_time(text: &str) -> Option<i64> {
    let is_number = (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let time: i64 = text.parse().ok().filter(|_| is_number)?;
    Some(if time < 100_000_000_000 { time * 1_000 } else { time })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a good line.
    #[test]
    fn parts() {
        let line = br"\s:2573238,c:1733782034*0A\!BSVDM,1,1,,A,13o4g`00000I2ENRH4g83S0L088C,0*3F";
        let (tag, sentence) = parse_line(line).unwrap();
        assert_eq!(tag.source, Some("2573238"));
        assert_eq!(tag.time_ms, Some(1_733_782_034_000));
        assert!(sentence.encapsulated);
        assert_eq!((sentence.talker, sentence.kind), ("BS", "VDM"));
        assert_eq!(sentence.data, "1,1,,A,13o4g`00000I2ENRH4g83S0L088C,0");
        let (_, own) = parse_line(b"$PLCS,A*61 ").unwrap();
        assert_eq!((own.talker, own.kind, own.data), ("P", "LCS", "A"));
    }

    /// Every kind of damage has its own name.
    #[test]
    fn damage_is_named() {
        let sum = |body: &str| format!("${body}*{:02X}", checksum(body.as_bytes()));
        let own = |line: &[u8]| parse_line(line).map(|_| ()).map_err(SentenceError::reason);
        for (line, reason) in [
            (&b""[..], "not-a-sentence"),
            (b",,,*1E", "not-a-sentence"),
            (b"$", "no-checksum"),
            (b"$GPGLL,1*", "no-checksum"),
            (b"$GPGLL,1*+1", "no-checksum"),
            (b"$GPGLL,1*00", "checksum"),
            (b"$GPGSA,*1E$GPRMC,1*44", "merged"),
            (b"$GPRMC,4808\0\0  ", "control-bytes"),
            (b"\\s:x", "tag-block"),
            (b"\\s:x*00\\$GPGLL*00", "tag-block"),
            (sum("").as_bytes(), "malformed"),
            (sum("GP GLL,1").as_bytes(), "malformed"),
            (sum("GPTXT,\x07").as_bytes(), "malformed"),
            (sum(&format!("GPTXT,{}", "x".repeat(2_000))).as_bytes(), "sentence-too-long"),
        ] {
            assert_eq!(own(line), Err(reason), "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(own(sum("GPTXT").as_bytes()), Ok(()));
    }
}
