//! Bytes as text.

use anyhow::{Result, bail};

/// Lower-case hexadecimal.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hexadecimal; blanks, line ends and everything after a `#` are skipped.
///
/// # Errors
/// If anything else is found, or half a byte is left.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut high = None;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        for c in line.chars().filter(|c| !c.is_whitespace()) {
            let Some(digit) = c.to_digit(16) else { bail!("{c:?} is no hexadecimal digit") };
            match high.take() {
                None => high = Some(digit),
                Some(high) => bytes.push((high << 4 | digit) as u8),
            }
        }
    }
    if high.is_some() {
        bail!("half a byte at the end");
    }
    Ok(bytes)
}

/// Hexadecimal in lines of 32 bytes, for files that people read.
pub fn encode_lines(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| encode(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode_lines(&bytes)).unwrap(), bytes);
        assert_eq!(decode("# a comment\n 0f FF # more\n").unwrap(), [15, 255]);
        assert!(decode("0").is_err() && decode("zz").is_err());
    }
}
