//! Serial devices: raw mode and speed through termios, reading through the runtime's poller.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use rustix::fs::OFlags;
use rustix::termios::{self, ControlModes, OptionalActions, SpecialCodeIndex};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::net::begin;
use super::{Event, EventSender, Retry, SourceError};
use crate::limits::CHUNK_BYTES;

/// What a path turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    /// A terminal device, in raw mode at its speed, non-blocking.
    Terminal(File),
    /// Something else, blocking.
    Plain(File),
}

/// Opens `path`; a terminal is set to raw mode, 8N1 without flow control, at `baud`.
pub(super) fn open(path: &Path, baud: u32) -> Result<Opened, SourceError> {
    let open_error = |source| SourceError::Open { name: path.display().to_string(), source };
    // Without O_NONBLOCK an open would wait for carrier; O_NOCTTY: a device never becomes our
    // controlling terminal.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(open_error)?;
    if !termios::isatty(&file) {
        drop(file);
        return File::open(path).map(Opened::Plain).map_err(open_error);
    }
    set_raw(&file, baud).map_err(|errno| SourceError::Baud {
        path: path.to_owned(),
        baud,
        source: errno.into(),
    })?;
    Ok(Opened::Terminal(file))
}

fn set_raw(file: &File, baud: u32) -> rustix::io::Result<()> {
    let mut attributes = termios::tcgetattr(file)?;
    attributes.make_raw();
    attributes.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL | ControlModes::CS8;
    attributes.control_modes -= ControlModes::PARENB | ControlModes::CSTOPB | ControlModes::CRTSCTS;
    attributes.special_codes[SpecialCodeIndex::VMIN] = 1;
    attributes.special_codes[SpecialCodeIndex::VTIME] = 0;
    attributes.set_speed(baud)?;
    termios::tcsetattr(file, OptionalActions::Flush, &attributes)
}

/// Reads the device until the collector is gone, opening it again when it went away.
pub(super) async fn run(first: File, path: PathBuf, baud: u32, retry: Retry, events: EventSender) {
    if !begin(&events).await {
        return;
    }
    let mut opened = Ok(first);
    let mut failures = 0;
    loop {
        let error = match opened {
            Ok(port) => match read_port(port, &events, &mut failures).await {
                Some(error) => error,
                None => return,
            },
            Err(error) => error,
        };
        failures += 1;
        if retry.exhausted(failures) {
            let name = path.display().to_string();
            let gave_up = SourceError::GaveUp { name, attempts: failures, source: error };
            let _ = events.send(Ok(Event::End { lane: 0 })).await;
            let _ = events.send(Err(gave_up)).await;
            return;
        }
        let pause = retry.pause(failures);
        let pause_ms = pause.as_millis() as u64;
        tracing::warn!(path = %path.display(), %error, pause_ms, "serial device is away");
        if events.send(Ok(Event::Break { lane: 0 })).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = events.closed() => return,
        }
        opened = match open(&path, baud) {
            Ok(Opened::Terminal(port)) => Ok(port),
            Ok(Opened::Plain(_)) => Err(io::Error::other("no longer a terminal")),
            Err(error) => Err(io::Error::other(error)),
        };
    }
}

/// Reads until the device fails (the error) or the collector is gone (none).
async fn read_port(port: File, events: &EventSender, failures: &mut u32) -> Option<io::Error> {
    // Tokio's pipe reader is its one safe way to poll a file that we own; it only ever polls and
    // reads, which a terminal understands as well as a pipe.
    let mut port = match Receiver::from_file_unchecked(port) {
        Ok(port) => port,
        Err(error) => return Some(error),
    };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match port.read_buf(&mut buffer).await {
            Ok(0) => return Some(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(_) => {}
            Err(error) => return Some(error),
        }
        *failures = 0;
        let bytes = buffer.split().freeze();
        if events.send(Ok(Event::Data { lane: 0, bytes, sender: None })).await.is_err() {
            return None;
        }
    }
}
