//! Where bytes come from. Every source runs on a thread or task of its own and hands chunks over
//! through a channel of [`crate::limits::CHANNEL_CHUNKS`], so a slow caller
//! slows the source (files, TCP, serial) or loses datagrams in the kernel (UDP).

mod files;
mod net;
mod serial;
pub mod tail;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::limits::{CHANNEL_CHUNKS, FILES_MAX};
use tail::{Checkpoint, FileIdentity, StartAt};

/// An input that is read from its start to its end, or for as long as it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Files, read one after the other. A name that ends in `.gz` is unpacked on the way.
    Files(Vec<PathBuf>),
    /// Standard input, until its end.
    Stdin,
    /// Connects to a TCP server, such as a network receiver or `gpsd`'s raw port, and connects
    /// again when the connection breaks.
    Tcp {
        /// `host:port`.
        address: String,
        /// How to try again.
        retry: Retry,
    },
    /// Listens for UDP datagrams; each holds whole lines. Lines are kept apart by the sender's
    /// IP address.
    Udp {
        /// Where to listen. Port 0 takes a free one, see
        /// [`Collector::local_addr`](crate::Collector::local_addr).
        bind: SocketAddr,
    },
    /// A serial device, set to raw mode at this speed. What is no terminal (a pipe, a plain
    /// file) is read as it is. A device that disappears is opened again when it is back.
    Serial {
        /// Such as `/dev/ttyUSB0`.
        path: PathBuf,
        /// Bits per second; NMEA-0183 receivers use 4,800, 9,600, 38,400 or 115,200.
        baud: u32,
        /// How to try again.
        retry: Retry,
    },
}

/// Files that are followed as they grow, with rotation, like `tail -F`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// The files; one that does not exist yet is waited for.
    pub paths: Vec<PathBuf>,
    /// Where to start in a file that has no checkpoint.
    pub start: StartAt,
    /// Where an earlier run stopped, as [`Collector::checkpoints`](crate::Collector::checkpoints)
    /// said it; those of other paths are ignored.
    pub checkpoints: Vec<Checkpoint>,
    /// How long to wait between two looks at files that had nothing new.
    pub poll_interval: Duration,
}

impl Follow {
    /// Follows `paths` from their start, looking every 250 ms.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            start: StartAt::Beginning,
            checkpoints: Vec::new(),
            poll_interval: Duration::from_millis(250),
        }
    }
}

/// How a source that lost its other end tries again: the pause doubles from `first` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Pause before the first new attempt.
    pub first: Duration,
    /// Longest pause.
    pub max: Duration,
    /// Failed attempts in a row after which the source gives up with an error; none: never.
    pub attempts_max: Option<u32>,
    /// Silence after which a TCP connection is taken for dead; none: never.
    pub silence_max: Option<Duration>,
    /// Whether the end of a TCP stream ends the input instead of making it connect again.
    pub end_at_eof: bool,
}

impl Default for Retry {
    /// From 0.5 s to 30 s, for ever, with a connection taken for dead after 60 s of silence.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            max: Duration::from_secs(30),
            attempts_max: None,
            silence_max: Some(Duration::from_secs(60)),
            end_at_eof: false,
        }
    }
}

impl Retry {
    /// The pause after `failures` failed attempts in a row (1 or more).
    fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// Whether `failures` in a row are too many.
    fn exhausted(&self, failures: u32) -> bool {
        self.attempts_max.is_some_and(|max| failures >= max)
    }
}

/// Why an input cannot be read. Nothing of it was lost silently: records returned before it
/// stand, and the input has ended.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or device could not be opened.
    #[error("cannot open {name}: {source}")]
    Open {
        /// The path.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// An input failed while it was read; a damaged `.gz` file ends here too.
    #[error("cannot read {name}: {source}")]
    Read {
        /// The path, `stdin` or the address.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The UDP address could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A TCP server or serial device did not come back within the allowed attempts.
    #[error("{name} did not answer in {attempts} attempts: {source}")]
    GaveUp {
        /// The address or path.
        name: String,
        /// Attempts in a row.
        attempts: u32,
        /// What the last attempt ended with.
        source: io::Error,
    },
    /// A serial speed that the system does not know.
    #[error("{path}: cannot set {baud} bits per second: {source}")]
    Baud {
        /// The device.
        path: PathBuf,
        /// The speed asked for.
        baud: u32,
        /// What the system said.
        source: io::Error,
    },
    /// No files, or more than [`FILES_MAX`].
    #[error("{count} files given, but it must be 1 to {FILES_MAX}")]
    FileCount {
        /// How many were given.
        count: usize,
    },
    /// The thread of a source could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// What a source tells its collector. A lane is one independent sequence of bytes: one followed
/// file each, and lane 0 for everything else.
#[derive(Debug)]
pub(crate) enum Event {
    /// A new file begins in `lane`, at `offset`.
    Begin { lane: usize, offset: u64, file: Option<Arc<FileIdentity>>, context: BeginContext },
    /// Bytes follow on.
    Data { lane: usize, bytes: Bytes, sender: Option<Arc<str>> },
    /// What was cut off here is never finished, but the stream goes on (end of a datagram,
    /// broken connection).
    Break { lane: usize },
    /// The file in `lane` is finished.
    End { lane: usize },
}

/// What a decoder and a checkpoint need to know of the bytes before `offset`.
#[derive(Debug, Default)]
pub(crate) struct BeginContext {
    /// First bytes of the file, as far as they lie before the offset.
    pub head: Vec<u8>,
    /// First line of the file, where the offset lies behind it.
    pub first_line: Option<Vec<u8>>,
}

pub(crate) type EventSender = mpsc::Sender<Result<Event, SourceError>>;
pub(crate) type EventReceiver = mpsc::Receiver<Result<Event, SourceError>>;

/// A running source. Dropping it stops its task or thread; a thread that blocks in a read of
/// standard input ends with that read.
#[derive(Debug)]
pub(crate) struct Running {
    pub receiver: EventReceiver,
    /// Lanes that the source uses.
    pub lanes: usize,
    /// Silence here means something: the input is live.
    pub live: bool,
    pub local_addr: Option<SocketAddr>,
    _stop: Stop,
}

#[derive(Debug)]
enum Stop {
    Task(tokio::task::JoinHandle<()>),
    Thread(std::thread::Thread, Arc<AtomicBool>),
}

impl Drop for Stop {
    fn drop(&mut self) {
        match self {
            Stop::Task(task) => task.abort(),
            Stop::Thread(thread, stop) => {
                stop.store(true, Ordering::Release);
                thread.unpark();
            }
        }
    }
}

/// Starts reading `input`.
pub(crate) async fn start_input(input: Input) -> Result<Running, SourceError> {
    match input {
        Input::Files(paths) => {
            check_count(paths.len())?;
            let first = files::open(&paths[0])?;
            on_thread(1, false, move |events, _| files::read_files(first, &paths, &events))
        }
        Input::Stdin => on_thread(1, true, |events, _| files::read_stdin(&events)),
        Input::Tcp { address, retry } => {
            Ok(on_task(None, |events| net::run_tcp(address, retry, events)))
        }
        Input::Udp { bind } => {
            let socket = net::bind_udp(bind).await?;
            let local = socket.local_addr().ok();
            Ok(on_task(local, |events| net::run_udp(socket, events)))
        }
        Input::Serial { path, baud, retry } => {
            let first = serial::open(&path, baud)?;
            match first {
                serial::Opened::Terminal(port) => {
                    Ok(on_task(None, |events| serial::run(port, path, baud, retry, events)))
                }
                serial::Opened::Plain(file) => {
                    let name = path.display().to_string();
                    on_thread(1, true, move |events, _| files::read_one(file, &name, &events))
                }
            }
        }
    }
}

/// Starts following files.
pub(crate) fn start_follow(follow: Follow) -> Result<Running, SourceError> {
    check_count(follow.paths.len())?;
    let lanes = follow.paths.len();
    on_thread(lanes, true, move |events, stop| tail::run(follow, &events, &stop))
}

fn check_count(count: usize) -> Result<(), SourceError> {
    if (1..=FILES_MAX).contains(&count) { Ok(()) } else { Err(SourceError::FileCount { count }) }
}

fn on_task<F>(local_addr: Option<SocketAddr>, run: impl FnOnce(EventSender) -> F) -> Running
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    let task = tokio::spawn(run(sender));
    Running { receiver, lanes: 1, live: true, local_addr, _stop: Stop::Task(task) }
}

fn on_thread(
    lanes: usize,
    live: bool,
    run: impl FnOnce(EventSender, Arc<AtomicBool>) + Send + 'static,
) -> Result<Running, SourceError> {
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let thread = std::thread::Builder::new()
        .name("weir-collect".to_owned())
        .spawn(move || run(sender, seen))
        .map_err(SourceError::Thread)?;
    let stop = Stop::Thread(thread.thread().clone(), stop);
    Ok(Running { receiver, lanes, live, local_addr: None, _stop: stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause doubles, stays at its bound, and survives absurd counts.
    #[test]
    fn pauses_are_bounded() {
        let retry = Retry::default();
        let ms: Vec<u128> = (1..=9).map(|n| retry.pause(n).as_millis()).collect();
        assert_eq!(ms, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(retry.pause(u32::MAX), retry.max);
        assert!(!retry.exhausted(u32::MAX));
        assert!(Retry { attempts_max: Some(3), ..retry }.exhausted(3));
    }
}
