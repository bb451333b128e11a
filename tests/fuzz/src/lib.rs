//! Fuzzing on the stable toolchain: every decoder, under mutations of valid input.
//!
//! A [`Target`] is a plain function that decodes bytes and, where they decode, checks that
//! encoding gives the same again. [`driver`] feeds it mutated seeds and catches three things:
//! panics (failed checks included), memory out of proportion to the input, and endless loops.
//! Each input is a function of target, seed number and iteration alone, so that a failure is
//! repeated by three words on a command line.
//!
//! There is no coverage feedback; what makes up for it is that seeds are valid encodings of every
//! variant, that checksums and lengths are repaired after mutation, and that targets are run for
//! hours by `cargo xtask fuzz` besides the bounded run in the tests.

pub mod driver;
pub mod golden;
pub mod hex;
mod mutate;
pub mod samples;
pub mod targets;

/// What a target says of an input that it survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decoded, and encoding it gave the same again.
    Accepted,
    /// The decoder refused it with an error.
    Refused,
}

/// One decoder under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line and in the folder of regressions.
    pub name: &'static str,
    /// Decodes an input. Panics where a property does not hold.
    pub check: fn(&[u8]) -> Verdict,
    /// Valid inputs to begin from, at least one.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes lengths and checksums fit a mutated input, so that what lies behind them is reached.
    /// The number is random and chooses what to repair.
    pub repair: fn(&mut [u8], u32),
    /// Pieces of text that mean something to the decoder.
    pub words: &'static [&'static str],
    /// Most memory that an input of this many bytes may take at any one time, in bytes.
    pub memory_bytes_max: fn(usize) -> u64,
}

/// For targets without checksums.
pub fn no_repair(_input: &mut [u8], _choice: u32) {}

/// For decoders whose output is of the order of their input. The constant is what serde's
/// collections reserve at most on the word of a length field (1 MiB each, a few nested).
pub fn memory_in_proportion(input_bytes: usize) -> u64 {
    6 * 1024 * 1024 + 256 * input_bytes as u64
}
