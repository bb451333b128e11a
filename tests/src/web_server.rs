//! A web server for tests of what a node sends over HTTP: plain sockets, so that what arrives is
//! what was sent.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a server says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response of this status.
    Status(u16),
    /// A response of so many bytes.
    Bytes(usize),
    /// Nothing: it holds the connection until the other side gives up.
    Nothing,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Method, path and protocol.
    pub line: String,
    /// Headers, names in lower case.
    pub headers: HashMap<String, String>,
    /// What was sent along.
    pub body: String,
    /// What the server said to it.
    pub answer: Answer,
}

#[derive(Debug)]
struct Shared {
    received: Vec<Received>,
    answer: Answer,
    /// Connections on which nothing was said, and which the other side closed.
    given_up: usize,
}

/// A web server on a port of this machine, until the test ends.
#[derive(Clone, Debug)]
pub struct WebServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl WebServer {
    /// A server on a free port.
    ///
    /// # Errors
    /// The system's.
    pub fn start(answer: Answer) -> Result<WebServer> {
        WebServer::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), answer)
    }

    /// A server at this address: where there was none before.
    ///
    /// # Errors
    /// The system's.
    pub fn start_at(address: SocketAddr, answer: Answer) -> Result<WebServer> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Shared { received: Vec::new(), answer, given_up: 0 };
        let server = WebServer { address, shared: Arc::new(Mutex::new(shared)) };
        let serving = server.clone();
        // It ends with the process: the test's.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || {
                    // A client that goes away in the middle is one of the things that are tested.
                    let _ = serving.serve(stream);
                });
            }
        });
        Ok(server)
    }

    /// A port where nobody listens.
    ///
    /// # Errors
    /// The system's.
    pub fn nobody() -> Result<SocketAddr> {
        Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
    }

    /// Where it is, as `HOST:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it says from now on.
    pub fn answer(&self, answer: Answer) {
        self.shared().answer = answer;
    }

    /// What has arrived, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared().received.clone()
    }

    /// How many connections on which nothing was said the other side has closed.
    #[must_use]
    pub fn given_up(&self) -> usize {
        self.shared().given_up
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            anyhow::ensure!(reader.read_line(&mut line)? > 0, "the request is cut off");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let line = lines.next().context("no request line")?;
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let headers: HashMap<String, String> = pairs.collect();
        let length = headers.get("content-length").map_or(Ok(0), |length| length.parse())?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8(body)?;
        let answer = {
            let mut shared = self.shared();
            let answer = shared.answer;
            shared.received.push(Received { line, headers, body, answer });
            answer
        };
        let (status, body) = match answer {
            Answer::Status(status) => (status, "said by the test".to_owned()),
            Answer::Bytes(bytes) => (200, "x".repeat(bytes)),
            Answer::Nothing => {
                let gone = matches!(reader.read(&mut [0; 1]), Ok(0) | Err(_));
                self.shared().given_up += usize::from(gone);
                return Ok(());
            }
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status} Test\r\ncontent-length: {length}\r\n\r\n{body}")?;
        Ok(())
    }
}
