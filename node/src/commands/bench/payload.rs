//! What records hold: bytes that do not compress, the same in every run.

use bytes::Bytes;

/// Values of one size, cut out of one buffer at different places so that they differ.
#[derive(Clone, Debug)]
pub struct Payload {
    buffer: Bytes,
    record_bytes: usize,
}

/// Different values; more are repeated.
const VALUES: usize = 1_021;

impl Payload {
    /// Values of `record_bytes` bytes.
    pub fn new(record_bytes: usize) -> Payload {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(record_bytes + VALUES + 8);
        while bytes.len() < record_bytes + VALUES {
            // Marsaglia, "Xorshift RNGs" (2003), the triple 13, 7, 17.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        Payload { buffer: Bytes::from(bytes), record_bytes }
    }

    /// The value number `n`, borrowed.
    pub fn slice(&self, n: u64) -> &[u8] {
        let at = (n % VALUES as u64) as usize;
        &self.buffer[at..at + self.record_bytes]
    }

    /// The value number `n`, shared.
    pub fn value(&self, n: u64) -> Bytes {
        let at = (n % VALUES as u64) as usize;
        self.buffer.slice(at..at + self.record_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        for size in [0, 1, 100, 1_024] {
            let payload = Payload::new(size);
            assert!([0, 1, 1_020, 1_021, u64::MAX].iter().all(|&n| payload.slice(n).len() == size));
            assert_eq!(payload.value(7), payload.slice(7));
        }
        let payload = Payload::new(100);
        assert_ne!(payload.slice(0), payload.slice(1));
        assert_eq!(payload.slice(5), payload.slice(5 + VALUES as u64));
    }
}
