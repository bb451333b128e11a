//! Mutations: small damage to valid input, and the large numbers that length fields dislike.

use fastrand::Rng;

/// Most bytes of an input; the limits of formats are tested by unit tests, not by size.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Numbers near the edges of types and formats.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x10_0000,
    0x40_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// Makes an input from one of `seeds`, which must not be empty.
pub fn input(seeds: &[Vec<u8>], words: &[&str], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(..seeds.len())].clone();
    // Mostly one or two mutations: more of them rarely get past the first check.
    let count = 1 + rng.u32(..).trailing_zeros().min(12);
    for _ in 0..count {
        mutate(&mut bytes, seeds, words, rng);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], rng: &mut Rng) {
    let kinds = if words.is_empty() { 11 } else { 14 };
    match rng.u8(..kinds) {
        0 => with_byte(bytes, rng, |byte, rng| byte ^ 1 << rng.u8(..8)),
        1 => with_byte(bytes, rng, |_, rng| rng.u8(..)),
        2 => with_byte(bytes, rng, |byte, rng| byte.wrapping_add(rng.u8(..9)).wrapping_sub(4)),
        3 => {
            let range = range(bytes, rng);
            bytes.drain(range);
        }
        4 => {
            let copy = bytes[range(bytes, rng)].to_vec();
            insert(bytes, &copy, rng);
        }
        5 => {
            let other = &seeds[rng.usize(..seeds.len())];
            let piece = other[range(other, rng)].to_vec();
            insert(bytes, &piece, rng);
        }
        6 => {
            let other = &seeds[rng.usize(..seeds.len())];
            let keep = rng.usize(..=bytes.len());
            let from = rng.usize(..=other.len());
            bytes.truncate(keep);
            bytes.extend_from_slice(&other[from..]);
        }
        7 => bytes.truncate(rng.usize(..=bytes.len())),
        8 => {
            let random: Vec<u8> = (0..rng.usize(1..17)).map(|_| rng.u8(..)).collect();
            insert(bytes, &random, rng);
        }
        9 => number(bytes, rng),
        10 => {
            let range = range(bytes, rng);
            let fill = [0, 0xff, b'0', b' '][rng.usize(..4)];
            bytes[range].fill(fill);
        }
        _ => {
            let word = words[rng.usize(..words.len())];
            insert(bytes, word.as_bytes(), rng);
        }
    }
}

fn with_byte(bytes: &mut [u8], rng: &mut Rng, change: impl Fn(u8, &mut Rng) -> u8) {
    if !bytes.is_empty() {
        let at = rng.usize(..bytes.len());
        bytes[at] = change(bytes[at], rng);
    }
}

/// A range of `bytes`, mostly short, sometimes long.
fn range(bytes: &[u8], rng: &mut Rng) -> std::ops::Range<usize> {
    let from = rng.usize(..=bytes.len());
    let longest = if rng.u8(..4) == 0 { bytes.len() - from } else { 16.min(bytes.len() - from) };
    from..from + rng.usize(..=longest)
}

fn insert(bytes: &mut Vec<u8>, piece: &[u8], rng: &mut Rng) {
    let at = rng.usize(..=bytes.len());
    bytes.splice(at..at, piece.iter().copied());
}

/// Writes a number of some width over the bytes at some place: whatever field is there.
fn number(bytes: &mut [u8], rng: &mut Rng) {
    let width = [1, 2, 4, 8][rng.usize(..4)];
    if bytes.len() < width {
        return;
    }
    let mut number = NUMBERS[rng.usize(..NUMBERS.len())];
    if rng.bool() {
        // The bytes that follow, or nearly: what a length field should say.
        number = (bytes.len() as u64).wrapping_add(rng.u64(..17)).wrapping_sub(8);
    }
    let at = rng.usize(..=bytes.len() - width);
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    let field = if rng.bool() { &little[..width] } else { &big[8 - width..] };
    bytes[at..at + width].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an input depends on nothing but the generator, and stays within its size.
    #[test]
    fn repeatable_and_bounded() {
        let seeds = vec![b"hello, world".to_vec(), vec![7; INPUT_BYTES_MAX], Vec::new()];
        let mut changed = 0;
        for n in 0..500 {
            let make = || input(&seeds, &["word"], &mut Rng::with_seed(n));
            assert_eq!(make(), make());
            assert!(make().len() <= INPUT_BYTES_MAX);
            changed += usize::from(!seeds.contains(&make()));
        }
        // Little can be done to the empty seed.
        assert!(changed > 333, "{changed} of 500 inputs differ from all seeds");
    }
}
