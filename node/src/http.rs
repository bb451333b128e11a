//! The node's HTTP port: health, readiness, metrics and status, for machines that watch it.
//!
//! No TLS and no login, so it listens on loopback unless configured; nothing can be changed
//! through it. One request a connection, and everything about it is bounded: connections, head
//! size, time.

use crate::metrics;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use weir_core::wire::message::NodeStatus;

/// Most connections at once; one more pushes out the oldest that has not said what it wants.
const CONNECTIONS_MAX: usize = 32;
/// Largest request head, in bytes; also hyper's buffer of a connection.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a request.
const HEADERS_MAX: usize = 64;
/// Longest time for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a whole connection: request and answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to pause when the system gives no connection (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the node is, as `/health` and `/ready` say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeHealth {
    /// `starting`, `serving` or `stopping`.
    pub state: &'static str,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it does all its work: every shard takes appends.
    pub healthy: bool,
    /// What a person should know of, in words; empty if all is well. Not everything here makes a
    /// node unhealthy: a wrong clock is a problem, and the node works with it.
    pub problems: Vec<String>,
}

/// What is served.
pub trait Source: Send + Sync + 'static {
    /// How the node is.
    fn health(&self) -> NodeHealth;
    /// What it is doing; `None` while it does not serve.
    fn status(&self) -> Option<NodeStatus>;
}

/// Serves `source` on `listener`, for ever.
///
/// # Cancel safety
/// Dropping the future stops listening; answers under way are finished by tasks of their own
/// within [`CONNECTION_TIMEOUT`].
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) {
    let mut open = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                make_room(&mut open);
                open.push_back(Open::begin(stream, source.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that a task of its own serves.
struct Open {
    task: AbortHandle,
    /// Whether its request has arrived.
    asked: Arc<AtomicBool>,
}

impl Open {
    fn begin(stream: TcpStream, source: Arc<dyn Source>) -> Open {
        let asked = Arc::new(AtomicBool::new(false));
        let served = connection(stream, source, asked.clone());
        let task = tokio::spawn(async move {
            if tokio::time::timeout(CONNECTION_TIMEOUT, served).await.is_err() {
                tracing::debug!("an HTTP connection took too long and was dropped");
            }
        });
        Open { task: task.abort_handle(), asked }
    }
}

/// Drops connections until there is room for one more: whoever watches the node must get in,
/// however many others connect and say nothing. `open` is in the order of arrival.
fn make_room(open: &mut VecDeque<Open>) {
    open.retain(|connection| !connection.task.is_finished());
    while open.len() >= CONNECTIONS_MAX {
        let silent = open.iter().position(|connection| !connection.asked.load(Ordering::Relaxed));
        if let Some(dropped) = open.remove(silent.unwrap_or(0)) {
            tracing::debug!("an HTTP connection made room for another");
            dropped.task.abort();
        }
    }
}

async fn connection(stream: TcpStream, source: Arc<dyn Source>, asked: Arc<AtomicBool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let answer = answer(request.method(), request.uri().path(), source.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "an HTTP connection failed");
    }
}

fn answer(method: &Method, path: &str, source: &dyn Source) -> Response<Full<Bytes>> {
    let known = ["/", "/health", "/ready", "/metrics", "/status"];
    if !known.contains(&path) {
        return text(StatusCode::NOT_FOUND, "not found; see /\n".into());
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/health" => {
            let health = source.health();
            json(health.healthy, &health)
        }
        "/ready" => {
            let health = source.health();
            json(health.ready, &health)
        }
        "/metrics" => {
            let body = metrics::render(&source.health(), source.status().as_ref());
            respond(StatusCode::OK, metrics::CONTENT_TYPE, body)
        }
        "/status" => match source.status() {
            Some(status) => json(true, &status),
            None => json(false, &source.health()),
        },
        _ => text(
            StatusCode::OK,
            "weir\n/health   200, or 503 with what is wrong\n/ready    200 once requests are \
             taken\n/metrics  Prometheus text format\n/status   everything about the node, JSON\n"
                .into(),
        ),
    }
}

fn json<T: Serialize>(good: bool, value: &T) -> Response<Full<Bytes>> {
    let body = serde_json::to_string(value);
    match body {
        Ok(body) if good => respond(StatusCode::OK, "application/json", body + "\n"),
        Ok(body) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let mut answer = respond(status, "application/json", body + "\n");
            answer.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("5"));
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Fixed(Mutex<NodeHealth>);

    impl Fixed {
        fn new(ready: bool, healthy: bool, problems: &[&str]) -> Fixed {
            let problems = problems.iter().map(|p| (*p).into()).collect();
            Fixed(Mutex::new(NodeHealth { state: "serving", ready, healthy, problems }))
        }
    }

    impl Source for Fixed {
        fn health(&self) -> NodeHealth {
            self.0.lock().unwrap().clone()
        }

        fn status(&self) -> Option<NodeStatus> {
            let ready = self.health().ready;
            ready.then(|| NodeStatus { node: "n1".into(), ..NodeStatus::default() })
        }
    }

    async fn get(path: &str, source: &Fixed) -> (u16, String) {
        let answer = answer(&Method::GET, path, source);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Goal: a node with a shard offline is ready but not healthy, one that starts is neither.
    #[tokio::test]
    async fn health_and_readiness() {
        let well = Fixed::new(true, true, &[]);
        assert_eq!(get("/health", &well).await.0, 200);
        assert_eq!(get("/ready", &well).await.0, 200);
        let sick = Fixed::new(true, false, &["shard 0 is offline"]);
        let (status, body) = get("/health", &sick).await;
        assert_eq!(status, 503);
        assert!(body.contains("shard 0 is offline"), "{body}");
        assert_eq!(get("/ready", &sick).await.0, 200);
        let wrong_clock = Fixed::new(true, true, &["the clock is behind"]);
        let (status, body) = get("/health", &wrong_clock).await;
        assert_eq!(status, 200);
        assert!(body.contains("the clock is behind"), "{body}");
        let starting = Fixed::new(false, false, &[]);
        for path in ["/health", "/ready", "/status"] {
            assert_eq!(get(path, &starting).await.0, 503, "{path}");
        }
        assert_eq!(get("/metrics", &starting).await.0, 200);
    }

    #[tokio::test]
    async fn paths_and_methods() {
        let well = Fixed::new(true, true, &[]);
        let (status, body) = get("/status", &well).await;
        assert_eq!(status, 200);
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["node"], "n1");
        assert!(get("/metrics", &well).await.1.contains("weir_ready 1"));
        assert_eq!(get("/nothing", &well).await.0, 404);
        let posted = answer(&Method::POST, "/status", &well);
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(posted.headers()[ALLOW], "GET, HEAD");
    }

    async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Goal: over a real socket, a good request is answered, and a huge head is refused while
    /// others are still served.
    #[tokio::test]
    async fn over_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed::new(true, true, &[]))));
        let ask = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
        let answer = exchange(address, ask).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        let mut huge = b"GET /health HTTP/1.1\r\nx: ".to_vec();
        huge.resize(4 * HEAD_BYTES_MAX, b'a');
        let answer = exchange(address, &huge).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(exchange(address, ask).await.starts_with("HTTP/1.1 200"));
        server.abort();
    }

    /// Goal: connections that never say what they want do not keep others out: the oldest of them
    /// go, the newest are still served.
    #[tokio::test]
    async fn silent_connections_make_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed::new(true, true, &[]))));
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
            silent.push(stream);
        }
        let ask = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
        assert!(exchange(address, ask).await.starts_with("HTTP/1.1 200"));
        // Had the others been waited for until they timed out, this one would be gone, too.
        let mut newest = silent.pop().unwrap();
        newest.write_all(b"host: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        newest.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let oldest = silent.first_mut().unwrap();
        // An end or a reset, but no answer.
        assert!(!matches!(oldest.read(&mut [0; 1]).await, Ok(1..)));
        server.abort();
    }
}
