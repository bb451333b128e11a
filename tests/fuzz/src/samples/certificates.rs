//! Certificates of a site that never was, made once by `weir cert`: their keys sign nothing else.

/// An authority's.
pub const AUTHORITY: &str = include_str!("certificates/authority.pem");
/// A node's, with names and addresses.
pub const NODE: &str = include_str!("certificates/node.pem");
/// A client's, followed by its private key.
pub const CLIENT_WITH_KEY: &str = include_str!("certificates/client-with-key.pem");

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The DER of a PEM text's first certificate.
pub fn der(pem: &str) -> Vec<u8> {
    let body = pem.lines().skip(1).take_while(|line| !line.starts_with('-'));
    let digits = body.flat_map(str::bytes).filter_map(|c| ALPHABET.iter().position(|a| *a == c));
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        bits = bits << 6 | digit;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// A PEM text of one certificate.
pub fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----");
    for (n, three) in der.chunks(3).enumerate() {
        if n % 16 == 0 {
            text.push('\n');
        }
        let byte = |at: usize| usize::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let there = digit <= three.len();
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(if there { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text + "\n-----END CERTIFICATE-----\n"
}
