//! TCP client and UDP listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{BeginContext, Event, EventSender, Retry, SourceError};
use crate::limits::{CHUNK_BYTES, DATAGRAM_BYTES_MAX};

/// Longest that one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Binds the UDP socket.
pub(super) async fn bind_udp(bind: SocketAddr) -> Result<UdpSocket, SourceError> {
    UdpSocket::bind(bind).await.map_err(|source| SourceError::Bind { address: bind, source })
}

/// Receives datagrams until the collector is gone.
pub(super) async fn run_udp(socket: UdpSocket, events: EventSender) {
    if !begin(&events).await {
        return;
    }
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut last: Option<(SocketAddr, Arc<str>)> = None;
    loop {
        let (n, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP "unreachable" for something else on this socket; nothing of ours failed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(source) => {
                let name = "the UDP socket".to_owned();
                let _ = events.send(Err(SourceError::Read { name, source })).await;
                return;
            }
        };
        let sender = match &last {
            Some((address, name)) if *address == from => name.clone(),
            _ => Arc::from(from.ip().to_string()),
        };
        last = Some((from, sender.clone()));
        let bytes = Bytes::copy_from_slice(&buffer[..n]);
        let data = Event::Data { lane: 0, bytes, sender: Some(sender) };
        if events.send(Ok(data)).await.is_err()
            || events.send(Ok(Event::Break { lane: 0 })).await.is_err()
        {
            return;
        }
    }
}

/// Connects, reads, and connects again, until the collector is gone or the attempts are used up.
pub(super) async fn run_tcp(address: String, retry: Retry, events: EventSender) {
    if !begin(&events).await {
        return;
    }
    let mut failures = 0;
    loop {
        let outcome = match connect(&address).await {
            Ok(stream) => {
                tracing::info!(address, "connected");
                read_stream(stream, &retry, &events, &mut failures).await
            }
            Err(error) => Outcome::Failed(error),
        };
        let error = match outcome {
            Outcome::CollectorGone => return,
            Outcome::Eof if retry.end_at_eof => {
                let _ = events.send(Ok(Event::End { lane: 0 })).await;
                return;
            }
            Outcome::Eof => io::Error::from(io::ErrorKind::UnexpectedEof),
            Outcome::Failed(error) => error,
        };
        failures += 1;
        if retry.exhausted(failures) {
            let _ = events.send(Ok(Event::End { lane: 0 })).await;
            let gave_up = SourceError::GaveUp { name: address, attempts: failures, source: error };
            let _ = events.send(Err(gave_up)).await;
            return;
        }
        let pause = retry.pause(failures);
        tracing::warn!(address, %error, pause_ms = pause.as_millis() as u64, "not connected");
        if events.send(Ok(Event::Break { lane: 0 })).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = events.closed() => return,
        }
    }
}

enum Outcome {
    CollectorGone,
    Eof,
    Failed(io::Error),
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// Reads one connection to its end. The first bytes end the row of `failures`.
async fn read_stream(
    mut stream: TcpStream,
    retry: &Retry,
    events: &EventSender,
    failures: &mut u32,
) -> Outcome {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        let read = match retry.silence_max {
            Some(silence) => match timeout(silence, stream.read_buf(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            },
            None => stream.read_buf(&mut buffer).await,
        };
        match read {
            Ok(0) => return Outcome::Eof,
            Ok(_) => {
                *failures = 0;
                let bytes = buffer.split().freeze();
                let data = Event::Data { lane: 0, bytes, sender: None };
                if events.send(Ok(data)).await.is_err() {
                    return Outcome::CollectorGone;
                }
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
}

/// Opens lane 0. False if the collector is gone.
pub(super) async fn begin(events: &EventSender) -> bool {
    let context = BeginContext::default();
    events.send(Ok(Event::Begin { lane: 0, offset: 0, file: None, context })).await.is_ok()
}
