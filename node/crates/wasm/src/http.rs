//! Requests that a module sends over HTTP: `wit/http.wit` as the engine sees it.
//!
//! What is here counts and bounds; what a deployment may reach and how requests travel is the
//! caller's ([`HttpClient`]). A module that waits for answers takes no CPU time, and other modules
//! on its thread go on. A call that is abandoned abandons its requests.

use crate::guest::Guest;
use crate::limits::{self, HTTP_AT_ONCE, HTTP_RESPONSES_BYTES_MAX};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::task::JoinSet;
use wasmtime::component::{ComponentType, Lift, Lower};

/// A header of a request or response.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct HttpRequest {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// `http` or `https`, whole.
    pub url: String,
    /// Headers.
    pub headers: Vec<Header>,
    /// What is sent along; may be empty.
    pub body: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct HttpResponse {
    /// 200 and so on.
    pub status: u16,
    /// Headers.
    pub headers: Vec<Header>,
    /// What was sent along.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, Error, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum HttpError {
    /// It was not granted. Nothing was sent.
    #[error("{0}")]
    #[component(name = "not-allowed")]
    NotAllowed(String),
    /// It is no request. Nothing was sent.
    #[error("{0}")]
    #[component(name = "invalid")]
    Invalid(String),
    /// The call has sent as many as it may. Nothing was sent.
    #[error("more than {0} requests in one call")]
    #[component(name = "too-many")]
    TooMany(u32),
    /// No response within so many milliseconds.
    #[error("no response within {0} ms")]
    #[component(name = "timeout")]
    Timeout(u32),
    /// The call has waited as long as it may, in milliseconds.
    #[error("the call has waited {0} ms for responses, which is all that it may")]
    #[component(name = "out-of-time")]
    OutOfTime(u32),
    /// A response of more bytes than a module is given.
    #[error("the response is larger than the limit of {0} bytes")]
    #[component(name = "too-large")]
    TooLarge(u64),
    /// No connection, or it broke.
    #[error("{0}")]
    #[component(name = "failed")]
    Failed(String),
}

/// What one request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// From its begin to the end of the response.
    pub timeout: Duration,
    /// The response, headers and body.
    pub response_bytes: usize,
}

/// A response, or why there is none.
pub type HttpResult = Result<HttpResponse, HttpError>;

/// How requests of one deployment travel, and where to.
pub trait HttpClient: Send + Sync {
    /// Sends a request if its deployment may, within `limits`.
    fn send(
        self: Arc<Self>,
        request: HttpRequest,
        limits: RequestLimits,
    ) -> Pin<Box<dyn Future<Output = HttpResult> + Send>>;
}

/// What a module did over HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpUse {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Those of them without a response.
    pub failures: u64,
    /// How long the module waited.
    pub waited: Duration,
}

impl HttpUse {
    /// Adds what another call did.
    pub fn add(&mut self, other: HttpUse) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.waited += other.waited;
    }
}

/// What an instance may do and did over HTTP.
#[derive(Default)]
pub(crate) struct GuestHttp {
    pub(crate) client: Option<Arc<dyn HttpClient>>,
    /// Of the running call: requests, and how long it waited.
    pub(crate) sent: u32,
    pub(crate) waited: Duration,
    /// Since it was looked at last.
    pub(crate) did: HttpUse,
}

/// Sends requests, some at a time, and waits for all.
///
/// # Cancel safety
/// Requests that are on their way are given up.
pub(crate) async fn send_all(guest: &mut Guest, requests: Vec<HttpRequest>) -> Vec<HttpResult> {
    let limits = guest.limits;
    let count = requests.len();
    let may = limits.http_requests.saturating_sub(guest.http.sent) as usize;
    let left = limits.http_wait.saturating_sub(guest.http.waited);
    let (began, ticker) = (Instant::now(), guest.ticker.clone());
    let mut flight = match &guest.http.client {
        Some(client) => Flight::new(client.clone(), &limits, count),
        None => return refused(guest, &requests),
    };
    {
        // Nothing runs meanwhile, as far as this guest goes.
        let _waiting = ticker.waiting();
        let sending = flight.run(requests.into_iter().take(may).enumerate());
        // What is not answered by then stays unanswered.
        let _ = tokio::time::timeout(left, sending).await;
    }
    let waited = began.elapsed();
    let out_of_time = HttpError::OutOfTime(millis(limits.http_wait));
    let results = flight.results.into_iter().enumerate().map(|(at, result)| match result {
        Some(result) => result,
        None if at >= may => Err(HttpError::TooMany(limits.http_requests)),
        None => Err(out_of_time.clone()),
    });
    let results: Vec<HttpResult> = results.collect();
    guest.http.sent = guest.http.sent.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    guest.http.waited += waited;
    account(guest, &results, waited);
    results
}

/// A deployment to which nothing was granted, or a module outside of a deployment.
fn refused(guest: &mut Guest, requests: &[HttpRequest]) -> Vec<HttpResult> {
    let refuse = |request: &HttpRequest| {
        let to: String = request.url.chars().take(limits::URL_SHOWN_CHARS).collect();
        let message =
            format!("requests over HTTP are not allowed ({to}): grant hosts with --allow-http");
        Err(HttpError::NotAllowed(message))
    };
    let results: Vec<HttpResult> = requests.iter().map(refuse).collect();
    account(guest, &results, Duration::ZERO);
    results
}

fn account(guest: &mut Guest, results: &[HttpResult], waited: Duration) {
    let failures = results.iter().filter(|result| result.is_err()).count() as u64;
    guest.http.did.add(HttpUse { requests: results.len() as u64, failures, waited });
}

/// Milliseconds, as errors have them.
pub(crate) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Requests on their way.
struct Flight {
    client: Arc<dyn HttpClient>,
    one: RequestLimits,
    /// Bytes that responses may still take, all together.
    room: usize,
    results: Vec<Option<HttpResult>>,
    /// Dropped with the flight, and what is in it is given up. Tasks of their own: what it takes to
    /// send is not CPU time of the module.
    tasks: JoinSet<(usize, HttpResult)>,
}

impl Flight {
    fn new(client: Arc<dyn HttpClient>, limits: &limits::GuestLimits, count: usize) -> Flight {
        let one = RequestLimits {
            timeout: limits.http_timeout,
            response_bytes: limits.http_response_bytes,
        };
        let results = std::iter::repeat_with(|| None).take(count).collect();
        Flight { client, one, room: HTTP_RESPONSES_BYTES_MAX, results, tasks: JoinSet::new() }
    }

    async fn run(&mut self, requests: impl Iterator<Item = (usize, HttpRequest)>) {
        for (at, request) in requests {
            if self.tasks.len() >= HTTP_AT_ONCE {
                self.next().await;
            }
            let sending = self.client.clone().send(request, self.one);
            self.tasks.spawn(async move { (at, sending.await) });
        }
        while !self.tasks.is_empty() {
            self.next().await;
        }
    }

    /// Takes one answer.
    async fn next(&mut self) {
        // A task that panicked leaves its place without an answer.
        let Some(Ok((at, result))) = self.tasks.join_next().await else { return };
        let bytes = result.as_ref().map_or(0, size);
        let result = match self.room.checked_sub(bytes) {
            Some(room) => {
                self.room = room;
                result
            }
            None => Err(HttpError::TooLarge(HTTP_RESPONSES_BYTES_MAX as u64)),
        };
        if let Some(place) = self.results.get_mut(at) {
            *place = Some(result);
        }
    }
}

/// What a response takes.
fn size(response: &HttpResponse) -> usize {
    let headers = response.headers.iter().map(|header| header.name.len() + header.value.len());
    headers.sum::<usize>() + response.body.len()
}
