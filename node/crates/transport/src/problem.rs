//! What can be wrong with a certificate, and why a peer refused ours, in words for a person.
//!
//! TLS reports a failure as an alert number to one side and a library error to the other. Both
//! are translated here, once, so that the log of the node and the error of the client say the
//! same thing about the same failure.

use std::fmt;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;
use time::OffsetDateTime;
use time::macros::format_description;

/// What was wrong with the certificate that the peer presented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// Its validity ended before now.
    #[error("it expired on {at}, and the clock here says {now}")]
    Expired {
        /// End of its validity.
        at: Instant,
        /// The time it was checked against.
        now: Instant,
    },
    /// Its validity begins after now.
    #[error("it is not valid before {from}, and the clock here says {now}")]
    NotYetValid {
        /// Begin of its validity.
        from: Instant,
        /// The time it was checked against.
        now: Instant,
    },
    /// No trusted certificate authority signed it.
    #[error("it was not issued by a certificate authority that is trusted here")]
    UntrustedIssuer,
    /// It names a trusted authority as its issuer, but that authority's key did not sign it.
    #[error("its signature does not match the certificate authority that is trusted here")]
    BadSignature,
    /// It is not for the name that was asked for.
    #[error("it is for {presented}, not for {expected}")]
    WrongName {
        /// The name that was asked for.
        expected: String,
        /// The names it holds.
        presented: String,
    },
    /// Its extended key usage does not allow this role.
    #[error("it may not be used as a {role} certificate")]
    WrongPurpose {
        /// `client` or `server`.
        role: &'static str,
    },
    /// It names no principal that could be given rights.
    #[error("it names nobody: {0}")]
    NoPrincipal(String),
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl CertificateProblem {
    /// Translates rustls's error about a certificate presented in the given role.
    pub(crate) fn from_rustls(error: &rustls::Error, role: &'static str) -> Self {
        let rustls::Error::InvalidCertificate(error) = error else {
            return Self::Other(error.to_string());
        };
        match error {
            CertificateError::ExpiredContext { time, not_after } => {
                Self::Expired { at: Instant::from(*not_after), now: Instant::from(*time) }
            }
            CertificateError::NotValidYetContext { time, not_before } => {
                Self::NotYetValid { from: Instant::from(*not_before), now: Instant::from(*time) }
            }
            CertificateError::UnknownIssuer => Self::UntrustedIssuer,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                expected: expected.to_str().into_owned(),
                presented: presented.join(", "),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongPurpose { role }
            }
            CertificateError::BadEncoding => Self::Malformed("not a valid certificate".into()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// A point in time, shown in UTC to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(OffsetDateTime);

impl Instant {
    /// The same point for the `time` crate.
    pub fn as_date_time(self) -> OffsetDateTime {
        self.0
    }
}

impl From<UnixTime> for Instant {
    fn from(time: UnixTime) -> Self {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Self(OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    }
}

impl From<OffsetDateTime> for Instant {
    fn from(time: OffsetDateTime) -> Self {
        Self(time)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
        match self.0.format(&format) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{} s after 1970", self.0.unix_timestamp()),
        }
    }
}

/// Why the peer broke off the TLS handshake: what its alert means for us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It wants a client certificate and got none.
    #[error("this listener requires a client certificate: pass --cert and --key")]
    CertificateRequired,
    /// It found our certificate expired or not yet valid.
    #[error("our certificate has expired, or is not valid yet, by the clock of the peer ({said})")]
    CertificateExpired {
        /// The peer's own words.
        said: String,
    },
    /// It does not trust the authority that issued our certificate.
    #[error("the peer does not trust our certificate: another certificate authority issued it")]
    UntrustedIssuer,
    /// Our certificate is not one for this role.
    #[error("our certificate is not meant for this use: a client needs a client certificate")]
    WrongPurpose,
    /// It rejected our certificate for another reason.
    #[error("the peer rejected our certificate ({said})")]
    CertificateRejected {
        /// The peer's own words.
        said: String,
    },
    /// It does not speak this protocol.
    #[error("the peer does not speak `weir/1`")]
    NoCommonProtocol,
    /// Any other alert.
    #[error("the TLS handshake failed with alert {alert} ({said})")]
    Handshake {
        /// The TLS alert, RFC 8446 section 6.
        alert: u8,
        /// The peer's own words.
        said: String,
    },
}

impl Refusal {
    /// Translates a TLS alert (RFC 8446 section 6) that the peer sent.
    pub(crate) fn from_alert(alert: u8, said: String) -> Self {
        match alert {
            116 => Self::CertificateRequired,
            45 => Self::CertificateExpired { said },
            // An authority of the same name with another key fails the signature check instead.
            48 | 51 => Self::UntrustedIssuer,
            43 => Self::WrongPurpose,
            41 | 42 | 44 | 46 | 49 => Self::CertificateRejected { said },
            120 => Self::NoCommonProtocol,
            alert => Self::Handshake { alert, said },
        }
    }
}
