//! Where a consumer may send requests over HTTP. Pure.
//!
//! Nothing is allowed that is not named: hosts exactly, each with its ports. Names are compared as
//! they are written, before they are resolved.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a consumer is granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGrant {
    /// The hosts that requests may go to.
    pub allow: Vec<AllowedHost>,
    /// How long one request may take, in milliseconds.
    #[serde(default = "timeout_ms_default")]
    pub timeout_ms: u32,
    /// Certificates of authorities in PEM, in place of the system's; for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

fn timeout_ms_default() -> u32 {
    limits::HTTP_TIMEOUT_MS_DEFAULT
}

/// A host, and the port that is allowed there. Written `HOST` or `HOST:PORT`, an IPv6 address in
/// brackets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowedHost {
    /// A name in lower case, or an address; IPv6 in brackets.
    host: String,
    /// `None`: 80 for `http`, 443 for `https`.
    port: Option<u16>,
}

/// Why hosts, a timeout or certificates are not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpGrantError {
    /// Not a host.
    #[error("`{0}` is not HOST or HOST:PORT: give a host's name or address, without http:// or /")]
    Host(String),
    /// Too many hosts, or none.
    #[error("1 to {} hosts may be allowed", limits::HTTP_HOSTS_MAX)]
    Hosts,
    /// A timeout out of bounds.
    #[error("the timeout of a request is 1 ms to {} s", limits::HTTP_TIMEOUT_MS_MAX / 1000)]
    Timeout,
    /// Certificates without end.
    #[error("the certificates take more than {} bytes", limits::HTTP_CA_BYTES_MAX)]
    Ca,
}

impl HttpGrant {
    /// A grant for one host, with the default timeout.
    ///
    /// # Errors
    /// [`HttpGrantError::Host`].
    pub fn of(host: &str) -> Result<HttpGrant, HttpGrantError> {
        Ok(HttpGrant { allow: vec![host.parse()?], timeout_ms: timeout_ms_default(), ca_pem: None })
    }

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`HttpGrantError`].
    pub fn check(&self) -> Result<(), HttpGrantError> {
        if !(1..=limits::HTTP_HOSTS_MAX).contains(&self.allow.len()) {
            return Err(HttpGrantError::Hosts);
        }
        if !(1..=limits::HTTP_TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            return Err(HttpGrantError::Timeout);
        }
        if self.ca_pem.as_ref().is_some_and(|pem| pem.len() > limits::HTTP_CA_BYTES_MAX) {
            return Err(HttpGrantError::Ca);
        }
        Ok(())
    }

    /// Whether a request to `host` (as in a URL) and `port` may be sent.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16, https: bool) -> bool {
        let default = if https { 443 } else { 80 };
        let allowed = |one: &AllowedHost| {
            one.host.eq_ignore_ascii_case(host) && one.port.unwrap_or(default) == port
        };
        self.allow.iter().any(allowed)
    }
}

impl FromStr for AllowedHost {
    type Err = HttpGrantError;

    fn from_str(text: &str) -> Result<AllowedHost, HttpGrantError> {
        let wrong = || HttpGrantError::Host(text.chars().take(limits::NAME_BYTES_MAX).collect());
        // The colons of an IPv6 address are in brackets.
        let (host, port) = match text.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            None => (text, None),
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or_else(wrong)?))
            }
        };
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let right = match address {
            Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
            None => host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
        };
        if host.is_empty() || host.len() > limits::NAME_BYTES_MAX || !right {
            return Err(wrong());
        }
        Ok(AllowedHost { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for AllowedHost {
    type Error = HttpGrantError;

    fn try_from(text: String) -> Result<AllowedHost, HttpGrantError> {
        text.parse()
    }
}

impl From<AllowedHost> for String {
    fn from(host: AllowedHost) -> String {
        host.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a host allows itself and nothing else, with the default ports or its own.
    #[test]
    fn exact_hosts() {
        let allows = |allowed: &str, host, port, https| {
            HttpGrant::of(allowed).unwrap().allows(host, port, https)
        };
        for (allowed, host, port, https, wanted) in [
            ("example.com", "example.com", 443, true, true),
            ("Example.com", "EXAMPLE.com", 80, false, true),
            ("example.com", "example.com", 443, false, false),
            ("example.com", "example.com", 8080, false, false),
            ("example.com", "www.example.com", 443, true, false),
            ("example.com", "example.com.evil.org", 443, true, false),
            ("example.com:8443", "example.com", 8443, true, true),
            ("example.com:8443", "example.com", 443, true, false),
            ("[::1]:9000", "[::1]", 9000, false, true),
            ("127.0.0.1", "127.0.0.1", 80, false, true),
            ("127.0.0.1", "localhost", 80, false, false),
        ] {
            assert_eq!(allows(allowed, host, port, https), wanted, "{allowed} {host}:{port}");
        }
        for wrong in
            ["", "http://a", "a/b", "a b", "a:", "a:0", "a:99999", "::1", "[::1", "*", "a@b"]
        {
            assert!(wrong.parse::<AllowedHost>().is_err(), "{wrong}");
        }
    }

    /// Goal: a grant is written and read as a person writes it, and its bounds hold.
    #[test]
    fn bounds() {
        let grant = HttpGrant::of("example.com:8443").unwrap();
        assert_eq!(grant.allow[0].to_string(), "example.com:8443");
        assert_eq!(grant.check(), Ok(()));
        let none = HttpGrant { allow: vec![], ..grant.clone() };
        assert_eq!(none.check(), Err(HttpGrantError::Hosts));
        let timeout_ms = limits::HTTP_TIMEOUT_MS_MAX + 1;
        let long = HttpGrant { timeout_ms, ..grant.clone() };
        assert_eq!(long.check(), Err(HttpGrantError::Timeout));
        let ca_pem = Some("x".repeat(limits::HTTP_CA_BYTES_MAX + 1));
        assert_eq!(HttpGrant { ca_pem, ..grant }.check(), Err(HttpGrantError::Ca));
    }
}
