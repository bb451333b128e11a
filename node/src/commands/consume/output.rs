//! The thread that writes to stdout, so that a reader which takes its time (`| less`) does not
//! hold up the connection, and positions are stored only for what was written.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use weir_core::Offset;

/// Chunks that may wait for the writer.
const CHUNKS_MAX: usize = 8;

/// A topic and one of its partitions.
pub type Partition = (Arc<str>, u32);

/// Bytes to write, and up to where all records are written once they are.
#[derive(Debug)]
pub struct Chunk {
    /// What to write.
    pub bytes: Vec<u8>,
    /// The partition that it came from and the offset after its last record.
    pub position: Option<(Partition, Offset)>,
}

type Positions = Arc<Mutex<BTreeMap<Partition, Offset>>>;

/// An output that is written by a thread of its own.
#[derive(Debug)]
pub struct Output {
    sender: mpsc::Sender<Chunk>,
    thread: JoinHandle<io::Result<()>>,
    flushed: Positions,
}

/// The output ended before everything was written; [`Output::finish`] says why.
#[derive(Debug)]
pub struct Ended;

impl Output {
    /// Starts the thread, which writes to what `open` gives.
    ///
    /// # Errors
    /// There are no more threads to be had.
    pub fn start<W: Write>(open: impl FnOnce() -> W + Send + 'static) -> io::Result<Output> {
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let flushed = Positions::default();
        let shared = flushed.clone();
        let thread = std::thread::Builder::new()
            .name("weir-consume-output".to_owned())
            .spawn(move || write_all(&mut open(), receiver, &shared))?;
        Ok(Output { sender, thread, flushed })
    }

    /// Writes `chunk` after everything before it. Waits while too much waits already.
    ///
    /// # Errors
    /// [`Ended`]
    pub async fn write(&self, chunk: Chunk) -> Result<(), Ended> {
        self.sender.send(chunk).await.map_err(|_| Ended)
    }

    /// Completes when nothing more can be written.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended(&self) {
        self.sender.closed().await;
    }

    /// Positions that became safe to store since the last call: what is before them was written.
    pub fn take_positions(&self) -> BTreeMap<Partition, Offset> {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *flushed)
    }

    /// Waits until all is written. The positions are then complete.
    ///
    /// # Errors
    /// Why not all of it was.
    pub async fn finish(self) -> (io::Result<()>, BTreeMap<Partition, Offset>) {
        drop(self.sender);
        let thread = self.thread;
        // Joining may block for as long as the reader does, so not on this thread.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        let result = match joined {
            Ok(Ok(result)) => result,
            _ => Err(io::Error::other("the output thread ended by itself")),
        };
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        (result, std::mem::take(&mut *flushed))
    }
}

fn write_all(
    output: &mut impl Write,
    mut receiver: mpsc::Receiver<Chunk>,
    flushed: &Mutex<BTreeMap<Partition, Offset>>,
) -> io::Result<()> {
    while let Some(first) = receiver.blocking_recv() {
        let mut written = BTreeMap::new();
        let mut next = Some(first);
        // Whatever waits is written before the flush, which costs a system call.
        while let Some(chunk) = next {
            output.write_all(&chunk.bytes)?;
            written.extend(chunk.position);
            next = receiver.try_recv().ok();
        }
        output.flush()?;
        flushed.lock().unwrap_or_else(PoisonError::into_inner).append(&mut written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc as std_mpsc;

    /// Hands over what is written, and fails from the `n`th write on.
    struct Pipe(std_mpsc::Sender<Vec<u8>>, usize);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.1 == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.1 -= 1;
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn chunk(text: &str, next: i64) -> Chunk {
        let position = Some((("t".into(), 0), Offset(next)));
        Chunk { bytes: text.as_bytes().to_vec(), position }
    }

    #[tokio::test]
    async fn positions_follow_what_was_written() {
        let (sender, written) = std_mpsc::channel();
        let output = Output::start(move || Pipe(sender, 100)).unwrap();
        assert!(output.write(chunk("a", 1)).await.is_ok());
        assert!(output.write(chunk("b", 2)).await.is_ok());
        let (result, positions) = output.finish().await;
        assert!(result.is_ok());
        assert_eq!(positions, BTreeMap::from([(("t".into(), 0), Offset(2))]));
        assert_eq!(written.iter().flatten().collect::<Vec<u8>>(), b"ab");
    }

    /// Goal: what a closed pipe did not take is not counted as written, and the writer learns of
    /// the end without writing.
    #[tokio::test]
    async fn a_closed_pipe_ends_the_output() {
        let (sender, written) = std_mpsc::channel();
        let output = Output::start(move || Pipe(sender, 1)).unwrap();
        assert!(output.write(chunk("a", 1)).await.is_ok());
        assert_eq!(written.recv().unwrap(), b"a");
        while output.take_positions().is_empty() {
            tokio::task::yield_now().await;
        }
        // The thread may end before or after it takes this one.
        let _ = output.write(chunk("b", 2)).await;
        output.ended().await;
        let (result, positions) = output.finish().await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(positions.is_empty());
    }
}
