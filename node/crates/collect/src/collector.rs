//! A source and its decoders behind one `next`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout_at};

use crate::csv::{CsvDecoder, CsvOptions};
use crate::framing::{Line, LineSplitter};
use crate::limits::{FINGERPRINT_BYTES, RECORD_LINES_MAX};
use crate::lines::{LineDecoder, LineOptions};
use crate::nmea::{NmeaDecoder, NmeaOptions};
use crate::record::{Collected, Counts, Decoder};
use crate::source::tail::{Checkpoint, FileIdentity, fnv1a};
use crate::source::{Event, Follow, Input, Running, SourceError, start_follow, start_input};

/// Records from one input. Dropping it stops the source.
pub struct Collector {
    running: Running,
    lanes: Vec<Lane>,
    ready: VecDeque<Ready>,
    /// How long a live input may be silent before decoders emit what they hold back.
    idle_after: Duration,
    idle_at: Option<Instant>,
    ended: bool,
    scratch: Vec<Collected>,
}

/// What a [`Collector`] reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Something that is read once.
    Input(Input),
    /// Files that are followed.
    Follow(Follow),
}

impl From<Input> for Source {
    fn from(input: Input) -> Self {
        Self::Input(input)
    }
}

impl From<Follow> for Source {
    fn from(follow: Follow) -> Self {
        Self::Follow(follow)
    }
}

struct Lane {
    decoder: Box<dyn Decoder>,
    splitter: LineSplitter,
    /// Starts of the latest lines, as many as a decoder may hold back.
    starts: VecDeque<u64>,
    file: Option<Arc<FileIdentity>>,
    head: Vec<u8>,
    /// Hash of `head` once it is complete.
    full_head_hash: Option<u64>,
    /// Where a resume would go on once all records produced so far are returned.
    latest: Option<Mark>,
    /// The same for the records returned so far.
    returned: Option<Mark>,
}

#[derive(Debug, Clone)]
struct Mark {
    file: Arc<FileIdentity>,
    offset: u64,
    head_hash: u64,
}

struct Ready {
    record: Collected,
    lane: usize,
    mark: Option<Mark>,
}

impl Collector {
    /// Reads lines: raw, syslog, joined.
    ///
    /// # Errors
    /// [`SourceError`] if the input cannot be opened.
    pub async fn lines(
        source: impl Into<Source>,
        options: LineOptions,
    ) -> Result<Self, SourceError> {
        let idle_after = options.idle_after;
        let make = move || -> Box<dyn Decoder> { Box::new(LineDecoder::new(options.clone())) };
        Self::open(source.into(), idle_after, &make).await
    }

    /// Reads NMEA-0183 sentences.
    ///
    /// # Errors
    /// [`SourceError`] if the input cannot be opened.
    pub async fn nmea(
        source: impl Into<Source>,
        options: NmeaOptions,
    ) -> Result<Self, SourceError> {
        let idle_after = options.idle_after;
        let make = move || -> Box<dyn Decoder> { Box::new(NmeaDecoder::new(options.clone())) };
        Self::open(source.into(), idle_after, &make).await
    }

    /// Reads CSV rows.
    ///
    /// # Errors
    /// [`SourceError`] if the input cannot be opened.
    pub async fn csv(source: impl Into<Source>, options: CsvOptions) -> Result<Self, SourceError> {
        let make = move || -> Box<dyn Decoder> { Box::new(CsvDecoder::new(options.clone())) };
        // A row that lacks its closing quote waits for the rest of it, however long that takes.
        Self::open(source.into(), Duration::MAX, &make).await
    }

    async fn open(
        source: Source,
        idle_after: Duration,
        make: &(dyn Fn() -> Box<dyn Decoder> + Sync),
    ) -> Result<Self, SourceError> {
        let running = match source {
            Source::Input(input) => start_input(input).await?,
            Source::Follow(follow) => start_follow(follow)?,
        };
        let lanes = (0..running.lanes).map(|_| Lane::new(make())).collect();
        Ok(Self {
            running,
            lanes,
            ready: VecDeque::new(),
            idle_after,
            idle_at: None,
            ended: false,
            scratch: Vec::new(),
        })
    }

    /// The next record; none when the input has ended, for ever after.
    ///
    /// # Errors
    /// [`SourceError`] if the input failed; the records before the fault were returned, and the
    /// input has ended.
    ///
    /// # Cancel safety
    /// Safe: a dropped call loses nothing, the next one goes on.
    pub async fn next(&mut self) -> Result<Option<Collected>, SourceError> {
        loop {
            if let Some(record) = self.take_ready() {
                return Ok(Some(record));
            }
            if self.ended {
                return Ok(None);
            }
            match self.receive().await {
                Some(Ok(event)) => self.handle_event(event),
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                None => self.handle_silence(),
            }
        }
    }

    /// A record that is ready now, without waiting for the input; for callers that fill batches.
    pub fn take_ready(&mut self) -> Option<Collected> {
        let Ready { record, lane, mark } = self.ready.pop_front()?;
        if self.ready.is_empty() {
            // Lines without records after the last record count as returned with it.
            for lane in &mut self.lanes {
                lane.returned = lane.latest.clone();
            }
        } else if mark.is_some() {
            self.lanes[lane].returned = mark;
        }
        Some(record)
    }

    /// For each followed file, how far it was read, as of the record returned last: resuming
    /// there yields the records after it, none lost, none twice. Empty for other inputs.
    ///
    /// Exact for lines and CSV. NMEA positions merge interleaved sentences, so a resume may
    /// repeat or tear the epoch that was open.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        self.lanes
            .iter()
            .filter_map(|lane| lane.returned.as_ref())
            .map(|mark| Checkpoint {
                path: mark.file.path.clone(),
                device: mark.file.device,
                inode: mark.file.inode,
                offset: mark.offset,
                head_hash: mark.head_hash,
            })
            .collect()
    }

    /// What was counted since the start, over all files. May run a little ahead of the records
    /// returned.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for lane in &self.lanes {
            sum.merge(lane.decoder.counts());
        }
        sum
    }

    /// Where a UDP input listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.running.local_addr
    }

    /// The next event; none after silence. At the end of the input: `ended` and none.
    async fn receive(&mut self) -> Option<Result<Event, SourceError>> {
        let event = match self.idle_at {
            Some(at) => match timeout_at(at, self.running.receiver.recv()).await {
                Ok(event) => event,
                Err(_) => return None,
            },
            None => self.running.receiver.recv().await,
        };
        self.ended = event.is_none();
        event
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Begin { lane, offset, file, context } => {
                let lane = &mut self.lanes[lane];
                lane.splitter.begin(offset);
                lane.starts.clear();
                lane.file = file;
                lane.head = context.head;
                lane.full_head_hash = None;
                lane.decoder.handle_begin(context.first_line.as_deref());
                lane.latest = lane.mark();
            }
            Event::Data { lane, bytes, sender } => {
                self.idle_at = self.next_idle();
                let now_ms = now_ms();
                let target = &mut self.lanes[lane];
                target.decoder.handle_clock(now_ms);
                if let Some(sender) = sender {
                    target.decoder.handle_sender(&sender);
                }
                target.extend_head(&bytes);
                self.with_lane(lane, |splitter, each| splitter.feed(&bytes, each));
            }
            Event::Break { lane } => self.with_lane(lane, |splitter, each| splitter.finish(each)),
            Event::End { lane } => {
                self.with_lane(lane, |splitter, each| splitter.finish(each));
                self.flush(lane, |decoder, out| decoder.handle_end(out));
            }
        }
        self.settle();
    }

    /// Nothing came for a while, or the input ended: what is held back is all there will be.
    fn handle_silence(&mut self) {
        self.idle_at = None;
        for lane in 0..self.lanes.len() {
            self.flush(lane, |decoder, out| decoder.handle_idle(out));
        }
        self.settle();
    }

    fn next_idle(&self) -> Option<Instant> {
        if !self.running.live {
            return None;
        }
        Instant::now().checked_add(self.idle_after)
    }

    fn with_lane(
        &mut self,
        lane: usize,
        cut: impl FnOnce(&mut LineSplitter, &mut dyn FnMut(Line<'_>)),
    ) {
        let Self { lanes, ready, scratch, .. } = self;
        let target = &mut lanes[lane];
        let mut splitter = std::mem::replace(&mut target.splitter, LineSplitter::new());
        cut(&mut splitter, &mut |line| {
            target.handle_line(&line, scratch);
            target.collect(lane, scratch, ready);
        });
        target.splitter = splitter;
    }

    fn flush(&mut self, lane: usize, ask: impl FnOnce(&mut dyn Decoder, &mut Vec<Collected>)) {
        let Self { lanes, ready, scratch, .. } = self;
        let target = &mut lanes[lane];
        ask(target.decoder.as_mut(), scratch);
        target.latest = target.mark();
        target.collect(lane, scratch, ready);
    }

    /// With nothing left to return, what was read is what was returned.
    fn settle(&mut self) {
        if self.ready.is_empty() {
            for lane in &mut self.lanes {
                lane.returned = lane.latest.clone();
            }
        }
    }
}

impl Lane {
    fn new(decoder: Box<dyn Decoder>) -> Self {
        Self {
            decoder,
            splitter: LineSplitter::new(),
            starts: VecDeque::new(),
            file: None,
            head: Vec::new(),
            full_head_hash: None,
            latest: None,
            returned: None,
        }
    }

    fn handle_line(&mut self, line: &Line<'_>, out: &mut Vec<Collected>) {
        if line.overlong {
            self.decoder.handle_overlong(line.bytes, out);
        } else {
            self.decoder.handle_line(line.bytes, out);
        }
        if self.starts.len() > RECORD_LINES_MAX {
            self.starts.pop_front();
        }
        self.starts.push_back(line.start);
        let held = self.decoder.held_lines().min(self.starts.len());
        let resume = if held == 0 { line.end } else { self.starts[self.starts.len() - held] };
        self.latest = self.mark_at(resume);
    }

    /// The mark behind everything that was cut into lines, with nothing held back.
    fn mark(&self) -> Option<Mark> {
        self.mark_at(self.splitter.line_start())
    }

    fn mark_at(&self, offset: u64) -> Option<Mark> {
        let file = self.file.clone()?;
        let known = self.head.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let head_hash = match self.full_head_hash {
            Some(hash) if known == FINGERPRINT_BYTES => hash,
            _ => fnv1a(&self.head[..known]),
        };
        Some(Mark { file, offset, head_hash })
    }

    fn extend_head(&mut self, bytes: &[u8]) {
        let room = FINGERPRINT_BYTES.saturating_sub(self.head.len());
        if self.file.is_some() && room > 0 {
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if self.head.len() == FINGERPRINT_BYTES {
                self.full_head_hash = Some(fnv1a(&self.head));
            }
        }
    }

    /// Moves what a line yielded to the queue; its last record carries the mark.
    fn collect(&self, lane: usize, from: &mut Vec<Collected>, to: &mut VecDeque<Ready>) {
        let count = from.len();
        for (index, record) in from.drain(..).enumerate() {
            let mark = if index + 1 == count { self.latest.clone() } else { None };
            to.push_back(Ready { record, lane, mark });
        }
    }
}

/// The system clock, for what may use it: a missing year.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
