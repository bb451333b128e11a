//! How requests of consumers travel: HTTP/1.1, one connection each, to the hosts that were granted.
//!
//! A host is compared as the URL has it, before its name is resolved. Redirects are not followed
//! and proxies not asked: both would lead elsewhere.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use weir_core::deploy::http::HttpGrant;
use weir_transport::{HttpsClient, HttpsError};
use weir_wasm::http::{
    Header, HttpClient, HttpError, HttpRequest, HttpResponse, HttpResult, RequestLimits,
};

/// Most bytes of a request's URL and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// What the node says it is, unless the module does.
const AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
/// Headers that say how a message travels: the node's.
const OF_THE_NODE: [HeaderName; 7] =
    [HOST, CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Whom the system trusts: looked up once for a node, when it is first needed.
pub type SystemTrust = Arc<OnceCell<Result<HttpsClient, HttpsError>>>;

/// What one deployment may reach.
#[derive(Debug)]
pub struct Outgoing {
    grant: HttpGrant,
    /// Of the deployment's own certificates.
    own: Option<HttpsClient>,
    system: SystemTrust,
}

/// Where a request goes.
struct Target {
    https: bool,
    /// As the URL has it: an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Outgoing {
    /// For a deployment with this grant.
    ///
    /// # Errors
    /// Its certificates are none.
    pub fn new(grant: HttpGrant, system: SystemTrust) -> Result<Outgoing, HttpsError> {
        let own = grant.ca_pem.as_deref().map(HttpsClient::of_pem).transpose()?;
        Ok(Outgoing { grant, own, system })
    }

    async fn send(&self, request: HttpRequest, limits: RequestLimits) -> HttpResult {
        let (target, request) = self.check(request)?;
        let sending = self.exchange(&target, request, limits);
        let millis = u32::try_from(limits.timeout.as_millis()).unwrap_or(u32::MAX);
        let sent = timeout(limits.timeout, sending).await;
        sent.unwrap_or(Err(HttpError::Timeout(millis)))
    }

    /// Whether it is a request, and one that may be sent.
    fn check(&self, request: HttpRequest) -> Result<(Target, Request<Full<Bytes>>), HttpError> {
        let invalid = |message: String| HttpError::Invalid(message);
        let HttpRequest { method, url, headers, body } = request;
        let named: usize = headers.iter().map(|h| h.name.len() + h.value.len() + 4).sum();
        if url.len() + named > HEAD_BYTES_MAX {
            return Err(invalid(format!("URL and headers take more than {HEAD_BYTES_MAX} bytes")));
        }
        let uri: Uri = url.parse().map_err(|error| invalid(format!("the URL: {error}")))?;
        let target = Target::of(&uri)?;
        if !self.grant.allows(&target.host, target.port, target.https) {
            let Target { host, port, .. } = target;
            return Err(HttpError::NotAllowed(format!(
                "requests to {host}:{port} are not allowed: grant them with --allow-http \
                 {host}:{port}"
            )));
        }
        let method = Method::from_bytes(method.as_bytes());
        let method = method.map_err(|_| invalid("the method is not one".to_owned()))?;
        if method == Method::CONNECT {
            return Err(invalid("CONNECT is not for modules".to_owned()));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let mut built = Request::builder().method(method).uri(path);
        if let Some(to) = built.headers_mut() {
            fill(to, headers, &target)?;
        }
        let built = built.body(Full::new(Bytes::from(body)));
        Ok((target, built.map_err(|error| invalid(error.to_string()))?))
    }

    async fn exchange(
        &self,
        target: &Target,
        request: Request<Full<Bytes>>,
        limits: RequestLimits,
    ) -> HttpResult {
        let Target { https, host, port } = target;
        let plain = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let plain = plain.unwrap_or(host);
        let failed = |doing: &str, error: &dyn std::fmt::Display| {
            HttpError::Failed(format!("{doing} {host}:{port}: {error}"))
        };
        let tcp = TcpStream::connect((plain, *port)).await;
        let tcp = tcp.map_err(|error| failed("connecting to", &error))?;
        // A request is written at once; where that does not help it does no harm.
        let _ = tcp.set_nodelay(true);
        let done = if *https {
            let client = self.trust().await.map_err(|error| failed("trusting", &error))?;
            let stream = client.secure(plain, tcp).await;
            let stream = stream.map_err(|error| failed("TLS with", &error))?;
            talk(stream, request, limits).await
        } else {
            talk(tcp, request, limits).await
        };
        done.map_err(|error| match error {
            Talk::TooLarge => HttpError::TooLarge(limits.response_bytes as u64),
            Talk::Broken(why) => failed("talking to", &why),
        })
    }

    async fn trust(&self) -> Result<HttpsClient, HttpsError> {
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        let looked_up = self.system.get_or_init(|| async {
            let found = tokio::task::spawn_blocking(HttpsClient::of_system).await;
            found.unwrap_or_else(|panic| Err(HttpsError::NoneFound(format!(" ({panic})"))))
        });
        looked_up.await.clone()
    }
}

impl HttpClient for Outgoing {
    fn send(
        self: Arc<Self>,
        request: HttpRequest,
        limits: RequestLimits,
    ) -> Pin<Box<dyn Future<Output = HttpResult> + Send>> {
        Box::pin(async move { Outgoing::send(&self, request, limits).await })
    }
}

impl Target {
    fn of(uri: &Uri) -> Result<Target, HttpError> {
        let invalid = |message: &str| HttpError::Invalid(format!("the URL {message}"));
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("holds a user: put credentials into a header"));
        }
        let port = match (authority.port(), https) {
            (Some(port), _) => port.as_u16(),
            (None, true) => 443,
            (None, false) => 80,
        };
        Ok(Target { https, host: authority.host().to_ascii_lowercase(), port })
    }

    /// As the `Host` header has it: without the port that the scheme implies.
    fn header(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The module's headers, and the node's.
fn fill(to: &mut HeaderMap, headers: Vec<Header>, target: &Target) -> Result<(), HttpError> {
    let invalid = |name: &str| {
        let shown: String = name.chars().take(100).collect();
        HttpError::Invalid(format!("header {shown:?} is not one that a module may send"))
    };
    for Header { name, value } in headers {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(&name))?;
        if OF_THE_NODE.contains(&parsed) {
            return Err(invalid(&name));
        }
        let value = HeaderValue::from_bytes(&value).map_err(|_| invalid(&name))?;
        to.append(parsed, value);
    }
    let host = HeaderValue::from_str(&target.header()).map_err(|_| invalid("host"))?;
    to.insert(HOST, host);
    to.insert(CONNECTION, HeaderValue::from_static("close"));
    to.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    Ok(())
}

/// Why there is no response on a connection.
enum Talk {
    TooLarge,
    Broken(String),
}

/// One request and its response.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Full<Bytes>>,
    limits: RequestLimits,
) -> Result<HttpResponse, Talk> {
    let broken = |error: hyper::Error| Talk::Broken(chain(&error));
    let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let headers: Vec<Header> = head
            .headers
            .iter()
            .map(|(name, value)| Header {
                name: name.as_str().to_owned(),
                value: value.as_bytes().to_vec(),
            })
            .collect();
        let bytes: usize = headers.iter().map(|h| h.name.len() + h.value.len()).sum();
        let room = limits.response_bytes.checked_sub(bytes).ok_or(Talk::TooLarge)?;
        let body = Limited::new(body, room).collect().await.map_err(|error| match error
            .is::<LengthLimitError>(
        ) {
            true => Talk::TooLarge,
            false => Talk::Broken(chain(&*error)),
        })?;
        let body = body.to_bytes().to_vec();
        Ok(HttpResponse { status: head.status.as_u16(), headers, body })
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // What is wrong with the connection is told to the exchange, too; one that ended well may
        // have left the end of the response with it.
        _ = connection => exchange.await,
    }
}

/// An error with what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> HttpRequest {
        let header = Header { name: "x-id".into(), value: b"1".to_vec() };
        HttpRequest {
            method: "POST".into(),
            url: url.into(),
            headers: vec![header],
            body: b"{}".to_vec(),
        }
    }

    fn outgoing(host: &str) -> Outgoing {
        Outgoing::new(HttpGrant::of(host).unwrap(), SystemTrust::default()).unwrap()
    }

    /// Goal: what is not granted is refused with the flag that grants it, however the URL is
    /// written, and nothing that is no request gets through.
    #[test]
    fn refused() {
        let outgoing = outgoing("example.com");
        let check = |url: &str| outgoing.check(request(url)).map(|_| ());
        for right in
            ["http://example.com", "https://example.com:443/a?b=c", "http://example.com:80/"]
        {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for (other, flag) in [
            ("https://example.org/", "--allow-http example.org:443"),
            ("http://example.com:8080/", "--allow-http example.com:8080"),
            ("http://127.0.0.1/", "--allow-http 127.0.0.1:80"),
            ("https://[::1]/", "--allow-http [::1]:443"),
            (
                concat!("https://", "example.com.example.org/"),
                "--allow-http example.com.example.org:443",
            ),
        ] {
            let Err(HttpError::NotAllowed(message)) = check(other) else { panic!("{other}") };
            assert!(message.ends_with(flag), "{message}");
        }
        for wrong in [
            "",
            "/",
            "example.com",
            "ftp://example.com/",
            "http://example.com@example.org/",
            "http://user:secret@example.com/",
            "http://exa mple.com/",
            "http://example.com\\@example.org/",
        ] {
            assert!(matches!(check(wrong), Err(HttpError::Invalid(_))), "{wrong}");
        }
    }

    /// Goal: a module cannot say how its message travels, nor smuggle a second one.
    #[test]
    fn headers() {
        let outgoing = outgoing("example.com");
        let with = |name: &str, value: &[u8]| {
            let header = Header { name: name.into(), value: value.to_vec() };
            outgoing.check(HttpRequest { headers: vec![header], ..request("http://example.com/") })
        };
        let (_, sent) = with("content-type", b"application/json").unwrap();
        assert_eq!(sent.headers()[HOST], "example.com");
        assert_eq!(sent.headers()[USER_AGENT], AGENT);
        for (name, value) in [
            ("Host", &b"example.org"[..]),
            ("transfer-encoding", b"chunked"),
            ("content-length", b"0"),
            ("x", b"1\r\nx: 2"),
            ("x y", b"1"),
            ("", b"1"),
        ] {
            assert!(matches!(with(name, value), Err(HttpError::Invalid(_))), "{name}");
        }
        let long = vec![b'x'; HEAD_BYTES_MAX];
        assert!(matches!(with("x", &long), Err(HttpError::Invalid(_))));
        let connect = HttpRequest { method: "CONNECT".into(), ..request("http://example.com/") };
        assert!(matches!(outgoing.check(connect), Err(HttpError::Invalid(_))));
    }
}
