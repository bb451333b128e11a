//! Inputs that are not followed: files, TCP, UDP and serial devices, over the real thing.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};
use weir_collect::lines::LineOptions;
use weir_collect::nmea::{NmeaOptions, checksum};
use weir_collect::{Collected, Collector, Input, Retry, SourceError};

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn next(collector: &mut Collector) -> Collected {
    collector.next().await.unwrap().expect("the input goes on")
}

async fn next_text(collector: &mut Collector) -> String {
    String::from_utf8(next(collector).await.value.to_vec()).unwrap()
}

fn quick() -> Retry {
    Retry { first: Duration::from_millis(1), max: Duration::from_millis(5), ..Retry::default() }
}

fn gga(time: u32) -> String {
    let body = format!("GPGGA,{time},4800.0,N,01100.0,E,1,04,0.9,100.0,M,40.0,M,,");
    format!("${body}*{:02X}\r\n", checksum(body.as_bytes()))
}

/// Files one after the other, packed or not; the last line of each ends with its file.
#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("a");
    std::fs::write(&plain, "one\r\ntwo").unwrap();
    let packed = folder.path().join("b.gz");
    let file = std::fs::File::create(&packed).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(b"three\nfour\n").unwrap();
    gzip.finish().unwrap();
    run(async {
        let input = Input::Files(vec![plain, packed]);
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        let mut seen = Vec::new();
        while let Some(record) = collector.next().await.unwrap() {
            seen.push(String::from_utf8(record.value.to_vec()).unwrap());
        }
        assert_eq!(seen, ["one", "two", "three", "four"]);
        assert!(collector.next().await.unwrap().is_none(), "the end stays the end");
        assert!(collector.checkpoints().is_empty());
    });
}

/// A damaged archive yields what came before the damage, then an error, then nothing.
#[test]
fn a_damaged_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gz");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let text: String = (0..50_000).map(|n| format!("{}\n", n * 7_919 % 10_007)).collect();
    gzip.write_all(text.as_bytes()).unwrap();
    let bytes = gzip.finish().unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    run(async {
        let input = Input::Files(vec![path]);
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        let mut count = 0;
        let error = loop {
            match collector.next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => panic!("the damage was not noticed"),
                Err(error) => break error,
            }
        };
        assert!((10_000..50_000).contains(&count), "{count}");
        assert!(matches!(error, SourceError::Read { .. }), "{error}");
        assert!(collector.next().await.unwrap().is_none());
    });
}

/// What cannot be opened is said at once.
#[test]
fn refusals() {
    run(async {
        let missing = Input::Files(vec![PathBuf::from("/nonexistent/file")]);
        let error = Collector::lines(missing, LineOptions::default()).await.err().unwrap();
        assert!(error.to_string().starts_with("cannot open /nonexistent/file"), "{error}");
        let none = Input::Files(vec![]);
        let error = Collector::lines(none, LineOptions::default()).await.err().unwrap();
        assert!(matches!(error, SourceError::FileCount { count: 0 }));
        let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr();
        let bind = "192.0.2.1:1".parse().unwrap();
        let error = Collector::nmea(Input::Udp { bind }, NmeaOptions::default()).await.err();
        assert!(matches!(error, Some(SourceError::Bind { .. })), "{taken:?}");
    });
}

/// A TCP server that breaks off inside a sentence: the rest is not glued to the next connection.
#[test]
fn tcp_reconnects() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = NmeaOptions { idle_after: Duration::from_secs(3_600), ..Default::default() };
        let input = Input::Tcp { address, retry: quick() };
        let mut collector = Collector::nmea(input, options).await.unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(gga(120_000).as_bytes()).await.unwrap();
            stream.write_all(b"$GPGGA,12").await.unwrap();
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(gga(120_001).as_bytes()).await.unwrap();
            stream.write_all(gga(120_002).as_bytes()).await.unwrap();
            stream
        };
        let client = async {
            let torn = next(&mut collector).await;
            assert_eq!(&torn.value[..], b"$GPGGA,12");
            assert_eq!(torn.header("reason"), Some(&b"no-checksum"[..]));
            for _ in 0..2 {
                assert_eq!(next(&mut collector).await.header("kind"), Some(&b"position"[..]));
            }
        };
        let (_stream, ()) = tokio::join!(server, client);
        assert_eq!(collector.counts().dead_letters, 1);
    });
}

/// A server that never answers is given up after the attempts allowed; the end of a stream can
/// be the end of the input.
#[test]
fn tcp_ends() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let retry = Retry { end_at_eof: true, ..quick() };
        let input = Input::Tcp { address: address.clone(), retry };
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"one\nlast").await.unwrap();
        drop(stream);
        assert_eq!(next_text(&mut collector).await, "one");
        assert_eq!(next_text(&mut collector).await, "last");
        assert!(collector.next().await.unwrap().is_none());

        drop(listener);
        let retry = Retry { attempts_max: Some(2), ..quick() };
        let input = Input::Tcp { address, retry };
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        let error = collector.next().await.unwrap_err();
        assert!(matches!(error, SourceError::GaveUp { attempts: 2, .. }), "{error}");
    });
}

/// Datagrams hold whole lines; an epoch is complete after silence, and the sender is the key.
#[test]
fn udp() {
    run(async {
        let bind = "127.0.0.1:0".parse().unwrap();
        let options = NmeaOptions { idle_after: Duration::from_millis(20), ..Default::default() };
        let mut collector = Collector::nmea(Input::Udp { bind }, options).await.unwrap();
        let to = collector.local_addr().unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        sender.send_to(b"torn", to).await.unwrap();
        sender.send_to(gga(120_000).as_bytes(), to).await.unwrap();
        sender.send_to(b"", to).await.unwrap();
        let torn = next(&mut collector).await;
        assert_eq!(&torn.value[..], b"torn");
        let position = next(&mut collector).await;
        assert_eq!(position.header("kind"), Some(&b"position"[..]));
        assert_eq!(position.key.as_deref(), Some(&b"127.0.0.1"[..]));
    });
}

/// A pseudo-terminal in place of a receiver: raw mode passes every byte, and a device that goes
/// away is waited for, then given up.
#[test]
fn serial() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    run(async {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
        let path = PathBuf::from(name);
        let retry = Retry { attempts_max: Some(2), ..quick() };
        let input = Input::Serial { path, baud: 9_600, retry };
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        // In cooked mode \x03 would be an interrupt, \x04 the end, and \r a line end.
        rustix::io::write(&controller, b"a\x03\x04b\rc\r\nnext\n").unwrap();
        assert_eq!(next_text(&mut collector).await, "a\x03\x04b\rc");
        assert_eq!(next_text(&mut collector).await, "next");
        drop(controller);
        let error = collector.next().await.unwrap_err();
        assert!(matches!(error, SourceError::GaveUp { .. }), "{error}");
    });
}

/// What is no terminal is read as it is.
#[test]
fn serial_of_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "one\n").unwrap();
    run(async {
        let input =
            Input::Serial { path: file.path().to_owned(), baud: 9_600, retry: Retry::default() };
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        assert_eq!(next_text(&mut collector).await, "one");
        assert!(collector.next().await.unwrap().is_none());
    });
}

/// A call that is dropped while it waits loses nothing, wherever in a line that is.
#[test]
fn next_is_cancel_safe() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let input = Input::Tcp { address, retry: quick() };
        let mut collector = Collector::lines(input, LineOptions::default()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        for n in 0..200 {
            for part in [&b"li"[..], b"ne "] {
                stream.write_all(part).await.unwrap();
                for _ in 0..3 {
                    tokio::select! {
                        biased;
                        record = collector.next() => panic!("no line is complete: {record:?}"),
                        () = tokio::task::yield_now() => {}
                    }
                }
            }
            stream.write_all(format!("{n}\n").as_bytes()).await.unwrap();
            assert_eq!(next_text(&mut collector).await, format!("line {n}"));
        }
    });
}
