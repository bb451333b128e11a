//! Real inputs as streams of records: NMEA-0183 receivers, lines and logs, CSV, this machine.
//!
//! This crate knows nothing of the rest of Weir. It turns bytes from files, pipes, sockets and
//! serial lines into [`Collected`] values, which a caller produces to a topic as it likes.
//!
//! Two layers, kept apart:
//!
//! - **Decoders** ([`nmea::NmeaDecoder`], [`lines::LineDecoder`], [`csv::CsvDecoder`]) are pure:
//!   lines in, records out, no clock and no I/O. They share the trait [`Decoder`].
//! - **Sources** ([`Input`], [`Follow`]) read bytes on a thread or task of their own and hand
//!   them over through a bounded channel. [`Collector`] joins a source with a decoder behind one
//!   cancel-safe [`Collector::next`].
//!
//! Nothing that an input contains is an error of the collector: what cannot be understood becomes
//! a record of the stream [`Stream::DeadLetter`], with the reason and the input bytes, and is
//! counted. Only an input that cannot be read is a [`SourceError`].
//!
//! Everything is bounded, see [`limits`].

mod collector;
pub mod csv;
mod framing;
pub mod fuzz_targets;
pub mod host;
pub mod limits;
pub mod lines;
pub mod nmea;
mod record;
pub mod simulate;
mod source;
mod time;

pub use collector::{Collector, Source};
pub use record::{Collected, Counts, Decoder, Stream};
pub use source::tail::{Checkpoint, StartAt, Tail, TailChunk, TailError, TailProgress};
pub use source::{Follow, Input, Retry, SourceError};
pub use time::{Layout, TimeError, TimeFormat, format_time, parse_time, parse_time_prefix};
