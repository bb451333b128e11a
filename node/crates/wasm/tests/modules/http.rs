//! Requests over HTTP: what is counted, what is bounded, and who goes on meanwhile.

use crate::support::{block_on, example_deployment, records};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use weir_core::TimestampMs;
use weir_wasm::abi::Place;
use weir_wasm::bisect::OnError;
use weir_wasm::columns::Watermark;
use weir_wasm::http::{HttpClient, HttpRequest, HttpResponse, HttpResult, RequestLimits};
use weir_wasm::state::NoState;
use weir_wasm::{GuestLimits, Report, Surroundings, Work, Worker};

/// A server at the end of a wire without a network: it answers once it is told to.
struct Wire {
    answer: Arc<Notify>,
}

impl HttpClient for Wire {
    fn send(
        self: Arc<Self>,
        request: HttpRequest,
        _limits: RequestLimits,
    ) -> Pin<Box<dyn Future<Output = HttpResult> + Send>> {
        Box::pin(async move {
            self.answer.notified().await;
            // Whoever waits next.
            self.answer.notify_one();
            Ok(HttpResponse { status: 200, headers: request.headers, body: request.body })
        })
    }
}

fn work(values: &[&str]) -> Work {
    let watermark = Watermark { at: TimestampMs(0), ..Watermark::START };
    Work { records: Some(records(values)), topic: 0, watermark, state: Arc::new(NoState) }
}

/// A worker of the example that posts what is above 80.
async fn alerts(limits: GuestLimits, answer: &Arc<Notify>) -> Worker {
    let params = [("url", "http://there/"), ("field", "t"), ("above", "80")];
    let mut deployment = example_deployment("webhook-alert", &params, OnError::Skip).await;
    let place = Place { deployment: "a".into(), topics: vec!["in".into()], partition: 7 };
    let http: Arc<dyn HttpClient> = Arc::new(Wire { answer: answer.clone() });
    deployment.around = Surroundings { place, http: Some(http) };
    deployment.limits = limits;
    Worker::new(deployment)
}

fn reasons(report: &Report) -> Vec<String> {
    report.judged.iter().map(|judged| judged.error.to_string()).collect()
}

/// Goal: a guest that waits lets another one of its thread go on, and the time is not CPU time.
/// Method: the answer comes only once the other guest is through, on one thread.
#[test]
fn waiting_holds_up_nobody() {
    block_on(async {
        let answer = Arc::new(Notify::new());
        let limits =
            GuestLimits { cpu_per_call: Duration::from_millis(500), ..GuestLimits::DEFAULT };
        let (mut first, mut second) =
            (alerts(limits, &answer).await, alerts(limits, &answer).await);
        let (one, other) = (work(&["{\"t\":81}"]), work(&["{\"t\":1}"]));
        let done = async {
            let other = second.process(&other).await;
            // sleep: longer than the CPU time that a call may take.
            tokio::time::sleep(Duration::from_millis(700)).await;
            answer.notify_one();
            other
        };
        let (one, other) = tokio::join!(first.process(&one), done);
        assert_eq!((reasons(&one.report), reasons(&other.report)), (vec![], vec![]));
        assert_eq!((one.report.http.requests, one.report.http.failures), (1, 0));
        assert!(one.report.http.waited >= Duration::from_millis(700), "{:?}", one.report);
        assert_eq!(other.report.http.requests, 0);
    });
}

/// Goal: a call waits no longer than it may in all, and what is sent after that fails at once.
#[test]
fn a_call_waits_only_so_long() {
    block_on(async {
        let limits = GuestLimits { http_wait: Duration::from_millis(50), ..GuestLimits::DEFAULT };
        let mut worker = alerts(limits, &Arc::new(Notify::new())).await;
        let made = worker.process(&work(&["{\"t\":81}", "{\"t\":1}", "{\"t\":82}"])).await;
        let reasons = reasons(&made.report);
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons.iter().all(|reason| reason.contains("waited 50 ms")), "{reasons:?}");
        assert_eq!((made.report.http.requests, made.report.http.failures), (2, 2));
    });
}

/// Goal: a call sends no more requests than it may.
#[test]
fn a_call_sends_only_so_many() {
    block_on(async {
        let answer = Arc::new(Notify::new());
        answer.notify_one();
        let limits = GuestLimits { http_requests: 2, ..GuestLimits::DEFAULT };
        let mut worker = alerts(limits, &answer).await;
        let made = worker.process(&work(&["{\"t\":81}", "{\"t\":82}", "{\"t\":83}"])).await;
        assert_eq!(reasons(&made.report), ["the module failed: more than 2 requests in one call"]);
        let made = worker.process(&work(&["{\"t\":81}", "{\"t\":82}"])).await;
        assert_eq!(reasons(&made.report), [""; 0], "the next call may send as many again");
    });
}
