//! NMEA-0183: lines of a receiver or an instrument bus to positions, AIS and dead letters.
//!
//! | a line | becomes |
//! |---|---|
//! | a sentence of RMC, GGA, GNS, GLL, VTG, GSA, GSV, ZDA | part of a position, see [`epoch`] |
//! | AIS (`!..VDM`, `!..VDO`) | a record of the line as it came, header `kind: ais` |
//! | another good sentence: wind, heading, depth | a record of the line, or counted, see below |
//! | empty, or a comment that starts with `#` | nothing, counted as skipped |
//! | anything else | a dead letter, by reason |
//!
//! Other good sentences, proprietary ones among them, are counted as `sentences_other`. With
//! [`NmeaOptions::other`] they also become records of the line as it came, header
//! `kind: sentence`.
//!
//! Positions are JSON ([`PositionRecord`]) with the header `kind: position`. Raw lines carry the
//! header `sentence` with the address, `AIVDM`; their event time is the tag block's, else that of
//! the device's current epoch.
//!
//! The key of every record is the device: the source in the tag block, else the configured name,
//! else the sender's address (UDP), else `gps`. Epochs of different devices are kept apart.
//!
//! A line is taken as a whole: if its checksum fits, a `$` inside is data. Reasons of dead
//! letters: those of [`SentenceError::reason`], and `field` where the checksum fits but a field
//! cannot be what it should.
//!
//! Counted besides: `sentences_valid` (checksum fits), `checksum_bad`, `checksum_missing`,
//! `tag_blocks`, `sentences_position`, `sentences_ais`, `sentences_other`, `over_82` (longer than
//! the standard allows), `positions`, `positions_without_fix`, `devices_evicted`.

pub mod epoch;
mod fields;
mod sentence;

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use crate::limits::DEVICES_MAX;
use crate::record::{Collected, Counts, Decoder, to_json};
use epoch::{DeviceEpochs, Finishing};

pub use epoch::PositionRecord;
pub use fields::{Body, FieldError, Position, decode};
pub use sentence::{Damage, Sentence, SentenceError, TagBlock, checksum, parse_line};

/// The longest sentence of the standard, from `$` to the line end of two bytes.
const STANDARD_BYTES_MAX: usize = 82;

/// How to read NMEA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NmeaOptions {
    /// Name of the device, for lines whose tag block names none.
    pub device: Option<String>,
    /// Emits AIS sentences.
    pub ais: bool,
    /// Emits other good sentences instead of only counting them.
    pub other: bool,
    /// Emits positions of epochs without a fix: they say that the receiver is alive.
    pub without_fix: bool,
    /// Adds 1,024 weeks to dates before this (milliseconds since 1970) until they are not:
    /// receivers older than a rollover of the GPS week report dates about 20 years back.
    pub not_before_ms: Option<i64>,
    /// How long a live input may be silent before the epoch is taken to be complete.
    pub idle_after: Duration,
}

impl Default for NmeaOptions {
    /// Positions with and without fix, and AIS; dates as they are; an epoch ends after 300 ms of
    /// silence.
    fn default() -> Self {
        Self {
            device: None,
            ais: true,
            other: false,
            without_fix: true,
            not_before_ms: None,
            idle_after: Duration::from_millis(300),
        }
    }
}

/// Turns NMEA lines into records.
#[derive(Debug)]
pub struct NmeaDecoder {
    options: NmeaOptions,
    counts: Counts,
    devices: HashMap<String, Device>,
    /// Who sent the lines, as far as the input knows.
    sender: Option<String>,
    /// Grows by one a sentence: orders the devices by when they were last heard of.
    clock: u64,
}

#[derive(Debug, Default)]
struct Device {
    epochs: DeviceEpochs,
    heard: u64,
}

impl NmeaDecoder {
    /// A decoder for one input.
    pub fn new(options: NmeaOptions) -> Self {
        let (counts, devices) = (Counts::default(), HashMap::new());
        Self { options, counts, devices, sender: None, clock: 0 }
    }

    fn default_device(&self) -> &str {
        self.options.device.as_deref().or(self.sender.as_deref()).unwrap_or("gps")
    }

    fn handle_sentence(&mut self, line: &[u8], out: &mut Vec<Collected>) {
        let (tag, sentence) = match parse_line(line) {
            Ok(parsed) => parsed,
            Err(error) => {
                match error {
                    SentenceError::Checksum { .. } => self.counts.add("checksum_bad"),
                    SentenceError::NoChecksum { .. } => self.counts.add("checksum_missing"),
                    _ => {}
                }
                self.refuse(line, error.reason(), error.to_string(), out);
                return;
            }
        };
        self.counts.add("sentences_valid");
        if tag != TagBlock::default() {
            self.counts.add("tag_blocks");
        }
        if line.len() + 2 > STANDARD_BYTES_MAX {
            self.counts.add("over_82");
        }
        let device = tag.source.unwrap_or_else(|| self.default_device()).to_owned();
        match decode(&sentence) {
            Ok(Some(body)) => {
                self.counts.add("sentences_position");
                self.merge(&device, sentence.talker, body, tag.time_ms, out);
            }
            Ok(None) => self.pass_on(&device, line, &sentence, tag.time_ms, out),
            Err(error) => self.refuse(line, "field", error.to_string(), out),
        }
    }

    fn merge(
        &mut self,
        device: &str,
        talker: &str,
        body: Body,
        tag_ms: Option<i64>,
        out: &mut Vec<Collected>,
    ) {
        self.make_room_for(device, out);
        self.clock += 1;
        let clock = self.clock;
        let not_before_ms = self.options.not_before_ms;
        let state = match self.devices.get_mut(device) {
            Some(state) => state,
            None => self.devices.entry(device.to_owned()).or_default(),
        };
        state.heard = clock;
        let finishing = Finishing { device, not_before_ms };
        if let Some(position) = state.epochs.handle_sentence(talker, body, tag_ms, finishing) {
            self.emit_position(position, out);
        }
    }

    /// Forgets the device that was silent the longest if one more would be too many.
    fn make_room_for(&mut self, device: &str, out: &mut Vec<Collected>) {
        if self.devices.len() < DEVICES_MAX || self.devices.contains_key(device) {
            return;
        }
        let oldest = self.devices.iter().min_by_key(|(_, state)| state.heard);
        let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
        self.counts.add("devices_evicted");
        let not_before_ms = self.options.not_before_ms;
        if let Some(mut state) = self.devices.remove(&name) {
            let finishing = Finishing { device: &name, not_before_ms };
            if let Some(position) = state.epochs.handle_end(finishing) {
                self.emit_position(position, out);
            }
        }
    }

    fn emit_position(&mut self, position: PositionRecord, out: &mut Vec<Collected>) {
        self.counts.add("positions");
        if !position.has_fix() {
            self.counts.add("positions_without_fix");
            if !self.options.without_fix {
                return;
            }
        }
        let key = Bytes::copy_from_slice(position.device.as_bytes());
        let record = Collected::data(Some(key), to_json(&position), position.timestamp_ms);
        self.counts.emit(record.with_header("kind", "position"), out);
    }

    /// A good sentence that is no part of a position.
    fn pass_on(
        &mut self,
        device: &str,
        line: &[u8],
        sentence: &Sentence<'_>,
        tag_ms: Option<i64>,
        out: &mut Vec<Collected>,
    ) {
        let is_ais = sentence.encapsulated && ["VDM", "VDO"].contains(&sentence.kind);
        self.counts.add(if is_ais { "sentences_ais" } else { "sentences_other" });
        if !(if is_ais { self.options.ais } else { self.options.other }) {
            self.counts.skipped += 1;
            return;
        }
        let time = tag_ms.or_else(|| self.devices.get(device)?.epochs.time_ms());
        let key = Bytes::copy_from_slice(device.as_bytes());
        let record = Collected::data(Some(key), Bytes::copy_from_slice(line), time)
            .with_header("kind", if is_ais { "ais" } else { "sentence" })
            .with_header("sentence", Bytes::copy_from_slice(sentence.address.as_bytes()));
        self.counts.emit(record, out);
    }

    fn refuse(
        &mut self,
        line: &[u8],
        reason: &'static str,
        detail: String,
        out: &mut Vec<Collected>,
    ) {
        let key = Bytes::copy_from_slice(self.default_device().as_bytes());
        self.counts.emit(Collected::dead_letter(Some(key), line, reason, detail), out);
    }

    fn end_epochs(
        &mut self,
        end: impl Fn(&mut DeviceEpochs, Finishing<'_>) -> Option<PositionRecord>,
        out: &mut Vec<Collected>,
    ) {
        let not_before_ms = self.options.not_before_ms;
        let mut ended: Vec<(u64, PositionRecord)> = (self.devices.iter_mut())
            .filter_map(|(device, state)| {
                let finishing = Finishing { device, not_before_ms };
                Some((state.heard, end(&mut state.epochs, finishing)?))
            })
            .collect();
        ended.sort_by_key(|(heard, _)| *heard);
        for (_, position) in ended {
            self.emit_position(position, out);
        }
    }
}

impl Decoder for NmeaDecoder {
    fn handle_sender(&mut self, name: &str) {
        if self.sender.as_deref() != Some(name) {
            self.sender = Some(name.to_owned());
        }
    }

    fn handle_line(&mut self, line: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        if line.is_empty() || line.starts_with(b"#") {
            self.counts.skipped += 1;
        } else {
            self.handle_sentence(line, out);
        }
    }

    fn handle_overlong(&mut self, start: &[u8], out: &mut Vec<Collected>) {
        self.counts.lines += 1;
        let error = SentenceError::TooLong;
        self.refuse(start, error.reason(), error.to_string(), out);
    }

    fn handle_idle(&mut self, out: &mut Vec<Collected>) {
        self.end_epochs(DeviceEpochs::handle_idle, out);
    }

    fn handle_end(&mut self, out: &mut Vec<Collected>) {
        self.end_epochs(DeviceEpochs::handle_end, out);
    }

    /// Epochs are merged from sentences between which others are emitted, so there is no line
    /// from which a resume would repeat exactly the open ones: none is said to be held back.
    fn held_lines(&self) -> usize {
        0
    }

    fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests;
