//! Requests over HTTP, for consumers.

use crate::bindings::consumer::weir::module::http as host;
use crate::error::{Error, Result};
use std::fmt;

/// Begins requests. Only consumers may send them, to hosts that their deployments were granted
/// (`weir consumer create --allow-http HOST`).
///
/// ```ignore
/// Http::post(&self.url)
///     .header("content-type", "application/json")
///     .header("idempotency-key", cx.record_id(record))
///     .body(alert.to_string())
///     .send()?
///     .ok()?;
/// ```
///
/// A record whose `consume` fails is tried again later, and so may be one whose requests went
/// through: a request happens at least once. While a module waits, others run.
pub struct Http;

impl Http {
    /// A request to get something.
    pub fn get(url: impl Into<String>) -> Request {
        Request::new("GET", url)
    }

    /// A request that hands something over.
    pub fn post(url: impl Into<String>) -> Request {
        Request::new("POST", url)
    }

    /// A request to store something.
    pub fn put(url: impl Into<String>) -> Request {
        Request::new("PUT", url)
    }

    /// A request to delete something.
    pub fn delete(url: impl Into<String>) -> Request {
        Request::new("DELETE", url)
    }

    /// Sends several requests, some at a time, and waits for all. Results are in their order.
    pub fn send_all(
        requests: impl IntoIterator<Item = Request>,
    ) -> Vec<std::result::Result<Response, HttpError>> {
        let requests: Vec<host::Request> =
            requests.into_iter().map(|request| request.wire).collect();
        host::send(&requests).into_iter().map(taken).collect()
    }
}

/// A request to be sent.
#[must_use = "nothing happens before send()"]
pub struct Request {
    wire: host::Request,
}

impl Request {
    /// A request with any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Request {
        let (method, url) = (method.into(), url.into());
        Request { wire: host::Request { method, url, headers: Vec::new(), body: Vec::new() } }
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Request {
        let header = host::Header { name: name.into(), value: value.as_ref().to_vec() };
        self.wire.headers.push(header);
        self
    }

    /// What is sent along.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.wire.body = body.into();
        self
    }

    /// Sends it and waits for the response, whatever its status says: see [`Response::ok`].
    ///
    /// # Errors
    /// There is no response. Unless the error says that nothing was sent, the server may have done
    /// what was asked.
    pub fn send(self) -> std::result::Result<Response, HttpError> {
        let result = host::send(&[self.wire]).into_iter().next().map(taken);
        result.unwrap_or_else(|| Err(HttpError::Failed("no answer from the node".into())))
    }
}

/// A response.
pub struct Response {
    wire: host::Response,
}

impl Response {
    /// 200 and so on.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.wire.status
    }

    /// This response if its status is 200 to 299.
    ///
    /// # Errors
    /// Another status, with the begin of what the server said.
    pub fn ok(self) -> Result<Response> {
        if (200..300).contains(&self.status()) {
            return Ok(self);
        }
        let said: String = String::from_utf8_lossy(self.body()).chars().take(200).collect();
        Err(Error::msg(format_args!("the server answered {}: {said}", self.status())))
    }

    /// The first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let headers = self.wire.headers.iter();
        let mut found = headers.filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().map(|header| &*header.value)
    }

    /// What was sent along.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.wire.body
    }
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The deployment may not do this; the message says what to grant. Nothing was sent.
    NotAllowed(String),
    /// It is no request. Nothing was sent.
    Invalid(String),
    /// The call has sent as many as it may, which is this many. Nothing was sent.
    TooMany(u32),
    /// No response within so many milliseconds.
    Timeout(u32),
    /// The call has waited this many milliseconds in all, which is as long as it may.
    OutOfTime(u32),
    /// The response is larger than this many bytes.
    TooLarge(u64),
    /// No connection, or it broke.
    Failed(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::NotAllowed(message)
            | HttpError::Invalid(message)
            | HttpError::Failed(message) => f.write_str(message),
            HttpError::TooMany(most) => write!(f, "more than {most} requests in one call"),
            HttpError::Timeout(ms) => write!(f, "no response within {ms} ms"),
            HttpError::OutOfTime(ms) => {
                write!(f, "the call has waited {ms} ms for responses, which is all that it may")
            }
            HttpError::TooLarge(most) => {
                write!(f, "the response is larger than the limit of {most} bytes")
            }
        }
    }
}

impl std::error::Error for HttpError {}

fn taken(
    result: std::result::Result<host::Response, host::HttpError>,
) -> std::result::Result<Response, HttpError> {
    match result {
        Ok(wire) => Ok(Response { wire }),
        Err(error) => Err(match error {
            host::HttpError::NotAllowed(message) => HttpError::NotAllowed(message),
            host::HttpError::Invalid(message) => HttpError::Invalid(message),
            host::HttpError::TooMany(most) => HttpError::TooMany(most),
            host::HttpError::Timeout(ms) => HttpError::Timeout(ms),
            host::HttpError::OutOfTime(ms) => HttpError::OutOfTime(ms),
            host::HttpError::TooLarge(most) => HttpError::TooLarge(most),
            host::HttpError::Failed(message) => HttpError::Failed(message),
        }),
    }
}
