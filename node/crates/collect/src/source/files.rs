//! Files and standard input, read by a thread.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::{BeginContext, Event, EventSender, SourceError};
use crate::limits::CHUNK_BYTES;

/// Opens a file, through a gzip decoder if its name ends in `.gz`.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read + Send>, SourceError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| SourceError::Open { name, source })?;
    let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Reads `paths` one after the other; `first` is the first of them, already open.
pub(super) fn read_files(first: Box<dyn Read + Send>, paths: &[PathBuf], events: &EventSender) {
    let mut next = Some(first);
    for path in paths {
        let opened = match next.take() {
            Some(file) => Ok(file),
            None => open(path),
        };
        let sent = match opened {
            Ok(mut file) => pump(&mut file, &path.display().to_string(), events),
            Err(error) => {
                let _ = events.blocking_send(Err(error));
                false
            }
        };
        if !sent {
            return;
        }
    }
}

/// Reads something that is open already to its end.
pub(super) fn read_one(mut file: File, name: &str, events: &EventSender) {
    pump(&mut file, name, events);
}

/// Reads standard input to its end.
pub(super) fn read_stdin(events: &EventSender) {
    pump(&mut io::stdin().lock(), "stdin", events);
}

/// Hands `input` over chunk by chunk. False if nothing more is to be read.
fn pump(input: &mut dyn Read, name: &str, events: &EventSender) -> bool {
    let context = BeginContext::default();
    let begin = Event::Begin { lane: 0, offset: 0, file: None, context };
    if events.blocking_send(Ok(begin)).is_err() {
        return false;
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return events.blocking_send(Ok(Event::End { lane: 0 })).is_ok(),
            Ok(n) => {
                let bytes = Bytes::copy_from_slice(&buffer[..n]);
                let data = Event::Data { lane: 0, bytes, sender: None };
                if events.blocking_send(Ok(data)).is_err() {
                    return false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                // What came before the fault is finished first, so that nothing of it is lost.
                let _ = events.blocking_send(Ok(Event::End { lane: 0 }));
                let name = name.to_owned();
                let _ = events.blocking_send(Err(SourceError::Read { name, source }));
                return false;
            }
        }
    }
}
