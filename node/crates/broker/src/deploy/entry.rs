//! What a lane makes of a run of its module: one entry of its home. Pure.

use std::collections::BTreeMap;
use weir_core::deploy::Deployment;
use weir_core::deploy::outbox::{self, PART_BYTES_MAX, Part};
use weir_core::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, KIB};
use weir_core::limits::{RECORD_BYTES_MAX, RECORD_HEADERS_MAX, STATE_KEY_BYTES_MAX};
use weir_core::record::{
    BatchBuilder, BuildError, Compression, HeaderView, PushError, RecordBatch, RecordView, Records,
};
use weir_core::{PartitionIndex, ProducerId, TimestampMs, TopicId};
use weir_wasm::Transformed;
use weir_wasm::bisect::{Judged, Judgement};
use weir_wasm::output::OutputRecord;

/// Room for what is around the parts of an entry.
const MARGIN_BYTES: usize = 64 * KIB;
/// What a batch takes besides its records, as a part of an entry too.
const PART_OVERHEAD_BYTES: usize = 160;
/// What a record takes besides key, value and headers, at most; and each header.
const RECORD_OVERHEAD_BYTES: usize = 40;
const HEADER_OVERHEAD_BYTES: usize = 12;
/// What a dead letter has besides the record and the reasons, at most: names, of topics too.
const DEAD_LETTER_BYTES: usize = 2 * KIB;
/// Headers that a dead letter gets.
const DEAD_LETTER_HEADERS: usize = 9;

/// A topic that outputs go to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The topic.
    pub topic: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// How its batches are packed.
    pub compression: Compression,
    /// Largest batch that it takes, in bytes.
    pub batch_bytes_max: usize,
}

/// Where the outputs of a lane go.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// The lane's partition of the input.
    pub lane: PartitionIndex,
    /// Whether the home is the one output's partition of the same index.
    pub direct: bool,
    /// The output topics.
    pub outputs: Vec<Destination>,
    /// The dead-letter topic.
    pub dead: Option<Destination>,
}

/// Where a dead letter comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The deployment's name.
    pub deployment: String,
    /// The module, as `NAME@VERSION`.
    pub module: String,
    /// SHA-256 of the module, in hex.
    pub sha256: String,
    /// The input topic.
    pub topic: String,
}

/// Why the outputs of a batch are not in the entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// They do not fit: commit the entry and add them to the next one, or transform fewer records
    /// at once if it is empty.
    #[error("the outputs do not fit the entry")]
    Full,
    /// An output alone is more than a record may have on its way.
    #[error(
        "an output of {bytes} bytes; a transform with several destinations or other partitions \
         makes records of at most {} bytes",
        PART_BYTES_MAX - PART_OVERHEAD_BYTES
    )]
    Record {
        /// The input's index in the batch.
        index: u32,
        /// Its size.
        bytes: usize,
    },
    /// The batch could not be built.
    #[error("an output batch cannot be built: {0}")]
    Build(String),
}

impl From<BuildError> for AddError {
    fn from(error: BuildError) -> AddError {
        AddError::Build(error.to_string())
    }
}

/// An entry in the making.
#[derive(Debug)]
pub struct Entry {
    to: Destinations,
    /// Batches that grow, by destination (the dead letters' is behind the outputs') and partition.
    open: BTreeMap<(usize, u32), BatchBuilder>,
    /// Batches that are full.
    full: Vec<((usize, u32), RecordBatch)>,
    bytes: usize,
    records: usize,
}

/// What an entry holds.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its batch, if it has records.
    pub batch: Option<RecordBatch>,
}

impl Entry {
    /// An entry without records.
    #[must_use]
    pub fn new(to: Destinations) -> Entry {
        Entry { to, open: BTreeMap::new(), full: Vec::new(), bytes: 0, records: 0 }
    }

    /// About how large it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Adds what a module made of `input`, dead letters included: all of it, or nothing. Returns
    /// how many records that are, dead letters not counted.
    ///
    /// # Errors
    /// [`AddError`]; the entry is as before, except after [`AddError::Build`].
    pub fn add(
        &mut self,
        input: &Records,
        made: &Transformed,
        origin: &Origin,
    ) -> Result<usize, AddError> {
        let places = self.measure(input, made)?;
        let dead = self.to.outputs.len();
        let mut next = places.into_iter();
        let mut count = 0;
        for output in made.parts.iter().flat_map(|part| part.iter(input)) {
            let Some(place) = next.next() else { break };
            self.push(place, |batch| output.push_to(batch))?;
            count += 1;
        }
        for (judged, record) in dead_letters(input, made) {
            let partitions = self.to.dead.as_ref().map_or(1, |dead| dead.partitions);
            let place = (dead, self.to.lane.0 % partitions.max(1));
            let lane = self.to.lane;
            self.push(place, |batch| push_dead_letter(batch, &record, judged, lane, origin))?;
        }
        Ok(count)
    }

    /// Where each output goes, if all of them fit.
    fn measure(
        &mut self,
        input: &Records,
        made: &Transformed,
    ) -> Result<Vec<(usize, u32)>, AddError> {
        let mut bytes = self.bytes;
        let mut places = Vec::new();
        let mut fresh = BTreeMap::new();
        let record_max = PART_BYTES_MAX - PART_OVERHEAD_BYTES;
        for output in made.parts.iter().flat_map(|part| part.iter(input)) {
            let size = size_of(&output);
            if size > record_max && !self.to.direct {
                return Err(AddError::Record { index: output.source, bytes: size });
            }
            let place = self.place(&output);
            if !self.open.contains_key(&place) && fresh.insert(place, ()).is_none() {
                bytes += PART_OVERHEAD_BYTES;
            }
            bytes += size;
            places.push(place);
        }
        let mut records = self.records + places.len();
        for (judged, record) in dead_letters(input, made) {
            records += 1;
            let reasons = judged.error.to_string().len()
                + judged.error.backtrace().iter().map(|frame| frame.len() + 1).sum::<usize>();
            bytes += record_size(&record).min(record_max) + reasons + DEAD_LETTER_BYTES;
        }
        let most = match self.to.direct {
            true => self.to.outputs.first().map_or(0, |output| output.batch_bytes_max),
            false => BATCH_BYTES_MAX,
        };
        // One record of a direct transform fits any topic that took it before.
        let least = if self.to.direct { RECORD_BYTES_MAX + 2 * MARGIN_BYTES } else { 0 };
        let most = most.max(least).min(BATCH_BYTES_MAX) - MARGIN_BYTES;
        // Full parts leave a little unused: count that too.
        let parts = bytes / (PART_BYTES_MAX / 2) * PART_OVERHEAD_BYTES;
        if bytes + parts > most || records > BATCH_RECORDS_MAX {
            return Err(AddError::Full);
        }
        self.bytes = bytes;
        self.records = records;
        Ok(places)
    }

    fn place(&self, output: &OutputRecord<'_>) -> (usize, u32) {
        let topic = output.topic as usize;
        let partitions = self.to.outputs.get(topic).map_or(1, |output| output.partitions);
        let Destinations { direct, lane, .. } = self.to;
        (topic, Deployment::output_partition(direct, lane, output.key, partitions).0)
    }

    fn push(
        &mut self,
        place: (usize, u32),
        push: impl Fn(&mut BatchBuilder) -> Result<(), PushError>,
    ) -> Result<(), AddError> {
        let destination = self.to.outputs.get(place.0).or(self.to.dead.as_ref());
        let compression = destination.map_or(Compression::None, |d| d.compression);
        let most = destination.map_or(BATCH_BYTES_MAX, |d| d.batch_bytes_max);
        let most = if self.to.direct { BATCH_BYTES_MAX } else { most.min(PART_BYTES_MAX) };
        let builder = || BatchBuilder::with_bytes_max(compression, most);
        let batch = self.open.entry(place).or_insert_with(builder);
        match push(batch) {
            Ok(()) => return Ok(()),
            Err(PushError::Record(error)) => return Err(AddError::Build(error.to_string())),
            Err(PushError::Full) => {}
        }
        self.full.push((place, build(batch)?));
        push(batch).map_err(|error| AddError::Build(error.to_string()))
    }

    /// The entry's batch: the records themselves, or the parts of an outbox. The entry is then
    /// empty.
    ///
    /// # Errors
    /// [`AddError::Build`].
    pub fn make(&mut self, now: TimestampMs) -> Result<Made, AddError> {
        let mut batches = std::mem::take(&mut self.full);
        for (place, mut batch) in std::mem::take(&mut self.open) {
            if !batch.is_empty() {
                batches.push((place, build(&mut batch)?));
            }
        }
        (self.bytes, self.records) = (0, 0);
        if batches.is_empty() {
            return Ok(Made { batch: None });
        }
        if self.to.direct {
            let more = batches.len() > 1;
            let batch = batches.pop().map(|(_, batch)| batch).filter(|_| !more);
            let batch = batch.ok_or_else(|| AddError::Build("more than a batch".to_owned()))?;
            return Ok(Made { batch: Some(batch) });
        }
        let parts: Vec<Part> = batches
            .into_iter()
            .filter_map(|((to, partition), batch)| {
                let topic = self.to.outputs.get(to).or(self.to.dead.as_ref())?.topic;
                Some(Part { topic, partition: PartitionIndex(partition), batch })
            })
            .collect();
        let made = outbox::encode(&parts, now);
        let made = made.map_err(|error| AddError::Build(error.to_string()))?;
        let batch = RecordBatch::decode_trusted(made);
        let batch = batch.map_err(|error| AddError::Build(error.to_string()))?;
        Ok(Made { batch: Some(batch) })
    }
}

fn build(batch: &mut BatchBuilder) -> Result<RecordBatch, AddError> {
    let bytes = batch.build(ProducerId::NONE, -1, -1)?;
    RecordBatch::decode_trusted(bytes).map_err(|error| AddError::Build(error.to_string()))
}

fn dead_letters<'a>(
    input: &'a Records,
    made: &'a Transformed,
) -> impl Iterator<Item = (&'a Judged, RecordView<'a>)> {
    let mut judged = made
        .report
        .judged
        .iter()
        .filter(|judged| judged.judgement == Judgement::DeadLetter)
        .peekable();
    // Both rise; nothing is walked where there are none.
    let some = judged.peek().is_some();
    let records = input.iter().enumerate().take(if some { usize::MAX } else { 0 });
    records.filter_map(move |(index, record)| {
        let judged = judged.next_if(|judged| judged.index as usize == index)?;
        Some((judged, record))
    })
}

fn size_of(output: &OutputRecord<'_>) -> usize {
    let content = output.key.map_or(0, <[u8]>::len) + output.value.map_or(0, <[u8]>::len);
    content + output.headers.clone().map(header_size).sum::<usize>() + RECORD_OVERHEAD_BYTES
}

fn record_size(record: &RecordView<'_>) -> usize {
    let content = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
    content + record.headers().map(header_size).sum::<usize>() + RECORD_OVERHEAD_BYTES
}

fn header_size(header: HeaderView<'_>) -> usize {
    header.name.len() + header.value.map_or(0, <[u8]>::len) + HEADER_OVERHEAD_BYTES
}

/// The record as it was, with where it comes from and what went wrong in its headers. What does not
/// fit is cut (headers of its own and value, a very long key too): it is in the input all the same.
fn push_dead_letter(
    batch: &mut BatchBuilder,
    record: &RecordView<'_>,
    judged: &Judged,
    lane: PartitionIndex,
    origin: &Origin,
) -> Result<(), PushError> {
    let (partition, offset) = (lane.to_string(), record.offset.to_string());
    let (error, backtrace) = (judged.error.to_string(), judged.error.backtrace().join("\n"));
    let texts: [(&str, &str); DEAD_LETTER_HEADERS - 1] = [
        ("weir-dead-letter-deployment", &origin.deployment),
        ("weir-dead-letter-module", &origin.module),
        ("weir-dead-letter-sha256", &origin.sha256),
        ("weir-dead-letter-topic", &origin.topic),
        ("weir-dead-letter-partition", &partition),
        ("weir-dead-letter-offset", &offset),
        ("weir-dead-letter-error", &error),
        ("weir-dead-letter-backtrace", &backtrace),
    ];
    let said = texts.iter().filter(|(_, text)| !text.is_empty());
    let said = said.map(|(name, text)| HeaderView { name, value: Some(text.as_bytes()) });
    let own: Vec<_> = record.headers().take(RECORD_HEADERS_MAX - DEAD_LETTER_HEADERS).collect();
    let cut = HeaderView { name: "weir-dead-letter-cut", value: Some(b"true") };
    let said: Vec<_> = said.collect();
    let extra = said.iter().copied().map(header_size).sum::<usize>();
    let fits = record_size(record) + extra <= PART_BYTES_MAX - PART_OVERHEAD_BYTES;
    if fits && own.len() == record.headers().count() {
        let headers = own.into_iter().chain(said);
        return batch.push(record.timestamp, record.key, record.value, headers);
    }
    let key = record.key.filter(|key| key.len() <= STATE_KEY_BYTES_MAX);
    let headers = said.into_iter().chain([cut]);
    batch.push(record.timestamp, key, None, headers)
}
