//! Packing and unpacking the records of a batch.
//!
//! Unpacking reads bytes of strangers: its output is bounded by a limit, and memory is taken as
//! output appears, never because a length field asks for it.

use super::UnpackError;
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// How the records of a batch are packed. The codes and formats are Kafka's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are. Consumers then need no memory besides the batch.
    #[default]
    None,
    /// RFC 1952. For what already sends it; zstd is smaller and faster.
    Gzip,
    /// Raw snappy blocks in the framing of snappy-java.
    Snappy,
    /// The LZ4 frame format, with independent blocks of 64 KiB. Costs the least time.
    Lz4,
    /// RFC 8878, level 3. The smallest.
    Zstd,
}

impl Compression {
    /// Every way there is.
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// The number in a batch's attributes.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The way that has this number.
    ///
    /// # Errors
    /// `UnknownCompression` where none has.
    pub fn from_code(code: u8) -> Result<Compression, super::BatchError> {
        let found = Compression::ALL.get(usize::from(code)).copied();
        found.ok_or(super::BatchError::UnknownCompression(code))
    }

    /// The name in configurations and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`Compression`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?}: use none, gzip, snappy, lz4 or zstd")]
pub struct ParseCompressionError(String);

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Compression::ALL.into_iter().find(|way| way.name() == name);
        found.ok_or_else(|| ParseCompressionError(name.to_owned()))
    }
}

/// Appends `input`, packed, to `out`.
pub(super) fn pack(way: Compression, input: &[u8], out: &mut BytesMut) -> io::Result<()> {
    match way {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(out.writer(), level);
            encoder.write_all(input)?;
            encoder.finish().map(drop)
        }
        Compression::Snappy => pack_snappy(input, out),
        Compression::Lz4 => pack_lz4(input, out),
        Compression::Zstd => pack_zstd(input, out),
    }
}

/// Unpacks all of `input`, which must not be larger than `max` bytes unpacked.
pub(super) fn unpack(way: Compression, input: &[u8], max: usize) -> Result<Vec<u8>, UnpackError> {
    match way {
        Compression::None if input.len() <= max => Ok(input.to_vec()),
        Compression::None => Err(too_large(way, max)),
        Compression::Gzip => {
            read_bounded(way, flate2::bufread::MultiGzDecoder::new(input), input.len(), max)
        }
        Compression::Snappy => unpack_snappy(input, max),
        Compression::Lz4 => {
            read_bounded(way, lz4_flex::frame::FrameDecoder::new(input), input.len(), max)
        }
        Compression::Zstd => unpack_zstd(input, max),
    }
}

fn too_large(compression: Compression, max: usize) -> UnpackError {
    UnpackError::TooLarge { compression, max }
}

fn malformed(compression: Compression, reason: impl fmt::Display) -> UnpackError {
    UnpackError::Malformed { compression, reason: reason.to_string() }
}

/// Reads `decoder` to its end into memory that grows with what is read, to `max` bytes at most.
fn read_bounded(
    way: Compression,
    decoder: impl Read,
    input_bytes: usize,
    max: usize,
) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::with_capacity((input_bytes * 3).min(max));
    // One byte more than allowed tells "exactly as much" from "more".
    let read = decoder.take(max as u64 + 1).read_to_end(&mut out);
    read.map_err(|error| malformed(way, error))?;
    if out.len() > max {
        return Err(too_large(way, max));
    }
    Ok(out)
}

fn pack_lz4(input: &[u8], out: &mut BytesMut) -> io::Result<()> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    // The Java client refuses blocks that depend on each other.
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out.writer());
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}

// ---- zstd ----

/// Kafka's default.
const ZSTD_LEVEL: i32 = 3;
/// Largest window that a frame may ask the decoder to keep, as a power of two: 16 MiB, which is
/// all that a batch may unpack to.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;
const _: () = assert!(1 << ZSTD_WINDOW_LOG_MAX == crate::limits::BATCH_UNPACKED_BYTES_MAX);

/// Makes a context for each batch. That costs about 5 µs; one that is kept holds a MiB, and there
/// is a builder per partition.
fn pack_zstd(input: &[u8], out: &mut BytesMut) -> io::Result<()> {
    let start = out.len();
    out.resize(start + zstd::zstd_safe::compress_bound(input.len()), 0);
    let written = zstd::bulk::compress_to_buffer(input, &mut out[start..], ZSTD_LEVEL)?;
    out.truncate(start + written);
    Ok(())
}

fn unpack_zstd(input: &[u8], max: usize) -> Result<Vec<u8>, UnpackError> {
    let way = Compression::Zstd;
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(input).map_err(|e| malformed(way, e))?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|e| malformed(way, e))?;
    read_bounded(way, decoder, input.len(), max)
}

// ---- snappy ----

/// What snappy-java writes first: a magic, then two big-endian version numbers, both 1.
const SNAPPY_JAVA_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of the magic alone. Readers do not insist on the versions.
const SNAPPY_JAVA_MAGIC_BYTES: usize = 8;
/// What snappy-java packs at once.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// Most bytes that one packed byte can unpack to: three bytes copy 64 at most.
const SNAPPY_RATIO_MAX: usize = 22;

fn pack_snappy(input: &[u8], out: &mut BytesMut) -> io::Result<()> {
    out.extend_from_slice(&SNAPPY_JAVA_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(SNAPPY_BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at + 4;
        out.resize(block_at + snap::raw::max_compress_len(block.len()), 0);
        let written = encoder.compress(block, &mut out[block_at..])?;
        out[length_at..block_at].copy_from_slice(&(written as u32).to_be_bytes());
        out.truncate(block_at + written);
    }
    Ok(())
}

fn unpack_snappy(input: &[u8], max: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    if !input.starts_with(&SNAPPY_JAVA_HEADER[..SNAPPY_JAVA_MAGIC_BYTES]) {
        // Other clients write one block without framing.
        unpack_snappy_block(input, max, &mut out)?;
        return Ok(out);
    }
    let damaged = || malformed(Compression::Snappy, "a block ends early");
    let mut rest = input.get(SNAPPY_JAVA_HEADER.len()..).ok_or_else(damaged)?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, behind) = behind.split_at_checked(length).ok_or_else(damaged)?;
        unpack_snappy_block(block, max, &mut out)?;
        rest = behind;
    }
    Ok(out)
}

fn unpack_snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), UnpackError> {
    let way = Compression::Snappy;
    let bytes = snap::raw::decompress_len(block).map_err(|error| malformed(way, error))?;
    if bytes > max - out.len() {
        return Err(too_large(way, max));
    }
    if bytes > block.len() * SNAPPY_RATIO_MAX {
        return Err(malformed(way, "a block claims more bytes than it can hold"));
    }
    let start = out.len();
    out.resize(start + bytes, 0);
    let unpacked = snap::raw::Decoder::new().decompress(block, &mut out[start..]);
    unpacked.map(drop).map_err(|error| malformed(way, error))
}
