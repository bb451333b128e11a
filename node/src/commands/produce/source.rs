//! The thread that reads inputs and makes records, so that slow inputs and JSON hold up neither
//! the network nor each other.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;
use weir_core::limits::RECORD_BYTES_MAX;

use super::lines::{Line, Lines};
use super::rules::{InputFormat, Made, Maker, Rules};

/// Chunks of records that may wait for the sender.
const CHUNKS_MAX: usize = 8;

/// A line that no record could be made of.
#[derive(Debug)]
pub struct BadLine {
    /// The input that it is in.
    pub input: Arc<str>,
    /// Its number, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What one read of an input gave, in order.
#[derive(Debug)]
pub enum Item {
    /// A record.
    Record(Made),
    /// A line that is none.
    Bad(BadLine),
}

/// Inputs being read by a thread.
#[derive(Debug)]
pub struct Source {
    receiver: mpsc::Receiver<io::Result<Vec<Item>>>,
    /// Bytes of the files that were read, packed where they are packed.
    pub bytes_read: Arc<AtomicU64>,
    /// Bytes of all the files, if all are plain files.
    pub bytes_total: Option<u64>,
}

impl Source {
    /// Starts to read `paths`, or stdin if there are none. `-` is stdin, too.
    ///
    /// # Errors
    /// The first file that cannot be opened: nothing is read then.
    pub fn start(paths: Vec<PathBuf>, rules: Rules) -> io::Result<Source> {
        let paths = if paths.is_empty() { vec![PathBuf::from("-")] } else { paths };
        let bytes_total = total_bytes(&paths)?;
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
        let reader =
            Reader { maker: Maker::new(rules.clone()), rules, bytes_read: bytes_read.clone() };
        std::thread::Builder::new()
            .name("weir-produce-input".to_owned())
            .spawn(move || reader.read_all(&paths, &sender))?;
        Ok(Source { receiver, bytes_read, bytes_total })
    }

    /// What comes next; none at the end of the last input.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn next(&mut self) -> Option<io::Result<Vec<Item>>> {
        self.receiver.recv().await
    }
}

/// Sizes of all files together; none if one of them is no plain file.
fn total_bytes(paths: &[PathBuf]) -> io::Result<Option<u64>> {
    let mut total = Some(0);
    for path in paths {
        if path == Path::new("-") {
            total = None;
            continue;
        }
        let metadata = std::fs::metadata(path).map_err(|error| at(path, &error))?;
        let size = metadata.is_file().then_some(metadata.len());
        total = total.zip(size).map(|(sum, size)| sum + size);
    }
    Ok(total)
}

struct Reader {
    maker: Maker,
    rules: Rules,
    bytes_read: Arc<AtomicU64>,
}

type ItemSender = mpsc::Sender<io::Result<Vec<Item>>>;

impl Reader {
    fn read_all(mut self, paths: &[PathBuf], sender: &ItemSender) {
        for path in paths {
            self.maker.begin_file();
            match self.read_one(path, sender) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // If nobody is there to hear of it, nobody needs it.
                    let _ = sender.blocking_send(Err(at(path, &error)));
                    return;
                }
            }
        }
    }

    /// False if nobody wants any more.
    fn read_one(&mut self, path: &Path, sender: &ItemSender) -> io::Result<bool> {
        let input = open(path, &self.bytes_read)?;
        let mut lines = match self.rules.format {
            InputFormat::Csv => Lines::rows(input, RECORD_BYTES_MAX),
            InputFormat::Lines | InputFormat::Json => Lines::new(input, RECORD_BYTES_MAX),
        };
        let name: Arc<str> = match path.to_str() {
            Some("-") => "stdin".into(),
            _ => path.to_string_lossy().into(),
        };
        let mut found = Vec::new();
        loop {
            let more = lines.read_more(&mut found)?;
            if !found.is_empty() {
                let items = found.drain(..).filter_map(|line| self.make(&name, &line)).collect();
                if sender.blocking_send(Ok(items)).is_err() {
                    return Ok(false);
                }
            }
            if !more {
                return Ok(true);
            }
        }
    }

    fn make(&mut self, input: &Arc<str>, line: &Line) -> Option<Item> {
        match self.maker.make(line) {
            Ok(made) => made.map(Item::Record),
            Err(reason) => {
                let (input, number) = (input.clone(), line.number);
                Some(Item::Bad(BadLine { input, number, reason }))
            }
        }
    }
}

fn open(path: &Path, bytes_read: &Arc<AtomicU64>) -> io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = Counting { file: File::open(path)?, bytes_read: bytes_read.clone() };
    let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Counts what is read of a file, for the progress bar.
struct Counting {
    file: File,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.bytes_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The same error, with the file that it is about.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    async fn all(paths: Vec<PathBuf>, rules: Rules) -> (Vec<Item>, Source) {
        let mut source = Source::start(paths, rules).unwrap();
        let mut items = Vec::new();
        while let Some(chunk) = source.next().await {
            items.extend(chunk.unwrap());
        }
        (items, source)
    }

    fn rules(format: InputFormat) -> Rules {
        Rules {
            format,
            key: None,
            time: None,
            time_format: weir_collect::TimeFormat::default(),
            delimiter: b',',
            keep_names: false,
        }
    }

    /// Goal: several files, packed and not, come one after the other; the progress counts their
    /// bytes as they lie on disk; bad lines carry their file and number.
    #[tokio::test]
    async fn files_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, packed) = (dir.path().join("a.json"), dir.path().join("b.json.gz"));
        std::fs::write(&plain, "1\nbad\n2").unwrap();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"3\n").unwrap();
        let gzip = encoder.finish().unwrap();
        std::fs::write(&packed, &gzip).unwrap();
        let (items, source) = all(vec![plain, packed], rules(InputFormat::Json)).await;
        let text: Vec<String> = items
            .iter()
            .map(|item| match item {
                Item::Record(made) => format!("{:?} {}", made.value, made.unterminated),
                Item::Bad(bad) => format!("bad {}", bad.number),
            })
            .collect();
        assert_eq!(text, ["b\"1\" false", "bad 2", "b\"2\" true", "b\"3\" false"]);
        let size = 7 + gzip.len() as u64;
        assert_eq!(source.bytes_total, Some(size));
        assert_eq!(source.bytes_read.load(Ordering::Relaxed), size);
    }

    #[tokio::test]
    async fn a_missing_file_is_said_before_anything_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let error = Source::start(vec![dir.path().join("none")], rules(InputFormat::Lines));
        assert!(error.unwrap_err().to_string().contains("none: "));
    }
}
